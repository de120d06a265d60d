"""HTTP11Connection: hyper's and http.client's interface, over the standard library."""

from __future__ import annotations

import gc
import gzip
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.errors import (
    Closed,
    ConnectFailed,
    DeadlineExceeded,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Misuse,
    ProtocolViolation,
    TlsFailed,
    TransportLost,
)
from supervisor.adapters.blocking.header_map import HTTPHeaderMap
from supervisor.adapters.http11.connection import HTTP11Connection
from supervisor.adapters.http11.errors import ChunkedDecodeError, IncompleteRead, TLSUpgrade
from supervisor.adapters.http11.exchanges import MOST_EXCHANGES
from tests.supervisor.adapters.http11_servers import (
    LONG,
    Stdlib,
    head,
    leaves_after,
    says,
    scripted,
    stdlib_server,
)
from tests.support.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def server() -> Iterator[Stdlib]:
    with stdlib_server() as running:
        yield running


@pytest.fixture
def connection(server: Stdlib) -> Iterator[HTTP11Connection]:
    with HTTP11Connection("127.0.0.1", server.port) as made:
        yield made


def fetch(connection: HTTP11Connection, path: str = "/", method: str = "GET") -> bytes:
    connection.request(method, path)
    return connection.get_response().read()


# --- requests and responses -------------------------------------------------------------------------------------------


def test_a_response_has_what_hyper_gave_and_what_http_client_gives(connection: HTTP11Connection) -> None:
    """C4."""
    assert connection.request("GET", "/here?a=b") is None  # type: ignore[func-returns-value]
    with connection.get_response() as response:
        assert (response.status, response.reason, response.version) == (200, "OK", 11)
        assert response.headers["x-several"] == [b"1", b"2"]
        assert isinstance(response.headers, HTTPHeaderMap)
        assert response.getheader("X-Several") == "1, 2"
        assert response.getheader("nothing", "else") == "else"
        assert ("X-Several", "2") in response.getheaders()
        assert response.msg["content-length"] == "9"
        assert response.info() is response.msg
        assert response.getcode() == 200
        assert response.fileno() > 0
        assert not response.closed
        assert response.read(5) == b"/here"
        assert response.read() == b"?a=b"
        assert response.isclosed()
        assert response.read() == b""
    assert response.closed


@pytest.mark.parametrize(
    ("body", "sent", "framed"),
    [
        (b"bytes", b"bytes", "Content-Length"),
        (bytearray(b"bytes"), b"bytes", "Content-Length"),
        (memoryview(b"bytes"), b"bytes", "Content-Length"),
        ("text \u00e4", "text \u00e4".encode(), "Content-Length"),
        (io.BytesIO(b"file"), b"file", "Transfer-Encoding"),
        (io.StringIO("file \u00e4"), "file \u00e4".encode(), "Transfer-Encoding"),
        (iter([b"several", b"", b" parts"]), b"several parts", "Transfer-Encoding"),
        (None, b"", "Content-Length"),
    ],
)
def test_each_kind_of_body_is_framed_and_arrives(
    server: Stdlib, connection: HTTP11Connection, body: object, sent: bytes, framed: str
) -> None:
    connection.request("POST", "/", body)  # type: ignore[arg-type]
    assert connection.get_response().read() == sent
    assert framed in dict(server.requests[-1][2])


def test_an_upload_of_an_iterable_is_never_held_whole(connection: HTTP11Connection) -> None:
    """C6."""
    alive: list[int] = []
    most = 0

    class Piece(bytes):
        def __init__(self, *_: object) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def parts() -> Iterator[bytes]:
        nonlocal most
        for _ in range(100):
            yield Piece(b"x" * 1000)
            most = max(most, len(alive))

    connection.request("PUT", "/", parts())
    assert connection.get_response().read() == b"x" * 100_000
    assert most <= 3


def test_a_request_is_built_in_steps_with_and_without_a_length(server: Stdlib, connection: HTTP11Connection) -> None:
    connection.putrequest("POST", "/steps")
    connection.putheader("X-Two", "a", b"b")
    connection.putheader("Content-Length", 6)
    connection.endheaders(b"abc")
    connection.send(b"def")
    assert connection.getresponse().read() == b"abcdef"
    assert dict(server.requests[-1][2])["Content-Length"] == "6"

    connection.putrequest("POST", "/steps")
    connection.endheaders()
    connection.send(b"abc")
    connection.send([b"d", b"ef"], final=True)
    assert connection.getresponse().read() == b"abcdef"
    assert dict(server.requests[-1][2])["Transfer-Encoding"] == "chunked"

    connection.putrequest("POST", "/steps")
    connection.endheaders()
    assert connection.getresponse().read() == b""
    assert dict(server.requests[-1][2])["Content-Length"] == "0"


