"""The control socket: who may ask, what is answered, and what clients that misbehave cost."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.errors import (
    ConnectFailed,
    DeadlineExceeded,
    LinkError,
    ListenFailed,
    Misuse,
    ProtocolViolation,
    RemoteError,
    TransportLost,
)
from supervisor import control, private_sockets
from supervisor.control import ControlServer, ask, default_path, find
from supervisor.private_sockets import Credentials, peer_of
from tests.support.sides import settle


async def echo(question: dict[str, Any]) -> object:
    """Answers the question itself, or does as it is told."""
    match question.get("ask"):
        case "misuse":
            raise Misuse("there is no worker 9:\nthere are 2")
        case "bug":
            raise KeyError("secret")
        case "much":
            return "x" * control.MAX_ANSWER
        case "nonsense":
            return object()
        case "forever":
            await asyncio.Event().wait()
    return question


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "control.sock"


async def talk(path: Path, data: bytes, *, end: bool = False) -> dict[str, Any] | None:
    """Send these bytes as they are, and return what is answered; None where the server just closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        size = await reader.read(4)
        return dict(json.loads(await reader.readexactly(int.from_bytes(size)))) if size else None
    finally:
        writer.close()
        await writer.wait_closed()


def message(question: object) -> bytes:
    text = question if isinstance(question, bytes) else json.dumps(question).encode()
    return len(text).to_bytes(4) + text


@asynccontextmanager
async def impostor(path: Path, answer: bytes) -> AsyncIterator[None]:
    """Something else that listens there, and says only this."""
    path.parent.mkdir(0o700, exist_ok=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path):
        yield


def leave_behind(path: Path) -> None:
    """The socket of a server that is dead, instead of what is there."""
    path.parent.mkdir(0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(0o700, exist_ok=True)
    path.write_text(text)


def is_there(path: Path) -> bool:
    return path.exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def living(path: Path) -> Iterator[None]:
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield


# --- questions and answers --------------------------------------------------------------------------------------------


async def test_a_question_is_answered_with_what_the_server_returns(path: Path) -> None:
    async with ControlServer(path, echo):
        assert await ask(path, {"ask": "tree", "worker": None}) == {"version": 1, "ask": "tree", "worker": None}


async def test_fifty_may_ask_at_once_and_each_gets_its_own_answer(path: Path) -> None:
    asked = 0
    all_there = asyncio.Event()

    async def answer(question: dict[str, Any]) -> object:
        nonlocal asked
        asked += 1
        if asked == 50:
            all_there.set()
        await all_there.wait()
        return question["number"]

    async with ControlServer(path, answer):
        answers = await asyncio.gather(*(ask(path, {"number": number}) for number in range(50)))
    assert answers == list(range(50))


async def test_an_answer_may_be_long(path: Path) -> None:
    async def answer(question: dict[str, Any]) -> object:
        return "x" * (control.MAX_ANSWER - 100)

    async with ControlServer(path, answer):
        assert await ask(path, {"ask": "much"}) == "x" * (control.MAX_ANSWER - 100)


async def test_what_the_server_has_against_a_question_comes_in_one_line(path: Path) -> None:
    async with ControlServer(path, echo):
        with pytest.raises(RemoteError, match=r"^there is no worker 9: there are 2$"):
            await ask(path, {"ask": "misuse"})


@pytest.mark.logs_errors("'bug' was not answered.*KeyError", "'nonsense' was not answered.*TypeError")
async def test_a_fault_of_the_servers_is_logged_and_told_without_its_words(path: Path) -> None:
    async with ControlServer(path, echo):
        with pytest.raises(RemoteError, match=r"^the server failed to answer \(KeyError\): its log says why$"):
            await ask(path, {"ask": "bug"})
        with pytest.raises(RemoteError, match="TypeError"):
            await ask(path, {"ask": "nonsense"})
        assert await ask(path, {"ask": "tree"}) is not None


async def test_an_answer_that_is_too_long_is_not_sent(path: Path) -> None:
    async with ControlServer(path, echo):
        with pytest.raises(RemoteError, match=r"the answer is of 167772.. bytes, and 16777216 are the most"):
            await ask(path, {"ask": "much"})


@pytest.mark.virtual_time
async def test_who_asks_waits_no_longer_than_he_said(path: Path) -> None:
    async with ControlServer(path, echo):
        with pytest.raises(DeadlineExceeded, match=r"control\.sock did not answer within 2 s"):
            await ask(path, {"ask": "forever"}, timeout=2.0)


@pytest.mark.parametrize("version", [2, 0, None, "1", True, 10**30])
async def test_a_question_in_another_version_is_told_which_one_is_spoken(path: Path, version: object) -> None:
    async with ControlServer(path, echo):
        answer = await talk(path, message({"version": version, "ask": "tree"}))
    assert answer is not None
    assert answer["ok"] is False
    assert "the server speaks version 1 of the control protocol, and this muxlink version" in answer["error"]


async def test_the_answer_of_a_newer_server_is_told_by_its_version(path: Path) -> None:
    async with impostor(path, message({"version": 7, "ok": True, "answer": 1})):
        with pytest.raises(ProtocolViolation, match=r"this muxlink speaks version 1 .* and the server at .* version 7"):
            await ask(path, {"ask": "tree"})


# --- clients that misbehave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (message(b"{"), "a question is a JSON object, and this is no JSON"),
        (message(b"\xff\xfe"), "this is no JSON"),
        (message(b"[" * 60_000), "this is no JSON"),
        (message(b"9" * 60_000), "this is no JSON"),
        (message([1, 2]), "a question is a JSON object, not a list"),
        (message(b""), "this is no JSON"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" + bytes(200_000), "a question is of 65536 bytes at most, not 1195725856"),
        (message(b" " * 65_537), "a question is of 65536 bytes at most, not 65537"),
    ],
)
async def test_garbage_is_objected_to_and_costs_nobody_else(path: Path, sent: bytes, told: str) -> None:
    async with ControlServer(path, echo):
        answer = await talk(path, sent)
        assert answer is not None
        assert told in answer["error"]
        assert await ask(path, {"ask": "tree"}) == {"version": 1, "ask": "tree"}


