"""Where a service lives: endpoints as they are given, and the addresses that the system's resolver finds for them.

``getaddrinfo`` blocks and cannot be stopped. asyncio runs it in its default executor, whose threads both the end of
``asyncio.run`` and the end of the process wait for: one name server that is silent holds up either for half a minute.
So lookups run in daemon threads of their own, at most :data:`MOST_LOOKUPS` at a time, and nobody waits for a thread
whose caller has gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import socket as sockets
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from attrs import define, field, frozen

from actors.errors import ConnectFailed

UNIX_PREFIX: Final = "unix:"
DEFAULT_PORT: Final = 80
SECURE_PORT: Final = 443
MOST_LOOKUPS: Final = 8
"""Threads that look names up at a time, in the whole process; the next names wait."""

SocketAddress = str | tuple[str, int] | tuple[str, int, int, int]
"""What ``connect`` of a socket takes: a path, or a numeric host and a port; for IPv6 also flow label and scope."""


@frozen
class Endpoint:
    """Where a service lives, as it is given: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None
    """The Unix socket's path, where it is one."""
    secure: bool = False
    """Whether a URL asked for TLS."""

    def __str__(self) -> str:
        if self.path is not None:
            return f"{UNIX_PREFIX}{self.path}"
        return _joined(self.host, self.port)

    @property
    def authority(self) -> str:
        """What ``:authority`` says where the caller gives nothing else."""
        if self.path is not None:
            return "localhost"
        default = SECURE_PORT if self.secure else DEFAULT_PORT
        return str(self) if self.port != default else str(self).removesuffix(f":{default}")

    @property
    def numeric(self) -> bool:
        """Whether it needs no lookup: a Unix socket, or a host that is an IP address."""
        if self.path is not None:
            return True
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@frozen
class Address:
    """One concrete place to connect to."""

    endpoint: Endpoint
    """What it was found for; its host is the name that TLS verifies."""
    family: int
    """``socket.AF_INET``, ``AF_INET6`` or ``AF_UNIX``; ``AF_UNSPEC`` for one that only a proxy finds."""
    sockaddr: SocketAddress

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return f"{UNIX_PREFIX}{self.sockaddr}"
        host, port, *more = self.sockaddr
        return _joined(f"{host}%{more[1]}" if more and more[1] else host, port)

    @property
    def numeric(self) -> bool:
        """Whether it needed no lookup of ours, and so stays the same."""
        return self.family == sockets.AF_UNSPEC or self.endpoint.numeric


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(endpoint: Endpoint, *, timeout: float) -> tuple[Address, ...]:
    """The addresses of an endpoint, in the system's order but with the families in turn (RFC 8305, 4).

    A Unix socket and a numeric host need neither thread nor time. Raises ConnectFailed.
    """
    if endpoint.path is not None:
        return (Address(endpoint, sockets.AF_UNIX, endpoint.path),)
    if endpoint.numeric:
        return _addresses(endpoint, _look_up(endpoint.host, endpoint.port, sockets.AI_NUMERICHOST))
    loop = asyncio.get_running_loop()
    lookup = _Lookup(endpoint.host, endpoint.port, loop, loop.create_future())
    _lookups.add(lookup)
    try:
        async with asyncio.timeout(timeout):
            return _addresses(endpoint, await lookup.answer)
    except TimeoutError as error:
        raise ConnectFailed.because(f"no address of {endpoint.host} was found within {timeout:g} s", error) from error


def interleaved(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Each address once, one of each family in turn, beginning with the first one's (RFC 8305, 4)."""
    families: dict[int, dict[Address, None]] = {}
    for address in addresses:
        families.setdefault(address.family, {})[address] = None
    turns = itertools.zip_longest(*families.values())
    return tuple(address for turn in turns for address in turn if address is not None)


_REMEDIES: Final = {
    sockets.EAI_NONAME: "; is the name right?",
    sockets.EAI_AGAIN: "; does this machine reach its name server?",
}
_Found = list[tuple[int, SocketAddress]] | Exception


def _addresses(endpoint: Endpoint, found: _Found) -> tuple[Address, ...]:
    if isinstance(found, Exception):
        words = f"{found.strerror}{_REMEDIES.get(found.errno or 0, '')}" if isinstance(found, OSError) else found
        raise ConnectFailed.because(f"no address of {endpoint.host} was found: {words}", found) from found
    addresses = interleaved(Address(endpoint, family, sockaddr) for family, sockaddr in found)
    if not addresses:
        raise ConnectFailed(f"no address of {endpoint.host} was found: it has neither one of IPv4 nor one of IPv6")
    return addresses


def _look_up(host: str, port: int, flags: int = 0) -> _Found:
    """What the system's resolver says; its error is returned, for it may be that nobody waits for it any more."""
    try:
        found = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM, flags=flags)
    except Exception as error:
        return error
    families = (sockets.AF_INET, sockets.AF_INET6)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found if family in families]  # type: ignore[misc]


@frozen(eq=False)
class _Lookup:
    """One name that somebody waits for."""

    host: str
    port: int
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[_Found]

    def run(self) -> None:
        """In a thread: look it up, unless nobody waits any more."""
        if self.answer.cancelled():
            return
        found = _look_up(self.host, self.port)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(self.deliver, found)

    def deliver(self, found: _Found) -> None:
        if not self.answer.done():
            self.answer.set_result(found)


@define(eq=False)
class _Lookups:
    """The process's lookups: daemon threads that come with the work and end with it."""

    _waiting: deque[_Lookup] = field(factory=deque)
    _threads: int = 0
    _lock: threading.Lock = field(factory=threading.Lock)
    """Held for a few instructions; the loops of several threads may come at the same time."""

    def add(self, lookup: _Lookup) -> None:
        with self._lock:
            self._waiting.append(lookup)
            if self._threads == MOST_LOOKUPS:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="muxlink-lookup", daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads; those that there are will do, if any
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    self._waiting.remove(lookup)
                    lookup.deliver(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                lookup = self._waiting.popleft()
            lookup.run()

    def forget(self) -> None:
        """In a process that was just forked: it has none of its parent's threads."""
        self._waiting, self._threads, self._lock = deque(), 0, threading.Lock()


_lookups: Final = _Lookups()
os.register_at_fork(after_in_child=_lookups.forget)
