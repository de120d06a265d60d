"""Reads the traces that the processes of a running server write: asks at its control socket, and listens for them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from attrs import frozen

from actors.errors import DeadlineExceeded, LinkError, LocalError, ProtocolViolation
from supervisor.control import ask
from supervisor.private_sockets import MAX_PATH, listen_privately, peer_of
from supervisor.tracing.jsonl import MAX_LINE
from supervisor.workers.traces import DUMP, MOST_KNOWN

logger: Final = logging.getLogger("muxlink.trace")

PATIENCE: Final = 5.0
"""Seconds that a process has for coming, once the server has said that it will."""
LAST_LINES: Final = 3.0
"""Seconds that processes have for their last lines, once they were told that it is over."""
WAITING: Final = 1000
"""Lines that wait to be taken; processes that write more wait, and lose what they cannot keep."""
OURS: Final = b'{"muxlink":'
HEAD: Final = b'{"muxlink":"head"'
END: Final = b'{"muxlink":"end"'
AGAIN: Final = 1.0
"""Seconds after which the server is asked for processes that it has started since."""
STALE: Final = 3600.0
"""Seconds after which a directory of a reader that never listened is nobody's."""
FOLDER: Final = "trace-"
SOCKET: Final = "t.sock"


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
        self._more = False
        """Whether the server may still start processes that are to write, too."""
        self._asking: asyncio.Task[None] | None = None
        self._heads: dict[str, None] = {}
        self._listening: socket.socket | None = None
        self._stopping: asyncio.TimerHandle | None = None
        self._patience: list[asyncio.TimerHandle] = []
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
            self._listening = listen_privately(self.folder / SOCKET)
        except BaseException:
            self._remove()
            raise
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in (self._stopping, *self._patience):
            if timer is not None:
                timer.cancel()
        self._ask_no_more()
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        self._give_up()
        if tasks := [*self._reading, *filter(None, (self._asking,))]:
            await asyncio.wait(tasks)
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def heard(self) -> tuple[str, ...]:
        """Those that have begun to write."""
        return tuple(self._heads)

    @property
    def broken(self) -> tuple[str, ...]:
        """Those that began to write and did not say that it was all."""
        return tuple(self._heads.keys() - {each.process for each in self.endings})

    async def lines(self, mode: str, options: Mapping[str, object]) -> AsyncIterator[bytes]:
        """Ask for a trace, and return each line of it as it comes, until every process has ended its part.

        Unless it is a dump, processes that the server starts meanwhile write theirs, too: where one has gone, it lasts
        until its ``seconds`` are over, or the server has gone. Each process's head comes before its other lines. Raises
        LinkError.
        """
        question = {"ask": "trace", "mode": mode, "to": str(self.folder / SOCKET), **options}
        if not await self._ask(question):
            raise self._useless()
        if mode != DUMP:
            self._more = True
            self._asking = asyncio.create_task(self._ask_again(question), name="trace-again")
        while not self._is_over():
            if line := await self._lines.get():
                yield line

    async def _ask(self, question: Mapping[str, object]) -> bool:
        """Have processes write that do not yet; returns whether there were any."""
        answer = await ask(self._control, question)
        match answer:
            case {"processes": [*names]}:
                new = [str(name) for name in names if str(name) not in self.processes]
            case _:
                raise self._useless()
        self.processes += tuple(new)
        if new:
            self._patience.append(asyncio.get_running_loop().call_later(PATIENCE, self._look_for_the_silent))
        return bool(new)

    def _useless(self) -> ProtocolViolation:
        return ProtocolViolation(f"the server at {self._control} gave no answer to 'trace' that could be used")

    async def _ask_again(self, question: Mapping[str, object]) -> None:
        """Ask for processes that were started since, as long as the server lives and the trace has time."""
        loop = asyncio.get_running_loop()
        seconds = question.get("seconds")
        until = loop.time() + seconds if isinstance(seconds, float | int) else math.inf
        try:
            while (left := until - loop.time()) > 0:
                await asyncio.sleep(min(AGAIN, left))
                if (left := until - loop.time()) <= 0:
                    break
                rest = {"seconds": left} if seconds is not None else {}
                with suppress(DeadlineExceeded):  # it is busy
                    await self._ask({**question, **rest, "known": self.processes[-MOST_KNOWN:]})
        except LinkError as error:
            logger.debug("no more processes are asked for a trace: %s", error)
        finally:
            self._more = False
            self._wake()

    def _ask_no_more(self) -> None:
        self._more = False
        if self._asking is not None:
            self._asking.cancel()

    def _is_over(self) -> bool:
        """Whether nobody writes any more, and nobody will in the place of who has broken off."""
        if self._gone + self.silent < len(self.processes) or not self._lines.empty():
            return False
        whole = sum(each.reason != "closed" for each in self.endings)
        return not self._more or self._gone == whole

    def stop(self) -> None:
        """Have all processes end their traces; what they still have to say is read, for a moment."""
        self._ask_no_more()
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
                if line.startswith((HEAD, END)):
                    self._note(line)
                if line.startswith(OURS) and line.endswith(b"\n"):
                    await self._lines.put(line)
        finally:
            writer.transport.abort()  # without the lines that were not taken

    def _note(self, line: bytes) -> None:
        with suppress(ValueError, KeyError, TypeError):  # damaged: whoever reads the file will be told
            said = json.loads(line)
            if line.startswith(HEAD):
                self._heads[said["process"]] = None
                return
            self.endings.append(Ending(said["process"], said["reason"], said["events"], said.get("lost", 0)))


def _remove_the_stale(beside: Path) -> None:
    """Remove what readers have left behind that were killed."""
    for folder in beside.glob(f"{FOLDER}????????"):
        with suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and _is_stale(folder, found.st_mtime):
                shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path, changed: float) -> bool:
    """Whether nobody listens there any more; one that does not yet is given time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.setblocking(False)
        try:
            end.connect(str(folder / SOCKET))
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return time.time() - changed > STALE
        except OSError:
            return False  # such as one with many who wait
    return False


def _private_folder(control: Path) -> Path:
    """A new directory of our own: beside the control socket, or where temporary files are."""
    beside = control.absolute().parent
    if len(str(beside)) + len(f"/{FOLDER}12345678/{SOCKET}") <= MAX_PATH:
        with suppress(OSError):
            _remove_the_stale(beside)
            return Path(tempfile.mkdtemp(prefix=FOLDER, dir=beside))
    try:
        return Path(tempfile.mkdtemp(prefix="muxlink-trace-")).absolute()
    except OSError as error:
        raise LocalError.because(f"no directory can be made for a trace: {error.strerror or error}", error) from error
