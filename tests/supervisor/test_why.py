"""Why streams do not go on (T7): each stall constructed on real sockets, and what the link or the server says of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from actors.bodies import request
from actors.mailbox import Ref
from actors.messages import Halt, Resume, Suspend
from actors.server_stream import Handler, ServerStream
from actors.settings import Health, Limits
from supervisor.explanation import Explanation, Subject, WaitsFor, render, say
from supervisor.inspection import look
from supervisor.link import Link
from supervisor.server import Server
from supervisor.why import explain
from tests.support import frames
from tests.support.frames import RawPeer, Setting, Type
from tests.support.sides import Bench, connections_of, linked_to_raw, settle

KIB = 1024
SMALL = Limits(
    connection_window=64 * KIB, max_connection_window=64 * KIB, stream_window=32 * KIB, max_stream_window=32 * KIB
)
"""Two streams use the connection's window up."""


@asynccontextmanager
async def both(handler: Handler, limits: Limits | None = None) -> AsyncIterator[tuple[Server, Link]]:
    async with Server(handler, limits=limits) as server, Link(server.url, limits=limits) as link:
        yield server, link


@contextmanager
def asking(link: Link, *bodies: bytes, path: str = "/") -> Iterator[list[asyncio.Task[Any]]]:
    """Requests under way, one for each body; cancelled in the end."""
    tasks = [asyncio.ensure_future(link.request("POST", path, body=each)) for each in bodies]
    try:
        yield tasks
    finally:
        for each in tasks:
            each.cancel()


def but_for_the_loop(said: list[Explanation]) -> list[Explanation]:
    """What is said of streams and connections; that a busy machine is late is none of the tests' business."""
    return [each for each in said if each.waits_for is not WaitsFor.LOOP]


async def why(of: Link | Server, stream: str | None = None) -> list[Explanation]:
    return but_for_the_loop(await of.why(stream))


async def until(of: Link | Server, kind: WaitsFor, count: int = 1) -> list[Explanation]:
    """What is said once as many as ``count`` wait for that, by stream."""
    async with asyncio.timeout(10):
        while True:
            found = sorted((each for each in await why(of) if each.waits_for is kind), key=lambda each: each.stream)
            if len(found) >= count:
                return found
            await asyncio.sleep(0)


async def hang(stream: ServerStream) -> None:
    """A handler that reads nothing and answers nothing."""
    await stream.draining()


async def mixed(stream: ServerStream) -> None:
    if stream.path == "/hoard":
        await stream.draining()
    await stream.respond(200, body=await stream.read())


# --- the seven --------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_request_above_the_peers_limit_is_told_its_place_and_who_holds_the_others() -> None:
    """T7: the peer's stream limit."""
    async with linked_to_raw({Setting.MAX_CONCURRENT_STREAMS: 2}) as (link, peer):
        with asking(link, b"", b""):
            await peer.expect(Type.HEADERS, 3)
            await asyncio.sleep(5)
            with asking(link, b"", b""):
                await settle()
                await asyncio.sleep(2)
                first, second = await until(link, WaitsFor.STREAM_LIMIT, 2)
    name = link.name
    assert (first.stream, first.stream_id, first.connection) == (f"{name}/request-3", None, "")
    assert first.since == pytest.approx(2.0, abs=0.1)
    assert first.text == (
        f"{name}/request-3 waits for the peer's limit of streams, since 2.0 s: place 1 of 2 in the line of {name}; the "
        f"peer allows 2 streams at a time, and 2 are open, the oldest {name}/request-1 (stream 1) for 7.0 s; "
        "who can end it: the end of one of these streams"
    )
    assert (second.evidence["place"], second.evidence["waiting"], second.evidence["allowed"]) == (2, 2, 2)


