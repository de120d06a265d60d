"""Links and servers over TLS: real sockets, and an authority that was made up for the test."""

import asyncio
import logging
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from actors.errors import ConnectFailed, LinkError, Misuse, Outcome, TlsFailed, TransportLost
from actors.messages import Peer
from actors.server_stream import ServerStream
from actors.settings import Limits, Tls
from supervisor.link import Link
from supervisor.server import Server
from tests.support.certificates import Authority
from tests.support.sides import settle, until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=stream.scheme.encode() + b" " + await stream.read())


async def refused(url: str, tls: Tls | None = None, *, limits: Limits | None = None) -> LinkError:
    """What entering a link there raises, in one line."""
    link = Link(url, tls=tls, limits=limits)
    with pytest.raises(LinkError) as caught:
        await link.__aenter__()
    await link.close()
    assert "\n" not in str(caught.value)
    return caught.value


async def hears_the_end(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed or aborted the connection, without another word."""
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            assert await reader.read() == b""


def common_name(peer: Peer) -> object:
    assert peer.certificate is not None
    subject = peer.certificate["subject"]
    assert isinstance(subject, tuple)
    return dict(pair for group in subject for pair in group).get("commonName")


# --- what works -------------------------------------------------------------------------------------------------------


async def test_a_request_over_tls(authority: Authority) -> None:
    async with Server(answer, tls=authority.server()) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        async with Link(server.url, tls=authority.client()) as link:
            assert (await link.request("POST", "/", body=b"a" * 300_000)).body == b"https " + b"a" * 300_000


async def test_each_side_knows_the_other(authority: Authority) -> None:
    """The address, the protocol that TLS chose, and the certificate of whoever showed one."""
    peers: list[Peer] = []

    async def handler(stream: ServerStream) -> None:
        peers.append(stream.peer)
        await stream.respond(200)

    async with (
        Server(handler, tls=authority.server(client_ca=authority.file)) as server,
        Link(server.url, tls=authority.client("ann")) as link,
        link.stream("GET", "/") as stream,
    ):
        assert (await stream.response()).status == 200
        assert (stream.peer.address, stream.peer.alpn) == (f"127.0.0.1:{server.port}", "h2")
        assert stream.peer.certificate is not None
        assert ("DNS", "localhost") in stream.peer.certificate["subjectAltName"]  # type: ignore[operator]
    assert peers[0].address.startswith("127.0.0.1:")
    assert (peers[0].alpn, common_name(peers[0])) == ("h2", "ann")


async def test_a_client_that_shows_no_certificate_is_known_by_none(authority: Authority) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond(200, body=f"{stream.peer.alpn} {stream.peer.certificate}".encode())

    async with (
        Server(handler, tls=authority.server()) as server,
        Link(server.url, tls=Tls(verify=False)) as link,
        link.stream("GET", "/") as stream,
    ):
        assert await stream.read() == b"h2 None"
        assert stream.peer.certificate is None, "what was not verified is not told"


async def test_tls_over_a_unix_socket(authority: Authority, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with Server(answer, path=path, tls=authority.server("service.test")) as server:
        cacert = authority.file
        for tls in (Tls(cacert=cacert, server_hostname="service.test"), Tls(verify=False)):
            async with Link(server.url, tls=tls) as link:
                assert (await link.request("GET", "/")).body == b"https "
        error = await refused(server.url, Tls(cacert=cacert, server_hostname="other.test"))
        assert f"the Unix socket {path}: its certificate is for another host name than other.test" in str(error)
        with pytest.raises(Misuse, match="server_hostname"):
            Link(server.url, tls=Tls(cacert=cacert))


async def test_contexts_of_the_users_own(authority: Authority) -> None:
    ours = Tls(context=authority.server_context("h2", "http/1.1"))
    async with Server(answer, tls=ours) as server:
        async with Link(server.url, tls=Tls(context=authority.client_context("http/1.1", "h2"))) as link:
            assert (await link.request("GET", "/")).status == 200
        error = await refused(server.url, Tls(context=authority.client_context("http/1.1")))
        assert "it chose 'http/1.1' by ALPN" in str(error)


async def test_a_server_of_tls_1_2_is_linked_to_with_a_cipher_that_http2_allows(authority: Authority) -> None:
    context = authority.server_context("h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with (
        Server(answer, tls=Tls(context=context)) as server,
        Link(server.url, tls=authority.client()) as link,
    ):
        assert (await link.request("GET", "/")).status == 200


async def test_two_hundred_handshakes_at_a_time(authority: Authority) -> None:
    tls = authority.client()

    async def ask(number: int) -> bytes:
        async with Link(server.url, tls=tls, limits=Limits(connect_timeout=60, handshake_timeout=60)) as link:
            return (await link.request("POST", "/", body=b"%d" % number)).body

    async with Server(answer, tls=authority.server(), limits=Limits(handshake_timeout=60)) as server:
        said = await asyncio.gather(*[ask(number) for number in range(200)])
    assert said == [b"https %d" % number for number in range(200)]


async def test_the_key_log_is_written_by_either_side(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "keys"
    for side in ("server", "client"):
        with monkeypatch.context() as patched:
            if side == "server":
                patched.setenv("SSLKEYLOGFILE", str(log))
            server = Server(answer, tls=authority.server())
        async with server:
            with monkeypatch.context() as patched:
                if side == "client":
                    patched.setenv("SSLKEYLOGFILE", str(log))
                link = Link(server.url, tls=authority.client())
            async with link:
                assert (await link.request("GET", "/")).status == 200
        assert "CLIENT_TRAFFIC_SECRET_0" in log.read_text()
        log.unlink()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://h", "http://h:443"])
def test_tls_for_a_plaintext_url_is_misuse(url: str) -> None:
    with pytest.raises(Misuse, match="write https://h:"):
        Link(url, tls=Tls())


async def test_certificates_that_do_not_convince_a_client(authority: Authority, tmp_path: Path) -> None:
    """C5: an unknown authority, another name, and a time that is up."""
    other = Authority(tmp_path, "other")
    for tls, served, line in (
        (other.client(), authority.server(), "unknown authority: name the authority's file as cacert"),
        (Tls(), authority.server(), "unknown authority"),
        (authority.client(), authority.server("service.test"), "another IP address than 127.0.0.1"),
        (Tls(cacert=authority.file, server_hostname="x.test"), authority.server(), "another host name than x.test"),
        (authority.client(), authority.expired(), "its certificate has expired"),
    ):
        async with Server(answer, tls=served) as server:
            error = await refused(server.url, tls)
            assert isinstance(error, TlsFailed)
            assert f"127.0.0.1:{server.port}" in str(error)
        assert line in str(error)
        assert error.protocol is None  # it may well speak HTTP/2
        assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


async def test_a_certificate_that_does_not_convince_fails_entering_also_for_who_waits(authority: Authority) -> None:
    """To wait for another certificate would only hide the mistake."""
    async with Server(answer, tls=authority.server("service.test")) as server:
        link = Link(server.url, tls=authority.client(), wait_for_ready=True)
        async with asyncio.timeout(30):
            with pytest.raises(TlsFailed, match="another IP address"):
                await link.__aenter__()


async def test_clients_that_do_not_convince_a_server(authority: Authority, tmp_path: Path) -> None:
    """With TLS 1.3 the client's handshake is over when it is refused: entering fails all the same."""
    stranger = Authority(tmp_path, "stranger").issue("eve.test")
    eve = Tls(cacert=authority.file, certfile=stranger[0], keyfile=stranger[1])
    async with Server(answer, tls=authority.server(client_ca=authority.file)) as server:
        for tls in (authority.client(), eve):
            error = await refused(server.url, tls)
            assert isinstance(error, TlsFailed)
            assert "perhaps it demands a client certificate, or another one" in str(error)
        async with Link(server.url, tls=authority.client("ann")) as link:
            assert (await link.request("GET", "/")).status == 200


@contextmanager
def blocking_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server of the standard library's ssl, which says in an alert why it refuses; it takes one client."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            accepted.settimeout(10)
            with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as encrypted:
                with suppress(OSError):
                    encrypted.do_handshake()
                # To the client's end, so that no reset of the socket overtakes the alert.
                with suppress(OSError):
                    while socket.socket.recv(encrypted, 4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


async def test_a_server_that_says_that_it_demands_a_certificate_is_understood(authority: Authority) -> None:
    context = authority.server_context("h2")
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    with blocking_server(context) as port:
        error = await refused(f"https://127.0.0.1:{port}", authority.client())
    assert isinstance(error, TlsFailed)
    assert str(error) == f"no TLS with 127.0.0.1:{port}: it demands a client certificate: give certfile and keyfile"


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A server that only listens to what it is told."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await settle(100)


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_a_server_that_does_not_choose_h2_is_a_typed_error(authority: Authority, alpn: tuple[str, ...]) -> None:
    """W9."""
    with blocking_server(authority.server_context(*alpn)) as port:
        error = await refused(f"https://127.0.0.1:{port}", authority.client())
    assert isinstance(error, TlsFailed)
    assert f"127.0.0.1:{port} does not speak HTTP/2 over TLS: it chose no protocol by ALPN" in str(error)
    assert error.protocol == ""


async def test_a_server_that_chooses_another_protocol_is_asked_no_more_and_the_error_has_its_name(
    authority: Authority,
) -> None:
    """C4: where the caller's own context offers it, a face can go on with HTTP/1.1 without reading texts."""
    tls = Tls(context=authority.client_context("h2", "http/1.1"))
    with blocking_server(authority.server_context("http/1.1")) as port:
        error = await refused(f"https://127.0.0.1:{port}", tls)
    assert isinstance(error, TlsFailed)
    assert "it chose 'http/1.1' by ALPN where h2 is needed" in str(error)
    assert error.protocol == "http/1.1"
    assert error.with_outcome(Outcome.NOT_SENT).__dict__ == error.__dict__


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_a_client_that_does_not_choose_h2_is_shown_out(
    authority: Authority, alpn: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """W9: and harms nobody."""
    caplog.set_level(logging.INFO, "muxlink")
    async with Server(answer, tls=authority.server()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=authority.client_context(*alpn))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await hears_the_end(reader)
        writer.close()
        await until(lambda: "does not speak HTTP/2 over TLS" in caplog.text)
        assert (await server.state()).detail["accepted"] == 0
        async with Link(server.url, tls=authority.client()) as link:
            assert (await link.request("GET", "/")).status == 200


async def test_a_plaintext_client_of_a_tls_port_is_told_and_logged(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "muxlink")
    async with Server(answer, tls=authority.server()) as server:
        error = await refused(f"http://127.0.0.1:{server.port}")
        assert isinstance(error, TransportLost)
        assert f"127.0.0.1:{server.port}" in str(error)
        pattern = r"no TLS with 127.0.0.1:\d+: it does not speak TLS on this port: is it plaintext"
        await until(lambda: re.search(pattern, caplog.text) is not None)
    names = {each.name: each.levelname for each in caplog.records if each.name.startswith("muxlink")}
    names.pop("muxlink.link", None)
    assert set(names.values()) <= {"INFO", "DEBUG"}


async def test_a_tls_client_of_a_plaintext_port_is_told(authority: Authority) -> None:
    async with Server(answer) as server:
        error = await refused(f"https://127.0.0.1:{server.port}", authority.client())
    assert isinstance(error, TlsFailed)
    assert "does not speak TLS on this port: is it plaintext (http://)?" in str(error)
    assert error.protocol is None


async def test_nobody_listening_is_no_failure_of_tls(authority: Authority) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        error = await refused(f"https://127.0.0.1:{probe.getsockname()[1]}", authority.client())
    assert isinstance(error, ConnectFailed)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_client_that_never_shakes_hands_is_cut_in_time(authority: Authority) -> None:
    async with Server(answer, tls=authority.server(), limits=Limits(handshake_timeout=7)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await hears_the_end(reader)
        assert asyncio.get_running_loop().time() == pytest.approx(7, abs=0.5)
        writer.close()


@pytest.mark.virtual_time
@pytest.mark.parametrize("limits", [Limits(handshake_timeout=7), Limits(connect_timeout=7)])
async def test_a_server_that_never_shakes_hands_is_left_in_time(authority: Authority, limits: Limits) -> None:
    async with silent_server() as port:
        error = await refused(f"https://127.0.0.1:{port}", authority.client(), limits=limits)
    assert isinstance(error, TlsFailed)
    assert "the handshake took too long" in str(error)
    assert asyncio.get_running_loop().time() == pytest.approx(7, abs=0.5)


@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_a_cancelled_entering_leaves_nothing_at_any_stage(authority: Authority, turns: int) -> None:
    """R5: the test's own frame finds tasks and sockets that are left."""
    async with Server(answer, tls=authority.server()) as server:
        link = Link(server.url, tls=authority.client())
        entering = asyncio.create_task(link.__aenter__())
        await settle(turns)
        entering.cancel()
        await asyncio.wait((entering,))
        await link.close()


@pytest.mark.parametrize("turns", range(0, 30, 2))
async def test_a_server_that_is_left_gives_handshakes_up(authority: Authority, turns: int) -> None:
    server = Server(answer, tls=authority.server())
    await server.__aenter__()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    entering = asyncio.create_task(Link(server.url, tls=authority.client()).__aenter__())
    await settle(turns)
    async with asyncio.timeout(5):
        await server.close()
        await asyncio.wait((entering,))
        await hears_the_end(reader)
    writer.close()
    if entering.exception() is None:
        await entering.result().close()
