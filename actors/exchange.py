"""What user code holds: :class:`ServerStream`, :class:`ClientStream` and :class:`Response`; and how each is run.

A server's stream actor runs the handler. A client's runs a whole request (:func:`request`), or lends itself to the
caller (:func:`open_stream`): it parks, owning deadline and clean-up, while the caller's task reads and writes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from attrs import field, frozen

from actors.actor import Stop
from actors.commands import ConnectionMessage, Respond, SendHead
from actors.errors import (
    Closed,
    DeadlineExceeded,
    ErrorCode,
    LimitReached,
    LinkError,
    Misuse,
    StreamReset,
)
from actors.headers import HeaderInput, Headers, Pair, check_fields, declared_length, request_head, response_head, split_head
from actors.mailbox import Ref, closed_error
from actors.messages import Exited, Halt, OpenStream, Peer
from actors.settings import Limits
from actors.stream import Body, StreamActor
from actors.trace import Tracer

logger: Final = logging.getLogger("muxlink.stream")

T = TypeVar("T")

ANY_SIZE: Final = 2**31
BODYLESS_STATUSES: Final = frozenset((204, 304))
OutgoingBody = bytes | bytearray | memoryview | Iterable[bytes] | AsyncIterable[bytes]
Handler = Callable[["ServerStream"], Awaitable[None]]


@frozen
class ResponseHead:
    """The beginning of a response."""

    status: int
    headers: Headers
    informational: tuple[ResponseHead, ...] = ()
    """The 1xx responses before it (RFC 9110, 15.2)."""


@frozen
class Response:
    """A whole response; any status is a response, not an error."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    trailers: Headers
    """Empty where there were none."""
    informational: tuple[ResponseHead, ...] = ()


