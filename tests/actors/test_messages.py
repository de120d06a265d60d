"""Messages: frozen, understood by one receiver each, and silent about secrets and bodies."""

import inspect
import typing
from types import UnionType
from typing import Any, get_args

import attrs
import pytest

from actors import messages
from actors.errors import Closed, GoAway, Outcome, StreamReset
from actors.headers import SECRETS, Pair, request_head
from actors.mailbox import Ref, SystemMessage, closed_error
from actors.messages import (
    BytesArrived,
    ConnectionFact,
    ConnectionLost,
    DataArrived,
    Drain,
    Exited,
    HeadersArrived,
    InformationalArrived,
    ListenerMessage,
    Opened,
    OpenStream,
    Peer,
    PeerReset,
    RoomMade,
    SocketAccepted,
    StreamFailed,
    StreamMessage,
    TrailersArrived,
)
from actors.trace import MAX_SUMMARY, summary_of

BODY = b"the-body-5f2a"
SECRET = b"the-secret-5f2a"
VALUE = b"the-value-5f2a"
UNIONS: dict[str, UnionType] = {"stream": StreamMessage, "connection": ConnectionFact, "listener": ListenerMessage}

PAIRS: list[Pair] = [
    (b":method", b"POST"),
    (b":path", b"/shop?token=" + SECRET),
    *((name, SECRET) for name in sorted(SECRETS)),
    (b"x-open", VALUE),
]

EXAMPLES: list[tuple[Any, str]] = [
    (HeadersArrived(PAIRS, True), "POST /shop +5, ended"),
    (HeadersArrived([(b":status", b"200"), (b"set-cookie", SECRET)], False), "200 +1"),
    (InformationalArrived([(b":status", b"103"), (b"link", VALUE)]), "103 +1"),
    (TrailersArrived([(b"len", VALUE), (b"set-cookie", SECRET)]), " +2"),
    (DataArrived(BODY, False), "13 bytes"),
    (DataArrived(BODY, True), "13 bytes, ended"),
    (BytesArrived(BODY), "13 bytes"),
    (OpenStream(Ref("stream-1", print), PAIRS, BODY, PAIRS, True, 16, lambda: True), "stream-1: POST /shop +5"),
    (SocketAccepted(lambda ref: None, typing.cast("Any", None), Peer("127.0.0.1:9")), "127.0.0.1:9"),
    (Opened(5), "stream 5"),
    (PeerReset(8), "CANCEL"),
    (PeerReset(0xFFFF), "0xffff"),
    (RoomMade(7), "7 bytes"),
    (StreamFailed(StreamReset("gone", code=8), Outcome.NOT_SENT), "gone"),
    (ConnectionLost(None), "closed"),
    (ConnectionLost(OSError("broken pipe")), "OSError('broken pipe')"),
    (Drain(2.5, Closed("bye")), "2.5 s"),
    (Exited("a", None, crashed=False), "a ended"),
    (Exited("a", GoAway("bye", code=0), crashed=False), "a ended: bye"),
    (Exited("a", ValueError("oops"), crashed=True), "a crashed: ValueError"),
]
named = pytest.mark.parametrize(("message", "summary"), EXAMPLES, ids=lambda value: type(value).__name__)


def every_message() -> list[type[Any]]:
    found = [
        kind
        for kind in vars(messages).values()
        if inspect.isclass(kind) and kind.__module__ == messages.__name__ and attrs.has(kind)
    ]
    assert len(found) > 25
    return found


@named
def test_a_message_says_in_a_trace_what_it_is_about(message: Any, summary: str) -> None:
    assert summary_of(message) == summary


@named
def test_no_trace_of_a_message_holds_a_body_a_secret_or_the_value_of_a_header(message: Any, summary: str) -> None:
    """T3 (the messages' part): authorization, cookie, set-cookie, proxy-authorization and bodies are never in one."""
    for shown in (summary_of(message), repr(message)):
        for hidden in (BODY, SECRET, VALUE):
            assert hidden.decode() not in shown


def test_a_real_requests_secrets_stay_hidden_as_well() -> None:
    """T3."""
    head = request_head("GET", "http", "a:1", "/?q=" + SECRET.decode(), {"Authorization": SECRET})
    message = OpenStream(Ref("s", print), head, b"", [], True, 16, lambda: True)
    assert summary_of(message) == "s: GET a:1 http / +1"
    assert SECRET.decode() not in repr(message)


def test_a_summary_is_bounded_however_long_a_path_is() -> None:
    assert len(summary_of(HeadersArrived([(b":path", b"/" + b"x" * 10_000)], False))) == MAX_SUMMARY


@pytest.mark.parametrize("kind", every_message(), ids=lambda kind: kind.__name__)
def test_a_message_never_changes(kind: type[Any]) -> None:
    made = object.__new__(kind)
    name = next((field.name for field in attrs.fields(kind)), "anything")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(made, name, None)


@pytest.mark.parametrize("kind", every_message(), ids=lambda kind: kind.__name__)
def test_a_message_carries_no_more_than_its_fields(kind: type[Any]) -> None:
    assert not hasattr(object.__new__(kind), "__dict__")


def test_system_messages_are_in_no_actors_protocol_and_ordinary_ones_in_one_at_least() -> None:
    ordinary = {kind for union in UNIONS.values() for kind in get_args(union)}
    assert not [kind for kind in ordinary if issubclass(kind, SystemMessage)]
    assert {kind.__name__ for kind in every_message() if issubclass(kind, SystemMessage)} == {
        "Halt", "Kill", "GetState", "TakePicture", "Suspend", "Resume", "TraceOn", "TraceOff", "Watch",
            "Unwatch",
    }  # fmt: skip


@pytest.mark.parametrize("parent", ["connection", "listener"])
def test_who_has_children_understands_their_ends(parent: str) -> None:
    assert Exited in get_args(UNIONS[parent])


def test_what_another_programs_exception_says_is_not_repeated_in_a_trace() -> None:
    """T3: it may be secret, and an error of ours that came of it may quote it."""
    error = closed_error("worker", ValueError("a password"))
    assert str(error) == "worker has ended: a password"
    assert Exited("worker", error, crashed=False).summary() == "worker ended: worker has ended: ValueError"
    assert StreamFailed(error).summary() == "worker has ended: ValueError"
