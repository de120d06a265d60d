"""C2: what aioh2's methods mean, over real sockets, both ends ours or one of them raw."""

import asyncio
from typing import Any

import pytest

from actors.errors import InvalidHeaders, Misuse
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.adapters import aioh2
from supervisor.adapters.aioh2 import H2Protocol, SendException
from supervisor.server import Server
from tests.supervisor.adapters.faces import GET, NARROW, OK, POST, calling, linked, served, wide
from tests.support.frames import Code, Flag, Setting, Type, data, ping, request, response, rst, settings, window_update
from tests.support.sides import settle


async def ask(client: H2Protocol, name: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    stream_id = await client.start_request(GET)
    await client.send_data(stream_id, name, end_stream=True)
    return await client.read_stream(stream_id, -1), await client.recv_trailers(stream_id)


# --- requests and responses -----------------------------------------------------------------------------------------


async def test_a_request_with_a_body_is_answered_with_body_and_trailers() -> None:
    """C1."""
    async with linked() as client:
        stream_id = await client.start_request(GET)
        await client.send_data(stream_id, b"world", end_stream=True)
        assert await client.recv_response(stream_id) == [(":status", "200")]
        assert await client.read_stream(stream_id, -1) == b"hello, world"
        assert await client.recv_trailers(stream_id) == [("len", "5")]


@pytest.mark.parametrize(
    "headers",
    [
        {":method": "GET", ":path": "/x", "Name": "välue"},
        [(":method", "GET"), (":path", "/x"), ("name", "välue")],
        ((name, value) for name, value in ((":method", "GET"), (":path", "/x"), ("name", "välue"))),
        [(b":method", b"GET"), (b":path", b"/x"), (b"name", "välue".encode())],
    ],
)
async def test_headers_are_mappings_or_pairs_and_come_as_pairs_of_text(headers: Any) -> None:
    """C2: what is left out is supplied, and text is UTF-8."""
    async with served() as (peer, proto):
        peer.send_headers(1, [*request("GET", "/x"), ("name", "välue".encode())], end_stream=True)
        assert await proto.recv_request() == (
            1, [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/x"), ("name", "välue")],
        )  # fmt: skip
    async with calling() as (client, peer):
        await client.start_request(headers, end_stream=True)
        fields = dict(await peer.expect_headers(1))
        assert fields[b":scheme"] == b"http"
        assert fields[b":authority"].startswith(b"127.0.0.1:")
        assert fields[b"name"] == "välue".encode()


async def test_an_authority_that_is_given_is_said() -> None:
    async with calling() as (client, peer):
        await client.start_request({**GET, ":authority": "example.org", ":scheme": "http"}, end_stream=True)
        assert dict(await peer.expect_headers(1))[b":authority"] == b"example.org"


async def test_ids_are_those_on_the_wire() -> None:
    async with calling() as (client, peer):
        assert [await client.start_request(GET, end_stream=True) for _ in range(3)] == [1, 3, 5]
        assert [(await peer.expect(Type.HEADERS)).stream_id for _ in range(3)] == [1, 3, 5]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_any_method_may_have_a_body_or_end_at_once(method: str) -> None:
    async with calling() as (client, peer):
        first = await client.start_request({":method": method, ":path": "/"}, end_stream=True)
        second = await client.start_request({":method": method, ":path": "/"})
        await client.send_data(second, b"body", end_stream=True)
        await peer.expect(Type.HEADERS, first)
        assert not (await peer.expect(Type.HEADERS, second)).has(Flag.END_STREAM)
        assert await peer.expect_body(second) == b"body"
        await peer.barrier()
        assert [each.stream_id for each in peer.seen if each.type in (0, 1) and each.has(Flag.END_STREAM)] == [1, 3]


async def test_informational_responses_and_unknown_frames_are_survived() -> None:
    """C2, S9."""
    async with calling() as (client, peer):
        stream_id = await client.start_request(GET, end_stream=True)
        peer.send_headers(1, response(103, ("link", "</a>")))
        peer.send(b"\0\0\4\x77\0\0\0\0\1abcd")
        peer.send_headers(1, response(100))
        peer.send_headers(1, response(200))
        peer.send(data(1, b"body", end_stream=True))
        assert await client.recv_response(stream_id) == [(":status", "200")]
        assert await client.read_stream(stream_id) == b"body"


async def test_a_server_sends_informational_responses_too() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request(), end_stream=True)
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, [(":status", "103"), ("link", "</a>")])
        await proto.start_response(stream_id, [(":status", "204")], end_stream=True)
        assert (await peer.expect_headers(1))[0] == (b":status", b"103")
        assert (await peer.expect_headers(1))[0] == (b":status", b"204")
        await peer.barrier()
        assert peer.seen[-2].has(Flag.END_STREAM)


