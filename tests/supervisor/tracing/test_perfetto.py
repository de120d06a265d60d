"""What ui.perfetto.dev gets: the Trace Event Format, by the word of a checker that knows only its document (T5)."""

from __future__ import annotations

import copy
import io
import json
from typing import cast

import pytest
from hypothesis import given, settings

from supervisor.tracing import perfetto
from supervisor.tracing.records import Event, Head, Record, Trace
from tests.supervisor.tracing.samples import ACCEPTED, DIALLED, LINK, REQUEST, WALL, conversation, many
from tests.supervisor.tracing.strategies import traces
from tests.supervisor.tracing.trace_event_format import complaints

Drawn = dict[str, object]


def drawn(trace: Trace) -> list[Drawn]:
    """The trace events of the file."""
    file = io.StringIO()
    perfetto.write(trace, file)
    document = json.loads(file.getvalue())
    assert complaints(document) == []
    return cast(list[Drawn], document["traceEvents"])


def one(events: list[Drawn], **wanted: object) -> Drawn:
    (found,) = [event for event in events if wanted.items() <= event.items()]
    return found


def threads(events: list[Drawn], pid: int) -> dict[object, object]:
    """The tid of each name of a process."""
    said = [event for event in events if event["name"] == "thread_name" and event["pid"] == pid]
    return {cast(Drawn, event["args"])["name"]: event["tid"] for event in said}


def told(id_: int, time: float, taken: float | None, sender: str, receiver: str, *, cause: int = 0) -> Event:
    return Event(
        process="p", id=id_, time=time, taken=taken, sender=sender, receiver=receiver, type=f"M{id_}", cause=cause
    )


def of(*events: Event) -> Trace:
    return Trace.of([Head(process="p", pid=7, monotonic=0.0, wall=WALL), *events])


def test_a_conversation_is_well_formed() -> None:
    """T5."""
    phases = {event["ph"] for event in drawn(conversation())}
    assert phases == {"M", "X", "i", "s", "f", "b", "e"}


@settings(deadline=None)
@given(traces)
def test_any_trace_is_well_formed(trace: Trace) -> None:
    """T5."""
    drawn(trace)


@pytest.mark.parametrize("trace", [Trace(), of()], ids=["no process", "no event"])
def test_a_trace_of_nothing_is_well_formed(trace: Trace) -> None:
    """T5."""
    assert [event for event in drawn(trace) if event["ph"] != "M"] == []


def test_each_process_has_its_pid_and_each_actor_a_thread_parents_first() -> None:
    """T5."""
    events = drawn(conversation())
    assert one(events, name="process_name", pid=4711)["args"] == {"name": "client"}
    assert one(events, name="process_name", pid=4712)["args"] == {"name": "server"}
    client, server = threads(events, 4711), threads(events, 4712)
    assert list(client) == ["caller", "timer", "socket", LINK, DIALLED, REQUEST, "link-1/request-4"]
    assert list(server)[-4:] == ["server-1", ACCEPTED, f"{ACCEPTED}/stream-1", f"{ACCEPTED}/stream-3"]
    orders = [one(events, name="thread_sort_index", pid=4711, tid=tid)["args"] for tid in client.values()]
    assert orders == [{"sort_index": index} for index in range(len(client))]
    assert not set(client.values()) & set(server.values())


def test_children_are_in_the_order_of_their_numbers() -> None:
    """T5."""
    names = [told(1, 0.0, 0.0, "a/x-10", "a/x-9"), told(2, 0.0, 0.0, "a/x-9/y-1", "a")]
    assert list(threads(drawn(of(*names)), 7)) == ["a", "a/x-9", "a/x-9/y-1", "a/x-10"]


def test_two_processes_of_one_pid_stay_apart() -> None:
    """T5: on two hosts they may have the same."""
    trace = Trace.of(Head(process=name, pid=1, monotonic=0.0, wall=0.0) for name in ("one", "other"))
    assert {event["pid"] for event in drawn(trace)} == {1, 2}


