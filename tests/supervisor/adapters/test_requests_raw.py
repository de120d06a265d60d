"""``response.raw`` as programs that use requests know it from urllib3, and arguments as requests takes them."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from requests import exceptions
from requests.auth import HTTPDigestAuth

from actors.errors import Misuse
from actors.server_stream import ServerStream
from supervisor.adapters.requests import HTTP20Adapter
from tests.supervisor.adapters.served import LINES, LONG, InThread, answers, in_thread
from tests.support.certificates import Authority


async def handler(stream: ServerStream) -> None:
    match stream.path:
        case "/cookies":
            await stream.respond(200, [("set-cookie", "a=1, or 2"), ("set-cookie", "b=2")])
        case "/nowhere":
            await stream.respond(302, body=b"no location")
        case "/digest" if "authorization" not in stream.headers:
            await stream.respond(401, {"www-authenticate": 'Digest realm="a", nonce="b", qop="auth"'})
        case "/moved":
            await stream.read()
            await stream.respond(307, {"location": "/echo"})
        case _:
            await answers(stream)


@pytest.fixture(scope="module")
def server() -> Iterator[InThread]:
    with in_thread(handler) as running:
        yield running


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[requests.Session]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with requests.Session() as made:
        made.mount("http://", HTTP20Adapter(force_proto="h2"))
        made.mount("https://", HTTP20Adapter())
        yield made


@pytest.fixture
def url(server: InThread) -> str:
    return f"http://127.0.0.1:{server.port}"


def test_decode_content_may_be_set_before_a_body_is_copied(session: requests.Session, url: str) -> None:
    packed, plain = io.BytesIO(), io.BytesIO()
    shutil.copyfileobj(session.get(f"{url}/gzip", stream=True).raw, packed)
    assert gzip.decompress(packed.getvalue()) == LONG
    response = session.get(f"{url}/gzip", stream=True)
    response.raw.decode_content = True
    shutil.copyfileobj(response.raw, plain)
    assert plain.getvalue() == LONG
    assert response.headers["content-encoding"] == "gzip"


def test_raw_is_a_file_that_others_wrap(session: requests.Session, url: str) -> None:
    def raw(path: str) -> Any:
        return session.get(f"{url}{path}", stream=True).raw

    assert list(io.TextIOWrapper(raw("/lines"))) == ["one\n", "two\n", "\n", "last without an end"]
    assert io.BufferedReader(raw("/lines")).read() == LINES
    with gzip.GzipFile(fileobj=raw("/gzip")) as unpacked:
        assert unpacked.read() == LONG
    assert raw("/lines").data == LINES
    assert raw("/half").read1(100) == b"half"  # whatever may follow
    body = raw("/lines")
    assert (body.read(3), body.read1(2), next(body.stream(4)), body.tell()) == (b"one", b"\nt", b"wo\n\n", 9)
    assert raw("/cookies").headers.getlist("Set-Cookie") == ["a=1, or 2", "b=2"]
    assert raw("/lines").headers.getlist("set-cookie") == []


def test_authentication_redirects_and_pickling_go_on_as_before(session: requests.Session, url: str) -> None:
    auth = HTTPDigestAuth("ann", "secret")
    assert session.post(f"{url}/digest", data=io.BytesIO(b"again"), auth=auth).content == b"again"
    assert session.post(f"{url}/moved", data=io.BytesIO(b"again"), stream=True).content == b"again"
    assert session.get(f"{url}/nowhere").content == b"no location"
    assert pickle.loads(pickle.dumps(session.get(f"{url}/lines"))).content == LINES  # noqa: S301  (our own)


def test_the_environment_is_trusted_as_requests_does(
    session: requests.Session, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert "Basic YW5uOnNlY3JldA==" in session.get(f"{url}/headers").text
    monkeypatch.setenv("http_proxy", "http://ann:secret@127.0.0.1:1")
    with pytest.raises(exceptions.ProxyError, match=r"127\.0\.0\.1:1") as caught:
        session.get(f"{url}/lines")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert session.get(f"{url}/lines").content == LINES


@pytest.mark.parametrize("proxy", ["http://ann:secret@127.0.0.1:99999", "socks5://ann:secret@127.0.0.1:1"])
def test_a_proxy_that_is_none_is_named_without_its_password(session: requests.Session, url: str, proxy: str) -> None:
    with pytest.raises(exceptions.InvalidProxyURL, match=r"127\.0\.0\.1") as caught:
        session.get(url, proxies={"http": proxy})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_urllib3s_time_outs_are_taken(session: requests.Session, url: str) -> None:
    timeout: Any
    for timeout in (urllib3.Timeout(connect=5), urllib3.Timeout(connect=5, read=5), urllib3.Timeout(total=5)):
        assert session.get(f"{url}/lines", timeout=timeout).content == LINES
    timeout = urllib3.Timeout(total=0.1)
    with pytest.raises(exceptions.ReadTimeout, match=r"within 0\.1 s"):
        session.get(f"{url}/silent", timeout=timeout)


def test_one_file_may_hold_certificate_and_key(session: requests.Session, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("ann")
    both = tmp_path / "both.pem"
    both.write_text(Path(certificate).read_text() + Path(key).read_text())
    with in_thread(handler, tls=authority.server()) as secure:
        for cert in (str(both), both, (str(both), None)):
            got = session.get(f"https://localhost:{secure.port}/lines", verify=authority.file, cert=cert)  # type: ignore[arg-type]
            assert got.content == LINES


@pytest.mark.parametrize("arguments", [{"force_proto": "h3"}, {"limits": 5}])
def test_an_adapter_refuses_what_it_cannot_use_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        HTTP20Adapter(**arguments)
