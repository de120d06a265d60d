"""The two kinds of actor and the one way to end.

A **turn actor** (``turns.py``) takes its backlog, handles each message in a synchronous ``receive``, and settles once
per batch. A turn never awaits, so no other code runs between a check and its use, and cancellation lands only between
turns.

A **body actor** runs a coroutine. Messages are folded into its state as they arrive, at once and synchronously;
the coroutine wakes when what it waits for is there. It has a task of its own, or lives in its caller's for as long as
that waits for it.

Both end once. The first recorded cause is the reason, whatever the task makes of its cancellation; each watcher is
told :class:`~actors.messages.Exited` from the task's done-callback, which runs even for a task that was cancelled
before its first step.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

from actors.errors import Closed, DeadlineExceeded, LinkError, Misuse
from actors.mailbox import Ref, Reply, SystemMessage, Understood, closed_error, refuse_unknown
from actors.messages import (
    ActorState,
    Crash,
    Exited,
    GetState,
    Halt,
    Kill,
    TraceOff,
    TraceOn,
    Unwatch,
    Watch,
)
from actors.trace import Tracer

logger: Final = logging.getLogger("muxlink.actor")

M = TypeVar("M")
N = TypeVar("N")
T = TypeVar("T")

SAME_MOMENT: Final = 0.1
"""Seconds within which actors are said to have begun at the same time."""
MOST_SHOWN: Final = 200
"""Messages that a crashed actor had not handled and that are told of."""


class Stop(Exception):  # not an error: the way out of a turn or a body, as StopIteration is
    """Raised inside an actor to end it with a reason that is no fault of its program."""

    def __init__(self, reason: LinkError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


class Actor(ABC, Generic[M]):
    """What both kinds share: a name, a ref, a task, watchers, and one end."""

    __slots__ = ("__weakref__", "_born", "_cause", "_crashed", "_task", "_watchers", "exited", "name", "tracer")

    understands: ClassVar[Understood] = object
    """The union of the messages that ``tell`` takes; checked at every ``tell`` in asyncio's debug mode."""
    _moment: ClassVar[float] = 0.0
    """When the last actor began that did not begin along with another."""

    def __init__(self, name: str, tracer: Tracer | None = None) -> None:
        self.name = name
        self.tracer = tracer if tracer is not None else Tracer()
        self.exited: Exited | None = None
        """How it ended; None while it has not."""
        self._born = 0.0
        self._task: asyncio.Task[None] | None = None
        self._cause: BaseException | None = None
        self._crashed: bool | None = None
        self._watchers: dict[Callable[[Exited], object], Ref[Exited]] = {}

    @property
    @abstractmethod
    def ref(self) -> Ref[M]:
        """The actor as others know it."""

    @abstractmethod
    def tell(self, message: M) -> bool:
        """Leave a message; False where nobody will take it. Never waits."""

    @abstractmethod
    def signal(self, message: SystemMessage) -> bool:
        """Leave a system message; False where nobody will answer it."""

    @abstractmethod
    def _run(self) -> Coroutine[Any, Any, None]:
        """The actor's life."""

    def start(self, *watchers: Ref[Any]) -> Ref[M]:
        """Begin to run; each of ``watchers`` is told Exited when it ends. Raises Misuse the second time."""
        if self._lives():
            raise Misuse(f"{self.name} was started already: an actor lives once")
        for watcher in watchers:
            self._watchers[watcher.tell] = watcher
        loop = asyncio.get_running_loop()
        self._be_born(loop)
        self._begin(loop)
        self._task = loop.create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._ended)
        if self._crashed is not None:
            self._task.cancel()  # it was told to end before it began
        return self.ref

    def _be_born(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set down when it begins; thousands that begin together share one number, instead of 24 bytes for each."""
        now = loop.time()
        if not 0.0 <= now - Actor._moment < SAME_MOMENT:
            Actor._moment = now
        self._born = Actor._moment

    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._born if self._lives() else 0.0

    @abstractmethod
    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs as the task is made."""

    async def stop(self, cause: LinkError | None = None) -> Exited:
        """Ask it to end because of ``cause`` and wait until it has; calling it again just waits."""
        if not self._lives():
            raise Misuse(f"{self.name} was never started")
        self.signal(Halt(cause))
        return await self.wait()

    def _lives(self) -> bool:
        """Whether it was started."""
        return self._task is not None

    async def wait(self) -> Exited:
        """Wait until it has ended."""
        if self.exited is not None:
            return self.exited
        reply: Reply[Exited] = Reply()
        watcher: Ref[Exited] = Ref("wait", reply.tell)
        self.signal(Watch(watcher))
        try:
            return await reply.wait()
        finally:
            self.signal(Unwatch(watcher))

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        """What this kind of actor adds to its :class:`~actors.messages.ActorState`."""
        return {}

    def _signalled(self, message: SystemMessage) -> None:
        """What every actor does with a system message."""
        match message:
            case GetState(reply):
                reply.tell(self._state())
            case TraceOn(exporter):
                self.tracer.attach(exporter)
            case TraceOff(exporter):
                self.tracer.detach(exporter)
            case _:
                raise Misuse(f"{self.name} cannot answer {type(message).__name__}: only turn actors can")

    @abstractmethod
    def _state(self) -> ActorState: ...

    def _watched(self, message: SystemMessage) -> bool:
        """Handle what must work at any time, even while the actor ends and after."""
        match message:
            case Watch(watcher):
                if self.exited is not None:
                    watcher.tell(self.exited)
                else:
                    self._watchers[watcher.tell] = watcher
            case Unwatch(watcher):
                self._watchers.pop(watcher.tell, None)
            case Kill():
                self._kill()
            case _:
                return False
        return True

    def _kill(self) -> None:
        if self._task is not None and not self._task.done():
            self._record(None, crashed=False)
            self._task.cancel()

    def _record(self, cause: BaseException | None, *, crashed: bool) -> None:
        """Set down why the actor ends; the first cause stays."""
        if self._crashed is None:
            self._cause, self._crashed = cause, crashed
            if crashed and self.tracer.crashed is not None:
                self._last(self.tracer.crashed, self)

    def crash(self) -> Crash:
        """What is known of it while it crashes."""
        shown = tuple(itertools.islice(self._unhandled(), MOST_SHOWN))
        watchers = tuple(self._watchers.values())
        return Crash(self.name, self._cause, self._state(), self._last_event(), shown, watchers)

    def _unhandled(self) -> Iterator[tuple[str, str]]:
        """The type and the summary of each message that it has not handled."""
        return iter(())

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The actor's own task has ended."""
        if task.cancelled():
            if self._crashed is None:
                # Perhaps a program that ends; perhaps a cancellation that came out of what the actor awaited.
                logger.warning("%s was cancelled, and not by who may end it", self.name)
            self._record(asyncio.CancelledError(f"the task of {self.name} was cancelled from outside"), crashed=True)
        elif (error := task.exception()) is None:
            self._record(None, crashed=False)
        elif isinstance(error, Stop):
            self._record(error.reason, crashed=False)
        else:
            # One that was told to end may well raise what it was told; anything else is a fault of its cleaning up.
            if self._crashed is None or not _is_ours(error):
                self._log_crash(error)
            self._record(error, crashed=True)
        self._tell_end()

    def _tell_end(self) -> None:
        """Say once to all who watch how it ended, after what it held was let go."""
        exited = self.exited = Exited(self.name, self._cause, bool(self._crashed))
        self._last(self._finish, exited)
        watchers, self._watchers = self._watchers, {}
        tracer = self.tracer
        speaker = tracer.actor, tracer.event
        if tracer.on:
            tracer.actor, tracer.event = self.name, self._last_event()  # speak_as(), written out: once for each request
        for watcher in watchers.values():
            self._last(watcher.tell, exited)
        tracer.actor, tracer.event = speaker  # a guest may end in somebody else's turn

    def _last(self, step: Callable[..., object], *args: object) -> None:
        """Take one step of the end: should it fail, those after it are taken all the same."""
        try:
            step(*args)
        except Exception as error:
            logger.error("%s failed at its end, in %s", self.name, getattr(step, "__qualname__", step), exc_info=error)

    def _log_crash(self, error: BaseException) -> None:
        logger.error("%s crashed", self.name, exc_info=error)

    def _last_event(self) -> int:
        """The event that the actor handled last, as the cause of what it says at its end."""
        return 0

    def _finish(self, exited: Exited) -> None:
        """Let go of what the actor held; runs once, before the watchers are told."""


def _is_ours(error: BaseException) -> bool:
    """Whether it is an error of ours, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(LinkError)[1] is None
    return isinstance(error, LinkError)


class BodyActor(Actor[M]):
    """An actor that runs a coroutine, :meth:`body`, and folds messages into its state as they arrive."""

    __slots__ = ("_cause_event", "_guest", "_strict", "dead_letters")

    def __init__(self, name: str, tracer: Tracer | None = None) -> None:
        super().__init__(name, tracer)
        self.dead_letters = 0
        self._cause_event = 0
        self._strict = False
        self._guest = False

    @abstractmethod
    def body(self) -> Coroutine[Any, Any, None]:
        """What the actor does; returning ends it."""

    @abstractmethod
    def fold(self, message: M) -> None:
        """Take one message into the state and wake who waits for it; must not wait."""

    def enter(self, *watchers: Ref[Any]) -> None:
        """Live in the calling task from now on, instead of one of its own, until :meth:`leave`.

        For a caller that only waits for what the actor's state says. Who tells the actor to end does not cancel the
        task, which is not the actor's: the actor ends at once, and its state says so to who waits for it. Saves three
        trips through the loop.
        """
        if self._lives():
            raise Misuse(f"{self.name} was started already: an actor lives once")
        self._guest = True
        for watcher in watchers:
            self._watchers[watcher.tell] = watcher
        loop = asyncio.get_running_loop()
        self._be_born(loop)
        self._begin(loop)
        if self._crashed is not None:
            self._tell_end()  # it was told to end before it began

    def leave(self, cause: LinkError | None) -> None:
        """End, in whatever task; one that has ended stays as it is."""
        if self.exited is None:
            self._record(cause, crashed=False)
            self._tell_end()

    def _lives(self) -> bool:
        return self._guest or super()._lives()

    @property
    def ref(self) -> Ref[M]:
        # Made anew: an actor that kept its ref would be a cycle, and thousands a second keep the collector busy.
        return Ref(self.name, self.tell, self.signal)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._strict = loop.get_debug()
        if self.tracer.on and not self._cause_event:
            self._cause_event = self.tracer.event

    def tell(self, message: M) -> bool:
        if self._strict:
            refuse_unknown(self.name, message, self.understands)
        if self.exited is not None:
            self.dead_letters += 1
            if self.tracer.on:
                self.tracer.noted(self.name, message, dead=True)
            return False
        tracer = self.tracer
        if tracer.on:
            self._cause_event = tracer.noted(self.name, message)
        self.fold(message)
        return True

    def signal(self, message: SystemMessage) -> bool:
        if isinstance(message, Halt):  # the most frequent first
            if self.exited is not None:
                return False
            if self.tracer.on:
                self._cause_event = self.tracer.noted(self.name, message)
            self._halt(message.cause)
            return True
        if self._watched(message):
            return True
        if isinstance(message, GetState):
            message.reply.tell(self._state())
            return True
        if self.exited is not None:
            return False
        self._signalled(message)
        return True

    def speak(self) -> None:
        """Say who tells, and why, before the body tells; needed only while tracing."""
        self.tracer.speak_as(self.name, self._cause_event)

    def _halt(self, cause: LinkError | None) -> None:
        """Cancel the body, once: a second time would disturb its cleaning up. A guest, who has none, ends at once.

        The cause is set down first, so that it stays whatever the body makes of it.
        """
        if self._crashed is None:
            self._record(cause, crashed=False)
            if self._guest:
                self._tell_end()
            elif self._task is not None:
                self._task.cancel()

    def _kill(self) -> None:
        if self._guest:
            self.leave(None)
        else:
            super()._kill()

    def _run(self) -> Coroutine[Any, Any, None]:
        return self.body()

    def _last_event(self) -> int:
        return self._cause_event

    def _state(self) -> ActorState:
        status = "ended" if self.exited is not None else "stopping" if self._crashed is not None else "running"
        return ActorState(self.name, status, 0, self.dead_letters, (), self.detail(), type(self).__name__, self._age())


async def ask(ref: Ref[M], question: Callable[[Reply[T]], M], timeout: float | None) -> T:
    """Tell ``ref`` the message that ``question`` makes of a reply, and wait ``timeout`` seconds for the answer.

    None waits as long as the asked actor lives. For turn actors; never from inside a turn, which cannot wait. Raises
    DeadlineExceeded, or Closed with the reason as soon as the asked actor ends.
    """
    reply: Reply[T] = Reply()
    watcher: Ref[Exited] = Ref("ask", lambda exited: reply.fail(closed_error(exited.name, exited.reason)))
    ref.signal(Watch(watcher))
    try:
        async with asyncio.timeout(timeout):
            if ref.tell(question(reply)) is False:
                reply.fail(Closed(f"{ref.name} refused the question: its mailbox is full or closed"))
            return await reply.wait()
    except TimeoutError:
        raise DeadlineExceeded(f"{ref.name} did not answer within {timeout:g} s") from None
    finally:
        ref.signal(Unwatch(watcher))


async def get_state(ref: Ref[Any], timeout: float = 1.0) -> ActorState:
    """How the actor behind ``ref`` is; answered ahead of any backlog. Raises DeadlineExceeded or Closed."""
    reply: Reply[ActorState] = Reply()
    if ref.signal(GetState(reply)) is False:
        raise Closed(f"{ref.name} answers no system messages")
    try:
        async with asyncio.timeout(timeout):
            return await reply.wait()
    except TimeoutError:
        raise DeadlineExceeded(f"{ref.name} did not answer within {timeout:g} s") from None
