"""The log and the access log: what a line has, what it never has, and what becomes of it where nobody takes it."""

import asyncio
import errno
import fcntl
import io
import json
import logging
import os
import re
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ErrorCode, LinkError, Misuse
from actors.server_stream import Handler, ServerStream
from actors.settings import Limits
from actors.turns import TurnActor
from supervisor.workers.logs import AccessLog, Lines, configure
from tests.support.sides import linked, until

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
log = logging.getLogger("muxlink.test")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The root logger is everybody's."""
    loggers = [logging.getLogger(name) for name in (None, "hpack", "h2")]
    levels, handlers = [each.level for each in loggers], list(loggers[0].handlers)
    yield
    loggers[0].handlers[:] = handlers
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


def written(say: Callable[[], object], format: str = "text", level: str = "warning", process: str = "worker-1") -> str:
    stream = io.StringIO()
    configure(format, level, stream=stream, process=process)
    say()
    return stream.getvalue()


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_line_of_text_has_the_time_the_level_the_process_and_the_message() -> None:
    said = written(lambda: log.warning("out of %s", "luck"))
    assert re.fullmatch(rf"{TIME} WARNING worker-1 worker-1 out of luck\n", said)
    assert re.fullmatch(rf"{TIME} WARNING muxlink muxlink x\n", written(lambda: log.warning("x"), process=""))


def test_a_line_of_json_has_the_same_and_the_logger() -> None:
    told = json.loads(written(lambda: log.warning("out of %s", "luck"), "json"))
    assert re.fullmatch(TIME, told.pop("time"))
    assert told == {
        "level": "WARNING", "logger": "muxlink.test", "process": "worker-1", "actor": "worker-1",
        "message": "out of luck",
    }  # fmt: skip


def test_times_are_those_of_the_record_in_utc() -> None:
    record = logging.makeLogRecord({"msg": "x", "created": 1_795_261_142.1239, "levelname": "INFO"})
    line = Lines(io.StringIO(), "p", False).format(record)
    assert line.startswith("2026-11-21T11:39:02.123Z INFO ")


class Speaker(TurnActor[str]):
    understands = str

    def receive(self, message: str) -> None:
        log.warning(message)


@pytest.mark.parametrize("format", ["text", "json"])
async def test_every_line_of_an_actor_has_its_name(format: str) -> None:
    stream = io.StringIO()
    configure(format, "warning", stream=stream, process="worker-1")
    speaker = Speaker("server-1/speaker")
    speaker.start()
    speaker.tell("here")
    await until(lambda: bool(stream.getvalue()))
    await speaker.stop()
    log.warning("there")
    task = asyncio.create_task(asyncio.to_thread(log.warning, "in a thread"))
    await task
    lines = stream.getvalue().splitlines()
    if format == "json":
        assert [json.loads(line)["actor"] for line in lines] == ["server-1/speaker", "worker-1", "worker-1"]
    else:
        assert [line.split()[2:4] for line in lines] == [
            ["worker-1", "server-1/speaker"], ["worker-1", "worker-1"], ["worker-1", "worker-1"],
        ]  # fmt: skip


async def test_what_a_handler_logs_has_the_streams_name() -> None:
    stream = io.StringIO()
    configure("json", "warning", stream=stream, process="worker-1")
    names: list[str] = []

    async def handler(asked: ServerStream) -> None:
        names.append(asked.name)
        log.warning("so it is")
        await asked.respond(200)

    async with linked(handler) as link:
        await link.request("GET", "/")
    assert [json.loads(line)["actor"] for line in stream.getvalue().splitlines()] == names


def test_the_level_is_the_least_that_is_written() -> None:
    def say() -> None:
        log.info("quiet")
        log.error("loud")

    stream = io.StringIO()
    configure("text", "error", stream=stream)
    logging.getLogger("other").warning("quiet")
    logging.getLogger("other").error("loud")
    assert stream.getvalue().count("\n") == 1


def test_headers_are_in_no_log_at_any_level() -> None:
    said = written(lambda: logging.getLogger("hpack.hpack").debug("Encoding %s", "a secret"), level="debug")
    assert said == ""


def test_configuring_again_replaces_the_last() -> None:
    first = io.StringIO()
    configure("text", "debug", stream=first)
    assert written(lambda: log.warning("once")).count("once") == 1
    assert first.getvalue() == ""


def test_what_is_no_format_or_level_is_refused() -> None:
    with pytest.raises(Misuse, match="format is text or json, not 'xml'"):
        configure("xml", "info")
    with pytest.raises(Misuse, match="level is one of critical, error, warning, info, debug, not 'loud'"):
        configure("text", "loud")
    with pytest.raises(Misuse, match="format is text or json"):
        AccessLog("off", "xml")


