"""Snapshots of the flight recorder: whose messages they hold, and where each belongs."""

import asyncio
import os

import pytest

from actors.errors import Misuse
from actors.messages import ConnectionBegan
from actors.server_stream import ServerStream
from actors.stats import ConnectionStats
from actors.trace import Recorder, Tracer
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing.records import Event, Trace
from supervisor.tracing.snapshot import Places, snapshot


async def answer(stream: ServerStream) -> None:
    body = await stream.read()
    if stream.path == "/with-push":
        await stream.push("/pushed")
    await stream.respond(200, body=body + b"!")


def noted(*told: tuple[str, str]) -> Recorder:
    recorder = Recorder()
    tracer = Tracer(lambda: 1.0, recorder)
    for sender, receiver in told:
        tracer.speak_as(sender)
        tracer.noted(receiver, object())
    return recorder


def event(sender: str, receiver: str, kind: str, text: str = "") -> Event:
    return Event(process="p", id=1, time=0.0, sender=sender, receiver=receiver, type=kind, text=text)


def living(name: str) -> ConnectionStats:
    return ConnectionStats(
        name=name, peer="10.0.0.2:5", state="ready", age=1.0, streams_open=0, streams_queued=0, streams_total=0,
        max_streams=1, bytes_received=0, bytes_sent=0, bytes_held=0, send_window=0, receive_window=0, side="server",
        local="10.0.0.1:80",
    )  # fmt: skip


def of_type(trace: Trace, *kinds: str) -> list[Event]:
    return [event for event in trace.events if event.type in kinds]


async def test_a_link_and_a_server_on_one_ring_have_their_own_traces() -> None:
    async with Server(answer) as server, Link(server.url) as link:
        await link.request("POST", "/", body=b"hello")
        ours, theirs = link.trace(process="client"), server.trace()
    edges = {"socket", "timer", "caller"}
    for trace, name in ((ours, link.name), (theirs, server.name)):
        spoke = {actor for event in trace.events for actor in (event.sender, event.receiver)} - edges
        assert spoke
        assert all(actor == name or actor.startswith(f"{name}/") for actor in spoke)
    assert [head.process for head in ours.heads + theirs.heads] == ["client", f"process-{os.getpid()}"]
    assert ours.warnings == theirs.warnings == ()


async def test_each_message_of_a_stream_has_its_connection_and_its_stream_on_both_sides() -> None:
    async with Server(answer) as server, Link(server.url) as link:
        for _ in range(2):
            await link.request("POST", "/", body=b"hello")
        ours, theirs = link.trace(), server.trace()
    [dialled], [accepted] = ours.conversations, theirs.conversations
    assert (dialled.side, accepted.side) == ("client", "server")
    assert (dialled.local, dialled.peer) == (accepted.peer, accepted.local)
    for trace, connection in ((ours, dialled.name), (theirs, accepted.name)):
        arrived = of_type(trace, "HeadersArrived", "DataArrived")
        assert [(event.connection, event.stream) for event in arrived] == [(connection, each) for each in (1, 1, 3, 3)]
    # The request had no stream yet when it asked for one.
    opening = of_type(ours, "OpenStream", "Opened")
    assert [(event.type, event.connection, event.stream) for event in opening] == [
        (kind, dialled.name, stream) for stream in (1, 3) for kind in ("OpenStream", "Opened")
    ]


async def test_a_pushed_stream_has_an_id_of_its_own() -> None:
    async with Server(answer) as server, Link(server.url, push=True) as link:
        async with link.stream("GET", "/with-push") as stream:
            async for promised in stream.pushes():
                assert await promised.read() == b"!"
            await stream.read()
        trace = link.trace()
    pushed = [event for event in trace.events if "/push-" in event.receiver + event.sender]
    assert {event.stream for event in pushed} == {2}
    assert {event.connection for event in pushed} == {trace.conversations[0].name}


