"""Who may hold how much: one connection, those of one peer's address, of a server, and of the process (no I/O).

Half of ``Limits.process_bytes`` is for windows: what peers may send beyond the 65,535 bytes that each connection has by
right. The other half is for queues: bytes that wait to go out, bodies that are collected for a ``read()`` to the end,
and what each stream costs. So the sum holds, whatever peers and handlers do. When a half is full, windows stay as they
are, senders wait, and new streams are refused; nothing that runs is ended.

Those who hoard must not starve the others, so the last quarter of the half for queues is for connections that hold
little (``SMALL``), and when that is gone, too, each has ``FREE``: 64 MiB for the 1,024 connections that a server has at
most by default, which is all that the process may hold beyond ``process_bytes``.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from actors.errors import Misuse
from actors.settings import Limits

FREE: Final = 64 * 1024
"""Bytes that a connection may hold even while the process's pool is full."""
RESERVE: Final = 4
"""One part in so many of the queues' half is for connections that hold little."""
SMALL: Final = 128
"""One part in so many of it is little: by default 1 MiB, which is 100 streams; 32 connections may have all of that."""


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
        """Set the mark anew, and wake those who wait where there is room now."""
        self._most, self._low = most, most - most // 8
        self.full = self.held >= most
        if not self.full:
            self._wake()

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
            self._wake()

    def _wake(self) -> None:
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

    __slots__ = ("_most", "_small", "queues", "windows")

    def __init__(self, size: int) -> None:
        self._most = size - size // 2
        self._small = max(self._most // SMALL, FREE)
        self.windows = Level(size // 2)
        self.queues = Level(self._most - self._most // RESERVE)
        """Full for all but those who hold little."""

    def crowds_out(self, held: int) -> bool:
        """Whether who holds that much may hold no more; to be asked only while ``queues`` is full."""
        return held >= FREE and (held >= self._small or self.queues.held >= self._most)


@functools.cache
def pool_of(process_bytes: int) -> Pool:
    """The one pool of that size in this process."""
    return Pool(process_bytes)


class Account:
    """What one connection holds; :meth:`close` gives all of it back, whoever has forgotten to."""

    __slots__ = ("_closed", "_kept", "_peer", "_pool", "_queues", "_windows")

    def __init__(self, limits: Limits) -> None:
        self._pool = pool_of(limits.process_bytes)
        self._peer: Level | None = None
        self._queues = Level(limits.connection_send_buffer)
        self._windows = 0
        self._kept = 0
        self._closed = False

    def change(self, limits: Limits) -> None:
        """Let another bound hold for this connection; the process's pool stays."""
        self._queues.change(limits.connection_send_buffer)

    def join(self, peer: Level) -> None:
        """Count all that will be held for ``peer``, too: the connections of one address hold it together."""
        self._peer = peer

    @property
    def full(self) -> bool:
        """Whether senders must wait; who holds little need not suffer for those who hoard."""
        return self._queues.full or self.crowded

    @property
    def crowded(self) -> bool:
        """Whether the process has no room for more than what each connection has free, or the peer's address none."""
        if self._peer is not None and self._peer.full:
            return True
        pool = self._pool
        return pool.queues.full and pool.crowds_out(self._queues.held + self._kept)

    @property
    def short_of(self) -> str:
        """The name of the limit for which it is ``crowded``; empty while it is not."""
        if self._peer is not None and self._peer.full:
            return "peer_bytes"
        return "process_bytes" if self.crowded else ""

    @property
    def held(self) -> int:
        """Bytes in the connection's queues."""
        return self._queues.held

    def keep(self, size: int) -> None:
        """``size`` bytes more are held for streams, apart from what they queue."""
        if not self._closed:
            self._kept += size
            self._pool.queues.take(size)
            if self._peer is not None:
                self._peer.take(size)

    def let_go(self, size: int) -> None:
        """``size`` bytes that were kept are gone."""
        if not self._closed:
            self._kept -= size
            self._pool.queues.give(size)
            if self._peer is not None:
                self._peer.give(size)

    def take(self, size: int) -> None:
        """``size`` bytes were queued."""
        if not self._closed:
            self._queues.take(size)
            self._pool.queues.take(size)
            if self._peer is not None:
                self._peer.take(size)

    def give(self, size: int) -> None:
        """``size`` bytes that were taken are gone."""
        if not self._closed:
            self._queues.give(size)
            self._pool.queues.give(size)
            if self._peer is not None:
                self._peer.give(size)

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
        who, levels = object(), [self._queues, self._pool.queues]
        if self._peer is not None:
            levels.append(self._peer)
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
        held = self._queues.held + self._kept
        self._pool.queues.give(held)
        if self._peer is not None:
            self._peer.give(held)
        self._pool.windows.give(self._windows)
        self._queues.give(self._queues.held)


class Share:
    """What the connections of one peer's address hold together."""

    __slots__ = ("connections", "handlers", "host", "queues")

    def __init__(self, host: str, peer_bytes: int | None) -> None:
        self.host = host
        """Empty for a client without an address, whom no limit per peer concerns."""
        self.connections = 0
        self.handlers = 0
        self.queues = Level(peer_bytes) if peer_bytes is not None and host else None


class Quota:
    """What the connections of one server share: its handlers, and for each peer's address a :class:`Share`."""

    __slots__ = ("_limits", "_shares", "begun", "handlers", "refusals", "refused_streams")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shares: dict[str, Share] = {}
        self.handlers = 0
        """Those that run, also where their stream or their connection has ended."""
        self.begun = 0
        """Those that ever ran."""
        self.refusals: Counter[str] = Counter()
        """How often each limit refused something, by the limit's name."""
        self.refused_streams = 0
        """Streams that were refused for a limit, or because their connection drains."""

    def change(self, limits: Limits) -> None:
        """From now on other limits hold; ``peer_bytes`` begins to with the next connection where there was none."""
        self._limits = limits
        for share in self._shares.values():
            if share.queues is not None:
                share.queues.change(limits.peer_bytes if limits.peer_bytes is not None else limits.process_bytes)

    def join(self, host: str, account: Account) -> Share:
        """A connection of ``host`` begins, which holds what ``account`` counts."""
        share = self._shares.get(host)
        if share is None:
            share = Share(host, self._limits.peer_bytes)
            if host:
                self._shares[host] = share
        elif share.queues is None and self._limits.peer_bytes is not None:
            share.queues = Level(self._limits.peer_bytes)
        share.connections += 1
        if share.queues is not None:
            account.join(share.queues)
        return share

    def leave(self, share: Share) -> None:
        """A connection that joined has ended; its handlers may run on."""
        share.connections -= 1
        self._forget(share)

    def reached(self, share: Share) -> str:
        """The name of the limit that allows no further handler now; empty where there is none."""
        limits = self._limits
        if self.handlers >= limits.max_handlers:
            return "max_handlers"
        most = limits.max_handlers_per_peer
        return "max_handlers_per_peer" if most is not None and share.host and share.handlers >= most else ""

    def begin(self, share: Share) -> None:
        """A handler begins."""
        self.begun += 1
        self.handlers += 1
        share.handlers += 1

    def end(self, share: Share) -> None:
        """A handler has ended."""
        self.handlers -= 1
        share.handlers -= 1
        if not share.handlers:
            self._forget(share)

    def _forget(self, share: Share) -> None:
        if not share.connections and not share.handlers:
            self._shares.pop(share.host, None)


def check_quota(limits: Limits) -> None:
    """Raise Misuse for bounds of a part that are above those of the whole: they would never hold."""
    half = limits.process_bytes - limits.process_bytes // 2
    for part, of_part, whole, of_whole in (
        ("max_connections_per_peer", limits.max_connections_per_peer, "max_connections", limits.max_connections),
        ("max_handlers_per_peer", limits.max_handlers_per_peer, "max_handlers", limits.max_handlers),
        ("peer_bytes", limits.peer_bytes, "the half of process_bytes that is for queues", half),
    ):
        if of_part is not None and of_part > of_whole:
            raise Misuse(f"Limits.{part} ({of_part}) is above {whole} ({of_whole}) and would never hold: lower it")
