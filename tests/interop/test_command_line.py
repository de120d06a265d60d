"""The ``muxlink`` command as a user runs it: a process of its own, called by other people's programs."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import socket
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from actors.errors import LinkError
from supervisor.link import Link
from supervisor.server import Server
from tests.interop.bodies import BIG, big, big_digest, greet
from tests.interop.command import muxlink, muxlink_argv, muxlink_serve
from tests.interop.peers import ROOT, Nghttpd, Tool, environment, run
from tests.interop.strangers import stranger
from tests.support import frames
from tests.support.frames import Code, RawPeer

HELLO = "examples.hello:hello"


async def test_serve_answers_curl_and_nghttp(curl: Tool, nghttp: Tool) -> None:
    async with muxlink_serve(HELLO, "127.0.0.1:0") as served:
        assert re.search(r"http://127\.0\.0\.1:[1-9]\d*", served.line)
        by_curl = await curl("-d", "curl", f"{served.url}/")
        by_nghttp = await nghttp("-v", f"{served.url}/")

    assert (by_curl.code, by_curl.text) == (0, "hello, curl"), by_curl
    assert "recv (stream_id=13) :status: 200" in by_nghttp.text, by_nghttp


async def test_serve_keeps_the_port_that_it_is_told(curl: Tool, unused_port: int) -> None:
    async with muxlink_serve(HELLO, f"127.0.0.1:{unused_port}") as served:
        ran = await curl(f"http://127.0.0.1:{unused_port}/")

    assert served.url.rstrip("/") == f"http://127.0.0.1:{unused_port}"
    assert ran.code == 0, ran


async def test_serve_binds_a_unix_socket(curl: Tool, tmp_path: Path) -> None:
    path = tmp_path / "hello.sock"
    async with muxlink_serve(HELLO, f"unix:{path}") as served:
        assert str(path) in served.line
        ran = await curl("--unix-socket", str(path), "-d", "unix", "http://localhost/")
        served.process.send_signal(signal.SIGTERM)
        assert await served.ends() == 0

    assert (ran.code, ran.text) == (0, "hello, unix"), ran
    assert not path.exists()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_well_by_a_signal(curl: Tool, by: signal.Signals) -> None:
    """M4, for one process: exit code 0, nothing to complain about, and the port is free again."""
    async with muxlink_serve(HELLO, "127.0.0.1:0") as served:
        assert (await curl(f"{served.url}/")).code == 0
        served.process.send_signal(by)
        assert await served.ends() == 0

        assert served.err() == ""
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(served.url.rpartition(":")[2].rstrip("/")))) != 0


PATIENT_HANDLERS = """
import asyncio

async def until_draining(stream):
    await stream.start_response(200)
    await stream.draining()
    await stream.send(b"goodbye")

async def for_ever(stream):
    await stream.start_response(200)
    await asyncio.Event().wait()
