"""A server: what users hold, over real sockets."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Closed, LinkError, ListenFailed, Misuse, Outcome
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, RawPeer, Type, ping
from tests.support.sides import served, settle, until


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


async def test_it_serves_on_any_free_port_until_it_is_left() -> None:
    async with Server(answer) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        async with Link(server.url) as link:
            assert (await link.request("GET", "/")).body == b"answer"
            state = await server.state()
            assert (state.status, len(state.children)) == ("running", 1)
    with pytest.raises(LinkError):
        async with Link(server.url):
            pytest.fail("it still listens")
    with pytest.raises(Closed):
        await server.state()


async def test_it_serves_on_a_unix_socket_and_takes_the_file_with_it(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with Server(answer, path=str(path)) as server, Link(server.url) as link:
        assert (server.port, server.url) == (0, f"unix:{path}")
        assert (await link.request("GET", "/")).body == b"answer"
    assert not path.exists()


async def test_closing_again_leaves_another_server_at_the_same_path_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    first = Server(answer, path=path)
    await first.__aenter__()
    await first.close()
    async with Server(answer, path=path) as second:
        await first.close()
        async with Link(second.url) as link:
            assert (await link.request("GET", "/")).body == b"answer"


async def test_it_serves_once() -> None:
    server = Server(answer)
    async with server:
        with pytest.raises(Misuse, match="serves once"):
            await server.__aenter__()
    with pytest.raises(Misuse, match="serves once"):
        await server.__aenter__()


async def test_a_server_that_was_never_entered_closes_without_a_word() -> None:
    await Server(answer).close()


@pytest.mark.parametrize("port", [-1, 65_536, "80", None, 80.0, True])
def test_a_port_that_is_none_is_misuse(port: Any) -> None:
    with pytest.raises(Misuse, match="a port is from 0 to 65535"):
        Server(answer, port=port)


@pytest.mark.parametrize("host", ["", None, 5, b"127.0.0.1"])
def test_a_host_that_is_none_is_misuse(host: Any) -> None:
    with pytest.raises(Misuse, match="a host is a name or an address"):
        Server(answer, host=host)


async def test_a_port_in_use_is_one_clear_error_and_its_user_goes_on() -> None:
    async with Server(answer) as first:
        with pytest.raises(ListenFailed, match="Address already in use"):
            async with Server(answer, port=first.port):
                pytest.fail("both listen")
        async with Link(first.url) as link:
            assert (await link.request("GET", "/")).status == 200


async def test_leaving_it_lets_what_is_open_finish() -> None:
    """G4: GOAWAY goes out, the open stream is answered, a new one is refused, and all ends."""
    began, release = asyncio.Event(), asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        began.set()
        await release.wait()
        await stream.respond(200, body=b"finished")

    server = Server(handler)
    await server.__aenter__()
    async with await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        peer.send_headers(1, frames.request(), end_stream=True)
        await began.wait()
        closing = asyncio.create_task(server.close())
        first = await peer.expect(Type.GOAWAY)
        assert (first.code, first.last_stream_id) == (Code.NO_ERROR, 2**31 - 1)
        peer.send(ping((await peer.expect(Type.PING)).payload, ack=True))
        goodbye = await peer.expect(Type.GOAWAY)
        assert (goodbye.code, goodbye.last_stream_id) == (Code.NO_ERROR, 1)
        peer.send_headers(3, frames.request(), end_stream=True)
        assert (await peer.expect(Type.RST_STREAM, 3)).code == Code.REFUSED_STREAM
        assert not closing.done()
        release.set()
        assert await peer.expect_body(1) == b"finished"
        await peer.expect_end()
        await closing
        assert len([heard for heard in peer.seen if heard.type == Type.GOAWAY]) == 2


async def test_a_handler_that_waits_for_the_drain_ends_its_stream_well() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(b"until")
        await stream.draining()
        await stream.send(b" the end")

    server = Server(handler)
    await server.__aenter__()
    async with Link(server.url) as link, link.stream("GET", "/") as stream:
        assert await stream.read(5) == b"until"
        await server.close()
        assert await stream.read() == b" the end"


@pytest.mark.virtual_time
async def test_what_does_not_finish_is_cut_at_the_deadline() -> None:
    ended: list[LinkError | None] = []

    async def handler(stream: ServerStream) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(stream.cause)

    async with Server(handler, limits=Limits(drain_timeout=9)) as server, Link(server.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await until(lambda: streams() > 0)
        started = asyncio.get_running_loop().time()
        await server.close()
        assert asyncio.get_running_loop().time() - started == pytest.approx(9, abs=1)
        with pytest.raises(LinkError) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        assert [str(cause) for cause in ended] == ["the server was closed"]


@pytest.mark.virtual_time
async def test_the_report_of_a_drain_tells_what_finished_what_was_cut_and_how_long_it_took() -> None:
    """G3: of four streams one was over before, one finishes after 2 s, one is new, and one is cut after 9 s."""

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/late":
            await stream.draining()
            await asyncio.sleep(2)
        elif stream.path == "/never":
            await asyncio.Event().wait()
        await stream.respond(200, body=b"fine")

    async with Server(handler) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        peer.send_headers(1, frames.request(), end_stream=True)
        assert await peer.expect_body(1) == b"fine"
        peer.send_headers(3, frames.request("GET", "/late"), end_stream=True)
        peer.send_headers(5, frames.request("GET", "/never"), end_stream=True)
        await until(lambda: server.stats().handlers == 2)
        closing = [asyncio.create_task(server.close(9)) for _ in range(2)]
        asked = await peer.expect(Type.PING)
        peer.send_headers(7, frames.request(), end_stream=True)
        peer.send(ping(asked.payload, ack=True))
        assert await peer.expect_body(7) == b"fine"
        assert await peer.expect_body(3, timeout=60) == b"fine"
        report, again = await asyncio.gather(*closing)
        assert [name.rpartition("/")[2] for name in report.cut] == ["stream-5"]
        assert report.finished == 2
        assert report.seconds == pytest.approx(9, abs=1.5)
        assert again == report


async def test_a_server_that_was_never_entered_has_nothing_to_report() -> None:
    report = await Server(answer).close()
    assert (report.cut, report.finished, report.seconds) == ((), 0, 0.0)


def streams() -> int:
    """Streams of this process's servers, by their tasks."""
    return len([task for task in asyncio.all_tasks() if "/stream-" in task.get_name()])


