"""CONNECT, plain and extended (RFC 9113, 8.5; RFC 8441): tunnels within a stream."""

import asyncio

import pytest

from actors.errors import InvalidHeaders, Misuse, ProtocolViolation
from actors.server_stream import ServerStream
from tests.support import frames
from tests.support.frames import Code, Fields, Setting, Type, data
from tests.support.sides import linked, linked_to_raw, served

EXTENDED: dict[int, int] = {Setting.ENABLE_CONNECT_PROTOCOL: 1}


def tunnel(protocol: str = "websocket") -> Fields:
    return [*frames.request("CONNECT", "/chat"), (b":protocol", protocol.encode())]


async def upper(stream: ServerStream) -> None:
    """A tunnel that shouts."""
    await stream.start_response(200, [("x-protocol", stream.protocol or "none"), ("x-path", stream.path)])
    async for chunk in stream:
        await stream.send(chunk.upper())


async def test_a_server_says_that_it_takes_extended_connect() -> None:
    """S11."""
    async with served(upper) as peer:
        assert peer.seen[0].settings[Setting.ENABLE_CONNECT_PROTOCOL] == 1


async def test_bytes_flow_both_ways_through_an_extended_connect() -> None:
    """S11: both sides are ours."""
    async with linked(upper) as link, link.stream("CONNECT", "/chat", protocol="websocket") as stream:
        head = await stream.response()
        assert (head.status, head.headers["x-protocol"], head.headers["x-path"]) == (200, "websocket", "/chat")
        for word in (b"one", b"two"):
            await stream.send(word)
            assert await stream.read(3) == word.upper()
        await stream.end()
        assert await stream.read() == b""


async def test_an_extended_connect_says_its_protocol_scheme_and_path() -> None:
    """S11: RFC 8441, 4."""
    async with linked_to_raw(EXTENDED) as (link, peer):  # noqa: SIM117  (the block inside ends before the one around it)
        async with link.stream("CONNECT", "/chat", protocol="websocket", authority="chat.test") as stream:
            assert dict(await peer.expect_headers(1)) == {
                b":method": b"CONNECT", b":protocol": b"websocket", b":scheme": b"http", b":path": b"/chat",
                b":authority": b"chat.test",
            }  # fmt: skip
            peer.send_headers(1, frames.response(200))
            assert (await stream.response()).status == 200


async def test_without_the_servers_word_an_extended_connect_is_misuse_and_nothing_is_sent() -> None:
    """S11, Q13: and the connection is as good as before."""
    async with linked_to_raw() as (link, peer):
        for _ in range(3):
            with pytest.raises(Misuse, match="ENABLE_CONNECT_PROTOCOL"):
                async with link.stream("CONNECT", "/chat", protocol="websocket"):
                    pytest.fail("it was opened")
        async with asyncio.TaskGroup() as tasks:
            request = tasks.create_task(link.request("GET", "/"))
            await peer.expect_headers(1)
            peer.send_headers(1, frames.response(204), end_stream=True)
            assert (await request).status == 204
        assert [each.type for each in peer.seen if each.stream_id] == [Type.HEADERS]


async def test_a_server_may_take_extended_connect_later() -> None:
    """S11: from its SETTINGS on."""
    async with linked_to_raw() as (link, peer):
        peer.send(frames.settings(EXTENDED))
        await peer.barrier()
        async with link.stream("CONNECT", "/chat", protocol="websocket"):
            assert dict(await peer.expect_headers(1))[b":protocol"] == b"websocket"


