"""How tests run.

An ``async def`` test runs in ``asyncio.Runner(debug=True)``, on a loop of its own. Markers:

``@pytest.mark.virtual_time``
    The loop's clock jumps to the next timer when nothing is ready (see tests/support/clock.py).
``@pytest.mark.bulk``
    The loop's debug mode is off, for tests that move much data.
``@pytest.mark.logs_errors("pattern", ...)``
    The test makes "muxlink" log errors: every record at ERROR or above must match one of the patterns (regular
    expressions, searched in the message), and every pattern must be matched. Without the marker any such record fails
    the test; without a pattern at least one record must come and any will do.

An async test also fails when a task other than its own is still pending at its end, when the loop's exception handler
was called (a task destroyed while pending, an exception never retrieved), or when a warning came up while the loop's
remains were collected (a socket or transport left unclosed, a coroutine never awaited).

Fixtures are synchronous; what needs the loop is an async context manager that the test enters. ``@given`` works on
``async def`` tests: each example gets a loop of its own.
"""

import asyncio
import functools
import gc
import inspect
import itertools
import logging
import re
import signal
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings

from tests.support.clock import JumpingLoop

collect_ignore = ["benchmarks"]

# How long an example takes says more of the machine than of the program.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_FRAMES = 3
_FREEZE_EVERY = 64
_runs = itertools.count(1)

MARKERS = (
    "virtual_time: run the async test on a loop whose clock jumps to the next timer when nothing is ready",
    "bulk: run the async test without the loop's debug mode, because it moves much data",
    'logs_errors(*patterns): the test makes "muxlink" log errors that match these regular expressions',
)


_walk_stack = traceback.walk_stack


def _nearest_frames(f: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    return itertools.islice(_walk_stack(f), _FRAMES)


def pytest_configure(config: pytest.Config) -> None:
    # In debug mode asyncio takes down the stack of each future and each handle: with all of pytest's frames, that would
    # be most of what a test takes.
    traceback.walk_stack = _nearest_frames
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In the background of a shell it is ignored, and every process that a test starts would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_finish() -> None:
    # What was imported and collected stays; frozen, it is not walked again by the collection after each async test.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    late: list[list[str]] = []
    with_loop = functools.partial(
        _run,
        late,
        virtual=pyfuncitem.get_closest_marker("virtual_time") is not None,
        debug=pyfuncitem.get_closest_marker("bulk") is None,
    )
    test = pyfuncitem.obj
    if getattr(test, "is_hypothesis_test", False):
        if inspect.iscoroutinefunction(test.hypothesis.inner_test):
            test.hypothesis.inner_test = _sync(test.hypothesis.inner_test, with_loop)
    elif inspect.iscoroutinefunction(test):
        pyfuncitem.obj = _sync(test, with_loop)
    expected = pyfuncitem.get_closest_marker("logs_errors")
    errors = _Errors()
    logger = logging.getLogger("muxlink")
    logger.addHandler(errors)
    try:
        outcome = yield
        if late:
            _collect(late)
    finally:
        logger.removeHandler(errors)
        pyfuncitem.obj = test
    errors.judge(None if expected is None else expected.args)
    return outcome


def _sync(test: Callable[..., Awaitable[None]], run: Callable[[Callable[[], Awaitable[None]]], None]) -> Any:
    @functools.wraps(test)
    def runs(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        run(functools.partial(test, *args, **kwargs))

    return runs


def _run(late: list[list[str]], test: Callable[[], Awaitable[None]], *, virtual: bool, debug: bool) -> None:
    """Run a test, or one example of it; what it gives cause to complain of later goes to ``late``."""
    __tracebackhide__ = True
    complaints: list[str] = []

    def complain(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        complaints.append(
            f"the loop's exception handler was told: {context['message']}" + (f" ({error!r})" * bool(error))
        )

    async def body() -> None:
        __tracebackhide__ = True
        asyncio.get_running_loop().set_exception_handler(complain)
        await test()
        complaints.extend(f"still pending at the end: {task!r}" for task in _others())

    factory = JumpingLoop if virtual else asyncio.SelectorEventLoop
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        runner.run(body())
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)
    late.append(complaints)


def _collect(late: list[list[str]]) -> None:
    """Have whatever was left behind complain inside the test that left it, after the last of its examples."""
    __tracebackhide__ = True
    gc.collect()
    if next(_runs) % _FREEZE_EVERY == 0:
        gc.freeze()  # reports of tests gather: at the end of a long run the collection would take twenty times as long
    if complaints := [complaint for each in late for complaint in each]:
        pytest.fail("\n".join(complaints), pytrace=False)


def _others() -> list[asyncio.Task[Any]]:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return sorted(tasks, key=lambda task: task.get_name())


class _Errors(logging.Handler):
    """Keeps what "muxlink" logs at ERROR or above, and compares it with what the test announced."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            message += f" ({record.exc_info[1]!r})"
        self.messages.append(message)

    def judge(self, patterns: tuple[str, ...] | None) -> None:
        wanted = patterns or ((".*",) if patterns is not None else ())
        surprises = [message for message in self.messages if not any(re.search(pattern, message) for pattern in wanted)]
        missed = [pattern for pattern in wanted if not any(re.search(pattern, message) for message in self.messages)]
        complaints = [f"logged an unannounced error: {message}" for message in surprises]
        complaints += [f"announced an error that was not logged: {pattern}" for pattern in missed]
        if complaints:
            pytest.fail("\n".join(complaints), pytrace=False)
