"""Captures: they end by themselves and say why, hold up nobody, and have no payloads unless asked for."""

import base64
import io
import logging
import threading
from pathlib import Path

import pytest

from actors.errors import LocalError, Misuse
from actors.server_stream import ServerStream
from actors.trace import Recorder, Tracer
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing import capture as module
from supervisor.tracing import jsonl
from supervisor.tracing.capture import Capture
from supervisor.tracing.filters import Filter
from supervisor.tracing.records import End, Trace


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, [("set-cookie", "given")], body=await stream.read())


class Note:
    def summary(self) -> str:
        return "n"


def tell(tracer: Tracer, count: int, receiver: str = "actor") -> None:
    for _ in range(count):
        tracer.noted(receiver, Note())


def end_of(path: Path) -> tuple[str, int, int]:
    [end] = jsonl.load(path).ends
    return end.reason, end.events, end.lost


async def test_a_capture_stops_itself_at_so_many_events_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """T4"""
    tracer, path = Tracer(), tmp_path / "capture.jsonl"
    caplog.set_level(logging.INFO, "muxlink.trace")
    capture = Capture(path, events=7).begin(tracer)
    tell(tracer, 20)
    await capture.wait()
    assert (capture.reason, capture.events) == ("events", 7)
    assert end_of(path) == ("events", 7, 0)
    assert len(jsonl.load(path).events) == 7
    assert not tracer.on
    began, ended = (record.getMessage() for record in caplog.records)
    assert began == f"a capture of messages began: {path}"
    assert ended == f"a capture of messages ended (events): {path}, 7 events, 0 lost"


@pytest.mark.parametrize("bound", ["events", "seconds", "bytes"])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, bound: str) -> None:
    """T4"""
    for value in (0, -1, float("nan"), float("inf"), 10**400, True, "5"):
        with pytest.raises(Misuse, match=f"a capture has an end: {bound} is a number above 0, not"):
            Capture(tmp_path / "capture.jsonl", **{bound: value})  # type: ignore[arg-type]


async def test_a_capture_stops_itself_after_so_many_seconds(tmp_path: Path) -> None:
    """T4"""
    tracer, path = Tracer(), tmp_path / "capture.jsonl"
    capture = Capture(path, seconds=0.05).begin(tracer)
    tell(tracer, 2)
    await capture.wait()
    assert end_of(path) == ("seconds", 2, 0)
    assert not tracer.on


async def test_a_capture_stops_itself_before_it_has_written_too_many_bytes(tmp_path: Path) -> None:
    """T4"""
    tracer, path = Tracer(), tmp_path / "capture.jsonl"
    capture = Capture(path, bytes=2000).begin(tracer)
    tell(tracer, 200)
    await capture.wait()
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if b'"muxlink":"event"' in line]
    assert end_of(path) == ("size", len(lines), 0)
    assert 1000 < sum(map(len, lines)) <= 2000


