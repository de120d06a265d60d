"""What a parent answers on its control socket: its tree, its figures, and drains."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from actors.actor import ask
from actors.errors import LinkError, Misuse
from actors.mailbox import Ref
from supervisor.census import census, graft
from supervisor.workers.posts import AskCrew, AskReport, CrewMember, CrewMessage, DrainWorker
from supervisor.workers.spoken import Reported

REPORT_TIME: Final = 2.0
"""Seconds that a worker has for its figures; one that takes longer is shown without."""

Plain = Mapping[str, Any]


class Answers:
    """Answers the questions ``tree``, ``stats`` and ``drain``; one of these is a control server's ``answer``."""

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
            case _:
                raise Misuse(
                    f"nobody here can answer {str(question.get('ask'))[:40]!r}: tree, stats and drain can be asked"
                )

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

    async def _drained(self, worker: int | None) -> Plain:
        if worker is None:
            self._drain()
            return {"text": "the server takes no more, drains, and ends"}
        name = f"worker-{worker}"
        await ask(self._crew, lambda reply: DrainWorker(name, reply), REPORT_TIME)
        return {"text": f"{name} drains as soon as another has taken its place"}
