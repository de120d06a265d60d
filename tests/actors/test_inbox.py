"""The inbox's limits: what is refused, counted and remembered, frame by frame and without a socket."""

from typing import Final

import pytest
from hpack import Decoder, Encoder

from actors.errors import ErrorCode, LimitReached, ProtocolViolation
from actors.messages import HeadersArrived, StreamFailed, TrailersArrived
from actors.settings import KiB, Limits
from actors.wire import Fact, Wire
from tests.support import frames
from tests.support.frames import PREFACE, Code, Frame, Parser, Setting, Type, settings

GET: Final = frames.encode(frames.request())
POST: Final = frames.encode(frames.request("POST"))


class End:
    """A wire of ours; what its peer says is told by hand."""

    def __init__(self, limits: Limits | None = None, *, client: bool = False, acknowledged: bool = True) -> None:
        self.wire = Wire(client=client, limits=limits or Limits())
        self.wire.start()
        self.parser = Parser()
        self.client = client
        hello = (b"" if client else PREFACE) + settings()
        self.hears(hello + (settings(ack=True) if acknowledged else b""))
        if not client:
            self.says()

    def hears(self, data: bytes) -> list[tuple[int, Fact]]:
        self.wire.take_in(data)
        said: list[tuple[int, Fact]] = []
        while self.wire.has_input:
            said += self.wire.read(16)
        return said

    def says(self) -> list[Frame]:
        """Only for a server's end."""
        return self.parser.parse(self.wire.output())

    def resets(self) -> dict[int, int]:
        return {heard.stream_id: heard.code for heard in self.says() if heard.type == Type.RST_STREAM}


def test_streams_above_the_limit_are_refused_and_forgotten() -> None:
    """S9: nobody is told of them, and the place of one that ended is free again."""
    end = End(Limits(max_streams=2))
    said = end.hears(b"".join(frames.headers(stream_id, GET, end_stream=True) for stream_id in (1, 3, 5, 7)))
    assert [stream_id for stream_id, fact in said if isinstance(fact, HeadersArrived)] == [1, 3]
    assert end.resets() == {5: Code.REFUSED_STREAM, 7: Code.REFUSED_STREAM}
    end.hears(frames.rst(1))
    end.wire.release(1)
    said = end.hears(frames.headers(9, GET, end_stream=True))
    assert [stream_id for stream_id, _ in said] == [9]


def test_surplus_streams_count_once_the_limit_is_acknowledged() -> None:
    """W7 and W8: before, the peer could not know."""
    for acknowledged in (False, True):
        end = End(Limits(max_streams=1, max_surplus_streams=5), acknowledged=acknowledged)
        surplus = b"".join(frames.headers(stream_id, GET, end_stream=True) for stream_id in range(1, 15, 2))
        if acknowledged:
            with pytest.raises(ProtocolViolation, match=r"Limits\.max_surplus_streams"):
                end.hears(surplus)
        else:
            end.hears(surplus)
            assert len(end.resets()) == 6


def test_headers_beyond_the_limit_are_431_with_the_next_request_whole() -> None:
    """W7: what the refused block put into the table is there."""
    end = End(Limits(max_headers=10))
    encoder = Encoder()
    many = encoder.encode([*frames.request(), *((b"x-%d" % number, b"v") for number in range(7))])
    few = encoder.encode([*frames.request(), (b"x-3", b"v")])
    assert end.hears(frames.headers(1, many, end_stream=True)) == []
    ((stream_id, fact),) = end.hears(frames.headers(3, few, end_stream=True))
    assert isinstance(fact, HeadersArrived)
    assert (stream_id, fact.pairs[-1]) == (3, (b"x-3", b"v"))
    assert [heard.stream_id for heard in end.says() if heard.type == Type.HEADERS] == [1]


