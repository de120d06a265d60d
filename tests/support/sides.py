"""Both sides of a connection: ours on one, and on the other a raw peer, a socket that is none, or ours again."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Self, cast

from hpack import Decoder

from actors.actor import Actor
from actors.addresses import Endpoint, resolve
from actors.client import ClientConnection
from actors.connection import ConnectionActor
from actors.dialling import connect
from actors.handling import serve
from actors.headers import HeaderInput
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionLost, ConnectionNews, Peer
from actors.outgoing import Outgoing, Route, prepare
from actors.server_stream import Handler
from actors.serving import ServerConnection
from actors.settings import Health, Limits
from actors.trace import Tracer
from actors.transport import SocketProtocol
from supervisor.health import PingMonitor, PingStrikes
from supervisor.link import Link
from supervisor.server import Server
from tests.interop.bodies import resident_bytes
from tests.support.frames import PREFACE, Fields, Frame, Parser, RawPeer, Type, settings

ANYWHERE: Final = Peer("anywhere:1")
TURNS: Final = 20
"""More turns of the loop than any chain of our actors takes."""


@asynccontextmanager
async def linked(handler: Handler, *, limits: Limits | None = None) -> AsyncIterator[Link]:
    """A link of ours to a server of ours."""
    async with Server(handler, limits=limits) as server, Link(server.url, limits=limits) as link:
        yield link


@asynccontextmanager
async def served(
    handler: Handler, values: Mapping[int, int] | None = None, *, limits: Limits | None = None
) -> AsyncIterator[RawPeer]:
    """A raw client of a server of ours, after the handshake in which it said ``values``; it may send many PINGs."""
    patient = Health(least_ping_interval=0)
    async with (
        Server(handler, limits=limits, health=patient) as server,
        await RawPeer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.handshake(values)
        yield peer


@asynccontextmanager
async def linked_to_raw(
    values: Mapping[int, int] | None = None, *, limits: Limits | None = None
) -> AsyncIterator[tuple[Link, RawPeer]]:
    """A link of ours to a raw server, after the handshake in which the server said ``values``."""
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}", limits=limits)
        async with asyncio.TaskGroup() as tasks:
            entering = tasks.create_task(link.__aenter__())
            peer = await listener.accept()
            await peer.handshake(values)
            await entering
        try:
            yield link, peer
        finally:
            await link.close()


async def dial(endpoint: Endpoint) -> SocketProtocol:
    """A socket that is connected there, and waits for its connection."""
    return (await connect(Tracer(), await resolve(endpoint, timeout=5.0), timeout=5.0, tls=None))[1]


async def settle(turns: int = TURNS) -> None:
    """Let every task that can run, run: no time passes, and nothing is waited for."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(ready: Callable[[], bool], *, timeout: float = 30.0) -> None:
    """Turn the loop until ``ready()``, for what real sockets bring about and no future tells."""
    async with asyncio.timeout(timeout):
        while not ready():  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)


class FakeSocket:
    """A transport that keeps what is written, and says that it was closed to whom it is told to."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False
        self.aborted = False
        self.reading = True
        self.unsent = 0
        """Bytes that the other side has not taken."""
        self.stuck = False
        """Whether closing never gets done, as when the other side takes nothing."""
        self.lost: Callable[[ConnectionLost], object] = lambda fact: None

    def write(self, data: bytes | memoryview) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> object:
        """Nothing: there is no socket behind it."""
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.stuck:
                asyncio.get_running_loop().call_soon(self.lost, ConnectionLost(None))

    def abort(self) -> None:
        self.aborted = True
        if self.stuck or not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.lost, ConnectionLost(None))


class Bench:
    """A connection actor over a fake socket: what it reads is told by hand, what it writes is parsed on demand."""

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        limits: Limits | None = None,
        health: Health | None = None,
        push: bool = False,
    ) -> None:
        """A server's with a ``handler``, else a client's; without ``health`` nobody watches it."""
        self.limits = limits if limits is not None else Limits()
        self.socket = FakeSocket()
        self.news: list[ConnectionNews] = []
        owner: Ref[ConnectionNews] = Ref("owner", self.news.append)
        monitor = PingMonitor(health) if health is not None else None
        self.actor: ConnectionActor = (
            ClientConnection(
                "connection", self.socket, peer=ANYWHERE, limits=self.limits, owner=owner, push=push, monitor=monitor
            )
            if handler is None
            else ServerConnection(
                "connection", self.socket, serve(handler), peer=ANYWHERE, limits=self.limits, owner=owner,
                monitor=monitor, doorkeeper=PingStrikes(health) if health is not None else None,
            )
        )  # fmt: skip
        self.socket.lost = self.actor.tell
        self.actor.start()
        self.route = Route(self.actor.ref, ANYWHERE, self.actor.wire.terms, self.actor.tracer, pushes=push)
        self._server = handler is not None
        self._parser = Parser()
        self._decoder = Decoder()
        self._numbers = 0
        self._skip = 0 if self._server else len(PREFACE)

    async def __aenter__(self) -> Self:
        await self.hears((PREFACE if self._server else b"") + settings() + settings(ack=True))
        self.says()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.actor.exited is None:
            await self.actor.stop()

    async def hears(self, data: bytes) -> None:
        """Give the connection bytes, and every task its turns."""
        self.actor.tell(BytesArrived(data))
        await settle()

    def says(self) -> list[Frame]:
        """The frames that were written since the last call."""
        written = bytes(self.socket.written)
        self.socket.written.clear()
        written, self._skip = written[self._skip :], max(0, self._skip - len(written))
        return self._parser.parse(written)

    def fields(self, frame: Frame) -> Fields:
        """The decoded block of a HEADERS frame; to be asked once for each, in order."""
        return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(frame.payload, raw=True)]

    def outgoing(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: HeaderInput = (),
        body: bytes | None = b"",
        timeout: float | None = None,
    ) -> Outgoing:
        """A request for this connection, under a name of its own."""
        self._numbers += 1
        return prepare(
            f"request-{self._numbers}", method, "http", "test", path, headers=headers, body=body, trailers=(),
            weight=16, timeout=timeout, max_body=self.limits.max_response_body,
        )  # fmt: skip


def connections_of(link: Link) -> list[ClientConnection]:
    """The connections that a link has now."""
    return [cast("ClientConnection", member.connection) for member in link._keeper.members.values()]


class Census:
    """How many tasks, actors and objects live in this process, and how much memory they hold."""

    def __init__(self) -> None:
        gc.collect()  # what others left behind
        self.tasks = len(asyncio.all_tasks())
        # Asking an abstract class for its instances makes it remember each class that it was asked about: ask first.
        self.actors = sum(isinstance(each, Actor) for each in gc.get_objects())
        gc.collect()
        objects = gc.get_objects()
        self.kinds = Counter(type(each).__name__ for each in objects)
        self.bytes = resident_bytes()

    def expect_no_more(self, later: "Census") -> None:
        """Fail where there are more now, beyond what caches and the allocator may keep."""
        assert (later.tasks, later.actors) == (self.tasks, self.actors)
        more = later.kinds - self.kinds
        assert more.total() < 2_000, more.most_common(5)
        assert later.bytes - self.bytes < 8 << 20


def kinds(frames: list[Frame], *, but: tuple[int, ...] = (Type.SETTINGS, Type.WINDOW_UPDATE)) -> list[tuple[int, int]]:
    """Type and stream of each frame, without those that keep the connection itself going."""
    return [(frame.type, frame.stream_id) for frame in frames if frame.type not in but]
