"""Which failed requests may go again, when, and how many of them; and how long a reply asks us to stay away.

Pure: times are passed in, in seconds of a monotonic clock; a decision comes out. The rules (RFC 9110, 9.2.2; RFC 9113,
8.7; gRFC A6):

- What the peer did not process goes again, whatever its method. The first repetition goes at once, to another
  connection where there is one; each later one after a pause that doubles.
- What it may have processed goes again only where the caller said that twice does no harm, and within a budget, so that
  repetitions cannot keep down a service that is about to recover.
- What was answered in full, what our own side refused, and a body that was consumed never go again.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable
from email.utils import mktime_tz, parsedate_tz
from random import random
from typing import Final

from actors.errors import Closed, ErrorCode, GoAway, LinkError, Outcome, ProtocolViolation, StreamReset, TransportError
from actors.headers import Headers
from actors.settings import Retry

SECONDS: Final = 10
"""How far back requests count for the budget."""
LONGEST_PAUSE: Final = 1.0
"""Seconds that the pause between two repetitions grows to, unless ``Retry.pause`` is longer."""
LONGEST_PUSHBACK: Final = 300.0
"""Seconds that a reply may keep us away."""

_OUR_FAULT: Final = frozenset(
    (
        ErrorCode.PROTOCOL_ERROR,
        ErrorCode.FLOW_CONTROL_ERROR,
        ErrorCode.FRAME_SIZE_ERROR,
        ErrorCode.COMPRESSION_ERROR,
        ErrorCode.ENHANCE_YOUR_CALM,
        ErrorCode.INADEQUATE_SECURITY,
        ErrorCode.HTTP_1_1_REQUIRED,
    )
)
"""Codes of RST_STREAM that complain of the request or of how we sent it: the same again gets the same."""
_NUMBER: Final = re.compile(rb"0*([0-9]{1,12})")
_LONG_NUMBER: Final = re.compile(rb"[0-9]{13,}")


class Budget:
    """How many requests may be repeated although the peer may have acted on them; one for all requests of a link.

    By any moment, of R requests in T seconds at most ``ratio`` x R + ``per_second`` x max(T, 1) were repeated. A quiet
    time saves up no more than ``per_second`` for one second and ``ratio`` of the requests of the last 10 s.
    """

    __slots__ = (
        "_burst", "_ends", "_left", "_past_repeated", "_past_requested", "_rate", "_ratio", "_refilled", "_repeated",
        "_requested",
    )  # fmt: skip

    def __init__(self, retry: Retry) -> None:
        self._ratio, self._rate = retry.ratio, retry.per_second
        # A rate below one a second still lets one go at times.
        self._burst = max(self._rate, 1.0) if self._rate else 0.0
        self._left = self._burst
        self._refilled = 0.0
        self._ends: float | None = None
        """When the second ends that is being counted; those before it are in the past ones."""
        self._requested = self._repeated = 0
        self._past_requested = deque([0] * (SECONDS - 1), SECONDS - 1)
        self._past_repeated = deque([0] * (SECONDS - 1), SECONDS - 1)

    def requested(self, now: float) -> None:
        """Count a request as it is made; its repetitions are not counted here."""
        if self._ends is None or now >= self._ends:
            self._advance(now)
        self._requested += 1

    def spend(self, now: float) -> bool:
        """Whether one repetition may go now; if so, it is counted."""
        if self._ends is None or now >= self._ends:
            self._advance(now)
        # What comes back by itself goes first: more of it is lost by waiting.
        if self._take(now):
            return True
        requested = sum(self._past_requested) + self._requested
        repeated = sum(self._past_repeated) + self._repeated
        if repeated + 1 > self._ratio * requested:
            return False
        self._repeated += 1
        return True

    def _take(self, now: float) -> bool:
        if now > self._refilled:
            self._left = min(self._burst, self._left + (now - self._refilled) * self._rate)
            self._refilled = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def _advance(self, now: float) -> None:
        """Begin to count another second, and forget those that are too long ago."""
        second = int(now)
        if self._ends is None:
            # The first burst is what the first second would have brought.
            self._refilled = now + self._burst / self._rate if self._rate else now
        else:
            for _ in range(min(second + 1 - int(self._ends), SECONDS)):
                self._past_requested.append(self._requested)
                self._past_repeated.append(self._repeated)
                self._requested = self._repeated = 0
        self._ends = second + 1.0


class Refusal(enum.Enum):
    """Why a request does not go again; the value is for whoever reads the error."""

    HELPLESS = "the same again would fail again"
    """Our own side refused it, its time was up, or the peer complained of it."""
    COMPLETED = "its response came in full"
    OFF = "Retry.attempts is 0"
    NOT_IDEMPOTENT = "the peer may have acted on it, and idempotent=True did not say that twice does no harm"
    CONSUMED = "its body was consumed and cannot be replayed; give it as bytes"
    ATTEMPTS = "it went as often as Retry.attempts allows"
    DEADLINE = "its deadline is too near"
    BUDGET = "the link's budget for repetitions (Retry.ratio, Retry.per_second) is used up"


_UNSAID: Final = frozenset((Refusal.HELPLESS, Refusal.COMPLETED, Refusal.OFF))
"""What tells a reader nothing that the error does not say already."""


def refused(error: LinkError, why: Refusal) -> LinkError:
    """What to raise: the same error, which says in its line why the request did not go again where that helps."""
    if why in _UNSAID:
        return error
    told = error.with_outcome(error.outcome)
    told.args = (f"{error}; not sent again: {why.value}", *error.args[1:])
    return told


class Repetitions:
    """One request's repetitions; made when it first fails."""

    __slots__ = ("_budget", "_idempotent", "_random", "_replayable", "_retry", "made")

    def __init__(
        self,
        retry: Retry,
        budget: Budget,
        *,
        idempotent: bool,
        replayable: bool,
        random: Callable[[], float] = random,
    ) -> None:
        """``replayable``: whether the body can be sent from its beginning as often as need be, as bytes can."""
        self._retry = retry
        self._budget = budget
        self._idempotent = idempotent
        self._replayable = replayable
        self._random = random
        self.made = 0
        """How many were allowed."""

    def decide(
        self, error: LinkError, now: float, until: float | None, *, moved: bool = False, untouched: bool = False
    ) -> float | Refusal:
        """The seconds to wait before the request goes again, or why it does not: see :func:`refused`.

        ``until`` is the request's deadline. ``moved``: the connection was going away, and the link itself is open.
        ``untouched``: the attempt took nothing from the body.
        """
        why = self._objection(error, moved=moved, untouched=untouched)
        if why is not None:
            return why
        pause = self._pause()
        if until is not None and now + pause >= until:
            return Refusal.DEADLINE
        # Last, so that what cannot go anyway costs nothing.
        if error.outcome is Outcome.MAYBE_PROCESSED and not self._budget.spend(now):
            return Refusal.BUDGET
        self.made += 1
        return pause

    def _objection(self, error: LinkError, *, moved: bool, untouched: bool) -> Refusal | None:
        if error.outcome is Outcome.COMPLETED:
            return Refusal.COMPLETED
        if not _helps(error, moved):
            return Refusal.HELPLESS
        if not self._retry.attempts:
            return Refusal.OFF
        if error.outcome is Outcome.MAYBE_PROCESSED and not self._idempotent:
            return Refusal.NOT_IDEMPOTENT
        if not (self._replayable or untouched):
            return Refusal.CONSUMED
        if self.made >= self._retry.attempts:
            return Refusal.ATTEMPTS
        return None

    def _pause(self) -> float:
        if not self.made:
            return 0.0
        shortest = self._retry.pause
        whole = min(shortest * 2.0 ** min(self.made - 1, 30), max(LONGEST_PAUSE, shortest))
        return whole * (1.0 + self._random()) / 2.0


