"""The listening sockets that systemd passes (M5), as descriptors of real processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Misuse
from supervisor.workers.notify import inherited_sockets
from tests.interop.peers import environment, missing

CHILD = """
import json, os
from actors.errors import Misuse
from supervisor.workers.notify import inherited_sockets

if os.environ["LISTEN_PID"] == "mine":
    os.environ["LISTEN_PID"] = str(os.getpid())
told = {"sockets": [], "error": None}
found = []
try:
    found = inherited_sockets(os.environ, os.getpid())
except Misuse as error:
    told["error"] = str(error)
for each in found:
    told["sockets"].append([each.fileno(), each.family.name, each.getblocking(), each.get_inheritable()])
told["left"] = [name for name in os.environ if name.startswith("LISTEN_")]
print(json.dumps(told), flush=True)
for each in found:
    each.settimeout(10)
    with each, each.accept()[0] as connected:
        connected.sendall(b"from %d" % each.fileno())
"""


class Child:
    """A process that was given sockets as systemd gives them: from descriptor 3 on, and open in its own children."""

    def __init__(self, passed: Sequence[socket.socket], **variables: str) -> None:
        reading, writing = os.pipe()
        # Above all numbers that they shall have.
        copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 100) for each in passed]
        moves = [(os.POSIX_SPAWN_DUP2, each, 3 + place) for place, each in enumerate(copies)]
        try:
            self.pid = os.posix_spawn(
                sys.executable, [sys.executable, "-W", "error", "-X", "dev", "-c", CHILD],
                {**environment(), "LISTEN_PID": "mine", "LISTEN_FDS": str(len(passed)), **variables},
                file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1), *moves],
            )  # fmt: skip
        finally:
            for each in (writing, *copies):
                os.close(each)
        self.output = open(reading)  # noqa: SIM115

    def end(self) -> dict[str, Any]:
        """What it told, once it has ended."""
        with self.output:
            told: dict[str, Any] = json.load(self.output)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0
        return told


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """One for each kind of address."""
    with contextlib.ExitStack() as open_ones:
        found = [
            open_ones.enter_context(socket.create_server(("127.0.0.1", 0))),
            open_ones.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6)),
            open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)),
        ]
        found[-1].bind(str(tmp_path / "listening"))
        found[-1].listen()
        yield found


def hear_at(address: Any, family: int = socket.AF_UNIX) -> bytes:
    """What one who connects there is told."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(address)
        return client.recv(100)


def hear(listening: socket.socket) -> bytes:
    return hear_at(listening.getsockname(), listening.family)


def test_every_socket_that_systemd_passes_is_listened_on(listening: list[socket.socket]) -> None:
    """M5."""
    child = Child(listening, LISTEN_FDNAMES="tcp:tcp6:unix")
    assert [hear(each) for each in listening] == [b"from 3", b"from 4", b"from 5"]
    assert child.end() == {
        "sockets": [[3, "AF_INET", False, False], [4, "AF_INET6", False, False], [5, "AF_UNIX", False, False]],
        "error": None,
        "left": [],
    }


def test_sockets_from_systemd_itself_are_listened_on(tmp_path: Path) -> None:
    """M5."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        missing("systemd-socket-activate is not installed: it is in the Debian package systemd")
    addresses = [str(tmp_path / "one"), str(tmp_path / "two")]
    places = [f"--listen={each}" for each in addresses]
    command = [activate, *places, "--setenv=PYTHONPATH", sys.executable, "-W", "error", "-c", CHILD]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline() for _ in addresses]
            assert all(line.startswith("Listening on ") for line in said), said
            assert [hear_at(each) for each in addresses] == [b"from 3", b"from 4"]
            told = json.loads(process.communicate(timeout=20)[0])
        finally:
            process.kill()
    assert process.returncode == 0
    assert told == {
        "sockets": [[3, "AF_UNIX", False, False], [4, "AF_UNIX", False, False]],
        "error": None,
        "left": [],
    }


@pytest.mark.parametrize("variables", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}])
def test_sockets_for_another_process_are_none_of_ours(
    listening: list[socket.socket], variables: dict[str, str]
) -> None:
    told = Child(listening, **variables).end()
    assert told == {"sockets": [], "error": None, "left": []}


def test_without_the_variables_nothing_was_passed() -> None:
    assert inherited_sockets({}, os.getpid()) == []


def refused(*passed: socket.socket, **variables: str) -> str:
    """The one line with which a child refuses what it is passed."""
    told = Child(passed, **variables).end()
    assert (told["sockets"], told["left"]) == ([], [])
    error: str = told["error"]
    assert len(error.splitlines()) == 1
    return error


def test_a_datagram_socket_is_refused_by_its_number_and_name(listening: list[socket.socket]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        error = refused(listening[0], datagrams, LISTEN_FDNAMES="tcp:dns.socket")
    assert error == (
        "LISTEN_FDS passes descriptor 4 (dns.socket), which is no TCP or Unix stream socket: write ListenStream= for it"
    )


def test_a_connected_socket_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        error = refused(ours)
    assert error == "LISTEN_FDS passes descriptor 3, which does not listen: write Accept=no for it"


def test_a_descriptor_that_is_no_socket_or_not_open_is_refused(listening: list[socket.socket]) -> None:
    # More are announced than are passed.
    error = refused(*listening, LISTEN_FDS="4")
    assert error == "LISTEN_FDS passes descriptor 6, which is no socket: Bad file descriptor"


@pytest.mark.parametrize(
    ("name", "value"), [("LISTEN_FDS", "many"), ("LISTEN_FDS", "-1"), ("LISTEN_PID", "me"), ("LISTEN_FDS", "9" * 5000)]
)
def test_a_variable_that_is_no_number_is_refused_by_its_name(name: str, value: str) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", name: value}
    with pytest.raises(Misuse, match=f"^{name} is a number, not '{value[:10]}"):
        inherited_sockets(environ, os.getpid())
    assert environ == {}
