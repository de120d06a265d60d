"""Bursts: input that takes more than one turn, and how the connections that have one share the loop (no I/O)."""

from __future__ import annotations

from typing import ClassVar, Final

from actors.turns import SECONDS_PER_TURN

LEAST_SECONDS: Final = 0.00025
"""What a burst gets in each turn at least, however many connections have one."""


class Burst:
    """One connection's burst, while it goes on.

    Those of the process share half of what one turn has, because a small request of another's passes through several
    rounds of the loop that all of them are in; one alone gets it whole, because short turns make small writes: a fifth
    of a server's rate.
    """

    __slots__ = ("on",)

    _count: ClassVar[int] = 0

    def __init__(self) -> None:
        self.on = False
        """Whether it goes on in a later turn."""

    def turn(self, on: bool) -> None:
        """It goes on, or is over; either may be said again."""
        if on is not self.on:
            self.on = on
            Burst._count += 1 if on else -1

    def share(self) -> float:
        """The seconds that it has in this turn."""
        many = Burst._count + (not self.on)
        return SECONDS_PER_TURN / 2 if many <= 1 else max(SECONDS_PER_TURN / 2 / many, LEAST_SECONDS)