@pytest.mark.virtual_time
async def test_a_stream_whose_window_is_used_up_waits_for_its_reader_alone() -> None:
    """T7: the stream window."""
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 10}) as (link, peer):
        await asyncio.sleep(1)
        with asking(link, bytes(100)):
            await peer.expect(Type.DATA, 1)
            await asyncio.sleep(4)
            [found] = await why(link)
            assert (found.waits_for, found.stream_id) == (WaitsFor.STREAM_WINDOW, 1)
            assert found.who == "the peer's handler of this stream"
            assert found.since == pytest.approx(4.0, abs=0.1)
            assert (found.evidence["queued"], found.evidence["outstanding"]) == (90, 10)
            peer.send(frames.window_update(1, 30))
            await peer.expect(Type.DATA, 1)
            await asyncio.sleep(1)
            [found] = await why(link)
            assert found.since == pytest.approx(1.0, abs=0.1), "since the last byte went out"
            assert (found.evidence["queued"], found.evidence["outstanding"]) == (60, 30)


@pytest.mark.virtual_time
async def test_an_innocent_upload_names_those_who_hoard_the_connections_window() -> None:
    """T7: the connection window, and who hoards it, the largest first."""
    async with linked_to_raw() as (link, peer):
        await asyncio.sleep(1)
        with asking(link, bytes(30_000), bytes(60_000)):
            await peer.expect(Type.DATA, 3, where=lambda frame: len(frame.payload) < 16_384)
            with asking(link, b"innocent"):
                await peer.expect(Type.HEADERS, 5)
                await asyncio.sleep(4.2)
                found = {each.stream_id: each for each in await until(link, WaitsFor.CONNECTION_WINDOW, 2)}
    assert set(found) == {3, 5}, "stream 1 went out whole, and waits for its response"
    assert found[5].text == (
        f"{link.name}/request-3 (stream 5) waits for the connection's send window, since 4.2 s: 65,535 bytes are used "
        "up by stream 3 (35,535), stream 1 (30,000), which the peer does not read; who can end it: the peer's handlers "
        "of these streams"
    )
    assert found[5].evidence["hoarders"] == (
        {"stream": f"{link.name}/request-2", "stream_id": 3, "bytes": 35_535},
        {"stream": f"{link.name}/request-1", "stream_id": 1, "bytes": 30_000},
    )
    assert found[3].evidence["hoarders"] == found[5].evidence["hoarders"], "one that hoards may wait itself"


@pytest.mark.virtual_time
async def test_windows_that_the_peer_has_widened_are_hoarded_as_a_whole() -> None:
    """T7: what is outstanding is counted from where the windows once were, not from where they began."""
    async with linked_to_raw() as (link, peer):
        peer.send(frames.window_update(0, 34_465))
        with asking(link, b""):
            await peer.barrier()
        async with link.stream("POST", "/") as stream:
            await peer.expect(Type.HEADERS, 3)
            peer.send(frames.window_update(3, 100_000))
            await peer.barrier()
            await stream.send(bytes(100_000))
            with asking(link, b"innocent"):
                [found] = await until(link, WaitsFor.CONNECTION_WINDOW)
    assert found.evidence["used"] == 100_000
    assert found.evidence["hoarders"] == ({"stream": f"{link.name}/request-2", "stream_id": 3, "bytes": 100_000},)


async def test_the_receiving_side_names_its_own_streams_that_hold_the_window() -> None:
    """T7: the connection window, seen by the server whose handlers do not read."""
    async with both(mixed, SMALL) as (server, link):
        with asking(link, bytes(40_000), bytes(50_000), path="/hoard"):
            await until(server, WaitsFor.READER, 2)
            with asking(link, b"innocent"):
                [found] = await until(server, WaitsFor.CONNECTION_WINDOW)
                [at_client] = await until(link, WaitsFor.CONNECTION_WINDOW)
    assert (found.stream_id, found.evidence["direction"], found.evidence["used"]) == (5, "receive", 64 * KIB)
    hoarders = found.evidence["hoarders"]
    assert isinstance(hoarders, tuple)
    assert [(each["stream_id"], each["bytes"]) for each in hoarders] == [(1, 32 * KIB), (3, 32 * KIB)]
    assert found.who == "the handlers of these streams, in this process"
    assert (at_client.stream_id, at_client.evidence["hoarders"]) != (5, ())


