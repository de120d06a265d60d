"""Health checking: what is answered, what is refused and how, who cannot lock out whom."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Final

import pytest
from attrs import Factory, define, field
from hypothesis import given
from hypothesis import strategies as st

from actors.client_stream import ClientStream
from actors.exchange import Response
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server
from supervisor.workers.probes import (
    CHECK,
    MAX_GROUPS,
    MAX_MESSAGE,
    MAX_PENDING,
    READ_TIMEOUT,
    WATCH,
    Probes,
    Refused,
    Status,
    decode_request,
    framed,
    limits,
    seconds_of,
)
from tests.support import frames
from tests.support.frames import Code, RawPeer, Type
from tests.support.sides import until

GRPC: Final = (("content-type", "application/grpc"), ("te", "trailers"))
Fields = tuple[tuple[str, str], ...]

# --- what a client says and hears, by hand ----------------------------------------------------------------------------


def message(data: bytes, *, compressed: int = 0) -> bytes:
    """A message as it stands in a body."""
    return struct.pack(">BL", compressed, len(data)) + data


def asking(service: str) -> bytes:
    """A body with a HealthCheckRequest; the shortest one for the empty name."""
    name = service.encode()
    return message(b"\x0a" + bytes([len(name)]) + name if name else b"")


def statuses(body: bytes) -> list[Status]:
    """What a body with HealthCheckResponses says; a message without a field says UNKNOWN."""
    found = []
    while body:
        flag, length = struct.unpack_from(">BL", body)
        assert (flag, length) in ((0, 0), (0, 2))
        assert length == 0 or body[5] == 0x08
        found.append(Status(body[6] if length else 0))
        body = body[5 + length :]
    return found


def refusal(response: Response) -> int:
    """The grpc-status of a response that is a head alone."""
    assert (response.status, response.body, len(response.trailers)) == (200, b"", 0)
    assert response.headers["content-type"] == "application/grpc"
    assert response.headers["grpc-message"]
    return int(response.headers["grpc-status"] or -1)


@define
class World:
    """A process that is ready or not, its probes, and a link to them."""

    ready: bool = True
    probes: Probes = field(init=False, default=Factory(lambda self: Probes(lambda: self.ready), takes_self=True))
    server: Server = field(init=False)
    link: Link = field(init=False)

    def turn(self, ready: bool) -> None:
        self.ready = ready
        self.probes.changed()

    async def call(
        self, method: str = CHECK, body: bytes | Iterable[bytes] | None = None, headers: Fields = GRPC
    ) -> Response:
        asked = asking("") if body is None else body
        return await self.link.request("POST", method, headers=headers, body=asked, timeout=60)

    async def check(self, service: str = "") -> Status:
        response = await self.call(body=asking(service))
        assert (response.status, response.trailers["grpc-status"]) == (200, "0")
        (status,) = statuses(response.body)
        return status


@asynccontextmanager
async def world(*, within: Limits | None = None) -> AsyncIterator[World]:
    made = World()
    async with (
        Server(made.probes.handler, limits=within or limits()) as made.server,
        Link(made.server.url) as made.link,
    ):
        yield made


@asynccontextmanager
async def watching(made: World, service: str = "", *more: tuple[str, str]) -> AsyncIterator[ClientStream]:
    """A Watch whose head has come."""
    async with made.link.stream("POST", WATCH, headers=(*GRPC, *more), body=asking(service)) as stream:
        assert (await stream.response()).status == 200
        yield stream


async def heard(stream: ClientStream) -> Status:
    """The next message of a Watch."""
    body = b""
    while len(body) < 5 or len(body) < 5 + body[4]:
        chunk = await stream.read(5 - len(body) if len(body) < 5 else 5 + body[4] - len(body))
        assert chunk
        body += chunk
    (status,) = statuses(body)
    return status


# --- what is answered -------------------------------------------------------------------------------------------------


async def test_readiness_is_what_the_owner_says_and_liveness_stays() -> None:
    """M7: the empty name is the whole process, as Kubernetes asks for it unless it is told a name."""
    async with world() as made:
        services = ("", "readiness", "liveness")
        assert [await made.check(each) for each in services] == [Status.SERVING] * 3
        made.ready = False  # and nobody calls changed()
        assert [await made.check(each) for each in services] == [Status.NOT_SERVING] * 2 + [Status.SERVING]


async def test_a_check_of_an_unknown_service_is_not_found() -> None:
    async with world() as made:
        assert refusal(await made.call(body=asking("other"))) == 5


async def test_a_watcher_of_an_unknown_service_is_told_so_and_stays() -> None:
    """M7: it ends with the process, and no change concerns it."""
    async with world() as made, watching(made, "other") as stream:
        assert await heard(stream) is Status.SERVICE_UNKNOWN
        made.turn(False)
        assert made.probes.watchers == 1
        made.probes.close()
        assert await stream.read() == b""
        assert (await stream.trailers())["grpc-status"] == "14"


async def test_changes_come_in_order_and_none_is_lost_or_told_twice() -> None:
    """M7: also those that follow each other before any watcher had a turn."""
    async with world() as made, watching(made) as stream, watching(made, "liveness") as alive:
        assert await heard(stream) is await heard(alive) is Status.SERVING
        for ready in (True, False, False, True, True, False):
            made.turn(ready)
        told = [await heard(stream) for _ in range(3)]
        assert told == [Status.NOT_SERVING, Status.SERVING, Status.NOT_SERVING]
        made.probes.close()
        assert await stream.read() == await alive.read() == b""


async def test_of_many_changes_at_once_a_watcher_hears_a_row_that_ends_with_the_last() -> None:
    async with world() as made, watching(made) as stream:
        for number in range(1001):
            made.turn(number % 2 == 1)
        made.probes.close()
        told = statuses(await stream.read())
        assert 2 <= len(told) <= MAX_PENDING + 1
        assert all(one is not other for one, other in pairwise(told))
        assert (told[0], told[-1]) == (Status.SERVING, Status.NOT_SERVING)


async def test_closing_ends_watches_with_unavailable_and_so_is_whoever_comes_later() -> None:
    """M7: liveness is SERVING until then."""
    async with world() as made, watching(made, "liveness") as stream:
        made.turn(False)
        assert await made.check("liveness") is Status.SERVING
        made.probes.close()
        assert statuses(await stream.read()) == [Status.SERVING]
        assert (await stream.trailers())["grpc-status"] == "14"
        assert made.probes.watchers == 0
        assert [refusal(await made.call(method)) for method in (CHECK, WATCH)] == [14, 14]


async def test_a_watcher_that_goes_is_forgotten() -> None:
    async with world() as made:
        async with watching(made), watching(made):
            assert made.probes.watchers == 2
        await until(lambda: made.probes.watchers == 0)


@pytest.mark.virtual_time
async def test_a_watch_lasts_as_long_as_its_grpc_timeout() -> None:
    async with world() as made, watching(made, "", ("grpc-timeout", "100S")) as stream:
        began = asyncio.get_running_loop().time()
        assert statuses(await stream.read()) == [Status.SERVING]
        assert (await stream.trailers())["grpc-status"] == "4"
        assert asyncio.get_running_loop().time() - began == pytest.approx(100, abs=1)
        assert made.probes.watchers == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2H", 7200), ("3M", 180), ("99999999S", 99999999), ("500m", 0.5), ("7u", 7e-6), ("10n", 1e-8), (None, None)],
)
def test_a_grpc_timeout_has_one_of_six_units(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["", "5", "S", "-1S", "1.5S", "123456789S", "5 S", "5s", "5S\n", "\u0665S"])
def test_a_malformed_grpc_timeout_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="grpc-timeout"):
        seconds_of(text)


# --- gRPC's rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"])
async def test_a_content_type_of_grpc_with_protobuf_is_taken(kind: str) -> None:
    async with world() as made:
        response = await made.call(headers=(("content-type", kind),))
    assert (response.headers["content-type"], response.trailers["grpc-status"]) == ("application/grpc", "0")


@pytest.mark.parametrize("kind", ["application/json", "application/grpc+json", "application/grpc-web", "text/plain"])
async def test_any_other_content_type_is_415(kind: str) -> None:
    async with world() as made:
        assert (await made.call(headers=(("content-type", kind),))).status == 415
        assert (await made.call(headers=())).status == 415


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_any_method_but_post_is_405(method: str) -> None:
    async with world() as made:
        response = await made.link.request(method, CHECK, headers=GRPC)
    assert (response.status, response.headers["allow"]) == (405, "POST")


LONG: Final = "x" * (MAX_MESSAGE - 3)
BAD_REQUESTS: Final[dict[str, tuple[int, str, bytes, Fields]]] = {
    "an unknown method": (12, "/grpc.health.v1.Health/List", asking(""), ()),
    "an unknown service of gRPC": (12, "/grpc.reflection.v1.ServerReflection/Check", asking(""), ()),
    "a path with a query": (12, f"{CHECK}?x", asking(""), ()),
    "no message": (12, CHECK, b"", ()),
    "two messages": (12, CHECK, asking("") * 2, ()),
    "a watch with two messages": (12, WATCH, asking("") + b"\0", ()),
    "a prefix that is cut": (13, CHECK, asking("")[:4], ()),
    "a message that is cut": (13, CHECK, asking("readiness")[:-1], ()),
    "a compressed message": (12, CHECK, message(b"?", compressed=1), (("grpc-encoding", "gzip"),)),
    "the Compressed-Flag alone": (13, CHECK, message(b"?", compressed=1), ()),
    "the Compressed-Flag of identity": (13, CHECK, message(b"?", compressed=1), (("grpc-encoding", "identity"),)),
    "the longest message": (5, CHECK, message(b"\x0a" + b"\xfd\x1f" + LONG.encode()), ()),
    "a message that is too long": (8, CHECK, message(bytes(MAX_MESSAGE + 1)), ()),
    "a message that is far too long": (8, WATCH, message(bytes(500_000)), ()),
    "no protobuf": (13, CHECK, message(b"\x0a\x05abcd"), ()),
    "a name that is no UTF-8": (13, WATCH, message(b"\x0a\x01\xff"), ()),
    "a malformed grpc-timeout": (13, CHECK, asking(""), (("grpc-timeout", "soon"),)),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_what_cannot_be_answered_gets_a_status_in_a_head_alone(what: str) -> None:
    """M7: with HTTP's 200, and the connection serves on."""
    status, path, body, more = BAD_REQUESTS[what]
    async with world() as made:
        response = await made.call(path, body, (*GRPC, *more))
        assert refusal(response) == status
        assert (await made.check(), made.probes.watchers) == (Status.SERVING, 0)
        assert made.server.stats().connections_accepted == 1
    if what == "a compressed message":
        assert response.headers["grpc-accept-encoding"] == "identity"


