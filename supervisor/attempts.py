"""When a link may dial again, pure: the waits between attempts, and what forgives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import random as randomness

from actors.errors import LinkError
from actors.settings import Backoff
from supervisor.restart import Delays


class Attempts:
    """How the last attempts went, over all places of one service together."""

    __slots__ = ("_delays", "_excuses", "_left", "_proof", "failing", "not_before", "trouble")

    def __init__(self, backoff: Backoff, excuses: int = 1, random: Callable[[], float] = randomness) -> None:
        """``excuses``: connections that may be replaced at once without having proved themselves, until one has."""
        self.failing = False
        """Whether the last attempt failed."""
        self.not_before = -math.inf
        """When the next may be made."""
        self.trouble: LinkError | None = None
        """What went wrong last."""
        self._delays = Delays(backoff, random)
        self._proof = backoff.initial
        self._excuses = self._left = excuses

    def may_begin(self, now: float) -> bool:
        return now >= self.not_before

    def succeeded(self) -> None:
        """A connection is ready; that it has proved itself is another matter."""
        self.failing, self.trouble = False, None

    def failed(self, error: LinkError, now: float) -> None:
        """An attempt failed: the next one waits, and longer than the one before; those made together count once."""
        self.failing, self.trouble = True, error
        if self.may_begin(now):
            self.not_before = now + self._delays.next()

    def gone(self, error: LinkError, now: float, *, lasted: float | None, proved: bool) -> None:
        """A connection is to be replaced: at once if it had proved itself, or is excused.

        ``lasted`` is for how long it was ready, in seconds; None: never.
        """
        proved = proved or (lasted is not None and lasted >= self._proof)
        if proved:
            self.forgive()
        elif lasted is None or not self._left:
            self.failed(error, now)
            return
        else:
            self._left -= 1
        self.trouble = error

    def forgive(self) -> None:
        """All is well: the next failure is a first one."""
        self._delays.reset()
        self._left = self._excuses

    def hurry(self) -> None:
        """Wait no longer."""
        self._delays.reset()
        self.not_before = -math.inf
