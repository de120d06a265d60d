"""What links cost that nobody uses: the processor's time that goes by, and bytes for each.

A process opens ``LINKS`` links, a connection each, makes one request over each, and leaves them alone. Where they ask
for signs of life, all have done so once before the time begins that counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.benchmarks import idle, jobs

LINKS: Final = 1000
INTERVAL: Final = 10.0
"""Seconds between two PINGs on a link that asks for signs of life while it is idle, as with ``Health.fast()``."""
_AT_A_TIME: Final = 20
_SETTLED: Final = 2.0
"""Seconds until nothing of the opening is left to do."""

Connect = Callable[[], Awaitable[idle.Get]]


async def rest(connect: Connect, seconds: float, *, pinging: bool) -> dict[str, float]:
    """Open the links, and do nothing: a link's bytes, the share of the processor's time, and by how much all grew."""
    await _hello(await connect())  # what is loaded with the first of them is none of the others'
    before = idle.report().resident
    gets: list[idle.Get] = []
    for _ in range(0, LINKS, _AT_A_TIME):
        gets += await asyncio.gather(*(connect() for _ in range(_AT_A_TIME)))
        for get in gets[-_AT_A_TIME:]:
            await _hello(get)
    await asyncio.sleep(_SETTLED + INTERVAL * pinging)
    first = idle.report()
    gc.freeze()  # what is there stays; a collection in between looks at what is new
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    went = time.perf_counter() - began
    last = idle.report()
    for get in gets:
        await _hello(get)  # each of them still serves
    return {
        "cpu": (last.cpu_before - first.cpu) / went,
        "memory": (first.resident - before) / LINKS,
        "growth": (last.resident - first.resident) / LINKS,
    }


async def _hello(get: idle.Get) -> None:
    if (reply := await get(jobs.HELLO_PATH)) != (200, jobs.HELLO):
        raise jobs.WrongReply(reply)
