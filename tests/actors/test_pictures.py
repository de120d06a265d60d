"""What connections and streams look like at one moment: what is dated, who is named, and how much is shown."""

from __future__ import annotations

import asyncio

import pytest

from actors import wire as wires
from actors.bodies import open_stream, request
from actors.errors import Closed
from actors.mailbox import Reply
from actors.messages import Drain, TakePicture, WritePaused, WriteResumed
from actors.pictures import ConnectionPicture, Picture, StreamPicture
from actors.server_stream import ServerStream
from actors.settings import Limits
from tests.support import frames
from tests.support.frames import Setting
from tests.support.sides import Bench, settle

HEAD = frames.encode(frames.request("POST"))
OK = frames.encode(frames.response())


async def picture(bench: Bench) -> ConnectionPicture:
    reply: Reply[Picture] = Reply()
    assert bench.actor.signal(TakePicture(reply))
    taken = await reply.wait()
    assert isinstance(taken, ConnectionPicture)
    return taken


async def picture_of(shown: ConnectionPicture, stream_id: int) -> StreamPicture:
    """What a stream's actor adds, which it does at once."""
    reply: Reply[Picture] = Reply()
    shown.refs[stream_id].signal(TakePicture(reply))
    assert not reply.is_wanted
    taken = await reply.wait()
    assert isinstance(taken, StreamPicture)
    return taken


async def hang(stream: ServerStream) -> None:
    await stream.draining()


@pytest.mark.virtual_time
async def test_requests_above_the_limit_are_shown_in_order_with_the_time_that_each_has_waited() -> None:
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        await asyncio.sleep(1)
        asked = []
        for _ in range(3):
            asked.append(asyncio.ensure_future(request(bench.route, bench.outgoing())))
            await asyncio.sleep(2)
        shown = await picture(bench)
        assert shown.waiting == (("request-2", 4.0), ("request-3", 2.0))
        assert (shown.limit, shown.places, shown.names) == (1, 1, {1: "request-1"})
        await bench.hears(frames.headers(1, OK, end_stream=True))
        await asyncio.sleep(1)
        shown = await picture(bench)
        assert shown.waiting == (("request-3", 3.0),)
        [row] = shown.wire.streams
        assert row.stream_id == 3
        assert row.opened == pytest.approx(1.0), "since it was let in, not since it was asked for"
        for each in asked:
            each.cancel()


@pytest.mark.virtual_time
async def test_bytes_that_nobody_reads_are_dated_from_the_first_and_then_from_the_last_read() -> None:
    async with Bench(hang) as bench:
        await asyncio.sleep(1)
        await bench.hears(frames.headers(1, HEAD))
        await bench.hears(frames.data(1, bytes(600)))
        await asyncio.sleep(2)
        await bench.hears(frames.data(1, bytes(600)))
        shown = await picture(bench)
        [row] = shown.wire.streams
        assert (row.owed, row.kept, row.came) == (1200, 2.0, 0.0)
        assert shown.wire.receive_used == 1200
        actor = await picture_of(shown, 1)
        assert (actor.unread, actor.reading, actor.headed) == (1200, False, True)


@pytest.mark.virtual_time
async def test_a_reader_that_reads_slowly_is_dated_from_its_last_read() -> None:
    async with Bench() as bench:
        await asyncio.sleep(1)
        async with open_stream(bench.route, bench.outgoing(body=None)) as stream:
            await bench.hears(frames.headers(1, OK) + frames.data(1, bytes(600)) + frames.data(1, bytes(600)))
            await asyncio.sleep(5)
            assert len(await stream.read(100)) == 100
            await asyncio.sleep(1)
            [row] = (await picture(bench)).wire.streams
            assert (row.owed, row.kept, row.came) == (1100, 1.0, 6.0)


@pytest.mark.virtual_time
async def test_bytes_that_wait_to_go_out_are_dated_from_the_last_that_went() -> None:
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}))
        await asyncio.sleep(1)
        asked = asyncio.ensure_future(request(bench.route, bench.outgoing("POST", body=bytes(100))))
        await asyncio.sleep(5)
        [row] = (await picture(bench)).wire.streams
        assert (row.queued, row.still, row.window, row.outstanding) == (90, 5.0, 0, 10)
        await bench.hears(frames.window_update(1, 10))
        await asyncio.sleep(1)
        shown = await picture(bench)
        [row] = shown.wire.streams
        assert (row.queued, row.still, row.window, row.outstanding) == (80, 1.0, 0, 10)
        assert shown.wire.send_used == 20, "the connection's share was not given back"
        asked.cancel()