async def test_a_length_that_is_too_long_is_refused_before_the_message_comes() -> None:
    async with world() as made, made.link.stream("POST", CHECK, headers=GRPC) as stream:
        await stream.send(struct.pack(">BL", 0, 2**32 - 1))
        assert (await stream.response()).headers["grpc-status"] == "8"


async def test_a_message_may_come_in_pieces() -> None:
    async with world() as made:
        body = asking("liveness")
        response = await made.call(body=[body[at : at + 1] for at in range(len(body))])
    assert statuses(response.body) == [Status.SERVING]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("more", "seconds"), [((), READ_TIMEOUT), ((("grpc-timeout", "1S"),), 1.0)])
async def test_a_request_that_does_not_come_to_an_end_gives_its_place_back(more: Fields, seconds: float) -> None:
    async with world() as made, made.link.stream("POST", CHECK, headers=(*GRPC, *more)) as stream:
        began = asyncio.get_running_loop().time()
        await stream.send(asking("")[:3])
        assert (await stream.response()).headers["grpc-status"] == "4"
        assert asyncio.get_running_loop().time() - began == pytest.approx(seconds, abs=0.1)


# --- who floods -------------------------------------------------------------------------------------------------------


async def from_address(host: str, server: Server) -> RawPeer:
    """A raw client with an address of its own."""
    return RawPeer(*await asyncio.open_connection("127.0.0.1", server.port, local_addr=(host, 0)), server=False)


