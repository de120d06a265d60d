"""The benchmarks of a server of several processes: ``workers``, ``accept``, ``reload``, ``start``.

There is no bare loop beside them: what stands beside a parent with workers is the same server by itself
(``--workers 0``), and beside a start the start of Python. All are the command as users run it, with its defaults
(see ``parents``).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.benchmarks import harness, jobs, knocking, parents, peers, reloads, served, visitors
from tests.benchmarks.harness import ROOT, Failed
from tests.benchmarks.studies import Begun, Figure, Study

_ALONE: Final = "by itself"
_WORKERS: Final = {_ALONE: 0, "1 worker": 1, "2 workers": 2, "4 workers": 4}

# --- workers ----------------------------------------------------------------------------------------------------------

_CONNECTIONS: Final = 8
_AT_A_TIME: Final = 25
_PROBE: Final = 2000


def _load(parent: parents.Parent, requests: int) -> dict[str, float]:
    """What h2load, the parent and who serves used for so many requests."""
    serving, above = parent.serving(), [parent.process.pid]
    before, generator = (parents.cpu(serving), parents.cpu(above)), _children()
    load = peers.h2load(
        parent.port, jobs.HELLO_PATH, requests,
        connections=_CONNECTIONS, at_a_time=_AT_A_TIME, body=len(jobs.HELLO),
    )  # fmt: skip
    used = parents.cpu(serving) - before[0]
    return {
        "per second": load.requests_per_second,
        "per CPU second": requests / used if used else 0.0,
        "serving": used / requests,
        "parent": (parents.cpu(above) - before[1]) / requests if serving != above else 0.0,
        "generator": (_children() - generator) / requests,
    }


def _children() -> float:
    """Seconds of the processor that processes used which we started and which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _workers(seconds: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        with parents.parent(_WORKERS[variant]) as parent:
            rate = _load(parent, _PROBE)["per second"]
            return _load(parent, max(_PROBE, int(rate * seconds)))

    yield Begun(take, f"{_CONNECTIONS} connections, {_AT_A_TIME} streams at a time on each, about {seconds:g} s a run")


_SPREAD_OVER: Final = 4
_LINKS: Final = 40


@contextmanager
def _spread(_: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        with parents.parent(_SPREAD_OVER) as parent:
            served_by = _visitors("spread", parent.port, _LINKS)
        counts = [*served_by.values(), *[0] * (_SPREAD_OVER - len(served_by))]
        if sum(counts) != _LINKS:
            raise Failed(f"{_LINKS} links came, and {sum(counts):g} were served")
        return {"most": max(counts), "least": min(counts), "spread": max(counts) - min(counts)}

    yield Begun(take, f"{_LINKS} links, {_SPREAD_OVER} workers")


def _visitors(job: str, port: int, amount: float) -> dict[str, float]:
    found: dict[str, float] = json.loads(harness.output(harness.module("visitors", job, str(port), str(amount))))
    return found


# --- accept -----------------------------------------------------------------------------------------------------------

_WARM: Final = 0.3


@contextmanager
def _accept(seconds: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        with parents.parent(_WORKERS[variant]) as parent:
            _knock(parent.port, _WARM)
            serving, above = parent.serving(), [parent.process.pid]
            before = (parents.cpu(serving), parents.cpu(above))
            found = _knock(parent.port, seconds)
            used = parents.cpu(serving) - before[0]
            used_above = parents.cpu(above) - before[1] if serving != above else 0.0
            many = found["connections"]
            return {
                "per second": many / found["seconds"],
                "cpu": (used + used_above) / many,
                "of the parent": used_above / many,
                "of the client": found["cpu"] / many,
            }

    yield Begun(take, f"{knocking.AT_A_TIME} at a time, for {seconds:g} s")


def _knock(port: int, seconds: float) -> dict[str, float]:
    found: dict[str, float] = json.loads(harness.output(harness.module("knocking", str(port), str(seconds))))
    return found


# --- reload -----------------------------------------------------------------------------------------------------------

_RELOADED: Final = "reloaded"
_QUIET: Final = "left alone"
_ONE_MORE: Final = "one more"
_RELOADED_WORKERS: Final = 2
_SAME: Final = 1.05
"""How far two peaks of the same processes may be apart: from run to run they differ by some hundredths."""


@contextmanager
def _reload(seconds: float) -> Iterator[Begun]:
    def take(variant: str) -> dict[str, float]:
        workers = _RELOADED_WORKERS + (variant == _ONE_MORE)
        return reloads.run(workers, seconds, reloading=variant == _RELOADED)

    terms = (
        f"{_RELOADED_WORKERS} workers, and {_RELOADED_WORKERS + 1} ({_ONE_MORE}), for {seconds:g} s; "
        f"SIGHUP every {reloads.EVERY:g} s ({_RELOADED})\n"
        f"a link's {visitors.RATE} requests/s and {visitors.NEWCOMERS} newcomers/s at fixed times, and h2load meanwhile"
    )
    yield Begun(take, terms)


# --- start ------------------------------------------------------------------------------------------------------------

# What a server of HTTP/2 on asyncio cannot be without.
_FLOOR: Final = "import sys, asyncio, attrs, h2.connection, json, logging, ssl; print(*sys.modules)"


@contextmanager
def _start(_: float) -> Iterator[Begun]:
    floor = set(harness.output([sys.executable, "-c", _FLOOR]).split())
    with parents.parent(1) as parent:
        above = parent.modules() - {"__main__"}
        below = set(_asked(parent.port, served.MODULES_PATH).split()) - {"__main__"}
    counts = {}
    for name, found in (("parent", above), ("worker", below)):
        counts[f"{name}: all"] = len(found)
        counts[f"{name}: stdlib"] = len(_of_the_library(found))
        counts[f"{name}: beyond"] = len(_of_the_library(found - floor))

    def take(variant: str) -> dict[str, float]:
        with parents.parent(_WORKERS[variant]) as parent:
            used = parents.cpu([parent.process.pid, *parent.workers()])
            times = {"ready": parent.ready, "complete": parent.complete, "cpu": used}
        return {**times, "python": _timed("pass"), "h2": _timed("import h2.connection"), **counts}

    yield Begun(
        take,
        "beyond: modules of the standard library that asyncio, attrs, h2, json, logging and ssl do not bring\n"
        f"  parent: {_named(above - floor)}\n  worker: {_named(below - floor)}",
    )


def _timed(code: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.monotonic() - began


def _asked(port: int, path: str) -> str:
    return harness.output([sys.executable, "-m", "supervisor.cli", "request", f"http://127.0.0.1:{port}{path}"])


def _of_the_library(modules: set[str]) -> set[str]:
    return {each for each in modules if each.partition(".")[0] in sys.stdlib_module_names}


def _named(modules: set[str]) -> str:
    return " ".join(sorted(_of_the_library(modules))) or "none"


# ----------------------------------------------------------------------------------------------------------------------

_MICROSECONDS: Final = 1e6
_MILLISECONDS: Final = 1e3

ALL = (
    Study(
        name="workers:load",
        work="h2load against a server with workers and against one by itself, 12-byte bodies",
        figures=(
            Figure("per CPU second", "requests per CPU second of those who serve", bar=0.95, least=True),
            Figure("per second", "requests/s"),
            Figure("serving", "microseconds of CPU/request, of those who serve", factor=_MICROSECONDS, digits=1),
            Figure("parent", "the same, of their parent", beyond=True, factor=_MICROSECONDS, digits=1),
            Figure("generator", "the same, of h2load", factor=_MICROSECONDS, digits=1),
        ),
        open=_workers,
        variants=(_ALONE, "1 worker", "2 workers"),
        ours=("1 worker", "2 workers"),
    ),
    Study(
        name="workers:spread",
        work="long-lived links, one connection each, that come one after the other",
        figures=(
            Figure("most", "links of one worker", alone=True),
            Figure("least", "links of one worker", alone=True),
            Figure("spread", "links", bar=1, alone=True, always=True),
        ),
        open=_spread,
        variants=("4 workers",),
        ours=("4 workers",),
        pairs=3,
    ),
    Study(
        name="accept",
        work="connections that come, exchange SETTINGS and go: to a parent with a worker, and to a server by itself",
        figures=(
            Figure("per second", "connections/s", bar=0.5, least=True),
            Figure("cpu", "microseconds of CPU/connection, of the server", factor=_MICROSECONDS),
            Figure("of the parent", "of them of the parent", beyond=True, factor=_MICROSECONDS),
            Figure("of the client", "beside them, of the client", factor=_MICROSECONDS),
        ),
        open=_accept,
        variants=(_ALONE, "1 worker"),
        ours=("1 worker",),
    ),
    Study(
        name="reload",
        work="a server that reloads again and again under h2load, a link and newcomers",
        figures=(
            Figure("p50", "ms, of the link", factor=_MILLISECONDS, digits=1),
            Figure("p99", "ms, of the link", bar=5, factor=_MILLISECONDS, digits=1),
            Figure("worst", "ms, of the link", factor=_MILLISECONDS, digits=1),
            Figure("right", "requests of the link and of newcomers", alone=True),
            Figure("failed", "of theirs", bar=0, alone=True, always=True),
            Figure("refused", "connections", bar=0, alone=True, always=True),
            Figure("h2load", "requests of h2load", alone=True),
            Figure("h2load failed", "of its", bar=0, alone=True, always=True),
            Figure("h2load cut off", "of these by an error of the connection", alone=True),
            Figure("replaced", "workers", alone=True),
            Figure("processes", "workers at a time", bar=_RELOADED_WORKERS + 1, alone=True, always=True),
            Figure("memory", "MiB at the peak, of all", rivals={_ONE_MORE: _SAME}, factor=1 / jobs.MIB, digits=1),
        ),
        open=_reload,
        variants=(_QUIET, _RELOADED, _ONE_MORE),
        ours=(_RELOADED,),
        seconds=20,
        pairs=1,
    ),
    Study(
        name="start",
        work="from exec until a server serves",
        figures=(
            Figure("ready", "ms until READY: the first worker serves", alone=True, factor=_MILLISECONDS),
            Figure("complete", "ms until all workers serve", alone=True, factor=_MILLISECONDS),
            Figure("cpu", "ms of CPU of all processes until then", alone=True, factor=_MILLISECONDS),
            Figure("python", "ms of 'python -c pass'", alone=True, factor=_MILLISECONDS),
            Figure("h2", "ms of 'import h2.connection'", alone=True, factor=_MILLISECONDS),
            *(
                Figure(f"{who}: {what}", said, alone=True)
                for who in ("parent", "worker")
                for what, said in (("all", "modules"), ("stdlib", "of them of the library"), ("beyond", "of these"))
            ),
        ),
        open=_start,
        variants=("1 worker", "4 workers"),
        ours=("1 worker", "4 workers"),
    ),
)  # fmt: skip