async def test_who_sends_far_too_much_may_finish_and_then_read_why_that_was_not_taken(path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with ControlServer(path, echo):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            await loop.sock_connect(client, str(path))
            await loop.sock_sendall(client, message(b" " * 8_000_000))
            assert b"a question is of 65536 bytes at most, not 8000000" in await loop.sock_recv(client, 65_536)


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x09{"])
async def test_who_goes_in_the_middle_of_a_question_is_let_go(path: Path, sent: bytes) -> None:
    async with ControlServer(path, echo):
        assert await talk(path, sent, end=True) is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x09{"])
async def test_who_asks_nothing_is_let_go_after_five_seconds(path: Path, sent: bytes) -> None:
    async with ControlServer(path, echo):
        begun = asyncio.get_running_loop().time()
        assert await talk(path, sent) is None
        assert asyncio.get_running_loop().time() - begun == pytest.approx(control.PATIENCE)


@pytest.mark.virtual_time
async def test_who_does_not_take_his_answer_is_let_go_after_five_seconds(path: Path) -> None:
    async def answer(question: dict[str, Any]) -> object:
        return "x" * 4_000_000

    async with ControlServer(path, answer) as server:
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))
            client.sendall(message({"version": 1}))
            await asyncio.sleep(control.PATIENCE - 1)
            assert len(server._clients) == 1
            await asyncio.sleep(2)
            assert not server._clients


async def test_clients_that_say_nothing_do_not_keep_others_from_asking(path: Path) -> None:
    async with ControlServer(path, echo):
        silent = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        for each in silent:
            each.connect(str(path))
        assert await ask(path, {"ask": "tree"}) == {"version": 1, "ask": "tree"}
        for each in silent:
            each.close()


async def test_above_so_many_clients_the_next_are_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "AT_ONCE", 2)
    async with ControlServer(path, echo):
        asking = [asyncio.create_task(ask(path, {"ask": "forever"})) for _ in range(2)]
        await settle()
        with pytest.raises(TransportLost):
            await ask(path, {"ask": "tree"})
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)


async def test_another_user_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, another = os.geteuid(), os.geteuid() + 1_000
    async with ControlServer(path, echo):
        monkeypatch.setattr(control, "peer_of", lambda _: Credentials(1, another))
        answer = await talk(path, message({"version": 1, "ask": "tree"}))
    assert answer == {
        "version": 1, "ok": False,
        "error": f"the server is run by the user {ours}, not {another}: only that one may ask",
    }  # fmt: skip
    assert f"refused a client of the user {another}" in caplog.text


