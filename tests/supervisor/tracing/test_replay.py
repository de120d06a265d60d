"""A recorded connection lives again, and does the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from actors.commands import ConnectionMessage
from actors.errors import Closed, LinkError, Misuse
from actors.handling import serve
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionLost, Drain, WritePaused, WriteResumed
from actors.server_stream import ServerStream
from actors.serving import ServerConnection
from actors.settings import Health, Limits
from actors.trace import Tracer
from supervisor.health import PingMonitor
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing.failures import Failure
from supervisor.tracing.puppets import Looks
from supervisor.tracing.recordings import recordings
from supervisor.tracing.records import Trace
from supervisor.tracing.replay import Replayed, replay, replay_command, replay_trace
from tests.supervisor.tracing.recorded import Tape, capture, record
from tests.support.clock import JumpingLoop
from tests.support.frames import PREFACE, encode, headers, ping, request, settings
from tests.support.sides import ANYWHERE, FakeSocket


async def echo(stream: ServerStream) -> None:
    body = await stream.read()
    if stream.path == "/boom":
        raise KeyError("seat")
    await stream.respond(200, headers={"set-cookie": "a=secret"}, body=body * 2, trailers={"length": str(len(body))})


async def ask(link: Link) -> None:
    await link.request("POST", "/echo", body=b"hello", headers={"authorization": "secret"}, timeout=5)
    await asyncio.gather(*(link.request("GET", f"/{number}", timeout=5) for number in range(10)))


async def ask_and_crash(link: Link) -> None:
    await ask(link)
    with pytest.raises(LinkError):
        await link.request("POST", "/boom", body=b"x", timeout=5)


def check_same(replayed: Replayed) -> None:
    assert replayed.difference == ""
    assert replayed.same
    assert replayed.failures == replayed.recorded


def server_of(trace: Trace) -> str:
    return next(event.receiver for event in trace.events if event.type == "ConnectionBegan")


def test_both_sides_of_a_conversation_say_the_same_again() -> None:
    """T6."""
    there, here = record(echo, ask)
    for trace in (there, here):
        replayed = replay_trace(trace)
        check_same(replayed)
        [name] = replayed.connections
        assert [exit.partition(" ended")[0] for exit in replayed.exits] == [name]
        assert replayed.failures == ()
        frames = sum(len(event.frames or ()) for event in trace.events if event.sender == name)
        assert frames > 12
        assert sum(len(event.frames or ()) for event in replayed.messages if event.sender == name) == frames


@pytest.mark.logs_errors("crashed")
def test_a_crash_is_replayed_with_its_reset_and_its_name() -> None:
    """T6."""
    there, here = record(echo, ask_and_crash)
    name = server_of(there)
    replayed = replay_trace(there)
    check_same(replayed)
    assert replayed.failures == (Failure(name, f"{name}/stream-23", "crashed: KeyError"),)
    assert replayed.failed(f"{name}/stream-23") == "crashed: KeyError"
    assert replayed.failed(f"{name}/stream-21") == ""
    replayed = replay_trace(here)
    check_same(replayed)
    assert [failure.what for failure in replayed.failures] == ["the peer reset it with INTERNAL_ERROR"]


def test_long_bodies_in_both_directions_go_out_in_the_same_frames() -> None:
    """T6: what is pumped in which turn, credit, bursts and what waits for windows are the recording's."""

    async def talk(link: Link) -> None:
        bodies = [bytes(40_000 * number) for number in range(10)]
        await asyncio.gather(*(link.request("POST", "/echo", body=body, timeout=30) for body in bodies))

    for trace in record(echo, talk):
        check_same(replay_trace(trace))


@pytest.mark.parametrize(
    ("what", "value"),
    [("actors.turns.SECONDS_PER_TURN", -1.0), ("actors.bursts.Burst.share", lambda burst: 0.00002)],
    ids=["turns that are cut", "bursts that take many turns"],
)
def test_what_a_slow_machine_did_in_many_turns_is_done_in_as_many(
    monkeypatch: pytest.MonkeyPatch, what: str, value: object
) -> None:
    """T6: what goes out depends on which messages were handled before each write."""

    async def talk(link: Link) -> None:
        bodies = [bytes(30_000 * number) for number in range(6)]
        await asyncio.gather(*(link.request("POST", "/echo", body=body, timeout=30) for body in bodies))

    with monkeypatch.context() as slow:
        slow.setattr(what, value)
        traces = record(echo, talk)
    for trace in traces:
        check_same(replay_trace(trace))
    if "Burst" in what:
        assert any(event.type == "ReadOn" for trace in traces for event in trace.events)


