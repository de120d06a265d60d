"""Expect: 100-continue (RFC 9110, 10.1.1): a body that waits, and a server that asks for it as it reads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from actors.bodies import open_stream, request
from actors.errors import Closed, DeadlineExceeded, StreamReset
from actors.server_stream import ServerStream
from supervisor.link import Link
from tests.support import frames
from tests.support.frames import Code, RawPeer, Type, data, encode, headers, rst
from tests.support.sides import Bench, kinds, linked, linked_to_raw, served, settle

EXPECT = [("expect", "100-continue")]
CONTINUE = headers(1, encode(frames.response(100)))
EARLY_HINTS = headers(1, encode(frames.response(103, ("link", "</a>"))))
OK = headers(1, encode(frames.response(200)), end_stream=True)
ASK = frames.request("POST", "/", ("expect", "100-Continue"))


async def pieces() -> AsyncIterator[bytes]:
    yield b"bo"
    yield b"dy"


def slices() -> Iterator[bytes]:
    yield b"bo"
    yield b"dy"


BODIES: list[Callable[[], Any]] = [lambda: b"body", lambda: bytearray(b"body"), slices, pieces]
KINDS = ["bytes", "bytearray", "iterable", "async iterable"]


def statuses(peer: RawPeer, stream_id: int) -> list[bytes]:
    heard = (each.fields for each in peer.seen if each.type == Type.HEADERS and each.stream_id == stream_id)
    return [fields[0][1] for fields in heard if fields]


# --- a server -------------------------------------------------------------------------------------------------------


async def echo(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


async def test_a_server_says_100_at_the_first_read_only() -> None:
    """S7."""
    reading, release = asyncio.Event(), asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        await release.wait()
        one = await stream.read(3)
        reading.set()
        await stream.respond(200, body=one + await stream.read(1) + await stream.read())

    async with served(handler) as peer:
        peer.send_headers(1, ASK)
        await peer.barrier()
        assert statuses(peer, 1) == []
        release.set()
        assert await peer.expect_headers(1) == [(b":status", b"100")]
        peer.send(data(1, b"one"))
        await reading.wait()
        peer.send(data(1, b"two", end_stream=True))
        assert dict(await peer.expect_headers(1))[b":status"] == b"200"
        assert await peer.expect_body(1) == b"onetwo"
        assert statuses(peer, 1) == [b"100", b"200"]


async def test_iterating_is_reading() -> None:
    """S7."""

    async def handler(stream: ServerStream) -> None:
        await stream.respond(200, body=b"".join([chunk async for chunk in stream]))

    async with served(handler) as peer:
        peer.send_headers(1, ASK)
        assert await peer.expect_headers(1) == [(b":status", b"100")]
        peer.send(data(1, b"body", end_stream=True))
        assert await peer.expect_body(1) == b"body"


async def test_an_informational_response_before_the_read_is_not_the_one_that_is_waited_for() -> None:
    """S7."""

    async def handler(stream: ServerStream) -> None:
        await stream.inform(103)
        await echo(stream)

    async with served(handler) as peer:
        peer.send_headers(1, ASK)
        await peer.expect_headers(1)
        await peer.expect_headers(1)
        assert statuses(peer, 1) == [b"103", b"100"]


async def refuse(stream: ServerStream) -> None:
    await stream.respond(417)


async def begin_and_read(stream: ServerStream) -> None:
    await stream.start_response(200)
    await stream.read()


@pytest.mark.parametrize(
    ("handler", "fields", "body", "expected"),
    [
        (echo, ASK, b"body", [b"200"]),
        (refuse, ASK, b"", [b"417"]),
        (begin_and_read, ASK, b"", [b"200"]),
        (echo, frames.request("POST", "/", ("expect", "something else")), b"", [b"200"]),
    ],
    ids=["the body has come", "nothing is read", "the response has begun", "another expectation"],
)
async def test_a_server_that_need_not_ask_says_no_100(
    handler: Any, fields: frames.Fields, body: bytes, expected: list[bytes]
) -> None:
    """S7."""
    async with served(handler) as peer:
        block = bytes(peer.encoder.encode(fields))
        peer.send(headers(1, block) + (data(1, body) if body else b""))
        await peer.barrier()
        peer.send(data(1, end_stream=True))
        await peer.expect_headers(1)
        await peer.barrier()
        assert statuses(peer, 1) == expected


async def test_a_request_that_ended_with_its_head_gets_no_100() -> None:
    """S7."""
    async with served(echo) as peer:
        peer.send_headers(1, ASK, end_stream=True)
        await peer.expect_headers(1)
        assert statuses(peer, 1) == [b"200"]


async def test_ten_readers_at_once_say_100_once() -> None:
    """S7."""

    async def handler(stream: ServerStream) -> None:
        parts = await asyncio.gather(*(stream.read(1) for _ in range(10)))
        await stream.respond(200, body=b"".join(parts) + await stream.read())

    async with served(handler) as peer:
        peer.send_headers(1, ASK)
        assert await peer.expect_headers(1) == [(b":status", b"100")]
        peer.send(data(1, b"0123456789", end_stream=True))
        await peer.expect_headers(1)
        assert sorted(await peer.expect_body(1)) == sorted(b"0123456789")
        assert statuses(peer, 1) == [b"100", b"200"]


# --- a client -------------------------------------------------------------------------------------------------------


async def asks(link: Link, body: Any, opened: bool, **more: Any) -> tuple[int, tuple[int, ...]]:
    """The status of a POST that expects, and those before it."""
    if not opened:
        whole = await link.request("POST", "/", headers=EXPECT, body=body, **more)
        return whole.status, tuple(each.status for each in whole.informational)
    async with link.stream("POST", "/", headers=EXPECT, body=body, **more) as stream:
        head = await stream.response()
        return head.status, tuple(each.status for each in head.informational)


@pytest.mark.parametrize("opened", [False, True], ids=["request", "stream"])
@pytest.mark.parametrize("body", BODIES, ids=KINDS)
async def test_a_body_of_any_kind_waits_for_100(body: Callable[[], Any], opened: bool) -> None:
    """S7: and its trailers behind it."""
    async with linked_to_raw() as (link, peer), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(asks(link, body(), opened, trailers=[("x-sum", "1")]))
        await peer.expect_headers(1)
        await peer.barrier()
        assert not [each for each in peer.seen if each.type == Type.DATA]
        peer.send(CONTINUE)
        got = b""
        while got != b"body":
            got += (await peer.expect(Type.DATA, 1)).body
        assert await peer.expect_headers(1) == [(b"x-sum", b"1")]
        peer.send(OK)
        assert await asked == (200, (100,))


async def test_a_body_that_is_sent_by_hand_waits_for_100() -> None:
    """S7."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/", headers=EXPECT) as stream:
        await peer.expect_headers(1)
        sending = asyncio.create_task(stream.send(b"body"))
        await peer.barrier()
        assert not sending.done()
        peer.send(CONTINUE)
        await sending
        await stream.send(b"more")
        await stream.end([("x-sum", "1")])
        assert (await peer.expect(Type.DATA, 1)).body + (await peer.expect(Type.DATA, 1)).body == b"bodymore"
        assert await peer.expect_headers(1) == [(b"x-sum", b"1")]


