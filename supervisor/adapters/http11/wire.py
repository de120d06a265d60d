"""One connection of :mod:`http.client`: how it is dialled, through proxies and TLS, and what comes by it."""

from __future__ import annotations

import base64
import http.client
import os
import select
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from attrs import field, frozen

from actors.errors import LinkError
from supervisor.adapters.blocking.errors import BadArgument, BadCall, NotOpen
from supervisor.adapters.blocking.parts import for_proxy, header_of
from supervisor.adapters.http11.errors import (
    ProxyFailed,
    TLSUpgrade,
    connect_failed,
    handshake_failed,
    translated,
)

CONNECT_SECONDS: Final = 10.0
"""For making a connection, where no time-out is given."""
ALPN: Final = ("http/1.1",)
_MOST_INFORMATIONAL: Final = 100
left_behind: Final[list[object]] = []
"""What was inherited from parent processes; collected, it would wait for threads that are not here."""


@lru_cache(maxsize=1)
def default_context() -> ssl.SSLContext:
    """What is used where no context is given: certificates are verified by the system's authorities."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(ALPN)
    return context


@frozen
class Proxy:
    """A proxy that is asked for tunnels by CONNECT (RFC 9110, 9.3.6)."""

    host: str
    port: int
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def of(cls, host: str, port: int, headers: Mapping[str, str] | None) -> Proxy:
        """A proxy; credentials before an @ in its host become its Proxy-Authorization. Raises BadHeader."""
        checked = (header_of(name, (value,)) for name, value in for_proxy(headers).items())
        given = tuple((name, value.decode("latin-1")) for name, value in checked)
        secret, at, host = host.rpartition("@")
        if at:
            basic = base64.b64encode(unquote(secret).encode()).decode("ascii")
            given += (("Proxy-Authorization", f"Basic {basic}"),)
        return cls(host, port, given)


@frozen
class Destination:
    """Where to connect, and how."""

    host: str
    port: int
    context: ssl.SSLContext | None = field(default=None, repr=False)
    """None: plaintext."""
    proxy: Proxy | None = None
    connect_timeout: float | None = None
    read_timeout: float | None = None
    source_address: tuple[str, int] | None = None
    blocksize: int = 16_384

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class RawResponse(http.client.HTTPResponse):
    """http.client's response, which also keeps trailers, and skips every 1xx but 101."""

    trailers: http.client.HTTPMessage | None = None
    _heads = 0

    def begin(self) -> None:
        super().begin()
        while 100 < self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment]  # what makes http.client read the next head
            super().begin()

    def _read_status(self) -> tuple[str, int, str]:
        # Here, since http.client itself skips any number of 100.
        self._heads += 1
        if self._heads > _MOST_INFORMATIONAL:
            raise http.client.HTTPException("informational responses without end")
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        return found

    def _read_and_discard_trailer(self) -> None:
        self.trailers = http.client.parse_headers(self.fp)

    def buffered(self, sock: socket.socket) -> bytes:
        """What came behind the head and was read along with it."""
        sock.settimeout(0)
        with suppress(OSError):
            return self.fp.peek()
        return b""


