"""Actors: their turns, their bodies, and their one end."""

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
from attrs import frozen

from actors.actor import BodyActor, Stop, ask, get_state
from actors.errors import Closed, DeadlineExceeded, LimitReached, Misuse, TransportLost
from actors.mailbox import Overflow, Ref, Reply, SystemMessage, Understood
from actors.messages import Exited, Halt, Kill, Resume, Suspend, TraceOff, TraceOn, Unwatch, Watch
from actors.trace import Recorder, TraceEvent, Tracer
from actors.turns import MESSAGES_PER_TURN, TurnActor


@frozen
class Do:
    """Ask a worker to do this in its turn."""

    act: Callable[["Worker"], object]


@frozen
class Question:
    reply: Reply[str]


@frozen
class Note:
    number: int


class Worker(TurnActor[Any]):
    """A turn actor that writes down what it lives through."""

    __slots__ = ("at_end", "batches", "handled", "lived")

    def __init__(self, name: str = "worker", tracer: Tracer | None = None, **how: Any) -> None:
        super().__init__(name, tracer, **how)
        self.handled: list[Any] = []
        self.lived: list[str] = []
        self.batches: list[int] = []
        self.at_end: Callable[[], object] | None = None

    def begin(self) -> None:
        self.lived.append("begin")

    def receive(self, message: Any) -> None:
        self.handled.append(message)
        match message:
            case Do(act):
                act(self)
            case Question(reply):
                reply.tell("answer")

    def settle(self) -> None:
        self.batches.append(len(self.handled) - sum(self.batches))

    def suspended(self, yes: bool) -> None:
        self.lived.append("suspended" if yes else "resumed")

    def ending(self, reason: BaseException | None) -> None:
        self.lived.append("ending")
        if self.at_end is not None:
            self.at_end()

    def overdue(self) -> None:
        self.lived.append("overdue")


class Runner(BodyActor[Any]):
    """A body actor that runs what it is given."""

    __slots__ = ("_work", "folded")

    def __init__(
        self, work: Callable[[], Awaitable[object]], name: str = "runner", tracer: Tracer | None = None
    ) -> None:
        super().__init__(name, tracer)
        self.folded: list[Any] = []
        self._work = work

    async def body(self) -> None:
        await self._work()

    def fold(self, message: Any) -> None:
        self.folded.append(message)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def fail(error: BaseException) -> Do:
    def act(worker: Worker) -> None:
        raise error

    return Do(act)


def task_of(name: str) -> asyncio.Task[Any]:
    [found] = [task for task in asyncio.all_tasks() if task.get_name() == name]
    return found


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def watcher(told: list[Exited], name: str = "watcher") -> Ref[Exited]:
    return Ref(name, told.append)


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_a_turn_handles_its_backlog_and_settles_once() -> None:
    worker = Worker()
    ref = worker.start()
    for number in range(10):
        ref.tell(number)
    await turns()
    assert worker.handled == list(range(10))
    assert worker.batches == [10]
    ref.tell(10)
    await turns()
    assert worker.batches == [10, 1]
    assert worker.lived == ["begin"]
    await worker.stop()


