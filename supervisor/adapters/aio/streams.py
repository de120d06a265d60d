"""The streams of one connection as aioh2 numbers them: what is read of each, what is sent, and which are remembered.

A stream is remembered while it is open. Once it is over, it counts as known where somebody asked for something of it
and nothing is left to be read, else as unread. The oldest of both are forgotten; of the unread ones only after many
more, so that who reads late still finds them, and who never reads holds no memory for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeAlias

from actors.client_stream import ClientStream
from actors.errors import LinkError, Misuse
from actors.server_stream import ServerStream
from supervisor.adapters.aio.errors import NoSuchStream, SendException

MOST_KNOWN: Final = 256
"""Streams that are over and known, whose trailers can still be asked for; sometimes twice as many are there."""
MOST_UNREAD: Final = 4096
"""Streams that are over and were not read."""
MOST_UNREAD_BYTES: Final = 64 * 1024 * 1024
"""Bytes of those."""

Stream: TypeAlias = ClientStream | ServerStream


class Entry:
    """One stream, and what its callers have of it."""

    __slots__ = ("_left", "_reading", "_sending", "given", "id", "loan", "seen", "stream", "timer")

    def __init__(self, id: int, stream: Stream, loan: AbstractAsyncContextManager[ClientStream] | None = None) -> None:
        """``loan`` is what a client's stream was entered with, and is to be left."""
        self.id = id
        self.stream = stream
        self.loan = loan
        self.seen = loan is None
        """Whether anything of it was asked for."""
        self.given = 0
        """Bytes that were given to be sent."""
        self.timer: asyncio.TimerHandle | None = None
        """What looks whether somebody still wants the peer's side, once ours has ended."""
        self._left = b""
        self._reading: asyncio.Lock | None = None
        self._sending: asyncio.Lock | None = None

    @property
    def unread(self) -> int:
        return len(self._left) + self.stream.unread

    @property
    def is_being_read(self) -> bool:
        return self._reading is not None and self._reading.locked()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, size: int | None) -> bytes:
        """What ``read_stream`` gives; readers take turns, and one that is cancelled leaves what it had to the next."""
        if self._reading is None:
            self._reading = asyncio.Lock()
        async with self._reading:
            if size is None:
                left, self._left = self._left, b""
                return left or await self.stream.read_frame()
            if size < 0:
                rest = await self.stream.read(-1)
                left, self._left = self._left, b""
                return left + rest
            return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        pieces, have = [self._left], len(self._left)
        self._left = b""
        try:
            while have < size and (piece := await self.stream.read_frame()):
                pieces.append(piece)
                have += len(piece)
        except BaseException:
            self._left = b"".join(pieces)
            raise
        data = b"".join(pieces)
        self._left = data[size:]
        return data[:size]

    # --- sending ------------------------------------------------------------------------------------------------------

    def sending(self) -> asyncio.Lock:
        """Who sends holds it, so that bodies do not mix."""
        if self._sending is None:
            self._sending = asyncio.Lock()
        return self._sending

    async def send(self, data: bytes, most: int, *, end: bool) -> None:
        """Send all of it, at most ``most`` bytes ahead of what has gone out. Raises SendException with what did not."""
        async with self.sending():
            start, stream, waits = self.given, self.stream, False
            try:
                if not data or (isinstance(stream, ServerStream) and stream.method == "HEAD"):
                    await stream.send(data)  # nothing goes out: to HEAD there is no body
                elif len(data) <= most and stream.goes_at_once(len(data)):
                    await stream.send(data, end=end)
                    if end:
                        return  # nobody is told what goes out with the end
                    self.given += len(data)
                else:
                    await self._send_ahead(data, most)
                    waits = True
                if end:
                    await stream.end()
                if waits:
                    await stream.until_gone(self.given)
            except LinkError as error:
                gone = min(max(stream.gone - start, 0), len(data))
                raise SendException(data[gone:], f"not sent to the end: {error}", outcome=error.outcome) from error

    async def _send_ahead(self, data: bytes, most: int) -> None:
        at = 0
        while at < len(data):
            if self.given - self.stream.gone >= most:
                await self.stream.until_gone(self.given - most + 1)
            piece = data[at : at + most - (self.given - self.stream.gone)]
            await self.stream.send(piece)
            self.given += len(piece)
            at += len(piece)

    async def finish(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """End our side, behind what others are sending."""
        async with self.sending():
            await self.stream.end(trailers)


class Streams:
    """The streams of one connection that are remembered."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._over: list[Entry] = []
        self._bytes = 0
        """Bytes that those had unread when they were last looked at."""
        self._look_at = MOST_KNOWN
        self._last = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, over: Callable[[Entry], object]) -> None:
        """Remember a stream that begins; ``over`` is called once it is over."""
        self._entries[entry.id] = entry
        self._last = max(self._last, entry.id)

        def is_over() -> None:
            over(entry)
            self._over.append(entry)
            self._bytes += entry.unread
            if len(self._over) > self._look_at or self._bytes > MOST_UNREAD_BYTES:
                self._tidy()

        entry.stream.when_over(is_over)

    def find(self, stream_id: int) -> Entry:
        """Raises NoSuchStream."""
        if type(stream_id) is not int:
            raise Misuse(f"a stream's id is a number, as start_request() and recv_request() give it, not {stream_id!r}")
        entry = self._entries.get(stream_id)
        if entry is None:
            why = "it has ended, and was forgotten" if 0 < stream_id <= self._last else "it was never opened"
            raise NoSuchStream(f"there is no stream {stream_id}: {why}")
        return entry

    def _tidy(self) -> None:
        """Forget the oldest of those that are over: the known ones soon, the unread ones where there are too many."""
        known = [entry for entry in self._over if entry.seen and not entry.unread]
        unread = [entry for entry in self._over if not entry.seen or entry.unread]
        held = sum(entry.unread for entry in unread)
        gone, first = known[:-MOST_KNOWN], 0
        # Down to three quarters, so that this is not done anew for each that follows.
        while len(unread) - first > MOST_UNREAD * 3 // 4 or held > MOST_UNREAD_BYTES * 3 // 4:
            held -= unread[first].unread
            first += 1
        for entry in (*gone, *unread[:first]):
            del self._entries[entry.id]
        self._over = known[-MOST_KNOWN:] + unread[first:]
        self._bytes = held
        self._look_at = len(self._over) + MOST_KNOWN


class Numbers:
    """The ids that a client gives its streams: those on the wire, and after a reconnect higher ones."""

    def __init__(self) -> None:
        self._connection = ""
        self._offset = 0
        self._last = 0

    def number(self, stream: Stream) -> int:
        """An id that no stream had before."""
        if stream.connection != self._connection:
            self._connection = stream.connection
            self._offset = self._last + self._last % 2
        number = self._offset + stream.id
        self._last = max(self._last, number)
        return number