def test_chunks_that_the_caller_made_are_sent_as_they_are_unless_told_otherwise(connection: HTTP11Connection) -> None:
    own = {"Transfer-Encoding": "chunked"}
    connection.request("POST", "/", [b"3\r\nabc\r\n", b"0\r\n\r\n"], own)
    assert connection.getresponse().read() == b"abc"
    connection.request("POST", "/", [b"abc", b"def"], own, encode_chunked=True)
    assert connection.getresponse().read() == b"abcdef"


def test_header_maps_pairs_and_hypers_authority_are_taken_as_headers(
    server: Stdlib, connection: HTTP11Connection
) -> None:
    connection.request("GET", "/", headers=HTTPHeaderMap([("X-A", "1,2"), ("X-A", "3")]))
    connection.get_response().read()
    assert [value for name, value in server.requests[-1][2] if name == "X-A"] == ["1,2", "3"]
    connection.request(b"GET", b"/b", headers=[(b"X-B", b"1"), (":authority", "elsewhere"), (":path", "/not")])
    assert connection.get_response().read() == b"/b"
    sent = dict(server.requests[-1][2])
    assert (sent["X-B"], sent["Host"]) == ("1", "elsewhere")


# --- bodies that come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/long", "/gzip", "/deflate"])
@pytest.mark.parametrize(
    "way",
    [
        lambda response: response.read(),
        lambda response: b"".join(response.stream(1000)),
        lambda response: b"".join(iter(lambda: response.read(70_001), b"")),
        lambda response: b"".join(iter(lambda: response.read1(70_001), b"")),
        b"".join,
        lambda response: io.BufferedReader(response).read(),
        lambda response: response.readline() + response.peek(3)[:0] + response.read(),
    ],
)
def test_a_body_is_whole_and_decoded_however_it_is_read(
    connection: HTTP11Connection, path: str, way: Callable[[object], bytes]
) -> None:
    """C6."""
    connection.request("GET", path)
    response = connection.get_response()
    assert way(response) == LONG
    assert response.read() == b""


def test_a_body_is_left_encoded_on_request(connection: HTTP11Connection) -> None:
    connection.request("GET", "/gzip")
    assert gzip.decompress(connection.get_response().read(decode_content=False)) == LONG
    connection.request("GET", "/gzip")
    response = connection.get_response()
    response.read(1)
    with pytest.raises(Misuse, match="from the first read on"):
        response.read(1, decode_content=False)


def test_chunks_come_one_by_one_and_trailers_behind_them(connection: HTTP11Connection) -> None:
    """C6."""
    connection.request("GET", "/chunked")
    response = connection.get_response()
    assert list(response.read_chunked()) == [b"one", b"two", b"three"]
    assert response.trailers["x-count"] == [b"3"]
    connection.request("GET", "/chunked")
    response = connection.get_response()
    assert response.trailers["x-count"] == [b"3"]
    assert response.read() == b"onetwothree"  # what the trailers made it read is kept
    connection.request("GET", "/")
    response = connection.get_response()
    assert list(response.read_chunked()) == [b"/"]  # however it is framed
    assert response.trailers == HTTPHeaderMap()


def test_a_part_is_there_as_soon_as_it_comes() -> None:
    first, more = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        first.set()
        more.wait(10)
        sock.sendall(b"two")
        sock.recv(1)

    with scripted(script) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        parts = response.stream()
        assert next(parts) == b"one"
        more.set()
        assert list(parts) == [b"two"]


def test_json_is_loaded_from_a_response(connection: HTTP11Connection) -> None:
    connection.request("POST", "/", json.dumps({"a": 1}))
    assert json.load(connection.getresponse()) == {"a": 1}


def test_informational_responses_are_passed_by() -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    with scripted(says(hints * 3 + OK)) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        assert (response.status, response.read()) == (200, b"ok")
        assert "link" not in response.headers
    with scripted(leaves_after(hints * 200)) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/")
        with pytest.raises(ProtocolViolation, match="without end"):
            connection.get_response()


