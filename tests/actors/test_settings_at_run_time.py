"""Limits that change while a connection lives, ours and the peer's."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve

from actors.errors import Closed, InvalidHeaders, Misuse, ProtocolViolation
from actors.mailbox import Reply
from actors.messages import ChangeLimits
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, Flag, Frame, RawPeer, Setting, Type, data, encode, headers, window_update
from tests.support.sides import Bench, linked, linked_to_raw, served, settle

BASE = Limits(stream_window=1000, max_stream_window=1000, max_streams=3)
ACK = frames.settings(ack=True)


async def echo(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


async def hold(stream: ServerStream) -> None:
    await asyncio.Event().wait()


def offers(said: list[Frame]) -> list[dict[int, int]]:
    """The SETTINGS among frames, without acknowledgements."""
    return [each.settings for each in said if each.type == Type.SETTINGS and not each.has(Flag.ACK)]


def ends(said: list[Frame]) -> list[int]:
    return [each.code for each in said if each.type == Type.GOAWAY]


def change(bench: Bench, limits: Limits) -> Reply[None]:
    reply: Reply[None] = Reply()
    bench.actor.tell(ChangeLimits(limits, reply))
    return reply


# --- ours -----------------------------------------------------------------------------------------------------------


async def test_one_settings_frame_is_out_at_a_time_and_the_next_follows_its_ack() -> None:
    """Q1, W4: h2 would take one ack for both."""
    async with Bench(hold, limits=BASE) as bench:
        one = change(bench, evolve(BASE, stream_window=2000, max_stream_window=2000))
        two = change(bench, evolve(BASE, stream_window=3000, max_stream_window=3000))
        await settle()
        assert [each[Setting.INITIAL_WINDOW_SIZE] for each in offers(bench.says())] == [2000]
        assert bench.actor.limits.stream_window == 1000
        await bench.hears(ACK)
        assert [each[Setting.INITIAL_WINDOW_SIZE] for each in offers(bench.says())] == [3000]
        assert bench.actor.limits.stream_window == 2000
        await one.wait()
        await bench.hears(ACK)
        await two.wait()
        assert bench.actor.limits.stream_window == 3000


@pytest.mark.parametrize("acks", [0, 1, 2])
async def test_a_smaller_window_holds_from_its_own_ack_on(acks: int) -> None:
    """Q1, W4: 1000, then 500, then 100, and a body of 600 at each moment."""
    async with Bench(hold, limits=BASE) as bench:
        for size in (500, 100):
            change(bench, evolve(BASE, stream_window=size, max_stream_window=size))
        await bench.hears(ACK * acks)
        await bench.hears(headers(1, encode(frames.request("POST"))) + data(1, b"x" * 450))
        assert [code in (Code.FLOW_CONTROL_ERROR,) for code in ends(bench.says())] == [True] * (acks == 2)


@pytest.mark.parametrize("acks", [0, 1, 2])
async def test_a_smaller_frame_size_holds_from_its_own_ack_on(acks: int) -> None:
    """W4: frames of 20,000 bytes are fine until the peer knows better."""
    limits = Limits(max_frame_size=32_768)
    async with Bench(hold, limits=limits) as bench:
        change(bench, evolve(limits, max_frame_size=24_576))
        change(bench, evolve(limits, max_frame_size=16_384))
        await bench.hears(ACK * acks)
        await bench.hears(headers(1, encode(frames.request("POST"))) + data(1, b"x" * 20_000))
        assert ends(bench.says()) == [Code.FRAME_SIZE_ERROR] * (acks == 2)


async def test_a_larger_frame_size_holds_as_soon_as_it_is_said() -> None:
    """W4: the peer may use it before its ack is here."""
    async with Bench(hold) as bench:
        change(bench, Limits(max_frame_size=32_768))
        await bench.hears(headers(1, encode(frames.request("POST"))) + data(1, b"x" * 20_000))
        assert ends(bench.says()) == []


@pytest.mark.parametrize("acks", [0, 1, 2])
async def test_fewer_streams_are_taken_from_their_own_ack_on(acks: int) -> None:
    """W4, S9: 3, then 2, then 1."""
    async with Bench(hold, limits=BASE) as bench:
        for most in (2, 1):
            change(bench, evolve(BASE, max_streams=most))
        await bench.hears(ACK * acks)
        await bench.hears(b"".join(headers(i, encode(frames.request())) for i in (1, 3, 5)))
        refused = [each.stream_id for each in bench.says() if each.type == Type.RST_STREAM]
        assert refused == [[], [5], [3, 5]][acks]


@pytest.mark.parametrize("acks", [0, 1, 2])
async def test_a_shorter_header_list_is_taken_from_its_own_ack_on(acks: int) -> None:
    """W4: of 6,000 bytes, against 8,000, then 7,000, then 5,000."""
    limits = Limits(max_header_list=8000)
    async with Bench(hold, limits=limits) as bench:
        for most in (7000, 5000):
            change(bench, evolve(limits, max_header_list=most))
        await bench.hears(ACK * acks)
        bench.says()
        await bench.hears(headers(1, encode(frames.request("GET", "/", ("x", "y" * 6000))), end_stream=True))
        answers = [bench.fields(each)[0][1] for each in bench.says() if each.type == Type.HEADERS]
        assert answers == [b"431"] * (acks == 2)


@pytest.mark.virtual_time
async def test_settings_that_are_never_acknowledged_end_the_connection_and_their_waiters() -> None:
    """L7, W7: also those that wait behind the first; the time runs from the sending."""
    async with Bench(hold, limits=Limits(settings_timeout=4)) as bench:
        await asyncio.sleep(100)
        changes = [change(bench, Limits(settings_timeout=4, max_streams=most)) for most in (5, 6)]
        await asyncio.sleep(3.9)
        assert bench.actor.exited is None
        await bench.hears(ACK)
        await changes[0].wait()
        await asyncio.sleep(3.9)
        assert bench.actor.exited is None
        await asyncio.sleep(0.2)
        assert ends(bench.says()) == [Code.SETTINGS_TIMEOUT]
        with pytest.raises(ProtocolViolation, match="settings_timeout"):
            await changes[1].wait()


async def test_an_ack_for_nothing_changes_nothing() -> None:
    """Q1: a peer that says it thrice for each."""
    async with Bench(hold, limits=BASE) as bench:
        await bench.hears(ACK * 3)
        reply = change(bench, evolve(BASE, max_streams=1))
        await settle()
        assert len(offers(bench.says())) == 1
        assert bench.actor.limits.max_streams == 3
        await bench.hears(ACK * 3)
        await reply.wait()
        assert ends(bench.says()) == []


async def test_what_concerns_only_us_holds_at_once() -> None:
    """W4: no SETTINGS, nothing to wait for."""
    async with linked_to_raw() as (link, peer):
        await link.change_limits(evolve(link.limits, send_buffer=1234))
        await peer.barrier()
        assert len(offers(peer.seen)) == 1


async def test_a_links_change_returns_with_the_services_ack() -> None:
    """W4."""
    async with linked_to_raw() as (link, peer):
        changing = asyncio.create_task(link.change_limits(evolve(link.limits, max_frame_size=20_000)))
        offer = await peer.expect(Type.SETTINGS, where=lambda each: not each.has(Flag.ACK))
        assert offer.settings[Setting.MAX_FRAME_SIZE] == 20_000
        await peer.barrier()
        assert not changing.done()
        peer.send(ACK)
        await changing


async def test_fifty_changes_at_once_all_return_and_the_last_holds() -> None:
    """Q1, W4: one at a time on the wire, while requests go on."""
    async with linked(echo) as link:

        async def alter(number: int) -> None:
            await link.change_limits(Limits(stream_window=1000 + number))
            assert (await link.request("POST", "/", body=b"x" * 5000)).body == b"x" * 5000

        await asyncio.gather(*(alter(number) for number in range(50)))
        assert link.limits.stream_window == 1049


async def test_changes_that_are_cancelled_halfway_harm_no_other() -> None:
    """S3, W4."""
    async with linked_to_raw() as (link, peer):
        changing = [asyncio.create_task(link.change_limits(Limits(stream_window=1000 + n))) for n in range(6)]
        await peer.expect(Type.SETTINGS, where=lambda each: not each.has(Flag.ACK))
        for each in changing[::2]:
            each.cancel()
        for _ in range(5):
            peer.send(ACK)
            await peer.expect(Type.SETTINGS, where=lambda each: not each.has(Flag.ACK))
        peer.send(ACK)
        await asyncio.wait(changing)
        assert [each.cancelled() for each in changing] == [True, False] * 3
        assert offers(peer.seen)[-1][Setting.INITIAL_WINDOW_SIZE] == 1005


async def test_a_change_that_the_connections_end_overtakes_says_so() -> None:
    """L7: and one on a link without a connection holds for the next."""
    async with linked_to_raw() as (link, peer):
        changing = asyncio.create_task(link.change_limits(Limits(stream_window=1000)))
        await peer.expect(Type.SETTINGS, where=lambda each: not each.has(Flag.ACK))
        await peer.close()
        with pytest.raises(Exception, match="closed by the peer"):
            await changing
        await link.change_limits(Limits(stream_window=2000))
        assert link.limits.stream_window == 2000


async def test_a_servers_change_reaches_the_connections_that_are_open_and_those_that_come() -> None:
    """W4: and a body of before it goes through whole."""
    async with Server(echo) as server, Link(server.url) as link:
        server.change_limits(Limits(max_streams=2, stream_window=100, max_stream_window=100))
        bodies = await asyncio.gather(*(link.request("POST", "/", body=b"x" * 5000) for _ in range(10)))
        assert {reply.body for reply in bodies} == {b"x" * 5000}
        async with await RawPeer.connect("127.0.0.1", server.port) as peer:
            said = await peer.handshake()
            assert (said[Setting.MAX_CONCURRENT_STREAMS], said[Setting.INITIAL_WINDOW_SIZE]) == (2, 100)


async def test_a_server_may_be_changed_before_and_after_its_time() -> None:
    """W4: in the wrong order, and twice."""
    server = Server(echo)
    server.change_limits(Limits(max_streams=2))
    async with server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        assert (await peer.handshake())[Setting.MAX_CONCURRENT_STREAMS] == 2
    server.change_limits(Limits(max_streams=3))
    server.change_limits(Limits(max_streams=3))


async def test_a_window_that_shrinks_and_grows_under_a_running_upload_loses_nothing() -> None:
    """F2, W4."""
    async with Server(echo) as server, Link(server.url) as link, asyncio.TaskGroup() as tasks:
        body = bytes(range(256)) * 4096
        request = tasks.create_task(link.request("POST", "/", body=body))
        for size in (10, 100_000, 1, 65_535, 400_000):
            server.change_limits(Limits(stream_window=size))
            await link.ping()
        assert (await request).body == body


async def test_a_change_of_the_padding_holds_for_what_is_sent_next() -> None:
    """W4."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        await link.change_limits(evolve(link.limits, padding=9))
        await stream.send(b"body")
        assert (await peer.expect(Type.DATA, 1)).has(Flag.PADDED)


