"""What a connection waits for, and until when: one timer is enough for all of it (pure)."""

from __future__ import annotations

import enum
from typing import Final


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


EARLY: Final = 0.001
"""Seconds by which a timer may ring before its time."""


class Deadlines:
    """Times by what they are for."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: dict[Wait, float] = {}

    def __contains__(self, wait: Wait) -> bool:
        return wait in self._at

    def start(self, wait: Wait, at: float) -> None:
        """Wait until ``at``; of two times for the same the earlier one counts."""
        self._at[wait] = min(at, self._at.get(wait, at))

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
