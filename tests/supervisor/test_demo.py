"""``muxlink demo``: what it tells is so, what is not so ends it with an error, and nothing of it stays behind."""

import asyncio
import io
import itertools
import logging
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from actors.errors import ConnectFailed, LinkError, ListenFailed, ProtocolViolation, TransportLost
from actors.server_stream import Handler, ServerStream
from actors.settings import Backoff, Limits, Retry
from supervisor import cli, demo, demo_server
from supervisor.demo_server import Roll, ServerTree, Worker, server_tree
from supervisor.link import Link
from supervisor.link_state import LinkState, States
from supervisor.server import Server
from supervisor.storytelling import CLEAR, Watch
from supervisor.workers import alone
from tests.interop.command import muxlink_argv
from tests.interop.peers import ROOT, environment
from tests.support.sides import until

PARENT = 4711
WORKER = r"worker-\d+ \(process (\d+)\)"


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        return True

    def shows(self) -> str:
        """What stands in its last line."""
        return self.getvalue().rpartition("\n")[2].rpartition(CLEAR)[2]


class Expectant(io.StringIO):
    """Says when something was written."""

    def __init__(self, expected: str) -> None:
        super().__init__()
        self.expected = expected
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        if self.expected in text:
            self.written.set()
        return super().write(text)


@define(eq=False)
class FakeWorker:
    """A server in this process, in the place of one in a process of its own."""

    name: str
    pid: int
    generation: int
    server: Server
    clients: list[socket.socket] = field(factory=list)
    """Our copies of the sockets that it serves."""

    def die(self) -> None:
        """Cut what it serves."""
        for client in self.clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        self.clients.clear()

    @property
    def open(self) -> int:
        return self.server.stats().connections_open

    def told(self) -> Worker:
        return Worker(self.name, self.pid, self.generation, self.open, self.server.stats().streams_open)


