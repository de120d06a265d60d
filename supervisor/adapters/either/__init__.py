"""Whichever HTTP the server speaks: the rooms behind :mod:`supervisor.adapters.hyper`."""
