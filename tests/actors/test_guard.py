"""The guard: each limit lets through what it says and not one more, rates come back with time, a dry run goes on."""

from collections.abc import Callable
from typing import Final

import pytest
from attrs import evolve, frozen

from actors.errors import ErrorCode, ProtocolViolation
from actors.frames import ACK, END_HEADERS, END_STREAM, FrameType
from actors.guard import BYTES_PER_UPDATE, PERIOD, QUICK, Guard
from actors.records import Record
from actors.settings import Limits

HEADERS, DATA, CONTINUATION = FrameType.HEADERS, FrameType.DATA, FrameType.CONTINUATION
PING, SETTINGS, UPDATE = FrameType.PING, FrameType.SETTINGS, FrameType.WINDOW_UPDATE
UNKNOWN: Final = 0xFA
FEW: Final = Limits(
    max_quick_resets=10, max_forced_resets=10, max_control_frames=10, max_unsent_control_frames=10,
    max_window_updates=10, max_settings=10, max_continuations=10, max_header_block=1024, max_empty_frames=10,
)  # fmt: skip


def guard(limits: Limits = FEW, *, server: bool = True) -> Guard:
    made = Guard(limits, server=server)
    made.now = 1_000.0
    return made


def quick_reset(guard: Guard) -> None:
    guard.opened()
    guard.reset_by_peer(Record(1, opened=guard.now))


def unread(guard: Guard) -> None:
    guard.blocked = True
    guard.answered()


@frozen
class Case:
    """What exceeds a limit when it is done ``allowed`` times and once more."""

    limit: str
    do: Callable[[Guard], None]
    allowed: int = 10
    per_time: bool = False


def fed(kind: int, flags: int = 0, size: int = 0) -> Callable[[Guard], None]:
    return lambda guard: guard.check(kind, flags, size)


CASES: Final = (
    Case("max_quick_resets", quick_reset, per_time=True),
    Case("max_forced_resets", Guard.reset_by_us, per_time=True),
    Case("max_control_frames", fed(PING, size=8), per_time=True),
    Case("max_control_frames", fed(PING, ACK, 8), per_time=True),
    Case("max_control_frames", fed(SETTINGS), per_time=True),
    Case("max_control_frames", fed(SETTINGS, ACK), per_time=True),
    Case("max_control_frames", fed(FrameType.PRIORITY, size=5), per_time=True),
    Case("max_control_frames", fed(FrameType.RST_STREAM, size=4), per_time=True),
    Case("max_control_frames", fed(FrameType.GOAWAY, size=8), per_time=True),
    Case("max_control_frames", fed(FrameType.ALTSVC, size=8), per_time=True),
    Case("max_control_frames", fed(UNKNOWN), per_time=True),
    Case("max_unsent_control_frames", unread),
    Case("max_window_updates", fed(UPDATE, size=4), per_time=True),
    Case("max_continuations", fed(CONTINUATION, size=1)),
    Case("max_header_block", fed(CONTINUATION, size=128), allowed=8),
    Case("max_empty_frames", fed(DATA)),
    Case("max_empty_frames", fed(HEADERS)),
    Case("max_empty_frames", fed(CONTINUATION)),
)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.limit}-{CASES.index(case)}")


@each_case
def test_as_many_as_a_limit_says_pass_and_one_more_ends_the_connection(case: Case) -> None:
    """W7: with ENHANCE_YOUR_CALM and the name of the limit."""
    one = guard()
    for _ in range(case.allowed):
        case.do(one)
    with pytest.raises(ProtocolViolation, match=rf"\(Limits\.{case.limit}\)") as caught:
        case.do(one)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


@each_case
def test_a_rate_comes_back_with_time_and_a_count_does_not(case: Case) -> None:
    """W7: a tenth of the period gives a tenth of a rate back, and never more than all of it."""
    one = guard()
    for _ in range(case.allowed):
        case.do(one)
    one.now += PERIOD / 10
    if not case.per_time:
        with pytest.raises(ProtocolViolation):
            case.do(one)
        return
    case.do(one)
    with pytest.raises(ProtocolViolation):
        case.do(one)
    one.now += 100 * PERIOD
    for _ in range(case.allowed):
        case.do(one)
    with pytest.raises(ProtocolViolation):
        case.do(one)


@each_case
def test_a_dry_run_reports_a_limit_once_and_goes_on(case: Case) -> None:
    """W7: what it reports is what it would have said."""
    one, told = guard(evolve(FEW, dry_run=True)), list[str]()
    one.report = told.append
    for _ in range(case.allowed):
        case.do(one)
    assert not told
    for _ in range(50):
        case.do(one)
    assert [f"(Limits.{case.limit})" in message for message in told if case.limit in message] == [True]


def test_a_dry_run_reports_each_limit_by_itself() -> None:
    """W7: one that was reported hides no other."""
    one, told = guard(evolve(FEW, dry_run=True)), list[str]()
    one.report = told.append
    for _ in range(20):
        one.check(UPDATE, 0, 4)
        one.reset_by_us()
    assert len(told) == 2


