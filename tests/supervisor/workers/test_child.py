"""A worker's own process: it serves what it is given, says what it does, and ends as it is told (M1, M2, M4, M6).

Each test starts a real process and is its parent.
"""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import pytest
from attrs import define, field

from actors.errors import LinkError
from supervisor.link import Link
from supervisor.workers.channel import Channel
from supervisor.workers.options import ServeOptions
from supervisor.workers.pace import jittered
from supervisor.workers.spoken import (
    LENGTH_SIZE,
    VERSION,
    Beat,
    Begin,
    Draining,
    Ended,
    Hasten,
    Ready,
    Released,
    Report,
    Reported,
    Retire,
    Spoken,
    Take,
    Taken,
    Tired,
    WriteStacks,
    decode,
    encode,
)
from tests.interop.peers import environment
from tests.support import frames
from tests.support.frames import PREFACE, settings
from tests.support.sides import until

M = TypeVar("M")

BLOCK: Final = frames.encode(frames.request())
PATIENCE: Final = 30.0
"""Seconds after which a test gives up; nothing takes nearly as long."""
APP: Final = '''
import asyncio, atexit, os, threading, time

asked = asyncio.Event()

async def hello(stream):
    await stream.respond(200, body=b"hello, " + await stream.read())

async def waits(stream):
    """Answers one half, and the other once its file is there."""
    await stream.start_response(200)
    await stream.send(b"one")
    while stream.path != "/for-ever" and not os.path.exists("go"):
        await asyncio.sleep(0.01)
    if stream.path == "/for-ever":
        await asyncio.Event().wait()
    await stream.send(b"two")
    await stream.end()

async def hangs(stream):
    open("hanging", "w").close()
    time.sleep(1000)

async def keeps_a_thread(stream):
    threading.Thread(target=time.sleep, args=(1000,), name="deaf").start()
    await stream.respond(200)

async def keeps_a_task(stream):
    async def deaf():
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass
    stream_tasks.add(asyncio.create_task(deaf()))
    await stream.respond(200)

async def has_a_child(stream):
    await asyncio.create_subprocess_exec("sleep", "1000", close_fds=False)
    await stream.respond(200)

async def prints(stream):
    print("to nobody")
    await stream.respond(200)

stream_tasks = set()
atexit.register(lambda: open("left", "w").close())
'''
HANGING_HOOK: Final = APP + "atexit.register(time.sleep, 1000)\n"
STUCK_HOOK: Final = APP + "import ctypes; atexit.register(ctypes.PyDLL(None).sleep, 1000)\n"
"""It sleeps as an extension in C may, with the lock that every thread needs."""


