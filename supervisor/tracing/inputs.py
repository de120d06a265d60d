"""What came in to a connection, as JSON can hold it, and back: what a capture for a replay adds to its events.

One table says for each class of message how it is written and how it is read. What it writes holds bodies and secret
headers as they are, so a capture with it is nobody else's business.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import attrs
from attrs import frozen

from actors import errors
from actors.commands import (
    EndStream,
    OfferAlternative,
    ResetStream,
    Respond,
    ReturnCredit,
    SendData,
    SendHead,
    Weigh,
)
from actors.errors import LinkError, Misuse, Outcome
from actors.headers import Pair, check_fields
from actors.mailbox import Ref, Reply
from actors.messages import (
    BytesArrived,
    ChangeLimits,
    ConnectionBegan,
    ConnectionLost,
    Drain,
    Exited,
    FramesArrived,
    Halt,
    OpenStream,
    PushStream,
    ReadOn,
    SendPing,
    StreamMessage,
    TimePassed,
    WriteOn,
    WritePaused,
    WriteResumed,
)
from actors.settings import Health, Limits
from actors.trace import TraceEvent
from supervisor.health import PingMonitor
from supervisor.tracing.lines import Fields, WrongFieldError
from supervisor.tracing.records import Event

_ERRORS: Final[Mapping[str, type[LinkError]]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LinkError)
}
_NO_INPUTS: Final = frozenset((ConnectionBegan.__name__, FramesArrived.__name__))
"""What a trace says that a connection was told, and nobody tells it: it notes that itself."""


class Stage(Protocol):
    """What messages need of the replay that they are told in."""

    def stream(self, name: str) -> Ref[StreamMessage]:
        """The puppet of a client's stream."""

    def is_wanted(self, name: str) -> bool:
        """Whether a request that waits for its stream is still to be sent."""


@frozen(kw_only=True)
class Beginning:
    """What a connection began with."""

    side: str
    peer: str
    alpn: str | None
    limits: Limits
    push: bool
    health: Health | None
    """None: nobody looked after its health."""
    factor: float
    """By how much the interval of its PINGs is longer than ``health`` says."""


def data_of(event: TraceEvent) -> Mapping[str, object] | None:
    """What a replay needs of a message, to be asked while it is told; None where it needs nothing of it."""
    codec = _CODECS.get(event.type)
    return codec.write(event.message) if codec is not None and event.message is not None else None


def is_input(event: Event) -> bool:
    """Whether the event is one that a replay has to tell its receiver again; the others come of themselves."""
    return not event.dead and event.type not in _NO_INPUTS


def beginning_of(event: Event) -> Beginning:
    """What a ``ConnectionBegan`` says. Raises Misuse where it was not captured for a replay."""
    return cast("Beginning", _read(event, None))


def message_of(event: Event, stage: Stage) -> object:
    """The message that a connection took in, made again. Raises Misuse for an unknown kind, and where data lacks."""
    return _read(event, stage)


def _read(event: Event, stage: Stage | None) -> object:
    codec = _CODECS.get(event.type)
    where = f"event {event.id} ({event.type} to {event.receiver})"
    if codec is None:
        raise Misuse(f"{where} cannot be replayed: this muxlink knows no such message, use the one that wrote it")
    if event.data is None:
        raise Misuse(f"{where} has no data: capture again, for a replay")
    try:
        return codec.read(_Data(event.data), stage)
    except (WrongFieldError, ValueError, TypeError, AttributeError, LinkError) as error:
        raise Misuse.because(f"the data of {where} is damaged: {error}", error) from error


# --- values -----------------------------------------------------------------------------------------------------------


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _pairs(pairs: list[Pair]) -> list[list[str]]:
    # A byte is a character: header fields are mostly ASCII, and so stay readable.
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in pairs]


def _error(error: BaseException | None) -> dict[str, object] | None:
    if error is None:
        return None
    said: dict[str, object] = {"type": type(error).__name__, "text": str(error)}
    if isinstance(error, LinkError):
        said["outcome"] = error.outcome.value
        for key in ("code", "received"):
            if isinstance(value := getattr(error, key, None), int):
                said[key] = int(value)
        if isinstance(debug := getattr(error, "debug", None), bytes):
            said["debug"] = _base64(debug)
    return said


