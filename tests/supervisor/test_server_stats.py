"""The figures of a server: cheap enough to be always on, there at any time, and right."""

import asyncio
from typing import Final

import pytest
from attrs.exceptions import FrozenInstanceError

from actors.bodies import request
from actors.errors import Closed, GoAway, LinkError, PingTimeout, TransportLost
from actors.memory import pool_of
from actors.messages import SendPing
from actors.server_stream import ServerStream
from actors.settings import Health, KiB, Limits
from actors.stats import Quantiles, ending_of
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, RawPeer, Setting, Type
from tests.support.sides import Bench, settle, until

HERE: Final = "127.0.0.1"
PATIENT: Final = Health(least_ping_interval=0)
"""Takes all PINGs: the peers here use them as barriers."""
GET: Final = frames.encode(frames.request("GET", "/"))
FRAME: Final = 9
"""Bytes of a frame's header."""


async def answer(stream: ServerStream) -> None:
    if stream.path == "/hold":
        await stream.draining()
    await stream.respond(200, body=b"four")


async def test_a_server_has_figures_before_it_serves_while_it_does_and_afterwards() -> None:
    """The totals have what the connections did that have ended, and stay when the server is closed."""
    server = Server(answer)
    new = server.stats()
    assert (new.state, new.uptime, new.connections_open, new.connection_stats) == ("new", 0.0, 0, ())
    assert (new.streams_total, new.bytes_received, new.refusals, new.round_trips) == (0, 0, {}, Quantiles())
    async with server:
        assert server.stats().state == "serving"
        for _ in range(3):
            async with await RawPeer.connect(HERE, server.port) as peer:
                await peer.handshake()
                for stream_id in (1, 3):
                    peer.send(frames.headers(stream_id, GET, end_stream=True))
                    assert await peer.expect_body(stream_id) == b"four"
                peer.send(frames.goaway(0))
                await peer.expect_end()
        await until(lambda: server.stats().connections_open == 0)
        busy = server.stats()
        assert (busy.connections_accepted, busy.connections_ended, busy.streams_total) == (3, {"": 3}, 6)
        assert (busy.streams_open, busy.handlers, busy.streams_refused, busy.bytes_held) == (0, 0, 0, 0)
        assert busy.bytes_received > 3 * (len(frames.PREFACE) + 2 * (FRAME + len(GET)))
        assert busy.bytes_sent > 3 * 2 * len(b"four")
    closed = server.stats()
    assert (closed.state, closed.connections_ended, closed.streams_total) == ("closed", {"": 3}, 6)
    assert (closed.bytes_received, closed.bytes_sent) == (busy.bytes_received, busy.bytes_sent)
    assert closed.uptime >= busy.uptime > 0.0


def test_a_server_that_was_served_in_a_loop_that_is_gone_still_tells_its_figures() -> None:
    server = Server(answer)

    async def serve() -> None:
        async with server, await RawPeer.connect(HERE, server.port) as peer:
            await peer.handshake()
            peer.send(frames.headers(1, GET, end_stream=True))
            assert await peer.expect_body(1) == b"four"

    asyncio.run(serve())
    assert (server.stats().state, server.stats().streams_total) == ("closed", 1)


async def test_each_byte_of_the_socket_is_counted_either_way() -> None:
    """A PING is 17 bytes, and so is its answer."""
    async with Server(answer, health=PATIENT) as server, await RawPeer.connect(HERE, server.port) as peer:
        await peer.handshake()
        await peer.barrier(b"a first.")
        before = server.stats()
        await peer.barrier(b"a second")
        after = server.stats()
        assert (after.bytes_received - before.bytes_received, after.bytes_sent - before.bytes_sent) == (17, 17)
        (one,) = after.connection_stats
        assert (one.bytes_received, one.bytes_sent) == (after.bytes_received, after.bytes_sent)
        peer.abort()