@pytest.mark.parametrize("opened", [False, True], ids=["request", "stream"])
@pytest.mark.parametrize("status", [300, 401, 413, 417, 500])
async def test_a_body_that_is_not_wanted_is_not_sent_and_the_answer_is_delivered(opened: bool, status: int) -> None:
    """S7: the stream is then given up, as nobody waits for the rest of it."""
    async with linked_to_raw() as (link, peer), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(asks(link, b"body", opened))
        await peer.expect_headers(1)
        peer.send(headers(1, encode(frames.response(status)), end_stream=True))
        assert await asked == (status, ())
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.CANCEL
        assert not [each for each in peer.seen if each.type == Type.DATA]


async def test_sending_by_hand_what_is_not_wanted_is_closed_and_the_answer_can_be_read() -> None:
    """S7."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/", headers=EXPECT) as stream:
        await peer.expect_headers(1)
        peer.send(headers(1, encode(frames.response(401))) + data(1, b"who are you?", end_stream=True))
        for _ in range(2):
            with pytest.raises(Closed, match="401"):
                await stream.send(b"body")
        assert (await stream.response()).status == 401
        assert await stream.read() == b"who are you?"


@pytest.mark.parametrize("opened", [False, True], ids=["request", "stream"])
async def test_a_final_answer_that_wants_the_body_gets_it(opened: bool) -> None:
    """S7: 200 without 100 before it."""
    async with linked_to_raw() as (link, peer), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(asks(link, b"body", opened))
        await peer.expect_headers(1)
        peer.send(headers(1, encode(frames.response(200))))
        if not opened:
            assert await peer.expect_body(1) == b"body"
        peer.send(data(1, end_stream=True))
        assert (await asked)[0] == 200


@pytest.mark.virtual_time
async def test_a_server_that_does_not_know_100_gets_the_body_after_a_second() -> None:
    """S7."""
    async with Bench() as bench, asyncio.TaskGroup() as tasks:
        outgoing = bench.outgoing("POST", headers=EXPECT, body=b"body")
        tasks.create_task(request(bench.route, outgoing))
        await asyncio.sleep(0.99)
        assert kinds(bench.says()) == [(Type.HEADERS, 1)]
        await asyncio.sleep(0.02)
        assert kinds(bench.says())[0] == (Type.DATA, 1)
        await bench.hears(OK)


@pytest.mark.virtual_time
async def test_a_time_limit_within_the_wait_ends_it() -> None:
    """S7, S10: no body goes out afterwards."""
    async with Bench() as bench:
        outgoing = bench.outgoing("POST", headers=EXPECT, body=b"body", timeout=0.5)
        with pytest.raises(DeadlineExceeded):
            await request(bench.route, outgoing)
        await asyncio.sleep(5)
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.RST_STREAM, 1)]


@pytest.mark.virtual_time
async def test_a_cancelled_wait_sends_no_body() -> None:
    """S3, S7."""
    async with Bench() as bench:
        outgoing = bench.outgoing("POST", headers=EXPECT, body=b"body")
        asking = asyncio.create_task(request(bench.route, outgoing))
        await settle()
        asking.cancel()
        await asyncio.wait((asking,))
        await asyncio.sleep(5)
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.RST_STREAM, 1)]


async def test_a_reset_within_the_wait_is_raised_at_the_sender() -> None:
    """S2, S7."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/", headers=EXPECT) as stream:
        await peer.expect_headers(1)
        peer.send(rst(1, Code.REFUSED_STREAM))
        with pytest.raises(StreamReset):
            await stream.send(b"body")


