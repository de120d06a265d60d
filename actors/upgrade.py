"""A client's connection that began as HTTP/1.1: ``Upgrade: h2c`` (RFC 7540, 3.2).

Whoever speaks HTTP/1.1 sends :func:`upgrade_headers` with a request, whole. Where the answer is ``101 Switching
Protocols``, the socket is handed over here, with the bytes that came behind that answer's head. The response to the
request then comes on stream 1, and later requests may go over the same connection. RFC 9113 took the upgrade out of
HTTP/2, but servers know it.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import socket as sockets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from attrs import evolve

from actors.bodies import Loan, open_stream, request
from actors.client import ClientConnection
from actors.client_stream import ClientStream
from actors.errors import Closed, LinkError, Misuse, TransportLost
from actors.exchange import OutgoingBody, Response
from actors.headers import HeaderInput
from actors.mailbox import Ref, Reply
from actors.messages import ConnectionDraining, ConnectionNews, Exited, SendPing
from actors.outgoing import Outgoing, Route, prepare
from actors.pulse import Monitor
from actors.settings import Limits, check_limits
from actors.trace import Tracer
from actors.transport import SocketProtocol, reason_of
from actors.wire import Wire

_numbers: Final = itertools.count(1)


def http2_settings(limits: Limits | None = None, *, push: bool = False) -> str:
    """The value of a request's ``HTTP2-Settings`` (RFC 7540, 3.2.1); an upgrade must be given the same limits."""
    wire = Wire(client=True, limits=limits if limits is not None else Limits(), push=push)
    return base64.urlsafe_b64encode(wire.first_settings()).rstrip(b"=").decode()


def upgrade_headers(limits: Limits | None = None, *, push: bool = False) -> list[tuple[str, str]]:
    """What a request has to say, besides everything else, to be answered over HTTP/2 by who likes to."""
    return [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", http2_settings(limits, push=push)),
    ]


