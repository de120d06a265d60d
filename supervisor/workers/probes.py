"""gRPC's health checking protocol (``grpc.health.v1.Health``), as the handler of a small server in the parent.

What Kubernetes, Envoy and gRPC's own clients ask: Check once, or Watch for as long as they like. Follows gRPC's
``health-checking.md``, ``PROTOCOL-HTTP2.md``, ``statuscodes.md`` and ``compression.md``. The two messages are so small
that they are read and written by hand: see protobuf's "Encoding".
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from attrs import Factory, define

from actors.server_stream import ServerStream
from actors.settings import KiB, Limits, MiB

MAX_MESSAGE: Final = 4 * KiB
"""Bytes of a request; the name of a service fits well."""
READ_TIMEOUT: Final = 5.0
"""Seconds in which a request must be whole, so that none holds a place without asking anything."""
MAX_PENDING: Final = 16
"""Changes that are kept for a watcher who takes none; of more, two that cancel each other are left out."""
MAX_GROUPS: Final = 100
"""Groups within groups that a message may have; protobuf's own limit."""

CHECK: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"
LIVENESS: Final = "liveness"
READINESS: Final = ("", "readiness")

_HEAD: Final = (("content-type", "application/grpc"),)
_PREFIX: Final = struct.Struct(">BL")
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

Fields = list[tuple[str, str]]


class Status(IntEnum):
    """How a service is (``HealthCheckResponse.ServingStatus``)."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3
    """Said to watchers only."""


class Code(IntEnum):
    """A grpc-status."""

    OK = 0
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Refused(Exception):
    """A call that is answered with a status instead of a message."""

    def __init__(self, code: Code, why: str, *more: tuple[str, str]) -> None:
        """``why`` is ASCII without percent signs, as grpc-message needs it; ``more`` are further fields."""
        super().__init__(why)
        self.code = code
        self.fields: Fields = [("grpc-status", str(int(code))), ("grpc-message", why), *more]


def limits() -> Limits:
    """What the server of the probes keeps to: many may come, none may stay without asking, and none gets much.

    No flood from one address locks out the others: of the places, and of the handlers, an address has a sixteenth,
    above which it is closed at once. Whoever says nothing gives its place back in 2 s, whoever asks nothing more in 15.
    A listener that strangers reach through a proxy, which gives all of them its own address, needs a firewall.
    """
    return Limits(
        max_connections=512, max_connections_per_peer=32, max_handlers=2048, max_handlers_per_peer=128,
        process_bytes=16 * MiB, stream_window=16 * KiB, max_stream_window=16 * KiB,
        connection_window=65_535, max_connection_window=65_535, send_buffer=4 * KiB, connection_send_buffer=64 * KiB,
        max_header_list=8 * KiB, max_header_block=8 * KiB, max_request_body=MAX_MESSAGE + _PREFIX.size,
        settings_timeout=2.0, header_block_timeout=2.0, frame_timeout=5.0, body_timeout=5.0, write_timeout=5.0,
        idle_timeout=15.0, drain_timeout=1.0,
    )  # fmt: skip


# --- what is answered -------------------------------------------------------------------------------------------------


@define(eq=False)
class _Watcher:
    """One who wants to hear of each change."""

    follows: bool
    """Whether its service is one that changes."""
    said: Status
    """What it was told last, or will have been."""
    pending: deque[Status] = Factory(deque)
    news: asyncio.Event = Factory(asyncio.Event)

    def tell(self, status: Status) -> None:
        self.said = status
        self.pending.append(status)
        if len(self.pending) > MAX_PENDING:
            # Of two states one is said after the other: without the oldest two the rest still is a row of changes.
            self.pending.popleft()
            self.pending.popleft()
        self.news.set()


class Probes:
    """Answers for the services ``""`` and ``readiness``, which are as ``is_ready`` says, and for ``liveness``."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        """``is_ready`` is asked at each Check and each :meth:`changed`."""
        self._is_ready = is_ready
        self._watchers: set[_Watcher] = set()
        self._closed = False

    @property
    def watchers(self) -> int:
        """Watches that are open."""
        return len(self._watchers)

    def changed(self) -> None:
        """Look whether readiness has changed, and tell each watcher who was told something else."""
        now = self._readiness()
        for watcher in self._watchers:
            if watcher.follows and watcher.said != now:
                watcher.tell(now)

    def close(self) -> None:
        """End all watches, once they were told what they had to be told, and answer UNAVAILABLE from now on."""
        self._closed = True
        for watcher in self._watchers:
            watcher.news.set()

    async def handler(self, stream: ServerStream) -> None:
        """Answer one call; to be given to a server with :func:`limits`."""
        if not await _speaks_grpc(stream):
            return
        try:
            seconds = seconds_of(stream.headers.get("grpc-timeout"))
            deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
            if stream.path not in (CHECK, WATCH):
                raise Refused(Code.UNIMPLEMENTED, "grpc.health.v1.Health has Check and Watch here")
            service = await _requested(stream, deadline)
            status = self._status(service)
            if stream.path == CHECK and status is Status.SERVICE_UNKNOWN:
                raise Refused(Code.NOT_FOUND, "unknown service: there are readiness, liveness and the empty name")
        except Refused as refused:
            await stream.respond(200, [*_HEAD, *refused.fields])  # a head alone: what gRPC calls trailers-only
            return
        if stream.path == CHECK:
            await stream.respond(200, _HEAD, framed(status), [("grpc-status", "0")])
        else:
            await self._watch(stream, _Watcher(service in READINESS, status, deque([status])), deadline)

    async def _watch(self, stream: ServerStream, watcher: _Watcher, deadline: float | None) -> None:
        end = Refused(Code.UNAVAILABLE, "the process ends")
        self._watchers.add(watcher)
        try:
            await stream.start_response(200, _HEAD)
            async with asyncio.timeout_at(deadline):
                while True:
                    watcher.news.clear()
                    while watcher.pending:
                        await stream.send(framed(watcher.pending.popleft()))
                    if self._closed:
                        break
                    await watcher.news.wait()
        except TimeoutError:
            end = _late()
        finally:
            self._watchers.discard(watcher)
        await stream.end(end.fields)

    def _readiness(self) -> Status:
        return Status.SERVING if self._is_ready() else Status.NOT_SERVING

    def _status(self, service: str) -> Status:
        if self._closed:
            raise Refused(Code.UNAVAILABLE, "the process ends")
        if service in READINESS:
            return self._readiness()
        return Status.SERVING if service == LIVENESS else Status.SERVICE_UNKNOWN


# --- gRPC over HTTP/2 -------------------------------------------------------------------------------------------------


async def _speaks_grpc(stream: ServerStream) -> bool:
    """Whether it is a gRPC request; any other gets its answer here."""
    media, _, _ = (stream.headers.get("content-type") or "").partition(";")
    if media.strip().lower() not in ("application/grpc", "application/grpc+proto"):
        await stream.respond(415, [("content-type", "text/plain")], b"this is gRPC: grpc.health.v1.Health\n")
    elif stream.method != "POST":
        await stream.respond(405, [("content-type", "text/plain"), ("allow", "POST")], b"gRPC calls are POST\n")
    else:
        return True
    return False


def seconds_of(timeout: str | None) -> float | None:
    """What a grpc-timeout says; None where there is none. Raises Refused."""
    if timeout is None:
        return None
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise Refused(Code.INTERNAL, "malformed grpc-timeout")
    return int(found[1]) * _UNITS[found[2]]


async def _requested(stream: ServerStream, deadline: float | None) -> str:
    """The service that is asked for, from a body with exactly one message. Raises Refused."""
    body = bytearray()
    soon = asyncio.get_running_loop().time() + READ_TIMEOUT
    try:
        async with asyncio.timeout_at(soon if deadline is None else min(soon, deadline)):
            while chunk := await stream.read(MAX_MESSAGE):
                body += chunk
                # A length that is too much is told at once, and so is whatever comes after a whole message.
                if len(body) >= _PREFIX.size and len(body) > _PREFIX.size + _length(body):
                    raise Refused(Code.UNIMPLEMENTED, "a call has one message, and more came")
    except TimeoutError:
        raise _late() from None
    if len(body) < _PREFIX.size:
        if body:
            raise Refused(Code.INTERNAL, "the request ends within a message's prefix")
        raise Refused(Code.UNIMPLEMENTED, "a call has one message, and none came")
    if len(body) < _PREFIX.size + _length(body):
        raise Refused(Code.INTERNAL, "the request ends within its message")
    if body[0]:
        raise _compressed(stream.headers.get("grpc-encoding"))
    return decode_request(bytes(body[_PREFIX.size :]))


def _length(body: bytearray) -> int:
    """The length that a message's prefix tells. Raises Refused where it is too much."""
    length: int = _PREFIX.unpack_from(body)[1]
    if length > MAX_MESSAGE:
        raise Refused(Code.RESOURCE_EXHAUSTED, f"a request has at most {MAX_MESSAGE} bytes")
    return length


