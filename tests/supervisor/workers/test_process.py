"""Real processes: how they end, what they write, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.actor import get_state
from actors.errors import Closed, LimitReached, Misuse, ProcessFailed
from actors.mailbox import Ref, Reply
from actors.messages import Exited, Kill, Watch
from actors.settings import Backoff
from supervisor.restart import Intensity, Restart
from supervisor.tree import Supervisor
from supervisor.workers.process import Process, ProcessActor, ProcessSpec, describe
from supervisor.workers.stderr import FileRelay, Lines, relay_to_stderr
from tests.supervisor.family import turns

SLEEP = "import os, sys, time; os.write(2, b'ready\\n'); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
F_SETPIPE_SZ = 1031
QUICK = Backoff(initial=0.01, maximum=0.02)
crashes = pytest.mark.logs_errors("crashed: process")


@pytest.fixture(params=["pidfd", "thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to learn of an end."""
    if request.param == "thread":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """M4: no file descriptor, and no process that nobody waited for."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def python(program: str, *arguments: str) -> list[str]:
    # Without site, for speed.
    return [sys.executable, "-S", "-E", "-c", program, *arguments]


class Log:
    """What was relayed; wakes who waits for it."""

    def __init__(self) -> None:
        self.text = b""
        self.pieces: list[bytes] = []
        self._news = asyncio.Event()

    def __call__(self, lines: bytes) -> None:
        assert lines.endswith(b"\n"), "only whole lines are relayed"
        self.pieces.append(lines)
        self.text += lines
        self._news.set()

    async def until(self, what: bytes, times: int = 1) -> None:
        async with asyncio.timeout(60):
            while self.text.count(what) < times:
                self._news.clear()
                await self._news.wait()


class Run:
    """A process, and how it ended."""

    def __init__(self, program: str, *arguments: str, **how: Any) -> None:
        self.log = Log()
        self.ends: list[int] = []
        self._over = asyncio.Event()
        self.process = Process(python(program, *arguments), self._ended, **{"relay": self.log, **how})

    def _ended(self, returncode: int) -> None:
        self.ends.append(returncode)
        self._over.set()

    async def end(self) -> int:
        async with asyncio.timeout(60):
            await self._over.wait()
        await asyncio.sleep(0)
        [returncode] = self.ends
        return returncode


def spec(program: str, *arguments: str, **how: Any) -> ProcessSpec:
    return ProcessSpec("it", python(program, *arguments), **{"relay": Log(), "backoff": QUICK, **how})


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("code", [0, 3, 255])
async def test_a_process_that_exits_says_with_what(code: int) -> None:
    run = Run(f"raise SystemExit({code})")
    seen = [run.process.alive]
    assert await run.end() == code
    assert [*seen, run.process.alive] == [True, False]
    assert is_gone(run.process.pid)


@pytest.mark.usefixtures("way")
async def test_a_process_that_is_killed_says_by_what() -> None:
    """M1."""
    run = Run(SLEEP)
    await run.log.until(b"ready")
    os.kill(run.process.pid, signal.SIGKILL)
    assert await run.end() == -signal.SIGKILL
    assert run.process.gone.result() == -signal.SIGKILL


@pytest.mark.usefixtures("way")
async def test_a_signal_reaches_a_process_and_is_nothing_to_one_that_has_gone() -> None:
    run = Run("import signal; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7));" + SLEEP)
    await run.log.until(b"ready")
    run.process.signal(signal.SIGUSR1)
    assert await run.end() == 7
    run.process.signal(signal.SIGKILL)
    run.process.kill()


@pytest.mark.skipif(not hasattr(signal, "pidfd_send_signal"), reason="needs Linux")
async def test_a_signal_goes_to_the_process_and_not_to_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is somebody else's once its process was reaped: signals go by the file descriptor, which is not."""
    numbers: list[int] = []
    run = Run(SLEEP)
    monkeypatch.setattr(os, "kill", lambda pid, number: numbers.append(pid))
    run.process.signal(signal.SIGTERM)
    assert await run.end() == -signal.SIGTERM
    assert numbers == []


