"""How ``muxlink demo`` tells: lines with their times, a progress line, and how long a link was without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TextIO, TypeVar

from actors.errors import LinkError
from supervisor.link_state import Changes, LinkState

T = TypeVar("T")

CLEAR: Final = "\r\x1b[2K"
LOOK_INTERVAL: Final = 0.01
"""Seconds between two looks at what tells nobody that it has changed."""


class Teller:
    """Writes what happens, when it happens; on a terminal, with a last line that is written over and over."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._watched = out.isatty()
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    def event(self, who: str, what: str) -> None:
        """A line with the seconds since the beginning."""
        self.clear()
        print(f"{self._clock() - self._began:06.3f} s  {who:<9} {what}", file=self._out, flush=True)

    def table(self, rows: dict[str, str]) -> None:
        print(file=self._out)
        for name, value in rows.items():
            print(f"{name:<13} {value}", file=self._out)

    def progress(self, line: str) -> None:
        if self._watched:
            print(f"{CLEAR}{line}", end="", file=self._out, flush=True)

    def clear(self) -> None:
        self.progress("")


class Watch:
    """Adds up how long a link that was READY once is without a connection."""

    def __init__(self, changes: Changes) -> None:
        self.without = 0.0
        """Seconds."""
        self._changes = changes

    async def run(self) -> None:
        """Until the link is closed, which it is to be while it is READY."""
        lost: float | None = None
        async for change in self._changes:
            if change.previous is LinkState.READY:
                lost = change.at
            elif change.state is LinkState.READY and lost is not None:
                self.without += change.at - lost
                lost = None


def counts(reasons: Mapping[str, int]) -> str:
    """Such as ``2 GoAway, 1 TransportLost``."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


async def within(seconds: float, what: Awaitable[T], otherwise: str) -> T:
    """What it comes to in time. Raises LinkError, which says that it was ``otherwise`` for so long."""
    try:
        async with asyncio.timeout(seconds):
            return await what
    except TimeoutError:
        raise LinkError(f"{otherwise} for {seconds:g} s") from None


async def until(ready: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    while not ready():  # noqa: ASYNC110
        await asyncio.sleep(LOOK_INTERVAL)
