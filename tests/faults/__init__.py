"""Real faults: real sockets, processes and network namespaces that fail on command, and what links make of it."""