@pytest.mark.parametrize("wrong", [None, 5, {"max_streams": 3}])
async def test_what_is_no_limits_is_misuse(wrong: Any) -> None:
    """W2's manner: nothing happens to the connection."""
    async with linked(echo) as link:
        with pytest.raises(Misuse):
            async with asyncio.timeout(0.5):
                await link.change_limits(wrong)
        assert (await link.request("GET", "/")).status == 200


async def test_a_closed_link_takes_a_change_without_a_connection() -> None:
    """W4: nobody hangs."""
    async with linked(echo) as link:
        await link.close()
        await link.change_limits(Limits())
        with pytest.raises(Closed):
            await link.request("GET", "/")


# --- the peer's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({Setting.ENABLE_PUSH: 2}, Code.PROTOCOL_ERROR),
        ({Setting.INITIAL_WINDOW_SIZE: 2**31}, Code.FLOW_CONTROL_ERROR),
        ({Setting.MAX_FRAME_SIZE: 16_383}, Code.PROTOCOL_ERROR),
        ({Setting.MAX_FRAME_SIZE: 2**24}, Code.PROTOCOL_ERROR),
        ({Setting.ENABLE_CONNECT_PROTOCOL: 2}, Code.PROTOCOL_ERROR),
    ],
    ids=str,
)
@pytest.mark.parametrize("server", [False, True], ids=["client", "server"])
async def test_a_setting_out_of_range_is_an_error_of_the_connection(
    server: bool, values: Mapping[int, int], code: Code
) -> None:
    """Q14: each with its code (RFC 9113, 6.5.2)."""
    async with Bench(hold if server else None) as bench:
        await bench.hears(frames.settings(values))
        assert ends(bench.says()) == [code]


