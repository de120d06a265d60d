"""A capture cut into its connections: what each took in, in which turns, and what it told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from attrs import evolve, field, frozen

from actors.errors import Misuse
from supervisor.tracing.inputs import Beginning, beginning_of, is_input
from supervisor.tracing.records import Event, Trace

SAME_TURN: Final = 0.1
"""Seconds between two messages above which a connection has taken the first before the second was told."""


@frozen(kw_only=True)
class Recording:
    """One connection in a capture."""

    process: str
    name: str
    owner: str
    """The actor that hears of what becomes of it."""
    beginning: Beginning
    local: str
    began: float
    end: float
    """When the last was told by or to it, in seconds of its process's clock."""
    events: tuple[Event, ...]
    """All that it, and a server's streams, told and were told, by id."""
    where: str = ""
    """``process/``, where another process of the capture has a connection of the same name."""
    _known: dict[int, Event] = field(init=False, eq=False, repr=False)

    @_known.default
    def _by_id(self) -> dict[int, Event]:
        return {event.id: event for event in self.events}

    @property
    def label(self) -> str:
        """The name that it has in the capture alone."""
        return f"{self.where}{self.name}"

    @property
    def is_server(self) -> bool:
        return self.beginning.side == "server"

    def inputs(self) -> list[Event]:
        """What it took in, from whomever."""
        return [event for event in self.events if event.receiver == self.name and is_input(event)]

    def turns(self) -> Iterator[list[Event]]:
        """What it took in, a turn at a time.

        Whatever it told was told after it had taken what came before, so what came later came too late for that turn:
        an answer, or what a stream told in its wake. Between turns that said nothing, times must do.
        """
        spoke: dict[int, Event] = {}
        for event in reversed(self.events):
            if event.sender == self.name:
                spoke[self.root(event)] = event
        settled = self._settled()
        turn: list[Event] = []
        taken, answered = math.inf, math.inf
        for event in self.inputs():
            # A backlog is taken at once, and handled in one turn or, where that lasts too long, in several. Told to
            # halt, it looks at nothing that waits; what had waited longer was looked at.
            late = event.type == "Halt" or event.time > taken or event.id > answered
            if late:
                taken = math.inf
            if turn and (late or turn[-1].id in settled):
                yield turn
                turn, answered = [], math.inf
            turn.append(event)
            first = spoke.get(event.id)
            if first is not None:
                answered = min(answered, first.id)
            # Of a backlog, what is known of the first counts.
            taken = min(taken, _taken(event, first))
        if turn:
            yield turn

    def _settled(self) -> set[int]:
        """The ids of those that were the last of their turns, as far as the turns said anything at their ends."""
        said = (
            event for event in self.events if event.type in ("FramesSent", "RoomMade") and event.sender == self.name
        )
        # After a Halt it looks at nothing more, but what was told before it began to end was told in time.
        halts = {event.id for event in self.events if event.type == "Halt"}
        return {self.root(event) for event in said} - halts

    def looks(self) -> dict[int, int]:
        """How often it looked for frames in each turn that left some for later, by the id of what it took in then."""
        looked = Counter(self.root(event) for event in self.events if event.type == "FramesArrived")
        left = (event for event in self.events if event.type == "ReadOn" and event.sender == self.name)
        return {root: looked[root] for root in map(self.root, left)}

    def root(self, event: Event) -> int:
        """The id of the input that it handled when it told this; 0 where none is known."""
        cause = self._known.get(event.cause)
        while cause is not None and not is_input(cause):
            cause = self._known.get(cause.cause)
        return cause.id if cause is not None else 0

    def opened(self) -> set[str]:
        """The client's streams that it opened."""
        return {event.receiver for event in self.events if event.type == "Opened"}

    def ended_stuck(self) -> bool:
        """Whether it ended because its socket took nothing."""
        return any("its socket took nothing" in event.text for event in self.events if event.type == "Exited")


def _taken(event: Event, first: Event | None) -> float:
    """When a message was taken, at the latest, where ``first`` is what was told because of it."""
    if event.type == "Halt":
        return math.inf  # which is noted as taken when it is told, and waits for the next turn all the same
    if event.taken is not None:
        return event.taken
    return min(first.time if first is not None else math.inf, event.time + SAME_TURN)


def recordings(trace: Trace, connection: str | None = None) -> tuple[list[Recording], list[str]]:
    """The connections that a replay can begin again, in the order of their beginnings, and a line about each other.

    With ``connection``, that one alone; ``process/connection`` where several processes have one of that name. Raises
    Misuse where it is not there, or none is.
    """
    began = [event for event in trace.events if event.type == "ConnectionBegan"]
    known = {(event.process, event.receiver) for event in began}
    seen = dict.fromkeys((each.process, each.name) for each in trace.conversations)
    seen |= dict.fromkeys((event.process, event.receiver) for event in trace.events if event.type == "BytesArrived")
    older = [name for process, name in seen if (process, name) not in known]
    warnings = [f"{name} began before the capture: it cannot be replayed, HPACK needs the beginning" for name in older]
    warnings += [
        f"{end.lost:,} events of {end.process} were lost: no replay is exact" for end in trace.ends if end.lost
    ]
    chosen = [event for event in began if connection in (None, event.receiver, _whole_name(event))]
    if not chosen:
        raise Misuse(_nothing(connection, older, [event.receiver for event in began]))
    if connection is not None and len(chosen) > 1:
        names = " or ".join(map(_whole_name, chosen))
        raise Misuse(f"the capture has {len(chosen)} connections called {connection!r}: say {names}")
    often = Counter(event.receiver for event in began)
    found = []
    for event in chosen:
        if event.data is None:
            raise Misuse("the capture holds no payloads, which a replay needs: capture again, for a replay")
        where = f"{event.process}/" if often[event.receiver] > 1 else ""
        found.append(evolve(_recording(trace, event), where=where))
    return found, warnings


def _whole_name(began: Event) -> str:
    return f"{began.process}/{began.receiver}"


def _nothing(connection: str | None, older: list[str], begun: list[str]) -> str:
    if connection in older:
        return f"{connection} began before the capture: it cannot be replayed, capture it from its beginning"
    if connection is not None:
        names = ", ".join(begun) or "none"
        return f"the capture has no connection {connection!r} to replay: those that can be replayed are {names}"
    return "the capture has no connection that began in it: capture from before the connection, for a replay"


def _recording(trace: Trace, began: Event) -> Recording:
    name = began.receiver

    def is_of(actor: str) -> bool:
        return actor == name or actor.startswith(f"{name}/")

    of_process = (event for event in trace.events if event.process == began.process)
    events = sorted(
        (event for event in of_process if is_of(event.sender) or is_of(event.receiver)), key=lambda event: event.id
    )
    owner = next(
        (event.receiver for event in events if event.sender == name and event.type in ("ConnectionReady", "Exited")),
        name.rpartition("/")[0] or "owner",
    )
    return Recording(
        process=began.process,
        name=name,
        owner=owner,
        beginning=beginning_of(began),
        local=began.text.partition(": ")[2].partition(" to ")[0],
        began=began.time,
        end=max(event.time for event in events),
        events=tuple(events),
    )
