"""Peers that are slow, or say nothing at all: what has a deadline, what has none, and what it may hold meanwhile."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from attrs import evolve

from actors.errors import Closed, ProtocolViolation, TransportLost
from actors.messages import WritePaused, WriteResumed
from actors.server_stream import ServerStream
from actors.settings import KiB, Limits, MiB
from supervisor.server import Server
from tests.attacks.siege import DOWNLOAD, GET, HOLD, POST, READ, besieged, handler
from tests.interop.bodies import resident_bytes
from tests.support import frames
from tests.support.frames import PREFACE, Code, Frame, RawPeer, Setting, Type
from tests.support.sides import Bench, settle, until

DEFAULT: Final = Limits()


def goaways(bench: Bench) -> list[Frame]:
    return [heard for heard in bench.says() if heard.type == Type.GOAWAY]


async def ended_at(bench: Bench, limit: str, at: float, code: int = Code.ENHANCE_YOUR_CALM) -> BaseException:
    """The connection ends at that time with a GOAWAY that names the limit; returns the cause."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(at - 0.1 - loop.time())
    assert bench.actor.exited is None
    assert not goaways(bench)
    exited = await bench.actor.wait()
    assert loop.time() == pytest.approx(at, abs=0.01)
    assert exited.reason is not None
    assert limit in str(exited.reason)
    if isinstance(exited.reason, ProtocolViolation):
        (goaway,) = goaways(bench)
        assert (goaway.code, limit.encode() in goaway.payload) == (code, True)
    return exited.reason


@asynccontextmanager
async def greeted(said: bytes, limits: Limits = DEFAULT) -> AsyncIterator[Bench]:
    """A server's connection that heard only so much, without any handshake."""
    bench = Bench(handler, limits=limits)
    try:
        await bench.hears(said)
        bench.says()
        yield bench
    finally:
        if bench.actor.exited is None:
            await bench.actor.stop()


# --- silence ----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "said", [b"", PREFACE[:10], PREFACE, PREFACE + frames.settings()[:5]],
    ids=["nothing", "half-a-preface", "no-settings", "half-of-settings"],
)  # fmt: skip
async def test_who_says_nothing_in_http_2_is_given_up(said: bytes) -> None:
    """W7"""
    async with greeted(said) as bench:
        await ended_at(bench, "Limits.settings_timeout", 10.0, Code.SETTINGS_TIMEOUT)


@pytest.mark.virtual_time
async def test_bytes_now_and_then_do_not_postpone_the_preface() -> None:
    """W7: a byte a second."""
    async with greeted(b"") as bench:
        for byte in PREFACE[:9]:
            await asyncio.sleep(1)
            await bench.hears(bytes([byte]))
        await ended_at(bench, "Limits.settings_timeout", 10.0, Code.SETTINGS_TIMEOUT)


@pytest.mark.virtual_time
async def test_who_does_not_acknowledge_our_settings_is_given_up() -> None:
    """W7: RFC 9113, 6.5.3."""
    async with greeted(PREFACE + frames.settings()) as bench:
        await ended_at(bench, "Limits.settings_timeout", 10.0, Code.SETTINGS_TIMEOUT)


@pytest.mark.virtual_time
@pytest.mark.parametrize("whole", [frames.ping(), frames.headers(1, POST), frames.window_update(0, 1)])
async def test_a_frame_in_dribbles_has_a_deadline(whole: bytes) -> None:
    """W7: which a byte now and then does not postpone."""
    async with Bench(handler) as bench:
        for byte in whole[:9]:
            await bench.hears(bytes([byte]))
            await asyncio.sleep(3)
        await ended_at(bench, "Limits.frame_timeout", 30.0)


