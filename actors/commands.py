"""What a stream can have done to the wire: one class is one command, its data and its ``apply``.

To add a command, write a class here. Each tolerates a stream that has closed meanwhile: its wire method does nothing.
"""

from __future__ import annotations

from attrs import field, frozen

from actors.errors import ErrorCode, code_name
from actors.headers import Pair
from actors.messages import ConnectionFact
from actors.wire import Wire


class WireCommand:
    """A message to a connection that acts on its wire."""

    # No ABC: its isinstance() costs five times as much, once for every command.
    __slots__ = ()

    def apply(self, wire: Wire) -> None:
        """Act; called only in the turn of the connection that owns ``wire``."""
        raise NotImplementedError


@frozen
class SendHead(WireCommand):
    """A response's head, informational or final."""

    stream_id: int
    head: list[Pair] = field(repr=False)

    def apply(self, wire: Wire) -> None:
        wire.send_head(self.stream_id, self.head, end=False)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {_status(self.head)}"


@frozen
class SendData(WireCommand):
    """A piece of a body; its sender has counted it as queued, so that nothing is uncounted on its way."""

    stream_id: int
    data: bytes | memoryview = field(repr=False)
    end: bool = False
    """Whether it is the last, and ends our side."""

    def apply(self, wire: Wire) -> None:
        wire.terms.memory.give(len(self.data))
        wire.send_data(self.stream_id, self.data, end=self.end)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {len(self.data)} bytes" + (", ended" if self.end else "")


@frozen
class EndStream(WireCommand):
    """The end of our side, with trailers or without."""

    stream_id: int
    trailers: list[Pair] = field(repr=False)

    def apply(self, wire: Wire) -> None:
        wire.send_data(self.stream_id, b"", end=True, trailers=self.trailers or None)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {len(self.trailers)} trailers"


@frozen
class Respond(WireCommand):
    """A whole response at once: head, body, trailers, end; its body was counted as a piece's is."""

    stream_id: int
    head: list[Pair] = field(repr=False)
    body: bytes | memoryview = field(repr=False)
    trailers: list[Pair] = field(repr=False)

    def apply(self, wire: Wire) -> None:
        wire.terms.memory.give(len(self.body))
        end = not self.body and not self.trailers
        wire.send_head(self.stream_id, self.head, end=end)
        if not end:
            wire.send_data(self.stream_id, self.body, end=True, trailers=self.trailers or None)

    def summary(self) -> str:
        # One for each request: a call of _status() would be a fifth of it.
        status = self.head[0][1].decode("latin-1")
        return f"stream {self.stream_id}: {status}, {len(self.body)} bytes, {len(self.trailers)} trailers"


@frozen
class ResetStream(WireCommand):
    """RST_STREAM; what was queued is dropped."""

    stream_id: int
    code: int = ErrorCode.CANCEL

    def apply(self, wire: Wire) -> None:
        wire.reset(self.stream_id, self.code)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {code_name(self.code)}"


@frozen
class ReturnCredit(WireCommand):
    """``size`` bytes were read: the peer may send as many more."""

    stream_id: int
    size: int

    def apply(self, wire: Wire) -> None:
        wire.return_credit(self.stream_id, self.size)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {self.size} bytes"


@frozen
class Weigh(WireCommand):
    """Share our bandwidth by another weight; a client tells the server with PRIORITY."""

    stream_id: int
    weight: int
    depends_on: int = 0
    exclusive: bool = False

    def apply(self, wire: Wire) -> None:
        wire.weigh(self.stream_id, self.weight, depends_on=self.depends_on, exclusive=self.exclusive)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {self.weight}"


@frozen
class OfferAlternative(WireCommand):
    """ALTSVC: where else the stream's resource, or all of an ``origin``, is served."""

    stream_id: int
    origin: bytes
    value: bytes

    def apply(self, wire: Wire) -> None:
        wire.offer_alternative(self.stream_id, self.origin, self.value)

    def summary(self) -> str:
        return f"stream {self.stream_id}: {self.value.decode('latin-1')}"


ConnectionMessage = ConnectionFact | WireCommand
"""All that a connection understands."""


def _status(head: list[Pair]) -> str:
    return head[0][1].decode("latin-1")
