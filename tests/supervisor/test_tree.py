"""The supervision tree: who is started again, when, and what happens when it gives up."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from actors.actor import Actor, Stop, get_state
from actors.errors import Closed, LimitReached, Misuse, TransportLost
from actors.mailbox import Ref, Reply
from actors.messages import Exited, Watch
from actors.settings import Backoff
from supervisor.children import ChildEnded, ChildInfo, TimeUp, WhichChildren
from supervisor.restart import ChildSpec, Intensity, OneForAll, OneForOne, Plan, Restart, RestForOne, Strategy
from supervisor.tree import Supervisor
from tests.supervisor.family import Body, Book, Bug, Turns, away, child, crash, info, states, tell, turns

BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=8.0, jitter=0.0)
KINDS = pytest.mark.parametrize("kind", [Body, Turns])
crashes = pytest.mark.logs_errors("crashed")


def family(book: Book, names: str, **how: Any) -> list[ChildSpec]:
    return [child(name, book, **how) for name in names]


# --- who starts again -------------------------------------------------------------------------------------------------


@crashes
@KINDS
@pytest.mark.parametrize(
    ("strategy", "failed", "what_happens"),
    [
        (OneForOne(), "b", "-b +b"),
        (OneForAll(), "b", "-b -d -c -a +a +b +c +d"),
        (RestForOne(), "b", "-b -d -c +b +c +d"),
        (RestForOne(), "d", "-d +d"),
        (RestForOne(), "a", "-a -d -c -b +a +b +c +d"),
    ],
)
@pytest.mark.virtual_time
async def test_each_strategy_restarts_exactly_whom_it_should_in_order(
    strategy: Strategy, failed: str, what_happens: str, kind: Callable[..., Actor[Any]]
) -> None:
    """R2."""
    book = Book()
    async with Supervisor(family(book, "abcd", kind=kind), strategy=strategy) as tree:
        await turns()
        assert book.take() == "+a +b +c +d"
        await crash(tree, failed)
        assert book.take() == what_happens
        restarted = [each.name for each in await tree.which_children() if each.restarts == 1]
        assert restarted == [line[1:] for line in what_happens.split() if line[0] == "+"]
    await turns()
    assert book.take() == "-d -c -b -a"


@crashes
@pytest.mark.virtual_time
async def test_children_that_take_time_to_end_are_waited_for_before_any_starts_again() -> None:
    """R2, R4."""
    book = Book()
    async with Supervisor(family(book, "abc", slow=1.0), strategy=OneForAll()) as tree:
        await turns()
        book.take()
        await tell(tree, "a", Bug())
        await asyncio.sleep(10)
        assert [f"{line}@{time:g}" for line, time in zip(book.lines, book.times, strict=True)] == [
            *("-a@1", "-c@2", "-b@3"),
            *("+a@3", "+b@3", "+c@3"),
        ]


@KINDS
@pytest.mark.parametrize(
    ("restart", "order", "state", "lines"),
    [
        pytest.param(Restart.PERMANENT, Bug(), "x:running", "-x +x", marks=crashes),
        (Restart.PERMANENT, Stop(), "x:running", "-x +x"),
        (Restart.PERMANENT, Stop(Closed("bye")), "x:running", "-x +x"),
        pytest.param(Restart.TRANSIENT, Bug(), "x:running", "-x +x", marks=crashes),
        (Restart.TRANSIENT, Stop(), "x:stopped", "-x"),
        (Restart.TRANSIENT, Stop(Closed("bye")), "x:stopped", "-x"),
        (Restart.TRANSIENT, Stop(TransportLost("gone")), "x:running", "-x +x"),
        pytest.param(Restart.TEMPORARY, Bug(), "", "-x", marks=crashes),
        (Restart.TEMPORARY, Stop(), "", "-x"),
        (Restart.TEMPORARY, Stop(TransportLost("gone")), "", "-x"),
    ],
)
@pytest.mark.virtual_time
async def test_how_a_child_ended_and_its_type_say_whether_it_starts_again(
    kind: Callable[..., Actor[Any]], restart: Restart, order: BaseException, state: str, lines: str
) -> None:
    """R3."""
    book = Book()
    async with Supervisor([child("x", book, restart, kind=kind)]) as tree:
        await turns()
        book.take()
        await tell(tree, "x", order)
        await asyncio.sleep(5)
        assert await states(tree) == state
        assert book.take() == lines


@crashes
@pytest.mark.virtual_time
async def test_a_temporary_child_is_stopped_and_dropped_when_others_restart() -> None:
    """R3: not even as collateral."""
    book = Book()
    specs = [child("a", book), child("t", book, Restart.TEMPORARY), child("b", book)]
    async with Supervisor(specs, strategy=OneForAll()) as tree:
        await turns()
        book.take()
        await crash(tree, "a")
        assert book.take() == "-a -b -t +a +b"
        assert await states(tree) == "a:running b:running"


@crashes
@pytest.mark.virtual_time
async def test_a_transient_child_that_is_done_or_one_that_was_stopped_does_not_start_along_with_others() -> None:
    """R3: transient only after a crash; and who was stopped stays so."""
    book = Book()
    specs = [child("a", book), child("done", book, Restart.TRANSIENT), child("stopped", book)]
    async with Supervisor(specs, strategy=OneForAll()) as tree:
        await tell(tree, "done", Stop())
        await tree.stop_child("stopped")
        book.take()
        await crash(tree, "a")
        assert book.take() == "-a +a"
        assert await states(tree) == "a:running done:stopped stopped:stopped"


@crashes
@pytest.mark.virtual_time
async def test_a_transient_child_that_ends_well_while_others_are_being_stopped_is_done() -> None:
    """R3: `b` has to wait for its turn to stop, and ends by itself before that."""
    book = Book()
    specs = [child("a", book), child("b", book, Restart.TRANSIENT), child("c", book, slow=2.0)]
    async with Supervisor(specs, strategy=OneForAll()) as tree:
        await crash(tree, "a")
        assert await states(tree) == "a:restarting b:stopping c:stopping"
        await tell(tree, "b", Stop())
        await asyncio.sleep(3)
        assert await states(tree) == "a:running b:stopped c:running"


@crashes
@pytest.mark.parametrize("strategy", [OneForAll(), RestForOne()])
@pytest.mark.virtual_time
async def test_two_that_crash_at_once_are_one_restart(strategy: Strategy) -> None:
    """R1, R2: with an intensity of 1 the second crash would be the end."""
    book = Book()
    tree = Supervisor(family(book, "abc"), strategy=strategy, intensity=Intensity(1, 30))
    async with tree:
        await turns()
        book.take()
        await crash(tree, "a", "b")
        assert sorted(book.take().split()) == ["+a", "+b", "+c", "-a", "-b", "-c"]
        assert [each.restarts for each in await tree.which_children()] == [1, 1, 1]


@crashes
@pytest.mark.virtual_time
async def test_a_crash_in_a_round_that_a_peer_began_spends_intensity() -> None:
    """R1: our own bugs spend, also where a peer's fault came first; `a` crashes while `c` is waited for."""
    book = Book()
    specs = [child("a", book), child("b", book), child("c", book, slow=2.0)]

    async def live() -> None:
        async with Supervisor(specs, strategy=OneForAll(), intensity=Intensity(0, 30)) as tree:
            await tell(tree, "b", away(TransportLost("gone")))
            await turns()
            assert await states(tree) == "a:stopping b:restarting c:stopping"
            await crash(tree, "a")
            await asyncio.sleep(60)

    with pytest.raises(LimitReached, match="child a: a crashed"):
        await live()
    assert not any(book.living.values())


