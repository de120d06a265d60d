"""The ``muxlink`` command in this process; as a process of its own it is tested in tests/interop."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

import pytest

from actors.errors import ConnectFailed, Misuse, ProtocolViolation
from actors.server_stream import ServerStream
from supervisor import cli, demo
from supervisor.cli import FILE_CHUNK, load_handler, main
from supervisor.server import Server
from tests.support.certificates import Authority

NOWHERE = "http://127.0.0.1:1/"

# --- MODULE:HANDLER ---------------------------------------------------------------------------------------------------

HANDLERS = """
import functools

async def plain(stream): ...
async def named(name, stream): ...
def sync(stream): ...
async def generates(stream):
    yield

class Greeter:
    async def greet(self, stream): ...
    async def __call__(self, stream): ...
    class Inner:
        @staticmethod
        async def deep(stream): ...

class Sync:
    def __call__(self, stream): ...

greeter = Greeter()
sync_object = Sync()
partial = functools.partial(named, "ann")
partial_twice = functools.partial(functools.partial(named, "ann"))
partial_of_object = functools.partial(greeter)
partial_of_sync = functools.partial(sync)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module into the working directory, and says its name; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(source: str) -> str:
        (tmp_path / "handlers_here.py").write_text(source, encoding="utf-8")
        return "handlers_here"

    return write


@pytest.mark.parametrize(
    "attribute",
    "plain greeter greeter.greet Greeter.Inner.deep partial partial_twice partial_of_object".split(),
)
def test_whatever_gives_a_coroutine_is_a_handler(module: Callable[[str], str], attribute: str) -> None:
    found: Any = load_handler(f"{module(HANDLERS)}:{attribute}")
    wanted: Any = sys.modules["handlers_here"]
    for part in attribute.split("."):
        wanted = getattr(wanted, part)
    assert found == wanted


@pytest.mark.parametrize(
    "attribute", "sync generates Greeter Sync sync_object partial_of_sync functools __doc__ greeter.__class__".split()
)
def test_whatever_gives_none_is_refused(module: Callable[[str], str], attribute: str) -> None:
    with pytest.raises(Misuse, match=f"{attribute} is no coroutine function: write 'async def'"):
        load_handler(f"{module(HANDLERS)}:{attribute}")


@pytest.mark.parametrize("attribute", ["nosuch", "greeter.nosuch", "plain.", ".plain", "greeter..greet"])
def test_a_name_that_is_not_there_is_named(module: Callable[[str], str], attribute: str) -> None:
    with pytest.raises(Misuse, match=f"handlers_here has no {attribute}: is the handler's name right"):
        load_handler(f"{module(HANDLERS)}:{attribute}")


