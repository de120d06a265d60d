"""Watches a link that is asked, in this process or on another host: what changed, how requests ended, what is left.

``python -m tests.faults.witness LOAD`` is the other host's side: it says what it sees in lines of JSON, until its stdin
ends. Times are those of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from attrs import asdict, define, field, frozen

from actors.errors import LinkError, Outcome
from actors.settings import Backoff, Health, Limits, Tls
from supervisor.link import Link
from supervisor.link_state import Change, LinkState
from tests.faults.handler import ID, SERVER, SIZE, WAIT, answer
from tests.interop.bodies import resident_bytes

ANSWERED: Final = "Answered"
WRONG: Final = "Wrong"
"""The response of another request, or none of ours."""
RAW: Final = "Raw"
"""An exception that is none of muxlink's."""
_numbers: Final = itertools.count(1)


@frozen(kw_only=True)
class Load:
    """A link, and what it is asked, every other request idempotent.

    There are ``callers`` who ask one thing after the other, and a pace at which requests come however many are open.
    """

    urls: tuple[str, ...]
    connections: int = 1
    patient: bool = False
    """Whether requests wait for READY."""
    callers: int = 4
    pause: float = 0.01
    """Seconds between two requests of a caller."""
    pace: float = 0.05
    """Seconds between two requests of nobody in particular."""
    timeout: float = 4.0
    wait: float = 0.02
    """Seconds that the server takes over each, half more or less, so that some are always on their way."""
    cacert: str | None = None
    resolve_interval: float = 0.3

    def link(self) -> Link:
        """A link that is quick to notice: dead after a second of silence."""
        return Link(
            self.urls[0] if len(self.urls) == 1 else list(self.urls),
            connections=self.connections,
            wait_for_ready=self.patient,
            tls=None if self.cacert is None else Tls(cacert=self.cacert),
            limits=Limits(connect_timeout=1.0, settings_timeout=1.0, resolve_interval=self.resolve_interval),
            health=Health(interval=0.5, timeout=0.5, before_request=0.5, suspect=0.2),
            backoff=Backoff(initial=0.1, maximum=0.5),
        )


NOTICES: Final = 1.0
"""Seconds after which a load's link calls a silent connection dead: interval + timeout."""
SUSPECTS: Final = 0.7
"""Seconds after which it dials a replacement: interval + suspect."""


@frozen
class Changed:
    """A change of the link's state."""

    at: float
    state: str
    cause: str


@frozen
class Asked:
    """A request, and how it ended."""

    name: str
    idempotent: bool
    began: float
    ended: float
    timeout: float
    outcome: str
    """``Answered``, ``Wrong``, ``Raw``, or the outcome of its error."""
    error: str = ""
    server: str = ""


@frozen
class Left:
    """What there is more of when the link has been closed than before it was made."""

    tasks: int
    descriptors: int
    bytes: int


Seen = Changed | Asked | Left


@define(eq=False)
class Record:
    """What a witness has seen, in order."""

    changes: list[Changed] = field(factory=list)
    asked: list[Asked] = field(factory=list)
    left: Left | None = None
    tell: Callable[[Seen], object] | None = None
    _waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(factory=list)

    def add(self, seen: Seen) -> None:
        match seen:
            case Changed():
                self.changes.append(seen)
            case Asked():
                self.asked.append(seen)
            case Left():
                self.left = seen
        if self.tell is not None:
            self.tell(seen)
        for ready, waiter in self._waiting:
            if not waiter.done() and ready():
                waiter.set_result(None)

    async def until(self, ready: Callable[[], bool], *, within: float = 20.0) -> None:
        """Wait until something is seen that makes ``ready()`` true. Raises TimeoutError."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ready, waiter))
        try:
            async with asyncio.timeout(within):
                if not ready():
                    await waiter
        finally:
            self._waiting.remove((ready, waiter))

    async def answers(self, count: int, *, since: float = 0.0, within: float = 20.0) -> None:
        """Wait until so many requests that began later have been answered."""
        await self.until(lambda: sum(each.began >= since for each in self.answered) >= count, within=within)

    @property
    def answered(self) -> list[Asked]:
        return [each for each in self.asked if each.outcome == ANSWERED]

    @property
    def failed(self) -> list[Asked]:
        return [each for each in self.asked if each.outcome != ANSWERED]

    def knew(self, since: float) -> float | None:
        """Seconds until the first change away from READY, or the first error."""
        worse = [each.at for each in self.changes if each.state != LinkState.READY.name]
        errors = [each.ended for each in self.failed]
        return min((at - since for at in worse + errors if at >= since), default=None)

    def ready(self, since: float) -> float | None:
        """Seconds until the last change, if that was one to READY; 0.0 where it never was anything else."""
        later = [each for each in self.changes if each.at >= since]
        if not later:
            return 0.0 if not self.changes or self.changes[-1].state == LinkState.READY.name else None
        return later[-1].at - since if later[-1].state == LinkState.READY.name else None

    def outage(self, since: float) -> float:
        """The longest time without an answer, in seconds."""
        ends = [since, *sorted(each.ended for each in self.answered if each.ended > since)]
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=float("inf"))


def contradiction(outcome: str, idempotent: bool, served: int) -> str | None:
    """What is wrong with how a request ended, going by how often the servers have written it down."""
    if outcome in (WRONG, RAW):
        return f"ended with {outcome}"
    if outcome in (Outcome.NOT_SENT.value, Outcome.UNPROCESSED.value) and served:
        return f"is {outcome} and was served {served} times"
    if outcome in (ANSWERED, Outcome.COMPLETED.value) and not served:
        return f"is {outcome} and was not served"
    if served > 1 and not idempotent:
        return f"is not idempotent and was served {served} times"
    return None


def late(asked: Asked, slack: float) -> str | None:
    """What is wrong with when it ended."""
    took = asked.ended - asked.began
    return None if took <= asked.timeout + slack else f"ended after {took:.2f} of {asked.timeout:.2f} s"


def lies(asked: Iterable[Asked], served: Mapping[str, int], *, slack: float = 1.0) -> list[str]:
    """Which requests ended with what is not so, or later than they may."""
    found, names = [], Counter[str]()
    for each in asked:
        names[each.name] += 1
        wrong = contradiction(each.outcome, each.idempotent, served.get(each.name, 0))
        found += [f"{each.name} {why} {each.error}" for why in (wrong, late(each, slack)) if why is not None]
    return found + [f"{name} ended {count} times" for name, count in names.items() if count != 1]


async def ask(
    link: Link,
    name: str,
    *,
    idempotent: bool,
    timeout: float,
    wait: float = 0.0,
    size: int = 0,
    body: bytes = b"",
    wait_for_ready: bool | None = None,
) -> Asked:
    """Send one request, and see how it ends."""
    loop = asyncio.get_running_loop()
    began, server, why = loop.time(), "", ""
    try:
        reply = await link.request(
            "POST", "/", headers=[(ID, name), (WAIT, f"{wait:g}"), (SIZE, str(size))], body=body, timeout=timeout,
            idempotent=idempotent, wait_for_ready=wait_for_ready,
        )  # fmt: skip
    except LinkError as error:
        outcome, why = error.outcome.value, f"{type(error).__name__}: {error}"
    except Exception as error:
        outcome, why = RAW, repr(error)
    else:
        right = reply.status == 200 and reply.body == answer(name, body, size)
        outcome, server = ANSWERED if right else WRONG, reply.headers.get(SERVER) or ""
        why = "" if right else f"status {reply.status}, {len(reply.body)} bytes"
    return Asked(name, idempotent, began, loop.time(), timeout, outcome, why, server)


def descriptors() -> int:
    """How many files and sockets this process has open, without its pipes: those are its child processes'."""
    open_now = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            open_now += not os.readlink(f"/proc/self/fd/{number}").startswith("pipe:")
    return open_now


