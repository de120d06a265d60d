"""The benchmark ``streams``: see ``idle`` for what is done, this for who does it.

The bytes are those of the whole process, divided by the streams: what ours has beyond the bare loop's is also the code
that it has loaded, a few hundred bytes a stream. The callers on the client's side are tasks in both variants, since
they are the user's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.benchmarks import harness, idle
from tests.benchmarks.harness import BARE
from tests.benchmarks.studies import Begun, Figure, Study

_REQUESTS = 500
_FIGURES = (
    Figure("memory", "bytes/stream", bar=8192, beyond=True),
    Figure("one request", "microseconds of CPU", factor=1e6),
)
_TERMS = f"{idle.HELD:,} streams over {idle.CONNECTIONS + 1} connections; {_REQUESTS} requests, one after the other"


def _measured(side: str) -> AbstractContextManager[Begun]:
    @contextmanager
    def nothing() -> Iterator[Begun]:
        def take(variant: str) -> dict[str, float]:
            server, client = (variant, BARE) if side == "server" else (BARE, variant)
            with harness.server(server, "idle-server") as port:
                found = harness.figures(client, "idle", port, _REQUESTS)
            return {"memory": found[f"{side} bytes"], "one request": found[f"{side} cpu"]}

        yield Begun(take, _TERMS)

    return nothing()


ALL = (
    Study(
        name="streams:server",
        work="a server with open, idle streams of a bare client",
        figures=_FIGURES,
        open=lambda _: _measured("server"),
    ),
    Study(
        name="streams:client",
        work="clients with open, idle streams on a bare server, a connection each",
        figures=_FIGURES,
        open=lambda _: _measured("client"),
    ),
)
