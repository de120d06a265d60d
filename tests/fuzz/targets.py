"""What a case is run against, and what counts as a finding."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from actors.errors import InvalidHeaders, LinkError
from actors.messages import BytesArrived
from actors.server_stream import ServerStream
from tests.fuzz.cases import Case
from tests.support.clock import JumpingLoop, Stuck
from tests.support.sides import Bench, settle
from tests.support.strategies import ASKED, POST, Auditor, End

SECONDS_PER_CASE: Final = 1.0
"""Processor time, so that a busy machine is no hang."""
MOST_OUTPUT: Final = 64 * 1024
"""Bytes that an end may say beyond eight for each that it hears, and what it echoes."""


class Hang(BaseException):
    """A case took too long; no Exception, so that nothing under test can take it for a peer's fault."""


class Finding(Exception):
    """A case did what none may."""


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raise Hang in here after so much processor time."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"it took more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run(case: Case) -> bool:
    """Run a case; returns whether the target called it a violation. Raises Finding for anything but that."""
    target = on_actor if case.target == "actor" else on_wire
    try:
        with no_longer_than(SECONDS_PER_CASE):
            return target(case)
    except Finding:
        raise
    except (Exception, Hang) as error:
        raise Finding(f"{type(error).__name__}: {error}") from error


def on_wire(case: Case) -> bool:
    """An end that answers what it hears; whatever it says, a peer could bear."""
    client = case.target == "client"
    end, auditor = End(client=client), Auditor(client=client)
    for _ in ASKED if client else ():
        end.open(POST)
    said = 0
    for piece in case.pieces():
        end.hears(piece, at_once=end.answers)
        output = end.says()
        said += len(output)
        auditor.hears(output)
    _expect_moderate(case, said)
    return end.broken is not None


def _expect_moderate(case: Case, said: int) -> None:
    if said > MOST_OUTPUT + 8 * len(case.data):
        raise Finding(f"{len(case.data)} bytes made it say {said}")


class _Errors(logging.Handler):
    """Keeps the first error that is logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage() + (f" ({record.exc_info[1]!r})" if record.exc_info else "")


def on_actor(case: Case) -> bool:
    """A server's connection with handlers that echo: it ends well, and leaves nothing behind."""
    logger, errors = logging.getLogger("muxlink"), _Errors()
    logger.addHandler(errors)
    complaints: list[str] = []
    try:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
            broken = runner.run(_converse(case))
    except Stuck as error:
        raise Finding(f"the connection never ends: {error}") from error
    finally:
        logger.removeHandler(errors)
    if errors.first is not None or complaints:
        raise Finding(errors.first or complaints[0])
    return broken


async def _echo(stream: ServerStream) -> None:
    try:
        await stream.start_response(200)
        async for chunk in stream:
            await stream.send(chunk)
        await stream.end(await stream.trailers())
    except InvalidHeaders:  # the peer may say that it takes hardly any
        stream.reset()


async def _converse(case: Case) -> bool:
    bench, auditor = Bench(_echo), Auditor(client=False)
    said = 0
    for piece in case.pieces():
        bench.actor.tell(BytesArrived(piece))
        await settle(6)
        said += _audited(bench, auditor)
    broken = bench.actor.exited is not None
    exited = await bench.actor.stop()
    said += _audited(bench, auditor)
    await settle(3)
    if exited.crashed or not isinstance(exited.reason, LinkError | None):
        raise Finding(f"the connection crashed: {exited.reason!r}")
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        raise Finding(f"left behind: {left}")
    _expect_moderate(case, said)
    return broken


def _audited(bench: Bench, auditor: Auditor) -> int:
    written = bytes(bench.socket.written)
    bench.socket.written.clear()
    auditor.hears(written)
    return len(written)
