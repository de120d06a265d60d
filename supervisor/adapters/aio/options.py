"""The keyword arguments of aioh2's four functions: what is supported, and a clear refusal of the rest."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import Final

from attrs import evolve

from actors.addresses import Endpoint, resolve
from actors.errors import ListenFailed, Misuse
from actors.settings import Health, Limits, Tls, check_health, check_limits
from actors.transport import bind_unix, reason_of
from supervisor.adapters.aio.protocol import H2Protocol

LOOPBACK: Final = "127.0.0.1"
LOOPBACK_6: Final = "::1"
FAMILIES: Final = (sockets.AF_UNSPEC, sockets.AF_INET, sockets.AF_INET6)
LEAST_SUSPECT: Final = 0.5
REASONS: Final = {
    "sock": "connections are made anew when they are lost: give host and port, or a path",
    "local_addr": "the system chooses our address",
    "limit": "it is for StreamReader, and there is none: give limits=Limits(stream_window=...)",
    "happy_eyeballs_delay": "addresses are always raced (RFC 8305)",
    "interleave": "addresses are always raced (RFC 8305)",
    "all_errors": "the error names what failed",
    "ssl_shutdown_timeout": "give limits=Limits(shutdown_timeout=...)",
    "start_serving": "the server serves at once",
    "flags": "addresses are looked up with the system's defaults",
    "proto": "it is always TCP",
    "keep_alive": "PING does that: give health=Health(...)",
    "cleanup_socket": "the file is removed when the server is closed",
}
"""Why what asyncio takes is not taken here."""


def refuse(function: str, given: Mapping[str, object]) -> None:
    """Raise Misuse for keyword arguments that are not supported; those that say what holds anyway pass."""
    for name, value in given.items():
        if value is None or (name, value) in (("start_serving", True), ("proto", 0), ("flags", 0)):
            continue
        raise Misuse(f"{function}() takes no {name}={value!r}: {REASONS.get(name, 'there is no such argument')}")


def check_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is not None and loop is not asyncio.get_running_loop():
        raise Misuse("loop is the loop that runs: leave it out")


def check_class(cls: object) -> None:
    """Raise Misuse for what is neither H2Protocol nor made from it."""
    if not isinstance(cls, type) or not issubclass(cls, H2Protocol):
        raise Misuse(f"cls is H2Protocol or a class made from it, not {cls!r}")


def limits_of(limits: Limits | None, concurrency: int, handshake_timeout: float | None) -> Limits:
    """Limits with what has a keyword argument of its own."""
    base = limits if limits is not None else Limits()
    check_limits(base)
    made = evolve(base, max_streams=concurrency)
    return made if handshake_timeout is None else evolve(made, handshake_timeout=handshake_timeout)


def health_of(health: Health | None, functional_timeout: float) -> Health:
    """PINGs go out whenever they are asked for, and none comes too often; what is slow to answer is suspected later."""
    if health is not None:
        check_health(health)
        return health
    usual = Health()
    return Health(least_ping_interval=0.0, suspect=min(max(functional_timeout, LEAST_SUSPECT), usual.timeout))


def client_tls(ssl: SSLContext | Tls | bool | None, server_hostname: str | None) -> Tls | None:
    """How a client does TLS; True verifies against the system's authorities."""
    if ssl is None or ssl is False:
        if server_hostname is not None:
            raise Misuse("server_hostname is for TLS: give ssl=True or an SSLContext, too")
        return None
    if ssl is True:
        return Tls(server_hostname=server_hostname)
    if isinstance(ssl, Tls):
        return ssl if server_hostname is None else evolve(ssl, server_hostname=server_hostname)
    return Tls(context=_context(ssl), server_hostname=server_hostname)


def named(tls: Tls, host: str) -> Tls:
    """The same for a host that is connected to by its addresses."""
    return evolve(tls, server_hostname=host)


def server_tls(ssl: SSLContext | Tls | None) -> Tls | None:
    """How a server does TLS, with a certificate that only its caller can know."""
    if ssl is None or isinstance(ssl, Tls):
        return ssl
    return Tls(context=_context(ssl))


def _context(ssl: object) -> SSLContext:
    if not isinstance(ssl, SSLContext):
        raise Misuse(f"ssl is an SSLContext that has h2 by ALPN, not {ssl!r}")
    return ssl


