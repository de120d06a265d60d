"""The gate: frame headers are read here before h2 sees a byte (no I/O).

Nine bytes (RFC 9113, 4.1) tell a frame's length, type and stream. So an overlong frame is refused before its payload is
buffered, and each frame can be fed to h2 by itself, or not at all.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from actors.errors import ErrorCode, ProtocolViolation
from actors.messages import PeerGoAway

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE: Final = 9
TYPE_AT: Final = 3
FLAGS_AT: Final = 4
PRIORITY_SIZE: Final = 5


class FrameType(enum.IntEnum):
    """The frame types of RFC 9113, 6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9
    ALTSVC = 0xA
    """RFC 7838, 4."""


FRAME_NAMES: Final = {int(kind): kind.name for kind in FrameType}
ACK: Final = 0x1
END_STREAM: Final = 0x1
PADDED: Final = 0x8
PRIORITY: Final = 0x20
END_HEADERS: Final = 0x4
BLOCK_TYPES: Final = frozenset((FrameType.HEADERS, FrameType.PUSH_PROMISE, FrameType.CONTINUATION))
"""What header blocks are made of."""
# Read in one step: 16 bits of length, then 8 more with the 8 of the type, the flags, the stream.
_HEADER: Final = struct.Struct(">HHBL")


class Frame(NamedTuple):
    """One whole frame; a plain tuple, because one is made for each frame of a bulk transfer."""

    type: int
    flags: int
    stream_id: int
    raw: bytes | bytearray
    """The frame with its nine-byte header."""

    @property
    def payload(self) -> bytes:
        return bytes(self.raw[HEADER_SIZE:])


