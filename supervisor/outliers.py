"""Endpoints that fail are set aside for a while: the one that fails fastest always looks least loaded.

Pure: times are passed in, in seconds of a monotonic clock. An endpoint is

- **whole** until it fails 5 times in a row; a success in between forgives all,
- **aside** for 30 s, each further time 30 s longer, at most 5 minutes; what comes of requests that were on their way
  changes nothing,
- **on trial** when that time is over: it is used, one more failure sets it aside again, a success makes it whole.

Each 5 minutes in which it stays whole take 30 s off its next time aside. At most half of the endpoints are aside at a
time, so one alone never is; where there is no room, the endpoint's next failure asks again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

FAILURES: Final = 5
"""Failures in a row that set an endpoint aside."""
STEP: Final = 30.0
"""Seconds of the first time aside, and by how much each is longer than the one before."""
LONGEST: Final = 300.0
"""Seconds of the longest time aside."""
GOOD: Final = 300.0
"""Seconds that an endpoint must stay whole for its next time aside to be a step shorter."""

K = TypeVar("K", bound=Hashable)


class _Record:
    """What is held against one endpoint."""

    __slots__ = ("failures", "on_trial", "times", "until", "whole_since")

    def __init__(self) -> None:
        self.failures = 0
        self.times = 0
        self.on_trial = False
        self.until = float("-inf")
        self.whole_since = float("-inf")

    def forgiven(self, now: float) -> int:
        """How many of the times aside do not count any more."""
        long_ago = (now - self.whole_since) / GOOD
        return self.times if long_ago >= self.times else int(long_ago)


class Outliers(Generic[K]):
    """Which endpoints are set aside; those that are well cost one look into a dict."""

    __slots__ = ("_keys", "_records")

    def __init__(self, keys: Iterable[K] = ()) -> None:
        self._keys = frozenset(keys)
        self._records: dict[K, _Record] = {}

    def change(self, keys: Iterable[K]) -> None:
        """From now on these are the endpoints; those that stay keep what is known of them.

        Where more than half of them would be aside, those come back whose time would be over first.
        """
        self._keys = frozenset(keys)
        self._records = {key: record for key, record in self._records.items() if key in self._keys}
        latest_first = sorted(self._records.values(), key=lambda record: -record.until)
        for record in latest_first[len(self._keys) // 2 :]:
            record.until = float("-inf")

    def succeeded(self, key: K, now: float) -> None:
        """A request to the endpoint got an answer that is no 5xx."""
        if self._records and (record := self._records.get(key)) is not None:  # hashing a key takes longer than the rest
            self._forgive(key, record, now)

    def failed(self, key: K, now: float) -> bool:
        """A request to the endpoint failed, or got a 5xx; returns whether that sets it aside."""
        record = self._records.get(key)
        if record is None:
            if key not in self._keys:
                return False
            record = self._records[key] = _Record()
        elif now < record.until:
            return False
        record.failures += 1
        if not (record.on_trial or record.failures >= FAILURES) or not self._has_room(now):
            return False
        if not record.on_trial:
            record.times -= record.forgiven(now)
        record.times += 1
        record.on_trial = True
        record.until = now + min(record.times * STEP, LONGEST)
        return True

    def stay_away(self, key: K, seconds: float, now: float) -> bool:
        """The endpoint asks to be left alone for ``seconds``, which is no fault; returns whether it is aside then."""
        if seconds <= 0 or key not in self._keys:
            return False
        record = self._records.get(key)
        if (record is None or now >= record.until) and not self._has_room(now):
            return False
        if record is None:
            record = self._records[key] = _Record()
        record.until = max(record.until, now + min(seconds, LONGEST))
        return True

    def is_aside(self, key: K, now: float) -> bool:
        """Whether the endpoint is to be left alone now."""
        record = self._records.get(key)
        return record is not None and now < record.until

    def next_change(self, now: float) -> float | None:
        """When the first of those that are aside comes back, if nothing happens meanwhile; None: none is aside."""
        return min((record.until for record in self._records.values() if now < record.until), default=None)

    def _forgive(self, key: K, record: _Record, now: float) -> None:
        if now < record.until:
            return  # what was on its way before says nothing new
        record.failures = 0
        if record.on_trial:
            record.on_trial, record.whole_since = False, now
        if record.forgiven(now) == record.times:
            del self._records[key]

    def _has_room(self, now: float) -> bool:
        aside = sum(1 for record in self._records.values() if now < record.until)
        return aside < len(self._keys) // 2