@crashes
@pytest.mark.virtual_time
async def test_an_earlier_child_does_not_wait_for_a_later_one_that_backs_off() -> None:
    """R2."""
    book = Book()
    specs = [child("a", book), child("b", book), child("c", book, backoff=BACKOFF)]
    async with Supervisor(specs, strategy=RestForOne()) as tree:
        await tell(tree, "c", away(TransportLost("gone")))
        await turns()
        book.take()
        await crash(tree, "a")
        assert book.take() == "-a -b +a +b"
        assert await states(tree) == "a:running b:running c:restarting"
        await asyncio.sleep(1.1)
        assert book.take() == "+c"


class Pairs:
    """A strategy of one's own: children come in twos."""

    def decide(self, failed: str, children: Any) -> Plan:
        pair = [each.name for each in children if each.name[0] == failed[0]]
        return Plan(tuple(name for name in reversed(pair) if name != failed), tuple(pair))


class Nonsense:
    def decide(self, failed: str, children: Any) -> Plan:
        return Plan(("nobody",), ())


@crashes
@pytest.mark.virtual_time
async def test_a_strategy_is_one_class() -> None:
    book = Book()
    specs = [child(name, book) for name in ("a1", "b1", "a2", "b2")]
    async with Supervisor(specs, strategy=Pairs()) as tree:
        await turns()
        book.take()
        await crash(tree, "a1", "b2")
        assert sorted(book.take().split()) == sorted("-a1 -a2 +a1 +a2 -b2 -b1 +b1 +b2".split())


