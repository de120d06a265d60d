"""``muxlink demo``: a server process, a link to it, many requests at a time, and what it took."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TextIO

from actors.errors import ConnectFailed, ProtocolViolation
from actors.server_stream import ServerStream
from supervisor.link import Link

START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 10.0
PROGRESS_INTERVAL: Final = 0.05


async def hello(stream: ServerStream) -> None:
    """Greets whoever the request's body names, and says in trailers how long the name is."""
    name = await stream.read()
    await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])


async def run(requests: int, callers: int, out: TextIO) -> None:
    """Tell the story on ``out``, with a progress line where that is a terminal. Raises LinkError where it is not so."""
    async with server_process() as (process, url):
        print(f"server    process {process.pid} serves {url}", file=out)
        began = time.perf_counter()
        async with Link(url) as link:
            print(f"link      ready in {_ms(time.perf_counter() - began)}", file=out)
            began = time.perf_counter()
            times = await _ask(link, requests, callers, out)
            took = time.perf_counter() - began
        times.sort()
        rate = len(times) / took
        print(f"requests  {len(times):,} of {requests:,} answered in {took:.2f} s ({rate:,.0f}/s)", file=out)
        print(f"          {min(callers, requests)} at a time, multiplexed over 1 connection", file=out)
        middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"latency   half within {_ms(middle)}, 99 % within {_ms(late)}", file=out)
    print(f"closed    the server process drained and ended with {process.returncode}", file=out)
    if process.returncode != 0:
        raise ConnectFailed(f"the server process ended with {process.returncode}, not 0")


async def _ask(link: Link, requests: int, callers: int, out: TextIO) -> list[float]:
    """Send them all, check each answer, and return the seconds that each took."""
    times: list[float] = []
    numbers = iter(range(requests))

    async def caller() -> None:
        for number in numbers:
            name = b"request %d" % number
            began = time.perf_counter()
            reply = await link.request("POST", "/hello", body=name, timeout=30)
            times.append(time.perf_counter() - began)
            if reply.body != b"hello, " + name or reply.trailers.get("len") != str(len(name)):
                raise ProtocolViolation(f"request {number} got the answer {reply.body[:40]!r}")

    async with asyncio.TaskGroup() as group:
        progress = group.create_task(_progress(times, requests, out)) if out.isatty() else None
        async with asyncio.TaskGroup() as all_callers:
            for _ in range(min(callers, requests)):
                all_callers.create_task(caller())
        if progress is not None:
            progress.cancel()
    return times


async def _progress(times: list[float], requests: int, out: TextIO) -> None:
    width = 30
    try:
        for mark in itertools.cycle("|/-\\"):
            filled = width * len(times) // requests
            bar = "#" * filled + "." * (width - filled)
            print(f"\r{mark} [{bar}] {len(times):,} of {requests:,}", end="", file=out, flush=True)
            await asyncio.sleep(PROGRESS_INTERVAL)
    finally:
        print("\r\x1b[2K", end="", file=out, flush=True)


@asynccontextmanager
async def server_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A ``muxlink serve`` of :func:`hello` in a process of its own, and its URL; it is stopped on leaving."""
    process = await asyncio.create_subprocess_exec(
        # -P: the working directory may hold packages of the same names.
        sys.executable, "-P", "-m", "supervisor.cli", "serve", "supervisor.demo:hello", "--bind", "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, await _url_of(process)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except (TimeoutError, asyncio.CancelledError):
                process.kill()
                await process.wait()
                raise


async def _url_of(process: asyncio.subprocess.Process) -> str:
    """What the server process says that it serves."""
    if process.stdout is None:
        raise ConnectFailed("the server process has no output to read its address from")
    try:
        async with asyncio.timeout(START_TIMEOUT):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        raise ConnectFailed(f"the server process was not ready within {START_TIMEOUT:g} s") from None
    if not line.startswith("serving "):
        raise ConnectFailed(f"the server process did not start: {line or 'it said nothing'}")
    return line.removeprefix("serving ")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
