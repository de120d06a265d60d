"""HTTP proxies that take CONNECT: one that does what it should, and one that says whatever a test wants."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeVar

from attrs import define, field

T = TypeVar("T")


@define(eq=False)
class FakeProxy:
    """A proxy on the loopback interface."""

    routes: Mapping[str, int]
    """The ports that it leads to, by the name that it is asked for: it looks nothing up."""
    credentials: str | None = None
    """What it wants to be shown: the base64 of ``USER:PASSWORD``."""
    port: int = 0
    heads: list[str] = field(factory=list)
    """What it was asked, in order."""
    _ends: set[_End] = field(factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[str]:
        """The targets that it was asked for, in order."""
        return [head.split(" ")[1] for head in self.heads]

    def cut(self) -> None:
        """Lose every connection at once."""
        for each in list(self._ends):
            each.lose()


class _End(asyncio.Protocol):
    """One of the two connections of a tunnel; ``head`` is what came before there was one."""

    def __init__(self, proxy: FakeProxy, other: _End | None = None) -> None:
        self._proxy = proxy
        self._other = other
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._proxy._ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
            return
        self._head += data
        if self._head.endswith(b"\r\n\r\n") and self._dialling is None:
            head = self._head.decode("ascii")
            self._proxy.heads.append(head)
            self._dialling = asyncio.ensure_future(self._answer(head))

    async def _answer(self, head: str) -> None:
        proxy, (method, target, _) = self._proxy, head.partition("\r\n")[0].split(" ")
        wanted = f"\r\nProxy-Authorization: Basic {proxy.credentials}\r\n"
        if method != "CONNECT":
            self.write(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
        elif proxy.credentials is not None and wanted not in head:
            self.write(b'HTTP/1.1 407 Log in, please\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
        elif target not in proxy.routes:
            self.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nsoon")
        else:
            loop = asyncio.get_running_loop()
            try:
                _, self._other = await loop.create_connection(
                    lambda: _End(proxy, self), "127.0.0.1", proxy.routes[target]
                )
            except OSError:
                self.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            else:
                # Content-Length means nothing in the answer to CONNECT (RFC 9110, 9.3.6).
                self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVia: 1.1 fake\r\n\r\n")

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def lose(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy._ends.discard(self)
        if self._dialling is not None:
            self._dialling.cancel()
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()


@asynccontextmanager
async def proxying(
    routes: Mapping[str, int], *, credentials: str | None = None, port: int = 0
) -> AsyncIterator[FakeProxy]:
    """A proxy that leads to what it knows the port of."""
    proxy = FakeProxy(routes, credentials)
    server = await asyncio.get_running_loop().create_server(lambda: _End(proxy), "127.0.0.1", port)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await server.wait_closed()
        while proxy._ends:  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)


class _Speaker(asyncio.Protocol):
    def __init__(self, says: bytes, *, hangs_up: bool, by_bytes: bool, living: set[asyncio.BaseTransport]) -> None:
        self._says, self._hangs_up, self._by_bytes, self._living = says, hangs_up, by_bytes, living
        self._heard = b""
        self._spoken = False
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._living.add(transport)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if self._spoken or b"\r\n\r\n" not in self._heard:
            return
        self._spoken = True
        if self._by_bytes:
            self._left = self._says
            self._drip()
        else:
            self._transport.write(self._says)
            if self._hangs_up:
                self._transport.close()

    def _drip(self) -> None:
        """One byte a second."""
        if self._left and not self._transport.is_closing():
            self._transport.write(self._left[:1])
            self._left = self._left[1:]
            asyncio.get_running_loop().call_later(1.0, self._drip)

    def connection_lost(self, exc: Exception | None) -> None:
        self._living.discard(self._transport)
        self._left = b""


@asynccontextmanager
async def answering(says: bytes, *, hangs_up: bool = False, by_bytes: bool = False) -> AsyncIterator[int]:
    """A server that says just that, once it was asked for something; its port."""
    living: set[asyncio.BaseTransport] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Speaker(says, hangs_up=hangs_up, by_bytes=by_bytes, living=living), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for each in list(living):
            assert isinstance(each, asyncio.Transport)
            each.abort()
        await server.wait_closed()
        while living:  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)


@contextmanager
def elsewhere(opened: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What it gives, in a thread and a loop of its own: the caller's loop then has the caller's tasks only."""
    given: queue.Queue[T] = queue.Queue()
    loop = asyncio.SelectorEventLoop()
    over = asyncio.Event()

    async def run() -> None:
        async with opened() as it:
            given.put(it)
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        yield given.get(timeout=10)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