@crashes
@pytest.mark.virtual_time
async def test_not_even_a_strategy_that_says_so_starts_a_temporary_child_again() -> None:
    """R3."""
    book = Book()
    async with Supervisor([child("a1", book), child("a2", book, Restart.TEMPORARY)], strategy=Pairs()) as tree:
        await turns()
        book.take()
        await crash(tree, "a1")
        assert book.take() == "-a1 -a2 +a1"
        assert await states(tree) == "a1:running"


@crashes
async def test_a_strategy_that_decides_on_strangers_ends_the_supervisor_with_its_name() -> None:
    book = Book()

    async def live() -> None:
        async with Supervisor(family(book, "ab"), strategy=Nonsense(), name="tree") as tree:
            await crash(tree, "a")
            await asyncio.sleep(60)

    with pytest.raises(Misuse, match="tree: Nonsense decided on children that are none: nobody"):
        await live()
    assert book.living == {"a": 0, "b": 0}


# --- intensity --------------------------------------------------------------------------------------------------------


@crashes
@pytest.mark.virtual_time
async def test_five_crashes_in_thirty_seconds_are_mended() -> None:
    """R1."""
    book = Book()
    async with Supervisor(family(book, "ab")) as tree:
        for _ in range(5):
            await asyncio.sleep(6.1)
            await crash(tree, "a")
        assert (await info(tree, "a")).restarts == 5
        await asyncio.sleep(6.1)
        await crash(tree, "a")  # the first is more than 30 s ago
        assert await states(tree) == "a:running b:running"


@crashes
@pytest.mark.virtual_time
async def test_the_sixth_crash_in_thirty_seconds_ends_the_supervisor_and_its_children_in_order() -> None:
    """R1, R4."""
    book = Book()
    tree = Supervisor(family(book, "abc"), name="tree")

    async def live() -> None:
        async with tree:
            for _ in range(6):
                await crash(tree, "b")
            await asyncio.sleep(60)

    with pytest.raises(LimitReached) as caught:
        await live()
    assert str(caught.value) == (
        "tree gives up: its children needed more than 5 restarts within 30 s, the last one child b: b crashed: Bug"
    )
    assert isinstance(caught.value.__cause__, Bug)
    assert book.take().endswith("+b -b -c -a")
    assert tree.exited == Exited("tree", caught.value, crashed=True)


@pytest.mark.virtual_time
async def test_a_peer_that_is_away_only_makes_its_child_back_off() -> None:
    """L6: intensity is for faults of our own."""
    book = Book()
    async with Supervisor([child("x", book, backoff=BACKOFF)], intensity=Intensity(0, 30)) as tree:
        for _ in range(6):
            await tell(tree, "x", away(TransportLost("gone")))
            await turns()
            assert (await info(tree, "x")).state == "restarting"
            await asyncio.sleep(9)
        waits = [start - end for end, start in itertools.pairwise(book.times[1:])][::2]
        assert waits == pytest.approx([1, 2, 4, 8, 8, 8])


@pytest.mark.virtual_time
async def test_a_child_without_a_backoff_still_waits_for_a_peer_that_is_away() -> None:
    """L6: or it would spin, since nothing is spent."""
    book = Book()
    async with Supervisor([child("x", book)], intensity=Intensity(0, 30)) as tree:
        await tell(tree, "x", away(TransportLost("gone")))
        await asyncio.sleep(0.7)
        assert (await info(tree, "x")).state == "restarting"
        await asyncio.sleep(0.6)
        assert (await info(tree, "x")).state == "running"


@pytest.mark.logs_errors("gives up")
@pytest.mark.virtual_time
async def test_a_permanent_child_with_nothing_to_do_does_not_spin() -> None:
    """R1, R3: a normal end of a permanent child spends intensity as well."""

    class Brief(Body):
        async def body(self) -> None:
            pass

    book = Book()

    async def live() -> None:
        async with Supervisor([child("x", book, kind=Brief)]):
            await asyncio.sleep(60)

    with pytest.raises(LimitReached, match=r"the last one child x: x ended$"):
        await live()


