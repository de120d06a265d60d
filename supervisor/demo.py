"""``muxlink demo``: a server is killed while a link is at work, and comes back; told only as far as it is true.

The story ends with an error where something that it tells of did not happen: an answer was wrong, the server did not
die by SIGKILL with requests in flight, the link did not lose its connections and make them again, or the second server
did not end well.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TextIO, TypeVar

from actors.errors import ConnectFailed, LinkError, ProtocolViolation
from actors.server_stream import ServerStream
from actors.settings import Backoff, Retry
from actors.stats import Quantiles
from supervisor.endpoints import parse_url
from supervisor.link import Link
from supervisor.link_state import Change, Changes, LinkState
from supervisor.stats import LinkStats

T = TypeVar("T")

CONNECTIONS: Final = 2
BACKOFF: Final = Backoff(initial=0.1, maximum=1.0)
"""Shorter than the default, because nobody wants to watch a link wait."""
WORK: Final = 0.01
"""Seconds that the server works on each request, so that a server that dies has some on its hands."""
REQUEST_TIMEOUT: Final = 60.0
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 20.0
NOTICE_TIMEOUT: Final = 20.0
"""Seconds for noticing that the server is gone, and for having all connections again once it is back."""
PROGRESS_INTERVAL: Final = 0.05
CLEAR: Final = "\r\x1b[2K"


async def hello(stream: ServerStream) -> None:
    """Greets whoever the request's body names, and says in trailers how long the name is."""
    name = await stream.read()
    await asyncio.sleep(WORK)
    await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])


async def run(requests: int, callers: int, out: TextIO) -> None:
    """Tell the story on ``out``, with a progress line where that is a terminal. Raises LinkError where it is not so."""
    logger = logging.getLogger("muxlink.link")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that the link loses its connections is the story itself
    try:
        async with _heeding_sigterm():
            await Story(requests, callers, Teller(out)).tell()
        return
    except ExceptionGroup as group:
        error: Exception = group
    finally:
        logger.setLevel(level)
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    raise error


