"""HTTP20Connection as hyper's and http.client's programs use it, against a server of ours in another thread."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Closed, InvalidHeaders, LinkError, Misuse
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.adapters.blocking.errors import UndecodableBody
from supervisor.adapters.http20.connection import HTTP20Connection
from supervisor.adapters.http20.requests import MOST_BODY_OF_GET
from tests.supervisor.adapters.served import LINES, LONG, InThread, answers, in_thread


@pytest.fixture(scope="module")
def server() -> Iterator[InThread]:
    with in_thread(answers) as running:
        yield running


@pytest.fixture
def connection(server: InThread) -> Iterator[HTTP20Connection]:
    with HTTP20Connection(server.address, timeout=10) as made:
        yield made


def fetch(connection: HTTP20Connection, path: str = "/") -> bytes:
    connection.request("GET", path)
    return connection.get_response().read()


# --- as hyper's documentation has it ----------------------------------------------------------------------------------


def test_a_request_and_its_response(connection: HTTP20Connection) -> None:
    """C3, from plain blocking code."""
    assert connection.request("GET", "/here?a=b") == 1
    response = connection.get_response()
    assert (response.status, response.reason, response.version) == (200, "", 20)
    assert response.headers["content-length"] == [b"9"]
    assert response.read() == b"/here?a=b"
    assert response.read() == b""
    assert len(response.trailers) == 0


def test_responses_are_asked_for_by_id_in_any_order(connection: HTTP20Connection) -> None:
    ids = [connection.request("GET", f"/{number}") for number in range(20)]
    assert ids == list(range(1, 40, 2))
    for number in (7, 3, 19):
        assert connection.get_response(ids[number]).read() == b"/%d" % number
    rest = [number for number in range(20) if number not in (7, 3, 19)]
    assert [connection.get_response().read() for _ in rest] == [b"/%d" % number for number in rest], "the oldest first"


def test_a_request_that_is_put_together_piece_by_piece(connection: HTTP20Connection) -> None:
    number = connection.putrequest("POST", "/upload")
    connection.putheader("X-One", "1")
    connection.putheader("X-One", "2", replace=True)
    connection.putheader("Connection", "x-hop", stream_id=number)
    connection.putheader("X-Hop", "dropped")
    connection.endheaders()
    connection.send(b"first, ")
    connection.send(io.BytesIO(b"second, "))
    connection.send([b"third", b""], final=True, stream_id=number)
    assert connection.get_response(number).read() == b"first, second, third"


def test_two_requests_are_put_together_at_a_time(connection: HTTP20Connection) -> None:
    first, second = connection.putrequest("POST", "/1"), connection.putrequest("POST", "/2")
    for number in (first, second):
        connection.endheaders(stream_id=number)
        connection.send(b"%d" % number, stream_id=number)
    connection.send(b"!", final=True, stream_id=first)
    connection.send(b"?", final=True)
    assert connection.get_response(second).read() == b"3?"
    assert connection.get_response(first).read() == b"1!"


def test_a_response_comes_while_its_request_goes_on(connection: HTTP20Connection) -> None:
    number = connection.putrequest("POST", "/")
    connection.endheaders()
    connection.send(b"ping")
    response = connection.get_response(number)
    assert response.read1() == b"ping"
    connection.send(b"pong", stream_id=number)
    assert response.read(4) == b"pong"
    connection.send(b"", final=True, stream_id=number)
    assert response.read() == b""


def test_headers_arrive_less_those_of_http_1(connection: HTTP20Connection) -> None:
    given = {"X-A": "1", b"x-b": b"\xff", "X-C": 3, "Keep-Alive": "5", "Transfer-Encoding": "chunked"}
    connection.request("GET", "/headers", headers=given)
    said = json.loads(connection.get_response().read())
    assert said == [[":authority", f"127.0.0.1:{connection.port}"], ["x-a", "1"], ["x-b", "\xff"], ["x-c", "3"]]
    connection.request("GET", "/headers", headers={"Host": "other.test"})
    assert json.loads(connection.get_response().read()) == [[":authority", "other.test"]]


def test_several_values_of_a_header(connection: HTTP20Connection) -> None:
    connection.request("GET", "/several")
    response = connection.get_response()
    assert response.headers["X-One"] == [b"1", b"2"]
    assert response.headers["set-cookie"] == [b"a=1, 2", b"b=3"]
    assert response.getheader("x-one") == "1, 2"
    assert response.msg.get_all("set-cookie") == ["a=1, 2", "b=3"]


def test_a_body_in_chunks_as_they_come(connection: HTTP20Connection) -> None:
    connection.request("GET", "/long")
    chunks = list(connection.get_response().read_chunked())
    assert b"".join(chunks) == LONG
    assert all(chunks)


@pytest.mark.parametrize("path", ["/gzip", "/deflate"])
def test_encoded_bodies_come_decoded_unless_that_is_not_wanted(connection: HTTP20Connection, path: str) -> None:
    """C6."""
    assert fetch(connection, path) == LONG
    connection.request("GET", path)
    response = connection.get_response()
    assert response.read(1000) == LONG[:1000]
    assert b"".join(response.read_chunked()) == LONG[1000:]
    connection.request("GET", path)
    response = connection.get_response()
    raw = response.read(10, decode_content=False)
    assert raw[:2] in (b"\x1f\x8b", b"\x78\x9c")
    with pytest.raises(Misuse, match="said decode_content otherwise"):
        response.read()
    assert len(raw + response.read(decode_content=False)) < len(LONG)
    connection.request("HEAD", path)
    assert connection.get_response().read() == b""


def test_a_broken_encoding_is_a_clear_error(connection: HTTP20Connection) -> None:
    connection.request("GET", "/broken")
    with pytest.raises(UndecodableBody, match="the body is not gzip, as its headers say"):
        connection.get_response().read()
    assert fetch(connection) == b"/"


def test_a_bomb_is_read_in_pieces_or_refused(connection: HTTP20Connection) -> None:
    """C6: a quarter of a mebibyte that means 256 of them."""
    connection.request("GET", "/bomb")
    response = connection.get_response()
    assert response.read(1_000_000) == bytes(1_000_000)
    with pytest.raises(LinkError, match="longer than max_response_body, 67108864 bytes: read it in pieces"):
        response.read()
    assert response.read(1_000_000) == bytes(1_000_000), "nothing is lost by the refusal"
    response.close()


def test_trailers_follow_the_body(connection: HTTP20Connection) -> None:
    """C6; asking for them first keeps the body."""
    connection.request("GET", "/trailers")
    response = connection.get_response()
    assert response.trailers["x-sum"] == [b"7"]
    assert response.read() == b"before"
    assert response.trailers["X-More"] == [b"a", b"b"]


def test_ping_says_how_long_the_way_is(connection: HTTP20Connection) -> None:
    assert 0 <= connection.ping(b"12345678") < 10
    with pytest.raises(Misuse, match="eight bytes"):
        connection.ping(b"short")


# --- as http.client's documentation has it ----------------------------------------------------------------------------


def test_a_response_is_a_file_of_bytes(connection: HTTP20Connection) -> None:
    connection.request("GET", "/json")
    with connection.getresponse() as response:
        assert json.load(response) == {"a": ["\xe9"]}
    assert response.closed
    connection.request("GET", "/json")
    assert json.load(io.TextIOWrapper(connection.getresponse(), "utf-8")) == {"a": ["\xe9"]}
    connection.request("GET", "/lines")
    assert list(connection.getresponse()) == [b"one\n", b"two\n", b"\n", b"last without an end"]
    connection.request("GET", "/lines")
    assert list(io.TextIOWrapper(connection.getresponse(), "ascii"))[1] == "two\n"
    connection.request("GET", "/lines")
    response = connection.getresponse()
    into = bytearray(6)
    assert response.readinto(into) == 6
    assert into == b"one\ntw"
    assert response.readline() == b"o\n"
    assert response.peek()[:1] == b"\n"
    assert response.readline(5) == b"\n"
    assert response.readline(4) == b"last"
    assert not response.isclosed()
    assert response.read1(1) == b" "
    assert response.readlines() == [b"without an end"]
    assert response.isclosed()
    assert not response.closed


def test_reading_an_amount_gives_exactly_that_and_fewer_at_the_end(connection: HTTP20Connection) -> None:
    connection.request("GET", "/long")
    response = connection.getresponse()
    parts = []
    while part := response.read(100_000):
        parts.append(part)
    assert [len(part) for part in parts] == [100_000] * 10 + [48_576]
    assert b"".join(parts) == LONG
    assert response.read(0) == response.read(1) == b""


def test_what_a_response_of_http_client_answers(connection: HTTP20Connection) -> None:
    connection.request("GET", "/json", headers={})
    response = connection.getresponse()
    assert (response.getcode(), response.code, response.geturl()) == (
        200,
        200,
        f"http://{connection_of(connection)}/json",
    )
    assert response.getheader("Content-Type") == "application/json; charset=utf-8"
    assert response.getheader("missing") is None
    assert response.getheader("missing", "x") == "x"
    assert ("content-length", "13") in response.getheaders()
    assert response.info().get_content_charset() == "utf-8"
    assert response.msg["content-type"] == response.getheader("content-type")
    assert response.readable()
    assert not response.writable()


def connection_of(connection: HTTP20Connection) -> str:
    return f"{connection.host}:{connection.port}"


@pytest.mark.parametrize(
    ("body", "arrives", "length"),
    [
        (b"bytes", b"bytes", "5"),
        (bytearray(b"array"), b"array", "5"),
        (memoryview(b"view"), b"view", "4"),
        ("t\xe9xt", "t\xe9xt".encode(), "5"),
        (io.BytesIO(b"a file" * 100_000), b"a file" * 100_000, "none"),
        (io.StringIO("t\xe9xt"), "t\xe9xt".encode(), "none"),
        ([b"a", bytearray(b"b"), b"", memoryview(b"c")], b"abc", "none"),
        ((b"%d" % number for number in range(3)), b"012", "none"),
        (b"", b"", "0"),
        (None, b"", "0"),
    ],
)
def test_bodies_of_every_kind(connection: HTTP20Connection, body: Any, arrives: bytes, length: str) -> None:
    """C6."""
    connection.request("POST", "/", body)
    response = connection.getresponse()
    assert response.getheader("x-length") == length
    assert response.read() == arrives


def test_a_file_goes_up_with_the_length_that_a_header_says(connection: HTTP20Connection, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LONG)
    with open(tmp_path / "file", "rb") as file:
        connection.request("PUT", "/", file, {"Content-Length": str(len(LONG))})
    response = connection.getresponse()
    assert response.getheader("x-length") == str(len(LONG))
    assert response.read() == LONG


def test_a_body_is_complete_when_it_is_as_long_as_it_was_announced(connection: HTTP20Connection) -> None:
    """http.client's programs never say that a body is complete."""
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", 6)
    connection.endheaders(b"abc")
    connection.send(b"def")
    assert connection.getresponse().read() == b"abcdef"
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "3")
    connection.endheaders(b"abc")
    assert connection.getresponse().read() == b"abc"
    for method in ("POST", "DELETE", "OPTIONS"):
        connection.putrequest(method, "/")
        connection.endheaders()
        assert connection.getresponse().read() == b"", f"{method} without a body, as nothing was sent"
    connection.putrequest("GET", "/")
    connection.endheaders()
    assert connection.getresponse().read() == b"/"
    connection.putrequest("POST", "/")
    connection.endheaders([b"in", b" chunks"], encode_chunked=True)
    assert connection.getresponse().read() == b"in chunks"


