"""Which connection of one trace is which of another, in talks that never were."""

from __future__ import annotations

import pytest
from attrs import evolve

from actors.errors import Misuse
from supervisor.tracing.merge import merge
from supervisor.tracing.records import Event, Trace
from tests.supervisor.tracing.talks import DATA, ROUNDING, SETTINGS, Talk, assert_order, chatter, frame


def test_clocks_that_drift_are_laid_beside_each_other_in_pieces() -> None:
    """T8."""
    talk = Talk(lambda at: 5.0 + at * 5e-5)
    chatter(talk, range(0, 2000, 10))
    merged = merge(*talk.traces())
    assert any("has gained 9" in line and " ms on that of near" in line for line in merged.warnings)
    (_, head) = merged.heads
    assert head.offset == pytest.approx(5.05, abs=0.002)
    assert head.uncertainty is not None
    assert head.uncertainty < 0.005
    assert_order(merged, head.uncertainty)
    true = {event.id: time for event, time in zip(talk.traces()[1].events, sorted(_true_times(talk)), strict=True)}
    for event in merged.events:
        if event.process == "far":
            assert abs(event.time - true[event.id]) <= head.uncertainty + ROUNDING


def _true_times(talk: Talk) -> list[float]:
    """Of what happened at the far end, whose clock ran by 50 millionths too fast."""
    return [(event.time - 5.0) / (1 + 5e-5) for event in talk.events["far"]]


def test_a_clock_that_was_set_in_between_is_noticed() -> None:
    """T8: a host slept, and its monotonic clock with it."""
    talk = Talk(lambda at: 5.0 if at < 500 else -3.0)
    chatter(talk, range(0, 1000, 10))
    with pytest.raises(
        Misuse, match=r"202 equal frames, some of which would have arrived 3\.9\d+ s before they were sent"
    ):
        merge(*talk.traces())
    talk.connect("c")
    merged = merge(*talk.traces())
    assert any("has lost 8.0" in line and "in 2 pieces" in line for line in merged.warnings)
    assert_order(merged, 0.001)
    assert [event.id for event in merged.events if event.process == "near"] == list(range(1, 203))


def test_a_connection_that_disagrees_about_the_clocks_is_named() -> None:
    """T8."""
    good, bad = Talk(lambda at: 5.0), Talk(lambda at: 6.0)
    for talk, name, local in ((good, "c", "10.0.0.1:50000"), (bad, "d", "10.0.0.1:50001")):
        talk.connect(name, local)
    chatter(good, range(20))
    chatter(bad, range(5), name="d")
    joined = [
        Trace.of([*one.records(), *other.conversations, *(evolve(event, id=event.id + 1000) for event in other.events)])
        for one, other in zip(good.traces(), bad.traces(), strict=True)
    ]
    merged = merge(*joined)
    (line,) = [line for line in merged.warnings if "disagrees" in line]
    assert line == (
        "connection d of far disagrees about the clocks: by its frames they are 6.000000 s apart,"
        " by those of c 5.000000 s, 1.000000 s less or more"
    )
    assert merged.heads[1].offset == pytest.approx(5.0, abs=0.001)


def test_frames_that_went_one_way_only_leave_the_offset_in_doubt() -> None:
    """T8."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    for number in range(10):
        talk.say("near", number, 0.25, [frame(DATA, 1, number)])
    merged = merge(*talk.traces())
    assert merged.heads[1].offset == pytest.approx(5.25)
    assert merged.heads[1].uncertainty is None
    assert "at best: frames went one way only" in merged.warnings[0]


def test_where_no_frame_is_known_at_both_ends_the_walls_clocks_must_do() -> None:
    """T8: one remembers the beginning, the other the end."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    chatter(talk, range(20))
    first, second = talk.traces((0, 30))
    first = Trace.of([*first.heads, *first.conversations, *first.events[:10]])
    merged = merge(first, second)
    assert [each.remote for each in merged.conversations] == [("far", "c"), ("near", "c")]
    assert merged.heads[1].offset is None
    assert "by the clocks on the wall" in merged.warnings[-1]


