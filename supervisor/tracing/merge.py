"""One trace of the traces that the two ends of connections have kept, in two processes and maybe on two hosts.

Connections are laid beside each other by addresses or by frames (``pairing``), the clocks by what passed between them
(``offsets``). Then each arrival of frames knows what sent them, so that a chain of causes leads over the wire.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import define, evolve, field

from actors.errors import Misuse
from supervisor.tracing import jsonl
from supervisor.tracing.convert import save
from supervisor.tracing.naming import renamed
from supervisor.tracing.offsets import Clock, estimate
from supervisor.tracing.pairing import (
    ARRIVED,
    DRIFT,
    SENT,
    Pair,
    Pairing,
    WireEnd,
    pair_up,
    slack_between,
    wire_ends,
)
from supervisor.tracing.records import Conversation, Event, Head, Record, Trace

MOST_NAMED: Final = 4
"""Connections that one line names."""
MOST_DOUBTS: Final = 20
"""Lines about connections that belong to no other."""
SAME: Final = 50
"""Events by which a trace is known again."""
_NO_FRAMES: Final = (
    f"holds no frames ({SENT}, {ARRIVED}), which tell what belongs together: merge whole traces, and filter afterwards"
)


class _StrangersError(Misuse):
    """Traces that have no connection in common."""


def merge(first: Trace, second: Trace) -> Trace:
    """One trace of both, with the second's times on the first's clock.

    Where processes bear one name, theirs get ``@client`` and ``@server`` behind it, or what else tells them apart. How
    the clocks differ is in the ``offset`` and ``uncertainty`` of the second's heads, which connection is which in
    ``remote`` of the conversations, and what sent what arrived in ``remote`` of the events. ``warnings`` says in words
    what of that is doubtful, and how the clocks differ. Raises Misuse where the traces do not belong together.
    """
    return _merge(first, second, ("the first trace", "the second trace"))


def merge_files(paths: Sequence[Path | str], target: Path | str) -> Trace:
    """Merge the traces of two files or more, write that to ``target`` as its suffix says, and return it.

    Times are those of the first; the order of the others does not matter.
    """
    if len(paths) < 2:
        raise Misuse(f"{len(paths)} trace is not enough to merge: name those of both ends")
    merged, name = jsonl.load(paths[0]), str(paths[0])
    waiting = list(paths[1:])
    while waiting:
        strangers: list[_StrangersError] = []
        for path in waiting:
            try:
                merged = _merge(merged, jsonl.load(path), (name, str(path)))
            except _StrangersError as stranger:
                strangers.append(stranger)
                continue
            name = f"{name} and {path}"
            waiting.remove(path)
            break
        else:
            raise strangers[0]
    save(merged, Path(target))
    return merged


def _merge(first: Trace, second: Trace, names: tuple[str, str]) -> Trace:
    for trace, name in zip((first, second), names, strict=True):
        if not any(event.frames and event.type in (SENT, ARRIVED) for event in trace.events):
            raise Misuse(f"{name} {_NO_FRAMES}")
    _refuse_the_same(first, second, names)
    first, second = renamed(first, second)
    ends = wire_ends(first), wire_ends(second)
    pairing = pair_up(*ends, slack_between(first, second))
    if not pairing.pairs:
        raise _StrangersError(_why_none(ends, pairing, names))
    merging = _Merging(first, second, pairing.pairs)
    merging.lay_clocks()
    records = (*first.records(), *merging.second_records())
    doubts = (*pairing.doubts, *pairing.contradictions)
    if (more := len(doubts) - MOST_DOUBTS) > 0:
        doubts = (*doubts[:MOST_DOUBTS], f"so do {more:,} more connections")
    notes = tuple(dict.fromkeys((*first.warnings, *second.warnings, *merging.notes, *doubts)))
    merged = Trace.of(_linked(records, pairing.pairs))
    # In a record, so that they are in the file, too.
    heads = [evolve(head, warnings=() if number else notes) for number, head in enumerate(merged.heads)]
    return Trace.of((*heads, *merged.conversations, *merged.events, *merged.ends))


def _refuse_the_same(first: Trace, second: Trace, names: tuple[str, str]) -> None:
    ones, others = _by_process(first), _by_process(second)
    for head in second.heads:
        for known in first.heads:
            if head.pid == known.pid and _is_same(ones.get(known.process, {}), others.get(head.process, {})):
                what = f"process {head.process!r} (pid {head.pid})"
                if any(each.offset is not None for each in (*first.heads, *second.heads)):
                    raise Misuse(f"{what} is in {names[0]} and in {names[1]}: they were merged before")
                raise Misuse(f"{names[0]} and {names[1]} are both of {what}: the other end's trace is needed")


def _by_process(trace: Trace) -> dict[str, dict[int, Event]]:
    found: dict[str, dict[int, Event]] = defaultdict(dict)
    for event in trace.events:
        found[event.process][event.id] = event
    return found


def _is_same(ones: Mapping[int, Event], others: Mapping[int, Event]) -> bool:
    """Whether events are those of one process, on whatever clocks: the same messages at the same distances."""
    common = sorted(ones.keys() & others.keys())[:SAME]
    if not common:
        return False
    one, other = ones[common[0]], others[common[0]]
    return all(
        (a.sender, a.receiver, a.type, a.text, a.frames) == (b.sender, b.receiver, b.type, b.text, b.frames)
        and math.isclose(a.time - one.time, b.time - other.time, rel_tol=1e-3, abs_tol=2e-6)
        for a, b in ((ones[number], others[number]) for number in common)
    )


def _why_none(ends: tuple[Sequence[WireEnd], Sequence[WireEnd]], pairing: Pairing, names: tuple[str, str]) -> str:
    why = f"{names[0]} and {names[1]} "
    if pairing.contradictions:
        return why + f"do not belong together: {pairing.contradictions[0]}"
    if pairing.doubts:
        return why + f"have connections that cannot be told apart: {pairing.doubts[0]}"
    if pairing.untimely:
        return why + f"have no connection in common: {pairing.untimely[0]}"
    told = "; ".join(
        f"in {name}: " + (_listed([end.address for end in some]) or "none")
        for name, some in zip(names, ends, strict=True)
    )
    unnumbered = [end.name for some in ends for end in some if end.unnumbered and not end.sent]
    lost = f"; nobody counted the frames of {_listed(unnumbered)}, which went out unseen at times" if unnumbered else ""
    return why + f"have no connection in common: {told}{lost}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


_Key = tuple[float, float] | str


@define(eq=False)
class _Merging:
    """The second trace's way onto the first's clock."""

    first: Trace
    second: Trace
    pairs: Sequence[Pair]
    notes: list[str] = field(factory=list)
    clocks: dict[str, Clock] = field(factory=dict)
    """What becomes of the times of the second's processes."""
    heads: dict[str, Head] = field(factory=dict)
    """What becomes of its heads."""

    def lay_clocks(self) -> None:
        """Find out how the clocks differ; processes that were merged before share one."""
        keys = {head.process: _key(head) for trace in (self.first, self.second) for head in trace.heads}
        told: dict[_Key, dict[_Key, list[Pair]]] = defaultdict(lambda: defaultdict(list))
        for pair in self.pairs:
            one, other = pair.first.process, pair.second.process
            told[keys.get(other, other)][keys.get(one, one)].append(pair)
        shifts = [
            self._lay(max(by_clock.values(), key=lambda pairs: sum(pair.equal for pair in pairs)), keys, key)
            for key, by_clock in told.items()
        ]
        shift = next((shift for shift in shifts if shift is not None), 0.0)
        for head in self.second.heads:
            if head.process not in self.heads:
                self.heads[head.process] = evolve(head, wall=head.wall - shift)
                self.notes.append(
                    f"no frames tell how the clock of {head.process} differs from that of {self._reference}:"
                    " they are laid beside each other by the clocks on the wall"
                )

    @property
    def _reference(self) -> str:
        return self.pairs[0].first.process

    def _lay(self, pairs: Sequence[Pair], keys: Mapping[str, _Key], key: _Key) -> float | None:
        """Lay one clock on another, by what connections say; returns what its wall clock was ahead."""
        pairs = sorted((pair for pair in pairs if pair.ways), key=lambda pair: -pair.equal)
        if not pairs:
            return None
        clock = self._agreed(pairs)
        known = {head.process: head for trace in (self.first, self.second) for head in trace.heads}
        one, other = known.get(pairs[0].first.process), known.get(pairs[0].second.process)
        ahead = None
        if one is not None and other is not None:
            ahead = clock.offset + (other.wall - other.monotonic) - (one.wall - one.monotonic)
        laid = {pair.second.process for pair in pairs}
        laid.update(head.process for head in self.second.heads if keys[head.process] == key)
        for process in laid:
            self.clocks[process] = clock
            if (head := known.get(process)) is not None and one is not None:
                self.heads[process] = _laid(head, one, clock)
        self._note(pairs, clock, ahead)
        return ahead

    def _agreed(self, pairs: Sequence[Pair]) -> Clock:
        """The clock that the connections say; those that disagree with the one that says most are named."""
        bounds = [list(pair.bounds()) for pair in pairs]
        leading = estimate(bounds[0])
        agreed = list(bounds[0])
        for pair, its in zip(pairs[1:], bounds[1:], strict=True):
            own = estimate(its)
            # Clocks drift in the time that lies between.
            between = max(min(its).at - max(bounds[0]).at, min(bounds[0]).at - max(its).at, 0.0)
            allowed = (leading.uncertainty or 0.0) + (own.uncertainty or 0.0) + DRIFT * between
            if leading.violation(its) <= allowed:
                agreed += its
                continue
            self.notes.append(
                f"connection {pair.second.name} of {pair.second.process} disagrees about the clocks: by its frames they"
                f" are {_seconds(own.offset)} apart, by those of {pairs[0].second.name} {_seconds(leading.offset)},"
                f" {_seconds(abs(own.offset - leading.offset))} less or more"
            )
        return estimate(agreed)

    def _note(self, pairs: Sequence[Pair], clock: Clock, ahead: float | None) -> None:
        one, other = pairs[0].first.process, pairs[0].second.process
        doubt = clock.uncertainty
        give = f"give or take {_seconds(doubt)}" if doubt is not None else "at best: frames went one way only"
        frames = sum(pair.equal for pair in pairs)
        wall = f", and on the wall {_ahead(ahead)} it" if ahead is not None else ""
        self.notes.append(
            f"the clock of {other} is {_ahead(clock.offset)} that of {one}{wall}, {give}:"
            f" so say {frames:,} frames of {_listed([pair.second.name for pair in pairs])}"
        )
        if len(clock.pieces) > 1:
            moved = f"{'lost' if clock.change < 0 else 'gained'} {_seconds(abs(clock.change))}"
            self.notes.append(
                f"the clock of {other} has {moved} on that of {one} meanwhile:"
                f" they are laid beside each other in {len(clock.pieces):,} pieces"
            )
        by_frames = [
            f"{pair.second.name} is {pair.first.name} ({pair.equal:,} equal frames)"
            for pair in pairs
            if not pair.by_address
        ]
        if by_frames:
            self.notes.append(
                f"addresses do not tell which connection of {other} is which of {one}, frames do: {_listed(by_frames)}"
            )

    def second_records(self) -> Iterator[Record]:
        """All records of the second on the first's clock."""
        for record in self.second.records():
            if isinstance(record, Head):
                yield self.heads.get(record.process, record)
            elif isinstance(record, Event) and (clock := self.clocks.get(record.process)) is not None:
                taken = None if record.taken is None else clock.first(record.taken)
                yield evolve(record, time=clock.first(record.time), taken=taken)
            else:
                yield record


