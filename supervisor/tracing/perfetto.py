"""The Trace Event Format: what ui.perfetto.dev and chrome://tracing draw on a time line.

Each process is one there, and each actor a thread of it, under its parent; ``socket``, ``timer`` and ``caller`` are
threads, too. A message is a slice on its receiver, from when it was taken to the last that it had told, with an arrow
from where it was told. Where no slice of the sender encloses that moment it gets one of its own: ``tell``. A stream is
an async span over the first to the last of its events. What was never taken is an instant.

Slices of one thread must not overlap in part, and arrows are bound by time. So a slice ends where the next one begins,
lasts a microsecond at least, and begins after the one before it and after the arrow that leads to it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from itertools import count
from operator import itemgetter
from typing import Final, TextIO

from attrs import define, field

from supervisor.tracing.records import Event, Trace

EDGES: Final = ("caller", "timer", "socket")
SHORTEST: Final = 1_000
"""Nanoseconds of the shortest slice."""

_encoder: Final = json.JSONEncoder(separators=(",", ":"))

_Json = dict[str, object]


def write(trace: Trace, file: TextIO) -> None:
    """Write the object form, one event after the other."""
    file.write('{"displayTimeUnit":"ns","traceEvents":[')
    separator = "\n"
    for event in events(trace):
        file.write(separator + _encoder.encode(event))
        separator = ",\n"
    file.write("\n]}\n")


def events(trace: Trace) -> Iterator[_Json]:
    """The trace events; an arrow comes after the slices that it is bound to."""
    by_process: dict[str, list[Event]] = {head.process: [] for head in trace.heads}
    for event in trace.events:
        by_process.setdefault(event.process, []).append(event)
    own = {head.process: head.pid for head in trace.heads}
    zero = trace.wall(trace.events[0]) if trace.events else 0.0
    pids: set[int] = set()
    numbers = _Numbers()
    drawn: dict[str, _Process] = {}
    for order, (name, told) in enumerate(by_process.items()):
        pid = _free_pid(own.get(name, 0), pids)
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": order}}
        if told:
            # Differences of one clock are exact to the nanosecond, where wall times are not.
            offset = round((trace.wall(told[0]) - zero) * 1e9)
            drawn[name] = _Process(pid, told[0].time, offset, _tids(told, numbers.tids), numbers)
            yield from drawn[name].drawn(told)
    for event in trace.events:
        for process, id in event.remote:
            if process in drawn:
                yield from _over_the_wire(
                    drawn[process], id, drawn[event.process].turns.get(event.id), drawn[event.process]
                )


def _free_pid(pid: int, taken: set[int]) -> int:
    """The process's own, unless one of another host has it."""
    pid = pid or 1
    while pid in taken:
        pid += 1
    taken.add(pid)
    return pid


def _tids(told: Iterable[Event], numbers: Iterator[int]) -> dict[str, int]:
    """A thread for each actor: edges first, then the others with parents before children."""
    names = dict.fromkeys(name for event in told for name in (event.sender, event.receiver))
    edges = [name for name in EDGES if name in names]
    return {name: next(numbers) for name in (*edges, *sorted(names.keys() - set(edges), key=_in_order))}


def _in_order(name: str) -> tuple[list[list[tuple[str, int]]], str]:
    # connection-10 comes after connection-9.
    parts = [
        [(word, int(digits or 0)) for word, digits in re.findall(r"(\D*)([0-9]{0,18})", part)]
        for part in name.split("/")
    ]
    return parts, name


@define
class _Numbers:
    """What is unique in the whole file."""

    tids: Iterator[int] = field(factory=lambda: count(1))
    arrows: Iterator[int] = field(factory=lambda: count(1))
    streams: Iterator[int] = field(factory=lambda: count(1))


@define(eq=False)
class _Slice:
    """Time on a thread."""

    event: Event
    tid: int
    name: str
    category: str
    start: int
    end: int
    """Where nothing follows on its thread."""

    def cut(self, next_start: int) -> None:
        self.end = max(min(self.end, next_start), self.start + SHORTEST)