async def test_a_server_that_takes_its_word_back_ends_the_connection() -> None:
    """S11: RFC 8441, 3."""
    async with linked_to_raw(EXTENDED) as (_, peer):
        peer.send(frames.settings({Setting.ENABLE_CONNECT_PROTOCOL: 0}))
        assert (await peer.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR
        await peer.expect_end()


@pytest.mark.parametrize("before", [{}, EXTENDED])
async def test_a_word_that_is_neither_yes_nor_no_ends_the_connection(before: dict[int, int]) -> None:
    """S11: RFC 8441, 3."""
    async with linked_to_raw(before) as (_, peer):
        peer.send(frames.settings({Setting.ENABLE_CONNECT_PROTOCOL: 2}))
        assert (await peer.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR


async def test_a_protocol_is_for_connect_only_and_must_be_a_token() -> None:
    """S11, W2."""
    async with linked(upper) as link:
        for method, protocol in (("GET", "websocket"), ("CONNECT", "web socket"), ("CONNECT", "")):
            with pytest.raises(InvalidHeaders):
                async with link.stream(method, "/chat", protocol=protocol):
                    pytest.fail("it was opened")
        async with link.stream("CONNECT", "/chat", protocol="x") as stream:
            assert (await stream.response()).status == 200


async def test_a_plain_connect_has_neither_path_nor_scheme() -> None:
    """S15: RFC 9113, 8.5."""
    async with linked_to_raw() as (link, peer), link.stream("CONNECT", "/", authority="db.test:5432") as stream:
        assert await peer.expect_headers(1) == [(b":method", b"CONNECT"), (b":authority", b"db.test:5432")]
        peer.send_headers(1, frames.response(200))
        await stream.send(b"hello")
        assert (await peer.expect(Type.DATA, 1)).body == b"hello"
        peer.send(data(1, b"world", end_stream=True))
        assert await stream.read() == b"world"


async def test_a_server_sees_a_plain_connect_without_path_scheme_and_protocol() -> None:
    """S15."""
    seen: list[tuple[str, str, str, str | None]] = []

    async def handler(stream: ServerStream) -> None:
        seen.append((stream.path, stream.scheme, stream.authority, stream.protocol))
        await upper(stream)

    async with served(handler) as peer:
        peer.send_headers(1, [(":method", "CONNECT"), (":authority", "db.test:5432")])
        head = dict(await peer.expect_headers(1))
        assert b"content-length" not in head
        peer.send(data(1, b"hello", end_stream=True))
        assert await peer.expect_body(1) == b"HELLO"
        assert seen == [("", "", "db.test:5432", None)]


@pytest.mark.parametrize(
    "fields", [[(":method", "CONNECT"), (":authority", "a:1")], tunnel()], ids=["plain", "extended"]
)
async def test_a_2xx_to_connect_has_no_length_and_other_statuses_have(fields: Fields) -> None:
    """S15: RFC 9110, 9.3.6."""
    refused: list[BaseException] = []

    async def handler(stream: ServerStream) -> None:
        try:
            await stream.start_response(200, [("content-length", "3")])
        except InvalidHeaders as error:
            refused.append(error)
        await stream.respond(200 if stream.id == 1 else 403, body=b"yes")

    async with served(handler) as peer:
        for stream_id in (1, 3):
            peer.send_headers(stream_id, fields)
            peer.send(data(stream_id, end_stream=True))
        assert b"content-length" not in dict(await peer.expect_headers(1))
        assert dict(await peer.expect_headers(3))[b"content-length"] == b"3"
        assert len(refused) == 2


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":path", b"/")],
        [(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":scheme", b"http")],
        [(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":protocol", b"x")],
        [(b":method", b"CONNECT")],
        [*frames.request("GET", "/"), (b":protocol", b"websocket")],
        [*frames.request("CONNECT", "/"), (b":protocol", b"x"), (b":protocol", b"y")],
    ],
    ids=["path", "scheme", "protocol alone", "no authority", "GET with protocol", "two protocols"],
)
async def test_a_malformed_connect_costs_only_its_stream(fields: Fields) -> None:
    """S11, Q7."""
    async with served(upper) as peer:
        peer.send_headers(1, fields)
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.PROTOCOL_ERROR
        peer.send_headers(3, tunnel())
        assert dict(await peer.expect_headers(3))[b"x-protocol"] == b"websocket"


@pytest.mark.parametrize("length", ["0", "3", "1000"])
async def test_the_length_that_a_2xx_to_connect_says_all_the_same_is_ignored(length: str) -> None:
    """S15: RFC 9110, 9.3.6."""
    async with linked_to_raw() as (link, peer), link.stream("CONNECT", "/", authority="a:1") as stream:
        await peer.expect_headers(1)
        peer.send_headers(1, frames.response(200, ("content-length", length)))
        peer.send(data(1, b"bytes of the tunnel", end_stream=True))
        assert await stream.read() == b"bytes of the tunnel"


async def test_a_tunnel_that_is_refused_has_a_body_like_any_response() -> None:
    """S11."""
    async with linked_to_raw(EXTENDED) as (link, peer):  # noqa: SIM117  (the block inside ends before the one around it)
        async with link.stream("CONNECT", "/chat", protocol="websocket") as stream:
            await peer.expect_headers(1)
            peer.send_headers(1, frames.response(501, ("content-length", "2")))
            peer.send(data(1, b"no", end_stream=True))
            assert (await stream.response()).status == 501
            assert await stream.read() == b"no"


async def test_fifty_tunnels_at_once_keep_their_bytes_apart() -> None:
    """S11."""

    async def through(link_number: int) -> bytes:
        async with link.stream("CONNECT", "/chat", protocol="websocket") as stream:
            for piece in range(5):
                await stream.send(b"a%d-%d " % (link_number, piece))
            await stream.end()
            return await stream.read()

    async with linked(upper) as link:
        got = await asyncio.gather(*(through(number) for number in range(50)))
    assert got == [b"".join(b"A%d-%d " % (number, piece) for piece in range(5)) for number in range(50)]


async def test_whoever_waits_in_a_tunnel_is_told_of_a_server_that_lies() -> None:
    """S11: ProtocolViolation is what the user of a lying server sees, not a hang."""
    async with linked_to_raw(EXTENDED) as (link, peer):
        with pytest.raises(ProtocolViolation):  # noqa: PT012  (what raises is the whole exchange)
            async with link.stream("CONNECT", "/chat", protocol="websocket") as stream:
                await peer.expect_headers(1)
                peer.send(frames.settings({Setting.ENABLE_CONNECT_PROTOCOL: 0}))
                await stream.response()
