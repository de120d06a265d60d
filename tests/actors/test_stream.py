"""A stream without a connection: facts are told by hand, and what it tells its connection is a list."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from attrs import define, field

from actors.commands import ConnectionMessage, EndStream, ResetStream, ReturnCredit, SendData
from actors.errors import Closed, ErrorCode, LimitReached, LinkError, Misuse, Outcome, StreamReset, TransportLost
from actors.headers import Headers
from actors.mailbox import Ref
from actors.messages import (
    DataArrived,
    DrainBegan,
    Exited,
    HeadersArrived,
    InformationalArrived,
    Opened,
    PeerReset,
    RoomMade,
    StreamFailed,
    TrailersArrived,
)
from actors.settings import Limits
from actors.stream import StreamActor
from actors.terms import Terms
from tests.support.sides import ANYWHERE, settle

HEAD = [(b":status", b"200")]
ROOM = 1000


@define
class Lent:
    """A client's stream whose body waits, so that the test's own tasks hold the stream."""

    actor: StreamActor
    told: list[ConnectionMessage]
    done: asyncio.Event = field(factory=asyncio.Event)
    exits: list[Exited] = field(factory=list)

    def sent(self) -> bytes:
        return b"".join(bytes(command.data) for command in self.told if isinstance(command, SendData))

    def credit(self) -> int:
        return sum(command.size for command in self.told if isinstance(command, ReturnCredit))

    def resets(self) -> list[int]:
        return [command.code for command in self.told if isinstance(command, ResetStream)]


@asynccontextmanager
async def lent(*, cancel_on_reset: bool = False) -> AsyncIterator[Lent]:
    told: list[ConnectionMessage] = []
    done = asyncio.Event()

    async def body(actor: StreamActor) -> None:
        await done.wait()

    actor = StreamActor(
        "the stream", Ref("connection", told.append), body, peer=ANYWHERE, terms=Terms(Limits(send_buffer=ROOM)),
        cancel_on_reset=cancel_on_reset,
    )  # fmt: skip
    stream = Lent(actor, told, done)
    actor.start(Ref("watcher", stream.exits.append))
    actor.tell(Opened(1))
    await settle(2)
    try:
        yield stream
    finally:
        done.set()
        await actor.wait()


async def test_what_arrived_before_the_reader_came_is_there() -> None:
    async with lent() as stream:
        stream.actor.tell(HeadersArrived(HEAD, False))
        stream.actor.tell(DataArrived(b"one", False))
        stream.actor.tell(DataArrived(b"two", True))
        assert await stream.actor.read(2) == b"on"
        rest = b""
        while piece := await stream.actor.read(100):
            rest += piece
        assert rest == b"etwo"
        assert await stream.actor.read(100) == b""
        assert stream.credit() == 6


async def test_reading_returns_credit_for_what_was_read_and_no_more() -> None:
    async with lent() as stream:
        stream.actor.tell(DataArrived(bytes(100), False))
        await stream.actor.read(30)
        assert stream.credit() == 30
        await stream.actor.read(1000)
        assert stream.credit() == 100


async def test_a_read_of_nothing_gives_nothing_and_waits_for_nothing() -> None:
    async with lent() as stream:
        assert await stream.actor.read(0) == b""


async def test_a_read_waits_for_data_and_the_end() -> None:
    async with lent() as stream, asyncio.TaskGroup() as tasks:
        whole = tasks.create_task(stream.actor.read_all(100))
        await settle()
        stream.actor.tell(DataArrived(b"one", False))
        await settle()
        assert not whole.done()
        stream.actor.tell(DataArrived(b"two", True))
        assert await whole == b"onetwo"


async def test_a_reset_after_part_of_the_body_never_looks_like_success() -> None:
    """S1: what came is given to a read of pieces; then, and for a read of everything at once, the error."""
    async with lent() as stream:
        stream.actor.tell(HeadersArrived(HEAD, False))
        stream.actor.tell(DataArrived(b"part", False))
        stream.actor.tell(PeerReset(ErrorCode.INTERNAL_ERROR))
        assert await stream.actor.read(100) == b"part"
        for _ in range(2):
            with pytest.raises(StreamReset) as caught:
                await stream.actor.read(100)
            assert (caught.value.code, caught.value.received) == (ErrorCode.INTERNAL_ERROR, 4)
            assert caught.value.outcome is Outcome.MAYBE_PROCESSED
            assert "INTERNAL_ERROR after 4 bytes" in str(caught.value)
        with pytest.raises(StreamReset):
            await stream.actor.read_trailers()

    async with lent() as stream:
        stream.actor.tell(DataArrived(b"part", False))
        stream.actor.tell(PeerReset(ErrorCode.CANCEL))
        with pytest.raises(StreamReset) as caught:
            await stream.actor.read_all(100)
        assert caught.value.received == 4


async def test_a_reader_that_waits_when_the_reset_comes_gets_it() -> None:
    """S1: for a read of everything that has begun already."""
    async with lent() as stream:
        reading = asyncio.create_task(stream.actor.read_all(100))
        await settle()
        stream.actor.tell(DataArrived(b"part", False))
        await settle()
        stream.actor.tell(PeerReset(ErrorCode.CANCEL))
        with pytest.raises(StreamReset) as caught:
            await reading
        assert (caught.value.code, caught.value.received) == (ErrorCode.CANCEL, 4)


async def test_a_reset_before_the_head_reaches_everyone_who_waits() -> None:
    """S2: each of many, whatever it waits for, gets the error."""
    async with lent() as stream:
        actor = stream.actor
        actor.room = 0
        waiting = [
            *[asyncio.create_task(actor.read_trailers()) for _ in range(10)],
            *[asyncio.create_task(actor.read(10)) for _ in range(10)],
            *[asyncio.create_task(actor.read_all(10)) for _ in range(10)],
            *[asyncio.create_task(actor.send(b"x")) for _ in range(10)],
        ]
        await settle()
        assert not [task for task in waiting if task.done()]
        actor.tell(PeerReset(ErrorCode.ENHANCE_YOUR_CALM))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [getattr(result, "code", result) for result in results] == [ErrorCode.ENHANCE_YOUR_CALM] * 40
        assert all(isinstance(result, StreamReset) for result in results)


async def test_a_cancelled_waiter_harms_no_other() -> None:
    """S3: of many that wait for the same things, the half that is cancelled takes nothing from the other half."""
    async with lent() as stream:
        actor = stream.actor
        heads = [asyncio.create_task(actor.until(lambda: actor.head is not None)) for _ in range(50)]
        trailers = [asyncio.create_task(actor.read_trailers()) for _ in range(50)]
        await settle()
        for task in (*heads[::2], *trailers[::2]):
            task.cancel()
        await settle()
        actor.tell(HeadersArrived(HEAD, False))
        actor.tell(TrailersArrived([(b"x", b"y")]))
        await asyncio.gather(*heads[1::2])
        assert await asyncio.gather(*trailers[1::2]) == [Headers([("x", "y")])] * 25
        assert all(task.cancelled() for task in (*heads[::2], *trailers[::2]))
        assert stream.resets() == []


async def test_a_waiter_cancelled_as_its_answer_comes_harms_no_other() -> None:
    """S3: in the same turn, in either order."""
    async with lent() as stream:
        actor = stream.actor
        tasks = [asyncio.create_task(actor.read_trailers()) for _ in range(3)]
        await settle()
        tasks[0].cancel()
        actor.tell(DataArrived(b"", True))
        tasks[1].cancel()
        assert await tasks[2] == Headers()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert stream.actor.detail()["waiters"] == 0


async def test_a_cancelled_read_to_the_end_loses_nothing() -> None:
    """S1 and S3: whoever reads after it gets the whole body, not the rest of it as if that were all."""
    async with lent() as stream:
        first = asyncio.create_task(stream.actor.read_all(100))
        await settle()
        stream.actor.tell(DataArrived(b"one", False))
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        stream.actor.tell(DataArrived(b"two", True))
        assert await stream.actor.read_all(100) == b"onetwo"


async def test_a_reader_that_finds_nothing_left_goes_on_waiting() -> None:
    """Two readers and one piece of data: to one of them the stream has not ended."""
    async with lent() as stream:
        readers = [asyncio.create_task(stream.actor.read(10)) for _ in range(2)]
        await settle()
        stream.actor.tell(DataArrived(b"one", False))
        await settle()
        assert [task.done() for task in readers].count(True) == 1, "the end was reported before it came"
        stream.actor.tell(DataArrived(b"two", False))
        assert sorted(await asyncio.gather(*readers)) == [b"one", b"two"]


async def test_a_body_larger_than_the_caller_allows_is_refused_and_never_given_in_part() -> None:
    async with lent() as stream:
        stream.actor.tell(DataArrived(bytes(60), False))
        stream.actor.tell(DataArrived(bytes(60), False))
        with pytest.raises(LimitReached, match="max_body, 100 bytes"):
            await stream.actor.read_all(100)
        stream.actor.tell(DataArrived(bytes(60), True))
        with pytest.raises(LimitReached):
            await stream.actor.read_all(100)


async def test_a_body_exactly_as_large_as_the_caller_allows_is_given() -> None:
    async with lent() as stream:
        stream.actor.tell(DataArrived(bytes(100), True))
        assert await stream.actor.read_all(100) == bytes(100)


async def test_absent_trailers_are_empty_headers() -> None:
    """S8: of the same type as present ones, whichever way the peer ended."""
    for last in (DataArrived(b"", True), DataArrived(b"x", True), HeadersArrived(HEAD, True)):
        async with lent() as stream:
            stream.actor.tell(last)
            absent = await stream.actor.read_trailers()
            assert type(absent) is Headers
            assert (len(absent), "x" in absent) == (0, False)
    async with lent() as stream:
        stream.actor.tell(TrailersArrived([(b"x", b"y")]))
        present = await stream.actor.read_trailers()
        assert type(present) is Headers
        assert present["x"] == "y"


async def test_informational_heads_are_kept_apart_from_the_final_one() -> None:
    async with lent() as stream:
        stream.actor.tell(InformationalArrived([(b":status", b"103")]))
        assert stream.actor.head is None
        stream.actor.tell(HeadersArrived(HEAD, False))
        assert stream.actor.informational == [[(b":status", b"103")]]
        heads: list[object] = [stream.actor.head]
        assert heads == [HEAD]


# --- sending ----------------------------------------------------------------------------------------------------------


async def test_a_send_returns_at_once_while_there_is_room_and_then_waits_for_it() -> None:
    async with lent() as stream:
        await stream.actor.send(bytes(ROOM))
        more = asyncio.create_task(stream.actor.send(b"more"))
        await settle()
        assert not more.done()
        assert stream.sent() == bytes(ROOM)
        stream.actor.tell(RoomMade(3))
        await settle()
        assert not more.done()
        assert stream.sent() == bytes(ROOM) + b"mor"
        stream.actor.tell(RoomMade(1))
        await more
        assert stream.sent() == bytes(ROOM) + b"more"


@pytest.mark.parametrize("size", [1, 700, 2500])
async def test_fifty_tasks_send_at_once_and_every_byte_goes_within_the_room(size: int) -> None:
    async with lent() as stream:
        senders = [asyncio.create_task(stream.actor.send(bytes([number]) * size)) for number in range(50)]
        taken = 0
        for _ in range(1000):
            await settle(3)
            assert len(stream.sent()) - taken <= ROOM
            if all(task.done() for task in senders):
                break
            grown = min(333, len(stream.sent()) - taken)
            assert grown, "all wait, and nothing is queued"
            taken += grown
            stream.actor.tell(RoomMade(grown))
        await asyncio.gather(*senders)
        sent = stream.sent()
        assert [sent.count(number) for number in range(50)] == [size] * 50
        assert all(command.data for command in stream.told if isinstance(command, SendData))


async def test_one_of_fifty_senders_that_is_cancelled_takes_no_other_with_it() -> None:
    """S3: those that have not begun are not harmed by one that has not begun either."""
    async with lent() as stream:
        stream.actor.room = 0
        senders = [asyncio.create_task(stream.actor.send(bytes([number]) * 10)) for number in range(50)]
        await settle()
        for task in senders[::2]:
            task.cancel()
        await settle()
        stream.actor.tell(RoomMade(500))
        await asyncio.gather(*senders[1::2])
        assert sorted(stream.sent()) == sorted(bytes(range(1, 50, 2)) * 10)
        assert stream.actor.error is None


async def test_an_upload_that_is_cancelled_halfway_resets_the_stream_with_cancel() -> None:
    """S3: else a later end() would make half a body look whole to the peer."""
    async with lent() as stream:
        upload = asyncio.create_task(stream.actor.send(bytes(3 * ROOM)))
        await settle()
        assert len(stream.sent()) == ROOM
        upload.cancel()
        await settle()
        assert upload.cancelled()
        assert stream.resets() == [ErrorCode.CANCEL]
        with pytest.raises(LinkError):
            stream.actor.end([])


async def test_a_buffer_may_change_once_send_has_returned() -> None:
    async with lent() as stream:
        buffer = bytearray(b"before")
        await stream.actor.send(buffer)
        await stream.actor.send(memoryview(buffer))
        buffer[:] = b"after!"
        assert stream.sent() == b"beforebefore"


async def test_a_sender_that_waits_learns_that_the_stream_was_reset() -> None:
    async with lent() as stream:
        upload = asyncio.create_task(stream.actor.send(bytes(3 * ROOM)))
        await settle()
        stream.actor.tell(PeerReset(ErrorCode.CANCEL))
        with pytest.raises(StreamReset):
            await upload
        with pytest.raises(StreamReset):
            await stream.actor.send(b"x")


async def test_a_sender_that_waits_learns_that_the_peer_has_answered_and_wants_no_more() -> None:
    async with lent() as stream:
        upload = asyncio.create_task(stream.actor.send(bytes(3 * ROOM)))
        await settle()
        stream.actor.tell(HeadersArrived(HEAD, False))
        stream.actor.tell(DataArrived(b"no more", True))
        stream.actor.tell(PeerReset(ErrorCode.NO_ERROR))
        with pytest.raises(StreamReset) as caught:
            await upload
        assert caught.value.code == ErrorCode.NO_ERROR
        assert await stream.actor.read_all(100) == b"no more"
        assert stream.actor.error is None


async def test_a_reset_with_no_error_before_the_whole_answer_is_still_an_error() -> None:
    """S1: the code says nothing about the body being whole."""
    async with lent() as stream:
        stream.actor.tell(HeadersArrived(HEAD, False))
        stream.actor.tell(DataArrived(b"part", False))
        stream.actor.tell(PeerReset(ErrorCode.NO_ERROR))
        with pytest.raises(StreamReset):
            await stream.actor.read_all(100)


async def test_nothing_can_be_sent_behind_the_end() -> None:
    async with lent() as stream:
        await stream.actor.send(b"all")
        stream.actor.end([(b"x", b"y")])
        for again in (b"", b"more"):
            with pytest.raises(Misuse, match="has ended"):
                await stream.actor.send(again)
        with pytest.raises(Misuse, match="has ended"):
            stream.actor.end([])
        assert [command for command in stream.told if isinstance(command, EndStream)] == [EndStream(1, [(b"x", b"y")])]


async def test_a_sender_that_waits_learns_that_another_task_has_ended_the_stream() -> None:
    async with lent() as stream:
        upload = asyncio.create_task(stream.actor.send(bytes(3 * ROOM)))
        await settle()
        stream.actor.end([])
        stream.actor.tell(RoomMade(ROOM))
        with pytest.raises(Misuse, match="has ended"):
            await upload


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_everyone_who_waits_is_told_when_the_stream_fails() -> None:
    """L7: by one typed error, which stays the first one."""
    async with lent() as stream:
        actor = stream.actor
        waiting = [asyncio.create_task(actor.read(1)) for _ in range(50)]
        await settle()
        cause = OSError("cable")
        actor.tell(StreamFailed(TransportLost.because("the connection broke: cable", cause)))
        actor.tell(StreamFailed(Closed("later")))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, TransportLost) and result.__cause__ is cause for result in results)
        await actor.wait()
        assert stream.exits[0].reason is actor.error
        assert not stream.exits[0].crashed


async def test_a_reset_of_ours_wakes_everyone_and_is_said_once() -> None:
    """S10: the stream's part."""
    async with lent() as stream:
        waiting = [asyncio.create_task(stream.actor.read(1)) for _ in range(5)]
        await settle()
        stream.actor.reset(ErrorCode.CANCEL)
        stream.actor.reset(ErrorCode.INTERNAL_ERROR)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, Closed) for result in results)
        stream.actor.tell(PeerReset(ErrorCode.STREAM_CLOSED))
        stream.actor.tell(DataArrived(b"late", False))
        stream.actor.reset(ErrorCode.CANCEL)
        assert stream.resets() == [ErrorCode.CANCEL]
        assert isinstance(stream.actor.error, Closed)


