"""What the connections of one server may take together, and that none of them is harmed by another's fault."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from actors.errors import LimitReached, Misuse
from actors.memory import pool_of
from actors.messages import BytesArrived
from actors.server_stream import ServerStream
from actors.settings import Health, KiB, Limits
from actors.turns import SECONDS_PER_TURN
from actors.wire import Wire
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, RawPeer, Setting, Type
from tests.support.sides import Bench, settle, until

HERE: Final = "127.0.0.1"
ELSEWHERE: Final = "127.0.0.2"
PATIENT: Final = Health(least_ping_interval=0)
"""Takes all PINGs: the peers here use them as barriers."""
GET: Final = frames.encode(frames.request("GET", "/"))
HOLD: Final = frames.encode(frames.request("GET", "/hold"))


class Held:
    """A handler that answers, or with ``/hold`` waits until it may."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.running = 0

    async def __call__(self, stream: ServerStream) -> None:
        self.running += 1
        try:
            if stream.path == "/hold":
                await self.release.wait()
            await stream.respond(200, body=b"fine")
        finally:
            self.running -= 1


@asynccontextmanager
async def client(server: Server, host: str = HERE, values: dict[int, int] | None = None) -> AsyncIterator[RawPeer]:
    """A raw client that comes from ``host``, after its handshake."""
    if server.path is not None:
        peer = await RawPeer.connect_unix(server.path)
    else:
        streams = await asyncio.open_connection(HERE, server.port, local_addr=(host, 0))
        peer = RawPeer(*streams, server=False)
    async with peer:
        await peer.handshake(values)
        yield peer
        peer.abort()


async def refused(peer: RawPeer, stream_id: int) -> None:
    peer.send(frames.headers(stream_id, GET, end_stream=True))
    assert (await peer.expect(Type.RST_STREAM, stream_id)).code == Code.REFUSED_STREAM


async def answered(peer: RawPeer, stream_id: int) -> None:
    peer.send(frames.headers(stream_id, GET, end_stream=True))
    assert await peer.expect_body(stream_id) == b"fine"


# --- connections ------------------------------------------------------------------------------------------------------


async def test_a_connection_too_many_is_closed_at_once_where_that_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """L12: those that are there are served, and so is the next once one has gone."""
    caplog.set_level(logging.INFO, "muxlink.listener")
    limits = Limits(max_connections=2, refuse_connections=True)
    async with Server(Held(), limits=limits) as server, client(server) as one:
        async with client(server) as two:
            for _ in range(3):
                async with await RawPeer.connect(HERE, server.port) as surplus:
                    await surplus.expect_end()
            await answered(one, 1)
            await answered(two, 1)
            stats = server.stats()
            assert (stats.connections_open, stats.connections_accepted, stats.connections_refused) == (2, 2, 3)
            assert stats.refusals == {"max_connections": 3}
        await until(lambda: server.stats().connections_open == 1)
        async with client(server) as next_one:
            await answered(next_one, 1)
    closed = [record.getMessage() for record in caplog.records if "was closed" in record.getMessage()]
    assert len(closed) == 3
    assert "there are 2 already (Limits.max_connections)" in closed[0]


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_one_handler_too_many_is_refused_on_whichever_connection_it_comes() -> None:
    """L12: the stream is refused, both connections live, and a place is free when a handler has ended."""
    held = Held()
    async with Server(held, limits=Limits(max_handlers=2)) as server, client(server) as one, client(server) as two:
        one.send(frames.headers(1, HOLD, end_stream=True))
        two.send(frames.headers(1, HOLD, end_stream=True))
        await until(lambda: held.running == 2)
        await refused(one, 3)
        await refused(two, 3)
        stats = server.stats()
        assert (stats.handlers, stats.streams_refused, stats.refusals) == (2, 2, {"max_handlers": 2})
        held.release.set()
        for peer in (one, two):
            assert await peer.expect_body(1) == b"fine"
        await until(lambda: server.stats().handlers == 0)
        await answered(one, 5)
        await answered(two, 5)


async def test_handlers_of_one_address_are_limited_without_harm_to_another() -> None:
    """L12: both connections of the one share its places."""
    held, limits = Held(), Limits(max_handlers_per_peer=1)
    async with (
        Server(held, limits=limits) as server,
        client(server) as one,
        client(server) as two,
        client(server, ELSEWHERE) as stranger,
    ):
        one.send(frames.headers(1, HOLD, end_stream=True))
        await until(lambda: held.running == 1)
        await refused(two, 1)
        await answered(stranger, 1)
        assert server.stats().refusals == {"max_handlers_per_peer": 1}
        held.release.set()
        assert await one.expect_body(1) == b"fine"
        await until(lambda: server.stats().handlers == 0)
        await answered(two, 3)


