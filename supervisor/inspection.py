"""Asks living connections and streams for their pictures, and measures how late the event loop is.

Nobody is kept waiting by it: a connection answers between two of its turns, ahead of its backlog, a stream at once, and
whoever does not answer in a second is named instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any, Final

from actors.mailbox import Ref, Reply
from actors.messages import TakePicture
from actors.pictures import ConnectionPicture, Picture, StreamPicture
from supervisor.why import Findings

PATIENCE: Final = 1.0
"""Seconds that an actor has for its answer."""
AT_ONCE: Final = 256
"""Actors that are asked before others have the loop again."""


class _Answers:
    """Who was asked and when, and what came of it."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self.pictures: dict[str, Picture] = {}
        self.all_in = asyncio.Event()

    async def ask(self, actors: Iterable[Ref[Any]]) -> None:
        """Ask them all before waiting for any; those that have ended are left out."""
        loop = asyncio.get_running_loop()
        for number, actor in enumerate(list(actors), 1):
            self.asked[actor.name] = loop.time()
            if actor.signal(TakePicture(_Answer(actor.name, self))) is False:
                del self.asked[actor.name]
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self.look()

    def look(self) -> None:
        """See whether all have answered."""
        if len(self.pictures) >= len(self.asked):
            self.all_in.set()


class _Answer(Reply[Picture]):
    """Takes one actor's answer down; of who waits for it no future is cancelled when the time is up."""

    __slots__ = ("_answers", "_name")

    def __init__(self, name: str, answers: _Answers) -> None:
        super().__init__()
        self._name, self._answers = name, answers

    def tell(self, answer: Picture) -> None:
        if self.is_wanted:
            super().tell(answer)
            self._answers.pictures[self._name] = answer
            self._answers.look()


async def look(owner: str, connections: Iterable[Ref[Any]], *, timeout: float = PATIENCE) -> Findings:
    """What is seen of ``owner``'s connections and their streams now."""
    began = perf_counter()
    await asyncio.sleep(0)
    lag = perf_counter() - began
    answers = _Answers()
    await answers.ask(connections)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await answers.all_in.wait()
    if not answers.all_in.is_set():
        await asyncio.sleep(0)  # where it was the loop that stood still, they have a turn to answer in
        await asyncio.sleep(0)
    seen = [each for each in answers.pictures.values() if isinstance(each, ConnectionPicture)]
    streams = _Answers()
    await streams.ask(ref for each in seen for ref in each.refs.values())  # which answer as they are asked
    return Findings(
        owner=owner,
        connections=tuple(seen),
        streams={name: each for name, each in streams.pictures.items() if isinstance(each, StreamPicture)},
        silent=tuple(name for name in answers.asked if name not in answers.pictures),
        patience=timeout,
        lag=max(lag, *(each.taken - answers.asked[each.name] for each in seen), 0.0),
    )
