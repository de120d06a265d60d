"""How many connections a link has, and where they lead: the part of its keeper that looks up, dials, and lets go."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final

from attrs import frozen

from actors.addresses import Address, Endpoint
from actors.client import ClientConnection
from actors.dialling import connect
from actors.errors import Closed, ConnectFailed, LinkError
from actors.mailbox import Understood
from actors.messages import Drain, Halt
from actors.outgoing import Route
from actors.settings import Backoff, Health, Limits
from actors.tls import TlsSide
from actors.trace import Tracer
from actors.transport import SocketProtocol
from actors.tunnel import Proxy, beyond, connect_through
from actors.turns import TurnActor
from supervisor.attempts import Attempts
from supervisor.errands import Errand, look_up
from supervisor.health import PingMonitor
from supervisor.orders import Dialled, Grow, KeeperMessage, Probe, Resolved, Tick, Wake
from supervisor.outliers import Outliers
from supervisor.placing import order, uneven, wanted
from supervisor.pool import PER_CONNECTION, Member, Phase, Pool

logger: Final = logging.getLogger("muxlink.link")

RESOLVE_WHILE_DOWN: Final = 5.0
"""Seconds between two looks at the addresses while no connection can be made."""


@frozen
class Service:
    """What a link was asked to keep: where the service is, and how it is spoken to."""

    endpoints: tuple[Endpoint, ...]
    connections: int
    max_connections: int
    push: bool
    tls: Callable[[], TlsSide] | None
    backoff: Backoff
    proxy: Proxy | None = None
    """What every connection goes through, where there is one; it finds the endpoints."""


@frozen
class Dial:
    """A dial under way."""

    first: Address
    """The place that it begins with."""
    losing: Address | None
    """For one that evens out: the place that loses a connection for it."""


class Roster(TurnActor[KeeperMessage]):
    """The connections of one link, those that there are and those that are being made."""

    __slots__ = (
        "_addresses", "_attempts", "_clock", "_closing", "_dials", "_lost", "_names", "_resolving", "_service",
        "_stale", "_ticking", "_waking", "health", "limits", "members", "pool",
    )  # fmt: skip

    understands: ClassVar[Understood] = KeeperMessage

    def __init__(
        self,
        name: str,
        service: Service,
        *,
        limits: Limits,
        health: Health,
        tracer: Tracer,
    ) -> None:
        super().__init__(name, tracer, shutdown_timeout=2 * limits.shutdown_timeout)
        self.limits = limits
        self.health = health
        self.members: dict[str, Member[Address]] = {}
        """Every connection that has not ended, by name."""
        self.pool: Pool[Address] = Pool(
            name, limits, health, Outliers(), probe=lambda member: self.tell(Probe(member.name)),
            grow=lambda: self.tell(Grow()),
        )  # fmt: skip
        self._service = service
        self._clock: Callable[[], float] = float  # it stands still until the keeper begins
        self._addresses: tuple[Address, ...] = ()
        self._stale = True
        self._resolving = ""
        self._dials: dict[str, Dial] = {}
        self._lost: dict[Address, float] = {}
        """Until when a place comes last in the order, because a dial that began with it ended elsewhere."""
        self._names: Counter[str] = Counter()
        self._ticking: asyncio.TimerHandle
        self._attempts = Attempts(service.backoff, service.connections)
        self._waking: asyncio.TimerHandle | None = None
        self._closing: LinkError | None = None

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
        service, timeout = self._service, self.limits.connect_timeout

        async def look() -> None:
            if service.proxy is not None:
                self.tell(Resolved(tuple(beyond(each) for each in service.endpoints), (), None))
            else:
                self.tell(await look_up(service.endpoints, timeout))

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
        way = connect if service.proxy is None else partial(connect_through, service.proxy)

        async def reach() -> None:
            address, protocol = await way(
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

    def _now(self) -> float:
        return self._clock()