@pytest.mark.virtual_time
async def test_a_header_block_in_pieces_has_a_deadline() -> None:
    """W7: which a piece now and then does not postpone."""
    async with Bench(handler) as bench:
        await bench.hears(frames.headers(1, POST[:1], end_headers=False))
        for byte in POST[1:4]:
            await asyncio.sleep(3)
            await bench.hears(frames.continuation(1, bytes([byte]), end_headers=False))
        await ended_at(bench, "Limits.header_block_timeout", 10.0)


@pytest.mark.virtual_time
async def test_a_dry_run_warns_of_a_late_header_block_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """W7"""
    with caplog.at_level(logging.WARNING, "muxlink"):
        async with Bench(handler, limits=Limits(dry_run=True)) as bench:
            await bench.hears(frames.headers(1, GET[:1], end_stream=True, end_headers=False))
            await asyncio.sleep(100)
            await bench.hears(frames.continuation(1, GET[1:]))
            assert Type.DATA in {heard.type for heard in bench.says()}
    assert len([each for each in caplog.records if "Limits.header_block_timeout" in each.getMessage()]) == 1


@pytest.mark.virtual_time
async def test_an_idle_connection_is_closed_by_goaway() -> None:
    """W7: and a PING now and then keeps it."""
    async with Bench(handler) as bench:
        await asyncio.sleep(600)
        await bench.hears(frames.ping())
        bench.says()
        cause = await ended_at(bench, "Limits.idle_timeout", 1_250.0)
        assert isinstance(cause, Closed)
        (goaway,) = goaways(bench)
        assert (goaway.code, b"Limits.idle_timeout" in goaway.payload) == (Code.NO_ERROR, True)


@pytest.mark.virtual_time
async def test_a_connection_with_a_stream_is_not_idle() -> None:
    """W8: however long its handler takes."""
    async with Bench(handler) as bench:
        await bench.hears(frames.headers(1, HOLD, end_stream=True))
        await asyncio.sleep(86_400)
        assert bench.actor.exited is None


@pytest.mark.virtual_time
async def test_a_body_that_stalls_gets_408_and_the_connection_lives() -> None:
    """W7: 60 s after its last byte."""
    async with Bench(handler) as bench:
        await bench.hears(frames.headers(1, READ))
        await asyncio.sleep(50)
        await bench.hears(frames.data(1, b"x"))
        await asyncio.sleep(59)
        await bench.hears(frames.data(1) + frames.data(1, padding=3))  # nothing that anybody waits for
        assert [heard.type for heard in bench.says()] == []
        await asyncio.sleep(2)
        head, *_ = [heard for heard in bench.says() if heard.type == Type.HEADERS]
        assert bench.fields(head)[0] == (b":status", b"408")
        await bench.hears(frames.headers(3, GET, end_stream=True))
        assert Type.DATA in {heard.type for heard in bench.says()}


