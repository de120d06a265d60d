"""The commands about messages, against a server in this process and against files."""

import argparse
import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from actors.errors import ConnectFailed, LocalError, Misuse, ProtocolViolation, RemoteError
from actors.server_stream import ServerStream
from supervisor import trace_reader
from supervisor.control import ControlServer
from supervisor.link import Link
from supervisor.server import Server
from supervisor.trace_commands import add_commands
from supervisor.tracing import jsonl
from supervisor.workers.answers import OwnAnswers, wanted_of
from supervisor.workers.traces import Traces
from tests.supervisor.tracing.samples import conversation


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    return parser.parse_args(words)


async def run(*words: str) -> int:
    asked = parsed(*words)
    return cast("int", await asked.run(asked))


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


async def wait_for_more(stream: ServerStream) -> None:
    await stream.read()


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control" / "c.sock"


@asynccontextmanager
async def serving(control: Path, handler: Callable[[ServerStream], Any] = answer) -> AsyncIterator[tuple[Server, Link]]:
    traces = Traces("muxlink")
    async with Server(handler) as server, Link(server.url) as link:
        async with ControlServer(control, OwnAnswers(server, traces, process="muxlink", drain=lambda: None)):
            yield server, link
        await traces.close()


async def begun(task: asyncio.Task[int], server: Server) -> None:
    """Wait until a trace is written."""
    server.tracer.record(None)
    async with asyncio.timeout(20):
        while not server.tracer.on:
            assert not task.done(), task.result()
            await asyncio.sleep(0)


# --- a running server -------------------------------------------------------------------------------------------------