async def test_an_open_connection_tells_its_streams_windows_and_queue() -> None:
    """F1: with a stream window of 0 the whole body waits."""
    pool_of.cache_clear()

    async def sends(stream: ServerStream) -> None:
        await stream.respond(200, body=bytes(10 * KiB))

    limits = Limits(max_streams=7)
    async with Server(sends, limits=limits, health=PATIENT) as server, await RawPeer.connect(HERE, server.port) as peer:
        await peer.handshake({Setting.INITIAL_WINDOW_SIZE: 0})
        peer.send(frames.headers(1, GET, end_stream=True) + frames.window_update(0, 1000))
        await peer.expect(Type.HEADERS, 1)
        await peer.barrier()
        stats = server.stats()
        (one,) = stats.connection_stats
        assert (one.state, one.streams_open, one.streams_total, one.max_streams) == ("ready", 1, 1, 7)
        assert one.streams_queued == 0
        assert one.peer.startswith("127.0.0.1:")
        assert one.name.endswith("connection-1")
        assert one.age > 0
        assert (one.bytes_held, stats.bytes_held) == (10 * KiB, 10 * KiB)
        assert (one.send_window, stats.send_window) == (65_535 + 1000, 65_535 + 1000)
        assert (one.receive_window, stats.receive_window) == (limits.connection_window, limits.connection_window)
        assert (stats.connections_by_state, stats.streams_open) == ({"ready": 1}, 1)
        with pytest.raises(FrozenInstanceError):
            one.bytes_held = 0  # type: ignore[misc]
        peer.abort()


async def test_the_state_of_each_connection_is_told() -> None:
    """One that has said nothing yet, and then a drain."""
    server = Server(answer)
    async with (
        server,
        await RawPeer.connect(HERE, server.port) as silent,
        await RawPeer.connect(HERE, server.port) as peer,
    ):
        await peer.handshake()
        peer.send(frames.headers(1, frames.encode(frames.request("GET", "/hold")), end_stream=True))
        await until(lambda: server.stats().handlers == 1)
        assert server.stats().connections_by_state == {"starting": 1, "ready": 1}
        closing = asyncio.create_task(server.close())
        await peer.expect(Type.GOAWAY)
        stats = server.stats()
        assert (stats.state, stats.connections_by_state) == ("draining", {"draining": 2})
        silent.abort()
        peer.send(frames.ping((await peer.expect(Type.PING)).payload, ack=True))
        report = await closing
        assert (report.cut, report.finished) == ((), 1)


async def test_streams_above_the_limit_are_counted_while_their_connection_lives_and_afterwards() -> None:
    """S9: each is refused by its name in the figures, too."""
    hold = frames.encode(frames.request("GET", "/hold"))
    async with Server(answer, limits=Limits(max_streams=1)) as server:
        async with await RawPeer.connect(HERE, server.port) as peer:
            await peer.handshake()
            peer.send(b"".join(frames.headers(stream_id, hold, end_stream=True) for stream_id in (1, 3, 5)))
            for stream_id in (3, 5):
                assert (await peer.expect(Type.RST_STREAM, stream_id)).code == Code.REFUSED_STREAM
            living = server.stats()
            peer.abort()
        await until(lambda: server.stats().connections_open == 0)
        for stats in (living, server.stats()):
            assert (stats.streams_total, stats.streams_refused, stats.refusals) == (3, 2, {"max_streams": 2})


async def test_a_full_process_is_named_as_the_limit_that_refused_a_stream() -> None:
    """L11: by the name of its field."""
    pool_of.cache_clear()

    async def sends(stream: ServerStream) -> None:
        await stream.start_response(200)
        while True:
            await stream.send(bytes(64 * KiB))

    limits = Limits(process_bytes=1024 * KiB)
    async with Server(sends, limits=limits, health=PATIENT) as server, await RawPeer.connect(HERE, server.port) as peer:
        await peer.handshake({Setting.INITIAL_WINDOW_SIZE: 0})
        for stream_id in (1, 3):
            peer.send(frames.headers(stream_id, GET, end_stream=True))
            await peer.expect(Type.HEADERS, stream_id)
        await peer.barrier()
        peer.send(frames.headers(5, GET, end_stream=True))
        assert (await peer.expect(Type.RST_STREAM, 5)).code == Code.REFUSED_STREAM
        assert server.stats().refusals == {"process_bytes": 1}
        peer.abort()


