"""Traces on their way to a reader: who may read, what ends them, and what a slow reader costs."""

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Misuse
from actors.server_stream import ServerStream
from supervisor.link import Link
from supervisor.private_sockets import Credentials
from supervisor.server import Server
from supervisor.tracing import jsonl
from supervisor.tracing.records import Trace
from supervisor.workers import traces as module
from supervisor.workers.traces import Traces, Wanted, check_reader


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=await stream.read())


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, Link, Traces]]:
    traces = Traces("worker-7")
    async with Server(answer) as server, Link(server.url) as link:
        yield server, link, traces
        await traces.close()


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[tuple[str, socket.socket]]:
    path = str(folder / "t.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as reader:
        reader.setblocking(False)
        reader.bind(path)
        reader.listen()
        yield path, reader


def is_traced(server: Server) -> bool:
    """Whether anything listens to its messages, where they are not recorded."""
    return server.tracer.on


async def accepted(reader: socket.socket) -> socket.socket:
    end, _ = await asyncio.get_running_loop().sock_accept(reader)
    return end


async def all_of(end: socket.socket) -> Trace:
    """What comes until the end."""
    text = b""
    with end:
        while chunk := await asyncio.get_running_loop().sock_recv(end, 65_536):
            text += chunk
    return jsonl.load(io.BytesIO(text))


async def test_a_dump_has_what_was_recorded_and_then_ends(tmp_path: Path) -> None:
    async with serving() as (server, link, traces), listening(tmp_path) as (path, reader):
        await link.request("POST", "/", body=b"hello")
        traces.begin(Wanted(to=path, mode="dump"), server)
        trace = await all_of(await accepted(reader))
    assert [head.process for head in trace.heads] == ["worker-7"]
    assert [event.stream for event in trace.events if event.type == "Respond"] == [1]
    assert all(server.name in event.sender + event.receiver for event in trace.events)
    assert [(end.reason, end.events) for end in trace.ends] == [("asked", len(trace.events))]


async def test_a_capture_ends_itself_and_closes_the_socket(tmp_path: Path) -> None:
    """T4"""
    async with serving() as (server, link, traces), listening(tmp_path) as (path, reader):
        traces.begin(Wanted(to=path, mode="capture", events=3, type="Frames*"), server)
        for _ in range(3):
            await link.request("POST", "/", body=b"hello")
        trace = await all_of(await accepted(reader))
    assert [event.type.startswith("Frames") for event in trace.events] == [True] * 3
    assert [(end.reason, end.events) for end in trace.ends] == [("events", 3)]


async def test_who_closes_his_side_still_hears_what_was_said_until_then(tmp_path: Path) -> None:
    async with serving() as (server, link, traces), listening(tmp_path) as (path, reader):
        traces.begin(Wanted(to=path, mode="follow"), server)
        end = await accepted(reader)
        await link.request("POST", "/", body=b"hello")
        end.shutdown(socket.SHUT_WR)
        trace = await all_of(end)
    assert [event.stream for event in trace.events if event.type == "Respond"] == [1]
    assert [end.reason for end in trace.ends] == ["asked"]


async def test_a_reader_that_has_gone_ends_the_trace(tmp_path: Path) -> None:
    async with serving() as (server, link, traces), listening(tmp_path) as (path, reader):
        server.tracer.record(None)
        traces.begin(Wanted(to=path, mode="follow"), server)
        assert is_traced(server)
        (await accepted(reader)).close()
        async with asyncio.timeout(10):
            while is_traced(server):  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
        assert (await link.request("POST", "/", body=b"hello")).body == b"hello"


async def test_a_reader_that_does_not_read_holds_up_nobody_and_loses_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.tracing.capture.MOST_WAITING", 300)
    async with serving() as (server, link, traces), listening(tmp_path) as (path, reader):
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        traces.begin(Wanted(to=path, mode="follow"), server)
        end = await accepted(reader)
        for _ in range(150):
            assert (await link.request("POST", "/", body=b"hello")).body == b"hello"
        end.shutdown(socket.SHUT_WR)
        trace = await all_of(end)
    assert trace.ends[0].lost > 0
    assert trace.ends[0].events == len(trace.events) > 0


async def test_at_its_end_a_process_ends_its_traces(tmp_path: Path) -> None:
    async with listening(tmp_path) as (path, reader):
        async with serving() as (server, _, traces):
            traces.begin(Wanted(to=path, mode="follow"), server)
        trace = await all_of(await accepted(reader))
    assert [end.reason for end in trace.ends] == ["closed"]


async def test_a_reader_of_another_user_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer_of", lambda end: Credentials(1, os.geteuid() + 1))
    async with serving() as (server, _, traces), listening(tmp_path) as (path, reader):
        with pytest.raises(Misuse, match=r"a trace is only for the user \d+, and the user \d+ listens"):
            traces.begin(Wanted(to=path, mode="dump"), server)
        with await accepted(reader) as end:
            assert await asyncio.get_running_loop().sock_recv(end, 10) == b""


async def test_only_so_many_traces_are_written_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    async with serving() as (server, _, traces), listening(tmp_path) as (path, reader):
        traces.begin(Wanted(to=path, mode="follow"), server)
        with pytest.raises(Misuse, match="are written already"):
            traces.begin(Wanted(to=path, mode="follow"), server)
        (await accepted(reader)).close()


async def test_where_nobody_listens_no_trace_is_begun(tmp_path: Path) -> None:
    async with serving() as (server, _, traces):
        with pytest.raises(Misuse, match=r"no trace can be written to .*: No such file or directory"):
            traces.begin(Wanted(to=str(tmp_path / "nobody"), mode="dump"), server)


def test_the_parent_sees_whether_the_reader_can_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        Misuse, match=r"cannot reach .*nobody \(No such file or directory\): ask as the user \d+, who runs it"
    ):
        check_reader(str(tmp_path / "nobody"))
    (tmp_path / "file").touch()
    with pytest.raises(Misuse, match="a trace goes to a socket of the user"):
        check_reader(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mode": "dump"}, "a trace needs its mode, and where it goes"),
        ({"to": "/s", "mode": "dumpp"}, "a trace's mode is dump, follow, capture, not 'dumpp'"),
        ({"to": "relative", "mode": "dump"}, "the absolute path of a Unix socket"),
        ({"to": "/" + "x" * 107, "mode": "dump"}, "the absolute path of a Unix socket"),
        ({"to": 5, "mode": "dump"}, "the absolute path of a Unix socket"),
        ({"to": "/s", "mode": "dump", "speed": 1}, "a trace has no option 'speed'"),
        ({"to": "/s", "mode": "follow", "payloads": True}, "payloads are only in a capture"),
        ({"to": "/s", "mode": "capture", "payloads": 1}, "a trace's payloads is true or false"),
        ({"to": "/s", "mode": "capture", "events": 0}, "a trace's events is a number above 0"),
        ({"to": "/s", "mode": "capture", "events": 1.5}, "a trace's events is a number above 0"),
        ({"to": "/s", "mode": "capture", "seconds": float("inf")}, "a trace's seconds is a number above 0"),
        ({"to": "/s", "mode": "capture", "actor": 5}, "a trace's actor is a text"),
        ({"to": "/s", "mode": "capture", "stream": "5"}, "a trace's stream is a number above 0"),
        ({"to": "/s", "mode": "capture", "known": "worker-1"}, "a trace's known is a list of at most 500 names"),
        ({"to": "/s", "mode": "capture", "known": [1]}, "a trace's known is a list of at most 500 names"),
        ({"to": "/s", "mode": "capture", "known": ["w"] * 501}, "a trace's known is a list of at most 500 names"),
    ],
)
def test_what_cannot_be_wanted_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(Misuse, match=told):
        Wanted.of(values)


def test_what_is_wanted_can_be_passed_on() -> None:
    wanted = Wanted(to="/s", mode="capture", events=5, actor="server-*", stream=3, dead=False)
    assert Wanted.of(wanted.as_dict()) == wanted
    assert Wanted(to="/s", mode="follow").filter() is None
