"""JSON Lines, the format of record: one record a line, so that a trace can be cut, joined, searched, read as it grows.

``schema.json`` beside this module says what a line may hold. A line is an object whose ``muxlink`` is ``head``,
``connection``, ``event`` or ``end``; the first is a head with ``"format": 1``, and each process's head comes before the
rest of its records. Keys that hold their default are left out; a reader passes over keys and kinds that it does not
know. Lines are ASCII: what is not is escaped, so that no text can break a line or an encoding.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Never, TextIO

from attrs import define

from actors.errors import LocalError, Misuse
from supervisor.tracing.lines import DECODERS, FORMAT, Fields, WrongFieldError, fields_of
from supervisor.tracing.records import Conversation, End, Event, Head, Record, Trace

MAX_LINE: Final = 64 * 1024 * 1024
"""Bytes; a line that is longer is not one of ours, whose largest hold a frame's payload."""
SCHEMA: Final = Path(__file__).with_name("schema.json")

_encoder: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def encode(record: Record) -> str:
    """One line, without its end; Misuse if the record holds what JSON cannot say."""
    try:
        return _encoder.encode(fields_of(record))
    except (TypeError, ValueError, RecursionError) as error:
        raise Misuse.because(f"{_called(record)} cannot be written as JSON: {error}", error) from error


def write(records: Iterable[Record], file: TextIO) -> None:
    """Write records, a line each, as they come."""
    for record in records:
        file.write(encode(record) + "\n")


def save(trace: Trace, path: Path | str) -> None:
    """Write a trace to a file of mode 0600, whole or not at all."""
    with replacing(path) as file:
        write(trace.records(), file)


def load(source: Path | str | IO[bytes] | IO[str]) -> Trace:
    """Read a whole trace and put it in order; what is doubtful about it is in its ``warnings``."""
    warnings: list[str] = []
    # Read to the end first: only then the warnings are complete.
    records = list(read(source, warnings=warnings))
    return Trace.of(records, warnings)


def read(source: Path | str | IO[bytes] | IO[str], *, warnings: list[str] | None = None) -> Iterator[Record]:
    """The records of a file, one after the other, in constant memory.

    A last line that was cut is left out, and a line about it added to ``warnings``. Raises Misuse where the file cannot
    be read, is no trace, is damaged, or was written by a newer muxlink.
    """
    if isinstance(source, Path | str):
        try:
            with Path(source).open("rb") as file:
                yield from _Reader(str(source), file, warnings).records()
        except OSError as error:
            raise Misuse.because(f"cannot read {source}: {error.strerror or error}", error) from error
    else:
        name = getattr(source, "name", None)
        yield from _Reader(name if isinstance(name, str) else "the trace", source, warnings).records()


@contextmanager
def replacing(path: Path | str) -> Iterator[TextIO]:
    """A file to write that takes the place of ``path`` once it is whole, of mode 0600; an error leaves all as it was.

    What is no regular file, such as a pipe or a terminal, is written to as it is.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
                yield file
            return
        # A link stays one: what it leads to is replaced.
        path = path.resolve()
        if path.is_dir():
            raise Misuse(f"cannot write {path}: it is a directory; name a file in it")
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                yield file
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as error:
        raise LocalError.because(f"cannot write {path}: {error.strerror or error}", error) from error


def _called(record: Record) -> str:
    match record:
        case Event():
            return f"event {record.id} of process {record.process!r}"
        case Head():
            return f"the head of process {record.process!r}"
        case Conversation():
            return f"connection {record.name!r} of process {record.process!r}"
        case End():
            return f"the end of process {record.process!r}"


@define
class _Reader:
    """One file on its way into records."""

    name: str
    file: IO[bytes] | IO[str]
    warnings: list[str] | None
    number: int = 0

    def records(self) -> Iterator[Record]:
        known: set[str] = set()
        while line := self._line():
            self.number += 1
            if line.isspace():
                continue
            fields = self._parsed(line)
            if fields is None:
                return
            record = self._record(fields, first=not known)
            if isinstance(record, Head):
                known.add(record.process)
            elif record is not None and record.process not in known:
                raise self._refused(f"process {record.process!r} has no head before its first record")
            if record is not None:
                yield record
        if not known:
            raise Misuse(f"{self.name} is no message trace: it is empty")

    def _line(self) -> bytes | str:
        try:
            line = self.file.readline(MAX_LINE + 1)
        except (OSError, ValueError) as error:
            raise Misuse.because(f"cannot read {self.name}: {error}", error) from error
        if len(line) > MAX_LINE:
            self.number += 1
            raise self._refused(f"it is longer than {MAX_LINE // 2**20} MiB")
        return line

    def _parsed(self, line: bytes | str) -> dict[str, object] | None:
        """The object on a line; None where the line is the last and was cut."""
        try:
            text = line.decode("utf-8") if isinstance(line, bytes) else line
            fields = json.loads(text, parse_constant=_no_number)
            if isinstance(fields, dict):
                return fields
            reason = "it is not an object"
        except (ValueError, RecursionError) as error:
            if self.number > 1 and line[-1:] not in (b"\n", "\n"):
                if self.warnings is not None:
                    self.warnings.append(f"{self.name}: the last line ({self.number}) was cut; its record is left out")
                return None
            reason = str(error)
        raise self._refused(f"it is not JSON as a trace has it ({reason})")

    def _record(self, fields: dict[str, object], *, first: bool) -> Record | None:
        kind = fields.get("muxlink")
        if kind == "head":
            self._check_format(fields)
        elif first:
            raise self._refused('it is not a head, such as {"muxlink":"head","format":1,...}')
        decode = DECODERS.get(kind) if isinstance(kind, str) else None
        if decode is None:
            if not isinstance(kind, str):
                raise self._refused('it has no "muxlink" that says what it is')
            return None  # a kind that a later muxlink has added
        try:
            return decode(Fields(fields))
        except WrongFieldError as error:
            raise self._refused(f"{kind}: {error}") from error

    def _check_format(self, fields: dict[str, object]) -> None:
        form = fields.get("format")
        if isinstance(form, int) and form > FORMAT:
            version = fields.get("version")
            wrote = f"muxlink {version}" if isinstance(version, str) and version else "a newer muxlink"
            raise Misuse(
                f"{self.name} was written by {wrote} in format {form}, and this one reads up to {FORMAT}:"
                " update muxlink here"
            )
        if form != FORMAT or isinstance(form, bool):
            raise self._refused(f'head: "format" is {form!r} and not {FORMAT}')

    def _refused(self, reason: str) -> Misuse:
        where = f"line {self.number}"
        if self.number == 1:
            return Misuse(f"{self.name} is no message trace: {where}: {reason}")
        return Misuse(
            f"{self.name} is damaged in {where}: {reason}; what is before it can be kept: head -n {self.number - 1}"
        )


def _no_number(constant: str) -> Never:
    raise ValueError(f"{constant} is not a number in JSON")
