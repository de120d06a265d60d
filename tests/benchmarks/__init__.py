"""How fast muxlink is, as a ratio to a bare h2 asyncio loop that does the same job.

    python -m tests.benchmarks NAME [--json] [--pairs N] [--recorder]

Rules:
- Only ratios count. Each pair runs the bare loop and ours in turn (the order alternates from pair to pair), against the
  same peer within seconds; the figure of a benchmark is the median of its pairs' ratios. ``--noise`` runs the bare loop
  once more in each pair: how far its ratio to itself is from 1 is how far to trust the others. On a noisy machine many
  short pairs tell more than few long ones (``--pairs 21 --seconds 1``), and so does the ratio of the best figures,
  which stands beside the median.
- What is measured runs in a process of its own, fresh for each run, and is the only busy Python process meanwhile.
- The bare loop is as good as a short loop can be; it takes no safety from h2 and adds none (see ``bare``).
- Ours runs with its default settings, through the interface that users have.
- A failed request, a wrong status or a missing byte ends the benchmark: a rate of failures is no figure.

Peers, all in C, all from Debian's nghttp2-client and nghttp2-server, and each faster than anything that h2 in Python
does with it:
- ``server``, ``server-download``, ``server-upload``: h2load, by its own clock. It reads through 1 MiB windows, and
  uploads a file (``-d``).
- ``client``, ``download``: nghttpd, which serves 12 bytes (120,000 times a second) and 200 MB (1,200 MB/s through a
  1 MiB window) from a temporary directory.
- ``upload``: nghttpd with 1 MiB windows, which throws a POST's body away at 1,100 MB/s.

Map: ``__main__`` (arguments), ``suite`` (the benchmarks), ``harness`` (pairs, processes), ``report`` (tables, JSON),
``peers`` (nghttpd, h2load), ``jobs`` (the work, timed alike for both), ``bare`` and ``ours`` (the same roles twice),
``mailboxes``.
"""
