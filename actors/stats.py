"""What is counted: frozen figures that anyone may ask for at any time (no I/O)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

RECENT: Final = 128
"""Round trips that are remembered."""


@frozen
class Quantiles:
    """How long something took, in seconds: half of it no longer than ``p50``, and so on; 0.0 where nothing was seen."""

    count: int = 0
    """How many are looked at, of the most recent ones."""
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    most: float = 0.0

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Quantiles:
        """The quantiles by nearest rank."""
        ordered = sorted(seconds)
        size = len(ordered)
        if not size:
            return cls()
        p50, p90, p99 = (ordered[min(size - 1, -(-size * share // 100) - 1)] for share in (50, 90, 99))
        return cls(size, p50, p90, p99, ordered[-1])


class Recent:
    """The last round trips."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        self.seconds.append(seconds)

    @property
    def last(self) -> float | None:
        return self.seconds[-1] if self.seconds else None


@frozen(kw_only=True)
class ConnectionStats:
    """One connection's figures."""

    name: str
    peer: str
    """Its address."""
    state: str
    """``starting``, ``ready``, ``suspect`` or ``draining``."""
    age: float
    """Seconds since it began."""
    streams_open: int
    """Streams that count against a limit, either side's."""
    streams_queued: int
    """Requests that wait for the peer's limit."""
    streams_total: int
    """Streams since the beginning."""
    max_streams: int
    """Streams that the one who opens them may have open."""
    bytes_received: int
    """From the socket, frames and all."""
    bytes_sent: int
    """Given to the socket."""
    bytes_held: int
    """Queued for the peer's windows or the socket."""
    send_window: int
    """Bytes of bodies that the peer takes now, over all streams."""
    receive_window: int
    """Bytes of bodies that we take now, over all streams."""
    round_trips: Quantiles = field(factory=Quantiles)
    """Of PINGs."""
