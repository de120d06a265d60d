"""Our client, reaching services through Debian's tinyproxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.errors import ConnectFailed
from actors.settings import Backoff
from supervisor.link import Link
from supervisor.link_state import LinkState
from supervisor.server import Server
from tests.interop.bodies import big_blocks, greet
from tests.interop.command import muxlink
from tests.interop.debian import nginx, tinyproxy
from tests.interop.peers import Nghttpd
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_an_https_service_of_somebody_else_is_reached_through_tinyproxy(
    tmp_path: Path, authority: Authority
) -> None:
    """C6."""
    (tmp_path / "small").write_bytes(b"hello, world")
    async with (
        nginx(tmp_path, *authority.issue(), http2=True) as service,
        tinyproxy(tmp_path, connects_to=[service.port]) as proxy,
        Link(f"https://localhost:{service.port}", tls=authority.client(), proxy=proxy.url) as link,
    ):
        replies = await asyncio.gather(*[link.request("GET", "/small", timeout=10) for _ in range(20)])
        assert [(reply.status, reply.body) for reply in replies] == [(200, b"hello, world")] * 20
        log = await proxy.logged(f"CONNECT localhost:{service.port}")
    assert log.count("CONNECT localhost") == 1


@pytest.mark.bulk
async def test_a_plaintext_service_is_reached_through_tinyproxy(nghttpd: Nghttpd, htdocs: Path, tmp_path: Path) -> None:
    """C6: nghttpd says its SETTINGS at once, and the tunnel loses nothing of them; nor of some megabytes."""
    body = b"".join(big_blocks())[: 4 << 20]
    (htdocs / "more").write_bytes(body)
    async with (
        nghttpd(htdocs) as service,
        tinyproxy(tmp_path, connects_to=[service.port]) as proxy,
        Link(f"http://localhost:{service.port}", proxy=proxy.url, connections=3) as link,
    ):
        replies = await asyncio.gather(*[link.request("GET", "/more", timeout=30) for _ in range(6)])
    assert all(reply.body == body for reply in replies)


async def test_tinyproxy_lets_in_who_has_the_password_and_nobody_else(tmp_path: Path) -> None:
    """C6: the command, too; and nobody says the password."""
    async with Server(greet) as server, tinyproxy(tmp_path, connects_to=[server.port], login="ann geheim") as proxy:
        place = proxy.url.removeprefix("http://")
        async with Link(server.url, proxy=f"http://ann:geheim@{place}") as link:
            reply = await link.request("POST", "/", body=b"ann", timeout=10)
        ran = await muxlink("request", "--proxy", f"http://ann:geheim@{place}", "-d", "bob", f"{server.url}/")
        for url, status in ((proxy.url, 407), (f"http://ann:falsch@{place}", 401)):
            with pytest.raises(ConnectFailed, match=f"through the proxy {place}: it answered {status} ") as caught:
                async with Link(server.url, proxy=url):
                    pass
            assert caught.value.status == status
            assert "falsch" not in str(caught.value)
    assert reply.body == b"hello, ann"
    assert (ran.code, ran.text) == (0, "hello, bob")


async def test_a_port_that_tinyproxy_does_not_allow_is_403(tmp_path: Path) -> None:
    async with Server(greet) as server, tinyproxy(tmp_path, connects_to=[443]) as proxy:
        place = proxy.url.removeprefix("http://")
        line = f"to 127.0.0.1:{server.port} through the proxy {place}: it answered 403 .* does it allow that host"
        with pytest.raises(ConnectFailed, match=line) as caught:
            async with Link(server.url, proxy=proxy.url):
                pass
    assert caught.value.status == 403


async def test_a_service_that_tinyproxy_does_not_reach_is_a_refusal_with_its_status(
    tmp_path: Path, unused_port: int
) -> None:
    async with tinyproxy(tmp_path, connects_to=[unused_port]) as proxy:
        with pytest.raises(ConnectFailed, match=f"no connection to localhost:{unused_port} through the") as caught:
            async with Link(f"http://localhost:{unused_port}", proxy=proxy.url):
                pass
    assert caught.value.status is not None
    assert caught.value.status >= 500


async def test_a_link_outlives_a_tinyproxy_that_is_killed_and_started_again(
    tmp_path: Path, authority: Authority
) -> None:
    async with Server(greet, tls=authority.server()) as server:
        url = f"https://localhost:{server.port}"
        async with tinyproxy(tmp_path, connects_to=[server.port]) as proxy:
            link = Link(
                url, tls=authority.client(), proxy=proxy.url, backoff=Backoff(initial=0.05, maximum=0.2),
            )  # fmt: skip
            await link.__aenter__()
            assert (await link.request("GET", "/", timeout=10)).status == 200
            changes = link.changes()
        async with asyncio.timeout(20):
            async for change in changes:
                if change.state is LinkState.TRANSIENT_FAILURE:
                    break
            with pytest.raises(ConnectFailed, match=r"through the proxy .*Connection refused"):
                await link.request("GET", "/")
            async with tinyproxy(tmp_path, connects_to=[server.port], port=proxy.port):
                again = await link.request("GET", "/", wait_for_ready=True)
                await link.close()
    assert again.status == 200
