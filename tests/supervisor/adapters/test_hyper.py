"""HTTPConnection: HTTP/2 where the server speaks it, HTTP/1.1 where it does not, and hyper's names."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.errors import Closed, ConnectFailed, LinkError, Misuse, ProtocolViolation, TlsFailed
from actors.server_stream import ServerStream
from supervisor.adapters import hyper
from supervisor.adapters.hyper import (
    HTTP11Connection,
    HTTP11Response,
    HTTP20Connection,
    HTTP20Push,
    HTTP20Response,
    HTTPConnection,
    HTTPHeaderMap,
    HTTPSConnection,
    exceptions,
    init_context,
)
from tests.supervisor.adapters.http11_servers import (
    LONG,
    Stdlib,
    head,
    leaves_after,
    says,
    scripted,
    stdlib_server,
)
from tests.supervisor.adapters.served import InThread, answers, in_thread
from tests.support.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return init_context(authority.file)


@pytest.fixture(scope="module")
def old(authority: Authority) -> Iterator[Stdlib]:
    """A server over TLS that knows HTTP/1.1 alone."""
    with stdlib_server(authority.server_context("http/1.1")) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Stdlib]:
    with stdlib_server() as server:
        yield server


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Iterator[InThread]:
    """A server over TLS that knows HTTP/2 alone."""
    with in_thread(answers, tls=authority.server()) as server:
        yield server


@pytest.fixture(params=["old", "ours"])
def connection(request: pytest.FixtureRequest, context: ssl.SSLContext) -> Iterator[HTTPConnection]:
    """To a server of HTTP/1.1 and to one of HTTP/2; the user does not notice which."""
    port = request.getfixturevalue(request.param).port
    with HTTPConnection("localhost", port, ssl_context=context) as made:
        yield made


def fetch(connection: HTTPConnection, path: str = "/") -> bytes:
    number = connection.request("GET", path)
    return connection.get_response(number).read()


# --- which HTTP -------------------------------------------------------------------------------------------------------


def test_http2_is_chosen_by_alpn_and_kept(ours: InThread, context: ssl.SSLContext) -> None:
    """C3."""
    with HTTPConnection("localhost", ours.port, ssl_context=context) as connection:
        assert connection.secure
        assert connection.request("GET", "/a") == 1
        response = connection.get_response()
        assert isinstance(response, HTTP20Response)
        assert (response.version, response.read()) == (20, b"/a")
        assert connection.ping() > 0
        assert connection.request("GET", "/b") == 3
        assert connection.get_response(3).read() == b"/b"


def test_a_server_of_http1_is_spoken_to_by_that_and_asked_once(old: Stdlib, context: ssl.SSLContext) -> None:
    """C4."""
    before = old.connections
    with HTTPConnection("localhost", old.port, ssl_context=context) as connection:
        for path in ("/a", "/b", "/c"):
            assert connection.request("GET", path) is None
            response = connection.get_response()
            assert isinstance(response, HTTP11Response)
            assert (response.version, response.read()) == (11, path.encode())
        with pytest.raises(Misuse, match="has no PING"):
            connection.ping()
        assert list(connection.get_pushes()) == []
    # One handshake for the question, and one connection for all requests; the choice outlives close().
    assert old.connections - before == 2
    assert fetch(connection) == b"/"
    connection.close()
    assert old.connections - before == 3


def test_a_server_that_changes_its_mind_is_followed(authority: Authority, context: ssl.SSLContext) -> None:
    """A connection object may outlive several versions of its server."""
    with stdlib_server(authority.server_context("http/1.1")) as old:
        port = old.port
        connection = HTTPConnection("localhost", port, ssl_context=context, timeout=10)
        assert fetch(connection, "/old") == b"/old"
    with in_thread(answers, tls=authority.server(), port=port):
        assert fetch(connection, "/new") == b"/new"
        assert connection.ping() > 0
    with stdlib_server(authority.server_context("http/1.1"), port):
        assert fetch(connection, "/old") == b"/old"
    connection.close()


def test_a_context_without_h2_means_http1(ours: InThread, old: Stdlib, authority: Authority) -> None:
    """As it is for http.client's HTTPSConnection with a context of its user's."""
    with HTTPSConnection("localhost", old.port, context=authority.client_context()) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().version == 11


def test_a_protocol_may_be_forced(ours: InThread, plain: Stdlib, context: ssl.SSLContext) -> None:
    with in_thread(answers) as server:
        with HTTPConnection("127.0.0.1", server.port, force_proto="h2") as connection:
            connection.request("GET", "/")
            assert connection.get_response().version == 20
        with HTTP20Connection("127.0.0.1", server.port) as direct:
            assert direct.get_response(direct.request("GET", "/")).version == 20
    with HTTPConnection("127.0.0.1", plain.port, force_proto="http/1.1") as connection:
        fetch(connection)
        assert "Upgrade" not in dict(plain.requests[-1][2])
    with pytest.raises(Misuse, match="force_proto"):
        HTTPConnection("127.0.0.1", force_proto="spdy")


def test_the_first_request_without_a_body_offers_http2_in_plaintext_once(plain: Stdlib) -> None:
    plain.requests.clear()
    with HTTPConnection("127.0.0.1", plain.port) as connection:
        connection.request("POST", "/", b"body")
        assert connection.get_response().read() == b"body"
        connection.request("GET", "/", headers={"Connection": "keep-alive"})
        connection.get_response().read()
        for _ in range(2):
            connection.request("GET", "/", headers=iter([("X-A", "b")]))
            assert connection.get_response().read() == b"/"
    offers = [dict(headers).get("Upgrade") for _, _, headers, _ in plain.requests]
    assert offers == [None, None, "h2c", None]
    assert dict(plain.requests[2][2])["HTTP2-Settings"]
    assert dict(plain.requests[2][2])["X-A"] == "b"


def test_another_switch_than_to_http2_is_the_callers(plain: Stdlib) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    with scripted(says(switch)) as peer, HTTPConnection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        assert isinstance(response, HTTP11Response)
        assert response.status == 101
        response.detach()[0].close()


# --- the same over both -----------------------------------------------------------------------------------------------


def test_bodies_come_whole_and_decoded(connection: HTTPConnection) -> None:
    """C6."""
    for path in ("/long", "/gzip", "/deflate"):
        connection.request("GET", path)
        response = connection.get_response()
        assert response.read(10) == LONG[:10]
        assert b"".join(response.read_chunked()) == LONG[10:]


def test_steps_with_final_and_ids_work(connection: HTTPConnection) -> None:
    """As hyper's documentation builds a request."""
    number = connection.putrequest("POST", "/")
    connection.putheader("X-A", "1", stream_id=number)
    connection.putheader("X-A", "2", stream_id=number, replace=True)
    connection.endheaders(stream_id=number)
    connection.send(b"one", stream_id=number)
    connection.send(b"two", final=True, stream_id=number)
    assert connection.get_response(number).read() == b"onetwo"


