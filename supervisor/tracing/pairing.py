"""Which connection of one trace is which of another: by addresses, and where they do not tell, by frames.

TCP keeps the order, so the n-th frame that one end sends is the n-th that arrives at the other, and their headers are
equal. Where frames say too little, or several ends fit, nothing is guessed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from attrs import define, field, frozen

from supervisor.tracing.offsets import Bound, Interval
from supervisor.tracing.records import Event, Frame, Trace

SENT: Final = "FramesSent"
ARRIVED: Final = "FramesArrived"
ENOUGH: Final = 8
"""Equal frames that say as much as addresses do; fewer will do from the first ones on, the SETTINGS."""
DRIFT: Final = 2e-4
"""Seconds a second that two clocks may run apart, and still be thought of as sound."""
SLACK: Final = 1e-5
"""Seconds by which frames of one pair of clocks may disagree besides."""
_SETTINGS: Final = 4


class Sighting(NamedTuple):
    """A frame that went by one end."""

    frame: Frame
    event: Event
    time: float
    """When it was sent, or had arrived: before it was read, where that is known."""


@define(eq=False)
class WireEnd:
    """One end of a connection, as its process saw it."""

    process: str
    name: str
    side: str = ""
    """Empty, like the addresses, where the trace has forgotten how it began."""
    local: str = ""
    peer: str = ""
    sent: dict[int, Sighting] = field(factory=dict)
    arrived: dict[int, Sighting] = field(factory=dict)
    unnumbered: int = 0
    """Frames that nobody knows the number of."""

    @property
    def address(self) -> str:
        """For people: who it is, from where to where."""
        places = f" from {self.local or '?'} to {self.peer or '?'}" if self.side else ""
        return f"{self.name}{places}"


def wire_ends(trace: Trace) -> list[WireEnd]:
    """Every connection of a trace, with the frames that it knows of."""
    ends = {
        (each.process, each.name): WireEnd(each.process, each.name, each.side, each.local, each.peer)
        for each in trace.conversations
    }
    told = {(event.process, event.id): event.time for event in trace.events if event.type == "BytesArrived"}
    for event in trace.events:
        if not event.frames or event.type not in (SENT, ARRIVED):
            continue
        is_sent = event.type == SENT
        name = event.connection or (event.sender if is_sent else event.receiver)
        end = ends.get((event.process, name)) or ends.setdefault((event.process, name), WireEnd(event.process, name))
        if not event.first:
            end.unnumbered += len(event.frames)
            continue
        time = event.time if is_sent else min(event.time, told.get((event.process, event.cause), event.time))
        seen = end.sent if is_sent else end.arrived
        for number, frame in enumerate(event.frames, event.first):
            seen[number] = Sighting(frame, event, time)
    return list(ends.values())


@define(eq=False)
class Pair:
    """Two ends that may be those of one connection."""

    first: WireEnd
    second: WireEnd
    by_address: bool
    equal: int = 0
    """Frames that both know."""
    ways: int = 0
    """Directions in which there are any."""
    contradiction: str | None = None
    """Why it cannot be."""
    interval: Interval = field(factory=Interval)
    """Where the offset of the second process's clock lies, as this connection says."""

    @property
    def is_sure(self) -> bool:
        """Whether frames alone say that it is so: more of them, where addresses would have to have been changed."""
        translated = self.first.local and self.first.peer and self.second.local and self.second.peer
        begun = not translated and all(
            1 in end.sent and end.sent[1].frame.kind == _SETTINGS for end in (self.first, self.second)
        )
        begun = begun and 1 in self.first.arrived and 1 in self.second.arrived
        return self.ways == 2 and (begun or self.equal >= ENOUGH)

    def crossings(self) -> Iterator[tuple[int, Sighting, Sighting, bool]]:
        """Each frame that both know: its number, as it was sent, as it arrived, and whether it went to the second."""
        for sender, receiver in ((self.first, self.second), (self.second, self.first)):
            sent, arrived = sender.sent, receiver.arrived
            for number in sent if len(sent) < len(arrived) else arrived:
                if number in sent and number in arrived:
                    yield number, sent[number], arrived[number], sender is self.first

    def compare(self) -> None:
        """Count the frames that are equal, up to the first that is not."""
        ways = set()
        for number, sent, arrived, onward in self.crossings():
            if sent.frame != arrived.frame:
                sender, receiver = (self.first, self.second) if onward else (self.second, self.first)
                self.contradiction = (
                    f"frame {number} that {sender.name} of {sender.process} sent is {sent.frame.text},"
                    f" and that which arrived at {receiver.name} of {receiver.process} is {arrived.frame.text}"
                )
                return
            ways.add(onward)
            self.equal += 1
        self.ways = len(ways)
        self.interval = Interval.of(self.bounds())

    def bounds(self) -> Iterator[Bound]:
        """What its frames say of the clocks, once for those that were sent and read together."""
        last: tuple[object, object] = (None, None)
        for _, sent, arrived, onward in self.crossings():
            if last != (last := (id(sent.event), id(arrived.event))):
                ahead = arrived.time - sent.time if onward else sent.time - arrived.time
                yield Bound(arrived.time if onward else sent.time, ahead, onward)


@define(eq=False)
class Pairing:
    """Who belongs to whom."""

    pairs: list[Pair] = field(factory=list)
    doubts: list[str] = field(factory=list)
    """What fits several, a line each."""
    contradictions: list[str] = field(factory=list)
    """Why ends whose addresses fit do not belong together, a line each."""
    untimely: list[str] = field(factory=list)
    """Ends with the same frames whose times cannot be, a line each."""
    clocks: dict[tuple[str, str], Interval] = field(factory=dict)
    """What the pairs leave of the offset between two processes' clocks."""

    def take(self, pairs: Iterable[Pair]) -> None:
        """These belong together."""
        for pair in pairs:
            self.pairs.append(pair)
            key = pair.first.process, pair.second.process
            known = self.clocks.get(key, Interval())
            low, high = max(known.low, pair.interval.low), min(known.high, pair.interval.high)
            self.clocks[key] = Interval(low, high)


