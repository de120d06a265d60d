"""By how much two clocks differ, told from what passed between them in both directions.

As NTP does (RFC 5905, 8): nothing arrives before it was sent. A frame from the first to the second process says what
the second clock is ahead by at most, one the other way by at least. What all of them leave is where the offset lies,
and half of that, half the least round trip, is its uncertainty. PINGs and their acknowledgements are among them, and as
they are answered before all else, it is mostly they that say the most.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Final, NamedTuple

from attrs import frozen

EXACT: Final = 1e-6
"""Seconds; clocks that differ by less agree, as far as numbers can say."""
STEP: Final = 1e-3
"""Seconds a second; a clock that runs away faster was set, or stood still while its host slept."""


class Bound(NamedTuple):
    """What one frame says."""

    at: float
    """When it was sent or arrived on the second clock."""
    limit: float
    """What that clock is ahead of the first by, at most or at least."""
    most: bool


@frozen
class Interval:
    """Where an offset can lie, in seconds; empty where ``low`` is above ``high``."""

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, bounds: Iterable[Bound]) -> Interval:
        """What all of them leave."""
        low, high = -math.inf, math.inf
        for _, limit, most in bounds:
            if most:
                high = min(high, limit)
            else:
                low = max(low, limit)
        return cls(low, high)

    @property
    def middle(self) -> float:
        """The best guess; where there is one bound only, that frame took no time."""
        if math.isinf(self.low):
            return self.high
        return self.low if math.isinf(self.high) else self.low + (self.high - self.low) / 2

    @property
    def radius(self) -> float | None:
        """Half its width; None where it has no end."""
        return None if math.isinf(self.high - self.low) else abs(self.high - self.low) / 2

    @property
    def gap(self) -> float:
        """What is missing for any offset to fit; 0.0 where one does."""
        return max(self.low - self.high, 0.0)

    def apart(self, other: Interval) -> float:
        """How far another one is away; 0.0 where they meet."""
        return max(self.low - other.high, other.low - self.high, 0.0)


@frozen(kw_only=True)
class Piece:
    """A time in which one offset holds."""

    start: float
    """On the second clock."""
    offset: float
    uncertainty: float | None
    """Of the offset; None where frames are known in one direction only."""
    floor: float = -math.inf
    """What the first clock showed when the piece before ended: time does not go back."""


@frozen
class Clock:
    """What the first clock showed, for what the second one did."""

    pieces: Sequence[Piece]

    def at(self, time: float) -> Piece:
        """The piece of a time of the second clock."""
        return self.pieces[max(bisect_right(self.pieces, time, key=attrgetter("start")) - 1, 0)]

    def first(self, time: float) -> float:
        """A time of the second clock on the first one; never before that of an earlier one."""
        piece = self.at(time)
        return max(time - piece.offset, piece.floor)

    def violation(self, bounds: Iterable[Bound]) -> float:
        """By how many seconds frames would arrive before they were sent, at most."""
        worst = 0.0
        for at, limit, most in bounds:
            offset = self.at(at).offset
            worst = max(worst, offset - limit if most else limit - offset)
        return worst

    @property
    def offset(self) -> float:
        """By how much the second is ahead; where that changes, in the middle."""
        offsets = [piece.offset for piece in self.pieces]
        return offsets[0] if len(offsets) == 1 else (min(offsets) + max(offsets)) / 2

    @property
    def uncertainty(self) -> float | None:
        """Of :meth:`first`, at its worst."""
        known = [piece.uncertainty for piece in self.pieces if piece.uncertainty is not None]
        return max(known) if len(known) == len(self.pieces) else None

    @property
    def change(self) -> float:
        """By how much the offset has changed from the beginning to the end."""
        return self.pieces[-1].offset - self.pieces[0].offset


def estimate(bounds: Sequence[Bound]) -> Clock:
    """The second clock, from at least one bound; in pieces only where no single offset fits."""
    whole = Interval.of(bounds)
    if whole.gap <= EXACT:
        return Clock((Piece(start=-math.inf, offset=whole.middle, uncertainty=whole.radius),))
    bounds = sorted(bounds)
    trip = least_round_trip(bounds)
    if whole.gap <= trip:
        # What arrives too early then, does so by no more than anybody knows.
        return Clock((Piece(start=-math.inf, offset=whole.middle, uncertainty=(trip + whole.gap) / 2),))
    return Clock(_doubted(list(_stretches(bounds))))


def least_round_trip(bounds: Sequence[Bound]) -> float:
    """Of what went one way and what went the other way next, in the order of time."""
    trips = [
        (after.limit - before.limit) * (1 if after.most else -1)
        for before, after in pairwise(bounds)
        if before.most is not after.most
    ]
    return max(min(trips, default=0.0), 0.0)


@frozen
class _Stretch:
    """Bounds that one offset fits."""

    start: float
    end: float
    interval: Interval

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


def _stretches(bounds: Sequence[Bound]) -> Iterator[_Stretch]:
    """Each as long as one offset fits; what fits two is shared by both, and they meet in the middle of that."""
    start, found = 0, Interval()
    for number, bound in enumerate(bounds):
        narrower = _narrowed(found, bound)
        if narrower.gap > EXACT:
            before, oldest, narrower = found, number, _narrowed(Interval(), bound)
            # Not further, or in a time of drift the new one would be as long as the old, and end as soon.
            while (
                oldest > (start + number + 1) // 2 and (wider := _narrowed(narrower, bounds[oldest - 1])).gap <= EXACT
            ):
                oldest, narrower = oldest - 1, wider
            meeting = (oldest + number + 1) // 2
            yield _Stretch(bounds[start].at, bounds[meeting - 1].at, before)
            start = meeting
        found = narrower
    yield _Stretch(bounds[start].at, bounds[-1].at, found)


def _narrowed(interval: Interval, bound: Bound) -> Interval:
    if bound.most:
        return Interval(interval.low, min(interval.high, bound.limit))
    return Interval(max(interval.low, bound.limit), interval.high)


def _doubted(found: Sequence[_Stretch]) -> list[Piece]:
    """The pieces with what is uncertain about them: in a time of drift, also what the clocks drift meanwhile."""
    offsets: list[float] = []
    for stretch in found:
        interval = stretch.interval
        # A piece that has one bound only stays as near to the one before as it can.
        near = offsets[-1] if offsets else interval.middle
        offsets.append(min(max(near, interval.low), interval.high) if interval.radius is None else interval.middle)
    pieces: list[Piece] = []
    floor = -math.inf
    for number, stretch in enumerate(found):
        drift = 0.0
        for other in (number - 1, number + 1):
            if 0 <= other < len(found):
                change = abs(offsets[other] - offsets[number])
                is_step = change > STEP * abs(found[other].middle - stretch.middle)
                drift = max(drift, 0.0 if is_step else change)
        if pieces:
            floor = max(floor, stretch.start - offsets[number - 1])
        # Times that would go back are held there.
        held = max(floor - (stretch.start - offsets[number]), 0.0)
        uncertainty = (stretch.interval.radius or 0.0) + drift + held
        pieces.append(Piece(start=stretch.start, offset=offsets[number], uncertainty=uncertainty, floor=floor))
    return pieces