async def ask(peer: RawPeer, path: str, stream_id: int = 1) -> None:
    peer.send_headers(stream_id, frames.request("POST", path, *GRPC))
    peer.send(frames.data(stream_id, asking(""), end_stream=True))


@pytest.mark.bulk
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
async def test_an_address_that_takes_all_it_gets_leaves_the_others_theirs() -> None:
    """M7: connections and watches of one address have a bound, and another is answered within 1 s meanwhile."""
    bounds = limits()
    places, handlers = bounds.max_connections_per_peer or 0, bounds.max_handlers_per_peer or 0
    assert 16 * places <= bounds.max_connections
    assert 16 * handlers <= bounds.max_handlers
    async with world() as made, AsyncExitStack() as stack:
        # The link has a place already.
        flood = [await stack.enter_async_context(await from_address("127.0.0.1", made.server)) for _ in range(places)]
        await flood[-1].expect_end()
        for peer in flood[:4]:
            await peer.handshake()
            for number in range(handlers // 4):
                await ask(peer, WATCH, 2 * number + 1)
        await until(lambda: made.probes.watchers == handlers)
        await ask(flood[0], WATCH, 999)
        assert (await flood[0].expect(Type.RST_STREAM, 999)).code == Code.REFUSED_STREAM
        async with asyncio.timeout(1):
            kubelet = await stack.enter_async_context(await from_address("127.0.0.2", made.server))
            await kubelet.handshake()
            await ask(kubelet, CHECK)
            assert await kubelet.expect_headers(1) == [
                (b":status", b"200"), (b"content-type", b"application/grpc"), (b"content-length", b"7"),
            ]  # fmt: skip
            assert (await kubelet.expect(Type.DATA, 1)).body == framed(Status.SERVING)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("speaks", "seconds"), [(False, 2.0), (True, 15.0)])
