"""From the messages that actors tell to the records of a trace: of a whole ring at once, or as they come.

What a record says is all that a trace has: a summary, and the heads of frames. Bodies, and the values of headers that
are not pseudo-headers, are in no :class:`~supervisor.tracing.records.Event` unless a capture was asked for them.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import Final

from attrs import evolve

from actors.messages import FRAME_HEAD, ConnectionBegan, Frames
from actors.stats import ConnectionStats
from actors.trace import Recorder, TraceEvent
from supervisor.tracing.records import Conversation, Event, Frame, Head, Trace

_PLACE: Final = re.compile(r"(?P<connection>.*?/connection-[0-9]+)(?:/stream-(?P<stream>[0-9]+))?(?:/.*)?")
_PUSH: Final = re.compile(r".*/push-(?P<stream>[0-9]+)")
_COMMAND: Final = re.compile(r"stream ([0-9]+)(?:: |$)")
_NAMES_ITS_STREAM: Final = "Opened"

Place = tuple[str | None, int | None]
"""The name of a connection, and a stream's id."""


def snapshot(
    recorder: Recorder,
    *,
    process: str = "",
    prefix: str = "",
    clock: Callable[[], float] = time.monotonic,
    living: Iterable[ConnectionStats] = (),
) -> Trace:
    """What the ring holds of the actor ``prefix`` and all below it; empty: of all.

    ``process`` is what the trace calls this one (``process-PID``), ``clock`` that of the events, and ``living`` are
    connections whose beginning the ring may have forgotten.
    """
    return take(recorder, process=process, prefix=prefix, clock=clock, living=living)()


def take(
    recorder: Recorder,
    *,
    process: str,
    prefix: str,
    clock: Callable[[], float],
    living: Iterable[ConnectionStats],
) -> Callable[[], Trace]:
    """Take what the ring holds now; what is returned makes a trace of that, which may take a while, in any thread."""
    process = process or default_process()
    return partial(
        _trace, head(process, clock, dropped=recorder.dropped), tuple(conversations(process, living)),
        recorder.copy(), prefix,
    )  # fmt: skip


def _trace(first: Head, living: Iterable[Conversation], events: Iterable[TraceEvent], prefix: str) -> Trace:
    process = first.process
    chosen = [event for event in events if is_below(event, prefix)]
    return Trace.of([
        first,
        *living,
        *filter(None, (conversation_of(process, event) for event in chosen)),
        *Places().fill([event_of(process, event) for event in chosen]),
    ])  # fmt: skip


def default_process() -> str:
    """What a trace calls this process where nobody has named it."""
    return f"process-{os.getpid()}"


def head(process: str, clock: Callable[[], float], *, dropped: int = 0, payloads: bool = False) -> Head:
    """The head of this process, with both of its clocks as they are now."""
    return Head(
        process=process, pid=os.getpid(), monotonic=clock(), wall=time.time(), dropped=dropped, payloads=payloads,
        version=version(),
    )  # fmt: skip


@cache
def version() -> str:
    """The version of muxlink; empty where it runs without having been installed."""
    try:
        return importlib.metadata.version("muxlink")
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_below(event: TraceEvent, prefix: str) -> bool:
    """Whether the actor of this name, or one below it, has told the message or been told it."""
    return not prefix or _is_below(event.sender, prefix) or _is_below(event.receiver, prefix)


def _is_below(actor: str, prefix: str) -> bool:
    return actor.startswith(prefix) and actor[len(prefix) : len(prefix) + 1] in ("", "/")


def conversations(process: str, living: Iterable[ConnectionStats]) -> Iterator[Conversation]:
    """The connections that there are."""
    for each in living:
        yield Conversation(process=process, name=each.name, side=each.side, local=each.local, peer=each.peer)


