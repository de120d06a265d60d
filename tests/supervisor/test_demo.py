"""``muxlink demo``: what it tells is so, what is not so ends it with an error, and nothing of it stays behind."""

import asyncio
import io
import logging
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from actors.errors import ConnectFailed, LinkError, ListenFailed, PingTimeout, ProtocolViolation, TransportLost
from actors.server_stream import Handler, ServerStream
from actors.settings import Limits
from supervisor import cli, demo
from supervisor.link_state import LinkState, States
from supervisor.server import Server
from supervisor.workers import alone
from tests.interop.command import muxlink_argv
from tests.interop.peers import ROOT, environment
from tests.support.sides import settle, until

KILL = r"SIGKILL to process (\d+) at request ([\d,]+), (\d+) in flight"


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        return True

    def shows(self) -> str:
        """What stands in its last line."""
        return self.getvalue().rpartition("\n")[2].rpartition(demo.CLEAR)[2]


@define(eq=False)
class FakeProcess:
    """A server in this process, behind what the demo asks of a process of its own."""

    server: Server
    killed_with: int | None = -signal.SIGKILL
    """What it ends with when it is killed; None: it goes on."""
    serves_on: bool = False
    """Whether it only says that it has ended."""
    returncode: int | None = None
    pid: int = 4711
    ended: asyncio.Event = field(factory=asyncio.Event)

    def kill(self) -> None:
        self.ended.set()

    async def communicate(self) -> None:
        await self.ended.wait()
        if self.killed_with is None:
            await asyncio.Event().wait()
        if not self.serves_on:
            await self.server.close(0)
        self.returncode = self.killed_with


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, handler: Handler = demo.hello, *, ends_with: int = 0, **fate: Any
) -> None:
    """Let the demo's servers be some of this process; ``fate`` is the first one's, ``ends_with`` the last one's."""

    @asynccontextmanager
    async def server_process(port: int = 0) -> AsyncIterator[tuple[FakeProcess, str]]:
        async with Server(handler, port=port) as server:
            yield (process := FakeProcess(server, **fate)), server.url
            if process.returncode is None:
                process.returncode = ends_with

    monkeypatch.setattr(demo, "server_process", server_process)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, not even one that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- what it tells ----------------------------------------------------------------------------------------------------


@pytest.mark.bulk
@pytest.mark.parametrize("requests", [1, 120])
async def test_a_server_is_killed_with_requests_in_flight_and_none_is_lost(requests: int) -> None:
    out = io.StringIO()
    await demo.run(requests, 50, out)
    told = out.getvalue()
    [[first, number, in_flight]] = re.findall(KILL, told)
    assert int(number) == (requests + 1) // 2
    assert 1 <= int(in_flight) <= min(requests, 50)
    [started] = re.findall(r"process (\d+) serves http://127\.0\.0\.1:\d+\n", told)
    [second] = re.findall(r"process (\d+) serves on the same port\n", told)
    assert started == first != second
    assert f"process {second} drained and ended with 0\n" in told
    assert f"\nrequests      {requests} answered right, 0 lost\n" in told
    assert is_gone(int(first))
    assert is_gone(int(second))


@pytest.mark.bulk
async def test_its_lines_are_in_the_order_of_their_times_and_fit_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    out = io.StringIO()
    await demo.run(60, 50, out)
    told = out.getvalue()
    assert told.isascii()
    assert max(map(len, told.splitlines())) <= 80
    events, _, table = told.partition("\n\n")
    times = [float(line[:6]) for line in events.splitlines()]
    assert times == sorted(times)
    assert [line.split()[2] for line in events.splitlines()[:4]] == ["server", "link", "requests", "kill"]
    assert [line[:14].rstrip() for line in table.splitlines()] == [
        "requests", "repeated", "longest wait", "connections", "unconnected", "latency",
    ]  # fmt: skip
    assert events.index("READY with 2 connections") < events.index("READY no more: ") < events.index("READY again")


