"""Sockets as messages: an :class:`asyncio.Protocol` that tells its connection, and making connections.

What the socket tells before its connection is there is kept until :meth:`SocketProtocol.attach`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket as sockets
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from actors.errors import ConnectFailed, Misuse, TlsFailed
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact, ConnectionLost, Peer, Socket, WritePaused, WriteResumed
from actors.tls import ALPN, TlsSide, not_h2, tls_broken, tls_failed
from actors.trace import Tracer

BACKLOG: Final = 1024


class SocketProtocol(asyncio.Protocol):
    """One socket, told as messages."""

    def __init__(self, tracer: Tracer, connected: Callable[[SocketProtocol], None] | None = None) -> None:
        self.tracer = tracer
        self._connected = connected
        self._kept: list[ConnectionFact] = []
        self._tell: Callable[[ConnectionFact], object] = self._kept.append
        self._transport: asyncio.Transport | None = None
        self._ssl: ssl.SSLObject | None = None
        self._unheard = True
        self.peer = Peer("nowhere")
        self.refused: TlsFailed | None = None
        """Why it was aborted as soon as it was encrypted: the peer did not choose HTTP/2."""

    @property
    def transport(self) -> asyncio.Transport:
        """The socket itself, once it is connected."""
        if self._transport is None:
            raise Misuse("the socket is not connected yet")
        return self._transport

    @property
    def is_connected(self) -> bool:
        """Whether it was ever connected, TLS handshake included, to a peer of HTTP/2."""
        return self._transport is not None and self.refused is None

    def attach(self, connection: Ref[ConnectionFact]) -> None:
        """From now on, tell ``connection``; first what was kept."""
        kept, self._kept = self._kept, []
        self._tell = connection.tell
        for fact in kept:
            self._say(fact)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        address = _address(self._transport)
        self.peer = Peer(address)
        tls = self._ssl = self._transport.get_extra_info("ssl_object")
        if tls is not None:
            chosen = tls.selected_alpn_protocol()
            self.peer = Peer(address, chosen, self._transport.get_extra_info("peercert") or None)
            if chosen != ALPN:
                self.refused = not_h2(address, chosen)
                self._transport.abort()
                return
        if self._connected is not None:
            self._connected(self)

    def data_received(self, data: bytes) -> None:
        self._unheard = False
        self._say(BytesArrived(data))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ssl is None:
            self._say(ConnectionLost(exc))
        else:
            refused = self._unheard and not self._ssl.server_side
            self._say(ConnectionLost(tls_broken(exc, self.peer.address, refused=refused)))

    def pause_writing(self) -> None:
        self._say(WritePaused())

    def resume_writing(self) -> None:
        self._say(WriteResumed())

    def _say(self, fact: ConnectionFact) -> None:
        if self.tracer.on:
            self.tracer.speak_as("socket")
        self._tell(fact)


def _address(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return shown(name) if isinstance(name, tuple) else str(name or transport.get_extra_info("sockname") or "unix")


def shown(address: tuple[Any, ...]) -> str:
    """``HOST:PORT`` of a socket's address."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def set_user_timeout(socket: Socket, seconds: float) -> None:
    """Have the kernel give a connection up whose sent bytes nobody acknowledges in time (TCP_USER_TIMEOUT, RFC 5482).

    0 leaves it to the system; so do sockets that are not TCP's, and systems without the option.
    """
    inner, option = socket.get_extra_info("socket"), getattr(sockets, "TCP_USER_TIMEOUT", None)
    if seconds and option is not None and inner is not None:
        with suppress(OSError):  # it is not TCP's, or was closed meanwhile, which is told elsewhere
            inner.setsockopt(sockets.IPPROTO_TCP, option, max(1, round(seconds * 1000)))


