"""Server push, both ways: what a link makes of promises, and what a handler may promise (RFC 9113, 8.4)."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.bodies import open_stream
from actors.client_stream import ClientStream, PushedStream
from actors.errors import Closed, LimitReached, Misuse, ProtocolViolation
from actors.messages import BytesArrived
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from tests.support import frames
from tests.support.frames import Code, Fields, RawPeer, Setting, Type, data, encode, headers, push_promise, rst
from tests.support.sides import Bench, kinds, linked_to_raw, served, settle

OK = encode(frames.response(200))


@asynccontextmanager
async def pushed_to(limits: Limits | None = None) -> AsyncIterator[tuple[Link, RawPeer]]:
    """A link that takes pushes, and the raw server that may send them."""
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}", push=True, limits=limits)
        async with asyncio.TaskGroup() as tasks:
            entering = tasks.create_task(link.__aenter__())
            peer = await listener.accept()
            await peer.handshake()
            await entering
        try:
            yield link, peer
        finally:
            await link.close()


def asked(link: Link, method: str = "GET", path: str = "/pushed", *extra: tuple[str, str]) -> Fields:
    """A promised request that the link may be answered."""
    return frames.request(method, path, *extra, authority=link.endpoints[0].authority)


def promise(peer: RawPeer, parent: int, stream_id: int, fields: Fields) -> None:
    peer.send(push_promise(parent, stream_id, bytes(peer.encoder.encode(fields))))


async def first(stream: ClientStream) -> PushedStream:
    async for each in stream.pushes():
        return each
    raise AssertionError("nothing was pushed")


# --- a link ---------------------------------------------------------------------------------------------------------


async def test_a_link_that_takes_no_pushes_says_so_first_and_ends_with_one_that_pushes_all_the_same() -> None:
    """S12, Q15: ENABLE_PUSH=0 in the first SETTINGS; a promise is then an error of the connection."""
    async with linked_to_raw() as (link, peer):
        assert peer.seen[0].settings[Setting.ENABLE_PUSH] == 0
        async with asyncio.TaskGroup() as tasks:
            request = tasks.create_task(expects_violation(link))
            await peer.expect_headers(1)
            promise(peer, 1, 2, asked(link))
            assert (await peer.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR
            await request
        await peer.expect_end()


async def expects_violation(link: Link) -> None:
    with pytest.raises(ProtocolViolation):
        await link.request("GET", "/")


async def test_a_link_that_takes_pushes_says_so() -> None:
    """S12."""
    async with pushed_to(Limits(max_streams=7)) as (_, peer):
        assert peer.seen[0].settings[Setting.ENABLE_PUSH] == 1
        assert peer.seen[0].settings[Setting.MAX_CONCURRENT_STREAMS] == 7


async def test_pushes_are_iterated_and_read_with_body_and_trailers() -> None:
    """S12: as they come, until the response has ended, each a request that one can look at."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        promise(peer, 1, 2, asked(link, "GET", "/a", ("accept", "x")))
        promise(peer, 1, 4, asked(link, "HEAD", "/b"))
        peer.send_headers(4, frames.response(200, ("content-length", "9")), end_stream=True)
        peer.send_headers(2, frames.response(203))
        peer.send(data(2, b"body"))
        peer.send_headers(2, [("x-sum", "1")], end_stream=True)
        peer.send_headers(1, frames.response(200), end_stream=True)
        seen = [pushed async for pushed in stream.pushes()]
        assert [(each.id, each.method, each.path, each.scheme) for each in seen] == [
            (2, "GET", "/a", "http"),
            (4, "HEAD", "/b", "http"),
        ]
        assert seen[0].authority == link.endpoints[0].authority
        assert seen[0].request_headers["accept"] == "x"
        assert (await seen[0].response()).status == 203
        assert await seen[0].read() == b"body"
        assert (await seen[0].trailers())["x-sum"] == "1"
        assert (await seen[1].response()).headers["content-length"] == "9"
        assert await seen[1].read() == b""
    await settle()


