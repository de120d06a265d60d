"""The wire without I/O: against bytes that the tests make themselves, and against h2 on the other side."""

from collections.abc import Callable

import pytest
from attrs import define, field
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, TrailersReceived
from h2.settings import SettingCodes
from hpack import Decoder

from actors.errors import ErrorCode, ProtocolViolation
from actors.messages import (
    DataArrived,
    HeadersArrived,
    InformationalArrived,
    PeerGoAway,
    PeerReset,
    PeerSettings,
    PingAcked,
    SettingsAcked,
    StreamFailed,
    TrailersArrived,
)
from actors.settings import Limits
from actors.wire import Fact, Wire
from tests.support.frames import (
    PREFACE,
    Code,
    Fields,
    Flag,
    Frame,
    Parser,
    Setting,
    Type,
    continuation,
    data,
    encode,
    frame,
    goaway,
    headers,
    ping,
    push_promise,
    request,
    response,
    rst,
    settings,
    window_update,
)

POST = encode(request("POST"))
GET = headers(1, encode(request()), end_stream=True)
OK = encode(response(200))

Facts = list[tuple[int, Fact]]


@define
class Side:
    """A wire, what it said last, and the facts that it told."""

    wire: Wire
    parser: Parser = field(factory=Parser)
    decoder: Decoder = field(factory=Decoder)

    def hears(self, *frames: bytes) -> Facts:
        """The facts of the frames; a violation is raised only behind them."""
        facts, violation = self.hears_to_the_end(*frames)
        assert violation is None, violation
        return facts

    def hears_to_the_end(self, *frames: bytes) -> tuple[Facts, ProtocolViolation | None]:
        self.wire.take_in(b"".join(frames))
        facts: Facts = []
        try:
            while self.wire.has_input:
                facts += self.wire.read(16)
        except ProtocolViolation as violation:
            return facts, violation
        return facts, None

    def raw(self) -> bytes:
        """Everything that the windows and the socket let out."""
        parts = []
        while True:
            if self.wire.has_output:
                self.wire.pump()
            parts.append(self.wire.output())
            if not self.wire.has_output:
                return b"".join(parts)

    def says(self) -> list[Frame]:
        """The same as frames."""
        return self.parser.parse(self.raw())

    def fields(self, heard: Frame) -> Fields:
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(heard.payload, raw=True)]


def server(values: dict[int, int] | None = None, limits: Limits | None = None) -> Side:
    """A server's wire after the handshake with a client that said ``values``."""
    side = Side(Wire(client=False, limits=limits or Limits()))
    side.wire.start()
    side.hears(PREFACE, settings(values), settings(ack=True))
    side.says()
    return side


def client(values: dict[int, int] | None = None, limits: Limits | None = None) -> Side:
    """A client's wire after the handshake with a server that said ``values``."""
    side = Side(Wire(client=True, limits=limits or Limits()))
    side.wire.start()
    side.hears(settings(values), settings(ack=True))
    assert side.raw().startswith(PREFACE)
    return side


def bodies(frames: list[Frame]) -> list[tuple[int, bytes]]:
    return [(heard.stream_id, heard.body) for heard in frames if heard.type == Type.DATA]


def credit(frames: list[Frame], stream_id: int) -> int:
    return sum(heard.increment for heard in frames if heard.type == Type.WINDOW_UPDATE and heard.stream_id == stream_id)


# --- the beginning ----------------------------------------------------------------------------------------------------


def test_a_client_begins_with_the_preface_its_settings_and_an_open_window() -> None:
    limits = Limits(stream_window=100_000, connection_window=1_000_000, max_frame_size=20_000, max_header_list=5_000)
    wire = Wire(client=True, limits=limits)
    wire.start()
    said = wire.output()
    assert said.startswith(PREFACE)
    first, second = Parser().parse(said[len(PREFACE) :])
    assert (first.type, first.flags, first.stream_id) == (Type.SETTINGS, 0, 0)
    assert first.settings == {
        Setting.ENABLE_PUSH: 0,
        Setting.INITIAL_WINDOW_SIZE: 100_000,
        Setting.MAX_FRAME_SIZE: 20_000,
        Setting.MAX_HEADER_LIST_SIZE: 5_000,
    }
    assert (second.type, second.stream_id, second.increment) == (Type.WINDOW_UPDATE, 0, 1_000_000 - 65_535)


def test_a_server_promises_the_streams_that_it_takes() -> None:
    wire = Wire(client=False, limits=Limits(max_streams=7))
    wire.start()
    first = Parser().parse(wire.output())[0]
    assert first.type == Type.SETTINGS
    assert first.settings[Setting.MAX_CONCURRENT_STREAMS] == 7
    assert first.settings.get(Setting.ENABLE_PUSH, 0) == 0


def test_frames_as_large_as_promised_are_taken_from_the_start() -> None:
    """What SETTINGS promise holds before they are acknowledged: the peer may use them as soon as it has read them."""
    side = Side(Wire(client=False, limits=Limits(max_frame_size=40_000, stream_window=100_000)))
    side.wire.start()
    facts = side.hears(PREFACE, settings(), headers(1, POST), data(1, bytes(40_000)))
    assert facts[-1] == (1, DataArrived(bytes(40_000), False))


# --- against h2 -------------------------------------------------------------------------------------------------------


def talk(side: Side, other: H2Connection) -> tuple[Facts, list[Event]]:
    """Carry bytes between the two until both are silent."""
    facts: Facts = []
    events: list[Event] = []
    while True:
        to_other, to_us = side.raw(), other.data_to_send()
        if not to_other and not to_us:
            return facts, events
        events += other.receive_data(to_other)
        facts += side.hears(to_us)


