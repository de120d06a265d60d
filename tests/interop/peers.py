"""Other people's programs: finding them, running them under a time limit, and ending them for certain.

Whatever a program writes goes to temporary files. So a body of 100 MB costs this process no memory, and a program
that had to be killed still leaves what it said until then.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, NoReturn

import pytest
from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
"""The project's own folder, so that commands find its packages and its examples."""

DEBIAN_PACKAGES = {
    "curl": "curl",
    "h2load": "nghttp2-client",
    "nghttpx": "nghttp2-proxy",
    "nginx": "nginx-light",
    "tinyproxy": "tinyproxy",
    "nghttp": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "node": "nodejs",
}


def missing(reason: str) -> NoReturn:
    """Skip the test for want of a peer; fail it where every peer was promised (``MUXLINK_REQUIRE_PEERS=1``)."""
    if os.environ.get("MUXLINK_REQUIRE_PEERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def executable(name: str) -> str:
    """The path of a peer's program; the test is over (see ``missing``) where it is not installed."""
    # Debian installs nghttpd in /usr/sbin, which is not on every user's path.
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if found is None:
        missing(f"{name} is not installed: it is in the Debian package {DEBIAN_PACKAGES[name]}")
    return found


def environment() -> dict[str, str]:
    """This process's environment, less what would send a request for the loopback interface to a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    # The command is found from any working directory, installed or not; handlers that crash leave nothing behind.
    return {**kept, "PYTHONPATH": str(ROOT), "MUXLINK_DOSSIERS": "off"}


@frozen
class Ran:
    """What a program that ended leaves behind."""

    argv: tuple[str, ...]
    code: int
    out: bytes
    err: str
    digest: str
    """The SHA-256 of all that it wrote to its standard output."""

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")

    def __str__(self) -> str:
        return f"{' '.join(self.argv)} ended with {self.code}\n{self.text[:4000]}\n{self.err[:4000]}"


def _contents(file: IO[bytes]) -> tuple[bytes, str]:
    """The first mebibyte of a file, and the digest of the whole."""
    file.seek(0)
    start = file.read(1 << 20)
    digest = hashlib.sha256(start)
    while block := file.read(1 << 20):
        digest.update(block)
    return start, digest.hexdigest()


async def run(*argv: str, limit: float = 30.0, cwd: Path = ROOT) -> Ran:
    """Run a program to its end; one that takes more than ``limit`` seconds is killed, and fails the test."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, env=environment()
        )
        in_time = await _ended(process, limit)
        body, digest = _contents(out)
        said, _ = _contents(err)
        ran = Ran(argv, process.returncode or 0, body, said.decode("utf-8", "replace"), digest)
    if not in_time:
        pytest.fail(f"killed after {limit} s: {ran}")
    return ran


async def _ended(process: asyncio.subprocess.Process, limit: float) -> bool:
    """Whether the process ended by itself in time; it has ended in any case, also when the caller is cancelled."""
    try:
        async with asyncio.timeout(limit):
            await process.wait()
    except TimeoutError:
        return False
    finally:
        await kill(process)
    return True


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process, if it has not ended, and wait until it has."""
    if process.returncode is None:
        process.kill()
        await process.wait()
    # The transport closes itself in the loop's next turn, not in the one that reports the exit.
    await asyncio.sleep(0)


@frozen
class Tool:
    """A command-line client: call it with its arguments."""

    path: str
    always: tuple[str, ...] = ()

    async def __call__(self, *arguments: str, limit: float = 30.0) -> Ran:
        return await run(self.path, *self.always, *arguments, limit=limit)


def find_curl() -> Tool:
    # -q: not the user's ~/.curlrc. -sS: no progress meter, but errors.
    return Tool(executable("curl"), ("-q", "-sS", "--noproxy", "*", "--http2-prior-knowledge"))


@frozen
class Nghttpd:
    """nghttp2's server: ``async with nghttpd(htdocs, *options) as peer``."""

    path: str

    @asynccontextmanager
    async def __call__(self, htdocs: Path, *options: str) -> AsyncIterator[RunningNghttpd]:
        with tempfile.TemporaryFile() as log:
            peer = await self._start(htdocs, options, log)
            try:
                yield peer
            finally:
                await kill(peer.process)

    async def _start(self, htdocs: Path, options: tuple[str, ...], log: IO[bytes]) -> RunningNghttpd:
        # It cannot say which port it got for port 0, so it is given a free one, and another if that was just taken.
        for _ in range(5):
            port = free_port()
            process = await asyncio.create_subprocess_exec(
                *(self.path, "--no-tls", "--address=127.0.0.1", f"--htdocs={htdocs}", *options, str(port)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=htdocs,
                env=environment(),
            )
            peer = RunningNghttpd(port, process, log)
            if await peer.accepts():
                return peer
            await kill(process)
        pytest.fail(f"nghttpd does not start: {peer.log()}")


@frozen(eq=False)
class RunningNghttpd:
    """One nghttpd that accepts connections."""

    port: int
    process: asyncio.subprocess.Process
    _log: IO[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def accepts(self, limit: float = 10.0) -> bool:
        """Wait until it takes a connection; False once it has ended instead."""
        deadline = time.monotonic() + limit
        while self.process.returncode is None and time.monotonic() < deadline:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return True
        return False

    def log(self) -> str:
        """What it has said until now; with ``--verbose``, every frame that came and went."""
        return os.pread(self._log.fileno(), 4 << 20, 0).decode("utf-8", "replace")

    async def logged(self, text: str, *, limit: float = 10.0) -> str:
        """Wait until its log has the text, and return the log."""
        deadline = time.monotonic() + limit
        while text not in (log := self.log()):
            if time.monotonic() > deadline:
                pytest.fail(f"nghttpd did not log {text!r} within {limit} s:\n{log}")
            await asyncio.sleep(0.01)
        return log


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def occupied_port() -> Iterator[int]:
    """A loopback port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


def unix_url(path: Path) -> str:
    """How a link is told of a Unix socket."""
    return f"unix:{path}"