def test_a_get_may_have_a_body(connection: HTTP20Connection) -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond(200, body=await stream.read())

    with in_thread(handler) as server, HTTP20Connection(server.address, timeout=10) as asking:
        for body in (b"what", [b"wh", b"at"]):
            asking.request("GET", "/", body)
            assert asking.get_response().read() == b"what"
        with pytest.raises(LinkError, match="give it whole"):
            asking.request("GET", "/", iter([bytes(MOST_BODY_OF_GET), b"1"]))


def test_the_root_is_meant_where_no_path_is_given(connection: HTTP20Connection) -> None:
    assert fetch(connection, "") == b"/"
    connection.request("GET", b"/bytes")
    assert connection.getresponse().read() == b"/bytes"


# --- addresses and options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "host", "port", "secure"),
    [
        (("example.test",), "example.test", 443, True),
        (("example.test:80",), "example.test", 80, False),
        (("example.test", 8443), "example.test", 8443, False),
        (("example.test", 8443, True), "example.test", 8443, True),
        (("example.test", 443, False), "example.test", 443, False),
        (("[::1]:8080",), "::1", 8080, False),
        (("[::1]",), "::1", 443, True),
        (("::1", 80), "::1", 80, False),
    ],
)
def test_where_a_connection_leads(arguments: tuple[Any, ...], host: str, port: int, secure: bool) -> None:
    made = HTTP20Connection(*arguments)
    assert (made.host, made.port, made.secure) == (host, port, secure)


