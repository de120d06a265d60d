"""The work that the bare loop and ours both do, and the clock that times both alike.

``bare`` and ``ours`` are programs with the same roles; ``harness`` runs each in a process of its own:

    hello-server | bulk-server        print "listening PORT", serve until killed
    client PORT REQUESTS              print requests per second
    download|upload PORT ROUNDS       print bytes per second
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

HELLO = b"hello, world"
HELLO_PATH = "/hello"
CALLERS = 50
BULK = 200_000_000
BULK_PATH = "/bulk"
CHUNK = bytes(64 * 1024)
MIB = 1024 * 1024


class WrongReply(Exception):
    """The peer answered, but not with what the job asked for."""


def chunks() -> Iterator[bytes]:
    """The large body, in pieces of 64 KiB."""
    for _ in range(BULK // len(CHUNK)):
        yield CHUNK
    yield CHUNK[: BULK % len(CHUNK)]


async def time_requests(get: Callable[[], Awaitable[tuple[int, bytes]]], requests: int) -> float:
    """Requests per second of ``CALLERS`` tasks that share ``get``; a tenth more is done first, untimed."""

    async def caller(count: int) -> None:
        for _ in range(count):
            if (reply := await get()) != (200, HELLO):
                raise WrongReply(reply)

    async def all_callers(each: int) -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller(each))
        return CALLERS * each / (time.perf_counter() - began)

    each = max(1, requests // CALLERS)
    await all_callers(max(1, each // 10))
    return await all_callers(each)


async def time_bulk(transfer: Callable[[], Awaitable[int]], rounds: int) -> float:
    """Bytes per second of ``rounds`` transfers, one stream each, one after the other."""
    began = time.perf_counter()
    for _ in range(rounds):
        if (moved := await transfer()) != BULK:
            raise WrongReply(f"{moved} bytes instead of {BULK}")
    return rounds * BULK / (time.perf_counter() - began)


Serve = Callable[[bool], Coroutine[Any, Any, None]]
"""A server role: told whether to record."""
Run = Callable[[int, int, bool], Coroutine[Any, Any, float]]
"""A client role: told the port, the amount and whether to record."""


def main(servers: Mapping[str, Serve], clients: Mapping[str, Run]) -> None:
    """Play the role that the command line names; a client prints its rate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recorder", action="store_true")
    roles = parser.add_subparsers(dest="role", required=True)
    for name in servers:
        roles.add_parser(name)
    for name in clients:
        role = roles.add_parser(name)
        role.add_argument("port", type=int)
        role.add_argument("amount", type=int)
    asked = parser.parse_args()
    if asked.role in servers:
        asyncio.run(servers[asked.role](asked.recorder))
    else:
        print(asyncio.run(clients[asked.role](asked.port, asked.amount, asked.recorder)))
