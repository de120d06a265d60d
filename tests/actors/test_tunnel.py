"""Tunnels through an HTTP proxy: what is asked, what each answer means, and that nothing is left behind."""

import asyncio
import base64
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.addresses import Address, Endpoint
from actors.errors import ConnectFailed, Misuse, TlsFailed
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact
from actors.tls import TlsSide
from actors.trace import Tracer
from actors.transport import SocketProtocol
from actors.tunnel import MOST_HEAD, Proxy, beyond, connect_through
from tests.actors.test_dialling import cancelled_everywhere, closed_port, encrypted, gone, listening, port_of, side
from tests.support.certificates import Authority
from tests.support.proxies import answering, elsewhere, proxying
from tests.support.sides import until

SERVICE = beyond(Endpoint("service.test", 8443))
OTHER = beyond(Endpoint("other.test", 8443))
OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def at_port(port: int, credentials: str | None = None) -> Proxy:
    return Proxy(Endpoint("127.0.0.1", port), credentials.encode() if credentials is not None else None)


async def through(
    proxy: Proxy, *places: Address, timeout: float = 5.0, tls: TlsSide | None = None
) -> tuple[Address, SocketProtocol]:
    return await connect_through(proxy, Tracer(), places or (SERVICE,), timeout=timeout, tls=tls)


async def refused(port: int, *, timeout: float = 5.0) -> ConnectFailed:
    """What there is instead of a tunnel through whatever listens there, in one line that begins with who and where."""
    with pytest.raises(ConnectFailed) as caught:
        await through(at_port(port), timeout=timeout)
    line = str(caught.value)
    begins = f"no connection to service.test:8443 through the proxy 127.0.0.1:{port}: "
    assert line.startswith(begins)
    assert line.isprintable()
    return caught.value


def words(error: ConnectFailed) -> str:
    return str(error).split(": ", 1)[1]


async def hears(protocol: SocketProtocol, data: bytes) -> None:
    """Wait until that has come through the tunnel, and no more."""
    facts: list[ConnectionFact] = []
    protocol.attach(Ref("test", facts.append))
    await until(lambda: b"".join(each.data for each in facts if isinstance(each, BytesArrived)) == data)


# --- what works -------------------------------------------------------------------------------------------------------


async def test_the_proxy_is_asked_for_the_service_by_name_and_its_answers_end_is_the_tunnels_beginning() -> None:
    """C6: what the service says at once is not lost, wherever the proxy's answer ends."""
    for says in (OK, b"HTTP/1.0 299 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200\n\n"):
        for early in (b"", b"\r\n\r\n", b"early" * 10_000):
            async with answering(says + early) as port:
                address, protocol = await through(at_port(port))
                await hears(protocol, early)
                await gone(protocol)
            assert address == SERVICE


