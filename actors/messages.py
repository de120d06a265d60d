"""Every message, grouped by who receives it; each union is that receiver's protocol.

Facts are in the past tense, requests are imperative. Commands for the wire are in ``commands.py``: each is data and the
act itself. To add a message: write the class, put it in its receiver's union, and the type checker names the one
``match`` to extend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

from attrs import field, frozen

from actors.errors import ErrorCode, LinkError, Outcome, code_name, words_of
from actors.headers import Pair
from actors.mailbox import Ref, Reply, SystemMessage
from actors.pictures import Picture
from actors.settings import Limits
from actors.trace import Exporter

FRAME_HEAD: Final = 9
"""Bytes before each frame's payload (RFC 9113, 4.1)."""

# --- everyone ---------------------------------------------------------------------------------------------------------


@frozen
class Exited:
    """An actor has ended; told exactly once to each that watches it."""

    name: str
    reason: BaseException | None
    """The first cause; None where it finished by itself."""
    crashed: bool
    """Whether the cause is a fault of the actor's own program."""

    def summary(self) -> str:
        if self.reason is None and not self.crashed:
            return self.name + " ended"
        how = "crashed" if self.crashed else "ended"
        # What other programs' exceptions say may hold a body.
        why = words_of(self.reason) if isinstance(self.reason, LinkError) else type(self.reason).__name__
        return f"{self.name} {how}" + (f": {why}" if self.reason is not None else "")


@frozen
class ActorState:
    """How an actor is; the answer to :class:`GetState`."""

    name: str
    status: str
    """``running``, ``suspended``, ``stopping`` or ``ended``."""
    waiting: int
    """Messages not yet handled."""
    dead_letters: int
    children: tuple[str, ...]
    detail: Mapping[str, str | int | float | bool | None]
    kind: str = ""
    """The name of its class."""
    age: float = 0.0
    """Seconds since it began, give or take a tenth."""
    refs: tuple[Ref[Any], ...] = field(default=(), repr=False)
    """The same children, in the same order."""
    restarts: tuple[int, ...] = ()
    """How often each of those was started again; empty where the actor starts none again."""


@frozen
class Crash:
    """What is known of an actor at the moment of its crash."""

    name: str
    reason: BaseException | None
    state: ActorState
    event: int
    """The ``id`` of the event that it was handling; 0 where that is not known."""
    waiting: tuple[tuple[str, str], ...]
    """The type and the summary of the first messages that it had not handled."""
    watchers: tuple[Ref[Any], ...]
    """Who is told of its end; its parent among them, if it has one."""


@frozen
class Halt(SystemMessage):
    """End, because of ``cause``."""

    cause: LinkError | None


@frozen
class Kill(SystemMessage):
    """End now: cancel the task, whatever it does, also if it was told to end before."""


@frozen
class GetState(SystemMessage):
    reply: Reply[ActorState] = field(repr=False)


@frozen
class TakePicture(SystemMessage):
    """Say what you look like: for connections and streams."""

    reply: Reply[Picture] = field(repr=False)


@frozen
class Suspend(SystemMessage):
    """Leave ordinary messages waiting until :class:`Resume` (turn actors only)."""


@frozen
class Resume(SystemMessage):
    pass


@frozen
class TraceOn(SystemMessage):
    """Hand the events of this actor's tracer, which its whole tree shares, to ``exporter``."""

    exporter: Exporter


@frozen
class TraceOff(SystemMessage):
    exporter: Exporter


@frozen
class Watch(SystemMessage):
    """Tell ``watcher`` when the actor ends; at once if it has."""

    watcher: Ref[Exited]


@frozen
class Unwatch(SystemMessage):
    watcher: Ref[Exited]


# --- to a stream ------------------------------------------------------------------------------------------------------


@frozen
class Opened:
    """Our HEADERS went out: the request has a stream, and from now on the peer may act on it."""

    stream_id: int

    def summary(self) -> str:
        return f"stream {self.stream_id}"


@frozen
class HeadersArrived:
    """The head of a request or of a final response."""

    pairs: list[Pair] = field(repr=False)
    ended: bool

    def summary(self) -> str:
        return _fields_summary(self.pairs, self.ended)


@frozen
class InformationalArrived:
    """A 1xx response (RFC 9110, 15.2)."""

    pairs: list[Pair] = field(repr=False)

    def summary(self) -> str:
        return _fields_summary(self.pairs)


@frozen
class DataArrived:
    data: bytes = field(repr=False)
    ended: bool

    def summary(self) -> str:
        return f"{len(self.data)} bytes" + (", ended" if self.ended else "")


@frozen
class TrailersArrived:
    """Trailers; they end the peer's side."""

    pairs: list[Pair] = field(repr=False)

    def summary(self) -> str:
        return _fields_summary(self.pairs)


@frozen
class PeerReset:
    """RST_STREAM came."""

    code: int

    def summary(self) -> str:
        return code_name(self.code)


@frozen
class RoomMade:
    """``size`` bytes of the stream's queue went out."""

    size: int

    def summary(self) -> str:
        return f"{self.size} bytes"


