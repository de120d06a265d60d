"""The wire's h2 against plain h2: the same calls and the same bytes in, on both, and what comes out of each.

A third connection, plain h2 as well, is the peer: what it says is valid, with header blocks that are compressed and cut
into frames as they come.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
from attrs import define, field, frozen
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.exceptions import H2Error, ProtocolError, TooManyStreamsError
from h2.settings import ChangedSetting, SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import protocol
from actors.compression import RememberingEncoder
from actors.protocol import SWEEP_INTERVAL, Protocol
from tests.support import frames
from tests.support.frames import PREFACE, Flag, Frame, Parser, Setting, Type, data, encode, headers, request, response

# --- the same calls on both -------------------------------------------------------------------------------------------

CODES: Final = (0, 2, 8)
PRIORITY_WEIGHT: Final = 77
ONE_FRAME: Final = 8000
"""A value so long that its block goes into one frame."""
CLIENTS: Final = "open headers data end trailers reset ping settings window credit prioritize close".split()
SERVERS: Final = "open headers inform data end trailers reset ping settings window credit promote close".split()


@frozen
class Step:
    """One step of a story: who does what, on which of the open streams, with how much."""

    who: str
    """ours: both connections under test; peer: theirs; say and hear: bytes go to the peer, or come from it."""
    what: int
    which: int
    size: int
    flag: bool
    padding: int | None


sizes = st.one_of(st.integers(0, 40), st.integers(0, 40_000), st.sampled_from([16_384, 16_385, 65_535]))
steps = st.builds(
    Step,
    who=st.sampled_from(["ours"] * 4 + ["peer"] * 3 + ["say", "hear"]),
    what=st.integers(0, 1 << 16),
    which=st.integers(0, 20),
    size=sizes,
    flag=st.booleans(),
    padding=st.one_of(st.none(), st.integers(0, 255)),
)
Call = Callable[[H2Connection], object]


TEXT: Final = "".join(chr(0x21 + number * number % 89) for number in range(40_000))


def text(size: int) -> str:
    """A header's value that HPACK can make little of."""
    return TEXT[:size]


def call(step: Step, speaker: H2Connection, stream_id: int) -> Call:
    """What a step asks of a connection that stands where ``speaker`` stands."""
    client = speaker.config.client_side
    size, flag = step.size, step.flag
    block = size // 2 if flag else size % 100
    kinds = CLIENTS if client else SERVERS
    kind = kinds[step.what % len(kinds)]
    if kind == "close" and step.what % 8:
        kind = "open"  # else few stories would be long
    match kind:
        case "open" if client:
            stream_id = speaker.get_next_available_stream_id()
            head = request("POST", "/", ("x-text", text(block)))
            # Five bytes more than h2 reckons with, which make the first of several frames too long (it has an assert).
            weight = PRIORITY_WEIGHT if step.padding and block < ONE_FRAME else None
            return lambda h2: h2.send_headers(stream_id, head, end_stream=size % 5 == 0, priority_weight=weight)
        case "open":
            promised = speaker.get_next_available_stream_id()
            head = request("GET", "/", ("x-text", text(block % ONE_FRAME)))  # four bytes more, as above
            return lambda h2: h2.push_stream(stream_id, promised, head)
        case "headers":
            head = response(200, ("x-text", text(block))) if not client else request()
            return lambda h2: h2.send_headers(stream_id, head, end_stream=size % 5 == 0)
        case "inform":
            return lambda h2: h2.send_headers(stream_id, response(103, ("x-text", text(block))))
        case "data":
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            piece = memoryview(body) if flag and step.padding is None else body
            return lambda h2: h2.send_data(stream_id, piece, end_stream=flag, pad_length=step.padding)
        case "end":
            return lambda h2: h2.end_stream(stream_id)
        case "trailers":
            fields = [(b"x-text", text(block).encode())]
            return lambda h2: h2.send_headers(stream_id, fields, end_stream=True)
        case "reset":
            return lambda h2: h2.reset_stream(stream_id, CODES[size % 3])
        case "ping":
            return lambda h2: h2.ping(size.to_bytes(8))
        case "settings":
            changed: dict[SettingCodes | int, int] = {
                SettingCodes.INITIAL_WINDOW_SIZE: size,
                SettingCodes.MAX_FRAME_SIZE: 16_384 + size,
                SettingCodes.HEADER_TABLE_SIZE: size % 8192,
            }
            return lambda h2: h2.update_settings(changed)
        case "window":
            return lambda h2: h2.increment_flow_control_window(size, stream_id if flag else None)
        case "credit":
            return lambda h2: h2.acknowledge_received_data(size, stream_id)
        case "prioritize":
            return lambda h2: h2.prioritize(stream_id, weight=1 + size % 256, exclusive=flag)
        case "promote":
            return lambda h2: h2.advertise_alternative_service(b'h2=":80"', stream_id=stream_id)
        case _:
            return lambda h2: h2.close_connection(CODES[size % 3], additional_data=bytes(size % 50))


