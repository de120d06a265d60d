"""The life of one connection in aioh2's manner: its beginning and end, its handler, its health and its settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from attrs import evolve

from actors.errors import Closed, ErrorCode, LinkError, Misuse, RemoteError, TransportError
from actors.settings import Limits
from supervisor.adapters.aio.errors import SendException
from supervisor.adapters.aio.inbox import Inbox
from supervisor.adapters.aio.jobs import failure_of, start
from supervisor.link import Link
from supervisor.served import ServedConnection

logger: Final = logging.getLogger("muxlink.aioh2")

SETTINGS: Final = {3: "max_streams", 4: "stream_window", 5: "max_frame_size", 6: "max_header_list"}
"""The settings of RFC 9113, 6.5.2 that can change, and what they are called in Limits."""


class Life:
    """What a connection is apart from its streams."""

    def __init__(self, client_side: bool, *, concurrency: int = 8, functional_timeout: float = 2.0) -> None:
        """Raises Misuse for a ``concurrency`` or ``functional_timeout`` that is none."""
        if type(concurrency) is not int or concurrency < 1:
            raise Misuse(f"concurrency is a number of requests at a time, from 1, not {concurrency!r}")
        self._client_side = client_side
        self._limits = Limits(max_streams=concurrency)
        self._end: Link | ServedConnection | None = None
        self._scheme = "http"
        self._authority: str | None = None
        self._inbox = Inbox()
        self._handler: asyncio.Future[object] | None = None
        self._closed: LinkError | None = None
        self._is_closing = False
        self._gone = asyncio.Event()
        self._rtt: float | None = None
        self._active = asyncio.get_running_loop().time()
        self.functional_timeout = functional_timeout

    # --- its life -----------------------------------------------------------------------------------------------------

    def begin(
        self, end: Link | ServedConnection, limits: Limits, *, scheme: str = "http", authority: str | None = None
    ) -> None:
        """Called once by who made the connection; ``scheme`` and ``authority`` are what a client's requests say."""
        self._end, self._limits, self._scheme, self._authority = end, limits, scheme, authority
        if isinstance(end, ServedConnection):
            start(self._watch(end), f"{end.name}/aioh2")

    def close_connection(self) -> None:
        """Say GOAWAY and close; what waits gets Closed, and requests that nobody took are refused.

        Returns at once; :meth:`wait_closed` returns when it is done. A second time changes nothing.
        """
        self._close(ErrorCode.NO_ERROR)

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, by :meth:`close_connection` or by itself."""
        await self._gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_connection()
        await self.wait_closed()

    def refuse_requests(self) -> None:
        """Refuse the requests that nobody has taken, and those that will come."""
        for entry in self._inbox.refuse():
            entry.stream.reset(ErrorCode.REFUSED_STREAM)

    def _close(self, code: int) -> None:
        end = self._living()
        if self._is_closing:
            return
        self._is_closing = True
        error = self._closed = Closed("the connection was closed: open another")
        for entry in self._inbox.close(error):
            entry.stream.reset(ErrorCode.REFUSED_STREAM)
        if isinstance(end, ServedConnection):
            end.end(error, code=code)  # _watch() hears of its end
        else:
            start(self._close_link(end), f"{end.name}/aioh2")

    async def _close_link(self, link: Link) -> None:
        try:
            await link.close()
            await self._rest()
        finally:
            self._over(self._closed)

    async def _rest(self) -> None:
        """Wait for what its streams still do in the background."""

    async def _watch(self, served: ServedConnection) -> None:
        self._over(await served.wait())

    def _over(self, error: LinkError | None) -> None:
        """The connection has ended: so does its handler, and nobody waits on."""
        self._closed = self._closed or error or Closed("the connection has ended")
        self._cancel_handler()
        self._inbox.close(self._closed)
        self._gone.set()

    def _living(self) -> Link | ServedConnection:
        if self._end is None:
            raise Misuse("this protocol has no connection: open_connection() and start_server() make those that have")
        return self._end

    def _check_open(self) -> Link | ServedConnection:
        end = self._living()
        if self._closed is not None:
            raise Closed.because(str(self._closed), self._closed.__cause__)
        return end

    # --- the handler --------------------------------------------------------------------------------------------------

    def set_handler(self, handler: Awaitable[object] | None) -> None:
        """Run a coroutine, or take a task that runs, which is cancelled when the connection ends; None: there is none.

        What it raises is logged, and ends the connection. Raises Misuse the second time.
        """
        if handler is None:
            return
        if self._handler is not None:
            raise Misuse("the connection has a handler already: set_handler() is for one")
        if asyncio.isfuture(handler):
            self._handler = handler
        elif asyncio.iscoroutine(handler):
            self._handler = start(handler, "aioh2 handler")
        else:
            raise Misuse(f"a handler is a coroutine or a task, not {type(handler).__name__}: write 'async def'")
        self._handler.add_done_callback(self._handled)

    @property
    def handler(self) -> asyncio.Future[object] | None:
        """What :meth:`set_handler` has begun."""
        return self._handler

    def _handled(self, handler: asyncio.Future[object]) -> None:
        name = getattr(self._end, "name", "aioh2")
        error = failure_of(handler)
        if error is None:
            return  # tasks of its own may go on with the connection
        if self._closed is not None and _is_of(error, (LinkError, asyncio.CancelledError)):
            return
        if _is_of(error, (RemoteError, TransportError, Closed, SendException)):
            logger.warning("%s: the handler ended, and the connection with it: %s", name, error)
        elif not isinstance(error, asyncio.CancelledError):
            logger.error("%s: the handler failed, and the connection ends with it", name, exc_info=error)
        if self._end is not None:
            self._close(ErrorCode.INTERNAL_ERROR)

    def _cancel_handler(self) -> None:
        if self._handler is not None and not self._handler.done():
            self._handler.cancel()

    # --- life and settings --------------------------------------------------------------------------------------------

    async def wait_functional(self) -> float | None:
        """Wait until the peer is known to live, and return the last round trip in seconds, None if there was none.

        A peer that was heard within ``functional_timeout`` seconds is not asked; any other is, by one PING. Raises
        PingTimeout where it does not answer, and what else ends the connection.
        """
        end = self._check_open()
        if asyncio.get_running_loop().time() - self._active >= self._functional_timeout:
            self._rtt = await end.ping()
            self._hear()
        return self._rtt

    def _hear(self) -> None:
        self._active = asyncio.get_running_loop().time()

    @property
    def functional_timeout(self) -> float:
        """Seconds of silence after which :meth:`wait_functional` asks."""
        return self._functional_timeout

    @functional_timeout.setter
    def functional_timeout(self, seconds: float) -> None:
        if type(seconds) not in (int, float) or not seconds >= 0:
            raise Misuse(f"functional_timeout is a number of seconds, not {seconds!r}")
        self._functional_timeout = float(seconds)

    def update_settings(self, new_settings: Mapping[int, int]) -> None:
        """Change what the peer may do, by the numbers of RFC 9113, 6.5.2, as h2's SettingCodes have them.

        3: streams at a time, 4: a stream's first window, 5: the size of a frame, 6: that of a header list. Returns at
        once; each holds when the peer has acknowledged it. Raises Misuse for any other.
        """
        end = self._check_open()
        if not isinstance(new_settings, Mapping):
            raise Misuse(f"settings are a mapping of numbers to values, not {type(new_settings).__name__}")
        unknown = [code for code in new_settings if code not in SETTINGS]
        if unknown:
            odd = int(unknown[0]) if isinstance(unknown[0], int) else repr(unknown[0])
            raise Misuse(f"setting {odd} cannot change: 3, 4, 5 and 6 can (RFC 9113, 6.5.2)")
        changes: dict[str, Any] = {SETTINGS[code]: value for code, value in new_settings.items()}
        self._limits = evolve(self._limits, **changes)
        start(_change(end, self._limits), "aioh2 settings")

    @property
    def initial_window_size(self) -> int:
        """Bytes that the peer may send on a stream before we read them, to begin with."""
        return self._limits.stream_window

    @initial_window_size.setter
    def initial_window_size(self, size: int) -> None:
        self.update_settings({4: size})

    @property
    def max_frame_size(self) -> int:
        """Bytes of payload that the peer may put into one frame."""
        return self._limits.max_frame_size

    @max_frame_size.setter
    def max_frame_size(self, size: int) -> None:
        self.update_settings({5: size})

    @property
    def max_concurrent_streams(self) -> int:
        """Streams that the peer may have open at a time."""
        return self._limits.max_streams

    @max_concurrent_streams.setter
    def max_concurrent_streams(self, number: int) -> None:
        self.update_settings({3: number})


def _is_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether it is an error of those kinds, or a task group's of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)


async def _change(end: Link | ServedConnection, limits: Limits) -> None:
    try:
        await end.change_limits(limits)
    except LinkError as error:
        logger.info("%s: the settings were not acknowledged: %s", end.name, error)