@define(eq=False)
class _Process:
    """The time line of one process; times are nanoseconds after the first event of the trace."""

    pid: int
    origin: float
    """What the process's clock showed at ``offset``."""
    offset: int
    tids: dict[str, int]
    numbers: _Numbers
    newest: dict[int, _Slice] = field(factory=dict)
    """Of each thread."""
    turns: dict[int, _Slice] = field(factory=dict)
    """Where each event was handled."""
    sources: dict[int, _Slice] = field(factory=dict)
    """Where each event was told."""

    def drawn(self, told: list[Event]) -> Iterator[_Json]:
        yield from self._threads()
        handled = []
        for event in told:
            if event.taken is not None or event.dead or event.receiver in EDGES:
                handled.append(event)
            else:
                yield self._waiting(event)
        yield from self._slices(handled)
        for event in handled:
            yield from self._arrow(event)
        yield from self._streams(told)

    def _at(self, time: float) -> int:
        return self.offset + round((time - self.origin) * 1e9)

    def _threads(self) -> Iterator[_Json]:
        for index, (name, tid) in enumerate(self.tids.items()):
            place: _Json = {"ph": "M", "pid": self.pid, "tid": tid}
            yield {**place, "name": "thread_name", "args": {"name": name}}
            yield {**place, "name": "thread_sort_index", "args": {"sort_index": index}}

    def _slices(self, handled: list[Event]) -> Iterator[_Json]:
        handled.sort(key=lambda event: (_taken(event), event.id))
        ends, apart = _turns(handled)
        # In the order of time, so that a cause lies on its thread before what it led to.
        laying = [(_taken(event), event.id, True, event) for event in handled]
        laying += [(event.time, event.id, False, event) for event in apart]
        laying.sort(key=itemgetter(0, 1, 2))
        for time, _, is_turn, event in laying:
            start = self._at(time)
            laid = self._turn(event, start, ends) if is_turn else self._telling(event, start)
            previous = self.newest.get(laid.tid)
            if previous is not None:
                laid.start = max(laid.start, previous.start + SHORTEST)
                previous.cut(laid.start)
                yield self._complete(previous)
            laid.end = max(laid.end, laid.start + SHORTEST)
            self.newest[laid.tid] = laid
        for slice_ in self.newest.values():
            yield self._complete(slice_)

    def _turn(self, event: Event, start: int, ends: dict[int, float]) -> _Slice:
        """Where an event is handled: not before the start of where it was told."""
        # Told apart, or else in the turn of its cause.
        source = self.sources.get(event.id) or self.turns[event.cause]
        self.sources[event.id] = source
        end = self._at(ends[event.id]) if event.id in ends else start
        name, category = (f"{event.type} (dead)", "message,dead") if event.dead else (event.type, "message")
        self.turns[event.id] = _Slice(event, self.tids[event.receiver], name, category, max(start, source.start), end)
        return self.turns[event.id]

    def _telling(self, event: Event, start: int) -> _Slice:
        """Where an event is told by who has no turn for it: an edge, or a task."""
        self.sources[event.id] = _Slice(event, self.tids[event.sender], f"tell {event.type}", "tell", start, start)
        return self.sources[event.id]

    def _complete(self, slice_: _Slice) -> _Json:
        return {
            "ph": "X",
            "name": slice_.name,
            "cat": slice_.category,
            "pid": self.pid,
            "tid": slice_.tid,
            "ts": slice_.start / 1000,
            "dur": (slice_.end - slice_.start) / 1000,
            "args": self._args(slice_.event),
        }

    def _waiting(self, event: Event) -> _Json:
        return {
            "ph": "i",
            "s": "t",
            "name": f"{event.type} (not taken)",
            "cat": "message",
            "pid": self.pid,
            "tid": self.tids[event.receiver],
            "ts": self._at(event.time) / 1000,
            "args": self._args(event),
        }

    def _args(self, event: Event) -> _Json:
        args: _Json = {"event": event.id, "from": event.sender, "told_us": self._at(event.time) / 1000}
        if event.taken is not None:
            args["taken_us"] = self._at(event.taken) / 1000
        for key, value in (
            ("text", event.text),
            ("cause", event.cause),
            ("connection", event.connection),
            ("stream", event.stream),
            ("first_frame", event.first),
        ):
            if value:
                args[key] = value
        if event.frames:
            args["frames"] = [frame.text for frame in event.frames]
        return args

    def _arrow(self, event: Event) -> Iterator[_Json]:
        source, target = self.sources[event.id], self.turns[event.id]
        arrow: _Json = {"name": "told", "cat": "told", "id": next(self.numbers.arrows), "pid": self.pid}
        # Just inside of the slice, where the next one cut it short.
        start = max(source.start, min(self._at(event.time), source.end - 1))
        yield {**arrow, "ph": "s", "tid": source.tid, "ts": start / 1000}
        yield {**arrow, "ph": "f", "bp": "e", "tid": target.tid, "ts": target.start / 1000}

    def _streams(self, told: list[Event]) -> Iterator[_Json]:
        spans: dict[tuple[str, int], tuple[Event, int, int]] = {}
        for event in told:
            if event.stream:
                key = event.connection or "", event.stream
                first, start, end = spans.get(key, (event, self._at(event.time), 0))
                spans[key] = first, start, max(end, self._at(_taken(event)))
        for (connection, stream), (first, start, end) in spans.items():
            span: _Json = {
                "name": f"{connection} stream {stream}".strip(),
                "cat": "stream",
                "id2": {"local": f"{next(self.numbers.streams):#x}"},
                "pid": self.pid,
                "tid": self.tids.get(connection) or self.tids[first.receiver],
            }
            yield {**span, "ph": "b", "ts": start / 1000, "args": {"connection": connection, "stream": stream}}
            yield {**span, "ph": "e", "ts": end / 1000, "args": {}}


