"""Dossiers: what is known of each actor that crashed, in a file that nobody but this user can read.

Theory of operation
    A tracer calls its ``crashed`` with the actor, which has not yet let go of anything. What only this moment knows is
    taken down at once: its state, the messages that it had not handled, the last events. Its parent is asked about its
    siblings, ahead of any backlog, and the file is written by a thread. More than a few dossiers a minute are not
    written but counted, so that many crashes cost no more than a few.

    A dossier holds no payloads: of messages what they say of themselves, of errors that are not ours their class and
    where they came from.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import stat
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from actors.actor import Actor
from actors.errors import LinkError, Misuse, words_of
from actors.mailbox import Ref, Reply
from actors.messages import ActorState, GetState
from actors.trace import TraceEvent, Tracer
from supervisor.census import MAX_DETAILS, MAX_TEXT, WORDS_OF_OTHERS
from supervisor.tracing.jsonl import replacing
from supervisor.tracing.lines import fields_of
from supervisor.tracing.snapshot import Places, default_process, event_of, head

logger: Final = logging.getLogger("muxlink.dossiers")

FORMAT: Final = 1
MOST_FILES: Final = 50
"""Dossiers that are kept in a directory; the oldest go."""
MOST_A_MINUTE: Final = 10
MINUTE: Final = 60.0
MOST_EVENTS: Final = 200
MOST_SIBLINGS: Final = 100
PATIENCE: Final = 1.0
"""Seconds that a parent has for saying who its children are, and they for saying how they are."""
CLOSING: Final = 3.0
"""Seconds in which the last dossiers are written when all ends."""
MOST_CAUSES: Final = 8
MOST_FRAMES: Final = 50
MAX_NAME: Final = 100
_NAMED: Final = re.compile(r"crash-[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9]+-[A-Za-z0-9_.-]*\.json")

Plain = dict[str, Any]


class Dossiers:
    """Writes a dossier into ``directory`` for each crash of an actor whose tracer it watches."""

    def __init__(self, directory: str | os.PathLike[str], *, process: str = "", at_once: bool = True) -> None:
        """Make the directory, of mode 0700, unless it is there: at once, or when there is something to write.

        Raises Misuse where it cannot be made, or others may enter it.
        """
        self.directory = _private(Path(directory)) if at_once else Path(directory)
        self.process = process or default_process()
        self.left_out = 0
        """Crashes that have no dossier, because there were too many within a minute."""
        self._times: deque[float] = deque()
        self._unsaid = 0
        self._saying: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, tracer: Tracer) -> None:
        """Write dossiers of the actors that have this tracer."""
        tracer.crashed = self._crashed

    async def flush(self) -> None:
        """Wait until what has happened is written; not for long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING)
        if self._saying is not None:
            self._saying.cancel()
            self._say_left_out()

    def _crashed(self, actor: Actor[Any]) -> None:
        loop = asyncio.get_running_loop()
        if not self._may_write(loop.time()):
            self.left_out += 1
            self._unsaid += 1
            if self._saying is None:
                self._saying = loop.call_later(MINUTE, self._say_left_out)
            return
        crash = actor.crash()
        recorder = actor.tracer.recorder
        events = recorder.copy() if recorder is not None else ()
        asked = [reply for ref in crash.watchers if (reply := _asked(ref)) is not None]
        plain = {
            **_header(self.process, actor.tracer),
            "actor": crash.name,
            "reason": list(_causes(crash.reason)),
            "handling": crash.event,
            "state": _state(crash.state),
            "queue": [{"type": kind, "text": text} for kind, text in crash.waiting],
            "queue_length": crash.state.waiting,
        }
        task = loop.create_task(self._write(plain, asked, events), name="dossier")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may_write(self, now: float) -> bool:
        times = self._times
        while times and now - times[0] >= MINUTE:
            times.popleft()
        if len(times) >= MOST_A_MINUTE:
            return False
        times.append(now)
        return True

    def _say_left_out(self) -> None:
        self._saying, count, self._unsaid = None, self._unsaid, 0
        logger.warning(
            "%d more crashes have no dossier: %d are written in a minute at most", count, MOST_A_MINUTE
        )  # fmt: skip

    async def _write(self, plain: Plain, asked: Sequence[Reply[ActorState]], events: Iterable[TraceEvent]) -> None:
        name = str(plain["actor"])
        parent = await _parent(asked, name)
        if parent is not None:
            plain["parent"] = parent.name
            plain["siblings"] = await _siblings(parent, name)
            plain["restarts"] = _restarts(parent, name)
        try:
            path = await asyncio.get_running_loop().run_in_executor(None, self._file, plain, events)
        except (LinkError, OSError) as error:
            logger.warning("no dossier of %s: %s", name, error)
        else:
            logger.warning("%s crashed: what is known of it is in %s", name, path)

    def _file(self, plain: Plain, events: Iterable[TraceEvent]) -> Path:
        """Write one, and let the oldest go; runs in a thread."""
        last = _last_events(events, str(plain["actor"]))
        told = Places().fill([event_of(self.process, event) for event in last])
        plain["events"] = [fields_of(event) for event in told]
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(plain["wall"])) + f".{int(plain['wall'] % 1 * 1e6):06d}Z"
        called = re.sub(r"[^A-Za-z0-9_-]", ".", str(plain["actor"]))[-MAX_NAME:]
        path = _private(self.directory) / f"crash-{when}-{os.getpid()}-{called}.json"
        with replacing(path) as file:
            json.dump(plain, file, indent=1)
            file.write("\n")
        written = sorted(name for name in os.listdir(self.directory) if _NAMED.fullmatch(name))
        for name in written[:-MOST_FILES]:
            with suppress(FileNotFoundError):  # another process keeps order here, too
                (self.directory / name).unlink()
        return path