async def test_a_turn_takes_no_more_than_its_bound_and_keeps_the_order() -> None:
    worker = Worker()
    ref = worker.start()
    for number in range(3 * MESSAGES_PER_TURN + 5):
        ref.tell(number)
    await turns(10)
    assert worker.handled == list(range(3 * MESSAGES_PER_TURN + 5))
    assert max(worker.batches) <= MESSAGES_PER_TURN
    await worker.stop()


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.bulk
@pytest.mark.parametrize(("count", "each"), [(100_000, 0.0), (2_000, 0.0001)], ids=["100,000 quick", "2,000 slow"])
async def test_a_long_backlog_lets_other_tasks_run_in_between(count: int, each: float) -> None:
    """R12: a backlog of 100,000 messages never keeps the loop from other tasks for more than 10 ms at a time.

    Measured in the thread's own time: a busy machine does not count. One collection of garbage may pass.
    """
    worker = Worker(bound=count)
    ref = worker.start()
    work = Do(lambda _: spin(each)) if each else Note(0)
    for _ in range(count):
        ref.tell(work)
    gaps: list[float] = []
    last = time.thread_time()
    while len(worker.handled) < count:
        await asyncio.sleep(0)
        now = time.thread_time()
        gaps.append(now - last)
        last = now
    assert len(gaps) >= max(count // MESSAGES_PER_TURN, count * each / 0.010)
    assert sorted(gaps)[-2] < 0.010
    assert max(gaps) < 0.2
    await worker.stop()


@pytest.mark.bulk
async def test_an_actor_that_ends_with_a_long_backlog_lets_other_tasks_run_as_well() -> None:
    """R12: also at the end, where 100,000 messages become dead letters."""
    worker = Worker(bound=100_000)
    worker.start()
    for _ in range(100_000):
        worker.tell(Note(0))
    worker.signal(Halt(None))
    gaps: list[float] = []
    last = time.thread_time()
    while worker.exited is None:
        await asyncio.sleep(0)
        now = time.thread_time()
        gaps.append(now - last)
        last = now
    assert worker.mailbox.dead_letters == 100_000
    assert len(gaps) >= 100_000 // MESSAGES_PER_TURN
    assert sorted(gaps)[-2] < 0.010


@pytest.mark.bulk
async def test_an_actor_cancelled_while_it_puts_a_long_backlog_away_still_counts_each_message_once() -> None:
    """R6."""
    worker = Worker(bound=100_000)
    worker.start()
    for _ in range(10 * MESSAGES_PER_TURN):
        worker.tell(Note(0))
    worker.signal(Halt(None))
    await turns(4)
    assert worker.exited is None
    task_of("worker").cancel()
    assert await worker.wait() == Exited("worker", None, crashed=False)
    assert worker.mailbox.dead_letters == 10 * MESSAGES_PER_TURN


async def test_a_timer_tells_its_message_and_one_taken_back_does_not() -> None:
    worker = Worker()
    worker.start()
    worker.after(0, "rung")
    worker.after(0, "never").cancel()
    await asyncio.sleep(0.001)
    await turns()
    assert worker.handled == ["rung"]
    await worker.stop()


@pytest.mark.virtual_time
async def test_timers_end_with_their_actor() -> None:
    worker = Worker()
    worker.start()
    worker.after(5, "late")
    worker.at_end = lambda: worker.after(1, "set at the very end")
    await worker.stop()
    await asyncio.sleep(60)
    assert worker.handled == []
    assert worker.mailbox.dead_letters == 0


@pytest.mark.virtual_time
async def test_timers_that_were_taken_back_are_not_kept() -> None:
    class Blob:
        pass

    worker = Worker()
    worker.start()
    kept = []
    for _ in range(1000):
        blob = Blob()
        kept.append(weakref.ref(worker.after(3600, blob)))
        worker.after(3600, blob).cancel()
    for handle in kept:
        found = handle()
        assert found is not None
        found.cancel()
    del found, blob
    await asyncio.sleep(3601)
    gc.collect()
    assert [handle for handle in kept if handle() is not None] == []
    await worker.stop()


# --- the end: exactly once, with its first cause ----------------------------------------------------------------------


async def test_an_actor_that_finishes_by_itself_has_no_reason() -> None:
    """R6."""
    told: list[Exited] = []
    runner = Runner(lambda: asyncio.sleep(0))
    runner.start(watcher(told))
    assert await runner.wait() == Exited("runner", None, crashed=False)
    assert told == [runner.exited]


@pytest.mark.parametrize("kind", [Worker, lambda: Runner(forever, "worker")], ids=["turn", "body"])
@pytest.mark.parametrize("steps", [0, 5], ids=["before its first step", "later"])
async def test_a_task_cancelled_from_outside_is_reported_once_as_a_crash(
    kind: Callable[[], Worker | Runner], steps: int
) -> None:
    """R6: exactly once, also when the task is cancelled before its first step."""
    told: list[Exited] = []
    actor = kind()
    actor.start(watcher(told))
    await turns(steps)
    task_of("worker").cancel()
    exited = await actor.wait()
    assert told == [exited]
    assert exited.crashed
    assert isinstance(exited.reason, asyncio.CancelledError)
    await turns()
    assert len(told) == 1


@pytest.mark.parametrize("kind", [Worker, lambda: Runner(forever, "worker")], ids=["turn", "body"])
@pytest.mark.parametrize("steps", [0, 5], ids=["before its first step", "later"])
async def test_an_actor_that_is_stopped_says_why_and_is_no_crash(
    kind: Callable[[], Worker | Runner], steps: int
) -> None:
    """R6."""
    told: list[Exited] = []
    actor = kind()
    actor.start(watcher(told))
    await turns(steps)
    cause = Closed("enough")
    exited = await actor.stop(cause)
    assert exited == Exited("worker", cause, crashed=False)
    assert told == [exited]


@pytest.mark.parametrize("steps", [0, 5], ids=["before its first step", "later"])
async def test_a_turn_actor_says_its_last_words_however_early_it_is_cancelled(steps: int) -> None:
    worker = Worker()
    worker.start()
    worker.tell("never handled")
    if steps:
        await turns(steps)
    task_of("worker").cancel()
    await worker.wait()
    assert worker.lived == (["begin", "ending", "overdue"] if steps else ["ending", "overdue"])
    assert worker.mailbox.dead_letters == (0 if steps else 1)


async def swallow_everything(done: list[str]) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        done.append("swallowed")


async def test_swallowing_the_cancellation_does_not_change_the_reason() -> None:
    """R6: the first cause is set down before the cancellation, and wins."""
    done: list[str] = []
    told: list[Exited] = []
    runner = Runner(lambda: swallow_everything(done))
    runner.start(watcher(told))
    await turns()
    cause = Closed("enough")
    assert await runner.stop(cause) == Exited("runner", cause, crashed=False)
    assert done == ["swallowed"]
    assert told == [runner.exited]


@pytest.mark.logs_errors("runner crashed.*on the way out")
async def test_an_error_in_cleaning_up_does_not_change_the_reason_and_is_logged() -> None:
    """R6: the first cause."""

    async def work() -> None:
        try:
            await forever()
        finally:
            raise ValueError("on the way out")

    runner = Runner(work)
    runner.start()
    await turns()
    cause = Closed("enough")
    assert await runner.stop(cause) == Exited("runner", cause, crashed=False)


async def test_being_told_again_does_not_disturb_the_cleaning_up() -> None:
    """Stopping again just waits, whoever does it and however often."""
    done: list[str] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            await turns(20)
            done.append("clean")

    runner = Runner(work)
    runner.start()
    await turns()
    first = Closed("first")
    ends = [asyncio.create_task(runner.stop(first))]
    for _ in range(5):
        await turns(1)
        ends.append(asyncio.create_task(runner.stop(Closed("again"))))
    exits = await asyncio.gather(*ends)
    assert done == ["clean"]
    assert exits == [Exited("runner", first, crashed=False)] * 6


async def test_a_body_that_raises_stop_ends_without_a_crash() -> None:
    cause = Closed("done")

    async def work() -> None:
        raise Stop(cause)

    runner = Runner(work)
    runner.start()
    assert await runner.wait() == Exited("runner", cause, crashed=False)


@pytest.mark.logs_errors("runner crashed")
async def test_a_body_that_fails_is_a_crash_logged_once() -> None:
    error = ValueError("oops")

    async def work() -> None:
        raise error

    runner = Runner(work)
    runner.start()
    assert await runner.wait() == Exited("runner", error, crashed=True)


@pytest.mark.logs_errors("worker crashed.*oops")
@pytest.mark.parametrize("error", [ValueError("oops"), Misuse("oops")])
async def test_a_turn_that_fails_is_a_crash_and_what_was_not_handled_is_a_dead_letter(error: Exception) -> None:
    """R6."""
    told: list[Exited] = []
    worker = Worker()
    ref = worker.start(watcher(told))
    ref.tell(fail(error))
    ref.tell("left")
    assert await worker.wait() == Exited("worker", error, crashed=True)
    assert told == [worker.exited]
    assert worker.mailbox.dead_letters == 1
    assert worker.lived == ["begin", "ending"]


@pytest.mark.logs_errors("worker crashed.*oops")
@pytest.mark.parametrize("hook", ["begin", "settle", "suspended"])
async def test_a_hook_that_fails_is_a_crash(hook: str) -> None:
    class Broken(Worker):
        __slots__ = ()

    def broken(*_: object) -> None:
        raise ValueError("oops")

    setattr(Broken, hook, broken)
    worker = Broken()
    ref = worker.start()
    ref.tell("go")
    if hook == "suspended":
        ref.signal(Suspend())
    exited = await worker.wait()
    assert (str(exited.reason), exited.crashed) == ("oops", True)


async def test_a_turn_that_raises_stop_ends_without_a_crash() -> None:
    cause = TransportLost("gone")
    worker = Worker()
    worker.start().tell(fail(Stop(cause)))
    assert await worker.wait() == Exited("worker", cause, crashed=False)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("count", [1, 5, 3 * MESSAGES_PER_TURN])
async def test_messages_left_in_the_mailbox_become_dead_letters_exactly_once(
    traced: bool, suspended: bool, count: int
) -> None:
    """R6: those in the batch, those in the mailbox and those that came too late."""
    tracer, recorder = Tracer(), Recorder(10**9)
    if traced:
        tracer.attach(recorder)
    worker = Worker(tracer=tracer)
    ref = worker.start()
    ref.tell("first")
    for _ in range(count):
        ref.tell(Note(0))
    if suspended:
        ref.signal(Suspend())
    else:
        await turns(1 if count > MESSAGES_PER_TURN else 0)
    await worker.stop()
    ref.tell("late")
    handled = len(worker.handled)
    assert handled < count + 1
    assert worker.mailbox.dead_letters == count + 2 - handled
    if traced:
        assert len([event for event in recorder if event.dead]) == worker.mailbox.dead_letters


async def test_messages_told_to_an_actor_that_has_ended_are_dead_letters_and_say_so() -> None:
    """R6."""
    runner = Runner(forever)
    ref = runner.start()
    assert ref.tell("folded")
    await runner.stop()
    assert ref.tell("late") is False
    assert runner.dead_letters == 1
    assert runner.folded == ["folded"]


async def test_an_actor_lives_once() -> None:
    worker = Worker()
    worker.start()
    with pytest.raises(Misuse, match="worker was started already"):
        worker.start()
    await worker.stop()
    with pytest.raises(Misuse, match="an actor lives once"):
        worker.start()


async def test_stopping_what_was_never_started_is_misuse() -> None:
    for actor in (Worker(), Runner(forever)):
        with pytest.raises(Misuse, match="was never started"):
            await actor.stop()


async def test_a_body_that_was_told_to_end_before_it_was_started_never_runs() -> None:
    done: list[str] = []
    runner = Runner(lambda: swallow_everything(done))
    cause = Closed("too late")
    runner.signal(Halt(cause))
    runner.start()
    assert await runner.wait() == Exited("runner", cause, crashed=False)
    assert done == []


async def test_stopping_from_fifty_tasks_at_once_tells_each_the_same_end() -> None:
    """R6: and its watchers once."""
    told: list[Exited] = []
    worker = Worker()
    worker.start(watcher(told))
    exits = await asyncio.gather(*(worker.stop(Closed(str(number))) for number in range(50)))
    assert len({id(exited) for exited in exits}) == 1
    assert str(exits[0].reason) == "0"
    assert told == [exits[0]]
    assert await worker.stop() is exits[0]


async def test_cancelling_one_who_waits_for_an_end_harms_no_other() -> None:
    worker = Worker()
    worker.start()
    waits = [asyncio.create_task(worker.wait()) for _ in range(3)]
    await turns()
    waits[1].cancel()
    await turns()
    await worker.stop()
    await asyncio.wait(waits)
    assert [task.cancelled() for task in waits] == [False, True, False]


# --- guests: body actors in their caller's task -----------------------------------------------------------------------


@pytest.mark.parametrize("end", [Halt(Closed("enough")), Kill()], ids=["Halt", "Kill"])
async def test_a_guest_that_is_told_to_end_has_ended_at_once_and_its_caller_goes_on(end: SystemMessage) -> None:
    """R6: there is no task to cancel, and the caller's is left alone."""
    told: list[Exited] = []
    runner = Runner(forever)
    runner.enter(watcher(told))
    assert (await get_state(runner.ref)).status == "running"
    runner.signal(end)
    assert told == [Exited("runner", end.cause if isinstance(end, Halt) else None, crashed=False)]
    runner.leave(Closed("too late"))
    runner.signal(end)
    assert await runner.stop() is told[0]
    assert len(told) == 1
    await asyncio.sleep(0)  # would raise, had the task been cancelled


async def test_a_guest_that_was_told_to_end_before_it_came_has_ended_as_it_comes() -> None:
    told: list[Exited] = []
    runner = Runner(forever)
    cause = Closed("too late")
    runner.signal(Halt(cause))
    runner.enter(watcher(told))
    assert told == [Exited("runner", cause, crashed=False)]


async def test_an_actor_lives_once_as_a_guest_or_in_a_task_of_its_own() -> None:
    guest, host = Runner(forever), Runner(forever)
    guest.enter()
    host.start()
    for runner in (guest, host):
        with pytest.raises(Misuse, match="an actor lives once"):
            runner.enter()
        with pytest.raises(Misuse, match="an actor lives once"):
            runner.start()
    guest.leave(None)
    await host.stop()


# --- watchers ---------------------------------------------------------------------------------------------------------


async def test_one_who_watches_twice_is_told_once() -> None:
    """R6: exactly once."""
    told: list[Exited] = []
    worker = Worker()
    ref = worker.start(watcher(told), watcher(told))
    ref.signal(Watch(watcher(told, "by another name")))
    await worker.stop()
    assert len(told) == 1


async def test_one_who_watches_no_more_is_not_told_and_one_who_comes_late_is_told_at_once() -> None:
    told: list[Exited] = []
    late: list[Exited] = []
    worker = Worker()
    ref = worker.start(watcher(told))
    ref.signal(Unwatch(watcher(told)))
    ref.signal(Unwatch(watcher(told)))
    await worker.stop()
    assert told == []
    ref.signal(Watch(watcher(late)))
    assert late == [worker.exited]


@pytest.mark.logs_errors("worker failed at its end")
async def test_a_watcher_that_raises_keeps_no_other_from_being_told() -> None:
    """R6."""

    def broken(exited: Exited) -> None:
        raise ValueError("a broken watcher")

    before: list[Exited] = []
    after: list[Exited] = []
    worker = Worker()
    worker.start(watcher(before), Ref("broken", broken), watcher(after))
    exited = await worker.stop()
    assert before == after == [exited]


@pytest.mark.logs_errors("runner failed at its end, in .*_finish.*cannot let go")
async def test_an_actor_that_fails_to_let_go_is_reported_all_the_same() -> None:
    """R6."""

    class Clinging(Runner):
        __slots__ = ()

        def _finish(self, exited: Exited) -> None:
            raise ValueError("cannot let go")

    told: list[Exited] = []
    runner = Clinging(forever)
    runner.start(watcher(told))
    exited = await runner.stop()
    assert told == [exited]


# --- children ---------------------------------------------------------------------------------------------------------


def with_children(parent: Worker, *children: Any) -> None:
    parent.tell(Do(lambda me: [me.start_child(child) for child in children]))


async def test_children_end_with_their_parent_and_name_its_reason() -> None:
    parent = Worker("parent")
    parent.start()
    children = [Worker("a"), Runner(forever, "b")]
    with_children(parent, *children)
    await turns()
    assert set(parent.children) == {"a", "b"}
    cause = Closed("enough")
    await parent.stop(cause)
    assert [child.exited and child.exited.reason for child in children] == [cause, cause]
    assert parent.children == {}


@pytest.mark.logs_errors("parent crashed.*oops")
async def test_children_of_a_crash_are_told_of_it() -> None:
    parent = Worker("parent")
    parent.start()
    child = Runner(forever, "child")
    with_children(parent, child)
    error = ValueError("oops")
    parent.tell(fail(error))
    await parent.wait()
    assert child.exited is not None
    assert isinstance(child.exited.reason, Closed)
    assert child.exited.reason.__cause__ is error


async def test_a_childs_end_is_told_to_its_parent_and_costs_it_nothing_else() -> None:
    parent = Worker("parent")
    parent.start()
    with_children(parent, Runner(lambda: asyncio.sleep(0), "child"))
    await turns(6)
    assert parent.handled[1:] == [Exited("child", None, crashed=False)]
    assert parent.children == {}
    await parent.stop()


@pytest.mark.logs_errors("parent crashed.*has a child twin already")
async def test_a_second_child_of_one_name_is_misuse_and_the_first_still_ends_with_its_parent() -> None:
    parent = Worker("parent")
    parent.start()
    first, second = Runner(forever, "twin"), Runner(forever, "twin")
    with_children(parent, first, second)
    await parent.wait()
    assert first.exited is not None


async def stubborn(until: asyncio.Event) -> None:
    while not until.is_set():
        try:
            await until.wait()
        except asyncio.CancelledError:
            continue


@pytest.mark.virtual_time
@pytest.mark.logs_errors("parent ended without waiting for child: cancelled, but not ended")
async def test_a_child_that_swallows_its_cancellation_is_named_and_holds_nobody_up() -> None:
    parent = Worker("parent", shutdown_timeout=2.0)
    parent.start()
    until = asyncio.Event()
    child = Runner(lambda: stubborn(until), "child")
    quick = Runner(forever, "quick")
    with_children(parent, child, quick)
    await turns()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    cause = Closed("enough")
    assert await parent.stop(cause) == Exited("parent", cause, crashed=False)
    assert loop.time() - begun == pytest.approx(2.0)
    assert parent.lived == ["begin", "ending", "overdue"]
    assert quick.exited is not None
    until.set()
    await child.wait()


@pytest.mark.virtual_time
async def test_an_actor_cancelled_while_it_waits_for_its_children_ends_at_once_with_its_first_cause() -> None:
    """R6."""
    told: list[Exited] = []
    parent = Worker("parent", shutdown_timeout=60.0)
    parent.start(watcher(told))
    until = asyncio.Event()
    child = Runner(lambda: stubborn(until), "child")
    with_children(parent, child)
    await turns()
    cause = Closed("enough")
    stopping = asyncio.create_task(parent.stop(cause))
    await turns()
    for _ in range(3):
        parent.tell("late")
    task_of("parent").cancel()
    assert await stopping == Exited("parent", cause, crashed=False)
    assert asyncio.get_running_loop().time() == 0
    assert told == [parent.exited]
    assert parent.mailbox.dead_letters == 3
    assert parent.lived == ["begin", "ending", "overdue"]
    until.set()
    await child.wait()


@pytest.mark.logs_errors("parent failed at its end, in .*ending.*no last words")
@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_last_words_that_fail_keep_no_child_alive(how: str) -> None:
    class Broken(Worker):
        __slots__ = ()

        def ending(self, reason: BaseException | None) -> None:
            raise ValueError("no last words")

    parent = Broken("parent")
    parent.start()
    child = Runner(forever, "child")
    with_children(parent, child)
    await turns()
    if how == "stopped":
        exited = await parent.stop(Closed("enough"))
        assert str(exited.reason) == "enough"
    else:
        task_of("parent").cancel()
        await parent.wait()
    await turns()
    assert child.exited is not None


def test_a_loop_that_ends_with_actors_alive_ends_them_all() -> None:
    """The loop cancels every task; each actor still ends, with its last words, and nothing is destroyed pending."""
    parent, child = Worker("parent"), Runner(forever, "child")
    told: list[Exited] = []

    async def main() -> None:
        parent.start(watcher(told))
        with_children(parent, child, Worker("grandchild"))
        await turns()

    with asyncio.Runner(debug=True) as runner:
        complaints: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(main())
    gc.collect()
    assert complaints == []
    assert len(told) == 1
    assert parent.lived == ["begin", "ending", "overdue"]
    assert child.exited is not None


async def test_an_ended_actor_and_what_ended_it_can_be_forgotten() -> None:
    class Payload:
        pass

    async def live() -> tuple[weakref.ref[Any], weakref.ref[Any], weakref.ref[Any]]:
        payload = Payload()

        async def work() -> None:
            kept = payload
            try:
                await forever()
            except asyncio.CancelledError:
                raise Closed("with a traceback that holds the frame") from None
            finally:
                del kept

        worker, runner = Worker(), Runner(work)
        worker.start()
        runner.start()
        worker.tell(payload)
        await turns()
        await worker.stop()
        await runner.stop()
        return weakref.ref(worker), weakref.ref(runner), weakref.ref(payload)

    remains = await live()
    gc.collect()
    assert [remain() for remain in remains] == [None, None, None]


# --- overflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["waiting", "in a turn", "suspended", "behind a backlog"])
@pytest.mark.logs_errors("worker crashed.*overflowed at 10 messages")
async def test_an_actor_whose_mailbox_overflows_under_close_ends_with_limit_reached(state: str) -> None:
    """R10: close; and no turn is blocked by it."""
    worker = Worker(bound=10)
    ref = worker.start()
    if state != "waiting":
        await turns()
    if state == "suspended":
        ref.signal(Suspend())
        await turns()
    if state == "in a turn":
        ref.tell(Do(lambda me: [me.tell("flood") for _ in range(20)]))
    else:
        for _ in range(20):
            ref.tell("flood")
    exited = await worker.wait()
    assert exited.crashed
    assert isinstance(exited.reason, LimitReached)
    assert worker.mailbox.dead_letters == 20


@pytest.mark.parametrize("overflow", [Overflow.REFUSE, Overflow.DROP_OLDEST])
async def test_an_actor_that_loses_messages_by_its_policy_lives_on(overflow: Overflow) -> None:
    """R10: refuse and drop oldest."""
    worker = Worker(bound=10, overflow=overflow)
    ref = worker.start()
    for number in range(25):
        ref.tell(number)
    await turns()
    assert worker.handled == (list(range(10)) if overflow is Overflow.REFUSE else list(range(15, 25)))
    assert (await get_state(ref)).dead_letters == 15
    await worker.stop()


@pytest.mark.virtual_time
@pytest.mark.logs_errors("parent crashed.*overflowed")
@pytest.mark.parametrize("child_ended", [False, True])
async def test_an_overflow_does_not_hide_the_ends_of_children(child_ended: bool) -> None:
    """Nobody is named as not ended who has, and nobody waits for the shutdown time in vain."""
    parent = Worker("parent", bound=10, shutdown_timeout=30.0)
    parent.start()
    until = asyncio.Event()

    async def work() -> None:
        await until.wait()

    child, other = Runner(work, "child"), Runner(forever, "other")
    with_children(parent, child, other)
    await turns()
    parent.signal(Suspend())
    await turns()
    if child_ended:
        until.set()
        await child.wait()
    for _ in range(20):
        parent.tell("flood")
    exited = await parent.wait()
    assert isinstance(exited.reason, LimitReached)
    assert asyncio.get_running_loop().time() == 0
    assert child.exited is not None
    assert other.exited is not None
    assert parent.lived == ["begin", "suspended", "ending"]


@pytest.mark.logs_errors("parent crashed.*overflowed")
async def test_a_flood_that_goes_on_while_an_actor_ends_does_not_keep_it() -> None:
    parent = Worker("parent", bound=10)
    parent.start()
    until = asyncio.Event()
    child = Runner(lambda: stubborn(until), "child")
    with_children(parent, child)
    await turns()
    while parent.exited is None:
        for _ in range(20):
            parent.tell("flood")
        await turns(1)
    assert isinstance(parent.exited.reason, LimitReached)
    until.set()
    await child.wait()


# --- ask --------------------------------------------------------------------------------------------------------------


class Silent(Worker):
    """Never answers."""

    __slots__ = ()

    def receive(self, message: Any) -> None:
        self.handled.append(message)


async def test_ask_brings_the_answer() -> None:
    worker = Worker()
    ref = worker.start()
    assert await ask(ref, Question, 1.0) == "answer"
    assert await asyncio.gather(*(ask(ref, Question, 1.0) for _ in range(50))) == ["answer"] * 50
    await worker.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0, 0.5, 7.0])
