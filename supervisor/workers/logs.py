"""The log of the ``muxlink`` command's processes, with the actor's name in every line.

Writing never fails whoever has something to say: what a full disk or a broken pipe does not take is lost and counted.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from typing import Final, TextIO

from actors.errors import Misuse
from supervisor.workers.access import AccessLog, as_json, printable, rfc3339
from supervisor.workers.options import LOG_FORMATS, LOG_LEVELS

__all__ = ("AccessLog", "Lines", "configure")

NAMELESS: Final = "muxlink"
"""What a process is called that has no name of its own."""
UNNAMED: Final = re.compile(r"Task-\d+")
"""asyncio's name for a task that nobody named: it is no actor's."""
HEADERS_IN_CLEAR: Final = ("hpack", "h2")
"""Libraries whose debug log has the headers of each request in it, and so their secrets."""
INDENT: Final = "\n    "
"""Begins what follows the first line of a record, so that nothing in a record can pass for another one."""


def configure(options_format: str, level: str, *, stream: TextIO | None = None, process: str = "") -> None:
    """Have all that is logged written to the stream (stderr), in one of :data:`LOG_FORMATS`; again replaces the last.

    Raises Misuse for a format or level that there is none of.
    """
    if options_format not in LOG_FORMATS:
        raise Misuse(f"a log's format is {' or '.join(LOG_FORMATS)}, not {options_format!r}")
    if level not in LOG_LEVELS:
        raise Misuse(f"a log's level is one of {', '.join(LOG_LEVELS)}, not {level!r}")
    root = logging.getLogger()
    for each in [each for each in root.handlers if isinstance(each, Lines)]:
        root.removeHandler(each)
    root.addHandler(Lines(stream if stream is not None else sys.stderr, process or NAMELESS, options_format == "json"))
    root.setLevel(level.upper())
    for name in HEADERS_IN_CLEAR:
        logging.getLogger(name).setLevel(max(root.level, logging.INFO))


class Lines(logging.Handler):
    """Writes records as lines, and never raises."""

    def __init__(self, stream: TextIO, process: str, in_json: bool) -> None:
        super().__init__()
        self.lost = 0
        """Records that could not be written."""
        self._stream = stream
        self._process = process
        self._in_json = in_json
        self._plain = logging.Formatter()
        self._busy = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._busy:  # what is written has something to say itself
            self.lost += 1
            return
        self._busy = True
        try:
            self._write(self.format(record) + "\n")
        except Exception:  # whatever it was: there is nobody left to tell
            self.lost += 1
        finally:
            self._busy = False

    def format(self, record: logging.LogRecord) -> str:
        """The record's line or, for a text of several lines, lines."""
        process, actor, message, trace = self._process, self._actor(), _message(record), self._trace(record)
        when, level = rfc3339(record.created), record.levelname
        if self._in_json:
            fields = {
                "time": when, "level": level, "logger": record.name, "process": process, "actor": actor,
                "message": message,
            }  # fmt: skip
            return as_json({**fields, "exception": trace} if trace else fields)
        text = "\n".join([f"{when} {level} {printable(process)} {printable(actor)} {message}", *filter(None, [trace])])
        return INDENT.join(map(printable, text.splitlines()))

    def _actor(self) -> str:
        """Who speaks: actors name their tasks after themselves."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs in this thread
            task = None
        name = task.get_name() if task is not None else ""
        return name if name and not UNNAMED.fullmatch(name) else self._process

    def _trace(self, record: logging.LogRecord) -> str:
        error = record.exc_info
        parts = [
            self._plain.formatException(error) if error and error[0] is not None else record.exc_text,
            record.stack_info,
        ]
        return "\n".join(part for part in parts if part)

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line)
        except UnicodeEncodeError:
            self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
        self._stream.flush()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # the arguments are anybody's, and the record is worth more than they are
        return f"{record.msg!s} (its arguments do not fit: {type(error).__name__})"
