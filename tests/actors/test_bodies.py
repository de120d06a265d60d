"""What a stream's task runs, where something goes wrong in it: handlers, and the bodies of requests."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from actors.bodies import request
from actors.errors import Closed, LinkError, Misuse, Outcome, TransportLost
from actors.messages import BytesArrived, ConnectionLost
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, RawListener, RawPeer, Type, data, goaway, headers, response, rst, settings
from tests.support.sides import Bench, linked, linked_to_raw, served, settle


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


async def cancelled() -> None:
    """Raises what a cancelled task of somebody else's would."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_a_reset_without_an_error_after_the_whole_request_cancels_the_handler_too() -> None:
    """S6: whatever its code, nobody is left to answer."""
    causes: list[LinkError | None] = []

    async def handler(stream: ServerStream) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            causes.append(stream.cause)

    async with served(handler, limits=Limits(max_streams=1)) as peer:
        for stream_id in (1, 3, 5, 7):
            peer.send_headers(stream_id, frames.request(), end_stream=True)
            await peer.barrier()
            peer.send(rst(stream_id, Code.NO_ERROR))
            await peer.barrier()
        await settle()
        assert [type(cause).__name__ for cause in causes] == ["StreamReset"] * 4


@pytest.mark.logs_errors("connection-1/stream-1 crashed")
async def test_a_limit_that_is_not_the_requests_own_is_a_fault_of_the_handler() -> None:
    """S5: a proxy's upstream that answers too much does not make its client's body too large."""
    async with Server(answer) as upstream, Link(upstream.url) as link:

        async def proxy(stream: ServerStream) -> None:
            await stream.respond(200, body=(await link.request("GET", "/", max_body=1)).body)

        async with served(proxy) as peer:
            peer.send_headers(1, frames.request(), end_stream=True)
            assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.INTERNAL_ERROR


async def test_a_request_that_is_too_large_is_answered_so() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.read()

    async with linked(handler, limits=Limits(max_request_body=10)) as link:
        assert (await link.request("POST", "/", body=bytes(11))).status == 413


async def test_a_handler_that_dies_of_a_foreign_cancellation_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(stream: ServerStream) -> None:
        await cancelled()

    async with served(handler) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.INTERNAL_ERROR
    assert [record.levelno for record in caplog.records if "connection-1/stream-1 was cancelled" in record.message] == [
        logging.WARNING
    ]


async def test_a_handler_with_a_task_group_ends_quietly_when_its_client_leaves() -> None:
    """S5, L7: what its children were told is no fault of the program."""

    async def read_on(stream: ServerStream) -> None:
        async for _ in stream:
            pass

    async def handler(stream: ServerStream) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(read_on(stream))
            await asyncio.Event().wait()

    async with served(handler) as peer:
        peer.send_headers(1, frames.request("POST"))
        await peer.barrier()
        peer.abort()


@pytest.mark.logs_errors("connection-1/stream-1 crashed")
async def test_a_handler_that_would_end_the_program_ends_its_stream() -> None:
    """S5"""

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/exit":
            raise SystemExit(3)
        await answer(stream)

    async with served(handler) as peer:
        peer.send_headers(1, frames.request(path="/exit"), end_stream=True)
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.INTERNAL_ERROR
        peer.send_headers(3, frames.request(), end_stream=True)
        assert await peer.expect_body(3) == b"answer"


async def test_waiting_for_a_drain_ends_with_the_stream() -> None:
    waits: list[asyncio.Task[None]] = []

    async def handler(stream: ServerStream) -> None:
        waits.append(asyncio.create_task(stream.draining()))
        await asyncio.sleep(0)
        await answer(stream)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 200
        with pytest.raises(LinkError):
            await waits[0]


@pytest.mark.logs_errors(r"without a response to GET /x\\x1b\[31m$")
async def test_what_a_peer_says_is_logged_escaped_and_without_its_query() -> None:
    """T3"""

    async def handler(stream: ServerStream) -> None:
        await stream.read()

    async with served(handler) as peer:
        peer.send_headers(1, frames.request(path="/x\x1b[31m?token=secret"), end_stream=True)
        await peer.expect(Type.RST_STREAM, 1)


