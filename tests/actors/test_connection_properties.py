"""Two connection actors in memory, on a clock that jumps: whatever happens at whatever moment, everyone gets an end."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from attrs import define, field, frozen
from hypothesis import example, given
from hypothesis import strategies as st

from actors.actor import get_state
from actors.bodies import open_stream, request
from actors.errors import LinkError, Outcome, StreamReset
from actors.messages import BytesArrived, ConnectionLost, WritePaused, WriteResumed
from actors.server_stream import ServerStream
from actors.settings import Limits
from tests.support.frames import PREFACE, Parser, Type
from tests.support.sides import Bench, settle
from tests.support.strategies import PATIENT, examples

pytestmark = PATIENT

TICK: Final = 0.001
"""Virtual seconds between two looks at what was written."""
PATTERN: Final = bytes(range(251)) * 600
LIMITS: Final = Limits(
    stream_window=8_000, max_stream_window=8_000, connection_window=65_535, max_connection_window=65_535,
    send_buffer=10_000, max_streams=4,
)  # fmt: skip
DEADLINE: Final = 60.0
"""Virtual seconds within which everything has ended, one way or another."""
PATIENCE: Final = 2.0
"""Virtual seconds within which every request has ended that can."""


@frozen
class Plan:
    """One request, and what happens to it when; moments are in ticks."""

    way: str
    """``request`` whole, or ``stream``, which reads as it writes."""
    upload: int
    download: int
    handler: str
    trailers: bool
    begins: int
    cancelled: int | None
    """When its caller is cancelled."""
    hit: int | None
    """When its handler's task is cancelled."""
    timeout: float | None


HANDLERS: Final = ("echo", "echo", "answer early", "ignore", "hang", "reset", "leave", "slow")
_sizes = st.sampled_from((0, 1, 100, 7_999, 9_000, 40_000, 100_000))
_moments = st.none() | st.none() | st.integers(0, 40)
plans = st.builds(
    Plan, st.sampled_from(("request", "stream")), _sizes, _sizes, st.sampled_from(HANDLERS), st.booleans(),
    st.integers(0, 20), _moments, _moments, st.none() | st.sampled_from((0.004, 0.03)),
)  # fmt: skip


@define
class Joint:
    """A client and a server, and the bytes between them, which go over in pieces and late."""

    client: Bench
    server: Bench
    chance: random.Random
    windows: list[int] = field(factory=lambda: [65_535, 65_535])
    """What each side may send on the connection: the client, the server."""
    resets: list[Counter[int]] = field(factory=lambda: [Counter(), Counter()])
    fullest: int = 0
    """The most that the client might send at a time, since it was set to 0."""
    _parsers: tuple[Parser, Parser] = field(factory=lambda: (Parser(), Parser()))
    _under_way: tuple[bytearray, bytearray] = field(factory=lambda: (bytearray(), bytearray()))
    _preface: int = len(PREFACE)
    _paused: list[bool] = field(factory=lambda: [False, False])

    async def carry(self) -> None:
        """Hand over what was written, until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            for side, (speaker, hearer) in enumerate(((self.client, self.server), (self.server, self.client))):
                written = bytes(speaker.socket.written)
                speaker.socket.written.clear()
                self._note(side, written)
                pipe = self._under_way[side]
                pipe += written
                self._press(side, speaker, len(pipe))
                if pipe and hearer.socket.reading and hearer.actor.exited is None:
                    size = self.chance.choice((1, 9, 100, 5_000, 60_000, 60_000))
                    hearer.actor.tell(BytesArrived(bytes(pipe[:size])))
                    del pipe[:size]
                if not pipe and speaker.socket.closing and not hearer.socket.closing:
                    hearer.actor.tell(ConnectionLost(None))

    def _press(self, side: int, speaker: Bench, waiting: int) -> None:
        """Backpressure, as a transport has it."""
        if (waiting > 65_536) is not self._paused[side] and speaker.actor.exited is None:
            self._paused[side] = not self._paused[side]
            speaker.actor.tell(WritePaused() if self._paused[side] else WriteResumed())

    def _note(self, side: int, written: bytes) -> None:
        if side == 0 and self._preface:
            written, self._preface = written[self._preface :], max(0, self._preface - len(written))
        for frame in self._parsers[side].parse(written):
            if frame.type == Type.RST_STREAM:
                self.resets[side][frame.stream_id] += 1
            elif frame.type == Type.DATA:
                self.windows[side] -= len(frame.payload)
            elif frame.type == Type.WINDOW_UPDATE and not frame.stream_id:
                self.windows[1 - side] += frame.increment
                self.fullest = max(self.fullest, self.windows[0])


@define
class House:
    """The server's handlers: they do what the plan of their path says."""

    plans: list[Plan]
    seen: set[int] = field(factory=set)
    running: dict[int, "asyncio.Task[None]"] = field(factory=dict)
    full: bool = False
    """Whether handlers that hang kept others waiting, who were cancelled then."""

    async def handle(self, stream: ServerStream) -> None:
        number = int(stream.path.strip("/"))
        task = asyncio.current_task()
        assert task is not None
        self.seen.add(number)
        self.running[number] = task
        try:
            await self._act(stream, self.plans[number])
        finally:
            del self.running[number]

    async def _act(self, stream: ServerStream, plan: Plan) -> None:
        trailers = [("x-sum", "1")] if plan.trailers else []
        match plan.handler:
            case "echo":
                body = await stream.read()
                await stream.respond(200, body=body + PATTERN[: plan.download], trailers=trailers)
            case "answer early":
                await stream.respond(200, body=PATTERN[: plan.download], trailers=trailers)
                await stream.read()
            case "ignore":
                await stream.respond(200, body=PATTERN[: plan.download], trailers=trailers)
            case "hang":
                await asyncio.Event().wait()
            case "reset":
                await stream.read(100)
                stream.reset()
            case "leave":
                await stream.start_response(200)
                await stream.send(PATTERN[: plan.download])
            case "slow":
                await stream.start_response(200)
                async for _ in stream:
                    await asyncio.sleep(TICK)
                await stream.send(PATTERN[: plan.download])
                await stream.end(trailers)


