"""The commands about messages: ``muxlink trace dump``, ``follow``, ``capture``, ``convert`` and more, ``muxlink why``.

Those that look into a running server ask at its control socket; each of its processes then writes its part to a socket
of ours (``trace_reader``). The others work on files. What cannot be had is said in one line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import attrs

from actors.errors import LocalError, Misuse, ProtocolViolation
from supervisor.control import ask, find
from supervisor.explanation import Explanation, WaitsFor, render
from supervisor.handlers import load_handler
from supervisor.screens import clean
from supervisor.trace_reader import TraceReader
from supervisor.tracing import filters
from supervisor.tracing.capture import EVENTS, SECONDS
from supervisor.tracing.convert import FORMATS, STANDARD, convert, writer_of
from supervisor.tracing.lines import DECODERS, MAX_INTEGER, Fields, WrongFieldError
from supervisor.tracing.records import Event, Head, Trace

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

DONE, FAILED = 0, 1
NARROWEST: Final = 40

Run = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def add_commands(commands: Commands) -> None:
    """Add them to a parser's subcommands; ``run`` of what is parsed is the coroutine function that does it."""
    why = _add(commands, "why", _why, "say what each stream that does not go on waits for", "muxlink why")
    why.add_argument("stream", nargs="?", metavar="STREAM", help="only this one, as 'muxlink tree' calls it")
    why.add_argument("--json", action="store_true", help="as one JSON array")
    _control(why)
    trace = commands.add_parser(
        "trace", help="record, show, convert, merge and replay what actors say to each other",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Record, show, convert, merge and replay what actors say to each other.",
        epilog="example: muxlink trace capture -o capture.jsonl --events 10000",
    )  # fmt: skip
    inner = trace.add_subparsers(dest="trace_command", required=True, metavar="COMMAND")
    _add_asking(inner)
    _add_working(inner)


def _add_asking(inner: Commands) -> None:
    dump = _add(inner, "dump", _dump, "write what a running server recorded", "muxlink trace dump -o trace.html")
    dump.add_argument("-o", "--output", metavar="FILE", help=f"{_suffixes()}; without it JSON Lines go to stdout")
    follow = _add(
        inner, "follow", _follow, "show messages as they are told, until Ctrl-C", "muxlink trace follow --type Frames*"
    )  # fmt: skip
    capture = _add(
        inner, "capture", _capture, "write all messages from now on to a file, for a while",
        "muxlink trace capture -o capture.jsonl --seconds 10 --actor 'server-1/connection-3'",
    )  # fmt: skip
    capture.add_argument("-o", "--output", metavar="FILE", required=True, help="a new file, of JSON Lines")
    capture.add_argument(
        "--events", type=int, default=EVENTS, metavar="N", help="of each process (default: %(default)s)"
    )  # fmt: skip
    capture.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="default: %(default)g")
    capture.add_argument("--payloads", action="store_true", help="with bodies and the values of headers: secrets, too")
    capture.add_argument("--for-replay", action="store_true", help="with all that a replay needs: secrets, too")
    for each in (dump, capture):
        each.add_argument("--force", action="store_true", help="replace a file that is there")
    for each in (dump, follow, capture):
        _control(each)
        filters.add_arguments(each)