@pytest.mark.parametrize("server", [False, True], ids=["client", "server"])
async def test_only_a_client_may_switch_push_on(server: bool) -> None:
    """Q14: RFC 9113, 6.5.2."""
    async with Bench(hold if server else None) as bench:
        await bench.hears(frames.settings({Setting.ENABLE_PUSH: 1}))
        assert ends(bench.says()) == ([] if server else [Code.PROTOCOL_ERROR])


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frames.frame(Type.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
        (frames.frame(Type.SETTINGS, 0, 0, b"12345"), Code.FRAME_SIZE_ERROR),
        (frames.frame(Type.SETTINGS, Flag.ACK, 0, b"123456"), Code.FRAME_SIZE_ERROR),
    ],
    ids=["on a stream", "five bytes", "an ack with a payload"],
)
async def test_settings_that_are_no_settings_end_the_connection(wrong: bytes, code: Code) -> None:
    """Q14: RFC 9113, 6.5."""
    async with Bench(hold) as bench:
        await bench.hears(wrong)
        assert ends(bench.says()) == [code]


MOODS: list[dict[int, int]] = [
    {Setting.INITIAL_WINDOW_SIZE: 0},
    {Setting.MAX_FRAME_SIZE: 2**24 - 1},
    {Setting.INITIAL_WINDOW_SIZE: 70_000, Setting.HEADER_TABLE_SIZE: 0},
    {Setting.MAX_FRAME_SIZE: 16_384, Setting.MAX_CONCURRENT_STREAMS: 0},
    {Setting.INITIAL_WINDOW_SIZE: 1, Setting.HEADER_TABLE_SIZE: 2**32 - 1},
    {Setting.HEADER_TABLE_SIZE: 0, Setting.MAX_HEADER_LIST_SIZE: 2**32 - 1},
    {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1 - 2_000_000, Setting.MAX_CONCURRENT_STREAMS: 2**32 - 1},
    {Setting.INITIAL_WINDOW_SIZE: 100},
    {0x99: 7, 0xFFFF: 2**32 - 1},
]


