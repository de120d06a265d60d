"""What a stream's task runs: a handler, a whole request, or a loan.

A server's stream runs the handler (:func:`serve`). A client's runs a whole request (:func:`request`), or is lent to the
caller (:func:`open_stream`), whose task reads and writes. Where all that is to be sent goes out with the head, it needs
no task, and is a guest in the caller's.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from attrs import evolve, field, frozen

from actors.actor import Stop
from actors.client_stream import ClientStream, response_head_of, until_continue
from actors.commands import ConnectionMessage
from actors.errors import (
    Closed,
    DeadlineExceeded,
    ErrorCode,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Misuse,
    Outcome,
)
from actors.exchange import OutgoingBody, Response, check_weight
from actors.headers import (
    HeaderInput,
    Pair,
    check_fields,
    declared_length,
    request_head,
)
from actors.mailbox import Ref, closed_error
from actors.messages import Exited, Halt, OpenStream, Peer
from actors.server_stream import Handler, ServerStream
from actors.stream import Body, StreamActor
from actors.terms import Terms
from actors.trace import Tracer

logger: Final = logging.getLogger("muxlink.stream")

BODYLESS_METHODS: Final = frozenset(("GET", "HEAD"))
"""Methods whose side is ended at once where no body is given."""

# --- a server's stream ------------------------------------------------------------------------------------------------


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
        if inspect.isasyncgenfunction(handler):
            raise Misuse(f"the handler {name} is no coroutine function: write 'async def' without 'yield'")
        raise Misuse(f"the handler {name} is no coroutine function: write 'async def' before its name")

    async def run(actor: StreamActor) -> None:
        stream = ServerStream(actor)
        try:
            await handler(stream)
        except LinkError as stopped:
            ours = stopped is actor.given_up
            actor.given_up = None  # its traceback holds the actor
            if not ours or actor.error is not None:
                raise
            if stream._status and not isinstance(stopped, InvalidHeaders):
                raise
            if isinstance(stopped, InvalidHeaders):
                # No fault of the handler's, and nothing that a peer should be able to fill a log with.
                logger.info("%s was given up: %s", actor.name, stopped)
                actor.reset(ErrorCode.INTERNAL_ERROR)
                return
            await stream.respond(413 if isinstance(stopped, LimitReached) else 408)
        except SystemExit as error:
            raise RuntimeError("the handler called sys.exit(), which would end the whole server") from error
        if actor.error is not None or actor.local_ended:
            return
        if stream._status:
            actor.end([])
        else:
            # The query may hold a secret, and whatever a peer says is shown escaped.
            asked = ascii(f"{stream.method} {stream.path.partition('?')[0]}")[1:-1]
            logger.error("%s: the handler returned without a response to %s", actor.name, asked)
            actor.reset(ErrorCode.INTERNAL_ERROR)

    return run


# --- a client's stream ------------------------------------------------------------------------------------------------


@frozen
class Route:
    """How to reach a connection, as whoever sends requests over it knows it."""

    connection: Ref[ConnectionMessage]
    peer: Peer
    terms: Terms
    tracer: Tracer
    pushes: bool = False
    """Whether streams may have others promised along with them."""


@frozen
class Outgoing:
    """A checked request: ``body`` None leaves our side open."""

    name: str
    head: list[Pair] = field(repr=False)
    body: OutgoingBody | None = field(repr=False)
    trailers: list[Pair] = field(repr=False)
    weight: int
    timeout: float | None
    """Seconds from the opening to the last byte."""
    max_body: int
    declared: int | None
    """What the head's content-length says."""
    protocol: bool = False
    """Whether it is an extended CONNECT."""
    expects: bool = False
    """Whether its body waits for 100 (RFC 9110, 10.1.1)."""
    promised: Callable[[StreamActor], None] | None = field(default=None, repr=False)
    """Gets the actor of each stream that the server promises along with this one; None refuses them all."""
    is_out: bool = False
    """Whether all of it went out before, over HTTP/1.1 (RFC 7540, 3.2); it has no ``body`` then."""
    given: float | None = None
    """The seconds that the caller gave, where some of them have passed before the opening."""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.body, str) or (
            self.body is not None and not isinstance(self.body, (bytes, bytearray, memoryview, Iterable, AsyncIterable))
        ):
            raise Misuse(f"a body is bytes, or an iterable of bytes, sync or async; not {type(self.body).__name__}")
        check_weight(self.weight)
        if self.timeout is not None and (type(self.timeout) not in (int, float) or not self.timeout > 0):
            raise Misuse(f"a timeout is a number of seconds above 0, not {self.timeout!r}")
        if self.body is None and self.trailers:
            raise Misuse("trailers follow a body that is given, too; otherwise give them to end()")
        if type(self.max_body) is not int or self.max_body < 0:
            raise Misuse(f"max_body is a number of bytes, not {self.max_body!r}")


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
    protocol: str | None = None,
) -> Outgoing:
    """Check a request before anything is sent; a body of bytes gets its content-length.

    Raises InvalidHeaders and Misuse.
    """
    head = request_head(method, scheme, authority, path, headers, protocol=protocol)
    declared = declared_length(head)
    if isinstance(body, (bytes, bytearray, memoryview)):
        size = body.nbytes if isinstance(body, memoryview) else len(body)
        if declared is None:
            # RFC 9110, 8.6: a method that gives a body a meaning says so even when it is empty.
            if (size and method != "CONNECT") or method in ("POST", "PUT", "PATCH"):
                head.append((b"content-length", b"%d" % size))
        elif declared != size:
            raise Misuse(f"content-length says {declared} and the body has {size} bytes: leave the header out")
    elif body is None and declared and method in BODYLESS_METHODS:
        raise Misuse(f"content-length says {declared}, and {method} without a body has none: leave the header out")
    sends = bool(headers) and body != b"" and not (body is None and method in BODYLESS_METHODS)
    expects = sends and any(n == b"expect" and v.lower() == b"100-continue" for n, v in head)
    return Outgoing(
        name, head, body, check_fields(trailers), weight, timeout, max_body, declared, protocol is not None, expects
    )