async def test_an_answer_to_head_has_no_body_and_sending_one_does_not_hang() -> None:
    """S15."""
    async with served() as (peer, proto):
        peer.send_headers(1, request("HEAD"), end_stream=True)
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, OK)
        async with asyncio.timeout(5):
            await proto.send_data(stream_id, b"x" * 500_000, end_stream=True)
        assert await peer.expect_body(1) == b""


@pytest.mark.bulk
async def test_1200_requests_go_over_one_connection_and_what_was_read_is_forgotten() -> None:
    """C2: more than 1,000 requests per connection."""
    async with linked() as client:
        for number in range(1200):
            name = b"%d" % number
            assert await ask(client, name) == (b"hello, " + name, [("len", str(len(name)))])
        with pytest.raises(aioh2.NoSuchStream, match="forgotten"):
            await client.read_stream(3)
        assert await client.start_request(GET, end_stream=True) == 2401


@pytest.mark.bulk
async def test_a_late_reader_finds_300_responses_that_came_before_it_asked() -> None:
    async with linked(concurrency=50) as client:
        ids = []
        for number in range(300):
            ids.append(await client.start_request(GET))
            await client.send_data(ids[-1], b"%d" % number, end_stream=True)
        for number, stream_id in enumerate(ids):
            assert await client.recv_response(stream_id) == [(":status", "200")]
            assert await client.read_stream(stream_id, -1) == b"hello, %d" % number
            assert await client.recv_trailers(stream_id) == [("len", str(len(str(number))))]


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 300, 511, 512, 16_384])
async def test_reading_without_a_size_gives_one_frame_at_a_time(size: int) -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        for letter in (b"a", b"b", b"", b"c"):
            peer.send(data(1, letter * size))
        peer.send(data(1, b"", end_stream=True))
        stream_id, _ = await proto.recv_request()
        await peer.barrier()
        read = [await proto.read_stream(stream_id) for _ in range(5)]
        assert read == [b"a" * size, b"b" * size, b"c" * size, b"", b""]


async def test_reading_a_number_gives_exactly_that_or_fewer_at_the_end() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        peer.send(data(1, b"333") + data(1, b"55555") + data(1, b""))
        stream_id, _ = await proto.recv_request()
        assert await proto.read_stream(stream_id, 2) == b"33"
        reading = asyncio.create_task(proto.read_stream(stream_id, 8))
        await peer.barrier()
        assert not reading.done()
        peer.send(data(1, b"88888888", end_stream=True))
        assert await reading == b"35555588"
        assert await proto.read_stream(stream_id, 0) == b""
        assert await proto.read_stream(stream_id, 2) == b"88"
        assert await proto.read_stream(stream_id) == b"8888"  # what is left of the frame
        assert [await proto.read_stream(stream_id, size) for size in (8, -1, None)] == [b"", b"", b""]


async def test_reading_to_the_end_waits_for_it_and_takes_what_was_left() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        peer.send(data(1, b"abcdef"))
        stream_id, _ = await proto.recv_request()
        assert await proto.read_stream(stream_id, 2) == b"ab"
        reading = asyncio.create_task(proto.read_stream(stream_id, -1))
        await peer.barrier()
        assert not reading.done()
        peer.send(data(1, b"gh", end_stream=True))
        assert await reading == b"cdefgh"


async def test_a_reader_that_is_cancelled_leaves_everything_to_the_next() -> None:
    """C2: a cancelled waiter harms nobody."""
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        stream_id, _ = await proto.recv_request()
        for size in (None, -1, 5, 5):
            readers = [asyncio.create_task(proto.read_stream(stream_id, size)) for _ in range(3)]
            await settle()
            if size == 5:
                peer.send(data(1, b"ab"))
                await peer.barrier()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        peer.send(data(1, b"c", end_stream=True))
        assert await proto.read_stream(stream_id, 5) == b"ababc"


async def test_readers_of_one_stream_take_turns() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        stream_id, _ = await proto.recv_request()
        readers = [asyncio.create_task(proto.read_stream(stream_id, 4)) for _ in range(50)]
        await settle()
        for number in range(100):
            peer.send(data(1, b"%02d" % number))
        peer.send(data(1, b"", end_stream=True))
        read = await asyncio.gather(*readers)
        assert read == [b"%02d%02d" % (number, number + 1) for number in range(0, 100, 2)]


