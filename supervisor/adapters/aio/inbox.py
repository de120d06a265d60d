"""The requests of one connection that nobody has taken yet."""

from __future__ import annotations

import asyncio
from collections import deque

from actors.errors import LinkError
from supervisor.adapters.aio.streams import Entry


class Inbox:
    """Requests in the order in which they came; who waits for one may be cancelled, and then the next gets it."""

    def __init__(self) -> None:
        self._requests: dict[int, Entry] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.closed: LinkError | None = None
        self._refusing = False

    def __len__(self) -> int:
        return len(self._requests)

    def put(self, entry: Entry) -> bool:
        """Whether somebody may take it: not once it refuses, or is closed."""
        if self._refusing:
            return False
        self._requests[entry.id] = entry
        self._wake_one()
        return True

    def drop(self, entry: Entry) -> None:
        """It is over, whether it was taken or not."""
        self._requests.pop(entry.id, None)

    async def take(self) -> Entry:
        """The first, once there is one. Raises what it was closed with."""
        while not self._requests:
            if self.closed is not None:
                raise self.closed.with_outcome(self.closed.outcome)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if self._requests:
                    self._wake_one()  # it may have been meant for this one
                raise
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        return self._requests.pop(next(iter(self._requests)))

    def refuse(self) -> list[Entry]:
        """Have no more; who waits may wait on. Returns those that nobody has taken."""
        self._refusing = True
        left, self._requests = list(self._requests.values()), {}
        return left

    def close(self, error: LinkError) -> list[Entry]:
        """The same, and send home who waits."""
        self.closed = self.closed or error
        while self._waiting:
            self._wake_one()
        return self.refuse()

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
