"""requests over HTTP/2: what a session promises, and that its exceptions are its own."""

from __future__ import annotations

import io
import pickle
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from requests import exceptions

from actors.errors import LinkError, Misuse
from actors.server_stream import ServerStream
from supervisor.adapters.requests import HTTP20Adapter
from tests.supervisor.adapters.http11_servers import LONG, Stdlib, leaves_after, says, scripted, stdlib_server
from tests.supervisor.adapters.served import InThread, answers, in_thread
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def new(authority: Authority) -> Iterator[InThread]:
    with in_thread(handler, tls=authority.server()) as server:
        yield server


@pytest.fixture(scope="module")
def old(authority: Authority) -> Iterator[Stdlib]:
    with stdlib_server(authority.server_context("http/1.1")) as server:
        yield server


async def handler(stream: ServerStream) -> None:
    match stream.path:
        case "/redirect":
            await stream.respond(302, {"location": "/there"})
        case "/who":
            await stream.respond(200, body=str(stream.peer.certificate).encode())
        case "/cookie":
            await stream.respond(200, body=(stream.headers.get("cookie") or "none").encode())
        case _:
            await answers(stream)


def session_with(adapter: HTTP20Adapter, authority: Authority) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # the tests' authority, whatever the environment says
    session.verify = authority.file
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@pytest.fixture
def session(authority: Authority) -> Iterator[requests.Session]:
    with session_with(HTTP20Adapter(), authority) as made:
        yield made


