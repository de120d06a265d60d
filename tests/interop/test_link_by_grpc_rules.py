"""Our client's PINGs, judged by the rules of gRPC's servers: an hour of each way to use a link, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from attrs import define

from actors.settings import Health
from supervisor.link import Link
from tests.support import frames
from tests.support.frames import PREFACE, Code, Flag, Frame, Parser, Type

BURST = 200


@define
class PingPolicy:
    """What gRPC's C core has a client's PINGs cost by default (``ping_abuse_policy.cc``, and its keepalive.md).

    One that comes sooner than 5 minutes after the last, or than 2 hours where no stream is open, is a strike; the third
    strike ends the connection. HEADERS or DATA of the server's forget all that was before.
    """

    strikes: int = 0
    _last: int | None = None

    def sent(self) -> None:
        """HEADERS or DATA went out."""
        self.strikes, self._last = 0, None

    def allows(self, now: float, *, streams: int) -> bool:
        """Whether the connection goes on after a PING that came now."""
        least = 300_000 if streams else 7_200_000
        came = int(now * 1000)  # its clock counts milliseconds
        if self._last is not None and came < self._last + least:
            self.strikes += 1
        self._last = came
        return self.strikes <= 2


class Judge:
    """A raw server that judges PINGs as gRPC's does; a call is answered as it comes, unless its path is ``/wait``."""

    def __init__(self) -> None:
        self.url = ""
        self.policy = PingPolicy()
        self.pings: list[float] = []
        """When they came."""
        self.calls = 0
        self.worst = 0
        """The most strikes at a time."""
        self.ended = 0
        """Connections that were ended for too many PINGs."""
        self._open: set[int] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Judge]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(PREFACE)) == PREFACE
        self._open.clear()
        self.policy = PingPolicy()
        writer.write(frames.settings())
        parser = Parser()
        while chunk := await reader.read(65_536):
            for frame in parser.parse(chunk):
                writer.write(self._answer(frame))
        writer.close()

    def _answer(self, frame: Frame) -> bytes:
        if frame.type == Type.SETTINGS and not frame.has(Flag.ACK):
            return frames.settings(ack=True)
        if frame.type == Type.PING and not frame.has(Flag.ACK):
            return self._judge(frame)
        if frame.type == Type.RST_STREAM:
            self._open.discard(frame.stream_id)
        if frame.type != Type.HEADERS:
            return b""
        if not frame.has(Flag.END_STREAM):  # a stream that waits, as GET is whole in its head
            self._open.add(frame.stream_id)
            return b""
        self.calls += 1
        self.policy.sent()
        return frames.headers(frame.stream_id, frames.encode(frames.response(204)), end_stream=True)

    def _judge(self, ping: Frame) -> bytes:
        now = asyncio.get_running_loop().time()
        self.pings.append(now)
        allowed = self.policy.allows(now, streams=len(self._open))
        self.worst = max(self.worst, self.policy.strikes)
        if allowed:
            return frames.ping(ping.payload, ack=True)
        self.ended += 1
        return frames.goaway(2**31 - 1, Code.ENHANCE_YOUR_CALM, b"too_many_pings")


async def silent(link: Link) -> None:
    """Nobody wants anything."""
    await asyncio.sleep(3600)


async def waiting(link: Link) -> None:
    """One stream is open, and nothing comes of it."""
    async with link.stream("POST", "/wait"):
        await asyncio.sleep(3610)


async def now_and_then(link: Link) -> None:
    """A call after every silence of more than a minute, and more than two."""
    for pause in (61, 119, 121, 299, 301, 599, 1500, 600):
        await asyncio.sleep(pause)
        await link.request("GET", "/")


async def waiting_and_calling(link: Link) -> None:
    """The same, in bursts, while a stream is open."""
    async with link.stream("POST", "/wait"):
        for pause in (30, 61, 299, 301, 310, 599, 100, 1510, 390):
            await asyncio.sleep(pause)
            await asyncio.gather(*[link.request("GET", "/") for _ in range(BURST)])


async def asked_for_its_health(link: Link) -> None:
    """Somebody looks after it every 100 s, and nobody uses it."""
    for _ in range(36):
        await asyncio.sleep(100)
        assert await link.healthy() < 1


async def subscribing(link: Link) -> None:
    """A stream more every 100 s, of which nothing comes."""
    async with AsyncExitStack() as streams:
        for _ in range(36):
            await asyncio.sleep(100)
            await streams.enter_async_context(link.stream("POST", "/wait"))


Life = Callable[[Link], Awaitable[None]]


async def judged(live: Life, health: Health | None = None) -> Judge:
    """What became of a link that lived so."""
    async with Judge().serving() as judge, Link(judge.url, health=health) as link:
        await live(link)
        restarts = link.stats().restarts
    assert (restarts == {}) == (judge.ended == 0), restarts
    return judge


@pytest.mark.bulk
@pytest.mark.virtual_time
async def test_an_hour_of_a_link_has_no_ping_that_grpc_punishes() -> None:
    """H5: the default Health breaks silence in time, and stays within what they allow.

    There is one PING for each five minutes that a stream waits, and one before a call that ends a minute's silence,
    unless the last one came to nothing but its answer.
    """
    lives = (silent, waiting, now_and_then, waiting_and_calling, asked_for_its_health, subscribing)
    judges = await asyncio.gather(*map(judged, lives))

    assert [judge.ended for judge in judges] == [0, 0, 0, 0, 0, 0]
    assert max(judge.worst for judge in judges) <= 1
    assert [len(judge.pings) for judge in judges[:3]] == [0, 12, 8]
    assert 8 <= len(judges[3].pings) <= 14
    assert len(judges[4].pings) == 1
    assert 9 <= len(judges[5].pings) <= 13
    assert [judge.calls for judge in judges[:4]] == [0, 0, 8, 9 * BURST]


@pytest.mark.bulk
@pytest.mark.virtual_time
async def test_grpcs_rules_end_a_link_whose_health_is_made_for_other_servers() -> None:
    """H5: the judge of the test above is a strict one."""
    idle, busy = await asyncio.gather(*[judged(live, Health.fast()) for live in (silent, waiting)])

    assert idle.ended >= 1
    assert busy.ended >= 1
