"""A service in several places: names that change, places that fail or come back, and who is told which authority."""

import asyncio
import os
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from actors.addresses import Address, Endpoint
from actors.errors import LinkError
from actors.messages import Peer
from actors.server_stream import ServerStream
from actors.settings import Backoff, Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.actors.test_dialling import black_hole
from tests.supervisor.world import Place, World, answering, at_once
from tests.support.certificates import Authority
from tests.support.frames import Type
from tests.support.sides import settle, until

FOUR = [f"10.0.0.{number}" for number in range(1, 5)]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def asked(places: list[Place]) -> list[int]:
    """The requests of each since the last call."""
    counts = [place.asked for place in places]
    for place in places:
        place.asked = 0
    return counts


def common_name(peer: Peer) -> object:
    assert peer.certificate is not None
    subject = peer.certificate["subject"]
    assert isinstance(subject, tuple)
    return dict(pair for group in subject for pair in group).get("commonName")


async def ask(link: Link, seconds: float, rate: int = 50) -> None:
    """Requests at a steady rate, as services have; any status will do."""
    for _ in range(round(seconds * rate)):
        await link.request("GET", "/")
        await asyncio.sleep(1 / rate)


async def answer(stream: ServerStream) -> None:
    await stream.respond(200)


# --- names that change ------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_when_the_addresses_change_the_new_ones_serve_and_the_gone_ones_are_drained(world: World) -> None:
    """L8: without a failed request; a stream that is open on a gone one finishes there."""
    world.name("service", *FOUR[:2])
    places = [world.places["10.0.0.1"], *map(world.place, FOUR[1:])]
    async with Link("http://service", connections=2) as link:
        await ask(link, 2)
        assert min(asked(places)[:2]) > 40
        places[0].serves = None
        slow = asyncio.create_task(link.request("GET", "/slow"))
        await settle()
        places[0].serves = at_once
        world.name("service", *FOUR[1:3])
        await ask(link, 40, rate=5)
        asked(places)
        old = places[0].wires[0]
        await ask(link, 2)
        assert asked(places)[0] == 0
        assert [len(place.wires) for place in places] == [1, 1, 1, 0]
        assert old.heard(Type.GOAWAY)
        old.answers_all()
        assert (await slow).status == 200
        await settle()
        assert [len(place.wires) for place in places] == [0, 1, 1, 0]
        assert link.stats().addresses == ("10.0.0.2:80", "10.0.0.3:80")
        assert link.stats().restarts == {}


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_where_the_new_address_does_not_serve_the_gone_one_is_kept(world: World) -> None:
    """L8."""
    place, new = world.places["10.0.0.1"], world.place("10.0.0.2")
    new.up = False
    world.name("service", "10.0.0.1")
    async with Link("http://service") as link:
        world.name("service", "10.0.0.2")
        await ask(link, 60, rate=5)
        assert link.state.name == "READY"
        new.up = True
        await ask(link, 20, rate=5)
        assert [len(place.wires), len(new.wires)] == [0, 1]


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_a_name_server_that_fails_changes_nothing(world: World) -> None:
    place = world.places["10.0.0.1"]
    world.name("service", "10.0.0.1")
    async with Link("http://service") as link:
        world.name("service")
        await ask(link, 100, rate=1)
        assert len(place.all) == 1
        place.wires[0].breaks()
        await settle()
        await ask(link, 5)
        assert link.stats().addresses == ("10.0.0.1:80",)


async def test_real_servers_that_come_and_go_by_name_fail_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """L8, with sockets: three servers, of which two are in the name at a time."""
    addresses: list[Address] = []

    async def resolve(endpoint: Endpoint, *, timeout: float) -> tuple[Address, ...]:
        return tuple(addresses)

    monkeypatch.setattr("supervisor.errands.resolve", resolve)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Server(answer)) for _ in range(3)]
        found = [Address(Endpoint("service", 80), 2, ("127.0.0.1", server.port)) for server in servers]
        addresses[:] = found[:2]
        link = await stack.enter_async_context(
            Link("http://service", connections=2, limits=Limits(resolve_interval=0.05))
        )

        def open_at() -> list[int]:
            return [server.stats().connections_open for server in servers]

        stop = False

        async def keep_asking() -> int:
            count = 0
            while not stop:
                assert (await link.request("POST", "/", body=b"x")).status == 200
                count += 1
            return count

        asking = [asyncio.create_task(keep_asking()) for _ in range(10)]
        await until(lambda: open_at() == [1, 1, 0])
        for now, expected in (([1, 2], [0, 1, 1]), ([0, 2], [1, 0, 1]), ([0], [2, 0, 0])):
            addresses[:] = [found[each] for each in now]
            await until(lambda expected=expected: open_at() == expected)  # type: ignore[misc]
        stop = True
        assert min(await asyncio.gather(*asking)) > 0
        assert link.stats().retries_refused == {}