def encode_frame(kind: FrameType, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame's bytes."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


def without_priority(frame: Frame) -> bytes | bytearray:
    """A HEADERS frame without the five bytes of priority that it may carry (RFC 9113, 5.3.2 and 6.2)."""
    raw = frame.raw
    at = HEADER_SIZE + (1 if frame.flags & PADDED else 0)
    if not frame.flags & PRIORITY or len(raw) < at + PRIORITY_SIZE:
        return raw
    head = (len(raw) - HEADER_SIZE - PRIORITY_SIZE).to_bytes(3) + bytes((frame.type, frame.flags & ~PRIORITY))
    return head + raw[5:at] + raw[at + PRIORITY_SIZE :]


def split_frames(data: bytes) -> Iterator[Frame]:
    """The frames of bytes that hold only whole ones, such as h2's own output."""
    position = 0
    while position < len(data):
        end = position + HEADER_SIZE + int.from_bytes(data[position : position + 3])
        stream_id = int.from_bytes(data[position + 5 : position + 9]) & 0x7FFF_FFFF
        yield Frame(data[position + 3], data[position + 4], stream_id, data[position:end])
        position = end


class Gate:
    """Cuts one direction of a connection into frames."""

    __slots__ = ("_block_stream", "_buffer", "_first", "_position", "_preface", "blocks", "max_frame_size")

    def __init__(self, *, expect_preface: bool, max_frame_size: int) -> None:
        """A gate for a peer that must (a client) or must not (a server) begin with the preface (RFC 9113, 3.4)."""
        self.max_frame_size = max_frame_size
        self._preface = PREFACE if expect_preface else b""
        self._buffer = bytearray()
        self._position = 0
        self._block_stream = 0
        self.blocks = 0
        """Header blocks that began."""
        self._first = True

    def take_in(self, data: bytes) -> None:
        """Add bytes that came from the peer."""
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
        self._buffer += data

    @property
    def unfinished(self) -> bool:
        """Whether a frame or a header block has begun that is not all there; a body's may take any time."""
        have = len(self._buffer) - self._position
        if have > TYPE_AT and self._buffer[self._position + TYPE_AT] == FrameType.DATA and not self._block_stream:
            return False
        return self._block_stream != 0 or have > 0

    @property
    def in_header_block(self) -> bool:
        """Whether a header block has begun and not ended: only its CONTINUATION may follow (RFC 9113, 4.3)."""
        return self._block_stream != 0

    @property
    def has_frame(self) -> bool:
        """Whether the next whole frame is there, or bytes that can never become one."""
        if self._preface:
            return len(self._buffer) >= len(PREFACE) or not PREFACE.startswith(self._buffer)
        have = len(self._buffer) - self._position
        if self._first and have > TYPE_AT and self._buffer[self._position + TYPE_AT] != FrameType.SETTINGS:
            return True
        if have < HEADER_SIZE:
            return False
        length = int.from_bytes(self._buffer[self._position : self._position + 3])
        return have >= HEADER_SIZE + length or length > self.max_frame_size

    def preface(self) -> bytes:
        """The preface, once and only when it is whole. Raises ProtocolViolation as soon as it cannot become one."""
        if not self._preface:
            return b""
        begun = bytes(self._buffer[: len(PREFACE)])
        if not PREFACE.startswith(begun):
            raise ProtocolViolation(f"the client does not speak HTTP/2: it began with {begun!r}{_hint(begun)}")
        if len(begun) < len(PREFACE):
            return b""
        self._preface = b""
        self._position = len(PREFACE)
        return PREFACE

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more bytes come. Raises ProtocolViolation for one that may not be."""
        buffer, position = self._buffer, self._position
        if self._preface:
            return None
        if self._first:
            self._check_first(bytes(buffer[position : position + 24]))
        if len(buffer) - position < HEADER_SIZE:
            return None
        length, kind, flags, stream_id = _HEADER.unpack_from(buffer, position)
        length = length << 8 | kind >> 8
        kind &= 0xFF
        stream_id &= 0x7FFF_FFFF
        if length > self.max_frame_size:
            raise ProtocolViolation(
                f"the peer sent a frame of {length} bytes, more than the {self.max_frame_size} that it may",
                code=ErrorCode.FRAME_SIZE_ERROR,
            )
        end = position + HEADER_SIZE + length
        if len(buffer) < end:
            return None
        self._first = False
        self._position = end
        if kind in BLOCK_TYPES:
            self.blocks += kind != FrameType.CONTINUATION
            self._block_stream = 0 if flags & END_HEADERS else stream_id
        return Frame(kind, flags, stream_id, buffer[position:end])

    def _check_first(self, begun: bytes) -> None:
        """The first frame must be SETTINGS (RFC 9113, 3.4); anything else is most likely another protocol.

        A TLS alert has seven bytes: its sender would not live to say nine.
        """
        strange = len(begun) > TYPE_AT and begun[TYPE_AT] != FrameType.SETTINGS
        if strange or (len(begun) > FLAGS_AT and begun[FLAGS_AT] & ACK):
            raise ProtocolViolation(f"the peer does not speak HTTP/2: it began with {begun!r}{_hint(begun)}")


_HTTP_1_REQUEST: Final = re.compile(rb"[A-Z]{3,7} (/|\*|http|[!-~]+:[0-9])")


def _hint(begun: bytes) -> str:
    if begun.startswith(b"HTTP/1.") or _HTTP_1_REQUEST.match(begun):
        return "; it speaks HTTP/1.1, and muxlink needs HTTP/2 with prior knowledge"
    if begun[:2] == b"\x16\x03" or begun[:2] == b"\x15\x03":
        return "; it speaks TLS, and this end is plaintext"
    return ""


_SETTING: Final = struct.Struct(">HL")
_KNOWN_SETTINGS: Final = frozenset((1, 2, 3, 4, 5, 6, 8))
"""RFC 9113, 6.5.2 and RFC 8441, 3."""
_HEADER_TABLE_SIZE: Final = 1


def known_settings(frame: Frame, *, max_table: int) -> tuple[bytes | bytearray, dict[int, int]]:
    """A SETTINGS frame without the settings that nobody knows, and what the others say.

    h2 would keep the unknown ones for ever, and let the peer's HEADER_TABLE_SIZE decide what our encoder keeps.
    """
    raw = frame.raw
    if (len(raw) - HEADER_SIZE) % _SETTING.size:
        return raw, {}  # h2 says what is wrong with it
    values: dict[int, int] = {}
    payload = b""
    for key, value in _SETTING.iter_unpack(raw[HEADER_SIZE:]):
        if key in _KNOWN_SETTINGS:
            values[key] = min(value, max_table) if key == _HEADER_TABLE_SIZE else value
            payload += _SETTING.pack(key, values[key])
    return encode_frame(FrameType.SETTINGS, frame.flags, frame.stream_id, payload), values


def promised_id(frame: Frame) -> int:
    """The stream that a PUSH_PROMISE promises (RFC 9113, 6.6); 0 where it is cut short, which h2 refuses."""
    at = HEADER_SIZE + (1 if frame.flags & PADDED else 0)
    return int.from_bytes(frame.raw[at : at + 4]) & 0x7FFF_FFFF


def check_priority(frame: Frame) -> None:
    """Raise ProtocolViolation for a PRIORITY that is none (RFC 9113, 6.3)."""
    if not frame.stream_id:
        raise ProtocolViolation("the peer sent a PRIORITY on the connection")
    if len(frame.raw) != HEADER_SIZE + PRIORITY_SIZE:
        raise ProtocolViolation("the peer sent a PRIORITY that has not 5 bytes", code=ErrorCode.FRAME_SIZE_ERROR)


def parse_ping(frame: Frame) -> bytes:
    """What a PING says (RFC 9113, 6.7). Raises ProtocolViolation."""
    if frame.stream_id:
        raise ProtocolViolation("the peer sent a PING on a stream")
    payload = frame.payload
    if len(payload) != 8:
        raise ProtocolViolation("the peer sent a PING that has not 8 bytes", code=ErrorCode.FRAME_SIZE_ERROR)
    return payload


def parse_goaway(frame: Frame) -> PeerGoAway:
    """What a GOAWAY says (RFC 9113, 6.8). Raises ProtocolViolation."""
    payload = frame.payload
    if frame.stream_id or len(payload) < 8:
        wrong = "on a stream" if frame.stream_id else "shorter than 8 bytes"
        code = ErrorCode.PROTOCOL_ERROR if frame.stream_id else ErrorCode.FRAME_SIZE_ERROR
        raise ProtocolViolation(f"the peer sent a GOAWAY {wrong}", code=code)
    last_stream_id = int.from_bytes(payload[:4]) & 0x7FFF_FFFF
    return PeerGoAway(last_stream_id, int.from_bytes(payload[4:8]), payload[8:])
