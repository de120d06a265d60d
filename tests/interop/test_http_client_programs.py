"""Programs written for http.client, as its documentation shows them, run with HTTPConnection in its place.

Each runs against the standard library's server and nginx with either client, and against our own server with ours.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from actors.errors import LinkError
from supervisor.adapters.hyper import HTTPConnection, HTTPSConnection, init_context
from tests.interop.blocking import entered
from tests.interop.debian import nginx
from tests.supervisor.adapters.http11_servers import LONG, says, scripted, stdlib_server
from tests.supervisor.adapters.served import answers, in_thread
from tests.support.certificates import Authority


@frozen
class Place:
    """A server, and the classes that talk to it."""

    port: int
    cafile: str | None


CLIENTS = [("http.server", "http.client"), ("http.server", "muxlink"), ("nginx", "http.client"), ("nginx", "muxlink")]
CLIENTS += [("ours", "muxlink")]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    folder: Path = tmp_path_factory.mktemp("places")
    authority = Authority(folder)
    with ExitStack() as stack:
        plain = stack.enter_context(stdlib_server())
        proxying = nginx(folder, *authority.issue(), http2=True, upstream=plain.port)
        yield {
            "http.server": Place(plain.port, None),
            "nginx": Place(stack.enter_context(entered(proxying)).port, authority.file),
            "ours": Place(stack.enter_context(in_thread(answers, tls=authority.server())).port, authority.file),
        }


@pytest.fixture(params=CLIENTS, ids=" by ".join)
def connection(request: pytest.FixtureRequest, places: dict[str, Place]) -> Iterator[Any]:
    """The connection that a program would make, of one class or of the other."""
    where, client = request.param
    place = places[where]
    made: Any
    if place.cafile is None:
        made = (http.client.HTTPConnection if client == "http.client" else HTTPConnection)(
            "localhost", place.port, timeout=20
        )
    elif client == "http.client":
        context = ssl.create_default_context(cafile=place.cafile)
        made = http.client.HTTPSConnection("localhost", place.port, timeout=20, context=context)
    else:
        made = HTTPSConnection("localhost", place.port, timeout=20, context=init_context(place.cafile))
    yield made
    made.close()


def test_the_protocol_is_the_one_that_the_server_offers(places: dict[str, Place]) -> None:
    """C4: what follows would prove little if HTTP/2 were never spoken."""
    for where, version in (("http.server", 11), ("nginx", 20), ("ours", 20)):
        place = places[where]
        context = None if place.cafile is None else init_context(place.cafile)
        made = HTTPConnection("localhost", place.port, context=context)
        made.request("GET", "/")
        assert made.getresponse().version == version
        made.close()


def test_get_twice(connection: Any) -> None:
    connection.request("GET", "/one")
    first = connection.getresponse()
    assert (first.status, first.reason in ("OK", "")) == (200, True)  # HTTP/2 has no reason
    assert first.read() == b"/one"
    connection.request("GET", "/two?three=four")
    assert connection.getresponse().read() == b"/two?three=four"


def test_get_in_chunks(connection: Any) -> None:
    connection.request("GET", "/long")
    response = connection.getresponse()
    found = b""
    while chunk := response.read(200_000):
        assert len(chunk) == 200_000 or len(found) + len(chunk) == len(LONG)
        found += chunk
    assert found == LONG
    assert response.read(1) == b""
    assert response.isclosed()


def test_head_has_no_body(connection: Any) -> None:
    connection.request("HEAD", "/long")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.request("GET", "/after")
    assert connection.getresponse().read() == b"/after"


def test_post_of_a_form(connection: Any) -> None:
    params = urllib.parse.urlencode({"@number": 12524, "@type": "issue", "@action": "show"})
    headers = {"Content-type": "application/x-www-form-urlencoded", "Accept": "text/plain"}
    connection.request("POST", "", params, headers)
    assert connection.getresponse().read() == params.encode()


def test_put_of_text(connection: Any) -> None:
    connection.request("PUT", "/file", "***filecontents***")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"***filecontents***")


@pytest.mark.parametrize(
    "body",
    [
        lambda: io.BytesIO(LONG),
        lambda: io.StringIO("text in a file"),
        lambda: iter([b"three ", b"", b"parts ", b"of it"]),
        lambda: (b"x" * 1000 for _ in range(300)),
        lambda: [b"a list", b" of two"],
        lambda: bytearray(b"mutable"),
        lambda: memoryview(b"viewed"),
    ],
)
def test_bodies_of_every_kind(connection: Any, body: Callable[[], Any]) -> None:
    """C6."""
    connection.request("POST", "/upload", body())
    given = body()
    if hasattr(given, "read"):
        given = given.read()
    sent = given.encode() if isinstance(given, str) else bytes(given) if hasattr(given, "hex") else b"".join(given)
    assert connection.getresponse().read() == sent


def test_encode_chunked(connection: Any) -> None:
    own = {"Transfer-Encoding": "chunked"}
    connection.request("POST", "/", [b"in", b" chunks"], own, encode_chunked=True)
    assert connection.getresponse().read() == b"in chunks"
    connection.request("POST", "/", [b"2\r\nin\r\n", b"7\r\n chunks\r\n0\r\n\r\n"], own)
    assert connection.getresponse().read() == b"in chunks"


def test_put_in_steps(connection: Any) -> None:
    body = b"This is the body."
    connection.putrequest("POST", "/steps")
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[:4])
    connection.send(body[4:])
    assert connection.getresponse().read() == body


def test_put_in_steps_with_the_body_at_the_end_of_the_headers(connection: Any) -> None:
    connection.putrequest("PUT", "/steps")
    connection.putheader("Content-Length", 4)
    connection.endheaders(b"body")
    assert connection.getresponse().read() == b"body"
    connection.putrequest("PUT", "/steps", skip_accept_encoding=True)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders([b"bo", b"dy"], encode_chunked=True)
    assert connection.getresponse().read() == b"body"


def test_put_in_steps_in_chunks_of_its_own(connection: Any) -> None:
    connection.putrequest("PUT", "/steps")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for part in (b"3\r", b"\none\r\n", b"3;x=y\r\ntwo\r\n", b"0\r\n\r\n"):
        connection.send(part)
    assert connection.getresponse().read() == b"onetwo"


def test_get_in_steps(connection: Any) -> None:
    connection.putrequest("GET", "/steps")
    connection.putheader("Accept", "*/*")
    connection.endheaders()
    assert connection.getresponse().read() == b"/steps"


def test_headers_of_a_response(connection: Any) -> None:
    connection.request("GET", "/abc")
    response = connection.getresponse()
    assert response.getheader("content-length") == response.getheader("Content-Length") == "4"
    assert response.getheader("no-such-header") is None
    assert response.getheader("no-such-header", "default") == "default"
    assert "4" in [value for name, value in response.getheaders() if name.lower() == "content-length"]
    assert response.msg["Content-Length"] == "4"
    assert response.info().get("content-length") == "4"
    assert response.getcode() == 200
    response.read()


def test_several_values_of_a_header_are_joined(connection: Any) -> None:
    connection.request("GET", "/several")
    response = connection.getresponse()
    values = response.getheader("x-several") or response.getheader("x-one")
    assert values == "1, 2"
    response.read()


def test_readinto(connection: Any) -> None:
    connection.request("GET", "/readinto")
    response = connection.getresponse()
    buffer = bytearray(5)
    assert response.readinto(buffer) == 5
    assert buffer == b"/read"
    assert response.read1() + response.read() == b"into"
    assert response.readinto(buffer) == 0


def test_a_response_is_a_file(connection: Any) -> None:
    connection.request("POST", "/", "one\ntwo \u00e4\n".encode())
    with io.TextIOWrapper(connection.getresponse(), encoding="utf-8") as text:
        assert list(text) == ["one\n", "two \u00e4\n"]
    connection.request("POST", "/", b"a\nb\n")
    assert list(connection.getresponse()) == [b"a\n", b"b\n"]


def test_a_response_is_closed_by_with(connection: Any) -> None:
    connection.request("GET", "/")
    with connection.getresponse() as response:
        assert not response.closed
        assert response.read() == b"/"
    assert response.closed
    connection.request("GET", "/next")
    assert connection.getresponse().read() == b"/next"


def test_a_connection_that_was_closed_connects_again(connection: Any) -> None:
    connection.close()
    connection.request("GET", "/again")
    assert connection.getresponse().read() == b"/again"
    connection.close()
    connection.connect()
    connection.request("GET", "/and-again")
    assert connection.getresponse().read() == b"/and-again"
    connection.close()


def test_a_debug_level_may_be_set(connection: Any) -> None:
    connection.set_debuglevel(0)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"/"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.getresponse(), http.client.ResponseNotReady),
        (lambda c: c.putheader("a", "b"), http.client.ImproperConnectionState),
        (lambda c: c.endheaders(), http.client.ImproperConnectionState),
        (lambda c: c.request("GET", "/a\r\nb"), http.client.InvalidURL),
        (lambda c: c.request("GET", "/", headers={"a": "b\r\nc: d"}), ValueError),
        (lambda c: c.request("GET\r\n", "/"), ValueError),
        (lambda c: c.request("POST", "/", 42), TypeError),
    ],
)
def test_the_exceptions_are_those_that_http_client_documents(
    connection: Any, call: Callable[[Any], object], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        call(connection)
    connection.close()
    if isinstance(connection, HTTPConnection):
        assert isinstance(caught.value, LinkError)
        # http.client itself would send what was left of the refused request.
        connection.request("GET", "/after")
        assert connection.getresponse().read() == b"/after"


@pytest.mark.parametrize("kind", [http.client.HTTPConnection, HTTPConnection])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"no HTTP at all\r\n", http.client.BadStatusLine),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", http.client.IncompleteRead),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", http.client.HTTPException),
    ],
)
def test_a_bad_answer_is_the_same_error_to_both(kind: Any, answer: bytes, error: type[Exception]) -> None:
    def script(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(answer)

    with scripted(script) as peer:
        connection = kind("127.0.0.1", peer.port, timeout=10)
        connection.request("GET", "/")
        with pytest.raises(error):
            connection.getresponse().read()
        connection.close()


@pytest.mark.parametrize("kind", [http.client.HTTPConnection, HTTPConnection])
def test_silence_and_refusal_are_the_same_errors_to_both(kind: Any, unused_port: int) -> None:
    with scripted(says(b"")) as peer:
        connection = kind("127.0.0.1", peer.port, timeout=0.05)
        connection.request("GET", "/")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
    connection = kind("127.0.0.1", unused_port)
    with pytest.raises(ConnectionRefusedError):
        connection.request("GET", "/")
    connection = kind("no-such-host.invalid")
    with pytest.raises(socket.gaierror):
        connection.request("GET", "/")


def test_arguments_of_http_client_are_taken_or_refused_clearly(places: dict[str, Place]) -> None:
    place = places["http.server"]
    default: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
    made = HTTPConnection("localhost", place.port, timeout=default, source_address=("127.0.0.1", 0), blocksize=1024)
    made.request("GET", "/")
    assert made.getresponse().read() == b"/"
    made.close()
    with pytest.raises(ValueError, match="a time-out is given as timeout="):
        HTTPConnection("localhost", place.port, 10)  # type: ignore[arg-type]
