"""What becomes of requests that fail: what is known of them, which go again, and where."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors.errors import (
    Closed,
    ConnectFailed,
    DeadlineExceeded,
    GoAway,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Outcome,
    StreamReset,
    TransportLost,
)
from actors.settings import Backoff, Limits, Retry
from actors.wire import MAX_STREAM_ID
from supervisor.explanation import WaitsFor
from supervisor.link import Link
from tests.supervisor.world import Place, Wire, World, answering, at_once
from tests.support import frames
from tests.support.frames import Code, Type
from tests.support.sides import connections_of, settle

URL = "http://10.0.0.1"
pytestmark = pytest.mark.virtual_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def place(world: World) -> Place:
    return world.places["10.0.0.1"]


def resetting(code: Code, times: int = 1_000_000) -> Callable[[Wire, int], None]:
    """Resets that many streams and answers the others."""
    left = iter(range(times))
    return lambda wire, stream_id: (
        wire.answers(stream_id) if next(left, None) is None else wire.says(frames.rst(stream_id, code))
    )


def breaking(wire: Wire, stream_id: int) -> None:
    wire.breaks()


def bodies(wire: Wire) -> list[bytes]:
    return [each.body for each in wire.heard(Type.DATA)]


# --- X1: what is known ------------------------------------------------------------------------------------------------

OFF = Retry(attempts=0)


@pytest.mark.parametrize(
    ("serves", "kind", "outcome"),
    [
        (breaking, TransportLost, Outcome.MAYBE_PROCESSED),
        (resetting(Code.INTERNAL_ERROR), StreamReset, Outcome.MAYBE_PROCESSED),
        (resetting(Code.REFUSED_STREAM), StreamReset, Outcome.UNPROCESSED),
        (lambda wire, _: wire.goes_away(0), GoAway, Outcome.UNPROCESSED),
        (lambda wire, _: None, DeadlineExceeded, Outcome.MAYBE_PROCESSED),
        (lambda wire, _: wire.says(b"\0\0\0\x04\0\0\0\0\5"), LinkError, Outcome.MAYBE_PROCESSED),
    ],
)
async def test_what_is_known_of_a_request_that_went_out(
    place: Place, serves: Callable[[Wire, int], None], kind: type[LinkError], outcome: Outcome
) -> None:
    """X1: whole requests, such with a body apart, and streams."""
    place.serves = serves
    link = Link(URL, retry=OFF)
    for body in (b"", b"whole", [b"in", b"pieces"]):
        with pytest.raises(kind) as caught:
            await link.request("POST", "/", body=body, timeout=5, wait_for_ready=True)
        assert caught.value.outcome is outcome
    with pytest.raises(kind) as caught:
        async with link.stream("GET", "/", timeout=5, wait_for_ready=True) as stream:
            await stream.response()
    assert caught.value.outcome is outcome
    await link.close()


async def test_what_never_went_out_says_so(place: Place) -> None:
    """X1: no connection, no time, a header that cannot be, a link that was closed."""
    place.up = False
    link = Link(URL)
    with pytest.raises(ConnectFailed) as caught:
        await link.request("GET", "/")
    found = [caught.value.outcome]
    for options in ({"timeout": 0.1, "wait_for_ready": True}, {"headers": {"a b": "c"}}):
        with pytest.raises((DeadlineExceeded, InvalidHeaders)) as other:
            await link.request("GET", "/", **options)
        found.append(other.value.outcome)
    waiting = asyncio.create_task(link.request("GET", "/", wait_for_ready=True))
    await settle()
    await link.close()
    with pytest.raises(Closed) as closed:
        await waiting
    assert {*found, closed.value.outcome} == {Outcome.NOT_SENT}


async def test_an_answer_that_is_too_long_was_completed(place: Place) -> None:
    """X1."""

    def long(wire: Wire, stream_id: int) -> None:
        block = frames.encode(frames.response(200))
        wire.says(frames.headers(stream_id, block) + frames.data(stream_id, b"x" * 9, end_stream=True))

    place.serves = long
    async with Link(URL) as link:
        with pytest.raises(LimitReached) as caught:
            await link.request("GET", "/", max_body=5, idempotent=True)
        assert caught.value.outcome is Outcome.COMPLETED
        assert place.asked == 1


async def test_an_earlier_attempt_that_may_have_been_acted_on_is_not_forgotten(place: Place) -> None:
    """X1: the last one only never got anywhere: no connection, no room, no time."""
    for options, ends in (
        ({}, ConnectFailed),
        ({"wait_for_ready": True, "timeout": 0.5}, DeadlineExceeded),
        ({"wait_for_ready": True}, LimitReached),
    ):
        place.up, place.serves = True, None
        pending = 0 if ends is LimitReached else 10
        link = Link(URL, backoff=Backoff(initial=10), limits=Limits(max_pending=pending))
        await link.__aenter__()
        asking = asyncio.create_task(link.request("GET", "/", idempotent=True, **options))
        await settle()
        place.up = False
        place.wires[0].breaks()
        with pytest.raises(ends) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        assert link.stats().retries == {"MaybeProcessed": 1}
        await link.close()


# --- X2: what goes again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_was_refused_goes_again_whatever_it_is(place: Place, method: str) -> None:
    """X2."""
    place.serves = resetting(Code.REFUSED_STREAM, 5)
    async with Link(URL) as link:
        reply = await link.request(method, "/", body=b"the body")
        assert reply.status == 200
        assert bodies(place.wires[0]) == [b"the body"] * 6
        assert link.stats().retries == {"Unprocessed": 5}
        assert asyncio.get_running_loop().time() < 2
        place.serves = resetting(Code.REFUSED_STREAM, 2)
        async with link.stream("GET", "/") as stream:  # once it is open, it is the caller's
            with pytest.raises(StreamReset):
                await stream.response()


async def test_what_may_have_been_acted_on_goes_again_only_where_that_does_no_harm(place: Place) -> None:
    """X2."""
    async with Link(URL) as link:
        for serves in (resetting(Code.INTERNAL_ERROR, 1), breaking):
            place.serves = serves
            with pytest.raises(LinkError, match="idempotent=True did not say that twice does no harm") as caught:
                await link.request("GET", "/")
            assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        assert link.stats().retries_refused == {"NOT_IDEMPOTENT": 2}
        place.serves = resetting(Code.INTERNAL_ERROR, 2)
        assert (await link.request("GET", "/", idempotent=True)).status == 200
        assert link.stats().retries == {"MaybeProcessed": 2}


async def test_the_one_repetition_that_is_allowed_is_not_spent_on_a_connection_that_is_dead(place: Place) -> None:
    """X2: neither for who was on it nor for who comes just then."""
    async with Link(URL, retry=Retry(attempts=1)) as link:
        for _ in range(3):
            place.serves = None
            asking = [asyncio.create_task(link.request("GET", "/", idempotent=True)) for _ in range(5)]
            await settle()
            place.serves = at_once
            place.wires[0].breaks()
            results = await asyncio.gather(*asking)
            assert [each.status for each in results] == [200] * 5
            await asyncio.sleep(2)


async def test_nothing_goes_again_more_often_than_allowed_nor_past_its_deadline(place: Place) -> None:
    """X2."""
    place.serves = resetting(Code.REFUSED_STREAM)
    async with Link(URL) as link:
        with pytest.raises(StreamReset, match=r"as often as Retry.attempts allows") as caught:
            await link.request("GET", "/")
        assert (place.asked, caught.value.outcome) == (6, Outcome.UNPROCESSED)
        began = asyncio.get_running_loop().time()
        with pytest.raises(StreamReset, match="its deadline is too near"):
            await link.request("GET", "/", timeout=0.1)
        assert asyncio.get_running_loop().time() - began < 0.1
        assert link.stats().retries_refused == {"ATTEMPTS": 1, "DEADLINE": 1}


async def test_a_body_that_was_consumed_is_not_sent_again_and_one_that_was_not_is(place: Place) -> None:
    """X2: a body that waits for its place has lost nothing."""
    taken: list[bytes] = []

    def body() -> Iterator[bytes]:
        for part in (b"one", b"two"):
            taken.append(part)
            yield part

    async with Link(URL) as link:

        def refuse_later(wire: Wire, stream_id: int) -> None:
            asyncio.get_running_loop().call_later(0.1, wire.says, frames.rst(stream_id, Code.REFUSED_STREAM))

        place.serves = refuse_later
        with pytest.raises(StreamReset, match="its body was consumed and cannot be replayed; give it as bytes"):
            await link.request("POST", "/", body=body(), idempotent=True)
        assert taken == [b"one", b"two"]
        place.serves = resetting(Code.REFUSED_STREAM, 2)
        assert (await link.request("POST", "/", body=[b"one", b"two"])).status == 200
        # one that waits for its turn when the connection goes away
        place.serves, place.limit = None, 1
        place.wires[0].says(frames.settings({frames.Setting.MAX_CONCURRENT_STREAMS: 1}))
        first = asyncio.create_task(link.request("GET", "/"))
        await settle()
        waits = asyncio.create_task(link.request("POST", "/", body=body()))
        await settle()
        place.serves = at_once
        old = place.wires[0]
        old.goes_away(old.requests[0])
        assert (await waits).status == 200
        old.answers_all()
        assert (await first).status == 200


async def test_what_failed_goes_elsewhere_where_there_is_an_elsewhere(world: World, place: Place) -> None:
    """X2; to the same place where that is all that is left."""
    other = world.place("10.0.0.2", None)
    place.serves = None
    async with Link([URL, "http://10.0.0.2"], connections=2) as link:
        await settle()
        held = [asyncio.create_task(link.request("GET", "/")) for _ in range(20)]
        await settle()
        place.wires[0].answers_all()
        await settle()
        place.serves, other.serves = resetting(Code.REFUSED_STREAM), at_once
        place.asked = other.asked = 0
        for number in range(1, 4):  # the emptier one is asked first, the fuller one after it has refused
            assert (await link.request("GET", "/")).status == 200
            assert (place.asked, other.asked) == (number, number)
        place.serves, other.serves = resetting(Code.REFUSED_STREAM, 1), resetting(Code.REFUSED_STREAM, 1)
        assert (await link.request("GET", "/")).status == 200
        other.wires[0].answers_all()
        await asyncio.gather(*held)


async def test_a_request_goes_again_to_the_only_place_though_that_is_set_aside(place: Place) -> None:
    async with Link(URL) as link:
        place.serves = answering(503, ("retry-after", "30"))
        for _ in range(10):
            assert (await link.request("GET", "/")).status == 503
        place.serves = resetting(Code.REFUSED_STREAM, 3)
        assert (await link.request("GET", "/", timeout=1)).status == 200


@pytest.mark.bulk
async def test_the_budget_stops_a_storm(place: Place) -> None:
    """X3: each attempt fails as MaybeProcessed; attempts stay under 1.2 x requests + 10 a second."""
    place.serves = resetting(Code.INTERNAL_ERROR)
    seconds, rate = 20, 100
    async with Link(URL) as link:
        asking = []
        for _ in range(seconds * rate):
            asking.append(asyncio.create_task(link.request("GET", "/", idempotent=True)))
            await asyncio.sleep(1 / rate)
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(each, StreamReset) for each in results)
        requests = seconds * rate
        assert 1.1 * requests < place.asked <= 1.2 * requests + 10 * (seconds + 1)
        assert link.stats().retries["MaybeProcessed"] == place.asked - requests
        assert link.stats().retries_refused["BUDGET"] == requests


# --- G: going away ----------------------------------------------------------------------------------------------------


async def test_what_a_peer_that_goes_away_did_not_process_goes_elsewhere(place: Place) -> None:
    """G1, G2: with 1, 3, 5, 7 open and last=5 the fourth moves; a second GOAWAY with last=1 moves two more."""
    place.serves = None
    async with Link(URL) as link:
        asking = [asyncio.create_task(link.request("POST", f"/{number}")) for number in range(4)]
        await settle()
        old = place.wires[0]
        assert old.requests == [1, 3, 5, 7]
        place.serves = at_once
        old.goes_away(5)
        assert (await asking[3]).status == 200
        old.goes_away(1)
        assert [(await each).status for each in asking[1:3]] == [200, 200]
        old.answers(1)
        assert (await asking[0]).status == 200
        assert sorted(place.all[1].paths) == ["/1", "/2", "/3"]
        assert link.stats().retries == {"Unprocessed": 3}
        await settle()
        assert old.closed


async def test_answers_behind_a_goaway_in_the_same_read_count(place: Place) -> None:
    """G1."""
    place.serves = None
    async with Link(URL) as link:
        asking = [asyncio.create_task(link.request("POST", f"/{number}")) for number in range(4)]
        await settle()
        place.serves = at_once
        block = frames.encode(frames.response(204))
        ended = b"".join(frames.headers(stream_id, block, end_stream=True) for stream_id in (1, 3, 5))
        place.wires[0].says(frames.goaway(5) + ended)
        assert [reply.status for reply in await asyncio.gather(*asking)] == [204, 204, 204, 200]


async def test_when_stream_ids_run_out_the_next_request_goes_over_another_connection(place: Place) -> None:
    """G6: unseen, also with requests that wait."""
    async with Link(URL) as link:
        assert (await link.request("GET", "/first")).status == 200
        connections_of(link)[0].wire._inbox.last_own_id = MAX_STREAM_ID - 4
        place.serves, place.limit = None, 1
        place.wires[0].says(frames.settings({frames.Setting.MAX_CONCURRENT_STREAMS: 1}))
        await settle()
        place.serves, place.limit = at_once, 100
        asking: list[Any] = [asyncio.create_task(link.request("GET", f"/{number}")) for number in range(10)]
        assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 10
        assert [wire.paths for wire in place.all] == [["/first", "/0", "/1"], [f"/{number}" for number in range(2, 10)]]


async def test_a_request_between_two_attempts_is_seen_by_why(place: Place) -> None:
    """T7: it is on no connection and in no line then."""
    place.serves = resetting(Code.REFUSED_STREAM, 2)
    async with Link(URL, retry=Retry(pause=7.0)) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await asyncio.sleep(1)
        [said] = await link.why()
        assert (await asking).status == 200
        assert await link.why() == []
    assert said.waits_for is WaitsFor.ATTEMPT
    told = r"request-\d+ waits for its next attempt, since 1\.0 s: the last failed \(StreamReset\), and it goes again"
    assert re.search(told, said.text)