"""


async def test_serve_binds_an_ipv6_address(curl: Tool) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 on the loopback interface: {error}")
    async with muxlink_serve(HELLO, "[::1]:0") as served:
        ran = await curl(served.url)
        asked = await muxlink("request", served.url)

    assert re.fullmatch(r"http://\[::1\]:\d+/?", served.url)
    assert (ran.code, ran.text) == (0, "hello, world"), ran
    assert (asked.code, asked.text) == (0, "hello, world"), asked


async def refuses(url: str) -> None:
    """Wait until nobody listens there any more."""
    host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue  # it stopped listening before it had accepted
            writer.close()
            await asyncio.wait((asyncio.ensure_future(writer.wait_closed()),))


async def test_an_idle_link_does_not_hold_up_the_end() -> None:
    """M4, for one process: the five seconds are for open streams."""
    async with muxlink_serve(HELLO, "127.0.0.1:0") as served, Link(served.url) as link:
        assert (await link.request("GET", "/", timeout=10)).status == 200
        served.process.send_signal(signal.SIGTERM)
        assert await served.ends(limit=3) == 0
        assert served.err() == ""


async def test_serve_drains_what_is_open_before_it_ends(tmp_path: Path) -> None:
    """G5 and M4, for one process: a long stream ends well, and only then the process."""
    (tmp_path / "patient.py").write_text(PATIENT_HANDLERS, encoding="utf-8")
    async with muxlink_serve("patient:until_draining", "127.0.0.1:0", cwd=tmp_path) as served, Link(served.url) as link:
        async with link.stream("GET", "/") as stream:
            assert (await stream.response()).status == 200
            served.process.send_signal(signal.SIGTERM)
            assert await stream.read() == b"goodbye"
        assert await served.ends() == 0


async def test_a_second_signal_hastens_the_end(tmp_path: Path) -> None:
    """M4, for one process: the drain would take 5 seconds."""
    (tmp_path / "patient.py").write_text(PATIENT_HANDLERS, encoding="utf-8")
    async with muxlink_serve("patient:for_ever", "127.0.0.1:0", cwd=tmp_path) as served, Link(served.url) as link:
        async with link.stream("GET", "/") as stream:
            assert (await stream.response()).status == 200
            began = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            # Two signals at once would be one. Once it listens no more, the first has been taken.
            await refuses(served.url)
            served.process.send_signal(signal.SIGTERM)
            with pytest.raises(LinkError):
                await stream.read()
        assert await served.ends() == 0
    assert time.monotonic() - began < 4


async def test_request_prints_the_body(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs) as peer:
        ran = await muxlink("request", f"{peer.url}/small")

    assert (ran.code, ran.out) == (0, b"hello, world"), ran


async def test_request_sends_method_data_and_headers(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs, "--echo-upload", "--verbose") as peer:
        ran = await muxlink(
            *("request", "-X", "PUT", "-d", "some data", "-H", "X-One: 1", "-H", "x-two: 2:3", f"{peer.url}/up?q=1")
        )
        log = await peer.logged("stream_id=1 closed")

    assert (ran.code, ran.out) == (0, b"some data"), ran
    for line in (":method: PUT", ":path: /up?q=1", "x-one: 1", "x-two: 2:3"):
        assert re.search(rf"recv \(stream_id=1\) {re.escape(line)}\n", log), log


async def test_request_includes_head_and_trailers_if_asked(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs, "--trailer=x-sum: abc") as peer:
        ran = await muxlink("request", "-i", f"{peer.url}/small")

    assert ran.code == 0, ran
    head, _, rest = ran.text.partition("\n\n")
    assert head.startswith("HTTP/2 200\n")
    assert "content-length: 12\n" in head
    assert rest == "hello, world\nx-sum: abc\n"


async def test_request_goes_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with Server(greet, path=str(path)):
        ran = await muxlink("request", "--unix-socket", str(path), "-d", "unix", "http://localhost/some/path")

    assert (ran.code, ran.out) == (0, b"hello, unix"), ran


async def test_request_with_data_alone_is_a_post(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs, "--echo-upload") as peer:
        ran = await muxlink("request", "-d", "posted", f"{peer.url}/")

    assert (ran.code, ran.out) == (0, b"posted"), ran


async def test_request_sends_a_file(nghttpd: Nghttpd, htdocs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(range(256)) * 1000)
    async with nghttpd(htdocs, "--echo-upload") as peer:
        ran = await muxlink("request", "-d", f"@{tmp_path / 'data'}", f"{peer.url}/")

    assert (ran.code, ran.out) == (0, bytes(range(256)) * 1000), ran.err


async def test_request_calls_our_own_server() -> None:
    async with Server(greet) as server:
        ran = await muxlink("request", "-d", "command", f"http://127.0.0.1:{server.port}/some/path")

    assert (ran.code, ran.out) == (0, b"hello, command"), ran


async def test_an_interrupted_request_ends_quietly() -> None:
    async with stranger(says_it="never") as peer:
        process = await asyncio.create_subprocess_exec(
            *muxlink_argv("request", peer.url), cwd=ROOT, env=environment(), stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(20):
            await peer.spoken_to.wait()
            process.send_signal(signal.SIGINT)
            said = await process.communicate()

    assert (process.returncode, said) == (130, (b"", b""))


async def test_any_status_is_a_reply_and_no_failure(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs) as peer:
        ran = await muxlink("request", f"{peer.url}/nowhere")

    assert ran.code == 0, ran
    assert "404" in ran.text
    assert ran.err == ""


async def test_a_response_that_breaks_off_never_looks_whole() -> None:
    """S1, on the command line: what came is printed, and the failure is told."""
    async with RawPeer.listen() as listener:
        running = asyncio.create_task(muxlink("request", f"http://127.0.0.1:{listener.port}/"))
        peer = await listener.accept(timeout=20)
        await peer.handshake()
        await peer.expect_headers(1)
        peer.send_headers(1, frames.response(200, ("content-length", "10")))
        peer.send(frames.data(1, b"half") + frames.rst(1, Code.INTERNAL_ERROR))
        ran = await running

    assert (ran.code, ran.out) == (1, b"half"), ran
    assert len(ran.err.splitlines()) == 1, ran
    assert "INTERNAL_ERROR" in ran.err


@pytest.mark.bulk
async def test_request_whose_reader_has_enough_ends_quietly(nghttpd: Nghttpd, big_file: Path) -> None:
    async with nghttpd(big_file.parent) as peer:
        command = shlex.join(muxlink_argv("request", f"{peer.url}/{big_file.name}"))
        ran = await run("sh", "-c", f"{command} | head -c 8")

    assert (ran.code, ran.out) == (0, bytes(8)), ran
    assert ran.err == ""


@pytest.mark.bulk
async def test_request_downloads_100_megabytes(nghttpd: Nghttpd, big_file: Path) -> None:
    async with nghttpd(big_file.parent) as peer:
        ran = await muxlink("request", f"{peer.url}/{big_file.name}", limit=60)

    assert (ran.code, ran.digest) == (0, big_digest()), ran.err


@pytest.mark.bulk
async def test_request_uploads_a_file_of_100_megabytes(big_file: Path) -> None:
    async with Server(big) as server:
        ran = await muxlink("request", "-d", f"@{big_file}", f"http://127.0.0.1:{server.port}/", limit=60)

    assert (ran.code, ran.text.strip()) == (0, f"{BIG} {big_digest()}"), ran


async def test_demo_kills_its_server_and_loses_none_of_2000_requests() -> None:
    ran = await muxlink("demo", limit=60)

    assert ran.code == 0, ran
    assert re.search(r"2,000 .*right", ran.text), ran
    assert "SIGKILL" in ran.text, ran
    assert ran.err == ""
    # Its progress line is for a terminal alone.
    assert "\r" not in ran.text


@pytest.mark.parametrize("command", ["serve", "request", "demo"])
async def test_help_shows_an_example(command: str) -> None:
    ran = await muxlink(command, "--help")

    assert ran.code == 0, ran
    assert f"muxlink {command}" in ran.text.partition("\n\n")[2], ran


async def test_the_working_directory_is_importable(curl: Tool, tmp_path: Path) -> None:
    (tmp_path / "local_handlers.py").write_text(
        "async def answer(stream):\n    await stream.respond(200, body=b'from here')\n", encoding="utf-8"
    )
    async with muxlink_serve("local_handlers:answer", "127.0.0.1:0", cwd=tmp_path) as served:
        assert (await curl(served.url)).text == "from here"
