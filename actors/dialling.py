"""Making connections: sockets race to the addresses of a service (RFC 8305), and the winner is encrypted.

Everything that is under way belongs to one :class:`_Race`, which closes it in one step without waiting for anything;
so a caller that is cancelled leaves nothing behind, wherever that happens. (asyncio's own race, on Python 3.11, does.)
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket as sockets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from actors.addresses import Address, Endpoint
from actors.errors import ConnectFailed, Misuse, TlsFailed
from actors.tls import TlsSide, tls_failed
from actors.trace import Tracer
from actors.transport import SocketProtocol, reason_of, set_user_timeout

DELAY: Final = 0.25
"""Seconds that an address has before the next one is begun with, too (RFC 8305, 8)."""
BACKLOG_PAUSE: Final = 0.02
"""Seconds until a Unix socket whose backlog is full is tried again; the system tells nobody when it has room."""
MOST_NAMED: Final = 4
"""Addresses that an error names."""


async def race(addresses: Sequence[Address], *, timeout: float, delay: float = DELAY) -> tuple[Address, sockets.socket]:
    """The first of the addresses that can be connected to, and its socket, with TCP_NODELAY.

    The next address is begun with ``delay`` seconds after the one before, or at once when one fails. Raises
    ConnectFailed, which names each address with its reason.
    """
    contest = _Race(addresses, delay)
    try:
        return await contest.run(timeout)
    finally:
        contest.close()


async def connect(
    tracer: Tracer,
    addresses: Sequence[Address],
    *,
    timeout: float,
    tls: TlsSide | None,
    delay: float = DELAY,
    user_timeout: float = 0.0,
) -> tuple[Address, SocketProtocol]:
    """Connect to the first of the addresses that answers; with ``tls``, encrypted.

    ``timeout`` seconds cover all of it. Where a handshake fails, the other addresses are tried; while there are any, a
    handshake has half of the time that is left. ``user_timeout`` is TCP_USER_TIMEOUT in seconds; 0: the system's.
    Raises ConnectFailed, or the first TlsFailed once there was a connection.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    left: Sequence[Address] = addresses
    refusal: ConnectFailed | TlsFailed | None = None
    while True:
        contest = _Race(left, delay)
        try:
            address, socket = await contest.run(until - loop.time() if refusal is not None else timeout)
        except ConnectFailed:
            if refusal is not None:
                raise refusal from refusal.__cause__
            raise
        finally:
            contest.close()
        left = [each for each in left if each != address and each not in contest.failures]
        patience = (until - loop.time()) / (2 if left else 1)
        try:
            return address, await established(
                tracer, address, socket, tls=tls, patience=patience, user_timeout=user_timeout
            )
        except (ConnectFailed, TlsFailed) as error:
            refusal = refusal if refusal is not None else error
            if not left:
                raise refusal from refusal.__cause__


