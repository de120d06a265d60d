"""Health and age of connections: silence, PING, suspicion and death, on both sides, and clients that ask too often."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from actors.addresses import Endpoint
from actors.bodies import request
from actors.client import ClientConnection
from actors.errors import Closed, GoAway, Outcome, PingTimeout
from actors.exchange import Response
from actors.mailbox import Ref, Reply
from actors.messages import (
    ChangeLimits,
    ConnectionAlive,
    ConnectionDraining,
    ConnectionNews,
    ConnectionReady,
    ConnectionSuspect,
    Drain,
    PeerAllows,
    Resume,
    SendPing,
    StreamsCut,
    Suspend,
    WritePaused,
    WriteResumed,
)
from actors.patience import Wait
from actors.server_stream import Handler, ServerStream
from actors.settings import Health, Limits
from actors.transport import set_user_timeout
from supervisor.health import PingMonitor
from tests.support import frames
from tests.support.clock import JumpingLoop
from tests.support.frames import (
    Code,
    Flag,
    Frame,
    RawPeer,
    Setting,
    Type,
    encode,
    goaway,
    headers,
    ping,
)
from tests.support.sides import ANYWHERE, Bench, FakeSocket, dial, settle

GET: Final = encode(frames.request())
HEALTH: Final = Health(interval=100.0, timeout=10.0, suspect=0.5)


async def hold(stream: ServerStream) -> None:
    await asyncio.Event().wait()


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


class Watched(Bench):
    """A bench whose connection has its health watched."""

    def __init__(
        self, handler: Handler | None = None, *, health: Health = HEALTH, limits: Limits | None = None
    ) -> None:
        super().__init__(handler, limits=limits, health=health)

    def asked(self) -> list[bytes]:
        """The data of the PINGs that were sent since the last call."""
        return questions(self.says())

    def health(self) -> list[ConnectionSuspect | ConnectionAlive]:
        """What the owner was told of the peer's health."""
        return [each for each in self.news if isinstance(each, ConnectionSuspect | ConnectionAlive)]

    def ask(self) -> Reply[float]:
        reply: Reply[float] = Reply()
        self.actor.tell(SendPing(reply))
        return reply

    def requests(self, count: int = 1) -> list[asyncio.Task[Response]]:
        return [asyncio.create_task(request(self.route, self.outgoing())) for _ in range(count)]

    async def dies(self) -> PingTimeout:
        """Wait until the connection has ended, for want of life."""
        reason = (await self.actor.wait()).reason
        assert isinstance(reason, PingTimeout)
        return reason


def questions(said: list[Frame]) -> list[bytes]:
    return [each.payload for each in said if each.type == Type.PING and not each.has(Flag.ACK)]


def now() -> float:
    return asyncio.get_running_loop().time()


def alive(seconds: Any) -> ConnectionAlive:
    """The news; ``seconds`` may be approximate."""
    return ConnectionAlive("connection", seconds)


SUSPECT: Final = ConnectionSuspect("connection")


# --- a client that asks ---------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_silence_on_open_streams_brings_exactly_one_ping_that_all_who_wait_share() -> None:
    """H1: after the interval; its round trip is told to the owner and to everyone who asked meanwhile."""
    async with Watched() as bench:
        requests = bench.requests(3)
        await asyncio.sleep(99.9)
        assert bench.asked() == []
        await asyncio.sleep(0.2)
        waiting = [bench.ask() for _ in range(50)]
        await asyncio.sleep(0.1)
        (question,) = bench.asked()
        await bench.hears(ping(question, ack=True))
        assert {round(await each.wait(), 6) for each in waiting} == {0.2}
        assert bench.health() == [alive(pytest.approx(0.2))]
        assert bench.actor.round_trips.last == pytest.approx(0.2)
        await asyncio.sleep(99)
        assert bench.asked() == []
        await asyncio.sleep(2)
        assert len(bench.asked()) == 1
    await asyncio.gather(*requests, return_exceptions=True)


