"""Where a fault is acted out: servers, what leads to them, and a link under load that is watched."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from attrs import define

from tests.faults.network import SERVERS, Network, network
from tests.faults.processes import ServerProcess, server_process
from tests.faults.proxy import Proxy
from tests.faults.report import Finding
from tests.faults.witness import Load, Record, watching, watching_from
from tests.interop.peers import ROOT

WARM: Final = 30
"""Answers before the fault, and after its end."""


@define(eq=False)
class Stage:
    """A link under load, what it leads to, and when the fault began and ended."""

    record: Record
    servers: list[ServerProcess]
    began: float = 0.0
    healed: float = 0.0

    def strike(self) -> None:
        """The fault begins, and is over."""
        self.began = self.healed = asyncio.get_running_loop().time()

    def heal(self) -> None:
        """The fault ends."""
        self.healed = asyncio.get_running_loop().time()

    async def lasts(self, seconds: float) -> None:
        """Let the fault last."""
        await asyncio.sleep(self.began + seconds - asyncio.get_running_loop().time())

    async def recover(self) -> None:
        """Wait until requests are answered again, or until it is clear that they are not."""
        try:
            await self.record.answers(WARM, since=self.healed, within=10.0)
        except TimeoutError:
            return  # the outage tells

    def finding(self, fault: str) -> Finding:
        served = sum((server.served() for server in self.servers), Counter[str]())
        return Finding.of(fault, self.record, self.began, self.healed, served)


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[tuple[Stage, Proxy]]:
    """A link through a proxy to a server process, when it has answered a while."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_process(folder))
        proxy = await stack.enter_async_context(Proxy(server.port))
        record = await stack.enter_async_context(watching(Load(urls=(proxy.url,))))
        await record.answers(WARM)
        stage = Stage(record, [server])
        yield stage, proxy
        await stage.recover()


@asynccontextmanager
async def direct(folder: Path, servers: int = 1, *, patient: bool = False) -> AsyncIterator[Stage]:
    """A link to server processes, when it has answered a while."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(server_process(folder, f"server-{n}")) for n in range(servers)]
        # Patience is for as long as a process takes to start on a machine that has much else to do.
        urls = tuple(server.url for server in started)
        load = Load(urls=urls, patient=patient, timeout=30.0 if patient else 4.0)
        async with watching(load) as record:
            await record.answers(WARM)
            stage = Stage(record, started)
            yield stage
            await stage.recover()


@asynccontextmanager
async def distant(folder: Path) -> AsyncIterator[tuple[Stage, Network]]:
    """A link on another host than its server."""
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(network())
        serving = server_process(folder, host=SERVERS[0], port=8080, prefix=net.server.prefix)
        server = await stack.enter_async_context(serving)
        load = Load(urls=(server.url,))
        record = await stack.enter_async_context(watching_from(net.client.prefix, load, str(ROOT)))
        await record.answers(WARM)
        stage = Stage(record, [server])
        yield stage, net
        await stage.recover()
