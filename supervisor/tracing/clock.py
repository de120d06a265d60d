"""An event loop whose time is what a replay says: it stands while anything is ready, and jumps when nothing is."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Final

from actors.errors import DeadlineExceeded

GRACE: Final = 0.05
"""Real seconds that sockets and threads of a handler's own get before the clock jumps over a timer."""
PATIENCE: Final = 10.0
"""Real seconds after which a handler that waits for something outside of the replay is given up."""

_Ready = list[tuple[selectors.SelectorKey, int]]


class ReplayLoop(asyncio.SelectorEventLoop):
    """A selector loop that waits for no timer."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._idle: asyncio.Future[None] | None = None
        super().__init__(_Selector(self._nothing_ready))

    def time(self) -> float:
        return self._now

    def go_to(self, now: float) -> None:
        """Let it be that time, or leave it where it is later already; timers that are due meanwhile ring then."""
        self._now = max(now, self._now)

    async def settled(self) -> None:
        """Wait until nothing is ready at this time."""
        self._idle = self.create_future()
        await self._idle

    def _nothing_ready(self, poll: Callable[[float], _Ready], outside: bool, timeout: float | None) -> _Ready:
        """What the loop finds when it looks for sockets that are ready; ``timeout`` is 0 while anything else is."""
        if timeout is not None and timeout <= 0:
            return poll(0.0)
        outside = outside or getattr(self, "_default_executor", None) is not None
        if ready := poll(GRACE if outside else 0.0):
            return ready
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        elif timeout is not None:
            self._now += timeout
        elif not (outside and (ready := poll(PATIENCE))):
            raise DeadlineExceeded("the replay stands still: a handler waits for what is not in the recording")
        return ready


class _Selector(selectors.DefaultSelector):
    def __init__(self, idle: Callable[[Callable[[float], _Ready], bool, float | None], _Ready]) -> None:
        super().__init__()
        self._nothing_ready = idle

    def select(self, timeout: float | None = None) -> _Ready:
        # One registered file is the loop's own wake-up pipe.
        return self._nothing_ready(super().select, len(self.get_map()) > 1, timeout)