@pytest.mark.virtual_time
@pytest.mark.logs_errors("ended without waiting for .*stream-1: cancelled, but not ended")
async def test_a_handler_that_swallows_its_cancellation_is_named_and_holds_nobody_up() -> None:
    release = asyncio.Event()

    async def stubborn(stream: ServerStream) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with Server(stubborn, limits=Limits(drain_timeout=3, shutdown_timeout=2)) as server, Link(server.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await until(lambda: streams() > 0)
        started = asyncio.get_running_loop().time()
        await server.close()
        assert asyncio.get_running_loop().time() - started <= 3 + 2 * 2 + 1
        with pytest.raises(LinkError):
            await asking
        release.set()
        await settle()


async def test_a_cancelled_close_still_closes() -> None:
    async def handler(stream: ServerStream) -> None:
        await asyncio.Event().wait()

    async with Server(handler) as server, Link(server.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await until(lambda: streams() > 0)
        closing = asyncio.create_task(server.close())
        await settle()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(LinkError):
            await asking
        with pytest.raises(Closed):
            await server.state()


async def test_closing_from_fifty_tasks_is_closing_once() -> None:
    async with Server(answer) as server, Link(server.url) as link:
        assert (await link.request("GET", "/")).status == 200
        await asyncio.gather(*[server.close() for _ in range(50)])


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(20), bytes(99)]
)
async def test_a_client_that_does_not_speak_http2_costs_only_itself(first: bytes) -> None:
    async with Server(answer) as server, Link(server.url) as link:
        async with await RawPeer.connect("127.0.0.1", server.port) as peer:
            peer.send(first)
            assert (await peer.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR
            await peer.expect_end()
        assert (await link.request("GET", "/")).status == 200


async def test_clients_that_vanish_at_any_moment_leave_nothing_behind() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(bytes(1_000_000))

    async with Server(handler) as server:
        for after in range(6):
            peer = await RawPeer.connect("127.0.0.1", server.port)
            peer.send(frames.PREFACE[: 4 * after])
            if after > 2:
                peer.send(frames.PREFACE[4 * after :] + frames.settings())
                peer.send_headers(1, frames.request("POST"), end_stream=after % 2 == 0)
                await peer.expect(Type.DATA, 1)
            peer.abort()
            await peer.close()
        await until(lambda: "/connection-" not in str(asyncio.all_tasks()))
        await settle()
        assert ((await server.state()).children, streams()) == ((), 0)


async def test_a_peer_that_half_closes_is_told_goodbye_and_forgotten() -> None:
    async with served(answer) as peer:
        peer.end()
        await peer.expect_end()


def test_the_number_of_open_files_is_the_same_after_a_hundred_servers() -> None:
    async def once() -> None:
        async with Server(answer) as server, Link(server.url) as link:
            await link.request("GET", "/")

    asyncio.run(once())
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(100):
        asyncio.run(once())
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before
