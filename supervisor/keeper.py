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
from collections import Counter
from typing import Final, assert_never

from actors.actor import Stop
from actors.addresses import Address
from actors.errors import Closed, ConnectFailed, GoAway, LinkError, Outcome, PingTimeout, ProtocolViolation, TlsFailed
from actors.mailbox import Reply, closed_error
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
from actors.settings import Health, Limits
from actors.stats import Recent, Totals
from actors.tls import first_cause
from actors.trace import Tracer
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
from supervisor.pool import Member, Phase
from supervisor.restart import Intensity, Meter
from supervisor.roster import RESOLVE_WHILE_DOWN, Roster, Service
from supervisor.stats import LinkStats

logger: Final = logging.getLogger("muxlink.link")

MAX_ALTERNATIVES: Final = 32
"""Origins that a link remembers alternatives for."""
TOO_MANY_PINGS: Final = b"too_many_pings"
MAX_FACTOR: Final = 256.0
"""How much rarer PINGs become, at most, for servers that do not like them."""


class Keeper(Roster):
    """Keeps the connections of one link."""

    __slots__ = (
        "_alternatives", "_asking", "_meter", "_was_ready", "restarts", "retries", "retries_refused", "round_trips",
        "states", "totals",
    )  # fmt: skip

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
        super().__init__(name, service, limits=limits, health=health, tracer=tracer)
        self.states = states
        self.restarts: Counter[str] = Counter()
        """Connections that ended without being asked to, by the class of the reason."""
        self.retries: Counter[str] = Counter()
        """Requests that went again, by what was known of them."""
        self.retries_refused: Counter[str] = Counter()
        """Failed requests that did not, by the reason."""
        self.totals = Totals()
        """What the connections did that have ended."""
        self.round_trips = Recent()
        self._alternatives = alternatives
        self._meter = Meter(Intensity())
        self._asking: list[AskReady] = []
        self._was_ready = False

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

    # --- times, states, and those who ask -----------------------------------------------------------------------------

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
            self._was_ready = True
            logger.info("%s is ready", self.name)
        elif state is LinkState.TRANSIENT_FAILURE and attempts.trouble is not None:
            self.pool.fail(attempts.trouble)
            # The first failure is an error that somebody gets, unless they wait.
            waited = self._was_ready or self.pool.waiting or any(asked.patient for asked in self._asking)
            logger.log(
                logging.WARNING if waited else logging.INFO, "%s: %s; next attempt in %.1f s",
                self.name, attempts.trouble, attempts.not_before - now,
            )  # fmt: skip

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
            # To wait would only hide it.
            if not asked.patient or _is_a_mistake(trouble):
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


def _is_a_mistake(trouble: LinkError) -> bool:
    """Whether the service is there and cannot be spoken to, or a proxy does not let us through (a status of 4xx)."""
    if isinstance(trouble, ConnectFailed):
        return trouble.status is not None and 400 <= trouble.status < 500
    return isinstance(trouble, (TlsFailed, ProtocolViolation))