@pytest.mark.parametrize("first", range(len(MOODS)))
async def test_a_peer_that_changes_its_mind_at_every_moment_gets_every_byte(first: int) -> None:
    """F2, L2, W3: up, down, below zero, in the middle of a body, between streams; in any of nine orders."""
    body = bytes(range(256)) * 1000
    moods = MOODS[first:] + MOODS[:first]
    async with linked_to_raw() as (link, peer), asyncio.TaskGroup() as tasks:
        peer.send(window_update(0, 2**30))
        requests = [tasks.create_task(link.request("POST", f"/{n}", body=body)) for n in range(3)]
        for mood in moods:
            peer.send(frames.settings(mood))
            await peer.barrier()
        peer.send(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 100, Setting.INITIAL_WINDOW_SIZE: 100_000}))
        for stream_id in (1, 3, 5):
            await peer.expect_headers(stream_id)
            peer.send(window_update(stream_id, 2**30))
            assert await peer.expect_body(stream_id) == body
            peer.send_headers(stream_id, frames.response(200), end_stream=True)
        assert [(await each).status for each in requests] == [200, 200, 200]
        await peer.barrier()
        acks = [each for each in peer.seen if each.type == Type.SETTINGS and each.has(Flag.ACK)]
        assert len(acks) == len(moods) + 1 + 1


