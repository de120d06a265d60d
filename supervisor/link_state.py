"""What a link is doing, and watching it change.

The states are those of gRPC's channels; each change carries its cause.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import Final, Self
from weakref import WeakSet

from attrs import frozen

from actors.errors import LinkError, Misuse

MOST_CHANGES: Final = 1024
"""Changes that wait for one watcher; the oldest are dropped first."""


class LinkState(enum.Enum):
    """What a link is doing."""

    IDLE = "idle"
    """Nobody has entered it or asked for anything yet."""
    CONNECTING = "connecting"
    """No connection is known to be alive, and one is being made; requests wait for it."""
    READY = "ready"
    """One connection at least takes requests."""
    TRANSIENT_FAILURE = "transient failure"
    """The last attempt failed, and the next waits its time; requests fail at once, unless they wait for READY."""
    SHUTDOWN = "shutdown"
    """It was closed, or has ended by a fault of its own; this is the last state."""


@frozen
class Change:
    """A link's state has changed."""

    state: LinkState
    previous: LinkState
    cause: LinkError | None
    """Why, where the change is for the worse."""
    at: float
    """When, in seconds of the loop's clock."""

    def __str__(self) -> str:
        why = f": {self.cause}" if self.cause is not None else ""
        return f"{self.previous.name} -> {self.state.name}{why}"


class Changes:
    """The changes since it was made, as they come; it ends behind SHUTDOWN. For one task at a time."""

    __slots__ = ("__weakref__", "_last", "_waiter", "_waiting", "missed")

    def __init__(self, state: LinkState) -> None:
        self.missed = 0
        """Changes that were dropped because nobody took them."""
        self._waiting: deque[Change] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._last = state

    def tell(self, change: Change) -> None:
        """Leave a change for who iterates."""
        if len(self._waiting) >= MOST_CHANGES:
            self._waiting.popleft()
            self.missed += 1
        self._waiting.append(change)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._waiting:
            if self._last is LinkState.SHUTDOWN:
                raise StopAsyncIteration
            if self._waiter is not None and not self._waiter.done():
                raise Misuse("two tasks iterate over the same changes: give each its own link.changes()")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        change = self._waiting.popleft()
        self._last = change.state
        return change


class States:
    """A link's state, and who watches it."""

    __slots__ = ("_watchers", "cause", "state")

    def __init__(self) -> None:
        self.state = LinkState.IDLE
        self.cause: LinkError | None = None
        """Why it is not READY, once something failed."""
        self._watchers: WeakSet[Changes] = WeakSet()

    def watch(self) -> Changes:
        """The changes from now on."""
        changes = Changes(self.state)
        self._watchers.add(changes)
        return changes

    def change(self, state: LinkState, cause: LinkError | None, now: float) -> bool:
        """Whether it is another state than before; if so, those who watch are told."""
        if self.state is LinkState.SHUTDOWN:
            return False
        self.cause = cause
        if state is self.state:
            return False
        change = Change(state, self.state, cause, now)
        self.state = state
        for watcher in list(self._watchers):
            watcher.tell(change)
        return True