def test_trailers_beyond_the_limit_cost_their_stream_and_count_as_a_forced_reset() -> None:
    """W7: 431 comes too late for them."""
    end = End(Limits(max_headers=8, max_forced_resets=2))
    trailers = frames.encode([("x", "y")] * 9)
    for stream_id in (1, 3):
        end.hears(frames.headers(stream_id, POST))
        ((_, fact),) = end.hears(frames.headers(stream_id, trailers, end_stream=True))
        assert isinstance(fact, StreamFailed)
        assert isinstance(fact.error, LimitReached)
    assert end.resets() == {1: Code.ENHANCE_YOUR_CALM, 3: Code.ENHANCE_YOUR_CALM}
    with pytest.raises(ProtocolViolation, match=r"Limits\.max_forced_resets"):
        end.hears(frames.headers(5, POST) + frames.headers(5, trailers, end_stream=True))


def test_trailers_within_the_limit_arrive() -> None:
    """W8"""
    end = End(Limits(max_headers=8))
    end.hears(frames.headers(1, POST))
    ((_, fact),) = end.hears(frames.headers(1, frames.encode([("x", "y")] * 8), end_stream=True))
    assert isinstance(fact, TrailersArrived)


def test_an_overlong_frame_is_refused_at_its_header_and_what_came_before_it_is_told() -> None:
    """W1 and W7: nothing of its payload has come."""
    end = End()
    end.wire.take_in(frames.headers(1, GET, end_stream=True) + frames.frame(Type.DATA, 0, 1, length=16_385))
    assert [stream_id for stream_id, _ in end.wire.read(16)] == [1]
    with pytest.raises(ProtocolViolation) as caught:
        end.wire.read(16)
    assert caught.value.code == ErrorCode.FRAME_SIZE_ERROR
    assert end.wire.broken is caught.value


def test_settings_that_nobody_knows_leave_no_trace() -> None:
    """W3: and those that are known are taken from among them."""
    end = End()
    for first in range(0x1000, 0x2000, 31):
        values = dict.fromkeys(range(first, first + 31), 1)
        end.hears(settings({**values, Setting.INITIAL_WINDOW_SIZE: 5}))
    end.says()
    end.hears(frames.headers(1, GET, end_stream=True))
    end.wire.send_head(1, [(b":status", b"200")], end=False)
    end.wire.send_data(1, b"0123456789")
    end.wire.pump()
    assert [heard.body for heard in end.says() if heard.type == Type.DATA] == [b"01234"]


@pytest.mark.parametrize(("peers", "kept"), [(1 << 20, 4 * KiB), (1 * KiB, 1 * KiB), (0, 0)])
def test_our_encoder_keeps_what_the_peer_allows_and_never_more_than_our_bound(peers: int, kept: int) -> None:
    """W7: a new header of 100 bytes in each response; the table's size is what a decoder of that size understands."""
    end = End()
    end.hears(settings({Setting.HEADER_TABLE_SIZE: peers}))
    end.says()
    decoder = Decoder()
    decoder.max_allowed_table_size = kept
    for number in range(60):
        stream_id = 2 * number + 1
        end.hears(frames.headers(stream_id, GET, end_stream=True))
        end.wire.send_head(stream_id, [(b":status", b"200"), (b"x-new", b"%0100d" % number)], end=True)
        (head,) = [heard for heard in end.says() if heard.type == Type.HEADERS]
        assert list(decoder.decode(head.payload, raw=True))[-1] == (b"x-new", b"%0100d" % number)
    assert decoder.header_table_size <= kept


@pytest.mark.parametrize("padding", [0, 1, 100, 254])
def test_padding_alone_is_an_empty_frame(padding: int) -> None:
    """W7: CVE-2019-9518."""
    end = End()
    end.hears(frames.headers(1, POST))
    with pytest.raises(ProtocolViolation, match=r"Limits\.max_empty_frames"):
        end.hears(frames.data(1, padding=padding) * 11)


def test_large_frames_between_empty_ones_end_the_row() -> None:
    """W8: those that are not looked at more closely, too."""
    end = End()
    end.hears(frames.headers(1, POST))
    for _ in range(20):
        end.hears(frames.data(1) * 10 + frames.data(1, bytes(1_000)))
