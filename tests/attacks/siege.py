"""A server with an attacker, a bystander, and a recorder that sees what becomes of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import median
from typing import Final

from actors.memory import pool_of
from actors.server_stream import ServerStream
from actors.settings import Health, Limits, MiB
from actors.trace import Recorder
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, Frame, RawPeer, Type
from tests.support.sides import until

HOLD: Final = frames.encode(frames.request("GET", "/hold"))
GET: Final = frames.encode(frames.request("GET", "/"))
POST: Final = frames.encode(frames.request("POST", "/hold"))
READ: Final = frames.encode(frames.request("POST", "/read"))
DOWNLOAD: Final = frames.encode(frames.request("GET", "/download"))
PIECE: Final = bytes(64 * 1024)
PATIENT: Final = Health(least_ping_interval=0)
"""Takes all PINGs: the peers here use them as barriers."""
PATIENCE: Final = 0.05
"""Seconds within which a bystander must be served."""


async def handler(stream: ServerStream) -> None:
    """What the tests' server does, by path."""
    match stream.path:
        case "/":
            await stream.respond(200, body=b"fine")
        case "/hold":
            await asyncio.Event().wait()
        case "/read":
            await stream.respond(200, body=b"%d" % len(await stream.read()))
        case "/download":
            await stream.start_response(200)
            for _ in range(16):
                await stream.send(PIECE)
            await stream.end()
        case _:
            await stream.respond(404)


class Siege:
    """Who takes part."""

    def __init__(self, server: Server, attacker: RawPeer, bystander: RawPeer, recorder: Recorder) -> None:
        self.server = server
        self.attacker = attacker
        self.bystander = bystander
        self.recorder = recorder
        self.waited: list[float] = []
        """Seconds that each of the bystander's requests took."""
        self._next = 1

    async def ask(self) -> None:
        """Have the bystander served once more."""
        stream_id, self._next = self._next, self._next + 2
        began = time.perf_counter()
        self.bystander.send(frames.headers(stream_id, GET, end_stream=True))
        assert await self.bystander.expect_body(stream_id) == b"fine"
        self.waited.append(time.perf_counter() - began)

    async def _ask_on(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Have the bystander ask all the time; in the end it must have been served, and in time."""
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(self._ask_on())
            yield
            asking.cancel()
        await self.ask()  # still
        assert median(self.waited) < PATIENCE, self.waited

    def _exits(self, limit: str) -> list[str]:
        """The ends of connections, not of streams, that name the limit."""
        ends = (event.summary for event in self.recorder if event.type == "Exited" and limit in event.summary)
        return [each for each in ends if "/stream-" not in each.partition(" ")[0]]

    async def ends(self, limit: str, code: int = Code.ENHANCE_YOUR_CALM) -> Frame:
        """The attacker is told by GOAWAY which limit it was, its connection closes, and the trace has the cause."""
        goaway = await self.attacker.expect(Type.GOAWAY)
        assert goaway.code == code, goaway.payload
        assert limit.encode() in goaway.payload[8:], goaway.payload
        await self.attacker.expect_end()
        # The socket is closed first, and the actor ends when it hears of that.
        await until(lambda: self._exits(limit) != [])
        assert len(self._exits(limit)) == 1
        return goaway


@asynccontextmanager
async def besieged(limits: Limits, values: Mapping[int, int] | None = None) -> AsyncIterator[Siege]:
    """A server with these limits, after the handshakes; the attacker's says ``values``."""
    recorder = Recorder(64 * MiB)
    async with Server(handler, limits=limits, health=PATIENT) as server:
        server.tracer.attach(recorder)
        async with (
            await RawPeer.connect("127.0.0.1", server.port) as attacker,
            await RawPeer.connect("127.0.0.1", server.port) as bystander,
        ):
            await attacker.handshake(values)
            await bystander.handshake()
            try:
                yield Siege(server, attacker, bystander, recorder)
            finally:
                attacker.abort()  # its streams would be waited for
                bystander.abort()


def held(limits: Limits) -> int:
    """Bytes that all connections with these limits hold: queues and granted windows."""
    pool = pool_of(limits.process_bytes)
    return pool.queues.held + pool.windows.held
