"""What one more long-lived stream costs while few are open, and while many are.

Streams are opened a few at a time, each by a task that sends one message, reads it back, and holds the stream. The cost
of one is the processor's time of the whole process: the median over the lots of a span, which a busy machine disturbs
least, and each stream's share of what the garbage collector took in that span, which is seldom and much.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from tests.benchmarks import jobs

PATH: Final = "/echo"
MESSAGE: Final = b"one message that comes back"
FEW: Final = 100
"""Streams that are open when the early span begins."""
EARLY: Final = 500
"""Streams of the early span: five connections' ones."""
LATE: Final = 0.2
"""The share of all streams that the late span has: so many more make the collector look at everything once."""
_LOT: Final = 20
"""Streams that are opened at a time."""

Open = Callable[[], AbstractAsyncContextManager[bytes]]
"""Opens a stream, sends the message, and is entered with what came back; the stream stays until it is left."""


class _Meter:
    """The processor's time, and how much of it the garbage collector has."""

    def __init__(self) -> None:
        self.collecting = 0.0
        self.lots: list[float] = []
        self.collected: list[float] = []
        self._began = 0.0
        gc.callbacks.append(self._collects)

    def close(self) -> None:
        gc.callbacks.remove(self._collects)

    def _collects(self, phase: str, _: dict[str, Any]) -> None:
        self.collecting += time.process_time() if phase == "stop" else -time.process_time()

    def begin(self) -> None:
        self.collecting = 0.0
        self._began = time.process_time()

    def end(self) -> None:
        """One lot is open."""
        self.lots.append(time.process_time() - self._began - self.collecting)
        self.collected.append(self.collecting)

    def span(self, first: int, last: int) -> tuple[float, float]:
        """What each of the streams cost from the first to the last, and the collector's part of it."""
        lots = slice(first // _LOT, last // _LOT)
        collector = statistics.fmean(self.collected[lots]) / _LOT
        return statistics.median(self.lots[lots]) / _LOT + collector, collector


async def spread(opened: Open, streams: int) -> dict[str, float]:
    """Open that many streams: what one costs, in seconds, behind the first ``FEW`` and among the last."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    meter = _Meter()

    async def hold(echoed: asyncio.Future[None]) -> None:
        async with opened() as message:
            if message != MESSAGE:
                raise jobs.WrongReply(message)
            echoed.set_result(None)
            await over.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(0, streams, _LOT):
            meter.begin()
            echoes: list[asyncio.Future[None]] = [loop.create_future() for _ in range(_LOT)]
            for echoed in echoes:
                group.create_task(hold(echoed))
            await asyncio.gather(*echoes)
            meter.end()
        over.set()
    meter.close()
    early, early_collector = meter.span(FEW, FEW + EARLY)
    late, late_collector = meter.span(int(streams * (1 - LATE)), streams)
    return {
        "early": early,
        "late": late,
        "early collector": early_collector,
        "late collector": late_collector,
        "growth": late / early,
    }
