"""A server with sockets of yours, and with connections that somebody else accepted; over real sockets."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from actors.errors import LinkError, Misuse
from actors.server_stream import ServerStream
from actors.settings import Limits, Tls
from supervisor.link import Link
from supervisor.server import Server
from tests.support.certificates import Authority
from tests.support.sides import settle, until


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=stream.peer.address.encode())


def listening(path: Path | None = None) -> socket.socket:
    if path is None:
        return socket.create_server(("127.0.0.1", 0))
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


class Passing:
    """Accepts for a server that listens to nothing, and counts what it frees."""

    def __init__(self, *, tls: Tls | None = None, limits: Limits | None = None, path: Path | None = None) -> None:
        self.freed = 0
        self.given = 0
        self.server = Server(answer, sockets=[], tls=tls, limits=limits, freed=self._free)
        self.front = listening(path)
        self.front.setblocking(False)
        port = self.front.getsockname()[1]
        self.url = f"unix:{path}" if path is not None else f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"

    def _free(self) -> None:
        self.freed += 1

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.front, self._pass)

    def _pass(self) -> None:
        self.given += 1
        self.server.adopt(self.front.accept()[0])

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.front)
        self.front.close()

    async def until_free(self) -> None:
        await until(lambda: self.freed == self.given)
        await settle()
        assert self.freed == self.given


@contextmanager
def passing(**options: Any) -> Iterator[Passing]:
    made = Passing(**options)
    made.start()
    try:
        yield made
    finally:
        made.stop()


# --- sockets that listen already --------------------------------------------------------------------------------------


async def test_it_serves_on_each_of_the_sockets_that_it_is_given_and_closes_them(tmp_path: Path) -> None:
    path = tmp_path / "s"
    given = [listening(), listening(path)]
    urls = [f"http://127.0.0.1:{given[0].getsockname()[1]}", f"unix:{path}"]
    server = Server(answer, sockets=given)
    assert (server.url, server.port) == (urls[0], given[0].getsockname()[1])
    async with server:
        for url in urls:
            async with Link(url) as link:
                assert (await link.request("GET", "/")).status == 200
        assert server.url == urls[0]
    assert [each.fileno() for each in given] == [-1, -1]
    assert path.exists(), "the file is whose who made it"


async def test_its_url_is_that_of_the_first_socket(tmp_path: Path) -> None:
    server = Server(answer, sockets=[listening(tmp_path / "s"), listening()])
    assert (server.url, server.port) == (f"unix:{tmp_path / 's'}", 0)
    await server.close()


async def test_a_server_that_listens_to_nothing_says_so() -> None:
    server = Server(answer, sockets=[])
    async with server:
        assert (server.port, server.url) == (0, "none: the server listens to nothing, its connections come by adopt()")
        with pytest.raises(Misuse, match="bad URL"):
            Link(server.url)
        assert server.stats().state == "serving"
    assert server.stats().state == "closed"


async def test_a_server_that_is_closed_before_it_is_entered_has_closed_what_it_was_given() -> None:
    given = listening()
    server = Server(answer, sockets=[given])
    await server.close()
    assert given.fileno() == -1
    with pytest.raises(Misuse, match="serves once"):
        await server.__aenter__()


@pytest.mark.parametrize("where", [{"host": "0.0.0.0"}, {"port": 8080}, {"path": "/tmp/s"}])  # noqa: S104, S108
def test_sockets_and_a_place_to_listen_at_are_misuse(where: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match="give it no host, port or path"):
        Server(answer, sockets=[], **where)


def test_a_socket_that_does_not_listen_is_misuse_and_stays_with_its_owner() -> None:
    with listening() as good, socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for bad, complaint in ((idle, "call its listen"), (datagrams, "a stream"), ("tcp", "give a socket.socket")):
            with pytest.raises(Misuse, match=complaint):
                Server(answer, sockets=[good, bad])  # type: ignore[list-item]
        assert good.fileno() >= 0
    with pytest.raises(Misuse, match="not closed"):
        Server(answer, sockets=[good])


# --- connections that somebody else accepted --------------------------------------------------------------------------


async def test_an_adopted_connection_is_served_and_its_place_is_free_when_it_ends() -> None:
    with passing() as front:
        async with front.server:
            for turn in range(3):
                async with Link(front.url) as link:
                    reply = await link.request("GET", "/")
                    assert (reply.status, reply.body[:10]) == (200, b"127.0.0.1:")
                    assert front.freed == turn
                await until(lambda count=turn + 1: front.freed == count)  # type: ignore[misc]
            await settle()
            assert (front.given, front.freed) == (3, 3)


async def test_an_adopted_connection_is_encrypted_where_the_server_has_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with passing(tls=authority.server()) as front:
        async with front.server, Link(front.url, tls=authority.client()) as link:
            assert (await link.request("GET", "/")).status == 200
        await front.until_free()


async def test_a_client_of_a_unix_socket_is_adopted_and_counts_for_no_host(tmp_path: Path) -> None:
    with passing(path=tmp_path / "s", limits=Limits(max_connections_per_peer=1)) as front:
        async with front.server, Link(front.url) as one, Link(front.url) as two:
            for link in (one, two):
                assert (await link.request("GET", "/")).status == 200
        await front.until_free()


async def test_a_handshake_that_fails_frees_its_place(tmp_path: Path) -> None:
    """One speaks no TLS, one does not know the authority, one never says a word, one leaves in between."""
    authority = Authority(tmp_path)
    limits = Limits(handshake_timeout=0.2)
    with passing(tls=authority.server(), limits=limits) as front:
        async with front.server:
            port = front.front.getsockname()[1]
            for said in (b"GET / HTTP/1.1\r\n\r\n", b""):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(said)
                with suppress(ConnectionResetError):
                    await reader.read()
                writer.transport.abort()
            await front.until_free()
            assert front.freed == 2
            with pytest.raises(LinkError):
                async with Link(front.url, tls=Tls()):
                    pytest.fail("connected")
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.transport.abort()
            await front.until_free()
            async with Link(front.url, tls=authority.client()) as link:
                assert (await link.request("GET", "/")).status == 200
        await front.until_free()


@pytest.mark.parametrize("limits", [Limits(max_connections=1), Limits(max_connections_per_peer=1)])
async def test_beyond_a_limit_it_is_refused_though_nobody_asked_for_refusing(limits: Limits) -> None:
    with passing(limits=limits) as front:
        async with front.server, Link(front.url) as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", front.front.getsockname()[1])
            assert await reader.read() == b""
            writer.close()
            await until(lambda: front.freed == 1)
            assert (await link.request("GET", "/")).status == 200
            assert (front.given, front.freed) == (2, 1)
            assert sum(front.server.stats().refusals.values()) == 1
        await front.until_free()


async def test_adopting_after_closing_closes_the_socket() -> None:
    with passing() as front:
        async with front.server:
            pass
        ours, theirs = socket.socketpair()
        front.server.adopt(theirs)
        with ours:
            assert (ours.recv(1), theirs.fileno()) == (b"", -1)
        await settle()
        assert front.freed == 1


async def test_adopting_while_it_drains_closes_the_socket() -> None:
    with passing() as front:
        async with front.server, Link(front.url) as link:
            await link.request("GET", "/")
            closing = asyncio.create_task(front.server.close())
            await asyncio.sleep(0)
            ours, theirs = socket.socketpair()
            front.server.adopt(theirs)
            with ours:
                assert (ours.recv(1), theirs.fileno()) == (b"", -1)
            await closing
        front.given += 1
        await front.until_free()


async def test_a_connection_that_was_reset_before_it_was_adopted_is_no_error() -> None:
    with passing() as front:
        client = socket.create_connection(front.front.getsockname())
        accepted, _ = front.front.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        async with front.server:
            with pytest.raises(OSError, match="not connected"):
                accepted.getpeername()
            front.server.adopt(accepted)
            assert accepted.fileno() == -1
            front.given += 1
            await front.until_free()


async def test_what_is_no_connection_is_misuse_and_stays_with_its_owner(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with listening() as front, socket.socket() as idle, socket.socket(socket.AF_UNIX) as unix, ours, theirs:
        datagrams, other = socket.socketpair(type=socket.SOCK_DGRAM)
        encrypted = ssl.create_default_context().wrap_socket(ours, server_hostname="x", do_handshake_on_connect=False)
        async with Server(answer, sockets=[]) as server:
            with datagrams, other, encrypted:
                for bad in (front, idle, unix, datagrams, encrypted, 7, None):
                    with pytest.raises(Misuse, match="a socket to adopt is connected"):
                        server.adopt(bad)  # type: ignore[arg-type]
                    assert not isinstance(bad, socket.socket) or bad.fileno() >= 0
            with pytest.raises(Misuse, match="not closed"):
                server.adopt(other)
            assert (await server.state()).detail["accepted"] == 0


async def test_a_server_that_has_not_begun_adopts_nothing() -> None:
    server = Server(answer, sockets=[])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(Misuse, match="has not begun"):
            server.adopt(theirs)
        assert theirs.fileno() >= 0


async def test_one_that_listens_adopts_as_well_and_frees_are_counted_for_both() -> None:
    frees: list[int] = []
    with listening() as front:
        async with Server(answer, limits=Limits(max_connections=1), freed=lambda: frees.append(1)) as server:
            async with Link(server.url) as link:
                assert (await link.request("GET", "/")).status == 200
                assert frees == []
            await until(lambda: len(frees) == 1)
            client = socket.create_connection(front.getsockname())
            server.adopt(front.accept()[0])
            waiting = asyncio.create_task(Link(server.url).__aenter__())
            await settle(50)
            client.close()  # whose place the one that waits in the backlog gets
            await until(lambda: len(frees) == 2)
            link = await waiting
            assert (await link.request("GET", "/")).status == 200
            await link.close()
        await settle()
        assert len(frees) == 3


async def test_a_hook_that_raises_is_told_to_the_loop_and_harms_no_connection() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(repr(context["exception"])))

    def fail() -> None:
        raise RuntimeError("a fault of the hook")

    async with Server(answer, freed=fail) as server, Link(server.url) as link:
        async with Link(server.url) as other:
            assert (await other.request("GET", "/")).status == 200
        await until(lambda: bool(told))
        assert (await link.request("GET", "/")).status == 200
    await settle()
    assert told == ["RuntimeError('a fault of the hook')"] * 2


async def test_adopting_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with passing() as front:
        async with front.server:
            for _ in range(20):
                async with Link(front.url) as link:
                    await link.request("GET", "/")
        await front.until_free()
    assert len(os.listdir("/proc/self/fd")) == before
