"""How many workers there are, who is replaced and when: by hand, and against whatever may happen to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.workers.staffing import BACKOFF, LIVED_WELL, MAX_FAILURES, Member, Phase, Plan, Staff
from tests.support.strategies import PATIENT, examples

pytestmark = PATIENT


class World:
    """A staff whose plans are carried out, and a clock."""

    def __init__(self, wanted: int, most: int = 1000, *, random: Callable[[], float] = lambda: 0.5) -> None:
        self.staff = Staff(wanted, most, random)
        self.now = 1000.0
        self.numbers = 0
        self.starts: list[float] = []
        """When workers were started."""
        self.steps = 0
        """How often one was started beside one that it replaces."""
        self.gave_up: str | None = None
        self.reloads_ended = 0
        self.plan = Plan()
        self.goes_on()

    def goes_on(self) -> None:
        """Do what the staff plans."""
        self.plan = plan = self.staff.plan(self.now)
        if plan.give_up is not None:
            self.gave_up = plan.give_up
            return
        for _ in range(plan.start):
            self.numbers += 1
            self.starts.append(self.now)
            self.steps += plan.replace
            self.staff.started(f"worker-{self.numbers}", self.now, replaces=plan.replace)
        for name in plan.drain:
            self.staff.drained(name, self.now)

    def of(self, *phases: Phase) -> list[Member]:
        return [each for each in self.staff.members.values() if each.phase in phases]

    def ready(self, *names: str) -> None:
        for name in names or [each.name for each in self.of(Phase.STARTING)]:
            self.staff.ready(name, self.now)
        self.goes_on()

    def ends(self, name: str, reason: str = "", *, hopeless: bool = False) -> None:
        self.reloads_ended += self.staff.ended(name, self.now, reason=reason, hopeless=hopeless)
        self.goes_on()

    def drains_by_itself(self, name: str) -> None:
        self.staff.drained(name, self.now, by_itself=True)
        self.goes_on()

    def passes(self, seconds: float) -> None:
        """Time, in which the staff is asked again when it wants to be."""
        until = self.now + seconds
        while self.gave_up is None and (again := self.plan.look_again) is not None and again <= until:
            self.now = max(self.now, again)
            self.goes_on()
        self.now = until

    def names(self, *phases: Phase) -> set[str]:
        return {each.name for each in self.of(*(phases or tuple(Phase)))}


def serving(wanted: int, *, most: int = 1000) -> World:
    """One whose workers have served for long."""
    world = World(wanted, most)
    world.ready()
    world.passes(LIVED_WELL)
    world.goes_on()
    return world


# --- up, and up again -------------------------------------------------------------------------------------------------


def test_as_many_are_started_as_are_wanted_and_not_again_while_they_start() -> None:
    world = World(4)
    assert world.names(Phase.STARTING) == {"worker-1", "worker-2", "worker-3", "worker-4"}
    world.goes_on()
    assert world.numbers == 4


def test_one_that_lived_well_is_started_again_at_once() -> None:
    """M1."""
    world = serving(2)
    world.ends("worker-1", "killed")
    assert world.names(Phase.STARTING) == {"worker-3"}
    assert world.names(Phase.READY) == {"worker-2"}


def test_a_crash_loop_beside_one_that_serves_slows_down_and_never_ends() -> None:
    """M1, M3: not even when the one that serves has done so for ever."""
    world = serving(2)
    world.ends("worker-2", "killed")
    waits = []
    for _ in range(100):
        [name] = world.names(Phase.STARTING)
        before = world.now
        world.ends(name, "cannot start")
        while not world.of(Phase.STARTING):
            assert world.plan.look_again is not None
            world.passes(world.plan.look_again - world.now)
        waits.append(world.now - before)
    assert world.gave_up is None
    assert waits[:6] == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 15.0])
    assert waits[6:] == pytest.approx([BACKOFF.maximum] * 94)


def test_one_that_is_ready_for_a_moment_each_time_is_in_a_crash_loop_as_well() -> None:
    world = serving(2)
    world.ends("worker-2", "killed")
    for _ in range(20):
        world.ready()
        world.passes(0.9 * LIVED_WELL)
        [name] = world.names(Phase.READY) - {"worker-1"}
        world.ends(name, "killed")
        world.passes(BACKOFF.maximum)
    starts = world.starts[-5:]
    assert starts[-1] - starts[0] >= 4 * BACKOFF.maximum


def test_without_one_that_serves_a_crash_loop_is_the_end() -> None:
    """M3: after more than five failures in a row, and with the last reason."""
    world = World(1)
    for failure in range(1, 100):
        world.ends(f"worker-{failure}", f"reason {failure}")
        if world.gave_up is not None:
            break
        world.passes(BACKOFF.maximum)
    assert failure == MAX_FAILURES + 1
    assert world.gave_up == (
        f"no worker serves, and {failure} have failed one after the other; the last: reason {failure}"
    )


def test_many_workers_may_fail_twice_each_before_that_is_the_end() -> None:
    """M3."""
    world = World(8)
    failures = 0
    while world.gave_up is None:
        world.ends(next(iter(world.staff.members)), "cannot start")
        failures += 1
        world.passes(0.0 if world.staff.members else BACKOFF.maximum)
    assert failures == 2 * 8 + 1


def test_one_that_served_for_long_starts_again_at_once_however_others_fare() -> None:
    """M1: the wait of a crash loop beside it is not its own."""
    world = serving(2)
    world.ends("worker-2", "killed")
    for _ in range(10):
        world.passes(BACKOFF.maximum)
        [name] = world.names(Phase.STARTING)
        world.ends(name, "cannot start")
    assert world.names() == {"worker-1"}
    world.ends("worker-1", "killed")
    assert len(world.names(Phase.STARTING)) == 2
    assert world.gave_up is None


def test_old_failures_are_forgotten_once_all_serve_for_long() -> None:
    """M3: the next crash is the first again."""
    world = World(2)
    for name in ("worker-1", "worker-2"):
        world.ends(name, "cannot start")
        world.passes(BACKOFF.maximum)
    world.ready()
    world.passes(LIVED_WELL)
    world.goes_on()
    for _ in range(2):
        world.staff.members.clear()
        world.staff.started("again", world.now)
        world.ends("again", "cannot start")
        assert world.gave_up is None
    assert world.plan.look_again == pytest.approx(world.now + BACKOFF.initial)


@pytest.mark.parametrize("reason", ["", "cannot start"])
def test_who_ends_before_it_is_ready_has_failed_even_in_good_order(reason: str) -> None:
    """M3: never a loop at full speed."""
    world = World(1)
    while world.gave_up is None:
        assert len(world.starts) <= MAX_FAILURES + 1
        world.ends(f"worker-{world.numbers}", reason)
        world.passes(BACKOFF.maximum)
    assert world.starts[-1] - world.starts[1] > 5.0
    assert (reason or "ended before it was ready") in world.gave_up


def test_a_replacement_that_drains_before_it_is_ready_has_failed() -> None:
    """M3: the reload ends with it."""
    world = serving(1)
    world.staff.reload()
    world.goes_on()
    world.drains_by_itself("worker-2")
    world.ends("worker-2")
    assert (world.reloads_ended, world.names()) == (1, {"worker-1"})


@pytest.mark.parametrize("says_so", [True, False])
def test_who_leaves_in_good_order_as_soon_as_it_is_ready_is_replaced_more_and_more_slowly(says_so: bool) -> None:
    """M3: nothing has failed, so this is never the end; but it is no loop at full speed."""
    world = serving(2)
    world.ends("worker-2", "killed")
    for _ in range(20):
        world.ready()
        [name] = world.names(Phase.READY) - {"worker-1"}
        if says_so:
            world.drains_by_itself(name)
        world.ends(name)
        assert world.plan.look_again is not None
        world.passes(world.plan.look_again - world.now)
    assert world.starts[-1] - world.starts[-2] == pytest.approx(BACKOFF.maximum)
    assert world.gave_up is None


def test_who_leaves_in_good_order_after_a_long_life_is_replaced_at_once() -> None:
    world = serving(1)
    world.drains_by_itself("worker-1")
    assert world.names(Phase.STARTING) == {"worker-2"}
    world.ends("worker-1")
    assert world.names() == {"worker-2"}


# --- who was asked wrongly --------------------------------------------------------------------------------------------


def test_when_the_first_of_all_was_asked_wrongly_that_is_the_end() -> None:
    world = World(1)
    world.ends("worker-1", "worker-1: there is no such module", hopeless=True)
    assert world.gave_up == "worker-1: there is no such module"


def test_the_others_that_start_are_waited_for_before_that_is_the_end() -> None:
    world = World(3)
    world.ends("worker-1", "no such module", hopeless=True)
    assert (world.gave_up, world.numbers) == (None, 3)
    world.ends("worker-2", "no such module", hopeless=True)
    assert (world.gave_up, world.numbers) == (None, 3)
    world.ends("worker-3", "no such module", hopeless=True)
    assert (world.gave_up, world.numbers) == ("no such module", 3)


def test_fewer_that_are_wanted_meanwhile_are_fewer_at_once() -> None:
    """M2: also while it is open whether any of them can start."""
    world = World(4)
    world.ends("worker-1", "no such module", hopeless=True)
    world.staff.change(1)
    world.goes_on()
    assert (len(world.of(Phase.STARTING)), world.gave_up) == (1, None)


def test_once_another_became_ready_one_that_was_asked_wrongly_is_like_any_other_failure() -> None:
    """A handler that fails on import in one worker only."""
    world = World(2)
    world.ends("worker-1", "no such module", hopeless=True)
    assert world.numbers == 2
    world.ready("worker-2")
    assert world.names() == {"worker-2", "worker-3"}
    world.ends("worker-3", "no such module", hopeless=True)
    assert world.gave_up is None
    world.ends("worker-2", "killed")
    assert world.gave_up is None


# --- reloads ----------------------------------------------------------------------------------------------------------


def test_a_reload_replaces_one_at_a_time_and_drains_it_only_when_the_new_one_is_ready() -> None:
    """M2."""
    world = serving(3)
    world.staff.reload()
    world.goes_on()
    for old, new in (("worker-1", "worker-4"), ("worker-2", "worker-5"), ("worker-3", "worker-6")):
        assert world.names(Phase.STARTING) == {new}
        assert (len(world.names(Phase.READY)), world.names(Phase.DRAINING)) == (3, set())
        world.passes(60.0)
        world.goes_on()
        assert len(world.names()) == 4
        world.ready(new)
        assert (world.names(Phase.DRAINING), world.names(Phase.STARTING)) == ({old}, set())
        world.passes(60.0)
        world.goes_on()
        assert len(world.names()) == 4
        world.ends(old)
    assert world.names() == world.names(Phase.READY) == {"worker-4", "worker-5", "worker-6"}
    assert {each.generation for each in world.of(Phase.READY)} == {2}


def test_a_replacement_that_fails_ends_the_reload_and_the_old_ones_stay() -> None:
    """M3."""
    world = serving(2)
    world.staff.reload()
    world.goes_on()
    world.ends("worker-3", "cannot start", hopeless=True)
    assert world.reloads_ended == 1
    world.passes(3600.0)
    world.goes_on()
    assert world.names() == world.names(Phase.READY) == {"worker-1", "worker-2"}
    assert (world.numbers, world.gave_up) == (3, None)


def test_the_next_reload_is_a_reload_again() -> None:
    world = serving(1)
    for failed in ("worker-2", "worker-3"):
        world.staff.reload()
        world.goes_on()
        world.passes(BACKOFF.maximum)
        world.ends(failed, "cannot start")
    world.staff.reload()
    world.goes_on()
    world.ready()
    assert world.names(Phase.DRAINING) == {"worker-1"}
    assert world.names(Phase.READY) == {"worker-4"}


def test_an_old_worker_that_crashes_during_a_reload_is_started_again_and_the_reload_goes_on() -> None:
    world = serving(2)
    world.staff.reload()
    world.goes_on()
    world.ends("worker-1", "killed")
    assert world.names() == {"worker-2", "worker-3"}
    world.ready()
    assert world.names() == {"worker-2", "worker-3", "worker-4"}
    world.ready()
    assert world.names(Phase.DRAINING) == {"worker-2"}
    assert world.names(Phase.READY) == {"worker-3", "worker-4"}


def test_a_tired_one_is_replaced_by_overlap_and_tried_again_slowly_while_that_fails() -> None:
    """M3: a replacement that cannot start is no crash loop at full speed."""
    world = serving(2)
    world.staff.members["worker-1"].tired = True
    world.goes_on()
    for _ in range(20):
        [name] = world.names(Phase.STARTING)
        world.ends(name, "cannot start")
        assert world.names(Phase.READY) == {"worker-1", "worker-2"}
        world.passes(2 * BACKOFF.maximum)
        world.goes_on()
    assert world.starts[-1] - world.starts[-2] >= BACKOFF.maximum
    immediate = [b - a for a, b in zip(world.starts[2:], world.starts[3:], strict=False) if b - a < BACKOFF.initial]
    assert len(immediate) <= 1
    world.ready()
    assert world.names(Phase.DRAINING) == {"worker-1"}


# --- more and fewer ---------------------------------------------------------------------------------------------------


def test_one_more_is_started_and_one_fewer_is_drained() -> None:
    """M5: the least loaded goes."""
    world = serving(2)
    world.staff.change(3)
    world.goes_on()
    assert world.names(Phase.STARTING) == {"worker-3"}
    world.ready()
    for name, load in (("worker-1", 5), ("worker-2", 3), ("worker-3", 4)):
        world.staff.members[name].load = load
    world.staff.change(2)
    world.goes_on()
    assert world.names(Phase.DRAINING) == {"worker-2"}


def test_there_is_never_fewer_than_one() -> None:
    """M5."""
    world = serving(2)
    world.staff.change(-7)
    world.goes_on()
    assert (world.staff.wanted, len(world.names(Phase.READY))) == (1, 1)


def test_of_those_too_many_the_ones_that_do_not_serve_go_first() -> None:
    """M2: an old one that serves stays until another serves in its place."""
    world = serving(2)
    world.ends("worker-1", "killed")
    assert world.names(Phase.STARTING) == {"worker-3"}
    world.staff.reload()
    world.staff.change(1)
    world.goes_on()
    assert world.names(Phase.READY) == {"worker-2"}
    assert world.names(Phase.DRAINING) == {"worker-3"}
    world.ends("worker-3")
    world.ready()
    assert world.names(Phase.DRAINING) == {"worker-2"}


# --- who gets a connection --------------------------------------------------------------------------------------------


def test_four_hundred_connections_on_four_workers_differ_by_at_most_one() -> None:
    """M5."""
    world = serving(4)
    for given in range(400):
        member = world.staff.choose()
        assert member is not None
        member.load += 1
        loads = [each.load for each in world.staff.members.values()]
        assert max(loads) - min(loads) <= 1
        assert sum(loads) == given + 1
    assert {each.load for each in world.staff.members.values()} == {100}


def test_only_one_that_serves_and_beats_and_has_room_gets_a_connection() -> None:
    """M1, M6."""
    world = serving(4, most=10)
    starting, silent, full, draining = world.staff.members.values()
    starting.phase = Phase.STARTING
    silent.fresh = False
    full.load = 10
    world.staff.drained(draining.name, world.now)
    assert world.staff.choose() is None
    full.load = 9
    assert world.staff.choose() is full


# --- whatever happens -------------------------------------------------------------------------------------------------


class Fates(RuleBasedStateMachine):
    """Workers to whom anything may happen, in any order."""

    @initialize(wanted=st.integers(1, 5), most=st.integers(1, 4), jitter=st.floats(0, 1))
    def begin(self, wanted: int, most: int, jitter: float) -> None:
        self.begins(wanted, most, jitter)

    def begins(self, wanted: int, most: int, jitter: float) -> None:
        self.world = World(wanted, most, random=lambda: jitter)
        self.disturbed = False
        """Whether anything but a reload's own course happened since the last calm."""

    @precondition(lambda self: self.world.gave_up is not None)
    @rule(wanted=st.integers(1, 5))
    def all_begins_anew(self, wanted: int) -> None:
        self.begins(wanted, self.world.staff.most, 0.5)

    def pick(self, data: st.DataObject, *phases: Phase) -> Member | None:
        candidates = self.world.of(*phases)
        return data.draw(st.sampled_from(candidates)) if candidates else None

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data())
    def one_is_ready(self, data: st.DataObject) -> None:
        if member := self.pick(data, Phase.STARTING):
            self.world.ready(member.name)

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data())
    def one_ends_well(self, data: st.DataObject) -> None:
        if member := self.pick(data, Phase.DRAINING):
            self.world.ends(member.name)

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data(), reason=st.sampled_from(["", "crashed"]), hopeless=st.booleans())
    def one_ends_unasked(self, data: st.DataObject, reason: str, hopeless: bool) -> None:
        if member := self.pick(data, *Phase):
            self.disturbed = True
            self.world.ends(member.name, reason, hopeless=hopeless and bool(reason))

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data(), fresh=st.booleans())
    def one_hangs_or_wakes(self, data: st.DataObject, fresh: bool) -> None:
        if member := self.pick(data, *Phase):
            member.fresh = fresh

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data())
    def one_drains_by_itself(self, data: st.DataObject) -> None:
        if member := self.pick(data, Phase.READY):
            self.disturbed = True
            self.world.drains_by_itself(member.name)

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data())
    def one_is_tired(self, data: st.DataObject) -> None:
        if member := self.pick(data, Phase.READY):
            member.tired = True
            self.world.goes_on()

    @precondition(lambda self: self.world.gave_up is None)
    @rule()
    def a_reload_is_asked_for(self) -> None:
        self.world.staff.reload()
        self.world.goes_on()

    @precondition(lambda self: self.world.gave_up is None)
    @rule(by=st.sampled_from([-2, -1, 1, 2]))
    def more_or_fewer_are_wanted(self, by: int) -> None:
        self.disturbed = True
        self.world.staff.change(self.world.staff.wanted + by)
        self.world.goes_on()

    @precondition(lambda self: self.world.gave_up is None)
    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 5.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.passes(seconds)
        if self.world.gave_up is None:
            self.world.goes_on()

    @precondition(lambda self: self.world.gave_up is None)
    @rule()
    def a_connection_comes(self) -> None:
        """M1, M5, M6: a least loaded one that can take it gets it."""
        able = [each for each in self.world.of(Phase.READY) if each.fresh and each.load < self.world.staff.most]
        chosen = self.world.staff.choose()
        if chosen is None:
            assert not able
        else:
            assert chosen in able
            assert chosen.load == min(each.load for each in able)
            chosen.load += 1

    @precondition(lambda self: self.world.gave_up is None)
    @rule(data=st.data())
    def a_connection_ends(self, data: st.DataObject) -> None:
        if (member := self.pick(data, *Phase)) and member.load:
            member.load -= 1

    @precondition(lambda self: self.world.gave_up is None)
    @rule()
    def all_settles(self) -> None:
        """M2: with nothing more to disturb it, there are as many as are wanted, all READY and of the last reload."""
        world = self.world
        for _ in range(200):
            if not self.world.of(Phase.STARTING, Phase.DRAINING) and world.plan.look_again is None:
                break
            for each in world.of(Phase.DRAINING):
                world.ends(each.name)
            world.ready()
            world.passes(BACKOFF.maximum * 1.5)
            world.goes_on()
        assert world.gave_up is None
        assert len(world.of(Phase.READY)) == len(world.staff.members) == world.staff.wanted
        assert {each.generation for each in world.of(Phase.READY)} == {world.staff.generation}
        assert not any(each.tired for each in world.of(Phase.READY))
        self.disturbed = False

    @invariant()
    def never_more_than_one_too_many(self) -> None:
        """M2."""
        world = self.world
        assert len(world.of(Phase.STARTING, Phase.READY)) <= world.staff.wanted + 1
        if not self.disturbed:
            assert len(world.staff.members) <= world.staff.wanted + 1

    @invariant()
    def never_a_step_before_the_one_before_is_done(self) -> None:
        """M2: while one starts in the place of another, no second step is taken."""
        assert sum(each.replaces for each in self.world.of(Phase.STARTING)) <= 1

    @invariant()
    def who_gives_up_has_nobody_that_serves(self) -> None:
        """M3."""
        if self.world.gave_up is not None:
            assert not self.world.of(Phase.READY)

    @invariant()
    def somebody_is_always_on_the_way(self) -> None:
        """M1: whoever is missing starts, or will."""
        world, staff = self.world, self.world.staff
        if world.gave_up is None and len(world.of(Phase.STARTING, Phase.READY)) < staff.wanted:
            waits = world.plan.look_again is not None and world.plan.look_again <= world.now + BACKOFF.maximum * 1.5
            assert waits or (staff.hopeless is not None and world.of(Phase.STARTING))


TestFates = Fates.TestCase
TestFates.settings = examples(80, steps=50)


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_a_reload_never_takes_away_one_that_serves_before_another_does(wanted: int) -> None:
    """M2: at each moment of an undisturbed reload as many serve as are wanted."""
    world = serving(wanted)
    world.staff.reload()
    world.goes_on()
    while any(each.generation < 2 for each in world.staff.members.values()):
        assert len(world.of(Phase.READY)) == wanted
        assert len(world.staff.members) <= wanted + 1
        for each in world.of(Phase.DRAINING):
            world.ends(each.name)
        world.ready()
    assert world.steps == wanted
