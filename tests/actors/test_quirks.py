"""What h2 does that a long-lived link cannot live with, one by one: each fails without its remedy.

Q1, Q13 and parts of Q14 are in ``test_settings_at_run_time.py``, Q15 in ``test_pushes.py``, Q7 also in
``test_body_rules.py``.
"""

import asyncio

import pytest

from actors.bodies import request
from actors.errors import InvalidHeaders
from actors.server_stream import ServerStream
from actors.settings import Limits
from tests.support import frames
from tests.support.frames import Code, Frame, Setting, Type, data, encode, frame, goaway, headers, rst, window_update
from tests.support.sides import Bench, kinds, linked, linked_to_raw, served, settle

GET = encode(frames.request())
POST = encode(frames.request("POST"))
OK = encode(frames.response(200))


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


async def echo(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


async def hold(stream: ServerStream) -> None:
    await asyncio.Event().wait()


def codes(said: list[Frame], kind: int) -> list[int]:
    return [each.code for each in said if each.type == kind]


def credit(said: list[Frame], stream_id: int) -> int:
    return sum(each.increment for each in said if each.type == Type.WINDOW_UPDATE and each.stream_id == stream_id)


async def test_what_was_advertised_first_is_borne_from_the_start() -> None:
    """Q2: a frame, a header list and a window above h2's defaults, and an opened connection window."""
    limits = Limits(max_frame_size=100_000, max_header_list=200_000, max_header_block=300_000, stream_window=200_000)
    async with served(echo, limits=limits) as peer:
        opened = [each.increment for each in peer.seen if each.type == Type.WINDOW_UPDATE]
        assert opened == [limits.connection_window - 65_535]
        peer.send_headers(1, frames.request("POST", "/", ("x-long", "y" * 90_000)))
        peer.send(data(1, b"x" * 99_000) + data(1, b"y" * 99_000, end_stream=True))
        assert dict(await peer.expect_headers(1))[b":status"] == b"200"


async def test_after_goaway_either_way_streams_go_on_in_the_same_read() -> None:
    """Q3: HEADERS, DATA and PING behind it; a new stream is refused and the compression stays in step."""
    async with served(echo) as peer:
        peer.send_headers(1, frames.request("POST"))
        peer.send(goaway(0) + data(1, b"late") + frames.ping(b"12345678") + data(1, b"", end_stream=True))
        assert await peer.expect_body(1) == b"late"
        assert (await peer.expect(Type.PING)).payload == b"12345678"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(Type.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (frame(Type.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (headers(1, GET, end_headers=False) + goaway(0), Code.PROTOCOL_ERROR),
    ],
    ids=["on a stream", "short", "in a header block"],
)
async def test_a_goaway_that_is_none_ends_the_connection(wrong: bytes, code: Code) -> None:
    """Q3: what h2 does not see is checked all the same."""
    async with Bench(hold) as bench:
        await bench.hears(wrong)
        assert codes(bench.says(), Type.GOAWAY) == [code]


async def test_refused_headers_spoil_no_compression_and_leave_no_stream_open() -> None:
    """Q4: with fields that would have entered the table, before the bad one."""
    async with linked(echo) as link:
        for _ in range(3):
            with pytest.raises(InvalidHeaders):
                await link.request("POST", "/", headers=[("x-new", "value"), ("bad name", "")])
            assert (await link.request("POST", "/", headers=[("x-new", "value")], body=b"b")).body == b"b"


async def test_a_reset_pays_back_what_nobody_will_read() -> None:
    """Q5: four times the connection's window, padding and late frames included, and it is as open as before."""
    async with Bench(hold) as bench:
        window = bench.limits.connection_window
        sent = paid = 0
        for stream_id in range(1, 201, 2):
            late = data(stream_id, b"y" * 15_000)
            await bench.hears(headers(stream_id, POST) + data(stream_id, b"x" * 16_000, padding=99) + late)
            await bench.hears(rst(stream_id))
            sent += 31_100
            paid += credit(bench.says(), 0)
        assert sent > 2 * window
        assert sent - paid < window // 2  # h2 says small amounts together


async def test_the_good_frames_before_a_bad_one_count() -> None:
    """Q6: in one read."""
    async with Bench(answer) as bench:
        await bench.hears(headers(1, GET, end_stream=True) + frame(Type.DATA, 0, 0, b"bad"))
        assert bench.actor.exited is not None
        said = bench.says()
        assert [(each.last_stream_id, each.code) for each in said if each.type == Type.GOAWAY] == [(1, 1)]


@pytest.mark.parametrize(
    "fault",
    [
        headers(1, encode(frames.request("POST", "/", ("content-length", "1")))) + data(1, b"too long"),
        headers(1, encode(frames.request("POST", "/", ("content-length", "9"))), end_stream=True),
        headers(1, encode([*frames.request(), (b"A", b"upper case")])),
        headers(1, encode([(b":method", b"GET")])),
        headers(1, POST) + headers(1, encode([(":status", "200")]), end_stream=True),
    ],
    ids=["long body", "no body", "bad name", "no path", "pseudo-header in trailers"],
)
async def test_a_fault_of_one_stream_costs_that_stream(fault: bytes) -> None:
    """Q7."""
    async with Bench(answer) as bench:
        await bench.hears(fault + headers(3, GET, end_stream=True))
        said = bench.says()
        assert [(each.stream_id, each.code) for each in said if each.type == Type.RST_STREAM] == [(1, 1)]
        assert (Type.HEADERS, 3) in kinds(said)
        assert not codes(said, Type.GOAWAY)


async def test_what_comes_too_late_for_a_stream_raises_nothing_at_anyone() -> None:
    """Q8, Q17: sent, read and ended behind a reset that is in the same read as the request."""
    errors: list[str] = []

    async def handler(stream: ServerStream) -> None:
        try:
            await stream.respond(200, body=b"x" * 100_000)
        except Exception as error:
            errors.append(type(error).__module__)
            raise

    async with served(handler) as peer:
        for stream_id in range(1, 41, 2):
            block = bytes(peer.encoder.encode(frames.request()))
            peer.send(headers(stream_id, block, end_stream=True) + window_update(stream_id, 5) + rst(stream_id))
        await peer.barrier()
        peer.send_headers(99, frames.request("HEAD"), end_stream=True)
        assert dict(await peer.expect_headers(99))[b":status"] == b"200"
        assert set(errors) <= {"actors.errors"}


async def test_finished_streams_are_forgotten() -> None:
    """Q9: h2 would keep 65,536 of them."""
    async with Bench(answer) as bench:
        for first in range(1, 10_000, 100):
            await bench.hears(b"".join(headers(first + more, GET, end_stream=True) for more in range(0, 100, 2)))
            bench.says()
        wire = bench.actor.wire
        assert wire.last_stream_id == 9999
        assert wire.streams == 0
        assert len(wire._h2.streams) < 200
        assert len(wire._h2._closed_streams) <= 4096


async def test_no_more_than_a_hundred_streams_are_opened_before_settings_came() -> None:
    """Q10, L4."""
    bench = Bench()
    asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(150)]
    await settle()
    assert len([each for each in bench.says() if each.type == Type.HEADERS]) == 100
    await bench.actor.stop()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_an_end_is_told_once_and_a_negative_window_is_only_waited_for() -> None:
    """Q11, F2."""
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 10}) as (link, peer), link.stream("POST", "/") as stream:
        await peer.expect_headers(1)
        await stream.send(b"x" * 10)
        peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}))
        await stream.send(b"y")
        await peer.barrier()
        peer.send(window_update(1, 10))
        await peer.barrier()
        assert len([each for each in peer.seen if each.type == Type.DATA]) == 1
        peer.send(window_update(1, 1))
        assert (await peer.expect(Type.DATA, 1, where=lambda each: each.body == b"y")).body == b"y"
        peer.send_headers(1, frames.response(200))
        peer.send(data(1, b"all", end_stream=True))
        assert [await stream.read(9), await stream.read(9), await stream.read()] == [b"all", b"", b""]


