"""A fuzzer that needs nothing but the standard library: ``python -m tests.fuzz --help``."""
