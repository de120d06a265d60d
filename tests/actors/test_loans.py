"""Streams that are lent to their caller: what needs a task of its own, and how a guest in the caller's ends."""

import asyncio
import gc

import pytest

from actors.actor import get_state
from actors.bodies import Loan, open_stream, request
from actors.client_stream import ClientStream
from actors.errors import Closed, DeadlineExceeded, InvalidHeaders, Outcome, StreamReset, TransportLost
from actors.exchange import OutgoingBody
from actors.messages import ConnectionLost, Halt
from actors.stream import StreamActor
from actors.trace import TraceEvent
from tests.support import frames
from tests.support.frames import Code, Flag, Setting, Type, encode, headers, response, window_update
from tests.support.sides import Bench, kinds, linked_to_raw, settle

OK = encode(response(200))
LARGE = bytes(1_000_000)


def loan(bench: Bench, method: str = "POST", *, body: bytes | None = None, timeout: float | None = None) -> Loan:
    return open_stream(bench.route, bench.outgoing(method, body=body, timeout=timeout))


def tasks() -> list[str]:
    """The names of all tasks, but for those that nobody named."""
    return [name for each in asyncio.all_tasks() if not (name := each.get_name()).startswith("Task-")]


def living() -> int:
    gc.collect()
    return sum(isinstance(each, StreamActor) for each in gc.get_objects())


# --- who needs a task -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "own"),
    [(None, False), (b"", False), (b"short", False), (LARGE, True), ([b"one"], True)],
    ids=["none", "empty", "short", "large", "pieces"],
)
async def test_only_a_stream_whose_body_is_sent_meanwhile_has_a_task_of_its_own(
    body: OutgoingBody | None, own: bool
) -> None:
    async with linked_to_raw() as (link, _), link.stream("POST", "/", body=body) as stream:
        await settle()
        assert (f"{link.name}/request-1" in tasks()) is own
        assert stream.id == 1
        [state] = [each for each in await link.census() if each["name"] == f"{link.name}/request-1"]
        assert (state["kind"], state["state"]) == ("StreamActor", "running")


@pytest.mark.parametrize("trailers", [(), {"x-sum": "1"}], ids=["", "trailers"])
async def test_a_short_body_goes_out_along_with_its_head(trailers: dict[str, str]) -> None:
    async with linked_to_raw() as (link, peer), link.stream("POST", "/", body=b"whole", trailers=trailers) as stream:
        async with asyncio.timeout(5):
            await stream.until_gone(5)
        assert stream.gone == 5
        [state] = [each for each in await link.census() if each["name"] == f"{link.name}/request-1"]
        assert state["detail"]["room"] == link.limits.send_buffer
        peer.send_headers(1, response(200), end_stream=True)
        assert (await stream.response()).status == 200
        await peer.barrier()
        said = [(each.type, each.has(Flag.END_STREAM)) for each in peer.seen if each.stream_id == 1]
        body = [(Type.DATA, False), (Type.HEADERS, True)] if trailers else [(Type.DATA, True)]
        assert said == [(Type.HEADERS, False), *body]


async def test_what_has_gone_of_a_body_that_must_queue_is_known_to_the_byte() -> None:
    """F1."""
    async with (
        linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 3}) as (link, peer),
        link.stream("POST", "/", body=b"12345678") as stream,
    ):
        await peer.expect(Type.DATA, 1)
        waiting = asyncio.create_task(stream.until_gone(8))
        await peer.barrier()
        assert not waiting.done()
        peer.send(window_update(1, 100))
        async with asyncio.timeout(5):
            await waiting
        assert stream.gone == 8


# --- how a guest ends -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_stream_that_is_never_left_does_not_hold_up_the_end_of_its_connection() -> None:
    """L7: no time passes, nobody is named in the log, and the caller finds the reason."""
    async with Bench() as bench:
        stream = await loan(bench).__aenter__()
        await bench.actor.stop(Closed("enough"))
        assert asyncio.get_running_loop().time() == 0
        assert isinstance(stream.cause, Closed)
        assert "enough" in str(stream.cause)


