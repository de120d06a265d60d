"""What a server has counted, as OpenMetrics 1.0 text: one exposition for all workers, ``muxlink_...`` by name.

A family is written only where it has a sample, and what a figure lacks is left out rather than made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

Figures = Mapping[str, Any]
Sample = tuple[str, Mapping[str, str], float]
"""What follows the family's name, the labels, and the value."""
Measure = Callable[[Figures], Iterator[Sample]]
"""The samples that one worker's, or the parent's, figures hold."""

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@frozen
class Family:
    """Samples of one name."""

    name: str
    type: str
    help: str
    measure: Measure
    unit: str = ""


def _plain(field: str, suffix: str = "") -> Measure:
    """The value of one field."""

    def measure(figures: Figures) -> Iterator[Sample]:
        if (value := _number(figures.get(field))) is not None:
            yield suffix, {}, value

    return measure


def _by(label: str, field: str, suffix: str = "", *, unnamed: str = "") -> Measure:
    """A value for each name in a field; ``unnamed`` is the label of the one whose name is empty."""

    def measure(figures: Figures) -> Iterator[Sample]:
        for name, each in sorted((figures.get(field) or {}).items()):
            if (value := _number(each)) is not None:
                yield suffix, {label: name or unnamed}, value

    return measure


def _is(label: str, field: str) -> Measure:
    """The number 1, labelled with what the field says."""

    def measure(figures: Figures) -> Iterator[Sample]:
        if (value := figures.get(field)) is not None:
            yield "", {label: str(value)}, 1

    return measure


def _quantiles(field: str) -> Measure:
    def measure(figures: Figures) -> Iterator[Sample]:
        found = figures.get(field) or {}
        if found.get("count"):  # of nothing there is no half
            for quantile, name in (("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99"), ("1.0", "most")):
                if (value := _number(found.get(name))) is not None:
                    yield "", {"quantile": quantile}, value

    return measure


def _gauge(name: str, help: str, field: str, *, unit: str = "") -> Family:
    return Family(name, "gauge", help, _plain(field), unit)


def _counter(name: str, help: str, field: str, *, unit: str = "") -> Family:
    return Family(name, "counter", help, _plain(field, "_total"), unit)


def _counters(name: str, help: str, label: str, field: str, *, unnamed: str = "") -> Family:
    return Family(name, "counter", help, _by(label, field, "_total", unnamed=unnamed))


PARENT: Final = (
    _gauge("muxlink_workers_wanted", "Worker processes that should run.", "workers_wanted"),
    _gauge("muxlink_workers_ready", "Worker processes that serve.", "workers_ready"),
    _counter("muxlink_restarts", "Worker processes that were started in place of one that had failed.", "restarts"),
    _gauge("muxlink_generation", "Which generation of workers it is: one more with each reload.", "generation"),
    _gauge("muxlink_uptime_seconds", "Time since the parent began.", "age", unit="seconds"),
)
"""Of the parent's figures."""
WORKER: Final = (
    Family("muxlink_worker_state", "gauge", "What a worker process is doing.", _is("state", "state")),
    _gauge("muxlink_worker_generation", "The generation that the worker is of.", "generation"),
    _gauge("muxlink_worker_load", "Connections that were given to the worker and have not ended.", "load"),
    _gauge("muxlink_worker_age_seconds", "Time since the worker process was started.", "age", unit="seconds"),
    _gauge("muxlink_worker_late_seconds", "By how much the worker's loop was late.", "late", unit="seconds"),
)
"""Of what the parent knows of a worker."""
SERVER: Final = (
    Family("muxlink_server_state", "gauge", "What the server in a worker is doing.", _is("state", "state")),
    _gauge("muxlink_server_uptime_seconds", "Time since the server began.", "uptime", unit="seconds"),
    _gauge("muxlink_connections_open", "Connections now.", "connections_open"),
    Family("muxlink_connections", "gauge", "Connections now, by state.", _by("state", "connections_by_state")),
    _counter("muxlink_connections_accepted", "Connections that were served.", "connections_accepted"),
    _counter("muxlink_connections_refused", "Connections that were closed at once for a limit.", "connections_refused"),
    _counters(
        "muxlink_connections_ended", "Connections that have ended, by the class of the error.", "reason",
        "connections_ended", unnamed="none",
    ),
    _gauge("muxlink_streams_open", "Streams that count against a limit.", "streams_open"),
    _counter("muxlink_streams", "Streams that clients opened, and those that were pushed.", "streams_total"),
    _counter("muxlink_streams_refused", "Streams that got REFUSED_STREAM.", "streams_refused"),
    _gauge("muxlink_handlers", "Handlers that run.", "handlers"),
    _counter("muxlink_received_bytes", "Bytes from sockets, frames and all.", "bytes_received", unit="bytes"),
    _counter("muxlink_sent_bytes", "Bytes given to sockets, frames and all.", "bytes_sent", unit="bytes"),
    _gauge("muxlink_held_bytes", "Bytes queued for windows or sockets.", "bytes_held", unit="bytes"),
    _gauge("muxlink_send_window_bytes", "Bytes of bodies that the clients take now.", "send_window", unit="bytes"),
    _gauge("muxlink_receive_window_bytes", "Bytes of bodies that we take now.", "receive_window", unit="bytes"),
    Family(
        "muxlink_round_trip_seconds", "summary", "Round trips of the last PINGs.", _quantiles("round_trips"), "seconds"
    ),
    _counters("muxlink_refusals", "How often a limit refused or ended something.", "limit", "refusals"),
)  # fmt: skip
"""Of a server's own figures."""


def text(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The exposition of ``parent``, and of each worker in ``workers`` by its name.

    A worker's ``stats`` are its :class:`~supervisor.stats.ServerStats` as a dictionary, or None where it gave none.
    """
    workers: Mapping[str, Figures] = figures.get("workers", {})
    servers = {name: worker["stats"] for name, worker in workers.items() if worker.get("stats")}
    lines = [
        *_written(PARENT, [({}, figures.get("parent", {}))]),
        *_written(WORKER, [({"worker": name}, worker) for name, worker in workers.items()]),
        *_written(SERVER, [({"worker": name}, stats) for name, stats in servers.items()]),
    ]
    return "".join(f"{line}\n" for line in [*lines, "# EOF"])


def _written(families: Sequence[Family], sources: Sequence[tuple[Mapping[str, str], Figures]]) -> Iterator[str]:
    for family in families:
        samples = [
            f"{family.name}{suffix}{_labels({**labels, **more})} {_value(value)}"
            for labels, figures in sources
            for suffix, more, value in family.measure(figures)
        ]
        if samples:
            yield f"# TYPE {family.name} {family.type}"
            if family.unit:
                yield f"# UNIT {family.name} {family.unit}"
            yield f"# HELP {family.name} {_escaped(family.help)}"
            yield from samples


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _value(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
