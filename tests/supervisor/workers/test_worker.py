"""A worker as its parent sees it, with real processes: good ones, and ones that do what they must not (M1, M3, M6)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.actor import ask, get_state
from actors.errors import Closed, DeadlineExceeded, LinkError, ProcessFailed
from actors.mailbox import Ref
from actors.messages import Exited, Kill
from supervisor.workers import beats, worker
from supervisor.workers.posts import (
    AskReport,
    Give,
    LastWords,
    Returned,
    WorkerDraining,
    WorkerFreshness,
    WorkerReady,
    WorkerReleased,
    WorkerTired,
)
from supervisor.workers.spoken import Hasten, Retire, WriteStacks
from supervisor.workers.worker import WorkerActor
from tests.interop.peers import environment
from tests.supervisor.workers.scripted import Owner, answer, connected, nothing_left, options, script
from tests.support.frames import PREFACE, settings
from tests.support.sides import settle, until

APP = """
import time

async def hello(stream):
    await stream.respond(200, body=b"hello")

time_of_import = time.time()

async def hangs(stream):
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def tidy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No process and no file is left; and who does not end is killed soon."""
    monkeypatch.setattr(worker, "ENDING", 0.3)
    monkeypatch.setattr(worker, "STACK_TIME", 0.3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    with nothing_left():
        yield


@asynccontextmanager
async def started(**given: Any) -> AsyncIterator[tuple[WorkerActor, Owner]]:
    """A worker and who owns it; it is stopped at the end."""
    owner = Owner()
    ref: Ref[Any] = Ref("owner", owner.tell)
    actor = WorkerActor("worker-1", options(**given), ref)
    actor.start(ref)
    try:
        yield actor, owner
    finally:
        if actor.exited is None:
            await actor.stop()
        for returned in owner.heard(Returned):
            for each in returned.connections:
                each.close()


async def ended(owner: Owner) -> str:
    """Why the worker ended."""
    exited = await owner.hears(Exited)
    assert isinstance(exited.reason, ProcessFailed)
    return str(exited.reason)


hangs = pytest.mark.logs_errors("its stack follows, and it is killed")


def give(actor: WorkerActor, connection: socket.socket) -> socket.socket:
    """Give the worker a copy of the connection, and return that."""
    copy = connection.dup()
    actor.tell(Give(copy))
    return copy


def has_ended(pid: int) -> None:
    """Wait until the process has ended, without a turn of the loop."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


# --- a good worker ----------------------------------------------------------------------------------------------------


async def test_a_worker_serves_what_it_is_given_and_ends_in_good_order(tmp_path: Path) -> None:
    """M1, M4: the real child; our copy of a socket is closed once it has taken it."""
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    with connected() as (client, accepted):
        async with started(handler="app:hello") as (actor, owner):
            await owner.hears(WorkerReady)
            copy = give(actor, accepted)
            accepted.close()
            await asyncio.get_running_loop().sock_sendall(client, PREFACE + settings())
            assert await answer(client)
            assert copy.fileno() < 0
            assert (await ask(actor.ref, AskReport, 10.0)).stats["connections_open"] == 1
            client.close()
            assert (await owner.hears(WorkerReleased)).count == 1
            actor.tell(Retire(5.0))
            await owner.hears(WorkerDraining)
            assert (await owner.hears(LastWords)).ended.reason == ""
            assert (await owner.hears(Exited)).reason is None
            assert not owner.heard(Returned)


@hangs
async def test_a_worker_that_hangs_has_its_stack_written_and_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """M6: the real child, in an import that takes for ever."""
    monkeypatch.setattr(worker, "STACK_TIME", 1.0)
    (tmp_path / "app.py").write_text("import time\ntime.sleep(1000)\n", encoding="utf-8")
    async with started(start_timeout=2.0) as (_, owner):
        why = await ended(owner)
    assert why == "worker-1: was not ready within 2 s (start_timeout), and was killed by SIGKILL"
    assert 'app.py", line 2 in <module>' in capfd.readouterr().err


