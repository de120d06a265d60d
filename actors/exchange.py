"""What user code holds: :class:`ServerStream`, :class:`ClientStream` and :class:`Response`.

They are the stream actor's face: they check the order of calls and what goes out, and leave the rest to it. What runs
in its task is in ``bodies.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, TypeVar

from attrs import field, frozen

from actors.commands import OfferAlternative, Respond, SendHead, Weigh
from actors.errors import (
    Closed,
    ErrorCode,
    InvalidHeaders,
    LinkError,
    Misuse,
)
from actors.headers import (
    HeaderInput,
    Headers,
    check_fields,
    declared_length,
    request_head,
    response_head,
    split_head,
)
from actors.mailbox import Reply
from actors.messages import Peer, PushStream
from actors.stream import StreamActor

T = TypeVar("T")

ANY_SIZE: Final = 2**31
SECONDS_FOR_CONTINUE: Final = 1.0
"""How long a body waits for 100 before it is sent all the same."""
BODYLESS_STATUSES: Final = frozenset((204, 304))
OutgoingBody = bytes | bytearray | memoryview | Iterable[bytes] | AsyncIterable[bytes]
Handler = Callable[["ServerStream"], Awaitable[None]]


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
    def peer(self) -> Peer:
        return self._actor.peer

    @property
    def cause(self) -> LinkError | None:
        """What ended the stream badly; None as long as nothing did."""
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

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._before_read()
        while chunk := await self._actor.read(ANY_SIZE):
            yield chunk

    async def trailers(self) -> Headers:
        """The peer's trailers, once it has ended its side; empty where it sent none. Raises the stream's error.

        Trailers follow the body: read it meanwhile, or its flow control holds them back.
        """
        return await self._actor.read_trailers()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Queue ``data``; returns once there is room for it, so that a slow peer slows the sender.

        Raises StreamReset when the peer wants no more, with code NO_ERROR if it has answered already; Misuse after the
        end; the stream's error.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise Misuse(f"send() takes bytes, not {type(data).__name__}")
        self._check_sendable()
        await self._actor.send(data)

    async def end(self, trailers: HeaderInput = ()) -> None:
        """End our side of the stream, with trailers or without. Raises as :meth:`send` does, and InvalidHeaders."""
        fields = check_fields(trailers)
        self._check_sendable()
        self._actor.end(fields)

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


class ServerStream(Exchange):
    """A request and the way to answer it; what a handler gets.

    A handler's exception costs only its own stream (INTERNAL_ERROR). So does returning without a response; returning
    after :meth:`start_response` ends the stream.
    """

    __slots__ = ("_headers", "_pseudo", "_read", "_status")

    def __init__(self, actor: StreamActor) -> None:
        super().__init__(actor)
        self._pseudo, self._headers = split_head(actor.head or [])
        self._status = 0
        self._read = False

    @property
    def method(self) -> str:
        return self._pseudo[b":method"].decode("latin-1")

    @property
    def path(self) -> str:
        """The path and query as they came; empty for CONNECT."""
        return self._pseudo.get(b":path", b"").decode("latin-1")

    @property
    def scheme(self) -> str:
        return self._pseudo.get(b":scheme", b"").decode("latin-1")

    @property
    def protocol(self) -> str | None:
        """What an extended CONNECT asks for, such as ``websocket`` (RFC 8441); None for any other request."""
        given = self._pseudo.get(b":protocol")
        return given.decode("latin-1") if given is not None else None

    @property
    def authority(self) -> str:
        """The host that the client asked for, from ``:authority`` or ``host``."""
        given = self._pseudo.get(b":authority")
        return given.decode("latin-1") if given is not None else self._headers.get("host", "") or ""

    @property
    def headers(self) -> Headers:
        """The request's fields, without pseudo-headers."""
        return self._headers

    async def inform(self, status: int, headers: HeaderInput = ()) -> None:
        """Send an informational response, such as 103 (RFC 9110, 15.2), before the final one."""
        if type(status) is not int or not 100 <= status <= 199:
            raise Misuse(f"inform() is for 1xx, not {status!r}: use respond() or start_response()")
        head = response_head(status, headers)
        self._refuse_length(status, declared_length(head))
        self._actor.terms.check(head)
        await self._actor.pause()
        self._check_not_started()
        self._actor.command(SendHead(self.id, head))

    async def start_response(self, status: int, headers: HeaderInput = ()) -> None:
        """Send the response's head; its body follows by :meth:`send`, and :meth:`end` ends it.

        Raises InvalidHeaders, Misuse when it was sent already, and the stream's error.
        """
        self._check_final(status)
        head = response_head(status, headers)
        declared = declared_length(head)
        self._refuse_length(status, declared)
        self._actor.terms.check(head)
        self._check_not_started()
        self._status = status
        bodyless = status in BODYLESS_STATUSES or self._pseudo.get(b":method") == b"HEAD"
        self._actor.declared = None if bodyless else declared
        self._actor.command(SendHead(self.id, head))

    async def respond(
        self,
        status: int,
        headers: HeaderInput = (),
        body: bytes | bytearray | memoryview = b"",
        trailers: HeaderInput = (),
    ) -> None:
        """Send a whole response, with its content-length; for HEAD the body is left out (RFC 9110, 9.3.2).

        Raises as :meth:`start_response` does; a body for 204 or 304, or one that is not as long as a content-length
        that was given, is Misuse.
        """
        self._check_final(status)
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise Misuse(f"respond() takes a body of bytes, not {type(body).__name__}: use start_response() and send()")
        head = response_head(status, headers)
        fields = check_fields(trailers)
        self._check_not_started()
        size = len(body) if not isinstance(body, memoryview) else body.nbytes
        bodyless = status in BODYLESS_STATUSES
        asked_for_head = self._pseudo.get(b":method") == b"HEAD"
        if bodyless and size:
            raise Misuse(f"a response with status {status} has no body (RFC 9110, 6.4.1)")
        declared = declared_length(head)
        self._refuse_length(status, declared)
        if declared is None:
            if not bodyless and not self._is_tunnel(status):
                head.append((b"content-length", b"%d" % size))
        elif declared != size and not bodyless and not asked_for_head:
            raise Misuse(f"content-length says {declared} and the body has {size} bytes: leave the header out")
        actor = self._actor
        actor.terms.check(head)
        actor.terms.check(fields)
        self._status = status
        if asked_for_head:
            body, size = b"", 0
        if not size or (size <= actor.room and not actor.terms.memory.full):
            actor.local_ended = True
            actor.command(Respond(self.id, head, body if isinstance(body, bytes) else bytes(body), fields))
            return
        actor.declared = size
        actor.command(SendHead(self.id, head))
        await actor.send(body)
        actor.end(fields)

    async def push(self, path: str | bytes, *, method: str = "GET", headers: HeaderInput = ()) -> int:
        """Promise the response to another request, run the handler for it on a stream of its own, and return its id.

        Must come before the end of this response (RFC 9113, 8.4). Raises Misuse where the peer takes no pushes, for a
        method but GET and HEAD, and on a pushed stream; LimitReached beyond the peer's limit; InvalidHeaders.
        """
        actor = self._actor
        if method not in ("GET", "HEAD"):
            raise Misuse(f"only GET and HEAD can be pushed, not {method!r} (RFC 9113, 8.4)")
        if self.id % 2 == 0:
            raise Misuse("a pushed stream cannot push (RFC 9113, 8.4)")
        actor.check_open()
        if not actor.terms.push:
            raise Misuse(f"{self.peer.address} takes no pushes (SETTINGS_ENABLE_PUSH): let it ask")
        head = request_head(method, self.scheme, self.authority, path, headers)
        actor.terms.check(head)
        reply: Reply[int] = Reply()
        if not actor.command(PushStream(self.id, head, reply)):
            raise actor.failure()
        return await reply.wait()

    def offer_alternative(self, value: str, *, origin: str = "") -> None:
        """Tell the client where else this resource, or all of an ``origin``, is served, with ALTSVC (RFC 7838, 4).

        ``value`` is as in the ``alt-svc`` header, such as ``h2="alt.example:443"; ma=3600``. Raises InvalidHeaders.
        """
        (_, field), (_, where) = check_fields([("alt-svc", value), ("origin", origin)])
        self._actor.check_open()
        self._actor.command(OfferAlternative(self.id, where, field))

    async def draining(self) -> None:
        """Return when the server begins to drain: the time for a long stream to end well.

        Raises the stream's error, and Closed when the handler ends first.
        """
        actor = self._actor
        await actor.until(lambda: actor.draining or actor.exited is not None)
        if not actor.draining:
            raise actor.failure()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._status in BODYLESS_STATUSES and data:
            raise Misuse(f"a response with status {self._status} has no body (RFC 9110, 6.4.1)")
        if self._pseudo.get(b":method") == b"HEAD":
            self._check_sendable()
            self._actor.check_open()
            return  # RFC 9110, 9.3.2: the answer to HEAD has no body
        await super().send(data)

    def _max_body(self) -> int:
        return self._actor.limits.max_request_body

    def _before_read(self) -> None:
        """Say 100 to a client that waits for it with its body (RFC 9110, 10.1.1)."""
        if self._read:
            return
        self._read = True
        actor = self._actor
        if self._status or actor.remote_ended or actor.received or actor.error is not None:
            return
        if (self._headers.get("expect") or "").lower() == "100-continue":
            actor.command(SendHead(self.id, [(b":status", b"100")]))

    def _is_tunnel(self, status: int) -> bool:
        return status < 300 and self._pseudo.get(b":method") == b"CONNECT"

    def _refuse_length(self, status: int, declared: int | None) -> None:
        if declared is None:
            return
        if status < 200 or status == 204 or self._is_tunnel(status):
            what = "to CONNECT " if self._is_tunnel(status) else ""
            raise InvalidHeaders(f"a response {what}with status {status} has no content-length (RFC 9110, 8.6)")

    def _check_final(self, status: int) -> None:
        if type(status) is not int or not 200 <= status <= 999:
            raise Misuse(f"a final response's status is from 200 to 999, not {status!r}: use inform() for 1xx")

    def _check_not_started(self) -> None:
        self._actor.check_open()
        if self._status:
            raise Misuse(f"the response was begun already, with status {self._status}")

    def _check_sendable(self) -> None:
        if not self._status:
            self._actor.check_open()
            raise Misuse("a response begins with start_response(): call it before send() and end()")