async def test_clients_of_a_unix_socket_have_no_address_to_be_limited_by(tmp_path: Path) -> None:
    """L12: only the limits of the whole server concern them."""
    held = Held()
    limits = Limits(max_handlers_per_peer=1, peer_bytes=1, max_connections_per_peer=1, max_handlers=3)
    async with (
        Server(held, path=str(tmp_path / "s"), limits=limits) as server,
        client(server) as one,
        client(server) as two,
    ):
        for peer in (one, two):
            peer.send(frames.headers(1, HOLD, end_stream=True))
        await until(lambda: held.running == 2)
        await answered(one, 3)
        held.release.set()


@pytest.mark.logs_errors("connection-1 ended without waiting for .*stream-1: cancelled, but not ended")
async def test_a_handler_counts_until_it_has_ended_also_without_its_stream_and_without_its_connection() -> None:
    """L12: neither a reset nor a lost connection makes room for more than may run (CVE-2023-44487)."""
    release, began = asyncio.Event(), asyncio.Event()

    async def stubborn(stream: ServerStream) -> None:
        if stream.path == "/":
            await stream.respond(200, body=b"fine")
            return
        began.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    limits = Limits(max_handlers=1, max_handlers_per_peer=1, shutdown_timeout=0.05)
    async with Server(stubborn, limits=limits) as server:
        async with client(server) as one:
            one.send(frames.headers(1, HOLD, end_stream=True))
            await began.wait()
            one.send(frames.rst(1))
            await refused(one, 3)
            assert server.stats().streams_open == 0
        await until(lambda: server.stats().connections_open == 0)
        async with client(server) as two:
            await refused(two, 1)
            assert server.stats().handlers == 1
            release.set()
            await until(lambda: server.stats().handlers == 0)
            await answered(two, 3)


async def test_a_handler_that_pushes_while_too_many_run_is_told_the_limit() -> None:
    """L12, S12: a pushed stream runs a handler, too."""
    caught: list[LimitReached] = []

    async def pushes(stream: ServerStream) -> None:
        with pytest.raises(LimitReached, match=r"Limits.max_handlers\b") as raised:
            await stream.push("/pushed")
        caught.append(raised.value)
        await stream.respond(200, body=b"fine")

    async with Server(pushes, limits=Limits(max_handlers=1)) as server, client(server) as peer:
        await answered(peer, 1)
        assert len(caught) == 1
        assert server.stats().refusals == {"max_handlers": 1}


async def test_other_limits_of_handlers_hold_at_once() -> None:
    """L12: for the connections that are there; those that run go on."""
    held = Held()
    async with Server(held, limits=Limits()) as server, client(server) as peer:
        peer.send(frames.headers(1, HOLD, end_stream=True))
        await until(lambda: held.running == 1)
        server.change_limits(Limits(max_handlers=1))
        await settle()
        await refused(peer, 3)
        server.change_limits(Limits(max_handlers=2))
        await settle()
        await answered(peer, 5)
        held.release.set()
        assert await peer.expect_body(1) == b"fine"


# --- bytes ------------------------------------------------------------------------------------------------------------


