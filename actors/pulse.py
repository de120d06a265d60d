"""A connection's signs of life, and whom it asks about them: the policy is a value that its owner gives it.

No I/O: times are passed in, in seconds of the loop's clock. ``supervisor/health.py`` has the policies.
"""

from __future__ import annotations

import enum
import math
from typing import Protocol, assert_never

from attrs import frozen

from actors.errors import LinkError
from actors.mailbox import Ref, Reply
from actors.messages import ConnectionAlive, ConnectionNews, ConnectionSuspect
from actors.outlet import Outlet
from actors.patience import Deadlines, Wait
from actors.stats import Recent
from actors.wire import Wire


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
    """The PING that is out, who waits for its answer, and what the monitor makes of the silence after it."""

    __slots__ = (
        "_asked", "_deadlines", "_monitor", "_name", "_number", "_outlet", "_owner", "_unheard", "_waiting", "_wire",
        "asleep", "forgiven", "last", "round_trips", "suspect",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        owner: Ref[ConnectionNews],
        monitor: Monitor | None,
        *,
        wire: Wire,
        outlet: Outlet,
        deadlines: Deadlines,
    ) -> None:
        """``owner`` is told what becomes of the connection of that name; without a ``monitor`` nobody looks."""
        self._name = name
        self._owner = owner
        self._monitor = monitor
        self._wire = wire
        self._outlet = outlet
        self._deadlines = deadlines
        self._number = 0
        self._waiting: list[Reply[float]] = []
        self._unheard = 0.0
        self._asked: float | None = None
        """When the PING that is not answered yet went out."""
        self.last = 0.0
        """When the last PING went out."""
        self.forgiven = True
        """Whether something of a stream has come since, which makes servers that count PINGs begin anew."""
        self.asleep = monitor is not None
        """Whether it wants a :meth:`look` when the next stream begins."""
        self.suspect = False
        """Whether the owner was told that the answer is late, and not yet that the peer lives."""
        self.round_trips = Recent()
        """Of PINGs, and before them of the first SETTINGS."""

    @property
    def monitor(self) -> Monitor | None:
        """Who decides; None where nobody does."""
        return self._monitor

    def ask(self, reply: Reply[float] | None, now: float) -> None:
        """Send a PING, unless one is out; all who ask while it is on its way share its answer."""
        if reply is not None:
            self._waiting.append(reply)
        if self._asked is None:
            self._ping(now)

    def _ping(self, now: float) -> None:
        """Say a PING, the same again where it is not answered."""
        if self._asked is None:
            self._number += 1
            self._asked = now
        self.last, self.forgiven = now, False
        self._wire.ping(self._data)
        self._outlet.mark()
        if self._monitor is not None:
            self.asleep = False
            self._unheard = 0.0
            self._deadlines.start(Wait.HEALTH, self._monitor.pinged(now))

    def answered(self, data: bytes, now: float) -> bool:
        """Tell who waits for it; False where ``data`` answers nothing that is out."""
        if self._asked is None or data != self._data:
            return False
        seconds, self._asked = now - self._asked, None
        self.suspect = False
        if self._monitor is not None:
            self._monitor.answered()
        self.round_trips.add(seconds)
        self._owner.tell(ConnectionAlive(self._name, seconds))
        waiting, self._waiting = self._waiting, []
        for reply in waiting:
            reply.tell(seconds)
        return True

    @property
    def asked(self) -> float | None:
        """When the PING that is not answered yet went out."""
        return self._asked

    @property
    def _data(self) -> bytes:
        return self._number.to_bytes(8)

    def heard(self) -> None:
        """A peer that was suspect has said something."""
        self.suspect = False
        self._owner.tell(ConnectionAlive(self._name, None))

    def fail(self, error: LinkError) -> None:
        """No answer will come."""
        for reply in self._waiting:
            reply.fail(error)

    def miss(self, seconds: float) -> None:
        """The peer could not be heard for so long, by our own fault."""
        self._unheard += seconds

    def look(self, now: float, heard: float) -> str:
        """Do what the silence since ``heard`` calls for; returns how long it was, in words, where the peer is dead."""
        if self._monitor is None:
            return ""
        if self._asked is not None and (self._outlet.choked or self._outlet.mark()):
            self.miss(math.inf)  # either we do not read its answer, or it has not come to the question yet
        decision = self._monitor.decide(now, heard, streams=self._wire.streams, late=self._unheard)
        self._unheard = 0.0
        self.asleep = decision.again is None and decision.act is Act.NOTHING
        if decision.again is not None:
            self._deadlines.start(Wait.HEALTH, decision.again)
        match decision.act:
            case Act.NOTHING:
                pass
            case Act.PING:
                self._ping(now)
            case Act.SUSPECT:
                self.suspect = True
                self._owner.tell(ConnectionSuspect(self._name))
            case Act.END:
                after = f", {now - self._asked:.3g} s of them after a PING" if self._asked is not None else ""
                return f"it said nothing for {now - heard:.3g} s{after}"
            case _:
                assert_never(decision.act)
        return ""
