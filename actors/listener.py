"""A listener: sockets in, connections out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, assert_never

from actors.actor import Stop
from actors.errors import LinkError
from actors.mailbox import Understood
from actors.messages import (
    AlternativeOffered,
    ConnectionDraining,
    ConnectionReady,
    Drain,
    Exited,
    ListenerMessage,
    SocketAccepted,
    StreamsCut,
)
from actors.serving import ServerConnection
from actors.settings import Limits
from actors.stream import Body
from actors.trace import Tracer
from actors.transport import SocketProtocol
from actors.turns import TurnActor

logger: Final = logging.getLogger("muxlink.listener")


class ListenerActor(TurnActor[ListenerMessage]):
    """Starts a connection actor for each client of the sockets that it was given, until it drains."""

    __slots__ = ("_closing", "_handler", "_limits", "_numbers", "accepted", "cut")

    understands: ClassVar[Understood] = ListenerMessage

    def __init__(self, name: str, handler: Body, *, limits: Limits, tracer: Tracer | None = None) -> None:
        # Its connections end within their own shutdown time, each, at the same time.
        super().__init__(name, tracer, shutdown_timeout=2 * limits.shutdown_timeout)
        self.accepted = 0
        self.cut: list[str] = []
        """The streams that had not finished when their time for draining was up."""
        self._handler = handler
        self._limits = limits
        self._numbers: Iterator[int] = itertools.count(1)
        self._closing: LinkError | None = None

    def connected(self, protocol: SocketProtocol) -> None:
        """What the listening sockets call for each client; the way in from outside."""
        if self.tracer.on:
            self.tracer.speak_as("socket")
        told = self.tell(SocketAccepted(protocol.attach, protocol.transport, protocol.peer))
        if not told:
            protocol.transport.abort()

    def receive(self, message: ListenerMessage) -> None:
        match message:
            case SocketAccepted(attach, socket, peer):
                if self._closing is not None:
                    socket.abort()
                    return
                self.accepted += 1
                connection = ServerConnection(
                    f"{self.name}/connection-{next(self._numbers)}", socket, self._handler, peer=peer,
                    limits=self._limits, owner=self.ref, tracer=self.tracer,
                )  # fmt: skip
                ref = self.start_child(connection)
                attach(ref)
            case Drain(_, error):
                self._closing = error
                for child in self.children.values():
                    child.tell(message)
            case Exited(name, reason):
                logger.debug("%s ended: %s", name, reason)
            case StreamsCut(_, streams):
                self.cut += streams
            case ConnectionReady() | ConnectionDraining() | AlternativeOffered():
                pass
            case _:
                assert_never(message)

    def settle(self) -> None:
        if self._closing is not None and not self.children:
            raise Stop(self._closing)

    def unheard(self, message: ListenerMessage) -> None:
        if isinstance(message, SocketAccepted):
            message.socket.abort()  # nobody is left to serve it

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {"accepted": self.accepted}
