"""Each bad input is one line on stderr that names the thing: exit code 2 for a wrong call, 1 for a failure.

A wrong call is found before anything is connected or bound, so its many kinds are tried in this process; one of each
goes through a process of its own, as failures all do.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cli import main
from supervisor.server import Server
from tests.interop.bodies import greet
from tests.interop.command import muxlink
from tests.interop.peers import Ran, free_port, occupied_port
from tests.interop.strangers import stranger
from tests.interop.test_bad_peers import BARE_PAGE, HTTP1_ERROR, NOISE

# Nobody listens on it: whoever tries to connect fails with another exit code.
NOWHERE = "http://127.0.0.1:1/"


def assert_one_line(ran: Ran, code: int, *named: str) -> None:
    assert ran.code == code, ran
    assert len(ran.err.splitlines()) == 1, ran
    assert ran.out == b"", ran
    for name in named:
        assert name in ran.err, ran


WRONG_CALLS = [
    *(
        pytest.param(("request", url), url, id=f"url {url}")
        for url in (
            "nonsense",
            "ftp://127.0.0.1/",
            "http://",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:http/",
            "http://127.0.0.1:1/a b",
            "",
        )
    ),
    *(
        pytest.param(("request", "-H", header, NOWHERE), named, id=f"header {header!r}")
        for header, named in (
            ("connection: close", "connection"),
            ("Transfer-Encoding: chunked", "transfer-encoding"),
            ("te: gzip", "te"),
            (":path: /elsewhere", ":path"),
            ("bad name: x", "bad name"),
            ("x-lines: one\r\nx-two: 2", "x-lines"),
            ("no colon", "bad header 'no'"),
            ("content-length: many", "content-length"),
        )
    ),
    pytest.param(("request", "-d", "@/no/such/file", NOWHERE), "/no/such/file", id="data file"),
    *(
        pytest.param(("serve", handler, "--bind", "127.0.0.1:0"), named, id=f"handler {handler}")
        for handler, named in (
            ("json:dumps", "dumps"),
            ("string:digits", "digits"),
            ("examples.hello:nosuch", "nosuch"),
            ("no_such_module_anywhere:hello", "no_such_module_anywhere"),
            ("examples.nosuch:hello", "examples.nosuch"),
            ("examples.hello", "examples.hello"),
            (":hello", ":hello"),
        )
    ),
    *(
        pytest.param(("serve", "examples.hello:hello", f"--bind={bind}"), bind, id=f"bind {bind}")
        for bind in ("nonsense", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1", "unix:", ":", "")
    ),
    pytest.param(("request", "--timeout", "soon", NOWHERE), "soon", id="timeout"),
    pytest.param(("demo", "--requests", "0"), "--requests", id="number of requests"),
    pytest.param(("no-such-command",), "no-such-command", id="command"),
    pytest.param((), "COMMAND", id="nothing"),
]


@pytest.mark.parametrize(("argv", "named"), WRONG_CALLS)
def test_a_wrong_call_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], named: str
) -> None:
    """W2 for forbidden headers, on the command line: nothing is sent, nor even connected."""
    code = main(list(argv))

    said = capsys.readouterr()
    assert code == 2
    assert len(said.err.splitlines()) == 1, said.err
    assert named in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("request", "nonsense"), "nonsense"),
        (("request", "-H", "connection: close", NOWHERE), "connection"),
        (("serve", "json:dumps"), "dumps"),
        (("serve", "examples.hello:hello", "--bind", "nonsense"), "nonsense"),
        (("no-such-command",), "no-such-command"),
    ],
)
async def test_a_wrong_call_ends_its_process_with_2(argv: tuple[str, ...], named: str) -> None:
    assert_one_line(await muxlink(*argv), 2, named)


async def test_a_bad_method_is_a_wrong_call() -> None:
    async with Server(greet) as server:
        ran = await muxlink("request", "-X", "GET IT", f"http://127.0.0.1:{server.port}/")

    assert_one_line(ran, 2, "GET IT")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("async def hello(stream:\n", "broken_module"),
        ("raise RuntimeError('out of luck')\n", "out of luck"),
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
    ],
    ids=["syntax", "raises", "imports what is missing"],
)
async def test_a_module_that_does_not_import_is_a_wrong_call(tmp_path: Path, source: str, named: str) -> None:
    (tmp_path / "broken_module.py").write_text(source, encoding="utf-8")
    ran = await muxlink("serve", "broken_module:hello", "--bind", "127.0.0.1:0", cwd=tmp_path)

    assert_one_line(ran, 2, "broken_module", named)


async def test_a_port_in_use_is_a_failure() -> None:
    with occupied_port() as port:
        ran = await muxlink("serve", "examples.hello:hello", "--bind", f"127.0.0.1:{port}")

    assert_one_line(ran, 1, f"127.0.0.1:{port}", "in use")


async def test_a_unix_socket_in_use_is_a_failure_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with Server(greet, path=str(path)):
        ran = await muxlink("serve", "examples.hello:hello", "--bind", f"unix:{path}")
        assert path.exists()

    assert_one_line(ran, 1, str(path))


async def test_a_unix_socket_in_a_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "server.sock"
    ran = await muxlink("serve", "examples.hello:hello", "--bind", f"unix:{path}")

    assert_one_line(ran, 1, str(path))


async def test_an_address_that_is_not_ours_is_a_failure() -> None:
    # 192.0.2.0/24 is for documentation only (RFC 5737).
    ran = await muxlink("serve", "examples.hello:hello", "--bind", "192.0.2.1:8080")

    assert_one_line(ran, 1, "192.0.2.1")


async def test_nobody_listening_is_a_failure() -> None:
    port = free_port()

    assert_one_line(await muxlink("request", f"http://127.0.0.1:{port}/"), 1, f"127.0.0.1:{port}")


async def test_a_peer_that_speaks_http_1_is_a_failure() -> None:
    async with stranger(HTTP1_ERROR) as peer:
        ran = await muxlink("request", f"{peer.url}/")

    assert_one_line(ran, 1, f"127.0.0.1:{peer.port}", "HTTP/1")


@pytest.mark.parametrize("says", [BARE_PAGE, NOISE, b""], ids=["page", "noise", "nothing, and hangs up"])
async def test_a_peer_that_says_garbage_is_a_failure(says: bytes) -> None:
    async with stranger(says, hangs_up=not says) as peer:
        ran = await muxlink("request", f"{peer.url}/")

    assert_one_line(ran, 1, f"127.0.0.1:{peer.port}")


async def test_a_peer_that_says_nothing_is_a_failure_once_the_time_is_up() -> None:
    async with stranger(says_it="never") as peer:
        ran = await muxlink("request", "--timeout", "0.5", f"{peer.url}/", limit=8)

    assert_one_line(ran, 1, f"127.0.0.1:{peer.port}", "0.5 s")
