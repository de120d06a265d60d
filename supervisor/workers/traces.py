"""Traces on their way out of a process that serves: to the Unix socket of whoever has asked for them.

The reader listens, and each process connects to it and writes JSON Lines of its own. A reader that ends, or closes its
side, ends the trace in every process; one that is slow loses messages, and never holds anybody up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, Final, Self, cast

import attrs
from attrs import field, frozen

from actors.errors import LinkError, Misuse
from supervisor.private_sockets import MAX_PATH, peer_of
from supervisor.server import Server
from supervisor.tracing.capture import BYTES, EVENTS, SECONDS, Capture, Chooser, line
from supervisor.tracing.records import End, Trace

logger: Final = logging.getLogger("muxlink.trace")

DUMP, FOLLOW, CAPTURE = MODES = ("dump", "follow", "capture")
AT_ONCE: Final = 8
"""Traces that one process writes at a time."""
MAX_TEXT: Final = 1000
MOST_KNOWN: Final = 500
"""Processes that a question can leave out."""
MOST: Final = 2**53 - 1
FOR_EVER: Final = 10 * 365 * 86_400.0
"""Seconds; whoever follows says when it is over."""
LINES_AT_ONCE: Final = 500


def _text_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_TEXT):
        raise Misuse(f"a trace's {attribute.name} is a text of at most {MAX_TEXT} characters")


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool) and not (value is None and attribute.name == "dead"):
        raise Misuse(f"a trace's {attribute.name} is true or false, not {str(value)[:40]!r}")


def _number(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if attribute.name == "stream" and value is None:
        return
    kinds = (int, float) if attribute.name == "seconds" else (int,)
    if type(value) not in kinds or not 0 < value <= MOST:  # type: ignore[operator]
        raise Misuse(f"a trace's {attribute.name} is a number above 0 and up to {MOST:,}, not {str(value)[:40]!r}")


def _texts(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    is_list = isinstance(value, tuple | list) and len(value) <= MOST_KNOWN
    if not is_list or not all(isinstance(each, str) and len(each) <= MAX_TEXT for each in cast("list[object]", value)):
        raise Misuse(f"a trace's {attribute.name} is a list of at most {MOST_KNOWN} names")


@frozen(kw_only=True)
class Wanted:
    """Which trace is wanted, and where; raises Misuse for what cannot be."""

    to: str = field()
    """The absolute path of the Unix socket at which the reader listens."""
    mode: str = field()
    """``dump``: what was recorded; ``follow``: what is said from now on; ``capture``: the same, with an end."""
    events: int = field(default=EVENTS, validator=_number)
    seconds: float = field(default=SECONDS, validator=_number)
    bytes: int = field(default=BYTES, validator=_number)
    payloads: bool = field(default=False, validator=_flag)
    for_replay: bool = field(default=False, validator=_flag)
    actor: str | None = field(default=None, validator=_text_or_none)
    stream: int | None = field(default=None, validator=_number)
    type: str | None = field(default=None, validator=_text_or_none)
    dead: bool | None = field(default=None, validator=_flag)
    known: Sequence[str] = field(default=(), validator=_texts)
    """Processes that write it already: only others are asked."""

    def __attrs_post_init__(self) -> None:
        if self.mode not in MODES:
            raise Misuse(f"a trace's mode is {', '.join(MODES)}, not {str(self.mode)[:40]!r}")
        to = self.to
        if not isinstance(to, str) or not os.path.isabs(to) or "\0" in to or len(os.fsencode(to)) > MAX_PATH:
            raise Misuse(f"a trace goes to the absolute path of a Unix socket, not {str(to)[:120]!r}")
        if self.mode != CAPTURE and (self.payloads or self.for_replay):
            raise Misuse("payloads are only in a capture: what was recorded has none")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """What a question, or the message of a parent, says."""
        known = {each.name for each in attrs.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise Misuse(f"a trace has no option {str(unknown[0])[:40]!r}")
        if not {"to", "mode"} <= set(values):
            raise Misuse("a trace needs its mode, and where it goes (to)")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return attrs.asdict(self)

    def filter(self) -> Chooser | None:
        """Which events; None: all."""
        from supervisor.tracing.filters import Filter  # noqa: PLC0415  (a worker mostly needs none, nor argparse)

        chosen = Filter(actor=self.actor, stream=self.stream, type=self.type, dead=self.dead)
        return None if chosen == Filter() else chosen


def check_reader(path: str) -> None:
    """Raise Misuse, for whoever has asked, where this process cannot reach the socket, or it is another user's."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise Misuse.because(
            f"the server cannot reach {path} ({error.strerror or error}): ask as the user {os.geteuid()}, who runs it",
            error,
        ) from error
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise Misuse(f"a trace goes to a socket of the user {os.geteuid()}, who runs the server, and {path} is none")


