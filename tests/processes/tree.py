"""A ``muxlink serve --workers N`` of the tests' handler: its processes, what they say, and what they leave."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import pytest
from attrs import define, field, frozen

from actors.errors import LinkError
from supervisor.control import ask
from tests.interop.command import muxlink_argv
from tests.interop.peers import ROOT, environment, kill
from tests.processes import handler

HANDLER: Final = "tests.processes.handler:serve"
START_TIMEOUT: Final = 20.0
ENDS_WITHIN: Final = 15.0


async def until(
    what: str, true: Callable[[], bool | Awaitable[bool]], *, within: float = 20.0, said: Callable[[], str] = str
) -> None:
    """Wait until it is so; fail the test, with what there is to say, once it has not been so for too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        found = true()
        if await found if inspect.isawaitable(found) else found:
            return
        if loop.time() > deadline:
            pytest.fail(f"not within {within} s: {what}\n{said()}")
        await asyncio.sleep(0.02)


@frozen
class Worker:
    """One worker, as the control socket shows it."""

    name: str
    pid: int
    state: str
    load: int
    requests: int
    """Streams that it has served, or serves."""


@define(eq=False)
class ServerTree:
    """A parent and its workers."""

    folder: Path
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(factory=dict)
    bind: str = "127.0.0.1:0"
    handler: str = HANDLER
    prefix: tuple[str, ...] = ()
    """What runs the command, such as a shell that sets limits."""
    pass_fds: Sequence[int] = ()
    stderr: IO[bytes] | None = None
    line: str = ""
    """The first that it said on stdout."""
    _out: IO[bytes] = field(factory=tempfile.TemporaryFile)
    _err: IO[bytes] = field(factory=tempfile.TemporaryFile)
    _process: asyncio.subprocess.Process | None = None

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.folder / "served.log"

    @property
    def deed(self) -> Path:
        """What is written here, a worker does at its start."""
        return self.folder / "deed"

    @property
    def control(self) -> Path:
        return self.folder / "control" / "c.sock"

    @property
    def url(self) -> str:
        return self.line.removeprefix("serving ")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    # --- its life -----------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start the command, which need not come to serve."""
        own = {handler.LOG: str(self.log), handler.DEED: str(self.deed), **self.variables}
        arguments = ("--bind", self.bind, *self.options)
        if "--control" not in self.options:
            arguments = ("--control", str(self.control), *arguments)
        self._process = await asyncio.create_subprocess_exec(
            *self.prefix,
            *muxlink_argv("serve", self.handler, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err if self.stderr is None else self.stderr,
            cwd=ROOT,
            env={**environment(), **own},
            pass_fds=tuple(self.pass_fds),
        )

    async def start(self, workers: int) -> None:
        """Start it, and wait until so many workers serve."""
        await self.begin()
        await self.until("it serves", lambda: "\n" in self.out() or self.process.returncode is not None)
        self.line = self.out().partition("\n")[0]
        assert self.line.startswith("serving "), f"it did not start: {self.line!r}; {self.err()}"
        if "--control" not in self.options:
            await self.ready(workers)

    async def until(self, what: str, true: Callable[[], bool | Awaitable[bool]], *, within: float = 20.0) -> None:
        await until(what, true, within=within, said=self.err)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self, within: float = ENDS_WITHIN) -> int:
        """The parent's exit code, once it has ended; the test fails if it does not end in time."""
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
        except TimeoutError:
            pytest.fail(f"the parent did not end within {within} s; it said: {self.err()}")
        await kill(self.process)  # has ended: gives its transport the turn that it needs to close
        return code

    async def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ends()

    # --- what it does -------------------------------------------------------------------------------------------------

    def out(self) -> str:
        return os.pread(self._out.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def err(self) -> str:
        """What all of its processes have said on stderr."""
        return os.pread(self._err.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    async def ask(self, question: str) -> dict[str, Any]:
        return cast("dict[str, Any]", await ask(self.control, {"ask": question}))

    async def workers(self) -> list[Worker]:
        """Those that there are, and how many requests each has served."""
        found: dict[str, dict[str, Any]] = (await self.ask("stats"))["workers"]
        return [
            Worker(name, each["pid"], each["state"], each["load"], (each["stats"] or {}).get("streams_total", 0))
            for name, each in found.items()
        ]

    async def ready(self, count: int, *, within: float = 20.0) -> list[Worker]:
        """The workers, once there are exactly so many, all of which serve."""
        found: list[Worker] = []

        async def settled() -> bool:
            assert self.process.returncode is None, f"it has ended: {self.err()}"
            try:
                found[:] = await self.workers()
            except LinkError:  # it has not come so far
                return False
            return [each.state for each in found] == ["ready"] * count

        await self.until(f"{count} workers serve", settled, within=within)
        return found

    def children(self) -> set[int]:
        """The processes that the parent has now."""
        return {
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        }

    def living(self) -> set[int]:
        """All of its processes that live, whoever their parent is by now."""
        mark = f"{handler.LOG}={self.log}".encode()
        return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in _environ(pid).split(b"\0")}

    def sockets(self) -> list[Path]:
        """The files of Unix sockets that there are."""
        return [each for each in self.folder.rglob("*") if each.is_socket()]

    def served(self) -> Counter[str]:
        """How often each request was served."""
        return Counter(name for name, _ in self._lines())

    def served_by(self) -> Counter[int]:
        """How many requests each worker has served, those that have ended too."""
        return Counter(int(pid) for _, pid in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        if not self.log.exists():
            return []
        return [(name, pid) for name, _, pid in (line.partition(" ") for line in self.log.read_text().splitlines())]

    async def gone(self, *, sockets_too: bool = True) -> None:
        """Wait until no process is left, and see that there is no socket file."""
        await self.until("no process is left", lambda: not self.living(), within=10)
        if sockets_too:
            assert self.sockets() == []

    async def close(self) -> None:
        """Whatever was done to it, nothing is left."""
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
            await kill(self._process)
        self._out.close()
        self._err.close()


def _environ(pid: int) -> bytes:
    """The environment that a process was started with; empty for one that is dead."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@asynccontextmanager
async def server_tree(folder: Path, workers: int, *options: str, **more: Any) -> AsyncIterator[ServerTree]:
    """A tree that serves; when it is left, it is told to end if it has not, and must leave nothing."""
    tree = ServerTree(folder, ("--workers", str(workers), *options), **more)
    try:
        await tree.start(workers)
        yield tree
        if tree.process.returncode is None:
            assert await tree.terminate() == 0, tree.err()
        await tree.gone()
    finally:
        await tree.close()


@asynccontextmanager
async def unserving_tree(folder: Path, *options: str, **more: Any) -> AsyncIterator[ServerTree]:
    """A tree of which nothing is expected but that nothing is left of it."""
    tree = ServerTree(folder, options, **more)
    try:
        await tree.begin()
        yield tree
        if tree.process.returncode is None:
            await tree.terminate()
        await tree.gone()
    finally:
        await tree.close()
