"""A link to one service: one connection, made when it is entered and again when a request finds it gone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Final, Self, assert_never

from attrs import evolve

from actors.bodies import Outgoing, Route, open_stream, prepare, request
from actors.client import ClientConnection
from actors.client_stream import ClientStream
from actors.errors import Closed, DeadlineExceeded, GoAway, LinkError, Misuse, Outcome
from actors.exchange import OutgoingBody, Response
from actors.headers import HeaderInput
from actors.mailbox import Ref, Reply, closed_error
from actors.messages import (
    AlternativeOffered,
    ChangeLimits,
    ConnectionAlive,
    ConnectionDraining,
    ConnectionNews,
    ConnectionReady,
    ConnectionSuspect,
    Drain,
    Exited,
    Halt,
    PeerAllows,
    SendPing,
    StreamsCut,
)
from actors.settings import Limits, Tls, check_debug, check_limits
from actors.tls import TlsSide, client_side, first_cause
from actors.trace import Tracer
from actors.transport import dial
from supervisor.endpoints import Endpoint, parse_url

_numbers: Final = itertools.count(1)
MOST_MOVES: Final = 4
"""Times that a request which was not sent goes over yet another connection."""
MAX_ALTERNATIVES: Final = 32
"""Origins that a link remembers alternatives for."""


def _tls_of(endpoint: Endpoint, tls: Tls | None, limits: Limits) -> TlsSide | None:
    """What TLS needs; None for plaintext. Raises Misuse."""
    if tls is None and not endpoint.secure:
        return None
    if not endpoint.secure and endpoint.path is None:
        raise Misuse(f"tls is for https: write https://{endpoint}, or leave tls away")
    return client_side(tls if tls is not None else Tls(), limits, named=endpoint.path is None)


class Link:
    """Requests to one service over HTTP/2, over TLS or with prior knowledge.

    ``async with`` connects on entering; on leaving, what is still open ends with Closed. A connection that was lost or
    is going away is replaced when the next request comes.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 1,
        push: bool = False,
        tls: Tls | None = None,
        limits: Limits | None = None,
    ) -> None:
        """``url`` is ``http://HOST[:PORT]``, ``https://`` for TLS, or ``unix:PATH``. Raises Misuse for anything else.

        ``tls`` says how TLS is done; for a Unix socket, that it is. The files that it names are read at once.

        ``connections`` is 1: a link keeps one connection in this version, and refuses another number.
        """
        self.endpoint, path = parse_url(url)
        if path != "/":
            raise Misuse(f"a link is to a service, not to {path!r}: give the path to request() or stream()")
        if connections != 1:
            raise Misuse(f"a link keeps 1 connection in this version, not {connections!r}")
        self.limits = limits if limits is not None else Limits()
        self.tracer = Tracer()
        """The hook that sees every message of the link's actors."""
        self.name = f"link-{next(_numbers)}"
        self.alternatives: dict[str, str] = {}
        """Where else an origin is served, as the service said in ALTSVC (RFC 7838); nothing is done with it."""
        if type(push) is not bool:
            raise Misuse(f"push is True or False, not {push!r}")
        self._push = push
        self._tls = _tls_of(self.endpoint, tls, self.limits)
        self._route: Route | None = None
        self._connections: dict[str, ClientConnection] = {}
        self._dialling: asyncio.Task[Route] | None = None
        self._dials = itertools.count(1)
        self._requests = itertools.count(1)
        self._closed: LinkError | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        """Connect. Raises ConnectFailed, TlsFailed, and ProtocolViolation where the peer does not speak HTTP/2."""
        if self._entered:
            raise Misuse("a Link is entered once: leaving it would close it for whoever entered it first")
        self._entered = True
        try:
            await self._connected()
        except asyncio.CancelledError:
            await self.close()  # whoever is not let in cannot leave
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, debug: bytes = b"") -> None:
        """Say GOAWAY, end what is open with Closed, and close; closing twice is closing once.

        ``debug`` is for the people who look after the service; of it the first 512 bytes are sent.
        """
        check_debug(debug)
        if self._closed is None:
            self._closed = Closed(f"the link to {self.endpoint} was closed")
        self._route = None
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait((self._dialling,))
        connections = list(self._connections.values())
        try:
            for connection in connections:
                if debug:
                    await self._say_last(connection, Drain(0.0, self._closed, debug))
                await connection.stop(self._closed)
        finally:
            for connection in connections:  # also where waiting for the first of them was cancelled
                connection.signal(Halt(self._closed))

    async def _say_last(self, connection: ClientConnection, last: Drain) -> None:
        """Let the connection end by itself, with its last words, where it can."""
        connection.tell(last)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.shutdown_timeout):
                await connection.wait()

    async def ping(self) -> float:
        """Send PING (RFC 9113, 6.7), connecting first where need be, and return the round-trip time in seconds.

        All who ask at the same time share one. It has no deadline of its own. Raises LinkError.
        """
        route = await self._connected()
        reply: Reply[float] = Reply()
        route.connection.tell(SendPing(reply))
        return await reply.wait()

    async def change_limits(self, limits: Limits) -> None:
        """Let other limits hold; returns when the service has acknowledged what concerns it (RFC 9113, 6.5.3).

        Each holds from its acknowledgement on, and for later connections from their beginning; windows that are open
        stay as they are. Raises LinkError where the connection ends meanwhile.
        """
        check_limits(limits)
        self.limits = limits
        replies: list[Reply[None]] = []
        for connection in self._connections.values():
            replies.append(Reply())
            connection.tell(ChangeLimits(limits, replies[-1]))
        for reply in replies:
            await reply.wait()

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody = b"",
        trailers: HeaderInput = (),
        timeout: float | None = None,
        weight: int = 16,
        max_body: int | None = None,
    ) -> Response:
        """Send a request and return its whole response; any status is a response.

        ``timeout`` in seconds covers everything from connecting to the last byte; ``weight`` (1 to 256) is the share of
        the body among others on the connection; ``max_body`` bytes (``limits.max_response_body``) bound the response.
        Raises LinkError: its ``outcome`` says whether the peer may have acted on the request.
        """
        outgoing = self._prepare(
            method, path, headers=headers, body=body, trailers=trailers, timeout=timeout, weight=weight,
            max_body=max_body, authority=None, protocol=None,
        )  # fmt: skip
        until = None if timeout is None else asyncio.get_running_loop().time() + timeout
        for _ in range(MOST_MOVES):
            outgoing, route = await self._routed(outgoing)
            try:
                return await request(route, outgoing)
            except LinkError as error:
                outgoing = self._moved(outgoing, route, until, error)
        return await request(route, outgoing)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody | None = None,
        trailers: HeaderInput = (),
        timeout: float | None = None,
        weight: int = 16,
        max_body: int | None = None,
        authority: str | None = None,
        protocol: str | None = None,
    ) -> AsyncIterator[ClientStream]:
        """Open a stream to send and receive over at the same time; leaving it unfinished resets it with CANCEL.

        Without ``body`` our side stays open until ``end()``, but for GET and HEAD, which have none. The rest is as in
        :meth:`request`; ``max_body`` bounds ``read()`` to the end. ``protocol`` makes a CONNECT an extended one
        (RFC 8441), such as ``websocket``; where the service does not take that, it is Misuse and nothing is sent.
        """
        outgoing = self._prepare(
            method, path, headers=headers, body=body, trailers=trailers, timeout=timeout, weight=weight,
            max_body=max_body, authority=authority, protocol=protocol,
        )  # fmt: skip
        until = None if timeout is None else asyncio.get_running_loop().time() + timeout
        async with AsyncExitStack() as opened:
            for moves in itertools.count(1):
                outgoing, route = await self._routed(outgoing)
                try:
                    stream = await opened.enter_async_context(open_stream(route, outgoing))
                    break
                except LinkError as error:
                    if moves > MOST_MOVES:
                        raise
                    outgoing = self._moved(outgoing, route, until, error)
            yield stream

    def _moved(self, outgoing: Outgoing, route: Route, until: float | None, error: LinkError) -> Outgoing:
        """The same request for another connection, if it was not sent because its own takes no more; else raise."""
        gone = self._route is not route and self._closed is None and isinstance(error, (Closed, GoAway))
        again = outgoing.body is None or isinstance(outgoing.body, (bytes, bytearray, memoryview))
        if error.outcome is not Outcome.NOT_SENT or not gone or not again:
            raise error
        if until is None:
            return outgoing
        return evolve(outgoing, timeout=max(until - asyncio.get_running_loop().time(), 0.001))

    def _prepare(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput,
        body: OutgoingBody | None,
        trailers: HeaderInput,
        timeout: float | None,
        weight: int,
        max_body: int | None,
        authority: str | None,
        protocol: str | None,
    ) -> Outgoing:
        """Check everything, before a connection is made or anything sent."""
        return prepare(
            f"{self.name}/request-{next(self._requests)}",
            method,
            "http" if self._tls is None else "https",
            self.endpoint.authority if authority is None else authority,
            path,
            headers=headers,
            body=body,
            trailers=trailers,
            weight=weight,
            timeout=timeout,
            max_body=self.limits.max_response_body if max_body is None else max_body,
            protocol=protocol,
        )

    async def _routed(self, outgoing: Outgoing) -> tuple[Outgoing, Route]:
        """A connection, made in the time that the whole request has; and the request with what is left of that."""
        timeout = outgoing.timeout
        if (route := self._route) is not None:
            return outgoing, route
        if timeout is None:
            return outgoing, await self._connected()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        try:
            async with asyncio.timeout_at(until):
                route = await self._connected()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{outgoing.name} had no connection to {self.endpoint} within {timeout:g} s"
            ) from None
        return evolve(outgoing, timeout=max(until - loop.time(), 0.001)), route

    async def _connected(self) -> Route:
        """The way to a connection that takes requests; all who wait share one attempt to make it."""
        if self._closed is not None:
            raise Closed(str(self._closed))
        if self._route is not None:
            return self._route
        if self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial(), name=f"{self.name}/dial")
            self._dialling.add_done_callback(self._dialled)
        attempt = self._dialling
        await asyncio.wait((attempt,))  # leaves the attempt alone when its caller is cancelled
        if attempt.cancelled():
            raise Closed(f"the link to {self.endpoint} was closed")
        return attempt.result()

    def _dialled(self, task: asyncio.Task[Route]) -> None:
        self._dialling = None
        if not task.cancelled():
            task.exception()  # whoever waited has got it; where nobody did, nobody wants it

    async def _dial(self) -> Route:
        endpoint, limits = self.endpoint, self.limits
        protocol = await dial(
            self.tracer, host=endpoint.host, port=endpoint.port, path=endpoint.path, timeout=limits.connect_timeout,
            tls=self._tls,
        )  # fmt: skip
        name = f"{self.name}/connection-{next(self._dials)}"
        ready: Reply[None] = Reply()
        leaving = False

        def hear(news: ConnectionNews) -> None:
            nonlocal leaving
            match news:
                case ConnectionReady():
                    ready.tell(None)
                case ConnectionDraining():
                    leaving = True
                    self._leave(route)
                case AlternativeOffered(_, origin, value):
                    if origin.decode("latin-1") not in self.alternatives and len(self.alternatives) >= MAX_ALTERNATIVES:
                        del self.alternatives[next(iter(self.alternatives))]
                    self.alternatives[origin.decode("latin-1")] = value.decode("latin-1")
                case StreamsCut() | PeerAllows() | ConnectionSuspect() | ConnectionAlive():
                    pass  # whoever had one was told
                case _:
                    assert_never(news)

        def ended(exited: Exited) -> None:
            self._leave(route)
            self._connections.pop(name, None)
            reason = first_cause(exited.reason)
            ready.fail(reason if isinstance(reason, LinkError) else closed_error(name, reason))

        connection = ClientConnection(
            name,
            protocol.transport,
            peer=protocol.peer,
            limits=limits,
            owner=Ref(name, hear),
            push=self._push,
            tracer=self.tracer,
        )
        route = Route(connection.ref, protocol.peer, connection.wire.terms, self.tracer, pushes=self._push)
        self._connections[name] = connection
        protocol.attach(connection.start(Ref(name, ended)))
        await ready.wait()
        if connection.exited is not None:  # gone in the same breath
            reason = first_cause(connection.exited.reason)
            raise reason if isinstance(reason, LinkError) else closed_error(name, reason)
        if self._closed is None and not leaving:
            self._route = route
        return route

    def _leave(self, route: Route) -> None:
        """Send no more requests over a connection that ends."""
        if self._route is route:
            self._route = None
