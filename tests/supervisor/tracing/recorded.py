"""Captures for a replay, made of real conversations."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from attrs import evolve, field, frozen

from actors.server_stream import Handler
from actors.settings import Limits
from actors.trace import Recorder, TraceEvent, Tracer
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing import jsonl
from supervisor.tracing.inputs import data_of
from supervisor.tracing.records import Event, Record, Trace
from supervisor.tracing.snapshot import event_of, head

Talk = Callable[[Link], Awaitable[object]]


@frozen
class Tape:
    """An exporter that keeps all it sees, with what a replay needs."""

    events: list[Event] = field(factory=list)
    clock: Callable[[], float] = time.monotonic
    recorder: Recorder = field(factory=lambda: Recorder(1 << 30))
    """Knows when each was taken."""

    def __call__(self, event: TraceEvent) -> None:
        self.events.append(evolve(event_of("process-1", event), data=data_of(event)))

    def attach(self, tracer: Tracer) -> Tape:
        tracer.clock = self.clock
        tracer.record(self.recorder)
        tracer.attach(self)
        return self

    @property
    def trace(self) -> Trace:
        """As it is once it was written and read."""
        taken = {event.id: event.taken for event in self.recorder}
        events = [evolve(event, taken=taken[event.id]) for event in self.events]
        records: list[Record] = [head("process-1", self.clock, payloads=True), *events]
        with tempfile.TemporaryFile("w+") as file:
            jsonl.write(records, file)
            file.seek(0)
            return jsonl.load(file)


def record(handler: Handler, talk: Talk, *, limits: Limits | None = None, push: bool = False) -> tuple[Trace, Trace]:
    """What a server and a link told each other over a real socket, as the server saw it and as the link did."""

    async def run() -> tuple[Trace, Trace]:
        server, there, here = Server(handler, limits=limits, record=False), Tape(), Tape()
        there.attach(server.tracer)
        async with server:
            link = Link(server.url, limits=limits, push=push, record=False)
            here.attach(link.tracer)
            async with link:
                await talk(link)
        return there.trace, here.trace

    return asyncio.run(run())


def capture(path: Path, handler: Handler, talk: Talk) -> None:
    """What the server saw, in a file."""
    jsonl.save(record(handler, talk)[0], path)
