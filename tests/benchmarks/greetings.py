"""A program in aioh2's manner, as its users wrote them: run with the library that it is told, old or ours.

    python -m tests.benchmarks.greetings LIBRARY server                      print "listening PORT", serve until killed
    python -m tests.benchmarks.greetings LIBRARY client PORT SECONDS CALLERS print requests per second

It imports nothing but the standard library and LIBRARY, since the old one lives in an environment of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
import time
from contextlib import suppress
from typing import Any

HELLO = b"hello, world"
PATH = "/hello"
AT_ONCE = 100
"""Streams that the server takes at a time: h2load opens as many before it has read what the server allows."""
PER_CONNECTION = 900
"""Requests that one connection has: aioh2 0.2.3 breaks after a thousand."""


async def _on_connected(proto: Any) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            stream_id, _ = await proto.recv_request()
            await proto.start_response(stream_id, [(":status", "200")])
            await proto.send_data(stream_id, HELLO, end_stream=True)


async def _serve(library: Any) -> None:
    server = await library.start_server(_on_connected, "127.0.0.1", 0, concurrency=AT_ONCE)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().create_future()


async def _get(client: Any, headers: list[tuple[str, str]]) -> None:
    stream_id = await client.start_request(headers, end_stream=True)
    head = await client.recv_response(stream_id)
    body = await client.read_stream(stream_id, -1)
    if dict(head)[":status"] != "200" or body != HELLO:
        raise SystemExit(f"not the answer that was asked for: {head}, {body!r}")


async def _connection(library: Any, port: int, callers: int) -> float:
    """Seconds for the requests of one connection, from so many tasks."""
    client = await library.open_connection("127.0.0.1", port)
    headers = [(":method", "GET"), (":scheme", "http"), (":authority", f"127.0.0.1:{port}"), (":path", PATH)]

    async def caller() -> None:
        for _ in range(PER_CONNECTION // callers):
            await _get(client, headers)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    took = time.perf_counter() - began
    client.close_connection()
    return took


async def _call(library: Any, port: int, seconds: float, callers: int) -> float:
    """Requests per second; the first connection is not counted."""
    await _connection(library, port, callers)
    took, done = 0.0, 0
    while took < seconds:
        took += await _connection(library, port, callers)
        done += PER_CONNECTION // callers * callers
    await asyncio.sleep(0.05)  # for the farewells
    return done / took


def main(name: str, role: str, *numbers: str) -> None:
    """Play a role."""
    library = importlib.import_module(name)
    logging.getLogger("aioh2").setLevel(logging.ERROR)  # it warns of each GOAWAY
    if role == "server":
        asyncio.run(_serve(library))
    port, seconds, callers = numbers
    print(json.dumps(asyncio.run(_call(library, int(port), float(seconds), int(callers)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
