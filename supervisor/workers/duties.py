"""What a worker does from its parent's first message to its own last words.

Theory of operation
    Everything that the parent says is handled in the callback that brings it, on the loop: a connection is in the
    worker's hands, and said to be, before anything is read from it. What takes longer has a task: the drain, the
    answer to :class:`~supervisor.workers.spoken.Report`, the writing of stacks.

    There are two ways out. A worker is retired: by its parent, by SIGTERM, or because the parent has gone; it drains,
    says what became of that, and its exit code is 0. Or it cannot go on: 2 where it was asked for what cannot work,
    1 for a fault of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket as sockets
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Final

from actors.errors import LinkError, Misuse
from supervisor.handlers import load_handler
from supervisor.server import DrainReport, Server
from supervisor.workers.access import AccessLog
from supervisor.workers.answers import plain_stats
from supervisor.workers.channel import Channel
from supervisor.workers.logs import configure
from supervisor.workers.options import ServeOptions
from supervisor.workers.pace import Pace
from supervisor.workers.spoken import (
    VERSION,
    Begin,
    Draining,
    Ended,
    Explain,
    Explained,
    Hasten,
    Plain,
    Ready,
    Released,
    Report,
    Reported,
    Retire,
    SendTrace,
    Spoken,
    Take,
    Taken,
    Tired,
    WriteStacks,
)
from supervisor.workers.stacks import task_stacks
from supervisor.workers.state import dossiers_of
from supervisor.workers.traces import Traces, Wanted

DONE, FAILED, ASKED_WRONGLY = 0, 1, 2
LAST_WORDS: Final = 1.0
"""Seconds that the parent has for taking them."""
WELCOMING: Final = 1.0
"""Seconds that the connections which were taken last have for their handshakes, before a drain."""
MOST_EXPLAINED: Final = 1000
"""Streams of which one answer says what they wait for."""
REPORT_SIZE: Final = 2 * 1024 * 1024
"""Bytes of one answer to a Report; actors beyond are not listed."""

logger: Final = logging.getLogger("muxlink.worker")
stacks_logger: Final = logging.getLogger("muxlink.stacks")


class Duties:
    """One worker's life: :meth:`live` is all of it."""

    def __init__(self, end: sockets.socket) -> None:
        """``end`` is the worker's of the socket pair; it takes it over."""
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[Begin | None] = self._loop.create_future()
        """The first message; None where the end came before it."""
        self._retired: asyncio.Future[float] = self._loop.create_future()
        """The seconds for draining."""
        self._hastened = asyncio.Event()
        self._options: ServeOptions | None = None
        self._server: Server | None = None
        self._traces: Traces | None = None
        self._tired = False
        self._adopted = self._ended = self._freed = 0
        """Connections that were adopted, that have ended of those, and that ended since this was last said."""
        self._reports: list[int] = []
        self._reporting = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._channel = Channel(end, self._told, self._lost)

    async def live(self) -> int:
        """Serve until it is time to end, and return the exit code."""
        self._loop.add_signal_handler(signal.SIGTERM, self._terminated)
        with ExitStack() as at_end:
            ended, code = await self._outcome(at_end)
        self._loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends in a moment, and with the right code
        for task in self._tasks.values():
            task.cancel()
        self._channel.tell(ended)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._flushed()
        self._channel.close()
        return code

    async def _outcome(self, at_end: ExitStack) -> tuple[Ended, int]:
        try:
            begin = await self._begun
            if begin is None:
                return Ended(""), DONE
            server, pace = self._prepare(begin, at_end)
        except Misuse as error:
            logger.info("%s", error, exc_info=error)
            return Ended(_line(error), asked_wrongly=True), ASKED_WRONGLY
        except Exception as error:
            return self._failed(error)
        try:
            report = await self._serve(server, pace)
        except Exception as error:
            return self._failed(error)
        return Ended("", cut=report.cut, finished=report.finished), DONE

    def _failed(self, error: Exception) -> tuple[Ended, int]:
        logger.error("the worker cannot go on: %s", _line(error), exc_info=error)
        return Ended(_line(error)), FAILED

    def _prepare(self, begin: Begin, at_end: ExitStack) -> tuple[Server, Pace]:
        """Become what the first message says. Raises Misuse."""
        if begin.version != VERSION:
            raise Misuse(
                f"the parent speaks version {begin.version} and its worker version {VERSION}: muxlink was changed "
                "under a running server, which must be started again"
            )
        self._options = options = ServeOptions.of(begin.options)
        configure(options.log_format, options.log_level, process=begin.name)
        stacks_logger.setLevel(logging.INFO)  # whoever asks for stacks gets them at any level
        handler = load_handler(options.handler)
        access = at_end.enter_context(AccessLog(options.access_log, options.log_format, process=begin.name))
        pace = Pace(options, self._channel.tell, self._tire)
        handler = pace.wrap(access.wrap(handler))
        self._traces = Traces(begin.name)
        server = Server(
            handler, tls=options.tls(), limits=options.limits(), sockets=(), freed=self._released,
            dossiers=dossiers_of(options.dossiers, os.environ, begin.name),
        )  # fmt: skip
        return server, pace

    async def _serve(self, server: Server, pace: Pace) -> DrainReport:
        async with server:
            self._server = server
            self._channel.tell(Ready(os.getpid()))
            pace.start()
            self._look_for_reports()
            self._do("watch", self._watch(server))
            try:
                return await self._drain(server, await self._retired)
            finally:
                pace.stop()
                if self._traces is not None:
                    await self._traces.close()

    async def _watch(self, server: Server) -> None:
        """A listener that breaks ends the worker."""
        try:
            await server.wait()
        except LinkError as error:
            if not self._retired.done():
                self._retired.set_exception(error)

    async def _drain(self, server: Server, seconds: float) -> DrainReport:
        self._channel.tell(Draining())
        closing = asyncio.create_task(self._close(server, seconds), name="drain")
        hastened = asyncio.create_task(self._hastened.wait(), name="hastened")
        await asyncio.wait((closing, hastened), return_when=asyncio.FIRST_COMPLETED)
        hastened.cancel()
        if not closing.done():
            await server.close(0)  # what is left of the first one's time is up
        return await closing

    async def _close(self, server: Server, seconds: float) -> DrainReport:
        """Drain, once every connection that was taken is one that can be drained: closing cuts off handshakes."""
        began = self._loop.time()
        with suppress(TimeoutError, LinkError):  # a listener that has ended is closed all the same
            async with asyncio.timeout(min(seconds, WELCOMING)):
                while self._adopted - self._ended > len((await server.state()).children):  # noqa: ASYNC110  (no event)
                    await asyncio.sleep(0.01)
        return await server.close(max(seconds - (self._loop.time() - began), 0.0))

    # --- what the parent says -----------------------------------------------------------------------------------------

    def _told(self, message: Spoken, connection: sockets.socket | None) -> None:
        match message:
            case Begin():
                if not self._begun.done():
                    self._begun.set_result(message)
            case Take(number) if connection is not None:
                self._take(number, connection)
            case Retire(drain):
                self._retire(drain)
            case Hasten():
                self._hasten()
            case Report(number):
                self._reports.append(number)
                self._look_for_reports()
            case Explain(number, stream):
                self._do(f"why-{number}", self._explain(number, stream))
            case SendTrace():
                self._send_trace(message)
            case WriteStacks():
                if "stacks" not in self._tasks:
                    self._do("stacks", self._write_stacks())
            case _:
                logger.error("the parent said %s, which is for parents to hear", type(message).__name__)

    def _take(self, number: int, connection: sockets.socket) -> None:
        if self._server is None or self._retired.done():
            connection.close()  # the parent has its copy, and gives it to another worker
            return
        self._channel.tell(Taken(number))
        self._adopted += 1
        try:
            self._server.adopt(connection)
        except Misuse as error:
            logger.error("a connection cannot be served: %s", error)
            connection.close()
            self._released()

    def _released(self) -> None:
        """A place is free again; the parent is told once for all that become free in one turn of the loop."""
        if not self._freed:
            self._loop.call_soon(self._say_released)
        self._freed += 1
        self._ended += 1

    def _say_released(self) -> None:
        count, self._freed = self._freed, 0
        self._channel.tell(Released(count))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _retire(self, seconds: float) -> None:
        if not self._begun.done():
            self._begun.set_result(None)
        if not self._retired.done():
            self._retired.set_result(seconds)

    def _hasten(self) -> None:
        self._hastened.set()
        self._retire(0.0)

    def _terminated(self) -> None:
        """SIGTERM: the first one drains, the second one hastens."""
        if self._retired.done():
            self._hasten()
        else:
            self._retire(self._drain_timeout)

    def _lost(self, error: Exception | None) -> None:
        """The parent has gone, or cannot be understood: there is nobody to work for."""
        if not self._retired.done():
            why = "the parent has gone" if error is None else f"the parent cannot be understood: {_line(error)}"
            logger.warning("%s: draining for %g s", why, self._drain_timeout)
        self._retire(self._drain_timeout)

    @property
    def _drain_timeout(self) -> float:
        return self._options.drain_timeout if self._options is not None else 0.0

    def _tire(self, why: str) -> None:
        if not self._tired and not self._retired.done():
            self._tired = True
            self._channel.tell(Tired(why))

    async def _flushed(self) -> None:
        """Wait until the parent has all that was said."""
        while self._channel.unsent:  # noqa: ASYNC110  (no event)
            await asyncio.sleep(0.01)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _do(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    def _look_for_reports(self) -> None:
        """Answer what was asked: now, or once it serves; whoever asks while others are answered is next."""
        if self._server is not None and self._reports and not self._reporting:
            self._reporting = True
            self._do("report", self._report())

    async def _report(self) -> None:
        try:
            while (server := self._server) is not None and self._reports:
                number = self._reports.pop(0)
                actors = tuple(_within(await server.census(), REPORT_SIZE))
                self._channel.tell(Reported(number, plain_stats(server), actors))
                await self._flushed()  # several answers that nobody reads yet would be too much for the channel
        finally:
            self._reporting = False

    async def _explain(self, number: int, stream: str) -> None:
        found = await self._server.why(stream or None) if self._server is not None else []
        told = tuple(each.to_plain() for each in found[:MOST_EXPLAINED])
        self._channel.tell(Explained(number, told))

    def _send_trace(self, message: SendTrace) -> None:
        try:
            if self._server is not None and self._traces is not None:
                self._traces.begin(Wanted.of(message.options), self._server)
        except LinkError as error:
            logger.warning("%s", error)

    async def _write_stacks(self) -> None:
        stacks = task_stacks(each for each in asyncio.all_tasks() if each is not asyncio.current_task())
        if self._server is not None:
            lines = (f"{each['name']}: {each['state']}" for each in await self._server.census())
            stacks_logger.info("the actors of this worker:\n%s", "\n".join(lines))
        for stack in stacks:
            stacks_logger.info("%s", stack.rstrip("\n"))


def _line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _within(actors: list[Plain], most: int) -> Iterator[Plain]:
    """The first of the actors, in so many bytes, and how many there are besides."""
    for number, each in enumerate(actors):
        most -= len(json.dumps(each))
        if most < 0:
            empty: dict[str, Any] = dict.fromkeys(each)
            yield {**empty, "name": f"{len(actors) - number:,} actors more", "restarts": 0, "detail": {}}
            return
        yield each
