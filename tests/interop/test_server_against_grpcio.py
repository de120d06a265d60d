"""Our server, called by a ``grpc.insecure_channel``; every setting of both has its default, unless the test says so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.errors import ErrorCode, LinkError, StreamReset
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.server import Server
from tests.interop.grpc_peers import BURST, arriving, grpc_client, message, messages, rounds
from tests.interop.relay import Relay, relay_to
from tests.support.frames import Flag, Frame, Type

SILENCE = float(os.environ.get("MUXLINK_SILENCE", "10"))
MiB = 1 << 20
HEAD = [("content-type", "application/grpc")]
OK = [("grpc-status", "0")]
CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE = 1, 4, 14


async def methods(stream: ServerStream) -> None:
    """What :mod:`tests.interop.grpc_peers` asks for, answered as its own server would."""
    name = stream.path.rpartition("/")[2]
    if name == "Talk":
        await stream.start_response(200, HEAD)
        async for each in arriving(stream):
            await stream.send(message(each))
        await stream.end(OK)
        return
    request, *more = messages(await stream.read())
    match name:
        case "Echo":
            await stream.respond(200, HEAD, message(request), OK)
        case "Sum":
            total = len(request) + sum(map(len, more))
            await stream.respond(200, HEAD, message(b"%d" % total), OK)
        case "Count":
            number, pause, size = request.split()
            await count(stream, int(number), float(pause), int(size))
        case "Fail":
            code, _, _ = request.partition(b" ")
            details = "n%C2%B0 " + code.decode()
            await stream.respond(200, [*HEAD, ("grpc-status", code), ("grpc-message", details)])
        case "Reset":
            stream.reset(int(request))
        case _:
            await stream.respond(200, [*HEAD, ("grpc-status", "12")])


async def count(stream: ServerStream, number: int, pause: float, size: int) -> None:
    await stream.start_response(200, HEAD)
    for n in range(number):
        if n and pause:
            await asyncio.sleep(pause)
        await stream.send(message(bytes(size)))
    await stream.end(OK)


def asked(relay: Relay) -> list[Frame]:
    """The PINGs of the client."""
    return [each for each in relay.said("link", Type.PING) if not each.has(Flag.ACK)]


@asynccontextmanager
async def relayed(server: Server) -> AsyncIterator[Relay]:
    """A relay that has heard no GOAWAY of the server's by the time at which it is left."""
    async with relay_to(server.url) as relay:
        yield relay
        assert relay.said("server", Type.GOAWAY) == []


# --- what is carried --------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_grpcio_makes_bursts_of_200_calls() -> None:
    """L1, S9: it keeps within our 100 streams once it knows them; what came too early it sends again by itself."""
    async with Server(methods) as server:
        report = await grpc_client("burst", server.url)
        stats = server.stats()

    assert report.result == {"same": 2 * BURST}
    assert stats.connections_accepted == 1


async def test_grpcio_reads_our_streams_with_pauses_and_sends_its_own() -> None:
    """Server streaming, client streaming, and both at once; an empty message is one, too."""
    async with Server(methods) as server:
        report = await grpc_client("streams", server.url)

    assert report.result == [[1000] * 3, "5000", ["one", "", "three"]]


async def test_grpcio_reads_each_status_from_a_head_without_a_body() -> None:
    """S8, S15: a response that is a head alone is what grpcio calls trailers-only, also with ``content-length: 0``."""
    async with Server(methods) as server:
        report = await grpc_client("statuses", server.url)

    assert isinstance(report.result, list)
    assert report.result[1:] == [[n, f"n° {n}"] for n in range(1, 17)]


@pytest.mark.parametrize(
    ("code", "status"), [(ErrorCode.CANCEL, 1), (ErrorCode.ENHANCE_YOUR_CALM, 8), (ErrorCode.INTERNAL_ERROR, 13)]
)
async def test_grpcio_makes_a_status_of_the_code_with_which_a_handler_resets(code: ErrorCode, status: int) -> None:
    """S10: as gRPC's mapping from HTTP/2 has it."""
    async with Server(methods) as server:
        report = await grpc_client("ends", server.url, "Reset", 30, int(code))

    assert isinstance(report.result, list)
    assert report.result[0] == status


