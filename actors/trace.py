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
from types import FunctionType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

logger: Final = logging.getLogger("muxlink.trace")

MAX_SUMMARY: Final = 200
RING_BYTES: Final = 4 * 1024 * 1024
"""What the flight recorder of an event loop holds, unless it is told otherwise."""
_FIXED_SIZE: Final = 500  # a row, its numbers, and the headers of its strings, rounded up
_HELD_SIZE: Final = _FIXED_SIZE + 760  # with a message instead of a summary: the heads of 64 frames
_AT_ONCE: Final = 256
"""Events of a turn that are taken into the ring at once, at its end at the latest."""
_MOST_WAITING: Final = 4096
"""Messages that wait in mailboxes and are shown before they are taken."""


class _Kind(enum.Enum):
    """What the ring keeps of a message, by its class."""

    SILENT = enum.auto()
    """That it was told."""
    SUMMARY = enum.auto()
    HELD = enum.auto()
    """The message itself, which is a few numbers that a summary does not give; it says so: ``held``."""


_KINDS: Final[dict[type, tuple[str, _Kind, Callable[[Any], str]]]] = {}
"""The name of each class of messages, what is kept of them, and what says it."""
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


Entry = list[Any]
"""What waits in a mailbox in a message's stead: who told it, when, and why; a message that is a list waits as one, too.

A plain list, because each request makes two: an object with named fields takes six times as long to make.
"""
NUMBER: Final = 0
"""Where an entry has the ``id`` of its event."""
_MESSAGE: Final = 4
_WHEN: Final = 6
_TAKEN: Final = 2
_SIZE: Final = 9

_Row = tuple[int, float, float | None, str, str, str, Any, int, bool, int]
"""The fields of a :class:`TraceEvent`, and their bytes; for a summary stands a message that is held, and says it later.

Plain tuples of numbers and strings are nothing to the garbage collector, which would else look at thousands of events
again and again."""

_Fresh = Entry | tuple[int, float, str, str, object, int, float | None, bool]
"""An event that is not in the ring yet: an entry or a tuple alike, the last two of them when it was taken, and whether
it is dead."""


def number_of(entry: Entry) -> int:
    """The ``id`` of the event."""
    number: int = entry[NUMBER]
    return number


def _event(row: _Row) -> TraceEvent:
    number, time, taken, sender, receiver, kind, said, cause, dead, _ = row
    summary, message = (said, None) if type(said) is str else (summary_of(said), said)
    return TraceEvent(number, time, taken, sender, receiver, kind, summary, cause, dead, message)


def shown(entry: Entry) -> TraceEvent:
    """The event of a message that waits."""
    number, time, sender, receiver, message, cause, *_ = entry
    kind = type(message).__name__
    return TraceEvent(number, time, None, sender, receiver, kind, summary_of(message), cause, False, message)


Exporter = Callable[[TraceEvent], object]


def _learn(kind: type) -> tuple[str, _Kind, Callable[[Any], str]]:
    """Look at a class of messages for the first time."""
    summarize = getattr(kind, "summary", None)
    kept = _Kind.SILENT if summarize is None else _Kind.SUMMARY
    if getattr(kind, "held", False):
        kept = _Kind.HELD
    # A method is called as it is, which takes half as long as looking for it on each message.
    known = _KINDS[kind] = kind.__name__, kept, summarize if isinstance(summarize, FunctionType) else summary_of
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

    __slots__ = ("__weakref__", "_bytes", "_dropped", "_rows", "fresh", "max_bytes", "numbers", "waiting")

    def __init__(self, max_bytes: int = RING_BYTES) -> None:
        self.max_bytes = max_bytes
        self.numbers: Iterator[int] = itertools.count(1)
        """What its events are numbered by."""
        self.waiting: dict[int, Entry] = {}
        """Messages that wait in mailboxes and are shown, by number; not all where thousands do."""
        self.fresh: list[_Fresh] = []
        """Events for :meth:`keep`, which whoever adds one calls soon."""
        self._rows: deque[_Row] = deque()
        self._bytes = self._dropped = 0

    @property
    def bytes(self) -> int:
        """An upper estimate of the memory that the kept events take."""
        self.keep()
        return self._bytes

    @property
    def dropped(self) -> int:
        """Events that made way for newer ones."""
        self.keep()
        return self._dropped

    def __call__(self, event: TraceEvent) -> None:
        self.keep()
        message, summary = event.message, event.summary
        _, kept, _ = _KINDS.get(type(message)) or _learn(type(message))
        said, size = (message, _HELD_SIZE) if kept is _HELD else (summary, _FIXED_SIZE + _size(summary))
        self._rows.append((*event[:6], said, event.cause, event.dead, size))
        self._bytes += size
        self._drop()

    def keep(self) -> None:
        """Take in what is fresh, and let the oldest go where that is too much."""
        # In one go for all events of a turn: in between what the turn does, each would take twice as long, because the
        # processor's caches hold other things by then. With no call that can be spared, as it is for each message.
        fresh, self.fresh = self.fresh, []
        add, total = self._rows.append, 0
        waiting = self.waiting
        for number, told, sender, receiver, message, cause, taken, dead in fresh:
            waiting.pop(number, None)
            kind = type(message)
            name, kept, summarize = _KINDS.get(kind) or _learn(kind)
            said: Any = ""
            size = _FIXED_SIZE
            if kept is _SUMMARY:
                try:
                    said = summarize(message)
                except Exception:
                    said = None
                if type(said) is not str or len(said) > MAX_SUMMARY:
                    said = summary_of(message)
                size += len(said) if said.isascii() else 4 * len(said)  # see _size()
            elif kept is _HELD:
                said, size = message, _HELD_SIZE
            add((number, told, taken, sender, receiver, name, said, cause, dead, size))
            total += size
        self._bytes += total
        if self._bytes > self.max_bytes:
            self._drop()

    def _drop(self) -> None:
        rows, total, most = self._rows, self._bytes, self.max_bytes
        before = len(rows)
        while total > most and rows:
            total -= rows.popleft()[_SIZE]
        self._bytes = total
        self._dropped += before - len(rows)

    def taken_since(self, time: float) -> dict[int, float]:
        """When each message was taken that was taken at ``time`` or later, by the number of its event."""
        self.keep()
        found = {}
        for row in reversed(self._rows):
            taken = row[_TAKEN]
            if taken is None:
                continue
            if taken < time:
                break
            found[row[NUMBER]] = taken
        return found

    def __iter__(self) -> Iterator[TraceEvent]:
        self.keep()
        events = [*map(_event, self._rows), *map(shown, self.waiting.values())]
        events.sort(key=itemgetter(0))
        return iter(events)

    def __len__(self) -> int:
        self.keep()
        return len(self._rows) + len(self.waiting)

    def copy(self) -> Recorder:
        """A ring of what this one holds now; a fiftieth of the time that it takes to look at all of it."""
        self.keep()
        other = Recorder(self.max_bytes)
        other._rows, other.waiting = self._rows.copy(), self.waiting.copy()
        other._bytes, other._dropped = self._bytes, self._dropped
        return other

    def chain(self, event_id: int) -> list[TraceEvent]:
        """An event and its causes, newest first, back to the first one or to where the ring forgot."""
        known = {event.id: event for event in self}
        chain = []
        while (event := known.get(event_id)) is not None:
            chain.append(event)
            event_id = event.cause
        return chain


