"""How many connections a link should have and where they lead: pure."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.placing import order, uneven, wanted


@pytest.mark.parametrize(
    ("demand", "per_connection", "expected"),
    [(0, 100, 2), (200, 100, 2), (201, 100, 3), (10_000, 100, 5), (3, 0, 3), (3, 1, 3)],
)
def test_connections_follow_the_demand_within_what_was_given(demand: int, per_connection: int, expected: int) -> None:
    assert wanted(demand, per_connection, least=2, most=5) == expected


def test_places_are_tried_whole_ones_first_and_among_these_the_emptiest() -> None:
    counts = {"full": 3, "half": 1, "aside": 0, "lost": 0}
    tried = order(
        ["aside", "lost", "full", "half"], counts, is_aside="aside".__eq__, has_lost="lost".__eq__
    )  # fmt: skip
    assert tried == ["half", "full", "lost", "aside"]


def test_places_that_are_alike_keep_the_order_of_the_resolver() -> None:
    assert order("cab", {}, is_aside=lambda _: False, has_lost=lambda _: False) == ["c", "a", "b"]


def test_one_place_is_never_uneven() -> None:
    assert uneven(["a"], {"a": 9}) is None
    assert uneven([], {}) is None


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), min_size=1))
def test_moving_one_at_a_time_ends_where_no_two_places_differ_by_two(counts: dict[str, int]) -> None:
    places = sorted(counts)
    for _ in itertools.takewhile(lambda _: uneven(places, counts), range(200)):
        pair = uneven(places, counts)
        assert pair is not None
        most, least = pair
        counts[most] -= 1
        counts[least] += 1
    assert uneven(places, counts) is None
    assert max(counts.values()) - min(counts.values()) <= 1
