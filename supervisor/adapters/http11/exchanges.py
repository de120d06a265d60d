"""Which request of which thread has which socket."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any, Final

from attrs import define, field

from supervisor.adapters.blocking.errors import CannotSend, Disconnected, ResponseNotReady, TooMuch
from supervisor.adapters.blocking.parts import SAFE
from supervisor.adapters.blocking.turns import Turns
from supervisor.adapters.http11.errors import CannotSendHeader, ConnectedAlready
from supervisor.adapters.http11.wire import Destination, Wire

MOST_EXCHANGES: Final = 128
"""Requests of one connection that may wait for their responses to be fetched."""
MOST_IDLE: Final = 8
"""Idle sockets that a connection keeps."""


@define(eq=False)
class Exchange:
    """One request, from its beginning until its response is fetched."""

    wire: Wire
    thread: threading.Thread
    method: str
    line: dict[str, Any]
    """The other arguments of putrequest."""
    headers: list[tuple[str, bytes]] = field(factory=list)
    framed: bool = False
    """Whether the headers say how long the body is."""
    held: bool = False
    """Whether the head is held back, because it is not known yet whether a body follows."""
    sent: bool = False
    """Whether the headers are complete."""
    chunked: bool = False
    """Whether parts of the body are sent as chunks."""
    reused: bool = False
    """Whether other requests went over the socket before."""
    bodiless: bool = True
    broken: Disconnected | None = None
    """What ended our sending; there may be an answer nevertheless."""

    def repeatable(self) -> bool:
        """Whether a kept connection that the server closed meanwhile allows to send all again (RFC 9112, 9.3.1)."""
        return self.reused and self.bodiless and self.method in SAFE and not self.wire.closed


class Exchanges:
    """The requests and sockets of one connection object."""

    def __init__(self) -> None:
        # It is taken again by a response that is collected while we hold it.
        self._lock: Final = Turns(threading.RLock, self._forked)
        self._idle: Final[list[Wire]] = []
        self._live: weakref.WeakSet[Wire] = weakref.WeakSet()
        self._pending: Final[deque[Exchange]] = deque()
        self._askers: Final[weakref.WeakSet[threading.Thread]] = weakref.WeakSet()
        """Threads that make requests of their own, and so want the responses to no others."""
        self.debug = 0

    def _forked(self) -> None:
        """In a forked child: its parent goes on with every socket, and with every request."""
        for wire in list(self._live):
            wire.leave()
        self._live = weakref.WeakSet()
        self._idle.clear()
        self._pending.clear()

    # --- requests -----------------------------------------------------------------------------------------------------

    def begin(self, to: Destination, method: str, line: dict[str, Any]) -> Exchange:
        """A request of this thread, with a socket that is idle or is still to be connected. Raises CannotSend."""
        mine = threading.current_thread()
        with self._lock:
            if any(each.thread is mine and not each.sent for each in self._pending):
                raise CannotSend("this thread has begun a request: call endheaders() before the next putrequest()")
            if len(self._pending) >= MOST_EXCHANGES:
                raise TooMuch(f"{MOST_EXCHANGES} requests wait for get_response(): fetch their responses first")
            self._askers.add(mine)
            exchange = Exchange(self.take(to), mine, method, line)
            self._pending.append(exchange)
        return exchange

    def mine(self) -> Exchange | None:
        """The request that this thread works on: the last that it began; the last of all where it never began any."""
        with self._lock:
            found = self._of_this_thread()
        return found[-1] if found else None

    def _of_this_thread(self) -> list[Exchange]:
        mine = threading.current_thread()
        if mine in self._askers:
            return [each for each in self._pending if each.thread is mine]
        return list(self._pending)

    def building(self, order: str) -> Exchange:
        """The same, whose headers are not complete. Raises CannotSendHeader."""
        exchange = self.mine()
        if exchange is None or exchange.sent:
            raise CannotSendHeader(order)
        return exchange

    def awaits(self) -> bool:
        """Whether a request of this thread awaits its response."""
        mine = threading.current_thread()
        with self._lock:
            return any(each.thread is mine for each in self._pending)

    def next(self) -> Exchange:
        """The request whose response is fetched next: this thread's oldest; or the oldest of all, where it has none."""
        with self._lock:
            found = next((each for each in self._of_this_thread() if each.sent), None)
            if found is None:
                raise ResponseNotReady(
                    "no request of this thread waits for a response: request() comes before get_response(), and "
                    "close() forgets what was asked"
                )
            self._pending.remove(found)
        return found

    def forget(self, exchange: Exchange) -> None:
        """Give a request up, with its socket."""
        with self._lock:
            if exchange in self._pending:
                self._pending.remove(exchange)
        self.discard(exchange.wire)

    # --- sockets ------------------------------------------------------------------------------------------------------

    def take(self, to: Destination) -> Wire:
        """A socket that is idle, or one that is still to be connected."""
        with self._lock:
            wire = self._idle.pop() if self._idle else Wire(to)
            self._live.add(wire)
        wire.set_debuglevel(self.debug)
        return wire

    def anew(self, wire: Wire) -> Wire:
        """One that is still to be connected, instead of one that broke."""
        self.discard(wire)
        fresh = Wire(wire.to)
        with self._lock:
            self._live.add(fresh)
            if wire.closed:
                fresh.abandon()
        return fresh

    def give_back(self, wire: Wire) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            if not wire.closed and wire.sock is not None and len(self._idle) < MOST_IDLE:
                self._idle.append(wire)
                return
        self.discard(wire)

    def discard(self, wire: Wire) -> None:
        with self._lock:
            self._live.discard(wire)
        wire.drop()

    def any(self) -> bool:
        """Whether there are any."""
        with self._lock:
            return len(self._live) > 0

    def none(self, purpose: str) -> None:
        """Raise ConnectedAlready where there is one."""
        if self.any():
            raise ConnectedAlready(f"there is a connection already: {purpose} before it")

    def drop_idle(self) -> None:
        """Close those that no request goes over."""
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        for wire in idle:
            self.discard(wire)

    def newest(self) -> Wire | None:
        """That of this thread's request, or else one that is idle."""
        exchange = self.mine()
        with self._lock:
            return exchange.wire if exchange is not None else self._idle[-1] if self._idle else None

    def close(self) -> None:
        """Close them all, and forget every request."""
        with self._lock:
            wires, self._live = list(self._live), weakref.WeakSet()
            self._idle.clear()
            self._pending.clear()
        for wire in wires:
            wire.abandon()