def test_the_socket_of_a_switch_is_handed_over_with_what_came_early() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nearly"
    with scripted(says(switch)) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/", headers={"Upgrade": "x", "Connection": "Upgrade"})
        response = connection.get_response()
        assert response.read() == b""
        sock, early = response.detach()
        with sock:
            assert early == b"early"
            assert sock.getpeername()[1] == peer.port
        with pytest.raises(Misuse, match="once"):
            response.detach()


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_one_socket_serves_one_request_after_the_other(server: Stdlib, connection: HTTP11Connection) -> None:
    before = server.connections
    for path in ("/a", "/long", "/chunked", "/missing"):
        fetch(connection, path)
    fetch(connection, method="HEAD")
    assert server.connections - before == 1
    assert fetch(connection, "/close") == b"the last"
    assert fetch(connection, "/b") == b"/b"
    assert server.connections - before == 2


def test_a_kept_connection_that_the_server_closed_is_made_anew(server: Stdlib, connection: HTTP11Connection) -> None:
    """Provably unsent: its end was there before the request."""
    connection.request("POST", "/", b"one")
    connection.get_response().read()
    server.cut()
    server.until_quiet()
    connection.request("POST", "/", b"two")
    assert connection.get_response().read() == b"two"


def test_a_safe_request_goes_again_where_the_server_closes_a_kept_connection_meanwhile() -> None:
    first = leaves_after(OK, b"")
    with scripted(first, says(OK)) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        assert fetch(connection) == b"ok"
        assert fetch(connection) == b"ok"
        assert peer.connections == 2
    with scripted(first, says(OK)) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        assert fetch(connection) == b"ok"
        connection.request("POST", "/")
        with pytest.raises(http.client.RemoteDisconnected, match="without an answer") as caught:
            connection.get_response()
        assert isinstance(caught.value, TransportLost)
        assert peer.connections == 1


def test_a_server_that_closes_every_connection_is_asked_once_or_twice_and_no_more() -> None:
    with scripted(leaves_after(b"")) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/")
        with pytest.raises(ConnectionResetError, match="closed the connection without an answer"):
            connection.get_response()
        assert peer.connections == 1


def test_an_answer_that_comes_before_the_body_was_taken_is_not_lost() -> None:
    """The server refuses the upload and closes: what it says is worth more than a broken pipe."""
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def script(sock: socket.socket) -> None:
        head(sock)
        sock.sendall(refused)
        sock.shutdown(socket.SHUT_RD)

    with scripted(script) as peer, HTTP11Connection("127.0.0.1", peer.port, timeout=10) as connection:
        connection.request("POST", "/", (b"x" * 65_536 for _ in range(200)))
        assert connection.get_response().status == 413


def test_a_closed_connection_connects_again(server: Stdlib, connection: HTTP11Connection) -> None:
    fetch(connection)
    connection.close()
    connection.close()
    assert fetch(connection, "/again") == b"/again"
    server.requests.clear()
    connection.connect()
    connection.connect()
    fetch(connection)
    assert len(server.requests) == 1


def test_a_response_that_is_closed_early_costs_its_socket_and_nothing_else(
    server: Stdlib, connection: HTTP11Connection
) -> None:
    before = server.connections
    connection.request("GET", "/long")
    response = connection.get_response()
    response.read(10)
    response.close()
    assert response.isclosed()
    assert fetch(connection, "/next") == b"/next"
    assert server.connections - before == 2


def test_the_rest_of_a_response_is_refused_once_its_connection_is_closed(connection: HTTP11Connection) -> None:
    connection.request("GET", "/long")
    response = connection.get_response()
    assert len(response.read(10)) == 10
    connection.close()
    with pytest.raises(Closed, match="before its response was read") as caught:
        response.read()
    assert isinstance(caught.value, ValueError)


def test_what_is_dropped_is_closed_without_a_warning(server: Stdlib) -> None:
    connection = HTTP11Connection("127.0.0.1", server.port)
    fetch(connection)
    connection.request("GET", "/long")
    response = connection.get_response()
    del response, connection
    gc.collect()
    server.until_quiet()


# --- threads ----------------------------------------------------------------------------------------------------------


def test_eight_threads_each_get_the_answers_to_their_own_requests(connection: HTTP11Connection) -> None:
    """C3."""

    def work(number: int) -> list[bytes]:
        return [fetch(connection, f"/{number}/{turn}") for turn in range(20)]

    with ThreadPoolExecutor(8) as threads:
        for number, answers in enumerate(threads.map(work, range(8))):
            assert answers == [f"/{number}/{turn}".encode() for turn in range(20)]


