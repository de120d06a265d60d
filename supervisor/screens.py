"""What ``muxlink tree``, ``top`` and ``stats`` show: answers of a server's control socket as text. Pure.

What comes from elsewhere may hold anything: a character that would move a terminal's cursor is shown as ``?``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

Plain = Mapping[str, Any]
UNKNOWN: Final = "-"
LEAST_NAME: Final = 16
"""Columns that a name has in any case."""


@frozen
class _Column:
    title: str
    width: int
    left: bool = False

    def show(self, text: str) -> str:
        text = clean(text)
        if len(text) > self.width:
            text = text[: self.width - 1] + "~"
        return text.ljust(self.width) if self.left else text.rjust(self.width)


# --- the tree ---------------------------------------------------------------------------------------------------------


@frozen
class _Lines:
    """What the lines of a tree are drawn with."""

    child: str
    last: str
    passing: str
    none: str = "  "


ASCII: Final = _Lines("|-", "`-", "| ")
BOXES: Final = _Lines("├─", "└─", "│ ")
TREE: Final = (
    _Column("STATE", 9, left=True), _Column("MAIL", 5), _Column("STRMS", 5), _Column("AGE", 6), _Column("RST", 4),
)  # fmt: skip


def render_tree(answer: Plain, width: int, *, boxes: bool = False) -> str:
    """The actors below each other, a line for each with its figures; ``boxes`` draws more than ASCII."""
    rows: Sequence[Plain] = answer["actors"]
    room = max(LEAST_NAME, width - sum(column.width + 1 for column in TREE))
    name = _Column("ACTOR", room, left=True)
    lines = [_line((name, *TREE), (name.title, *(column.title for column in TREE)))]
    for prefix, row in _branches(rows, BOXES if boxes else ASCII):
        figures = (
            _text(row.get("state")), _count(row.get("mailbox")), _count(row.get("streams")),
            duration(row.get("age")), _count(row.get("restarts") or None),
        )  # fmt: skip
        lines.append(_line((name, *TREE), (prefix + _label(row), *figures)))
    return "\n".join(line.rstrip() for line in lines)


def _label(row: Plain) -> str:
    """The last part of a name that begins with its parent's, and what kind of actor it is."""
    name, parent, kind = _text(row.get("name")), row.get("parent"), row.get("kind")
    if parent and name.startswith(f"{parent}/"):
        name = name[len(parent) + 1 :]
    return f"{name} {kind}" if kind else name


def _branches(rows: Sequence[Plain], lines: _Lines) -> Iterator[tuple[str, Plain]]:
    """Each row behind the lines that lead to it; rows stand behind their parents."""
    depths, above = [], list[str]()
    for row in rows:
        while above and above[-1] != row.get("parent"):
            above.pop()
        depths.append(len(above))
        above.append(_text(row.get("name")))
    follows = _followed(depths)
    for row, depth, more in zip(rows, depths, follows, strict=True):
        lead = "".join(lines.passing if each else lines.none for each in more[1:-1])
        yield (lead + (lines.child if more[-1] else lines.last) if depth else ""), row


def _followed(depths: Sequence[int]) -> list[tuple[bool, ...]]:
    """For each row and each depth down to its own: whether another one of that depth follows on the same branch."""
    found, open_at = [], list[bool]()
    for depth in reversed(depths):
        open_at = open_at[: depth + 1] + [False] * (depth + 1 - len(open_at))
        found.append(tuple(open_at))
        open_at[depth] = True
    return found[::-1]


# --- top --------------------------------------------------------------------------------------------------------------

TOP: Final = (
    _Column("WORKER", 12, left=True), _Column("PID", 7), _Column("STATE", 9, left=True), _Column("LINKS", 6),
    _Column("STRMS", 6), _Column("REQ/S", 7), _Column("BYTES/S", 7), _Column("LATE", 6), _Column("RSS", 5),
    _Column("AGE", 6),
)  # fmt: skip


def render_top(before: Plain | None, now: Plain, seconds: float, width: int, height: int) -> str:
    """One screen: totals, and the workers by their load; rates are those of the ``seconds`` between two answers."""
    parent, workers = now.get("parent") or {}, now.get("workers") or {}
    earlier = ((before or {}).get("workers") or {}) if seconds > 0 else {}
    rates = {name: _rates(earlier.get(name), worker, seconds) for name, worker in workers.items()}
    lines = [*_totals(parent, workers, rates, clocked=before is not None), "", _line(TOP, [each.title for each in TOP])]
    room = max(0, height - len(lines))
    ordered = sorted(workers, key=lambda name: (-_figure(workers[name], "load"), name))
    shown = ordered if len(ordered) <= room else ordered[: max(0, room - 1)]
    lines += [_worker(name, workers[name], rates[name]) for name in shown]
    if left := len(ordered) - len(shown):
        lines.append(f"... and {left} more with less load")
    return "\n".join(line[:width].rstrip() for line in lines[:height])