class _Exchange:
    """What both sides have."""

    __slots__ = ("_actor",)

    def __init__(self, actor: StreamActor) -> None:
        self._actor = actor

    @property
    def id(self) -> int:
        """The stream's id (RFC 9113, 5.1.1)."""
        return self._actor.stream_id

    @property
    def peer(self) -> Peer:
        return self._actor.peer

    @property
    def cause(self) -> LinkError | None:
        """What ended the stream badly; None as long as nothing did."""
        return self._actor.error

    async def read(self, n: int = -1) -> bytes:
        """The next of the body, up to ``n`` bytes, ``b""`` at the end; without ``n``, all of it to the end.

        Raises LimitReached when all of it is more than the limit, and the stream's error: StreamReset says how many
        bytes had come.
        """
        if n < 0:
            return await self._actor.read_all(self._max_body())
        return await self._actor.read(n)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self._actor.read(ANY_SIZE):
            yield chunk

    async def trailers(self) -> Headers:
        """The peer's trailers, once it has ended its side; empty where it sent none. Raises the stream's error.

        Trailers follow the body: read it meanwhile, or its flow control holds them back.
        """
        return await self._actor.read_trailers()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Queue ``data``; returns once there is room for it, so that a slow peer slows the sender.

        Raises StreamReset when the peer wants no more, with code NO_ERROR if it has answered already; Misuse after the
        end; the stream's error.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise Misuse(f"send() takes bytes, not {type(data).__name__}")
        self._check_sendable()
        await self._actor.send(data)

    async def end(self, trailers: HeaderInput = ()) -> None:
        """End our side of the stream, with trailers or without. Raises as :meth:`send` does, and InvalidHeaders."""
        fields = check_fields(trailers)
        self._check_sendable()
        self._actor.end(fields)

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up with RST_STREAM (RFC 9113, 6.4); a stream that is over stays as it is."""
        if type(code) not in (int, ErrorCode) or not 0 <= code < 2**32:
            raise Misuse(f"an error code is a number of 32 bits, not {code!r}")
        self._actor.reset(code)

    def _max_body(self) -> int:
        raise NotImplementedError

    def _check_sendable(self) -> None:
        """Raise Misuse where the order of calls forbids a body."""


# --- servers ----------------------------------------------------------------------------------------------------------


class ServerStream(_Exchange):
    """A request and the way to answer it; what a handler gets.

    A handler's exception costs only its own stream (INTERNAL_ERROR). So does returning without a response; returning
    after :meth:`start_response` ends the stream.
    """

    __slots__ = ("_headers", "_pseudo", "_status")

    def __init__(self, actor: StreamActor) -> None:
        super().__init__(actor)
        self._pseudo, self._headers = split_head(actor.head or [])
        self._status = 0

    @property
    def method(self) -> str:
        return self._pseudo[b":method"].decode("latin-1")

    @property
    def path(self) -> str:
        """The path and query as they came; empty for CONNECT."""
        return self._pseudo.get(b":path", b"").decode("latin-1")

    @property
    def scheme(self) -> str:
        return self._pseudo.get(b":scheme", b"").decode("latin-1")

    @property
    def authority(self) -> str:
        """The host that the client asked for, from ``:authority`` or ``host``."""
        given = self._pseudo.get(b":authority")
        return given.decode("latin-1") if given is not None else self._headers.get("host", "") or ""

    @property
    def headers(self) -> Headers:
        """The request's fields, without pseudo-headers."""
        return self._headers

    async def inform(self, status: int, headers: HeaderInput = ()) -> None:
        """Send an informational response, such as 103 (RFC 9110, 15.2), before the final one."""
        if type(status) is not int or not 100 <= status <= 199:
            raise Misuse(f"inform() is for 1xx, not {status!r}: use respond() or start_response()")
        self._check_not_started()
        self._actor.command(SendHead(self.id, response_head(status, headers)))

    async def start_response(self, status: int, headers: HeaderInput = ()) -> None:
        """Send the response's head; its body follows by :meth:`send`, and :meth:`end` ends it.

        Raises InvalidHeaders, Misuse when it was sent already, and the stream's error.
        """
        self._check_final(status)
        head = response_head(status, headers)
        declared_length(head)
        self._check_not_started()
        self._status = status
        self._actor.command(SendHead(self.id, head))

    async def respond(
        self,
        status: int,
        headers: HeaderInput = (),
        body: bytes | bytearray | memoryview = b"",
        trailers: HeaderInput = (),
    ) -> None:
        """Send a whole response, with its content-length; for HEAD the body is left out (RFC 9110, 9.3.2).

        Raises as :meth:`start_response` does; a body for 204 or 304, or one that is not as long as a content-length
        that was given, is Misuse.
        """
        self._check_final(status)
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise Misuse(f"respond() takes a body of bytes, not {type(body).__name__}: use start_response() and send()")
        head = response_head(status, headers)
        fields = check_fields(trailers)
        self._check_not_started()
        size = len(body) if not isinstance(body, memoryview) else body.nbytes
        bodyless = status in BODYLESS_STATUSES
        asked_for_head = self._pseudo.get(b":method") == b"HEAD"
        if bodyless and size:
            raise Misuse(f"a response with status {status} has no body (RFC 9110, 6.4.1)")
        declared = declared_length(head)
        if declared is None:
            if not bodyless:
                head.append((b"content-length", b"%d" % size))
        elif declared != size and not bodyless and not asked_for_head:
            raise Misuse(f"content-length says {declared} and the body has {size} bytes: leave the header out")
        self._status = status
        actor = self._actor
        if asked_for_head:
            body, size = b"", 0
        if size <= actor.room:
            actor.local_ended = True
            actor.command(Respond(self.id, head, body if isinstance(body, bytes) else bytes(body), fields))
            return
        actor.command(SendHead(self.id, head))
        await actor.send(body)
        actor.end(fields)

    async def draining(self) -> None:
        """Return when the server begins to drain: the time for a long stream to end well."""
        await self._actor.until(lambda: self._actor.draining)
        if self._actor.error is not None:
            raise self._actor.error

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._pseudo.get(b":method") == b"HEAD":
            self._check_sendable()
            self._actor.check_open()
            return  # RFC 9110, 9.3.2: the answer to HEAD has no body
        await super().send(data)

    def _max_body(self) -> int:
        return self._actor.limits.max_request_body

    def _check_final(self, status: int) -> None:
        if type(status) is not int or not 200 <= status <= 999:
            raise Misuse(f"a final response's status is from 200 to 999, not {status!r}: use inform() for 1xx")

    def _check_not_started(self) -> None:
        self._actor.check_open()
        if self._status:
            raise Misuse(f"the response was begun already, with status {self._status}")

    def _check_sendable(self) -> None:
        if not self._status:
            self._actor.check_open()
            raise Misuse("a response begins with start_response(): call it before send() and end()")
        if self._status in BODYLESS_STATUSES:
            raise Misuse(f"a response with status {self._status} has no body (RFC 9110, 6.4.1)")