async def test_a_stream_that_nobody_holds_any_more_is_open_until_its_connection_ends() -> None:
    before = living()
    async with Bench() as bench:
        await loan(bench).__aenter__()
        assert living() == before + 1
        assert (await get_state(bench.actor.ref)).children == ("request-1",)
        assert kinds(bench.says()) == [(Type.HEADERS, 1)]
    assert not bench.actor.children


async def test_a_transport_that_dies_under_an_open_stream_is_its_cause_and_leaving_it_is_harmless() -> None:
    """L7, X1."""
    async with Bench() as bench, loan(bench) as stream:
        bench.actor.tell(ConnectionLost(ConnectionResetError("gone")))
        await bench.actor.wait()
        assert isinstance(stream.cause, TransportLost)
        with pytest.raises(TransportLost) as caught:
            await stream.read()
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED


async def test_a_stream_may_be_left_twice_and_from_another_task_and_is_reset_once() -> None:
    """S3."""
    async with Bench() as bench:
        lent = loan(bench)
        await asyncio.create_task(lent.__aenter__())
        await asyncio.create_task(lent.__aexit__(None, None, None))
        lent.leave()
        await settle()
        lent.leave()
        await settle()
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.RST_STREAM, 1)]
        assert not bench.actor.children


async def test_a_stream_that_has_finished_is_left_without_a_word_and_without_a_cause() -> None:
    async with Bench() as bench:
        async with loan(bench, "GET") as stream:
            await bench.hears(headers(1, OK, end_stream=True))
            assert await stream.read() == b""
        await settle()
        assert stream.cause is None
        assert kinds(bench.says()) == [(Type.HEADERS, 1)]


async def test_each_end_frees_one_place_and_no_more() -> None:
    """G4: one stream at a time, whether its caller or its time ended the one before."""
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        bench.says()
        first = loan(bench)
        await first.__aenter__()
        asked = [asyncio.create_task(request(bench.route, bench.outgoing())) for _ in range(3)]
        await settle()
        first.leave()
        first.leave()
        await settle()
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.RST_STREAM, 1), (Type.HEADERS, 3)]
        for stream_id, task in zip((3, 5, 7), asked, strict=True):
            await bench.hears(headers(stream_id, OK, end_stream=True))
            assert task.done()
        assert kinds(bench.says()) == [(Type.HEADERS, 5), (Type.HEADERS, 7)]


async def test_a_body_that_is_still_queued_when_its_stream_is_left_keeps_the_place_until_it_is_out() -> None:
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.INITIAL_WINDOW_SIZE: 3, Setting.MAX_CONCURRENT_STREAMS: 1}))
        async with loan(bench, body=b"12345678"):
            await bench.hears(headers(1, OK, end_stream=True))
        asked = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.DATA, 1)]
        await bench.hears(window_update(1, 100))
        assert kinds(bench.says()) == [(Type.DATA, 1), (Type.HEADERS, 3)]
        await bench.hears(headers(3, OK, end_stream=True))
        assert (await asked).status == 200


async def test_a_head_that_the_peer_does_not_take_is_refused_and_takes_no_place() -> None:
    """S2."""
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_HEADER_LIST_SIZE: 200}))
        bench.says()
        long = bench.outgoing("POST", headers={"x-long": "x" * 200}, body=None)
        with pytest.raises(InvalidHeaders) as caught:
            async with open_stream(bench.route, long):
                pytest.fail("it was opened")
        assert caught.value.outcome is Outcome.NOT_SENT
        await settle()
        assert not bench.actor.children
        async with loan(bench):
            assert kinds(bench.says()) == [(Type.HEADERS, 1)]


async def test_a_stream_of_a_connection_that_has_ended_is_refused_at_once() -> None:
    async with Bench() as bench:
        await bench.actor.stop(Closed("enough"))
        with pytest.raises(Closed) as caught:
            await loan(bench).__aenter__()
        assert caught.value.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("turns", range(6))
