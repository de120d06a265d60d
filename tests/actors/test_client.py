"""A client's connection among lying servers: alternatives, header lists, cancelled callers, and what comes unasked."""

import asyncio
from typing import Any

import pytest

from actors.bodies import open_stream, request
from actors.errors import InvalidHeaders, LinkError, Misuse
from actors.server_stream import ServerStream
from supervisor.link import Link
from tests.support import frames
from tests.support.frames import Setting, Type, data, encode, frame, headers, push_promise
from tests.support.sides import Bench, kinds, linked, linked_to_raw, served, settle, until

OTHER = 'h2="alt.test:443"; ma=3600'


async def answer(stream: ServerStream) -> None:
    await stream.respond(204)


def altsvc(stream_id: int, origin: bytes, value: bytes) -> bytes:
    return frame(Type.ALTSVC, 0, stream_id, len(origin).to_bytes(2) + origin + value)


# --- alternatives ---------------------------------------------------------------------------------------------------


async def test_an_alternative_that_a_handler_offers_reaches_the_link() -> None:
    """W3: RFC 7838, 4, for its own resource and for another origin."""

    async def handler(stream: ServerStream) -> None:
        stream.offer_alternative(OTHER, origin="https://other.test")
        stream.offer_alternative('h2=":8443"')
        await stream.respond(204)

    async with linked(handler) as link:
        await link.request("GET", "/")
        assert link.alternatives == {"https://other.test": OTHER, link.endpoints[0].authority: 'h2=":8443"'}


async def test_an_offer_goes_out_on_the_stream_or_for_an_origin_on_the_connection() -> None:
    """W3: RFC 7838, 4."""

    async def handler(stream: ServerStream) -> None:
        stream.offer_alternative("clear")
        stream.offer_alternative("clear", origin="https://o.test")
        await stream.respond(204)

    async with served(handler) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        assert (await peer.expect(Type.ALTSVC, 1)).payload == b"\0\0clear"
        assert (await peer.expect(Type.ALTSVC, 0)).payload == b"\0\x0ehttps://o.testclear"


@pytest.mark.parametrize(
    "said",
    [
        altsvc(0, b"", b"clear"),
        altsvc(1, b"https://o.test", b"clear"),
        altsvc(99, b"", b"clear"),
        altsvc(2, b"", b"clear"),
    ],
    ids=["no origin", "an origin on a stream", "an idle stream", "a server's stream"],
)
async def test_an_offer_that_stands_nowhere_is_ignored(said: bytes) -> None:
    """W3: RFC 7838, 4."""
    async with linked_to_raw() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        peer.send(said)
        await peer.barrier()
        assert link.alternatives == {}
        peer.send_headers(1, frames.response(204), end_stream=True)
        assert (await stream.response()).status == 204


async def test_a_client_that_offers_alternatives_to_a_server_is_ignored() -> None:
    """W3: RFC 7838, 4."""
    async with served(answer) as peer:
        peer.send(altsvc(0, b"https://o.test", b"clear"))
        peer.send_headers(1, frames.request(), end_stream=True)
        peer.send(altsvc(1, b"", b"clear"))
        assert dict(await peer.expect_headers(1))[b":status"] == b"204"


@pytest.mark.parametrize("wrong", [("a\nb", ""), ("a", "https://o.test\r\n"), ("a\0", "")])
async def test_an_offer_that_no_header_could_say_raises_at_the_call(wrong: tuple[str, str]) -> None:
    """W2."""
    refused: list[BaseException] = []

    async def handler(stream: ServerStream) -> None:
        try:
            stream.offer_alternative(wrong[0], origin=wrong[1])
        except InvalidHeaders as error:
            refused.append(error)
        await stream.respond(204)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204
    assert len(refused) == 1


@pytest.mark.parametrize("origin", ["", "https://" + "o" * 70_000], ids=["value", "origin"])
async def test_an_offer_that_is_too_long_for_a_frame_raises_at_the_call(origin: str) -> None:
    """W2: and costs no connection."""
    refused: list[BaseException] = []

    async def handler(stream: ServerStream) -> None:
        try:
            stream.offer_alternative("x" * 20_000, origin=origin)
        except LinkError as error:
            refused.append(error)
        await stream.respond(204)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204
    assert len(refused) == 1


