"""What a handler holds: a request, and the way to answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from actors.commands import OfferAlternative, Respond, SendHead
from actors.errors import InvalidHeaders, Misuse
from actors.exchange import Exchange
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
from actors.messages import PushStream
from actors.stream import StreamActor

BODYLESS_STATUSES: Final = frozenset((204, 304))
MAX_ALTERNATIVE: Final = 8 * 1024
"""Bytes that fit into one frame of any peer's."""
Handler = Callable[["ServerStream"], Awaitable[None]]


def check_alternative(value: str, origin: str) -> tuple[bytes, bytes]:
    """The origin and the value as ALTSVC has them; raises InvalidHeaders."""
    (_, field), (_, where) = check_fields([("alt-svc", value), ("origin", origin)])
    if len(where) + len(field) > MAX_ALTERNATIVE:
        raise InvalidHeaders(f"an alternative has at most {MAX_ALTERNATIVE} bytes, its origin included")
    return where, field


class ServerStream(Exchange):
    """A request and the way to answer it; what a handler gets.

    A handler's exception costs only its own stream (INTERNAL_ERROR). So does returning without a response; returning
    after :meth:`start_response` ends the stream.
    """

    __slots__ = ("_headers", "_pseudo", "_read", "_status", "_whole")

    def __init__(self, actor: StreamActor) -> None:
        super().__init__(actor)
        self._pseudo, self._headers = split_head(actor.head or [])
        self._status = 0
        self._whole = 0
        self._read = False

    @property
    def name(self) -> str:
        """The stream's name in the log, such as ``server-1/connection-3/stream-5``."""
        return self._actor.name

    @property
    def status(self) -> int:
        """The status of the response that was begun; 0 as long as none was."""
        return self._status

    @property
    def received(self) -> int:
        """Bytes of the request's body that came, read or not."""
        return self._actor.received

    @property
    def sent(self) -> int:
        """Bytes of the response's body that were given to be sent; what of them went out, the connection knows."""
        return self._whole + self._actor.queued

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
        self._actor.check_fields(head)
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
        self._actor.check_fields(head)
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
        actor.check_fields(head)
        if fields:
            actor.check_fields(fields)
        self._status = status
        if asked_for_head:
            body, size = b"", 0
        if not size or (size <= actor.room and not actor.terms.memory.full):
            actor.local_ended = True
            self._whole = size
            actor.terms.memory.take(size)
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
        actor.check_fields(head)
        reply: Reply[int] = Reply()
        if not actor.command(PushStream(self.id, head, reply)):
            raise actor.failure()
        return await reply.wait()

    def offer_alternative(self, value: str, *, origin: str = "") -> None:
        """Tell the client where else this resource, or all of an ``origin``, is served, with ALTSVC (RFC 7838, 4).

        ``value`` is as in the ``alt-svc`` header, such as ``h2="alt.example:443"; ma=3600``. Raises InvalidHeaders.
        """
        where, field = check_alternative(value, origin)
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

    async def send(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> None:
        if self._status in BODYLESS_STATUSES and data:
            raise Misuse(f"a response with status {self._status} has no body (RFC 9110, 6.4.1)")
        if self._pseudo.get(b":method") == b"HEAD":
            self._check_sendable()
            self._actor.check_open()
            if end:
                await self.end()
            return  # RFC 9110, 9.3.2: the answer to HEAD has no body
        await super().send(data, end=end)

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
