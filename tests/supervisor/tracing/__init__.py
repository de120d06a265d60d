"""Tests of traces: what they are made of, kept as and drawn as."""