class UpgradedConnection:
    """The connection after ``101``: ``async with`` it; leaving it ends what is open, says GOAWAY, and closes it.

    ``first`` has the response to the request that was sent over HTTP/1.1.
    """

    first: ClientStream
    """Stream 1, our side of which has ended; there once the connection is entered."""

    def __init__(
        self,
        socket: sockets.socket,
        early: bytes = b"",
        *,
        authority: str,
        method: str = "GET",
        path: str = "/",
        limits: Limits | None = None,
        push: bool = False,
        timeout: float | None = None,
        max_body: int | None = None,
        monitor: Monitor | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``socket`` belongs to the connection from the entering on, whatever happens; its file is closed with it.

        ``early`` is what was read from it behind the head of the ``101``. ``authority``, ``method`` and ``path`` are
        those of the request, ``limits`` and ``push`` what :func:`upgrade_headers` was given. ``timeout`` seconds are
        for the first response. Raises Misuse and InvalidHeaders for what can never work.
        """
        if not isinstance(socket, sockets.socket) or isinstance(socket, ssl.SSLSocket):
            raise Misuse(f"an upgrade takes a plain socket, not {type(socket).__name__}: over TLS, ALPN chooses h2")
        if socket.type != sockets.SOCK_STREAM:
            raise Misuse(f"an upgrade takes a socket of streams, not one of {socket.type.name}")
        if not isinstance(early, (bytes, bytearray, memoryview)):
            raise Misuse(f"what came early is bytes, not {type(early).__name__}")
        if method == "CONNECT":
            raise Misuse("a CONNECT cannot be upgraded: what follows its answer is the tunnel's")
        self.limits = limits if limits is not None else Limits()
        check_limits(self.limits)
        self.name = f"upgrade-{next(_numbers)}"
        self.tracer = tracer if tracer is not None else Tracer()
        self._authority = authority
        self._requests = itertools.count(1)
        first = self._prepare(method, path, timeout=timeout, max_body=max_body)
        self._first: Outgoing = evolve(first, is_out=True)
        self._socket, self._early = socket, bytes(early)
        self._push, self._monitor = push, monitor
        self._connection: ClientConnection | None = None
        self._loan: Loan | None = None
        self._cause: LinkError | None = None

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Speak HTTP/2 from now on. Raises TransportLost where the socket is not connected any more."""
        if self._connection is not None:
            raise Misuse("a connection is entered once")
        protocol = await self._take_over()
        connection = self._connection = ClientConnection(
            self.name, protocol.transport, peer=protocol.peer, limits=self.limits,
            owner=Ref("upgrade", self._hear), push=self._push, upgraded=True, monitor=self._monitor,
            tracer=self.tracer,
        )  # fmt: skip
        connection.start(Ref("upgrade", self._hear))
        try:
            self._loan = open_stream(self._route(), self._first)
            self.first = await self._loan.__aenter__()
        except BaseException:
            protocol.attach(connection.ref)
            await self._close()
            raise
        protocol.attach(connection.ref)  # not before: what comes first is stream 1's
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _take_over(self) -> SocketProtocol:
        """The socket, as the loop's. Raises TransportLost, and Misuse where it is closed already."""
        if self._socket.fileno() < 0:
            raise Misuse("the socket was closed before its connection was entered")
        # The caller's object, and whatever file was made of it, let go of it; nobody else can close it any more.
        socket = sockets.socket(fileno=self._socket.detach())
        early, self._early = self._early, b""

        def begin(protocol: SocketProtocol) -> None:
            if early:
                protocol.data_received(early)  # at once: before anything else that comes

        try:
            socket.setblocking(False)
            _, protocol = await asyncio.get_running_loop().create_connection(
                lambda: SocketProtocol(self.tracer, begin), sock=socket
            )
        except BaseException as error:
            socket.close()
            if isinstance(error, OSError):
                raise TransportLost.because(f"no upgrade to HTTP/2: {reason_of(error)}", error) from error
            raise
        return protocol

    async def _close(self) -> None:
        connection, loan = self._connection, self._loan
        if loan is not None:
            loan.leave()
        if connection is None:
            return
        closed = Closed(f"{self.name} was closed")
        try:
            await connection.stop(closed)
        except asyncio.CancelledError:
            await connection.stop(closed)  # it takes little time, and then nothing is left behind
            raise

    def _hear(self, news: ConnectionNews | Exited) -> None:
        match news:
            case ConnectionDraining(_, reason):
                self._cause = self._cause or reason
            case Exited(name, reason):
                ours = reason if isinstance(reason, LinkError) else None
                self._cause = self._cause or ours or Closed.because(f"{name} has ended", reason)

    @property
    def cause(self) -> LinkError | None:
        """Why it takes no more requests; None while it does."""
        return self._cause

    # --- requests -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody = b"",
        trailers: HeaderInput = (),
        timeout: float | None = None,
        max_body: int | None = None,
    ) -> Response:
        """Send another request over the connection, and return its whole response; nothing goes twice."""
        outgoing = self._prepare(
            method, path, headers=headers, body=body, trailers=trailers, timeout=timeout, max_body=max_body
        )
        return await request(self._route(), outgoing)

    def stream(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody | None = None,
        trailers: HeaderInput = (),
        timeout: float | None = None,
        max_body: int | None = None,
    ) -> Loan:
        """Open another stream of the connection: ``async with connection.stream(...) as stream``."""
        outgoing = self._prepare(
            method, path, headers=headers, body=body, trailers=trailers, timeout=timeout, max_body=max_body
        )
        return open_stream(self._route(), outgoing)

    async def ping(self) -> float:
        """Send PING and return the round-trip time in seconds. Raises LinkError."""
        connection = self._entered()
        reply: Reply[float] = Reply()
        connection.tell(SendPing(reply))
        return await reply.wait()

    def _entered(self) -> ClientConnection:
        if self._connection is None:
            raise Misuse("the connection is not there yet: enter it with 'async with'")
        return self._connection

    def _route(self) -> Route:
        connection = self._entered()
        return Route(connection.ref, connection.peer, connection.wire.terms, self.tracer, pushes=self._push)

    def _prepare(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody | None = None,
        trailers: HeaderInput = (),
        timeout: float | None = None,
        max_body: int | None = None,
    ) -> Outgoing:
        return prepare(
            f"{self.name}/request-{next(self._requests)}", method, "http", self._authority, path, headers=headers,
            body=body, trailers=trailers, weight=16, timeout=timeout,
            max_body=self.limits.max_response_body if max_body is None else max_body,
        )  # fmt: skip


@asynccontextmanager
async def upgraded(
    socket: sockets.socket,
    early: bytes = b"",
    *,
    authority: str,
    method: str = "GET",
    path: str = "/",
    limits: Limits | None = None,
    push: bool = False,
    timeout: float | None = None,
    max_body: int | None = None,
    tracer: Tracer | None = None,
) -> AsyncIterator[ClientStream]:
    """Lend the stream of the response after ``101``, where that is all that is wanted of the connection.

    Everything is as for :class:`UpgradedConnection`.
    """
    async with UpgradedConnection(
        socket, early, authority=authority, method=method, path=path, limits=limits, push=push, timeout=timeout,
        max_body=max_body, tracer=tracer,
    ) as connection:  # fmt: skip
        yield connection.first
