"""Blocking code that reaches its servers through Debian's tinyproxy, by CONNECT."""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from actors.errors import ConnectFailed
from supervisor.adapters.hyper import HTTPConnection, HTTPSConnection, init_context
from tests.interop.blocking import entered
from tests.interop.debian import tinyproxy
from tests.interop.peers import free_port
from tests.supervisor.adapters.http11_servers import stdlib_server
from tests.supervisor.adapters.served import answers, in_thread
from tests.support.certificates import Authority

LOGIN = base64.b64encode(b"ann:geheim").decode()


@frozen
class World:
    """A proxy, and who is behind it."""

    proxy: int
    closed: int
    """A proxy that asks who is there."""
    new: int
    old: int
    plain: int
    cafile: str

    @property
    def context(self) -> ssl.SSLContext:
        return init_context(self.cafile)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("world")
    authority = Authority(folder)
    with ExitStack() as stack:
        new = stack.enter_context(in_thread(answers, tls=authority.server())).port
        old = stack.enter_context(stdlib_server(authority.server_context("http/1.1"))).port
        plain = stack.enter_context(stdlib_server()).port
        allowed = [new, old, plain]
        (folder / "closed").mkdir()
        proxy = stack.enter_context(entered(tinyproxy(folder, connects_to=allowed)))
        closed = stack.enter_context(entered(tinyproxy(folder / "closed", connects_to=allowed, login="ann geheim")))
        yield World(proxy.port, closed.port, new, old, plain, authority.file)


@pytest.mark.parametrize(("server", "version"), [("new", 20), ("old", 11), ("plain", 11)])
def test_each_kind_of_server_is_reached_through_the_proxy(world: World, server: str, version: int) -> None:
    """C6, C4."""
    context = None if server == "plain" else world.context
    with HTTPConnection(
        "localhost", getattr(world, server), ssl_context=context, proxy_host="127.0.0.1", proxy_port=world.proxy
    ) as connection:
        for path in (b"/one", b"/two"):
            number = connection.request("GET", path)
            response = connection.get_response(number)
            assert (response.version, response.read()) == (version, path)


@pytest.mark.parametrize("server", ["new", "old"])
def test_a_password_opens_the_proxy_and_is_never_said(world: World, server: str) -> None:
    """C6."""
    port = getattr(world, server)
    with HTTPConnection(
        "localhost", port, ssl_context=world.context, proxy_host="127.0.0.1", proxy_port=world.closed,
        proxy_headers={"Proxy-Authorization": f"Basic {LOGIN}"},
    ) as connection:  # fmt: skip
        connection.request("GET", "/in")
        assert connection.get_response().read() == b"/in"
    for headers in (None, {"Proxy-Authorization": "Basic " + base64.b64encode(b"ann:falsch").decode()}):
        refused = HTTPConnection(
            "localhost", port, ssl_context=world.context, proxy_host="127.0.0.1", proxy_port=world.closed,
            proxy_headers=headers,
        )  # fmt: skip
        with pytest.raises(ConnectFailed, match=f"127.0.0.1:{world.closed}") as caught:
            refused.connect()
        assert caught.value.status in (401, 407)
        assert "falsch" not in str(caught.value)
        refused.close()


@pytest.mark.parametrize("kind", [http.client.HTTPSConnection, HTTPSConnection])
def test_set_tunnel_is_http_clients(world: World, kind: Any) -> None:
    """C6: the host that the connection is made for is the proxy."""
    context = world.context if kind is HTTPSConnection else ssl.create_default_context(cafile=world.cafile)
    server = world.new if kind is HTTPSConnection else world.old
    connection = kind("127.0.0.1", world.closed, context=context)
    connection.set_tunnel("localhost", server, {"Proxy-Authorization": f"Basic {LOGIN}"})
    connection.request("HEAD", "/index.html")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.close()


def test_set_tunnel_with_headers_that_only_http1_tells_a_proxy(world: World) -> None:
    with HTTPSConnection("127.0.0.1", world.proxy, context=world.context) as connection:
        connection.set_tunnel("localhost", world.old, {"User-Agent": "mine"})
        connection.request("GET", "/agent")
        assert connection.getresponse().read() == b"/agent"


@pytest.mark.parametrize("secure", [True, False])
def test_a_port_that_the_proxy_does_not_allow_is_a_refusal(world: World, secure: bool) -> None:
    connection = HTTPConnection("localhost", free_port(), secure, proxy_host="127.0.0.1", proxy_port=world.proxy)
    with pytest.raises(ConnectFailed) as caught:
        connection.connect()
    assert caught.value.status == 403
    connection.close()