async def test_ask_ends_by_its_deadline(seconds: float) -> None:
    """R7: by its deadline."""
    worker = Silent()
    ref = worker.start()
    with pytest.raises(DeadlineExceeded, match=f"worker did not answer within {seconds:g} s"):
        await ask(ref, Question, seconds)
    assert asyncio.get_running_loop().time() == pytest.approx(seconds)
    # A late answer finds nobody, and says nothing.
    for question in worker.handled:
        question.reply.tell("late")
    await worker.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["stopped", "stopped before the question is seen", "cancelled", "stops by itself"])
async def test_the_end_of_the_asked_actor_resolves_the_question_at_once_with_the_reason(how: str) -> None:
    """R7: at once, with the reason."""
    worker = Silent()
    ref = worker.start()
    if how == "stops by itself":
        worker.after(5.0, "x")
    asking = asyncio.create_task(ask(ref, Question, 3600.0))
    if how != "stopped before the question is seen":
        await turns()
    if how == "cancelled":
        task_of("worker").cancel()
    else:
        ref.signal(Halt(Closed("enough")))
    with pytest.raises(Closed, match="worker has ended") as ended:
        await asking
    assert worker.exited is not None
    assert ended.value.__cause__ is worker.exited.reason
    assert asyncio.get_running_loop().time() == 0