@crashes
@pytest.mark.virtual_time
async def test_a_crash_also_waits_where_a_backoff_is_given_and_a_stable_run_shortens_the_wait_again() -> None:
    book = Book()
    async with Supervisor([child("x", book, backoff=BACKOFF)]) as tree:
        await crash(tree, "x")
        await asyncio.sleep(0.9)
        assert (await info(tree, "x")).state == "restarting"
        await asyncio.sleep(0.2)
        await crash(tree, "x")
        await asyncio.sleep(1.9)
        assert (await info(tree, "x")).state == "restarting"
        await asyncio.sleep(0.2 + 8.1)  # it lives longer than the longest wait
        await crash(tree, "x")
        await asyncio.sleep(1.1)
        assert (await info(tree, "x")).state == "running"


# --- escalation -------------------------------------------------------------------------------------------------------


@crashes
@pytest.mark.virtual_time
async def test_a_supervisor_that_gives_up_is_restarted_by_its_own_and_spends_its_intensity() -> None:
    """R1: escalation."""
    book = Book()
    made: list[Actor[Any]] = []
    specs = [child("a", book, made=made), child("b", book)]
    inner = ChildSpec("inner", lambda: Supervisor(specs, intensity=Intensity(1, 30), name="inner"))

    async def live() -> None:
        async with Supervisor([child("x", book), inner], intensity=Intensity(1, 30), name="outer"):
            await turns()
            for crash_number in range(4):
                assert len(made) == crash_number + 1
                made[-1].tell(Bug())
                await turns()

    with pytest.raises(
        LimitReached, match=r"outer gives up: .* child inner: inner crashed: inner gives up: .* child a"
    ):
        await live()
    assert len(made) == 4
    assert book.living == {"x": 0, "a": 0, "b": 0}


# --- children that cannot start ---------------------------------------------------------------------------------------


def raising() -> Actor[Any]:
    raise Bug("secret")


def wrong() -> Any:
    return 7


class Later:
    """Its start is a coroutine, and nobody can see that before."""

    async def __call__(self) -> None: ...


@pytest.mark.logs_errors("tree crashed")
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (raising, "tree: child bad could not start: Bug"),
        (wrong, "tree: child bad could not start: its start returned int, not an actor"),
        (Later(), "tree: child bad could not start: its start returned coroutine, not an actor"),
    ],
)
@pytest.mark.virtual_time
async def test_a_start_that_fails_at_first_fails_the_whole_after_those_started_were_stopped(
    start: Callable[[], Actor[Any]], message: str
) -> None:
    """R4, R5."""
    book = Book()
    made: list[Actor[Any]] = []
    specs = [child("a", book, made=made), child("b", book, made=made), ChildSpec("bad", start), child("c", book)]
    tree = Supervisor(specs, name="tree")
    with pytest.raises(Closed) as caught:
        await tree.__aenter__()
    assert str(caught.value) == message
    assert caught.value.__cause__ is not None
    assert [each.exited is not None for each in made] == [True, True]
    assert "+c" not in book.take()


@pytest.mark.logs_errors("crashed", "child x could not start: x was started already", "gives up")
@pytest.mark.virtual_time
async def test_an_actor_that_is_handed_out_twice_is_a_crash_at_each_restart() -> None:
    """R1."""
    actor = Body("x", Book())

    async def live() -> None:
        async with Supervisor([ChildSpec("x", lambda: actor)], name="tree"):
            await turns()
            actor.tell(Bug())
            await asyncio.sleep(60)

    with pytest.raises(
        LimitReached, match=r"tree gives up: .* child x: x crashed: tree: child x could not start: x was"
    ):
        await live()