async def test_dump_writes_what_was_recorded_in_the_format_of_the_suffix(
    control: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(control) as (_, link):
        await link.request("POST", "/", body=b"hello")
        for name in ("trace.jsonl", "trace.html", "trace.json"):
            assert await run("trace", "dump", "--control", str(control), "-o", str(tmp_path / name)) == 0
        assert await run("trace", "dump", "--control", str(control), "--type", "Respond") == 0
    trace = jsonl.load(tmp_path / "trace.jsonl")
    assert [event.stream for event in trace.events if event.type == "Respond"] == [1]
    assert (tmp_path / "trace.jsonl").stat().st_mode & 0o777 == 0o600
    assert "<html" in (tmp_path / "trace.html").read_text()
    assert json.loads((tmp_path / "trace.json").read_text())
    printed = capsys.readouterr()
    kinds = [json.loads(line)["muxlink"] for line in printed.out.splitlines()]
    assert (kinds[0], kinds.count("event"), kinds[-1]) == ("head", 1, "end")
    assert f"{len(trace.events)} events of muxlink are in {tmp_path / 'trace.jsonl'}" in printed.err
    assert list(control.parent.iterdir()) == []


async def test_capture_ends_by_itself_and_says_why(
    control: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """T4"""
    path = tmp_path / "c.jsonl"
    async with serving(control) as (server, link):
        words = ("--events", "5", "--payloads", "--actor", f"{server.name}/connection-1", "-o", str(path))
        capturing = asyncio.create_task(run("trace", "capture", "--control", str(control), *words))
        await begun(capturing, server)
        for _ in range(3):
            await link.request("POST", "/", body=b"hello")
        assert await capturing == 0
    trace = jsonl.load(path)
    assert [(end.reason, end.events) for end in trace.ends] == [("events", 5)]
    assert len(trace.events) == 5
    assert any(event.data is not None for event in trace.events)
    assert path.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().err
    assert f"{path} will hold bodies and the values of headers: they may be secret" in said
    assert f"5 events are in {path}; why it ended: muxlink: events" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_follow_shows_messages_as_they_are_told_until_it_is_interrupted(
    control: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    async with serving(control) as (server, link):
        following = asyncio.create_task(run("trace", "follow", "--control", str(control), "--type", "HeadersArrived"))
        await begun(following, server)
        await link.request("GET", "/one")
        os.kill(os.getpid(), number)
        assert await following == 0
        async with asyncio.timeout(20):
            while server.tracer.on:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
    [line] = capsys.readouterr().out.splitlines()
    name = f"{server.name}/connection-1"
    assert line.split(" ", 1)[1].startswith(f"muxlink {name} -> {name}/stream-1 HeadersArrived: GET ")


async def test_the_end_of_the_server_ends_a_capture(
    control: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.jsonl"
    async with serving(control) as (server, _):
        capturing = asyncio.create_task(run("trace", "capture", "--control", str(control), "-o", str(path)))
        await begun(capturing, server)
    assert await capturing == 0
    assert "why it ended: muxlink: closed" in capsys.readouterr().err


async def test_a_process_that_does_not_come_is_named_by_number(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace_reader, "PATIENCE", 0.05)

    async def promise(question: dict[str, Any]) -> object:
        return {"processes": ["worker-1"]}

    async with ControlServer(control, promise):
        with pytest.raises(ProtocolViolation, match="no process of the server has written"):
            await run("trace", "dump", "--control", str(control), "-o", str(tmp_path / "t.jsonl"))
    assert "1 of 1 processes did not answer, and are not in it: worker-1\n" in capsys.readouterr().err
    assert not (tmp_path / "t.jsonl").exists()


async def test_what_killed_commands_have_left_behind_is_removed_and_nothing_else(
    control: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(control):
        killed, young, old = (control.parent / f"trace-{name * 8}" for name in "abc")
        for folder in (killed, young, old, control.parent / "trace-mine"):
            folder.mkdir(0o700)
            (folder / "trace.jsonl").touch()
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(killed / "t.sock"))
        os.utime(old, (0, 0))
        async with trace_reader.TraceReader(control) as other:
            assert await run("trace", "dump", "--control", str(control)) == 0
            left = {path.name for path in control.parent.iterdir()}
            assert left == {control.name, young.name, "trace-mine", other.folder.name}
    assert capsys.readouterr().out


async def test_who_follows_hears_of_processes_that_come_later_until_the_server_has_gone(
    control: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_reader, "AGAIN", 0.01)
    questions: list[dict[str, Any]] = []

    async with Server(answer) as server, Link(server.url) as link:

        async def hand_out(question: dict[str, Any]) -> object:
            """Each time that it is asked there is one more process, up to three, and one after the other ends."""
            questions.append(question)
            number = len(questions)
            if number > 3:
                return {"processes": ["worker-3"]}
            traces = Traces(f"worker-{number}")
            traces.begin(wanted_of(question), server)
            await link.request("POST", "/", body=b"hello")
            await traces.close()
            return {"processes": [f"worker-{number}"]}

        async with ControlServer(control, hand_out):
            following = asyncio.create_task(run("trace", "follow", "--control", str(control), "--type", "Respond"))
            async with asyncio.timeout(20):
                while len(questions) < 6:  # noqa: ASYNC110  (no event)
                    await asyncio.sleep(0)
            assert not following.done()
        async with asyncio.timeout(20):
            assert await following == 0
    assert [line.split(" ")[1] for line in capsys.readouterr().out.splitlines()] == ["worker-1", "worker-2", "worker-3"]
    assert [question.get("known") for question in questions[:3]] == [None, ["worker-1"], ["worker-1", "worker-2"]]


async def test_a_full_disk_is_one_line_and_ends_the_capture(control: Path) -> None:
    async with serving(control) as (server, link):
        capturing = asyncio.create_task(run("trace", "capture", "--control", str(control), "-o", "/dev/full"))
        with pytest.raises(LocalError, match="cannot write /dev/full: No space left on device"):
            await capturing
        async with asyncio.timeout(20):
            while server.tracer.on and server.tracer.recorder is None:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
        assert (await link.request("POST", "/", body=b"hello")).body == b"hello"


@pytest.mark.parametrize("command", ["dump", "capture", "follow"])
async def test_where_no_server_is_that_is_said(control: Path, tmp_path: Path, command: str) -> None:
    output = ["-o", str(tmp_path / "t.jsonl")] if command != "follow" else []
    control.parent.mkdir(0o700)
    with pytest.raises(ConnectFailed, match="no server has its control socket at"):
        await run("trace", command, "--control", str(control), *output)
    assert not (tmp_path / "t.jsonl").exists()
    assert list(control.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("dump", "-o", "{folder}"), "is a directory: name a file in it"),
        (("capture", "-o", "{folder}"), "is a directory: name a file in it"),
        (("capture", "-o", "{folder}/there.jsonl"), "is there already: name another file, or replace it with --force"),
        (("dump", "-o", "{folder}/there.jsonl"), "is there already: name another file, or replace it with --force"),
        (("capture", "-o", "x.jsonl", "--events", "0"), "at least 1 of --events"),
        (("capture", "-o", "x.jsonl", "--seconds", "0"), "--seconds above 0"),
        (("capture", "-o", "-"), "a capture goes to a file"),
        (("capture", "-o", "x.jsonl", "--last", "5"), "--last, --since and --until choose from what was recorded"),
        (("follow", "--since", "-5"), "--last, --since and --until choose from what was recorded"),
        (("convert", "{folder}/there.jsonl", "-o", "{folder}/there.jsonl"), "is there already"),
        (("merge", "a", "b", "-o", "{folder}/there.jsonl"), "is there already"),
        (("to-test", "a", "-o", "{folder}/there.jsonl"), "is there already"),
        (("to-test", "{folder}/a", "-o", "{folder}/there.py"), "there.jsonl is there already, where the capture goes"),
        (("merge", "a", "b", "-o", "{folder}/m.txt"), "m.txt has no suffix that says what to write"),
        (("capture", "-o", "{folder}/x.html"), "a capture is JSON Lines: write it to .*/x.jsonl, of which"),
        (("capture", "-o", "x.jsonl", "--seconds", "inf"), "a capture has an end"),
        (("capture", "-o", "x.jsonl", "--events", "9" * 20), "a capture has an end"),
        (("replay", "{folder}/nothing"), "cannot read .*nothing: No such file or directory"),
        (("merge", "{folder}/nothing", "{folder}/more", "-o", "{folder}/m.jsonl"), "cannot read .*nothing"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_line(
    control: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    (tmp_path / "there.jsonl").write_text("precious")
    more = ["--control", str(control)] if words[0] in ("dump", "capture", "follow") else []
    with pytest.raises(Misuse, match=told) as caught:
        await run("trace", *(word.format(folder=tmp_path) for word in words), *more)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "there.jsonl").read_text() == "precious"


async def test_force_replaces_a_file(control: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("old")
    path.chmod(0o644)
    async with serving(control) as (_, link):
        await link.request("GET", "/")
        assert await run("trace", "dump", "--control", str(control), "-o", str(path), "--force") == 0
    assert jsonl.load(path).events
    assert path.stat().st_mode & 0o777 == 0o600


# --- why --------------------------------------------------------------------------------------------------------------


async def test_why_says_what_streams_wait_for_in_lines_or_as_json(
    control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(control, wait_for_more) as (server, link), link.stream("POST", "/") as stream:
        await stream.send(b"some")
        name = f"{server.name}/connection-1/stream-1"
        async with asyncio.timeout(20):
            while not any(each.stream == name for each in await server.why()):  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
        assert await run("why", "--control", str(control)) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"muxlink: {name} waits for more of the request")
        for called in (name, f"muxlink/{name}"):
            assert await run("why", called, "--json", "--control", str(control)) == 0
            [row] = json.loads(capsys.readouterr().out)
            assert (row["process"], row["stream"], row["waits_for"]) == ("muxlink", name, "body")
        with pytest.raises(RemoteError, match="no stream or request is called 'stream-7' here: 'muxlink tree' lists"):
            await run("why", "stream-7", "--control", str(control))


async def test_where_standard_output_is_closed_that_is_one_line(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``>&-``; what would only have been printed is not missed."""
    jsonl.save(conversation(), tmp_path / "t.jsonl")
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stdin", None)
    async with serving(control):
        with pytest.raises(LocalError, match="cannot write to standard output: it is closed"):
            await run("trace", "dump", "--control", str(control))
        assert await run("why", "--control", str(control)) == 0
    with pytest.raises(LocalError, match="cannot write to standard output: it is closed"):
        await run("trace", "convert", str(tmp_path / "t.jsonl"), "-o", "-", "--to", "md")
    with pytest.raises(Misuse, match="standard input is closed: name a file"):
        await run("trace", "convert", "-", "-o", str(tmp_path / "t.md"))


@pytest.mark.parametrize("command", ["dump", "convert"])
async def test_who_reads_the_output_may_have_enough(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    jsonl.save(conversation(), tmp_path / "t.jsonl")
    reading, writing = os.pipe()
    os.close(reading)
    words = {"dump": ("--control", str(control)), "convert": (str(tmp_path / "t.jsonl"), "-o", "-", "--to", "html")}
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        async with serving(control):
            with pytest.raises(BrokenPipeError):
                await run("trace", command, *words[command])
        monkeypatch.undo()
        with suppress(BrokenPipeError):
            closed.close()


async def test_where_nothing_waits_why_says_so(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(control):
        assert await run("why", "--control", str(control)) == 0
    assert capsys.readouterr().out == "nothing waits\n"


@pytest.mark.parametrize("reply", [[], {"explanations": [1], "silent": []}, {"explanations": 1, "silent": []}])
async def test_an_answer_that_cannot_be_shown_is_one_line(control: Path, reply: object) -> None:
    async def foreign(question: dict[str, Any]) -> object:
        return reply

    async with ControlServer(control, foreign):
        with pytest.raises(ProtocolViolation):
            await run("why", "--control", str(control))
        with pytest.raises(ProtocolViolation):
            await run("trace", "follow", "--control", str(control))


# --- other questions to a server of one process -----------------------------------------------------------------------


async def test_a_server_of_one_process_answers_for_itself(control: Path) -> None:
    drained: list[bool] = []
    async with Server(answer) as server:
        answers = OwnAnswers(server, Traces("muxlink"), process="muxlink", drain=lambda: drained.append(True))
        tree = cast("dict[str, Any]", await answers({"ask": "tree"}))
        assert [row["name"] for row in tree["actors"]] == [server.name]
        stats = cast("dict[str, Any]", await answers({"ask": "stats"}))
        assert (stats["parent"]["url"], list(stats["workers"])) == (server.url, ["muxlink"])
        for question in ({"ask": "drain", "worker": 1}, {"ask": "trace", "mode": "x"}, {"ask": "dance"}, {}):
            with pytest.raises(Misuse):
                await answers(question)
        assert not drained
        await answers({"ask": "drain", "worker": None})
        assert drained


# --- files ------------------------------------------------------------------------------------------------------------


async def test_convert_makes_of_a_trace_what_others_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "t.jsonl"
    jsonl.save(conversation(), source)
    assert await run("trace", "convert", str(source), "-o", str(tmp_path / "t.html")) == 0
    assert "<html" in (tmp_path / "t.html").read_text()
    assert await run("trace", "convert", str(source), "-o", "-", "--to", "mmd", "--type", "HeadersArrived") == 0
    assert capsys.readouterr().out.startswith("sequenceDiagram")


async def test_a_capture_for_a_replay_can_be_replayed_merged_and_made_a_test_of(
    control: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "client.jsonl", tmp_path / "server.jsonl"
    async with (
        Server(answer) as server,
        server.capture(theirs, for_replay=True),
        Link(server.url) as link,
        link.capture(ours),
    ):
        await link.request("POST", "/", body=b"hello")
    assert await run("trace", "replay", str(theirs)) == 0
    assert capsys.readouterr().out.startswith("the same: ")
    assert await run("trace", "to-test", str(theirs), "-o", str(tmp_path / "test_it.py")) == 0
    assert "def test_" in (tmp_path / "test_it.py").read_text()
    for path, process in ((ours, "client"), (theirs, "server")):
        # They are of one process here, which no two ends of a service are.
        path.write_text(path.read_text().replace(f"process-{os.getpid()}", process))
    both = tmp_path / "both.jsonl"
    assert await run("trace", "merge", str(ours), str(theirs), "-o", str(both)) == 0
    assert {head.process for head in jsonl.load(both).heads} == {"client", "server"}


@pytest.mark.parametrize("command", ["dump", "follow", "capture", "convert", "merge", "replay", "to-test"])
def test_the_help_of_each_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("trace", command, "--help")
    assert f"example: muxlink trace {command}" in capsys.readouterr().out
