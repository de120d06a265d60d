"""The policies of health as tables, and against made-up peers and stalls: no loop, no clock but numbers."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.pulse import Act, Decision, Doorkeeper, Monitor
from actors.settings import Health
from supervisor.health import PingMonitor, PingStrikes

HEALTH: Final = Health(interval=100.0, timeout=10.0, suspect=1.0)
NEVER: Final = float("inf")


def watched(health: Health = HEALTH, *, factor: float = 1.0) -> Monitor:
    return PingMonitor(health, factor=factor)


def greeted(*, interval: float = 10.0, strikes: int = 2) -> Doorkeeper:
    return PingStrikes(Health(least_ping_interval=interval, max_ping_strikes=strikes))


# --- when a PING goes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "now", "expected"),
    [
        (0.0, 50.0, Decision(Act.NOTHING, 100.0)),
        (30.0, 99.0, Decision(Act.NOTHING, 130.0)),
        (30.0, 129.5, Decision(Act.NOTHING, 130.0)),
        (30.0, 130.0, Decision(Act.PING)),
        (30.0, 129.9995, Decision(Act.PING)),
        (30.0, 500.0, Decision(Act.PING)),
    ],
)
def test_silence_while_streams_are_open_leads_to_a_ping_after_the_interval(
    heard: float, now: float, expected: Decision
) -> None:
    """H1: a timer may ring a millisecond early."""
    monitor = watched()
    monitor.decide(0.0, 0.0, streams=1)
    assert monitor.decide(now, heard, streams=1) == expected


def test_no_ping_goes_out_without_streams() -> None:
    """H1: nor is there anything to look at again."""
    assert watched().decide(1_000_000.0, 0.0, streams=0) == Decision(Act.NOTHING)


def test_a_first_stream_after_long_silence_has_the_whole_interval() -> None:
    """H1: nobody waited for the peer to speak before."""
    monitor = watched()
    monitor.decide(0.0, 0.0, streams=1)
    monitor.decide(100.0, 50.0, streams=0)
    assert monitor.decide(10_000.0, 50.0, streams=1) == Decision(Act.NOTHING, 10_100.0)
    assert monitor.decide(10_100.0, 50.0, streams=3) == Decision(Act.PING)


def test_pings_go_out_while_idle_where_that_is_wanted() -> None:
    """H1: Health.while_idle."""
    monitor = watched(Health(interval=100, while_idle=True))
    assert monitor.decide(0.0, 0.0, streams=0) == Decision(Act.NOTHING, 100.0)
    assert monitor.decide(100.0, 0.0, streams=0) == Decision(Act.PING)


def test_a_factor_lengthens_the_interval_alone() -> None:
    """H3."""
    monitor = watched(factor=2.0)
    assert monitor.decide(0.0, 0.0, streams=1) == Decision(Act.NOTHING, 200.0)
    assert monitor.decide(199.0, 0.0, streams=1) == Decision(Act.NOTHING, 200.0)
    assert monitor.decide(200.0, 0.0, streams=1) == Decision(Act.PING)
    assert _silent_until(monitor, 200.0) == [(Act.SUSPECT, 201.0), (Act.END, 210.0)]


# --- what silence after it means ------------------------------------------------------------------------------------


def _silent_until(monitor: Monitor, asked: float, *, streams: int = 1) -> list[tuple[Act, float]]:
    """What is decided, and when, after a PING that nobody answers, by a loop that is always in time."""
    found: list[tuple[Act, float]] = []
    again: float | None = monitor.pinged(asked)
    while again is not None:
        decision = monitor.decide(again, 0.0, streams=streams)
        if decision.act is not Act.NOTHING:
            found.append((decision.act, round(again, 2)))
        again = decision.again
    return found


@pytest.mark.parametrize("streams", [0, 1])
@pytest.mark.parametrize("asked", [0.0, 7.25, 1e6])
@pytest.mark.parametrize(
    "health",
    [Health(), Health.fast(), HEALTH, Health(timeout=0.5), Health(timeout=60, suspect=50), Health(suspect=9.99)],
)
def test_silence_after_a_ping_is_suspect_once_and_then_the_end(health: Health, asked: float, streams: int) -> None:
    """H2: whoever asked, with streams or without."""
    found = _silent_until(watched(health), asked, streams=streams)
    end = (Act.END, round(asked + health.timeout, 2))
    suspect = (Act.SUSPECT, round(asked + health.suspect, 2))
    assert found == ([suspect, end] if health.suspect < health.timeout else [end])


def test_a_byte_after_the_ping_puts_everything_off_and_the_answer_ends_it() -> None:
    """H2: a byte that is no answer leaves the PING waited for."""
    monitor = watched()
    monitor.pinged(0.0)
    assert monitor.decide(1.0, -5.0, streams=0).act is Act.SUSPECT
    assert monitor.decide(9.0, 8.9, streams=0).act is Act.NOTHING
    assert monitor.decide(18.5, 8.9, streams=0).act is Act.NOTHING
    assert monitor.decide(18.9, 8.9, streams=0).act is Act.END
    monitor.answered()
    assert monitor.decide(19.0, 8.9, streams=0) == Decision(Act.NOTHING)


def test_a_second_ping_can_be_suspect_again() -> None:
    """H7."""
    monitor = watched()
    for asked in (0.0, 50.0):
        monitor.pinged(asked)
        assert monitor.decide(asked + 1.0, asked - 1, streams=1).act is Act.SUSPECT
        assert monitor.decide(asked + 2.0, asked - 1, streams=1).act is Act.NOTHING
        monitor.answered()


@pytest.mark.parametrize("begins", [0.0, 0.05, 0.4, 0.55, 0.95, 3.3, 9.05])
def test_a_stall_after_the_ping_brings_no_decision_at_its_end(begins: float) -> None:
    """H4: wherever in the ten seconds the 30 s fall; then the peer still has its time, less one piece of it."""
    monitor = watched()
    now, again, over = 0.0, monitor.pinged(0.0), False
    while True:
        late = 0.0
        if not over and again > begins:
            late, over = begins + 30.0 - again, True
        now = again + late
        decision = monitor.decide(now, -1.0, streams=1, late=late)
        if late:
            # The whole pieces before the stall were silent while we ran, and may be held against the peer.
            before = begins - begins % (0.5 if begins < 1.0 else 1.0)
            assert decision.act is (Act.NOTHING if before < 0.5 or 1.0 <= before < 9.0 else decision.act)
            assert decision.act is not Act.END or before == 9.0
        if decision.again is None:
            break
        again = decision.again
    assert decision.act is Act.END
    assert 30.0 + 10.0 - 1.01 < now < 30.0 + 10.0 + 1.01


@given(
    health=st.builds(
        lambda interval, timeout, share: Health(interval=interval, timeout=timeout, suspect=timeout * share),
        st.floats(0.5, 500), st.floats(0.5, 100), st.floats(0.05, 1),
    ),
    stalls=st.lists(st.tuples(st.floats(0, 500), st.floats(0.1, 300)), max_size=8),
    takes=st.floats(0.001, 0.4),
)  # fmt: skip
def test_no_stall_kills_a_peer_that_answers(health: Health, stalls: list[tuple[float, float]], takes: float) -> None:
    """H4: nor makes it suspect; it answers within a part of what it has, and we hear it only while we run.

    Each stall begins so many seconds after the one before, and the first look after it comes before its bytes are read.
    """
    monitor, takes = watched(health), takes * health.suspect
    heard, answer, asked = 0.0, NEVER, 0
    stalling = iter(stalls)
    begins, lasts = next(stalling, (NEVER, 0.0))
    again = monitor.decide(0.0, 0.0, streams=1).again
    while asked < 10:
        assert again is not None
        if answer <= min(again, begins):
            heard, answer = answer, NEVER
            monitor.answered()
        now = again
        while again >= begins:
            now = max(now, begins + lasts)
            gap, longer = next(stalling, (NEVER, 0.0))
            begins, lasts = begins + lasts + gap, longer
        decision = monitor.decide(now, heard, streams=1, late=now - again)
        assert decision.act in (Act.NOTHING, Act.PING)
        again = decision.again
        if decision.act is Act.PING:
            answer, asked = now + takes, asked + 1
            again = monitor.pinged(now)


@given(
    interval=st.floats(1, 1000), timeout=st.floats(0.02, 100), share=st.floats(0.01, 1), silent=st.floats(0, 50),
    said=st.lists(st.floats(0, 50), max_size=10),
)  # fmt: skip
def test_whoever_falls_silent_is_dead_in_time(
    interval: float, timeout: float, share: float, silent: float, said: list[float]
) -> None:
    """H2: within interval + timeout + 10 % of the last byte, and not before; what it said before changes nothing."""
    monitor = watched(Health(interval=interval, timeout=timeout, suspect=max(0.001, share * timeout)))
    spoken = [0.0, silent, *(each for each in said if each < silent)]
    again = monitor.decide(0.0, 0.0, streams=1).again
    while True:
        assert again is not None
        now = again
        heard = max(each for each in spoken if each <= now)
        decision = monitor.decide(now, heard, streams=1)
        if decision.act is Act.END:
            break
        again = decision.again
        if decision.act is Act.PING:
            again = monitor.pinged(now)
            if now < silent:
                spoken.append(now)
                monitor.answered()
    assert timeout - 0.01 <= now - heard <= (interval + timeout) * 1.1 + 0.01


# --- how often a client may ask -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "strikes", "times", "refused"),
    [
        (10, 2, [0, 0, 0], None),
        (10, 2, [0, 0, 0, 0], 3),
        (10, 2, [0, 0, 0, 9], 3),
        (10, 2, [0, 0, 0, 10], None),
        (10, 2, [0, 0, 0, 10, 11], 4),
        (10, 2, [0, 0, 0, 30, 30, 30], None),
        (10, 2, [0, 0, 0, 1000, 1000, 1000, 1000], 6),
        (10, 2, [10 * each for each in range(500)], None),
        (10, 2, [10 * each + (-4) ** (each % 2) for each in range(500)], None),
        (10, 2, [9 * each for each in range(500)], 21),
        (10, 0, [0, 10, 20, 29], 3),
        (10, 0, [0, 0], 1),
        (0, 0, [0] * 500, None),
        (300, 2, [0, 1, 2, 3], 3),
    ],
)
def test_pings_beyond_the_average_are_forgiven_a_few_times(
    interval: float, strikes: int, times: list[float], refused: int | None
) -> None:
    """H5: `refused` is the number of the first that is one too many."""
    doorkeeper = greeted(interval=interval, strikes=strikes)
    got = [doorkeeper.allows(each) for each in times]
    assert (got.index(False) if False in got else None) == refused


def test_what_we_send_forgives_all_pings_before() -> None:
    """H5: a gRPC client asks once a second while data come."""
    doorkeeper = greeted()
    for second in range(100):
        doorkeeper.sent()
        assert [doorkeeper.allows(second) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(10.0, 1000.0), max_size=50), st.integers(0, 5))
def test_a_client_that_keeps_the_interval_is_never_refused(gaps: list[float], strikes: int) -> None:
    """H5: not even without strikes."""
    doorkeeper, now = greeted(strikes=strikes), 0.0
    for gap in gaps:
        now += gap
        assert doorkeeper.allows(now)


@given(st.lists(st.floats(0.0, 30.0), max_size=200), st.integers(0, 5))
def test_no_more_than_the_average_and_the_strikes_ever_pass(gaps: list[float], strikes: int) -> None:
    """H5: in any stretch of time that begins with the first."""
    doorkeeper, now, passed = greeted(strikes=strikes), 0.0, 0
    for gap in gaps:
        now += gap
        passed += doorkeeper.allows(now)
        assert passed <= (now - gaps[0]) / 10.0 + 1 + strikes + 0.01
