"""W8: what healthy peers do under load trips no limit, so none of them hears a GOAWAY of ours."""

from __future__ import annotations

import asyncio

import pytest

from actors.server_stream import ServerStream
from actors.settings import Health, Limits
from supervisor.server import Server
from tests.interop.bodies import TWICE_BIG, send_twice_big, twice_big_digest
from tests.interop.peers import Tool
from tests.interop.programs import Node
from tests.support import frames
from tests.support.frames import Code, RawPeer, Type

LIMITS = Limits()


@pytest.mark.bulk
async def test_nghttp_and_node_download_200_megabytes_at_the_same_time(nghttp: Tool, node: Node) -> None:
    """W8: each sends tens of thousands of WINDOW_UPDATE frames; both bodies arrive whole."""
    async with Server(send_twice_big) as server:
        ran, report = await asyncio.gather(
            nghttp(f"{server.url}/", limit=90), node.client(server.url, "download", limit=90)
        )

    assert ran.digest == twice_big_digest(), ran.err
    assert (report.result["length"], report.result["digest"]) == (TWICE_BIG, twice_big_digest())
    assert (report.goaways, report.errors) == ([], [])


@pytest.mark.bulk
@pytest.mark.virtual_time
async def test_a_proxy_that_cancels_300_old_streams_a_second_is_no_attacker() -> None:
    """W8: a rapid reset is one of a young stream; these are 1.1 s old, all 900 of them, and all streams end so."""
    ended = 0

    async def wait_for_ever(stream: ServerStream) -> None:
        nonlocal ended
        if stream.path == "/after":
            await stream.respond(200)
            return
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    tick, batch, age = 0.05, 15, 22
    opened = [range(1 + 2 * batch * n, 1 + 2 * batch * (n + 1), 2) for n in range(60)]
    assert sum(map(len, opened)) == 900 > LIMITS.max_quick_resets
    async with (
        Server(wait_for_ever, limits=Limits(max_streams=500), health=Health(least_ping_interval=0)) as server,
        await RawPeer.connect("127.0.0.1", server.port) as proxy,
    ):
        await proxy.handshake()
        for now in range(len(opened) + age):
            for stream_id in opened[now - age] if now >= age else ():
                proxy.send(frames.rst(stream_id, Code.CANCEL))
            for stream_id in opened[now] if now < len(opened) else ():
                proxy.send_headers(stream_id, frames.request(), end_stream=True)
            # All that was sent has arrived before the clock moves on: 0.05 s at 300 streams a second.
            await proxy.barrier()
            await asyncio.sleep(tick)
        proxy.send_headers(1801, frames.request(path="/after"), end_stream=True)
        head = await proxy.expect_headers(1801)
        heard = {frame.type for frame in proxy.seen}

    assert (b":status", b"200") in head
    assert ended == 900
    assert Type.GOAWAY not in heard
    assert Type.RST_STREAM not in heard


@pytest.mark.bulk
@pytest.mark.logs_errors("out of luck")
async def test_handlers_that_fail_5_percent_of_their_requests_end_no_connection(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """W8, S5: their resets are ours and no fault of the client, however many they are."""
    requests, one_in = 2_400, 20
    assert requests // one_in > LIMITS.max_forced_resets

    async def fail_sometimes(stream: ServerStream) -> None:
        if int(stream.path[1:]) % one_in == 0:
            raise RuntimeError("out of luck")
        await stream.respond(200, body=stream.path.encode())

    async with Server(fail_sometimes) as server:
        report = await node.client(server.url, "many", requests)

    failed = "ERR_HTTP2_STREAM_ERROR: Stream closed with error code NGHTTP2_INTERNAL_ERROR"
    assert report.result == {"200 true": requests - requests // one_in, failed: requests // one_in}
    assert (report.goaways, report.errors) == ([], [])
    assert len([record for record in caplog.records if record.exc_info]) == requests // one_in
