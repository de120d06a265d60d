"""A TCP proxy whose faults are commands: what passes it comes late, is cut short, is swallowed or comes out wrong.

It works on bytes and knows nothing of HTTP/2. A command is carried out in the loop's next turns, and holds for the
connections that are open and for those that come, until ``heal()``.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from attrs import define, field

CHUNK: Final = 64 * 1024
ON_ITS_WAY: Final = 64
"""Chunks that a direction of a connection holds while they are late; then its sender has to wait."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Way(enum.Enum):
    """A direction."""

    UP = "up"
    """From who connected to the server."""
    DOWN = "down"


BOTH: Final = (Way.UP, Way.DOWN)


@define(eq=False)
class _Armed:
    """Something that happens to one direction once, when ``after`` more bytes have passed there."""

    after: int
    happens: Callable[[bytearray, int], bool]
    """Is told the chunk and the place in it; says whether the connection goes on."""


@define(eq=False)
class _Pair:
    """A connection to the proxy, and the one that it made for it."""

    client: socket.socket
    server: socket.socket
    task: asyncio.Task[None] | None = None
    resets: bool = False
    forgotten: bool = False
    robbed: bool = False
    """Whether bytes of it were swallowed, so that it can never go on."""

    def end(self, *, resets: bool) -> None:
        self.resets = self.resets or resets
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        for each in (self.client, self.server):
            with suppress(OSError):  # the other side was first
                if self.resets:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                else:
                    each.shutdown(socket.SHUT_WR)  # before a close that resets because something was left unread
            each.close()


@define(eq=False)
class Proxy:
    """One loopback port that leads to another one: ``async with Proxy(server.port) as proxy``."""

    target: int
    host: str = "127.0.0.1"
    connections: int = 0
    """Connections that were taken since the beginning."""
    passed: Counter[Way] = field(factory=Counter)
    """Bytes that came from each side, whatever became of them."""
    latency: float = 0.0
    bandwidth: float | None = None
    _listening: socket.socket = field(init=False)
    _pairs: set[_Pair] = field(factory=set, init=False)
    _serving: set[asyncio.Task[None]] = field(factory=set, init=False)
    _swallowing: set[Way] = field(factory=set, init=False)
    _armed: dict[Way, list[_Armed]] = field(factory=lambda: {way: [] for way in Way}, init=False)
    _port: int = field(default=0, init=False)

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def open(self) -> int:
        """Connections that it holds open."""
        return len(self._pairs)

    async def __aenter__(self) -> Self:
        self._bind()
        self._port = self._listening.getsockname()[1]
        self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # --- commands -----------------------------------------------------------------------------------------------------

    def delay(self, latency: float = 0.0, *, bandwidth: float | None = None) -> None:
        """Let each byte come ``latency`` seconds late, and at most ``bandwidth`` bytes a second in each direction."""
        self.latency, self.bandwidth = latency, bandwidth

    def cut(self) -> None:
        """Close every connection, as a peer does that ends."""
        for pair in self._pairs:
            pair.end(resets=False)

    def reset(self) -> None:
        """Reset every connection, as a peer does that crashed."""
        for pair in self._pairs:
            pair.end(resets=True)

    def truncate(self, way: Way, after: int) -> None:
        """Close the connection that carries the byte after the next ``after`` in this direction, just before it."""

        def happens(chunk: bytearray, place: int) -> bool:
            del chunk[place:]
            return False

        self._armed[way].append(_Armed(after, happens))

    def corrupt(self, way: Way, after: int = 0) -> None:
        """Turn over the bits of the byte that comes after the next ``after`` in this direction."""

        def happens(chunk: bytearray, place: int) -> bool:
            chunk[place] ^= 0xFF
            return True

        self._armed[way].append(_Armed(after, happens))

    def swallow(self, *ways: Way) -> None:
        """Take everything in these directions (both), ends of connections too, and pass nothing on."""
        self._swallowing.update(ways or BOTH)

    def forget(self) -> None:
        """Swallow everything of the connections that are open now, as a router does that has lost its table."""
        for pair in self._pairs:
            pair.forgotten = True

    def hang(self) -> None:
        """Take no new connections: the kernel completes their handshakes, and nobody ever speaks to them."""
        asyncio.get_running_loop().remove_reader(self._listening)

    def black_hole(self) -> None:
        """Swallow both directions, and hang new connections."""
        self.swallow()
        self.hang()

    def refuse(self) -> None:
        """Refuse new connections, those that hang too; the port stays taken, since a socket is bound to it."""
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        self._bind()

    def accept(self) -> None:
        """Take new connections again."""
        self._listening.listen(128)
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def heal(self) -> None:
        """End all faults; connections that have lost bytes are reset, since no peer could make sense of the rest."""
        self.delay()
        self._swallowing.clear()
        for armed in self._armed.values():
            armed.clear()
        for pair in self._pairs:
            pair.forgotten = False
            if pair.robbed:
                pair.end(resets=True)
        self.accept()

    # --- connections --------------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._listening = socket.socket()
        self._listening.setblocking(False)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind((self.host, self._port))

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except (BlockingIOError, ConnectionError):
            return  # it went away before we came
        client.setblocking(False)
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(client), name=f"proxy {self.port}")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        server = socket.socket()
        server.setblocking(False)
        pair = _Pair(client, server, asyncio.current_task())
        self._pairs.add(pair)
        try:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(server, (self.host, self.target))
            async with asyncio.TaskGroup() as group:
                for way, source, sink in ((Way.UP, client, server), (Way.DOWN, server, client)):
                    late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(ON_ITS_WAY)
                    group.create_task(self._read(pair, way, source, late))
                    group.create_task(self._write(pair, way, sink, late))
        except* OSError:
            pair.resets = True
        finally:
            self._pairs.discard(pair)
            pair.close()

    async def _read(
        self, pair: _Pair, way: Way, source: socket.socket, late: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            try:
                data = await loop.sock_recv(source, CHUNK)
            except OSError:
                if not self._swallows(pair, way):
                    raise
                pair.robbed = True
                return  # whoever is behind a black hole does not hear of a reset either
            self.passed[way] += len(data)
            await late.put((loop.time() + self.latency, data))

    async def _write(
        self, pair: _Pair, way: Way, sink: socket.socket, late: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await late.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if self._swallows(pair, way):
                pair.robbed = True
            elif not data:
                sink.shutdown(socket.SHUT_WR)
                return
            else:
                chunk = bytearray(data)
                goes_on = self._strike(way, chunk)
                await self._pass(sink, chunk)
                if not goes_on:
                    pair.end(resets=False)

    def _swallows(self, pair: _Pair, way: Way) -> bool:
        return pair.forgotten or way in self._swallowing

    def _strike(self, way: Way, chunk: bytearray) -> bool:
        """Do to the chunk what was asked for; says whether its connection goes on."""
        waiting, self._armed[way] = self._armed[way], []
        goes_on = True
        for armed in waiting:
            if armed.after < len(chunk):
                goes_on = armed.happens(chunk, armed.after) and goes_on
            else:
                armed.after -= len(chunk)
                self._armed[way].append(armed)
        return goes_on

    async def _pass(self, sink: socket.socket, chunk: bytearray) -> None:
        loop = asyncio.get_running_loop()
        while chunk:
            # A twentieth of a second's worth at a time, so that slow is slow and not rare.
            size = len(chunk) if self.bandwidth is None else max(1, int(self.bandwidth / 20))
            piece = bytes(chunk[:size])
            del chunk[:size]
            if self.bandwidth is not None:
                await asyncio.sleep(len(piece) / self.bandwidth)
            await loop.sock_sendall(sink, piece)
