"""Accepting: listening sockets, and a place for each connection that they may bring.

It is our own because :meth:`asyncio.loop.create_server` has no bound.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket as sockets
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from actors.errors import ListenFailed
from actors.messages import Socket
from actors.outlet import shown
from actors.settings import Limits
from actors.tls import TlsSide, tls_failed
from actors.trace import Tracer
from actors.transport import SocketProtocol, bind_tcp, bind_unix, reason_of

logger: Final = logging.getLogger("muxlink.listener")

ACCEPTS_PER_TURN: Final = 64
"""Sockets that are accepted before the loop serves others."""
ACCEPT_PAUSE: Final = 0.5
"""Seconds without accepting after the system refused it."""
SPARE_FILES: Final = 64
"""Open files that a process needs besides those of its connections."""


class Accepting:
    """Listening sockets, from which clients are accepted while ``wanted()`` says so: the next wait in the backlog.

    After the system refused one for want of files or memory there is a pause, and one line in the log.
    """

    # A reader of the loop, not a task in sock_accept(): one that is cancelled as a client comes loses the client's
    # socket, and closing would have to wait.

    def __init__(
        self,
        listening: list[sockets.socket],
        accepted: Callable[[sockets.socket, object], object],
        wanted: Callable[[], bool],
    ) -> None:
        """``accepted`` gets each client's socket, which does not block, and its address."""
        self.sockets = listening.copy()
        """Those that it listens on; none once it is closed."""
        self._accepted = accepted
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._complained = False
        self._reading = False

    def look(self) -> None:
        """Accept again, if that is wanted now."""
        if self._pause is None and not self._reading and self.sockets and self._wanted():
            self._reading = True
            for listening in self.sockets:
                self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept no more: who waits in the backlog is reset."""
        self._stop_reading()
        if self._pause is not None:
            self._pause.cancel()
        while self.sockets:
            self.sockets.pop().close()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            for listening in self.sockets:
                self._loop.remove_reader(listening)

    def _accept(self, listening: sockets.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self.sockets:
                return  # closed by whom the last one was told
            if not self._wanted():
                self._stop_reading()
                return
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # that one has gone again
            except OSError as error:
                self._hold_on(error)
                return
            self._complained = False
            accepted.setblocking(False)
            self._accepted(accepted, address)

    def _hold_on(self, error: OSError) -> None:
        """The system has no file or memory for another connection, which stays in the backlog: try again later."""
        if not self._complained:
            self._complained = True
            logger.warning("cannot accept connections for now: %s", error.strerror or error)
        self._stop_reading()
        self._pause = self._loop.call_later(ACCEPT_PAUSE, self._over)

    def _over(self) -> None:
        self._pause = None
        self.look()


class Acceptor:
    """Listening sockets, and a place for each connection that they may bring (``limits.max_connections``).

    While every place is taken nothing is accepted: the next wait in the backlog. With ``limits.refuse_connections``
    they are closed at once. A place is taken from the accept on, TLS handshake included, and must be given back with
    :meth:`release` once the connection has ended.
    """

    def __init__(
        self,
        listening: list[sockets.socket],
        connected: Callable[[SocketProtocol], None],
        *,
        limits: Limits,
        tracer: Tracer,
        tls: TlsSide | None = None,
        refused: Callable[[str], object] = id,
        freed: Callable[[], object] | None = None,
    ) -> None:
        """``refused`` is called with the name of the limit for each connection that is closed at once.

        ``freed`` is called, in a turn of the loop of its own, once for each connection that has ended, however it came
        and ended: refused, in its handshake, or served.
        """
        self._listening = Accepting(listening, self._admit, lambda: not self._must_wait())
        self.sockets = self._listening.sockets
        self._connected = connected
        self._limits = limits
        self._refused = refused
        self._freed = freed
        self._tracer = tracer
        self._tls: Final[dict[str, Any]] = _handshake(tls) if tls is not None else {}
        self._loop = asyncio.get_running_loop()
        self._taken = 0
        self._by_host: Counter[str] = Counter()
        self._hosts: dict[Socket, str] = {}
        """The connections that are there, and the address that each counts for."""
        self._arriving: set[asyncio.Task[None]] = set()
        self._serving = True
        self._listening.look()

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken

    def is_serving(self) -> bool:
        return self._serving

    def close(self) -> None:
        """Accept no more, and give up the handshakes that have not come to an end; connections stay."""
        self._serving = False
        self._listening.close()
        for task in self._arriving:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the handshakes that :meth:`close` gave up are gone."""
        if self._arriving:
            await asyncio.wait(self._arriving)

    def release(self, socket: Socket) -> None:
        """The connection over ``socket`` has ended: its place is free. What has no place is no matter."""
        if (host := self._hosts.pop(socket, None)) is not None:
            self._free(host)

    def adopt(self, connected: sockets.socket) -> None:
        """Serve a connected socket that somebody else accepted: as one of its own, but it cannot wait for a place.

        It is closed at once where there is none, where it was reset meanwhile, and once this is closed.
        """
        try:
            connected.setblocking(False)
            address = connected.getpeername()
        except OSError:
            self._close(connected)
            return
        if self._serving:
            self._admit(connected, address)
        else:
            self._close(connected)

    # --- accepting ----------------------------------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        """Whether the next has to stay in the backlog."""
        return self._taken >= self._limits.max_connections and not self._limits.refuse_connections

    def _admit(self, accepted: sockets.socket, address: object) -> None:
        host, where = address[0] if isinstance(address, tuple) else "", named(address)
        limits, most = self._limits, self._limits.max_connections_per_peer
        if self._taken >= limits.max_connections:
            self._refuse(accepted, "max_connections", f"{where} was closed: there are {self._taken} already")
            return
        if most is not None and host and self._by_host[host] >= most:
            self._refuse(accepted, "max_connections_per_peer", f"{where} was closed: its host has {most} already")
            return
        self._taken += 1
        self._by_host[host] += 1
        protocol = SocketProtocol(self._tracer, lambda connected: self._arrived(connected, host))
        task = self._loop.create_task(self._welcome(accepted, protocol, where), name="accept")
        self._arriving.add(task)
        task.add_done_callback(lambda done: self._welcomed(done, accepted, protocol, host))

    def _refuse(self, accepted: sockets.socket, limit: str, why: str) -> None:
        self._close(accepted)
        self._refused(limit)
        logger.info("the connection of %s (Limits.%s)", why, limit)

    async def _welcome(self, accepted: sockets.socket, protocol: SocketProtocol, where: str) -> None:
        """See one client through its handshake."""
        if accepted.family != sockets.AF_UNIX:
            # asyncio does so where a socket says that it is TCP's, which one that accept() gave often does not: a head
            # and the body after it would be 40 ms apart.
            with suppress(OSError):  # it was reset meanwhile
                accepted.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, True)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except OSError as error:  # among them every error of ssl
            logger.info("%s", tls_failed(error, where))
        if protocol.refused is not None:
            logger.info("%s", protocol.refused)

    def _welcomed(
        self, task: asyncio.Task[None], accepted: sockets.socket, protocol: SocketProtocol, host: str
    ) -> None:
        # In a callback: a task that is cancelled before its first step never runs its "finally".
        self._arriving.discard(task)
        if not protocol.is_connected:
            accepted.close()
            self._free(host)

    def _arrived(self, protocol: SocketProtocol, host: str) -> None:
        self._hosts[protocol.transport] = host
        self._connected(protocol)

    def _free(self, host: str) -> None:
        self._taken -= 1
        self._by_host[host] -= 1
        if not self._by_host[host]:
            del self._by_host[host]
        self._tell_freed()
        self._listening.look()

    def _close(self, unserved: sockets.socket) -> None:
        unserved.close()
        self._tell_freed()

    def _tell_freed(self) -> None:
        if self._freed is not None:
            self._loop.call_soon(self._freed)  # what it raises is none of ours