@pytest.mark.usefixtures("way")
async def test_a_closed_process_is_gone_at_once_and_calls_nobody() -> None:
    """M4."""
    run = Run(DEAF)
    await run.log.until(b"ready")
    run.process.close()
    assert is_gone(run.process.pid)
    assert not run.process.alive
    run.process.close()
    ended = Run("")
    await ended.end()
    assert run.ends == []


@pytest.mark.usefixtures("way")
async def test_what_a_killed_process_has_started_is_killed_with_it() -> None:
    """M4."""
    reading, writing = os.pipe()
    run = Run(
        "import subprocess, sys, time;"
        "child = [sys.executable, '-S', '-E', '-c', 'import os, time; os.write(2, b\"ready\\\\n\"); time.sleep(60)'];"
        "subprocess.Popen(child, pass_fds=[int(sys.argv[1])]);"
        "time.sleep(60)",
        str(writing),
        pass_fds=[writing],
    )
    os.close(writing)
    await run.log.until(b"ready")
    run.process.kill()
    assert await run.end() == -signal.SIGKILL
    # A pipe comes to its end once all who hold it have ended.
    assert select.select([reading], [], [], 30)[0] == [reading]
    os.close(reading)


async def test_a_process_does_not_hear_the_terminal_of_its_parent() -> None:
    run = Run("import os, sys; sys.exit(os.getpgid(0) != os.getpid() or sys.stdin.read() != '')")
    assert await run.end() == 0


async def test_a_process_has_the_files_environment_and_folder_that_it_is_given(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    program = (
        "import os, sys\n"
        'os.write(int(sys.argv[1]), f\'{os.getcwd()} {os.environ["A"]} {"PATH" in os.environ}\'.encode())\n'
    )
    run = Run(program, str(writing), env={"A": "b"}, cwd=tmp_path, pass_fds=[writing])
    os.close(writing)
    assert await run.end() == 0
    assert os.read(reading, 4096).decode() == f"{tmp_path} b True"
    os.close(reading)


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (3, "exited with 3"),
        (0, "exited with 0"),
        (-9, "was killed by SIGKILL"),
        (-15, "was killed by SIGTERM"),
        (-63, "was killed by signal 63"),
    ],
)
def test_a_return_code_is_said_in_words(returncode: int, words: str) -> None:
    assert describe(returncode) == words


async def test_fifty_processes_at_once_end_each_for_itself() -> None:
    runs = [Run(f"raise SystemExit({number})") for number in range(50)]
    assert [await run.end() for run in runs] == list(range(50))


# --- what it writes ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
async def test_all_that_a_process_wrote_is_relayed_before_its_end_is_told() -> None:
    lines = b"".join(b"line %d\n" % number for number in range(20_000))
    run = Run("import sys; sys.stderr.write(''.join(f'line {n}\\n' for n in range(20_000)) + 'no end')")
    assert await run.end() == 0
    assert run.log.text == lines + b"no end\n"
    assert run.process.last_lines == (*(f"line {number}" for number in range(19_981, 20_000)), "no end")


def test_a_line_that_comes_in_pieces_is_passed_on_once_and_whole() -> None:
    lines = Lines()
    pieces = [b"one", b" line", b"\nanother\n\nno ", b"end"]
    assert [lines.feed(piece) for piece in pieces] == [b"", b"", b"one line\nanother\n\n", b""]
    assert lines.rest() == b"no end\n"
    assert lines.rest() == b""


@given(st.lists(st.binary(max_size=30), max_size=30), st.integers(1, 60))
def test_however_lines_come_nothing_of_them_is_lost_or_too_long(lines: list[bytes], size: int) -> None:
    text = b"\n".join(lines) + b"\n"
    cut = Lines(longest=10)
    came = b"".join(cut.feed(text[at : at + size]) for at in range(0, len(text), size)) + cut.rest()
    expected = [line[at : at + 10] for line in text[:-1].split(b"\n") for at in range(0, len(line) or 1, 10)]
    assert came == b"\n".join(expected) + b"\n"


