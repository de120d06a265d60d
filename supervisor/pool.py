"""Which connection a request goes over, pure: least loaded first, and who finds no place waits in line.

Callers enter and leave directly, without a message: nothing waits between looking and taking. What must be done about
it (a PING, another connection) is asked of the pool's owner through two hooks.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from typing import Final, Generic, Protocol, TypeVar

from actors.errors import LimitReached, LinkError
from actors.outgoing import Route
from actors.settings import Health, Limits
from actors.stats import ConnectionStats, Recent
from supervisor.outliers import Outliers

PER_CONNECTION: Final = 100
"""Streams of one connection above which another one is asked for, however many the peer allows.

What h2 does for a stream grows with their number: 85 microseconds at 100, 170 at 1,000.
"""


BETWEEN_IDLE_PINGS: Final = 7200.0
"""Seconds between two PINGs over a connection without streams, where nothing but their answers comes."""


class Connected(Protocol):
    """What a link looks at of a connection."""

    @property
    def heard(self) -> float:
        """When its last byte came, in seconds of the loop's clock."""

    @property
    def unforgiven_ping(self) -> float | None:
        """When the last PING went out, unless something of a stream has come since."""

    @property
    def round_trips(self) -> Recent:
        """Of its PINGs."""

    def measure(self, now: float) -> ConnectionStats:
        """Its figures."""


class Phase(enum.Enum):
    """What may be expected of a connection."""

    STARTING = "starting"
    """The peer has not said its SETTINGS yet."""
    READY = "ready"
    SUSPECT = "suspect"
    """A PING was not answered in time."""
    DRAINING = "draining"
    """It takes no more requests, and ends with its last."""


K = TypeVar("K")


