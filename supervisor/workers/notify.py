"""systemd: what a service tells it, and the listening sockets that it passes on.

The protocols are those of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). What they need stands in
variables, which are removed once they are read: they are for this process, and not for its children.
"""

from __future__ import annotations

import logging
import os
import socket as sockets
import time
import weakref
from collections.abc import MutableMapping
from typing import Final, Self

from actors.errors import Misuse

logger: Final = logging.getLogger("muxlink.systemd")

FIRST_PASSED: Final = 3
"""The lowest descriptor that is passed; the others follow without a gap."""
MAX_STATUS: Final = 1024
"""Bytes of a status; systemd ignores a message of more than 4,096, with all that it says."""
FAMILIES: Final = (sockets.AF_INET, sockets.AF_INET6, sockets.AF_UNIX)


class Notifier:
    """Tells systemd how the service is; without effect where nobody wants to know.

    Nothing here raises or waits: what cannot be told is logged, once until something can be told again.
    """

    def __init__(self, address: str | bytes | None = None, watchdog_interval: float | None = None) -> None:
        """``address`` is that of systemd's datagram socket; an abstract one begins with a NUL."""
        self._address = address
        self._watchdog_interval = watchdog_interval
        self._complained = False
        self._socket = None if address is None else _datagrams()
        if self._socket is not None:
            weakref.finalize(self, self._socket.close)

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Self:
        """The notifier that ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` ask for; it removes them."""
        address, usec, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        if not address.startswith(("/", "@")):
            if address:
                logger.info("NOTIFY_SOCKET is %s, which is no Unix socket: systemd is told nothing", address)
            return cls()
        interval = None
        if _is_number(usec) and int(usec) > 0 and pid in ("", str(os.getpid())):
            # Twice in the time after which it is given up, as sd_watchdog_enabled(3) recommends.
            interval = int(usec) / 1_000_000 / 2
        name = os.fsencode(address)
        return cls(b"\0" + name[1:] if address.startswith("@") else name, interval)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds from one :meth:`watchdog` to the next; None where none is wanted."""
        return self._watchdog_interval

    def ready(self, status: str) -> None:
        """It serves; or serves again, after :meth:`reloading`."""
        self._tell("READY=1", _status(status))

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows."""
        self._tell(_status(text))

    def stopping(self) -> None:
        """It has begun to stop."""
        self._tell("STOPPING=1")

    def reloading(self) -> None:
        """It has begun to reload; :meth:`ready` says when that is done."""
        # The time is the one that systemd compares with that of its own order to reload (Type=notify-reload).
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def watchdog(self) -> None:
        """It lives."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._complained:
                logger.warning("systemd cannot be told %s: %s", lines[0], error.strerror or error)
            self._complained = True
        else:
            self._complained = False


def inherited_sockets(environ: MutableMapping[str, str], pid: int) -> list[sockets.socket]:
    """The listening sockets that systemd passed to the process ``pid``, which is this one; removes the variables.

    They are non-blocking, and closed in programs that this one starts. Raises Misuse for what is passed and does not
    listen for connections.
    """
    count, owner, names = (environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    for name, value in (("LISTEN_FDS", count), ("LISTEN_PID", owner)):
        if value and not _is_number(value):
            raise Misuse(f"{name} is a number, not {value[:40]!r}: unset it where systemd does not pass sockets")
    if not count or not owner or int(owner) != pid:
        return []
    found: list[sockets.socket] = []
    try:
        for place, number in enumerate(range(FIRST_PASSED, FIRST_PASSED + int(count))):
            label = names.split(":")[place] if place <= names.count(":") else ""
            found.append(_listening(number, f"descriptor {number}" + f" ({label})" * bool(label)))
    except Misuse:
        for each in found:
            each.detach()  # they are not ours to close: whoever set the variables may have meant something else
        raise
    return found


def _datagrams() -> sockets.socket | None:
    # One for good: a process that has run out of files can still say that it lives.
    try:
        found = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
    except OSError as error:
        logger.warning("systemd cannot be told anything: %s", error.strerror)
        return None
    found.setblocking(False)
    return found


def _listening(number: int, shown: str) -> sockets.socket:
    """The socket behind a descriptor that was passed. Raises Misuse for what is none that listens for streams."""
    try:
        found = sockets.socket(fileno=number)
    except OSError as error:
        raise Misuse.because(f"LISTEN_FDS passes {shown}, which is no socket: {error.strerror}", error) from error
    if found.type != sockets.SOCK_STREAM or found.family not in FAMILIES:
        found.detach()
        raise Misuse(f"LISTEN_FDS passes {shown}, which is no TCP or Unix stream socket: write ListenStream= for it")
    if not found.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN):
        found.detach()
        raise Misuse(f"LISTEN_FDS passes {shown}, which does not listen: write Accept=no for it")
    found.setblocking(False)
    found.set_inheritable(False)
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _status(text: str) -> str:
    # A line break would begin another variable, and a NUL or broken UTF-8 has systemd ignore the whole message.
    line = "".join(character if character.isprintable() else " " for character in text)
    return "STATUS=" + line.encode()[:MAX_STATUS].decode(errors="ignore")
