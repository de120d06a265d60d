"""aioh2's protocol object: one connection, its streams by their ids, and calls that may come from any task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

from actors.client_stream import ClientStream
from actors.errors import ErrorCode, InvalidHeaders, LinkError, Misuse, StreamReset
from actors.headers import HeaderInput
from actors.outgoing import BODYLESS_METHODS
from actors.server_stream import ServerStream
from supervisor.adapters.aio.errors import SendException
from supervisor.adapters.aio.headers import Texts, of_fields, of_request, split, to_pairs
from supervisor.adapters.aio.jobs import Leaver
from supervisor.adapters.aio.life import Life
from supervisor.adapters.aio.streams import Entry, Numbers, Streams
from supervisor.link import Link
from supervisor.served import ServedConnection


class _HeldOpen:
    """A body that never comes to an end by itself: what is sent of it comes by send()."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.get_running_loop().create_future()
        raise StopAsyncIteration


_HELD_OPEN: Final = _HeldOpen()
MOST_DIGITS: Final = 4
"""Of a status: more are none, and Python takes no more than it likes."""


class H2Protocol(Life):
    """One connection, as :func:`open_connection` returns it and :func:`start_server` hands it to its handler.

    Any task may call any method; each that waits raises a LinkError when the connection ends. A client's reconnects by
    itself: the ids of its streams are those on the wire, and go on from the highest one after a reconnect.
    """

    def __init__(self, client_side: bool, *, concurrency: int = 8, functional_timeout: float = 2.0) -> None:
        super().__init__(client_side, concurrency=concurrency, functional_timeout=functional_timeout)
        self._streams = Streams()
        self._numbers = Numbers()
        self._leaver = Leaver()

    async def _rest(self) -> None:
        await self._leaver.wait()

    # --- requests that come -------------------------------------------------------------------------------------------

    async def serve(self, stream: ServerStream) -> None:
        """What the server runs for each request: hand it over, and stay until both sides have ended."""
        entry = Entry(stream.id, stream)
        self._active = asyncio.get_running_loop().time()
        self._streams.add(entry, self._is_over)
        if not self._inbox.put(entry):
            stream.reset(ErrorCode.REFUSED_STREAM)
        try:
            # As long as something waits to go out, whoever sends it is told how far it got.
            if await stream.wait() is None and stream.gone < entry.given:
                with suppress(LinkError):  # which is that sender's
                    await stream.until_gone(entry.given)
        except asyncio.CancelledError:
            self._look_at_end(stream.cause)
            raise
        finally:
            self._inbox.drop(entry)

    def _look_at_end(self, cause: LinkError | None) -> None:
        """A stream was cut: where its connection ends, the handler is cancelled before it hears of it as an error."""
        end = self._end
        if self._closed is not None or cause is None or isinstance(cause, StreamReset):
            return
        if isinstance(end, ServedConnection) and (end.has_ended or end.stats().state == "draining"):
            self._closed = self._closed or cause
            self._cancel_handler()

    def _is_over(self, entry: Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.loan is not None and not entry.is_being_read:
            self._leaver.leave(entry.loan)
            entry.loan = None

    async def _leave(self, entry: Entry) -> None:
        """Leave a client's stream that is over, in the task of who reads it, which costs no other."""
        loan, entry.loan = entry.loan, None
        if loan is not None:
            await loan.__aexit__(None, None, None)

    async def recv_request(self) -> tuple[int, Texts]:
        """The next request's id and headers, first come first served. Raises what the connection ends with."""
        if self._client_side:
            raise Misuse("a client receives responses: recv_response(stream_id)")
        self._living()
        entry = await self._inbox.take()
        entry.seen = True
        assert isinstance(entry.stream, ServerStream)  # noqa: S101  (for the type checker)
        return entry.id, of_request(entry.stream)

    async def start_response(self, stream_id: int, headers: HeaderInput, *, end_stream: bool = False) -> None:
        """Send the response's headers, with ``:status`` among them; a status of 1xx is an informational response.

        Raises InvalidHeaders, Misuse when it was sent already, and the stream's error.
        """
        entry = self._streams.find(stream_id)
        stream = entry.stream
        if not isinstance(stream, ServerStream):
            raise Misuse("a client sends requests: start_request(headers)")
        pseudo, fields = split(to_pairs(headers))
        given = pseudo.pop(b":status", None)
        if given is None or not given.isdigit() or len(given) > MOST_DIGITS or pseudo:
            odd = f" and no {min(pseudo).decode()!r}" if pseudo else ""
            raise InvalidHeaders(f"a response has a ':status', such as '200'{odd}")
        status = int(given)
        if status < 200 and not end_stream:
            await stream.inform(status, fields)
            return
        await stream.start_response(status, fields)
        if end_stream:
            await entry.finish([])
            self._ours_ended(entry)

    # --- requests that go out -----------------------------------------------------------------------------------------

    async def start_request(self, headers: HeaderInput, *, end_stream: bool = False) -> int:
        """Send a request's headers on a new stream, and return the stream's id.

        ``:method`` and ``:path`` are needed; ``:authority`` is the host that was connected to where it is left out.
        Waits for a place where the server allows no more streams, and for a connection where there is none. Raises
        InvalidHeaders, and what keeps the request from being sent.
        """
        link = self._check_open()
        if not isinstance(link, Link):
            raise Misuse("a server answers requests: recv_request(), start_response(stream_id, headers)")
        pseudo, fields = split(to_pairs(headers))
        method = self._method_of(pseudo)
        if pseudo.get(b":scheme", self._scheme.encode()) != self._scheme.encode():
            raise InvalidHeaders(f"':scheme' is {self._scheme!r} on this connection: leave it out")
        body = _HELD_OPEN if method in BODYLESS_METHODS and not end_stream else None
        authority, protocol = pseudo.get(b":authority"), pseudo.get(b":protocol")
        loan = link.stream(
            method, pseudo.get(b":path", b"").decode("latin-1"), headers=fields, body=body,
            authority=authority.decode("latin-1") if authority is not None else self._authority,
            protocol=protocol.decode("latin-1") if protocol is not None else None,
        )  # fmt: skip
        stream = await loan.__aenter__()
        entry = Entry(self._numbers.number(stream), stream, loan)
        self._streams.add(entry, self._is_over)
        if end_stream:
            await stream.end()
        return entry.id

    @staticmethod
    def _method_of(pseudo: Mapping[bytes, bytes]) -> str:
        method = pseudo.get(b":method", b"")
        for name in (b":method", b":path"):
            if name not in pseudo and (name, method) != (b":path", b"CONNECT"):
                raise InvalidHeaders(f"a request has a {name.decode()!r} among its headers")
        if b":status" in pseudo:
            raise InvalidHeaders("':status' is for responses")
        return method.decode("latin-1")

    async def recv_response(self, stream_id: int) -> Texts:
        """The response's headers, once they have come, without informational ones. Raises the stream's error."""
        entry = self._streams.find(stream_id)
        if not isinstance(entry.stream, ClientStream):
            raise Misuse("a server receives requests: recv_request()")
        head = await entry.stream.response()
        entry.seen = True
        self._hear()
        return [(":status", str(head.status)), *of_fields(head.headers)]

    # --- both ---------------------------------------------------------------------------------------------------------

    async def send_data(
        self, stream_id: int, data: bytes | bytearray | memoryview, *, end_stream: bool = False
    ) -> None:
        """Send a piece of the body, and wait until it has gone out, as the peer's windows and the socket allow.

        Calls for one stream take turns. Raises SendException, whose ``data`` is the rest that did not go out. What has
        gone out before a cancellation stays so, and so does up to half of ``Limits.send_buffer`` that is queued.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise Misuse(f"send_data() takes bytes, not {type(data).__name__}")
        whole = data if isinstance(data, bytes) else bytes(data)
        try:
            entry = self._streams.find(stream_id)
        except LinkError as error:
            raise SendException(whole, str(error)) from error
        await entry.send(whole, max(self._limits.send_buffer // 2, 1), end=end_stream)
        if end_stream:
            self._ours_ended(entry)

    async def send_trailers(self, stream_id: int, headers: HeaderInput) -> None:
        """Send trailers, which end our side. Raises InvalidHeaders, and the stream's error."""
        entry = self._streams.find(stream_id)
        await entry.finish(to_pairs(headers))
        self._ours_ended(entry)

    async def end_stream(self, stream_id: int) -> None:
        """End our side. Raises the stream's error."""
        entry = self._streams.find(stream_id)
        await entry.finish([])
        self._ours_ended(entry)

    def _ours_ended(self, entry: Entry) -> None:
        stream = entry.stream
        if isinstance(stream, ServerStream) and not stream.is_over:
            self._look_again(entry, stream)

    def _look_again(self, entry: Entry, stream: ServerStream) -> None:
        """See whether the rest of a request that was answered is wanted, for it has a place that others could have."""
        loop, received = asyncio.get_running_loop(), stream.received

        def look() -> None:
            if entry.is_being_read or stream.received != received:
                self._look_again(entry, stream)
            else:
                stream.reset(ErrorCode.NO_ERROR)  # RFC 9113, 8.1

        entry.timer = loop.call_later(self._limits.body_timeout, look)

    async def read_stream(self, stream_id: int, size: int | None = None) -> bytes:
        """The next of the body: what came in one DATA frame, or with ``size`` exactly so many bytes, fewer at the end.

        ``-1`` reads to the end, within ``Limits.max_request_body`` and ``max_response_body``; 0 gives ``b""``, and so
        does the end. Calls for one stream take turns. Raises the stream's error; what came before it, and was not part
        of a read that it ended, can still be read.
        """
        if size is not None and type(size) is not int:
            raise Misuse(f"read_stream() takes a number of bytes, -1 or None, not {size!r}")
        entry = self._streams.find(stream_id)
        if size == 0:
            return b""
        try:
            data = await entry.read(size)
        finally:
            if entry.stream.is_over:
                await self._leave(entry)
        entry.seen = True
        self._hear()
        return data

    async def recv_trailers(self, stream_id: int) -> Texts:
        """The peer's trailers, once it has ended its side; empty where it sent none. Raises the stream's error.

        They follow the body: read it meanwhile, or its flow control holds them back.
        """
        entry = self._streams.find(stream_id)
        trailers = await entry.stream.trailers()
        entry.seen = True
        self._hear()
        return of_fields(trailers)

    def reprioritize(
        self, stream_id: int, depends_on: int | None = None, weight: int = 16, exclusive: bool = False
    ) -> None:
        """Give our body on a stream another share of the connection, from 1 to 256.

        A client tells the server, with the stream that this one depends on; a server shares by weight alone, and takes
        no ``depends_on``. Raises Misuse.
        """
        stream = self._streams.find(stream_id).stream
        if isinstance(stream, ServerStream):
            if depends_on or exclusive:
                raise Misuse("a server shares by weight alone: leave depends_on and exclusive out")
            stream.prioritize(weight)
            return
        parent = self._streams.find(depends_on).stream if depends_on else None
        if parent is not None and parent.connection != stream.connection:
            raise Misuse(f"stream {stream_id} cannot depend on {depends_on}, which is of a connection that was lost")
        stream.prioritize(weight, depends_on=parent.id if parent is not None else 0, exclusive=exclusive)
