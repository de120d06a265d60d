"""What went over a connection's wire, as its trace shows it: the heads of frames, numbered in each direction.

TCP keeps the order, so the n-th frame that one end sends is the n-th that arrives at the other: two traces can be laid
beside each other by that alone. Works only while somebody traces, and holds no payload.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from actors.frames import HEADER_SIZE, PREFACE
from actors.messages import ConnectionBegan, FramesArrived, FramesSent, Peer
from actors.trace import Tracer
from actors.wire import Wire

FRAMES_PER_EVENT: Final = 64
"""Frames that one event of the trace tells of, so that its size is bounded."""
UNKNOWN: Final = 0
"""The number of a frame before which others went out unseen."""


class FrameLog:
    """Tells a tracer what goes over one wire."""

    __slots__ = ("_blind", "_name", "_sent", "_tracer", "_wire")

    def __init__(self, name: str, tracer: Tracer, wire: Wire) -> None:
        self._name = name
        self._tracer = tracer
        self._wire = wire
        self._sent = 0
        self._blind = False

    def began(self, local: str, peer: Peer, monitor: object = None) -> None:
        """The connection has its socket."""
        tracer, wire = self._tracer, self._wire
        speaker, event = tracer.actor, tracer.event
        tracer.speak_as("socket", event)
        side = "client" if wire.client else "server"
        message = ConnectionBegan(side, local, peer.address, peer.alpn, wire.limits, wire.push_allowed, monitor)
        began = tracer.noted(self._name, message)
        tracer.speak_as(speaker, began)

    def watch(self, yes: bool) -> None:
        """Note the frames that are read from now on, or no more."""
        if yes is (self._wire.heads is None):
            self._wire.heads = [] if yes else None

    def arrived(self) -> None:
        """Tell of the frames that were read since the last call; what they say is told because of that."""
        heads = self._wire.heads
        if not heads:
            return
        tracer = self._tracer
        first = self._wire.frames_arrived - len(heads) + 1
        tracer.actor = "socket"
        tracer.event = tracer.noted(self._name, FramesArrived(first, b"".join(heads)))
        tracer.actor = self._name
        heads.clear()

    def sent(self, data: bytes) -> None:
        """Tell of what goes out: whole frames, and the client's preface before the first."""
        heads = _heads(data)
        for at in range(0, len(heads), FRAMES_PER_EVENT):
            some = heads[at : at + FRAMES_PER_EVENT]
            first = UNKNOWN if self._blind else self._sent + 1
            self._tracer.noted("socket", FramesSent(first, b"".join(some)))
            self._sent += len(some)

    def missed(self) -> None:
        """Something went out while nobody traced."""
        self._blind = True


_FOUR_BYTES: Final = Struct(">I").unpack_from


def _heads(data: bytes) -> list[bytes]:
    heads, end = [], len(data)
    at = len(PREFACE) if data.startswith(PREFACE) else 0
    while at < end:
        heads.append(data[at : at + HEADER_SIZE])
        at += HEADER_SIZE + (_FOUR_BYTES(data, at)[0] >> 8)  # the length has three of them
    return heads
