"""The commands that look into a running server: what they show, and what they leave of a terminal."""

import argparse
import asyncio
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from actors.errors import ConnectFailed, Misuse, ProtocolViolation, RemoteError
from actors.server_stream import ServerStream
from supervisor.census import graft
from supervisor.console import add_commands
from supervisor.control import ControlServer
from supervisor.link import Link
from supervisor.screens import clean, duration, rate, render_stats, render_top, render_tree, size
from supervisor.server import Server

ROOT = Path(__file__).parents[2]
PROGRAM = """
import argparse, asyncio, fcntl, sys, termios
from supervisor.console import add_commands
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
parser = argparse.ArgumentParser()
add_commands(parser.add_subparsers())
asked = parser.parse_args(sys.argv[1:])
sys.exit(asyncio.run(asked.run(asked)))
"""


def actor(name: str, parent: str | None, kind: str = "Actor", **figures: object) -> dict[str, Any]:
    return {
        "name": name, "parent": parent, "kind": kind, "state": "running", "mailbox": 0, "streams": None, "age": 61.0,
        "restarts": 0, "detail": {}, **figures,
    }  # fmt: skip


CREW = [
    actor("crew", None, "Crew", age=3600.0),
    actor("worker-1", "crew", "WorkerActor", restarts=3),
    actor("worker-2", "crew", "WorkerActor", state="hung", mailbox=None, age=None),
]
SERVED = [
    actor("server-1", None, "ListenerActor"),
    actor("server-1/connection-1", "server-1", "ServerConnection", streams=2, mailbox=7),
    actor("server-1/connection-1/stream-1", "server-1/connection-1", "StreamActor", age=0.25),
    actor("server-1/connection-2", "server-1", "ServerConnection", streams=0),
]


def worker(pid: int, load: int, streams: int, received: int, **more: object) -> dict[str, Any]:
    stats = {
        "connections_open": load, "streams_open": 3, "streams_total": streams, "handlers": 3, "bytes_held": 2048,
        "bytes_received": received, "bytes_sent": received, "connections_refused": 1, "streams_refused": 2,
    }  # fmt: skip
    return {
        "pid": pid, "state": "ready", "generation": 0, "load": load, "age": 90.0, "late": 0.002,
        "rss": 30 << 20, "stats": stats, **more,
    }  # fmt: skip


PARENT = {
    "pid": 100, "url": "http://127.0.0.1:8080", "age": 7500.0, "workers_wanted": 2, "workers_ready": 2,
    "generation": 0, "restarts": 1,
}  # fmt: skip


def figures(**workers: object) -> dict[str, Any]:
    return {"parent": PARENT, "workers": {name.replace("_", "-"): each for name, each in workers.items()}}


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_the_tree_is_readable_in_eighty_columns() -> None:
    shown = render_tree({"actors": graft(CREW, {"worker-1": SERVED})}, 80)
    assert shown == (
        "ACTOR                                          STATE      MAIL STRMS    AGE  RST\n"
        "crew Crew                                      running       0     -  1h00m    -\n"
        "|-worker-1 WorkerActor                         running       0     -    61s    3\n"
        "| `-server-1 ListenerActor                     running       0     -    61s    -\n"
        "|   |-connection-1 ServerConnection            running       7     2    61s    -\n"
        "|   | `-stream-1 StreamActor                   running       0     -   0.2s    -\n"
        "|   `-connection-2 ServerConnection            running       0     0    61s    -\n"
        "`-worker-2 WorkerActor                         hung          -     -      -    -"
    )


def test_with_boxes_the_lines_are_whole() -> None:
    shown = render_tree({"actors": CREW}, 80, boxes=True).split("\n")
    assert [line[:10] for line in shown[2:]] == ["├─worker-1", "└─worker-2"]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal_unless_that_is_very_narrow(width: int) -> None:
    deep = [actor(str(depth), str(depth - 1) if depth else None, "K" * 300) for depth in range(60)]
    lines = render_tree({"actors": deep}, width).split("\n")
    assert len(lines) == 61
    assert max(len(line) for line in lines) <= max(width, 51)


def test_actors_of_one_name_stand_below_their_own_parents() -> None:
    rows = [
        actor("tree", None), actor("same", "tree"), actor("same", "same"), actor("one", "same"), actor("two", "tree"),
    ]  # fmt: skip
    names = [line[:12].rstrip() for line in render_tree({"actors": rows}, 80).split("\n")]
    assert names[1:] == ["tree Actor", "|-same Actor", "| `-same Act", "|   `-one Ac", "`-two Actor"]


