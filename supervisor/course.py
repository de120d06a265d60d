"""The way of one request: waiting for a place, going over a connection, and going again where that is safe."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from attrs import evolve

from actors.addresses import Address
from actors.bodies import Loan, open_stream
from actors.client_stream import ClientStream
from actors.errors import (
    DeadlineExceeded,
    ErrorCode,
    GoAway,
    LinkError,
    Misuse,
    Outcome,
    RemoteError,
    StreamReset,
    TransportError,
)
from actors.headers import Headers
from actors.outgoing import Outgoing
from actors.settings import Retry
from supervisor.keeper import Keeper
from supervisor.link_state import LinkState, States
from supervisor.pool import Member, Phase, Waiter
from supervisor.retry import Budget, Refusal, Repetitions, pushback, refused

PUSHBACK: Final = b"grpc-retry-pushback-ms"
LEAST_TIME: Final = 0.001
"""Seconds that an attempt gets even where the request's deadline has all but come."""
_NO_FAULT: Final = frozenset((ErrorCode.NO_ERROR, ErrorCode.CANCEL))
_AT_LEAST: Final = (Outcome.MAYBE_PROCESSED, Outcome.UNPROCESSED)


class Course:
    """One request's way through a link."""

    __slots__ = (
        "_authority", "_avoid", "_budget", "_delayed", "_failed", "_idempotent", "_keeper", "_loop", "_outgoing",
        "_patient", "_repetitions", "_retry", "_until", "_worst",
    )  # fmt: skip

    def __init__(
        self,
        keeper: Keeper,
        outgoing: Outgoing,
        retry: Retry,
        budget: Budget,
        *,
        idempotent: bool,
        patient: bool,
        authority: bytes | None,
    ) -> None:
        """``authority`` is what ``outgoing`` says, if places of other names must be told theirs; None: it stays."""
        self._keeper = keeper
        self._outgoing = outgoing
        self._retry = retry
        self._budget = budget
        self._idempotent = idempotent
        self._patient = patient
        self._authority = authority
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._until = None if outgoing.timeout is None else now + outgoing.timeout
        self._avoid: tuple[Address, ...] = ()
        self._delayed = False
        """Whether some of its time has gone by before this attempt."""
        self._failed = ""
        """What became of the attempt before."""
        self._repetitions: Repetitions | None = None
        self._worst = Outcome.NOT_SENT
        budget.requested(now)

    # --- a place ------------------------------------------------------------------------------------------------------

    def enter(self) -> Member[Address] | None:
        """A place on a connection, if there is one now."""
        return self._keeper.pool.enter(self._loop.time(), self._avoid)

    async def wait(self) -> Member[Address]:
        """A place on a connection, in the time that the whole request has. Raises what keeps it from having one."""
        self._delayed = True
        keeper, states = self._keeper, self._keeper.states
        if states.state is LinkState.SHUTDOWN or (states.state is LinkState.TRANSIENT_FAILURE and not self._patient):
            raise self._truthful(_unconnected(keeper.name, states))
        place: asyncio.Future[Member[Address]] = self._loop.create_future()

        def grant(member: Member[Address]) -> bool:
            if place.done():
                return False
            place.set_result(member)
            return True

        def fail(error: LinkError) -> None:
            if not place.done():
                place.set_exception(self._truthful(error.with_outcome(Outcome.NOT_SENT)))

        waiter = Waiter(
            grant, fail, patient=self._patient, avoid=self._avoid, name=self._outgoing.name, since=self._loop.time()
        )
        try:
            keeper.pool.queue(waiter)
        except LinkError as error:
            raise self._truthful(error) from None
        try:
            async with asyncio.timeout_at(self._until):
                return await self._granted(place)
        except TimeoutError:
            what = "place on a connection" if keeper.pool.members else "connection"
            raise self._truthful(
                DeadlineExceeded(
                    f"{self._outgoing.name} had no {what} to {keeper.where} within {self._outgoing.timeout:g} s"
                )
            ) from states.cause
        finally:
            keeper.pool.quit(waiter)

    async def _granted(self, place: asyncio.Future[Member[Address]]) -> Member[Address]:
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave(place.result())  # it came too late
            raise

    def leave(self, member: Member[Address]) -> None:
        """Give the place back."""
        self._keeper.pool.leave(member, self._loop.time())

    def over(self, member: Member[Address]) -> Outgoing:
        """The request as it goes over that connection, with what is left of its time."""
        outgoing = self._outgoing
        if self._authority is not None and member.authority != self._authority:
            head = [(name, member.authority if name == b":authority" else value) for name, value in outgoing.head]
            outgoing = evolve(outgoing, head=head)
        if self._until is not None and self._delayed:
            left = max(self._until - self._loop.time(), LEAST_TIME)
            outgoing = evolve(outgoing, timeout=left, given=self._outgoing.timeout)
        return outgoing

    # --- how it went --------------------------------------------------------------------------------------------------

    def answered(self, member: Member[Address], status: int, headers: Headers, trailers: Headers) -> None:
        """A response came."""
        member.proved = True
        pool, now = self._keeper.pool, self._loop.time()
        asked = status in (429, 503) or _has_pushback(headers) or _has_pushback(trailers)
        seconds = pushback(status, headers, trailers, time.time()) if asked else None
        if status >= 500:
            changed = pool.outliers.failed(member.key, now)
        else:
            changed = False
            pool.outliers.succeeded(member.key, now)
        if seconds is not None:
            changed = pool.outliers.stay_away(member.key, seconds, now) or changed
        if changed:
            self._keeper.set_aside(now)

    def left(self, member: Member[Address], stream: ClientStream) -> None:
        """A stream that was lent to its caller has been left."""
        if stream.cause is not None:
            self._blame(member, stream.cause)
        elif stream.status:
            self.answered(member, stream.status, stream.headers, stream.last_trailers)

    def again(self, member: Member[Address], error: LinkError) -> float:
        """The seconds to wait before the next attempt, after this one failed. Raises the error if there is none."""
        self._blame(member, error)
        self._delayed, self._failed = True, type(error).__name__
        now = self._loop.time()
        if self._repetitions is None:
            body = self._outgoing.body
            replayable = body is None or isinstance(body, (bytes, bytearray, memoryview, list, tuple))
            self._repetitions = Repetitions(
                self._retry, self._budget, idempotent=self._idempotent, replayable=replayable
            )
        if error.outcome in _AT_LEAST and self._worst is not Outcome.MAYBE_PROCESSED:
            self._worst = error.outcome
        if member.phase is Phase.READY and not isinstance(error, StreamReset):
            # The keeper hears of the end of a connection later than the streams that it ended.
            ending = member.connection.measure(now).state == Phase.DRAINING.value
            if ending:
                self._keeper.pool.remove(member)
        else:
            ending = member.phase is not Phase.READY
        moved = ending and self._keeper.states.state is not LinkState.SHUTDOWN
        verdict = self._repetitions.decide(
            error, now, self._until, moved=moved, untouched=error.outcome is Outcome.NOT_SENT
        )
        if isinstance(verdict, Refusal):
            self._keeper.retries_refused[verdict.name] += 1
            raise self._truthful(refused(error, verdict)) from error.__cause__
        self._keeper.retries[error.outcome.value] += 1
        self._avoid = (*self._avoid, member.key)
        if not verdict and isinstance(error, TransportError) and self._is_nowhere_else():
            return self._retry.pause  # other connections to a place that is lost are about to be lost, too
        return verdict

    async def rest(self, pause: float) -> None:
        """Let so many seconds go by before the next attempt; ``why`` sees it meanwhile."""
        if not pause:
            return
        resting, name, now = self._keeper.pool.resting, self._outgoing.name, self._loop.time()
        resting[name] = now, now + pause, self._failed
        try:
            await asyncio.sleep(pause)
        finally:
            resting.pop(name, None)

    def _is_nowhere_else(self) -> bool:
        return all(each.key in self._avoid for each in self._keeper.pool.members)

    def _truthful(self, error: LinkError) -> LinkError:
        """The error with what is known of all attempts: one that may have been acted on is not undone by the next."""
        worse = self._worst is Outcome.MAYBE_PROCESSED or (
            self._worst is Outcome.UNPROCESSED and error.outcome is Outcome.NOT_SENT
        )
        return error.with_outcome(self._worst) if worse and error.outcome is not Outcome.COMPLETED else error

    def _blame(self, member: Member[Address], error: LinkError) -> None:
        """Count a failure against the place, where it is one of its own."""
        code = error.code if isinstance(error, (StreamReset, GoAway)) else None
        if isinstance(error, (RemoteError, TransportError)) and code not in _NO_FAULT:
            if not isinstance(error, StreamReset):
                if member.blamed:
                    return  # one failure of a connection fails many requests
                member.blamed = True
            now = self._loop.time()
            if self._keeper.pool.outliers.failed(member.key, now):
                self._keeper.set_aside(now)


class Opening(AbstractAsyncContextManager[ClientStream]):
    """A stream on its way to a place, and then lent to its caller."""

    __slots__ = ("_course", "_loan", "_member", "_stream")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._loan: Loan | None = None

    async def __aenter__(self) -> ClientStream:
        if self._loan is not None:
            raise Misuse("a stream is entered once: call link.stream() for another")
        course = self._course
        while True:
            member = self._member = course.enter() or await course.wait()
            try:
                self._loan = open_stream(member.route, course.over(member))
                self._stream = await self._loan.__aenter__()
            except BaseException as error:
                course.leave(member)
                if not isinstance(error, LinkError):
                    raise
                pause = course.again(member, error)
            else:
                return self._stream
            await course.rest(pause)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loan is not None:
            try:
                self._course.left(self._member, self._stream)
            finally:
                self._loan.leave()
                self._course.leave(self._member)


def _has_pushback(fields: Headers) -> bool:
    return any(name == PUSHBACK for name, _ in fields)


def _unconnected(name: str, states: States) -> LinkError:
    cause = states.cause
    return cause.with_outcome(Outcome.NOT_SENT) if cause is not None else Misuse(f"{name} is not connected")
