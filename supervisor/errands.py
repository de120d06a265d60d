"""What a link's keeper has done beside its turns, because it takes waiting: looking addresses up, and dialling."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Never, assert_never

from actors.actor import BodyActor, Stop
from actors.addresses import Address, Endpoint, resolve
from actors.errors import ConnectFailed, LinkError
from actors.trace import Tracer
from supervisor.orders import Resolved


class Errand(BodyActor[Never]):
    """Work for an actor that cannot wait; what comes of it, the work itself tells."""

    __slots__ = ("_work",)

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], tracer: Tracer) -> None:
        super().__init__(name, tracer)
        self._work = work

    async def body(self) -> None:
        try:
            await self._work()
        except LinkError as error:
            raise Stop(error) from error

    def fold(self, message: Never) -> None:
        assert_never(message)


async def look_up(endpoints: Sequence[Endpoint], timeout: float) -> Resolved:
    """Where the endpoints are now; those that are not found out are named."""
    found: dict[Address, None] = {}
    unknown: list[Endpoint] = []
    first: LinkError | None = None
    for endpoint in endpoints:
        try:
            found.update(dict.fromkeys(await resolve(endpoint, timeout=timeout)))
        except ConnectFailed as error:
            unknown.append(endpoint)
            first = first or error
    return Resolved(tuple(found), tuple(unknown), first)
