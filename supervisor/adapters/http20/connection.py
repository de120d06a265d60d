"""HTTP/2 for blocking code: hyper's interface, with :mod:`http.client`'s beside it, over a link in the background.

What hyper promised holds here: every object may be used from any thread. A connection is made at the first request and
made anew when it was lost; what was provably not done is sent again. Requests of all threads share it.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from attrs import evolve

from actors.errors import ErrorCode
from actors.settings import Limits, Tls
from supervisor.adapters.blocking.errors import (
    BadCall,
    CannotSend,
    ResponseNotReady,
    TooMuch,
    UnknownStream,
)
from supervisor.adapters.blocking.parts import (
    HeaderFields,
    RequestBody,
    Text,
    Timeout,
    check_transfer,
    fields_of,
    host_and_port,
    pieces,
    seconds,
    text_of,
)
from supervisor.adapters.blocking.service import Exchange, Request, Service, Target
from supervisor.adapters.http20.requests import BODYLESS, Begun, credentials_of, parted, path_of
from supervisor.adapters.http20.response import HTTP20Push, HTTP20Response

__all__ = ("HTTP20Connection", "HTTP20Push", "HTTP20Response")

MOST_STALE: Final = 64
"""Requests that are over, and are still remembered by their ids."""
MOST_WAITING: Final = 10_000
"""Requests of one connection whose responses nobody has asked for."""


class HTTP20Connection:
    """A connection to one HTTP/2 server, over TLS or with prior knowledge; usable from any number of threads.

    Without a stream id, calls are about the requests of the thread that makes them: ``putheader``, ``endheaders``,
    ``send`` and ``get_pushes`` about its last, ``get_response`` about the oldest whose response it has not asked for. A
    request may be handed to another thread together with its id.

    A connection that was closed connects again with the next request. http.client's ``sock`` is absent: there is one
    socket for many responses, and it lives in the background loop.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (hyper's order)
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
        source_address: None = None,
        blocksize: int = 65_536,
        limits: Limits | None = None,
    ) -> None:
        """``host`` may have a port behind a colon; otherwise it is 443. IPv6 addresses with a port are in brackets.

        ``secure`` is True for port 443 and where an ``ssl_context`` is given, which must have ``h2`` by ALPN;
        without, certificates are verified by the system's authorities. ``proxy_host`` (port 8080) is an HTTP proxy that
        makes tunnels; of ``proxy_headers`` it can be told Basic ``Proxy-Authorization``. ``timeout`` in seconds, or a
        pair for connecting and for the server's next sign; without, connecting may take 10 s and reading any time.
        ``limits`` are muxlink's. Windows grow by themselves, so ``window_manager`` is refused. Raises BadCall.
        """
        for name, given in (("window_manager", window_manager), ("source_address", source_address)):
            if given is not None:
                raise BadCall(f"{name} has no meaning here: leave it out" + _INSTEAD[name])
        if force_proto not in (None, "h2"):
            raise BadCall(f"force_proto is 'h2' or left out, not {force_proto!r}: for HTTP/1.1 take HTTP11Connection")
        self.host, self.port = host_and_port(host, port, 443)
        self.secure: bool = (ssl_context is not None or self.port == 443) if secure is None else bool(secure)
        self.ssl_context: Final = ssl_context
        self.force_proto: Final = force_proto
        self._timeout: Timeout = timeout
        self.proxy_host: str | None = None
        self.proxy_port: int | None = None
        self._credentials = credentials_of(proxy_headers)
        if proxy_host is not None:
            self.proxy_host, self.proxy_port = host_and_port(proxy_host, proxy_port, 8080)
        self._secure = secure
        self._push = bool(enable_push)
        check_transfer(blocksize)
        self._blocksize = blocksize
        self._limits = limits if limits is not None else Limits()
        self._numbers: Final = itertools.count(1, 2)
        self._sent: Final[dict[int, Begun]] = {}
        self._sending: Final[dict[int, Begun]] = {}
        """Those whose responses were asked for before their bodies were complete."""
        self._live: Final[weakref.WeakValueDictionary[int, Exchange]] = weakref.WeakValueDictionary()
        """Those along with which others may be pushed."""
        self._mine: Final = _Mine()
        self._service = self._served()

    def _served(self) -> Service:
        connecting, self._reading = seconds(self._timeout)
        host = f"[{self.host}]" if ":" in self.host else self.host
        proxy = None
        if self.proxy_host is not None:
            through = f"[{self.proxy_host}]" if ":" in self.proxy_host else self.proxy_host
            proxy = f"http://{self._credentials}{through}:{self.proxy_port}"
        tls = Tls(context=self.ssl_context) if self.secure and self.ssl_context is not None else None
        self._scheme = "https" if self.secure else "http"
        self._origin = f"{self._scheme}://{host}:{self.port}"
        self._authority = host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"
        return Service(Target(self._origin, tls, proxy, self._push, self._limits, connecting))

    @property
    def timeout(self) -> Timeout:
        """Seconds for connecting and for the server's next sign; setting it holds from the next call on."""
        return self._timeout

    @timeout.setter
    def timeout(self, timeout: Timeout) -> None:
        connecting, self._reading = seconds(timeout)
        self._timeout = timeout
        self._service.target = evolve(self._service.target, connect_timeout=connecting)

    # --- its life -----------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, unless it is connected; requests do it by themselves.

        Raises ConnectTimedOut (a TimeoutError), Refused and CannotConnect (ConnectionError), NameUnknown
        (socket.gaierror), CertificateRefused (ssl.CertificateError) and TlsUnusable (ssl.SSLError).
        """
        self._service.connect()

    def close(self, error_code: int | None = None) -> None:
        """Say goodbye and close; what is still open ends with NotOpen, its streams reset with ``error_code`` if given.

        The next request connects again.
        """
        if error_code is not None and (type(error_code) not in (int, ErrorCode) or not 0 <= error_code < 2**32):
            raise BadCall(f"an error code is a number of 32 bits, not {error_code!r}")
        self._sent.clear()
        self._sending.clear()
        self._service.close(error_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set_tunnel(self, host: str, port: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Take what was given as host for a proxy, and reach ``host`` through it, as http.client does.

        Raises CannotSend once it is connected.
        """
        if self._service.connected or self._sent:
            raise CannotSend("set_tunnel() comes before the first request: there is a connection already")
        name, number = host_and_port(host, port, 443)
        if self.proxy_host is None:
            self.proxy_host, self.proxy_port = self.host, self.port
        self.host, self.port = name, number
        if self._secure is None:
            self.secure = self.ssl_context is not None or number == 443
        if headers is not None:
            self._credentials = credentials_of(headers)
        self._service = self._served()

    def set_debuglevel(self, level: int) -> None:
        """Nothing: muxlink's loggers and traces tell more than http.client prints."""

    def ping(self, opaque_data: bytes | str = b"\x00" * 8) -> float:
        """Send PING (RFC 9113, 6.7), wait for the answer, and return the round trip in seconds.

        hyper's ``opaque_data`` are eight bytes, which are checked; others go out, since threads that ask at a time
        share an answer. Raises ReadTimedOut, and as :meth:`connect` does.
        """
        data = opaque_data.encode() if isinstance(opaque_data, str) else opaque_data
        if not isinstance(data, bytes) or len(data) != 8:
            raise BadCall("a PING has eight bytes of opaque data (RFC 9113, 6.7)")
        return self._service.ping(self._reading)

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(
        self,
        method: Text,
        url: Text,
        body: RequestBody | None = None,
        headers: HeaderFields | None = None,
        *,
        encode_chunked: bool = False,
    ) -> int:
        """Send a request and return the id by which :meth:`get_response` finds its response.

        ``url`` is the path with its query. ``body`` is bytes, str (sent as UTF-8), a file, or an iterable of bytes,
        which are read as fast as the server takes them. Raises as :meth:`connect` does, BadBody (a TypeError), and
        BadPath and BadHeader (each a ValueError) for what HTTP/2 forbids.
        """
        sent = Begun(text_of(method, "a method"), path_of(url), fields_of(headers))
        number = next(self._numbers)
        self._open(number, sent, body, final=True)
        self._await(number)
        return number

    def putrequest(
        self,
        method: Text,
        selector: Text,
        skip_host: bool = False,
        skip_accept_encoding: bool = False,
        **kwargs: object,
    ) -> int:
        """Begin a request and return its id; nothing is sent before :meth:`endheaders`.

        Host and Accept-Encoding are sent if they are put, so there is nothing to skip.
        """
        number = next(self._numbers)
        self._sent[number] = Begun(text_of(method, "a method"), path_of(selector), [])
        self._await(number)
        return number

    def putheader(
        self, header: Text, argument: Text | int, stream_id: int | None = None, replace: bool = False
    ) -> None:
        """Add a header to a request, or with ``replace``, put it in the place of those of its name.

        Headers about a connection, such as Connection and Transfer-Encoding, are dropped: HTTP/2 has none. Raises
        CannotSend and BadHeader.
        """
        sent = self._of(stream_id, "putheader()")
        if sent.exchange is not None:
            raise CannotSend("putheader() comes before endheaders(): its headers were sent")
        fields = fields_of([(header, argument)])
        if replace:
            names = {name.lower() for name, _ in fields}
            sent.headers = [each for each in sent.headers if each[0].lower() not in names]
        sent.headers += fields

    def endheaders(
        self,
        message_body: RequestBody | None = None,
        final: bool = False,
        stream_id: int | None = None,
        *,
        encode_chunked: bool = False,
    ) -> None:
        """Send the headers, and the body if one is given; unless ``final``, more of it may follow by :meth:`send`.

        A body is complete, too, once it is as long as its Content-Length says, and where the response is asked for and
        nothing was sent. Raises as :meth:`request` does, and CannotSend.
        """
        number, sent = self._number(stream_id, "endheaders()"), self._of(stream_id, "endheaders()")
        if sent.exchange is not None:
            raise CannotSend("endheaders() was called: its headers were sent")
        self._open(number, sent, message_body, final=final or encode_chunked)

    def send(self, data: RequestBody, final: bool = False, stream_id: int | None = None) -> None:
        """Send more of a body, waiting until the server takes it; ``final``: it is the last.

        Raises BadBody, CannotSend, ReadTimedOut, and StreamResetError where the server wants no more, with code
        NO_ERROR if it has answered already.
        """
        sent = self._of(stream_id, "send()")
        if sent.exchange is None:
            raise CannotSend("endheaders() comes before send()")
        if not sent.open:
            raise CannotSend("the body is complete: nothing can be sent behind it")
        self._send(sent, sent.exchange, pieces(data, self._blocksize))
        if final:
            if sent.declared is not None and sent.given < sent.declared:
                sent.exchange.close()
                raise BadCall(f"Content-Length says {sent.declared}, and {sent.given} bytes were sent: it was given up")
            self._complete(sent, sent.exchange)

    def _send(self, sent: Begun, exchange: Exchange, parts: Iterator[Any]) -> None:
        for part in parts:
            data = bytes(part)
            if sent.declared is not None and sent.given + len(data) > sent.declared:
                exchange.close()
                raise BadCall(f"Content-Length says {sent.declared}, and more is sent: the request was given up")
            exchange.send(data, self._reading)
            sent.given += len(data)
        if sent.declared is not None and sent.given >= sent.declared:
            self._complete(sent, exchange)

    def _complete(self, sent: Begun, exchange: Exchange) -> None:
        sent.open = False
        exchange.end()
        for number in [number for number, each in list(self._sending.items()) if each is sent]:
            self._sending.pop(number, None)

    def _open(self, number: int, sent: Begun, body: RequestBody | None, *, final: bool) -> None:
        """Send the head, and of the body what is given."""
        if len(self._sent) >= MOST_WAITING:
            raise TooMuch(f"{MOST_WAITING} requests wait for get_response(): fetch their responses first")
        headers = sent.checked()
        bodiless = sent.method in BODYLESS
        whole, parts = parted(body, self._blocksize, whole=bodiless)
        if whole is None and parts is None:
            complete = final or bodiless or sent.declared == 0
            whole = b"" if complete and not bodiless else None
        else:
            complete = final or bodiless or (whole is not None and len(whole) == sent.declared)
        if whole is not None and not complete:
            parts, whole = iter([whole]), None
        if whole and sent.declared not in (None, len(whole)):
            raise BadCall(f"Content-Length says {sent.declared}, and the body has {len(whole)} bytes: leave it out")
        sent.open = not complete
        request = Request(sent.method, sent.path, headers, whole)
        exchange = self._service.open(request, more=sent.open or parts is not None)
        sent.exchange = exchange
        if self._push:
            self._live[number] = self._mine.exchange = exchange
        if parts is not None:
            try:
                if complete:
                    exchange.send_all(parts, self._reading)
                else:
                    self._send(sent, exchange, parts)
            except BaseException:
                exchange.close()
                raise
        self._sent[number] = sent

    # --- responses ----------------------------------------------------------------------------------------------------

    def get_response(self, stream_id: int | None = None) -> HTTP20Response:
        """The response to a request, once it has begun to come; each is given once.

        Without an id, that of the oldest request of this thread whose response was not asked for. Raises ReadTimedOut
        (a TimeoutError), which gives the request up, ResponseNotReady, UnknownStream, and the stream's error.
        """
        number, sent = self._awaited(stream_id)
        exchange = sent.exchange
        if exchange is None:
            self._mine.waiting.appendleft(number)
            self._sent[number] = sent
            raise ResponseNotReady("endheaders() comes before get_response(): the request was not sent")
        if sent.open and not sent.given:
            sent.open = False
            exchange.end()
        if sent.open:
            self._sending[number] = sent
            if len(self._sending) > MOST_STALE:  # of those that were given up, nobody says that they are complete
                for each in [each for each, begun in list(self._sending.items()) if begun.given_up]:
                    self._sending.pop(each, None)
        try:
            head = exchange.head(self._reading)
        except BaseException:
            exchange.close()
            raise
        return HTTP20Response(
            head, exchange, url=self._origin + sent.path, timeout=self._reading,
            most=self._limits.max_response_body, bodiless=sent.method == "HEAD",
        )  # fmt: skip

    getresponse = get_response

    def _awaited(self, stream_id: int | None) -> tuple[int, Begun]:
        """The request whose response is asked for; it will not be given again."""
        if stream_id is not None:
            sent = self._sent.pop(_id(stream_id), None)
            if sent is None:
                raise UnknownStream(f"no request awaits its response as {stream_id!r}: each is given once")
            return stream_id, sent
        waiting = self._mine.waiting
        while waiting:
            number = waiting.popleft()
            if sent := self._sent.pop(number, None):
                return number, sent
        raise ResponseNotReady("this thread has made no request that awaits its response; for another's, give its id")

    def get_pushes(self, stream_id: int | None = None, capture_all: bool = False) -> Iterator[HTTP20Push]:
        """What the server has pushed along with a response, each given once; none without ``enable_push=True``.

        With ``capture_all``, those that are still to come, too: it waits for the response to end. Raises
        ResponseNotReady, UnknownStream, and while iterating ReadTimedOut.
        """
        exchange = self._mine.exchange if stream_id is None else self._live.get(_id(stream_id))
        if exchange is None and stream_id is not None:
            raise UnknownStream(f"there is no request {stream_id!r}, or its response is gone")
        if exchange is None and self._mine.last is None:
            raise ResponseNotReady("this thread has made no request; for another's, give its id")
        return self._pushes(exchange if self._push else None, capture_all)

    def _pushes(self, exchange: Exchange | None, wait: bool) -> Iterator[HTTP20Push]:
        while exchange is not None and (found := exchange.next_promise(wait=wait, timeout=self._reading)):
            yield HTTP20Push(*found, timeout=self._reading, most=self._limits.max_response_body)

    # --- whose --------------------------------------------------------------------------------------------------------

    def _await(self, number: int) -> None:
        """Take a request for this thread's last."""
        mine = self._mine
        while mine.waiting and mine.waiting[0] not in self._sent:  # asked for by id
            mine.waiting.popleft()
        if len(mine.waiting) > 2 * len(self._sent) + MOST_STALE:  # the first may never be asked for
            mine.waiting = deque(each for each in mine.waiting if each in self._sent)
        mine.waiting.append(number)
        mine.last = number

    def _number(self, stream_id: int | None, what: str) -> int:
        number = self._mine.last if stream_id is None else _id(stream_id)
        if number is None:
            raise CannotSend(f"putrequest() comes before {what}")
        return number

    def _of(self, stream_id: int | None, what: str) -> Begun:
        """The request that a call is about."""
        number = self._number(stream_id, what)
        sent = self._sent.get(number) or self._sending.get(number)
        if sent is None:
            raise UnknownStream(f"{what}: the request {number!r} was never begun, or is over")
        return sent

    def __repr__(self) -> str:
        return f"<HTTP20Connection to {self._origin}>"


def _id(stream_id: int) -> int:
    if type(stream_id) is not int:
        raise UnknownStream(f"there is no request {stream_id!r}: its id is the number that request() returned")
    return stream_id


class _Mine(threading.local):
    """What a thread did last."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.waiting: deque[int] = deque()
        self.exchange: Exchange | None = None
        """Of the last request, where others may be pushed along with it."""


_INSTEAD: Final = {
    "window_manager": ", windows grow by themselves (see limits=)",
    "source_address": ", the system chooses the address",
}
