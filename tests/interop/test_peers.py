"""The tests' own dealings with other programs: what is missing or hangs is told, and nothing is left running."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.interop import peers
from tests.interop.peers import Nghttpd, run
from tests.interop.strangers import stranger


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_peer_is_a_skip_that_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUXLINK_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Debian package nghttp2-server"):
        peers.executable("nghttpd")


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_peer_is_a_failure_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXLINK_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="Debian package nghttp2-client"):
        peers.executable("h2load")


async def test_a_program_that_hangs_is_killed_and_what_it_said_is_shown() -> None:
    program = "import time; print('so far', flush=True); time.sleep(60)"
    with pytest.raises(pytest.fail.Exception, match=r"killed after 1.0 s(.|\n)*so far"):
        await run(sys.executable, "-c", program, limit=1.0)


async def test_a_server_that_cannot_start_is_told_with_its_reason(nghttpd: Nghttpd, tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="no-such-option"):
        async with nghttpd(tmp_path, "--no-such-option"):
            pass


async def test_a_server_is_stopped_when_the_test_fails(nghttpd: Nghttpd, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with nghttpd(tmp_path) as peer:
            raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(peer.process.pid, 0)


async def test_a_log_is_not_waited_for_longer_than_its_limit(nghttpd: Nghttpd, tmp_path: Path) -> None:
    began = time.monotonic()
    async with nghttpd(tmp_path, "--verbose") as peer:
        with pytest.raises(pytest.fail.Exception, match="did not log 'nothing of the kind'"):
            await peer.logged("nothing of the kind", limit=0.1)
    assert time.monotonic() - began < 5


async def test_a_stranger_gives_every_visitor_the_same_bytes() -> None:
    async with stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n", hangs_up=True) as peer:
        program = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {peer.port})); s.send(b'x'); print(s.recv(99))"
        )
        said = [(await run(sys.executable, "-c", program, limit=10)).text for _ in range(2)]
    assert said == ["b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n'\n"] * 2
    assert peer.heard == b"xx"