def test_several_requests_of_a_thread_are_answered_in_their_order(connection: HTTP11Connection) -> None:
    for number in range(5):
        connection.request("GET", f"/{number}")
    assert [connection.get_response().read() for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_a_thread_without_requests_fetches_the_oldest_response(connection: HTTP11Connection) -> None:
    connection.request("GET", "/a")
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: connection.get_response().read()).result() == b"/a"


def test_a_thread_with_requests_of_its_own_never_gets_the_response_to_anothers(connection: HTTP11Connection) -> None:
    """C3: not even where its own was forgotten by a close() in between."""
    fetch(connection, "/mine")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(connection.request, "GET", "/theirs").result()
        with pytest.raises(http.client.ResponseNotReady, match="no request of this thread"):
            connection.get_response()
        assert thread.submit(lambda: connection.get_response().read()).result() == b"/theirs"


def test_a_body_that_is_sent_while_the_connection_is_closed_never_becomes_a_request(server: Stdlib) -> None:
    connection = HTTP11Connection("127.0.0.1", server.port)
    server.requests.clear()

    def parts() -> Iterator[bytes]:
        yield b"one"
        connection.close()
        yield b"GET /smuggled HTTP/1.1\r\n\r\n"

    with pytest.raises(Closed, match="was closed"):
        connection.request("POST", "/", parts())
    fetch(connection, "/after")
    connection.close()
    assert [path for _, path, _, _ in server.requests] == ["/after"]


def test_close_ends_what_another_thread_waits_for() -> None:
    asked = threading.Event()

    def script(sock: socket.socket) -> None:
        head(sock)
        asked.set()
        sock.recv(1)

    with scripted(script) as peer, ThreadPoolExecutor(1) as thread:
        connection = HTTP11Connection("127.0.0.1", peer.port)
        waiting = thread.submit(fetch, connection)
        asked.wait(10)
        connection.close()
        with pytest.raises(Closed, match="was closed"):
            waiting.result(10)


def test_close_ends_a_read_of_another_thread() -> None:
    began = threading.Event()

    def script(sock: socket.socket) -> None:
        head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        sock.recv(1)

    with scripted(script) as peer, ThreadPoolExecutor(1) as thread:
        connection = HTTP11Connection("127.0.0.1", peer.port)
        connection.request("GET", "/")
        response = connection.get_response()

        def read() -> None:
            for _ in response.stream():
                began.set()

        waiting = thread.submit(read)
        began.wait(10)
        response.close()
        with pytest.raises(Closed):
            waiting.result(10)
        connection.close()


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"", http.client.RemoteDisconnected, "without an answer"),
        (b"garbage\r\n\r\n", http.client.BadStatusLine, "is no HTTP/1.1"),
        (b"HTTP/2.7 200 OK\r\n\r\n", http.client.HTTPException, "is no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, http.client.HTTPException, "is no HTTP/1.1"),
        (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64", http.client.BadStatusLine, "is no HTTP/1.1"),
    ],
)
def test_what_is_no_answer_is_a_clear_error(answer: bytes, kind: type[Exception], said: str) -> None:
    with scripted(leaves_after(answer)) as peer, HTTP11Connection("127.0.0.1", peer.port, timeout=10) as connection:
        connection.request("GET", "/")
        with pytest.raises(kind, match=said) as caught:
            connection.get_response()
        assert isinstance(caught.value, LinkError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npart",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n-5\r\nabc",
    ],
)
def test_a_body_that_is_cut_off_is_an_incomplete_read_with_its_part(answer: bytes) -> None:
    with scripted(leaves_after(answer)) as peer, HTTP11Connection("127.0.0.1", peer.port) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        with pytest.raises(http.client.IncompleteRead, match=r"in the middle of a body|less than no") as caught:
            response.read()
        assert isinstance(caught.value, ChunkedDecodeError if b"chunked" in answer else IncompleteRead)
        assert caught.value.partial == b"part"
        assert response.read(4) == b"part"
        with pytest.raises(http.client.IncompleteRead):  # never b"", which would say that it was complete
            response.read(1)


