"""Endpoints that fail are set aside for a while, never more than half of them, and tried again."""

import heapq
from collections import Counter
from typing import Final

import pytest
from attrs import Factory, define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.outliers import Outliers

FOUR: Final = ("a", "b", "c", "d")
LONG_AGO: Final = float("-inf")


def fail(outliers: Outliers[str], key: str, now: float, times: int = 5) -> list[bool]:
    return [outliers.failed(key, now) for _ in range(times)]


def time_aside(outliers: Outliers[str], key: str, now: float) -> float:
    """How long the only endpoint that is aside stays so."""
    assert outliers.is_aside(key, now)
    until = outliers.next_change(now)
    assert until is not None
    assert not outliers.is_aside(key, until)
    return until - now


def test_five_failures_in_a_row_set_an_endpoint_aside_for_30_seconds() -> None:
    """L9."""
    outliers = Outliers(FOUR)
    assert fail(outliers, "a", 7.0) == [False, False, False, False, True]
    assert [outliers.is_aside(key, 7.0) for key in FOUR] == [True, False, False, False]
    assert outliers.is_aside("a", 36.999)
    assert not outliers.is_aside("a", 37.0)


def test_a_success_in_between_forgives_all_failures() -> None:
    """L9."""
    outliers = Outliers(FOUR)
    for _ in range(100):
        assert not any(fail(outliers, "a", 0.0, times=4))
        outliers.succeeded("a", 0.0)
    assert not outliers.is_aside("a", 0.0)


def test_each_further_time_aside_is_30_seconds_longer_up_to_5_minutes() -> None:
    """L9: after its time, one failure is enough."""
    outliers, now, times = Outliers(FOUR), 0.0, []
    fail(outliers, "a", now, times=4)
    for _ in range(12):
        assert outliers.failed("a", now)
        times.append(time_aside(outliers, "a", now))
        now += times[-1]
    assert times == [30.0, 60.0, 90.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0, 300.0, 300.0]


def test_a_success_after_its_time_makes_an_endpoint_whole() -> None:
    """L9: it takes five failures again, and the time is longer all the same."""
    outliers = Outliers(FOUR)
    fail(outliers, "a", 0.0)
    outliers.succeeded("a", 30.0)
    assert not any(fail(outliers, "a", 31.0, times=4))
    assert outliers.failed("a", 31.0)
    assert time_aside(outliers, "a", 31.0) == 60.0


@pytest.mark.parametrize(("good", "expected"), [(299.0, 120.0), (300.0, 90.0), (600.0, 60.0), (900.0, 30.0)])
def test_each_5_minutes_without_fault_take_a_step_off(good: float, expected: float) -> None:
    outliers, now = Outliers(FOUR), 0.0
    fail(outliers, "a", now)  # 30 s
    outliers.failed("a", 30.0)  # 60 s
    outliers.failed("a", 90.0)  # 90 s
    outliers.succeeded("a", 180.0)
    outliers.succeeded("a", 180.0 + good)
    fail(outliers, "a", 180.0 + good)
    assert time_aside(outliers, "a", 180.0 + good) == expected


def test_time_without_a_success_takes_nothing_off() -> None:
    outliers = Outliers(FOUR)
    fail(outliers, "a", 0.0)
    assert outliers.failed("a", 86_400.0)
    assert time_aside(outliers, "a", 86_400.0) == 60.0


def test_what_comes_of_requests_that_were_on_their_way_changes_nothing() -> None:
    outliers = Outliers(FOUR)
    fail(outliers, "a", 0.0)
    assert not any(fail(outliers, "a", 1.0, times=50))
    outliers.succeeded("a", 2.0)
    assert time_aside(outliers, "a", 2.0) == 28.0
    assert outliers.failed("a", 30.0)


