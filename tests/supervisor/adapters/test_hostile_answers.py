"""Servers that lie, and callers that give what nobody can send: an error that names it, no secret shown, no hang."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from actors.errors import Closed, InvalidHeaders, LinkError, Misuse, ProtocolViolation
from supervisor.adapters.hyper import HTTP11Connection, HTTP20Connection, HTTPConnection
from tests.supervisor.adapters.http11_servers import head, says, scripted, stdlib_server
from tests.supervisor.adapters.served import answers, in_thread


@pytest.fixture(params=["http/1.1", "h2"])
def connection(request: pytest.FixtureRequest) -> Iterator[HTTPConnection]:
    with (
        stdlib_server() if request.param == "http/1.1" else in_thread(answers) as server,
        HTTPConnection("127.0.0.1", server.port, force_proto=request.param, timeout=10) as made,
    ):
        yield made


@pytest.mark.parametrize("informational", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\na: b\r\n\r\n"])
def test_informational_responses_without_end_are_an_error(informational: bytes) -> None:
    def storm(sock: socket.socket) -> None:
        head(sock)
        with suppress(OSError):
            while True:
                sock.sendall(informational * 1000)

    with scripted(storm) as peer, HTTPConnection("127.0.0.1", peer.port, timeout=10) as connection:
        connection.request("GET", "/")
        with pytest.raises(ProtocolViolation, match="informational responses without end"):
            connection.get_response()


@pytest.mark.parametrize("size", ["10", 1.5, b"1", [1]])
@pytest.mark.parametrize("method", ["read", "read1", "readline"])
def test_how_much_to_read_is_a_number(connection: HTTPConnection, method: str, size: Any) -> None:
    connection.request("GET", "/hello")
    response = connection.get_response()
    with pytest.raises(Misuse, match="how much to read is a number of bytes, not"):
        getattr(response, method)(size)
    assert response.read() == b"/hello"


@pytest.mark.parametrize("method", ["GET /elsewhere", "G(T", "", "GET\t", "G\u00c9T"])
def test_a_method_that_is_no_token_is_refused(connection: HTTPConnection, method: str) -> None:
    with pytest.raises(InvalidHeaders, match=r"the method .* is not a token"):
        connection.request(method, "/")
    connection.request("GET", "/next")
    assert connection.get_response().read() == b"/next"


@pytest.mark.parametrize("headers", [5, "abc", [("a",)], {None: "b"}])
def test_headers_that_are_none_are_refused(connection: HTTPConnection, headers: Any) -> None:
    with pytest.raises(InvalidHeaders, match="headers are a mapping or pairs"):
        connection.request("GET", "/", headers=headers)


def test_no_query_is_shown(connection: HTTPConnection) -> None:
    with pytest.raises(ValueError, match="path") as caught:
        connection.request("GET", "/path?token=secret word")
    assert isinstance(caught.value, InvalidHeaders)
    assert "/path" in str(caught.value)
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "secret" not in str(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    connection.request("GET", "/path?token=secret")
    response = connection.get_response()
    assert "secret" not in repr(response)
    assert response.geturl().endswith("/path?token=secret")
    assert response.read() == b"/path?token=secret"


@pytest.mark.parametrize("kind", [HTTPConnection, HTTP11Connection, HTTP20Connection])
def test_credentials_before_a_host_are_refused_and_not_shown(kind: Callable[..., Any]) -> None:
    with pytest.raises(Misuse, match="credentials do not belong in a") as caught:
        kind("ann:secret@127.0.0.1", 8080)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "headers", [{"X": "a\r\nInjected: b"}, {"X\r\nInjected": "b"}, {"X": "\u20ac"}, [("X", "b")], "X"]
)
def test_nothing_is_slipped_in_by_the_headers_for_a_proxy(headers: Any) -> None:
    with pytest.raises(InvalidHeaders, match="header"):
        HTTPConnection("far.test", 80, proxy_host="127.0.0.1", proxy_headers=headers)
    with pytest.raises(InvalidHeaders, match="header"):
        HTTP11Connection("far.test", 80, proxy_host="127.0.0.1", proxy_headers=headers)
    with scripted(says(b"")) as peer, HTTPConnection("127.0.0.1", peer.port) as connection:
        with pytest.raises(LinkError, match="header"):
            connection.set_tunnel("far.test", 80, headers)
        assert peer.connections == 0


def test_a_host_that_cannot_be_written_is_named_as_such() -> None:
    with pytest.raises(Misuse, match="there can be no host xn--"):
        HTTP11Connection("xn--\u00e4", 80).request("GET", "/")


@pytest.mark.parametrize("kind", [HTTPConnection, HTTP11Connection, HTTP20Connection])
@pytest.mark.parametrize("size", [0, -1, "1", None, 1.5])
def test_a_blocksize_that_would_send_nothing_is_refused(kind: Callable[..., Any], size: Any) -> None:
    with pytest.raises(ValueError, match="blocksize is a number of bytes from 1 on") as caught:
        kind("127.0.0.1", 80, blocksize=size)
    assert isinstance(caught.value, Misuse)


@pytest.mark.parametrize("source", ["127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "0"), 0])
def test_a_source_address_that_is_none_is_refused(source: Any) -> None:
    with pytest.raises(Misuse, match="a source_address is a pair"):
        HTTPConnection("127.0.0.1", 80, source_address=source)


@pytest.mark.parametrize("stream_id", ["1", [], 1.0, {}])
def test_an_id_that_is_no_number_is_refused(stream_id: Any) -> None:
    with in_thread(answers) as server, HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("GET", "/")
        for call in (connection.get_response, connection.get_pushes, lambda n: connection.send(b"", stream_id=n)):
            with pytest.raises(Misuse, match="its id is the number that request"):
                call(stream_id)
        assert connection.get_response().read() == b"/"


def test_a_server_that_waits_for_http2_in_plaintext_is_named() -> None:
    with in_thread(answers) as server, HTTPConnection("127.0.0.1", server.port, timeout=10) as connection:
        connection.request("GET", "/")
        with pytest.raises(ProtocolViolation, match=r'it is HTTP/2, .* force_proto="h2"'):
            connection.get_response()


def test_a_body_whose_reader_was_interrupted_does_not_look_complete() -> None:
    """Ctrl-C over HTTP/1.1 costs the connection; what is missing is said, and the next request connects again."""
    main = threading.main_thread().ident or 0
    had = threading.Event()

    def half(sock: socket.socket) -> None:
        head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        had.wait(10)
        while sys._current_frames()[main].f_code.co_name != "readinto":  # it waits for the socket
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)
        sock.recv(1)

    again = says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with scripted(half, again) as peer, HTTP11Connection("127.0.0.1", peer.port, timeout=10) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        assert response.read(4) == b"half"
        had.set()
        with pytest.raises(KeyboardInterrupt):
            response.read()
        with pytest.raises(Closed, match="interrupted"):
            response.read()
        connection.request("GET", "/")
        assert connection.get_response().read() == b"ok"