def told(thing: object) -> object:
    """An event of h2's in parts that can be compared."""
    if isinstance(thing, (Event, ChangedSetting)):
        return type(thing).__name__, {name: told(part) for name, part in vars(thing).items()}
    if isinstance(thing, list):
        return [told(each) for each in thing]
    if isinstance(thing, dict):
        return {name: told(part) for name, part in thing.items()}
    return thing


def outcome(h2: H2Connection, ask: Call) -> object:
    """What it returned, or the error that it raised."""
    try:
        return told(ask(h2))
    except (H2Error, LookupError, ValueError) as error:
        return type(error), str(error)


@define
class Three:
    """The wire's h2, plain h2 beside it, and their peer."""

    ours: Protocol
    plain: H2Connection
    peer: H2Connection
    sweeps: bool
    """Whether ours sweeps as often as plain h2, so that they may be compared on closed streams, too."""
    on_its_way: bytearray = field(factory=bytearray)

    @classmethod
    def begin(cls, config: H2Configuration, *, sweeps: bool) -> "Three":
        peer = H2Connection(H2Configuration(client_side=not config.client_side))
        three = cls(Protocol(config), H2Connection(config), peer, sweeps)
        three.plain.encoder = RememberingEncoder()  # which is held against plain hpack by its own tests
        peer.initiate_connection()
        three.both(lambda h2: h2.initiate_connection())
        three.say(None)
        client = peer if three.peer.config.client_side else three
        for stream_id in (1, 3, 5):
            opening = opens(stream_id)
            if client is three:
                three.both(opening)
            else:
                opening(peer)
        three.say(None)
        three.hear(1 << 20)
        return three

    def both(self, ask: Call) -> object:
        """The same of both, with the same outcome."""
        plain = outcome(self.plain, ask)
        assert outcome(self.ours, ask) == plain
        return plain

    def say(self, amount: int | None) -> None:
        """Both have the same bytes for the peer, which takes them."""
        plain = self.plain.data_to_send(amount)
        assert self.ours.data_to_send(amount) == plain
        self.peer.receive_data(plain)

    def hear(self, most: int) -> None:
        """Both make the same events of the peer's bytes."""
        self.on_its_way += self.peer.data_to_send()
        # What h2 makes of a late frame depends on whether the closed stream was set aside; the wire sees to that.
        self.ours.sweep()
        _ = self.plain.open_inbound_streams
        piece = bytes(self.on_its_way[:most])
        del self.on_its_way[:most]
        self.both(lambda h2: h2.receive_data(piece))

    def take(self, step: Step) -> None:
        match step.who:
            case "ours":
                if stream_id := self.pick(step.which, self.plain, closed=self.sweeps):
                    self.both(call(step, self.plain, stream_id))
            case "peer":
                if stream_id := self.pick(step.which, self.peer):
                    with suppress(H2Error, LookupError, ValueError):
                        call(step, self.peer, stream_id)(self.peer)
            case "say":
                self.say(step.size if step.flag else None)
            case _:
                self.hear(step.size)

    def end(self) -> None:
        """Everything out and in, and both stand where the other stands."""
        self.hear(1 << 30)
        self.say(None)
        assert self.ours.state_machine.state == self.plain.state_machine.state
        assert self.ours.outbound_flow_control_window == self.plain.outbound_flow_control_window
        assert self.ours.inbound_flow_control_window == self.plain.inbound_flow_control_window

    @staticmethod
    def pick(which: int, speaker: H2Connection, *, closed: bool = False) -> int | None:
        open_ones = [stream_id for stream_id, stream in speaker.streams.items() if not stream.closed]
        if closed:
            open_ones = [*range(1, speaker.highest_inbound_stream_id + speaker.highest_outbound_stream_id + 1)]
        return open_ones[which % len(open_ones)] if open_ones else None


def opens(stream_id: int) -> Call:
    return lambda h2: h2.send_headers(stream_id, request("POST"), end_stream=False)


def wires_config(*, client: bool) -> H2Configuration:
    """As the wire has it: nothing checked and nothing normalized."""
    return H2Configuration(
        client_side=client, validate_outbound_headers=False, normalize_outbound_headers=False,
        validate_inbound_headers=False, normalize_inbound_headers=False,
    )  # fmt: skip


