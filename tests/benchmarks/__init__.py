"""How fast muxlink is, as a ratio to a bare h2 asyncio loop that does the same job.

    python -m tests.benchmarks NAME [--json] [--pairs N] [--seconds S] [--recorder] [--noise]

Rules:
- Only ratios count. Each pair runs the bare loop and ours in turn (the order alternates from pair to pair), against the
  same peer within seconds; the figure of a benchmark is the median of its pairs' ratios. ``--noise`` runs the bare loop
  once more in each pair: how far its ratio to itself is from 1 is how far to trust the others. On a noisy machine many
  short pairs tell more than few long ones (``--pairs 21 --seconds 1``), and so does the ratio of the best figures,
  which stands beside the median.
- What is measured runs in a process of its own, fresh for each run, and is the only busy Python process meanwhile.
- The bare loop is as good as a short loop can be; it takes no safety from h2 and adds none (see ``loops``).
- Ours runs with its default settings, through the interface that users have, but for the flight recorder: it is off, so
  that its cost does not hide what else has changed. ``--recorder`` measures ours with it as well, beside ours without
  it, and ``trace`` says what it costs.
- A failed request, a wrong status or a missing byte ends the benchmark: a rate of failures is no figure.

Peers, all in C, all from Debian's nghttp2-client and nghttp2-server, and each faster than anything that h2 in Python
does with it:
- ``server``, ``server-download``, ``server-upload``: h2load, by its own clock. It reads through 1 MiB windows, and
  uploads a file (``-d``).
- ``client``, ``download``: nghttpd, which serves 12 bytes (120,000 times a second) and 200 MB (1,200 MB/s through a
  1 MiB window) from a temporary directory.
- ``upload``: nghttpd with 1 MiB windows, which throws a POST's body away at 1,100 MB/s.

- ``tls``: the six above over TLS, with the peers' own and, on our side and the bare one, the standard library's.

Studies take several figures of one run, some with a bar that they must meet; their peers are the bare loop where none
in C would do:
- ``streams``: what 10,000 open, idle streams cost beyond the bare loop (8 KiB a stream), for a server and for clients.
- ``latency``: percentiles at the same rate for both (p99 at most twice the bare loop's), for a server and a client.
- ``link``: 50 callers through a whole link, with somebody who looks at its figures each second (at least 0.8 of the
  bare loop's rate, and 5 times that of httpx).
- ``idle``: 1,000 links that nobody uses, with and without PINGs, for 60 s: the processor's time (at most 1 % of a
  core), bytes a link, and by how much these grow.
- ``recovery``: SIGKILL of a server: READY within one wait of the backoff once it listens again; and with a second
  server, the latencies of the next second (p99 at most 1 s). There is no bare loop beside it.
- ``spread``: 10,000 long-lived streams of one link, and what one more costs (at most 1.3 of what it does behind 100).
- ``workers``, ``accept``, ``reload``, ``start``: ``muxlink serve`` and its processes, beside the same server by itself
  (``--workers 0``): h2load's requests for each CPU second of a worker (at least 0.95), and how 40 links spread over 4
  workers (within 1); connections a second through the parent (at least 0.5); SIGHUP every 3 s for 20 s (nothing failed
  or refused, p99 at most 5 times, no more processes and memory than of one more worker); from exec to READY, beside
  the start of Python, and what is imported until then.
- ``trace``: the flight recorder, which is on by default, beside the same without it: a server's requests a second and
  for each CPU second (at least 0.9); the tests of its flag in a server where it is off (at most 2 % of a request, as
  far as that can be had, see ``traces``); the memory of 1,000 links and a server whose ring is full (at most its 16 MiB
  and a twentieth more).
- ``aioh2:server``, ``aioh2:client``: one program in aioh2's manner, run with aioh2 0.2.3 and with our interface of its
  name; 1, 10 and 100 requests at a time on one connection, with h2load and nghttpd (at least 1.2 times the rate). The
  old library is installed by pip into an environment of its own, with the newest h2 that it takes, 3.2.0; a connection
  has 900 requests, because a thousand end aioh2's.
- ``hyper``: 8 threads that share one HTTP20Connection, beside httpx's blocking client over HTTP/2, shared and one for
  each thread (at least twice the rate of either). The shared one is not safe: how often it failed is told beside.
- ``flood``: hostile clients against our server, and a bystander's latency; it has no pairs, and nothing beside it. Its
  figures hold for one machine; what matters is its bars. ``flood:ATTACK`` runs one, as ``tls:client`` runs a part.

Map: ``__main__`` (arguments), ``suite`` (the benchmarks), ``harness`` (pairs, processes), ``report`` (tables, JSON),
``peers`` (nghttpd, h2load), ``jobs`` (the work, timed alike for both), ``bare`` and ``ours`` (the same roles twice),
``loops`` and ``talks`` (the bare loop), ``rival`` (httpx), ``mailboxes``, ``certificates``; ``studies`` (several
figures a run), ``streams`` and what is done for it in ``idle``, ``latency``; ``links`` (whole links), and what is done
for it in ``resting``, ``echoes`` and ``recovery`` (a program); ``processes`` (servers of several), ``parents`` (one
such), ``served`` (its handler), ``reloads``, ``knocking`` and ``visitors`` (programs); ``traces``, and what is done for
it in ``recorded`` (a program); ``faces``, and what is done for it in ``environments``, ``greetings`` and ``threads``
(programs); ``flood``, ``attacks`` (their
frames), ``attacker`` and ``bystander`` (programs).
"""
