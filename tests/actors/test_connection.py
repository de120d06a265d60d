"""A connection: over a fake socket, where the order of things is the test's, and over real ones against a raw peer."""

import asyncio
import functools
from collections.abc import Awaitable, Callable

import pytest

from actors.actor import get_state
from actors.bodies import open_stream, request
from actors.errors import (
    Closed,
    ErrorCode,
    GoAway,
    LinkError,
    Outcome,
    ProtocolViolation,
    StreamReset,
    TransportLost,
)
from actors.messages import BytesArrived, ConnectionDraining, ConnectionLost, ConnectionReady, Resume, Suspend
from actors.server_stream import ServerStream
from actors.settings import Limits
from tests.support import frames
from tests.support.frames import (
    PREFACE,
    Code,
    Flag,
    Frame,
    Setting,
    Type,
    data,
    encode,
    frame,
    goaway,
    headers,
    ping,
    response,
    rst,
    settings,
    window_update,
)
from tests.support.sides import Bench, Census, kinds, linked, linked_to_raw, served, settle, until

GET = encode(frames.request())
POST = encode(frames.request("POST"))
OK = encode(response(200))


async def hold(stream: ServerStream) -> None:
    await asyncio.Event().wait()


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


async def echo(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


def goaways(said: list[Frame]) -> list[tuple[int, int]]:
    return [(heard.last_stream_id, heard.code) for heard in said if heard.type == Type.GOAWAY]


async def slots(bench: Bench) -> tuple[int, int]:
    """How many streams are open, and how many wait."""
    detail = (await get_state(bench.actor.ref)).detail
    assert isinstance(detail["open_streams"], int)
    assert isinstance(detail["waiting_for_a_slot"], int)
    return detail["open_streams"], detail["waiting_for_a_slot"]


# --- bad peers --------------------------------------------------------------------------------------------------------


async def test_a_bad_frame_is_answered_with_goaway_and_the_connection_closes() -> None:
    """W1: the good frames before it in the same read are delivered and answered; then the right code; then close."""
    got: list[bytes] = []

    async def handler(stream: ServerStream) -> None:
        got.append(await stream.read(100))
        await asyncio.Event().wait()

    async with served(handler) as peer:
        peer.send_headers(1, frames.request("POST"))
        await peer.barrier()
        peer.send(ping(b"answer!!") + data(1, b"good") + frame(Type.DATA, 0, 1, bytes(16_385)))
        await peer.expect(Type.PING, where=lambda heard: heard.payload == b"answer!!")
        last_words = await peer.expect(Type.GOAWAY)
        await peer.expect_end()
        assert (last_words.code, last_words.last_stream_id) == (Code.FRAME_SIZE_ERROR, 1)
        assert b"16385" in last_words.payload[8:]
        assert peer.seen[-1] is last_words


async def test_a_clients_streams_are_told_what_its_peer_did() -> None:
    """W1 and L7, on a client: GOAWAY with the code, and everyone gets the violation."""
    async with linked_to_raw() as (link, peer):
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(5)]
        await peer.expect_headers(9)
        peer.send(frame(Type.SETTINGS, 0, 0, bytes(5)))
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(result, ProtocolViolation) for result in results)
        assert {result.outcome for result in results if isinstance(result, LinkError)} == {Outcome.MAYBE_PROCESSED}
        assert (await peer.expect(Type.GOAWAY)).code == Code.FRAME_SIZE_ERROR
        await peer.expect_end()


async def test_a_bad_frame_right_behind_frames_that_set_something_off_is_still_the_reason() -> None:
    """W1: a raised limit opens what waited, a surplus stream is refused; neither may hide the violation."""
    async with Bench() as bench:
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 0}))
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 1}) + frame(Type.DATA, 0, 0, b"bad"))
        with pytest.raises(ProtocolViolation):
            await asking
        exited = await bench.actor.wait()
        assert isinstance(exited.reason, ProtocolViolation)
        assert not exited.crashed
    async with Bench(hold, limits=Limits(max_streams=1)) as bench:
        await bench.hears(headers(1, GET) + headers(3, GET) + frame(Type.DATA, 0, 0, b"bad"))
        exited = await bench.actor.wait()
        assert isinstance(exited.reason, ProtocolViolation)
        assert not exited.crashed
        assert [code for _, code in goaways(bench.says())] == [Code.PROTOCOL_ERROR]


