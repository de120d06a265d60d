"""The proxy itself: each fault does what its name says, to both sides, and nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from attrs import define, field

from tests.faults.proxy import BOTH, Proxy, Way


@define(eq=False)
class Echo:
    """A server that says back what it hears, and remembers how each connection ended."""

    port: int = 0
    heard: bytearray = field(factory=bytearray)
    ends: list[str] = field(factory=list)
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
                await writer.drain()
            self.ends.append("end")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            writer.close()
            self._tasks.discard(task)

    async def gone(self) -> None:
        """Wait until every connection has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    before = set(os.listdir("/proc/self/fd"))
    async with server, Proxy(echo.port) as proxy:
        yield echo, proxy
    await echo.gone()
    async with asyncio.timeout(2):
        while set(os.listdir("/proc/self/fd")) - before:  # noqa: ASYNC110  (transports close in the next turns)
            await asyncio.sleep(0)


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def said(reader: asyncio.StreamReader, size: int) -> bytes:
    async with asyncio.timeout(5):
        return await reader.readexactly(size)


async def silent(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes for a while, not even an end."""
    try:
        async with asyncio.timeout(0.1):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_what_comes_in_goes_out_on_the_other_side_and_is_counted() -> None:
    async with echoing() as (_, proxy), connected(proxy) as (reader, writer):
        writer.write(b"x" * 300_000)
        assert await said(reader, 300_000) == b"x" * 300_000
        assert (proxy.connections, proxy.open) == (1, 1)
        assert (proxy.passed[Way.UP], proxy.passed[Way.DOWN]) == (300_000, 300_000)


async def test_the_end_of_one_side_is_the_end_of_the_other() -> None:
    async with echoing() as (echo, proxy):
        async with connected(proxy) as (reader, writer):
            writer.write(b"last")
            writer.write_eof()
            assert await said(reader, 4) == b"last"
            assert await reader.read() == b""
        await echo.gone()
        assert echo.ends == ["end"]


async def test_delayed_bytes_come_late_and_none_are_lost() -> None:
    async with echoing() as (_, proxy), connected(proxy) as (reader, writer):
        proxy.delay(0.1)
        began = time.monotonic()
        writer.write(b"late")
        assert await said(reader, 4) == b"late"
        assert time.monotonic() - began >= 0.2  # there and back


async def test_bandwidth_is_bytes_a_second() -> None:
    async with echoing() as (_, proxy), connected(proxy) as (reader, writer):
        proxy.delay(bandwidth=100_000)
        began = time.monotonic()
        writer.write(b"x" * 20_000)
        assert await said(reader, 20_000) == b"x" * 20_000
        assert 0.2 <= time.monotonic() - began < 2


async def test_a_cut_is_an_end_for_both_sides() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as (reader, writer):
        writer.write(b"hello")
        await said(reader, 5)
        proxy.cut()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
            await echo.gone()
        assert echo.ends == ["end"]
        assert proxy.open == 0


async def test_a_reset_is_a_reset_for_both_sides() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as (reader, writer):
        writer.write(b"hello")
        await said(reader, 5)
        proxy.reset()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await echo.gone()
        assert echo.ends == ["reset"]


async def test_truncation_passes_exactly_so_many_bytes_and_then_the_end() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as (reader, writer):
        proxy.truncate(Way.DOWN, 7)
        writer.write(b"hello")
        assert await said(reader, 5) == b"hello"
        writer.write(b"world")
        async with asyncio.timeout(5):
            assert await reader.read() == b"wo"
            await echo.gone()
        assert bytes(echo.heard) == b"helloworld"


@pytest.mark.parametrize(("way", "heard"), [(Way.UP, b"he\x93lo"), (Way.DOWN, b"hello")])
async def test_corruption_turns_over_one_byte_of_one_direction_once(way: Way, heard: bytes) -> None:
    async with echoing() as (echo, proxy), connected(proxy) as (reader, writer):
        proxy.corrupt(way, 2)
        writer.write(b"hello")
        assert await said(reader, 5) == b"he\x93lo"
        assert bytes(echo.heard) == heard
        writer.write(b"again")
        assert await said(reader, 5) == b"again"


@pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,), BOTH])
async def test_what_is_swallowed_never_comes_and_the_connection_stays_until_it_is_healed(ways: tuple[Way, ...]) -> None:
    async with echoing() as (echo, proxy), connected(proxy) as (reader, writer):
        proxy.swallow(*ways)
        writer.write(b"hello")
        assert await silent(reader)
        assert proxy.open == 1
        assert bytes(echo.heard) == (b"" if Way.UP in ways else b"hello")
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_forgotten_connection_is_silent_and_the_next_one_works() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as (reader, writer):
        writer.write(b"one")
        await said(reader, 3)
        proxy.forget()
        writer.write(b"two")
        assert await silent(reader)
        async with connected(proxy) as (again, writing):
            writing.write(b"three")
            assert await said(again, 5) == b"three"
        assert bytes(echo.heard) == b"onethree"


async def test_a_healed_connection_that_lost_nothing_goes_on() -> None:
    async with echoing() as (_, proxy), connected(proxy) as (reader, writer):
        writer.write(b"one")
        await said(reader, 3)
        proxy.swallow()
        proxy.forget()
        proxy.heal()
        writer.write(b"two")
        assert await said(reader, 3) == b"two"


async def test_an_end_is_swallowed_like_everything_else() -> None:
    async with echoing() as (echo, proxy):
        async with connected(proxy) as (reader, writer):
            writer.write(b"one")
            await said(reader, 3)
            proxy.swallow()
        async with connected(proxy) as (
            reader,
            _,
        ):  # the first one has ended by now, and its server has not heard of it
            assert await silent(reader)
        assert echo.ends == []
        assert proxy.open == 2


async def test_a_hanging_proxy_takes_connections_and_says_nothing_until_it_accepts() -> None:
    async with echoing() as (_, proxy):
        proxy.hang()
        async with connected(proxy) as (reader, writer):
            writer.write(b"hello")
            assert await silent(reader)
            assert proxy.connections == 0
            proxy.accept()
            assert await said(reader, 5) == b"hello"


async def test_refused_connections_fail_at_once_and_open_ones_live_on() -> None:
    async with echoing() as (_, proxy), connected(proxy) as (reader, writer):
        writer.write(b"one")
        await said(reader, 3)
        port = proxy.port
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, port)
        writer.write(b"two")
        assert await said(reader, 3) == b"two"
        proxy.accept()
        async with connected(proxy) as (again, writing):
            writing.write(b"three")
            assert await said(again, 5) == b"three"
        assert proxy.port == port


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    async with Proxy(1) as proxy, connected(proxy) as (reader, _):
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert proxy.open == 0