@pytest.mark.virtual_time
async def test_a_handler_that_does_not_read_is_named_with_what_waits_for_it() -> None:
    """T7: the handler that does not read; and on the other side the same stream waits for its window."""
    async with both(hang, SMALL) as (server, link):
        await asyncio.sleep(1)
        with asking(link, bytes(40_000)):
            await until(server, WaitsFor.READER)
            await asyncio.sleep(3)
            [found] = await why(server)
            [at_client] = await why(link)
    assert found.waits_for is WaitsFor.READER
    assert found.stream.endswith("/connection-1/stream-1")
    assert found.since == pytest.approx(3.0, abs=0.2)
    assert found.text == (
        f"{found.stream} waits for its handler, since {found.since:.1f} s: 32,768 bytes came and are not read; who can "
        "end it: its handler, by reading or by leaving the stream"
    )
    assert (at_client.waits_for, at_client.evidence["outstanding"]) == (WaitsFor.STREAM_WINDOW, 32 * KIB)


@pytest.mark.virtual_time
async def test_a_caller_that_does_not_read_is_named_as_well_and_a_slow_one_since_its_last_read() -> None:
    """T7: the caller that does not read."""

    async def answer(stream: ServerStream) -> None:
        await stream.respond(200, body=bytes(100))

    async with both(answer) as (_, link), link.stream("GET", "/") as stream:
        await stream.response()
        await until(link, WaitsFor.READER)
        await asyncio.sleep(3)
        assert await stream.read(40)
        await asyncio.sleep(1)
        [found] = await why(link)
        assert (found.waits_for, found.evidence["unread"]) == (WaitsFor.READER, 60)
        assert found.since == pytest.approx(1.0, abs=0.2)
        assert found.who.startswith("its caller")
        assert await stream.read() == bytes(60)
        assert await why(link) == []


@pytest.mark.bulk
async def test_a_socket_that_takes_nothing_is_named_with_the_bytes_in_it() -> None:
    """T7: the socket not writable."""
    async with linked_to_raw({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}) as (link, peer):
        peer.send(frames.window_update(0, 2**31 - 1 - 65_535))
        with asking(link, b""):
            await peer.barrier()
            with asking(link, bytes(32 * KIB * KIB)):
                innocent, found = await until(link, WaitsFor.SOCKET, 2)
                peer.abort()
    assert (innocent.stream_id, found.stream_id) == (1, 3), "what went out behind it may wait there as well"
    assert isinstance(found.evidence["socket_bytes"], int)
    assert found.evidence["socket_bytes"] > 64 * KIB
    assert found.since is not None
    assert 0 <= found.since < 10
    assert "does not read its socket" in found.who


async def test_an_event_loop_that_is_late_is_said_before_all_else() -> None:
    """T7: loop lag."""
    async with both(hang) as (server, link):
        with asking(link, b"x"):
            await until(server, WaitsFor.READER)
            asyncio.get_running_loop().call_soon(time.sleep, 0.15)
            found = (await server.why())[0]
    assert (found.waits_for, found.connection, found.stream_id) == (WaitsFor.LOOP, "", None)
    assert found.since is not None
    assert found.since >= 0.15
    assert "handler or callback that computes" in found.who


