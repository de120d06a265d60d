"""Our client, calling a server made with Node's ``http2``."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import ErrorCode, GoAway, LinkError, Outcome, ProtocolViolation, StreamReset
from actors.exchange import Response
from supervisor.link import Link
from tests.interop.bodies import big_blocks
from tests.interop.programs import Node
from tests.interop.relay import relay_to
from tests.support.frames import Type


async def test_node_answers_a_request(node: Node) -> None:
    async with node.serving() as peer, Link(peer.url) as link:
        reply = await link.request("GET", "/hello", timeout=10)

    assert (reply.status, reply.body) == (200, b"hello, world")
    assert "date" in reply.headers
    assert list(reply.trailers) == []


async def test_node_echoes_a_body_and_its_trailers(node: Node) -> None:
    """S8 (present trailers): ours arrive there, and Node's arrive here."""
    async with node.serving() as peer, Link(peer.url) as link:
        reply = await link.request("POST", "/echo", body=b"from our link", trailers=[("x-up", "down")], timeout=10)

    assert (reply.status, reply.body) == (200, b"from our link")
    assert reply.trailers["x-up-again"] == "down"


@pytest.mark.bulk
async def test_node_echoes_20_megabytes_while_they_come(node: Node) -> None:
    """F6: both directions at once, in Node's default windows of 64 KiB."""
    blocks = list(big_blocks())[:20]

    async with node.serving() as peer, Link(peer.url) as link, link.stream("POST", "/echo", timeout=60) as stream:

        async def upload() -> None:
            for block in blocks:
                await stream.send(block)
            await stream.end()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upload())
            back = [chunk async for chunk in stream]

    assert b"".join(back) == b"".join(blocks)


async def test_nodes_limit_of_20_is_kept_by_200_requests_at_once(node: Node) -> None:
    """L1: never more than 20 are open, and all are answered; Node answers none before 20 are open."""
    async with (
        node.serving({"maxConcurrentStreams": 20}) as peer,
        relay_to(peer.url) as relay,
        Link(relay.url) as link,
    ):
        replies = await asyncio.gather(*[link.request("GET", f"/together?n={n}", timeout=30) for n in range(200)])

    assert [reply.body for reply in replies] == [str(n).encode() for n in range(200)]
    assert relay.most_open() == 20
    assert len(relay.said("link", Type.HEADERS)) == 200
    assert relay.said("server", Type.RST_STREAM) == []


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.ENHANCE_YOUR_CALM])
async def test_what_a_goaway_of_node_covers_is_answered_and_what_it_does_not_is_unprocessed(
    node: Node, code: ErrorCode
) -> None:
    """G1: last_stream_id is 5, and 1, 3, 5 and 7 are open; 7 may go over the next connection by itself."""
    async with node.serving() as peer, Link(peer.url) as link:
        *covered, above = await asyncio.gather(
            *[link.request("GET", f"/goaway?n={n}&last=5&code={code:d}", timeout=10) for n in range(4)],
            return_exceptions=True,
        )
        later = await link.request("GET", "/goaway?n=later", timeout=10)

    assert [answered(reply) for reply in covered] == [(b"0", "1"), (b"1", "1"), (b"2", "1")]
    if isinstance(above, GoAway):
        assert (above.code, above.outcome) == (code, Outcome.UNPROCESSED)
    else:
        assert answered(above) == (b"3", "2")
    assert answered(later) == (b"later", "2")


def answered(reply: Response | BaseException) -> tuple[bytes, str | None]:
    """The body of a reply, and the number of the connection that it came over."""
    assert isinstance(reply, Response), reply
    assert reply.status == 200
    return reply.body, reply.headers.get("x-session")


async def test_a_session_that_node_closes_answers_what_it_has_begun(node: Node) -> None:
    """G1: ``session.close()`` lets three requests finish; the next goes over a new connection."""
    async with node.serving() as peer, Link(peer.url) as link:
        held = [asyncio.create_task(link.request("GET", f"/hold?n={n}", timeout=10)) for n in range(3)]
        await peer.logged('"held","count":3')
        closing = await link.request("GET", "/close", timeout=10)
        replies = await asyncio.gather(*held)
        later = await link.request("GET", "/hello", timeout=10)

    assert answered(closing) == (b"closing", "1")
    assert [answered(reply) for reply in replies] == [(b"0", "1"), (b"1", "1"), (b"2", "1")]
    assert answered(later) == (b"hello, world", "2")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (ErrorCode.INTERNAL_ERROR, "INTERNAL_ERROR"),
        (ErrorCode.CANCEL, "CANCEL"),
        (ErrorCode.ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM"),
        (0x1234, "0x1234"),
    ],
)
async def test_a_reset_of_node_is_an_error_that_names_its_code(node: Node, code: int, name: str) -> None:
    """S2, X1: it comes before the response; the connection goes on."""
    async with node.serving() as peer, Link(peer.url) as link:
        with pytest.raises(StreamReset, match=name) as caught:
            await link.request("GET", f"/reset?code={code:d}", timeout=10)
        assert answered(await link.request("GET", "/hello", timeout=10)) == (b"hello, world", "1")

    assert (caught.value.code, caught.value.received) == (code, 0)
    assert caught.value.outcome is Outcome.MAYBE_PROCESSED


