"""What has come of a body, in pieces; and bodies in padded frames (RFC 9113, 6.1 and 10.7)."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.pieces import JOINED, SMALL, Pieces
from actors.server_stream import ServerStream
from actors.settings import Limits
from tests.support import frames
from tests.support.frames import Flag, Setting, Type, window_update
from tests.support.sides import linked, linked_to_raw, served

# --- pieces ---------------------------------------------------------------------------------------------------------

sizes = st.sampled_from((1, 2, SMALL - 1, SMALL, SMALL + 1, JOINED - 1, JOINED, JOINED + 1))


@given(st.lists(st.tuples(st.booleans(), sizes), max_size=60))
def test_what_is_put_in_comes_out_whatever_the_pieces(steps: list[tuple[bool, int]]) -> None:
    """S1, F3: nothing lost, doubled or out of order, and never more than was asked for."""
    pieces, put, got = Pieces(), b"", b""
    for adding, size in steps:
        if adding:
            piece = bytes((len(put) + n) % 251 for n in range(size))
            pieces.add(piece)
            put += piece
        elif pieces.size:
            taken = pieces.take(size)
            assert 0 < len(taken) <= size
            assert type(taken) is bytes
            got += taken
        assert pieces.size == len(put) - len(got)
    assert got + pieces.take_all() == put
    assert (pieces.size, pieces.take_all()) == (0, b"")


def test_small_pieces_cost_their_bytes_and_not_an_object_each() -> None:
    """W7: CVE-2019-9511, a megabyte of single bytes that nobody reads."""
    pieces = Pieces()
    for _ in range(1_000_000):
        pieces.add(b"x")
    taken, count = 0, 0
    while pieces.size:
        taken += len(pieces.take(pieces.size - 1 or 1))
        count += 1
    assert taken == 1_000_000
    assert count < 2 * 1_000_000 / JOINED + 5


def test_what_was_taken_does_not_change_with_what_comes() -> None:
    """F3: a joined piece may still grow."""
    pieces = Pieces()
    pieces.add(b"ab")
    pieces.add(b"cd")
    taken = pieces.take(3)
    pieces.add(b"ef")
    assert (taken, pieces.take_all()) in ((b"abc", b"def"), (b"ab", b"cdef"))


# --- padding --------------------------------------------------------------------------------------------------------


async def echo(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


@pytest.mark.parametrize("padding", [1, 9, 255])
@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 70_000])
async def test_bodies_in_padded_frames_arrive_intact_both_ways(padding: int, size: int) -> None:
    """F4: both sides pad, and both sides pay the padding back."""
    body = bytes(range(256)) * (size // 256 + 1)
    async with linked(echo, limits=Limits(padding=padding)) as link:
        for _ in range(3):
            assert (await link.request("POST", "/", body=body[:size])).body == body[:size]


@pytest.mark.parametrize("padding", [1, 255])
async def test_each_data_frame_with_bytes_is_padded_within_the_frame_size(padding: int) -> None:
    """F4: RFC 9113, 4.2 and 6.1."""
    async with served(echo, limits=Limits(padding=padding)) as peer:
        peer.send(window_update(0, 100_000))
        peer.send_headers(1, frames.request("POST"))
        peer.send(window_update(1, 100_000) + frames.data(1, b"x" * 16_000) + frames.data(1, b"y" * 16_000))
        peer.send(frames.data(1, b"z" * 16_000, end_stream=True))
        assert await peer.expect_body(1) == b"x" * 16_000 + b"y" * 16_000 + b"z" * 16_000
        sent = [each for each in peer.seen if each.type == Type.DATA and each.body]
        assert all(each.has(Flag.PADDED) and each.payload[0] == padding for each in sent)
        assert all(len(each.payload) <= 16_384 for each in sent)
        assert all(set(each.payload[len(each.payload) - padding :]) == {0} for each in sent)


@pytest.mark.parametrize("window", [1, 5, 255, 256, 257, 300])
async def test_windows_smaller_than_the_padding_are_kept_and_nothing_stands_still(window: int) -> None:
    """F1, F4: padding counts for the window; where it does not fit, bytes go without."""
    body = bytes(range(256)) * 3
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: window}, limits=Limits(padding=255)) as (link, peer):  # noqa: SIM117  (the block inside ends before the one around it)
        async with asyncio.TaskGroup() as tasks:
            peer.send(window_update(0, 2**20))
            asking = tasks.create_task(link.request("POST", "/", body=body))
            got, credit = b"", window
            while len(got) < len(body):
                each = await peer.expect(Type.DATA, 1)
                assert len(each.payload) <= credit
                got += each.body
                credit -= len(each.payload)
                if not credit or not each.body:
                    peer.send(window_update(1, window))
                    credit += window
                elif credit <= 256:
                    await peer.barrier()
            assert got == body
            peer.send_headers(1, frames.response(204), end_stream=True)
            assert (await asking).status == 204


async def test_padding_of_the_peers_costs_no_window_and_is_never_read() -> None:
    """F4: ten times the window in padding."""
    limits = Limits(stream_window=1000, max_stream_window=1000)
    async with served(echo, limits=limits) as peer:
        peer.send_headers(1, frames.request("POST"))
        for _ in range(40):
            peer.send(frames.data(1, b"x", padding=255))
            await peer.barrier()
        peer.send(frames.data(1, b"", end_stream=True, padding=255))
        assert await peer.expect_body(1) == b"x" * 40
