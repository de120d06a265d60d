"""Going away in good order, both ways: the drain in two steps, GOAWAY from the peer, and ids that run out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.bodies import open_stream, request
from actors.errors import Closed, GoAway, LinkError, Misuse, Outcome
from actors.messages import Drain, StreamsCut
from actors.server_stream import ServerStream
from actors.wire import MAX_STREAM_ID
from supervisor.link import Link
from supervisor.server import DrainReport, Server
from tests.support import frames
from tests.support.frames import Code, Flag, Frame, RawListener, RawPeer, Type, data, encode, goaway, headers, ping
from tests.support.sides import Bench, connections_of, linked, linked_to_raw, settle

GET = encode(frames.request())


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


async def hold(stream: ServerStream) -> None:
    await asyncio.Event().wait()


async def subscription(stream: ServerStream) -> None:
    """A long stream that ends well when the server drains."""
    await stream.start_response(200)
    await stream.send(b"begin ")
    await stream.draining()
    await stream.send(b"end")


def goaways(said: list[Frame]) -> list[tuple[int, int]]:
    return [(each.last_stream_id, each.code) for each in said if each.type == Type.GOAWAY]


@asynccontextmanager
async def draining(handler: Any, *, seconds: float = 5.0) -> AsyncIterator[tuple[RawPeer, asyncio.Task[DrainReport]]]:
    """A raw client with stream 1 open, and the server that drains; it has not answered the PING."""
    async with Server(handler) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        peer.send(headers(1, encode(frames.request("POST"))))
        await peer.barrier()
        closing = asyncio.create_task(server.close(seconds))
        yield peer, closing
        await closing


def drain(bench: Bench, seconds: float = 5.0, debug: bytes = b"") -> None:
    bench.actor.tell(Drain(seconds, Closed("the server was closed"), debug))


# --- a server -------------------------------------------------------------------------------------------------------


async def test_a_drain_says_goaway_twice_and_serves_what_raced_in() -> None:
    """G3: GOAWAY(2^31-1), PING, its ack, GOAWAY(last); then nothing new is taken."""

    async def handler(stream: ServerStream) -> None:
        await stream.read()
        await answer(stream)

    async with draining(handler) as (peer, closing):
        first = await peer.expect(Type.GOAWAY)
        assert (first.last_stream_id, first.code) == (2**31 - 1, Code.NO_ERROR)
        asked = await peer.expect(Type.PING, where=lambda each: not each.has(Flag.ACK))
        peer.send(headers(3, GET, end_stream=True) + ping(asked.payload, ack=True))
        second = await peer.expect(Type.GOAWAY)
        assert (second.last_stream_id, second.code) == (3, Code.NO_ERROR)
        assert await peer.expect_body(3) == b"answer"
        peer.send(headers(5, GET, end_stream=True))
        assert (await peer.expect(Type.RST_STREAM, 5)).code == Code.REFUSED_STREAM
        assert not closing.done()
        peer.send(data(1, end_stream=True))
        assert await peer.expect_body(1) == b"answer"
        await peer.expect_end()
        assert (await closing).cut == ()
        assert len(goaways(peer.seen)) == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "answered", [b"", ping(b"whatever", ack=True), ping(b"question")], ids=["none", "other", "own"]
)
async def test_without_the_pings_answer_the_second_goaway_comes_after_a_second(answered: bytes) -> None:
    """G3."""
    async with Bench(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        drain(bench)
        await bench.hears(answered)
        await asyncio.sleep(0.98)
        assert goaways(bench.says()) == [(2**31 - 1, 0)]
        await asyncio.sleep(0.04)
        assert goaways(bench.says()) == [(1, 0)]


@pytest.mark.virtual_time
async def test_what_is_cut_at_the_deadline_is_named() -> None:
    """G3: with the last word that it was served, and then the connection ends."""
    async with Bench(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True) + headers(3, GET, end_stream=True))
        drain(bench, 3.0)
        await asyncio.sleep(2.9)
        assert bench.actor.exited is None
        await asyncio.sleep(0.2)
        cut = [each for each in bench.news if isinstance(each, StreamsCut)]
        assert [each.streams for each in cut] == [("connection/stream-1", "connection/stream-3")]
        assert bench.actor.exited is not None


async def test_the_report_names_the_streams_of_all_connections() -> None:
    """G3: and a second report is the same."""
    async with Server(hold) as server:
        async with Link(server.url) as one, Link(server.url) as two:
            tasks = [asyncio.create_task(link.request("GET", "/")) for link in (one, two, two)]
            await settle(200)
            reports = await asyncio.gather(server.close(0.05), server.close(0.05))
            for each in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(each, LinkError)
                assert each.outcome is Outcome.MAYBE_PROCESSED
        assert reports[0] == reports[1] == await server.close()
        assert sorted(name.rpartition("/")[2] for name in reports[0].cut) == ["stream-1", "stream-1", "stream-3"]


@pytest.mark.virtual_time
async def test_a_second_close_with_a_shorter_time_hastens_the_first_and_a_longer_one_does_not_delay_it() -> None:
    """G3."""
    async with Bench(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        for seconds in (1000.0, 2.0, 500.0):
            drain(bench, seconds)
        await asyncio.sleep(1.9)
        assert bench.actor.exited is None
        async with asyncio.timeout(0.2):
            await bench.actor.wait()
        assert len(goaways(bench.says())) == 2


async def test_a_second_close_without_time_ends_the_first() -> None:
    """G3: over real sockets; the second waits for it."""
    async with Server(hold) as server, Link(server.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await settle(200)
        closing = asyncio.create_task(server.close(60))
        await settle(200)
        assert not closing.done()
        assert await server.close(0) == await closing
        assert len(closing.result().cut) == 1
        with pytest.raises(LinkError):
            await asking


async def test_a_drain_that_is_cancelled_closes_at_once() -> None:
    """G3, G4."""
    async with Server(hold) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        peer.send(headers(1, GET, end_stream=True))
        closing = asyncio.create_task(server.close(60))
        await peer.expect(Type.GOAWAY)
        closing.cancel()
        await peer.expect_end()
        await asyncio.wait((closing,))
        assert closing.cancelled()


async def test_a_handler_that_waits_for_the_drain_ends_its_stream_well_a_hundred_times() -> None:
    """G5: 100 of 100, over real sockets."""
    for _ in range(100):
        async with Server(subscription) as server, Link(server.url) as link, link.stream("GET", "/") as stream:
            assert await stream.read(6) == b"begin "
            report, rest = await asyncio.gather(server.close(), stream.read())
            assert (report.cut, rest) == ((), b"end")


async def test_a_stream_that_raced_into_the_drain_is_told_of_it() -> None:
    """G5: it came between the two GOAWAYs."""
    async with draining(subscription) as (peer, _):
        asked = await peer.expect(Type.PING, where=lambda each: not each.has(Flag.ACK))
        peer.send(headers(3, GET, end_stream=True) + ping(asked.payload, ack=True))
        assert await peer.expect_body(3) == b"begin end"
        peer.send(data(1, end_stream=True))


async def test_whoever_waits_for_a_drain_that_never_comes_is_told_of_the_handlers_end() -> None:
    """S2: in a task of its own, as the handler returns."""
    waiting: list[asyncio.Task[None]] = []

    async def handler(stream: ServerStream) -> None:
        waiting.append(asyncio.create_task(stream.draining()))
        await asyncio.sleep(0)
        await answer(stream)

    async with linked(handler) as link:
        await link.request("GET", "/")
        with pytest.raises(Closed):
            await waiting[0]


@pytest.mark.parametrize(
    "size",
    [
        3,
        512,
        600,
        100_000,
    ],
)
async def test_debug_data_reaches_the_client_in_its_error(size: int) -> None:
    """G3: the first 512 bytes."""
    async with Server(hold) as server, Link(server.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await settle(200)
        await server.close(0, debug=b"d" * size)
        with pytest.raises(LinkError) as raised:
            await asking
        error: BaseException | None = raised.value
        while error is not None and not isinstance(error, GoAway):
            error = error.__cause__
        assert error is not None
        assert error.debug == b"d" * min(size, 512)


async def test_debug_data_reaches_the_server() -> None:
    """G4: Link.close(debug=...)."""
    async with linked_to_raw() as (link, peer):
        await asyncio.gather(link.close(debug=b"e" * 600), link.close(debug=b"twice"))
        said = await peer.expect(Type.GOAWAY)
        assert said.payload[8:] == b"e" * 512
        await peer.expect_end()
        await link.close()


async def test_debug_data_that_is_no_bytes_is_misuse() -> None:
    """W2's manner: at the call."""
    wrong: Any = "as text"
    async with linked(answer) as link:
        with pytest.raises(Misuse):
            await link.close(debug=wrong)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5", True])
