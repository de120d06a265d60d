"""What user code holds: requests, responses and streams, between our two sides and against a raw peer."""

import asyncio
import functools
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest

from actors.actor import get_state
from actors.bodies import open_stream, request
from actors.errors import (
    Closed,
    DeadlineExceeded,
    ErrorCode,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Misuse,
    Outcome,
    StreamReset,
)
from actors.handling import serve
from actors.headers import Headers
from actors.messages import BytesArrived, Resume, Suspend
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, Flag, Setting, Type, data, headers, response, rst, window_update
from tests.support.sides import Bench, kinds, linked, linked_to_raw, served, settle, until


async def echo(stream: ServerStream) -> None:
    """The body and trailers come back."""
    body = await stream.read()
    trailers = await stream.trailers()
    await stream.respond(200, [("x-method", stream.method), ("x-path", stream.path)], body, trailers)


async def never(stream: ServerStream) -> None:
    await asyncio.Event().wait()


# --- bodies -----------------------------------------------------------------------------------------------------------


def generator() -> Iterator[bytes]:
    yield b"he"
    yield b""
    yield b"llo"


async def async_generator() -> AsyncIterator[bytes]:
    for chunk in generator():
        await asyncio.sleep(0)
        yield chunk


BODIES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"hello",
    "bytearray": lambda: bytearray(b"hello"),
    "memoryview": lambda: memoryview(b"-hello-")[1:-1],
    "a view of numbers": lambda: memoryview(array("H", [0x6568, 0x6C6C])),
    "a list": lambda: [b"he", bytearray(b"l"), memoryview(b"lo")],
    "a generator": generator,
    "an async generator": async_generator,
    "nothing": lambda: b"",
    "no pieces": list,
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("opened", [False, True])
async def test_a_body_of_any_kind_arrives_whole(kind: str, opened: bool) -> None:
    expected = {"a view of numbers": b"hell", "nothing": b"", "no pieces": b""}.get(kind, b"hello")
    async with linked(echo) as link:
        if opened:
            async with link.stream("POST", "/p?q", body=BODIES[kind](), trailers={"x-t": "1"}) as stream:
                head = await stream.response()
                body, trailers = await stream.read(), await stream.trailers()
        else:
            reply = await link.request("POST", "/p?q", body=BODIES[kind](), trailers={"x-t": "1"})
            head, body, trailers = reply, reply.body, reply.trailers  # type: ignore[assignment]
    assert (head.status, body, trailers["x-t"]) == (200, expected, "1")
    assert (head.headers["x-method"], head.headers["x-path"]) == ("POST", "/p?q")


