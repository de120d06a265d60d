"""A server that says hello.

Run it with ``muxlink serve examples.hello:hello --bind 127.0.0.1:8080`` and ask it with
``muxlink request -d world http://127.0.0.1:8080/``.
"""

from actors.server_stream import ServerStream


async def hello(stream: ServerStream) -> None:
    name = await stream.read() or b"world"
    await stream.respond(200, {"content-type": "text/plain"}, b"hello, " + name)