def is_coroutine_function(handler: object) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, a partial of one, or an object with one as call."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if isinstance(handler, type):
        return False  # calling a class makes an object, whatever calling the object does
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004  (its kind matters, not whether it is there)


def serve(handler: Handler) -> Body:
    """What a server's stream actor runs for each request. Raises Misuse where ``handler`` is no coroutine function."""
    if not is_coroutine_function(handler):
        name = getattr(handler, "__qualname__", repr(handler))
        raise Misuse(f"the handler {name} is no coroutine function: write 'async def' before its name")

    async def run(actor: StreamActor) -> None:
        stream = ServerStream(actor)
        try:
            await handler(stream)
        except LinkError as stopped:
            if stopped is actor.stopped_by:
                raise Stop(stopped) from None
            if not isinstance(stopped, LimitReached) or stream._status or actor.error is not None:
                raise
            await stream.respond(413)
        if actor.error is not None or actor.local_ended:
            return
        if stream._status:
            actor.end([])
        else:
            logger.error("%s: the handler returned without a response to %s %s", actor.name, stream.method, stream.path)
            actor.reset(ErrorCode.INTERNAL_ERROR)

    return run


# --- clients ----------------------------------------------------------------------------------------------------------


@frozen
class Route:
    """How to reach a connection, as whoever sends requests over it knows it."""

    connection: Ref[ConnectionMessage]
    peer: Peer
    limits: Limits
    tracer: Tracer


@frozen
class Outgoing:
    """A checked request: ``body`` None leaves our side open."""

    name: str
    head: list[Pair] = field(repr=False)
    body: OutgoingBody | None = field(repr=False)
    trailers: list[Pair] = field(repr=False)
    weight: int
    timeout: float | None
    max_body: int

    def __attrs_post_init__(self) -> None:
        if isinstance(self.body, str) or (
            self.body is not None and not isinstance(self.body, (bytes, bytearray, memoryview, Iterable, AsyncIterable))
        ):
            raise Misuse(f"a body is bytes, or an iterable of bytes, sync or async; not {type(self.body).__name__}")
        if type(self.weight) is not int or not 1 <= self.weight <= 256:
            raise Misuse(f"a weight is from 1 to 256, not {self.weight!r}")
        if self.timeout is not None and (type(self.timeout) not in (int, float) or not self.timeout > 0):
            raise Misuse(f"a timeout is a number of seconds above 0, not {self.timeout!r}")
        if type(self.max_body) is not int or self.max_body < 0:
            raise Misuse(f"max_body is a number of bytes, not {self.max_body!r}")


class ClientStream(_Exchange):
    """A request that was opened; both directions at once."""

    __slots__ = ("_limit",)

    def __init__(self, actor: StreamActor, max_body: int) -> None:
        super().__init__(actor)
        self._limit = max_body

    @property
    def headers(self) -> Headers:
        """The fields of the response; empty until it has come."""
        return split_head(self._actor.head or [])[1]

    async def response(self) -> ResponseHead:
        """The response's head, once it has come. Raises the stream's error."""
        actor = self._actor
        await actor.until(lambda: actor.head is not None)
        if actor.head is None:
            assert actor.error is not None
            raise actor.error
        return _response_head(actor)

    async def end(self, trailers: HeaderInput = ()) -> None:
        """End our side, with trailers or without; a second plain ``end()`` changes nothing."""
        if trailers or not self._actor.local_ended or self._actor.error is not None:
            await super().end(trailers)

    def _max_body(self) -> int:
        return self._limit


