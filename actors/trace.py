"""What actors said to each other, and why: the hook of every message, and a flight recorder bounded in bytes.

One :class:`Tracer` serves one tree of actors on one event loop. While nothing is attached it costs a test of one flag
per message. While something is, every message told becomes a :class:`TraceEvent` that names its cause: the event that
its sender was handling. Following ``cause`` leads back to the bytes, the timer or the call that began it all.

The :class:`Recorder` is always on unless it is switched off, so what it costs counts: an event is made once, is what
waits in the mailbox, and says what it knows only when it is asked (the benchmark ``trace``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

logger: Final = logging.getLogger("muxlink.trace")

MAX_SUMMARY: Final = 200
RING_BYTES: Final = 4 * 1024 * 1024
"""What the flight recorder of an event loop holds, unless it is told otherwise."""
_FIXED_SIZE: Final = 420  # a TraceEvent, its numbers, and the headers of its strings, rounded up
_SMALL_SIZE: Final = 200  # a message that is kept instead of a summary

_SMALL: Final[dict[type, bool]] = {}
"""Whether a kind of message is small enough to be kept as it is, by its class."""


class Entry(list[Any]):
    """What the ring holds of one message, and what waits for its receiver in its stead; :class:`TraceEvent` reads it.

    A list, because each request makes three: an object with named fields takes three times as long to make.
    """

    __slots__ = ()


_ID, _TIME, _TAKEN, _SENDER, _RECEIVER, _KIND, _MESSAGE, _SUMMARY, _CAUSE, _DEAD, _SIZE = range(11)


def take(entry: Entry, now: float | None) -> Any:
    """Hand the message to its receiver: what may be large is let go of here."""
    message = entry[_MESSAGE]
    entry[_TAKEN] = now
    if entry[_SUMMARY] is not None:
        entry[_MESSAGE] = None
    return message


def number_of(entry: Entry) -> int:
    """The ``id`` of the event."""
    number: int = entry[_ID]
    return number


class TraceEvent:
    """One message that was told."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def id(self) -> int:
        """Counts up from 1 within a ring."""
        return number_of(self._entry)

    @property
    def time(self) -> float:
        """Seconds on the tracer's clock when it was told."""
        told: float = self._entry[_TIME]
        return told

    @property
    def taken(self) -> float | None:
        """When its receiver took it; None while it waits, and for one that nobody took."""
        taken: float | None = self._entry[_TAKEN]
        return taken

    @property
    def sender(self) -> str:
        """The actor that told it, or the edge that it came in by: ``socket``, ``timer``, ``caller``."""
        sender: str = self._entry[_SENDER]
        return sender

    @property
    def receiver(self) -> str:
        """The actor that it was told, or ``socket``."""
        receiver: str = self._entry[_RECEIVER]
        return receiver

    @property
    def type(self) -> str:
        """The name of the message's class."""
        name: str = self._entry[_KIND].__name__
        return name

    @property
    def summary(self) -> str:
        """What the message says of itself: at most 200 characters; never a body, never a secret header."""
        summary: str | None = self._entry[_SUMMARY]
        return summary if summary is not None else summary_of(self._entry[_MESSAGE])

    @property
    def message(self) -> object:
        """The message itself, as long as nobody has taken it, or where it is a few numbers; None afterwards."""
        message: object = self._entry[_MESSAGE]
        return message

    @property
    def cause(self) -> int:
        """The ``id`` of the event that the sender was handling; 0 where a chain begins."""
        cause: int = self._entry[_CAUSE]
        return cause

    @property
    def dead(self) -> bool:
        """Whether nobody was there to take it."""
        dead: bool = self._entry[_DEAD]
        return dead

    def __repr__(self) -> str:
        dead = ", dead" if self.dead else ""
        why = f"because of {self.cause}"
        return f"<{self.id} {self.sender} -> {self.receiver}: {self.type} {self.summary!r}, {why}{dead}>"


Exporter = Callable[[TraceEvent], object]


def _is_small(kind: type) -> bool:
    """Whether such a message says that it is ``small``: a few numbers, which a trace may keep instead of a text."""
    small = _SMALL[kind] = bool(getattr(kind, "small", False))
    return small


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

    __slots__ = ("__weakref__", "_entries", "bytes", "dropped", "max_bytes", "numbers")

    def __init__(self, max_bytes: int = RING_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        """An upper estimate of the memory that the kept events take."""
        self.dropped = 0
        """Events that made way for newer ones."""
        self.numbers: Iterator[int] = itertools.count(1)
        """What its events are numbered by."""
        self._entries: deque[Entry] = deque()

    def __call__(self, event: TraceEvent) -> None:
        self.keep(event._entry)

    def keep(self, entry: Entry) -> None:
        """Take it in, and let the oldest go where that is too much."""
        entries = self._entries
        entries.append(entry)
        self.bytes += entry[_SIZE]
        while self.bytes > self.max_bytes and entries:
            self.bytes -= entries.popleft()[_SIZE]
            self.dropped += 1

    def __iter__(self) -> Iterator[TraceEvent]:
        return map(TraceEvent, tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def chain(self, event_id: int) -> list[TraceEvent]:
        """An event and its causes, newest first, back to the first one or to where the ring forgot."""
        known = {number_of(entry): entry for entry in self._entries}
        chain = []
        while (entry := known.get(event_id)) is not None:
            chain.append(TraceEvent(entry))
            event_id = entry[_CAUSE]
        return chain


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

    def told(self, receiver: str, message: object, *, dead: bool = False) -> Entry:
        """Record one message; the entry is what waits in its stead until the receiver takes it."""
        kind = type(message)
        small = _SMALL.get(kind)
        if small or (small is None and _is_small(kind)):
            summary, size = None, _FIXED_SIZE + _SMALL_SIZE
        else:
            summary = summary_of(message)
            # Outside ASCII a string takes up to four bytes a character.
            size = _FIXED_SIZE + (len(summary) if summary.isascii() else 4 * len(summary))
        entry = Entry((
            next(self._numbers), self.clock(), None, self.actor, receiver, kind, message, summary, self.event, dead,
            size,
        ))  # fmt: skip
        if self._recorder is not None:
            self._recorder.keep(entry)
        if self._exporters:
            self._export(TraceEvent(entry))
        return entry

    def noted(self, receiver: str, message: object) -> int:
        """Record one message that is taken as it is told, and return the id of its event."""
        entry = self.told(receiver, message)
        entry[_TAKEN] = entry[_TIME]
        if entry[_SUMMARY] is not None:
            entry[_MESSAGE] = None
        number: int = entry[_ID]
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
