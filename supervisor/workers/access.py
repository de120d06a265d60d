"""The access log: a line for each stream that a handler served; and how any log writes times and texts."""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import logging
import os
import re
import select
import stat
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from attrs import define, field

from actors.errors import ErrorCode, LinkError, Misuse, StreamReset, code_name
from actors.server_stream import Handler, ServerStream
from supervisor.workers.options import LOG_FORMATS, OFF, STDOUT

logger: Final = logging.getLogger("muxlink.access")

STDOUT_FILENO: Final = 1
FLUSH_AFTER: Final = 1.0
"""Seconds that a line of the access log waits for others, at most."""
FLUSH_SIZE: Final = 64 * 1024
"""Bytes that wait, at most."""
KEPT: Final = 1024 * 1024
"""Bytes that are kept for a pipe that is full, at most."""
MAX_FIELD: Final = 512
"""Characters of a line that are the peer's to choose, in one field; with them a line fits into PIPE_BUF."""
PRIVATE: Final = re.compile("[?#]")
"""Begins what may hold secrets."""


class AccessLog:
    """A line for each stream that a handler served, in a file that several processes may share.

    ``with`` opens the file, and raises Misuse where that cannot be; ``off`` writes nothing, ``-`` to stdout. Lines are
    kept for a second, or 64 KiB, and written whole; what the disk does not take is lost, and counted in ``lost``.
    """

    def __init__(self, where: str, format: str, *, process: str = "") -> None:
        """``process`` stands before the names of the streams, where others write to the same file."""
        if format not in LOG_FORMATS:
            raise Misuse(f"a log's format is {' or '.join(LOG_FORMATS)}, not {format!r}")
        self.where = where
        self.lost = 0
        """Lines that could not be written."""
        self._in_json = format == "json"
        self._process = f"{process}/" if process else ""
        self._file: int | None = None
        self._is_pipe = False
        self._lines: list[bytes] = []
        self._size = 0
        self._stuck = False
        """Whether the last flush had to keep lines."""
        self._torn = False
        """Whether the last write ended within a line."""
        self._told = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if self.where != OFF:
            try:
                self._take(self._open())
            except (OSError, ValueError) as error:
                raise Misuse.because(f"cannot write the access log {self.where}: {_reason(error)}", error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._lose(len(self._lines), None)
        self._clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self.lost:
            logger.warning("the access log %s lost %d lines", self.where, self.lost)

    def wrap(self, handler: Handler) -> Handler:
        """The handler, each of whose streams gives a line once it has ended. Raises Misuse before the log is open."""
        if self.where == OFF:
            return handler
        if self._file is None:
            raise Misuse(f"the access log {self.where} is not open: wrap handlers within 'with AccessLog(...) as log'")

        async def logged(stream: ServerStream) -> None:
            entry = _Entry(stream, self._process + stream.name)
            # Not as the handler ends: what it raised may still become a response, such as 413.
            if (task := asyncio.current_task()) is not None:
                task.add_done_callback(lambda done: self._add(entry.line(done, self._in_json)))
            try:
                await handler(stream)
            finally:
                entry.cause = stream.cause

        return logged

    def reopen(self) -> None:
        """Go on in the file that has the name now, after the old one was moved away; without one, in the old one."""
        if self._file is None or self.where == STDOUT:
            return
        self.flush()
        try:
            file = self._open()
        except (OSError, ValueError) as error:
            logger.warning("the access log %s cannot be opened again: %s", self.where, _reason(error))
            return
        os.close(self._file)
        self._take(file)

    def flush(self) -> None:
        """Write what is kept. Never raises; a pipe that is full gets it later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._stuck = self._lines, False
        self._clear()
        for group in _groups(lines, select.PIPE_BUF) if self._is_pipe else filter(None, [lines]):
            self._stuck = self._stuck or not self._write(group)
            if self._stuck:
                self._lines += group
        self._size = sum(map(len, self._lines))
        if self._size >= KEPT:
            self._lose(len(self._lines), OSError(errno.EAGAIN, "nobody reads them"))
            self._clear()

    def _add(self, line: bytes) -> None:
        if self._file is None:
            self.lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= (KEPT if self._stuck else FLUSH_SIZE):
            self.flush()
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._lines:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER, self._time_up)

    def _time_up(self) -> None:
        self.flush()
        self._arm()

    def _clear(self) -> None:
        self._lines, self._size = [], 0

    def _open(self) -> int:
        if self.where == STDOUT:
            return os.dup(STDOUT_FILENO)
        # O_NONBLOCK: a FIFO without a reader is an error, and one with a slow reader is no reason to stand still.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(self.where, flags, 0o600)

    def _take(self, file: int) -> None:
        self._file, self._torn, self._told = file, False, False
        # The kernel keeps writes of several processes apart: in a file any, in a pipe those of up to PIPE_BUF bytes.
        self._is_pipe = not stat.S_ISREG(os.fstat(file).st_mode)

    def _write(self, lines: list[bytes]) -> bool:
        """Write these lines at once, or lose them; False where they should be kept."""
        if self._file is None:
            return True  # it is closed, and nothing was kept
        data, done = (b"\n" if self._torn else b"") + b"".join(lines), 0
        try:
            if self._is_pipe and not _would_take(self._file):
                return False
            while done < len(data):  # what is written in part is refused, with the reason, when it is tried again
                done += os.write(self._file, data[done:])
        except OSError as error:
            if not done and isinstance(error, BlockingIOError):
                return False
            self._lose(min(len(lines), data[done:].count(b"\n")), error)
        if done:
            self._torn = data[done - 1] != ord("\n")
        return True

    def _lose(self, lines: int, error: OSError | None) -> None:
        self.lost += lines
        if error is not None and not self._told:
            self._told = True
            logger.warning("the access log %s cannot be written, and loses lines: %s", self.where, _reason(error))


@define(eq=False)
class _Entry:
    """What is said of a stream once it has ended."""

    stream: ServerStream
    name: str
    began: float = field(factory=lambda: asyncio.get_running_loop().time())
    cause: LinkError | None = None
    """What ended it badly, as the handler left it: a stream that is over has one in any case."""

    def line(self, done: asyncio.Task[object], in_json: bool) -> bytes:
        stream, cause = self.stream, self._why(done)
        when, seconds = rfc3339(time.time()), asyncio.get_running_loop().time() - self.began
        peer, method, path = map(_field, (stream.peer.address, stream.method, PRIVATE.split(stream.path, 1)[0]))
        if in_json:
            return as_json({
                "time": when, "peer": peer, "method": method, "path": path, "status": stream.status or None,
                "cause": cause, "received": stream.received, "sent": stream.sent, "seconds": round(seconds, 6),
                "stream": self.name,
            }).encode() + b"\n"  # fmt: skip
        end = "/".join(str(each) for each in (stream.status, cause) if each)
        sizes = f"{stream.received} {stream.sent}"
        return f"{when} {peer} {method} {path} {end} {sizes} {seconds:.6f} {self.name}\n".encode()

    def _why(self, done: asyncio.Task[object]) -> str | None:
        """The code of a reset, the name of an error, or None where the response came to its end."""
        error: BaseException | None = self.cause
        if error is None and not done.cancelled():
            error = done.exception()
        if isinstance(error, StreamReset):
            return code_name(error.code)
        if error is not None:
            return type(error).__name__
        return None if self.stream.status else ErrorCode.INTERNAL_ERROR.name


def _field(text: str) -> str:
    """One word, in ASCII, of what a peer may have chosen."""
    word = ascii(text[:MAX_FIELD])[1:-1].replace(" ", "\\x20")
    return (word if len(word) <= MAX_FIELD else f"{word[:MAX_FIELD]}...") or "-"


def _groups(lines: list[bytes], most: int) -> Iterator[list[bytes]]:
    """The lines in groups of up to so many bytes, one line at least."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and size + len(line) >= most:  # and a newline may come before them
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group


def _would_take(file: int) -> bool:
    """Whether a pipe has room for PIPE_BUF bytes, or an error to tell."""
    waiting = select.poll()
    waiting.register(file, select.POLLOUT)
    return bool(waiting.poll(0))


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


# --- how it is written ------------------------------------------------------------------------------------------------


def rfc3339(seconds: float) -> str:
    """The time in UTC, with milliseconds."""
    whole, thousandths = divmod(int(seconds * 1000), 1000)
    return f"{_to_the_second(whole)}.{thousandths:03}Z"


@functools.lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    """Many lines are written in one second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def printable(text: str) -> str:
    """The text with all that could move a cursor, change a colour or end the line escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def as_json(value: object) -> str:
    """One line of JSON in ASCII."""
    return json.dumps(value).replace("\x7f", "\\u007f")
