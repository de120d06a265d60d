"""Sockets as messages: an :class:`asyncio.Protocol` that tells its connection; and sockets that listen.

What the socket tells before its connection is there is kept until :meth:`SocketProtocol.attach`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket as sockets
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from actors.errors import Misuse, TlsFailed
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact, ConnectionLost, Peer, Socket, WritePaused, WriteResumed
from actors.outlet import shown
from actors.tls import ALPN, not_h2, tls_broken
from actors.trace import Tracer

BACKLOG: Final = 1024


class SocketProtocol(asyncio.Protocol):
    """One socket, told as messages."""

    def __init__(
        self,
        tracer: Tracer,
        connected: Callable[[SocketProtocol], None] | None = None,
        *,
        where: str | None = None,
    ) -> None:
        """``where`` the other end is, if that is not what the socket says."""
        self.tracer = tracer
        self._where = where
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
        address = self._where or _address(self._transport)
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
        tracer = self.tracer
        if tracer.on:
            tracer.speak_as("socket")
            self._tell(fact)
            tracer.speak_as("caller")
        else:
            self._tell(fact)


def _address(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return shown(name) if isinstance(name, tuple) else str(name or transport.get_extra_info("sockname") or "unix")


def set_user_timeout(socket: Socket, seconds: float) -> None:
    """Have the kernel give a connection up whose sent bytes nobody acknowledges in time (TCP_USER_TIMEOUT, RFC 5482).

    0 leaves it to the system; so do sockets that are not TCP's, and systems without the option.
    """
    inner, option = socket.get_extra_info("socket"), getattr(sockets, "TCP_USER_TIMEOUT", None)
    if seconds and option is not None and inner is not None:
        with suppress(OSError):  # it is not TCP's, or was closed meanwhile, which is told elsewhere
            inner.setsockopt(sockets.IPPROTO_TCP, option, max(1, round(seconds * 1000)))


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


def reason_of(error: Exception, *, remedy: bool = True) -> str:
    """The system's own words, and a remedy where there is one and it is wanted."""
    if not isinstance(error, OSError) or isinstance(error, sockets.gaierror):
        return str(getattr(error, "strerror", None) or error)
    if error.errno is None:
        return str(error)
    return os.strerror(error.errno) + (_REMEDIES.get(error.errno, "") if remedy else "")