def _linked(records: Iterable[Record], pairs: Iterable[Pair]) -> Iterator[Record]:
    """Records that know of each other over the wire; a connection whose beginning was forgotten gets its record."""
    arrived: dict[tuple[str, int], dict[tuple[str, int], None]] = defaultdict(dict)
    remotes: dict[tuple[str, str], WireEnd] = {}
    lost: dict[tuple[str, str], Conversation] = {}
    for pair in pairs:
        for _, sent, came, _ in pair.crossings():
            arrived[came.event.process, came.event.id][sent.event.process, sent.event.id] = None
        for end, other in ((pair.first, pair.second), (pair.second, pair.first)):
            remotes[end.process, end.name] = other
            if not end.side:
                lost[end.process, end.name] = _remembered(end, other)
    for record in records:
        if isinstance(record, Event) and (keys := arrived.get((record.process, record.id))):
            yield evolve(record, remote=tuple(keys))
        elif isinstance(record, Conversation) and (record.process, record.name) in remotes:
            other = remotes[record.process, record.name]
            yield evolve(record, remote=(other.process, other.name))
        else:
            yield record
    yield from lost.values()


def _remembered(end: WireEnd, other: WireEnd) -> Conversation:
    """One that a trace has forgotten the beginning of, as far as the other end knows."""
    side = {"client": "server", "server": "client"}.get(other.side, "")
    return Conversation(
        process=end.process,
        name=end.name,
        side=side,
        local=other.peer,
        peer=other.local,
        remote=(other.process, other.name),
    )


def _key(head: Head) -> _Key:
    return head.monotonic, head.wall


def _laid(head: Head, on: Head, clock: Clock) -> Head:
    """A head whose process's times are on another's clock; what it was off before adds up."""
    doubt = clock.uncertainty
    return evolve(
        head,
        monotonic=on.monotonic,
        wall=on.wall,
        offset=clock.offset + (head.offset or 0.0),
        uncertainty=None if doubt is None else doubt + (head.uncertainty or 0.0),
    )


def _ahead(seconds: float) -> str:
    return f"{_seconds(abs(seconds))} {'behind' if seconds < 0 else 'ahead of'}"


def _seconds(seconds: float) -> str:
    """A time for people."""
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3f} ms" if abs(seconds) < 1 else f"{seconds:,.6f} s"