GARBAGE = [
    b"\0" * 9,
    b"\xff" * 9,
    b"\0\0\1\0\0\0\0\0\1",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x01\0\x02\x02\x46" * 4,
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("after", ["nothing", "the preface", "SETTINGS", "a head", "half a head", "half a frame"])
async def test_garbage_at_any_point_ends_the_connection_in_good_order_or_waits_for_more(
    after: str, garbage: bytes
) -> None:
    start = {
        "nothing": b"",
        "the preface": PREFACE,
        "SETTINGS": PREFACE + settings(),
        "a head": PREFACE + settings() + headers(1, POST),
        "half a head": PREFACE + settings() + headers(1, POST[:3], end_headers=False),
        "half a frame": PREFACE + settings() + headers(1, POST)[:11],
    }[after]
    bench = Bench(echo)
    await bench.hears(start + garbage)
    await bench.hears(bytes(20_000))
    bench.socket.close()
    exited = await bench.actor.wait()
    assert isinstance(exited.reason, LinkError)
    assert not exited.crashed
    assert exited.reason.__class__ in (ProtocolViolation, TransportLost)


async def test_a_peer_that_closes_in_the_middle_of_anything_costs_one_typed_error() -> None:
    """L7: at each byte of a conversation."""

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        async for chunk in stream:
            await stream.send(chunk)

    whole = PREFACE + settings() + headers(1, POST) + data(1, b"12345", padding=3) + ping() + goaway(0)
    for length in range(len(whole)):
        bench = Bench(handler)
        await bench.hears(whole[:length])
        bench.actor.tell(ConnectionLost(None))
        exited = await bench.actor.wait()
        assert isinstance(exited.reason, (TransportLost, GoAway))
        assert not exited.crashed


@pytest.mark.virtual_time
@pytest.mark.parametrize("server", [True, False])
async def test_a_peer_that_says_nothing_is_given_up(server: bool) -> None:
    bench = Bench(hold if server else None, limits=Limits(settings_timeout=7))
    exited = await bench.actor.wait()
    assert asyncio.get_running_loop().time() == pytest.approx(7)
    assert isinstance(exited.reason, ProtocolViolation)
    assert [code for _, code in goaways(bench.says())] == [Code.SETTINGS_TIMEOUT]


@pytest.mark.virtual_time
async def test_a_peer_that_has_said_settings_may_be_silent() -> None:
    async with Bench(hold, limits=Limits(idle_timeout=4000)) as bench:
        await asyncio.sleep(3600)
        assert bench.actor.exited is None


# --- admission --------------------------------------------------------------------------------------------------------


async def test_fifty_requests_go_three_at_a_time_in_order_and_all_complete() -> None:
    """L1: never more than 3 open."""
    async with linked_to_raw({Setting.MAX_CONCURRENT_STREAMS: 3}) as (link, peer):
        asking = [asyncio.create_task(link.request("GET", f"/{number}")) for number in range(50)]
        paths: list[str] = []
        open_now: list[int] = []
        while len(paths) < 50:
            head = await peer.expect(Type.HEADERS)
            assert head.fields is not None
            paths.append(dict(head.fields)[b":path"].decode())
            open_now.append(head.stream_id)
            assert len(open_now) <= 3
            if len(open_now) == 3 or len(paths) == 50:
                await peer.barrier()
                heads = [heard for heard in peer.seen if heard.type == Type.HEADERS]
                assert len(heads) <= len(paths), "a fourth was opened"
                # The middle one first: the order of answers is not the order of slots.
                stream_id = open_now.pop(len(open_now) // 2)
                peer.send(headers(stream_id, OK, end_stream=True))
        for stream_id in open_now:
            peer.send(headers(stream_id, OK, end_stream=True))
        replies = await asyncio.gather(*asking)
        assert [reply.status for reply in replies] == [200] * 50
        assert paths == [f"/{number}" for number in range(50)]


async def test_a_server_of_ours_with_three_streams_serves_fifty_requests_at_once() -> None:
    """L1, against our own side: nothing is refused."""
    now = most = 0

    async def handler(stream: ServerStream) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await stream.read()
        await settle()
        await stream.respond(200)
        now -= 1

    async with linked(handler, limits=Limits(max_streams=3)) as link:
        replies = await asyncio.gather(*[link.request("POST", "/", body=b"x") for _ in range(50)])
        assert [reply.status for reply in replies] == [200] * 50
        assert most <= 3


async def test_a_cancelled_waiter_frees_its_place() -> None:
    """L3, a thousand times."""
    async with Bench() as bench:
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        bench.says()
        holder = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        waiting = [asyncio.create_task(request(bench.route, bench.outgoing(path=f"/{n}"))) for n in range(1001)]
        await settle()
        assert await slots(bench) == (1, 1001)
        for task in waiting[:-1]:
            task.cancel()
        await settle()
        assert await slots(bench) == (1, 1)
        await bench.hears(headers(1, OK, end_stream=True))
        await bench.hears(headers(3, OK, end_stream=True))
        assert [(await holder).status, (await waiting[-1]).status] == [200, 200]
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.HEADERS, 3)]