def _private(directory: Path) -> Path:
    """The directory, which is there now, and ours alone."""
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Misuse.because(f"no dossiers can be written to {directory}: {reason}", error) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Misuse(
            f"no dossiers are written to {directory}: "
            "it must be a directory of your own with the mode 0700; name another"
        )
    return directory


def _header(process: str, tracer: Tracer) -> Plain:
    now = head(process, tracer.clock)
    return {
        "muxlink": "dossier", "format": FORMAT, "process": process, "pid": now.pid, "version": now.version,
        "wall": now.wall, "monotonic": now.monotonic,
    }  # fmt: skip


def _last_events(events: Iterable[TraceEvent], name: str) -> Iterable[TraceEvent]:
    """The last that an actor was told, or told others."""
    return deque((each for each in events if name in (each.receiver, each.sender)), maxlen=MOST_EVENTS)


# --- why --------------------------------------------------------------------------------------------------------------


def _causes(error: BaseException | None) -> Iterator[Plain]:
    """The error and those that it came of: of ours what they say, of all others their class and where they were."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen and len(seen) < MOST_CAUSES:
        seen.add(id(error))
        plain: Plain = {"class": _class(error)}
        if isinstance(error, LinkError):
            plain["text"] = words_of(error)
        if isinstance(error, BaseExceptionGroup):
            plain["group"] = [_class(each) for each in error.exceptions[:MOST_CAUSES]]
        plain["frames"] = [
            {"file": code.co_filename, "line": line, "function": code.co_name}
            for code, line in ((frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__))
        ][-MOST_FRAMES:]
        yield plain
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _class(error: BaseException) -> str:
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# --- who --------------------------------------------------------------------------------------------------------------


def _state(state: ActorState) -> Plain:
    """An actor's state as JSON can hold it."""
    detail: Mapping[str, Any] = state.detail
    return {
        "kind": state.kind, "status": state.status, "waiting": state.waiting, "dead_letters": state.dead_letters,
        "age": round(state.age, 3), "children": list(state.children[:MOST_SIBLINGS]),
        "detail": {name: _detail(name, detail[name]) for name in list(detail)[:MAX_DETAILS]},
    }  # fmt: skip


def _detail(name: str, value: object) -> str | int | float | bool | None:
    if name in WORDS_OF_OTHERS:
        return value is not None
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:MAX_TEXT]


async def _answers(replies: Sequence[Reply[ActorState]]) -> list[ActorState | None]:
    """The answers that come in time; all of them are waited for together."""
    tasks = [asyncio.ensure_future(reply.wait()) for reply in replies]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        return [task.result() if task.done() and task.exception() is None else None for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _asked(ref: Ref[Any]) -> Reply[ActorState] | None:
    """Ask an actor how it is; None where it answers no such question."""
    reply: Reply[ActorState] = Reply()
    return reply if ref.signal(GetState(reply)) is not False else None


async def _parent(asked: Sequence[Reply[ActorState]], name: str) -> ActorState | None:
    """The one of those who watch it whose child it is."""
    for state in await _answers(asked):
        if state is not None and (name in state.children or name.startswith(f"{state.name}/")):
            return state
    return None


async def _siblings(parent: ActorState, name: str) -> list[Plain]:
    """Its parent's other children, and how they are."""
    others = [ref for ref in parent.refs if ref.name != name][:MOST_SIBLINGS]
    asked = [(ref.name, reply) for ref in others if (reply := _asked(ref)) is not None]
    states = await _answers([reply for _, reply in asked])
    return [
        {"name": each, "state": state.status if state is not None else "silent"}
        for (each, _), state in zip(asked, states, strict=True)
    ]


def _restarts(parent: ActorState, name: str) -> Plain | None:
    """How often it was started again, and its siblings; None where its parent starts none again."""
    if not parent.restarts:
        return None
    return dict(zip(parent.children, parent.restarts, strict=False))
