"""SIGHUP: every worker is replaced, one at a time, and nobody notices (M2)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.link import Link
from tests.interop.peers import Tool
from tests.processes.handler import WHY
from tests.processes.load import Account, asking, load, total_of, visiting
from tests.processes.tree import ServerTree, server_tree
from tests.support.certificates import Authority


@asynccontextmanager
async def counting_processes(tree: ServerTree) -> AsyncIterator[list[int]]:
    """How many workers there are, looked at again and again."""
    counts: list[int] = []

    async def count() -> None:
        while True:
            counts.append(len(tree.children()))
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    try:
        yield counts
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


async def reload(tree: ServerTree, workers: int) -> None:
    """Have all workers replaced, and wait until they are."""
    before = {each.pid for each in await tree.workers()}
    tree.signal(signal.SIGHUP)

    async def replaced() -> bool:
        now = await tree.workers()
        return len(now) == workers and all(each.state == "ready" and each.pid not in before for each in now)

    await tree.until("all workers are new ones", replaced, within=30)


@pytest.mark.bulk
async def test_a_reload_under_load_refuses_no_connection_and_fails_no_request(h2load: Tool, tmp_path: Path) -> None:
    """M2: h2load, a link and new connections at the same time; one worker at a time, so never more than one above."""
    runs: list[Account] = []

    async def keep_loading(url: str) -> None:
        # Each run's requests go out at once: h2load makes no new connection for what a GOAWAY leaves over.
        while True:
            runs.append(await load(h2load, url, 80, "-c", "8", "-m", "10"))

    async with server_tree(tmp_path, 2) as tree:
        before = {each.pid for each in await tree.workers()}
        async with (
            counting_processes(tree) as counts,
            asking(tree.url, connections=2) as linked,
            visiting(tree.port, tasks=5, pause=0.05) as visitors,
        ):
            loading = asyncio.create_task(keep_loading(tree.url))
            await tree.until("all kinds are served", lambda: len(linked.asked) > 20 and len(visitors.visits) > 5)
            await reload(tree, 2)
            await reload(tree, 2)
            asked = len(linked.asked)
            await tree.until("the link is served on", lambda: len(linked.asked) > asked + 20)
            enough = len(runs) + 1
            await tree.until("h2load is served on", lambda: len(runs) > enough)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        served = tree.served()
        pids = set(tree.served_by())

    assert linked.failed == []
    assert linked.contradictions(served) == []
    assert visitors.failed == []
    assert {(each.succeeded, each.failed) for each in runs} == {(80, 0)}
    assert max(counts) == 3
    assert len(pids - before) >= 2
    assert [name for name, count in served.items() if count > 1 and name != "h2load"] == []
    # The last run was cut short, and nobody knows at how many.
    assert 80 * len(runs) <= total_of(served, "h2load") <= 80 * (len(runs) + 1)


def replace(files: Sequence[str], new: Sequence[str]) -> None:
    """Write into each file what the new one holds."""
    for there, now in zip(files, new, strict=True):
        Path(there).write_bytes(Path(now).read_bytes())


async def test_an_open_stream_ends_well_in_the_worker_that_a_reload_replaces(tmp_path: Path) -> None:
    """M2: it has its time for draining, and new requests of the same link go to the new worker."""
    async with server_tree(tmp_path, 1) as tree, Link(tree.url) as link:
        [old] = await tree.workers()
        async with link.stream("POST", "/echo") as stream:
            await stream.response()
            tree.signal(signal.SIGHUP)

            async def overlap() -> bool:
                return sorted(each.state for each in await tree.workers()) == ["draining", "ready"]

            await tree.until("the new one serves beside the old one", overlap)
            await stream.send(b"on")
            assert await stream.read(2) == b"on"
            assert old.pid in tree.living()
            await stream.end()
            assert await stream.read() == b""
        [new] = await tree.ready(1)
        assert new.pid != old.pid


async def test_a_reload_whose_new_worker_fails_at_start_leaves_the_old_ones_serving(tmp_path: Path) -> None:
    """M3: and says why; the next one, with the fault gone, works."""
    async with server_tree(tmp_path, 2) as tree, asking(tree.url) as linked:
        before = {each.pid for each in await tree.workers()}
        tree.deed.write_text("raise")
        tree.signal(signal.SIGHUP)
        await tree.until("it is given up", lambda: "the old workers go on" in tree.err())
        assert WHY in tree.err()
        assert {each.pid for each in await tree.ready(2)} == before
        tree.deed.unlink()
        await reload(tree, 2)
    assert linked.failed == []


async def test_a_reload_serves_with_the_certificate_that_is_there_now(tmp_path: Path) -> None:
    """M2: and one that cannot be used is refused, and all goes on."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    cert, key = first.issue()
    async with server_tree(tmp_path, 1, "--certfile", cert, "--keyfile", key) as tree:
        async with Link(tree.url, tls=first.client()) as link:
            assert (await link.request("GET", "/", headers=[("x-id", "one")], timeout=5)).status == 200
        [old] = await tree.workers()
        replace((cert,), ("/dev/null",))
        tree.signal(signal.SIGHUP)
        await tree.until("it is refused", lambda: "the reload is refused, and all goes on as before" in tree.err())
        assert [each.pid for each in await tree.ready(1)] == [old.pid]

        replace((cert, key), second.issue())
        await reload(tree, 1)
        async with Link(tree.url, tls=second.client()) as link:
            assert (await link.request("GET", "/", headers=[("x-id", "two")], timeout=5)).status == 200