async def test_a_time_that_is_none_is_misuse_and_the_server_serves_on(seconds: Any) -> None:
    """G3."""
    async with Server(answer) as server, Link(server.url) as link:
        with pytest.raises(Misuse):
            await server.close(seconds)
        assert (await link.request("GET", "/")).body == b"answer"


async def test_a_client_that_goes_first_is_still_served() -> None:
    """G1: and the drain then says nothing that it has said."""
    async with Bench(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True) + goaway(0))
        assert goaways(bench.says()) == [(1, 0)]
        drain(bench)
        await settle()
        assert goaways(bench.says()) == []
        assert bench.actor.exited is None


# --- a link ---------------------------------------------------------------------------------------------------------


async def shake(listener: RawListener) -> RawPeer:
    peer = await listener.accept()
    await peer.handshake()
    return peer


async def test_a_link_moves_to_another_connection_when_its_server_begins_to_drain() -> None:
    """G3, G1: GOAWAY(2^31-1) ends nothing; what is open finishes, and what comes goes elsewhere."""
    async with RawPeer.listen() as listener, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(shake(listener))
        async with Link(f"http://127.0.0.1:{listener.port}") as link:
            one = await first
            old = asyncio.create_task(link.request("GET", "/old"))
            await one.expect_headers(1)
            one.send(goaway(2**31 - 1, debug=b"soon"))
            await one.barrier()
            new = tasks.create_task(link.request("GET", "/new"))
            two = await shake(listener)
            await two.expect_headers(1)
            two.send_headers(1, frames.response(201), end_stream=True)
            assert (await new).status == 201
            one.send(goaway(1))
            one.send_headers(1, frames.response(202), end_stream=True)
            assert (await old).status == 202
            await one.expect_end()
            assert goaways(one.seen)[0] == (0, 0)


