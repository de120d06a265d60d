"""Both ends of a connection in aioh2's manner, and each against a raw peer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from supervisor.adapters import aioh2
from supervisor.adapters.aioh2 import H2Protocol, H2Server
from tests.support.frames import RawPeer, Setting, window_update

GET = {":method": "GET", ":path": "/"}
POST = {":method": "POST", ":path": "/"}
OK = {":status": "200"}
WIDE = 1 << 24

Handler = Callable[[H2Protocol], Awaitable[object]]


async def greet(proto: H2Protocol) -> None:
    """What the example does, for one request after the other."""
    while True:
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, OK)
        await proto.send_data(stream_id, b"hello, ")
        name = await proto.read_stream(stream_id, -1)
        await proto.send_data(stream_id, name)
        await proto.send_trailers(stream_id, {"len": str(len(name))})


def port_of(server: H2Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@asynccontextmanager
async def linked(handler: Handler = greet, **options: Any) -> AsyncIterator[H2Protocol]:
    """A client of a server in aioh2's manner."""
    async with (
        await aioh2.start_server(handler, **options) as server,
        await aioh2.open_connection(port=port_of(server)) as client,
    ):
        yield client


@asynccontextmanager
async def served(values: Mapping[int, int] | None = None, **options: Any) -> AsyncIterator[tuple[RawPeer, H2Protocol]]:
    """A raw client, and the server's protocol object, whose handler does nothing by itself."""
    protocols: asyncio.Queue[H2Protocol] = asyncio.Queue()

    async def hold(proto: H2Protocol) -> None:
        protocols.put_nowait(proto)
        await asyncio.Event().wait()

    async with (
        await aioh2.start_server(hold, **options) as server,
        await RawPeer.connect("127.0.0.1", port_of(server)) as peer,
    ):
        await peer.handshake(values)
        yield peer, await protocols.get()


@asynccontextmanager
async def calling(values: Mapping[int, int] | None = None, **options: Any) -> AsyncIterator[tuple[H2Protocol, RawPeer]]:
    """A client, and the raw server that it called."""
    async with RawPeer.listen() as listener:
        opening = asyncio.create_task(aioh2.open_connection(port=listener.port, **options))
        peer = await listener.accept()
        await peer.handshake(values)
        async with await opening as client:
            yield client, peer


def wide(peer: RawPeer, *streams: int) -> None:
    """Open the windows of the connection and of those streams."""
    for stream_id in (0, *streams):
        peer.send(window_update(stream_id, WIDE))


NARROW: dict[int, int] = {Setting.INITIAL_WINDOW_SIZE: 3}
