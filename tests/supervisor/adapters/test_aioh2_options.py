"""aioh2's four functions and their keyword arguments: what is taken, and the clear refusal of the rest."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from actors.errors import LinkError, ListenFailed, Misuse, TlsFailed
from actors.settings import Tls
from supervisor.adapters import aioh2
from supervisor.adapters.aioh2 import H2Protocol
from tests.interop.peers import occupied_port
from tests.supervisor.adapters.faces import GET, greet, linked, port_of
from tests.support.certificates import Authority


async def says_hello(client: H2Protocol) -> None:
    """Fail unless the server at the other end greets; and close."""
    async with client:
        stream_id = await client.start_request(GET)
        await client.send_data(stream_id, b"you", end_stream=True)
        assert await client.read_stream(stream_id, -1) == b"hello, you"


@pytest.mark.parametrize("host", [None, "", "127.0.0.1", "localhost"])
async def test_no_host_means_this_machine(host: str | None) -> None:
    async with await aioh2.start_server(greet, host) as server:
        assert server.sockets[0].getsockname()[0] in ("127.0.0.1", "::1")
        await says_hello(await aioh2.open_connection("127.0.0.1", port_of(server)))
    async with await aioh2.start_server(greet) as server:
        await says_hello(await aioh2.open_connection(host, port_of(server)))


async def test_several_hosts_and_families_and_asyncios_other_arguments_hold() -> None:
    async with await aioh2.start_server(
        greet, ["127.0.0.1", "127.0.0.2"], 0, family=socket.AF_INET, backlog=7, reuse_address=True, reuse_port=True,
        start_serving=True, loop=asyncio.get_running_loop(),
    ) as server:  # fmt: skip
        assert [each.getsockname()[0] for each in server.sockets] == ["127.0.0.1", "127.0.0.2"]
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert server.get_loop() is asyncio.get_running_loop()
        for each in server.sockets:
            await says_hello(await aioh2.open_connection(*each.getsockname(), family=socket.AF_INET))
        with pytest.raises(Misuse, match="no address of the family AF_INET6"):
            await aioh2.open_connection("127.0.0.1", port_of(server), family=socket.AF_INET6)


async def test_a_socket_that_is_bound_can_be_given() -> None:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    async with await aioh2.start_server(greet, sock=bound) as server:
        await says_hello(await aioh2.open_connection("127.0.0.1", port_of(server)))
    assert bound.fileno() < 0


async def test_a_unix_socket_serves_and_its_file_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "aioh2.sock"
    async with await aioh2.start_unix_server(greet, path, concurrency=2):
        await says_hello(await aioh2.open_unix_connection(str(path)))
        await says_hello(await aioh2.open_unix_connection(path))
        with pytest.raises(ListenFailed, match=r"aioh2\.sock"):
            await aioh2.start_unix_server(greet, path)
    assert not path.exists()
    with pytest.raises(LinkError):
        await aioh2.open_unix_connection(path)


async def test_tls_takes_contexts_and_verifies(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    async with await aioh2.start_server(greet, ssl=authority.server_context("h2")) as server:
        port = port_of(server)
        await says_hello(await aioh2.open_connection("localhost", port, ssl=authority.client_context("h2")))
        await says_hello(await aioh2.open_connection("localhost", port, ssl=Tls(cacert=authority.file)))
        await says_hello(
            await aioh2.open_connection(
                "127.0.0.1", port, ssl=authority.client_context("h2"), server_hostname="localhost",
                family=socket.AF_INET, ssl_handshake_timeout=5,
            )
        )  # fmt: skip
        for refused in (True, stranger.client_context("h2"), Tls()):
            with pytest.raises(TlsFailed, match="authority"):
                await aioh2.open_connection("localhost", port, ssl=refused)
        with pytest.raises(TlsFailed):
            await aioh2.open_connection(
                "127.0.0.1", port, ssl=authority.client_context("h2"), server_hostname="elsewhere.test"
            )
    async with await aioh2.start_server(greet, ssl=authority.server("localhost")) as server:
        client = await aioh2.open_connection(
            "localhost", port_of(server), ssl=authority.client_context("h2"), family=socket.AF_INET
        )
        stream_id = await client.start_request({**GET, ":scheme": "https"}, end_stream=True)
        assert await client.read_stream(stream_id, -1) == b"hello, "
        client.close_connection()
        await client.wait_closed()


async def test_a_context_without_h2_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with await aioh2.start_server(greet, ssl=authority.server_context("h2")) as server:
        with pytest.raises(TlsFailed, match=r"h2|protocol"):
            await aioh2.open_connection("localhost", port_of(server), ssl=authority.client_context())


class Counted(H2Protocol):
    """A protocol of a user's own."""

    made = 0

    def __init__(self, client_side: bool, **options: Any) -> None:
        super().__init__(client_side, **options)
        type(self).made += 1