class _Data(Fields):
    """The data of one event; each value is checked as it is taken."""

    def bytes(self, key: str) -> bytes:
        return base64.b64decode(self.text(key), validate=True)

    def pairs(self, key: str) -> list[Pair]:
        """A header list; the secrets in it are marked again, so that HPACK never indexes them."""
        value = self.fields.get(key)
        if not isinstance(value, list):
            raise WrongFieldError(f'"{key}" must be a list of pairs')
        pairs: list[Pair] = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in value]
        at = next((number for number, (name, _) in enumerate(pairs) if name[:1] != b":"), len(pairs))
        return pairs[:at] + check_fields(pairs[at:])

    def seconds_or_ever(self, key: str) -> float:
        return math.inf if self.fields.get(key) is None else self.seconds(key)

    def inner(self, key: str) -> _Data | None:
        value = self.fields.get(key)
        if value is not None and not isinstance(value, dict):
            raise WrongFieldError(f'"{key}" must be an object')
        return _Data(value) if value is not None else None

    def made(self, key: str, kind: type[Any]) -> Any:
        """A value of settings; what a later muxlink has added to them is passed over."""
        inner = self.inner(key)
        if inner is None:
            return None
        return kind(**{name: inner.fields[name] for name in attrs.fields_dict(kind) if name in inner.fields})

    def error(self, key: str) -> Exception | None:
        inner = self.inner(key)
        if inner is None:
            return None
        name, text = inner.text("type"), inner.text("text")
        known = _ERRORS.get(name)
        if known is None:
            # Somebody else's: its name and text are all that anybody looks at.
            return type(name, (Exception,), {})(text)  # type: ignore[no-any-return]
        facts: dict[str, Any] = {"outcome": Outcome(inner.text("outcome", Outcome.NOT_SENT.value))}
        facts |= {key: inner.whole(key) for key in ("code", "received") if key in inner.fields}
        if "debug" in inner.fields:
            facts["debug"] = inner.bytes("debug")
        return known(text, **facts)

    def link_error(self, key: str) -> LinkError | None:
        error = self.error(key)
        if error is not None and not isinstance(error, LinkError):
            raise WrongFieldError(f'"{key}" must be an error of muxlink')
        return error


# --- messages ---------------------------------------------------------------------------------------------------------


@frozen
class _Codec:
    write: Callable[[Any], dict[str, object]]
    read: Callable[[_Data, Any], object]


def _began(began: ConnectionBegan) -> dict[str, object]:
    monitor = began.monitor
    watched = monitor if isinstance(monitor, PingMonitor) else None
    return {
        "side": began.side,
        "peer": began.peer,
        "alpn": began.alpn,
        "limits": attrs.asdict(began.limits) if began.limits is not None else {},
        "push": began.push,
        "health": attrs.asdict(watched.health) if watched is not None else None,
        "factor": watched.factor if watched is not None else 1.0,
    }


def _beginning(data: _Data, stage: Stage | None) -> Beginning:
    return Beginning(
        side=data.text("side"), peer=data.text("peer"), alpn=data.text_or_none("alpn"), push=data.flag("push"),
        limits=data.made("limits", Limits), health=data.made("health", Health), factor=data.seconds("factor"),
    )  # fmt: skip


def _open_data(message: OpenStream) -> dict[str, object]:
    return {
        "stream": message.stream.name, "head": _pairs(message.head), "body": _base64(message.body),
        "trailers": _pairs(message.trailers), "end": message.end, "weight": message.weight,
        "pushes": message.promised is not None,
    }  # fmt: skip


def _open(data: _Data, stage: Stage) -> OpenStream:
    name = data.text("stream")
    return OpenStream(
        stage.stream(name), data.pairs("head"), data.bytes("body"), data.pairs("trailers"), data.flag("end"),
        data.whole("weight"), lambda: stage.is_wanted(name), (lambda child: None) if data.flag("pushes") else None,
    )  # fmt: skip


def _drain(data: _Data, stage: Stage) -> Drain:
    cause = data.link_error("error") or errors.Closed("drained")
    code = data.whole("code") if "code" in data.fields else errors.ErrorCode.NO_ERROR  # as captures of before had it
    return Drain(data.seconds_or_ever("seconds"), cause, data.bytes("debug"), code)