def prepare(
    name: str,
    method: str,
    scheme: str,
    authority: str,
    path: str,
    *,
    headers: HeaderInput,
    body: OutgoingBody | None,
    trailers: HeaderInput,
    weight: int,
    timeout: float | None,
    max_body: int,
) -> Outgoing:
    """Check a request before anything is sent; a body of bytes gets its content-length.

    Raises InvalidHeaders and Misuse.
    """
    head = request_head(method, scheme, authority, path, headers)
    declared = declared_length(head)
    if isinstance(body, (bytes, bytearray, memoryview)):
        size = body.nbytes if isinstance(body, memoryview) else len(body)
        if declared is None:
            # RFC 9110, 8.6: a method that gives a body a meaning says so even when it is empty.
            if size or method in ("POST", "PUT", "PATCH"):
                head.append((b"content-length", b"%d" % size))
        elif declared != size:
            raise Misuse(f"content-length says {declared} and the body has {size} bytes: leave the header out")
    return Outgoing(name, head, body, check_fields(trailers), weight, timeout, max_body)


async def request(route: Route, outgoing: Outgoing) -> Response:
    """Send a request and return its whole response; the stream's task does all of it.

    Raises the stream's error, DeadlineExceeded, LimitReached, and what the iteration over a body raises.
    """
    result: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def run(actor: StreamActor) -> None:
        try:
            await _within(actor, outgoing.timeout, _exchange(actor, outgoing))
        except Exception as error:
            if not result.done():
                result.set_exception(error)
            raise Stop(error if isinstance(error, LinkError) else None) from error
        if not result.done():
            result.set_result(_response(actor))

    def ended(exited: Exited) -> None:
        # The body has set the result, unless it was cancelled, perhaps before its first step, perhaps after its last.
        if result.done():
            return
        if actor.remote_ended and actor.error is None:
            result.set_result(_response(actor))
        else:
            result.set_exception(actor.error or closed_error(exited.name, exited.reason))

    actor = _start(route, outgoing, run, Ref("caller", ended))
    try:
        return await result
    except asyncio.CancelledError:
        actor.signal(Halt(Closed(f"{outgoing.name} was cancelled by its caller", outcome=actor.outcome)))
        raise


@asynccontextmanager
async def open_stream(route: Route, outgoing: Outgoing) -> AsyncIterator[ClientStream]:
    """Open a stream for the caller to read and write; leaving it unfinished resets it with CANCEL.

    Without a body, our side stays open, but for GET and HEAD, which have none. Raises as :func:`request` does.
    """


    async def lend(actor: StreamActor) -> None:
        try:
            await _within(actor, outgoing.timeout, _lend(actor, outgoing))
        except Exception as error:
            ours = error if isinstance(error, LinkError) else None
            actor.reset(ErrorCode.CANCEL, ours or Closed.because(f"{actor.name} was not sent in full", error))
            raise Stop(ours) from error

    actor = _start(route, outgoing, lend)
    try:
        await actor.until(lambda: actor.sent)
        if not actor.sent:
            assert actor.error is not None
            raise actor.error
        yield ClientStream(actor, outgoing.max_body)
    finally:
        actor.reset(ErrorCode.CANCEL)
        actor.signal(Halt(None))


def _start(route: Route, outgoing: Outgoing, body: Body, *watchers: Ref[Exited]) -> StreamActor:
    actor = StreamActor(
        outgoing.name, route.connection, body, peer=route.peer, limits=route.limits, tracer=route.tracer
    )
    actor.start(route.connection, *watchers)
    return actor


