"""The loop in the background: what is handed over to it, and what becomes of who waits."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.errors import Closed, Misuse
from supervisor.adapters.blocking.background import Background, Bell, background


def test_one_loop_serves_all_threads() -> None:
    async def here() -> tuple[asyncio.AbstractEventLoop, str]:
        return asyncio.get_running_loop(), threading.current_thread().name

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: background().call(here()), range(100)))
    assert set(found) == {(background().loop, "muxlink-background")}
    assert next(each for each in threading.enumerate() if each.name == "muxlink-background").daemon


def test_what_a_coroutine_raises_is_raised_where_it_is_waited_for() -> None:
    async def fails() -> None:
        raise LookupError("not here")

    with pytest.raises(LookupError, match="not here"):
        background().call(fails())


def test_who_waits_too_long_cancels_what_was_waited_for() -> None:
    ended = threading.Event()

    async def never() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        background().call(never(), 0.05)
    assert ended.wait(5)


def test_an_interrupted_wait_cancels_what_was_waited_for() -> None:
    ended = threading.Event()

    async def never() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    waiting = background().begin(never())

    def interrupt() -> None:
        end = time.monotonic() + 10
        while not waiting._bell._sleepers and time.monotonic() < end:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        waiting.result()
    thread.join()
    assert ended.wait(5)


def test_the_loops_own_thread_is_refused() -> None:
    async def nothing() -> None:
        return None

    async def inside() -> None:
        background().call(nothing())

    with pytest.raises(Misuse, match="it would wait for itself"):
        background().call(inside())


def test_jobs_from_many_threads_wake_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, done, gate, wakes = background(), threading.Event(), threading.Event(), [0]
    loop.post(gate.wait)  # the loop is busy
    wake = loop.loop.call_soon_threadsafe

    def counted(callback: Callable[[], object]) -> None:
        wakes[0] += 1
        wake(callback)

    monkeypatch.setattr(loop.loop, "call_soon_threadsafe", counted)
    ran: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: loop.post(lambda: ran.append(number)), range(200)))
    loop.post(done.set)
    gate.set()
    assert done.wait(5)
    assert sorted(ran) == list(range(200))
    assert wakes[0] <= 9, "one, and one for each thread that found it awake at the same moment"


def test_a_bell_wakes_who_waits_when_the_condition_has_come_true() -> None:
    bell, value = Bell(), [0]

    def waits_for(least: int) -> bool:
        return bell.until(lambda: value[0] >= least, 10)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(waits_for, least) for least in range(1, 9)]
        for _ in range(8):
            value[0] += 1
            bell.ring()
        assert all(each.result(10) for each in waiting)
    began = time.monotonic()
    assert not bell.until(lambda: False, 0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert bell.until(lambda: True, 0.0)


def test_a_loop_that_was_stopped_says_goodbye_and_takes_no_more() -> None:
    said: list[str] = []
    loop = Background()
    owner = object()

    async def farewell() -> None:
        said.append("goodbye")

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    async def tell() -> None:
        loop.at_end(owner, farewell)

    loop.call(tell())
    waiting = loop.begin(never())
    loop.stop()
    loop.stop()
    assert said == ["goodbye"]
    assert loop.loop.is_closed()
    with pytest.raises(Closed, match="interpreter ends"):
        waiting.result(5)
    with pytest.raises(Closed, match="has ended"):
        loop.call(never())
    assert loop.post(lambda: None) is False


@pytest.mark.parametrize("order", [["fails", "goes on"], ["fails", "fails", "goes on"]])
def test_a_job_that_fails_holds_up_no_other(order: list[str]) -> None:
    loop, done, failures = background(), threading.Event(), []

    def fails() -> None:
        raise LookupError("not here")

    async def watch() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    async def watch_no_more() -> None:
        asyncio.get_running_loop().set_exception_handler(None)

    loop.call(watch())
    gate = threading.Event()
    loop.post(gate.wait)
    for each in order:
        loop.post(fails if each == "fails" else done.set)
    gate.set()
    assert done.wait(5)
    loop.call(watch_no_more())
    assert [type(each) for each in failures] == [LookupError] * order.count("fails")


def test_what_ran_is_let_go() -> None:
    async def nothing() -> None:
        return None

    for _ in range(100):
        background().call(nothing())
    gc.collect()
    assert len(background()._tasks) <= 2