@pytest.mark.virtual_time
async def test_a_connection_that_hears_something_asks_nothing() -> None:
    """H1: whatever it is, as long as it comes within the interval."""
    async with Watched() as bench:
        (asking,) = bench.requests()
        hint = headers(1, encode(frames.response(103)))
        for said in (frames.window_update(0, 1), ping(), frames.settings(), hint) * 3:
            await asyncio.sleep(99)
            await bench.hears(said)
        assert bench.asked() == []
        assert bench.health() == []
    with pytest.raises(Closed):
        await asking


@pytest.mark.virtual_time
async def test_an_idle_connection_asks_nothing_until_its_next_stream_is_silent() -> None:
    """H1: for days; and a stream that begins then has its whole interval."""
    async with Watched() as bench:
        (first,) = bench.requests()
        await settle()
        await bench.hears(headers(1, encode(frames.response(204)), end_stream=True))
        await first
        await asyncio.sleep(200_000)
        assert bench.asked() == []
        (second,) = bench.requests()
        await asyncio.sleep(99)
        assert bench.asked() == []
        await asyncio.sleep(2)
        assert len(bench.asked()) == 1
    with pytest.raises(Closed):
        await second


@pytest.mark.virtual_time
async def test_an_idle_connection_asks_where_that_is_wanted() -> None:
    """H1: Health.fast()."""
    async with Watched(health=Health.fast()) as bench:
        for _ in range(5):
            await asyncio.sleep(10.1)
            (question,) = bench.asked()
            await bench.hears(ping(question, ack=True))
        assert (await bench.dies()).outcome is Outcome.NOT_SENT


@pytest.mark.virtual_time
async def test_the_first_round_trip_is_that_of_the_settings() -> None:
    """H1: known before any PING."""
    bench = Watched()
    await asyncio.sleep(0.125)
    await bench.hears(frames.settings())
    assert not bench.actor.round_trips.seconds
    await asyncio.sleep(0.125)
    await bench.hears(frames.settings(ack=True))
    assert bench.actor.round_trips.last == 0.25
    bench.ask()
    await asyncio.sleep(0.5)
    await bench.hears(ping(bench.asked()[-1], ack=True))
    assert list(bench.actor.round_trips.seconds) == [0.25, 0.5]
    await bench.actor.stop()


# --- suspicion and death --------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_black_holed_connection_is_dead_in_time_and_every_stream_is_told() -> None:
    """H2: within interval + timeout + 10 %, with one typed error; and its socket is not closed politely."""
    async with Watched() as bench:
        bench.socket.stuck = True
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 100}))
        requests = bench.requests(150)
        await settle()
        await bench.hears(headers(1, encode(frames.response(200))))
        waiting = bench.ask
        began = now()
        bench.says()
        errors = await asyncio.gather(*requests, return_exceptions=True)
        assert 110 <= now() - began <= 110 * 1.1
        assert all(isinstance(each, PingTimeout) for each in errors)
        sent = [each.outcome for each in errors if isinstance(each, PingTimeout)]
        assert sent == [Outcome.MAYBE_PROCESSED] * 100 + [Outcome.NOT_SENT] * 50
        message = str(errors[0])
        assert all(part in message for part in (ANYWHERE.address, "110 s", "10 s", "Health.timeout"))
        assert bench.socket.aborted
        assert [each.type for each in bench.says()] == [Type.PING]
        assert bench.health() == [SUSPECT]
        await bench.dies()
        with pytest.raises(PingTimeout):
            await waiting().wait()


@pytest.mark.virtual_time
async def test_whoever_asks_an_idle_connection_that_is_dead_is_told_so() -> None:
    """H2, H7: a suspicion after half a second, the end after ten."""
    async with Watched() as bench:
        await asyncio.sleep(1)
        stall(30)  # of before the question: it puts nothing off
        await asyncio.sleep(1)
        waiting = [bench.ask() for _ in range(3)]
        await asyncio.sleep(0.49)
        assert bench.health() == []
        await asyncio.sleep(0.02)
        assert bench.health() == [SUSPECT]
        assert bench.actor.measure(now()).state == "suspect"
        await asyncio.sleep(9.4)
        assert bench.actor.exited is None
        await asyncio.sleep(0.2)
        for each in waiting:
            with pytest.raises(PingTimeout):
                await each.wait()
        assert bench.health() == [SUSPECT]