def fail() -> None:
    try:
        raise ValueError("bad\nluck \x1b[31m")
    except ValueError:
        log.warning("it\nfailed", exc_info=True, stack_info=True)


def test_an_exception_is_in_the_same_object_of_json() -> None:
    said = written(fail, "json")
    assert said.count("\n") == 1
    told = json.loads(said)
    assert told["message"] == "it\nfailed"
    assert "ValueError: bad\nluck" in told["exception"]
    assert "Stack (most recent call last)" in told["exception"]


def test_an_exceptions_lines_of_text_cannot_pass_for_others() -> None:
    first, *others = written(fail).splitlines()
    assert first.endswith("worker-1 it")
    assert others[0] == "    failed"
    assert all(line.startswith("    ") for line in others)
    assert r"luck \x1b[31m" in others[-1] or any(r"luck \x1b[31m" in line for line in others)


@given(st.text(), st.sampled_from(["text", "json"]))
def test_no_message_moves_a_terminals_cursor_or_forges_a_line(message: str, format: str) -> None:
    said = written(lambda: log.warning("%s", message), format)
    assert said.endswith("\n")
    assert said[:-1].replace("\n    ", "").isprintable()
    if format == "json":
        assert "\n" not in said[:-1]
        assert json.loads(said)["message"] == message