class Traces:
    """The traces that one process writes."""

    def __init__(self, process: str) -> None:
        """``process`` is what it is called in them."""
        self._process = process
        self._writing: set[_Writing] = set()

    def begin(self, wanted: Wanted, server: Server) -> None:
        """Connect, and write. Raises LinkError where that cannot be."""
        if len(self._writing) >= AT_ONCE:
            raise Misuse(f"{AT_ONCE} traces of {self._process} are written already: end one of them")
        end = _connected(wanted.to)
        try:
            writing = _Writing(end, self._writing.discard)
            writing.begin(wanted, server, self._process)
        except BaseException:
            end.close()
            raise
        self._writing.add(writing)

    async def close(self) -> None:
        """End them all: nothing more will be said here."""
        for each in tuple(self._writing):
            each.stop("closed")
        if self._writing:
            await asyncio.gather(*(each.gone() for each in tuple(self._writing)))


class _Writing:
    """One trace, and the socket that it goes to."""

    def __init__(self, end: socket.socket, done: Callable[[_Writing], object]) -> None:
        self._end = end
        self._done = done
        self._capture: Capture | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[None] = self._loop.create_future()

    def begin(self, wanted: Wanted, server: Server, process: str) -> None:
        if wanted.mode == DUMP:
            recorded = server.recorded(process=process)
            Thread(target=self._dump, args=(recorded, process), name="muxlink-dump", daemon=True).start()
        else:
            ends = wanted.mode == CAPTURE
            self._capture = Capture(
                self, process=process, filter=wanted.filter(), payloads=wanted.payloads, for_replay=wanted.for_replay,
                events=wanted.events if ends else MOST, seconds=wanted.seconds if ends else FOR_EVER,
                bytes=wanted.bytes if ends else MOST, prefix=server.name, ended=self._ended,
            )  # fmt: skip
            self._capture.begin(server.tracer, server.stats().connection_stats)
        self._loop.add_reader(self._end, self._readable)

    @property
    def name(self) -> str:
        """Where it goes, for the log."""
        return "a reader at the control socket"

    def write(self, data: bytes) -> None:
        """Runs in a thread, which waits until the reader takes it."""
        self._end.sendall(data)

    def _dump(self, recorded: Callable[[], Trace], process: str) -> None:
        """Write what was recorded; runs in a thread."""
        try:
            trace = recorded()
            lines = [line(record) for record in trace.records()]
            lines.append(line(End(process=process, reason="asked", events=len(trace.events))))
            for at in range(0, len(lines), LINES_AT_ONCE):
                self.write(b"".join(lines[at : at + LINES_AT_ONCE]))
        except OSError as error:
            logger.debug("the reader of a trace has gone: %s", error)
        except LinkError as error:
            logger.error("a trace cannot be written: %s", error)
        finally:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._ended)

    def _readable(self) -> None:
        """The reader says nothing: it has closed its side, or has ended."""
        try:
            if self._end.recv(64, socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            return
        except OSError as error:
            logger.debug("the reader of a trace has gone: %s", error)
        self.stop("asked")

    def stop(self, reason: str) -> None:
        """End it; what was said until now still goes out, where the reader takes it."""
        self._loop.remove_reader(self._end)
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(reason), name="trace-end")

    async def _stop(self, reason: str) -> None:
        if self._capture is not None:
            await self._capture.end(reason)
        if not self._gone.done():
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_RDWR)  # the thread may still wait for the reader
            await asyncio.wait((self._gone,), timeout=1.0)

    def _ended(self) -> None:
        """The thread has ended."""
        self._loop.remove_reader(self._end)
        self._end.close()
        if not self._gone.done():
            self._gone.set_result(None)
        self._done(self)

    async def gone(self) -> None:
        """Wait until it is over."""
        if self._stopping is not None:
            await asyncio.wait((self._stopping,))


def _connected(path: str) -> socket.socket:
    """A socket to the reader, which must be the same user. Raises Misuse."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        end.connect(path)
        if (uid := peer_of(end).uid) != os.geteuid():
            raise Misuse(f"a trace is only for the user {os.geteuid()}, and the user {uid} listens at {path}")
        end.setblocking(True)  # from here on a thread of its own writes
    except OSError as error:
        end.close()
        raise Misuse.because(f"no trace can be written to {path}: {error.strerror or error}", error) from error
    except Misuse:
        end.close()
        raise
    return end