@define(eq=False)
class Started:
    """A worker's process, and what it wrote."""

    process: subprocess.Popen[bytes]
    end: socket.socket
    """The parent's of the socket pair."""
    directory: Path

    @property
    def log(self) -> str:
        return (self.directory / "stderr").read_text(encoding="utf-8")

    def ends(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(seconds)


@contextmanager
def started(directory: Path, source: str = APP, *argv: str) -> Iterator[Started]:
    """A worker in a directory that has this module ``app``; whatever is left of it at the end is killed."""
    (directory / "app.py").write_text(source, encoding="utf-8")
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what it says has to wait for us now and then
    with ours, ExitStack() as at_end:
        variables = {**environment(), "PYTHONUNBUFFERED": ""}
        with theirs, (directory / "stderr").open("wb") as stderr, _unread_pipe() as stdout:
            arguments = argv or (str(theirs.fileno()),)
            process = subprocess.Popen(
                (sys.executable, "-P", "-W", "error", "-m", "supervisor.workers.child", *arguments),
                pass_fds=(theirs.fileno(),), cwd=directory, env=variables, stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=stderr, process_group=0,
            )  # fmt: skip
        at_end.callback(process.wait)
        at_end.callback(_kill_group, process.pid)
        yield Started(process, ours, directory)


@contextmanager
def _unread_pipe() -> Iterator[int]:
    """A pipe to write to whose reader has gone."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        yield writes
    finally:
        os.close(writes)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def begin(handler: str = "hello", **options: Any) -> Begin:
    return Begin("worker-1", ServeOptions(handler=f"app:{handler}", **options).as_dict())


# --- as its parent, without a loop ------------------------------------------------------------------------------------


def say(worker: Started, message: Spoken, connection: socket.socket | None = None) -> None:
    files = [] if connection is None else [connection.fileno()]
    socket.send_fds(worker.end, [encode(message)], files)


def hear(worker: Started, kind: type[M]) -> M:
    """The next message of this kind."""
    while True:
        length = int.from_bytes(_exactly(worker.end, LENGTH_SIZE))
        if isinstance(message := decode(_exactly(worker.end, length)), kind):
            return message


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := end.recv(size - len(data))):
            raise EOFError("the worker has closed its end")
        data += more
    return data


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the one that was accepted for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    client.settimeout(PATIENCE)
    with client, accepted:
        yield client, accepted


# --- as its parent, on a loop -----------------------------------------------------------------------------------------


@define(eq=False)
class Parent:
    """Hears a worker, and gives it each client of a listening socket."""

    worker: Started
    listening: socket.socket
    heard: list[Spoken] = field(factory=list)
    given: int = 0
    untaken: dict[int, socket.socket] = field(factory=dict)
    lost: bool = False
    _channel: Channel | None = None
    _passed: dict[type, int] = field(factory=dict)
    _news: asyncio.Event = field(factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def tell(self, message: Spoken) -> None:
        assert self._channel is not None
        self._channel.tell(message)

    async def hears(self, kind: type[M]) -> M:
        """The next message of this kind."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for number in range(self._passed.get(kind, 0), len(self.heard)):
                    self._passed[kind] = number + 1
                    if isinstance(message := self.heard[number], kind):
                        return message
                self._news.clear()
                await self._news.wait()

    async def has_given(self, client: object) -> socket.socket:
        """Our copy of this client's socket, once the worker was given it and has not taken it."""
        found: list[socket.socket] = []

        def given() -> bool:
            found.extend(each for each in self.untaken.values() if each.getpeername() == client)
            return bool(found)

        await until(given, timeout=PATIENCE)
        return found[0]

    async def ends(self) -> int:
        return await asyncio.to_thread(self.worker.ends)

    def __enter__(self) -> Self:
        self._channel = Channel(self.worker.end.dup(), self._told, self._lost)
        asyncio.get_running_loop().add_reader(self.listening, self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self.listening)
        assert self._channel is not None
        self._channel.close()
        for each in self.untaken.values():
            each.close()

    def _accept(self) -> None:
        accepted, _ = self.listening.accept()
        self.given += 1
        self.untaken[self.given] = accepted
        assert self._channel is not None
        self._channel.tell(Take(self.given), accepted)

    def _told(self, message: Spoken, connection: socket.socket | None) -> None:
        assert connection is None
        self.heard.append(message)
        self._news.set()
        if isinstance(message, Taken):
            self.untaken.pop(message.number).close()

    def _lost(self, error: Exception | None) -> None:
        self.lost = True


@asynccontextmanager
async def parent_of(
    directory: Path, handler: str = "hello", source: str = APP, **options: Any
) -> AsyncIterator[Parent]:
    """A worker that serves, and its parent."""
    with started(directory, source) as worker, socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        with Parent(worker, listening) as parent:
            parent.tell(begin(handler, **options))
            ready = await parent.hears(Ready)
            assert ready.pid == worker.process.pid
            yield parent


async def half_of(link: Link, path: str = "/") -> Callable[[], Any]:
    """Ask a handler that answers one half, and return how to get the rest."""
    leaving = link.stream("GET", path)
    stream = await leaving.__aenter__()
    assert await stream.read(3) == b"one"

    async def rest() -> bytes:
        try:
            return await stream.read()
        finally:
            await leaving.__aexit__(None, None, None)

    return rest


# --- serving ----------------------------------------------------------------------------------------------------------


async def test_a_worker_serves_what_it_is_given_and_says_when_that_has_ended(tmp_path: Path) -> None:
    """M1: the parent counts what was taken and what was released."""
    async with parent_of(tmp_path) as parent:
        async with Link(parent.url, connections=3) as link:
            replies = await asyncio.gather(*(link.request("POST", "/", body=b"%d" % n) for n in range(20)))
            assert [reply.body for reply in replies] == [b"hello, %d" % n for n in range(20)]
            await until(lambda: parent.given >= 3, timeout=PATIENCE)
            taken = {(await parent.hears(Taken)).number for _ in range(3)}
            assert taken == {1, 2, 3}
        released = 0
        while released < parent.given:
            released += (await parent.hears(Released)).count
        assert released == parent.given


def test_a_connection_is_said_to_be_taken_before_a_byte_of_it_is_answered(tmp_path: Path) -> None:
    """M1: what is not taken can go to another worker, because no client has heard of this one yet."""
    with started(tmp_path) as worker, connected() as (client, accepted):
        say(worker, begin())
        hear(worker, Ready)
        client.sendall(PREFACE + settings())
        say(worker, Take(7), accepted)
        accepted.close()
        assert client.recv(9), "the server's SETTINGS"
        worker.end.setblocking(False)  # it is there already
        assert hear(worker, Taken) == Taken(7)


async def test_a_beat_comes_each_second_and_says_what_is_open(tmp_path: Path) -> None:
    """M6: a loop that lives says so, and by how much it was late."""
    async with parent_of(tmp_path, "waits") as parent, Link(parent.url) as link:
        rest = await half_of(link)
        beats = [await parent.hears(Beat)]
        while beats[-1].streams != 1:
            beats.append(await parent.hears(Beat))
        assert beats[-1].requests == 1
        assert all(0 <= beat.late < 1 for beat in beats)
        (tmp_path / "go").touch()
        assert await rest() == b"two"
        while beats[-1].streams:
            beats.append(await parent.hears(Beat))


async def test_a_late_beat_says_how_late_it_is_and_those_that_were_missed_do_not_come(tmp_path: Path) -> None:
    """M6: after a stall the next beat tells of it, and the one after it is in time again."""
    source = APP + "async def stalls(stream):\n    time.sleep(2.75)\n    await stream.respond(200)\n"
    async with parent_of(tmp_path, "stalls", source) as parent, Link(parent.url) as link:
        await parent.hears(Beat)
        await link.request("GET", "/")
        late = await parent.hears(Beat)
        while late.late < 0.5:
            late = await parent.hears(Beat)
        assert late.late < 2.75
        before = time.monotonic()
        assert (await parent.hears(Beat)).late < 0.5
        assert time.monotonic() - before < 1.2


async def test_figures_and_actors_are_reported_to_each_who_asks(tmp_path: Path) -> None:
    async with parent_of(tmp_path) as parent, Link(parent.url) as link:
        await link.request("GET", "/")
        for number in (4, 9, 11):
            parent.tell(Report(number))
        answers = [await parent.hears(Reported) for _ in range(3)]
        assert [each.number for each in answers] == [4, 9, 11]
        for each in answers:
            assert (each.stats["state"], each.stats["connections_open"]) == ("serving", 1)
            assert each.stats["streams_total"] == 1
            assert each.stats["round_trips"]["count"] >= 0
            assert "connection_stats" not in each.stats
            names = [actor["name"] for actor in each.actors]
            assert any(name.endswith("/connection-1") for name in names)
            assert json.loads(json.dumps(each.actors)) == list(each.actors)


async def test_what_is_asked_before_it_serves_is_answered_when_it_does(tmp_path: Path) -> None:
    with (
        started(tmp_path) as worker,
        socket.create_server(("127.0.0.1", 0)) as listening,
        Parent(worker, listening) as parent,
    ):
        parent.tell(begin())
        parent.tell(Report(1))
        assert (await parent.hears(Reported)).stats["state"] == "serving"


async def test_the_actors_and_the_stack_of_each_task_are_written_to_the_log(tmp_path: Path) -> None:
    """M6, by SIGUSR2 to the parent: also at a level at which nothing else is written."""
    async with parent_of(tmp_path, "waits", log_level="critical") as parent, Link(parent.url) as link:
        rest = await half_of(link)
        parent.tell(WriteStacks())
        await until(lambda: "in waits" in parent.worker.log, timeout=PATIENCE)
        log = parent.worker.log
        assert "await asyncio.sleep(0.01)" in log
        assert re.search(r"task server-\d+/connection-1/stream-1\n", log)
        assert re.search(r"server-\d+/connection-1: running", log)
        (tmp_path / "go").touch()
        assert await rest() == b"two"


async def test_its_log_and_its_access_log_are_as_the_options_say(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    async with parent_of(tmp_path, log_level="debug", log_format="json", access_log=str(access)) as parent:
        async with Link(parent.url) as link:
            await link.request("GET", "/asked?secret")
        parent.tell(Retire(5.0))
        assert await parent.ends() == 0
        [line] = [json.loads(each) for each in access.read_text(encoding="utf-8").splitlines()]
        assert (line["path"], line["status"]) == ("/asked", 200)
        lines = [json.loads(each) for each in parent.worker.log.splitlines()]
        assert {each["process"] for each in lines} == {"worker-1"}


# --- replaced after a while -------------------------------------------------------------------------------------------


async def test_after_so_many_requests_it_asks_once_to_be_replaced_and_serves_on(tmp_path: Path) -> None:
    async with parent_of(tmp_path, max_requests=10) as parent, Link(parent.url) as link:
        for _ in range(8):
            await link.request("GET", "/")
        await parent.hears(Beat)
        beat = await parent.hears(Beat)
        assert beat.requests == 8
        assert not any(isinstance(each, Tired) for each in parent.heard), "10 % less than 10 is 9"
        for _ in range(3):
            await link.request("GET", "/")
        assert "max_requests" in (await parent.hears(Tired)).why
        assert (await link.request("POST", "/", body=b"still")).body == b"hello, still"
        while (await parent.hears(Beat)).requests < 12:
            continue
        await parent.hears(Beat)
        assert len([each for each in parent.heard if isinstance(each, Tired)]) == 1


def test_limits_on_a_workers_life_are_ten_percent_more_or_less() -> None:
    limits = [jittered(1000) for _ in range(200)]
    assert 900 <= min(limits) < 1000 < max(limits) <= 1100


async def test_after_so_long_it_asks_to_be_replaced(tmp_path: Path) -> None:
    async with parent_of(tmp_path, max_worker_age=0.1) as parent:
        assert "max_worker_age" in (await parent.hears(Tired)).why


# --- the end, in good order -------------------------------------------------------------------------------------------


async def test_a_retired_worker_lets_open_streams_finish_and_ends_with_zero(tmp_path: Path) -> None:
    """M2, M4: a drain costs no request."""
    async with parent_of(tmp_path, "waits") as parent, Link(parent.url) as link:
        rest = await half_of(link)
        parent.tell(Retire(20.0))
        await parent.hears(Draining)
        (tmp_path / "go").touch()
        assert await rest() == b"two"
        assert await parent.hears(Ended) == Ended("", cut=(), finished=1)
        assert await parent.ends() == 0
        assert parent.worker.log == ""


def test_what_was_taken_just_before_the_drain_is_still_served(tmp_path: Path) -> None:
    """M2: nobody else can serve it any more, so it is no connection that is closed without a word."""
    with started(tmp_path) as worker, connected() as (client, accepted):
        say(worker, begin())
        hear(worker, Ready)
        client.sendall(PREFACE + settings() + frames.headers(1, BLOCK, end_stream=True))
        socket.send_fds(worker.end, [encode(Take(1)) + encode(Retire(20.0))], [accepted.fileno()])
        accepted.close()
        assert hear(worker, Taken) == Taken(1)
        answer = b""
        while more := client.recv(65536):
            answer += more
            if b"hello, " in answer:
                client.close()
                break
        assert b"hello, " in answer
        ended = hear(worker, Ended)
        assert (ended.reason, ended.cut) == ("", ())
        assert worker.ends() == 0


async def test_what_has_not_finished_in_time_is_cut_and_named(tmp_path: Path) -> None:
    """M4: within its deadline."""
    async with parent_of(tmp_path, "waits") as parent, Link(parent.url) as link:
        rest = await half_of(link, "/for-ever")
        parent.tell(Retire(0.2))
        ended = await parent.hears(Ended)
        assert [name.endswith("/connection-1/stream-1") for name in ended.cut] == [True]
        with pytest.raises(LinkError):
            await rest()
        assert await parent.ends() == 0


async def test_hastened_it_cuts_what_is_left_at_once(tmp_path: Path) -> None:
    """M4: a second signal to the parent."""
    async with parent_of(tmp_path, "waits") as parent, Link(parent.url) as link:
        rest = await half_of(link, "/for-ever")
        parent.tell(Retire(1000.0))
        await parent.hears(Draining)
        parent.tell(Hasten())
        assert len((await parent.hears(Ended)).cut) == 1
        with pytest.raises(LinkError):
            await rest()
        assert await parent.ends() == 0


async def test_a_connection_that_comes_during_the_drain_is_left_to_the_parent(tmp_path: Path) -> None:
    """M2: the parent has its copy, and another worker serves it."""
    async with parent_of(tmp_path, "waits") as parent, Link(parent.url) as link:
        rest = await half_of(link)
        parent.tell(Retire(20.0))
        await parent.hears(Draining)
        client = socket.create_connection(parent.listening.getsockname())
        client.setblocking(False)
        with client:
            kept = await parent.has_given(client.getsockname())
            (tmp_path / "go").touch()
            assert await rest() == b"two"
            assert await parent.ends() == 0
            assert len([each for each in parent.heard if isinstance(each, Taken)]) == 1
            with pytest.raises(BlockingIOError):
                client.recv(1)  # neither closed nor reset: nobody touched it
            kept.send(b"!")
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b"!"


async def test_sigterm_drains_and_a_second_one_hastens(tmp_path: Path) -> None:
    """M4: as a service manager does that signals every process."""
    async with parent_of(tmp_path, "waits", drain_timeout=1000.0) as parent, Link(parent.url) as link:
        rest = await half_of(link, "/for-ever")
        parent.worker.process.terminate()
        await parent.hears(Draining)
        await parent.hears(Beat)
        assert not any(isinstance(each, Ended) for each in parent.heard), "it drains on"
        parent.worker.process.terminate()
        assert len((await parent.hears(Ended)).cut) == 1
        with pytest.raises(LinkError):
            await rest()
        assert await parent.ends() == 0


async def test_the_parents_signals_are_nothing_to_a_worker(tmp_path: Path) -> None:
    async with parent_of(tmp_path) as parent, Link(parent.url) as link:
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
            parent.worker.process.send_signal(each)
        assert (await link.request("POST", "/", body=b"you")).body == b"hello, you"
        await parent.hears(Beat)
        assert parent.worker.process.poll() is None


async def test_when_its_parent_has_gone_it_drains_and_ends(tmp_path: Path) -> None:
    """M1: what it serves is not the parent's fault."""
    async with parent_of(tmp_path, "waits") as parent, Link(parent.url) as link:
        rest = await half_of(link)
        parent.worker.end.shutdown(socket.SHUT_RDWR)
        await until(lambda: "the parent has gone: draining for 20 s" in parent.worker.log, timeout=PATIENCE)
        assert parent.worker.process.poll() is None
        (tmp_path / "go").touch()
        assert await rest() == b"two"
        assert await parent.ends() == 0
        assert len(parent.worker.log.splitlines()) == 1


@pytest.mark.parametrize("how", ["the parent goes", "SIGTERM", "Retire", "Hasten"])
def test_before_it_has_begun_any_end_is_a_good_one(tmp_path: Path, how: str) -> None:
    with started(tmp_path) as worker:
        match how:
            case "the parent goes":
                worker.end.shutdown(socket.SHUT_RDWR)
            case "SIGTERM":
                _until_term_is("SigCgt", worker.process.pid)
                worker.process.terminate()
            case "Retire":
                say(worker, Retire(1000.0))
            case _:
                say(worker, Hasten())
        if how != "the parent goes":
            assert hear(worker, Ended) == Ended("")
        assert worker.ends() == 0


def _until_term_is(mask: str, pid: int) -> None:
    """Wait until the process has SIGTERM in this one of its signal masks."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        [found] = re.findall(rf"{mask}:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
        if int(found, 16) >> (signal.SIGTERM - 1) & 1:
            return
    raise TimeoutError(f"SIGTERM is not in the worker's {mask}")


# --- the end, all the same --------------------------------------------------------------------------------------------


async def test_output_that_nobody_reads_is_no_reason_to_fail(tmp_path: Path) -> None:
    async with parent_of(tmp_path, "prints") as parent, Link(parent.url) as link:
        assert (await link.request("GET", "/")).status == 200
        parent.tell(Retire(5.0))
        assert await parent.ends() == 0
        assert parent.worker.log == ""


def test_a_hook_that_stops_every_thread_is_left_behind_with_its_stack(tmp_path: Path) -> None:
    """M4: exit leaves no process, though the code is one of failure."""
    with started(tmp_path, STUCK_HOOK) as worker:
        say(worker, begin())
        hear(worker, Ready)
        say(worker, Retire(0.0))
        assert hear(worker, Ended) == Ended("")
        assert worker.ends() == 1
        assert "Timeout" in worker.log


def test_the_last_words_are_heard_by_a_parent_that_is_slow_to_listen(tmp_path: Path) -> None:
    """M3: what cannot be written at once is written before the process ends."""
    with started(tmp_path) as worker, ExitStack() as at_end:
        say(worker, begin())
        hear(worker, Ready)
        for number in range(30):
            client, accepted = at_end.enter_context(connected())
            say(worker, Take(number), accepted)
            accepted.close()
            hear(worker, Taken)
            assert client.recv(9), "the server's SETTINGS"
        say(worker, Report(1))
        while len(worker.end.recv(4096, socket.MSG_PEEK)) < 1000:
            continue  # until a part of it is here, and the rest waits
        say(worker, Retire(0.0))
        _until_term_is("SigIgn", worker.process.pid)  # which it is when all else is done
        assert len(hear(worker, Reported).actors) == 31
        assert hear(worker, Ended).reason == ""
        assert worker.ends() == 0


@pytest.mark.parametrize("handler", ["keeps_a_thread", "keeps_a_task"])
async def test_what_a_handler_left_running_does_not_hold_it_up(tmp_path: Path, handler: str) -> None:
    """M4: exit leaves no process."""
    async with parent_of(tmp_path, handler) as parent, Link(parent.url) as link:
        assert (await link.request("GET", "/")).status == 200
        parent.tell(Retire(5.0))
        assert (await parent.hears(Ended)).reason == ""
        before = time.monotonic()
        assert await parent.ends() == 0
        assert time.monotonic() - before < 5
        assert "ended without waiting for" in parent.worker.log
        assert ("the threads deaf" in parent.worker.log) is (handler == "keeps_a_thread")


async def test_exit_hooks_run_and_one_that_hangs_is_left_behind(tmp_path: Path) -> None:
    """M4: the hook that was registered last runs first; the other one never gets its turn."""
    for source, ran in ((APP, True), (HANGING_HOOK, False)):
        (tmp_path / "left").unlink(missing_ok=True)
        async with parent_of(tmp_path, source=source) as parent:
            parent.tell(Retire(0.0))
            assert await parent.ends() == 0
            assert (tmp_path / "left").exists() is ran


async def test_a_handlers_own_process_does_not_keep_the_end_from_the_parent(tmp_path: Path) -> None:
    """M1: only the worker holds its end of the socket pair."""
    async with parent_of(tmp_path, "has_a_child") as parent, Link(parent.url) as link:
        await link.request("GET", "/")
        parent.worker.process.kill()
        await until(lambda: parent.lost, timeout=PATIENCE)


async def test_the_stack_of_a_worker_that_hangs_is_written_on_sigusr1(tmp_path: Path) -> None:
    """M6: its loop cannot do it, so that is done without it, and the worker goes on hanging."""
    async with parent_of(tmp_path, "hangs") as parent, Link(parent.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await until((tmp_path / "hanging").exists, timeout=PATIENCE)
        parent.worker.process.send_signal(signal.SIGUSR1)
        await until(lambda: " in hangs\n" in parent.worker.log, timeout=PATIENCE)
        assert parent.worker.process.poll() is None
        parent.worker.process.kill()
        asking.cancel()
        await asyncio.wait([asking])


# --- what cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        ("1 / 0", {"handler": "app:hello"}, r"cannot import app: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", {"handler": "app:hello"}, r"cannot import app: SystemExit: 3"),
        (APP, {"handler": "app:nobody"}, r"app has no nobody: is the handler's name right\?"),
        (APP, {"handler": "app:hello", "wrokers": 3}, r"there is no option wrokers: .*"),
        (APP, {"handler": "app:hello", "certfile": "/nowhere.pem"}, r"cannot read .*/nowhere\.pem: .*"),
        (APP, {"handler": "app:hello", "access_log": "/nowhere/log"}, r"cannot write the access log /nowhere/log: .*"),
    ],
    ids=[
        "a module that raises",
        "one that exits",
        "no such handler",
        "no such option",
        "no such file",
        "no such directory",
    ],
)
def test_what_can_never_work_is_said_in_a_line(
    tmp_path: Path, source: str, options: dict[str, object], reason: str
) -> None:
    """M3: such a worker need not be tried again."""
    with started(tmp_path, source) as worker:
        say(worker, Begin("worker-1", options))
        ended = hear(worker, Ended)
        assert re.fullmatch(reason, ended.reason)
        assert ended.asked_wrongly
        assert worker.ends() == 2
        assert worker.log == ""


def test_the_parents_other_version_is_an_end_with_the_remedy(tmp_path: Path) -> None:
    """M3: the files were changed under a running parent, which goes on with its old workers."""
    with started(tmp_path) as worker:
        say(worker, Begin("worker-1", {"handler": "app:hello"}, VERSION + 1))
        ended = hear(worker, Ended)
        assert ended.asked_wrongly
        assert f"version {VERSION + 1} and its worker version {VERSION}" in ended.reason
        assert "started again" in ended.reason
        assert worker.ends() == 2


@pytest.mark.parametrize("argv", [("no-number",), ("1", "2"), ("999",)])
def test_whoever_starts_it_by_hand_is_told_who_does(tmp_path: Path, argv: tuple[str, ...]) -> None:
    with started(tmp_path, APP, *argv) as worker:
        assert worker.ends() == 2
        assert worker.log == "a worker is started by 'muxlink serve', with its end of a socket pair\n"


async def test_a_listener_that_breaks_is_a_fault_with_its_reason(tmp_path: Path) -> None:
    """M3: another worker takes its place."""
    source = APP + (
        "from actors.listener import ListenerActor\n"
        "def settle(self):\n"
        "    if self._connections: raise RuntimeError('out of luck')\n"
        "ListenerActor.settle = settle\n"
    )
    async with parent_of(tmp_path, source=source) as parent:
        with socket.create_connection(parent.listening.getsockname()):
            ended = await parent.hears(Ended)
            assert "out of luck" in ended.reason
            assert not ended.asked_wrongly
            assert await parent.ends() == 1
            assert "raise RuntimeError('out of luck')" in parent.worker.log


def test_a_worker_imports_only_what_it_needs(tmp_path: Path) -> None:
    with started(tmp_path, "import sys\nprint(*sys.modules, sep='\\n', file=open('modules', 'w'))\n" + APP) as worker:
        say(worker, begin())
        hear(worker, Ready)
        loaded = set((tmp_path / "modules").read_text(encoding="utf-8").split())
        say(worker, Hasten())
        assert worker.ends() == 0
    unneeded = {"supervisor.cli", "supervisor.demo", "supervisor.link", "supervisor.tree", "supervisor.workers.crew"}
    assert "supervisor.workers.duties" in loaded
    assert loaded & (unneeded | {"argparse", "unittest", "multiprocessing", "grpc", "http.client"}) == set()