class ClientStream(Exchange):
    """A request that was opened; both directions at once."""

    __slots__ = ("_expects", "_limit")

    def __init__(self, actor: StreamActor, max_body: int, *, expects: bool = False) -> None:
        """``expects`` says that the first :meth:`send` waits for 100 (RFC 9110, 10.1.1)."""
        super().__init__(actor)
        self._limit = max_body
        self._expects = expects

    @property
    def headers(self) -> Headers:
        """The fields of the response; empty until it has come."""
        return split_head(self._actor.head or [])[1]

    async def response(self) -> ResponseHead:
        """The response's head, once it has come. Raises the stream's error."""
        actor = self._actor
        await actor.until(lambda: actor.head is not None)
        if actor.head is None:
            raise actor.failure()
        return response_head_of(actor)

    async def pushes(self) -> AsyncIterator[PushedStream]:
        """The streams that the server promises along with this one, as they come, until its response has ended.

        What is promised and not asked for here is cancelled when this stream is left. Raises Misuse where the link
        takes no pushes, and the stream's error.
        """
        actor = self._actor
        promises = actor.promises
        if promises is None:
            raise Misuse("this link takes no pushes: make it with push=True")
        while True:
            await actor.until(lambda: bool(promises) or actor.remote_ended)
            if promises:
                yield PushedStream(promises.popleft(), self._limit)
            elif not actor.remote_ended:
                raise actor.failure()
            else:
                return

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._expects:
            self._expects = False
            await until_continue(self._actor)
        await super().send(data)

    def prioritize(self, weight: int, *, depends_on: int = 0, exclusive: bool = False) -> None:
        """Give our body another share, and tell the server with PRIORITY (RFC 7540, 6.3), which RFC 9113 deprecates.

        Servers of today look at the header ``priority`` instead (RFC 9218): give it with the request.
        """
        check_weight(weight)
        if type(depends_on) is not int or not 0 <= depends_on < 2**31 or depends_on == self.id:
            raise Misuse(f"a stream depends on another or on 0, not on {depends_on!r}")
        self._actor.command(Weigh(self.id, weight, depends_on, bool(exclusive)))

    async def end(self, trailers: HeaderInput = ()) -> None:
        """End our side, with trailers or without; a second plain ``end()`` changes nothing."""
        if trailers or not self._actor.local_ended or self._actor.error is not None:
            await super().end(trailers)

    def _max_body(self) -> int:
        return self._limit


