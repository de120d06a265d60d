"""aioh2's own example: a server that says hello with trailers, and a client, with the requests of a connection by ids.

Run it with ``python -m examples.aioh2``.
"""

import asyncio

from supervisor.adapters import aioh2


async def on_connected(proto: aioh2.H2Protocol) -> None:
    """Serve one connection; cancelled when that ends."""
    while True:
        stream_id, _ = await proto.recv_request()
        await proto.start_response(stream_id, {":status": "200"})
        await proto.send_data(stream_id, b"hello, ")
        name = await proto.read_stream(stream_id, -1)
        await proto.send_data(stream_id, name)
        await proto.send_trailers(stream_id, {"len": str(len(name))})


async def main() -> None:
    # At most 3 requests at a time on each connection
    async with await aioh2.start_server(on_connected, port=0, concurrency=3) as server:
        port = server.sockets[0].getsockname()[1]
        async with await aioh2.open_connection("127.0.0.1", port, functional_timeout=0.1) as client:
            await asyncio.sleep(0.1)  # busy with something else
            if rtt := await client.wait_functional():
                print("The peer lives:", rtt < 1)

            stream_id = await client.start_request({":method": "POST", ":path": "/index.html"})
            await client.send_data(stream_id, b"world", end_stream=True)
            print("Response headers:", await client.recv_response(stream_id))
            print("Response body:", await client.read_stream(stream_id, -1))
            print("Response trailers:", await client.recv_trailers(stream_id))


if __name__ == "__main__":
    asyncio.run(main())
