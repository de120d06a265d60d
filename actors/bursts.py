"""Bursts: input that takes more than one turn, and how the connections that have one share the loop (no I/O)."""

from __future__ import annotations

from typing import ClassVar, Final

from actors.turns import SECONDS_PER_TURN

LEAST_SECONDS: Final = 0.00025
"""What a burst gets in each turn at least, however many connections have one."""


class Burst:
    """One connection's burst, while it goes on.

    Those of the process share half of what one turn has, because a small request of another's passes through several
    rounds of the loop that all of them are in; one alone gets a quarter for the same reason. That of the only
    connection that there is gets all, because short turns make small writes: a fifth of a server's rate.
    """

    __slots__ = ("_begun", "on")

    _count: ClassVar[int] = 0
    _connections: ClassVar[int] = 0

    def __init__(self) -> None:
        self.on = False
        """Whether it goes on in a later turn."""
        self._begun = False

    def begin(self) -> None:
        """Its connection is there."""
        self._begun = True
        Burst._connections += 1

    def end(self) -> None:
        """Its connection has ended; may be said again, and where it never began."""
        self.turn(False)
        if self._begun:
            self._begun = False
            Burst._connections -= 1

    def turn(self, on: bool) -> None:
        """It goes on, or is over; either may be said again."""
        if on is not self.on:
            self.on = on
            Burst._count += 1 if on else -1

    def share(self) -> float:
        """The seconds that it has in this turn."""
        many = Burst._count + (not self.on)
        if many > 1:
            return max(SECONDS_PER_TURN / 2 / many, LEAST_SECONDS)
        return SECONDS_PER_TURN if Burst._connections <= 1 else SECONDS_PER_TURN / 4
