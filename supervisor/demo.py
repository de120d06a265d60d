"""``muxlink demo``: a worker is killed, all are replaced, and the server ends, while a link is at work; told truly.

The story ends with an error where something that it tells of did not happen: an answer was wrong, the worker that was
killed had no request in flight, the link did not lose its connections and make them again, the server did not start
another in its place, the reload was not by overlap, cut a request, or kept a worker, or the server did not answer what
was in flight at its end, end with 0, and leave no process behind.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TextIO

from actors.errors import ConnectFailed, LinkError, Outcome, ProtocolViolation, TransportLost
from actors.server_stream import ServerStream
from actors.settings import Retry
from actors.stats import Quantiles
from supervisor.demo_server import Roll, ServerTree, Worker, server_tree
from supervisor.link import Link
from supervisor.stats import LinkStats
from supervisor.storytelling import Teller, Watch, counts, until, within

WORKERS: Final = 2
CONNECTIONS: Final = 4
WORK: Final = 0.1
"""Seconds that the server works on each request, so that a worker that dies has some on its hands."""
REQUEST_TIMEOUT: Final = 60.0
NOTICE_TIMEOUT: Final = 20.0
"""Seconds for noticing that a worker is gone, and for having all connections again."""
STAFF_TIMEOUT: Final = 60.0
"""Seconds in which another worker serves, or a reload is done."""
LOST: Final = TransportLost.__name__
"""What a connection ends with whose worker was killed."""
PROGRESS_INTERVAL: Final = 0.05


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


class Load:
    """Requests over a link, so many at a time, one after the other, until it is told that it is enough."""

    def __init__(self, link: Link, least: int) -> None:
        """``least`` requests are asked in any case."""
        self.asked = 0
        self.times: list[float] = []
        """The seconds that each request took that was answered right."""
        self.half_way = asyncio.Event()
        """Half of those that are asked in any case are."""
        self.enough = False
        """No more need be asked than that."""
        self.at_last = asyncio.Event()
        """The last one is asked."""
        self._link = link
        self._least = least

    def _next(self) -> int | None:
        """The number of the next request; None behind the last one."""
        if self.at_last.is_set():
            return None
        self.asked += 1
        if self.asked >= (self._least + 1) // 2:
            self.half_way.set()
        if self.enough and self.asked >= self._least:
            self.at_last.set()
        return self.asked

    async def ask(self) -> None:
        """Take one number after the other, and check each answer. Raises LinkError."""
        while (number := self._next()) is not None:
            name = b"request %d" % number
            began = time.perf_counter()
            reply = await self._link.request(
                "POST", "/hello", body=name, timeout=REQUEST_TIMEOUT, idempotent=True, wait_for_ready=True
            )
            right = (200, b"hello, " + name, str(len(name)))
            if (reply.status, reply.body, reply.trailers.get("len")) != right:
                raise ProtocolViolation(f"request {number} got the answer {reply.status} {reply.body[:40]!r}")
            self.times.append(time.perf_counter() - began)

    async def show(self, teller: Teller) -> None:
        """How far it is, until it is cancelled."""
        width, least = 24, self._least
        try:
            for mark in itertools.cycle("|/-\\"):
                done = len(self.times)
                filled = min(width * done // least, width)
                bar = "#" * filled + "." * (width - filled)
                teller.progress(f"{mark} [{bar}] {done:,} of {least:,} and more, link {self._link.state.name}")
                await asyncio.sleep(PROGRESS_INTERVAL)
        finally:
            teller.clear()


class Story:
    """One server, what becomes of its workers, and a link that is at work all the time."""

    def __init__(self, requests: int, callers: int, teller: Teller) -> None:
        self._requests = requests
        self._callers = callers
        self._teller = teller
        self._event = teller.event

    async def tell(self) -> None:
        """All of it. Raises LinkError, or a group of them."""
        async with server_tree(WORKERS) as server:
            staff = await _staffed(server, lambda staff: True, f"there were not {WORKERS} workers that serve")
            self._event("server", f"process {server.pid} serves {server.url} by {WORKERS} workers")
            # All that one worker has on its hands may have to go again.
            link = Link(server.url, connections=CONNECTIONS, retry=Retry(per_second=float(CONNECTIONS * self._callers)))
            load, watch = Load(link, self._requests), Watch(link.changes())
            async with link, asyncio.TaskGroup() as tasks:
                tasks.create_task(watch.run())
                await _complete(link)
                self._event("link", f"READY with {CONNECTIONS} connections")
                self._event(
                    "requests", f"{self._requests:,} and more, {self._callers} at a time, {WORK:g} s of work each"
                )
                asking = [tasks.create_task(load.ask()) for _ in range(self._callers)]
                showing = tasks.create_task(load.show(self._teller))
                await load.half_way.wait()
                staff = await self._kill(server, link, staff)
                staff = await self._reload(server, link, load, staff)
                stats = await self._stop(server, link, load)
                await asyncio.wait(asking)
                showing.cancel()
                self._event("requests", "all are answered")
                await link.close()
            await self._gone(server)
        self._teller.table(self._summary(load, stats, watch, len(server.pids) - 1, staff))

    async def _kill(self, server: ServerTree, link: Link, before: Roll) -> Roll:
        """Kill the worker that has the most to do, and wait for another. Raises LinkError where it is not so."""
        worker = max((await server.roll()).workers, key=lambda each: each.streams)
        stats = link.stats()
        server.kill(worker)
        self._event("kill", f"SIGKILL to {worker}, {stats.requests_open} in flight")
        await within(
            NOTICE_TIMEOUT, until(lambda: _lost(link, stats)[LOST] >= max(worker.connections, 1)),
            f"the link kept connections of {worker}, which was killed,",
        )  # fmt: skip
        await within(
            NOTICE_TIMEOUT, until(lambda: _repeated(link.stats()) > _repeated(stats)),
            f"nothing was in flight on {worker} when it was killed, or did not go again",
        )  # fmt: skip
        self._event("link", f"lost {counts(_lost(link, stats))}; what was in flight there goes again")
        await _complete(link)
        twice = _repeated(link.stats()) - _repeated(stats)
        self._event("link", f"has {CONNECTIONS} connections again; {twice} requests were sent twice")
        staff = await _staffed(server, lambda staff: worker.pid not in staff.pids, f"{worker} was not replaced")
        if staff.restarts != before.restarts + 1:
            raise LinkError(f"the server counts {staff.restarts} restarts of workers, not {before.restarts + 1}")
        self._event("server", f"{staff.workers[-1]} serves in the place of {worker.name}")
        return staff

    async def _reload(self, server: ServerTree, link: Link, load: Load, before: Roll) -> Roll:
        """Have all workers replaced. Raises LinkError where that was not by overlap, or cut a request."""
        stats, answered = link.stats(), len(load.times)
        server.signal(signal.SIGHUP)
        self._event("reload", f"SIGHUP to process {server.pid}")
        told: list[Worker] = []

        def look(staff: Roll) -> bool:
            _check_overlap(staff, before)
            fresh = [each for each in staff.workers if each.pid not in before.pids]
            for old in before.workers:
                if old.pid not in staff.pids and old not in told and len(fresh) > len(told):
                    self._event("server", f"{fresh[len(told)]} serves in the place of {old.name}")
                    told.append(old)
            return len(told) == WORKERS

        staff = await _staffed(server, look, "the reload was not done")
        if lost := _lost(link, stats)[LOST]:
            raise LinkError(f"the reload cut {lost} connections")
        if twice := _repeated(link.stats()) - _repeated(stats):
            raise LinkError(f"the reload cut {twice} requests, which had to be sent twice")
        if not (meanwhile := len(load.times) - answered):
            raise LinkError("no request was answered during the reload")
        self._event("reload", f"done by process {staff.pid}: {meanwhile:,} requests meanwhile, none cut")
        return staff

    async def _stop(self, server: ServerTree, link: Link, load: Load) -> LinkStats:
        """Tell the server to end while the last requests are in flight, and return the stats from before."""
        await _complete(link)
        load.enough = True
        await load.at_last.wait()
        await asyncio.sleep(0)  # a turn of the loop, in which that one goes out
        stats = link.stats()
        if not stats.requests_open:
            raise LinkError("no request was in flight when the server was told to end")
        server.signal(signal.SIGTERM)
        self._event("stop", f"SIGTERM to process {server.pid}, {stats.requests_open} in flight")
        return stats

    async def _gone(self, server: ServerTree) -> None:
        """Wait for the server's end. Raises LinkError where it was not a good one."""
        if (ended := await server.ended()) != 0:
            raise ConnectFailed(f"server process {server.pid} ended with {ended}, not 0")
        if left := server.left():
            raise LinkError(f"the server left processes behind: {', '.join(map(str, left))}")
        self._event("server", f"process {server.pid} drained and ended with 0; no process is left")

    def _summary(self, load: Load, stats: LinkStats, watch: Watch, workers: int, staff: Roll) -> dict[str, str]:
        """What it took. ``stats`` and ``staff`` are from before the server's end."""
        times = Quantiles.of(load.times)
        # Those that drain are counted as ended.
        made = stats.connections_by_state["ready"] + sum(stats.restarts.values())
        more = times.count - self._requests
        retried = sum(stats.retries.values())
        return {
            "requests": f"{self._requests:,} and {more:,} more answered right, {load.asked - times.count} lost",
            "repeated": f"{retried:,} by the link itself; {_repeated(stats)} of them may have run twice",
            "longest wait": f"{times.most:.3f} s",
            "connections": f"{made} made; restarts: {counts(stats.restarts)}",
            "unconnected": f"{watch.without:.3f} s",
            "workers": f"{workers} in all; restarts, as the server counts them: {staff.restarts}",
            "latency": f"half within {times.p50:.3f} s, 99 % within {times.p99:.3f} s",
        }


