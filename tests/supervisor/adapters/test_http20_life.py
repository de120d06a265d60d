"""How a blocking connection lives: time-outs, servers that go and come back, TLS, forks, and the interpreter's end."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from actors.errors import (
    ConnectFailed,
    DeadlineExceeded,
    GoAway,
    LinkError,
    Misuse,
    Outcome,
    ProtocolViolation,
    TlsFailed,
    TransportLost,
)
from actors.server_stream import ServerStream
from supervisor.adapters.blocking.errors import Disconnected
from supervisor.adapters.http20.connection import HTTP20Connection
from tests.supervisor.adapters.served import InThread, answers, in_thread
from tests.support import frames
from tests.support.certificates import Authority

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def server() -> Iterator[InThread]:
    with in_thread(answers) as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def fetch(connection: HTTP20Connection, path: str = "/", body: bytes | None = None) -> bytes:
    connection.request("GET" if body is None else "POST", path, body)
    return connection.get_response().read()


def fetch_often(connection: HTTP20Connection) -> None:
    for _ in range(100):
        fetch(connection)


def send_all(connection: HTTP20Connection, pieces: list[bytes]) -> None:
    for piece in pieces:
        connection.send(piece)


@contextmanager
def scripted(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does with its first connection what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            peer, _ = listening.accept()
            peer.settimeout(10)
            with peer, suppress(ConnectionError):  # the client may well reset it
                script(peer)

        thread = threading.Thread(target=run)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


# --- time-outs --------------------------------------------------------------------------------------------------------


def test_a_response_that_does_not_come_in_time(server: InThread) -> None:
    """C6: it is given up, so that the next request gets its own."""
    with HTTP20Connection(server.address, timeout=(10, 0.1)) as connection:
        number = connection.request("GET", "/silent")
        with pytest.raises(TimeoutError, match=r"GET .*/silent: no response within 0.1 s") as caught:
            connection.get_response()
        assert isinstance(caught.value, DeadlineExceeded)
        assert isinstance(caught.value, socket.timeout)
        with pytest.raises(Misuse):
            connection.get_response(number)
        assert fetch(connection, "/after") == b"/after"


def test_a_time_out_may_be_changed(server: InThread) -> None:
    """As http.client's programs do."""
    with HTTP20Connection(server.address) as connection:
        connection.timeout = (10, 0.1)
        assert connection.timeout == (10, 0.1)
        connection.request("GET", "/silent?token=s3cret")
        with pytest.raises(TimeoutError) as caught:
            connection.get_response()
        assert "s3cret" not in str(caught.value)


def test_a_body_that_does_not_go_on_in_time_may_be_waited_for_again(server: InThread) -> None:
    with HTTP20Connection(server.address, timeout=(10, 0.1)) as connection:
        connection.request("GET", "/half")
        response = connection.get_response()
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"nothing of the body came within 0\.1 s"):
                response.read()
        with pytest.raises(TimeoutError):
            response.readline()
        assert response.read(4) == b"half", "what came is not lost"


def test_a_server_that_takes_nothing_of_a_body() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.draining()

    with in_thread(handler) as server, HTTP20Connection(server.address, timeout=(10, 0.2)) as connection:
        with pytest.raises(TimeoutError, match=r"the server took nothing of the body within 0\.2 s"):
            connection.request("POST", "/", iter([bytes(1 << 20)] * 64))
        connection.putrequest("POST", "/")
        connection.endheaders()
        with pytest.raises(TimeoutError, match="took nothing"):
            send_all(connection, [bytes(1 << 20)] * 64)


def test_a_server_that_never_speaks() -> None:
    """The time-out for connecting covers all of it."""

    def script(peer: socket.socket) -> None:
        while peer.recv(1 << 16):
            pass

    with scripted(script) as port:
        connection = HTTP20Connection("127.0.0.1", port, timeout=(0.3, None))
        with pytest.raises(LinkError) as caught:
            connection.request("GET", "/")
        assert isinstance(caught.value, (TimeoutError, ConnectionError))


def test_a_ping_that_is_not_answered() -> None:
    def script(peer: socket.socket) -> None:
        peer.sendall(frames.settings())
        while peer.recv(1 << 16):
            pass

    with (
        scripted(script) as port,
        HTTP20Connection("127.0.0.1", port, timeout=(5, 0.2)) as connection,
        pytest.raises(TimeoutError, match=r"did not answer PING within 0\.2 s"),
    ):
        connection.ping(b"12345678")


# --- servers that are not there, go, or are none ----------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def test_nothing_listens_there_and_later_something_does() -> None:
    port = free_port()
    connection = HTTP20Connection("127.0.0.1", port, timeout=10)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError) as caught:
            connection.request("GET", "/")
        assert isinstance(caught.value, ConnectFailed)
        assert str(port) in str(caught.value)
    with in_thread(answers, port=port):
        assert fetch(connection) == b"/"
        connection.close()


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(socket.gaierror, match=r"no-such-host\.invalid") as caught:
        HTTP20Connection("no-such-host.invalid", 80, timeout=10).connect()
    assert isinstance(caught.value, ConnectFailed)


