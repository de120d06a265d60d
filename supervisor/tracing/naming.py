"""Names of processes that are unique in two traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import evolve

from supervisor.tracing.records import Conversation, Event, Record, Trace


def renamed(first: Trace, second: Trace) -> tuple[Trace, Trace]:
    """Both traces; where each has a process of one name, both get what tells them apart behind it, such as ``@server``.

    That is the side that the process is on in all its connections, else its pid, else which trace it is of.
    """
    ones, others = _processes(first), _processes(second)
    names: tuple[dict[str, str], dict[str, str]] = {}, {}
    taken = ones | others
    for name in sorted(ones & others):
        for mark in _marks(first, second, name):
            new = [f"{name}@{each}" for each in mark]
            if new[0] != new[1] and not taken.intersection(new):
                break
        names[0][name], names[1][name] = new
        taken.update(new)
    return _with_names(first, names[0]), _with_names(second, names[1])


def _processes(trace: Trace) -> set[str]:
    return {head.process for head in trace.heads} | {event.process for event in trace.events}


def _marks(first: Trace, second: Trace, name: str) -> Iterator[tuple[str, str]]:
    sides = [{each.side for each in trace.conversations if each.process == name} for trace in (first, second)]
    if all(len(some) == 1 for some in sides):
        yield sides[0].pop(), sides[1].pop()
    pids = [{str(head.pid) for head in trace.heads if head.process == name} for trace in (first, second)]
    if all(len(some) == 1 for some in pids):
        yield pids[0].pop(), pids[1].pop()
    yield "first", "second"
    number = 1
    while True:
        yield str(number), str(number + 1)
        number += 2


def _with_names(trace: Trace, names: Mapping[str, str]) -> Trace:
    if not names:
        return trace
    return Trace.of((_named(record, names) for record in trace.records()), trace.warnings)


def _named(record: Record, names: Mapping[str, str]) -> Record:
    process = names.get(record.process, record.process)
    match record:
        case Event(remote=remote) if remote:
            return evolve(record, process=process, remote=tuple((names.get(name, name), id) for name, id in remote))
        case Conversation(remote=(name, actor)):
            return evolve(record, process=process, remote=(names.get(name, name), actor))
    return record if process == record.process else evolve(record, process=process)