@pytest.mark.parametrize("size", [1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_bodies_around_and_beyond_the_windows_go_both_ways(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    async with linked(echo) as link:
        assert (await link.request("PUT", "/", body=body[:size])).body == body[:size]


class Spoilt(Exception):
    pass


def spoilt() -> Iterator[bytes]:
    yield b"part"
    raise Spoilt


async def spoilt_slowly() -> AsyncIterator[bytes]:
    yield b"part"
    await asyncio.sleep(0)
    raise Spoilt


@pytest.mark.parametrize("body", [spoilt, spoilt_slowly])
async def test_a_body_that_raises_resets_its_stream_and_raises_at_the_caller(body: Callable[[], Any]) -> None:
    async with linked_to_raw() as (link, peer):
        with pytest.raises(Spoilt):
            await link.request("POST", "/", body=body())
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.CANCEL
        assert not [frame for frame in peer.seen if frame.type == Type.DATA and frame.has(Flag.END_STREAM)]
        async with link.stream("POST", "/", body=body()) as stream:
            with pytest.raises(Closed) as caught:
                await stream.response()
        assert isinstance(caught.value.__cause__, Spoilt)
        assert (await peer.expect(Type.RST_STREAM, 3)).code == Code.CANCEL
        await peer.barrier()
        assert len([frame for frame in peer.seen if frame.type == Type.RST_STREAM]) == 2


@pytest.mark.parametrize("body", ["text", 5, object(), [1], ["text"], {"a": 1}])
async def test_a_body_that_is_no_bytes_is_misuse_and_the_connection_goes_on(body: Any) -> None:
    async with linked(echo) as link:
        with pytest.raises(Misuse):
            await link.request("POST", "/", body=body)
        assert (await link.request("POST", "/", body=b"next")).body == b"next"


async def test_a_body_whose_length_is_not_what_its_header_says_is_misuse() -> None:
    async with linked(echo) as link:
        with pytest.raises(Misuse, match="content-length"):
            await link.request("POST", "/", body=b"four", headers={"content-length": "5"})
        with pytest.raises(InvalidHeaders):
            await link.request("POST", "/", headers=[("content-length", "1"), ("content-length", "2")], body=b"1")
        assert (await link.request("POST", "/", body=b"four", headers={"content-length": "4"})).body == b"four"


async def test_an_early_whole_answer_is_delivered_while_the_bodys_source_has_nothing_to_give() -> None:
    """S4: the peer answers, and wants no more (RFC 9113, 8.1)."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("POST", "/", body=endless()))
        await peer.expect(Type.DATA, 1)
        peer.send_headers(1, response(413))
        peer.send(data(1, b"too long", end_stream=True) + rst(1, Code.NO_ERROR))
        async with asyncio.timeout(5):
            reply = await asking
        assert (reply.status, reply.body) == (413, b"too long")


async def test_leaving_a_stream_ends_a_body_whose_source_has_nothing_to_give() -> None:
    """L1: else it would hold its slot, and its task, for as long as the link lives."""
    cleaned = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with linked_to_raw({Setting.MAX_CONCURRENT_STREAMS: 1}) as (link, peer):
        async with link.stream("POST", "/", body=endless()):
            await peer.expect(Type.DATA, 1)
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.CANCEL
        next_one = asyncio.create_task(link.request("GET", "/"))
        await peer.expect_headers(3)
        peer.send(headers(3, frames.encode(response(200)), end_stream=True))
        assert (await next_one).status == 200
        async with asyncio.timeout(5):
            await cleaned.wait()


# --- headers at every entry point -------------------------------------------------------------------------------------

INVALID: dict[str, Any] = {
    "a name with a space": {"x y": "1"},
    "an empty name": {"": "1"},
    "a pseudo-header": {":path": "/"},
    "HTTP/1.1's own": {"connection": "close"},
    "transfer-encoding": {"Transfer-Encoding": "chunked"},
    "a newline in the value": {"x": "a\r\nb: c"},
    "NUL in the value": {"x": b"a\0b"},
    "te": {"te": "gzip"},
    "not latin-1": {"x": "\u20ac"},
    "a number": {"x": 1},
    "None": {"x": None},
    "no pairs": [("x",)],
    "three": [("x", "y", "z")],
    "no iterable": 5,
    "a bad length": {"content-length": "many"},
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
async def test_invalid_headers_raise_at_every_call_of_a_client_and_the_next_request_succeeds(invalid: Any) -> None:
    """W2: nothing is sent, and the compression of the connection is not spoilt."""
    async with linked(echo) as link:
        for number in range(3):
            good = {"x-indexed": f"value {number}"}
            with pytest.raises(InvalidHeaders):
                await link.request("GET", "/", headers=invalid)
            with pytest.raises(InvalidHeaders):
                await link.request("POST", "/", body=b"x", trailers=invalid)
            with pytest.raises(InvalidHeaders):
                async with link.stream("GET", "/", headers=invalid):
                    pytest.fail("it was opened")
            async with link.stream("POST", "/", headers=good) as stream:
                with pytest.raises(InvalidHeaders):
                    await stream.end(trailers=invalid)
                await stream.send(b"went on")
                await stream.end(trailers=good)
                assert await stream.read() == b"went on"
                assert (await stream.trailers())["x-indexed"] == f"value {number}"
            assert (await link.request("POST", "/", headers=good, body=b"next")).body == b"next"


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
async def test_invalid_headers_raise_at_every_call_of_a_server_and_the_response_still_goes(invalid: Any) -> None:
    """W2: on the server's side, with the same connection for all of it."""
    caught: list[str] = []

    async def careless(stream: ServerStream) -> None:
        attempts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("inform", lambda: stream.inform(103, invalid)),
            ("start", lambda: stream.start_response(200, invalid)),
            ("respond", lambda: stream.respond(200, invalid)),
            ("trailers", lambda: stream.respond(200, trailers=invalid)),
        ]
        for name, attempt in attempts:
            try:
                await attempt()
            except InvalidHeaders:
                caught.append(name)
        await stream.start_response(200, {"x-good": "1"})
        try:
            await stream.end(invalid)
        except InvalidHeaders:
            caught.append("end")
        await stream.send(b"still here")
        await stream.end({"x-end": "2"})

    async with linked(careless) as link:
        for _ in range(3):
            reply = await link.request("GET", "/")
            assert (reply.status, reply.body, reply.headers["x-good"], reply.trailers["x-end"]) == (
                200,
                b"still here",
                "1",
                "2",
            )
    assert caught == ["inform", "start", "respond", "trailers", "end"] * 3


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GE T", "/", {}),
        ("", "/", {}),
        (None, "/", {}),
        (bytearray(b"GET"), "/", {}),
        ("GET", "no-slash", {}),
        ("GET", "", {}),
        ("GET", "/a b", {}),
        ("GET", "/\u20ac", {}),
        ("GET", "/a\r\nb", {}),
        ("GET", None, {}),
        ("GET", "/", {"headers": {"host": "a b"}}),
        ("GET", "/", {"headers": [("host", "a"), ("host", "b")]}),
    ],
)
async def test_a_request_that_cannot_be_written_raises_at_the_call(method: Any, path: Any, more: Any) -> None:
    """W2: for what becomes pseudo-headers."""
    async with linked(echo) as link:
        with pytest.raises(InvalidHeaders):
            await link.request(method, path, **more)
        with pytest.raises(InvalidHeaders):
            async with link.stream(method, path, **more):
                pytest.fail("it was opened")
        assert (await link.request("GET", "/")).status == 200


@pytest.mark.parametrize(
    "option",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "soon"},
        {"weight": 0},
        {"weight": 257},
        {"weight": True},
        {"max_body": -1},
        {"max_body": 1.5},
    ],
    ids=str,
)
async def test_an_option_that_cannot_work_is_misuse(option: Any) -> None:
    async with linked(echo) as link:
        with pytest.raises(Misuse):
            await link.request("GET", "/", **option)
        with pytest.raises(Misuse):
            async with link.stream("GET", "/", **option):
                pytest.fail("it was opened")


# --- responses --------------------------------------------------------------------------------------------------------


async def test_absent_trailers_are_empty_headers_on_both_sides() -> None:
    """S8."""
    seen: list[Headers] = []

    async def handler(stream: ServerStream) -> None:
        seen.append(await stream.trailers())
        await stream.respond(200, trailers=[("x", "y")] if stream.path == "/with" else ())

    async with linked(handler) as link:
        without = await link.request("GET", "/without")
        present = await link.request("POST", "/with", body=[b"x"], trailers=[("up", "1")])
        async with link.stream("GET", "/without") as stream:
            streamed = await stream.trailers()
    assert [type(value) for value in (without.trailers, present.trailers, streamed, *seen)] == [Headers] * 6
    assert (len(without.trailers), len(streamed), list(present.trailers)) == (0, 0, [(b"x", b"y")])
    assert [list(headers) for headers in seen] == [[], [(b"up", b"1")], []]


