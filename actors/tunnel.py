"""Connections through an HTTP proxy: CONNECT, and then the proxy passes on whatever is said (RFC 9110, 9.3.6).

The service's name goes to the proxy, which looks it up. The head of its answer is taken from the socket and not a byte
more, so that what the service says first is there for whoever reads next. Credentials are sent and never shown.
"""

from __future__ import annotations

import asyncio
import http
import re
import socket as sockets
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Final

from attrs import field, frozen

from actors.addresses import Address, Endpoint, resolve
from actors.dialling import established, race
from actors.errors import ConnectFailed, Misuse, TlsFailed
from actors.tls import TlsSide
from actors.trace import Tracer
from actors.transport import SocketProtocol, reason_of

MOST_HEAD: Final = 16 * 1024
"""Bytes of the proxy's answer, interim ones included, before what it passes on."""
_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?=[ \r\n])")
_BEGINNING: Final = b"HTTP/1."
_REMEDIES: Final = {
    401: "give it the right credentials: http://USER:PASSWORD@HOST:PORT",
    403: "does it allow that host and port?",
    405: "is it a proxy, and does it take CONNECT?",
    407: "give it the right credentials: http://USER:PASSWORD@HOST:PORT",
    501: "is it a proxy, and does it take CONNECT?",
    502: "does it reach the service?",
    503: "does it reach the service?",
    504: "does it reach the service?",
}
"""By the status of a refusal."""


@frozen
class Proxy:
    """An HTTP proxy, and what it is shown to let us through."""

    endpoint: Endpoint
    credentials: bytes | None = field(default=None, repr=False)
    """User and password with a colon between them (RFC 7617, 2)."""

    def __str__(self) -> str:
        return f"the proxy {self.endpoint}"

    def asks_for(self, endpoint: Endpoint) -> bytes:
        """The request for a tunnel to the endpoint. Raises Misuse where no request can name its host."""
        try:
            place = str(endpoint).encode("ascii" if str(endpoint).isascii() else "idna")
        except UnicodeError as error:
            raise Misuse.because(f"{endpoint} is no host name that a proxy can be asked for: {error}", error) from error
        lines = [b"CONNECT %b HTTP/1.1" % place, b"Host: %b" % place]
        if self.credentials is not None:
            lines.append(b"Proxy-Authorization: Basic %b" % b64encode(self.credentials))
        return b"\r\n".join((*lines, b"", b""))


def beyond(endpoint: Endpoint) -> Address:
    """The address of an endpoint that only a proxy finds."""
    return Address(endpoint, sockets.AF_UNSPEC, (endpoint.host, endpoint.port))


async def connect_through(
    proxy: Proxy,
    tracer: Tracer,
    places: Sequence[Address],
    *,
    timeout: float,
    tls: TlsSide | None,
    user_timeout: float = 0.0,
) -> tuple[Address, SocketProtocol]:
    """Connect to the first of the places that the proxy lets us reach; with ``tls``, encrypted from end to end.

    ``timeout`` seconds cover all of it; while there are other places, each has half of the time that is left.
    ``user_timeout`` is as for :func:`~actors.dialling.connect`. Raises ConnectFailed, or the first place's TlsFailed.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    refusal: ConnectFailed | TlsFailed | None = None
    for number, place in enumerate(places, 1):
        where = f"{place} through {proxy}"
        try:
            socket = await _reach(proxy, until - loop.time())
        except ConnectFailed as error:
            failed = ConnectFailed.because(f"no connection to {where}: {error}", error.__cause__)
            raise refusal or failed from (refusal or failed).__cause__
        patience = (until - loop.time()) / (2 if number < len(places) else 1)
        handed_over = loop.time() + patience
        try:
            await _ask(proxy, place.endpoint, socket, where, patience)
            protocol = await established(
                tracer, place, socket, tls=tls, patience=handed_over - loop.time(), user_timeout=user_timeout,
                where=where,
            )  # fmt: skip
        except (ConnectFailed, TlsFailed) as error:
            refusal = refusal or error
        else:
            return place, protocol
    if refusal is None:
        raise Misuse("no place to connect to: name one")
    raise refusal from refusal.__cause__


async def _reach(proxy: Proxy, seconds: float) -> sockets.socket:
    """A socket to the proxy. Raises ConnectFailed."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    addresses = await resolve(proxy.endpoint, timeout=round(seconds, 2))
    _, socket = await race(addresses, timeout=round(until - loop.time(), 2))
    return socket


