"""Real faults: real sockets, processes and network namespaces that fail on command, and what links make of it.

``python -m tests.faults`` prints the fault table, and ``python -m tests.faults.soak --seed N --minutes M`` puts a link
among random faults. From the bottom up:

- ``proxy``, ``processes`` (with ``handler``, what they serve) and ``network`` are what fails;
- ``witness`` asks a link and watches it, in this process or on another host;
- ``report`` is what a fault did, and its bounds; ``stage`` is where it is acted out, ``scenes`` has the faults;
- ``ledger`` and ``soak`` hold very many requests to what the servers have written down.
"""
