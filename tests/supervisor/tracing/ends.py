"""A link and a server whose clocks are apart, each with a trace of its own; the server may be in another process."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from attrs import define, field

from actors.server_stream import Handler, ServerStream
from actors.settings import Tls
from actors.trace import Recorder
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing.jsonl import save
from supervisor.tracing.records import Trace
from supervisor.tracing.snapshot import snapshot

FAR: Final = 1000.0
"""Seconds that a clock may be ahead."""


def ahead_by(seconds: float) -> Callable[[], float]:
    """A clock that is ahead of the monotonic one."""
    return lambda: time.monotonic() + seconds


def taped(who: Link | Server, clock: Callable[[], float], max_bytes: int) -> Recorder:
    """Give it a clock, and a ring of its own."""
    recorder = Recorder(max_bytes)
    who.tracer.clock = clock
    who.tracer.record(recorder)
    return recorder


@define
class Ends:
    """Both ends, and what they remember."""

    link: Link
    server: Server
    of_link: Recorder
    of_server: Recorder
    clock: Callable[[], float]
    """The server's."""
    names: tuple[str, str] = field(default=("client", "server"))

    def traces(self) -> tuple[Trace, Trace]:
        """What each remembers now."""
        return (
            snapshot(self.of_link, process=self.names[0]),
            snapshot(self.of_server, process=self.names[1], clock=self.clock),
        )


@asynccontextmanager
async def both_ends(
    handler: Handler,
    *,
    ahead: float = FAR,
    path: str | None = None,
    tls: tuple[Tls, Tls] | None = None,
    connections: int = 1,
    max_bytes: tuple[int, int] = (2**22, 2**22),
) -> AsyncIterator[Ends]:
    """A link to a server whose clock is ahead; ``tls`` is the server's and the link's, ``max_bytes`` the other way."""
    clock = ahead_by(ahead)
    server = Server(handler, path=path, tls=tls[0] if tls else None, record=False)
    of_server = taped(server, clock, max_bytes[1])
    async with server:
        url = f"https://localhost:{server.port}" if tls else server.url
        link = Link(url, connections=connections, tls=tls[1] if tls else None, record=False)
        of_link = taped(link, time.monotonic, max_bytes[0])
        async with link:
            yield Ends(link, server, of_link, of_server, clock)


async def echo(stream: ServerStream) -> None:
    """Answer with what came."""
    await stream.respond(200, body=await stream.read())


@asynccontextmanager
async def far_server(path: Path, ahead: float) -> AsyncIterator[str]:
    """The address of a server in another process, whose trace is in ``path`` afterwards; its clock is ahead."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(path), str(ahead), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.stdin.close()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        # Its pipes are closed a turn later.
        await process.stdout.read()
        await asyncio.sleep(0)


async def serve_until_told(path: str, ahead: float) -> None:
    """Serve, and write down what was remembered once the standard input ends."""
    clock = ahead_by(ahead)
    server = Server(echo, record=False)
    recorder = taped(server, clock, 2**22)
    async with server:
        print(json.dumps(server.url), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    save(snapshot(recorder, process="muxlink", clock=clock), path)


if __name__ == "__main__":
    asyncio.run(serve_until_told(sys.argv[1], float(sys.argv[2])))