async def test_whoever_leaves_a_capture_has_asked_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    async with Server(answer) as server, Link(server.url) as link:
        async with server.capture(path) as capture:
            await link.request("POST", "/", body=b"hello")
        await link.request("POST", "/", body=b"hello")
        trace = jsonl.load(path)
    assert trace.warnings == ()
    assert end_of(path) == ("asked", capture.events, 0)
    assert [(each.name, each.side) for each in trace.conversations] == [(f"{server.name}/connection-1", "server")]
    [responded] = [event for event in trace.events if event.type == "Respond"]
    assert (responded.stream, responded.connection) == (1, f"{server.name}/connection-1")
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_capture_has_the_connections_that_begin_meanwhile_and_when_messages_were_taken(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    async with Server(answer) as server:
        async with server.capture(path), Link(server.url) as link:
            await link.request("GET", "/")
        trace = jsonl.load(path)
    [began] = [event for event in trace.events if event.type == "ConnectionBegan"]
    assert [each.name for each in trace.conversations] == [began.receiver]
    responded = next(event for event in trace.events if event.type == "Respond")
    assert responded.taken is not None
    assert responded.taken > responded.time


async def test_a_filter_chooses_what_is_written_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    wanted = Filter(type="Frames*", stream=3)
    async with Server(answer) as server, Link(server.url) as link, link.capture(path, filter=wanted):
        for _ in range(3):
            await link.request("POST", "/", body=b"hello")
    trace = jsonl.load(path)
    assert {event.type for event in trace.events} == {"FramesSent", "FramesArrived"}
    assert {event.stream for event in trace.events} == {3}
    assert end_of(path)[1] == len(trace.events)


async def test_only_the_actors_below_the_prefix_are_captured(tmp_path: Path) -> None:
    tracer, path = Tracer(), tmp_path / "capture.jsonl"
    async with Capture(path, prefix="server-1").begin(tracer):
        tell(tracer, 1, "server-1/connection-1")
        tell(tracer, 1, "server-10")
    assert [event.receiver for event in jsonl.load(path).events] == ["server-1/connection-1"]


async def test_payloads_are_written_where_they_were_asked_for_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "capture.jsonl"
    async with Server(answer) as server, Link(server.url) as link, link.capture(path, payloads=True):
        await link.request("POST", "/", headers={"authorization": "Bearer x"}, body=b"\xff body")
    trace = jsonl.load(path)
    assert trace.heads[0].payloads
    data = {event.type: event.data or {} for event in trace.events}
    assert ["authorization", "Bearer x"] in data["OpenStream"]["headers"]  # type: ignore[operator]
    assert ["set-cookie", "given"] in data["HeadersArrived"]["headers"]  # type: ignore[operator]
    assert base64.b64decode(str(data["OpenStream"]["body"])) == b"\xff body"
    assert base64.b64decode(str(data["DataArrived"]["body"])) == b"\xff body"
    assert "with bodies and the values of headers, which may be secret" in caplog.text


async def test_a_capture_for_a_replay_has_what_that_needs(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    async with Server(answer) as server, server.capture(path, for_replay=True), Link(server.url) as link:
        await link.request("POST", "/", body=b"hello")
    trace = jsonl.load(path)
    assert trace.heads[0].payloads
    assert all(event.data is not None for event in trace.events if event.type in ("BytesArrived", "ConnectionBegan"))


class Stuck(io.RawIOBase):
    """Takes the first lines, and then nothing until it is let."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.taken: list[bytes] = []

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.taken:
            self.go_on.wait(20)
        self.taken.append(data)
        return len(data)


async def test_a_slow_reader_loses_events_which_are_counted_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 100)
    tracer, slow = Tracer(), Stuck()
    capture = Capture(slow).begin(tracer)
    tell(tracer, 250)
    slow.go_on.set()
    await capture.end()
    trace = jsonl.load(io.BytesIO(b"".join(slow.taken)))
    assert (len(trace.events), trace.ends[0].events, trace.ends[0].lost) == (100, 100, 150)
    assert (capture.events, capture.lost) == (100, 150)


async def test_the_end_of_a_capture_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITING", 0.05)
    tracer, stuck = Tracer(), Stuck()
    capture = Capture(stuck).begin(tracer)
    tell(tracer, 1)
    await capture.end()
    assert len(stuck.taken) == 1
    stuck.go_on.set()
    await capture.wait()
    assert capture.events == 1


@pytest.mark.logs_errors("a capture of messages failed: cannot write the capture: No space left on device")
async def test_a_full_disk_ends_the_capture_and_not_the_program() -> None:
    tracer = Tracer()
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230  (a device)
        capture = Capture(full).begin(tracer)
        await capture.wait()
        tell(tracer, 1)
        assert isinstance(capture.error, LocalError)
        assert capture.reason == "failed"
        full.raw.close()  # what is left of it cannot be written
        with pytest.raises(ValueError, match="closed"):
            full.flush()


@pytest.mark.logs_errors("a capture of messages failed: what a Note holds cannot be kept")
async def test_a_message_that_cannot_be_kept_ends_the_capture_and_not_who_told_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T10"""

    def fail(message: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(module, "payload_of", fail)
    tracer = Tracer()
    capture = Capture(tmp_path / "capture.jsonl", payloads=True).begin(tracer)
    tell(tracer, 1)
    assert not tracer.on
    await capture.wait()
    assert "secret" not in str(capture.error)


@pytest.mark.logs_errors("a trace exporter failed on event .* and is switched off")
async def test_an_exporter_that_raises_is_switched_off_and_the_link_lives(tmp_path: Path) -> None:
    """T10"""

    def fail(event: object) -> None:
        raise RuntimeError("no")

    path = tmp_path / "capture.jsonl"
    async with Server(answer) as server, Link(server.url) as link:
        link.tracer.attach(fail)
        async with link.capture(path):
            assert (await link.request("POST", "/", body=b"hello")).body == b"hello"
    assert jsonl.load(path).events


async def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    path.write_text("precious")
    async with Server(answer) as server:
        with pytest.raises(Misuse, match="is there already"):
            async with server.capture(path):
                pass
        with pytest.raises(LocalError, match=r"cannot write .*: No such file or directory"):
            async with server.capture(tmp_path / "nowhere" / "x"):
                pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize("bound", [{"events": 0}, {"seconds": -1}, {"bytes": 0}, {"seconds": float("inf")}])
async def test_a_capture_has_an_end(bound: dict[str, float]) -> None:
    with pytest.raises(Misuse, match="a capture has an end"):
        Capture(io.BytesIO(), **bound)  # type: ignore[arg-type]


async def test_a_capture_is_taken_once(tmp_path: Path) -> None:
    tracer = Tracer()
    capture = Capture(tmp_path / "capture.jsonl").begin(tracer)
    with pytest.raises(Misuse, match="once"):
        capture.begin(tracer)
    await capture.end()


async def test_an_open_file_stays_open() -> None:
    tracer, file = Tracer(recorder=Recorder()), io.BytesIO()
    async with Capture(file, process="p").begin(tracer):
        tell(tracer, 1)
    trace: Trace = jsonl.load(io.BytesIO(file.getvalue()))
    assert trace.ends == (End(process="p", reason="asked", events=1),)
