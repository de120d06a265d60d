"""A listener: sockets in, connections out, and what they share and did."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final, assert_never

from actors.actor import Stop
from actors.errors import LinkError
from actors.mailbox import Ref, Understood
from actors.memory import Quota, Share, check_quota
from actors.messages import (
    AlternativeOffered,
    ChangeLimits,
    ConnectionAlive,
    ConnectionDraining,
    ConnectionFact,
    ConnectionReady,
    ConnectionSuspect,
    Drain,
    Exited,
    ListenerMessage,
    Peer,
    PeerAllows,
    Socket,
    SocketAccepted,
    StreamsCut,
)
from actors.pulse import Doorkeeper, Monitor
from actors.serving import ServerConnection
from actors.settings import Limits
from actors.stats import ConnectionStats, Totals
from actors.stream import Body
from actors.trace import Tracer
from actors.transport import SocketProtocol
from actors.turns import TurnActor

logger: Final = logging.getLogger("muxlink.listener")


class _Served:
    """What a listener knows of one of its connections."""

    __slots__ = ("guard", "measure", "round_trips", "share", "socket")

    def __init__(self, connection: ServerConnection, socket: Socket) -> None:
        self.socket = socket
        self.share: Share = connection.share
        self.guard = connection.wire.guard
        self.round_trips = connection.round_trips
        self.measure: Callable[[float], ConnectionStats] = connection.measure


class ListenerActor(TurnActor[ListenerMessage]):
    """Starts a connection actor for each client of the sockets that it was given, until it drains."""

    __slots__ = (
        "_began", "_closing", "_connections", "_doorkeeper", "_handler", "_limits", "_monitor", "_numbers", "_released",
        "cut", "quota", "totals",
    )  # fmt: skip

    understands: ClassVar[Understood] = ListenerMessage

    def __init__(
        self,
        name: str,
        handler: Body,
        *,
        limits: Limits,
        tracer: Tracer | None = None,
        released: Callable[[Socket], object] = id,
        monitor: Callable[[], Monitor] | None = None,
        doorkeeper: Callable[[], Doorkeeper] | None = None,
        began: Callable[[ServerConnection], object] | None = None,
    ) -> None:
        """``released`` is called with each socket that was accepted, once its connection has ended.

        ``monitor`` and ``doorkeeper`` make the ones of each connection; without them it sends no PING for its health,
        and takes as many as come. ``began`` is called with each connection before it has read anything; it must not
        raise. Raises Misuse for limits of which one makes another meaningless.
        """
        check_quota(limits)
        # Its connections end within their own shutdown time, each, at the same time.
        super().__init__(name, tracer, shutdown_timeout=2 * limits.shutdown_timeout)
        self.totals = Totals()
        """Without what the living connections did: :meth:`measure` has that."""
        self.quota = Quota(limits)
        """What its connections share."""
        self.cut: list[str] = []
        """The streams that had not finished when their time for draining was up."""
        self._handler = handler
        self._limits = limits
        self._monitor = monitor
        self._doorkeeper = doorkeeper
        self._began = began
        self._numbers: Iterator[int] = itertools.count(1)
        self._released = released
        self._connections: dict[str, _Served] = {}
        self._closing: LinkError | None = None

    def connected(self, protocol: SocketProtocol) -> None:
        """What the listening sockets call for each client; the way in from outside."""
        tracer = self.tracer
        tracer.speak_as("socket")
        told = self.tell(SocketAccepted(protocol.attach, protocol.transport, protocol.peer))
        tracer.speak_as("caller")
        if not told:
            self._refuse(protocol.transport)

    def _refuse(self, socket: Socket) -> None:
        socket.abort()
        self._released(socket)

    def receive(self, message: ListenerMessage) -> None:
        match message:
            case SocketAccepted(attach, socket, peer):
                if self._closing is not None:
                    self._refuse(socket)
                    return
                self._serve(attach, socket, peer)
            case Drain(_, error):
                self._closing = error
                for child in self.children.values():
                    child.tell(message)
            case ChangeLimits(limits):
                self._limits = limits
                self.quota.change(limits)
                for child in self.children.values():
                    child.tell(message)
            case Exited():
                self._bury(message)
            case StreamsCut(_, streams):
                self.cut += streams
            case (
                ConnectionReady() | ConnectionDraining() | AlternativeOffered() | PeerAllows() | ConnectionSuspect()
                | ConnectionAlive()
            ):  # fmt: skip
                pass
            case _:
                assert_never(message)

    def _serve(self, attach: Callable[[Ref[ConnectionFact]], None], socket: Socket, peer: Peer) -> None:
        self.totals.accepted += 1
        connection = ServerConnection(
            f"{self.name}/connection-{next(self._numbers)}", socket, self._handler, peer=peer, limits=self._limits,
            owner=self.ref, quota=self.quota, host=_host_of(socket), tracer=self.tracer,
            monitor=self._monitor() if self._monitor is not None else None,
            doorkeeper=self._doorkeeper() if self._doorkeeper is not None else None,
        )  # fmt: skip
        self._connections[connection.name] = _Served(connection, socket)
        ref = self.start_child(connection)
        if self._began is not None:
            self._began(connection)
        attach(ref)

    def settle(self) -> None:
        if self._closing is not None and not self.children:
            raise Stop(self._closing)

    def _late(self, message: object) -> None:
        if isinstance(message, Exited):
            self._bury(message)
        super()._late(message)

    def _bury(self, exited: Exited) -> None:
        """A connection has ended: its place is free, and what it did is remembered."""
        logger.debug("%s ended: %s", exited.name, exited.reason)
        ended = self._connections.pop(exited.name)
        self.quota.leave(ended.share)
        self._released(ended.socket)
        totals = self.totals
        totals.bury(ended.measure(0.0), exited.reason)
        totals.streams_refused += ended.guard.refused
        if ended.guard.refused:
            totals.refusals["max_streams"] += ended.guard.refused
        if ended.guard.tripped:
            totals.refusals[ended.guard.tripped] += 1

    def measure(self, now: float) -> tuple[ConnectionStats, ...]:
        """The figures of each connection that has not ended."""
        return tuple(served.measure(now) for served in self._connections.values())

    def round_trips(self) -> Iterator[float]:
        """Seconds of the last PINGs of those."""
        return itertools.chain.from_iterable(served.round_trips.seconds for served in self._connections.values())

    @property
    def surplus(self) -> int:
        """Streams above ``max_streams`` that were refused on the connections that have not ended."""
        return sum(served.guard.refused for served in self._connections.values())

    def unheard(self, message: ListenerMessage) -> None:
        if isinstance(message, SocketAccepted):
            self._refuse(message.socket)  # nobody is left to serve it

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {"accepted": self.totals.accepted, "handlers": self.quota.handlers}


def _host_of(socket: Socket) -> str:
    """The address of the peer's host; empty for a Unix socket's client, which has none."""
    name = socket.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""