def test_pushes_and_drains_are_replayed() -> None:
    """T6."""

    async def pushes(stream: ServerStream) -> None:
        if stream.path == "/page":
            await stream.push("/style")
        await stream.start_response(200)
        await stream.send(b"part")
        await stream.end()

    async def talk(link: Link) -> None:
        async with link.stream("GET", "/page") as stream:
            promise = await anext(aiter(stream.pushes()))
            assert await promise.read() == b"part"
            assert await stream.read() == b"part"

    for trace in record(pushes, talk, push=True):
        replayed = replay_trace(trace)
        check_same(replayed)
        assert any(event.type in ("PromiseArrived", "PushStream") for event in replayed.messages)


def test_a_changed_program_is_shown_by_the_first_message_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """T6."""
    there, _ = record(echo, ask)
    monkeypatch.setattr(ServerConnection, "_is_busy", lambda self: len(self._streams) > 3)
    replayed = replay_trace(there)
    assert not replayed.same
    lines = replayed.difference.splitlines()
    name = server_of(there)
    assert lines[0].startswith(f"{name} -> ")
    marked = [line.split() for line in lines if line.startswith("  >")]
    assert [marked[0][1:3], marked[1][1:3]] == [["HeadersArrived", "GET"], ["(nothing", "more)"]] or marked[1][2] in (
        "RST_STREAM", "HEADERS",
    )  # fmt: skip
    assert any("BytesArrived" in line and "led there: socket -> " in line for line in lines)


def test_hours_on_the_clock_pass_at_once_and_end_for_the_same_reason() -> None:
    """T6: a server that closed an idle connection after many minutes."""

    async def run() -> Trace:
        loop = asyncio.get_running_loop()
        server = Server(echo, limits=Limits(idle_timeout=7200.0), record=False)
        tape = Tape(clock=loop.time).attach(server.tracer)
        async with server, Link(server.url) as link:
            await link.request("GET", "/", timeout=5)
            await asyncio.sleep(7300.0)
        return tape.trace

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        trace = runner.run(run())
    began = time.perf_counter()
    replayed = replay_trace(trace)
    assert time.perf_counter() - began < 5
    check_same(replayed)
    assert "no stream and no byte for 7200 s (Limits.idle_timeout)" in replayed.exits[0]


def without_a_socket(*then: tuple[float, ConnectionMessage], health: Health | None = None) -> Trace:
    """A server's connection to which these things happen, each so many seconds after the one before."""

    async def run() -> Trace:
        tape, tracer = Tape(clock=asyncio.get_running_loop().time), Tracer()
        tape.attach(tracer)
        owner: Ref[object] = Ref("owner", lambda news: tracer.noted("owner", news))
        socket = FakeSocket()
        connection = ServerConnection(
            "owner/connection-1", socket, serve(echo), peer=ANYWHERE, limits=Limits(write_timeout=3.0), owner=owner,
            monitor=PingMonitor(health) if health is not None else None, tracer=tracer,
        )  # fmt: skip
        socket.lost = connection.tell
        connection.start(owner)
        connection.tell(BytesArrived(PREFACE + settings() + settings(ack=True)))
        for seconds, message in then:
            await asyncio.sleep(seconds)
            socket.unsent = 1 if isinstance(message, WritePaused) else 0
            connection.tell(message)
        await connection.wait()
        return tape.trace

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run())


RESET = ConnectionLost(ConnectionResetError(104, "Connection reset by peer"))