async def _ask(proxy: Proxy, endpoint: Endpoint, socket: sockets.socket, where: str, seconds: float) -> None:
    """Have the proxy make a tunnel of the socket, which is closed where that fails. Raises ConnectFailed."""
    failed = f"no connection to {where}"
    try:
        try:
            async with asyncio.timeout(seconds):
                await _send(socket, proxy.asks_for(endpoint))
                status = await _status(socket)
        except TimeoutError as error:
            raise ConnectFailed.because(f"{failed}: it did not answer within {seconds:.3g} s", error) from error
        except OSError as error:
            raise ConnectFailed.because(f"{failed}: {reason_of(error)}", error) from error
        except _Nonsense as error:
            raise ConnectFailed(f"{failed}: {error}") from None
        if not 200 <= status < 300:
            raise ConnectFailed(f"{failed}: it answered {_named(status)}", status=status)
    except BaseException:
        socket.close()
        raise


def _named(status: int) -> str:
    """The status in the standard's words, and the remedy; not in the proxy's, which may say anything."""
    try:
        words = f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        words = f"{status}"
    return f"{words}; {_REMEDIES[status]}" if status in _REMEDIES else words


class _Nonsense(Exception):
    """What came is no answer of a proxy's."""


async def _status(socket: sockets.socket) -> int:
    """The status of the proxy's final answer, whose head is taken from the socket. Raises OSError and _Nonsense."""
    head, start = bytearray(), 0
    while True:
        while (end := _END.search(head, start)) is None:
            if len(head) >= MOST_HEAD:
                raise _Nonsense(f"its answer has a head of more than {MOST_HEAD} bytes")
            await _take(socket, head, start)
            if head[start : start + len(_BEGINNING)] != _BEGINNING[: len(head) - start]:
                raise _Nonsense("it answered what is no HTTP/1.1: is it an HTTP proxy, without TLS?")
        found = _STATUS.match(head, start)
        if found is None:
            raise _Nonsense("it answered without a status: is it an HTTP proxy?")
        if (status := int(found[1])) >= http.HTTPStatus.OK or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            return status
        start = end.end()  # it was an interim answer; the final one follows


async def _take(socket: sockets.socket, head: bytearray, start: int) -> None:
    """Add to the head that begins at ``start`` what has come of it, and leave what is behind it in the socket.

    Raises OSError and _Nonsense.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            there = socket.recv(MOST_HEAD - len(head), sockets.MSG_PEEK)
            break
        except (BlockingIOError, InterruptedError):
            await _until(loop.add_reader, loop.remove_reader, socket)
    if not there:
        raise _Nonsense("it closed the connection" + (" in the middle of its answer" if head else ""))
    end = _END.search(head + there, start)
    head += socket.recv(len(there) if end is None else end.end() - len(head))


async def _send(socket: sockets.socket, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    loop, left = asyncio.get_running_loop(), memoryview(data)
    while left:
        try:
            left = left[socket.send(left) :]
        except (BlockingIOError, InterruptedError):
            await _until(loop.add_writer, loop.remove_writer, socket)


async def _until(
    watch: Callable[..., object], forget: Callable[[sockets.socket], object], socket: sockets.socket
) -> None:
    """Wait until the loop says that the socket is ready.

    Not by the loop's own ``sock_recv``: what is cancelled there is forgotten a turn later, when the socket's number may
    be another's.
    """
    ready = asyncio.get_running_loop().create_future()
    watch(socket, _wake, ready)
    try:
        await ready
    finally:
        forget(socket)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