async def test_who_asks_nothing_gives_its_place_back(speaks: bool, seconds: float) -> None:
    """M7: a client that says nothing soon, one that has asked somewhat later."""
    probes = Probes(lambda: True)
    async with (
        Server(probes.handler, limits=limits()) as server,
        await RawPeer.connect("127.0.0.1", server.port) as peer,
    ):
        began = asyncio.get_running_loop().time()
        if speaks:
            await peer.handshake()
            await ask(peer, CHECK)
        await peer.expect_end(timeout=60)
        assert asyncio.get_running_loop().time() - began == pytest.approx(seconds, abs=1)


# --- protobuf ---------------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def named(service: str) -> bytes:
    data = service.encode()
    return tag(1, 2) + varint(len(data)) + data


@st.composite
def groups(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    number = draw(numbers)
    return tag(number, 3) + draw(inner) + tag(number, 4)


numbers, others = st.integers(1, 2**29 - 1), st.integers(2, 2**29 - 1)
leaves = st.one_of(
    st.builds(lambda number, value: tag(number, 0) + varint(value), numbers, st.integers(0, 2**64 - 1)),
    st.builds(lambda number, data: tag(number, 1) + data, others, st.binary(min_size=8, max_size=8)),
    st.builds(lambda number, data: tag(number, 5) + data, others, st.binary(min_size=4, max_size=4)),
    st.builds(lambda number, data: tag(number, 2) + varint(len(data)) + data, others, st.binary(max_size=300)),
)  # fmt: skip
unknown = st.recursive(
    leaves, lambda inner: groups(st.lists(inner | st.text().map(named), max_size=3).map(b"".join)), max_leaves=6
)
"""Fields that are no HealthCheckRequest's, of every wire type; within a group a field 1 is no service, either."""


@given(st.text(), st.lists(unknown, max_size=4), st.lists(unknown, max_size=4), st.none() | st.text())
def test_a_service_is_found_among_fields_that_are_not_known(
    service: str, before: list[bytes], after: list[bytes], earlier: str | None
) -> None:
    first = named(earlier) if earlier is not None else b""
    assert decode_request(first + b"".join(before) + named(service) + b"".join(after)) == service
    assert decode_request(b"".join(before + after)) == ""


@given(st.binary(max_size=200) | st.lists(unknown | st.binary(max_size=6), max_size=5).map(b"".join))
def test_any_bytes_are_a_service_or_refused(data: bytes) -> None:
    try:
        decode_request(data).encode()
    except Refused as refused:
        code = refused.code
    else:
        return
    assert code == 13


@given(st.text(), unknown, st.data())
def test_a_message_that_is_cut_within_a_field_is_refused(service: str, more: bytes, data: st.DataObject) -> None:
    whole = named(service) + more
    at = data.draw(st.integers(1, len(whole) - 1))
    if at == len(named(service)):
        assert decode_request(whole[:at]) == service
        return
    with pytest.raises(Refused):
        decode_request(whole[:at])


MALFORMED: Final = {
    "field 0": b"\x00\x00",
    "field 0 with bytes": b"\x02\x00",
    "wire type 6": b"\x0e",
    "wire type 7": b"\x0f",
    "an end alone": b"\x0c",
    "another's end": b"\x0b\x14",
    "no end": b"\x0b",
    "a number without end": b"\x08" + b"\x80" * 10 + b"\x00",
    "a tag above 32 bits": b"\x88\x80\x80\x80\x10\x00",
    "a length above 31 bits": b"\x0a\xff\xff\xff\xff\x0f",
    "a length beyond the end": b"\x0a\x02x",
    "overlong UTF-8": b"\x0a\x02\xc0\x80",
    "a surrogate": b"\x0a\x03\xed\xa0\x80",
    "groups too deep": tag(1, 3) * (MAX_GROUPS + 1) + tag(1, 4) * (MAX_GROUPS + 1),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_no_protobuf_library_takes_is_refused(what: str) -> None:
    with pytest.raises(Refused, match="HealthCheckRequest"):
        decode_request(MALFORMED[what])


def test_groups_may_be_as_deep_as_the_library_lets_them() -> None:
    assert decode_request(tag(1, 3) * MAX_GROUPS + tag(1, 4) * MAX_GROUPS + named("x")) == "x"