@pytest.mark.bulk
async def test_the_figures_are_those_of_the_link_and_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    out = io.StringIO()
    await demo.run(60, 20, out)
    told = out.getvalue()
    [gone] = re.findall(r"(\S+) s  link      READY no more", told)
    [back] = re.findall(r"(\S+) s  link      READY again", told)
    [without] = re.findall(r"unconnected   (\S+) s", told)
    assert float(without) == pytest.approx(float(back) - float(gone), abs=0.0015)
    [[made, lost]] = re.findall(r"connections   (\d+) made; restarts: (\d+) ", told)
    assert int(made) == int(lost) + 2
    [[half, most]] = re.findall(r"half within ([\d.]+) s, 99 % within ([\d.]+) s", told)
    [longest] = re.findall(r"longest wait  ([\d.]+) s", told)
    assert demo.WORK <= float(half) <= float(most) <= float(longest)
    assert float(longest) >= float(without), "some request waited for the second server"


@pytest.mark.bulk
@pytest.mark.parametrize(("requests", "callers"), [(1, 50), (2, 1), (3, 2), (60, 50)])
async def test_each_number_is_asked_for_and_those_in_flight_again(
    requests: int, callers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[bytes] = []

    async def handler(stream: ServerStream) -> None:
        names.append(name := await stream.read())
        await asyncio.sleep(demo.WORK)
        await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])

    in_this_process(monkeypatch, handler)
    out = io.StringIO()
    await demo.run(requests, callers, out)
    assert set(names) == {b"request %d" % number for number in range(1, requests + 1)}
    [repeated] = re.findall(r"repeated      ([\d,]+) by the link itself", out.getvalue())
    assert len(names) - requests <= int(repeated)
    assert int(repeated) >= 1


async def test_the_links_warnings_are_left_to_the_story(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_this_process(monkeypatch)
    level = logging.getLogger("muxlink.link").level
    await demo.run(1, 1, io.StringIO())
    assert caplog.records == []
    assert logging.getLogger("muxlink.link").level == level


# --- what is not so ---------------------------------------------------------------------------------------------------


async def another_name(stream: ServerStream) -> None:
    name = await stream.read()
    await stream.respond(200, body=b"hello, " + name + b"!", trailers=[("len", str(len(name)))])


async def another_length(stream: ServerStream) -> None:
    name = await stream.read()
    await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name) + 1))])


async def another_status(stream: ServerStream) -> None:
    name = await stream.read()
    await stream.respond(203, body=b"hello, " + name, trailers=[("len", str(len(name)))])


async def nothing(stream: ServerStream) -> None:
    await stream.read()
    await stream.respond(200, trailers=[("len", "0")])


async def lies_at_the_end(stream: ServerStream) -> None:
    name = await stream.read()
    said = b"request 0" if name == b"request 20" else name
    await stream.respond(200, body=b"hello, " + said, trailers=[("len", str(len(name)))])


@pytest.mark.parametrize("liar", [another_name, another_length, another_status, nothing, lies_at_the_end])
@pytest.mark.parametrize("out", [io.StringIO, Terminal], ids=["file", "terminal"])
async def test_a_wrong_answer_is_an_error_and_no_summary(
    liar: Handler, out: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch, liar)
    told = out()
    with pytest.raises(ProtocolViolation, match=r"^request \d+ got the answer 20"):
        await demo.run(20, 5, told)
    assert "answered" not in told.getvalue()
    if isinstance(told, Terminal):
        assert told.shows() == ""


@pytest.mark.logs_errors("crashed|no good")
async def test_a_handler_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(stream: ServerStream) -> None:
        raise RuntimeError("no good")

    in_this_process(monkeypatch, handler)
    with pytest.raises(LinkError):
        await demo.run(3, 1, io.StringIO())


