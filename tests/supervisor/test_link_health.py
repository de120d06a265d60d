"""Signs of life: who is asked for one, when, and what is done where it does not come."""

import asyncio
import itertools
import logging
from typing import Any

import pytest

from actors.errors import ConnectFailed, DeadlineExceeded, Misuse, Outcome, PingTimeout
from actors.settings import Health
from supervisor.link import Link
from supervisor.link_state import LinkState
from tests.supervisor.world import World, at_once
from tests.support import frames
from tests.support.frames import Code, Type
from tests.support.sides import settle

URL = "http://10.0.0.1"
pytestmark = pytest.mark.virtual_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- healthy ----------------------------------------------------------------------------------------------------------


async def test_fifty_who_ask_share_one_ping_after_a_silence_and_need_none_before(world: World) -> None:
    """H1: the round-trip time is returned."""
    place = world.places["10.0.0.1"]
    place.answers_pings = False
    async with Link(URL) as link:
        await settle()
        wire = place.wires[0]
        for _ in range(20):
            await asyncio.sleep(10)
            await link.request("GET", "/")
            assert await link.healthy() == 0
        assert wire.heard(Type.PING) == []
        await asyncio.sleep(61)
        asking: list[asyncio.Task[Any]] = [asyncio.create_task(link.healthy()) for _ in range(50)]
        asking += [asyncio.create_task(link.request("GET", "/")) for _ in range(50)]
        await asyncio.sleep(0.25)
        (ping,) = wire.heard(Type.PING)
        assert place.asked == 20  # nothing goes out before it is known to be alive
        wire.says(frames.ping(ping.payload, ack=True))
        results = await asyncio.gather(*asking)
        assert results[:50] == [pytest.approx(0.25)] * 50
        assert [each.status for each in results[50:]] == [200] * 50
        assert await link.healthy() == pytest.approx(0.25)
        assert len(wire.heard(Type.PING)) == 1


async def test_a_link_in_a_dead_world_is_not_healthy(world: World) -> None:
    place = world.places["10.0.0.1"]
    async with Link(URL, health=Health(timeout=3, suspect=1)) as link:
        place.answers_pings = False
        place.up = False
        await asyncio.sleep(100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await link.healthy()
        with pytest.raises(DeadlineExceeded, match=r"no living connection within 0.2 s"):
            await link.healthy(timeout=0.2)
        with pytest.raises(Misuse, match="a timeout is a number of seconds above 0"):
            await link.healthy(timeout=0)
        await asyncio.sleep(10)
        with pytest.raises(ConnectFailed, match="Connection refused"):
            await link.healthy()
        place.up = place.answers_pings = True
        link.connect_now()
        assert await link.healthy() >= 0


async def test_with_its_defaults_an_idle_link_says_nothing_for_an_hour(world: World) -> None:
    """H5."""
    async with Link(URL, connections=2) as link:
        await settle()
        before = [len(wire.seen) for wire in world.wires]
        await asyncio.sleep(3600)
        assert [len(wire.seen) for wire in world.wires] == before
        assert link.state is LinkState.READY


# --- silence ----------------------------------------------------------------------------------------------------------


async def test_while_a_connection_is_suspect_another_is_dialled_and_the_first_alive_serves(world: World) -> None:
    """H7: the replacement, where it is ready first; the suspect itself, where that answers first."""
    place = world.places["10.0.0.1"]
    async with Link(URL, health=Health(suspect=0.5, timeout=10)) as link:
        place.answers_pings = False
        await asyncio.sleep(100)
        assert (await link.request("GET", "/", timeout=5)).status == 200
        assert now() == pytest.approx(100.5, abs=0.1)
        assert len(place.all) == 2
        assert place.all[1].paths == ["/"]
        assert link.stats().connections_by_state == {"suspect": 1, "ready": 1}
        await asyncio.sleep(15)
        assert link.stats().connections_open == 1
        assert link.stats().restarts == {"PingTimeout": 1}
        assert link.stats().cause == ""
        # and now it takes long to dial, so that the suspect is the first
        world.slowly = 5
        await asyncio.sleep(100)
        asking = asyncio.create_task(link.request("GET", "/again"))
        await asyncio.sleep(1)
        assert link.stats().state == "CONNECTING"
        assert isinstance(link.cause, PingTimeout)
        place.all[1].says(bytes((0, 0, 0, 0x20, 0, 0, 0, 0, 0)))  # any frame is life
        assert (await asking).status == 200
        assert place.all[1].paths == ["/", "/again"]
        await asyncio.sleep(10)
        assert len(place.all) == 2  # the dial was called off


async def test_two_suspects_at_once_are_both_replaced(world: World) -> None:
    """H2, H7."""
    place = world.places["10.0.0.1"]
    health = Health(interval=10, timeout=5, while_idle=True)
    async with Link(URL, connections=2, health=health) as link:
        await settle()
        for wire in place.wires:
            wire.mute = True
        await asyncio.sleep(11)
        assert link.stats().connections_by_state == {"suspect": 2, "ready": 2}
        await asyncio.sleep(10)
        assert link.stats().connections_by_state == {"ready": 2}
        assert [each.mute for each in place.wires] == [False, False]


async def test_a_black_holed_connection_is_dead_in_time_and_its_request_told_so(world: World) -> None:
    """H2, X1: within interval + timeout + 10 %; what was sent may have been processed."""
    place = world.places["10.0.0.1"]
    place.serves = None
    async with Link(URL, health=Health.fast()) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await settle()
        place.all[0].mute = True
        with pytest.raises(PingTimeout) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        assert 15 <= now() <= 16.5
        place.serves = at_once
        assert (await link.request("GET", "/")).status == 200


async def test_too_many_pings_makes_them_rarer_for_later_connections(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """H3."""
    place = world.places["10.0.0.1"]
    times: list[float] = []
    with caplog.at_level(logging.WARNING, "muxlink.link"):
        async with Link(URL, health=Health(interval=10, while_idle=True)) as link:
            for most in (10, 20, 40):
                await settle()
                wire, began = place.wires[-1], now()
                for _ in itertools.takewhile(lambda _, wire=wire: not wire.heard(Type.PING), range(10 * most)):  # type: ignore[misc]
                    await asyncio.sleep(0.5)
                times.append(now() - began)
                await link.request("GET", "/")
                wire.goes_away(2**31 - 1, b"too_many_pings", Code.ENHANCE_YOUR_CALM)
                await settle()
    assert times == pytest.approx([10, 20, 40], abs=1)
    assert len([each for each in caplog.records if "too many" in each.message]) == 1