def _add_working(inner: Commands) -> None:
    turn = _add(
        inner, "convert", _convert, "make of a trace what people or other tools read",
        "muxlink trace convert trace.jsonl -o trace.html",
    )  # fmt: skip
    turn.add_argument("source", metavar="IN", help="a trace of JSON Lines; -: stdin")
    turn.add_argument("-o", "--output", metavar="OUT", required=True, help=f"{_suffixes()}; -: stdout")
    turn.add_argument("--to", metavar="FORMAT", help=f"whatever OUT is called: {', '.join(FORMATS)}")
    filters.add_arguments(turn)
    merge = _add(
        inner, "merge", _merge, "lay the traces of both ends beside each other, on one clock",
        "muxlink trace merge client.jsonl server.jsonl -o both.jsonl",
    )  # fmt: skip
    merge.add_argument("traces", nargs="+", metavar="TRACE", help="two or more; times are those of the first")
    merge.add_argument("-o", "--output", metavar="OUT", required=True, help=_suffixes())
    again = _add(
        inner, "replay", _replay, "tell connections again what a capture --for-replay has, and compare",
        "muxlink trace replay capture.jsonl",
    )  # fmt: skip
    again.add_argument("--connection", metavar="NAME", help="only this one")
    test = _add(
        inner, "to-test", _to_test, "make a test of a capture --for-replay",
        "muxlink trace to-test capture.jsonl -o test_it.py",
    )  # fmt: skip
    test.add_argument("-o", "--output", metavar="TEST.py", required=True, help="a new file")
    for each in (again, test):
        each.add_argument("source", metavar="FILE", help="a capture --for-replay")
        each.add_argument("--handler", metavar="M:H", help="run this handler, as servers' streams did")
    for each in (turn, merge, test):
        each.add_argument("--force", action="store_true", help="replace a file that is there")


def _add(commands: Commands, name: str, run: Run, help: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{help[0].upper()}{help[1:]}.", epilog=f"example: {example}",
    )  # fmt: skip
    command.set_defaults(run=run)
    return command


def _control(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--control", metavar="PATH", help="the server's control socket (default: that of your only server here)"
    )


def _suffixes() -> str:
    return "a file that ends in " + ", ".join(f".{name} ({what})" for name, (what, _) in FORMATS.items())


def _path(asked: argparse.Namespace) -> Path:
    return find(os.environ) if asked.control is None else Path(asked.control)


# --- files ------------------------------------------------------------------------------------------------------------


def _target(asked: argparse.Namespace) -> Path:
    """Where to write. Raises Misuse for a directory, and for a file that is there and may not be replaced."""
    path = Path(asked.output)
    if path == STANDARD:
        return path
    try:
        if path.is_dir():
            raise Misuse(f"{path} is a directory: name a file in it")
        if path.is_file() and not asked.force:
            raise Misuse(f"{path} is there already: name another file, or replace it with --force")
    except (OSError, ValueError) as error:
        raise Misuse.because(f"cannot write {path}: {_reason(error)}", error) from error
    return path


def _look_beside(test: Path, asked: argparse.Namespace) -> None:
    """See that the copy of a capture replaces no other. Raises Misuse."""
    copy = test.with_suffix(".jsonl")
    if not asked.force and copy.is_file() and copy.resolve() != Path(asked.source).resolve():
        raise Misuse(f"{copy} is there already, where the capture goes: name another test, or replace it with --force")


