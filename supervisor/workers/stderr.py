"""What a process writes to its stderr: read in bounded pieces, passed on in whole lines, the last of them kept."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import IO, Final

logger: Final = logging.getLogger("muxlink.process")

READ_SIZE: Final = 64 * 1024
"""Bytes that are read of one stderr in one turn of the loop."""
MAX_LINE: Final = 64 * 1024
"""Bytes of a line; a longer one is cut."""
MAX_LAST_LINES: Final = 20
MAX_LAST_BYTES: Final = 8 * 1024

Relay = Callable[[bytes], object]
"""Takes one or more whole lines, each with its newline; must not wait."""


class FileRelay:
    """Writes lines to a file descriptor. What cannot be written is lost and counted: a full disk ends no service."""

    __slots__ = ("_fd", "lost")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.lost = 0
        """Lines that were not written, or not wholly."""

    def __call__(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            self.lost += bytes(left).count(b"\n")


relay_to_stderr: Final = FileRelay(2)


class Lines:
    """Puts lines together from what comes in pieces, and cuts those that are too long."""

    __slots__ = ("_longest", "_rest")

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The lines that are whole now, each with its newline."""
        # Never split into lines: there may be one for each byte.
        waiting, at, whole = self._rest + data, 0, []
        while True:
            end = waiting.rfind(b"\n", at, at + self._longest + 1) + 1
            if end > 0:
                whole.append(waiting[at:end])
            elif len(waiting) - at > self._longest:
                end = at + self._longest
                whole.append(waiting[at:end] + b"\n")
            else:
                break
            at = end
        self._rest = waiting[at:]
        return b"".join(whole)

    def rest(self) -> bytes:
        """The last line, where its newline did not come."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest else b""


class Tail:
    """The last lines, bounded in lines and bytes."""

    __slots__ = ("_lines", "_size")

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._size = 0

    def add(self, lines: bytes) -> None:
        for line in lines.removesuffix(b"\n").rsplit(b"\n", MAX_LAST_LINES)[-MAX_LAST_LINES:]:
            kept = line[:MAX_LAST_BYTES]
            self._lines.append(kept)
            self._size += len(kept)
            while len(self._lines) > MAX_LAST_LINES or self._size > MAX_LAST_BYTES:
                self._size -= len(self._lines.popleft())

    def text(self) -> tuple[str, ...]:
        return tuple(line.decode(errors="replace") for line in self._lines)


class StderrReader:
    """Reads a process's stderr, a bounded piece in each turn of the loop, until its end or :meth:`close`."""

    __slots__ = ("_at_end", "_lines", "_loop", "_pipe", "_relay", "tail")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes], relay: Relay, at_end: Callable[[], object]
    ) -> None:
        self._loop, self._pipe, self._relay, self._at_end = loop, pipe, relay, at_end
        self._lines = Lines()
        self.tail = Tail()
        os.set_blocking(pipe.fileno(), False)
        loop.add_reader(pipe.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        return not self._pipe.closed

    def _readable(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._pass_on(self._lines.feed(data))
        else:
            self.close()
            self._at_end()

    def close(self) -> None:
        if self.is_open:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
            self._pass_on(self._lines.rest())

    def _pass_on(self, lines: bytes) -> None:
        if not lines:
            return
        self.tail.add(lines)
        try:
            self._relay(lines)
        except Exception as error:
            logger.error("a relay of stderr failed: its lines are lost", exc_info=error)