@pytest.fixture(params=["new", "old"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a server that speaks HTTP/2, and of one that does not."""
    return f"https://localhost:{request.getfixturevalue(request.param).port}"


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_response_is_as_requests_has_it(session: requests.Session, url: str) -> None:
    """C4, C6."""
    reply = session.get(f"{url}/hello?a=b")
    assert (reply.status_code, reply.reason, reply.text, reply.ok) == (200, "OK", "/hello?a=b", True)
    assert reply.url == f"{url}/hello?a=b"
    assert reply.headers["Content-Length"] == "10"
    assert reply.request.method == "GET"
    assert session.head(f"{url}/long").content == b""


def test_the_protocol_is_the_servers(session: requests.Session, new: InThread, old: Stdlib) -> None:
    assert session.get(f"https://localhost:{new.port}/").raw.version == 20
    assert session.get(f"https://localhost:{old.port}/").raw.version == 11


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"bytes", b"bytes"),
        ("text \u00e4", "text \u00e4".encode()),
        ({"a": "b c"}, b"a=b+c"),
        (iter([b"some ", b"parts"]), b"some parts"),
        (io.BytesIO(b"a file"), b"a file"),
    ],
)
def test_bodies_arrive(session: requests.Session, url: str, body: object, sent: bytes) -> None:
    """C6."""
    if isinstance(body, io.BytesIO):
        body.seek(0)
    elif not isinstance(body, (bytes, str, dict)):
        body = iter([b"some ", b"parts"])
    assert session.post(f"{url}/", data=body).content == sent


def test_bodies_are_streamed_and_decoded(session: requests.Session, url: str) -> None:
    """C6."""
    for path in ("/long", "/gzip", "/deflate"):
        assert session.get(url + path).content == LONG
        with session.get(url + path, stream=True) as reply:
            pieces = list(reply.iter_content(10_000))
            assert b"".join(pieces) == LONG
            assert max(map(len, pieces)) <= 10_000
    with session.get(f"{url}/long", stream=True) as reply:
        found = io.BytesIO()
        shutil.copyfileobj(reply.raw, found)
        assert found.getvalue() == LONG
    with session.get(f"{url}/gzip", stream=True) as reply:
        assert reply.raw.read(2) == b"\x1f\x8b"  # raw is raw, as with urllib3
    with session.get(f"{url}/long", stream=True) as reply:
        assert next(reply.iter_content(10)) == LONG[:10]


def test_a_part_is_there_before_the_body_is_complete(session: requests.Session, new: InThread) -> None:
    with session.get(f"https://localhost:{new.port}/half", stream=True, timeout=10) as reply:
        assert next(reply.iter_content(1000)) == b"half"


def test_lines_are_iterated(session: requests.Session, url: str) -> None:
    with session.post(f"{url}/", data=b"one\ntwo\n", stream=True) as reply:
        assert list(reply.iter_lines()) == [b"one", b"two"]


def test_cookies_are_kept_and_sent(session: requests.Session, new: InThread, old: Stdlib) -> None:
    reply = session.get(f"https://localhost:{new.port}/several")
    assert dict(reply.cookies) == {"a": "1, 2", "b": "3"}
    assert session.get(f"https://localhost:{new.port}/cookie").text == "a=1, 2; b=3"
    session.cookies.clear()
    session.get(f"https://localhost:{old.port}/cookies")
    assert dict(session.cookies) == {"a": "1, or 2", "b": "2"}


def test_redirects_are_followed(session: requests.Session, url: str) -> None:
    reply = session.get(f"{url}/redirect")
    assert (reply.text, [each.status_code for each in reply.history]) == ("/there", [302])


def test_only_what_is_decoded_is_asked_for(session: requests.Session, old: Stdlib) -> None:
    url = f"https://localhost:{old.port}/"
    session.get(url)
    assert dict(old.requests[-1][2])["Accept-Encoding"] == "gzip, deflate"
    session.get(url, headers={"Accept-Encoding": "br"})
    assert dict(old.requests[-1][2])["Accept-Encoding"] == "br"


def test_plaintext_is_http1_or_by_prior_knowledge_http2(session: requests.Session, authority: Authority) -> None:
    with stdlib_server() as plain:
        reply = session.get(f"http://127.0.0.1:{plain.port}/a")
        assert (reply.text, reply.raw.version) == ("/a", 11)
    with in_thread(answers) as server, session_with(HTTP20Adapter(force_proto="h2"), authority) as knowing:
        reply = knowing.get(f"http://127.0.0.1:{server.port}/a")
        assert (reply.text, reply.raw.version) == ("/a", 20)


def test_eight_threads_share_a_session(session: requests.Session, url: str) -> None:
    """C3."""

    def work(number: int) -> bool:
        sent = [f"{number}/{turn}" for turn in range(10)]
        return [session.post(f"{url}/", data=each, timeout=30).text for each in sent] == sent

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_certificates_are_verified_unless_told_otherwise(session: requests.Session, url: str) -> None:
    """C5."""
    with pytest.raises(exceptions.SSLError, match="unknown authority"):
        session.get(url, verify=True)
    session.verify = False
    assert session.get(url, verify=False).ok


def test_a_client_certificate_is_shown(session: requests.Session, authority: Authority) -> None:
    """C6."""
    pair = authority.issue("ann.test", common_name="ann")
    with in_thread(handler, tls=authority.server(client_ca=authority.file)) as server:
        url = f"https://localhost:{server.port}/who"
        assert "'ann'" in session.get(url, cert=pair).text
        with pytest.raises(exceptions.SSLError):
            session.get(url, timeout=10)


@pytest.mark.parametrize("arguments", [{"verify": "/nowhere"}, {"cert": "/nowhere"}, {"cert": ("/no", "/where")}])
def test_a_file_that_is_not_there_is_named(
    session: requests.Session, url: str, arguments: dict[str, str | tuple[str, str]]
) -> None:
    with pytest.raises(exceptions.SSLError, match=r"/nowhere|/no, /where"):
        session.get(url, **arguments)  # type: ignore[arg-type]


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_connections_are_shared_by_origin_and_tls_arguments(session: requests.Session, old: Stdlib) -> None:
    url = f"https://localhost:{old.port}"
    before = old.connections
    for path in ("/a", "/b", "/c"):
        session.get(url + path)
    assert old.connections - before == 2  # the question for HTTP/2, and one for all requests
    session.get(url, verify=False)
    assert old.connections - before == 4


def test_the_least_recently_used_connection_is_given_up_and_its_last_response_is_read(authority: Authority) -> None:
    with (
        stdlib_server() as first,
        stdlib_server() as second,
        stdlib_server() as third,
        session_with(HTTP20Adapter(pool_maxsize=2), authority) as session,
    ):
        urls = [f"http://127.0.0.1:{each.port}" for each in (first, second, third)]
        unread = session.get(f"{urls[0]}/long", stream=True)
        session.get(urls[1])
        session.get(urls[2])  # and the first is given up
        assert unread.content == LONG
        first.until_quiet()
        session.get(urls[1])
        session.get(urls[0])  # and the third is
        third.until_quiet()
        assert [each.connections for each in (first, second, third)] == [2, 1, 1]


def test_close_frees_everything_and_the_adapter_can_be_used_again(session: requests.Session, old: Stdlib) -> None:
    url = f"https://localhost:{old.port}"
    unread = session.get(f"{url}/long", stream=True)
    session.close()
    old.until_quiet()
    with pytest.raises(exceptions.RequestException):
        _ = unread.content
    assert session.get(f"{url}/again").text == "/again"


def test_a_session_is_pickled_without_its_connections(session: requests.Session, url: str) -> None:
    session.get(url)
    with pickle.loads(pickle.dumps(session)) as again:  # noqa: S301  (our own)
        again.trust_env = False
        assert again.get(f"{url}/again").text == "/again"


@pytest.mark.parametrize("size", [0, -1, None, True])
def test_a_pool_has_room_for_one(size: int) -> None:
    with pytest.raises(Misuse, match="pool_maxsize"):
        HTTP20Adapter(pool_maxsize=size)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_every_failure_of_the_new_protocol_is_one_of_requests_own(session: requests.Session, new: InThread) -> None:
    url = f"https://localhost:{new.port}"
    for path, kind in (
        ("/silent", exceptions.ReadTimeout),
        ("/half", exceptions.ReadTimeout),
        ("/half", exceptions.ConnectionError),
        ("/reset", exceptions.ChunkedEncodingError),
        ("/broken", exceptions.ContentDecodingError),
    ):
        with pytest.raises(kind) as caught:
            session.get(url + path, timeout=(10, 0.2))
        assert isinstance(caught.value.__cause__, LinkError)
        assert caught.value.request is not None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", exceptions.ConnectionError),
        (b"what?\r\n\r\n", exceptions.ConnectionError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", exceptions.ChunkedEncodingError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", exceptions.ChunkedEncodingError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nno", exceptions.ContentDecodingError),
    ],
)
def test_every_failure_of_the_old_protocol_is_one_of_requests_own(
    session: requests.Session, answer: bytes, kind: type[Exception]
) -> None:
    with scripted(leaves_after(answer)) as peer:
        with pytest.raises(kind) as caught:
            session.get(f"http://127.0.0.1:{peer.port}", timeout=10)
        assert isinstance(caught.value.__cause__, LinkError)


def test_silence_and_refusals_are_told_apart(session: requests.Session) -> None:
    with scripted(says(b"")) as peer, pytest.raises(exceptions.ReadTimeout):
        session.get(f"http://127.0.0.1:{peer.port}", timeout=0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises((exceptions.ConnectTimeout, exceptions.SSLError)):
            session.get(f"https://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
        gone = silent.getsockname()[1]
    for scheme in ("http", "https"):
        with pytest.raises(exceptions.ConnectionError, match="no connection to"):
            session.get(f"{scheme}://127.0.0.1:{gone}", timeout=10)
    with scripted(leaves_after(b"HTTP/1.1 403 No\r\n\r\n")) as proxy:
        for scheme in ("http", "https"):
            with pytest.raises(exceptions.ProxyError, match="403"):
                session.get(f"{scheme}://far.test/", proxies={scheme: f"http://127.0.0.1:{proxy.port}"}, timeout=10)
    with pytest.raises(exceptions.InvalidProxyURL, match="not 'host:1'"):
        session.get("https://far.test/", proxies={"https": "socks5://user:secret@host:1"})


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"data": [1, 2]}, exceptions.RequestException),
        ({"timeout": "soon"}, ValueError),
        ({"timeout": (1, 2, 3)}, ValueError),
        ({"headers": {"a": "b\nc"}}, exceptions.InvalidHeader),
    ],
)
def test_misuse_is_said_and_the_session_goes_on(
    session: requests.Session, url: str, arguments: dict[str, object], kind: type[Exception]
) -> None:
    with pytest.raises((kind, TypeError)):
        session.post(url, **arguments)  # type: ignore[arg-type]
    assert session.get(f"{url}/after").text == "/after"


def test_an_interruption_between_a_request_and_its_response_mixes_nothing_up(
    session: requests.Session, old: Stdlib, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request in this thread is answered with its own response."""
    url = f"https://localhost:{old.port}"
    session.get(url)
    with monkeypatch.context() as patched:
        patched.setattr("supervisor.adapters.either.connection.HTTPConnection.get_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.get(f"{url}/interrupted")
    assert session.get(f"{url}/next").text == "/next"


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_session_is_closed_while_threads_wait(session: requests.Session, new: InThread) -> None:
    url = f"https://localhost:{new.port}"
    session.get(url)
    asked = threading.Event()

    def wait() -> None:
        asked.set()
        session.get(f"{url}/silent")

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait)
        asked.wait(10)
        while not waiting.done():  # until it waits: closed before, it would connect again
            session.close()
        with pytest.raises(exceptions.ConnectionError):
            waiting.result(10)