async def test_informational_heads_come_with_the_final_one() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.inform(103, {"link": "</style.css>"})
        await stream.inform(199)
        await stream.respond(200, body=b"final")

    async with linked(handler) as link:
        reply = await link.request("GET", "/")
        async with link.stream("GET", "/") as stream:
            head = await stream.response()
    for each in (reply, head):
        assert (each.status, [early.status for early in each.informational]) == (200, [103, 199])
        assert each.informational[0].headers["link"] == "</style.css>"


@pytest.mark.parametrize("status", [100, 101, 199, 99, 1000, -1, True, "200", None, 200.0])
async def test_a_status_that_is_not_final_is_refused_as_a_response(status: Any) -> None:
    async def handler(stream: ServerStream) -> None:
        for attempt in (stream.respond, stream.start_response):
            with pytest.raises((Misuse, InvalidHeaders)):
                await attempt(status)
        await stream.respond(204)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204


@pytest.mark.parametrize("status", [200, 99, 101, True, "103", None])
async def test_a_status_that_is_not_informational_is_refused_by_inform(status: Any) -> None:
    async def handler(stream: ServerStream) -> None:
        with pytest.raises((Misuse, InvalidHeaders)):
            await stream.inform(status)
        await stream.respond(204)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204


async def test_the_response_to_head_has_a_length_and_no_body_however_it_is_made() -> None:
    async def handler(stream: ServerStream) -> None:
        if stream.path == "/whole":
            await stream.respond(200, body=b"12345")
        else:
            await stream.start_response(200, {"content-length": "5"})
            await stream.send(b"12345")
            await stream.end()

    async with served(handler) as peer:
        for stream_id, path in ((1, "/whole"), (3, "/pieces")):
            peer.send_headers(stream_id, frames.request("HEAD", path), end_stream=True)
            assert (b"content-length", b"5") in await peer.expect_headers(stream_id)
            await peer.barrier()
            assert b"".join(frame.body for frame in peer.seen if frame.type == Type.DATA) == b""
            last = [frame for frame in peer.seen if frame.stream_id == stream_id][-1]
            assert last.has(Flag.END_STREAM)
            assert last.type in (Type.HEADERS, Type.DATA)
    async with linked(handler) as link:
        for path in ("/whole", "/pieces"):
            reply = await link.request("HEAD", path)
            assert (reply.headers["content-length"], reply.body) == ("5", b"")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_is_kept_without_one(status: int) -> None:
    async def handler(stream: ServerStream) -> None:
        with pytest.raises(Misuse, match="no body"):
            await stream.respond(status, body=b"x")
        if stream.path == "/whole":
            await stream.respond(status)
        else:
            await stream.start_response(status)
            with pytest.raises(Misuse, match="no body"):
                await stream.send(b"x")

    async with linked(handler) as link:
        for path in ("/whole", "/pieces"):
            reply = await link.request("GET", path)
            assert (reply.status, reply.body, "content-length" in reply.headers) == (status, b"", False)


async def test_a_bodys_length_must_be_what_its_header_says() -> None:
    async def handler(stream: ServerStream) -> None:
        with pytest.raises(Misuse, match="content-length"):
            await stream.respond(200, {"content-length": "5"}, b"four")
        with pytest.raises(InvalidHeaders):
            await stream.start_response(200, [("content-length", "1"), ("content-length", "2")])
        await stream.respond(200, {"content-length": "4"}, b"four")

    async with linked(handler) as link:
        reply = await link.request("GET", "/")
        assert (reply.body, reply.headers.all("content-length")) == (b"four", [b"4"])


async def test_a_body_in_pieces_must_be_as_long_as_its_header_says() -> None:
    """On both sides: the peer would have to call anything else malformed (RFC 9113, 8.1.1)."""

    async def handler(stream: ServerStream) -> None:
        await stream.read()
        await stream.start_response(200, {"content-length": "10"})
        await stream.send(b"short")
        with pytest.raises(Misuse, match="content-length"):
            await stream.end()
        with pytest.raises(Misuse, match="content-length"):
            await stream.send(b"too long")
        await stream.send(b"12345")
        await stream.end()

    async with linked(handler) as link, link.stream("POST", "/", headers={"content-length": "5"}) as stream:
        await stream.send(b"1234")
        with pytest.raises(Misuse, match="content-length"):
            await stream.end()
        with pytest.raises(Misuse, match="content-length"):
            await stream.send(b"56")
        await stream.send(b"5")
        await stream.end()
        assert await stream.read() == b"short12345"
        for body in ([b"four"], [b"sixsix"]):
            with pytest.raises(Misuse, match="content-length"):
                await link.request("POST", "/", body=body, headers={"content-length": "5"})


async def test_a_204_never_says_how_long_it_is() -> None:
    """RFC 9110, 8.6: no content-length with 204 or 1xx, not even the handler's own."""

    async def handler(stream: ServerStream) -> None:
        for attempt in (stream.respond, stream.start_response):
            with pytest.raises((Misuse, InvalidHeaders), match="content-length"):
                await attempt(204, {"content-length": "5"})
        with pytest.raises((Misuse, InvalidHeaders), match="content-length"):
            await stream.inform(103, {"content-length": "5"})
        await stream.respond(204)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204


