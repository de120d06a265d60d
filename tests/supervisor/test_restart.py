"""Restarts: who is to blame, how often, who else, and after what wait."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.actor import Actor, BodyActor
from actors.errors import Closed, ConnectFailed, GoAway, LimitReached, Misuse, PingTimeout, StreamReset, TransportLost
from actors.messages import Exited
from actors.settings import Backoff
from supervisor.restart import (
    ChildSpec,
    Delays,
    Intensity,
    Meter,
    OneForAll,
    OneForOne,
    Plan,
    Restart,
    RestForOne,
    Strategy,
    Verdict,
    check_strategy,
    judge,
)

STRATEGIES = (OneForOne(), OneForAll(), RestForOne())


class Idle(BodyActor[Any]):
    async def body(self) -> None: ...

    def fold(self, message: Any) -> None: ...


def make() -> Actor[Any]:
    return Idle("idle")


async def make_later() -> Actor[Any]:
    return Idle("idle")


def spec(name: str, restart: Restart = Restart.PERMANENT) -> ChildSpec:
    return ChildSpec(name, make, restart)


# --- who is to blame --------------------------------------------------------------------------------------------------

BUG = ValueError("a bug")
AWAY = [
    TransportLost("it broke"),
    ConnectFailed("nobody there"),
    PingTimeout("silence"),
    GoAway("bye", code=0, debug=b""),
    StreamReset("reset", code=8),
]


@pytest.mark.parametrize(
    ("restart", "reason", "crashed", "verdict"),
    [
        *((Restart.TEMPORARY, reason, crashed, Verdict.FORGET) for reason in (BUG, None) for crashed in (True, False)),
        *((Restart.TEMPORARY, reason, False, Verdict.FORGET) for reason in AWAY),
        *((restart, BUG, True, Verdict.RESTART) for restart in (Restart.PERMANENT, Restart.TRANSIENT)),
        *((restart, AWAY[0], True, Verdict.RESTART) for restart in (Restart.PERMANENT, Restart.TRANSIENT)),
        *((restart, reason, False, Verdict.BACK_OFF) for restart in list(Restart)[:2] for reason in AWAY),
        *((Restart.PERMANENT, reason, False, Verdict.RESTART) for reason in (None, Closed("bye"), LimitReached("no"))),
        *((Restart.TRANSIENT, reason, False, Verdict.REST) for reason in (None, Closed("bye"), LimitReached("no"))),
    ],
)
def test_each_end_is_judged_by_who_is_to_blame(
    restart: Restart, reason: BaseException | None, crashed: bool, verdict: Verdict
) -> None:
    """R3: permanent children always restart, transient only after a crash, temporary never."""
    assert judge(restart, Exited("child", reason, crashed)) is verdict


# --- intensity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "last"),
    [
        ([0, 1, 2, 3, 4], True),
        ([0, 1, 2, 3, 4, 5], False),
        ([0, 6, 12, 18, 24, 30], False),
        ([0, 6, 12, 18, 24, 30.1], True),
        ([0, 0, 0, 0, 0, 31, 31, 31, 31, 31], True),
        ([0, 0, 0, 0, 0, 31, 31, 31, 31, 31, 31], False),
    ],
)
def test_five_restarts_in_thirty_seconds_are_allowed_and_a_sixth_is_not(times: list[float], last: bool) -> None:
    """R1."""
    meter = Meter(Intensity())
    *before, result = [meter.spend(time) for time in times]
    assert all(before)
    assert result is last


@given(
    st.integers(0, 4),
    st.integers(1, 20),
    st.lists(st.integers(0, 10), max_size=60),
)
def test_a_meter_agrees_with_one_that_remembers_everything(restarts: int, seconds: int, gaps: list[int]) -> None:
    meter, now, spent = Meter(Intensity(restarts, seconds)), 0, list[int]()
    for gap in gaps:
        now += gap
        allowed = len([time for time in spent if now - time <= seconds]) < restarts
        assert meter.spend(now) is allowed
        if allowed:
            spent.append(now)


@pytest.mark.parametrize("restarts", [-1, 1.5, True, "5", None])
def test_restarts_that_are_no_count_are_refused(restarts: Any) -> None:
    with pytest.raises(Misuse, match=r"Intensity\.restarts is a whole number"):
        Intensity(restarts)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, True, "30", None])
def test_a_window_that_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(Misuse, match=r"Intensity\.seconds is a number of seconds"):
        Intensity(5, seconds)


def test_a_meter_of_something_else_is_refused() -> None:
    wrong: Any = 5
    with pytest.raises(Misuse, match="an Intensity, not 5"):
        Meter(wrong)


# --- backoff ----------------------------------------------------------------------------------------------------------


def test_waits_grow_to_their_maximum_and_begin_anew() -> None:
    """L6: backing off from 1 s by 1.6 to 15 s."""
    delays = Delays(Backoff(), lambda: 0.5)
    waits = [delays.next() for _ in range(9)]
    assert waits[:6] == pytest.approx([1.0, 1.6, 2.56, 4.096, 6.5536, 10.48576])
    assert waits[6:] == [15.0, 15.0, 15.0]
    delays.reset()
    assert delays.next() == 1.0


@pytest.mark.parametrize(("dice", "first", "last"), [(0.0, 0.8, 12.0), (1.0, 1.2, 18.0)])
def test_jitter_makes_each_wait_up_to_a_fifth_shorter_or_longer(dice: float, first: float, last: float) -> None:
    """L6: +-20 %."""
    delays = Delays(Backoff(), lambda: dice)
    waits = [delays.next() for _ in range(20)]
    assert [waits[0], waits[-1]] == pytest.approx([first, last])


def test_waits_of_several_children_differ() -> None:
    dice = random.Random(7)
    assert len({Delays(Backoff(), dice.random).next() for _ in range(20)}) == 20
    assert len({Delays(Backoff()).next() for _ in range(20)}) > 1


def test_delays_of_something_else_are_refused() -> None:
    wrong: Any = 1.0
    with pytest.raises(Misuse, match=r"a Backoff, not of 1\.0"):
        Delays(wrong)


# --- specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "complaint"),
    [
        ({"name": ""}, "a child's name is a str that is not empty, not ''"),
        ({"name": 7}, "a child's name is a str"),
        ({"start": Idle("made already")}, "child a: start is a plain callable"),
        ({"start": make_later}, "child a: start is a plain callable"),
        ({"restart": "permanent"}, r"child a: restart is a Restart, such as Restart\.PERMANENT"),
        ({"shutdown": -1}, "child a: shutdown is a number of seconds, or None, not -1"),
        ({"shutdown": math.nan}, "child a: shutdown"),
        ({"shutdown": True}, "child a: shutdown"),
        ({"shutdown": "5"}, "child a: shutdown"),
        ({"backoff": 1.0}, r"child a: backoff is a Backoff, or None, not 1\.0"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_where_it_is_given(given_: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Misuse, match=complaint):
        ChildSpec(**{"name": "a", "start": make, **given_})


def test_a_child_may_take_all_the_time_or_none_for_ending() -> None:
    assert ChildSpec("a", make, shutdown=math.inf).shutdown == math.inf
    assert ChildSpec("a", make, shutdown=0).shutdown == 0


# --- strategies -------------------------------------------------------------------------------------------------------

A, B, C = spec("a"), spec("b", Restart.TRANSIENT), spec("c")
T = spec("t", Restart.TEMPORARY)


@pytest.mark.parametrize(
    ("strategy", "failed", "stop", "start"),
    [
        (OneForOne(), "a", "", "a"),
        (OneForOne(), "c", "", "c"),
        (OneForAll(), "a", "ctb", "abc"),
        (OneForAll(), "b", "cta", "abc"),
        (OneForAll(), "c", "tba", "abc"),
        (RestForOne(), "a", "ctb", "abc"),
        (RestForOne(), "b", "ct", "bc"),
        (RestForOne(), "c", "", "c"),
    ],
)
def test_each_strategy_stops_in_reverse_and_starts_in_order(
    strategy: Strategy, failed: str, stop: str, start: str
) -> None:
    """R2, R3: `t` is temporary, and not started again as collateral."""
    assert strategy.decide(failed, [A, B, T, C]) == Plan(tuple(stop), tuple(start))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_failure_of_nobody_is_refused(strategy: Strategy) -> None:
    with pytest.raises(Misuse, match="'x' is none of the children"):
        strategy.decide("x", [A, B])


@pytest.mark.parametrize("strategy", [None, "one_for_one", OneForOne, lambda failed, children: None])
def test_what_decides_nothing_is_no_strategy(strategy: object) -> None:
    with pytest.raises(Misuse, match="a strategy has a decide"):
        check_strategy(strategy)


def is_subsequence(some: Sequence[str], of: Sequence[str]) -> bool:
    rest = iter(of)
    return all(each in rest for each in some)


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.sampled_from(Restart), min_size=1, max_size=8),
    st.lists(st.integers(0, 7), max_size=12),
)
def test_any_sequence_of_failures_keeps_the_order_and_starts_no_temporary_child_again(
    strategy: Strategy, restarts: list[Restart], failures: list[int]
) -> None:
    """R2, R3, R4."""
    alive = [spec(f"child-{number}", restart) for number, restart in enumerate(restarts)]
    for failure in failures:
        lasting = [child for child in alive if child.restart is not Restart.TEMPORARY]
        if not lasting:
            return
        failed = lasting[failure % len(lasting)].name
        names = [child.name for child in alive]
        plan = strategy.decide(failed, alive)
        assert is_subsequence(plan.stop, names[::-1])
        assert is_subsequence(plan.start, names)
        assert failed in plan.start
        assert failed not in plan.stop
        kept = {child.name for child in lasting}
        assert set(plan.start) == ({failed} | set(plan.stop)) & kept
        before = names[: names.index(failed)]
        if isinstance(strategy, OneForOne):
            assert plan.stop == ()
        if isinstance(strategy, RestForOne):
            assert not set(before) & {*plan.stop, *plan.start}
        dropped = set(plan.stop) - set(plan.start)
        alive = [child for child in alive if child.name not in dropped]
