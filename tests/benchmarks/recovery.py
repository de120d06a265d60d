"""How fast a link is there again after its server was killed: python -m tests.benchmarks.recovery JOB SECONDS.

Prints figures as JSON. Servers are the bare loop's, as processes of their own.

    restart     SIGKILL it, start it again on its port so that it listens after about SECONDS: how long after that
                moment the link is READY, compared with the wait between two attempts that was under way
    failover N  with two servers and N connections: SIGKILL the one of the first connection, and the latencies of the
                requests of the next second, which come at fixed times
"""

from __future__ import annotations

import argparse
import asyncio
import json
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from actors.settings import Backoff
from supervisor.link import Link
from supervisor.link_state import Change, LinkState
from tests.benchmarks import harness, jobs

RATE: Final = 200
BEFORE: Final = 0.1
"""Seconds before the kill from which on requests count: some are under way when it happens."""
AFTER: Final = 1.0
_PATIENCE: Final = 60.0


class _Server:
    """One server's process."""

    def __init__(self, process: Process, port: int, since: float) -> None:
        self.process, self.port = process, port
        self.since = since
        """When it began to listen, by the monotonic clock, which is also the loop's."""

    def kill(self) -> None:
        self.process.kill()


@asynccontextmanager
async def _serving(port: int = 0) -> AsyncIterator[_Server]:
    command = harness.role(harness.BARE, "hello-server", at=port)
    process = await asyncio.create_subprocess_exec(*command, cwd=harness.ROOT, stdin=DEVNULL, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(harness.READY_SECONDS):
            word, where, when = (await process.stdout.readline()).split()
        if word != b"listening":
            raise harness.Failed("the server did not begin to listen")
        yield _Server(process, int(where), float(when))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _get(link: Link) -> None:
    reply = await link.request("GET", jobs.HELLO_PATH, idempotent=True, wait_for_ready=True, timeout=_PATIENCE)
    if (reply.status, reply.body) != (200, jobs.HELLO):
        raise jobs.WrongReply(reply)


async def _restart(seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    changes: list[Change] = []
    async with _serving() as first, Link(f"http://127.0.0.1:{first.port}") as link:
        watching = link.changes()
        await _get(link)
        first.kill()
        killed = loop.time()
        waiting = asyncio.create_task(_get(link))
        await asyncio.sleep(seconds)
        async with _serving(first.port) as second:
            await waiting
            answered = loop.time()
            async with asyncio.timeout(_PATIENCE):
                async for change in watching:
                    changes.append(change)
                    if change.state is LinkState.READY:
                        break
            ready = changes[-1].at
            step, attempts = _step(changes, second.since)
            return {
                "outage": second.since - killed,
                "attempts": attempts,
                "step": step,
                "ready": ready - second.since,
                "of the step": (ready - second.since) / step,
                "reply": answered - second.since,
            }


def _step(changes: list[Change], since: float) -> tuple[float, int]:
    """The wait that was under way when the server began to listen, and the attempts that had failed."""
    backoff = Backoff()
    failed = [each.at for each in changes if each.state is LinkState.TRANSIENT_FAILURE and each.at <= since]
    if not failed:
        raise harness.Failed("no attempt failed before the server was there again: make the outage longer")
    again = next(each.at for each in changes if each.at > failed[-1])
    step = again - failed[-1]
    longest = min(backoff.initial * backoff.factor ** (len(failed) - 1), backoff.maximum) * (1 + backoff.jitter)
    if step > longest + 0.5:
        raise harness.Failed(
            f"after {len(failed)} failures the link waited {step:.2f} s, and not up to {longest:.2f} s"
        )
    return step, len(failed)


async def _failover(connections: int) -> dict[str, float]:
    async with _serving() as one, _serving() as other:
        urls = [f"http://127.0.0.1:{server.port}" for server in (one, other)]
        async with Link(urls, connections=connections) as link:
            # Nothing tells that the second connection is there, too.
            while link.stats().connections_by_state.get("ready", 0) < connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(RATE):
                await _get(link)
            serving = link.stats().connection_stats[0].peer
            victim = next(server for server in (one, other) if serving.endswith(f":{server.port}"))
            latencies = await _paced(lambda: _get(link), victim.kill)
            if not link.stats().restarts:
                raise harness.Failed("the link lost no connection: the wrong server was killed")
    return {"p50": jobs.percentile(latencies, 0.5), "p99": jobs.percentile(latencies, 0.99), "worst": latencies[-1]}


async def _paced(get: Callable[[], Awaitable[None]], kill: Callable[[], None]) -> list[float]:
    """Requests at fixed times, and a kill between them: the latencies, sorted."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []

    async def one(due: float) -> None:
        await get()
        latencies.append(loop.time() - due)

    began = loop.time()
    async with asyncio.TaskGroup() as group:
        loop.call_at(began + BEFORE, kill)
        for number in range(int(RATE * (BEFORE + AFTER))):
            due = began + number / RATE
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(due))
    return sorted(latencies)


def main() -> None:
    """Do the job, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["restart", "failover"])
    parser.add_argument("amount", type=float)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=jobs.fine_loop) as runner:
        work = _restart(asked.amount) if asked.job == "restart" else _failover(int(asked.amount))
        print(json.dumps(runner.run(work)))


if __name__ == "__main__":
    main()