def _size(summary: str) -> int:
    """An upper estimate of its bytes: outside ASCII a string takes up to four a character."""
    return len(summary) if summary.isascii() else 4 * len(summary)


class Tracer:
    """The hook that every mailbox of a tree of actors tells its messages to."""

    __slots__ = ("_at_once", "_exporters", "_numbers", "_recorder", "actor", "clock", "crashed", "event", "on")

    def __init__(self, clock: Callable[[], float] = time.monotonic, recorder: Recorder | None = None) -> None:
        self.on = recorder is not None
        """Whether there is anybody to tell."""
        self.clock = clock
        self.actor = "caller"
        self.event = 0
        self.crashed: Callable[[Any], object] | None = None
        """Gets each actor of the tree that crashes, before it lets go of anything; must be quick."""
        self._at_once = 1
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

    def begin_turn(self, actor: str) -> None:
        """From here to :meth:`end_turn`, messages are told by ``actor``, and what is told is recorded at once."""
        self.actor, self.event = actor, 0
        self._at_once = _AT_ONCE

    def end_turn(self) -> None:
        """The actor waits for its next turn."""
        self.actor, self.event = "caller", 0
        self._at_once = 1
        if self._recorder is not None:
            self._recorder.keep()

    def told(self, receiver: str, message: object) -> Entry:
        """Record one message that will wait; the entry waits in its stead until :meth:`take`."""
        number, recorder = next(self._numbers), self._recorder
        entry: Entry = [number, self.clock(), self.actor, receiver, message, self.event, None, False]
        if recorder is not None and len(recorder.waiting) < _MOST_WAITING:
            recorder.waiting[number] = entry
        if self._exporters:
            self._export(shown(entry))
        return entry

    def take(self, entry: Entry, *, dead: bool = False) -> Any:
        """The message that an entry stands for, which its receiver takes now, or nobody ever where it is ``dead``."""
        if (recorder := self._recorder) is not None:
            if not dead:
                entry[_WHEN] = self.clock()
            fresh = recorder.fresh
            fresh.append(entry)
            if len(fresh) >= self._at_once:
                recorder.keep()
        return entry[_MESSAGE]

    def noted(self, receiver: str, message: object, *, dead: bool = False) -> int:
        """Record one message that is taken as it is told, or that nobody takes; return the id of its event."""
        number, now = next(self._numbers), self.clock()
        taken = None if dead else now
        if (recorder := self._recorder) is not None:
            fresh = recorder.fresh
            fresh.append((number, now, self.actor, receiver, message, self.event, taken, dead))
            if len(fresh) >= self._at_once:
                recorder.keep()
        if self._exporters:
            kind, summary = type(message).__name__, summary_of(message)
            self._export(TraceEvent(number, now, taken, self.actor, receiver, kind, summary, self.event, dead, message))
        return number

    def _export(self, event: TraceEvent) -> None:
        self.on = False  # what an exporter tells in its turn is not traced, or there would be no end to it
        for exporter in self._exporters:
            try:
                exporter(event)
            except (Exception, asyncio.CancelledError):  # of a future that it looked at: nobody has cancelled us
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
