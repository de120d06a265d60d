"""Every actor below a root, each behind its parent, as plain dicts: what ``muxlink tree`` shows of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

from attrs import define, field

from actors.mailbox import Ref, Reply
from actors.messages import ActorState, GetState

MOST: Final = 10_000
"""Actors that are listed."""
AT_ONCE: Final = 256
"""Actors that are asked before others have the loop again."""
HUNG: Final = "hung"
MAX_TEXT: Final = 200
"""Characters of one detail."""
MAX_DETAILS: Final = 32
WORDS_OF_OTHERS: Final = frozenset(("error", "going"))
"""Details that hold an error's message, which may have what a peer said in it: told is only that there is one."""

Plain = Mapping[str, Any]
"""What JSON can hold, by name."""


@define(eq=False)
class _Found:
    """An actor that was found, and what lies below it."""

    ref: Ref[Any]
    parent: str | None
    restarts: int
    row: Plain | None = None
    """None while it has not answered, and for one that had ended."""
    below: list[_Found] = field(factory=list)


async def census(root: Ref[Any], *, timeout: float = 1.0) -> list[Plain]:
    """Every actor below ``root``, and itself, each behind its parent and before the parent's other children.

    One that has ended is left out; one that does not answer in ``timeout`` seconds is listed as ``hung``, without what
    is below it. Those nearest to the root come first into the 10,000 that are listed; a last row tells of more.
    """
    first = _Found(root, None, 0)
    level, count, more = [first], 1, False
    while level:
        await _question(level, timeout)
        following = [child for found in level for child in found.below]
        more |= count + len(following) > MOST
        level = following[: MOST - count]
        count += len(level)
    rows = _in_order([first])
    return [*rows, _more(MOST)] if more else rows


class _Answer(Reply[ActorState]):
    """Takes an actor's answer down, and says when it was the last that was waited for."""

    __slots__ = ("_all_in", "_found", "_missing")

    def __init__(self, found: _Found, missing: set[_Found], all_in: asyncio.Event) -> None:
        super().__init__()
        self._found, self._missing, self._all_in = found, missing, all_in

    def tell(self, answer: ActorState) -> None:
        if self.is_wanted:
            super().tell(answer)
            _take(self._found, answer)
            self._missing.discard(self._found)
            if not self._missing:
                self._all_in.set()


async def _question(asked: Sequence[_Found], timeout: float) -> None:
    """Ask them all before waiting for any: one after the other, many that hang would take for ever."""
    missing, all_in = set(asked), asyncio.Event()
    for number, found in enumerate(asked, 1):
        if found.ref.signal(GetState(_Answer(found, missing, all_in))) is False:
            missing.discard(found)
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    if not missing:
        return
    try:
        async with asyncio.timeout(timeout):
            await all_in.wait()
    except TimeoutError:
        await asyncio.sleep(0)  # where it was the loop that stood still, they have a turn to answer in
        await asyncio.sleep(0)
        for found in missing:
            found.row = _row(found, None)


def _take(found: _Found, state: ActorState) -> None:
    if state.status != "ended":
        found.row = _row(found, state)
        restarts: Iterable[int] = state.restarts or repeat(0)
        found.below = [_Found(ref, state.name, times) for ref, times in zip(state.refs, restarts, strict=False)]


def _row(found: _Found, state: ActorState | None) -> Plain:
    """One actor's figures; those that are not known are None."""
    detail = dict(state.detail) if state is not None else {}
    streams = detail.get("open_streams")
    return {
        "name": found.ref.name,
        "parent": found.parent,
        "kind": state.kind if state is not None else None,
        "state": state.status if state is not None else HUNG,
        "mailbox": state.waiting if state is not None else None,
        "streams": streams if isinstance(streams, int) else None,
        "age": round(state.age, 3) if state is not None else None,
        "restarts": found.restarts,
        "detail": {name: _told(name, detail[name]) for name in list(detail)[:MAX_DETAILS]},
    }


def _told(name: str, value: object) -> str | int | float | bool | None:
    if name in WORDS_OF_OTHERS:
        return value is not None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)[:MAX_TEXT]


def _in_order(found: Sequence[_Found]) -> list[Plain]:
    rows, waiting = [], list(reversed(found))
    while waiting:
        each = waiting.pop()
        if each.row is not None:
            rows.append(each.row)
            waiting += reversed(each.below)
    return rows


def _more(most: int) -> Plain:
    name = f"more than {most:,} actors: the others are not listed"
    empty: dict[str, Any] = dict.fromkeys(("parent", "kind", "state", "mailbox", "streams", "age"))
    return {"name": name, **empty, "restarts": 0, "detail": {}}


def graft(trunk: Sequence[Plain], branches: Mapping[str, Sequence[Plain]]) -> list[Plain]:
    """Put each branch, the actors of another process, below the actor of the trunk that has its name.

    Of all together 10,000 are listed, those of the trunk in any case.
    """
    rows: list[Plain] = []
    room, cut = max(0, MOST - len(trunk)), False
    for each in trunk:
        rows.append(each)
        branch = branches.get(each["name"], ())
        cut |= len(branch) > room
        taken = branch[:room]
        room -= len(taken)
        rows += ({**row, "parent": each["name"]} if row["parent"] is None else row for row in taken)
    return [*rows, _more(MOST)] if cut else rows
