"""``Upgrade: h2c`` with servers that know it: nghttpx and hypercorn; the HTTP/1.1 is the standard library's."""

from __future__ import annotations

import asyncio
import http.client
import socket
from pathlib import Path

import pytest
from attrs import frozen

from actors.settings import Limits
from actors.upgrade import UpgradedConnection, upgrade_headers, upgraded
from supervisor.server import Server
from tests.interop.bodies import big_blocks, greet
from tests.interop.debian import nghttpx
from tests.interop.peers import Nghttpd
from tests.interop.programs import hypercorn

pytest.importorskip("hypercorn")

APP = "tests.interop.asgi:app"


@frozen
class Asked:
    """What blocking code has when its request was answered."""

    status: int
    socket: socket.socket
    early: bytes


def ask(port: int, method: str, path: str, body: bytes | None = None, limits: Limits | None = None) -> Asked:
    """Send a request by ``http.client``, which asks for an upgrade."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, dict(upgrade_headers(limits)))
    response = connection.getresponse()
    assert connection.sock is not None
    assert response.fp is not None
    connection.sock.setblocking(False)
    early = response.fp.read1(1 << 20) or b""  # what its file has read already; nothing more where that is nothing
    asked = Asked(response.status, socket.socket(fileno=connection.sock.detach()), early)
    response.close()
    connection.close()
    return asked


async def test_nghttpx_answers_on_stream_1_and_then_more_requests(
    nghttpd: Nghttpd, htdocs: Path, tmp_path: Path
) -> None:
    """C6: the first response, and twenty at once over the same connection."""
    async with nghttpd(htdocs) as service, nghttpx(tmp_path, backend=service.port) as peer:
        asked = await asyncio.to_thread(ask, peer.port, "GET", "/small")
        assert asked.status == 101
        async with UpgradedConnection(asked.socket, asked.early, authority=f"127.0.0.1:{peer.port}") as connection:
            head = await connection.first.response()
            body = await connection.first.read()
            replies = await asyncio.gather(*[connection.request("GET", "/small") for _ in range(20)])
            assert await connection.ping() > 0
    assert (head.status, body) == (200, b"hello, world")
    assert head.headers["server"].startswith("nghttp")
    assert [reply.body for reply in replies] == [b"hello, world"] * 20


@pytest.mark.bulk
@pytest.mark.parametrize("window", [16_384, 65_535, 1 << 20])
async def test_nghttpx_sends_a_long_first_response_within_the_window_that_it_was_told(
    nghttpd: Nghttpd, htdocs: Path, tmp_path: Path, window: int
) -> None:
    """F6: the window of HTTP2-Settings, and the credit that is returned."""
    body = b"".join(big_blocks())[: 4 << 20]
    (htdocs / "more").write_bytes(body)
    limits = Limits(stream_window=window)
    async with nghttpd(htdocs) as service, nghttpx(tmp_path, backend=service.port) as peer:
        asked = await asyncio.to_thread(ask, peer.port, "GET", "/more", None, limits)
        async with upgraded(asked.socket, asked.early, authority="test", limits=limits, timeout=30) as first:
            assert await first.read() == body


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_nghttpx_upgrades_requests_of_each_kind(tmp_path: Path, method: str) -> None:
    """A server of ours is behind it; a request with a body is upgraded once it is whole."""
    async with Server(greet) as service, nghttpx(tmp_path, backend=service.port) as peer:
        asked = await asyncio.to_thread(ask, peer.port, method, "/")
        assert asked.status == 101
        async with upgraded(asked.socket, asked.early, authority="test", method=method, timeout=10) as first:
            assert (await first.response()).status == 200
            assert await first.read() == (b"" if method == "HEAD" else b"hello, world")


async def test_hypercorn_answers_on_stream_1_and_then_more_requests() -> None:
    """C6."""
    async with hypercorn(APP) as peer:
        port = int(peer.url.rpartition(":")[2])
        asked = await asyncio.to_thread(ask, port, "GET", "/path")
        assert asked.status == 101
        async with UpgradedConnection(asked.socket, asked.early, authority=f"127.0.0.1:{port}") as connection:
            head = await connection.first.response()
            body = await connection.first.read()
            echoed = await asyncio.gather(
                *[connection.request("POST", "/echo", body=b"%d" % n, timeout=10) for n in range(20)]
            )
            async with connection.stream("POST", "/echo", timeout=10) as stream:
                await stream.send(b"one")
                assert await stream.read(100) == b"one"
                await stream.end()
                assert await stream.read() == b""
    assert (head.status, head.headers["x-app"]) == (200, "asgi")
    assert body == b"GET /path over HTTP/2"
    assert [reply.body for reply in echoed] == [b"%d" % n for n in range(20)]


async def test_resetting_stream_1_tells_the_application_of_hypercorn_and_leaves_the_connection() -> None:
    """S10."""
    async with hypercorn(APP) as peer:
        port = int(peer.url.rpartition(":")[2])
        asked = await asyncio.to_thread(ask, port, "GET", "/for-ever")
        async with UpgradedConnection(asked.socket, asked.early, authority="test") as connection:
            assert await connection.first.read(1)
            connection.first.reset()
            await peer.logged("the client has left")
            later = await connection.request("GET", "/later", timeout=10)
    assert later.body == b"GET /later over HTTP/2"


async def test_a_server_that_does_not_upgrade_answers_over_http1() -> None:
    """C4: then there is nothing to take over, and the standard library has the response."""

    def serve(listener: socket.socket) -> bytes:
        accepted, _ = listener.accept()
        with accepted:
            heard = accepted.recv(65_536)
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        return heard

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.ensure_future(asyncio.to_thread(serve, listener))
        asked = await asyncio.to_thread(ask, listener.getsockname()[1], "GET", "/")
        heard = await serving
    with asked.socket:
        assert (asked.status, asked.early) == (200, b"hi")
    assert b"Upgrade: h2c\r\n" in heard
