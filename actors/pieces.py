"""What has come of a body and was not read yet."""

from __future__ import annotations

from array import array
from collections import deque
from typing import Final

SMALL: Final = 512
"""Bytes below which a piece is joined to the one before it."""
JOINED: Final = 16 * 1024
"""Bytes up to which pieces are joined."""


class _Joined(bytearray):
    """Small pieces that were joined, and how long each of them that is left was."""

    __slots__ = ("at", "sizes")

    def __init__(self, first: bytes) -> None:
        super().__init__(first)
        self.sizes = array("H", (len(first),))
        self.at = 0
        """How many of the sizes are of pieces that were taken."""

    def grow(self, data: bytes) -> None:
        """Join another piece to them."""
        self += data
        self.sizes.append(len(data))

    def take(self) -> bytes:
        """The first of the pieces."""
        size = self.sizes[self.at]
        self.at += 1
        data = bytes(self[:size])
        del self[:size]
        return data


class Pieces:
    """A queue of bytes, as they came."""

    __slots__ = ("_queue", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes in it."""
        self._queue: deque[bytes | _Joined | memoryview] = deque()

    def add(self, data: bytes) -> None:
        """Put ``data`` behind what is there."""
        queue, size = self._queue, len(data)
        self.size += size
        if size >= SMALL or not queue:
            queue.append(data)
            return
        # Small pieces that nobody reads are joined: each by itself would cost more than its bytes (CVE-2019-9511).
        last = queue[-1]
        if isinstance(last, _Joined) and len(last) < JOINED:
            last.grow(data)
        else:
            queue.append(_Joined(data))

    def take(self, most: int) -> bytes:
        """All of it where that is at most ``most`` bytes; else the first piece, or ``most`` bytes of it."""
        if self.size <= most:
            return self.take_all()
        first = self._queue.popleft()
        if len(first) > most:
            # As bytes: a joined piece may still grow, which one with a view of it may not.
            view = memoryview(bytes(first) if isinstance(first, bytearray) else first)
            self._queue.appendleft(view[most:])
            first = view[:most]
        self.size -= len(first)
        return bytes(first)

    def take_frame(self) -> bytes:
        """The first piece as it came, or what :meth:`take` has left of it."""
        first = self._queue[0]
        if isinstance(first, _Joined):
            data = first.take()
            if not first:
                self._queue.popleft()
        else:
            data = bytes(self._queue.popleft())
        self.size -= len(data)
        return data

    def take_all(self) -> bytes:
        """All that is there."""
        queue = self._queue
        data = bytes(queue[0]) if len(queue) == 1 else b"".join(queue)
        queue.clear()
        self.size = 0
        return data
