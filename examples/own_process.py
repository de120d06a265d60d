"""A process of one's own, whatever it is written in, as a child of a supervisor, next to an actor that reads its log.

Run it with ``python -m examples.own_process``.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import ClassVar

from attrs import frozen

from actors.actor import ask, get_state
from actors.errors import ProcessFailed
from actors.mailbox import Reply, Understood
from actors.settings import Backoff
from actors.turns import TurnActor
from supervisor.restart import ChildSpec, Restart
from supervisor.tree import Supervisor
from supervisor.workers.process import ProcessSpec, describe

PROGRAM = """
import sys, time
print("at work", file=sys.stderr, flush=True)
time.sleep(3600)
"""


@frozen
class Wrote:
    lines: bytes


@frozen
class WhenWritten:
    times: int
    reply: Reply[None]


class Diary(TurnActor[Wrote | WhenWritten]):
    """Knows how often the process has said that it is at work, and tells who waits for that."""

    understands: ClassVar[Understood] = Wrote | WhenWritten

    def begin(self) -> None:
        self.written = 0
        self.waiting: list[WhenWritten] = []

    def receive(self, message: Wrote | WhenWritten) -> None:
        match message:
            case Wrote(lines):
                self.written += lines.count(b"at work\n")
            case WhenWritten():
                self.waiting.append(message)

    def settle(self) -> None:
        for each in self.waiting:
            if self.written >= each.times:
                each.reply.tell(None)


async def main() -> None:
    logging.getLogger("muxlink").setLevel(logging.CRITICAL)  # or the log says what is printed here
    diary = Diary("diary")
    program = ProcessSpec(
        "worker",
        [sys.executable, "-c", PROGRAM],
        backoff=Backoff(initial=0.1),
        relay=lambda lines: diary.tell(Wrote(lines)),
    )
    async with Supervisor([ChildSpec("diary", lambda: diary, Restart.TEMPORARY), program.child()]) as tree:
        await ask(diary.ref, lambda reply: WhenWritten(1, reply), timeout=30)
        print("worker: at work")
        first = await get_state(await tree.find_child("worker"))
        os.kill(int(first.detail["pid"] or 0), signal.SIGKILL)
        await ask(diary.ref, lambda reply: WhenWritten(2, reply), timeout=30)
        [_, worker] = await tree.which_children()
        if isinstance(worker.reason, ProcessFailed) and worker.reason.returncode is not None:
            print(f"worker: it {describe(worker.reason.returncode)}, and said last: {worker.reason.last_lines}")
        print(f"worker: {worker.state}, restarts: {worker.restarts}")
        second = await get_state(await tree.find_child("worker"))
    try:
        os.kill(int(second.detail["pid"] or 0), 0)
    except ProcessLookupError:
        print("worker: gone with its supervisor")


if __name__ == "__main__":
    asyncio.run(main())
