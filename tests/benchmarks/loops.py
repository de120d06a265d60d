"""The yardstick: the least asyncio code that does each job well with h2. No actors, no limits, no errors told nicely.

What makes it a fair yardstick:
- one ``write`` per ``data_received``; callers' requests of one loop turn share one ``write`` (``call_soon``);
- h2 as it comes: default configuration and validation, header lists built once, as bytes;
- windows of 1 MiB for stream and connection, and data acknowledged at once (h2 then sends credit every half window);
- bulk data is written 64 KiB at a time until the window or the transport says stop, as memoryviews of one buffer
  (smaller and larger batches were tried; they are slower or no faster).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from tests.benchmarks import idle, jobs

Headers = list[tuple[bytes, bytes]]
_INITIAL_WINDOW = 65_535
_HELLO_HEADERS: Headers = [(b":status", b"200"), (b"content-length", b"%d" % len(jobs.HELLO))]
_BULK_HEADERS: Headers = [(b":status", b"200"), (b"content-length", b"%d" % jobs.BULK)]
_IDLE_HEADERS: Headers = [(b":status", b"200")]
_UPLOADED_HEADERS: Headers = [(b":status", b"200"), (b"content-length", b"0")]
# Written at a time, from one buffer that is all of the body.
_BATCH = memoryview(jobs.CHUNK)
FAILURES = (StreamReset, ConnectionTerminated)


class Loop(asyncio.Protocol):
    """What all of them have in common: an h2 connection, a transport, and a flush."""

    client_side: bool

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=self.client_side))
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: jobs.MIB})
        self.h2.increment_flow_control_window(jobs.MIB - _INITIAL_WINDOW)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)


class HelloServer(Loop):
    """Answers each request with 12 bytes, as soon as it has ended."""

    client_side = False

    def data_received(self, data: bytes) -> None:
        h2 = self.h2
        for event in h2.receive_data(data):
            if isinstance(event, StreamEnded):
                h2.send_headers(event.stream_id, _HELLO_HEADERS)
                h2.send_data(event.stream_id, jobs.HELLO, end_stream=True)
            elif isinstance(event, DataReceived):
                h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()


class IdleServer(Loop):
    """Answers small requests and reports of itself at once, and leaves all others open."""

    client_side = False

    def data_received(self, data: bytes) -> None:
        h2 = self.h2
        for event in h2.receive_data(data):
            if isinstance(event, RequestReceived):
                headers = cast(Iterable[tuple[bytes, bytes]], event.headers)
                path = next(value.decode() for name, value in headers if name == b":path")
                if (body := idle.answer(path)) is not None:
                    h2.send_headers(event.stream_id, _IDLE_HEADERS)
                    h2.send_data(event.stream_id, body, end_stream=True)
        self.flush()


class _Reply:
    __slots__ = ("body", "done", "status")

    def __init__(self, done: asyncio.Future[tuple[int, bytes]]) -> None:
        self.done = done
        self.status = 0
        self.body = b""


class Client(Loop):
    """Many callers on one connection: a future for each stream, and one write for each turn of the loop."""

    client_side = True

    def __init__(self, port: int, scheme: str = "http") -> None:
        super().__init__()
        self.port, self.scheme = port, scheme
        self.loop = asyncio.get_running_loop()
        self.replies: dict[int, _Reply] = {}
        self.flushing = False
        self.headers = request(b"GET", jobs.HELLO_PATH, port, scheme)

    async def get(self, headers: Headers | None = None) -> tuple[int, bytes]:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers or self.headers, end_stream=True)
        if not self.flushing:
            self.flushing = True
            self.loop.call_soon(self.flush)
        reply = self.replies[stream_id] = _Reply(self.loop.create_future())
        return await reply.done

    def flush(self) -> None:
        self.flushing = False
        super().flush()

    def ping_every(self, seconds: float) -> None:
        """Ask for a sign of life each time, whether anything is under way or not."""
        self.loop.call_later(seconds, self.ping_every, seconds)
        self.h2.ping(bytes(8))
        self.flush()

    def data_received(self, data: bytes) -> None:
        h2, replies = self.h2, self.replies
        for event in h2.receive_data(data):
            if isinstance(event, DataReceived):
                replies[event.stream_id].body += event.data
                h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, ResponseReceived):
                replies[event.stream_id].status = _status(event)
            elif isinstance(event, StreamEnded):
                reply = replies.pop(event.stream_id)
                reply.done.set_result((reply.status, reply.body))
            elif isinstance(event, FAILURES):
                self.fail(event)
        super().flush()

    def fail(self, event: StreamReset | ConnectionTerminated) -> None:
        raise jobs.WrongReply(event)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for reply in self.replies.values():
            reply.done.set_exception(exc or ConnectionResetError("connection lost"))


class _Bulk(Loop):
    """Moves one large body at a time, in either direction."""

    def __init__(self) -> None:
        super().__init__()
        self.sending = 0
        self.left = 0
        self.paused = False
        self.received = 0

    def send(self, stream_id: int) -> None:
        self.sending, self.left = stream_id, jobs.BULK
        self.pump()

    def pump(self) -> None:
        """Write batches until the body, the window or the transport says stop."""
        h2, stream_id, frame = self.h2, self.sending, self.h2.max_outbound_frame_size
        while self.left and not self.paused:
            room = min(self.left, len(_BATCH), h2.local_flow_control_window(stream_id))
            if not room:
                break
            for start in range(0, room, frame):
                h2.send_data(stream_id, _BATCH[start : min(start + frame, room)])
            self.left -= room
            if not self.left:
                h2.end_stream(stream_id)
            self.flush()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pump()

    def data_received(self, data: bytes) -> None:
        h2 = self.h2
        for event in h2.receive_data(data):
            if isinstance(event, DataReceived):
                self.received += len(event.data)
                h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                self.take(event)
        # A WINDOW_UPDATE or a new SETTINGS may have made room.
        self.pump()
        self.flush()

    def take(self, event: Event) -> None:
        raise NotImplementedError


class BulkServer(_Bulk):
    """Answers a GET with the large body, and a POST once its body has ended."""

    client_side = False

    def __init__(self) -> None:
        super().__init__()
        self.uploads: set[int] = set()

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            if (b":method", b"POST") in event.headers:
                self.uploads.add(event.stream_id)
        elif isinstance(event, StreamEnded):
            if event.stream_id in self.uploads:
                self.uploads.remove(event.stream_id)
                if self.received != jobs.BULK:
                    raise jobs.WrongReply(self.received)
                self.received = 0
                self.h2.send_headers(event.stream_id, _UPLOADED_HEADERS, end_stream=True)
            else:
                self.h2.send_headers(event.stream_id, _BULK_HEADERS)
                self.send(event.stream_id)


class BulkClient(_Bulk):
    """Fetches or sends one large body at a time."""

    client_side = True

    def __init__(self, port: int, scheme: str = "http") -> None:
        super().__init__()
        self.port, self.scheme = port, scheme
        self.status = 0

    def take(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self.status = _status(event)
        elif isinstance(event, StreamEnded):
            self.ended.set_result(None)
        elif isinstance(event, FAILURES):
            raise jobs.WrongReply(event)

    async def download(self) -> int:
        self.received = 0
        await self.exchange(b"GET", jobs.BULK_PATH, upload=False)
        return self.received

    async def upload(self) -> int:
        await self.exchange(b"POST", jobs.HELLO_PATH, upload=True)
        return jobs.BULK - self.left

    async def exchange(self, method: bytes, path: str, *, upload: bool) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, request(method, path, self.port, self.scheme), end_stream=not upload)
        if upload:
            self.send(stream_id)
        self.flush()
        await asyncio.wait((self.ended, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done() or self.status != 200:
            raise jobs.WrongReply(self.status)


def request(method: bytes, path: str, port: int, scheme: str) -> Headers:
    """The header list of a request to this machine."""
    return [
        (b":method", method),
        (b":scheme", scheme.encode()),
        (b":authority", b"127.0.0.1:%d" % port),
        (b":path", path.encode()),
    ]


def _status(event: ResponseReceived) -> int:
    headers = cast(Iterable[tuple[bytes, bytes]], event.headers)
    return next(int(value) for name, value in headers if name == b":status")
