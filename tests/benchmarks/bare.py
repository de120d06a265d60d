"""The roles of the bare loop: see ``loops`` for the loop, and ``jobs`` for the roles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.benchmarks import certificates, idle, jobs
from tests.benchmarks.jobs import Options
from tests.benchmarks.loops import BulkClient, BulkServer, Client, HelloServer, IdleServer, Loop, request

_Client = TypeVar("_Client", bound=Loop)


def _serving(protocol: type[Loop]) -> jobs.Serve:
    async def serve(options: Options) -> None:
        context = None if options.tls is None else certificates.server_context(options.tls)
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=context)
        print("listening", server.sockets[0].getsockname()[1], flush=True)
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


async def _latency(port: int, requests: int, options: Options) -> dict[str, float]:
    client = await _connect(Client, port, options)
    return await jobs.open_loop(client.get, requests, options.rate)


async def _idle(port: int, requests: int, options: Options) -> dict[str, float]:
    async def connect() -> idle.Get:
        client = await _connect(Client, port, options)
        return lambda path: client.get(request(b"GET", path, port, options.scheme))

    return await idle.hold(connect, requests)


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
        },
        clients={
            "client": _client,
            "latency": _latency,
            "idle": _idle,
            "download": _bulk(BulkClient.download),
            "upload": _bulk(BulkClient.upload),
        },
    )
