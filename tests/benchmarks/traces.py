"""The benchmark ``trace``: what the flight recorder costs, and what is left of its cost where it is off.

What stands beside ours with the recorder is ours without it, and no bare loop. The recorder is on by default; the other
benchmarks measure without it, unless they are asked for both (``--recorder``).

What tracing costs that is off cannot be had by comparison: there is no muxlink without its tests of ``Tracer.on``. What
can be had is how many of them a server makes for a request, what one of them takes in a loop of its own, and what both
come to of a request's time. It leaves out what they do to caches and to the interpreter.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from attrs import define, field

from tests.benchmarks import harness, jobs, parents, peers, recorded
from tests.benchmarks.harness import OURS, RECORDED, Failed
from tests.benchmarks.studies import Begun, Figure, Study

_WARM: Final = 5000
"""Requests after which the ring is full, and each event that comes makes another go."""
_BURST: Final = 2000


def _ask(port: int, requests: int) -> float:
    load = peers.h2load(port, jobs.HELLO_PATH, requests, at_a_time=jobs.STREAMS, body=len(jobs.HELLO))
    return load.requests_per_second


@define
class _Served:
    """What a server did in its bursts."""

    pid: int
    port: int
    rates: list[float] = field(factory=list)
    cpu: float = 0.0

    def burst(self) -> None:
        before = parents.cpu([self.pid])
        self.rates.append(_ask(self.port, _BURST))
        self.cpu += parents.cpu([self.pid]) - before

    @property
    def cost(self) -> float:
        """Seconds of the processor for a request."""
        return self.cpu / len(self.rates) / _BURST


def _in_turn(seconds: float, *variants: str) -> list[_Served]:
    """Let servers serve bursts of requests, one after the other, so that a machine's slow seconds are those of all."""
    with ExitStack() as stack:
        servers = []
        for variant in variants:
            process, port = stack.enter_context(harness.serving(variant, "hello-server"))
            servers.append(_Served(process.pid, port))
            _ask(port, _WARM)
        order = servers.copy()
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            for server in order:
                server.burst()
            order.reverse()
    return servers


@contextmanager
def _server(seconds: float) -> Iterator[Begun]:
    def take(_: str) -> dict[str, float]:
        off, on = _in_turn(seconds, OURS, RECORDED)
        shares = [with_it / without for without, with_it in zip(off.rates, on.rates, strict=True)]
        return {
            "off": statistics.median(off.rates),
            "on": statistics.median(on.rates),
            "on / off": statistics.median(shares),
            "cpu, off": off.cost,
            "cpu, on": on.cost,
            "cpu, off / on": off.cost / on.cost,
        }

    bursts = f"bursts of {_BURST:,} requests, to one server and the other in turn, for {seconds:g} s"
    yield Begun(take, f"one connection, {jobs.STREAMS} streams at a time, 12-byte bodies; {bursts}")


@contextmanager
def _off(seconds: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        (off,), counted = _in_turn(seconds, variant), _recorded("flags")
        return {**counted, "cpu": off.cost, "share": counted["tests"] * counted["test"] / off.cost}

    yield Begun(take, f"counted in one process; the time of a request with h2load, for {seconds:g} s")


@contextmanager
def _memory(_: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        found = _recorded("memory", "on" if variant == RECORDED else "off")
        if (variant == RECORDED) is not (found["dropped"] > 0):
            raise Failed(f"the ring of {variant} dropped {found['dropped']:g} events")
        return found

    links = f"{recorded.LINKS:,} links and their server in one process, {recorded.REQUESTS} requests each"
    yield Begun(take, f"{links}; a ring of {recorded.RING // jobs.MIB} MiB")


def _recorded(*arguments: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(harness.output(harness.module("recorded", *arguments)))
    return found


_MICROSECONDS: Final = 1e6
_MIB: Final = 1 / jobs.MIB

ALL = (
    Study(
        name="trace:server",
        work="h2load against a server, without its flight recorder and with it",
        figures=(
            Figure("off", "requests/s, median of the bursts", alone=True),
            Figure("on", "the same with the recorder", alone=True),
            Figure(
                "on / off",
                "of the requests/s, median of the pairs of bursts",
                bar=0.9,
                alone=True,
                least=True,
                digits=3,
            ),
            Figure("cpu, off", "microseconds of CPU/request", alone=True, factor=_MICROSECONDS, digits=1),
            Figure("cpu, on", "the same with the recorder", alone=True, factor=_MICROSECONDS, digits=1),
            Figure("cpu, off / on", "of all bursts", bar=0.9, alone=True, least=True, digits=3),
        ),
        open=_server,
        variants=(RECORDED,),
        ours=(RECORDED,),
        seconds=20,
        pairs=5,
    ),
    Study(
        name="trace:off",
        work="the tests of a flag in a server whose tracing is off",
        figures=(
            Figure("tests", "of the flag/request", alone=True, digits=1),
            Figure("test", "microseconds of CPU/test", alone=True, factor=_MICROSECONDS, digits=3),
            Figure("cpu", "microseconds of CPU/request", alone=True, factor=_MICROSECONDS, digits=1),
            Figure("share", "% of a request", bar=2, alone=True, factor=100, digits=2),
        ),
        open=_off,
        variants=(OURS,),
        pairs=3,
    ),
    Study(
        name="trace:memory",
        work="links and a server with a ring that is full, and the same without it",
        figures=(
            Figure("resident", "MiB", bar=recorded.RING * _MIB * 1.05, beyond=True, factor=_MIB, digits=2),
            Figure("counted", "MiB, as the ring counts them", alone=True, factor=_MIB, digits=2),
            Figure("events", "in the ring", alone=True),
            Figure("dropped", "events", alone=True),
        ),
        open=_memory,
        variants=(OURS, RECORDED),
        ours=(RECORDED,),
        pairs=3,
    ),
)