def test_silence_ends_with_the_read_timeout() -> None:
    with scripted(says(b"")) as peer, HTTP11Connection("127.0.0.1", peer.port, timeout=(5, 0.05)) as connection:
        connection.request("GET", "/")
        with pytest.raises(TimeoutError, match="silent for too long while we waited for its response") as caught:
            connection.get_response()
        assert isinstance(caught.value, DeadlineExceeded)
    with (
        scripted(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")) as peer,
        HTTP11Connection("127.0.0.1", peer.port, timeout=0.05) as connection,
    ):
        connection.request("GET", "/")
        response = connection.get_response()
        with pytest.raises(TimeoutError, match="while we read the body"):
            response.read()


def test_a_connection_that_cannot_be_made_says_why() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        connection = HTTP11Connection("127.0.0.1", holder.getsockname()[1])
        with pytest.raises(ConnectionRefusedError, match="nothing listens there") as refused:
            connection.request("GET", "/")
        assert isinstance(refused.value, ConnectFailed)
        with pytest.raises(Misuse):
            connection.get_response()
    with pytest.raises(socket.gaierror, match="its name has no address"):
        HTTP11Connection("no-such-host.invalid").connect()


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda c: c.get_response(), http.client.ResponseNotReady, r"request\(\) comes before"),
        (lambda c: c.get_response(3), KeyError, "no stream 3"),
        (lambda c: c.putheader("a", "b"), http.client.CannotSendHeader, r"putrequest\(\) comes before"),
        (lambda c: c.endheaders(), http.client.CannotSendHeader, r"putrequest\(\) comes before"),
        (lambda c: c.send(b"x"), http.client.CannotSendHeader, r"endheaders\(\) comes before"),
        (lambda c: c.request("POST", "/", 42), TypeError, "a body is bytes"),
        (lambda c: c.request("POST", "/", {"a": "b"}), TypeError, "not a mapping: encode it first"),
        (lambda c: c.request("POST", "/", [1, 2]), ValueError, "parts of a body are bytes, not int"),
        (lambda c: c.request("GET", "/a b"), http.client.InvalidURL, "cannot be sent"),
        (lambda c: c.request("GET", "/\u00e4"), http.client.InvalidURL, "all but printable ASCII"),
        (lambda c: c.request("GET\r\n", "/"), ValueError, "is not a token"),
        (lambda c: c.request(None, "/"), ValueError, "a method is str or bytes"),
        (lambda c: c.request("GET", "/", headers={"a": "b\r\nc"}), ValueError, "cannot be sent"),
        (lambda c: c.request("GET", "/", headers={"a b": "c"}), ValueError, "cannot be sent"),
        (lambda c: c.request("GET", "/", headers={"a": "\u20ac"}), InvalidHeaders, "cannot be sent"),
        (lambda c: c.request("GET", "/", headers=3), InvalidHeaders, "headers are a mapping"),
    ],
)
def test_each_misuse_is_a_clear_error_and_the_connection_goes_on(
    connection: HTTP11Connection, call: Callable[[HTTP11Connection], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        call(connection)
    assert isinstance(caught.value, LinkError)
    assert fetch(connection, "/after") == b"/after"


def test_a_second_request_before_the_first_is_sent_is_refused(connection: HTTP11Connection) -> None:
    connection.putrequest("GET", "/")
    with pytest.raises(http.client.CannotSendRequest, match="call endheaders"):
        connection.request("GET", "/")
    connection.endheaders()
    assert connection.get_response().read() == b"/"


def test_requests_whose_responses_nobody_fetches_are_bounded(connection: HTTP11Connection) -> None:
    for _ in range(MOST_EXCHANGES):
        connection.putrequest("POST", "/")
        connection.endheaders()  # held back until it is known whether a body follows: no socket is needed
    with pytest.raises(LimitReached, match="fetch their responses first"):
        connection.request("GET", "/")


def test_an_error_of_the_bodys_own_comes_through_and_costs_the_socket(
    server: Stdlib, connection: HTTP11Connection
) -> None:
    def parts() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    before = server.connections
    with pytest.raises(ZeroDivisionError):
        connection.request("POST", "/", parts())
    assert fetch(connection) == b"/"
    assert server.connections - before == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": ""},
        {"host": "a b"},
        {"host": "a", "port": 0},
        {"host": "a", "port": 70_000},
        {"host": "a:x"},
        {"host": None},
        {"host": "a", "timeout": 0},
        {"host": "a", "timeout": "1"},
        {"host": "a", "timeout": (1, 2, 3)},
        {"host": "a", "ssl_context": True},
        {"host": "a", "proxy_host": "p:q"},
    ],
)
def test_an_impossible_argument_is_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"host|port|timeout|context") as caught:
        HTTP11Connection(**arguments)  # type: ignore[arg-type]
    assert isinstance(caught.value, Misuse)


