"""What a trace consists of: records that know nothing of the process that they came from.

Times of events are seconds on the monotonic clock of their own process; a :class:`Head` says what the wall clock showed
at one moment of it, which is how the events of several processes are put in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, Protocol

import attrs
from attrs import field, frozen

_KINDS: Final = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)
_ACK: Final = {0x1: "ACK"}
_FLAGS: Final[Mapping[int, Mapping[int, str]]] = {
    0x0: {0x1: "END_STREAM", 0x8: "PADDED"},
    0x1: {0x1: "END_STREAM", 0x4: "END_HEADERS", 0x8: "PADDED", 0x20: "PRIORITY"},
    0x4: _ACK,
    0x5: {0x4: "END_HEADERS", 0x8: "PADDED"},
    0x6: _ACK,
    0x9: {0x4: "END_HEADERS"},
}


@frozen(kw_only=True)
class Head:
    """One process: the records that bear its name come after it."""

    process: str
    pid: int
    monotonic: float
    """What the clock of its events showed when the wall clock showed ``wall``."""
    wall: float
    """Seconds since the epoch."""
    dropped: int = 0
    """Events that had made way for newer ones before the trace was taken."""
    payloads: bool = False
    """Whether its events may hold bodies and secret headers."""
    version: str = ""
    """The version of muxlink that wrote it."""
    offset: float | None = None
    """What a merge took off each of its times, to lay them on another process's clock; None where none did.

    Where the clocks drift apart it is the middle of that.
    """
    uncertainty: float | None = None
    """By how much that may be wrong, in seconds; None where nobody knows."""
    warnings: tuple[str, ...] = ()
    """What a reader of the whole trace should know, such as what a merge found doubtful; on its first head."""


@frozen(kw_only=True)
class Conversation:
    """One HTTP/2 connection, under the name of the actor that holds it."""

    process: str
    name: str
    side: str
    """``client`` or ``server``."""
    local: str
    peer: str
    remote: tuple[str, str] | None = None
    """Process and name of the same connection at its other end, in a merged trace."""


@frozen(kw_only=True)
class Frame:
    """The header of one frame (RFC 9113, 4.1)."""

    kind: int
    flags: int
    stream: int
    length: int

    @classmethod
    def parse(cls, header: bytes) -> Frame:
        """The frame that begins with these nine bytes."""
        return cls(
            kind=header[3],
            flags=header[4],
            stream=int.from_bytes(header[5:9]) & 0x7FFFFFFF,
            length=int.from_bytes(header[:3]),
        )

    @property
    def text(self) -> str:
        """Its name, stream, length and flags, such as ``DATA 5 1024 END_STREAM``; what has no name is hexadecimal."""
        known = _FLAGS.get(self.kind, {})
        words = [
            _KINDS[self.kind] if self.kind < len(_KINDS) else f"{self.kind:#x}",
            str(self.stream),
            str(self.length),
        ]
        words += [name for flag, name in known.items() if self.flags & flag]
        if rest := self.flags & ~sum(known):
            words.append(f"{rest:#x}")
        return " ".join(words)


@frozen(kw_only=True)
class Event:
    """One message that was told."""

    process: str
    id: int
    """Unique within its process."""
    time: float
    """When it was told."""
    taken: float | None = None
    """When its receiver took it, if it did."""
    sender: str
    """The actor that told it, or the edge that it came in by: ``socket``, ``timer``, ``caller``."""
    receiver: str
    type: str
    """The message's class."""
    text: str = ""
    """What the message says of itself; never a body, never a secret."""
    cause: int = 0
    """The ``id`` of the event that its sender was handling; 0 where a chain begins."""
    dead: bool = False
    """Whether nobody was there to take it."""
    connection: str | None = None
    """The name of its :class:`Conversation`."""
    stream: int | None = None
    first: int | None = None
    """The running number of the first of ``frames`` on its connection in its direction, from 1."""
    frames: tuple[Frame, ...] | None = None
    remote: tuple[tuple[str, int], ...] = ()
    """Process and id of each event by which the frames that arrived were sent, in a merged trace."""
    data: Mapping[str, object] | None = None
    """What a replay needs to tell it again; only where the trace was taken with payloads."""


@frozen(kw_only=True)
class End:
    """The trace of one process is whole up to here."""

    process: str
    reason: str
    """``asked``, ``closed``, or what bound ended it: ``events``, ``seconds``, ``size``."""
    events: int
    lost: int = 0
    """Events that could not be kept."""


Record = Head | Conversation | Event | End


class Choice(Protocol):
    """Who chooses events, such as a :class:`supervisor.tracing.filters.Filter`."""

    def among(self, trace: Trace) -> Callable[[Event], bool]:
        """The test that the events of this trace are put to."""


