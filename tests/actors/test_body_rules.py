"""HEAD, 204, 304 and CONNECT, and content-length in both directions (RFC 9110, 6.4.1 and 8.6)."""

import pytest

from actors.errors import ProtocolViolation
from actors.server_stream import ServerStream
from supervisor.link import Link
from tests.support import frames
from tests.support.frames import Code, Fields, RawPeer, Type, data
from tests.support.sides import linked_to_raw, served


async def echo(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


async def answered(link: Link, peer: RawPeer, method: str, head: Fields, body: bytes | None) -> bytes:
    """What the link reads of this answer; ``body`` None ends it with the head."""
    async with link.stream(method, "/") as stream:
        await peer.expect_headers(stream.id)
        peer.send_headers(stream.id, head, end_stream=body is None)
        if body is not None:
            peer.send(data(stream.id, body, end_stream=True))
        return await stream.read()


LENGTH_5 = ("content-length", "5")


@pytest.mark.parametrize(
    ("method", "head", "body"),
    [
        ("HEAD", frames.response(200, LENGTH_5), None),
        ("HEAD", frames.response(200, LENGTH_5), b""),
        ("GET", frames.response(304, LENGTH_5), None),
        ("GET", frames.response(204), None),
        ("GET", frames.response(204), b""),
        ("GET", frames.response(200, LENGTH_5), b"12345"),
        ("GET", frames.response(200, LENGTH_5, LENGTH_5), b"12345"),
        ("GET", frames.response(200, ("content-length", "0")), None),
        ("GET", frames.response(205), None),
    ],
    ids=str,
)
async def test_an_answer_that_keeps_the_rules_is_read(method: str, head: Fields, body: bytes | None) -> None:
    """S15."""
    async with linked_to_raw() as (link, peer):
        assert await answered(link, peer, method, head, body) == (body or b"")


@pytest.mark.parametrize(
    ("method", "head", "body"),
    [
        ("HEAD", frames.response(200), b"body"),
        ("HEAD", frames.response(200, LENGTH_5), b"12345"),
        ("GET", frames.response(204), b"body"),
        ("GET", frames.response(304, LENGTH_5), b"12345"),
        ("GET", frames.response(200, LENGTH_5), b"1234"),
        ("GET", frames.response(200, LENGTH_5), b"123456"),
        ("GET", frames.response(200, LENGTH_5), None),
        ("GET", frames.response(200, LENGTH_5), b""),
        ("GET", frames.response(200, LENGTH_5, ("content-length", "6")), b"12345"),
        ("GET", frames.response(200, ("content-length", "+5")), b"12345"),
        ("GET", frames.response(200, ("content-length", "")), b""),
        ("GET", frames.response(200, ("content-length", "9" * 400)), b""),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_answer_that_lies_costs_only_its_stream(method: str, head: Fields, body: bytes | None) -> None:
    """S15, Q7: the reader gets no part for the whole, and the connection lives."""
    async with linked_to_raw() as (link, peer):
        with pytest.raises(ProtocolViolation):
            await answered(link, peer, method, head, body)
        assert await answered(link, peer, "GET", frames.response(200), b"good") == b"good"


@pytest.mark.parametrize("body", [b"1234", b"123456", b"", None], ids=["short", "long", "empty", "none"])
@pytest.mark.parametrize("trailers", [False, True])
async def test_a_request_that_lies_costs_only_its_stream(body: bytes | None, trailers: bool) -> None:
    """S15, Q7: with END_STREAM on the head, on the data, and on trailers."""
    async with served(echo) as peer:
        peer.send_headers(1, frames.request("POST", "/", LENGTH_5), end_stream=body is None and not trailers)
        if body is not None:
            peer.send(data(1, body, end_stream=not trailers))
        if trailers:
            peer.send_headers(1, [("x-sum", "1")], end_stream=True)
        peer.send_headers(3, frames.request("POST", "/", LENGTH_5))
        peer.send(data(3, b"12345", end_stream=True))
        assert await peer.expect_body(3) == b"12345"
        await peer.barrier()
        ours = [each for each in peer.seen if each.stream_id == 1]
        # One that ended both sides before it was found out has nothing left to reset.
        assert [each.code for each in ours if each.type == Type.RST_STREAM] == [Code.PROTOCOL_ERROR]
        assert not [each for each in ours if each.type == Type.HEADERS]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"])
async def test_a_request_of_any_method_may_have_a_body(method: str) -> None:
    """S15: RFC 9110, 9.3."""
    async with served(echo) as peer:
        peer.send_headers(1, frames.request(method, "/", LENGTH_5))
        peer.send(data(1, b"12345", end_stream=True))
        head = dict(await peer.expect_headers(1))
        assert head[b"content-length"] == b"5"
        if method != "HEAD":
            assert await peer.expect_body(1) == b"12345"


async def test_a_length_that_is_kept_with_padding_is_kept() -> None:
    """S15, F4: padding is no body."""
    async with served(echo) as peer:
        peer.send_headers(1, frames.request("POST", "/", LENGTH_5))
        peer.send(data(1, b"12", padding=200) + data(1, b"", padding=3) + data(1, b"345", end_stream=True, padding=0))
        assert await peer.expect_body(1) == b"12345"