async def request(route: Route, outgoing: Outgoing) -> Response:
    """Send a request and return its whole response.

    One whose body goes out along with its head lives in its caller's task; any other has a task of its own. Raises the
    stream's error, DeadlineExceeded, LimitReached, and what the iteration over a body raises.
    """
    body = outgoing.body
    if not isinstance(body, bytes) or (body and not _fits(route, outgoing)):
        return await _request_apart(route, outgoing)

    actor = _stream(route, outgoing, park)
    actor.enter(route.connection)
    cause: LinkError | None = None
    try:
        if outgoing.timeout is None:
            await _receive(actor, outgoing, body)
        else:
            await _within(actor, outgoing, _receive(actor, outgoing, body))
        return _response(actor)
    except LinkError as error:
        cause = error
        raise
    except asyncio.CancelledError:
        cause = _cancelled(actor)
        raise
    finally:
        actor.leave(cause)


async def _receive(actor: StreamActor, outgoing: Outgoing, body: bytes) -> None:
    """Send a request that is whole, and wait for the whole answer."""
    _open(actor, outgoing, body)
    await actor.until_whole(outgoing.max_body)


def _cancelled(actor: StreamActor) -> Closed:
    return Closed(f"{actor.name} was cancelled by its caller", outcome=actor.outcome)


async def _request_apart(route: Route, outgoing: Outgoing) -> Response:
    """The response to a request that has a task of its own, which sends its body and receives the answer."""
    result: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def run(actor: StreamActor) -> None:
        try:
            await _within(actor, outgoing, _exchange(actor, outgoing))
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
        actor.signal(Halt(_cancelled(actor)))
        raise


def open_stream(route: Route, outgoing: Outgoing) -> Loan:
    """Open a stream for the caller to read and write: ``async with open_stream(...) as stream``.

    Leaving it unfinished resets it with CANCEL. Without a body, our side stays open, but for GET and HEAD, which have
    none. Raises as :func:`request` does, but for what the iteration over a body raises: that is chained to Closed.
    """
    return Loan(route, outgoing)


