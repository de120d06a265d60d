"""The turn actor: takes its backlog, handles each message in a synchronous ``receive``, settles once per batch.

Theory of operation
    A turn hands out system messages first, then at most 1,024 others or 5 ms of them, and then gives the loop its turn.
    When the actor ends, for whatever reason, it says its last words (``ending``), halts its children, and waits for
    them at most ``shutdown_timeout``, taking in nothing but their ends; the rest of its mail becomes dead letters, some
    at a time, so that not even an end with a long backlog keeps others from the loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import Any, Final, TypeVar
from weakref import WeakSet

from actors.actor import Actor, Stop
from actors.errors import LinkError, Misuse
from actors.mailbox import Mailbox, Overflow, Ref, SystemMessage, closed_error
from actors.messages import (
    ActorState,
    Exited,
    GetState,
    Halt,
    Resume,
    Suspend,
    TraceOff,
    TraceOn,
    Watch,
)
from actors.trace import NUMBER, Tracer, number_of, shown, summary_of

logger: Final = logging.getLogger("muxlink.actor")

M = TypeVar("M")
N = TypeVar("N")

MESSAGES_PER_TURN: Final = 1024
SECONDS_PER_TURN: Final = 0.005
MOST_NAMED: Final = 20
"""Children that are named in the log of those that did not end in time."""
LETTERS_PER_TURN: Final = 256
"""Dead letters that are put away in one go; with tracing on, each costs as much as telling it did."""


class TurnActor(Actor[M]):
    """An actor that lives in turns: :meth:`receive` for each message, :meth:`settle` once per batch."""

    __slots__ = (
        "_batch", "_event", "_halt_event", "_halted", "_ref", "_suspended", "_timers", "children", "mailbox",
        "shutdown_timeout",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        tracer: Tracer | None = None,
        *,
        bound: int = 65_536,
        overflow: Overflow = Overflow.CLOSE,
        shutdown_timeout: float = 1.0,
    ) -> None:
        super().__init__(name, tracer)
        self.mailbox: Mailbox[M] = Mailbox(name, self.tracer, bound=bound, overflow=overflow)
        self.mailbox.unheard = self.unheard
        self._ref: Ref[M] = Ref(name, self.mailbox.tell, self.signal)
        self.children: dict[str, Ref[Any]] = {}
        """The actors that this one started and that have not ended, by name."""
        self.shutdown_timeout = shutdown_timeout
        """Seconds that children have for ending when this actor ends."""
        self._batch: deque[Any] = deque()
        """What it has taken and not handled: messages, and entries for those that were told while somebody traced."""
        # The loop holds those that will ring; those that were cancelled need no keeping.
        self._timers: WeakSet[asyncio.TimerHandle] = WeakSet()
        self._suspended = False
        self._halted = False
        self._event = 0
        self._halt_event = 0

    # What a kind of turn actor writes.

    @abstractmethod
    def receive(self, message: M) -> None:
        """Handle one message; must not wait. Raising Stop ends the actor, any other exception is a crash."""

    def begin(self) -> None:
        """Runs once, before the first turn."""

    def settle(self) -> None:
        """Runs once after each batch: the place for one write for all that was said in it."""

    def suspended(self, yes: bool) -> None:
        """Runs when the actor is suspended or resumed."""

    def ending(self, reason: BaseException | None) -> None:
        """Runs once when the actor begins to end: the place for last words; what it raises is logged."""

    def ended(self) -> bool:
        """Whether, once it is ending, nothing is left to wait for; the children are counted already."""
        return True

    def unheard(self, message: M) -> None:
        """Runs for each message that became a dead letter: the chance to answer who would wait for ever."""

    def overdue(self) -> None:
        """Runs when the shutdown time is up and something is still left."""

    # What it may use.

    @property
    def ref(self) -> Ref[M]:
        return self._ref

    def tell(self, message: M) -> bool:
        return self.mailbox.tell(message)

    def signal(self, message: SystemMessage) -> bool:
        if self._watched(message):
            return True
        if self.tracer.on and isinstance(message, Halt) and not self._halted:
            self._halt_event = self.tracer.noted(self.name, message)
        if self.mailbox.signal(message):
            return True
        if isinstance(message, GetState):
            message.reply.tell(self._state())
            return True
        return False

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.get_debug():
            self.mailbox.understand(self.understands)
        if self.tracer.on:
            self._event = self.tracer.event

    def start_child(self, actor: Actor[N]) -> Ref[N]:
        """Start an actor whose end is told to this one, and which ends with it. Raises Misuse for a name in use."""
        if actor.name in self.children:
            raise Misuse(f"{self.name} has a child {actor.name} already: children are known by their names")
        ref = self.children[actor.name] = actor.start(self.ref)
        return ref

    def after(self, seconds: float, message: M) -> asyncio.TimerHandle:
        """Tell this actor ``message`` in ``seconds``; cancel the handle to take it back."""
        handle = asyncio.get_running_loop().call_later(seconds, self._ring, message)
        self._timers.add(handle)
        return handle

    def _ring(self, message: M) -> None:
        if not self.tracer.on:
            self.mailbox.tell(message)
            return
        self.tracer.speak_as("timer")
        self.mailbox.tell(message)
        self.tracer.speak_as("caller")

    # How it runs.

    async def _run(self) -> None:
        try:
            self._begin_turns()
            while True:
                await self._next_batch()
                self._turn()
        except asyncio.CancelledError:
            self._abandon()
            raise
        except Stop as stop:
            self._record(stop.reason, crashed=False)
        except LinkError as error:
            # The mailbox overflowed, or a turn let an error of ours out: both name their reason.
            self._log_crash(error)
            self._record(error, crashed=True)
        except Exception as error:
            self._log_crash(error)
            self._record(error, crashed=True)
        try:
            await self._wind_down()
        except asyncio.CancelledError:
            self._abandon()
            raise

    def _begin_turns(self) -> None:
        tracer = self.tracer
        if tracer.on:
            tracer.speak_as(self.name, self._event)
        self.begin()
        if tracer.on:
            tracer.speak_as("caller")

    async def _next_batch(self) -> None:
        if not self._suspended and (self._batch or len(self.mailbox)):
            # The rest of a long backlog, or what the turn told itself: let the loop serve others first.
            await asyncio.sleep(0)
        if not self._batch or self._suspended:
            taken = await self.mailbox.take(signals_only=self._suspended)
            if self._batch:
                self._batch.extend(taken)
            else:
                self._batch = taken

    def _turn(self) -> None:
        signals = self.mailbox.signals
        while signals:
            self._signalled(signals.popleft())
        if self._suspended:
            return
        tracer = self.tracer
        if not tracer.on:
            self._handle()
            if tracer.event or tracer.on:
                tracer.speak_as("caller")
            return
        tracer.begin_turn(self.name)
        try:
            self._handle()
        finally:
            tracer.end_turn()

    def _handle(self) -> None:
        batch, tracer, receive, event = self._batch, self.tracer, self.receive, 0
        late = perf_counter() + SECONDS_PER_TURN
        for _ in range(min(len(batch), MESSAGES_PER_TURN)):
            message = batch.popleft()
            if type(message) is list:
                event = self._event = tracer.event = message[NUMBER]
                tracer.actor = self.name
                message = tracer.take(message)
            elif event:
                # It was told while nobody traced.
                event = self._event = 0
                tracer.speak_as(self.name)
            if type(message) is Exited:
                self.children.pop(message.name, None)
            receive(message)
            if perf_counter() > late:
                break
        self.settle()

    def _signalled(self, message: SystemMessage) -> None:
        match message:
            case Halt(cause):
                self._event = self._halt_event
                raise Stop(cause)
            case Suspend() | Resume():
                wanted = isinstance(message, Suspend)
                if wanted is not self._suspended:
                    self._suspended = wanted
                    self.suspended(wanted)
            case _:
                super()._signalled(message)

    async def _wind_down(self) -> None:
        """Say the last words, end the children, and wait for both, but not for ever."""
        self._begin_to_end()
        try:
            async with asyncio.timeout(self.shutdown_timeout):
                while not self._is_empty():
                    await self._next_batch()
                    self._late_turn()
        except TimeoutError:
            if self.children:
                left = ", ".join(itertools.islice(self.children, MOST_NAMED))
                if (more := len(self.children) - MOST_NAMED) > 0:
                    left += f" and {more:,} more"
                logger.error("%s ended without waiting for %s: cancelled, but not ended", self.name, left)
            self._last(self.overdue)
        except LinkError:
            self._last(self.overdue)  # the mailbox overflowed while ending: nobody is left to wait for it
        await self._put_away_the_rest()

    async def _put_away_the_rest(self) -> None:
        """What nobody takes any more becomes dead letters a turn at a time: there may be much of it."""
        rest = self._batch
        if len(rest) + len(self.mailbox) > LETTERS_PER_TURN:
            rest.extend(self.mailbox.shut(self._last_error(self._cause)))
        while len(rest) > LETTERS_PER_TURN:
            self.mailbox.put_away(rest, LETTERS_PER_TURN)
            await asyncio.sleep(0)

    def _last_error(self, cause: BaseException | None) -> LinkError:
        return cause if isinstance(cause, LinkError) else closed_error(self.name, cause)

    def _begin_to_end(self) -> None:
        """What must be done at the end, however it came, and needs no waiting."""
        tracer = self.tracer
        self._halted = True
        self._suspended = False
        self._cancel_timers()
        self.mailbox.reopen()
        if tracer.on:
            tracer.speak_as(self.name, self._event)
        self._last(self.ending, self._cause)
        self._halt_children()
        if tracer.on:
            tracer.speak_as("caller")

    def _late_turn(self) -> None:
        signals = self.mailbox.signals
        while signals:
            if isinstance(signal := signals.popleft(), (GetState, TraceOn, TraceOff)):
                self._signalled(signal)
        batch, tracer = self._batch, self.tracer
        for _ in range(min(len(batch), MESSAGES_PER_TURN)):
            item = batch.popleft()
            if type(item) is list:
                tracer.speak_as(self.name, number_of(item))
                self._late(tracer.take(item))
            else:
                self._late(item)
        tracer.speak_as("caller")

    def _late(self, message: object) -> None:
        """A message that comes while the actor ends: only ends matter now."""
        if isinstance(message, Exited):
            self.children.pop(message.name, None)
        else:
            self.mailbox.bury(message)

    def _is_empty(self) -> bool:
        return not self.children and self.ended()

    def _halt_children(self) -> None:
        cause = self._last_error(self._cause)
        for child in list(self.children.values()):
            child.signal(Halt(cause))
            if self.mailbox.dead_letters:
                # It may have ended already, and its Exited be among the messages that were lost.
                child.signal(Watch(Ref(self.name, self._forget)))

    def _forget(self, exited: Exited) -> None:
        self.children.pop(exited.name, None)

    def _abandon(self) -> None:
        """The task was cancelled from outside: end the children and let go, without another await."""
        self._record(asyncio.CancelledError(f"the task of {self.name} was cancelled from outside"), crashed=True)
        if not self._halted:
            self._begin_to_end()
        self._last(self.overdue)

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _finish(self, exited: Exited) -> None:
        if not self._halted:
            self._abandon()  # it was cancelled before its first step
        self._cancel_timers()
        self.mailbox.give_back(self._batch)
        self.mailbox.close(self._last_error(exited.reason))
        for signal in self.mailbox.signals:
            if isinstance(signal, GetState):
                signal.reply.tell(self._state())

    def _last_event(self) -> int:
        return self._event

    def _unhandled(self) -> Iterator[tuple[str, str]]:
        for item in itertools.chain(self._batch, self.mailbox.waiting()):
            if type(item) is list:
                event = shown(item)
                yield event.type, event.summary
            else:
                yield type(item).__name__, summary_of(item)

    def _state(self) -> ActorState:
        if self.exited is not None:
            status = "ended"
        else:
            status = "stopping" if self._halted else "suspended" if self._suspended else "running"
        waiting = len(self.mailbox) + len(self._batch)
        return ActorState(
            self.name, status, waiting, self.mailbox.dead_letters, tuple(self.children), self.detail(),
            type(self).__name__, self._age(), tuple(self.children.values()),
        )  # fmt: skip
