"""The gate: bytes in any portions become the same frames, and what can never become one is refused early."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ErrorCode, ProtocolViolation
from actors.frames import FRAME_NAMES, PREFACE, Frame, FrameType, Gate, encode_frame, split_frames
from tests.support import frames as raw

Seen = tuple[int, int, int, bytes]


def client_gate() -> Gate:
    """What a client hears its server with."""
    return Gate(expect_preface=False, max_frame_size=16_384)


def server_gate() -> Gate:
    return Gate(expect_preface=True, max_frame_size=16_384)


def drain(gate: Gate) -> list[Seen]:
    """Every frame that is there; checks on the way that the gate knew that it is."""
    found = []
    while gate.has_frame:
        if gate.preface():
            continue
        frame = gate.next_frame()
        assert frame is not None
        found.append((frame.type, frame.flags, frame.stream_id, bytes(frame.raw)))
    assert gate.preface() == b""
    assert gate.next_frame() is None
    return found


def feed(gate: Gate, *portions: bytes) -> list[Seen]:
    found = []
    for portion in portions:
        gate.take_in(portion)
        found += drain(gate)
    return found


def refused(gate: Gate, *portions: bytes) -> ProtocolViolation:
    with pytest.raises(ProtocolViolation) as violation:
        feed(gate, *portions)
    return violation.value


FRAMES = [
    raw.settings({raw.Setting.MAX_CONCURRENT_STREAMS: 7}),
    raw.headers(1, b"\x82\x86\x84", end_headers=False),
    raw.continuation(1, b"\x41\x01a"),
    raw.frame(0xFA, 0xFF, 3, b"nobody knows this type"),
    raw.data(1, b""),
    raw.data(1, b"x" * 300, end_stream=True, padding=7),
    raw.ping(b"12345678"),
    raw.goaway(2**31 - 1, 0, b"bye"),
]


@pytest.mark.parametrize("gate_of", [client_gate, server_gate])
def test_bytes_split_at_every_place_give_the_same_frames(gate_of: Callable[[], Gate]) -> None:
    wire = (PREFACE if gate_of is server_gate else b"") + b"".join(FRAMES)
    whole = feed(gate_of(), wire)
    assert [seen[3] for seen in whole] == FRAMES
    for place in range(len(wire) + 1):
        assert feed(gate_of(), wire[:place], wire[place:]) == whole
    assert feed(gate_of(), *(wire[place : place + 1] for place in range(len(wire)))) == whole


@given(st.data())
def test_bytes_in_any_portions_give_the_same_frames(data: st.DataObject) -> None:
    made = data.draw(
        st.lists(
            st.builds(raw.frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary()),
            max_size=8,
        )
    )
    wire = raw.settings() + b"".join(made)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    portions = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert [seen[3] for seen in feed(client_gate(), *portions)] == [raw.settings(), *made]


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_refused_or_waits_for_more_and_nothing_else(garbage: bytes, expect_preface: bool) -> None:
    gate = Gate(expect_preface=expect_preface, max_frame_size=16_384)
    with suppress(ProtocolViolation):
        feed(gate, garbage)


def test_a_frame_is_read_as_the_rfc_lays_it_out() -> None:
    gate = client_gate()
    gate.take_in(raw.settings() + raw.frame(raw.Type.DATA, 0x29, 0x7FFFFFFF, b"payload"))
    assert gate.next_frame() is not None
    frame = gate.next_frame()
    assert frame is not None
    assert frame == Frame(0, 0x29, 0x7FFFFFFF, frame.raw)
    assert frame.payload == b"payload"


def test_the_reserved_bit_of_a_stream_id_is_ignored() -> None:
    """RFC 9113, 4.1."""
    wire = raw.frame(raw.Type.SETTINGS, 0, 0x80000000) + raw.frame(raw.Type.PING, 0, 0x80000005, b"12345678")
    assert [seen[2] for seen in feed(client_gate(), wire)] == [0, 5]
    assert [frame.stream_id for frame in split_frames(wire)] == [0, 5]


@given(
    st.lists(
        st.tuples(st.sampled_from(FrameType), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary()), max_size=5
    )
)
def test_what_is_encoded_can_be_split_again(given_frames: list[tuple[FrameType, int, int, bytes]]) -> None:
    wire = b"".join(encode_frame(*given_frame) for given_frame in given_frames)
    assert wire == b"".join(raw.frame(*given_frame) for given_frame in given_frames)
    assert [(f.type, f.flags, f.stream_id, f.payload) for f in split_frames(wire)] == given_frames


def test_every_frame_type_has_its_name() -> None:
    assert {int(kind): kind.name for kind in raw.Type} == FRAME_NAMES


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_overlong_frame_is_refused_at_its_header_before_any_payload_is_kept() -> None:
    gate = client_gate()
    assert feed(gate, raw.settings())
    assert feed(gate, raw.frame(raw.Type.DATA, 0, 1, length=16_385)[:8]) == []
    violation = refused(gate, b"\x01")
    assert violation.code == ErrorCode.FRAME_SIZE_ERROR
    assert "16385" in str(violation)
    assert "16384" in str(violation)


def test_a_frame_of_the_largest_size_passes() -> None:
    assert len(feed(client_gate(), raw.settings() + raw.data(1, bytes(16_384)))) == 2


def test_good_frames_before_a_bad_one_are_delivered() -> None:
    """W1 (the gate's part)."""
    gate = client_gate()
    gate.take_in(raw.settings() + raw.ping() + raw.frame(raw.Type.DATA, 0, 1, length=2**24 - 1))
    assert [frame.type for frame in (gate.next_frame(), gate.next_frame()) if frame] == [4, 6]
    with pytest.raises(ProtocolViolation):
        gate.next_frame()


def test_a_refused_frame_stays_refused_whatever_comes_after_it() -> None:
    gate = client_gate()
    feed(gate, raw.settings())
    refused(gate, raw.frame(raw.Type.DATA, 0, 1, length=2**24 - 1))
    refused(gate, raw.settings())


def test_a_client_that_never_says_the_preface_gives_no_frame() -> None:
    gate = server_gate()
    gate.take_in(PREFACE[:-1])
    assert (gate.has_frame, gate.preface(), gate.next_frame()) == (False, b"", None)
    gate.take_in(PREFACE[-1:])
    assert (gate.has_frame, gate.next_frame()) == (True, None)
    assert [gate.preface(), gate.preface()] == [PREFACE, b""]


@pytest.mark.parametrize("wrong", range(len(PREFACE)))
def test_a_preface_with_one_wrong_byte_is_refused_at_that_byte(wrong: int) -> None:
    gate = server_gate()
    assert feed(gate, PREFACE[:wrong]) == []
    violation = refused(gate, bytes([PREFACE[wrong] ^ 0x20]))
    assert violation.code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "wire", [raw.ping(), raw.headers(1, b"\x82"), raw.window_update(0, 1), raw.goaway(0), raw.frame(0xFA)]
)
def test_a_first_frame_that_is_not_settings_is_refused(wire: bytes) -> None:
    """RFC 9113, 3.4."""
    assert "does not speak HTTP/2" in str(refused(client_gate(), wire))
    assert "does not speak HTTP/2" in str(refused(server_gate(), PREFACE + wire))


