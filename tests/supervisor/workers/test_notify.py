"""What systemd is told (M5), by real datagrams."""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.workers.notify import MAX_STATUS, Notifier

DATAGRAM_LIMIT = 4096
"""Bytes of the longest message that systemd heeds."""


class Systemd:
    """The socket that a service manager listens on, at a path or at an abstract address."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(10)
        self.environ = {"NOTIFY_SOCKET": address, "PATH": "/bin"}

    def heard(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(DATAGRAM_LIMIT + 1).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@muxlink-test-{os.getpid()}"
    found = Systemd(address)
    with found.socket:
        yield found


@pytest.fixture
def at_path(tmp_path: Path) -> Iterator[Systemd]:
    found = Systemd(str(tmp_path / "notify"))
    with found.socket:
        yield found


# --- telling ----------------------------------------------------------------------------------------------------------


def test_each_stage_of_a_life_reaches_the_notify_socket(systemd: Systemd) -> None:
    """M5."""
    notifier = Notifier.of(systemd.environ)
    notifier.ready("4 workers serve")
    assert systemd.heard() == ["READY=1", "STATUS=4 workers serve"]
    notifier.status("3 of 4 workers serve")
    assert systemd.heard() == ["STATUS=3 of 4 workers serve"]
    notifier.watchdog()
    assert systemd.heard() == ["WATCHDOG=1"]
    notifier.stopping()
    assert systemd.heard() == ["STOPPING=1"]


def test_a_reload_is_told_with_the_time_at_which_it_began(at_path: Systemd) -> None:
    """M5."""
    before = time.monotonic()
    Notifier.of(at_path.environ).reloading()
    what, when = at_path.heard()
    name, _, usec = when.partition("=")
    assert (what, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before - 1e-5 <= int(usec) / 1e6 <= time.monotonic()


@pytest.mark.parametrize("text", ["a\nREADY=1", "a\rb\x00c", "one\u2028two", "caf\u00e9 \udcff"])
def test_a_status_is_one_line_of_text_whatever_it_holds(at_path: Systemd, text: str) -> None:
    Notifier.of(at_path.environ).status(text)
    (line,) = at_path.heard()
    assert line.startswith("STATUS=")
    assert line.removeprefix("STATUS=").isprintable()
    assert len(line.removeprefix("STATUS=")) == len(text)


def test_a_long_status_does_not_cost_what_is_told_with_it(at_path: Systemd) -> None:
    Notifier.of(at_path.environ).ready("\u00e9" * DATAGRAM_LIMIT)
    ready, status = at_path.heard()
    assert ready == "READY=1"
    assert len(status.encode()) == len("STATUS=") + MAX_STATUS
    assert MAX_STATUS < DATAGRAM_LIMIT


def test_what_is_for_this_process_is_not_left_to_its_children(systemd: Systemd) -> None:
    systemd.environ |= {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    Notifier.of(systemd.environ)
    assert systemd.environ == {"PATH": "/bin"}


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9999"}])
def test_without_a_unix_socket_to_notify_nothing_happens(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    environ["WATCHDOG_USEC"] = "30000000"
    with caplog.at_level(logging.WARNING):
        notifier = Notifier.of(environ)
        notifier.ready("serving")
        notifier.status("serving")
        notifier.reloading()
        notifier.watchdog()
        notifier.stopping()
    assert (notifier.watchdog_interval, environ, caplog.messages) == (None, {}, [])


# --- the watchdog -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [{}, {"WATCHDOG_PID": str(os.getpid())}])
def test_the_watchdog_is_fed_twice_in_its_time(at_path: Systemd, mine: dict[str, str]) -> None:
    """M5."""
    notifier = Notifier.of({**at_path.environ, "WATCHDOG_USEC": "30000000", **mine})
    assert notifier.watchdog_interval == 15.0


@pytest.mark.parametrize(
    "theirs",
    [
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        *({"WATCHDOG_USEC": usec} for usec in ("", "0", "-5", "soon", "9" * 5000)),
    ],
)
def test_a_watchdog_of_another_process_or_of_no_time_is_none(at_path: Systemd, theirs: dict[str, str]) -> None:
    assert Notifier.of({**at_path.environ, **theirs}).watchdog_interval is None


# --- failing ----------------------------------------------------------------------------------------------------------


def test_a_socket_that_is_gone_is_logged_once_and_raises_nothing(
    at_path: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.of(dict(at_path.environ))
    path = Path(at_path.environ["NOTIFY_SOCKET"])
    path.unlink()
    notifier.ready("serving")
    notifier.watchdog()
    assert caplog.messages == ["systemd cannot be told READY=1: No such file or directory"]


def test_a_full_socket_is_not_waited_for_and_logged_once_until_there_is_room(
    at_path: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.of(at_path.environ)
    limit = 10_000

    def fill() -> int:
        """Tell as much as there is room for, and three times more."""
        before = len(caplog.messages)
        for count in range(limit):
            notifier.watchdog()
            if len(caplog.messages) > before:
                for _ in range(3):
                    notifier.watchdog()
                return count
        return limit

    assert 0 < fill() < limit
    assert caplog.messages == ["systemd cannot be told WATCHDOG=1: Resource temporarily unavailable"]
    assert at_path.heard() == ["WATCHDOG=1"]
    assert fill() < limit
    assert len(caplog.messages) == 2


def test_a_process_without_a_file_to_spare_still_says_that_it_lives(
    at_path: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.of(dict(at_path.environ))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = os.dup(0)
    os.close(next_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        notifier.watchdog()
        Notifier.of(dict(at_path.environ)).watchdog()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert at_path.heard() == ["WATCHDOG=1"]
    assert caplog.messages == ["systemd cannot be told anything: Too many open files"]
