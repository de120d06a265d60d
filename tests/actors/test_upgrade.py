"""Connections that began as HTTP/1.1: what the request says, whose stream 1 is, and that nothing is left behind."""

import asyncio
import base64
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from actors.errors import Closed, DeadlineExceeded, LinkError, Misuse, ProtocolViolation, StreamReset, TransportLost
from actors.settings import Limits
from actors.upgrade import UpgradedConnection, http2_settings, upgrade_headers, upgraded
from tests.support import frames
from tests.support.frames import RawPeer, Setting, Type
from tests.support.sides import settle, until

SMALL = Limits(stream_window=200_000, max_frame_size=20_000, max_header_list=10_000, max_streams=7)


def values(header: str) -> dict[int, int]:
    """What a value of HTTP2-Settings sets."""
    payload = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
    return dict(struct.iter_unpack(">HL", payload))


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@asynccontextmanager
async def server(early: bytes = b"", **options: Any) -> AsyncIterator[tuple[UpgradedConnection, RawPeer]]:
    """A connection that was just upgraded, to be entered, and the server's end of it."""
    ours, theirs = socket.socketpair()
    async with RawPeer(*await asyncio.open_connection(sock=theirs), server=True) as peer:
        try:
            yield UpgradedConnection(ours, early, authority="test", **options), peer
        finally:
            ours.close()


def answer(status: int = 200, body: bytes = b"hello", *extra: tuple[str, str]) -> bytes:
    """A response on stream 1, whole, behind the server's preface."""
    head = frames.headers(1, frames.encode(frames.response(status, *extra)), end_stream=not body)
    return frames.settings() + head + (frames.data(1, body, end_stream=True) if body else b"")


# --- what the request says --------------------------------------------------------------------------------------------


def test_the_request_says_what_the_first_settings_will_say() -> None:
    """RFC 7540, 3.2.1: base64url without padding, no pushes, and no more than that is wanted."""
    header = http2_settings(SMALL)
    assert "=" not in header
    assert values(header) == {
        Setting.ENABLE_PUSH: 0,
        Setting.INITIAL_WINDOW_SIZE: 200_000,
        Setting.MAX_FRAME_SIZE: 20_000,
        Setting.MAX_HEADER_LIST_SIZE: 10_000,
    }
    assert values(http2_settings(SMALL, push=True)) == {
        **values(header), Setting.ENABLE_PUSH: 1, Setting.MAX_CONCURRENT_STREAMS: 7
    }  # fmt: skip
    assert upgrade_headers(SMALL) == [
        ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", header)
    ]  # fmt: skip


def test_a_server_of_h2s_takes_the_value() -> None:
    peer = H2Connection(H2Configuration(client_side=False))
    header = http2_settings(SMALL)
    peer.initiate_upgrade_connection((header + "=" * (-len(header) % 4)).encode())
    assert peer.remote_settings[SettingCodes.INITIAL_WINDOW_SIZE] == 200_000
    assert peer.remote_settings.enable_push == 0


async def test_behind_the_101_come_the_preface_and_the_same_settings_and_no_request() -> None:
    async with server(limits=SMALL) as (upgrading, peer), upgrading:
        theirs = await peer.handshake()
        await peer.barrier()
        assert theirs == values(http2_settings(SMALL))
        assert peer.preface == frames.PREFACE
        assert [each.type for each in peer.seen if each.stream_id] == []


# --- stream 1 ---------------------------------------------------------------------------------------------------------


async def test_stream_1_has_the_response_and_its_trailers() -> None:
    async with server(method="POST") as (upgrading, peer), upgrading as connection:
        await peer.handshake()
        peer.send_headers(1, frames.response(200, ("x-a", "b")))
        peer.send(frames.data(1, b"hello, ") + frames.data(1, b"world"))
        peer.send_headers(1, [("x-sum", "12")], end_stream=True)
        first = connection.first
        head = await first.response()
        assert (first.id, head.status, head.headers["x-a"]) == (1, 200, "b")
        assert await first.read() == b"hello, world"
        assert (await first.trailers())["x-sum"] == "12"
        with pytest.raises(Misuse, match=r"our side .* has ended"):
            await first.send(b"more")
        await peer.barrier()
        assert not [each for each in peer.seen if each.type in (Type.DATA, Type.HEADERS, Type.RST_STREAM)]


