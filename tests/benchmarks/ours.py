"""The jobs done through muxlink, by the interface that users have and with its default settings."""

from __future__ import annotations

import asyncio

from actors.exchange import Handler, ServerStream
from actors.trace import Recorder, Tracer
from supervisor.link import Link
from supervisor.server import Server
from tests.benchmarks import jobs


async def _hello(stream: ServerStream) -> None:
    await stream.respond(200, body=jobs.HELLO)


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


def _record(tracer: Tracer, recorder: bool) -> None:
    if recorder:
        tracer.attach(Recorder())


async def _serve(handler: Handler, recorder: bool) -> None:
    async with Server(handler, "127.0.0.1", 0) as server:
        _record(server.tracer, recorder)
        print("listening", server.port, flush=True)
        await asyncio.get_running_loop().create_future()


async def _hello_server(recorder: bool) -> None:
    await _serve(_hello, recorder)


async def _bulk_server(recorder: bool) -> None:
    await _serve(_bulk, recorder)


async def _client(port: int, requests: int, recorder: bool) -> float:
    async with Link(f"http://127.0.0.1:{port}") as link:
        _record(link.tracer, recorder)

        async def get() -> tuple[int, bytes]:
            reply = await link.request("GET", jobs.HELLO_PATH)
            return reply.status, reply.body

        return await jobs.time_requests(get, requests)


async def _download(port: int, rounds: int, recorder: bool) -> float:
    async with Link(f"http://127.0.0.1:{port}") as link:
        _record(link.tracer, recorder)

        async def fetch() -> int:
            received = 0
            async with link.stream("GET", jobs.BULK_PATH) as stream:
                _expect_200((await stream.response()).status)
                async for chunk in stream:
                    received += len(chunk)
            return received

        return await jobs.time_bulk(fetch, rounds)


async def _upload(port: int, rounds: int, recorder: bool) -> float:
    async with Link(f"http://127.0.0.1:{port}") as link:
        _record(link.tracer, recorder)

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
        servers={"hello-server": _hello_server, "bulk-server": _bulk_server},
        clients={"client": _client, "download": _download, "upload": _upload},
    )
