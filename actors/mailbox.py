"""Where an actor's messages wait: bounded, never blocking who tells, and handed over a backlog at a time.

A mailbox belongs to one event loop and has one owner, who takes. Anyone on the loop may tell, from anywhere, and goes
on at once. System messages wait apart and are seen first.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any, Final, Generic, TypeVar, cast, get_args

from attrs import frozen

from actors.errors import Closed, LimitReached, LinkError, Misuse
from actors.trace import Entry, Tracer, number_of, summary_of

logger: Final = logging.getLogger("muxlink.mailbox")

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
T = TypeVar("T")

Understood = type | UnionType | tuple[type, ...]


class SystemMessage:
    """Base of the messages that every actor understands, seen ahead of any backlog."""

    __slots__ = ()


class Overflow(enum.Enum):
    """What a mailbox does with one message too many."""

    REFUSE = "refuse"
    """The new message becomes a dead letter and ``tell`` says False."""
    DROP_OLDEST = "drop oldest"
    """The oldest waiting message becomes a dead letter."""
    CLOSE = "close"
    """The mailbox closes and its owner ends with LimitReached."""


def _no_system_messages(message: SystemMessage) -> bool:
    return False


@frozen
class Ref(Generic[M_contra]):
    """An actor as others know it: its name and the way in."""

    name: str
    tell: Callable[[M_contra], object]
    """Leave a message and go on at once; a mailbox says False where the message became a dead letter."""
    signal: Callable[[SystemMessage], object] = _no_system_messages
    """Leave a system message."""


class Reply(Generic[T]):
    """The way back for one answer: the first ``tell`` or ``fail`` counts, later ones are ignored."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def tell(self, answer: T) -> None:
        """Give the answer."""
        if not self._future.done():
            self._future.set_result(answer)

    def fail(self, error: LinkError) -> None:
        """Say that there will be no answer, and why."""
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # looked at: one that nobody waits for is no error in asyncio's eyes

    @property
    def is_wanted(self) -> bool:
        """Whether it was neither answered nor given up."""
        return not self._future.done()

    async def wait(self) -> T:
        """The answer; raises what ``fail`` was given."""
        return await self._future


def refuse_unknown(name: str, message: object, understood: Understood) -> None:
    """Raise Misuse for a message that the actor ``name`` does not understand, naming what it does."""
    if not isinstance(message, cast("type", understood)):
        known = understood if isinstance(understood, tuple) else get_args(understood) or (understood,)
        names = ", ".join(sorted(kind.__name__ for kind in known))
        raise Misuse(f"{name} does not understand {type(message).__name__}; it understands {names}")


def check_loop(name: str, loop: asyncio.AbstractEventLoop | None) -> None:
    """Raise Misuse where another loop runs than that of the actors of ``name``; None: they have none yet."""
    if loop is None:
        return
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if loop is not here:
        raise Misuse(f"{name} lives on another event loop: ask there, as by asyncio.run_coroutine_threadsafe()")