def expected(plan: Plan) -> bytes:
    upload = PATTERN[: plan.upload] if plan.handler == "echo" else b""
    return upload + PATTERN[: plan.download]


async def ask(bench: Bench, number: int, plan: Plan) -> bytes:
    """The body of the answer."""
    await asyncio.sleep(plan.begins * TICK)
    body = PATTERN[: plan.upload]
    if plan.way == "request":
        outgoing = bench.outgoing("POST", f"/{number}", body=body, timeout=plan.timeout)
        return (await request(bench.route, outgoing)).body
    outgoing = bench.outgoing("POST", f"/{number}", body=None, timeout=plan.timeout)
    async with open_stream(bench.route, outgoing) as stream, asyncio.TaskGroup() as tasks:

        async def upload() -> None:
            await stream.send(body)
            await stream.end()

        tasks.create_task(upload())
        return await stream.read()


@asynccontextmanager
async def joined(house: House, chance: random.Random) -> AsyncIterator[Joint]:
    """A client and a server that know each other; left, when both have ended and nothing else is pending."""
    joint = Joint(Bench(limits=LIMITS), Bench(house.handle, limits=LIMITS), chance)
    carrier = asyncio.create_task(joint.carry())
    try:
        yield joint
    finally:
        async with asyncio.timeout(DEADLINE):
            await joint.client.actor.stop()
            await joint.server.actor.stop()
        carrier.cancel()
        await asyncio.wait((carrier,))
        await settle()


async def cancel_at(ticks: int | None, task: "asyncio.Task[bytes]") -> None:
    if ticks is not None:
        await asyncio.sleep(ticks * TICK)
        task.cancel()


async def hit_at(ticks: int | None, house: House, number: int) -> None:
    """Cancel a handler's task from outside, as a program may."""
    if ticks is not None:
        await asyncio.sleep(ticks * TICK)
        if task := house.running.get(number):
            task.cancel()


def judge(plan: Plan, result: bytes | BaseException, *, handled: bool, full: bool = False) -> None:
    """A result is the whole one; a failure is one error of ours, and its outcome is true (X1)."""
    if isinstance(result, bytes):
        assert result == expected(plan)
        return
    if isinstance(result, asyncio.CancelledError):
        assert plan.cancelled is not None or plan.handler == "hang" or full
        return
    errors = result.exceptions if isinstance(result, BaseExceptionGroup) else (result,)
    for error in errors:
        assert isinstance(error, LinkError), repr(error)
        assert isinstance(error.outcome, Outcome)
        assert not handled or error.outcome not in (Outcome.NOT_SENT, Outcome.UNPROCESSED), repr(error)
        if isinstance(error, StreamReset) and error.outcome is Outcome.UNPROCESSED:
            return  # sent before the server's limit was known
    causes = (plan.cancelled, plan.hit, plan.timeout) != (None, None, None)
    assert causes or plan.handler not in ("echo", "slow"), f"{plan} failed for nothing: {result!r}"


def _echo(upload: int, begins: int = 0) -> Plan:
    return Plan("request", upload, 0, "echo", False, begins, None, None, None)


