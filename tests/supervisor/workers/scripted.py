"""Workers that misbehave: a program in the place of the real child, without a package to import, so that it is quick.

It ``say``s what it likes and ``hear``s what it is told; ``give`` and ``connected`` are the parent's side.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from supervisor.workers.options import ServeOptions

M = TypeVar("M")

PATIENCE: Final = 30.0
"""Seconds after which a test gives up; nothing takes nearly as long."""
PRELUDE: Final = '''
import json, os, signal, socket, sys, time

end = socket.socket(fileno=int(sys.argv[-1]))

def message(name, **fields):
    text = json.dumps([name, fields]).encode()
    return len(text).to_bytes(4) + text

def say(name, **fields):
    end.sendall(message(name, **fields))

def hear():
    """The next message's name and fields, and the socket that came with it; ends the process at the end of all."""
    data, files, _, _ = socket.recv_fds(end, 4, 1)
    if not data:
        sys.exit(0)
    while len(data) < 4:
        data += end.recv(4 - len(data))
    length, text = int.from_bytes(data), b""
    while len(text) < length:
        text += end.recv(length - len(text))
    name, fields = json.loads(text)
    return name, fields, socket.socket(fileno=files[0]) if files else None

def ready():
    say("Ready", pid=os.getpid())

def serve(answer, forget=False):
    """Be a good worker, which answers each connection with these bytes and holds it until the end."""
    held = []
    ready()
    while True:
        name, fields, connection = hear()
        if name == "Take":
            say("Taken", number=fields["number"])
            connection.sendall(answer)
            held.append(connection)
            if forget:
                held.clear()
                say("Released", count=1)
        elif name in ("Retire", "Hasten"):
            say("Draining")
            say("Ended", reason="", asked_wrongly=False, cut=[], finished=len(held))
            sys.exit(0)

name = hear()[1]["name"]
'''


def options(**given: Any) -> ServeOptions:
    return ServeOptions(**{"handler": "app:handler", "drain_timeout": 0.1, **given})


def script(directory: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """From now on each worker is this program."""
    program = directory / "child"
    program.write_text(f"#!{sys.executable} -SE\n{PRELUDE}\n{source}", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where a file descriptor is left, or a process that nobody waited for."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the one that was accepted for it, which the test may give away."""
    client, accepted = socket.socketpair()
    client.setblocking(False)
    accepted.setblocking(False)
    with client, accepted:
        yield client, accepted


async def answer(client: socket.socket) -> bytes:
    """What the client gets next; empty at the end."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(client, 1000)


class Owner:
    """Keeps what an actor tells its owner."""

    def __init__(self) -> None:
        self.news: list[object] = []
        self._came = asyncio.Event()
        self._passed: dict[type, int] = {}

    def tell(self, message: object) -> bool:
        self.news.append(message)
        self._came.set()
        return True

    async def hears(self, kind: type[M]) -> M:
        """The next message of this kind."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for number in range(self._passed.get(kind, 0), len(self.news)):
                    self._passed[kind] = number + 1
                    if isinstance(message := self.news[number], kind):
                        return message
                self._came.clear()
                await self._came.wait()

    def heard(self, kind: type[M]) -> list[M]:
        """All of this kind, so far."""
        return [each for each in self.news if isinstance(each, kind)]