def test_a_message_is_a_slice_from_where_it_was_taken_to_the_last_that_it_led_to() -> None:
    """T5."""
    events = drawn(
        of(
            told(1, 0.0, 0.001, "caller", "a"),
            told(2, 0.002, 0.010, "a", "b", cause=1),
            told(3, 0.005, 0.011, "a", "b", cause=1),
        )
    )
    handled = one(events, name="M1", ph="X")
    assert (handled["ts"], handled["dur"]) == (1000.0, 4000.0)
    assert one(events, name="M3", ph="X")["dur"] == 1.0  # led to nothing: the shortest


def test_an_arrow_leads_from_where_a_message_was_told_to_where_it_was_taken() -> None:
    """T5."""
    events = drawn(of(told(1, 0.0, 0.001, "caller", "a"), told(2, 0.002, 0.010, "a", "b", cause=1)))
    tids = threads(events, 7)
    starts = [(event["tid"], event["ts"]) for event in events if event["ph"] == "s"]
    ends = [(event["tid"], event["ts"]) for event in events if event["ph"] == "f"]
    assert starts == [(tids["caller"], 0.0), (tids["a"], pytest.approx(2000.0, abs=0.002))]
    assert ends == [(tids["a"], 1000.0), (tids["b"], 10_000.0)]


def test_who_tells_outside_of_its_turn_has_a_slice_for_that() -> None:
    """T5: an edge has no turns, and a handler tells long after it took what it tells about."""
    events = drawn(
        of(
            told(1, 0.0, 0.001, "socket", "a"),
            told(2, 0.002, 0.003, "socket", "a"),
            told(3, 0.004, 0.005, "a", "b", cause=1),  # while 2 is the newest that a took
        )
    )
    tids = threads(events, 7)
    assert one(events, name="tell M1", ph="X")["tid"] == tids["socket"]
    assert one(events, name="tell M3", ph="X", tid=tids["a"])["ts"] == 4000.0
    assert one(events, name="M1", ph="X")["dur"] == 1.0


def test_a_slice_ends_where_the_next_one_of_its_thread_begins() -> None:
    """T5: though its message led to more after that."""
    events = drawn(
        of(
            told(1, 0.0, 0.001, "socket", "a"),
            told(2, 0.005, 0.006, "a", "b"),  # by a task of the actor, with a cause of its own
            told(3, 0.0050005, 0.007, "a", "b", cause=1),
        )
    )
    turn, telling = one(events, name="M1", ph="X"), one(events, name="tell M2")
    assert cast(float, turn["ts"]) + cast(float, turn["dur"]) == telling["ts"] == 5000.0


def test_what_an_actor_takes_in_one_moment_lies_side_by_side() -> None:
    """T5: slices of a thread must not overlap in part."""
    events = drawn(of(*(told(number, 0.0, 0.001, "caller", "a") for number in (1, 2, 3))))
    assert [one(events, name=f"M{number}", ph="X")["ts"] for number in (1, 2, 3)] == [1000.0, 1001.0, 1002.0]


def test_a_dead_letter_is_named_one_and_what_waits_is_an_instant() -> None:
    """T5."""
    events = drawn(conversation())
    dead = one(events, name="RoomMade (dead)")
    assert dead["cat"] == "message,dead"
    assert dead["ph"] == "X"
    waiting = one(events, name="Halt (not taken)")
    assert (waiting["ph"], waiting["tid"]) == ("i", threads(events, 4711)[DIALLED])


def test_a_stream_spans_its_events_at_both_ends() -> None:
    """T5."""
    events = drawn(conversation())
    for pid, connection in ((4711, DIALLED), (4712, ACCEPTED)):
        begin = one(events, ph="b", name=f"{connection} stream 3", pid=pid)
        end = one(events, ph="e", name=f"{connection} stream 3", pid=pid)
        assert begin["tid"] == threads(events, pid)[connection]
        assert cast(float, end["ts"]) - cast(float, begin["ts"]) == pytest.approx(10_500, rel=0.1)


