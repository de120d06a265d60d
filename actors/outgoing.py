"""A request on its way out: how its connection is reached, and all that was checked before anything is sent."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Final

from attrs import field, frozen

from actors.commands import ConnectionMessage
from actors.errors import Misuse
from actors.exchange import OutgoingBody, check_weight
from actors.headers import HeaderInput, Pair, check_fields, declared_length, request_head
from actors.mailbox import Ref
from actors.messages import Peer
from actors.stream import StreamActor
from actors.terms import Terms
from actors.trace import Tracer

BODYLESS_METHODS: Final = frozenset(("GET", "HEAD"))
"""Methods whose side is ended at once where no body is given."""


@frozen
class Route:
    """How to reach a connection, as whoever sends requests over it knows it."""

    connection: Ref[ConnectionMessage]
    peer: Peer
    terms: Terms
    tracer: Tracer
    pushes: bool = False
    """Whether streams may have others promised along with them."""


@frozen
class Outgoing:
    """A checked request: ``body`` None leaves our side open."""

    name: str
    head: list[Pair] = field(repr=False)
    body: OutgoingBody | None = field(repr=False)
    trailers: list[Pair] = field(repr=False)
    weight: int
    timeout: float | None
    """Seconds from the opening to the last byte."""
    max_body: int
    declared: int | None
    """What the head's content-length says."""
    protocol: bool = False
    """Whether it is an extended CONNECT."""
    expects: bool = False
    """Whether its body waits for 100 (RFC 9110, 10.1.1)."""
    promised: Callable[[StreamActor], None] | None = field(default=None, repr=False)
    """Gets the actor of each stream that the server promises along with this one; None refuses them all."""
    is_out: bool = False
    """Whether all of it went out before, over HTTP/1.1 (RFC 7540, 3.2); it has no ``body`` then."""
    given: float | None = None
    """The seconds that the caller gave, where some of them have passed before the opening."""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.body, str) or (
            self.body is not None and not isinstance(self.body, (bytes, bytearray, memoryview, Iterable, AsyncIterable))
        ):
            raise Misuse(f"a body is bytes, or an iterable of bytes, sync or async; not {type(self.body).__name__}")
        check_weight(self.weight)
        if self.timeout is not None and (type(self.timeout) not in (int, float) or not self.timeout > 0):
            raise Misuse(f"a timeout is a number of seconds above 0, not {self.timeout!r}")
        if self.body is None and self.trailers:
            raise Misuse("trailers follow a body that is given, too; otherwise give them to end()")
        if type(self.max_body) is not int or self.max_body < 0:
            raise Misuse(f"max_body is a number of bytes, not {self.max_body!r}")


def prepare(
    name: str,
    method: str,
    scheme: str,
    authority: str,
    path: str,
    *,
    headers: HeaderInput,
    body: OutgoingBody | None,
    trailers: HeaderInput,
    weight: int,
    timeout: float | None,
    max_body: int,
    protocol: str | None = None,
) -> Outgoing:
    """Check a request before anything is sent; a body of bytes gets its content-length.

    Raises InvalidHeaders and Misuse.
    """
    head = request_head(method, scheme, authority, path, headers, protocol=protocol)
    declared = declared_length(head)
    if isinstance(body, (bytes, bytearray, memoryview)):
        size = body.nbytes if isinstance(body, memoryview) else len(body)
        if declared is None:
            # RFC 9110, 8.6: a method that gives a body a meaning says so even when it is empty.
            if (size and method != "CONNECT") or method in ("POST", "PUT", "PATCH"):
                head.append((b"content-length", b"%d" % size))
        elif declared != size:
            raise Misuse(f"content-length says {declared} and the body has {size} bytes: leave the header out")
    elif body is None and declared and method in BODYLESS_METHODS:
        raise Misuse(f"content-length says {declared}, and {method} without a body has none: leave the header out")
    sends = bool(headers) and body != b"" and not (body is None and method in BODYLESS_METHODS)
    expects = sends and any(n == b"expect" and v.lower() == b"100-continue" for n, v in head)
    return Outgoing(
        name, head, body, check_fields(trailers), weight, timeout, max_body, declared, protocol is not None, expects
    )
