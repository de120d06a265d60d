"""One recorded connection that lives again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import evolve

from actors.actor import Actor
from actors.commands import Respond, SendData
from actors.connection import ConnectionActor
from actors.handling import serve
from actors.mailbox import Ref
from actors.messages import ConnectionLost, Exited, Halt, OpenStream, Peer, StreamMessage
from actors.server_stream import Handler
from actors.stream import StreamActor
from actors.trace import TraceEvent, Tracer
from supervisor.health import PingMonitor, PingStrikes
from supervisor.tracing.inputs import data_of, message_of
from supervisor.tracing.puppets import (
    Directed,
    DirectedClient,
    DirectedServer,
    NoSocket,
    Turn,
    UnhurriedServer,
    idle,
    nothing,
)
from supervisor.tracing.recordings import Recording
from supervisor.tracing.records import Event
from supervisor.tracing.snapshot import event_of

REPLAY: Final = "replay"
"""What the events of a replay say that their process is."""


class Player:
    """One recorded connection that lives again, and what its actors told."""

    def __init__(self, recording: Recording, clock: Callable[[], float], handler: Handler | None = None) -> None:
        """With a ``handler`` its streams run that; else they do what is recorded."""
        self.recording = recording
        self.events: list[Event] = []
        self.fed: dict[int, Event] = {}
        """By the id of each event of the replay that was recorded: what was."""
        self._tracer = Tracer(clock)
        self._tracer.attach(self._collect)
        self._live = handler is not None
        beginning = recording.beginning
        self._peer = Peer(beginning.peer, beginning.alpn)
        self.socket = NoSocket(recording.local, stuck=recording.ended_stuck())
        self._owner: Ref[Any] = Ref(recording.owner, self._hear)
        self._opened = recording.opened()
        self._looks = recording.looks()
        self._puppets: dict[str, Actor[Any]] = {}
        self.actor = self._make(handler)
        if isinstance(self.actor, Directed):
            self.actor.looks, self.actor.puppets = self._looks_at, self._puppets
        if self._live:
            self.socket.closed = self._closed

    def _make(self, handler: Handler | None) -> ConnectionActor:
        recording, beginning = self.recording, self.recording.beginning
        health = beginning.health
        monitor = PingMonitor(health, factor=beginning.factor) if health is not None else None
        if not recording.is_server:
            return DirectedClient(
                recording.name, self.socket, peer=self._peer, limits=beginning.limits, owner=self._owner,
                push=beginning.push, monitor=monitor, tracer=self._tracer,
            )  # fmt: skip
        kind = DirectedServer if handler is None else UnhurriedServer
        return kind(
            recording.name, self.socket, serve(handler) if handler is not None else idle, peer=self._peer,
            limits=beginning.limits, owner=self._owner, monitor=monitor, tracer=self._tracer,
            doorkeeper=PingStrikes(health) if health is not None else None,
        )  # fmt: skip

    def _looks_at(self, event: int) -> float:
        was = self.fed.get(event)
        return self._looks.get(was.id, math.inf) if was is not None else math.inf

    def begin(self) -> None:
        """Let it have its socket."""
        self.actor.start(self._owner)

    def tell(self, events: Sequence[Event]) -> None:
        """Tell it again, in one turn, what it was told then."""
        turn = Turn()
        for event in events:
            message = self._made(event)
            self._tracer.speak_as(event.sender)
            before = len(self.events)
            if isinstance(message, Halt):
                self.actor.signal(message)
            elif self._live:
                self.actor.mailbox.tell(message)  # type: ignore[arg-type]  # a recording says only what it was told
            else:
                turn.told.append((self._tracer.noted(event.receiver, message), message))
            self.fed |= {told.id: event for told in self.events[before : before + 1]}
        if turn.told:
            self._tracer.on = False  # each of them was noted
            self.actor.mailbox.tell(turn)  # type: ignore[arg-type]  # a directed actor understands nothing else
            self._tracer.on = True
        self._tracer.speak_as("caller")

    def _made(self, event: Event) -> object:
        """The message, with what has happened by the time that it is told."""
        message = message_of(event, self)
        memory = self.actor.wire.terms.memory
        match message:  # who tells has taken the bytes
            case SendData(_, data):
                memory.take(len(data))
            case Respond(_, _, body) | OpenStream(_, _, body):
                memory.take(len(body))
            case ConnectionLost():
                self.socket.closing = True
            case Exited(name) if name in self._puppets:
                self._puppets[name].exited = message
        self.socket.full = event.type == "WritePaused" or (self.socket.full and event.type != "WriteResumed")
        return message

    def leave(self) -> None:
        """Collect no more: the replay is over, and what its actors say as they are ended is not part of it."""
        self._tracer.detach(self._collect)

    def stream(self, name: str) -> Ref[StreamMessage]:
        """The puppet of a client's stream, which notes what it is told."""
        if name not in self._puppets:
            nobody: Ref[Any] = Ref("nobody", nothing)
            self._puppets[name] = StreamActor(
                name, nobody, idle, peer=self._peer, terms=self.actor.wire.terms, tracer=self._tracer
            )
        return self._puppets[name].ref

    def is_wanted(self, name: str) -> bool:
        """Whether it was opened then: it is asked only as its turn comes."""
        return name in self._opened

    def _hear(self, news: object) -> None:
        self._tracer.noted(self.recording.owner, news)

    def _closed(self) -> None:
        self._tracer.speak_as("socket")
        self.actor.tell(ConnectionLost(None))
        self._tracer.speak_as("caller")

    def _collect(self, event: TraceEvent) -> None:
        made = event_of(REPLAY, event)
        self.events.append(evolve(made, data=data_of(event)) if event.type == "Exited" else made)