def conversation_of(process: str, event: TraceEvent) -> Conversation | None:
    """The connection that begins with this event; None for any other."""
    if event.type != ConnectionBegan.__name__:
        return None
    began = event.message
    if isinstance(began, ConnectionBegan):
        side, local, peer = began.side, began.local, began.peer
    else:  # it was taken, and only its summary is left
        side, _, addresses = event.summary.partition(": ")
        local, _, peer = addresses.partition(" to ")
    return Conversation(process=process, name=event.receiver, side=side, local=local, peer=peer)


def event_of(process: str, event: TraceEvent, taken: float | None = None) -> Event:
    """The record of one message, as far as it alone says; :class:`Places` knows where it belongs.

    ``taken`` is when it was taken, where that was later than the event was seen.
    """
    message = event.message
    first = frames = None
    if isinstance(message, Frames):
        heads = message.heads
        frames = tuple(Frame.parse(heads[at : at + FRAME_HEAD]) for at in range(0, len(heads), FRAME_HEAD))
        first = message.first or None
    return Event(
        process=process, id=event.id, time=event.time, taken=taken if event.taken is None else event.taken,
        sender=event.sender, receiver=event.receiver, type=event.type, text=event.summary, cause=event.cause,
        dead=event.dead, first=first, frames=frames,
    )  # fmt: skip


class Places:
    """Knows the connection and the stream of each actor: by its name, and a client's requests by what they are told.

    A server's actors bear both in their names. A request has neither before its connection says ``Opened``.
    """

    def __init__(self) -> None:
        self._requests: dict[str, Place] = {}

    def fill(self, events: Sequence[Event]) -> list[Event]:
        """The events with what is known of where they belong; what they say of it is remembered for the next."""
        placed = [self._placed(event) for event in events]
        later: dict[str, Place] = {}
        for number in range(len(placed) - 1, -1, -1):
            event = placed[number]
            who = _request(event)
            if who is None:
                continue
            if event.stream is not None:
                later[who] = event.connection, event.stream
            elif (place := later.get(who)) is not None and event.connection in (None, place[0]):
                # It had no stream yet: the one that it got then.
                placed[number] = evolve(event, connection=place[0], stream=place[1])
        return placed

    def _placed(self, event: Event) -> Event:
        connection, stream = self._where(event)
        if stream is None and event.frames:
            streams = {frame.stream for frame in event.frames}
            stream = streams.pop() or None if len(streams) == 1 else None
        if connection is None and stream is None:
            return event
        return evolve(event, connection=connection, stream=stream)

    def _where(self, event: Event) -> Place:
        sender, receiver = _by_name(event.sender), _by_name(event.receiver)
        connection = receiver[0] or sender[0]
        stream = receiver[1] if receiver[1] is not None else sender[1]
        if (who := _request(event)) is None:
            return connection, stream
        told = _COMMAND.match(event.text) if self._says_its_stream(event, connection) else None
        if (pushed := _PUSH.fullmatch(who)) is not None:
            stream = int(pushed["stream"])
        elif told is not None:
            stream = int(told[1])
        known = self._requests.get(who, (None, None))
        if connection in (None, known[0]):
            connection, stream = known[0], stream if stream is not None else known[1]
        self._requests[who] = connection, stream
        if event.type == "Exited" and event.sender == who:
            del self._requests[who]
        return connection, stream

    @staticmethod
    def _says_its_stream(event: Event, connection: str | None) -> bool:
        """Whether its text begins with the stream of the request that it is told, or that tells it."""
        return event.type == _NAMES_ITS_STREAM or (connection is not None and event.receiver == connection)


@lru_cache(4096)
def _by_name(actor: str) -> Place:
    """Where an actor belongs, as far as its name says."""
    found = _PLACE.fullmatch(actor)
    if found is None:
        return None, None
    return found["connection"], int(found["stream"]) if found["stream"] is not None else None


def _request(event: Event) -> str | None:
    """The client's request that tells this or is told it."""
    for actor in (event.receiver, event.sender):
        if "/request-" in actor and _PLACE.fullmatch(actor) is None:
            return actor
    return None
