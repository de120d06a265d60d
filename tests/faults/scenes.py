"""The faults, each as it is acted out: a link under load, a fault, its end, and what became of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from attrs import evolve, field, frozen

from actors.errors import Outcome
from tests.faults.network import NAME, SERVERS, first_address, names, network
from tests.faults.processes import server_process
from tests.faults.proxy import Way
from tests.faults.report import Bounds, Finding
from tests.faults.stage import WARM, Stage, direct, distant, proxied
from tests.faults.witness import NOTICES, SUSPECTS, Load, watching_from
from tests.interop.peers import ROOT

LASTS: Final = 1.9
"""Seconds; longer than SILENCE, so that only a PING can tell in time."""
SOON: Final = 0.5
"""Seconds for what needs no timer."""
SILENCE: Final = NOTICES * 1.1 + SOON
"""Seconds after which a link has noticed that nobody answers (H2)."""
REFUSED: Final = frozenset(outcome.value for outcome in (Outcome.NOT_SENT, Outcome.MAYBE_PROCESSED))


# --- a proxy's faults -------------------------------------------------------------------------------------------------


async def cut(folder: Path) -> Stage:
    """The connection is closed."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.cut()
    return stage


async def reset(folder: Path) -> Stage:
    """The connection is reset."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.reset()
    return stage


async def truncate(folder: Path) -> Stage:
    """The connection ends in the middle of a frame."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.truncate(Way.DOWN, 1_003)
    return stage


async def corrupt_answers(folder: Path) -> Stage:
    """A frame from the server has a wrong length."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.corrupt(Way.DOWN)
    return stage


async def corrupt_requests(folder: Path) -> Stage:
    """A frame to the server has a wrong length."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.corrupt(Way.UP)
    return stage


async def forget(folder: Path) -> Stage:
    """The connection is silent from now on, and a new one works."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.forget()
        await stage.recover()
        proxy.heal()  # so that its own end of it is not what is left
    return stage


async def _swallowed(folder: Path, *ways: Way) -> Stage:
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.swallow(*ways)
        await stage.lasts(LASTS)
        stage.heal()
        proxy.heal()
    return stage


async def swallow_both(folder: Path) -> Stage:
    """Nothing passes, in either direction."""
    return await _swallowed(folder)


async def swallow_requests(folder: Path) -> Stage:
    """Nothing reaches the server."""
    return await _swallowed(folder, Way.UP)


async def swallow_answers(folder: Path) -> Stage:
    """Nothing comes from the server, which acts on what it hears."""
    return await _swallowed(folder, Way.DOWN)


async def hang(folder: Path) -> Stage:
    """The connection is cut, and new ones hang."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.hang()
        proxy.cut()
        await stage.lasts(LASTS)
        stage.heal()
        proxy.heal()
    return stage


async def refuse(folder: Path) -> Stage:
    """The connection is cut, and new ones are refused."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.refuse()
        proxy.cut()
        await stage.lasts(LASTS)
        stage.heal()
        proxy.heal()
    return stage


async def slow(folder: Path) -> Stage:
    """Everything comes 0.2 s late, at 200 kB/s."""
    async with proxied(folder) as (stage, proxy):
        stage.strike()
        proxy.delay(0.2, bandwidth=200_000)
        await stage.lasts(LASTS)
        stage.heal()
        proxy.heal()
    return stage


# --- a process's faults -----------------------------------------------------------------------------------------------


async def kill(folder: Path) -> Stage:
    """The server is killed, and started again; requests wait for it."""
    async with direct(folder, patient=True) as stage:
        stage.strike()
        await stage.servers[0].kill()
        await stage.servers[0].start()
        stage.heal()
    return stage


async def terminate(folder: Path) -> Stage:
    """The server drains and ends, and is started again; requests wait for it."""
    async with direct(folder, patient=True) as stage:
        stage.strike()
        await stage.servers[0].terminate()
        await stage.servers[0].start()
        stage.heal()
    return stage


async def _stopped(folder: Path, seconds: float) -> Stage:
    async with direct(folder) as stage:
        stage.strike()
        stage.servers[0].stop()
        await stage.lasts(seconds)
        stage.heal()
        stage.servers[0].go_on()
    return stage


async def stop_shortly(folder: Path) -> Stage:
    """The server is stopped, for less than interval + timeout."""
    return await _stopped(folder, 0.6 * NOTICES)


async def stop(folder: Path) -> Stage:
    """The server is stopped, for longer than interval + timeout."""
    return await _stopped(folder, 2.0 * NOTICES)


async def take_over(folder: Path) -> Stage:
    """The server that answers is killed, and another one is there."""
    async with direct(folder, servers=2) as stage:
        first = stage.record.answered[-1].server
        stage.strike()
        await next(server for server in stage.servers if server.name == first).kill()
    return stage


# --- a network's faults -----------------------------------------------------------------------------------------------


async def pull(folder: Path) -> Stage:
    """The client's cable is pulled out."""
    async with distant(folder) as (stage, net):
        stage.strike()
        await net.pull()
        await stage.lasts(LASTS)
        await net.plug()
        stage.heal()
    return stage