@frozen
class StreamFailed:
    """The stream cannot go on; whoever waits on it gets ``error``."""

    error: LinkError
    outcome: Outcome | None = None
    """What is known of the request; None where the stream itself knows best."""

    def summary(self) -> str:
        return words_of(self.error)


@frozen
class DrainBegan:
    """The connection takes no new streams and waits for this one to finish."""


@frozen
class PromiseArrived:
    """The server promised the answer to a request that was not made (RFC 9113, 8.4)."""

    stream_id: int
    pairs: list[Pair] = field(repr=False)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {_fields_summary(self.pairs)}"


StreamMessage = (
    Opened | HeadersArrived | InformationalArrived | DataArrived | TrailersArrived | PeerReset | RoomMade | StreamFailed
    | DrainBegan | PromiseArrived
)  # fmt: skip

# --- to a connection --------------------------------------------------------------------------------------------------


@frozen
class BytesArrived:
    data: bytes = field(repr=False)

    def summary(self) -> str:
        return f"{len(self.data)} bytes"


@frozen
class ReadOn:
    """Go on with input that an earlier turn left for the sake of others."""


@frozen
class WriteOn:
    """Go on with output that an earlier turn left for the sake of others."""


@frozen
class WritePaused:
    """The socket takes no more for now."""


@frozen
class WriteResumed:
    pass


@frozen
class ConnectionLost:
    cause: BaseException | None
    """What broke it; None where the peer closed it."""

    def summary(self) -> str:
        return repr(self.cause) if self.cause is not None else "closed"


@frozen
class TimePassed:
    """One of the times that the connection keeps may be up."""


@frozen
class OpenStream:
    """Open a stream for a client's request as soon as the peer's limit allows.

    ``body`` is all or the first of it, at most one send buffer; ``end`` and ``trailers`` say that it is all.
    """

    stream: Ref[StreamMessage]
    head: list[Pair] = field(repr=False)
    body: bytes | memoryview = field(repr=False)
    trailers: list[Pair] = field(repr=False)
    end: bool
    weight: int
    is_wanted: Callable[[], bool] = field(default=lambda: True, repr=False)
    """Asked when its turn comes: what was reported as not sent, because its time was up, must never be sent."""
    promised: Callable[[Any], None] | None = field(default=None, repr=False)
    """Gets the actor of each stream that the server promises along with this one; None refuses them all."""

    def summary(self) -> str:
        return f"{self.stream.name}: {_fields_summary(self.head)}"


@frozen
class Drain:
    """Take no new streams, finish those that are open, then close; ``error`` is for those cut at the deadline."""

    seconds: float
    error: LinkError
    debug: bytes = b""
    """What GOAWAY tells the peer's people."""
    code: int = ErrorCode.NO_ERROR
    """What the last GOAWAY gives as the reason."""

    def summary(self) -> str:
        return f"{self.seconds:g} s"


@frozen
class SendPing:
    """Ask the peer for a sign of life; the answer is its round-trip time in seconds."""

    reply: Reply[float] | None = field(default=None, repr=False)


@frozen
class ChangeLimits:
    """From now on other limits hold; the answer comes when the peer has acknowledged what concerns it."""

    limits: Limits = field(repr=False)
    reply: Reply[None] | None = field(default=None, repr=False)


@frozen
class PushStream:
    """Promise the answer to another request along with ``parent_id``; the answer is the promised stream's id."""

    parent_id: int
    head: list[Pair] = field(repr=False)
    reply: Reply[int] = field(repr=False)

    def summary(self) -> str:
        return f"stream {self.parent_id}: {_fields_summary(self.head)}"


ConnectionFact = (
    BytesArrived | ReadOn | WriteOn | WritePaused | WriteResumed | ConnectionLost | TimePassed | OpenStream | Drain
    | SendPing | ChangeLimits | PushStream | Exited
)  # fmt: skip
"""All that a connection understands besides the commands of ``commands.py``."""

# --- for the trace alone ----------------------------------------------------------------------------------------------


@frozen
class ConnectionBegan:
    """A connection has its socket, and speaks."""

    side: str
    """``client`` or ``server``."""
    local: str
    peer: str
    # What a replay needs to begin it again.
    alpn: str | None = field(default=None, repr=False)
    limits: Limits | None = field(default=None, repr=False)
    push: bool = field(default=False, repr=False)
    monitor: object = field(default=None, repr=False)
    """Who decides about its health; None where nobody does."""

    def summary(self) -> str:
        return f"{self.side}: {self.local} to {self.peer}"


@frozen
class Frames:
    """Frames that went over the wire one after the other; TCP keeps their order, so both ends number them alike."""

    held: ClassVar[bool] = True
    first: int
    """The number of the first, from 1 on, among all that this connection had in this direction."""
    heads: bytes = field(repr=False)
    """What stands before their payloads, nine bytes each (RFC 9113, 4.1)."""

    def summary(self) -> str:
        return ", ".join(_head_text(self.heads[at : at + FRAME_HEAD]) for at in range(0, len(self.heads), FRAME_HEAD))


class FramesArrived(Frames):
    """The socket to a connection."""

    __slots__ = ()