async def test_a_deadline_of_grpcio_is_a_header_and_ends_the_handler() -> None:
    """S6: our handler is told the time, and cancelled when grpcio gives up; what it does then harms nobody."""
    told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    cause: asyncio.Future[LinkError | None] = asyncio.get_running_loop().create_future()

    async def wait_for_ever(stream: ServerStream) -> None:
        told.set_result(stream.headers["grpc-timeout"])
        try:
            await asyncio.Event().wait()
        finally:
            cause.set_result(stream.cause)

    async with Server(wait_for_ever) as server, asyncio.timeout(30):
        report = await grpc_client("ends", server.url, "Wait", 0.5)
        reset = await cause

    assert isinstance(report.result, list)
    assert report.result[0] == DEADLINE_EXCEEDED
    assert (await told or "")[-1:] in {"m", "u", "n"}
    assert isinstance(reset, StreamReset)
    assert reset.code == ErrorCode.CANCEL


async def test_a_stream_that_grpcio_cancels_ends_its_handler_alone() -> None:
    """S6: half-way; the next call goes over the same connection."""
    cause: asyncio.Future[LinkError | None] = asyncio.get_running_loop().create_future()

    async def handler(stream: ServerStream) -> None:
        try:
            await methods(stream)
        finally:
            if stream.path.endswith("Count"):
                cause.set_result(stream.cause)

    async with Server(handler) as server, asyncio.timeout(30):
        report = await grpc_client("cancel", server.url)
        reset = await cause
        stats = server.stats()

    assert report.result == [CANCELLED, [0, ""]]
    assert isinstance(reset, StreamReset)
    assert reset.code == ErrorCode.CANCEL
    assert (stats.connections_accepted, dict(stats.refusals)) == (1, {})


# --- large messages and flow control ----------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_grpcio_sends_and_gets_a_message_of_4_mib() -> None:
    """F5: as large as grpcio takes by default."""
    async with Server(methods) as server:
        report = await grpc_client("large", server.url, 4 * MiB)

    assert report.result is True


@pytest.mark.bulk
async def test_grpcio_waits_while_a_handler_does_not_read() -> None:
    """F3: of 64 MiB it gets rid of no more than our window and its own buffers hold, and a sibling is served."""
    go = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        if stream.path.endswith("Release"):
            go.set()
            await stream.respond(200, HEAD, message(b""), OK)
            return
        await go.wait()
        total = 0
        async for each in arriving(stream):
            total += len(each)
        await stream.respond(200, HEAD, message(b"%d" % total), OK)

    number, size = 1024, 64 << 10
    async with Server(handler) as server:
        report = await grpc_client("upload", server.url, number, size)

    assert isinstance(report.result, list)
    total, taken = report.result
    assert total == number * size
    assert taken * size < 2 * MiB


@pytest.mark.bulk
async def test_a_handler_waits_while_grpcio_does_not_read() -> None:
    """F3, F6: ``send`` returns as grpcio makes room; of 64 MiB it makes little while its caller looks away."""
    made = 0

    async def handler(stream: ServerStream) -> None:
        nonlocal made
        if stream.path.endswith("Made"):
            await stream.respond(200, HEAD, message(b"%d" % made), OK)
            return
        await stream.start_response(200, HEAD)
        for _ in range(number):
            await stream.send(message(bytes(size)))
            made += 1
        await stream.end(OK)

    number, size = 1024, 64 << 10
    async with Server(handler) as server:
        report = await grpc_client("download", server.url, number, size)

    assert isinstance(report.result, list)
    total, between = report.result
    assert total == number * size
    assert between < number * 0.9  # what grpcio takes ahead of its reader grows with the speed of the machine


