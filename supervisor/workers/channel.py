"""What a parent and a worker say to each other, and the sockets that go with it, over one end of a socket pair.

Everything happens in callbacks of the loop: there is no task that could be cancelled between a socket and its message.
The kernel hands a socket over no later than with the first byte of its message, so they match up by their order.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from attrs import define

from actors.errors import LimitReached, Misuse, ProtocolViolation, TransportLost
from actors.transport import reason_of
from supervisor.workers.spoken import LENGTH_SIZE, MAX_MESSAGE, Spoken, Take, decode, encode

MESSAGES_PER_TURN: Final = 64
"""Messages that are told, or written, before the loop serves others."""
MOST_UNSENT: Final = 4 * 1024 * 1024
"""Bytes that may wait behind the message that is on its way, which may be long; and one more message, behind them."""
READ_SIZE: Final = 64 * 1024
MOST_FILES: Final = 253
"""Files that the kernel hands over at once (SCM_MAX_FD)."""
SEND_PAUSE: Final = 0.1
"""Seconds until the system is asked again that had no memory for a message."""
ANCILLARY: Final = socket.CMSG_SPACE(MOST_FILES * array("i").itemsize)
RECEIVE_FLAGS: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
SEND_FLAGS: Final = getattr(socket, "MSG_NOSIGNAL", 0)
# ETOOMANYREFS: more sockets than files may be open are on their way, or wait in the buffers of workers.
SHORT_OF: Final = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
GONE: Final = (BrokenPipeError, ConnectionResetError)
NO_ROOM: Final = "a socket was lost on a channel: this process may open too few files; raise the limit (ulimit -n)"


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends for a channel, which only who is given one explicitly inherits."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Channel:
    """Messages of :mod:`supervisor.workers.spoken`, and sockets with them, over one end of a socket pair.

    ``told`` gets each message in order, and the socket of a :class:`~supervisor.workers.spoken.Take`, which is the
    receiver's to close. ``lost`` is called once, behind the last of them: with None where the other side has ended,
    else with the reason. After :meth:`close` neither is called.
    """

    def __init__(
        self,
        end: socket.socket,
        told: Callable[[Spoken, socket.socket | None], object],
        lost: Callable[[Exception | None], object],
    ) -> None:
        """``end`` is the channel's from now on."""
        end.setblocking(False)
        self._end: Final = end
        self._told: Final = told
        self._lost: Final = lost
        self._loop: Final = asyncio.get_running_loop()
        self._arrived: Final = _Arrived()
        self._queue: deque[_Unsent] = deque()
        self._unsent = 0
        self._closed = False
        self._mute = False
        """Whether nothing can be sent any more: what has come is told before the channel is lost."""
        self._cause: Exception | None = None
        self._reading = self._writing = False
        self._rest: asyncio.Handle | None = None
        """The turn in which more of what came is told."""
        self._pause: asyncio.TimerHandle | None = None
        self._read()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the other side."""
        return self._unsent

    def tell(self, message: Spoken, connection: socket.socket | None = None) -> None:
        """Send a message, and with a ``Take`` the socket of its connection: the caller keeps its own until it is taken.

        Does nothing once the channel is lost or closed. Raises Misuse for a socket with another message and a Take
        without an open one, and LimitReached for a message that is too long.
        """
        if isinstance(message, Take) is not (connection is not None):
            raise Misuse(f"a socket goes with each Take and with nothing else, not {connection!r} with {message!r}")
        if connection is not None and connection.fileno() < 0:
            raise Misuse(f"the socket of {message!r} is closed: keep it open until it is taken")
        if self._closed or self._mute:
            return
        unsent = _Unsent(memoryview(encode(message)), connection)
        if not self._queue and self._send(unsent):
            return
        if self._queue and self._unsent - len(self._queue[0].data) > MOST_UNSENT:
            self._fall_silent(LimitReached(f"the other side of a channel does not read: {self._unsent} bytes wait"))
        if not self._mute:
            unsent.keep()
            self._queue.append(unsent)
            self._unsent += len(unsent.data)
            self._write()

    def close(self) -> None:
        """Say and hear no more; what was not sent or told is dropped, and its sockets are closed."""
        if self._closed:
            return
        self._closed = True
        self._drop_queue()
        self._stop_reading()
        if self._rest is not None:
            self._rest.cancel()
        self._end.close()
        self._arrived.close()

    def _lose(self, cause: Exception | None) -> None:
        self.close()
        self._lost(cause)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._end, self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._end)

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._end.recvmsg(READ_SIZE, ANCILLARY, RECEIVE_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except GONE:
            data, ancillary, flags = b"", [], 0
        except OSError as error:
            self._lose(TransportLost.because(f"a channel cannot be read: {reason_of(error)}", error))
            return
        self._arrived.add(data, ancillary, whole=not flags & socket.MSG_CTRUNC)
        if data:
            self._tell_some()
        elif self._cause is None and self._arrived.is_torn():
            self._lose(TransportLost("the other side of a channel ended in the middle of a message"))
        else:
            self._lose(self._cause)

    def _tell_some(self) -> None:
        self._rest = None
        for _ in range(MESSAGES_PER_TURN):
            try:
                found = self._arrived.next()
            except ProtocolViolation as error:
                self._lose(error)
                return
            if found is None:
                self._read()
                return
            self._told(*found)
            if self._closed:
                return
        self._stop_reading()  # until these are told: what the other side says meanwhile waits in the kernel
        self._rest = self._loop.call_soon(self._tell_some)

    # --- what goes ----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if not self._writing and self._pause is None:
            self._writing = True
            self._loop.add_writer(self._end, self._writable)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._end)

    def _writable(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            first = self._queue[0]
            size = len(first.data)
            gone = first.is_void() or self._send(first)
            if self._mute:
                return
            self._unsent -= size if gone else size - len(first.data)
            if not gone:
                return
            self._queue.popleft()
            if not self._queue:
                self._stop_writing()
                return

    def _send(self, unsent: _Unsent) -> bool:
        """Whether the message has gone out to its end."""
        try:
            sent = self._end.sendmsg([unsent.data], unsent.ancillary(), SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return False
        except GONE:
            self._fall_silent(None)
            return False
        except OSError as error:
            if error.errno in SHORT_OF:
                self._stop_writing()
                self._pause = self._loop.call_later(SEND_PAUSE, self._try_again)
            else:
                self._fall_silent(TransportLost.because(f"a channel cannot be written: {reason_of(error)}", error))
            return False
        unsent.sent(sent)
        return not unsent.data

    def _try_again(self) -> None:
        self._pause = None
        self._write()

    def _fall_silent(self, cause: Exception | None) -> None:
        """Send no more; once all that has come is told, the channel is lost for this cause."""
        self._mute, self._cause = True, cause
        self._drop_queue()
        with suppress(OSError):  # the other side may have done that for us
            self._end.shutdown(socket.SHUT_RDWR)  # what came can still be read, and then the end

    def _drop_queue(self) -> None:
        self._stop_writing()
        if self._pause is not None:
            self._pause.cancel()
        while self._queue:
            self._queue.popleft().drop()
        self._unsent = 0


@define(eq=False)
class _Unsent:
    """What there is left to send of a message."""

    data: memoryview
    connection: socket.socket | None
    _ours: bool = False

    def keep(self) -> None:
        """Have a socket of its own: the caller's may be closed before this one is sent."""
        if self.connection is not None:
            with suppress(OSError):  # no file is left: the caller's own has to do
                self.connection, self._ours = self.connection.dup(), True

    def is_void(self) -> bool:
        """Whether the caller has closed the socket that was to go with it."""
        return self.connection is not None and self.connection.fileno() < 0

    def ancillary(self) -> list[tuple[int, int, array[int]]]:
        if self.connection is None:
            return []
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self.connection.fileno()]))]

    def sent(self, size: int) -> None:
        """So many bytes have gone out, and the socket with the first of them."""
        self.data = self.data[size:]
        self.drop()

    def drop(self) -> None:
        if self.connection is not None and self._ours:
            self.connection.close()
        self.connection = None