def test_no_actors_at_all_are_a_tree_too() -> None:
    assert render_tree({"actors": []}, 80).count("\n") == 0


def test_a_name_cannot_move_the_cursor() -> None:
    assert "\x1b" not in render_tree({"actors": [actor("\x1b[2Jgone\r\n", None)]}, 80)
    assert "\x1b" not in render_top(None, figures(**{"\x1b[2J": worker(1, 1, 1, 1)}), 0, 80, 24)
    assert "\x1b" not in render_stats(figures(**{"\x1b[2J": worker(1, 1, 1, 1, state="\x1b")}))
    assert clean("a\x1b\x9b\n\u202eé") == "a????é"


# --- top --------------------------------------------------------------------------------------------------------------


def test_top_shows_totals_rates_and_the_workers_by_load() -> None:
    before = figures(worker_1=worker(1, 5, 1_000, 0), worker_2=worker(2, 9, 1_000, 10_240))
    now = figures(worker_1=worker(1, 5, 1_400, 4_096), worker_2=worker(2, 9, 1_001, 10_240))
    assert render_top(before, now, 2.0, 80, 24) == (
        "muxlink 100  up 2h05m  workers 2/2 ready  restarts 1  http://127.0.0.1:8080\n"
        "connections 14  streams 6  handlers 6  held 4.0K  refused 2+4\n"
        "requests/s 200  bytes/s in 2.0K out 2.0K\n"
        "\n"
        "WORKER           PID STATE      LINKS  STRMS   REQ/S BYTES/S   LATE   RSS    AGE\n"
        "worker-2           2 ready          9      3     0.5       0    2ms   30M    90s\n"
        "worker-1           1 ready          5      3     200    4.0K    2ms   30M    90s"
    )


def test_before_the_second_frame_there_are_no_rates() -> None:
    shown = render_top(None, figures(worker_1=worker(1, 5, 1_000, 0)), 0.0, 80, 24)
    assert "requests/s -  bytes/s in - out -" in shown
    assert re.search(r"worker-1 +1 ready +5 +3 +- +- ", shown)


def test_a_worker_that_took_anothers_place_has_no_rates_yet() -> None:
    before = figures(worker_1=worker(1, 5, 9_000, 0), worker_2=worker(2, 5, 100, 0))
    now = figures(worker_1=worker(3, 5, 10, 0), worker_2=worker(2, 4, 110, 0))
    shown = render_top(before, now, 1.0, 80, 24)
    assert re.search(r"worker-1 +3 ready +5 +3 +- +- ", shown)
    assert "requests/s 10.0 " in shown


def test_a_worker_without_figures_is_shown_without_them() -> None:
    lost = {"pid": 7, "state": "starting", "generation": 1, "load": 0, "age": 0.5, "stats": None}
    shown = render_top(None, figures(worker_1=worker(1, 5, 10, 10), worker_2=lost), 1.0, 80, 24)
    assert re.search(r"worker-2 +7 starting +0 +- +- +- +- +- +0\.5s$", shown)
    assert "connections 5 " in shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (10, 3), (1, 1)])
def test_a_frame_never_exceeds_the_screen(width: int, height: int) -> None:
    many = {f"worker_{number}": worker(10**7, number, 10**12, 10**15) for number in range(100)}
    lines = render_top(figures(**many), figures(**many), 1e-9, width, height).split("\n")
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    if height == 24:
        assert lines[5].startswith("worker-99 ")
        assert lines[-1] == "... and 82 more with less load"
        assert len(lines) == 24


def test_numbers_fit_into_their_columns() -> None:
    seconds = (0, 9.96, 59, 99, 100, 3_599, 3_600, 172_799, 172_800, 10**8)
    assert [duration(each) for each in seconds] == [
        "0.0s", "10.0s", "59s", "99s", "1m40s", "59m59s", "1h00m", "47h59m", "2d", "1157d",
    ]  # fmt: skip
    assert [size(each) for each in (0, 999, 1_000, 1_023, 10_240, 10**6, 10**9, 10**12, 10**15)] == [
        "0", "999", "1.0K", "1.0K", "10K", "977K", "954M", "931G", "909.5T",
    ]  # fmt: skip
    assert [rate(each) for each in (0, 0.5, 99.94, 99.96, 12_345.6)] == ["0.0", "0.5", "99.9", "100", "12346"]
    assert (duration(None), size(None), rate(None)) == ("-", "-", "-")


