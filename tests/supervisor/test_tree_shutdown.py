"""How a supervision tree ends: in order, in time, whatever its children do, and wherever it is cancelled."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actor import Actor, Stop
from actors.errors import Closed, LimitReached, Misuse, TransportLost
from actors.mailbox import Ref
from actors.messages import Exited, Kill, Watch
from actors.settings import Backoff
from supervisor.children import Proceed
from supervisor.restart import ChildSpec, Intensity, OneForAll, OneForOne, Restart, RestForOne, Strategy
from supervisor.tree import Supervisor
from tests.supervisor.family import Body, Book, Bug, Turns, child, states, tell, turns

KINDS = pytest.mark.parametrize("kind", [Body, Turns])
crashes = pytest.mark.logs_errors("crashed")


def now() -> float:
    return asyncio.get_running_loop().time()


def nobody_is_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# --- in order and in time ---------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.virtual_time
async def test_children_stop_one_after_the_other_in_reverse_order(kind: Callable[..., Actor[Any]]) -> None:
    """R4."""
    book = Book()
    async with Supervisor([child(name, book, kind=kind, slow=1.0) for name in "abc"]):
        await turns()
    assert book.lines == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert book.times == pytest.approx([0, 0, 0, 1, 2, 3])
    assert nobody_is_left()


@KINDS
@pytest.mark.parametrize(("shutdown", "ended"), [(None, 5.0), (2.0, 2.0), (0, 0.0), (math.inf, 100.0)])
@pytest.mark.virtual_time
async def test_a_child_that_overruns_its_shutdown_time_is_cancelled(
    kind: Callable[..., Actor[Any]], shutdown: float | None, ended: float, caplog: pytest.LogCaptureFixture
) -> None:
    """R4."""
    book = Book()
    specs = [child("a", book), child("b", book, kind=kind, slow=100.0, shutdown=shutdown)]
    async with Supervisor(specs, name="tree"):
        await turns()
    assert book.lines[2:] == ["-b", "-a"]
    assert book.times[2:] == pytest.approx([ended, ended])
    assert ("tree: child b did not end within" in caplog.text) is (ended < 100)


@pytest.mark.logs_errors("tree: child b was cancelled and did not end: it is left behind")
@pytest.mark.virtual_time
async def test_a_child_that_swallows_even_that_is_named_within_a_second_and_holds_nobody_up() -> None:
    """R4."""
    book = Book()
    async with Supervisor([child("a", book), child("b", book, slow=60.0, deaf=99, shutdown=2.0)], name="tree"):
        await turns()
    assert now() <= 3.0
    assert book.take() == "+a +b -a"
    await asyncio.sleep(60)
    assert book.take() == "-b"


@pytest.mark.logs_errors("crashed", "child b was cancelled and did not end: it is left behind")
@pytest.mark.virtual_time
async def test_a_child_that_will_not_end_holds_up_no_restart_and_its_late_end_means_nothing() -> None:
    """R2, R4."""
    book = Book()
    specs = [child("a", book), child("b", book, slow=60.0, deaf=99, shutdown=2.0)]
    async with Supervisor(specs, strategy=OneForAll()) as tree:
        await tell(tree, "a", Bug())
        await asyncio.sleep(3.0)
        assert await states(tree) == "a:running b:running"
        await asyncio.sleep(90)
        assert book.take() == "+a +b -a +a +b -b"
        assert [each.restarts for each in await tree.which_children()] == [1, 1]
    await asyncio.sleep(60)


@pytest.mark.virtual_time
async def test_a_supervisor_in_a_tree_has_all_the_time_that_its_children_have() -> None:
    """R4: two children of four seconds each are more than a child has by itself."""
    book = Book()
    inner = ChildSpec("inner", lambda: Supervisor([child(name, book, slow=4.0) for name in "ab"]))
    async with Supervisor([child("x", book), inner]):
        await turns()
    assert book.lines[3:] == ["-b", "-a", "-x"]
    assert book.times[3:] == pytest.approx([4, 8, 8])


@pytest.mark.virtual_time
async def test_a_supervisor_that_overruns_the_time_it_was_given_takes_all_its_children_with_it() -> None:
    """R4, R5."""
    book = Book()
    deep = ChildSpec("deep", lambda: Supervisor([child(name, book, slow=4.0) for name in "ab"]))
    inner = ChildSpec("inner", lambda: Supervisor([child("y", book, slow=4.0), deep]), shutdown=1.0)
    async with Supervisor([child("x", book), inner]):
        await turns()
    assert now() == pytest.approx(1.0)
    assert book.living == dict.fromkeys("xyab", 0)
    assert nobody_is_left()


@pytest.mark.logs_errors("inner: child b was cancelled and did not end")
@pytest.mark.virtual_time
async def test_a_supervisor_that_is_killed_names_who_did_not_end_and_is_not_named_itself() -> None:
    """R4."""
    book = Book()
    specs = [child("b", book, slow=60.0, deaf=99)]
    inner = ChildSpec("inner", lambda: Supervisor(specs, name="inner"), shutdown=1.0)
    async with Supervisor([inner], name="outer"):
        await turns()
    assert now() <= 2.0
    await asyncio.sleep(60)


@crashes
@pytest.mark.virtual_time
async def test_a_stop_that_is_under_way_when_the_supervisor_ends_keeps_its_deadline() -> None:
    """R4."""
    book = Book()
    async with Supervisor([child("a", book), child("b", book, slow=100.0)], strategy=OneForAll()) as tree:
        await tell(tree, "a", Bug())
        await asyncio.sleep(4.0)
        assert await states(tree) == "a:restarting b:stopping"
    assert now() == pytest.approx(5.0)
    assert book.take() == "+a +b -a -b"


@pytest.mark.virtual_time
async def test_a_supervisor_that_ends_does_not_wait_for_who_backs_off() -> None:
    """R5."""
    book = Book()
    async with Supervisor([child("a", book, backoff=Backoff(initial=10.0))]) as tree:
        await tell(tree, "a", Stop(TransportLost("gone")))
        await turns()
        assert await states(tree) == "a:restarting"
    assert now() == 0.0
    await asyncio.sleep(60)
    assert book.take() == "+a -a"


@pytest.mark.virtual_time
async def test_a_supervisor_that_ends_says_how_its_children_are_and_takes_no_more() -> None:
    book = Book()
    async with Supervisor([child("a", book, slow=1.0), child("b", book, slow=1.0)], name="tree") as tree:
        ending = asyncio.create_task(tree.stop())
        await asyncio.sleep(1.5)
        assert await states(tree) == "a:stopping b:stopped"
        for call in (tree.start_child(child("c", book)), tree.stop_child("a"), tree.restart_child("a")):
            with pytest.raises(Closed, match="tree is ending"):
                await call
        assert now() == 1.5
        await ending


@pytest.mark.logs_errors("overflowed")
@pytest.mark.virtual_time
async def test_children_are_stopped_also_after_the_mailbox_overflowed_and_lost_one_s_end() -> None:
    """R5."""
    book = Book()
    made: list[Actor[Any]] = []

    async def live() -> None:
        async with Supervisor([child("a", book, made=made), child("b", book, slow=1.0)]) as tree:
            await turns()

            def flood(_: Exited) -> None:
                for _number in range(tree.mailbox.bound):
                    tree.tell(Proceed())

            made[0].signal(Watch(Ref("flood", flood)))  # told right after the supervisor, which has not looked yet
            await made[0].stop()
            await asyncio.sleep(60)

    with pytest.raises(LimitReached, match="overflowed"):
        await live()
    assert now() == pytest.approx(1.0)
    assert nobody_is_left()


# --- cancellation -----------------------------------------------------------------------------------------------------


def two_storeys(book: Book) -> Supervisor:
    inner = ChildSpec("inner", lambda: Supervisor([child("c", book, slow=1.0), child("d", book, kind=Turns, slow=1.0)]))
    return Supervisor([child("a", book, slow=1.0), inner, child("b", book, kind=Turns, slow=1.0)])


@pytest.mark.bulk
@pytest.mark.virtual_time
async def test_cancelled_anywhere_it_leaves_no_task_and_raises_the_cancellation() -> None:
    """R5: at each step of its life, and again at each step of its end."""

    async def live(book: Book) -> None:
        async with two_storeys(book) as tree:
            await tree.start_child(child("e", book))
            await tree.restart_child("e")
            await tree.which_children()
            await tree.stop_child("e")

    for first in range(36):
        for second in (None, 1, 4):
            book = Book()
            living = asyncio.create_task(live(book))
            await turns(first)
            cancelled = living.cancel()
            if second is not None:
                await turns(second)
                living.cancel()
            await asyncio.wait([living])
            assert living.cancelled() is cancelled
            assert nobody_is_left()
            assert not any(book.living.values())


@pytest.mark.virtual_time
async def test_cancelled_once_it_stops_its_children_in_order_and_cancelled_twice_at_once() -> None:
    """R4, R5."""

    async def live(book: Book) -> None:
        async with two_storeys(book):
            await asyncio.sleep(60)

    book = Book()
    living = asyncio.create_task(live(book))
    await turns()
    book.take()
    living.cancel()
    await asyncio.wait([living])
    assert (book.take(), now()) == ("-b -d -c -a", 4.0)
    living = asyncio.create_task(live(book))
    await turns()
    living.cancel()
    await asyncio.sleep(1.5)
    living.cancel()
    await asyncio.wait([living])
    assert living.cancelled()
    assert now() == 5.5
    assert nobody_is_left()


@pytest.mark.logs_errors
@pytest.mark.virtual_time
async def test_cancelled_twice_it_waits_for_nobody_who_swallows_it() -> None:
    """R4, R5."""

    async def live() -> None:
        async with Supervisor([child("deaf", Book(), slow=30.0, deaf=99)]):
            await asyncio.sleep(60)

    living = asyncio.create_task(live())
    await turns()
    for _ in range(20):
        living.cancel()
        await turns(5)
    await asyncio.wait([living])
    assert living.cancelled()
    assert now() <= 1.0
    await asyncio.sleep(30)


@pytest.mark.virtual_time
async def test_a_supervisor_whose_task_is_cancelled_from_outside_takes_its_children_with_it() -> None:
    """R5: and re-raises CancelledError; the body of its `async with` learns of it."""
    book = Book()

    async def live() -> None:
        async with two_storeys(book) as tree:
            await turns()
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == tree.name]
            tasks.append(task)
            task.cancel()
            await asyncio.sleep(60)

    tasks: list[asyncio.Task[Any]] = []
    with pytest.raises(Closed, match="was cancelled from outside"):
        await live()
    assert tasks[0].cancelled()
    assert now() < 0.1
    assert not any(book.living.values())
    assert nobody_is_left()


@pytest.mark.virtual_time
async def test_a_supervisor_killed_in_the_middle_of_its_end_still_takes_its_children_with_it() -> None:
    """R5."""
    book = Book()
    tree = two_storeys(book)
    tree.start()
    await turns()
    stopping = asyncio.create_task(tree.stop())
    await asyncio.sleep(0.5)
    tree.signal(Kill())
    assert not (await stopping).crashed
    assert now() == 0.5
    assert nobody_is_left()


@pytest.mark.virtual_time
async def test_what_the_body_raises_comes_out_after_the_children_have_stopped() -> None:
    """R5."""
    book = Book()

    async def live() -> None:
        async with two_storeys(book):
            await turns()
            raise Bug("of the body")

    with pytest.raises(Bug, match="of the body"):
        await live()
    assert not any(book.living.values())


@pytest.mark.virtual_time
async def test_a_time_limit_around_it_stays_a_time_limit() -> None:
    book = Book()

    async def live() -> None:
        async with asyncio.timeout(10), two_storeys(book):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await live()
    assert nobody_is_left()


@crashes
@pytest.mark.virtual_time
async def test_a_body_whose_supervisor_gave_up_is_cancelled_and_its_task_goes_on() -> None:
    """R1: whoever catches the error is not cancelled any more."""
    book = Book()
    cancelled = []

    async def live() -> None:
        async with Supervisor([child("a", book)], intensity=Intensity(0, 1)) as tree:
            await tell(tree, "a", Bug())
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(now())
                raise

    with pytest.raises(LimitReached):
        await live()
    assert cancelled == [0.0]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


@crashes
@pytest.mark.virtual_time
async def test_a_task_that_others_cancelled_too_stays_cancelled_when_its_supervisor_gives_up() -> None:
    """R5."""

    async def live() -> None:
        async with Supervisor([child("a", Book())], intensity=Intensity(0, 1)) as tree:
            await tell(tree, "a", Bug())
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(1)

    living = asyncio.create_task(live())
    await turns(30)
    living.cancel()
    await asyncio.wait([living])
    assert living.cancelled()


# --- anything in any order --------------------------------------------------------------------------------------------

ORDERS = {"crash": Bug("oops"), "away": Stop(TransportLost("gone")), "finish": Stop()}
CALLS = ("add", "stop", "delete", "restart")
acts = st.tuples(st.sampled_from([*ORDERS, *CALLS]), st.sampled_from("abcde"), st.sampled_from([0.0, 0.0, 0.0, 0.2, 4]))


@frozen
class Kind:
    """What is different from one child to the next."""

    restart: Restart
    kind: Callable[..., Actor[Any]]
    slow: float
    shutdown: float | None
    backoff: Backoff | None

    def spec(self, name: str, book: Book, made: list[Actor[Any]]) -> ChildSpec:
        return child(
            name, book, self.restart, kind=self.kind, made=made, slow=self.slow, shutdown=self.shutdown,
            backoff=self.backoff,
        )  # fmt: skip


kinds = st.builds(
    Kind,
    st.sampled_from(Restart),
    st.sampled_from([Body, Turns]),
    st.sampled_from([0.0, 0.0, 0.3, 3.0]),
    st.sampled_from([None, 0.0, 1.0]),
    st.sampled_from([None, Backoff(initial=0.5, maximum=2.0)]),
)


async def act(tree: Supervisor, what: str, name: str, spec: ChildSpec) -> None:
    # There may be no such child, one already, or no supervisor any more.
    with suppress(Misuse, Closed):
        match what:
            case "add":
                await tree.start_child(spec)
            case "stop":
                await tree.stop_child(name)
            case "delete":
                await tree.delete_child(name)
            case "restart":
                await tree.restart_child(name)
            case _:
                for each in await tree.which_children():
                    if each.name == name and each.ref is not None:
                        each.ref.tell(ORDERS[what])


@pytest.mark.logs_errors
@pytest.mark.virtual_time
@settings(max_examples=60, deadline=None)
@given(
    st.lists(kinds, min_size=5, max_size=5),
    st.sampled_from([OneForOne(), OneForAll(), RestForOne()]),
    st.sampled_from([1, 3, 100]),
    st.lists(acts, max_size=30),
    st.booleans(),
)
async def test_whatever_happens_at_most_one_of_each_lives_and_at_the_end_none(
    kinds: list[Kind], strategy: Strategy, restarts: int, acts: list[tuple[str, str, float]], patient: bool
) -> None:
    """R2, R3, R4, R5."""
    book = Book()
    of = dict(zip("abcde", kinds, strict=True))
    starts_of_temporary: list[list[Actor[Any]]] = []

    def spec(name: str) -> ChildSpec:
        made: list[Actor[Any]] = []
        if of[name].restart is Restart.TEMPORARY:
            starts_of_temporary.append(made)
        return of[name].spec(name, book, made)

    tree = Supervisor([spec(name) for name in "abc"], strategy=strategy, intensity=Intensity(restarts, 30))
    tree.start()
    calls = []
    for what, name, pause in acts:
        calls.append(asyncio.create_task(act(tree, what, name, spec(name))))
        await (asyncio.sleep(pause) if pause else turns(2))
    if patient:
        await asyncio.sleep(60)
        assert all(call.done() for call in calls)
        if tree.exited is None:
            assert {each.state for each in await tree.which_children()} <= {"running", "stopped"}
            living = {each.name: int(each.ref is not None) for each in await tree.which_children()}
            assert {name: count for name, count in book.living.items() if count} == {n: 1 for n in living if living[n]}
    await tree.stop()
    await asyncio.gather(*calls)
    assert nobody_is_left()
    assert not any(book.living.values())
    assert book.most <= 1
    assert all(len(made) <= 1 for made in starts_of_temporary)
    assert tree.exited is not None
    assert not tree.exited.crashed or isinstance(tree.exited.reason, LimitReached)
