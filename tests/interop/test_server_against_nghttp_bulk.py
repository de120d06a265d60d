"""Our server under nghttp's large bodies, small windows and many streams."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import pytest

from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.interop.bodies import big_blocks, send_twice_big, take_big, twice_big_digest
from tests.interop.peers import Tool

MiB = 1 << 20


@pytest.fixture(scope="module")
def four_megabytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("four") / "megabytes"
    path.write_bytes(b"".join(big_blocks())[: 4 * MiB])
    return path


async def echo(stream: ServerStream) -> None:
    """Send each part of the body back as it comes."""
    await stream.start_response(200)
    async for chunk in stream:
        await stream.send(chunk)


@pytest.mark.bulk
async def test_nghttp_downloads_200_megabytes(nghttp: Tool) -> None:
    """W8: 28,000 WINDOW_UPDATE frames trip no limit; F6: the handler's memory stays flat."""
    async with Server(send_twice_big) as server:
        ran = await nghttp(f"{server.url}/", limit=60)

    assert ran.digest == twice_big_digest(), ran.err


@pytest.mark.bulk
async def test_nghttp_uploads_20_bodies_at_once_with_trailers_and_without_priorities(
    nghttp: Tool, four_megabytes: Path
) -> None:
    """F3: twenty uploads of 4 MiB share one connection, and each arrives whole, with its trailer."""
    trailers = []

    async def take(stream: ServerStream) -> None:
        await take_big(stream)
        trailers.append((await stream.trailers())["x-up"])

    async with Server(take) as server:
        ran = await nghttp(
            "--no-dep", "-n", "-s", "-m", "20", "-d", str(four_megabytes), "--trailer", "x-up: down", f"{server.url}/"
        )

    # id  responseEnd requestStart  process code size request path
    assert re.findall(r"^ *\d+ .* (\d+) +(\d+) /$", ran.text, re.MULTILINE) == [("200", "72")] * 20, ran
    assert trailers == ["down"] * 20


@pytest.mark.bulk
@pytest.mark.parametrize(
    "windows",
    [
        pytest.param(("-w", "14", "-W", "16"), id="16 KiB each"),
        pytest.param(("-w", "16", "-W", "20"), id="64 KiB each in 1 MiB"),
        pytest.param(("-w", "20", "-W", "16"), id="1 MiB each in 64 KiB"),
    ],
)
async def test_nghttp_gets_4_megabytes_back_through_its_windows(
    nghttp: Tool, four_megabytes: Path, windows: tuple[str, ...]
) -> None:
    """F1: whatever closes first, the stream's window or the connection's, the rest waits for credit."""
    async with Server(echo) as server:
        ran = await nghttp(*windows, "-d", str(four_megabytes), f"{server.url}/", limit=60)

    assert ran.err == ""
    assert ran.digest == digest(four_megabytes), ran.argv


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_nghttp_that_opens_more_than_it_may_is_refused_the_surplus_alone(nghttp: Tool) -> None:
    """S9: 150 requests come before nghttp knows our limit of 100; whatever is refused says so, the others are answered.

    No handler answers before 100 are there, so that at least 100 are open at a time.
    """
    arrived = 0
    enough = asyncio.Event()

    async def wait_for_100(stream: ServerStream) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 100:
            enough.set()
        await enough.wait()
        await stream.respond(200, body=b"hello, world")

    async with Server(wait_for_100) as server:
        ran = await nghttp("-v", "-M", "1000", "-m", "150", f"{server.url}/")

    answered = set(re.findall(r"recv \(stream_id=(\d+)\) :status: 200", ran.text))
    refused = dict(re.findall(r"recv RST_STREAM frame <.*stream_id=(\d+)>\n\s+\(error_code=(\w+)", ran.text))
    assert len(answered) >= 100
    assert len(answered) + len(refused) == 150
    assert answered.isdisjoint(refused)
    assert set(refused.values()) <= {"REFUSED_STREAM"}
    assert "recv GOAWAY" not in ran.text


async def test_nghttp_that_takes_no_pushes_at_a_time_is_served(nghttp: Tool) -> None:
    """W3: SETTINGS that limit us (0 pushed streams, a header table of 1,000 bytes) are acknowledged and kept."""

    async def hello(stream: ServerStream) -> None:
        await stream.respond(200, body=b"hello, world")

    async with Server(hello) as server:
        ran = await nghttp("-v", "--max-concurrent-streams=0", "-c", "1000", "-m", "5", f"{server.url}/")

    assert "SETTINGS_MAX_CONCURRENT_STREAMS(0x03):0" in ran.text, ran
    assert re.search(r"recv SETTINGS frame <length=0, flags=0x01", ran.text)
    assert len(re.findall(r":status: 200", ran.text)) == 5


async def test_nghttp_that_expects_100_gets_it_before_it_sends(nghttp: Tool, four_megabytes: Path) -> None:
    """S7: the server sends 100 at the handler's first read; until then not a byte of the body has come."""

    async def take_after_a_look(stream: ServerStream) -> None:
        assert stream.headers["expect"] == "100-continue"
        await take_big(stream)

    async with Server(take_after_a_look) as server:
        ran = await nghttp("-v", "-n", "--expect-continue", "-d", str(four_megabytes), f"{server.url}/")

    told = [found for found in re.findall(r":status: (\d+)|(send DATA) frame", ran.text) if any(found)]
    assert told[0] == ("100", ""), ran
    assert told[-1] == ("200", "")
    assert told.count(("100", "")) == 1


async def test_nghttp_that_expects_100_and_is_refused_sends_no_body(nghttp: Tool, four_megabytes: Path) -> None:
    """S7, S14: a handler that answers without reading sends no 100, and the answer comes through."""

    async def refuse(stream: ServerStream) -> None:
        await stream.respond(413, body=b"too much")

    async with Server(refuse) as server:
        ran = await nghttp("-v", "--expect-continue", "-d", str(four_megabytes), f"{server.url}/")

    assert re.findall(r":status: (\d+)", ran.text) == ["413"]
    assert "too much" in ran.text
    assert "send DATA" not in ran.text
