"""Where a replay went another way than the recording: the first message that is not the same.

Messages are compared for each pair of sender and receiver in their order; between pairs, and between the frames that
went out in one write, the order is a matter of turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

from attrs import evolve, frozen

from supervisor.tracing.failures import reason_of
from supervisor.tracing.records import Event

CONTEXT: Final = 3
"""Messages that are shown on either side of the first difference."""
_FLOW: Final = frozenset(("RoomMade", "ReturnCredit", "DataArrived"))
"""How bytes are counted and when they come, which a handler that runs anew meets otherwise."""
_BYTES: Final = re.compile(r"(\d+) bytes")
_DATA, _HEADERS, _WINDOW_UPDATE = 0x0, 0x1, 0x8
_END_STREAM: Final = 0x1

Pair = tuple[str, str]


@frozen
class _Said:
    """One thing that was said, and the event that says it."""

    text: str
    event: Event


def first_difference(
    name: str, recorded: Sequence[Event], replayed: Sequence[Event], *, live: bool = False, until: float | None = None
) -> str:
    """The first difference between what the connection ``name`` told in the recording and in the replay; or nothing.

    ``live``: its streams ran a handler, so what they told counts, too, but not how bodies were cut into pieces, what
    HPACK made of headers, and how far a stream was when the peer gave it up. What the replay tells after ``until`` is
    beyond the end of the recording.
    """
    then, now = _by_pair(name, recorded, live), _by_pair(name, replayed, live)
    given_up = {event.receiver for event in recorded if live and event.type == "PeerReset"}
    found: list[tuple[float, Pair, int]] = []
    for pair in dict.fromkeys((*then, *now)):
        if given_up.intersection((*pair, pair[1].replace("socket, stream ", f"{name}/stream-"))):
            continue
        for number, (was, is_) in enumerate(zip_longest(then.get(pair, ()), now.get(pair, ()))):
            if was is None and until is not None and is_ is not None and is_.event.time > until:
                break
            if was is None or is_ is None or was.text != is_.text:
                found.append(((was or is_).event.time, pair, number))
                break
    if not found:
        return ""
    _, pair, number = min(found, key=lambda each: each[0])
    return _shown(pair, number, (then.get(pair, []), recorded), (now.get(pair, []), replayed))


def _by_pair(name: str, events: Iterable[Event], live: bool) -> dict[Pair, list[_Said]]:
    pairs: dict[Pair, list[_Said]] = {}
    for event in events:
        if event.sender == name and event.receiver != name:
            if event.type == "FramesSent":
                _take_frames(pairs, event, live)
                continue
        elif not (live and event.receiver == name and event.sender.startswith(f"{name}/")):
            continue
        if live and event.type in _FLOW:
            continue
        said = pairs.setdefault((event.sender, event.receiver), [])
        if live and event.type == "SendData":
            _take_piece(said, event.type, *_piece(event), event)
        else:
            said.append(_Said(_text(event), event))
    return pairs


def _text(event: Event) -> str:
    reason = reason_of(event) if event.type == "Exited" else None
    return f"{event.type} {event.text}" + (f" ({reason})" if reason else "")


def _take_frames(pairs: dict[Pair, list[_Said]], event: Event, live: bool) -> None:
    """Each frame by itself; where the streams ran anew, those of each stream, and its body as one."""
    for frame in event.frames or ():
        if not live:
            pairs.setdefault((event.sender, "socket"), []).append(_Said(f"frame {frame.text}", event))
            continue
        if frame.kind == _WINDOW_UPDATE:
            continue
        said = pairs.setdefault((event.sender, f"socket, stream {frame.stream}"), [])
        if frame.kind == _DATA:
            _take_piece(said, "DATA", frame.length, bool(frame.flags & _END_STREAM), event)
        else:
            same_size = evolve(frame, length=0) if frame.kind == _HEADERS else frame
            said.append(_Said(f"frame {same_size.text}", event))


def _piece(event: Event) -> tuple[int, bool]:
    """How many bytes a message says that it has, and whether it is the last."""
    found = _BYTES.search(event.text)
    return int(found[1]) if found is not None else 0, event.text.endswith(", ended")


def _take_piece(said: list[_Said], kind: str, size: int, ended: bool, event: Event) -> None:
    """Count a piece of a body to those before it."""
    if said and (before := re.fullmatch(rf"{kind}, (\d+) bytes in all", said[-1].text)):
        size, event = size + int(before[1]), said.pop().event
    said.append(_Said(f"{kind}, {size} bytes in all" + ", ended" * ended, event))


def _shown(
    pair: Pair, number: int, then: tuple[list[_Said], Sequence[Event]], now: tuple[list[_Said], Sequence[Event]]
) -> str:
    lines = [f"{pair[0]} -> {pair[1]}: message {number + 1} is another"]
    for heading, said, events in (("recorded", *then), ("replayed", *now)):
        lines.append(f"{heading}:")
        if number > len(said):
            lines.append("      (nothing)")
        for at in range(max(0, number - CONTEXT), min(len(said), number + CONTEXT + 1)):
            lines.append(f"  {'>' if at == number else ' '} {said[at].text}")
        if number == len(said):
            lines.append("  > (nothing more)")
        if number < len(said) and (led := _led(said[number].event, events)):
            lines.append(f"    led there: {led}")
    return "\n".join(lines)


def _led(event: Event, events: Sequence[Event]) -> str:
    """The input that an event goes back to, with the frames that were in it."""
    known = {each.id: each for each in events}
    frames = ""
    while (cause := known.get(event.cause)) is not None and cause.id < event.id:
        event = cause
        if event.type == "FramesArrived":
            frames = f" ({event.text})"
    at = f" at {event.time:.6f} s"
    return f"{event.sender} -> {event.receiver}: {event.type} {event.text}{frames}{at}"
