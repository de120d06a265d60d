"""What is counted: frozen figures that anyone may ask for at any time (no I/O)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import field, frozen

from actors.errors import Closed, ErrorCode, GoAway, TransportLost

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
    """Of the first SETTINGS and the last PINGs."""
    side: str = ""
    """``client`` or ``server``."""
    local: str = ""
    """Our own address."""
    peer_settings: Mapping[str, int] = field(factory=dict, repr=False)
    """What the peer's SETTINGS say, by RFC 9113's names in lower case, such as ``max_frame_size``."""


class Totals:
    """What was accepted and refused since the beginning, and what the connections did that have ended."""

    __slots__ = (
        "accepted",
        "bytes_received",
        "bytes_sent",
        "ended",
        "refusals",
        "refused",
        "streams",
        "streams_refused",
    )

    def __init__(self) -> None:
        self.accepted = 0
        """Connections that were served."""
        self.refused = 0
        """Connections that were closed at once for a limit."""
        self.refusals: Counter[str] = Counter()
        """How often each limit refused or ended something, by its name in :class:`~actors.settings.Limits`."""
        self.ended: Counter[str] = Counter()
        """Connections that have ended, by :func:`ending_of`."""
        self.streams = 0
        self.streams_refused = 0
        self.bytes_received = 0
        self.bytes_sent = 0

    def refuse(self, limit: str) -> None:
        """A connection is refused."""
        self.refused += 1
        self.refusals[limit] += 1

    def bury(self, last: ConnectionStats, reason: BaseException | None) -> None:
        """A connection has ended, and these are its last figures."""
        self.ended[ending_of(reason, idle=not last.streams_open)] += 1
        self.streams += last.streams_total
        self.bytes_received += last.bytes_received
        self.bytes_sent += last.bytes_sent


def ending_of(reason: BaseException | None, *, idle: bool = False) -> str:
    """The name of the error's class; empty where a side closed the connection in good order.

    ``idle``: no stream was open; then many clients just close their socket, without GOAWAY.
    """
    if idle and type(reason) is TransportLost and reason.__cause__ is None:
        return ""
    if reason is None or type(reason) is Closed:
        return ""
    if isinstance(reason, GoAway) and reason.code == ErrorCode.NO_ERROR:
        return ""
    return type(reason).__name__
