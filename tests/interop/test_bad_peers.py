"""Peers that do not speak HTTP/2: each is one typed error or one closed connection, and nothing hangs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from actors.errors import (
    ConnectFailed,
    LinkError,
    ListenFailed,
    Misuse,
    ProtocolViolation,
    RemoteError,
    TransportError,
    TransportLost,
)
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.interop.bodies import greet
from tests.interop.peers import Tool, free_port, occupied_port, unix_url
from tests.interop.strangers import When, stranger
from tests.support import frames
from tests.support.frames import RawPeer

IMPATIENT = Limits(settings_timeout=0.5, connect_timeout=5.0)

HTTP1_ERROR = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n"
# What Python's http.server answers to the preface: a page without a status line, as HTTP/0.9 has it.
BARE_PAGE = b'<!DOCTYPE HTML>\n<html lang="en">\n    <head><title>Error response</title></head>\n</html>\n'
NOISE = random.Random(9113).randbytes(5000)
SSH = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"
TLS_ALERT = bytes.fromhex("15030100020246")


async def refused(url: str, limits: Limits = IMPATIENT) -> LinkError:
    """The one error of a request that cannot succeed; the test fails if it takes long."""
    async with asyncio.timeout(10):
        with pytest.raises(LinkError) as caught:
            async with Link(url, limits=limits) as link:
                await link.request("GET", "/")
    error = caught.value
    assert len(str(error).splitlines()) == 1
    return error


@pytest.mark.parametrize("says_it", ["when spoken to", "at once"])
@pytest.mark.parametrize("hangs_up", [False, True], ids=["stays", "hangs up"])
async def test_a_server_that_speaks_http_1_is_named_as_one(says_it: When, hangs_up: bool) -> None:
    async with stranger(HTTP1_ERROR, says_it=says_it, hangs_up=hangs_up) as peer:
        error = await refused(peer.url)

    assert isinstance(error, ProtocolViolation)
    assert "HTTP/1" in str(error)
    assert f"127.0.0.1:{peer.port}" in str(error)


@pytest.mark.parametrize("hangs_up", [False, True], ids=["stays", "hangs up"])
@pytest.mark.parametrize("says", [BARE_PAGE, NOISE, SSH, TLS_ALERT], ids=["page", "noise", "ssh", "tls"])
async def test_a_server_that_says_garbage_is_a_protocol_violation(says: bytes, hangs_up: bool) -> None:
    async with stranger(says, hangs_up=hangs_up) as peer:
        error = await refused(peer.url)

    assert isinstance(error, RemoteError | TransportError)
    assert f"127.0.0.1:{peer.port}" in str(error)
    assert peer.heard.startswith(frames.PREFACE)


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async with stranger(says_it="never") as peer:
        error = await refused(peer.url)

    assert isinstance(error, RemoteError | TransportError)
    assert f"127.0.0.1:{peer.port}" in str(error)


@pytest.mark.parametrize("says_it", ["when spoken to", "at once"])
async def test_a_server_that_hangs_up_is_an_error_at_once(says_it: When) -> None:
    async with stranger(says_it=says_it, hangs_up=True) as peer:
        error = await refused(peer.url, Limits())

    assert isinstance(error, RemoteError | TransportError)
    assert f"127.0.0.1:{peer.port}" in str(error)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        pytest.param(frames.data(0, b"on no stream"), ProtocolViolation, id="a frame that is forbidden"),
        pytest.param(HTTP1_ERROR, ProtocolViolation, id="http/1.1 after a good start"),
        pytest.param(None, TransportLost, id="a reset socket"),
        pytest.param(b"", TransportLost, id="a closed socket"),
    ],
)
async def test_everyone_who_waits_learns_of_a_server_that_goes_bad(
    ending: bytes | None, expected: type[LinkError]
) -> None:
    """L7: each of 20 callers gets the same typed error, and the next request is sent over a new connection."""
    async with RawPeer.listen() as listener, asyncio.timeout(10):
        entering = asyncio.create_task(Link(f"http://127.0.0.1:{listener.port}").__aenter__())
        peer = await listener.accept()
        await peer.handshake()
        link = await entering
        try:
            waiting = [asyncio.create_task(link.request("GET", "/")) for _ in range(20)]
            for stream_id in range(1, 41, 2):
                await peer.expect_headers(stream_id)
            if ending:
                peer.send(ending)
            elif ending is None:
                peer.abort()
            else:
                await peer.close()
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(error) for error in errors] == [expected] * 20
            assert {str(error) for error in errors} == {str(errors[0])}

            again = asyncio.create_task(link.request("GET", "/"))
            other = await listener.accept()
            await other.handshake()
            await other.expect_headers(1)
            other.send_headers(1, frames.response(204), end_stream=True)
            assert (await again).status == 204
        finally:
            await link.close()


async def test_a_port_in_use_is_told_at_once() -> None:
    with occupied_port() as port, pytest.raises(ListenFailed, match=f"127.0.0.1:{port}.*in use") as caught:
        async with Server(greet, port=port):
            pass
    assert isinstance(caught.value.__cause__, OSError)


async def test_nobody_listening_is_a_failed_connection() -> None:
    port = free_port()
    error = await refused(f"http://127.0.0.1:{port}")

    assert isinstance(error, ConnectFailed)
    assert f"127.0.0.1:{port}" in str(error)
    assert isinstance(error.__cause__, OSError)


async def test_a_missing_unix_socket_is_a_failed_connection(tmp_path: Path) -> None:
    error = await refused(unix_url(tmp_path / "nobody.sock"))

    assert isinstance(error, ConnectFailed)
    assert "nobody.sock" in str(error)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:99999", "http://a:b/"])
async def test_a_bad_url_is_misuse(url: str) -> None:
    error = await refused(url)

    assert isinstance(error, Misuse)
    assert url in str(error)


async def closed_by_the_server(reader: asyncio.StreamReader) -> bytes:
    """What the server said before it closed; the test fails if it leaves the connection open."""
    async with asyncio.timeout(5):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def visitor(port: int, says: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A raw connection to the server that has said its piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(says)
        yield reader
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


BAD_VISITS = {
    "http/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    "http/1.1 upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "noise": NOISE,
    "preface, then noise": frames.PREFACE + NOISE,
    "preface, then http/1.1": frames.PREFACE + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + NOISE[:194],
}


@pytest.mark.parametrize("says", BAD_VISITS.values(), ids=BAD_VISITS)
async def test_a_bad_visitor_is_shown_out_and_the_others_are_served(says: bytes) -> None:
    async with Server(greet) as server, Link(f"http://127.0.0.1:{server.port}") as link:
        assert (await link.request("GET", "/before", timeout=5)).status == 200
        async with visitor(server.port, says) as reader:
            meanwhile = await link.request("GET", "/meanwhile", timeout=5)
            await closed_by_the_server(reader)
        afterwards = await link.request("GET", "/afterwards", timeout=5)
        async with Link(f"http://127.0.0.1:{server.port}") as other:
            new = await other.request("GET", "/new", timeout=5)

    assert [reply.body for reply in (meanwhile, afterwards, new)] == [b"hello, world"] * 3


@pytest.mark.parametrize(
    "says", [b"", frames.PREFACE[:10], frames.PREFACE], ids=["nothing", "half a preface", "no SETTINGS"]
)
async def test_visitors_that_fall_silent_are_shown_out_in_time(says: bytes) -> None:
    async with Server(greet, limits=IMPATIENT) as server, AsyncExitStack() as visitors:
        readers = [await visitors.enter_async_context(visitor(server.port, says)) for _ in range(20)]
        async with Link(f"http://127.0.0.1:{server.port}") as link:
            assert (await link.request("GET", "/meanwhile", timeout=5)).status == 200
            for reader in readers:
                await closed_by_the_server(reader)
            assert (await link.request("GET", "/afterwards", timeout=5)).status == 200


async def test_silent_visitors_do_not_hold_up_a_server_that_leaves() -> None:
    async with asyncio.timeout(5), AsyncExitStack() as visitors:
        async with Server(greet) as server:
            readers = [await visitors.enter_async_context(visitor(server.port, b"")) for _ in range(20)]
        for reader in readers:
            await closed_by_the_server(reader)


async def test_curl_that_speaks_http_1_gets_an_answer_or_an_end(curl: Tool) -> None:
    async with Server(greet) as server:
        ran = await curl("--http1.1", f"http://127.0.0.1:{server.port}/", limit=5)
        again = await curl(f"http://127.0.0.1:{server.port}/")

    assert ran.code != 0 or "HTTP/2" in ran.text, ran
    assert again.text == "hello, world"
