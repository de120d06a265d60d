"""A link: what users hold, against our own server and against a raw peer."""

import asyncio
import itertools
import socket
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.errors import (
    Closed,
    ConnectFailed,
    DeadlineExceeded,
    LinkError,
    Misuse,
    Outcome,
    ProtocolViolation,
    TransportLost,
)
from actors.server_stream import ServerStream
from actors.settings import Backoff, Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, RawPeer, Setting, Type, data, goaway, headers, response
from tests.support.sides import Census, linked, linked_to_raw, served, settle, until

OK = frames.encode(response(200))


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["h:80", "", "unix:", "http://h/path", "http://h/?query", None, 5])
def test_a_url_that_cannot_be_linked_to_is_misuse(url: Any) -> None:
    with pytest.raises(Misuse):
        Link(url)


@pytest.mark.parametrize("connections", [0, -1, None, "1", True, 1.0, 100_000])
def test_an_impossible_number_of_connections_is_misuse(connections: Any) -> None:
    with pytest.raises(Misuse, match="connections is a number from 1"):
        Link("http://h", connections=connections)


@pytest.mark.parametrize("most", [1, 0, "3", True, 100_000])
def test_a_bound_below_the_connections_is_misuse(most: Any) -> None:
    with pytest.raises(Misuse, match="max_connections is a number from connections"):
        Link("http://h", connections=2, max_connections=most)


async def test_nobody_listening_is_one_clear_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        link = Link(f"http://127.0.0.1:{port}")
        with pytest.raises(ConnectFailed, match="is the server running"):
            await link.__aenter__()
        with pytest.raises(Closed, match="was closed"):
            await link.request("GET", "/")
        await link.close()


@pytest.mark.parametrize(
    ("greeting", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it speaks HTTP/1.1"),
        (b"\x15\x03\x01\0\x02\x02\x46" * 3, "it speaks TLS"),
        (b"220 mail.test ESMTP ready, what do you want?\r\n", "does not speak HTTP/2"),
    ],
)
async def test_a_server_that_does_not_speak_http2_is_one_clear_error(greeting: bytes, hint: str) -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        entering = asyncio.create_task(link.__aenter__())
        peer = await listener.accept()
        peer.send(greeting)
        with pytest.raises(ProtocolViolation, match=hint):
            await entering
        await link.close()


async def test_a_server_that_closes_at_once_is_one_clear_error() -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        entering = asyncio.create_task(link.__aenter__())
        await (await listener.accept()).close()
        with pytest.raises(TransportLost, match="does it speak HTTP/2 on this port"):
            await entering
        await link.close()


@pytest.mark.virtual_time
async def test_a_server_that_says_nothing_is_given_up_after_its_time() -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}", limits=Limits(settings_timeout=8))
        with pytest.raises(ProtocolViolation, match="within 8 s"):
            await link.__aenter__()
        assert asyncio.get_running_loop().time() == pytest.approx(8, abs=1)
        await link.close()


@pytest.mark.virtual_time
async def test_a_time_limit_while_connecting_says_not_sent() -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        with pytest.raises(DeadlineExceeded, match="no connection to") as caught:
            await link.request("GET", "/", timeout=2)
        assert caught.value.outcome is Outcome.NOT_SENT
        with pytest.raises(DeadlineExceeded) as caught:
            async with link.stream("GET", "/", timeout=2):
                pytest.fail("it was opened")
        assert caught.value.outcome is Outcome.NOT_SENT
        await link.close()


@pytest.mark.virtual_time
async def test_the_time_limit_covers_connecting_and_waiting_together() -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}", limits=Limits(settings_timeout=60))
        loop = asyncio.get_running_loop()
        asking = asyncio.create_task(link.request("GET", "/", timeout=10))
        peer = await listener.accept()
        loop.call_later(6, peer.send, frames.settings())
        with pytest.raises(DeadlineExceeded) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        assert loop.time() == pytest.approx(10, abs=1)
        await link.close()


async def test_fifty_requests_at_once_share_one_connection() -> None:
    async with Server(answer) as server:
        link = Link(server.url)
        replies = await asyncio.gather(*[link.request("GET", "/") for _ in range(50)])
        assert [reply.body for reply in replies] == [b"answer"] * 50
        assert len((await server.state()).children) == 1
        await link.close()