@pytest.mark.virtual_time
@pytest.mark.logs_errors("worker crashed.*oops")
async def test_the_crash_of_the_asked_actor_resolves_the_question_at_once_with_the_error() -> None:
    """R7."""
    worker = Worker()
    ref = worker.start()
    error = ValueError("oops")
    ref.tell(fail(error))
    with pytest.raises(Closed, match="worker has ended: oops") as ended:
        await ask(ref, Question, 3600.0)
    assert ended.value.__cause__ is error
    assert asyncio.get_running_loop().time() == 0


async def test_asking_the_dead_is_answered_at_once_with_their_reason() -> None:
    """R7."""
    worker = Worker()
    ref = worker.start()
    cause = Closed("enough")
    await worker.stop(cause)
    with pytest.raises(Closed, match="worker has ended: enough") as ended:
        await ask(ref, Question, 3600.0)
    assert ended.value.__cause__ is cause


async def test_a_question_that_is_refused_fails_at_once() -> None:
    """R7: a full mailbox gives no answer either."""
    worker = Worker(bound=1, overflow=Overflow.REFUSE)
    ref = worker.start()
    ref.tell("full")
    with pytest.raises(Closed, match="worker refused the question"):
        await ask(ref, Question, 3600.0)
    await worker.stop()


async def test_a_question_that_the_dead_do_not_understand_is_misuse_and_leaves_nothing_behind() -> None:
    worker = Choosy()
    ref: Ref[Any] = worker.start()
    await worker.stop()
    with pytest.raises(Misuse, match="does not understand Question"):
        await ask(ref, Question, 1.0)


