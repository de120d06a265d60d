"""What a link keeps up: dials and their waits, names, suspects, crashes, and how many connections there are."""

import asyncio
import logging
from typing import Any

import pytest

from actors.errors import Closed, ConnectFailed, GoAway, LinkError, Outcome
from actors.settings import Backoff, Limits
from supervisor.link import Link
from supervisor.link_state import LinkState
from tests.supervisor.world import World, at_once
from tests.support.sides import connections_of, settle

URL = "http://10.0.0.1"
pytestmark = pytest.mark.virtual_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- waits ------------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_ten_thousand_refused_dials_leave_a_link_alive_that_waits_15_seconds(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """L6."""
    caplog.set_level(logging.ERROR, "muxlink.link")
    place = world.places["10.0.0.1"]
    place.up = False
    link = Link(URL, wait_for_ready=True)
    asking = asyncio.create_task(link.request("GET", "/"))
    while len(place.dials) < 10_000:  # noqa: ASYNC110  (nobody sets an event for it)
        await asyncio.sleep(1000)
    waits = [later - earlier for earlier, later in zip(place.dials, place.dials[1:], strict=False)]
    assert 0.8 <= waits[0] <= 1.2
    late = waits[10:]
    assert 12 - 1e-3 <= min(late) <= max(late) <= 18 + 1e-3
    assert 14.5 <= sum(late) / len(late) <= 15.5
    assert link.state is LinkState.TRANSIENT_FAILURE
    place.up = True
    link.connect_now()
    assert (await asking).status == 200
    assert now() - place.dials[-1] < 0.1
    await link.close()


async def test_connect_now_begins_the_waits_anew(world: World) -> None:
    """L6: the wait that was cut short does not come back when the attempt fails again."""
    place = world.places["10.0.0.1"]
    place.up = False
    link = Link(URL, backoff=Backoff(jitter=0))
    link.connect_now()
    await asyncio.sleep(100)
    before = len(place.dials)
    link.connect_now()
    await asyncio.sleep(8)
    waits = [at - place.dials[before] for at in place.dials[before:]]
    assert waits == pytest.approx([0, 1, 2.6, 5.16], abs=0.05)
    await link.close()


async def test_a_name_that_changes_or_appears_ends_the_wait(world: World) -> None:
    """L6: a change in DNS wakes a link that waits, also when the name had no address before."""
    for first in (["10.0.0.9"], []):
        world.name("service", *first)
        link = Link("http://service", wait_for_ready=True)
        asking = asyncio.create_task(link.request("GET", "/"))
        await asyncio.sleep(200)
        assert link.state is LinkState.TRANSIENT_FAILURE
        world.name("service", "10.0.0.1")
        began = now()
        assert (await asking).status == 200
        assert now() - began <= 5.1
        await link.close()


async def test_looking_for_addresses_while_it_waits_is_no_new_attempt(world: World) -> None:
    """The state stays TRANSIENT_FAILURE between two attempts, so that requests go on failing fast."""
    world.name("service", "10.0.0.9")
    world.slowly = 0.5
    link = Link("http://service", backoff=Backoff(initial=60, maximum=60, jitter=0))
    link.connect_now()
    watching = link.changes()
    await asyncio.sleep(50)
    world.slowly = 0
    link.connect_now()
    await asyncio.sleep(0)
    await link.close()
    said = [change.state async for change in watching]
    assert said[:2] == [LinkState.CONNECTING, LinkState.TRANSIENT_FAILURE]
    assert said.count(LinkState.TRANSIENT_FAILURE) == 1


async def test_a_place_that_failed_is_tried_with_one_connection_at_a_time(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.up = False
    link = Link(URL, connections=4, backoff=Backoff(jitter=0))
    link.connect_now()
    await asyncio.sleep(0.5)
    assert len(place.dials) == 4
    world.slowly = 0.1
    for _ in range(20):  # whatever else the keeper is told meanwhile
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectFailed):
            await link.healthy()
    assert len(place.dials) == 5
    place.up = True
    await asyncio.sleep(5)
    assert len(place.wires) == 4
    await link.close()


async def test_a_peer_that_goes_away_at_once_each_time_is_dialled_after_waits_that_grow(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.greets = lambda wire: wire.goes_away()
    link = Link(URL, backoff=Backoff(jitter=0))
    with pytest.raises(GoAway, match="is going away"):
        async with link:
            pytest.fail("it was entered")
    link = Link(URL, backoff=Backoff(jitter=0), wait_for_ready=True)
    link.connect_now()
    place.dials.clear()
    await asyncio.sleep(30)
    assert place.dials[1:] == pytest.approx([0, 1, 2.6, 5.16, 9.256, 15.81, 26.3], abs=0.1)
    assert link.stats().restarts["GoAway"] == len(place.dials)
    place.greets = lambda wire: None
    assert (await link.request("GET", "/")).status == 200
    await link.close()


async def test_a_peer_that_accepts_and_says_nothing_is_left_after_its_time(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.limit = None
    link = Link(URL, limits=Limits(settings_timeout=3), backoff=Backoff(jitter=0))
    with pytest.raises(LinkError, match="settings_timeout"):
        await link.request("GET", "/", timeout=20)
    assert now() == pytest.approx(3, abs=0.1)
    assert link.state is LinkState.TRANSIENT_FAILURE
    place.limit = 100
    assert (await link.request("GET", "/", wait_for_ready=True)).status == 200
    await link.close()


# --- crashes ----------------------------------------------------------------------------------------------------------


def crash(link: Link, number: int = 0) -> None:
    """Let a fault of our own happen in one of the connections, at its next byte."""

    def fail(data: bytes) -> None:
        raise RuntimeError("a fault of our own")

    connections_of(link)[number].wire.take_in = fail


@pytest.mark.logs_errors("connection-.* crashed", "link-.* crashed")
async def test_five_crashes_are_borne_and_the_sixth_in_30_seconds_ends_the_link(world: World) -> None:
    """R1, L7: everyone who waits gets SHUTDOWN's cause."""
    place = world.places["10.0.0.1"]
    link = Link(URL)
    watching = link.changes()
    await link.__aenter__()
    for _ in range(5):
        crash(link)
        place.wires[0].says(b"x")
        await asyncio.sleep(1)
        assert (await link.request("GET", "/")).status == 200
    assert link.stats().restarts == {"RuntimeError": 5}
    place.serves = None
    open_now = asyncio.create_task(link.request("GET", "/"))
    await settle()
    place.limit = 0
    crash(link)
    place.wires[0].says(b"x")
    with pytest.raises(Closed, match="connection-6 has ended") as caught:
        await open_now
    assert caught.value.outcome is Outcome.MAYBE_PROCESSED
    await settle()
    assert link.state is LinkState.SHUTDOWN
    assert isinstance(link.cause, Closed)
    with pytest.raises(Closed, match="gave up: too many faults"):
        await link.request("GET", "/")
    with pytest.raises(Closed, match="gave up"):
        await link.healthy()
    with pytest.raises(Closed, match="gave up"):
        link.connect_now()
    last = [change async for change in watching][-1]
    assert (last.state, last.cause) == (LinkState.SHUTDOWN, link.cause)
    await link.close()


@pytest.mark.logs_errors("connection-.* crashed")
async def test_crashes_that_are_rare_are_borne_for_ever(world: World) -> None:
    """R1: five in 30 s are no more than five an hour."""
    async with Link(URL) as link:
        for _ in range(20):
            crash(link)
            world.wires[0].says(b"x")
            await asyncio.sleep(7)
            assert link.state is LinkState.READY


@pytest.mark.logs_errors("connection-.* crashed")
async def test_those_who_waited_when_a_connection_crashed_go_elsewhere(world: World) -> None:
    """X2: they never were on the wire."""
    place = world.places["10.0.0.1"]
    place.limit, place.serves = 1, None
    async with Link(URL) as link:
        asking = [asyncio.create_task(link.request("GET", f"/{number}")) for number in range(5)]
        await settle()
        place.serves = at_once
        crash(link)
        place.wires[0].says(b"x")
        results: list[Any] = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(results[0], Closed)
        assert results[0].outcome is Outcome.MAYBE_PROCESSED
        assert [each.status for each in results[1:]] == [200] * 4


@pytest.mark.logs_errors("connection-.* crashed")
@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("stuck", [False, True])
async def test_whoever_comes_while_a_connection_dies_is_served_by_the_next(
    world: World, turns: int, stuck: bool
) -> None:
    """X2: what never was on the wire is no failure, however the connection ends and however long that takes."""
    place = world.places["10.0.0.1"]
    place.stuck = stuck
    async with Link(URL) as link:
        for end in ("loss", "goaway", "violation", "crash"):
            await asyncio.sleep(2)
            for wire in place.wires[:-1]:
                wire.abort()
            await settle()
            match end:
                case "loss":
                    place.wires[0].breaks()
                case "goaway":
                    place.wires[0].goes_away()
                case "violation":
                    place.wires[0].says(b"\0\0\0\x04\0\0\0\0\5")
                case _:
                    crash(link)
                    place.wires[0].says(b"x")
            await settle(turns)
            asking = [asyncio.create_task(link.request("POST", "/", body=b"x")) for _ in range(3)]
            for result in await asyncio.gather(*asking, return_exceptions=True):
                known = result.outcome if isinstance(result, LinkError) else None
                assert known in (None, Outcome.MAYBE_PROCESSED), result
        place.stuck = False


# --- how many ---------------------------------------------------------------------------------------------------------


async def test_three_connections_are_kept_whatever_ends(world: World) -> None:
    place = world.places["10.0.0.1"]
    async with Link(URL, connections=3) as link:
        for end in ("breaks", "goes_away"):
            await asyncio.sleep(2)
            assert len(place.wires) == 3
            for wire in place.wires[:2]:
                getattr(wire, end)()
            await asyncio.sleep(0.1)
            assert link.state is LinkState.READY
        await asyncio.sleep(2)
        assert len(place.wires) == 3
        assert link.stats().connections_by_state == {"ready": 3}


async def test_over_a_connections_limit_others_are_made_and_let_go_once_idle(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.serves, place.limit = None, 10
    async with Link(URL, max_connections=3) as link:
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(25)]
        await asyncio.sleep(1)
        assert sorted(len(wire.requests) for wire in place.wires) == [5, 10, 10]
        for wire in place.wires:
            wire.answers_all()
        await asyncio.gather(*asking)
        await asyncio.sleep(100)
        assert len(place.wires) == 1
        assert link.stats().restarts == {}  # nothing ended that was not asked to
        # and again: what was wanted once can be wanted twice
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(25)]
        await asyncio.sleep(1)
        assert len(place.wires) == 3
        for wire in place.wires:
            wire.answers_all()
        await asyncio.gather(*asking)


async def test_a_spill_that_was_needed_no_more_can_be_needed_again(world: World) -> None:
    """The first demand is gone before the keeper looks; the next one is not forgotten."""
    place = world.places["10.0.0.1"]
    place.serves, place.limit = None, 2
    async with Link(URL, max_connections=2) as link:
        first = [asyncio.create_task(link.request("GET", "/")) for _ in range(2)]
        await settle()
        third = asyncio.create_task(link.request("GET", "/"))
        await asyncio.sleep(0)
        third.cancel()
        await settle()
        more = [asyncio.create_task(link.request("GET", "/")) for _ in range(2)]
        await asyncio.sleep(1)
        assert sum(len(wire.requests) for wire in place.wires) == 4
        for wire in place.wires:
            wire.answers_all()
        await asyncio.gather(*first, *more)


async def test_a_spill_whose_dial_was_called_off_can_be_needed_again(world: World) -> None:
    place = world.places["10.0.0.1"]
    place.serves, place.limit = None, 2
    async with Link(URL, max_connections=2) as link:
        world.slowly = 0.5
        first = [asyncio.create_task(link.request("GET", "/")) for _ in range(3)]
        await settle()
        first.pop().cancel()
        await settle()
        link.connect_now()  # anything that makes the keeper look again
        await asyncio.sleep(2)
        more = [asyncio.create_task(link.request("GET", "/")) for _ in range(2)]
        await asyncio.sleep(2)
        assert sum(len(wire.requests) for wire in place.wires) == 4
        for wire in place.wires:
            wire.answers_all()
        await asyncio.gather(*first, *more)
