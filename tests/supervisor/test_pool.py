"""Which connection a request gets, and who waits: pure."""

import itertools
from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import Closed, LimitReached, LinkError
from actors.outgoing import Route
from actors.settings import Health, Limits
from supervisor.outliers import FAILURES, Outliers
from supervisor.pool import PER_CONNECTION, Connected, Member, Pool, Waiter

Place = str


class Peer:
    """What the pool looks at of a connection."""

    def __init__(self) -> None:
        self.heard = 0.0
        self.unforgiven_ping: float | None = None


class Desk:
    """A pool, and what it asked for."""

    def __init__(self, *keys: Place, max_pending: int = 1000) -> None:
        self.outliers: Outliers[Place] = Outliers(keys)
        self.probed: list[str] = []
        self.grown = 0
        self.pool: Pool[Place] = Pool(
            "link", Limits(max_pending=max_pending), Health(), self.outliers,
            probe=lambda member: self.probed.append(member.name), grow=self._grow,
        )  # fmt: skip
        self.granted: list[tuple[int, str]] = []
        self.failed: list[int] = []
        self._numbers = itertools.count()

    def _grow(self) -> None:
        self.grown += 1

    def member(self, name: str, key: Place = "a", limit: int = 100) -> Member[Place]:
        """One that is ready."""
        member = Member(name, key, cast("Route", None), cast("Connected", Peer()))
        member.limit = limit
        self.pool.add(member, 0.0)
        return member

    def wait(self, *, patient: bool = False, avoid: tuple[Place, ...] = (), wanted: bool = True) -> Waiter[Place]:
        number = next(self._numbers)

        def grant(member: Member[Place]) -> bool:
            if wanted:
                self.granted.append((number, member.name))
            return wanted

        waiter = Waiter(grant, lambda error: self.failed.append(number), patient=patient, avoid=avoid)
        self.pool.queue(waiter)
        return waiter

    def enter(self, now: float = 0.0, *avoid: Place) -> str | None:
        member = self.pool.enter(now, avoid)
        return None if member is None else member.name


def heard(member: Member[Any], now: float) -> None:
    cast("Peer", member.connection).heard = now


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_least_loaded_serves_and_those_that_are_alike_take_turns() -> None:
    desk = Desk()
    for name in "xyz":
        desk.member(name)
    assert Counter(desk.enter() for _ in range(30)) == {"x": 10, "y": 10, "z": 10}
    loads = [member.load for member in desk.pool.members]
    for _ in range(4):
        desk.pool.leave(desk.pool.members[1], 0.0)
    assert loads == [10, 10, 10]
    assert [desk.enter() for _ in range(4)] == ["y"] * 4


def test_what_should_be_avoided_serves_only_where_there_is_nothing_else() -> None:
    """X2: elsewhere if there is an elsewhere."""
    desk = Desk("a", "b")
    desk.member("x", "a", limit=2)
    desk.member("y", "b", limit=1)
    assert desk.enter(0.0, "a") == "y"
    assert desk.enter(0.0, "a") == "x"
    assert desk.enter(0.0, "a", "b") == "x"
    assert desk.enter(0.0, "a", "b") is None


def test_one_that_is_unwanted_serves_only_where_there_is_nothing_else() -> None:
    desk = Desk()
    old, _ = desk.member("old"), desk.member("new", limit=1)
    old.is_unwanted = True
    assert [desk.enter(), desk.enter()] == ["new", "old"]


def test_a_place_that_is_set_aside_gets_nothing_while_there_are_others_and_is_tried_again() -> None:
    """L9: not even while all others are full."""
    desk = Desk("a", "b")
    desk.member("bad", "a")
    desk.member("good", "b", limit=1)
    for _ in range(FAILURES):
        desk.outliers.failed("a", 0.0)
    desk.pool.review(0.0)
    assert [desk.enter(), desk.enter()] == ["good", None]
    assert desk.enter(31.0) == "bad"


def test_the_only_place_serves_though_it_is_set_aside() -> None:
    desk = Desk("a", "b")
    desk.member("only", "a")
    desk.outliers.stay_away("a", 10.0, 0.0)
    desk.pool.review(0.0)
    assert desk.enter() == "only"


def test_a_silent_connection_is_asked_once_and_serves_when_it_has_answered() -> None:
    """H1: one PING, however many want to know."""
    desk = Desk()
    member = desk.member("x")
    for _ in range(50):
        assert desk.enter(61.0) is None
        desk.wait()
        desk.pool.refill(61.0)
    assert desk.probed == ["x"]
    heard(member, 61.0)
    desk.pool.refill(61.0)
    assert [number for number, _ in desk.granted] == list(range(50))


def test_after_a_ping_that_came_to_nothing_but_its_answer_requests_go_without_another_for_a_while() -> None:
    """H5: servers of gRPC's count them, and end the connection."""
    desk = Desk()
    member = desk.member("x")
    heard(member, 100.0)
    member.connection.unforgiven_ping = 100.0  # type: ignore[misc]
    assert desk.enter(200.0) == "x"
    assert desk.enter(399.0) == "x"
    assert desk.enter(400.0) is None
    assert desk.probed == ["x"]


def test_over_a_connection_without_streams_pings_that_come_to_nothing_are_two_hours_apart() -> None:
    """H5."""
    desk = Desk()
    member = desk.member("x")
    member.connection.unforgiven_ping = 0.0  # type: ignore[misc]
    assert desk.enter(7199.0) == "x"
    desk.pool.leave(member, 7199.0)
    assert desk.enter(7200.0) is None


