"""The benchmarks of whole links, with all that these do beside requests: ``link``, ``idle``, ``recovery``, ``spread``.

What is done for them is in ``jobs`` (``link``), ``resting``, ``recovery`` and ``echoes``. Where a machine is busy with
other things, the processor's time says more than the clock; both are told.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from tests.benchmarks import echoes, harness, jobs, peers, resting
from tests.benchmarks.harness import BARE, HTTPX, OURS
from tests.benchmarks.studies import Begun, Figure, Study

_PROBE: Final = 2000
_STREAMS: Final = 10_000


@contextmanager
def _requests(seconds: float) -> Iterator[Begun]:
    with peers.nghttpd() as port:

        def take(variant: str, requests: int) -> dict[str, float]:
            return harness.figures(variant, "link", port, requests)

        # Each variant has as much work as fills its time.
        rates = {variant: take(variant, _PROBE)["rate"] for variant in (BARE, OURS, HTTPX)}
        terms = f"about {seconds:g} s a run; {BARE} again and recorded runs as much as their models"
        models = {harness.NOISE: BARE, harness.RECORDED: OURS}
        yield Begun(lambda variant: take(variant, int(rates[models.get(variant, variant)] * seconds)), terms)


def _resting(role: str) -> Callable[[float], AbstractContextManager[Begun]]:
    @contextmanager
    def begun(seconds: float) -> Iterator[Begun]:
        def take(variant: str) -> dict[str, float]:
            with harness.server(BARE, "idle-server") as port:
                return harness.figures(variant, role, port, max(1, round(seconds)))

        yield Begun(take, f"{resting.LINKS:,} links, a connection each, for {max(1, round(seconds))} s")

    return begun


@contextmanager
def _restarts(seconds: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        # At any time between two attempts.
        return _recovery("restart", seconds * random.uniform(0.5, 1.5))

    yield Begun(take, f"SIGKILL, and the same port again after {seconds / 2:g} to {seconds * 1.5:g} s and its start")


@contextmanager
def _failovers(_: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        found = {}
        for connections in (1, 2):
            for name, value in _recovery("failover", connections).items():
                found[f"{name}, {connections}"] = value
        return found

    yield Begun(take, "SIGKILL of one of two servers; the requests of the next second; links of 1 and of 2 connections")


def _recovery(job: str, amount: float) -> dict[str, float]:
    found: dict[str, float] = json.loads(harness.output(harness.module("recovery", job, str(amount))))
    return found


@contextmanager
def _spread(_: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        with harness.server(BARE, "echo-server") as port:
            return harness.figures(variant, "spread", port, _STREAMS)

    terms = (
        f"{_STREAMS:,} streams, up to {jobs.STREAMS} a connection; early: {echoes.EARLY} after the first {echoes.FEW}"
    )
    yield Begun(take, f"{terms}; late: the last {echoes.LATE * _STREAMS:,.0f}")


_RESTING = (
    Figure("cpu", "% of a core", bar=1, alone=True, factor=100, digits=2),
    Figure("memory", "bytes/link", alone=True),
    Figure("growth", "bytes/link meanwhile", bar=256, alone=True),
)

ALL = (
    Study(
        name="link",
        work=f"{jobs.CALLERS} concurrent callers through a whole link on one connection to nghttpd, 12-byte bodies",
        figures=(
            Figure("rate", "requests/s", bar=0.8, least=True, rivals={HTTPX: 5}, digits=0),
            Figure("cpu", "microseconds of CPU/request", factor=1e6, digits=1),
        ),
        open=_requests,
        variants=(BARE, OURS, HTTPX),
    ),
    Study(
        name="idle:quiet",
        work="links that nobody uses, with their default health",
        figures=_RESTING,
        open=_resting("rest"),
        seconds=60,
        pairs=3,
    ),
    Study(
        name="idle:pinging",
        work=f"links that nobody uses, which send a PING every {resting.INTERVAL:g} s (Health.fast())",
        figures=_RESTING,
        open=_resting("rest-pinging"),
        seconds=60,
        pairs=3,
    ),
    Study(
        name="recovery:restart",
        work="a link whose only server is killed and started again",
        figures=(
            Figure("outage", "seconds", alone=True, digits=2),
            Figure("attempts", "failed meanwhile", alone=True),
            Figure("step", "seconds of backoff under way", alone=True, digits=2),
            Figure("ready", "seconds after it listens", alone=True, digits=2),
            Figure("of the step", "steps", bar=1, alone=True, always=True, digits=2),
            Figure("reply", "seconds after it listens", alone=True, digits=2),
        ),
        open=_restarts,
        variants=(OURS,),
    ),
    Study(
        name="recovery:failover",
        work="a link to two servers of which one is killed",
        figures=tuple(
            Figure(f"{name}, {connections}", "ms", bar=1000 if name == "p99" else None, alone=True,
                   always=True, factor=1e3, digits=1)
            for connections in (1, 2) for name in ("p50", "p99", "worst")
        ),
        open=_failovers,
        variants=(OURS,),
    ),
    Study(
        name="spread",
        work="one more long-lived stream of a link, opened and one message echoed by a bare server",
        figures=(
            Figure("early", "microseconds of CPU/stream", factor=1e6, digits=0),
            Figure("late", "microseconds of CPU/stream", factor=1e6, digits=0),
            Figure("early collector", "of them of the garbage collector", factor=1e6, beyond=True),
            Figure("late collector", "of them of the garbage collector", factor=1e6, beyond=True),
            Figure("growth", "late / early", bar=1.3, alone=True, digits=2),
        ),
        open=_spread,
        pairs=5,
    ),
)  # fmt: skip
