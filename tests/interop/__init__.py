"""Tests against HTTP/2 programs that muxlink's authors did not write, and against peers that do not speak it."""