async def test_late_frames_of_a_stream_that_was_reset_are_answered_by_nothing() -> None:
    """Q12, S10."""
    async with linked_to_raw() as (link, peer):
        async with link.stream("GET", "/"):
            await peer.expect_headers(1)
        await peer.expect(Type.RST_STREAM, 1)
        peer.send(
            headers(1, encode(frames.response(103))) + headers(1, OK) + data(1, b"late") * 5 + window_update(1, 9)
        )
        peer.send(headers(1, encode([("x", "y")]), end_stream=True) + rst(1))
        await peer.barrier()
        assert len([each for each in peer.seen if each.type == Type.RST_STREAM]) == 1


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (headers(1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (headers(1, b"\xbf"), Code.COMPRESSION_ERROR),
        (rst(1), Code.PROTOCOL_ERROR),
        (window_update(1, 1), Code.PROTOCOL_ERROR),
        (headers(2, GET), Code.PROTOCOL_ERROR),
        (headers(1, POST) + frame(Type.RST_STREAM, 0, 1, b"123"), Code.FRAME_SIZE_ERROR),
    ],
    ids=[
        "endless number",
        "no such entry",
        "reset of an idle stream",
        "window of an idle stream",
        "even id",
        "3 bytes",
    ],
)
async def test_each_violation_has_its_code(wrong: bytes, code: Code) -> None:
    """Q14: GOAWAY first, then the end."""
    async with Bench(hold) as bench:
        await bench.hears(wrong)
        assert codes(bench.says(), Type.GOAWAY) == [code]
        assert bench.socket.closing


@pytest.mark.parametrize("stream_id", [1, 3, 99])
async def test_a_priority_that_depends_on_itself_is_nothing(stream_id: int) -> None:
    """Q16: as a frame, and on HEADERS."""
    async with Bench(answer) as bench:
        depends = stream_id.to_bytes(4) + b"\0"
        await bench.hears(frame(Type.PRIORITY, 0, stream_id, depends))
        await bench.hears(frame(Type.HEADERS, 0x25, stream_id, depends + GET))
        said = bench.says()
        assert (Type.HEADERS, stream_id) in kinds(said)
        assert not codes(said, Type.GOAWAY)
