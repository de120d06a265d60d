"""The server of ``muxlink demo``: a ``muxlink serve`` of its own, signals to it, and what it says of its workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self, cast

from attrs import frozen

from actors.errors import ConnectFailed, LinkError, ProtocolViolation
from supervisor.control import ask
from supervisor.storytelling import within

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 20.0
HANDLER: Final = "supervisor.demo:hello"


@frozen
class Worker:
    """One worker process, as its server tells of it."""

    name: str
    pid: int
    generation: int
    connections: int
    streams: int
    """Requests that it has on its hands; 0 also for one that has not begun to serve."""

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


@frozen
class Roll:
    """What a server says of itself and its workers at one moment."""

    pid: int
    generation: int
    restarts: int
    """Workers that were started in the place of one that failed."""
    ready: int
    """Workers that serve."""
    workers: tuple[Worker, ...]
    """All of them, also those that start or drain; the oldest first."""

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(each.pid for each in self.workers)

    @classmethod
    def of(cls, answer: object) -> Self:
        """From the answer to ``stats`` on the control socket. Raises ProtocolViolation for one that is none."""
        try:
            said = cast("dict[str, Any]", answer)
            parent, workers = said["parent"], said["workers"].items()
            return cls(
                int(parent["pid"]), int(parent["generation"]), int(parent["restarts"]), int(parent["workers_ready"]),
                tuple(
                    Worker(
                        name, int(each["pid"]), int(each["generation"]), int(each["load"]),
                        int((each["stats"] or {}).get("streams_open", 0)),
                    )
                    for name, each in workers
                    if each["pid"] is not None  # it has ended, or has not begun
                ),
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolViolation.because(f"the server's figures are none: {error!r}", error) from error


class ServerTree:
    """A server process and its workers."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, control: Path) -> None:
        self.url = url
        self.pids = {process.pid}
        """Every process that ever belonged to it, as far as it was asked."""
        self._process = process
        self._control = control

    @property
    def pid(self) -> int:
        return self._process.pid

    async def roll(self) -> Roll:
        """What it says of itself now. Raises LinkError."""
        roll = Roll.of(await ask(self._control, {"ask": "stats"}, timeout=STOP_TIMEOUT))
        self.pids |= roll.pids
        return roll

    def signal(self, number: signal.Signals) -> None:
        """Signal the parent. Raises LinkError where it has ended."""
        if (ended := self._process.returncode) is not None:
            raise LinkError(f"server process {self.pid} had ended with {ended} before its {number.name}")
        self._process.send_signal(number)

    def kill(self, worker: Worker) -> None:
        """Kill a worker. Raises LinkError where it has ended."""
        try:
            os.kill(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            raise LinkError(f"{worker} had ended before it was killed") from None

    async def ended(self) -> int:
        """The exit code, once it has ended. Raises LinkError where it does not."""
        # To the end of its output: asyncio closes a process's transport only then.
        await within(STOP_TIMEOUT, self._process.communicate(), f"server process {self.pid} did not stop")
        return self._process.returncode or 0

    def left(self) -> list[int]:
        """Its processes that are there, also those that have ended and that nobody has waited for."""
        return sorted(pid for pid in self.pids if _exists(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # of another's the number is used again
        return False
    return True


@asynccontextmanager
async def server_tree(workers: int) -> AsyncIterator[ServerTree]:
    """Have ``muxlink serve`` serve the demo's handler; it is stopped on leaving, if it has not ended by then."""
    with tempfile.TemporaryDirectory(prefix="muxlink-demo-") as private:
        control = Path(private, "control.sock")
        process = await asyncio.create_subprocess_exec(
            # -P: the working directory may hold packages of the same names.
            *(sys.executable, "-P", "-m", "supervisor.cli", "serve", HANDLER, "--bind", "127.0.0.1:0"),
            *("--workers", str(workers), "--control", str(control)),
            *("--log-level", "critical"),  # that a worker is killed is the story itself
            stdout=asyncio.subprocess.PIPE,
            # Options of yours are for servers of yours.
            env={name: value for name, value in os.environ.items() if not name.startswith("MUXLINK_")},
        )
        server = ServerTree(process, "", control)
        try:
            server.url = await _url_of(process)
            yield server
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await server.ended()
                except BaseException:
                    process.kill()
                    for pid in server.pids - {process.pid}:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    await process.wait()
                    raise


async def _url_of(process: asyncio.subprocess.Process) -> str:
    """What the server process says that it serves."""
    if process.stdout is None:
        raise ConnectFailed("the server process has no output to read its address from")
    try:
        async with asyncio.timeout(START_TIMEOUT):
            line = (await process.stdout.readline()).decode().strip()
            if not line:
                raise ConnectFailed(f"the server process did not start: it ended with {await process.wait()}")
    except TimeoutError:
        raise ConnectFailed(f"the server process was not ready within {START_TIMEOUT:g} s") from None
    if not line.startswith("serving "):
        raise ConnectFailed(f"the server process did not start: {line}")
    return line.removeprefix("serving ")
