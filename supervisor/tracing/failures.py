"""What went wrong in a trace: streams that crashed, failed, were reset or never answered, connections that broke."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import frozen

from supervisor.tracing.records import Event

_ENDS_WELL: Final = frozenset((None, "Closed", "GoAway"))
"""How a connection ends without anybody's fault: by our own doing, or the peer's leave."""
_LEFT: Final = ("was closed by the peer", "was closed after GOAWAY")
_NEVER_ANSWERED: Final = "it was never answered"


@frozen
class Failure:
    """One that failed."""

    connection: str
    actor: str
    """The connection itself, or one of its streams."""
    what: str

    def __str__(self) -> str:
        return f"{self.actor}: {self.what}"

    def at(self, where: str) -> Failure:
        """The same with ``where`` before its names, which tells it from those of another process."""
        return Failure(f"{where}{self.connection}", f"{where}{self.actor}", self.what)


def failures_of(events: Iterable[Event], connection: str) -> tuple[Failure, ...]:
    """What failed of a connection, each actor once, with what was heard of it first; in the order of beginnings."""
    began: dict[str, str] = {}
    failed: dict[str, str] = {}
    for event in events:
        stream = event.receiver if event.sender == connection else event.sender
        if stream in (connection, "socket") or connection not in (event.sender, event.receiver):
            continue
        if event.sender == connection and event.type == "Exited":
            if said := _end(event):
                failed.setdefault(connection, said)
        elif said := _FAILS.get((event.type, event.sender == connection), _no)(event):
            # A crash is named where both are known: a reset is what comes of it.
            if event.type == "Exited" or stream not in failed:
                failed[stream] = said
        elif event.type in ("HeadersArrived", "SendHead", "Respond", "Opened"):
            _ask(began, event, stream, connection)
    for stream, wanted in began.items():
        if wanted:
            failed.setdefault(stream, wanted)
    order = [*began, *failed]
    return tuple(Failure(connection, actor, failed[actor]) for actor in dict.fromkeys(order) if actor in failed)


def _ask(began: dict[str, str], event: Event, stream: str, connection: str) -> None:
    """Note who waits for an answer, and who has got one."""
    is_request = stream.startswith(f"{connection}/stream-")
    if event.type == "HeadersArrived":
        began[stream] = _NEVER_ANSWERED if is_request else ""
    elif event.type == "Opened":
        began.setdefault(stream, _NEVER_ANSWERED)
    elif event.type == "Respond" or (event.type == "SendHead" and not _status(event).startswith("1")):
        began[stream] = ""


def _status(event: Event) -> str:
    return event.text.partition(": ")[2]


def _end(event: Event) -> str:
    """How an actor ended, where that was no good end."""
    told, reason = event.text.removeprefix(f"{event.sender} "), reason_of(event)
    if told.startswith("crashed"):
        return told
    if reason in _ENDS_WELL or (reason == "TransportLost" and told.endswith(_LEFT)):
        return ""
    return told


def reason_of(event: Event) -> str | None:
    """The class of the error that an ``Exited`` tells; None where there was none."""
    reason = (event.data or {}).get("reason")
    name = reason.get("type") if isinstance(reason, Mapping) else None
    return name if isinstance(name, str) else None


def _no(event: Event) -> str:
    return ""


def _stream_end(event: Event) -> str:
    return event.text.removeprefix(f"{event.sender} ") if " crashed" in event.text else ""


_FAILS: Final[Mapping[tuple[str, bool], Callable[[Event], str]]] = {
    ("Exited", False): _stream_end,
    ("PeerReset", True): lambda event: f"the peer reset it with {event.text}" * (event.text != "NO_ERROR"),
    ("StreamFailed", True): lambda event: f"it failed: {event.text}",
    ("ResetStream", False): lambda event: f"it was reset with {_status(event)}" * (_status(event) != "NO_ERROR"),
}
"""What a message says of a stream that failed, by its type and whether its connection told it."""
