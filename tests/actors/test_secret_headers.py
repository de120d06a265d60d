"""Fields that a user marks as secret: no HPACK table keeps their values, and nothing shows them."""

from hpack import Decoder, NeverIndexedHeaderTuple

from actors.headers import Headers, Pair, check_fields, secret
from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.support.frames import RawPeer, Type, headers, request, response
from tests.support.sides import linked_to_raw

KEY = "k-8f2a"


def sensitive(pairs: list[Pair]) -> list[bytes]:
    return [pair[0] for pair in pairs if type(pair) is NeverIndexedHeaderTuple]


def test_a_field_that_is_marked_secret_is_never_indexed_and_its_neighbours_are() -> None:
    """RFC 7541, 7.1.3."""
    pairs = check_fields([("x-open", "shown"), secret("X-Api-Key", f" {KEY} ")])
    assert pairs == [(b"x-open", b"shown"), (b"x-api-key", KEY.encode())]
    assert sensitive(pairs) == [b"x-api-key"]


def test_a_field_that_is_marked_secret_is_not_shown() -> None:
    held = Headers([secret("X-Api-Key", KEY), ("x-open", "shown")])
    assert held["x-api-key"] == KEY
    assert repr(held) == "Headers('x-api-key: (hidden)', 'x-open: shown')"


async def test_a_secret_field_of_a_request_goes_out_as_a_literal_that_is_never_indexed() -> None:
    fields = [secret("x-api-key", KEY), ("x-open", "shown")]
    async with linked_to_raw() as (link, peer), link.stream("GET", "/", headers=fields) as stream:
        head = await peer.expect(Type.HEADERS, 1)
        arrived = Decoder().decode(head.payload, raw=True)
        assert [bytes(field[0]) for field in arrived if not field.indexable] == [b"x-api-key"]
        peer.send_headers(1, response(), end_stream=True)
        await stream.response()


async def test_what_came_in_as_secret_goes_out_as_secret_again() -> None:
    """RFC 7541, 7.1.3: who passes a field on must not index what its sender did not want indexed."""

    async def echo(stream: ServerStream) -> None:
        await stream.respond(200, stream.headers)

    async with Server(echo) as server, await RawPeer.connect("127.0.0.1", server.port) as peer:
        await peer.handshake()
        fields = [*request(), NeverIndexedHeaderTuple(b"x-api-key", KEY.encode()), (b"x-open", b"shown")]
        block = peer.encoder.encode(fields)
        peer.send(headers(1, bytes(block), end_stream=True))
        head = await peer.expect(Type.HEADERS, 1)
        arrived = Decoder().decode(head.payload, raw=True)
        assert [bytes(field[0]) for field in arrived if not field.indexable] == [b"x-api-key"]
