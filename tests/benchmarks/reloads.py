"""What clients notice of a server that reloads, and what it uses meanwhile: one run of the benchmark ``reload``.

Three kinds of clients are there at the same time: a link with requests at fixed times and newcomers (see ``visitors``),
and h2load, one short run after the other. SIGHUP comes every ``EVERY`` seconds, whether or not the reload before is
over. Processes and their memory are looked at between the runs of h2load, about 15 times a second.
"""

from __future__ import annotations

import json
import math
import select
import signal
import subprocess
import sys
import time
from typing import Final

from attrs import define, field

from tests.benchmarks import jobs, parents, peers
from tests.benchmarks.harness import READY_SECONDS, Failed, module, running
from tests.benchmarks.parents import Parent

EVERY: Final = 3.0
_CONNECTIONS: Final = 5
_EACH: Final = 10
_PAUSE: Final = 0.1
_PATIENCE: Final = 30.0


@define
class _Watch:
    """What was seen of the processes, and of h2load."""

    parent: Parent
    first: set[int] = field(init=False)
    """The workers that it began with."""
    seen: set[int] = field(factory=set)
    most: int = 0
    memory: int = 0
    runs: list[peers.Account] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.first = set(self.parent.workers())

    def look(self) -> None:
        workers = self.parent.workers()
        self.seen.update(workers)
        self.most = max(self.most, len(workers))
        self.memory = max(self.memory, parents.memory([self.parent.process.pid, *workers]))


def run(workers: int, seconds: float, *, reloading: bool) -> dict[str, float]:
    """Serve all of them, and reload meanwhile or not."""
    with parents.parent(workers) as parent:
        with running(module("visitors", "stay", str(parent.port), str(seconds))) as visitors:
            found, watch = _watched(parent, visitors, min(EVERY, seconds) / 2 if reloading else math.inf)
        # The last reload may still be under way.
        if reloading:
            _until_all_replaced(watch)
    total = sum(each.succeeded + each.failed for each in watch.runs)
    lost = [each for each in watch.runs if each.failed]
    for said, count in found.items():
        if ": " in said:
            print(f"{count:g} x {said}", file=sys.stderr)
    return {
        **{name: found[name] for name in ("p50", "p99", "worst", "right", "failed", "refused")},
        "h2load": total,
        "h2load failed": sum(each.failed for each in lost),
        "h2load cut off": sum(each.errored for each in lost),
        "replaced": len(watch.seen - watch.first),
        "processes": watch.most,
        "memory": watch.memory,
    }


def _watched(parent: Parent, visitors: subprocess.Popen[str], first: float) -> tuple[dict[str, float], _Watch]:
    """Look on until the visitors leave; what they say, and what was seen. The ``first`` SIGHUP comes so soon."""
    watch = _Watch(parent)
    _line(visitors, READY_SECONDS)
    next_reload = time.monotonic() + first
    assert visitors.stdout is not None
    while not select.select([visitors.stdout], [], [], _PAUSE)[0]:
        if time.monotonic() >= next_reload:
            next_reload += EVERY
            parent.process.send_signal(signal.SIGHUP)
        command = peers.visit(parent.port, jobs.HELLO_PATH, connections=_CONNECTIONS, each=_EACH)
        with running(command) as h2load:
            watch.look()
            watch.runs.append(peers.account(_all(h2load)))
        watch.look()
        if parent.process.poll() is not None:
            raise Failed(f"the server ended with {parent.process.returncode}")
    found: dict[str, float] = json.loads(_line(visitors, 0))
    return found, watch


def _all(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"{_CONNECTIONS * _EACH} requests of h2load took more than {_PATIENCE:g} s") from None
    return said


def _line(process: subprocess.Popen[str], seconds: float) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if readable else ""
    if not line:
        raise Failed("the visitors did not come, or ended before their time")
    return line


def _until_all_replaced(watch: _Watch) -> None:
    """A reload that replaced nobody would be no measurement."""
    deadline = time.monotonic() + _PATIENCE
    while watch.first & set(watch.parent.workers()):
        if time.monotonic() > deadline:
            raise Failed(f"after {_PATIENCE:g} s there are still workers that SIGHUP should have replaced")
        time.sleep(_PAUSE)
        watch.look()
