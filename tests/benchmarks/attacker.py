"""A hostile client in a process of its own: python -m tests.benchmarks.attacker ATTACK PORT SECONDS.

Prints "attacking" when it begins, and in the end what it did, as JSON. A connection that the server ends is made again
at once. What it sends and how often it connects is capped, so that its own work does not hide the server's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Final, cast

from tests.benchmarks import attacks
from tests.benchmarks.attacks import Attack
from tests.support.frames import Code, Parser, Type

FRAMES_PER_SECOND: Final = 50_000
CONNECTIONS_PER_SECOND: Final = 200
_BUFFER: Final = 64 * 1024
_UNTOLD: Final = "no GOAWAY seen"


class _Line(asyncio.Protocol):
    """One connection: looks for GOAWAY in what comes, and says when it may be written to."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.parser = Parser()
        self.said: str | None = None
        """What the server ended it with."""
        self.over = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_BUFFER)
        self.transport.write(attacks.begins(self.attack.settings))
        if not self.attack.reads:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        for frame in self.parser.parse(data):
            if frame.type == Type.GOAWAY and self.said is None:
                self.said = Code(frame.code).name
                self.end()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    def end(self) -> None:
        self.over.set()
        self.writable.set()
        self.transport.abort()


class _Attacker:
    """All connections of an attack, and the count of what they did."""

    def __init__(self, attack: Attack, port: int, seconds: float) -> None:
        self.attack, self.port = attack, port
        self.began = time.monotonic()
        self.until = self.began + seconds
        self.frames = 0
        self.connects = 0
        self.ends: Counter[str] = Counter()

    async def run(self) -> None:
        try:
            async with asyncio.timeout(self.until - time.monotonic()), asyncio.TaskGroup() as lines:
                for _ in range(self.attack.connections):
                    lines.create_task(self._again_and_again())
        except TimeoutError:
            return

    async def _again_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._at(self.connects / CONNECTIONS_PER_SECOND)
            self.connects += 1
            try:
                _, line = await loop.create_connection(lambda: _Line(self.attack), "127.0.0.1", self.port)
            except OSError as error:
                self.ends[f"refused: {type(error).__name__}"] += 1
                continue
            try:
                await self._attack(line)
                await line.over.wait()
                self.ends[line.said or _UNTOLD] += 1
            finally:
                line.transport.abort()

    async def _attack(self, line: _Line) -> None:
        for data, frames in self.attack.bursts():
            await self._at(self.frames / FRAMES_PER_SECOND)
            await line.writable.wait()
            if line.over.is_set():
                return
            line.transport.write(data)
            self.frames += frames
            await asyncio.sleep(0)  # for what came meanwhile

    async def _at(self, due: float) -> None:
        """Keep to a rate: wait until ``due`` seconds have passed."""
        if (early := self.began + due - time.monotonic()) > 0:
            await asyncio.sleep(early)


def main() -> None:
    """Attack, and print what was done."""
    name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    attack = next(attack for attack in attacks.ALL if attack.name == name)
    attacker = _Attacker(attack, port, seconds)
    print("attacking", flush=True)
    asyncio.run(attacker.run())
    print(json.dumps({"frames": attacker.frames, "connects": attacker.connects, "ends": attacker.ends}))


if __name__ == "__main__":
    main()