@pytest.mark.bulk
@pytest.mark.virtual_time
@examples(40)
@given(drawn=st.lists(plans, min_size=1, max_size=8), seed=st.integers(0, 2**16))
@example(drawn=[*[_echo(0)] * 4, _echo(100_000)], seed=19)
@example(drawn=[*[_echo(0)] * 3, _echo(0, 1), _echo(100_000)], seed=19)
async def test_every_request_ends_with_its_result_or_one_error_and_leaves_nothing_behind(
    drawn: list[Plan], seed: int
) -> None:
    """S3, S10, X1, F4: callers and handlers are cancelled, streams reset, deadlines pass, at any moment."""
    house = House([*drawn, Plan("request", 0, 0, "hang", False, 0, None, None, None)])
    async with joined(house, random.Random(seed)) as joint:
        asking = [asyncio.create_task(ask(joint.client, number, plan)) for number, plan in enumerate(drawn)]
        async with asyncio.TaskGroup() as tasks:
            for number, plan in enumerate(drawn):
                tasks.create_task(cancel_at(plan.cancelled, asking[number]))
                tasks.create_task(hit_at(plan.hit, house, number))
            async with asyncio.timeout(DEADLINE):
                await unhang(house, asking)
        for number, (plan, task) in enumerate(zip(drawn, asking, strict=True)):
            result = asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()
            judge(plan, result, handled=number in house.seen, full=house.full)
        await asyncio.sleep(100 * TICK)
        await expect_nothing_left(joint)
        house.plans[-1] = Plan("stream", 100_000, 10, "slow", False, 0, None, None, None)
        await expect_all_windows(joint, len(drawn))
    for side in joint.resets:
        assert max(side.values(), default=0) <= 1


async def unhang(house: House, asking: list["asyncio.Task[bytes]"]) -> None:
    """Wait for all who ask; a handler that hangs is reset by its caller's cancellation, in the end.

    Those that hang may have every place that the server allows. And before the client knows how small a stream's window
    is, one may fill the connection's, which is as small here as it may be. Then others wait until they are reset.
    """
    _, pending = await asyncio.wait(asking, timeout=PATIENCE)
    stuck = [house.plans[number] for number, task in enumerate(asking) if task in pending]
    hangs = [plan for plan in stuck if plan.handler == "hang"]
    hoards = sum(plan.upload for plan in hangs) >= LIMITS.connection_window
    house.full = len(hangs) >= LIMITS.max_streams or hoards
    assert all(plan in hangs or house.full for plan in stuck), "a request hangs without a reason"
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)


async def expect_nothing_left(joint: Joint) -> None:
    for bench in (joint.client, joint.server):
        state = await get_state(bench.actor.ref)
        assert (state.status, state.children) == ("running", ())
        assert state.detail["open_streams"] == 0
        assert state.detail.get("waiting_for_a_slot", 0) == 0


async def expect_all_windows(joint: Joint, number: int) -> None:
    """Streams still open and end, and whoever reads at once has the whole window again."""
    joint.fullest = 0
    plan = Plan("stream", 100_000, 10, "slow", False, 0, None, None, None)
    async with asyncio.timeout(DEADLINE):
        assert await ask(joint.client, number, plan) == expected(plan)
    assert joint.fullest >= 65_535


@pytest.mark.bulk
@pytest.mark.virtual_time
@examples(40)
@given(
    drawn=st.lists(plans, min_size=1, max_size=8),
    seed=st.integers(0, 2**16),
    end=st.tuples(st.sampled_from(("client lost", "server lost", "client stops", "server stops")), st.integers(0, 60)),
)
async def test_every_request_ends_when_the_connection_does(drawn: list[Plan], seed: int, end: tuple[str, int]) -> None:
    """S3, L7, X1: the socket breaks or one side is stopped, at any moment: everyone gets one error, or the result."""
    house = House(drawn)
    how, ticks = end
    async with joined(house, random.Random(seed)) as joint:
        asking = [asyncio.create_task(ask(joint.client, number, plan)) for number, plan in enumerate(drawn)]
        await asyncio.sleep(ticks * TICK)
        bench = joint.client if how.startswith("client") else joint.server
        if how.endswith("lost"):
            bench.actor.tell(ConnectionLost(OSError("broken")))
            bench.socket.closing = True
        else:
            await bench.actor.stop()
        async with asyncio.timeout(DEADLINE):
            results = await asyncio.gather(*asking, return_exceptions=True)
        for plan, result in zip(drawn, results, strict=True):
            for error in result.exceptions if isinstance(result, BaseExceptionGroup) else (result,):
                assert isinstance(error, LinkError) or result == expected(plan), repr(error)