async def test_a_pushed_stream_is_cancelled_once_and_takes_no_body() -> None:
    """S12, S10."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        promise(peer, 1, 2, asked(link))
        pushed = await first(stream)
        with pytest.raises(Misuse):
            await pushed.send(b"no")
        pushed.cancel()
        pushed.cancel()
        pushed.reset()
        with pytest.raises(Closed):
            await pushed.read()
        assert (await peer.expect(Type.RST_STREAM, 2)).code == Code.CANCEL
        peer.send(headers(2, OK) + data(2, b"late", end_stream=True))
        await peer.barrier()
        assert [each.stream_id for each in peer.seen if each.type == Type.RST_STREAM] == [2]


async def test_pushes_that_nobody_asks_for_are_cancelled_when_their_parent_is_left() -> None:
    """S12."""
    async with pushed_to() as (link, peer):
        async with link.stream("GET", "/") as stream:
            await peer.expect_headers(1)
            promise(peer, 1, 2, asked(link))
            promise(peer, 1, 4, asked(link))
            peer.send_headers(1, frames.response(200))
            await stream.response()
        for stream_id in (2, 4, 1):
            assert (await peer.expect(Type.RST_STREAM, stream_id)).code == Code.CANCEL
        promise(peer, 1, 6, asked(link))
        peer.send(headers(6, OK, end_stream=True))
        assert (await peer.expect(Type.RST_STREAM, 6)).code in (Code.CANCEL, Code.REFUSED_STREAM)
        await peer.barrier()


async def test_a_promise_that_is_read_as_its_parent_is_left_is_cancelled_too() -> None:
    """S12: the bytes wait in the connection's mailbox while the caller leaves."""
    async with Bench(push=True) as bench:
        async with open_stream(bench.route, bench.outgoing()):
            bench.says()
            bench.actor.tell(BytesArrived(push_promise(1, 2, encode(frames.request()))))
        await settle()
        assert (Type.RST_STREAM, 2) in kinds(bench.says())
        assert not bench.actor.children


async def test_a_whole_request_refuses_what_is_promised_along_with_it() -> None:
    """S12."""
    async with pushed_to() as (link, peer), asyncio.TaskGroup() as tasks:
        request = tasks.create_task(link.request("GET", "/"))
        await peer.expect_headers(1)
        promise(peer, 1, 2, asked(link))
        peer.send_headers(2, frames.response(200))
        peer.send(data(2, b"not wanted"))
        peer.send_headers(1, frames.response(200), end_stream=True)
        assert (await request).status == 200
        assert (await peer.expect(Type.RST_STREAM, 2)).code == Code.CANCEL
        await peer.barrier()


