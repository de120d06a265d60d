"""Our server, called by curl with prior knowledge, over TCP and over a Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.interop.bodies import BIG, big, big_digest, greet
from tests.interop.peers import Tool


async def test_curl_gets_headers_and_body(curl: Tool) -> None:
    async with Server(greet) as server:
        ran = await curl("-i", f"http://127.0.0.1:{server.port}/path?q=1")

    assert ran.code == 0, ran
    head, _, body = ran.text.partition("\r\n\r\n")
    assert head.splitlines()[0].rstrip() == "HTTP/2 200"
    assert "x-path: /path?q=1" in head
    assert "x-method: GET" in head
    assert body == "hello, world"


async def test_curl_posts_a_body(curl: Tool) -> None:
    async with Server(greet) as server:
        ran = await curl("-d", "curl", f"http://127.0.0.1:{server.port}/")

    assert (ran.code, ran.text) == (0, "hello, curl"), ran


async def test_curl_asks_for_the_head_alone(curl: Tool) -> None:
    """S15 (HEAD): the length is told, and the body is not sent."""
    async with Server(greet) as server:
        ran = await curl("--head", f"http://127.0.0.1:{server.port}/")

    assert ran.code == 0, ran
    assert "content-length: 12" in ran.text
    assert "hello" not in ran.text


async def test_ten_curls_are_answered_at_the_same_time(curl: Tool) -> None:
    # Each with one URL: curl 7.88, which Debian 12 has, breaks an h2c connection that it uses again (curl PR 10643).
    together = asyncio.Barrier(10)

    async def greet_all_at_once(stream: ServerStream) -> None:
        await together.wait()
        await greet(stream)

    async with Server(greet_all_at_once) as server:
        runs = await asyncio.gather(*[curl("-d", str(n), f"http://127.0.0.1:{server.port}/") for n in range(10)])

    assert [(ran.code, ran.text) for ran in runs] == [(0, f"hello, {n}") for n in range(10)]


async def test_curl_talks_over_a_unix_socket(curl: Tool, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with Server(greet, path=str(path)):
        got = await curl("--unix-socket", str(path), "http://localhost/")
        posted = await curl("--unix-socket", str(path), "-d", "unix", "http://localhost/")

    assert (got.code, got.text) == (0, "hello, world"), got
    assert (posted.code, posted.text) == (0, "hello, unix"), posted
    assert not path.exists()


@pytest.mark.bulk
async def test_curl_downloads_100_megabytes(curl: Tool) -> None:
    """F6: the handler waits for room, so that its memory stays flat."""
    async with Server(big) as server:
        ran = await curl(f"http://127.0.0.1:{server.port}/", limit=60)

    assert ran.code == 0, ran.err
    assert ran.digest == big_digest()


@pytest.mark.bulk
async def test_curl_uploads_100_megabytes(curl: Tool, big_file: Path) -> None:
    """F5: memory does not grow with the upload."""
    async with Server(big) as server:
        ran = await curl("-T", str(big_file), f"http://127.0.0.1:{server.port}/", limit=60)

    assert (ran.code, ran.text) == (0, f"{BIG} {big_digest()}"), ran


@pytest.mark.logs_errors("out of luck")
async def test_curl_is_told_of_a_handler_that_fails(curl: Tool) -> None:
    """S5: the stream is reset with INTERNAL_ERROR, which curl names and ends with 92 for."""

    async def fail(stream: ServerStream) -> None:
        raise RuntimeError("out of luck")

    async with Server(fail) as server:
        ran = await curl(f"http://127.0.0.1:{server.port}/")

    assert ran.code == 92, ran
    assert "INTERNAL_ERROR" in ran.err


async def test_curl_that_gives_up_half_way_ends_the_handler_that_sends(curl: Tool) -> None:
    """S6: a handler that is busy sending learns that its client has gone."""
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def send_for_ever(stream: ServerStream) -> None:
        await stream.start_response(200)
        try:
            while True:
                await stream.send(bytes(16_384))
        finally:
            ended.set_result(stream.cause)

    async with Server(send_for_ever) as server:
        ran = await curl("--max-time", "0.3", "-o", "/dev/null", f"http://127.0.0.1:{server.port}/")
        async with asyncio.timeout(10):
            assert await ended is not None
    assert ran.code == 28, ran
