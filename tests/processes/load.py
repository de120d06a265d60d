"""Load for a tree: our own link and h2load at the same time, and clients that come anew for each request."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from attrs import define, field, frozen

from supervisor.link import Link
from tests.faults.handler import ID
from tests.faults.witness import ANSWERED, Asked, ask, contradiction
from tests.interop.peers import Ran, Tool
from tests.support.frames import PREFACE, Flag, Parser, Type, encode, headers, request, settings

H2LOAD: Final = "h2load"
"""What the log calls h2load's requests: they are all the same."""
PATIENCE: Final = 1.0
"""Seconds that a new connection may be silent (M1)."""
_numbers: Final = itertools.count(1)

# --- clients that come anew -------------------------------------------------------------------------------------------


@frozen
class Visit:
    """A new connection for one request, and what became of it."""

    name: str
    began: float
    ended: float
    outcome: str
    """``answered``, ``refused``, ``reset`` or ``silent``."""


async def visit(port: int, name: str, *, patience: float = PATIENCE) -> Visit:
    """Connect, ask one thing, and go; silence is measured from one byte of the server's to the next."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with socket.socket() as client:
        client.setblocking(False)
        # Closing resets: thousands of these must not fill the table of ports that wait.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            async with asyncio.timeout(patience):
                await loop.sock_connect(client, ("127.0.0.1", port))
        except TimeoutError:
            return Visit(name, began, loop.time(), "silent")
        except OSError:
            return Visit(name, began, loop.time(), "refused")
        fields = request("GET", "/", (ID, name))
        outcome = "reset"
        try:
            await loop.sock_sendall(client, PREFACE + settings() + headers(1, encode(fields), end_stream=True))
            parser = Parser()
            while True:
                data = await _hear(client, patience)
                frames = parser.parse(data)
                if any(each.stream_id == 1 and each.type == Type.DATA and each.has(Flag.END_STREAM) for each in frames):
                    outcome = "answered"
                if not data or outcome == "answered":
                    break
        except TimeoutError:
            outcome = "silent"
        except OSError:
            pass  # reset
        return Visit(name, began, loop.time(), outcome)


async def _hear(client: socket.socket, patience: float) -> bytes:
    try:
        async with asyncio.timeout(patience):
            return await asyncio.get_running_loop().sock_recv(client, 65_536)
    except TimeoutError:
        try:
            return client.recv(65_536)  # it was there: our own loop was late
        except BlockingIOError:
            raise TimeoutError from None


@define(eq=False)
class Visitors:
    """Tasks that open one connection after the other."""

    port: int
    visits: list[Visit] = field(factory=list)

    @property
    def answered(self) -> list[Visit]:
        return [each for each in self.visits if each.outcome == "answered"]

    @property
    def failed(self) -> list[Visit]:
        return [each for each in self.visits if each.outcome != "answered"]

    async def _keep_coming(self, pause: float) -> None:
        while True:
            self.visits.append(await visit(self.port, f"visit-{next(_numbers)}"))
            await asyncio.sleep(pause)


@asynccontextmanager
async def visiting(port: int, *, tasks: int = 20, pause: float = 0.1) -> AsyncIterator[Visitors]:
    """Have them come; each ends the visit that it is at."""
    visitors = Visitors(port)
    coming = [asyncio.create_task(visitors._keep_coming(pause)) for _ in range(tasks)]
    try:
        yield visitors
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)


# --- our own link -----------------------------------------------------------------------------------------------------


@define(eq=False)
class Linked:
    """What a link was asked, and how it ended."""

    link: Link
    asked: list[Asked] = field(factory=list)

    @property
    def failed(self) -> list[Asked]:
        return [each for each in self.asked if each.outcome != ANSWERED]

    def contradictions(self, served: Mapping[str, int]) -> list[str]:
        """What the workers' log says otherwise."""
        found = [(each, contradiction(each.outcome, each.idempotent, served.get(each.name, 0))) for each in self.asked]
        return [f"{each.name} {why} {each.error}" for each, why in found if why is not None]

    async def _keep_asking(self, pause: float, wait: float) -> None:
        while True:
            name = f"link-{next(_numbers)}"
            # Not cut off by the end of the load: each request ends, and is counted.
            asking = asyncio.ensure_future(ask(self.link, name, idempotent=False, timeout=10, wait=wait))
            try:
                self.asked.append(await asyncio.shield(asking))
            except asyncio.CancelledError:
                self.asked.append(await asking)
                raise
            await asyncio.sleep(pause)


@asynccontextmanager
async def asking(
    url: str, *, connections: int = 1, callers: int = 4, pause: float = 0.01, wait: float = 0.01
) -> AsyncIterator[Linked]:
    """Have callers ask over a link; none of their requests is idempotent."""
    async with Link(url, connections=connections, wait_for_ready=True) as link:
        linked = Linked(link)
        tasks = [asyncio.create_task(linked._keep_asking(pause, wait)) for _ in range(callers)]
        try:
            yield linked
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# --- h2load -----------------------------------------------------------------------------------------------------------


@frozen
class Account:
    """What h2load says of its requests; it ends with 0 whatever became of them."""

    total: int
    succeeded: int
    failed: int


def account(ran: Ran) -> Account:
    found = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed", ran.text)
    assert found, ran
    return Account(*(int(count) for count in found.groups()))


async def load(h2load: Tool, url: str, requests: int, *options: str, limit: float = 60.0) -> Account:
    """Run h2load, whose requests the handler calls ``h2load``."""
    return account(await h2load("-n", str(requests), *options, "-H", f"{ID}: {H2LOAD}", url, limit=limit))


def total_of(served: Counter[str], kind: str) -> int:
    """How many requests of this kind the log has."""
    return sum(count for name, count in served.items() if name.partition("-")[0] == kind)
