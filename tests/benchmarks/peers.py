"""The peers that both variants meet: nghttpd and h2load, as Debian builds them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.benchmarks import certificates, jobs
from tests.benchmarks.harness import READY_SECONDS, Failed, output, running

_PACKAGES = {"nghttpd": "nghttp2-server", "h2load": "nghttp2-client"}
# 2**20 bytes, for a stream and for the connection.
_ONE_MIB = ("-w20", "-W20")


def _executable(name: str) -> str:
    # Debian has nghttpd in /usr/sbin, which is not on every user's path.
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if found is None:
        raise Failed(f"{name} is not installed: it is in the Debian package {_PACKAGES[name]}")
    return found


@contextmanager
def files() -> Iterator[Path]:
    """A folder with the two bodies, by the names of their paths."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / jobs.HELLO_PATH[1:]).write_bytes(jobs.HELLO)
        with (folder / jobs.BULK_PATH[1:]).open("wb") as file:
            file.writelines(jobs.chunks())
        yield folder


@contextmanager
def nghttpd(tls: Path | None = None) -> Iterator[int]:
    """nghttpd over the two bodies, with the certificate in ``tls``; yields its port."""
    with files() as folder:
        port = _free_port()
        secrets = ["--no-tls"] if tls is None else [str(tls / certificates.KEY), str(tls / certificates.CERTIFICATE)]
        command = (_executable("nghttpd"), "--address=127.0.0.1", f"--htdocs={folder}", *_ONE_MIB)
        with running([*command, str(port), *secrets]) as process:
            # It prints nothing when it is ready.
            deadline = time.monotonic() + READY_SECONDS
            while not _accepts(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"nghttpd does not listen on port {port}")
                time.sleep(0.02)
            yield port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@frozen
class Load:
    """What h2load measured, of requests that all succeeded."""

    requests_per_second: float
    seconds: float


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def h2load(
    port: int, path: str, requests: int, *, at_a_time: int, body: int, connections: int = 1,
    upload: Path | None = None, scheme: str = "http",
) -> Load:  # fmt: skip
    """Send requests, so many at a time on each connection; raises Failed unless all got a 2xx and ``body`` bytes."""
    options = ["-n", str(requests), "-c", str(connections), "-m", str(at_a_time), *_ONE_MIB]
    if upload is not None:
        options += ["-d", str(upload)]
    said = output([_executable("h2load"), *options, f"{scheme}://127.0.0.1:{port}{path}"])
    good = (
        rf"requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored",
        rf"status codes: {requests} 2xx",
        rf"\({requests * body}\) data",
    )
    timing = re.search(r"finished in ([\d.]+)(s|ms|us), ([\d.]+) req/s", said)
    if timing is None or not all(re.search(line, said) for line in good):
        raise Failed(f"h2load did not get {requests} good replies of {body} bytes:\n{said}")
    return Load(requests_per_second=float(timing[3]), seconds=float(timing[1]) * _SECONDS[timing[2]])


@frozen
class Account:
    """What became of the requests of one run of h2load, by its own count."""

    succeeded: int
    failed: int
    """With a status of an error, and those that it did not get to send."""
    errored: int
    """Of them those whose connection was refused or lost."""
    timeout: int


def visit(port: int, path: str, *, connections: int, each: int) -> list[str]:
    """The command of a short run, in which each connection sends all its requests at once, and ends with them.

    So there is none left to be sent where a GOAWAY comes: h2load counts those as failed, and does not connect again.
    """
    counts = ["-n", str(connections * each), "-c", str(connections), "-m", str(each)]
    return [_executable("h2load"), *counts, f"http://127.0.0.1:{port}{path}"]


def account(said: str) -> Account:
    """What a run came to; raises Failed where it did not come to its end."""
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    if found is None:
        raise Failed(f"h2load did not come to its end:\n{said}")
    return Account(*map(int, found.groups()))