@pytest.mark.virtual_time
async def test_a_suspect_that_says_anything_is_alive() -> None:
    """H7: told once for the byte, and once more for the answer; then it is not suspect any more."""
    async with Watched() as bench:
        bench.ask()
        await asyncio.sleep(3)
        await bench.hears(frames.window_update(0, 1))
        await bench.hears(frames.window_update(0, 1))
        assert bench.health() == [SUSPECT, alive(None)]
        assert bench.actor.measure(now()).state == "ready"
        await asyncio.sleep(9)
        await bench.hears(ping(bench.asked()[0], ack=True))
        assert bench.health()[2:] == [alive(pytest.approx(12.0))]
        await asyncio.sleep(1000)
        assert bench.actor.exited is None


@pytest.mark.virtual_time
async def test_the_answer_of_a_suspect_is_told_as_one() -> None:
    """H7: with its round trip, and nothing else."""
    async with Watched() as bench:
        bench.ask()
        await asyncio.sleep(3)
        await bench.hears(ping(bench.asked()[0], ack=True))
        assert bench.health() == [SUSPECT, alive(3.0)]


@pytest.mark.virtual_time
async def test_a_byte_that_is_no_answer_saves_nobody_who_is_silent_after_it() -> None:
    """H2: what was on its way when the peer died does not leave those who asked waiting for ever."""
    async with Watched() as bench:
        waiting = bench.ask()
        await asyncio.sleep(0.1)
        await bench.hears(frames.window_update(0, 1))
        with pytest.raises(PingTimeout):
            await waiting.wait()
        assert now() == pytest.approx(10.1, abs=0.1)


@pytest.mark.virtual_time
async def test_a_peer_that_answers_no_ping_and_speaks_now_and_then_lives() -> None:
    """H2: any byte is life."""
    async with Watched() as bench:
        (asking,) = bench.requests()
        bench.ask()
        for _ in range(30):
            await asyncio.sleep(9)
            await bench.hears(frames.window_update(0, 1))
        assert bench.actor.exited is None
    with pytest.raises(Closed):
        await asking


@pytest.mark.virtual_time
async def test_a_peer_that_takes_slowly_what_is_before_the_ping_is_not_dead() -> None:
    """H2: as long as it takes something; once it takes nothing, its time runs."""
    async with Watched() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing("POST", body=bytes(60_000))))
        await settle()
        bench.socket.unsent = 60_000
        bench.ask()
        for _ in range(100):
            await asyncio.sleep(0.2)
            bench.socket.unsent -= 100
        assert bench.actor.exited is None
        assert bench.health() == []
        began = now()
        with pytest.raises(PingTimeout):
            await asking
        assert now() - began == pytest.approx(10.0, abs=1.1)


# --- our own fault --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dialled(*, health: Health = HEALTH) -> AsyncIterator[tuple[ClientConnection, RawPeer, list[ConnectionNews]]]:
    """A connection of ours over a real socket to a raw peer, after the handshake."""
    news: list[ConnectionNews] = []
    async with RawPeer.listen() as listener:
        connected = await dial(Endpoint("127.0.0.1", listener.port))
        peer = await listener.accept()
        connection = ClientConnection(
            "connection", connected.transport, peer=connected.peer, limits=Limits(), owner=Ref("owner", news.append),
            monitor=PingMonitor(health),
        )  # fmt: skip
        connected.attach(connection.start())
        await peer.handshake()
        await peer.barrier()
        yield connection, peer, news
        await connection.stop()


