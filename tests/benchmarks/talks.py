"""The bare loop for streams that stay open: a server that sends back what comes, and a client that holds them."""

from __future__ import annotations

import asyncio

from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived

from tests.benchmarks import echoes, jobs
from tests.benchmarks.loops import FAILURES, Headers, Loop, request

_HEADERS: Headers = [(b":status", b"200")]


class EchoServer(Loop):
    """Sends back what comes, on the stream where it came."""

    client_side = False

    def data_received(self, data: bytes) -> None:
        h2 = self.h2
        for event in h2.receive_data(data):
            if isinstance(event, RequestReceived):
                h2.send_headers(event.stream_id, _HEADERS)
            elif isinstance(event, DataReceived):
                h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                h2.send_data(event.stream_id, event.data)
        self.flush()


class EchoClient(Loop):
    """Holds streams, and awaits on each the next data; one write for each turn of the loop."""

    client_side = True

    def __init__(self, port: int, scheme: str = "http") -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.headers = request(b"POST", echoes.PATH, port, scheme)
        self.awaiting: dict[int, asyncio.Future[bytes]] = {}
        self.opened = 0
        self.flushing = False

    def open(self) -> int:
        """A stream of our side's, which stays open."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, self.headers)
        self.opened += 1
        return stream_id

    async def echo(self, stream_id: int, message: bytes) -> bytes:
        """Send a message, and return what comes next."""
        self.h2.send_data(stream_id, message)
        self.soon()
        came: asyncio.Future[bytes] = self.loop.create_future()
        self.awaiting[stream_id] = came
        return await came

    def close(self, stream_id: int) -> None:
        if not self.lost.done():
            self.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            self.soon()

    def soon(self) -> None:
        if not self.flushing:
            self.flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        self.flushing = False
        super().flush()

    def data_received(self, data: bytes) -> None:
        h2 = self.h2
        for event in h2.receive_data(data):
            if isinstance(event, DataReceived):
                h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.awaiting.pop(event.stream_id).set_result(event.data)
            elif isinstance(event, FAILURES):
                raise jobs.WrongReply(event)
        super().flush()
