"""A server in aioh2's manner, called by curl and h2load; a client in aioh2's manner, calling nghttpd."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.errors import LinkError
from supervisor.adapters import aioh2
from supervisor.adapters.aioh2 import H2Protocol
from tests.interop.peers import Nghttpd, Tool
from tests.interop.test_server_against_h2load import assert_all_succeeded

MEGABYTE = 1 << 20


async def greet(proto: H2Protocol) -> None:
    """Each request in a task of its own."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            stream_id, headers = await proto.recv_request()
            tasks.create_task(answer(proto, stream_id, dict(headers)))


async def answer(proto: H2Protocol, stream_id: int, headers: dict[str, str]) -> None:
    name = await proto.read_stream(stream_id, -1) or b"world"
    await proto.start_response(stream_id, [(":status", "200"), ("x-path", headers[":path"])])
    await proto.send_data(stream_id, b"hello, " + name)
    await proto.send_trailers(stream_id, {"len": str(len(name))})


async def echo(proto: H2Protocol) -> None:
    """Frame by frame, one request after the other, as aioh2's example does it."""
    while True:
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, {":status": "200"})
        while frame := await proto.read_stream(stream_id):
            await proto.send_data(stream_id, frame)
        await proto.end_stream(stream_id)


def url_of(server: aioh2.H2Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"


async def test_curl_is_greeted(curl: Tool) -> None:
    """C2."""
    async with await aioh2.start_server(greet) as server:
        got = await curl("-i", url_of(server, "/path?q=1"))
        posted = await curl("-d", "curl", url_of(server))

    assert got.code == posted.code == 0, (got, posted)
    assert "x-path: /path?q=1" in got.text
    assert "hello, world" in got.text
    assert posted.text.startswith("hello, curl")


@pytest.mark.bulk
async def test_curl_sends_megabytes_and_gets_them_back(curl: Tool, tmp_path: Path) -> None:
    """C6, F5, F6."""
    body = bytes(range(256)) * (8 * MEGABYTE // 256)
    (tmp_path / "body").write_bytes(body)
    async with await aioh2.start_server(echo) as server:
        ran = await curl("-T", str(tmp_path / "body"), "-o", str(tmp_path / "back"), url_of(server), limit=60)

    assert ran.code == 0, ran
    assert (tmp_path / "back").read_bytes() == body


@pytest.mark.bulk
async def test_h2load_makes_2000_requests_over_two_connections(h2load: Tool) -> None:
    """C2: more than 1,000 requests per connection, and none fails."""
    async with await aioh2.start_server(greet, concurrency=50) as server:
        ran = await h2load("-n", "3000", "-c", "2", "-m", "20", url_of(server), limit=100)

    assert_all_succeeded(ran, 3000)


@pytest.mark.bulk
async def test_nghttpd_answers_files_and_trailers(nghttpd: Nghttpd, htdocs: Path) -> None:
    """C2."""
    (htdocs / "big").write_bytes(bytes(range(256)) * (4 * MEGABYTE // 256))
    async with (
        nghttpd(htdocs, "--trailer=x-sum: abc") as peer,
        await aioh2.open_connection("127.0.0.1", peer.port, functional_timeout=0) as client,
    ):
        small = await client.start_request({":method": "GET", ":path": "/small"}, end_stream=True)
        big = await client.start_request({":method": "GET", ":path": "/big"}, end_stream=True)
        none = await client.start_request({":method": "GET", ":path": "/none"}, end_stream=True)
        assert dict(await client.recv_response(small))[":status"] == "200"
        assert await client.read_stream(small, -1) == b"hello, world"
        assert ("x-sum", "abc") in await client.recv_trailers(small)
        assert await client.read_stream(big, -1) == (htdocs / "big").read_bytes()
        assert dict(await client.recv_response(none))[":status"] == "404"
        assert 0 < (await client.wait_functional() or 0) < 5


@pytest.mark.bulk
async def test_nghttpd_takes_an_upload_and_its_death_ends_what_waits(nghttpd: Nghttpd, htdocs: Path) -> None:
    """C2: pending calls end when the connection dies."""
    async with nghttpd(htdocs, "--echo-upload") as peer:
        client = await aioh2.open_connection("127.0.0.1", peer.port)
        stream_id = await client.start_request({":method": "POST", ":path": "/small"})
        body = bytes(range(256)) * 4096
        sending = asyncio.create_task(client.send_data(stream_id, body, end_stream=True))
        assert await client.read_stream(stream_id, -1) == body
        await sending
        waiting = await client.start_request({":method": "POST", ":path": "/small"})
        reading = asyncio.create_task(client.read_stream(waiting, -1))
        await asyncio.sleep(0)
        peer.process.kill()
        with pytest.raises(LinkError):
            await reading
        client.close_connection()
        await client.wait_closed()
