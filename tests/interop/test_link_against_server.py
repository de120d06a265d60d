"""Our client against our server, over TCP and over a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.errors import ErrorCode, LinkError, StreamReset
from actors.server_stream import Handler, ServerStream
from supervisor.link import Link
from supervisor.server import Server
from tests.interop.bodies import BIG, ROOM, Tally, big, big_blocks, big_blocks_slowly, big_digest, greet
from tests.interop.peers import unix_url


@asynccontextmanager
async def linked(handler: Handler, path: Path | None) -> AsyncIterator[Link]:
    """A link to a server of our own: over a Unix socket where there is a path, else over TCP."""
    async with Server(handler, path=str(path) if path else None) as server:
        url = unix_url(path) if path else f"http://127.0.0.1:{server.port}"
        async with Link(url) as link:
            yield link


@pytest.fixture(params=["tcp", "unix"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Each test runs twice: over TCP (None) and over a Unix socket of this path."""
    return tmp_path / "server.sock" if request.param == "unix" else None


async def test_a_small_request_and_its_trailers_go_both_ways(path: Path | None) -> None:
    async with linked(greet, path) as link:
        reply = await link.request("POST", "/hello", body=b"link", trailers=[("x-up", "down")], timeout=10)

    assert (reply.status, reply.body) == (200, b"hello, link")
    assert (reply.headers["x-method"], reply.headers["x-path"]) == ("POST", "/hello")
    assert (reply.trailers["x-length"], reply.trailers["x-up-again"]) == ("4", "down")


async def test_leaving_a_stream_cancels_its_handler_alone(path: Path | None) -> None:
    """S6: the handler sees CancelledError with the reset in ``stream.cause``; the connection goes on."""
    ended: asyncio.Future[LinkError | None] = asyncio.get_running_loop().create_future()
    peers = set()

    async def wait_for_ever(stream: ServerStream) -> None:
        peers.add(stream.peer)
        if stream.path != "/wait":
            await greet(stream)
            return
        await stream.start_response(200)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set_result(stream.cause)
            raise

    async with linked(wait_for_ever, path) as link, asyncio.timeout(10):
        async with link.stream("POST", "/wait") as stream:
            await stream.response()
        cause = await ended
        assert (await link.request("GET", "/", timeout=5)).body == b"hello, world"

    assert isinstance(cause, StreamReset)
    assert cause.code == ErrorCode.CANCEL
    assert len(peers) == 1


async def test_a_link_finds_a_server_by_name() -> None:
    """``localhost`` has two addresses on many machines, and only one of them is listened on."""
    async with Server(greet, "127.0.0.1") as server, Link(f"http://localhost:{server.port}") as link:
        assert (await link.request("GET", "/", timeout=10)).body == b"hello, world"


@pytest.mark.bulk
async def test_1000_requests_are_made_100_at_a_time(path: Path | None) -> None:
    async def ten(link: Link, caller: int) -> list[bytes]:
        return [(await link.request("POST", "/", body=b"%d %d" % (caller, n), timeout=30)).body for n in range(10)]

    async with linked(greet, path) as link:
        replies = await asyncio.gather(*[ten(link, caller) for caller in range(100)])

    assert replies == [[b"hello, %d %d" % (caller, n) for n in range(10)] for caller in range(100)]


@pytest.mark.bulk
async def test_100_megabytes_come_down(path: Path | None) -> None:
    """F5 and F6: neither end's memory grows with the body (both are in this process)."""
    async with linked(big, path) as link, link.stream("GET", "/") as stream:
        tally = Tally()
        async for chunk in stream:
            tally.add(chunk)
        trailers = await stream.trailers()

    assert (tally.length, tally.digest) == (BIG, big_digest())
    assert trailers["x-digest"] == big_digest()
    assert tally.growth < ROOM


@pytest.mark.bulk
@pytest.mark.parametrize(("path", "blocks"), [("tcp", big_blocks), ("unix", big_blocks_slowly)], indirect=["path"])
async def test_100_megabytes_go_up_from_an_iterable(
    path: Path | None, blocks: Callable[[], Iterator[bytes] | AsyncIterator[bytes]]
) -> None:
    """F5: the handler that reads sees its process grow by less than half of the body."""
    async with linked(big, path) as link:
        reply = await link.request("PUT", "/", body=blocks(), trailers=[("x-digest", "later")], timeout=60)

    assert reply.body.decode() == f"{BIG} {big_digest()} later"


@pytest.mark.bulk
@pytest.mark.parametrize("path", ["tcp"], indirect=True)
async def test_100_megabytes_go_both_ways_at_once(path: Path | None) -> None:
    """The interface's promise of both directions at once: each chunk comes back while the next goes out."""

    async def echo(stream: ServerStream) -> None:
        await stream.start_response(200)
        async for chunk in stream:
            await stream.send(chunk)
        await stream.end(trailers=await stream.trailers())

    async with linked(echo, path) as link, link.stream("POST", "/") as stream:

        async def upload() -> None:
            for block in big_blocks():
                await stream.send(block)
            await stream.end(trailers=[("x-digest", big_digest())])

        tally = Tally()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upload())
            async for chunk in stream:
                tally.add(chunk)
        trailers = await stream.trailers()

    assert (tally.length, tally.digest) == (BIG, big_digest())
    assert trailers["x-digest"] == big_digest()
    assert tally.growth < ROOM
