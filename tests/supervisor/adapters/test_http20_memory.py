"""What a connection object remembers of requests that are over: never more as time goes by."""

from __future__ import annotations

import gc
import tracemalloc

from supervisor.adapters.blocking.flow import Flow
from supervisor.adapters.http20 import connection as room
from supervisor.adapters.http20.connection import HTTP20Connection
from tests.supervisor.adapters.served import answers, in_thread


def test_one_request_that_nobody_asks_for_does_not_hold_those_behind_it() -> None:
    with in_thread(answers) as server, HTTP20Connection(server.address, timeout=10) as connection:
        connection.request("GET", "/forgotten")
        tracemalloc.start()
        try:
            for _ in range(2000):
                assert connection.get_response(connection.request("GET", "/")).read() == b"/"
            held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, room.__file__)])
        finally:
            tracemalloc.stop()
        assert sum(trace.size for trace in held.traces) < 20_000  # a number of each would have 80,000


def test_uploads_whose_responses_were_closed_are_forgotten() -> None:
    with in_thread(answers) as server, HTTP20Connection(server.address, timeout=10) as connection:
        for _ in range(300):
            number = connection.putrequest("POST", "/")
            connection.endheaders()
            connection.send(b"part", stream_id=number)
            with connection.get_response(number) as response:
                assert response.read1() == b"part"
        gc.collect()
        assert sum(isinstance(each, Flow) for each in gc.get_objects()) < 150