async def test_root_may_ask_whoever_runs_the_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ControlServer(path, echo):
        monkeypatch.setattr(control, "peer_of", lambda _: Credentials(1, 0))
        monkeypatch.setattr(os, "geteuid", lambda: 1_234)
        assert await ask(path, {"ask": "tree"}) == {"version": 1, "ask": "tree"}


async def test_a_socket_that_another_user_made_is_asked_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def answer(question: dict[str, Any]) -> object:
        asked.append(question)
        return None

    async with ControlServer(path, answer):
        monkeypatch.setattr(control, "peer_of", lambda _: Credentials(1, 4_321))
        monkeypatch.setattr(os, "geteuid", lambda: 1_234)
        with pytest.raises(ConnectFailed, match="is one of the user 4321, not yours"):
            await ask(path, {"ask": "drain"})
    assert not asked


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert peer_of(here) == Credentials(os.getpid(), os.geteuid())


# --- servers that are not there ---------------------------------------------------------------------------------------


async def test_no_socket_is_one_line_that_says_how_to_start_a_server(path: Path) -> None:
    with pytest.raises(ConnectFailed, match=f"^no server has its control socket at {path}: 'muxlink serve' starts one"):
        await ask(path, {"ask": "tree"})


async def test_a_stale_socket_is_one_line_that_says_so(path: Path) -> None:
    leave_behind(path)
    with pytest.raises(ConnectFailed, match=f"^the control socket {path} is stale, its server has ended"):
        await ask(path, {"ask": "tree"})


async def test_what_is_no_socket_and_a_path_that_is_too_long_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / ("x" * 200)):
        with pytest.raises(ConnectFailed, match=r"^[^\n]+$"):
            await ask(path, {"ask": "tree"})


@pytest.mark.parametrize("answer", [b"", b"\0\0\0\x10{", b"\0"])
async def test_a_server_that_ends_in_the_middle_is_told(path: Path, answer: bytes) -> None:
    async with impostor(path, answer):
        with pytest.raises(TransportLost):
            await ask(path, {"ask": "tree"})


@pytest.mark.parametrize("answer", [message(b"nonsense"), message([1]), b"\x7f\xff\xff\xff"])
async def test_what_is_no_answer_is_a_violation(path: Path, answer: bytes) -> None:
    async with impostor(path, answer):
        with pytest.raises(ProtocolViolation, match="the server's answer is"):
            await ask(path, {"ask": "tree"})


@pytest.mark.virtual_time
async def test_leaving_gives_answers_on_their_way_a_second_and_takes_the_file_along(path: Path) -> None:
    """M4: exit leaves no socket file."""
    almost = asyncio.Event()

    async def answer(question: dict[str, Any]) -> object:
        almost.set()
        await asyncio.sleep(question["seconds"])
        return "in time"

    async with ControlServer(path, answer):
        soon, late = (asyncio.create_task(ask(path, {"seconds": seconds})) for seconds in (0.5, 60.0))
        await almost.wait()
        await asyncio.sleep(0.1)
    assert not is_there(path)
    assert await soon == "in time"
    with pytest.raises(TransportLost):
        await late


async def test_leaving_does_not_take_the_file_of_another(path: Path) -> None:
    async with ControlServer(path, echo):
        leave_behind(path)
    assert is_there(path)


# --- where it lies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_nobody_else_may_enter_the_directory_or_connect(
    path: Path, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_birth: list[int] = []
    listen = socket.socket.listen

    def look(self: socket.socket, backlog: int) -> None:
        at_birth.append(mode_of(path))
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", look)
    before = os.umask(mask)
    try:
        async with ControlServer(path, echo):
            assert at_birth == [0o600]  # before anyone can connect, and not only in the end
            assert mode_of(path) == 0o600
            assert mode_of(path.parent) == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o777])