async def test_cancelling_one_who_asks_harms_no_other_and_leaves_no_watcher() -> None:
    worker = Silent()
    ref = worker.start()
    asking = [asyncio.create_task(ask(ref, Question, 60.0)) for _ in range(3)]
    await turns()
    asking[0].cancel()
    await turns()
    for question in worker.handled:
        question.reply.tell("answer")
    await asyncio.wait(asking)
    assert asking[0].cancelled()
    assert [task.result() for task in asking[1:]] == ["answer", "answer"]
    await worker.stop()


# --- what is understood -----------------------------------------------------------------------------------------------


class Choosy(TurnActor[Note | Do]):
    __slots__ = ()
    understands: ClassVar[Understood] = Note | Do

    def __init__(self, name: str = "choosy") -> None:
        super().__init__(name)

    def receive(self, message: Note | Do) -> None:
        pass


class ChoosyBody(BodyActor[Note]):
    __slots__ = ()
    understands: ClassVar[Understood] = Note

    async def body(self) -> None:
        await forever()

    def fold(self, message: Note) -> None:
        pass


async def test_a_message_that_is_not_understood_is_refused_at_tell_and_by_the_type_checker() -> None:
    """R8: naming what is understood, in debug mode; mypy fails on an ignore here that hides no error."""
    choosy = Choosy()
    ref = choosy.start()
    with pytest.raises(Misuse, match=r"^choosy does not understand str; it understands Do, Note$"):
        ref.tell("hello")  # type: ignore[arg-type]
    with pytest.raises(Misuse, match=r"^choosy does not understand int"):
        choosy.tell(5)  # type: ignore[arg-type]
    assert ref.tell(Note(1))
    body = ChoosyBody("body")
    body_ref = body.start()
    with pytest.raises(Misuse, match=r"^body does not understand str; it understands Note$"):
        body_ref.tell("hello")  # type: ignore[arg-type]
    await choosy.stop()
    await body.stop()


