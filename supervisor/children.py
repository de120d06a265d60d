"""What a supervisor knows of each child, does to it, and hears of it.

A child is known by its name and by the number of its instance: what an earlier instance says late is passed over. One
alarm at a time is set for a child, also numbered: for its backoff, its shutdown time, or its last grace.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field, frozen

from actors.actor import Actor
from actors.errors import Closed, LinkError, Misuse
from actors.mailbox import Ref, Reply, SystemMessage
from actors.messages import Exited, Halt, Kill, Watch
from actors.settings import Backoff
from supervisor.restart import FOREVER, ChildSpec, Delays, Restart

SHUTDOWN: Final = 5.0
"""Seconds that a child which says nothing else has for ending (OTP's for workers)."""

_numbers: Final = itertools.count(1)


@frozen
class ChildInfo:
    """How a child is."""

    name: str
    ref: Ref[Any] | None
    """The actor; None while none lives."""
    state: str
    """``running``, ``restarting`` (it will start again), ``stopping`` or ``stopped``."""
    restarts: int
    """How often it was started again."""
    reason: BaseException | None
    """What it ended with the last time; None where it has not, or finished by itself."""


# --- what a supervisor is told ----------------------------------------------------------------------------------------


@frozen
class ChildEnded:
    """One instance of a child has ended."""

    child: str
    instance: int
    exited: Exited

    def summary(self) -> str:
        return f"{self.child}: {self.exited.summary()}"


@frozen
class TimeUp:
    """An alarm rings: a child has waited long enough, or been waited for."""

    child: str
    alarm: int


@frozen
class Proceed:
    """Go on with what is open, in a turn of its own."""


@frozen
class StartChild:
    spec: ChildSpec
    reply: Reply[Ref[Any]] = field(repr=False)


@frozen
class StopChild:
    name: str
    forget: bool
    reply: Reply[None] = field(repr=False)


@frozen
class RestartChild:
    name: str
    reply: Reply[Ref[Any]] = field(repr=False)


@frozen
class WhichChildren:
    reply: Reply[tuple[ChildInfo, ...]] = field(repr=False)


Call = StartChild | StopChild | RestartChild | WhichChildren
TreeMessage = ChildEnded | TimeUp | Proceed | Call

# --- a child and what is done to it -----------------------------------------------------------------------------------


@frozen
class Owner:
    """What a child needs of its supervisor."""

    name: str
    tell: Callable[[TreeMessage], object]
    after: Callable[[float, TreeMessage], asyncio.TimerHandle]
    signal: Callable[[SystemMessage], object]


@define(eq=False)
class Child:
    """One child, over all its instances."""

    spec: ChildSpec
    owner: Owner = field(repr=False)
    order: int
    """By which children are sorted in the order of their start."""
    delays: Delays = field(repr=False)
    wanted: bool = True
    """Whether it runs or shall run again; otherwise it stays stopped, once it has ended."""
    forgotten: bool = False
    """Whether nothing of it stays, once it has ended."""
    ref: Ref[Any] | None = None
    """The instance that lives."""
    instance: int = 0
    started: float = 0.0
    patience: float = SHUTDOWN
    """Seconds that the instance has for ending."""
    told: LinkError | None = None
    """What the instance was told to end because of."""
    deadline: float = 0.0
    killed: bool = False
    waiting: bool = False
    """Whether it backs off."""
    restarts: int = 0
    reason: BaseException | None = None
    """What the last instance ended with."""
    round: Round | None = field(default=None, repr=False)
    """The round that it stops or starts with."""
    awaiting_end: list[Reply[None]] = field(factory=list, repr=False)
    awaiting_start: list[Reply[Ref[Any]]] = field(factory=list, repr=False)
    _alarm: int = 0
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @classmethod
    def of(cls, spec: ChildSpec, owner: Owner) -> Child:
        return cls(spec, owner, next(_numbers), Delays(backoff_of(spec)))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def temporary(self) -> bool:
        return self.spec.restart is Restart.TEMPORARY

    def launch(self, endless: type[Actor[Any]]) -> Ref[Any]:
        """Make an instance and start it; one of ``endless`` has all time for ending unless its spec says otherwise.

        Raises Closed, with the first cause chained, where it cannot start.
        """
        spec = self.spec
        try:
            actor: object = spec.start()
            if inspect.iscoroutine(actor):
                actor.close()
            if not isinstance(actor, Actor):
                raise Misuse(f"its start returned {type(actor).__name__}, not an actor")
            self.instance = next(_numbers)
            ref = actor.start(self._watcher())
        except Exception as error:
            # What other programs' exceptions say may be secret; it is in the chained cause.
            why = str(error) if isinstance(error, LinkError) else type(error).__name__
            failed = Closed.because(f"{self.owner.name}: child {spec.name} could not start: {why}", error)
            self._answer(failed)
            raise failed from error
        self.ref = ref
        self.started = asyncio.get_running_loop().time()
        usual = FOREVER if isinstance(actor, endless) else SHUTDOWN
        self.patience = spec.shutdown if spec.shutdown is not None else usual
        self._answer(ref)
        return ref

    def refuse_start(self, error: LinkError) -> None:
        """Whoever waits for its start waits in vain."""
        self._answer(error)

    def _answer(self, answer: Ref[Any] | LinkError) -> None:
        waiting, self.awaiting_start = self.awaiting_start, []
        for reply in waiting:
            if isinstance(answer, LinkError):
                reply.fail(answer)
            else:
                reply.tell(answer)

    def _watcher(self) -> Ref[Exited]:
        name, instance, tell = self.name, self.instance, self.owner.tell
        return Ref(self.owner.name, lambda exited: tell(ChildEnded(name, instance, exited)), self.owner.signal)

    def ask_again(self) -> None:
        """Have the instance's end told anew, should that message have been lost."""
        if self.ref is not None:
            self.ref.signal(Watch(self._watcher()))

    def end(self, cause: LinkError) -> None:
        """Tell the instance to end, once; the alarm rings when its time is up."""
        if self.ref is not None and self.told is None:
            self.told = cause
            self.deadline = asyncio.get_running_loop().time() + self.patience
            self.ref.signal(Halt(cause))
            self.wake(self.patience)

    def kill(self, grace: float) -> None:
        """Cancel the instance, once; the alarm rings when ``grace`` is over."""
        if self.ref is not None and not self.killed:
            self.killed = True
            self.ref.signal(Kill())
            self.wake(grace)

    def insist(self) -> None:
        """Cancel an instance again: what it does to clean up after the first time must end as well."""
        if self.ref is not None and self.killed:
            self.ref.signal(Kill())

    def back_off(self, seconds: float) -> None:
        self.waiting = True
        self.wake(seconds)

    def stop_waiting(self) -> None:
        if self.waiting:
            self.waiting = False
            self.hush()

    def wind_again(self, grace: float) -> None:
        """Set the alarm of an end that is under way, whose timer was cancelled with all others."""
        if self.told is not None:
            left = self.deadline - asyncio.get_running_loop().time()
            self.wake(grace if self.killed else max(0.0, left))

    def wake(self, seconds: float) -> None:
        """Set the alarm, instead of the one that is set."""
        self.hush()
        if seconds < FOREVER:
            self._alarm = next(_numbers)
            self._timer = self.owner.after(seconds, TimeUp(self.name, self._alarm))

    def hush(self) -> None:
        """Take the alarm back."""
        self._alarm = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rings(self, alarm: int) -> bool:
        """Whether this is the alarm that is set: one may have rung just before it was taken back."""
        return self._alarm == alarm

    def gone(self, reason: BaseException | None) -> None:
        """The instance has ended, or does not count any more."""
        self.hush()
        self.ref, self.told, self.killed, self.reason = None, None, False, reason
        waiting, self.awaiting_end = self.awaiting_end, []
        for reply in waiting:
            reply.tell(None)

    def was_told_to_end(self, exited: Exited) -> bool:
        """Whether that is why it has ended: it may have done so by itself just before."""
        return self.killed or (self.told is not None and exited.reason is self.told)

    def starts_with(self) -> Round | None:
        """The round that will start it."""
        return self.round if self.round is not None and self in self.round.start else None

    def info(self, *, ending: bool) -> ChildInfo:
        """How it is; ``ending`` says that the supervisor ends."""
        if self.ref is not None:
            marked = self.told is not None or (self.round is not None and self in self.round.stop)
            state = "stopping" if ending or marked else "running"
        else:
            state = "restarting" if self.wanted else "stopped"
        return ChildInfo(self.name, self.ref, state, self.restarts, self.reason)


def backoff_of(spec: ChildSpec) -> Backoff:
    """How a child backs off where it must."""
    return spec.backoff if spec.backoff is not None else Backoff()


# --- rounds -----------------------------------------------------------------------------------------------------------


@define(eq=False)
class Round:
    """Children that stop, and then start, together."""

    stop: set[Child]
    start: set[Child]
    cause: LinkError
    """What those that stop are told."""
    spent: bool
    """Whether intensity was spent on it: a fault that brings down several children counts once."""

    def stopping(self) -> list[Child]:
        """Those that still live, the last to start first."""
        return sorted((child for child in self.stop if child.ref is not None), key=_order, reverse=True)

    def starting(self) -> list[Child]:
        """Those that are still to start, in order."""
        return sorted(self.start, key=_order)


class Rounds:
    """The rounds that are open; a child is in one at most."""

    # With a thousand children that back off there are a thousand rounds: only those are looked at of whose members
    # something was heard.

    __slots__ = ("_touched",)

    def __init__(self) -> None:
        self._touched: dict[Round, None] = {}

    def touched(self) -> list[Round]:
        """Those that may go on; asking takes them off the list."""
        touched, self._touched = list(self._touched), {}
        return touched

    def touch(self, child: Child) -> None:
        """Something became of the child: its round may go on."""
        if child.round is not None:
            self._touched[child.round] = None

    def open(self, new: Round) -> None:
        """Add a round, joined with those that it touches."""
        for other in {child.round for child in new.stop | new.start if child.round is not None}:
            self._touched.pop(other, None)
            new.stop |= other.stop
            new.start |= other.start
            new.spent |= other.spent
        for child in new.stop | new.start:
            child.round = new
        self._touched[new] = None

    def close(self, done: Round) -> None:
        for child in done.stop | done.start:
            child.round = None

    def started(self, child: Child) -> None:
        """The child is through with its round, which may go on."""
        if child.round is not None:
            child.round.stop.discard(child)
            child.round.start.discard(child)
            child.round = None

    def withdraw(self, child: Child) -> None:
        """It will not start again with its round, which still waits for its end."""
        if child.round is not None:
            child.round.start.discard(child)
            self.touch(child)

    def clear(self) -> None:
        self._touched.clear()


def _order(child: Child) -> int:
    return child.order
