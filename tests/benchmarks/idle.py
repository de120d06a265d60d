"""What open, idle streams cost: bytes for each, and the processor's time for one more request beside them.

A client opens ``STREAMS`` streams on each of ``CONNECTIONS`` connections, and the server leaves them unanswered. One
more connection has one stream less, because a server allows 100 by default; there the requests go that are timed, one
after the other. Each side reports of itself, after a garbage collection; the server does over a path of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from attrs import asdict, frozen

from tests.benchmarks import jobs

CONNECTIONS: Final = 100
STREAMS: Final = jobs.STREAMS
HELD: Final = CONNECTIONS * STREAMS + STREAMS - 1
PATH: Final = "/idle"
_REPORT_PATH: Final = "/report"
_PATIENCE: Final = 60

Get = Callable[[str], Awaitable[tuple[int, bytes]]]
"""A connection: what it gets for a path."""


@frozen
class Report:
    """What a process says of itself."""

    held: int
    resident: int
    """Bytes, after a garbage collection."""
    cpu_before: float
    """Seconds of the processor, before that collection."""
    cpu: float
    """The same, after it."""


_held = 0


def report() -> Report:
    """What this process uses."""
    before = time.process_time()
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return Report(_held, pages * os.sysconf("SC_PAGE_SIZE"), before, time.process_time())


def answer(path: str) -> bytes | None:
    """What a server answers at once; None is for a stream that it leaves open."""
    global _held  # noqa: PLW0603  (a process is one server)
    if path == jobs.HELLO_PATH:
        return jobs.HELLO
    if path == _REPORT_PATH:
        return json.dumps(asdict(report())).encode()
    _held += 1
    return None


async def hold(connect: Callable[[], Awaitable[Get]], requests: int) -> dict[str, float]:
    """Open the streams, and make requests beside them: what both sides used, a stream and a request."""
    gets = [await connect() for _ in range(CONNECTIONS)]
    spare = await connect()
    held = [asyncio.create_task(_hold(get)) for get in gets for _ in range(STREAMS)]
    held += [asyncio.create_task(_hold(spare)) for _ in range(STREAMS - 1)]
    await _until_held(spare)
    await _hello(spare, requests // 10 + 1)
    there, here = await _reported(spare), report()
    await _hello(spare, requests)
    here_then, there_then = report(), await _reported(spare)
    if (done := sum(task.done() for task in held)) or there_then.held != HELD:
        raise jobs.WrongReply(f"{done} of {there_then.held} streams ended")
    for task in held:
        task.cancel()
    await asyncio.wait(held)
    return {
        "server bytes": there_then.resident / HELD,
        "server cpu": (there_then.cpu_before - there.cpu) / requests,
        "client bytes": here_then.resident / HELD,
        "client cpu": (here_then.cpu_before - here.cpu) / requests,
    }


async def _hold(get: Get) -> None:
    raise jobs.WrongReply(await get(PATH))


async def _until_held(get: Get) -> None:
    async with asyncio.timeout(_PATIENCE):
        # What the server has begun, only the server knows.
        while (await _reported(get)).held < HELD:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def _hello(get: Get, requests: int) -> None:
    for _ in range(requests):
        if (reply := await get(jobs.HELLO_PATH)) != (200, jobs.HELLO):
            raise jobs.WrongReply(reply)


async def _reported(get: Get) -> Report:
    status, body = await get(_REPORT_PATH)
    if status != 200:
        raise jobs.WrongReply(status)
    return Report(**json.loads(body))