class Loan(AbstractAsyncContextManager[ClientStream]):
    """A stream that is lent to its caller's task.

    No generator: with ten thousand streams open, what each holds is what the garbage collector looks at.
    """

    __slots__ = ("_actor", "_deadline", "_outgoing", "_pushed", "_route")

    def __init__(self, route: Route, outgoing: Outgoing) -> None:
        self._route = route
        self._outgoing = evolve(outgoing, promised=self._promised) if route.pushes else outgoing
        self._actor: StreamActor | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._pushed: list[StreamActor] | None = None

    async def __aenter__(self) -> ClientStream:
        outgoing = self._outgoing
        actor = self._begin()
        try:
            await actor.until(actor.is_sent)
            if not actor.sent:
                raise actor.failure()
        except BaseException:
            self.leave()
            raise
        return ClientStream(actor, outgoing.max_body, expects=outgoing.expects and outgoing.body is None)

    def _begin(self) -> StreamActor:
        """The actor of the stream: a guest of the caller's, unless a body is to be sent meanwhile."""
        route, outgoing = self._route, self._outgoing
        body = outgoing.body
        if body is None:
            whole = _nothing(outgoing)
        elif isinstance(body, bytes) and _fits(route, outgoing):
            whole = body
        else:
            actor = self._actor = _start(route, outgoing, self._lend)
            self._keep_time()
            return actor
        actor = self._actor = _stream(route, outgoing, park)
        actor.enter(route.connection)
        self._keep_time()
        try:
            _open(actor, outgoing, whole)
        except LinkError as error:
            actor.fail(error)  # and who waits for the opening raises it
        return actor

    def _keep_time(self) -> None:
        if (seconds := self._outgoing.timeout) is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self._overdue)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Take the stream back; what it had not finished is reset."""
        actor = self._actor
        if actor is not None:
            if self._deadline is not None:
                self._deadline.cancel()
            actor.promises = None
            for each in (*(self._pushed or ()), actor):
                each.reset(ErrorCode.CANCEL)
                each.signal(Halt(None))

    def _overdue(self) -> None:
        """The time is up: reset the stream, and end it, whatever its caller does meanwhile."""
        if (actor := self._actor) is not None:
            late, tracer = _late(actor, self._outgoing), actor.tracer
            if tracer.on:
                tracer.speak_as("timer")
            actor.reset(ErrorCode.CANCEL, late)
            actor.signal(Halt(late))
            if tracer.on:
                tracer.speak_as("caller")

    async def _lend(self, actor: StreamActor) -> None:
        outgoing = self._outgoing
        try:
            await _lend(actor, outgoing)
        except Exception as error:
            ours = error if isinstance(error, LinkError) else None
            actor.reset(ErrorCode.CANCEL, ours or Closed.because(f"{actor.name} was not sent in full", error))
            raise Stop(ours) from error

    def _promised(self, child: StreamActor) -> None:
        actor = self._actor
        if actor is None or actor.promises is None:  # it was left meanwhile
            child.reset(ErrorCode.CANCEL)
            child.signal(Halt(None))
            return
        self._pushed = [each for each in self._pushed or () if each.exited is None]
        self._pushed.append(child)
        actor.promises.append(child)
        actor.wake()


def _stream(route: Route, outgoing: Outgoing, body: Body) -> StreamActor:
    actor = StreamActor(outgoing.name, route.connection, body, peer=route.peer, terms=route.terms, tracer=route.tracer)
    if outgoing.promised is not None:
        actor.promises = deque()
    return actor


def _start(route: Route, outgoing: Outgoing, body: Body, *watchers: Ref[Exited]) -> StreamActor:
    actor = _stream(route, outgoing, body)
    actor.start(route.connection, *watchers)
    return actor


async def _within(actor: StreamActor, outgoing: Outgoing, work: Coroutine[None, None, None]) -> None:
    """Do the work in the time that the whole request has; the end of the time resets the stream.

    The response is all that is wanted: where it has come, no time is up.
    """
    if outgoing.timeout is None:
        await work
        return
    deadline = asyncio.timeout(outgoing.timeout)
    try:
        async with deadline:
            await work
    except TimeoutError:
        if not deadline.expired():
            raise  # it came out of the caller's own body
        if actor.outcome is Outcome.COMPLETED and actor.error is None:
            actor.reset(ErrorCode.CANCEL)  # what is left of our side
            return
        late = _late(actor, outgoing)
        actor.reset(ErrorCode.CANCEL, late)
        raise late from None


def _late(actor: StreamActor, outgoing: Outgoing) -> DeadlineExceeded:
    seconds = outgoing.timeout if outgoing.given is None else outgoing.given
    return DeadlineExceeded(f"{actor.name} had no whole response within {seconds:g} s", outcome=actor.outcome)


async def _exchange(actor: StreamActor, outgoing: Outgoing) -> None:
    """Send all and receive all at the same time: the peer may answer as it reads."""
    failures: list[Exception] = []
    upload = asyncio.get_running_loop().create_task(_upload(actor, outgoing, failures), name=f"{actor.name}/upload")
    try:
        await actor.until_whole(outgoing.max_body)
        # An early answer does not stop it, unless the peer says so (RFC 9113, 8.1).
        upload.add_done_callback(lambda _: actor.wake())
        await actor.until(lambda: upload.done() or actor.stopped_by is not None)
    except LinkError:
        if not failures:
            raise
    finally:
        if not upload.done():
            upload.cancel()
            await asyncio.wait((upload,), timeout=actor.limits.shutdown_timeout)
            if not upload.done():
                logger.error("%s ended without waiting for its body: cancelled, but not ended", actor.name)
    if failures:
        raise failures[0] from None


def _fits(route: Route, outgoing: Outgoing) -> bool:
    """Whether a body of bytes can go out along with the head."""
    terms, body = route.terms, outgoing.body
    size = len(body) if isinstance(body, bytes) else 0
    return size <= terms.limits.send_buffer and not outgoing.expects and not terms.memory.full


def _response(actor: StreamActor) -> Response:
    head = response_head_of(actor)
    return Response(head.status, head.headers, actor.take_buffered(), actor.trailers, head.informational)


def _open(actor: StreamActor, outgoing: Outgoing, whole: bytes | None) -> None:
    """Ask for the stream, with the ``whole`` body where it is short; None where more follows."""
    actor.terms.check(outgoing.head)
    if outgoing.trailers:
        actor.terms.check(outgoing.trailers)
    if outgoing.protocol:
        actor.terms.check_protocol()
    actor.local_ended = end = whole is not None
    actor.declared = outgoing.declared
    trailers = outgoing.trailers if end else []
    opening = OpenStream(
        actor.ref, outgoing.head, whole or b"", trailers, end, outgoing.weight, actor.is_wanted, outgoing.promised
    )
    if whole:
        actor.gives(len(whole))
    if not actor.command(opening):
        # The connection says why to the stream, unless it has forgotten.
        raise actor.error or Closed(f"{actor.name} was not sent: its connection has ended")


def _nothing(outgoing: Outgoing) -> bytes | None:
    """What goes out with the head where no body was given: nothing, or None where the caller may send one."""
    return b"" if outgoing.is_out or outgoing.head[0][1].decode() in BODYLESS_METHODS else None


async def _send(actor: StreamActor, outgoing: Outgoing) -> None:
    """Open the stream and send what the caller gave for its body."""
    body = outgoing.body
    if body is None:
        _open(actor, outgoing, _nothing(outgoing))
        return
    _open(actor, outgoing, None)
    await actor.until(actor.is_sent)
    if actor.error is not None:
        raise actor.failure()
    if outgoing.expects and not await until_continue(actor):
        return
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
    await park(actor)


async def until_read(actor: StreamActor) -> None:
    """Let somebody else's task read the stream, and end when that has read all of it."""
    await actor.until(actor.is_read)


async def park(actor: StreamActor) -> None:
    """Leave the stream to somebody else's task until that halts it."""
    await asyncio.get_running_loop().create_future()


async def _upload(actor: StreamActor, outgoing: Outgoing, failures: list[Exception]) -> None:
    """Send the body while the response is awaited; what goes wrong with the body itself ends the stream."""
    message = f"{actor.name} was not sent in full: its body failed"
    try:
        await _send(actor, outgoing)
    except asyncio.CancelledError as error:
        # By who waits for the answer, who knows; or out of the body's own iteration, and then nobody else would tell.
        actor.reset(ErrorCode.CANCEL, Closed.because(f"{message}: it was cancelled", error, outcome=actor.outcome))
        raise
    except Exception as error:
        if error is actor.stopped_by or error is actor.error:
            return  # the answer is there, or whoever waits for it has got the error
        failures.append(error)
        actor.reset(ErrorCode.CANCEL, Closed.because(message, error))


def _checked(chunk: object) -> bytes:
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise Misuse(f"a body's iteration gives bytes, not {type(chunk).__name__}")
    return bytes(chunk)
