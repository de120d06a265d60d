"""What signals have a tree do: drain, hasten, end, add and remove, write down (M4, M5)."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.errors import LinkError
from supervisor.link import Link
from tests.faults.witness import ANSWERED, ask
from tests.interop.peers import Tool, unix_url
from tests.processes.load import asking, load, total_of
from tests.processes.tree import server_tree


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_the_open_stream_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """M4: nobody new is let in, the stream ends well, the exit code is 0; no process, no socket file."""
    path = tmp_path / "server.sock"
    async with server_tree(tmp_path, 2, bind=f"unix:{path}") as tree:
        assert len(tree.sockets()) == 2
        async with Link(unix_url(path)) as link, link.stream("POST", "/echo") as stream:
            await stream.response()
            tree.signal(number)
            await tree.until("nobody is let in", lambda: not path.exists())
            await stream.send(b"on")
            assert await stream.read(2) == b"on"
            assert tree.process.returncode is None
            await stream.end()
            assert await stream.read() == b""
        assert await tree.ends() == 0
        assert tree.err() == ""
        assert tree.living() == set()
        assert tree.sockets() == []


async def test_what_has_not_drained_in_time_is_cut_and_named(tmp_path: Path) -> None:
    """M4: the exit code is 0 all the same."""
    async with server_tree(tmp_path, 1, "--drain-timeout", "0.5") as tree, Link(tree.url) as link:
        async with link.stream("POST", "/echo") as stream:
            await stream.response()
            assert await tree.terminate() == 0
            with pytest.raises(LinkError):
                await stream.read()
        assert "1 streams had not finished and were cut: worker-1/" in tree.err()


async def test_a_second_signal_hastens(tmp_path: Path) -> None:
    """M4: the stream that had hours is cut."""
    loop = asyncio.get_running_loop()
    async with (
        server_tree(tmp_path, 2, "--drain-timeout", "3600") as tree,
        Link(tree.url) as link,
        link.stream("POST", "/echo") as stream,
    ):
        await stream.response()
        tree.signal(signal.SIGTERM)

        async def drains() -> bool:
            return "draining" in {each.state for each in await tree.workers()}

        await tree.until("it drains", drains)
        tree.signal(signal.SIGTERM)
        began = loop.time()
        assert await tree.ends(5) == 0
        assert loop.time() - began < 4
        with pytest.raises(LinkError):
            await stream.read()


async def test_workers_whose_parent_was_killed_drain_and_end(tmp_path: Path) -> None:
    """M4."""
    async with server_tree(tmp_path, 2) as tree:
        async with Link(tree.url) as link, link.stream("POST", "/echo") as stream:
            await stream.response()
            [serving] = tree.served_by()
            tree.signal(signal.SIGKILL)
            assert await tree.ends() == -signal.SIGKILL
            await tree.until("the idle one has ended", lambda: tree.living() == {serving})
            await stream.send(b"on")
            assert await stream.read(2) == b"on"
            await stream.end()
            assert await stream.read() == b""
        await tree.gone(sockets_too=False)
        tree.control.unlink()  # nobody was there to do it; the next who listens there would


async def test_ttin_adds_a_worker_and_ttou_removes_one_and_no_request_notices(tmp_path: Path) -> None:
    """M5: never fewer than one."""
    async with server_tree(tmp_path, 1) as tree, asking(tree.url, connections=2) as linked:
        tree.signal(signal.SIGTTIN)
        await tree.ready(2)
        tree.signal(signal.SIGTTIN)
        await tree.ready(3)
        assert len(tree.children()) == 3
        for left in (2, 1):
            tree.signal(signal.SIGTTOU)
            await tree.ready(left)
            await tree.until("its process has ended", lambda left=left: len(tree.children()) == left)  # type: ignore[misc]
        tree.signal(signal.SIGTTOU)
        asked = len(linked.asked)
        await tree.until("it serves on", lambda: len(linked.asked) > asked + 20)
        assert len(await tree.ready(1)) == 1
    assert linked.failed == []
    assert linked.contradictions(tree.served()) == []


@pytest.mark.bulk
async def test_400_links_on_4_workers_differ_by_at_most_1_and_all_is_counted(h2load: Tool, tmp_path: Path) -> None:
    """M5: what the clients count, what the workers count, and what the log has are the same."""
    async with server_tree(tmp_path, 4) as tree, AsyncExitStack() as open_ones:
        links = [await open_ones.enter_async_context(Link(tree.url)) for _ in range(400)]
        asked = await asyncio.gather(
            *(ask(link, f"link-{number}", idempotent=False, timeout=20) for number, link in enumerate(links))
        )
        assert {each.outcome for each in asked} == {ANSWERED}
        loads = [each.load for each in await tree.workers()]
        assert sum(loads) == 400
        assert max(loads) - min(loads) <= 1

        counted = await load(h2load, tree.url, 800, "-c", "4", "-m", "20")

        assert (counted.succeeded, counted.failed) == (800, 0)
        served = tree.served()
        assert total_of(served, "h2load") == 800
        assert [served[f"link-{number}"] for number in range(400)] == [1] * 400
        assert {each.pid: each.requests for each in await tree.workers()} == tree.served_by()


async def test_usr2_writes_the_tree_and_the_stacks_of_all_processes(tmp_path: Path) -> None:
    """M4's neighbour: what every process waits for is in the log, and all go on."""
    async with server_tree(tmp_path, 2) as tree, Link(tree.url) as link:
        async with link.stream("POST", "/echo") as stream:
            await stream.response()
            tree.signal(signal.SIGUSR2)
            await tree.until("the handler's place is told", lambda: "in serve" in tree.err())
            await tree.until("each worker told of itself", lambda: tree.err().count("the actors of this worker:") == 2)
            await tree.until("the parent told of its tree", lambda: "crew: Crew, running" in tree.err())
            await stream.end()
            assert await stream.read() == b""
        assert len(await tree.ready(2)) == 2


async def test_a_worker_that_is_told_sigterm_by_somebody_else_drains_and_another_takes_its_place(
    tmp_path: Path,
) -> None:
    """M4: an open stream there ends well."""
    async with server_tree(tmp_path, 1) as tree, Link(tree.url) as link:
        async with link.stream("POST", "/echo") as stream:
            await stream.response()
            [pid] = tree.served_by()
            os.kill(pid, signal.SIGTERM)

            async def replaced() -> bool:
                return any(each.state == "ready" and each.pid != pid for each in await tree.workers())

            await tree.until("another one serves", replaced)
            await stream.send(b"on")
            assert await stream.read(2) == b"on"
            await stream.end()
            assert await stream.read() == b""
        await tree.ready(1)
