"""An event loop whose clock jumps to the next timer when nothing is ready.

Hours pass in milliseconds, and always in the same order. Real sockets and threads still work: before each jump they
get a moment of real time to become ready.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Final

GRACE: Final = 0.02
"""Real seconds that sockets and threads get before the clock jumps over a timer."""
PATIENCE: Final = 10.0
"""Real seconds after which a loop without any timer is called stuck."""

Ready = list[tuple[selectors.SelectorKey, int]]


class Stuck(RuntimeError):
    """Nothing is ready, no timer is set, and no socket or thread has spoken: the loop would wait forever."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """A selector loop that starts at time 0.0 and waits for no timer."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._idle))

    def time(self) -> float:
        return self._now

    def _outside(self, sockets: int) -> bool:
        """Whether something but a timer may wake the loop: a socket, or a thread of the default executor."""
        return sockets > 0 or getattr(self, "_default_executor", None) is not None

    def _idle(self, poll: Callable[[float], Ready], sockets: int, timeout: float | None) -> Ready:
        if timeout is None:
            if ready := poll(PATIENCE if self._outside(sockets) else 0.0):
                return ready
            raise Stuck(f"at {self._now} s: nothing is ready and no timer is set")
        ready = poll(GRACE if timeout > 0 and self._outside(sockets) else 0.0)
        if not ready:
            self._now += timeout
        return ready


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, idle: Callable[[Callable[[float], Ready], int, float | None], Ready]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> Ready:
        # One registered file is the loop's own wake-up pipe.
        return self._idle(super().select, len(self.get_map()) - 1, timeout)
