"""Our client, calling an ASGI application in hypercorn: HTTP/2 with prior knowledge on its plain port."""

from __future__ import annotations

import asyncio
import signal

import pytest

from actors.errors import LinkError
from supervisor.link import Link
from tests.interop.bodies import big_blocks
from tests.interop.peers import missing
from tests.interop.programs import Running, hypercorn

try:
    import hypercorn as _installed  # noqa: F401
except ImportError:
    missing("hypercorn is not installed: pip install hypercorn")

APP = "tests.interop.asgi:app"


async def test_hypercorn_answers_a_get() -> None:
    async with hypercorn(APP) as peer, Link(peer.url) as link:
        reply = await link.request("GET", "/path?q=1", timeout=10)

    assert (reply.status, reply.body) == (200, b"GET /path over HTTP/2")
    assert reply.headers["x-app"] == "asgi"
    assert reply.headers["server"].startswith("hypercorn")


async def test_hypercorn_echoes_a_post() -> None:
    async with hypercorn(APP) as peer, Link(peer.url) as link:
        small = await link.request("POST", "/echo", body=b"from our link", timeout=10)
        empty = await link.request("POST", "/echo", timeout=10)

    assert (small.status, small.body) == (200, b"from our link")
    assert (empty.status, empty.body) == (200, b"")


@pytest.mark.bulk
async def test_hypercorn_echoes_4_megabytes() -> None:
    """F6: hypercorn returns credit only as its application reads."""
    body = b"".join(big_blocks())[: 4 << 20]
    async with hypercorn(APP) as peer, Link(peer.url) as link:
        reply = await link.request("POST", "/echo", body=body, timeout=60)

    assert reply.body == body


async def test_a_response_of_hypercorn_is_read_while_it_is_made() -> None:
    """Each part is answered before the next is sent."""
    async with hypercorn(APP) as peer, Link(peer.url) as link, link.stream("POST", "/echo", timeout=10) as stream:
        for part in (b"one", b"two", b"three"):
            await stream.send(part)
            assert await stream.read(100) == part
        await stream.end()
        assert await stream.read() == b""
        assert (await stream.response()).status == 200


async def test_leaving_a_stream_of_hypercorn_early_tells_its_application() -> None:
    """S10: the application sees the disconnect, and the connection serves the next request."""
    async with hypercorn(APP) as peer, Link(peer.url) as link:
        async with link.stream("GET", "/for-ever", timeout=10) as stream:
            assert await stream.read(1)
        await peer.logged("the client has left")
        later = await link.request("GET", "/later", timeout=10)

    assert later.body == b"GET /later over HTTP/2"


async def test_hypercorn_answers_100_requests_at_once() -> None:
    """All are open at the same time: the application answers none before it has 100."""
    async with hypercorn(APP) as peer, Link(peer.url) as link:
        replies = await asyncio.gather(*[link.request("GET", f"/together?{n}", timeout=20) for n in range(100)])

    assert [reply.body for reply in replies] == [str(n).encode() for n in range(100)]


async def test_hypercorn_that_is_told_to_end_finishes_what_is_open() -> None:
    """G1: SIGTERM comes while 5 requests are half-way; all end well, and nobody hangs on the port that is gone."""
    async with hypercorn(APP, "--graceful-timeout", "10") as peer, Link(peer.url) as link, asyncio.timeout(15):
        half_way = asyncio.Barrier(6)
        ending = asyncio.Event()

        async def converse(name: bytes) -> bytes:
            async with link.stream("POST", "/echo") as stream:
                await stream.send(name)
                first = await stream.read(100)
                await half_way.wait()
                await ending.wait()
                await stream.send(b", still here")
                await stream.end()
                return first + await stream.read()

        talks = [asyncio.create_task(converse(str(n).encode())) for n in range(5)]
        await half_way.wait()
        peer.process.send_signal(signal.SIGTERM)
        await _refuses(peer)
        ending.set()
        said = await asyncio.gather(*talks)
        code = await peer.ends()
        with pytest.raises(LinkError) as caught:
            await link.request("GET", "/too-late", timeout=10)

    assert said == [b"%d, still here" % n for n in range(5)]
    assert code == 0
    assert peer.url.removeprefix("http://") in str(caught.value)


async def _refuses(peer: Running) -> None:
    """Wait until nobody listens at the peer's port."""
    host, _, port = peer.url.removeprefix("http://").partition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it stopped listening before it had accepted
        writer.close()
        await asyncio.sleep(0.01)
