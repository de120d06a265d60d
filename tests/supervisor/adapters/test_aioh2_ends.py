"""C2: how connections in aioh2's manner end, by either side and at any moment; their handlers; and bad input."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from actors.errors import Closed, InvalidHeaders, LinkError, Misuse, PingTimeout, StreamReset, TransportError
from actors.settings import Health, Limits
from supervisor.adapters import aioh2
from supervisor.adapters.aioh2 import H2Protocol, NoSuchStream, SendException
from tests.supervisor.adapters.faces import GET, NARROW, OK, POST, calling, greet, linked, port_of, served
from tests.support.frames import PREFACE, Code, RawPeer, Type, data, goaway, request, response, rst, settings
from tests.support.sides import settle

Wait = Callable[[H2Protocol, int], Awaitable[object]]

CALLS: dict[str, Wait] = {
    "recv_response": lambda client, stream_id: client.recv_response(stream_id),
    "recv_trailers": lambda client, stream_id: client.recv_trailers(stream_id),
    "a frame": lambda client, stream_id: client.read_stream(stream_id),
    "a number": lambda client, stream_id: client.read_stream(stream_id, 5),
    "to the end": lambda client, stream_id: client.read_stream(stream_id, -1),
    "send_data": lambda client, stream_id: client.send_data(stream_id, b"123456"),
}


# --- calls that wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["abort", "close", "goaway", "nonsense", "ours"])
async def test_every_call_that_waits_ends_when_the_connection_does(how: str) -> None:
    """C2: pending calls end when the connection dies."""
    async with calling(NARROW) as (client, peer):
        stream_id = await client.start_request(POST)
        await peer.expect(Type.HEADERS)
        waiting = {name: asyncio.create_task(_do(call, client, stream_id)) for name, call in CALLS.items()}
        await settle()
        if how == "abort":
            peer.abort()
        elif how == "ours":
            client.close_connection()
        else:
            peer.send({"goaway": goaway(0), "nonsense": b"\xff" * 90}.get(how, b""))
            if how == "close":
                await peer.close()
        async with asyncio.timeout(5):
            for name, task in waiting.items():
                with pytest.raises(LinkError):
                    await task
                assert isinstance(task.exception(), SendException) == (name == "send_data")


async def _do(call: Wait, client: H2Protocol, stream_id: int) -> object:
    return await call(client, stream_id)


@pytest.mark.parametrize("name", CALLS)
async def test_a_waiter_that_is_cancelled_harms_no_other(name: str) -> None:
    """C2."""
    async with calling(NARROW) as (client, peer):
        stream_id = await client.start_request(POST)
        await peer.expect(Type.HEADERS)
        waiting = [asyncio.create_task(_do(CALLS[name], client, stream_id)) for _ in range(50)]
        await settle()
        for task in waiting[::2]:
            task.cancel()
        await settle()
        others = {each: asyncio.create_task(_do(CALLS[each], client, stream_id)) for each in ("recv_response",)}
        peer.send_headers(1, response())
        peer.send(data(1, b"x" * 1000, end_stream=True))
        assert await others["recv_response"] == [(":status", "200")]
        client.close_connection()
        async with asyncio.timeout(5):
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends[::2])
        assert not any(isinstance(end, asyncio.CancelledError) for end in ends[1::2])


async def test_a_reset_ends_its_stream_alone_and_what_came_before_it_can_be_read() -> None:
    """S6."""
    async with calling() as (client, peer):
        first, second = [await client.start_request(POST) for _ in range(2)]
        peer.send_headers(first, response())
        peer.send(data(first, b"some"))
        await client.recv_response(first)
        peer.send(rst(first, Code.INTERNAL_ERROR))
        assert await client.read_stream(first) == b"some"
        for call in (client.read_stream(first), client.read_stream(first, -1), client.recv_trailers(first)):
            with pytest.raises(StreamReset, match="INTERNAL_ERROR"):
                await call
        peer.send_headers(second, response(), end_stream=True)
        assert await client.recv_response(second) == [(":status", "200")]


async def test_a_connection_that_is_lost_is_restored_and_ids_stay_unique() -> None:
    """C2."""
    async with RawPeer.listen() as listener:
        opening = asyncio.create_task(aioh2.open_connection(port=listener.port))
        peer = await listener.accept()
        await peer.handshake()
        async with await opening as client:
            ids = [await client.start_request(POST) for _ in range(3)]
            peer.abort()
            with pytest.raises(TransportError):
                await client.recv_response(ids[0])
            asking = asyncio.create_task(client.start_request(POST))
            again = await listener.accept()
            await again.handshake()
            assert (ids, await asking) == ([1, 3, 5], 7)
            again.send_headers(1, response(), end_stream=True)
            assert await client.recv_response(7) == [(":status", "200")]
            with pytest.raises(TransportError):
                await client.recv_response(1)
            with pytest.raises(Misuse, match="of a connection that was lost"):
                client.reprioritize(7, depends_on=1)


async def test_a_peer_that_does_not_answer_is_dead() -> None:
    """H2: a typed error, and no hang."""
    async with calling(functional_timeout=0, health=Health(timeout=0.2, suspect=0.1)) as (client, peer):
        asking = asyncio.create_task(client.wait_functional())
        await peer.expect(Type.PING)
        with pytest.raises(PingTimeout):
            await asking


# --- closing --------------------------------------------------------------------------------------------------------


async def test_a_client_that_closes_says_goaway_once() -> None:
    """C2: close_connection says GOAWAY."""
    async with calling() as (client, peer):
        for _ in range(3):
            client.close_connection()
        await asyncio.gather(*(client.wait_closed() for _ in range(3)))
        await peer.expect_end()
        assert [each.code for each in peer.seen if each.type == Type.GOAWAY] == [Code.NO_ERROR]


async def test_a_server_that_closes_says_goaway_and_refuses_what_nobody_took() -> None:
    """C2."""
    async with served() as (peer, proto):
        for stream_id in (1, 3):
            peer.send_headers(stream_id, request("POST"))
        assert (await proto.recv_request())[0] == 1
        await peer.barrier()
        proto.close_connection()
        await proto.wait_closed()
        await peer.expect_end()
        assert [each.code for each in peer.seen if each.type == Type.GOAWAY][-1] == Code.NO_ERROR
        assert [each.code for each in peer.seen if each.type == Type.RST_STREAM and each.stream_id == 3] == [
            Code.REFUSED_STREAM
        ]


async def test_what_was_sent_before_closing_arrives() -> None:
    async with calling() as (client, peer):
        stream_id = await client.start_request(POST)
        await client.send_data(stream_id, b"last words", end_stream=True)
        client.close_connection()
        assert await peer.expect_body(stream_id) == b"last words"
    async with served() as (peer, proto):
        peer.send_headers(1, request(), end_stream=True)
        await proto.recv_request()
        await proto.start_response(1, OK)
        await proto.send_data(1, b"last words")
        await proto.send_trailers(1, {"a": "b"})
        proto.close_connection()
        assert (await peer.expect(Type.DATA, 1)).body == b"last words"
        assert await peer.expect_headers(1)


async def test_a_closed_connection_used_again_says_so() -> None:
    async with linked() as client:
        stream_id = await client.start_request(GET)
        client.close_connection()
        await client.wait_closed()
        for call in (
            client.start_request(GET), client.wait_functional(), client.recv_response(stream_id),
            client.read_stream(stream_id), client.recv_trailers(stream_id), client.end_stream(stream_id),
            client.send_data(stream_id, b"x"), client.send_trailers(stream_id, {}),
        ):  # fmt: skip
            with pytest.raises(LinkError, match=r"closed|ended|reset by us"):
                await call
        with pytest.raises(Closed):
            client.update_settings({3: 5})


async def test_closing_the_server_drains_and_ends_its_handlers() -> None:
    """G2."""
    cleaned = asyncio.Event()

    async def handle(proto: H2Protocol) -> None:
        try:
            await greet(proto)
        except asyncio.CancelledError:
            cleaned.set()
            raise

    server = await aioh2.start_server(handle, port=0)
    client = await aioh2.open_connection(port=port_of(server))
    stream_id = await client.start_request(GET)
    await client.recv_response(stream_id)
    assert server.is_serving()
    server.close()
    server.close()
    assert (server.sockets, server.is_serving()) == ((), False)
    await settle()
    await client.send_data(stream_id, b"late", end_stream=True)
    assert await client.read_stream(stream_id, -1) == b"hello, late"
    await server.wait_closed()
    assert cleaned.is_set()
    client.close_connection()
    await client.wait_closed()


async def test_a_server_that_serves_for_ever_closes_when_that_is_cancelled() -> None:
    server = await aioh2.start_server(greet)
    serving = asyncio.create_task(server.serve_forever())
    await settle()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    with pytest.raises(Misuse, match="was closed"):
        await server.serve_forever()


# --- handlers -------------------------------------------------------------------------------------------------------


async def test_a_handler_is_cancelled_when_its_connection_is_lost_whatever_it_waits_for() -> None:
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def handle(proto: H2Protocol) -> None:
        how = "first"
        try:
            stream_id, headers = await proto.recv_request()
            how = dict(headers)[":path"]
            if how == "/read":
                await proto.read_stream(stream_id, -1)
            elif how == "/send":
                await proto.start_response(stream_id, OK)
                await proto.send_data(stream_id, bytes(1_000_000))
            elif how == "/next":
                await proto.recv_request()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.put_nowait(how)

    async with await aioh2.start_server(handle) as server:
        for path in ("/read", "/send", "/next", "/elsewhere"):
            async with await RawPeer.connect("127.0.0.1", port_of(server)) as peer:
                await peer.handshake()
                peer.send_headers(1, request("POST", path))
                await peer.barrier()
                await settle()
                peer.abort()
                async with asyncio.timeout(5):
                    assert await ends.get() == path


@pytest.mark.logs_errors("the handler failed")
async def test_what_a_handler_raises_is_logged_and_ends_its_connection_alone() -> None:
    async def fail(proto: H2Protocol) -> None:
        await proto.recv_request()
        raise RuntimeError("out of luck")

    async with await aioh2.start_server(fail) as server:
        port = port_of(server)
        async with await RawPeer.connect("127.0.0.1", port) as other, await RawPeer.connect("127.0.0.1", port) as peer:
            await other.handshake()
            await peer.handshake()
            peer.send_headers(1, request(), end_stream=True)
            await peer.expect(Type.GOAWAY, where=lambda frame: frame.code == Code.INTERNAL_ERROR)
            await peer.expect_end()
            await other.barrier()


def nothing(proto: H2Protocol) -> None:
    """Not even a coroutine."""


def a_number(proto: H2Protocol) -> int:
    return 7


def fails(proto: H2Protocol) -> None:
    raise RuntimeError("out of luck")


@pytest.mark.logs_errors("connected=")
@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (nothing, "the handler nothing returned nothing: write 'async def'"),
        (a_number, "a handler is a coroutine or a task, not int"),
        (fails, "out of luck"),
    ],
)
async def test_a_handler_that_returns_nothing_is_told_of(
    handler: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await aioh2.start_server(handler) as server:
        async with await RawPeer.connect("127.0.0.1", port_of(server)) as peer:
            await peer.expect_end()
        assert server.is_serving()
    assert re.search(re.escape(message), caplog.text)


async def test_a_handler_may_be_a_callable_that_returns_a_task() -> None:
    """C1."""
    async with linked(lambda proto: asyncio.get_running_loop().create_task(greet(proto))) as client:
        stream_id = await client.start_request(GET, end_stream=True)
        assert await client.read_stream(stream_id, -1) == b"hello, "


async def test_a_handler_that_returns_leaves_the_connection_to_its_tasks() -> None:
    tasks = set()

    async def start(proto: H2Protocol) -> None:
        tasks.add(asyncio.create_task(greet(proto)))

    async with linked(start) as client:
        stream_id = await client.start_request(GET, end_stream=True)
        assert await client.read_stream(stream_id, -1) == b"hello, "
    with pytest.raises(LinkError):
        await tasks.pop()


async def test_a_stream_that_its_client_resets_fails_the_handlers_call_with_the_reset() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        await proto.recv_request()
        reading = asyncio.create_task(proto.read_stream(1, -1))
        await settle()
        peer.send(rst(1))
        with pytest.raises(StreamReset):
            await reading
        peer.send_headers(3, request(), end_stream=True)
        assert (await proto.recv_request())[0] == 3


async def test_an_answered_request_whose_rest_nobody_reads_gives_its_place_back() -> None:
    """C2: places are not used up by clients that do not end."""
    async with served(limits=Limits(body_timeout=0.05), concurrency=1) as (peer, proto):
        for stream_id in (1, 3):
            peer.send_headers(stream_id, request("POST"))
            assert (await proto.recv_request())[0] == stream_id
            await proto.start_response(stream_id, OK)
            await proto.send_data(stream_id, b"done", end_stream=True)
            assert (await peer.expect(Type.RST_STREAM, stream_id)).code == Code.NO_ERROR


async def test_an_answered_request_whose_rest_is_read_goes_on() -> None:
    async with served(limits=Limits(body_timeout=0.05)) as (peer, proto):
        peer.send_headers(1, request("POST"))
        await proto.recv_request()
        await proto.start_response(1, OK, end_stream=True)
        reading = asyncio.create_task(proto.read_stream(1, 4))
        with pytest.raises(AssertionError):
            await peer.expect(Type.RST_STREAM, timeout=0.3)
        peer.send(data(1, b"late", end_stream=True))
        assert await reading == b"late"


async def test_a_client_may_have_a_handler_that_ends_with_it() -> None:
    async with calling() as (client, peer):
        ended = asyncio.Event()

        async def handle() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        client.set_handler(None)
        client.set_handler(handle())
        with pytest.raises(Misuse, match="a handler already"):
            client.set_handler(asyncio.get_running_loop().create_future())
        await peer.barrier()
    assert ended.is_set()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream_id", [0, 2, 7, -1])
async def test_an_id_that_was_never_opened_is_an_error_at_once(stream_id: int) -> None:
    async with linked() as client:
        for call in (
            client.recv_response(stream_id), client.recv_trailers(stream_id), client.read_stream(stream_id),
            client.read_stream(stream_id, 0), client.end_stream(stream_id), client.send_trailers(stream_id, {}),
        ):  # fmt: skip
            with pytest.raises(NoSuchStream, match="never opened"):
                await call
        with pytest.raises(SendException) as caught:
            await client.send_data(stream_id, b"all of it")
        assert caught.value.data == b"all of it"
        with pytest.raises(NoSuchStream):
            client.reprioritize(stream_id)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "':method'"),
        ({":method": "GET"}, "':path'"),
        ({":path": "/"}, "':method'"),
        ({**GET, ":status": "200"}, "for responses"),
        ({**GET, ":scheme": "https"}, "':scheme' is 'http'"),
        ({**GET, ":colour": "red"}, "does not exist"),
        ([(":method", "GET"), (":method", "PUT"), (":path", "/")], "given twice"),
        ({**GET, "connection": "close"}, "HTTP/2 forbids"),
        ({**GET, "a": "x\ny"}, "NUL, CR or LF"),
        ({**GET, "a": 7}, "str or bytes, not int"),
        ("text", "pairs"),
        ([1, 2], "pairs"),
        (None, "pairs"),
    ],
)
async def test_headers_that_cannot_be_are_refused_before_anything_is_sent(headers: Any, message: str) -> None:
    async with calling() as (client, peer):
        with pytest.raises(InvalidHeaders, match=message):
            await client.start_request(headers)
        await peer.barrier()
        assert not [each for each in peer.seen if each.type == Type.HEADERS]


@pytest.mark.parametrize("headers", [{}, {":status": "OK"}, {":status": "200", ":path": "/"}, {":status": "1000"}])
async def test_a_response_without_a_status_is_refused(headers: dict[str, str]) -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request(), end_stream=True)
        await proto.recv_request()
        with pytest.raises((InvalidHeaders, Misuse)):
            await proto.start_response(1, headers)
        await proto.start_response(1, OK, end_stream=True)
        with pytest.raises(Misuse):
            await proto.start_response(1, OK)


async def test_each_side_is_told_what_the_other_one_does() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request(), end_stream=True)
        await proto.recv_request()
        for call in (proto.start_request(GET), proto.recv_response(1)):
            with pytest.raises(Misuse, match="a server"):
                await call
        with pytest.raises(Misuse, match="by weight alone"):
            proto.reprioritize(1, depends_on=3)
    async with linked() as client:
        stream_id = await client.start_request(GET)
        with pytest.raises(Misuse, match="a client"):
            await client.recv_request()
        with pytest.raises(Misuse, match="a client"):
            await client.start_response(stream_id, OK)


@pytest.mark.parametrize("body", ["text", None, 7, [b"x"]])
async def test_a_body_that_is_no_bytes_is_refused(body: Any) -> None:
    async with linked() as client:
        stream_id = await client.start_request(GET)
        with pytest.raises(Misuse, match="takes bytes"):
            await client.send_data(stream_id, body)
        for good in (bytearray(b"a"), memoryview(b"b"), b"", b"c"):
            await client.send_data(stream_id, good)
        await client.end_stream(stream_id)
        assert await client.read_stream(stream_id, -1) == b"hello, abc"


@pytest.mark.parametrize("size", ["4", 4.0, True, b""])
async def test_a_size_that_is_none_is_refused(size: Any) -> None:
    async with linked() as client:
        stream_id = await client.start_request(GET)
        with pytest.raises(Misuse, match="number of bytes"):
            await client.read_stream(stream_id, size)


@pytest.mark.parametrize("settings", [{1: 4096}, {2: 1}, {8: 1}, {99: 1}, {4: -1}, {3: 0}, {5: 1}, {5: "big"}])
async def test_settings_that_cannot_be_are_refused(settings: Any) -> None:
    async with linked() as client:
        with pytest.raises(Misuse):
            client.update_settings(settings)
        assert client.max_frame_size == 16_384


async def test_a_protocol_of_ones_own_making_says_that_it_has_no_connection() -> None:
    lonely = H2Protocol(True)
    for call in (lonely.start_request(GET), lonely.wait_functional()):
        with pytest.raises(Misuse, match="open_connection"):
            await call
    with pytest.raises(Misuse):
        lonely.close_connection()


async def test_a_peer_that_does_not_speak_http2_is_named() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as old:
        with pytest.raises(LinkError, match=r"HTTP/2|HTTP/1"):
            await aioh2.open_connection(port=old.sockets[0].getsockname()[1])


@pytest.mark.logs_errors("connected=")
async def test_requests_of_a_connection_without_a_handler_are_refused_and_not_logged() -> None:
    async with (
        await aioh2.start_server(nothing) as server,
        await RawPeer.connect("127.0.0.1", port_of(server)) as peer,
    ):
        peer.send(PREFACE + settings())
        peer.send_headers(1, request(), end_stream=True)
        await peer.expect_end()


async def test_an_early_answer_stops_the_body_and_can_be_read() -> None:
    """S10: RST_STREAM(NO_ERROR) after the response."""
    async with calling(NARROW) as (client, peer):
        stream_id = await client.start_request(POST)
        sending = asyncio.create_task(client.send_data(stream_id, b"123456"))
        await peer.expect(Type.DATA)
        peer.send_headers(1, response(413), end_stream=True)
        peer.send(rst(1, Code.NO_ERROR))
        with pytest.raises(SendException) as caught:
            await sending
        assert caught.value.data == b"456"
        assert await client.recv_response(stream_id) == [(":status", "413")]
        assert await client.read_stream(stream_id, -1) == b""


async def test_goaway_lets_open_streams_finish_and_the_next_request_goes_elsewhere() -> None:
    """G3."""
    async with RawPeer.listen() as listener:
        opening = asyncio.create_task(aioh2.open_connection(port=listener.port))
        peer = await listener.accept()
        await peer.handshake()
        async with await opening as client:
            first = await client.start_request(POST)
            peer.send(goaway(first))
            await peer.expect(Type.GOAWAY)
            asking = asyncio.create_task(client.start_request(POST))
            again = await listener.accept()
            await again.handshake()
            assert await asking == 3
            peer.send_headers(first, response())
            peer.send(data(first, b"done", end_stream=True))
            await client.end_stream(first)
            assert await client.read_stream(first, -1) == b"done"


@pytest.mark.parametrize("turns", range(12))
async def test_a_request_that_is_cancelled_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    """C2: its place is free again."""

    async def patient(proto: H2Protocol) -> None:
        while True:
            stream_id, _ = await proto.recv_request()
            with suppress(LinkError):
                await proto.read_stream(stream_id, -1)
                await proto.start_response(stream_id, OK)
                await proto.send_data(stream_id, b"hello, ", end_stream=True)

    async with linked(patient, concurrency=1) as client:
        asking = asyncio.create_task(client.start_request(GET))
        await settle(turns)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        if not asking.cancelled():
            await client.end_stream(asking.result())
        async with asyncio.timeout(5):
            stream_id = await client.start_request(GET, end_stream=True)
            assert await client.read_stream(stream_id, -1) == b"hello, "


@pytest.mark.parametrize("turns", range(8))
async def test_opening_that_is_cancelled_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    async with await aioh2.start_server(greet) as server:
        opening = asyncio.create_task(aioh2.open_connection(port=port_of(server)))
        await settle(turns)
        opening.cancel()
        (client,) = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(client, H2Protocol):
            client.close_connection()
            await client.wait_closed()


@pytest.mark.logs_errors("without waiting for 1 handlers")
async def test_a_handler_that_swallows_its_cancellation_holds_nobody_up() -> None:
    go = asyncio.Event()

    async def stubborn(proto: H2Protocol) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    limits = Limits(shutdown_timeout=0.05, drain_timeout=0.05)
    async with (
        await aioh2.start_server(stubborn, limits=limits) as server,
        await RawPeer.connect("127.0.0.1", port_of(server)) as peer,
    ):
        await peer.handshake()
        server.close()
        await server.wait_closed()
    go.set()
    await settle()


async def test_a_task_group_that_a_lost_connection_ends_is_no_failure_of_the_handler() -> None:
    """C2: nothing is logged as an error for what a client does."""
    ended = asyncio.Event()

    async def each_in_a_task(proto: H2Protocol) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    stream_id, _ = await proto.recv_request()
                    tasks.create_task(proto.read_stream(stream_id, -1))
        finally:
            ended.set()

    async with await aioh2.start_server(each_in_a_task) as server:
        async with await RawPeer.connect("127.0.0.1", port_of(server)) as peer:
            await peer.handshake()
            for stream_id in (1, 3, 5):
                peer.send_headers(stream_id, request("POST"))
            await peer.barrier()
            await settle()
            peer.abort()
            await ended.wait()
        assert server.is_serving()


@pytest.mark.logs_errors("the handler failed")
async def test_a_handler_that_gives_nonsense_is_logged_with_it() -> None:
    async def misuse(proto: H2Protocol) -> None:
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, {})

    async with linked(misuse) as client:
        stream_id = await client.start_request(GET, end_stream=True)
        with pytest.raises(LinkError):
            await client.recv_response(stream_id)


@pytest.mark.parametrize("liar", ["a longer body", "a shorter body", "trailers with a status", "data before headers"])
async def test_a_peer_that_lies_fails_its_stream_and_no_other(liar: str) -> None:
    """S11."""
    async with calling() as (client, peer):
        first, second = [await client.start_request(GET, end_stream=True) for _ in range(2)]
        if liar == "data before headers":
            peer.send(data(first, b"early"))
        else:
            peer.send_headers(first, response(200, ("content-length", "4")))
            body = {"a longer body": b"longer", "a shorter body": b"x"}.get(liar, b"body")
            peer.send(data(first, body, end_stream=liar != "trailers with a status"))
            if liar == "trailers with a status":
                peer.send_headers(first, [(":status", "200")], end_stream=True)
        with pytest.raises(LinkError):
            await client.read_stream(first, -1)
        peer.send_headers(second, response(), end_stream=True)
        assert await client.recv_response(second) == [(":status", "200")]