class _Race:
    """Sockets on their way to one service: what is not taken is closed."""

    def __init__(self, addresses: Iterable[Address], delay: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._all = tuple(dict.fromkeys(addresses))
        if not self._all:
            raise Misuse("no address to connect to: resolve the endpoint first")
        self._left = deque(self._all)
        self._delay = delay
        self._under_way: dict[Address, sockets.socket] = {}
        self._timers: dict[Address | None, asyncio.TimerHandle] = {}
        self._winner: Address | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self.failures: dict[Address, Exception] = {}

    async def run(self, timeout: float) -> tuple[Address, sockets.socket]:
        """The winner and its socket, which is the caller's from now on. Raises ConnectFailed."""
        self._begin()
        with suppress(TimeoutError):  # who has not won by then has lost
            async with asyncio.timeout(timeout):
                await self._over
        if self._winner is None:
            cause = next(iter(self.failures.values()), TimeoutError())
            raise ConnectFailed.because(self._report(timeout), cause) from cause
        return self._winner, self._under_way.pop(self._winner)

    def close(self) -> None:
        """Close what is under way and forget what is left."""
        self._left.clear()
        for timer in self._timers.values():
            timer.cancel()
        for socket in self._under_way.values():
            self._loop.remove_writer(socket)
            socket.close()
        self._under_way.clear()

    def _begin(self) -> None:
        """Begin with the next address; where it fails at once, with the one after it."""
        while self._left and self._winner is None:
            address = self._left.popleft()
            with self._attempt(address):
                self._start(address)
            if address in self._under_way:
                self._after(self._delay, None, self._begin)
                return
        if not self._under_way and not self._over.done():
            self._over.set_result(None)

    @contextmanager
    def _attempt(self, address: Address) -> Iterator[None]:
        """What goes wrong within is why that address failed."""
        try:
            yield
        except (OSError, ValueError, OverflowError) as error:
            self.failures[address] = error
            if (socket := self._under_way.pop(address, None)) is not None:
                socket.close()

    def _start(self, address: Address) -> None:
        socket = self._under_way[address] = sockets.socket(address.family, sockets.SOCK_STREAM)
        socket.setblocking(False)
        if address.family != sockets.AF_UNIX:
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, True)
        self._ask(address, socket)

    def _ask(self, address: Address, socket: sockets.socket) -> None:
        number = socket.connect_ex(address.sockaddr)
        if number in (errno.EINPROGRESS, errno.EINTR):
            self._loop.add_writer(socket, self._answered, address, socket)
        elif number == errno.EAGAIN and address.family == sockets.AF_UNIX:
            self._after(BACKLOG_PAUSE, address, self._ask_again, address, socket)
        else:
            self._judge(address, socket, number)

    def _ask_again(self, address: Address, socket: sockets.socket) -> None:
        with self._attempt(address):
            self._ask(address, socket)
        if address in self.failures:
            self._begin()

    def _answered(self, address: Address, socket: sockets.socket) -> None:
        self._loop.remove_writer(socket)
        with self._attempt(address):
            self._judge(address, socket, socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR))
        if address in self.failures:
            self._begin()

    def _judge(self, address: Address, socket: sockets.socket, number: int) -> None:
        """Raise the error of that number; 0: it is connected."""
        if number == 0 and address.family != sockets.AF_UNIX and socket.getsockname() == socket.getpeername():
            number = errno.ECONNREFUSED  # nobody listens: the system chose that very port for our end, which met itself
        if number:
            raise OSError(number, os.strerror(number))
        if self._winner is None:
            self._winner = address
            if not self._over.done():
                self._over.set_result(None)

    def _after(self, seconds: float, what: Address | None, step: Callable[..., None], *facts: object) -> None:
        """Set the timer of that address, or the one for the next address."""
        if (timer := self._timers.get(what)) is not None:
            timer.cancel()
        self._timers[what] = self._loop.call_later(seconds, step, *facts)

    def _report(self, timeout: float) -> str:
        endpoints = list(dict.fromkeys(address.endpoint for address in self._all))
        failed = f"no connection to {_some([_named(endpoint) for endpoint in endpoints])}"
        late = len(self.failures) < len(self._all)
        if late:
            failed += f" within {timeout:g} s"
        if len({self._reason(address) for address in self._all}) > 1:
            return f"{failed}: {_some([f'{address} ({self._reason(address)})' for address in self._all])}"
        if [str(endpoint) for endpoint in endpoints] != [str(address) for address in self._all]:
            failed += f" ({_some([str(address) for address in self._all])})"
        return failed if late else f"{failed}: {reason_of(self.failures[self._all[0]])}"

    def _reason(self, address: Address) -> str:
        if (failure := self.failures.get(address)) is not None:
            return reason_of(failure, remedy=False)
        return "not tried" if address in self._left else "no answer"


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _named(endpoint: Endpoint) -> str:
    return str(endpoint) if endpoint.path is None else f"the Unix socket {endpoint.path}"


def _place(address: Address) -> str:
    name = _named(address.endpoint)
    return name if address.numeric else f"{name} ({address})"


async def established(
    tracer: Tracer,
    address: Address,
    socket: sockets.socket,
    *,
    tls: TlsSide | None,
    patience: float,
    user_timeout: float,
    where: str | None = None,
) -> SocketProtocol:
    """A protocol for a connected socket, which it owns whatever happens; encrypted within ``patience`` seconds.

    ``where`` it leads to, for one to a proxy, whose own address does not say it. Raises TlsFailed and ConnectFailed.
    """
    loop = asyncio.get_running_loop()
    make = loop.create_unix_connection if address.family == sockets.AF_UNIX else loop.create_connection
    place = where if where is not None else _place(address)
    try:
        transport, protocol = await make(lambda: SocketProtocol(tracer, where=where), sock=socket)
    except BaseException as error:
        socket.close()
        if isinstance(error, OSError):
            raise ConnectFailed.because(f"no connection to {place}: {reason_of(error)}", error) from error
        raise
    set_user_timeout(transport, user_timeout)
    if tls is not None:
        try:
            name = address.endpoint.host if tls.server_hostname is None else tls.server_hostname
            await _encrypt(transport, protocol, tls, where=place, name=name, patience=patience)
        except BaseException:
            transport.abort()  # closing would wait until what was written has gone out
            raise
    return protocol


async def _encrypt(
    transport: asyncio.Transport, protocol: SocketProtocol, tls: TlsSide, *, where: str, name: str, patience: float
) -> None:
    """Let the protocol speak TLS. Raises TlsFailed.

    Not by ``create_connection``, which over TLS does not close what is cancelled in its first steps.
    """
    try:
        encrypted = await asyncio.get_running_loop().start_tls(
            transport,
            protocol,
            tls.context,
            server_hostname=name,
            ssl_handshake_timeout=max(min(tls.handshake_timeout, patience), 0.001),
            ssl_shutdown_timeout=tls.shutdown_timeout,
        )
    except (OSError, ValueError) as error:  # among them every error of ssl
        raise tls_failed(error, where, name=name) from error
    if encrypted is None:  # asyncio calls a handshake done that was aborted
        raise tls_failed(ConnectionResetError(), where, name=name)
    protocol.connection_made(encrypted)
    if protocol.refused is not None:
        raise protocol.refused
