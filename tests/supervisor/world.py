"""A world without sockets for links: names, places, and what their servers say; only the link's clock passes.

Whoever enters it has the keeper's two ways out, looking names up and dialling, lead here. Bytes go both ways through
the loop, in order, without a delay.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hpack import Decoder, Encoder

from actors.addresses import Address, Endpoint
from actors.errors import ConnectFailed
from actors.tls import TlsSide
from actors.trace import Tracer
from actors.transport import SocketProtocol
from tests.support import frames
from tests.support.frames import PREFACE, Flag, Frame, Parser, Type

PORT = 80


class Wire:
    """One connection, as its server sees it, and the transport of the link's end."""

    def __init__(self, place: Place, protocol: SocketProtocol) -> None:
        self.place = place
        self.began = asyncio.get_running_loop().time()
        self.seen: list[Frame] = []
        """What the link said."""
        self.requests: list[int] = []
        """The streams that were opened and that nobody has answered."""
        self.most = 0
        """How many of them there were at most."""
        self.paths: list[str] = []
        self.authorities: list[str] = []
        self.closed = False
        self.mute = False
        """Whether nothing that it says arrives any more."""
        self._protocol = protocol
        self._parser = Parser()
        self._skip = len(PREFACE)
        self._unsaid = b""
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._loop = asyncio.get_running_loop()

    # What a server does.

    def says(self, data: bytes) -> None:
        # What it says at once arrives at once, however slow the machine is that turns the actors.
        if not self._unsaid:
            self._loop.call_soon(self._arrive)
        self._unsaid += data

    def _arrive(self) -> None:
        data, self._unsaid = self._unsaid, b""
        self._deliver(data)

    def answers(self, stream_id: int, status: int = 200, *extra: tuple[str, str]) -> None:
        """A response that is whole."""
        if stream_id in self.requests:
            self.requests.remove(stream_id)
        block = bytes(self._encoder.encode(frames.response(status, *extra)))
        self.says(frames.headers(stream_id, block, end_stream=True))

    def answers_all(self) -> None:
        for stream_id in list(self.requests):
            self.answers(stream_id)

    def goes_away(self, last: int = 0, debug: bytes = b"", code: int = 0) -> None:
        self.says(frames.goaway(last, code, debug))

    def breaks(self, error: Exception | None = None) -> None:
        """The connection is lost."""
        self._loop.call_soon(
            self._lose, ConnectionResetError(104, "Connection reset by peer") if error is None else error
        )

    def heard(self, type: int, *, ack: bool | None = None) -> list[Frame]:
        return [each for each in self.seen if each.type == type and ack in (None, each.has(Flag.ACK))]

    def _deliver(self, data: bytes) -> None:
        if not self.closed and not self.mute:
            self._protocol.data_received(data)

    def _lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.place.wires.remove(self)
            self._protocol.connection_lost(error)

    def _hear(self, data: bytes) -> None:
        skip, self._skip = self._skip, max(0, self._skip - len(data))
        for heard in self._parser.parse(data[skip:]):
            self.seen.append(heard)
            if self.place.limit is None:
                continue
            if heard.type == Type.SETTINGS and not heard.has(Flag.ACK):
                self.says(frames.settings(ack=True))
            elif heard.type == Type.PING and not heard.has(Flag.ACK):
                if self.place.answers_pings:
                    self.says(frames.ping(heard.payload, ack=True))
            elif heard.type == Type.RST_STREAM and heard.stream_id in self.requests:
                self.requests.remove(heard.stream_id)
            elif heard.type == Type.HEADERS:
                self._asked(heard)

    def _asked(self, heard: Frame) -> None:
        fields = dict(self._decoder.decode(heard.payload, raw=True))
        self.paths.append(fields[b":path"].decode())
        self.authorities.append(fields[b":authority"].decode())
        self.requests.append(heard.stream_id)
        self.most = max(self.most, len(self.requests))
        self.place.asked += 1
        if self.place.serves is not None:
            self.place.serves(self, heard.stream_id)

    # What the link's end does: an asyncio.Transport.

    def write(self, data: bytes | memoryview) -> None:
        self._loop.call_soon(self._hear, bytes(data))

    def get_extra_info(self, name: str) -> Any:
        return self.place.sockaddr if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing comes that was not called for."""

    def resume_reading(self) -> None:
        """As before."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.place.stuck:
            self.abort()

    def abort(self) -> None:
        self._loop.call_soon(self._lose, None)


