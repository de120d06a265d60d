"""For each stream that waits: what for, since when, and who could end it (pure: pictures in, explanations out).

Theory of operation
    ``inspection.py`` asks the living; here is decided what their pictures mean. A stream is held up by the first of
    these that is so: what it has to send waits (its own window, the connection's, the socket); what came for it is not
    read; what it waits for does not come. Who could end it is whoever holds that: for a connection's window those
    streams whose bytes nobody has read, the largest hoard first.

    A stream that merely runs is no stall. What a handler waits for by itself, such as a database, nobody here can see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from actors.pictures import ConnectionPicture, Leave, StreamOnWire, StreamPicture
from supervisor.explanation import (
    Explanation,
    Figure,
    Findings,
    LinePicture,
    Subject,
    WaitsFor,
    in_bytes,
    in_seconds,
    label,
    many,
    render,
    say,
)

__all__ = ["Explanation", "Findings", "LinePicture", "WaitsFor", "explain", "render"]

LIMIT: Final = "the peer's limit of streams"
LATE: Final = 0.1
"""Seconds by which an event loop is late that its streams feel."""
RECENT: Final = 10.0
"""Seconds for which a timer that rang late says something about now."""
MOST_NAMED: Final = 5
"""Streams that a text names."""
MOST_LISTED: Final = 50
"""Streams that the evidence lists."""
_FIRST: Final = (WaitsFor.LOOP, WaitsFor.ANSWER, WaitsFor.RESUME, WaitsFor.DRAINING)
"""What is said ahead of all others, in this order: it may be the reason for them."""


def explain(found: Findings, stream: str | None = None) -> list[Explanation]:
    """What each stream that waits waits for: first what concerns all, then those that have waited the longest.

    With ``stream``, the name of an actor, it is about that alone, also where it runs.
    """
    if stream is None:
        said = [each for each in _all(found) if each.waits_for is not WaitsFor.NOTHING]
    else:
        said = [each for each in _all(found) if each.stream == stream or each.waits_for is WaitsFor.LOOP]
    order = {kind: rank for rank, kind in enumerate(_FIRST)}
    return sorted(said, key=lambda each: (order.get(each.waits_for, len(order)), -(each.since or 0.0)))


def _all(found: Findings) -> Iterator[Explanation]:
    yield from _of_loop(found)
    for name in found.silent:
        yield say(
            Subject(name, name), WaitsFor.ANSWER, found.patience, "its actor's answer",
            "its turn hangs, or the event loop is late", who="whatever keeps the event loop busy in this process",
        )  # fmt: skip
    if found.line is not None:
        yield from _of_line(found, found.line)
        yield from _between_attempts(found.line)
    for connection in found.connections:
        yield from _of_connection(connection, found.streams)


def _of_loop(found: Findings) -> Iterator[Explanation]:
    timers = [late for late, ago in (each.late for each in found.connections) if ago <= RECENT]
    timer = max(timers, default=0.0)
    if found.lag < LATE and timer < LATE:
        return
    backlog = max((each.backlog for each in found.connections), default=0)
    because = f"what was to run at once ran {in_seconds(found.lag)} later"
    if found.lag < LATE:
        because = f"a timer that rang within the last {RECENT:g} s was {in_seconds(timer)} late"
    yield say(
        Subject(found.owner), WaitsFor.LOOP, max(found.lag, timer), "its own event loop", because,
        who="whatever blocks the loop: a handler or callback that computes or blocks (asyncio.to_thread)",
        lag=found.lag, timer=timer, backlog=backlog,
    )  # fmt: skip


# --- a link's line ----------------------------------------------------------------------------------------------------


def _of_line(found: Findings, line: LinePicture) -> Iterator[Explanation]:
    total = len(line.waiting)
    full = line.ready > 0 and line.load >= line.allowed
    kind, what, because, who = _of_limit(found, line) if full else _on_the_way(line)
    for place, (name, since) in enumerate(line.waiting, 1):
        yield say(
            Subject(name), kind, since, what, f"place {place} of {total} in the line of {found.owner}; {because}",
            who=who, place=place, waiting=total, max_pending=line.max_pending, state=line.state, load=line.load,
            allowed=line.allowed, ready=line.ready, dialling=line.dialling, starting=line.starting,
        )  # fmt: skip


def _between_attempts(line: LinePicture) -> Iterator[Explanation]:
    for name, since, left, failed in line.resting:
        yield say(
            Subject(name), WaitsFor.ATTEMPT, since, "its next attempt",
            f"the last failed ({failed}), and it goes again in {in_seconds(max(left, 0.0))}",
            who="time alone; how long it is, Retry says, or the peer by retry-after", left=left, failed=failed,
        )  # fmt: skip


def _of_limit(found: Findings, line: LinePicture) -> tuple[WaitsFor, str, str, str]:
    over = f" over {line.ready:,} connections" if line.ready > 1 else ""
    oldest = _oldest(found.connections, found.streams)
    because = f"the peer allows {many(line.allowed, 'stream')} at a time{over}, and {line.load:,} are open{oldest}"
    return WaitsFor.STREAM_LIMIT, LIMIT, because, _who_ends(line.allowed)


def _on_the_way(line: LinePicture) -> tuple[WaitsFor, str, str, str]:
    network = f"the service at {line.where}, or the network on the way to it"
    if line.ready:
        because = f"of {many(line.ready, 'connection')} each is silent, and asked by PING first, or fails too often"
        return WaitsFor.PLACE, "a place on a connection", because, network
    if line.dialling or line.starting or line.state == "CONNECTING":
        stage = "its SETTINGS are awaited" if line.starting and not line.dialling else "it is dialled"
        return WaitsFor.DIALLING, "a connection that is being made", f"{stage} at {line.where}", network
    why = f": {line.cause}" if line.cause else ""
    return WaitsFor.CONNECTION, "a connection", f"the link is in {line.state}{why}", network


# --- a connection -----------------------------------------------------------------------------------------------------


def _of_connection(at: ConnectionPicture, actors: Mapping[str, StreamPicture]) -> Iterator[Explanation]:
    if at.suspended:
        yield say(
            Subject(at.name, at.name), WaitsFor.RESUME, None, "being resumed",
            "it was suspended, and reads and says nothing", who="whoever suspended it", backlog=at.backlog,
        )  # fmt: skip
    if at.leave is not None and at.wire.streams:
        yield _draining(at, at.leave)
    yield from _of_slots(at, actors)
    for row in at.wire.streams:
        actor = actors.get(at.names.get(row.stream_id, ""))
        yield _sending(at, row) or _receiving(at, row, actor) or _runs(at, row, actor)


def _draining(at: ConnectionPicture, leave: Leave) -> Explanation:
    streams, left = at.wire.streams, leave.left
    names = ", ".join(_name(at, each.stream_id) for each in streams[:MOST_NAMED])
    more = f" and {len(streams) - MOST_NAMED:,} more" if len(streams) > MOST_NAMED else ""
    until = "with all the time that they take" if left is None else f"to be cut in {in_seconds(left)}"
    cause = f"the peer said GOAWAY ({leave.why})" if leave.by_peer else f"we said GOAWAY ({leave.why})"
    theirs = (
        "the callers of these streams, or the peer's handlers" if at.wire.client else "the handlers of these streams"
    )
    return say(
        Subject(at.name, at.name), WaitsFor.DRAINING, leave.since,
        f"the end of its {many(len(streams) + at.wire.left_out, 'open stream')}",
        f"{cause}; open: {names}{more}, {until}",
        who=theirs,
        by_peer=leave.by_peer, left=left, streams=len(streams) + at.wire.left_out,
    )  # fmt: skip


def _of_slots(at: ConnectionPicture, actors: Mapping[str, StreamPicture]) -> Iterator[Explanation]:
    """Those that have a connection, and wait there for its peer's limit."""
    because = f"the peer allows {many(at.limit, 'stream')} at a time, and {at.places:,} are open{_oldest([at], actors)}"
    for place, (name, since) in enumerate(at.waiting, 1):
        yield say(
            Subject(name, at.name), WaitsFor.STREAM_LIMIT, since, LIMIT,
            f"place {place} of {len(at.waiting)}; {because}",
            who=_who_ends(at.limit), place=place, waiting=len(at.waiting), allowed=at.limit, load=at.places,
        )  # fmt: skip


