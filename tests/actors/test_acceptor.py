"""Accepting: who gets a place, who waits for one, and what the system refuses; over real sockets."""

import asyncio
import errno
import os
import resource
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.acceptor import ACCEPT_PAUSE, Acceptor
from actors.addresses import Endpoint
from actors.errors import TransportLost
from actors.server_stream import ServerStream
from actors.settings import Limits
from actors.trace import Tracer
from actors.transport import SocketProtocol
from supervisor.link import Link
from supervisor.server import Server
from tests.support.certificates import Authority
from tests.support.sides import dial, settle, until


async def answer(stream: ServerStream) -> None:
    await stream.respond(200)


async def children(server: Server) -> int:
    return len((await server.state()).children)


async def served(server: Server) -> int:
    async with Link(server.url) as link:
        return (await link.request("GET", "/")).status


@pytest.mark.parametrize("unix", [False, True])
async def test_those_beyond_the_limit_wait_in_the_backlog_and_are_served_in_the_end(unix: bool, tmp_path: Path) -> None:
    """L12: never more than 2 of 5 at a time."""
    here, most = 0, 0
    release = asyncio.Event()

    async def handler(stream: ServerStream) -> None:
        await release.wait()
        await stream.respond(200)

    async def ask() -> int:
        nonlocal here, most
        async with Link(server.url) as link:
            here += 1
            most = max(most, here)
            status = (await link.request("GET", "/")).status
            here -= 1  # before it is left: the next is let in when this one has ended
            return status

    path = str(tmp_path / "s") if unix else None
    async with Server(handler, path=path, limits=Limits(max_connections=2)) as server:
        asking = [asyncio.create_task(ask()) for _ in range(5)]
        await until(lambda: here == 2)
        await settle(200)
        assert (here, await children(server)) == (2, 2)
        release.set()
        assert await asyncio.gather(*asking) == [200] * 5
        assert most == 2
        assert (await server.state()).detail["accepted"] == 5


async def test_a_handshake_takes_a_place_until_its_time_is_up(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    limits = Limits(max_connections=1, handshake_timeout=0.2)
    async with Server(answer, tls=authority.server(), limits=limits) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        began = asyncio.get_running_loop().time()
        async with Link(server.url, tls=authority.client()) as link:
            assert (await link.request("GET", "/")).status == 200
        assert asyncio.get_running_loop().time() - began > 0.15
        writer.close()


async def test_places_of_clients_that_come_and_go_are_all_given_back(tmp_path: Path) -> None:
    """Clients that leave before, in and after the handshake, and one that does not speak HTTP/2."""
    authority = Authority(tmp_path)
    async with Server(answer, tls=authority.server(), limits=Limits(max_connections=3)) as server:
        for turn in range(40):
            leaving = asyncio.create_task(Link(server.url, tls=authority.client()).__aenter__())
            await settle(turn)
            leaving.cancel()
            await asyncio.wait((leaving,))
            if not leaving.cancelled():
                await leaving.result().close()
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n"[: turn % 19])
            writer.transport.abort()
        for _ in range(3):
            async with Link(server.url, tls=authority.client()) as link:
                assert (await link.request("GET", "/")).status == 200


async def test_a_surplus_connection_of_one_host_is_closed_at_once() -> None:
    async with Server(answer, limits=Limits(max_connections_per_peer=2)) as server:
        async with Link(server.url) as one, Link(server.url) as two:
            with pytest.raises(TransportLost):
                await served(server)
            for link in (one, two):
                assert (await link.request("GET", "/")).status == 200
        await until_ended(server)
        assert await served(server) == 200


async def until_ended(server: Server) -> None:
    async with asyncio.timeout(5):
        while await children(server):  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)


async def test_hosts_are_counted_each_and_a_unix_socket_has_none(tmp_path: Path) -> None:
    limits = Limits(max_connections_per_peer=1)
    async with Server(answer, "0.0.0.0", limits=limits) as server:  # noqa: S104  (to have two addresses here)
        _, other = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        async with Link(f"http://127.0.0.1:{server.port}") as link:
            assert (await link.request("GET", "/")).status == 200
        other.close()
    async with Server(answer, path=str(tmp_path / "s"), limits=limits) as server, Link(server.url):
        assert await served(server) == 200


class Poor(socket.socket):
    """A listening socket of a process that has no file left for a while."""

    errors: ClassVar[list[int]] = []
    tried = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.tried += 1
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return super().accept()


@pytest.mark.virtual_time
async def test_a_system_that_is_out_of_files_is_asked_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        Poor, "errors", [errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED]
    )
    listening = Poor()
    listening.setblocking(False)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    accepted: asyncio.Future[SocketProtocol] = asyncio.get_running_loop().create_future()
    acceptor = Acceptor([listening], accepted.set_result, limits=Limits(), tracer=Tracer())
    client = await dial(Endpoint(*listening.getsockname()))
    protocol = await accepted
    assert asyncio.get_running_loop().time() == pytest.approx(3 * ACCEPT_PAUSE, abs=0.1)
    assert [record.getMessage() for record in caplog.records if record.name == "muxlink.listener"] == [
        "cannot accept connections for now: Too many open files"
    ], "once, and not at each attempt"
    assert listening.tried < 10
    client.transport.abort()
    protocol.transport.abort()
    acceptor.close()
    await acceptor.wait_closed()
    await settle()


@pytest.mark.virtual_time
async def test_closing_while_the_system_is_out_of_files_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Poor, "errors", [errno.EMFILE])
    listening = Poor()
    listening.setblocking(False)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    acceptor = Acceptor([listening], lambda protocol: None, limits=Limits(), tracer=Tracer())
    client = await dial(Endpoint(*listening.getsockname()))
    await until(lambda: listening.tried == 1)
    assert acceptor.is_serving()
    acceptor.close()
    assert not acceptor.is_serving()
    await asyncio.sleep(2 * ACCEPT_PAUSE)
    client.transport.abort()
    await settle()
    assert listening.tried == 1


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stands in for the process's limits of open files: the last entry is what holds."""
    limits = [(256, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.append(new))
    return limits


async def test_a_server_may_open_as_many_files_as_the_system_allows(
    files: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    async with Server(answer, limits=Limits(max_connections=900)):
        assert files == [(256, 1000), (1000, 1000)]
    assert "open" not in caplog.text


@pytest.mark.usefixtures("files")
async def test_too_few_open_files_are_told_with_the_number_that_is_needed(caplog: pytest.LogCaptureFixture) -> None:
    async with Server(answer, limits=Limits(max_connections=950)) as server:
        assert await served(server) == 200
    assert "may open 1000 files, too few for max_connections=950: raise the limit (ulimit -n) to 1014" in caplog.text


async def test_a_system_that_does_not_let_the_limit_be_raised_is_no_error(
    files: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(kind: int, new: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    async with Server(answer) as server:
        assert await served(server) == 200
    assert files == [(256, 1000)]
    assert "may open 256 files, too few for max_connections=1024" in caplog.text
