"""Records, and what a trace makes of them."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given, settings

from supervisor.tracing.records import End, Event, Frame, Head, Trace
from tests.supervisor.tracing.samples import ACCEPTED, WALL, conversation, many
from tests.supervisor.tracing.strategies import frames, traces


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("000400 00 01 00000005", "DATA 5 1024 END_STREAM"),
        ("000016 01 25 00000001", "HEADERS 1 22 END_STREAM END_HEADERS PRIORITY"),
        ("000000 04 01 00000000", "SETTINGS 0 0 ACK"),
        ("000008 06 00 00000000", "PING 0 8"),
        ("000004 03 00 80000003", "RST_STREAM 3 4"),
        ("000001 ee 03 00000000", "0xee 0 1 0x3"),
        ("000000 00 42 00000001", "DATA 1 0 0x42"),
    ],
)
def test_a_frame_is_read_from_its_header_and_says_what_it_is(header: str, text: str) -> None:
    """T5: RFC 9113, 4.1; the reserved bit is no part of the stream."""
    assert Frame.parse(bytes.fromhex(header)).text == text


@given(frames)
def test_any_frame_comes_back_from_its_header(frame: Frame) -> None:
    """T8."""
    header = frame.length.to_bytes(3) + bytes([frame.kind, frame.flags]) + frame.stream.to_bytes(4)
    assert Frame.parse(header) == frame


@settings(deadline=None)
@given(traces)
def test_events_are_in_the_order_of_wall_time_then_process_and_id(trace: Trace) -> None:
    """T5."""
    order = [(trace.wall(event), event.process, event.id) for event in trace.events]
    assert order == sorted(order)
    assert Trace.of(reversed(list(trace.records()))).events == trace.events


def test_the_clocks_of_processes_are_laid_over_each_other() -> None:
    """T5."""
    trace = conversation()
    walls = [trace.wall(event) for event in trace.events]
    assert walls[0] == pytest.approx(WALL)
    assert walls[-1] == pytest.approx(WALL + 6.0005)
    (request,) = [event for event in trace.events if event.text == "31 bytes"]
    assert request.taken is not None
    assert trace.wall(request, request.taken) == pytest.approx(WALL + 0.01042, abs=1e-6)


def test_a_chain_leads_from_an_answer_to_the_bytes_that_began_it() -> None:
    """T2."""
    trace = conversation()
    (answer,) = [event for event in trace.events if event.type == "SendHead"]
    assert [event.type for event in trace.chain(answer)] == [
        "SendHead",
        "HeadersArrived",
        "FramesArrived",
        "BytesArrived",
    ]
    assert {event.process for event in trace.chain(answer)} == {"server"}


def test_a_chain_ends_where_the_trace_does_not_know_the_cause() -> None:
    """T2."""
    trace = many(10)
    orphan = evolve(trace.events[-1], cause=4711)
    assert trace.chain(orphan) == [orphan]


def test_a_chain_that_leads_in_a_circle_is_left() -> None:
    """T2: a trace may have been edited."""
    event = Event(process="p", id=1, time=0.0, sender="a", receiver="b", type="M", cause=1)
    assert Trace.of([event]).chain(event) == [event]
    pair = [evolve(event, id=1, cause=2), evolve(event, id=2, cause=1)]
    assert [found.id for found in Trace.of(pair).chain(pair[1])] == [2, 1]


def test_processes_of_one_name_are_doubted() -> None:
    """T5."""
    head = Head(process="p", pid=1, monotonic=0.0, wall=WALL)
    assert Trace.of([head, evolve(head, wall=WALL + 1.0)]).warnings == ()
    (warning,) = Trace.of([head, evolve(head, pid=2)]).warnings
    assert warning == "two processes are called 'p' (pids 1 and 2): their events cannot be told apart"


def test_events_without_a_head_are_doubted() -> None:
    """T5."""
    event = Event(process="p", id=1, time=0.0, sender="a", receiver="b", type="M")
    (warning,) = Trace.of([event, evolve(event, id=2)]).warnings
    assert warning.startswith("process 'p' has events and no head")


def test_a_connection_that_is_said_twice_is_one() -> None:
    """T5: in files that were joined."""
    trace = conversation()
    joined = Trace.of([*trace.records(), *trace.heads, *trace.conversations])
    assert joined.conversations == trace.conversations


def test_everything_that_a_trace_is_made_of_comes_out_of_it() -> None:
    """T5."""
    trace = conversation()
    assert Trace.of(trace.records()) == trace
    assert [end.reason for end in trace.ends] == ["asked", "asked"]
    assert End(process="server", reason="asked", events=31) in trace.ends
    assert ACCEPTED in {conversation.name for conversation in trace.conversations}


def test_of_traces_that_were_joined_each_event_is_there_once_as_the_one_that_was_taken() -> None:
    """Two dumps of one process, the one behind the other."""
    first = conversation()
    waited = evolve(first, events=tuple(evolve(event, taken=None) for event in first.events))
    joined = Trace.of([*waited.records(), *first.records()])
    assert joined.events == first.events
    assert joined.warnings == ()


def test_events_of_two_processes_that_share_a_name_are_all_kept() -> None:
    first = conversation()
    heads = [evolve(head, pid=head.pid + 1) for head in first.heads]
    joined = Trace.of([*first.records(), *heads, *first.events])
    assert len(joined.events) == 2 * len(first.events)
    assert len(joined.warnings) == len(heads)


def test_what_a_head_warns_of_is_a_warning_of_the_trace() -> None:
    first = conversation()
    heads = [evolve(head, warnings=("clocks differ", "clocks differ")) for head in first.heads]
    assert Trace.of([*heads, *first.events], ["it was cut"]).warnings == ("it was cut", "clocks differ")