def stall(seconds: float) -> None:
    """Have the loop stand still: time passes in which it calls nothing and hears nobody."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop._now += seconds


@pytest.mark.virtual_time
@pytest.mark.parametrize("after", [0.0, 0.1, 0.3, 2.0, 9.5])
async def test_a_stall_of_ours_kills_no_peer_whose_answer_waits_in_the_socket(after: float) -> None:
    """H4: 30 s, wherever they fall between the PING and its deadline; the peer answered while we stood still."""
    async with dialled() as (connection, peer, news):
        reply: Reply[float] = Reply()
        connection.tell(SendPing(reply))
        question = await peer.expect(Type.PING, where=lambda each: not each.has(Flag.ACK))
        await asyncio.sleep(after)
        peer.send(ping(question.payload, ack=True))
        stall(30)
        assert await reply.wait() == pytest.approx(30 + after, abs=1)
        assert connection.exited is None
        suspected = [ConnectionSuspect("connection")] if after > 0.5 else []
        assert [each for each in news if isinstance(each, ConnectionSuspect)] == suspected


@pytest.mark.virtual_time
@pytest.mark.parametrize("after", [0.0, 0.1, 0.3, 2.0, 8.5])
async def test_a_peer_that_answers_soon_after_a_stall_lives(after: float) -> None:
    """H4: as when the whole machine slept, and what the peer said is still on its way; or it never comes."""
    for answers in (True, False):
        async with Watched() as bench:
            waiting = bench.ask()
            await asyncio.sleep(after)
            began = now()
            stall(30)
            await asyncio.sleep(0.1)
            assert bench.actor.exited is None
            assert (SUSPECT in bench.health()) is (after >= 0.25)
            if answers:
                await bench.hears(ping(bench.asked()[0], ack=True))
                assert await waiting.wait() == pytest.approx(30.1 + after)
            else:
                await bench.dies()
                assert now() - began == pytest.approx(30 + 10 - after, abs=1.1)


@pytest.mark.virtual_time
async def test_a_stall_before_any_ping_brings_one_and_no_end() -> None:
    """H4: with an interval that is shorter than the stall."""
    async with Watched(health=Health.fast()) as bench:
        await asyncio.sleep(5)
        stall(30)
        await asyncio.sleep(0.1)
        assert bench.health() == []
        await bench.hears(ping(bench.asked()[0], ack=True))
        await asyncio.sleep(9)
        assert bench.actor.exited is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("after", [0.1, 2.0])
async def test_no_peer_dies_while_the_connection_is_suspended(after: float) -> None:
    """H4, R9: the answer is read only afterwards; and where it never came, the rest of the time runs then."""
    for answers in (True, False):
        async with Watched() as bench:
            waiting = bench.ask()
            await asyncio.sleep(after)
            (question,) = bench.asked()
            bench.actor.signal(Suspend())
            await asyncio.sleep(1000)
            bench.actor.signal(Resume())
            await asyncio.sleep(0.01)
            assert bench.actor.exited is None
            assert (SUSPECT in bench.health()) is (after >= 0.5)
            if answers:
                await bench.hears(ping(question, ack=True))
                await waiting.wait()
                continue
            began = now()
            await bench.dies()
            assert now() - began == pytest.approx(10 - after, abs=1.1)


@pytest.mark.virtual_time
async def test_no_peer_dies_while_we_do_not_read_it() -> None:
    """H4: it sends what needs answers and reads none, so its answer to a PING waits, too."""
    async with Watched(limits=Limits(write_timeout=10_000)) as bench:
        await asyncio.sleep(1)
        bench.actor.tell(WritePaused())
        bench.socket.unsent = 2 << 20
        waiting = bench.ask()
        await settle()
        assert not bench.socket.reading
        await asyncio.sleep(100)
        assert bench.actor.exited is None
        assert bench.health() == []
        bench.socket.unsent = 0
        bench.actor.tell(WriteResumed())
        await bench.hears(ping(bench.asked()[0], ack=True))
        await waiting.wait()


# --- a server -------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_black_holed_clients_handlers_are_cancelled_in_time() -> None:
    """H6: within interval + timeout."""
    cancelled: list[float] = []

    async def handler(stream: ServerStream) -> None:
        try:
            await hold(stream)
        finally:
            cancelled.append(now())

    async with Watched(handler) as bench:
        await asyncio.sleep(500)
        began = now()
        await bench.hears(headers(1, GET, end_stream=True) + headers(3, GET, end_stream=True))
        assert "Health.timeout" in str(await bench.dies())
        assert cancelled == [pytest.approx(began + 110, abs=0.5)] * 2
        assert bench.socket.aborted
        assert Type.GOAWAY not in [each.type for each in bench.says()]


@pytest.mark.virtual_time
async def test_a_client_that_answers_keeps_its_handlers() -> None:
    """H6: for as long as it does; without streams it is not asked."""
    async with Watched(answer) as idle, Watched(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        await idle.hears(headers(1, GET, end_stream=True))
        for _ in range(20):
            await asyncio.sleep(100.2)
            for question in bench.asked():
                await bench.hears(ping(question, ack=True))
        assert bench.actor.exited is None
        assert len(bench.health()) == 20
        assert idle.asked() == []


@pytest.mark.virtual_time
async def test_a_client_that_dies_in_a_drain_is_not_waited_for() -> None:
    """H6, G3: the drain's PING is watched like any other."""
    async with Watched(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        bench.actor.tell(Drain(1000.0, Closed("the server was closed")))
        began = now()
        await bench.dies()
        assert now() - began == pytest.approx(10, abs=0.5)


# --- too many PINGs -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_client_that_asks_too_often_is_told_exactly_what_grpc_looks_for() -> None:
    """H3, H5: GOAWAY(ENHANCE_YOUR_CALM, "too_many_pings") for the fourth PING within ten seconds."""
    async with Watched(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        await bench.hears(ping() * 3)
        assert [each.type for each in bench.says()] == [Type.PING] * 3
        await asyncio.sleep(9)
        await bench.hears(ping())
        (goodbye,) = bench.says()
        assert (goodbye.type, goodbye.code) == (Type.GOAWAY, Code.ENHANCE_YOUR_CALM)
        assert goodbye.payload[8:] == b"too_many_pings"
        reason = (await bench.actor.wait()).reason
        assert all(part in str(reason) for part in (ANYWHERE.address, "Health.least_ping_interval"))


@pytest.mark.virtual_time
async def test_another_violation_still_says_what_it_was() -> None:
    """H3: a client that asks in time, and breaks HTTP/2."""
    async with Watched(hold) as bench:
        await bench.hears(ping() * 3 + ping(b"short"))
        assert b"too_many" not in bench.says()[-1].payload


@pytest.mark.virtual_time
@pytest.mark.parametrize("body", [b"", b"some", bytes(200_000)])
async def test_what_is_sent_to_a_client_forgives_its_pings(body: bytes) -> None:
    """H5: HEADERS alone, and each DATA: a gRPC client asks at each for its bandwidth's sake."""
    go = asyncio.Semaphore(0)

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        while True:
            await go.acquire()
            await stream.send(body)

    async with Watched(handler) as bench:
        await bench.hears(frames.window_update(0, 2**24) + ping() * 3)
        await bench.hears(headers(1, GET, end_stream=True) + frames.window_update(1, 2**24))
        await bench.hears(ping() * 3)
        for _ in range(10 if body else 0):
            go.release()
            await settle()
            await bench.hears(ping() * 3)
        assert bench.actor.exited is None
        await bench.hears(ping())
        assert bench.says()[-1].code == Code.ENHANCE_YOUR_CALM


@pytest.mark.virtual_time
@pytest.mark.parametrize("trailers", [[], [("trailer", "last")]])
async def test_an_end_without_a_body_forgives_pings_too(trailers: list[tuple[str, str]]) -> None:
    """H5: long after the head."""
    go = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await go.wait()
        await stream.end(trailers)

    async with Watched(handler) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        await bench.hears(ping() * 3)
        go.set()
        await settle()
        await bench.hears(ping() * 3)
        assert bench.actor.exited is None


@pytest.mark.virtual_time
async def test_a_dry_run_reports_too_many_pings_once(caplog: pytest.LogCaptureFixture) -> None:
    """H3: and answers them."""
    async with Watched(hold, limits=Limits(dry_run=True)) as bench:
        await bench.hears(ping() * 50)
        assert len([each for each in bench.says() if each.type == Type.PING]) == 50
        assert [each.getMessage() for each in caplog.records if "Health.least_ping_interval" in each.getMessage()] == [
            each.getMessage() for each in caplog.records
        ]
        assert len(caplog.records) == 1


@pytest.mark.virtual_time
async def test_a_server_may_ask_its_client_as_often_as_it_likes() -> None:
    """H5: only servers keep a door."""
    async with Watched() as bench:
        await bench.hears(ping() * 100)
        assert bench.actor.exited is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("drains", [False, True])
async def test_the_owner_of_a_client_sees_that_it_asked_too_often(drains: bool) -> None:
    """H3: by code and debug data, also where the server said GOAWAY before."""
    async with Watched() as bench:
        (asking,) = bench.requests()
        await settle()
        if drains:
            await bench.hears(goaway(2**31 - 1))
        await bench.hears(goaway(0, Code.ENHANCE_YOUR_CALM, b"too_many_pings"))
        told = [each.reason for each in bench.news if isinstance(each, ConnectionDraining)]
        assert isinstance(told[-1], GoAway)
        assert (told[-1].code, told[-1].debug) == (Code.ENHANCE_YOUR_CALM, b"too_many_pings")
        with pytest.raises(GoAway):
            await asking


# --- what the peer allows -------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_owner_hears_of_each_change_of_the_peers_limit() -> None:
    """X1: the first is part of being ready; the same again is no change."""
    bench = Watched()
    for most in (7, 7, 3, 3, 9):
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: most}))
    await bench.hears(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1}))
    assert bench.news == [
        ConnectionReady("connection", 7), PeerAllows("connection", 3), PeerAllows("connection", 9)
    ]  # fmt: skip
    await bench.actor.stop()


