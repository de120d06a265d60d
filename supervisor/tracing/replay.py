"""Replaying a capture: the same connection takes in the same messages again, on a clock that is the recording's.

Theory of operation
    A connection's actor does what its messages make it do, so one that takes in the same messages in the same turns
    tells the same, or the program has changed. Without a handler, all who told it anything are puppets: its socket, its
    owner, its timers and its streams. With a handler, a server's streams run that, timers ring by themselves, and only
    what came from outside is told, at its time; sleeps of the handler pass at once.

What a replay cannot know: how much the socket's buffer held, what the connections of a server shared, at which moment
of its jitter a connection was too old, and what a handler learns from the world beside its streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from attrs import frozen

from actors.errors import Misuse
from actors.messages import Kill
from actors.server_stream import Handler
from supervisor.tracing import jsonl
from supervisor.tracing.clock import ReplayLoop
from supervisor.tracing.difference import first_difference
from supervisor.tracing.failures import Failure, failures_of
from supervisor.tracing.player import Player
from supervisor.tracing.recordings import Recording, recordings
from supervisor.tracing.records import Event, Trace

ALLOWANCE: Final = 60.0
"""Seconds of the replay's clock that handlers have after the end of the recording."""
_OF_SOCKET: Final = frozenset(("BytesArrived", "ConnectionLost", "WritePaused", "WriteResumed"))
_FROM_OUTSIDE: Final = _OF_SOCKET | {"Drain", "ChangeLimits", "SendPing", "Halt"}


@frozen(kw_only=True)
class Replayed:
    """What became of a replay."""

    same: bool
    """Whether the same messages were told, and all ended for the same reasons."""
    difference: str
    """The first difference, with what is around it and the input that led there; empty where there is none."""
    connections: tuple[str, ...]
    messages: tuple[Event, ...]
    """All that the actors of the replay told."""
    exits: tuple[str, ...]
    """How each connection ended that did."""
    failures: tuple[Failure, ...]
    """What went wrong in the replay."""
    recorded: tuple[Failure, ...]
    """What went wrong in the recording."""
    warnings: tuple[str, ...]
    """What a reader should know of it, such as connections that could not be replayed."""

    def failed(self, actor: str) -> str:
        """What went wrong with a connection or stream in the replay; empty where all went well."""
        return "; ".join(failure.what for failure in self.failures if failure.actor == actor)


def replay(path: Path | str, *, connection: str | None = None, handler: Handler | None = None) -> Replayed:
    """Replay the connections of a capture, or the one of that name, and compare.

    With ``handler``, those of servers alone, all on one clock, since handlers may share something. Runs an event loop
    of its own. Raises Misuse for what is no capture for a replay, and where a loop runs already.
    """
    return replay_trace(jsonl.load(path), connection=connection, handler=handler)


def replay_trace(trace: Trace, *, connection: str | None = None, handler: Handler | None = None) -> Replayed:
    """The same, of a trace that was read already."""
    chosen, warnings = recordings(trace, connection)
    if handler is not None:
        warnings += [f"{each.name} is a client's: no handler runs there" for each in chosen if not each.is_server]
        chosen = [each for each in chosen if each.is_server]
        if not chosen:
            raise Misuse("no connection of a server can be replayed, so there is nothing that a handler could serve")
        players = _played(chosen, partial(_serve, chosen, handler))
    else:
        players = [player for each in chosen for player in _played([each], partial(_direct, each))]
    return _judged([*trace.warnings, *warnings], players, live=handler is not None)


def replay_command(path: Path, handler: Handler | None = None, *, connection: str | None = None) -> tuple[int, str]:
    """What ``muxlink trace replay`` does: its exit code, 0 where all was the same and 1 where not, and what it says."""
    replayed = replay(path, connection=connection, handler=handler)
    lines = [f"warning: {warning}" for warning in replayed.warnings]
    many = f"{len(replayed.messages):,} messages of {', '.join(replayed.connections)}"
    lines.append(f"{'the same' if replayed.same else 'different'}: {many}")
    if replayed.difference:
        lines.append(replayed.difference)
    lines += [f"ended: {each}" for each in replayed.exits]
    lines += [f"failed: {each}" for each in replayed.failures]
    return int(not replayed.same), "\n".join(lines)


def _judged(warnings: list[str], players: Sequence[Player], *, live: bool) -> Replayed:
    messages: list[Event] = []
    failures: list[Failure] = []
    recorded: list[Failure] = []
    differences, exits = [], []
    for player in players:
        recording, name = player.recording, player.recording.name
        messages += player.events
        until = recording.end if live else None
        where = recording.where
        differences.append(first_difference(name, recording.events, player.events, live=live, until=until))
        ends = [event.text for event in player.events if event.sender == name and event.type == "Exited"][:1]
        exits += [f"{where}{text}" for text in ends]
        failures += [each.at(where) for each in failures_of(player.events, name)]
        recorded += [each.at(where) for each in failures_of(recording.events, name)]
    return Replayed(
        same=not any(differences), difference="\n".join(filter(None, differences)), exits=tuple(exits),
        connections=tuple(player.recording.label for player in players), messages=tuple(messages),
        failures=tuple(failures), recorded=tuple(recorded), warnings=tuple(warnings),
    )  # fmt: skip


def _played(
    chosen: Sequence[Recording], play: Callable[[ReplayLoop], Coroutine[None, None, list[Player]]]
) -> list[Player]:
    """Who played, on a loop that begins when the first of the recordings does."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise Misuse("a replay runs an event loop of its own: call it outside of any, or with asyncio.to_thread()")
    loop = ReplayLoop(min(recording.began for recording in chosen))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(play(loop))


async def _direct(recording: Recording, loop: ReplayLoop) -> list[Player]:
    """Tell a connection all that it took in, turn by turn."""
    player = Player(recording, loop.time)
    player.begin()
    await loop.settled()
    for turn in recording.turns():
        loop.go_to(turn[-1].time)
        player.tell(turn)
        await loop.settled()
    loop.go_to(recording.end)
    await loop.settled()
    await _leave(player)
    return [player]


async def _serve(chosen: Sequence[Recording], handler: Handler, loop: ReplayLoop) -> list[Player]:
    """Tell connections what came from outside, each at its time, while their streams run the handler."""
    players = [Player(recording, loop.time, handler) for recording in chosen]
    await asyncio.gather(*(_feed(player, loop) for player in players))  # an error comes out as it is, in no group
    end, wait = max(recording.end for recording in chosen), 0.001
    await _until(end, loop)
    while any(player.actor.children for player in players) and loop.time() < end + ALLOWANCE:
        await asyncio.sleep(wait)
        wait *= 2
    for player in players:
        await _leave(player)
    return players


async def _feed(player: Player, loop: ReplayLoop) -> None:
    recording = player.recording
    await _until(recording.began, loop)
    player.begin()
    for event in recording.inputs():
        if event.type not in _FROM_OUTSIDE or event.sender == recording.name:
            continue
        await _until(event.time, loop)
        # What it closed itself gives nothing more.
        if not (event.type in _OF_SOCKET and player.socket.is_closing()):
            player.tell([event])


async def _until(time: float, loop: ReplayLoop) -> None:
    await asyncio.sleep(max(time - loop.time(), 0.0))


async def _leave(player: Player) -> None:
    """End what has not ended in the recording, either."""
    player.leave()
    if player.actor.exited is None:
        player.actor.signal(Kill())
        await player.actor.wait()
