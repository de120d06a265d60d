"""The network itself: packets that are lost, cables that are pulled, names that change."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.network import CLIENT, NAME, SERVERS, Host, Network, Unavailable, names, network, program
from tests.faults.proxy import Way
from tests.interop.peers import ROOT, missing

CONNECT = """
import json, socket, sys
try:
    with socket.create_connection((sys.argv[1], 8080), timeout=0.7) as made:
        print(json.dumps(made.recv(100).decode()))
except OSError as error:
    print(json.dumps(type(error).__name__))
"""
LOOK_UP = """
import json, sys
from tests.faults.network import addresses_of
print(json.dumps(addresses_of(sys.argv[1], 80)))
"""
SERVE = """
import socket
with socket.create_server(("0.0.0.0", 8080)) as listening:
    print("listening", flush=True)
    while True:
        taken, peer = listening.accept()
        with taken:
            taken.sendall(f"{peer[0]} to {taken.getsockname()[0]}".encode())
"""


@asynccontextmanager
async def built() -> AsyncIterator[Network]:
    """The network; the test is over where it cannot be built."""
    try:
        async with network() as net:
            yield net
    except Unavailable as error:
        if error.installable:
            missing(str(error))
        pytest.skip(str(error))


@asynccontextmanager
async def serving(net: Network) -> AsyncIterator[None]:
    """Something on the server's host that says who called whom."""
    process = await asyncio.create_subprocess_exec(
        *net.server.prefix, sys.executable, "-c", SERVE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.communicate()


async def on(host: Host, script: str, argument: str) -> object:
    """What a script says on that host."""
    process = await asyncio.create_subprocess_exec(
        *host.prefix, sys.executable, "-c", script, argument, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said, _ = await process.communicate()
    return json.loads(said)


async def test_the_client_reaches_each_of_the_servers_addresses() -> None:
    async with built() as net, serving(net):
        for address in SERVERS:
            assert await on(net.client, CONNECT, address) == f"{CLIENT} to {address}"


@pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,), ()])
async def test_a_black_hole_says_nothing_and_heals(ways: tuple[Way, ...]) -> None:
    async with built() as net, serving(net):
        await net.black_hole(*ways)
        assert await on(net.client, CONNECT, SERVERS[0]) == "TimeoutError"
        await net.heal()
        assert await on(net.client, CONNECT, SERVERS[0]) == f"{CLIENT} to {SERVERS[0]}"


async def test_one_address_can_be_lost_alone() -> None:
    async with built() as net, serving(net):
        await net.lose(SERVERS[0])
        assert await on(net.client, CONNECT, SERVERS[0]) == "TimeoutError"
        assert await on(net.client, CONNECT, SERVERS[1]) == f"{CLIENT} to {SERVERS[1]}"


async def test_a_pulled_cable_says_nothing_and_can_be_put_back() -> None:
    async with built() as net, serving(net):
        await net.pull()
        assert await on(net.client, CONNECT, SERVERS[0]) in ("TimeoutError", "OSError")  # OSError: no route to host
        await net.plug()
        assert await on(net.client, CONNECT, SERVERS[0]) == f"{CLIENT} to {SERVERS[0]}"


async def test_a_name_has_the_addresses_that_it_was_given_last() -> None:
    async with built() as net, names(net.client, SERVERS[0]) as known:
        assert await on(net.client, LOOK_UP, NAME) == list(SERVERS[:1])
        known.set(*SERVERS[1:])
        first = await on(net.client, LOOK_UP, NAME)
        assert first in (list(SERVERS[1:]), list(SERVERS[:0:-1]))
        assert await on(net.client, LOOK_UP, NAME) == first  # they do not take turns
        known.set()
        assert await on(net.client, LOOK_UP, NAME) == []


async def test_two_networks_at_a_time_know_nothing_of_each_other() -> None:
    async with built() as one, built() as other, serving(one):
        assert await on(one.client, CONNECT, SERVERS[0]) == f"{CLIENT} to {SERVERS[0]}"
        assert await on(other.client, CONNECT, SERVERS[0]) == "ConnectionRefusedError"


def test_a_program_that_is_missing_is_named_with_its_package() -> None:
    with pytest.raises(Unavailable, match="no-such-program is not installed: it is in the Debian package some-package"):
        program("no-such-program", "some-package")
