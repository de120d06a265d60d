"""Who may hold how much: queues and windows of one connection, and of all connections together (no I/O).

Half of ``Limits.process_bytes`` is for windows: what peers may send beyond the 65,535 bytes that each connection has by
right. The other half is for queues: bytes that wait to go out, and bodies that are collected for a ``read()`` to the
end. So the sum holds, whatever peers and handlers do. When a half is full, windows stay as they are, senders wait, and
new streams are refused; nothing that runs is ended.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from actors.settings import Limits

FREE: Final = 64 * 1024
"""Bytes that a connection may hold even while the process's pool is full."""


class Level:
    """A count of bytes with a mark at which it is full; it is full until an eighth of it is free again.

    Without that distance all who wait would wake for each byte that becomes free.
    """

    __slots__ = ("_low", "_most", "_waiting", "full", "held")

    def __init__(self, most: int) -> None:
        self.held = 0
        self.full = False
        self._most = most
        self._low = most - most // 8
        self._waiting: dict[object, Callable[[], None]] = {}

    def change(self, most: int) -> None:
        """Set the mark anew."""
        self._most, self._low = most, most - most // 8
        self.full = self.held >= most

    def take(self, size: int) -> None:
        """Count ``size`` bytes more; never refuses."""
        self.held += size
        if self.held >= self._most:
            self.full = True

    def give(self, size: int) -> None:
        """Count ``size`` bytes less, and wake those who wait once there is room."""
        self.held -= size
        if self.full and self.held < self._low:
            self.full = False
            waiting, self._waiting = self._waiting, {}
            for wake in waiting.values():
                wake()

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes more stay within the mark."""
        return self.held + size <= self._most

    def wake_later(self, who: object, wake: Callable[[], None]) -> None:
        """Call ``wake`` once when there is room, unless ``who`` is forgotten before."""
        self._waiting[who] = wake

    def forget(self, who: object) -> None:
        self._waiting.pop(who, None)


class Pool:
    """What the connections of a process share that were given the same ``process_bytes``."""

    __slots__ = ("queues", "windows")

    def __init__(self, size: int) -> None:
        self.windows = Level(size // 2)
        self.queues = Level(size - size // 2)


@functools.cache
def pool_of(process_bytes: int) -> Pool:
    """The one pool of that size in this process."""
    return Pool(process_bytes)


class Account:
    """What one connection holds; :meth:`close` gives all of it back, whoever has forgotten to."""

    __slots__ = ("_closed", "_kept", "_pool", "_queues", "_windows")

    def __init__(self, limits: Limits) -> None:
        self._pool = pool_of(limits.process_bytes)
        self._queues = Level(limits.connection_send_buffer)
        self._windows = 0
        self._kept = 0
        self._closed = False

    def change(self, limits: Limits) -> None:
        """Let another bound hold for this connection; the process's pool stays."""
        self._queues.change(limits.connection_send_buffer)

    @property
    def full(self) -> bool:
        """Whether senders must wait; who holds next to nothing need not suffer for those who hoard."""
        return self._queues.full or self.crowded

    @property
    def crowded(self) -> bool:
        """Whether the process has no room for more than what each connection has free."""
        return self._pool.queues.full and self._queues.held + self._kept >= FREE

    @property
    def held(self) -> int:
        """Bytes in the connection's queues."""
        return self._queues.held

    def keep(self, size: int) -> None:
        """``size`` bytes more are held for streams, apart from what they queue."""
        if not self._closed:
            self._kept += size
            self._pool.queues.take(size)

    def let_go(self, size: int) -> None:
        """``size`` bytes that were kept are gone."""
        if not self._closed:
            self._kept -= size
            self._pool.queues.give(size)

    def take(self, size: int) -> None:
        """``size`` bytes were queued."""
        if not self._closed:
            self._queues.take(size)
            self._pool.queues.take(size)

    def give(self, size: int) -> None:
        """``size`` bytes that were taken are gone."""
        if not self._closed:
            self._queues.give(size)
            self._pool.queues.give(size)

    def grant(self, size: int) -> bool:
        """Whether the peer may be let send ``size`` bytes more; if so, they are counted."""
        windows = self._pool.windows
        if self._closed or not windows.fits(size):
            return False
        windows.take(size)
        self._windows += size
        return True

    @contextmanager
    def waiting(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have ``wake`` called when there may be room again."""
        who, levels = object(), (self._queues, self._pool.queues)
        for level in levels:
            level.wake_later(who, wake)
        try:
            yield
        finally:
            for level in levels:
                level.forget(who)

    def close(self) -> None:
        """Give everything back; what is taken or given later changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._pool.queues.give(self._queues.held + self._kept)
        self._pool.windows.give(self._windows)
        self._queues.give(self._queues.held)