def _oldest(connections: Sequence[ConnectionPicture], actors: Mapping[str, StreamPicture]) -> str:
    """In words, which of the streams that we opened has been open for the longest."""
    ours = [
        (-actor.age, row.stream_id, actor.name)
        for at in connections
        for row in at.wire.streams
        if row.stream_id % 2 == int(at.wire.client) and (actor := actors.get(_name(at, row.stream_id))) is not None
    ]
    if not ours:
        return ""
    age, stream_id, name = min(ours)
    return f", the oldest {label(name, stream_id)} for {in_seconds(-age)}"


def _who_ends(limit: int) -> str:
    return "the end of one of these streams" if limit else "the peer, by SETTINGS that allow some"


# --- a stream ---------------------------------------------------------------------------------------------------------


def _sending(at: ConnectionPicture, row: StreamOnWire) -> Explanation | None:
    """What keeps what it has to send from going out."""
    figures: dict[str, Figure] = {"queued": row.queued, "stream_window": row.window, "send_window": at.wire.send_window}
    if not row.queued:
        return None
    if at.suspect:
        return _on_peer(at, row)
    if at.socket_full is not None:
        return _on_socket(at, row, _shortest(at.socket_full, row.still))
    if row.window <= 0:
        because = (
            f"{in_bytes(row.queued)} wait, and {in_bytes(row.outstanding)} that the peer has were not given back"
            if row.outstanding
            else f"{in_bytes(row.queued)} wait, and the peer takes none on it"
        )
        return say(
            _whom(at, row), WaitsFor.STREAM_WINDOW, row.still, "its stream's send window", because,
            who=f"the peer's {_reader(not at.wire.client)} of this stream", outstanding=row.outstanding, **figures,
        )  # fmt: skip
    if at.wire.send_window <= 0:
        return _on_connection_window(at, row, figures)
    return None


