"""A server: a listener, its connections, their figures, and a drain when it is left."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Self

from attrs import frozen

from actors.acceptor import Acceptor, listen
from actors.actor import get_state
from actors.errors import Closed, ErrorCode, LinkError, Misuse
from actors.handling import serve
from actors.listener import ListenerActor
from actors.mailbox import check_loop, closed_error
from actors.memory import check_quota
from actors.messages import ActorState, ChangeLimits, Drain, Socket
from actors.server_stream import Handler
from actors.serving import ServerConnection
from actors.settings import Health, Limits, Tls, check_debug, check_health, check_limits
from actors.stats import ConnectionStats
from actors.tls import TlsSide, server_side
from actors.trace import Recorder, Tracer, flight_recorder
from supervisor.census import Plain, census
from supervisor.explanation import Explanation
from supervisor.health import PingMonitor, PingStrikes
from supervisor.inspection import look
from supervisor.served import ServedConnection, check_connected
from supervisor.stats import ServerStats
from supervisor.tracing.capture import BYTES, EVENTS, SECONDS, Capture, Chooser, Sink
from supervisor.tracing.dossiers import Dossiers
from supervisor.tracing.records import Trace
from supervisor.tracing.snapshot import take
from supervisor.why import explain

logger: Final = logging.getLogger("muxlink.server")

HOST: Final = "127.0.0.1"
NOWHERE: Final = "none: the server listens to nothing, its connections come by adopt()"
"""The URL of a server that was given no socket to listen on."""
_numbers: Final = itertools.count(1)


@frozen
class DrainReport:
    """What became of a drain."""

    cut: tuple[str, ...]
    """The names of the streams that had not finished when their time was up."""
    finished: int = 0
    """Streams that ended before, from the beginning of the drain on."""
    seconds: float = 0.0
    """How long it took, until the last connection was closed."""


class Server:
    """Serves HTTP/2, over TLS or with prior knowledge, each stream in a task of its own that runs ``handler``.

    ``async with`` listens on entering; on leaving it takes no more, gives what is open ``limits.drain_timeout`` seconds
    to finish, and closes. Raises Misuse at once for what cannot work, and ListenFailed on entering.
    """

    def __init__(
        self,
        handler: Handler,
        host: str = HOST,
        port: int = 0,
        *,
        path: str | None = None,
        sockets: Sequence[socket.socket] | None = None,
        tls: Tls | None = None,
        limits: Limits | None = None,
        health: Health | None = None,
        freed: Callable[[], object] | None = None,
        connected: Callable[[ServedConnection], object] | None = None,
        record: bool = True,
        dossiers: str | os.PathLike[str] | Dossiers | None = None,
    ) -> None:
        """``port`` 0 takes any free one; ``path`` serves on a Unix socket there instead of ``host`` and ``port``.

        ``sockets`` listen already, and are used instead of all three: the server closes them, but removes no file. With
        none at all, connections come by :meth:`adopt`. ``freed`` is called once for each connection that has ended,
        also for one that was refused, or never got through its handshake. ``connected`` is called once for each that is
        served, before its first stream, with its handle; what it raises is logged and ends that connection with
        INTERNAL_ERROR, and no other.

        The files that ``tls`` names are read at once, and never again. ``health`` says when silent clients are asked
        for a sign of life, and how often clients may ask us. ``record`` keeps the newest messages of all actors in the
        event loop's flight recorder (:func:`~actors.trace.flight_recorder`). ``dossiers`` is a directory of its own for
        a file about each actor that crashes.
        """
        if type(port) is not int or not 0 <= port <= 65_535:
            raise Misuse(f"a port is from 0 to 65535, not {port!r}")
        if path is not None and (not isinstance(path, str) or not path):
            raise Misuse(f"a path is that of a Unix socket, not {path!r}")
        if not isinstance(host, str) or not host:
            raise Misuse(f"a host is a name or an address, not {host!r}: 127.0.0.1 for this machine, 0.0.0.0 for all")
        if sockets is not None and (path is not None or port or host != HOST):
            raise Misuse("a server with sockets of yours listens to those: give it no host, port or path")
        self._given = None if sockets is None else [_listening(each) for each in sockets]
        self.limits = limits if limits is not None else Limits()
        self.health = health if health is not None else Health()
        check_health(self.health)
        self.tracer = Tracer()
        """The hook that sees every message of the server's actors."""
        self._dossiers = dossiers if isinstance(dossiers, Dossiers) or dossiers is None else Dossiers(dossiers)
        if self._dossiers is not None:
            self._dossiers.watch(self.tracer)
        self.host = host
        self.path = path
        self._port = port
        self._unix = path
        if self._given:
            address = self._given[0].getsockname()
            if isinstance(address, tuple):
                self.host, self._port = address[:2]
            else:
                self._unix = os.fsdecode(address)
        self._tls: TlsSide | None = server_side(tls, self.limits) if tls is not None else None
        self._listener = ListenerActor(
            f"server-{next(_numbers)}", serve(handler), limits=self.limits, tracer=self.tracer, released=self._released,
            monitor=partial(PingMonitor, self.health), doorkeeper=partial(PingStrikes, self.health),
            began=self._began_to_serve if connected is not None else None,
        )  # fmt: skip
        check_connected(connected)
        self._connected = connected
        self._freed = freed
        self._record = record
        self._sockets: Acceptor | None = None
        self._entered = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._closing: float | None = None
        self._before = 0
        """Handlers that had ended when it began to close."""

    @property
    def name(self) -> str:
        """What its actor is called, with whose name those of its connections begin."""
        return self._listener.name

    @property
    def port(self) -> int:
        """The port that it listens on, or did; 0 for a Unix socket, and where it listens to nothing."""
        return self._port if self.path is None else 0

    @property
    def url(self) -> str:
        """Where a :class:`~supervisor.link.Link` finds it; of several sockets, at the first."""
        if self._given is not None and not self._given:
            return NOWHERE
        if self._unix is not None:
            return f"unix:{self._unix}"
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"

    async def state(self) -> ActorState:
        """How its listener is, and the names of its connections. Raises Closed before and after its time."""
        if self._sockets is None or self._listener.exited is not None:
            raise Closed("the server is not running")
        check_loop(self.name, self._loop)
        return await get_state(self._listener.ref)

    async def census(self) -> list[Plain]:
        """Its actors, each behind its parent, as :func:`~supervisor.census.census` gives them; none where none live."""
        check_loop(self.name, self._loop)
        return await census(self._listener.ref) if self._began is not None else []

    async def why(self, stream: str | None = None) -> list[Explanation]:
        """For each stream that waits: what for, since when, and who could end it; none where none does.

        With ``stream``, the name of one such as ``server-1/connection-3/stream-5``, about that alone, also where it
        merely runs.
        """
        check_loop(self.name, self._loop)
        if self._began is None or self._listener.exited is not None:
            return []
        return explain(await look(self._listener.name, self._listener.children.values()), stream)

    def trace(self, *, process: str = "") -> Trace:
        """What the flight recorder holds of its actors' messages; ``process`` is what the trace calls this one.

        Raises Misuse where nothing is recorded.
        """
        return self.recorded(process=process)()

    def recorded(self, *, process: str = "") -> Callable[[], Trace]:
        """Take at once what :meth:`trace` is made of; what is returned makes that, in any thread."""
        if not self._record:
            raise Misuse("the server's messages are not recorded: make it with record=True")
        return take(
            self.tracer.recorder or Recorder(), process=process, prefix=self._listener.name, clock=self.tracer.clock,
            living=self._living(),
        )  # fmt: skip

    def capture(
        self,
        target: str | os.PathLike[str] | Sink,
        *,
        events: int = EVENTS,
        seconds: float = SECONDS,
        bytes: int = BYTES,
        payloads: bool = False,
        for_replay: bool = False,
        filter: Chooser | None = None,
    ) -> Capture:
        """Write all messages of its actors to a new file, as JSON Lines, inside ``async with``.

        It ends by itself after so many events, seconds or bytes. ``payloads`` adds bodies and the values of headers,
        and ``for_replay`` what a replay needs, which has them, too.
        """
        return Capture(
            target, events=events, seconds=seconds, bytes=bytes, payloads=payloads, for_replay=for_replay,
            filter=filter, prefix=self._listener.name,
        ).of(lambda: (self.tracer, self._living()))  # fmt: skip

    def _living(self) -> tuple[ConnectionStats, ...]:
        return self.stats().connection_stats

    def stats(self) -> ServerStats:
        """Its figures as they are, at any time: also before it is entered, and once it is closed."""
        now = self._loop.time() if self._loop is not None else 0.0
        if self._began is None:
            state, uptime = "new", 0.0
        elif self._ended is not None:
            state, uptime = "closed", self._ended - self._began
        else:
            state, uptime = "serving" if self._closing is None else "draining", now - self._began
        listener = self._listener
        return ServerStats.of(
            listener.measure(now), listener.round_trips(), state=state, uptime=uptime, totals=listener.totals,
            quota=listener.quota, surplus=listener.surplus,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        if self._entered:
            raise Misuse("a Server serves once: make another")
        self._entered = True
        self._loop = asyncio.get_running_loop()
        if self._record:
            self.tracer.record(flight_recorder(self._loop))
        self._sockets = await listen(
            self.tracer, self._listener.connected, host=self.host, port=self._port, path=self.path,
            given=self._given, limits=self.limits, tls=self._tls, refused=self._listener.totals.refuse,
            freed=self._freed,
        )  # fmt: skip
        if self.path is None and self._given is None:
            self._port = self._sockets.sockets[0].getsockname()[1]
        self._listener.start()
        self._began = self._loop.time()
        return self

    def _released(self, socket: Socket) -> None:
        """A connection has ended: another may come."""
        if self._sockets is not None:
            self._sockets.release(socket)

    def _began_to_serve(self, connection: ServerConnection) -> None:
        served = ServedConnection(connection.name, connection.peer, connection.ref, connection.measure)
        try:
            if self._connected is not None:
                self._connected(served)
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            logger.error("%s is ended: Server(connected=...) failed for it", served.name, exc_info=error)
            served.end(Closed("the server failed to begin with the connection"), code=ErrorCode.INTERNAL_ERROR)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def adopt(self, connected: socket.socket) -> None:
        """Serve a connected socket that somebody else accepted: it is this server's from now on.

        TLS and limits are as for those that it accepts itself; but it is closed at once where ``max_connections`` are
        there, since it cannot wait, and where the server has begun to close. Raises Misuse, and leaves the socket
        alone, for what is no connected stream socket, and before the server is entered.
        """
        _check_connected(connected)
        check_loop(self.name, self._loop)
        if self._sockets is None:
            raise Misuse("the server has not begun to serve: enter it (async with), then let it adopt")
        self._sockets.adopt(connected)

    async def wait(self) -> None:
        """Wait until it has ended. Raises what its listener ended with, where that was not :meth:`close`."""
        check_loop(self.name, self._loop)
        exited = await self._listener.wait()
        if exited.crashed:
            raise closed_error(exited.name, exited.reason)

    def change_limits(self, limits: Limits) -> None:
        """Let other limits hold: for later connections at once, for those that are open as each acknowledges them.

        Does not wait for the clients, which may take their time. What a listener was made for, such as
        ``max_connections``, stays; ``peer_bytes`` holds from the next connection of a peer on where there was none.
        """
        check_limits(limits)
        check_quota(limits)
        check_loop(self.name, self._loop)
        self.limits = limits
        self._listener.tell(ChangeLimits(limits))

    async def close(self, drain: float | None = None, *, debug: bytes = b"") -> DrainReport:
        """Drain for ``drain`` seconds (``limits.drain_timeout``) and close; the second call waits for the first.

        ``debug`` goes into each GOAWAY, for the people who look after the clients; of it the first 512 bytes are sent.
        Returns what did and did not finish. Cancelling it closes at once. Raises Misuse for a time that is none.
        """
        check_debug(debug)
        check_loop(self.name, self._loop)
        if drain is not None and (type(drain) not in (int, float) or not drain >= 0):
            raise Misuse(f"a time for draining is a number of seconds, not {drain!r}")
        if self._sockets is None:
            for each in self._given or ():
                each.close()
            self._entered |= bool(self._given)
            return DrainReport(())
        if self._sockets.is_serving():
            self._sockets.close()
            if self.path is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self.path)
        seconds = self.limits.drain_timeout if drain is None else drain
        loop, quota = asyncio.get_running_loop(), self._listener.quota
        if self._closing is None:
            self._closing, self._before = loop.time(), quota.begun - quota.handlers
        closed: LinkError = Closed("the server was closed")
        try:
            self._listener.ref.tell(Drain(seconds, closed, debug))
            async with asyncio.timeout(seconds + 2 * self.limits.shutdown_timeout):
                await self._listener.wait()
        except TimeoutError:
            await self._listener.stop(closed)
        except asyncio.CancelledError:
            await self._listener.stop(closed)
            raise
        finally:
            await self._sockets.wait_closed()
            if self._ended is None:
                self._ended = loop.time()
            if self._dossiers is not None:
                await self._dossiers.flush()
        cut = tuple(self._listener.cut)
        return DrainReport(cut, quota.begun - self._before - len(cut), self._ended - self._closing)


