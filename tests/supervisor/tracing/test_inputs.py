"""What a connection takes in goes through JSON and comes back."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from attrs import evolve, frozen
from hpack import NeverIndexedHeaderTuple

from actors import messages
from actors.commands import (
    EndStream,
    OfferAlternative,
    ResetStream,
    Respond,
    ReturnCredit,
    SendData,
    SendHead,
    Weigh,
    WireCommand,
)
from actors.errors import Closed, GoAway, LinkError, Misuse, Outcome, StreamReset
from actors.headers import check_fields
from actors.mailbox import Ref, Reply
from actors.messages import (
    BytesArrived,
    ChangeLimits,
    ConnectionBegan,
    ConnectionLost,
    Drain,
    Exited,
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
from actors.trace import TraceEvent, Tracer
from supervisor.health import PingMonitor
from supervisor.tracing.inputs import beginning_of, data_of, is_input, message_of
from supervisor.tracing.records import Event
from supervisor.tracing.snapshot import event_of

HEAD = [(b":status", b"200"), *check_fields([("x-bytes", b"\xff\x00"[:1]), ("set-cookie", "key=secret")])]
REQUEST = [(b":method", b"GET"), (b":path", b"/"), *check_fields({"authorization": "secret"})]
STREAM: Ref[StreamMessage] = Ref("link-1/request-1", lambda message: None)


@frozen
class Stage:
    """Who knows the client's streams."""

    def stream(self, name: str) -> Ref[StreamMessage]:
        assert name == STREAM.name
        return STREAM

    def is_wanted(self, name: str) -> bool:
        return False


def written(message: object) -> Event:
    """The event of a message, as a capture for a replay has it, through JSON and back."""
    seen: list[Event] = []

    def keep(event: TraceEvent) -> None:
        made = event_of("process-1", event)
        seen.append(evolve(made, data=json.loads(json.dumps(data_of(event)))))

    tracer = Tracer()
    tracer.attach(keep)
    tracer.noted("connection", message)
    return seen[0]


def again(message: object) -> Any:
    return message_of(written(message), Stage())


@pytest.mark.parametrize(
    "message",
    [
        BytesArrived(bytes(range(256))),
        WritePaused(),
        WriteResumed(),
        TimePassed(),
        ReadOn(),
        WriteOn(),
        ConnectionLost(None),
        Halt(None),
        Exited("link-1/request-1", None, False),
        SendHead(1, HEAD),
        SendData(3, b"body\x00"),
        EndStream(3, [(b"t", b"1")]),
        Respond(5, HEAD, b"body", [(b"t", b"1")]),
        ResetStream(7, 8),
        ReturnCredit(7, 100),
        Weigh(7, 200, 5, True),
        OfferAlternative(7, b"origin", b'h2=":1"'),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_back_as_it_was(message: object) -> None:
    """T6."""
    assert again(message) == message


def test_every_message_that_a_connection_understands_can_be_written() -> None:
    """T6: one that is added later and forgotten here could not be replayed."""
    kinds = {*get_args(messages.ConnectionFact), *WireCommand.__subclasses__(), Halt, ConnectionBegan}
    unknown = []
    for kind in kinds:
        event = Event(process="p", id=1, time=0.0, sender="a", receiver="b", type=kind.__name__)
        with pytest.raises(Misuse) as caught:
            message_of(event, Stage())
        if "has no data" not in str(caught.value):
            unknown.append(kind)
    assert unknown == []


def test_a_request_comes_back_with_its_stream_and_asks_the_replay_whether_it_is_wanted() -> None:
    """T6."""
    told = OpenStream(STREAM, REQUEST, memoryview(b"body"), [(b"t", b"1")], True, 32, promised=lambda child: None)
    back = again(told)
    assert (back.stream, back.head, bytes(back.body), back.trailers) == (STREAM, REQUEST, b"body", [(b"t", b"1")])
    assert (back.end, back.weight, back.is_wanted(), back.promised is not None) == (True, 32, False, True)
    assert again(evolve(told, promised=None)).promised is None


def test_secrets_are_never_indexed_in_the_replay_either() -> None:
    """T6: or the header blocks of a replay would have other lengths."""
    assert [type(pair) is NeverIndexedHeaderTuple for pair in again(SendHead(1, HEAD)).head] == [False, False, True]


@pytest.mark.virtual_time
async def test_what_waits_for_an_answer_gets_a_new_one() -> None:
    """T6."""
    assert again(SendPing(Reply())).reply.is_wanted
    push = again(PushStream(1, REQUEST, Reply()))
    assert (push.parent_id, push.head, push.reply.is_wanted) == (1, REQUEST, True)
    change = again(ChangeLimits(Limits(max_streams=7), Reply()))
    assert (change.limits, change.reply.is_wanted) == (Limits(max_streams=7), True)


@pytest.mark.parametrize("seconds", [0.0, 2.5, math.inf])
def test_a_drain_comes_back_also_one_without_an_end(seconds: float) -> None:
    """T6."""
    back = again(Drain(seconds, Closed("the server was closed"), b"bye"))
    assert (back.seconds, str(back.error), type(back.error), back.debug) == (
        seconds, "the server was closed", Closed, b"bye",
    )  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        StreamReset("the peer reset it", code=8, received=100, outcome=Outcome.UNPROCESSED),
        GoAway("going", code=2, debug=b"\x00\xff"),
        Closed("closed"),
    ],
)
def test_errors_of_ours_keep_their_class_and_facts(error: LinkError) -> None:
    """T6."""
    back = again(Exited("a", error, False)).reason
    assert (type(back), back.args, vars(back)) == (type(error), error.args, vars(error))


