"""Mailboxes: bounded, never blocking who tells, losing nothing, and each dead letter counted once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import Closed, DeadlineExceeded, LimitReached, Misuse
from actors.mailbox import Mailbox, Overflow, Ref, Reply, SystemMessage, closed_error, refuse_unknown
from actors.trace import Recorder, Tracer


class Nudge(SystemMessage):
    """A system message."""


@frozen
class Fruit:
    name: str


@frozen
class Stone:
    weight: int


async def once() -> None:
    await asyncio.sleep(0)


async def parked(mailbox: Mailbox[Any], **how: bool) -> asyncio.Task[Any]:
    """A task that waits in ``take``."""
    task = asyncio.create_task(mailbox.take(**how))
    await once()
    assert not task.done()
    return task


async def test_a_backlog_is_handed_over_whole_and_in_order() -> None:
    mailbox: Mailbox[int] = Mailbox("worker")
    for number in range(100):
        assert mailbox.tell(number)
    assert len(mailbox) == 100
    assert list(await mailbox.take()) == list(range(100))
    assert len(mailbox) == 0


async def test_who_waits_is_woken_once_for_all_that_is_told_before_it_runs() -> None:
    mailbox: Mailbox[int] = Mailbox("worker")
    task = await parked(mailbox)
    for number in range(5):
        mailbox.tell(number)
    assert list(await task) == [0, 1, 2, 3, 4]


async def test_a_system_message_wakes_who_waits_and_leaves_the_backlog_alone() -> None:
    mailbox: Mailbox[int] = Mailbox("worker")
    mailbox.tell(1)
    task = await parked(mailbox, signals_only=True)
    mailbox.tell(2)
    await once()
    assert not task.done()
    nudge = Nudge()
    assert mailbox.signal(nudge)
    assert list(await task) == []
    assert list(mailbox.signals) == [nudge]
    assert len(mailbox) == 2


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "with", "after"])
async def test_cancelling_a_take_loses_no_message(when: str) -> None:
    """R11: cancelling a take loses no message, whether the message comes before, with or after the cancellation."""
    mailbox: Mailbox[str] = Mailbox("worker")
    task = await parked(mailbox)
    if when == "before":
        mailbox.tell("kept")
    task.cancel()
    if when == "with":
        mailbox.tell("kept")
    with pytest.raises(asyncio.CancelledError):
        await task
    if when == "after":
        mailbox.tell("kept")
    assert list(await mailbox.take()) == ["kept"]
    assert mailbox.dead_letters == 0


@given(st.lists(st.sampled_from("tcsw"), max_size=60))
async def test_no_order_of_tells_cancellations_and_pauses_loses_a_message_or_swaps_two(steps: list[str]) -> None:
    """R11: a property over tell, cancel, a pause, and a wait for what came."""
    mailbox: Mailbox[int] = Mailbox("worker")
    taken: list[Any] = []

    async def take() -> None:
        taken.extend(await mailbox.take())

    told = 0
    task = asyncio.create_task(take())
    for step in steps:
        if step == "t":
            mailbox.tell(told)
            told += 1
        elif step == "c":
            task.cancel()
        elif step == "s":
            await once()
        if task.done():
            task = asyncio.create_task(take())
    mailbox.tell(told)
    while told not in taken:
        await asyncio.wait([task])
        task = asyncio.create_task(take())
    task.cancel()
    await asyncio.wait([task])
    assert taken == list(range(told + 1))


async def test_an_owner_may_take_again_at_once_though_a_cancelled_take_has_not_ended_yet() -> None:
    mailbox: Mailbox[str] = Mailbox("worker")
    old = await parked(mailbox)
    new = asyncio.create_task(mailbox.take())  # gets its first step before the old one sees its cancellation
    old.cancel()
    await once()
    await once()
    assert old.cancelled()
    mailbox.tell("here")
    assert list(await new) == ["here"]


async def test_a_second_owner_is_misuse_and_the_first_is_not_harmed() -> None:
    mailbox: Mailbox[str] = Mailbox("worker")
    task = await parked(mailbox)
    with pytest.raises(Misuse, match="two tasks take from the mailbox of worker"):
        await mailbox.take()
    mailbox.tell("here")
    assert list(await task) == ["here"]


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_refuse_makes_the_new_message_a_dead_letter() -> None:
    """R10: refuse."""
    mailbox: Mailbox[int] = Mailbox("worker", bound=3, overflow=Overflow.REFUSE)
    assert [mailbox.tell(number) for number in range(5)] == [True, True, True, False, False]
    assert mailbox.dead_letters == 2
    assert list(await mailbox.take()) == [0, 1, 2]
    assert mailbox.tell(5)


async def test_drop_oldest_makes_the_oldest_a_dead_letter() -> None:
    """R10: drop oldest."""
    mailbox: Mailbox[int] = Mailbox("worker", bound=3, overflow=Overflow.DROP_OLDEST)
    assert all(mailbox.tell(number) for number in range(5))
    assert mailbox.dead_letters == 2
    assert list(await mailbox.take()) == [2, 3, 4]


@pytest.mark.parametrize("signals_only", [False, True])
async def test_close_ends_the_owner_and_makes_all_that_waits_dead_letters(signals_only: bool) -> None:
    """R10: close; whether or not the owner waits for messages."""
    mailbox: Mailbox[int] = Mailbox("worker", bound=3, overflow=Overflow.CLOSE)
    assert [mailbox.tell(number) for number in range(5)] == [True, True, True, False, False]
    assert mailbox.dead_letters == 5
    assert len(mailbox) == 0
    with pytest.raises(LimitReached, match="the mailbox of worker overflowed at 3 messages"):
        await mailbox.take(signals_only=signals_only)
    assert not mailbox.signal(Nudge())


@pytest.mark.parametrize("signals_only", [False, True])
async def test_close_wakes_the_owner_that_waits(signals_only: bool) -> None:
    """R10: close."""
    mailbox: Mailbox[int] = Mailbox("worker", bound=2, overflow=Overflow.CLOSE)
    task = await parked(mailbox, signals_only=signals_only)
    for number in range(3):
        mailbox.tell(number)
    with pytest.raises(LimitReached):
        await task
    assert mailbox.dead_letters == 3


async def test_a_mailbox_that_was_closed_leaves_nobody_waiting_in_it() -> None:
    mailbox: Mailbox[int] = Mailbox("worker")
    task = await parked(mailbox)
    mailbox.close(Closed("enough"))
    with pytest.raises(Closed, match="enough"):
        await task
    for _ in range(2):
        with pytest.raises(Closed, match="enough"):
            await mailbox.take()


async def test_the_first_reason_for_closing_stays_and_each_dead_letter_counts_once() -> None:
    mailbox: Mailbox[int] = Mailbox("worker")
    mailbox.tell(1)
    mailbox.close(Closed("first"))
    mailbox.close(Closed("second"))
    assert not mailbox.tell(2)
    assert mailbox.dead_letters == 2
    with pytest.raises(Closed, match="first"):
        await mailbox.take()


async def test_system_messages_that_wait_survive_an_overflow() -> None:
    mailbox: Mailbox[int] = Mailbox("worker", bound=1)
    nudge = Nudge()
    mailbox.signal(nudge)
    mailbox.tell(1)
    mailbox.tell(2)
    assert list(mailbox.signals) == [nudge]


async def test_an_owner_that_ends_may_open_an_overflown_mailbox_again() -> None:
    mailbox: Mailbox[int] = Mailbox("worker", bound=1)
    mailbox.tell(1)
    mailbox.tell(2)
    mailbox.reopen()
    assert mailbox.tell(3)
    assert mailbox.signal(Nudge())
    assert list(await mailbox.take()) == [3]


@pytest.mark.parametrize("overflow", Overflow)
async def test_telling_never_waits_however_full_the_mailbox_is(overflow: Overflow) -> None:
    """R10: telling is a plain call that returns at once, so no turn is ever blocked by it."""
    mailbox: Mailbox[int] = Mailbox("worker", bound=1, overflow=overflow)
    answers = [mailbox.tell(number) for number in range(1000)]
    assert all(isinstance(answer, bool) for answer in answers)
    assert len(mailbox) <= 1
    assert mailbox.dead_letters + len(mailbox) == 1000


@pytest.mark.parametrize("bound", [0, -1])
def test_a_mailbox_that_can_hold_nothing_is_misuse(bound: int) -> None:
    with pytest.raises(Misuse, match="at least 1"):
        Mailbox("worker", bound=bound)


async def test_what_is_given_back_comes_again_first() -> None:
    mailbox: Mailbox[int] = Mailbox("worker")
    for number in range(4):
        mailbox.tell(number)
    taken = await mailbox.take()
    taken.popleft()
    mailbox.tell(4)
    mailbox.give_back(taken)
    assert not taken
    assert list(await mailbox.take()) == [1, 2, 3, 4]


# --- dead letters in a trace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lose",
    [
        lambda mailbox: mailbox.close(Closed("enough")),
        lambda mailbox: mailbox.tell("new"),
    ],
    ids=["closing", "overflowing"],
)
@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.CLOSE])
def test_a_dead_letter_is_traced_once_and_its_cause_is_its_own_telling(
    overflow: Overflow, lose: Callable[[Mailbox[str]], object]
) -> None:
    """T2: what becomes of a message begins where the message was told, not with whoever spoke last."""
    tracer, recorder = Tracer(), Recorder()
    tracer.attach(recorder)
    mailbox: Mailbox[str] = Mailbox("worker", tracer, bound=1, overflow=overflow)
    tracer.speak_as("socket")
    mailbox.tell("lost")
    told = next(iter(recorder)).id
    tracer.speak_as("stranger", tracer.noted("stranger", "something else"))
    lose(mailbox)
    dead = [event for event in recorder if event.dead]
    assert dead[0].cause == told
    assert [event.sender for event in recorder.chain(dead[0].id)][-1] == "socket"
    assert len(dead) == mailbox.dead_letters
    # Whoever was speaking goes on as before.
    assert tracer.actor == "stranger"


def test_a_message_refused_at_once_is_traced_as_dead_with_the_tellers_cause() -> None:
    tracer, recorder = Tracer(), Recorder()
    tracer.attach(recorder)
    mailbox: Mailbox[str] = Mailbox("worker", tracer, bound=1, overflow=Overflow.REFUSE)
    mailbox.tell("kept")
    tracer.speak_as("parent", 1)
    mailbox.tell("refused")
    assert [(event.sender, event.cause, event.dead) for event in recorder] == [
        ("caller", 0, False),
        ("parent", 1, True),
    ]


# --- what is understood -----------------------------------------------------------------------------------------------


def test_a_message_that_is_not_understood_is_refused_with_what_is() -> None:
    """R8: (in debug mode) refused at tell, naming what the receiver understands."""
    mailbox: Mailbox[Any] = Mailbox("worker")
    mailbox.understand(Fruit | Stone)
    assert mailbox.tell(Fruit("apple"))
    with pytest.raises(Misuse, match=r"^worker does not understand str; it understands Fruit, Stone$"):
        mailbox.tell("apple")
    assert len(mailbox) == 1
    assert mailbox.dead_letters == 0


@pytest.mark.parametrize("understood", [Fruit, Fruit | Stone, (Fruit, Stone)])
def test_what_is_understood_may_be_a_class_a_union_or_several(understood: Any) -> None:
    """R8."""
    refuse_unknown("worker", Fruit("apple"), understood)
    with pytest.raises(Misuse, match="does not understand int; it understands Fruit"):
        refuse_unknown("worker", 5, understood)


# --- refs and replies -------------------------------------------------------------------------------------------------


def test_a_ref_can_be_a_plain_list() -> None:
    told: list[Fruit] = []
    ref: Ref[Fruit] = Ref("list", told.append)
    ref.tell(Fruit("apple"))
    assert told == [Fruit("apple")]
    assert ref.signal(Nudge()) is False


async def test_the_first_answer_counts() -> None:
    reply: Reply[int] = Reply()
    reply.tell(1)
    reply.tell(2)
    reply.fail(Closed("late"))
    assert await reply.wait() == 1


async def test_a_failed_reply_raises_and_a_late_answer_is_ignored() -> None:
    reply: Reply[int] = Reply()
    reply.fail(DeadlineExceeded("no answer"))
    reply.tell(1)
    with pytest.raises(DeadlineExceeded, match="no answer"):
        await reply.wait()


async def test_a_reply_that_fails_and_that_nobody_waits_for_bothers_nobody() -> None:
    reply: Reply[int] = Reply()
    reply.fail(Closed("nobody"))


async def test_an_answer_to_one_who_has_gone_is_ignored() -> None:
    reply: Reply[int] = Reply()
    task = asyncio.create_task(reply.wait())
    await once()
    task.cancel()
    await asyncio.wait([task])
    reply.tell(1)
    reply.fail(Closed("gone"))


def test_what_ended_an_actor_is_in_the_error_of_who_waited_for_it() -> None:
    cause = LimitReached("too much")
    error = closed_error("worker", cause)
    assert str(error) == "worker has ended: too much"
    assert error.__cause__ is cause
    assert str(closed_error("worker", None)) == "worker has ended"
    assert str(closed_error("worker", ValueError())) == "worker has ended"