@pytest.mark.parametrize("name", ["", ":", "module", "module:", ":handler", "module.handler"])
def test_a_name_without_both_halves_is_told_how_to_write_it(name: str) -> None:
    with pytest.raises(Misuse, match="write MODULE:HANDLER"):
        load_handler(name)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise RuntimeError('out of luck')", "RuntimeError: out of luck"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("raise RuntimeError", "RuntimeError: "),
        ("raise SystemExit('usage: nothing')", "SystemExit: usage: nothing"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("exit = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["an error", "of two lines", "of no words", "an exit", "an exit code", "a slip"],
)
def test_a_module_that_raises_is_told_in_a_line(module: Callable[[str], str], source: str, told: str) -> None:
    name = module(source)
    with pytest.raises(Misuse) as caught:
        load_handler(f"{name}:handler")
    assert str(caught.value) == f"cannot import {name}: {told}"
    assert caught.value.__cause__ is not None, "the module's own error is chained"


def test_an_interrupt_while_importing_is_an_interrupt(module: Callable[[str], str]) -> None:
    name = module("raise KeyboardInterrupt")
    assert main(["serve", f"{name}:handler", "--bind", "127.0.0.1:0", "--workers", "0"]) == cli.INTERRUPTED


@pytest.mark.parametrize("name", ["..up:handler", ".here:handler", "a..b:handler", "no/such:handler"])
def test_a_module_that_cannot_be_named_is_told(name: str) -> None:
    with pytest.raises(Misuse, match="cannot import"):
        load_handler(name)


def test_the_working_directory_goes_onto_the_path_once(module: Callable[[str], str]) -> None:
    name = module(HANDLERS)
    before = list(sys.path)
    for _ in range(3):
        load_handler(f"{name}:plain")
    assert sys.path == [os.getcwd(), *before]


# --- exit codes -------------------------------------------------------------------------------------------------------


def fails_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``muxlink demo`` end so."""

    async def run(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(demo, "run", run)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misuse("so it is"), cli.ASKED_WRONGLY),
        (ConnectFailed("so it is"), cli.FAILED),
        (ExceptionGroup("", [ConnectFailed("so it is"), ValueError("less so")]), cli.FAILED),
        (ExceptionGroup("", [ExceptionGroup("", [ProtocolViolation("so it is")])]), cli.FAILED),
    ],
    ids=["wrong call", "failure", "group", "group in a group"],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails_with(error, monkeypatch)
    assert main(["demo"]) == code
    assert capsys.readouterr() == ("", "muxlink demo: so it is\n")


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), ExceptionGroup("", [ValueError("a bug")])], ids=["bare", "group"]
)
def test_a_bug_of_ours_is_not_told_as_an_error_of_the_users(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(error, monkeypatch)
    with pytest.raises(type(error)):
        main(["demo"])


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(KeyboardInterrupt(), monkeypatch)
    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("argv", [["--help"], ["serve", "-h"], ["request", "-h"], ["demo", "-h"]])
def test_help_is_no_failure(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == cli.DONE
    said = capsys.readouterr()
    assert "example: muxlink " in said.out
    assert said.err == ""


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_demo_of_nothing_is_a_wrong_call(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--requests", number]) == cli.ASKED_WRONGLY
    assert capsys.readouterr() == ("", f"muxlink demo: --requests must be at least 1, not {number}\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_limit_that_is_none_is_a_wrong_call(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["request", f"--timeout={seconds}", NOWHERE]) == cli.ASKED_WRONGLY
    assert capsys.readouterr().err.startswith("muxlink request: --timeout must be a number of seconds above 0")


@pytest.mark.parametrize("header", ["", ":", ": value", "   : value", "name", "a\nb: c", "a: b\nc: d", "a: \0", "ü: x"])
def test_a_header_that_is_none_is_a_wrong_call(header: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["request", "-H", header, NOWHERE]) == cli.ASKED_WRONGLY
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert said.err.startswith("muxlink request: ")


def test_a_unix_socket_as_the_url_is_told_how_to_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["request", "unix:/run/some.sock"]) == cli.ASKED_WRONGLY
    assert "write --unix-socket /run/some.sock http://localhost/PATH" in capsys.readouterr().err


# --- request ----------------------------------------------------------------------------------------------------------


async def command(server: Server, *argv: str) -> int:
    """The command in a thread of its own, with a loop of its own."""
    return await asyncio.to_thread(main, ["request", *argv, server.url + "/"])


async def mirror(stream: ServerStream) -> None:
    """Answers with the request's method, two of its headers, and its body."""
    asked = f"{stream.method} {stream.headers.all('x-one')!r} ".encode()
    await stream.respond(200, body=asked + await stream.read())


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        ((), b"GET [] "),
        (("-d", ""), b"POST [] "),
        (("-d", "data"), b"POST [] data"),
        (("-d", "gr\u00fc\u00df"), b"POST [] gr\xc3\xbc\xc3\x9f"),
        (("-d", "\udcff"), b"POST [] \xff"),
        (("-X", "PUT", "-d", "data"), b"PUT [] data"),
        (("-H", "X-One:  a:b  ", "-H", "x-one:c"), b"GET [b'a:b', b'c'] "),
        (("-H", "x-one:"), b"GET [b''] "),
    ],
)
async def test_a_request_is_what_was_asked_for(
    argv: tuple[str, ...], answer: bytes, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with Server(mirror) as server:
        assert await command(server, *argv) == cli.DONE
    assert capsysbinary.readouterr() == (answer, b"")


@pytest.mark.parametrize("size", [0, 1, FILE_CHUNK, FILE_CHUNK + 1, 3 * FILE_CHUNK], ids=str)
async def test_a_file_is_sent_whole(size: int, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "data").write_bytes(bytes(range(251)) * (size // 251) + bytes(size % 251))
    async with Server(mirror) as server:
        assert await command(server, "-d", f"@{tmp_path / 'data'}") == cli.DONE
    assert capsysbinary.readouterr() == (b"POST [] " + (tmp_path / "data").read_bytes(), b"")


def test_a_file_that_is_not_there_is_a_wrong_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["request", "-d", f"@{tmp_path / 'nosuch'}", NOWHERE]) == cli.ASKED_WRONGLY
    assert f"cannot read {tmp_path / 'nosuch'}: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "folder"])
def test_a_directory_for_a_file_is_a_wrong_call(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["request", "-d", f"@{name}", NOWHERE]) == cli.ASKED_WRONGLY
    said = capsys.readouterr()
    assert said.err == f"muxlink request: cannot read {name or '.'}: Is a directory; " + (
        "-d @FILE names a file that can be read\n"
    )


async def test_head_body_and_trailers_are_told_apart(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond(404, headers=[("x-one", "1"), ("x-one", "2")], body=b"gone\n", trailers=[("sum", "5")])

    async with Server(handler) as server:
        assert await command(server, "--include") == cli.DONE
    head, blank, rest = capsysbinary.readouterr().out.partition(b"\n\n")
    assert blank
    assert head.startswith(b"HTTP/2 404\n")
    assert b"\nx-one: 1\nx-one: 2" in head
    assert rest == b"gone\n\nsum: 5\n"


def closed_pipe() -> TextIO:
    """A text file whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


async def test_a_reader_that_has_gone_ends_the_request_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_pipe() as out:
        monkeypatch.setattr(sys, "stdout", out)
        async with Server(functools.partial(mirror)) as server:
            assert await command(server, "-d", "x" * 100_000) == cli.FAILED
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


# --- TLS --------------------------------------------------------------------------------------------------------------

SECURE_NOWHERE = "https://127.0.0.1:1/"


async def where_from(stream: ServerStream) -> None:
    """Answers with the scheme, the authority, and whether the client has shown a certificate."""
    shown = "no certificate" if stream.peer.certificate is None else "a certificate"
    await stream.respond(200, body=f"{stream.scheme} {stream.authority} {shown}".encode())


async def test_a_request_over_tls(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("ann.test")
    async with Server(where_from, tls=authority.server(client_ca=authority.file)) as server:
        assert await command(server, "--cacert", authority.file, "--cert", cert, "--key", key) == cli.DONE
        said = capsysbinary.readouterr()
        assert said == (f"https 127.0.0.1:{server.port} a certificate".encode(), b"")
        assert await command(server, "--cacert", authority.file) == cli.FAILED
        assert b"perhaps it demands a client certificate" in capsysbinary.readouterr().err


async def test_a_certificate_is_verified_unless_that_is_insecure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C5: and then one line warns."""
    authority = Authority(tmp_path)
    async with Server(where_from, tls=authority.server("service.test")) as server:
        assert await command(server) == cli.FAILED
        assert "its certificate comes from an unknown authority" in capsys.readouterr().err
        assert await command(server, "--cacert", authority.file) == cli.FAILED
        assert "its certificate is for another IP address than 127.0.0.1" in capsys.readouterr().err
        assert await command(server, "--insecure") == cli.DONE
        port = server.port
    said = capsys.readouterr()
    assert said.out == f"https 127.0.0.1:{port} no certificate"
    assert said.err == "muxlink request: warning: --insecure verifies nothing: anyone may answer and listen\n"


async def test_tls_over_a_unix_socket_verifies_the_name_of_the_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    path = str(tmp_path / "s")

    async def ask(url: str) -> int:
        return await asyncio.to_thread(main, ["request", "--cacert", authority.file, "--unix-socket", path, url])

    async with Server(where_from, path=path, tls=authority.server("service.test")):
        assert await ask("https://service.test/") == cli.DONE
        assert capsys.readouterr() == ("https service.test no certificate", "")
        assert await ask("https://other.test/") == cli.FAILED
        assert "another host name than other.test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--cacert", "f", NOWHERE], "go with an https URL"),
        (["--insecure", NOWHERE], "go with an https URL"),
        (["--cert", "f", NOWHERE], "go with an https URL"),
        (["--insecure", "--cacert", "f", SECURE_NOWHERE], "give one of them"),
        (["--key", "f", SECURE_NOWHERE], "--key goes with --cert"),
        (["--cacert", "/nosuch", SECURE_NOWHERE], "cannot read the file of certificate authorities /nosuch"),
        (["--cert", "/nosuch", SECURE_NOWHERE], "cannot read the certificate file /nosuch: No such file"),
    ],
)
def test_tls_that_cannot_be_is_a_wrong_call(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["request", *argv]) == cli.ASKED_WRONGLY
    said = capsys.readouterr()
    assert complaint in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--keyfile", "f"], "go with --certfile"),
        (["--client-ca", "f"], "go with --certfile"),
        (["--certfile", "/nosuch"], "cannot read the certificate file /nosuch: No such file"),
    ],
)
def test_a_server_that_cannot_do_tls_is_a_wrong_call(
    argv: list[str], complaint: str, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", f"{module(HANDLERS)}:plain", "--bind", "127.0.0.1:0", *argv]) == cli.ASKED_WRONGLY
    said = capsys.readouterr()
    assert complaint in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    ("command", "options"),
    [("serve", "--certfile --keyfile --client-ca"), ("request", "--cacert --cert --key --insecure")],
)
def test_help_names_what_is_for_tls(command: str, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == cli.DONE
    said = capsys.readouterr().out
    assert "TLS" in said
    assert all(option in said for option in options.split())