@pytest.mark.virtual_time
async def test_another_informational_response_does_not_let_the_body_go() -> None:
    """S7: 103 is no 100."""
    async with Bench() as bench, asyncio.TaskGroup() as tasks:
        tasks.create_task(request(bench.route, bench.outgoing("POST", headers=EXPECT, body=b"body")))
        await settle()
        await bench.hears(EARLY_HINTS)
        said = kinds(bench.says())
        await bench.hears(CONTINUE + OK)
        assert said == [(Type.HEADERS, 1)]
        assert b"".join(each.body for each in bench.says() if each.type == Type.DATA) == b"body"


@pytest.mark.virtual_time
async def test_no_sender_overtakes_one_that_waits() -> None:
    """S7: sent by two tasks at once, nothing goes out before 100, and in order then."""
    async with Bench() as bench, open_stream(bench.route, bench.outgoing("POST", headers=EXPECT, body=None)) as stream:
        sending = [asyncio.create_task(stream.send(part)) for part in (b"one", b"two")]
        await settle()
        early = kinds(bench.says())
        await bench.hears(CONTINUE)
        await asyncio.gather(*sending)
        assert early == [(Type.HEADERS, 1)]
        assert b"".join(each.body for each in bench.says()) == b"onetwo"


@pytest.mark.virtual_time
async def test_a_sender_that_gives_up_does_not_end_the_wait() -> None:
    """S3, S7."""
    async with Bench() as bench, open_stream(bench.route, bench.outgoing("POST", headers=EXPECT, body=None)) as stream:
        one = asyncio.create_task(stream.send(b"one"))
        await settle()
        one.cancel()
        two = asyncio.create_task(stream.send(b"two"))
        await settle()
        early = kinds(bench.says())
        await bench.hears(CONTINUE)
        await two
        assert early == [(Type.HEADERS, 1)]


@pytest.mark.parametrize("body", BODIES, ids=KINDS)
async def test_both_sides_of_ours_wait_for_each_other(body: Callable[[], Any]) -> None:
    """S7."""
    async with linked(echo) as link:
        reply = await link.request("POST", "/", headers=EXPECT, body=body())
        assert reply.body == b"body"
        assert [each.status for each in reply.informational] == [100]


async def test_fifty_bodies_wait_at_once() -> None:
    """S7."""
    async with linked(echo) as link:
        bodies = [b"%d" % number for number in range(50)]
        replies = await asyncio.gather(*(link.request("POST", "/", headers=EXPECT, body=body) for body in bodies))
        assert [reply.body for reply in replies] == bodies
