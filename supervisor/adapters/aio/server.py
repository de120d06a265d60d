"""What aioh2's start_server() returns: a server whose handler has one connection at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from actors.errors import ErrorCode, Misuse
from actors.server_stream import ServerStream
from actors.settings import Health, Limits, Tls
from supervisor.adapters.aio.jobs import start
from supervisor.adapters.aio.protocol import H2Protocol
from supervisor.served import ServedConnection
from supervisor.server import DrainReport, Server

logger: Final = logging.getLogger("muxlink.aioh2")


class H2Server:
    """A server that calls ``connected`` with the protocol object of each connection; like :class:`asyncio.Server`."""

    def __init__(
        self,
        connected: Callable[[H2Protocol], object],
        make: Callable[[], H2Protocol],
        sockets: list[socket.socket],
        *,
        path: str | None,
        tls: Tls | None,
        limits: Limits,
        health: Health,
        record: bool,
    ) -> None:
        """``make`` makes a protocol object; ``path`` is the Unix socket's file, which is removed at the end."""
        self._handle = connected
        self._make = make
        self._protocols: dict[str, H2Protocol] = {}
        self._handlers: set[asyncio.Future[object]] = set()
        self._path = path
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[DrainReport] | None = None
        self._over = asyncio.Event()
        self.server = Server(
            self._serve,
            sockets=sockets,
            tls=tls,
            limits=limits,
            health=health,
            connected=self._connected,
            record=record,
        )
        """The server itself, for its figures, ``why`` and traces."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Those that it listens on; none once it is closed."""
        return () if self._closing is not None else tuple(self._sockets)

    def is_serving(self) -> bool:
        return self._closing is None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def close(self) -> None:
        """Accept no more, refuse the requests that nobody took, and drain: GOAWAY, and time for the streams to finish.

        Returns at once; :meth:`wait_closed` waits for it. A second time changes nothing.
        """
        if self._closing is None:
            self._closing = start(self._close(), f"{self.server.name}/aioh2")

    async def wait_closed(self) -> None:
        """Wait until it has been closed, its connections have ended, and their handlers, too."""
        await self._over.wait()

    async def serve_forever(self) -> None:
        """Serve until it is closed; cancelling this closes it."""
        if self._closing is not None:
            raise Misuse("the server was closed: start another")
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            self.close()
            await self._over.wait()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()

    async def begin(self) -> None:
        """Begin to serve; called once, by who made it."""
        await self.server.__aenter__()

    async def _close(self) -> DrainReport:
        try:
            for protocol in self._protocols.values():
                protocol.refuse_requests()
            report = await self.server.close()
            if self._path is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
            await self._until_handled()
            return report
        finally:
            self._over.set()

    async def _until_handled(self) -> None:
        """Give the handlers, which are cancelled, time for cleaning up, but not for ever."""
        if not self._handlers:
            return
        _, late = await asyncio.wait(self._handlers, timeout=self.server.limits.shutdown_timeout)
        if late:
            logger.error(
                "%s was closed without waiting for %d handlers: cancelled, but not ended", self.server.name, len(late)
            )

    def _connected(self, served: ServedConnection) -> None:
        protocol = self._make()
        protocol.begin(served, self.server.limits)
        if self._closing is not None:
            protocol.refuse_requests()
        handler = self._handle(protocol)
        if handler is not None:
            protocol.set_handler(handler)  # type: ignore[arg-type]  # it looks what it is given
        task = protocol.handler
        if task is None:
            name = getattr(self._handle, "__qualname__", repr(self._handle))
            raise Misuse(f"the handler {name} returned nothing: write 'async def', or return the task that it starts")
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self._protocols[served.name] = protocol
        start(self._forget(served), f"{served.name}/aioh2 end")

    async def _forget(self, served: ServedConnection) -> None:
        await served.wait()
        del self._protocols[served.name]

    async def _serve(self, stream: ServerStream) -> None:
        protocol = self._protocols.get(stream.connection)
        if protocol is None:  # its connection is at its end, or never had a handler
            stream.reset(ErrorCode.REFUSED_STREAM)
        else:
            await protocol.serve(stream)