async def test_frames_are_numbered_alike_at_both_ends() -> None:
    async with Server(answer) as server, Link(server.url) as link:
        await link.request("POST", "/", body=b"hello")
        ours, theirs = link.trace(), server.trace()

    def numbered(trace: Trace, kind: str) -> dict[int, str]:
        found = {}
        for event in of_type(trace, kind):
            assert event.first is not None
            assert event.frames is not None
            found.update({event.first + at: frame.text for at, frame in enumerate(event.frames)})
        return found

    sent, arrived = numbered(ours, "FramesSent"), numbered(theirs, "FramesArrived")
    assert sent[1].startswith("SETTINGS 0")
    assert sent == arrived
    assert any(event.stream == 1 for event in of_type(ours, "FramesSent"))


async def test_causes_lead_from_a_response_back_to_the_bytes_of_its_request() -> None:
    """T2"""
    async with Server(answer) as server, Link(server.url) as link:
        await link.request("POST", "/", body=b"hello")
        trace = server.trace()
    [responded] = of_type(trace, "Respond")
    chain = trace.chain(responded)
    assert [event.type for event in chain] == ["Respond", "DataArrived", "FramesArrived", "BytesArrived"]
    assert (chain[-1].sender, chain[-1].cause) == ("socket", 0)


def test_actors_whose_names_merely_begin_alike_are_others() -> None:
    recorder = noted(("server-1/connection-1", "server-1"), ("caller", "server-10"), ("caller", "server-1"))
    assert [event.receiver for event in snapshot(recorder, prefix="server-1").events] == ["server-1", "server-1"]
    assert len(snapshot(recorder).events) == 3


def test_what_the_ring_forgot_is_counted_and_its_connections_are_known_from_the_living() -> None:
    recorder = noted(*[("socket", "server-1/connection-1")] * 3)
    recorder.max_bytes = recorder.bytes - 1
    tracer = Tracer(lambda: 2.0, recorder)
    tracer.noted("server-1/connection-1", object())
    trace = snapshot(recorder, process="p", clock=lambda: 7.5, living=[living("server-1/connection-1")])
    assert (trace.heads[0].dropped, trace.heads[0].monotonic, len(trace.events)) == (2, 7.5, 2)
    assert [(each.side, each.local, each.peer) for each in trace.conversations] == [
        ("server", "10.0.0.1:80", "10.0.0.2:5")
    ]


def test_a_connection_that_has_ended_is_known_from_its_beginning() -> None:
    recorder = Recorder()
    Tracer(lambda: 1.0, recorder).noted("link-1/connection-1", ConnectionBegan("client", "a:1", "b:2"))
    [found] = snapshot(recorder, process="p").conversations
    assert (found.name, found.side, found.local, found.peer) == ("link-1/connection-1", "client", "a:1", "b:2")


def test_a_request_that_went_again_is_where_it_went_last() -> None:
    one, two, request = "link-1/connection-1", "link-1/connection-2", "link-1/request-1"
    placed = Places().fill([
        event(request, one, "OpenStream"),
        event(one, request, "Opened", "stream 5"),
        event(one, request, "StreamFailed", "lost"),
        event(request, two, "OpenStream"),
        event(two, request, "Opened", "stream 1"),
        event("caller", request, "Halt"),
    ])  # fmt: skip
    assert [(each.connection, each.stream) for each in placed] == [
        (one, 5), (one, 5), (one, 5), (two, 1), (two, 1), (two, 1),
    ]  # fmt: skip


def test_what_is_of_several_streams_is_of_none() -> None:
    placed = Places().fill([event("link-1", "link-1/connection-1", "SendPing"), event("caller", "link-1", "AskReady")])
    assert [(each.connection, each.stream) for each in placed] == [("link-1/connection-1", None), (None, None)]


async def test_without_a_recorder_there_is_no_trace() -> None:
    async with Server(answer, record=False) as server, Link(server.url, record=False) as link:
        with pytest.raises(Misuse, match="record=True"):
            server.trace()
        with pytest.raises(Misuse, match="record=True"):
            link.trace()
    assert Link("http://127.0.0.1:9").trace().events == ()


async def test_a_trace_can_be_made_elsewhere_than_where_it_was_taken() -> None:
    async with Server(answer) as server, Link(server.url) as link:
        await link.request("GET", "/")
        recorded = server.recorded(process="w")
        await link.request("GET", "/")
        trace = await asyncio.to_thread(recorded)
    assert len(of_type(trace, "Respond")) == 1
