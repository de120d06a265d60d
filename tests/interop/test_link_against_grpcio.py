"""Our client, calling a ``grpc.server``; every setting of both has its default, unless the test says otherwise."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter

import pytest

from actors.client_stream import ClientStream
from actors.exchange import Response
from actors.settings import Health
from supervisor.link import Link
from tests.interop.grpc_peers import (
    BURST,
    REQUEST,
    SERVICE,
    arriving,
    grpc_server,
    message,
    messages,
    rounds,
)
from tests.interop.relay import relay_to
from tests.support.frames import Flag, Frame, Type

SILENCE = float(os.environ.get("MUXLINK_SILENCE", "10"))
MiB = 1 << 20


async def call(
    link: Link, method: str, request: bytes = b"", *headers: tuple[str, str], idempotent: bool = False
) -> Response:
    """A call with one message, answered with whatever comes."""
    return await link.request(
        "POST", f"/{SERVICE}/{method}", headers=[*REQUEST, *headers], body=message(request), timeout=30,
        idempotent=idempotent,
    )  # fmt: skip


def ended(reply: Response) -> tuple[str | None, str | None]:
    """Where the status of a call stands, and what it is: behind the body, or in the head where there is no body."""
    trailers = reply.trailers or reply.headers
    return ("trailers" if reply.trailers else "head"), trailers.get("grpc-status")


async def said_by(stream: ClientStream) -> list[bytes]:
    return [each async for each in arriving(stream)]


async def echo_burst(link: Link) -> None:
    """200 calls at once, each answered with its own."""
    bodies = [b"%d" % n for n in range(BURST)]
    replies = await asyncio.gather(*[call(link, "Echo", body) for body in bodies])
    assert [messages(reply.body) for reply in replies] == [[body] for body in bodies]
    assert Counter(map(ended, replies)) == {("trailers", "0"): BURST}


# --- what is carried --------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_grpcio_answers_bursts_of_200_calls_over_one_connection() -> None:
    """L1: it allows any number of streams, and the link opens no second connection for them."""
    async with grpc_server() as peer, Link(peer.url) as link:
        for _ in range(3):
            await echo_burst(link)
        stats = link.stats()

    assert (stats.streams_total, stats.connections_open, dict(stats.restarts)) == (3 * BURST, 1, {})


async def test_grpcio_streams_to_us_with_pauses_and_takes_our_streams() -> None:
    """Server streaming, client streaming, and both at once, each answered before the next is sent."""
    async with grpc_server() as peer, Link(peer.url) as link:
        async with link.stream("POST", f"/{SERVICE}/Count", headers=REQUEST, body=message(b"3 0.5 1000")) as stream:
            assert list(map(len, await said_by(stream))) == [1000] * 3
            assert (await stream.trailers())["grpc-status"] == "0"
        reply = await link.request(
            "POST", f"/{SERVICE}/Sum", headers=REQUEST, body=[message(bytes(1000)) for _ in range(5)]
        )
        assert messages(reply.body) == [b"5000"]
        async with link.stream("POST", f"/{SERVICE}/Talk", headers=REQUEST, timeout=30) as stream:
            answers = arriving(stream)
            for part in (b"one", b"", b"three"):
                await stream.send(message(part))
                assert await anext(answers) == part
            await stream.end()
            assert [each async for each in answers] == []
            assert (await stream.trailers())["grpc-status"] == "0"


async def test_each_status_of_grpcio_comes_as_it_was_sent() -> None:
    """S8: a reply without a body is a head alone, with status 200 and no trailers; we map nothing to an error."""
    async with grpc_server() as peer, Link(peer.url) as link:
        replies = [await call(link, "Fail", f"{n} n° {n}".encode()) for n in range(1, 17)]
        missing = await call(link, "Nowhere")
        stats = link.stats()

    assert [(reply.status, reply.body) for reply in replies] == [(200, b"")] * 16
    assert list(map(ended, replies)) == [("head", str(n)) for n in range(1, 17)]
    assert [reply.headers["grpc-message"] for reply in replies] == [f"n%C2%B0 {n}" for n in range(1, 17)]
    assert ended(missing) == ("head", "12")
    assert (stats.addresses_aside, dict(stats.retries), dict(stats.restarts)) == ((), {}, {})


async def test_grpcio_keeps_the_deadline_that_it_is_told() -> None:
    """The header ``grpc-timeout`` arrives, and what comes of it is carried back."""
    async with grpc_server() as peer, Link(peer.url) as link:
        reply = await call(link, "Wait", b"", ("grpc-timeout", "300m"))
        told = float((await peer.logged(r"waiting for (\S+)"))[1])
        await peer.logged("the wait is over")

    assert ended(reply) == ("head", "4")
    assert 0.1 < told <= 0.3


async def test_a_call_is_cancelled_from_either_side_and_the_next_one_is_served() -> None:
    """S3, S10: leaving a stream ends the call in grpcio; a call that grpcio cancels has a status like any other."""
    async with grpc_server() as peer, Link(peer.url) as link:
        waiting = asyncio.create_task(call(link, "Wait"))
        await peer.logged("waiting for")
        waiting.cancel()
        await peer.logged("the wait is over")
        async with link.stream(
            "POST", f"/{SERVICE}/Count", headers=REQUEST, body=message(b"1000000000 0 1000")
        ) as stream:
            assert await anext(arriving(stream)) == bytes(1000)
        assert ended(await call(link, "Cancel")) == ("head", "1")
        assert messages((await call(link, "Echo", b"after")).body) == [b"after"]
        stats = link.stats()

    assert waiting.cancelled()
    assert (stats.connections_open, dict(stats.restarts)) == (1, {})


# --- large messages and flow control ----------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_a_message_of_4_mib_goes_both_ways_and_a_longer_one_is_refused_by_grpcio() -> None:
    """F5: 4 MiB is what grpcio takes by default; one byte more is a status, not an end of the connection."""
    body = bytes(range(256)) * (4 * MiB // 256)
    async with grpc_server() as peer, Link(peer.url) as link:
        whole = await call(link, "Echo", body)
        longer = await call(link, "Echo", body + b"!")
        again = await call(link, "Echo", b"again")

    assert messages(whole.body) == [body]
    assert ended(longer) == ("head", "8")
    assert messages(again.body) == [b"again"]


@pytest.mark.bulk
async def test_grpcio_that_does_not_read_makes_the_sender_wait_and_harms_no_sibling() -> None:
    """F1, F3, F6: a method reads nothing yet; what grpcio holds for it has an end, and other calls go on meanwhile."""
    size, gone = 64 << 10, 0
    enough = asyncio.Event()

    async def send(stream: ClientStream) -> None:
        nonlocal gone
        while not enough.is_set():
            await stream.send(message(bytes(size)))
            gone += size
        await stream.end()

    async with grpc_server() as peer, Link(peer.url) as link:
        async with link.stream("POST", f"/{SERVICE}/Hold", headers=REQUEST, timeout=60) as stream:
            sending = asyncio.create_task(send(stream))
            await peer.logged("holding")
            waited, before = 0, 0
            while waited < 20:  # round trips in a row in which nothing more was taken
                assert messages((await call(link, "Echo", b"sibling")).body) == [b"sibling"]
                waited, before = (waited + 1 if gone == before else 0), gone
                assert gone < 256 * MiB
            held = link.stats().bytes_held
            enough.set()
            assert not sending.done()
            await call(link, "Release")
            await sending
            assert await said_by(stream) == [b"%d" % gone]
        stats = link.stats()

    assert held >= link.limits.send_buffer - 2 * size
    assert (stats.connections_open, stats.bytes_held, dict(stats.restarts)) == (1, 0, {})


@pytest.mark.bulk
async def test_a_stream_that_is_not_read_makes_grpcio_wait_and_harms_no_sibling() -> None:
    """F3, F6: of 32 MiB, grpcio can send no more than our window; the rest comes as it is read."""
    size, number = 64 << 10, 512

    async with (
        grpc_server() as peer,
        Link(peer.url) as link,
        link.stream("POST", f"/{SERVICE}/Count", headers=REQUEST, body=message(b"%d 0 %d" % (number, size))) as stream,
    ):
        await stream.response()
        for n in range(20):
            assert messages((await call(link, "Echo", b"%d" % n)).body) == [b"%d" % n]
        made = peer.log().count("made")
        came = sum(map(len, await said_by(stream)))
        trailers = await stream.trailers()

    assert made < 100
    assert (came, trailers["grpc-status"]) == (size * number, "0")


# --- going away -------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_grpcio_that_stops_loses_no_call_and_the_link_moves_over() -> None:
    """G1, X2: SIGTERM comes among calls; what is open finishes there, what was not processed goes to the other.

    What grpcio has taken and not begun when it stops, it answers with CANCELLED (1); that is a response like any other.
    """
    stop = asyncio.Event()

    async def ask(link: Link) -> Counter[tuple[str | None, str | None]]:
        ends: Counter[tuple[str | None, str | None]] = Counter()
        while not stop.is_set():
            ends[ended(await call(link, "Echo", b"busy", idempotent=True))] += 1
        return ends

    async with grpc_server() as first, grpc_server() as second, Link((first.url, second.url), connections=2) as link:
        async with link.stream("POST", f"/{SERVICE}/Talk", headers=REQUEST, timeout=30) as stream:
            asking = [asyncio.create_task(ask(link)) for _ in range(8)]
            answers = arriving(stream)
            await stream.send(message(b"one"))
            assert await anext(answers) == b"one"
            leaving, staying = (first, second) if stream.peer.address in first.url else (second, first)
            leaving.process.send_signal(signal.SIGTERM)
            await leaving.logged("stopping")
            await stream.send(message(b"two"))
            assert await anext(answers) == b"two"
            await stream.end()
            assert (await stream.trailers())["grpc-status"] == "0"
        assert await leaving.ends() == 0
        await asyncio.gather(*[call(link, "Echo", b"later") for _ in range(50)])
        stop.set()
        ends = sum(await asyncio.gather(*asking), Counter())
        stats = link.stats()

    assert set(ends) <= {("trailers", "0"), ("head", "1")}
    assert ends["head", "1"] <= len(asking)
    assert stats.restarts["GoAway"] == 1
    assert {each.peer for each in stats.connection_stats} == {staying.url.removeprefix("http://")}


# --- PINGs ------------------------------------------------------------------------------------------------------------


def pings_of(said: list[Frame]) -> int:
    return len([each for each in said if not each.has(Flag.ACK)])


@pytest.mark.bulk
async def test_a_link_that_asks_too_often_is_told_so_and_asks_half_as_often(caplog: pytest.LogCaptureFixture) -> None:
    """H3: grpcio's GOAWAY says ``too_many_pings``; each later connection waits twice as long, and the log says it once.

    Without calls the fourth PING of a connection is one too many, so each lives twice as long as the one before. A
    connection that answered a call is replaced at once.
    """
    loop = asyncio.get_running_loop()
    eager = Health(interval=0.1, while_idle=True)
    lives = []
    with caplog.at_level(logging.WARNING, "muxlink.link"):
        async with grpc_server() as peer, Link(peer.url, health=eager) as link, asyncio.timeout(30):
            for number in range(1, 4):
                reply = await call(link, "Echo", b"%d" % number)
                began = loop.time()
                while link.stats().restarts.get("GoAway", 0) < number:  # noqa: ASYNC110  (nobody sets an event for it)
                    await asyncio.sleep(0.01)
                lives.append(loop.time() - began)
            reply = await call(link, "Echo", b"still here")

    assert messages(reply.body) == [b"still here"]
    assert all(life > 3.9 * interval for life, interval in zip(lives, (0.1, 0.2, 0.4), strict=True)), lives
    assert len([each for each in caplog.records if "too many" in each.getMessage()]) == 1


@pytest.mark.bulk
@pytest.mark.timeout(SILENCE + 110)
async def test_a_link_lives_through_silence_and_bursts_without_a_goaway() -> None:
    """H5: bursts of calls, then silence with a stream open, then silence without one, and so on.

    ``MUXLINK_SILENCE`` is the silence in seconds, and 10 without it. For ten minutes, which bring all of our PINGs
    about, run this test and the server's with ``MUXLINK_SILENCE=600 pytest -o faulthandler_timeout=0``.
    """
    async with grpc_server() as peer, relay_to(peer.url) as relay, Link(relay.url) as link:
        before, *later = rounds(SILENCE)
        async with link.stream("POST", f"/{SERVICE}/Talk", headers=REQUEST) as stream:
            answers = arriving(stream)
            for part in (b"before", b"after"):
                await echo_burst(link)
                await stream.send(message(part))
                assert await anext(answers) == part
                await asyncio.sleep(before if part == b"before" else 0)
            await stream.end()
            assert (await stream.trailers())["grpc-status"] == "0"
        for pause in later:
            await echo_burst(link)
            await asyncio.sleep(pause)
        await echo_burst(link)
        stats = link.stats()
        assert relay.said("server", Type.GOAWAY) == []

    assert (stats.connections_open, dict(stats.restarts), dict(stats.retries)) == (1, {}, {})
    expected = (before > 300) + sum(pause > 60 for pause in later)
    assert pings_of(relay.said("link", Type.PING)) == expected
