"""What the standard library itself does with a connection of http.client's: urllib, xmlrpc and logging."""

from __future__ import annotations

import gzip
import http.client
import logging
import logging.handlers
import threading
import urllib.error
import urllib.request
import xmlrpc.client
import xmlrpc.server
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors.errors import Misuse
from actors.server_stream import ServerStream
from supervisor.adapters.hyper import HTTPConnection
from tests.supervisor.adapters.http11_servers import LONG, stdlib_server
from tests.supervisor.adapters.served import answers, in_thread


async def handler(stream: ServerStream) -> None:
    match stream.path:
        case "/redirect":
            await stream.respond(302, {"location": "/there"})
        case "/missing":
            await stream.respond(404, body=b"not here")
        case "/RPC2":
            _, method = xmlrpc.client.loads((await stream.read()).decode())
            packed = gzip.compress(xmlrpc.client.dumps((f"{method} " * 1000,), methodresponse=True).encode())
            await stream.respond(200, {"content-type": "text/xml", "content-encoding": "gzip"}, body=packed)
        case _:
            await answers(stream)


@pytest.fixture(params=["http/1.1", "h2"])
def connect(request: pytest.FixtureRequest) -> Iterator[tuple[int, Callable[..., HTTPConnection]]]:
    """The port of a server, and what makes a connection to it."""

    def make(host: str, **options: Any) -> HTTPConnection:
        return HTTPConnection(host, force_proto=request.param, **options)

    with stdlib_server() if request.param == "http/1.1" else in_thread(handler) as server:
        yield server.port, make


@pytest.fixture
def opened(connect: tuple[int, Callable[..., HTTPConnection]]) -> Callable[..., Any]:
    """urllib's ``open``, with our connections below."""
    port, make = connect

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(make, req)  # type: ignore[arg-type]

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Handler())
    return lambda path, data=None: opener.open(f"http://127.0.0.1:{port}{path}", data, timeout=10)


def test_urllib_reads_writes_and_follows_redirects(opened: Callable[..., Any]) -> None:
    with opened("/long") as response:
        assert (response.status, response.read()) == (200, LONG)
        assert response.info()["content-length"] == str(len(LONG))
    with opened("/echo", b"data") as response:
        assert response.read() == b"data"
    with opened("/redirect") as response:
        assert (response.url.rpartition("/")[2], response.read()) == ("there", b"/there")
    with pytest.raises(urllib.error.HTTPError) as caught:
        opened("/missing")
    with caught.value as error:
        assert (error.code, error.read(), error.headers["content-length"]) == (404, b"not here", "8")


def test_what_decodes_by_http_clients_names_is_not_fooled(opened: Callable[..., Any]) -> None:
    """A body that comes decoded has no Content-Encoding there; hyper's own map has it."""
    with opened("/gzip") as response:
        assert response.getheader("Content-Encoding") is None
        assert response.getheader("content-length", "unknown") == "unknown"
        assert "Content-Encoding" not in response.info()
        assert not {"content-encoding", "content-length"} & {name.lower() for name, _ in response.getheaders()}
        assert response.headers[b"content-encoding"] == [b"gzip"]
        assert response.read() == LONG


class Transport(xmlrpc.client.Transport):
    """As the documentation of xmlrpc.client has it."""

    def __init__(self, make: Callable[..., HTTPConnection]) -> None:
        super().__init__()
        self.make = make

    def make_connection(self, host: Any) -> Any:
        if self._connection is None or host != self._connection[0]:
            self._connection = host, self.make(host)  # type: ignore[assignment]
        return self._connection[1]


def test_xmlrpc_over_http2_decodes_what_its_server_packed() -> None:
    with in_thread(handler) as server:
        transport = Transport(lambda host: HTTPConnection(host, force_proto="h2", timeout=10))
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.port}/RPC2", transport) as proxy:
            assert proxy.one() == "one " * 1000
            assert proxy.two() == "two " * 1000


def test_xmlrpc_with_the_standard_librarys_server() -> None:
    with xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
        server.register_function(lambda size: "x" * size, "of")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            transport = Transport(lambda host: HTTPConnection(host, timeout=10))
            with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.server_address[1]}", transport) as proxy:
                assert [len(str(proxy.of(size))) for size in (1, 100_000)] == [1, 100_000]  # the second in gzip
                with pytest.raises(xmlrpc.client.Fault):
                    proxy.nothing()
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_logging_sends_its_records(connect: tuple[int, Callable[..., HTTPConnection]], method: str) -> None:
    port, make = connect
    made: list[HTTPConnection] = []

    class Handler(logging.handlers.HTTPHandler):
        def getConnection(self, host: str, secure: bool) -> Any:  # noqa: N802  (the base's name)
            made.append(make(host, timeout=10))
            return made[-1]

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
            raise AssertionError(record)

    logs = Handler(f"127.0.0.1:{port}", "/log", method, credentials=("ann", "secret"))
    logs.emit(logging.LogRecord("name", logging.ERROR, "path", 1, "a message \u00e4", (), None))
    assert len(made) == 1
    made[0].close()


def test_a_socket_is_given_up_as_urllib_does_it_and_nothing_else_is_set() -> None:
    with stdlib_server() as server, HTTPConnection("127.0.0.1", server.port) as connection:
        connection.request("GET", "/one")
        assert connection.getresponse().read() == b"/one"
        assert connection.sock is not None
        with pytest.raises(Misuse, match="sock can be set to None"):
            connection.sock = connection.sock  # type: ignore[assignment]
        connection.sock = None
        assert vars(HTTPConnection)["sock"].fget(connection) is None
        connection.request("POST", "/two", b"two")
        assert connection.getresponse().read() == b"two"
        assert server.connections == 2
