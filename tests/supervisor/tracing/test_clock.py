"""A loop whose time is what a replay says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

import pytest

from actors.errors import DeadlineExceeded
from supervisor.tracing import clock
from supervisor.tracing.clock import ReplayLoop


def run(main: Coroutine[None, None, None], loop: ReplayLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)


def test_it_begins_when_it_is_told_and_sleeps_pass_at_once() -> None:
    """T6."""
    loop = ReplayLoop(1000.0)

    async def main() -> None:
        assert loop.time() == 1000.0
        await asyncio.gather(asyncio.sleep(7200.0), asyncio.sleep(30.0))
        assert loop.time() == pytest.approx(8200.0)

    began = time.perf_counter()
    run(main(), loop)
    assert time.perf_counter() - began < 5


def test_it_settles_without_letting_a_timer_ring() -> None:
    """T6: what is ready is done, and what waits for a time still waits."""
    loop, seen = ReplayLoop(), list[str]()

    async def main() -> None:
        task = asyncio.create_task(later())
        loop.call_later(1.0, seen.append, "timer")
        await loop.settled()
        assert (seen, loop.time()) == (["ready", "ready"], 0.0)
        loop.go_to(2.0)
        await loop.settled()
        assert (seen[2:], loop.time()) == (["timer"], 2.0)
        loop.go_to(1.0)
        assert loop.time() == 2.0
        await task

    async def later() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
            seen.append("ready")

    run(main(), loop)


def test_a_handler_that_waits_for_nothing_that_comes_is_an_error_and_no_hang() -> None:
    """T6."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="the replay stands still"):
        run(main(), ReplayLoop())


def test_threads_of_a_handler_get_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """T6: a jump over a timer does not overtake them."""
    monkeypatch.setattr(clock, "GRACE", 5.0)
    loop = ReplayLoop()

    async def main() -> None:
        async with asyncio.timeout(1.0):
            await asyncio.to_thread(time.sleep, 0.05)
        assert loop.time() < 1.0

    run(main(), loop)
