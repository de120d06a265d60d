"""The last piece of a body: END_STREAM goes out with it."""

import pytest

from actors.errors import Misuse
from actors.server_stream import ServerStream
from supervisor.link import Link
from supervisor.server import Server
from tests.support.frames import Flag, Frame, RawPeer, Type, request
from tests.support.sides import linked_to_raw


async def in_pieces(stream: ServerStream) -> None:
    await stream.start_response(200, {"content-length": "4"} if stream.path == "/short" else {})
    await stream.send(b"one")
    await stream.send(b"two", end=True)


def shapes(frames: list[Frame]) -> list[tuple[bytes, bool]]:
    return [(frame.payload, frame.has(Flag.END_STREAM)) for frame in frames if frame.type == Type.DATA]


async def test_the_last_piece_of_a_response_ends_it_without_a_frame_more() -> None:
    async with Server(in_pieces) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        peer.send_headers(1, request(), end_stream=True)
        assert await peer.expect_body(1) == b"onetwo"
        assert shapes(peer.seen) == [(b"one", False), (b"two", True)]


async def test_the_last_piece_of_a_request_ends_it_and_nothing_can_follow() -> None:
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        await stream.send(b"all", end=True)
        assert await peer.expect_body(1) == b"all"
        assert shapes(peer.seen) == [(b"all", True)]
        with pytest.raises(Misuse, match="has ended"):
            await stream.send(b"more")


async def test_a_last_piece_of_nothing_ends_the_stream_too() -> None:
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        await stream.send(b"", end=True)
        assert await peer.expect_body(1) == b""


@pytest.mark.bulk
async def test_a_last_piece_that_has_to_wait_for_room_ends_the_stream_at_its_end() -> None:
    async def long(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(bytes(3_000_000), end=True)

    async with Server(long) as server, Link(server.url) as link:
        assert len((await link.request("GET", "/")).body) == 3_000_000


@pytest.mark.logs_errors("content-length says 4, and 6 bytes were sent")
async def test_a_last_piece_that_is_not_as_long_as_was_said_is_misuse() -> None:
    async with Server(in_pieces) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        peer.send_headers(1, request("GET", "/short"), end_stream=True)
        await peer.expect(Type.RST_STREAM, 1)


async def test_the_last_piece_for_head_is_left_out_and_ends_the_response() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(b"body", end=True)

    async with Server(handler) as server, Link(server.url) as link:
        assert (await link.request("HEAD", "/")).body == b""