async def urls_of(
    host: str | None, port: int | None, family: int, limits: Limits, *, secure: bool
) -> tuple[list[str], str]:
    """Where a client connects to, and the name that it connects to; no host is loopback."""
    _check_port(port, 1)
    _check_family(family)
    name = host or (LOOPBACK_6 if family == sockets.AF_INET6 else LOOPBACK)
    if not isinstance(name, str):
        raise Misuse(f"a host is a name or an address, not {host!r}")
    scheme = "https" if secure else "http"
    endpoint = Endpoint(name, port or 0, secure=secure)
    if family == sockets.AF_UNSPEC:
        return [f"{scheme}://{_bracketed(name)}:{port}"], endpoint.authority
    found = await resolve(endpoint, timeout=limits.connect_timeout)
    fitting = [f"{scheme}://{_bracketed(str(each.sockaddr[0]))}:{port}" for each in found if each.family == family]
    if not fitting:
        raise Misuse(f"{name} has no address of the family {sockets.AddressFamily(family).name}: give another, or none")
    return list(dict.fromkeys(fitting)), endpoint.authority


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _check_port(port: object, least: int) -> None:
    if type(port) is not int or not least <= port <= 65_535:
        raise Misuse(f"a port is from {least} to 65535, not {port!r}")


def _check_family(family: object) -> None:
    if family not in FAMILIES:
        raise Misuse(f"family is socket.AF_UNSPEC, AF_INET or AF_INET6, not {family!r}")


# --- listening --------------------------------------------------------------------------------------------------------


async def bind(
    host: str | Sequence[str] | None,
    port: int | None,
    *,
    family: int,
    backlog: int,
    reuse_address: bool | None,
    reuse_port: bool | None,
) -> list[sockets.socket]:
    """Sockets that listen, one for each address; no host is loopback. Raises Misuse and ListenFailed."""
    wanted = 0 if port is None else port
    _check_port(wanted, 0)
    _check_family(family)
    check_backlog(backlog)
    hosts = list(host) if isinstance(host, Iterable) and not isinstance(host, str) else [host]
    for odd in hosts:
        if not isinstance(odd, (str, type(None))):
            raise Misuse(f"a host is a name or an address, or a list of those, not {odd!r}")
    listening: list[sockets.socket] = []
    try:
        for each in hosts:
            name = each or (LOOPBACK_6 if family == sockets.AF_INET6 else LOOPBACK)
            for kind, address in await _addresses(name, wanted, family):
                listening.append(_bound(kind, address, backlog, reuse_address is not False, bool(reuse_port)))
    except (OSError, OverflowError, ValueError) as error:
        close(listening)
        raise ListenFailed.because(
            f"cannot listen on {host or LOOPBACK}:{wanted}: {reason_of(error)}", error
        ) from error
    except BaseException:
        close(listening)
        raise
    return listening


async def _addresses(host: str, port: int, family: int) -> Iterable[tuple[int, object]]:
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, family=family, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
    )
    return dict.fromkeys((kind, address) for kind, _, _, _, address in found)


def _bound(family: int, address: object, backlog: int, reuse_address: bool, reuse_port: bool) -> sockets.socket:
    listening = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        if reuse_address:
            listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT, 1)
        if family == sockets.AF_INET6:
            listening.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)  # type: ignore[arg-type]  # as the resolver gave it
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def bind_path(path: str | os.PathLike[str] | None, backlog: int) -> tuple[sockets.socket, str]:
    """A Unix socket that listens, and its file. Raises Misuse and ListenFailed."""
    check_backlog(backlog)
    name = path_of(path)
    try:
        listening = bind_unix(name)
        listening.listen(backlog)
    except (OSError, ValueError) as error:
        raise ListenFailed.because(f"cannot listen on the Unix socket {name}: {reason_of(error)}", error) from error
    return listening, name


def listening(sock: object, backlog: int) -> sockets.socket:
    """A socket of the caller's, which listens from now on if it did not; whether it can, the server looks."""
    check_backlog(backlog)
    if not isinstance(sock, sockets.socket):
        raise Misuse(f"sock is a socket.socket that is bound, not {sock!r}")
    with suppress(OSError):  # one that cannot listen is refused by the server, in words
        sock.listen(backlog)
    return sock


def path_of(path: str | os.PathLike[str] | None) -> str:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not name or not isinstance(name, str):
        raise Misuse(f"a path is that of a Unix socket, not {path!r}")
    return name


def check_backlog(backlog: object) -> None:
    if type(backlog) is not int or backlog < 1:
        raise Misuse(f"backlog is a number of connections that may wait, not {backlog!r}")


def close(listening: Iterable[sockets.socket], path: str | None = None) -> None:
    """Close what was bound, and remove its file."""
    for each in listening:
        with suppress(OSError):
            each.close()
    if path is not None:
        with suppress(FileNotFoundError):
            os.unlink(path)