@pytest.mark.parametrize(
    ("fate", "told"),
    [
        ({"killed_with": -signal.SIGTERM}, r"process 4711 ended with -15, not by SIGKILL"),
        ({"killed_with": 0}, r"process 4711 ended with 0, not by SIGKILL"),
        ({"killed_with": None}, r"process 4711 outlived SIGKILL for 1 s"),
        ({"serves_on": True}, r"the link stayed READY without its server for 1 s"),
        ({"returncode": 1}, r"process 4711 had ended with 1 before it was killed"),
    ],
    ids=["by another signal", "by itself", "not at all", "in name only", "before"],
)
async def test_a_server_that_was_not_killed_is_no_story(
    fate: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch, **fate)
    monkeypatch.setattr(demo, "STOP_TIMEOUT", 1.0)
    monkeypatch.setattr(demo, "NOTICE_TIMEOUT", 1.0)
    out = io.StringIO()
    with pytest.raises(LinkError, match=told):
        await demo.run(20, 5, out)
    assert "answered" not in out.getvalue()


async def test_a_second_server_that_ends_badly_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, ends_with=3)
    out = io.StringIO()
    with pytest.raises(ConnectFailed, match="server process 4711 ended with 3, not 0"):
        await demo.run(1, 1, out)
    assert "answered right" not in out.getvalue()


async def test_a_second_server_that_does_not_start_is_told_and_the_link_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[asyncio.subprocess.Process]
) -> None:
    ran = tmp_path / "ran"
    runs(f"test -e '{ran}' && exit 3; touch '{ran}'; exec '{sys.executable}' \"$@\"", tmp_path, monkeypatch)
    out = io.StringIO()
    with pytest.raises(ConnectFailed, match=r"^the server process did not start: it ended with 3$"):
        await demo.run(20, 5, out)
    assert "READY no more" in out.getvalue()
    assert len(started) == 2
    for process in started:
        assert is_gone(process.pid)
        await closed(process)


async def test_a_reader_that_goes_away_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            if "READY no more" in text:
                raise BrokenPipeError
            return super().write(text)

    in_this_process(monkeypatch)
    with pytest.raises(BrokenPipeError):
        await demo.run(20, 5, Pipe())


# --- the link's changes -----------------------------------------------------------------------------------------------


LOST, REFUSED = TransportLost("lost"), ConnectFailed("refused")


@pytest.mark.parametrize(
    "at_once",
    [
        [(LinkState.CONNECTING, LOST), (LinkState.TRANSIENT_FAILURE, REFUSED)],
        [(LinkState.CONNECTING, REFUSED), (LinkState.TRANSIENT_FAILURE, REFUSED)],
        [(LinkState.TRANSIENT_FAILURE, REFUSED)],
        [(LinkState.TRANSIENT_FAILURE, LOST), (LinkState.CONNECTING, LOST), (LinkState.TRANSIENT_FAILURE, REFUSED)],
    ],
)
async def test_however_the_losses_and_the_first_attempt_fall_together_the_lines_are_the_same(
    at_once: list[tuple[LinkState, LinkError]],
) -> None:
    told: list[str] = []
    states, restarts = States(), Counter[str]()
    watch = demo.Watch(states.watch(), lambda: restarts, lambda _, what, at: told.append(f"{at:g} {what}"))
    running = asyncio.create_task(watch.run())
    states.change(LinkState.CONNECTING, None, 1.0)
    states.change(LinkState.READY, None, 2.0)
    for began in (0, 100):
        restarts["TransportLost"] += 2
        for state, cause in at_once:
            states.change(state, cause, began + 3.0)
        for at in (5.0, 6.0):
            states.change(LinkState.CONNECTING, REFUSED, began + at)
            states.change(LinkState.TRANSIENT_FAILURE, REFUSED, began + at)
        states.change(LinkState.CONNECTING, REFUSED, began + 7.0)
        states.change(LinkState.READY, None, began + 8.0)
        await settle()
    states.change(LinkState.SHUTDOWN, None, 200.0)
    await running
    failures = 2 + [state for state, _ in at_once].count(LinkState.TRANSIENT_FAILURE)
    assert told == [
        line
        for began in (0, 100)
        for line in (
            f"{began + 3} READY no more: 2 TransportLost",
            f"{began + 3} TRANSIENT_FAILURE: ConnectFailed",
            f"{began + 8} READY again, after {failures} x TRANSIENT_FAILURE",
        )
    ]
    assert watch.without == 10.0
    assert watch.lost.is_set()
    assert watch.back.is_set()