def _plain(kind: Callable[[], object]) -> _Codec:
    """A message that says nothing but its class."""
    return _Codec(lambda message: {}, lambda data, stage: kind())


_CODECS: Final[Mapping[str, _Codec]] = {
    "ConnectionBegan": _Codec(_began, _beginning),
    # From the socket and the clock.
    "BytesArrived": _Codec(lambda m: {"bytes": _base64(m.data)}, lambda data, stage: BytesArrived(data.bytes("bytes"))),
    "ConnectionLost": _Codec(
        lambda m: {"cause": _error(m.cause)}, lambda data, stage: ConnectionLost(data.error("cause"))
    ),
    "WritePaused": _plain(WritePaused),
    "WriteResumed": _plain(WriteResumed),
    "TimePassed": _plain(TimePassed),
    "ReadOn": _plain(ReadOn),
    "WriteOn": _plain(WriteOn),
    # From its owner.
    "Halt": _Codec(lambda m: {"cause": _error(m.cause)}, lambda data, stage: Halt(data.link_error("cause"))),
    "Drain": _Codec(
        lambda m: {
            "seconds": m.seconds if math.isfinite(m.seconds) else None,
            "error": _error(m.error),
            "debug": _base64(m.debug),
            "code": int(m.code),
        },
        _drain,
    ),
    "SendPing": _plain(lambda: SendPing(Reply())),
    "ChangeLimits": _Codec(
        lambda m: {"limits": attrs.asdict(m.limits)},
        lambda data, stage: ChangeLimits(data.made("limits", Limits), Reply()),
    ),
    # From its streams.
    "OpenStream": _Codec(_open_data, _open),
    "Exited": _Codec(
        lambda m: {"name": m.name, "reason": _error(m.reason), "crashed": m.crashed},
        lambda data, stage: Exited(data.text("name"), data.error("reason"), data.flag("crashed")),
    ),
    "PushStream": _Codec(
        lambda m: {"stream": m.parent_id, "head": _pairs(m.head)},
        lambda data, stage: PushStream(data.whole("stream"), data.pairs("head"), Reply()),
    ),
    "SendHead": _Codec(
        lambda m: {"stream": m.stream_id, "head": _pairs(m.head)},
        lambda data, stage: SendHead(data.whole("stream"), data.pairs("head")),
    ),
    "SendData": _Codec(
        lambda m: {"stream": m.stream_id, "bytes": _base64(m.data), **({"end": True} if m.end else {})},
        lambda data, stage: SendData(data.whole("stream"), data.bytes("bytes"), data.flag("end")),
    ),
    "EndStream": _Codec(
        lambda m: {"stream": m.stream_id, "trailers": _pairs(m.trailers)},
        lambda data, stage: EndStream(data.whole("stream"), data.pairs("trailers")),
    ),
    "Respond": _Codec(
        lambda m: {
            "stream": m.stream_id, "head": _pairs(m.head), "body": _base64(m.body), "trailers": _pairs(m.trailers),
        },
        lambda data, stage: Respond(
            data.whole("stream"), data.pairs("head"), data.bytes("body"), data.pairs("trailers")
        ),
    ),
    "ResetStream": _Codec(
        lambda m: {"stream": m.stream_id, "code": int(m.code)},
        lambda data, stage: ResetStream(data.whole("stream"), data.whole("code")),
    ),
    "ReturnCredit": _Codec(
        lambda m: {"stream": m.stream_id, "size": m.size},
        lambda data, stage: ReturnCredit(data.whole("stream"), data.whole("size")),
    ),
    "Weigh": _Codec(
        attrs.asdict,
        lambda data, stage: Weigh(
            data.whole("stream_id"), data.whole("weight"), data.whole("depends_on"), data.flag("exclusive")
        ),
    ),
    "OfferAlternative": _Codec(
        lambda m: {"stream": m.stream_id, "origin": _base64(m.origin), "value": _base64(m.value)},
        lambda data, stage: OfferAlternative(data.whole("stream"), data.bytes("origin"), data.bytes("value")),
    ),
}  # fmt: skip
"""How each message that a connection takes in is written and read, by the name of its class."""