async def _within(actor: StreamActor, seconds: float | None, work: Coroutine[None, None, T]) -> T:
    """Do the work in the time that the whole stream has; the end of the time resets the stream."""
    if seconds is None:
        return await work
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise  # it came out of the caller's own body
        late = DeadlineExceeded(f"{actor.name} had no whole response within {seconds:g} s", outcome=actor.outcome)
        actor.reset(ErrorCode.CANCEL, late)
        raise late from None


async def _exchange(actor: StreamActor, outgoing: Outgoing) -> None:
    """Send all and receive all, at the same time where the body is long: the peer may answer as it reads."""
    failures: list[Exception] = []
    upload: asyncio.Task[None] | None = None
    body = outgoing.body
    if isinstance(body, bytes) and len(body) <= actor.room:
        _open(actor, outgoing, body)
    else:
        upload = asyncio.get_running_loop().create_task(_upload(actor, outgoing, failures), name=f"{actor.name}/upload")
    try:
        await actor.until_whole(outgoing.max_body)
        if upload is not None:
            # An early answer does not stop it, unless the peer says so (RFC 9113, 8.1).
            task = upload
            task.add_done_callback(lambda _: actor.wake())
            await actor.until(lambda: task.done() or actor.stopped_by is not None)
    except LinkError:
        if failures:
            raise failures[0] from None
        raise
    finally:
        if upload is not None and not upload.done():
            upload.cancel()
            await asyncio.wait((upload,))


def _response(actor: StreamActor) -> Response:
    head = _response_head(actor)
    return Response(head.status, head.headers, actor.take_buffered(), actor.trailers, head.informational)


def _open(actor: StreamActor, outgoing: Outgoing, whole: bytes | None) -> None:
    """Ask for the stream, with the ``whole`` body where it is short; None where more follows."""
    actor.local_ended = end = whole is not None
    trailers = outgoing.trailers if end else []
    opening = OpenStream(
        actor.ref, outgoing.head, whole or b"", trailers, end, outgoing.weight, actor.is_wanted
    )
    if not actor.command(opening):
        raise Closed(f"{actor.name} was not sent: its connection has ended")


async def _send(actor: StreamActor, outgoing: Outgoing) -> None:
    """Open the stream and send what the caller gave for its body, if anything."""
    body = outgoing.body
    if body is None:
        _open(actor, outgoing, b"" if outgoing.head[0][1] in (b"GET", b"HEAD") else None)
        return
    _open(actor, outgoing, None)
    await actor.until(lambda: actor.sent)
    if actor.error is not None:
        raise actor.error
    if isinstance(body, (bytes, bytearray, memoryview)):
        await actor.send(body)
    elif isinstance(body, AsyncIterable):
        async for chunk in body:
            await actor.send(_checked(chunk))
    else:
        for chunk in body:
            await actor.send(_checked(chunk))
    actor.end(outgoing.trailers)


async def _lend(actor: StreamActor, outgoing: Outgoing) -> None:
    """Send the body that was given, if any, and then leave the stream to the caller until that halts it."""
    try:
        await _send(actor, outgoing)
    except LinkError as error:
        if error is not actor.stopped_by:
            raise
    await asyncio.get_running_loop().create_future()


async def _upload(actor: StreamActor, outgoing: Outgoing, failures: list[Exception]) -> None:
    """Send the body while the response is awaited; what goes wrong with the body itself ends the stream."""
    try:
        await _send(actor, outgoing)
    except Exception as error:
        if error is actor.stopped_by or error is actor.error:
            return  # the answer is there, or whoever waits for it has got the error
        failures.append(error)
        actor.reset(ErrorCode.CANCEL, Closed.because(f"{actor.name} was not sent in full: its body failed", error))


def _checked(chunk: object) -> bytes:
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise Misuse(f"a body's iteration gives bytes, not {type(chunk).__name__}")
    return bytes(chunk)


def _response_head(actor: StreamActor) -> ResponseHead:
    pseudo, headers = split_head(actor.head or [])
    early = (split_head(pairs) for pairs in actor.informational)
    informational = tuple(ResponseHead(int(first[b":status"]), fields) for first, fields in early)
    return ResponseHead(int(pseudo[b":status"]), headers, informational)
