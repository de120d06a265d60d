"""A trace as one HTML page, which opens from ``file://`` and asks nothing of the network.

The page is put together from the files in ``viewer/``. The trace goes into script elements of type
``application/json``, which a browser does not run, in ASCII and without a single ``<``, so that nothing that a peer
said can end the element. Only our own script and style may run, which the page's policy names by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator
from importlib import resources
from typing import Final, TextIO

from attrs import asdict

from supervisor.tracing.records import Frame, Head, Trace

_SCRIPTS: Final = (
    *("trace", "streams", "problems", "filter"),
    *("tracks", "ruler", "scene", "timeline", "lists", "details", "app", "main"),
)
"""The parts of the page's script, in the order in which each needs those before it."""
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_ROW_DEFAULTS: Final = (None, 0, 0, -1, -1, 0, 0, 0, 0)
"""What the last columns of an event's row are where nothing is known; those at a row's end are left out."""
_Anchors = dict[str, tuple[float, float]]


def write_page(trace: Trace, file: TextIO) -> None:
    """Write the page that shows ``trace``; beside the trace itself it takes no more memory than its distinct names."""
    style, script = _template("page.css"), _script()
    # A list of words by position: template text, name of a place, template text, and so on.
    for number, word in enumerate(_PLACE.split(_template("page.html"))):
        if number % 2 == 0:
            file.write(word)
        elif word == "policy":
            file.write(_policy(style, script))
        elif word == "style":
            file.write(style)
        elif word == "script":
            file.write(script)
        else:
            file.writelines(_data(trace))


def _template(name: str) -> str:
    return (resources.files("supervisor.tracing") / "viewer" / name).read_text("utf-8")


def _script() -> str:
    parts = "\n".join(_template(f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _policy(style: str, script: str) -> str:
    """Nothing is loaded or run but this style and this script (CSP Level 3)."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(value: object) -> str:
    """JSON that can stand inside a script element: ASCII, and nothing that could be a tag."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _data(trace: Trace) -> Iterator[str]:
    anchors = _anchors(trace)
    start = min((_seconds(event.time, anchors[event.process]) for event in trace.events), default=0.0)
    names: dict[str, int] = {}
    about = {
        # The moment that the page's times count from, in seconds since the epoch; None where nobody knows.
        "start": start + _base(trace) if any(map(_is_sound, trace.heads)) else None,
        # When each process was looked at, on the page's clock: what was silent until then was silent.
        "looked": {
            head.process: _microseconds(_seconds(head.monotonic, anchors[head.process]) - start)
            for head in trace.heads
            if head.process in anchors and _is_sound(head)
        },
        "heads": [asdict(head) for head in trace.heads],
        "conversations": [asdict(conversation) for conversation in trace.conversations],
        "ends": [asdict(end) for end in trace.ends],
        "warnings": list(trace.warnings),
    }
    yield from _element("trace", iter([_json(_finite(about))]))
    yield from _element("events", _rows(trace, anchors, start, names))
    # After the events, which say what names there are.
    yield from _element("names", iter([_json(list(names))]))


def _element(name: str, contents: Iterator[str]) -> Iterator[str]:
    yield f'<script type="application/json" id="{name}">'
    yield from contents
    yield "</script>\n"


def _rows(trace: Trace, anchors: _Anchors, start: float, names: dict[str, int]) -> Iterator[str]:
    """An event a line; names of processes, actors, types and connections by their numbers."""

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    before = "["
    for event in trace.events:
        anchor = anchors[event.process]
        told = _seconds(event.time, anchor) - start
        row: list[object] = [
            number(event.process),
            event.id,
            _microseconds(told),
            number(event.sender),
            number(event.receiver),
            number(event.type),
            event.text,
            None if event.taken is None else _microseconds(_seconds(event.taken, anchor) - start),
            event.cause,
            int(event.dead),
            -1 if event.connection is None else number(event.connection),
            -1 if event.stream is None else event.stream,
            event.first or 0,
            [part for frame in event.frames for part in _parts(frame)] if event.frames else 0,
            # A text, because what a message holds may be no JSON that a browser reads, such as NaN.
            json.dumps(event.data, ensure_ascii=False, default=repr) if event.data else 0,
            [part for process, sent in event.remote for part in (number(process), sent)] if event.remote else 0,
        ]
        yield before + _json(_trimmed(row))
        before = ",\n"
    yield "[]" if before == "[" else "]"


def _trimmed(row: list[object]) -> list[object]:
    last = len(row)
    default = len(_ROW_DEFAULTS)
    while default and row[last - 1] == _ROW_DEFAULTS[default - 1]:
        last -= 1
        default -= 1
    return row[:last]


def _parts(frame: Frame) -> tuple[int, int, int, int]:
    return frame.kind, frame.flags, frame.stream, frame.length


def _base(trace: Trace) -> float:
    return next((head.wall for head in trace.heads if _is_sound(head)), 0.0)


def _anchors(trace: Trace) -> _Anchors:
    """For each process a moment of its clock, and how many seconds later than the first process's that one was.

    Small numbers are added to small ones, because seconds since the epoch leave no room for parts of a microsecond. A
    process whose clock says nothing begins with the others.
    """
    base = _base(trace)
    anchors = {head.process: (head.monotonic, head.wall - base) for head in trace.heads if _is_sound(head)}
    known = (_seconds(event.time, anchors[event.process]) for event in trace.events if event.process in anchors)
    first = min(known, default=0.0)
    for event in trace.events:
        anchors.setdefault(event.process, (event.time if math.isfinite(event.time) else 0.0, first))
    return anchors


def _is_sound(head: Head) -> bool:
    return math.isfinite(head.wall - head.monotonic)


def _seconds(time: float, anchor: tuple[float, float]) -> float:
    moment, offset = anchor
    return time - moment + offset if math.isfinite(time) else offset


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)


def _finite(value: object) -> object:
    """The same, with None for each number that JSON has no word for."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case _:
            return value
