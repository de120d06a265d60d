"""A request and its response on their way between the background loop and threads.

A :class:`Flow` is one task in the loop, that opens the stream, sends what it is offered, and reads ahead, but not
without bound; and plain fields, each written by one side only, with a bell that is rung after a change. So nobody holds
a lock, and a response that is short comes over with its head: a request costs one wait of its thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

from attrs import frozen

from actors.client_stream import ClientStream, PushedStream
from actors.errors import Closed, ErrorCode, LinkError, Misuse
from actors.exchange import ResponseHead
from actors.headers import Headers, Pair
from supervisor.adapters.blocking.background import Background, Bell
from supervisor.adapters.blocking.errors import NotOpen
from supervisor.link import Link

AHEAD: Final = 256 * 1024
"""Bytes of one body that may wait between the loop and a thread."""
BLOCK: Final = 64 * 1024
"""Bytes that the loop reads at a time."""


@frozen
class Request:
    """The head of a request, and its body where that is whole."""

    method: str
    path: str
    headers: list[Pair]
    body: bytes | None
    """None: it is offered in pieces, or there is none."""


class Flow:
    """A request and its response as the loop's task and threads share them."""

    __slots__ = (
        "__weakref__", "_abandoned", "_flows", "_full", "_hungry", "_stream", "_task", "background", "bell", "ended",
        "error", "head", "limit", "name", "no_more", "offered", "outgoing", "over", "pieces", "promises",
        "promises_over", "pushes", "put", "sent", "taken", "trailers", "upload_error", "upload_over", "wanted",
    )  # fmt: skip

    def __init__(self, loop: Background, name: str, *, more: bool) -> None:
        self.background: Final = loop
        self.name: Final = name
        """For messages."""
        self.bell: Final = Bell()
        # Written in the loop:
        self.head: ResponseHead | None = None
        self.pieces: Final[deque[bytes]] = deque()
        """What came of the body; threads take from it."""
        self.put = 0
        """Bytes that the loop put into it."""
        self.ended = False
        """Whether the response has ended well."""
        self.trailers: Headers | None = None
        self.error: LinkError | None = None
        """What ended it badly."""
        self.over = False
        """Whether the task has ended."""
        self.sent = 0
        """Bytes of what was offered that found room."""
        self.upload_error: LinkError | None = None
        """Why nothing more is sent."""
        self.upload_over = not more
        self.promises: Final[deque[tuple[PushedStream, Flow]]] = deque()
        self.promises_over = False
        # Written in threads:
        self.taken = 0
        """Bytes that threads took of the pieces."""
        self.limit = AHEAD
        """Bytes that the loop may be ahead of whoever reads."""
        self.wanted = 1
        """Bytes without which it is not worth waking who waits."""
        self.outgoing: Final[deque[bytes]] = deque()
        self.offered = 0
        self.no_more = False
        # The loop's own:
        self._task: asyncio.Task[None] | None = None
        self._flows: set[Flow] | None = None
        self._stream: ClientStream | None = None
        self._full: asyncio.Future[None] | None = None
        self._hungry: asyncio.Future[None] | None = None
        self.pushes = False
        """Whether others are pushed along, perhaps, which go on without it."""
        self._abandoned = False

    # --- in threads ---------------------------------------------------------------------------------------------------

    def begin(self, link: Link, flows: set[Flow], request: Request, *, push: bool) -> None:
        """Have the task begin; it is among the ``flows`` until it has ended. Raises NotOpen."""

        def start() -> None:
            if self._abandoned:
                self._over()
                return
            self._flows = flows
            flows.add(self)
            self._begin(self._run(link, request, push=push))

        if not self.background.post(start):
            raise NotOpen("the background loop has ended: the interpreter ends")

    def has_room(self) -> bool:
        """Whether more of the request's body may be offered."""
        return self.offered - self.sent < AHEAD or self.upload_over

    def offer(self, data: bytes) -> None:
        """Hand over a piece of the request's body."""
        self.outgoing.append(data)
        self.offered += len(data)
        if self._hungry is not None:
            self.background.post(self._feed)

    def end(self) -> None:
        """Say that the request's body is complete."""
        self.no_more = True
        if self._hungry is not None:
            self.background.post(self._feed)

    def took(self, size: int) -> None:
        """Say that a thread took so many bytes of the pieces."""
        self.taken += size
        if self._full is not None and self.put - self.taken <= AHEAD // 2:
            self.background.post(self._make_room)

    def widen(self, limit: int) -> None:
        """Let the loop read so far ahead."""
        self.limit = limit
        if self._full is not None:
            self.background.post(self._make_room)

    # --- in the loop --------------------------------------------------------------------------------------------------

    def _begin(self, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._task = self.background.start(run, self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Whatever the task ended with, who waits is told; it may have been cancelled before its first step."""
        if self._flows is not None:
            self._flows.discard(self)
        if task.cancelled():
            self._fail(Closed(f"{self.name} was closed before its end"))
        elif error := task.exception():
            self._fail(error if isinstance(error, LinkError) else Closed.because(f"{self.name} failed: {error}", error))
        self._over()

    async def _run(self, link: Link, request: Request, *, push: bool) -> None:
        """The whole exchange, as a task."""
        tasks: list[asyncio.Task[None]] = []
        self.pushes = push
        try:
            opening = link.stream(request.method, request.path, headers=request.headers, body=request.body)
            async with opening as stream:
                self._stream = stream
                if not self.upload_over:
                    tasks.append(self.background.start(self._upload(stream)))
                children: list[asyncio.Task[None]] = []
                if push:
                    tasks.append(self.background.start(self._collect(stream, children)))
                try:
                    await self._receive(stream)
                except LinkError as error:
                    if not push:
                        raise
                    self._fail(error)  # what was pushed along goes on
                if tasks:
                    await asyncio.wait(tasks)
                if children:
                    await asyncio.wait(children)
        finally:
            for task in tasks:
                task.cancel()

    async def _run_pushed(self, stream: PushedStream) -> None:
        """The response to a promised request, as a task."""
        self._stream = stream
        try:
            await self._receive(stream)
        except asyncio.CancelledError:
            stream.cancel()
            raise

    async def _receive(self, stream: ClientStream) -> None:
        """Read the response, and wake who waits when it is worth it."""
        self.head = await stream.response()
        # After this step of the task, which may well see the end of a short body, too.
        self.background.ring_soon(self.bell)
        ahead = 0
        while True:
            if ahead >= AHEAD and (ahead := self.put - self.taken) >= self.limit:
                await self._room()
            data = await stream.read(BLOCK)
            if not data:
                break
            self.pieces.append(data)
            self.put += len(data)
            ahead += len(data)
            if self.put - self.taken >= self.wanted:
                self.background.ring_soon(self.bell)
        self.trailers = await stream.trailers()
        self.ended = True
        self.background.ring_soon(self.bell)

    async def _room(self) -> None:
        """Wait until threads have taken half of what is there, or more may be there."""
        while self.put - self.taken >= self.limit:
            self._full = asyncio.get_running_loop().create_future()
            self.bell.ring()
            if self.put - self.taken >= self.limit:  # a thread may not have seen that we are full
                await self._full
            self._full = None

    def _make_room(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)

    def _feed(self) -> None:
        if self._hungry is not None and not self._hungry.done():
            self._hungry.set_result(None)

    async def _upload(self, stream: ClientStream) -> None:
        """Send what is offered, as fast as the server takes it."""
        try:
            while data := await self._next_offered():
                await stream.send(data)
                self.sent += len(data)
                self.bell.ring()
            await stream.end()
        except Misuse as error:
            self.upload_error = error
            self._fail(error)
            stream.reset(ErrorCode.CANCEL)
        except LinkError as error:
            self.upload_error = error  # where it is not the answer, whoever waits for that is told, too
        finally:
            self.upload_over = True
            self.outgoing.clear()
            self.bell.ring()

    async def _next_offered(self) -> bytes:
        """The next piece of the request's body; ``b""`` at its end."""
        while not self.outgoing:
            if self.no_more and not self.outgoing:
                return b""
            self._hungry = asyncio.get_running_loop().create_future()
            if not self.outgoing and not self.no_more:  # a thread may not have seen that we are hungry
                await self._hungry
            self._hungry = None
        return self.outgoing.popleft()

    async def _collect(self, stream: ClientStream, children: list[asyncio.Task[None]]) -> None:
        """Take in what the server pushes along."""
        try:
            async for pushed in stream.pushes():
                child = Flow(self.background, f"the push of {pushed.path}", more=False)
                task = child._begin(child._run_pushed(pushed))
                children.append(task)
                if self._abandoned:
                    task.cancel()
                else:
                    self.promises.append((pushed, child))
                    self.bell.ring()
        except LinkError as error:
            self._fail(error)  # the parent's, which its reader is told
        finally:
            self.promises_over = True
            self.bell.ring()

    def _fail(self, error: LinkError) -> None:
        if self.error is None and not self.ended:
            self.error = error

    def _over(self) -> None:
        self.over = self.upload_over = self.promises_over = True
        self._stream = None
        self.bell.ring()

    def give_up(self, code: int = ErrorCode.CANCEL) -> None:
        """Want no more of the response; what was pushed along stays."""
        if self._stream is not None and (self.pushes or code != ErrorCode.CANCEL):
            self._stream.reset(code)
        elif self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """Nobody will ask for anything of it any more, nor for what was pushed along and not taken."""
        self._abandoned = True
        while self.promises:
            self.promises.popleft()[1].abandon()
        self.give_up()