@pytest.mark.virtual_time
async def test_a_server_that_drains_names_the_streams_that_it_waits_for_and_their_time() -> None:
    """T7: draining."""
    held = asyncio.Event()

    async def hold(stream: ServerStream) -> None:
        await held.wait()
        await stream.respond(200)

    server = Server(hold)
    async with server, Link(server.url) as link:
        await asyncio.sleep(1)
        with asking(link, b""):
            await settle()
            closing = asyncio.ensure_future(server.close(8.0))
            await asyncio.sleep(3)
            [found] = await why(server)
            [at_client] = [each for each in await why(link) if each.waits_for is WaitsFor.DRAINING]
            held.set()
            await closing
    connection = found.connection
    assert (found.waits_for, found.stream, found.stream_id) == (WaitsFor.DRAINING, connection, None)
    assert found.text == (
        f"{connection} waits for the end of its 1 open stream, since 3.0 s: we said GOAWAY (the server was closed); "
        f"open: {connection}/stream-1, to be cut in 5.0 s; who can end it: the handlers of these streams"
    )
    assert at_client.evidence["by_peer"] is True
    assert "the peer said GOAWAY (NO_ERROR); open:" in at_client.text
    assert at_client.evidence["left"] is None


# --- besides ----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_request_that_is_whole_waits_for_the_peers_handler_until_it_answers() -> None:
    async with linked_to_raw() as (link, peer):
        with asking(link, b"all of it") as [task]:
            await peer.expect(Type.DATA, 1)
            await asyncio.sleep(4)
            [found] = await why(link)
            assert (found.waits_for, found.evidence["whole"]) == (WaitsFor.RESPONSE, True)
            assert found.since == pytest.approx(4.0, abs=0.2)
            peer.send_headers(1, frames.response())
            await peer.barrier()
            await asyncio.sleep(2)
            [found] = await why(link)
            assert (found.waits_for, found.text.count("more of the response")) == (WaitsFor.BODY, 1)
            assert found.since == pytest.approx(2.0, abs=0.2)
            peer.send(frames.data(1, b"ok", end_stream=True))
            assert (await task).body == b"ok"
            assert await why(link) == []


@pytest.mark.virtual_time
async def test_a_streamed_request_waits_for_its_response_since_its_end() -> None:
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        await peer.expect(Type.HEADERS, 1)
        await asyncio.sleep(5)
        assert await why(link) == [], "its caller may still send"
        await stream.end()
        await asyncio.sleep(2)
        [found] = await why(link)
        assert found.waits_for is WaitsFor.RESPONSE
        assert found.since == pytest.approx(2.0, abs=0.2)


async def test_a_handler_waits_for_the_rest_of_its_request() -> None:
    async with both(mixed) as (server, link), link.stream("POST", "/") as stream:
        await stream.send(b"some")
        [found] = await until(server, WaitsFor.BODY)
        assert found.who.startswith("the peer's caller at 127.0.0.1:")
        assert found.evidence["receive_window"]


async def test_a_stream_that_runs_is_spoken_of_only_when_it_is_asked_about() -> None:
    async with both(hang) as (server, link):
        with asking(link, b""):
            await until(link, WaitsFor.RESPONSE)
            assert await why(server) == []
            name = f"{(await server.state()).children[0]}/stream-1"
            [found] = await why(server, name)
            assert (found.stream, found.waits_for, found.who) == (name, WaitsFor.NOTHING, "its handler")
            assert await why(server, "nobody") == []


@pytest.mark.virtual_time
async def test_a_peer_that_owes_the_answer_to_a_ping_is_what_all_its_streams_wait_for() -> None:
    async with Bench(health=Health(interval=100.0, suspect=0.5, timeout=10.0)) as bench:
        asked = asyncio.ensure_future(request(bench.route, bench.outgoing()))
        await asyncio.sleep(103)
        [found] = but_for_the_loop(explain(await look("link", [bench.actor.ref])))
        asked.cancel()
    assert (found.waits_for, found.who.startswith("the peer")) == (WaitsFor.PEER, True)
    assert found.since == pytest.approx(3.0, abs=0.1)
    assert "it has said nothing for 103.0 s and has not answered the last PING" in found.text


