"""T9: a crash leaves one file that says what is known of it, and no secrets."""

import asyncio
import json
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import frozen

from actors.errors import Closed, LinkError, Misuse
from actors.mailbox import Understood
from actors.server_stream import ServerStream
from actors.trace import Recorder, Tracer
from actors.turns import TurnActor
from supervisor.link import Link
from supervisor.restart import ChildSpec
from supervisor.server import Server
from supervisor.tracing import dossiers as module
from supervisor.tracing.dossiers import Dossiers
from supervisor.tree import Supervisor

SECRET = "correct-horse"  # noqa: S105  (of this test alone)


@frozen
class Work:
    text: str

    def summary(self) -> str:
        return f"work {self.text}"


class Worker(TurnActor[Work]):
    understands: ClassVar[Understood] = Work

    def receive(self, message: Work) -> None:
        if message.text == "ours":
            try:
                raise ValueError(SECRET)
            except ValueError as error:
                raise Closed.because(f"the shop is closed: {error}", error) from error
        if message.text == "crash":
            raise ValueError(SECRET)


class Speechless(Worker):
    def detail(self) -> dict[str, str | int | float | bool | None]:
        raise RuntimeError("no words")


def read(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(directory.iterdir())]


def watched(directory: Path) -> tuple[Dossiers, Tracer]:
    dossiers, tracer = Dossiers(directory, process="worker-9"), Tracer(recorder=Recorder())
    dossiers.watch(tracer)
    return dossiers, tracer


async def crash(worker: Worker, *more: str) -> None:
    worker.start()
    for text in ("crash", *more):
        worker.tell(Work(text))
    await worker.wait()


async def answer(stream: ServerStream) -> None:
    body = await stream.read()
    if stream.path == "/crash":
        raise RuntimeError(body.decode())
    if stream.path == "/wait":
        await stream.draining()
    await stream.respond(200)


@pytest.mark.logs_errors("stream-3 crashed")
async def test_a_crashed_handler_leaves_one_dossier_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    """T9"""
    folder = tmp_path / "dossiers"
    async with Server(answer, dossiers=folder) as server, Link(server.url) as link, link.stream("GET", "/wait"):
        with pytest.raises(LinkError):
            await link.request("POST", "/crash", headers={"authorization": SECRET}, body=SECRET.encode())
    [path] = folder.iterdir()
    text = path.read_text()
    [dossier] = read(folder)
    name = f"{server.name}/connection-1"
    assert dossier["actor"] == f"{name}/stream-3"
    assert dossier["parent"] == name
    assert dossier["siblings"] == [{"name": f"{name}/stream-1", "state": "running"}]
    [reason] = dossier["reason"]
    assert (reason["class"], reason["frames"][-1]["function"]) == ("RuntimeError", "answer")
    assert "text" not in reason
    assert (dossier["state"]["kind"], dossier["state"]["detail"]["stream"]) == ("StreamActor", 3)
    assert [event["type"] for event in dossier["events"]] == ["HeadersArrived", "DataArrived", "ReturnCredit"]
    assert {event["stream"] for event in dossier["events"]} == {3}
    assert dossier["handling"] == dossier["events"][1]["id"]
    assert abs(dossier["wall"] - time.time()) < 60
    assert SECRET not in text
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.logs_errors("worker crashed")
async def test_what_waits_in_the_mailbox_is_told_by_type_and_summary_and_no_more_than_200(tmp_path: Path) -> None:
    """T9"""
    dossiers, tracer = watched(tmp_path / "d")
    await crash(Worker("worker", tracer), *map(str, range(300)))
    await dossiers.flush()
    [dossier] = read(tmp_path / "d")
    assert dossier["queue"] == [{"type": "Work", "text": f"work {number}"} for number in range(200)]
    assert (dossier["queue_length"], dossier["process"]) == (300, "worker-9")


@pytest.mark.logs_errors("worker crashed")
async def test_the_last_200_events_that_concern_it_are_there_and_no_others(tmp_path: Path) -> None:
    """T9"""
    dossiers, tracer = watched(tmp_path / "d")
    for number in range(300):
        tracer.noted("worker", Work(str(number)))
        tracer.noted("worker-2", Work(str(number)))
    await crash(Worker("worker", tracer))
    await dossiers.flush()
    [dossier] = read(tmp_path / "d")
    assert [event["text"] for event in dossier["events"]] == [
        *(f"work {number}" for number in range(101, 300)), "work crash",
    ]  # fmt: skip


@pytest.mark.logs_errors("worker crashed")
async def test_our_own_errors_are_told_in_words_without_those_of_others(tmp_path: Path) -> None:
    """T9"""
    dossiers, tracer = watched(tmp_path / "d")
    worker = Worker("worker", tracer)
    worker.start()
    worker.tell(Work("ours"))
    await worker.wait()
    await dossiers.flush()
    [dossier] = read(tmp_path / "d")
    ours, foreign = dossier["reason"]
    assert (ours["class"], ours["text"]) == ("actors.errors.Closed", "the shop is closed: ValueError")
    assert (foreign["class"], "text" in foreign) == ("ValueError", False)
    assert SECRET not in json.dumps(dossier)