@pytest.mark.bulk
async def test_outside_debug_mode_nothing_is_checked_at_tell() -> None:
    """R8: (in debug mode)."""
    choosy = Choosy()
    assert choosy.start().tell("hello")  # type: ignore[arg-type]
    await choosy.stop()


# --- system messages --------------------------------------------------------------------------------------------------


async def test_system_messages_are_answered_within_a_turn_behind_a_backlog_of_10_000() -> None:
    """R9: get_state, suspend, resume, trace on and trace off."""
    worker = Worker()
    ref = worker.start()
    await turns()
    seen: list[TraceEvent] = []
    for number in range(10_000):
        ref.tell(Note(number))
    state = await get_state(ref)
    assert state.status == "running"
    assert len(worker.handled) <= MESSAGES_PER_TURN
    assert state.waiting >= 10_000 - MESSAGES_PER_TURN
    ref.signal(Suspend())
    await turns(1)
    handled = len(worker.handled)
    assert handled <= 2 * MESSAGES_PER_TURN
    await turns(5)
    state = await get_state(ref)
    assert (state.status, state.waiting) == ("suspended", 10_000 - handled)
    assert len(worker.handled) == handled
    assert worker.lived == ["begin", "suspended"]
    ref.signal(TraceOn(seen.append))
    await turns(1)
    ref.tell("traced")
    assert [event.type for event in seen] == ["str"]
    ref.signal(TraceOff(seen.append))
    await turns(1)
    ref.tell("not traced")
    assert len(seen) == 1
    ref.signal(Resume())
    await turns(1)
    assert handled < len(worker.handled) <= handled + MESSAGES_PER_TURN
    assert (await get_state(ref)).status == "running"
    await turns(20)
    assert worker.handled == [*(Note(number) for number in range(10_000)), "traced", "not traced"]
    await worker.stop()


