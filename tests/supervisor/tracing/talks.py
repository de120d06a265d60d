"""Talks that never were: frames between two clocks, with every delay known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, evolve, field

from supervisor.tracing.records import Conversation, Event, Frame, Head, Record, Trace

SETTINGS, PING, HEADERS, DATA = 4, 6, 1, 0
ROUNDING = 3e-6
"""Seconds that numbers may be wrong by."""
NEAR, FAR = "10.0.0.1:50000", "10.0.0.2:443"


@define
class Talk:
    """One or more connections between ``near`` and ``far``, whose clocks show the true time and ``ahead`` of it."""

    ahead: Callable[[float], float]
    """What the far clock is ahead of the near one at a time."""
    wall: float = 0.0
    """What the far wall clock is ahead."""
    events: dict[str, list[Event]] = field(factory=lambda: {"near": [], "far": []})
    conversations: list[Conversation] = field(factory=list)
    counts: dict[tuple[str, str, str], int] = field(factory=dict)
    last: dict[tuple[str, str], float] = field(factory=dict)

    def connect(self, name: str, local: str = NEAR, peer: str = FAR) -> None:
        """Begin a connection, with its SETTINGS, a millisecond after its name's number of seconds."""
        self.conversations += [
            Conversation(process="near", name=name, side="client", local=local, peer=peer),
            Conversation(process="far", name=name, side="server", local=peer, peer=local),
        ]

    def clock(self, process: str, at: float) -> float:
        """What the clock of a process shows at a time."""
        return at if process == "near" else at + self.ahead(at)

    def say(self, sender: str, at: float, delay: float, frames: Sequence[Frame], name: str = "c") -> None:
        """Send frames; they arrive in the order in which they were sent."""
        receiver = "far" if sender == "near" else "near"
        arrival = max(self.last.get((sender, name), 0.0), at + delay)
        self.last[sender, name] = arrival
        for process, time, what in ((sender, at, "FramesSent"), (receiver, arrival, "FramesArrived")):
            key = process, what, name
            first = self.counts.get(key, 0) + 1
            self.counts[key] = first + len(frames) - 1
            told = self.events[process]
            shown = self.clock(process, time)
            told.append(
                Event(
                    process=process,
                    id=len(told) + 1,
                    time=shown,
                    taken=shown,
                    sender=name if what == "FramesSent" else "socket",
                    receiver="socket" if what == "FramesSent" else name,
                    type=what,
                    connection=name,
                    first=first,
                    frames=tuple(frames),
                )
            )

    def traces(self, forgotten: tuple[int, int] = (0, 0)) -> tuple[Trace, Trace]:
        """What each remembers of it, without its first events."""
        heads = (
            Head(process="near", pid=1, monotonic=0.0, wall=1.7e9),
            Head(process="far", pid=1, monotonic=self.clock("far", 0.0), wall=1.7e9 + self.wall),
        )
        return self._trace(heads[0], forgotten[0]), self._trace(heads[1], forgotten[1])

    def _trace(self, head: Head, forgotten: int) -> Trace:
        # Ids rise with time.
        told = sorted(self.events[head.process], key=lambda event: event.time)
        known = [evolve(event, id=number) for number, event in enumerate(told, 1)][forgotten:]
        records: list[Record] = [head, *(each for each in self.conversations if each.process == head.process), *known]
        return Trace.of(records)


def frame(kind: int, stream: int = 0, length: int = 0) -> Frame:
    """A frame without flags."""
    return Frame(kind=kind, flags=0, stream=stream, length=length)


def chatter(talk: Talk, times: Sequence[float], delay: float = 0.001, name: str = "c", length: int = 10) -> None:
    """SETTINGS both ways, and from then on at each time a DATA frame and its answer."""
    talk.say("near", times[0], delay, [frame(SETTINGS, length=24)], name)
    talk.say("far", times[0] + delay, delay, [frame(SETTINGS, length=30)], name)
    for number, at in enumerate(times):
        talk.say("near", at + 0.1, delay, [frame(DATA, 1, length + number)], name)
        talk.say("far", at + 0.1 + delay, delay, [frame(DATA, 1, length + number)], name)


def assert_order(merged: Trace, uncertainty: float) -> None:
    """Nothing arrives before it was sent, by more than nobody knows."""
    known = {(event.process, event.id): event for event in merged.events}
    crossings = [(known[key], event) for event in merged.events for key in event.remote]
    assert crossings
    for sent, arrived in crossings:
        assert sent.type == "FramesSent"
        assert arrived.type == "FramesArrived"
        assert sent.time <= arrived.time + uncertainty + ROUNDING
