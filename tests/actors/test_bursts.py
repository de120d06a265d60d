"""Bursts: that of the only connection has a whole turn, many share half of one, and none has too little."""

import pytest

from actors.bursts import LEAST_SECONDS, Burst
from actors.turns import SECONDS_PER_TURN


def test_many_share_what_one_alone_has() -> None:
    """W7: and whoever is over leaves its share to the others."""
    one, other, many = Burst(), Burst(), [Burst() for _ in range(1_000)]
    assert one.share() == SECONDS_PER_TURN
    one.turn(True)
    one.turn(True)  # which counts once
    assert one.share() == SECONDS_PER_TURN
    assert other.share() == pytest.approx(SECONDS_PER_TURN / 4)
    other.turn(True)
    assert one.share() == other.share() == pytest.approx(SECONDS_PER_TURN / 4)
    for each in many:
        each.turn(True)
    assert one.share() == LEAST_SECONDS
    for each in (one, other, *many):
        each.turn(False)
        each.turn(False)
    assert one.share() == SECONDS_PER_TURN


def test_one_alone_leaves_time_to_other_connections() -> None:
    """W7: it has a whole turn only where nobody else could want it."""
    one, other, never = Burst(), Burst(), Burst()
    one.begin()
    one.turn(True)
    assert one.share() == SECONDS_PER_TURN
    other.begin()
    assert one.share() == pytest.approx(SECONDS_PER_TURN / 4)
    for each in (other, other, never):
        each.end()
    assert one.share() == SECONDS_PER_TURN
    one.end()
    assert not one.on
