"""Our SETTINGS on their way: each is acknowledged in its turn, and in time (no I/O, time is passed in)."""

from __future__ import annotations

from collections import deque

from actors.errors import LinkError
from actors.mailbox import Reply
from actors.patience import Deadlines, Wait
from actors.wire import Wire


class Changes:
    """The SETTINGS that the peer has not acknowledged, and who waits for that (RFC 9113, 6.5.3)."""

    __slots__ = ("_deadlines", "_waiting", "_wire")

    def __init__(self, wire: Wire, deadlines: Deadlines) -> None:
        self._wire = wire
        self._deadlines = deadlines
        self._waiting: deque[Reply[None] | None] = deque()

    def sent(self, done: Reply[None] | None, until: float) -> None:
        """SETTINGS go out; ``done`` is told of their acknowledgement, which has to come ``until`` then."""
        self._waiting.append(done)
        self._deadlines.start(Wait.ACK, until)

    def acknowledged(self, now: float) -> bool:
        """The first of them are acknowledged; False where none were out."""
        if not self._waiting:
            return False
        if done := self._waiting.popleft():
            done.tell(None)
        self._deadlines.stop(Wait.ACK)
        if self._waiting:
            self._deadlines.start(Wait.ACK, now + self._wire.limits.settings_timeout)
        return True

    def fail(self, error: LinkError) -> None:
        """No acknowledgement will come."""
        for done in self._waiting:
            if done is not None:
                done.fail(error)