async def test_suspending_twice_is_suspending_once() -> None:
    worker = Worker()
    ref = worker.start()
    for message in (Resume(), Suspend(), Suspend(), Resume(), Resume()):
        ref.signal(message)
    await turns()
    assert worker.lived == ["begin", "suspended", "resumed"]
    ref.tell("go on")
    await turns()
    assert worker.handled == ["go on"]
    await worker.stop()


async def test_a_suspended_actors_mailbox_keeps_its_bound() -> None:
    """R10."""
    worker = Worker(bound=5, overflow=Overflow.REFUSE)
    ref = worker.start()
    ref.signal(Suspend())
    await turns()
    for _ in range(5):
        assert ref.tell("waiting")
        await turns()
    assert not ref.tell("one too many")
    ref.signal(Resume())
    await turns()
    assert worker.handled == ["waiting"] * 5
    await worker.stop()


@pytest.mark.parametrize("order", [[Suspend(), Halt(None)], [Halt(None), Suspend()], [Suspend(), Resume(), Halt(None)]])
async def test_an_actor_ends_whatever_was_said_about_suspending(order: list[SystemMessage]) -> None:
    worker = Worker()
    ref = worker.start()
    ref.tell("waiting")
    for message in order:
        ref.signal(message)
    await worker.wait()
    assert worker.handled == []
    assert worker.mailbox.dead_letters == 1


@pytest.mark.virtual_time
async def test_who_asks_for_the_state_of_an_actor_that_ends_is_answered_at_once() -> None:
    """R9: also when the question stands behind the order to end."""
    worker = Worker()
    ref = worker.start()
    await turns()
    ref.signal(Halt(None))
    state = await get_state(ref)
    assert state.status in ("stopping", "ended")
    assert asyncio.get_running_loop().time() == 0
    assert (await get_state(ref)).status == "ended"


@pytest.mark.virtual_time
async def test_an_actor_answers_and_can_be_traced_while_it_ends() -> None:
    parent = Worker("parent", shutdown_timeout=60)
    ref = parent.start()
    until = asyncio.Event()
    child = Runner(lambda: stubborn(until), "child")
    with_children(parent, child)
    await turns()
    seen: list[TraceEvent] = []
    ref.signal(TraceOn(seen.append))
    ref.signal(Halt(None))
    ref.signal(TraceOff(seen.append))
    await turns()
    assert not parent.tracer.on
    state = await get_state(ref)
    assert (state.status, state.children) == ("stopping", ("child",))
    until.set()
    await parent.wait()
    assert asyncio.get_running_loop().time() == 0


async def test_a_body_answers_at_any_time_and_cannot_be_suspended() -> None:
    runner = Runner(forever)
    ref = runner.start()
    assert (await get_state(ref)).status == "running"
    for message in (Suspend(), Resume()):
        with pytest.raises(Misuse, match="only turn actors can"):
            ref.signal(message)
    seen: list[TraceEvent] = []
    ref.signal(TraceOn(seen.append))
    ref.tell("traced")
    ref.signal(TraceOff(seen.append))
    ref.tell("not traced")
    assert len(seen) == 1
    stopping = asyncio.create_task(runner.stop())
    await turns(1)
    assert (await get_state(ref)).status == "stopping"
    await stopping
    assert (await get_state(ref)).status == "ended"
    assert ref.signal(Suspend()) is False


async def test_a_mere_ref_answers_no_system_messages() -> None:
    told: list[Any] = []
    with pytest.raises(Closed, match="list answers no system messages"):
        await get_state(Ref("list", told.append))


@pytest.mark.virtual_time
async def test_the_state_of_an_actor_that_was_never_started_is_waited_for_no_longer_than_its_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match="worker did not answer within 2 s"):
        await get_state(Worker().ref, 2.0)


async def test_a_state_tells_what_waits_what_was_lost_and_who_belongs_to_it() -> None:
    worker = Worker(bound=2, overflow=Overflow.REFUSE)
    ref = worker.start()
    with_children(worker, Runner(forever, "child"))
    await turns()
    ref.signal(Suspend())
    for number in range(5):
        ref.tell(number)
    state = await get_state(ref)
    assert (state.name, state.status, state.waiting, state.dead_letters) == ("worker", "suspended", 2, 3)
    assert state.children == ("child",)
    assert state.detail == {}
    await worker.stop()


# --- causes -----------------------------------------------------------------------------------------------------------


def traced() -> tuple[Tracer, Recorder]:
    tracer, recorder = Tracer(), Recorder(10**9)
    tracer.attach(recorder)
    return tracer, recorder


def roots(recorder: Recorder) -> set[str]:
    """Who began the chain that each event belongs to."""
    return {recorder.chain(event.id)[-1].sender for event in recorder}