class _Arrived:
    """What has come and was not told yet."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._sockets: deque[socket.socket | None] = deque()
        """None for a file that is no socket."""
        self._whole = True

    def add(self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]], *, whole: bool) -> None:
        """``whole``: all files came that were sent along."""
        self._bytes += data
        self._whole &= whole
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files = array("i")
                files.frombytes(raw[: len(raw) - len(raw) % files.itemsize])
                self._sockets.extend(map(_socket_of, files))

    def next(self) -> tuple[Spoken, socket.socket | None] | None:
        """The next message, and the socket of a ``Take``; None where it is not here yet. Raises ProtocolViolation."""
        if len(self._bytes) >= LENGTH_SIZE:
            length = int.from_bytes(self._bytes[:LENGTH_SIZE])
            if length > MAX_MESSAGE:
                raise ProtocolViolation(f"a message of {length} bytes on a channel: {MAX_MESSAGE} are the most")
            if len(self._bytes) >= LENGTH_SIZE + length:
                message = decode(bytes(self._bytes[LENGTH_SIZE : LENGTH_SIZE + length]))
                del self._bytes[: LENGTH_SIZE + length]
                return message, self._take_socket() if isinstance(message, Take) else None
        if not self._whole:
            raise ProtocolViolation(NO_ROOM)
        # One may belong to the message of which a part is here.
        if len(self._sockets) > bool(self._bytes):
            raise ProtocolViolation("a socket came over a channel without a Take")
        return None

    def _take_socket(self) -> socket.socket:
        taken = self._sockets.popleft() if self._sockets else None
        if taken is None:
            raise ProtocolViolation("a Take came over a channel without its socket" if self._whole else NO_ROOM)
        return taken

    def is_torn(self) -> bool:
        """Whether a part of a message is here."""
        return bool(self._bytes)

    def close(self) -> None:
        while self._sockets:
            if (left := self._sockets.popleft()) is not None:
                left.close()


def _socket_of(file: int) -> socket.socket | None:
    try:
        return socket.socket(fileno=file)
    except OSError:
        os.close(file)
        return None