@asynccontextmanager
async def _heeding_sigterm() -> AsyncIterator[None]:
    """Let SIGTERM be an error like others, as which it does not leave a server process behind."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told = asyncio.Event()

    def terminate() -> None:
        told.set()
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield
    except asyncio.CancelledError:
        if told.is_set():
            raise LinkError("ended by SIGTERM") from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


class Story:
    """Two servers, one after the other, and a link that outlives the first."""

    def __init__(self, requests: int, callers: int, teller: Teller) -> None:
        self.requests = requests
        self.callers = min(callers, requests)
        self.times: list[float] = []
        """The seconds that each answered request took."""
        self._teller = teller
        self._numbers = iter(range(1, requests + 1))
        self._middle = (requests + 1) // 2
        self._half_way = asyncio.Event()

    async def tell(self) -> None:
        """All of it. Raises LinkError, or a group of them."""
        event = self._teller.event
        async with server_process() as (first, url):
            event("server", f"process {first.pid} serves {url}")
            # A request may be in flight on each connection in turn, as they die one after the other.
            retry = Retry(per_second=float(CONNECTIONS * self.callers))
            link = Link(url, connections=CONNECTIONS, backoff=BACKOFF, retry=retry)
            watch = Watch(link.changes(), lambda: link.stats().restarts, event)
            async with link, asyncio.TaskGroup() as tasks:
                tasks.create_task(watch.run())
                await _complete(link)
                wait = f"{BACKOFF.initial:g} to {BACKOFF.maximum:g} s"
                event("link", f"READY with {CONNECTIONS} connections; backoff {wait} for the demo")
                event("requests", f"{self.requests:,}, {self.callers} at a time; the server works {WORK:g} s on each")
                asking = [tasks.create_task(self._ask(link)) for _ in range(self.callers)]
                progress = tasks.create_task(self._progress(link))
                await self._kill(first, link)
                await _within(NOTICE_TIMEOUT, watch.lost.wait(), "the link stayed READY without its server")
                async with server_process(parse_url(url)[0].port) as (second, _):
                    event("server", f"process {second.pid} serves on the same port")
                    await asyncio.wait(asking)
                    await _within(NOTICE_TIMEOUT, watch.back.wait(), "the link was not READY again")
                    await _complete(link)
                    progress.cancel()
                    event("requests", f"all answered; the link has {CONNECTIONS} connections again")
                    stats = link.stats()
                    await link.close()
        if second.returncode != 0:
            raise ConnectFailed(f"server process {second.pid} ended with {second.returncode}, not 0")
        event("server", f"process {second.pid} drained and ended with 0")
        self._teller.table(self._summary(stats, watch))

    async def _ask(self, link: Link) -> None:
        """Take one number after the other, and check each answer. Raises LinkError."""
        for number in self._numbers:
            if number == self._middle:
                self._half_way.set()
            name = b"request %d" % number
            began = time.perf_counter()
            reply = await link.request(
                "POST", "/hello", body=name, timeout=REQUEST_TIMEOUT, idempotent=True, wait_for_ready=True
            )
            right = (200, b"hello, " + name, str(len(name)))
            if (reply.status, reply.body, reply.trailers.get("len")) != right:
                raise ProtocolViolation(f"request {number} got the answer {reply.status} {reply.body[:40]!r}")
            self.times.append(time.perf_counter() - began)

    async def _kill(self, server: asyncio.subprocess.Process, link: Link) -> None:
        """Kill the server as soon as the middle request is on its way. Raises LinkError where it did not die so."""
        await self._half_way.wait()
        while link.stats().streams_total < self._middle:  # noqa: ASYNC110  (a turn of the loop or two: it was begun)
            await asyncio.sleep(0)
        in_flight = link.stats().requests_open
        if (before := server.returncode) is not None:
            raise LinkError(f"server process {server.pid} had ended with {before} before it was killed")
        server.kill()
        told = f"SIGKILL to process {server.pid} at request {self._middle:,}, {in_flight} in flight"
        self._teller.event("kill", told)
        await _within(STOP_TIMEOUT, server.communicate(), f"server process {server.pid} outlived SIGKILL")
        if server.returncode != -signal.SIGKILL:
            raise LinkError(f"server process {server.pid} ended with {server.returncode}, not by SIGKILL")
        if not in_flight:
            raise LinkError("no request was in flight when the server was killed")

    async def _progress(self, link: Link) -> None:
        width = 24
        try:
            for mark in itertools.cycle("|/-\\"):
                done = len(self.times)
                filled = width * done // self.requests
                bar = "#" * filled + "." * (width - filled)
                self._teller.progress(f"{mark} [{bar}] {done:,} of {self.requests:,}, link {link.state.name}")
                await asyncio.sleep(PROGRESS_INTERVAL)
        finally:
            self._teller.clear()

    def _summary(self, stats: LinkStats, watch: Watch) -> dict[str, str]:
        """What it took. ``stats`` were asked for while the link was whole again."""
        times = Quantiles.of(self.times)
        made = stats.connections_open + sum(stats.restarts.values())
        return {
            "requests": f"{times.count:,} answered right, {self.requests - times.count} lost",
            "repeated": f"{sum(stats.retries.values()):,} by the link itself",
            "longest wait": f"{times.most:.3f} s",
            "connections": f"{made} made; restarts: {_counts(stats.restarts)}",
            "unconnected": f"{watch.without:.3f} s",
            "latency": f"half within {times.p50:.3f} s, 99 % within {times.p99:.3f} s",
        }


async def _complete(link: Link) -> None:
    """Wait until the link has all its connections."""
    try:
        async with asyncio.timeout(NOTICE_TIMEOUT):
            while link.stats().connections_by_state.get("ready") != CONNECTIONS:  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise LinkError(f"the link did not have {CONNECTIONS} connections within {NOTICE_TIMEOUT:g} s") from None


async def _within(seconds: float, what: Awaitable[T], otherwise: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await what
    except TimeoutError:
        raise LinkError(f"{otherwise} for {seconds:g} s") from None


class Watch:
    """Tells of a link's changes, and adds up how long it was without a connection."""

    def __init__(
        self, changes: Changes, restarts: Callable[[], Mapping[str, int]], event: Callable[[str, str, float], object]
    ) -> None:
        """``restarts`` are those of the link's stats."""
        self.lost = asyncio.Event()
        """It was READY, and then was not."""
        self.back = asyncio.Event()
        """Later, it was READY again."""
        self.without = 0.0
        """Seconds."""
        self._changes = changes
        self._restarts = restarts
        self._event = event
        self._since: float | None = None
        self._buried: Counter[str] = Counter()
        self._failures: list[str] = []

    async def run(self) -> None:
        """Until the link is closed."""
        async for change in self._changes:
            if change.state is not LinkState.SHUTDOWN:
                self._see(change)

    def _see(self, change: Change) -> None:
        cause = type(change.cause).__name__
        if change.previous is LinkState.READY:
            # Not the change's own cause: that is the last of several, and an attempt may have failed meanwhile.
            ended = Counter(self._restarts()) - self._buried
            self._since, self._failures = change.at, []
            self._event("link", f"READY no more: {_counts(ended) or cause}", change.at)
            self._buried += ended
            self.lost.set()
        if self._since is None:
            return  # it has not been READY yet
        if change.state is LinkState.READY:
            self.without += change.at - self._since
            self._since = None
            self._event("link", f"READY again, after {len(self._failures)} x TRANSIENT_FAILURE", change.at)
            self.back.set()
        elif change.state is LinkState.TRANSIENT_FAILURE:
            if cause not in (*self._failures, *self._buried):  # the others are only counted
                self._event("link", f"TRANSIENT_FAILURE: {cause}", change.at)
            self._failures.append(cause)


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