def test_eight_threads_get_their_own_answers(connection: HTTPConnection) -> None:
    """C3, C4."""

    def work(number: int) -> list[bytes]:
        found = []
        for turn in range(10):
            connection.request("POST", "/", f"{number}/{turn}")
            found.append(connection.get_response().read())
        return found

    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(work, range(8))):
            assert found == [f"{number}/{turn}".encode() for turn in range(10)]


def test_the_threads_first_requests_share_one_choice(old: Stdlib, context: ssl.SSLContext) -> None:
    """C3, C4: whoever comes while the server is asked waits for its answer."""
    start = threading.Barrier(8)
    before = old.connections
    connection = HTTPConnection("localhost", old.port, ssl_context=context)

    def work(_: int) -> bytes:
        start.wait()
        return fetch(connection, "/x")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [b"/x"] * 8
    connection.close()
    assert old.connections - before <= 9


def test_several_requests_before_their_responses(connection: HTTPConnection) -> None:
    numbers = [connection.request("GET", f"/{each}") for each in "abc"]
    assert [connection.get_response(number).read() for number in numbers] == [b"/a", b"/b", b"/c"]


def test_the_rest_of_a_response_is_refused_once_its_connection_is_closed(connection: HTTPConnection) -> None:
    connection.request("GET", "/long")
    response = connection.get_response()
    assert response.read(5) == LONG[:5]
    connection.close()
    with pytest.raises(Closed):
        response.read()
    assert fetch(connection, "/again") == b"/again"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.get_response(), exceptions.HTTP20Error),
        (lambda c: c.get_response(77), exceptions.StreamResetError),
        (lambda c: c.request("POST", "/", 42), TypeError),
        (lambda c: c.request("GET", "/", headers={"a": "b\nc"}), exceptions.HPACKEncodingError),
        (lambda c: c.send(b"x"), Misuse),
    ],
)
def test_each_misuse_is_a_clear_error(
    connection: HTTPConnection, call: Callable[[HTTPConnection], object], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        call(connection)
    assert isinstance(caught.value, LinkError)
    assert "\n" not in str(caught.value)
    assert fetch(connection, "/after") == b"/after"


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HTTPConnection, HTTP20Connection, HTTP11Connection])
def test_certificates_are_verified_by_default(old: Stdlib, ours: InThread, kind: type[HTTPConnection]) -> None:
    """C5."""
    for port in (old.port, ours.port):
        with pytest.raises(ssl.SSLCertVerificationError, match="unknown authority") as caught:
            kind("localhost", port, secure=True).request("GET", "/")
        assert isinstance(caught.value, TlsFailed)


