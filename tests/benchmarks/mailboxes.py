"""What a message costs on its way through a mailbox: ours, ``asyncio.Queue``, and a bare deque with a future.

A loop callback tells, as a transport does: a burst of 64 messages, or one alone, and then again in the next turn of the
loop. A task takes. The figure is the time of the whole, the loop's turn and the task's wake-up included, divided by the
messages: in bursts that is mostly the mailbox, alone it is mostly asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from actors.mailbox import Mailbox
from actors.trace import Recorder, Tracer
from tests.benchmarks.harness import BARE, MICROSECONDS, NOISE, OURS, RECORDED, Benchmark, Measure

MESSAGES = 400_000
QUEUE = "asyncio.Queue"

Tell = Callable[[int], object]
Take = Callable[[], Awaitable[int]]
"""Waits for messages and handles all that it gets; how many those were."""


class _Bare:
    """The least that works: a deque, and a future while the owner waits."""

    def __init__(self) -> None:
        self._backlog: deque[int] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def tell(self, message: int) -> None:
        self._backlog.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> deque[int]:
        if not self._backlog:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        backlog, self._backlog = self._backlog, deque()
        return backlog


def _bare() -> tuple[Tell, Take]:
    box = _Bare()

    async def take() -> int:
        taken = 0
        for _ in await box.take():
            taken += 1
        return taken

    return box.tell, take


def _ours(tracer: Tracer | None = None) -> tuple[Tell, Take]:
    box: Mailbox[int] = Mailbox("owner", tracer)

    async def take() -> int:
        taken = 0
        for _ in await box.take():
            taken += 1
        return taken

    return box.tell, take


def _recorded() -> tuple[Tell, Take]:
    tracer = Tracer()
    tracer.attach(Recorder())
    return _ours(tracer)


def _queue() -> tuple[Tell, Take]:
    box: asyncio.Queue[int] = asyncio.Queue()

    async def take() -> int:
        # The best that a queue allows: wait for one, then take the rest without waiting.
        await box.get()
        taken = 1
        while not box.empty():
            box.get_nowait()
            taken += 1
        return taken

    return box.put_nowait, take


_KINDS: dict[str, Callable[[], tuple[Tell, Take]]] = {
    BARE: _bare,
    OURS: _ours,
    QUEUE: _queue,
    RECORDED: _recorded,
    NOISE: _bare,
}


async def _microseconds(kind: str, burst: int, messages: int) -> float:
    tell, take = _KINDS[kind]()
    loop = asyncio.get_running_loop()
    left = messages

    def speak() -> None:
        nonlocal left
        for number in range(burst):
            tell(number)
        left -= burst
        if left > 0:
            loop.call_soon(speak)

    taken = 0
    began = time.perf_counter()
    loop.call_soon(speak)
    while taken < messages:
        taken += await take()
    return (time.perf_counter() - began) / messages * 1e6


def _in_bursts_of(burst: int) -> AbstractContextManager[Measure]:
    @contextmanager
    def nothing() -> Iterator[Measure]:
        yield lambda kind, messages: asyncio.run(_microseconds(kind, burst, messages))

    return nothing()


ALL = (
    Benchmark(
        name="mailbox:burst",
        work="tell and take 64 messages at a time; bare is a deque and a future",
        unit=MICROSECONDS,
        open=lambda: _in_bursts_of(64),
        probe=MESSAGES - MESSAGES % 64,
        one=None,
        variants=(BARE, OURS, QUEUE),
    ),
    Benchmark(
        name="mailbox:alone",
        work="tell and take one message at a time; bare is a deque and a future",
        unit=MICROSECONDS,
        open=lambda: _in_bursts_of(1),
        probe=MESSAGES // 4,
        one=None,
        variants=(BARE, OURS, QUEUE),
    ),
)
