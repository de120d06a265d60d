"""Who stands in for the world in a replay: a socket that is none, streams that only listen, and connections that keep
no time of their own.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import field, frozen

from actors.actor import Actor
from actors.client import ClientConnection
from actors.connection import ConnectionActor
from actors.errors import Misuse
from actors.mailbox import Ref
from actors.messages import ConnectionLost, Exited, ReadOn, WriteOn
from actors.serving import ServerConnection
from actors.stream import StreamActor

N = TypeVar("N")


class NoSocket:
    """A transport that takes all that is written, or after it is full nothing more where ``stuck``."""

    def __init__(self, local: str, *, stuck: bool) -> None:
        self.closing = False
        self.full = False
        self.closed: Callable[[], object] = lambda: None
        """Called once, when it was closed from this side."""
        self._local = local
        self._stuck = stuck
        self._unsent = 0

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def get_extra_info(self, name: str) -> Any:
        return self._local if name == "sockname" else None

    def write(self, data: bytes | memoryview) -> None:
        if self.full and self._stuck:
            self._unsent += len(data)

    def pause_reading(self) -> None:
        """The recording says what was read, and when."""

    def resume_reading(self) -> None:
        """The same."""

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.closed)

    def abort(self) -> None:
        self.close()


class Looks(float):
    """Seconds that are over when the clock was looked at so many times, whatever it said."""

    def __init__(self, many: float) -> None:
        self._left = many

    def __radd__(self, now: float) -> float:
        return self

    def __lt__(self, now: float) -> bool:
        self._left -= 1
        return self._left < 0


@frozen
class Turn:
    """What is told in one turn, which however long it takes is not cut in two as turns are when they last."""

    told: deque[tuple[int, object]] = field(factory=deque)
    """Messages, each with its event of the replay."""


class _Unhurried(ConnectionActor):
    """Reads what has come at once, however long that takes: wall time says nothing in a replay."""

    __slots__ = ()

    def _read(self, seconds: float = math.inf) -> None:
        super()._read(math.inf)


class Directed(ConnectionActor):
    """Does nothing by itself: its timers, its streams and how far it reads in a turn are in the recording."""

    looks: Callable[[int], float]
    """How often it looks for frames while it handles an event of the replay."""
    puppets: dict[str, Actor[Any]]
    """The streams that it was told of or began, which never run."""

    def receive(self, message: object) -> None:
        if not isinstance(message, Turn):
            raise Misuse(f"{self.name} is told whole turns, not {type(message).__name__}")
        while message.told:
            self._event, told = message.told.popleft()
            self.tracer.speak_as(self.name, self._event)
            if isinstance(told, Exited):
                self.children.pop(told.name, None)
            try:
                super().receive(told)  # type: ignore[arg-type]  # a recording says only what it was told
            except BaseException:
                self._batch.appendleft(message)  # the rest, as in any turn that ends
                raise

    def _late(self, message: object) -> None:
        for _, told in message.told if isinstance(message, Turn) else ():
            super()._late(told)

    def unheard(self, message: object) -> None:
        if not isinstance(message, Turn):
            super().unheard(message)  # type: ignore[arg-type]
            return
        for _, told in message.told:
            super().unheard(told)  # type: ignore[arg-type]

    def _read(self, seconds: float = math.inf) -> None:
        super()._read(Looks(self.looks(self.tracer.event)))

    def _ring_at(self, at: float) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(at, nothing, (), self._loop)  # which no loop knows

    def start_child(self, actor: Actor[N]) -> Ref[N]:
        self.puppets[actor.name] = actor
        ref = self.children[actor.name] = actor.ref
        return ref

    def tell(self, message: object) -> bool:
        if isinstance(message, (ReadOn, WriteOn, ConnectionLost)):
            return True  # what it tells itself is in the recording, in its place among the others
        return super().tell(message)  # type: ignore[arg-type]


class DirectedServer(Directed, ServerConnection):
    """A server's."""


class DirectedClient(Directed, ClientConnection):
    """A client's."""


class UnhurriedServer(_Unhurried, ServerConnection):
    __slots__ = ()


def nothing(*_: object) -> None:
    """What a timer does that never rings, and who hears what nobody is told."""


async def idle(stream: StreamActor) -> None:
    """What a puppet does."""
