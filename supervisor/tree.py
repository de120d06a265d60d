"""The supervision tree: a supervisor starts its children in order, restarts them as configured, and stops them.

Theory of operation
    A turn only sets down what shall be: who is wanted, and which rounds are open. A round is a set of children that
    stop and then start together, after one of them has failed; rounds that touch become one. ``settle`` takes each
    round a step further, as far as it goes: stop the last that lives, and wait; once none lives, start them in order,
    up to one that still backs off. So it does not matter in which order ends, alarms and calls arrive.

Starting a child does not wait for it: what a child needs from an earlier one, it must ask for and wait.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Final, Self, assert_never

from attrs import evolve

from actors.actor import ask
from actors.errors import Closed, LimitReached, LinkError, Misuse
from actors.mailbox import Ref, Reply, Understood
from actors.messages import ActorState, Exited, Halt, Kill
from actors.trace import Tracer
from actors.turns import TurnActor
from supervisor.children import (
    Call,
    Child,
    ChildEnded,
    ChildInfo,
    Owner,
    Proceed,
    RestartChild,
    Round,
    Rounds,
    StartChild,
    StopChild,
    TimeUp,
    TreeMessage,
    WhichChildren,
    backoff_of,
)
from supervisor.restart import ChildSpec, Intensity, Meter, OneForOne, Strategy, Verdict, check_strategy, judge

logger: Final = logging.getLogger("muxlink.tree")

GRACE: Final = 0.8
"""Seconds between cancelling a child and leaving it behind; half of it where the supervisor itself was cancelled."""

_numbers: Final = itertools.count(1)


class Supervisor(TurnActor[TreeMessage]):
    """Keeps its children running: OTP's supervisor.

    ``async with`` starts them in order; leaving it stops them in reverse order. When it gives up, because its intensity
    is used up, it stops them as well, cancels the body of the ``async with`` and raises LimitReached from it; as the
    child of another supervisor it is restarted, and spends that one's intensity.
    """

    __slots__ = (
        "_begun", "_cancelling", "_family", "_intensity", "_interrupted", "_meter", "_owner", "_restarts", "_rounds",
        "_specs", "_stopping_because", "_strategy",
    )  # fmt: skip

    understands: ClassVar[Understood] = TreeMessage

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy | None = None,
        intensity: Intensity | None = None,
        name: str | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """The strategy is OneForOne where none is given. Raises Misuse for what cannot work."""
        super().__init__(name if name is not None else f"supervisor-{next(_numbers)}", tracer)
        self._specs = tuple(children)
        self._strategy: Strategy = strategy if strategy is not None else OneForOne()
        self._intensity = intensity if intensity is not None else Intensity()
        self._meter = Meter(self._intensity)
        check_strategy(self._strategy)
        for spec in self._specs:
            self._check_spec(spec)
        if len({spec.name for spec in self._specs}) < len(self._specs):
            names = ", ".join(spec.name for spec in self._specs)
            raise Misuse(f"{self.name}: children are known by their names, which must differ: {names}")
        self._family: dict[str, Child] = {}
        """The children by name, in the order of their start."""
        self._rounds = Rounds()
        self._restarts = 0
        self._stopping_because: LinkError | None = None
        self._begun: Reply[None] | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._interrupted = False

    # --- what others call ---------------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Ref[Any]:  # type: ignore[override]  # its children are made by specs
        """Add a child after the others and start it; one that cannot start is not added.

        Raises Misuse for a name in use, and Closed where it cannot start or the supervisor has ended.
        """
        self._check_spec(spec)
        self._check_lives()
        return await ask(self.ref, lambda reply: StartChild(spec, reply), None)

    async def stop_child(self, name: str) -> None:
        """Stop a child and wait until it has ended; it stays known, unless it is temporary, and can be restarted.

        Raises Misuse for a name that is unknown, and Closed where the supervisor has ended.
        """
        self._check_lives()
        await ask(self.ref, lambda reply: StopChild(name, False, reply), None)

    async def delete_child(self, name: str) -> None:
        """Stop a child, wait until it has ended, and forget it; raises as :meth:`stop_child` does."""
        self._check_lives()
        await ask(self.ref, lambda reply: StopChild(name, True, reply), None)

    async def restart_child(self, name: str) -> Ref[Any]:
        """Start a child that is stopped or backs off; one that runs is stopped first, and no other.

        It starts at once, unless it is about to start along with an earlier one that backs off.

        Raises Misuse for a name that is unknown or a temporary child's, and Closed where it was stopped instead or
        cannot start, which counts as a crash, or the supervisor has ended.
        """
        self._check_lives()
        return await ask(self.ref, lambda reply: RestartChild(name, reply), None)

    async def which_children(self) -> tuple[ChildInfo, ...]:
        """How the children are, in the order of their start. Raises Closed where the supervisor has ended."""
        self._check_lives()
        return await ask(self.ref, WhichChildren, None)

    async def find_child(self, name: str) -> Ref[Any]:
        """The actor that is the child now; it may be another one soon.

        Raises Misuse for a name that is unknown, and Closed while none lives.
        """
        children = await self.which_children()
        found = next((each for each in children if each.name == name), None)
        if found is None:
            raise self._no_child(name)
        if found.ref is None:
            raise Closed(f"{self.name}: child {name} is {found.state}")
        return found.ref

    def _check_spec(self, spec: object) -> None:
        if not isinstance(spec, ChildSpec):
            raise Misuse(f"{self.name}: a child is given as a ChildSpec, not as {spec!r}")

    def _check_lives(self) -> None:
        if not self._lives():
            raise Misuse(f"{self.name} was never started: use it in an 'async with', or start it")

    async def __aenter__(self) -> Self:
        owner = asyncio.current_task()
        self.start(Ref("owner", self._interrupt))
        begun = self._begun = Reply()
        try:
            await begun.wait()
        except asyncio.CancelledError:
            await self._leave()
            raise
        if self.exited is not None and self.exited.crashed:
            raise self._last_error(self.exited.reason)
        self._owner, self._cancelling = owner, owner.cancelling() if owner is not None else 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        owner, self._owner = self._owner, None
        await self._leave()
        if self._interrupted and owner is not None and owner.uncancel() > self._cancelling:
            return  # somebody else has cancelled it, too
        to_be_told = kind is None or (self._interrupted and issubclass(kind, asyncio.CancelledError))
        if to_be_told and self.exited is not None and self.exited.crashed:
            raise self._last_error(self.exited.reason)

    def _interrupt(self, exited: Exited) -> None:
        """It has ended: the body of the ``async with`` must not go on where that was a crash."""
        if self._owner is not None and exited.crashed:
            self._interrupted = True
            self._owner.cancel()

    async def _leave(self) -> None:
        """End, and wait for it; cancelled meanwhile, end at once, and wait for that all the same."""
        self.signal(Halt(None))
        try:
            await self.wait()
        except asyncio.CancelledError:
            self.signal(Kill())
            while self.exited is None:
                with suppress(asyncio.CancelledError):  # it is raised below
                    await self.wait()
            raise

    # --- turns --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        for spec in self._specs:
            self._add(spec, None)
        if self._begun is not None:
            self._begun.tell(None)

    def receive(self, message: TreeMessage) -> None:
        match message:
            case ChildEnded(name, instance, exited):
                self._ended_child(name, instance, exited)
            case TimeUp(name, alarm):
                self._time_up(name, alarm)
            case Proceed():
                pass  # settle does
            case StartChild(spec, reply):
                try:
                    self._add(spec, reply)
                except LinkError as error:
                    reply.fail(error)
            case StopChild(_, forget, stopped):
                if (child := self._named(message)) is not None:
                    self._stop_one(child, forget, stopped)
            case RestartChild(_, started):
                if (child := self._named(message)) is not None:
                    self._restart_one(child, started)
            case WhichChildren(answer):
                self.settle()  # what was told before counts, also in the same batch
                ending = self._stopping_because is not None
                answer.tell(tuple(child.info(ending=ending) for child in self._family.values()))
            case _:
                assert_never(message)

    def settle(self) -> None:
        for each in self._rounds.touched():
            self._advance(each)

    def unheard(self, message: TreeMessage) -> None:
        if isinstance(message, Call):
            message.reply.fail(Closed(f"{self.name} is ending"))

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {"strategy": type(self._strategy).__name__, "restarts": self._restarts}

    def _state(self) -> ActorState:
        living = [child for name, child in self._family.items() if name in self.children]
        names = tuple(child.name for child in living)
        refs, restarts = tuple(self.children[name] for name in names), tuple(child.restarts for child in living)
        return evolve(super()._state(), children=names, refs=refs, restarts=restarts)

    # --- a child ends -------------------------------------------------------------------------------------------------

    def _ended_child(self, name: str, instance: int, exited: Exited) -> None:
        child = self._family.get(name)
        if child is None or child.ref is None or child.instance != instance:
            return  # it was left behind, or this was told before
        by_itself = child.wanted and not child.was_told_to_end(exited)
        self._bury(child, exited.reason)
        if by_itself:
            if asyncio.get_running_loop().time() - child.started > backoff_of(child.spec).maximum:
                child.delays.reset()
            self._failed(child, exited)

    def _time_up(self, name: str, alarm: int) -> None:
        child = self._family.get(name)
        if child is None or not child.rings(alarm):
            return
        if child.waiting:
            child.waiting = False
            self._rounds.touch(child)
        elif not child.killed:
            logger.warning("%s: child %s did not end within %g s: cancelled", self.name, name, child.patience)
            child.kill(GRACE)
        else:
            logger.error("%s: child %s was cancelled and did not end: it is left behind", self.name, name)
            self._bury(child, child.told)

    def _bury(self, child: Child, reason: BaseException | None) -> None:
        child.gone(reason)
        self._rounds.touch(child)
        del self.children[child.name]
        if not child.wanted:
            self._retire(child)

    def _retire(self, child: Child) -> None:
        """It has ended and will not start again by itself."""
        child.wanted = False
        if child.forgotten or child.temporary:
            del self._family[child.name]

    def _failed(self, child: Child, exited: Exited) -> None:
        """A child has ended that was not told to."""
        verdict = judge(child.spec.restart, exited)
        if verdict in (Verdict.FORGET, Verdict.REST):
            self._rounds.withdraw(child)
            self._retire(child)
            return
        ours, mine = verdict is Verdict.RESTART, child.starts_with()
        if ours and (mine is None or not mine.spent):
            self._spend(child, exited)
        wait = child.delays.next() if not ours or child.spec.backoff is not None else 0.0
        logger.warning("%s: child %s: %s; restart in %.3g s", self.name, child.name, exited.summary(), wait)
        if wait > 0:
            child.back_off(wait)
        if mine is not None:
            mine.spent |= ours
        else:
            self._rounds.open(self._decide(child, ours))

    def _spend(self, child: Child, exited: Exited) -> None:
        if not self._meter.spend(asyncio.get_running_loop().time()):
            restarts, seconds = self._intensity.restarts, self._intensity.seconds
            raise LimitReached.because(
                f"{self.name} gives up: its children needed more than {restarts} restarts within {seconds:g} s, "
                f"the last one child {child.name}: {exited.summary()}",
                exited.reason,
            )

    def _decide(self, child: Child, spent: bool) -> Round:
        known = {each.name: each for each in self._family.values() if each.wanted}
        plan = self._strategy.decide(child.name, [each.spec for each in known.values()])
        if unknown := set(plan.stop + plan.start) - known.keys():
            strategy = type(self._strategy).__name__
            raise Misuse(f"{self.name}: {strategy} decided on children that are none: {', '.join(sorted(unknown))}")
        start = {known[name] for name in plan.start if not known[name].temporary}
        stop = {known[name] for name in plan.stop} | {each for each in start if each.ref is not None}
        for each in {child} | stop:
            each.wanted = each in start
        cause = Closed(f"{self.name} restarts its children because {child.name} has ended")
        return Round(stop, start, cause, spent)

    # --- rounds -------------------------------------------------------------------------------------------------------

    def _advance(self, each: Round) -> None:
        """Take a round as far as it goes."""
        if stopping := each.stopping():
            stopping[0].end(each.cause)
            return
        for child in each.starting():
            if child.waiting:
                return
            self._rounds.started(child)
            if not self._start_again(child):
                for other in each.starting():  # they go on, with it or without it
                    self._rounds.touch(other)
                return
        self._rounds.close(each)

    def _start_again(self, child: Child) -> bool:
        """That it cannot start is a crash, whose restart comes in a later turn."""
        try:
            self.children[child.name] = child.launch(Supervisor)
        except Closed as error:
            logger.error("%s", error, exc_info=error)
            child.reason = error
            self._failed(child, Exited(child.name, error, crashed=True))
            self.tell(Proceed())
            return False
        child.restarts += 1
        self._restarts += 1
        return True

    # --- calls --------------------------------------------------------------------------------------------------------

    def _add(self, spec: ChildSpec, reply: Reply[Ref[Any]] | None) -> None:
        if spec.name in self._family:
            raise Misuse(f"{self.name} has a child {spec.name} already; restart_child starts one that is stopped")
        child = Child.of(spec, Owner(self.name, self.tell, self.after, self.signal))
        self.children[spec.name] = ref = child.launch(Supervisor)
        self._family[spec.name] = child
        if reply is not None:
            reply.tell(ref)

    def _named(self, message: StopChild | RestartChild) -> Child | None:
        if (child := self._family.get(message.name)) is None:
            message.reply.fail(self._no_child(message.name))
        return child

    def _no_child(self, name: str) -> Misuse:
        return Misuse(f"{self.name} has no child {name}; it has {', '.join(self._family) or 'none'}")

    def _stop_one(self, child: Child, forget: bool, reply: Reply[None]) -> None:
        stopped = Closed(f"{self.name}: child {child.name} was stopped")
        child.wanted = False
        child.forgotten |= forget
        child.refuse_start(stopped)
        self._rounds.withdraw(child)
        if child.ref is not None:
            child.awaiting_end.append(reply)
            child.end(stopped)
            return
        child.stop_waiting()
        self._retire(child)
        reply.tell(None)

    def _restart_one(self, child: Child, reply: Reply[Ref[Any]]) -> None:
        if child.temporary:
            name = child.name
            reply.fail(Misuse(f"{self.name}: child {name} is temporary and starts only once: start_child adds another"))
            return
        child.wanted, child.forgotten = True, False
        child.awaiting_start.append(reply)
        child.stop_waiting()
        self._rounds.touch(child)
        if child.starts_with() is None:
            asked = Closed(f"{self.name}: child {child.name} is restarted because that was asked for")
            self._rounds.open(Round({child}, {child}, asked, spent=False))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _halt_children(self) -> None:
        """In reverse order, one after the other, and each with its own time."""
        self._rounds.clear()
        self._stopping_because = self._last_error(self._cause)
        bound = GRACE
        for child in tuple(self._family.values()):
            child.wanted, child.round = False, None
            child.stop_waiting()
            if child.ref is None:
                self._retire(child)
                continue
            bound += child.patience + GRACE
            child.wind_again(GRACE)
            if self.mailbox.dead_letters:
                child.ask_again()
        self.shutdown_timeout = bound  # never needed: each child has an alarm
        self._stop_next()

    def _stop_next(self) -> None:
        for child in reversed(self._family.values()):
            if child.ref is not None and self._stopping_because is not None:
                child.end(self._stopping_because)
                return

    def _late(self, message: object) -> None:
        match message:
            case ChildEnded() | TimeUp() | WhichChildren():
                self.receive(message)
                self._stop_next()
            case Proceed():
                for child in self._family.values():
                    child.insist()
            case _:
                super()._late(message)

    def overdue(self) -> None:
        """No time is left, or the task was cancelled: cancel all that live at once."""
        for child in reversed(self._family.values()):
            child.end(self._last_error(self._cause))
            child.kill(GRACE / 2)

    async def _run(self) -> None:
        try:
            await super()._run()
        except asyncio.CancelledError:
            await self._outlast()
            raise

    async def _outlast(self) -> None:
        """Wait for the children, which are cancelled as well; being cancelled again makes them no faster."""
        # They were told to end and cancelled in one step, in which two cancellations count as one.
        self.after(0, Proceed())
        while self.children:
            try:
                await self._next_batch()
            except asyncio.CancelledError:
                continue
            except LinkError:
                return  # the mailbox overflowed: it cannot hear them any more
            self._late_turn()

    def _finish(self, exited: Exited) -> None:
        if self._begun is not None:
            self._begun.fail(self._last_error(exited.reason))
        super()._finish(exited)
