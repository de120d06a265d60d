"""A link among random faults for a long time: ``python -m tests.faults.soak --seed N --minutes M``.

A link with several connections leads through proxies to two server processes, each of which suffers faults of its own,
while some 20 callers ask. In the end every request must have ended once, with an outcome that the servers' logs do not
contradict, and nothing may be left. The seed makes the faults and the requests; when they meet is the machine's doing.
Exits 1 where anything is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from actors.trace import flight_recorder
from supervisor.link import Link
from supervisor.link_state import LinkState
from tests.faults.ledger import OUTCOMES, Ledger, idempotent
from tests.faults.processes import ServerProcess, server_process
from tests.faults.proxy import Proxy, Way
from tests.faults.report import ROOM
from tests.faults.witness import ANSWERED, Load, ask, descriptors
from tests.interop.bodies import resident_bytes
from tests.support.certificates import Authority

CALLERS: Final = 20
CONNECTIONS: Final = 4
LONGEST: Final = 2.5
"""Seconds that a fault lasts at most."""
LONGEST_TIMEOUT: Final = 4.0
WARM_UP: Final = 0.5
"""The share of the time after which memory is as large as it should be; TLS takes a while to have all its buffers."""
MOST_OBJECTS: Final = 3_000
"""Objects that may be left in caches, of some 50,000."""
RECOVERS: Final = 15.0
"""Seconds after the last fault within which all is well."""
TICK: Final = 0.05


@define(eq=False)
class Service:
    """A server process, the proxy before it, and what is done to them."""

    server: ServerProcess
    proxy: Proxy
    dice: random.Random
    tls: bool
    suffered: Counter[str] = field(factory=Counter)

    async def suffer(self, until: float) -> None:
        """One fault after the other; the last one ends by itself."""
        # Wrong bytes that no checksum finds are right ones to HTTP/2.
        kinds = [kind for kind in FAULTS if self.tls or kind is not _corrupt]
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self.dice.uniform(0.2, 3.0))
            kind = self.dice.choice(kinds)
            self.suffered[kind.__name__.strip("_")] += 1
            await kind(self)

    async def last(self) -> None:
        """Let a fault last, and end it."""
        await asyncio.sleep(self.dice.uniform(0.1, LONGEST))
        self.proxy.heal()


async def _cut(service: Service) -> None:
    service.proxy.cut()


async def _reset(service: Service) -> None:
    service.proxy.reset()


async def _truncate(service: Service) -> None:
    service.proxy.truncate(service.dice.choice(list(Way)), service.dice.randrange(20_000))


async def _corrupt(service: Service) -> None:
    service.proxy.corrupt(service.dice.choice(list(Way)), service.dice.randrange(20_000))


async def _forget(service: Service) -> None:
    service.proxy.forget()
    await service.last()


async def _swallow(service: Service) -> None:
    service.proxy.swallow(*service.dice.choice(((Way.UP,), (Way.DOWN,), tuple(Way))))
    await service.last()


async def _hang(service: Service) -> None:
    service.proxy.hang()
    service.proxy.cut()
    await service.last()


async def _refuse(service: Service) -> None:
    service.proxy.refuse()
    service.proxy.reset()
    await service.last()


async def _slow(service: Service) -> None:
    service.proxy.delay(service.dice.uniform(0.0, 0.3), bandwidth=service.dice.uniform(50_000, 1_000_000))
    await service.last()


async def _kill(service: Service) -> None:
    await service.server.kill()
    await service.server.start()


async def _terminate(service: Service) -> None:
    await service.server.terminate()
    await service.server.start()


async def _stop(service: Service) -> None:
    service.server.stop()
    await service.last()
    service.server.go_on()


FAULTS: Final[tuple[Callable[[Service], Awaitable[None]], ...]] = (
    *(_cut, _reset, _truncate, _corrupt, _forget, _swallow, _hang, _refuse, _slow, _kill, _terminate, _stop),
)


@define(eq=False)
class Soak:
    """One run."""

    seed: int
    seconds: float
    link: Link
    services: Sequence[Service]
    ledger: Ledger = field(factory=Ledger)
    changes: int = 0
    lag: float = 0.0
    """The longest time by which our own loop was late, in seconds."""
    grown: int = 0
    """Bytes by which the process has grown since it was warm."""
    complaints: list[str] = field(factory=list)

    async def run(self) -> None:
        """Ask, suffer, and let it end well."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._tick())]
        suffering = [asyncio.create_task(service.suffer(until)) for service in self.services]
        callers = [asyncio.create_task(self._call(random.Random(f"{self.seed}-{n}"), until)) for n in range(CALLERS)]
        await asyncio.sleep(self.seconds * WARM_UP)
        warm = resident_bytes()
        await asyncio.gather(*suffering)
        for service in self.services:
            service.proxy.heal()
        await asyncio.wait(callers, timeout=LONGEST_TIMEOUT + self.ledger.slack)
        self.grown = resident_bytes() - warm
        await self._recover()
        for task in (*callers, *watching):
            task.cancel()
        for ended in await asyncio.gather(*callers, *watching, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
                raise ended

    async def _call(self, dice: random.Random, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            number = self.ledger.begin()
            asking = asyncio.create_task(
                ask(
                    self.link, str(number), idempotent=idempotent(number), timeout=dice.uniform(0.2, LONGEST_TIMEOUT),
                    wait=dice.choice((0.0, 0.0, 0.02, 0.2)), size=dice.choice((0, 100, 20_000, 100_000)),
                    body=dice.randbytes(dice.choice((0, 10, 1_000, 40_000))), wait_for_ready=dice.random() < 0.5,
                )
            )  # fmt: skip
            if dice.random() < 0.02:
                await asyncio.wait((asking,), timeout=dice.uniform(0.0, 0.1))
                asking.cancel()
            try:
                await asyncio.wait((asking,))
            finally:
                asking.cancel()
            self.ledger.end(number, None if asking.cancelled() else asking.result())
            await asyncio.sleep(dice.uniform(0.0, 0.05))

    async def _recover(self) -> None:
        """All is well again: the next requests are answered, over a link that is READY."""
        loop = asyncio.get_running_loop()
        until = loop.time() + RECOVERS
        well = 0
        while well < CALLERS and loop.time() < until:
            number = self.ledger.begin()
            asked = await ask(self.link, str(number), idempotent=idempotent(number), timeout=LONGEST_TIMEOUT)
            self.ledger.end(number, asked)
            well = well + 1 if asked.outcome == ANSWERED else 0
            await asyncio.sleep(TICK)
        if well < CALLERS or self.link.state is not LinkState.READY:
            self.complaints.append(f"the link was {self.link.state.name} {RECOVERS:g} s after the last fault")

    async def _watch(self) -> None:
        async for _ in self.link.changes():
            self.changes += 1

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.lag = max(self.lag, loop.time() - due)
            self.ledger.slack = max(self.ledger.slack, 1.0 + self.lag)

    def judge(self, tasks: int, files: int, objects: int) -> list[str]:
        """What is not as it should be, once the link is closed."""
        found = self.complaints + self.ledger.judge(service.server.log for service in self.services)
        if tasks > 0:
            found.append(f"{tasks} tasks are left: {', '.join(task.get_name() for task in asyncio.all_tasks())}")
        if files > 0:
            found.append(f"{files} descriptors are left")
        if objects > MOST_OBJECTS:
            found.append(f"{objects} objects are left")
        if self.grown > ROOM:
            found.append(f"memory has grown by {self.grown >> 20} MiB")
        return found

    def table(self) -> str:
        """What happened."""
        outcomes = self.ledger.outcomes()
        lines = [f"{'outcome':<18}{'idempotent':>12}{'not':>12}"]
        for outcome in OUTCOMES:
            if outcomes[outcome, True] or outcomes[outcome, False]:
                lines.append(f"{outcome:<18}{outcomes[outcome, True]:>12,}{outcomes[outcome, False]:>12,}")
        faults = sum((service.suffered for service in self.services), Counter[str]())
        lines += [
            *(
                f"{count:>7} {kind.partition(' ')[0]}, {self.ledger.examples[kind]}"
                for kind, count in self.ledger.errors.most_common()
            ),
            "faults   " + ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())),
            f"link     {self.changes} changes of state; memory {self.grown / (1 << 20):+.1f} MiB since it was warm; "
            f"our own loop was late by {self.lag * 1000:.0f} ms at most",
        ]
        return "\n".join(lines)


