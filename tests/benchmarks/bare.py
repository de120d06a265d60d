"""The roles of the bare loop: see ``loops`` for the loop, and ``jobs`` for the roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tests.benchmarks import certificates, echoes, idle, jobs, resting
from tests.benchmarks.jobs import Options
from tests.benchmarks.loops import BulkClient, BulkServer, Client, HelloServer, IdleServer, Loop, request
from tests.benchmarks.talks import EchoClient, EchoServer

_Client = TypeVar("_Client", bound=Loop)


def _serving(protocol: type[Loop]) -> jobs.Serve:
    async def serve(options: Options) -> None:
        context = None if options.tls is None else certificates.server_context(options.tls)
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", options.at, ssl=context)
        jobs.listening(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    return serve


async def _connect(kind: Callable[[int, str], _Client], port: int, options: Options) -> _Client:
    context = None if options.tls is None else certificates.client_context(options.tls)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: kind(port, options.scheme), "127.0.0.1", port, ssl=context)
    return client


async def _client(port: int, requests: int, options: Options) -> float:
    client = await _connect(Client, port, options)
    return await jobs.time_requests(client.get, requests)


async def _link(port: int, requests: int, options: Options) -> dict[str, float]:
    client = await _connect(Client, port, options)
    return await jobs.cost_requests(client.get, requests)


async def _latency(port: int, requests: int, options: Options) -> dict[str, float]:
    client = await _connect(Client, port, options)
    return await jobs.open_loop(client.get, requests, options.rate)


async def _idle(port: int, requests: int, options: Options) -> dict[str, float]:
    async def connect() -> idle.Get:
        client = await _connect(Client, port, options)
        return lambda path: client.get(request(b"GET", path, port, options.scheme))

    return await idle.hold(connect, requests)


def _rest(*, pinging: bool) -> jobs.Run:
    async def run(port: int, seconds: int, options: Options) -> dict[str, float]:
        async def connect() -> idle.Get:
            client = await _connect(Client, port, options)
            if pinging:
                client.ping_every(resting.INTERVAL)
            return lambda path: client.get(request(b"GET", path, port, options.scheme))

        return await resting.rest(connect, seconds, pinging=pinging)

    return run


async def _spread(port: int, streams: int, options: Options) -> dict[str, float]:
    """As many connections as are needed, one after the other, each full of streams."""
    clients: list[EchoClient] = []
    connecting = asyncio.Lock()

    @asynccontextmanager
    async def opened() -> AsyncIterator[bytes]:
        async with connecting:
            if not clients or clients[-1].opened == jobs.STREAMS:
                clients.append(await _connect(EchoClient, port, options))
            stream_id = clients[-1].open()
            client = clients[-1]
        try:
            yield await client.echo(stream_id, echoes.MESSAGE)
        finally:
            client.close(stream_id)

    return await echoes.spread(opened, streams)


def _bulk(transfer: Callable[[BulkClient], Awaitable[int]]) -> jobs.Run:
    async def run(port: int, rounds: int, options: Options) -> float:
        client = await _connect(BulkClient, port, options)
        return await jobs.time_bulk(lambda: transfer(client), rounds)

    return run


if __name__ == "__main__":
    jobs.main(
        servers={
            "hello-server": _serving(HelloServer),
            "bulk-server": _serving(BulkServer),
            "idle-server": _serving(IdleServer),
            "echo-server": _serving(EchoServer),
        },
        clients={
            "client": _client,
            "latency": _latency,
            "idle": _idle,
            "link": _link,
            "rest": _rest(pinging=False),
            "rest-pinging": _rest(pinging=True),
            "spread": _spread,
            "download": _bulk(BulkClient.download),
            "upload": _bulk(BulkClient.upload),
        },
    )