def _compressed(encoding: str | None) -> Refused:
    """What a compressed message gets, as ``compression.md`` has it."""
    if encoding in (None, "", "identity"):
        return Refused(Code.INTERNAL, "the Compressed-Flag is set, and grpc-encoding names no compression")
    return Refused(Code.UNIMPLEMENTED, "messages are taken uncompressed", ("grpc-accept-encoding", "identity"))


def _late() -> Refused:
    return Refused(Code.DEADLINE_EXCEEDED, "the time is up")


# --- protobuf ---------------------------------------------------------------------------------------------------------


def framed(status: Status) -> bytes:
    """A HealthCheckResponse as it stands in a body, behind its prefix."""
    message = bytes((0x08, status)) if status else b""  # proto3 leaves out what is zero
    return _PREFIX.pack(0, len(message)) + message


def decode_request(message: bytes) -> str:
    """The service of a HealthCheckRequest; fields that are not known are skipped. Raises Refused."""
    service, groups, at, end = "", list[int](), 0, len(message)
    while at < end:
        tag, at = _varint(message, at, bits=32)
        number = tag >> 3
        if not number:
            raise _malformed()
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at, bits=31)
                if number == 1 and not groups:
                    service = _text(message[at : at + size])  # of several the last one holds
                at += size
            case 3 if len(groups) < MAX_GROUPS:
                groups.append(number)
            case 4 if groups and groups.pop() == number:
                pass
            case 5:
                at += 4
            case _:
                raise _malformed()
    if at > end or groups:
        raise _malformed()
    return service


def _varint(message: bytes, at: int, *, bits: int = 64) -> tuple[int, int]:
    """A number in groups of seven bits, the least first, and the place behind it. Raises Refused.

    What is above 64 bits is cut off, as protobuf has it; numbers of fewer ``bits`` must fit.
    """
    value = 0
    for shift in range(0, bits, 7):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            if bits < 64 and value >> bits:
                break
            return value, at
    raise _malformed()


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _malformed() from None


def _malformed() -> Refused:
    return Refused(Code.INTERNAL, "the request is no HealthCheckRequest")
