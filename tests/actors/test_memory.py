"""Levels, pools and accounts: who may hold how many bytes, who waits, and that all of it comes back."""

import pytest

from actors.memory import FREE, Account, Level, pool_of
from actors.settings import KiB, Limits, MiB

SIZE = 1 * MiB
"""A pool of half of it for windows and half for queues."""


def full(*levels: Level | Account) -> list[bool]:
    """Asked anew each time, as far as a type checker can tell."""
    return [level.full for level in levels]


@pytest.fixture
def limits() -> Limits:
    pool_of.cache_clear()  # each test has the process to itself
    return Limits(process_bytes=SIZE, connection_send_buffer=256 * KiB)


def test_a_level_is_full_at_its_mark_and_until_an_eighth_is_free() -> None:
    """W7: hysteresis, so that not each byte wakes everyone."""
    level = Level(800)
    level.take(799)
    assert full(level) == [False]
    level.take(1)
    assert full(level) == [True]
    level.give(100)
    assert full(level) == [True]
    level.give(1)
    assert full(level) == [False]
    assert level.held == 699


def test_a_level_counts_on_beyond_its_mark() -> None:
    """W7: what is taken is there, whether it fits or not."""
    level = Level(100)
    level.take(250)
    assert (level.full, level.held) == (True, 250)
    level.give(160)
    assert full(level) == [True]
    level.give(10)
    assert full(level) == [False]


def test_those_who_wait_are_woken_once_when_there_is_room() -> None:
    """W7: all of them, and not again."""
    level, woken = Level(80), list[str]()
    level.take(80)
    level.wake_later("one", lambda: woken.append("first"))
    level.wake_later("another", lambda: woken.append("second"))
    level.wake_later("a third", lambda: woken.append("gone"))
    level.forget("a third")
    level.give(10)
    assert woken == []
    level.give(1)
    assert woken == ["first", "second"]
    level.take(80)
    level.give(80)
    assert woken == ["first", "second"]


def test_who_begins_to_wait_as_it_is_woken_waits_for_the_next_time() -> None:
    """W7: waking ends."""
    level, woken = Level(80), list[int]()

    def again() -> None:
        woken.append(level.held)
        level.wake_later(again, again)

    level.take(80)
    level.wake_later(again, again)
    level.give(80)
    assert woken == [0]


def test_what_fits_a_level_is_exact() -> None:
    level = Level(100)
    level.take(60)
    assert level.fits(40)
    assert not level.fits(41)


def test_accounts_with_the_same_bound_share_a_pool(limits: Limits) -> None:
    """L11: what one holds, another cannot; a process with another bound is another pool."""
    one, other = Account(limits), Account(limits)
    elsewhere = Account(Limits(process_bytes=2 * SIZE))
    assert one.grant(SIZE // 2 - 100)
    assert not other.grant(101)
    assert other.grant(100)
    assert not one.grant(1)
    assert elsewhere.grant(SIZE // 2)


def test_a_connection_is_full_by_itself_before_the_process_is(limits: Limits) -> None:
    """W7: its neighbours go on."""
    one, other = Account(limits), Account(limits)
    one.take(256 * KiB)
    assert (one.full, one.held) == (True, 256 * KiB)
    assert full(other) == [False]


def test_a_full_process_is_full_for_whoever_holds_much_of_it(limits: Limits) -> None:
    """L11: and not for a bystander, which may hold next to nothing of what others hoard."""
    holders = [Account(limits) for _ in range(4)]
    bystander = Account(limits)
    for each in holders:
        each.take(SIZE // 8)
    bystander.take(FREE - 1)
    assert [each.full for each in (*holders, bystander)] == [True, True, True, True, False]
    bystander.take(1)
    assert full(bystander) == [True]
    for each in holders[:2]:
        each.give(SIZE // 8)
    assert full(bystander) == [False]
    assert full(holders[2]) == [False]


def test_windows_and_queues_do_not_crowd_each_other_out(limits: Limits) -> None:
    """L11: each has its half."""
    account = Account(limits)
    assert account.grant(SIZE // 2)
    assert full(account) == [False]
    account.take(200 * KiB)
    account.give(200 * KiB)
    assert account.held == 0


def test_a_waiter_is_woken_by_its_connection_and_by_the_process(limits: Limits) -> None:
    """L11: whichever of the two becomes free."""
    account, neighbour, woken = Account(limits), Account(limits), list[str]()
    account.take(256 * KiB)
    with account.waiting(lambda: woken.append("connection")):
        account.give(256 * KiB)
    neighbour.take(SIZE // 2)
    with account.waiting(lambda: woken.append("process")):
        neighbour.give(SIZE // 2)
    assert woken == ["connection", "process"]


def test_nobody_is_woken_after_having_waited(limits: Limits) -> None:
    account, woken = Account(limits), list[str]()
    account.take(SIZE)
    with account.waiting(lambda: woken.append("late")):
        pass
    account.give(SIZE)
    assert woken == []


def test_closing_gives_all_back_and_nothing_counts_afterwards(limits: Limits) -> None:
    """L11: whoever has forgotten to, and twice is once."""
    account, other = Account(limits), Account(limits)
    account.grant(SIZE // 2)
    account.take(SIZE // 2)
    other.take(FREE)
    assert full(other) == [True]
    account.close()
    account.close()
    assert (other.full, account.held) == (False, 0)
    assert not account.grant(1)
    account.take(SIZE)
    account.give(SIZE)
    assert full(other) == [False]
    assert other.grant(SIZE // 2)
    other.take(SIZE // 2)
    assert full(other) == [True]


def test_closing_wakes_those_who_wait_for_the_process(limits: Limits) -> None:
    """L11: a connection that ends makes room for the others."""
    account, other, woken = Account(limits), Account(limits), list[str]()
    account.take(SIZE // 2)
    with other.waiting(lambda: woken.append("room")):
        account.close()
    assert woken == ["room"]