async def test_a_link_that_loses_no_connection_and_is_not_ready_says_its_cause() -> None:
    told: list[str] = []
    states = States()
    watch = demo.Watch(states.watch(), dict, lambda _, what, __: told.append(what))
    states.change(LinkState.READY, None, 1.0)
    states.change(LinkState.CONNECTING, PingTimeout("silent"), 2.0)
    states.change(LinkState.SHUTDOWN, None, 3.0)
    await watch.run()
    assert told == ["READY no more: PingTimeout"]
    assert (watch.lost.is_set(), watch.back.is_set()) == (True, False)


async def test_a_link_that_was_never_ready_is_neither_lost_nor_back() -> None:
    states = States()
    watch = demo.Watch(states.watch(), dict, lambda *_: pytest.fail("nothing is told"))
    states.change(LinkState.TRANSIENT_FAILURE, ConnectFailed("refused"), 1.0)
    states.change(LinkState.READY, None, 2.0)
    states.change(LinkState.SHUTDOWN, None, 3.0)
    await watch.run()
    assert (watch.lost.is_set(), watch.back.is_set(), watch.without) == (False, False, 0.0)


# --- the progress line ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stuck_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Terminal, asyncio.Event]]:
    """A story of ten requests whose second server waits before it answers number 7."""
    out, release = Terminal(), asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        name = await stream.read()
        if name == b"request 7":
            await release.wait()
        await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])

    in_this_process(monkeypatch, handler)
    yield out, release


@pytest.mark.bulk
async def test_a_terminal_sees_progress_and_then_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck_in_the_middle(monkeypatch) as (out, release), asyncio.timeout(20):
        running = asyncio.create_task(demo.run(10, 1, out))
        await until(lambda: "6 of 10, link READY" in out.shows(), timeout=20)
        assert re.fullmatch(r"[-|/\\] \[#{14}\.{10}\] 6 of 10, link READY", out.shows())
        release.set()
        await running
    assert out.shows() == ""
    assert "10 answered right" in out.getvalue().rpartition(demo.CLEAR)[2], "nothing is written over the table"