async def test_a_directory_that_others_may_enter_is_refused(path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(mode)
    with pytest.raises(ListenFailed, match=f"mode 0700, which {path.parent} is not: it has the mode {mode:04o}"):
        async with ControlServer(path, echo):
            pytest.fail("it listens")
    assert not is_there(path)


async def test_a_directory_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir(0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ListenFailed, match=f"it has the mode 0700 of the user {owner}"):
        async with ControlServer(path, echo):
            pytest.fail("it listens")


async def test_a_symbolic_link_is_no_directory(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    path.parent.symlink_to(tmp_path / "real")
    with pytest.raises(ListenFailed, match="it is a symbolic link"):
        async with ControlServer(path, echo):
            pytest.fail("it listens")


async def test_a_socket_that_a_dead_server_left_is_replaced(path: Path) -> None:
    leave_behind(path)
    async with ControlServer(path, echo):
        assert await ask(path, {"ask": "tree"}) is not None


async def test_the_socket_of_a_living_server_is_left_alone(path: Path) -> None:
    async with ControlServer(path, echo):
        with pytest.raises(ListenFailed, match=f"a server has its control socket at {path}: stop it first"):
            async with ControlServer(path, echo):
                pytest.fail("it listens")
        assert await ask(path, {"ask": "tree"}) is not None


async def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    write(path, "precious")
    with pytest.raises(ListenFailed, match="is there already, and is no socket"):
        async with ControlServer(path, echo):
            pytest.fail("it listens")
    assert is_there(path)


async def test_the_sockets_of_other_dead_processes_are_removed_and_nothing_else(path: Path) -> None:
    own = path.parent
    leave_behind(own / "1234567.sock")
    leave_behind(own / "named.sock")
    write(own / "99.sock", "no socket")
    with living(own / "2345678.sock"):
        async with ControlServer(own / "12.sock", echo):
            assert {each.name for each in own.iterdir()} == {"12.sock", "2345678.sock", "99.sock", "named.sock"}


async def test_a_path_that_is_too_long_and_a_place_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    for path, told in (
        (tmp_path / ("x" * 108) / "control.sock", "has 107 bytes at most"),
        (tmp_path / "not" / "there" / "control.sock", "No such file or directory"),
    ):
        with pytest.raises(ListenFailed, match=rf"^[^\n]*{told}[^\n]*$"):
            async with ControlServer(path, echo):
                pytest.fail("it listens")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"RUNTIME_DIRECTORY": "/run/app", "XDG_RUNTIME_DIR": "/run/user/1"}, "/run/app/control.sock"),
        ({"RUNTIME_DIRECTORY": "/run/app:/run/more"}, "/run/app/control.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/1", "TMPDIR": "/scratch"}, "/run/user/1/muxlink/42.sock"),
        ({"TMPDIR": "/scratch"}, f"/scratch/muxlink-{os.geteuid()}/42.sock"),
    ],
)
def test_the_default_path_is_where_systemd_or_the_user_has_such_things(environ: dict[str, str], path: str) -> None:
    assert default_path(environ, 42) == Path(path)


def test_the_only_living_server_is_found(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path / "none")}
    path = default_path(environ, 42)
    with living(path):
        leave_behind(path.with_name("41.sock"))
        assert find(environ) == path


def test_a_server_that_was_started_without_the_users_environment_is_found(tmp_path: Path) -> None:
    with living(path := default_path({"TMPDIR": str(tmp_path)}, 42)):
        assert find({"XDG_RUNTIME_DIR": str(tmp_path / "run"), "TMPDIR": str(tmp_path)}) == path


def test_where_the_environment_names_the_socket_nothing_is_looked_for() -> None:
    assert find({"MUXLINK_CONTROL": "/run/app/own.sock"}) == Path("/run/app/own.sock")


def test_without_a_living_server_one_line_says_how_to_start_one(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path / "none")}
    leave_behind(default_path(environ, 42))
    with pytest.raises(
        ConnectFailed, match=r"^no server with a control socket runs in .*'muxlink serve MODULE:HANDLER'"
    ):
        find(environ)


def test_of_several_servers_one_must_be_chosen(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    first, second = default_path(environ, 42), default_path(environ, 43)
    with living(first), living(second), pytest.raises(Misuse) as told:
        find(environ)
    pid = os.getpid()
    assert str(told.value) == (
        f"several servers run here: choose one by --control PATH, of {first} (pid {pid}), {second} (pid {pid})"
    )


def test_a_directory_that_is_not_the_users_own_is_not_looked_into(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with living(path := default_path(environ, 42)):
        path.parent.chmod(0o755)
        with pytest.raises(LinkError, match="a control socket needs a directory of your own"):
            find(environ)


def test_the_socket_is_not_left_open_where_listening_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(socket.socket, "bind", full)
    with pytest.raises(ListenFailed, match=f"^cannot listen at {path}: No space left on device$"):
        private_sockets.listen_privately(path)