@frozen(kw_only=True)
class Result:
    """How a run went."""

    table: str
    complaints: list[str]


def _census() -> tuple[int, int, int]:
    """How many tasks, descriptors and objects there are."""
    gc.collect()
    return len(asyncio.all_tasks()), descriptors(), len(gc.get_objects())


async def soak(seed: int, seconds: float, folder: Path, *, tls: bool = False) -> Result:
    """One run, from nothing to nothing."""
    authority = Authority(folder) if tls else None
    # What it holds grows until it is full: here that is before anything is counted.
    flight_recorder(asyncio.get_running_loop()).max_bytes = 64 * 1024
    async with AsyncExitStack() as stack:
        services = []
        for number in range(2):
            options: tuple[str, ...] = ()
            if authority is not None:
                cert, key = authority.issue()
                options = ("--certfile", cert, "--keyfile", key)
            server = await stack.enter_async_context(server_process(folder, f"server-{number}", options=options))
            proxy = await stack.enter_async_context(Proxy(server.port))
            services.append(Service(server, proxy, random.Random(f"{seed}-{server.name}"), tls))
        before = _census()
        load = Load(
            urls=tuple(service.proxy.url.replace("http", "https" if tls else "http") for service in services),
            connections=CONNECTIONS, cacert=None if authority is None else authority.file,
        )  # fmt: skip
        async with load.link() as link:
            run = Soak(seed, seconds, link, services)
            await run.run()
        until = asyncio.get_running_loop().time() + 2.0
        while asyncio.get_running_loop().time() < until and len(asyncio.all_tasks()) > before[0]:  # noqa: ASYNC110
            await asyncio.sleep(TICK)  # the proxies' connections follow
        complaints = run.judge(*(after - was for after, was in zip(_census(), before, strict=True)))
        return Result(table=run.table(), complaints=complaints)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak",
        description="Ask a link among random faults, and see that all that it says is so.",
    )
    parser.add_argument("--seed", type=int, help="begin with this seed (default: another one each time)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--tls", action="store_true", help="over TLS, with bytes that come out wrong, too")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}{' --tls' if options.tls else ''}, {options.minutes:g} minutes", flush=True)
    logging.getLogger("muxlink").setLevel(logging.ERROR)  # each refused attempt is a warning
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(soak(seed, options.minutes * 60, Path(folder), tls=options.tls))
    print(result.table)
    for complaint in result.complaints:
        print(f"! {complaint}")
    print("clean" if not result.complaints else f"{len(result.complaints)} complaints")
    return 1 if result.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
