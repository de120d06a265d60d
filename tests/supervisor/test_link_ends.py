"""How links end, whatever they are doing: nothing is left behind, and the figures stay true."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.errors import Closed, Misuse, Outcome
from actors.settings import Limits, Retry
from supervisor.link import Link
from supervisor.link_state import LinkState
from tests.supervisor.world import Wire, World
from tests.support import frames
from tests.support.frames import Code, Setting, Type
from tests.support.sides import settle

URL = "http://10.0.0.1"
pytestmark = pytest.mark.virtual_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def expect_nothing_left(world: World) -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [wire for wire in world.wires if not wire.closed] == []


# --- leaving ----------------------------------------------------------------------------------------------------------


async def _leave(link: Link) -> None:
    async with link:
        await link.request("GET", "/")


async def _leave_by_exception(link: Link) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (it is who is left that counts)
        async with link, link.stream("POST", "/") as stream:
            await stream.send(b"x")
            raise ZeroDivisionError


async def _leave_with_debug(link: Link) -> None:
    await link.healthy()
    await link.close(debug=b"bye")


@pytest.mark.parametrize("use", [_leave, _leave_by_exception, _leave_with_debug])
@pytest.mark.parametrize("connections", [1, 3])
async def test_cancelled_at_any_step_a_link_leaves_no_task_and_no_socket(
    world: World, use: Callable[[Link], Any], connections: int
) -> None:
    """R5, G4: from the first turn of the loop to the one in which it has been left; CancelledError is raised again."""
    world.name("service", "10.0.0.1")
    steps = 0
    while True:
        link = Link("http://service", connections=connections)
        task = asyncio.create_task(use(link))
        await settle(steps)
        ended = task.done()
        task.cancel()
        await asyncio.wait([task])
        if link.state is not LinkState.SHUTDOWN:
            await link.close()
        expect_nothing_left(world)
        assert task.cancelled() is not ended
        assert (link.stats().connections_open, link.stats().requests_open) == (0, 0)
        if ended:
            break
        steps += 1
    assert steps > 12


@pytest.mark.parametrize("slowly", [0.0, 5.0])
@pytest.mark.parametrize("seconds", [0.0, 2.0, 7.0, 12.0])
async def test_fifty_tasks_close_a_link_at_once_while_it_looks_up_dials_or_serves(
    world: World, slowly: float, seconds: float
) -> None:
    world.name("service", "10.0.0.1")
    world.slowly = slowly
    world.places["10.0.0.1"].serves = None
    link = Link("http://service", connections=2)
    asking: list[asyncio.Task[Any]] = [asyncio.create_task(link.request("GET", "/")) for _ in range(5)]
    asking += [asyncio.create_task(link.healthy()) for _ in range(5)]
    await asyncio.sleep(seconds)
    closing = [asyncio.create_task(link.close(debug=b"x" * (number % 2))) for number in range(50)]
    closing[7].cancel()
    await asyncio.wait(closing)
    assert sum(task.cancelled() for task in closing) == 1
    for result in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(result, float) or (isinstance(result, Closed) and "was closed" in str(result)), result
    expect_nothing_left(world)
    await link.close()


async def test_the_last_words_reach_each_connection(world: World) -> None:
    """G4."""
    place = world.places["10.0.0.1"]
    link = Link(URL, connections=2)
    await link.__aenter__()
    await settle()
    wires = list(place.wires)
    await link.close(debug=b"maintenance")
    await settle()
    for wire in wires:
        goodbye = wire.heard(Type.GOAWAY)[-1]
        assert (goodbye.code, goodbye.payload[8:]) == (Code.NO_ERROR, b"maintenance")
    with pytest.raises(Misuse, match="debug data is bytes"):
        await link.close(debug="text")  # type: ignore[arg-type]


async def test_a_socket_that_never_closes_holds_nobody_up_and_nothing_new_begins_meanwhile(world: World) -> None:
    """R4: no longer than shutdown_timeout."""
    world.name("service", "10.0.0.1")
    world.places["10.0.0.1"].stuck = True
    for debug in (b"", b"bye"):
        link = Link("http://service", limits=Limits(resolve_interval=0.1, shutdown_timeout=3))
        await link.healthy()
        await asyncio.sleep(0.95)
        began, lookups = asyncio.get_running_loop().time(), len(world.lookups)
        await link.close(debug=debug)
        assert asyncio.get_running_loop().time() - began <= 6.1
        assert len(world.lookups) == lookups
        await settle()
        expect_nothing_left(world)


async def test_what_is_open_or_waits_when_a_link_is_closed_gets_closed(world: World) -> None:
    """X1, L7."""
    place = world.places["10.0.0.1"]
    place.serves, place.limit = None, 2
    link = Link(URL, retry=Retry())
    asking = [asyncio.create_task(link.request("GET", "/", idempotent=True)) for _ in range(4)]
    await settle()
    await link.close()
    results: list[Any] = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(each) for each in results} == {Closed}
    assert [each.outcome for each in results] == [Outcome.MAYBE_PROCESSED] * 2 + [Outcome.NOT_SENT] * 2
    assert place.asked == 2
    expect_nothing_left(world)


async def test_a_repetition_that_waits_its_time_ends_with_the_link(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.serves = lambda wire, stream_id: wire.says(frames.rst(stream_id, Code.REFUSED_STREAM))
    link = Link(URL, retry=Retry(pause=10))
    asking = asyncio.create_task(link.request("GET", "/"))
    await asyncio.sleep(1)
    await link.close()
    with pytest.raises(Closed) as caught:
        await asking
    assert caught.value.outcome is Outcome.UNPROCESSED
    expect_nothing_left(world)


# --- figures ----------------------------------------------------------------------------------------------------------


async def test_figures_are_true_before_during_and_after(world: World) -> None:
    place = world.places["10.0.0.1"]
    link = Link(URL, connections=2, limits=Limits(max_pending=1))
    new = link.stats()
    assert (new.state, new.cause, new.addresses, new.connections_open, new.requests_total) == ("IDLE", "", (), 0, 0)
    place.serves, place.limit = None, 2
    async with link:
        await settle()
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(6)]
        await settle()
        stats = link.stats()
        assert (stats.requests_open, stats.requests_queued, stats.requests_total) == (4, 1, 4)
        assert (stats.connections_by_state, stats.streams_total) == ({"ready": 2}, 4)
        assert stats.addresses == ("10.0.0.1:80",)
        assert stats.refusals == {"max_pending": 1}
        assert [each.streams_open for each in stats.connection_stats] == [2, 2]
        lost, kept = list(place.wires)
        place.limit = 100
        lost.breaks()
        await settle()
        for wire in place.wires:
            wire.answers_all()
        await asyncio.gather(*asking, return_exceptions=True)
        stats = link.stats()
        assert (stats.requests_open, stats.requests_queued, stats.requests_total) == (0, 0, 5)
        assert (stats.connections_open, stats.streams_total) == (2, 5)
        assert stats.restarts == {"TransportLost": 1}
        assert stats.retries_refused == {"NOT_IDEMPOTENT": 2}
        said = sum(len(frame.payload) + 9 for wire in place.all for frame in wire.seen) + 24 * 3
        assert stats.bytes_sent == said
        assert kept in place.wires
    after = link.stats()
    assert (after.state, after.connections_open, after.connections_by_state) == ("SHUTDOWN", 0, {})
    assert (after.streams_total, after.requests_total, after.requests_open) == (5, 5, 0)
    assert "was closed" in after.cause
    assert after.bytes_sent >= said
    assert after.restarts == {"TransportLost": 1}


async def test_a_link_that_is_closed_while_it_dials_dials_no_more(world: World) -> None:
    world.slowly = 5
    link = Link(URL)
    link.connect_now()
    await asyncio.sleep(7)
    assert link.stats().connections_by_state == {"dialling": 1}
    await link.close()
    assert link.stats().connections_by_state == {}


# --- limits that change -----------------------------------------------------------------------------------------------


async def test_limits_that_change_hold_for_all_connections_and_for_later_ones(world: World) -> None:
    """W4: it returns when each connection has acknowledged them."""
    place = world.places["10.0.0.1"]
    async with Link(URL, connections=2) as link:
        await settle()
        await link.change_limits(Limits(stream_window=70_000))

        def window(wire: Wire) -> int:
            said = [each.settings for each in wire.heard(Type.SETTINGS, ack=False)]
            return [each[Setting.INITIAL_WINDOW_SIZE] for each in said if Setting.INITIAL_WINDOW_SIZE in each][-1]

        assert [window(wire) for wire in place.wires] == [70_000] * 2
        await asyncio.sleep(2)
        place.wires[0].breaks()
        await settle()
        assert [window(wire) for wire in place.all] == [70_000] * 3
        assert len(place.all[2].heard(Type.SETTINGS, ack=False)) == 1
        with pytest.raises(Misuse):
            await link.change_limits(None)  # type: ignore[arg-type]


async def test_limits_that_change_before_a_link_connects_hold_from_its_beginning(world: World) -> None:
    link = Link(URL)
    await link.change_limits(Limits(stream_window=70_000, max_pending=0))
    await link.healthy()
    said = world.wires[0].heard(Type.SETTINGS, ack=False)
    assert [each.settings[Setting.INITIAL_WINDOW_SIZE] for each in said] == [70_000]
    await link.close()