@pytest.mark.parametrize(
    ("trace", "exit", "fails"),
    [
        (lambda: without_a_socket((0.0, Drain(0.5, Closed("we are closed")))), "ended: we are closed", False),
        (lambda: without_a_socket((1.0, RESET)), "broke: ConnectionResetError", True),
        (
            lambda: without_a_socket((1.0, WritePaused()), (2.0, WriteResumed()), (9.0, ConnectionLost(None))),
            "was closed by the peer",
            False,
        ),
        (lambda: without_a_socket((1.0, WritePaused())), "its socket took nothing for 3 s", True),
        (lambda: without_a_socket(health=Health.fast()), "it said nothing for 15 s, 5 s of them after a PING", True),
    ],
    ids=["drained", "broken", "full for a while", "full for ever", "silent"],
)
def test_what_happened_to_a_connection_happens_again(trace: Callable[[], Trace], exit: str, fails: bool) -> None:
    """T6: what its owner, its socket and its timers told it."""
    replayed = replay_trace(trace())
    check_same(replayed)
    assert exit in replayed.exits[0]
    assert bool(replayed.failures) is fails


def test_a_burst_is_read_as_far_in_each_turn_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """T6: the answer to a request goes out between those to the PINGs that came along with it."""
    pings = b"".join(ping(number.to_bytes(8)) for number in range(40))
    burst = headers(1, encode(request("GET", "/")), end_stream=True) + pings
    with monkeypatch.context() as slow:
        slow.setattr("actors.bursts.Burst.share", lambda burst: Looks(1))
        trace = without_a_socket((0.1, BytesArrived(burst)), (0.1, ConnectionLost(None)))
    sent = [
        frame.text.split()[0] for event in trace.events if event.type == "FramesSent" for frame in event.frames or ()
    ]
    answered = sent.index("HEADERS")
    assert sent[:answered].count("PING") in range(1, 40)
    assert sent.count("PING") == 40
    check_same(replay_trace(trace))


# --- with a handler ---------------------------------------------------------------------------------------------------


async def sleeps_and_crashes(stream: ServerStream) -> None:
    await asyncio.sleep(0.02)
    if stream.path == "/3":
        raise KeyError("seat")
    await stream.respond(200, body=b"x")


async def is_fixed(stream: ServerStream) -> None:
    await asyncio.sleep(3000.0)
    await stream.respond(200, body=b"x")


async def ask_in_turn(link: Link) -> None:
    for number in range(6):
        try:
            await link.request("GET", f"/{number}", timeout=5)
        except LinkError:
            assert number == 3


@pytest.mark.logs_errors("crashed")
def test_a_handler_fails_again_on_the_virtual_clock() -> None:
    """T6: same messages and the same failure, without a socket."""
    there, _ = record(sleeps_and_crashes, ask_in_turn)
    replayed = replay_trace(there, handler=sleeps_and_crashes)
    check_same(replayed)
    [failure] = replayed.failures
    assert (failure.actor.rpartition("/")[2], failure.what) == ("stream-7", "crashed: KeyError")


@pytest.mark.logs_errors("crashed")
def test_a_handler_that_is_mended_fails_no_more_and_the_difference_says_how() -> None:
    """T6."""

    async def mended(stream: ServerStream) -> None:
        await asyncio.sleep(0.02)
        await stream.respond(200, body=b"x")

    there, _ = record(sleeps_and_crashes, ask_in_turn)
    replayed = replay_trace(there, handler=mended)
    assert not replayed.same
    assert (len(replayed.recorded), replayed.failures) == (1, ())
    marked = [line.strip("> ") for line in replayed.difference.splitlines() if line.startswith("  >")]
    assert marked[0].endswith("/stream-7 crashed: KeyError (KeyError)")
    assert marked[1] == "Respond stream 7: 200, 1 bytes, 0 trailers"


@pytest.mark.logs_errors("crashed")
def test_connections_that_share_a_handler_are_replayed_on_one_clock() -> None:
    """T6: or what goes wrong between them would not."""
    busy: list[str] = []

    async def alone(stream: ServerStream) -> None:
        if busy:
            raise RuntimeError("somebody else is in there")
        busy.append(stream.name)
        await asyncio.sleep(0.1)
        busy.clear()
        await stream.respond(200, body=stream.authority.encode())

    async def talk(link: Link) -> None:
        where = (await link.request("GET", "/", timeout=5)).body.decode()
        async with Link(f"http://{where}", record=False) as other:
            first = asyncio.create_task(link.request("GET", "/", timeout=5))
            await asyncio.sleep(0.02)
            with pytest.raises(LinkError):
                await other.request("GET", "/", timeout=5)
            await first

    there, _ = record(alone, talk)
    busy.clear()
    replayed = replay_trace(there, handler=alone)
    check_same(replayed)
    assert len(replayed.connections) == 2
    assert [failure.what for failure in replayed.failures] == ["crashed: RuntimeError"]