def test_a_request_with_body_and_trailers_goes_to_an_h2_server_and_back() -> None:
    side = Side(Wire(client=True, limits=Limits()))
    side.wire.start()
    other = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    other.initiate_connection()
    stream_id = side.wire.open(request("POST"), end=False)
    assert stream_id == 1
    side.wire.send_data(1, b"question", end=True, trailers=[(b"x-up", b"1")])
    facts, events = talk(side, other)
    assert [type(fact) for _, fact in facts] == [PeerSettings, SettingsAcked]
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == b"question"
    assert [event.headers for event in events if isinstance(event, TrailersReceived)] == [[(b"x-up", b"1")]]
    assert any(isinstance(event, StreamEnded) for event in events)

    other.send_headers(1, [(":status", "103")])
    other.send_headers(1, [(":status", "200")])
    other.send_data(1, b"answer")
    other.send_headers(1, [("x-down", "2")], end_stream=True)
    other.ping(b"12345678")
    facts, _ = talk(side, other)
    assert facts == [
        (1, InformationalArrived([(b":status", b"103")])),
        (1, HeadersArrived([(b":status", b"200")], False)),
        (1, DataArrived(b"answer", False)),
        (1, TrailersArrived([(b"x-down", b"2")])),
    ]
    assert side.wire.open_streams == 0


def test_a_response_of_a_megabyte_reaches_an_h2_client_through_its_small_windows() -> None:
    side = Side(Wire(client=False, limits=Limits()))
    side.wire.start()
    other = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    other.initiate_connection()
    other.send_headers(1, request(), end_stream=True)
    facts, _ = talk(side, other)
    assert (1, HeadersArrived(request(), True)) in facts

    body = bytes(range(256)) * 4096
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, body, end=True)
    taken = bytearray()
    ended = False
    while not ended:
        _, events = talk(side, other)
        assert events, "both are silent, and the body is not whole"
        for event in events:
            if isinstance(event, DataReceived):
                taken += event.data
                other.acknowledge_received_data(event.flow_controlled_length, 1)
            ended = ended or isinstance(event, StreamEnded)
    assert bytes(taken) == body
    assert side.wire.release(1)
    assert side.wire.streams == 0


def test_an_h2_client_that_changes_its_mind_about_the_window_gets_the_rest() -> None:
    """F2: with the other side's own accounting, which would call one byte too many an error."""
    side = Side(Wire(client=False, limits=Limits()))
    side.wire.start()
    other = H2Connection(H2Configuration(client_side=True))
    other.initiate_connection()
    other.send_headers(1, request(), end_stream=True)
    talk(side, other)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, bytes(100_000), end=True)
    other.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    _, events = talk(side, other)
    got = sum(len(event.data) for event in events if isinstance(event, DataReceived))
    assert got == 65_535
    other.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 70_000})
    other.increment_flow_control_window(100_000)
    _, events = talk(side, other)
    got += sum(len(event.data) for event in events if isinstance(event, DataReceived))
    assert got == 70_000
    other.increment_flow_control_window(30_000, 1)
    _, events = talk(side, other)
    assert got + sum(len(event.data) for event in events if isinstance(event, DataReceived)) == 100_000
    assert any(isinstance(event, StreamEnded) for event in events)


def test_an_h2_client_reads_a_response_with_informational_head_and_trailers() -> None:
    side = Side(Wire(client=False, limits=Limits()))
    side.wire.start()
    other = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    other.initiate_connection()
    other.send_headers(1, request(), end_stream=True)
    talk(side, other)
    side.wire.send_head(1, response(103), end=False)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"", end=True, trailers=[(b"x", b"y")])
    _, events = talk(side, other)
    assert [event.headers for event in events if isinstance(event, ResponseReceived)] == [response(200)]
    assert [event.headers for event in events if isinstance(event, TrailersReceived)] == [[(b"x", b"y")]]


# --- a bad frame ------------------------------------------------------------------------------------------------------

OVERFLOW = 2**31 - 1