class Member(Generic[K]):
    """A connection as the pool knows it; ``key`` is the place that it leads to."""

    __slots__ = (
        "aside", "authority", "blamed", "connection", "is_probed", "is_unwanted", "key", "limit", "load", "name",
        "phase", "proved", "replaces", "route", "since",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        key: K,
        route: Route,
        connection: Connected,
        *,
        authority: bytes = b"",
        replaces: K | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.phase = Phase.STARTING
        self.since: float | None = None
        """When it became ready."""
        self.replaces = replaces
        """The place that loses a connection once this one is ready, because it has more than others."""
        self.route = route
        self.connection = connection
        self.authority = authority
        self.limit = 0
        """Streams that the peer allows."""
        self.load = 0
        """Requests that have a place on it."""
        self.aside = False
        """Whether its place fails too often to be given more for now."""
        self.is_probed = False
        """Whether a PING asks if it still lives."""
        self.is_unwanted = False
        """Whether its place is none of the service's any more."""
        self.proved = False
        """Whether it has answered a request."""
        self.blamed = False
        """Whether its own failure was counted against its place."""


class Waiter(Generic[K]):
    """One who waits for a place."""

    __slots__ = ("avoid", "fail", "grant", "name", "patient", "since")

    def __init__(
        self,
        grant: Callable[[Member[K]], bool],
        fail: Callable[[LinkError], None],
        *,
        patient: bool,
        avoid: Collection[K] = (),
        name: str = "",
        since: float = 0.0,
    ) -> None:
        self.name = name
        """The name of its request."""
        self.since = since
        """When it began to wait."""
        self.grant = grant
        """Takes the place; False where nobody waits for it any more."""
        self.fail = fail
        self.patient = patient
        """Whether it waits on while no connection can be made."""
        self.avoid = avoid
        """Places where it should not go again, if there is another."""


class Pool(Generic[K]):
    """The connections that take requests, and the requests that wait for one."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        health: Health,
        outliers: Outliers[K],
        *,
        probe: Callable[[Member[K]], object],
        grow: Callable[[], object],
    ) -> None:
        """``probe`` asks a silent connection for a sign of life; ``grow`` asks for one more."""
        self.name = name
        self.limits = limits
        self.health = health
        self.outliers = outliers
        self.refusals: Counter[str] = Counter()
        """Requests that were refused, by the limit that said no."""
        self.requests = 0
        """Places that were given since the beginning."""
        self.load = 0
        """Places that are taken."""
        self.resting: dict[str, tuple[float, float, str]] = {}
        """Requests between two attempts: since when, until when, and what became of the last."""
        self.growing = False
        """Whether ``grow`` was called and nothing came of it yet."""
        self.rarer = 1.0
        """How many times rarer PINGs are than ``health`` says, for servers that do not like them."""
        self._probe = probe
        self._grow = grow
        self._members: list[Member[K]] = []
        self._turn = 0
        self._waiting: OrderedDict[Waiter[K], None] = OrderedDict()
        self._review_at: float | None = None

    @property
    def members(self) -> tuple[Member[K], ...]:
        return tuple(self._members)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def line(self) -> tuple[Waiter[K], ...]:
        """Those, in order."""
        return tuple(self._waiting)

    # --- requests -----------------------------------------------------------------------------------------------------

    def enter(self, now: float, avoid: Collection[K] = ()) -> Member[K] | None:
        """A place on a connection, to be given back with :meth:`leave`; None where there is none, or others wait."""
        if self._waiting:
            return None
        return self._take(now, avoid)

    def queue(self, waiter: Waiter[K]) -> None:
        """Wait behind those who wait already. Raises LimitReached."""
        if len(self._waiting) >= self.limits.max_pending:
            self.refusals["max_pending"] += 1
            raise LimitReached(
                f"{self.name} has {self.limits.max_pending} requests waiting already (Limits.max_pending): send fewer, "
                "or allow more connections"
            )
        self._waiting[waiter] = None

    def quit(self, waiter: Waiter[K]) -> None:
        """Wait no longer."""
        self._waiting.pop(waiter, None)

    def leave(self, member: Member[K], now: float) -> None:
        """Give a place back; the next in line gets it."""
        member.load -= 1
        self.load -= 1
        if self._waiting:
            self.refill(now)

    def refill(self, now: float) -> None:
        """Give the places that are free to those who wait, first come first served."""
        waiting = self._waiting
        while waiting:
            waiter = next(iter(waiting))
            member = self._take(now, waiter.avoid)
            if member is None:
                return
            del waiting[waiter]
            if not waiter.grant(member):
                member.load -= 1
                self.load -= 1

    def fail(self, error: LinkError, *, patient: bool = False) -> None:
        """Send home those who do not wait for better times; with ``patient``, everyone."""
        for waiter in [each for each in self._waiting if patient or not each.patient]:
            del self._waiting[waiter]
            waiter.fail(error)

    def _take(self, now: float, avoid: Collection[K]) -> Member[K] | None:
        member = self._choose(now, avoid)
        crowded = member is None or member.load >= PER_CONNECTION
        if crowded and self._members and not self.growing:
            self.growing = True
            self._grow()
        if member is None:
            return None
        if now - member.connection.heard > self.health.before_request and (
            member.is_probed or self.may_be_probed(member, now)
        ):
            if not member.is_probed:
                member.is_probed = True
                self._probe(member)
            return None
        member.load += 1
        self.load += 1
        self.requests += 1
        return member

    def may_be_probed(self, member: Member[K], now: float) -> bool:
        """Whether one PING more is one that servers put up with which count those without HEADERS or DATA between.

        gRPC's allow one in five minutes, and without streams one in two hours.
        """
        last = member.connection.unforgiven_ping
        if last is None:
            return True
        busy = member.load > 0 or self.health.while_idle
        return now - last >= self.rarer * max(self.health.interval, 0.0 if busy else BETWEEN_IDLE_PINGS)

    def _choose(self, now: float, avoid: Collection[K]) -> Member[K] | None:
        """The least loaded with room; a silent one only where no other has any, one that is set aside never."""
        if self._review_at is not None and now >= self._review_at:
            self.review(now)
        members, turn = self._members, self._turn
        quiet_since = now - self.health.before_request
        best: Member[K] | None = None
        least = 1 << 60
        for member in members[turn:] + members[:turn] if turn else members:  # those with the same load take turns
            rank = member.load
            if rank >= least or rank >= member.limit:
                continue  # what follows only makes it worse
            if member.connection.heard < quiet_since:
                rank += 1 << 40
            if member.is_unwanted:
                rank += 1 << 41
            if avoid and member.key in avoid:
                rank += 1 << 42
            if member.aside:
                rank += 1 << 43
            if rank < least:
                best, least = member, rank
        if best is None or (best.aside and not all(each.aside for each in members)):
            return None
        self._turn = turn + 1 if turn + 1 < len(members) else 0
        return best

    # --- connections --------------------------------------------------------------------------------------------------

    def add(self, member: Member[K], now: float) -> None:
        """A connection takes requests from now on."""
        if member not in self._members:
            self._members.append(member)
        member.is_probed = False
        self.growing = False
        self.review(now)
        self.refill(now)

    def remove(self, member: Member[K]) -> None:
        """A connection takes no more requests; those that it has may finish."""
        if member in self._members:
            self._members.remove(member)
            self._turn = 0
            self.growing = False

    def review(self, now: float) -> None:
        """See anew which places are set aside."""
        for member in self._members:
            member.aside = self.outliers.is_aside(member.key, now)
        self._review_at = self.outliers.next_change(now)
