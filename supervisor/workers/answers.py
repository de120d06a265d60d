"""What is answered on a control socket, by a parent and by a server of one process: tree, figures, drains, traces."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from actors.actor import ask
from actors.errors import LinkError, Misuse
from actors.mailbox import Ref
from supervisor.census import census, graft
from supervisor.server import Server
from supervisor.workers.posts import AskCrew, AskReport, AskWhy, CrewMember, CrewMessage, DrainWorker
from supervisor.workers.spoken import Explained, Reported, SendTrace
from supervisor.workers.staffing import Phase
from supervisor.workers.traces import Traces, Wanted, check_reader

REPORT_TIME: Final = 2.0
"""Seconds that a worker has for its figures; one that takes longer is shown without."""

Plain = Mapping[str, Any]


class Answers:
    """Answers for a parent and its workers; one of these is a control server's ``answer``."""

    def __init__(
        self, crew: Ref[CrewMessage], *, url: str, restarts: Callable[[], int], drain: Callable[[], None]
    ) -> None:
        """``drain`` has the whole server drain and end."""
        self._crew = crew
        self._url = url
        self._restarts = restarts
        self._drain = drain
        self._began = time.monotonic()

    async def __call__(self, question: dict[str, Any]) -> object:
        """The answer to ``{"ask": ...}``. Raises Misuse for a question that is none, LinkError where it fails."""
        match question:
            case {"ask": "tree"}:
                return await self._tree()
            case {"ask": "stats"}:
                return await self._stats()
            case {"ask": "drain", "worker": (int() | None) as worker}:
                return await self._drained(worker)
            case {"ask": "why", "stream": (str() | None) as stream}:
                return await self._why(stream)
            case {"ask": "trace"}:
                return await self._trace(wanted_of(question))
            case _:
                raise unknown(question)

    async def _reported(self) -> list[tuple[CrewMember, Reported | None]]:
        """What each worker reports; None for one that does not in time, or cannot yet."""
        members = await ask(self._crew, AskCrew, REPORT_TIME)

        async def report(member: CrewMember) -> Reported | None:
            try:
                return await ask(member.ref, AskReport, REPORT_TIME)
            except LinkError:
                return None

        return list(zip(members, await asyncio.gather(*map(report, members)), strict=True))

    async def _tree(self) -> Plain:
        reports = await self._reported()
        branches = {member.name: reported.actors for member, reported in reports if reported is not None}
        return {"actors": graft(await census(self._crew), branches)}

    async def _stats(self) -> Plain:
        reports = await self._reported()
        rows = {row["name"]: row for row in await census(self._crew)}
        crew = rows.get("crew", {}).get("detail", {})
        return {
            "parent": {
                "pid": os.getpid(),
                "url": self._url,
                "age": time.monotonic() - self._began,
                "workers_wanted": crew.get("wanted", 0),
                "workers_ready": crew.get("ready", 0),
                "generation": crew.get("generation", 0),
                "restarts": self._restarts(),
            },
            "workers": {
                member.name: {
                    "pid": rows.get(member.name, {}).get("detail", {}).get("pid"),
                    "state": member.state,
                    "generation": member.generation,
                    "load": member.load,
                    "age": member.age,
                    "late": rows.get(member.name, {}).get("detail", {}).get("late"),
                    "stats": dict(reported.stats) if reported is not None else None,
                }
                for member, reported in reports
            },
        }

    async def _why(self, stream: str | None) -> Plain:
        members = await ask(self._crew, AskCrew, REPORT_TIME)
        name = stream or ""
        if (chosen := [each for each in members if name.startswith(f"{each.name}/")]) != []:
            members, name = tuple(chosen), name.partition("/")[2]

        async def explained(member: CrewMember) -> Explained | None:
            try:
                return await ask(member.ref, lambda reply: AskWhy(name, reply), REPORT_TIME)
            except LinkError:
                return None

        answers = await asyncio.gather(*map(explained, members))
        found = [
            (member.name, told.found) for member, told in zip(members, answers, strict=True) if told is not None
        ]  # fmt: skip
        silent = [member.name for member, told in zip(members, answers, strict=True) if told is None]
        return reasons(found, silent, name)

    async def _trace(self, wanted: Wanted) -> Plain:
        check_reader(wanted.to)
        members = [each for each in await ask(self._crew, AskCrew, REPORT_TIME) if each.state != Phase.STARTING.value]
        if not members and not wanted.known:
            raise Misuse("no worker serves yet: ask again in a moment")
        members = [each for each in members if each.name not in wanted.known]
        for member in members:
            member.ref.tell(SendTrace(wanted.to, wanted.mode, wanted.as_dict()))
        return {"processes": [member.name for member in members]}

    async def _drained(self, worker: int | None) -> Plain:
        if worker is None:
            self._drain()
            return {"text": "the server takes no more, drains, and ends"}
        name = f"worker-{worker}"
        await ask(self._crew, lambda reply: DrainWorker(name, reply), REPORT_TIME)
        return {"text": f"{name} drains as soon as another has taken its place"}


