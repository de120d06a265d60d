"""Our server, called by httpx (HTTP/2 with prior knowledge)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from supervisor.server import Server
from tests.interop.bodies import BIG, Tally, big, big_blocks_slowly, big_digest, greet
from tests.interop.peers import missing

try:
    import httpx
except ImportError:
    missing("httpx is not installed: pip install 'httpx[http2]'")


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client that knows that the server speaks HTTP/2; one connection, and no proxy of the environment."""
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}",
        http1=False,
        http2=True,
        trust_env=False,
        timeout=30,
        limits=httpx.Limits(max_connections=1),
    ) as client:
        yield client


async def test_httpx_gets_and_posts() -> None:
    async with Server(greet) as server, client_of(server) as client:
        got = await client.get("/path?q=1", headers={"user-agent": "a test"})
        posted = await client.post("/", content=b"httpx")

    assert (got.http_version, got.status_code, got.text) == ("HTTP/2", 200, "hello, world")
    assert got.headers["x-path"] == "/path?q=1"
    assert got.headers["x-agent"] == "a test"
    assert posted.text == "hello, httpx"


@pytest.mark.bulk
async def test_httpx_makes_1000_requests_100_at_a_time() -> None:
    async def ten(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get("/")).text for _ in range(10)]

    async with Server(greet) as server, client_of(server) as client:
        replies = await asyncio.gather(*[ten(client) for _ in range(100)])

    assert replies == [["hello, world"] * 10] * 100


@pytest.mark.bulk
async def test_httpx_downloads_100_megabytes() -> None:
    async with Server(big) as server, client_of(server) as client:
        tally = Tally()
        async with client.stream("GET", "/") as response:
            async for chunk in response.aiter_bytes():
                tally.add(chunk)

    assert (tally.length, tally.digest) == (BIG, big_digest())


@pytest.mark.bulk
async def test_httpx_uploads_100_megabytes() -> None:
    """F5: memory does not grow with the upload."""
    async with Server(big) as server, client_of(server) as client:
        response = await client.post("/", content=big_blocks_slowly())

    assert response.text == f"{BIG} {big_digest()}"


async def test_httpx_that_leaves_a_download_half_read_keeps_its_connection() -> None:
    """F3: httpx reads no more and says nothing; what stays unread holds up its own stream alone."""
    async with Server(big) as server, client_of(server) as client:
        async with client.stream("GET", "/") as response:
            async for _ in response.aiter_bytes():
                break
        posted = await client.post("/", content=b"still here")

    assert posted.text.startswith("10 ")