# --- age ------------------------------------------------------------------------------------------------------------

OLD: Final = Limits(max_connection_age=1000.0)


@pytest.mark.virtual_time
async def test_a_server_drains_in_two_steps_when_a_connection_is_old() -> None:
    """G3: with all the time that its streams need; within 10 % of the age, which nobody can foretell."""
    ages = []
    for _ in range(5):
        async with Bench(hold, limits=OLD) as bench:
            await bench.hears(headers(1, GET, end_stream=True))
            began = now()
            await asyncio.sleep(899)
            for _ in range(203):
                await asyncio.sleep(1)
                if said := bench.says():
                    break
            ages.append(now() - began)
            assert [(each.type, each.last_stream_id) for each in said[:1]] == [(Type.GOAWAY, 2**31 - 1)]
            assert said[0].payload[4:] == bytes(4) + b"max_age"
            await bench.hears(ping(questions(said)[0], ack=True))
            assert [(each.type, each.last_stream_id) for each in bench.says()] == [(Type.GOAWAY, 1)]
            await asyncio.sleep(10_000)
            assert bench.actor.exited is None
            bench.actor.tell(Drain(2.0, Closed("the server was closed")))
            await asyncio.sleep(1.9)
            assert bench.actor.exited is None
            await asyncio.sleep(0.2)
            assert [each.streams for each in bench.news if isinstance(each, StreamsCut)] == [("connection/stream-1",)]
            assert "max_connection_age" in str((await bench.actor.wait()).reason)
    assert 899 <= min(ages) < max(ages) <= 1101