async def test_a_line_that_is_too_long_is_cut_into_pieces() -> None:
    run = Run("import sys; sys.stderr.write('x' * 65_536 + '\\n' + 'y' * 200_000 + '\\n\\nz\\n')")
    await run.end()
    assert [(line[:1], len(line)) for line in run.log.text.splitlines()] == [
        (b"x", 65_536),
        *((b"y", 65_536),) * 3,
        (b"y", 200_000 - 3 * 65_536),
        (b"", 0),
        (b"z", 1),
    ]
    assert run.process.last_lines[-2:] == ("", "z")
    assert sum(map(len, run.process.last_lines)) <= 8192


async def test_bytes_that_are_no_text_are_relayed_as_they_are_and_replaced_among_the_last_lines() -> None:
    run = Run(r"import os; os.write(2, b'caf\xe9 \xff\n')")
    await run.end()
    assert run.log.text == b"caf\xe9 \xff\n"
    assert run.process.last_lines == ("caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}",)


async def test_the_last_lines_are_bounded_in_bytes() -> None:
    run = Run("for n in range(30): import os; os.write(2, f'{n} '.encode() * 300 + b'\\n')")
    await run.end()
    kept = run.process.last_lines
    assert 0 < sum(map(len, kept)) <= 8192
    assert kept[-1] == "29 " * 300


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pipe of another size")
async def test_a_chatty_process_leaves_the_loop_to_others() -> None:
    # Its pipe holds more than is read at a time.
    run = Run(f"import fcntl, os; fcntl.fcntl(2, {F_SETPIPE_SZ}, 2**20)\nwhile True: os.write(2, b'chat\\n' * 200_000)")
    most = 0
    for _ in range(20):
        before = len(run.log.text)
        await run.log.until(b"chat", run.log.text.count(b"chat") + 1)
        most = max(most, len(run.log.text) - before)
    run.process.kill()
    assert await run.end() == -signal.SIGKILL
    assert 0 < most <= 2 * 65_536, "one piece in each turn of the loop"


async def test_somebody_who_holds_the_stderr_keeps_the_end_waiting_half_a_second_and_no_longer() -> None:
    """M1."""
    run = Run(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], stderr=sys.stderr)\n"
        "print(child.pid, file=sys.stderr)\n"
        "sys.exit(4)\n"
    )
    await asyncio.wait([run.process.gone])
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await run.end() == 4
    assert 0.4 < loop.time() - began < 5
    [pid] = run.process.last_lines
    os.kill(int(pid), signal.SIGKILL)


async def test_a_process_that_closes_its_stderr_lives_on() -> None:
    run = Run("import os, time; os.write(2, b'bye\\n'); os.close(2); time.sleep(600)")
    await run.log.until(b"bye")
    assert run.process.alive
    run.process.signal(signal.SIGTERM)
    assert await run.end() == -signal.SIGTERM
    assert run.process.last_lines == ("bye",)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
async def test_a_full_disk_loses_lines_and_ends_nothing() -> None:
    disk = os.open("/dev/full", os.O_WRONLY)
    relay = FileRelay(disk)
    run = Run("import sys; print('a\\nb\\nc', file=sys.stderr)", relay=relay)
    assert await run.end() == 0
    os.close(disk)
    assert relay.lost == 3
    assert run.process.last_lines == ("a", "b", "c")


