"""Where each task of a loop waits, as text for a log."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

MOST_NAMES: Final = 8
"""Tasks that are named of those that wait at the same place."""
MOST_PLACES: Final = 100
MOST_FRAMES: Final = 100


def task_stacks(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """One text for each place where tasks wait, with their number and names; where most wait comes first."""
    places: dict[str, list[str]] = {}
    for task in sorted(tasks, key=lambda task: task.get_name()):
        places.setdefault(_stack(task), []).append(task.get_name())
    ordered = sorted(places.items(), key=lambda place: -len(place[1]))
    texts = [f"{_named(names)}\n{stack}" for stack, names in ordered[:MOST_PLACES]]
    if rest := sum(len(names) for _, names in ordered[MOST_PLACES:]):
        texts.append(f"and {rest:,} tasks at {len(ordered) - MOST_PLACES:,} other places\n")
    return texts


def _named(names: list[str]) -> str:
    told = ", ".join(names[:MOST_NAMES])
    if len(names) == 1:
        return f"task {told}"
    return f"{len(names):,} tasks: {told}" + (", ..." if len(names) > MOST_NAMES else "")


def _stack(task: asyncio.Task[Any]) -> str:
    frames = _frames(task)
    if not frames:
        return "  has ended\n" if task.done() else "  is run by nothing that Python can look into\n"
    summary = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(summary.format())


def _frames(task: asyncio.Task[Any]) -> list[FrameType]:
    """Its frames, the outermost first. Those of a task that waits are found one in the other: asyncio has only one."""
    frames: list[FrameType] = []
    waits: object = task.get_coro()
    while len(frames) < MOST_FRAMES:
        frame: FrameType | None
        match waits:
            case CoroutineType():
                frame, waits = waits.cr_frame, waits.cr_await
            case GeneratorType():
                frame, waits = waits.gi_frame, waits.gi_yieldfrom
            case AsyncGeneratorType():
                frame, waits = waits.ag_frame, waits.ag_await
            case _:
                break
        if frame is None:
            break
        frames.append(frame)
    return frames
