"""Levels, pools and accounts: who may hold how many bytes, who waits, and that all of it comes back."""

import pytest

from actors.errors import Misuse
from actors.memory import FREE, Account, Level, Quota, check_quota, pool_of
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


# --- what is left for those who hold little ---------------------------------------------------------------------------

STREAM = 8 * KiB
"""What a stream costs without its head."""


def hoard(account: Account) -> None:
    """Open streams for as long as that is allowed."""
    while not account.crowded:
        account.keep(STREAM)


@pytest.fixture
def defaults() -> Limits:
    pool_of.cache_clear()
    return Limits()


def test_who_hoards_leaves_room_for_a_hundred_streams_of_another_connection(defaults: Limits) -> None:
    """L11, W7: twenty connections take all that they can get, and a bystander opens as many streams as it may."""
    for _ in range(20):
        hoard(Account(defaults))
    bystander = Account(defaults)
    for _ in range(defaults.max_streams):
        bystander.keep(STREAM)
        assert not bystander.crowded
        assert not bystander.full


def test_however_many_hoard_each_has_a_little_and_all_together_stay_within_the_bound(defaults: Limits) -> None:
    """L11: process_bytes, and 64 MiB for the 1,024 connections that a server has at most."""
    pool, accounts = pool_of(defaults.process_bytes), []
    for _ in range(defaults.max_connections):
        accounts.append(Account(defaults))
        hoard(accounts[-1])
    held = pool.queues.held
    assert held <= defaults.process_bytes // 2 + 64 * MiB
    last = Account(defaults)
    for _ in range(FREE // STREAM):
        assert not last.crowded
        last.keep(STREAM)
    assert last.crowded
    assert last.short_of == "process_bytes"
    for each in (*accounts, last):
        each.close()
    assert pool.queues.held == 0


# --- what the connections of one address share ------------------------------------------------------------------------


def test_connections_of_one_address_hold_no_more_together_than_their_peer_may(defaults: Limits) -> None:
    """L11: whoever holds it, all of them are full, others are not, and the end of one makes room."""
    quota = Quota(Limits(peer_bytes=100 * KiB))
    one, two, stranger = Account(defaults), Account(defaults), Account(defaults)
    quota.join("10.0.0.1", one)
    quota.join("10.0.0.1", two)
    quota.join("10.0.0.2", stranger)
    one.take(60 * KiB)
    one.keep(40 * KiB)
    assert (one.full, two.full, stranger.full) == (True, True, False)
    assert (one.short_of, two.short_of, stranger.short_of) == ("peer_bytes", "peer_bytes", "")
    woken = list[str]()
    with two.waiting(lambda: woken.append("room")):
        one.close()
    assert woken == ["room"]
    assert full(two) == [False]
    two.take(100 * KiB)
    assert full(two) == [True]
    two.give(60 * KiB)
    two.keep(10 * KiB)
    two.let_go(10 * KiB)
    assert full(two) == [False]


def test_a_client_without_an_address_shares_with_nobody(defaults: Limits) -> None:
    """L12: those of a Unix socket."""
    limits = Limits(peer_bytes=100 * KiB, max_handlers_per_peer=1)
    quota, one, two = Quota(limits), Account(defaults), Account(defaults)
    first, second = quota.join("", one), quota.join("", two)
    one.take(200 * KiB)
    assert full(one, two) == [False, False]
    for share in (first, first, second):
        assert quota.reached(share) == ""
        quota.begin(share)


def test_handlers_are_counted_for_the_server_and_for_each_address(defaults: Limits) -> None:
    """L12: and none is counted when it has ended."""
    quota = Quota(Limits(max_handlers=3, max_handlers_per_peer=2))
    here, there = quota.join("here", Account(defaults)), quota.join("there", Account(defaults))
    for _ in range(2):
        assert quota.reached(here) == ""
        quota.begin(here)
    assert quota.reached(here) == "max_handlers_per_peer"
    assert quota.reached(there) == ""
    quota.begin(there)
    assert quota.reached(there) == "max_handlers"
    quota.end(here)
    assert [quota.reached(share) for share in (here, there)] == ["", ""]
    assert (quota.handlers, quota.begun) == (2, 3)


def test_an_address_is_remembered_until_its_last_connection_and_its_last_handler_have_ended(defaults: Limits) -> None:
    """S13: and no longer."""
    quota = Quota(Limits(max_handlers_per_peer=1))
    share = quota.join("here", Account(defaults))
    quota.begin(share)
    quota.leave(share)
    again = quota.join("here", Account(defaults))
    assert quota.reached(again) == "max_handlers_per_peer", "its handler outlived its connection"
    quota.leave(again)
    quota.end(again)
    assert quota.join("here", Account(defaults)) is not share


def test_other_limits_hold_at_once_and_wake_those_who_may_go_on(defaults: Limits) -> None:
    """L12: a peer that had no bound in bytes gets one with its next connection."""
    quota, account, woken = Quota(Limits(peer_bytes=64 * KiB)), Account(defaults), list[str]()
    share = quota.join("here", account)
    account.take(64 * KiB)
    with account.waiting(lambda: woken.append("room")):
        quota.change(Limits(peer_bytes=65 * KiB, max_handlers=1))
        assert (woken, full(account)) == (["room"], [False])
    quota.begin(share)
    assert quota.reached(share) == "max_handlers"
    quota.change(Limits())
    account.take(1 * MiB)
    assert full(account) == [False]
    free = quota.join("elsewhere", Account(defaults))
    quota.change(Limits(peer_bytes=64 * KiB))
    bound = Account(defaults)
    assert quota.join("elsewhere", bound) is free
    bound.take(64 * KiB)
    assert full(account, bound) == [True, True]


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(max_connections=5, max_connections_per_peer=6), r"max_connections_per_peer \(6\) is above"),
        (Limits(max_handlers=5, max_handlers_per_peer=6), r"max_handlers_per_peer \(6\) is above"),
        (Limits(process_bytes=2 * MiB, peer_bytes=1 * MiB + 1), "peer_bytes .* process_bytes that is for queues"),
    ],
)
def test_a_bound_of_a_part_above_that_of_the_whole_is_misuse(limits: Limits, named: str) -> None:
    """It would never hold."""
    with pytest.raises(Misuse, match=named):
        check_quota(limits)


def test_a_bound_of_a_part_as_large_as_that_of_the_whole_is_allowed() -> None:
    check_quota(Limits(max_connections=5, max_connections_per_peer=5, max_handlers=7, max_handlers_per_peer=7))
    check_quota(Limits(process_bytes=2 * MiB, peer_bytes=1 * MiB))
