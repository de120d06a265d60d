"""What actors said to each other, and why: the hook of every message, and a flight recorder bounded in bytes.

One :class:`Tracer` serves one tree of actors on one event loop. While nothing is attached it costs a test of one flag
per message. While something is, every message told becomes a :class:`TraceEvent` that names its cause: the event that
its sender was handling. Following ``cause`` leads back to the bytes, the timer or the call that began it all.

The :class:`Recorder` is always on unless it is switched off, so what it costs counts (the benchmark ``trace``).
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

logger: Final = logging.getLogger("muxlink.trace")

MAX_SUMMARY: Final = 200
RING_BYTES: Final = 4 * 1024 * 1024
"""What the flight recorder of an event loop holds, unless it is told otherwise."""
_FIXED_SIZE: Final = 500  # a row, its numbers, and the headers of its strings, rounded up
_HELD_SIZE: Final = 760  # a message that is held instead of a summary: the heads of 64 frames
_MOST_WAITING: Final = 4096
"""Messages that wait in mailboxes and are shown before they are taken."""


class _Kind(enum.Enum):
    """What the ring keeps of a message, by its class."""

    SILENT = enum.auto()
    """That it was told."""
    SUMMARY = enum.auto()
    HELD = enum.auto()
    """The message itself, which is a few numbers that a summary does not give; it says so: ``held``."""


_KINDS: Final[dict[type, tuple[str, _Kind]]] = {}
"""The name of each class of messages, and what is kept of them."""
_SUMMARY, _HELD = _Kind.SUMMARY, _Kind.HELD  # a look-up in the class of an enum takes longer than all else here


class TraceEvent(NamedTuple):
    """One message that was told."""

    id: int
    """Counts up from 1 within a ring."""
    time: float
    """Seconds on the tracer's clock when it was told."""
    taken: float | None
    """When its receiver took it; None while it waits, and for one that nobody took."""
    sender: str
    """The actor that told it, or the edge that it came in by: ``socket``, ``timer``, ``caller``."""
    receiver: str
    """The actor that it was told, or ``socket``."""
    type: str
    """The name of the message's class."""
    summary: str
    """What the message says of itself: at most 200 characters; never a body, never a secret header."""
    cause: int
    """The ``id`` of the event that the sender was handling; 0 where a chain begins."""
    dead: bool = False
    """Whether nobody was there to take it."""
    message: object = None
    """The message itself, for an exporter while it is told, and for one that waits; later only where it is ``held``."""


class Entry(list[Any]):
    """What waits in a mailbox in a message's stead: who told it, when, and why.

    A list, because each request makes two: an object with named fields takes three times as long to make.
    """

    __slots__ = ()


_ID, _TIME, _SENDER, _RECEIVER, _MESSAGE, _CAUSE = range(6)

_Row = tuple[int, float, float | None, str, str, str, str | None, int, bool, object, int]
"""The fields of a :class:`TraceEvent`, and their bytes; a message that is held says later what it says of itself.

Plain tuples of numbers and strings are nothing to the garbage collector, which would else look at thousands of events
again and again."""


def number_of(entry: Entry) -> int:
    """The ``id`` of the event."""
    number: int = entry[_ID]
    return number


def _event(row: _Row) -> TraceEvent:
    number, time, taken, sender, receiver, kind, summary, cause, dead, message, _ = row
    if summary is None:
        summary = summary_of(message)
    return TraceEvent(number, time, taken, sender, receiver, kind, summary, cause, dead, message)


def shown(entry: Entry) -> TraceEvent:
    """The event of a message that waits."""
    number, time, sender, receiver, message, cause = entry
    kind = type(message).__name__
    return TraceEvent(number, time, None, sender, receiver, kind, summary_of(message), cause, False, message)


Exporter = Callable[[TraceEvent], object]


def _learn(kind: type) -> tuple[str, _Kind]:
    """Look at a class of messages for the first time."""
    kept = _Kind.SUMMARY if hasattr(kind, "summary") else _Kind.SILENT
    if getattr(kind, "held", False):
        kept = _Kind.HELD
    known = _KINDS[kind] = kind.__name__, kept
    return known


def summary_of(message: object) -> str:
    """What a message says of itself in a trace, cut to a bound."""
    summarize = getattr(message, "summary", None)
    if summarize is None:
        return ""
    try:
        return str(summarize())[:MAX_SUMMARY]
    except Exception as error:  # a foreign error inside may fail to say what it is; whoever tells it must not fail too
        return f"(no summary: {type(error).__name__})"