@pytest.mark.parametrize(
    "fields",
    [
        frames.request("GET", "/pushed", authority="elsewhere"),
        [*frames.request("POST", "/pushed")[:1], *frames.request("GET", "/pushed")[1:]],
        frames.request("GET", "/pushed", ("content-length", "3")),
        frames.request("GET", "/pushed", ("connection", "close")),
    ],
    ids=["another authority", "POST", "content-length", "malformed"],
)
async def test_a_promise_that_no_server_may_make_costs_only_itself(fields: Fields) -> None:
    """S12: RFC 9113, 8.4 and 8.4.1."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        ours = link.endpoints[0].authority.encode()
        promise(peer, 1, 2, [(name, ours if value == b"test" else value) for name, value in fields])
        promise(peer, 1, 4, asked(link, "GET", "/good"))
        assert (await first(stream)).path == "/good"
        assert (await peer.expect(Type.RST_STREAM, 2)).code == Code.PROTOCOL_ERROR


async def test_more_promises_than_we_allow_are_refused() -> None:
    """S9, S12: the surplus alone, and a promise that has ended makes room."""
    async with pushed_to(Limits(max_streams=2)) as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        for stream_id in (2, 4, 6):
            promise(peer, 1, stream_id, asked(link))
        assert (await peer.expect(Type.RST_STREAM, 6)).code == Code.REFUSED_STREAM
        peer.send_headers(2, frames.response(200), end_stream=True)
        promise(peer, 1, 8, asked(link))
        peer.send_headers(1, frames.response(200), end_stream=True)
        assert [pushed.id async for pushed in stream.pushes()] == [2, 4, 8]


async def test_a_response_on_a_stream_that_was_promised_by_one_we_reset_harms_nobody() -> None:
    """S12, S10: the promise was on its way; its credit comes back, and it gets one RST_STREAM."""
    async with pushed_to() as (link, peer):
        async with link.stream("GET", "/"):
            await peer.expect_headers(1)
        await peer.expect(Type.RST_STREAM, 1)
        promise(peer, 1, 2, asked(link))
        peer.send_headers(2, frames.response(200))
        peer.send(data(2, b"x" * 10_000) + data(2, b"y" * 10_000, end_stream=True))
        await peer.barrier()
        assert [each.stream_id for each in peer.seen if each.type == Type.RST_STREAM] == [1, 2]
        async with asyncio.TaskGroup() as tasks:
            request = tasks.create_task(link.request("GET", "/"))
            await peer.expect_headers(3)
            peer.send_headers(3, frames.response(204), end_stream=True)
            assert (await request).status == 204


@pytest.mark.parametrize(("parent", "stream_id"), [(99, 2), (0, 2), (2, 4), (1, 3), (1, 0)], ids=str)
async def test_a_promise_that_stands_nowhere_ends_the_connection(parent: int, stream_id: int) -> None:
    """S12: on an idle stream, on the connection, on a pushed stream, of a client's id, of none (RFC 9113, 6.6)."""
    async with pushed_to() as (link, peer):
        with pytest.raises(ProtocolViolation):  # noqa: PT012  (what raises is the whole exchange)
            async with link.stream("GET", "/") as stream:
                await peer.expect_headers(1)
                promise(peer, parent, stream_id, asked(link))
                await stream.response()
        assert (await peer.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR
        await peer.expect_end()


async def test_a_promise_that_was_made_already_ends_the_connection() -> None:
    """S12: ids only rise (RFC 9113, 5.1.1)."""
    async with pushed_to() as (link, peer):
        with pytest.raises(ProtocolViolation):  # noqa: PT012  (what raises is the whole exchange)
            async with link.stream("GET", "/") as stream:
                await peer.expect_headers(1)
                promise(peer, 1, 4, asked(link))
                promise(peer, 1, 2, asked(link))
                await stream.response()
        await peer.expect_end()


async def test_a_promise_along_with_a_response_that_has_ended_ends_the_connection() -> None:
    """S12: its parent must be open to the server (RFC 9113, 6.6); the response that came stays good."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        peer.send_headers(1, frames.response(200), end_stream=True)
        promise(peer, 1, 2, asked(link))
        assert (await peer.expect(Type.GOAWAY)).code == Code.PROTOCOL_ERROR
        assert (await stream.response()).status == 200
        assert [pushed.id async for pushed in stream.pushes()] == []


@pytest.mark.parametrize("code", [Code.CANCEL, Code.REFUSED_STREAM])
async def test_a_promise_that_the_server_takes_back_ends_its_reader_alone(code: Code) -> None:
    """S12, S2."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        promise(peer, 1, 2, asked(link))
        pushed = await first(stream)
        peer.send(rst(2, code))
        with pytest.raises(Exception, match="reset") as raised:
            await pushed.response()
        assert pushed.cause is not None
        assert str(pushed.cause) == str(raised.value)
        peer.send_headers(1, frames.response(200), end_stream=True)
        assert (await stream.response()).status == 200


async def test_iterating_pushes_of_a_link_that_takes_none_is_misuse() -> None:
    """S12."""
    async with linked_to_raw() as (link, _), link.stream("GET", "/") as stream:
        with pytest.raises(Misuse, match="push=True"):
            await first(stream)


async def test_whoever_waits_for_pushes_gets_the_error_of_a_connection_that_ends() -> None:
    """S2, S12, L7."""
    async with pushed_to() as (link, peer):
        with pytest.raises(Exception, match="closed by the peer"):  # noqa: PT012  (what raises is the whole exchange)
            async with link.stream("GET", "/") as stream:
                await peer.expect_headers(1)
                await peer.close()
                await first(stream)


async def test_a_promised_request_for_a_head_is_one_in_whatever_order_its_fields_come() -> None:
    """S15: pseudo-headers have no order among themselves (RFC 9113, 8.3)."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        promise(peer, 1, 2, asked(link, "HEAD")[::-1])
        peer.send_headers(2, frames.response(200, ("content-length", "9")), end_stream=True)
        assert await (await first(stream)).read() == b""


async def test_two_tasks_may_take_from_the_same_pushes() -> None:
    """S3: each promise goes to one of them, and the other waits on."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream, asyncio.TaskGroup() as tasks:
        await peer.expect_headers(1)
        takers = [tasks.create_task(first(stream)) for _ in range(2)]
        await settle()
        promise(peer, 1, 2, asked(link))
        await peer.barrier()
        promise(peer, 1, 4, asked(link))
        assert {(await taker).id for taker in takers} == {2, 4}


async def test_a_cancelled_wait_for_pushes_loses_none() -> None:
    """S3."""
    async with pushed_to() as (link, peer), link.stream("GET", "/") as stream:
        await peer.expect_headers(1)
        waiting = asyncio.create_task(first(stream))
        await settle()
        promise(peer, 1, 2, asked(link))
        waiting.cancel()
        await asyncio.wait((waiting,))
        taken = (await first(stream)).id if waiting.cancelled() else waiting.result().id
        assert taken == 2


# --- a server -------------------------------------------------------------------------------------------------------


async def index(stream: ServerStream) -> None:
    if stream.path == "/":
        await stream.push("/style", headers=[("accept", "text/css")])
        await stream.push("/head", method="HEAD")
        await stream.respond(200, body=b"index")
    else:
        await stream.respond(200, body=stream.path.encode(), trailers=[("x-path", stream.path)])


async def test_a_handler_runs_on_the_stream_that_it_promises() -> None:
    """S12: the promise comes before the end of the response; HEAD gets no body."""
    async with served(index) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        style = await peer.expect(Type.PUSH_PROMISE, 1)
        head = await peer.expect(Type.PUSH_PROMISE, 1)
        assert style.fields is not None
        assert head.fields is not None
        assert dict(style.fields) == {
            b":method": b"GET", b":scheme": b"http", b":authority": b"test", b":path": b"/style",
            b"accept": b"text/css",
        }  # fmt: skip
        assert dict(head.fields)[b":method"] == b"HEAD"
        assert [style.payload[:4], head.payload[:4]] == [b"\0\0\0\2", b"\0\0\0\4"]
        assert dict(await peer.expect_headers(2))[b"content-length"] == b"6"
        assert (await peer.expect(Type.DATA, 2)).body == b"/style"
        assert dict(await peer.expect_headers(2)) == {b"x-path": b"/style"}
        assert dict(await peer.expect_headers(4))[b"content-length"] == b"5"
        assert await peer.expect_body(1) == b"index"
        assert not [each for each in peer.seen if each.type == Type.DATA and each.stream_id == 4]


async def test_a_link_gets_what_a_server_of_ours_pushes() -> None:
    """S12: both sides are ours."""
    async with Server(index) as server, Link(server.url, push=True) as link:
        async with link.stream("GET", "/") as stream:
            got = {pushed.path: (await pushed.read(), await pushed.trailers()) async for pushed in stream.pushes()}
            assert await stream.read() == b"index"
        assert got["/style"][0] == b"/style"
        assert got["/style"][1]["x-path"] == "/style"
        assert got["/head"][0] == b""
        assert (await link.request("GET", "/")).body == b"index"


class Report:
    """A handler that tries something and says what came of it."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    async def attempt(self, stream: ServerStream, path: str = "/pushed", method: str = "GET") -> None:
        try:
            await stream.push(path, method=method)
        except (Misuse, LimitReached, Closed) as error:
            self.errors.append(error)


async def test_pushing_to_a_client_that_takes_none_is_misuse_and_nothing_is_sent() -> None:
    """S12."""
    report = Report()

    async def handler(stream: ServerStream) -> None:
        await report.attempt(stream)
        await stream.respond(204)

    async with served(handler, {Setting.ENABLE_PUSH: 0}) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        assert dict(await peer.expect_headers(1))[b":status"] == b"204"
        assert isinstance(report.errors[0], Misuse)
        assert not [each for each in peer.seen if each.type == Type.PUSH_PROMISE]


async def test_what_can_never_be_pushed_is_misuse() -> None:
    """S12: another method, on a pushed stream, after the response's end."""
    report, done = Report(), asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/pushed":
            await report.attempt(stream)
            await stream.respond(204)
            done.set()
            return
        await report.attempt(stream, method="POST")
        await stream.push("/pushed")
        await done.wait()
        await stream.respond(204)
        await report.attempt(stream)

    async with served(handler) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        await peer.expect_headers(1)
        await peer.barrier()
        assert [type(error) for error in report.errors] == [Misuse, Misuse, Misuse]
        assert len([each for each in peer.seen if each.type == Type.PUSH_PROMISE]) == 1


async def test_pushing_stops_at_the_clients_limit_and_goes_on_below_it() -> None:
    """S12: LimitReached at MAX_CONCURRENT_STREAMS, 0 included."""
    report, ended = Report(), asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        if stream.path != "/":
            await ended.wait()
            await stream.respond(204)
            return
        for _ in range(3):
            await report.attempt(stream)
        await stream.start_response(200)
        await stream.read()
        await report.attempt(stream)

    async with served(handler, {Setting.MAX_CONCURRENT_STREAMS: 2}) as peer:
        peer.send_headers(1, frames.request("POST"))
        await peer.expect_headers(1)
        assert [type(error) for error in report.errors] == [LimitReached]
        ended.set()
        await peer.expect_headers(2)
        await peer.expect_headers(4)
        peer.send(data(1, end_stream=True))
        await peer.expect_headers(6)
        assert len(report.errors) == 1
        peer.send(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 0}))
        peer.send_headers(3, frames.request(), end_stream=True)
        await peer.expect_headers(3)
        assert len(report.errors) == 5  # thrice before the response, once behind it