def _listening(given: socket.socket) -> socket.socket:
    """The socket, which listens. Raises Misuse for any other."""
    _check_stream(given, "a socket to serve on listens")
    if not _listens(given):
        raise Misuse(f"a socket to serve on listens, not {given!r}: call its listen() first")
    return given


def _check_connected(given: socket.socket) -> None:
    """Raise Misuse for what never was a connected stream socket; one that was reset since was one."""
    wanted = "a socket to adopt is connected"
    _check_stream(given, wanted)
    try:
        given.getpeername()
    except OSError as error:
        address = given.getsockname()
        # A reset connection has no peer any more, but keeps its port, which one that was never connected does not have.
        if _listens(given) or not isinstance(address, tuple) or not address[1]:
            raise Misuse.because(f"{wanted}, not {given!r}", error) from error


def _check_stream(given: socket.socket, wanted: str) -> None:
    if not isinstance(given, socket.socket):
        raise Misuse(f"{wanted}, not {given!r}: give a socket.socket")
    if isinstance(given, ssl.SSLSocket):
        raise Misuse(f"{wanted}, but not an SSLSocket: the server's own tls encrypts it")
    if given.fileno() < 0:
        raise Misuse(f"{wanted}, not closed")
    if given.type != socket.SOCK_STREAM or given.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise Misuse(f"{wanted}, and is a stream of TCP or of a Unix socket, not {given!r}")


def _listens(given: socket.socket) -> bool:
    return bool(given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
