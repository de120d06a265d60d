"""Connections: which of several addresses wins, what failing says, and that nothing is left behind."""

import asyncio
import os
import resource
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import pytest

from actors.addresses import Address, Endpoint
from actors.dialling import connect, race
from actors.errors import ConnectFailed, Misuse, TlsFailed
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact
from actors.settings import Limits, Tls
from actors.tls import TlsSide, client_side
from actors.trace import Tracer
from actors.transport import SocketProtocol
from tests.support.certificates import Authority
from tests.support.sides import until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def side(tls: Tls) -> TlsSide:
    return client_side(tls, Limits(), named=True)


def at(host: str, port: int, *, name: str | None = None) -> Address:
    """The address of a numeric host, found for itself or for a name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockaddr = (host, port, 0, 0) if ":" in host else (host, port)
    return Address(Endpoint(name if name is not None else host, port), family, sockaddr)


def unix(path: Path) -> Address:
    return Address(Endpoint(path=str(path)), socket.AF_UNIX, str(path))


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@contextmanager
def listening(host: str = "127.0.0.1", *, backlog: int = 100) -> Iterator[socket.socket]:
    """A socket whose clients are connected as long as there is room in its backlog; nobody accepts them."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen(backlog)
        yield listener


@contextmanager
def black_hole(host: str = "127.0.0.1", *, name: str | None = None) -> Iterator[Address]:
    """A place that answers nothing: the backlog is full, so that the system drops whoever comes."""
    fillers: list[socket.socket] = []
    with listening(host, backlog=0) as listener:
        try:
            while not fillers or select.select([], fillers[-1:], [], 0.1)[1]:
                fillers.append(socket.socket(listener.family))
                fillers[-1].setblocking(False)
                fillers[-1].connect_ex(listener.getsockname())
            yield at(host, port_of(listener), name=name)
        finally:
            for each in fillers:
                each.close()


@contextmanager
def closed_port(*, name: str | None = None) -> Iterator[Address]:
    """A place where nobody listens, and where nobody else will meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield at("127.0.0.1", port_of(bound), name=name)


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


# --- the race ---------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_black_hole_delays_the_next_address_by_a_quarter_of_a_second() -> None:
    """L10."""
    before = open_files()
    with black_hole() as hole, listening() as listener:
        good = at("127.0.0.1", port_of(listener))
        address, winner = await race([hole, good], timeout=10.0)
        assert asyncio.get_running_loop().time() == pytest.approx(0.25)
        assert address == good
        assert winner.getpeername() == listener.getsockname()
        assert winner.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        winner.close()
    assert open_files() == before


@pytest.mark.virtual_time
async def test_when_an_address_fails_the_next_is_begun_with_at_once() -> None:
    with closed_port() as bad, listening() as listener:
        good = at("127.0.0.1", port_of(listener))
        address, winner = await race([bad, bad, good], timeout=10.0)
        winner.close()
    assert address == good
    assert asyncio.get_running_loop().time() == 0.0


@pytest.mark.virtual_time
async def test_a_unix_socket_with_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """The system calls such a socket writable, as if it were connected."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(str(path))
        listener.listen(0)
        filler.connect(str(path))
        with black_hole() as rival:
            racing = asyncio.create_task(race([unix(path), rival], timeout=10.0))
            await asyncio.sleep(1.0)
            assert not racing.done()
            listener.accept()[0].close()
            address, winner = await racing
        assert address == unix(path), "who is late may still win"
        with winner, listener.accept()[0] as accepted:
            winner.send(b"hello")
            assert accepted.recv(5) == b"hello"


@pytest.mark.virtual_time
async def test_a_unix_socket_that_goes_while_it_is_waited_for_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(str(path))
        listener.listen(0)
        filler.connect(str(path))
        racing = asyncio.create_task(race([unix(path)], timeout=10.0))
        await asyncio.sleep(1.0)
        path.unlink()
        with pytest.raises(ConnectFailed, match=f"no connection to the Unix socket {path}: No such file"):
            await racing
        assert asyncio.get_running_loop().time() < 2.0


