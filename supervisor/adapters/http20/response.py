"""A response over HTTP/2 as blocking code holds it, and what a server pushes along."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator
from typing import Any, Final

from actors.client_stream import PushedStream
from actors.exchange import ResponseHead
from supervisor.adapters.blocking.decoding import OF_THE_CODING, Decoder, decoder_for, decodes
from supervisor.adapters.blocking.errors import (
    BadCall,
    HTTP20Error,
    NotOpen,
    ResponseNotReady,
    TooMuch,
    UndecodableBody,
)
from supervisor.adapters.blocking.header_map import HTTPHeaderMap
from supervisor.adapters.blocking.parts import check_size, shown
from supervisor.adapters.blocking.service import AHEAD, BLOCK, Exchange
from supervisor.adapters.blocking.turns import Turns

_BODILESS: Final = (204, 304)


class HTTP20Response(io.BufferedIOBase):
    """A response: hyper's interface, http.client's beside it, and a file of bytes.

    ``read()`` gives the whole body, ``read(n)`` exactly ``n`` bytes, or fewer at the end, and then ``b""``; iterating
    gives lines. Bodies in gzip or deflate come decoded, but not with ``decode_content=False``. Closing it before its
    end, or dropping it, resets the stream. It may be used from any thread; calls that read go one after another.
    """

    version: Final = 20
    reason: Final = ""
    """HTTP/2 has none."""
    mode: Final = "rb"
    debuglevel = 0
    chunked = False
    will_close = False
    _msg: Any = None

    def __init__(
        self, head: ResponseHead, exchange: Exchange, *, url: str, timeout: float | None, most: int, bodiless: bool
    ) -> None:
        """``most`` is how many bytes ``read()`` makes of an encoded body; ``bodiless``: it answers HEAD."""
        self.status: Final = head.status
        self.code: Final = head.status
        self.headers: Final = HTTPHeaderMap.of(head.headers)
        self.url: Final = url
        self._exchange = exchange
        self._timeout = timeout
        self._most = most
        codings = head.headers.all("content-encoding")
        self._codings: list[bytes] = [] if bodiless or not codings or head.status in _BODILESS else codings
        self._decoder: Decoder | None = None
        self._decodes: bool | None = None
        """Whether what was read was decoded; None as long as nothing was."""
        self._buffer = b""
        self._at = 0
        self._finished = False
        self._lock: Final = Turns()
        self._trailers: HTTPHeaderMap | None = None

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, amt: int | None = None, decode_content: bool = True) -> bytes:
        """The next ``amt`` bytes of the body, fewer only at its end; without ``amt``, the rest of it.

        Raises ReadTimedOut (a TimeoutError), UndecodableBody, NotOpen where it was closed before its end, TooMuch where
        the rest of an encoded body is more than may be decoded at a time, and the stream's error.
        """
        check_size(amt)
        with self._lock:
            self._begin(decode_content)
            if amt is None or amt < 0:
                return self._rest()
            return self._gather(amt)

    def read1(self, n: int = -1, /) -> bytes:
        """What there is of the body, up to ``n`` bytes, waiting only where nothing is; raises as :meth:`read` does."""
        check_size(n)
        with self._lock:
            self._begin(True)
            return self._take(n if n >= 0 else AHEAD) if n and self._fill(1) else b""

    def peek(self, n: int = 0, /) -> bytes:
        """What there is of the body, without taking it; raises as :meth:`read` does."""
        with self._lock:
            self._begin(True)
            return self._buffer[self._at :] if self._fill(1) else b""

    def readline(self, size: int | None = -1, /) -> bytes:
        """The next line with its end, or up to ``size`` bytes of it; raises as :meth:`read` does."""
        check_size(size)
        with self._lock:
            self._begin(True)
            return self._gather(None if size is None or size < 0 else size, until=b"\n")

    def read_chunked(self, decode_content: bool = True) -> Iterator[bytes]:
        """The body as it comes, in pieces that are not empty; raises as :meth:`read` does."""
        while True:
            with self._lock:
                self._begin(decode_content)
                data = self._take(AHEAD) if self._fill(1) else b""
            if not data:
                return
            yield data

    def readable(self) -> bool:
        return True

    @property
    def trailers(self) -> HTTPHeaderMap:
        """The fields behind the body, which is read to its end for them, and kept; raises as :meth:`read` does."""
        with self._lock:
            if self._trailers is None:
                if not self._finished:
                    self._begin(True if self._decodes is None else self._decodes)
                    self._buffer, self._at = self._rest(), 0
                self._trailers = HTTPHeaderMap.of(self._exchange.trailers(self._timeout))
            return self._trailers

    # --- below, with the lock held ------------------------------------------------------------------------------------

    def _begin(self, decode: bool) -> None:
        if self.closed and not self._finished:
            raise NotOpen("the response was closed before its end: read it first")
        if self._decodes is None:
            self._decodes = bool(decode)
            self._decoder = decoder_for(self._codings) if decode and self._codings else None
        elif self._decodes is not bool(decode) and self._codings:
            raise BadCall("the first read said decode_content otherwise: say the same each time")

    def _fill(self, least: int) -> bool:
        """See that something can be taken, waiting for ``least`` bytes at the best; False at the end."""
        if self._at < len(self._buffer):
            return True
        if self._finished:
            return False
        data = self._exchange.read(least, self._timeout) if self._decoder is None else self._decoded(self._decoder)
        self._buffer, self._at = data, 0
        self._finished = not data
        return bool(data)

    def _decoded(self, decoder: Decoder) -> bytes:
        try:
            while not (data := decoder.take(BLOCK)):
                if not (raw := self._exchange.read(1, self._timeout)):
                    decoder.end()
                    break
                decoder.feed(raw)
        except UndecodableBody:
            self._exchange.close()
            raise
        return data

    def _take(self, most: int) -> bytes:
        start, buffer = self._at, self._buffer
        if start == 0 and len(buffer) <= most:
            self._buffer = b""
            return buffer
        self._at = min(start + most, len(buffer))
        return buffer[start : self._at]

    def _gather(self, size: int | None, until: bytes | None = None) -> bytes:
        """Up to ``size`` bytes, to the first ``until``, or to the end; what is interrupted or fails loses nothing."""
        parts: list[bytes] = []
        had = 0
        try:
            while size is None or had < size:
                left = AHEAD if size is None else size - had
                if not self._fill(1 if until else left):
                    break
                end = self._buffer.find(until, self._at, self._at + left) + 1 if until else 0
                parts.append(self._take(end - self._at if end else left))
                had += len(parts[-1])
                if end:
                    break
        except BaseException:
            self._put_back(parts)
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _rest(self) -> bytes:
        """All to the end; of an encoded body no more than may be decoded at a time."""
        if self._decoder is None:
            if self._at >= len(self._buffer) and not self._finished and (whole := self._exchange.whole()) is not None:
                self._finished = True  # most responses are short, and came as a whole
                return whole
            return self._gather(None)
        data = self._gather(self._most + 1)
        if len(data) > self._most:
            self._put_back([data])
            raise TooMuch(f"the decoded body is longer than max_response_body, {self._most} bytes: read it in pieces")
        return data

    def _put_back(self, parts: list[bytes]) -> None:
        self._buffer, self._at = b"".join(parts) + self._buffer[self._at :], 0

    # --- its end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Want no more of it; what has not come is not sent any more. Whoever reads it meanwhile gets NotOpen."""
        if not self.closed:
            super().close()
            if exchange := getattr(self, "_exchange", None):  # unless its making failed
                exchange.close()

    def isclosed(self) -> bool:
        """Whether it was closed or read to its end."""
        return self._finished or self.closed

    # --- what http.client's has, too ----------------------------------------------------------------------------------

    @property
    def msg(self) -> Any:
        """The headers as http.client gives them: ``response.msg["content-type"]`` is a str or None.

        Content-Encoding and Content-Length are not among them where the body comes decoded: programs that know
        http.client alone would decode it again.
        """
        return self.info() if self._msg is None else self._msg

    @msg.setter
    def msg(self, msg: Any) -> None:  # urllib keeps the reason there
        self._msg = msg

    def info(self) -> http.client.HTTPMessage:
        """The headers; the same as :attr:`msg`."""
        message = http.client.HTTPMessage()
        for name, value in self.getheaders():
            message[name] = value
        return message

    def getheader(self, name: str, default: Any = None) -> Any:
        """The value of a header as str, several of them joined by commas, or ``default``; see :attr:`msg`."""
        hidden = self._codings and name.lower() in OF_THE_CODING and decodes(self._codings)
        value = None if hidden else self.headers.text(name)
        if value is not None or default is None or isinstance(default, str) or not hasattr(default, "__iter__"):
            return default if value is None else value
        return ", ".join(default)

    def getheaders(self) -> list[tuple[str, str]]:
        """The headers as pairs of str; see :attr:`msg`."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers.iter_raw()]
        if self._codings and decodes(self._codings):
            return [pair for pair in pairs if pair[0].lower() not in OF_THE_CODING]
        return pairs

    def getcode(self) -> int:
        """The status."""
        return self.status

    def geturl(self) -> str:
        """Where it came from."""
        return self.url

    @property
    def name(self) -> str:
        """The same: what files call their path."""
        return self.url

    def __repr__(self) -> str:
        return f"<HTTP20Response {self.status} from {shown(self.url)}>"


class HTTP20Push:
    """A request that was not made, and the response to it that the server pushes along with another.

    Dropping it, or :meth:`cancel`, resets its stream. ``scheme``, ``method``, ``authority`` and ``path`` are bytes.
    """

    def __init__(self, pushed: PushedStream, exchange: Exchange, *, timeout: float | None, most: int) -> None:
        self.scheme: Final = pushed.scheme.encode("latin-1")
        self.method: Final = pushed.method.encode("latin-1")
        self.authority: Final = pushed.authority.encode("latin-1")
        self.path: Final = pushed.path.encode("latin-1")
        self.request_headers: Final = HTTPHeaderMap.of(pushed.request_headers)
        self._exchange: Exchange | None = exchange
        self._timeout = timeout
        self._most = most

    def get_response(self) -> HTTP20Response:
        """The response, once it has begun to come. Raises ReadTimedOut, and the stream's error."""
        exchange = self._exchange
        if exchange is None:
            raise ResponseNotReady(f"the response to {self._what()} was taken already, or cancelled")
        try:
            head = exchange.head(self._timeout)
        except HTTP20Error as error:
            if not isinstance(error, TimeoutError):
                self._exchange = None
            raise
        self._exchange = None
        return HTTP20Response(
            head, exchange, url=self._what(), timeout=self._timeout, most=self._most, bodiless=self.method == b"HEAD"
        )

    getresponse = get_response

    def cancel(self) -> None:
        """Have nothing of it: the server stops sending."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _what(self) -> str:
        return b"".join((self.scheme, b"://", self.authority, self.path)).decode("latin-1")

    def __repr__(self) -> str:
        return f"<HTTP20Push {self.method.decode('latin-1')} {shown(self._what())}>"
