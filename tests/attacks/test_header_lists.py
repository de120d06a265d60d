"""Header lists that are too much, encoded or decoded: a stream's fault where HPACK's state allows it, else the end."""

import asyncio
import logging
from typing import Final

import pytest
from hpack import Decoder
from hpack.hpack import encode_integer

from actors.settings import KiB, Limits
from tests.attacks.siege import GET, HOLD, besieged
from tests.support import frames
from tests.support.frames import Code, RawPeer, Setting, Type
from tests.support.sides import served

PLAIN: Final = b"\x82\x86\x84\x01\x04test"
"""A GET that leaves the dynamic table as it is."""
NAME: Final = b"\x01x"
REFERENCE: Final = b"\xbe"
"""The newest entry of the dynamic table, in one byte."""


def bomb(references: int) -> bytes:
    """An entry of 3,900 bytes for the dynamic table, and so many references to it."""
    return PLAIN + b"\x40" + NAME + bytes(encode_integer(3_900, 7)) + b"a" * 3_900 + REFERENCE * references


def block(stream_id: int, encoded: bytes) -> bytes:
    """A header block in as few frames as hold it."""
    pieces = [encoded[at : at + 16_384] for at in range(0, len(encoded), 16_384)]
    said = frames.headers(stream_id, pieces[0], end_stream=True, end_headers=len(pieces) == 1)
    for at, piece in enumerate(pieces[1:], 2):
        said += frames.continuation(stream_id, piece, end_headers=at == len(pieces))
    return said


async def refused(peer: RawPeer, stream_id: int) -> None:
    fields = await peer.expect_headers(stream_id)
    assert fields[0] == (b":status", b"431")


async def test_a_decoded_list_that_is_too_long_is_431_and_hpacks_state_survives() -> None:
    """W7: the next request uses what the bomb put into the table."""
    async with besieged(Limits()) as siege:
        peer = siege.attacker
        peer.send(block(1, bomb(20)))
        await refused(peer, 1)
        peer.send(block(3, PLAIN + REFERENCE))
        assert await peer.expect_body(3) == b"fine"
        assert Type.GOAWAY not in {heard.type for heard in peer.seen}


async def test_a_decoded_list_that_is_far_too_long_ends_the_connection() -> None:
    """W7: 12,000 references are 47 MB; nobody decodes them."""
    async with besieged(Limits()) as siege, siege.watched():
        siege.attacker.send(block(1, bomb(12_000)))
        await siege.ends("Limits.max_header_list")


async def test_a_request_with_101_headers_is_431() -> None:
    """W7: and one with a hundred is served."""
    async with besieged(Limits()) as siege:
        peer = siege.attacker
        for stream_id, more in ((1, 97), (3, 96)):
            peer.send(block(stream_id, GET + b"\0\1a\1b" * more))
        await refused(peer, 1)
        assert await peer.expect_body(3) == b"fine"


async def test_a_refused_list_on_an_open_stream_costs_that_stream_only() -> None:
    """W7: the body that follows is for nobody, and its credit comes back."""
    async with besieged(Limits(max_headers=8)) as siege:
        peer = siege.attacker
        peer.send(frames.headers(1, HOLD + b"\0\1a\1b" * 9) + frames.data(1, bytes(16_000), end_stream=True))
        await refused(peer, 1)
        peer.send(frames.headers(3, GET, end_stream=True))
        assert await peer.expect_body(3) == b"fine"


async def test_as_much_as_the_limits_say_is_served() -> None:
    """W8: eight CONTINUATION frames, and 32 KiB in all."""
    async with besieged(Limits()) as siege:
        peer = siege.attacker
        large = GET + b"\0\1a" + bytes(encode_integer(20_000, 7)) + b"a" * 20_000
        peer.send(block(1, large))
        assert await peer.expect_body(1) == b"fine"
        pieces = [bytes([byte]) for byte in GET[:8]]
        peer.send(frames.headers(3, pieces[0], end_stream=True, end_headers=False))
        for piece in pieces[1:]:
            peer.send(frames.continuation(3, piece, end_headers=False))
        peer.send(frames.continuation(3, GET[8:]))
        assert await peer.expect_body(3) == b"fine"


async def test_an_integer_without_end_in_a_header_block_costs_nobody_time() -> None:
    """W7: its bytes would make a number of 200,000 bits."""
    async with besieged(Limits()) as siege, siege.watched():
        siege.attacker.send(block(1, GET + b"\xff" * 32_000))
        await siege.ends("on stream 1", Code.COMPRESSION_ERROR)


async def test_our_encoder_keeps_no_more_than_its_own_bound() -> None:
    """W7: the peer lets it have a table of 1 MiB; whoever decodes with 4,096 bytes understands it still."""
    async with besieged(Limits(), {Setting.HEADER_TABLE_SIZE: 1 << 20}) as siege:
        peer = siege.attacker
        peer.decoder.header_table_size = peer.decoder.max_allowed_table_size = 4_096
        for stream_id in range(1, 400, 2):
            peer.send(frames.headers(stream_id, frames.encode(frames.request("GET", f"/{stream_id}")), end_stream=True))
            await peer.expect_headers(stream_id)
        assert peer.decoder.header_table_size <= 4_096


async def test_a_peer_that_takes_no_headers_makes_no_log_of_its_requests(caplog: pytest.LogCaptureFixture) -> None:
    """W7: what it does not take is its own fault, and no traceback for each."""
    with caplog.at_level(logging.ERROR, "muxlink"):
        async with besieged(Limits(), {Setting.MAX_HEADER_LIST_SIZE: 0}) as siege:
            for stream_id in range(1, 21, 2):
                siege.attacker.send(frames.headers(stream_id, GET, end_stream=True))
            await siege.attacker.expect(Type.RST_STREAM, 19)
    assert not caplog.records


async def test_an_overlong_frame_ends_the_connection_at_its_header() -> None:
    """W7: before any of its payload has come."""
    async with besieged(Limits()) as siege, siege.watched():
        for_nobody = frames.frame(Type.DATA, 0, 1, length=16_385)
        siege.attacker.send(frames.headers(1, HOLD) + for_nobody)
        await siege.ends("16385 bytes", Code.FRAME_SIZE_ERROR)


async def test_as_many_handlers_as_twice_the_streams_run_and_no_more() -> None:
    """W7: those whose streams were reset count until they have cleaned up."""
    running, most = 0, 0

    async def stubborn(stream: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await leave.wait()
            raise
        finally:
            running -= 1

    leave = asyncio.Event()
    limits = Limits(max_streams=5, shutdown_timeout=5.0)
    async with served(stubborn, limits=limits) as peer:
        for first in (1, 11, 21):
            for stream_id in range(first, first + 10, 2):
                peer.send(frames.headers(stream_id, HOLD, end_stream=True))
            await peer.barrier()
            for stream_id in range(first, first + 10, 2):
                peer.send(frames.rst(stream_id))
        await peer.barrier()
        refusals = [heard.stream_id for heard in peer.seen if heard.type == Type.RST_STREAM]
        assert (most, refusals) == (10, [21, 23, 25, 27, 29])
        leave.set()


def test_the_bomb_is_one() -> None:
    """These tests' own: what it decodes to is what they say."""
    assert len(bomb(20)) < 4 * KiB
    assert len(list(Decoder(max_header_list_size=100 * KiB).decode(bomb(20)))) == 4 + 1 + 20