# --- one that is silent -----------------------------------------------------------------------------------------------


@hangs
async def test_one_that_never_gets_ready_is_killed_whatever_else_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M3."""
    source = "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    source += "while True:\n    say('Beat', late=0.0, streams=0, requests=0)\n    time.sleep(0.05)"
    script(tmp_path, monkeypatch, source)
    async with started(start_timeout=0.5) as (_, owner):
        why = await ended(owner)
    assert why == "worker-1: was not ready within 0.5 s (start_timeout), and was killed by SIGKILL"
    assert not owner.heard(WorkerReady)


@hangs
async def test_one_that_falls_silent_is_killed_soon_and_not_believed_when_it_speaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M6: its time is that of a heartbeat from the moment that it is ready, and once condemned it is given nothing."""
    monkeypatch.setattr(worker, "STACK_TIME", 1.0)
    source = "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nready()\ntime.sleep(1.9)\n"
    source += "while True:\n    say('Beat', late=0.0, streams=0, requests=0)\n    time.sleep(0.02)"
    script(tmp_path, monkeypatch, source)
    began = time.monotonic()
    with connected() as (_, accepted):
        async with started(worker_timeout=1.5) as (actor, owner):
            assert not (await owner.hears(WorkerFreshness)).fresh
            await until(lambda: actor.detail()["requests"] == 0 and actor._last_beat is not None)
            copy = give(actor, accepted)
            assert (await owner.hears(Returned)).connections == (copy,)
            why = await ended(owner)
    assert [each.fresh for each in owner.heard(WorkerFreshness)] == [False]
    assert why == "worker-1: said nothing for 1.5 s (worker_timeout), and was killed by SIGKILL"
    assert time.monotonic() - began < 20.0


async def test_one_that_is_slow_to_take_gets_nothing_until_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1, M6."""
    script(
        tmp_path, monkeypatch,
        "ready()\nfields = hear()[1]\ntime.sleep(0.6)\nsay('Taken', number=fields['number'])\nhear()",
    )  # fmt: skip
    with connected() as (_, accepted):
        async with started() as (actor, owner):
            await owner.hears(WorkerReady)
            copy = give(actor, accepted)
            assert not (await owner.hears(WorkerFreshness)).fresh
            assert copy.fileno() >= 0
            assert (await owner.hears(WorkerFreshness)).fresh
            assert copy.fileno() < 0


# --- one that speaks wrongly ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ("end.sendall(b'\\0\\0\\0\\2hi')", "what came over a worker's socket pair is no message"),
        ("end.sendall(b'\\xff' * 100)", "a message of 4294967295 bytes"),
        ("say('Take', number=1)", "a Take came over a channel without its socket"),
        ("say('Released', count=1)", "it released 1 connections and held 0"),
        ("say('Released', count='many')", "what came over a worker's socket pair is no message"),
        ("say('Ended', reason='', cut=7)", "what came over a worker's socket pair is no message"),
    ],
)
async def test_one_that_speaks_wrongly_is_given_nothing_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str, told: str
) -> None:
    """M1: what it was given before and did not take is given back, once it is dead and can touch it no more."""
    script(tmp_path, monkeypatch, f"ready()\nhear()\n{lie}\ntime.sleep(1000)")
    with connected() as (_, first), connected() as (_, second):
        async with started() as (actor, owner):
            await owner.hears(WorkerReady)
            before = give(actor, first)
            assert not (await owner.hears(WorkerFreshness)).fresh
            after = give(actor, second)
            assert (await owner.hears(Returned)).connections == (after,)
            assert actor.exited is None
            assert (await owner.hears(Returned)).connections == (before,)
            why = await ended(owner)
    assert why.startswith(f"worker-1: spoke wrongly: {told}")
    assert why.endswith("and was killed by SIGKILL")
    assert [each.fresh for each in owner.heard(WorkerFreshness)] == [False]


async def test_taken_for_what_it_was_not_given_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: what it was given stays ours until it takes that."""
    lies = "ready()\nready()\nnumber = hear()[1]['number']\nfor each in (0, number + 1, number + 100):\n"
    lies += "    say('Taken', number=each)\nsay('Tired', why='of lies')\nhear()"
    script(tmp_path, monkeypatch, lies)
    with connected() as (_, accepted):
        async with started() as (actor, owner):
            await owner.hears(WorkerReady)
            copy = give(actor, accepted)
            await owner.hears(WorkerTired)
            assert copy.fileno() >= 0
            assert actor.detail()["untaken"] == 1
        assert [each.connections for each in owner.heard(Returned)] == [(copy,)]
    assert len(owner.heard(WorkerReady)) == 1


