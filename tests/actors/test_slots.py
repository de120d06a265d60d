"""Admission: first come first served, never above a limit that may change."""

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from actors.errors import Misuse
from actors.slots import Slots


class Admission(RuleBasedStateMachine):
    """The slots beside the plainest thing that could say who is in: two lists."""

    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.limit = 3
        self.slots: Slots[int] = Slots(self.limit)
        self.inside: list[int] = []
        self.queue: list[int] = []
        self.number = 0

    def expected(self) -> list[int]:
        """Moves those whose turn it is, and says who they are."""
        free = max(0, self.limit - len(self.inside))
        turn, self.queue = self.queue[:free], self.queue[free:]
        self.inside += turn
        return turn

    @rule(target=names)
    def someone_comes(self) -> int:
        self.number += 1
        self.queue.append(self.number)
        assert self.slots.enter(self.number) is (self.number in self.expected())
        return self.number

    @rule(target=names, who=consumes(names))
    def someone_leaves(self, who: int) -> object:
        if who in self.inside:
            self.inside.remove(who)
        if who in self.queue:
            self.queue.remove(who)
        assert self.slots.leave(who) == self.expected()
        assert self.slots.leave(who) == []
        return multiple()

    @rule(who=names)
    def someone_comes_twice(self, who: int) -> None:
        if who in self.inside or who in self.queue:
            with pytest.raises(Misuse, match=str(who)):
                self.slots.enter(who)

    @rule(limit=st.integers(0, 6))
    def the_limit_changes(self, limit: int) -> None:
        self.limit = limit
        assert self.slots.change_limit(limit) == self.expected()
        assert self.slots.limit == limit

    @rule()
    def those_who_wait_are_sent_home(self) -> None:
        assert self.slots.close() == self.queue
        self.queue = []

    @invariant()
    def both_agree(self) -> None:
        assert (self.slots.held, self.slots.waiting) == (len(self.inside), len(self.queue))


TestAdmission = Admission.TestCase
"""First come first served, nobody enters above the limit, and nobody waits below it, whatever happens in any order."""


def test_a_lowered_limit_lets_the_living_finish() -> None:
    """L2 (the pure part): 100 to 1 with 50 open; all finish, new ones wait."""
    slots: Slots[int] = Slots(100)
    assert all(slots.enter(number) for number in range(50))
    assert slots.change_limit(1) == []
    assert slots.held == 50
    assert not slots.enter(50)
    assert [slots.leave(number) for number in range(49)] == [[]] * 49
    assert slots.leave(49) == [50]


def test_a_limit_of_zero_makes_everyone_wait_until_it_is_raised() -> None:
    slots: Slots[str] = Slots(0)
    assert [slots.enter(who) for who in "abc"] == [False] * 3
    assert slots.leave("b") == []
    assert slots.change_limit(5) == ["a", "c"]
    assert slots.held == 2


def test_a_waiter_that_gives_up_frees_its_place_every_time() -> None:
    """L3 (the pure part): a cancelled waiter frees its place, 1,000 times in 1,000."""
    chance = random.Random(7)
    slots: Slots[str] = Slots(1)
    assert slots.enter("holder")
    assert not slots.enter("last")
    for number in range(1000):
        others = [f"{number}.{each}" for each in range(chance.randint(1, 4))]
        assert not any(slots.enter(who) for who in others)
        chance.shuffle(others)
        assert [slots.leave(who) for who in others] == [[]] * len(others)
        assert slots.waiting == 1
    assert slots.leave("holder") == ["last"]


def test_one_that_was_admitted_and_changes_its_mind_hands_its_slot_on() -> None:
    slots: Slots[str] = Slots(1)
    assert slots.enter("first")
    assert not slots.enter("second")
    assert not slots.enter("third")
    assert slots.leave("first") == ["second"]
    assert slots.leave("second") == ["third"]


def test_whoever_left_may_come_again() -> None:
    slots: Slots[str] = Slots(1)
    for _ in range(3):
        assert slots.enter("a")
        assert slots.leave("a") == []


def test_a_stranger_leaves_nothing() -> None:
    slots: Slots[str] = Slots(1)
    assert slots.enter("a")
    assert not slots.enter("b")
    assert slots.leave("stranger") == []
    assert (slots.held, slots.waiting) == (1, 1)


def test_a_queue_of_100_000_is_served_in_order_and_without_searching_it() -> None:
    slots: Slots[int] = Slots(1)
    for number in range(100_000):
        slots.enter(number)
    for number in range(99_999):
        assert slots.leave(number) == [number + 1]


@pytest.mark.parametrize("limit", [-1, -(2**40)])
def test_a_negative_limit_is_misuse_and_changes_nothing(limit: int) -> None:
    with pytest.raises(Misuse, match=str(limit)):
        Slots(limit)
    slots: Slots[str] = Slots(2)
    with pytest.raises(Misuse, match=str(limit)):
        slots.change_limit(limit)
    assert slots.limit == 2
