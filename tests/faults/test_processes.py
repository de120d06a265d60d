"""The server processes themselves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from actors.errors import ConnectFailed, DeadlineExceeded, LinkError, Outcome
from supervisor.link import Link
from tests.faults.handler import ID, SERVER, WAIT, answer
from tests.faults.processes import server_process


async def test_a_request_is_written_down_and_gets_its_own_answer(tmp_path: Path) -> None:
    async with server_process(tmp_path, "one") as server, Link(server.url) as link:
        reply = await link.request("POST", "/", headers=[(ID, "a"), ("x-size", "100")], body=b"body", timeout=5)
        assert reply.body == answer("a", b"body", 100)
        assert len(reply.body) == 132
        assert reply.headers[SERVER] == "one"
        assert server.served() == {"a": 1}


async def test_a_killed_server_has_written_down_what_it_did_not_answer_and_comes_back_on_its_port(
    tmp_path: Path,
) -> None:
    async with server_process(tmp_path) as server:
        url, pid = server.url, server.pid
        async with Link(url) as link:
            asked = asyncio.create_task(link.request("GET", "/", headers=[(ID, "a"), (WAIT, "30")]))
            async with asyncio.timeout(5):
                while not server.served():  # noqa: ASYNC110  (the file tells nobody)
                    await asyncio.sleep(0.01)
            await server.kill()
            with pytest.raises(LinkError) as caught:
                await asked
            assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        with pytest.raises(ConnectFailed):
            async with Link(url):
                pass
        await server.start()
        assert server.url == url
        assert server.pid != pid
        async with Link(url) as link:
            await link.request("GET", "/", headers=[(ID, "b")], timeout=5)
        assert server.served() == {"a": 1, "b": 1}


async def test_a_stopped_server_answers_once_it_goes_on(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server, Link(server.url) as link:
        server.stop()
        with pytest.raises(DeadlineExceeded):
            await link.request("GET", "/", headers=[(ID, "a")], timeout=0.2)
        server.go_on()
        assert (await link.request("GET", "/", headers=[(ID, "b")], timeout=5)).status == 200


async def test_nothing_is_left_of_a_server_that_was_stopped(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server:
        pid = server.pid
        server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