async def test_what_is_read_gives_the_peer_its_window_back() -> None:
    """F2."""
    async with served(limits=Limits(stream_window=1000, max_stream_window=1000)) as (peer, proto):
        peer.send_headers(1, request("POST"))
        peer.send(data(1, bytes(1000)))
        stream_id, _ = await proto.recv_request()
        await proto.read_stream(stream_id, 600)
        assert (await peer.expect(Type.WINDOW_UPDATE, 1)).increment >= 500


# --- sending --------------------------------------------------------------------------------------------------------


async def test_sending_waits_for_the_peers_window() -> None:
    """F1."""
    async with served(NARROW) as (peer, proto):
        peer.send_headers(1, request(), end_stream=True)
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, OK)
        await proto.send_data(stream_id, b"12")
        assert (await peer.expect(Type.DATA)).body == b"12"
        sending = asyncio.create_task(proto.send_data(stream_id, b"34"))
        assert (await peer.expect(Type.DATA)).body == b"3"
        assert not sending.done()
        peer.send(window_update(1, 3))
        assert (await peer.expect(Type.DATA)).body == b"4"
        await sending


@pytest.mark.parametrize("sizes", [(2, 6), (2, 300_000), (3, 5), (1, 1_000_000)])
async def test_an_error_has_the_rest_that_did_not_go_out(sizes: tuple[int, int]) -> None:
    """C2: SendException with the unsent rest, to the byte."""
    body = bytes(range(251)) * 4000
    async with served(NARROW) as (peer, proto):
        peer.send_headers(1, request(), end_stream=True)
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, OK)
        await proto.send_data(stream_id, body[: sizes[0]])
        sending = asyncio.create_task(proto.send_data(stream_id, body[: sizes[1]], end_stream=True))
        await peer.barrier()
        peer.send(rst(1))
        with pytest.raises(SendException) as caught:
            await sending
        assert caught.value.data == body[3 - sizes[0] : sizes[1]]
        assert "CANCEL" in str(caught.value)
        assert caught.value.__cause__ is not None


@pytest.mark.bulk
async def test_the_rest_is_exact_after_much_went_out() -> None:
    """C2."""
    body = bytes(range(251)) * 8000
    async with calling() as (client, peer):
        stream_id = await client.start_request(POST)
        await peer.expect(Type.HEADERS, 1)
        peer.send(window_update(0, 1 << 20) + window_update(1, 1 << 20))
        sending = asyncio.create_task(client.send_data(stream_id, body))
        window, got = 65_535 + (1 << 20), b""
        while len(got) < window:
            got += (await peer.expect(Type.DATA, 1)).body
        await peer.barrier()
        peer.send(rst(1))
        with pytest.raises(SendException) as caught:
            await sending
        assert got + caught.value.data == body


async def test_senders_of_one_stream_do_not_mix_and_end_comes_last() -> None:
    async with calling({Setting.INITIAL_WINDOW_SIZE: 100}) as (client, peer):
        stream_id = await client.start_request(POST)
        await peer.expect(Type.HEADERS, 1)
        senders = [asyncio.create_task(client.send_data(stream_id, b"%c" % (65 + n) * 1000)) for n in range(5)]
        await settle()
        senders.append(asyncio.create_task(client.send_trailers(stream_id, {"a": "b"})))
        got = b""
        while len(got) < 5000:
            part = await peer.expect(Type.DATA, 1)
            got += part.body
            peer.send(window_update(1, len(part.body)))
        await asyncio.gather(*senders)
        assert got == b"".join(b"%c" % (65 + n) * 1000 for n in range(5))
        assert (b"a", b"b") in await peer.expect_headers(1)


async def test_a_sender_that_is_cancelled_harms_neither_readers_nor_later_senders() -> None:
    """C2: a cancelled waiter harms nobody."""
    async with calling(NARROW) as (client, peer):
        stream_id = await client.start_request(POST)
        await peer.expect(Type.HEADERS, 1)
        reading = asyncio.create_task(client.read_stream(stream_id, 4))
        first = asyncio.create_task(client.send_data(stream_id, b"123456"))
        second = asyncio.create_task(client.send_data(stream_id, b"abc", end_stream=True))
        assert (await peer.expect(Type.DATA)).body == b"123"
        first.cancel()
        await settle()
        wide(peer, 1)
        peer.send_headers(1, response())
        peer.send(data(1, b"echo"))
        assert await reading == b"echo"
        await second
        assert await peer.expect_body(1) == b"456abc"