async def test_one_that_closes_its_socket_pair_and_lives_on_is_killed_and_never_fresh_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: nothing can be told it any more, so nobody's connection waits for it."""
    monkeypatch.setattr(beats, "STALE", 0.2)
    source = "ready()\nfor _ in range(5):\n    time.sleep(0.05)\n    say('Beat', late=0.0, streams=0, requests=0)\n"
    script(tmp_path, monkeypatch, f"{source}end.close()\ntime.sleep(1000)")
    async with started() as (_, owner):
        why = await ended(owner)
    assert why == "worker-1: closed its socket pair, and was killed by SIGKILL"
    assert owner.heard(WorkerFreshness)[-1].fresh is False


# --- one that ends ----------------------------------------------------------------------------------------------------


async def test_one_that_dies_between_take_and_taken_gives_the_connection_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: unharmed; before its end is told, so that its owner knows to whom it was given."""
    script(tmp_path, monkeypatch, "ready()\nhear()\nprint('ouch', file=sys.stderr)\nos.kill(os.getpid(), 9)")
    with connected() as (client, accepted):
        async with started() as (actor, owner):
            await owner.hears(WorkerReady)
            copy = give(actor, accepted)
            accepted.close()
            why = await ended(owner)
            assert isinstance(owner.news[-1], Exited)
            assert (await owner.hears(Returned)).connections == (copy,)
            copy.send(b"still open")
            assert await answer(client) == b"still open"
            late = copy.dup()
            actor.tell(Give(late))
            assert (await owner.hears(Returned)).connections == (late,)
    assert why == "worker-1: was killed by SIGKILL: ouch"


async def test_what_it_said_it_took_is_not_given_back_however_much_it_said_before_it_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: of such a connection something may have been read, and nobody else could go on with it."""
    many = 300
    source = f"ready()\nnumbers = [hear()[1]['number'] for _ in range({many})]\ntime.sleep(0.5)\n"
    source += "end.sendall(b''.join(message('Taken', number=each) for each in numbers))\nos._exit(1)"
    script(tmp_path, monkeypatch, source)
    with ExitStack() as closing:
        async with started() as (actor, owner):
            await owner.hears(WorkerReady)
            for _ in range(many):
                _, accepted = closing.enter_context(connected())
                give(actor, accepted)
            await until(lambda: actor.detail()["untaken"] == many)
            pid = actor.detail()["pid"]
            assert isinstance(pid, int)
            has_ended(pid)  # now its end and all its words are there to be read
            assert await ended(owner) == "worker-1: exited with 1"
            assert not owner.heard(Returned)


async def test_one_that_leaves_its_socket_pair_to_another_process_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, monkeypatch, "if os.fork() == 0:\n    time.sleep(1.5)\n    os._exit(0)\nos._exit(3)")
    began = time.monotonic()
    async with started() as (_, owner):
        assert await ended(owner) == "worker-1: exited with 3"
    assert time.monotonic() - began < 1.4