CONFIGS: Final = {
    "client": wires_config(client=True),
    "server": wires_config(client=False),
    "client that checks headers": H2Configuration(client_side=True),
    "server that checks headers": H2Configuration(client_side=False),
}


@pytest.mark.parametrize("sweeps", [False, True], ids=["open streams", "closed ones, too"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@settings(max_examples=25, deadline=None)
@given(story=st.lists(steps, max_size=40))
def test_the_same_calls_and_bytes_give_the_bytes_and_events_of_plain_h2(
    config: H2Configuration, sweeps: bool, story: list[Step]
) -> None:
    """Whole or in pieces, errors and what follows them included. Without content-length: see below."""
    with pytest.MonkeyPatch.context() as patch:
        if sweeps:
            patch.setattr(protocol, "SWEEP_INTERVAL", 1)
        three = Three.begin(config, sweeps=sweeps)
        for step in story:
            try:
                three.take(step)
            except ProtocolError:  # the peer's: what ours sent before it closed has come late
                return
        with suppress(ProtocolError):
            three.end()


# --- output -----------------------------------------------------------------------------------------------------------


def pair(*, client: bool) -> tuple[Protocol, H2Connection]:
    config = wires_config(client=client)
    return Protocol(config), H2Connection(config)


def speaks(h2: H2Connection) -> None:
    """A client's output of every kind: from h2 itself, a block of several frames, bodies plain and padded."""
    h2.initiate_connection()
    h2.send_headers(1, request("POST", "/", ("x-text", text(40_000))))
    h2.send_data(1, b"plain")
    h2.send_data(1, memoryview(b"a view of more")[:6])
    h2.send_data(1, bytes(16_384))
    h2.send_data(1, b"padded", pad_length=7)
    h2.send_data(1, b"", pad_length=0)
    h2.send_data(1, b"last", end_stream=True)
    h2.send_headers(3, request(), end_stream=True)
    h2.ping(b"pingpong")
    h2.close_connection(8, b"debug")


def test_a_body_is_framed_as_hyperframe_frames_it() -> None:
    ours, plain = pair(client=True)
    speaks(ours)
    speaks(plain)
    said = ours.data_to_send()
    assert said == plain.data_to_send()
    bodies = [heard for heard in Parser().parse(said[len(PREFACE) :]) if heard.type == Type.DATA]
    assert [(heard.body, heard.flags) for heard in bodies] == [
        (b"plain", 0), (b"a view", 0), (bytes(16_384), 0),
        (b"padded", Flag.PADDED), (b"", Flag.PADDED), (b"last", Flag.END_STREAM)
    ]  # fmt: skip


@pytest.mark.parametrize("amount", [0, 1, 9, 24, 1000, 16_384, 1 << 20])
def test_output_in_pieces_is_plain_h2s_in_the_same_pieces(amount: int) -> None:
    ours, plain = pair(client=True)
    speaks(ours)
    speaks(plain)
    for _ in range(20):
        assert ours.data_to_send(amount) == plain.data_to_send(amount)
    assert ours.data_to_send() == plain.data_to_send()
    assert ours.data_to_send() == ours.data_to_send(5) == b""


def test_what_follows_a_piece_comes_behind_its_rest() -> None:
    ours, plain = pair(client=True)
    for h2 in (ours, plain):
        h2.initiate_connection()
    assert ours.data_to_send(10) == plain.data_to_send(10) == PREFACE[:10]
    for h2 in (ours, plain):
        h2.send_headers(1, request("POST"))
        h2.send_data(1, b"body")
    assert ours.data_to_send() == plain.data_to_send()


def test_the_preface_and_the_settings_come_first() -> None:
    ours, _ = pair(client=True)
    speaks(ours)
    said = ours.data_to_send()
    assert said.startswith(PREFACE)
    assert [heard.type for heard in Parser().parse(said[len(PREFACE) :])][:2] == [Type.SETTINGS, Type.HEADERS]


def test_they_come_first_whatever_was_said_before_them() -> None:
    ours, _ = pair(client=True)
    ours.ping(b"too soon")
    ours.initiate_connection()
    said = ours.data_to_send()
    assert said.startswith(PREFACE)
    assert [heard.type for heard in Parser().parse(said[len(PREFACE) :])] == [Type.SETTINGS, Type.PING]


def test_to_clear_the_output_forgets_what_h2_keeps_and_what_we_keep() -> None:
    ours, _ = pair(client=True)
    speaks(ours)
    ours.clear_outbound_data_buffer()
    assert ours.data_to_send() == b""


def test_to_clear_the_output_forgets_the_rest_of_a_piece() -> None:
    ours, _ = pair(client=True)
    speaks(ours)
    ours.data_to_send(100)
    ours.clear_outbound_data_buffer()
    assert ours.data_to_send() == b""


# --- input ------------------------------------------------------------------------------------------------------------


class Log:
    """A logger of h2's that keeps what h2 says of the frames that came."""

    def __init__(self) -> None:
        self.frames: list[str] = []

    def debug(self, template: str, *parts: object) -> None:
        pass

    def trace(self, template: str, *parts: object) -> None:
        if template.startswith("Received frame"):
            self.frames.append(template % parts)


PAYLOADS: Final = {
    "DataFrame": data(1, b"\xab\xcd\xef\x01" * 50),
    "HeadersFrame": headers(1, encode(request("POST"))),
    "PingFrame": frames.ping(b"\xab\xcd\xef\x01pong"),
}


@pytest.mark.parametrize(("name", "came"), PAYLOADS.items(), ids=PAYLOADS)
def test_the_repr_of_a_frame_that_came_has_no_payload(name: str, came: bytes) -> None:
    """That of plain h2 has: should it lose it, our override has nothing to do any more."""
    [frame] = Parser().parse(came)

    def logs(kind: Callable[[H2Configuration], H2Connection]) -> str:
        log: Any = Log()
        h2 = kind(H2Configuration(client_side=False, logger=log))
        before = frame.stream_id and frame.type == Type.DATA
        h2.receive_data(PREFACE + frames.settings() + (PAYLOADS["HeadersFrame"] if before else b""))
        log.frames.clear()
        h2.receive_data(came)
        [line] = log.frames
        assert isinstance(line, str)
        return line

    ours, plain = logs(Protocol), logs(H2Connection)
    assert plain.startswith(ours), "the rest is as hyperframe writes it"
    assert f"{name}(stream_id={frame.stream_id}" in ours
    shown = plain.removeprefix(ours)
    assert frame.payload[:4].hex() in shown or repr(frame.payload)[2:8] in shown


def as_server(h2: H2Connection, *came: bytes) -> list[Event]:
    h2.initiate_connection()
    return [event for piece in (PREFACE + frames.settings(), *came) for event in h2.receive_data(piece)]


WRONG_LENGTHS: Final = {
    "a body that is too short": ("5", data(1, b"abc", end_stream=True)),
    "a body that is too long": ("5", data(1, b"abcdef")),
    "no body": ("5", data(1, end_stream=True)),
    "no number": ("many", data(1, b"abc", end_stream=True)),
}


@pytest.mark.parametrize(("length", "body"), WRONG_LENGTHS.values(), ids=WRONG_LENGTHS)
def test_a_content_length_that_is_wrong_raises_nothing_here(length: str, body: bytes) -> None:
    """It is one stream's fault, and the wire's to find: plain h2 would end the connection."""
    head = headers(1, encode(request("POST", "/", ("content-length", length))))
    ours, plain = pair(client=False)
    events = as_server(ours, head, body)
    assert [type(event) for event in events if isinstance(event, RequestReceived | DataReceived | StreamEnded)] == [
        RequestReceived, DataReceived, *[StreamEnded] * Parser().parse(body)[0].has(Flag.END_STREAM)
    ]  # fmt: skip
    with pytest.raises(ProtocolError):
        as_server(plain, head, body)


def test_the_content_length_of_a_response_is_left_alone_too() -> None:
    came = frames.settings() + headers(1, encode(response(200, ("content-length", "5"))))
    ours, plain = pair(client=True)
    for h2 in (ours, plain):
        h2.initiate_connection()
        h2.send_headers(1, request(), end_stream=True)
        h2.receive_data(came)
    assert [type(event) for event in ours.receive_data(data(1, b"abc", end_stream=True))] == [DataReceived, StreamEnded]
    with pytest.raises(ProtocolError):
        plain.receive_data(data(1, b"abc", end_stream=True))


# --- streams ----------------------------------------------------------------------------------------------------------

MANY: Final = 10_000
LONG_LIVED: Final = 20
CLOSED_IDS_KEPT: Final = 4096


def client_that_resets(h2: Protocol) -> Iterator[None]:
    h2.initiate_connection()
    for number in range(MANY):
        h2.send_headers(2 * number + 1, request())
        if number >= LONG_LIVED:
            h2.reset_stream(2 * number + 1, 8)
        h2.clear_outbound_data_buffer()
        yield


def server_that_answers(h2: Protocol) -> Iterator[None]:
    as_server(h2)
    block, head = encode(request()), response(204)
    for number in range(MANY):
        h2.receive_data(headers(2 * number + 1, block, end_stream=True))
        if number >= LONG_LIVED:
            h2.send_headers(2 * number + 1, head, end_stream=True)
        h2.clear_outbound_data_buffer()
        yield


@pytest.mark.parametrize(
    ("client", "work"), [(True, client_that_resets), (False, server_that_answers)], ids=["client", "server"]
)
def test_closed_streams_are_swept_and_their_ids_forgotten_in_time(
    client: bool, work: Callable[[Protocol], Iterator[None]]
) -> None:
    ours, _ = pair(client=client)
    most = 0
    for _ in work(ours):
        most = max(most, len(ours.streams))
    assert most <= LONG_LIVED + SWEEP_INTERVAL
    assert set(range(1, 2 * LONG_LIVED, 2)) <= set(ours.streams), "an open one was swept away"
    assert len(ours._closed_streams) == CLOSED_IDS_KEPT


def test_a_limit_of_the_peer_is_not_kept_here() -> None:
    """The connection keeps it, by the limit that the wire tells it of: its requests wait for a place."""
    ours, plain = pair(client=True)
    for h2 in (ours, plain):
        h2.initiate_connection()
        h2.receive_data(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 1}))
        h2.send_headers(1, request())
    ours.send_headers(3, request())
    assert set(ours.streams) == {1, 3}
    with pytest.raises(TooManyStreamsError):
        plain.send_headers(3, request())