async def test_a_response_without_a_body_can_be_begun_and_ended() -> None:
    """S15, in part"""

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(204)
        with pytest.raises(Misuse, match="has no body"):
            await stream.send(b"x")
        await stream.end()

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_cancelled_from_within_ends_the_request() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await cancelled()

    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("POST", "/", body=body()))
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.CANCEL
        with pytest.raises(Closed, match="its body failed"):
            await asking


async def test_what_a_body_raises_after_an_early_answer_is_raised() -> None:
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await go_on.wait()
        raise ValueError("no more")

    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("POST", "/", body=body()))
        await peer.expect(Type.DATA, 1)
        peer.send_headers(1, response(200), end_stream=True)
        await peer.barrier()
        go_on.set()
        with pytest.raises(ValueError, match="no more"):
            await asking


@pytest.mark.virtual_time
@pytest.mark.logs_errors("request-1 ended without waiting for its body")
async def test_a_body_that_swallows_its_cancellation_does_not_outlive_the_deadline_for_long() -> None:
    release = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        yield b"late"

    async with linked_to_raw(limits=Limits(shutdown_timeout=0.5)) as (link, _):
        began = asyncio.get_running_loop().time()
        with pytest.raises(LinkError):
            await link.request("POST", "/", body=body(), timeout=1)
        assert asyncio.get_running_loop().time() - began < 5
        release.set()
        await settle()


async def test_trailers_without_a_body_to_follow_are_refused() -> None:
    async with linked(answer) as link:
        with pytest.raises(Misuse, match=r"give them to end\(\)"):
            async with link.stream("POST", "/", trailers={"a": "b"}):
                pytest.fail("it was opened")


async def test_an_error_that_is_raised_again_and_again_does_not_grow() -> None:
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        peer.send(rst(1, Code.CANCEL))
        for _ in range(50):
            with pytest.raises(LinkError) as caught:
                await stream.read()
        assert len(caught.traceback) < 15


# --- connections that end ---------------------------------------------------------------------------------------------


async def test_a_response_that_came_before_the_connection_was_lost_is_delivered() -> None:
    """W1, L7: also where a long burst of it is read in several turns."""
    async with Bench() as bench:
        stream = asyncio.create_task(ask(bench))
        await settle()
        burst = headers(1, frames.encode(response(200))) + b"".join(data(1, b"x") for _ in range(3000))
        bench.actor.tell(BytesArrived(burst + data(1, b"", end_stream=True)))
        bench.actor.tell(ConnectionLost(None))
        assert await stream == b"x" * 3000


async def ask(bench: Bench) -> bytes:
    return (await request(bench.route, bench.outgoing())).body


async def test_a_stream_that_the_peer_took_and_cut_after_goaway_is_a_lost_connection() -> None:
    """X1: GoAway says that nothing was done, and here something may have been."""
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("GET", "/"))
        await peer.expect_headers(1)
        peer.send(goaway(1, Code.NO_ERROR, b"bye\n\x1b[31m"))
        await peer.barrier()
        peer.abort()
        with pytest.raises(TransportLost) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        assert "\n" not in str(caught.value.__cause__)


async def test_a_peer_that_greets_and_hangs_up_each_time_is_an_error_with_its_reason() -> None:
    """G1: a request that was not sent goes over another connection, but not for ever."""

    async def greets(listener: RawListener) -> None:
        while True:
            peer = await listener.accept()
            peer.send(settings() + goaway(0, Code.ENHANCE_YOUR_CALM, b"full"))
            peer.end()

    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        greeting = asyncio.create_task(greets(listener))
        with pytest.raises(LinkError, match=r"ENHANCE_YOUR_CALM|closed by the peer"):
            await link.request("GET", "/")
        greeting.cancel()
        await link.close()


async def test_a_link_is_entered_once() -> None:
    async with linked(answer) as link:
        with pytest.raises(Misuse, match="entered once"):
            await link.__aenter__()
        assert (await link.request("GET", "/")).status == 200


@pytest.mark.parametrize("passes", range(6))
async def test_a_server_cancelled_while_it_is_entered_leaves_nothing_behind(passes: int) -> None:
    server = Server(answer)
    entering = asyncio.create_task(server.__aenter__())
    for _ in range(passes):
        await asyncio.sleep(0)
    entering.cancel()
    await asyncio.wait((entering,))
    await server.close()