def _helps(error: LinkError, moved: bool) -> bool:
    """Whether the same request may fare better over another connection, or a little later."""
    match error:
        case StreamReset(code=code):
            return code not in _OUR_FAULT
        case GoAway() | ProtocolViolation() | TransportError():
            return True
        case Closed():
            return moved
        case _:
            return False


def pushback(status: int, headers: Headers, trailers: Headers, wall: float) -> float | None:
    """The seconds that a reply asks us to stay away, at most 300; None where it asks for nothing that can be read.

    Heeds ``retry-after`` of 429 and 503 (RFC 9110, 10.2.3), for which ``wall`` is the time of day in seconds since
    1970, and ``grpc-retry-pushback-ms`` (gRFC A6); where there are several, the longest. A negative or malformed
    ``grpc-retry-pushback-ms`` forbids to repeat the request, and a link repeats none that was answered: None, too.
    """
    asked: list[float | None] = []
    for fields in (headers, trailers):
        for name, value in fields:
            if name == b"grpc-retry-pushback-ms":
                asked.append(_thousandths(value))
            elif name == b"retry-after" and status in (429, 503) and fields is headers:
                asked.append(_retry_after(value, wall))
    if not asked:
        return None
    seconds = max((each for each in asked if each is not None), default=None)
    return None if seconds is None else min(seconds, LONGEST_PUSHBACK)


def _number(value: bytes) -> float | None:
    value = value.strip(b" \t")
    if digits := _NUMBER.fullmatch(value):
        return float(digits[1])
    return float("inf") if _LONG_NUMBER.fullmatch(value) else None


def _thousandths(value: bytes) -> float | None:
    number = _number(value)
    return None if number is None else number / 1000.0


def _retry_after(value: bytes, wall: float) -> float | None:
    number = _number(value)
    if number is not None:
        return number
    try:
        parsed = parsedate_tz(value.decode("latin-1"))
        return None if parsed is None else max(0.0, mktime_tz(parsed) - wall)
    except (ValueError, OverflowError, TypeError, IndexError):  # what email.utils makes of some garbage
        return None
