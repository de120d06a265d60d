"""What both sides' streams have, and the responses that come of them.

What user code holds is in ``server_stream.py`` and ``client_stream.py``: they are the stream actor's face, check the
order of calls and what goes out, and leave the rest to it. What runs in its task is in ``handling.py`` and
``bodies.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

from attrs import field, frozen

from actors.commands import Weigh
from actors.errors import (
    ErrorCode,
    LinkError,
    Misuse,
)
from actors.headers import (
    HeaderInput,
    Headers,
    check_fields,
)
from actors.messages import Peer
from actors.stream import StreamActor

T = TypeVar("T")

ANY_SIZE: Final = 2**31
OutgoingBody = bytes | bytearray | memoryview | Iterable[bytes] | AsyncIterable[bytes]


@frozen
class ResponseHead:
    """The beginning of a response."""

    status: int
    headers: Headers
    informational: tuple[ResponseHead, ...] = ()
    """The 1xx responses before it (RFC 9110, 15.2)."""


@frozen
class Response:
    """A whole response; any status is a response, not an error."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    trailers: Headers
    """Empty where there were none."""
    informational: tuple[ResponseHead, ...] = ()


class Exchange:
    """What both sides have."""

    __slots__ = ("_actor",)

    def __init__(self, actor: StreamActor) -> None:
        self._actor = actor

    @property
    def id(self) -> int:
        """The stream's id (RFC 9113, 5.1.1)."""
        return self._actor.stream_id

    @property
    def connection(self) -> str:
        """The name of its connection, as in traces."""
        return self._actor.connection

    @property
    def peer(self) -> Peer:
        return self._actor.peer

    @property
    def cause(self) -> LinkError | None:
        """What ended the stream badly; None as long as nothing did."""
        return self._actor.error

    @property
    def unread(self) -> int:
        """Bytes of the peer's body that came and were not read."""
        return self._actor.unread

    @property
    def is_over(self) -> bool:
        """Whether both sides have ended or the stream has failed; what came and was not read can still be read."""
        return self._actor.is_over() or self._actor.error is not None

    def when_over(self, call: Callable[[], object]) -> None:
        """Have ``call`` called once that is so, in a turn of the loop of its own."""
        self._actor.when(self._actor.is_over, call)

    async def wait(self) -> LinkError | None:
        """Wait until that is so; returns what the stream failed with, or None."""
        await self._actor.until(self._actor.is_over)
        return self._actor.error

    async def read(self, n: int = -1) -> bytes:
        """The next of the body, up to ``n`` bytes, ``b""`` at the end; without ``n``, all of it to the end.

        Raises LimitReached when all of it is more than the limit, and the stream's error: StreamReset says how many
        bytes had come.
        """
        if type(n) is not int:
            raise Misuse(f"read() takes a number of bytes, not {n!r}")
        self._before_read()
        if n < 0:
            return await self._actor.read_all(self._max_body())
        return await self._actor.read(n)

    async def read_frame(self) -> bytes:
        """The next of the body as it came in one DATA frame, empty ones left out; ``b""`` at the end. Raises as read().

        What a read(n) has left of a frame is one, too.
        """
        self._before_read()
        return await self._actor.read(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._before_read()
        while chunk := await self._actor.read(ANY_SIZE):
            yield chunk

    async def trailers(self) -> Headers:
        """The peer's trailers, once it has ended its side; empty where it sent none. Raises the stream's error.

        Trailers follow the body: read it meanwhile, or its flow control holds them back.
        """
        return await self._actor.read_trailers()

    async def send(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> None:
        """Queue ``data``; returns once there is room for it, so that a slow peer slows the sender.

        ``end`` says that it is the last: its last frame ends our side, which spares a frame and a turn.
        Raises StreamReset when the peer wants no more, with code NO_ERROR if it has answered already; Misuse after the
        end; the stream's error.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise Misuse(f"send() takes bytes, not {type(data).__name__}")
        self._check_sendable()
        await self._actor.send(data, end=end)

    async def end(self, trailers: HeaderInput = ()) -> None:
        """End our side of the stream, with trailers or without. Raises as :meth:`send` does, and InvalidHeaders."""
        fields = check_fields(trailers)
        self._check_sendable()
        self._actor.end(fields)

    @property
    def gone(self) -> int:
        """Bytes of our body that are known to have gone out, of those that :meth:`send` was given.

        Exact as long as no more than half of ``limits.send_buffer`` waits.
        """
        return self._actor.gone

    def goes_at_once(self, size: int) -> bool:
        """Whether the next ``size`` bytes of our body surely go out at once, as the windows are; to be asked once.

        It looks at the window that the stream began with alone, and so says no to what comes after that.
        """
        return self._actor.goes_at_once(size)

    async def until_gone(self, size: int) -> None:
        """Wait until so many bytes of our body have gone out, or the stream is over. Raises the stream's error."""
        await self._actor.until_gone(size)

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up with RST_STREAM (RFC 9113, 6.4); a stream that is over stays as it is."""
        if type(code) not in (int, ErrorCode) or not 0 <= code < 2**32:
            raise Misuse(f"an error code is a number of 32 bits, not {code!r}")
        self._actor.reset(code)

    def prioritize(self, weight: int) -> None:
        """Give our body another share of the connection, from 1 to 256 (16)."""
        check_weight(weight)
        self._actor.command(Weigh(self.id, weight))

    def _max_body(self) -> int:
        raise NotImplementedError

    def _before_read(self) -> None:
        """Do what the first read asks for."""

    def _check_sendable(self) -> None:
        """Raise Misuse where the order of calls forbids a body."""


def check_weight(weight: int) -> None:
    """Raise Misuse for what is no weight (RFC 7540, 5.3.2)."""
    if type(weight) is not int or not 1 <= weight <= 256:
        raise Misuse(f"a weight is from 1 to 256, not {weight!r}")