async def test_a_caller_that_is_cancelled_while_it_enters_leaves_nothing_behind(turns: int) -> None:
    """S3: whether its stream waits for a place, or has just got one."""
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        first = loan(bench)
        await first.__aenter__()
        entering = asyncio.create_task(loan(bench, body=b"body", timeout=60).__aenter__())
        await settle()
        first.leave()
        await settle(turns)
        entering.cancel()
        await asyncio.wait((entering,))
        if not entering.cancelled():
            return  # it was in already
        await settle()
        detail = bench.actor.detail()
        assert (detail["open_streams"], detail["queued"], detail["waiting_for_a_slot"]) == (0, 0, 0)
        assert not bench.actor.children


# --- its time ---------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("body", [None, b"short", LARGE], ids=["none", "short", "large"])
async def test_a_stream_whose_time_is_up_is_reset_and_gives_its_place_back_though_nobody_looks(
    body: bytes | None,
) -> None:
    """S4: the caller does something else meanwhile, and leaves it later."""
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        async with loan(bench, body=body, timeout=3) as stream:
            asked = asyncio.create_task(request(bench.route, bench.outgoing()))
            await asyncio.sleep(2.9)
            assert not stream.is_over
            bench.says()
            await asyncio.sleep(0.2)
            await settle()
            assert kinds(bench.says()) == [(Type.RST_STREAM, 1), (Type.HEADERS, 3)]
            cause = stream.cause
            assert isinstance(cause, DeadlineExceeded)
            assert str(cause) == "request-1 had no whole response within 3 s"
            assert cause.outcome is Outcome.MAYBE_PROCESSED
        await bench.hears(headers(3, OK, end_stream=True))
        assert (await asked).status == 200
        assert kinds(bench.says()) == []


@pytest.mark.virtual_time
async def test_the_time_of_a_stream_that_was_left_is_not_waited_for() -> None:
    before = living()
    async with Bench() as bench:
        async with loan(bench, timeout=3600) as stream:
            assert stream.id == 1
        del stream
        await settle()
        assert living() == before
        bench.says()
        await asyncio.sleep(4000)
        assert kinds(bench.says()) == []


# --- its trace --------------------------------------------------------------------------------------------------------


def told_of(bench: Bench) -> list[TraceEvent]:
    events: list[TraceEvent] = []
    bench.actor.tracer.attach(events.append)
    return events


async def test_a_trace_shows_who_ended_a_stream_and_that_it_ended() -> None:
    async with Bench() as bench:
        events = told_of(bench)
        async with loan(bench, "GET"):
            pass
        await settle()
        said = [(each.sender, each.receiver, each.type) for each in events if each.type in ("Halt", "Exited")]
        assert said == [("caller", "request-1", "Halt"), ("request-1", "connection", "Exited")]
        halt, exited = (each for each in events if each.type in ("Halt", "Exited"))
        assert exited.cause == halt.id


async def test_a_connection_speaks_in_its_own_name_after_it_has_ended_a_guest() -> None:
    async with Bench() as bench:
        streams: list[ClientStream] = [await loan(bench).__aenter__() for _ in range(2)]
        events = told_of(bench)
        await bench.hears(frames.goaway(0, Code.NO_ERROR))
        failed = [(each.sender, each.receiver) for each in events if each.type == "StreamFailed"]
        assert failed == [("connection", "request-1"), ("connection", "request-2")]
        assert all(each.cause is not None for each in streams)


# --- others tell it ---------------------------------------------------------------------------------------------------


async def test_a_guest_that_is_halted_ends_at_once_and_wakes_who_waits() -> None:
    async with Bench() as bench:
        async with loan(bench) as stream:
            reading = asyncio.create_task(stream.read())
            await settle()
            [ref] = bench.actor.children.values()
            cause = StreamReset("cut", code=Code.CANCEL)
            assert ref.signal(Halt(cause))
            assert not ref.signal(Halt(None)), "it has ended"
            with pytest.raises(Closed) as caught:
                await reading
            assert caught.value.__cause__ is cause
            await settle()
            assert not bench.actor.children
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.RST_STREAM, 1)]
