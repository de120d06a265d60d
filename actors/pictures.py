"""What a connection and its streams look like at one moment: figures, from which ``why`` says who waits for what.

Times are in seconds before the picture was taken, None where it never was so. Bytes are those of bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from actors.mailbox import Ref


@frozen(kw_only=True)
class StreamOnWire:
    """One stream, as its connection's wire knows it."""

    stream_id: int
    queued: int
    """Bytes that wait to go out."""
    still: float | None
    """Since none of those has gone out."""
    window: int
    """Bytes that the peer takes now on this stream, were it alone."""
    outstanding: int
    """Bytes that the peer was sent on it and has not given back; of a window that it widened, as far as is known."""
    owed: int
    """Bytes that the peer sent on it and has not got back."""
    kept: float | None
    """Since none of those was read."""
    came: float | None
    """Since its peer has said something on it."""
    opened: float | None
    """Since it was opened, where that was not at its beginning."""
    ending: bool
    """Whether our side has ended, or will with what is queued."""
    local_ended: bool
    remote_ended: bool


@frozen(kw_only=True)
class WirePicture:
    """What the two ends of one connection owe each other."""

    client: bool
    streams: tuple[StreamOnWire, ...]
    left_out: int
    """Streams that it does not show, because there are so many others that hold more."""
    send_window: int
    """Bytes that the peer takes now, over all streams."""
    send_used: int
    """Bytes that it was sent and has not given back, as far as is known."""
    receive_window: int
    """Bytes that we take now, over all streams."""
    receive_used: int
    """Bytes that it has sent and has not got back."""


@frozen(kw_only=True)
class Leave:
    """How a connection takes leave."""

    since: float | None
    by_peer: bool
    """Whether it was the peer who said GOAWAY first."""
    why: str
    left: float | None
    """Seconds until streams that are still open are cut; None: they have all the time that they take."""


@frozen(kw_only=True)
class ConnectionPicture:
    """One connection at one moment."""

    name: str
    peer: str
    taken: float
    """When it was taken, in seconds of the loop's clock."""
    wire: WirePicture
    names: Mapping[int, str] = field(repr=False)
    """The names of its streams' actors, and of those that have left bytes behind, by stream id."""
    refs: Mapping[int, Ref[Any]] = field(repr=False)
    """The actors of its streams."""
    limit: int
    """Streams that the one who opens them may have open."""
    places: int
    """Those that are taken."""
    waiting: tuple[tuple[str, float | None], ...]
    """Requests that wait for the limit, in order: the name of each, and since when."""
    socket_full: float | None
    """Since the socket takes nothing."""
    socket_bytes: int
    """Bytes in it that the other side has not taken."""
    backlog: int
    """Messages that it has not handled."""
    late: tuple[float, float]
    """By how much its last timer was late, and how long ago that was."""
    suspended: bool
    suspect: bool
    """Whether a PING was not answered in time."""
    pinged: float | None
    """Since the PING is out that was not answered."""
    heard: float
    """Since the last byte of the peer's was read."""
    leave: Leave | None
    """None: it takes new streams."""


@frozen(kw_only=True)
class StreamPicture:
    """One stream, as its actor knows it."""

    name: str
    stream_id: int
    """0 as long as it is not opened."""
    age: float
    """Seconds since it began, give or take a tenth."""
    unread: int
    """Bytes that came, that nobody has taken, and that the peer has not got back."""
    reading: bool
    """Whether somebody waits for more of what the peer sends."""
    asking: bool
    """Whether somebody waits for anything else of the peer's, such as the head of its response."""
    headed: bool
    """Whether the peer's head came."""
    local_ended: bool
    remote_ended: bool
    ended: float | None
    """Since our side has ended, where that was behind a body."""


Picture = ConnectionPicture | StreamPicture
