"""requests with our adapter, against Debian's nginx and through tinyproxy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from attrs import frozen

from supervisor.adapters.requests import HTTP20Adapter
from tests.interop.blocking import entered
from tests.interop.debian import nginx, tinyproxy
from tests.supervisor.adapters.http11_servers import LONG, stdlib_server
from tests.support.certificates import Authority


@frozen
class World:
    """nginx with HTTP/2 and without, and a proxy in front of both."""

    new: str
    old: str
    proxy: str
    cafile: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("world")
    authority = Authority(folder)
    with ExitStack() as stack:
        behind = stack.enter_context(stdlib_server()).port
        new, old = (
            stack.enter_context(
                entered(nginx(tmp_path_factory.mktemp("n"), *authority.issue(), http2=http2, upstream=behind))
            ).port
            for http2 in (True, False)
        )
        proxy = stack.enter_context(entered(tinyproxy(folder, connects_to=[new, old]))).url
        yield World(f"https://localhost:{new}", f"https://localhost:{old}", proxy, authority.file)


@pytest.fixture
def session(world: World) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        made.verify = world.cafile
        made.mount("https://", HTTP20Adapter())
        yield made


@pytest.mark.parametrize(("server", "version"), [("new", 20), ("old", 11)])
def test_what_a_session_does_every_day(session: requests.Session, world: World, server: str, version: int) -> None:
    """C4, C6."""
    url = getattr(world, server)
    reply = session.get(f"{url}/hello", params={"a": "b"}, timeout=20)
    assert (reply.status_code, reply.reason, reply.text) == (200, "OK", "/hello?a=b")
    assert reply.raw.version == version
    assert session.post(f"{url}/", data={"a": "b"}, timeout=20).text == "a=b"
    assert session.post(f"{url}/", json={"a": 1}, timeout=20).json() == {"a": 1}
    assert session.put(f"{url}/", data=iter([b"in ", b"parts"]), timeout=20).text == "in parts"
    assert session.head(f"{url}/long", timeout=20).content == b""
    assert session.get(f"{url}/gzip", timeout=20).content == LONG
    assert session.get(f"{url}/missing", timeout=20).status_code == 404
    with session.get(f"{url}/long", stream=True, timeout=20) as streamed:
        assert b"".join(streamed.iter_content(10_000)) == LONG
    reply = session.get(f"{url}/cookies", timeout=20)
    assert session.cookies.get("b") == "2"
    assert session.get(f"{url}/redirect", timeout=20, allow_redirects=False).is_redirect


@pytest.mark.parametrize("server", ["new", "old"])
def test_eight_threads_share_a_session(session: requests.Session, world: World, server: str) -> None:
    """C3."""
    url = getattr(world, server)

    def work(number: int) -> bool:
        sent = [f"{number}/{turn}" for turn in range(10)]
        return [session.post(f"{url}/", data=each, timeout=20).text for each in sent] == sent

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


@pytest.mark.parametrize(("server", "version"), [("new", 20), ("old", 11)])
def test_a_proxy_is_asked_for_a_tunnel(
    session: requests.Session, world: World, server: str, version: int, unused_port: int
) -> None:
    """C6."""
    reply = session.get(f"{getattr(world, server)}/far", proxies={"https": world.proxy}, timeout=20)
    assert (reply.text, reply.raw.version) == ("/far", version)
    for proxy, url in (
        (world.proxy, f"https://localhost:{unused_port}"),
        (f"http://127.0.0.1:{unused_port}", world.new),
    ):
        with pytest.raises(requests.exceptions.ProxyError):
            session.get(url, proxies={"https": proxy}, timeout=20)


def test_certificates_are_verified(session: requests.Session, world: World) -> None:
    """C5."""
    for url in (world.new, world.old):
        with pytest.raises(requests.exceptions.SSLError, match="unknown authority"):
            session.get(url, verify=True, timeout=20)
        session.verify = False
        assert session.get(url, verify=False, timeout=20).ok
