"""What a server pushes along, as hyper gives it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from actors.errors import LinkError, Misuse
from actors.server_stream import ServerStream
from supervisor.adapters.http20.connection import HTTP20Connection
from tests.supervisor.adapters.served import LONG, InThread, in_thread

ended: SimpleQueue[tuple[str, bool]] = SimpleQueue()


async def pushes(stream: ServerStream) -> None:
    """Pushes along with /page and /late; what is pushed is long where its path says so."""
    match stream.path:
        case "/page":
            for path in ("/style", "/script"):
                await stream.push(path, headers={"x-for": "page"})
            await stream.respond(200, body=b"page")
        case "/late":
            await stream.start_response(200)
            await stream.send(b"first")
            await stream.push("/style")
            await stream.send(b"last")
        case "/with-long":
            await stream.push("/long")
            await stream.respond(200, body=b"page")
        case "/long":
            try:
                await stream.start_response(200)
                for _ in range(64):
                    await stream.send(LONG)
                await stream.end()
            finally:
                ended.put((stream.path, stream.cause is None))
        case _:
            await stream.respond(200, {"x-kind": "pushed"}, body=stream.path.encode() * 100, trailers=[("x-end", "1")])


@pytest.fixture(scope="module")
def server() -> Iterator[InThread]:
    with in_thread(pushes) as running:
        yield running


@pytest.fixture
def connection(server: InThread) -> Iterator[HTTP20Connection]:
    with HTTP20Connection(server.address, enable_push=True, timeout=10) as made:
        yield made


def test_what_was_promised_before_the_response_is_there_with_it(connection: HTTP20Connection) -> None:
    """C6: with scheme, method, authority, path, request_headers and a response of its own."""
    connection.request("GET", "/page")
    response = connection.get_response()
    first, second = connection.get_pushes()
    assert (first.scheme, first.method, first.path) == (b"http", b"GET", b"/style")
    assert first.authority == f"127.0.0.1:{connection.port}".encode()
    assert first.request_headers["x-for"] == [b"page"]
    assert second.path == b"/script"
    assert list(connection.get_pushes()) == [], "each is given once"
    pushed = second.get_response()
    assert (pushed.status, pushed.headers["x-kind"]) == (200, [b"pushed"])
    assert pushed.read() == b"/script" * 100
    assert pushed.trailers["x-end"] == [b"1"]
    assert response.read() == b"page"
    assert first.get_response().read() == b"/style" * 100, "also after the response that it came with"


def test_what_is_promised_later_is_waited_for(connection: HTTP20Connection) -> None:
    number = connection.request("GET", "/late")
    response = connection.get_response(number)
    (push,) = connection.get_pushes(number, capture_all=True)
    assert push.get_response().read() == b"/style" * 100
    assert response.read() == b"firstlast"


def test_pushes_are_asked_for_by_id_from_any_thread(connection: HTTP20Connection) -> None:
    numbers = [connection.request("GET", "/page") for _ in range(4)]
    responses = {number: connection.get_response(number) for number in numbers}
    found: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        found[number] = [push.get_response().read() for push in connection.get_pushes(number, capture_all=True)]

    threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == {number: [b"/style" * 100, b"/script" * 100] for number in numbers}
    assert [responses[number].read() for number in numbers] == [b"page"] * 4


def test_a_push_is_taken_once_or_cancelled(connection: HTTP20Connection) -> None:
    connection.request("GET", "/page")
    first, second = connection.get_pushes(capture_all=True)
    assert first.get_response().read()
    with pytest.raises(Misuse, match="was taken already, or cancelled"):
        first.get_response()
    second.cancel()
    second.cancel()
    with pytest.raises(Misuse, match="was taken already, or cancelled"):
        second.get_response()
    assert connection.get_response().read() == b"page"


@pytest.mark.parametrize("how", ["cancelled", "dropped", "dropped unasked", "read and dropped"])
def test_a_push_that_nobody_wants_is_reset(server: InThread, how: str) -> None:
    with HTTP20Connection(server.address, enable_push=True, timeout=10) as connection:
        connection.request("GET", "/with-long")
        response = connection.get_response()
        assert response.read() == b"page"
        del response
        if how == "dropped unasked":
            connection.request("GET", "/")  # a thread's last request is the one whose pushes it may ask for
            connection.get_response().read()
        else:
            (push,) = connection.get_pushes(capture_all=True)
            if how == "cancelled":
                push.cancel()
            elif how == "read and dropped":
                assert push.get_response().read(10) == LONG[:10]
            del push
        gc.collect()
        assert ended.get(timeout=10) == ("/long", False)


def test_closing_the_response_leaves_what_was_pushed(connection: HTTP20Connection) -> None:
    connection.request("GET", "/with-long")
    response = connection.get_response()
    (push,) = connection.get_pushes(capture_all=True)
    response.close()
    pushed = push.get_response()
    assert sum(len(piece) for piece in pushed.read_chunked()) == 64 * len(LONG)
    assert ended.get(timeout=10) == ("/long", True)


def test_without_enable_push_nothing_is_pushed(server: InThread) -> None:
    with HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("GET", "/nothing")
        assert list(connection.get_pushes(capture_all=True)) == []
        assert connection.get_response().status == 200


def test_pushes_end_with_their_connection(server: InThread) -> None:
    connection = HTTP20Connection(server.address, enable_push=True, timeout=10)
    connection.request("GET", "/with-long")
    (push,) = connection.get_pushes(capture_all=True)
    pushed = push.get_response()
    connection.close()
    with pytest.raises(LinkError, match="closed"):
        pushed.read()
    assert ended.get(timeout=10) == ("/long", False)
