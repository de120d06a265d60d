"""What systemd and Kubernetes see of a tree: its notifications, the sockets it is passed, its probes (M5, M7)."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import pytest

from actors.errors import LinkError
from supervisor.link import Link
from tests.interop.peers import free_port
from tests.processes.load import visit
from tests.processes.tree import server_tree, unserving_tree

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""A HealthCheckResponse."""


class Systemd:
    """The socket of a service manager, and what it has heard."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.path = path
        self.heard: list[str] = []
        """All lines, in their order."""

    async def __aenter__(self) -> Self:
        # At once: the kernel keeps ten messages that nobody reads.
        asyncio.get_running_loop().add_reader(self.socket, self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.path.unlink()
        self.socket.close()

    def _hear(self) -> None:
        self.heard += self.socket.recv(4096).decode().split("\n")


async def check(link: Link, service: str = "") -> bytes:
    """What the standard health check of gRPC says, within 1 s."""
    message = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    reply = await link.request(
        "POST", "/grpc.health.v1.Health/Check", headers=[("content-type", "application/grpc"), ("te", "trailers")],
        body=b"\0" + len(message).to_bytes(4) + message, timeout=1,
    )  # fmt: skip
    assert (reply.status, reply.trailers["grpc-status"]) == (200, "0")
    return reply.body[5:]


# --- systemd ----------------------------------------------------------------------------------------------------------


async def test_systemd_hears_of_each_stage_and_the_watchdog(tmp_path: Path) -> None:
    """M5."""
    async with Systemd(tmp_path.with_suffix(".notify")) as systemd:
        heard, variables = systemd.heard, {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}
        async with server_tree(tmp_path, 2, variables=variables) as tree:
            await tree.until("all serve", lambda: "STATUS=2 of 2 workers serve" in heard)
            assert heard.index("READY=1") < heard.index("STATUS=2 of 2 workers serve")
            beats = heard.count("WATCHDOG=1")
            await tree.until("the watchdog is told again and again", lambda: heard.count("WATCHDOG=1") >= beats + 3)
            assert heard.count("READY=1") == 1

            tree.signal(signal.SIGHUP)
            await tree.until("it has reloaded", lambda: heard.count("READY=1") == 2)
            assert heard.index("READY=1") < heard.index("RELOADING=1") < len(heard) - heard[::-1].index("READY=1")
            assert "STOPPING=1" not in heard

            assert await tree.terminate() == 0
            assert heard.count("STOPPING=1") == 1


async def test_a_server_is_not_ready_for_systemd_before_a_worker_serves(tmp_path: Path) -> None:
    """M5: one whose workers cannot start never is."""
    (tmp_path / "deed").write_text("raise")
    async with Systemd(tmp_path.with_suffix(".notify")) as systemd:
        variables = {"NOTIFY_SOCKET": str(systemd.path)}
        async with unserving_tree(tmp_path, "--workers", "2", variables=variables) as tree:
            assert await tree.ends() == 2
        assert systemd.heard
        assert "READY=1" not in systemd.heard


async def test_the_socket_that_systemd_passes_is_served_and_survives(tmp_path: Path) -> None:
    """M5: connections that come while no server runs wait for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port: int = passed.getsockname()[1]
        # What systemd does between fork and exec.
        script = (
            f"import os, sys; os.dup2({passed.fileno()}, 3); os.close({passed.fileno()}); "
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[1], sys.argv[1:])"
        )
        prefix = (sys.executable, "-c", script)
        for life in range(2):
            waiting = asyncio.create_task(visit(port, f"early-{life}", patience=20))
            async with server_tree(tmp_path, 2, prefix=prefix, pass_fds=(passed.fileno(),)) as tree:
                assert tree.port == port
                assert (await waiting).outcome == "answered"
                async with Link(tree.url) as link:
                    reply = await link.request("GET", "/", headers=[("x-id", f"later-{life}")], timeout=5)
                    assert reply.status == 200
        assert tree.served() == {f"{when}-{life}": 1 for when in ("early", "later") for life in range(2)}


# --- Kubernetes -------------------------------------------------------------------------------------------------------


async def test_the_health_listener_answers_within_a_second_while_every_slot_is_full(tmp_path: Path) -> None:
    """M7: whoever comes to the full server waits, and is served once a place is free."""
    health = f"127.0.0.1:{free_port()}"
    async with (
        server_tree(tmp_path, 2, "--max-connections", "1", "--health-bind", health) as tree,
        Link(f"http://{health}") as probe,
        AsyncExitStack() as open_ones,
    ):
        for _ in range(2):
            link = await open_ones.enter_async_context(Link(tree.url))
            stream = await open_ones.enter_async_context(link.stream("POST", "/echo"))
            await stream.response()
        waiting = asyncio.create_task(visit(tree.port, "next", patience=30))
        assert [each.load for each in await tree.ready(2)] == [1, 1]
        for _ in range(5):
            for service in ("", "readiness", "liveness"):
                assert await check(probe, service) == SERVING
        assert not waiting.done()
        assert tree.served()["next"] == 0
        await open_ones.aclose()
        assert (await waiting).outcome == "answered"


async def test_readiness_goes_at_sigterm_while_all_is_served_on_and_liveness_stays_until_the_exit(
    tmp_path: Path,
) -> None:
    """M7: for the drain delay new connections are let in, then no more, and the open stream has its time."""
    health = f"127.0.0.1:{free_port()}"
    async with (
        server_tree(tmp_path, 2, "--health-bind", health, "--drain-delay", "1.5") as tree,
        Link(f"http://{health}") as probe,
        Link(tree.url) as link,
        link.stream("POST", "/echo") as stream,
    ):
        await stream.response()
        assert await check(probe) == SERVING
        tree.signal(signal.SIGTERM)

        async def unready() -> bool:
            return await check(probe) == NOT_SERVING

        await tree.until("it is not ready", unready, within=1)
        assert await check(probe, "readiness") == NOT_SERVING
        assert await check(probe, "liveness") == SERVING
        assert (await visit(tree.port, "late")).outcome == "answered"
        await tree.until("the door is shut", lambda: _refused(tree.port), within=5)
        await stream.send(b"on")
        assert await stream.read(2) == b"on"
        assert await check(probe, "liveness") == SERVING
        assert await check(probe) == NOT_SERVING
        await stream.end()
        assert await stream.read() == b""
        assert await tree.ends() == 0


def _refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def test_readiness_goes_while_no_worker_serves_and_comes_back(tmp_path: Path) -> None:
    """M7: liveness stays: to start the whole process again would not help."""
    health = f"127.0.0.1:{free_port()}"
    async with (
        server_tree(tmp_path, 1, "--health-bind", health, "--drain-delay", "0") as tree,
        Link(f"http://{health}") as probe,
        Link(tree.url) as link,
    ):
        with pytest.raises(LinkError):
            await link.request("GET", "/exit", timeout=5)

        async def is_ready() -> bool:
            assert await check(probe, "liveness") == SERVING
            return await check(probe) == SERVING

        async def unready() -> bool:
            return not await is_ready()

        await tree.until("it is not ready", unready, within=5)
        await tree.until("it is ready again", is_ready)
