"""Workers that are killed, crash or hang, and what everyone else notices of it (M1, M3, M6)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from actors.errors import LinkError
from supervisor.link import Link
from tests.faults.handler import SERVER
from tests.interop.peers import Tool
from tests.processes.handler import WHY
from tests.processes.load import PATIENCE, Visit, asking, load, total_of, visit, visiting
from tests.processes.tree import ServerTree, server_tree

LOOP_SECONDS: Final = float(os.environ.get("PROCESSES_SECONDS", "5"))
"""How long a worker crash-loops: five seconds, or a minute for a long run."""
MOST_STARTS: Final = 6
"""In five seconds, and one more each 15 s after that: the waits between two grow from 0.5 s."""


Span = tuple[float, float]


def excused(visit: Visit, ends: list[Span]) -> bool:
    """Whether a worker ended meanwhile, which may have begun it. Silence has no excuse, and a refusal none."""
    return visit.outcome == "reset" and any(visit.began <= gone and told <= visit.ended for told, gone in ends)


async def test_a_killed_worker_is_replaced_and_the_streams_of_the_others_never_notice(tmp_path: Path) -> None:
    """M1."""
    async with server_tree(tmp_path, 3) as tree, AsyncExitStack() as open_ones:
        streams = []
        for _ in range(6):
            link = await open_ones.enter_async_context(Link(tree.url))
            stream = await open_ones.enter_async_context(link.stream("POST", "/echo"))
            head = await stream.response()
            streams.append((int(head.headers[SERVER]), stream))
        assert sorted(tree.served_by().values()) == [2, 2, 2]
        before = await tree.workers()

        victim = before[0].pid
        os.kill(victim, signal.SIGKILL)

        for pid, stream in streams:
            if pid == victim:
                with pytest.raises(LinkError):
                    await stream.read(1)
            else:
                await stream.send(b"on")
                assert await stream.read(2) == b"on"
        after = await tree.ready(3)
        assert {each.pid for each in before} - {each.pid for each in after} == {victim}
        assert "was killed by SIGKILL" in tree.err()
        for pid, stream in streams:
            if pid != victim:
                await stream.send(b"still on")
                assert await stream.read(8) == b"still on"
                await stream.end()


async def test_connections_that_a_worker_had_not_begun_are_served_by_another(tmp_path: Path) -> None:
    """M1: a stopped worker takes nothing; killed, all that it was given is there for another."""
    async with server_tree(tmp_path, 2, "--worker-timeout", "60") as tree:
        stopped, _ = await tree.workers()
        os.kill(stopped.pid, signal.SIGSTOP)
        visits = [asyncio.create_task(visit(tree.port, f"visit-{number}", patience=20)) for number in range(10)]
        # Half of them went to each; silence then keeps more from coming here.
        await tree.until("the other one serves", lambda: sum(each.done() for each in visits) >= 5)
        actors = {each["name"]: each["detail"] for each in (await tree.ask("tree"))["actors"]}
        untaken = actors[stopped.name]["untaken"]
        assert untaken > 0
        assert sum(each.done() for each in visits) == 10 - untaken

        os.kill(stopped.pid, signal.SIGKILL)
        killed = asyncio.get_running_loop().time()

        seen = await asyncio.gather(*visits)
        assert [each.outcome for each in seen] == ["answered"] * 10
        assert max(each.ended for each in seen) < killed + PATIENCE
        assert tree.served() == {f"visit-{number}": 1 for number in range(10)}
        assert stopped.pid not in tree.served_by()
        await tree.ready(2)


@pytest.mark.bulk
@pytest.mark.timeout(120 + 2 * LOOP_SECONDS)
async def test_no_new_connection_suffers_while_one_worker_crash_loops(h2load: Tool, tmp_path: Path) -> None:
    """M1: none is refused, reset or silent for 1 s, but for what the worker that died may have begun."""
    loop, ends = asyncio.get_running_loop(), list[Span]()
    rate, seconds = 50, LOOP_SECONDS + 1
    async with server_tree(tmp_path, 3) as tree, asking(tree.url, callers=2) as linked:
        await tree.until("the link's worker serves", lambda: len(tree.served_by()) == 1)
        [victim] = tree.served_by()
        # h2load does not come back when its connection is lost: it has the two others.
        steady = asyncio.create_task(
            load(h2load, tree.url, int(2 * rate * seconds), "-c", "2", f"--rps={rate}", limit=seconds + 20)
        )
        await tree.until("h2load is served", lambda: len(tree.served_by()) == 3)
        survivors = set(tree.served_by()) - {victim}
        async with visiting(tree.port) as visitors:
            until = loop.time() + LOOP_SECONDS
            while loop.time() < until:
                await _kill_all_but(tree, survivors, ends)
                await asyncio.sleep(0.3)
            await tree.ready(3)
        counted = await steady

    assert 2 <= len(ends) <= MOST_STARTS + LOOP_SECONDS / 15
    assert [each for each in visitors.failed if not excused(each, ends)] == []
    assert len(visitors.answered) > 50 * LOOP_SECONDS
    assert (counted.succeeded, counted.failed) == (counted.total, 0)
    assert total_of(tree.served(), "h2load") == counted.total
    assert linked.contradictions(tree.served()) == []
    assert len(linked.failed) <= 2 * len(ends)
    served = tree.served()
    assert [name for name, count in served.items() if count > 1 and name.startswith(("visit-", "link-"))] == []
    assert [each.name for each in visitors.answered if each.name not in served] == []


async def _kill_all_but(tree: ServerTree, survivors: set[int], ends: list[Span]) -> None:
    """Kill the worker that loops, once it serves, and note from when to when that was."""
    loop = asyncio.get_running_loop()
    for each in await tree.workers():
        if each.pid not in survivors and each.state == "ready":
            told = loop.time()
            os.kill(each.pid, signal.SIGKILL)
            await tree.until("it has ended", lambda pid=each.pid: pid not in tree.living())  # type: ignore[misc]
            ends.append((told, loop.time()))


# --- workers that cannot start ----------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_new_workers_that_fail_at_start_leave_the_old_one_serving(h2load: Tool, tmp_path: Path) -> None:
    """M3: the crash loop backs off beside it, each failure with its reason, and ends with its cause."""
    async with server_tree(tmp_path, 2) as tree:
        tree.deed.write_text("raise")
        victim, old = await tree.workers()
        os.kill(victim.pid, signal.SIGKILL)
        await tree.until("the victim is gone", lambda: victim.pid not in tree.living())
        async with asking(tree.url) as linked:
            counted = await load(h2load, tree.url, 600, "-c", "2", "--rps=100")
        assert (counted.succeeded, linked.failed) == (600, [])
        assert set(tree.served_by()) == {old.pid}
        assert sum(tree.served().values()) == 600 + len(linked.asked)
        [left] = [each for each in await tree.workers() if each.state == "ready"]
        assert (left.pid, left.requests) == (old.pid, 600 + len(linked.asked))
        failures = tree.err().count(f"RuntimeError: {WHY}")
        assert 2 <= failures <= 5, tree.err()

        tree.deed.unlink()
        await tree.ready(2, within=30)


async def test_a_crash_loop_backs_off_and_then_exits_with_the_last_words_of_the_worker(tmp_path: Path) -> None:
    """M3: the kill of the one that served is the first failure of six."""
    loop = asyncio.get_running_loop()
    async with server_tree(tmp_path, 1) as tree:
        [served] = await tree.workers()
        tree.deed.write_text("exit")
        began = loop.time()
        os.kill(served.pid, signal.SIGKILL)
        assert await tree.ends(40) == 1
        assert loop.time() - began > 4  # of 0.5, 1, 2, and 4 s, jitter aside
        said = tree.err().splitlines()
        assert said[-1].startswith("muxlink serve: no worker serves, and 6 have failed one after the other; the last: ")
        assert said[-1].endswith(f"exited with 3: {WHY}")
        assert sum(line == WHY for line in said) == 5


# --- workers that hang ------------------------------------------------------------------------------------------------


async def test_a_worker_whose_loop_hangs_has_its_stack_written_down_and_is_replaced(tmp_path: Path) -> None:
    """M6: and the other one serves meanwhile."""
    async with server_tree(tmp_path, 2, "--worker-timeout", "2") as tree, Link(tree.url) as link:
        before = await tree.workers()
        hanging = asyncio.create_task(link.request("GET", "/block", timeout=30))
        await tree.until("the handler blocks", lambda: bool(tree.served()))
        [hung] = tree.served_by()
        async with visiting(tree.port, tasks=4, pause=0.05) as visitors:
            with pytest.raises(LinkError):
                await hanging
            after = await tree.ready(2)

        assert {each.pid for each in before} - {each.pid for each in after} == {hung}
        # Those that it was given before it seemed to hang wait for its end, and are served then.
        late = [each for each in visitors.failed if each.outcome != "silent"]
        assert late == []
        assert len(visitors.failed) <= 4
        assert len(visitors.answered) > 20
        said = tree.err()
        found = re.search(r"worker-\d \(process (\d+)\) said nothing for 2 s \(worker_timeout\)", said)
        assert found
        assert int(found[1]) == hung
        assert re.search(r'File ".*handler\.py", line \d+ in hang', said)
        assert re.search(r'File ".*handler\.py", line \d+ in serve', said)
        assert said.index("in hang") < said.index("and was killed")
        assert max(tree.served().values()) == 1