async def test_a_client_that_resets_a_promise_cancels_its_handler_alone() -> None:
    """S6, S12."""
    causes: list[object] = []

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/":
            await stream.push("/pushed")
            await stream.respond(200, body=await stream.read())
            return
        try:
            await asyncio.Event().wait()
        finally:
            causes.append(stream.cause)

    async with served(handler) as peer:
        peer.send_headers(1, frames.request("POST"))
        await peer.expect(Type.PUSH_PROMISE)
        peer.send(rst(2, Code.CANCEL) + data(1, b"go on", end_stream=True))
        assert await peer.expect_body(1) == b"go on"
        assert len(causes) == 1
        assert "CANCEL" in str(causes[0])


async def test_fifty_handlers_push_at_once() -> None:
    """S12: each promise reaches the parent that made it."""
    async with Server(functools.partial(_pair)) as server, Link(server.url, push=True) as link:

        async def ask(number: int) -> tuple[str, bytes]:
            async with link.stream("GET", f"/{number}") as stream:
                pushed = await first(stream)
                return pushed.path, await pushed.read()

        got = await asyncio.gather(*(ask(number) for number in range(50)))
        assert got == [(f"/{number}/pushed", f"/{number}/pushed".encode()) for number in range(50)]


async def _pair(stream: ServerStream) -> None:
    if not stream.path.endswith("pushed"):
        await stream.push(f"{stream.path}/pushed")
    await stream.respond(200, body=stream.path.encode())


async def test_a_handler_that_is_reset_as_it_pushes_leaves_nothing_behind() -> None:
    """S6, S12: the parent's reset ends the push that is asked for, too; the connection goes on."""

    async def handler(stream: ServerStream) -> None:
        while stream.path == "/":
            await stream.push("/pushed", method="HEAD")
        await stream.respond(204)

    async with served(handler) as peer:
        peer.send_headers(1, frames.request(), end_stream=True)
        await peer.expect(Type.PUSH_PROMISE)
        peer.send(rst(1))
        await peer.barrier()
        peer.send_headers(3, frames.request("GET", "/other"), end_stream=True)
        assert dict(await peer.expect_headers(3))[b":status"] == b"204"
