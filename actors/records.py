"""What the wire knows of each stream, and how many both sides count as open (no I/O)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from attrs import define, field

from actors.headers import Pair


@define(eq=False)
class Window:
    """How far a receive window has grown (the manner of a reader, not h2's count of what is left of it)."""

    size: int = 0
    read: int = 0
    """Bytes read since it last grew."""

    def due(self, start: int, most: int, read: int) -> int:
        """By how much to grow after ``read`` bytes more: a window doubles each time that it was read twice over."""
        self.read += read
        self.size = self.size or start
        return min(self.size, most - self.size) if self.read >= 2 * self.size and self.size < most else 0

    def grow(self, more: int) -> int:
        """Count that it grew by ``more``, and return that."""
        self.read = 0
        self.size += more
        return more


@define(eq=False)
class Record:
    """What the wire knows of one stream."""

    id: int
    weight: int = 16
    queue: deque[bytes | memoryview] = field(factory=deque)
    trailers: list[Pair] | None = None
    ending: bool = False
    """END_STREAM is sent, or waits behind the queue."""
    local_ended: bool = False
    remote_ended: bool = False
    over: bool = False
    """Reset, by either side."""
    released: bool = False
    """Its actor has ended; the record stays only until its queue is out."""
    closed: bool = False
    """Ended by both sides, or over: the peer does not count it any more."""
    deficit: int = 0
    queued: int = 0
    made: int = 0
    """Bytes that went out and that the stream was not told of."""
    owed: int = 0
    """Bytes of flow control that the peer has not got back."""
    promised: int | None = None
    """Bytes of body that the peer's head promises."""
    received: int = 0
    head: int = 0
    """Bytes of the header list that its handler holds."""
    tunnel: bool = False
    """Whether it is a CONNECT, whose bodies have no length (RFC 9110, 9.3.6)."""
    headed: bool = False
    """Whether the peer's final head came."""
    bodyless: bool = False
    """Whether the answer has no body, because the request asked for a head."""
    window: Window = field(factory=Window)
    opened: float = 0.0
    """When its HEADERS came, in the seconds of the wire's clock."""
    answered: bool = False
    """Whether our response's head went out."""
    authority: bytes = b""
    """Whom a client's request is for; promises must be for the same."""
    moved: float = 0.0
    """When the last byte of its queue went out, or the queue began."""
    kept: float = 0.0
    """When the last byte that is owed was read, or the first came."""
    came: float = 0.0
    """When the peer last said something on it, but for the head of a request."""
    widened: int = 0
    """Bytes by which the peer has opened its window beyond what each stream begins with, as far as is known."""


class Records:
    """The records of one connection by stream id; the one place where a stream's state changes."""

    __slots__ = ("_by_id", "clock", "get", "open", "promised")

    def __init__(self) -> None:
        self._by_id: dict[int, Record] = {}
        self.get = self._by_id.get
        self.open = 0
        """Streams of the client's that both sides count as open (RFC 9113, 5.1.2)."""
        self.promised = 0
        """Streams of the server's that are promised or open."""
        self.clock: Callable[[], float] = float
        """What tells the time; it stands still until the wire starts."""

    def __iter__(self) -> Iterator[Record]:
        return iter(self._by_id.values())

    def __getitem__(self, stream_id: int) -> Record:
        return self._by_id[stream_id]

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, record: Record) -> Record:
        """A new stream."""
        self._by_id[record.id] = record
        self._count(record, 1)
        return record

    def forget(self, record: Record) -> None:
        """Nothing will be said of the stream any more."""
        del self._by_id[record.id]

    def end_remote(self, record: Record) -> None:
        """The peer has ended its side."""
        record.remote_ended = True
        if record.local_ended:
            self.close(record)

    def end_local(self, record: Record) -> None:
        """Our END_STREAM went out."""
        record.local_ended = True
        if record.remote_ended:
            self.close(record)

    def close(self, record: Record) -> None:
        """Neither side counts the stream any more; closing twice is closing once."""
        if not record.closed:
            record.closed = True
            self._count(record, -1)

    def _count(self, record: Record, more: int) -> None:
        if record.id % 2:
            self.open += more
        else:
            self.promised += more
