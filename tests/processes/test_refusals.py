"""What cannot work, or goes wrong around a tree: one line, the right exit code, no crash loop at full speed (M3)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from supervisor.link import Link
from tests.interop.peers import occupied_port
from tests.processes.handler import WHY
from tests.processes.load import asking
from tests.processes.tree import ServerTree, server_tree, unserving_tree


async def complaint(tree: ServerTree, code: int) -> str:
    """The one line that it says on stderr, having served nothing and ended with this code."""
    assert await tree.ends() == code, tree.err()
    assert tree.out() == ""
    lines = tree.err().splitlines()
    assert len(lines) == 1, tree.err()
    assert lines[0].startswith("muxlink serve: ")
    return lines[0].removeprefix("muxlink serve: ")


async def test_a_port_that_is_in_use_is_one_line(tmp_path: Path) -> None:
    with occupied_port() as port:
        async with unserving_tree(tmp_path, "--workers", "2", bind=f"127.0.0.1:{port}") as tree:
            said = await complaint(tree, 1)
    assert (
        said == f"cannot listen on 127.0.0.1:{port}: Address already in use; stop what uses it or choose another port"
    )


@pytest.mark.skipif(
    int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80 or not shutil.which("setpriv"),
    reason="anybody may listen on port 80 here, or root cannot do without its privileges",
)
async def test_a_port_that_is_not_permitted_is_one_line(tmp_path: Path) -> None:
    unprivileged = ("setpriv", "--bounding-set=-net_bind_service") if os.geteuid() == 0 else ()
    async with unserving_tree(tmp_path, "--workers", "2", bind="127.0.0.1:80", prefix=unprivileged) as tree:
        said = await complaint(tree, 1)
    assert said.startswith("cannot listen on 127.0.0.1:80: Permission denied")


async def test_a_handler_that_no_worker_can_import_ends_all_at_once(tmp_path: Path) -> None:
    """M3: in one line, for all workers, without trying again."""
    (tmp_path / "deed").write_text("raise")
    async with unserving_tree(tmp_path, "--workers", "3") as tree:
        said = await complaint(tree, 2)
    assert said == f"cannot import tests.processes.handler: RuntimeError: {WHY}"


async def test_a_handler_that_one_worker_only_cannot_import_is_one_line_and_tried_again(tmp_path: Path) -> None:
    """M3: the others serve."""
    (tmp_path / "deed").write_text("raise once")
    async with server_tree(tmp_path, 3) as tree:
        await tree.ready(3)
        assert tree.err().count(WHY) == 1, tree.err()
        assert "cannot import tests.processes.handler" in tree.err()


async def test_a_full_disk_for_all_logs_costs_no_request(tmp_path: Path) -> None:
    """M1, M4: also not while a worker ends, which has the parent write, and at the end."""
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230
        async with server_tree(tmp_path, 2, "--access-log", "/dev/full", "--log-level", "debug", stderr=full) as tree:
            async with asking(tree.url, connections=2) as linked:
                before, other = await tree.workers()
                await tree.until("it serves", lambda: len(linked.asked) > 50)
                os.kill(before.pid, signal.SIGKILL)
                await tree.until("it serves on", lambda: len(linked.asked) > 150)
                after = await tree.ready(2)
            assert other.pid in {each.pid for each in after}
            assert {each.error for each in linked.failed if "reset" not in each.error} <= {
                each.error for each in linked.failed if each.outcome == "MaybeProcessed"
            }
            assert len(linked.failed) <= 8
            assert linked.contradictions(tree.served()) == []
            assert await tree.terminate() == 0


async def test_a_control_socket_of_a_dead_process_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "control" / "c.sock"))
        dead.listen()
    async with server_tree(tmp_path, 1) as tree:
        assert len(await tree.workers()) == 1
        assert tree.err() == ""


async def test_a_control_socket_of_a_server_that_lives_is_one_line(tmp_path: Path) -> None:
    async with server_tree(tmp_path, 1) as first:
        second = ServerTree(tmp_path, ("--workers", "1"))
        try:
            await second.begin()
            said = await complaint(second, 1)
        finally:
            second._out.close()
            second._err.close()
        assert said == (f"a server has its control socket at {first.control}: stop it first, or choose another path")
        assert len(await first.workers()) == 1


async def test_a_limit_on_open_files_that_is_low_is_a_warning_and_served_within(tmp_path: Path) -> None:
    """M1: whoever does not fit waits, or is closed; all others are served."""
    limited = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    async with server_tree(tmp_path, 2, prefix=limited) as tree:
        said = [line for line in tree.err().splitlines() if "this process may open 64 files" in line]
        assert said
        assert all("raise the limit (ulimit -n)" in line for line in said)
        async with Link(tree.url) as link:
            assert (await link.request("GET", "/", headers=[("x-id", "one")], timeout=5)).status == 200


async def test_a_limit_on_open_files_with_which_no_worker_can_be_started_ends_all(tmp_path: Path) -> None:
    """M3: not at full speed, and no traceback."""
    limited = ("sh", "-c", 'ulimit -n 12; exec "$@"', "sh")
    async with unserving_tree(tmp_path, "--workers", "1", prefix=limited) as tree:
        assert await tree.ends(40) == 1
        lines = tree.err().splitlines()
        assert lines[-1].startswith(
            "muxlink serve: no worker serves, and 6 have failed one after the other; the last: "
        )
        assert lines[-1].endswith(": Too many open files")
        assert len(lines) == 8, tree.err()  # the limit, each failure, and the end
        assert "raise the limit (ulimit -n)" in lines[0]
        assert tree.out() == ""