# --- places that fail -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.bulk
@pytest.mark.parametrize("connections", [1, 4])
async def test_a_place_that_answers_503_at_once_gets_little_and_is_tried_again_later(
    world: World, connections: int
) -> None:
    """L9: under 5 % after 10 s, also where it is the only one that a link had a connection to."""
    places = [world.places["10.0.0.1"], *map(world.place, FOUR[1:])]
    places[0].serves = answering(503)
    async with Link([f"http://{host}" for host in FOUR], connections=connections) as link:
        await ask(link, 10)
        assert link.stats().addresses_aside == ("10.0.0.1:80",)
        asked(places)
        await ask(link, 10)
        assert asked(places)[0] == 0
        assert link.state.name == "READY"
        places[0].serves = at_once
        await ask(link, 90, rate=10)
        assert link.stats().addresses_aside == ()
        if connections == 4:
            assert min(asked(places)) > 50
        assert sum(len(place.wires) for place in places) == connections
        assert sum(len(place.dials) for place in places) <= 2 * connections + 2


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_a_place_that_is_set_aside_serves_while_no_other_can_be_reached(world: World) -> None:
    """And the others are tried with the usual waits, not in a frenzy."""
    bad, good = world.places["10.0.0.1"], world.place("10.0.0.2")
    bad.serves, good.up = answering(503), False
    async with Link(["http://10.0.0.1", "http://10.0.0.2"], backoff=Backoff(jitter=0)) as link:
        await ask(link, 20, rate=10)
        assert bad.asked == 200
        assert len(bad.wires) <= 2
        assert len(good.dials) < 12
        good.up = True
        await ask(link, 20, rate=5)
        assert good.asked > 20


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_one_place_that_is_set_aside_and_one_that_drops_each_connection_cause_no_frenzy(world: World) -> None:
    bad, broken = world.places["10.0.0.1"], world.place("10.0.0.2")
    bad.serves, broken.limit = answering(503), None

    async def drop() -> None:
        while True:
            for wire in (*broken.wires, *(bad.wires if link.stats().addresses_aside else ())):
                wire.breaks()
            await asyncio.sleep(0.01)

    async with Link(["http://10.0.0.1", "http://10.0.0.2"], backoff=Backoff(jitter=0)) as link:
        dropping = asyncio.create_task(drop())
        for _ in range(20):
            with suppress(LinkError):
                await link.request("GET", "/")
        before = len(broken.dials) + len(bad.dials)
        await asyncio.sleep(20)
        assert len(broken.dials) + len(bad.dials) - before < 20
        dropping.cancel()


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_a_place_that_comes_back_serves_those_who_waited_meanwhile(world: World) -> None:
    """L9: all that the other place allows is taken."""
    bad, full = world.places["10.0.0.1"], world.place("10.0.0.2", None)
    bad.serves, full.limit = answering(503), 1
    async with Link(["http://10.0.0.1", "http://10.0.0.2"], connections=2) as link:
        await settle()
        held = [asyncio.create_task(link.request("GET", "/")) for _ in range(6)]
        await settle()
        held.append(asyncio.create_task(link.request("GET", "/")))
        await settle()
        assert ([len(wire.requests) for wire in full.wires], bad.asked) == ([1, 1], 5)
        bad.serves = at_once
        waits = asyncio.create_task(link.request("GET", "/"))
        await asyncio.sleep(20)
        assert not waits.done()
        await asyncio.sleep(50)
        assert waits.done()
        for wire in full.wires:
            wire.answers_all()
        assert sorted(reply.status for reply in await asyncio.gather(waits, *held)) == [200] * 3 + [503] * 5


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_a_place_that_refused_is_not_the_first_to_be_tried_for_a_while(world: World) -> None:
    gone, good = world.places["10.0.0.1"], world.place("10.0.0.2")
    gone.up = False
    async with Link(["http://10.0.0.1", "http://10.0.0.2"], connections=2) as link:
        await asyncio.sleep(5)
        before = len(gone.dials)
        good.wires[0].breaks()
        await asyncio.sleep(5)
        assert link.stats().connections_by_state == {"ready": 2}
        assert len(gone.dials) == before


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_a_place_that_asks_to_be_left_alone_is(world: World) -> None:
    """retry-after: as long as it says."""
    places = [world.places["10.0.0.1"], world.place("10.0.0.2")]
    places[0].serves = answering(429, ("retry-after", "20"))
    async with Link(["http://10.0.0.1", "http://10.0.0.2"], connections=2) as link:
        await settle()
        await ask(link, 1)
        assert asked(places)[0] == 1
        places[0].serves = at_once
        await ask(link, 18, rate=5)
        assert asked(places)[0] == 0
        await ask(link, 4)
        assert asked(places)[0] > 20


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_connections_are_evened_out_when_a_place_comes_back(world: World) -> None:
    places = [world.places["10.0.0.1"], world.place("10.0.0.2")]
    places[0].up = False
    async with Link(["http://10.0.0.1", "http://10.0.0.2"], connections=4) as link:
        await settle()
        assert [len(place.wires) for place in places] == [0, 4]
        places[0].up = True
        await ask(link, 200, rate=1)
        assert [len(place.wires) for place in places] == [2, 2]
        dials = sum(len(place.dials) for place in places)
        await ask(link, 100, rate=1)
        assert sum(len(place.dials) for place in places) == dials
        assert link.stats().restarts == {}