@pytest.mark.logs_errors("crashed", "child x could not start: Bug")
@pytest.mark.virtual_time
async def test_a_start_that_fails_at_a_restart_is_tried_again_after_the_backoff() -> None:
    book = Book()
    plan = iter([False, True, True, False])

    def start() -> Actor[Any]:
        if next(plan):
            raise Bug
        return Body("x", book)

    async with Supervisor([ChildSpec("x", start, backoff=BACKOFF), child("y", book)]) as tree:
        await crash(tree, "x")
        await asyncio.sleep(1.1)
        x = await info(tree, "x")
        assert (x.state, x.restarts, str(x.reason)) == (
            *("restarting", 0),
            f"{tree.name}: child x could not start: Bug",
        )
        await asyncio.sleep(6.1)
        x = await info(tree, "x")
        assert (x.state, x.restarts) == ("running", 1)


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_children_are_added_stopped_restarted_and_forgotten_while_it_runs() -> None:
    book = Book()
    async with Supervisor(family(book, "a")) as tree:
        ref = await tree.start_child(child("b", book))
        assert await tree.find_child("b") is ref
        await tree.stop_child("b")
        with pytest.raises(Closed, match="child b is stopped"):
            await tree.find_child("b")
        assert book.living == {"a": 1, "b": 0}
        assert await states(tree) == "a:running b:stopped"
        again = await tree.restart_child("b")
        assert again is not ref
        assert (await info(tree, "b")).ref is again
        await tree.delete_child("b")
        assert await states(tree) == "a:running"
        await tree.start_child(child("b", book, Restart.TEMPORARY))
        await tree.stop_child("b")
        assert await states(tree) == "a:running"


async def test_a_child_that_runs_is_restarted_alone_and_without_spending_intensity() -> None:
    book = Book()
    async with Supervisor(family(book, "abc"), strategy=OneForAll(), intensity=Intensity(0, 30)) as tree:
        await turns()
        book.take()
        await tree.restart_child("b")
        await turns()
        assert book.take() == "-b +b"


@crashes
async def test_what_is_asked_right_after_a_crash_already_sees_the_child_restarted() -> None:
    made: list[Actor[Any]] = []
    async with Supervisor([child("a", Book(), made=made)]) as tree:
        await turns()
        reply: Reply[tuple[ChildInfo, ...]] = Reply()
        made[0].signal(Watch(Ref("asker", lambda _: tree.tell(WhichChildren(reply)))))
        made[0].tell(Bug())
        [told] = await reply.wait()
        assert (told.state, told.restarts) == ("running", 1)
        assert await tree.find_child("a") is told.ref


@pytest.mark.virtual_time
async def test_a_child_that_backs_off_starts_at_once_when_asked_to() -> None:
    """L6: `connect_now()` wakes it."""
    book = Book()
    async with Supervisor([child("x", book, backoff=BACKOFF)]) as tree:
        await tell(tree, "x", away(TransportLost("gone")))
        await turns()
        await tree.restart_child("x")
        assert asyncio.get_running_loop().time() < 0.1
        await asyncio.sleep(5)
        assert (await info(tree, "x")).restarts == 1


@pytest.mark.virtual_time
async def test_a_child_removed_while_it_backs_off_never_starts_again() -> None:
    book = Book()
    async with Supervisor([child("x", book, backoff=BACKOFF), child("y", book, backoff=BACKOFF)]) as tree:
        for name in "xy":
            await tell(tree, name, away(TransportLost("gone")))
        await turns()
        book.take()
        await tree.delete_child("x")
        await tree.stop_child("y")
        await asyncio.sleep(30)
        assert book.take() == ""
        assert await states(tree) == "y:stopped"


@pytest.mark.virtual_time
async def test_the_rest_goes_on_without_the_failed_child_that_was_removed_while_it_backed_off() -> None:
    book = Book()
    specs = [child("a", book, backoff=BACKOFF), child("b", book)]
    async with Supervisor(specs, strategy=RestForOne()) as tree:
        await tell(tree, "a", away(TransportLost("gone")))
        await turns()
        assert await states(tree) == "a:restarting b:restarting"
        await tree.stop_child("a")
        await turns()
        assert await states(tree) == "a:stopped b:running"


@pytest.mark.virtual_time
async def test_a_restart_asked_for_while_a_child_stops_follows_its_stop() -> None:
    book = Book()
    async with Supervisor([child("x", book, slow=1.0)]) as tree:
        await turns()
        stopping = asyncio.create_task(tree.stop_child("x"))
        await turns()
        assert (await info(tree, "x")).state == "stopping"
        await tree.restart_child("x")
        await turns()
        assert stopping.done()
        assert book.take() == "+x -x +x"
        await stopping