async def test_a_limit_of_no_streams_makes_requests_wait_until_it_is_raised() -> None:
    """L2."""
    async with linked_to_raw({Setting.MAX_CONCURRENT_STREAMS: 0}) as (link, peer), asyncio.TaskGroup() as tasks:
        requests = [tasks.create_task(link.request("GET", "/")) for _ in range(2)]
        await peer.barrier()
        assert not [each for each in peer.seen if each.type == Type.HEADERS]
        peer.send(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        for stream_id in (1, 3):
            await peer.expect_headers(stream_id)
            peer.send_headers(stream_id, frames.response(204), end_stream=True)
        assert [(await each).status for each in requests] == [204, 204]


# --- header lists that the peer does not take -----------------------------------------------------------------------


@pytest.mark.parametrize("trailers", [False, True], ids=["head", "trailers"])
@pytest.mark.parametrize("body", [b"", b"body", iter([b"body"])], ids=["empty", "bytes", "iterable"])
async def test_a_request_beyond_the_servers_header_list_raises_and_nothing_is_sent(body: Any, trailers: bool) -> None:
    """Q13: and the connection lives."""
    long = [("x-long", "y" * 300)]
    async with linked_to_raw({Setting.MAX_HEADER_LIST_SIZE: 300}) as (link, peer):
        with pytest.raises(InvalidHeaders, match="300"):
            await link.request("POST", "/", headers=() if trailers else long, body=body, trailers=long * trailers)
        with pytest.raises(InvalidHeaders, match="300"):
            async with link.stream("POST", "/", headers=long):
                pytest.fail("it was opened")
        async with asyncio.TaskGroup() as tasks:
            request = tasks.create_task(link.request("GET", "/"))
            await peer.expect_headers(1)
            peer.send_headers(1, frames.response(204), end_stream=True)
            await request
        assert [each.type for each in peer.seen if each.stream_id] == [Type.HEADERS]


async def test_trailers_that_are_sent_by_hand_are_checked_at_the_call() -> None:
    """Q13: others may be given instead."""
    async with linked_to_raw({Setting.MAX_HEADER_LIST_SIZE: 300}) as (link, peer), link.stream("POST", "/") as stream:
        with pytest.raises(InvalidHeaders, match="300"):
            await stream.end([("x-long", "y" * 300)])
        await stream.end([("x-short", "y")])
        await peer.expect_headers(1)
        assert await peer.expect_headers(1) == [(b"x-short", b"y")]


async def test_a_response_beyond_the_clients_header_list_raises_at_every_call_and_another_can_be_given() -> None:
    """Q13: informational, begun, whole, trailers, pushed."""
    long = [("x-long", "y" * 300)]
    refused: list[str] = []

    async def handler(stream: ServerStream) -> None:
        for name, call in (
            ("inform", lambda: stream.inform(103, long)),
            ("start", lambda: stream.start_response(200, long)),
            ("respond", lambda: stream.respond(200, long)),
            ("trailers", lambda: stream.respond(200, trailers=long)),
            ("push", lambda: stream.push("/", headers=long)),
        ):
            with pytest.raises(InvalidHeaders, match="300"):
                await call()
            refused.append(name)
        await stream.respond(200, body=b"short")

    async with served(handler, {Setting.MAX_HEADER_LIST_SIZE: 300}) as peer:
        for stream_id in (1, 3):
            peer.send_headers(stream_id, frames.request(), end_stream=True)
            assert await peer.expect_body(stream_id) == b"short"
        assert len(refused) == 10
        assert [each.type for each in peer.seen if each.stream_id] == [Type.HEADERS, Type.DATA] * 2


async def test_a_header_list_of_just_the_size_is_sent() -> None:
    """Q13: the bound is the peer's, to the byte."""
    async with linked(echo, limits=Limits(max_header_list=1024)) as link:
        low, high = 0, 1024
        while high - low > 1:
            size = (low + high) // 2
            try:
                await link.request("GET", "/", headers=[("x", "y" * size)])
                low = size
            except InvalidHeaders:
                high = size
        assert (await link.request("GET", "/", headers=[("x", "y" * low)])).status == 200
        with pytest.raises(InvalidHeaders, match="1025 bytes and the peer takes 1024"):
            await link.request("GET", "/", headers=[("x", "y" * high)])


async def test_a_header_list_that_the_peer_shrinks_holds_from_then_on() -> None:
    """Q13."""
    async with linked_to_raw() as (link, peer):
        async with link.stream("POST", "/", headers=[("x", "y" * 500)]):
            await peer.expect_headers(1)
        peer.send(frames.settings({Setting.MAX_HEADER_LIST_SIZE: 300}))
        await peer.barrier()
        with pytest.raises(InvalidHeaders):
            await link.request("POST", "/", headers=[("x", "y" * 500)])
