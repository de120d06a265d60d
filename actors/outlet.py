"""A connection's socket: what it was given, how much of that the other side took, and when it is not read."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any, Final

from actors.messages import Socket
from actors.outbox import BYTES_PER_PUMP
from actors.wire import Wire

TLS_RECORD: Final = 16 * 1024
CHOKED: Final = 1024 * 1024
"""Bytes in the socket above which nothing more is read from a peer that does not read.

Bodies stop long before; only heads and control frames reach it. Sooner, two ends could wait for each other.
"""


def shown(address: tuple[Any, ...]) -> str:
    """``HOST:PORT`` of a socket's address."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Outlet:
    """Writes to one socket, counts, and stops reading a peer that takes nothing."""

    __slots__ = ("_held_back", "_paused", "_socket", "_took", "_wire", "choked", "full_since", "local", "written")

    def __init__(self, socket: Socket, wire: Wire) -> None:
        self._socket = socket
        name = socket.get_extra_info("sockname")  # once: a socket under TLS that is closed does not know any more
        self.local = shown(name) if isinstance(name, tuple) else str(name or "")
        """Our own end's address: ``HOST:PORT``, a Unix socket's path, or empty for one without a name."""
        self._wire = wire
        self._paused = False
        self._held_back = 0
        self._took = 0
        self.choked = False
        """Whether the peer sends what needs answers, and does not read them."""
        self.full_since = 0.0
        """When it last began to be full."""
        self.written = 0
        """Bytes that the socket was given."""

    def write(self, data: bytes) -> None:
        """Give ``data`` to the socket; one that is closing takes nothing."""
        socket = self._socket
        if socket.is_closing():
            return
        self.written += len(data)
        # Of bytes asyncio copies what is left after each record of TLS, 16 KiB: a third of an upload's time.
        socket.write(memoryview(data) if len(data) > TLS_RECORD else data)
        if not self._wire.writable and socket.get_write_buffer_size() > CHOKED:
            self.choked = True
            self.read(False)

    def read(self, yes: bool) -> None:
        """Have the socket read, or let what comes wait in it; either may be said again."""
        if yes is self._paused and not self._socket.is_closing():
            self._paused = not yes
            if yes:
                self._socket.resume_reading()
            else:
                self._socket.pause_reading()

    def fill(self, full: bool) -> bool:
        """The socket is full, and what waits in it counts as ours, or it takes bytes again.

        Returns whether the peer was choked until now.
        """
        self._wire.writable = not full
        memory = self._wire.terms.memory
        memory.give(self._held_back)
        self._held_back = BYTES_PER_PUMP if full else 0
        memory.take(self._held_back)
        freed = self.choked and not full
        if freed:
            self.choked = False
        return freed

    def taken(self) -> int:
        """Bytes that the other side has taken since the beginning, as far as can be known here."""
        return self.written - self.waiting()

    def waiting(self) -> int:
        """Bytes that it was given and that the other side has not taken."""
        return self._socket.get_write_buffer_size() + _in_kernel(self._socket)

    def mark(self) -> bool:
        """Remember what was taken until now; returns whether that is more than at the last mark, and not all yet."""
        before, self._took = self._took, self.taken()
        return before < self._took < self.written

    def close(self, last_words: bytes) -> None:
        """Close behind what is still to go out."""
        if not self._socket.is_closing():  # asyncio would complain of writing to what has failed
            self._socket.write(last_words)
        self._socket.close()

    def abort(self) -> None:
        """Close, whatever is still to go out."""
        self._socket.abort()


def _in_kernel(socket: Socket) -> int:
    """Bytes that the kernel holds for the other side; asyncio hears of it only when a third of its buffer is free."""
    inner = socket.get_extra_info("socket")
    if inner is None:
        return 0
    try:
        held: int = struct.unpack("i", fcntl.ioctl(inner.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    except (OSError, ValueError):  # the system does not say, or it was closed
        return 0
    return held
