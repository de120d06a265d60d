"""Raw HTTP/2 frames, and a peer that speaks them: the tests' own, independent of the packages under test.

A helper builds exactly the bytes that it is asked for, valid or not. A `RawPeer` answers nothing by itself.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum, IntFlag
from types import TracebackType
from typing import Final, Self

from attrs import evolve, frozen
from hpack import Decoder, Encoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Fields = list[tuple[bytes, bytes]]


class Type(IntEnum):
    """Frame types (RFC 9113, 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    ALTSVC = 10


class Flag(IntFlag):
    """Frame flags; ACK and END_STREAM are the same bit."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """Settings (RFC 9113, 6.5.2; RFC 8441)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


class Code(IntEnum):
    """Error codes (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


@frozen
class Frame:
    """One frame as it stood on the wire."""

    type: int
    flags: int
    stream_id: int
    payload: bytes
    fields: Fields | None = None
    """The decoded header block, on the frame that ended it (set by a RawPeer)."""

    def has(self, flag: Flag) -> bool:
        return bool(self.flags & flag)

    @property
    def increment(self) -> int:
        """The credit of a WINDOW_UPDATE."""
        return self._word(0) & 0x7FFFFFFF

    @property
    def last_stream_id(self) -> int:
        """The last stream that a GOAWAY answers for."""
        return self._word(0) & 0x7FFFFFFF

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        return self._word(4 if self.type == Type.GOAWAY else 0)

    @property
    def body(self) -> bytes:
        """The data of a DATA frame, without its padding."""
        if not self.has(Flag.PADDED):
            return self.payload
        return self.payload[1 : len(self.payload) - self.payload[0]]

    @property
    def settings(self) -> dict[int, int]:
        """What a SETTINGS frame sets."""
        pairs: Iterable[tuple[int, int]] = struct.iter_unpack(">HL", self.payload)
        return dict(pairs)

    def _word(self, at: int) -> int:
        return int.from_bytes(self.payload[at : at + 4])

    def __str__(self) -> str:
        return f"{_name(self.type)}(stream {self.stream_id}, flags {self.flags:#04x}, {len(self.payload)} bytes)"


def _name(type: int) -> str:
    try:
        return Type(type).name
    except ValueError:
        return f"type {type:#x}"


class Parser:
    """Cuts bytes into frames, however they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def parse(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while len(self._buffer) >= 9:
            end = 9 + int.from_bytes(self._buffer[:3])
            if len(self._buffer) < end:
                break
            kind, flags, stream_id = struct.unpack_from(">BBL", self._buffer, 3)
            frames.append(Frame(kind, flags, stream_id & 0x7FFFFFFF, bytes(self._buffer[9:end])))
            del self._buffer[:end]
        return frames


def frame(type: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """One frame; ``length`` lets its header lie about the payload."""
    size = len(payload) if length is None else length
    return size.to_bytes(3) + struct.pack(">BBL", type, flags, stream_id) + payload


def settings(values: Mapping[int, int] | None = None, *, ack: bool = False) -> bytes:
    payload = b"".join(struct.pack(">HL", key, value) for key, value in (values or {}).items())
    return frame(Type.SETTINGS, Flag.ACK if ack else 0, 0, payload)


def ping(data: bytes = b"\0" * 8, *, ack: bool = False) -> bytes:
    return frame(Type.PING, Flag.ACK if ack else 0, 0, data)


def goaway(last_stream_id: int, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(Type.GOAWAY, 0, 0, struct.pack(">LL", last_stream_id, code) + debug)


def rst(stream_id: int, code: int = Code.CANCEL) -> bytes:
    return frame(Type.RST_STREAM, 0, stream_id, struct.pack(">L", code))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(Type.WINDOW_UPDATE, 0, stream_id, struct.pack(">L", increment))


def data(stream_id: int, body: bytes = b"", *, end_stream: bool = False, padding: int | None = None) -> bytes:
    """A DATA frame; ``padding`` is the number of padding bytes (0 still adds the length byte)."""
    flags = Flag.END_STREAM if end_stream else Flag(0)
    if padding is not None:
        flags |= Flag.PADDED
        body = bytes([padding]) + body + bytes(padding)
    return frame(Type.DATA, flags, stream_id, body)


def headers(stream_id: int, block: bytes, *, end_stream: bool = False, end_headers: bool = True) -> bytes:
    """A HEADERS frame around a block from `encode()` or from a peer's encoder."""
    flags = (Flag.END_STREAM if end_stream else Flag(0)) | (Flag.END_HEADERS if end_headers else Flag(0))
    return frame(Type.HEADERS, flags, stream_id, block)


def continuation(stream_id: int, block: bytes, *, end_headers: bool = True) -> bytes:
    return frame(Type.CONTINUATION, Flag.END_HEADERS if end_headers else 0, stream_id, block)


def push_promise(stream_id: int, promised_id: int, block: bytes, *, end_headers: bool = True) -> bytes:
    flags = Flag.END_HEADERS if end_headers else 0
    return frame(Type.PUSH_PROMISE, flags, stream_id, struct.pack(">L", promised_id) + block)


def encode(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """A header block that stands alone: it refers to nothing that an earlier block put into a table."""
    return bytes(Encoder().encode([(_bytes(name), _bytes(value)) for name, value in fields]))


def request(method: str = "GET", path: str = "/", *extra: tuple[str, str], authority: str = "test") -> Fields:
    """The fields of a request, in order."""
    pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
    return [(_bytes(name), _bytes(value)) for name, value in (*pseudo, *extra)]


def response(status: int = 200, *extra: tuple[str, str]) -> Fields:
    """The fields of a response, in order."""
    return [(_bytes(name), _bytes(value)) for name, value in ((":status", str(status)), *extra)]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


class RawPeer:
    """One end of a connection that says what it is told and remembers what it hears.

    Leaving it as a context manager closes the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, server: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._server = server
        self._parser = Parser()
        self._unread: deque[Frame] = deque()
        self._block = b""
        self.seen: list[Frame] = []
        """Every frame that arrived, in order."""
        self.preface = b""
        """What a server's peer has shown as its preface."""
        self.encoder = Encoder()
        self.decoder = Decoder()

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        return cls(*await asyncio.open_connection(host, port), server=False)

    @classmethod
    async def connect_unix(cls, path: str) -> Self:
        return cls(*await asyncio.open_unix_connection(path), server=False)

    @staticmethod
    def listen(host: str = "127.0.0.1", port: int = 0, *, path: str | None = None) -> "RawListener":
        """A listener to enter; it hands out the peers that connect."""
        return RawListener(host, port, path)

    def send(self, data: bytes) -> None:
        """Queue bytes for the socket."""
        self._writer.write(data)

    def send_headers(
        self, stream_id: int, fields: Iterable[tuple[str | bytes, str | bytes]], *, end_stream: bool = False
    ) -> None:
        """Send a HEADERS frame, encoded with this connection's table."""
        block = self.encoder.encode([(_bytes(name), _bytes(value)) for name, value in fields])
        self.send(headers(stream_id, bytes(block), end_stream=end_stream))

    async def drain(self) -> None:
        """Wait until the socket has room, as `StreamWriter.drain`."""
        await self._writer.drain()

    async def handshake(self, values: Mapping[int, int] | None = None) -> dict[int, int]:
        """Exchange the preface, SETTINGS and both acknowledgements; return the other side's settings."""
        self.send((b"" if self._server else PREFACE) + settings(values))
        theirs = await self.expect(Type.SETTINGS, where=lambda frame: not frame.has(Flag.ACK))
        self.send(settings(ack=True))
        await self.expect(Type.SETTINGS, where=lambda frame: frame.has(Flag.ACK))
        return theirs.settings

    async def expect(
        self,
        type: int,
        stream_id: int | None = None,
        *,
        where: Callable[[Frame], bool] = lambda _: True,
        timeout: float = 5.0,
    ) -> Frame:
        """The next frame that matches and was not expected before; others stay, to be expected later."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for found in self._unread:
                        if found.type == type and stream_id in (None, found.stream_id) and where(found):
                            self._unread.remove(found)
                            return found
                    if not await self._hear():
                        raise self._missing(type, stream_id, "the connection ended")
        except TimeoutError:
            raise self._missing(type, stream_id, f"{timeout} s passed") from None

    async def expect_headers(self, stream_id: int | None = None, *, timeout: float = 5.0) -> Fields:
        """The decoded fields of the next whole HEADERS block."""
        head = await self.expect(Type.HEADERS, stream_id, timeout=timeout)
        while head.fields is None:
            head = await self.expect(Type.CONTINUATION, head.stream_id, timeout=timeout)
        return head.fields

    async def expect_body(self, stream_id: int, *, timeout: float = 5.0) -> bytes:
        """The data of a stream up to a DATA frame with END_STREAM; returns no credit."""
        body = bytearray()
        while True:
            part = await self.expect(Type.DATA, stream_id, timeout=timeout)
            body += part.body
            if part.has(Flag.END_STREAM):
                return bytes(body)

    async def barrier(self, data: bytes = b"barrier!") -> None:
        """Ping and wait for the answer: what the other side said before it is then in `seen`."""
        self.send(ping(data))
        await self.expect(Type.PING, where=lambda frame: frame.has(Flag.ACK) and frame.payload == data)

    async def expect_end(self, *, timeout: float = 5.0) -> None:
        """Wait until the other side has closed or reset the connection."""
        try:
            async with asyncio.timeout(timeout):
                while await self._hear():
                    pass
        except TimeoutError:
            raise AssertionError(f"still open after {timeout} s; {self._heard()}") from None

    def end(self) -> None:
        """Close the sending half."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Drop the connection, with whatever was queued."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection; again does nothing."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _hear(self) -> bool:
        """Take in what arrives next; False at the end."""
        try:
            chunk = await self._reader.read(65536)
        except OSError:
            return False
        if not chunk:
            return False
        if self._server and len(self.preface) < len(PREFACE):
            start = self.preface + chunk
            self.preface, chunk = start[: len(PREFACE)], start[len(PREFACE) :]
            if not PREFACE.startswith(self.preface):
                raise AssertionError(f"this is no preface: {self.preface!r}")
        for heard in map(self._decode, self._parser.parse(chunk)):
            self.seen.append(heard)
            self._unread.append(heard)
        return True

    def _decode(self, heard: Frame) -> Frame:
        """Every block goes through the decoder, in order, or its table is lost."""
        if heard.type not in (Type.HEADERS, Type.PUSH_PROMISE, Type.CONTINUATION):
            return heard
        part = heard.payload
        if heard.type != Type.CONTINUATION:
            if heard.has(Flag.PADDED):
                part = part[1 : len(part) - part[0]]
            if heard.type == Type.PUSH_PROMISE:
                part = part[4:]
            elif heard.has(Flag.PRIORITY):
                part = part[5:]
        self._block += part
        if not heard.has(Flag.END_HEADERS):
            return heard
        fields = [(bytes(name), bytes(value)) for name, value in self.decoder.decode(self._block, raw=True)]
        self._block = b""
        return evolve(heard, fields=fields)

    def _missing(self, type: int, stream_id: int | None, why: str) -> AssertionError:
        stream = "" if stream_id is None else f" on stream {stream_id}"
        return AssertionError(f"no {_name(type)}{stream}: {why}; {self._heard()}")

    def _heard(self) -> str:
        return "seen: " + (", ".join(map(str, self.seen[-20:])) or "nothing")


class RawListener:
    """Accepts connections as RawPeers; leaving it closes them all."""

    def __init__(self, host: str, port: int, path: str | None) -> None:
        self._host = host
        self._path = path
        self._server: asyncio.Server | None = None
        self._waiting: asyncio.Queue[RawPeer] = asyncio.Queue()
        self.port = port
        """The port that it listens on, once entered."""
        self.peers: list[RawPeer] = []
        """Everyone who ever connected."""

    async def accept(self, *, timeout: float = 5.0) -> RawPeer:
        """The next peer that connected."""
        try:
            async with asyncio.timeout(timeout):
                return await self._waiting.get()
        except TimeoutError:
            raise AssertionError(f"nobody connected within {timeout} s") from None

    async def __aenter__(self) -> Self:
        if self._path is None:
            self._server = await asyncio.start_server(self._connected, self._host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._connected, self._path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            await peer.close()
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer, server=True)
        self.peers.append(peer)
        self._waiting.put_nowait(peer)
