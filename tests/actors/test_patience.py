"""What a connection waits for: the earliest time counts, and progress with one thing postpones no other."""

import math

import pytest

from actors.errors import ErrorCode, Misuse, ProtocolViolation, TransportLost
from actors.patience import EARLY, Alarm, Deadlines, Patience, Timer, Wait
from actors.settings import Limits
from actors.wire import Wire
from tests.support import frames
from tests.support.frames import PREFACE, continuation, headers, ping, settings

POST = frames.encode(frames.request("POST"))


def hearing(*, dry_run: bool = False) -> tuple[Wire, Patience]:
    """A server's wire after its handshake, and the patience with it."""
    limits = Limits(
        settings_timeout=1, header_block_timeout=2, frame_timeout=3, write_timeout=4, dry_run=dry_run
    )  # fmt: skip
    wire = Wire(client=False, limits=limits)
    wire.start()
    hears(wire, PREFACE + settings() + settings(ack=True))
    return wire, Patience(wire, Deadlines())


def hears(wire: Wire, data: bytes) -> None:
    wire.take_in(data)
    while wire.has_input:
        wire.read(16)


def test_of_two_times_for_the_same_the_earlier_counts() -> None:
    deadlines = Deadlines()
    deadlines.start(Wait.FRAME, 5.0)
    deadlines.start(Wait.FRAME, 9.0)
    deadlines.start(Wait.WRITE, 7.0)
    assert deadlines.next == 5.0
    deadlines.start(Wait.FRAME, 3.0)
    assert deadlines.next == 3.0
    deadlines.stop(Wait.FRAME)
    deadlines.stop(Wait.FRAME)
    assert deadlines.next == 7.0
    assert Wait.FRAME not in deadlines
    assert Wait.WRITE in deadlines


def test_what_is_due_is_waited_for_no_more() -> None:
    deadlines = Deadlines()
    deadlines.start(Wait.FRAME, 5.0)
    deadlines.start(Wait.WRITE, 7.0)
    assert deadlines.due(5.0 - 2 * EARLY) == []
    assert deadlines.due(5.0 - EARLY / 2) == [Wait.FRAME]
    assert deadlines.due(5.0) == []
    assert deadlines.due(100.0) == [Wait.WRITE]
    assert deadlines.next is None


class Timers:
    """Stands in for the loop's timers: which are set, at which times."""

    def __init__(self) -> None:
        self.set: list[float] = []

    def at(self, when: float) -> Timer:
        self.set.append(when)
        return Ringing(self.set, when)


class Ringing:
    def __init__(self, timers: list[float], when: float) -> None:
        self._timers = timers
        self._when = when

    def cancel(self) -> None:
        self._timers.remove(self._when)


def test_one_timer_is_set_for_the_earliest_time() -> None:
    """One that was stopped lets it ring for nothing, and what rings is set for the rest."""
    timers = Timers()
    alarm = Alarm(timers.at)
    for wait, at in ((Wait.FRAME, 5.0), (Wait.IDLE, math.inf), (Wait.WRITE, 3.0), (Wait.AGE, 9.0)):
        alarm.start(wait, at)
    assert timers.set == [3.0]
    alarm.stop(Wait.WRITE)
    assert timers.set == [3.0]
    timers.set.clear()
    assert alarm.late(3.5) == 0.5
    assert alarm.due(3.5) == []
    assert timers.set == [5.0]
    timers.set.clear()
    assert alarm.due(5.0) == [Wait.FRAME]
    assert timers.set == [9.0]
    assert Wait.IDLE not in alarm


def test_what_was_slept_through_is_waited_for_once_more() -> None:
    timers = Timers()
    alarm = Alarm(timers.at)
    alarm.start(Wait.FRAME, 5.0)
    alarm.sleep(4.0)
    timers.set.clear()  # it rang meanwhile
    assert alarm.wake(10.0) == 6.0
    assert alarm.late(10.0) == 0.0
    assert alarm.due(10.0) == []
    assert timers.set == [11.0]
    assert alarm.due(11.0) == [Wait.FRAME]


def test_silence_from_the_beginning_ends_the_connection() -> None:
    """W7: SETTINGS_TIMEOUT, and the limit by name."""
    _, patience = hearing()
    for wait in (Wait.SETTINGS, Wait.ACK):
        with pytest.raises(ProtocolViolation, match=r"Limits\.settings_timeout") as caught:
            patience.overdue(wait, 0, 1.0)
        assert caught.value.code == ErrorCode.SETTINGS_TIMEOUT