@pytest.mark.virtual_time
async def test_an_old_connection_without_streams_just_ends() -> None:
    """G3: on either side."""
    limits = Limits(max_connection_age=1000.0, idle_timeout=10_000)
    async with Watched(answer, limits=limits) as server, Watched(limits=limits) as client:
        for bench in (server, client):
            ended = await bench.actor.wait()
            assert isinstance(ended.reason, Closed)
            assert not ended.crashed
            assert Type.GOAWAY in [each.type for each in bench.says()]
        assert 900 <= now() <= 1102


@pytest.mark.virtual_time
async def test_an_old_client_takes_no_new_streams_and_ends_with_its_last() -> None:
    """G6's manner: its owner makes another; what waited for a slot was never sent."""
    async with Watched(limits=OLD) as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 2}))
        asking = bench.requests(3)
        for _ in range(23):
            await asyncio.sleep(50)
            await bench.hears(frames.window_update(0, 1))
        (told,) = [each for each in bench.news if isinstance(each, ConnectionDraining)]
        assert isinstance(told.reason, Closed)
        assert "Limits.max_connection_age" in str(told.reason)
        asking += bench.requests()
        await settle()
        assert [each.done() for each in asking] == [False, False, True, True]
        for each in asking[2:]:
            with pytest.raises(Closed) as raised:
                await each
            assert raised.value.outcome is Outcome.NOT_SENT
        response = encode(frames.response(204))
        await bench.hears(headers(1, response, end_stream=True))
        assert bench.actor.exited is None
        await bench.hears(headers(3, response, end_stream=True))
        assert (await bench.actor.wait()).reason is told.reason
        assert [(await each).status for each in asking[:2]] == [204, 204]