@pytest.mark.parametrize("same_read", [False, True])
async def test_of_a_client_of_ours_streams_up_to_the_last_finish(same_read: bool) -> None:
    """G1, G2: 7 is unprocessed at the first GOAWAY, 5 at the second, and 1 and 3 finish."""
    async with Bench() as bench:
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(4)]
        await settle()
        said = goaway(5), goaway(3), b"".join(headers(i, encode(frames.response(200)), end_stream=True) for i in (1, 3))
        for each in [b"".join(said)] if same_read else said:
            await bench.hears(each)
        got: list[object] = list(await asyncio.gather(*asking, return_exceptions=True))
        assert [getattr(each, "status", None) for each in got] == [200, 200, None, None]
        for failed in got[2:]:
            assert isinstance(failed, GoAway)
            assert failed.outcome is Outcome.UNPROCESSED


def spend(wire: Any, left: int) -> None:
    """Let a client's wire have opened all streams but ``left``."""
    wire._inbox.last_own_id = MAX_STREAM_ID - 2 * left


async def test_the_last_stream_is_served_and_then_the_connection_ends() -> None:
    """G6."""
    async with Bench() as bench:
        spend(bench.actor.wire, 1)
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        await bench.hears(headers(MAX_STREAM_ID, encode(frames.response(204)), end_stream=True))
        assert (await asking).status == 204
        await settle()
        assert bench.actor.exited is not None


async def test_when_the_ids_run_out_the_next_request_goes_over_a_fresh_connection() -> None:
    """G6: unseen by who asks."""
    async with linked(answer) as link:
        await link.request("GET", "/")
        (old,) = connections_of(link)
        spend(old.wire, 2)
        for _ in range(5):
            assert (await link.request("GET", "/")).body == b"answer"
        assert old.exited is not None
        (new,) = connections_of(link)
        assert new.wire.last_own_id == 5


async def test_when_the_ids_run_out_amid_fifty_requests_none_of_them_fails() -> None:
    """G6: what was not sent goes over the fresh connection."""
    async with linked(answer) as link:
        (old,) = connections_of(link)
        spend(old.wire, 3)
        replies = await asyncio.gather(*(link.request("GET", "/") for _ in range(50)))
        assert {each.body for each in replies} == {b"answer"}


async def test_requests_that_wait_for_a_slot_say_not_sent_when_the_ids_run_out() -> None:
    """G6, X1."""
    async with Bench() as bench:
        await bench.hears(frames.settings({3: 1}))
        spend(bench.actor.wire, 1)
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(3)]
        await settle()
        await bench.hears(headers(MAX_STREAM_ID, encode(frames.response(204)), end_stream=True))
        got = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each).__name__ for each in got] == ["Response", "Closed", "Closed"]
        assert [each.outcome for each in got if isinstance(each, Closed)] == [Outcome.NOT_SENT] * 2


async def test_a_pushed_stream_finishes_though_its_server_goes() -> None:
    """G1, S12: the last stream of a server's GOAWAY is a client's."""
    async with Bench(push=True) as bench, open_stream(bench.route, bench.outgoing()) as stream:
        await bench.hears(frames.push_promise(1, 2, encode(frames.request())) + goaway(1))
        await bench.hears(headers(2, encode(frames.response(200))) + data(2, b"pushed", end_stream=True))
        async for pushed in stream.pushes():
            assert await pushed.read() == b"pushed"
            break
        else:
            pytest.fail("nothing was pushed")
        await bench.hears(headers(1, encode(frames.response(200)), end_stream=True))