@define(eq=False)
class FakeTree:
    """A server of several workers in this process, behind what the demo asks of a process tree."""

    handler: Handler
    fate: str = ""
    """What goes another way than it should."""
    pid: int = PARENT
    pids: set[int] = field(factory=lambda: {PARENT})
    workers: list[FakeWorker] = field(factory=list)
    generation: int = 1
    restarts: int = 0
    reloading: bool = False
    code: int = 0
    finished: asyncio.Event = field(factory=asyncio.Event)
    cut: asyncio.Event = field(factory=asyncio.Event)
    gone: list[FakeWorker] = field(factory=list)
    tasks: set[asyncio.Task[None]] = field(factory=set)
    numbers: Iterator[int] = field(factory=lambda: itertools.count(1))
    listening: socket.socket = field(factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    async def begin(self) -> None:
        for _ in range(demo.WORKERS):
            await self.hire()
        self.listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self.listening, self._accept)

    async def end(self) -> None:
        self._close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for each in (*self.workers, *self.gone):
            await each.server.close(0)
            each.die()

    def _accept(self) -> None:
        client, _ = self.listening.accept()
        chosen = min(self.workers, key=lambda each: len(each.clients))
        chosen.clients.append(client.dup())
        chosen.server.adopt(client)

    def _close(self) -> None:
        if self.listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.listening)
            self.listening.close()

    async def hire(self) -> None:
        server = Server(self._handle, sockets=())
        await server.__aenter__()
        number = next(self.numbers)
        self.workers.append(FakeWorker(f"worker-{number}", PARENT + number, self.generation, server))

    async def dismiss(self, worker: FakeWorker) -> None:
        self.workers.remove(worker)
        self.gone.append(worker)
        if self.fate == "the reload cuts":
            worker.die()
        await worker.server.close()

    async def _handle(self, stream: ServerStream) -> None:
        if self.fate == "a request is sent twice" and self.reloading:
            self.fate = ""
            self.cut.set()
            stream.reset()
        else:
            await self.handler(stream)

    def do(self, work: Any) -> None:
        self.tasks.add(asyncio.create_task(work))

    # --- what the demo asks -------------------------------------------------------------------------------------------

    async def roll(self) -> Roll:
        await asyncio.sleep(0)
        workers = tuple(each.told() for each in self.workers)
        if self.fate == "an idle one is killed" and len({each.streams for each in workers}) > 1:
            workers = tuple(evolve(each, streams=-each.streams) for each in workers)
        self.pids |= {each.pid for each in workers}
        pid = PARENT + 1 if self.fate == "another parent" and self.reloading else self.pid
        return Roll(pid, self.generation, self.restarts, len(workers), workers)

    def kill(self, worker: Worker) -> None:
        self.do(self._killed(next(each for each in self.workers if each.pid == worker.pid)))

    async def _killed(self, worker: FakeWorker) -> None:
        if self.fate == "it lives":
            return
        if self.fate == "it ends politely":
            await self.dismiss(worker)
        else:
            worker.die()
            if self.fate == "it is noticed late":
                await asyncio.sleep(4 * demo.PROGRESS_INTERVAL)
            self.workers.remove(worker)
            self.gone.append(worker)
        if self.fate != "nobody replaces it":
            await self.hire()
        if self.fate != "nobody counts it":
            self.restarts += 1

    def signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self.reloading = True
            if self.fate == "the reload is a lie":
                for each in self.workers:
                    each.pid += 1000
            elif self.fate != "nothing is reloaded":
                self.do(self._reload())
        else:
            self._close()
            self.do(self._stop())

    async def _reload(self) -> None:
        self.generation += 1
        self.restarts += self.fate == "one fails in the reload"
        if self.fate == "a request is sent twice":
            await self.cut.wait()
            await asyncio.sleep(4 * demo.PROGRESS_INTERVAL)  # a backoff, and it has gone again
        for old in list(self.workers):
            if self.fate == "no overlap":
                await self.dismiss(old)
                await asyncio.sleep(2 * demo.PROGRESS_INTERVAL)
            await self.hire()
            if self.fate == "all at once":
                await self.hire()
                await asyncio.sleep(2 * demo.PROGRESS_INTERVAL)
            if old in self.workers:
                await self.dismiss(old)

    async def _stop(self) -> None:
        for each in self.workers:
            if self.fate == "the end cuts":
                each.die()
            await each.server.close()
        self.finished.set()

    async def ended(self) -> int:
        await self.finished.wait()
        return self.code

    def left(self) -> list[int]:
        return [PARENT + 1] if self.fate == "a worker is left" else []


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, handler: Handler = demo.hello, *, fate: str = "", code: int = 0
) -> None:
    """Let the demo's server be one of this process."""

    @asynccontextmanager
    async def fake_tree(workers: int) -> AsyncIterator[FakeTree]:
        assert workers == demo.WORKERS
        tree = FakeTree(handler, fate, code=code)
        await tree.begin()
        try:
            yield tree
        finally:
            await tree.end()

    monkeypatch.setattr(demo, "server_tree", fake_tree)
    monkeypatch.setattr(demo, "WORK", 0.01)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, not even one that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- what it tells ----------------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_a_worker_is_killed_all_are_replaced_the_server_ends_and_nothing_is_lost() -> None:
    out = io.StringIO()
    await demo.run(120, 50, out)
    told = out.getvalue()
    [parent] = re.findall(r"process (\d+) serves http://127\.0\.0\.1:\d+ by 2 workers\n", told)
    [[killed, in_flight]] = re.findall(rf"SIGKILL to {WORKER}, (\d+) in flight\n", told)
    [twice] = re.findall(r"; (\d+) requests were sent twice\n", told)
    places = re.findall(rf"{WORKER} serves in the place of (worker-\d)\n", told)
    assert 1 <= int(twice) <= int(in_flight) == 50
    assert len({killed, parent, *(pid for pid, _ in places)}) == 5
    assert len({name for _, name in places}) == 3, "the first workers, and the one that was killed's successor"
    assert f"SIGHUP to process {parent}\n" in told
    assert re.search(rf"done by process {parent}: [1-9]\S* requests meanwhile, none cut\n", told)
    assert re.search(rf"SIGTERM to process {parent}, [1-9]\d* in flight\n", told)
    assert f"process {parent} drained and ended with 0; no process is left\n" in told
    assert re.search(r"\nrequests      120 and [\d,]+ more answered right, 0 lost\n", told)
    assert "\nworkers       5 in all; restarts, as the server counts them: 1\n" in told
    for pid in (parent, killed, *(pid for pid, _ in places)):
        assert is_gone(int(pid))


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
    assert [line.split()[2] for line in events.splitlines()] == [
        *("server", "link", "requests", "kill", "link", "link", "server"),
        *("reload", "server", "server", "reload", "stop", "requests", "server"),
    ]
    assert [line[:14].rstrip() for line in table.splitlines()] == [
        "requests", "repeated", "longest wait", "connections", "unconnected", "workers", "latency",
    ]  # fmt: skip


