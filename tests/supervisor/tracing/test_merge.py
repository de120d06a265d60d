"""Two ends' traces that become one."""

from __future__ import annotations

import asyncio
import io
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve

from actors.errors import Misuse
from actors.server_stream import ServerStream
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing import jsonl, mermaid, perfetto
from supervisor.tracing.merge import merge, merge_files
from supervisor.tracing.records import Trace
from supervisor.tracing.snapshot import snapshot
from tests.supervisor.tracing.ends import FAR, Ends, ahead_by, both_ends, echo, far_server, taped
from tests.supervisor.tracing.samples import conversation
from tests.supervisor.tracing.talks import ROUNDING, Talk, assert_order, chatter
from tests.supervisor.tracing.trace_event_format import complaints
from tests.support.certificates import Authority


def assert_clocks(merged: Trace, ahead: float) -> None:
    """The offset is right within its uncertainty, and nothing arrives before it was sent by more than that."""
    (head,) = (head for head in merged.heads if head.offset is not None)
    assert head.offset is not None
    assert head.uncertainty is not None
    assert abs(head.offset - ahead) <= head.uncertainty + ROUNDING
    assert_order(merged, head.uncertainty)


def one_process(trace: Trace, process: str) -> Trace:
    return Trace.of(record for record in trace.records() if record.process == process)


async def talk(ends: Ends, requests: int = 3) -> Trace:
    """Ask a few times, and merge what both remember."""
    for number in range(requests):
        await ends.link.request("POST", f"/{number}", body=b"x" * 40_000)
    await ends.link.ping()
    return merge(*ends.traces())


@pytest.mark.parametrize("ahead", [FAR, 0.003, -FAR, 0.0])
async def test_two_ends_become_one_on_the_clock_of_the_first(ahead: float) -> None:
    """T8."""
    async with both_ends(echo, ahead=ahead) as ends:
        merged = await talk(ends)
        _, second = ends.traces()
    assert_clocks(merged, ahead)
    head = next(head for head in merged.heads if head.process == "server")
    assert head.uncertainty is not None
    assert head.uncertainty < 0.1
    assert {head.process for head in merged.heads} == {"client", "server"}
    assert all(event.remote for event in merged.events if event.type == "FramesArrived")
    ours, theirs = merged.conversations
    assert ours.remote == (theirs.process, theirs.name)
    assert theirs.remote == (ours.process, ours.name)
    (note,) = merged.warnings
    assert re.fullmatch(
        r"the clock of server is .+ (ahead of|behind) that of client, .+ frames of server-1?\S*connection-1", note
    )
    assert second.heads[0].offset is None


async def test_the_first_trace_may_be_the_server_s() -> None:
    """T8."""
    async with both_ends(echo) as ends:
        await talk(ends)
        first, second = ends.traces()
    assert_clocks(merge(second, first), -FAR)


async def test_a_chain_leads_from_a_handler_over_the_wire_to_its_own_caller() -> None:
    """T8: requests that go out in one write are told apart by their streams."""
    async with both_ends(echo) as ends:
        await asyncio.gather(*(ends.link.request("POST", f"/{number}", body=b"x" * number) for number in range(5)))
        merged = merge(*ends.traces())
    answers = [event for event in merged.events if event.type == "Respond"]
    assert len(answers) == 5
    for answer in answers:
        chain = merged.chain(answer)
        processes = [event.process for event in chain]
        assert processes == sorted(processes, reverse=True)
        asked = next(event for event in chain if event.process == "client" and event.type != "FramesSent")
        assert asked.type == "OpenStream"
        assert asked.stream == answer.stream
        arrived = next(
            event for event in merged.events if event.type == "HeadersArrived" and event.stream == answer.stream
        )
        path = re.search(r"/(\d)\b", arrived.text)
        assert path is not None
        assert path[0] in asked.text
        assert [event.type for event in chain][-2:] != ["FramesArrived", "BytesArrived"]


