"""An actor of one's own, a cache, and a supervisor that starts it again when it crashes.

Run it with ``python -m examples.own_actor``.
"""

import asyncio
import logging
from typing import ClassVar

from attrs import frozen

from actors.actor import ask
from actors.errors import Closed
from actors.mailbox import Ref, Reply, Understood
from actors.turns import TurnActor
from supervisor.restart import ChildSpec
from supervisor.tree import Supervisor


@frozen
class Put:
    key: str
    value: int


@frozen
class Get:
    key: str
    reply: Reply[int]


class Cache(TurnActor[Put | Get]):
    understands: ClassVar[Understood] = Put | Get

    def begin(self) -> None:
        self.values: dict[str, int] = {}

    def receive(self, message: Put | Get) -> None:
        match message:
            case Put(key, value):
                self.values[key] = value
            case Get(key, reply):
                reply.tell(self.values[key])  # a bug: what is not there is a KeyError


async def get(cache: Ref[Put | Get], key: str) -> int:
    return await ask(cache, lambda reply: Get(key, reply), timeout=1)


async def main() -> None:
    logging.getLogger("muxlink").setLevel(logging.CRITICAL)  # or the log shows the traceback of the crash
    async with Supervisor([ChildSpec("cache", lambda: Cache("cache"))]) as tree:
        cache = await tree.find_child("cache")
        cache.tell(Put("ada", 1815))
        print("ada:", await get(cache, "ada"))
        try:
            await get(cache, "bob")
        except Closed as error:
            print("bob:", error)
        [state] = await tree.which_children()
        print(f"{state.name}: {state.state}, restarts: {state.restarts}, because of {state.reason!r}")
        cache = await tree.find_child("cache")  # another actor, and empty
        cache.tell(Put("bob", 1923))
        print("bob:", await get(cache, "bob"))


if __name__ == "__main__":
    asyncio.run(main())
