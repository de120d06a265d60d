"""The jumping clock: timers cost no real time, and real I/O goes on."""

import asyncio
import time

import pytest

from tests.support.clock import JumpingLoop, Stuck


@pytest.mark.virtual_time
async def test_an_hour_passes_at_once_and_exactly() -> None:
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    await asyncio.sleep(3600)
    assert loop.time() == 3600
    assert time.monotonic() - began < 5


@pytest.mark.virtual_time
async def test_timers_fire_in_order_and_at_their_time() -> None:
    loop = asyncio.get_running_loop()
    fired: list[tuple[str, float]] = []

    def note(name: str) -> None:
        fired.append((name, loop.time()))

    for name, when in (("late", 50.0), ("soon", 0.25), ("middle", 7.5)):
        loop.call_later(when, note, name)
    await asyncio.sleep(60)
    assert fired == [("soon", 0.25), ("middle", 7.5), ("late", 50.0)]


@pytest.mark.virtual_time
async def test_a_deadline_is_reached_without_waiting() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await asyncio.get_running_loop().create_future()
    assert asyncio.get_running_loop().time() == 100


@pytest.mark.virtual_time
async def test_bytes_on_a_real_socket_come_before_a_jump() -> None:
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(1):
            peer = await accepted.get()
            peer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        assert asyncio.get_running_loop().time() == 0
        for end in (writer, peer):
            end.close()
            await end.wait_closed()


@pytest.mark.virtual_time
async def test_a_thread_is_waited_for_when_no_timer_is_set() -> None:
    assert await asyncio.to_thread(lambda: 42) == 42
    assert asyncio.get_running_loop().time() == 0


def test_a_loop_that_waits_for_nothing_says_so() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner, pytest.raises(Stuck):
        runner.run(forever())