def _on_connection_window(at: ConnectionPicture, row: StreamOnWire, figures: Mapping[str, Figure]) -> Explanation:
    hoards = _hoards(at, {each.stream_id: each.outstanding for each in at.wire.streams})
    others = at.wire.send_used - sum(each.outstanding for each in at.wire.streams)
    by = [f"stream {each['stream_id']} ({each['bytes']:,})" for each in hoards[:MOST_NAMED]]
    by += [f"{len(hoards) - MOST_NAMED:,} more streams"] * (len(hoards) > MOST_NAMED)
    by += [f"streams that have ended ({others:,})"] * (others > 0 and not at.wire.left_out)
    because = f"{in_bytes(at.wire.send_used)} are used up by {', '.join(by)}, which the peer does not read"
    if not by:
        because = "the peer has opened none"
    return say(
        _whom(at, row), WaitsFor.CONNECTION_WINDOW, row.still,
        "the connection's send window", because, who=f"the peer's {_reader(not at.wire.client)}s of these streams",
        direction="send", used=at.wire.send_used, hoarders=hoards[:MOST_LISTED], **figures,
    )  # fmt: skip


def _on_socket(at: ConnectionPicture, row: StreamOnWire, since: float | None) -> Explanation:
    return say(
        _whom(at, row), WaitsFor.SOCKET, since, "the socket",
        f"{in_bytes(at.socket_bytes)} are in it, and the other side takes none",
        who=f"the process at {at.peer}, which does not read its socket, or the network on the way",
        socket_bytes=at.socket_bytes, socket_full=at.socket_full, queued=row.queued,
    )  # fmt: skip


def _on_peer(at: ConnectionPicture, row: StreamOnWire) -> Explanation:
    silent = at.heard if at.pinged is None else at.pinged
    return say(
        _whom(at, row), WaitsFor.PEER, silent, f"a sign of life from {at.peer}",
        f"it has said nothing for {in_seconds(at.heard)} and has not answered the last PING",
        who="the peer, or the network; its death ends it (Health.timeout)", heard=at.heard, pinged=at.pinged,
    )  # fmt: skip


