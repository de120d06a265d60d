"""The work that the bare loop and ours both do, and the clock that times both alike.

``bare`` and ``ours`` are programs with the same roles; ``harness`` runs each in a process of its own:

    hello-server | bulk-server | idle-server | echo-server (bare) | flood-server (ours)
                                        print "listening PORT WHEN" (by the monotonic clock), serve until killed
    client PORT REQUESTS                print requests per second
    download|upload PORT ROUNDS         print bytes per second
    latency PORT REQUESTS --rate RATE   print percentiles, in seconds (see ``open_loop``)
    idle PORT REQUESTS                  print what both sides use (see ``idle``)
    link PORT REQUESTS                  print requests per second, and the processor's time for each
    rest|rest-pinging PORT SECONDS      print what idle links use (see ``resting``)
    spread PORT STREAMS                 print what one more stream costs (see ``echoes``)

``--at PORT`` says where a server listens; ``--tls FOLDER`` names the folder of the certificates (see ``certificates``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

HELLO = b"hello, world"
HELLO_PATH = "/hello"
CALLERS = 50
STREAMS = 100
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
    return (await cost_requests(get, requests))["rate"]


async def cost_requests(get: Callable[[], Awaitable[tuple[int, bytes]]], requests: int) -> dict[str, float]:
    """The same, and the processor's seconds for each request."""

    async def caller(count: int) -> None:
        for _ in range(count):
            if (reply := await get()) != (200, HELLO):
                raise WrongReply(reply)

    async def all_callers(each: int) -> dict[str, float]:
        began, used = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller(each))
        done = CALLERS * each
        return {"rate": done / (time.perf_counter() - began), "cpu": (time.process_time() - used) / done}

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


async def open_loop(get: Callable[[], Awaitable[tuple[int, bytes]]], requests: int, rate: float) -> dict[str, float]:
    """Percentiles of the latencies of requests that come at fixed times, however long the earlier ones take.

    A latency counts from the time that was set for its request, so that a stall counts for all requests that it delays.
    As many as every server allows by default are open at a time; the next wait, and their time runs. The first tenth of
    the requests is not counted.
    """
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    free = asyncio.Semaphore(STREAMS)

    async def one(due: float) -> None:
        async with free:
            if (reply := await get()) != (200, HELLO):
                raise WrongReply(reply)
        latencies.append(loop.time() - due)

    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(requests):
            due = began + number / rate
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(due))
    counted = sorted(latencies[requests // 10 :])
    return {"p50": percentile(counted, 0.5), "p99": percentile(counted, 0.99), "worst": counted[-1]}


def percentile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]


@frozen(kw_only=True)
class Options:
    """What a role is told beside its port and amount."""

    recorder: bool
    tls: Path | None
    rate: float
    at: int = 0

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"


Serve = Callable[[Options], Coroutine[Any, Any, None]]
"""A server role."""
Run = Callable[[int, int, Options], Coroutine[Any, Any, float | dict[str, float]]]
"""A client role: told the port, the amount and the options."""


def main(servers: Mapping[str, Serve], clients: Mapping[str, Run]) -> None:
    """Play the role that the command line names; a client prints its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recorder", action="store_true")
    parser.add_argument("--tls", type=Path, default=None)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--at", type=int, default=0)
    roles = parser.add_subparsers(dest="role", required=True)
    for name in servers:
        roles.add_parser(name)
    for name in clients:
        role = roles.add_parser(name)
        role.add_argument("port", type=int)
        role.add_argument("amount", type=int)
    asked = parser.parse_args()
    options = Options(recorder=asked.recorder, tls=asked.tls, rate=asked.rate, at=asked.at)
    allow_sockets()
    if asked.role in servers:
        asyncio.run(servers[asked.role](options))
        return
    with asyncio.Runner(loop_factory=fine_loop if options.rate else None) as runner:
        print(json.dumps(runner.run(clients[asked.role](asked.port, asked.amount, options))))


def listening(port: int) -> None:
    """Say that a server listens now."""
    print("listening", port, time.monotonic(), flush=True)


def allow_sockets() -> None:
    """As many as this user may have: a thousand links take more than is usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def fine_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact to some microseconds."""
    # epoll sleeps for whole milliseconds, which would be most of a latency.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())