# --- looking ----------------------------------------------------------------------------------------------------------


def _lost(link: Link, before: LinkStats) -> Counter[str]:
    """The connections that were lost since then, by their reason."""
    return Counter(link.stats().restarts) - Counter(before.restarts)


def _repeated(stats: LinkStats) -> int:
    """Requests that went again although the server may have acted on them."""
    return stats.retries.get(Outcome.MAYBE_PROCESSED.value, 0)


def _check_overlap(staff: Roll, before: Roll) -> None:
    """Raises LinkError where a reload is not as it should be."""
    if staff.pid != before.pid:
        raise LinkError(f"the server's process was {before.pid} before the reload, and is {staff.pid}")
    if staff.ready < WORKERS:
        raise LinkError(f"only {staff.ready} of {WORKERS} workers served during the reload")
    if len(staff.workers) > WORKERS + 1:
        raise LinkError(f"{len(staff.workers)} workers were there during the reload, which is not one at a time")
    if staff.restarts != before.restarts:
        raise LinkError("a worker failed during the reload")


async def _staffed(server: ServerTree, seen: Callable[[Roll], bool], otherwise: str) -> Roll:
    """Wait until all workers serve, no other is there, and ``seen`` says that they are the right ones."""

    async def look() -> Roll:
        while True:
            staff = await server.roll()
            if seen(staff) and staff.ready == len(staff.workers) == WORKERS:
                return staff
            await asyncio.sleep(PROGRESS_INTERVAL)

    return await within(STAFF_TIMEOUT, look(), otherwise)


async def _complete(link: Link) -> None:
    """Wait until the link has all its connections."""
    await within(
        NOTICE_TIMEOUT, until(lambda: link.stats().connections_by_state.get("ready") == CONNECTIONS),
        f"the link did not have {CONNECTIONS} connections",
    )  # fmt: skip
