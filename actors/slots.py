"""Admission, pure: who may hold one of a changing number of slots, first come first served.

Deadlines belong to the waiters: one whose time is up calls :meth:`Slots.leave`, as any does that changes its mind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from actors.errors import Misuse

K = TypeVar("K", bound=Hashable)


class Slots(Generic[K]):
    """At most ``limit`` holders at a time; a lowered limit lets the living finish, 0 makes everyone wait."""

    def __init__(self, limit: int) -> None:
        self._check(limit)
        self.limit = limit
        self._holders: set[K] = set()
        # A plain dict looks for its first key behind all that were deleted before it.
        self._waiting: OrderedDict[K, float] = OrderedDict()

    @property
    def held(self) -> int:
        return len(self._holders)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def line(self) -> Iterable[tuple[K, float]]:
        """Those that wait, in order, and since when; 0.0 where nobody has set that down."""
        return self._waiting.items()

    def date(self, who: K, now: float) -> None:
        """Set down that ``who`` waits since ``now``, if it does."""
        if who in self._waiting:
            self._waiting[who] = now

    def enter(self, who: K) -> bool:
        """Whether ``who`` has a slot now; if not, it waits behind those that wait already. Raises Misuse if twice."""
        if who in self._holders or who in self._waiting:
            raise Misuse(f"{who!r} holds a slot or waits for one already")
        if self._waiting or len(self._holders) >= self.limit:
            self._waiting[who] = 0.0
            return False
        self._holders.add(who)
        return True

    def leave(self, who: K) -> list[K]:
        """Give back ``who``'s slot or place in the queue, if it has one; returns those whose turn it is now."""
        if who in self._waiting:
            del self._waiting[who]
            return []
        if who not in self._holders:
            return []
        self._holders.discard(who)
        return self._admit()

    def change_limit(self, limit: int) -> list[K]:
        """Set the limit; returns those whose turn it is now."""
        self._check(limit)
        self.limit = limit
        return self._admit()

    def close(self) -> list[K]:
        """Send everyone home who still waits; returns them."""
        sent_home = list(self._waiting)
        self._waiting.clear()
        return sent_home

    def _admit(self) -> list[K]:
        admitted = []
        while self._waiting and len(self._holders) < self.limit:
            who, _ = self._waiting.popitem(last=False)
            self._holders.add(who)
            admitted.append(who)
        return admitted

    @staticmethod
    def _check(limit: int) -> None:
        if limit < 0:
            raise Misuse(f"a limit of slots cannot be negative: {limit}")