def test_an_address_that_is_used_again_is_told_apart_by_frames() -> None:
    """T8."""
    talk = Talk(lambda at: 5.0)
    for name, start in (("c", 0), ("d", 100)):
        talk.connect(name)
        chatter(talk, range(start, start + 10), name=name, length=start)
    merged = merge(*talk.traces())
    assert {each.name: each.remote for each in merged.conversations if each.process == "near"} == {
        "c": ("far", "c"),
        "d": ("far", "d"),
    }


def test_what_frames_cannot_tell_apart_the_clocks_may() -> None:
    """T8: another connection has said how they differ."""
    talk = Talk(lambda at: 5.0)
    talk.connect("known")
    chatter(talk, range(10), name="known", length=1000)
    for name, start in (("c", 20), ("d", 40)):
        chatter(talk, range(start, start + 5), name=name)
    merged = merge(*talk.traces())
    found = {each.name: each.remote for each in merged.conversations if each.process == "near"}
    assert found == {name: ("far", name) for name in ("known", "c", "d")}


def test_what_cannot_be_told_apart_is_said_and_not_guessed() -> None:
    """T8."""
    talk = Talk(lambda at: 5.0)
    for name, start in (("c", 20), ("d", 40)):
        chatter(talk, range(start, start + 5), name=name)
    with pytest.raises(Misuse) as refused:
        merge(*talk.traces())
    assert str(refused.value) == (
        "the first trace and the second trace have connections that cannot be told apart:"
        " c of near fits c of far and d of far: it is left alone"
    )
    talk.connect("known")
    chatter(talk, range(10), name="known", length=1000)
    chatter(talk, range(40, 45), name="e")
    merged = merge(*talk.traces())
    assert {each.name for each in merged.conversations if each.remote} == {"known", "c"}
    assert "d of near fits d of far and e of far: it is left alone" in merged.warnings


