"""The crew with real processes: workers up, replaced, added and removed, and nobody's connection lost (M1 to M5)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.actor import ask
from actors.errors import Closed, Misuse, ProcessFailed
from actors.mailbox import Ref
from actors.messages import Exited, Kill
from actors.settings import Backoff
from supervisor.workers import crew as crew_module
from supervisor.workers import staffing, worker
from supervisor.workers.crew import Crew
from supervisor.workers.posts import (
    AskCrew,
    AskReport,
    ChangeWorkers,
    CrewChanged,
    CrewMember,
    DrainWorker,
    Reload,
    ShutDoor,
    Terminate,
)
from tests.supervisor.workers.scripted import PATIENCE, Owner, answer, connected, nothing_left, options, script
from tests.support.sides import settle, until

GOOD = "serve(name.encode())"
crashes = pytest.mark.logs_errors("exited with 1")


@pytest.fixture(autouse=True)
def tidy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No process and no file is left; and who does not end is killed soon."""
    monkeypatch.setattr(worker, "ENDING", 0.3)
    monkeypatch.setattr(crew_module, "ENDING", 0.3)
    monkeypatch.chdir(tmp_path)
    with nothing_left():
        yield


class Entrance:
    """A door through which tests come in."""

    def __init__(self, arrived: Callable[[socket.socket, str], object]) -> None:
        self._arrived = arrived
        self._open = False
        self.closed = False

    def let_in(self, yes: bool) -> None:
        self._open = yes and not self.closed

    def close(self) -> None:
        self._open, self.closed = False, True

    def is_open(self) -> bool:
        return self._open

    def client(self, closing: ExitStack) -> socket.socket:
        """One that has come in."""
        client, accepted = closing.enter_context(connected())
        self._arrived(accepted.dup(), "somewhere")
        accepted.close()
        return client


class Bridge:
    """A crew, its door, and what it says."""

    def __init__(self, **given: Any) -> None:
        self.owner = Owner()
        self.doors: list[Entrance] = []
        ref: Ref[Any] = Ref("owner", self.owner.tell)
        self.crew = Crew(options(**given), self._make_door, ref)
        self.crew.start(ref)

    def _make_door(self, arrived: Callable[[socket.socket, str], object]) -> Entrance:
        self.doors.append(Entrance(arrived))
        return self.doors[-1]

    @property
    def door(self) -> Entrance:
        [door] = self.doors
        return door

    async def is_so(self, right: Callable[[CrewChanged], bool]) -> None:
        """Wait until the crew has said so."""
        async with asyncio.timeout(PATIENCE):
            while not right(await self.owner.hears(CrewChanged)):
                pass

    async def ready(self, many: int) -> None:
        await self.is_so(lambda changed: changed.ready == many)

    async def members(self) -> tuple[CrewMember, ...]:
        return await ask(self.crew.ref, AskCrew, PATIENCE)

    async def names(self) -> set[str]:
        return {each.name for each in await self.members()}

    async def serves(self, closing: ExitStack) -> bytes:
        """The answer to a client that comes now."""
        return await answer(self.door.client(closing))


@asynccontextmanager
async def crewed(**given: Any) -> AsyncIterator[Bridge]:
    bridge = Bridge(**given)
    try:
        yield bridge
    finally:
        if bridge.crew.exited is None:
            await bridge.crew.stop()
        assert bridge.door.closed


async def test_each_gets_its_share_and_the_door_opens_with_the_first_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M5."""
    script(tmp_path, monkeypatch, GOOD)
    with ExitStack() as closing:
        async with crewed(workers=2) as bridge:
            assert not bridge.door.is_open()
            await bridge.ready(2)
            assert bridge.door.is_open()
            answers = [await bridge.serves(closing) for _ in range(20)]
            assert {each: answers.count(each) for each in answers} == {b"worker-1": 10, b"worker-2": 10}
            assert [each.load for each in await bridge.members()] == [10, 10]


async def test_while_all_are_full_the_door_is_shut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes meanwhile waits in the backlog; who had come already is served as soon as there is a place."""
    script(tmp_path, monkeypatch, GOOD)
    with ExitStack() as closing:
        async with crewed(workers=1, max_connections=2) as bridge:
            await bridge.ready(1)
            assert await bridge.serves(closing)
            assert bridge.door.is_open()
            assert await bridge.serves(closing)
            assert not bridge.door.is_open()
            waiting = bridge.door.client(closing)
            bridge.crew.tell(ChangeWorkers(1))
            assert await answer(waiting) == b"worker-2"
            assert bridge.door.is_open()