BAD_FROM_CLIENTS: dict[str, tuple[bytes, Code]] = {
    "a frame too long": (frame(Type.DATA, 0, 1, bytes(16_385)), Code.FRAME_SIZE_ERROR),
    "only the header of a frame too long": (frame(Type.DATA, 0, 1, b"", length=16_385), Code.FRAME_SIZE_ERROR),
    "DATA on the connection": (frame(Type.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "DATA on an idle stream": (data(3, b"x"), Code.PROTOCOL_ERROR),
    "DATA beyond the connection's window": (data(1, bytes(16_000)) * 5, Code.FLOW_CONTROL_ERROR),
    "DATA padded with more than it has": (frame(Type.DATA, Flag.PADDED, 1, b"\xffx"), Code.PROTOCOL_ERROR),
    "HEADERS on the connection": (frame(Type.HEADERS, Flag.END_HEADERS, 0, POST), Code.PROTOCOL_ERROR),
    "HEADERS on a server's stream": (headers(2, POST), Code.PROTOCOL_ERROR),
    "HEADERS that are no HPACK": (headers(3, b"\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "HEADERS with an index of nothing": (headers(3, b"\xfe"), Code.COMPRESSION_ERROR),
    "HEADERS on a stream passed over": (headers(5, POST) + headers(3, POST), Code.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (continuation(1, POST), Code.PROTOCOL_ERROR),
    "DATA inside a header block": (headers(3, POST[:4], end_headers=False) + data(1, b"x"), Code.PROTOCOL_ERROR),
    "PING inside a header block": (headers(3, POST[:4], end_headers=False) + ping(), Code.PROTOCOL_ERROR),
    "GOAWAY inside a header block": (headers(3, POST[:4], end_headers=False) + goaway(0), Code.PROTOCOL_ERROR),
    "PRIORITY inside a header block": (
        headers(3, POST[:4], end_headers=False) + frame(Type.PRIORITY, 0, 1, bytes(5)),
        Code.PROTOCOL_ERROR,
    ),
    "a frame of unknown type inside a header block": (
        headers(3, POST[:4], end_headers=False) + frame(0xEE, 0, 0, b"?"),
        Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        headers(3, POST[:4], end_headers=False) + continuation(1, POST[4:]),
        Code.PROTOCOL_ERROR,
    ),
    "PING on a stream": (frame(Type.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "PING of seven bytes": (frame(Type.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(Type.SETTINGS, 0, 1, b""), Code.PROTOCOL_ERROR),
    "SETTINGS of five bytes": (frame(Type.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "SETTINGS ack with payload": (frame(Type.SETTINGS, Flag.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "SETTINGS of a window too large": (settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR),
    "SETTINGS of a frame size too small": (settings({Setting.MAX_FRAME_SIZE: 1}), Code.PROTOCOL_ERROR),
    "SETTINGS of an impossible push": (settings({Setting.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of three bytes": (frame(Type.WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by nothing": (window_update(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond the largest window": (window_update(0, OVERFLOW), Code.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an idle stream": (window_update(3, 1), Code.PROTOCOL_ERROR),
    "RST_STREAM on the connection": (frame(Type.RST_STREAM, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (rst(3), Code.PROTOCOL_ERROR),
    "RST_STREAM of three bytes": (frame(Type.RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    "PUSH_PROMISE from a client": (push_promise(1, 2, POST), Code.PROTOCOL_ERROR),
    "GOAWAY on a stream": (frame(Type.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY of seven bytes": (frame(Type.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("bad", "code"), BAD_FROM_CLIENTS.values(), ids=BAD_FROM_CLIENTS)
def test_good_frames_before_a_bad_one_are_delivered_and_then_it_is_called_by_its_code(bad: bytes, code: Code) -> None:
    """W1: the wire's part; the GOAWAY and the close are the connection's."""
    side = server(limits=Limits(connection_window=65_535))
    facts, violation = side.hears_to_the_end(headers(1, POST), data(1, b"good"), ping(b"pingpong"), bad)
    assert facts[0] == (1, HeadersArrived(request("POST"), False))
    assert facts[1] == (1, DataArrived(b"good", False))
    assert violation is not None
    assert ErrorCode(violation.code).name == code.name
    said = side.says()
    assert [heard.payload for heard in said if heard.type == Type.PING] == [b"pingpong"], "an answer was lost"
    assert not [heard for heard in said if heard.type == Type.GOAWAY], "the GOAWAY is for the connection to say"


BAD_FROM_SERVERS: dict[str, tuple[bytes, Code]] = {
    "a response on a stream that was never opened": (headers(7, OK), Code.PROTOCOL_ERROR),
    "a request": (headers(2, POST), Code.PROTOCOL_ERROR),
    "a push that was switched off": (push_promise(1, 2, POST), Code.PROTOCOL_ERROR),
    "DATA on a stream that was never opened": (data(7, b"x"), Code.PROTOCOL_ERROR),
    "RST_STREAM on a stream that was never opened": (rst(7), Code.PROTOCOL_ERROR),
    "a push switched on": (settings({Setting.ENABLE_PUSH: 1}), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("bad", "code"), BAD_FROM_SERVERS.values(), ids=BAD_FROM_SERVERS)
def test_what_a_server_may_never_say_is_a_violation_behind_its_good_frames(bad: bytes, code: Code) -> None:
    """W1, on a client."""
    side = client()
    for expected in (1, 3):
        assert side.wire.open(request(), end=True) == expected
    facts, violation = side.hears_to_the_end(headers(1, OK), data(1, b"good"), bad)
    assert facts[:2] == [(1, HeadersArrived(response(200), False)), (1, DataArrived(b"good", False))]
    assert violation is not None
    assert ErrorCode(violation.code).name == code.name


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
    ],
)
def test_a_client_that_does_not_begin_with_the_preface_is_refused_at_once(garbage: bytes) -> None:
    side = Side(Wire(client=False, limits=Limits()))
    side.wire.start()
    facts, violation = side.hears_to_the_end(garbage)
    assert facts == []
    assert violation is not None
    assert "does not speak HTTP/2" in str(violation)


@pytest.mark.parametrize("first", [ping(), headers(1, OK), settings(ack=True), goaway(0), frame(0xEE)])
def test_a_server_that_does_not_begin_with_settings_is_refused(first: bytes) -> None:
    side = Side(Wire(client=True, limits=Limits()))
    side.wire.start()
    facts, violation = side.hears_to_the_end(first + bytes(20))
    assert facts == []
    assert violation is not None


@pytest.mark.parametrize("bad", [frame(Type.SETTINGS, 0, 0, bytes(5)), frame(Type.DATA, 0, 1, bytes(16_385))])
def test_nothing_behind_a_bad_frame_is_delivered_or_takes_its_place(bad: bytes) -> None:
    """W1: the bad frame is the last that is looked at."""
    side = server()
    behind = goaway(0, Code.NO_ERROR, b"behind") + data(1, b"behind") + data(0, b"worse")
    facts, violation = side.hears_to_the_end(headers(1, POST), bad, behind)
    assert violation is not None
    assert ErrorCode(violation.code) is ErrorCode.FRAME_SIZE_ERROR
    assert facts == [(1, HeadersArrived(request("POST"), False))]


def test_a_violation_stays_what_it_was_whatever_comes_behind_it() -> None:
    side = server()
    _, violation = side.hears_to_the_end(frame(Type.SETTINGS, 0, 0, bytes(5)), headers(1, POST))
    facts, again = side.hears_to_the_end(goaway(0), headers(3, POST))
    assert violation is not None
    assert again is not None
    assert (facts, again.code, violation.code) == ([], Code.FRAME_SIZE_ERROR, Code.FRAME_SIZE_ERROR)


def test_a_broken_wire_takes_every_command_without_a_word() -> None:
    """What the good frames before the bad one set off comes when h2 has closed its books: that is no error of ours."""
    side = server()
    facts, violation = side.hears_to_the_end(headers(1, POST), data(1, b"x"), headers(3, POST), data(0, b"bad"))
    assert violation is not None
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"body", end=True, trailers=[(b"x", b"y")])
    side.wire.return_credit(1, 1)
    side.wire.reset(3, ErrorCode.REFUSED_STREAM)
    side.wire.release(3)
    side.wire.release(1, ErrorCode.CANCEL)
    side.wire.ping(b"pingpong")
    side.raw()
    other = client()
    facts, violation = other.hears_to_the_end(settings({Setting.MAX_CONCURRENT_STREAMS: 5}), data(0, b"bad"))
    assert facts == [(0, PeerSettings(5))]
    other.wire.open(request(), end=True)
    other.raw()


# --- tolerance --------------------------------------------------------------------------------------------------------


def test_unknown_frames_settings_and_an_idle_priority_and_odd_bytes_leave_the_connection_alive() -> None:
    """W3."""
    side = server()
    odd = request("GET", "/", ("x-odd", "\xff\xfe not utf-8 \x80"))
    facts = side.hears(
        frame(0xBE, 0xFF, 0, b"unknown"),
        frame(0xEF, 0xFF, 77, b""),
        settings({0x4A4A: 1, 0xFFFF: 2**32 - 1}),
        frame(Type.PRIORITY, 0, 9, bytes(4) + b"\x10"),
        frame(Type.PRIORITY, 0, 9, b"\0\0\0\x09\x10"),
        frame(Type.PRIORITY, 0, 1, b"\x80\0\0\x09\xff"),
        headers(1, encode(odd), end_stream=True),
        frame(0xEF, 0xFF, 1, b"on a living stream"),
        ping(b"still ok"),
    )
    assert (1, HeadersArrived(odd, True)) in facts
    assert [heard.payload for heard in side.says() if heard.type == Type.PING] == [b"still ok"]


@pytest.mark.parametrize("depends_on", [0, 1, 99])
def test_the_priority_that_a_head_carries_is_ignored_even_where_it_makes_no_sense(depends_on: int) -> None:
    """W3: as in a PRIORITY frame; RFC 9113, 5.3.2 has nothing left that it could break."""
    side = server()
    block = depends_on.to_bytes(4) + b"\x10" + encode(request())
    flags = Flag.END_HEADERS | Flag.END_STREAM | Flag.PRIORITY
    assert side.hears(frame(Type.HEADERS, flags, 1, block)) == [(1, HeadersArrived(request(), True))]
    padded = b"\x03" + block + bytes(3)
    assert side.hears(frame(Type.HEADERS, flags | Flag.PADDED, 3, padded)) == [(3, HeadersArrived(request(), True))]


def test_a_reserved_bit_and_undefined_flags_are_ignored() -> None:
    side = server()
    raw = bytearray(headers(1, POST))
    raw[5] |= 0x80
    raw[4] |= 0x50
    assert side.hears(bytes(raw)) == [(1, HeadersArrived(request("POST"), False))]


def test_a_header_block_in_many_pieces_is_one_head() -> None:
    side = server()
    pieces = [headers(1, POST[:1], end_headers=False, end_stream=True)]
    pieces += [continuation(1, POST[at : at + 1], end_headers=False) for at in range(1, len(POST))]
    facts: Facts = []
    for piece in [*pieces, continuation(1, b"")]:
        for at in range(len(piece)):
            facts += side.hears(piece[at : at + 1])
    assert facts == [(1, HeadersArrived(request("POST"), True))]


def test_late_frames_of_a_finished_stream_are_no_fault() -> None:
    """A peer may have sent WINDOW_UPDATE, PRIORITY and RST_STREAM before it saw our END_STREAM (RFC 9113, 5.1)."""
    side = server()
    side.hears(GET)
    side.wire.send_head(1, response(200), end=True)
    for _ in range(2):
        assert side.hears(window_update(1, 100), frame(Type.PRIORITY, 0, 1, bytes(5)), rst(1)) == []
        side.wire.release(1)
    assert [heard.type for heard in side.says()] == [Type.HEADERS]


@pytest.mark.parametrize("values", [{Setting.HEADER_TABLE_SIZE: 0}, {Setting.HEADER_TABLE_SIZE: 2**32 - 1}])
def test_settings_that_change_the_compression_midway_keep_both_sides_in_step(values: dict[int, int]) -> None:
    side = server()
    for stream_id in range(1, 41, 2):
        if stream_id == 11:
            side.hears(settings(values))
            side.decoder.max_allowed_table_size = values[Setting.HEADER_TABLE_SIZE]
        side.hears(headers(stream_id, encode(request()), end_stream=True))
        head = response(200, ("x-repeated", "the same every time"), (f"x-{stream_id}", "new"))
        side.wire.send_head(stream_id, head, end=True)
        said = [heard for heard in side.says() if heard.type == Type.HEADERS]
        assert side.fields(said[0]) == head
        side.wire.release(stream_id)


def test_a_smaller_frame_size_than_ours_is_kept() -> None:
    side = server({Setting.MAX_FRAME_SIZE: 100_000, Setting.INITIAL_WINDOW_SIZE: 1_000_000})
    side.hears(GET, window_update(0, 1_000_000))
    side.wire.send_head(1, response(200), end=False)
    side.hears(settings({Setting.MAX_FRAME_SIZE: 16_384}))
    side.wire.send_data(1, bytes(90_000), end=True)
    sizes = [len(body) for _, body in bodies(side.says())]
    assert sum(sizes) == 90_000
    assert max(sizes) <= 16_384


def test_a_peers_faulty_stream_costs_only_itself() -> None:
    """A malformed request is an error of its stream (RFC 9113, 8.1.1), and the next one is served."""
    side = server()
    for stream_id, fields in enumerate(
        [
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), ("Upper", "case")],
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), ("connection", "close")],
            [(":method", "GET"), (":path", "/"), (":authority", "a")],
            [(":method", "GET"), (":path", ""), (":scheme", "http"), (":authority", "a")],
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), (":status", "200")],
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), ("x", "a\r\nb")],
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), ("te", "gzip")],
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), ("content-length", "abc")],
            [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a"), ("content-length", "-1")],
            [("x", "y"), (":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")],
            [],
        ]
    ):
        at = 2 * stream_id + 1
        facts = side.hears(headers(at, encode(fields), end_stream=True))
        assert [(told, type(fact)) for told, fact in facts] == [(at, StreamFailed)], fields
        side.wire.release(at)
        said = [(heard.type, heard.stream_id, heard.code) for heard in side.says() if heard.type == Type.RST_STREAM]
        assert said == [(Type.RST_STREAM, at, Code.PROTOCOL_ERROR)], fields
    facts = side.hears(headers(101, encode(request()), end_stream=True))
    assert facts == [(101, HeadersArrived(request(), True))]


@pytest.mark.parametrize(
    "fields",
    [
        [(":status", "200"), ("x", "a\0b")],
        [(":status", "200"), (":path", "/")],
        [("x", "y")],
        [(":status", "2000")],
        [(":status", "twohundred")],
        [(":status", "101")],
        [(":status", "200"), ("transfer-encoding", "chunked")],
        [(":status", "200"), ("content-length", "many")],
    ],
)
def test_a_malformed_response_costs_only_its_stream(fields: list[tuple[str, str]]) -> None:
    side = client()
    side.wire.open(request(), end=True)
    side.wire.open(request(), end=True)
    side.says()
    facts = side.hears(headers(1, encode(fields)), headers(3, OK, end_stream=True))
    assert [(stream_id, type(fact)) for stream_id, fact in facts] == [(1, StreamFailed), (3, HeadersArrived)]
    assert [(heard.stream_id, heard.code) for heard in side.says() if heard.type == Type.RST_STREAM] == [
        (1, Code.PROTOCOL_ERROR)
    ]


@pytest.mark.parametrize(
    "frames",
    [
        data(1, b"more than five", end_stream=True),
        data(1, b"1234") + data(1, b"5678", end_stream=True),
        data(1, b"four", end_stream=True),
        data(1, b"four") + headers(1, encode([("x", "y")]), end_stream=True),
    ],
)
def test_a_body_that_is_not_as_long_as_it_said_costs_only_its_stream(frames: bytes) -> None:
    side = server()
    head = encode(request("POST", "/", ("content-length", "5")))
    facts = side.hears(headers(1, head), frames, headers(3, encode(request()), end_stream=True))
    assert StreamFailed in [type(fact) for stream_id, fact in facts if stream_id == 1]
    assert facts[-1] == (3, HeadersArrived(request(), True))
    assert len([1 for heard in side.says() if heard.type == Type.RST_STREAM and heard.stream_id == 1]) == 1


# --- flow control, outbound -------------------------------------------------------------------------------------------


def test_of_four_bytes_and_a_window_of_three_three_go_and_the_last_when_it_opens() -> None:
    """F1."""
    side = server({Setting.INITIAL_WINDOW_SIZE: 3})
    side.hears(GET)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"1234", end=True)
    said = side.says()
    assert bodies(said) == [(1, b"123")]
    assert not said[-1].has(Flag.END_STREAM)
    assert side.says() == []
    side.hears(window_update(1, 1))
    (last,) = side.says()
    assert (last.body, last.has(Flag.END_STREAM)) == (b"4", True)


def test_of_four_bytes_and_a_connection_window_of_three_three_go_and_the_last_when_it_opens() -> None:
    """F1, where the connection's window is the smaller one."""
    side = server()
    side.hears(headers(1, encode(request()), end_stream=True), headers(3, encode(request()), end_stream=True))
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_head(3, response(200), end=False)
    side.wire.send_data(1, bytes(65_532), end=False)
    side.says()
    side.wire.send_data(3, b"1234", end=True)
    assert bodies(side.says()) == [(3, b"123")]
    side.hears(window_update(3, 100))
    assert side.says() == []
    side.hears(window_update(0, 1))
    (last,) = side.says()
    assert (last.stream_id, last.body, last.has(Flag.END_STREAM)) == (3, b"4", True)


def test_a_window_shrunk_below_zero_makes_the_sender_wait() -> None:
    """F2: by SETTINGS, until as much came back as it is below zero, and no error."""
    side = server({Setting.INITIAL_WINDOW_SIZE: 1000})
    side.hears(GET)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, bytes(1500), end=True)
    assert sum(len(body) for _, body in bodies(side.says())) == 1000
    side.hears(settings({Setting.INITIAL_WINDOW_SIZE: 200}))  # 800 below zero
    assert bodies(side.says()) == []
    side.hears(window_update(1, 800))
    assert bodies(side.says()) == []
    side.hears(window_update(1, 300))
    assert [len(body) for _, body in bodies(side.says())] == [300]
    side.hears(settings({Setting.INITIAL_WINDOW_SIZE: 400}))
    (last,) = [heard for heard in side.says() if heard.type == Type.DATA]
    assert (len(last.body), last.has(Flag.END_STREAM)) == (200, True)


def test_what_needs_no_window_goes_while_the_connections_window_is_closed() -> None:
    """END_STREAM and trailers are not flow-controlled (RFC 9113, 5.2.1)."""
    side = server()
    for stream_id in (1, 3, 5, 7):
        side.hears(headers(stream_id, encode(request()), end_stream=True))
        side.wire.send_head(stream_id, response(200), end=False)
    side.wire.send_data(1, bytes(70_000), end=True)
    assert sum(len(body) for _, body in bodies(side.says())) == 65_535
    side.wire.send_data(3, b"", end=True)
    side.wire.send_data(5, b"", end=True, trailers=[(b"x", b"y")])
    side.wire.send_data(7, b"must wait", end=True)
    said = side.says()
    assert [(heard.type, heard.stream_id) for heard in said] == [(Type.DATA, 3), (Type.HEADERS, 5)]
    assert all(heard.has(Flag.END_STREAM) for heard in said)


def test_trailers_wait_behind_their_data() -> None:
    side = server({Setting.INITIAL_WINDOW_SIZE: 1})
    side.hears(GET)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"12", end=True, trailers=[(b"x", b"y")])
    assert [heard.type for heard in side.says()] == [Type.HEADERS, Type.DATA]
    side.hears(window_update(1, 1))
    assert [(heard.type, heard.has(Flag.END_STREAM)) for heard in side.says()] == [
        (Type.DATA, False),
        (Type.HEADERS, True),
    ]


def test_nothing_of_a_body_is_made_while_the_socket_takes_nothing() -> None:
    side = server()
    side.hears(GET)
    side.wire.writable = False
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"body", end=True)
    assert bodies(side.says()) == []
    side.wire.writable = True
    assert bodies(side.says()) == [(1, b"body")]


def test_the_room_that_is_made_is_told_once_and_is_what_went_out() -> None:
    side = server({Setting.INITIAL_WINDOW_SIZE: 10})
    side.hears(GET)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, bytes(25))
    side.says()
    assert dict(side.wire.take_room()) == {1: 10}
    assert dict(side.wire.take_room()) == {}
    side.hears(window_update(1, 15))
    side.says()
    assert dict(side.wire.take_room()) == {1: 15}


def test_streams_share_the_socket_by_weight_and_none_starves() -> None:
    side = client({Setting.INITIAL_WINDOW_SIZE: 10_000_000})
    side.hears(window_update(0, 10_000_000))
    for weight in (32, 16):
        assert side.wire.open(request("POST"), end=False, weight=weight)
    side.wire.writable = False
    for stream_id in (1, 3):
        side.wire.send_data(stream_id, bytes(3_000_000))
    side.wire.writable = True
    side.wire.pump()
    sent = {1: 0, 3: 0}
    for stream_id, body in bodies(side.parser.parse(side.wire.output())):
        sent[stream_id] += len(body)
    assert sent[1] > 0
    assert sent[3] > 0
    assert abs(sent[1] - 2 * sent[3]) <= 32 * 1024


def test_a_reset_drops_what_was_queued() -> None:
    side = server({Setting.INITIAL_WINDOW_SIZE: 3})
    side.hears(GET)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"1234", end=True)
    side.says()
    side.wire.reset(1, ErrorCode.CANCEL)
    side.hears(window_update(1, 100), settings({Setting.INITIAL_WINDOW_SIZE: 1000}))
    assert [heard.type for heard in side.says() if heard.type != Type.SETTINGS] == [Type.RST_STREAM]
    assert side.wire.release(1)
    assert side.wire.streams == 0


@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_stream_that_the_peer_reset_takes_no_more_output(body: bytes) -> None:
    side = server()
    side.hears(headers(1, POST))
    assert side.hears(rst(1)) == [(1, PeerReset(Code.CANCEL))]
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, body, end=True)
    side.wire.reset(1, ErrorCode.CANCEL)
    side.wire.return_credit(1, 5)
    assert side.says() == []
    assert side.wire.release(1)
    side.wire.send_data(1, body, end=True)
    side.wire.send_head(1, response(200), end=True)
    side.wire.reset(1, ErrorCode.CANCEL)
    assert side.says() == []


# --- flow control, inbound: the credit ledger -------------------------------------------------------------------------


def test_credit_comes_back_as_it_is_read_and_never_more_than_is_owed() -> None:
    side = server(limits=Limits(stream_window=65_535, connection_window=65_535))
    side.hears(headers(1, POST), *[data(1, bytes(10_000))] * 4)
    assert credit(side.says(), 1) == 0, "credit for what nobody has read"
    side.wire.return_credit(1, 40_000)
    said = side.says()
    assert (credit(said, 0), credit(said, 1)) == (40_000, 40_000)
    side.wire.return_credit(1, 40_000)
    assert side.says() == []


@pytest.mark.parametrize("ending", ["reset by us", "reset by the peer", "left unread", "ended unread"])
def test_a_padded_unread_stream_that_is_cancelled_gives_the_connections_window_back_exactly(ending: str) -> None:
    """F4: 200 times, 8 MB through a window of 64 KiB."""
    side = server(limits=Limits(stream_window=65_535, connection_window=65_535))
    per_frame = 1 + 9_000 + 200
    for number in range(200):
        stream_id = 2 * number + 1
        last = data(stream_id, bytes(9_000), padding=200, end_stream=ending == "ended unread")
        side.hears(headers(stream_id, POST), *[data(stream_id, bytes(9_000), padding=200)] * 3, last)
        granted = credit(side.says(), 0)
        if ending == "reset by us":
            side.wire.reset(stream_id, ErrorCode.CANCEL)
        elif ending == "reset by the peer":
            side.hears(rst(stream_id))
        side.wire.release(stream_id)
        granted += credit(side.says(), 0)
        assert granted == 4 * per_frame, f"stream {stream_id} took part of the connection's window with it"
    assert side.wire.streams == 0


def test_data_that_comes_late_for_a_cancelled_stream_gives_its_credit_back_too() -> None:
    """F4, for what was on its way when the stream was cancelled."""
    side = server(limits=Limits(stream_window=65_535, connection_window=65_535))
    for number in range(100):
        stream_id = 2 * number + 1
        side.hears(headers(stream_id, POST), data(stream_id, bytes(9_000), padding=99))
        side.wire.reset(stream_id, ErrorCode.CANCEL)
        side.wire.release(stream_id)
        side.hears(*[data(stream_id, bytes(9_000), padding=99)] * 3)
        assert credit(side.says(), 0) == 4 * 9_100


def test_padding_is_paid_back_at_once_and_an_unread_stream_does_not_stop_its_sibling() -> None:
    """F3: what one stream may have unread is its own window, and the rest of the connection's is for the others."""
    side = server(limits=Limits(stream_window=65_535, connection_window=200_000))
    side.hears(headers(1, POST), *[data(1, bytes(13_107))] * 5)  # its whole window, and nobody reads it
    for number in range(1, 50):
        stream_id = 2 * number + 1
        facts = side.hears(
            headers(stream_id, POST), *[data(stream_id, bytes(10_000))] * 6, data(stream_id, b"", end_stream=True)
        )
        assert sum(len(fact.data) for _, fact in facts if isinstance(fact, DataArrived)) == 60_000
        side.wire.return_credit(stream_id, 60_000)
        side.wire.send_head(stream_id, response(200), end=True)
        assert side.wire.release(stream_id)
        assert credit(side.says(), 1) == 0
    facts, violation = side.hears_to_the_end(data(1, b"one more"))
    assert DataArrived not in [type(fact) for _, fact in facts], "more was buffered than the stream's window"
    assert violation is not None or StreamFailed in [type(fact) for _, fact in facts]


def test_data_sent_before_the_peer_can_know_our_smaller_window_is_taken() -> None:
    """RFC 9113, 6.9.3: the receiver must be prepared for what was sent before its SETTINGS were seen."""
    side = Side(Wire(client=False, limits=Limits(stream_window=1_000)))
    side.wire.start()
    facts, violation = side.hears_to_the_end(PREFACE, settings(), headers(1, POST), *[data(1, bytes(10_000))] * 6)
    assert violation is None
    assert sum(len(fact.data) for _, fact in facts if isinstance(fact, DataArrived)) == 60_000


def test_what_was_read_before_the_peer_knew_our_smaller_window_is_paid_once_it_does() -> None:
    """RFC 9113, 6.9.2: the window is below zero then, and nobody would ever open it again."""
    side = Side(Wire(client=False, limits=Limits(stream_window=1_000, max_stream_window=1_000)))
    side.wire.start()
    side.hears(PREFACE, settings(), headers(1, POST), *[data(1, bytes(10_000))] * 6)
    side.wire.return_credit(1, 60_000)
    side.hears(settings(ack=True))
    paid = sum(each.increment for each in side.says() if each.type == Type.WINDOW_UPDATE and each.stream_id == 1)
    assert 65_535 - 60_000 + (1_000 - 65_535) + paid == 1_000


# --- resets -----------------------------------------------------------------------------------------------------------

LATE: dict[str, Callable[[int], bytes]] = {
    "HEADERS": lambda stream_id: headers(stream_id, OK),
    "DATA": lambda stream_id: data(stream_id, b"late", padding=3),
    "the last DATA": lambda stream_id: data(stream_id, b"late", end_stream=True),
    "trailers": lambda stream_id: headers(stream_id, encode([("x", "y")]), end_stream=True),
    "WINDOW_UPDATE": lambda stream_id: window_update(stream_id, 7),
    "RST_STREAM": rst,
    "PRIORITY": lambda stream_id: frame(Type.PRIORITY, 0, stream_id, bytes(5)),
    "an unknown frame": lambda stream_id: frame(0xEF, 0, stream_id, b"?"),
    "an overflow": lambda stream_id: window_update(stream_id, OVERFLOW),
}


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_one_reset_is_said_whatever_comes_late(late: Callable[[int], bytes], released: bool) -> None:
    """S10: the wire's part."""
    side = client()
    assert side.wire.open(request("POST"), end=False) == 1
    side.wire.reset(1, ErrorCode.CANCEL)
    side.wire.reset(1, ErrorCode.INTERNAL_ERROR)
    if released:
        side.wire.release(1, ErrorCode.CANCEL)
    said = side.says()
    for _ in range(3):
        facts, violation = side.hears_to_the_end(late(1), ping(b"and on  "))
        assert (facts, violation) == ([], None)
        said += side.says()
    assert [(heard.stream_id, heard.code) for heard in said if heard.type == Type.RST_STREAM] == [(1, Code.CANCEL)]
    assert len([1 for heard in said if heard.type == Type.PING]) == 3
    assert side.wire.open(request(), end=True) == 3
    assert side.hears(headers(3, OK, end_stream=True)) == [(3, HeadersArrived(response(200), True))]


def test_a_late_header_block_still_keeps_the_compression_in_step() -> None:
    side = client()
    side.wire.open(request(), end=True)
    side.wire.open(request(), end=True)
    side.wire.reset(1, ErrorCode.CANCEL)
    # Literal with incremental indexing, then a reference to what it put into the table.
    side.hears(headers(1, b"\x88\x40\x05x-new\x01v", end_stream=True))
    assert side.hears(headers(3, b"\x88\xbe", end_stream=True)) == [
        (3, HeadersArrived([(b":status", b"200"), (b"x-new", b"v")], True))
    ]


def test_data_after_the_end_of_a_stream_is_the_peers_fault_and_never_delivered() -> None:
    side = server()
    facts, violation = side.hears_to_the_end(headers(1, POST), data(1, b"all", end_stream=True), data(1, b"more"))
    assert facts[:2] == [(1, HeadersArrived(request("POST"), False)), (1, DataArrived(b"all", True))]
    assert (1, DataArrived(b"more", False)) not in facts
    assert violation is not None or [type(fact) for _, fact in facts[2:]] == [StreamFailed]


@pytest.mark.parametrize(
    "frames",
    [
        data(1, b"before the head"),
        headers(1, OK) + headers(1, OK),
        headers(1, OK) + headers(1, OK, end_stream=True),
        headers(1, encode(response(100)), end_stream=True),
        headers(1, OK, end_stream=True) + data(1, b"x"),
        headers(1, OK, end_stream=True) + headers(1, OK, end_stream=True),
    ],
    ids=["DATA first", "two heads", "a second head that ends", "1xx that ends", "DATA after", "HEADERS after"],
)
def test_a_response_out_of_order_is_a_violation_of_the_stream_or_the_connection(frames: bytes) -> None:
    side = client()
    side.wire.open(request(), end=False)
    facts, violation = side.hears_to_the_end(frames)
    assert violation is not None or StreamFailed in [type(fact) for _, fact in facts]
    assert not [fact for _, fact in facts if isinstance(fact, DataArrived)]


def test_a_stream_window_that_overflows_costs_only_the_stream() -> None:
    """RFC 9113, 6.9.1."""
    side = server()
    side.hears(headers(1, POST), headers(3, POST))
    facts = side.hears(window_update(1, OVERFLOW), data(3, b"and on"))
    assert [(stream_id, type(fact)) for stream_id, fact in facts] == [(1, StreamFailed), (3, DataArrived)]
    said = [(heard.stream_id, heard.code) for heard in side.says() if heard.type == Type.RST_STREAM]
    assert said == [(1, Code.FLOW_CONTROL_ERROR)]
    side.wire.send_head(1, response(200), end=True)
    side.wire.release(1, ErrorCode.CANCEL)
    assert side.says() == []


def test_an_initial_window_that_makes_a_stream_overflow_ends_the_connection() -> None:
    """RFC 9113, 6.9.2: a FLOW_CONTROL_ERROR of the connection."""
    side = server({Setting.INITIAL_WINDOW_SIZE: 0})
    side.hears(headers(1, POST), window_update(1, OVERFLOW))
    _, violation = side.hears_to_the_end(settings({Setting.INITIAL_WINDOW_SIZE: 1}))
    assert violation is not None
    assert ErrorCode(violation.code) is ErrorCode.FLOW_CONTROL_ERROR


# --- streams and goodbyes ---------------------------------------------------------------------------------------------


def test_open_streams_counts_what_both_sides_count() -> None:
    side = client()
    for _ in range(4):
        side.wire.open(request("POST"), end=False)
    assert side.wire.open_streams == 4
    side.hears(headers(1, OK, end_stream=True))
    assert side.wire.open_streams == 4, "our side of it is still open"
    side.wire.send_data(1, b"", end=True)
    side.says()
    assert side.wire.open_streams == 3
    side.wire.reset(3, ErrorCode.CANCEL)
    side.hears(rst(5))
    assert side.wire.open_streams == 1
    for stream_id in (1, 3, 5):
        side.wire.release(stream_id, ErrorCode.CANCEL)
    assert (side.wire.open_streams, side.wire.streams) == (1, 1)


def test_a_released_stream_lives_until_its_queue_is_out() -> None:
    side = server({Setting.INITIAL_WINDOW_SIZE: 3})
    side.hears(GET)
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"1234", end=True)
    assert not side.wire.release(1)
    assert bodies(side.says()) == [(1, b"123")]
    assert side.wire.streams == 1
    side.hears(window_update(1, 1))
    assert bodies(side.says()) == [(1, b"4")]
    assert side.wire.streams == 0


def test_a_request_left_unread_is_reset_with_no_error_behind_the_response() -> None:
    side = server()
    side.hears(headers(1, POST), data(1, b"unread"))
    side.wire.send_head(1, response(200), end=False)
    side.wire.send_data(1, b"answer", end=True)
    side.wire.release(1)
    said = side.says()
    assert [heard.type for heard in said if heard.type != Type.WINDOW_UPDATE] == [
        Type.HEADERS,
        Type.DATA,
        Type.RST_STREAM,
    ]
    assert said[-1].code == Code.NO_ERROR


def test_streams_still_finish_after_a_goaway_each_way() -> None:
    side = client()
    side.wire.open(request(), end=True)
    side.wire.go_away(0, ErrorCode.NO_ERROR, b"bye")
    facts = side.hears(goaway(1, Code.ENHANCE_YOUR_CALM, b"calm"), headers(1, OK), data(1, b"whole", end_stream=True))
    assert facts == [
        (0, PeerGoAway(1, Code.ENHANCE_YOUR_CALM, b"calm")),
        (1, HeadersArrived(response(200), False)),
        (1, DataArrived(b"whole", True)),
    ]
    said = side.says()
    assert [(heard.last_stream_id, heard.code, heard.payload[8:]) for heard in said if heard.type == Type.GOAWAY] == [
        (0, Code.NO_ERROR, b"bye")
    ]


def test_a_goaway_stands_behind_what_was_said_before_it() -> None:
    side = server()
    side.hears(GET)
    side.wire.send_head(1, response(200), end=True)
    side.wire.go_away(1, ErrorCode.NO_ERROR)
    side.wire.ping(b"pingpong")
    assert [heard.type for heard in side.says()] == [Type.HEADERS, Type.GOAWAY, Type.PING]


def test_a_ping_is_answered_and_an_answer_is_told() -> None:
    side = server()
    side.wire.ping(b"question")
    assert side.hears(ping(b"question", ack=True), ping(b"theirs..")) == [(0, PingAcked(b"question"))]
    said = side.says()
    assert [(heard.payload, heard.has(Flag.ACK)) for heard in said] == [(b"question", False), (b"theirs..", True)]


def test_the_peers_limit_is_told_each_time_it_changes() -> None:
    side = client({Setting.MAX_CONCURRENT_STREAMS: 5})
    facts = side.hears(settings({Setting.MAX_CONCURRENT_STREAMS: 0}), settings({Setting.MAX_FRAME_SIZE: 20_000}))
    assert facts == [(0, PeerSettings(0)), (0, PeerSettings(0))]
    assert [type(fact) for _, fact in client().hears(settings())] == [PeerSettings]


def test_the_ids_of_streams_run_out_instead_of_over() -> None:
    side = client()
    side.wire._inbox.last_own_id = 2**31 - 3
    assert side.wire.open(request(), end=True) == 2**31 - 1
    assert side.wire.open(request(), end=True) is None


def test_an_informational_response_for_a_stream_that_we_reset_harms_nobody() -> None:
    """S10: h2 would end the connection for it."""
    side = client()
    stream_id = side.wire.open(request(), end=True)
    assert stream_id == 1
    side.wire.reset(stream_id, ErrorCode.CANCEL)
    side.says()
    early = headers(1, encode([(b":status", b"103")]))
    assert side.hears(early + early) == []
    assert [heard.type for heard in side.says()] == []
    assert side.wire.open(request(), end=True) == 3
