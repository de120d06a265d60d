"""Server processes that can be killed, stopped, continued, and started again where they were."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

from attrs import define, field

from tests.faults import handler
from tests.interop.command import muxlink_argv
from tests.interop.peers import ROOT, environment, kill

START_TIMEOUT: Final = 20.0
HANDLER: Final = "tests.faults.handler:serve"


@define(eq=False)
class ServerProcess:
    """A ``muxlink serve`` of the tests' handler, whose log outlives every end of the process."""

    name: str
    log: Path
    host: str = "127.0.0.1"
    port: int = 0
    """Where it serves, from the first start on."""
    options: tuple[str, ...] = ()
    """More arguments for ``muxlink serve``."""
    prefix: tuple[str, ...] = ()
    """What runs the command, such as ``ip netns exec NAME``."""
    _err: IO[bytes] = field(factory=tempfile.TemporaryFile)
    _process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"{'https' if '--certfile' in self.options else 'http'}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    async def start(self) -> None:
        """Start it, on the port where it was before, and wait until it serves."""
        assert not self.alive, f"{self.name} runs"
        own: Mapping[str, str] = {handler.LOG: str(self.log), handler.NAME: self.name}
        self._process = process = await asyncio.create_subprocess_exec(
            *self.prefix,
            # One process: what is stopped or killed here is who serves.
            *muxlink_argv("serve", HANDLER, "--workers=0", "--bind", f"{self.host}:{self.port}", *self.options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._err,
            cwd=ROOT,
            env={**environment(), **own},
        )
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT):
            line = (await process.stdout.readline()).decode().strip()
        assert line.startswith("serving "), f"{self.name} did not start: {line!r}; {self.err()}"
        self.port = int(line.rpartition(":")[2])

    async def kill(self) -> None:
        """SIGKILL: the kernel closes its sockets, and it says nothing more."""
        self._running.kill()
        await self._ended()

    async def terminate(self) -> int:
        """SIGTERM: it drains, and ends; its exit code."""
        self._running.terminate()
        await self._ended()
        return self._running.returncode or 0

    def stop(self) -> None:
        """SIGSTOP: the kernel goes on taking bytes and connections for it, and nobody answers."""
        self._running.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._running.send_signal(signal.SIGCONT)

    def err(self) -> str:
        """What it has said on stderr."""
        return os.pread(self._err.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def served(self) -> Counter[str]:
        """How often each request was served, in all its lives."""
        return Counter(self.log.read_text(encoding="ascii").split()) if self.log.exists() else Counter()

    async def close(self) -> None:
        if self.alive:
            self._running.kill()
            await self._ended()
        self._err.close()

    async def _ended(self) -> None:
        stdout = self._running.stdout
        assert stdout is not None
        async with asyncio.timeout(START_TIMEOUT):
            await stdout.read()  # to its end: only then does asyncio close the process's transport
            await self._running.wait()
            await kill(self._running)  # has ended: gives its transport the turn that it needs to close


@asynccontextmanager
async def server_process(
    folder: Path,
    name: str = "server",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    options: tuple[str, ...] = (),
    prefix: tuple[str, ...] = (),
) -> AsyncIterator[ServerProcess]:
    """A server process that serves; whatever was done to it, none is left."""
    server = ServerProcess(name, folder / f"{name}.log", host, port, options, prefix)
    try:
        await server.start()
        yield server
    finally:
        await server.close()