async def test_one_that_drains_by_itself_gives_back_at_once_what_it_did_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M1: nobody waits for its drain; and it may not drain for ever."""
    script(tmp_path, monkeypatch, "ready()\nhear()\nsay('Draining')\ntime.sleep(1000)")
    with connected() as (_, first), connected() as (_, second):
        async with started(drain_timeout=0.5) as (actor, owner):
            await owner.hears(WorkerReady)
            before = give(actor, first)
            assert (await owner.hears(Returned)).connections == (before,)
            assert owner.heard(WorkerDraining)
            after = give(actor, second)
            assert (await owner.hears(Returned)).connections == (after,)
            assert actor.exited is None
            why = await ended(owner)
    assert why == "worker-1: had not drained after 0.5 s and 0.3 s more, and was killed by SIGKILL"


async def test_one_that_drains_before_it_is_ready_is_never_called_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, monkeypatch, "say('Draining')\nready()\nsay('Tired', why='')\nhear()")
    async with started() as (_, owner):
        await owner.hears(WorkerTired)
        assert not owner.heard(WorkerReady)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (Retire(0.2), "had not drained after 0.2 s and 0.3 s more"),
        (Hasten(), "did not end within 0.3 s of being told to"),
    ],
)
async def test_one_that_is_deaf_to_orders_and_signals_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Retire | Hasten, why: str
) -> None:
    """M4."""
    script(tmp_path, monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(1000)")
    async with started() as (actor, owner):
        await owner.hears(WorkerReady)
        actor.tell(order)
        actor.tell(WriteStacks())
        assert await ended(owner) == f"worker-1: {why}, and was killed by SIGKILL"


@pytest.mark.parametrize("said", ["say('Ended', reason='no such handler', asked_wrongly=True)", ""])
async def test_the_reason_of_its_end_is_what_it_said_or_the_last_line_that_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """M3."""
    script(tmp_path, monkeypatch, f"{said}\nprint('first', file=sys.stderr)\nsys.exit('the last line')")
    async with started() as (_, owner):
        why = await ended(owner)
        exited = owner.heard(Exited)[0].reason
    assert isinstance(exited, ProcessFailed)
    assert (exited.returncode, exited.last_lines) == (1, ("first", "the last line"))
    assert why == ("worker-1: no such handler" if said else "worker-1: exited with 1: the last line")


async def test_one_that_cannot_be_started_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """M3."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    async with started() as (_, owner):
        exited = await owner.hears(Exited)
    assert isinstance(exited.reason, ProcessFailed)
    assert "/nowhere/python" in str(exited.reason)


async def test_one_for_whom_no_file_is_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def pair() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(worker, "pair", pair)
    async with started() as (_, owner):
        assert "worker-1: a process cannot be talked to: " in await ended(owner)


async def test_who_waits_for_a_report_is_told_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "hear()\nhear()\nsys.exit(1)")
    async with started() as (actor, owner):
        with pytest.raises(DeadlineExceeded):
            await ask(actor.ref, AskReport, 0.2)
        with pytest.raises(Closed):
            await ask(actor.ref, AskReport, 10.0)
        await owner.hears(Exited)
        with pytest.raises(Closed):
            await ask(actor.ref, AskReport, 10.0)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, None])
async def test_killed_at_any_moment_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int | None
) -> None:
    """M4: no process, no file, no connection; before its first turn, in its first ones, and while it serves."""
    script(tmp_path, monkeypatch, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(1000)")
    with connected() as (client, accepted):
        async with started() as (actor, owner):
            actor.tell(Give(accepted))
            if turns is None:
                await owner.hears(WorkerReady)
            else:
                await settle(turns)
            actor.signal(Kill())
            await owner.hears(Exited)
            assert [each.connections for each in owner.heard(Returned)] == [(accepted,)]
            assert (await get_state(actor.ref)).status == "ended"
        assert await answer(client) == b""


async def test_its_owner_has_gone_and_its_connections_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, monkeypatch, "ready()\nhear()\nsys.exit(1)")
    refusing: Ref[Any] = Ref("owner", lambda message: False)
    with connected() as (client, accepted):
        actor = WorkerActor("worker-1", options(), refusing)
        actor.start()
        actor.tell(Give(accepted))
        exited = await actor.wait()
        assert isinstance(exited.reason, LinkError)
        assert await answer(client) == b""
        assert accepted.fileno() < 0
