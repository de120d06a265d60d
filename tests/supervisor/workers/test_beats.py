"""Whether a worker lives, by what it says: a clock of the tests' own, no loop and no process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.workers.beats import BEAT_INTERVAL, SLOW_TAKING, STALE, Beats, Vigour
from tests.support.strategies import examples

SOON = 0.001


def beats(now: float = 0.0, *, timeout: float = 10.0, start_timeout: float = 60.0) -> Beats:
    return Beats(now, timeout=timeout, start_timeout=start_timeout)


def serving(now: float = 0.0, *, timeout: float = 10.0) -> Beats:
    made = beats(now, timeout=timeout)
    made.ready(now)
    return made


def test_one_that_beats_is_fresh() -> None:
    worker = serving()
    for second in range(1, 100):
        assert worker.look(second * BEAT_INTERVAL) is Vigour.FRESH
        worker.heard(second * BEAT_INTERVAL)


def test_one_that_falls_silent_is_stale_first_and_hung_later() -> None:
    """M6."""
    worker = serving()
    worker.heard(5.0)
    assert worker.look(5.0 + STALE - SOON) is Vigour.FRESH
    assert worker.look(5.0 + STALE) is Vigour.STALE
    assert worker.look(15.0 - SOON) is Vigour.STALE
    assert worker.look(15.0) is Vigour.HUNG


def test_with_a_short_timeout_it_is_stale_after_half_of_it() -> None:
    worker = serving(timeout=1.5)
    assert worker.look(0.75 - SOON) is Vigour.FRESH
    assert worker.look(0.75) is Vigour.STALE
    assert worker.look(1.5) is Vigour.HUNG


def test_one_that_speaks_again_is_fresh_again() -> None:
    worker = serving()
    assert worker.look(9.0) is Vigour.STALE
    worker.heard(9.0)
    assert worker.look(9.0) is Vigour.FRESH


def test_one_that_is_not_ready_in_time_is_hung() -> None:
    worker = beats(100.0)
    assert worker.look(160.0 - SOON) is Vigour.STARTING
    assert worker.look(160.0) is Vigour.HUNG
    assert not worker.is_ready


def test_one_that_talks_instead_of_getting_ready_is_hung_all_the_same() -> None:
    """The time to get ready is from its start, whatever else it says meanwhile."""
    worker = beats()
    for second in range(60):
        worker.heard(second)
        assert worker.look(second) is Vigour.STARTING
    assert worker.next_look(59.0) == pytest.approx(1.0)
    assert worker.look(60.0) is Vigour.HUNG


def test_once_ready_the_time_to_get_ready_is_over() -> None:
    worker = beats(start_timeout=3.0)
    worker.ready(2.9)
    assert worker.is_ready
    assert worker.look(3.5) is Vigour.FRESH


def test_one_that_is_slow_to_take_is_stale_however_much_it_says() -> None:
    worker = serving()
    worker.given(1.0)
    worker.heard(1.0 + SLOW_TAKING - SOON)
    assert worker.look(1.0 + SLOW_TAKING - SOON) is Vigour.FRESH
    assert worker.look(1.0 + SLOW_TAKING) is Vigour.STALE
    worker.took(1.4, more=False)
    assert worker.look(1.4 + SLOW_TAKING) is Vigour.FRESH


def test_who_takes_one_of_two_has_time_for_the_other() -> None:
    worker = serving()
    worker.given(1.0)
    worker.given(1.2)
    assert worker.look(1.0 + SLOW_TAKING) is Vigour.STALE
    worker.took(1.3, more=True)
    assert worker.look(1.3 + SLOW_TAKING - SOON) is Vigour.FRESH
    assert worker.look(1.3 + SLOW_TAKING) is Vigour.STALE


def test_while_nobody_listened_nobody_was_silent() -> None:
    worker = serving()
    worker.given(0.5)
    worker.miss(101.0, 100.0)
    assert worker.look(101.0) is Vigour.STALE  # it has not taken what it was given
    worker.took(101.0, more=False)
    assert worker.look(101.0) is Vigour.FRESH
    starting = beats(start_timeout=5.0)
    starting.miss(101.0, 100.0)
    assert starting.look(101.0) is Vigour.STARTING
    assert starting.look(105.0) is Vigour.HUNG


def test_nobody_is_heard_in_the_future() -> None:
    """M6: what came while nobody listened was heard just now, and one that hangs from then on is hung in time."""
    worker = serving()
    worker.heard(3600.0)
    worker.given(3600.0)
    worker.miss(3600.0, 3600.0)
    assert worker.look(3600.0 + SLOW_TAKING) is Vigour.STALE
    assert worker.look(3610.0) is Vigour.HUNG
    starting = beats(start_timeout=5.0)
    starting.miss(10.0, 100.0)
    assert starting.look(15.0) is Vigour.HUNG


@given(
    timeout=st.sampled_from([1.5, 4.0, 10.0, 60.0]),
    said=st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["heard", "given", "took", "took one", "ready", "looked"])),
        max_size=30,
    ),
)
@examples(200)
def test_between_now_and_the_next_look_nothing_changes(timeout: float, said: list[tuple[int, str]]) -> None:
    """Who looks when ``next_look`` says so misses no change; all numbers are binary fractions, so sums are exact."""
    worker, now = beats(timeout=timeout, start_timeout=8.0), 0.0
    for sixteenths, what in said:
        now += sixteenths / 64
        match what:
            case "heard":
                worker.heard(now)
            case "given":
                worker.given(now)
            case "ready":
                worker.ready(now)
            case "took" | "took one":
                worker.took(now, more=what == "took one")
        seems = worker.look(now)
        wait = worker.next_look(now)
        assert wait >= 0
        if seems is Vigour.HUNG:
            continue
        assert wait > 0
        for part in (0.25, 0.5, 0.99):
            assert worker.look(now + wait * part) is seems