async def test_a_class_of_ones_own_is_used_on_both_sides() -> None:
    kinds = []

    async def handle(proto: H2Protocol) -> None:
        kinds.append(type(proto))
        await greet(proto)

    async with await aioh2.start_server(handle, cls=Counted) as server:
        client = await aioh2.open_connection(port=port_of(server), cls=Counted)
        assert type(client) is Counted
        await says_hello(client)
    assert (kinds, Counted.made) == ([Counted], 2)


async def test_a_port_that_is_taken_is_named() -> None:
    with occupied_port() as port, pytest.raises(ListenFailed, match=f":{port}: .*another port"):
        await aioh2.start_server(greet, port=port)


async def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(ListenFailed, match="no-such-host"):
        await aioh2.start_server(greet, "no-such-host.invalid")


CONNECTING: dict[str, dict[str, Any]] = {
    "sock=": {"sock": 7},
    "local_addr=": {"local_addr": ("127.0.0.1", 0)},
    "limit=": {"limit": 2**16},
    "happy_eyeballs_delay=": {"happy_eyeballs_delay": 0.25},
    "colour=.*there is no such argument": {"colour": "red"},
    "server_hostname is for TLS": {"server_hostname": "a"},
    "ssl is an SSLContext": {"ssl": "yes"},
    "a context for the other side": {"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
    "concurrency is a number": {"concurrency": 0},
    "functional_timeout is a number": {"functional_timeout": -1},
    "a port is from 1": {"port": 0},
    "a host is a name": {"host": 7},
    "family is": {"family": 99},
    "loop is the loop": {"loop": "mine"},
    "cls is H2Protocol": {"cls": dict},
    "limits is a Limits": {"limits": 5},
    "health is a Health": {"health": 5},
}


@pytest.mark.parametrize("message", CONNECTING)
async def test_what_a_client_cannot_be_given_is_refused(message: str) -> None:
    with pytest.raises(Misuse, match=message):
        await aioh2.open_connection(**{"port": 1, **CONNECTING[message]})


SERVING: dict[str, dict[str, Any]] = {
    "a handler is a coroutine function": {"client_connected_cb": None},
    "start_serving=False": {"start_serving": False},
    "limit=": {"limit": 2**16},
    "backlog is a number": {"backlog": 0},
    "sock is a socket": {"sock": "socket"},
    "a socket listens already": {"sock": 7, "port": 80},
    "ssl is an SSLContext": {"ssl": True},
    "a port is from 0": {"port": "80"},
    "concurrency is a number": {"concurrency": True},
    "cls is H2Protocol": {"cls": H2Protocol.__init__},
    "family is": {"family": socket.AF_UNIX},
    "no colour=": {"colour": "red"},
    "health": {"health": 5},
}


@pytest.mark.parametrize("message", SERVING)
async def test_what_a_server_cannot_be_given_is_refused(message: str) -> None:
    with pytest.raises(Misuse, match=message):
        await aioh2.start_server(**{"client_connected_cb": greet, **SERVING[message]})


@pytest.mark.parametrize("path", [None, "", 7, b"bytes"])
async def test_a_path_that_is_none_is_refused(path: Any) -> None:
    for call in (aioh2.open_unix_connection(path), aioh2.start_unix_server(greet, path)):
        with pytest.raises(Misuse, match="a path is that of a Unix socket"):
            await call


@pytest.mark.parametrize("host", [5, b"127.0.0.1", [5], ["127.0.0.1", b"::1"], 1.5])
async def test_a_host_to_listen_on_that_is_none_is_refused(host: Any) -> None:
    with pytest.raises(Misuse, match="a host is a name or an address"):
        await aioh2.start_server(greet, host)


@pytest.mark.parametrize("settings", [None, 5, "3", [(3, 1)], {"a": 1}, {1: 0}, {None: 1}])
async def test_settings_that_are_none_are_refused(settings: Any) -> None:
    async with linked() as client:
        with pytest.raises(Misuse, match=r"^(settings are a mapping of|setting .* cannot change)"):
            client.update_settings(settings)
        assert client.max_concurrent_streams == 8