async def test_a_request_is_seen_as_it_was_sent() -> None:
    seen: list[Any] = []

    async def handler(stream: ServerStream) -> None:
        seen.append((stream.id, stream.method, stream.scheme, stream.authority, stream.path, list(stream.headers)))
        seen.append((stream.cause, stream.peer.address.partition(":")[0]))
        await stream.respond(200)

    async with linked(handler) as link:
        await link.request("GET", "/a?b=c", headers=[("X-One", "1"), ("x-one", b"\xff"), ("host", "service.test")])
    assert seen[0] == (1, "GET", "http", "service.test", "/a?b=c", [(b"x-one", b"1"), (b"x-one", b"\xff")])
    assert seen[1] == (None, "127.0.0.1")


# --- the order of calls -----------------------------------------------------------------------------------------------


async def test_a_second_response_is_misuse_and_the_first_one_stands() -> None:
    async def handler(stream: ServerStream) -> None:
        if stream.path == "/whole":
            await stream.respond(200, body=b"first")
        else:
            await stream.start_response(200)
        for again in (stream.respond(500), stream.start_response(500), stream.inform(103)):
            with pytest.raises(Misuse):
                await again
        if stream.path != "/whole":
            await stream.send(b"first")
            await stream.end()
        with pytest.raises(Misuse, match="has ended"):
            await stream.send(b"more")
        with pytest.raises(Misuse, match="has ended"):
            await stream.end()

    async with linked(handler) as link:
        for path in ("/whole", "/pieces"):
            reply = await link.request("GET", path)
            assert (reply.status, reply.body) == (200, b"first")


async def test_a_body_before_its_head_is_misuse() -> None:
    async def handler(stream: ServerStream) -> None:
        for early in (stream.send(b"x"), stream.end()):
            with pytest.raises(Misuse, match="start_response"):
                await early
        await stream.respond(200)

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 200


async def test_what_is_no_bytes_is_misuse_to_send_and_respond() -> None:
    async def handler(stream: ServerStream) -> None:
        for bad in ("text", 5, None, [b"x"]):
            with pytest.raises(Misuse):
                await stream.respond(200, body=bad)  # type: ignore[arg-type]
        await stream.start_response(200)
        for bad in ("text", 5, None, [b"x"]):
            with pytest.raises(Misuse):
                await stream.send(bad)  # type: ignore[arg-type]

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 200


async def test_a_client_may_end_once_or_plainly_again_but_send_nothing_behind_it() -> None:
    async with linked(echo) as link, link.stream("POST", "/") as stream:
        await stream.send(b"all")
        await stream.end()
        await stream.end()
        with pytest.raises(Misuse):
            await stream.end(trailers={"x": "y"})
        with pytest.raises(Misuse):
            await stream.send(b"more")
        assert await stream.read() == b"all"
        with pytest.raises(Misuse):
            await stream.send(b"more")


async def test_get_and_head_have_no_body_to_send() -> None:
    async with linked(echo) as link:
        for method in ("GET", "HEAD"):
            async with link.stream(method, "/") as stream:
                with pytest.raises(Misuse):
                    await stream.send(b"x")
                await stream.end()
                assert (await stream.response()).status == 200


async def test_a_stream_that_is_used_after_its_end_says_that_it_has_ended() -> None:
    """An unfinished one was reset; a finished one has ended."""
    kept: list[ServerStream] = []

    async def handler(stream: ServerStream) -> None:
        kept.append(stream)
        await echo(stream)

    async with linked(handler) as link:
        async with link.stream("POST", "/") as unfinished:
            pass
        reading = (unfinished.read(), unfinished.read(1), unfinished.response(), unfinished.trailers())
        for late in (*reading, unfinished.send(b"x"), unfinished.end()):
            with pytest.raises(Closed):
                await late
        unfinished.reset()

        async with link.stream("POST", "/") as finished:
            await finished.end()
            await finished.read()
        assert (await finished.response()).status == 200
        assert (await finished.read(), await finished.read(5), len(await finished.trailers())) == (b"", b"", 0)
        for late in (finished.send(b"x"), finished.end(trailers={"x": "y"})):
            with pytest.raises(Misuse):
                await late
        finished.reset()
        assert finished.cause is None

        used = kept[-1]
        for late in (used.send(b"x"), used.end(), used.respond(200), used.start_response(200), used.inform(103)):
            with pytest.raises((Misuse, Closed)):
                await late
        used.reset()
        assert await used.read() == b""
        assert (await link.request("GET", "/")).status == 200


@pytest.mark.parametrize("code", [-1, 2**32, "CANCEL", None, True, 8.0])
async def test_an_error_code_that_is_none_is_misuse(code: Any) -> None:
    async with linked(echo) as link, link.stream("GET", "/") as stream:
        with pytest.raises(Misuse):
            stream.reset(code)


async def test_any_error_code_goes_out_as_it_was_given() -> None:
    async with linked_to_raw() as (link, peer):
        for number, code in enumerate((ErrorCode.ENHANCE_YOUR_CALM, 0, 2**32 - 1)):
            async with link.stream("POST", "/") as stream:
                stream.reset(code)
                with pytest.raises(Closed):
                    await stream.response()
            assert (await peer.expect(Type.RST_STREAM, 2 * number + 1)).code == code


async def test_leaving_an_unfinished_stream_resets_it_with_cancel_once() -> None:
    """S10: whatever arrives late."""
    async with linked_to_raw() as (link, peer):
        async with link.stream("POST", "/"):
            await peer.expect_headers(1)
        reset = await peer.expect(Type.RST_STREAM, 1)
        assert reset.code == Code.CANCEL
        peer.send_headers(1, response(200))
        for late in (data(1, b"late"), window_update(1, 5), data(1, b"late", end_stream=True), rst(1)):
            peer.send(late)
            await peer.barrier()
        assert len([frame for frame in peer.seen if frame.type == Type.RST_STREAM]) == 1