def test_where_another_was_heard_lately_a_silent_connection_is_not_asked() -> None:
    desk = Desk()
    desk.member("silent")
    heard(desk.member("lively"), 61.0)
    assert [desk.enter(62.0) for _ in range(9)] == ["lively"] * 9
    assert desk.probed == []


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_nobody_overtakes_those_who_wait() -> None:
    """L1."""
    desk = Desk()
    member = desk.member("x", limit=1)
    assert desk.enter() == "x"
    for _ in range(3):
        desk.wait()
    assert desk.enter() is None
    for _ in range(3):
        desk.pool.leave(member, 0.0)
    assert desk.granted == [(0, "x"), (1, "x"), (2, "x")]


def test_a_lowered_limit_lets_the_living_finish_and_a_raised_one_lets_in() -> None:
    """L2."""
    desk = Desk()
    member = desk.member("x", limit=3)
    for _ in range(3):
        assert desk.enter() == "x"
    desk.wait()
    member.limit = 1
    for load in (2, 1):
        desk.pool.leave(member, 0.0)
        assert (desk.granted, member.load) == ([], load)
    member.limit = 0
    desk.pool.leave(member, 0.0)
    assert desk.granted == []
    member.limit = 1
    desk.pool.refill(0.0)
    assert desk.granted == [(0, "x")]


def test_one_who_went_while_a_place_came_leaves_it_to_the_next() -> None:
    """L3."""
    desk = Desk()
    desk.wait(wanted=False)
    quitter = desk.wait()
    desk.wait()
    desk.pool.quit(quitter)
    desk.pool.quit(quitter)
    member = desk.member("x", limit=1)
    assert desk.granted == [(2, "x")]
    assert (member.load, desk.pool.load, desk.pool.waiting) == (1, 1, 0)


def test_more_than_max_pending_are_refused_and_counted() -> None:
    """L5."""
    desk = Desk(max_pending=2)
    first = desk.wait()
    desk.wait()
    with pytest.raises(LimitReached, match="max_pending"):
        desk.wait()
    assert desk.pool.refusals == {"max_pending": 1}
    desk.pool.quit(first)
    desk.wait()


def test_those_who_are_patient_wait_on_where_no_connection_can_be_made() -> None:
    desk = Desk()
    desk.wait()
    desk.wait(patient=True)
    desk.wait()
    error: LinkError = Closed("no")
    desk.pool.fail(error)
    assert desk.failed == [0, 2]
    desk.pool.fail(error, patient=True)
    assert (desk.failed, desk.pool.waiting) == ([0, 2, 1], 0)


# --- more connections -------------------------------------------------------------------------------------------------


def test_a_full_pool_asks_for_a_connection_once_until_something_came_of_it() -> None:
    desk = Desk()
    desk.member("x", limit=1)
    desk.enter()
    for _ in range(5):
        assert desk.enter() is None
    assert desk.grown == 1
    desk.member("y", limit=1)
    desk.enter()
    assert desk.enter() is None
    assert desk.grown == 2


def test_a_connection_with_many_streams_is_crowded_though_its_peer_allows_more() -> None:
    desk = Desk()
    desk.member("x", limit=100_000)
    for _ in range(PER_CONNECTION):
        desk.enter()
    assert desk.grown == 0
    assert desk.enter() == "x"
    assert desk.grown == 1


def test_a_connection_that_went_gets_no_more_and_its_places_come_back_all_the_same() -> None:
    desk = Desk()
    member = desk.member("x")
    desk.enter()
    desk.enter()
    desk.pool.remove(member)
    desk.pool.remove(member)
    assert desk.enter() is None
    for _ in range(2):
        desk.pool.leave(member, 0.0)
    assert (member.load, desk.pool.load) == (0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(("enter", "wait", "quit", "leave", "limit", "add", "remove")), st.integers(0, 9))
    )
)
def test_whatever_happens_the_counts_are_true_and_nobody_waits_beside_a_free_place(
    steps: list[tuple[str, int]],
) -> None:
    """L1, L3: no member has more than its limit by a new request, and no place is lost or invented."""
    desk = Desk()
    pool = desk.pool
    held: list[Member[Place]] = []
    waiting: list[Waiter[Place]] = []

    def wait() -> None:
        def grant(member: Member[Place]) -> bool:
            assert waiting.pop(0) is waiter
            held.append(member)
            return True

        waiter: Waiter[Place] = Waiter(grant, lambda error: None, patient=False)
        waiting.append(waiter)
        pool.queue(waiter)

    for number, (step, which) in enumerate(steps):
        members = pool.members
        if step == "enter":
            if (member := pool.enter(0.0)) is not None:
                assert not waiting
                held.append(member)
            else:
                wait()
        elif step == "quit" and waiting:
            pool.quit(waiting.pop(which % len(waiting)))
        elif step == "leave" and held:
            pool.leave(held.pop(which % len(held)), 0.0)
        elif step == "add":
            desk.member(str(number), limit=which)
        elif step == "limit" and members:
            members[which % len(members)].limit = which
            pool.refill(0.0)
        elif step == "remove" and members:
            pool.remove(members[which % len(members)])
        assert pool.load == len(held)
        assert pool.waiting == len(waiting)
        assert Counter(member.name for member in held) == Counter(
            {member.name: member.load for member in {*held, *pool.members} if member.load}
        )
        if waiting:
            assert all(member.load >= member.limit for member in pool.members)
