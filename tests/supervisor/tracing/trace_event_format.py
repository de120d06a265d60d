"""A checker of the Trace Event Format, after its document: what each phase must have, and what belongs together.

It knows the phases M, X, i, s, t, f, b, n and e, and shares nothing with who writes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

METADATA: Final[Mapping[str, tuple[str, type]]] = {
    "process_name": ("name", str),
    "process_labels": ("labels", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}
REQUIRED: Final[Mapping[str, frozenset[str]]] = {
    "M": frozenset({"name", "pid", "args"}),
    "X": frozenset({"name", "pid", "tid", "ts", "dur"}),
    "i": frozenset({"name", "pid", "ts"}),
    "s": frozenset({"name", "cat", "id", "pid", "tid", "ts"}),
    "t": frozenset({"name", "cat", "id", "pid", "tid", "ts"}),
    "f": frozenset({"name", "cat", "id", "pid", "tid", "ts"}),
    "b": frozenset({"name", "cat", "pid", "tid", "ts"}),
    "n": frozenset({"name", "cat", "pid", "tid", "ts"}),
    "e": frozenset({"name", "cat", "pid", "tid", "ts"}),
}

_Object = Mapping[str, object]
_Thread = tuple[object, object]
_Span = tuple[int, int]


def complaints(document: object) -> list[str]:
    """What is wrong with a whole file, which is read as JSON already."""
    if isinstance(document, dict):
        events = document.get("traceEvents")
        if document.get("displayTimeUnit", "ms") not in ("ms", "ns"):
            return [f"displayTimeUnit is {document['displayTimeUnit']!r}"]
    else:
        events = document
    if not isinstance(events, list):
        return ["there is no list of trace events"]
    found = [complaint for event in events for complaint in _alone(event)]
    if found:
        return found  # what belongs together can only be told of events that are whole
    return [*_names(events), *_nesting(events), *_flows(events), *_async(events)]


def _alone(event: object) -> Iterator[str]:
    if not isinstance(event, dict):
        yield f"an event is no object: {event!r}"
        return
    phase = event.get("ph")
    if not isinstance(phase, str) or phase not in REQUIRED:
        yield f"unknown phase {phase!r}: {event}"
        return
    if missing := REQUIRED[phase] - event.keys():
        yield f"{sorted(missing)} missing: {event}"
        return
    yield from (
        f"{key} is {event[key]!r}: {event}" for key in ("name", "cat") if not isinstance(event.get(key, ""), str)
    )
    yield from (f"{key} is {event[key]!r}: {event}" for key in ("pid", "tid") if not _whole(event.get(key, 0)))
    yield from (f"{key} is {event[key]!r}: {event}" for key in ("ts", "dur") if not _time(event.get(key, 0)))
    if not isinstance(event.get("args", {}), dict):
        yield f"args is no object: {event}"
    elif phase == "M":
        yield from _metadata(event, event["args"])
    if phase in "stf" and not _is_id(event["id"]):
        yield f"id is {event['id']!r}: {event}"
    if event.get("bp", "e") != "e":
        yield f"bp is {event['bp']!r}: {event}"
    if phase in "bne" and not (_is_id(event["id"]) if "id" in event else _is_id2(event.get("id2"))):
        yield f"neither a good id nor id2: {event}"
    if phase == "i" and (
        event.get("s", "t") not in ("g", "p", "t") or (event.get("s", "t") == "t" and "tid" not in event)
    ):
        yield f"an instant that is nowhere: {event}"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_id2(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) == 1
        and all(scope in ("local", "global") and isinstance(text, str) for scope, text in value.items())
    )


def _metadata(event: _Object, args: _Object) -> Iterator[str]:
    name = event["name"]
    if not isinstance(name, str) or name not in METADATA:
        yield f"unknown metadata: {event}"
        return
    key, kind = METADATA[name]
    if not isinstance(args.get(key), kind) or isinstance(args.get(key), bool):
        yield f"args of {name} must have {key!r}: {event}"
    if name.startswith("thread_") and "tid" not in event:
        yield f"{name} of no thread: {event}"


def _of(events: Iterable[_Object], phases: str) -> Iterator[_Object]:
    return (event for event in events if str(event["ph"]) in phases)


def _ns(value: object) -> int:
    assert isinstance(value, int | float)
    return round(value * 1000)


def _thread(event: _Object) -> _Thread:
    return event["pid"], event.get("tid")


def _names(events: list[_Object]) -> Iterator[str]:
    """Each name and place in the order is said once, and whoever does something has a name."""
    said: set[tuple[object, ...]] = set()
    for event in _of(events, "M"):
        key = (event["name"], event["pid"], event.get("tid"))
        if key in said:
            yield f"said twice: {event}"
        said.add(key)
    for event in _of(events, "Xistfbne"):
        for key in (("process_name", event["pid"], None), ("thread_name", *_thread(event))):
            if key not in said:
                yield f"{key[0]} is missing for {event}"


def _slices(events: list[_Object]) -> dict[_Thread, list[_Span]]:
    """Where each thread is busy, sorted."""
    slices: dict[_Thread, list[_Span]] = defaultdict(list)
    for event in _of(events, "X"):
        start = _ns(event["ts"])
        slices[_thread(event)].append((start, start + _ns(event["dur"])))
    return {thread: sorted(spans, key=lambda span: (span[0], -span[1])) for thread, spans in slices.items()}


def _nesting(events: list[_Object]) -> Iterator[str]:
    """Slices of a thread lie within or beside each other."""
    for thread, spans in _slices(events).items():
        open_until: list[int] = []
        for start, end in spans:
            while open_until and open_until[-1] <= start:
                open_until.pop()
            if open_until and end > open_until[-1]:
                yield f"slices overlap in part on {thread} at {start} ns"
            open_until.append(end)


def _flows(events: list[_Object]) -> Iterator[str]:
    """Each arrow has one start and one end after it, which are bound to slices that are there."""
    ends: dict[tuple[object, ...], dict[str, list[_Object]]] = defaultdict(lambda: {"s": [], "t": [], "f": []})
    for event in _of(events, "stf"):
        ends[event["cat"], event["name"], event["id"]][str(event["ph"])].append(event)
    slices = _slices(events)
    bounds = {thread: _Bounds(spans) for thread, spans in slices.items()}
    for key, by_phase in ends.items():
        if len(by_phase["s"]) != 1 or len(by_phase["f"]) != 1:
            yield f"flow {key} has {len(by_phase['s'])} starts and {len(by_phase['f'])} ends"
            continue
        times = [_ns(event["ts"]) for phase in "stf" for event in sorted(by_phase[phase], key=lambda e: _ns(e["ts"]))]
        if times != sorted(times):
            yield f"flow {key} runs backwards"
        for event in (*by_phase["s"], *by_phase["t"], *by_phase["f"]):
            thread = bounds.get(_thread(event))
            # An end without "bp": "e" is bound to the next slice that begins.
            following = event["ph"] == "f" and "bp" not in event
            if thread is None or not thread.has(_ns(event["ts"]), following=following):
                yield f"bound to no slice: {event}"


class _Bounds:
    """Where arrows may be bound on one thread."""

    def __init__(self, spans: list[_Span]) -> None:
        self._last_start = spans[-1][0]
        # Of slices that nest the outermost say when there is one.
        self._busy: list[_Span] = []
        for start, end in spans:
            if not self._busy or start >= self._busy[-1][1]:
                self._busy.append((start, end))

    def has(self, time: int, *, following: bool) -> bool:
        if following:
            return time <= self._last_start
        low, high = 0, len(self._busy)
        while low < high:
            middle = (low + high) // 2
            if self._busy[middle][1] <= time:
                low = middle + 1
            else:
                high = middle
        return low < len(self._busy) and self._busy[low][0] <= time


def _async(events: list[_Object]) -> Iterator[str]:
    """Each async span has a begin and an end after it, of the same name, and spans of one id nest."""
    trees: dict[tuple[object, ...], list[tuple[int, int, _Object]]] = defaultdict(list)
    for order, event in enumerate(_of(events, "bne")):
        trees[event["cat"], *_scoped(event)].append((_ns(event["ts"]), order, event))
    for key, steps in trees.items():
        open_names: list[object] = []
        for _, _, event in sorted(steps, key=lambda step: step[:2]):
            if event["ph"] == "b":
                open_names.append(event["name"])
            elif event["ph"] == "e" and (not open_names or open_names.pop() != event["name"]):
                yield f"async end without its begin: {event}"
        if open_names:
            yield f"async span {key} does not end: {open_names}"


def _scoped(event: _Object) -> tuple[object, ...]:
    id2 = event.get("id2")
    if not isinstance(id2, dict):
        return "id", event["id"]
    return ("global", id2["global"]) if "global" in id2 else ("local", event["pid"], id2["local"])