def test_a_certificate_that_expired_is_refused(authority: Authority, context: ssl.SSLContext) -> None:
    """C5; it is no reason to try HTTP/1.1."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    expired.load_cert_chain(*authority.issue(until=past))
    with stdlib_server(expired) as server, pytest.raises(ssl.SSLError, match="has expired"):
        HTTPConnection("localhost", server.port, ssl_context=context).connect()
    assert server.connections == 1


def test_a_client_shows_its_certificate(authority: Authority) -> None:
    """C6."""

    async def who(stream: ServerStream) -> None:
        await stream.respond(200, body=str(stream.peer.certificate).encode())

    cert, key = authority.issue("ann.test", common_name="ann")
    with in_thread(who, tls=authority.server(client_ca=authority.file)) as server:
        shown = init_context(authority.file, (cert, key))
        with HTTPConnection("localhost", server.port, ssl_context=shown) as connection:
            assert b"'ann'" in fetch(connection)
    demanding = authority.server_context("http/1.1")
    demanding.load_verify_locations(authority.file)
    demanding.verify_mode = ssl.CERT_REQUIRED
    with stdlib_server(demanding) as old, HTTPConnection("localhost", old.port, ssl_context=shown) as connection:
        assert fetch(connection, "/shown") == b"/shown"


def test_init_context_names_the_file_at_fault(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(exceptions.MissingCertFile, match="there is no file of certificates at /nowhere"):
        init_context("/nowhere")
    with pytest.raises(FileNotFoundError):
        init_context(cert=("/nowhere", "/neither"))
    junk = tmp_path / "junk"
    junk.write_text("junk")
    with pytest.raises(Misuse, match=r"cannot use the certificates in .*junk"):
        init_context(str(junk))
    assert init_context().verify_mode is ssl.CERT_REQUIRED
    assert init_context().check_hostname


# --- what goes wrong --------------------------------------------------------------------------------------------------


def garbage(sock: socket.socket) -> None:
    sock.sendall(b"\x00\x01 this is neither\r\n")
    sock.recv(65_536)


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("forced", [None, "h2", "http/1.1"])
@pytest.mark.parametrize("peer", [garbage, lambda _sock: None], ids=["garbage", "closes at once"])
def test_a_server_that_speaks_neither_protocol_is_a_clear_error(
    peer: Callable[[socket.socket], None], forced: str | None, secure: bool
) -> None:
    with scripted(peer) as server:
        connection = HTTPConnection("127.0.0.1", server.port, secure, force_proto=forced, timeout=10)
        with pytest.raises(LinkError) as caught:
            fetch(connection)
        connection.close()
    assert isinstance(caught.value, (TlsFailed, ConnectFailed, ProtocolViolation, ConnectionError))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("forced", [None, "h2", "http/1.1"])
def test_a_server_that_is_silent_costs_the_timeout_and_no_more(forced: str | None, secure: bool) -> None:
    def silent(sock: socket.socket) -> None:
        while sock.recv(65_536):
            pass

    with scripted(silent) as server:
        connection = HTTPConnection("127.0.0.1", server.port, secure, force_proto=forced, timeout=0.1)
        with pytest.raises(LinkError, match=r"too long|within|did not|silent|took"):
            fetch(connection)
        connection.close()


def test_a_server_that_takes_the_offer_and_then_speaks_no_http2_is_a_clear_error() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    def lies(sock: socket.socket) -> None:
        head(sock)
        sock.sendall(switch + b"but this is no HTTP/2 at all, is it?")
        while sock.recv(65_536):
            pass

    for script in (lies, leaves_after(switch)):
        with scripted(script) as peer, HTTPConnection("127.0.0.1", peer.port, timeout=10) as connection:
            connection.request("GET", "/")
            with pytest.raises(LinkError) as caught:
                connection.get_response()
            assert isinstance(caught.value, exceptions.HTTP20Error)


@pytest.mark.parametrize(
    "arguments",
    [
        {"secure": 10},
        {"port": 0},
        {"timeout": -1},
        {"window_manager": object()},
        {"force_proto": "h3"},
        {"force_proto": "h2", "source_address": ("127.0.0.1", 0)},
        {"ssl_context": ssl.create_default_context(), "context": ssl.create_default_context()},
    ],
)
def test_an_impossible_argument_is_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(Misuse):
        HTTPConnection("localhost", **arguments)  # type: ignore[arg-type]


def test_a_tunnel_comes_before_the_connection(ours: InThread, context: ssl.SSLContext) -> None:
    with HTTPConnection("localhost", ours.port, ssl_context=context) as connection:
        fetch(connection)
        with pytest.raises(RuntimeError, match="already"):
            connection.set_tunnel("elsewhere.test")


@pytest.mark.parametrize("over_http2", [True, False])
def test_a_proxy_that_refuses_is_named_and_the_password_is_not(over_http2: bool) -> None:
    """C6."""
    with scripted(leaves_after(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        connection = HTTPConnection(
            "far.test", 443, proxy_host="127.0.0.1", proxy_port=proxy.port,
            proxy_headers={"Proxy-Authorization": "Basic YW5uOnNlY3JldA=="},
            force_proto="h2" if over_http2 else "http/1.1",
        )  # fmt: skip
        with pytest.raises(ConnectFailed, match=f"127.0.0.1:{proxy.port}.*403") as caught:
            connection.connect()
        connection.close()
    assert caught.value.status == 403
    assert "secret" not in str(caught.value)


def test_hypers_names_are_all_here() -> None:
    assert {HTTP20Push, HTTPHeaderMap, HTTP11Connection} <= {getattr(hyper, name) for name in hyper.__all__}
    for name in exceptions.__all__:
        kinds = getattr(exceptions, name)
        assert all(issubclass(each, LinkError) for each in (kinds if isinstance(kinds, tuple) else (kinds,))), name
