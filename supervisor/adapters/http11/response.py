"""hyper's HTTP11Response: the head of a response over HTTP/1.1, and its body as it comes."""

from __future__ import annotations

import copy
import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeVar

from actors.errors import LinkError
from actors.settings import Limits
from supervisor.adapters.blocking.decoding import OF_THE_CODING, Decoder, decoder_for
from supervisor.adapters.blocking.errors import BadCall, NotOpen, TooMuch
from supervisor.adapters.blocking.header_map import HTTPHeaderMap
from supervisor.adapters.blocking.parts import check_size
from supervisor.adapters.blocking.turns import Turns
from supervisor.adapters.http11.errors import ChunkedDecodeError, IncompleteRead, translated
from supervisor.adapters.http11.wire import RawResponse, Wire, left_behind

D = TypeVar("D")
PIECE: Final = 64 * 1024
MOST_DECODED: Final = Limits().max_response_body
"""Bytes that ``read()`` to the end makes of an encoded body."""


class HTTP11Response(io.BufferedIOBase):
    """A response whose body is read as it is wanted; any thread may read it.

    Its connection serves the next request once the body is read to its end, and is closed with a response that is not.
    """

    def __init__(self, raw: RawResponse, wire: Wire, where: str, done: Callable[[Wire], None], url: str = "") -> None:
        self.status: int = raw.status
        self.reason: str = raw.reason
        self.version: int = raw.version
        """10 or 11, as http.client has it."""
        self.code = self.status
        self.chunked = bool(raw.chunked)
        self.will_close = bool(raw.will_close)
        self.url = url
        self.headers = _map_of(raw.msg)
        self._raw = raw
        self._wire: Wire | None = wire
        self._where = where
        self._done: Callable[[Wire], None] | None = done
        self._lock: Final = Turns(threading.RLock)
        self._buffer = bytearray()
        self._decoder: Decoder | None = decoder_for(self.headers.get(b"content-encoding", []))
        self._error: LinkError | None = None
        """What cut the body off; whoever reads on is told again."""
        self._decoded = False
        """Whether some of the body went through the decoder."""
        if raw.length == 0 and raw.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._decoder = None  # a body that is not there is not encoded either
            self._over()
        self._fields = _without_coding(raw.msg) if self._decoder is not None else raw.msg
        self.msg: http.client.HTTPMessage = self._fields
        """The headers as http.client has them: less Content-Encoding and Content-Length where the body is decoded."""

    # --- the body -----------------------------------------------------------------------------------------------------

    def read(self, amt: int | None = None, decode_content: bool = True) -> bytes:
        """The next ``amt`` bytes of the body, fewer at its end, ``b""`` behind it; without ``amt`` all that follows.

        gzip and deflate are decoded, unless ``decode_content`` is False from the first read on. Raises
        http.client.IncompleteRead where the connection ends before the body, and ReadTimedOut.
        """
        check_size(amt)
        with self._lock:
            while amt is None or amt < 0 or len(self._buffer) < amt:
                wanted = PIECE if amt is None or amt < 0 else min(PIECE, amt - len(self._buffer))
                if not (data := self._next(wanted, decode_content)):
                    break
                self._buffer += data
                if self._decoder is not None and (amt is None or amt < 0) and len(self._buffer) > MOST_DECODED:
                    raise TooMuch(f"the decoded body is longer than {MOST_DECODED} bytes: read it in pieces")
            return self._cut(amt)

    def _cut(self, amt: int | None) -> bytes:
        end = len(self._buffer) if amt is None or amt < 0 else amt
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        return data

    def read1(self, amt: int | None = -1) -> bytes:
        """Up to ``amt`` bytes, as soon as there are any."""
        check_size(amt)
        with self._lock:
            most = PIECE if amt is None or amt < 0 else amt
            return self._cut(most) if self._buffer or not most else self._next(most, True)

    def readline(self, size: int | None = -1, /) -> bytes:
        """The next line with its end, or up to ``size`` bytes of it."""
        check_size(size)
        return super().readline(size)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, less at the body's end, and say with how many bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def peek(self, amt: int = -1) -> bytes:
        """What is there without taking it; some bytes, unless the body is at its end."""
        check_size(amt)
        with self._lock:
            if not self._buffer:
                self._buffer += self._next(PIECE if amt <= 0 else amt, True)
            return bytes(self._buffer)

    def read_chunked(self, decode_content: bool = True) -> Iterator[bytes]:
        """The body in pieces, as they come, however it is framed."""
        return self.stream(decode_content=decode_content)

    def stream(self, amt: int = PIECE, decode_content: bool = True) -> Iterator[bytes]:
        """The body in pieces of at most ``amt`` bytes, as they come."""
        check_size(amt)
        most = amt if amt > 0 else PIECE
        while True:
            with self._lock:
                data = self._cut(most) if self._buffer else self._next(most, decode_content)
            if not data:
                return
            yield data

    def _next(self, most: int, decode: bool) -> bytes:
        """Up to ``most`` bytes as they come; ``b""`` at the end."""
        if not decode and self._decoder is not None:
            if self._decoded:
                raise BadCall("part of the body was decoded already: give decode_content=False from the first read on")
            self._decoder = None
        decoder = self._decoder
        if decoder is None:
            return self._piece(most)
        self._decoded = True
        while not (data := decoder.take(most)):
            if not (piece := self._piece(PIECE)):
                decoder.end()
                break
            decoder.feed(piece)
        return data

    def _piece(self, most: int) -> bytes:
        """Up to ``most`` bytes as the server sent them."""
        wire, raw = self._wire, self._raw
        if self._error is not None:
            raise self._error.with_outcome(self._error.outcome) from self._error.__cause__
        if wire is None or raw.length == 0:
            return b""
        if wire.inherited:
            self._leave(wire)
            return self._piece(most)
        try:
            with translated(self._where, waits="read the body"):
                if wire.closed:
                    raise http.client.IncompleteRead(b"")
                data = raw.read1(most) if raw.chunked or raw.length is None else self._counted(raw, most)
        except BaseException as error:
            closed = wire.closed
            self._over(broken=True)
            if closed and isinstance(error, Exception):
                self._error = NotOpen(f"the connection to {self._where} was closed before its response was read")
                raise self._error from error
            if isinstance(error, IncompleteRead):
                self._error = self._incomplete(error)
                raise self._error from error.__cause__
            interrupted = f"reading the response from {self._where} was interrupted, and it is not complete: ask again"
            self._error = error if isinstance(error, LinkError) else NotOpen(interrupted)
            raise
        if raw.chunked and (raw.chunk_left or 0) < 0:
            self._over(broken=True)
            self._error = ChunkedDecodeError(f"{self._where} sends a chunk of less than no bytes", bytes(self._buffer))
            raise self._error
        if raw.isclosed() or not data:
            self._over(broken=raw.will_close)
        return data

    def _leave(self, wire: Wire) -> None:
        """In a forked child: the parent goes on reading."""
        left_behind.append(self._raw)
        self._wire = self._done = None
        wire.leave()
        self._error = NotOpen(f"the response from {self._where} belongs to the process that was forked")

    def _incomplete(self, error: IncompleteRead) -> IncompleteRead:
        kind = ChunkedDecodeError if self._raw.chunked else IncompleteRead
        return kind(str(error), bytes(self._buffer))

    @staticmethod
    def _counted(raw: RawResponse, most: int) -> bytes:
        """A piece of a body whose length is known: http.client's own methods either wait for more, or do not count."""
        length = raw.length or 0
        data = raw.fp.read1(min(most, length))
        if not data:
            raise http.client.IncompleteRead(b"", length)
        raw.length = length - len(data)
        if not raw.length:
            raw.close()
        return data

    def _over(self, *, broken: bool = False) -> None:
        """Give the connection back, or close it."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        if broken:
            wire.drop()
        self._raw.close()
        self._let_go(wire)

    def _let_go(self, wire: Wire) -> None:
        done, self._done = self._done, None  # or whoever keeps the response would keep its connection
        if done is not None:
            done(wire)

    # --- the rest -----------------------------------------------------------------------------------------------------

    @property
    def trailers(self) -> HTTPHeaderMap:
        """The fields behind a body in chunks; what is left of the body is read for it, and kept."""
        with self._lock:
            while data := self._next(PIECE, True):
                self._buffer += data
        return HTTPHeaderMap() if self._raw.trailers is None else _map_of(self._raw.trailers)

    def getheader(self, name: str, default: D | None = None) -> str | D | None:
        """The values of a header joined by commas, or ``default``, as http.client gives them."""
        values = self._fields.get_all(name)
        return ", ".join(values) if values else default

    def getheaders(self) -> list[tuple[str, str]]:
        """The headers as pairs of str."""
        return list(self._fields.items())

    def isclosed(self) -> bool:
        """Whether the body was read to its end, or the response was closed."""
        return self._wire is None and not self._buffer

    def readable(self) -> bool:
        return True

    def info(self) -> http.client.HTTPMessage:
        return self._fields

    def getcode(self) -> int:
        return self.status

    def geturl(self) -> str:
        return self.url

    def fileno(self) -> int:
        """The socket's number. Raises NotOpen once the response has let go of it."""
        sock = None if self._wire is None else self._wire.sock
        if sock is None:
            raise NotOpen("the response has no socket any more")
        return sock.fileno()

    def detach(self) -> tuple[socket.socket, bytes]:  # type: ignore[override]
        """Hand over the socket of a 101, and what came behind its head, to whoever speaks the new protocol."""
        with self._lock:
            if self._wire is None or self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise BadCall("only the socket of a response 101 can be taken, once")
            wire, self._wire = self._wire, None
            sock = wire.take()
            early = self._raw.buffered(sock)
            self._raw.close()
            self._let_go(wire)
        return sock, early

    def close(self) -> None:
        """Have no more of it; where the body is not at its end, its connection is closed."""
        wire = self._wire
        if wire is not None and wire.inherited:
            self._leave(wire)
        elif wire is not None:
            wire.abandon()  # first, so that a thread that reads does not keep us waiting
            with self._lock:
                self._over(broken=True)
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _without_coding(message: http.client.HTTPMessage) -> http.client.HTTPMessage:
    less = copy.copy(message)
    for name in OF_THE_CODING:
        del less[name]
    return less


def _map_of(message: http.client.HTTPMessage) -> HTTPHeaderMap:
    return HTTPHeaderMap([(name.encode("latin-1"), value.encode("latin-1")) for name, value in message.items()])
