"""Whether a worker lives: it says so by heartbeats, and is given nothing while they are late.

Pure: time is passed in. A parent that was itself stopped or starved heard nothing meanwhile, which is no fault of its
workers: it says so with :meth:`Beats.miss`.
"""

from __future__ import annotations

import enum
from typing import Final

BEAT_INTERVAL: Final = 1.0
"""Seconds between two heartbeats."""
STALE: Final = 2.5 * BEAT_INTERVAL
"""Seconds without a word after which a worker gets no more connections."""
SLOW_TAKING: Final = 0.3
"""The same for a connection that it was given and has not taken."""


class Vigour(enum.Enum):
    """How a worker seems."""

    STARTING = "starting"
    FRESH = "fresh"
    STALE = "stale"
    """Silent for longer than it should be: it gets nothing."""
    HUNG = "hung"
    """Silent for so long, or not ready after so long, that it is replaced."""


class Beats:
    """What was heard of one worker, and when."""

    __slots__ = ("_began", "_given", "_heard", "_start_timeout", "_timeout", "is_ready")

    def __init__(self, now: float, *, timeout: float, start_timeout: float) -> None:
        """``timeout`` is how many seconds it may be silent, ``start_timeout`` how many it has until it is ready."""
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._began = self._heard = now
        self._given: float | None = None
        self.is_ready = False
        """Whether it has begun to serve."""

    def heard(self, now: float) -> None:
        """It said something."""
        self._heard = now

    def ready(self, now: float) -> None:
        """It has begun to serve."""
        self.is_ready = True
        self._heard = now

    def given(self, now: float) -> None:
        """It has something to take from now on."""
        if self._given is None:
            self._given = now

    def took(self, now: float, *, more: bool) -> None:
        """It took something, and has ``more`` to take."""
        self._heard = now
        self._given = now if more else None

    def miss(self, now: float, seconds: float) -> None:
        """For so long until now nobody listened."""
        # What it said meanwhile may have been heard already, now that somebody listens again.
        self._began = min(self._began + seconds, now)
        self._heard = min(self._heard + seconds, now)
        if self._given is not None:
            self._given = min(self._given + seconds, now)

    def look(self, now: float) -> Vigour:
        """How it seems now."""
        if not self.is_ready:  # whatever else it says
            return Vigour.HUNG if now - self._began >= self._start_timeout else Vigour.STARTING
        silent = now - self._heard
        if silent >= self._timeout:
            return Vigour.HUNG
        if silent >= min(STALE, self._timeout / 2) or (self._given is not None and now - self._given >= SLOW_TAKING):
            return Vigour.STALE
        return Vigour.FRESH

    def next_look(self, now: float) -> float:
        """Seconds until :meth:`look` may say something else without a word of the worker's."""
        if not self.is_ready:
            return max(self._began + self._start_timeout - now, 0.0)
        times = [self._heard + min(STALE, self._timeout / 2), self._heard + self._timeout]
        if self._given is not None:
            times.append(self._given + SLOW_TAKING)
        return min((time - now for time in times if time > now), default=0.0)
