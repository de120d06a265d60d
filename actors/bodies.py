"""What a client's stream runs: a whole request, or a loan.

A stream runs a whole request (:func:`request`), or is lent to the caller (:func:`open_stream`), whose task reads and
writes. Where all that is to be sent goes out with the head, it needs no task, and is a guest in the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from attrs import evolve

from actors.actor import Stop
from actors.client_stream import ClientStream, response_head_of, until_continue
from actors.errors import (
    Closed,
    DeadlineExceeded,
    ErrorCode,
    LinkError,
    Misuse,
    Outcome,
)
from actors.exchange import Response
from actors.mailbox import Ref, closed_error
from actors.messages import Exited, Halt, OpenStream
from actors.outgoing import BODYLESS_METHODS, Outgoing, Route
from actors.stream import Body, StreamActor

logger: Final = logging.getLogger("muxlink.stream")


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