async def test_of_fifty_that_wait_for_a_connection_one_that_is_cancelled_harms_no_other() -> None:
    """S3: not even the one that began the dial."""
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(50)]
        peer = await listener.accept()
        for task in asking[:-1]:
            task.cancel()
        await settle()
        await peer.handshake()
        await peer.expect_headers(1)
        peer.send(headers(1, OK, end_stream=True))
        assert (await asking[-1]).status == 200
        assert all(task.cancelled() for task in asking[:-1])
        await link.close()


# --- going and coming back --------------------------------------------------------------------------------------------


async def test_it_dials_again_after_the_server_restarted() -> None:
    async with Server(answer) as first:
        port = first.port
        link = Link(first.url)
        assert (await link.request("GET", "/")).body == b"answer"
    with pytest.raises(LinkError) as caught:
        await link.request("GET", "/")
    assert caught.value.outcome is Outcome.NOT_SENT
    for _ in range(3):
        async with Server(answer, port=port):
            link.connect_now()
            assert (await link.request("GET", "/", wait_for_ready=True)).body == b"answer"
    await link.close()


async def test_a_connection_that_goes_away_is_replaced_while_its_streams_finish() -> None:
    """G1: streams at or below the last go on; the one above it goes over a new connection."""
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(2)]
        first = await listener.accept()
        await first.handshake()
        await first.expect_headers(3)
        first.send(goaway(1))
        second = await listener.accept()
        await second.handshake()
        await second.expect_headers(1)
        second.send(headers(1, OK, end_stream=True))
        assert (await asking[1]).status == 200
        first.send(headers(1, OK) + data(1, b"finished", end_stream=True))
        assert (await asking[0]).body == b"finished"
        await first.expect_end()
        await link.close()


async def test_a_lost_connection_fails_what_is_open_and_what_was_not_sent_goes_over_the_next() -> None:
    """L7, X1, X2."""
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(20)]
        first = await listener.accept()
        await first.handshake({Setting.MAX_CONCURRENT_STREAMS: 5})
        await first.expect_headers(9)
        first.abort()
        done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_EXCEPTION)
        assert waiting == set(asking[5:])
        for task in done:
            assert isinstance(error := task.exception(), TransportLost)
            assert error.outcome is Outcome.MAYBE_PROCESSED
        second = await listener.accept()
        await second.handshake()
        for stream_id in range(1, 31, 2):
            await second.expect_headers(stream_id)
            second.send(headers(stream_id, OK, end_stream=True))
        assert [(await task).status for task in asking[5:]] == [200] * 15
        await link.close()


@pytest.mark.virtual_time
async def test_a_peer_that_drops_each_new_connection_is_dialled_again_after_waits_that_grow() -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}", backoff=Backoff(jitter=0))
        asking = asyncio.create_task(link.request("GET", "/", wait_for_ready=True))
        times = []
        for _ in range(5):
            peer = await listener.accept()
            times.append(asyncio.get_running_loop().time())
            await peer.handshake()
            await settle()
            peer.abort()
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert waits == pytest.approx([0, 1, 1.6, 2.56], abs=0.3)
        asking.cancel()
        await link.close()


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_closing_ends_what_is_open_with_closed_and_says_goaway() -> None:
    """G4: requests, an open stream and waiters for a slot; nothing is left."""
    async with linked_to_raw({Setting.MAX_CONCURRENT_STREAMS: 3}) as (link, peer):
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(10)]

        async def use() -> bytes:
            async with link.stream("POST", "/") as stream:
                return await stream.read()

        asking.insert(0, asyncio.create_task(use()))  # type: ignore[arg-type]
        await peer.expect_headers(5)
        await link.close()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(result) for result in results] == [Closed] * 11
        assert all("was closed" in str(result) for result in results)
        goodbye = await peer.expect(Type.GOAWAY)
        assert (goodbye.code, goodbye.last_stream_id) == (Code.NO_ERROR, 0)
        await peer.expect_end()
        for _ in range(2):
            with pytest.raises(Closed) as caught:
                await link.request("GET", "/")
            assert caught.value.outcome is Outcome.NOT_SENT
            await link.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_closing_while_it_connects_leaves_nothing_behind(turns: int) -> None:
    async with Server(answer) as server:
        link = Link(server.url)
        asking = [asyncio.create_task(link.request("GET", "/")) for _ in range(3)]
        await settle(turns)
        await asyncio.gather(*[link.close() for _ in range(3)])
        results = await asyncio.gather(*asking, return_exceptions=True)
        for result in results:
            assert isinstance(result, Closed) or getattr(result, "status", 0) == 200, result