@pytest.mark.virtual_time
async def test_a_stop_asked_for_while_a_child_restarts_ends_the_restart() -> None:
    book = Book()
    async with Supervisor([child("x", book, slow=1.0)]) as tree:
        await turns()
        restarting = asyncio.create_task(tree.restart_child("x"))
        await turns()
        await tree.stop_child("x")
        with pytest.raises(Closed, match="child x was stopped"):
            await restarting
        assert await states(tree) == "x:stopped"


@crashes
@pytest.mark.virtual_time
async def test_a_child_stopped_while_its_family_restarts_stays_stopped() -> None:
    book = Book()
    async with Supervisor(family(book, "abc", slow=1.0), strategy=OneForAll()) as tree:
        await tell(tree, "a", Bug())
        await asyncio.sleep(1.5)
        assert await states(tree) == "a:restarting b:stopping c:stopping"
        await tree.stop_child("b")
        await asyncio.sleep(5)
        assert await states(tree) == "a:running b:stopped c:running"


@pytest.mark.virtual_time
async def test_fifty_callers_at_once_are_all_answered() -> None:
    book = Book()
    async with Supervisor(family(book, "x", slow=0.5)) as tree:
        await turns()

        async def call(number: int) -> None:
            name = f"child-{number}"
            await tree.start_child(child(name, book, slow=0.5))
            if number % 2:
                await tree.restart_child("x")
                await tree.delete_child(name)
            else:
                await tree.stop_child(name)
                await tree.restart_child(name)

        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(call(number))
        names = {each.name for each in await tree.which_children() if each.state == "running"}
        assert names == {"x"} | {f"child-{number}" for number in range(0, 50, 2)}
        assert book.most == 1


async def test_calls_that_cannot_work_say_so() -> None:
    book = Book()
    anything: Any = 7
    async with Supervisor([child("a", book), child("t", book, Restart.TEMPORARY)], name="tree") as tree:
        with pytest.raises(Misuse, match="tree: a child is given as a ChildSpec, not as 7"):
            await tree.start_child(anything)
        with pytest.raises(Misuse, match="tree has a child a already"):
            await tree.start_child(child("a", book))
        for call in (tree.stop_child, tree.delete_child, tree.restart_child, tree.find_child):
            with pytest.raises(Misuse, match="tree has no child x; it has a, t"):
                await call("x")
        with pytest.raises(Misuse, match="child t is temporary and starts only once"):
            await tree.restart_child("t")
        with pytest.raises(Closed, match="tree: child bad could not start: Bug"):
            await tree.start_child(ChildSpec("bad", raising))
        assert await states(tree) == "a:running t:running"
        with pytest.raises(Misuse, match="started already"):
            await tree.__aenter__()
    for ended in (tree.which_children(), tree.stop_child("a"), tree.start_child(child("b", book))):
        with pytest.raises(Closed, match="tree has ended"):
            await ended


async def test_late_alarms_and_ends_of_earlier_instances_mean_nothing() -> None:
    book = Book()
    async with Supervisor(family(book, "a")) as tree:
        await turns()
        for name in ("a", "nobody"):
            tree.tell(TimeUp(name, 1))
            tree.tell(ChildEnded(name, 1, Exited(name, Bug(), crashed=True)))
        await turns()
        assert book.take() == "+a"
        assert await states(tree) == "a:running"


async def test_calls_before_its_start_say_so() -> None:
    tree = Supervisor(name="tree")
    for early in (tree.which_children(), tree.restart_child("a"), tree.start_child(child("b", Book()))):
        with pytest.raises(Misuse, match="tree was never started"):
            await early


def test_a_family_that_cannot_work_is_refused_at_once() -> None:
    anything: Any = 7
    book = Book()
    with pytest.raises(Misuse, match="which must differ: a, b, a"):
        Supervisor(family(book, "aba"))
    with pytest.raises(Misuse, match="a child is given as a ChildSpec, not as 7"):
        Supervisor([anything])
    with pytest.raises(Misuse, match="a strategy has a decide"):
        Supervisor(strategy=anything)
    with pytest.raises(Misuse, match="intensity is an Intensity, not 7"):
        Supervisor(intensity=anything)


@crashes
async def test_its_state_names_its_children_and_counts_restarts() -> None:
    book = Book()
    async with Supervisor(family(book, "ab"), strategy=RestForOne()) as tree:
        await turns()
        await crash(tree, "a")
        state = await get_state(tree.ref)
        assert state.children == ("a", "b")
        assert state.detail == {"strategy": "RestForOne", "restarts": 2}
