"""How a benchmark runs: pairs of runs in turn, and the processes that they need."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 15
RUN_SECONDS = 180

BARE = "bare"
OURS = "ours"
HTTPX = "httpx"
RECORDED = "ours, recorded"
NOISE = "bare again"

Measure = Callable[[str, int], float]
"""Runs a variant with an amount of work, and returns its figure."""
Pair = dict[str, float]
"""The figures of one round through all variants, by variant; the first is what the others are compared with."""


class Failed(Exception):
    """A run that is no measurement, and why."""


@frozen
class Unit:
    """What a figure is, and how it is shown."""

    name: str
    shown: str
    of: str
    """What an amount counts."""
    divisor: float = 1
    digits: int = 0
    less_is_better: bool = False

    def show(self, figure: float) -> str:
        return f"{figure / self.divisor:,.{self.digits}f}"


REQUESTS = Unit("requests/s", "requests/s", "requests")
BYTES = Unit("bytes/s", "MB/s", "streams", divisor=1e6)
MICROSECONDS = Unit(
    "microseconds/message", "microseconds/message, where less is better", "messages", digits=3, less_is_better=True
)


@frozen(kw_only=True)
class Benchmark:
    """One job that is measured in several variants."""

    name: str
    work: str
    unit: Unit
    open: Callable[[], AbstractContextManager[Measure]]
    """Starts the peer that all runs share."""
    probe: int
    """The amount of work in the first run, which is only to find how much fills the time of a run."""
    one: float | None = 1
    """What one of the amount is in the figure: 1 request, or the bytes of a stream. None: every run does the probe's
    amount."""
    variants: tuple[str, ...] = (BARE, OURS)


@frozen
class Running:
    """A benchmark whose peer is there, its variants, and how much each run does."""

    benchmark: Benchmark
    variants: tuple[str, ...]
    amount: int
    run: Measure

    def pairs(self, count: int) -> Iterator[Pair]:
        """Run all variants in turn, ``count`` times, every other time in reverse order."""
        for number in range(count):
            order = reversed(self.variants) if number % 2 else self.variants
            measured = {variant: self.run(variant, self.amount) for variant in order}
            yield {variant: measured[variant] for variant in self.variants}


@contextmanager
def started(benchmark: Benchmark, *, seconds: float, extra: Sequence[str] = ()) -> Iterator[Running]:
    """Start a benchmark's peer, and find the amount of work that takes about ``seconds`` a run."""
    variants = (*benchmark.variants, *extra)
    with benchmark.open() as run:
        probed = run(variants[0], benchmark.probe)
        amount = benchmark.probe if benchmark.one is None else _rounded(seconds * probed / benchmark.one)
        yield Running(benchmark, variants, amount, run)


def _rounded(amount: float) -> int:
    """Two digits that count: the exact number would only suggest precision."""
    return max(1, int(float(f"{amount:.1e}")))


_PROGRAMS = {OURS: "ours", RECORDED: "ours", HTTPX: "rival"}


def role(
    variant: str, *arguments: str, tls: Path | None = None, rate: float | None = None, at: int | None = None
) -> list[str]:
    """The command that plays a role of ``bare``, ``ours`` or ``rival``."""
    program = _PROGRAMS.get(variant, "bare")
    options = ["--recorder"] if variant == RECORDED else []
    options += [] if tls is None else [f"--tls={tls}"]
    options += [] if rate is None else [f"--rate={rate}"]
    options += [] if at is None else [f"--at={at}"]
    return module(program, *options, *arguments)


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a program of this package."""
    return [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]


def output(command: Sequence[str]) -> str:
    """What a command prints; it is killed where it takes too long."""
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)} took more than {RUN_SECONDS} s and was killed") from None
    if ended.returncode:
        raise Failed(f"{' '.join(command)} ended with {ended.returncode}: {ended.stdout.strip()}")
    return ended.stdout


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone afterwards, whatever happens."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def server(variant: str, name: str, *, tls: Path | None = None) -> Iterator[int]:
    """A server role from the moment at which it listens; yields its port."""
    with serving(variant, name, tls=tls) as (_, port):
        yield port


@contextmanager
def serving(variant: str, name: str, *, tls: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The same with its process, for who wants to know what that uses."""
    with listening(role(variant, name, tls=tls)) as found:
        yield found


@contextmanager
def listening(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The same for any command that prints "listening PORT" when it does."""
    with running(command) as process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
        words = process.stdout.readline().split() if readable else []
        if words[:1] != ["listening"]:
            raise Failed(f"{' '.join(command)} ended, or did not listen within {READY_SECONDS} s")
        yield process, int(words[1])


def client(variant: str, name: str, port: int, amount: int, *, tls: Path | None = None) -> float:
    """The rate that a client role prints when it is done."""
    return float(output(role(variant, name, str(port), str(amount), tls=tls)))


def figures(variant: str, name: str, port: int, amount: int, *, rate: float | None = None) -> dict[str, float]:
    """The figures that a client role prints when it is done."""
    printed: dict[str, float] = json.loads(output(role(variant, name, str(port), str(amount), rate=rate)))
    return printed