class PushedStream(ClientStream):
    """The response to a request that was not made: the server promised it (RFC 9113, 8.4)."""

    __slots__ = ("_pseudo", "_request_headers")

    def __init__(self, actor: StreamActor, max_body: int) -> None:
        super().__init__(actor, max_body)
        actor.local_ended = True
        self._pseudo, self._request_headers = split_head(actor.promise or [])

    @property
    def method(self) -> str:
        return self._pseudo[b":method"].decode("latin-1")

    @property
    def path(self) -> str:
        return self._pseudo[b":path"].decode("latin-1")

    @property
    def scheme(self) -> str:
        return self._pseudo[b":scheme"].decode("latin-1")

    @property
    def authority(self) -> str:
        return self._pseudo.get(b":authority", b"").decode("latin-1")

    @property
    def request_headers(self) -> Headers:
        """The fields of the request that the server answers."""
        return self._request_headers

    def cancel(self) -> None:
        """Have nothing of it: RST_STREAM with CANCEL."""
        self._actor.reset(ErrorCode.CANCEL)


async def until_continue(actor: StreamActor) -> bool:
    """Wait for 100, but no longer than a second; False where the answer says that no body is wanted.

    Then sending raises Closed, and the answer is there to be read (RFC 9110, 10.1.1).
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_FOR_CONTINUE):
            await actor.until(lambda: actor.head is not None or bool(actor.informational))
    if actor.head is None or (status := int(actor.head[0][1])) < 300:
        return True
    actor.stopped_by = actor.stopped_by or Closed(
        f"the body of {actor.name} was not sent: the peer answered {status} instead of 100", outcome=actor.outcome
    )
    return False


def check_weight(weight: int) -> None:
    """Raise Misuse for what is no weight (RFC 7540, 5.3.2)."""
    if type(weight) is not int or not 1 <= weight <= 256:
        raise Misuse(f"a weight is from 1 to 256, not {weight!r}")


def response_head_of(actor: StreamActor) -> ResponseHead:
    """The head that has come on a client's stream."""
    pseudo, headers = split_head(actor.head or [])
    if not actor.informational:
        return ResponseHead(int(pseudo[b":status"]), headers)
    early = (split_head(pairs) for pairs in actor.informational)
    informational = tuple(ResponseHead(int(first[b":status"]), fields) for first, fields in early)
    return ResponseHead(int(pseudo[b":status"]), headers, informational)