async def test_a_server_that_offers_alternatives_for_ever_fills_no_memory() -> None:
    """W7: 5,000 origins."""
    async with linked_to_raw() as (link, peer):
        peer.send(b"".join(altsvc(0, b"https://%d.test" % n, b"clear") for n in range(5000)))
        await peer.barrier()
        assert 0 < len(link.alternatives) <= 1024


# --- strangers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("push", [2, "yes", None])
async def test_a_push_that_is_neither_yes_nor_no_is_misuse(push: Any) -> None:
    """S12: at the call, before anything is sent."""
    with pytest.raises(Misuse):
        Link("http://127.0.0.1:1", push=push)


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("push", [False, True])
async def test_a_stream_that_is_left_at_any_moment_leaves_nothing_behind(turns: int, push: bool) -> None:
    """S3, S10: at most one RST_STREAM, and no child."""
    async with Bench(push=push) as bench:

        async def use() -> None:
            async with open_stream(bench.route, bench.outgoing("POST", body=None)) as stream:
                await stream.send(b"one")
                await stream.end([("x", "y")])
                await stream.response()
                await stream.read()

        using = asyncio.create_task(use())
        await settle(turns)
        using.cancel()
        await asyncio.wait((using,))
        await settle()
        resets = [each for each in kinds(bench.says()) if each[0] == Type.RST_STREAM]
        assert len(resets) <= 1
        assert not bench.actor.children
        detail = bench.actor.detail()
        assert (detail["open_streams"], detail["queued"], detail["waiting_for_a_slot"]) == (0, 0, 0)


async def test_fifty_streams_that_are_promised_pushed_and_cut_leave_nothing_behind() -> None:
    """S12, S10: promised, some answered, all left at once."""
    async with Bench(push=True) as bench:

        async def use() -> None:
            async with open_stream(bench.route, bench.outgoing()) as stream:
                await stream.response()

        using = [asyncio.create_task(use()) for _ in range(50)]
        await settle()
        promises = b"".join(push_promise(2 * n + 1, 2 * n + 2, encode(frames.request())) for n in range(50))
        pushed = b"".join(headers(2 * n + 2, encode(frames.response(200)), end_stream=bool(n % 2)) for n in range(50))
        await bench.hears(promises + pushed)
        for each in using:
            each.cancel()
        await asyncio.wait(using)
        await settle()
        assert not bench.actor.children
        resets = [each[1] for each in kinds(bench.says()) if each[0] == Type.RST_STREAM]
        assert sorted(resets) == sorted([*range(1, 100, 2), *range(2, 100, 4)])


async def test_a_server_that_says_everything_unasked_is_borne() -> None:
    """W3: and a request in the middle of it is answered."""
    odd = frame(0x42, 0xFF, 1, b"?" * 99) + frames.settings({0x42: 1}) + frame(Type.PRIORITY, 0, 1, b"\0\0\0\1\xff")
    async with linked_to_raw() as (link, peer), asyncio.TaskGroup() as tasks:
        peer.send(odd)
        asking = tasks.create_task(link.request("GET", "/"))
        await peer.expect_headers(1)
        peer.send(odd + frames.ping(ack=True))
        peer.send_headers(1, frames.response(200))
        peer.send(odd + data(1, b"body", padding=7, end_stream=True) + odd)
        assert (await asking).body == b"body"


@pytest.mark.parametrize("values", [{Setting.MAX_CONCURRENT_STREAMS: 0}, {Setting.INITIAL_WINDOW_SIZE: 0}], ids=str)
async def test_a_link_that_is_closed_while_its_server_allows_nothing_ends_those_who_wait(
    values: dict[int, int],
) -> None:
    """L7, G4."""
    async with linked_to_raw(values) as (link, peer):
        asking = [asyncio.create_task(link.request("POST", "/", body=b"body")) for _ in range(5)]
        await peer.barrier()
        await link.close()
        for each in asking:
            with pytest.raises(LinkError):
                await each


async def test_a_request_that_is_told_of_its_end_twice_ends_once() -> None:
    """L7, S10: RST_STREAM, GOAWAY and the end of the socket in one read."""
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        await bench.hears(frames.rst(1, 2) + frames.goaway(0, 2))
        with pytest.raises(LinkError, match="INTERNAL_ERROR"):
            await asking
        await until(lambda: bench.actor.exited is not None)
        assert not [each for each in bench.says() if each.type == Type.RST_STREAM]
