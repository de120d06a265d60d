"""``muxlink demo`` in this process: what it tells is so, and nothing of it stays behind."""

import asyncio
import io
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from actors.errors import ConnectFailed, LinkError, ProtocolViolation
from actors.server_stream import Handler, ServerStream
from supervisor import demo
from supervisor.server import Server
from tests.support.sides import linked, until

CLEARED = "\r\x1b[2K"


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        return True

    def shows(self) -> str:
        """What stands in its last line."""
        return self.getvalue().rpartition("\n")[2].rpartition(CLEARED)[2]


def first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@define
class FakeProcess:
    """A server's process that ends as it is told to."""

    returncode: int
    pid: int = 4711


def in_this_process(monkeypatch: pytest.MonkeyPatch, handler: Handler = demo.hello, *, ends_with: int = 0) -> None:
    """Let the demo's server be one of this process, which no process has to be started for."""

    @asynccontextmanager
    async def server_process() -> AsyncIterator[tuple[FakeProcess, str]]:
        async with Server(handler) as server:
            yield FakeProcess(ends_with), server.url

    monkeypatch.setattr(demo, "server_process", server_process)


# --- what it tells ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("requests", "callers"), [(1, 50), (2, 1), (60, 50), (200, 7)])
async def test_the_summary_tells_what_was_done(requests: int, callers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[bytes] = []

    async def handler(stream: ServerStream) -> None:
        names.append(name := await stream.read())
        await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])

    in_this_process(monkeypatch, handler)
    out = io.StringIO()
    await demo.run(requests, callers, out)
    told = out.getvalue()
    assert f"{requests} of {requests} answered in " in told
    assert f" {min(requests, callers)} at a time" in told
    assert "process 4711 serves http://127.0.0.1:" in told
    assert told.endswith("closed    the server process drained and ended with 0\n")
    assert sorted(names) == sorted(b"request %d" % number for number in range(requests)), "each asked for once"
    [[half, most]] = re.findall(r"half within ([\d.]+) ms, 99 % within ([\d.]+) ms", told)
    assert 0 < float(half) <= float(most)


async def test_a_server_that_ends_badly_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, ends_with=3)
    with pytest.raises(ConnectFailed, match="ended with 3, not 0"):
        await demo.run(1, 1, io.StringIO())


async def another_name(stream: ServerStream) -> None:
    name = await stream.read()
    await stream.respond(200, body=b"hello, " + name + b"!", trailers=[("len", str(len(name)))])


async def another_length(stream: ServerStream) -> None:
    name = await stream.read()
    await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name) + 1))])


async def nothing(stream: ServerStream) -> None:
    await stream.read()
    await stream.respond(200, trailers=[("len", "0")])


async def lies_once(stream: ServerStream) -> None:
    name = await stream.read()
    said = b"request 0" if name == b"request 7" else name
    await stream.respond(200, body=b"hello, " + said, trailers=[("len", str(len(name)))])


@pytest.mark.parametrize("liar", [another_name, another_length, nothing, lies_once])
@pytest.mark.parametrize("out", [io.StringIO, Terminal], ids=["file", "terminal"])
async def test_a_wrong_answer_is_an_error_and_no_summary(
    liar: Handler, out: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch, liar)
    told = out()
    with pytest.raises(ExceptionGroup) as caught:
        await demo.run(20, 5, told)
    assert isinstance(first(caught.value), ProtocolViolation)
    assert "got the answer" in str(first(caught.value))
    assert "answered" not in told.getvalue()
    if isinstance(told, Terminal):
        assert told.shows() == ""


@pytest.mark.logs_errors("crashed|no good")
async def test_a_handler_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(stream: ServerStream) -> None:
        raise RuntimeError("no good")

    in_this_process(monkeypatch, handler)
    with pytest.raises(ExceptionGroup) as caught:
        await demo.run(3, 1, io.StringIO())
    assert isinstance(first(caught.value), LinkError)


async def test_each_request_is_timed() -> None:
    async with linked(demo.hello) as link:
        times = await demo._ask(link, 30, 4, io.StringIO())
    assert len(times) == 30
    assert all(time > 0 for time in times)


# --- the progress line ------------------------------------------------------------------------------------------------


async def test_a_terminal_sees_progress_and_then_none_of_it() -> None:
    out = Terminal()
    release = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        name = await stream.read()
        if name == b"request 5":
            await release.wait()
        await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])

    async with linked(handler) as link, asyncio.timeout(20):
        asking = asyncio.create_task(demo._ask(link, 10, 1, out))
        await until(lambda: "5 of 10" in out.getvalue())
        assert re.search(r"\r. \[#{15}\.{15}\] 5 of 10$", out.shows())
        release.set()
        await asking
    assert out.shows() == ""
    assert "\n" not in out.getvalue()


async def test_a_cancelled_demo_leaves_no_half_of_a_line() -> None:
    out = Terminal()

    async def handler(stream: ServerStream) -> None:
        await asyncio.Event().wait()

    async with linked(handler) as link, asyncio.timeout(20):
        asking = asyncio.create_task(demo._ask(link, 10, 5, out))
        await until(lambda: out.getvalue() != "")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert out.shows() == ""


async def test_what_is_no_terminal_sees_no_progress() -> None:
    out = io.StringIO()
    async with linked(demo.hello) as link:
        await demo._ask(link, 10, 5, out)
    assert out.getvalue() == ""


# --- the server's process ---------------------------------------------------------------------------------------------


def is_gone(process: asyncio.subprocess.Process) -> bool:
    """Whether it has ended and was waited for."""
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return process.returncode is not None
    return False


async def closed(process: asyncio.subprocess.Process) -> None:
    """Read its pipe to the end: asyncio closes a process's transport only then."""
    assert process.stdout is not None
    await process.stdout.read()
    await asyncio.sleep(0)


async def test_the_server_process_serves_and_ends_well() -> None:
    out = io.StringIO()
    await demo.run(3, 2, out)
    assert "3 of 3 answered" in out.getvalue()
    assert "ended with 0" in out.getvalue()


async def test_a_body_that_raises_leaves_no_process() -> None:
    with pytest.raises(RuntimeError, match="had enough"):
        async with demo.server_process() as (process, _):
            raise RuntimeError("had enough")
    assert is_gone(process)
    assert process.returncode == 0
    await closed(process)


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
    assert is_gone(process)
    await closed(process)


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
        ("exit 3", "did not start: it said nothing"),
        ("echo sorry; exit 3", "did not start: sorry"),
        ("echo sorry; exec sleep 60", "did not start: sorry"),
        ("exec sleep 60", "was not ready within 0.3 s"),
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
        async with demo.server_process():
            pytest.fail("it did not start")
    [process] = started
    assert is_gone(process)
    await closed(process)


async def test_a_server_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[asyncio.subprocess.Process]
) -> None:
    runs("trap '' TERM; echo serving http://127.0.0.1:1; exec sleep 60", tmp_path, monkeypatch)
    monkeypatch.setattr(demo, "STOP_TIMEOUT", 0.3)
    with pytest.raises(TimeoutError):
        async with demo.server_process():
            pass
    [process] = started
    assert is_gone(process)
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
    assert is_gone(process)
    await closed(process)
