"""The commands that look into a running server, and drain it: ``muxlink tree``, ``top``, ``stats``, ``drain``.

Each asks the server's control socket (``control``), and shows the answer (``screens``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.errors import Misuse, ProtocolViolation
from supervisor import openmetrics
from supervisor.control import ask, find
from supervisor.screens import clean, render_stats, render_top, render_tree

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

DONE: Final = 0
SECOND: Final = 1.0
"""Between two frames of ``top``."""
DRAINING: Final = 600.0
"""Seconds that the answer to ``drain`` may take."""
ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""Another screen, and no cursor."""
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[2K", "\n\x1b[J"

Run = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def add_commands(commands: Commands) -> None:
    """Add them to a parser's subcommands; ``run`` of what is parsed is the coroutine function that does it."""
    _add(commands, "tree", _tree, "show every actor of a running server", "muxlink tree")
    _add(
        commands, "top", _top, "watch the workers of a running server; q quits",
        "muxlink top --control /run/app/control.sock",
    )  # fmt: skip
    stats = _add(commands, "stats", _stats, "show what a running server has counted", "muxlink stats --openmetrics")
    form = stats.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON object")
    form.add_argument("--openmetrics", action="store_true", help="as OpenMetrics text, for Prometheus")
    drain = _add(
        commands, "drain", _drain, "let what runs finish and stop: a server, or one worker, which is replaced",
        "muxlink drain --worker 2",
    )  # fmt: skip
    drain.add_argument("--worker", type=int, metavar="N", help="only this worker (default: the whole server)")


def _add(commands: Commands, name: str, run: Run, help: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{help[0].upper()}{help[1:]}.", epilog=f"example: {example}",
    )  # fmt: skip
    command.add_argument(
        "--control", metavar="PATH", help="the server's control socket (default: that of your only server here)"
    )
    command.set_defaults(run=run)
    return command


def _path(asked: argparse.Namespace) -> Path:
    return find(os.environ) if asked.control is None else Path(asked.control)


async def _ask(path: Path, question: Mapping[str, object], *needed: str, timeout: float = 30.0) -> dict[str, Any]:
    """The answer, which is an object that has what is needed. Raises LinkError."""
    answer = await ask(path, question, timeout=timeout)
    if not isinstance(answer, dict) or not all(name in answer for name in needed):
        raise ProtocolViolation(f"the server at {path} gave no answer to {question['ask']!r} that could be shown")
    return answer


# --- the commands -----------------------------------------------------------------------------------------------------


async def _tree(asked: argparse.Namespace) -> int:
    answer = await _ask(_path(asked), {"ask": "tree"}, "actors")
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    boxes = sys.stdout.isatty() and encoding == "utf8"
    _print(render_tree(answer, shutil.get_terminal_size().columns if sys.stdout.isatty() else 80, boxes=boxes))
    return DONE


async def _stats(asked: argparse.Namespace) -> int:
    answer = await _ask(_path(asked), {"ask": "stats"}, "parent", "workers")
    if asked.json:
        print(json.dumps(answer, indent=2))
    elif asked.openmetrics:
        # It is UTF-8 wherever it goes (OpenMetrics 1.0).
        sys.stdout.flush()
        sys.stdout.buffer.write(openmetrics.text(answer).encode())
    else:
        _print(render_stats(answer))
    return DONE


async def _drain(asked: argparse.Namespace) -> int:
    if asked.worker is not None and asked.worker < 1:
        raise Misuse(f"--worker must be the number of a worker, from 1 on, not {asked.worker}")
    answer = await _ask(_path(asked), {"ask": "drain", "worker": asked.worker}, "text", timeout=DRAINING)
    _print("\n".join(clean(line) for line in str(answer["text"]).splitlines()))
    return DONE


def _print(text: str) -> None:
    """Print it, whatever the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding))


# --- top --------------------------------------------------------------------------------------------------------------


async def _top(asked: argparse.Namespace) -> int:
    path = _path(asked)
    first = await _figures(path)
    if not sys.stdout.isatty():
        _print(render_top(None, first, 0.0, 80, 10_000))
        return DONE
    quitting = asyncio.Event()
    with _screen(quitting):
        refreshing = asyncio.create_task(_refresh(path, first))
        leaving = asyncio.create_task(quitting.wait())
        try:
            await asyncio.wait({refreshing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            refreshing.cancel()
            leaving.cancel()
            await asyncio.wait({refreshing, leaving})
    if not refreshing.cancelled():
        refreshing.result()  # it ends only where the server has gone, or the terminal
    return DONE


async def _refresh(path: Path, before: dict[str, Any]) -> None:
    clock = asyncio.get_running_loop().time
    asked = clock()
    _draw(None, before, 0.0)
    while True:
        await asyncio.sleep(max(0.0, asked + SECOND - clock()))
        now, then, asked = await _figures(path), asked, clock()
        _draw(before, now, asked - then)
        before = now


async def _figures(path: Path) -> dict[str, Any]:
    """The server's figures, and what the system says of its workers' memory."""
    answer = await _ask(path, {"ask": "stats"}, "parent", "workers")
    for worker in answer["workers"].values():
        if worker.get("rss") is None:
            worker["rss"] = _resident_bytes(worker.get("pid"))
    return answer


def _resident_bytes(pid: object) -> int | None:
    with suppress(OSError, ValueError, IndexError):  # it has gone, or this system has no such file
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _draw(before: dict[str, Any] | None, now: dict[str, Any], seconds: float) -> None:
    """Write over what is there, so that nothing flickers."""
    width, height = shutil.get_terminal_size()
    encoding = sys.stdout.encoding or "ascii"
    frame = render_top(before, now, seconds, width, height).encode(encoding, "replace").decode(encoding)
    lines = frame.split("\n")
    # What is cleared is cleared before it is written: after a full line the cursor still stands on its last column.
    below = CLEAR_BELOW if len(lines) < height else ""
    sys.stdout.write(HOME + "\n".join(CLEAR_LINE + line for line in lines) + below)
    sys.stdout.flush()


@contextmanager
def _screen(quitting: asyncio.Event) -> Iterator[None]:
    """Have the terminal to oneself, and give it back as it was, whatever happens; ``q`` and signals set the event."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    settings = termios.tcgetattr(keyboard) if keyboard is not None else None
    try:
        for number in signals:
            loop.add_signal_handler(number, quitting.set)
        if keyboard is not None:
            tty.setcbreak(keyboard, termios.TCSANOW)
            _never_suspend(keyboard)
            loop.add_reader(keyboard, _read_key, keyboard, quitting)
        sys.stdout.write(ENTER)
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        if keyboard is not None and settings is not None:
            loop.remove_reader(keyboard)
            with suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(keyboard, termios.TCSANOW, settings)
        with suppress(OSError):
            sys.stdout.write(LEAVE)
            sys.stdout.flush()


def _never_suspend(keyboard: int) -> None:
    """Ctrl-Z would leave the shell with a screen that is not its own."""
    changed = termios.tcgetattr(keyboard)
    changed[6][termios.VSUSP] = b"\0"  # _POSIX_VDISABLE
    termios.tcsetattr(keyboard, termios.TCSANOW, changed)


def _read_key(keyboard: int, quitting: asyncio.Event) -> None:
    try:
        keys = os.read(keyboard, 64)
    except OSError:
        keys = b""  # the terminal has gone
    if not keys or b"q" in keys.lower() or b"\x03" in keys:
        quitting.set()