async def test_a_cancelled_demo_leaves_no_half_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck_in_the_middle(monkeypatch) as (out, _), asyncio.timeout(20):
        running = asyncio.create_task(demo.run(10, 1, out))
        await until(lambda: "6 of 10" in out.shows(), timeout=20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert out.shows() == ""


async def test_what_is_no_terminal_sees_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    out = io.StringIO()
    await demo.run(10, 5, out)
    assert "\r" not in out.getvalue()
    assert "\x1b" not in out.getvalue()


# --- interruptions ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def muxlink_demo() -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, in a process group of its own; whatever is left of that is killed."""
    process = await asyncio.create_subprocess_exec(
        *muxlink_argv("demo", "--requests", "200000"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.bulk
@pytest.mark.parametrize(
    ("moment", "by", "code", "said"),
    [
        (b"serves http", signal.SIGINT, cli.INTERRUPTED, b""),
        (b"200,000, 50 at a time", signal.SIGINT, cli.INTERRUPTED, b""),
        (b"200,000, 50 at a time", signal.SIGTERM, cli.FAILED, b"muxlink demo: ended by SIGTERM\n"),
    ],
)
async def test_an_interrupted_demo_leaves_no_process(moment: bytes, by: signal.Signals, code: int, said: bytes) -> None:
    async with muxlink_demo() as running, asyncio.timeout(60):
        assert running.stdout is not None
        async for line in running.stdout:
            if moment in line:
                break
        assert group_lives(running.pid)
        running.send_signal(by)
        _, err = await running.communicate()
        assert (running.returncode, err) == (code, said)
        assert not group_lives(running.pid), "a server outlived the demo"


@pytest.mark.bulk
@pytest.mark.parametrize("moment", ["SIGKILL to process", "READY no more", "on the same port", "READY again"])
async def test_a_demo_that_is_cancelled_in_the_middle_leaves_no_process(
    moment: str, started: list[asyncio.subprocess.Process]
) -> None:
    out = io.StringIO()
    running = asyncio.create_task(demo.run(120, 50, out))
    await until(lambda: moment in out.getvalue(), timeout=60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for process in started:
        assert is_gone(process.pid)
        await closed(process)


# --- the server's process ---------------------------------------------------------------------------------------------


async def closed(process: asyncio.subprocess.Process) -> None:
    """Read its pipe to the end: asyncio closes a process's transport only then."""
    assert process.stdout is not None
    await process.stdout.read()
    await asyncio.sleep(0)


async def test_a_body_that_raises_leaves_no_process() -> None:
    with pytest.raises(RuntimeError, match="had enough"):
        async with demo.server_process() as (process, _):
            raise RuntimeError("had enough")
    assert is_gone(process.pid)
    assert process.returncode == 0


async def test_a_body_that_is_cancelled_leaves_no_process() -> None:
    started: asyncio.Future[asyncio.subprocess.Process] = asyncio.get_running_loop().create_future()

    async def body() -> None:
        async with demo.server_process() as (process, _):
            started.set_result(process)
            await asyncio.Event().wait()

    running = asyncio.create_task(body())
    process = await started
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert is_gone(process.pid)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """Every process that is started from now on."""
    processes: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def noted(*argv: Any, **options: Any) -> asyncio.subprocess.Process:
        processes.append(process := await start(*argv, **options))
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return processes


def runs(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script be the server."""
    path = tmp_path / "server"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "did not start: it ended with 3"),
        ("echo sorry; exit 3", "did not start: sorry"),
        ("echo sorry; exec sleep 60", "did not start: sorry"),
        ("exec sleep 60", "was not ready within 0.3 s"),
        ("exec >&-; exec sleep 60", "was not ready within 0.3 s"),
    ],
)
async def test_a_server_that_does_not_start_is_told_and_ended(
    script: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[asyncio.subprocess.Process],
) -> None:
    runs(script, tmp_path, monkeypatch)
    if "0.3" in told:
        monkeypatch.setattr(demo, "START_TIMEOUT", 0.3)
    with pytest.raises(ConnectFailed, match=told):
        await demo.run(1, 1, io.StringIO())
    [process] = started
    assert is_gone(process.pid)
    await closed(process)


async def test_a_demo_that_is_cancelled_while_its_server_starts_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[asyncio.subprocess.Process]
) -> None:
    runs("exec sleep 60", tmp_path, monkeypatch)
    running = asyncio.create_task(demo.run(1, 1, io.StringIO()))
    await until(lambda: started != [])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    [process] = started
    assert is_gone(process.pid)
    await closed(process)


async def test_a_server_that_does_not_stop_is_killed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[asyncio.subprocess.Process]
) -> None:
    runs("trap '' TERM; echo serving http://127.0.0.1:1; exec sleep 60", tmp_path, monkeypatch)
    monkeypatch.setattr(demo, "STOP_TIMEOUT", 0.3)
    with pytest.raises(LinkError, match=r"^server process \d+ did not stop for 0\.3 s$"):
        async with demo.server_process():
            pass
    [process] = started
    assert is_gone(process.pid)
    await closed(process)


async def test_a_second_cancellation_while_it_stops_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[asyncio.subprocess.Process]
) -> None:
    runs("trap '' TERM; echo serving http://127.0.0.1:1; exec sleep 60", tmp_path, monkeypatch)
    within = asyncio.Event()

    async def body() -> None:
        async with demo.server_process():
            within.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(body())
    await within.wait()
    running.cancel()
    await asyncio.sleep(0.05)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    [process] = started
    assert is_gone(process.pid)
    await closed(process)


# --- what the command's servers add -----------------------------------------------------------------------------------


def test_serve_lets_connections_end_after_half_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Limits] = []

    class Refused(Server):
        async def __aenter__(self) -> "Refused":
            asked.append(self.limits)
            raise ListenFailed("not here")

    monkeypatch.setattr(alone, "Server", Refused)
    assert cli.main(["serve", "supervisor.demo:hello", "--bind", "127.0.0.1:0", "--workers", "0"]) == cli.FAILED
    [limits] = asked
    assert limits.max_connection_age == 1800
