"""What h2 lets its users set and see of SETTINGS and ALTSVC, and a server's or a client's connection here."""

import asyncio

import pytest

from actors.errors import Closed, InvalidHeaders, Misuse
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.served import ServedConnection
from supervisor.server import Server
from tests.support.frames import Code, Flag, RawPeer, Setting, Type, headers, request, settings
from tests.support.sides import linked_to_raw

LARGE = 16 * 1024


async def respond(stream: ServerStream) -> None:
    await stream.respond(200, body=(stream.headers.get("x-long") or "").encode())


async def test_a_server_lets_its_peer_use_as_large_a_header_table_as_it_says() -> None:
    limits = Limits(decoder_table=LARGE)
    async with Server(respond, limits=limits) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        said = await peer.handshake()
        assert said[Setting.HEADER_TABLE_SIZE] == LARGE
        peer.encoder.header_table_size = LARGE
        long = "v" * 6000  # more than fits into the default table; here it is found there the second time
        for stream_id in (1, 3):
            block = peer.encoder.encode(request("GET", "/", ("x-long", long)))
            peer.send(headers(stream_id, bytes(block), end_stream=True))
            assert await peer.expect_body(stream_id) == long.encode()
        assert len(block) < 100


async def test_a_peer_that_does_not_shrink_its_table_once_it_has_acknowledged_less_has_broken_hpack() -> None:
    """RFC 9113, 4.3.1."""
    limits = Limits(decoder_table=100)
    async with Server(respond, limits=limits) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        assert (await peer.handshake())[Setting.HEADER_TABLE_SIZE] == 100
        peer.send_headers(1, request(), end_stream=True)
        assert (await peer.expect(Type.GOAWAY)).code == Code.COMPRESSION_ERROR


async def test_the_default_table_is_not_said_until_another_one_was() -> None:
    async with linked_to_raw() as (link, peer):
        [first] = [frame for frame in peer.seen if frame.type == Type.SETTINGS and not frame.has(Flag.ACK)]
        assert Setting.HEADER_TABLE_SIZE not in first.settings
        for size in (0, 4096):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.change_limits(Limits(decoder_table=size)))
                changed = await peer.expect(Type.SETTINGS, where=lambda frame: not frame.has(Flag.ACK))
                peer.send(settings(ack=True))
            assert changed.settings[Setting.HEADER_TABLE_SIZE] == size


async def test_what_the_peer_has_set_can_be_looked_at() -> None:
    values: dict[int, int] = {
        Setting.MAX_CONCURRENT_STREAMS: 7,
        Setting.MAX_FRAME_SIZE: 20_000,
        Setting.MAX_HEADER_LIST_SIZE: 9_999,
    }
    async with linked_to_raw(values) as (link, peer):
        [stats] = link.stats().connection_stats
        assert stats.peer_settings["max_concurrent_streams"] == 7
        assert stats.peer_settings["max_frame_size"] == 20_000
        assert stats.peer_settings["max_header_list_size"] == 9_999
        assert stats.peer_settings["initial_window_size"] == 65_535
        peer.send(settings({Setting.INITIAL_WINDOW_SIZE: 5}))
        await peer.expect(Type.SETTINGS, where=lambda frame: frame.has(Flag.ACK))
        [stats] = link.stats().connection_stats
        assert stats.peer_settings["initial_window_size"] == 5


async def test_a_server_offers_an_alternative_before_any_request_has_come() -> None:
    """RFC 7838, 4."""

    def connected(connection: ServedConnection) -> None:
        connection.offer_alternative('h2=":8443"', origin="https://api.test")
        with pytest.raises(Misuse):
            connection.offer_alternative('h2=":8443"', origin="")
        with pytest.raises(InvalidHeaders):
            connection.offer_alternative("h2\n", origin="https://api.test")

    async with Server(respond, connected=connected) as server, Link(server.url) as link:
        await link.ping()
        assert link.alternatives == {"https://api.test": 'h2=":8443"'}


async def test_no_alternative_can_be_offered_once_the_connection_has_ended() -> None:
    served: list[ServedConnection] = []
    async with Server(respond, connected=served.append) as server:
        async with Link(server.url) as link:
            await link.request("GET", "/")
        await served[0].wait()
        with pytest.raises(Closed):
            served[0].offer_alternative('h2=":8443"', origin="https://api.test")
