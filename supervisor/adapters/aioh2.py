"""aioh2's interface on links and servers: the same names and calls as the library aioh2, without its faults.

A client is a :class:`~supervisor.link.Link` with one connection, a server a :class:`~supervisor.server.Server`: their
health, drains, limits and traces are here, too.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from ssl import SSLContext

from actors.errors import Misuse
from actors.settings import Health, Limits, Tls
from supervisor.adapters.aio import options
from supervisor.adapters.aio.errors import AIOH2Exception, NoSuchStream, SendException
from supervisor.adapters.aio.protocol import H2Protocol
from supervisor.adapters.aio.server import H2Server
from supervisor.link import Link

__all__ = (
    "AIOH2Exception",
    "H2Protocol",
    "H2Server",
    "NoSuchStream",
    "SendException",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
)


async def open_connection(  # noqa: PLR0913  (asyncio's own, and all have good defaults)
    host: str | None = None,
    port: int | None = None,
    *,
    cls: type[H2Protocol] = H2Protocol,
    loop: asyncio.AbstractEventLoop | None = None,
    concurrency: int = 8,
    functional_timeout: float = 2.0,
    ssl: SSLContext | Tls | bool | None = None,
    server_hostname: str | None = None,
    family: int = socket.AF_UNSPEC,
    ssl_handshake_timeout: float | None = None,
    limits: Limits | None = None,
    health: Health | None = None,
    record: bool = False,
    **unsupported: object,
) -> H2Protocol:
    """Connect to ``host`` (no host: this machine) and ``port``; the connection is restored when it is lost.

    ``ssl`` is True for TLS that verifies by the system's authorities, or a context of yours, which must have h2 by
    ALPN. ``limits``, ``health`` and ``record`` are as a :class:`~supervisor.link.Link` takes them. Other keyword
    arguments of asyncio's raise Misuse, which says why. Raises ConnectFailed, TlsFailed, and ProtocolViolation where
    the peer does not speak HTTP/2.
    """
    options.refuse("open_connection", unsupported)
    options.check_loop(loop)
    options.check_class(cls)
    protocol = cls(True, concurrency=concurrency, functional_timeout=functional_timeout)
    bounds = options.limits_of(limits, concurrency, ssl_handshake_timeout)
    tls = options.client_tls(ssl, server_hostname)
    urls, name = await options.urls_of(host, port, family, bounds, secure=tls is not None)
    if tls is not None and family and tls.server_hostname is None and host:
        tls = options.named(tls, host)
    health = options.health_of(health, functional_timeout)
    await _connect(protocol, urls, name, tls=tls, limits=bounds, health=health, record=record)
    return protocol


async def open_unix_connection(
    path: str | os.PathLike[str] | None = None,
    *,
    cls: type[H2Protocol] = H2Protocol,
    loop: asyncio.AbstractEventLoop | None = None,
    concurrency: int = 8,
    functional_timeout: float = 2.0,
    ssl: SSLContext | Tls | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    limits: Limits | None = None,
    health: Health | None = None,
    record: bool = False,
    **unsupported: object,
) -> H2Protocol:
    """Connect to the Unix socket at ``path``; the rest is as in :func:`open_connection`."""
    options.refuse("open_unix_connection", unsupported)
    options.check_loop(loop)
    options.check_class(cls)
    protocol = cls(True, concurrency=concurrency, functional_timeout=functional_timeout)
    bounds = options.limits_of(limits, concurrency, ssl_handshake_timeout)
    tls = options.client_tls(ssl, server_hostname)
    url = f"unix:{options.path_of(path)}"
    health = options.health_of(health, functional_timeout)
    await _connect(protocol, [url], None, tls=tls, limits=bounds, health=health, record=record)
    return protocol


async def _connect(
    protocol: H2Protocol,
    urls: list[str],
    authority: str | None,
    *,
    tls: Tls | None,
    limits: Limits,
    health: Health,
    record: bool,
) -> None:
    link = Link(urls, tls=tls, limits=limits, health=health, record=record)
    await link.__aenter__()
    protocol.begin(link, limits, scheme="http" if tls is None else "https", authority=authority)


async def start_server(  # noqa: PLR0913  (asyncio's own, and all but the first have good defaults)
    client_connected_cb: Callable[[H2Protocol], object],
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    cls: type[H2Protocol] = H2Protocol,
    loop: asyncio.AbstractEventLoop | None = None,
    concurrency: int = 8,
    functional_timeout: float = 2.0,
    ssl: SSLContext | Tls | None = None,
    sock: socket.socket | None = None,
    family: int = socket.AF_UNSPEC,
    backlog: int = 100,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    limits: Limits | None = None,
    health: Health | None = None,
    record: bool = False,
    **unsupported: object,
) -> H2Server:
    """Serve on ``host`` (no host: this machine) and ``port`` (0 or None: any free one), or on a socket that listens.

    ``client_connected_cb`` is called with the protocol object of each connection: a coroutine function, or a callable
    that returns a task. That is cancelled when the connection ends; what it raises ends the connection. ``concurrency``
    is the number of requests that a client may have open; the surplus is refused. ``limits``, ``health`` and ``record``
    are as a :class:`~supervisor.server.Server` takes them. Other keyword arguments of asyncio's raise Misuse, which
    says why. Raises ListenFailed.
    """
    options.refuse("start_server", unsupported)
    options.check_loop(loop)
    make = _maker(client_connected_cb, cls, concurrency, functional_timeout)
    bounds = options.limits_of(limits, concurrency, ssl_handshake_timeout)
    tls, health = options.server_tls(ssl), options.health_of(health, functional_timeout)
    if sock is not None and (host or port):
        raise Misuse("a socket listens already: give it, or host and port")
    listening = (
        [options.listening(sock, backlog)]
        if sock is not None
        else await options.bind(
            host, port, family=family, backlog=backlog, reuse_address=reuse_address, reuse_port=reuse_port
        )
    )
    return await _serve(
        client_connected_cb,
        make,
        listening,
        given=sock is not None,
        tls=tls,
        limits=bounds,
        health=health,
        record=record,
    )


async def start_unix_server(  # noqa: PLR0913  (asyncio's own, and all but the first have good defaults)
    client_connected_cb: Callable[[H2Protocol], object],
    path: str | os.PathLike[str] | None = None,
    *,
    cls: type[H2Protocol] = H2Protocol,
    loop: asyncio.AbstractEventLoop | None = None,
    concurrency: int = 8,
    functional_timeout: float = 2.0,
    ssl: SSLContext | Tls | None = None,
    sock: socket.socket | None = None,
    backlog: int = 100,
    ssl_handshake_timeout: float | None = None,
    limits: Limits | None = None,
    health: Health | None = None,
    record: bool = False,
    **unsupported: object,
) -> H2Server:
    """Serve on a Unix socket at ``path``, whose file goes with the server; the rest is as in :func:`start_server`."""
    options.refuse("start_unix_server", unsupported)
    options.check_loop(loop)
    make = _maker(client_connected_cb, cls, concurrency, functional_timeout)
    bounds = options.limits_of(limits, concurrency, ssl_handshake_timeout)
    tls, health = options.server_tls(ssl), options.health_of(health, functional_timeout)
    if sock is not None and path is not None:
        raise Misuse("a socket listens already: give it, or a path")
    listening, name = (options.listening(sock, backlog), None) if sock is not None else options.bind_path(path, backlog)
    return await _serve(
        client_connected_cb,
        make,
        [listening],
        path=name,
        given=sock is not None,
        tls=tls,
        limits=bounds,
        health=health,
        record=record,
    )


def _maker(
    handler: Callable[[H2Protocol], object], cls: type[H2Protocol], concurrency: int, functional_timeout: float
) -> Callable[[], H2Protocol]:
    if not callable(handler):
        raise Misuse(f"a handler is a coroutine function, or returns a task, not {handler!r}")
    options.check_class(cls)
    H2Protocol(False, concurrency=concurrency, functional_timeout=functional_timeout)  # raises what it does not like
    return partial(cls, False, concurrency=concurrency, functional_timeout=functional_timeout)


async def _serve(
    handler: Callable[[H2Protocol], object],
    make: Callable[[], H2Protocol],
    listening: list[socket.socket],
    *,
    path: str | None = None,
    given: bool,
    tls: Tls | None,
    limits: Limits,
    health: Health,
    record: bool,
) -> H2Server:
    try:
        server = H2Server(handler, make, listening, path=path, tls=tls, limits=limits, health=health, record=record)
        await server.begin()
    except BaseException:
        if not given:
            options.close(listening, path)
        raise
    return server
