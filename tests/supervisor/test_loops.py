"""A link and a server belong to the event loop that they were entered on: others are told so, and harm nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.errors import Misuse
from actors.server_stream import ServerStream
from actors.settings import Limits
from supervisor.link import Link
from supervisor.server import Server


async def hello(stream: ServerStream) -> None:
    await stream.respond(200, body=b"hello")


async def _call(ask: Callable[[], Any]) -> object:
    answer = ask()
    return await answer if isinstance(answer, Awaitable) else answer


async def _elsewhere(ask: Callable[[], Any]) -> object:
    """Ask in a thread that runs a loop of its own."""
    return await asyncio.to_thread(lambda: asyncio.run(_call(ask)))


LINKS: dict[str, Callable[[Link], Any]] = {
    "request": lambda link: link.request("GET", "/"),
    "stream": lambda link: link.stream("GET", "/"),
    "why": lambda link: link.why(),
    "census": lambda link: link.census(),
    "healthy": lambda link: link.healthy(),
    "ping": lambda link: link.ping(),
    "change_limits": lambda link: link.change_limits(Limits()),
    "connect_now": lambda link: link.connect_now(),
    "close": lambda link: link.close(),
}
SERVERS: dict[str, Callable[[Server], Any]] = {
    "state": lambda server: server.state(),
    "why": lambda server: server.why(),
    "census": lambda server: server.census(),
    "wait": lambda server: server.wait(),
    "change_limits": lambda server: server.change_limits(Limits()),
    "close": lambda server: server.close(),
}


@pytest.mark.parametrize("ask", LINKS.values(), ids=LINKS)
async def test_a_link_that_is_asked_on_another_loop_says_so_and_serves_on(ask: Callable[[Link], Any]) -> None:
    async with Server(hello) as server, Link(server.url) as link:
        with pytest.raises(Misuse, match=r"link-.* lives on another event loop"):
            await _elsewhere(lambda: ask(link))
        assert (await link.request("GET", "/", timeout=5)).body == b"hello"


@pytest.mark.parametrize("ask", SERVERS.values(), ids=SERVERS)
async def test_a_server_that_is_asked_on_another_loop_says_so_and_serves_on(ask: Callable[[Server], Any]) -> None:
    async with Server(hello) as server, Link(server.url) as link:
        with pytest.raises(Misuse, match=r"server-.* lives on another event loop"):
            await _elsewhere(lambda: ask(server))
        assert (await link.request("GET", "/", timeout=5)).body == b"hello"


async def test_a_thread_without_a_loop_is_told_the_same() -> None:
    async with Server(hello) as server, Link(server.url) as link:
        for call in (link.connect_now, lambda: server.change_limits(Limits())):
            with pytest.raises(Misuse, match="lives on another event loop"):
                await asyncio.to_thread(call)
