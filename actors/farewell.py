"""How a connection takes leave: when it is old, why it takes no new streams, and what it says last."""

from __future__ import annotations

import random
from typing import Final

from actors.commands import ConnectionMessage
from actors.errors import (
    ErrorCode,
    GoAway,
    LinkError,
    Outcome,
    ProtocolViolation,
    TransportLost,
    code_name,
)
from actors.guard import TOO_MANY_PINGS
from actors.messages import ChangeLimits, OpenStream, PeerGoAway, PushStream, SendPing, StreamFailed
from actors.patience import Deadlines, Wait
from actors.wire import MAX_DEBUG_DATA, Wire

AGE_JITTER: Final = 0.1
"""By which share of its age a connection ends earlier or later, so that many of an age do not end together."""


class Farewell:
    """One connection's leave: from the first cause that it hears of to its last GOAWAY."""

    __slots__ = ("_deadlines", "_wire", "closing", "going", "last_served", "said")

    def __init__(self, wire: Wire, deadlines: Deadlines) -> None:
        self._wire = wire
        self._deadlines = deadlines
        self.going: LinkError | None = None
        """Why no new stream is opened, once that is so."""
        self.closing: LinkError | None = None
        """What the connection ends with when its last stream has finished, once it drains."""
        self.said = False
        """Whether a GOAWAY has named our last stream."""
        self.last_served = 0
        """That stream."""

    def plan(self, age: float | None, since: float, now: float) -> None:
        """Let a connection that began at ``since`` take no new streams from about ``age`` on."""
        self._deadlines.stop(Wait.AGE)
        if age is not None:
            ends = since + age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
            self._deadlines.start(Wait.AGE, max(ends, now))

    def refuse(self, error: LinkError) -> None:
        """Take no new streams, for the first cause that there is."""
        self.going = self.going or error

    def finish(self, error: LinkError) -> None:
        """End when the last stream has finished, with the first cause that there is."""
        self.closing = self.closing or error

    def hear(self, goaway: PeerGoAway, address: str) -> GoAway:
        """The peer at ``address`` says GOAWAY: say it, too, and end with the streams that it will finish."""
        # Escaped: what a peer says must not forge lines in a log.
        text = ascii(goaway.debug[:MAX_DEBUG_DATA].decode("utf-8", "backslashreplace"))
        debug = f": {text}" if goaway.debug else ""
        error = GoAway(
            f"{address} is going away ({code_name(goaway.code)}{debug})", code=goaway.code, debug=goaway.debug
        )
        self.refuse(error)
        self.finish(error)
        if not self.said:
            self.say(ErrorCode.NO_ERROR)
        return error

    def say(self, code: int, debug: bytes = b"") -> None:
        """Say GOAWAY, which names the stream that was the last at the first time."""
        if not self.said:
            self.last_served = self._wire.last_stream_id
        self.said = True
        self._wire.go_away(self.last_served, code, debug)  # which may not rise (RFC 9113, 6.8)

    def say_last(self, reason: BaseException | None) -> None:
        """Say what the connection ends for, unless the peer knows."""
        if isinstance(reason, ProtocolViolation):
            # What a gRPC client looks for says no more (gRPC's proposal A8).
            few = TOO_MANY_PINGS if self._wire.guard.tripped == TOO_MANY_PINGS else None
            self.say(reason.code, (few or str(reason)).encode("utf-8", "replace"))
        elif reason is not None and not isinstance(reason, LinkError):
            self.say(ErrorCode.INTERNAL_ERROR)
        elif not self.said:
            self.say(ErrorCode.NO_ERROR)

    def loss(self, cause: BaseException | None, address: str, *, ready: bool) -> LinkError:
        """What it means that the socket is gone; ``ready`` is whether the peer ever spoke HTTP/2."""
        if isinstance(self.closing, GoAway):
            return TransportLost.because(f"the connection to {address} was closed after GOAWAY", self.closing)
        if self.closing is not None and cause is None:
            return self.closing
        how = f"broke: {str(cause) or type(cause).__name__}" if cause is not None else "was closed by the peer"
        early = "" if ready else " before it said SETTINGS: does it speak HTTP/2 on this port?"
        return TransportLost.because(f"the connection to {address} {how}{early}", cause)


def turn_away(message: ConnectionMessage, error: LinkError) -> None:
    """Tell whoever waits for something of a connection that it came too late."""
    match message:
        case OpenStream(stream):
            stream.tell(StreamFailed(error, Outcome.NOT_SENT))
        case SendPing(reply) if reply is not None:
            reply.fail(error)
        case PushStream(_, _, reply):
            reply.fail(error)
        case ChangeLimits(_, done) if done is not None:
            done.fail(error)