def test_stats_show_each_figure_by_its_name() -> None:
    stats = {"connections_open": 3, "refusals": {"max_streams": 2}, "connections_ended": {"": 4}, "uptime": 1.23456}
    lines = render_stats(figures(worker_1=worker(1, 5, 10, 10, stats=stats))).split("\n")
    assert lines[0] == "parent"
    assert {
        "  pid                    100", "  connections_open       3", "  refusals               max_streams 2",
        "  connections_ended      none 4", "  uptime                 1.235",
    } <= set(lines)  # fmt: skip


# --- the commands -----------------------------------------------------------------------------------------------------


async def answer(question: dict[str, Any]) -> object:
    match question["ask"]:
        case "tree":
            return {"actors": graft(CREW, {"worker-1": SERVED})}
        case "stats":
            return figures(worker_1=worker(os.getpid(), 5, 10, 10, rss=None))
        case _ if question["worker"] == 9:
            raise Misuse("there is no worker 9: there are 2")
        case _:
            return {"text": f"draining {question['worker']}\x1b"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="muxlink")
    add_commands(made.add_subparsers())
    return made


async def run(*words: str) -> int:
    asked = parser().parse_args(words)
    return int(await asked.run(asked))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "control.sock"


async def test_the_tree_goes_to_a_file_in_ascii(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ControlServer(path, answer):
        assert await run("tree", "--control", str(path)) == 0
    printed = capsys.readouterr().out
    assert printed == render_tree({"actors": graft(CREW, {"worker-1": SERVED})}, 80) + "\n"
    assert printed.isascii()


async def test_top_into_a_file_is_one_frame(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ControlServer(path, answer):
        assert await run("top", "--control", str(path)) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.count("WORKER") == 1
    assert re.search(r" \d+(\.\d)?M +90s$", printed)  # what the system says of the memory of this process


async def test_stats_are_told_as_text_json_and_openmetrics(path: Path, capsysbinary: Any) -> None:
    async with ControlServer(path, answer):
        for form in ((), ("--json",), ("--openmetrics",)):
            assert await run("stats", "--control", str(path), *form) == 0
            printed = capsysbinary.readouterr().out.decode()
            if form == ("--json",):
                assert json.loads(printed) == figures(worker_1=worker(os.getpid(), 5, 10, 10, rss=None))
            elif form:
                families = text_string_to_metric_families(printed)  # type: ignore[no-untyped-call]  # has no annotations
                assert "muxlink_streams" in {each.name for each in families}
            else:
                assert "  streams_total          10\n" in printed


async def test_drain_names_the_worker_or_means_them_all(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ControlServer(path, answer):
        assert await run("drain", "--control", str(path)) == 0
        assert await run("drain", "--worker", "2", "--control", str(path)) == 0
        assert capsys.readouterr().out == "draining None?\ndraining 2?\n"
        with pytest.raises(RemoteError, match="there is no worker 9: there are 2"):
            await run("drain", "--worker", "9", "--control", str(path))
        with pytest.raises(Misuse, match="--worker must be the number of a worker, from 1 on, not 0"):
            await run("drain", "--worker", "0", "--control", str(path))


async def test_without_a_path_the_only_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("XDG_RUNTIME_DIR", str(tmp_path)), ("TMPDIR", str(tmp_path)), ("RUNTIME_DIRECTORY", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MUXLINK_CONTROL", raising=False)
    with pytest.raises(ConnectFailed, match="no server with a control socket runs in"):
        await run("tree")
    async with ControlServer(tmp_path / "muxlink" / f"{os.getpid()}.sock", answer):
        assert await run("tree") == 0
    assert capsys.readouterr().out.startswith("ACTOR ")


@pytest.mark.parametrize("command", ["tree", "top", "stats", "drain"])
@pytest.mark.parametrize("what", [None, [], {}, {"actors_": 1}])
async def test_an_answer_that_cannot_be_shown_is_one_line(path: Path, command: str, what: object) -> None:
    async def nonsense(question: dict[str, Any]) -> object:
        return what

    async with ControlServer(path, nonsense):
        with pytest.raises(ProtocolViolation, match=f"gave no answer to '{'stats' if command == 'top' else command}'"):
            await run(command, "--control", str(path))


@pytest.mark.parametrize("command", ["tree", "top", "stats", "drain"])
def test_the_help_of_each_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    printed = capsys.readouterr().out
    assert f"example: muxlink {command}" in printed
    assert "--control PATH" in printed


async def test_what_a_terminal_cannot_show_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def foreign(question: dict[str, Any]) -> object:
        return {"actors": [actor("é\ud800", None)]}

    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    async with ControlServer(path, foreign):
        assert await run("tree", "--control", str(path)) == 0
    out.flush()
    assert b"\n??" in written.getvalue()


async def hello(stream: ServerStream) -> None:
    await stream.respond(200, body=b"hello")


async def test_what_a_real_server_lists_can_be_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Server(hello) as server, Link(server.url) as link:
        await link.request("GET", "/")

        async def real(question: dict[str, Any]) -> object:
            return {"actors": await server.census()}

        async with ControlServer(path, real):
            assert await run("tree", "--control", str(path)) == 0
    assert "`-connection-1 ServerConnection" in capsys.readouterr().out


# --- a terminal -------------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal, and a command that runs in it."""

    def __init__(self, process: asyncio.subprocess.Process, master: int, slave: int) -> None:
        self.process, self._master, self._slave = process, master, slave
        self.shown = ""

    async def until(self, pattern: str) -> None:
        """Read until that is on the screen."""
        loop = asyncio.get_running_loop()
        while not re.search(pattern, self.shown):
            readable = loop.create_future()
            loop.add_reader(self._master, readable.set_result, None)
            try:
                async with asyncio.timeout(20):
                    await readable
            finally:
                loop.remove_reader(self._master)
            self.shown += os.read(self._master, 65_536).decode()

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            await self.until(r"\x1b\[\?1049l")
            return await self.process.wait()


@asynccontextmanager
async def terminal(*words: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *words, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT,
        env={**kept, "PYTHONIOENCODING": "utf-8", **(environ or {})}, start_new_session=True,
    )  # fmt: skip
    try:
        yield Terminal(process, master, slave)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("way", ["q", "Q", "control-c", "SIGTERM", "SIGHUP"])
async def test_top_refreshes_until_it_is_left_and_gives_the_terminal_back(path: Path, way: str) -> None:
    requests = 0

    async def busy(question: dict[str, Any]) -> object:
        nonlocal requests
        requests += 1_000_000  # in about a second
        return figures(worker_1=worker(4_242, 5, requests, 0))

    async with ControlServer(path, busy), terminal("top", "--control", str(path)) as screen:
        before = screen.settings()
        await screen.until(r"requests/s \d{6}")  # the second frame
        assert screen.settings() != before
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in screen.shown.splitlines()]
        assert "WORKER           PID STATE      LINKS  STRMS   REQ/S BYTES/S   LATE   RSS    AGE" in lines
        assert max(len(line) for line in lines) == 80
        if way.startswith("SIG"):
            screen.process.send_signal(getattr(signal, way))
        else:
            screen.type(b"\x03" if way == "control-c" else way.encode())
        assert await screen.ended() == 0
        assert screen.settings() == before
        assert screen.shown.index("\x1b[?1049h") < screen.shown.index("\x1b[?1049l")
        assert "\x1b[?25h" in screen.shown


async def test_top_quits_at_once_while_it_waits_for_an_answer(path: Path) -> None:
    asked = 0

    async def once(question: dict[str, Any]) -> object:
        nonlocal asked
        asked += 1
        if asked > 1:
            waiting.set()
            await asyncio.Event().wait()
        return figures()

    waiting = asyncio.Event()
    async with ControlServer(path, once), terminal("top", "--control", str(path)) as screen:
        await screen.until("WORKER")
        await waiting.wait()
        screen.type(b"q")
        assert await screen.ended() == 0


async def test_top_gives_the_terminal_back_where_its_server_ends(path: Path) -> None:
    server = ControlServer(path, answer)
    async with server, terminal("top", "--control", str(path)) as screen:
        before = screen.settings()
        await screen.until("WORKER")
        await server.__aexit__(None, None, None)
        assert await screen.ended() == 1
        await screen.until("ConnectFailed: no server has its control socket")
        assert screen.settings() == before


async def test_a_terminal_that_knows_more_than_ascii_is_shown_boxes(path: Path) -> None:
    async with ControlServer(path, answer):
        async with terminal("tree", "--control", str(path)) as screen:
            await screen.until("└─worker-2")
        async with terminal("tree", "--control", str(path), environ={"PYTHONIOENCODING": "ascii"}) as screen:
            await screen.until("`-worker-2")