@pytest.mark.virtual_time
async def test_a_drain_of_an_old_client_has_its_deadline() -> None:
    """G4."""
    async with Watched(limits=Limits(max_connection_age=10)) as bench:
        (asking,) = bench.requests()
        await asyncio.sleep(50)
        assert bench.actor.exited is None
        bench.actor.tell(Drain(1.0, Closed("the link was closed")))
        await asyncio.sleep(1.1)
        with pytest.raises(Closed):
            await asking


@pytest.mark.virtual_time
async def test_an_age_that_is_set_later_counts_from_the_beginning() -> None:
    """Limits at run time: and taking it back takes it back."""
    async with Watched() as taken_back, Watched() as bench:
        for each in (bench, taken_back):
            each.actor.tell(ChangeLimits(OLD))
        await asyncio.sleep(500)
        taken_back.actor.tell(ChangeLimits(Limits()))
        bench.actor.tell(ChangeLimits(Limits(max_connection_age=600)))
        await bench.actor.wait()
        assert 540 <= now() <= 661
        await asyncio.sleep(1000)
        assert taken_back.actor.exited is None


@pytest.mark.virtual_time
async def test_a_drain_without_end_has_no_deadline() -> None:
    """G3: Drain.seconds may be inf."""
    async with Bench(hold) as bench:
        await bench.hears(headers(1, GET, end_stream=True))
        bench.actor.tell(Drain(math.inf, Closed("the server was closed")))
        await settle()
        assert Wait.DRAIN not in bench.actor.deadlines
        await asyncio.sleep(10_000)
        assert bench.actor.exited is None


# --- what the kernel watches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "kept"), [(20.0, 20_000), (0.5, 500), (0.0001, 1), (0.0, 0)])
async def test_the_kernel_is_told_how_long_sent_bytes_may_wait(seconds: float, kept: int) -> None:
    """H2: TCP_USER_TIMEOUT, in milliseconds; 0 is the system's own."""
    async with RawPeer.listen() as listener:
        connected = await dial(Endpoint("127.0.0.1", listener.port))
        await listener.accept()
        set_user_timeout(connected.transport, seconds)
        inner = connected.transport.get_extra_info("socket")
        assert inner.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == kept
        connected.transport.abort()


async def test_sockets_without_tcp_are_left_alone(tmp_path: Path) -> None:
    """H2: a Unix socket, and one that is closed."""
    path = str(tmp_path / "socket")
    async with RawPeer.listen(path=path) as listener:
        connected = await dial(Endpoint(path=path))
        await listener.accept()
        set_user_timeout(connected.transport, 20.0)
        connected.transport.abort()
        set_user_timeout(connected.transport, 20.0)
        set_user_timeout(FakeSocket(), 20.0)
    async with RawPeer.listen() as listener:
        connected = await dial(Endpoint("127.0.0.1", listener.port))
        await listener.accept()
        connected.transport.abort()
        await settle()
        set_user_timeout(connected.transport, 20.0)
