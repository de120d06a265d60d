"""One connection over whichever HTTP the server speaks: hyper's HTTPConnection."""

from __future__ import annotations

import socket
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self

from actors.errors import TlsFailed
from actors.settings import Limits
from actors.upgrade import upgrade_headers
from supervisor.adapters.blocking.errors import BadArgument, BadCall
from supervisor.adapters.blocking.parts import (
    Dechunker,
    HeaderFields,
    RequestBody,
    Text,
    Timeout,
    dechunked,
    fields_of,
    for_proxy,
    host_and_port,
    pieces,
    seconds,
    text_of,
)
from supervisor.adapters.blocking.turns import Turns
from supervisor.adapters.either.upgrade import Upgrade
from supervisor.adapters.http11.connection import HTTP11Connection
from supervisor.adapters.http11.errors import ConnectedAlready
from supervisor.adapters.http11.response import HTTP11Response
from supervisor.adapters.http20.connection import HTTP20Connection
from supervisor.adapters.http20.response import HTTP20Push, HTTP20Response

AnyResponse = HTTP11Response | HTTP20Response
HTTP1: Final = "http/1.1"
FORCED: Final = (None, "h2", HTTP1)


class _Mine(threading.local):
    """What a thread works on."""

    number: int | None = None
    """The id of the request over HTTP/2 that it began last."""