# --- going away -------------------------------------------------------------------------------------------------------


async def test_a_drain_lets_grpcio_finish_its_call_and_its_next_call_finds_the_next_server() -> None:
    """G3: GOAWAY twice around a PING; the call that is open is answered, and no call fails."""
    begun, drained = asyncio.Event(), asyncio.Event()

    async def last(stream: ServerStream) -> None:
        begun.set()
        await stream.draining()
        drained.set()
        await stream.respond(200, HEAD, message(b"bye"), OK)

    async with Server(last) as server, asyncio.timeout(60):
        calling = asyncio.create_task(grpc_client("stay", server.url))
        await begun.wait()
        drain = await server.close(10)
        async with Server(methods, port=server.port) as successor:
            report = await calling
            stats = successor.stats()

    assert drained.is_set()
    assert (drain.cut, drain.finished) == ((), 1)
    assert report.result == [[0, ""], [0, ""]]
    assert stats.connections_accepted == 1


@pytest.mark.bulk
async def test_connections_that_grow_old_cost_a_busy_grpcio_no_call() -> None:
    """G3: with ``max_connection_age`` of a fifth of a second, a channel moves on many times in three seconds."""
    async with Server(methods, limits=Limits(max_connection_age=0.2)) as server:
        report = await grpc_client("busy", server.url, 3)
        stats = server.stats()

    assert isinstance(report.result, dict)
    assert set(report.result) == {"[0, '']"}, report
    assert report.result["[0, '']"] > 50
    assert stats.connections_accepted >= 5
    # With no call open, a channel that is closed says no GOAWAY: only the last connection may have gone like that.
    assert stats.connections_ended[""] >= stats.connections_accepted - 1


# --- PINGs ------------------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_the_pings_with_which_grpcio_estimates_bandwidth_are_no_strikes() -> None:
    """H5: it sends them on any stream that brings it data, more often than Health.least_ping_interval has it."""
    async with Server(methods) as server, relayed(server) as relay:
        report = await grpc_client("drink", relay.url, 200, 0.01, 100_000)
        stats = server.stats()

    assert report.result == 200 * 100_000
    assert len(asked(relay)) > server.health.max_ping_strikes + 1
    assert dict(stats.refusals) == {}


async def test_grpcio_that_asks_each_second_is_ended_and_says_why() -> None:
    """H3: without our sending anything, the fourth PING is too many; the call fails, and the C core says so, too."""

    async def wait_for_ever(stream: ServerStream) -> None:
        await asyncio.Event().wait()

    async with Server(wait_for_ever) as server:
        report = await grpc_client("ends!", server.url, "Wait", 0)
        stats = server.stats()

    assert isinstance(report.result, list)
    assert report.result[0] == UNAVAILABLE
    assert "too_many_pings" in report.result[1]
    assert 'ENHANCE_YOUR_CALM and debug data equal to "too_many_pings"' in report.log
    assert dict(stats.refusals) == {"too_many_pings": 1}


@pytest.mark.bulk
@pytest.mark.timeout(SILENCE + 110)
async def test_grpcio_lives_through_silence_and_bursts_without_a_goaway() -> None:
    """H5: one stream stays open all the time; bursts of calls come between the silences.

    ``MUXLINK_SILENCE`` is the silence in seconds, as for the link's test, which says how it is run for ten minutes.
    """
    async with Server(methods) as server, relayed(server) as relay:
        report = await grpc_client("silence", relay.url, SILENCE, limit=SILENCE + 60)
        stats = server.stats()
        pings = [each for each in relay.said("server", Type.PING) if not each.has(Flag.ACK)]

    said, rest, status, calls = report.result if isinstance(report.result, list) else []
    assert (said, rest, status) == ([str(n) for n in range(5)], [], 0)
    assert calls == {"same": 5 * 2 * BURST}
    assert (stats.connections_accepted, dict(stats.refusals)) == (1, {})
    assert len(pings) == sum(pause > server.health.interval for pause in rounds(SILENCE))
