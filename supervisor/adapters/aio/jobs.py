"""Work that goes on in the background; each task is held until it has ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from actors.client_stream import ClientStream

T = TypeVar("T")

_running: Final[set[asyncio.Task[Any]]] = set()


def start(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Do it in a task that is not lost, whoever forgets it."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def failure_of(task: asyncio.Future[Any]) -> BaseException | None:
    """What a task has ended with that is no result; its cancellation is one, too."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


class Leaver:
    """Leaves the streams that are over, one after the other, in one task that lives while there are any."""

    def __init__(self) -> None:
        self._over: deque[AbstractAsyncContextManager[ClientStream]] = deque()
        self._task: asyncio.Task[None] | None = None

    def leave(self, loan: AbstractAsyncContextManager[ClientStream]) -> None:
        self._over.append(loan)
        if self._task is None:
            self._task = start(self._run(), "aioh2 streams")

    async def wait(self) -> None:
        """Wait until none is left."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            while self._over:
                await self._over.popleft().__aexit__(None, None, None)
        finally:
            self._task = None
