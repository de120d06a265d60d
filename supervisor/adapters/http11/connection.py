"""hyper's HTTP11Connection, on the standard library's :mod:`http.client`.

What is different from both: any thread may use a connection at any time. Each thread fetches the responses to its own
requests, in their order; a thread without any fetches the oldest. A request that begins while others run goes over a
socket of its own, so no thread waits for another; sockets that are idle are used again.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from attrs import evolve

from supervisor.adapters.blocking.errors import (
    BadAddress,
    BadArgument,
    BadCall,
    Disconnected,
    NotOpen,
    UnknownStream,
)
from supervisor.adapters.blocking.parts import (
    EXPECTS_BODY,
    HeaderFields,
    RequestBody,
    Text,
    Timeout,
    check_line,
    check_transfer,
    chunk,
    fields_of,
    framing,
    header_of,
    host_and_port,
    origin_of,
    pieces,
    seconds,
    text_of,
)
from supervisor.adapters.http11.errors import CannotSendHeader, translated
from supervisor.adapters.http11.exchanges import Exchange, Exchanges
from supervisor.adapters.http11.response import HTTP11Response
from supervisor.adapters.http11.wire import Destination, Proxy, RawResponse, default_context

LAST_CHUNK: Final = b"0\r\n\r\n"


class HTTP11Connection:
    """HTTP/1.1 to one host, with the interface of hyper's class of that name, and http.client's beside it."""

    def __init__(  # noqa: PLR0917  (hyper's order)
        self,
        host: str,
        port: int | None = None,
        secure: bool | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy_host: str | None = None,
        proxy_port: int | None = None,
        proxy_headers: Mapping[str, str] | None = None,
        timeout: Timeout = None,
        *,
        source_address: tuple[str, int] | None = None,
        context: ssl.SSLContext | None = None,
        blocksize: int = 16_384,
    ) -> None:
        """``host`` may have a port behind a colon; otherwise it is 80, or 443 where the connection is secure.

        ``secure`` is True for port 443 and where a context is given. ``ssl_context`` (or http.client's ``context``) is
        used as it is; without, certificates are verified by the system's authorities. ``timeout`` in seconds, or a pair
        for connecting and reading: without, connecting may take 10 s and reading any time. Raises Misuse.
        """
        context = _one_context(ssl_context, context)
        encrypts = context is not None if secure is None else bool(secure)
        self.host, self.port = origin_of(host, port, 443 if encrypts else 80)
        self.secure = encrypts or (secure is None and self.port == 443)
        self.ssl_context = context
        self.timeout = timeout
        connecting, reading = seconds(timeout)
        check_transfer(blocksize, source_address)
        proxy = None
        if proxy_host is not None:
            proxy = Proxy.of(*host_and_port(proxy_host, proxy_port, 8080), proxy_headers)
        if self.secure and context is None:
            context = default_context()
        self._to = Destination(
            self.host, self.port, context if self.secure else None, proxy, connecting, reading, source_address,
            blocksize,
        )  # fmt: skip
        self._exchanges: Final = Exchanges()

    @property
    def proxy_host(self) -> str | None:
        return self._to.proxy.host if self._to.proxy else None

    @property
    def proxy_port(self) -> int | None:
        return self._to.proxy.port if self._to.proxy else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self._to}>"

    # --- its life -----------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, unless there is a connection. Raises ConnectFailed and TlsFailed."""
        if self._exchanges.any():
            return
        wire = self._exchanges.take(self._to)
        try:
            wire.ready()
        except BaseException:
            self._exchanges.discard(wire)
            raise
        self._exchanges.give_back(wire)

    def close(self) -> None:
        """Close; what other threads wait for ends with NotOpen. The next request connects again."""
        self._exchanges.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set_tunnel(self, host: str, port: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Use the host that the connection was made for as a proxy, and have a tunnel to this one, as http.client."""
        name, number = origin_of(host, port, 443 if self.secure else 80)
        self._exchanges.none("ask for a tunnel")
        first = self._to if self._to.proxy is None else self._to.proxy
        self._to = evolve(self._to, host=name, port=number, proxy=Proxy.of(first.host, first.port, headers))

    def set_debuglevel(self, level: int) -> None:
        """Have http.client print what is sent and received, from the next connection on."""
        self._exchanges.debug = level

    # --- sending ------------------------------------------------------------------------------------------------------

    def request(
        self,
        method: Text,
        url: Text,
        body: RequestBody | None = None,
        headers: HeaderFields | None = None,
        *,
        encode_chunked: bool = False,
    ) -> None:
        """Send a request; text in a body is sent as UTF-8, files and iterables as they are read.

        Content-Length, or where there is none chunks, are added as http.client does. Raises LinkError.
        """
        given = fields_of(headers)
        names = {name.lower() for name, _ in given}
        verb = text_of(method, "a method")
        extra, encode = framing(verb, body, names, encode_chunked)
        self.putrequest(verb, url, skip_host=b"host" in names, skip_accept_encoding=b"accept-encoding" in names)
        try:
            for name, value in (*extra, *given):
                self.putheader(name, value)
        except BaseException:
            self._exchanges.forget(self._exchanges.building("it was begun"))
            raise
        self.endheaders(body, encode_chunked=encode, final=True)

    def putrequest(self, method: Text, url: Text, skip_host: bool = False, skip_accept_encoding: bool = False) -> None:
        """Begin a request. Raises BadPath, and CannotSend where this thread has begun one that is not sent."""
        verb, selector = text_of(method, "a method"), text_of(url, "a path")
        check_line(verb, selector)
        line = {"url": selector, "skip_host": skip_host, "skip_accept_encoding": skip_accept_encoding}
        exchange = self._exchanges.begin(self._to, verb, line)
        self._put_line(exchange)

    def _put_line(self, exchange: Exchange) -> None:
        try:
            exchange.wire.putrequest(exchange.method, **exchange.line)
        except ValueError as error:  # of what goes into the line, only the host was not looked at
            self._exchanges.forget(exchange)
            raise BadAddress.because(f"there can be no host {self._to}: {error}", error) from error

    def putheader(self, header: Text, *values: Text | int, replace: bool = False) -> None:
        """Add a header to the request that this thread has begun, or put it in the place of those of its name.

        Raises CannotSend and BadHeader.
        """
        exchange = self._exchanges.building("putrequest() comes before putheader()")
        name, value = header_of(header, values)
        lower = name.lower()
        if replace:
            exchange.headers = [each for each in exchange.headers if each[0].lower() != lower]
        exchange.headers.append((name, value))
        exchange.framed |= lower in ("content-length", "transfer-encoding")

    def endheaders(
        self, message_body: RequestBody | None = None, *, encode_chunked: bool = False, final: bool = False
    ) -> None:
        """Send the headers that were put, and the body if it is given; more may come by ``send`` unless ``final``.

        A body that no header announced goes in chunks.
        """
        exchange = self._exchanges.building("putrequest() comes before endheaders()")
        exchange.sent = True
        if exchange.method in EXPECTS_BODY and not exchange.framed and message_body is None:
            exchange.held = not final  # whether a body follows is known by the next call
            if final:
                exchange.headers.append(("Content-Length", b"0"))
        exchange.chunked = encode_chunked
        if not exchange.held:
            self._send_head(exchange)
        if message_body is not None:
            self._send_body(exchange, message_body, last=encode_chunked)

    def send(self, data: RequestBody, final: bool = False) -> None:
        """Send a part of the body: bytes, a file, or an iterable; with ``final`` it is the last."""
        exchange = self._exchanges.mine()
        if exchange is None or not exchange.sent:
            raise CannotSendHeader("endheaders() comes before send()")
        if exchange.held:
            exchange.headers.append(("Transfer-Encoding", b"chunked"))
            exchange.chunked, exchange.held = True, False
            self._send_head(exchange)
        self._send_body(exchange, data, last=final and exchange.chunked)

    def _send_head(self, exchange: Exchange) -> None:
        wire = exchange.wire
        try:
            for name, value in exchange.headers:
                wire.putheader(name, value)
            wire.ready()
            exchange.reused, wire.fresh = not wire.fresh, False
            with translated(str(self._to), waits="sent the request"):
                wire.endheaders()
        except Disconnected as error:
            self._broke(exchange, error)
        except BaseException:
            self._exchanges.forget(exchange)
            raise

    def _send_body(self, exchange: Exchange, body: RequestBody, *, last: bool) -> None:
        exchange.bodiless = False
        try:
            for piece in pieces(body, self._to.blocksize):
                if not self._sent(exchange, chunk(piece) if exchange.chunked else piece):
                    return
            if last and self._sent(exchange, LAST_CHUNK):
                exchange.chunked = False
        except BaseException:
            self._exchanges.forget(exchange)  # the server is in the middle of a request that never ends
            raise

    def _sent(self, exchange: Exchange, data: Any) -> bool:
        """Send; False where the server takes no more, which its answer may explain."""
        if exchange.broken is None:
            try:
                with translated(str(self._to), waits="sent the body"):
                    exchange.wire.send(data)
            except Disconnected as error:
                self._broke(exchange, error)
        return exchange.broken is None

    def _broke(self, exchange: Exchange, error: Disconnected) -> None:
        """Take note that no more can be sent; there may be an answer nevertheless, unless it was we who closed."""
        if exchange.wire.closed:
            self._exchanges.forget(exchange)
            raise self._closed(error)
        exchange.broken = error

    def _closed(self, error: Exception) -> NotOpen:
        return NotOpen.because(f"the connection to {self._to} was closed", error)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def get_response(self, stream_id: int | None = None) -> HTTP11Response:
        """The response to this thread's oldest request that waits for it, or to the oldest of all.

        Raises ResponseNotReady where none waits, RemoteDisconnected, ReadTimeout, and ProtocolViolation for what is no
        HTTP/1.1. A kept connection that the server has closed is made anew where the request is safe.
        """
        if stream_id is not None:
            raise UnknownStream(f"there is no stream {stream_id!r}: over HTTP/1.1 requests have no ids")
        exchange = self._exchanges.next()
        try:
            raw = self._receive(exchange)
        except BaseException as error:
            closed = exchange.wire.closed
            self._exchanges.discard(exchange.wire)
            if closed and isinstance(error, Exception):
                raise self._closed(error) from error
            raise
        keeps = not raw.will_close
        done = self._exchanges.give_back if keeps else self._exchanges.discard
        url = f"http{'s' * self.secure}://{self._to}{exchange.line['url']}"
        return HTTP11Response(raw, exchange.wire, str(self._to), done, url)

    getresponse = get_response

    def _receive(self, exchange: Exchange) -> RawResponse:
        if exchange.held:
            exchange.headers.append(("Content-Length", b"0"))
            self._send_head(exchange)
        elif exchange.chunked:
            self._sent(exchange, LAST_CHUNK)
        try:
            return self._answer(exchange)
        except Disconnected as error:
            if not exchange.repeatable():
                raise (exchange.broken or error) from error.__cause__
        exchange.wire = self._exchanges.anew(exchange.wire)
        exchange.broken = None
        self._put_line(exchange)
        self._send_head(exchange)
        if exchange.broken is not None:
            raise exchange.broken
        return self._answer(exchange)

    def _answer(self, exchange: Exchange) -> RawResponse:
        with translated(str(self._to), waits="waited for its response"):
            answer = exchange.wire.getresponse()
        assert isinstance(answer, RawResponse)  # noqa: S101  # the wire's response_class
        return answer

    def awaits(self) -> bool:
        """Whether a request of this thread awaits its response."""
        return self._exchanges.awaits()

    @property
    def sock(self) -> socket.socket | None:
        """The socket of this thread's request, or else one that is idle, as http.client has it."""
        wire = self._exchanges.newest()
        return None if wire is None else wire.sock

    @sock.setter
    def sock(self, sock: None) -> None:
        if sock is not None:
            raise BadCall("sock can be set to None, which closes what is idle: a connection makes its own sockets")
        self._exchanges.drop_idle()


def _one_context(first: ssl.SSLContext | None, second: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if first is not None and second is not None and first is not second:
        raise BadArgument("ssl_context and context are two names for one thing: give one of them")
    context = first if first is not None else second
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise BadArgument(f"ssl_context is an ssl.SSLContext, not {type(context).__name__}")
    return context