def test_an_ipv6_address_is_reached() -> None:
    with in_thread(answers, host="::1") as server, HTTP20Connection(f"[::1]:{server.port}", timeout=10) as connection:
        connection.request("GET", "/headers")
        assert json.loads(connection.getresponse().read())[0] == [":authority", f"[::1]:{server.port}"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"window_manager": object}, "window_manager has no meaning here: leave it out, windows grow by themselves"),
        ({"source_address": ("127.0.0.1", 0)}, "source_address has no meaning here"),
        ({"force_proto": "http/1.1"}, "force_proto is 'h2' or left out"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
        ({"timeout": "soon"}, "timeout is a number of seconds above 0"),
        ({"host": "with space"}, "is no host"),
        ({"host": ""}, "is no host"),
        ({"port": 70_000}, "a port is from 1 to 65535"),
        ({"host": b"bytes"}, "a host is a str"),
        ({"proxy_host": "proxy", "proxy_headers": {"X-A": "1"}}, "nothing but Basic Proxy-Authorization"),
        ({"proxy_host": "proxy", "proxy_headers": {"Proxy-Authorization": "Basic !"}}, "no Basic credentials"),
        ({"limits": 7}, "limits"),
    ],
)
def test_what_can_never_work_is_said_at_once(options: dict[str, Any], why: str) -> None:
    with pytest.raises(Misuse, match=why):
        HTTP20Connection(**{"host": "127.0.0.1", "port": 1, **options})