@pytest.mark.parametrize("cut", [0, 9, 15, 30, 10_000])
async def test_what_was_read_behind_the_101_comes_first_wherever_it_ends(cut: int) -> None:
    says = answer(200, b"early")
    async with server(says[:cut]) as (upgrading, peer):
        peer.send(says[cut:])
        await peer.drain()
        async with upgrading as connection, asyncio.timeout(5):
            assert (await connection.first.response()).status == 200
            assert await connection.first.read() == b"early"


async def test_a_whole_response_and_the_end_of_the_connection_that_came_early_are_read_all_the_same() -> None:
    async with server(answer(200, b"early") + frames.goaway(1)) as (upgrading, peer):
        await peer.close()
        async with upgrading as connection, asyncio.timeout(5):
            assert await connection.first.read() == b"early"


async def test_interim_answers_on_stream_1_and_a_body_that_head_has_not() -> None:
    interim = frames.headers(1, frames.encode(frames.response(103, ("link", "</x>"))))
    head = frames.headers(1, frames.encode(frames.response(200, ("content-length", "5"))), end_stream=True)
    async with server(frames.settings() + interim + head, method="HEAD") as (upgrading, _), upgrading as connection:
        got = await connection.first.response()
        assert [each.status for each in got.informational] == [103]
        assert (got.headers["content-length"], await connection.first.read()) == ("5", b"")


async def test_the_server_may_fill_the_window_that_the_request_named_before_it_hears_more() -> None:
    """RFC 7540, 3.2.1: the values hold from the 101 on; nothing is acknowledged yet."""
    body = bytes(150_000)
    chunks = [frames.data(1, body[n : n + 15_000], end_stream=n == 135_000) for n in range(0, 150_000, 15_000)]
    head = frames.headers(1, frames.encode(frames.response(200)))
    async with server(limits=SMALL) as (upgrading, peer), upgrading as connection:
        peer.send(frames.settings() + head + b"".join(chunks))
        assert len(await connection.first.read()) == 150_000


async def test_a_window_that_is_smaller_than_the_usual_one_may_be_overstepped_until_it_is_acknowledged() -> None:
    """RFC 9113, 6.9.2: many servers read no HTTP2-Settings."""
    head = frames.headers(1, frames.encode(frames.response(200)))
    tight = Limits(stream_window=1000, connection_window=65_535)
    async with server(limits=tight) as (upgrading, peer), upgrading as connection:
        peer.send(frames.settings() + head + frames.data(1, bytes(16_000), end_stream=True))
        assert len(await connection.first.read()) == 16_000


async def test_a_reset_of_stream_1_ends_it_alone() -> None:
    async with server() as (upgrading, peer), upgrading as connection:
        await peer.handshake()
        peer.send(frames.rst(1, 2))
        with pytest.raises(StreamReset) as caught:
            await connection.first.response()
        assert caught.value.code == 2
        assert await answered(connection, peer, 3) == 200


async def test_leaving_before_the_response_says_goaway_and_ends_what_is_open() -> None:
    async with server() as (upgrading, peer):
        async with upgrading as connection:
            await peer.handshake()
            asking = asyncio.create_task(connection.request("GET", "/more"))
            await peer.expect_headers(3)
        await peer.expect(Type.GOAWAY)
        await peer.expect_end()
        with pytest.raises(Closed, match="was closed"):
            await asking


@pytest.mark.virtual_time
async def test_a_response_that_does_not_come_in_time_is_a_deadline() -> None:
    async with server(timeout=3.0) as (upgrading, peer), upgrading as connection:
        peer.send(frames.settings())
        with pytest.raises(DeadlineExceeded):
            await connection.first.response()
        assert asyncio.get_running_loop().time() == pytest.approx(3.0, abs=0.1)