class HTTPConnection:
    """A connection to one server that speaks HTTP/2 where the server does, and HTTP/1.1 where it does not.

    Its calls and responses are the same over both. ``request`` and ``putrequest`` return the id of a request over
    HTTP/2 and None over HTTP/1.1; ``get_response`` takes either back. A thread that names no id gets the response to
    its own oldest request.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (hyper's names in hyper's order)
        self,
        host: str,
        port: int | None = None,
        secure: bool | None = None,
        window_manager: None = None,
        enable_push: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        proxy_host: str | None = None,
        proxy_port: int | None = None,
        force_proto: str | None = None,
        proxy_headers: Mapping[str, str] | None = None,
        timeout: Timeout = None,
        *,
        source_address: tuple[str, int] | None = None,
        context: ssl.SSLContext | None = None,
        blocksize: int = 16_384,
        limits: Limits | None = None,
    ) -> None:
        """``host`` may have a port behind a colon; otherwise it is 80, or 443 where the connection is secure.

        ``secure`` is True for port 443 and where a context is given. ``ssl_context`` (or http.client's ``context``) is
        used as it is: HTTP/2 is spoken if it offers ``h2`` by ALPN, as that of :func:`init_context` does; without one,
        certificates are verified by the system's authorities. ``force_proto`` is ``"h2"`` for HTTP/2 without asking,
        or ``"http/1.1"``. ``proxy_host`` (port 8080) makes tunnels by CONNECT. ``timeout`` is in seconds, or a pair for
        connecting and reading. A ``source_address``, and ``proxy_headers`` but Basic
        Proxy-Authorization, are for HTTP/1.1, which is then spoken. ``limits`` are those of
        HTTP/2. Raises Misuse.
        """
        if secure not in (None, True, False) or type(secure) in (int, float):
            raise BadArgument(f"secure is True or False, not {secure!r}: a time-out is given as timeout=")
        if force_proto not in FORCED:
            raise BadArgument(f'force_proto is "h2", "http/1.1" or None, not {force_proto!r}')
        if context is not None and ssl_context is None:
            ssl_context = context
        elif context is not None and context is not ssl_context:
            raise BadArgument("ssl_context and context are two names for one thing: give one of them")
        encrypts = ssl_context is not None if secure is None else secure
        self.host, self.port = host_and_port(host, port, 443 if encrypts else 80)
        self.secure = encrypts or (secure is None and self.port == 443)
        self.ssl_context = ssl_context
        self.timeout = timeout
        self.proxy_host, self.proxy_port = proxy_host, proxy_port
        self._proxy_headers = proxy_headers
        self._push = enable_push
        self._window_manager = window_manager
        self._source_address = source_address
        self._blocksize = blocksize
        self._limits = limits if limits is not None else Limits()
        self._proto: str | None = force_proto
        if force_proto == "h2" and source_address is not None:
            raise BadArgument("a source_address is for HTTP/1.1: leave it or force_proto out")
        if force_proto is None and (source_address is not None or _says_more(proxy_headers)):
            self._proto = HTTP1
        self._debug = 0
        self._lock: Final = Turns()
        self._mine = _Mine()
        self._chunks: dict[int, Dechunker] = {}
        """By a request's id, what takes its chunks apart that HTTP/2 has none of."""
        self._one: HTTP11Connection | None = None
        self._two: HTTP20Connection | None = None
        self._asked: Upgrade | None = None
        """The request that offered HTTP/2 in plaintext."""
        self._first: weakref.ref[HTTP20Response] | None = None
        """The response to that, which has a connection of its own."""
        self._asks = self._proto is None and not self.secure
        # Both at once, so that what can never work is said at once.
        self._made_one, self._made_two = self._make_one(), self._make_two()
        self._choose_at_once()

    def _make_one(self) -> HTTP11Connection:
        return HTTP11Connection(
            self.host, self.port, self.secure, self.ssl_context if self.secure else None, self.proxy_host,
            self.proxy_port, self._proxy_headers, self.timeout, source_address=self._source_address,
            blocksize=self._blocksize,
        )  # fmt: skip

    def _make_two(self) -> HTTP20Connection | None:
        if self._proto == HTTP1:
            return None
        context = self.ssl_context if self.secure else None
        if self.secure and context is None and self._proto is None:
            context = context_for_both()
        return HTTP20Connection(
            self.host, self.port, self.secure, self._window_manager, self._push, context, self.proxy_host,
            self.proxy_port, proxy_headers=self._proxy_headers, timeout=self.timeout, limits=self._limits,
        )  # fmt: skip

    def _choose_at_once(self) -> None:
        """Settle what needs no question to the server."""
        if self._proto == "h2":
            self._two = self._made_two
        elif self._proto == HTTP1 or not self.secure:
            self._one = self._made_one

    def __repr__(self) -> str:
        spoken = "HTTP/2" if self._two else "HTTP/1.1" if self._one else "HTTP"
        return f"<{type(self).__name__} to {self.host}:{self.port} by {spoken}>"

    # --- its life -----------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, unless it is connected; over TLS that chooses the protocol. Raises ConnectFailed and TlsFailed."""
        self._side().connect()

    def _side(self) -> HTTP11Connection | HTTP20Connection:
        """Who sends the next request."""
        if (two := self._two) is not None:
            return two
        if (one := self._one) is not None:
            return one
        with self._lock:  # whoever comes meanwhile waits for the choice
            if self._two is None and self._one is None:
                self._choose()
        return self._two or self._one or self._made_one

    def _choose(self) -> None:
        """Ask the server for HTTP/2 over TLS; what it says instead is HTTP/1.1's."""
        two = self._made_two
        if two is None:
            self._one = self._made_one
            return
        try:
            two.connect()
        except TlsFailed as error:
            if error.protocol is None:
                raise
            self._one = self._made_one
            self._one.set_debuglevel(self._debug)
        else:
            self._two = two

    def close(self, error_code: int | None = None) -> None:
        """Close; over HTTP/2, streams that are open are reset with ``error_code``. The next request connects again."""
        self._asked = None
        self._chunks.clear()
        if self._first is not None and (first := self._first()) is not None:
            first.close()
        self._made_one.close()
        if self._made_two is not None:
            self._made_two.close(error_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set_tunnel(self, host: str, port: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Take what was given as host for a proxy, and reach ``host`` through it, as http.client does.

        Raises Misuse, which is also RuntimeError, once a protocol was chosen by talking.
        """
        if self._two is not None and self._proto is None:
            raise ConnectedAlready(f"there is a connection to {self.host} already: ask for a tunnel before it")
        name, number = host_and_port(host, port, 443 if self.secure else 80)
        self._made_one.set_tunnel(name, number, headers)
        self.proxy_host, self.proxy_port, self._proxy_headers = self.host, self.port, headers
        self.host, self.port = name, number
        if self._proto is None and _says_more(headers):
            self._proto = HTTP1
        self._made_two, self._one, self._two = self._make_two(), None, None
        self._choose_at_once()

    def set_debuglevel(self, level: int) -> None:
        """Have http.client print what is sent and received over HTTP/1.1; over HTTP/2 it does nothing."""
        self._debug = level
        self._made_one.set_debuglevel(level)

    @property
    def sock(self) -> socket.socket | None:
        """The socket over HTTP/1.1; None over HTTP/2, where many responses share one, and before."""
        return None if self._two is not None else self._made_one.sock

    @sock.setter
    def sock(self, sock: None) -> None:
        # urllib does, so that a response is the last of its connection.
        self._made_one.sock = sock

    def ping(self, opaque_data: bytes | str = b"\x00" * 8) -> float:
        """Send PING over HTTP/2 and return the round trip in seconds. Raises Misuse over HTTP/1.1, which has none."""
        side = self._side()
        if isinstance(side, HTTP11Connection):
            raise BadCall(f"{self.host} is spoken to by HTTP/1.1, which has no PING")
        return side.ping(opaque_data)

    # --- sending ------------------------------------------------------------------------------------------------------

    def request(
        self,
        method: Text,
        url: Text,
        body: RequestBody | None = None,
        headers: HeaderFields | None = None,
        *,
        encode_chunked: bool = False,
    ) -> int | None:
        """Send a request; its id where it goes over HTTP/2.

        ``body`` is bytes, str (sent as UTF-8), a file, or an iterable of bytes; ``encode_chunked`` says, where the
        headers have ``Transfer-Encoding``, that it is not in chunks yet. Raises LinkError.
        """
        if headers is not None and not isinstance(headers, Mapping):
            headers = fields_of(headers)  # they are looked at twice
        side = self._side()
        try:
            return self._request(side, method, url, body, headers, encode_chunked)
        except TlsFailed as error:
            if error.protocol is None or not self._reconsider(side):
                raise
        return self._request(self._side(), method, url, body, headers, encode_chunked)

    def _reconsider(self, side: HTTP11Connection | HTTP20Connection) -> bool:
        """Choose the other protocol: years later, the server of a lost connection may speak another."""
        if self._proto is not None or self._made_two is None:
            return False
        with self._lock:
            if side is self._two:
                self._one, self._two = self._made_one, None
            elif side is self._one:
                self._one, self._two = None, self._made_two
        return True

    def _request(  # noqa: PLR0917
        self,
        side: HTTP11Connection | HTTP20Connection,
        method: Text,
        url: Text,
        body: RequestBody | None,
        headers: HeaderFields | None,
        encode_chunked: bool,
    ) -> int | None:
        if isinstance(side, HTTP11Connection):
            side.request(method, url, body, self._offering(method, url, body, headers), encode_chunked=encode_chunked)
            return None
        if body is not None and not encode_chunked and _in_chunks(headers):
            body = dechunked(pieces(body, self._blocksize))
        self._mine.number = side.request(method, url, body, headers)
        return self._mine.number

    def _offering(
        self, method: Text, url: Text, body: RequestBody | None, headers: HeaderFields | None
    ) -> HeaderFields | None:
        """The headers, with the offer of HTTP/2 where it is due: once, and not in front of a body."""
        if not self._asks or body is not None:
            return headers
        given = fields_of(headers)
        verb, path = text_of(method, "a method"), text_of(url, "a path")
        if (
            verb == "CONNECT"
            or not path.startswith("/")
            or any(n.lower() in (b"connection", b"upgrade") for n, _ in given)
        ):
            return headers
        if not self._may_ask():
            return headers
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = host if self.port == 80 else f"{host}:{self.port}"
        self._asked = Upgrade(verb, path, authority, self._limits)
        return [*given, *upgrade_headers(self._limits)]

    def _may_ask(self) -> bool:
        """Whether the offer is still to be made; once."""
        with self._lock:
            due, self._asks = self._asks, False
        return due

    def putrequest(
        self, method: Text, selector: Text, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> int | None:
        """Begin a request; its id where it goes over HTTP/2."""
        side = self._side()
        if isinstance(side, HTTP11Connection):
            side.putrequest(method, selector, skip_host, skip_accept_encoding)
            self._mine.number = None
        else:
            self._mine.number = side.putrequest(method, selector)
        return self._mine.number

    def putheader(self, header: Text, *values: Text | int, stream_id: int | None = None, replace: bool = False) -> None:
        """Add a header to a request, this thread's last if no id is given, or put it in the place of its like."""
        number, side = self._of(stream_id)
        if isinstance(side, HTTP11Connection):
            side.putheader(header, *values, replace=replace)
            return
        if len(values) == 2 and type(values[1]) is int:  # hyper's putheader(header, argument, stream_id)
            number, values = values[1], values[:1]
        for at, value in enumerate(values):
            side.putheader(header, value, number, replace=replace and not at)
        if number is not None and _in_chunks([(header, value) for value in values]):
            self._chunks[number] = Dechunker()

    def endheaders(
        self,
        message_body: RequestBody | None = None,
        final: bool = False,
        stream_id: int | None = None,
        *,
        encode_chunked: bool = False,
    ) -> None:
        """Send the headers, and the body if it is given; more may follow by :meth:`send` unless ``final``."""
        number, side = self._of(stream_id)
        if isinstance(side, HTTP11Connection):
            side.endheaders(message_body, encode_chunked=encode_chunked, final=final)
            return
        chunks = None if number is None else self._chunks.get(number)
        if encode_chunked and chunks is not None and number is not None:
            del self._chunks[number]
        elif chunks is not None and message_body is not None:
            message_body = b"".join(map(chunks.feed, pieces(message_body, self._blocksize)))
            final = final or chunks.over
        side.endheaders(message_body, final=final, stream_id=number, encode_chunked=encode_chunked)

    def send(self, data: RequestBody, final: bool = False, stream_id: int | None = None) -> None:
        """Send more of a body: bytes, a file, or an iterable of bytes; ``final``: it is the last."""
        number, side = self._of(stream_id)
        if isinstance(side, HTTP11Connection):
            side.send(data, final=final)
            return
        if number is None or (chunks := self._chunks.get(number)) is None:
            side.send(data, final=final, stream_id=number)
            return
        for piece in pieces(data, self._blocksize):
            payload = chunks.feed(piece)
            if payload or chunks.over:
                side.send(payload, final=chunks.over, stream_id=number)
            if chunks.over:
                self._chunks.pop(number, None)
                return

    def _of(self, stream_id: int | None) -> tuple[int | None, HTTP11Connection | HTTP20Connection]:
        """The request that a step belongs to, and who sends it."""
        if stream_id is None:
            stream_id = self._mine.number
        if stream_id is None and self._made_one.awaits():
            return None, self._made_one
        return stream_id, self._side()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def get_response(self, stream_id: int | None = None) -> AnyResponse:
        """The response to the request with this id, or to this thread's oldest that waits for it.

        Raises Misuse, which is also http.client.ResponseNotReady, where there is none; ReadTimedOut, and LinkError.
        """
        if stream_id is not None:
            side = self._side()
            self._chunks.pop(stream_id, None)
            return side.get_response(stream_id)
        one = self._made_one
        if one.awaits() or self._two is None:
            return self._switched(one.get_response())
        return self._two.get_response()

    getresponse = get_response

    def _switched(self, response: HTTP11Response) -> AnyResponse:
        """The response, over HTTP/2 where the server takes the offer."""
        asked = self._asked
        if response.status != 101 or asked is None or "h2c" not in (response.getheader("upgrade") or "").lower():
            return response
        self._asked = None
        sock, early = response.detach()
        self._two = self._made_two  # later requests; the server has said that it speaks HTTP/2
        response_over_http2 = asked.response(sock, early, seconds(self.timeout)[1])
        self._first = weakref.ref(response_over_http2)
        return response_over_http2

    def get_pushes(self, stream_id: int | None = None, capture_all: bool = False) -> Iterator[HTTP20Push]:
        """What the server pushes along with a response, as hyper gives it; nothing over HTTP/1.1."""
        side = self._side()
        return iter(()) if isinstance(side, HTTP11Connection) else side.get_pushes(stream_id, capture_all)


class HTTPSConnection(HTTPConnection):
    """The same over TLS, whatever the port, for programs that were written for http.client's class of this name."""

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        timeout: Timeout = None,
        source_address: tuple[str, int] | None = None,
        context: ssl.SSLContext | None = None,
        blocksize: int = 16_384,
        **others: Any,
    ) -> None:
        """``others`` are HTTPConnection's."""
        super().__init__(
            host, port, True, timeout=timeout, source_address=source_address, context=context, blocksize=blocksize,
            **others,
        )  # fmt: skip


@lru_cache(maxsize=1)
def context_for_both() -> ssl.SSLContext:
    """What is used where no context is given: verifies by the system's authorities, and offers both by ALPN.

    A server that knows HTTP/1.1 alone is not asked to refuse a handshake, which some do badly.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", HTTP1])
    return context


def _says_more(headers: Mapping[str, str] | None) -> bool:
    """Whether a proxy is to be told what only HTTP/1.1 tells it."""
    return any(
        str(name).lower() != "proxy-authorization" or not str(value).lower().startswith("basic ")
        for name, value in for_proxy(headers).items()
    )


def _in_chunks(headers: HeaderFields | None) -> bool:
    """Whether the headers say that a body is in chunks."""
    return any(
        name.lower() == b"transfer-encoding" and "chunked" in text_of(value, "a header").lower()
        for name, value in fields_of(headers)
        if isinstance(value, (str, bytes))
    )