async def test_a_chain_leads_back_from_the_caller_s_answer_through_the_server_to_the_question() -> None:
    """T8."""
    async with both_ends(echo) as ends:
        merged = await talk(ends, 1)
    answered = next(event for event in merged.events if event.process == "client" and event.type == "HeadersArrived")
    walk = [event.process for event in merged.chain(answered)]
    turns = [after for before, after in pairwise(walk) if before != after]
    assert turns == ["server", "client"]


async def test_over_tls(tmp_path: Path) -> None:
    """T8."""
    authority = Authority(tmp_path)
    async with both_ends(echo, tls=(authority.server(), authority.client())) as ends:
        assert_clocks(await talk(ends), FAR)


async def test_over_a_unix_socket_frames_tell(tmp_path: Path) -> None:
    """T8: its client has no address."""
    async with both_ends(echo, path=str(tmp_path / "socket")) as ends:
        merged = await talk(ends)
    assert_clocks(merged, FAR)
    assert "addresses do not tell which connection of server is which of client, frames do" in merged.warnings[-1]


async def test_several_connections_are_told_apart() -> None:
    """T8."""
    async with both_ends(echo, connections=4) as ends:
        await asyncio.gather(*(ends.link.request("POST", "/", body=b"x" * 1000 * n) for n in range(20)))
        merged = merge(*ends.traces())
    assert_clocks(merged, FAR)
    of_client = {each.name: each for each in merged.conversations if each.process == "client"}
    of_server = {each.name: each for each in merged.conversations if each.process == "server"}
    assert len(of_client) == 4
    for each in of_client.values():
        assert each.remote is not None
        assert (each.local, each.peer) == (of_server[each.remote[1]].peer, of_server[each.remote[1]].local)


async def test_several_connections_over_a_unix_socket_are_told_apart_by_what_went_over_them(tmp_path: Path) -> None:
    """T8."""
    async with both_ends(echo, path=str(tmp_path / "socket"), connections=3) as ends:
        sizes = iter(range(100, 10_000, 300))

        async def ask() -> None:
            await ends.link.request("POST", "/", body=b"x" * next(sizes))

        for _ in range(3):
            await asyncio.gather(*(ask() for _ in range(6)))
        merged = merge(*ends.traces())
    assert_clocks(merged, FAR)
    paired = [each for each in merged.conversations if each.process == "client" and each.remote is not None]
    assert len(paired) == 3


async def test_rings_that_forgot_how_it_began_are_laid_together_by_their_frames() -> None:
    """T8: and then one knows what the other forgot."""
    async with both_ends(echo, max_bytes=(12_000, 20_000)) as ends:
        merged = await talk(ends, 20)
    assert {event.type for event in merged.events}.isdisjoint({"ConnectionBegan"})
    assert_clocks(merged, FAR)
    assert {each.process: each.remote for each in merged.conversations} == {
        "client": ("server", next(event.connection for event in merged.events if event.process == "server")),
        "server": ("client", next(event.connection for event in merged.events if event.process == "client")),
    }


async def test_one_end_knows_how_the_connection_began_that_the_other_forgot() -> None:
    """T8."""
    async with both_ends(echo, max_bytes=(2**22, 20_000)) as ends:
        merged = await talk(ends, 20)
    assert_clocks(merged, FAR)
    ours, theirs = sorted(merged.conversations, key=lambda each: each.process)
    assert (theirs.side, theirs.local, theirs.peer) == ("server", ours.peer, ours.local)


async def test_behind_address_translation_frames_tell() -> None:
    """T8."""
    async with both_ends(echo) as ends:
        await talk(ends)
        first, second = ends.traces()
    (seen,) = second.conversations
    translated = Trace.of([*second.heads, evolve(seen, peer="192.0.2.1:1"), *second.events])
    merged = merge(first, translated)
    assert_clocks(merged, FAR)
    assert "addresses do not tell" in merged.warnings[-1]


