"""Sockets as messages: an :class:`asyncio.Protocol` that tells its connection, and making connections.

What the socket tells before its connection is there is kept until :meth:`SocketProtocol.attach`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket as sockets
import stat
from collections.abc import Callable
from typing import Final, cast

from actors.errors import ConnectFailed, ListenFailed, Misuse
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact, ConnectionLost, Peer, WritePaused, WriteResumed
from actors.trace import Tracer

BACKLOG: Final = 1024


class SocketProtocol(asyncio.Protocol):
    """One socket, told as messages."""

    def __init__(self, tracer: Tracer, connected: Callable[[SocketProtocol], None] | None = None) -> None:
        self.tracer = tracer
        self._connected = connected
        self._kept: list[ConnectionFact] = []
        self._tell: Callable[[ConnectionFact], object] = self._kept.append
        self._transport: asyncio.Transport | None = None
        self.peer = Peer("nowhere")

    @property
    def transport(self) -> asyncio.Transport:
        """The socket itself, once it is connected."""
        if self._transport is None:
            raise Misuse("the socket is not connected yet")
        return self._transport

    def attach(self, connection: Ref[ConnectionFact]) -> None:
        """From now on, tell ``connection``; first what was kept."""
        kept, self._kept = self._kept, []
        self._tell = connection.tell
        for fact in kept:
            self._say(fact)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = Peer(_address(self._transport))
        if self._connected is not None:
            self._connected(self)

    def data_received(self, data: bytes) -> None:
        self._say(BytesArrived(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._say(ConnectionLost(exc))

    def pause_writing(self) -> None:
        self._say(WritePaused())

    def resume_writing(self) -> None:
        self._say(WriteResumed())

    def _say(self, fact: ConnectionFact) -> None:
        if self.tracer.on:
            self.tracer.speak_as("socket")
        self._tell(fact)


def _address(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name or transport.get_extra_info("sockname") or "unix")


async def dial(
    tracer: Tracer, *, host: str = "", port: int = 0, path: str | None = None, timeout: float = 10.0
) -> SocketProtocol:
    """Connect to a TCP port, trying the host's addresses in turn, or to a Unix socket. Raises ConnectFailed."""
    loop = asyncio.get_running_loop()
    where = f"the Unix socket {path}" if path is not None else f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout):
            if path is not None:
                return (await loop.create_unix_connection(lambda: SocketProtocol(tracer), path))[1]
            return (await loop.create_connection(lambda: SocketProtocol(tracer), host, port))[1]
    except TimeoutError as error:
        raise ConnectFailed.because(f"no connection to {where} within {timeout:g} s", error) from error
    except (OSError, OverflowError, ValueError) as error:
        raise ConnectFailed.because(f"no connection to {where}: {_reason(error)}", error) from error


async def listen(
    tracer: Tracer,
    connected: Callable[[SocketProtocol], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    path: str | None = None,
) -> asyncio.Server:
    """Listen on a TCP port (0: any free one) or a Unix socket; ``connected`` gets each client. Raises ListenFailed."""
    loop = asyncio.get_running_loop()
    where = f"the Unix socket {path}" if path is not None else f"{host}:{port}"
    try:
        if path is not None:
            _clear_stale(path)
            server = await loop.create_unix_server(
                lambda: SocketProtocol(tracer, connected), path, backlog=BACKLOG, start_serving=False
            )
        else:
            server = await loop.create_server(
                lambda: SocketProtocol(tracer, connected), host, port, backlog=BACKLOG, start_serving=False
            )
        try:
            await server.start_serving()
        except BaseException:
            server.close()  # nobody else knows of it yet
            raise
        return server
    except (OSError, OverflowError, ValueError) as error:
        raise ListenFailed.because(f"cannot listen on {where}: {_reason(error)}", error) from error


def _clear_stale(path: str) -> None:
    """Remove a socket file that nobody listens on; asyncio would remove a living server's too."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} is there and is no socket: remove it or choose another path")
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FileExistsError("a server is listening there: stop it or choose another path")


_REMEDIES: Final = {
    errno.EADDRINUSE: "; stop what uses it or choose another port",
    errno.EACCES: "; choose a port of 1024 or above, or a place that you may use",
    errno.ECONNREFUSED: "; is the server running?",
}
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def _reason(error: Exception) -> str:
    """The system's own words, without asyncio's around them, and a remedy where there is one."""
    if not isinstance(error, OSError) or isinstance(error, sockets.gaierror):
        return str(getattr(error, "strerror", None) or error)
    number = error.errno
    if number is None and (found := _ERRNO.search(str(error))):
        number = int(found[1])  # asyncio tried several addresses and put the errors into one text: the first will do
    if number is None:
        return str(error)
    return os.strerror(number) + _REMEDIES.get(number, "")