@frozen
class _Rates:
    """What a worker did in a second; None where that is not known, as for one that has only just begun."""

    requests: float | None = None
    received: float | None = None
    sent: float | None = None

    @property
    def bytes(self) -> float | None:
        return None if self.received is None or self.sent is None else self.received + self.sent


def _rates(before: Plain | None, now: Plain, seconds: float) -> _Rates:
    if before is None or before.get("pid") != now.get("pid") or not before.get("stats") or not now.get("stats"):
        return _Rates()
    names = ("streams_total", "bytes_received", "bytes_sent")
    return _Rates(*(max(0.0, _figure(now["stats"], each) - _figure(before["stats"], each)) / seconds for each in names))


def _totals(
    parent: Plain, workers: Mapping[str, Plain], rates: Mapping[str, _Rates], *, clocked: bool
) -> Iterator[str]:
    stats = [worker["stats"] for worker in workers.values() if worker.get("stats")]
    known = [each for each in rates.values() if each.requests is not None]
    requests, received, sent = (
        sum(getattr(each, name) for each in known) if clocked and known else None
        for name in ("requests", "received", "sent")
    )
    ready = parent.get("workers_ready", sum(worker.get("state") == "ready" for worker in workers.values()))
    head = [
        f"muxlink {_count(parent.get('pid'))}", f"up {duration(parent.get('age'))}",
        f"workers {ready}/{parent.get('workers_wanted', len(workers))} ready",
        f"restarts {_count(parent.get('restarts', 0))}", clean(str(parent.get("url") or "")),
    ]  # fmt: skip
    yield "  ".join(head)
    yield (
        f"connections {_total(stats, 'connections_open')}  streams {_total(stats, 'streams_open')}  "
        f"handlers {_total(stats, 'handlers')}  held {size(_sum(stats, 'bytes_held'))}  "
        f"refused {_total(stats, 'connections_refused')}+{_total(stats, 'streams_refused')}"
    )
    yield f"requests/s {rate(requests)}  bytes/s in {size(received)} out {size(sent)}"


def _worker(name: str, worker: Plain, rates: _Rates) -> str:
    stats = worker.get("stats") or {}
    late = worker.get("late")
    figures = (
        name, _count(worker.get("pid")), _text(worker.get("state")), _count(worker.get("load")),
        _count(stats.get("streams_open")), rate(rates.requests), size(rates.bytes),
        UNKNOWN if late is None else f"{late * 1000:.0f}ms", size(worker.get("rss")), duration(worker.get("age")),
    )  # fmt: skip
    return _line(TOP, figures)


# --- stats ------------------------------------------------------------------------------------------------------------


def render_stats(answer: Plain) -> str:
    """Every figure by its name, a line for each: the parent's, then each worker's."""
    lines = []
    for name, figures in (("parent", answer.get("parent") or {}), *sorted((answer.get("workers") or {}).items())):
        lines.append(clean(name))
        lines += (f"  {clean(key):<22} {clean(shown)}" for key, shown in _flat(figures))
    return "\n".join(lines)


def _flat(figures: Plain) -> Iterator[tuple[str, str]]:
    for key, value in figures.items():
        if key == "stats":
            # Its server's state says less than the worker's own.
            yield from (figure for figure in _flat(value or {}) if figure[0] != "state")
        elif isinstance(value, Mapping):
            yield key, ", ".join(f"{name or 'none'} {_figure_text(each)}" for name, each in value.items()) or UNKNOWN
        elif not isinstance(value, (list, tuple)):
            yield key, _figure_text(value)


def _figure_text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


# --- words and numbers ------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def duration(seconds: float | None) -> str:
    """Such as ``0.3s``, ``59s``, ``12m``, ``3h04m``, ``5d``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if seconds < 100:
        return f"{seconds:.0f}s"
    if hours < 1:
        return f"{minutes}m{int(seconds) % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if hours < 48 else f"{days}d"


def size(value: float | None) -> str:
    """Bytes, such as ``512``, ``1.5K``, ``20M``."""
    if value is None:
        return UNKNOWN
    for unit in ("", "K", "M", "G"):
        if value < 1000:
            return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def rate(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _line(columns: Iterable[_Column], texts: Iterable[str]) -> str:
    return " ".join(column.show(text) for column, text in zip(columns, texts, strict=True))


def _text(value: object) -> str:
    return UNKNOWN if value is None or value == "" else str(value)


def _count(value: object) -> str:
    return _text(value)


def _figure(figures: Plain, name: str) -> float:
    value = figures.get(name)
    return value if isinstance(value, (int, float)) else 0


def _sum(stats: Iterable[Plain], name: str) -> float:
    return sum(_figure(each, name) for each in stats)


def _total(stats: Iterable[Plain], name: str) -> str:
    return f"{_sum(stats, name):.0f}"