class OwnAnswers:
    """Answers for a server of one process; a control server's ``answer`` as well."""

    def __init__(self, server: Server, traces: Traces, *, process: str, drain: Callable[[], None]) -> None:
        """``process`` is what it is called where workers have their names."""
        self._server = server
        self._traces = traces
        self._process = process
        self._drain = drain

    async def __call__(self, question: dict[str, Any]) -> object:
        """The answer to ``{"ask": ...}``. Raises Misuse for a question that is none, LinkError where it fails."""
        match question:
            case {"ask": "tree"}:
                return {"actors": await self._server.census()}
            case {"ask": "stats"}:
                return self._stats()
            case {"ask": "drain", "worker": None}:
                self._drain()
                return {"text": "the server takes no more, drains, and ends"}
            case {"ask": "drain", "worker": int()}:
                raise Misuse("the server has no workers: drain it as a whole")
            case {"ask": "why", "stream": (str() | None) as stream}:
                name = (stream or "").removeprefix(f"{self._process}/")
                found = [each.to_plain() for each in await self._server.why(name or None)]
                return reasons([(self._process, found)], (), name)
            case {"ask": "trace"}:
                wanted = wanted_of(question)
                check_reader(wanted.to)
                if self._process in wanted.known:
                    return {"processes": []}
                self._traces.begin(wanted, self._server)
                return {"processes": [self._process]}
            case _:
                raise unknown(question)

    def _stats(self) -> Plain:
        stats = self._server.stats()
        return {
            "parent": {
                "pid": os.getpid(), "url": self._server.url, "age": stats.uptime, "workers_wanted": 0,
                "workers_ready": 0, "generation": 0, "restarts": 0,
            },
            "workers": {
                self._process: {
                    "pid": os.getpid(), "state": stats.state, "generation": 0, "load": stats.connections_open,
                    "age": stats.uptime, "late": None, "stats": plain_stats(self._server),
                }
            },
        }  # fmt: skip


def plain_stats(server: Server) -> Plain:
    """A server's figures in total, as JSON can hold them."""
    # Those of each connection are left out: there may be thousands, and the actors tell of each.
    return attrs.asdict(server.stats(), filter=lambda attribute, _: attribute.name != "connection_stats")


def wanted_of(question: Mapping[str, Any]) -> Wanted:
    """The trace that a question asks for. Raises Misuse."""
    return Wanted.of({name: value for name, value in question.items() if name not in ("ask", "version")})


def reasons(found: Sequence[tuple[str, Iterable[Plain]]], silent: Sequence[str], stream: str) -> Plain:
    """The answer to ``why``: what each process says, with its name. Raises Misuse where none has the ``stream``."""
    rows = [{"process": process, **each} for process, told in found for each in told]
    if stream:
        owners = {row["process"] for row in rows if row["stream"] == stream}
        if not owners:
            unheard = f" ({', '.join(silent)} did not answer)" if silent else ""
            raise Misuse(f"no stream or request is called {stream[:120]!r} here{unheard}: 'muxlink tree' lists them")
        rows = [row for row in rows if row["process"] in owners]
    return {"explanations": rows, "silent": list(silent)}


def unknown(question: Mapping[str, Any]) -> Misuse:
    """The answer to a question that is none."""
    known = "tree, stats, drain, why and trace can be asked"
    return Misuse(f"nobody here can answer {str(question.get('ask'))[:40]!r}: {known}")
