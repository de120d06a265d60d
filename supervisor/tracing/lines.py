"""One record as the fields of one line, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import define

from supervisor.tracing.records import Conversation, End, Event, Frame, Head, Record

FORMAT: Final = 1
MAX_TIME: Final = 1e12
"""Seconds; a clock that says more is not a clock."""
MAX_INTEGER: Final = 2**53 - 1
"""Beyond it readers in other languages lose digits (RFC 8259, 6)."""


def fields_of(record: Record) -> dict[str, object]:
    """What a line about this record says; what holds its default is left out."""
    match record:
        case Event():
            return _event_fields(record)
        case Conversation(process=process, name=name, side=side, local=local, peer=peer):
            return {
                "muxlink": "connection",
                "process": process,
                "name": name,
                "side": side,
                "local": local,
                "peer": peer,
            } | _told(remote=record.remote)
        case Head():
            fields: dict[str, object] = {
                "muxlink": "head",
                "format": FORMAT,
                "process": record.process,
                "pid": record.pid,
                "monotonic": record.monotonic,
                "wall": record.wall,
            }
            fields |= _told(dropped=record.dropped, payloads=record.payloads, version=record.version)
            fields |= _told(warnings=list(record.warnings))
            merged = {"offset": record.offset, "uncertainty": record.uncertainty}
            return fields | {key: value for key, value in merged.items() if value is not None}
        case End():
            fields = {
                "muxlink": "end",
                "process": record.process,
                "reason": record.reason,
                "events": record.events,
            }
            return fields | _told(lost=record.lost)


def _event_fields(event: Event) -> dict[str, object]:
    # Spelled out, because there are many of them.
    fields: dict[str, object] = {"muxlink": "event", "process": event.process, "id": event.id, "time": event.time}
    if event.taken is not None:
        fields["taken"] = event.taken
    fields["from"] = event.sender
    fields["to"] = event.receiver
    fields["type"] = event.type
    if event.text:
        fields["text"] = event.text
    if event.cause:
        fields["cause"] = event.cause
    if event.dead:
        fields["dead"] = True
    if event.connection is not None:
        fields["connection"] = event.connection
    if event.stream is not None:
        fields["stream"] = event.stream
    if event.first is not None:
        fields["first"] = event.first
    if event.frames is not None:
        fields["frames"] = [(frame.kind, frame.flags, frame.stream, frame.length) for frame in event.frames]
    if event.remote:
        fields["remote"] = event.remote
    if event.data is not None:
        fields["data"] = dict(event.data)
    return fields


def _told(**fields: object) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value}


class WrongFieldError(Exception):
    """A field that is not what the format says."""


@define
class Fields:
    """The fields of one line, each checked as it is taken."""

    fields: Mapping[str, object]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.fields.get(key, default)
        if not isinstance(value, str):
            raise WrongFieldError(f'"{key}" must be a string')
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self.fields.get(key) is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.fields.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise WrongFieldError(f'"{key}" must be a list of strings')
        return tuple(value)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
            raise WrongFieldError(f'"{key}" must be a whole number from 0 on')
        return value

    def whole_or_none(self, key: str) -> int | None:
        return None if self.fields.get(key) is None else self.whole(key)

    def seconds(self, key: str) -> float:
        value = self.fields.get(key)
        if not isinstance(value, float | int) or isinstance(value, bool) or not -MAX_TIME <= value <= MAX_TIME:
            raise WrongFieldError(f'"{key}" must be a number of seconds')
        return float(value)

    def seconds_or_none(self, key: str) -> float | None:
        return None if self.fields.get(key) is None else self.seconds(key)

    def flag(self, key: str) -> bool:
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise WrongFieldError(f'"{key}" must be true or false')
        return value

    def frames(self) -> tuple[Frame, ...] | None:
        value = self.fields.get("frames")
        if value is None:
            return None
        if not isinstance(value, list):
            raise WrongFieldError('"frames" must be a list')
        return tuple(map(_frame, value))

    def reference(self) -> tuple[str, str] | None:
        match self.fields.get("remote"):
            case None:
                return None
            case [str(process), str(name)]:
                return process, name
        raise WrongFieldError('"remote" must be [process, connection]')

    def references(self) -> tuple[tuple[str, int], ...]:
        value = self.fields.get("remote")
        if value is None:
            return ()
        if not isinstance(value, list):
            raise WrongFieldError('"remote" must be a list')
        return tuple(map(_reference, value))

    def data(self) -> Mapping[str, object] | None:
        value = self.fields.get("data")
        if value is not None and not isinstance(value, dict):
            raise WrongFieldError('"data" must be an object')
        return value


def _frame(value: object) -> Frame:
    match value:
        case [int(kind), int(flags), int(stream), int(length)] if (
            0 <= kind < 2**8 and 0 <= flags < 2**8 and 0 <= stream < 2**31 and 0 <= length < 2**24
        ):
            return Frame(kind=kind, flags=flags, stream=stream, length=length)
    raise WrongFieldError('each of "frames" must be [kind, flags, stream, length], as a frame has them')


def _reference(value: object) -> tuple[str, int]:
    match value:
        case [str(process), int(id)] if not isinstance(id, bool) and 0 <= id <= MAX_INTEGER:
            return process, id
    raise WrongFieldError('each of "remote" must be [process, id] of an event')


def _head(fields: Fields) -> Head:
    return Head(
        process=fields.text("process"),
        pid=fields.whole("pid"),
        monotonic=fields.seconds("monotonic"),
        wall=fields.seconds("wall"),
        dropped=fields.whole("dropped", 0),
        payloads=fields.flag("payloads"),
        version=fields.text("version", ""),
        offset=fields.seconds_or_none("offset"),
        uncertainty=fields.seconds_or_none("uncertainty"),
        warnings=fields.texts("warnings"),
    )


def _conversation(fields: Fields) -> Conversation:
    texts = {key: fields.text(key) for key in ("process", "name", "side", "local", "peer")}
    return Conversation(**texts, remote=fields.reference())


def _event(fields: Fields) -> Event:
    return Event(
        process=fields.text("process"),
        id=fields.whole("id"),
        time=fields.seconds("time"),
        taken=fields.seconds_or_none("taken"),
        sender=fields.text("from"),
        receiver=fields.text("to"),
        type=fields.text("type"),
        text=fields.text("text", ""),
        cause=fields.whole("cause", 0),
        dead=fields.flag("dead"),
        connection=fields.text_or_none("connection"),
        stream=fields.whole_or_none("stream"),
        first=fields.whole_or_none("first"),
        frames=fields.frames(),
        remote=fields.references(),
        data=fields.data(),
    )


def _end(fields: Fields) -> End:
    return End(
        process=fields.text("process"),
        reason=fields.text("reason"),
        events=fields.whole("events"),
        lost=fields.whole("lost", 0),
    )


DECODERS: Final[Mapping[str, Callable[[Fields], Record]]] = {
    "head": _head,
    "connection": _conversation,
    "event": _event,
    "end": _end,
}
