"""A server's sockets send small pieces at once: Nagle's algorithm would keep a body 40 ms behind its head."""

import asyncio
import socket

import pytest

from actors.acceptor import listen
from actors.trace import Tracer
from actors.transport import SocketProtocol


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_connection_that_is_accepted_sends_small_pieces_at_once(proto: int, family: int) -> None:
    """However its listening socket was made: one that is given often does not say that it is TCP's."""
    listening = socket.socket(family, socket.SOCK_STREAM, proto)
    listening.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listening.listen()
    await _expect_no_delay([listening])


async def test_a_connection_to_a_socket_of_our_own_sends_small_pieces_at_once() -> None:
    await _expect_no_delay(None)


async def _expect_no_delay(given: list[socket.socket] | None) -> None:
    arrived: asyncio.Future[SocketProtocol] = asyncio.get_running_loop().create_future()
    acceptor = await listen(Tracer(), arrived.set_result, given=given)
    _, writer = await asyncio.open_connection(*acceptor.sockets[0].getsockname()[:2])
    served = (await arrived).transport
    assert served.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    served.abort()
    writer.close()
    acceptor.close()
    await acceptor.wait_closed()
