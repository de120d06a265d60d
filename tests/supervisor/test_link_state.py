"""A link's states and their causes, and who watches them."""

import asyncio
import gc
import weakref

import pytest

from actors.errors import Closed, ConnectFailed, LinkError, Misuse, PingTimeout, TransportLost
from actors.settings import Backoff, Health
from supervisor.link import Link
from supervisor.link_state import MOST_CHANGES, Change, LinkState, States
from tests.supervisor.world import World

URL = "http://10.0.0.1"
IDLE, CONNECTING, READY, FAILED, SHUTDOWN = LinkState


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# --- states and their watchers, pure ----------------------------------------------------------------------------------


async def test_each_watcher_sees_each_change_since_it_came_and_then_the_end() -> None:
    states, trouble = States(), ConnectFailed("nobody there")
    early = states.watch()
    states.change(CONNECTING, None, 1.0)
    late = states.watch()
    states.change(FAILED, trouble, 2.0)
    assert not states.change(FAILED, trouble, 3.0)
    states.change(SHUTDOWN, Closed("closed"), 4.0)
    assert [(each.previous, each.state, each.at) for each in [change async for change in early]] == [
        (IDLE, CONNECTING, 1.0), (CONNECTING, FAILED, 2.0), (FAILED, SHUTDOWN, 4.0),
    ]  # fmt: skip
    seen = [change async for change in late]
    assert seen[0] == Change(FAILED, CONNECTING, trouble, 2.0)
    assert str(seen[0]) == "CONNECTING -> TRANSIENT_FAILURE: nobody there"
    assert [change async for change in states.watch()] == []


def test_the_last_state_and_its_cause_stay() -> None:
    states, why = States(), Closed("closed")
    states.change(SHUTDOWN, why, 1.0)
    assert not states.change(READY, None, 2.0)
    assert (states.state, states.cause) == (SHUTDOWN, why)


async def test_a_watcher_that_waits_is_woken_and_one_that_is_cancelled_misses_nothing() -> None:
    states = States()
    changes = states.watch()
    for turn in range(2):
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        waiting.cancel()
        if turn == 1:
            states.change(CONNECTING, None, 1.0)  # in the very turn in which it is cancelled
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    assert (await anext(changes)).state is CONNECTING


async def test_two_tasks_on_one_iterator_are_misuse() -> None:
    changes = States().watch()
    first = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    with pytest.raises(Misuse, match="its own link"):
        await anext(changes)
    first.cancel()
    await asyncio.wait([first])


async def test_a_watcher_that_takes_nothing_holds_little_and_knows_what_it_missed() -> None:
    states = States()
    changes = states.watch()
    for number in range(MOST_CHANGES + 9):
        states.change(READY if number % 2 else CONNECTING, None, float(number))
    states.change(SHUTDOWN, None, 1e6)
    seen = [change async for change in changes]
    assert len(seen) == MOST_CHANGES
    assert changes.missed == 10
    assert seen[-1].state is SHUTDOWN


def test_a_watcher_that_was_forgotten_is_none() -> None:
    states = States()
    ghost = weakref.ref(states.watch())
    gc.collect()
    assert ghost() is None
    assert not states._watchers
    states.change(CONNECTING, None, 1.0)


# --- a link's -----------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_links_life_in_states_each_with_its_cause(world: World) -> None:
    place = world.places["10.0.0.1"]
    link = Link(URL, backoff=Backoff(jitter=0), health=Health(interval=10, timeout=5, while_idle=True))
    assert (link.state, link.cause) == (IDLE, None)
    watching = link.changes()
    place.up = False
    with pytest.raises(ConnectFailed):
        await link.healthy()
    assert isinstance(link.cause, ConnectFailed)
    place.up = True
    await asyncio.sleep(1.5)
    assert (link.stats().state, link.stats().cause) == ("READY", "")
    await link.request("GET", "/")
    place.wires[0].breaks()
    await asyncio.sleep(1)
    place.wires[0].mute = True
    await asyncio.sleep(12)
    await link.close()
    assert isinstance(link.cause, Closed)
    seen = [(each.state, type(each.cause)) async for each in watching]
    nothing = type(None)
    assert seen == [
        (CONNECTING, nothing), (FAILED, ConnectFailed), (CONNECTING, ConnectFailed), (READY, nothing),
        (CONNECTING, TransportLost), (READY, nothing), (CONNECTING, PingTimeout), (READY, nothing), (SHUTDOWN, Closed),
    ]  # fmt: skip


@pytest.mark.virtual_time
async def test_a_link_that_is_ready_has_no_cause_though_one_of_its_connections_is_in_trouble(world: World) -> None:
    place = world.places["10.0.0.1"]
    async with Link(URL, connections=2) as link:
        await asyncio.sleep(5)
        place.up = False
        place.wires[0].breaks()
        await asyncio.sleep(30)
        assert (link.state, link.cause, link.stats().cause) == (READY, None, "")


async def test_a_link_that_was_never_entered_ends_its_watchers_too() -> None:
    link = Link(URL)
    watching = link.changes()
    await link.close()
    await link.close()
    assert [(each.previous, each.state, type(each.cause)) async for each in watching] == [(IDLE, SHUTDOWN, Closed)]


@pytest.mark.virtual_time
async def test_without_wait_for_ready_nobody_waits_for_the_next_attempt(world: World) -> None:
    """Both ways, and for one request other than for its link."""
    place = world.places["10.0.0.1"]
    place.up = False
    for patient in (False, True):
        link = Link(URL, wait_for_ready=patient, backoff=Backoff(initial=10, jitter=0))
        link.connect_now()
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        assert link.state is FAILED
        with pytest.raises(ConnectFailed) as caught:
            await link.request("GET", "/", wait_for_ready=False)
        with pytest.raises(ConnectFailed):
            async with link.stream("GET", "/", wait_for_ready=False):
                pytest.fail("it was opened")
        assert caught.value.outcome.value == "NotSent"
        assert asyncio.get_running_loop().time() == began
        if not patient:
            with pytest.raises(ConnectFailed):
                await link.request("GET", "/")
            with pytest.raises(ConnectFailed):
                await link.healthy()
        asking = [
            asyncio.create_task(link.request("GET", "/", wait_for_ready=None if patient else True)) for _ in range(3)
        ]
        await asyncio.sleep(2)
        place.up = True
        assert [each.status for each in await asyncio.gather(*asking)] == [200] * 3
        assert asyncio.get_running_loop().time() == pytest.approx(began + 9, abs=0.1)
        place.up = False
        await link.close()


@pytest.mark.virtual_time
async def test_those_who_wait_without_patience_learn_of_the_failure_together(world: World) -> None:
    """Each gets an error of its own, at once when the attempt has failed."""
    world.slowly = 2
    world.places["10.0.0.1"].up = False
    link = Link(URL)
    asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(20)]
    asking += [asyncio.create_task(link.healthy()) for _ in range(20)]  # type: ignore[arg-type]
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(each) for each in results} == {ConnectFailed}
    assert len({id(each) for each in results}) == 40
    assert asyncio.get_running_loop().time() == pytest.approx(4, abs=0.1)
    await link.close()


@pytest.mark.virtual_time
async def test_entering_with_wait_for_ready_waits_where_the_service_is_not_there_yet(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.up = False
    asyncio.get_running_loop().call_later(100, setattr, place, "up", True)
    async with Link(URL, wait_for_ready=True):
        assert 100 <= asyncio.get_running_loop().time() <= 118
    link = Link("http://10.0.0.2")
    with pytest.raises(LinkError):
        await link.__aenter__()
    assert link.state is SHUTDOWN