async def dial(
    tracer: Tracer,
    *,
    host: str = "",
    port: int = 0,
    path: str | None = None,
    timeout: float = 10.0,
    tls: TlsSide | None = None,
) -> SocketProtocol:
    """Connect to a TCP port, trying the host's addresses in turn, or to a Unix socket; with ``tls``, encrypted.

    Raises ConnectFailed, or TlsFailed once there is a connection. ``timeout`` seconds cover both.
    """
    loop = asyncio.get_running_loop()
    where = f"the Unix socket {path}" if path is not None else f"{host}:{port}"
    made: list[SocketProtocol] = []

    def protocol() -> SocketProtocol:
        """Called when the socket is connected: what fails from then on is the handshake."""
        made.append(SocketProtocol(tracer))
        return made[0]

    try:
        async with asyncio.timeout(timeout):
            if path is not None:
                await loop.create_unix_connection(protocol, path, **_client_side(tls))
            else:
                await loop.create_connection(protocol, host, port, **_client_side(tls))
    except (OSError, OverflowError, ValueError) as error:  # among them every error of ssl, and TimeoutError
        if made and tls is not None:
            raise tls_failed(error, where, name=tls.server_hostname or host) from error
        why = f" within {timeout:g} s" if isinstance(error, TimeoutError) else f": {reason_of(error)}"
        raise ConnectFailed.because(f"no connection to {where}{why}", error) from error
    except asyncio.CancelledError:
        if made and made[0].is_connected:
            made[0].transport.abort()  # asyncio would close it, which over TLS waits for the peer
        raise
    connected = made[0]
    if connected.refused is not None:
        raise connected.refused
    if not connected.is_connected:  # asyncio calls a handshake done that was aborted
        raise tls_failed(ConnectionResetError(), where, name=host)
    return connected


def _client_side(tls: TlsSide | None) -> dict[str, Any]:
    if tls is None:
        return {}
    named = {} if tls.server_hostname is None else {"server_hostname": tls.server_hostname}
    return {**handshake_options(tls), **named}


def handshake_options(tls: TlsSide) -> dict[str, Any]:
    """How asyncio is told of TLS, on either side."""
    return {
        "ssl": tls.context,
        "ssl_handshake_timeout": tls.handshake_timeout,
        "ssl_shutdown_timeout": tls.shutdown_timeout,
    }


def bind_unix(path: str) -> sockets.socket:
    """A socket that listens at the path, where a file that nobody listens on is replaced. Raises OSError."""
    _clear_stale(path)
    return _bound(sockets.AF_UNIX, path)


async def bind_tcp(host: str, port: int) -> list[sockets.socket]:
    """A listening socket for each address of the host that this machine has. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
    )  # fmt: skip
    listening: list[sockets.socket] = []
    unusable: OSError | None = None
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                listening.append(_bound(family, address))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                unusable = error
        if unusable is not None and not listening:
            raise unusable
    except BaseException:
        for each in listening:
            each.close()
        raise
    return listening


def _bound(family: int, address: Any) -> sockets.socket:
    listening = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        if family != sockets.AF_UNIX:
            listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            listening.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _clear_stale(path: str) -> None:
    """Remove a socket file that nobody listens on; asyncio would remove a living server's too."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} is there and is no socket: remove it or choose another path")
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FileExistsError("a server is listening there: stop it or choose another path")


_REMEDIES: Final = {
    errno.EADDRINUSE: "; stop what uses it or choose another port",
    errno.EACCES: "; choose a port of 1024 or above, or a place that you may use",
    errno.ECONNREFUSED: "; is the server running?",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
}
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def reason_of(error: Exception, *, remedy: bool = True) -> str:
    """The system's own words, without asyncio's around them, and a remedy where there is one and it is wanted."""
    if not isinstance(error, OSError) or isinstance(error, sockets.gaierror):
        return str(getattr(error, "strerror", None) or error)
    number = error.errno
    if number is None and (found := _ERRNO.search(str(error))):
        number = int(found[1])  # asyncio tried several addresses and put the errors into one text: the first will do
    if number is None:
        return str(error)
    return os.strerror(number) + (_REMEDIES.get(number, "") if remedy else "")