def test_the_standard_librarys_own_default_for_time_outs_is_taken() -> None:
    HTTP20Connection("example.test", timeout=socket._GLOBAL_DEFAULT_TIMEOUT)  # type: ignore[attr-defined]


def test_set_debuglevel_is_taken_and_says_nothing(
    connection: HTTP20Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    connection.set_debuglevel(1)
    fetch(connection)
    assert capsys.readouterr() == ("", "")


# --- what is called in a way that cannot work -------------------------------------------------------------------------


@pytest.mark.parametrize("body", [7, object(), {"a": 1}, 1.5])
def test_a_body_that_is_no_bytes(connection: HTTP20Connection, body: Any) -> None:
    with pytest.raises(TypeError, match="a body is bytes, str, a file, or an iterable of bytes"):
        connection.request("POST", "/", body)


@pytest.mark.parametrize("body", [[b"good", 7], iter([None])])
def test_a_body_whose_parts_are_no_bytes_resets_the_stream(connection: HTTP20Connection, body: Any) -> None:
    with pytest.raises(TypeError, match="parts of a body are bytes, not") as caught:
        connection.request("POST", "/", body)
    assert isinstance(caught.value, Misuse)
    assert fetch(connection) == b"/"


def test_a_body_that_fails_raises_its_own_error_and_leaves_the_rest_usable(connection: HTTP20Connection) -> None:
    def failing() -> Iterator[bytes]:
        yield b"some"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        connection.request("POST", "/", failing())
    assert fetch(connection) == b"/"


@pytest.mark.parametrize("path", ["no-slash", "/with space", "/\xe9", "/a#b", "http://other.test/", 7])
def test_a_path_that_http2_forbids(connection: HTTP20Connection, path: Any) -> None:
    with pytest.raises(http.client.InvalidURL) as caught:
        connection.request("GET", path)
    assert isinstance(caught.value, InvalidHeaders)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "headers", [{"bad name": "1"}, {"a": "1\r\nb: 2"}, {"content-length": "many"}, {"te": "gzip"}, [("a",)], 7]
)
def test_a_header_that_http2_forbids(connection: HTTP20Connection, headers: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (which words depends on the header)
        connection.request("GET", "/", headers=headers)
    assert isinstance(caught.value, InvalidHeaders)


def test_a_length_that_is_not_the_bodys(connection: HTTP20Connection) -> None:
    with pytest.raises(Misuse, match="Content-Length says 3, and the body has 5 bytes"):
        connection.request("POST", "/", b"12345", {"Content-Length": "3"})
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "3")
    connection.endheaders()
    with pytest.raises(Misuse, match="Content-Length says 3, and more is sent"):
        connection.send(b"12345")
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "3")
    connection.endheaders(b"1")
    with pytest.raises(Misuse, match="Content-Length says 3, and 1 bytes were sent"):
        connection.send(b"", final=True)
    connection.request("GET", "/after")
    assert connection.get_response(7).read() == b"/after"


