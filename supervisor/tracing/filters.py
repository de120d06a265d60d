"""Which events of a trace are wanted."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Never

from attrs import frozen

from actors.errors import Misuse
from supervisor.tracing.records import Event, Trace


@frozen(kw_only=True)
class Filter:
    """What an event must be like; what is None is not asked."""

    actor: str | None = None
    """Its sender or its receiver: a name or a glob, for these and all that is below them.

    It may begin with that of the process, as in ``worker-1/server-1/connection-3``.
    """
    stream: int | None = None
    type: str | None = None
    """Names or globs of messages' types, with commas between them."""
    since: float | None = None
    """Seconds since the epoch; up to 0, relative to the last event of the trace, such as -30."""
    until: float | None = None
    """The same."""
    dead: bool | None = None
    """Whether it is a dead letter."""

    def matches(self, event: Event) -> bool:
        """Whether an event is like that, its time aside, which says something only among others (see :meth:`among`)."""
        return (
            (self.stream is None or event.stream == self.stream)
            and (self.dead is None or event.dead is self.dead)
            and (self.type is None or any(fnmatchcase(event.type, glob.strip()) for glob in self.type.split(",")))
            and (self.actor is None or _is_told_at(event, self.actor))
        )

    def among(self, trace: Trace) -> Callable[[Event], bool]:
        """The whole test, times included, for the events of one trace; ``trace.filter(filter)`` uses it."""
        end = trace.wall(trace.events[-1]) if trace.events else 0.0
        since, until = _at(self.since, end, -math.inf), _at(self.until, end, math.inf)
        return lambda event: since <= trace.wall(event) <= until and self.matches(event)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that :func:`of` turns into a filter."""
    group = parser.add_argument_group("which messages")
    group.add_argument(
        "--actor", metavar="NAME",
        help="of this actor and all below it: server-1/connection-3, or a glob: 'link-*'; worker-1/... in that process",
    )  # fmt: skip
    group.add_argument("--stream", type=_stream, metavar="ID", help="of this HTTP/2 stream")
    group.add_argument("--type", metavar="TYPES", help="of these types: DataArrived,Frames*")
    times = group.add_mutually_exclusive_group()
    times.add_argument("--last", type=_seconds, metavar="SECONDS", help="of the last seconds of the trace")
    times.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="from then on: 2026-11-21T14:30:00, or -30 for 30 s before the end",
    )
    group.add_argument("--until", type=_moment, metavar="TIME", help="up to then")
    group.add_argument(
        "--dead", action=argparse.BooleanOptionalAction, default=None, help="only dead letters, or none of them"
    )


def of(namespace: argparse.Namespace) -> Filter:
    """The filter that a command's options say."""
    return Filter(
        actor=namespace.actor,
        stream=namespace.stream,
        type=namespace.type,
        since=namespace.since if namespace.last is None else -namespace.last,
        until=namespace.until,
        dead=namespace.dead,
    )


def parse(text: str) -> Filter:
    """The filter that a text says, such as ``--actor 'server-1/*' --stream 5 --type DataArrived --last 30``.

    Raises Misuse where it says none.
    """
    parser = _Parser(prog="filter", add_help=False, allow_abbrev=False)
    add_arguments(parser)
    try:
        return of(parser.parse_args(shlex.split(text)))
    except ValueError as error:
        raise Misuse.because(f"not a filter: {text!r}: {error}", error) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise Misuse(f"not a filter: {message}")


def _is_told_at(event: Event, place: str) -> bool:
    return any(
        _is_at(actor, place) or _is_at(f"{event.process}/{actor}", place) for actor in (event.sender, event.receiver)
    )


def _is_at(actor: str, place: str) -> bool:
    return (
        actor == place or actor.startswith(f"{place}/") or fnmatchcase(actor, place) or fnmatchcase(actor, f"{place}/*")
    )


def _at(time: float | None, end: float, default: float) -> float:
    if time is None:
        return default
    return time if time > 0 else end + time


def _stream(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no stream's id, such as 5")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, such as 30")
    return seconds


def _moment(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds):
            return seconds
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    raise argparse.ArgumentTypeError(
        f"{text!r} is no time: say 2026-11-21T14:30:00, seconds since the epoch, or -30 for 30 s before the end"
    )