async def test_a_lowered_limit_lets_the_living_finish_and_zero_makes_all_wait() -> None:
    """L2."""
    async with Bench() as bench:
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 5}))
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(7)]
        await settle()
        assert await slots(bench) == (5, 2)
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 0}))
        for stream_id in (1, 3, 5, 7, 9):
            await bench.hears(headers(stream_id, OK, end_stream=True))
        assert await slots(bench) == (0, 2)
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        assert await slots(bench) == (1, 1)
        for stream_id in (11, 13):
            await bench.hears(headers(stream_id, OK, end_stream=True))
        assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 7


@pytest.mark.parametrize("at_once", [True, False])
async def test_one_stream_too_many_is_refused_and_the_connection_lives(at_once: bool) -> None:
    """S9: stream N+1 alone, also where all of them come in one read."""
    release = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        await release.wait()
        await stream.respond(200, body=b"%d" % stream.id)

    async with served(handler, limits=Limits(max_streams=3)) as peer:
        for stream_id in (1, 3, 5, 7):
            peer.send_headers(stream_id, frames.request(), end_stream=True)
            if not at_once:
                await peer.barrier()
        assert (await peer.expect(Type.RST_STREAM)).stream_id == 7
        await peer.barrier()
        assert [heard.code for heard in peer.seen if heard.type == Type.RST_STREAM] == [Code.REFUSED_STREAM]
        release.set()
        for stream_id in (1, 3, 5):
            assert await peer.expect_body(stream_id) == b"%d" % stream_id
        peer.send_headers(9, frames.request(), end_stream=True)
        assert await peer.expect_body(9) == b"9"


async def test_streams_and_their_ends_in_one_read_take_no_place_from_the_next() -> None:
    """S9: a place that was given back before it was asked for again is free, in the same read too."""
    async with Bench(answer, limits=Limits(max_streams=2)) as bench:
        burst = b"".join(headers(2 * number + 1, POST) + rst(2 * number + 1) for number in range(3))
        await bench.hears(burst + headers(101, GET, end_stream=True))
        said = bench.says()
        assert [heard.stream_id for heard in said if heard.type == Type.HEADERS] == [101]
        assert not [heard for heard in said if heard.type == Type.RST_STREAM]


async def test_streams_that_are_reset_at_once_do_not_run_more_handlers_than_twice_the_limit() -> None:
    """S9: what comes beyond that is refused, and once the handlers have ended there is room again."""
    began = []

    async def handler(stream: ServerStream) -> None:
        began.append(stream.id)
        await stream.respond(200)

    async with Bench(handler, limits=Limits(max_streams=2)) as bench:
        burst = b"".join(headers(2 * number + 1, POST) + rst(2 * number + 1) for number in range(20))
        await bench.hears(burst)
        assert len(began) <= 4
        refused = [heard for heard in bench.says() if heard.type == Type.RST_STREAM]
        assert all(heard.code == Code.REFUSED_STREAM for heard in refused)
        await bench.hears(headers(101, GET, end_stream=True))
        assert (Type.HEADERS, 101) in kinds(bench.says())