def _receiving(at: ConnectionPicture, row: StreamOnWire, actor: StreamPicture | None) -> Explanation | None:
    """What keeps what it waits for from coming, or from being read."""
    if actor is None:
        return None
    client = at.wire.client
    if actor.unread and not actor.reading:
        return say(
            _whom(at, row), WaitsFor.READER, row.kept, f"its {_reader(client)}",
            f"{in_bytes(actor.unread)} came and are not read",
            who=f"its {_reader(client)}, by reading or by leaving the stream",
            unread=actor.unread, owed=row.owed, receive_window=at.wire.receive_window,
        )  # fmt: skip
    if actor.remote_ended or not (actor.reading or (client and (actor.asking or row.ending))):
        return None
    # Of all that happened to it, the last.
    since = _shortest(actor.age, actor.ended, row.opened, row.came)
    if at.suspect:
        return _on_peer(at, row)
    if client and not actor.headed:
        if at.socket_full is not None:
            return _on_socket(at, row, _shortest(at.socket_full, since))
        sent = "the request is whole, and nothing came back" if row.ending else "nothing came back yet"
        return say(
            _whom(at, row), WaitsFor.RESPONSE, since, "its response", sent,
            who=f"the peer's handler at {at.peer}", heard=at.heard, whole=row.ending,
        )  # fmt: skip
    if not actor.reading:
        return None
    if at.wire.receive_window <= 0:
        return _on_receive_window(at, row, since)
    return say(
        _whom(at, row), WaitsFor.BODY, since, f"more of the {'response' if client else 'request'}",
        "all that came was read",
        who=f"the peer's {'handler' if client else 'caller'} at {at.peer}", receive_window=at.wire.receive_window,
    )  # fmt: skip


def _on_receive_window(at: ConnectionPicture, row: StreamOnWire, since: float | None) -> Explanation:
    hoards = _hoards(at, {each.stream_id: each.owed for each in at.wire.streams})
    by = ", ".join(f"{label(str(each['stream']), 0)} ({each['bytes']:,})" for each in hoards[:MOST_NAMED])
    by += f" and {len(hoards) - MOST_NAMED:,} more streams" * (len(hoards) > MOST_NAMED)
    reader = _reader(at.wire.client)
    return say(
        _whom(at, row), WaitsFor.CONNECTION_WINDOW, since,
        "the connection's receive window",
        f"{in_bytes(at.wire.receive_used)} are used up by {by or 'what is being read'}, whose {reader}s do not read",
        who=f"the {reader}s of these streams, in this process", direction="receive", used=at.wire.receive_used,
        receive_window=at.wire.receive_window, hoarders=hoards[:MOST_LISTED],
    )  # fmt: skip


def _runs(at: ConnectionPicture, row: StreamOnWire, actor: StreamPicture | None) -> Explanation:
    own = "its caller" if at.wire.client else "its handler"
    return say(
        _whom(at, row), WaitsFor.NOTHING, None, "nothing that is known here",
        "it runs", who=own, queued=row.queued, owed=row.owed, age=actor.age if actor is not None else None,
    )  # fmt: skip


# --- words ------------------------------------------------------------------------------------------------------------


def _hoards(at: ConnectionPicture, sizes: Mapping[int, int]) -> tuple[Mapping[str, int | str], ...]:
    """Who holds how much of a window, the largest first; one that waits for it may be among them."""
    holding = sorted(((size, -each) for each, size in sizes.items() if size > 0), reverse=True)
    return tuple({"stream": _name(at, -each), "stream_id": -each, "bytes": size} for size, each in holding)


def _whom(at: ConnectionPicture, row: StreamOnWire) -> Subject:
    return Subject(_name(at, row.stream_id), at.name, row.stream_id)


def _name(at: ConnectionPicture, stream_id: int) -> str:
    return at.names.get(stream_id) or f"{at.name}/stream-{stream_id}"


def _reader(client: bool) -> str:
    return "caller" if client else "handler"


def _shortest(*since: float | None) -> float | None:
    """The shortest time: of what has happened, the last."""
    return min((each for each in since if each is not None), default=None)