async def test_a_place_that_is_released_is_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "serve(name.encode(), forget=True)")
    with ExitStack() as closing:
        async with crewed(workers=1, max_connections=1) as bridge:
            await bridge.ready(1)
            for _ in range(5):
                assert await bridge.serves(closing) == b"worker-1"
            await until(bridge.door.is_open)
            assert [each.load for each in await bridge.members()] == [0]


@pytest.mark.logs_errors("was killed by SIGKILL")
async def test_what_one_was_given_and_did_not_take_another_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: a worker that dies between Take and Taken costs no client its connection."""
    dies = "if name == 'worker-1':\n    ready()\n    hear()\n    os.kill(os.getpid(), 9)\n"
    script(tmp_path, monkeypatch, dies + GOOD)
    with ExitStack() as closing:
        async with crewed(workers=2) as bridge:
            await bridge.ready(2)
            clients = [bridge.door.client(closing) for _ in range(6)]
            for client in clients:
                assert await answer(client) in (b"worker-2", b"worker-3")
            await until(lambda: bridge.crew.restarts == 1)
            assert sum(each.load for each in await bridge.members()) == 6


@crashes
async def test_a_crash_loop_beside_one_that_serves_is_slow_and_costs_nobody_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1, M3."""
    monkeypatch.setattr(staffing, "LIVED_WELL", 0.0)  # whoever serves has done so for long enough
    script(tmp_path, monkeypatch, "if name != 'worker-1':\n    sys.exit(1)\n" + GOOD)
    with ExitStack() as closing:
        async with crewed(workers=2) as bridge:
            await bridge.ready(1)
            for _ in range(20):
                assert await bridge.serves(closing) == b"worker-1"
                await asyncio.sleep(0.05)
            assert 1 <= bridge.crew.restarts <= 4
            assert bridge.crew.exited is None


@crashes
async def test_when_none_can_serve_the_crew_ends_with_the_last_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M3."""
    monkeypatch.setattr(staffing, "BACKOFF", Backoff(initial=0.01, maximum=0.02))
    script(tmp_path, monkeypatch, "sys.exit(f'{name} cannot')")
    async with crewed(workers=1) as bridge:
        exited = await bridge.owner.hears(Exited)
    assert isinstance(exited.reason, ProcessFailed)
    many = staffing.MAX_FAILURES + 1
    assert str(exited.reason) == (
        f"no worker serves, and {many} have failed one after the other; "
        f"the last: worker-{many}: exited with 1: worker-{many} cannot"
    )


async def test_a_crew_that_was_asked_wrongly_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(
        tmp_path, monkeypatch,
        "say('Ended', reason='no such handler: app:handler', asked_wrongly=True)\nsys.exit(2)",
    )  # fmt: skip
    async with crewed(workers=2) as bridge:
        exited = await bridge.owner.hears(Exited)
    assert isinstance(exited.reason, Misuse)
    assert str(exited.reason) == "no such handler: app:handler"


async def test_a_reload_replaces_all_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M2: as many serve at each moment as should, and never are there more than one more."""
    script(tmp_path, monkeypatch, GOOD)
    with ExitStack() as closing:
        async with crewed(workers=2) as bridge:
            await bridge.ready(2)
            seen = len(bridge.owner.news)
            bridge.crew.tell(Reload())
            most = 0
            while await bridge.names() != {"worker-3", "worker-4"}:
                most = max(most, len(await bridge.members()))
                assert await bridge.serves(closing)
            assert most == 3
            await bridge.is_so(lambda changed: changed.reloading)
            await bridge.is_so(lambda changed: not changed.reloading)
            changes = [each for each in bridge.owner.news[seen:] if isinstance(each, CrewChanged)]
            assert all(each.ready >= 2 for each in changes)
            assert {each.generation for each in await bridge.members()} == {2}


@crashes
async def test_a_reload_whose_first_worker_fails_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M3."""
    script(tmp_path, monkeypatch, "if name == 'worker-3':\n    sys.exit(1)\n" + GOOD)
    with ExitStack() as closing:
        async with crewed(workers=2) as bridge:
            await bridge.ready(2)
            bridge.crew.tell(Reload())
            await bridge.is_so(lambda changed: changed.reloading)
            await bridge.is_so(lambda changed: not changed.reloading)
            assert await bridge.names() == {"worker-1", "worker-2"}
            assert {await bridge.serves(closing), await bridge.serves(closing)} == {b"worker-1", b"worker-2"}


async def test_workers_are_added_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M5."""
    script(tmp_path, monkeypatch, GOOD)
    async with crewed(workers=1) as bridge:
        bridge.crew.tell(ChangeWorkers(2))
        await bridge.ready(3)
        for _ in range(5):
            bridge.crew.tell(ChangeWorkers(-1))
        await bridge.is_so(lambda changed: (changed.ready, changed.wanted) == (1, 1))