# --- going away -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_read", [True, False])
async def test_streams_up_to_the_last_finish_and_those_above_it_are_unprocessed(same_read: bool) -> None:
    """G1: 1, 3 and 5 finish, also in the same read as the GOAWAY; 7 is Unprocessed, and nothing new is opened."""
    async with Bench() as bench:
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(4)]
        await settle()
        answers = b"".join(headers(i, OK) + data(i, b"%d" % i, end_stream=True) for i in (1, 3, 5))
        if same_read:
            await bench.hears(goaway(5, Code.NO_ERROR, b"bye") + answers)
        else:
            await bench.hears(goaway(5, Code.NO_ERROR, b"bye"))
            assert isinstance(bench.news[-1], ConnectionDraining)
            late = asyncio.create_task(request(bench.route, bench.outgoing()))
            with pytest.raises(GoAway) as refused:
                await late
            assert refused.value.outcome is Outcome.NOT_SENT
            await bench.hears(answers)
        assert [(await task).body for task in asking[:3]] == [b"1", b"3", b"5"]
        with pytest.raises(GoAway) as caught:
            await asking[3]
        assert (caught.value.outcome, caught.value.code, caught.value.debug) == (
            Outcome.UNPROCESSED,
            Code.NO_ERROR,
            b"bye",
        )
        await bench.actor.wait()
        assert goaways(bench.says()) == [(0, Code.NO_ERROR)]
        assert bench.socket.closing


async def test_a_second_goaway_ends_the_difference() -> None:
    """G2."""
    async with Bench() as bench:
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(4)]
        await settle()
        await bench.hears(goaway(2**31 - 1))
        assert not [task for task in asking if task.done()]
        await bench.hears(goaway(3, Code.ENHANCE_YOUR_CALM))
        for task in asking[2:]:
            with pytest.raises(GoAway) as caught:
                await task
            assert (caught.value.outcome, caught.value.code) == (Outcome.UNPROCESSED, Code.ENHANCE_YOUR_CALM)
        await bench.hears(goaway(3) + headers(1, OK, end_stream=True) + headers(3, OK, end_stream=True))
        assert [(await task).status for task in asking[:2]] == [200, 200]


async def test_whoever_waits_for_a_slot_when_the_peer_goes_was_not_sent() -> None:
    async with Bench() as bench:
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(5)]
        await settle()
        await bench.hears(goaway(1))
        for task in asking[1:]:
            with pytest.raises(GoAway) as caught:
                await task
            assert caught.value.outcome is Outcome.NOT_SENT
        await bench.hears(headers(1, OK, end_stream=True))
        assert (await asking[0]).status == 200


async def test_closing_says_goaway_and_ends_everything() -> None:
    """G4: on both sides, with streams open; nobody waits on, and no task or socket is left."""
    began = asyncio.Event()
    ended: list[LinkError | None] = []

    async def handler(stream: ServerStream) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(stream.cause)

    async with Bench(handler) as bench:
        await bench.hears(headers(1, POST))
        await began.wait()
        exited = await bench.actor.stop(Closed("enough"))
        assert exited.reason is not None
        assert str(exited.reason) == "enough"
        assert isinstance(ended[0], Closed)
        said = bench.says()
        assert goaways(said) == [(1, Code.NO_ERROR)]
        assert said[-1].type == Type.GOAWAY
        assert bench.socket.closing
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        await bench.actor.stop(Closed("enough"))
        with pytest.raises(Closed, match="enough"):
            await asking
        assert goaways(bench.says()) == [(0, Code.NO_ERROR)]
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.virtual_time
async def test_closing_waits_for_last_words_only_so_long() -> None:
    """G4: a peer that takes nothing holds nobody up."""
    bench = Bench(limits=Limits(shutdown_timeout=3))
    bench.socket.stuck = True
    await settle()
    await bench.actor.stop()
    assert asyncio.get_running_loop().time() == pytest.approx(3)
    assert bench.socket.aborted