@frozen(kw_only=True)
class Trace:
    """Records of one or more processes in order; make one with :meth:`of`."""

    heads: tuple[Head, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    events: tuple[Event, ...] = ()
    """Sorted by wall time, then process and id."""
    ends: tuple[End, ...] = ()
    warnings: tuple[str, ...] = ()
    """What a reader should know of it, a line each."""
    _offsets: dict[str, float] = field(init=False, eq=False, repr=False)
    _index: dict[tuple[str, int], Event] = field(factory=dict, init=False, eq=False, repr=False)
    _commands: dict[tuple[str, str, int], list[Event]] = field(factory=dict, init=False, eq=False, repr=False)

    @_offsets.default
    def _wall_minus_monotonic(self) -> dict[str, float]:
        return {head.process: head.wall - head.monotonic for head in self.heads}

    @classmethod
    def of(cls, records: Iterable[Record], warnings: Iterable[str] = ()) -> Trace:
        """Collect records in any order and sort what they say.

        ``warnings`` is looked at last, so a reader of the records may still add to it. Where several traces of one
        process were joined, an event that is in more than one of them is taken once.
        """
        heads: list[Head] = []
        conversations: list[Conversation] = []
        events: list[Event] = []
        ends: list[End] = []
        for record in records:
            match record:
                case Event():
                    events.append(record)
                case Head():
                    heads.append(record)
                case Conversation():
                    conversations.append(record)
                case End():
                    ends.append(record)
        if len({head.process for head in heads}) < len(heads):
            events = _once(heads, events)
        offsets = {head.process: head.wall - head.monotonic for head in heads}
        events.sort(key=lambda event: (event.time + offsets.get(event.process, 0.0), event.process, event.id))
        return cls(
            heads=tuple(heads),
            conversations=tuple(dict.fromkeys(conversations)),
            events=tuple(events),
            ends=tuple(ends),
            warnings=tuple(dict.fromkeys(_warned(warnings, heads, events))),
        )

    def records(self) -> Iterator[Record]:
        """Everything in it, each process's head before the rest."""
        return chain(self.heads, self.conversations, self.events, self.ends)

    def wall(self, event: Event, time: float | None = None) -> float:
        """When an event was told, or another ``time`` of its process's clock, in seconds since the epoch."""
        return (event.time if time is None else time) + self._offsets.get(event.process, 0.0)

    def chain(self, event: Event) -> list[Event]:
        """An event and its causes, newest first, back to where the chain begins or the trace does.

        In a merged trace it goes on over the wire, by the frame of its stream, to what had that sent at the other end.
        """
        if not self._index:
            self._index.update(((known.process, known.id), known) for known in self.events)
        found, stream, crossed = {(event.process, event.id): event}, event.stream, False
        while True:
            sent = self._sent(event, stream)
            cause = sent or (self._asked(event, stream) if crossed else None) or self._cause(event)
            # A trace that was edited must not lead in a circle.
            if cause is None or (cause.process, cause.id) in found:
                return list(found.values())
            found[cause.process, cause.id] = cause
            event, stream, crossed = cause, cause.stream or stream, sent is not None

    def _cause(self, event: Event) -> Event | None:
        cause = self._index.get((event.process, event.cause))
        # It is older than what it led to.
        return cause if cause is not None and 0 < cause.id < event.id else None

    def _sent(self, arrived: Event, stream: int | None) -> Event | None:
        """What sent the frames of this stream, or the last of all."""
        sent = [event for key in arrived.remote if (event := self._index.get(key)) is not None]
        own = [event for event in sent if stream and any(frame.stream == stream for frame in event.frames or ())]
        found = own or sent
        return found[-1] if found else None

    def _asked(self, sent: Event, stream: int | None) -> Event | None:
        """What last asked for frames of this stream: one write is for all the commands of a turn."""
        if not self._commands:
            for event in self.events:
                if event.stream and event.taken is not None:
                    self._commands.setdefault((event.process, event.receiver, event.stream), []).append(event)
        asked = self._commands.get((sent.process, sent.sender, stream or 0), ())
        return max(
            (event for event in asked if event.id < sent.id and (event.taken or event.time) <= sent.time),
            key=lambda event: event.id,
            default=None,
        )

    def filter(self, choice: Choice) -> Trace:
        """The same trace with only the events that are chosen."""
        chosen = choice.among(self)
        return attrs.evolve(self, events=tuple(event for event in self.events if chosen(event)))


def _once(heads: Iterable[Head], events: Iterable[Event]) -> list[Event]:
    """Events of which each is there once, as the one that knows when it was taken."""
    pids: dict[str, set[int]] = {}
    for head in heads:
        pids.setdefault(head.process, set()).add(head.pid)
    kept: dict[object, Event] = {}
    for event in events:
        # Of two processes that share a name, the same id is two events.
        key = (event.process, event.id) if len(pids.get(event.process, ())) == 1 else len(kept)
        if (known := kept.get(key)) is None or (known.taken is None and event.taken is not None):
            kept[key] = event
    return list(kept.values())


def _warned(warnings: Iterable[str], heads: list[Head], events: list[Event]) -> Iterator[str]:
    yield from warnings
    for head in heads:
        yield from head.warnings
    yield from _doubts(heads, events)


def _doubts(heads: list[Head], events: list[Event]) -> Iterator[str]:
    pids: dict[str, int] = {}
    for head in heads:
        if pids.setdefault(head.process, head.pid) != head.pid:
            yield (
                f"two processes are called {head.process!r} (pids {pids[head.process]} and {head.pid}):"
                " their events cannot be told apart"
            )
        if not math.isfinite(head.wall - head.monotonic):
            yield f"the clocks of process {head.process!r} say nothing: its events are in no order"
    for process in dict.fromkeys(event.process for event in events):
        if process not in pids:
            yield f"process {process!r} has events and no head: its times cannot be compared with those of others"