async def test_interim_answers_are_passed_over() -> None:
    """RFC 9110, 15.2: also an answer that comes in pieces."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with answering(interim + OK) as port:
        _, protocol = await through(at_port(port))
        await gone(protocol)
    async with answering(interim + b"HTTP/1.1 403 No\r\n\r\n") as port:
        assert (await refused(port)).status == 403


@pytest.mark.virtual_time
async def test_an_answer_that_comes_byte_by_byte_is_waited_for_as_long_as_there_is_time() -> None:
    async with answering(OK, by_bytes=True) as port:
        _, protocol = await through(at_port(port), timeout=60.0)
        await gone(protocol)
        now = asyncio.get_running_loop().time()
        failed = await refused(port, timeout=10.0)
        assert words(failed) == "it did not answer within 10 s"
        assert asyncio.get_running_loop().time() - now == pytest.approx(10.0, abs=0.1)


async def test_what_is_asked_names_the_service_twice_and_the_credentials_once() -> None:
    secret = base64.b64encode("ann:pässword:1".encode()).decode()
    async with answering(b"hello") as port, proxying({"service.test:8443": port}, credentials=secret) as proxy:
        _, protocol = await through(at_port(proxy.port, "ann:pässword:1"))
        await gone(protocol)
    assert proxy.heads == [
        f"CONNECT service.test:8443 HTTP/1.1\r\nHost: service.test:8443\r\nProxy-Authorization: Basic {secret}\r\n\r\n"
    ]


def test_an_address_of_ipv6_and_a_name_in_other_letters_are_asked_for_as_http_writes_them() -> None:
    proxy = at_port(1)
    assert proxy.asks_for(Endpoint("::1", 443)).splitlines()[0] == b"CONNECT [::1]:443 HTTP/1.1"
    assert proxy.asks_for(Endpoint("bücher.test", 443)).splitlines()[:2] == [
        b"CONNECT xn--bcher-kva.test:443 HTTP/1.1",
        b"Host: xn--bcher-kva.test:443",
    ]
    with pytest.raises(Misuse, match="is no host name that a proxy can be asked for"):
        proxy.asks_for(Endpoint("ü" * 70, 443))


async def test_tls_is_with_the_service_and_not_with_the_proxy(authority: Authority) -> None:
    place = beyond(Endpoint("localhost", 8443))
    with encrypted(authority.server_context("h2")) as good:
        async with proxying({"localhost:8443": good.endpoint.port}) as proxy:
            _, protocol = await through(at_port(proxy.port), place, tls=side(authority.client()))
            assert protocol.peer.address == f"localhost:8443 through the proxy 127.0.0.1:{proxy.port}"
            assert protocol.peer.alpn == "h2"
            await gone(protocol)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "line"),
    [
        (
            b"407 Geheim\x1b[2J\r\nProxy-Authenticate: Basic",
            407,
            "407 Proxy Authentication Required; give it the right ",
        ),
        (b"403 Filtered", 403, "403 Forbidden; does it allow that host and port?"),
        (b"502 x", 502, "502 Bad Gateway; does it reach the service?"),
        (b"302 Found\r\nLocation: http://elsewhere.test", 302, "302 Found"),
        (b"101 Switching Protocols", 101, "101 Switching Protocols"),
        (b"999 ", 999, "999"),
    ],
)
async def test_a_refusal_is_named_by_its_status_and_not_in_the_proxys_own_words(
    answer: bytes, status: int, line: str
) -> None:
    """C6."""
    async with answering(b"HTTP/1.1 " + answer + b"\r\n\r\n<html>Geheim</html>") as port:
        failed = await refused(port)
    assert failed.status == status
    assert words(failed).startswith(f"it answered {line}")
    assert "Geheim" not in str(failed)


@pytest.mark.parametrize(
    ("says", "line"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it answered what is no HTTP/1.1"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "it answered what is no HTTP/1.1"),
        (bytes(9), "it answered what is no HTTP/1.1"),
        (b"HTTP/2 200 OK\r\n\r\n", "it answered what is no HTTP/1.1"),
        (b"HTTP/1.1 100 Continue\r\n\r\nnonsense", "it answered what is no HTTP/1.1"),
        (b"HTTP/1.1 OK\r\n\r\n", "it answered without a status"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "it answered without a status"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "it answered without a status"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * MOST_HEAD, "its answer has a head of more than 16384 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * MOST_HEAD, "its answer has a head of more than 16384 bytes"),
    ],
)
async def test_nonsense_ends_the_attempt_at_once(says: bytes, line: str) -> None:
    """Also a head, or a row of heads, that never ends."""
    async with answering(says) as port:
        failed = await refused(port)
    assert words(failed).startswith(line)
    assert failed.status is None


async def test_a_proxy_that_hangs_up_is_told_from_one_that_hangs_up_half_way() -> None:
    async with answering(b"", hangs_up=True) as port:
        assert words(await refused(port)) == "it closed the connection"
    async with answering(b"HTTP/1.1 200 OK\r\n", hangs_up=True) as port:
        assert words(await refused(port)) == "it closed the connection in the middle of its answer"


async def test_a_proxy_that_resets_the_connection_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        failing = asyncio.ensure_future(refused(port_of(listener)))
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        with accepted:
            await asyncio.get_running_loop().sock_recv(accepted, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        assert words(await failing) == "Connection reset by peer"


@pytest.mark.virtual_time
async def test_a_proxy_that_never_answers_is_left_in_time() -> None:
    with listening() as listener:
        failed = await refused(port_of(listener), timeout=7.0)
    assert words(failed) == "it did not answer within 7 s"
    assert asyncio.get_running_loop().time() == pytest.approx(7.0, abs=0.1)


async def test_a_proxy_that_is_not_there_is_named_with_the_remedy() -> None:
    with closed_port() as nowhere:
        failed = await refused(nowhere.endpoint.port)
    assert words(failed) == f"no connection to {nowhere}: Connection refused; is the server running?"
    assert isinstance(failed.__cause__, ConnectionRefusedError)


async def test_a_failure_of_tls_behind_a_proxy_names_the_service(authority: Authority, tmp_path: Path) -> None:
    """C5: the proxy cannot stand in for the service."""
    stranger = Authority(tmp_path, "stranger")
    place = beyond(Endpoint("localhost", 8443))
    with encrypted(stranger.server_context("h2")) as wrong, encrypted(authority.server_context("http/1.1")) as old:
        for target, begins, protocol in (
            (wrong, "no TLS with localhost:8443 through the proxy 127.0.0.1:", None),
            (old, "localhost:8443 through the proxy 127.0.0.1:", ""),
        ):
            async with proxying({"localhost:8443": target.endpoint.port}) as proxy:
                with pytest.raises(TlsFailed) as caught:
                    await through(at_port(proxy.port), place, tls=side(authority.client()))
            assert str(caught.value).startswith(begins)
            assert caught.value.protocol == protocol


async def test_nowhere_to_go_is_misuse() -> None:
    with pytest.raises(Misuse, match="no place to connect to"):
        await connect_through(at_port(1), Tracer(), (), timeout=1.0, tls=None)


def test_neither_a_proxy_nor_its_name_shows_the_credentials() -> None:
    proxy = at_port(8080, "ann:geheim")
    assert "geheim" not in f"{proxy} {proxy!r}"
    assert "ann" not in f"{proxy} {proxy!r}"


# --- several places ---------------------------------------------------------------------------------------------------


async def test_where_the_proxy_refuses_one_place_the_next_is_asked_for() -> None:
    async with answering(b"") as port, proxying({"other.test:8443": port}) as proxy:
        address, protocol = await through(at_port(proxy.port), SERVICE, OTHER)
        await gone(protocol)
        assert address == OTHER
        assert proxy.asked == ["service.test:8443", "other.test:8443"]


async def test_where_it_refuses_all_of_them_the_first_refusal_is_what_is_raised() -> None:
    async with proxying({"other.test:8443": 1}) as proxy:
        with pytest.raises(ConnectFailed, match=r"service\.test:8443 .* 502 Bad Gateway") as caught:
            await through(at_port(proxy.port), SERVICE, OTHER)
        assert proxy.asked == ["service.test:8443", "other.test:8443"]
    assert caught.value.status == 502


@pytest.mark.virtual_time
async def test_a_place_that_the_proxy_does_not_reach_leaves_time_for_the_next() -> None:
    with listening() as silent:
        now = asyncio.get_running_loop().time()
        with pytest.raises(ConnectFailed, match=r"service\.test:8443 .* it did not answer within 4 s"):
            await through(at_port(port_of(silent)), SERVICE, OTHER, timeout=8.0)
        assert asyncio.get_running_loop().time() - now == pytest.approx(8.0, abs=0.1)


# --- nothing is left behind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [(SERVICE,), (OTHER, SERVICE)], ids=len)
async def test_a_tunnel_that_is_cancelled_anywhere_leaves_nothing_behind(places: Sequence[Address]) -> None:
    """R5."""
    with elsewhere(lambda: answering(b"")) as port, elsewhere(lambda: proxying({"service.test:8443": port})) as proxy:

        async def dial() -> SocketProtocol:
            return (await through(at_port(proxy.port), *places))[1]

        assert await cancelled_everywhere(dial) > 3


async def test_a_tunnel_that_is_cancelled_anywhere_in_its_handshake_leaves_nothing_behind(authority: Authority) -> None:
    place = beyond(Endpoint("localhost", 8443))
    with (
        encrypted(authority.server_context("h2")) as good,
        elsewhere(lambda: proxying({"localhost:8443": good.endpoint.port})) as proxy,
    ):

        async def dial() -> SocketProtocol:
            return (await through(at_port(proxy.port), place, tls=side(authority.client())))[1]

        assert await cancelled_everywhere(dial) > 6


async def test_a_request_that_the_socket_does_not_take_at_once_is_written_on() -> None:
    """Credentials may be long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        tunnel = asyncio.ensure_future(through(at_port(port_of(listener), "ann:" + "x" * 8_000_000)))
        accepted, _ = await loop.sock_accept(listener)
        with accepted:
            heard = bytearray()
            while not heard.endswith(b"\r\n\r\n"):
                heard += await loop.sock_recv(accepted, 1 << 20)
            await loop.sock_sendall(accepted, OK)
            _, protocol = await tunnel
            await gone(protocol)
    assert len(heard) > 8_000_000