# --- handlers ---------------------------------------------------------------------------------------------------------


@pytest.mark.logs_errors(r"server-\d+/connection-1/stream-3 crashed \(ZeroDivisionError")
async def test_a_handlers_exception_costs_only_its_own_stream() -> None:
    """S5: INTERNAL_ERROR, and the log has the traceback once, with the stream's name."""

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/bad":
            _ = 1 / 0
        await echo(stream)

    async with linked(handler) as link, link.stream("POST", "/") as sibling:
        await sibling.send(b"before")
        with pytest.raises(StreamReset) as caught:
            await link.request("GET", "/bad")
        assert caught.value.code == ErrorCode.INTERNAL_ERROR
        await sibling.send(b" and after")
        await sibling.end()
        assert await sibling.read() == b"before and after"


@pytest.mark.logs_errors(r"stream-\d+ crashed \(KeyError\('after'\)\)")
async def test_a_handler_that_fails_halfway_never_looks_like_success(caplog: pytest.LogCaptureFixture) -> None:
    """S5 and S1: what was sent comes, then INTERNAL_ERROR; the traceback is logged once."""

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(b"half")
        raise KeyError("after")

    async with linked(handler) as link, link.stream("GET", "/") as stream:
        assert (await stream.response()).status == 200
        with pytest.raises(StreamReset) as caught:
            await stream.read()
        assert caught.value.code == ErrorCode.INTERNAL_ERROR
    (record,) = [record for record in caplog.records if record.name.startswith("muxlink") and record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


async def test_a_peers_reset_cancels_the_handler_which_sees_the_cause_and_cleans_up() -> None:
    """S6: CancelledError, with the reset in ``stream.cause``; the clean-up may wait, and nothing is logged."""
    began, cleaned = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/next":
            await stream.respond(200)
            return
        began.set()
        try:
            await stream.read()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append(stream.cause)
            raise
        finally:
            cleaned.set()

    async with served(handler) as peer:
        peer.send_headers(1, frames.request("POST"))
        peer.send(data(1, b"part"))
        await began.wait()
        peer.send(rst(1, Code.ENHANCE_YOUR_CALM))
        await cleaned.wait()
        assert isinstance(seen[0], StreamReset)
        assert (seen[0].code, seen[0].received) == (ErrorCode.ENHANCE_YOUR_CALM, 4)
        peer.send_headers(3, frames.request(path="/next"), end_stream=True)
        assert (await peer.expect_headers(3))[0] == (b":status", b"200")
        assert not [frame for frame in peer.seen if frame.type == Type.RST_STREAM]


async def test_on_a_client_a_peers_reset_is_raised_at_those_who_wait() -> None:
    """S6 and S2: in whatever call each of them is."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        await peer.expect_headers(1)
        calls = (stream.response(), stream.read(), stream.read(5), stream.trailers(), stream.send(bytes(10**6)))
        waiting = [asyncio.create_task(call) for call in calls]
        asking = asyncio.create_task(link.request("GET", "/"))
        await peer.expect_headers(3)
        peer.send(rst(1, Code.INTERNAL_ERROR) + rst(3, Code.REFUSED_STREAM))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [getattr(result, "code", result) for result in results] == [ErrorCode.INTERNAL_ERROR] * 5
        assert {result.outcome for result in results if isinstance(result, StreamReset)} == {Outcome.MAYBE_PROCESSED}
        await peer.expect_headers(5)  # what the peer did not process goes again
        peer.send_headers(5, response(200), end_stream=True)
        assert (await asking).status == 200
        assert isinstance(stream.cause, StreamReset)
        await peer.barrier()
        assert not [frame for frame in peer.seen if frame.type == Type.RST_STREAM], "a reset was answered with one"


async def test_a_response_cut_by_a_reset_says_how_much_had_come() -> None:
    """S1: through what users hold, by request() and by reading."""
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("GET", "/"))
        async with link.stream("GET", "/") as stream:
            for stream_id in (1, 3):
                await peer.expect_headers(stream_id)
                peer.send_headers(stream_id, response(200, ("content-length", "10")))
                peer.send(data(stream_id, b"12345") + rst(stream_id, Code.INTERNAL_ERROR))
            for call in (asking, stream.read()):
                with pytest.raises(StreamReset) as caught:
                    await call
                assert (caught.value.code, caught.value.received) == (ErrorCode.INTERNAL_ERROR, 5)


async def test_a_connection_that_ends_inside_a_body_never_looks_like_success() -> None:
    """S1, by the end of the connection."""
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("GET", "/"))
        async with link.stream("GET", "/") as stream:
            for stream_id in (1, 3):
                await peer.expect_headers(stream_id)
                peer.send_headers(stream_id, response(200))
                peer.send(data(stream_id, b"12345"))
            await peer.close()
            with pytest.raises(LinkError) as caught:
                await asking
            assert caught.value.outcome is Outcome.MAYBE_PROCESSED
            with pytest.raises(LinkError):
                await stream.read()


@pytest.mark.logs_errors("the handler returned without a response to GET /silent")
async def test_a_handler_that_returns_without_a_response_is_an_internal_error() -> None:
    """S14: logged with what was asked; the next request is served."""

    async def handler(stream: ServerStream) -> None:
        if stream.path != "/silent":
            await stream.respond(200)

    async with linked(handler) as link:
        with pytest.raises(StreamReset) as caught:
            await link.request("GET", "/silent")
        assert caught.value.code == ErrorCode.INTERNAL_ERROR
        assert (await link.request("GET", "/")).status == 200


async def test_a_handler_that_returns_early_harms_neither_its_response_nor_its_siblings() -> None:
    """S14: RST_STREAM(NO_ERROR) behind the response, and the credit of what is unread comes back."""

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/early":
            await stream.respond(200, body=b"enough")
        else:
            await echo(stream)

    limits = Limits(stream_window=65_535, connection_window=65_535)
    async with served(handler, limits=limits) as peer:
        granted = 0
        for stream_id in range(1, 201, 2):
            peer.send_headers(stream_id, frames.request("POST", "/early"))
            for _ in range(4):
                peer.send(data(stream_id, bytes(9_000)))
            assert await peer.expect_body(stream_id) == b"enough"
            assert (await peer.expect(Type.RST_STREAM, stream_id)).code == Code.NO_ERROR
            await peer.barrier()
            granted += sum(
                frame.increment for frame in peer.seen if frame.type == Type.WINDOW_UPDATE and not frame.stream_id
            )
            peer.seen.clear()
        missing = 100 * 36_000 - granted
        assert missing <= 32_767, "credit was lost beyond what waits to be returned together"
        peer.send_headers(201, frames.request("POST", "/"))
        peer.send(data(201, b"sibling", end_stream=True))
        assert await peer.expect_body(201) == b"sibling"


async def test_a_handler_may_leave_the_end_of_its_response_to_its_return() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(b"all of it")

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).body == b"all of it"


async def test_a_large_response_arrives_whole_after_its_handler_has_returned() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(bytes(200_000))

    async with served(handler, {Setting.INITIAL_WINDOW_SIZE: 10}) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        await peer.expect_headers(1)
        await peer.barrier()
        peer.send(window_update(1, 300_000) + window_update(0, 300_000))
        assert await peer.expect_body(1) == bytes(200_000)


class Called:
    async def __call__(self, stream: ServerStream) -> None:
        await stream.respond(204)


async def two(word: str, stream: ServerStream) -> None:
    await stream.respond(204)


@pytest.mark.parametrize("handler", [Called(), Called().__call__, functools.partial(two, "x")])
async def test_a_handler_is_anything_whose_call_is_a_coroutine(handler: Any) -> None:
    async with linked(handler) as link:
        assert (await link.request("GET", "/")).status == 204


async def generates(stream: ServerStream) -> AsyncIterator[bytes]:
    yield b""


@pytest.mark.parametrize("handler", [lambda stream: None, print, None, 5, "handler", generates, Called])
def test_a_handler_that_is_no_coroutine_function_is_misuse_at_once(handler: Any) -> None:
    with pytest.raises(Misuse, match="async def"):
        Server(handler)
    with pytest.raises(Misuse, match="async def"):
        serve(handler)


async def test_a_body_beyond_the_servers_limit_is_answered_with_413() -> None:
    async with linked(echo, limits=Limits(max_request_body=10)) as link:
        assert (await link.request("POST", "/", body=bytes(11))).status == 413
        assert (await link.request("POST", "/", body=bytes(10))).status == 200


async def test_a_response_beyond_the_callers_limit_is_an_error_and_cancelled() -> None:
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("GET", "/", max_body=4))
        await peer.expect_headers(1)
        peer.send_headers(1, response(200))
        peer.send(data(1, b"12345"))
        with pytest.raises(LimitReached, match="max_body, 4 bytes"):
            await asking
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.CANCEL


# --- many small calls -------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_a_handler_that_sends_byte_by_byte_without_a_pause_harms_nobody() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        for _ in range(100_000):
            await stream.send(b"x")

    async with linked(handler) as link:
        reply, sibling = await asyncio.gather(link.request("GET", "/"), link.request("GET", "/"))
        assert (len(reply.body), len(sibling.body)) == (100_000, 100_000)


@pytest.mark.bulk
async def test_a_handler_that_informs_without_a_pause_harms_nobody() -> None:
    async def handler(stream: ServerStream) -> None:
        for _ in range(70_000 if stream.path == "/chatty" else 0):
            await stream.inform(103)
        await stream.respond(200, body=b"done")

    async with Bench(handler) as bench:
        chatty = frames.encode(frames.request("GET", "/chatty"))
        await bench.hears(
            headers(1, chatty, end_stream=True) + headers(3, frames.encode(frames.request()), end_stream=True)
        )
        await until(lambda: bench.socket.written.count(b"done") == 2)
        assert bench.actor.exited is None


@pytest.mark.bulk
async def test_a_handler_that_reads_byte_by_byte_without_a_pause_harms_nobody() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.trailers()  # all of it is there, and every read gives a byte at once
        count = 0
        while await stream.read(1):
            count += 1
        await stream.respond(200, body=b"%d" % count)

    async with linked(handler) as link:
        assert (await link.request("POST", "/", body=bytes(100_000))).body == b"100000"


@pytest.mark.bulk
async def test_a_body_in_tiny_pieces_without_a_pause_harms_nobody() -> None:
    async with linked(echo) as link:
        reply, sibling = await asyncio.gather(
            link.request("POST", "/", body=(b"x" for _ in range(100_000))), link.request("POST", "/", body=b"sibling")
        )
        assert (len(reply.body), sibling.body) == (100_000, b"sibling")


async def test_fifty_tasks_send_on_one_stream_at_once_and_every_byte_arrives() -> None:
    async with linked(echo, limits=Limits(send_buffer=10_000)) as link, link.stream("POST", "/") as stream:
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(stream.send(bytes([number]) * 20_000))
        await stream.end()
        body = await stream.read()
        assert [body.count(number) for number in range(50)] == [20_000] * 50


async def test_fifty_tasks_respond_at_once_and_one_wins() -> None:
    async def handler(stream: ServerStream) -> None:
        results = await asyncio.gather(
            *[stream.respond(200, body=b"%d" % number) for number in range(50)], return_exceptions=True
        )
        assert [type(result) for result in results].count(Misuse) == 49

    async with linked(handler) as link:
        assert (await link.request("GET", "/")).body == b"0"


# --- time limits and outcomes -----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_time_limit_while_waiting_for_a_slot_says_not_sent() -> None:
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 0}))
        started = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded) as caught:
            await request(bench.route, bench.outgoing(timeout=3))
        assert caught.value.outcome is Outcome.NOT_SENT
        assert asyncio.get_running_loop().time() - started == pytest.approx(3)
        with pytest.raises(DeadlineExceeded) as caught:
            async with open_stream(bench.route, bench.outgoing(timeout=3)):
                pytest.fail("it was opened")
        assert caught.value.outcome is Outcome.NOT_SENT
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 9}))
        assert kinds(bench.says()) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "heard",
    [b"", headers(1, frames.encode(response(200))), headers(1, frames.encode(response(200))) + data(1, b"part")],
    ids=["before the head", "before the body", "inside the body"],
)
async def test_a_time_limit_once_the_request_is_out_says_maybe_processed(heard: bytes) -> None:
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing(timeout=3)))
        await settle()
        await bench.hears(heard)
        with pytest.raises(DeadlineExceeded) as caught:
            await asking
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        await settle()
        assert kinds(bench.says()) == [(Type.HEADERS, 1), (Type.RST_STREAM, 1)]


@pytest.mark.virtual_time
async def test_a_time_limit_during_the_upload_says_maybe_processed() -> None:
    async with Bench() as bench:
        with pytest.raises(DeadlineExceeded) as caught:
            await request(bench.route, bench.outgoing("POST", body=bytes(1_000_000), timeout=3))
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        await settle()
        said = [frame for frame in bench.says() if frame.type == Type.RST_STREAM]
        assert [(frame.stream_id, frame.code) for frame in said] == [(1, Code.CANCEL)]


@pytest.mark.virtual_time
async def test_an_opened_streams_time_limit_ends_it_for_everyone_who_waits() -> None:
    async with Bench() as bench, open_stream(bench.route, bench.outgoing("POST", body=None, timeout=3)) as stream:
        calls = (stream.response(), stream.read(), stream.trailers(), stream.send(bytes(1_000_000)))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [DeadlineExceeded] * 4
        assert isinstance(stream.cause, DeadlineExceeded)
        assert stream.cause.outcome is Outcome.MAYBE_PROCESSED
        await settle()
        assert [frame.code for frame in bench.says() if frame.type == Type.RST_STREAM] == [Code.CANCEL]


@pytest.mark.virtual_time
async def test_what_was_reported_as_not_sent_is_never_sent() -> None:
    """X1: a connection that is busy for longer than the caller waits must not send the request behind its back."""
    async with Bench() as bench:
        bench.actor.signal(Suspend())
        with pytest.raises(DeadlineExceeded) as caught:
            await request(bench.route, bench.outgoing("POST", body=b"pay", timeout=3))
        impatient = asyncio.create_task(request(bench.route, bench.outgoing("POST", body=b"pay")))
        await settle()
        impatient.cancel()
        await asyncio.wait([impatient])
        assert caught.value.outcome is Outcome.NOT_SENT
        bench.actor.signal(Resume())
        await settle()
        assert kinds(bench.says()) == []
        assert (await get_state(bench.actor.ref)).children == ()


@pytest.mark.virtual_time
async def test_a_timeout_of_the_callers_own_body_is_not_mistaken_for_the_requests() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        async with asyncio.timeout(1):
            await asyncio.Event().wait()

    async with Bench() as bench:
        outgoing = bench.outgoing("POST", body=None, timeout=60)
        object.__setattr__(outgoing, "body", body())
        with pytest.raises(TimeoutError):
            await request(bench.route, outgoing)


async def test_a_callers_cancellation_resets_its_stream_once_and_harms_no_other() -> None:
    """S3 and S10: of 100 requests on one connection, every second one is cancelled, by every way of asking."""
    release = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        await release.wait()
        await echo(stream)

    async def opened(link: Link) -> bytes:
        async with link.stream("POST", "/", body=b"opened") as stream:
            return await stream.read()

    async def asked(link: Link, body: bytes | Iterable[bytes]) -> bytes:
        return (await link.request("POST", "/", body=body)).body

    async with linked(handler) as link:
        tasks = []
        for number in range(96):
            kind = number // 2 % 4
            if kind == 0:
                tasks.append(asyncio.create_task(opened(link)))
            elif kind == 1:
                tasks.append(asyncio.create_task(asked(link, b"short")))
            elif kind == 2:
                tasks.append(asyncio.create_task(asked(link, bytes(30_000))))
            else:
                tasks.append(asyncio.create_task(asked(link, iter([b"pie", b"ces"]))))
        await settle(100)
        for task in tasks[::2]:
            task.cancel()
            task.cancel()
        release.set()
        expected = [b"opened", b"short", bytes(30_000), b"pieces"] * 12
        assert await asyncio.gather(*tasks[1::2]) == expected
        assert all(
            isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks[::2], return_exceptions=True)
        )
        assert (await link.request("POST", "/", body=b"next")).body == b"next"


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("opened", [False, True])
async def test_a_request_cancelled_at_any_moment_leaves_nothing_behind(turns: int, opened: bool) -> None:
    """S3 and L1: with one stream at a time, the next request finds the slot free, whenever the first was cancelled."""
    async with Bench() as bench:
        await bench.hears(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        bench.says()

        async def use() -> None:
            async with open_stream(bench.route, bench.outgoing("POST", body=None)) as stream:
                await stream.send(b"x")
                await stream.response()

        first = asyncio.create_task(use() if opened else request(bench.route, bench.outgoing("POST", body=b"x")))
        await settle(turns)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await settle()
        said = kinds(bench.says())
        assert said in (
            [],
            [(Type.HEADERS, 1), (Type.RST_STREAM, 1)],
            [(Type.HEADERS, 1), (Type.DATA, 1), (Type.RST_STREAM, 1)],
        )
        second = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        stream_id = 3 if said else 1
        assert kinds(bench.says()) == [(Type.HEADERS, stream_id)]
        await bench.hears(headers(stream_id, frames.encode(response(200)), end_stream=True))
        assert (await second).status == 200
        await settle()
        assert (await get_state(bench.actor.ref)).children == ()


async def test_a_cancelled_upload_resets_the_stream_with_cancel() -> None:
    """S3: a request's, and one by send() that is half-way."""
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 10}) as (link, peer):
        upload = asyncio.create_task(link.request("POST", "/", body=bytes(1_000_000)))
        await peer.expect(Type.DATA, 1)
        upload.cancel()
        assert (await peer.expect(Type.RST_STREAM, 1)).code == Code.CANCEL
        async with link.stream("POST", "/") as stream:
            sending = asyncio.create_task(stream.send(bytes(1_000_000)))
            await peer.expect(Type.DATA, 3)
            sending.cancel()
            assert (await peer.expect(Type.RST_STREAM, 3)).code == Code.CANCEL


