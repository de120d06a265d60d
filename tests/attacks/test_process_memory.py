"""The memory of a process: peers that do not read and handlers that collect share what there is, and nothing dies."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest

from actors.memory import pool_of
from actors.server_stream import ServerStream
from actors.settings import KiB, Limits, MiB
from actors.stream import StreamActor
from supervisor.server import Server
from tests.attacks.siege import GET, PATIENT, POST, held
from tests.interop.bodies import resident_bytes
from tests.support import frames
from tests.support.frames import Code, RawPeer, Setting, Type
from tests.support.sides import Bench, settle, until

PEERS: Final = 5
STREAMS: Final = 100
LIMITS: Final = Limits(process_bytes=8 * MiB, max_request_body=64 * MiB, max_streams=STREAMS + 1)
WHOLE: Final = 256 * KiB
"""Bytes of each response, or of each body that never ends."""
SLACK: Final = PEERS * STREAMS * 4 * KiB + 256 * KiB
"""What streams may queue whatever is full: 4 KiB each, and the piece that filled the pool."""

OBJECTS: Final = PEERS * STREAMS * 40 * KiB
"""What the streams themselves may take: tasks, actors, h2's state, and the clients' in this process, too."""


@asynccontextmanager
async def crowd(server: Server, values: dict[int, int] | None = None) -> AsyncIterator[list[RawPeer]]:
    """Raw clients of a server, after their handshakes."""
    async with AsyncExitStack() as stack:
        peers = []
        for _ in range(PEERS):
            peers.append(await stack.enter_async_context(await RawPeer.connect("127.0.0.1", server.port)))
            await peers[-1].handshake(values)
        try:
            yield peers
        finally:
            for peer in peers:
                peer.abort()


def opening(block: bytes, *, end: bool) -> bytes:
    return b"".join(frames.headers(stream_id, block, end_stream=end) for stream_id in range(1, 2 * STREAMS, 2))


def refused(peer: RawPeer) -> set[int]:
    return {
        heard.stream_id for heard in peer.seen if heard.type == Type.RST_STREAM and heard.code == Code.REFUSED_STREAM
    }


@pytest.mark.bulk
async def test_peers_that_do_not_read_fill_what_the_process_has_and_no_more() -> None:
    """L11: 500 streams; what was begun waits, new work is refused, and all of it finishes once they read."""
    pool_of.cache_clear()
    waiting = 0

    async def sends(stream: ServerStream) -> None:
        nonlocal waiting
        waiting += 1
        await stream.start_response(200)
        for _ in range(WHOLE // (32 * KiB)):
            await stream.send(bytes(32 * KiB))
        await stream.end()

    async with (
        Server(sends, limits=LIMITS, health=PATIENT) as server,
        crowd(server, {Setting.INITIAL_WINDOW_SIZE: 0}) as peers,
    ):
        before = resident_bytes()
        for peer in peers:
            peer.send(opening(GET, end=True))
            await peer.barrier()
            assert held(LIMITS) <= LIMITS.process_bytes + SLACK
        assert resident_bytes() - before < LIMITS.process_bytes + SLACK + OBJECTS
        assert waiting + sum(len(refused(peer)) for peer in peers) == PEERS * STREAMS
        one_more = 2 * STREAMS + 1
        for peer in peers:
            peer.send(frames.headers(one_more, GET, end_stream=True))
            assert (await peer.expect(Type.RST_STREAM, one_more)).code == Code.REFUSED_STREAM
        async with await RawPeer.connect("127.0.0.1", server.port) as bystander:
            await bystander.handshake()
            bystander.send(frames.headers(1, GET, end_stream=True) + frames.window_update(0, WHOLE))
            bystander.send(frames.window_update(1, WHOLE))
            assert len(await bystander.expect_body(1)) == WHOLE
        await asyncio.gather(*map(_read_all, peers))
        await until(lambda: pool_of(LIMITS.process_bytes).queues.held == 0)


async def _read_all(peer: RawPeer) -> None:
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) + frames.window_update(0, 2**31 - 65_536))
    for stream_id in sorted(set(range(1, 2 * STREAMS, 2)) - refused(peer)):
        assert len(await peer.expect_body(stream_id, timeout=20)) == WHOLE


@pytest.mark.bulk
async def test_handlers_that_collect_bodies_fill_what_the_process_has_and_no_more() -> None:
    """L11: 500 bodies that do not end; each is collected, answered with 413, or refused, and the server lives."""
    pool_of.cache_clear()

    async def collects(stream: ServerStream) -> None:
        await stream.respond(200, body=b"%d" % len(await stream.read()))

    async with Server(collects, limits=LIMITS, health=PATIENT) as server, crowd(server) as peers:
        before = resident_bytes()
        for peer in peers:
            await _upload(peer)
            await peer.barrier()
            assert held(LIMITS) <= LIMITS.process_bytes + SLACK
        assert resident_bytes() - before < LIMITS.process_bytes + SLACK + OBJECTS
        answered = [heard for peer in peers for heard in peer.seen if heard.type in (Type.HEADERS, Type.RST_STREAM)]
        assert answered
        assert {heard.fields[0][1] for heard in answered if heard.fields} <= {b"413"}
        async with await RawPeer.connect("127.0.0.1", server.port) as bystander:
            await bystander.handshake()
            bystander.send(frames.headers(1, POST) + frames.data(1, b"four", end_stream=True))
            assert await bystander.expect_body(1) == b"4"


async def _upload(peer: RawPeer) -> None:
    """Open all streams and send what credit there is, until nothing more comes back."""
    peer.send(opening(POST, end=False))
    credit = {0: 65_535, **dict.fromkeys(range(1, 2 * STREAMS, 2), 64 * KiB)}
    at = 0
    while True:
        await peer.barrier(b"%08d" % at)
        dead = {heard.stream_id for heard in peer.seen if heard.type == Type.RST_STREAM}
        updates = [heard for heard in peer.seen if heard.type == Type.WINDOW_UPDATE]
        for heard in updates[at:]:
            if heard.stream_id == 0:
                credit[0] += heard.increment
        at = len(updates)
        alive = [stream_id for stream_id in credit if stream_id and credit[stream_id] and stream_id not in dead]
        sent = 0
        for stream_id in alive:
            size = min(16 * KiB, credit[0], credit[stream_id])
            if not size:
                break
            peer.send(frames.data(stream_id, bytes(size)))
            credit[0] -= size
            credit[stream_id] -= size
            sent += size
        if not sent:
            return


@pytest.mark.bulk
async def test_a_body_that_was_refused_is_gone_with_its_stream() -> None:
    """L11: without waiting for a garbage collection; until one, 5,000 of 256 KiB would be 1.2 GB."""

    async def collects(stream: ServerStream) -> None:
        await stream.read()

    async with Bench(collects, limits=Limits(max_request_body=32 * KiB)) as bench:
        gc.collect()
        gc.disable()
        try:
            for stream_id in range(1, 20, 2):
                body = frames.data(stream_id, bytes(16 * KiB)) * 3
                await bench.hears(frames.headers(stream_id, POST) + body)
            await settle()
            left = [each for each in gc.get_objects() if isinstance(each, StreamActor)]
        finally:
            gc.enable()
        assert len(left) <= 1