@pytest.mark.parametrize("reader", [True, False])
def test_a_pipe_that_is_full_or_has_no_reader_loses_lines(reader: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    relay = FileRelay(writing)
    if not reader:
        os.close(reading)
    relay(b"x\n" * 1_000_000)
    assert 0 < relay.lost <= 1_000_000
    if reader:
        assert os.read(reading, 4) == b"x\nx\n"
        os.close(reading)
    os.close(writing)


async def test_without_a_relay_the_lines_go_to_our_own_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    lost = relay_to_stderr.lost
    run = Run("import sys; print('hello', file=sys.stderr)", relay=relay_to_stderr)
    await run.end()
    assert capfd.readouterr().err == "hello\n"
    assert relay_to_stderr.lost == lost


@pytest.mark.logs_errors("a relay of stderr failed")
async def test_a_relay_that_fails_loses_its_lines_and_nothing_else() -> None:
    def fail(lines: bytes) -> None:
        raise ZeroDivisionError

    run = Run("import sys; print('hello', file=sys.stderr)", relay=fail)
    assert await run.end() == 0
    assert run.process.last_lines == ("hello",)


# --- what cannot be started -------------------------------------------------------------------------------------------


async def test_a_program_that_cannot_be_run_is_one_error_that_names_it(tmp_path: Path) -> None:
    program = tmp_path / "program"
    with pytest.raises(ProcessFailed, match=f"^cannot run '{program}': No such file or directory$") as caught:
        Process([str(program)], print)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.returncode is None
    program.write_text("no program")
    with pytest.raises(ProcessFailed, match=f"^cannot run '{program}': Permission denied$"):
        Process([str(program)], print)
    program.chmod(0o755)
    with pytest.raises(ProcessFailed, match=f"^cannot run '{program}': Exec format error$"):
        Process([str(program)], print)
    with pytest.raises(ProcessFailed, match=f"in '{tmp_path}/nowhere': No such file"):
        Process(python(""), print, cwd=tmp_path / "nowhere")


@pytest.mark.parametrize("argv", [[], ["a\0b"], [1]])
async def test_arguments_that_are_none_are_misuse(argv: Any) -> None:
    with pytest.raises(Misuse, match="cannot run"):
        Process(argv, print)


# --- specs ------------------------------------------------------------------------------------------------------------


def test_a_spec_makes_a_child_that_waits_before_each_restart() -> None:
    child = ProcessSpec("it", ["true"]).child()
    assert (child.name, child.restart, child.backoff) == ("it", Restart.PERMANENT, Backoff())
    assert child.shutdown is not None
    assert child.shutdown > 5.0
    assert ProcessSpec("it", ["true"], backoff=QUICK).child().backoff is QUICK
    assert ProcessSpec("it", ["true"], restart=Restart.TRANSIENT).child().restart is Restart.TRANSIENT


def test_a_spec_shows_neither_arguments_nor_environment() -> None:
    shown = repr(ProcessSpec("it", ["program", "--token=secret"], {"TOKEN": "secret"}))
    assert "program" in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "a child's name is a str"),
        ({"argv": "sleep 9"}, "argv is a program and its arguments"),
        ({"argv": []}, "argv is a program and its arguments"),
        ({"argv": [""]}, "argv is a program and its arguments"),
        ({"argv": ["sleep", 9]}, "argv is a program and its arguments"),
        ({"argv": ["a\0b"]}, "argv is a program and its arguments"),
        ({"argv": None}, "argv is a program and its arguments"),
        ({"env": ["A=b"]}, "env is a mapping"),
        ({"env": {"A": 1}}, "env is a mapping"),
        ({"env": {"A=": "b"}}, "holds no '='"),
        ({"cwd": 3}, "cwd is the path of a folder"),
        ({"restart": "permanent"}, "restart is a Restart"),
        ({"shutdown": -1}, "shutdown is a number of seconds"),
        ({"shutdown": None}, "shutdown is a number of seconds"),
        ({"shutdown": float("nan")}, "shutdown is a number of seconds"),
        ({"backoff": 1}, "backoff is a Backoff"),
        ({"stop_signal": "TERM"}, "stop_signal is a signal"),
        ({"stop_signal": 1000}, "stop_signal is a signal"),
        ({"relay": None}, "relay is a callable"),
    ],
)
def test_a_spec_that_cannot_work_is_misuse(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        ProcessSpec(**{"name": "it", "argv": ["true"], **wrong})


# --- as an actor ------------------------------------------------------------------------------------------------------


async def ended(actor: ProcessActor) -> Exited:
    async with asyncio.timeout(60):
        return await actor.wait()


async def started(how: ProcessSpec) -> tuple[ProcessActor, int]:
    """The actor and the number of its process, which has said that it is ready."""
    actor = ProcessActor(how)
    actor.start()
    assert isinstance(how.relay, Log)
    await how.relay.until(b"ready")
    return actor, int((await get_state(actor.ref)).detail["pid"] or 0)


async def test_an_actor_whose_process_exits_with_0_has_ended_well() -> None:
    actor = ProcessActor(spec(""))
    actor.start()
    assert await ended(actor) == Exited("it", None, crashed=False)


@crashes
async def test_an_actor_whose_process_fails_has_crashed_with_its_last_lines() -> None:
    actor = ProcessActor(spec("import sys; print('first\\n\\x1b[1mlast', file=sys.stderr); sys.exit(3)"))
    actor.start()
    exited = await ended(actor)
    assert exited.crashed
    error = exited.reason
    assert isinstance(error, ProcessFailed)
    assert (error.returncode, error.last_lines) == (3, ("first", "\x1b[1mlast"))
    pid = actor.detail()["pid"]
    assert str(error) == f"process it (pid {pid}) exited with 3; its last line was: \N{REPLACEMENT CHARACTER}[1mlast"


@crashes
async def test_an_actor_whose_process_is_killed_says_by_what() -> None:
    actor, pid = await started(spec(SLEEP))
    os.kill(pid, signal.SIGKILL)
    exited = await ended(actor)
    assert str(exited.reason) == f"process it (pid {pid}) was killed by SIGKILL; its last line was: ready"


async def test_an_actor_that_is_stopped_sends_the_stop_signal_and_waits_for_the_end() -> None:
    """M4."""
    program = "import signal; signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'bye\\n'), sys.exit(5)));" + SLEEP
    log = Log()
    actor, pid = await started(spec(program, stop_signal=signal.SIGINT, relay=log))
    exited = await actor.stop(cause := Closed("enough"))
    assert (exited.reason, exited.crashed) == (cause, False)
    assert log.text == b"ready\nbye\n"
    assert is_gone(pid)
    assert (await get_state(actor.ref)).detail == {"program": sys.executable, "pid": pid, "alive": False}


@pytest.mark.usefixtures("way")
async def test_a_process_that_ignores_the_stop_signal_is_killed_when_its_time_is_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """M4."""
    actor, pid = await started(spec(DEAF, shutdown=0.2))
    loop = asyncio.get_running_loop()
    began = loop.time()
    exited = await actor.stop()
    assert loop.time() - began >= 0.2
    assert not exited.crashed
    assert is_gone(pid)
    assert caplog.messages == ["it did not end within 0.2 s: killed"]


@pytest.mark.usefixtures("way")
async def test_an_actor_that_is_cancelled_leaves_no_process() -> None:
    """M4."""
    actor, pid = await started(spec(DEAF, shutdown=600))
    actor.signal(Kill())
    await ended(actor)
    assert is_gone(pid)


async def test_a_cancelled_actor_waits_for_the_end_of_its_process_without_keeping_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float | None] = []
    wait = subprocess.Popen.wait

    def watched(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waited.append(timeout)
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", watched)
    actor, _ = await started(spec(DEAF, shutdown=600))
    actor.signal(Kill())
    await ended(actor)
    assert waited == [None], "only once it has ended"


async def test_an_actor_that_is_cancelled_before_its_first_step_leaves_no_process() -> None:
    """R6."""
    actor = ProcessActor(spec(DEAF, shutdown=600))
    actor.start()
    actor.signal(Kill())
    await ended(actor)
    assert is_gone(int(actor.detail()["pid"] or 0))


async def test_an_actor_that_is_cancelled_while_it_stops_leaves_no_process() -> None:
    """R6."""
    actor, pid = await started(spec(DEAF, shutdown=600))
    stopping = asyncio.create_task(actor.stop())
    await asyncio.sleep(0)
    actor.signal(Kill())
    await stopping
    assert is_gone(pid)


async def test_an_actor_of_a_program_that_cannot_be_run_does_not_start(tmp_path: Path) -> None:
    actor = ProcessActor(ProcessSpec("it", [str(tmp_path / "none")]))
    with pytest.raises(ProcessFailed, match=r"^process it: cannot run '.*none': No such file or directory$") as caught:
        actor.start()
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# --- as a child -------------------------------------------------------------------------------------------------------


async def pid_of(tree: Supervisor, name: str = "it") -> int:
    return int((await get_state(await tree.find_child(name))).detail["pid"] or 0)


@crashes
async def test_a_process_that_is_killed_is_started_again() -> None:
    """M1, R3."""
    log = Log()
    async with Supervisor([spec(SLEEP, relay=log).child()]) as tree:
        await log.until(b"ready")
        first = await pid_of(tree)
        os.kill(first, signal.SIGKILL)
        await log.until(b"ready", 2)
        second = await pid_of(tree)
        assert second != first
        assert not is_gone(second)
    assert is_gone(second)


@crashes
async def test_a_process_that_cannot_live_ends_its_supervisor_and_the_error_says_why() -> None:
    """M3, R1."""
    program = "import sys; sys.exit('no database')"
    with pytest.raises(LimitReached, match=r"exited with 1; its last line was: no database") as caught:
        async with asyncio.timeout(60), Supervisor([spec(program).child()], intensity=Intensity(2, 30.0)):
            await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, ProcessFailed)
    assert caught.value.__cause__.last_lines == ("no database",)