def at_once(wire: Wire, stream_id: int) -> None:
    """The server answers each request as it comes."""
    wire.answers(stream_id)


def answering(status: int, *extra: tuple[str, str]) -> Callable[[Wire, int], None]:
    return lambda wire, stream_id: wire.answers(stream_id, status, *extra)


class Place:
    """One server, at one address."""

    def __init__(self, host: str, serves: Callable[[Wire, int], None] | None) -> None:
        self.sockaddr = (host, PORT)
        self.serves = serves
        """What it does with a request; None: it waits for the test."""
        self.up = True
        self.limit: int | None = 100
        """Its MAX_CONCURRENT_STREAMS; None: it says nothing at all."""
        self.answers_pings = True
        self.stuck = False
        """Whether closing a connection to it never gets done."""
        self.greets: Callable[[Wire], None] = lambda wire: None
        """What it does behind its SETTINGS."""
        self.dials: list[float] = []
        """When it was dialled."""
        self.wires: list[Wire] = []
        """Its connections now."""
        self.all: list[Wire] = []
        self.asked = 0
        """Requests that came."""


class World:
    """Names, and the places behind them; to begin with the place 10.0.0.1."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {}
        self.places: dict[str, Place] = {}
        self.lookups: list[float] = []
        self.slowly: float = 0.0
        """Seconds that a dial and a lookup take."""
        self.place()
        patch.setattr("supervisor.errands.resolve", self._resolve)
        patch.setattr("supervisor.roster.connect", self._connect)

    def place(self, host: str = "10.0.0.1", serves: Callable[[Wire, int], None] | None = at_once) -> Place:
        place = self.places[host] = Place(host, serves)
        return place

    def name(self, name: str, *hosts: str) -> None:
        """From now on the name has these addresses."""
        self.names[name] = list(hosts)

    @property
    def wires(self) -> list[Wire]:
        """All connections that there are now."""
        return [wire for place in self.places.values() for wire in place.wires]

    async def _resolve(self, endpoint: Endpoint, *, timeout: float) -> tuple[Address, ...]:
        self.lookups.append(asyncio.get_running_loop().time())
        if self.slowly:
            await asyncio.sleep(self.slowly)
        hosts = [endpoint.host] if endpoint.numeric else self.names.get(endpoint.host, [])
        if not hosts:
            raise ConnectFailed(f"no address of {endpoint.host} was found")
        return tuple(Address(endpoint, socket.AF_INET, (host, endpoint.port)) for host in hosts)

    async def _connect(
        self, tracer: Tracer, addresses: Sequence[Address], *, timeout: float, tls: TlsSide | None, user_timeout: float
    ) -> tuple[Address, SocketProtocol]:
        loop = asyncio.get_running_loop()
        if self.slowly:
            await asyncio.sleep(self.slowly)
        for address in addresses:
            place = self.places.get(str(address.sockaddr[0]))
            if place is not None:
                place.dials.append(loop.time())
                if place.up:
                    return address, self._accept(place, tracer)
        raise ConnectFailed(f"no connection to {addresses[0]}: Connection refused")

    def _accept(self, place: Place, tracer: Tracer) -> SocketProtocol:
        protocol = SocketProtocol(tracer)
        wire = Wire(place, protocol)
        place.wires.append(wire)
        place.all.append(wire)
        protocol.connection_made(cast("asyncio.Transport", wire))
        if place.limit is not None:
            wire.says(frames.settings({frames.Setting.MAX_CONCURRENT_STREAMS: place.limit}))
            place.greets(wire)
        return protocol
