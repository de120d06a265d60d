"""A server of ours in a thread of its own, for tests of blocking clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from actors.server_stream import Handler, ServerStream
from actors.settings import Limits, Tls
from supervisor.server import Server

T = TypeVar("T")

LONG: Final = bytes(range(256)) * 4096
"""A mebibyte."""
LINES: Final = b"one\ntwo\n\nlast without an end"


class InThread:
    """A server that runs in its own loop, and what the test asks of it."""

    def __init__(self, handler: Handler, options: dict[str, Any]) -> None:
        self.port = 0
        self._handler = handler
        self._options = options
        self._loop: asyncio.AbstractEventLoop
        self._leave: asyncio.Event
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="served")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        async with Server(self._handler, **self._options) as self._server:
            self.port = self._server.port
            self._up.set()
            await self._leave.wait()

    def do(self, what: Callable[[Server], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine makes of the server, in its loop."""
        return asyncio.run_coroutine_threadsafe(what(self._server), self._loop).result(10)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._leave.set)
            self._thread.join(20)
            assert not self._thread.is_alive()


@contextmanager
def in_thread(handler: Handler, *, tls: Tls | None = None, **options: Any) -> Iterator[InThread]:
    """A server of ours that drains for as short a time as can be."""
    options.setdefault("limits", Limits(drain_timeout=0.0))
    served = InThread(handler, {**options, "tls": tls})
    served.start()
    try:
        yield served
    finally:
        served.stop()


async def answers(stream: ServerStream) -> None:
    """Answers by the path; everything but GET and HEAD with what it was sent."""
    if stream.method not in ("GET", "HEAD"):
        await echo(stream)
        return
    match stream.path.partition("?")[0]:
        case "/long":
            await stream.respond(200, body=LONG)
        case "/lines":
            await stream.respond(200, body=LINES)
        case "/json":
            await stream.respond(200, {"content-type": "application/json; charset=utf-8"}, body=b'{"a": ["\xc3\xa9"]}')
        case "/gzip":
            await stream.respond(200, {"content-encoding": "gzip"}, body=gzip.compress(LONG))
        case "/deflate":
            await stream.respond(200, {"content-encoding": "deflate"}, body=zlib.compress(LONG))
        case "/broken":
            await stream.respond(200, {"content-encoding": "gzip"}, body=b"this is no gzip at all")
        case "/bomb":
            await stream.respond(200, {"content-encoding": "gzip"}, body=BOMB)
        case "/trailers":
            await stream.respond(200, body=b"before", trailers=[("x-sum", "7"), ("x-more", "a, b")])
        case "/headers":
            said = [(name.decode(), value.decode("latin-1")) for name, value in stream.headers]
            await stream.respond(200, body=json.dumps([[":authority", stream.authority], *said]).encode())
        case "/several":
            await stream.respond(200, [("x-one", "1"), ("set-cookie", "a=1, 2"), ("set-cookie", "b=3"), ("x-one", "2")])
        case "/silent":
            await stream.draining()
        case "/half":
            await stream.start_response(200)
            await stream.send(b"half")
            await stream.draining()
        case "/reset":
            await stream.start_response(200)
            await stream.send(b"some")
            stream.reset(2)
        case _:
            await stream.respond(200, body=stream.path.encode())


async def echo(stream: ServerStream) -> None:
    await stream.start_response(200, {"x-length": stream.headers.get("content-length") or "none"})
    async for chunk in stream:
        await stream.send(chunk)


def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(256)), packer.flush()])


BOMB: Final = _bomb()
"""256 MiB of zeros in a quarter of a MiB."""