class Wire(http.client.HTTPConnection):
    """One connection: at most one exchange at a time runs over it."""

    response_class = RawResponse
    auto_open = 0  # or what is closed meanwhile would connect again, in the middle of a request

    def __init__(self, to: Destination) -> None:
        super().__init__(to.host, to.port, blocksize=to.blocksize)
        self.to = to
        self.default_port = http.client.HTTP_PORT if to.context is None else http.client.HTTPS_PORT
        self.fresh = True
        """Whether no request has gone over the connection yet."""
        self.closed = False
        """Whether its owner wants nothing of it any more."""
        self._socket: socket.socket | None = None
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether its socket is that of a parent process, which goes on with it."""
        return self._pid != os.getpid()

    def connect(self) -> None:
        """Dial, ask the proxy, and shake hands. Raises ConnectFailed and TlsFailed."""
        to = self.to
        allowed = CONNECT_SECONDS if to.connect_timeout is None else to.connect_timeout
        deadline = time.monotonic() + allowed
        first, where = (to, str(to)) if to.proxy is None else (to.proxy, f"the proxy {to.proxy}")
        try:
            sock = socket.create_connection((first.host, first.port), allowed, to.source_address)
        except OSError as error:
            raise connect_failed(error, where) from error
        except (UnicodeError, OverflowError, TypeError) as error:
            raise BadArgument.because(f"there can be no host {where}: {error}", error) from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if to.proxy is not None:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                _tunnel(sock, to, to.proxy)
            if to.context is not None:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                sock = _encrypted(sock, to, to.context)
            sock.settimeout(to.read_timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = self._socket = sock
        self.fresh = True

    def ready(self) -> None:
        """Be connected, anew where the server has closed the connection since its last use."""
        if self.sock is not None and _quiet(self.sock):
            return
        self.drop()
        self.connect()
        if self.closed:
            self.drop()
            raise NotOpen(f"the connection to {self.to} was closed")

    def leave(self) -> None:
        """Close this process's copy of an inherited socket, and touch nothing else.

        A thread that the fork left behind may hold the lock of the file that reads from it.
        """
        left_behind.append(self)
        self.closed = True
        sock, self.sock, self._socket = self._socket, None, None
        if sock is not None and (number := sock.detach()) >= 0:
            os.close(number)

    def abandon(self) -> None:
        """Close it for good, and end what another thread may be waiting for on it."""
        self.closed = True
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket's, which would take the TLS state from under a thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self.drop()

    def drop(self) -> None:
        """Close the socket, but stay what http.client may be building a request with."""
        sock, self.sock, self._socket = self._socket, None, None
        if sock is not None:
            sock.close()

    def __del__(self) -> None:
        if getattr(self, "_socket", None) is not None:
            self.drop()

    def take(self) -> socket.socket:
        """Hand over the socket."""
        sock, self.sock, self._socket = self._socket, None, None
        if sock is None:
            raise BadCall("the connection has no socket any more")
        return sock


def _quiet(sock: socket.socket) -> bool:
    """Whether an idle connection lives: its end, or bytes that nobody asked for, would be there to be read."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLIN | select.POLLPRI)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False


def _tunnel(sock: socket.socket, to: Destination, proxy: Proxy) -> None:
    """Ask a proxy for a way through."""
    lines = [f"CONNECT {to} HTTP/1.1", f"Host: {to}", *(f"{name}: {value}" for name, value in proxy.headers), "", ""]
    try:
        with translated(f"the proxy {proxy}", waits="asked it for a tunnel"):
            sock.sendall("\r\n".join(lines).encode("latin-1"))
            answer = RawResponse(sock, method="CONNECT")
            try:
                answer.begin()
            finally:
                answer.close()
    except LinkError as error:
        raise ProxyFailed.because(f"no tunnel to {to}: {error}", error) from error
    if not 200 <= answer.status < 300:
        said = f"{answer.status} {answer.reason}".strip()[:100]
        raise ProxyFailed(f"the proxy {proxy} refuses a tunnel to {to}: {ascii(said)[1:-1]}", status=answer.status)


def _encrypted(sock: socket.socket, to: Destination, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        encrypted = context.wrap_socket(sock, server_hostname=to.host)
    except OSError as error:
        raise handshake_failed(error, str(to), to.host) from error
    except ValueError as error:
        raise BadArgument.because(f"no TLS with {to}: {error}", error) from error
    chosen = encrypted.selected_alpn_protocol()
    if chosen not in (None, *ALPN):
        encrypted.close()
        raise TLSUpgrade(
            f"{to} chose {chosen!r} by ALPN: use HTTPConnection, or an ssl_context that offers http/1.1 alone",
            protocol=chosen,
        )
    return encrypted