@pytest.mark.logs_errors("child crashed")
async def test_a_supervisors_child_has_its_siblings_and_how_often_each_was_started_again(tmp_path: Path) -> None:
    """T9"""
    dossiers, tracer = watched(tmp_path / "d")
    children = [ChildSpec(name, partial(Worker, name, tracer)) for name in ("child", "other")]
    async with Supervisor(children, name="tree") as tree:
        for restarts in range(2):
            while {each.name: each.restarts for each in await tree.which_children()}["child"] < restarts:  # noqa: ASYNC110
                await asyncio.sleep(0)
            (await tree.find_child("child")).tell(Work("crash"))
            while len(os.listdir(tmp_path / "d")) <= restarts:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
    await dossiers.flush()
    first, second = read(tmp_path / "d")
    assert first["siblings"] == [{"name": "other", "state": "running"}]
    assert (first["restarts"], second["restarts"]) == ({"child": 0, "other": 0}, {"child": 1, "other": 0})


@pytest.mark.logs_errors("worker crashed")
async def test_at_most_ten_are_written_a_minute_and_the_rest_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """T9"""
    dossiers, tracer = watched(tmp_path / "d")
    for _ in range(13):
        await crash(Worker("worker", tracer))
    await dossiers.flush()
    assert len(read(tmp_path / "d")) == 10
    assert dossiers.left_out == 3
    assert "3 more crashes have no dossier: 10 are written in a minute at most" in caplog.text


@pytest.mark.virtual_time
@pytest.mark.logs_errors("worker crashed")
async def test_after_a_minute_dossiers_are_written_again_and_what_was_left_out_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T9"""
    monkeypatch.setattr(module, "MOST_A_MINUTE", 1)
    dossiers, tracer = watched(tmp_path / "d")
    await crash(Worker("worker", tracer))
    await crash(Worker("worker", tracer))
    await asyncio.sleep(61)
    assert "1 more crashes have no dossier" in caplog.text
    await crash(Worker("worker", tracer))
    await dossiers.flush()
    assert (len(read(tmp_path / "d")), dossiers.left_out) == (2, 1)


@pytest.mark.logs_errors("worker crashed")
async def test_at_most_fifty_files_are_kept_and_other_files_are_left_alone(tmp_path: Path) -> None:
    """T9"""
    folder = tmp_path / "d"
    dossiers, tracer = watched(folder)
    old = [folder / f"crash-20200101T000000.{number:06d}Z-1-x.json" for number in range(55)]
    for path in (*old, folder / "mine.json"):
        path.write_text("{}")
    await crash(Worker("worker", tracer))
    await dossiers.flush()
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 51
    assert "mine.json" in left
    assert {path.name for path in old[6:]} < left


@pytest.mark.logs_errors("worker crashed", "worker failed at its end, in Dossiers._crashed")
async def test_a_dossier_that_cannot_be_made_changes_nothing_about_the_end(tmp_path: Path) -> None:
    """T9"""
    dossiers, tracer = watched(tmp_path / "d")
    worker = Speechless("worker", tracer)
    await crash(worker)
    assert worker.exited is not None
    assert isinstance(worker.exited.reason, ValueError)
    await dossiers.flush()
    assert read(tmp_path / "d") == []


@pytest.mark.logs_errors("worker crashed")
async def test_a_full_or_vanished_disk_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dossiers, tracer = watched(tmp_path / "d")
    (tmp_path / "d").rmdir()
    (tmp_path / "d").write_text("in the way")
    await crash(Worker("worker", tracer))
    await dossiers.flush()
    [line] = [record.getMessage() for record in caplog.records if record.name == "muxlink.dossiers"]
    assert line.startswith(f"no dossier of worker: no dossiers can be written to {tmp_path / 'd'}: File exists")


async def test_what_ends_well_leaves_no_dossier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "muxlink.dossiers")
    async with (
        Server(answer, dossiers=tmp_path / "s") as server,
        Link(server.url, dossiers=tmp_path / "l") as link,
    ):
        await link.request("GET", "/")
    assert read(tmp_path / "s") == read(tmp_path / "l") == []
    assert not [record for record in caplog.records if record.name == "muxlink.dossiers"]


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "d"
    open_to_all.mkdir(0o755)
    with pytest.raises(Misuse, match="a directory of your own with the mode 0700; name another"):
        Server(answer, dossiers=open_to_all)
    (tmp_path / "file").touch()
    with pytest.raises(Misuse, match="no dossiers can be written to"):
        Link("http://127.0.0.1:1", dossiers=tmp_path / "file")