def test_a_guard_that_nobody_listens_to_goes_on_in_a_dry_run() -> None:
    """W7: also before its connection has said who gets the reports."""
    one = guard(evolve(FEW, dry_run=True))
    for _ in range(20):
        one.reset_by_us()


# --- what does not count ----------------------------------------------------------------------------------------------


def test_what_bodies_and_heads_are_made_of_is_no_control_frame() -> None:
    """W8: as many HEADERS and DATA as anyone likes."""
    one = guard()
    for _ in range(1_000):
        one.check(HEADERS, END_HEADERS, 20)
        one.check(DATA, 0, 1)
        one.check(DATA, END_STREAM, 0)


def test_anything_in_a_frame_ends_a_row_of_empty_ones() -> None:
    """W8: and so does an end of the stream."""
    one = guard()
    for flags, size in ((0, 1), (END_STREAM, 0)) * 5:
        for _ in range(10):
            one.check(DATA, 0, 0)
        one.check(DATA, flags, size)
    assert one.empty == 0


def test_control_frames_between_them_do_not_hide_a_row_of_empty_frames() -> None:
    """W7: only a frame that could have had something in it counts."""
    one = guard(evolve(FEW, max_control_frames=1_000, max_window_updates=1_000))
    for _ in range(10):
        one.check(DATA, 0, 0)
        one.check(PING, 0, 8)
        one.check(UPDATE, 0, 4)
    with pytest.raises(ProtocolViolation, match="max_empty_frames"):
        one.check(DATA, 0, 0)


def test_each_header_block_counts_from_its_beginning() -> None:
    """W8: many small blocks are no large one."""
    one = guard()
    for _ in range(20):
        one.check(HEADERS, 0, 512)
        for _ in range(9):
            one.check(CONTINUATION, 0, 10)
        one.check(CONTINUATION, END_HEADERS, 10)


def test_a_promise_is_the_beginning_of_a_header_block_too() -> None:
    """W7: on a client."""
    one = guard(server=False)
    one.check(FrameType.PUSH_PROMISE, 0, 1_000)
    with pytest.raises(ProtocolViolation, match="max_header_block"):
        one.check(CONTINUATION, 0, 25)


def test_data_that_was_sent_pays_for_window_updates() -> None:
    """W8: two for each 8 KiB, on top of the rate."""
    one = guard()
    one.sent(8 * BYTES_PER_UPDATE, 1)
    for _ in range(8 + 10):
        one.check(UPDATE, 0, 4)
    with pytest.raises(ProtocolViolation, match="max_window_updates"):
        one.check(UPDATE, 0, 4)


def test_settings_may_have_as_many_entries_as_the_limit_says() -> None:
    """W7: 32 by default, six bytes each."""
    one = guard(Limits())
    one.check(SETTINGS, 0, 32 * 6)
    with pytest.raises(ProtocolViolation, match=r"33 entries \(Limits\.max_settings\)"):
        one.check(SETTINGS, 0, 33 * 6)


def test_answers_count_only_while_the_socket_takes_nothing() -> None:
    """W8: and from none again once it has taken something."""
    one = guard(evolve(FEW, max_control_frames=1_000))
    for blocked in (False, True, False, True):
        one.blocked = blocked
        for _ in range(10):
            one.check(PING, 0, 8)
    one.check(PING, ACK, 8)  # needs no answer
    with pytest.raises(ProtocolViolation, match="max_unsent_control_frames"):
        one.check(SETTINGS, 0, 0)


# --- resets -----------------------------------------------------------------------------------------------------------


def test_resets_of_answered_or_old_streams_are_not_quick() -> None:
    """W8: whoever cancels what has run for a second attacks nobody."""
    one = guard()
    for _ in range(100):
        one.opened()
        one.reset_by_peer(Record(1, opened=one.now - QUICK))
        one.opened()
        one.reset_by_peer(Record(3, opened=one.now, answered=True))


def test_quick_resets_of_no_more_than_half_of_the_streams_are_fine() -> None:
    """W8: one below half for as long as it likes; then more than half end the connection."""
    one = guard()
    for _ in range(200):
        one.opened()
        quick_reset(one)
    with pytest.raises(ProtocolViolation, match="max_quick_resets"):
        quick_reset(one)


def test_streams_of_long_ago_do_not_excuse_quick_resets() -> None:
    """W7: what counts as most of the streams begins anew with each period."""
    one = guard()
    for _ in range(1_000):
        one.opened()
    one.now += PERIOD
    for _ in range(10):
        quick_reset(one)
    with pytest.raises(ProtocolViolation, match="max_quick_resets"):
        quick_reset(one)


def test_a_client_counts_no_resets_of_its_servers() -> None:
    """W8: what a server gives up is its own loss."""
    one = guard(server=False)
    for _ in range(100):
        quick_reset(one)
        one.reset_by_us()


def test_other_limits_hold_from_their_change_on() -> None:
    """W7: a count that is narrowed is narrow at once."""
    one = guard()
    one.change(evolve(FEW, max_empty_frames=2))
    one.check(DATA, 0, 0)
    one.check(DATA, 0, 0)
    with pytest.raises(ProtocolViolation, match="max_empty_frames"):
        one.check(DATA, 0, 0)