# --- where nothing can be written -------------------------------------------------------------------------------------


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tries = 0

    def write(self, text: str) -> NoReturn:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), BrokenPipeError(), ValueError("I/O operation on closed file")]
)
def test_a_log_that_takes_nothing_stops_nobody_and_says_nothing_elsewhere(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Broken(error)
    configure("text", "warning", stream=stream)
    for _ in range(3):
        log.warning("lost")
    assert stream.tries == 3
    [lines] = [each for each in logging.getLogger().handlers if isinstance(each, Lines)]
    assert lines.lost == 3
    assert capsys.readouterr() == ("", "")


def test_a_log_whose_stream_logs_does_not_recurse() -> None:
    class Chatty(io.StringIO):
        def write(self, text: str) -> int:
            log.warning("writing")
            return super().write(text)

    stream = Chatty()
    configure("text", "warning", stream=stream)
    log.warning("once")
    assert stream.getvalue().count("\n") == 1


def test_arguments_that_do_not_fit_lose_no_message(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    record = {"msg": "%d of them", "args": ("x",), "levelname": "INFO"}
    said = Lines(io.StringIO(), "p", False).format(logging.makeLogRecord(record))
    assert said.endswith("%d of them (its arguments do not fit: TypeError)")
    said = Lines(io.StringIO(), "p", False).format(logging.makeLogRecord({**record, "msg": "%s", "args": (Odd(),)}))
    assert said.endswith("%s (its arguments do not fit: RuntimeError)")
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_has_no_such_letters_gets_them_escaped(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        configure("text", "warning", stream=stream)
        log.warning("gr\u00fc\u00df")
    assert r"gr\xfc\xdf" in (tmp_path / "log").read_text()


# --- the access log ---------------------------------------------------------------------------------------------------


async def answer(stream: ServerStream) -> None:
    await stream.respond(201, body=b"x" * len(await stream.read()) * 2)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


async def test_each_stream_gives_a_line_once_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with AccessLog(str(path), "text") as access:
        async with linked(access.wrap(answer)) as link:
            await link.request("POST", "/hello?token=secret", body=b"abc")
    [line] = lines_of(path)
    assert re.fullmatch(
        rf"{TIME} 127\.0\.0\.1:\d+ POST /hello 201 3 6 \d+\.\d{{6}} server-\d+/connection-\d+/stream-1", line
    )
    assert access.lost == 0


async def test_a_line_of_a_worker_names_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with AccessLog(str(path), "text", process="worker-3") as access:
        async with linked(access.wrap(answer)) as link:
            await link.request("GET", "/")
    [line] = lines_of(path)
    assert re.search(r" worker-3/server-\d+/connection-\d+/stream-1$", line)


async def test_a_line_of_json_has_the_same(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with AccessLog(str(path), "json") as access:
        async with linked(access.wrap(answer)) as link:
            await link.request("POST", "/hello?key=secret", body=b"abc")
    [told] = map(json.loads, lines_of(path))
    assert re.fullmatch(TIME, told.pop("time"))
    assert told.pop("peer").startswith("127.0.0.1:")
    assert told.pop("stream").endswith("/stream-1")
    assert 0 < told.pop("seconds") < 5
    assert told == {"method": "POST", "path": "/hello", "status": 201, "cause": None, "received": 3, "sent": 6}


async def streams_in_pieces(stream: ServerStream) -> None:
    await stream.start_response(200)
    for _ in range(3):
        await stream.send(b"12345")


async def is_too_long(stream: ServerStream) -> None:
    await stream.read()


async def crashes(stream: ServerStream) -> None:
    raise ZeroDivisionError


async def crashes_late(stream: ServerStream) -> None:
    await stream.start_response(200)
    raise ZeroDivisionError


async def forgets(stream: ServerStream) -> None:
    await stream.read()


async def hangs_up(stream: ServerStream) -> None:
    stream.reset(ErrorCode.CANCEL)


@pytest.mark.parametrize(
    ("handler", "end"),
    [
        (streams_in_pieces, "200 9 15"),
        (is_too_long, "413 9 0"),
        pytest.param(crashes, "ZeroDivisionError 9 0", marks=pytest.mark.logs_errors("ZeroDivisionError")),
        pytest.param(crashes_late, "200/ZeroDivisionError 9 0", marks=pytest.mark.logs_errors("ZeroDivisionError")),
        pytest.param(forgets, "INTERNAL_ERROR 9 0", marks=pytest.mark.logs_errors("returned without a response")),
        (hangs_up, "Closed 9 0"),
    ],
)
async def test_a_line_says_how_the_stream_ended(tmp_path: Path, handler: Handler, end: str) -> None:
    limits = Limits(max_request_body=4 if handler is is_too_long else 100)
    with AccessLog(str(tmp_path / "log"), "text") as access:
        async with linked(access.wrap(handler), limits=limits) as link:
            with suppress(LinkError):  # what the client sees is told elsewhere
                await link.request("POST", "/", body=b"123456789")
    [line] = lines_of(tmp_path / "log")
    assert " ".join(line.split()[4:7]) == end


async def test_a_reset_of_the_peers_is_named_by_its_code(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def waits(stream: ServerStream) -> None:
        await stream.start_response(200)
        begun.set()
        await stream.read()

    with AccessLog(str(tmp_path / "log"), "text") as access:
        async with linked(access.wrap(waits)) as link:
            async with link.stream("POST", "/") as stream:
                await begun.wait()
                stream.reset(ErrorCode.ENHANCE_YOUR_CALM)
            await link.request("POST", "/")
    ends = sorted(line.split()[4] for line in lines_of(tmp_path / "log"))
    assert ends == ["200", "200/ENHANCE_YOUR_CALM"]


class Asked:
    """A stream whose peer chose odd words."""

    def __init__(self, path: str) -> None:
        self.method, self.path, self.name = "GET", path, "server-1/connection-1/stream-1"
        self.status, self.received, self.sent, self.cause = 200, 0, 0, None
        self.peer = type("Peer", (), {"address": "unix"})


@pytest.mark.parametrize("format", ["text", "json"])
@given(st.text(st.characters(max_codepoint=255), max_size=2000))
async def test_whatever_the_peer_asks_for_is_one_word_of_a_line_that_fits_a_pipe(format: str, path: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        with AccessLog(f"/dev/fd/{writer}", format) as access:
            await give(access, path)
        said = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        os.close(writer)
    assert len(said) < select.PIPE_BUF
    assert said.count(b"\n") == 1
    assert said.decode("ascii")[:-1].isprintable()
    if format == "text":
        assert len(said.split(b" ")) == 9


async def nothing(stream: ServerStream) -> None:
    """As the stream has a status, it needs none."""


async def give(access: AccessLog, *paths: str) -> None:
    handler = access.wrap(nothing)
    for path in paths:
        await asyncio.create_task(handler(Asked(path)))  # type: ignore[arg-type]
        await asyncio.sleep(0)  # who waits for a task may hear of its end before others do


@pytest.mark.virtual_time
async def test_lines_wait_for_a_second_at_most(tmp_path: Path) -> None:
    with AccessLog(str(tmp_path / "log"), "text") as access:
        await give(access, "/a", "/b")
        await asyncio.sleep(0.9)
        assert lines_of(tmp_path / "log") == []
        await give(access, "/c")
        await asyncio.sleep(0.2)
        assert len(lines_of(tmp_path / "log")) == 3
        await give(access, "/d")
        await asyncio.sleep(1.1)
        assert len(lines_of(tmp_path / "log")) == 4


@pytest.mark.virtual_time
async def test_lines_wait_for_64_kib_at_most_and_go_in_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        sizes.append(len(data))
        assert data.endswith(b"\n")
        return write(file, data)

    with AccessLog(str(tmp_path / "log"), "text") as access:
        monkeypatch.setattr(os, "write", counted)
        await give(access, *["/" + "x" * 400] * 420)
        assert len(sizes) == 3
        assert all(64 * 1024 <= size < 65 * 1024 for size in sizes)
        monkeypatch.undo()
    assert len(lines_of(tmp_path / "log")) == 420


async def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with AccessLog(str(path), "text") as one, AccessLog(str(path), "text") as other:
        for each in (one, other, one):
            await give(each, "/x")
            each.flush()
    assert len(lines_of(path)) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_after_a_rotation_lines_go_into_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with AccessLog(str(path), "text") as access:
        await give(access, "/before")
        path.rename(tmp_path / "log.1")
        access.reopen()
        await give(access, "/after")
    assert ["/before" in line for line in lines_of(tmp_path / "log.1")] == [True]
    assert ["/after" in line for line in lines_of(path)] == [True]


async def test_a_rotation_without_a_new_file_goes_on_in_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    with AccessLog(str(tmp_path / "logs" / "log"), "text") as access:
        (tmp_path / "logs").rename(tmp_path / "old")
        access.reopen()
        await give(access, "/after")
    assert len(lines_of(tmp_path / "old" / "log")) == 1
    assert "cannot be opened again: No such file or directory" in caplog.text


async def test_a_full_disk_loses_lines_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with AccessLog("/dev/full", "text") as access:
        for _ in range(3):
            await give(access, "/x", "/y")
            access.flush()
        assert access.lost == 6
        assert [record.getMessage() for record in caplog.records] == [
            "the access log /dev/full cannot be written, and loses lines: No space left on device"
        ]
    assert caplog.records[-1].getMessage() == "the access log /dev/full lost 6 lines"


async def test_a_line_that_a_full_disk_tore_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = os.write, [150]

    def small(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(room[0], len(data))
        room[0] -= taken
        return write(file, data[:taken])

    with AccessLog(str(tmp_path / "log"), "text") as access:
        await give(access, "/1", "/2", "/3")
        monkeypatch.setattr(os, "write", small)
        access.flush()
        assert access.lost == 2
        await give(access, "/4")
        access.flush()
        assert access.lost == 3
        monkeypatch.undo()
        await give(access, "/5")
    whole = [line.split()[3] for line in lines_of(tmp_path / "log") if len(line.split()) == 9]
    assert [whole[0], whole[-1]] == ["/1", "/5"]
    assert len(lines_of(tmp_path / "log")) == 3


@pytest.mark.virtual_time
async def test_a_pipe_that_nobody_reads_holds_nobody_up_and_gets_whole_lines_later() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with AccessLog(f"/dev/fd/{writer}", "text") as access:
            await give(access, *(f"/{number}" for number in range(200)))
            await asyncio.sleep(5)
            said = b""
            for _ in range(10):
                said += os.read(reader, 1 << 16)
                if said.count(b"\n") == 200:
                    break
                await asyncio.sleep(1.1)
            assert [line.split()[3] for line in said.decode().splitlines()] == [f"/{number}" for number in range(200)]
            assert access.lost == 0
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.virtual_time
async def test_what_is_kept_for_a_pipe_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        with AccessLog(f"/dev/fd/{writer}", "text") as access:
            await give(access, *["/" + "x" * 500] * 4000)
        assert 1800 < access.lost < 4000
        assert "cannot be written, and loses lines: nobody reads them" in caplog.text
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("where", ["/nosuch/log", "/", "", "a\0b"])
def test_a_file_that_cannot_be_opened_is_told_at_once(where: str) -> None:
    with pytest.raises(Misuse, match="cannot write the access log"), AccessLog(where, "text"):
        pass


def test_a_fifo_without_a_reader_is_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Misuse, match="cannot write the access log"), AccessLog(str(tmp_path / "fifo"), "text"):
        pass


async def test_a_minus_is_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with AccessLog("-", "text") as access:
        await give(access, "/x")
        access.reopen()
    assert capfd.readouterr().out.count(" GET /x 200 ") == 1


def test_no_log_leaves_the_handler_as_it_is() -> None:
    with AccessLog("off", "text") as access:
        assert access.wrap(answer) is answer
        access.reopen()


def test_a_log_that_is_not_open_wraps_nothing(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="is not open: wrap handlers within 'with AccessLog"):
        AccessLog(str(tmp_path / "log"), "text").wrap(answer)
