"""Tests of the policy: what users hold, over real sockets."""