def pair_up(ones: Sequence[WireEnd], others: Sequence[WireEnd], slack: Callable[[str, str], float]) -> Pairing:
    """Find the pairs; ``slack`` says by how many seconds the clocks of two processes may be wrong about each other."""
    found = Pairing()
    candidates = list(_by_address(ones, others))
    fitting = [pair for pair in candidates if pair.contradiction is None]
    known = {id(end) for pair in fitting if pair.equal for end in (pair.first, pair.second)}
    # An address that comes again is another connection's, if the frames of one are known and those of the other not.
    fitting = [pair for pair in fitting if pair.equal or not known & {id(pair.first), id(pair.second)}]
    left = _Accepting(found, slack).accept(fitting)
    taken = {id(end) for pair in (*found.pairs, *left) for end in (pair.first, pair.second)}
    found.contradictions = [
        pair.contradiction
        for pair in candidates
        if pair.contradiction is not None and not taken & {id(pair.first), id(pair.second)}
    ]
    free = [[end for end in ends if id(end) not in taken and end.sent and end.arrived] for ends in (ones, others)]
    alike = list(_by_frames(*free))
    found.untimely = [_untimely(pair) for pair in alike if not _is_timely(pair, slack)]
    left += _Accepting(found, slack).accept([pair for pair in alike if _is_timely(pair, slack)])
    found.doubts = list(_doubts(left))
    return found


def _by_address(ones: Iterable[WireEnd], others: Iterable[WireEnd]) -> Iterator[Pair]:
    places: dict[tuple[str, str], list[WireEnd]] = defaultdict(list)
    for other in others:
        places[other.peer, other.local].append(other)
    for one in ones:
        if one.local and one.peer:
            for other in places.get((one.local, one.peer), ()):
                if one.side != other.side:
                    pair = Pair(one, other, by_address=True)
                    pair.compare()
                    yield pair


def _by_frames(ones: Iterable[WireEnd], others: Sequence[WireEnd]) -> Iterator[Pair]:
    for one in ones:
        for other in others:
            if one.side and one.side == other.side:
                continue
            pair = Pair(one, other, by_address=False)
            pair.compare()
            if pair.contradiction is None and pair.is_sure:
                yield pair


def _is_timely(pair: Pair, slack: Callable[[str, str], float]) -> bool:
    return pair.interval.gap <= slack(pair.first.process, pair.second.process)


def _untimely(pair: Pair) -> str:
    return (
        f"{pair.first.name} of {pair.first.process} and {pair.second.name} of {pair.second.process} have"
        f" {pair.equal:,} equal frames, some of which would have arrived {pair.interval.gap / 2:,.6f} s before they"
        " were sent, whatever the clocks showed; and their addresses do not tell"
    )


@frozen
class _Accepting:
    """Takes the pairs that leave no choice, until there are no more."""

    found: Pairing
    slack: Callable[[str, str], float]

    def accept(self, pairs: list[Pair]) -> list[Pair]:
        """Returns those that leave one."""
        while pairs:
            clear = self._clear(pairs)
            if not clear:
                # Now the clocks may tell: what is known of them from other connections holds for these, too.
                agreeing = [pair for pair in pairs if self._agrees(pair)]
                if len(agreeing) in (0, len(pairs)):
                    return pairs
                pairs = agreeing
                continue
            self.found.take(clear)
            taken = {id(end) for pair in clear for end in (pair.first, pair.second)}
            pairs = [pair for pair in pairs if not taken & {id(pair.first), id(pair.second)}]
        return pairs

    def _clear(self, pairs: list[Pair]) -> list[Pair]:
        count: dict[int, int] = defaultdict(int)
        for pair in pairs:
            count[id(pair.first)] += 1
            count[id(pair.second)] += 1
        return [
            pair
            for pair in pairs
            if count[id(pair.first)] == 1 == count[id(pair.second)] and (pair.by_address or self._agrees(pair))
        ]

    def _agrees(self, pair: Pair) -> bool:
        """Whether the clocks that others know of are those of this pair, too."""
        one, other = pair.first.process, pair.second.process
        known = self.found.clocks.get((one, other))
        return known is None or known.apart(pair.interval) <= self.slack(one, other)


def _doubts(left: Iterable[Pair]) -> Iterator[str]:
    rivals: dict[str, list[str]] = defaultdict(list)
    for pair in left:
        rivals[f"{pair.first.address} of {pair.first.process}"].append(f"{pair.second.name} of {pair.second.process}")
    for one, others in rivals.items():
        yield f"{one} fits {' and '.join(others[:3])}{' and others' if len(others) > 3 else ''}: it is left alone"


def slack_between(first: Trace, second: Trace) -> Callable[[str, str], float]:
    """How wrong clocks of these traces may be about each other: they drift, the longer the more."""
    spans: dict[str, list[float]] = {}
    for event in (*first.events, *second.events):
        if math.isfinite(event.time):
            span = spans.setdefault(event.process, [event.time, event.time])
            span[0], span[1] = min(span[0], event.time), max(span[1], event.time)

    def slack(one: str, other: str) -> float:
        return SLACK + DRIFT * max(spans[name][1] - spans[name][0] for name in (one, other))

    return slack
