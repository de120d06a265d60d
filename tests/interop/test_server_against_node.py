"""Our server, called by Node's ``http2`` with its defaults: windows of 64 KiB, and push allowed."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import ErrorCode, LinkError, StreamReset
from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.interop.bodies import TWICE_BIG, greet, send_twice_big, take_big, twice_big_digest
from tests.interop.programs import Node


@pytest.mark.bulk
async def test_node_makes_100_requests_at_once(node: Node) -> None:
    """All are open at the same time: none is answered before the last has come."""
    together = asyncio.Barrier(100)

    async def repeat_path(stream: ServerStream) -> None:
        await together.wait()
        await stream.respond(200, body=stream.path.encode())

    async with Server(repeat_path) as server:
        report = await node.client(server.url, "many", 100)

    assert report.result == {"200 true": 100}
    assert (report.goaways, report.errors) == ([], [])


@pytest.mark.bulk
async def test_node_uploads_20_megabytes(node: Node) -> None:
    """F5: memory does not grow with the upload."""
    async with Server(take_big) as server:
        report = await node.client(server.url, "upload", 20)

    assert report.result["text"] == f"{20 << 20} {report.result['sent']}"
    assert (report.goaways, report.errors) == ([], [])


@pytest.mark.bulk
async def test_node_downloads_200_megabytes_in_its_default_windows(node: Node) -> None:
    """W8: thousands of WINDOW_UPDATE frames on one stream trip no limit; F6: the handler's memory stays flat."""
    async with Server(send_twice_big) as server:
        report = await node.client(server.url, "download")

    assert (report.result["status"], report.result["length"]) == (200, TWICE_BIG)
    assert report.result["digest"] == twice_big_digest()
    assert (report.goaways, report.errors) == ([], [])


async def test_node_sends_trailers_and_gets_them_back(node: Node) -> None:
    """S8 (present trailers), both ways."""
    async with Server(greet) as server:
        report = await node.client(server.url, "trailers")

    assert report.result["text"] == "hello, node"
    assert report.result["trailers"] == {"x-length": "4", "x-up-again": "down"}
    assert (report.goaways, report.errors) == ([], [])


async def test_node_that_cancels_half_way_ends_that_handler_alone(node: Node) -> None:
    """S6: the handler is cancelled, with Node's reset as the cause; the connection serves the next request."""
    ended: asyncio.Future[LinkError | None] = asyncio.get_running_loop().create_future()

    async def send_for_ever(stream: ServerStream) -> None:
        if stream.path == "/after":
            await greet(stream)
            return
        await stream.start_response(200)
        try:
            while True:
                await stream.send(bytes(16_384))
        finally:
            ended.set_result(stream.cause)

    async with Server(send_for_ever) as server:
        report = await node.client(server.url, "cancel")
        async with asyncio.timeout(10):
            cause = await ended

    assert isinstance(cause, StreamReset)
    assert cause.code == ErrorCode.CANCEL
    assert report.result["code"] == ErrorCode.CANCEL
    after = report.result["after"]
    assert isinstance(after, dict)
    assert (after["status"], after["text"]) == (200, "hello, world")
    assert (report.goaways, report.errors) == ([], [])


async def test_a_ping_of_node_is_answered_with_its_own_payload(node: Node) -> None:
    """RFC 9113, 6.7."""
    async with Server(greet) as server:
        report = await node.client(server.url, "ping")

    assert (report.result["error"], report.result["payload"]) == (None, "muxlink!")
    assert (report.goaways, report.errors) == ([], [])
