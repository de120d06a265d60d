"""What a parent and its workers say to each other, and how that is written on the socket pair between them.

Each message is a frozen class. On the socket it is JSON behind its length. Nothing but what these classes hold can be
said: each checks what it is made of, so that a worker whose memory is spoiled cannot spoil its parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from attrs import Attribute, field, frozen

from actors.errors import LimitReached, Misuse, ProtocolViolation

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message; the figures of a worker with many connections are the longest."""
LENGTH_SIZE: Final = 4
VERSION: Final = 1
"""Of what is said here: parent and worker are of one installation, unless that was changed under a running parent."""

Plain = Mapping[str, Any]
"""What JSON can hold, by name."""


def _is(what: str, fits: Callable[[Any], bool]) -> Callable[[Any, Attribute[Any], Any], None]:
    def check(owner: object, attribute: Attribute[Any], value: object) -> None:
        if not fits(value):
            raise Misuse(f"{type(owner).__name__}.{attribute.name} is {what}, not {str(value)[:40]!r}")

    return check


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _are(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, kind) for each in value)


_TEXT: Final = _is("a str", lambda value: isinstance(value, str))
_FLAG: Final = _is("a bool", lambda value: isinstance(value, bool))
_COUNT: Final = _is("a number from 0", _is_count)
_SECONDS: Final = _is("seconds", lambda value: type(value) in (int, float) and 0 <= value < float("inf"))
_FIELDS: Final = _is("a mapping", lambda value: isinstance(value, Mapping))
_ROWS: Final = _is("mappings", lambda value: _are(value, Mapping))
_TEXTS: Final = _is("strs", lambda value: _are(value, str))

# --- to a worker ------------------------------------------------------------------------------------------------------


@frozen
class Begin:
    """The first message: who you are, and what to serve."""

    name: str = field(validator=_TEXT)
    options: Plain = field(validator=_FIELDS, repr=False)
    """A :class:`~supervisor.workers.options.ServeOptions`, as its ``as_dict()`` gives it."""
    version: int = field(default=VERSION, validator=_COUNT)


@frozen
class Take:
    """Serve the connection whose socket comes with this message."""

    number: int = field(validator=_COUNT)


@frozen
class Retire:
    """Take no more; drain for so many seconds, and end."""

    drain: float = field(validator=_SECONDS)


@frozen
class Hasten:
    """Cut what has not finished, and end now."""


@frozen
class Report:
    """Say your figures and your actors."""

    number: int = field(validator=_COUNT)


@frozen
class Explain:
    """Say what your streams wait for: all that wait, or the one of this name."""

    number: int = field(validator=_COUNT)
    stream: str = field(validator=_TEXT)
    """Empty: all."""


@frozen
class SendTrace:
    """Connect to a reader's Unix socket, and write a trace of your messages there."""

    to: str = field(validator=_TEXT)
    mode: str = field(validator=_TEXT)
    """``dump`` what was recorded, or ``follow`` or ``capture`` what is said from now on."""
    options: Plain = field(validator=_FIELDS)
    """A :class:`~supervisor.workers.traces.Wanted`, as its ``as_dict()`` gives it."""


@frozen
class WriteStacks:
    """Write your tree and the stack of each task to the log."""


# --- to the parent ----------------------------------------------------------------------------------------------------


@frozen
class Ready:
    """The handler is imported, and connections can be served."""

    pid: int = field(validator=_COUNT)


@frozen
class Beat:
    """The loop lives."""

    late: float = field(validator=_SECONDS)
    """Seconds by which the loop was late for this beat."""
    streams: int = field(validator=_COUNT)
    """Open streams."""
    requests: int = field(validator=_COUNT)
    """Streams that clients opened since the beginning."""


@frozen
class Taken:
    """The connection is in the worker's hands: the parent need keep its copy no longer. Said before a byte is read."""

    number: int = field(validator=_COUNT)


@frozen
class Released:
    """So many connections that were taken have ended since this was last said."""

    count: int = field(validator=_COUNT)


@frozen
class Tired:
    """It has served as many requests, or lived as long, as it may: another should take its place."""

    why: str = field(validator=_TEXT)


@frozen
class Reported:
    """The answer to :class:`Report`."""

    number: int = field(validator=_COUNT)
    stats: Plain = field(validator=_FIELDS, repr=False)
    """A :class:`~supervisor.stats.ServerStats`, as :func:`attrs.asdict` gives it."""
    actors: tuple[Plain, ...] = field(validator=_ROWS, repr=False)
    """Its actors, each behind its parent; as :mod:`supervisor.census` gives them."""


@frozen
class Explained:
    """The answer to :class:`Explain`."""

    number: int = field(validator=_COUNT)
    found: tuple[Plain, ...] = field(validator=_ROWS, repr=False)
    """Each :class:`~supervisor.explanation.Explanation`, as its ``to_plain()`` gives it."""


@frozen
class Draining:
    """It takes no more connections."""


@frozen
class Ended:
    """The last words."""

    reason: str = field(validator=_TEXT)
    """One line; empty where all is well."""
    asked_wrongly: bool = field(default=False, validator=_FLAG)
    """Whether trying again cannot help: the handler or the options are wrong."""
    cut: tuple[str, ...] = field(default=(), validator=_TEXTS)
    """The streams that had not finished."""
    finished: int = field(default=0, validator=_COUNT)
    """Streams that ended during the drain."""


ToWorker = Begin | Take | Retire | Hasten | Report | Explain | SendTrace | WriteStacks
FromWorker = Ready | Beat | Taken | Released | Tired | Reported | Explained | Draining | Ended
Spoken = ToWorker | FromWorker

_CLASSES: Final[dict[str, type[Any]]] = {
    each.__name__: each
    for each in (
        *(Begin, Take, Retire, Hasten, Report, Explain, SendTrace, WriteStacks),
        *(Ready, Beat, Taken, Released, Tired, Reported, Explained, Draining, Ended),
    )
}


def encode(message: Spoken) -> bytes:
    """The message behind its length. Raises LimitReached for one that is too long, Misuse for what JSON cannot hold."""
    fields = {each.name: getattr(message, each.name) for each in attrs.fields(type(message))}
    name = type(message).__name__
    try:
        text = json.dumps([name, fields], separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Misuse.because(f"a {name} holds what JSON cannot: {error}", error) from error
    if len(text) > MAX_MESSAGE:
        raise LimitReached(f"a {name} of {len(text)} bytes is too long for a socket pair: {MAX_MESSAGE} are the most")
    return len(text).to_bytes(LENGTH_SIZE) + text


def decode(text: bytes) -> Spoken:
    """The message that stood behind its length; lists that are fields come out as tuples.

    Of a Begin in another version only that can be told. Raises ProtocolViolation for what is no message.
    """
    try:
        name, fields = json.loads(text)
        if name == Begin.__name__ and fields["version"] != VERSION:
            return Begin("", {}, fields["version"])
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        made: Spoken = _CLASSES[name](**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Misuse) as error:
        raise ProtocolViolation.because("what came over a worker's socket pair is no message", error) from error
    return made
