"""The jobs done through muxlink, by the interface that users have and with its default settings but one.

The flight recorder, which is on by default, is off unless ``--recorder`` is given: what it costs is told by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from actors.server_stream import Handler, ServerStream
from actors.settings import Health, Limits, Tls
from supervisor.link import Link
from supervisor.server import Server
from tests.benchmarks import certificates, echoes, idle, jobs, resting
from tests.benchmarks.jobs import Options


async def _hello(stream: ServerStream) -> None:
    await stream.respond(200, body=jobs.HELLO)


async def _idle(stream: ServerStream) -> None:
    if (body := idle.answer(stream.path)) is None:
        await asyncio.get_running_loop().create_future()
    else:
        await stream.respond(200, body=body)


async def _flooded(stream: ServerStream) -> None:
    """Small requests, a large response, and a handler that neither reads nor answers."""
    match stream.path:
        case jobs.HELLO_PATH:
            await _hello(stream)
        case jobs.BULK_PATH:
            await _bulk(stream)
        case _:
            await asyncio.get_running_loop().create_future()


async def _bulk(stream: ServerStream) -> None:
    if stream.method == "POST":
        received = 0
        async for chunk in stream:
            received += len(chunk)
        await stream.respond(200 if received == jobs.BULK else 500)
    else:
        await stream.start_response(200, {"content-length": str(jobs.BULK)})
        for chunk in jobs.chunks():
            await stream.send(chunk)


def _link(port: int, options: Options, *, health: Health | None = None, max_connections: int = 1) -> Link:
    tls = None if options.tls is None else Tls(cacert=options.tls / certificates.AUTHORITY)
    url = f"{options.scheme}://127.0.0.1:{port}"
    return Link(url, tls=tls, health=health, max_connections=max_connections, record=options.recorder)


def _serving(handler: Handler, limits: Limits | None = None) -> jobs.Serve:
    async def serve(options: Options) -> None:
        tls = None
        if options.tls is not None:
            tls = Tls(certfile=options.tls / certificates.CERTIFICATE, keyfile=options.tls / certificates.KEY)
        recorder = options.recorder
        async with Server(handler, "127.0.0.1", options.at, tls=tls, limits=limits, record=recorder) as server:
            jobs.listening(server.port)
            await asyncio.get_running_loop().create_future()

    return serve


async def _client(port: int, requests: int, options: Options) -> float:
    async with _link(port, options) as link:
        return await jobs.time_requests(lambda: _get(link, jobs.HELLO_PATH), requests)


async def _full_link(port: int, requests: int, options: Options) -> dict[str, float]:
    """PINGs also while it is idle, and somebody who looks at its figures each second."""

    async def look(link: Link) -> None:
        while True:
            if (stats := link.stats()).connections_open != 1:
                raise jobs.WrongReply(stats)
            await asyncio.sleep(1)

    async with _link(port, options, health=Health.fast()) as link, asyncio.TaskGroup() as group:
        looking = group.create_task(look(link))
        costs = await jobs.cost_requests(lambda: _get(link, jobs.HELLO_PATH), requests)
        looking.cancel()
    return costs


async def _latency(port: int, requests: int, options: Options) -> dict[str, float]:
    async with _link(port, options) as link:
        return await jobs.open_loop(lambda: _get(link, jobs.HELLO_PATH), requests, options.rate)


async def _idle_client(port: int, requests: int, options: Options) -> dict[str, float]:
    async with AsyncExitStack() as links:

        async def connect() -> idle.Get:
            link = await links.enter_async_context(_link(port, options))
            return lambda path: _get(link, path)

        return await idle.hold(connect, requests)


def _rest(health: Health) -> jobs.Run:
    async def run(port: int, seconds: int, options: Options) -> dict[str, float]:
        async with AsyncExitStack() as links:

            async def connect() -> idle.Get:
                link = await links.enter_async_context(_link(port, options, health=health))
                return lambda path: _get(link, path)

            return await resting.rest(connect, seconds, pinging=health.while_idle)

    return run


async def _spread(port: int, streams: int, options: Options) -> dict[str, float]:
    async with _link(port, options, max_connections=-(-streams // jobs.STREAMS)) as link:

        @asynccontextmanager
        async def opened() -> AsyncIterator[bytes]:
            async with link.stream("POST", echoes.PATH) as stream:
                await stream.send(echoes.MESSAGE)
                yield await stream.read(len(echoes.MESSAGE))

        return await echoes.spread(opened, streams)


async def _get(link: Link, path: str) -> tuple[int, bytes]:
    reply = await link.request("GET", path)
    return reply.status, reply.body


async def _download(port: int, rounds: int, options: Options) -> float:
    async with _link(port, options) as link:

        async def fetch() -> int:
            received = 0
            async with link.stream("GET", jobs.BULK_PATH) as stream:
                _expect_200((await stream.response()).status)
                async for chunk in stream:
                    received += len(chunk)
            return received

        return await jobs.time_bulk(fetch, rounds)


async def _upload(port: int, rounds: int, options: Options) -> float:
    async with _link(port, options) as link:

        async def send() -> int:
            sent = 0
            async with link.stream("POST", jobs.HELLO_PATH) as stream:
                for chunk in jobs.chunks():
                    await stream.send(chunk)
                    sent += len(chunk)
                await stream.end()
                _expect_200((await stream.response()).status)
                await stream.read()
            return sent

        return await jobs.time_bulk(send, rounds)


def _expect_200(status: int) -> None:
    if status != 200:
        raise jobs.WrongReply(status)


if __name__ == "__main__":
    jobs.main(
        servers={
            "hello-server": _serving(_hello),
            "bulk-server": _serving(_bulk),
            "idle-server": _serving(_idle, Limits(max_handlers=idle.HELD + 1)),  # and one that reports
            "flood-server": _serving(_flooded),
        },
        clients={
            "client": _client,
            "latency": _latency,
            "idle": _idle_client,
            "link": _full_link,
            "rest": _rest(Health()),
            "rest-pinging": _rest(Health.fast()),
            "spread": _spread,
            "download": _download,
            "upload": _upload,
        },
    )