def test_a_wrong_first_frame_is_refused_before_the_rest_of_it_comes() -> None:
    gate = client_gate()
    gate.take_in(raw.ping()[:3])
    assert [gate.has_frame, gate.next_frame()] == [False, None]
    gate.take_in(raw.ping()[3:4])
    assert [gate.has_frame] == [True]
    with pytest.raises(ProtocolViolation):
        gate.next_frame()
    refused(client_gate(), raw.frame(raw.Type.DATA, 0, 1, length=16_384))


def test_settings_need_to_come_first_only_once() -> None:
    assert len(feed(client_gate(), raw.settings() + raw.ping() + raw.ping() + raw.settings(ack=True))) == 4


# --- other protocols --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /a/long/way/to/go/before/the/version HTTP/1.1\r\n",
        b"POST /upload HTTP/1.0\r\n\r\n",
        b"PUT /upload/to/somewhere/far/away HTTP/1.1\r\n\r\n",
        b"DELETE /v1/things/with/a/long/name HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"PATCH /v1/things/with/a/long/name HTTP/1.1\r\n\r\n",
    ],
)
def test_a_client_of_http_1_is_told_apart(said: bytes) -> None:
    assert "it speaks HTTP/1.1" in str(refused(server_gate(), said))


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 505 HTTP Version Not Supported\r\n"],
)
def test_a_server_of_http_1_is_told_apart(said: bytes) -> None:
    violation = refused(client_gate(), said)
    assert "it speaks HTTP/1.1" in str(violation)
    assert said[:12].decode() in str(violation)


def test_a_client_of_tls_is_told_apart() -> None:
    hello = bytes.fromhex("1603010200010001fc0303") + bytes(200)
    assert "it speaks TLS" in str(refused(server_gate(), hello))


@pytest.mark.parametrize("alert", ["15030100020246", "15030300020216"])
def test_a_server_of_tls_is_told_apart_by_its_alert_of_seven_bytes(alert: str) -> None:
    assert "it speaks TLS" in str(refused(client_gate(), bytes.fromhex(alert)))


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mail.example ESMTP\r\n", b"\xff" * 40, bytes(40)])
def test_another_protocol_is_refused_without_a_guess(said: bytes) -> None:
    for gate in (client_gate(), server_gate()):
        violation = refused(gate, said)
        assert "does not speak HTTP/2" in str(violation)
        assert "HTTP/1.1" not in str(violation)
        assert "TLS" not in str(violation)
        assert "\n" not in str(violation)


def test_what_a_stranger_says_is_quoted_in_part_only() -> None:
    assert len(str(refused(server_gate(), b"\xff" * 100_000))) < 300


# --- header blocks ----------------------------------------------------------------------------------------------------


def test_a_header_block_is_open_from_its_beginning_to_its_end() -> None:
    """RFC 9113, 4.3: only CONTINUATION may come in between, and who reads frames must know."""
    gate = client_gate()
    steps = [
        (raw.settings(), False),
        (raw.headers(1, b"\x82", end_headers=False), True),
        (raw.continuation(1, b"\x86", end_headers=False), True),
        (raw.ping(), True),
        (raw.continuation(1, b"\x84"), False),
        (raw.push_promise(1, 2, b"\x82", end_headers=False), True),
        (raw.continuation(1, b"\x84"), False),
        (raw.headers(3, b"\x82"), False),
    ]
    seen = []
    for wire, _ in steps:
        assert len(feed(gate, wire)) == 1
        seen.append(gate.in_header_block)
    assert seen == [open_after for _, open_after in steps]


def test_a_long_connection_keeps_no_more_bytes_than_it_has_not_read() -> None:
    gate = client_gate()
    feed(gate, raw.settings())
    whole = raw.data(1, bytes(16_000))
    for _ in range(200):
        assert len(feed(gate, whole[:9_000], whole[9_000:])) == 1
    gate.take_in(b"")
    assert (
        sum(len(value) for value in (getattr(gate, name) for name in Gate.__slots__) if isinstance(value, bytearray))
        == 0
    )
