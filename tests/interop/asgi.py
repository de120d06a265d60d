"""An ASGI application for hypercorn to serve: each path is one behaviour."""

from __future__ import annotations

import asyncio

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

_together: list[asyncio.Event] = []


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    if scope["type"] != "http":
        raise NotImplementedError  # how an application says that it does not take lifespan events
    path = scope["path"]
    if path == "/echo":
        await _echo(receive, send)
    elif path == "/for-ever":
        await _send_for_ever(receive, send)
    elif path == "/together":
        await _wait_for_100()
        await _answer(send, scope["query_string"])
    else:
        await _answer(send, _seen(scope))


def _seen(scope: HTTPScope) -> bytes:
    return f"{scope['method']} {scope['raw_path'].decode()} over HTTP/{scope['http_version']}".encode()


async def _start(send: ASGISendCallable) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"asgi")], "trailers": False})


async def _body(send: ASGISendCallable, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _answer(send: ASGISendCallable, body: bytes) -> None:
    await _start(send)
    await _body(send, body)


async def _echo(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Send each part of the body back as it comes."""
    await _start(send)
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return
        more = event["more_body"]
        await _body(send, event["body"], more=more)


async def _send_for_ever(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Send until the client has left; then say so where the test reads it."""
    await _start(send)
    leaving = asyncio.create_task(_left(receive))
    while not leaving.done():
        await _body(send, bytes(16_384), more=True)
        await asyncio.sleep(0)
    print("the client has left", flush=True)


async def _left(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait_for_100() -> None:
    """Return once 100 requests wait."""
    _together.append(asyncio.Event())
    if len(_together) == 100:
        for each in _together:
            each.set()
    await _together[-1].wait()