def test_the_rest_of_a_header_block_has_its_time() -> None:
    """W7: which each further piece of it leaves as it is."""
    wire, patience = hearing()
    hears(wire, headers(1, POST[:1], end_headers=False))
    patience.watch_pieces(10.0)
    hears(wire, continuation(1, POST[1:2], end_headers=False))
    patience.watch_pieces(11.9)
    assert patience.deadlines.due(12.0) == [Wait.BLOCK]
    with pytest.raises(ProtocolViolation, match=r"Limits\.header_block_timeout") as caught:
        patience.overdue(Wait.BLOCK, 0, 12.0)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_header_block_that_ended_is_waited_for_no_more() -> None:
    """W8"""
    wire, patience = hearing()
    hears(wire, headers(1, POST[:1], end_headers=False))
    patience.watch_pieces(10.0)
    hears(wire, continuation(1, POST[1:]))
    patience.watch_pieces(11.0)
    assert Wait.BLOCK not in patience.deadlines


def test_the_rest_of_a_frame_has_its_time() -> None:
    """W7: which further bytes of it leave as it is."""
    wire, patience = hearing()
    for at, byte in enumerate(ping()[:5]):
        hears(wire, bytes([byte]))
        patience.watch_pieces(10.0 + at / 2)
    assert patience.deadlines.due(13.0) == [Wait.FRAME]
    with pytest.raises(ProtocolViolation, match=r"Limits\.frame_timeout") as caught:
        patience.overdue(Wait.FRAME, 0, 13.0)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_another_frame_that_has_begun_since_has_a_time_of_its_own() -> None:
    """W8: a peer whose frames come in halves is slow and not stuck."""
    wire, patience = hearing()
    hears(wire, ping()[:5])
    patience.watch_pieces(10.0)
    hears(wire, ping()[5:] + ping()[:5])
    patience.watch_pieces(12.0)
    assert patience.deadlines.due(13.0) == [Wait.FRAME]
    patience.overdue(Wait.FRAME, 0, 13.0)
    assert patience.deadlines.due(16.0) == [Wait.FRAME]
    with pytest.raises(ProtocolViolation, match="frame_timeout"):
        patience.overdue(Wait.FRAME, 0, 16.0)


def test_a_frame_that_is_all_there_when_its_time_is_over_is_fine() -> None:
    """W8"""
    wire, patience = hearing()
    hears(wire, ping()[:5])
    patience.watch_pieces(10.0)
    hears(wire, ping()[5:])
    assert patience.deadlines.due(13.0) == [Wait.FRAME]
    patience.overdue(Wait.FRAME, 0, 13.0)
    assert patience.deadlines.next is None


def test_the_rest_of_a_body_may_take_any_time() -> None:
    """W8: how long a body takes is its reader's business."""
    wire, patience = hearing()
    hears(wire, headers(1, POST))
    hears(wire, frames.data(1, b"0123456789")[:12])
    patience.watch_pieces(10.0)
    assert patience.deadlines.next is None


def test_a_socket_that_takes_nothing_is_dead_and_one_that_takes_a_byte_is_not() -> None:
    """F6"""
    _, patience = hearing()
    patience.watch_socket(100, 10.0)
    assert patience.deadlines.due(14.0) == [Wait.WRITE]
    patience.overdue(Wait.WRITE, 101, 14.0)
    assert patience.deadlines.due(18.0) == [Wait.WRITE]
    with pytest.raises(TransportLost, match=r"took nothing for 4 s \(Limits\.write_timeout\)"):
        patience.overdue(Wait.WRITE, 101, 18.0)


def test_a_dry_run_reports_what_is_overdue_and_waits_on() -> None:
    """W7"""
    wire, patience = hearing(dry_run=True)
    told: list[str] = []
    wire.guard.report = told.append
    hears(wire, headers(1, POST[:1], end_headers=False))
    for wait in (Wait.ACK, Wait.BLOCK, Wait.FRAME, Wait.WRITE):
        patience.watch_pieces(10.0)
        patience.overdue(wait, 0, 14.0)
    for limit in ("settings_timeout", "header_block_timeout", "frame_timeout", "write_timeout"):
        assert [message for message in told if f"Limits.{limit}" in message], limit


@pytest.mark.parametrize("wait", [Wait.IDLE, Wait.GOODBYE, Wait.DRAIN])
def test_what_is_not_about_progress_is_somebody_elses(wait: Wait) -> None:
    _, patience = hearing()
    with pytest.raises(Misuse, match=wait.name):
        patience.overdue(wait, 0, 1.0)