async def test_a_request_that_node_refuses_is_unprocessed(node: Node) -> None:
    """X1: REFUSED_STREAM says that nothing was done."""
    async with node.serving() as peer, Link(peer.url) as link:
        with pytest.raises(LinkError) as caught:
            await link.request("GET", f"/reset?code={ErrorCode.REFUSED_STREAM:d}", timeout=10)
        assert answered(await link.request("GET", "/hello", timeout=10)) == (b"hello, world", "1")

    assert caught.value.outcome is Outcome.UNPROCESSED


async def test_a_body_that_node_resets_never_looks_whole(node: Node) -> None:
    """S1: the error has the code and the number of bytes that came."""
    async with node.serving() as peer, Link(peer.url) as link:
        with pytest.raises(StreamReset) as caught:
            await link.request("GET", "/reset-late", timeout=10)
        assert answered(await link.request("GET", "/hello", timeout=10)) == (b"hello, world", "1")

    assert (caught.value.code, caught.value.received) == (ErrorCode.INTERNAL_ERROR, 5)
    assert caught.value.outcome is Outcome.MAYBE_PROCESSED


async def test_a_body_that_node_ends_short_of_its_length_never_looks_whole(node: Node) -> None:
    """S1: the fault is this stream's alone; the connection goes on."""
    async with node.serving() as peer, Link(peer.url) as link:
        with pytest.raises(ProtocolViolation, match="content-length says 10 and the body has 5 bytes") as caught:
            await link.request("GET", "/short", timeout=10)
        assert answered(await link.request("GET", "/hello", timeout=10)) == (b"hello, world", "1")

    assert caught.value.outcome is Outcome.MAYBE_PROCESSED


async def test_early_hints_of_node_are_seen_before_the_response(node: Node) -> None:
    """S7: two 103, then 200."""
    async with node.serving() as peer, Link(peer.url) as link:
        reply = await link.request("GET", "/early-hints", timeout=10)

    assert (reply.status, reply.body) == (200, b"hello, world")
    assert [(hint.status, hint.headers["link"]) for hint in reply.informational] == [
        (103, "</style.css>; rel=preload"),
        (103, "</script.js>; rel=preload"),
    ]


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.INTERNAL_ERROR])
@pytest.mark.parametrize("path", ["/destroy", "/destroy-late"], ids=["before the response", "within the body"])
async def test_a_session_that_node_destroys_is_one_typed_error(node: Node, path: str, code: ErrorCode) -> None:
    """L7, X1: whoever waits learns that the request may have been processed, and the next one is answered."""
    async with node.serving() as peer, Link(peer.url) as link:
        with pytest.raises(LinkError) as caught:
            await link.request("GET", f"{path}?code={code:d}", timeout=10)
        later = await link.request("GET", "/hello", timeout=10)

    assert caught.value.outcome is Outcome.MAYBE_PROCESSED
    assert len(str(caught.value).splitlines()) == 1
    assert answered(later) == (b"hello, world", "2")


async def test_leaving_a_stream_of_node_aborts_it_with_cancel_alone(node: Node) -> None:
    """S10, G4: one RST_STREAM for the stream, one GOAWAY for the link, and Node finds no fault with either."""
    async with node.serving() as peer, relay_to(peer.url) as relay:
        async with Link(relay.url) as link:
            async with link.stream("POST", "/echo", timeout=10) as stream:
                await stream.send(b"half of it")
                assert await stream.read(4) == b"half"
            await peer.logged('"aborted"')
            assert (await link.request("GET", "/hello", timeout=10)).status == 200
        await peer.logged('"goaway"')
        goaways, faults = peer.events("goaway"), peer.events("session error")

    assert [frame.code for frame in relay.said("link", Type.RST_STREAM)] == [ErrorCode.CANCEL]
    assert [event["code"] for event in goaways] == [ErrorCode.NO_ERROR]
    assert faults == []