class FramesSent(Frames):
    """A connection to the socket."""

    __slots__ = ()


_FRAME_NAMES: Final = (
    *("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE"),
    *("CONTINUATION", "ALTSVC"),
)


def frame_name(kind: int) -> str:
    """A frame type's name (RFC 9113, 6)."""
    return _FRAME_NAMES[kind] if kind < len(_FRAME_NAMES) else f"type {kind:#04x}"


def _head_text(head: bytes) -> str:
    length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
    stream_id = int.from_bytes(head[5:]) & 0x7FFF_FFFF
    name = frame_name(kind)
    ends = name in ("DATA", "HEADERS") and flags & 1
    acks = name in ("SETTINGS", "PING") and flags & 1
    return (
        name + (f" {stream_id}" if stream_id else "") + (f" {length}" if name == "DATA" else "")
        + (" end" if ends else " ack" if acks else "")
    )  # fmt: skip


# --- from a wire to its connection ------------------------------------------------------------------------------------


@frozen
class PeerSettings:
    """The peer's SETTINGS came."""

    max_streams: int
    """Streams that we may have open at a time."""


@frozen
class PeerGoAway:
    """GOAWAY came (RFC 9113, 6.8)."""

    last_stream_id: int
    code: int
    debug: bytes


@frozen
class PingAcked:
    data: bytes


@frozen
class SettingsAcked:
    """The peer has acknowledged our last SETTINGS."""


@frozen
class AlternativeService:
    """The server says where else ``origin`` is served (RFC 7838)."""

    origin: bytes
    value: bytes


WireFact = PeerSettings | PeerGoAway | PingAcked | SettingsAcked | AlternativeService | PromiseArrived

# --- from a connection to its owner -----------------------------------------------------------------------------------


@frozen
class ConnectionReady:
    """The peer's SETTINGS came."""

    name: str
    max_streams: int
    """Streams that we may have open at a time."""


@frozen
class ConnectionDraining:
    """The connection takes no new requests: the peer said GOAWAY, the stream ids have run out, or it is too old."""

    name: str
    reason: LinkError


@frozen
class AlternativeOffered:
    """The server says where else ``origin`` is served (RFC 7838); ``value`` is as in the ``alt-svc`` header."""

    name: str
    origin: bytes
    value: bytes


@frozen
class StreamsCut:
    """The connection's time for draining was up, and these streams had not finished."""

    name: str
    streams: tuple[str, ...]


@frozen
class PeerAllows:
    """The peer's limit of streams that we may have open changed after the beginning."""

    name: str
    max_streams: int


@frozen
class ConnectionSuspect:
    """A PING was not answered in time; the connection may be dead."""

    name: str


@frozen
class ConnectionAlive:
    """A PING was answered, or a suspect connection said something else."""

    name: str
    seconds: float | None
    """The round trip, where it was a PING."""


ConnectionNews = (
    ConnectionReady | ConnectionDraining | AlternativeOffered | StreamsCut | PeerAllows | ConnectionSuspect
    | ConnectionAlive
)  # fmt: skip

# --- to a listener ----------------------------------------------------------------------------------------------------


@frozen
class Peer:
    """The other end of a connection."""

    address: str
    """``HOST:PORT``, or a Unix socket's path; ``unix`` for its unnamed client."""
    alpn: str | None = None
    """The protocol that TLS chose; None in plaintext."""
    certificate: Mapping[str, object] | None = None
    """What :meth:`ssl.SSLSocket.getpeercert` says; None without one."""


class Socket(Protocol):
    """What a connection needs of its transport; an :class:`asyncio.Transport` has it."""

    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str) -> Any: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


@frozen
class SocketAccepted:
    """A client has connected."""

    attach: Callable[[Ref[ConnectionFact]], None] = field(repr=False)
    """Says who gets what the socket tells; what it told before is kept until then."""
    socket: Socket = field(repr=False)
    peer: Peer

    def summary(self) -> str:
        return self.peer.address


ListenerMessage = SocketAccepted | Drain | ChangeLimits | ConnectionNews | Exited


_MOST_REMEMBERED: Final = 64
_LONGEST_REMEMBERED: Final = 200
_remembered: Final[dict[tuple[object, ...], str]] = {}
"""What was said of the heads of requests that came before."""


def _fields_summary(pairs: list[Pair], ended: bool = False) -> str:
    """The pseudo-headers, without a path's query, and how many others there are."""
    # Most requests are like one that came before: looking it up takes a third of making a text of it anew.
    key = (*pairs[:4], len(pairs), ended)
    if (known := _remembered.get(key)) is not None:
        return known
    shown = []
    for name, value in pairs:
        if name[:1] != b":":
            break  # they come first (RFC 9113, 8.3)
        shown.append(value.partition(b"?")[0] if name == b":path" else value)
    text = b" ".join(shown).decode("latin-1")
    said = f"{text} +{len(pairs) - len(shown)}{', ended' if ended else ''}"
    # Nothing that is long, and no query, which may be a secret.
    if len(shown) == 4 and len(text) == sum(len(value) for _, value in pairs[:4]) + 3 <= _LONGEST_REMEMBERED:
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[key] = said
    return said