def test_our_own_limit_is_not_kept_here() -> None:
    """The wire keeps it, and refuses the stream alone: plain h2 would end the connection."""
    ours, plain = pair(client=False)
    for h2 in (ours, plain):
        h2.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1
        h2.local_settings.acknowledge()
    opening = [headers(stream_id, encode(request())) for stream_id in (1, 3)]
    events = as_server(ours, *opening)
    assert [event.stream_id for event in events if isinstance(event, RequestReceived)] == [1, 3]
    with pytest.raises(TooManyStreamsError):
        as_server(plain, *opening)


def test_frames_of_one_stream_leave_in_the_order_of_their_calls() -> None:
    ours, _ = pair(client=False)
    as_server(ours, headers(1, encode(request("POST"))))
    ours.data_to_send()
    ours.send_headers(1, response(200))
    ours.send_data(1, b"one")
    ours.increment_flow_control_window(7, 1)
    ours.send_data(1, b"two", pad_length=3)
    ours.send_headers(1, [(b"sum", b"2")], end_stream=True)
    said: list[Frame] = Parser().parse(ours.data_to_send())
    kinds = [heard.type for heard in said]
    assert kinds == [Type.HEADERS, Type.DATA, Type.WINDOW_UPDATE, Type.DATA, Type.HEADERS]