@contextmanager
def _growing(path: Path) -> Iterator[IO[bytes]]:
    """A file of mode 0600 that is written as lines come. Raises LocalError where that fails."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb", 0) as file:
            if path.is_file():
                os.fchmod(file.fileno(), 0o600)
            yield file
    except OSError as error:
        raise LocalError.because(f"cannot write {path}: {_reason(error)}", error) from error


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


# --- a running server -------------------------------------------------------------------------------------------------


async def _dump(asked: argparse.Namespace) -> int:
    target = _target(asked) if asked.output is not None else STANDARD
    to = "jsonl" if target == STANDARD else None
    async with TraceReader(_path(asked)) as reader:
        whole = reader.folder / "trace.jsonl"
        with _growing(whole) as file:
            async for line in _until_told(reader, reader.lines("dump", {})):
                file.write(line)
        _tell_silent(reader)
        if len(reader.processes) == reader.silent:
            raise ProtocolViolation("no process of the server has written its trace: its log may say why")
        trace = await _converted(whole, target, asked, to)
    if target != STANDARD:
        _tell(f"{len(trace.events):,} events of {', '.join(reader.heard)} are in {target}")
    return DONE


async def _converted(source: Path, target: Path, asked: argparse.Namespace, to: str | None) -> Trace:
    """What of ``source`` was wanted, which is in ``target`` now. Raises BrokenPipeError, and what ``convert`` does."""
    chosen = filters.of(asked)
    try:
        return await asyncio.to_thread(convert, source, target, None if chosen == filters.Filter() else chosen, to=to)
    except LocalError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None  # who reads our output has enough
        raise


async def _follow(asked: argparse.Namespace) -> int:
    offsets: dict[str, float] = {}
    async with TraceReader(_path(asked)) as reader:
        async for line in _until_told(reader, reader.lines("follow", _options(asked))):
            if (shown := _shown(line, offsets)) is not None:
                print(shown, flush=True)
        _tell_silent(reader)
        _tell_lost(reader)
    return DONE


async def _capture(asked: argparse.Namespace) -> int:
    options = {
        **_options(asked), "events": asked.events, "seconds": asked.seconds, "payloads": asked.payloads,
        "for_replay": asked.for_replay,
    }  # fmt: skip
    if not 1 <= asked.events <= MAX_INTEGER or not 0 < asked.seconds <= MAX_INTEGER:
        raise Misuse("a capture has an end: at least 1 of --events, and --seconds above 0")
    target = _target(asked)
    if target == STANDARD:
        raise Misuse("a capture goes to a file: 'muxlink trace follow' shows messages as they are told")
    if target.suffix.removeprefix(".").lower() in FORMATS.keys() - {"jsonl"}:
        name = target.with_suffix(".jsonl")
        raise Misuse(f"a capture is JSON Lines: write it to {name}, of which 'muxlink trace convert' makes {target}")
    async with TraceReader(_path(asked)) as reader:
        lines = _until_told(reader, reader.lines("capture", options))
        first = await anext(lines, b"")
        if not first:
            raise ProtocolViolation("no process of the server has written a trace: its log may say why")
        with _growing(target) as file:
            file.write(first)
            if options["payloads"] or options["for_replay"]:
                _tell(f"{target} will hold bodies and the values of headers: they may be secret")
            async for line in lines:
                file.write(line)
        _tell_silent(reader)
        _tell_lost(reader)
    events = sum(each.events for each in reader.endings)
    why = ", ".join(f"{each.process}: {each.reason}" for each in sorted(reader.endings, key=lambda each: each.process))
    _tell(f"{events:,} events are in {target}; why it ended: {why or 'the server has gone'}")
    return DONE


def _options(asked: argparse.Namespace) -> dict[str, object]:
    """What the server is to choose by."""
    chosen = filters.of(asked)
    if chosen.since is not None or chosen.until is not None:
        raise Misuse("--last, --since and --until choose from what was recorded: give them to dump or convert")
    return {
        name: value
        for name, value in attrs.asdict(chosen).items()
        if name in ("actor", "stream", "type", "dead") and value is not None
    }


async def _until_told(reader: TraceReader, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines, until a signal says that it is enough: then come those that are on their way."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, reader.stop)
    try:
        async for line in lines:
            yield line
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _shown(line: bytes, offsets: dict[str, float]) -> str | None:
    """An event in one line for people; None for what is none."""
    try:
        fields = json.loads(line)
        record = DECODERS[fields["muxlink"]](Fields(fields))
    except (ValueError, KeyError, TypeError, WrongFieldError) as error:
        raise ProtocolViolation.because("the server's trace has a line that is none", error) from error
    if isinstance(record, Head):
        offsets[record.process] = record.wall - record.monotonic
    if not isinstance(record, Event):
        return None
    wall = record.time + offsets.get(record.process, 0.0)
    when = time.strftime("%H:%M:%S", time.localtime(wall)) + f".{int(wall % 1 * 1e6):06d}"
    text = f": {record.text}" if record.text else ""
    dead = " (nobody took it)" if record.dead else ""
    told = f"{when} {record.process} {record.sender} -> {record.receiver} {record.type}{text}{dead}"
    return _printable(clean(told))


def _tell_silent(reader: TraceReader) -> None:
    if reader.silent:
        names = ", ".join(each for each in reader.processes if each not in reader.heard)
        _tell(f"{reader.silent} of {len(reader.processes)} processes did not answer, and are not in it: {names}")


def _tell_lost(reader: TraceReader) -> None:
    for process in sorted(reader.broken):
        _tell(f"{process} broke off: what it had not written yet is missing")
    if lost := sum(each.lost for each in reader.endings):
        _tell(f"{lost:,} events are missing: they came faster than they could be written")


def _tell(text: str) -> None:
    print(clean(text), file=sys.stderr)


def _printable(text: str) -> str:
    """The text without what the terminal's encoding lacks."""
    encoding = (sys.stdout and sys.stdout.encoding) or "ascii"  # it may be closed
    return text.encode(encoding, "replace").decode(encoding)


