"""What a process says of its flight recorder: a program with two jobs, of which each prints its figures as JSON.

python -m tests.benchmarks.recorded flags            tests of the flag a request, and seconds for one of them
python -m tests.benchmarks.recorded memory on|off    bytes of 1,000 links and a server, and what the ring did
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

from actors.server_stream import ServerStream
from actors.trace import Tracer, flight_recorder
from supervisor.link import Link
from supervisor.server import Server
from tests.benchmarks import idle, jobs

LINKS: Final = 1000
REQUESTS: Final = 10
"""Requests of each link, with which the ring drops more than it holds."""
RING: Final = 16 * jobs.MIB
_AT_A_TIME: Final = 20
_COUNTED: Final = 2000
_TIMED: Final = 200_000
_TRIES: Final = 15


async def _hello(stream: ServerStream) -> None:
    await stream.respond(200, body=jobs.HELLO)


async def _ask(link: Link) -> None:
    reply = await link.request("GET", jobs.HELLO_PATH)
    if (reply.status, reply.body) != (200, jobs.HELLO):
        raise jobs.WrongReply(reply)


# --- flags ------------------------------------------------------------------------------------------------------------


@contextmanager
def _counted(tracer: Tracer) -> Iterator[list[int]]:
    """Count how often anybody looks whether ``tracer`` is on."""
    plain: Any = vars(Tracer)["on"]
    looks = [0]

    def look(asked: Tracer) -> bool:
        looks[0] += asked is tracer
        on: bool = plain.__get__(asked)
        return on

    kind: Any = Tracer
    kind.on = property(look, plain.__set__)
    try:
        yield looks
    finally:
        kind.on = plain


async def _flags() -> dict[str, float]:
    """The tests that a server makes for a request, as many of them at a time as with h2load."""
    async with Server(_hello, record=False) as server, Link(f"http://127.0.0.1:{server.port}", record=False) as link:
        await _ask(link)
        with _counted(server.tracer) as looks:
            for _ in range(_COUNTED // jobs.STREAMS):
                await asyncio.gather(*(_ask(link) for _ in range(jobs.STREAMS)))
    return {"tests": looks[0] / _COUNTED, "test": min(_seconds_a_test() for _ in range(_TRIES))}


class _Actor:
    """Has a tracer, as an actor has."""

    __slots__ = ("tracer",)

    def __init__(self) -> None:
        self.tracer = Tracer()


def _seconds_a_test() -> float:
    """Seconds for one test of the flag, and for the look whether a message is an entry that goes with some."""
    actor, message, rounds = _Actor(), object(), range(_TIMED)
    began = time.process_time()
    for _ in rounds:
        pass
    empty = time.process_time()
    for _ in rounds:
        if actor.tracer.on or type(message) is list:
            raise AssertionError("nobody traces")
    return (time.process_time() - empty - (empty - began)) / _TIMED


# --- memory -----------------------------------------------------------------------------------------------------------


async def _memory(record: bool) -> dict[str, float]:
    """Links and a server that do what fills the ring, whether it is there or not, and then nothing."""
    recorder = flight_recorder(asyncio.get_running_loop())
    recorder.max_bytes = RING
    async with Server(_hello, record=record) as server, AsyncExitStack() as stack:
        links: list[Link] = []
        for _ in range(0, LINKS, _AT_A_TIME):
            new = [Link(f"http://127.0.0.1:{server.port}", record=record) for _ in range(_AT_A_TIME)]
            links += await asyncio.gather(*map(stack.enter_async_context, new))
        for _ in range(REQUESTS):
            for first in range(0, LINKS, _AT_A_TIME):
                await asyncio.gather(*map(_ask, links[first : first + _AT_A_TIME]))
        return {
            "resident": idle.report().resident,
            "events": len(recorder),
            "dropped": recorder.dropped,
            "counted": recorder.bytes,
        }


def main() -> None:
    """Do the job, and print what came of it."""
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="job", required=True)
    roles.add_parser("flags")
    roles.add_parser("memory").add_argument("recorder", choices=["on", "off"])
    asked = parser.parse_args()
    jobs.allow_sockets()
    print(json.dumps(asyncio.run(_flags() if asked.job == "flags" else _memory(asked.recorder == "on"))))


if __name__ == "__main__":
    main()
