"""What may go again, when, within which budget; and what a reply's wish to be left alone means."""

import random
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Final

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.errors import (
    Closed,
    ConnectFailed,
    DeadlineExceeded,
    ErrorCode,
    GoAway,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Misuse,
    Outcome,
    PingTimeout,
    ProtocolViolation,
    StreamReset,
    TransportLost,
)
from actors.headers import Headers
from actors.settings import Retry
from supervisor.retry import Budget, Refusal, Repetitions, pushback, refused

NOT_SENT, UNPROCESSED, MAYBE, COMPLETED = Outcome
REFUSED: Final = StreamReset("refused", code=ErrorCode.REFUSED_STREAM, outcome=UNPROCESSED)
LOST: Final = TransportLost("lost", outcome=MAYBE)


def repetitions(
    retry: Retry | None = None, *, idempotent: bool = True, replayable: bool = True, chance: float = 0.0
) -> Repetitions:
    retry = retry if retry is not None else Retry()
    return Repetitions(retry, Budget(retry), idempotent=idempotent, replayable=replayable, random=lambda: chance)


@pytest.mark.parametrize("outcome", [NOT_SENT, UNPROCESSED])
@pytest.mark.parametrize(
    "error",
    [
        GoAway("going", code=0),
        GoAway("going, too busy", code=ErrorCode.ENHANCE_YOUR_CALM),
        REFUSED,
        ConnectFailed("refused"),
        TransportLost("lost"),
        PingTimeout("silent"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_not_processed_goes_again_whatever_its_method(error: LinkError, outcome: Outcome) -> None:
    """X2, G1."""
    request = repetitions(idempotent=False)
    assert request.decide(error.with_outcome(outcome), 0.0, None) == 0.0
    assert request.made == 1


@pytest.mark.parametrize("outcome", [NOT_SENT, UNPROCESSED, MAYBE])
@pytest.mark.parametrize(
    "error",
    [
        Misuse("wrong"),
        InvalidHeaders("wrong"),
        LimitReached("full"),
        DeadlineExceeded("late"),
        LinkError("some error"),
        *(
            StreamReset("complains", code=code)
            for code in (ErrorCode.PROTOCOL_ERROR, ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.HTTP_1_1_REQUIRED)
        ),
    ],
    ids=lambda error: f"{type(error).__name__}-{getattr(error, 'code', '')}",
)
def test_what_would_fail_again_never_goes_again(error: LinkError, outcome: Outcome) -> None:
    """X2."""
    why = repetitions().decide(error.with_outcome(outcome), 0.0, None, moved=True)
    assert why is Refusal.HELPLESS


def test_closed_goes_again_only_where_a_connection_was_going_and_the_link_is_open() -> None:
    """X2, G6."""
    assert repetitions().decide(Closed("used up"), 0.0, None) is Refusal.HELPLESS
    assert repetitions().decide(Closed("used up"), 0.0, None, moved=True) == 0.0


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        ProtocolViolation("broken", outcome=MAYBE),
        StreamReset("crashed", code=ErrorCode.INTERNAL_ERROR, outcome=MAYBE),
        GoAway("going", code=0, outcome=MAYBE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_have_been_processed_goes_again_only_if_twice_does_no_harm(error: LinkError) -> None:
    """X2."""
    assert repetitions(idempotent=False).decide(error, 0.0, None) is Refusal.NOT_IDEMPOTENT
    assert repetitions(idempotent=True).decide(error, 0.0, None) == 0.0


def test_what_was_answered_in_full_never_goes_again() -> None:
    """X2."""
    assert repetitions().decide(LOST.with_outcome(COMPLETED), 0.0, None) is Refusal.COMPLETED


def test_a_consumed_body_never_goes_again_and_one_that_was_not_touched_does() -> None:
    """X2."""
    request = repetitions(replayable=False)
    assert request.decide(REFUSED, 0.0, None, untouched=True) == 0.0
    assert request.decide(REFUSED, 0.0, None) is Refusal.CONSUMED


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_request_goes_again_as_often_as_the_setting_allows(attempts: int) -> None:
    """X2."""
    request = repetitions(Retry(attempts=attempts))
    waits = [request.decide(REFUSED, 0.0, None) for _ in range(attempts)]
    assert not [wait for wait in waits if isinstance(wait, Refusal)]
    assert request.decide(REFUSED, 0.0, None) is Refusal.ATTEMPTS
    assert request.made == attempts


def test_without_attempts_nothing_goes_again() -> None:
    """X2."""
    assert repetitions(Retry(attempts=0)).decide(REFUSED, 0.0, None) is Refusal.OFF


def test_the_first_repetition_goes_at_once_and_pauses_double_up_to_a_second() -> None:
    shortest = repetitions(Retry(attempts=9, pause=0.0625), chance=0.0)
    longest = repetitions(Retry(attempts=9, pause=0.0625), chance=1.0)
    wholes = [0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert [shortest.decide(REFUSED, 0.0, None) for _ in wholes] == [whole / 2 for whole in wholes]
    assert [longest.decide(REFUSED, 0.0, None) for _ in wholes] == wholes


def test_a_pause_that_is_set_above_a_second_stays_as_it_is() -> None:
    request = repetitions(Retry(pause=3.0), chance=1.0)
    assert [request.decide(REFUSED, 0.0, None) for _ in range(4)] == [0.0, 3.0, 3.0, 3.0]


def test_however_often_a_request_goes_again_its_pause_is_a_number() -> None:
    request = repetitions(Retry(attempts=3_000), chance=1.0)
    assert [request.decide(REFUSED, 0.0, None) for _ in range(3_000)][-1] == 1.0


def test_a_repetition_that_would_not_begin_before_the_deadline_is_refused_and_costs_nothing() -> None:
    """X2."""
    request = repetitions(Retry(pause=0.5, ratio=0.0, per_second=2.0), chance=1.0)
    assert request.decide(LOST, 10.0, 10.0) is Refusal.DEADLINE
    assert request.decide(LOST, 10.0, 10.001) == 0.0
    assert request.decide(LOST, 10.0, 10.5) is Refusal.DEADLINE
    assert request.made == 1
    assert request.decide(LOST, 10.0, 10.501) == 0.5
    assert request.decide(LOST, 10.0, None) is Refusal.BUDGET


def test_what_was_not_processed_costs_no_budget() -> None:
    """X2."""
    request = repetitions(Retry(ratio=0.0, per_second=0.0))
    assert request.decide(LOST, 0.0, None) is Refusal.BUDGET
    assert request.decide(REFUSED, 0.0, None) == 0.0


@pytest.mark.parametrize(
    "why", [Refusal.CONSUMED, Refusal.ATTEMPTS, Refusal.DEADLINE, Refusal.BUDGET, Refusal.NOT_IDEMPOTENT]
)
def test_an_error_says_in_its_line_why_the_request_did_not_go_again(why: Refusal) -> None:
    """X2: the class, the facts, the outcome and the cause stay."""
    cause = OSError("cable")
    error = StreamReset.because("reset", cause, code=7, received=3, outcome=UNPROCESSED)
    told = refused(error, why)
    assert str(told) == f"reset; not sent again: {why.value}"
    assert isinstance(told, StreamReset)
    assert (told.code, told.received, told.outcome, told.__cause__) == (7, 3, UNPROCESSED, cause)
    assert str(error) == "reset"


def test_a_consumed_body_is_named_with_its_remedy() -> None:
    """X2."""
    assert "consumed" in str(refused(REFUSED, Refusal.CONSUMED))
    assert "give it as bytes" in str(refused(REFUSED, Refusal.CONSUMED))


@pytest.mark.parametrize("why", [Refusal.HELPLESS, Refusal.COMPLETED, Refusal.OFF])
def test_an_error_that_speaks_for_itself_stays_as_it_is(why: Refusal) -> None:
    assert refused(REFUSED, why) is REFUSED


@settings(deadline=None)
@given(
    outcome=st.sampled_from(Outcome),
    error=st.sampled_from(
        [Closed("c"), Misuse("m"), GoAway("g", code=0), ConnectFailed("f"), StreamReset("r", code=2)]
    ),
    idempotent=st.booleans(),
    replayable=st.booleans(),
    moved=st.booleans(),
    untouched=st.booleans(),
    left=st.floats(0.0, 2.0),
)
def test_no_repetition_breaks_a_rule(
    *, outcome: Outcome, error: LinkError, idempotent: bool, replayable: bool, moved: bool, untouched: bool, left: float
) -> None:
    """X2, in every combination: what goes again was allowed to, and ends its pause before the deadline."""
    retry = Retry(attempts=3, pause=0.25)
    request = Repetitions(retry, Budget(retry), idempotent=idempotent, replayable=replayable)
    helpful = isinstance(error, (GoAway, ConnectFailed, StreamReset)) or (isinstance(error, Closed) and moved)
    harmless = outcome in (NOT_SENT, UNPROCESSED) or (outcome is MAYBE and idempotent)
    may = helpful and harmless and (replayable or untouched)
    for longest in (0.0, 0.25, 0.5):
        wait = request.decide(error.with_outcome(outcome), 5.0, 5.0 + left, moved=moved, untouched=untouched)
        if isinstance(wait, Refusal):
            assert not may or 5.0 + longest >= 5.0 + left
            return
        assert may
        assert longest / 2 <= wait <= longest
        assert 5.0 + wait < 5.0 + left
    assert isinstance(request.decide(error.with_outcome(outcome), 5.0, None, moved=True, untouched=True), Refusal)


class Spending(RuleBasedStateMachine):
    """The budget beside lists of everything that ever happened. All numbers are binary fractions, so sums are exact."""

    @initialize(
        ratio=st.sampled_from([0.0, 0.125, 0.25, 1.0]),
        rate=st.sampled_from([0.0, 0.25, 1.0, 4.0, 10.0]),
        start=st.integers(0, 10_000),
    )
    def begins(self, ratio: float, rate: float, start: int) -> None:
        self.ratio, self.rate, self.now = ratio, rate, start / 16
        self.burst = max(rate, 1.0) if rate else 0.0
        self.budget = Budget(Retry(ratio=ratio, per_second=rate))
        self.first: float | None = None
        self.requests: list[float] = []
        self.of_the_rate: list[float] = []
        self.of_the_ratio: list[float] = []

    @rule(sixteenths=st.one_of(st.integers(1, 16), st.integers(1, 400)))
    def time_passes(self, sixteenths: int) -> None:
        self.now += sixteenths / 16

    @rule(times=st.integers(1, 30))
    def requests_are_made(self, times: int) -> None:
        self.first = self.now if self.first is None else self.first
        for _ in range(times):
            self.budget.requested(self.now)
            self.requests.append(self.now)

    @rule(times=st.integers(1, 15))
    def they_fail(self, times: int) -> None:
        self.first = self.now if self.first is None else self.first
        for _ in range(times):
            assert self.budget.spend(self.now) is self.allowed(self.first)

    def allowed(self, first: float) -> bool:
        if self.rate_allows(first):
            self.of_the_rate.append(self.now)
            return True
        if self.recent(self.of_the_ratio) + 1 <= self.ratio * self.recent(self.requests):
            self.of_the_ratio.append(self.now)
            return True
        return False

    def rate_allows(self, first: float) -> bool:
        """Whether since every earlier moment no more than a burst and what came back since then is taken."""
        if not self.rate:
            return False
        comes_back_from = first + self.burst / self.rate
        return all(
            sum(1 for taken in self.of_the_rate if taken >= moment) + 1
            <= self.burst + self.rate * max(0.0, self.now - max(moment, comes_back_from))
            for moment in {first, self.now, *self.of_the_rate}
        )

    def recent(self, times: list[float]) -> int:
        return sum(1 for each in times if int(each) > int(self.now) - 10)

    @invariant()
    def a_storm_stays_small(self) -> None:
        """X3, at every moment."""
        if self.first is not None:
            repeated = len(self.of_the_rate) + len(self.of_the_ratio)
            by_rate = max(self.burst, self.rate * (self.now - self.first))
            assert repeated <= self.ratio * len(self.requests) + by_rate


TestSpending = Spending.TestCase


@frozen
class Storm:
    """Requests at a rate, for a time, none of which ever succeeds."""

    per_second: int
    seconds: int


@pytest.mark.parametrize("storm", [Storm(1, 120), Storm(20, 120), Storm(500, 30)], ids=str)
def test_a_storm_of_failures_stays_under_its_bound_and_the_budget_is_used(storm: Storm) -> None:
    """X3: attempts stay under 1.2 x requests + 10 per second, from the first moment to the last."""
    retry, noise = Retry(attempts=5), random.Random(1)
    budget = Budget(retry)
    requests = attempts = 0
    waiting: list[tuple[float, Repetitions]] = []
    for tick in range(storm.seconds * 500):
        now = 1_000.0 + tick / 500
        due = [each for when, each in waiting if when <= now]
        waiting = [(when, each) for when, each in waiting if when > now]
        if tick % (500 // storm.per_second) == 0:
            requests += 1
            budget.requested(now)
            due.append(Repetitions(retry, budget, idempotent=True, replayable=True, random=noise.random))
        for each in due:
            attempts += 1
            wait = each.decide(LOST, now, None)
            if not isinstance(wait, Refusal):
                waiting.append((now + wait, each))
        assert attempts <= 1.2 * requests + 10 * max(1.0, tick / 500)
    wanted = min(5.0 * requests, 0.2 * requests + 10 * storm.seconds)
    assert attempts - requests > 0.9 * wanted


def test_a_quiet_time_saves_up_one_second_of_the_rate_and_ten_of_the_requests() -> None:
    """X3."""
    budget = Budget(Retry(ratio=0.5, per_second=3.0))

    def spent(now: float) -> int:
        return sum(budget.spend(now) for _ in range(1_000))

    for _ in range(100):
        budget.requested(0.0)
    assert spent(9.9) == 53
    assert spent(3_600.0) == 3
    for _ in range(10):
        budget.requested(3_600.5)
    assert spent(7_200.0) == 3


@pytest.mark.parametrize("step", [0.5, 1.0, 3.0, 9.0])
def test_requests_and_repetitions_count_for_ten_seconds(step: float) -> None:
    """X3: from the beginning of the second in which they were made, whatever happens in between."""
    budget = Budget(Retry(ratio=1.0, per_second=0.0))
    for _ in range(5):
        budget.requested(100.25)
    assert [budget.spend(100.5) for _ in range(3)] == [True, True, True]
    now = 100.5
    while now + step < 110.0:
        now += step
        budget.requested(now)
        assert budget.spend(now)
    assert [budget.spend(109.75) for _ in range(3)] == [True, True, False]
    # Five requests and three repetitions are too old now; what was repeated of them since then counts on.
    assert not budget.spend(110.0)
    for _ in range(3):
        budget.requested(110.0)
    assert [budget.spend(110.0) for _ in range(2)] == [True, False]


def test_a_rate_below_one_a_second_lets_one_go_at_times() -> None:
    """X3."""
    budget = Budget(Retry(ratio=0.0, per_second=0.25))
    assert [budget.spend(now) for now in (0.0, 1.0, 7.5, 8.0, 9.0, 11.5, 12.0)] == [
        True, False, False, True, False, False, True,
    ]  # fmt: skip


WALL: Final = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110, 5.6.7."""


def retry_after(value: str | bytes, *, status: int = 503, wall: float = WALL) -> float | None:
    return pushback(status, Headers([("retry-after", value)]), Headers(), wall)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heeded_where_it_is_about_the_service(status: int) -> None:
    """RFC 9110, 10.2.3."""
    assert retry_after("7", status=status) == 7.0
    assert retry_after("0", status=status) == 0.0


@pytest.mark.parametrize("status", [200, 301, 500, 502])
def test_retry_after_of_another_status_is_not(status: int) -> None:
    assert retry_after("7", status=status) is None


def test_retry_after_in_trailers_comes_too_late_to_be_one() -> None:
    """RFC 9110, 6.5.1."""
    assert pushback(503, Headers(), Headers([("retry-after", "7")]), WALL) is None


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def _somewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_somewhere")
@pytest.mark.parametrize(
    "date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_each_form_of_a_date_is_read_wherever_we_are(date: str) -> None:
    """RFC 9110, 5.6.7."""
    assert retry_after(date, wall=WALL - 20.0) == 20.0
    assert retry_after(date, wall=WALL + 20.0) == 0.0


def test_nobody_keeps_us_away_for_more_than_five_minutes() -> None:
    assert retry_after("86400") == 300.0
    assert retry_after("9" * 5_000) == 300.0
    assert retry_after(formatdate(WALL + 86_400, usegmt=True)) == 300.0
    assert pushback(200, Headers(), Headers([("grpc-retry-pushback-ms", "9" * 30)]), WALL) == 300.0


@pytest.mark.parametrize("value", ["", "-1", "1.5", "soon", "1e3", "٣".encode(), "Fri, 99 Foo 2000 99:99:99", "1 2"])
def test_garbage_asks_for_nothing(value: str | bytes) -> None:
    assert retry_after(value) is None
    assert pushback(200, Headers([("grpc-retry-pushback-ms", value)]), Headers(), WALL) is None


def test_pushback_of_grpc_is_heeded_in_headers_and_trailers() -> None:
    """gRFC A6."""
    asks = Headers([("grpc-retry-pushback-ms", "1500")])
    assert pushback(200, asks, Headers(), WALL) == 1.5
    assert pushback(200, Headers(), asks, WALL) == 1.5
    assert pushback(200, Headers(), Headers(), WALL) is None


def test_where_a_reply_asks_in_several_ways_the_longest_holds() -> None:
    both = Headers([("retry-after", "2"), ("retry-after", "x"), ("retry-after", "5"), ("grpc-retry-pushback-ms", "-1")])
    assert pushback(503, both, Headers([("grpc-retry-pushback-ms", "3000")]), WALL) == 5.0
    assert pushback(503, both, Headers([("grpc-retry-pushback-ms", "8000")]), WALL) == 8.0


DATES: Final = st.from_regex(r"\A[A-Z][a-z]{2},? ?-?\d{1,12}[ -][A-Za-z]{3}[ -]\d{1,9} \d+:\d+(:\d+)? ?[+-]?\w*\Z")


@settings(deadline=None)
@given(st.sampled_from([200, 429, 503]), st.one_of(st.binary(max_size=60), DATES.map(str.encode)))
def test_whatever_a_reply_says_the_answer_is_a_bounded_time_or_none(status: int, value: bytes) -> None:
    fields = Headers([("retry-after", value), ("grpc-retry-pushback-ms", value)])
    seconds = pushback(status, fields, fields, WALL)
    assert seconds is None or 0.0 <= seconds <= 300.0