async def test_both_directions_flow_at_once() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        async for chunk in stream:
            await stream.send(chunk)
        await stream.end(await stream.trailers())

    async with linked(handler) as link, link.stream("POST", "/") as stream:
        for number in range(20):
            await stream.send(b"%d" % number)
            assert await stream.read(100) == b"%d" % number
        await stream.end(trailers={"x": "y"})
        assert await stream.read() == b""
        assert (await stream.trailers())["x"] == "y"


async def test_a_whole_answer_before_the_end_of_the_upload_is_delivered() -> None:
    """S4: with RST_STREAM(NO_ERROR) behind it, and a caller that is waiting for room."""
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("POST", "/", body=bytes(10_000_000)))
        await peer.expect_headers(1)
        peer.send_headers(1, response(413))
        peer.send(data(1, b"too long", end_stream=True) + rst(1, Code.NO_ERROR))
        reply = await asking
        assert (reply.status, reply.body) == (413, b"too long")


async def test_a_whole_response_is_delivered_though_a_bad_frame_follows_in_the_same_read() -> None:
    """W1: the good frames are the whole answer."""
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        whole = headers(1, frames.encode(response(200))) + data(1, b"whole", end_stream=True)
        await bench.hears(whole + frames.frame(Type.DATA, 0, 0, b"bad"))
        assert (await asking).body == b"whole"