class Mailbox(Generic[M]):
    """Messages that wait for one owner."""

    __slots__ = (
        "_backlog", "_understood", "_waiter", "bound", "closed", "dead_letters", "name", "overflow", "signals",
        "tracer", "unheard",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        tracer: Tracer | None = None,
        *,
        bound: int = 65_536,
        overflow: Overflow = Overflow.CLOSE,
    ) -> None:
        if bound < 1:
            raise Misuse(f"a mailbox holds at least 1 message, not {bound}")
        self.name = name
        self.tracer = tracer if tracer is not None else Tracer()
        self.bound = bound
        self.overflow = overflow
        self.dead_letters = 0
        """Messages that nobody took."""
        self.unheard: Callable[[Any], None] | None = None
        """Gets each dead letter: the owner's chance to answer who would wait for ever."""
        self._backlog: deque[Any] = deque()
        self.signals: deque[SystemMessage] = deque()
        """System messages that wait: the owner takes them one by one, so that those behind one that fails stay."""
        self._waiter: asyncio.Future[None] | None = None
        self.closed: LinkError | None = None
        """Why it takes no more, once that is so."""
        self._understood: Understood | None = None

    def __len__(self) -> int:
        return len(self._backlog)

    def waiting(self) -> Iterator[M | Entry]:
        """What waits, the oldest first; nothing may be told or taken meanwhile."""
        return iter(self._backlog)

    def understand(self, understood: Understood) -> None:
        """From now on, raise Misuse at ``tell`` for any message of another type."""
        self._understood = understood

    def tell(self, message: M) -> bool:
        """Leave a message; False where it became a dead letter at once. Never waits."""
        backlog = self._backlog
        if self._understood is not None:
            refuse_unknown(self.name, message, self._understood)
        if len(backlog) >= self.bound or self.closed is not None:
            if not self._make_room(message):
                return False
            backlog = self._backlog
        if self.tracer.on or type(message) is list:
            backlog.append(self.tracer.told(self.name, message))
        else:
            backlog.append(message)
        # A future that a cancelled take left behind is done already; its owner takes anew.
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)
        return True

    def signal(self, message: SystemMessage) -> bool:
        """Leave a system message; False where the mailbox is closed."""
        if self.closed is not None:
            return False
        self.signals.append(message)
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)
        return True

    async def take(self, *, signals_only: bool = False) -> deque[M | Entry]:
        """Wait until something is there, and hand over the whole backlog; cancelling it loses nothing.

        The backlog comes back empty where only system messages wait, or where ``signals_only`` leaves the others in
        place. Raises Misuse when two take at once, and what the mailbox was closed with: LimitReached after it
        overflowed under CLOSE.
        """
        while self.closed is None and not self.signals and (signals_only or not self._backlog):
            if self._waiter is not None and not self._waiter.done():
                raise Misuse(f"two tasks take from the mailbox of {self.name}: it has one owner")
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                if self._waiter is waiter:
                    self._waiter = None
        if self.closed is not None:
            raise self.closed
        if signals_only:
            return deque()
        backlog, self._backlog = self._backlog, deque()
        return backlog

    def give_back(self, messages: deque[M | Entry]) -> None:
        """Put messages that were taken and not handled back in front."""
        self._backlog.extendleft(reversed(messages))
        messages.clear()

    def close(self, reason: LinkError) -> None:
        """Take no more; what still waits becomes dead letters, but for system messages. The first reason stays."""
        left = self.shut(reason)
        self.put_away(left, len(left))

    def shut(self, reason: LinkError) -> deque[M | Entry]:
        """Take no more, and hand over what still waits, but for system messages. The first reason stays."""
        if self.closed is None:
            self.closed = reason
        left, self._backlog = self._backlog, deque()
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)
        return left

    def reopen(self) -> None:
        """Take messages again after an overflow: an owner that ends must still hear of its children's ends."""
        self.closed = None

    def _make_room(self, message: M) -> bool:
        if self.closed is None:
            if self.overflow is Overflow.DROP_OLDEST:
                self.put_away(self._backlog, 1)
                return True
            if self.overflow is Overflow.CLOSE:
                self.close(LimitReached(f"the mailbox of {self.name} overflowed at {self.bound} messages"))
        self.bury(message)
        return False

    def bury(self, message: object) -> None:
        """Count a message as a dead letter, and trace it."""
        self.dead_letters += 1
        if self.unheard is not None:
            self.unheard(message)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("dead letter for %s: %s %s", self.name, type(message).__name__, summary_of(message))
        if self.tracer.on:
            self.tracer.noted(self.name, message, dead=True)

    def put_away(self, told: deque[Any], most: int) -> None:
        """Bury the first ``most`` of ``told``, messages taken in before: what told each is its dead letter's cause."""
        tracer = self.tracer
        speaker, event = tracer.actor, tracer.event
        for _ in range(min(most, len(told))):
            item = told.popleft()
            if type(item) is list:
                tracer.speak_as(self.name, number_of(item))
                self.bury(tracer.take(item, dead=True))
            else:
                tracer.speak_as(self.name)
                self.bury(item)
        tracer.speak_as(speaker, event)


def closed_error(name: str, reason: BaseException | None) -> Closed:
    """What someone gets who waits for an actor that has ended."""
    why = f": {reason}" if reason is not None and str(reason) else ""
    return Closed.because(f"{name} has ended{why}", reason)