async def test_two_processes_that_are_called_alike(tmp_path: Path) -> None:
    """T8: from files, with wall clocks a day apart."""
    ours, theirs, target = (tmp_path / f"{name}.jsonl" for name in ("ours", "theirs", "both"))
    async with far_server(theirs, FAR) as url:
        link = Link(url, record=False)
        recorder = taped(link, ahead_by(0.0), 2**22)
        async with link:
            for _ in range(3):
                await link.request("POST", "/", body=b"hello")
            await link.ping()
            jsonl.save(snapshot(recorder, process="muxlink"), ours)
    trace = jsonl.load(theirs)
    a_day_behind = [evolve(head, wall=head.wall - 86_400) for head in trace.heads]
    jsonl.save(Trace.of([*a_day_behind, *trace.conversations, *trace.events]), theirs)
    merged = merge_files([ours, theirs], target)
    assert_clocks(merged, FAR)
    assert [head.process for head in merged.heads] == ["muxlink@client", "muxlink@server"]
    assert re.search(r", and on the wall 86,(400\.0|399\.9)\d+ s behind it, give or take ", merged.warnings[0])
    walls = [merged.wall(event) for event in merged.events]
    assert max(walls) - min(walls) < 60
    written = jsonl.load(target)
    assert list(written.records()) == list(merged.records())
    assert written.warnings == merged.warnings
    assert target.stat().st_mode & 0o777 == 0o600


async def test_a_third_process_is_merged_in_turn(tmp_path: Path) -> None:
    """T8: whatever the order of the files is."""
    clocks = (ahead_by(FAR), ahead_by(-7.0))
    servers = [Server(echo, record=False) for _ in clocks]
    rings = [taped(server, clock, 2**22) for server, clock in zip(servers, clocks, strict=True)]
    async with servers[0], servers[1]:
        link = Link([server.url for server in servers], connections=2, record=False)
        ring = taped(link, ahead_by(0.0), 2**22)
        async with link:
            await asyncio.gather(*(link.request("POST", "/", body=b"x" * n) for n in range(50)))
            traces = [
                *(snapshot(each, process="server", clock=its) for each, its in zip(rings, clocks, strict=True)),
                snapshot(ring, process="client"),
            ]
    paths = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for trace, path in zip(traces, paths, strict=True):
        jsonl.save(trace, path)
    merged = merge_files(paths, tmp_path / "all.jsonl")
    offsets = {head.process: (head.offset, head.uncertainty) for head in merged.heads}
    assert list(offsets) == ["server@first", "client", "server@second"] or len(offsets) == 3
    (of_client, doubt), (of_second, more) = offsets["client"], list(offsets.values())[2]
    assert of_client is not None
    assert doubt is not None
    assert of_client == pytest.approx(-FAR, abs=doubt + ROUNDING)
    assert of_second is not None
    assert more is not None
    assert of_second == pytest.approx(-7.0 - FAR, abs=doubt + more + ROUNDING)
    assert_order(merged, doubt + more)
    with pytest.raises(Misuse, match=r"process 'server' \(pid \d+\) is in .*: they were merged before"):
        merge(merged, traces[1])


def test_a_ping_and_its_answer_say_how_the_clocks_differ() -> None:
    """T8: as NTP would have it."""
    merged = merge(one_process(conversation(), "client"), one_process(conversation(), "server"))
    head = merged.heads[1]
    # The sample's clocks: 1,000 s where the wall shows half a second less than noon, and 77.25 s thirty seconds before.
    assert head.offset == pytest.approx(77.25 + 30.0 - (1_000.0 + 0.5))
    assert head.uncertainty == pytest.approx(0.00018, abs=1e-5)


async def test_traces_of_strangers_are_refused_with_the_addresses_of_each() -> None:
    """T8."""

    async def shout(stream: ServerStream) -> None:
        await stream.respond(200, body=b"!" * 999)

    async with both_ends(echo) as ends, both_ends(shout) as others:
        await talk(ends)
        await others.link.request("GET", "/elsewhere")
        first, second = ends.traces()[0], others.traces()[1]
    with pytest.raises(Misuse) as refused:
        merge(first, second)
    (ours,), (theirs,) = first.conversations, second.conversations
    assert str(refused.value) == (
        "the first trace and the second trace have no connection in common:"
        f" in the first trace: {ours.name} from {ours.local} to {ours.peer};"
        f" in the second trace: {theirs.name} from {theirs.local} to {theirs.peer}"
    )