async def test_the_short_form_lends_the_stream_alone() -> None:
    ours, theirs = socket.socketpair()
    async with RawPeer(*await asyncio.open_connection(sock=theirs), server=True) as peer:
        async with upgraded(ours, answer(404, b"no"), authority="test", method="OPTIONS", path="*") as stream:
            assert (await stream.response()).status == 404
            assert await stream.read() == b"no"
        await peer.expect(Type.GOAWAY)
        await peer.expect_end()


# --- later requests ---------------------------------------------------------------------------------------------------


async def answered(connection: UpgradedConnection, peer: RawPeer, stream_id: int, body: bytes = b"") -> int:
    """The status of another request, which the server answers."""
    asking = asyncio.create_task(connection.request("POST", "/more", body=body))
    fields = dict(await peer.expect_headers(stream_id))
    assert (fields[b":path"], fields[b":authority"], fields[b":scheme"]) == (b"/more", b"test", b"http")
    peer.send_headers(stream_id, frames.response(200), end_stream=True)
    return (await asking).status


async def test_later_requests_go_over_the_same_connection_beside_the_first() -> None:
    async with server() as (upgrading, peer), upgrading as connection:
        await peer.handshake()
        assert await answered(connection, peer, 3, b"body") == 200
        async with connection.stream("GET", "/stream") as stream:
            assert stream.id == 5
            peer.send_headers(5, frames.response(204), end_stream=True)
            assert (await stream.response()).status == 204
        peer.send_headers(1, frames.response(200), end_stream=True)
        assert (await connection.first.response()).status == 200
        pinging = asyncio.create_task(connection.ping())
        peer.send(frames.ping((await peer.expect(Type.PING)).payload, ack=True))
        assert await pinging >= 0
        assert connection.cause is None


async def test_a_server_that_goes_away_finishes_stream_1_and_takes_no_more() -> None:
    async with server() as (upgrading, peer), upgrading as connection:
        await peer.handshake()
        peer.send(frames.goaway(1))
        await until(lambda: connection.cause is not None)
        with pytest.raises(LinkError, match="going away"):
            await connection.request("GET", "/late")
        peer.send_headers(1, frames.response(200), end_stream=True)
        assert (await connection.first.response()).status == 200


async def test_pushes_come_where_they_were_asked_for() -> None:
    async with server(push=True) as (upgrading, peer), upgrading as connection:
        await peer.handshake()
        block = peer.encoder.encode(frames.request("GET", "/style", authority="test"))
        peer.send(frames.push_promise(1, 2, bytes(block)))
        peer.send_headers(1, frames.response(200), end_stream=True)
        peer.send_headers(2, frames.response(200, ("x", "pushed")), end_stream=True)
        pushes = [each async for each in connection.first.pushes()]
        assert [each.path for each in pushes] == ["/style"]
        assert (await pushes[0].response()).headers["x"] == "pushed"


# --- peers that lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        os.urandom(8) * 4,
        frames.data(1, b"without a head"),
        frames.settings() + frames.headers(3, frames.encode(frames.response(200)), end_stream=True),
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}),
    ],
    ids=["still HTTP/1.1", "garbage", "no head", "a stream that nobody opened", "a bad setting"],
)
@pytest.mark.parametrize("early", [True, False], ids=["early", "late"])
async def test_a_server_that_speaks_no_http2_after_all_is_a_typed_error(says: bytes, early: bool) -> None:
    async with server(says if early else b"") as (upgrading, peer):
        if not early:
            peer.send(says)
        async with upgrading as connection, asyncio.timeout(5):
            peer.end()
            with pytest.raises((ProtocolViolation, StreamReset, TransportLost)):
                await connection.first.response()
        assert upgrading.cause is not None


