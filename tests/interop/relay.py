"""A relay between a link and its server that writes down every frame of both, in the order in which they passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from attrs import define, field

from tests.support.frames import PREFACE, Flag, Frame, Parser, Type

Side = Literal["link", "server"]


@define(eq=False)
class Relay:
    """One port that leads to another."""

    _target: int
    port: int = 0
    passed: list[tuple[Side, Frame]] = field(factory=list)
    """Who said it, and what; a frame is written down before it is passed on."""
    _serving: set[asyncio.Task[None]] = field(factory=set)
    _writers: set[asyncio.StreamWriter] = field(factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self, side: Side, kind: Type) -> list[Frame]:
        """The frames of one type that one side has said."""
        return [frame for speaker, frame in self.passed if speaker == side and frame.type == kind]

    def most_open(self) -> int:
        """How many streams were open at a time, at most; a stream is open until the server has ended or reset it."""
        living: set[int] = set()
        most = 0
        for side, frame in self.passed:
            if side == "link" and frame.type == Type.HEADERS:
                living.add(frame.stream_id)
            elif frame.type == Type.RST_STREAM or (
                side == "server" and frame.type in (Type.HEADERS, Type.DATA) and frame.has(Flag.END_STREAM)
            ):
                living.discard(frame.stream_id)
            most = max(most, len(living))
        return most

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(writer)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(there_writer)
        await asyncio.gather(
            self._pump("link", reader, there_writer, skip=len(PREFACE)),
            self._pump("server", there_reader, writer),
        )
        writer.close()
        there_writer.close()
        self._serving.discard(task)

    async def _pump(
        self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, skip: int = 0
    ) -> None:
        parser = Parser()
        while chunk := await _heard(reader):
            self.passed += [(side, frame) for frame in parser.parse(chunk[skip:])]
            skip = max(0, skip - len(chunk))
            writer.write(chunk)
        if not writer.is_closing():
            with suppress(OSError):  # the other end was reset meanwhile
                writer.write_eof()

    async def _leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._serving)


async def _heard(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[Relay]:
    """A relay to the server at ``url``."""
    relay = Relay(int(url.rpartition(":")[2]))
    server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay._leave()
        await server.wait_closed()
