"""One event loop in one daemon thread, for all blocking code of the process.

It begins with the first connection and ends with the interpreter, after a goodbye to every server. What is handed over
to it is put into a queue and wakes it once, however many threads hand over at a time. A forked child gets a loop of its
own; what its parent had open stays with its parent.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from supervisor.adapters.blocking.errors import BadCall, NotOpen

T = TypeVar("T")

SECONDS_FOR_GOODBYE: Final = 2.0
"""How long the end of the interpreter waits for connections to close."""
GLANCE: Final = 1.0
"""Seconds after which who waits looks up: an interrupt that comes just before the wait begins would not end it."""
_NAME: Final = "muxlink-background"


class Bell:
    """What a thread waits for while another changes something: ``until`` a condition, looked at after each ``ring``.

    Nobody holds a lock while the condition is looked at, so that the loop never waits for a thread.
    """

    __slots__ = ("_sleepers", "is_due")

    def __init__(self) -> None:
        self._sleepers: deque[threading.Lock] = deque()
        self.is_due = False
        """Whether the loop is about to ring it."""

    def ring(self) -> None:
        """Have everyone who waits look again."""
        sleepers = self._sleepers
        while sleepers:
            with suppress(IndexError):  # another rang, too
                sleepers.popleft().release()

    def until(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait in a thread until ``ready()``, for at most ``timeout`` seconds; whether it is."""
        if ready():
            return True
        until = None if timeout is None else monotonic() + timeout
        while True:
            lock = threading.Lock()
            lock.acquire()
            self._sleepers.append(lock)
            try:
                if ready():  # it rang before we were in the line
                    return True
                left = GLANCE if until is None else until - monotonic()
                if left <= 0:
                    return False
                lock.acquire(timeout=min(left, GLANCE))
            finally:
                with suppress(ValueError):
                    self._sleepers.remove(lock)
            if ready():
                return True