@pytest.mark.parametrize(
    ("host", "port", "found"),
    [
        ("a", None, ("a", 80, False)),
        ("a:443", None, ("a", 443, True)),
        ("a", 443, ("a", 443, True)),
        ("a:8080", None, ("a", 8080, False)),
        ("[::1]:99", None, ("::1", 99, False)),
        ("::1", None, ("::1", 80, False)),
        ("[::1]", 81, ("::1", 81, False)),
        ("a:", None, ("a", 80, False)),
    ],
)
def test_a_host_may_have_its_port_with_it(host: str, port: int | None, found: tuple[str, int, bool]) -> None:
    made = HTTP11Connection(host, port)
    assert (made.host, made.port, made.secure) == found


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_tls_is_spoken_and_certificates_are_verified_by_default(authority: Authority) -> None:
    """C5."""
    with stdlib_server(authority.server_context("http/1.1")) as server:
        with HTTP11Connection("localhost", server.port, context=authority.client_context("http/1.1")) as connection:
            assert connection.secure
            assert fetch(connection, "/tls") == b"/tls"
        with pytest.raises(TlsFailed, match="unknown authority"):
            HTTP11Connection("localhost", server.port, secure=True).connect()


def test_a_wrong_host_is_refused(authority: Authority, tmp_path: Path) -> None:
    """C5."""
    context = authority.server_context()
    context.load_cert_chain(*authority.issue("elsewhere.test"))
    with (
        stdlib_server(context) as server,
        pytest.raises(TlsFailed, match="for another host name than localhost"),
    ):
        HTTP11Connection("localhost", server.port, ssl_context=authority.client_context()).connect()


def test_a_server_that_chooses_http2_is_named(authority: Authority) -> None:
    with (
        stdlib_server(authority.server_context("h2")) as server,
        pytest.raises(TLSUpgrade, match="use HTTPConnection") as caught,
    ):
        HTTP11Connection("localhost", server.port, ssl_context=authority.client_context("h2", "http/1.1")).connect()
    assert caught.value.negotiated == "h2"


# --- proxies ----------------------------------------------------------------------------------------------------------


def tunnel(answer: bytes, heard: list[bytes]) -> Callable[[socket.socket], None]:
    def script(sock: socket.socket) -> None:
        heard.append(head(sock))
        sock.sendall(answer)
        heard.append(head(sock))
        sock.sendall(OK)
        sock.recv(1)

    return script


def test_a_tunnel_is_asked_for_by_connect_with_credentials() -> None:
    """C6."""
    heard: list[bytes] = []
    with scripted(tunnel(b"HTTP/1.1 200 Yes\r\n\r\n", heard)) as peer:
        with HTTP11Connection(
            "far.test", 81, proxy_host="ann:secret%21@127.0.0.1", proxy_port=peer.port, proxy_headers={"X-P": "1"}
        ) as connection:
            assert (connection.proxy_host, connection.proxy_port) == ("127.0.0.1", peer.port)
            assert fetch(connection) == b"ok"
            assert "secret" not in repr(connection)
        with HTTP11Connection("127.0.0.1", peer.port) as connection:
            connection.set_tunnel("far.test", 81, {"Proxy-Authorization": "x"})
            assert fetch(connection) == b"ok"
            with pytest.raises(RuntimeError, match="already"):
                connection.set_tunnel("far.test")
    first = heard[0].split(b"\r\n")
    assert first[0] == b"CONNECT far.test:81 HTTP/1.1"
    assert {b"Host: far.test:81", b"X-P: 1", b"Proxy-Authorization: Basic YW5uOnNlY3JldCE="} <= set(first)
    assert b"Host: far.test:81" in heard[1].split(b"\r\n")
    assert b"Proxy-Authorization: x" in heard[2].split(b"\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 407 Who are you?\r\n\r\n",
            "the proxy 127.0.0.1:.* refuses a tunnel to far.test:81: 407 Who are you",
        ),
        (b"", "no tunnel to far.test:81: the proxy .* closed the connection"),
        (b"what?\r\n\r\n", "no tunnel to far.test:81: what the proxy .* answers is no HTTP/1.1"),
    ],
)
def test_a_proxy_that_gives_no_tunnel_is_named(answer: bytes, said: str) -> None:
    with scripted(leaves_after(answer)) as peer:
        connection = HTTP11Connection("far.test", 81, proxy_host="u:secret@127.0.0.1", proxy_port=peer.port)
        with pytest.raises(ConnectFailed, match=said) as caught:
            connection.request("GET", "/")
        assert isinstance(caught.value, OSError)
        assert "secret" not in str(caught.value)
