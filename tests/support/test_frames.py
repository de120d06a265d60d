"""The tests' own frames: what they build, they read; two raw peers can talk."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import frames
from tests.support.frames import Code, Flag, Frame, Parser, RawPeer, Setting, Type


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=40))))
async def test_frames_survive_the_parser_byte_by_byte(parts: list[tuple[int, int, int, bytes]]) -> None:
    wire = b"".join(frames.frame(*part) for part in parts)
    parser = Parser()
    heard = [found for byte in wire for found in parser.parse(bytes([byte]))]
    assert heard == [Frame(*part) for part in parts]


def test_the_helpers_read_back_as_what_they_say() -> None:
    wire = (
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 5})
        + frames.goaway(7, Code.ENHANCE_YOUR_CALM, b"calm")
        + frames.rst(3, Code.REFUSED_STREAM)
        + frames.window_update(0, 99)
        + frames.data(1, b"abc", end_stream=True, padding=4)
    )
    settings, goaway, rst, update, data = Parser().parse(wire)
    assert settings.settings == {Setting.INITIAL_WINDOW_SIZE: 5}
    assert (goaway.last_stream_id, goaway.code, goaway.payload[8:]) == (7, Code.ENHANCE_YOUR_CALM, b"calm")
    assert (rst.stream_id, rst.code) == (3, Code.REFUSED_STREAM)
    assert (update.stream_id, update.increment) == (0, 99)
    assert (data.body, len(data.payload), data.has(Flag.END_STREAM)) == (b"abc", 8, True)


@pytest.mark.parametrize("unix", [False, True])
async def test_two_peers_exchange_a_request(unix: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "socket") if unix else None
    async with RawPeer.listen(path=path) as listener:
        connecting = RawPeer.connect_unix(path) if path else RawPeer.connect("127.0.0.1", listener.port)
        async with await connecting as client, await listener.accept() as server:
            client.send(frames.PREFACE + frames.settings({Setting.ENABLE_PUSH: 0}) + frames.settings(ack=True))
            assert await server.handshake() == {Setting.ENABLE_PUSH: 0}
            fields = frames.request("POST", "/x", ("a", "b"))
            client.send_headers(1, fields)
            client.send_headers(3, fields, end_stream=True)
            client.send(frames.data(1, b"one") + frames.data(1, b"two", end_stream=True))
            assert await server.expect_headers(3) == fields
            assert await server.expect_headers(1) == fields
            assert await server.expect_body(1) == b"onetwo"
            block = frames.encode(frames.response(204))
            server.send(frames.headers(1, block[:1], end_headers=False) + frames.continuation(1, block[1:]))
            assert await client.expect_headers(1) == [(b":status", b"204")]
            assert [frame.type for frame in client.seen][-2:] == [Type.HEADERS, Type.CONTINUATION]
            await server.close()
            await client.expect_end()


async def test_a_frame_that_does_not_come_is_named_with_what_came_instead() -> None:
    async with RawPeer.listen() as listener, await RawPeer.connect("127.0.0.1", listener.port) as client:
        server = await listener.accept()
        server.send(frames.settings())
        server.end()
        with pytest.raises(AssertionError, match=r"no GOAWAY on stream 0: the connection ended; seen: SETTINGS"):
            await client.expect(Type.GOAWAY, 0)


@pytest.mark.virtual_time
async def test_waiting_for_a_frame_has_a_deadline() -> None:
    async with RawPeer.listen() as listener, await RawPeer.connect("127.0.0.1", listener.port) as client:
        with pytest.raises(AssertionError, match=r"no PING: 5.0 s passed; seen: nothing"):
            await client.expect(Type.PING)
