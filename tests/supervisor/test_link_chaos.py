"""A link in a world where everything goes wrong at random: what must hold all the same."""

import asyncio
import random
from typing import Any

import pytest

from actors.errors import LinkError, Outcome
from actors.settings import Health, Limits
from supervisor.link import Link
from tests.supervisor.world import Place, Wire, World, answering, at_once
from tests.support import frames
from tests.support.frames import Code, Setting

HOSTS = [f"10.0.0.{number}" for number in range(1, 5)]


class Demon:
    """Does one bad thing after the other."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance

    def strike(self) -> None:
        chance = self.chance
        place: Place = chance.choice(list(self.world.places.values()))
        wires = place.wires
        match chance.randrange(9):
            case 0:
                place.up = not place.up
            case 1 if wires:
                chance.choice(wires).breaks()
            case 2 if wires:
                chance.choice(wires).goes_away(chance.choice((0, 1, 2**31 - 1)), b"", chance.choice((0, 11)))
            case 3 if wires:
                chance.choice(wires).mute = True
            case 4 if wires:
                place.limit = chance.choice((0, 1, 3, 100))
                chance.choice(wires).says(frames.settings({Setting.MAX_CONCURRENT_STREAMS: place.limit}))
            case 5:
                place.serves = chance.choice((at_once, self._later, self._refuse, answering(503), None))
            case 6:
                self.world.name("service", *chance.sample(HOSTS, chance.randrange(5)))
            case 7:
                place.answers_pings = not place.answers_pings
            case _:
                place.greets = chance.choice((lambda wire: None, lambda wire: None, lambda wire: wire.goes_away()))

    def _later(self, wire: Wire, stream_id: int) -> None:
        asyncio.get_running_loop().call_later(self.chance.random() * 3, wire.answers, stream_id)

    def _refuse(self, wire: Wire, stream_id: int) -> None:
        wire.says(frames.rst(stream_id, self.chance.choice((Code.REFUSED_STREAM, Code.INTERNAL_ERROR))))

    def rest(self) -> None:
        """All is well from now on."""
        self.world.name("service", *HOSTS)
        for place in self.world.places.values():
            place.up, place.answers_pings, place.limit, place.serves = True, True, 100, at_once
            place.greets = lambda wire: None
            for wire in list(place.wires):
                wire.says(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 100}))
                wire.answers_all()


@pytest.mark.virtual_time
@pytest.mark.bulk
@pytest.mark.parametrize("seed", range(12))
async def test_after_any_turmoil_a_link_is_whole_and_nobody_was_left_waiting(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """L3, L7, X1: each request ends, in its time, with a response or a typed error, and then all is well."""
    chance, world = random.Random(seed), World(monkeypatch)
    for host in HOSTS[1:]:
        world.place(host)
    world.name("service", *HOSTS)
    demon, loop = Demon(world, chance), asyncio.get_running_loop()
    health = Health(interval=5, timeout=2, before_request=3, while_idle=True)
    limits = Limits(resolve_interval=5, max_pending=20, settings_timeout=3)
    link = Link("http://service", connections=2, max_connections=4, health=health, limits=limits)
    tasks: list[asyncio.Task[Any]] = []
    outcomes: list[Outcome] = []

    async def ask() -> None:
        began, seconds = loop.time(), chance.choice((0.5, 2.0, 8.0))
        try:
            await link.request(
                "POST", "/", body=chance.choice((b"", b"whole", [b"pie", b"ces"])), timeout=seconds,
                idempotent=chance.random() < 0.5, wait_for_ready=chance.random() < 0.5,
            )  # fmt: skip
        except LinkError as error:
            outcomes.append(error.outcome)
        assert loop.time() - began <= seconds + 0.1

    for _ in range(400):
        tasks.append(asyncio.create_task(ask()))
        if chance.random() < 0.5:
            demon.strike()
        if chance.random() < 0.1:
            chance.choice(tasks).cancel()
        if chance.random() < 0.02:
            link.connect_now()
        await asyncio.sleep(chance.random() * 0.3)
    demon.rest()
    await asyncio.sleep(100)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each for each in results if each is not None and not isinstance(each, asyncio.CancelledError)] == []
    assert {Outcome.NOT_SENT, Outcome.MAYBE_PROCESSED} <= set(outcomes)
    stats = link.stats()
    assert (stats.requests_open, stats.requests_queued, stats.state, stats.cause) == (0, 0, "READY", "")
    assert stats.connections_by_state == {"ready": 2}
    assert sum(len(place.wires) for place in world.places.values()) == 2
    assert link._pool.load == sum(member.load for member in link._pool.members) == 0
    await link.close()
    assert link.stats().connections_open == 0
