"""The benchmark ``latency``: percentiles at a rate that both variants bear, with arrivals at fixed times.

The rate is the same for both: 70 % of the lower of the two highest rates, which are found first with 50 callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.benchmarks import harness, peers
from tests.benchmarks.harness import BARE, OURS
from tests.benchmarks.studies import Begun, Figure, Study

_SHARE = 0.7
_PROBE = 2000

_FIGURES = (
    Figure("p50", "microseconds", factor=1e6),
    Figure("p99", "microseconds", bar=2, factor=1e6),
)

Ask = Callable[[str, int], float]
Pace = Callable[[str, int, float], dict[str, float]]


def _begun(seconds: float, highest: Ask, paced: Pace) -> Begun:
    probed = {variant: highest(variant, _PROBE) for variant in (BARE, OURS)}
    found = {variant: highest(variant, max(_PROBE, int(seconds * rate))) for variant, rate in probed.items()}
    rate = _SHARE * min(found.values())
    terms = f"{rate:,.0f} requests/s: 70 % of the lower of {found[BARE]:,.0f} (bare) and {found[OURS]:,.0f} (ours)"
    return Begun(lambda variant: paced(variant, max(100, int(rate * seconds)), rate), terms)


@contextmanager
def _of_servers(seconds: float) -> Iterator[Begun]:
    def highest(variant: str, requests: int) -> float:
        with harness.server(variant, "hello-server") as port:
            return harness.client(BARE, "client", port, requests)

    def paced(variant: str, requests: int, rate: float) -> dict[str, float]:
        with harness.server(variant, "hello-server") as port:
            return harness.figures(BARE, "latency", port, requests, rate=rate)

    yield _begun(seconds, highest, paced)


@contextmanager
def _of_clients(seconds: float) -> Iterator[Begun]:
    with peers.nghttpd() as port:
        yield _begun(
            seconds,
            lambda variant, requests: harness.client(variant, "client", port, requests),
            lambda variant, requests, rate: harness.figures(variant, "latency", port, requests, rate=rate),
        )


ALL = (
    Study(
        name="latency:server",
        work="a bare client makes small requests at fixed times on one connection to a server",
        figures=_FIGURES,
        open=_of_servers,
    ),
    Study(
        name="latency:client",
        work="a client makes small requests at fixed times on one connection to nghttpd",
        figures=_FIGURES,
        open=_of_clients,
    ),
)