def test_a_dropped_connection_is_restored() -> None:
    """The server ends, and another begins at the same port."""
    port = free_port()
    with in_thread(answers, port=port):
        connection = HTTP20Connection("127.0.0.1", port, timeout=10)
        assert fetch(connection, "/first") == b"/first"
    with pytest.raises(ConnectionError):
        fetch_often(connection)
    with in_thread(answers, port=port):
        assert fetch(connection, "/again") == b"/again"
        connection.close()


def test_a_connection_that_breaks_ends_what_waits_with_one_error() -> None:
    with scripted(lambda peer: hears(peer, frames.Type.DATA)) as port:
        connection = HTTP20Connection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/", b"not to be repeated")
        with pytest.raises(Disconnected, match="closed by the peer") as caught:
            connection.get_response()
        assert caught.value.outcome is Outcome.MAYBE_PROCESSED
        for kind in (TransportLost, ConnectionResetError, http.client.RemoteDisconnected):
            assert issubclass(Disconnected, kind)
        connection.close()


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (frames.data(1, b"before its head"), ProtocolViolation),
        (frames.headers(1, frames.encode([("status", "200")])), ProtocolViolation),
        (
            frames.headers(1, frames.encode(frames.response(200, ("content-length", "2")))) + frames.data(1, b"longer"),
            ProtocolViolation,
        ),
        (frames.goaway(0, frames.Code.ENHANCE_YOUR_CALM, b"no more"), GoAway),
        (frames.headers(1, b"\xff\xff\xff"), ProtocolViolation),
        (
            frames.frame(frames.Type.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + frames.encode(frames.request())),
            ProtocolViolation,
        ),
    ],
)
def test_a_server_that_breaks_the_protocol(lie: bytes, error: type[LinkError]) -> None:
    """What it broke is said, in the class that hyper's and http.client's programs catch."""

    def script(peer: socket.socket) -> None:
        hears(peer, frames.Type.HEADERS)
        peer.sendall(lie)
        while peer.recv(1 << 16):
            pass

    with scripted(script) as port:
        connection = HTTP20Connection("127.0.0.1", port, timeout=10)
        with pytest.raises(http.client.HTTPException) as caught:
            fetch(connection, "/", b"body")
        assert isinstance(caught.value, error)
        connection.close()


def hears(peer: socket.socket, wanted: frames.Type) -> None:
    """Answer a client's greeting, and read until a frame of that type has come."""
    peer.sendall(frames.settings() + frames.settings(ack=True))
    parser, begun = frames.Parser(), b""
    while len(begun) < len(frames.PREFACE):
        begun += peer.recv(len(frames.PREFACE) - len(begun))
    while not any(each.type == wanted for each in parser.parse(peer.recv(1 << 16))):
        pass