@pytest.mark.virtual_time
@pytest.mark.logs_errors(r"connection ended without waiting for connection/stream-1: cancelled, but not ended")
async def test_a_handler_that_swallows_its_cancellation_is_named_and_holds_nobody_up() -> None:
    release = asyncio.Event()

    async def stubborn(stream: ServerStream) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with Bench(stubborn, limits=Limits(shutdown_timeout=2)) as bench:
        await bench.hears(headers(1, POST))
        await bench.hears(rst(1))
        await bench.hears(headers(3, encode(frames.request()), end_stream=True) + rst(3))
        await bench.actor.stop()
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        release.set()
        await settle()


# --- the end of the transport -----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_everyone_who_waits_gets_one_typed_error_when_the_transport_dies() -> None:
    """L7: with the cause, without a timer or further I/O: those with a stream, those who wait for one, every call."""
    async with Bench() as bench:
        await bench.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 3}))
        outcomes: list[tuple[type[BaseException], Outcome]] = []

        async def use(call: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(LinkError) as caught:
                await call()
            assert isinstance(caught.value.__cause__, ConnectionResetError)
            outcomes.append((type(caught.value), caught.value.outcome))

        async def opened(name: str) -> None:
            async with open_stream(bench.route, bench.outgoing("POST", body=None)) as stream:
                calls: dict[str, Callable[[], Awaitable[object]]] = {
                    "response": stream.response,
                    "read": stream.read,
                    "trailers": stream.trailers,
                    "send": functools.partial(stream.send, bytes(1_000_000)),
                }
                await asyncio.gather(*[use(calls[name]) for _ in range(10)])

        async with asyncio.TaskGroup() as tasks:
            for name in ("response", "trailers", "send"):
                tasks.create_task(opened(name))
            await settle()
            for _ in range(20):
                tasks.create_task(use(lambda: request(bench.route, bench.outgoing())))
            await settle()
            before = asyncio.get_running_loop().time()
            bench.actor.tell(ConnectionLost(ConnectionResetError("reset by peer")))
        assert asyncio.get_running_loop().time() == before
        assert outcomes.count((TransportLost, Outcome.MAYBE_PROCESSED)) == 30
        assert outcomes.count((TransportLost, Outcome.NOT_SENT)) == 20
        exited = await bench.actor.wait()
        assert isinstance(exited.reason, TransportLost)


@pytest.mark.virtual_time
@pytest.mark.parametrize("turns", range(8))
async def test_a_request_made_as_the_transport_dies_gets_its_error_too(turns: int) -> None:
    """L7: in the same turn as the end, in the turns while the connection winds down, and after it."""
    async with Bench() as bench:
        open_one = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        bench.actor.tell(ConnectionLost(ConnectionResetError("reset by peer")))
        await settle(turns)
        late = [asyncio.create_task(request(bench.route, bench.outgoing("POST", body=b"x"))) for _ in range(3)]
        for task in (open_one, *late):
            async with asyncio.timeout(60):
                with pytest.raises(LinkError) as caught:
                    await task
        assert caught.value.outcome is Outcome.NOT_SENT
        assert bench.socket.written


@pytest.mark.virtual_time
@pytest.mark.parametrize("turns", range(8))
async def test_a_request_made_as_the_connection_is_stopped_gets_its_error_too(turns: int) -> None:
    """L7: while the last words go out to a peer that takes nothing, too."""
    bench = Bench()
    await bench.hears(settings())
    bench.socket.stuck = True
    stopping = asyncio.create_task(bench.actor.stop(Closed("enough")))
    await settle(turns)
    late = asyncio.create_task(request(bench.route, bench.outgoing()))
    with pytest.raises(Closed) as caught:
        async with asyncio.timeout(60):
            await late
    assert caught.value.outcome is Outcome.NOT_SENT
    await stopping


async def test_a_connection_killed_from_outside_leaves_nobody_waiting() -> None:
    """L7: its task is cancelled half-way."""
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        (killed,) = [task for task in asyncio.all_tasks() if task.get_name() == "connection"]
        killed.cancel()
        with pytest.raises(LinkError) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        exited = await bench.actor.wait()
        assert exited.crashed
        assert bench.socket.closing


async def test_a_connection_that_never_spoke_http2_says_so() -> None:
    bench = Bench()
    await settle()
    bench.actor.tell(ConnectionLost(None))
    exited = await bench.actor.wait()
    assert "does it speak HTTP/2 on this port?" in str(exited.reason)


# --- suspension and backpressure --------------------------------------------------------------------------------------


async def test_a_suspended_connection_reads_nothing_until_it_is_resumed() -> None:
    async with Bench(answer) as bench:
        bench.actor.signal(Suspend())
        await settle()
        reading = [bench.socket.reading]
        await bench.hears(headers(1, GET, end_stream=True))
        assert bench.says() == []
        assert (await get_state(bench.actor.ref)).status == "suspended"
        bench.actor.signal(Resume())
        await settle()
        assert [*reading, bench.socket.reading] == [False, True]
        assert (Type.HEADERS, 1) in kinds(bench.says())


async def test_a_long_burst_is_read_in_turns_and_nothing_of_it_is_lost() -> None:
    async with Bench(echo) as bench:
        burst = b"".join(headers(2 * n + 1, POST) + data(2 * n + 1, b"%d" % n, end_stream=True) for n in range(90))
        for at in range(0, len(burst), 1000):
            bench.actor.tell(BytesArrived(burst[at : at + 1000]))
        await settle(500)
        bodies = {heard.stream_id: heard.body for heard in bench.says() if heard.type == Type.DATA}
        assert bodies == {2 * n + 1: b"%d" % n for n in range(90)}
        assert bench.socket.reading


async def test_readiness_is_told_once_when_settings_came() -> None:
    async with Bench() as bench:
        await bench.hears(settings() + settings())
        assert [type(each) for each in bench.news] == [ConnectionReady]


@pytest.mark.bulk
async def test_100000_requests_served_in_a_row_leave_tasks_actors_and_memory_flat() -> None:
    """S13: on the server's side, 100 at a time, from the 20,000th to the 100,000th."""
    async with Bench(answer) as bench:
        await bench.hears(window_update(0, 1_000_000))
        for number in range(0, 100_000, 100):
            if number == 20_000:
                await settle()
                before = Census()
            ids = range(2 * number + 1, 2 * (number + 100), 2)
            bench.actor.tell(BytesArrived(b"".join(headers(i, GET, end_stream=True) for i in ids)))
            await until(lambda: bench.socket.written.count(b"answer") == 100)
            bench.socket.written.clear()
        await settle()
        before.expect_no_more(Census())


@pytest.mark.bulk
async def test_100000_requests_made_in_a_row_leave_tasks_actors_and_memory_flat() -> None:
    """S13: on the client's side."""
    async with Bench() as bench:
        for number in range(0, 100_000, 100):
            if number == 20_000:
                before = Census()
            asking = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(100)]
            await until(lambda: bool(bench.socket.written))
            ids = range(2 * number + 1, 2 * (number + 100), 2)
            bench.actor.tell(BytesArrived(b"".join(headers(i, OK) + data(i, b"x", end_stream=True) for i in ids)))
            assert [reply.body for reply in await asyncio.gather(*asking)] == [b"x"] * 100
            bench.socket.written.clear()
        del asking
        await settle()
        before.expect_no_more(Census())


