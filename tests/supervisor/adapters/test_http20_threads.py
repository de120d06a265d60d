"""HTTP20Connection from several threads at once, and threads that are interrupted while they wait."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from actors.errors import Closed, LinkError, Misuse
from actors.server_stream import ServerStream
from supervisor.adapters.blocking.background import background
from supervisor.adapters.http20.connection import HTTP20Connection
from tests.supervisor.adapters.served import LONG, InThread, answers, in_thread

THREADS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[InThread]:
    with in_thread(answers) as running:
        yield running


@pytest.fixture
def connection(server: InThread) -> Iterator[HTTP20Connection]:
    with HTTP20Connection(server.address, timeout=30) as made:
        yield made


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """What each of several threads made, all at the same time."""
    together = threading.Barrier(count)

    def run(number: int) -> Any:
        together.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count), timeout=60))


def test_requests_and_responses_pair_up_in_each_thread_without_ids(connection: HTTP20Connection) -> None:
    """C3: eight threads share a connection, and each gets its own responses, the oldest first."""

    def work(number: int) -> None:
        for turn in range(30):
            connection.request("GET", f"/{number}/{turn}")
            assert connection.get_response().read() == b"/%d/%d" % (number, turn)
        for turn in range(10):
            connection.request("POST", "/", b"%d/%d" % (number, turn))
        for turn in range(10):
            assert connection.getresponse().read() == b"%d/%d" % (number, turn)

    in_threads(work)


def test_requests_are_put_together_in_each_thread_without_ids(connection: HTTP20Connection) -> None:
    """C3."""

    def work(number: int) -> None:
        for turn in range(10):
            connection.putrequest("POST", "/")
            connection.putheader("X-Number", number)
            connection.endheaders()
            for piece in range(5):
                connection.send(b"%d/%d/%d " % (number, turn, piece), final=piece == 4)
            whole = b"".join(b"%d/%d/%d " % (number, turn, piece) for piece in range(5))
            assert connection.get_response().read() == whole

    in_threads(work)


def test_long_bodies_go_both_ways_in_eight_threads(connection: HTTP20Connection) -> None:
    """C3, C6: bodies longer than every window and buffer, that come back while they go out."""

    def work(number: int) -> int:
        body = bytes([number]) * len(LONG) * 2
        pieces = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
        connection.request("POST", "/", pieces if number % 2 else body)
        response, size = connection.get_response(), 0
        while data := response.read(50_000):
            assert data == bytes([number]) * len(data)
            size += len(data)
        return size

    assert in_threads(work) == [2 * len(LONG)] * THREADS


def test_a_thread_takes_over_what_another_began_by_its_id(connection: HTTP20Connection) -> None:
    ids: SimpleQueue[int] = SimpleQueue()
    numbers = [connection.request("GET", f"/{number}") for number in range(THREADS)]
    for each in numbers:
        ids.put(each)

    def work(_: int) -> bytes:
        with pytest.raises(Misuse, match="this thread has made no request"):
            connection.get_response()
        return connection.get_response(ids.get(timeout=5)).read()

    assert sorted(in_threads(work)) == [b"/%d" % number for number in range(THREADS)]


def test_one_response_is_given_to_one_of_the_threads_that_ask_for_it(connection: HTTP20Connection) -> None:
    number = connection.request("GET", "/long")

    def work(_: int) -> bytes:
        try:
            return connection.get_response(number).read()
        except Misuse:
            return b""

    assert sorted(in_threads(work)) == [b""] * (THREADS - 1) + [LONG]


def test_threads_share_one_response_without_losing_a_byte(connection: HTTP20Connection) -> None:
    connection.request("GET", "/long")
    response = connection.get_response()

    def work(_: int) -> list[bytes]:
        return list(iter(lambda: response.read(256), b""))

    parts = [part for found in in_threads(work) for part in found]
    assert len(parts) == len(LONG) // 256
    assert set(parts) == {LONG[:256]}


def test_connecting_for_the_first_time_from_eight_threads_makes_one_connection(server: InThread) -> None:
    seen: list[str] = []

    async def handler(stream: ServerStream) -> None:
        seen.append(stream.peer.address)
        await stream.respond(200)

    with in_thread(handler) as here, HTTP20Connection(here.address, timeout=10) as connection:

        def work(_: int) -> None:
            connection.request("GET", "/")
            assert connection.get_response().status == 200

        in_threads(work)
    assert len(seen) == THREADS
    assert len(set(seen)) == 1


def test_closing_wakes_whoever_reads_in_another_thread(server: InThread) -> None:
    connection = HTTP20Connection(server.address)
    connection.request("GET", "/half")
    response = connection.get_response()
    assert response.read(4) == b"half"
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(response.read, 4)
        asking = pool.submit(lambda: (connection.request("GET", "/silent"), connection.get_response()))
        until(lambda: sleeping(response._exchange._flow.bell))
        connection.close()
        with pytest.raises(Closed):
            reading.result(10)
        with pytest.raises(LinkError):
            asking.result(10)


def test_closing_a_response_wakes_whoever_reads_it(connection: HTTP20Connection) -> None:
    connection.request("GET", "/half")
    response = connection.get_response()
    assert response.read(4) == b"half"
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(response.read, 4)
        until(lambda: sleeping(response._exchange._flow.bell))
        response.close()
        with pytest.raises(Closed, match="closed before its end"):
            reading.result(10)
    assert fetch(connection) == b"/"


@contextmanager
def interrupted(when: Callable[[], object]) -> Iterator[None]:
    """The main thread is interrupted as by Ctrl-C, once ``when`` has returned."""

    def interrupt() -> None:
        when()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()


def flow_of(connection: HTTP20Connection, number: int) -> Any:
    return connection._sent[number].exchange._flow  # type: ignore[union-attr]


def test_who_is_interrupted_while_waiting_for_a_response_gives_it_up(connection: HTTP20Connection) -> None:
    number = connection.request("GET", "/silent")
    flow = flow_of(connection, number)
    with interrupted(lambda: until(lambda: sleeping(flow.bell))):
        connection.get_response()
    until(lambda: flow.over)
    with pytest.raises(Misuse, match="no request awaits"):
        connection.get_response(number)
    assert fetch(connection) == b"/"


def test_who_is_interrupted_while_reading_loses_nothing(connection: HTTP20Connection) -> None:
    connection.request("GET", "/half")
    response = connection.get_response()
    assert response.read(1) == b"h"
    with interrupted(lambda: until(lambda: sleeping(response._exchange._flow.bell))):
        response.read(100)
    with interrupted(lambda: until(lambda: sleeping(response._exchange._flow.bell))):
        response.readline()
    assert response.read(3) == b"alf"
    assert fetch(connection) == b"/"
    response.close()


def test_who_is_interrupted_while_sending_gives_the_request_up() -> None:
    flows: list[Any] = []

    async def handler(stream: ServerStream) -> None:
        await stream.draining()

    with in_thread(handler) as server, HTTP20Connection(server.address) as sending:

        def pieces() -> Iterator[bytes]:
            yield b"first"
            until(lambda: bool(sending._service._living().flows))
            flows.extend(sending._service._living().flows)
            while True:
                yield bytes(1 << 20)

        with interrupted(lambda: until(lambda: bool(flows) and sleeping(flows[0].bell))):
            sending.request("POST", "/", pieces())
        until(lambda: flows[0].over)


def test_who_is_interrupted_while_connecting_connects_the_next_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        connection = HTTP20Connection("127.0.0.1", mute.getsockname()[1])
        come: list[socket.socket] = []
        with interrupted(lambda: come.append(mute.accept()[0])):
            connection.connect()
        connection.close()
        come[0].close()


def test_a_response_that_is_dropped_unread_is_given_up() -> None:
    ended: SimpleQueue[str] = SimpleQueue()

    async def handler(stream: ServerStream) -> None:
        try:
            await stream.start_response(200)
            while True:
                await stream.send(bytes(1 << 20))
        finally:
            ended.put(type(stream.cause).__name__)

    with in_thread(handler) as server, HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        assert response.read(10) == bytes(10)
        del response
        gc.collect()
        assert ended.get(timeout=10) == "StreamReset"
        connection.request("GET", "/")
        assert connection.get_response().read1()
        gc.collect()
        assert ended.get(timeout=10) == "StreamReset"


def test_a_connection_that_is_dropped_is_closed_but_not_under_its_reader() -> None:
    ended = threading.Event()

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        await stream.send(b"first")
        await stream.read()
        await stream.send(b"second")

    async def watch(stream: ServerStream) -> None:
        try:
            await handler(stream)
        finally:
            ended.set()

    with in_thread(watch) as server:
        connection = HTTP20Connection(server.address, timeout=10)
        connection.request("GET", "/")
        response = connection.get_response()
        del connection
        gc.collect()
        assert response.read() == b"firstsecond"
        assert ended.wait(10)
        del response
        gc.collect()
        until(lambda: not background()._farewells)


def test_a_body_waits_for_its_reader() -> None:
    """Backpressure holds across the border between the threads."""
    sent = [0]

    async def handler(stream: ServerStream) -> None:
        await stream.start_response(200)
        for _ in range(64):
            await stream.send(bytes(1 << 20))
            sent[0] += 1

    with in_thread(handler) as server, HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        assert response.read(10) == bytes(10)
        time.sleep(0.3)  # nobody reads: nothing more may be sent but what the windows and buffers take
        assert sent[0] < 8
        assert len(response.read()) == 64 * (1 << 20) - 10


def test_the_loops_own_thread_is_refused(connection: HTTP20Connection) -> None:
    async def inside() -> None:
        with pytest.raises(Misuse, match="blocking call in muxlink's background thread"):
            connection.request("GET", "/")
        with pytest.raises(Misuse, match="blocking call in muxlink's background thread"):
            HTTP20Connection(connection.host, connection.port).connect()

    connection.connect()
    background().call(inside(), 10)


async def test_a_thread_that_runs_a_loop_of_its_own_may_wait(server: InThread) -> None:
    """It blocks that loop meanwhile."""
    with HTTP20Connection(server.address, timeout=10) as connection:
        assert fetch(connection) == b"/"


def fetch(connection: HTTP20Connection) -> bytes:
    connection.request("GET", "/")
    return connection.get_response().read()


def sleeping(bell: Any) -> bool:
    return bool(bell._sleepers)


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.001)