def _over_the_wire(there: _Process, sent: int, arrived: _Slice | None, here: _Process) -> Iterator[_Json]:
    """From what sent frames to what they arrived by, unless clocks are so uncertain that it would go back in time."""
    source = there.turns.get(sent)
    if source is None or arrived is None or source.start > arrived.start:
        return
    arrow: _Json = {"name": "sent", "cat": "wire", "id": next(here.numbers.arrows)}
    yield {**arrow, "ph": "s", "pid": there.pid, "tid": source.tid, "ts": source.start / 1000}
    yield {**arrow, "ph": "f", "bp": "e", "pid": here.pid, "tid": arrived.tid, "ts": arrived.start / 1000}


def _taken(event: Event) -> float:
    """When it was handled; an edge handles what it is told at once."""
    return event.time if event.taken is None else max(event.taken, event.time)


def _turns(handled: list[Event]) -> tuple[dict[int, float], list[Event]]:
    """When each event had told the last of what it led to, and which were told while no slice lies on their sender.

    The former is up to where the next turn of the actor begins; after that, it is a task that tells.
    """
    known = {event.id: event for event in handled if not event.dead}
    newest: dict[str, int] = {}
    next_turn: dict[int, float] = {}
    for event in handled:
        if (before := newest.get(event.receiver)) is not None:
            next_turn[before] = _taken(event)
        newest[event.receiver] = event.id
    ends: dict[int, float] = {}
    apart = []
    for event in handled:
        cause = known.get(event.cause)
        if (
            cause is not None
            and cause.receiver == event.sender
            and cause.id < event.id
            and _taken(cause) <= event.time < next_turn.get(cause.id, math.inf)
        ):
            ends[cause.id] = max(event.time, ends.get(cause.id, event.time))
        else:
            apart.append(event)
    return ends, apart
