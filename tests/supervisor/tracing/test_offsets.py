"""What frames say of two clocks, over talks whose every delay is known."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from supervisor.tracing.merge import merge
from supervisor.tracing.offsets import Bound, Interval, estimate, least_round_trip
from tests.supervisor.tracing.talks import DATA, PING, ROUNDING, SETTINGS, Talk, assert_order, frame

KINDS = st.sampled_from((DATA, PING))
DELAYS = st.one_of(st.floats(0, 0.0005), st.floats(0, 2.0))


@frozen
class Said:
    by_far: bool
    after: float
    delay: float
    kind: int
    frames: int


sayings = st.lists(
    st.builds(Said, st.booleans(), st.floats(0, 3.0), DELAYS, KINDS, st.integers(1, 3)), min_size=1, max_size=30
)


def talked(talk: Talk, said: list[Said]) -> None:
    talk.connect("c")
    talk.say("near", 0.0, 0.01, [frame(SETTINGS)])
    talk.say("far", 0.0, 0.01, [frame(SETTINGS)])
    now = 0.0
    for number, each in enumerate(said):
        now += each.after
        some = [frame(each.kind, number, each.frames)] * each.frames
        talk.say("far" if each.by_far else "near", now, each.delay, some)


def true_times(talk: Talk, ahead: float, drift: float) -> list[float]:
    """Of what happened at the far end, in the order of its ids."""
    return sorted((event.time - ahead) / (1 + drift) for event in talk.events["far"])


@settings(deadline=None)
@given(sayings, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(0, 8), st.integers(0, 8))
def test_the_offset_is_within_its_uncertainty_and_nothing_arrives_before_it_was_sent(
    said: list[Said], ahead: float, wall: float, near_forgot: int, far_forgot: int
) -> None:
    """T8: whatever the delays are, and whatever the rings have forgotten."""
    talk = Talk(lambda at: ahead, wall)
    talked(talk, said)
    first, second = talk.traces((near_forgot, far_forgot))
    assume(first.events)
    assume(second.events)
    merged = merge(first, second)
    (head,) = (head for head in merged.heads if head.process == "far")
    if head.uncertainty is None:  # no frames that both ends know in both directions
        return
    assert head.offset is not None
    assert abs(head.offset - ahead) <= head.uncertainty + ROUNDING
    assert_order(merged, head.uncertainty)
    # The clocks on the wall say nothing that counts.
    assert merged.wall(merged.events[0]) == pytest.approx(1.7e9 + merged.events[0].time)


@settings(deadline=None)
@given(sayings, st.floats(-1e3, 1e3), st.floats(-1e-4, 1e-4))
def test_with_clocks_that_drift_times_are_within_the_uncertainty(said: list[Said], ahead: float, drift: float) -> None:
    """T8: and events stay in the order in which they were."""
    talk = Talk(lambda at: ahead + at * drift)
    talked(talk, said)
    merged = merge(*talk.traces())
    head = merged.heads[1]
    assert head.uncertainty is not None
    assert_order(merged, head.uncertainty)
    far = sorted((event for event in merged.events if event.process == "far"), key=lambda event: event.id)
    assert [event.time for event in far] == sorted(event.time for event in far)


def test_a_frame_each_way_leaves_half_their_round_trip() -> None:
    """T8: RFC 5905, 8: sent at 10, arrived at 110.3, answered at 110.4, and the answer arrived at 10.8."""
    clock = estimate([Bound(110.3, 100.3, True), Bound(110.4, 99.6, False)])
    assert clock.offset == pytest.approx(99.95)
    assert clock.uncertainty == pytest.approx(0.35)
    assert clock.first(110.3) == pytest.approx(10.35)


def test_the_frames_of_least_delay_count() -> None:
    """T8."""
    slow = [Bound(float(n), 100.0 + n / 10 + 0.2, True) for n in range(5)]
    quick = [Bound(7.0, 100.01, True), Bound(7.1, 99.99, False)]
    clock = estimate([*slow, *quick, Bound(9.0, 95.0, False)])
    assert clock.offset == pytest.approx(100.0)
    assert clock.uncertainty == pytest.approx(0.01)


def test_clocks_that_moved_by_less_than_is_known_of_them_get_one_offset() -> None:
    """T8: only where more is known is it worth while."""
    early = [Bound(1.0, 100.01, True), Bound(1.1, 99.99, False)]
    late = [Bound(9.0, 100.035, True), Bound(9.1, 100.015, False)]
    clock = estimate([*early, *late])
    assert len(clock.pieces) == 1
    assert clock.offset == pytest.approx(100.0125)
    assert clock.uncertainty == pytest.approx(0.0125)
    later = [Bound(9.0, 100.06, True), Bound(9.1, 100.04, False)]
    assert [piece.offset for piece in estimate([*early, *later]).pieces] == pytest.approx([100.0, 100.05])


def test_a_long_drift_takes_as_few_pieces_as_its_round_trips_allow() -> None:
    """T8: 25 s of it at 100 millionths, with round trips of a millisecond."""
    bounds = [
        Bound(number / 1000, 1e-7 * number + (0.0005 if number % 2 else -0.0005), number % 2 == 1)
        for number in range(25_000)
    ]
    clock = estimate(bounds)
    assert 2 <= len(clock.pieces) <= 10
    assert all(abs(clock.at(at).offset - 1e-4 * at) <= (clock.at(at).uncertainty or 0.0) for at, _, _ in bounds)


def test_time_does_not_go_back_where_a_clock_was_set() -> None:
    """T8."""
    clock = estimate(
        [
            Bound(1.0, 5.1, True),
            Bound(2.0, 5.0, False),
            Bound(8.0, 9.1, True),
            Bound(8.1, 9.0, False),
            Bound(9.0, 9.2, True),
        ]
    )
    assert len(clock.pieces) == 2
    times = [clock.first(time / 10) for time in range(150)]
    assert times == sorted(times)


def test_the_least_round_trip_is_of_frames_that_followed_each_other() -> None:
    """T8."""
    bounds = [Bound(1.0, 1.0, True), Bound(2.0, 0.7, False), Bound(3.0, 0.9, True), Bound(4.0, 0.85, True)]
    assert least_round_trip(bounds) == pytest.approx(0.2)
    assert least_round_trip(bounds[:1]) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [((0.0, 1.0), (2.0, 3.0), 1.0), ((2.0, 3.0), (0.0, 1.0), 1.0), ((0.0, 2.0), (1.0, 3.0), 0.0)],
)
def test_how_far_intervals_are_apart(one: tuple[float, float], other: tuple[float, float], apart: float) -> None:
    """T8."""
    assert Interval(*one).apart(Interval(*other)) == apart