@pytest.mark.virtual_time
async def test_a_race_that_nobody_wins_in_time_says_who_did_not_answer() -> None:
    with black_hole(name="service.test") as hole, black_hole("127.0.0.2", name="service.test") as other:
        with pytest.raises(ConnectFailed) as caught:
            await race([hole], timeout=7)
        assert str(caught.value) == f"no connection to service.test:{hole.endpoint.port} within 7 s ({hole})"
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert asyncio.get_running_loop().time() == pytest.approx(7)
        with pytest.raises(ConnectFailed) as caught, closed_port() as bad:
            await race([bad, hole, other], timeout=0.1)
        assert f"within 0.1 s: {bad} (Connection refused), {hole} (no answer), {other} (not tried)" in str(caught.value)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_one_numeric_address_that_fails_is_named_once_with_its_remedy() -> None:
    with closed_port() as bad, pytest.raises(ConnectFailed) as caught:
        await race([bad], timeout=5.0)
    assert str(caught.value) == f"no connection to {bad}: Connection refused; is the server running?"
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_addresses_that_fail_alike_have_one_reason_and_its_remedy() -> None:
    with closed_port(name="service.test") as bad:
        other = Address(bad.endpoint, socket.AF_INET, ("127.0.0.2", bad.endpoint.port))
        with pytest.raises(ConnectFailed) as caught:
            await race([bad, other], timeout=5.0)
    assert str(caught.value) == (
        f"no connection to {bad.endpoint} ({bad}, {other}): Connection refused; is the server running?"
    )


async def test_addresses_that_fail_differently_each_have_their_reason(tmp_path: Path) -> None:
    """A link-local address without an interface is one that the system refuses by itself."""
    nowhere, nobody = at("fe80::1", 80), unix(tmp_path / "nobody")
    with closed_port() as bad, pytest.raises(ConnectFailed) as caught:
        await race([nowhere, nobody, bad], timeout=5.0)
    assert f"{nobody} (No such file or directory), {bad} (Connection refused)" in str(caught.value)
    assert f"{nowhere} (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


async def test_of_many_addresses_that_fail_a_few_are_named() -> None:
    with closed_port() as bad:
        many = [at(f"127.0.0.{n}", bad.endpoint.port) for n in range(1, 41)]
        with pytest.raises(ConnectFailed, match=r"127\.0\.0\.4:\d+ and 36 more") as caught:
            await race(many, timeout=5.0)
    assert "127.0.0.5:" not in str(caught.value)


async def test_a_path_that_is_too_long_is_a_failed_connection() -> None:
    with pytest.raises(ConnectFailed, match="path too long"):
        await race([unix(Path("/" + "x" * 200))], timeout=5.0)


async def test_a_race_without_addresses_is_misuse() -> None:
    with pytest.raises(Misuse, match="resolve the endpoint first"):
        await race([], timeout=5.0)


async def test_an_address_whose_family_the_system_does_not_have_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnlyIPv4(socket.socket):
        def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, type, proto, fileno)

    with listening() as listener:
        good = at("127.0.0.1", port_of(listener))
        monkeypatch.setattr(socket, "socket", OnlyIPv4)
        address, winner = await race([at("::1", 80), good], timeout=5.0)
        winner.close()
    assert address == good