async def test_a_link_cancelled_while_it_is_entered_leaves_nothing_behind() -> None:
    async with RawPeer.listen() as listener:

        async def use() -> None:
            async with Link(f"http://127.0.0.1:{listener.port}"):
                pytest.fail("it was entered")

        task = asyncio.create_task(use())
        peer = await listener.accept()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await peer.expect_end()


async def test_a_link_that_cannot_be_entered_leaves_nothing_behind() -> None:
    async with RawPeer.listen() as listener:

        async def use() -> None:
            async with Link(f"http://127.0.0.1:{listener.port}"):
                pytest.fail("it was entered")

        task = asyncio.create_task(use())
        peer = await listener.accept()
        peer.send(bytes(40))
        with pytest.raises(ProtocolViolation):
            await task
        await peer.expect_end()


# --- much ------------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_many_requests_in_a_row_leave_tasks_actors_and_memory_flat(tmp_path: Any) -> None:
    """S13, over a real socket, with our server and our link in one process; 100,000 are in tests/actors."""
    async with Server(answer, path=str(tmp_path / "s")) as server, Link(server.url) as link:

        async def caller(requests: int) -> None:
            for _ in range(requests):
                assert (await link.request("GET", "/")).status == 200

        async def round_of(requests: int) -> None:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(100):
                    tasks.create_task(caller(requests // 100))
            await settle()

        await round_of(2_000)
        before = Census()
        await round_of(8_000)
        before.expect_no_more(Census())


@pytest.mark.bulk
async def test_the_cost_of_an_upload_grows_as_its_size_and_its_memory_does_not() -> None:
    """F5: 100 MB; counted in WINDOW_UPDATE and DATA frames and in turns of the loop, which no busy machine changes."""

    async def take(stream: ServerStream) -> None:
        size = 0
        async for chunk in stream:
            size += len(chunk)
        await stream.respond(200, body=b"%d" % size)

    block = bytes(1 << 16)
    largest = 0

    async def body(size: int) -> AsyncIterator[bytes]:
        nonlocal largest
        for number in range(size // len(block)):
            if number % 100 == 0:
                largest = max(largest, tracemalloc.get_traced_memory()[0])
            yield block

    async with linked(take) as link:
        told = [0]

        def count(_: object) -> None:
            told[0] += 1

        messages = []
        link.tracer.attach(count)
        for size in (12_500_000, 25_000_000, 50_000_000):
            told[0] = 0
            wanted = size // len(block) * len(block)
            reply = await link.request("PUT", "/", body=body(size))
            assert reply.body == b"%d" % wanted
            messages.append(told[0])
        link.tracer.detach(count)
        assert messages[1] < 2.5 * messages[0]
        assert messages[2] < 2.5 * messages[1]
        assert messages[2] < 50_000_000 / 2_000, "more than one message for 2,000 bytes"

        tracemalloc.start()
        try:
            size = 100_000_000 // len(block) * len(block)
            reply = await link.request("PUT", "/", body=body(size))
            assert reply.body == b"%d" % size
        finally:
            tracemalloc.stop()
        assert largest < 16 << 20, f"held {largest} bytes"


async def test_what_an_unread_upload_holds_is_bounded_and_slows_its_sender() -> None:
    """F3 and F5: a caller with 50 MB finds no room once the windows and its own buffer are full."""
    read = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        await read.wait()
        size = 0
        async for chunk in stream:
            size += len(chunk)
        await stream.respond(200, body=b"%d" % size)

    given = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(800):
            given += 65_536
            yield bytes(65_536)

    limits = Limits(stream_window=200_000, connection_window=400_000, send_buffer=100_000)
    async with linked(handler, limits=limits) as link:
        asking = asyncio.create_task(link.request("PUT", "/", body=body()))
        sibling = asyncio.create_task(link.request("PUT", "/", body=b"x"))
        await until(lambda: given >= 200_000)
        await settle(300)
        assert given <= 200_000 + 100_000 + 65_536
        read.set()
        assert (await asking).body == b"52428800"
        assert (await sibling).body == b"1"


async def test_a_server_of_ours_answers_a_raw_client_and_our_link_alike() -> None:
    async with served(answer) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        assert await peer.expect_body(1) == b"answer"
