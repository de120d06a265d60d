"""The door of a parent: who comes is told while it is open, and waits in the backlog while it is shut."""

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.acceptor import ACCEPT_PAUSE, ACCEPTS_PER_TURN
from supervisor.workers.door import Door
from tests.support.sides import settle, until


class Hall:
    """A door, and those who came through it."""

    def __init__(self, *listening: socket.socket, open_at: str | None = None) -> None:
        self.came: list[tuple[socket.socket, str]] = []
        self.someone = asyncio.Event()
        self.then: Callable[[], object] = lambda: None
        """What is done when one has come."""
        self.clients: list[socket.socket] = []
        self.addresses = [each.getsockname() for each in listening]
        self.door = Door(list(listening), self._arrived, open_at=open_at)

    def _arrived(self, accepted: socket.socket, address: str) -> None:
        self.came.append((accepted, address))
        self.someone.set()
        self.then()

    def knock(self, times: int = 1, *, at: int = 0) -> None:
        """Connect so many clients to one of its sockets."""
        for _ in range(times):
            family = socket.AF_UNIX if isinstance(self.addresses[at], str) else socket.AF_INET
            client = socket.socket(family)
            self.clients.append(client)
            client.connect(self.addresses[at])

    async def have(self, count: int) -> None:
        await until(lambda: len(self.came) >= count)
        await settle()
        assert len(self.came) == count


@contextmanager
def hall(*listening: socket.socket, open_at: str | None = None) -> Iterator[Hall]:
    given = listening or (socket.create_server(("127.0.0.1", 0), backlog=512),)
    made = Hall(*given, open_at=open_at)
    try:
        yield made
    finally:
        made.door.close()
        for each in [*made.clients, *(accepted for accepted, _ in made.came)]:
            each.close()
        assert [each.fileno() for each in given] == [-1] * len(given)


async def test_it_is_shut_at_first_and_who_came_meanwhile_is_let_in_when_it_opens() -> None:
    with hall() as each:
        each.knock(3)
        await settle()
        assert (each.came, each.door.open) == ([], False)
        each.door.let_in(True)
        assert each.door.open
        await each.have(3)
        each.knock()
        await each.have(4)


async def test_shutting_it_lets_them_wait_again() -> None:
    with hall() as each:
        each.door.let_in(True)
        each.knock()
        await each.have(1)
        for _ in range(3):
            each.door.let_in(False)
            assert not each.door.open
            count = len(each.came)
            each.knock(2)
            await settle()
            assert len(each.came) == count
            each.door.let_in(True)
            await each.have(count + 2)


async def test_shut_by_whom_one_was_told_it_takes_none_more_in_that_turn() -> None:
    with hall() as each:
        each.then = lambda: each.door.let_in(len(each.came) != 5)
        each.knock(20)
        each.door.let_in(True)
        await each.have(5)
        each.door.let_in(True)
        await each.have(20)


async def test_who_comes_has_an_address_and_a_socket_that_neither_blocks_nor_is_inherited(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path)
    unix.listen()
    with hall(socket.create_server(("127.0.0.1", 0)), unix, open_at=path) as each:
        each.door.let_in(True)
        each.knock()
        each.knock(at=1)
        await each.have(2)
        addresses = {address for _, address in each.came}
        assert addresses == {f"127.0.0.1:{each.clients[0].getsockname()[1]}", "a client of the Unix socket"}
        for accepted, _ in each.came:
            assert accepted.getblocking() is False
            assert accepted.get_inheritable() is False
        assert os.listdir(tmp_path) == ["s"]
        each.door.close()
        assert os.listdir(tmp_path) == []


async def test_many_at_once_leave_the_loop_to_others_in_between() -> None:
    by_turn = [0]

    def turn() -> None:
        by_turn.append(len(each.came))
        if len(each.came) < 200:
            asyncio.get_running_loop().call_soon(turn)

    with hall() as each:
        each.knock(200)
        each.door.let_in(True)
        turn()
        await each.have(200)
        assert max(later - earlier for earlier, later in itertools.pairwise(by_turn)) == ACCEPTS_PER_TURN


async def test_closing_resets_those_who_wait_and_opens_no_more() -> None:
    with hall() as each:
        each.knock()
        each.door.close()
        with pytest.raises(ConnectionResetError):
            each.clients[0].recv(1)
        with pytest.raises(ConnectionRefusedError):
            each.knock()
        each.door.let_in(True)
        assert not each.door.open
        each.door.close()
        await settle()
        assert each.came == []


async def test_closed_by_whom_one_was_told_it_takes_none_more() -> None:
    with hall() as each:
        each.then = each.door.close
        each.knock(3)
        each.door.let_in(True)
        await each.have(1)


async def test_a_path_that_somebody_removed_is_no_error_and_a_second_close_leaves_a_new_one_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    for removed in (True, False):
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(path))
        unix.listen()
        with hall(unix, open_at=str(path)) as each:
            if removed:
                path.unlink()
            each.door.close()
            path.touch()
        assert path.exists()
        path.unlink()


class Poor(socket.socket):
    """A listening socket of a process that has no file left for a while."""

    errors: ClassVar[list[int]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return super().accept()


@pytest.mark.virtual_time
@pytest.mark.parametrize("shut", [False, True])
async def test_a_system_that_is_out_of_files_is_asked_again_later_if_the_door_is_open_then(
    shut: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Poor, "errors", [errno.EMFILE, errno.ENFILE])
    listening = Poor()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    loop = asyncio.get_running_loop()
    with hall(listening) as each:
        each.door.let_in(True)
        each.knock()
        await until(lambda: len(Poor.errors) == 1)
        each.door.let_in(not shut)
        await settle()
        assert len(Poor.errors) == 1, "opening it is no reason to ask earlier"
        if shut:
            await asyncio.sleep(5 * ACCEPT_PAUSE)
            assert (len(Poor.errors), each.came) == (1, [])
            each.door.let_in(True)
        began = loop.time()
        await asyncio.wait_for(each.someone.wait(), 60)
        assert loop.time() - began == pytest.approx((1 if shut else 2) * ACCEPT_PAUSE, abs=0.1)
    assert [record.getMessage() for record in caplog.records if record.name == "muxlink.listener"] == [
        "cannot accept connections for now: Too many open files"
    ], "once, and not at each attempt"