async def _watch(changes: AsyncIterator[Change], record: Record) -> None:
    async for change in changes:
        record.add(Changed(change.at, change.state.name, "" if change.cause is None else str(change.cause)))


async def _once(link: Link, load: Load, record: Record) -> None:
    number = next(_numbers)
    wait = load.wait * (0.5 + number % 7 / 6)
    name = f"{os.getpid()}-{number}"
    record.add(await ask(link, name, idempotent=number % 2 == 0, timeout=load.timeout, wait=wait))


async def _call(link: Link, load: Load, record: Record) -> None:
    while True:
        await _once(link, load, record)
        await asyncio.sleep(load.pause)


async def _keep_pace(link: Link, load: Load, record: Record) -> None:
    async with asyncio.TaskGroup() as asking:
        while True:
            asking.create_task(_once(link, load, record))
            await asyncio.sleep(load.pace)


@asynccontextmanager
async def watching(load: Load, *, tell: Callable[[Seen], object] | None = None) -> AsyncIterator[Record]:
    """Make a link, ask it and watch it; afterwards the record says what is left."""
    record = Record(tell=tell)
    before = (len(asyncio.all_tasks()), descriptors(), resident_bytes())
    link = load.link()
    changes = link.changes()
    async with link:
        tasks = [asyncio.create_task(_watch(changes, record))]
        tasks += [asyncio.create_task(_call(link, load, record)) for _ in range(load.callers)]
        tasks.append(asyncio.create_task(_keep_pace(link, load, record)))
        try:
            yield record
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    record.add(await _left(*before))


async def _left(tasks: int, files: int, size: int) -> Left:
    """What is left; sockets on the other side of which is one of our own have a moment to follow."""
    loop = asyncio.get_running_loop()
    patience = loop.time() + 2.0
    while (len(asyncio.all_tasks()) > tasks or descriptors() > files) and loop.time() < patience:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return Left(len(asyncio.all_tasks()) - tasks, descriptors() - files, resident_bytes() - size)


@asynccontextmanager
async def watching_from(prefix: tuple[str, ...], load: Load, cwd: str) -> AsyncIterator[Record]:
    """The same in a process that ``prefix`` starts, such as one on another host."""
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", "tests.faults.witness", json.dumps(asdict(load)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=cwd,
    )  # fmt: skip
    record = Record()
    hearing = asyncio.create_task(_hear(process, record))
    try:
        yield record
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(20):
            await hearing
            await process.wait()
    finally:
        hearing.cancel()
        if process.returncode is None:
            process.kill()
        await process.communicate()


KINDS: Final = {kind.__name__: kind for kind in (Changed, Asked, Left)}


async def _hear(process: asyncio.subprocess.Process, record: Record) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        kind, seen = json.loads(line)
        record.add(KINDS[kind](**seen))


async def _witness(load: Load) -> None:
    def tell(seen: Seen) -> None:
        print(json.dumps([type(seen).__name__, asdict(seen)]), flush=True)

    async with watching(load, tell=tell):
        await asyncio.to_thread(sys.stdin.read)


def main(arguments: list[str]) -> None:
    asked = json.loads(arguments[0])
    asyncio.run(_witness(Load(**{**asked, "urls": tuple(asked["urls"])})))


if __name__ == "__main__":
    main(sys.argv[1:])
