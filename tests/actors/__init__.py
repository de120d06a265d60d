"""Tests of the package ``actors``, a module for each of its modules."""
