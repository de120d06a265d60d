"""A server that says hello with trailers, and a client that reads them.

Run it with ``python -m examples.core``.
"""

import asyncio

from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server


async def hello(stream: ServerStream) -> None:
    # Send the response's head
    await stream.start_response(200)

    # The response's body starts with "hello"
    await stream.send(b"hello, ")

    # Read all of the request's body as a name from the client's side
    name = await stream.read()

    # Amend the response's body with the name
    await stream.send(name)

    # End with trailers that tell the length of the name
    await stream.end(trailers={"len": str(len(name))})


async def main() -> None:
    # A server on a free port, with at most 3 requests at a time on each connection
    async with (
        Server(hello, port=0, limits=Limits(max_streams=3)) as server,
        # A link to it
        Link(server.url) as link,
        # A request
        link.stream("POST", "/index.html") as stream,
    ):
        # Send the name "world" as the whole request's body
        await stream.send(b"world")
        await stream.end()

        # The response's head
        head = await stream.response()
        print("Response status:", head.status)

        # All of the response's body
        body = await stream.read()
        print("Response body:", body)

        # The response's trailers
        trailers = await stream.trailers()
        print("Response trailers:", trailers)


if __name__ == "__main__":
    asyncio.run(main())
