"""What is queued for each stream, and how it is pumped into h2 (no I/O).

A round gives each stream that is ready ``weight`` KiB, until the windows, the socket or the turn's budget say stop.
Trailers and END_STREAM wait behind the data. A stream whose own window is closed waits apart, so that it costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from h2.exceptions import NoSuchStreamError

from actors.headers import Pair
from actors.memory import Account
from actors.protocol import Protocol
from actors.records import Record, Records
from actors.settings import Limits

BYTES_PER_PUMP: Final = 256 * 1024
"""Bytes of bodies that one turn puts out, so that the socket's backpressure is seen in time."""
TINY: Final = 8
"""Bytes below which a DATA frame counts for nothing: a peer's credit of single bytes buys it no more of them."""
BYTES_PER_WEIGHT: Final = 1024
"""Bytes that a stream of weight 1 gets in a round."""


class Outbox:
    """The outbound queues of one connection."""

    def __init__(
        self, h2: Protocol, records: Records, memory: Account, *, limits: Limits, flushed: Callable[[Record], None]
    ) -> None:
        """``flushed`` gets each released record whose queue is out."""
        self.writable = True
        """Whether the socket takes more; while it does not, bodies wait and only frames without bodies are made."""
        self.budget = BYTES_PER_PUMP
        """Bytes that may still be put out in this turn."""
        self.sent = 0
        """Bytes of bodies that went out since somebody set this to 0."""
        self.frames = 0
        """The same for the frames that they went out in, but for tiny ones before the end of their stream."""
        self.spoke = False
        """Whether HEADERS or DATA went out since somebody set this to False; ``sent`` is known only afterwards."""
        self._h2 = h2
        self._records = records
        self._memory = memory
        self.change(limits)
        self._flushed = flushed
        self._ready: dict[int, Record] = {}
        self._blocked: dict[int, Record] = {}
        self._room: dict[int, Record] = {}
        self._now = 0.0
        self._widest = h2.outbound_flow_control_window

    def change(self, limits: Limits) -> None:
        """Let other limits hold for what is put out from now on."""
        self._low = limits.send_buffer // 2
        # A padded frame has one byte more, which says how much padding follows (RFC 9113, 6.1).
        self._padding = limits.padding or None
        self._overhead = limits.padding + 1 if limits.padding else 0

    @property
    def has_output(self) -> bool:
        """Whether another :meth:`pump` could move data now."""
        return bool(self._ready) and self.writable and self._h2.outbound_flow_control_window > 0

    @property
    def spare(self) -> int:
        """Bytes of a stream with nothing queued that would go out at once, as far as the stream's own window allows."""
        return 0 if self._ready or not self.writable else min(self._h2.outbound_flow_control_window, BYTES_PER_PUMP)

    def put(self, record: Record, data: bytes | memoryview, *, end: bool, trailers: list[Pair] | None) -> None:
        """Queue data, and with ``end`` the end of our side behind it; what can go out at once does."""
        record.ending, record.trailers = end, trailers
        size = len(data)
        if size:
            if not self._ready and not record.queue and self._send_at_once(record, data, size):
                return
            if not record.queue:
                record.moved = self._records.clock()
            record.queue.append(data)
            record.queued += size
            self._memory.take(size)
        if not record.queue:
            self._send_quantum(record)  # END_STREAM and trailers need no window (RFC 9113, 5.2.1)
        elif record.id not in self._blocked:
            self._ready[record.id] = record

    def pump(self) -> None:
        """Move queued data into frames: a round gives each ready stream ``weight`` KiB, until something says stop."""
        ready = self._ready
        self._now = self._records.clock()
        while ready and self.writable and self.budget > 0:
            record = next(iter(ready.values()))
            del ready[record.id]
            alone = not ready
            quantum = BYTES_PER_WEIGHT * record.weight
            record.deficit = self.budget if alone else min(record.deficit, quantum) + quantum
            if self._send_quantum(record):
                ready[record.id] = record
                if self._h2.outbound_flow_control_window <= 0:
                    return

    def _send_quantum(self, record: Record) -> bool:
        """Send up to the record's deficit; True if it should have another turn."""
        h2, queue, stream_id, overhead = self._h2, record.queue, record.id, self._overhead
        try:
            while queue and record.deficit > 0:
                window = h2.local_flow_control_window(stream_id)
                if window <= 0:
                    if h2.outbound_flow_control_window > 0:
                        self._blocked[stream_id] = record
                        return False
                    return True
                padded = overhead if window > overhead else 0  # no window is too small for a byte without padding
                data = _take(queue, min(window - padded, h2.max_outbound_frame_size - padded, record.deficit))
                last = record.ending and not queue and record.trailers is None
                h2.send_data(stream_id, data, last, self._padding if padded else None)
                size = len(data)
                self._memory.give(size)
                self.sent += size
                self.frames += size >= TINY or (record.ending and not queue)
                record.deficit -= size
                self.budget -= size
                if last:
                    self._records.end_local(record)
                record.made += size
                self._room[stream_id] = record
                record.queued -= size
                record.moved = self._now
            if queue:
                return True
            record.deficit = 0
            if record.ending and not record.local_ended:
                self.spoke = True
                if record.trailers is not None:
                    h2.send_headers(stream_id, record.trailers, end_stream=True)
                else:
                    h2.end_stream(stream_id)
                self._records.end_local(record)
        except NoSuchStreamError:  # it closed meanwhile
            self.abandon(record)
        if record.released:
            self._flushed(record)
        return False

    def take_room(self) -> list[tuple[int, int]]:
        """How much room was made, by stream; told only once a queue is half empty, so that a sender wakes seldom."""
        if not self._room:
            return []
        low = self._low
        told = [record for record in self._room.values() if record.queued <= low]
        room = [(record.id, record.made) for record in told]
        for record in told:
            record.made = 0
            del self._room[record.id]
        return room

    def unblock(self, stream_id: int) -> None:
        """The window of the stream has opened, or for 0 that of the connection."""
        self._widened(stream_id)
        if record := self._blocked.pop(stream_id, None):
            self._ready[stream_id] = record

    def _widened(self, stream_id: int) -> None:
        """See how far the peer has ever opened a window: what is missing of that, it has not given back."""
        h2 = self._h2
        if not stream_id:
            self._widest = max(self._widest, h2.outbound_flow_control_window)
        elif (record := self._records.get(stream_id)) is not None and (stream := h2.streams.get(stream_id)) is not None:
            record.widened = max(
                record.widened, stream.outbound_flow_control_window - h2.remote_settings.initial_window_size
            )

    @property
    def outstanding(self) -> int:
        """Bytes that the peer was sent and has not given back, over all streams."""
        return max(self._widest - self._h2.outbound_flow_control_window, 0)

    def windows(self, record: Record, initial: int) -> tuple[int, int]:
        """What the peer takes on a stream, were it alone, and what it has not given back of it.

        ``initial`` is what each stream begins with (SETTINGS_INITIAL_WINDOW_SIZE of the peer's).
        """
        stream = self._h2.streams.get(record.id)
        if stream is None:
            return 0, 0
        window = stream.outbound_flow_control_window
        return max(window, 0), max(initial + record.widened - window, 0)

    def unblock_all(self) -> None:
        """Any stream's window may have opened."""
        self._ready.update(self._blocked)
        self._blocked.clear()

    def _send_at_once(self, record: Record, data: bytes | memoryview, size: int) -> bool:
        """Whether a piece with nothing before it went out whole, without a turn in the queue."""
        h2, whole = self._h2, size + self._overhead
        if not self.writable or size > self.budget or whole > h2.max_outbound_frame_size:
            return False
        try:
            if whole > h2.local_flow_control_window(record.id):
                return False
            last = record.ending and record.trailers is None
            h2.send_data(record.id, data, last, self._padding)
        except NoSuchStreamError:  # it closed meanwhile
            self.abandon(record)
            return True
        self.budget -= size
        self.sent += size
        self.frames += size >= TINY or record.ending
        if last:
            self._records.end_local(record)
        elif record.ending:
            self._send_quantum(record)
        else:
            record.made += size
            self._room[record.id] = record
        return True

    def reset(self, record: Record, code: int) -> None:
        """Send RST_STREAM, once, and drop what was queued; nothing happens to a stream that is over."""
        if record.over or (record.local_ended and record.remote_ended):
            return
        self.abandon(record)
        with suppress(NoSuchStreamError):  # it closed meanwhile
            self._h2.reset_stream(record.id, code)

    def abandon(self, record: Record) -> None:
        """The stream was reset, by either side: nothing more goes out on it, and neither side counts it."""
        record.queue.clear()
        self._memory.give(record.queued)
        record.queued = 0
        record.trailers = None
        record.ending = True
        for waiting in (self._ready, self._blocked, self._room):
            waiting.pop(record.id, None)
        record.over = True
        self._records.close(record)


def _take(queue: deque[bytes | memoryview], limit: int) -> bytes | memoryview:
    """At most ``limit`` bytes from the front; small pieces are joined, so that they do not cost a frame each."""
    first = queue.popleft()
    if len(first) > limit:
        view = memoryview(first)
        queue.appendleft(view[limit:])
        return view[:limit]
    if not queue or len(first) + len(queue[0]) > limit:
        return first
    pieces, size = [first], len(first)
    while queue and size + len(queue[0]) <= limit:
        size += len(queue[0])
        pieces.append(queue.popleft())
    return b"".join(pieces)
