"""Children for the tests of the tree: they do as they are told, and write down when they start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from attrs import define, field

from actors.actor import Actor, BodyActor, Stop
from actors.errors import LinkError
from actors.turns import TurnActor
from supervisor.children import ChildInfo
from supervisor.restart import ChildSpec, Restart
from supervisor.tree import Supervisor


class Bug(Exception):
    """What a child crashes with in these tests."""


@define
class Book:
    """What happened, in order."""

    lines: list[str] = field(factory=list)
    times: list[float] = field(factory=list)
    living: dict[str, int] = field(factory=dict)
    most: int = 0
    """The most instances of one child that ever lived at once."""

    def write(self, line: str) -> None:
        self.lines.append(line)
        self.times.append(asyncio.get_running_loop().time())

    def begin(self, name: str) -> None:
        self.write(f"+{name}")
        self.living[name] = self.living.get(name, 0) + 1
        self.most = max(self.most, self.living[name])

    def end(self, name: str) -> None:
        self.write(f"-{name}")
        self.living[name] -= 1

    def take(self) -> str:
        """What was written since the last time, as one line."""
        lines, self.lines, self.times = " ".join(self.lines), [], []
        return lines


class Body(BodyActor[Any]):
    """Lives until it is told otherwise; takes ``slow`` seconds to end, and swallows ``deaf`` cancellations."""

    __slots__ = ("_book", "_deaf", "_order", "_slow")

    def __init__(self, name: str, book: Book, *, slow: float = 0.0, deaf: int = 0) -> None:
        super().__init__(name)
        self._book, self._slow, self._deaf = book, slow, deaf
        self._order: asyncio.Future[None] | None = None

    async def body(self) -> None:
        self._order = asyncio.get_running_loop().create_future()
        self._book.begin(self.name)
        try:
            await self._order
        finally:
            try:
                await self._linger()
            finally:
                self._book.end(self.name)

    async def _linger(self) -> None:
        deaf = self._deaf
        until = asyncio.get_running_loop().time() + self._slow
        while (left := until - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                deaf -= 1
                if deaf < 0:
                    raise

    def fold(self, message: Any) -> None:
        if self._order is None or self._order.done():
            return
        if isinstance(message, BaseException):
            self._order.set_exception(message)
        else:
            self._order.set_result(None)


class Turns(TurnActor[Any]):
    """The same as a turn actor; its slowness is a timer."""

    __slots__ = ("_book", "_over", "_slow")

    def __init__(self, name: str, book: Book, *, slow: float = 0.0) -> None:
        super().__init__(name, shutdown_timeout=1000.0)
        self._book, self._slow, self._over = book, slow, False

    def begin(self) -> None:
        self._book.begin(self.name)

    def receive(self, message: Any) -> None:
        if isinstance(message, BaseException):
            raise message
        raise Stop

    def ending(self, reason: BaseException | None) -> None:
        self._over = self._slow == 0
        self.after(self._slow, "over")

    def ended(self) -> bool:
        return self._over

    def _late(self, message: object) -> None:
        self._over = True

    def _finish(self, exited: Any) -> None:
        super()._finish(exited)
        self._book.end(self.name)


def child(
    name: str,
    book: Book,
    restart: Restart = Restart.PERMANENT,
    *,
    kind: Callable[..., Actor[Any]] = Body,
    made: list[Actor[Any]] | None = None,
    slow: float = 0.0,
    deaf: int = 0,
    **how: Any,
) -> ChildSpec:
    """A spec of a child that writes into ``book``; ``made`` gets each of its actors."""

    def start() -> Actor[Any]:
        options: dict[str, Any] = {"slow": slow} | ({"deaf": deaf} if deaf else {})
        actor = kind(name, book, **options)
        if made is not None:
            made.append(actor)
        return actor

    return ChildSpec(name, start, restart, **how)


async def info(tree: Supervisor, name: str) -> ChildInfo:
    [found] = [each for each in await tree.which_children() if each.name == name]
    return found


async def tell(tree: Supervisor, name: str, order: object) -> None:
    """Give a running child an order: an exception crashes it, a Stop or anything else ends it."""
    ref = (await info(tree, name)).ref
    assert ref is not None
    ref.tell(order)


async def crash(tree: Supervisor, *names: str) -> None:
    """Crash them in one go, and let the tree hear of it."""
    refs = [(await info(tree, name)).ref for name in names]
    for ref in refs:
        assert ref is not None
        ref.tell(Bug("oops"))
    await turns()


def away(error: LinkError) -> Stop:
    """The order to end because of what a peer or the world did."""
    return Stop(error)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def states(tree: Supervisor) -> str:
    return " ".join(f"{each.name}:{each.state}" for each in await tree.which_children())
