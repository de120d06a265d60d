"""What has come of a body and was not read yet."""

from __future__ import annotations

from collections import deque
from typing import Final

SMALL: Final = 512
"""Bytes below which a piece is joined to the one before it."""
JOINED: Final = 16 * 1024
"""Bytes up to which pieces are joined."""


class Pieces:
    """A queue of bytes, as they came."""

    __slots__ = ("_queue", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes in it."""
        self._queue: deque[bytes | bytearray | memoryview] = deque()

    def add(self, data: bytes) -> None:
        """Put ``data`` behind what is there."""
        queue, size = self._queue, len(data)
        self.size += size
        if size >= SMALL or not queue:
            queue.append(data)
            return
        # Small pieces that nobody reads are joined: each by itself would cost more than its bytes (CVE-2019-9511).
        last = queue[-1]
        if isinstance(last, bytearray) and len(last) < JOINED:
            last += data
        else:
            queue.append(bytearray(data))

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

    def take_all(self) -> bytes:
        """All that is there."""
        queue = self._queue
        data = bytes(queue[0]) if len(queue) == 1 else b"".join(queue)
        queue.clear()
        self.size = 0
        return data