@pytest.mark.bulk
async def test_the_figures_are_those_of_the_link_and_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    out = io.StringIO()
    await demo.run(60, 20, out)
    told = out.getvalue()
    [[made, gone, lost]] = re.findall(r"connections   (\d+) made; restarts: (\d+) GoAway, (\d+) TransportLost\n", told)
    assert int(made) == int(gone) + int(lost) + demo.CONNECTIONS
    assert int(lost) == demo.CONNECTIONS / demo.WORKERS
    [[repeated, begun]] = re.findall(
        r"repeated      (\d+) by the link itself; (\d+) of them may have run twice\n", told
    )
    [twice] = re.findall(r"; (\d+) requests were sent twice\n", told)
    assert 1 <= int(twice) == int(begun) <= int(repeated)
    [[half, most]] = re.findall(r"half within ([\d.]+) s, 99 % within ([\d.]+) s", told)
    [longest] = re.findall(r"longest wait  ([\d.]+) s", told)
    assert demo.WORK <= float(half) <= float(most) <= float(longest)


@pytest.mark.bulk
@pytest.mark.parametrize(("requests", "callers"), [(1, 50), (3, 8), (2000, 50)])
async def test_each_number_is_asked_for_and_those_in_flight_again(
    requests: int, callers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: Counter[bytes] = Counter()

    async def handler(stream: ServerStream) -> None:
        names[name := await stream.read()] += 1
        await asyncio.sleep(demo.WORK)
        await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])

    in_this_process(monkeypatch, handler)
    out = io.StringIO()
    await demo.run(requests, callers, out)
    [more] = re.findall(rf"requests      {requests:,} and ([\d,]+) more answered right, 0 lost\n", out.getvalue())
    asked = requests + int(more.replace(",", ""))
    assert set(names) == {b"request %d" % number for number in range(1, asked + 1)}
    [repeated] = re.findall(r"repeated      ([\d,]+) by the link itself", out.getvalue())
    assert 1 <= names.total() - asked <= int(repeated.replace(",", ""))