# --- what a peer may lie about ----------------------------------------------------------------------------------------

WHOLE_ANSWER_AND_MORE = headers(1, OK, end_stream=True) + data(1, b"after the end")


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (data(1, b"before the head"), None),
        (headers(1, OK) + headers(1, OK), None),
        (WHOLE_ANSWER_AND_MORE, None),
        (headers(7, OK), None),
        (headers(2, GET), Code.PROTOCOL_ERROR),
        (rst(7), Code.PROTOCOL_ERROR),
        (window_update(1, 2**31 - 1) * 2, Code.FLOW_CONTROL_ERROR),
        (window_update(0, 2**31 - 1) * 2, Code.FLOW_CONTROL_ERROR),
        (settings({Setting.INITIAL_WINDOW_SIZE: 2**32 - 1}), Code.FLOW_CONTROL_ERROR),
        (frame(Type.PUSH_PROMISE, Flag.END_HEADERS, 1, b"\0\0\0\x02" + GET), Code.PROTOCOL_ERROR),
    ],
    ids=str,
)
async def test_a_server_that_lies_costs_a_typed_error_and_no_crash(lie: bytes, code: Code | None) -> None:
    """L7: whatever it says, the caller gets an error of ours or a whole response, and the connection never crashes."""
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing("POST", body=bytes(300_000))))
        await settle()
        await bench.hears(lie)
        said = bench.says()
        if code is not None:
            assert code in [heard.code for heard in said if heard.type in (Type.GOAWAY, Type.RST_STREAM)]
        next_one = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        await bench.actor.stop(Closed("end of test"))
        with pytest.raises(LinkError):
            await next_one
        if lie == WHOLE_ANSWER_AND_MORE:
            assert (await asking).status == 200
        else:
            with pytest.raises(LinkError):
                await asking
        assert bench.actor.exited is not None
        assert not bench.actor.exited.crashed


