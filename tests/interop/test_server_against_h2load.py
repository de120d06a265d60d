"""Our server under h2load's many streams: not one request may fail."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.interop.bodies import greet
from tests.interop.command import muxlink_serve
from tests.interop.peers import Ran, Tool


def assert_all_succeeded(ran: Ran, requests: int) -> None:
    """h2load ends with 0 also when requests failed: what counts is its account of them."""
    account = re.search(
        r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout"
        r"\nstatus codes: (\d+) 2xx",
        ran.text,
    )
    assert account, ran
    assert [int(count) for count in account.groups()] == [requests] * 4 + [0] * 3 + [requests], ran


@pytest.mark.bulk
async def test_h2load_makes_1000_requests_100_at_a_time(h2load: Tool) -> None:
    async with Server(greet) as server:
        ran = await h2load("-n", "1000", "-m", "100", f"http://127.0.0.1:{server.port}/")

    assert_all_succeeded(ran, 1000)


@pytest.mark.bulk
async def test_h2load_uploads_a_small_body_1000_times(h2load: Tool, tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"n" * 1000)
    async with Server(greet) as server:
        ran = await h2load(
            "-n", "1000", "-c", "2", "-m", "50", "-d", str(tmp_path / "name"), f"http://127.0.0.1:{server.port}/"
        )

    assert_all_succeeded(ran, 1000)


@pytest.mark.bulk
async def test_h2load_comes_over_a_unix_socket(h2load: Tool, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with Server(greet, path=str(path)):
        ran = await h2load("-n", "1000", "-m", "100", f"--base-uri=unix:{path}", "http://localhost/")

    assert_all_succeeded(ran, 1000)


@pytest.mark.bulk
async def test_h2load_comes_over_200_short_connections(h2load: Tool) -> None:
    """R5, at a small scale: each serves one request and goes, 50 at a time; the server keeps none of them."""
    peers = set()

    async def remember(stream: ServerStream) -> None:
        peers.add(str(stream.peer.address))
        await greet(stream)

    async with Server(remember) as server:
        for _ in range(4):
            ran = await h2load("-n", "50", "-c", "50", "-m", "1", f"{server.url}/")
            assert_all_succeeded(ran, 50)
        async with asyncio.timeout(5):
            while (state := await server.state()).children:  # noqa: ASYNC110  (nobody sets an event for it)
                await asyncio.sleep(0)

    assert len(peers) == 200
    assert not state.children


async def test_h2load_makes_20000_requests_to_the_command_without_one_failure(h2load: Tool) -> None:
    """S13: 20,000 streams over 4 connections, 100 at a time on each, and the command is as well as before."""
    async with muxlink_serve("examples.hello:hello", "127.0.0.1:0") as served:
        ran = await h2load("-n", "20000", "-c", "4", "-m", "100", served.url, limit=90)
        again = await h2load("-n", "1", served.url)

    assert_all_succeeded(ran, 20_000)
    assert_all_succeeded(again, 1)