async def test_the_links_warnings_are_left_to_the_story(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_this_process(monkeypatch)
    level = logging.getLogger("muxlink.link").level
    await demo.run(1, 20, io.StringIO())
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
    said = b"request 0" if name == b"request 60" else name
    await stream.respond(200, body=b"hello, " + said, trailers=[("len", str(len(name)))])


@pytest.mark.parametrize("liar", [another_name, another_length, another_status, nothing, lies_at_the_end])
@pytest.mark.parametrize("out", [io.StringIO, Terminal], ids=["file", "terminal"])
async def test_a_wrong_answer_is_an_error_and_no_summary(
    liar: Handler, out: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch, liar)
    told = out()
    with pytest.raises(ProtocolViolation, match=r"^request \d+ got the answer 20"):
        await demo.run(60, 20, told)
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


@pytest.mark.bulk
@pytest.mark.parametrize(
    ("fate", "told"),
    [
        ("it lives", r"^the link kept connections of worker-\d \(process \d+\), which was killed, for 1 s$"),
        ("it ends politely", r"^the link kept connections of worker-\d \(process \d+\), which was killed, for 1 s$"),
        ("nobody replaces it", r"^worker-\d \(process \d+\) was not replaced for 1 s$"),
        ("nobody counts it", r"^the server counts 0 restarts of workers, not 1$"),
        ("nothing is reloaded", r"^the reload was not done for 1 s$"),
        ("another parent", r"^the server's process was 4711 before the reload, and is 4712$"),
        ("no overlap", r"^only 1 of 2 workers served during the reload$"),
        ("all at once", r"^4 workers were there during the reload, which is not one at a time$"),
        ("one fails in the reload", r"^a worker failed during the reload$"),
        ("the reload cuts", r"^the reload cut \d+ connections$"),
        ("a request is sent twice", r"^the reload cut 1 requests, which had to be sent twice$"),
        ("the reload is a lie", r"^no request was answered during the reload$"),
        ("a worker is left", r"^the server left processes behind: 4712$"),
    ],
)
async def test_what_did_not_happen_is_no_story(fate: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, fate=fate)
    monkeypatch.setattr(demo, "STAFF_TIMEOUT", 1.0)
    monkeypatch.setattr(demo, "NOTICE_TIMEOUT", 1.0)
    out = io.StringIO()
    with pytest.raises(LinkError, match=told):
        await demo.run(60, 20, out)
    assert "answered right" not in out.getvalue()


@pytest.mark.bulk
async def test_a_server_that_notices_the_death_later_than_the_link_has_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_this_process(monkeypatch, fate="it is noticed late")
    out = io.StringIO()
    await demo.run(60, 20, out)
    assert "restarts, as the server counts them: 1\n" in out.getvalue()


@pytest.mark.bulk
async def test_a_worker_that_had_nothing_to_do_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, fate="an idle one is killed")
    monkeypatch.setattr(demo, "NOTICE_TIMEOUT", 1.0)
    with pytest.raises(LinkError, match=r"^nothing was in flight on worker-\d .* when it was killed, or did not go"):
        await demo.run(20, 1, io.StringIO())


@pytest.mark.bulk
async def test_requests_that_are_cut_at_the_servers_end_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, fate="the end cuts")
    monkeypatch.setattr(demo, "REQUEST_TIMEOUT", 2.0)
    out = io.StringIO()
    with pytest.raises(LinkError):
        await demo.run(60, 20, out)
    assert "SIGTERM" in out.getvalue()
    assert "answered" not in out.getvalue()


@pytest.mark.bulk
async def test_an_end_without_a_request_in_flight_is_no_story(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Link.stats
    monkeypatch.setattr(Link, "stats", lambda link: evolve(measure(link), requests_open=0))
    in_this_process(monkeypatch)
    with pytest.raises(LinkError, match=r"^no request was in flight when the server was told to end$"):
        await demo.run(60, 20, io.StringIO())


@pytest.mark.bulk
async def test_a_server_that_ends_badly_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, code=3)
    out = io.StringIO()
    with pytest.raises(ConnectFailed, match="server process 4711 ended with 3, not 0"):
        await demo.run(20, 20, out)
    assert "answered right" not in out.getvalue()


@pytest.mark.bulk
async def test_a_reader_that_goes_away_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            if "SIGHUP" in text:
                raise BrokenPipeError
            return super().write(text)

    in_this_process(monkeypatch)
    with pytest.raises(BrokenPipeError):
        await demo.run(20, 20, Pipe())