async def test_one_worker_is_replaced_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, GOOD)
    async with crewed(workers=2) as bridge:
        await bridge.ready(2)
        with pytest.raises(Misuse, match="no worker-9 serves; there is worker-1, worker-2"):
            await ask(bridge.crew.ref, lambda reply: DrainWorker("worker-9", reply), PATIENCE)
        await ask(bridge.crew.ref, lambda reply: DrainWorker("worker-1", reply), PATIENCE)
        while await bridge.names() != {"worker-2", "worker-3"}:
            await settle()


async def test_who_ends_in_good_order_as_soon_as_it_serves_is_not_started_again_at_full_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, monkeypatch, "ready()\nsay('Draining')\nsay('Ended', reason='')")
    async with crewed(workers=1) as bridge:
        async with asyncio.timeout(PATIENCE):
            while "worker-1" in await bridge.names():
                await settle()
        await asyncio.sleep(1.2)
        assert len(bridge.owner.heard(CrewChanged)) <= 8
        assert bridge.crew.exited is None
        assert bridge.crew.restarts == 0


@pytest.mark.logs_errors("it released 1000000 connections and held 0", "is no message")
async def test_no_lie_of_a_worker_harms_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1."""
    lies = "if name == 'worker-1':\n    ready()\n    say('Released', count=10**6)\n    time.sleep(9)\n"
    lies += "if name == 'worker-2':\n    ready()\n    say('Ended', reason='', cut=7)\n    time.sleep(9)\n"
    script(tmp_path, monkeypatch, lies + GOOD)
    with ExitStack() as closing:
        async with crewed(workers=3) as bridge:
            async with asyncio.timeout(PATIENCE):
                while {each.name for each in await bridge.members() if each.state == "ready"} != {
                    "worker-3", "worker-4", "worker-5"
                }:  # fmt: skip
                    await settle()
            answers = {await bridge.serves(closing) for _ in range(6)}
            assert answers == {b"worker-3", b"worker-4", b"worker-5"}


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_told_to_terminate_it_drains_all_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M4: after the delay, in which connections are still taken."""
    script(tmp_path, monkeypatch, GOOD)
    with ExitStack() as closing:
        async with crewed(workers=2) as bridge:
            await bridge.ready(2)
            bridge.crew.tell(Terminate(60.0))
            await bridge.is_so(lambda changed: changed.stopping)
            assert await bridge.serves(closing)
            bridge.crew.tell(ShutDoor())
            exited = await bridge.owner.hears(Exited)
            assert (exited.reason, bridge.crew.finished) == (None, 1)


@pytest.mark.logs_errors("did not end within 0.3 s of being told to, and was killed by SIGKILL")
async def test_told_twice_it_hastens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M4: not even one that is deaf is waited for."""
    script(tmp_path, monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(1000)")
    async with crewed(workers=2, drain_timeout=600.0) as bridge:
        await bridge.ready(2)
        bridge.crew.tell(Terminate(60.0))
        bridge.crew.tell(Terminate(60.0))
        assert (await bridge.owner.hears(Exited)).reason is None


@pytest.mark.parametrize("turns", [0, 1, 3, 10, None])
async def test_cancelled_at_any_moment_it_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int | None
) -> None:
    """M4: not even of workers that are deaf, and at once; whoever came in is let go."""
    script(tmp_path, monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(1000)")
    monkeypatch.setattr(worker, "ENDING", 60.0)
    with ExitStack() as closing:
        async with crewed(workers=3) as bridge:
            if turns is None:
                await bridge.ready(3)
            else:
                await settle(turns)
            client = bridge.door.client(closing)
            children = list(bridge.crew.children.values())
            bridge.crew.signal(Kill())
            await bridge.owner.hears(Exited)
            for each in children:
                with pytest.raises(Closed):
                    await ask(each, AskReport, PATIENCE)
            assert await answer(client) == b""


async def test_who_asks_a_crew_that_has_ended_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, GOOD)
    with ExitStack() as closing:
        async with crewed(workers=1) as bridge:
            await bridge.crew.stop()
            with pytest.raises(Closed):
                await bridge.members()
            assert await bridge.serves(closing) == b""
