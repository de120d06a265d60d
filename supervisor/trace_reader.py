"""Reads the traces that the processes of a running server write: asks at its control socket, and listens for them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from attrs import frozen

from actors.errors import LocalError, ProtocolViolation
from supervisor.control import ask
from supervisor.private_sockets import MAX_PATH, listen_privately, peer_of
from supervisor.tracing.jsonl import MAX_LINE

logger: Final = logging.getLogger("muxlink.trace")

PATIENCE: Final = 5.0
"""Seconds that a process has for coming, once the server has said that it will."""
LAST_LINES: Final = 3.0
"""Seconds that processes have for their last lines, once they were told that it is over."""
WAITING: Final = 1000
"""Lines that wait to be taken; processes that write more wait, and lose what they cannot keep."""
OURS: Final = b'{"muxlink":'
END: Final = b'{"muxlink":"end"'


@frozen
class Ending:
    """What a process said at the end of its trace."""

    process: str
    reason: str
    events: int
    lost: int


class TraceReader:
    """Listens for traces while it is entered; leaving it ends them all."""

    def __init__(self, control: Path) -> None:
        """``control`` is the server's control socket; ours lies beside it, where the server is sure to reach it."""
        self._control = control
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self._reading: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}
        self._came = self._gone = 0
        self._listening: socket.socket | None = None
        self._stopping: asyncio.TimerHandle | None = None
        self.folder = Path()
        """A private directory, for whatever need not stay."""
        self.processes: tuple[str, ...] = ()
        """Those that write."""
        self.endings: list[Ending] = []
        self.silent = 0
        """How many of them never came."""

    async def __aenter__(self) -> Self:
        """Listen. Raises ListenFailed."""
        self.folder = _private_folder(self._control)
        try:
            self._listening = listen_privately(self.folder / "t.sock")
        except BaseException:
            self._remove()
            raise
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stopping is not None:
            self._stopping.cancel()
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        self._give_up()
        if self._reading:
            await asyncio.wait(tuple(self._reading))
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    async def lines(self, mode: str, options: Mapping[str, object]) -> AsyncIterator[bytes]:
        """Ask for a trace, and return each line of it as it comes, until every process has ended its part.

        Each process's head comes before its other lines. Raises LinkError.
        """
        question = {"ask": "trace", "mode": mode, "to": str(self.folder / "t.sock"), **options}
        answer = await ask(self._control, question)
        match answer:
            case {"processes": [*names]} if names:
                self.processes = tuple(map(str, names))
            case _:
                raise ProtocolViolation(f"the server at {self._control} gave no answer to 'trace' that could be used")
        patience = asyncio.get_running_loop().call_later(PATIENCE, self._look_for_the_silent)
        try:
            while self._gone + self.silent < len(self.processes) or not self._lines.empty():
                if line := await self._lines.get():
                    yield line
        finally:
            patience.cancel()

    def stop(self) -> None:
        """Have all processes end their traces; what they still have to say is read, for a moment."""
        for writer in self._reading.values():
            if writer is not None:
                with suppress(OSError):  # it has ended
                    writer.write_eof()
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().call_later(LAST_LINES, self._give_up)

    def _give_up(self) -> None:
        for task in self._reading:
            task.cancel()

    def _look_for_the_silent(self) -> None:
        self.silent = max(0, len(self.processes) - self._came)
        self._wake()

    def _wake(self) -> None:
        """Have whoever waits for a line look whether there will be one."""
        with suppress(asyncio.QueueFull):  # then there is one
            self._lines.put_nowait(b"")

    def _accept(self, listening: socket.socket) -> None:
        try:
            end, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if peer_of(end).uid not in (os.geteuid(), 0):
            end.close()
            return
        end.setblocking(False)
        self._came += 1
        task = asyncio.get_running_loop().create_task(self._read(end), name="trace-reader")
        self._reading[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._reading[task]
        self._gone += 1
        self._wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("the trace of a process broke off: %s", error)

    async def _read(self, end: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE)
        try:
            self._reading[cast("asyncio.Task[None]", asyncio.current_task())] = writer
            if self._stopping is not None:
                writer.write_eof()
            while line := await reader.readline():
                if line.startswith(END):
                    self._note(line)
                if line.startswith(OURS) and line.endswith(b"\n"):
                    await self._lines.put(line)
        finally:
            writer.transport.abort()  # without the lines that were not taken

    def _note(self, line: bytes) -> None:
        with suppress(ValueError, KeyError, TypeError):  # damaged: whoever reads the file will be told
            said = json.loads(line)
            self.endings.append(Ending(said["process"], said["reason"], said["events"], said.get("lost", 0)))


def _private_folder(control: Path) -> Path:
    """A new directory of our own: beside the control socket, or where temporary files are."""
    beside = control.absolute().parent
    if len(str(beside)) + len("/trace-12345678/t.sock") <= MAX_PATH:
        with suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="trace-", dir=beside))
    try:
        return Path(tempfile.mkdtemp(prefix="muxlink-trace-")).absolute()
    except OSError as error:
        raise LocalError.because(f"no directory can be made for a trace: {error.strerror or error}", error) from error