async def lose(folder: Path) -> Stage:
    """A router loses every packet."""
    async with distant(folder) as (stage, net):
        stage.strike()
        await net.black_hole()
        await stage.lasts(LASTS)
        await net.heal()
        stage.heal()
    return stage


async def rename(folder: Path) -> Stage:
    """The service's name gets another address; the server at the old one is still there."""
    async with network() as net, AsyncExitStack() as stack:
        known = await stack.enter_async_context(names(net.client, SERVERS[0]))
        servers = [
            await stack.enter_async_context(
                server_process(folder, f"server-{n}", host=SERVERS[n], port=8080, prefix=net.server.prefix)
            )
            for n in range(2)
        ]
        load = Load(urls=(f"http://{NAME}:8080",))
        async with watching_from(net.client.prefix, load, str(ROOT)) as record:
            await record.answers(WARM)
            stage = Stage(record, servers)
            stage.strike()
            known.set(SERVERS[1])
            await record.until(lambda: bool(record.answered) and record.answered[-1].server == servers[1].name)
            stage.heal()
            await stage.recover()
            await record.until(lambda: all(each.server == servers[1].name for each in record.answered[-WARM:]))
            await servers[0].kill()  # nobody is there any more who would notice
            await record.answers(WARM, since=asyncio.get_running_loop().time())
    return stage


async def lose_first(folder: Path) -> Stage:
    """A router loses what goes to the first of the service's two addresses, from before there was a link."""
    async with network() as net, AsyncExitStack() as stack:
        await stack.enter_async_context(names(net.client, *SERVERS[:2]))
        first = await first_address(net.client)
        (other,) = set(SERVERS[:2]) - {first}
        serving = server_process(folder, host=other, port=8080, prefix=net.server.prefix)
        server = await stack.enter_async_context(serving)
        await net.lose(first)
        load = Load(urls=(f"http://{NAME}:8080",))
        async with watching_from(net.client.prefix, load, str(ROOT)) as record:
            await record.answers(WARM)
            stage = Stage(record, [server])
            stage.began = stage.healed = next(each.at for each in record.changes)  # to CONNECTING
            await stage.recover()
    return stage


@frozen
class Fault:
    """A fault, and what it may cost."""

    acts: Callable[[Path], Awaitable[Stage]]
    bounds: Bounds = field(factory=Bounds)

    @property
    def name(self) -> str:
        return self.acts.__name__.replace("_", " ")

    async def find(self, folder: Path) -> tuple[Finding, list[str]]:
        """Act it out; what it did, and what of that is out of bounds. Raises Unavailable."""
        stage = await self.acts(folder)
        finding = stage.finding(self.name)
        return finding, finding.complaints(self.bounds)


OPEN: Final = 8
"""Requests that are open at a time, at most, while they are answered."""
_STRIKES: Final = Bounds(knew=SOON, failed=OPEN)
_SILENT: Final = Bounds(knew=SILENCE, failed=None, outcomes=REFUSED, idempotent=True)
_DOWN: Final = Bounds(knew=SOON, failed=None, outcomes=REFUSED, idempotent=True)

FAULTS: Final = (
    Fault(cut, _STRIKES),
    Fault(reset, _STRIKES),
    Fault(truncate, _STRIKES),
    # Who breaks the protocol once is expected to do so again: nothing goes again by itself.
    Fault(corrupt_answers, evolve(_STRIKES, outcomes=REFUSED, idempotent=True)),
    Fault(corrupt_requests, _STRIKES),
    # What comes once it is suspected goes over its replacement (H7); what was sent before has to wait for its death.
    Fault(forget, Bounds(knew=SILENCE, ready=2.0, outage=SUSPECTS + SOON, failed=None)),
    Fault(swallow_both, _SILENT),
    Fault(swallow_requests, _SILENT),
    Fault(swallow_answers, _SILENT),
    Fault(hang, _DOWN),
    Fault(refuse, _DOWN),
    Fault(slow),
    Fault(kill, _STRIKES),
    Fault(terminate, Bounds(knew=SOON)),
    Fault(stop_shortly),
    Fault(stop, _SILENT),
    Fault(take_over, _STRIKES),
    Fault(pull, _SILENT),
    Fault(lose, _SILENT),
    Fault(rename),
    Fault(lose_first, Bounds(knew=0.0, ready=0.5 + SOON, outage=0.5 + 2 * SOON)),
)
