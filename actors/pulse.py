"""What a connection asks of whoever watches its health: the policy is a value that the connection's owner gives it.

Pure: times are passed in, in seconds of the loop's clock. ``supervisor/health.py`` has the policies.
"""

from __future__ import annotations

import enum
from typing import Protocol

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
    """None: when the connection is busy again, or a PING goes out."""


class Monitor(Protocol):
    """Decides when a peer is asked for a sign of life, and when it is dead."""

    def pinged(self, now: float) -> float:
        """A PING goes out, whoever asked for it; returns when to ask for a decision."""

    def decide(self, now: float, heard: float, *, streams: int, late: float = 0.0) -> Decision:
        """What to do; ``heard`` is when the last byte came, ``late`` by how much our own loop missed the time."""


class Doorkeeper(Protocol):
    """Decides whether a client's PINGs come too often."""

    def sent(self) -> None:
        """HEADERS or DATA went out: what came before is forgiven."""

    def allows(self, now: float) -> bool:
        """Whether the PING that came now is one that we put up with."""
