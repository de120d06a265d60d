"""A stream: the task that runs a handler or an exchange, and the state that arriving facts are folded into.

:class:`StreamActor` is the mechanism; ``exchange.py`` has what user code holds. Facts from the connection's turn are
folded at once, so that reading, writing and failing see the same state; any number of tasks may wait, each with a
future and a condition of its own, so that cancelling one harms none. Reading returns flow-control credit. Sending takes
room, which the connection gives back as bytes go out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar, Final, assert_never

from actors.actor import BodyActor
from actors.commands import ConnectionMessage, EndStream, ResetStream, ReturnCredit, SendData
from actors.errors import (
    Closed,
    DeadlineExceeded,
    ErrorCode,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Misuse,
    Outcome,
    StreamReset,
    code_name,
)
from actors.headers import Headers, Pair, list_size
from actors.mailbox import Ref, SystemMessage, Understood
from actors.messages import (
    DataArrived,
    DrainBegan,
    Exited,
    HeadersArrived,
    InformationalArrived,
    Opened,
    Peer,
    PeerReset,
    PromiseArrived,
    RoomMade,
    StreamFailed,
    StreamMessage,
    TakePicture,
    TrailersArrived,
)
from actors.pictures import StreamPicture
from actors.pieces import Pieces
from actors.settings import Limits
from actors.terms import Terms
from actors.trace import Tracer

logger: Final = logging.getLogger("muxlink.stream")

Body = Callable[["StreamActor"], Coroutine[Any, Any, None]]

NO_TRAILERS: Final = Headers()
MAX_INFORMATIONAL: Final = 100
"""1xx responses before the final one."""
LEAST_ROOM: Final = 4 * 1024
"""Bytes that a stream with nothing queued may always send: what is full for others must not stop it for ever."""
CALLS_WITHOUT_PAUSE: Final = 64
"""Reads or sends that find what they need at once, after which a task lets others go on."""


class StreamActor(BodyActor[StreamMessage]):
    """One stream of one connection."""

    __slots__ = (
        "_cancel_on_reset",
        "_connection",
        "_ended_at",
        "_pieces",
        "_prepaid",
        "_queued",
        "_run_body",
        "_unpaused",
        "_waiters",
        "declared",
        "draining",
        "error",
        "given_up",
        "gone",
        "head",
        "informational",
        "local_ended",
        "peer",
        "promise",
        "promises",
        "received",
        "remote_ended",
        "room",
        "sent",
        "stopped_by",
        "stream_id",
        "terms",
        "trailers",
    )  # fmt: skip

    understands: ClassVar[Understood] = StreamMessage

    def __init__(
        self,
        name: str,
        connection: Ref[ConnectionMessage],
        body: Body,
        *,
        peer: Peer,
        terms: Terms,
        stream_id: int = 0,
        cancel_on_reset: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        """A stream that runs ``body``; ``stream_id`` is 0 for a client's until it is opened.

        With ``cancel_on_reset`` the peer's RST_STREAM cancels the body: a server's handler has nobody to answer.
        """
        super().__init__(name, tracer)
        self.stream_id = stream_id
        self.peer = peer
        self.terms = terms
        self.head: list[Pair] | None = None
        """The request's or the final response's header list."""
        self.informational: list[list[Pair]] = []
        self.trailers: Headers = NO_TRAILERS
        self.received = 0
        """Bytes of body that came."""
        self.remote_ended = False
        self.local_ended = False
        self.error: LinkError | None = None
        """What ended the stream badly."""
        self.stopped_by: LinkError | None = None
        """What came after the peer's whole answer and stops our body, mostly RST_STREAM(NO_ERROR) (RFC 9113, 8.1)."""
        self.given_up: LinkError | None = None
        """What ``read()`` to the end raised instead of a body that was too long, or too slow."""
        self.promise: list[Pair] | None = None
        """The request that the server promised to answer on this stream."""
        self.promises: deque[StreamActor] | None = None
        """The streams that the server promised along with this one, as long as somebody may ask for them."""
        self.sent = False
        """Whether our HEADERS went out."""
        self.room = terms.limits.send_buffer
        """Bytes that ``send`` takes without waiting."""
        self.draining = False
        self.declared: int | None = None
        """Bytes of body that our head promises; None where it promises none."""
        self.gone = 0
        """Bytes of our body that went out, as far as the connection has told: it does once a queue is half empty."""
        self._queued = 0
        self._cancel_on_reset = cancel_on_reset
        self._run_body = body
        self._connection = connection
        self._pieces = Pieces()
        self._prepaid = 0
        self._ended_at = 0.0
        self._unpaused = 0
        self._waiters: list[tuple[asyncio.Future[None], Callable[[], bool]]] = []

    @property
    def limits(self) -> Limits:
        return self.terms.limits

    @property
    def connection(self) -> str:
        """The name of its connection."""
        return self._connection.name

    @property
    def unread(self) -> int:
        """Bytes of body that came and were not read."""
        return self._pieces.size

    @property
    def queued(self) -> int:
        """Bytes of body that ``send`` was given."""
        return self._queued

    # --- facts --------------------------------------------------------------------------------------------------------

    def body(self) -> Coroutine[Any, Any, None]:
        return self._run_body(self)

    def fold(self, message: StreamMessage) -> None:
        # Plain tests in the order of a bulk transfer: a match costs three times as much, once for every frame.
        if isinstance(message, DataArrived):
            if data := message.data:
                self._pieces.add(data)
                self.received += len(data)
            self.remote_ended = message.ended
        elif isinstance(message, RoomMade):
            self.room += message.size
            self.gone += message.size
        elif isinstance(message, HeadersArrived):
            self.head, self.remote_ended = message.pairs, message.ended
        elif isinstance(message, Opened):
            self.stream_id, self.sent = message.stream_id, True
        else:
            self._fold_rare(message)
        if self._waiters:
            self.wake()

    def _fold_rare(
        self, message: TrailersArrived | InformationalArrived | PeerReset | StreamFailed | DrainBegan | PromiseArrived
    ) -> None:
        match message:
            case TrailersArrived(pairs):
                self.trailers, self.remote_ended = Headers.of(pairs), True
            case InformationalArrived(pairs):
                self.informational.append(pairs)
                size = sum(map(list_size, self.informational))
                if len(self.informational) > MAX_INFORMATIONAL or size > self.limits.max_header_list:
                    many = LimitReached(
                        f"the peer sent more than {MAX_INFORMATIONAL} informational responses, "
                        f"or more than {self.limits.max_header_list} bytes of them"
                    )
                    self.reset(ErrorCode.ENHANCE_YOUR_CALM, many)
                    self._halt(self.error)
            case PeerReset(code):
                self._peer_reset(code)
            case StreamFailed(error, outcome):
                if self.remote_ended and not self._cancel_on_reset:
                    self.stopped_by = self.stopped_by or error.with_outcome(Outcome.COMPLETED)
                    return
                # Cancelled first, so that a task group in a handler ends by that and not by its children's errors.
                wanted = self.error is None
                if wanted:
                    self.error = error.with_outcome(self._known(outcome))
                self._halt(self.error)
                if wanted:
                    self.wake()
            case DrainBegan():
                self.draining = True
            case PromiseArrived(stream_id, pairs):
                self.stream_id, self.promise, self.sent = stream_id, pairs, True
            case _:
                assert_never(message)

    def _known(self, outcome: Outcome | None) -> Outcome:
        """What is known of the request: a peer that began to answer has acted on it, whatever it says."""
        return self.outcome if outcome is None or self.head is not None else outcome

    def fail(self, error: LinkError, outcome: Outcome | None = None) -> None:
        """End the stream badly, once: the first error stays, and everyone who waits gets it."""
        if self.error is None:
            self.error = error.with_outcome(outcome or self.outcome)
            self.wake()

    def failure(self) -> LinkError:
        """What to raise for something that will not come any more, without the traces of where it was raised before."""
        error = self.error or self.stopped_by or Closed(f"{self.name} has ended", outcome=self.outcome)
        return error.with_traceback(None)

    @property
    def outcome(self) -> Outcome:
        """What is known of the request, should it fail now."""
        if self.remote_ended:
            return Outcome.COMPLETED
        return Outcome.MAYBE_PROCESSED if self.sent else Outcome.NOT_SENT

    def _peer_reset(self, code: int) -> None:
        reset = StreamReset(
            f"the peer reset {self.name} with {code_name(code)} after {self.received} bytes of body",
            code=code,
            received=self.received,
            outcome=self._known(Outcome.UNPROCESSED if code == ErrorCode.REFUSED_STREAM else None),
        )
        if self.remote_ended and code == ErrorCode.NO_ERROR and not self._cancel_on_reset:
            self.stopped_by = reset
            return
        if self.error is None:
            self.error = reset
        if self._cancel_on_reset:
            self._halt(reset)

    def is_wanted(self) -> bool:
        """Whether a stream that waits to be opened should still be: asked as its turn comes."""
        return self.error is None and self._crashed is None and self.exited is None

    def wake(self) -> None:
        """Let those go on whose condition has come true."""
        for future, ready in self._waiters:
            if not future.done() and (self.error is not None or ready()):
                future.set_result(None)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready()`` or until the stream has failed; the caller looks which."""
        if ready() or self.error is not None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (future, ready)
        self._waiters.append(waiter)
        try:
            await future
        finally:
            self._waiters.remove(waiter)

    def when(self, ready: Callable[[], bool], call: Callable[[], object]) -> None:
        """Have ``call`` called, in a turn of the loop of its own, once ``ready()`` or once the stream has failed."""
        loop = asyncio.get_running_loop()
        if ready() or self.error is not None:
            loop.call_soon(call)
            return
        future: asyncio.Future[None] = loop.create_future()
        waiter = (future, ready)
        self._waiters.append(waiter)

        def come_true(_: object) -> None:
            self._waiters.remove(waiter)
            call()

        future.add_done_callback(come_true)

    def is_sent(self) -> bool:
        """Whether our HEADERS went out."""
        return self.sent

    def is_over(self) -> bool:
        """Whether both sides have ended; there may be more to read."""
        return self.remote_ended and self.local_ended

    def _finish(self, exited: Exited) -> None:
        """Whoever still waits is told that the stream is over."""
        if self._prepaid:
            self.terms.memory.let_go(self._prepaid)
            self._prepaid = 0
        if not self.remote_ended and self.error is None:
            self.fail(Closed.because(f"{self.name} has ended", exited.reason))
        self.local_ended = True
        if self._waiters:
            self.wake()

    async def pause(self) -> None:
        """Let the loop and the connection go on now and then, where a task reads or sends without ever waiting."""
        self._unpaused += 1
        if self._unpaused >= CALLS_WITHOUT_PAUSE:
            self._unpaused = 0
            await asyncio.sleep(0)

    # --- reading ------------------------------------------------------------------------------------------------------

    def is_read(self) -> bool:
        """Whether the peer has ended its side, and all that came was read."""
        return self.remote_ended and not self._pieces.size

    def has_input(self) -> bool:
        """Whether a read would give something or ``b""`` at once."""
        return self._pieces.size > 0 or self.remote_ended

    async def read(self, size: int | None) -> bytes:
        """Up to ``size`` bytes, or what came in one DATA frame; ``b""`` at the end.

        What came before an error is given before the error is raised.
        """
        if size == 0:
            return b""
        await self.pause()
        while not self._pieces.size:  # another reader may have been quicker
            if self.remote_ended:
                return b""
            if self.error is not None:
                raise self.failure()
            await self.until(self.has_input)
        data = self._pieces.take(size) if size is not None else self._pieces.take_frame()
        self._took(len(data))
        return data

    async def read_all(self, most: int) -> bytes:
        """Everything to the end; raises LimitReached beyond ``most`` bytes, and never gives part for the whole."""
        await self.until_whole(most)
        data = self.take_buffered()
        self._took(len(data))
        return data

    async def until_whole(self, most: int) -> None:
        """Wait until the peer has ended its side; raises what :meth:`read_all` does."""
        while not self._is_whole(most):
            # What has come stays where it is, so that a reader who is cancelled loses nothing, but it is paid for:
            # the peer may send more than a window.
            if fresh := self._pieces.size - self._prepaid:
                self._prepay(fresh)
            if self._cancel_on_reset:
                await self._until_more()
            else:
                await self.until(self._has_more)

    def _has_more(self) -> bool:
        return self._pieces.size > self._prepaid or self.remote_ended

    def _prepay(self, fresh: int) -> None:
        memory = self.terms.memory
        if memory.crowded:
            raise self.give_up(LimitReached(
                f"no room for the body of {self.name}: Limits.{memory.short_of or 'process_bytes'} are in use",
                outcome=self.outcome,
            ))  # fmt: skip
        memory.keep(fresh)
        self._prepaid += fresh
        self.command(ReturnCredit(self.stream_id, fresh))

    async def _until_more(self) -> None:
        """Wait for more of a request's body, but not for ever: nobody else would end a handler that reads."""
        seconds = self.limits.body_timeout
        try:
            async with asyncio.timeout(seconds):
                await self.until(self._has_more)
        except TimeoutError:
            late = DeadlineExceeded(f"no byte of the body of {self.name} came within body_timeout, {seconds:g} s")
            if not self.limits.dry_run:
                raise self.give_up(late) from None
            logger.warning("dry run: %s", late)

    def give_up(self, error: LinkError) -> LinkError:
        self.given_up = error
        return error

    def _is_whole(self, most: int) -> bool:
        if self._pieces.size > most:
            raise self.give_up(LimitReached(
                f"the body of {self.name} is longer than max_body, {most} bytes: raise it, or read in pieces",
                outcome=self.outcome,
            ))  # fmt: skip
        if self.error is not None and not self.remote_ended:
            raise self.failure()
        return self.remote_ended

    def take_buffered(self) -> bytes:
        """What has come and was not read; its credit is returned by the caller, or with the end of the stream."""
        return self._pieces.take_all()

    async def read_trailers(self) -> Headers:
        """The trailers once the peer has ended its side; empty Headers where it sent none."""
        await self.until(self._has_ended)
        if self.error is not None and not self.remote_ended:
            raise self.failure()
        return self.trailers

    def _has_ended(self) -> bool:
        return self.remote_ended

    def _took(self, size: int) -> None:
        paid = min(size, self._prepaid)
        if paid:
            self._prepaid -= paid
            self.terms.memory.let_go(paid)
        if self.remote_ended and self._waiters:
            self.wake()  # who waits for the last byte to be read
        if size > paid:
            self.command(ReturnCredit(self.stream_id, size - paid))

    # --- writing ------------------------------------------------------------------------------------------------------

    def command(self, command: ConnectionMessage) -> bool:
        """Tell the connection; False where it has ended."""
        tracer = self.tracer
        if not tracer.on:
            return self._connection.tell(command) is not False
        speaker = tracer.actor, tracer.event
        tracer.actor, tracer.event = self.name, self._cause_event  # speak_as(), written out: once for each request
        told = self._connection.tell(command)
        tracer.actor, tracer.event = speaker  # the connection's own, where one of its facts brought the command about
        return told is not False

    def check_open(self) -> None:
        """Raise why nothing more can be sent, if so."""
        if self.error is not None:
            raise self.failure()
        if self.stopped_by is not None:
            raise self.failure()
        if self.local_ended:
            raise Misuse(f"our side of {self.name} has ended: nothing can be sent after end() or respond()")

    def has_room(self) -> bool:
        return self._least_room() > 0 or self.stopped_by is not None or self.local_ended

    def _least_room(self) -> int:
        """Bytes that may be sent now."""
        if not self.terms.memory.full:
            return self.room
        return LEAST_ROOM if self.room >= self.limits.send_buffer else 0

    async def send(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> None:
        """Queue data, waiting for room; ``end`` ends our side with it. Raises the reset that stops us half-way."""
        # A buffer that its owner may change before it goes out is copied now.
        whole = data if isinstance(data, bytes) else bytes(data)
        await self.pause()
        self.check_open()
        if not whole:
            if end:
                self.end([])
            return
        if end:
            self._check_length(self._queued + len(whole))
        elif self.declared is not None and self._queued + len(whole) > self.declared:
            raise Misuse(f"content-length says {self.declared}, and more is sent on {self.name}: leave the header out")
        self._queued += len(whole)
        if len(whole) <= self._least_room():
            self._tell_data(whole, end=end)
            return
        rest = memoryview(whole)
        try:
            while rest:
                with self.terms.memory.waiting(self.wake):
                    await self.until(self.has_room)
                self.check_open()
                room = self._least_room()
                if room <= 0:  # another sender was quicker
                    continue
                piece, rest = rest[:room], rest[room:]
                self._tell_data(piece, end=end and not rest)
        except asyncio.CancelledError:
            if len(rest) < len(whole):
                self.reset(ErrorCode.CANCEL)  # the peer has part of what it would take for the whole
            raise

    def gives(self, size: int) -> None:
        """Count a body that goes along with the head: held until the connection has it in its queue."""
        self.room -= size
        self.terms.memory.take(size)

    def goes_at_once(self, size: int) -> bool:
        """Whether the next ``size`` bytes surely go out with the connection's next turn, so that nobody need wait."""
        terms = self.terms
        if size > terms.spare or self._queued + size > terms.initial_window:
            return False
        terms.spare -= size
        return True

    async def until_gone(self, size: int) -> None:
        """Wait until so many bytes of our body have gone out, or the stream is over and nobody tells any more."""
        await self.until(partial(self._has_gone, size))
        if self.gone < size and (self.error is not None or self.stopped_by is not None):
            raise self.failure()

    def _has_gone(self, size: int) -> bool:
        return self.gone >= size or self.exited is not None or self.stopped_by is not None

    def check_fields(self, fields: list[Pair]) -> None:
        """Raise InvalidHeaders for a header list that the peer does not take."""
        try:
            self.terms.check(fields)
        except InvalidHeaders as error:
            raise self.give_up(error) from None

    def _tell_data(self, data: bytes | memoryview, *, end: bool) -> None:
        self.room -= len(data)
        self.terms.memory.take(len(data))
        if end:
            self._end_with(SendData(self.stream_id, data, end=True))
        else:
            self.command(SendData(self.stream_id, data))

    def _check_length(self, sent: int) -> None:
        if self.declared not in (None, sent):
            raise Misuse(f"content-length says {self.declared}, and {sent} bytes were sent on {self.name}")

    def _end_with(self, last: SendData | EndStream) -> None:
        self.local_ended = True
        if not self._cancel_on_reset:
            self._ended_at = asyncio.get_running_loop().time()  # now it is the peer's turn
        self.command(last)
        if self._waiters:
            self.wake()

    def end(self, trailers: list[Pair]) -> None:
        """End our side; raises what :meth:`check_open` does, and InvalidHeaders for more than the peer takes."""
        self.check_open()
        self.check_fields(trailers)
        self._check_length(self._queued)
        self._end_with(EndStream(self.stream_id, trailers))

    def reset(self, code: int, error: LinkError | None = None) -> None:
        """Reset the stream; whoever waits on it gets ``error``, or Closed. Nothing happens to one that is over."""
        if self.error is None and not (self.remote_ended and self.local_ended):
            self.command(ResetStream(self.stream_id, code))
            self.fail(error or Closed(f"{self.name} was reset by us with {code_name(code)}"))

    def _signalled(self, message: SystemMessage) -> None:
        if isinstance(message, TakePicture):
            message.reply.tell(self.picture())
        else:
            super()._signalled(message)

    def picture(self) -> StreamPicture:
        """What it looks like now."""
        now = asyncio.get_running_loop().time()
        reads = (self.has_input, self._has_more, self._has_ended)
        others = (*reads, self.has_room, self.is_over)
        conditions = [ready for _, ready in self._waiters]
        return StreamPicture(
            name=self.name,
            stream_id=self.stream_id,
            age=self._age(),
            unread=max(self._pieces.size - self._prepaid, 0),
            reading=any(each in reads for each in conditions),
            asking=not self._cancel_on_reset
            and any(each not in others and not isinstance(each, partial) for each in conditions),
            headed=self.head is not None,
            local_ended=self.local_ended,
            remote_ended=self.remote_ended,
            ended=now - self._ended_at if self._ended_at else None,
        )

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {
            "stream": self.stream_id,
            "received": self.received,
            "unread": self._pieces.size,
            "room": self.room,
            "remote_ended": self.remote_ended,
            "local_ended": self.local_ended,
            "waiters": len(self._waiters),
            "error": str(self.error) if self.error is not None else None,
        }
