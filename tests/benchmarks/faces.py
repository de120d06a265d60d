"""The benchmarks of the seeds' own interfaces: ``aioh2:server``, ``aioh2:client``, ``hyper``.

The same program runs with aioh2 0.2.3, in an environment of its own with the h2 of its time, and with ours; hyper's
interface stands beside httpx, the blocking client that speaks HTTP/2 today.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.benchmarks import environments, greetings, harness, peers
from tests.benchmarks.harness import OURS
from tests.benchmarks.studies import Begun, Figure, Study

OLD: Final = "aioh2 0.2.3"
HTTPX_ONE: Final = "httpx, 1 client"
HTTPX_EACH: Final = "httpx, 8 clients"
_LIBRARIES: Final = {OLD: "aioh2", OURS: "supervisor.adapters.aioh2"}
_LEVELS: Final = (1, 10, 100)
"""Requests at a time, on one connection."""
_TERMS: Final = f"{greetings.PER_CONNECTION} requests a connection, one connection after the other"


def _level(requests: int) -> str:
    return f"{requests} at a time"


@contextmanager
def _commands() -> Iterator[dict[str, list[str]]]:
    """How the program is run with each library."""
    with environments.python_with(environments.OLD_AIOH2) as python:
        programs = {OLD: python, OURS: sys.executable}
        yield {name: [programs[name], "-m", greetings.__name__, library] for name, library in _LIBRARIES.items()}


@contextmanager
def _aioh2_server(seconds: float) -> Iterator[Begun]:
    with _commands() as commands:

        def take(variant: str) -> dict[str, float]:
            with harness.listening([*commands[variant], "server"]) as (_, port):
                _h2load(port, 1, at_a_time=max(_LEVELS))
                return {_level(each): _h2load(port, seconds / len(_LEVELS), at_a_time=each) for each in _LEVELS}

        yield Begun(take, _TERMS)


def _h2load(port: int, seconds: float, *, at_a_time: int) -> float:
    took, done = 0.0, 0
    while took < seconds:
        load = peers.h2load(
            port, greetings.PATH, greetings.PER_CONNECTION, at_a_time=at_a_time, body=len(greetings.HELLO)
        )
        took += load.seconds
        done += greetings.PER_CONNECTION
    return done / took


@contextmanager
def _aioh2_client(seconds: float) -> Iterator[Begun]:
    with _commands() as commands, peers.nghttpd() as port:

        def take(variant: str) -> dict[str, float]:
            def rate(callers: int) -> float:
                command = [*commands[variant], "client", str(port), str(seconds / len(_LEVELS)), str(callers)]
                return float(harness.output(command))

            return {_level(each): rate(each) for each in _LEVELS}

        yield Begun(take, _TERMS)


@contextmanager
def _hyper(seconds: float) -> Iterator[Begun]:
    with peers.nghttpd() as port:

        def take(variant: str) -> dict[str, float]:
            found: dict[str, float] = json.loads(
                harness.output(harness.module("threads", variant, str(port), str(seconds)))
            )
            return found

        yield Begun(take, f"8 threads, about {seconds:g} s a run")


_RATES: Final = tuple(Figure(_level(each), "requests/s", bar=1.2, least=True) for each in _LEVELS)

ALL: Final = (
    Study(
        name="aioh2:server",
        work="a server in aioh2's manner and h2load, one connection, GET with a 12-byte body",
        figures=_RATES,
        open=_aioh2_server,
        variants=(OLD, OURS),
    ),
    Study(
        name="aioh2:client",
        work="a client in aioh2's manner and nghttpd, one connection, GET with a 12-byte body",
        figures=_RATES,
        open=_aioh2_client,
        variants=(OLD, OURS),
    ),
    Study(
        name="hyper",
        work="8 threads that share one HTTP20Connection to nghttpd, GET with a 12-byte body",
        figures=(
            Figure("rate", "requests/s", bar=2, least=True, rivals={HTTPX_EACH: 2}),
            Figure("cpu", "microseconds of CPU/request", factor=1e6, digits=1),
            Figure("failed", "requests", bar=0, alone=True, always=True),
        ),
        open=_hyper,
        variants=(HTTPX_ONE, HTTPX_EACH, OURS),
    ),
)