@pytest.mark.parametrize("how", ["end_stream", "send_trailers", "send_data"])
async def test_sending_after_the_end_is_an_error_with_all_of_it(how: str) -> None:
    async with calling() as (client, peer):
        stream_id = await client.start_request(POST)
        arguments: dict[str, tuple[Any, ...]] = {"send_trailers": ({"a": "b"},), "send_data": (b"x",)}
        ends = {"end_stream": True} if how == "send_data" else {}
        await getattr(client, how)(stream_id, *arguments.get(how, ()), **ends)
        with pytest.raises(SendException) as caught:
            await client.send_data(stream_id, b"more")
        assert caught.value.data == b"more"
        assert isinstance(caught.value.__cause__, Misuse)
        await peer.barrier()


@pytest.mark.bulk
async def test_a_heavier_stream_gets_its_share_of_the_connection() -> None:
    """F7: 32 to 8."""
    async with served({Setting.INITIAL_WINDOW_SIZE: 1 << 24}) as (peer, proto):
        for stream_id in (1, 3):
            peer.send_headers(stream_id, request(), end_stream=True)
            await proto.recv_request()
            await proto.start_response(stream_id, OK)
        proto.reprioritize(1, weight=32)
        proto.reprioritize(3, weight=8)
        senders = [asyncio.create_task(proto.send_data(each, bytes(2_000_000))) for each in (1, 3)]
        await settle()
        shares = {1: 0, 3: 0}
        while sum(shares.values()) < 1_500_000:
            peer.send(window_update(0, 50_000))
            await peer.barrier()
            shares = {
                each: sum(len(f.body) for f in peer.seen if f.type == 0 and f.stream_id == each) for each in shares
            }
        assert 2.5 < shares[1] / shares[3] < 6
        for each in senders:
            each.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


async def test_a_client_tells_the_server_of_weights_and_parents() -> None:
    """F7: RFC 7540, 6.3."""
    async with calling() as (client, peer):
        first, second = [await client.start_request(POST) for _ in range(2)]
        client.reprioritize(second, depends_on=first, weight=200, exclusive=True)
        said = await peer.expect(Type.PRIORITY, second)
        assert said.payload == (0x8000_0000 | first).to_bytes(4) + bytes((199,))


# --- several at a time ----------------------------------------------------------------------------------------------


async def test_requests_above_the_concurrency_wait_and_none_fails() -> None:
    """C2: never a dead connection."""
    most = running = 0
    full = asyncio.Event()

    async def work(proto: H2Protocol) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(one(proto, (await proto.recv_request())[0]))

    async def one(proto: H2Protocol, stream_id: int) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await full.wait()
        await proto.read_stream(stream_id, -1)
        running -= 1
        await proto.start_response(stream_id, OK)
        await proto.send_data(stream_id, b"done", end_stream=True)

    async with linked(work, concurrency=3) as client:

        async def ask_one() -> bytes:
            stream_id = await client.start_request(POST)
            await client.send_data(stream_id, b"x", end_stream=True)
            return await client.read_stream(stream_id, -1)

        assert await asyncio.gather(*(ask_one() for _ in range(50))) == [b"done"] * 50
    assert most == 3


async def test_a_client_above_the_concurrency_is_refused_and_its_connection_lives() -> None:
    """C2."""
    async with served(concurrency=3) as (peer, proto):
        for stream_id in (1, 3, 5, 7, 9):
            peer.send_headers(stream_id, request("POST"))
        refused = [await peer.expect(Type.RST_STREAM) for _ in range(2)]
        assert [(each.stream_id, each.code) for each in refused] == [
            (7, Code.REFUSED_STREAM), (9, Code.REFUSED_STREAM),
        ]  # fmt: skip
        assert [(await proto.recv_request())[0] for _ in range(3)] == [1, 3, 5]
        await peer.barrier()


async def test_50_tasks_that_wait_for_requests_get_one_each_also_where_some_are_cancelled() -> None:
    """C2."""
    async with served(concurrency=100) as (peer, proto):
        waiting = [asyncio.create_task(proto.recv_request()) for _ in range(60)]
        await settle()
        for number in range(50):
            peer.send_headers(2 * number + 1, request(), end_stream=True)
            if number % 5 == 0:
                waiting[number].cancel()
        got = [each for each in await asyncio.gather(*waiting, return_exceptions=True) if isinstance(each, tuple)]
        assert sorted(each[0] for each in got) == list(range(1, 101, 2))


