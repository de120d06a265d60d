"""TLS with programs that are not ours: curl, and the command as a process of its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from supervisor.server import Server
from tests.interop.bodies import greet
from tests.interop.command import muxlink, muxlink_argv
from tests.interop.peers import ROOT, Tool, environment, executable, kill
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def curl_tls() -> Tool:
    """curl as users run it: HTTP/2 is what TLS chooses."""
    return Tool(executable("curl"), ("-q", "-sS", "--noproxy", "*"))


async def test_curl_is_served_over_tls(curl_tls: Tool, authority: Authority) -> None:
    async with Server(greet, tls=authority.server()) as server:
        ran = await curl_tls("-i", "--cacert", authority.file, "-d", "curl", f"https://localhost:{server.port}/")
    assert ran.code == 0, ran
    assert ran.text.splitlines()[0].rstrip() == "HTTP/2 200"
    assert ran.text.endswith("hello, curl")


async def test_curl_that_does_not_trust_us_or_speaks_no_http2_harms_nobody(
    curl_tls: Tool, authority: Authority
) -> None:
    async with Server(greet, tls=authority.server()) as server:
        url = f"https://localhost:{server.port}/"
        distrusting = await curl_tls(url)
        old = await curl_tls("--http1.1", "--cacert", authority.file, url)
        plain = await curl_tls("--http2-prior-knowledge", f"http://localhost:{server.port}/")
        again = await curl_tls("--cacert", authority.file, url)
    assert distrusting.code == 60, distrusting
    assert old.code != 0, old
    assert plain.code != 0, plain
    assert (again.code, again.text) == (0, "hello, world"), again


async def test_curl_shows_its_certificate(curl_tls: Tool, authority: Authority) -> None:
    cert, key = authority.issue("ann.test")
    async with Server(greet, tls=authority.server(client_ca=authority.file)) as server:
        url = f"https://localhost:{server.port}/"
        known = await curl_tls("--cacert", authority.file, "--cert", cert, "--key", key, url)
        unknown = await curl_tls("--cacert", authority.file, url)
    assert (known.code, known.text) == (0, "hello, world"), known
    assert unknown.code != 0, unknown


async def test_the_command_serves_and_asks_over_tls(curl_tls: Tool, authority: Authority) -> None:
    cert, key = authority.issue()
    process = await asyncio.create_subprocess_exec(
        *muxlink_argv(
            "serve", "examples.hello:hello", "--bind", "localhost:0", "--certfile", cert, "--keyfile", key
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(15):
            line = (await process.stdout.readline()).decode()
        url = line.split()[-1]
        assert url.startswith("https://localhost:")
        ran = await curl_tls("--cacert", authority.file, "-d", "curl", url)
        ours = await muxlink("request", "--cacert", authority.file, "-d", "link", url)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await process.stdout.read()
            assert await process.wait() == 0
    finally:
        await kill(process)
    assert (ran.code, ran.text) == (0, "hello, curl"), ran
    assert (ours.code, ours.text) == (0, "hello, link"), ours
