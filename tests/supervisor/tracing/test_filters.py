"""Which events a filter chooses, and how a command line says it."""

from __future__ import annotations

import argparse
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import Misuse
from supervisor.tracing import filters
from supervisor.tracing.filters import Filter
from supervisor.tracing.records import Event, Trace
from tests.supervisor.tracing.samples import ACCEPTED, DIALLED, WALL, conversation
from tests.supervisor.tracing.strategies import events, traces


def chosen(filter: Filter) -> list[Event]:
    return list(conversation().filter(filter).events)


@settings(deadline=None)
@given(events)
def test_an_empty_filter_chooses_all(event: Event) -> None:
    """T5."""
    assert Filter().matches(event)


@settings(deadline=None)
@given(traces)
def test_filtering_keeps_order_and_all_that_is_no_event(trace: Trace) -> None:
    """T5."""
    found = trace.filter(Filter(stream=1))
    assert found.events == tuple(event for event in trace.events if event.stream == 1)
    assert (found.heads, found.conversations, found.ends) == (trace.heads, trace.conversations, trace.ends)


@pytest.mark.parametrize(
    ("actor", "of"),
    [
        (ACCEPTED, {ACCEPTED, f"{ACCEPTED}/stream-1", f"{ACCEPTED}/stream-3"}),
        (f"{ACCEPTED}/", set()),
        ("server-1", {"server-1", ACCEPTED, f"{ACCEPTED}/stream-1", f"{ACCEPTED}/stream-3"}),
        ("server-?", {"server-1", ACCEPTED, f"{ACCEPTED}/stream-1", f"{ACCEPTED}/stream-3"}),
        ("server-1/*", {ACCEPTED, f"{ACCEPTED}/stream-1", f"{ACCEPTED}/stream-3"}),
        ("*/stream-3", {f"{ACCEPTED}/stream-3"}),
        ("link-1/connection", set()),
        ("timer", {"timer"}),
    ],
)
def test_an_actor_is_a_name_or_glob_with_all_below_it_as_sender_or_receiver(actor: str, of: set[str]) -> None:
    """T5."""
    wanted = [event for event in conversation().events if {event.sender, event.receiver} & of]
    assert chosen(Filter(actor=actor)) == wanted


def test_types_are_a_list_of_globs() -> None:
    """T5."""
    assert {event.type for event in chosen(Filter(type="DataArrived, Frames*"))} == {
        "DataArrived",
        "FramesArrived",
        "FramesSent",
    }
    assert chosen(Filter(type="dataarrived")) == []


def test_streams_and_dead_letters() -> None:
    """T5."""
    assert {event.stream for event in chosen(Filter(stream=3))} == {3}
    assert [event.type for event in chosen(Filter(dead=True))] == ["RoomMade"]
    assert len(chosen(Filter(dead=False))) == len(conversation().events) - 1


def test_all_that_is_said_must_hold() -> None:
    """T5."""
    assert [event.type for event in chosen(Filter(actor=DIALLED, stream=3, type="*Arrived,Opened"))] == ["Opened"]


def test_times_are_relative_to_the_end_or_of_the_wall_clock() -> None:
    """T5: of both processes, whose own clocks differ."""
    last = chosen(Filter(since=-0.9))
    assert {event.process for event in last} == {"client", "server"}
    assert last[0].type == "Drain"
    assert chosen(Filter(since=WALL + 5.9)) == last
    early = chosen(Filter(until=WALL + 5.9))
    assert [*early, *last] == list(conversation().events)
    assert chosen(Filter(since=-0.9, until=-0.8)) == []


def test_a_command_line_says_a_filter() -> None:
    """T5."""
    assert filters.parse("--actor 'server-1/*' --stream 5 --type DataArrived --last 30") == Filter(
        actor="server-1/*", stream=5, type="DataArrived", since=-30.0
    )
    assert filters.parse("--no-dead --since -30 --until -1.5") == Filter(dead=False, since=-30.0, until=-1.5)
    assert filters.parse("--since 2026-11-21T14:30:00") == Filter(since=datetime(2026, 11, 21, 14, 30).timestamp())
    assert filters.parse("--since 2026-11-21T14:30:00+00:00 --dead") == Filter(since=1795271400.0, dead=True)
    assert filters.parse("") == Filter()


def test_a_command_has_the_same_options() -> None:
    """T5."""
    parser = argparse.ArgumentParser()
    filters.add_arguments(parser)
    assert filters.of(parser.parse_args(["--actor", "link-1", "--last", "0.5"])) == Filter(actor="link-1", since=-0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("--last soon", "'soon' is no number of seconds"),
        ("--last -1", "no number of seconds|expected one argument"),
        ("--last nan", "'nan' is no number of seconds"),
        ("--since tomorrow", "'tomorrow' is no time: say 2026-11-21T14:30:00"),
        ("--since inf", "'inf' is no time"),
        ("--stream one", "'one' is no stream's id"),
        ("--stream -1", "no stream's id|expected one argument"),
        ("--last 5 --since -5", "not allowed with"),
        ("--actr x", "unrecognized arguments: --actr"),
        ("--actor 'x", "No closing quotation"),
    ],
)
def test_a_text_that_says_none_is_refused(text: str, complaint: str) -> None:
    """T5."""
    with pytest.raises(Misuse, match=complaint):
        filters.parse(text)


@given(st.text())
def test_no_other_error_comes_out_of_a_text(text: str) -> None:
    """T5."""
    try:
        found = filters.parse(text)
    except Misuse:
        return
    assert isinstance(found, Filter)


@pytest.mark.parametrize("place", ["{process}/{actor}", "{process}", "{process}/*/connection-1"])
def test_an_actor_may_be_named_with_its_process(place: str) -> None:
    """As ``muxlink tree`` has it: actors of several processes may have one name."""
    events = conversation().events
    process = next(event.process for event in events if ACCEPTED in (event.sender, event.receiver))
    asked = place.format(process=process, actor=ACCEPTED)
    found = chosen(Filter(actor=asked))
    assert {ACCEPTED} <= {name for event in found for name in (event.sender, event.receiver)}
    assert {event.process for event in found} == {process}
    assert chosen(Filter(actor=f"another/{ACCEPTED}")) == []