def test_a_handler_that_hangs_is_said_to_have_never_answered() -> None:
    """T6."""
    there, _ = record(echo, ask)
    last = max(event.id for event in there.events if event.type == "Respond")
    # The capture ended before the client left, who would else have the server give up.
    cut = evolve(there, events=tuple(event for event in there.events if event.id <= last))

    async def hangs(stream: ServerStream) -> None:
        await asyncio.Event().wait()

    began = time.perf_counter()
    replayed = replay_trace(cut, handler=hangs)
    assert time.perf_counter() - began < 5
    assert not replayed.same
    assert len(replayed.failures) == 11
    assert {failure.what for failure in replayed.failures} == {"it was never answered"}


def test_a_client_has_no_handler_to_replay() -> None:
    _, here = record(echo, ask)
    with pytest.raises(Misuse, match="no connection of a server can be replayed"):
        replay_trace(here, handler=echo)


# --- what cannot be replayed ------------------------------------------------------------------------------------------


def test_a_connection_that_began_before_the_capture_is_named_in_a_warning() -> None:
    """T6: HPACK's tables are not in the capture."""
    there, here = record(echo, ask)
    name = server_of(there)
    older = [event for event in there.events if event.type != "ConnectionBegan"]
    both = Trace.of([*there.heads, *older, *here.events])
    replayed = replay_trace(both)
    assert replayed.warnings == (f"{name} began before the capture: it cannot be replayed, HPACK needs the beginning",)
    assert replayed.connections == (server_of(here),)
    with pytest.raises(Misuse, match=f"{name} began before the capture: it cannot be replayed, capture it from"):
        replay_trace(both, connection=name)
    with pytest.raises(Misuse, match="no connection that began in it"):
        replay_trace(evolve(there, events=tuple(older)))


def test_a_connection_is_chosen_by_its_name() -> None:
    there, here = record(echo, ask)
    both = Trace.of([*there.heads, *there.events, *here.events])
    name = server_of(here)
    assert replay_trace(both, connection=name).connections == (name,)
    with pytest.raises(Misuse, match="no connection 'link-9' to replay: those that can be replayed are "):
        replay_trace(both, connection="link-9")


def test_a_capture_without_payloads_is_refused() -> None:
    there, _ = record(echo, ask)
    bare = evolve(there, events=tuple(evolve(event, data=None) for event in there.events))
    with pytest.raises(Misuse, match="capture again, for a replay"):
        replay_trace(bare)


async def test_a_replay_inside_of_a_loop_is_refused_and_a_thread_is_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    await asyncio.to_thread(capture, path, echo, ask)
    with pytest.raises(Misuse, match=r"call it outside of any, or with asyncio\.to_thread\(\)"):
        replay(path)
    assert (await asyncio.to_thread(replay, path)).same


def test_the_command_says_what_became_of_it_and_exits_with_1_for_a_difference(tmp_path: Path) -> None:
    """T6."""
    path = tmp_path / "capture.jsonl"
    capture(path, echo, ask)
    code, said = replay_command(path)
    assert code == 0
    assert said.startswith("the same: ")

    async def other(stream: ServerStream) -> None:
        await stream.respond(404)

    code, said = replay_command(path, other)
    assert code == 1
    assert said.startswith("different: ")
    assert "> Respond stream 1: 404, 0 bytes, 0 trailers" in said


# --- the turns of a recording -----------------------------------------------------------------------------------------


def test_what_was_taken_in_one_turn_is_told_in_one_turn() -> None:
    """T6: ten requests that were asked for in one turn of the loop."""
    _, here = record(echo, ask)
    [recording], _ = recordings(here)
    opened = [[event.type for event in turn].count("OpenStream") for turn in recording.turns()]
    assert sum(opened) == 11
    assert max(opened) > 1