def test_frames_that_contradict_each_other_are_named() -> None:
    """T8."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    chatter(talk, range(10))
    first, second = talk.traces()
    changed = [
        evolve(event, frames=(frame(DATA, 1, 999),)) if (event.type, event.first) == ("FramesArrived", 4) else event
        for event in second.events
    ]
    with pytest.raises(Misuse) as refused:
        merge(first, Trace.of([*second.heads, *second.conversations, *changed]))
    assert str(refused.value) == (
        "the first trace and the second trace do not belong together:"
        " frame 4 that c of near sent is DATA 1 12, and that which arrived at c of far is DATA 1 999"
    )


def test_frames_that_nobody_counted_are_said_to_be_useless() -> None:
    """T8: they went out after others that nobody saw."""
    talk = Talk(lambda at: 5.0)
    chatter(talk, range(10))
    first, second = talk.traces()
    uncounted = [evolve(event, first=None) if event.type == "FramesSent" else event for event in second.events]
    with pytest.raises(Misuse, match="nobody counted the frames of c, which went out unseen at times"):
        merge(first, Trace.of([*second.heads, *uncounted]))


def test_what_is_called_alike_gets_its_pid_or_its_place() -> None:
    """T8: where sides do not tell."""
    talk = Talk(lambda at: 5.0)
    chatter(talk, range(10))
    first, second = (_called(trace, "muxlink", pid) for trace, pid in zip(talk.traces(), (3, 4), strict=True))
    assert [head.process for head in merge(first, second).heads] == ["muxlink@3", "muxlink@4"]
    second = _called(second, "muxlink", 3)
    assert [head.process for head in merge(first, second).heads] == ["muxlink@first", "muxlink@second"]


def _called(trace: Trace, name: str, pid: int) -> Trace:
    heads = [evolve(head, process=name, pid=pid) for head in trace.heads]
    conversations = [evolve(each, process=name) for each in trace.conversations]
    return Trace.of([*heads, *conversations, *(evolve(each, process=name) for each in trace.events)])


def test_settings_alone_do_where_there_is_nothing_else() -> None:
    """T8: a connection that has just begun."""
    talk = Talk(lambda at: 5.0)
    talk.say("near", 0.0, 0.1, [frame(SETTINGS, length=24)])
    talk.say("far", 0.0, 0.1, [frame(SETTINGS, length=30)])
    assert merge(*talk.traces()).heads[1].offset == pytest.approx(5.0)
    only = Talk(lambda at: 5.0)
    only.say("near", 0.0, 0.1, [frame(DATA, length=24)])
    only.say("far", 0.0, 0.1, [frame(DATA, length=30)])
    with pytest.raises(Misuse, match="no connection in common: in the first trace: c; in the second trace: c"):
        merge(*only.traces())


def test_an_address_whose_other_connection_is_forgotten_is_of_the_one_that_is_known() -> None:
    """T8: of two with the same addresses, frames of one are known at both ends."""
    talk = Talk(lambda at: 5.0)
    for name, start in (("old", 0), ("new", 100)):
        talk.connect(name)
        chatter(talk, range(start, start + 10), name=name)
    first, second = talk.traces()
    early = [event for event in first.events if event.connection == "new" or (event.first or 0) <= 3]
    late = [event for event in second.events if event.connection == "old" or (event.first or 0) > 5]
    known = [event for event in early if event.connection == "old"]
    merged = merge(
        Trace.of([*first.heads, *(each for each in first.conversations if each.name == "old"), *known]),
        Trace.of([*second.heads, *second.conversations, *late]),
    )
    assert {(each.process, each.name): each.remote for each in merged.conversations} == {
        ("near", "old"): ("far", "old"),
        ("far", "old"): ("near", "old"),
        ("far", "new"): None,
    }


def test_a_process_of_the_same_host_is_moved_along() -> None:
    """T8: one that has no connection to the first, but a wall clock that is as wrong."""
    talk = Talk(lambda at: 5.0, wall=3600.0)
    talk.connect("c")
    chatter(talk, range(10))
    first, second = talk.traces()
    other = evolve(second.heads[0], process="other", pid=2, monotonic=0.0)
    event = evolve(second.events[0], process="other", time=7.0, taken=7.0, frames=None, first=None, type="TimePassed")
    merged = merge(first, Trace.of([*second.records(), other, event]))
    (moved,) = [event for event in merged.events if event.process == "other"]
    assert merged.wall(moved) == pytest.approx(1.7e9 + 7.0)
    assert [line for line in merged.warnings if "by the clocks on the wall" in line] == [
        "no frames tell how the clock of other differs from that of near:"
        " they are laid beside each other by the clocks on the wall"
    ]


def test_a_chain_follows_the_frame_of_its_own_stream_where_several_arrived_together() -> None:
    """T8."""
    said = Event(process="near", id=1, time=1.0, taken=1.0, sender="caller", receiver="c", type="OpenStream", stream=1)
    sent = Event(
        process="near", id=2, time=1.1, sender="c", receiver="socket", type="FramesSent", cause=1,
        frames=(frame(DATA, 1),),
    )  # fmt: skip
    later = evolve(said, id=3, time=1.2, taken=1.2, stream=3), evolve(sent, id=4, cause=3, frames=(frame(DATA, 3),))
    arrived = Event(
        process="far", id=1, time=2.0, sender="socket", receiver="c", type="FramesArrived",
        frames=(frame(DATA, 1), frame(DATA, 3)), remote=(("near", 2), ("near", 4)),
    )  # fmt: skip
    heard = [
        Event(process="far", id=id, time=2.1, sender="c", receiver="c/s", type="DataArrived", cause=1, stream=stream)
        for id, stream in ((2, 1), (3, 3))
    ]
    trace = Trace.of([said, sent, *later, arrived, *heard])
    assert [[event.id for event in trace.chain(each)] for each in heard] == [[2, 1, 2, 1], [3, 1, 4, 3]]
