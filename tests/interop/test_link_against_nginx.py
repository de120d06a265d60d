"""Our client, calling Debian's nginx over TLS: with HTTP/2, and with HTTP/1.1 alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import TlsFailed
from actors.settings import Tls
from supervisor.link import Link
from tests.interop.debian import nginx
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_nginx_answers_over_http2(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "small").write_bytes(b"hello, world")
    async with (
        nginx(tmp_path, *authority.issue(), http2=True) as peer,
        Link(f"https://localhost:{peer.port}", tls=authority.client()) as link,
    ):
        reply = await link.request("GET", "/small", timeout=10)
        missing = await link.request("GET", "/nothing", timeout=10)

    assert (reply.status, reply.body) == (200, b"hello, world")
    assert missing.status == 404


async def test_nginx_that_speaks_http1_alone_says_so_in_an_alert_and_the_error_tells(
    tmp_path: Path, authority: Authority
) -> None:
    """C4: no_application_protocol (RFC 7301, 3.2); ``protocol`` lets a face go on with HTTP/1.1."""
    async with nginx(tmp_path, *authority.issue(), http2=False) as peer:
        with pytest.raises(TlsFailed, match="does not speak HTTP/2 over TLS") as refused:
            async with Link(f"https://localhost:{peer.port}", tls=authority.client()):
                pass
        both = authority.client_context("h2", "http/1.1")
        with pytest.raises(TlsFailed, match=r"it chose 'http/1\.1' by ALPN") as chose:
            async with Link(f"https://localhost:{peer.port}", tls=Tls(context=both)):
                pass

    assert refused.value.protocol == ""
    assert chose.value.protocol == "http/1.1"


async def test_a_certificate_of_nginx_for_another_name_says_nothing_of_its_protocol(
    tmp_path: Path, authority: Authority
) -> None:
    """C5."""
    async with nginx(tmp_path, *authority.issue("other.test"), http2=True) as peer:
        with pytest.raises(TlsFailed) as caught:
            async with Link(f"https://localhost:{peer.port}", tls=authority.client()):
                pass

    assert "another host name" in str(caught.value)
    assert caught.value.protocol is None
