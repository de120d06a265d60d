"""What a connection waits for, and until when; one timer is enough for all of it (no I/O, time is passed in)."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final, Protocol, assert_never

from actors.errors import ErrorCode, Misuse, TransportLost
from actors.wire import Wire


class Wait(enum.Enum):
    """What may be overdue."""

    SETTINGS = enum.auto()
    """The peer's preface and first SETTINGS."""
    ACK = enum.auto()
    """The acknowledgement of our SETTINGS."""
    BLOCK = enum.auto()
    """The rest of a header block."""
    FRAME = enum.auto()
    """The rest of a frame."""
    WRITE = enum.auto()
    """The socket, to take more."""
    IDLE = enum.auto()
    """Anything at all, from a client without streams."""
    GOODBYE = enum.auto()
    """The answer to the PING between the two GOAWAYs of a drain."""
    DRAIN = enum.auto()
    """The last stream of a drain."""
    HEALTH = enum.auto()
    """A look at what the peer's silence means."""
    AGE = enum.auto()
    """The time after which no new streams are taken."""


EARLY: Final = 0.001
"""Seconds by which a timer may ring before its time."""


class Deadlines:
    """Times by what they are for."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: dict[Wait, float] = {}

    def __contains__(self, wait: Wait) -> bool:
        return wait in self._at

    def at(self, wait: Wait) -> float | None:
        """When ``wait`` is over; None where nobody waits for it."""
        return self._at.get(wait)

    def start(self, wait: Wait, at: float) -> None:
        """Wait until ``at``, unless that is never; of two times for the same the earlier one counts."""
        if at != math.inf:
            self._at[wait] = min(at, self._at.get(wait, at))

    def postpone(self, seconds: float) -> None:
        """Wait longer for everything."""
        self._at = {wait: at + seconds for wait, at in self._at.items()}

    def stop(self, wait: Wait) -> None:
        self._at.pop(wait, None)

    @property
    def next(self) -> float | None:
        """The earliest of them."""
        return min(self._at.values(), default=None)

    def due(self, now: float) -> list[Wait]:
        """What is overdue, which is waited for no more."""
        over = [wait for wait, at in self._at.items() if at <= now + EARLY]
        for wait in over:
            del self._at[wait]
        return over


class Timer(Protocol):
    """What rings once, unless it is cancelled."""

    def cancel(self) -> object: ...


class Alarm(Deadlines):
    """Deadlines with one timer, for the earliest of them; those that were stopped let it ring for nothing."""

    __slots__ = ("_blind", "_rings", "_set", "_timer")

    def __init__(self, set_timer: Callable[[float], Timer]) -> None:
        """``set_timer`` makes one that rings at a time; who hears it calls :meth:`due`."""
        super().__init__()
        self._set = set_timer
        self._timer: Timer | None = None
        self._rings = 0.0
        self._blind: float | None = None

    def start(self, wait: Wait, at: float) -> None:
        """Wait until ``at``; of two times for the same the earlier one counts."""
        super().start(wait, at)
        self._arm()

    def due(self, now: float) -> list[Wait]:
        """What is overdue; the timer has rung, and is set for the rest."""
        self._timer = None
        over = super().due(now)
        self._arm()
        return over

    def late(self, now: float) -> float:
        """By how many seconds the timer that has just rung was late."""
        return max(now - self._rings, 0.0)

    def sleep(self, now: float) -> None:
        """Nobody can be seen from now on, nor the timer be heard."""
        self._blind = now

    def wake(self, now: float) -> float:
        """Wait longer for everything, by the seconds that it slept, and which it returns."""
        slept = now - self._blind if self._blind is not None else 0.0
        self._blind = None
        self.postpone(slept)
        self._rings = max(self._rings, now)  # one that rang meanwhile was not late
        self._arm()
        return slept

    def _arm(self) -> None:
        at = self.next
        if at is None or (self._timer is not None and self._rings <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings = at
        self._timer = self._set(at)


class Patience:
    """Notices when a peer makes no progress with what it began, or a socket with what it was given."""

    __slots__ = ("_block", "_frames", "_taken", "_wire", "deadlines")

    def __init__(self, wire: Wire, deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self._wire = wire
        self._frames = 0
        self._block = 0
        self._taken = 0

    def watch_pieces(self, now: float) -> None:
        """What has begun and is not all there has its time, and a header block another."""
        wire, limits, deadlines = self._wire, self._wire.limits, self.deadlines
        progress = wire.progress
        if progress is not None and Wait.FRAME not in deadlines:
            self._frames = progress
            deadlines.start(Wait.FRAME, now + limits.frame_timeout)
        if wire.header_block != self._block:
            self._block = wire.header_block
            deadlines.stop(Wait.BLOCK)
        if self._block and Wait.BLOCK not in deadlines:
            deadlines.start(Wait.BLOCK, now + limits.header_block_timeout)

    def watch_socket(self, taken: int, now: float) -> None:
        """The socket says that it is full, having ``taken`` so many bytes since the beginning."""
        self._taken = taken
        self.deadlines.start(Wait.WRITE, now + self._wire.limits.write_timeout)

    def overdue(self, wait: Wait, taken: int, now: float) -> None:
        """Raise ProtocolViolation or TransportLost where ``wait`` is over; go on waiting where there was progress."""
        limits, trip = self._wire.limits, self._wire.guard.trip
        match wait:
            case Wait.SETTINGS:
                message = f"said nothing in HTTP/2 within {limits.settings_timeout:g} s (Limits.settings_timeout)"
                trip("settings_timeout", message, ErrorCode.SETTINGS_TIMEOUT)
            case Wait.ACK:
                message = f"SETTINGS not acknowledged within {limits.settings_timeout:g} s (Limits.settings_timeout)"
                trip("settings_timeout", message, ErrorCode.SETTINGS_TIMEOUT)
            case Wait.BLOCK:
                seconds = limits.header_block_timeout
                trip(
                    "header_block_timeout", f"a header block took more than {seconds:g} s (Limits.header_block_timeout)"
                )
            case Wait.FRAME:
                if self._wire.progress == self._frames:
                    trip("frame_timeout", f"a frame took more than {limits.frame_timeout:g} s (Limits.frame_timeout)")
                self.watch_pieces(now)
            case Wait.WRITE:
                if taken == self._taken:
                    dead = f"its socket took nothing for {limits.write_timeout:g} s (Limits.write_timeout)"
                    if not self._wire.guard.tolerates("write_timeout", dead):
                        raise TransportLost(dead)
                self.watch_socket(taken, now)
            case Wait.IDLE | Wait.GOODBYE | Wait.DRAIN | Wait.HEALTH | Wait.AGE:
                raise Misuse(f"{wait.name} is not about progress")
            case _:
                assert_never(wait)
