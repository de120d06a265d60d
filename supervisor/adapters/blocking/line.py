"""A link in the background loop: from its first use until it is closed, or nobody holds it any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from attrs import evolve, frozen

from actors.errors import Closed, LinkError
from actors.settings import Limits, Tls
from supervisor.adapters.blocking.background import Background, background
from supervisor.adapters.blocking.errors import NotOpen
from supervisor.adapters.blocking.flow import Flow
from supervisor.link import Link
from supervisor.link_state import LinkState

_LONGEST: Final = 86_400.0


@frozen
class Target:
    """Where a service is, and how to get there."""

    url: str
    tls: Tls | None
    proxy: str | None
    push: bool
    limits: Limits
    connect_timeout: float | None

    def link(self) -> Link:
        """A link to it. Raises Misuse."""
        limits = self.limits
        if self.connect_timeout is not None:
            seconds = min(max(self.connect_timeout, 0.001), _LONGEST)
            limits = evolve(limits, connect_timeout=seconds, handshake_timeout=seconds)
        return Link(
            self.url, connections=1, max_connections=1, push=self.push, tls=self.tls, limits=limits, proxy=self.proxy,
            record=False,
        )  # fmt: skip


class Line:
    """A link in the loop: from its first use until it is closed, or nobody holds it any more."""

    __slots__ = ("_entering", "background", "ended", "flows", "link", "where")

    def __init__(self, link: Link, where: str) -> None:
        self.ended = True
        """Whether it was closed, or never connected."""
        self.background: Final = background()
        self.link: Final = link
        self.where: Final = where
        self.flows: Final[set[Flow]] = set()
        """The requests that go over it, for the loop."""
        self.ended = False
        self._entering: asyncio.Task[LinkError | None] | None = None

    @property
    def usable(self) -> bool:
        """Whether requests may go over it, now or after a while."""
        return not self.ended and self.background.alive

    @property
    def entered(self) -> bool:
        """Whether it has been connected once; from then on the link sees to that."""
        return self._entering is not None and self._entering.done() and not self.ended

    async def ready(self) -> None:
        """Return once it is connected. Raises what keeps it from that; all who wait share one attempt."""
        if self._entering is None:
            self._entering = self.background.start(self._enter())
        if not self._entering.done():
            if error := await asyncio.shield(self._entering):
                raise error
        elif self.ended:
            raise Closed(f"the connection to {self.where} was closed")
        elif self.link.state is not LinkState.READY:
            self.link.connect_now()
            await self.link.healthy()

    async def _enter(self) -> LinkError | None:
        self.background.at_end(self.link, self.link.close)
        try:
            await self.link.__aenter__()
        except LinkError as error:
            self.ended = True
            self.background.not_at_end(self.link)
            return error
        return None

    def close(self, code: int | None) -> None:
        """Say goodbye and close, and wait for that; what is open is reset with ``code``, if there is one."""
        if not self.ended:
            self.ended = True
            with suppress(NotOpen):  # the loop's end was a goodbye, too
                self.background.call(self._closed(code))

    async def _closed(self, code: int | None) -> None:
        if code is not None:
            for flow in self.flows:
                flow.give_up(code)
        await _closed(self.background, self.link)

    def drop(self) -> None:
        """Close, and do not wait for it."""
        if not self.ended:
            self.ended = True
            loop, link = self.background, self.link
            loop.post(lambda: loop.start(_closed(loop, link)))

    def __del__(self) -> None:
        self.drop()


async def _closed(loop: Background, link: Link) -> None:
    loop.not_at_end(link)
    await link.close()