async def test_what_one_address_may_hold_is_shared_by_its_connections_and_nobody_elses() -> None:
    """L11, L12: senders wait, its new streams are refused, a stranger is served, and reading makes room."""
    pool_of.cache_clear()
    whole, sent = bytes(300 * KiB), 0

    async def sends(stream: ServerStream) -> None:
        nonlocal sent
        if stream.path == "/":
            await stream.respond(200, body=b"fine")
            return
        await stream.start_response(200)
        for at in range(0, len(whole), 10 * KiB):
            await stream.send(whole[at : at + 10 * KiB])
            sent += 10 * KiB
        await stream.end()

    bound = 128 * KiB
    async with (
        Server(sends, limits=Limits(peer_bytes=bound), health=PATIENT) as server,
        client(server, values={Setting.INITIAL_WINDOW_SIZE: 0}) as reader,
        client(server) as neighbour,
        client(server, ELSEWHERE) as stranger,
    ):
        reader.send(frames.headers(1, HOLD, end_stream=True))
        await until(lambda: server.stats().bytes_held > 0)
        await reader.barrier()
        assert sent <= bound + 10 * KiB
        assert server.stats().bytes_held <= bound + 10 * KiB
        await refused(neighbour, 1)
        await refused(reader, 3)
        await answered(stranger, 1)
        assert server.stats().refusals == {"peer_bytes": 2}
        reader.send(frames.window_update(0, len(whole)) + frames.window_update(1, len(whole)))
        assert len(await reader.expect_body(1)) == len(whole)
        await answered(neighbour, 3)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_connections=1, max_connections_per_peer=2),
        Limits(max_handlers=1, max_handlers_per_peer=2),
        Limits(peer_bytes=Limits().process_bytes),
    ],
)
async def test_limits_that_cannot_hold_are_misuse_where_they_are_given(limits: Limits) -> None:
    with pytest.raises(Misuse, match="would never hold"):
        Server(Held(), limits=limits)
    async with Server(Held()) as server, client(server) as peer:
        with pytest.raises(Misuse, match="would never hold"):
            server.change_limits(limits)
        await answered(peer, 1)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_many_connections_with_long_bursts_take_half_a_turn_together_in_each_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W7: by a clock of which each look takes 0.05 ms; the only burst has a quarter, the only connection all."""
    looks = itertools.count()
    monkeypatch.setattr("actors.connection.perf_counter", lambda: next(looks) / 20_000)

    async def waits(stream: ServerStream) -> None:
        await asyncio.Event().wait()

    async def round_of_the_loop() -> float:
        began = next(looks)
        await asyncio.sleep(0)
        return (next(looks) - began) / 20_000

    burst = BytesArrived(frames.headers(1, HOLD) + frames.data(1, b"x") * 4_000)
    async with AsyncExitStack() as stack:
        alone = await stack.enter_async_context(Bench(waits))
        alone.actor.tell(burst)
        rounds = [await round_of_the_loop() for _ in range(3)]
        assert max(rounds) == pytest.approx(SECONDS_PER_TURN, rel=0.1)
        others = [await stack.enter_async_context(Bench(waits)) for _ in range(7)]
        alone.actor.tell(BytesArrived(frames.data(1, b"x") * 4_000))
        rounds = [await round_of_the_loop() for _ in range(4)]
        assert max(rounds) == pytest.approx(SECONDS_PER_TURN / 4, rel=0.2)
        for each in others:
            each.actor.tell(burst)
        rounds = [await round_of_the_loop() for _ in range(12)]
        assert rounds[0] < 3 * SECONDS_PER_TURN
        assert max(rounds[4:]) < SECONDS_PER_TURN * 0.8
        assert min(rounds[4:]) > SECONDS_PER_TURN * 0.4


# --- one bad connection -----------------------------------------------------------------------------------------------

CRASH: Final = b"crash me"


class Fragile(Wire):
    """A wire with a fault of its own: some bytes make it raise what nobody expects."""

    def __init__(self, *, client: bool, limits: Limits) -> None:
        super().__init__(client=client, limits=limits)
        take_in = self.take_in

        def fragile(data: bytes) -> None:
            if CRASH in data:
                raise RuntimeError("a fault of the wire")
            take_in(data)

        self.take_in = fragile


@pytest.mark.logs_errors(r"server-\d+/connection-1 crashed .*a fault of the wire")
async def test_a_connection_that_crashes_takes_its_own_streams_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S5, R6: it is told INTERNAL_ERROR and logged once; its handlers end, the others and the listener go on."""
    monkeypatch.setattr("actors.serving.Wire", Fragile)
    held = Held()
    async with Server(held) as server, client(server) as bad, client(server) as good:
        for peer in (bad, good):
            peer.send(frames.headers(1, HOLD, end_stream=True))
        await until(lambda: held.running == 2)
        bad.send(frames.ping(CRASH))
        assert (await bad.expect(Type.GOAWAY)).code == Code.INTERNAL_ERROR
        await bad.expect_end()
        await until(lambda: server.stats().connections_open == 1)
        assert held.running == 1
        await answered(good, 3)
        async with client(server) as late:
            await answered(late, 1)
        held.release.set()
        assert await good.expect_body(1) == b"fine"
        assert server.stats().connections_ended["RuntimeError"] == 1
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_a_peer_that_lies_ends_its_own_connection_and_no_other() -> None:
    """W1, W7: the cause is in the figures, the limit by its name."""
    held = Held()
    async with Server(held) as server, client(server) as good:
        good.send(frames.headers(1, HOLD, end_stream=True))
        async with client(server) as liar:
            liar.send(frames.headers(2, GET, end_stream=True))
            assert (await liar.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR
            await liar.expect_end()
        async with client(server) as flooder:
            flooder.send(frames.headers(1, HOLD) + frames.data(1) * 11)
            assert (await flooder.expect(Type.GOAWAY)).code == Code.ENHANCE_YOUR_CALM
            await flooder.expect_end()
        await until(lambda: server.stats().connections_open == 1)
        stats = server.stats()
        assert stats.connections_ended == {"ProtocolViolation": 2}
        assert stats.refusals == {"max_empty_frames": 1}
        await answered(good, 3)
        held.release.set()
        assert await good.expect_body(1) == b"fine"


@pytest.mark.logs_errors("stream-1 crashed .*a fault of the handler")
async def test_a_handler_that_raises_costs_its_stream_and_no_other() -> None:
    """S5: neither its siblings nor other connections, and its place is free again."""

    async def raises(stream: ServerStream) -> None:
        if stream.path == "/hold":
            raise RuntimeError("a fault of the handler")
        await stream.respond(200, body=b"fine")

    async with Server(raises, limits=Limits(max_handlers=1)) as server, client(server) as one, client(server) as two:
        one.send(frames.headers(1, HOLD, end_stream=True))
        assert (await one.expect(Type.RST_STREAM, 1)).code == Code.INTERNAL_ERROR
        await answered(one, 3)
        await until(lambda: server.stats().handlers == 0)
        await answered(two, 1)
        assert server.stats().connections_ended == {}