@pytest.mark.virtual_time
async def test_a_server_that_says_nothing_after_its_101_is_given_up_in_time() -> None:
    async with server(limits=Limits(settings_timeout=6)) as (upgrading, _), upgrading as connection:
        with pytest.raises(LinkError):
            await connection.first.response()
        assert asyncio.get_running_loop().time() == pytest.approx(6.0, abs=0.5)


async def test_a_server_that_hangs_up_is_a_typed_error() -> None:
    async with server() as (upgrading, peer):
        await peer.close()
        async with upgrading as connection, asyncio.timeout(5):
            with pytest.raises(TransportLost):
                await connection.first.response()


async def test_a_socket_that_the_loop_cannot_take_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # the user's limit of watched files

    ours, theirs = socket.socketpair()
    with theirs:
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        with pytest.raises(TransportLost, match="no upgrade to HTTP/2: No space left on device"):
            await UpgradedConnection(ours, authority="test").__aenter__()
        assert theirs.recv(1) == b""


# --- what can never work, and what is left ----------------------------------------------------------------------------


async def test_what_can_never_work_is_misuse_and_leaves_the_socket_to_its_owner() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = ssl.create_default_context()
        context.check_hostname = False
        with pytest.raises(Misuse, match="a plain socket, not int"):
            UpgradedConnection(ours.fileno(), authority="test")  # type: ignore[arg-type]
        with pytest.raises(Misuse, match="CONNECT"):
            UpgradedConnection(ours, authority="test", method="CONNECT")
        with pytest.raises(Misuse, match="timeout"):
            UpgradedConnection(ours, authority="test", timeout=0)
        upgrading = UpgradedConnection(ours, authority="test")
        with pytest.raises(Misuse, match="not there yet"):
            await upgrading.request("GET", "/")
        with (
            context.wrap_socket(ours, server_side=False, do_handshake_on_connect=False) as secure,
            pytest.raises(Misuse, match="over TLS, ALPN chooses h2"),
        ):
            UpgradedConnection(secure, authority="test")
    for wrong, line in ((socket.socket(type=socket.SOCK_DGRAM), "SOCK_DGRAM"), (socket.socket(), "early is bytes")):
        with wrong, pytest.raises(Misuse, match=line):
            UpgradedConnection(wrong, "text", authority="test")  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="the socket was closed before"):
        await UpgradedConnection(wrong, authority="test").__aenter__()


async def test_a_connection_is_entered_once() -> None:
    async with server() as (upgrading, _), upgrading:
        with pytest.raises(Misuse, match="entered once"):
            await upgrading.__aenter__()


async def test_a_blocking_socket_with_a_file_on_it_is_taken_from_its_owner() -> None:
    """http.client keeps a file on its socket, which would keep it open."""
    before = open_files()
    ours, theirs = socket.socketpair()
    ours.settimeout(3.0)
    file = ours.makefile("rb")
    async with RawPeer(*await asyncio.open_connection(sock=theirs), server=True) as peer:
        async with UpgradedConnection(ours, answer(), authority="test") as connection:
            assert ours.fileno() == -1
            file.close()
            ours.close()
            assert await connection.first.read() == b"hello"
        await peer.expect_end()
    await until(lambda: open_files() == before)


@pytest.mark.virtual_time
async def test_an_upgrade_that_is_cancelled_anywhere_leaves_nothing_behind() -> None:
    """R5: and nothing has to be waited for."""
    before, tasks = open_files(), asyncio.all_tasks()

    async def whole(ours: socket.socket) -> None:
        async with UpgradedConnection(ours, answer(), authority="test") as connection:
            await connection.first.read()

    for turns in range(10_000):
        ours, theirs = socket.socketpair()
        running = asyncio.ensure_future(whole(ours))
        await settle(turns)
        if running.done():
            await running
        else:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        ours.close()
        theirs.close()
        assert asyncio.all_tasks() == tasks
        await until(lambda: open_files() == before)
        if not running.cancelled():
            break
    assert turns > 8
    assert asyncio.get_running_loop().time() < Limits().shutdown_timeout