def test_the_same_trace_twice_is_refused(tmp_path: Path) -> None:
    """T8."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    chatter(talk, range(10))
    first, second = talk.traces()
    path = tmp_path / "near.jsonl"
    jsonl.save(first, path)
    with pytest.raises(
        Misuse, match=r"near.jsonl are both of process 'near' \(pid 1\): the other end's trace is needed"
    ):
        merge_files([path, path], tmp_path / "target")
    assert not (tmp_path / "target").exists()
    merged = merge(first, second)
    for again in (first, second, merged):
        with pytest.raises(Misuse, match="they were merged before"):
            merge(merged, again)


def test_two_traces_of_the_same_two_processes_are_not_said_to_have_been_merged() -> None:
    """T8: such as two dumps of a server with two workers."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    chatter(talk, range(10))
    both = Trace.of([*talk.traces()[0].records(), *talk.traces()[1].records()])
    with pytest.raises(Misuse, match=r"are both of process 'near' .*: the other end's trace is needed"):
        merge(both, both)


def test_a_merged_trace_is_what_its_suffix_says(tmp_path: Path) -> None:
    """T8."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    chatter(talk, range(10))
    for trace, name in zip(talk.traces(), ("one.jsonl", "two.jsonl"), strict=True):
        jsonl.save(trace, tmp_path / name)
    merge_files([tmp_path / "one.jsonl", tmp_path / "two.jsonl"], tmp_path / "both.html")
    assert "<html" in (tmp_path / "both.html").read_text()


def test_a_trace_without_frames_is_refused() -> None:
    """T8: such as one that was filtered."""
    talk = Talk(lambda at: 5.0)
    talk.connect("c")
    chatter(talk, range(10))
    first, second = talk.traces()
    with pytest.raises(Misuse, match=r"the second trace holds no frames .*: merge whole traces, and filter afterwards"):
        merge(first, evolve(second, events=()))


def test_one_trace_alone_is_not_merged(tmp_path: Path) -> None:
    """T8."""
    with pytest.raises(Misuse, match="1 trace is not enough to merge: name those of both ends"):
        merge_files(["one.jsonl"], tmp_path / "target")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """T8."""
    with pytest.raises(Misuse, match=r"cannot read .*none.jsonl"):
        merge_files([tmp_path / "none.jsonl", tmp_path / "none.jsonl"], tmp_path / "target")


def test_the_exports_show_what_went_over_the_wire() -> None:
    """T5, T8: arrows from process to process."""
    merged = merge(one_process(conversation(), "client"), one_process(conversation(), "server"))
    drawn = list(perfetto.events(merged))
    assert complaints(json.loads(json.dumps({"traceEvents": drawn}))) == []
    ends: dict[object, set[object]] = {}
    for each in drawn:
        if each["ph"] in ("s", "f") and each["cat"] == "wire":
            ends.setdefault(each["id"], set()).add(each["pid"])
    assert len(ends) == sum(event.type == "FramesArrived" for event in merged.events)
    assert all(len(pids) == 2 for pids in ends.values())
    diagram = io.StringIO()
    mermaid.write(merged, diagram)
    sockets = dict(re.findall(r"participant (\w+) as socket \((\w+)\)", diagram.getvalue()))
    arrivals = re.findall(r"(\w+)->>\w+: FramesArrived", diagram.getvalue())
    assert {sockets[alias] for alias in arrivals} == {"client", "server"}
    arrived = next(event for event in merged.events if event.type == "FramesArrived")
    first = re.search(r"(\w+)->>\w+: FramesArrived", diagram.getvalue())
    assert first is not None
    assert sockets[first[1]] == arrived.remote[0][0] != arrived.process