async def test_a_stream_that_is_over_is_not_reset() -> None:
    async with lent() as stream:
        stream.actor.tell(DataArrived(b"all", True))
        stream.actor.end([])
        stream.actor.reset(ErrorCode.CANCEL)
        assert stream.resets() == []
        assert await stream.actor.read_all(10) == b"all"


async def test_whoever_waits_when_the_body_ends_is_told() -> None:
    async with lent() as stream:
        waiting = asyncio.create_task(stream.actor.read(1))
        await settle()
        stream.done.set()
        with pytest.raises(Closed, match="the stream has ended"):
            await waiting
        assert stream.actor.tell(DataArrived(b"late", False)) is False


async def test_a_peers_reset_cancels_a_servers_body_with_the_cause_set_down_before() -> None:
    """S6: the stream's part."""
    seen: list[LinkError | None] = []
    began = asyncio.Event()

    async def body(actor: StreamActor) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(actor.error)
            raise

    told: list[ConnectionMessage] = []
    actor = StreamActor(
        "stream",
        Ref("connection", told.append),
        body,
        peer=ANYWHERE,
        terms=Terms(Limits()),
        stream_id=1,
        cancel_on_reset=True,
    )
    actor.start()
    await began.wait()
    actor.tell(PeerReset(ErrorCode.CANCEL))
    exited = await actor.wait()
    assert isinstance(seen[0], StreamReset)
    assert exited.reason is seen[0]
    assert not exited.crashed


async def test_a_drain_is_seen_by_those_who_wait_for_it() -> None:
    async with lent() as stream:
        waiting = asyncio.create_task(stream.actor.until(lambda: stream.actor.draining))
        await settle()
        assert not waiting.done()
        stream.actor.tell(DrainBegan())
        await waiting


async def test_two_who_wait_for_the_same_each_check_for_themselves() -> None:
    """Whoever comes second finds that the first has taken it, and goes on waiting."""
    async with lent() as stream:
        actor = stream.actor
        actor.room = 0
        senders = [asyncio.create_task(actor.send(bytes(10))) for _ in range(2)]
        await settle()
        actor.tell(RoomMade(10))
        await settle()
        assert len(stream.sent()) == 10
        assert [task.done() for task in senders].count(True) == 1
        actor.tell(RoomMade(10))
        await asyncio.gather(*senders)