async def test_a_request_that_its_client_took_back_before_anyone_took_it_is_not_given() -> None:
    async with served() as (peer, proto):
        peer.send_headers(1, request("POST"))
        peer.send(rst(1))
        peer.send_headers(3, request("POST"))
        await peer.barrier()
        await settle()
        assert (await proto.recv_request())[0] == 3


# --- health and settings --------------------------------------------------------------------------------------------


async def test_a_peer_that_was_just_heard_is_not_asked() -> None:
    """H1: tickless."""
    async with calling(functional_timeout=1000) as (client, peer):
        assert await client.wait_functional() is None
        await peer.barrier()
        assert not [each for each in peer.seen if each.type == Type.PING and not each.has(Flag.ACK)]


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_silent_peer_is_asked_once_and_the_round_trip_is_returned(side: str) -> None:
    """H1."""
    if side == "client":
        async with calling(functional_timeout=0) as (client, peer):
            await is_asked(client, peer.send, peer.expect)
    else:
        async with served(functional_timeout=0) as (peer, proto):
            await is_asked(proto, peer.send, peer.expect)


async def is_asked(proto: H2Protocol, send: Any, expect: Any) -> None:
    waiting = [asyncio.create_task(proto.wait_functional()) for _ in range(50)]
    await settle()
    waiting[0].cancel()
    asked = await expect(Type.PING, where=lambda frame: not frame.has(Flag.ACK))
    send(ping(asked.payload, ack=True))
    round_trips = await asyncio.gather(*waiting[1:])
    assert len(set(round_trips)) == 1
    assert 0 < (round_trips[0] or 0.0) < 5
    proto.functional_timeout = 1000
    assert (proto.functional_timeout, await proto.wait_functional()) == (1000, round_trips[0])


async def test_settings_are_told_and_hold() -> None:
    """W12."""
    async with served() as (peer, proto):
        proto.update_settings({4: 100_000, 3: 5})
        said = await peer.expect(Type.SETTINGS, where=lambda frame: bool(frame.payload))
        assert (said.settings[Setting.INITIAL_WINDOW_SIZE], said.settings[Setting.MAX_CONCURRENT_STREAMS]) == (
            100_000,
            5,
        )
        assert (proto.initial_window_size, proto.max_concurrent_streams, proto.max_frame_size) == (100_000, 5, 16_384)
        peer.send(settings(ack=True))
        for setting, value in (("max_frame_size", 20_000), ("initial_window_size", 7), ("max_concurrent_streams", 1)):
            setattr(proto, setting, value)
            await peer.expect(Type.SETTINGS, where=lambda frame: bool(frame.payload))
            peer.send(settings(ack=True))
            assert getattr(proto, setting) == value
        await peer.barrier()


async def test_a_client_changes_its_settings_too() -> None:
    async with calling() as (client, peer):
        client.initial_window_size = 5
        said = await peer.expect(Type.SETTINGS, where=lambda frame: bool(frame.payload))
        assert said.settings[Setting.INITIAL_WINDOW_SIZE] == 5


async def test_a_server_of_the_house_and_a_client_of_aioh2s_manner_understand_each_other() -> None:
    async def echo(stream: ServerStream) -> None:
        await stream.respond(200, body=await stream.read(), trailers={"a": "b"})

    async with Server(echo) as server, await aioh2.open_connection("localhost", server.port) as client:
        stream_id = await client.start_request(POST)
        await client.send_data(stream_id, bytes(1_000_000), end_stream=True)
        assert len(await client.read_stream(stream_id, -1)) == 1_000_000
        assert await client.recv_trailers(stream_id) == [("a", "b")]


@pytest.mark.parametrize("status", ["9" * 5000, "12345", "x", "", "-1"])
async def test_a_status_that_is_none_is_refused_and_another_can_follow(status: str) -> None:
    async def handler(proto: H2Protocol) -> None:
        stream_id, _ = await proto.recv_request()
        with pytest.raises(InvalidHeaders, match=":status"):
            await proto.start_response(stream_id, {":status": status})
        await proto.start_response(stream_id, {":status": "204"}, end_stream=True)

    async with linked(handler) as client:
        stream_id = await client.start_request(GET, end_stream=True)
        assert await client.recv_response(stream_id) == [(":status", "204")]