class Teller:
    """Writes what happens, when it happens; on a terminal, with a last line that is written over and over."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._watched = out.isatty()
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    def event(self, who: str, what: str, at: float | None = None) -> None:
        """A line with the seconds since the beginning; ``at`` is in those of the loop's clock."""
        self.clear()
        seconds = (self._clock() if at is None else at) - self._began
        print(f"{seconds:06.3f} s  {who:<9} {what}", file=self._out, flush=True)

    def table(self, rows: dict[str, str]) -> None:
        print(file=self._out)
        for name, value in rows.items():
            print(f"{name:<13} {value}", file=self._out)

    def progress(self, line: str) -> None:
        if self._watched:
            print(f"{CLEAR}{line}", end="", file=self._out, flush=True)

    def clear(self) -> None:
        self.progress("")


@asynccontextmanager
async def server_process(port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A ``muxlink serve`` of :func:`hello` in a process of its own, and its URL; it is stopped on leaving."""
    process = await asyncio.create_subprocess_exec(
        # -P: the working directory may hold packages of the same names.
        sys.executable, "-P", "-m", "supervisor.cli", "serve", "supervisor.demo:hello", "--bind", f"127.0.0.1:{port}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, await _url_of(process)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                # To the end of its output: asyncio closes a process's transport only then.
                await _within(STOP_TIMEOUT, process.communicate(), f"server process {process.pid} did not stop")
            except BaseException:
                process.kill()
                await process.wait()
                raise


async def _url_of(process: asyncio.subprocess.Process) -> str:
    """What the server process says that it serves."""
    if process.stdout is None:
        raise ConnectFailed("the server process has no output to read its address from")
    try:
        async with asyncio.timeout(START_TIMEOUT):
            line = (await process.stdout.readline()).decode().strip()
            if not line:
                raise ConnectFailed(f"the server process did not start: it ended with {await process.wait()}")
    except TimeoutError:
        raise ConnectFailed(f"the server process was not ready within {START_TIMEOUT:g} s") from None
    if not line.startswith("serving "):
        raise ConnectFailed(f"the server process did not start: {line}")
    return line.removeprefix("serving ")