@pytest.mark.virtual_time
async def test_a_request_without_a_connection_waits_for_one_that_is_being_made() -> None:
    async with RawPeer.listen() as listener:
        link = Link(f"http://127.0.0.1:{listener.port}")
        with asking(link, b"") as [task]:
            peer = await listener.accept()
            await asyncio.sleep(2)
            [found] = await why(link)
            assert (found.waits_for, found.stream_id, found.connection) == (WaitsFor.DIALLING, None, "")
            assert found.since == pytest.approx(2.0, abs=0.2)
            assert f"its SETTINGS are awaited at 127.0.0.1:{listener.port}" in found.text
            task.cancel()
            await link.close()
            await peer.close()


@pytest.mark.virtual_time
async def test_a_request_that_waits_for_a_service_that_is_not_there_says_so_and_why() -> None:
    async with RawPeer.listen() as listener:
        port = listener.port
    link = Link(f"http://127.0.0.1:{port}", wait_for_ready=True)
    with asking(link, b"", b""):
        found = await until(link, WaitsFor.CONNECTION, 2)
        await link.close()
    assert [each.evidence["place"] for each in found] == [1, 2]
    assert "TRANSIENT_FAILURE" in found[0].text
    assert "Connection refused" in found[0].text


async def test_a_suspended_connection_says_that_it_is() -> None:
    async with both(hang) as (_, link):
        [connection] = connections_of(link)
        connection.signal(Suspend())
        [found] = await until(link, WaitsFor.RESUME)
        assert found.stream == connection.name
        connection.signal(Resume())
        assert await why(link) == []


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_an_actor_that_does_not_answer_is_an_explanation_by_itself() -> None:
    deaf: Ref[object] = Ref("connection-1", lambda message: True, lambda message: True)
    [found] = but_for_the_loop(explain(await look("link", [deaf])))
    assert (found.waits_for, found.stream, found.since) == (WaitsFor.ANSWER, "connection-1", 1.0)


async def test_who_has_ended_is_left_out_and_who_is_ending_answers_at_once() -> None:
    async with Bench() as bench:
        bench.socket.stuck = True  # so that the end takes its time
        looking = asyncio.ensure_future(look("link", [bench.actor.ref]))
        await asyncio.sleep(0)
        bench.actor.signal(Halt(None))
        found = await looking
        assert ([each.name for each in found.connections], found.silent) == (["connection"], ())
        later = await look("link", [bench.actor.ref])
        assert [each.leave is not None for each in later.connections] == [True]
        await bench.actor.wait()
        found = await look("link", [bench.actor.ref])
        assert (found.connections, found.silent) == ((), ())


async def test_links_and_servers_that_were_not_entered_or_have_ended_have_nothing_to_say() -> None:
    server = Server(hang)
    link = Link("http://127.0.0.1:1")
    assert (await server.why(), await link.why()) == ([], [])
    async with server:
        assert await why(server) == []
    await link.close()
    assert (await server.why(), await link.why()) == ([], [])


# --- what is shown ----------------------------------------------------------------------------------------------------


async def test_an_explanation_is_what_json_can_hold() -> None:
    async with both(mixed, SMALL) as (server, link):
        with asking(link, bytes(40_000), bytes(50_000), path="/hoard"):
            await until(server, WaitsFor.READER, 2)
            with asking(link, b"innocent"):
                [found] = await until(server, WaitsFor.CONNECTION_WINDOW)
    plain = found.to_plain()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["waits_for"], plain["stream_id"]) == ("connection window", 5)
    assert {"stream", "connection", "since", "who", "text", "evidence"} < set(plain)


def test_the_console_gets_lines_of_a_hundred_columns_and_none_is_lost() -> None:
    long = say(
        Subject("link-1/" + "x" * 150, "c", 7), WaitsFor.SOCKET, 1234.5, "the socket", "of many words " * 30, who="you"
    )
    shown = render([long, long])
    assert max(map(len, shown.splitlines())) <= 100
    assert "".join(shown.split()) == 2 * "".join(long.text.split())
    assert "since 1,234.5 s" in " ".join(shown.split())
    assert render([]) == "nothing waits"