async def test_settings_that_change_everything_midway_lose_nothing() -> None:
    """F2: windows, frame sizes, tables and limits, up and down, while an echo of 200 KB runs."""
    async with served(echo) as peer:
        peer.send_headers(1, frames.request("POST"))
        body = bytes(range(250)) * 800
        for at in range(0, len(body), 10_000):
            window = 10_000 if at % 20_000 else 65_535
            values: dict[int, int] = {
                Setting.INITIAL_WINDOW_SIZE: window,
                Setting.MAX_FRAME_SIZE: 16_384 + at,
                Setting.HEADER_TABLE_SIZE: at % 4097,
                Setting.MAX_CONCURRENT_STREAMS: at,
                Setting.MAX_HEADER_LIST_SIZE: 100_000 + at,
            }
            peer.send(settings(values) + data(1, body[at : at + 10_000]))
        peer.send(data(1, b"", end_stream=True) + settings({Setting.INITIAL_WINDOW_SIZE: 300_000}))
        peer.send(window_update(0, 300_000))
        assert await peer.expect_body(1) == body


async def test_a_peers_reset_after_its_own_end_harms_nobody() -> None:
    async with Bench(answer) as bench:
        await bench.hears(headers(1, GET, end_stream=True) + rst(1, Code.NO_ERROR))
        await bench.hears(headers(3, GET, end_stream=True))
        assert (Type.HEADERS, 3) in kinds(bench.says())


async def test_the_errors_of_a_peers_stream_reach_the_handler_and_the_wire_once() -> None:
    """S10: a stream that we reset for its fault is reset once, and its handler sees the violation."""
    seen: list[LinkError | None] = []

    async def handler(stream: ServerStream) -> None:
        try:
            await stream.read()
        finally:
            seen.append(stream.cause)

    async with Bench(handler) as bench:
        await bench.hears(headers(1, POST))
        await bench.hears(window_update(1, 2**31 - 1))
        await bench.hears(data(1, b"late", end_stream=True))
        said = [(heard.stream_id, heard.code) for heard in bench.says() if heard.type == Type.RST_STREAM]
        assert said == [(1, Code.FLOW_CONTROL_ERROR)]
        assert isinstance(seen[0], ProtocolViolation)
        assert seen[0].code == ErrorCode.FLOW_CONTROL_ERROR


async def test_a_client_counts_a_refused_stream_as_unprocessed() -> None:
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        await bench.hears(rst(1, Code.REFUSED_STREAM))
        with pytest.raises(StreamReset) as caught:
            await asking
        assert caught.value.outcome is Outcome.UNPROCESSED


@pytest.mark.bulk
@pytest.mark.parametrize("body", [b"x", b""], ids=["dribble", "pings"])
async def test_a_long_burst_lets_others_in_between(body: bytes) -> None:
    """W7: what one peer sends in one go is read in short turns, and the loop goes round between any two of them."""
    async with Bench(hold) as bench:
        await bench.hears(headers(1, POST))
        rounds = 0

        def is_read() -> bool:
            nonlocal rounds
            rounds += 1
            return bench.actor.wire._inbox.frames > 8_000

        bench.actor.tell(BytesArrived((data(1, body) if body else ping()) * 8_000))
        await until(is_read)
        assert rounds > 3
