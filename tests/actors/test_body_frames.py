"""Bodies frame by frame, and how much of ours has gone out."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import StreamReset
from actors.pieces import JOINED, SMALL, Pieces
from actors.server_stream import ServerStream
from tests.support.frames import Setting, Type, data, request, response, rst, window_update
from tests.support.sides import linked_to_raw, served, settle

sizes = st.sampled_from((1, 2, SMALL - 1, SMALL, SMALL + 1, JOINED))


@given(st.lists(sizes, max_size=60), st.lists(st.booleans(), max_size=120))
def test_pieces_come_out_as_they_went_in(put: list[int], takes: list[bool]) -> None:
    """S1: also where small ones are kept together, and whenever they are taken."""
    pieces, left, got = Pieces(), iter(put), []
    for taking in takes:
        if taking and pieces.size:
            got.append(len(pieces.take_frame()))
        elif (size := next(left, None)) is not None:
            pieces.add(bytes(size))
    rest = list(left)
    while pieces.size:
        got.append(len(pieces.take_frame()))
    assert got + rest == put


def test_what_a_read_has_left_of_a_frame_is_one_too() -> None:
    pieces = Pieces()
    for piece in (b"a" * 600, b"b", b"c"):
        pieces.add(piece)
    assert pieces.take(100) == b"a" * 100
    assert [pieces.take_frame() for _ in range(3)] == [b"a" * 500, b"b", b"c"]


def test_the_sizes_of_small_frames_cost_two_bytes_each() -> None:
    """W7: CVE-2019-9511."""
    pieces = Pieces()
    for _ in range(100_000):
        pieces.add(b"x")
    assert sum(each.sizes.itemsize * len(each.sizes) for each in pieces._queue if hasattr(each, "sizes")) <= 200_000
    assert b"".join(pieces.take_frame() for _ in range(100_000)) == b"x" * 100_000


async def test_a_stream_gives_one_frame_at_a_time_and_none_that_is_empty() -> None:
    frames: list[bytes] = []

    async def read(stream: ServerStream) -> None:
        await stream.respond(200)
        while frame := await stream.read_frame():
            frames.append(frame)
        assert await stream.read_frame() == b""

    async with served(read) as peer:
        peer.send_headers(1, request("POST"))
        peer.send(data(1, b"one") + data(1, b"") + data(1, b"two") + data(1, b"x" * 9000, end_stream=True))
        await peer.expect(Type.HEADERS, 1)
        await peer.barrier()
        await settle()
    assert frames == [b"one", b"two", b"x" * 9000]


async def test_what_has_gone_out_is_known_to_the_byte() -> None:
    """F1."""
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 3}) as (link, peer), link.stream("POST", "/") as stream:
        await stream.send(b"12345678")
        await stream.until_gone(3)
        waiting = asyncio.create_task(stream.until_gone(8))
        await peer.barrier()
        assert (stream.gone, waiting.done()) == (3, False)
        peer.send(window_update(1, 4))
        await stream.until_gone(7)
        peer.send(rst(1))
        with pytest.raises(StreamReset):
            await waiting
        assert stream.gone == 7


async def test_what_goes_out_after_our_end_is_told_too() -> None:
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 3}) as (link, peer), link.stream("POST", "/") as stream:
        await stream.send(b"12345678")
        waiting = asyncio.create_task(stream.until_gone(8))
        await settle()
        await stream.end()
        await peer.barrier()
        assert not waiting.done()
        peer.send(window_update(1, 100))
        assert await peer.expect_body(1) == b"12345678"
        await waiting
        peer.send_headers(1, response(), end_stream=True)
        assert await stream.wait() is None


async def test_who_asks_too_late_whether_a_stream_is_over_is_told_at_once() -> None:
    async with linked_to_raw() as (link, peer), link.stream("GET", "/") as stream:
        over = asyncio.Event()
        peer.send_headers(1, response())
        peer.send(data(1, b"rest", end_stream=True))
        assert await stream.wait() is None
        assert (stream.is_over, stream.unread) == (True, 4)
        stream.when_over(over.set)
        await over.wait()
        assert await stream.read() == b"rest"