# --- why --------------------------------------------------------------------------------------------------------------


async def _why(asked: argparse.Namespace) -> int:
    path = _path(asked)
    match await ask(path, {"ask": "why", "stream": asked.stream}):
        case {"explanations": [*rows], "silent": [*silent]}:
            pass
        case _:
            raise ProtocolViolation(f"the server at {path} gave no answer to 'why' that could be shown")
    if asked.json:
        print(json.dumps(rows, indent=2))
    else:
        width = max(NARROWEST, shutil.get_terminal_size().columns) if sys.stdout and sys.stdout.isatty() else 100
        print(_printable(clean_lines(render([_explained(row) for row in rows], width))))
    for each in silent:
        _tell(f"{each} did not answer")
    return DONE


def clean_lines(text: str) -> str:
    """The text, of whose control characters only the ends of lines are left."""
    return "\n".join(map(clean, text.splitlines()))


def _explained(row: object) -> Explanation:
    match row:
        case {"process": str(process), "stream": str(stream), "text": str(text), "waits_for": str(kind)}:
            return Explanation(
                stream=stream, connection="", stream_id=None, waits_for=WaitsFor(kind), since=None, who="",
                text=f"{process}: {text}",
            )  # fmt: skip
    raise ProtocolViolation("the server gave an explanation that cannot be shown")


# --- traces in files --------------------------------------------------------------------------------------------------


async def _convert(asked: argparse.Namespace) -> int:
    trace = await _converted(Path(asked.source), _target(asked), asked, asked.to)
    for warning in trace.warnings:
        _tell(f"warning: {warning}")
    return DONE


async def _merge(asked: argparse.Namespace) -> int:
    from supervisor.tracing.merge import merge_files  # noqa: PLC0415  (only where it is needed)

    target = _target(asked)
    if target == STANDARD:
        raise Misuse("a merged trace goes to a file: name it with -o")
    writer_of(target)  # before the work
    trace = await asyncio.to_thread(merge_files, [Path(each) for each in asked.traces], target)
    for warning in trace.warnings:
        _tell(f"warning: {warning}")
    return DONE


async def _replay(asked: argparse.Namespace) -> int:
    from supervisor.tracing.replay import replay  # noqa: PLC0415  (only where it is needed)

    handler = load_handler(asked.handler) if asked.handler is not None else None
    replayed = await asyncio.to_thread(replay, Path(asked.source), connection=asked.connection, handler=handler)
    for warning in replayed.warnings:
        _tell(f"warning: {warning}")
    names = ", ".join(replayed.connections)
    lines = [f"{'the same' if replayed.same else 'different'}: {len(replayed.messages):,} messages of {names}"]
    lines += [replayed.difference] * bool(replayed.difference)
    lines += [f"ended: {each}" for each in replayed.exits] + [f"failed: {each}" for each in replayed.failures]
    print(_printable(clean_lines("\n".join(lines))))
    return DONE if replayed.same else FAILED


async def _to_test(asked: argparse.Namespace) -> int:
    from supervisor.tracing.to_test import to_test_command  # noqa: PLC0415  (only where it is needed)

    target = _target(asked)
    _look_beside(target, asked)
    code, text = await asyncio.to_thread(to_test_command, Path(asked.source), target, asked.handler)
    print(_printable(clean_lines(text)))
    return code