def test_errors_of_others_keep_their_name_and_text() -> None:
    """T6."""
    back = again(Exited("a", KeyError("seat"), True))
    assert (type(back.reason).__name__, str(back.reason), back.crashed) == ("KeyError", "'seat'", True)
    lost = again(ConnectionLost(ConnectionResetError(104, "Connection reset by peer")))
    assert str(lost.cause) == "[Errno 104] Connection reset by peer"


def test_the_beginning_says_limits_pushes_and_health() -> None:
    """T6."""
    limits, health = Limits(max_streams=3), Health(interval=7.0)
    began = ConnectionBegan("client", "here:1", "there:2", "h2", limits, True, PingMonitor(health, factor=2.0))
    back = beginning_of(written(began))
    assert (back.side, back.peer, back.alpn, back.limits) == ("client", "there:2", "h2", limits)
    assert (back.push, back.health, back.factor) == (True, health, 2.0)
    assert beginning_of(written(ConnectionBegan("server", "", "x", None, limits))).health is None


def test_what_a_later_version_has_added_to_limits_is_passed_over() -> None:
    """T6."""
    event = written(ConnectionBegan("server", "", "x", limits=Limits()))
    newer = {**(event.data or {}), "limits": {"max_streams": 7, "from_the_future": 1}, "and_this": 2}
    assert beginning_of(evolve(event, data=newer)).limits == Limits(max_streams=7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "Teleported"}, r"event 1 \(Teleported to connection\) cannot be replayed: .* knows no such message"),
        ({"data": None}, r"event 1 \(BytesArrived to connection\) has no data: capture again, for a replay"),
        ({"data": {"bytes": "?"}}, r"the data of event 1 .* is damaged: "),
        ({"data": {}}, r'is damaged: "bytes" must be a string'),
        ({"type": "SendHead", "data": {"stream": 1, "head": [1]}}, "is damaged: "),
        ({"type": "SendHead", "data": {"stream": 1, "head": "x"}}, '"head" must be a list of pairs'),
        ({"type": "SendHead", "data": {"stream": 1, "head": [[1, 2]]}}, "is damaged: "),
        ({"type": "SendHead", "data": {"stream": 1, "head": [["\u20ac", ""]]}}, "is damaged: "),
        ({"type": "Halt", "data": {"cause": {"type": "Closed", "text": "", "outcome": "?"}}}, "is damaged: "),
        ({"type": "Halt", "data": {"cause": {"type": "a\0b", "text": ""}}}, "is damaged: "),
        ({"type": "ChangeLimits", "data": {"limits": {"max_streams": -1}}}, "Limits.max_streams must be"),
        ({"type": "Halt", "data": {"cause": {"type": "KeyError", "text": ""}}}, "must be an error of muxlink"),
    ],
)
def test_what_cannot_be_replayed_is_one_clear_line(change: dict[str, Any], said: str) -> None:
    """T6."""
    with pytest.raises(Misuse, match=said):
        message_of(evolve(written(BytesArrived(b"")), **change), Stage())


def test_what_a_connection_notes_itself_is_no_input() -> None:
    """T6."""
    assert is_input(written(BytesArrived(b"")))
    assert not is_input(written(ConnectionBegan("server", "", "x")))
    assert not is_input(evolve(written(BytesArrived(b"")), dead=True))
