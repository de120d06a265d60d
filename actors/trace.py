"""What actors said to each other, and why: the emission hook and a flight recorder bounded in bytes.

One :class:`Tracer` serves one tree of actors on one event loop. While nothing is attached it costs a test of one flag
per message. While something is, every message told becomes a :class:`TraceEvent` that names its cause: the event that
its sender was handling. Following ``cause`` leads back to the bytes, the timer or the call that began it all.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from attrs import frozen

logger: Final = logging.getLogger("muxlink.trace")

MAX_SUMMARY: Final = 200
_FIXED_SIZE: Final = 400  # a TraceEvent, its numbers, and the headers of its three strings, rounded up


@frozen
class TraceEvent:
    """One message that was told."""

    id: int
    """Counts up from 1 within a tracer."""
    time: float
    """Seconds on the tracer's clock."""
    sender: str
    """The actor that told it, or the edge that it came in by: ``socket``, ``timer``, ``caller``."""
    receiver: str
    message: str
    """The message's type."""
    summary: str
    """At most 200 characters; never a body, never a secret header."""
    cause: int
    """The ``id`` of the event that the sender was handling; 0 where a chain begins."""
    dead: bool = False
    """Whether nobody was there to take it."""


Exporter = Callable[[TraceEvent], object]


@frozen
class Envelope:
    """A message in a mailbox together with the event that told it; only while tracing."""

    event: int
    message: object


def summary_of(message: object) -> str:
    """What a message says of itself in a trace, cut to a bound."""
    summarize = getattr(message, "summary", None)
    if summarize is None:
        return ""
    try:
        return str(summarize())[:MAX_SUMMARY]
    except Exception as error:  # a foreign error inside may fail to say what it is; whoever tells it must not fail too
        return f"(no summary: {type(error).__name__})"


class Tracer:
    """The hook that every mailbox of a tree of actors tells its messages to."""

    __slots__ = ("_exporters", "_last", "actor", "clock", "event", "on")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on = False
        self.clock = clock
        self.actor = "caller"
        self.event = 0
        self._last = 0
        self._exporters: tuple[Exporter, ...] = ()

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
        self.on = bool(self._exporters)

    def speak_as(self, actor: str, event: int = 0) -> None:
        """From here to the next call, messages are told by ``actor`` while it handles ``event``."""
        self.actor = actor
        self.event = event

    def told(self, receiver: str, message: object, *, dead: bool = False) -> int:
        """Record one message and return the id of its event."""
        self._last = number = self._last + 1
        event = TraceEvent(
            number, self.clock(), self.actor, receiver, type(message).__name__, summary_of(message), self.event, dead
        )
        self.on = False  # what an exporter tells in its turn is not traced, or there would be no end to it
        for exporter in self._exporters:
            try:
                exporter(event)
            except Exception:
                self._exporters = tuple(kept for kept in self._exporters if kept is not exporter)
                logger.exception("a trace exporter failed on event %d and is switched off: %r", number, exporter)
        self.on = bool(self._exporters)
        return number


class Recorder:
    """A flight recorder: keeps the newest events, bounded in bytes; attach it to a :class:`Tracer`."""

    def __init__(self, max_bytes: int = 4 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        """An upper estimate of the memory that the kept events take."""
        self.dropped = 0
        """Events that made way for newer ones."""
        self._events: deque[TraceEvent] = deque()

    def __call__(self, event: TraceEvent) -> None:
        self._events.append(event)
        self.bytes += self._size(event)
        while self.bytes > self.max_bytes and self._events:
            self.bytes -= self._size(self._events.popleft())
            self.dropped += 1

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def chain(self, event_id: int) -> list[TraceEvent]:
        """An event and its causes, newest first, back to the first one or to where the ring forgot."""
        known = {event.id: event for event in self._events}
        chain = []
        while event_id in known:
            chain.append(known[event_id])
            event_id = known[event_id].cause
        return chain

    @staticmethod
    def _size(event: TraceEvent) -> int:
        summary = event.summary
        # Outside ASCII a string takes up to four bytes a character.
        width = 1 if summary.isascii() else 4
        return _FIXED_SIZE + width * len(summary) + len(event.sender) + len(event.receiver)