async def test_a_black_hole_does_not_delay_a_link_for_long() -> None:
    """L10."""
    with black_hole() as hole:
        async with Server(answer) as server:
            began = asyncio.get_running_loop().time()
            async with Link([f"http://127.0.0.1:{hole.endpoint.port}", server.url]) as link:
                assert asyncio.get_running_loop().time() - began < 0.5
                assert (await link.request("GET", "/")).status == 200


# --- who is told what -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.bulk
async def test_each_place_is_told_its_own_authority(world: World) -> None:
    """Also by a request that goes again elsewhere, unless the caller gave one."""
    places = [world.places["10.0.0.1"], world.place("10.0.0.2")]
    async with Link(["http://10.0.0.1", "http://10.0.0.2:8080"], connections=2) as link:
        await ask(link, 1)
        for place, authority in zip(places, ("10.0.0.1", "10.0.0.2:8080"), strict=True):
            assert place.asked > 10
            assert set(place.all[0].authorities) == {authority}
        for _ in range(2):
            async with link.stream("GET", "/", authority="example.test") as stream:
                await stream.response()
        assert [place.all[0].authorities[-1] for place in places] == ["example.test"] * 2


async def test_a_certificate_that_was_renewed_is_shown_by_the_next_connection(tmp_path: Path) -> None:
    """The link is the same, and needs no restart."""
    authority = Authority(tmp_path)
    peers: list[Peer] = []

    async def handler(stream: ServerStream) -> None:
        peers.append(stream.peer)
        await stream.respond(200)

    tls, side = authority.client("old"), authority.server(client_ca=authority.file)
    assert tls.certfile is not None
    assert tls.keyfile is not None
    server = Server(handler, tls=side)
    async with server, Link(server.url, tls=tls, backoff=Backoff(initial=0.01, maximum=0.05)) as link:
        await link.request("GET", "/")
        certfile, keyfile = authority.issue("new.test", common_name="new")
        os.replace(keyfile, tls.keyfile)
        os.replace(certfile, tls.certfile)
        await link.request("GET", "/")
        await server.close()
        async with Server(handler, port=server.port, tls=side):
            await link.request("GET", "/", wait_for_ready=True)
    assert [common_name(peer) for peer in peers] == ["old", "old", "new"]
