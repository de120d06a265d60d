"""Blocking code over HTTP/2: a request, a body as it comes, and one connection for many threads.

The same lines work with a server that speaks HTTP/1.1 alone. Run it with ``python -m examples.hyper``.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from actors.server_stream import ServerStream
from supervisor.adapters.hyper import HTTPConnection
from supervisor.server import Server


async def handle(stream: ServerStream) -> None:
    if stream.path == "/count":
        await stream.start_response(200, {"content-type": "text/plain"})
        for number in range(3):
            await stream.send(b"%d\n" % number)
    else:
        await stream.respond(200, body=b"hello, " + (await stream.read() or b"world"))


@contextmanager
def served() -> Iterator[int]:
    """The port of a server in a thread of its own."""
    with asyncio.Runner() as runner:
        server, loop = Server(handle), runner.get_loop()
        runner.run(server.__aenter__())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield server.port
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        runner.run(server.close())


def greet(connection: HTTPConnection, name: str) -> str:
    stream_id = connection.request("POST", "/", body=name)
    return connection.get_response(stream_id).read().decode()


def main() -> None:
    # In plaintext HTTP/2 must be asked for; over TLS the server is asked.
    with served() as port, HTTPConnection("127.0.0.1", port, force_proto="h2", timeout=10) as connection:
        connection.request("GET", "/")
        response = connection.get_response()
        print(response.status, response.version, response.read())

        connection.request("GET", "/count")
        for line in connection.get_response():
            print("as it comes:", line)

        with ThreadPoolExecutor(8) as threads:
            greetings = threads.map(greet, [connection] * 8, "abcdefgh")
            print("eight threads:", *greetings, sep="\n  ")


if __name__ == "__main__":
    main()
