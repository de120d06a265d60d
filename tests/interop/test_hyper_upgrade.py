"""HTTPConnection in plaintext, with servers that take its offer of HTTP/2: nghttpx and hypercorn."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor.adapters.hyper import HTTPConnection
from tests.interop.blocking import entered
from tests.interop.debian import nghttpx
from tests.interop.programs import hypercorn
from tests.supervisor.adapters.served import LONG, answers, in_thread

pytest.importorskip("hypercorn")


@pytest.fixture(scope="module")
def upgrading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nghttpx, in front of a server of ours."""
    with ExitStack() as stack:
        behind = stack.enter_context(in_thread(answers)).port
        folder: Path = tmp_path_factory.mktemp("nghttpx")
        yield stack.enter_context(entered(nghttpx(folder, backend=behind))).port


def test_the_first_response_and_all_later_ones_come_over_http2(upgrading: int) -> None:
    """C3, C6."""
    with HTTPConnection("127.0.0.1", upgrading, timeout=20) as connection:
        assert connection.request("GET", "/first") is None  # over HTTP/1.1, as hyper says
        first = connection.get_response()
        assert (first.status, first.version, first.read()) == (200, 20, b"/first")
        assert connection.request("POST", "/", b"second") == 1
        assert connection.get_response(1).read() == b"second"
        assert connection.ping() > 0


def test_a_long_first_response_is_streamed_and_others_come_meanwhile(upgrading: int) -> None:
    """C6."""
    with HTTPConnection("127.0.0.1", upgrading, timeout=20) as connection:
        connection.request("GET", "/gzip")
        first = connection.get_response()
        assert first.read(100) == LONG[:100]
        connection.request("GET", "/other")
        assert connection.get_response().read() == b"/other"
        assert first.read() == LONG[100:]


def test_a_first_request_with_a_body_goes_over_http1_and_the_next_is_upgraded(upgrading: int) -> None:
    with HTTPConnection("127.0.0.1", upgrading, timeout=20) as connection:
        connection.request("POST", "/", b"body")
        posted = connection.get_response()
        assert (posted.version, posted.read()) == (11, b"body")
        connection.request("HEAD", "/head")
        head = connection.get_response()
        assert (head.version, head.status, head.read()) == (20, 200, b"")


def test_eight_threads_are_upgraded_under_way(upgrading: int) -> None:
    """C3: one of them offers, and the others go on over HTTP/1.1 until the server has taken it."""
    with HTTPConnection("127.0.0.1", upgrading, timeout=20) as connection:

        def work(number: int) -> bool:
            found = []
            for turn in range(10):
                number_of_request = connection.request("GET", f"/{number}/{turn}")
                found.append(connection.get_response(number_of_request).read())
            return found == [f"/{number}/{turn}".encode() for turn in range(10)]

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(8)))
        connection.request("GET", "/")
        assert connection.get_response().version == 20


def test_hypercorn_takes_the_offer() -> None:
    with (
        entered(hypercorn("tests.interop.asgi:app")) as peer,
        HTTPConnection(peer.url.removeprefix("http://"), timeout=20) as connection,
    ):
        for _ in range(2):
            connection.request("GET", "/path")
            response = connection.get_response()
            assert (response.version, response.read()) == (20, b"GET /path over HTTP/2")


def test_the_first_response_is_dropped_with_its_connection(upgrading: int) -> None:
    connection = HTTPConnection("127.0.0.1", upgrading, timeout=20)
    connection.request("GET", "/long")
    response = connection.get_response()
    response.read(10)
    response.close()
    connection.request("GET", "/after")
    assert connection.get_response().read() == b"/after"
    connection.close()
