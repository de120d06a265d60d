"""Links to a server of several processes: python -m tests.benchmarks.visitors spread|stay PORT AMOUNT.

Prints figures as JSON.

    spread LINKS    links of one connection each: how many of them each process serves, by its id
    stay SECONDS    prints "staying"; a link makes requests at fixed times all the while, and newcomers one each, on a
                    connection of their own: latencies of the link's, and what was refused or failed
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

from actors.errors import ConnectFailed, LinkError
from supervisor.link import Link
from tests.benchmarks import attacks, jobs, served
from tests.support.frames import Flag, Parser, Type, encode, headers, request

RATE: Final = 100
NEWCOMERS: Final = 20
"""Each second."""
_PATIENCE: Final = 10.0
_ASKS: Final = attacks.begins(b"") + headers(1, encode(request("GET", jobs.HELLO_PATH)), end_stream=True)


async def _spread(port: int, links: int) -> dict[str, float]:
    served_by: Counter[str] = Counter()
    async with AsyncExitStack() as open_links:
        for _ in range(links):
            link = await open_links.enter_async_context(Link(f"http://127.0.0.1:{port}"))
            reply = await link.request("GET", served.PID_PATH, timeout=_PATIENCE)
            served_by[reply.body.decode()] += 1
    return dict(served_by)


async def _ask_once(port: int) -> bytes:
    """A connection of its own, one request, and the end of both; a GOAWAY that is not about it is passed over."""
    # h2 would do no more on a connection that is told that it will end.
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_ASKS)
        parser, body = Parser(), b""
        while data := await reader.read(65_536):
            for frame in parser.parse(data):
                if frame.stream_id != 1:
                    continue
                if frame.type == Type.RST_STREAM:
                    raise jobs.WrongReply(frame)
                if frame.type == Type.DATA:
                    body += frame.body
                if frame.has(Flag.END_STREAM):
                    return body
        raise ConnectionResetError("the connection ended before its reply")
    finally:
        writer.transport.abort()


class _Stay:
    """All requests of one stay, and what became of them."""

    def __init__(self, port: int, link: Link) -> None:
        self.port, self.link = port, link
        self.loop = asyncio.get_running_loop()
        self.latencies: list[float] = []
        self.ends: Counter[str] = Counter()

    async def ask(self, due: float) -> None:
        """One of the link's requests; the time of one that fails counts like any other."""
        try:
            reply = await self.link.request("GET", jobs.HELLO_PATH, timeout=_PATIENCE)
            self.ends["right" if (reply.status, reply.body) == (200, jobs.HELLO) else "failed"] += 1
        except ConnectFailed as error:
            self.note("refused", error)
        except LinkError as error:
            self.note("failed", error)
        self.latencies.append(self.loop.time() - due)

    async def come(self, _due: float) -> None:
        """One newcomer."""
        try:
            async with asyncio.timeout(_PATIENCE):
                self.ends["right" if await _ask_once(self.port) == jobs.HELLO else "failed"] += 1
        except ConnectionRefusedError as error:
            self.note("refused", error)
        except (jobs.WrongReply, OSError) as error:  # a TimeoutError is one, too
            self.note("failed", error)

    def note(self, end: str, error: Exception) -> None:
        self.ends[end] += 1
        self.ends[f"{end}: {type(error).__name__}: {error}"] += 1


async def _paced(do: Callable[[float], Coroutine[Any, Any, None]], rate: float, seconds: float) -> None:
    """Begin at fixed times, however long the earlier ones take."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * rate)):
            due = began + number / rate
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            group.create_task(do(due))


async def _stay(port: int, seconds: float) -> dict[str, float]:
    async with Link(f"http://127.0.0.1:{port}") as link:
        for _ in range(RATE):
            await link.request("GET", jobs.HELLO_PATH)
        stay = _Stay(port, link)
        print("staying", flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(_paced(stay.ask, RATE, seconds))
            group.create_task(_paced(stay.come, NEWCOMERS, seconds))
    latencies = sorted(stay.latencies)
    return {
        **dict.fromkeys(("right", "refused", "failed"), 0),
        **stay.ends,
        "p50": jobs.percentile(latencies, 0.5),
        "p99": jobs.percentile(latencies, 0.99),
        "worst": latencies[-1],
    }


def main() -> None:
    """Do the job, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["spread", "stay"])
    parser.add_argument("port", type=int)
    parser.add_argument("amount", type=float)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=jobs.fine_loop) as runner:
        work = _spread(asked.port, int(asked.amount)) if asked.job == "spread" else _stay(asked.port, asked.amount)
        print(json.dumps(runner.run(work)))


if __name__ == "__main__":
    main()
