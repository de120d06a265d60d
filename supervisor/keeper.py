"""The actor that keeps a link up: it finds out where the service is, dials, watches, and replaces.

Theory of operation
    After each batch of messages, whatever they were, :meth:`Keeper.settle` compares what there is with what should be:
    it begins dials or calls them off, says what state the link is in, and answers those who wait for one. So no message
    needs to know what others are under way.

    A connection counts from the moment its dial begins until it ends, drains, or is suspected. One that failed before
    it had proved itself is followed by a wait that grows (``Backoff``), for all places together; one that had proved
    itself is replaced at once. A crash, which is a fault of our own program, spends restart intensity besides.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final, assert_never

from attrs import frozen

from actors.actor import Stop
from actors.addresses import Address, Endpoint
from actors.bodies import Route
from actors.client import ClientConnection
from actors.dialling import connect
from actors.errors import Closed, ConnectFailed, GoAway, LinkError, Outcome, PingTimeout, ProtocolViolation, TlsFailed
from actors.mailbox import Reply, Understood, closed_error
from actors.messages import (
    AlternativeOffered,
    ChangeLimits,
    ConnectionAlive,
    ConnectionDraining,
    ConnectionReady,
    ConnectionSuspect,
    Drain,
    Exited,
    Halt,
    PeerAllows,
    SendPing,
    StreamsCut,
)
from actors.settings import Backoff, Health, Limits
from actors.stats import Recent, Totals
from actors.tls import TlsSide, first_cause
from actors.trace import Tracer
from actors.transport import SocketProtocol
from actors.turns import TurnActor
from supervisor.attempts import Attempts
from supervisor.errands import Errand, look_up
from supervisor.health import PingMonitor
from supervisor.link_state import LinkState, States
from supervisor.orders import (
    AskReady,
    ConnectNow,
    Dialled,
    Grow,
    KeeperMessage,
    LetHold,
    Probe,
    Resolved,
    ShutDown,
    Tick,
    Wake,
)
from supervisor.outliers import Outliers
from supervisor.placing import order, uneven, wanted
from supervisor.pool import PER_CONNECTION, Member, Phase, Pool
from supervisor.restart import Intensity, Meter
from supervisor.stats import LinkStats

logger: Final = logging.getLogger("muxlink.link")

MAX_ALTERNATIVES: Final = 32
"""Origins that a link remembers alternatives for."""
RESOLVE_WHILE_DOWN: Final = 5.0
"""Seconds between two looks at the addresses while no connection can be made."""
TOO_MANY_PINGS: Final = b"too_many_pings"
MAX_FACTOR: Final = 256.0
"""How much rarer PINGs become, at most, for servers that do not like them."""


@frozen
class Service:
    """What a link was asked to keep: where the service is, and how it is spoken to."""

    endpoints: tuple[Endpoint, ...]
    connections: int
    max_connections: int
    push: bool
    tls: Callable[[], TlsSide] | None
    backoff: Backoff


@frozen
class Dial:
    """A dial under way."""

    first: Address
    """The place that it begins with."""
    losing: Address | None
    """For one that evens out: the place that loses a connection for it."""


class Keeper(TurnActor[KeeperMessage]):
    """Keeps the connections of one link."""

    __slots__ = (
        "_addresses", "_alternatives", "_asking", "_attempts", "_clock", "_closing", "_dials", "_lost",
        "_meter", "_names", "_resolving", "_service", "_stale", "_ticking", "_waking", "health", "limits", "members",
        "pool", "restarts", "retries", "retries_refused", "round_trips", "states", "totals",
    )  # fmt: skip

    understands: ClassVar[Understood] = KeeperMessage

    def __init__(
        self,
        name: str,
        service: Service,
        states: States,
        *,
        limits: Limits,
        health: Health,
        alternatives: dict[str, str],
        tracer: Tracer,
    ) -> None:
        super().__init__(name, tracer, shutdown_timeout=2 * limits.shutdown_timeout)
        self.limits = limits
        self.health = health
        self.states = states
        self.members: dict[str, Member[Address]] = {}
        """Every connection that has not ended, by name."""
        self.pool: Pool[Address] = Pool(
            name, limits, health, Outliers(), probe=lambda member: self.tell(Probe(member.name)),
            grow=lambda: self.tell(Grow()),
        )  # fmt: skip
        self.restarts: Counter[str] = Counter()
        """Connections that ended without being asked to, by the class of the reason."""
        self.retries: Counter[str] = Counter()
        """Requests that went again, by what was known of them."""
        self.retries_refused: Counter[str] = Counter()
        """Failed requests that did not, by the reason."""
        self.totals = Totals()
        """What the connections did that have ended."""
        self.round_trips = Recent()
        self._service = service
        self._alternatives = alternatives
        self._clock: Callable[[], float] = float  # it stands still until the keeper begins
        self._addresses: tuple[Address, ...] = ()
        self._stale = True
        self._resolving = ""
        self._dials: dict[str, Dial] = {}
        self._lost: dict[Address, float] = {}
        """Until when a place comes last in the order, because a dial that began with it ended elsewhere."""
        self._names: Counter[str] = Counter()
        self._attempts = Attempts(service.backoff, service.connections)
        self._meter = Meter(Intensity())
        self._waking: asyncio.TimerHandle | None = None
        self._asking: list[AskReady] = []
        self._closing: LinkError | None = None

    # --- turns --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._ticking = self.after(self.limits.resolve_interval, Tick())
        self.settle()

    def receive(self, message: KeeperMessage) -> None:
        match message:
            case ConnectionReady(name, max_streams):
                self._ready(name, max_streams)
            case PeerAllows(name, max_streams):
                self.members[name].limit = max_streams
                self.pool.refill(self._now())
            case ConnectionAlive(name, seconds):
                self._alive(self.members[name], seconds)
            case ConnectionSuspect(name):
                self._suspect(self.members[name])
            case ConnectionDraining(name, reason):
                self._draining(self.members[name], reason)
            case Exited(name, reason, crashed):
                self._exited(name, reason, crashed=crashed)
            case Dialled(dial, address, protocol):
                self._dialled(dial, address, protocol)
            case Resolved():
                self._resolved(message)
            case AskReady():
                self._asking.append(message)
            case Probe(name):
                if name in self.members:
                    self.members[name].route.connection.tell(SendPing())
            case ConnectNow():
                self._hurry()
            case Wake():
                self._waking = None
            case Grow():
                pass  # settle looks at how many are wanted
            case Tick():
                self._tick()
            case LetHold(limits, replies):
                replies.tell(self._let_hold(limits))
            case AlternativeOffered(_, origin, value):
                self._remember(origin.decode("latin-1"), value.decode("latin-1"))
            case StreamsCut():
                pass  # whoever had one was told
            case ShutDown(error, debug):
                self._closing = self._closing or error
                for name, child in self.children.items():
                    if name in self.members:
                        child.tell(Drain(0.0, error, debug))
                    else:
                        child.signal(Halt(error))
            case _:
                assert_never(message)

    def settle(self) -> None:
        if self._closing is not None:
            if not self.children:
                raise Stop(self._closing)
            return
        now = self._now()
        self._fill(now)
        self._say_state(now)
        self._answer(now)

    def ending(self, reason: BaseException | None) -> None:
        """Leave nobody waiting."""
        error = self._closing or (reason if isinstance(reason, LinkError) else closed_error(self.name, reason))
        self._closing = error
        self.states.change(LinkState.SHUTDOWN, error, self._now())
        self.pool.fail(error, patient=True)
        for asked in self._asking:
            asked.reply.fail(error.with_outcome(Outcome.NOT_SENT))

    def _late(self, message: object) -> None:
        if isinstance(message, Exited):
            self._bury(message.name, message.reason)
            self._dials.pop(message.name, None)
        super()._late(message)

    def unheard(self, message: KeeperMessage) -> None:
        error = self._closing or Closed(f"{self.name} has ended")
        match message:
            case Dialled(_, _, protocol):
                protocol.transport.abort()
            case AskReady(reply):
                reply.fail(error)
            case LetHold(_, replies):
                replies.fail(error)

    def set_aside(self, now: float) -> None:
        """Some place fails too often, or asked to be left alone: give it no more, and have another instead."""
        self.pool.review(now)
        self.tell(Grow())

    @property
    def where(self) -> str:
        """Where the service is, as it was given."""
        return ", ".join(str(each) for each in self._service.endpoints)

    def stats(self) -> LinkStats:
        """What was counted; for who owns the keeper, between its turns."""
        return LinkStats.of(
            self.states, self._addresses, self.pool, self.members.values(), self.totals, now=self._now(),
            dialling=len(self._dials), round_trips=self.round_trips.seconds, restarts=self.restarts,
            retries=self.retries, retries_refused=self.retries_refused,
        )  # fmt: skip

    # --- how many, and where ------------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Begin dials, or call them off, until there are as many connections as there should be."""
        wanted_dials = [name for name, dial in self._dials.items() if dial.losing is None]
        there = self._there()
        need = self._wanted() - there - len(wanted_dials)
        self.pool.growing = need > 0 or bool(self._dials) or there >= self._service.max_connections
        if need < 0:
            for name in wanted_dials[need:]:
                self.children[name].signal(Halt(Closed(f"{name} is needed no more")))
        if need <= 0:
            return
        if not self._attempts.may_begin(now):
            if self._waking is None:
                self._waking = self.after(self._attempts.not_before - now, Wake())
            return
        if self._stale:
            self._resolve()
        if not self._addresses:
            return
        if not self._attempts.failing:
            for _ in range(need):
                self._dial(self._order(now))
        elif not wanted_dials and not any(each.phase is Phase.STARTING for each in self.members.values()):
            self._dial(self._order(now))  # what failed is tried with one

    def _wanted(self) -> int:
        pool, service = self.pool, self._service
        room = min((each.limit for each in pool.members), default=PER_CONNECTION)
        demand = pool.load + pool.waiting if pool.members else 0
        return wanted(demand, min(room, PER_CONNECTION), least=service.connections, most=service.max_connections)

    def _there(self) -> int:
        """Connections that are, or will soon be, what is wanted: not those whose place is set aside."""
        return sum(
            (each.phase is Phase.STARTING or (each.phase is Phase.READY and not each.aside))
            and not each.is_unwanted
            and each.replaces is None
            for each in self.members.values()
        )

    def _counts(self) -> Counter[Address]:
        counts = Counter(each.key for each in self.members.values() if each.phase in (Phase.STARTING, Phase.READY))
        counts.update(dial.first for dial in self._dials.values())
        return counts

    def _order(self, now: float) -> list[Address]:
        is_aside = self.pool.outliers.is_aside
        # A place that is set aside serves where there is nothing else; a second connection to it is of no use.
        others = [each for each in self._addresses if not is_aside(each, now)] if self.pool.members else []
        return order(
            others or self._addresses,
            self._counts(),
            is_aside=lambda place: is_aside(place, now),
            has_lost=lambda place: self._has_lost(place, now),
        )

    def _has_lost(self, place: Address, now: float) -> bool:
        return self._lost.get(place, -math.inf) > now

    def _even_out(self, now: float) -> None:
        """Where one place has two connections more than another, make one there, and then let one go here."""
        if self._attempts.failing or any(dial.losing is not None for dial in self._dials.values()):
            return
        places = [each for each in self._addresses if not self.pool.outliers.is_aside(each, now)]
        if pair := uneven(places, self._counts()):
            most, least = pair
            self._dial([least], losing=most)

    def _trim(self) -> None:
        """Let one connection go that is idle and more than is wanted."""
        idle = [each for each in self.pool.members if not each.load]
        if idle and len(self.pool.members) > self._wanted():
            counts = self._counts()
            self._retire(max(idle, key=lambda each: counts[each.key]), "there are more connections than are needed")

    def _let_unwanted_go(self) -> None:
        """Connections to places that are none of the service's any more end, once others serve instead."""
        good = sum(not each.is_unwanted for each in self.pool.members)
        for member in self.pool.members:
            if member.is_unwanted and good >= self._service.connections:
                self._retire(member, f"the service is no longer at {member.key}")

    def _retire(self, member: Member[Address], why: str) -> None:
        member.phase = Phase.DRAINING
        self.pool.remove(member)
        member.route.connection.tell(Drain(math.inf, Closed(f"{member.name}: {why}")))

    # --- finding out where, and dialling ------------------------------------------------------------------------------

    def _name(self, what: str) -> str:
        self._names[what] += 1
        return f"{self.name}/{what}-{self._names[what]}"

    def _resolve(self) -> None:
        if self._resolving:
            return
        name = self._resolving = self._name("resolve")
        endpoints, timeout = self._service.endpoints, self.limits.connect_timeout

        async def look() -> None:
            self.tell(await look_up(endpoints, timeout))

        self.start_child(Errand(name, look, self.tracer))

    def _resolved(self, resolved: Resolved) -> None:
        self._stale = False
        kept = tuple(each for each in self._addresses if each.endpoint in resolved.unknown)
        addresses = resolved.addresses + kept
        if not addresses:
            self._failed(resolved.error or ConnectFailed(f"{self.name} has no address"))
            return
        if set(addresses) != set(self._addresses):
            if self._addresses:
                logger.info("%s: the service is now at %s", self.name, ", ".join(str(each) for each in addresses))
            self._hurry()
            self._stale = False
            self._addresses = addresses
            self._lost = {place: until for place, until in self._lost.items() if place in addresses}
            self.pool.outliers.change(addresses)
            for member in self.members.values():
                member.is_unwanted = member.key not in addresses
            self._let_unwanted_go()

    def _dial(self, places: list[Address], losing: Address | None = None) -> None:
        name = self._name("dial")
        self._dials[name] = Dial(places[0], losing)
        service, timeout = self._service, self.limits.connect_timeout

        async def reach() -> None:
            address, protocol = await connect(
                self.tracer,
                places,
                timeout=timeout,
                tls=service.tls() if service.tls is not None else None,
                user_timeout=self.health.user_timeout,
            )
            self.tell(Dialled(name, address, protocol))

        self.start_child(Errand(name, reach, self.tracer))

    def _dialled(self, name: str, address: Address, protocol: SocketProtocol) -> None:
        dial = self._dials.pop(name)
        if self._closing is not None:
            protocol.transport.abort()
            return
        if dial.first != address:
            self._lost[dial.first] = self._now() + self.limits.resolve_interval
        connection = ClientConnection(
            self._name("connection"), protocol.transport, peer=protocol.peer, limits=self.limits, owner=self.ref,
            push=self._service.push, tracer=self.tracer, monitor=PingMonitor(self.health, factor=self.pool.rarer),
        )  # fmt: skip
        route = Route(connection.ref, protocol.peer, connection.wire.terms, self.tracer, pushes=self._service.push)
        self.members[connection.name] = Member(
            connection.name, address, route, connection, authority=address.endpoint.authority.encode(),
            replaces=dial.losing,
        )  # fmt: skip
        ref = self.start_child(connection)
        protocol.attach(ref)

    # --- what becomes of connections ----------------------------------------------------------------------------------

    def _ready(self, name: str, max_streams: int) -> None:
        member, now = self.members[name], self._now()
        member.phase, member.since, member.limit = Phase.READY, now, max_streams
        self._lost.pop(member.key, None)
        self._attempts.succeeded()
        if member.replaces is not None:
            others = [each for each in self.pool.members if each.key == member.replaces]
            member.replaces = None
            if others:
                self._retire(min(others, key=lambda each: each.load), "another place has fewer connections")
        self.pool.add(member, now)
        self._let_unwanted_go()

    def _alive(self, member: Member[Address], seconds: float | None) -> None:
        if seconds is not None:
            self.round_trips.add(seconds)
        member.is_probed = False
        if member.phase is Phase.SUSPECT:
            member.phase = Phase.READY
            self._attempts.trouble = None
            self.pool.add(member, self._now())
        else:
            self.pool.refill(self._now())

    def _suspect(self, member: Member[Address]) -> None:
        if member.phase is Phase.READY:
            member.phase = Phase.SUSPECT
            self._attempts.trouble = PingTimeout(f"{member.key} has not answered a PING for {self.health.suspect:g} s")
            self.pool.remove(member)

    def _draining(self, member: Member[Address], reason: LinkError) -> None:
        if member.phase is Phase.DRAINING:
            return
        member.phase = Phase.DRAINING
        self.pool.remove(member)
        self.restarts[type(reason).__name__] += 1
        if isinstance(reason, GoAway) and reason.debug == TOO_MANY_PINGS and self.pool.rarer < MAX_FACTOR:
            if self.pool.rarer == 1.0:
                logger.warning("%s: %s finds our PINGs too many: they become rarer", self.name, member.key)
            self.pool.rarer *= 2
        self._gone(member, reason)

    def _gone(self, member: Member[Address], reason: LinkError) -> None:
        """A connection is to be replaced."""
        now = self._now()
        if member.since is None:
            self._lost[member.key] = now + self.limits.resolve_interval
        if member.replaces is not None:
            pass  # it was to even out the load, and need not be replaced
        elif member.since is None and not self._has_lost(self._order(now)[0], now):
            self._attempts.trouble = reason  # the next one goes elsewhere, which may well be better
        else:
            lasted = now - member.since if member.since is not None else None
            self._attempts.gone(reason, now, lasted=lasted, proved=member.proved)
        self._look_again(now)

    def _exited(self, name: str, reason: BaseException | None, *, crashed: bool) -> None:
        error = first_cause(reason)
        error = error if isinstance(error, LinkError) else closed_error(name, error)
        member, dial = self._bury(name, reason), self._dials.pop(name, None)
        if name == self._resolving:
            self._resolving = ""
        if self._closing is not None:
            return
        if crashed and not self._meter.spend(self._now()):
            raise Closed.because(f"{self.name} gave up: too many faults of its own ({self._meter}): {error}", reason)
        if member is not None:
            self.pool.remove(member)
            if member.phase is not Phase.DRAINING:
                self.restarts[type(reason).__name__] += 1
                self._gone(member, error)
        elif dial is not None and dial.losing is None and not isinstance(error, Closed):
            self._failed(error)

    def _bury(self, name: str, reason: BaseException | None) -> Member[Address] | None:
        """The connection of that name, which has ended: from now on it counts in the totals."""
        member = self.members.pop(name, None)
        if member is not None:
            self.totals.bury(member.connection.measure(self._now()), reason)
        return member

    def _failed(self, error: LinkError) -> None:
        """An attempt failed."""
        now = self._now()
        self._attempts.failed(error, now)
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        """What was lost may be elsewhere now: look before the next dial, and more often while there is none."""
        self._stale = self._has_names()
        self.pool.growing = False
        if self._stale and self._attempts.failing and self._ticking.when() - now > RESOLVE_WHILE_DOWN:
            self._ticking.cancel()
            self._ticking = self.after(RESOLVE_WHILE_DOWN, Tick())

    def _hurry(self) -> None:
        """Wait no longer, and look at the addresses anew."""
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        self._attempts.hurry()
        self._stale = self._stale or self._has_names()

    def _has_names(self) -> bool:
        """Whether where the service is may change."""
        return not self._addresses or not all(each.numeric for each in self._addresses)

    # --- times, states, and those who ask -----------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock()

    def _tick(self) -> None:
        if self._closing is not None:
            return
        now, interval = self._now(), self.limits.resolve_interval
        self._ticking = self.after(min(interval, RESOLVE_WHILE_DOWN) if self._attempts.failing else interval, Tick())
        if self._has_names():
            self._resolve()
        if any(each.proved for each in self.pool.members):
            self._attempts.forgive()
        self.pool.refill(now)  # a place that was set aside may have come back
        self._trim()
        self._even_out(now)

    def _say_state(self, now: float) -> None:
        phases, attempts = {each.phase for each in self.members.values()}, self._attempts
        trying = self._dials or (self._resolving and attempts.may_begin(now))
        if Phase.READY in phases:
            state = LinkState.READY
        elif trying or phases & {Phase.STARTING, Phase.SUSPECT} or not attempts.failing:
            state = LinkState.CONNECTING
        else:
            state = LinkState.TRANSIENT_FAILURE
        if not self.states.change(state, attempts.trouble if state is not LinkState.READY else None, now):
            return
        if state is LinkState.READY:
            logger.info("%s is ready", self.name)
        elif state is LinkState.TRANSIENT_FAILURE and attempts.trouble is not None:
            logger.warning("%s: %s; next attempt in %.1f s", self.name, attempts.trouble, attempts.not_before - now)
            self.pool.fail(attempts.trouble)

    def _answer(self, now: float) -> None:
        """Answer those who wait for a connection that is known to be alive."""
        if not self._asking:
            return
        still: list[AskReady] = []
        for asked in self._asking:
            if asked.reply.is_wanted and not self._answered(asked, now):
                still.append(asked)
        self._asking = still

    def _answered(self, asked: AskReady, now: float) -> bool:
        pool, members = self.pool, self.pool.members
        quiet_since = now - self.health.before_request
        for member in members:
            last = member.connection.round_trips.last
            fresh = member.connection.heard >= quiet_since or not (member.is_probed or pool.may_be_probed(member, now))
            if not asked.fresh or (last is not None and fresh):
                asked.reply.tell(last or 0.0)
                return True
        if members and not any(each.is_probed for each in members):
            members[0].is_probed = True
            members[0].route.connection.tell(SendPing())
        elif self.states.state is LinkState.TRANSIENT_FAILURE:
            trouble = self._attempts.trouble or Closed(f"{self.name} is not connected")
            # To wait for a service that is there, and cannot be spoken to, would only hide a mistake.
            if not asked.patient or isinstance(trouble, (TlsFailed, ProtocolViolation)):
                asked.reply.fail(trouble.with_outcome(Outcome.NOT_SENT))  # each its own, as each adds its traceback
                return True
        return False

    def _let_hold(self, limits: Limits) -> tuple[Reply[None], ...]:
        self.limits = self.pool.limits = limits
        replies = []
        for member in self.members.values():
            replies.append(Reply[None]())
            member.route.connection.tell(ChangeLimits(limits, replies[-1]))
        return tuple(replies)

    def _remember(self, origin: str, value: str) -> None:
        if origin not in self._alternatives and len(self._alternatives) >= MAX_ALTERNATIVES:
            del self._alternatives[next(iter(self._alternatives))]
        self._alternatives[origin] = value