async def test_a_whole_response_is_delivered_though_the_connection_ends_at_once() -> None:
    """W1 and L7: data and end of the connection are taken in the same turn."""
    async with Bench() as bench:
        asking = asyncio.create_task(request(bench.route, bench.outgoing()))
        await settle()
        whole = headers(1, frames.encode(response(200))) + data(1, b"whole", end_stream=True)
        bench.actor.tell(BytesArrived(whole))
        bench.socket.close()
        assert (await asking).body == b"whole"


async def test_the_window_of_a_server_bounds_what_an_unread_stream_makes_it_hold() -> None:
    """F3: siblings of a stream that is not read are served, and it is granted no byte beyond its window."""
    stop = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/unread":
            await stop.wait()
            await stream.respond(200, body=b"%d" % len(await stream.read()))
        else:
            await echo(stream)

    limits = Limits(stream_window=100_000, connection_window=300_000)
    async with served(handler, limits=limits) as peer:
        peer.send_headers(1, frames.request("POST", "/unread"))
        for _ in range(10):
            peer.send(data(1, bytes(10_000)))
        for number in range(1, 51):
            stream_id = 2 * number + 1
            peer.send_headers(stream_id, frames.request("POST"))
            for _ in range(5):
                peer.send(data(stream_id, bytes(10_000)))
            peer.send(data(stream_id, b"", end_stream=True))
            assert len(await peer.expect_body(stream_id)) == 50_000
            peer.send(window_update(0, 50_000))
        granted = [frame.increment for frame in peer.seen if frame.type == Type.WINDOW_UPDATE and frame.stream_id == 1]
        assert granted == []
        stop.set()
        peer.send(data(1, b"", end_stream=True))
        assert await peer.expect_body(1) == b"100000"


async def test_an_unread_response_does_not_stop_its_siblings() -> None:
    """F3, on a client: 20 MB of others go by while one stream lies unread."""

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        for _ in range(10):
            await stream.send(bytes(100_000))

    async with linked(handler) as link, link.stream("GET", "/") as unread:
        await unread.response()
        for _ in range(20):
            assert len((await link.request("GET", "/")).body) == 1_000_000
        assert len(await unread.read()) == 1_000_000


async def test_a_connection_whose_peer_says_the_unexpected_stays_alive() -> None:
    """W3: unknown frames and settings, a PRIORITY of an idle stream on itself, and a value that is no UTF-8."""
    async with served(echo) as peer:
        peer.send(frames.frame(0xBE, 0xFF, 0, b"?") + frames.settings({0x4A4A: 1}))
        peer.send(frames.frame(Type.PRIORITY, 0, 99, b"\0\0\0\x63\x10"))
        fields = frames.request("POST", "/", ("x-odd", "\xff\xfe"))
        peer.send_headers(1, fields, end_stream=True)
        assert (await peer.expect_headers(1))[0] == (b":status", b"200")
        await peer.barrier()