@pytest.mark.virtual_time
async def test_a_full_socket_is_dated_and_measured_until_it_takes_bytes_again() -> None:
    async with Bench() as bench:
        assert (await picture(bench)).socket_full is None
        await asyncio.sleep(1)
        bench.socket.unsent = 70_000
        bench.actor.tell(WritePaused())
        await asyncio.sleep(3)
        shown = await picture(bench)
        assert (shown.socket_full, shown.socket_bytes) == (3.0, 70_000)
        bench.actor.tell(WriteResumed())
        await settle()
        assert (await picture(bench)).socket_full is None


@pytest.mark.virtual_time
async def test_a_drain_is_shown_with_its_cause_its_beginning_and_what_is_left_of_its_time() -> None:
    async with Bench() as bench:
        asked = asyncio.ensure_future(request(bench.route, bench.outgoing()))
        await asyncio.sleep(1)
        bench.actor.tell(Drain(8.0, Closed("enough")))
        await asyncio.sleep(3)
        leave = (await picture(bench)).leave
        assert leave is not None
        assert (leave.since, leave.by_peer, leave.why, leave.left) == (3.0, False, "enough", 5.0)
        asked.cancel()


@pytest.mark.virtual_time
async def test_a_servers_drain_is_dated_before_its_client_has_said_anything() -> None:
    held = asyncio.Event()

    async def hold(stream: ServerStream) -> None:
        await held.wait()
        await stream.respond(200)

    async with Bench(hold) as bench:
        await bench.hears(frames.headers(1, HEAD))
        await asyncio.sleep(1)
        bench.actor.tell(Drain(8.0, Closed("enough")))
        await asyncio.sleep(0.5)
        leave = (await picture(bench)).leave
        assert leave is not None
        assert (leave.since, leave.by_peer, leave.left) == (0.5, False, 7.5)
        held.set()


async def test_what_the_peer_says_with_its_goaway_is_not_repeated() -> None:
    async with Bench() as bench:
        asked = asyncio.ensure_future(request(bench.route, bench.outgoing()))
        await settle()
        await bench.hears(frames.goaway(1, 0, b"secret"))
        leave = (await picture(bench)).leave
        assert leave is not None
        assert (leave.by_peer, leave.why, leave.left) == (True, "NO_ERROR", None)
        asked.cancel()


async def test_bytes_that_a_stream_leaves_behind_keep_its_name() -> None:
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}))
        asked = asyncio.ensure_future(request(bench.route, bench.outgoing("POST", body=bytes(100))))
        await settle()
        # An early answer ends the request; its body still goes out, as it was promised.
        await bench.hears(frames.headers(1, OK, end_stream=True))
        assert (await asked).status == 200
        shown = await picture(bench)
        assert [row.queued for row in shown.wire.streams] == [90]
        assert (shown.names, shown.refs) == ({1: "request-1"}, {})


async def test_of_very_many_streams_those_are_shown_that_hold_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "MOST_SHOWN", 2)
    async with Bench(hang) as bench:
        for number, size in enumerate((5, 70, 1, 60)):
            await bench.hears(frames.headers(2 * number + 1, HEAD) + frames.data(2 * number + 1, bytes(size)))
        shown = (await picture(bench)).wire
        assert sorted(row.owed for row in shown.streams) == [60, 70]
        assert shown.left_out == 2


@pytest.mark.virtual_time
async def test_a_timer_that_rang_late_is_remembered() -> None:
    async with Bench(hang, limits=Limits(idle_timeout=50.0)) as bench:
        await bench.hears(frames.headers(1, HEAD))
        await asyncio.sleep(49)
        bench.actor.deadlines._rings -= 7.0  # as if the loop had slept for so long
        await asyncio.sleep(3)
        late, ago = (await picture(bench)).late
        assert late == pytest.approx(7.0)
        assert ago == pytest.approx(2.0)


async def test_who_waits_for_what_is_told_apart() -> None:
    async with Bench() as bench, open_stream(bench.route, bench.outgoing("POST", body=None)) as stream:
        head = asyncio.ensure_future(stream.response())
        await settle()
        asking = await picture_of(await picture(bench), 1)
        assert (asking.asking, asking.reading, asking.headed) == (True, False, False)
        await bench.hears(frames.headers(1, OK))
        assert (await head).status == 200
        for wait in (stream.read(10), stream.read(), stream.trailers()):
            waiting = asyncio.ensure_future(wait)
            await settle()
            reading = await picture_of(await picture(bench), 1)
            assert (reading.asking, reading.reading, reading.headed) == (False, True, True)
            waiting.cancel()
            await settle()
