"""Servers of HTTP/1.1 for tests of blocking clients: the standard library's, and one that follows a script.

Both run in threads; leaving them waits for their threads.
"""

from __future__ import annotations

import gzip
import http.server
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from attrs import define, field

Script = Callable[[socket.socket], None]
LONG: Final = bytes(range(256)) * 4096
"""A mebibyte."""


class Handler(http.server.BaseHTTPRequestHandler):
    """GET answers by its path, everything else with what it was sent."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Stdlib

    def setup(self) -> None:
        super().setup()
        with self.server.counted:
            self.server.connections += 1

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, list(self.headers.items()), b""))
        match self.path.partition("?")[0]:
            case "/long":
                self.answer(200, LONG)
            case "/gzip":
                self.answer(200, gzip.compress(LONG), ("Content-Encoding", "gzip"))
            case "/deflate":
                self.answer(200, zlib.compress(LONG), ("Content-Encoding", "deflate"))
            case "/chunked":
                self.chunked([b"one", b"two", b"three"])
            case "/close":
                self.answer(200, b"the last", ("Connection", "close"))
            case "/cookies":
                self.answer(200, b"", ("Set-Cookie", "a=1, or 2"), ("Set-Cookie", "b=2"))
            case "/redirect":
                self.answer(302, b"", ("Location", "/there"))
            case "/missing":
                self.answer(404, b"not here")
            case "/silent":
                self.server.stopping.wait(30)
            case _:
                self.answer(200, self.path.encode(), ("X-Several", "1"), ("X-Several", "2"))

    do_HEAD = do_GET  # noqa: N815  (the base's names)

    def chunked(self, parts: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "x-count")
        self.end_headers()
        for part in parts:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\nx-count: %d\r\n\r\n" % len(parts))

    def do_POST(self) -> None:
        body = self.body()
        self.server.requests.append((self.command, self.path, list(self.headers.items()), body))
        self.answer(200, body, ("X-Method", self.command))

    do_PUT = do_POST  # noqa: N815
    do_PATCH = do_POST  # noqa: N815
    do_DELETE = do_POST  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


class Stdlib(http.server.ThreadingHTTPServer):
    """The standard library's server, which knows HTTP/1.1 alone."""

    daemon_threads = False

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests: list[tuple[str, str, list[tuple[str, str]], bytes]] = []
        self.connections = 0
        self.counted: Final = threading.Lock()
        self.stopping: Final = threading.Event()
        self.open: Final[set[socket.socket]] = set()
        self._context = context
        self.port: int = self.server_address[1]

    def get_request(self) -> tuple[socket.socket, object]:
        sock, address = super().get_request()
        if self._context is not None:
            # The handshake takes place in the connection's own thread, at its first read.
            sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.open.add(sock)
        return sock, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no fault of the server's."""

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self.open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Close every connection, as a server does that is tired of idle ones."""
        for sock in list(self.open):
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def until_quiet(self) -> None:
        """Wait until no connection is open."""
        deadline = time.monotonic() + 10
        while self.open:
            assert time.monotonic() < deadline, "connections stay open"
            time.sleep(0.005)


@contextmanager
def stdlib_server(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Stdlib]:
    """The standard library's server, over TLS where a context is given."""
    with Stdlib(context, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
            server.cut()


@define
class Scripted:
    """A server that does to each connection what the script for it says."""

    port: int
    connections: int = 0
    heard: list[bytes] = field(factory=list)


@contextmanager
def scripted(*scripts: Script, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Run a script for each connection, in their order; the last is for all that follow."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        server = Scripted(listener.getsockname()[1])
        over = threading.Event()
        threads: list[threading.Thread] = []
        sockets: list[socket.socket] = []

        def run(sock: socket.socket, script: Script) -> None:
            with suppress(OSError), sock:
                if context is None:
                    script(sock)
                else:
                    with context.wrap_socket(sock, server_side=True) as encrypted:
                        script(encrypted)

        def accept() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    sock, _ = listener.accept()
                    sock.settimeout(10)
                    sockets.append(sock)
                    script = scripts[min(server.connections, len(scripts) - 1)]
                    server.connections += 1
                    threads.append(threading.Thread(target=run, args=(sock, script)))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server
        finally:
            over.set()
            acceptor.join()
            for sock in sockets:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def head(sock: socket.socket) -> bytes:
    """Read a request's head, and no byte behind it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        if not (byte := sock.recv(1)):
            return data
        data += byte
    return data


def says(*answers: bytes) -> Script:
    """Read a head before each of the answers, then wait until the client leaves."""

    def script(sock: socket.socket) -> None:
        for answer in answers:
            head(sock)
            sock.sendall(answer)
        sock.recv(1)

    return script


def leaves_after(*answers: bytes) -> Script:
    """Read a head before each of the answers, and close."""

    def script(sock: socket.socket) -> None:
        for answer in answers:
            head(sock)
            sock.sendall(answer)

    return script