def test_processes_are_aligned_by_wall_clock() -> None:
    """T5: their own clocks are far apart, what one sends arrives at the other 180 us later."""
    events = drawn(conversation())
    sent = one(events, name="FramesSent", ph="X", pid=4711, ts=10_200.0)
    came = one(events, name="tell BytesArrived", ph="X", pid=4712, ts=pytest.approx(10_380.0, abs=1.0))
    assert cast(Drawn, sent["args"])["frames"] == ["HEADERS 1 22 END_STREAM END_HEADERS"]
    assert cast(Drawn, came["args"])["text"] == "31 bytes"


def test_a_slice_says_what_its_message_said() -> None:
    """T5."""
    args = cast(Drawn, one(drawn(conversation()), name="SendData", pid=4712)["args"])
    assert args["text"] == "stream 1: 12 bytes"
    assert args["stream"] == 1
    assert args["from"] == f"{ACCEPTED}/stream-1"


def test_a_huge_trace_is_written_as_it_is_made() -> None:
    """T5: in pieces of one trace event, never as one text."""
    sizes: list[int] = []

    class Counted(io.StringIO):
        def write(self, text: str, /) -> int:
            sizes.append(len(text))
            return super().write(text)

    file = Counted()
    perfetto.write(many(2000), file)
    assert sum(sizes) > 800_000
    assert max(sizes) < 1000


BROKEN: dict[str, tuple[Drawn, Drawn]] = {
    "no ts": ({"ph": "X"}, {"ts": None}),
    "negative dur": ({"ph": "X"}, {"dur": -1.0}),
    "a slice that overlaps": ({"ph": "X", "name": "ConnectionBegan"}, {"dur": 820.5}),
    "an arrow without its end": ({"ph": "f"}, {"id": 999_999}),
    "an arrow from nowhere": ({"ph": "s"}, {"ts": 3e9}),
    "an arrow to an idle thread": ({"ph": "f"}, {"ts": 4_444_444.0}),
    "an arrow to another thread": ({"ph": "f"}, {"tid": 999}),
    "a span without its end": ({"ph": "e"}, {"id2": {"local": "0xfff"}}),
    "a span without id": ({"ph": "b"}, {"id2": None}),
    "an id2 of no scope": ({"ph": "b"}, {"id2": {"shared": "1"}}),
    "a thread without name": ({"name": "thread_name"}, {"name": "thread_sort_index", "args": {"sort_index": 1}}),
    "metadata of another shape": ({"name": "process_name"}, {"args": {"title": "x"}}),
    "unknown metadata": ({"name": "process_name"}, {"name": "process_title"}),
    "an unknown phase": ({"ph": "i"}, {"ph": "?"}),
    "an instant of no scope": ({"ph": "i"}, {"s": "x"}),
    "a name that is none": ({"ph": "X"}, {"name": 5}),
    "a pid that is text": ({"ph": "X"}, {"pid": "4711"}),
    "another binding point": ({"ph": "f"}, {"bp": "n"}),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_checker_finds_what_is_broken(broken: str) -> None:
    """T5: a checker that says yes to all would prove nothing."""
    wanted, change = BROKEN[broken]
    events = copy.deepcopy(drawn(conversation()))
    victim = next(event for event in events if wanted.items() <= event.items())
    victim.update(change)
    for key in [key for key, value in change.items() if value is None]:
        del victim[key]
    assert complaints({"traceEvents": events}) != []


def test_the_checker_wants_a_list_of_events() -> None:
    """T5."""
    records: list[Record] = []
    assert complaints({"traceEvents": records}) == []
    assert complaints({"events": records}) == ["there is no list of trace events"]
    assert complaints({"traceEvents": [], "displayTimeUnit": "s"}) == ["displayTimeUnit is 's'"]
