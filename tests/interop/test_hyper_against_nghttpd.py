"""The blocking face, calling nghttp2's server: pushes, trailers, and bodies of many MiB from eight threads."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.adapters.http20.connection import HTTP20Connection
from tests.interop.bodies import BIG, big_blocks, big_digest, resident_bytes
from tests.interop.peers import Nghttpd, RunningNghttpd
from tests.support.proxies import elsewhere, proxying

THREADS = 8
MIB = 1 << 20


@contextmanager
def running(nghttpd: Nghttpd, htdocs: Path, *options: str) -> Iterator[RunningNghttpd]:
    with elsewhere(lambda: nghttpd(htdocs, *options)) as peer:
        yield peer


def connected(peer: RunningNghttpd, *, enable_push: bool = False) -> HTTP20Connection:
    return HTTP20Connection("127.0.0.1", peer.port, enable_push=enable_push, timeout=30)


def test_a_response_has_headers_body_and_trailers(nghttpd: Nghttpd, htdocs: Path) -> None:
    """C3, C6."""
    with running(nghttpd, htdocs, "--trailer=x-sum: abc") as peer, connected(peer) as connection:
        connection.request("GET", "/small")
        response = connection.get_response()
        assert response.status == 200
        assert response.headers["Server"][0].startswith(b"nghttpd")
        assert response.read() == b"hello, world"
        assert response.trailers["x-sum"] == [b"abc"]
        connection.request("GET", "/nowhere")
        assert connection.get_response().status == 404
        assert connection.ping(b"12345678") >= 0


def test_what_nghttpd_pushes_is_taken(nghttpd: Nghttpd, htdocs: Path) -> None:
    """C6."""
    for name in ("one", "two"):
        (htdocs / name).write_bytes(name.encode() * 1000)
    with (
        running(nghttpd, htdocs, "--push=/small=/one,/two") as peer,
        connected(peer, enable_push=True) as connection,
    ):
        connection.request("GET", "/small")
        response = connection.get_response()
        pushed = list(connection.get_pushes(capture_all=True))
        assert [(push.method, push.scheme, push.path) for push in pushed] == [
            (b"GET", b"http", b"/one"),
            (b"GET", b"http", b"/two"),
        ]
        assert pushed[1].get_response().read() == b"two" * 1000
        assert response.read() == b"hello, world"
        pushed[0].cancel()
        connection.request("GET", "/one")
        assert connection.get_response().read() == b"one" * 1000


def test_nothing_is_pushed_to_who_does_not_want_it(nghttpd: Nghttpd, htdocs: Path) -> None:
    with running(nghttpd, htdocs, "--push=/small=/small", "--verbose") as peer, connected(peer) as connection:
        connection.request("GET", "/small")
        assert connection.get_response().read() == b"hello, world"
        assert list(connection.get_pushes(capture_all=True)) == []
        assert "PUSH_PROMISE" not in peer.log()


def test_many_mib_go_both_ways_from_eight_threads_and_are_held_by_nobody(
    nghttpd: Nghttpd, htdocs: Path, big_file: Path
) -> None:
    """C3, C6: each thread sends 16 MiB that come back, and together they download a file of 100 MB in pieces."""
    (htdocs / "big").symlink_to(big_file)

    def echoes(number: int) -> str:
        connection.request("POST", "/echo", (bytes([number]) * MIB for _ in range(16)))
        return hashlib.sha256(connection.get_response().read()).hexdigest()

    def downloads(_: int) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        connection.request("GET", "/big")
        response = connection.get_response()
        while data := response.read(MIB):
            digest.update(data)
            size += len(data)
        return size, digest.hexdigest()

    with (
        running(nghttpd, htdocs, "--echo-upload") as peer,
        connected(peer) as connection,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        echoed = list(pool.map(echoes, range(THREADS)))
        assert echoed == [hashlib.sha256(bytes([number]) * 16 * MIB).hexdigest() for number in range(THREADS)]
        before = resident_bytes()
        assert list(pool.map(downloads, range(2))) == [(BIG, big_digest())] * 2
        assert resident_bytes() - before < 64 * MIB


def test_an_upload_of_100_mb_is_held_by_nobody(nghttpd: Nghttpd, htdocs: Path) -> None:
    """C6: without ``--echo-upload`` nghttpd reads a body and answers at its end."""
    with running(nghttpd, htdocs) as peer, connected(peer) as connection:
        connection.request("GET", "/small")
        connection.get_response().read()
        before = resident_bytes()
        connection.request("POST", "/small", iter(big_blocks()))
        assert connection.get_response().status == 200
        assert resident_bytes() - before < 64 * MIB


def test_a_server_that_was_killed_and_came_back_is_reached_again(nghttpd: Nghttpd, htdocs: Path) -> None:
    with running(nghttpd, htdocs) as peer:
        connection = connected(peer)
        fetch(connection)
        peer.process.kill()
        with pytest.raises(ConnectionError):
            fetch_often(connection)
    again = subprocess.Popen([nghttpd.path, "--no-tls", "--address=127.0.0.1", f"--htdocs={htdocs}", str(peer.port)])
    try:
        until_it_listens(connection)
        assert fetch(connection) == b"hello, world"
    finally:
        again.kill()
        again.wait()
        connection.close()


def fetch(connection: HTTP20Connection) -> bytes:
    connection.request("GET", "/small")
    return connection.get_response().read()


def until_it_listens(connection: HTTP20Connection) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            connection.connect()
        except ConnectionRefusedError:
            assert time.monotonic() < end
        else:
            return


def fetch_often(connection: HTTP20Connection) -> None:
    for _ in range(100):
        fetch(connection)


def test_requests_go_through_a_connect_proxy(nghttpd: Nghttpd, htdocs: Path) -> None:
    """C6."""
    with running(nghttpd, htdocs) as peer, elsewhere(lambda: proxying({"origin.test:80": peer.port})) as proxy:
        with HTTP20Connection(
            "origin.test", 80, proxy_host="127.0.0.1", proxy_port=proxy.port, timeout=10
        ) as connection:
            connection.request("GET", "/small")
            assert connection.get_response().read() == b"hello, world"
        with HTTP20Connection("127.0.0.1", proxy.port, timeout=10) as tunnelled:
            tunnelled.set_tunnel("origin.test", 80)
            tunnelled.request("GET", "/small")
            assert tunnelled.getresponse().read() == b"hello, world"
        assert proxy.asked == ["origin.test:80"] * 2
