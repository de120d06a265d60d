"""``muxlink serve`` as a process with workers below it, and what the kernel says that each of them uses."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.benchmarks.harness import ROOT, Failed

_HANDLER: Final = "tests.benchmarks.served:handle"
_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 30
_TICKS: Final = os.sysconf("SC_CLK_TCK")
# It can be asked what it has imported; `signal` it would import anyway.
_MUXLINK: Final = """
import signal, sys
signal.signal(signal.SIGALRM, lambda *_: print(*sys.modules, flush=True))
from supervisor.cli import main
sys.exit(main())
"""


@frozen
class Parent:
    """A server that listens, and whose workers all serve."""

    process: subprocess.Popen[str]
    port: int
    ready: float
    """Seconds from its exec to its READY, which is when the first worker serves."""
    complete: float
    """The same until all serve."""

    def workers(self) -> list[int]:
        """The processes below it that have not ended."""
        # The kernel may leave one out while others end, and never says one twice.
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            return [pid for pid in map(int, children.read().split()) if _stat(pid)[0] not in "ZX"]

    def serving(self) -> list[int]:
        """The processes that serve: its workers, or itself."""
        return self.workers() or [self.process.pid]

    def modules(self) -> set[str]:
        """What the parent has imported."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGALRM)
        return set(self.process.stdout.readline().split())


@contextmanager
def parent(workers: int) -> Iterator[Parent]:
    """A server with so many workers, or by itself with none, from the moment at which all serve."""
    with tempfile.TemporaryDirectory() as folder, _notified(Path(folder)) as told:
        control = [f"--control={folder}/control"] if workers else []
        asked = ["serve", _HANDLER, "--bind=127.0.0.1:0", f"--workers={workers}", *control]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", _MUXLINK, *asked],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            said = _until(told, re.compile(r"READY=1"), process)
            ready = time.monotonic() - began
            whole = re.compile(rf"{workers} of {workers} workers serve|STATUS=serving")
            if not whole.search(said):
                _until(told, whole, process)
            complete = time.monotonic() - began
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            # What else it says is taken, so that it never finds the socket full.
            threading.Thread(target=_take, args=(told,), daemon=True).start()
            yield Parent(process, port, ready, complete)
            _stop(process)
        finally:
            # Its workers end where it does.
            process.kill()
            process.communicate()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        code = process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"the server did not stop within {_STOP_SECONDS} s") from None
    if code:
        raise Failed(f"the server ended with {code}")


@contextmanager
def _notified(folder: Path) -> Iterator[socket.socket]:
    """What systemd would be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(folder / "notify"))
        try:
            yield told
        finally:
            told.shutdown(socket.SHUT_RDWR)  # which ends whoever waits for more


def _take(told: socket.socket) -> None:
    while told.recv(4096):
        pass


def _until(told: socket.socket, wanted: re.Pattern[str], process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        readable, _, _ = select.select([told], [], [], 1)
        if readable and wanted.search(said := told.recv(4096).decode()):
            return said
    raise Failed(f"the server ended, or did not serve within {_READY_SECONDS} s")


def cpu(pids: Sequence[int]) -> float:
    """Seconds of the processor that these processes have used, in their own code and in the kernel."""
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:13]) / _TICKS


def memory(pids: Sequence[int]) -> int:
    """Bytes, where a page that several processes share counts in parts; nothing for those that have ended."""
    return sum(map(_memory, pids))


def _memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as smaps:
            return next((int(line.split()[1]) * 1024 for line in smaps if line.startswith("Pss:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat from the third one, which is the state; of one that is gone only that."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["X"]