async def test_connections_that_end_with_a_hasty_close_are_in_the_totals_as_well() -> None:
    """G4: one that is cancelled closes at once, without a drain."""

    async def waits(stream: ServerStream) -> None:
        await asyncio.Event().wait()

    async with Server(waits) as server, await RawPeer.connect(HERE, server.port) as peer:
        await peer.handshake()
        peer.send(frames.headers(1, GET, end_stream=True))
        await until(lambda: server.stats().handlers == 1)
        closing = asyncio.create_task(server.close())
        await settle()
        closing.cancel()
        await asyncio.wait([closing])
        stats = server.stats()
        assert (stats.state, stats.connections_open, stats.connections_ended) == ("closed", 0, {"": 1})
        assert (stats.streams_total, stats.handlers) == (1, 0)


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_client_that_has_gone_silent_is_asked_and_then_forgotten_with_its_handlers() -> None:
    """H6: within interval and timeout, and the figures say why."""
    causes: list[LinkError | None] = []

    async def waits(stream: ServerStream) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            causes.append(stream.cause)

    async with (
        Server(waits, health=Health(interval=20, timeout=5)) as server,
        await RawPeer.connect(HERE, server.port) as peer,
    ):
        await peer.handshake()
        peer.send(frames.headers(1, GET, end_stream=True))
        await until(lambda: server.stats().handlers == 1)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(30)
        assert server.stats().connections_ended == {"PingTimeout": 1}
        assert [type(cause) for cause in causes] == [PingTimeout]
        assert asyncio.get_running_loop().time() - began < 31


@pytest.mark.virtual_time
async def test_answers_to_its_pings_are_the_round_trips_of_a_server() -> None:
    """H1: the last ones of the connections that are open, after that of the SETTINGS."""
    async with (
        Server(answer, health=Health(interval=1, timeout=5, while_idle=True)) as server,
        await RawPeer.connect(HERE, server.port) as peer,
    ):
        await peer.handshake()
        await until(lambda: server.stats().round_trips.count == 1)
        for count in (2, 3, 4):
            peer.send(frames.ping((await peer.expect(Type.PING, timeout=60)).payload, ack=True))
            peer.seen.clear()
            await until(lambda: server.stats().round_trips.count == count)  # noqa: B023
        assert server.stats().round_trips.most < 5
        peer.abort()


async def test_a_client_that_pings_too_often_is_counted_among_the_refusals() -> None:
    """HTTP2.md: two strikes, and the third PING that comes too soon ends it."""
    async with Server(answer, health=Health(least_ping_interval=10, max_ping_strikes=2)) as server:
        async with await RawPeer.connect(HERE, server.port) as peer:
            await peer.handshake()
            peer.send(frames.ping() * 4)
            goaway = await peer.expect(Type.GOAWAY)
            assert (goaway.code, goaway.payload[8:]) == (Code.ENHANCE_YOUR_CALM, b"too_many_pings")
            await peer.expect_end()
        await until(lambda: server.stats().connections_open == 0)
        assert server.stats().refusals == {"too_many_pings": 1}


# --- one connection ---------------------------------------------------------------------------------------------------


async def test_a_clients_connection_measures_what_waits_for_the_peers_limit() -> None:
    """L1: three requests, and the server takes one at a time; a round trip is measured, too."""
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(3)]
        await settle()
        bench.actor.tell(SendPing())
        await settle()
        asked = [frame for frame in bench.says() if frame.type == Type.PING]
        before = bench.actor.measure(0.0).round_trips.count
        await bench.hears(frames.ping(asked[0].payload, ack=True))
        stats = bench.actor.measure(asyncio.get_running_loop().time())
        assert (stats.streams_open, stats.streams_queued, stats.streams_total, stats.max_streams) == (1, 2, 1, 1)
        assert stats.round_trips.count == before + 1
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


def test_an_end_in_good_order_has_no_name_and_any_other_its_errors() -> None:
    assert [ending_of(reason) for reason in (None, Closed("closed"), GoAway("bye", code=Code.NO_ERROR))] == [""] * 3
    assert ending_of(GoAway("bye", code=Code.INTERNAL_ERROR)) == "GoAway"
    assert ending_of(TransportLost("lost")) == "TransportLost"
    assert ending_of(TransportLost("was closed by the peer"), idle=True) == ""
    assert ending_of(TransportLost.because("broke", OSError("reset")), idle=True) == "TransportLost"
    assert ending_of(RuntimeError("a fault")) == "RuntimeError"
