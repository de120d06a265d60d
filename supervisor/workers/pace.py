"""A worker's heartbeat, and how long it may serve."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Final

from actors.server_stream import Handler, ServerStream
from supervisor.workers.beats import BEAT_INTERVAL
from supervisor.workers.options import ServeOptions
from supervisor.workers.spoken import Beat

JITTER: Final = 0.1
"""The part by which the limits on a worker's life are more or less."""


class Pace:
    """Counts requests, beats each second, and says when the worker has served for long enough."""

    # It counts by itself: a server's figures in total are a look at each of its connections.

    def __init__(self, options: ServeOptions, tell: Callable[[Beat], object], tire: Callable[[str], object]) -> None:
        """``tire`` gets the reason why another worker should take its place."""
        self._loop = asyncio.get_running_loop()
        self._tell, self._tire = tell, tire
        self._most = jittered(options.max_requests) if options.max_requests is not None else math.inf
        self._max_age = options.max_worker_age
        self._open = self._begun = 0
        self._due = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def wrap(self, handler: Handler) -> Handler:
        """The handler, whose streams count as requests."""

        async def counted(stream: ServerStream) -> None:
            self._open += 1
            self._begun += 1
            if self._begun >= self._most:
                self._most = math.inf  # once is enough
                self._tire(f"it has served {self._begun:,} requests (max_requests)")
            try:
                await handler(stream)
            finally:
                self._open -= 1

        return counted

    def start(self) -> None:
        """Beat from now on, and grow old."""
        self._due = self._loop.time() + BEAT_INTERVAL
        self._timers["beat"] = self._loop.call_at(self._due, self._beat)
        if self._max_age is not None:
            why = f"it has served for about {self._max_age:g} s (max_worker_age)"
            self._timers["age"] = self._loop.call_later(jittered(self._max_age), self._tire, why)

    def stop(self) -> None:
        for each in self._timers.values():
            each.cancel()

    def _beat(self) -> None:
        late = max(self._loop.time() - self._due, 0.0)
        self._tell(Beat(late, self._open, self._begun))
        # By the clock, not a second from now: beats that were missed do not come, and the next one is in time.
        self._due += BEAT_INTERVAL * (1 + late // BEAT_INTERVAL)
        self._timers["beat"] = self._loop.call_at(self._due, self._beat)


def jittered(limit: float) -> float:
    """The limit, 10 % more or less, so that the workers of a server do not all reach it at the same time."""
    return limit * random.uniform(1 - JITTER, 1 + JITTER)
