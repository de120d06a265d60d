"""From a trace in JSON Lines to what people and other tools read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TextIO

from actors.errors import LocalError, Misuse
from supervisor.tracing import jsonl, mermaid, perfetto
from supervisor.tracing.filters import Filter
from supervisor.tracing.records import Trace

STANDARD: Final = Path("-")
"""Standard input or output."""


def convert(source: Path, target: Path, filter: Filter | None = None, *, to: str | None = None) -> Trace:
    """Write the chosen events of the trace in ``source`` to ``target``, and return them.

    What is written is said by the target's suffix, or by ``to`` (a key of ``FORMATS``), which ``-``, the standard
    output, needs. A file has mode 0600 and is replaced whole or not at all. Raises Misuse for an unknown suffix, and
    where ``source`` cannot be read.
    """
    writer_of(target, to)  # before the work
    if source == STANDARD and sys.stdin is None:
        raise Misuse("standard input is closed: name a file")
    trace = jsonl.load(sys.stdin if source == STANDARD else source)
    if filter is not None:
        trace = trace.filter(filter)
    save(trace, target, to=to)
    return trace


def save(trace: Trace, target: Path, *, to: str | None = None) -> None:
    """Write a trace as the suffix of ``target`` says, such as a page to ``trace.html``; the same as :func:`convert`."""
    write = writer_of(target, to)
    if target == STANDARD:
        if sys.stdout is None:
            raise LocalError("cannot write to standard output: it is closed")
        try:
            write(trace, sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            raise LocalError.because(f"cannot write to standard output: {error.strerror or error}", error) from error
    else:
        with jsonl.replacing(target) as file:
            write(trace, file)


def writer_of(target: Path, to: str | None = None) -> Callable[[Trace, TextIO], object]:
    """What writes a trace as the suffix says, or ``to``. Raises Misuse where neither says anything."""
    known = ", ".join(f".{name} ({what})" for name, (what, _) in FORMATS.items())
    if to is None and target == STANDARD:
        raise Misuse(f"say what to write to standard output, with --to and one of {', '.join(FORMATS)}")
    name = target.suffix.removeprefix(".").lower() if to is None else to.removeprefix(".").lower()
    if name not in FORMATS:
        what = f"{target} has no suffix that says what to write" if to is None else f"no format is called {to!r}"
        raise Misuse(f"{what}: known are {known}")
    return FORMATS[name][1]


def _jsonl(trace: Trace, file: TextIO) -> None:
    jsonl.write(trace.records(), file)


def _fenced(trace: Trace, file: TextIO) -> None:
    # No text in the diagram can end the fence: backticks are written as entity codes.
    file.write("```mermaid\n")
    mermaid.write(trace, file)
    file.write("```\n")


def _page(trace: Trace, file: TextIO) -> None:
    # Here, because its templates are read with it.
    from supervisor.tracing.page import write_page  # noqa: PLC0415

    write_page(trace, file)


FORMATS: Final[Mapping[str, tuple[str, Callable[[Trace, TextIO], object]]]] = {
    "jsonl": ("the trace itself", _jsonl),
    "json": ("for ui.perfetto.dev", perfetto.write),
    "mmd": ("a Mermaid diagram", mermaid.write),
    "md": ("the same in Markdown", _fenced),
    "html": ("a page to look at it", _page),
}
"""What can be written, by suffix."""