@st.composite
def any_frames(draw: st.DrawFn) -> list[bytes]:
    """Frames of every type that h2 knows, right and wrong, some of them with header blocks that can be read."""
    blocks = [frames.encode(frames.request()), frames.encode(frames.request("POST")), b"", b"\xff\xff", b"\x00"]
    made = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.integers(0, 10))
        payload = draw(st.sampled_from(blocks) if kind in (1, 9) else st.binary(max_size=20))
        flags = draw(st.sampled_from([0, 1, 4, 5, 8, 9, 12, 13, 32, 36, 37, 45]))
        made.append(frames.frame(kind, flags, draw(st.integers(0, 7)), payload))
    return made


@settings(max_examples=150, deadline=None)
@given(any_frames())
def test_a_frame_by_itself_means_what_it_means_to_plain_h2(story: list[bytes]) -> None:
    """W6, in part: the same events, errors and answers, for frames that are right and for frames that are not."""
    config = H2Configuration(client_side=False)
    ours, plain = Protocol(config), H2Connection(config)
    for h2 in (ours, plain):
        h2.initiate_connection()
        h2.receive_data(frames.PREFACE + frames.settings())
    for raw in story:
        ours.sweep()
        _ = plain.open_inbound_streams
        told_plain = outcome(plain, functools.partial(H2Connection.receive_data, data=raw))
        assert outcome(ours, lambda _: ours.receive_frame(raw)) == told_plain  # noqa: B023  (called at once)
        assert ours.data_to_send() == plain.data_to_send()
        if isinstance(told_plain, tuple):
            break
