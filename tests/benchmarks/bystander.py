"""A client that means no harm while a server is attacked: python -m tests.benchmarks.bystander PORT REQUESTS RATE.

Prints its percentiles as ``jobs.open_loop`` does, and how many requests failed: refused, lost or not answered in time.
The time that a failed one took counts like any other. A connection that was lost is made again for the next request.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

from h2.events import ConnectionTerminated, StreamReset
from h2.exceptions import ProtocolError

from tests.benchmarks import jobs
from tests.benchmarks.loops import Client

_PATIENCE: Final = 10.0


class _Client(Client):
    """A refused stream is one failure, and not the end of the connection."""

    def fail(self, event: StreamReset | ConnectionTerminated) -> None:
        if isinstance(event, StreamReset):
            self.replies.pop(event.stream_id).done.set_exception(jobs.WrongReply(event))
        else:
            self.transport.abort()


class _Bystander:
    def __init__(self, port: int) -> None:
        self.port = port
        self.client: _Client | None = None
        self.connecting = asyncio.Lock()
        self.failed = 0

    async def get(self) -> tuple[int, bytes]:
        """One request, however it ends."""
        asking = asyncio.ensure_future(self._ask())
        # A future that is cancelled would be in the way of the late answer.
        await asyncio.wait((asking,), timeout=_PATIENCE)
        if not asking.done() or not asking.result():
            self.failed += 1
        return 200, jobs.HELLO

    async def _ask(self) -> bool:
        try:
            client = await self._connected()
            return await client.get() == (200, jobs.HELLO)
        except (jobs.WrongReply, OSError, ProtocolError):
            return False

    async def _connected(self) -> _Client:
        async with self.connecting:
            if self.client is None or self.client.lost.done() or self.client.transport.is_closing():
                loop = asyncio.get_running_loop()
                _, self.client = await loop.create_connection(lambda: _Client(self.port), "127.0.0.1", self.port)
            return self.client


async def _run(port: int, requests: int, rate: float) -> dict[str, float]:
    bystander = _Bystander(port)
    found = await jobs.open_loop(bystander.get, requests, rate)
    return {**found, "failed": bystander.failed}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=jobs.fine_loop) as runner:
        print(json.dumps(runner.run(_run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