async def test_a_process_without_room_for_files_gets_a_typed_error_with_the_remedy() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening() as listener:
        good = at("127.0.0.1", port_of(listener))
        with closing(socket.socket()) as probe:
            least_free = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (least_free, hard))
        try:
            with pytest.raises(ConnectFailed, match="Too many open files; raise the limit"):
                await race([good], timeout=5.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_connection_that_met_itself_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP connects a socket to itself where the system gives it the very port that it wants to reach."""

    class Unlucky(socket.socket):
        def connect_ex(self, address: tuple[str, int]) -> int:  # type: ignore[override]
            self.bind(address)
            return super().connect_ex(address)

    with closed_port() as bad:
        pass
    monkeypatch.setattr(socket, "socket", Unlucky)
    with pytest.raises(ConnectFailed, match="Connection refused; is the server running"):
        await race([bad], timeout=5.0)


# --- connections ------------------------------------------------------------------------------------------------------


class Polite(asyncio.Protocol):
    """Greets, and closes when the other side does."""

    def __init__(self, greeting: bytes = b"") -> None:
        self._greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._greeting)


@asynccontextmanager
async def serving(
    context: ssl.SSLContext | None = None, *, greeting: bytes = b"", name: str | None = None
) -> AsyncIterator[Address]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Polite(greeting), "127.0.0.1", 0, ssl=context)
    async with server:
        yield at("127.0.0.1", port_of(server.sockets[0]), name=name)


@contextmanager
def encrypted(context: ssl.SSLContext, *, greeting: bytes = b"", name: str | None = None) -> Iterator[Address]:
    """The same over TLS, one client at a time, in a thread: it minds neither failed handshakes nor a busy loop."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            client = listener.accept()[0]
            client.settimeout(20)
            with suppress(OSError), client, context.wrap_socket(client, server_side=True) as wrapped:
                wrapped.sendall(greeting)
                wrapped.recv(1)

    with listening() as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield at("127.0.0.1", port_of(listener), name=name)
        finally:
            ended.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


async def heard(protocol: SocketProtocol, count: int) -> bytes:
    """The first bytes that came."""
    told: list[ConnectionFact] = []

    def so_far() -> bytes:
        return b"".join(bytes(fact.data) for fact in told if isinstance(fact, BytesArrived))

    protocol.attach(Ref("test", told.append))
    await until(lambda: len(so_far()) >= count)
    return so_far()


async def gone(protocol: SocketProtocol) -> None:
    """End it, and give the other side time to notice."""
    protocol.transport.abort()
    await asyncio.sleep(0)


async def test_a_connection_is_the_winners_and_hears_what_comes_first() -> None:
    async with serving(greeting=b"hello") as good:
        with closed_port() as bad:
            address, protocol = await connect(Tracer(), [bad, good], timeout=5.0, tls=None)
        assert address == good
        assert protocol.peer.address == str(good)
        assert await heard(protocol, 5) == b"hello"
        await gone(protocol)


async def test_a_connection_over_tls_hears_what_comes_first(authority: Authority) -> None:
    with encrypted(authority.server_context("h2"), greeting=b"hello", name="localhost") as good:
        address, protocol = await connect(Tracer(), [good], timeout=5.0, tls=side(authority.client()))
        assert address == good
        assert (protocol.peer.address, protocol.peer.alpn) == (str(good), "h2")
        assert protocol.peer.certificate is not None
        assert await heard(protocol, 5) == b"hello"
        await gone(protocol)


async def test_a_connection_to_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with await asyncio.get_running_loop().create_unix_server(lambda: Polite(b"hello"), path):
        _, protocol = await connect(Tracer(), [unix(Path(path))], timeout=5.0, tls=None, user_timeout=5.0)
        assert protocol.peer.address == path
        assert await heard(protocol, 5) == b"hello"
        await gone(protocol)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the platform has no TCP_USER_TIMEOUT")
async def test_the_time_that_sent_bytes_may_stay_unacknowledged_is_set() -> None:
    for seconds, milliseconds in ((2.5, 2500), (0.0, 0)):
        async with serving() as good:
            _, protocol = await connect(Tracer(), [good], timeout=5.0, tls=None, user_timeout=seconds)
            connected = protocol.transport.get_extra_info("socket")
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
            await gone(protocol)


async def test_the_name_that_is_verified_is_the_hosts_or_the_one_that_was_given(authority: Authority) -> None:
    with encrypted(authority.server_context("h2"), name="other.test") as place:
        with pytest.raises(TlsFailed) as caught:
            await connect(Tracer(), [place], timeout=5.0, tls=side(authority.client()))
        assert str(caught.value) == (
            f"no TLS with {place.endpoint} ({place}): its certificate is for another host name than other.test"
        )
        named = Tls(cacert=authority.file, server_hostname="localhost")
        _, protocol = await connect(Tracer(), [place], timeout=5.0, tls=side(named))
        await gone(protocol)


async def test_where_a_handshake_fails_the_other_addresses_are_tried(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    before = open_files()
    with (
        encrypted(stranger.server_context("h2")) as wrong,
        encrypted(authority.server_context("http/1.1")) as old,
        encrypted(authority.server_context("h2")) as good,
        closed_port() as bad,
    ):
        async with serving(greeting=b"no TLS here") as plain:
            places = [wrong, old, plain, bad, good]
            address, protocol = await connect(Tracer(), places, timeout=10.0, tls=side(authority.client()))
        assert address == good
        await gone(protocol)
    await until(lambda: open_files() == before)


async def test_where_none_works_the_first_failure_of_tls_is_what_is_raised(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = side(authority.client())
    with (
        encrypted(stranger.server_context("h2")) as wrong,
        encrypted(authority.server_context("http/1.1")) as old,
        closed_port() as bad,
    ):
        with pytest.raises(TlsFailed, match=f"{wrong}: its certificate comes from an unknown authority") as caught:
            await connect(Tracer(), [wrong, old], timeout=10.0, tls=tls)
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        with pytest.raises(TlsFailed, match=f"{old} does not speak HTTP/2 over TLS"):
            await connect(Tracer(), [old, wrong], timeout=10.0, tls=tls)
        for places in ([wrong, bad], [bad, wrong]):
            with pytest.raises(TlsFailed, match="unknown authority"):
                await connect(Tracer(), places, timeout=10.0, tls=tls)


@pytest.mark.virtual_time
async def test_a_peer_that_never_shakes_hands_leaves_time_for_the_next(authority: Authority) -> None:
    loop = asyncio.get_running_loop()
    tls = side(authority.client())
    with listening() as silent:
        mute = at("127.0.0.1", port_of(silent))
        async with serving(authority.server_context("h2")) as good:
            address, protocol = await connect(Tracer(), [mute, good], timeout=8.0, tls=tls)
            assert address == good
            assert loop.time() == pytest.approx(4.0, abs=0.5)
            await gone(protocol)
        begun = loop.time()
        with pytest.raises(TlsFailed, match=f"{mute}: the handshake took too long"), closed_port() as bad:
            await connect(Tracer(), [bad, mute], timeout=8.0, tls=tls)
        assert loop.time() - begun == pytest.approx(8.0)


async def test_a_peer_that_hangs_up_instead_of_a_handshake_is_a_failure_of_tls(authority: Authority) -> None:
    class Rude(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    async with await asyncio.get_running_loop().create_server(Rude, "127.0.0.1", 0) as server:
        place = at("127.0.0.1", port_of(server.sockets[0]))
        with pytest.raises(TlsFailed, match=f"no TLS with {place}: it closed the connection during the handshake"):
            await connect(Tracer(), [place], timeout=5.0, tls=side(authority.client()))


async def test_a_handshake_that_cannot_even_begin_leaves_nothing_behind(authority: Authority) -> None:
    before = open_files()
    misnamed = TlsSide(authority.client_context("h2"), server_hostname=".test")
    with listening() as listener:
        place = at("127.0.0.1", port_of(listener))
        with pytest.raises(TlsFailed, match=f"no TLS with {place}: .*label"):
            await connect(Tracer(), [place], timeout=5.0, tls=misnamed)
    await until(lambda: open_files() == before)


async def test_a_handshake_that_asyncio_calls_done_without_a_connection_has_failed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", nothing)
    async with serving() as place:
        with pytest.raises(TlsFailed, match="closed the connection during the handshake"):
            await connect(Tracer(), [place], timeout=5.0, tls=side(authority.client()))


async def test_a_socket_that_the_loop_cannot_take_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # the user's limit of watched files

    with listening() as listener:
        place = at("127.0.0.1", port_of(listener))
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        before = open_files()
        with pytest.raises(ConnectFailed, match=f"no connection to {place}: No space left on device"):
            await connect(Tracer(), [place], timeout=5.0, tls=None)
        assert open_files() == before


async def test_no_connection_at_all_is_no_failure_of_tls(authority: Authority) -> None:
    with closed_port() as bad, pytest.raises(ConnectFailed, match="Connection refused"):
        await connect(Tracer(), [bad], timeout=5.0, tls=side(authority.client()))


async def cancelled_everywhere(dial: Callable[[], Awaitable[SocketProtocol]]) -> int:
    """Cancel a dial after each number of the loop's rounds, until it is quicker; how many those were."""
    before, tasks = open_files(), asyncio.all_tasks()
    for rounds in range(10_000):
        dialling = asyncio.ensure_future(dial())
        for _ in range(rounds):
            await asyncio.sleep(0)
        if done := dialling.done():
            (await dialling).transport.abort()
        else:
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
        assert asyncio.all_tasks() == tasks
        await until(lambda: open_files() == before)
        if done:
            return rounds
    raise AssertionError("it never came to an end")


async def test_a_dial_that_is_cancelled_anywhere_leaves_nothing_behind() -> None:
    with listening(backlog=1000) as listener, closed_port() as bad, black_hole() as hole:
        good = at("127.0.0.1", port_of(listener))

        async def dial() -> SocketProtocol:
            return (await connect(Tracer(), [bad, hole, good], timeout=10.0, tls=None, delay=0.0))[1]

        assert await cancelled_everywhere(dial) > 2


async def test_a_dial_that_is_cancelled_anywhere_in_a_handshake_leaves_nothing_behind(authority: Authority) -> None:
    tls = side(authority.client())
    with encrypted(authority.server_context("http/1.1")) as old, encrypted(authority.server_context("h2")) as good:

        async def dial() -> SocketProtocol:
            return (await connect(Tracer(), [old, good], timeout=10.0, tls=tls, delay=0.0))[1]

        assert await cancelled_everywhere(dial) > 6