@pytest.mark.parametrize(("size", "most"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_at_least_half_serve_and_one_alone_always(size: int, most: int) -> None:
    keys = [str(number) for number in range(size)]
    for refuse in (fail, lambda outliers, key, now: outliers.stay_away(key, 10.0, now)):
        outliers = Outliers(keys)
        for key in keys:
            refuse(outliers, key, 0.0)
        assert sum(outliers.is_aside(key, 0.0) for key in keys) == most


def test_one_that_found_no_room_is_set_aside_at_its_next_failure_when_there_is() -> None:
    outliers = Outliers(("a", "b"))
    fail(outliers, "a", 0.0)
    assert not any(fail(outliers, "b", 29.0, times=50))
    assert outliers.failed("b", 30.0)
    assert not outliers.failed("a", 30.0)
    assert time_aside(outliers, "b", 30.0) == 30.0


def test_fewer_endpoints_bring_back_those_whose_time_is_over_first() -> None:
    """L8."""
    outliers = Outliers(FOUR)
    fail(outliers, "a", 0.0)
    fail(outliers, "b", 1.0)
    outliers.change(["a", "b"])
    assert [outliers.is_aside(key, 2.0) for key in "ab"] == [False, True]
    outliers.change(["b"])
    assert not outliers.is_aside("b", 2.0)


def test_endpoints_that_stay_keep_what_is_known_of_them_and_others_are_forgotten() -> None:
    """L8."""
    outliers = Outliers(FOUR)
    fail(outliers, "a", 0.0)
    fail(outliers, "b", 0.0, times=4)
    outliers.change(["a", "c", "e", "f"])
    outliers.change(FOUR)
    assert outliers.is_aside("a", 0.0)
    assert not any(fail(outliers, "b", 0.0, times=4))


def test_an_endpoint_that_is_not_known_is_never_aside() -> None:
    outliers = Outliers(FOUR)
    assert not any(fail(outliers, "z", 0.0))
    assert not outliers.stay_away("z", 10.0, 0.0)
    outliers.succeeded("z", 0.0)
    outliers.change((*FOUR, "z"))
    assert not outliers.is_aside("z", 0.0)
    assert fail(outliers, "z", 0.0) == [False, False, False, False, True]


def test_an_endpoint_that_asks_for_it_is_left_alone_which_is_no_fault() -> None:
    outliers = Outliers(FOUR)
    assert outliers.stay_away("a", 12.5, 0.0)
    assert time_aside(outliers, "a", 0.0) == 12.5
    assert fail(outliers, "a", 12.5) == [False, False, False, False, True]
    assert time_aside(outliers, "a", 12.5) == 30.0


def test_to_be_left_alone_makes_a_time_aside_longer_and_never_shorter() -> None:
    outliers = Outliers(FOUR)
    fail(outliers, "a", 0.0)
    assert outliers.stay_away("a", 10.0, 0.0)
    assert time_aside(outliers, "a", 0.0) == 30.0
    assert outliers.stay_away("a", 50.0, 0.0)
    assert time_aside(outliers, "a", 0.0) == 50.0
    assert outliers.stay_away("a", 86_400.0, 0.0)
    assert time_aside(outliers, "a", 0.0) == 300.0


def test_to_be_left_alone_for_no_time_is_nothing() -> None:
    outliers = Outliers(FOUR)
    assert not outliers.stay_away("a", 0.0, 0.0)
    assert outliers.next_change(0.0) is None


def test_the_next_change_is_the_first_return() -> None:
    outliers = Outliers(FOUR)
    assert outliers.next_change(0.0) is None
    fail(outliers, "a", 0.0)
    outliers.stay_away("b", 10.0, 0.0)
    assert [outliers.next_change(now) for now in (0.0, 9.9, 10.0, 29.9, 30.0)] == [10.0, 10.0, 30.0, 30.0, None]


@define
class Traffic:
    """Least-loaded choice among four endpoints on a made-up clock: "a" answers 503 at once, the others in 50 ms."""

    outliers: Outliers[str] = Factory(lambda: Outliers(FOUR))
    loads: Counter[str] = Factory(Counter)
    answers: list[tuple[float, str]] = Factory(list)
    asked: list[tuple[float, str]] = Factory(list)
    healed: float = float("inf")

    def run(self, seconds: float, per_second: int = 200) -> None:
        for tick in range(int(seconds * per_second)):
            now = tick / per_second
            while self.answers and self.answers[0][0] <= now:
                self.finish(*heapq.heappop(self.answers))
            ready = [key for key in FOUR if not self.outliers.is_aside(key, now)]
            chosen = min(ready, key=lambda key: self.loads[key])
            self.asked.append((now, chosen))
            self.loads[chosen] += 1
            at_once = chosen == "a" and now < self.healed
            heapq.heappush(self.answers, (now if at_once else now + 0.05, chosen))

    def finish(self, when: float, key: str) -> None:
        self.loads[key] -= 1
        if key == "a" and when < self.healed:
            self.outliers.failed(key, when)
        else:
            self.outliers.succeeded(key, when)

    def share(self, start: float, end: float) -> float:
        """How much of the traffic the failing one got."""
        keys = [key for when, key in self.asked if start <= when < end]
        return keys.count("a") / len(keys)


def test_the_endpoint_that_fails_fastest_gets_hardly_any_traffic_and_is_tried_again() -> None:
    """L9."""
    traffic = Traffic()
    traffic.run(400.0)
    assert traffic.share(0.0, 10.0) < 0.05
    assert 0 < traffic.share(10.0, 400.0) < 0.001
    tried = [when for when, key in traffic.asked if key == "a"]
    # Again after 30 s, 60 s, 90 s and 120 s, once each.
    assert [round(when) for when in tried if when > 10.0] == [30, 90, 180, 300]


def test_an_endpoint_that_is_well_again_serves_its_share_again() -> None:
    """L9."""
    traffic = Traffic(healed=45.0)
    traffic.run(130.0)
    assert traffic.share(10.0, 90.0) < 0.01
    assert traffic.share(91.0, 130.0) > 0.2


def test_without_being_set_aside_the_one_that_fails_fastest_gets_nearly_all() -> None:
    """L9: what the simulation is about; alone among those known, the endpoint cannot be set aside."""
    traffic = Traffic(Outliers("a"))
    traffic.run(10.0)
    assert traffic.share(0.0, 10.0) > 0.9


@define
class History:
    """All that ever happened to an endpoint, and what follows from it, worked out anew each time."""

    events: list[tuple[float, bool]] = Factory(list)
    """When which result counted; True: good."""
    punished: list[tuple[float, int]] = Factory(list)
    """When it was set aside for failing, after how many events."""
    until: float = LONG_AGO

    def failures(self) -> int:
        since = self.punished[-1][1] if self.punished else 0
        results = [good for _, good in self.events[since:]]
        return results[::-1].index(True) if True in results else len(results)

    def on_trial(self) -> bool:
        return bool(self.punished) and not any(good for _, good in self.events[self.punished[-1][1] :])

    def next_time(self, now: float) -> float:
        """Seconds that it would be aside for now."""
        level = 0
        for index, (_, seen) in enumerate(self.punished):
            level += 1
            end = self.punished[index + 1][1] if index + 1 < len(self.punished) else len(self.events)
            when = self.punished[index + 1][0] if index + 1 < len(self.punished) else now
            whole = next((at for at, good in self.events[seen:end] if good), None)
            if whole is not None:
                level = max(0, level - int((when - whole) // 300))
        return min(30.0 * (level + 1), 300.0)


KEYS: Final = st.sampled_from("abcdefg")


class SettingAside(RuleBasedStateMachine):
    """The outliers beside the whole history of each endpoint."""

    @initialize(keys=st.sets(KEYS), start=st.integers(0, 1_000))
    def begins(self, keys: set[str], start: int) -> None:
        self.outliers = Outliers(sorted(keys))
        self.histories = {key: History() for key in keys}
        self.now = float(start)

    def aside(self) -> list[str]:
        return [key for key, history in self.histories.items() if self.now < history.until]

    def has_room(self) -> bool:
        return len(self.aside()) + 1 <= len(self.histories) / 2

    @rule(seconds=st.one_of(st.integers(1, 30), st.integers(1, 1_500)))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.aside())
    @rule()
    def somebody_comes_back(self) -> None:
        until = self.outliers.next_change(self.now)
        assert until is not None
        self.now = until

    @rule(key=KEYS)
    def success(self, key: str) -> None:
        self.outliers.succeeded(key, self.now)
        if key in self.histories and key not in self.aside():
            self.histories[key].events.append((self.now, True))

    @rule(key=KEYS, times=st.sampled_from([1, 1, 4, 5, 6]))
    def failure(self, key: str, times: int) -> None:
        for _ in range(times):
            assert self.outliers.failed(key, self.now) is self.expect_failure(key)

    def expect_failure(self, key: str) -> bool:
        if key not in self.histories or key in self.aside():
            return False
        history = self.histories[key]
        history.events.append((self.now, False))
        if not self.has_room() or not (history.on_trial() or history.failures() >= 5):
            return False
        history.until = self.now + history.next_time(self.now)
        history.punished.append((self.now, len(history.events)))
        return True

    @rule(key=KEYS, seconds=st.integers(-1, 400))
    def wish(self, key: str, seconds: int) -> None:
        heard = self.outliers.stay_away(key, seconds, self.now)
        known = key in self.histories and seconds > 0
        assert heard is (known and (key in self.aside() or self.has_room()))
        if heard:
            history = self.histories[key]
            history.until = max(history.until, self.now + min(seconds, 300))

    @rule(keys=st.sets(KEYS))
    def endpoints_change(self, keys: set[str]) -> None:
        before = {key: self.histories[key].until for key in self.aside() if key in keys}
        self.outliers.change(sorted(keys))
        self.histories = {key: self.histories.get(key, History()) for key in keys}
        stay = [key for key in before if self.outliers.is_aside(key, self.now)]
        back = [key for key in before if key not in stay]
        assert len(stay) == min(len(before), len(keys) // 2)
        assert not stay or all(before[key] <= min(before[each] for each in stay) for key in back)
        for key in back:
            self.histories[key].until = LONG_AGO

    @invariant()
    def both_agree(self) -> None:
        aside = self.aside()
        assert [key for key in "abcdefg" if self.outliers.is_aside(key, self.now)] == sorted(aside)
        assert len(aside) <= len(self.histories) / 2
        assert self.outliers.next_change(self.now) == min((self.histories[key].until for key in aside), default=None)


TestSettingAside = SettingAside.TestCase
TestSettingAside.settings = settings(stateful_step_count=80, deadline=None)
