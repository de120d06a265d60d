"""Servers that do not speak HTTP/2, or do not speak at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from attrs import define, field, frozen

When = Literal["at once", "when spoken to", "never"]


@define(eq=False)
class _Stranger(asyncio.Protocol):
    """One connection of a stranger."""

    says: bytes
    says_it: When
    hangs_up: bool
    heard: bytearray
    spoken_to: asyncio.Event
    gone: asyncio.Event = field(factory=asyncio.Event)
    transport: asyncio.Transport | None = None
    _has_spoken: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.says_it == "at once":
            self._speak(transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.spoken_to.set()
        if self.says_it == "when spoken to" and not self._has_spoken and self.transport:
            self._speak(self.transport)

    def _speak(self, transport: asyncio.Transport) -> None:
        self._has_spoken = True
        transport.write(self.says)
        if self.hangs_up:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    async def leave(self) -> None:
        if self.transport:
            self.transport.abort()
            await self.gone.wait()


@frozen(eq=False)
class StrangerServer:
    """A server that does not speak HTTP/2."""

    port: int
    heard: bytearray
    """All that was said to it, of all connections."""
    spoken_to: asyncio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def stranger(
    says: bytes = b"", *, says_it: When = "when spoken to", hangs_up: bool = False
) -> AsyncIterator[StrangerServer]:
    """A listener that answers every connection with the same bytes, whatever it is told, and may then hang up."""
    visits: list[_Stranger] = []
    heard = bytearray()
    spoken_to = asyncio.Event()

    def meet() -> _Stranger:
        visits.append(_Stranger(says, says_it, hangs_up, heard, spoken_to))
        return visits[-1]

    server = await asyncio.get_running_loop().create_server(meet, "127.0.0.1", 0)
    try:
        yield StrangerServer(server.sockets[0].getsockname()[1], heard, spoken_to)
    finally:
        server.close()
        for visit in visits:
            await visit.leave()
        await server.wait_closed()
