"""Traces, explanations and dossiers of a real ``muxlink serve``, of two workers and of one process alike."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest

from actors.errors import LinkError
from supervisor.link import Link
from supervisor.tracing import jsonl
from tests.faults.handler import ID
from tests.interop.command import muxlink, muxlink_argv
from tests.interop.peers import ROOT, environment, kill
from tests.processes.tree import ServerTree, server_tree

BEGAN, ENDED = "a capture of messages began", "a capture of messages ended (asked)"
NAMES = {2: {"worker-1", "worker-2"}, 0: {"muxlink"}}


@asynccontextmanager
async def serving(folder: Path, workers: int, *options: str) -> AsyncIterator[ServerTree]:
    """A server with a state directory of its own, in which each process has served a request."""
    # With its socket named, nobody waits for workers where there are none.
    named = ("--control", str(folder / "control" / "c.sock")) if not workers else ()
    variables = {"STATE_DIRECTORY": str(folder / "state"), "MUXLINK_DOSSIERS": ""}
    async with server_tree(folder, workers, *named, *options, variables=variables) as tree:
        await asyncio.gather(*(ask(tree) for _ in range(max(workers, 1))))
        yield tree


async def ask(tree: ServerTree) -> None:
    """One request over a connection of its own."""
    async with Link(tree.url) as link:
        await link.request("POST", "/", headers={ID: "one"}, body=b"hello")


@asynccontextmanager
async def client(tree: ServerTree, *words: str, output: IO[bytes]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A ``muxlink`` command that runs until it is interrupted."""
    process = await asyncio.create_subprocess_exec(
        *muxlink_argv(*words, "--control", str(tree.control)), stdin=asyncio.subprocess.DEVNULL, stdout=output,
        stderr=output, cwd=ROOT, env=environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        await kill(process)


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        return await process.wait()


def said_by_all(tree: ServerTree, workers: int, words: str) -> bool:
    return tree.err().count(words) == len(NAMES[workers])


def processes_of(path: Path) -> set[str]:
    return {head.process for head in jsonl.load(path).heads}


@pytest.mark.bulk
@pytest.mark.parametrize("workers", [2, 0])
async def test_a_dump_has_what_each_process_recorded(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "trace.jsonl"
    async with serving(tmp_path, workers) as tree:
        ran = await muxlink("trace", "dump", "--control", str(tree.control), "-o", str(path))
        assert ran.code == 0, ran.err
        html = await muxlink("trace", "dump", "--control", str(tree.control), "-o", str(tmp_path / "t.html"))
        assert html.code == 0, html.err
        again = await muxlink("trace", "dump", "--control", str(tree.control), "-o", str(path))
        assert again.code == 2
        assert again.err.strip().endswith("is there already: name another file, or replace it with --force")
    trace = jsonl.load(path)
    assert processes_of(path) == NAMES[workers]
    assert trace.warnings == ()
    assert {event.process for event in trace.events if event.type == "Respond"} <= NAMES[workers]
    assert len([event for event in trace.events if event.type == "Respond"]) == max(workers, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"hello" not in path.read_bytes()


@pytest.mark.bulk
@pytest.mark.parametrize("workers", [2, 0])
async def test_ctrl_c_ends_a_capture_at_once_in_all_processes_and_keeps_what_came(tmp_path: Path, workers: int) -> None:
    """T4"""
    path = tmp_path / "capture.jsonl"
    async with serving(tmp_path, workers, "--log-level", "info") as tree:
        with (tmp_path / "said").open("wb") as said:
            async with client(tree, "trace", "capture", "-o", str(path), output=said) as process:
                await tree.until(
                    "all have begun", lambda: tree.err().count("capture of messages began") == len(NAMES[workers])
                )
                await ask(tree)
                process.send_signal(signal.SIGINT)
                assert await ended(process) == 0
        await tree.until("all have ended", lambda: said_by_all(tree, workers, ENDED))
    trace = jsonl.load(path)
    assert {end.process: end.reason for end in trace.ends} == dict.fromkeys(NAMES[workers], "asked")
    assert [event.stream for event in trace.events if event.type == "Respond"] == [1]
    assert "events are in" in (tmp_path / "said").read_text()


@pytest.mark.bulk
@pytest.mark.parametrize("workers", [2, 0])
async def test_the_death_of_who_follows_ends_it_in_all_processes(tmp_path: Path, workers: int) -> None:
    async with serving(tmp_path, workers, "--log-level", "info") as tree:
        with (tmp_path / "said").open("wb") as said:
            async with client(tree, "trace", "follow", output=said) as process:
                await tree.until(
                    "it follows", lambda: tree.err().count("capture of messages began") == len(NAMES[workers])
                )
                await ask(tree)
                await tree.until("something is shown", lambda: b"Respond" in (tmp_path / "said").read_bytes())
                process.kill()
        await tree.until("all have ended", lambda: said_by_all(tree, workers, ENDED))
        await ask(tree)
        for left in (tmp_path / "control").glob("trace-*/*"):  # a killed command cannot clean up
            left.unlink()


@pytest.mark.bulk
async def test_a_worker_that_takes_the_place_of_one_that_was_killed_is_in_the_capture(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    async with serving(tmp_path, 1, "--log-level", "info") as tree:
        [victim] = await tree.workers()
        with (tmp_path / "said").open("wb") as said:
            async with client(tree, "trace", "capture", "-o", str(path), "--seconds", "100", output=said) as process:
                await tree.until("it has begun", lambda: f"worker-1 {BEGAN}" in tree.err())
                os.kill(victim.pid, signal.SIGKILL)
                await tree.until("the next has begun", lambda: f"worker-2 {BEGAN}" in tree.err())
                await ask(tree)
                process.send_signal(signal.SIGINT)
                assert await ended(process) == 0
    trace = jsonl.load(path)
    assert [head.process for head in trace.heads] == ["worker-1", "worker-2"]
    assert {end.process: end.reason for end in trace.ends} == {"worker-2": "asked"}
    assert {event.process for event in trace.events if event.type == "Respond"} == {"worker-2"}
    assert "worker-1 broke off: what it had not written yet is missing" in (tmp_path / "said").read_text()


@pytest.mark.bulk
async def test_a_capture_ends_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    async with serving(tmp_path, 2, "--log-level", "info") as tree:
        with (tmp_path / "said").open("wb") as said:
            async with client(tree, "trace", "capture", "-o", str(path), "--seconds", "100", output=said) as process:
                await tree.until("all have begun", lambda: said_by_all(tree, 2, BEGAN))
                assert await tree.terminate() == 0
                assert await ended(process) == 0
    assert {end.reason for end in jsonl.load(path).ends} == {"closed"}


@pytest.mark.bulk
@pytest.mark.parametrize("workers", [2, 0])
async def test_why_names_the_process_and_the_stream_that_waits(tmp_path: Path, workers: int) -> None:
    async with serving(tmp_path, workers) as tree, Link(tree.url) as link:
        async with link.stream("POST", "/echo") as stream:
            await stream.send(b"some")
            await stream.response()
            await stream.read(4)
            ran = await muxlink("why", "--json", "--control", str(tree.control))
            [row] = [each for each in json.loads(ran.out) if each["waits_for"] == "body"]
            assert row["process"] in NAMES[workers]
            one = await muxlink("why", f"{row['process']}/{row['stream']}", "--control", str(tree.control))
            assert one.out.decode().startswith(f"{row['process']}: {row['stream']} waits for more of the request")
        unknown = await muxlink("why", "server-1/connection-99", "--control", str(tree.control))
        assert unknown.code == 1
        assert unknown.err == (
            "muxlink why: no stream or request is called 'server-1/connection-99' here: 'muxlink tree' lists them\n"
        )


@pytest.mark.bulk
@pytest.mark.parametrize("workers", [2, 0])
async def test_a_crashed_handler_leaves_a_dossier_in_the_state_directory(tmp_path: Path, workers: int) -> None:
    """T9"""
    async with serving(tmp_path, workers) as tree:
        async with Link(tree.url) as link:
            with pytest.raises(LinkError):
                await link.request("POST", "/", body=b"who am I?")  # it has no name, which the handler needs
        await tree.until("the log says so", lambda: "what is known of it is in" in tree.err())
    [path] = (tmp_path / "state" / "dossiers").iterdir()
    dossier = json.loads(path.read_text())
    assert dossier["process"] in NAMES[workers]
    assert dossier["reason"][0]["frames"][-1]["function"] == "__getitem__"
    assert dossier["reason"][0]["class"] == "KeyError"


@pytest.mark.bulk
async def test_dossiers_can_be_switched_off(tmp_path: Path) -> None:
    """T9"""
    async with serving(tmp_path, 2, "--dossiers", "") as tree:
        async with Link(tree.url) as link:
            with pytest.raises(LinkError):
                await link.request("POST", "/")
        await tree.until("the log says so", lambda: "crashed" in tree.err())
    assert not (tmp_path / "state").exists()


@pytest.mark.bulk
async def test_a_stale_socket_is_said_to_be_one(tmp_path: Path) -> None:
    async with serving(tmp_path, 0) as tree:
        tree.signal(signal.SIGKILL)
        await tree.ends()
        for words in (("trace", "follow"), ("why",)):
            ran = await muxlink(*words, "--control", str(tree.control))
            assert ran.code == 1
            assert ran.err == (
                f"muxlink {words[0]}: the control socket {tree.control} is stale, its server has ended: "
                "'muxlink serve' starts one\n"
            )
        tree.control.unlink()