async def test_from_every_event_one_can_walk_back_to_what_began_it() -> None:
    """T2: through children, answers, timers, a stop, a crash's end and dead letters."""
    tracer, recorder = traced()
    parent = Worker("parent", tracer)
    ref = parent.start()
    child = Worker("child", tracer)
    runner = Runner(forever, "runner", tracer)

    def begin(me: Worker) -> None:
        me.start_child(child).tell(Do(lambda him: ref.tell("from the child")))
        me.start_child(runner).tell("to the runner")
        me.after(0, Do(lambda him: child.tell("after the timer")))

    tracer.speak_as("socket")
    ref.tell(Do(begin))
    tracer.speak_as("caller")
    await asyncio.sleep(0.001)
    await turns(6)
    parent.tell("never handled")
    ref.signal(Suspend())
    await parent.stop()
    for event in recorder:
        chain = recorder.chain(event.id)
        assert chain[-1].cause == 0, f"{event} has lost its cause"
    assert roots(recorder) == {"socket", "timer", "caller"}
    where = {(event.sender, event.receiver, event.type, event.dead): event.id for event in recorder}

    def way(*key: Any) -> list[str]:
        return [f"{event.sender}>{event.receiver}" for event in recorder.chain(where[key])]

    assert way("child", "parent", "str", False) == ["child>parent", "parent>child", "socket>parent"]
    assert way("parent", "child", "str", False) == ["parent>child", "timer>parent"]
    assert way("runner", "parent", "Exited", False) == ["runner>parent", "parent>runner", "caller>parent"]
    assert way("parent", "parent", "str", True)[0] == "parent>parent"


async def test_what_an_actor_says_as_it_begins_and_as_it_ends_has_its_cause() -> None:
    """T2."""
    tracer, recorder = traced()
    heard = Worker("heard", tracer)
    heard.start()

    class Talker(Worker):
        __slots__ = ()

        def begin(self) -> None:
            heard.tell("good morning")

        def ending(self, reason: BaseException | None) -> None:
            heard.tell("good night")

    parent = Worker("parent", tracer)
    parent.start()
    tracer.speak_as("socket")
    with_children(parent, Talker("talker", tracer))
    tracer.speak_as("caller")
    await turns(6)
    await parent.stop()
    await turns()
    said = [event for event in recorder if event.sender == "talker" and event.receiver == "heard"]
    assert [[f"{e.sender}>{e.receiver}:{e.type}" for e in recorder.chain(event.id)] for event in said] == [
        ["talker>heard:str", "socket>parent:Do"],
        ["talker>heard:str", "parent>talker:Halt", "caller>parent:Halt"],
    ]
    await heard.stop()


async def test_nobody_speaks_in_the_name_of_an_actor_that_has_had_its_turn() -> None:
    """T2: what is told between turns, after a timer or after an end is the caller's, without a false cause."""
    tracer, recorder = traced()
    heard = Worker("heard", tracer)
    heard.start()
    steps: list[Callable[[Worker], Any]] = [
        lambda worker: worker.tell("something"),
        lambda worker: worker.after(0, "rung"),
        lambda worker: (worker.signal(Suspend()), worker.after(0, "rung and left waiting")),
        lambda worker: worker.signal(Suspend()),
        lambda worker: worker.signal(Halt(None)),
        lambda worker: task_of("worker").cancel(),
        lambda worker: worker.tell(fail(Stop())),
        lambda worker: (worker.start_child(Runner(lambda: asyncio.sleep(0), "child", tracer)), worker.tell("x")),
    ]
    for step in steps:
        worker = Worker("worker", tracer)
        worker.start()
        await turns()
        step(worker)
        await asyncio.sleep(0.001)
        await turns(4)
        heard.tell("from the caller")
        event = list(recorder)[-1]
        assert (event.sender, event.cause) == ("caller", 0), step
        await worker.stop()
    await heard.stop()


async def test_a_message_told_while_nobody_traced_gets_no_false_cause() -> None:
    """T2: tracing may begin and end in the middle of a backlog."""
    tracer, recorder = traced()
    heard = Worker("heard", tracer)
    heard.start()
    worker = Worker("worker", tracer)
    ref = worker.start()
    await turns()
    speak = Do(lambda me: heard.tell("heard"))
    ref.tell(speak)
    tracer.detach(recorder)
    ref.tell(speak)
    tracer.attach(recorder)
    ref.tell(speak)
    first, last = (event.id for event in recorder)
    await turns()
    said = [(event.sender, event.cause) for event in recorder if event.receiver == "heard"]
    assert said == [("worker", first), ("worker", 0), ("worker", last)]
    await worker.stop()
    await heard.stop()


async def test_tracing_that_ends_in_the_middle_of_a_backlog_loses_no_message() -> None:
    tracer, recorder = traced()
    worker = Worker("worker", tracer)
    ref = worker.start()
    for number in range(3 * MESSAGES_PER_TURN):
        ref.tell(number)
    ref.signal(TraceOff(recorder))
    await turns(10)
    assert worker.handled == list(range(3 * MESSAGES_PER_TURN))
    await worker.stop()


@pytest.mark.logs_errors("a trace exporter failed on event 1 and is switched off")
async def test_an_exporter_that_raises_costs_the_actors_nothing() -> None:
    """T10: it is logged and switched off; the link lives."""

    def broken(event: TraceEvent) -> None:
        raise ValueError("disk full")

    worker = Worker()
    ref = worker.start()
    ref.signal(TraceOn(broken))
    await turns()
    assert ref.tell("one")
    assert ref.tell("two")
    assert await ask(ref, Question, 1.0) == "answer"
    assert worker.handled[:2] == ["one", "two"]
    assert not worker.tracer.on
    await worker.stop()