def test_a_stream_that_the_server_resets(server: InThread) -> None:
    with HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("GET", "/reset")
        response = connection.get_response()
        with pytest.raises(LinkError, match=r"the peer reset .* with INTERNAL_ERROR after 4 bytes"):
            response.read()
        assert response.read(4) == b"some", "what came before it is not lost"
        with pytest.raises(LinkError, match="INTERNAL_ERROR"):
            response.read(1)
        assert fetch(connection) == b"/"


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 64,
        b"220 mail.test ESMTP\r\n",
    ],
)
def test_a_server_that_speaks_something_else(says: bytes) -> None:
    def script(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(says)
        while peer.recv(1 << 16):
            pass

    with scripted(script) as port:
        connection = HTTP20Connection("127.0.0.1", port, timeout=10)
        with pytest.raises(LinkError) as caught:
            fetch(connection)
        assert isinstance(caught.value, ProtocolViolation)
        connection.close()


def test_an_upload_stops_when_the_server_answers_and_wants_no_more() -> None:
    """RFC 9113, 8.1: RST_STREAM with NO_ERROR behind the response."""

    async def handler(stream: ServerStream) -> None:
        await stream.respond(413, body=b"too much")

    with in_thread(handler) as server, HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("POST", "/", iter([bytes(1 << 16)] * 10_000))
        response = connection.get_response()
        assert (response.status, response.read()) == (413, b"too much")
        number = connection.putrequest("POST", "/")
        connection.endheaders()
        with pytest.raises(LinkError, match="NO_ERROR"):
            send_all(connection, [bytes(1 << 16)] * 10_000)
        assert connection.get_response(number).read() == b"too much"


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_certificates_are_verified(authority: Authority, tmp_path: Path) -> None:
    """C5."""
    with in_thread(answers, tls=authority.server()) as server:
        with HTTP20Connection(
            server.address, secure=True, ssl_context=authority.client_context("h2"), timeout=10
        ) as connection:
            assert connection.secure
            assert fetch(connection, "/tls") == b"/tls"
        with pytest.raises(ssl.CertificateError, match=r"unknown authority|self-signed") as caught:
            fetch(HTTP20Connection(server.address, secure=True, timeout=10))
        assert isinstance(caught.value, TlsFailed)
        assert isinstance(caught.value, ssl.SSLError)
    for tls, why in ((authority.server("other.test"), "is for another"), (authority.expired(), "has expired")):
        context = authority.client_context("h2")
        with in_thread(answers, tls=tls) as server, pytest.raises(ssl.CertificateError, match=why):
            fetch(HTTP20Connection(server.address, ssl_context=context, timeout=10))


def test_a_client_certificate_is_shown(authority: Authority) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond(200, body=str(stream.peer.certificate and "known").encode())

    with in_thread(handler, tls=authority.server(client_ca=authority.file)) as server:
        context = authority.client_context("h2")
        context.load_cert_chain(*authority.issue("ann.test", common_name="ann"))
        with HTTP20Connection(server.address, ssl_context=context, timeout=10) as connection:
            assert fetch(connection) == b"known"
        with pytest.raises(LinkError):
            fetch(HTTP20Connection(server.address, ssl_context=authority.client_context("h2"), timeout=10))


def test_tls_with_a_server_that_chooses_no_http2(authority: Authority) -> None:
    context = authority.server_context("http/1.1")

    def script(peer: socket.socket) -> None:
        try:
            context.wrap_socket(peer, server_side=True).close()
        except OSError:
            return

    with scripted(script) as port:
        connection = HTTP20Connection(
            "127.0.0.1", port, ssl_context=authority.client_context("h2", "http/1.1"), timeout=10
        )
        with pytest.raises(ssl.SSLError, match=r"chose 'http/1\.1' by ALPN") as caught:
            connection.request("GET", "/")
        assert isinstance(caught.value, TlsFailed)


# --- processes --------------------------------------------------------------------------------------------------------


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program with every warning an error, which must end by itself."""
    source = "from supervisor.adapters.http20.connection import HTTP20Connection\nimport sys\n" + textwrap.dedent(
        program
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


PROGRAMS = {
    "with a connection open": "c.request('GET', '/'); print(c.get_response().read())",
    "with a response half read": "c.request('GET', '/half'); r = c.get_response(); print(r.read(4))",
    "with a request unanswered": "c.request('GET', '/silent'); print('asked')",
    "with a body half sent": "c.putrequest('POST', '/'); c.endheaders(); c.send(b'1'); print('sent')",
    "with a thread that waits": """
import threading
def wait():
    try: c.get_response(n)
    except Exception as error: print(type(error).__name__)
n = c.request('GET', '/silent')
threading.Thread(target=wait, daemon=True).start()
""",
    "with the connection closed": "c.request('GET', '/'); print(c.get_response().read()); c.close()",
    "in an error": "c.request('GET', '/half'); r = c.get_response(); print(r.read(4)); raise SystemExit(0)",
    "in an exit handler": """
import atexit
def late():
    try: c.request('GET', '/late'); print(c.get_response().read())
    except Exception as error: print(type(error).__name__)
c.request('GET', '/'); print(c.get_response().read())
atexit.register(late)
""",
}


@pytest.mark.parametrize("when", PROGRAMS)
def test_the_interpreter_ends_without_a_word(server: InThread, when: str) -> None:
    ran = run("c = HTTP20Connection(sys.argv[1], timeout=10)\n" + textwrap.dedent(PROGRAMS[when]), server.address)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_exit_handler_from_before_the_first_connection_is_told_that_it_is_too_late(server: InThread) -> None:
    program = """
    import atexit
    def late():
        try: c.request('GET', '/late')
        except Exception as error: print(type(error).__name__, error)
    atexit.register(late)
    c = HTTP20Connection(sys.argv[1], timeout=10)
    c.request('GET', '/'); c.get_response().read()
    """
    ran = run(program, server.address)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "the interpreter ends" in ran.stdout


def test_a_forked_child_connects_for_itself_and_its_parent_goes_on(server: InThread) -> None:
    program = """
    import os
    c = HTTP20Connection(sys.argv[1], timeout=10)
    c.request('GET', '/parent'); print(c.get_response().read(), flush=True)
    c.request('GET', '/half'); half = c.get_response(); half.read(4)
    child = os.fork()
    if not child:
        c.request('GET', '/child'); print(c.get_response().read())
        try: half.read(1)
        except Exception as error: print(type(error).__name__, error)
        del half
        c.close()
        c.request('GET', '/again'); print(c.get_response().read(), flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        c.request('GET', '/parent'); print(c.get_response().read())
    """
    ran = run(program, server.address)
    assert (ran.returncode, ran.stderr) == (0, "")
    said = ran.stdout.splitlines()
    assert said[:2] == ["b'/parent'", "b'/child'"]
    assert "belongs to the process that was forked" in said[2]
    assert said[3:] == ["b'/again'", "0", "b'/parent'"]