# --- what a link outlives ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def one_process(port: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server without a parent, and its URL; it is killed on leaving."""
    process = await asyncio.create_subprocess_exec(
        *muxlink_argv("serve", demo_server.HANDLER, "--bind", f"127.0.0.1:{port}", "--workers", "0"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip().removeprefix("serving ")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.bulk
async def test_a_link_outlives_its_server_entirely_and_loses_no_idempotent_request() -> None:
    async with asyncio.timeout(60), one_process(0) as (first, url):
        retry = Retry(per_second=100.0)
        async with Link(url, connections=2, backoff=Backoff(initial=0.05, maximum=0.2), retry=retry) as link:
            load = demo.Load(link, 300)
            async with asyncio.TaskGroup() as tasks:
                asking = [tasks.create_task(load.ask()) for _ in range(20)]
                await load.half_way.wait()
                load.enough = True
                first.kill()
                await first.communicate()
                assert first.returncode == -signal.SIGKILL
                await until(lambda: link.state is not LinkState.READY)
                async with one_process(int(url.rpartition(":")[2])) as (second, again):
                    assert again == url
                    assert second.pid != first.pid
                    await asyncio.wait(asking)
            assert load.asked == len(load.times) == 300
            assert link.stats().restarts[TransportLost.__name__] >= 2
            assert sum(link.stats().retries.values()) >= 1


# --- how long it was without ------------------------------------------------------------------------------------------


async def test_the_times_without_a_connection_add_up_from_the_first_one_to_the_last() -> None:
    states = States()
    watch = Watch(states.watch())
    running = asyncio.create_task(watch.run())
    for state, at in [
        (LinkState.CONNECTING, 1.0), (LinkState.READY, 2.0), (LinkState.CONNECTING, 3.0), (LinkState.READY, 4.5),
        (LinkState.TRANSIENT_FAILURE, 10.0), (LinkState.CONNECTING, 11.0), (LinkState.READY, 12.0),
        (LinkState.CONNECTING, 20.0), (LinkState.SHUTDOWN, 30.0),
    ]:  # fmt: skip
        states.change(state, None, at)
    await running
    assert watch.without == 3.5, "neither before the first, nor behind the last"


# --- the progress line ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stuck_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Terminal, asyncio.Event]]:
    """A story of twenty requests whose server waits before it answers number 7 and all behind it."""
    out, release = Terminal(), asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        name = await stream.read()
        if int(name.split()[1]) >= 7:
            await release.wait()
        await asyncio.sleep(demo.WORK)
        await stream.respond(200, body=b"hello, " + name, trailers=[("len", str(len(name)))])

    in_this_process(monkeypatch, handler)
    yield out, release


@pytest.mark.bulk
async def test_a_terminal_sees_progress_and_then_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck_in_the_middle(monkeypatch) as (out, release), asyncio.timeout(20):
        running = asyncio.create_task(demo.run(20, 20, out))
        await until(lambda: "6 of 20 and more, link READY" in out.shows(), timeout=20)
        assert re.fullmatch(r"[-|/\\] \[#{7}\.{17}\] 6 of 20 and more, link READY", out.shows())
        release.set()
        await running
    assert out.shows() == ""
    assert "more answered right" in out.getvalue().rpartition(CLEAR)[2], "nothing is written over the table"


async def test_a_cancelled_demo_leaves_no_half_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stuck_in_the_middle(monkeypatch) as (out, _), asyncio.timeout(20):
        running = asyncio.create_task(demo.run(20, 20, out))
        await until(lambda: "6 of 20" in out.shows(), timeout=20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert out.shows() == ""


@pytest.mark.bulk
async def test_what_is_no_terminal_sees_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    out = io.StringIO()
    await demo.run(10, 20, out)
    assert "\r" not in out.getvalue()
    assert "\x1b" not in out.getvalue()


# --- interruptions ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def muxlink_demo() -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, in a session of its own; what is left of its process group is killed."""
    process = await asyncio.create_subprocess_exec(
        *muxlink_argv("demo", "--requests", "200"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def session_lives(session: int) -> bool:
    """Whether any process is left of the session; workers have process groups of their own."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, found = path.read_text().rpartition(") ")[2].split()[:4]
            if int(found) == session and state != "Z":
                return True
    return False


@pytest.mark.bulk
@pytest.mark.parametrize(
    ("moment", "by", "code", "said"),
    [
        (b"by 2 workers", signal.SIGINT, cli.INTERRUPTED, b""),
        (b"SIGHUP to process", signal.SIGINT, cli.INTERRUPTED, b""),
        (b"50 at a time", signal.SIGTERM, cli.FAILED, b"muxlink demo: ended by SIGTERM\n"),
    ],
)
async def test_an_interrupted_demo_leaves_no_process(moment: bytes, by: signal.Signals, code: int, said: bytes) -> None:
    async with muxlink_demo() as running, asyncio.timeout(60):
        assert running.stdout is not None
        async for line in running.stdout:
            if moment in line:
                break
        assert session_lives(running.pid)
        running.send_signal(by)
        _, err = await running.communicate()
        assert (running.returncode, err) == (code, said)
        assert not session_lives(running.pid), "a server or a worker outlived the demo"


@pytest.mark.bulk
@pytest.mark.parametrize("moment", ["SIGKILL to worker", "SIGHUP to process", "SIGTERM to process"])
async def test_a_demo_that_is_cancelled_in_the_middle_leaves_no_process(moment: str, trees: list[ServerTree]) -> None:
    out = Expectant(moment)
    running = asyncio.create_task(demo.run(60, 50, out))
    async with asyncio.timeout(60):
        await out.written.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    [tree] = trees
    assert len(tree.pids) >= 3
    assert tree.left() == []


# --- the server's processes -------------------------------------------------------------------------------------------


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> list[ServerTree]:
    """Every server tree that is made from now on."""
    made: list[ServerTree] = []
    begin = ServerTree.__init__

    def noted(tree: ServerTree, *arguments: Any) -> None:
        begin(tree, *arguments)
        made.append(tree)

    monkeypatch.setattr(ServerTree, "__init__", noted)
    return made


async def closed(process: asyncio.subprocess.Process) -> None:
    """Read its pipe to the end: asyncio closes a process's transport only then."""
    assert process.stdout is not None
    await process.stdout.read()
    await asyncio.sleep(0)


@pytest.mark.bulk
async def test_a_body_that_raises_leaves_no_process() -> None:
    with pytest.raises(RuntimeError, match="had enough"):  # noqa: PT012  (the body is what is tested)
        async with server_tree(2) as server:
            roll = await server.roll()
            assert (roll.pid, len(roll.pids)) == (server.pid, 2)
            assert set(server.left()) == {server.pid, *roll.pids}
            raise RuntimeError("had enough")
    assert server.left() == []
    assert await server.ended() == 0


@pytest.mark.bulk
async def test_a_worker_that_has_ended_cannot_be_killed_and_a_server_not_signalled() -> None:
    async with server_tree(1) as server:
        gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await gone.wait()
        with pytest.raises(LinkError, match=rf"^worker-1 \(process {gone.pid}\) had ended before it was killed$"):
            server.kill(Worker("worker-1", gone.pid, 1, 0, 0))
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        with pytest.raises(LinkError, match=rf"^server process {server.pid} had ended with 0 before its SIGHUP$"):
            server.signal(signal.SIGHUP)


@pytest.mark.bulk
async def test_your_options_are_not_the_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXLINK_CERTFILE", "/nowhere/cert.pem")
    async with server_tree(1) as server:
        assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"parent": {"pid": 1, "generation": 1, "restarts": 0}, "workers": {}},
        {"parent": {"pid": 1, "generation": 1, "restarts": 0, "workers_ready": 1}, "workers": []},
        {"parent": {"pid": "x", "generation": 1, "restarts": 0, "workers_ready": 1}, "workers": {}},
        {"parent": {"pid": 1, "generation": 1, "restarts": 0, "workers_ready": 1}, "workers": {"worker-1": {"pid": 2}}},
    ],
)
def test_figures_that_are_none_are_told(answer: object) -> None:
    with pytest.raises(ProtocolViolation, match="the server's figures are none"):
        Roll.of(answer)


def test_a_worker_without_a_process_does_not_count_and_one_without_figures_has_no_streams() -> None:
    told = {"generation": 1, "load": 2, "stats": None}
    parent = {"pid": 1, "generation": 1, "restarts": 0, "workers_ready": 1}
    serving = {**told, "pid": 3, "stats": {"streams_open": 7}}
    workers = {"worker-1": {**told, "pid": 2}, "worker-2": {**told, "pid": None}, "worker-3": serving}
    roll = Roll.of({"parent": parent, "workers": workers})
    assert roll.workers == (Worker("worker-1", 2, 1, 2, 0), Worker("worker-3", 3, 1, 2, 7))
    assert roll.pids == {2, 3}


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
        monkeypatch.setattr(demo_server, "START_TIMEOUT", 0.3)
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
    monkeypatch.setattr(demo_server, "STOP_TIMEOUT", 0.3)
    with pytest.raises(LinkError, match=r"^server process \d+ did not stop for 0\.3 s$"):
        async with server_tree(1):
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
        async with server_tree(1):
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
