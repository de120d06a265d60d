"""What the wire knows of each stream, and how many both sides count as open (no I/O)."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from actors.headers import Pair


@define(eq=False)
class Window:
    """How far a receive window has grown (the manner of a reader, not h2's count of what is left of it)."""

    size: int = 0
    read: int = 0
    """Bytes read since it last grew."""

    def grow(self, start: int, most: int, read: int) -> int:
        """By how much to grow a window after ``read`` bytes: it doubles each time that it was read twice over."""
        self.read += read
        size = self.size or start
        if self.read < 2 * size or size >= most:
            return 0
        self.read, self.size = 0, min(2 * size, most)
        return self.size - size


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
    bodyless: bool = False
    """Whether the answer has no body, because the request asked for a head."""
    window: Window = field(factory=Window)


class Records:
    """The records of one connection by stream id; the one place where a stream's state changes."""

    __slots__ = ("_by_id", "get", "open")

    def __init__(self) -> None:
        self._by_id: dict[int, Record] = {}
        self.get = self._by_id.get
        self.open = 0
        """Streams that both sides count as open (RFC 9113, 5.1.2)."""

    def __getitem__(self, stream_id: int) -> Record:
        return self._by_id[stream_id]

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, record: Record) -> Record:
        """A new stream."""
        self._by_id[record.id] = record
        self.open += 1
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
            self.open -= 1
