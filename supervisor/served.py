"""One connection that a server serves, as who looks after the server holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.commands import ConnectionMessage, OfferAlternative
from actors.errors import Closed, ErrorCode, LinkError, Misuse
from actors.handling import is_coroutine_function
from actors.mailbox import Ref, Reply, closed_error
from actors.messages import ChangeLimits, Drain, Exited, Peer, SendPing, Watch
from actors.server_stream import check_alternative
from actors.settings import Limits, check_debug, check_limits
from actors.stats import ConnectionStats


class ServedConnection:
    """A connection of a :class:`~supervisor.server.Server`; once it has ended, only what is known of it is kept."""

    __slots__ = ("_connection", "_error", "_measure", "_over", "name", "peer")

    def __init__(
        self,
        name: str,
        peer: Peer,
        connection: Ref[ConnectionMessage],
        measure: Callable[[float], ConnectionStats],
    ) -> None:
        self.name = name
        """What traces call it, and ``stream.connection`` of each of its streams."""
        self.peer = peer
        self._connection: Ref[ConnectionMessage] | None = connection
        self._measure = measure
        self._error: LinkError | None = None
        self._over = asyncio.Event()
        connection.signal(Watch(Ref(name, self._ended)))

    def _ended(self, exited: Exited) -> None:
        reason, last = exited.reason, self._measure(asyncio.get_running_loop().time())
        self._error = reason if reason is None or isinstance(reason, LinkError) else closed_error(self.name, reason)
        # The connection itself may be large, and whoever holds this for long need not hold that.
        self._connection, self._measure = None, lambda now: last
        self._over.set()

    @property
    def has_ended(self) -> bool:
        return self._over.is_set()

    def stats(self) -> ConnectionStats:
        """Its figures; once it has ended, the last ones."""
        return self._measure(asyncio.get_running_loop().time())

    async def ping(self) -> float:
        """Send PING (RFC 9113, 6.7) and return the round-trip time in seconds; all who ask at a time share one.

        Raises what the connection ends with.
        """
        reply: Reply[float] = Reply()
        self._living().tell(SendPing(reply))
        return await reply.wait()

    async def change_limits(self, limits: Limits) -> None:
        """Let other limits hold for it; returns when the client has acknowledged what concerns it (RFC 9113, 6.5.3).

        Raises Misuse, and what the connection ends with.
        """
        check_limits(limits)
        reply: Reply[None] = Reply()
        self._living().tell(ChangeLimits(limits, reply))
        await reply.wait()

    def offer_alternative(self, value: str, *, origin: str) -> None:
        """Tell the client where else an ``origin`` is served, with ALTSVC on stream 0 (RFC 7838, 4).

        ``value`` is as in the ``alt-svc`` header. Raises Misuse, InvalidHeaders, and what the connection ended with.
        """
        where, field = check_alternative(value, origin)
        if not where:
            raise Misuse("an alternative outside of a stream is for an origin, such as https://api.example")
        self._living().tell(OfferAlternative(0, where, field))

    async def close(self, drain: float = 0.0, *, code: int = ErrorCode.NO_ERROR, debug: bytes = b"") -> None:
        """Say GOAWAY, give the open streams ``drain`` seconds to finish, and close; closing twice is closing once.

        The last GOAWAY gives ``code`` as the reason, and each has ``debug``, of which the first 512 bytes are sent.
        Cancelling it leaves the rest to the connection. Raises Misuse.
        """
        if type(drain) not in (int, float) or not drain >= 0:
            raise Misuse(f"a time for draining is a number of seconds, not {drain!r}")
        self.end(Closed(f"{self.name} was closed by the server"), drain, code=code, debug=debug)
        await self._over.wait()

    def end(self, error: LinkError, drain: float = 0.0, *, code: int = ErrorCode.NO_ERROR, debug: bytes = b"") -> None:
        """Do what :meth:`close` does, without waiting for it; what is cut ends with ``error``. Raises Misuse."""
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code < 2**32:
            raise Misuse(f"an error code is a number of 32 bits, not {code!r}")
        check_debug(debug)
        if self._connection is not None:
            self._connection.tell(Drain(drain, error, debug, code))

    async def wait(self) -> LinkError | None:
        """Wait until it has ended; returns what it ended with, and never raises that."""
        await self._over.wait()
        return self._error

    def _living(self) -> Ref[ConnectionMessage]:
        if self._connection is None:
            raise Closed.because(f"{self.name} has ended", self._error)
        return self._connection


def check_connected(call: object) -> None:
    """Raise Misuse for what cannot be called with each connection as it begins."""
    if call is not None and (not callable(call) or is_coroutine_function(call)):
        raise Misuse(
            f"connected is a plain function that is called with each connection, not {call!r}: it may start a task"
        )
