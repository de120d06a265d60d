"""Sockets as messages, and the errors of listening: over real sockets."""

import asyncio
import socket
from pathlib import Path

import pytest

from actors.acceptor import listen
from actors.addresses import Endpoint
from actors.errors import ListenFailed
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact, ConnectionLost
from actors.trace import Tracer
from actors.transport import SocketProtocol
from tests.support.sides import dial, until


async def lost(told: list[ConnectionFact]) -> None:
    await until(lambda: bool(told) and isinstance(told[-1], ConnectionLost))


@pytest.mark.parametrize("unix", [False, True])
async def test_what_a_socket_says_before_its_connection_is_there_is_kept_in_order(unix: bool, tmp_path: Path) -> None:
    accepted: asyncio.Queue[SocketProtocol] = asyncio.Queue()
    path = str(tmp_path / "s") if unix else None
    server = await listen(Tracer(), accepted.put_nowait, path=path)
    client = await dial(Endpoint(path=path) if unix else Endpoint(*server.sockets[0].getsockname()))
    theirs = await accepted.get()
    client.transport.write(b"early")
    client.transport.close()
    gone: list[ConnectionFact] = []
    client.attach(Ref("client", gone.append))
    await lost(gone)
    told: list[ConnectionFact] = []
    await until(theirs.transport.is_closing)
    await asyncio.sleep(0)
    theirs.attach(Ref("server", told.append))
    await lost(told)
    assert told == [BytesArrived(b"early"), ConnectionLost(None)]
    server.close()


async def test_both_ends_know_the_address_of_the_other() -> None:
    accepted: asyncio.Queue[SocketProtocol] = asyncio.Queue()
    server = await listen(Tracer(), accepted.put_nowait)
    port = server.sockets[0].getsockname()[1]
    client = await dial(Endpoint("localhost", port))
    theirs = await accepted.get()
    assert client.peer.address == f"127.0.0.1:{port}"
    ours = client.transport.get_extra_info("sockname")
    assert theirs.peer.address == f"127.0.0.1:{ours[1]}"
    client.transport.abort()
    theirs.transport.abort()
    server.close()
    await asyncio.sleep(0)


async def test_a_port_in_use_names_the_remedy() -> None:
    server = await listen(Tracer(), lambda protocol: None)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ListenFailed, match=f":{port}: Address already in use; stop what uses it"):
        await listen(Tracer(), lambda protocol: None, port=port)
    server.close()


async def test_a_place_that_cannot_be_listened_on_is_one_typed_error(tmp_path: Path) -> None:
    for host in ("no-such-host.invalid", "192.0.2.1", "a..b"):
        with pytest.raises(ListenFailed):
            await listen(Tracer(), lambda protocol: None, host=host)
    for path in (str(tmp_path / "no" / "folder"), "/" + "x" * 200, "with\0nul", str(tmp_path)):
        with pytest.raises(ListenFailed):
            await listen(Tracer(), lambda protocol: None, path=path)
    with pytest.raises(ListenFailed):
        await listen(Tracer(), lambda protocol: None, host="with\0nul")


async def test_a_stale_socket_file_is_replaced_and_a_living_one_or_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = await listen(Tracer(), lambda protocol: None, path=str(path))
    with pytest.raises(ListenFailed, match="a server is listening there"):
        await listen(Tracer(), lambda protocol: None, path=str(path))
    server.close()
    await server.wait_closed()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ListenFailed, match="is no socket"):
        await listen(Tracer(), lambda protocol: None, path=str(file))
    assert file.read_text() == "precious"