class Waiting(Generic[T]):
    """A coroutine that runs in the loop, for a thread that waits for what comes of it."""

    __slots__ = ("_background", "_bell", "_error", "_result", "_task", "done")

    def __init__(self, background: Background) -> None:
        self._background = background
        self._bell = Bell()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._result: T | None = None
        self.done = False

    def result(self, timeout: float | None = None) -> T:
        """What came of it; raises what it raised.

        Where the time has passed or the wait is interrupted (KeyboardInterrupt), the coroutine is cancelled; the first
        raises TimeoutError.
        """
        try:
            if not self._bell.until(lambda: self.done, timeout):
                raise TimeoutError
        except BaseException:
            self._background.post(self._cancel)
            raise
        error, self._error = self._error, None
        if error is not None:
            raise error
        result: T = self._result  # type: ignore[assignment]  # done without an error
        return result

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Run it in the loop."""
        try:
            self._result = await coroutine
        except asyncio.CancelledError:
            self._error = NotOpen("the background loop was stopped: the interpreter ends")
        except BaseException as error:
            self._error = error
        finally:
            self.done = True
            self._bell.ring()


class Background:
    """The loop and its thread."""

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        self.loop: Final = asyncio.SelectorEventLoop()
        self._jobs: Final[deque[Callable[[], object]]] = deque()
        self._bells: list[Bell] = []
        self._woken = False
        self._stopped = False
        self._tasks: Final[set[asyncio.Task[Any]]] = set()
        self._farewells: Final[dict[int, Callable[[], Coroutine[Any, Any, object]]]] = {}
        self._thread: Final = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it may be given something to do: in this process, and before the interpreter's end."""
        return not self._stopped and self.pid == os.getpid()

    # --- from any thread ----------------------------------------------------------------------------------------------

    def post(self, job: Callable[[], object]) -> bool:
        """Have ``job`` called in the loop, soon; False where the loop has ended or belongs to a parent process."""
        if not self.alive:
            return False
        self._jobs.append(job)
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._work)
            except RuntimeError:  # closed meanwhile
                return False
        return True

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Waiting[T]:
        """Run a coroutine in the loop; ``result()`` of what is returned waits for it. Raises NotOpen and BadCall."""
        waiting: Waiting[T] = Waiting(self)

        def start() -> None:
            waiting._task = self.start(waiting.run(coroutine))

        try:
            self.check_thread()
            if not self.post(start):
                raise NotOpen("the background loop has ended: the interpreter ends, or this is a forked process")
        except BaseException:
            coroutine.close()
            raise
        return waiting

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine in the loop and wait for what it returns; raises what it raises, NotOpen and BadCall.

        After ``timeout`` seconds it is cancelled, which is TimeoutError.
        """
        return self.begin(coroutine).result(timeout)

    def check_thread(self) -> None:
        """Raise BadCall in the loop's own thread, which would wait for itself for ever."""
        if threading.get_ident() == self._thread.ident:
            raise BadCall(
                "blocking call in muxlink's background thread: it would wait for itself; use supervisor.link there"
            )

    # --- in the loop --------------------------------------------------------------------------------------------------

    def start(
        self, coroutine: Coroutine[Any, Any, T], done: Callable[[asyncio.Task[T]], object] | None = None
    ) -> asyncio.Task[T]:
        """Run a coroutine as a task that is kept until it has ended, and then given to ``done``."""
        task, tasks = self.loop.create_task(coroutine), self._tasks
        tasks.add(task)
        if done is None:
            task.add_done_callback(tasks.discard)
            return task

        def ended(task: asyncio.Task[T]) -> None:
            tasks.discard(task)
            done(task)

        task.add_done_callback(ended)
        return task

    def at_end(self, owner: object, farewell: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have ``farewell`` run when the interpreter ends, on behalf of ``owner``."""
        self._farewells[id(owner)] = farewell

    def not_at_end(self, owner: object) -> None:
        """Forget what :meth:`at_end` was told."""
        self._farewells.pop(id(owner), None)

    def ring_soon(self, bell: Bell) -> None:
        """Ring it in the loop's next round, together with all others: whom it wakes wants the interpreter's lock."""
        if bell.is_due:
            return
        bell.is_due = True
        if not self._bells:
            self.loop.call_soon(self._ring)
        self._bells.append(bell)

    def _ring(self) -> None:
        bells, self._bells = self._bells, []
        for bell in bells:
            bell.is_due = False
            bell.ring()

    def _work(self) -> None:
        self._woken = False
        jobs = self._jobs
        try:
            while jobs:
                jobs.popleft()()
        finally:
            if jobs:  # one of them failed
                self.loop.call_soon(self._work)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            with suppress(RuntimeError):
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    # --- its end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Say goodbye to every server, end what still runs, and end the thread."""
        if not self.alive:
            return
        with suppress(TimeoutError, NotOpen):
            self.call(self._say_goodbye(), SECONDS_FOR_GOODBYE)
        self._stopped = True
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS_FOR_GOODBYE)

    async def _say_goodbye(self) -> None:
        farewells, mine = list(self._farewells.values()), asyncio.current_task()
        self._farewells.clear()
        await asyncio.gather(*(farewell() for farewell in farewells), return_exceptions=True)
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=SECONDS_FOR_GOODBYE / 2)


_lock = threading.Lock()
_current: Background | None = None
_left_behind: Final[list[Background | None]] = []
"""The loops of parent processes: collected, they would close what is not theirs any more."""


def background() -> Background:
    """The process's background loop, begun at the first call. Raises NotOpen while the interpreter ends."""
    global _current  # noqa: PLW0603  (one to a process is the point)
    running = _current
    if running is not None and running.alive:
        return running
    with _lock:
        if _current is None:
            atexit.register(_stop)
            _current = Background()
        if not _current.alive:
            raise NotOpen("the interpreter ends: no connection can be made any more")
        return _current


def _stop() -> None:
    if _current is not None:
        _current.stop()


def _forked() -> None:
    global _current, _lock
    _left_behind.append(_current)
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)
