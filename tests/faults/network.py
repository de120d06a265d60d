"""A client's host, a router and a server's host as network namespaces, and names that a ``dnsmasq`` tells the client.

::

    client 198.18.1.2 ── cable ── 198.18.1.1 router 198.18.2.1 ── cable ── 198.18.2.2, .3, .4 server

Nothing leads out of it: the hosts know no other network. The router loses packets by ``blackhole`` routes, which needs
neither a firewall nor a queueing discipline of the kernel; a cable is pulled by taking down the router's end of it, so
that the client's end loses its carrier and keeps its addresses. Needs root, ``ip`` and, for names, ``dnsmasq``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from tests.faults.proxy import Way
from tests.interop.peers import ROOT

CLIENT: Final = "198.18.1.2"
SERVERS: Final = ("198.18.2.2", "198.18.2.3", "198.18.2.4")
NAME: Final = "service.test"
"""The name that a client's host knows."""
_numbers: Final = itertools.count(1)
_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class Unavailable(Exception):
    """This machine does not allow it, or a program is missing; says which."""

    def __init__(self, reason: str, *, installable: bool = False) -> None:
        super().__init__(reason)
        self.installable = installable


def program(name: str, package: str) -> str:
    """The path of a program. Raises Unavailable."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Unavailable(f"{name} is not installed: it is in the Debian package {package}", installable=True)
    return found


async def _run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    if process.returncode:
        raise Unavailable(f"{' '.join(argv)} failed: {err.decode('utf-8', 'replace').strip()}")


@frozen
class Host:
    """A network namespace."""

    ip: str
    name: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command on this host, before the command."""
        return self.ip, "netns", "exec", self.name

    async def run(self, *arguments: str) -> None:
        """Run ``ip`` for this host. Raises Unavailable."""
        await _run(self.ip, "-n", self.name, *arguments)


@define(eq=False)
class Network:
    """The three hosts and their cables."""

    client: Host
    router: Host
    server: Host
    _lost: set[str] = field(factory=set)

    async def build(self) -> None:
        for host in (self.client, self.router, self.server):
            await _run(host.ip, "netns", "add", host.name)
            await host.run("link", "set", "lo", "up")
        await self._lay("c", self.client, "198.18.1.1", (CLIENT,), "198.18.2.0/24")
        await self._lay("s", self.server, "198.18.2.1", SERVERS, "198.18.1.0/24")
        await _run(*self.router.prefix, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    async def _lay(self, end: str, host: Host, gateway: str, addresses: tuple[str, ...], behind: str) -> None:
        """A cable from the router's ``end`` to the host's ``eth0``."""
        await _run(
            host.ip, *("link", "add", end, "netns", self.router.name, "type", "veth"),
            *("peer", "name", "eth0", "netns", host.name),
        )  # fmt: skip
        for address in addresses:
            await host.run("addr", "add", f"{address}/24", "dev", "eth0")
        await self.router.run("addr", "add", f"{gateway}/24", "dev", end)
        await host.run("link", "set", "eth0", "up")
        await self.router.run("link", "set", end, "up")
        await host.run("route", "add", behind, "via", gateway)

    async def lose(self, *addresses: str) -> None:
        """Lose, without a word, every packet on its way to one of these addresses."""
        for address in addresses:
            await self.router.run("route", "add", "blackhole", f"{address}/32")
            self._lost.add(address)

    async def black_hole(self, *ways: Way) -> None:
        """Lose every packet in these directions (both)."""
        await self.lose(
            *(SERVERS if not ways or Way.UP in ways else ()), *((CLIENT,) if not ways or Way.DOWN in ways else ())
        )

    async def heal(self) -> None:
        """Lose nothing any more."""
        while self._lost:
            await self.router.run("route", "del", "blackhole", f"{self._lost.pop()}/32")

    async def pull(self) -> None:
        """Pull the client's cable out of the router."""
        await self.router.run("link", "set", "c", "down")

    async def plug(self) -> None:
        """Put it back."""
        await self.router.run("link", "set", "c", "up")

    async def demolish(self) -> None:
        for host in (self.client, self.router, self.server):
            with suppress(Unavailable):  # never built
                await _run(host.ip, "netns", "del", host.name)


@asynccontextmanager
async def network() -> AsyncIterator[Network]:
    """The three hosts. Raises Unavailable where this machine does not allow them."""
    ip = program("ip", "iproute2")
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    stem = f"faults-{os.getpid()}-{next(_numbers)}"
    built = Network(Host(ip, f"{stem}-c"), Host(ip, f"{stem}-r"), Host(ip, f"{stem}-s"))
    try:
        await built.build()
        yield built
    finally:
        await built.demolish()


@define(eq=False)
class Names:
    """What a host knows of ``NAME``: it asks a ``dnsmasq`` of its own, which asks nobody."""

    hosts: Path
    process: asyncio.subprocess.Process

    def set(self, *addresses: str) -> None:
        """Let the name have these addresses; without any, it does not exist."""
        self.hosts.write_text("".join(f"{address} {NAME}\n" for address in addresses), encoding="ascii")
        self.process.send_signal(signal.SIGHUP)  # read it again, and forget the old


@asynccontextmanager
async def names(host: Host, *addresses: str) -> AsyncIterator[Names]:
    """Give a host a name server, at its own 127.0.0.1. Raises Unavailable."""
    dnsmasq = program("dnsmasq", "dnsmasq-base")
    folder = Path("/etc/netns", host.name)  # what `ip netns exec` puts over /etc
    with tempfile.TemporaryDirectory() as temporary:
        hosts = Path(temporary, "hosts")
        _prepare(folder, hosts)
        try:
            process = await asyncio.create_subprocess_exec(
                *host.prefix, dnsmasq, "--keep-in-foreground", "--no-resolv", "--no-hosts", "--local=/test/",
                "--no-round-robin", f"--addn-hosts={hosts}", "--listen-address=127.0.0.1", "--bind-interfaces",
                "--user=root", "--conf-file=/dev/null", "--pid-file", "--log-facility=-",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            known = Names(hosts, process)
            try:
                await _says(process, b"cleared cache", b"read ")
                known.set(*addresses)
                yield known
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.communicate()
        finally:
            shutil.rmtree(folder)


def _prepare(folder: Path, hosts: Path) -> None:
    hosts.write_text("", encoding="ascii")
    folder.mkdir(parents=True)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n", encoding="ascii")


async def _says(process: asyncio.subprocess.Process, *words: bytes) -> None:
    """Wait until a line has one of the words."""
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(10):
        while line := await process.stderr.readline():
            said += line
            if any(word in line for word in words):
                return
    raise Unavailable(f"dnsmasq did not start: {said.decode('utf-8', 'replace')}")


async def first_address(host: Host) -> str:
    """The address of the service's name that is tried first on a host."""
    script = f"from {__name__} import addresses_of; print(addresses_of({NAME!r}, 80)[0])"
    process = await asyncio.create_subprocess_exec(
        *host.prefix, sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said, _ = await process.communicate()
    return said.decode().strip()


def addresses_of(name: str, port: int) -> list[str]:
    """What this process is told of a name, in that order; nothing where it does not exist."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
    except socket.gaierror:
        return []
