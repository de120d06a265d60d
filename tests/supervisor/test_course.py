"""A request's place on a link: first come first served, never more than the service allows, and given back always."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.client_stream import ClientStream
from actors.errors import Closed, DeadlineExceeded, LimitReached, Misuse, Outcome
from actors.settings import Limits
from supervisor.link import Link
from supervisor.link_state import LinkState
from tests.supervisor.world import Place, Wire, World
from tests.support import frames
from tests.support.frames import Setting, Type
from tests.support.sides import settle

URL = "http://10.0.0.1"
pytestmark = pytest.mark.virtual_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def place(world: World) -> Place:
    """The one place, where the test answers by hand."""
    world.places["10.0.0.1"].serves = None
    return world.places["10.0.0.1"]


def after(seconds: float) -> Callable[[Wire, int], None]:
    return lambda wire, stream_id: _later(seconds, wire, stream_id)


def _later(seconds: float, wire: Wire, stream_id: int) -> None:
    asyncio.get_running_loop().call_later(seconds, wire.answers, stream_id)


def asks(link: Link, count: int, **options: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(link.request("GET", f"/{number}", **options)) for number in range(count)]


def allow(wire: Wire, streams: int) -> None:
    wire.says(frames.settings({Setting.MAX_CONCURRENT_STREAMS: streams}))


def expect_nothing_held(link: Link) -> None:
    stats = link.stats()
    assert (stats.requests_open, stats.requests_queued) == (0, 0)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 4])
async def test_fifty_requests_where_three_are_allowed_go_in_order_three_at_a_time(
    world: World, place: Place, most: int
) -> None:
    """L1: never more than 3 open on any connection, first come first served, and all complete."""
    place.limit, place.serves = 3, after(0.1)
    async with Link(URL, max_connections=most) as link:
        asking = asks(link, 50)
        assert {reply.status for reply in await asyncio.gather(*asking)} == {200}
        assert [wire.most for wire in place.all] == [3] * most
        for wire in place.all:
            numbers = [int(path[1:]) for path in wire.paths]
            assert numbers == sorted(numbers)
        expect_nothing_held(link)


async def test_a_limit_that_drops_lets_the_open_ones_finish_and_the_new_ones_wait(place: Place) -> None:
    """L2: from 100 to 1 with 50 open."""
    async with Link(URL) as link:
        asking = asks(link, 50)
        await settle()
        wire = place.wires[0]
        assert len(wire.requests) == 50
        allow(wire, 1)
        await settle()
        late = asks(link, 5)
        await settle()
        for stream_id in list(wire.requests)[:49]:
            wire.answers(stream_id)
            await settle()
            assert len(wire.paths) == 50
        for expected in range(51, 56):
            wire.answers_all()
            await settle()
            assert len(wire.paths) == expected
            assert len(wire.requests) == 1
        wire.answers_all()
        assert {reply.status for reply in await asyncio.gather(*asking, *late)} == {200}


async def test_where_none_is_allowed_requests_wait_until_some_are_or_their_time_is_up(place: Place) -> None:
    """L2: 0, also in the first SETTINGS."""
    place.limit, place.serves = 0, after(0)
    async with Link(URL) as link:
        assert link.state is LinkState.READY
        with pytest.raises(DeadlineExceeded, match=r"no place on a connection to 10.0.0.1:80 within 2 s") as caught:
            await link.request("GET", "/", timeout=2)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert asyncio.get_running_loop().time() == pytest.approx(2, abs=0.01)
        asking = asks(link, 3)
        await asyncio.sleep(100)
        assert place.asked == 0
        allow(place.wires[0], 2)
        assert {reply.status for reply in await asyncio.gather(*asking)} == {200}
        assert place.wires[0].most <= 2


async def test_before_the_settings_came_few_are_opened(world: World, place: Place) -> None:
    """L4: 150 at once; however many the peer allows in the end, at most 100 go out before it has said so."""
    place.limit = None
    link = Link(URL)
    asking = asks(link, 150)
    await asyncio.sleep(1)
    wire = place.wires[0]
    assert len(wire.heard(Type.HEADERS)) <= 100
    place.limit, place.serves = 1000, after(0)
    wire.says(frames.settings() + frames.settings(ack=True))
    assert {reply.status for reply in await asyncio.gather(*asking)} == {200}
    await link.close()


async def test_more_than_max_pending_are_refused_at_once(place: Place) -> None:
    """L5; the limit can be changed at any time."""
    place.limit = 1
    async with Link(URL, limits=Limits(max_pending=5)) as link:
        asking = asks(link, 6)
        await settle()
        with pytest.raises(LimitReached, match=r"5 requests waiting already \(Limits.max_pending\)") as caught:
            await link.request("GET", "/")
        with pytest.raises(LimitReached):
            async with link.stream("GET", "/"):
                pytest.fail("it was opened")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert link.stats().refusals == {"max_pending": 2}
        assert (link.stats().requests_open, link.stats().requests_queued) == (1, 5)
        await link.change_limits(Limits(max_pending=6))
        asking += asks(link, 1)
        place.serves = after(0)
        place.wires[0].answers_all()
        assert {reply.status for reply in await asyncio.gather(*asking)} == {200}


async def test_hundreds_of_waiters_each_keep_their_deadline(place: Place) -> None:
    place.limit = 1
    async with Link(URL) as link:
        began = asyncio.get_running_loop().time()
        ended: list[float] = []

        async def ask(seconds: float) -> None:
            with pytest.raises(DeadlineExceeded):
                await link.request("GET", "/", timeout=seconds)
            ended.append(asyncio.get_running_loop().time() - began - seconds)

        await asyncio.gather(*[ask(1 + number / 100) for number in range(300)])
        assert max(ended) < 0.05
        expect_nothing_held(link)
        place.serves = after(0)
        assert (await link.request("GET", "/")).status == 200


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_a_cancelled_waiter_frees_its_place_a_thousand_times_in_a_thousand(place: Place) -> None:
    """L3: before its turn came, in the moment when it came, and after."""
    place.limit = 1
    async with Link(URL) as link:
        loop = asyncio.get_running_loop()
        for turn in range(1000):
            first, second, third = asks(link, 3)
            await settle(3)
            match turn % 4:
                case 0:
                    second.cancel()
                    first.cancel()
                case 1:
                    first.cancel()
                    loop.call_soon(second.cancel)  # the place was given in this very turn of the loop
                case 2:
                    first.cancel()
                    await settle(2)
                    second.cancel()
                case _:
                    first.cancel()
                    await settle()
                    second.cancel()
            await settle()
            assert link.stats().requests_open == 1
            assert not third.done()
            place.wires[0].answers(place.wires[0].requests[-1])
            assert (await third).status == 200
            assert first.cancelled()
            assert second.cancelled()
            expect_nothing_held(link)
        assert place.wires[0].requests == []


async def _request(link: Link) -> object:
    return await link.request("POST", "/", body=b"body", timeout=9)


async def _request_apart(link: Link) -> object:
    return await link.request("POST", "/", body=[b"bo", b"dy"])


async def _stream(link: Link) -> object:
    async with link.stream("POST", "/", body=b"body") as stream:
        return await _use(stream)


async def _use(stream: ClientStream) -> object:
    return await stream.response()


@pytest.mark.parametrize("ask", [_request, _request_apart, _stream])
@pytest.mark.parametrize("crowded", [False, True])
async def test_cancelled_at_any_step_a_request_leaves_nothing_behind(
    world: World, place: Place, ask: Callable[[Link], Any], crowded: bool
) -> None:
    """L3, R5: at each turn of the loop from the first to the one in which the answer is there."""
    place.limit, place.serves = 1, after(0)
    steps = done = 0
    while done < 3:
        link = Link(URL)
        other = asyncio.create_task(link.request("GET", "/other")) if crowded else None
        task = asyncio.create_task(ask(link))
        await settle(steps)
        done += task.done()
        task.cancel()
        await asyncio.wait([task])
        if other is not None:
            await other
        await settle()
        expect_nothing_held(link)
        assert (await link.request("GET", "/after", timeout=9)).status == 200
        await link.close()
        assert world.wires == []
        steps += 1
    assert steps > 15


async def test_a_wait_that_ends_with_a_pause_between_two_attempts_leaves_nothing_behind(place: Place) -> None:
    """Cancelled while it waits to be sent again."""
    place.serves = lambda wire, stream_id: wire.says(frames.rst(stream_id, frames.Code.REFUSED_STREAM))
    async with Link(URL) as link:
        for seconds in (0.01, 0.05, 0.1):
            task = asyncio.create_task(link.request("GET", "/"))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            expect_nothing_held(link)


# --- whose link it is -------------------------------------------------------------------------------------------------


async def test_a_link_need_not_be_entered_and_says_when_it_was_closed(place: Place) -> None:
    place.serves = after(0)
    link = Link(URL)
    assert {reply.status for reply in await asyncio.gather(*asks(link, 3))} == {200}
    async with link:  # what it does already, it goes on doing
        assert len(place.all) == 1
    with pytest.raises(Misuse, match="entered once"):
        await link.__aenter__()
    for call in (link.request("GET", "/"), link.healthy(), link.ping()):
        with pytest.raises(Closed, match="was closed"):
            await call
    with pytest.raises(Closed):
        link.connect_now()
    with pytest.raises(Closed):
        async with link.stream("GET", "/"):
            pytest.fail("it was opened")


async def test_many_tasks_enter_and_use_one_link(place: Place) -> None:
    """While one enters it, others ask already."""
    place.serves = after(0)
    link = Link(URL)
    asking = asks(link, 20)
    async with link:
        async with asyncio.TaskGroup() as tasks:
            asking += [tasks.create_task(link.request("GET", "/")) for _ in range(20)]
        assert {reply.status for reply in await asyncio.gather(*asking)} == {200}
        assert len(place.all) == 1
