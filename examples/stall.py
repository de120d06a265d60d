"""A link that hangs, and who could end it: handlers that never read hoard the connection's window.

One innocent upload waits for the window that they hold. Nothing fails and nothing is logged; ``why`` names the window
and the culprits, from either end. Run it with ``python -m examples.stall``; with ``stall.html`` behind it, what both
ends had recorded is written there as a page.
"""

import asyncio
import sys
from pathlib import Path

from actors.client_stream import ClientStream
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.explanation import Explanation, WaitsFor, render
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing.convert import save
from supervisor.tracing.records import Trace

# A connection takes 64 KiB that nobody has read, a stream half of that: two handlers are enough to use it up.
LIMITS = Limits(connection_window=65_536, max_connection_window=65_536, stream_window=32_768, max_stream_window=32_768)


async def handle(stream: ServerStream) -> None:
    if stream.path == "/hoard":
        await stream.draining()  # a bug: it waits for something else, and never reads what it was sent
    body = await stream.read()
    await stream.respond(200, body=b"%d bytes" % len(body))


async def fill(stream: ClientStream) -> None:
    """Send more than a handler that does not read lets through."""
    await stream.send(bytes(100_000))
    await stream.end()
    await stream.response()


async def stalls(of: Link | Server, wanted: int) -> list[Explanation]:
    """What waits for the connection's window, or does not read, once there is as much of it as is ``wanted``."""
    while True:
        said = [each for each in await of.why() if each.waits_for in (WaitsFor.CONNECTION_WINDOW, WaitsFor.READER)]
        if len(said) >= wanted:
            return sorted(said, key=lambda each: each.stream_id or 0)
        await asyncio.sleep(0.05)


def write_page(link: Link, server: Server, target: Path) -> None:
    """What the flight recorder holds of both ends, to be looked at in a browser."""
    ends = (link.trace(process="client"), server.trace(process="server"))
    save(Trace.of([record for end in ends for record in end.records()]), target)


async def main(page: Path | None = None) -> None:
    async with Server(handle, limits=LIMITS) as server, Link(server.url) as link, asyncio.TaskGroup() as tasks:
        async with link.stream("POST", "/hoard") as first, link.stream("POST", "/hoard") as second:
            hoarding = [tasks.create_task(fill(first)), tasks.create_task(fill(second))]
            await stalls(server, 2)  # by now the window is used up
            upload = tasks.create_task(link.request("POST", "/upload", body=b"innocent"))

            print("The client says:")
            print(render(await stalls(link, 1)))
            print("The server says:")
            print(render(await stalls(server, 3)))
            if page is not None:
                await asyncio.sleep(2)  # a stall of milliseconds is none
                write_page(link, server, page)
            for each in hoarding:
                each.cancel()
        # The hoarders were left, which gives their window back.
        print("The upload:", (await upload).body.decode())


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:2])))