def test_calls_in_an_order_that_cannot_work(connection: HTTP20Connection) -> None:
    with pytest.raises(http.client.ResponseNotReady, match="this thread has made no request"):
        connection.getresponse()
    with pytest.raises(http.client.CannotSendRequest, match=r"putrequest\(\) comes before putheader"):
        connection.putheader("a", "1")
    with pytest.raises(http.client.ResponseNotReady):
        connection.get_pushes()
    number = connection.putrequest("POST", "/")
    with pytest.raises(Misuse, match=r"endheaders\(\) comes before send"):
        connection.send(b"1")
    with pytest.raises(http.client.ResponseNotReady, match=r"endheaders\(\) comes before get_response"):
        connection.get_response(number)
    connection.endheaders()
    with pytest.raises(Misuse, match="its headers were sent"):
        connection.putheader("a", "1")
    with pytest.raises(Misuse, match="its headers were sent"):
        connection.endheaders()
    connection.send(b"all", final=True)
    with pytest.raises(Misuse, match="the body is complete"):
        connection.send(b"more")
    assert connection.get_response().read() == b"all"


def test_an_id_that_was_never_given_and_one_whose_response_was_taken(connection: HTTP20Connection) -> None:
    number = connection.request("GET", "/")
    for unknown in (99, 2):
        with pytest.raises(Misuse, match="no request awaits its response as"):
            connection.get_response(unknown)
    assert connection.get_response(number).read() == b"/"
    with pytest.raises(Misuse, match="each is given once"):
        connection.get_response(number)
    with pytest.raises(Misuse, match="no request 99"):
        connection.get_pushes(99)
    with pytest.raises(Misuse, match="was never begun, or is over"):
        connection.send(b"", stream_id=number)


def test_a_response_that_was_closed_before_its_end_is_read_no_more(connection: HTTP20Connection) -> None:
    connection.request("GET", "/long")
    response = connection.get_response()
    response.close()
    response.close()
    with pytest.raises(Closed, match="closed before its end"):
        response.read()
    with pytest.raises(ValueError, match="closed"):
        response.readline()
    connection.request("GET", "/")
    response = connection.get_response()
    assert response.read() == b"/"
    response.close()
    assert response.read() == b"", "as http.client has it"
    with pytest.raises(Misuse, match="number of bytes"):
        response.read("1")  # type: ignore[arg-type]


def test_a_connection_that_was_closed_connects_again(server: InThread) -> None:
    """As hyper and http.client have it."""
    connection = HTTP20Connection(server.address, timeout=10)
    connection.close()
    assert fetch(connection) == b"/"
    connection.request("GET", "/half")
    number = connection.request("GET", "/")
    response = connection.get_response(1 + 2)
    assert response.read1() == b"half"
    connection.close(error_code=8)
    connection.close()
    with pytest.raises(Closed, match="closed"):
        response.read()
    with pytest.raises(Misuse, match="no request awaits"):
        connection.get_response(number)
    with pytest.raises(Misuse, match="error code is a number of 32 bits"):
        connection.close(-1)
    assert fetch(connection) == b"/"
    connection.close()


def test_limits_are_the_connections_own(server: InThread) -> None:
    with HTTP20Connection(server.address, timeout=10, limits=Limits(max_response_body=1000)) as connection:
        with pytest.raises(LinkError, match="max_response_body, 1000 bytes"):
            fetch(connection, "/gzip")
        assert fetch(connection, "/lines") == LINES