@crashes
async def test_each_restart_of_a_process_that_fails_waits_as_its_backoff_says(caplog: pytest.LogCaptureFixture) -> None:
    """M3."""
    child = spec("raise SystemExit(1)", backoff=Backoff(initial=0.05, factor=2.0, jitter=0.0)).child()
    with suppress(LimitReached):
        async with asyncio.timeout(60), Supervisor([child], intensity=Intensity(2, 30.0)):
            await asyncio.Event().wait()
    waits = [message.rsplit("restart in ")[-1] for message in caplog.messages if "restart in" in message]
    assert waits == ["0.05 s", "0.1 s"]


async def test_a_transient_process_that_exits_with_0_rests() -> None:
    """R3."""
    log = Log()
    program = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));" + SLEEP
    async with Supervisor([spec(program, restart=Restart.TRANSIENT, relay=log).child()]) as tree:
        await log.until(b"ready")
        end: Reply[Exited] = Reply()
        (await tree.find_child("it")).signal(Watch(Ref("test", end.tell)))
        os.kill(await pid_of(tree), signal.SIGTERM)
        await end.wait()
        [child] = await tree.which_children()
        assert (child.state, child.restarts, child.reason) == ("stopped", 0, None)


@pytest.mark.logs_errors("child it could not start: process it: cannot run")
async def test_a_process_that_cannot_be_run_keeps_its_supervisor_from_starting(tmp_path: Path) -> None:
    """M3."""
    child = ProcessSpec("it", [str(tmp_path / "none")]).child()
    with pytest.raises(Closed, match=r"child it could not start: process it: cannot run '.*none': No such file"):
        async with Supervisor([child]):
            pytest.fail("it was started")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("program", "times"), [(SLEEP, 1), (SLEEP, 2), (DEAF, 2)])
async def test_a_supervisor_that_is_cancelled_leaves_no_process(program: str, times: int) -> None:
    """R5."""
    log = Log()
    specs = [ProcessSpec(f"it-{number}", python(program), relay=log, shutdown=600) for number in range(3)]
    trees: list[Supervisor] = []

    async def supervise() -> None:
        async with Supervisor([each.child() for each in specs]) as tree:
            trees.append(tree)
            await asyncio.Event().wait()

    task = asyncio.create_task(supervise())
    await log.until(b"ready", 3)
    pids = [await pid_of(trees[0], each.name) for each in specs]
    for _ in range(times):
        task.cancel()
        await turns(3)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(set(pids)) == 3
    assert all(map(is_gone, pids))


async def test_fifty_processes_stop_with_their_supervisor() -> None:
    """M4."""
    log = Log()
    specs = [ProcessSpec(f"it-{number}", python(SLEEP), relay=log) for number in range(50)]
    async with Supervisor([each.child() for each in specs]) as tree:
        await log.until(b"ready", 50)
        pids = [await pid_of(tree, each.name) for each in specs]
    assert len(set(pids)) == 50
    assert all(map(is_gone, pids))
