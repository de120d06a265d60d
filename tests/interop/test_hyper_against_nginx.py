"""Blocking code against Debian's nginx: HTTP/2 over TLS, HTTP/1.1 alone over TLS, and plaintext."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from actors.errors import TlsFailed
from supervisor.adapters.hyper import HTTP11Connection, HTTP20Connection, HTTPConnection, init_context
from tests.interop.blocking import entered
from tests.interop.debian import nginx
from tests.supervisor.adapters.http11_servers import LONG, stdlib_server
from tests.support.certificates import Authority


@frozen
class Nginx:
    """Two of them in front of one server, and who vouches for them."""

    new: int
    """The port where HTTP/2 is spoken."""
    old: int
    """The port where HTTP/1.1 alone is spoken."""
    plain: int
    wrong: int
    """The port whose certificate is for another host."""
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    authority = Authority(tmp_path_factory.mktemp("authority"))

    def folder() -> Path:
        return tmp_path_factory.mktemp("nginx")

    with ExitStack() as stack:
        behind = stack.enter_context(stdlib_server()).port
        own, other = authority.issue(), authority.issue("other.test")
        yield Nginx(
            new=stack.enter_context(entered(nginx(folder(), *own, http2=True, upstream=behind))).port,
            old=stack.enter_context(entered(nginx(folder(), *own, http2=False, upstream=behind))).port,
            plain=stack.enter_context(entered(nginx(folder(), *own, http2=False, upstream=behind, tls=False))).port,
            wrong=stack.enter_context(entered(nginx(folder(), *other, http2=True))).port,
            context=init_context(authority.file),
        )


@pytest.fixture(params=[20, 11], ids=["HTTP/2", "HTTP/1.1"])
def connection(request: pytest.FixtureRequest, peers: Nginx) -> Iterator[HTTPConnection]:
    port = peers.new if request.param == 20 else peers.old
    with HTTPConnection("localhost", port, ssl_context=peers.context, timeout=20) as made:
        yield made


def test_nginx_with_http2_is_spoken_to_by_that(peers: Nginx) -> None:
    """C3."""
    with HTTPConnection("localhost", peers.new, ssl_context=peers.context) as connection:
        number = connection.request("GET", "/small")
        response = connection.get_response(number)
        assert (response.status, response.version, response.read()) == (200, 20, b"/small")


def test_nginx_without_http2_is_spoken_to_by_http1_and_nobody_notices(peers: Nginx) -> None:
    """C4: its alert is no_application_protocol where h2 alone is offered, and its choice http/1.1 where both are."""
    with HTTPConnection("localhost", peers.old, ssl_context=peers.context) as connection:
        connection.request("GET", "/small")
        response = connection.get_response()
        assert (response.status, response.version, response.read()) == (200, 11, b"/small")
    with pytest.raises(TlsFailed, match="does not speak HTTP/2"):
        HTTP20Connection("localhost", peers.old, ssl_context=peers.context).connect()


def test_nginx_in_plaintext_answers_the_offer_of_http2_by_http1(peers: Nginx) -> None:
    """C4."""
    with HTTPConnection("localhost", peers.plain) as connection:
        for path in (b"/one", b"/two"):
            connection.request("GET", path)
            response = connection.get_response()
            assert (response.version, response.read()) == (11, path)


def test_uploads_and_downloads_are_streamed(connection: HTTPConnection) -> None:
    """C6."""
    connection.request("POST", "/upload", (LONG[at : at + 10_000] for at in range(0, len(LONG), 10_000)))
    assert connection.get_response().read() == LONG
    connection.request("GET", "/long")
    assert b"".join(connection.get_response().read_chunked()) == LONG


def test_encoded_bodies_are_decoded(connection: HTTPConnection) -> None:
    """C6."""
    for path in ("/gzip", "/deflate"):
        connection.request("GET", path)
        assert connection.get_response().read() == LONG
    connection.request("GET", "/gzip")
    assert gzip.decompress(connection.get_response().read(decode_content=False)) == LONG


def test_eight_threads_share_a_connection(connection: HTTPConnection) -> None:
    """C3, C4."""

    def work(number: int) -> bool:
        bodies = [f"{number}/{turn}".encode() * 1000 for turn in range(10)]
        found = []
        for body in bodies:
            number_of_request = connection.request("PUT", "/", body)
            found.append(connection.get_response(number_of_request).read())
        return found == bodies

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


@pytest.mark.parametrize("kind", [HTTPConnection, HTTP20Connection, HTTP11Connection])
def test_a_certificate_is_verified_by_each(peers: Nginx, kind: Any) -> None:
    """C5."""
    with pytest.raises(ssl.SSLCertVerificationError, match="unknown authority"):
        kind("localhost", peers.new, True).connect()
    if kind is not HTTP20Connection:
        with pytest.raises(ssl.SSLCertVerificationError, match="unknown authority"):
            kind("localhost", peers.old, True).connect()
    with pytest.raises(ssl.SSLCertVerificationError, match="for another host name"):
        kind("localhost", peers.wrong, ssl_context=peers.context).connect()


def test_a_silent_upstream_costs_the_read_timeout(peers: Nginx) -> None:
    """C6."""
    for port in (peers.new, peers.old):
        with HTTPConnection("localhost", port, ssl_context=peers.context, timeout=(10, 0.2)) as connection:
            number = connection.request("GET", "/silent")
            with pytest.raises(TimeoutError):
                connection.get_response(number)
