"""Our server, called by nghttp2's client.

nghttp ends with exit code 0 whatever happened, so these tests believe only what it shows.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.interop.bodies import BIG, big, big_digest, greet, send_big
from tests.interop.peers import Tool


async def test_nghttp_sees_status_headers_body_and_trailers(nghttp: Tool) -> None:
    """S8 (present trailers): they come after the body, and end the stream."""
    async with Server(greet) as server:
        ran = await nghttp("-v", f"http://127.0.0.1:{server.port}/some/path?q=1")

    assert "Some requests were not processed" not in ran.err, ran
    assert "recv (stream_id=13) :status: 200" in ran.text
    assert "recv (stream_id=13) x-method: GET" in ran.text
    assert "recv (stream_id=13) x-path: /some/path?q=1" in ran.text
    assert "recv (stream_id=13) x-agent: nghttp2/" in ran.text
    assert "recv (stream_id=13) content-length: 12" in ran.text
    assert "hello, world" in ran.text
    body, _, after = ran.text.partition("recv DATA frame")
    assert "x-length" not in body
    assert "recv (stream_id=13) x-length: 0" in after
    assert re.search(r"recv HEADERS frame <.*stream_id=13>\n\s+; END_STREAM", after), ran


async def test_nghttp_uploads_a_body_with_trailers(nghttp: Tool, tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"nghttp2")
    async with Server(greet) as server:
        ran = await nghttp(
            "-v", "-d", str(tmp_path / "name"), "--trailer", "x-up: down", f"http://127.0.0.1:{server.port}/"
        )

    assert "send HEADERS frame" in ran.text
    assert "recv (stream_id=13) x-method: POST" in ran.text
    assert "hello, nghttp2" in ran.text
    assert "recv (stream_id=13) x-length: 7" in ran.text
    assert "recv (stream_id=13) x-up-again: down" in ran.text


async def test_nghttp_makes_1000_requests_100_at_a_time_on_one_connection(nghttp: Tool) -> None:
    """S13, at a small scale: streams that ended leave nothing that would stop the next."""
    peers = set()

    async def remember(stream: ServerStream) -> None:
        peers.add(str(stream.peer.address))
        await stream.respond(200, body=b"hello, world")

    async with Server(remember) as server:
        ran = await nghttp("-n", "-s", "-m", "1000", f"http://127.0.0.1:{server.port}/")

    # id  responseEnd requestStart  process code size request path
    lines = re.findall(r"^ *\d+ .* (\d+) +(\d+) /$", ran.text, re.MULTILINE)
    assert lines == [("200", "12")] * 1000, ran
    assert len(peers) == 1


@pytest.mark.bulk
async def test_nghttp_downloads_100_megabytes_with_the_smallest_windows(nghttp: Tool) -> None:
    """W8 (a healthy download, 14,000 WINDOW_UPDATE frames) and F6: the handler's memory stays flat."""
    async with Server(send_big) as server:
        ran = await nghttp(f"http://127.0.0.1:{server.port}/", limit=60)

    assert ran.digest == big_digest(), ran.err


@pytest.mark.bulk
async def test_nghttp_uploads_100_megabytes(nghttp: Tool, big_file: Path) -> None:
    """F5: memory does not grow with the upload."""
    async with Server(big) as server:
        ran = await nghttp("-d", str(big_file), f"http://127.0.0.1:{server.port}/", limit=60)

    assert ran.text == f"{BIG} {big_digest()}", ran


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--padding=255",), id="with padded frames"),
        pytest.param(("--continuation",), id="with a header block in several frames"),
        pytest.param(("--header-table-size=0",), id="without a header table"),
        pytest.param(("--window-bits=4", "--connection-window-bits=16"), id="with a stream window of 15 bytes"),
        pytest.param(("--expect-continue",), id="waiting for 100 Continue"),
        pytest.param(("--no-content-length",), id="without a content-length"),
        pytest.param(("--no-dep", "--no-rfc7540-pri"), id="without priorities"),
    ],
)
async def test_nghttp_is_answered_however_it_shapes_its_frames(
    nghttp: Tool, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "name").write_bytes(b"n" * 30_000)
    async with Server(greet) as server:
        ran = await nghttp(*options, "-d", str(tmp_path / "name"), f"http://127.0.0.1:{server.port}/")

    assert ran.out == b"hello, " + b"n" * 30_000, ran


@pytest.mark.logs_errors("out of luck")
async def test_a_handler_that_fails_costs_nghttp_that_stream_alone(
    nghttp: Tool, caplog: pytest.LogCaptureFixture
) -> None:
    """S5: INTERNAL_ERROR on the one stream; the others on the connection are answered."""

    async def fail_on_demand(stream: ServerStream) -> None:
        if stream.path == "/bad":
            raise RuntimeError("out of luck")
        await stream.respond(200, body=b"good")

    async with Server(fail_on_demand) as server:
        url = f"http://127.0.0.1:{server.port}"
        ran = await nghttp("-v", f"{url}/good-1", f"{url}/bad", f"{url}/good-2")

    assert re.findall(r"recv RST_STREAM frame <.*stream_id=15>\n\s+\(error_code=(\w+)", ran.text) == ["INTERNAL_ERROR"]
    assert re.findall(r"recv \(stream_id=(\d+)\) :status: 200", ran.text) == ["13", "17"], ran
    tracebacks = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert tracebacks == ["out of luck"]


async def test_a_client_that_goes_away_ends_its_handler(nghttp: Tool) -> None:
    """S6 and L7: the handler is cancelled, with the cause in ``stream.cause``, and may clean up."""
    begun = asyncio.Event()
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def wait_for_ever(stream: ServerStream) -> None:
        if stream.path != "/wait":
            await greet(stream)
            return
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set_result(stream.cause)

    async with Server(wait_for_ever) as server:
        url = f"http://127.0.0.1:{server.port}"
        leaving = asyncio.create_task(nghttp("--timeout=1s", f"{url}/wait"))
        async with asyncio.timeout(10):
            await begun.wait()
            assert await ended is not None
            await leaving
        assert (await nghttp(f"{url}/")).text == "hello, world"
