"""A capture: every message from its beginning to its end, written to a file as JSON Lines while the program runs.

Theory of operation
    The capture is an exporter: an actor that tells a message leaves it here and goes on. A few times a second what has
    come is handed to a thread, which makes lines of it and writes them. Where the thread cannot keep up, because a disk
    or a reader is slow, messages are lost and counted; no actor ever waits. It ends by itself, at the latest when its
    time is up, and its last line says why it ended, how many events it has, and how many it lost.

    What is written is what a snapshot has. Bodies and the values of headers are written only with ``payloads``, and
    what a replay needs with ``for_replay``, which has them, too: then the log says that there is such a file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import IOBase
from threading import Thread
from typing import IO, Final, Protocol, Self

from attrs import define, evolve, field

from actors.errors import LinkError, LocalError, Misuse
from actors.stats import ConnectionStats
from actors.trace import TraceEvent, Tracer
from supervisor.tracing.jsonl import encode
from supervisor.tracing.lines import MAX_INTEGER
from supervisor.tracing.payloads import payload_of, plain
from supervisor.tracing.records import Conversation, End, Event, Record
from supervisor.tracing.snapshot import (
    Places,
    conversation_of,
    conversations,
    default_process,
    event_of,
    head,
    is_below,
)

logger: Final = logging.getLogger("muxlink.trace")

EVENTS: Final = 100_000
SECONDS: Final = 60.0
BYTES: Final = 256 * 1024 * 1024
PAUSE: Final = 0.1
"""Seconds for which events are collected before they are handed to the thread."""
MOST_WAITING: Final = 50_000
"""Events that wait to be written; more are lost."""
MOST_BYTES_WAITING: Final = 64 * 1024 * 1024
"""Bytes of payloads that wait to be written; more are lost."""
WRITING: Final = 2.0
"""Seconds that the thread has for the rest, once the capture has ended."""
BROKEN: Final = "failed"


class Chooser(Protocol):
    """Who chooses events one by one, such as a :class:`~supervisor.tracing.filters.Filter`."""

    def matches(self, event: Event) -> bool: ...


class Sink(Protocol):
    """Where lines go: a binary file, or anything else that takes bytes."""

    def write(self, data: bytes, /) -> object: ...


@define(eq=False)
class _Batch:
    """What is handed to the thread at once."""

    events: list[tuple[TraceEvent, Mapping[str, object] | None]] = field(factory=list)
    taken: Mapping[int, float] = field(factory=dict)
    """When those were taken that had been told before."""
    bytes: int = 0
    lost: int = 0
    """Events that were lost up to here."""
    reason: str = ""
    """Why the capture has ended, where it has."""


class Capture:
    """Writes all that a tracer sees until it has ``events`` events, runs for ``seconds``, or has written ``bytes``.

    One capture is taken once, in the event loop of the actors.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Sink,
        *,
        events: int = EVENTS,
        seconds: float = SECONDS,
        bytes: int = BYTES,
        payloads: bool = False,
        for_replay: bool = False,
        filter: Chooser | None = None,
        process: str = "",
        prefix: str = "",
        ended: Callable[[], object] | None = None,
    ) -> None:
        """``target`` is a path where no file is yet, or an open binary file, which stays open.

        ``payloads`` adds bodies and the values of headers, ``for_replay`` what a replay needs. ``filter`` chooses
        events (its times say nothing here), ``prefix`` names the actor whose events are wanted, with all below it.
        ``process`` is what the trace calls this one. ``ended`` is called once the last line is written. Raises Misuse.
        """
        for name, value in (("events", events), ("seconds", seconds), ("bytes", bytes)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_INTEGER:
                raise Misuse(f"a capture has an end: {name} is a number above 0, not {str(value)[:40]}")
        self.process = process or default_process()
        self.payloads = payloads or for_replay
        self.events = self.lost = 0
        """What was written, and what was lost; known once it has ended."""
        self.reason = ""
        """Why it has ended: ``asked``, ``closed``, ``events``, ``seconds``, ``size`` or ``failed``."""
        self.error: LinkError | None = None
        """What kept it from being written, where something did."""
        self._target = target
        self._where = str(target) if isinstance(target, str | os.PathLike) else getattr(target, "name", "a reader")
        self._bounds = int(events), int(bytes)
        self._seconds = seconds
        self._bodies = payloads
        self._data_of = _data_of() if for_replay else None
        self._filter = filter
        self._prefix = prefix
        self._ended = ended
        self._source: Callable[[], tuple[Tracer, Iterable[ConnectionStats]]] | None = None
        self._tracer: Tracer | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._batch = _Batch()
        self._handed: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._waiting = self._waiting_bytes = 0

    # --- its life -----------------------------------------------------------------------------------------------------

    def begin(self, tracer: Tracer, living: Iterable[ConnectionStats] = ()) -> Self:
        """Write what ``tracer`` sees from now on; ``living`` are connections that have begun before.

        Raises Misuse where the file is there already, and LocalError where it cannot be made.
        """
        if self._tracer is not None:
            raise Misuse("a capture is taken once: make another")
        sink = _made(self._target) if isinstance(self._target, str | os.PathLike) else self._target
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._tracer = tracer
        first: list[Record] = [head(self.process, tracer.clock, payloads=self.payloads)]
        first += conversations(self.process, living)
        writer = _Writer(self, sink, first, sink is not self._target)
        Thread(target=writer.run, name="muxlink-capture", daemon=True).start()
        self._timers.append(self._loop.call_later(self._seconds, self._finish, "seconds"))
        tracer.attach(self)
        what = " with bodies and the values of headers, which may be secret" if self.payloads else ""
        logger.log(self._level(), "a capture of messages began%s: %s", what, self._where)
        return self

    async def end(self, reason: str = "asked") -> None:
        """End it, if it has not ended, and wait until it is written; not for long where nobody takes it."""
        self._finish(reason)
        if self._tracer is not None and not self._done.done():
            await asyncio.wait((self._done,), timeout=WRITING)

    async def wait(self) -> None:
        """Wait until it has ended and is written."""
        await asyncio.shield(self._done)

    def of(self, source: Callable[[], tuple[Tracer, Iterable[ConnectionStats]]]) -> Self:
        """Have ``async with`` begin it, with what ``source`` then says :meth:`begin` is to be given."""
        self._source = source
        return self

    async def __aenter__(self) -> Self:
        if self._source is not None:
            self.begin(*self._source())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def _level(self) -> int:
        return logging.WARNING if self.payloads else logging.INFO

    def _finish(self, reason: str) -> None:
        """Take no more; what has come is still written."""
        if self.reason or self._tracer is None:
            return
        self.reason = reason
        self._tracer.detach(self)
        for timer in self._timers:
            timer.cancel()
        self._hand_over()
        self._handed.put(_Batch(lost=self.lost, reason=reason))

    def _written(self, writer: _Writer) -> None:
        """The thread has ended."""
        self.events = writer.events
        self.reason = writer.full or self.reason
        if self._done.done():
            return
        self._done.set_result(None)
        said = f"{self.events:,} events, {self.lost:,} lost"
        if self.error is not None:
            logger.error("a capture of messages failed: %s (%s)", self.error, said)
        else:
            stopped_itself = self.reason in ("events", "seconds", "size")
            level = logging.WARNING if stopped_itself else self._level()
            logger.log(level, "a capture of messages ended (%s): %s, %s", self.reason, self._where, said)
        if self._ended is not None:
            self._ended()

    # --- the exporter -------------------------------------------------------------------------------------------------

    def __call__(self, event: TraceEvent) -> None:
        """Take one message in; quick, and never raises."""
        if not is_below(event, self._prefix):
            return
        if self._waiting >= MOST_WAITING or self._waiting_bytes >= MOST_BYTES_WAITING:
            self.lost += 1
            return
        batch = self._batch
        data: Mapping[str, object] | None = None
        if self.payloads:
            try:
                data, size = self._data(event)
            except Exception as error:
                self.error = LocalError.because(
                    f"what a {event.type} holds cannot be kept ({type(error).__name__})", error
                )
                self._finish(BROKEN)
                return
            batch.bytes += size
            self._waiting_bytes += size
        batch.events.append((event, data))
        self._waiting += 1
        if len(batch.events) == 1:
            self._timers[1:] = [self._loop.call_later(PAUSE, self._hand_over)]

    def _data(self, event: TraceEvent) -> tuple[Mapping[str, object] | None, int]:
        data = self._data_of(event) if self._data_of is not None else None
        if data is not None:
            return data, len(str(data))
        if self._bodies:
            return payload_of(event.message)
        return None, 0

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, _Batch()
        batch.lost = self.lost
        if batch.events and self._tracer is not None:
            # An exporter sees a message as it is told; the ring, if there is one, knows who took it since.
            if (recorder := self._tracer.recorder) is not None:
                batch.taken = recorder.taken_since(batch.events[0][0].time)
            self._handed.put(batch)

    def _taken(self, events: int, size: int) -> None:
        """The thread has written so much."""
        self._waiting -= events
        self._waiting_bytes -= size

    # --- what the thread says -----------------------------------------------------------------------------------------

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call it in the loop, if there still is one; for the thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def failed(self, error: LinkError) -> None:
        """Nothing more can be written; for the thread."""
        self.call(self._fail, error)

    def _fail(self, error: LinkError) -> None:
        self.error = self.error or error
        self._finish(BROKEN)

    def bounds(self) -> tuple[int, int]:
        """The most events and bytes that are written."""
        return self._bounds

    def wants(self, event: Event) -> bool:
        """Whether the filter lets it through."""
        return self._filter is None or self._filter.matches(event)

    def next(self) -> _Batch:
        """What is to be written next; waits for it; for the thread."""
        return self._handed.get()


class _Writer:
    """What the thread does."""

    def __init__(self, capture: Capture, sink: Sink, first: list[Record], ours: bool) -> None:
        self.events = 0
        self._capture = capture
        self._sink = sink
        self._first = first
        self._ours = ours
        self._process = capture.process
        self._places = Places()
        self._known: set[Conversation] = set()
        self._bytes = 0
        self.full = ""
        """The bound that ended it, where one of the writer's did."""

    def run(self) -> None:
        """Write until it is over, or cannot go on."""
        try:
            self._run()
        except (BrokenPipeError, ConnectionResetError):
            self._capture.call(self._capture._finish, "asked")  # whoever read it has gone
        except OSError as error:
            where = f"cannot write the capture: {error.strerror or type(error).__name__}"
            self._capture.failed(LocalError.because(where, error))
        except Exception as error:  # a fault of ours must not leave anybody waiting
            self._capture.failed(LocalError.because(f"cannot write the capture: {type(error).__name__}", error))
        finally:
            if self._ours and isinstance(self._sink, IOBase):
                with suppress(OSError):
                    self._sink.close()
            self._capture.call(self._capture._written, self)

    def _run(self) -> None:
        self._write([line(each) for each in self._first])
        while True:
            batch = self._capture.next()
            if batch.reason:
                break
            if not self.full:
                self._take(batch)
            self._capture.call(self._capture._taken, len(batch.events), batch.bytes)
            if self.full:
                self._capture.call(self._capture._finish, self.full)
        end = End(process=self._process, reason=self.full or batch.reason, events=self.events, lost=batch.lost)
        self._write([line(end)])

    def _take(self, batch: _Batch) -> None:
        process, most = self._process, self._capture.bounds()
        lines: list[bytes] = []
        taken = batch.taken
        placed = self._places.fill([event_of(process, event, taken.get(event.id)) for event, _ in batch.events])
        for event, (told, data) in zip(placed, batch.events, strict=True):
            if (began := conversation_of(process, told)) is not None:
                lines.append(line(began))
            if not self._capture.wants(event):
                continue
            text = line(event if data is None else evolve(event, data=plain(data)))
            if self._bytes + len(text) > most[1]:
                self.full = "size"
                break
            self._bytes += len(text)
            self.events += 1
            lines.append(text)
            if self.events >= most[0]:
                self.full = "events"
                break
        self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            self._sink.write(b"".join(lines))
            if isinstance(self._sink, IOBase):
                self._sink.flush()


def line(record: Record) -> bytes:
    """The record's line."""
    return encode(record).encode() + b"\n"


def _made(path: str | os.PathLike[str]) -> IO[bytes]:
    """A new file of mode 0600."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError as error:
        raise Misuse.because(f"{path} is there already: remove it, or name another file", error) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LocalError.because(f"cannot write {path}: {reason}", error) from error


def _data_of() -> Callable[[TraceEvent], Mapping[str, object] | None]:
    from supervisor.tracing.inputs import data_of  # noqa: PLC0415  (only for a replay)

    return data_of
