"""What a caller holds of its request: the stream, the response that comes of it, and what the server pushes along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from actors.commands import Weigh
from actors.errors import Closed, ErrorCode, Misuse
from actors.exchange import Exchange, ResponseHead, check_weight
from actors.headers import HeaderInput, Headers, split_head
from actors.stream import StreamActor

SECONDS_FOR_CONTINUE: Final = 1.0
"""How long a body waits for 100 before it is sent all the same."""


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

    @property
    def status(self) -> int:
        """The response's status; 0 until it has come."""
        head = self._actor.head
        return int(head[0][1]) if head else 0

    @property
    def last_trailers(self) -> Headers:
        """The trailers that have come; empty until then."""
        return self._actor.trailers

    async def response(self) -> ResponseHead:
        """The response's head, once it has come. Raises the stream's error."""
        actor = self._actor
        await actor.until(lambda: actor.head is not None)
        if actor.head is None:
            raise actor.failure()
        return response_head_of(actor)

    async def pushes(self) -> AsyncIterator[PushedStream]:
        """The streams that the server promises along with this one, as they come, until its response has ended.

        What has not ended is cancelled when this stream is left. Raises Misuse where the link takes no pushes, and the
        stream's error.
        """
        actor = self._actor
        promises = actor.promises
        if actor.promise is not None:
            raise Misuse("a pushed stream has no pushes of its own (RFC 9113, 8.4)")
        if promises is None:
            raise Misuse("this link takes no pushes: make it with push=True")
        while True:
            await actor.until(lambda: bool(promises) or actor.remote_ended)
            if promises:
                yield PushedStream(promises.popleft(), self._limit)
            elif actor.remote_ended:
                return
            elif actor.error is not None:
                raise actor.failure()

    async def send(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> None:
        if self._expects:
            await until_continue(self._actor)
            self._expects = False
        await super().send(data, end=end)

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
            await actor.until(lambda: actor.head is not None or _may_continue(actor))
    if actor.head is None or (status := int(actor.head[0][1])) < 300:
        return True
    actor.stopped_by = actor.stopped_by or Closed(
        f"the body of {actor.name} was not sent: the peer answered {status} instead of 100", outcome=actor.outcome
    )
    return False


def _may_continue(actor: StreamActor) -> bool:
    return any(pairs[0][1] == b"100" for pairs in actor.informational)


def response_head_of(actor: StreamActor) -> ResponseHead:
    """The head that has come on a client's stream."""
    pseudo, headers = split_head(actor.head or [])
    if not actor.informational:
        return ResponseHead(int(pseudo[b":status"]), headers)
    early = (split_head(pairs) for pairs in actor.informational)
    informational = tuple(ResponseHead(int(first[b":status"]), fields) for first, fields in early)
    return ResponseHead(int(pseudo[b":status"]), headers, informational)
