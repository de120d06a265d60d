"""A connection's signs of life, and whom it asks about them: the policy is a value that its owner gives it.

Pure: times are passed in, in seconds of the loop's clock. ``supervisor/health.py`` has the policies.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from attrs import frozen


class Act(enum.Enum):
    """What is to be done for a connection's health."""

    NOTHING = enum.auto()
    PING = enum.auto()
    """Send a PING."""
    SUSPECT = enum.auto()
    """Tell the owner that the answer is late."""
    END = enum.auto()
    """The peer is dead."""


@frozen
class Decision:
    """What is to be done now, and when to ask again."""

    act: Act
    again: float | None = None
    """The time for it. None: when the next stream begins, or a PING goes out."""


class Monitor(Protocol):
    """Decides when a peer is asked for a sign of life, and when it is dead."""

    def pinged(self, now: float) -> float:
        """A PING goes out, whoever asked for it; returns when to ask for a decision."""

    def answered(self) -> None:
        """The answer to the last PING came."""

    def decide(self, now: float, heard: float, *, streams: int, late: float = 0.0) -> Decision:
        """What to do; ``heard`` is when the last byte came.

        ``late`` are the seconds since the last decision in which the peer could not be heard by our own fault.
        """


class Doorkeeper(Protocol):
    """Decides whether a client's PINGs come too often."""

    def sent(self) -> None:
        """HEADERS or DATA went out: what came before is forgiven."""

    def allows(self, now: float) -> bool:
        """Whether the PING that came now is one that we put up with."""


class Pulse:
    """The PING that is out, and what the monitor makes of the silence after it."""

    __slots__ = ("_monitor", "_number", "_unheard", "asked", "asleep", "suspect")

    def __init__(self, monitor: Monitor | None) -> None:
        self._monitor = monitor
        self._number = 0
        self._unheard = 0.0
        self.asked: float | None = None
        """When the PING that is not answered yet went out."""
        self.asleep = monitor is not None
        """Whether the monitor wants to be asked when the next stream begins."""
        self.suspect = False
        """Whether the owner was told that the answer is late, and not yet that the peer lives."""

    def ask(self, now: float) -> tuple[bytes, float | None]:
        """The data of the PING that goes out, the same for one that is said again, and when to decide."""
        if self.asked is None:
            self._number += 1
            self.asked = now
        if self._monitor is None:
            return self._data, None
        self.asleep = False
        self._unheard = 0.0
        return self._data, self._monitor.pinged(now)

    def answered(self, data: bytes, now: float) -> float | None:
        """The seconds that the answer took; None where ``data`` answers nothing that is out."""
        if self.asked is None or data != self._data:
            return None
        seconds, self.asked = now - self.asked, None
        self.suspect = False
        if self._monitor is not None:
            self._monitor.answered()
        return seconds

    @property
    def _data(self) -> bytes:
        return self._number.to_bytes(8)

    def miss(self, seconds: float) -> None:
        """The peer could not be heard for so long, by our own fault."""
        self._unheard += seconds

    def decide(self, now: float, heard: float, *, streams: int) -> Decision:
        """What to do now."""
        if self._monitor is None:
            return _NOTHING
        decision = self._monitor.decide(now, heard, streams=streams, late=self._unheard)
        self._unheard = 0.0
        self.asleep = decision.again is None and decision.act is Act.NOTHING
        self.suspect = self.suspect or decision.act is Act.SUSPECT
        return decision


_NOTHING: Final = Decision(Act.NOTHING)