class Recorder:
    """A flight recorder: keeps the newest events, bounded in bytes; give it to a :class:`Tracer`, or to several.

    It can also be attached as an exporter, beside another that records.
    """

    __slots__ = ("__weakref__", "_rows", "_waiting", "bytes", "dropped", "max_bytes", "numbers")

    def __init__(self, max_bytes: int = RING_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        """An upper estimate of the memory that the kept events take."""
        self.dropped = 0
        """Events that made way for newer ones."""
        self.numbers: Iterator[int] = itertools.count(1)
        """What its events are numbered by."""
        self._rows: deque[_Row] = deque()
        self._waiting: dict[int, Entry] = {}

    def __call__(self, event: TraceEvent) -> None:
        _, kept = _KINDS.get(type(event.message)) or _learn(type(event.message))
        held, summary = (event.message, None) if kept is _HELD else (None, event.summary)
        self._add((*event[:6], summary, event.cause, event.dead, held, _size(summary)))

    def wait(self, entry: Entry) -> None:
        """Show a message that waits in a mailbox, until it is taken; not where thousands do."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting[entry[_ID]] = entry

    def waited(self, entry: Entry) -> None:
        """It does no more."""
        self._waiting.pop(entry[_ID], None)

    def keep(  # noqa: PLR0917  (by name, the arguments would take longer than all else here)
        self, number: int, time: float, taken: float | None, sender: str, receiver: str, message: object, cause: int,
        dead: bool,
    ) -> None:  # fmt: skip
        """Take an event in, and let the oldest go where that is too much."""
        kind = type(message)
        name, kept = _KINDS.get(kind) or _learn(kind)
        held, summary = (message, None) if kept is _HELD else (None, summary_of(message) if kept is _SUMMARY else "")
        self._add((number, time, taken, sender, receiver, name, summary, cause, dead, held, _size(summary)))

    def _add(self, row: _Row) -> None:
        rows = self._rows
        rows.append(row)
        self.bytes += row[10]
        while self.bytes > self.max_bytes and rows:
            self.bytes -= rows.popleft()[10]
            self.dropped += 1

    def __iter__(self) -> Iterator[TraceEvent]:
        events = [*map(_event, self._rows), *map(shown, self._waiting.values())]
        events.sort(key=itemgetter(0))
        return iter(events)

    def __len__(self) -> int:
        return len(self._rows) + len(self._waiting)

    def chain(self, event_id: int) -> list[TraceEvent]:
        """An event and its causes, newest first, back to the first one or to where the ring forgot."""
        known = {event.id: event for event in self}
        chain = []
        while (event := known.get(event_id)) is not None:
            chain.append(event)
            event_id = event.cause
        return chain


def _size(summary: str | None) -> int:
    """An upper estimate of a row's bytes; without a summary it holds its message."""
    if summary is None:
        return _FIXED_SIZE + _HELD_SIZE
    # Outside ASCII a string takes up to four bytes a character.
    return _FIXED_SIZE + (len(summary) if summary.isascii() else 4 * len(summary))


class Tracer:
    """The hook that every mailbox of a tree of actors tells its messages to."""

    __slots__ = ("_exporters", "_numbers", "_recorder", "actor", "clock", "crashed", "event", "on")

    def __init__(self, clock: Callable[[], float] = time.monotonic, recorder: Recorder | None = None) -> None:
        self.on = recorder is not None
        """Whether there is anybody to tell."""
        self.clock = clock
        self.actor = "caller"
        self.event = 0
        self.crashed: Callable[[Any], object] | None = None
        """Gets each actor of the tree that crashes, before it lets go of anything; must be quick."""
        self._recorder = recorder
        self._numbers: Iterator[int] = recorder.numbers if recorder is not None else itertools.count(1)
        self._exporters: tuple[Exporter, ...] = ()

    @property
    def recorder(self) -> Recorder | None:
        """The ring that its events go into; None where nothing is recorded."""
        return self._recorder

    def record(self, recorder: Recorder | None) -> None:
        """Record there from now on, or with None no more."""
        self._recorder = recorder
        if recorder is not None:
            self._numbers = recorder.numbers
        self.on = recorder is not None or bool(self._exporters)

    def attach(self, exporter: Exporter) -> None:
        """Hand every event from now on to ``exporter``, which must be quick; one that raises is logged and dropped.

        Attaching it again changes nothing.
        """
        if exporter not in self._exporters:
            self._exporters = (*self._exporters, exporter)
        self.on = True

    def detach(self, exporter: Exporter) -> None:
        """Stop handing events to ``exporter``; nothing happens if it is not attached."""
        self._exporters = tuple(kept for kept in self._exporters if kept != exporter)
        self.on = self._recorder is not None or bool(self._exporters)

    def speak_as(self, actor: str, event: int = 0) -> None:
        """From here to the next call, messages are told by ``actor`` while it handles ``event``."""
        self.actor = actor
        self.event = event

    def told(self, receiver: str, message: object) -> Entry:
        """Record one message that will wait; the entry waits in its stead until :meth:`take`."""
        entry = Entry((next(self._numbers), self.clock(), self.actor, receiver, message, self.event))
        if self._recorder is not None:
            self._recorder.wait(entry)
        if self._exporters:
            self._export(shown(entry))
        return entry

    def take(self, entry: Entry, *, dead: bool = False) -> Any:
        """The message that an entry stands for, which its receiver takes now, or nobody ever where it is ``dead``."""
        number, time, sender, receiver, message, cause = entry
        recorder = self._recorder
        if recorder is not None:
            recorder.waited(entry)
            recorder.keep(number, time, None if dead else self.clock(), sender, receiver, message, cause, False)
        return message

    def noted(self, receiver: str, message: object, *, dead: bool = False) -> int:
        """Record one message that is taken as it is told, or that nobody takes; return the id of its event."""
        number, now = next(self._numbers), self.clock()
        taken = None if dead else now
        if self._recorder is not None:
            self._recorder.keep(number, now, taken, self.actor, receiver, message, self.event, dead)
        if self._exporters:
            kind, summary = type(message).__name__, summary_of(message)
            self._export(TraceEvent(number, now, taken, self.actor, receiver, kind, summary, self.event, dead, message))
        return number

    def _export(self, event: TraceEvent) -> None:
        self.on = False  # what an exporter tells in its turn is not traced, or there would be no end to it
        for exporter in self._exporters:
            try:
                exporter(event)
            except Exception:
                self._exporters = tuple(kept for kept in self._exporters if kept is not exporter)
                logger.exception("a trace exporter failed on event %d and is switched off: %r", event.id, exporter)
        self.on = self._recorder is not None or bool(self._exporters)


_flights: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Recorder]] = WeakKeyDictionary()


def flight_recorder(loop: asyncio.AbstractEventLoop) -> Recorder:
    """The ring that all links and servers of an event loop share."""
    recorder = _flights.get(loop)
    if recorder is None:
        recorder = _flights[loop] = Recorder()
    return recorder
