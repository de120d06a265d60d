"""The handle of one connection that a server serves, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.errors import Closed, LinkError, Misuse, StreamReset, TransportLost
from actors.messages import Drain
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.served import ServedConnection
from supervisor.server import Server
from tests.supervisor.tracing.test_inputs import again
from tests.support.frames import PREFACE, Code, Flag, RawPeer, Setting, Type, ping, request, settings
from tests.support.sides import settle


async def name_connection(stream: ServerStream) -> None:
    await stream.respond(200, body=stream.connection.encode())


async def hold(stream: ServerStream) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def raw_client(
    handler: Any = name_connection, *, limits: Limits | None = None
) -> AsyncIterator[tuple[RawPeer, ServedConnection]]:
    """A raw client after its handshake, and the handle of its connection."""
    begun: list[ServedConnection] = []
    async with (
        Server(handler, limits=limits, connected=begun.append) as server,
        await RawPeer.connect("127.0.0.1", server.port) as peer,
    ):
        await peer.handshake()
        await peer.barrier()
        yield peer, begun[0]


async def test_each_connection_is_told_of_once_and_before_its_first_stream() -> None:
    told: list[ServedConnection] = []

    async def handler(stream: ServerStream) -> None:
        await stream.respond(200, body=repr([each.name for each in told].index(stream.connection)).encode())

    async with Server(handler, connected=told.append) as server:
        for number in range(3):
            async with Link(server.url) as link:
                for _ in range(2):
                    assert (await link.request("GET", "/")).body == repr(number).encode()
        assert len({each.name for each in told}) == 3


async def test_a_stream_says_the_name_of_its_connection_on_both_sides() -> None:
    async with Server(name_connection) as server, Link(server.url) as link:
        async with link.stream("GET", "/") as stream:
            theirs = (await stream.read()).decode()
            assert theirs.startswith(f"{server.name}/connection-")
            assert stream.connection == link.stats().connection_stats[0].name
        assert theirs == server.stats().connection_stats[0].name


async def test_it_pings_and_its_figures_are_those_of_the_connection() -> None:
    """H1."""
    async with raw_client() as (peer, served):
        pinging = asyncio.create_task(served.ping())
        asked = await peer.expect(Type.PING, where=lambda frame: not frame.has(Flag.ACK))
        peer.send(ping(asked.payload, ack=True))
        assert 0 < await pinging < 5
        assert served.stats().name == served.name
        assert served.stats().peer == served.peer.address
        assert served.stats().round_trips.count


async def test_other_limits_hold_once_the_client_has_acknowledged_them() -> None:
    """W12."""
    async with raw_client() as (peer, served):
        changing = asyncio.create_task(served.change_limits(Limits(max_streams=7)))
        said = await peer.expect(Type.SETTINGS, where=lambda frame: bool(frame.payload))
        assert said.settings[Setting.MAX_CONCURRENT_STREAMS] == 7
        await settle()
        assert not changing.done()
        peer.send(settings(ack=True))
        await changing


async def test_closing_says_goaway_with_its_code_and_debug_data() -> None:
    """G1."""
    async with raw_client() as (peer, served):
        await served.close(code=Code.ENHANCE_YOUR_CALM, debug=b"enough")
        await peer.expect_end()
        last = [each for each in peer.seen if each.type == Type.GOAWAY][-1]
        assert (last.code, last.payload[8:]) == (Code.ENHANCE_YOUR_CALM, b"enough")
        assert isinstance(await served.wait(), Closed)


async def test_closing_with_time_lets_open_streams_finish_and_cuts_the_others() -> None:
    """G2."""
    go = asyncio.Event()

    async def wait_for_it(stream: ServerStream) -> None:
        await (go if stream.path == "/soon" else asyncio.Event()).wait()
        await stream.respond(200, body=b"done")

    begun: list[ServedConnection] = []
    async with Server(wait_for_it, connected=begun.append) as server, Link(server.url) as link:
        soon = asyncio.create_task(link.request("GET", "/soon"))
        never = asyncio.create_task(link.request("GET", "/never"))
        while server.stats().handlers < 2:  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)
        closing = asyncio.create_task(begun[0].close(0.3))
        await settle()
        go.set()
        assert (await soon).body == b"done"
        with pytest.raises(LinkError):
            await never
        await closing


async def test_waiting_returns_what_it_ended_with_to_all_who_wait_before_and_after() -> None:
    async with raw_client() as (peer, served):
        waiting = [asyncio.create_task(served.wait()) for _ in range(50)]
        await settle()
        waiting[0].cancel()
        peer.abort()
        ends = await asyncio.gather(*waiting[1:])
        assert {type(end) for end in ends} == {TransportLost}
        assert await served.wait() is ends[0]


async def test_once_it_has_ended_its_last_figures_stay_and_calls_say_so() -> None:
    async with raw_client() as (peer, served):
        peer.send_headers(1, request(), end_stream=True)
        await peer.expect_body(1)
        await peer.close()
        await served.wait()
        assert served.has_ended
        assert served.stats().streams_total == 1
        for call in (served.ping(), served.change_limits(Limits())):
            with pytest.raises(Closed, match="has ended"):
                await call
        await served.close()


async def test_a_ping_that_waits_ends_with_the_connection() -> None:
    async with raw_client() as (peer, served):
        pinging = asyncio.create_task(served.ping())
        await peer.expect(Type.PING, where=lambda frame: not frame.has(Flag.ACK))
        peer.abort()
        with pytest.raises(TransportLost):
            await pinging


@pytest.mark.logs_errors("connected=.*out of luck")
async def test_what_the_call_raises_ends_that_connection_and_no_other() -> None:
    calls = iter((RuntimeError("out of luck"), None, None))

    def fail_at_first(served: ServedConnection) -> None:
        if (error := next(calls)) is not None:
            raise error

    async with Server(name_connection, connected=fail_at_first) as server:
        async with await RawPeer.connect("127.0.0.1", server.port) as peer:
            peer.send(PREFACE + settings())
            await peer.expect(Type.GOAWAY, where=lambda frame: frame.code == Code.INTERNAL_ERROR)
            await peer.expect_end()
        async with Link(server.url) as link:
            assert (await link.request("GET", "/")).status == 200


@pytest.mark.logs_errors("connected=")
@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()])
async def test_not_even_an_exit_ends_the_server(error: BaseException) -> None:
    def leave(served: ServedConnection) -> None:
        raise error

    async with Server(name_connection, connected=leave) as server:
        async with await RawPeer.connect("127.0.0.1", server.port) as peer:
            await peer.expect_end()
        assert (await server.state()).status == "running"


async def test_it_can_be_closed_in_the_very_call() -> None:
    async with Server(name_connection, connected=lambda served: served.end(Closed("no"))) as server:
        async with await RawPeer.connect("127.0.0.1", server.port) as peer:
            await peer.expect_end()
        assert (await server.state()).status == "running"


@pytest.mark.parametrize("call", [7, "name", name_connection])
def test_what_cannot_be_called_is_refused_at_once(call: Any) -> None:
    with pytest.raises(Misuse, match="connected is a plain function"):
        Server(name_connection, connected=call)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drain": -1.0}, "number of seconds"),
        ({"drain": "now"}, "number of seconds"),
        ({"code": -1}, "number of 32 bits"),
        ({"code": 2**32}, "number of 32 bits"),
        ({"debug": "text"}, "debug data is bytes"),
    ],
)
async def test_closing_with_nonsense_is_refused(given: dict[str, Any], message: str) -> None:
    async with raw_client() as (peer, served):
        with pytest.raises(Misuse, match=message):
            await served.close(**given)
        await peer.barrier()


async def test_a_stream_that_is_over_says_so_to_who_waits() -> None:
    """S4."""
    ends: list[LinkError | None] = []

    async def watch(stream: ServerStream) -> None:
        if stream.path == "/ends":
            stream.when_over(lambda: ends.append(stream.cause))
            await stream.respond(200)
            assert await stream.wait() is None
            assert stream.is_over
        else:
            stream.when_over(lambda: ends.append(stream.cause))
            await stream.wait()

    async with Server(watch) as server, Link(server.url) as link:
        await link.request("GET", "/ends")
        async with link.stream("POST", "/reset") as stream:
            assert not stream.is_over
        while len(ends) < 2:  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)
    assert ends[0] is None
    assert isinstance(ends[1], StreamReset)


@pytest.mark.parametrize("code", [0, 11, 2**32 - 1])
def test_the_code_of_a_drain_comes_back_from_a_capture(code: int) -> None:
    """T6."""
    assert again(Drain(1.0, Closed("closed"), b"bye", code)).code == code