# --- slow read --------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_closed_windows_are_waited_for_without_deadline_and_hold_a_bounded_queue() -> None:
    """F6 and W7: the peer's right; send() waits, and what is queued stays within the streams' bounds."""
    limits = Limits(send_buffer=32 * KiB, connection_send_buffer=256 * KiB)
    sent = 0

    async def sends(stream: ServerStream) -> None:
        nonlocal sent
        await stream.start_response(200)
        while True:
            await stream.send(bytes(8 * KiB))
            sent += 8 * KiB

    async with Bench(sends, limits=limits) as bench:
        await bench.hears(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
        for stream_id in range(1, 101, 2):
            await bench.hears(frames.headers(stream_id, GET, end_stream=True))
        await asyncio.sleep(86_400)
        assert bench.actor.exited is None
        assert bench.actor.wire.terms.memory.held <= limits.connection_send_buffer + 50 * 4 * KiB
        assert limits.connection_send_buffer <= sent <= limits.connection_send_buffer + 50 * 12 * KiB
        await bench.hears(b"".join(frames.window_update(stream_id, 32 * KiB) for stream_id in (1, 3, 5)))
        await bench.hears(frames.window_update(0, 64 * KiB))
        assert sum(len(heard.body) for heard in bench.says() if heard.type == Type.DATA) == 96 * KiB


@pytest.mark.virtual_time
async def test_a_socket_that_takes_nothing_ends_at_its_deadline() -> None:
    """F6 and W7: for each bit that it takes it gets the time again."""
    async with Bench(handler) as bench:
        await bench.hears(frames.headers(1, DOWNLOAD, end_stream=True))
        bench.socket.unsent = 1_000
        bench.actor.tell(WritePaused())
        await asyncio.sleep(20)
        bench.socket.unsent = 999
        bench.says()
        cause = await ended_at(bench, "Limits.write_timeout", 60.0)
        assert isinstance(cause, TransportLost)


@pytest.mark.virtual_time
async def test_a_socket_that_takes_all_of_it_is_waited_for_no_more() -> None:
    """F6"""
    async with Bench(handler) as bench:
        bench.socket.unsent = 1_000
        bench.actor.tell(WritePaused())
        await asyncio.sleep(29)
        bench.socket.unsent = 0
        bench.actor.tell(WriteResumed())
        await asyncio.sleep(600)
        assert bench.actor.exited is None


@pytest.mark.bulk
async def test_a_real_socket_whose_peer_reads_nothing_ends_and_the_trace_says_why() -> None:
    """F6 and W7: the same over TCP, with windows that are wide open."""
    async with besieged(Limits(write_timeout=0.3), {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) as siege:
        peer = siege.attacker
        peer.send(frames.window_update(0, 2**31 - 65_536))
        peer.send(b"".join(frames.headers(i, DOWNLOAD, end_stream=True) for i in range(1, 60, 2)))
        async with siege.watched():
            await until(lambda: any("Limits.write_timeout" in each.summary for each in siege.recorder))


@pytest.mark.bulk
async def test_answers_that_nobody_reads_end_the_connection() -> None:
    """W7: 1,000 of them wait behind a body that the peer does not take."""
    limits = Limits()
    async with besieged(limits, {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) as siege:
        peer = siege.attacker
        peer.send(frames.window_update(0, 2**31 - 65_536))
        peer.send(b"".join(frames.headers(i, DOWNLOAD, end_stream=True) for i in range(1, 60, 2)))
        async with siege.watched():
            await until(lambda: any(each.type == "WritePaused" for each in siege.recorder))
            peer.send(frames.ping() * (limits.max_unsent_control_frames + 1))
            await until(lambda: any("max_unsent_control_frames" in each.summary for each in siege.recorder))


# --- dribble ----------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_single_bytes_that_nobody_reads_cost_hardly_more_than_their_bytes() -> None:
    """W7: as objects of their own, 80,000 of them would be 8 MB."""
    async with besieged(Limits()) as siege:
        peer = siege.attacker
        peer.send(frames.headers(1, POST) + frames.headers(3, POST))
        await peer.barrier()
        siege.server.tracer.detach(siege.recorder)  # which would remember each of them
        before = resident_bytes()
        one_each = frames.data(1, b"x") + frames.data(3, b"x")
        async with siege.watched():
            for _ in range(40):
                peer.send(one_each * 1_000)
                await peer.barrier()
        assert resident_bytes() - before < 4 * MiB
        assert Type.GOAWAY not in {heard.type for heard in peer.seen}


async def test_a_handshake_that_does_not_come_leaves_its_place_to_others() -> None:
    """W7: on real sockets, with one place for two clients."""
    limits = evolve(DEFAULT, max_connections=1, settings_timeout=0.2)
    async with Server(handler, limits=limits) as server, await RawPeer.connect("127.0.0.1", server.port) as silent:
        await silent.expect(Type.SETTINGS)
        async with await RawPeer.connect("127.0.0.1", server.port) as waiting:
            await waiting.handshake()
            assert (await silent.expect(Type.GOAWAY)).code == Code.SETTINGS_TIMEOUT
            await settle()