def named(address: object) -> str:
    """How a log names the client at a socket's address."""
    return shown(address) if isinstance(address, tuple) else "a client of the Unix socket"


def _handshake(tls: TlsSide) -> dict[str, Any]:
    """How asyncio is told of TLS."""
    return {
        "ssl": tls.context,
        "ssl_handshake_timeout": tls.handshake_timeout,
        "ssl_shutdown_timeout": tls.shutdown_timeout,
    }


async def listen(
    tracer: Tracer,
    connected: Callable[[SocketProtocol], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    path: str | None = None,
    given: list[sockets.socket] | None = None,
    limits: Limits | None = None,
    tls: TlsSide | None = None,
    refused: Callable[[str], object] = id,
    freed: Callable[[], object] | None = None,
) -> Acceptor:
    """Listen on a TCP port (0: any free one) or a Unix socket; ``connected`` gets each client. Raises ListenFailed.

    ``given`` are sockets that listen already, instead. ``refused`` gets the name of the limit for which a client was
    closed at once; ``freed`` is called for each that has ended.
    """
    limits = limits if limits is not None else Limits()
    listening = given if given is not None else await _bind(host, port, path)
    for each in listening:
        each.setblocking(False)
    allow_open_files(limits.max_connections)
    return Acceptor(listening, connected, limits=limits, tracer=tracer, tls=tls, refused=refused, freed=freed)


async def _bind(host: str, port: int, path: str | None) -> list[sockets.socket]:
    where = f"the Unix socket {path}" if path is not None else f"{host}:{port}"
    try:
        return [bind_unix(path)] if path is not None else await bind_tcp(host, port)
    except (OSError, OverflowError, ValueError) as error:
        raise ListenFailed.because(f"cannot listen on {where}: {reason_of(error)}", error) from error


def allow_open_files(connections: int) -> None:
    """Raise the process's soft limit of open files to the hard one, and warn where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems have a limit of their own besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < connections + SPARE_FILES:
        logger.warning(
            "this process may open %d files, too few for max_connections=%d: raise the limit (ulimit -n) to %d",
            soft, connections, connections + SPARE_FILES,
        )  # fmt: skip
