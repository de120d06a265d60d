"""Bodies of 100 MB that nobody has to hold, and the handlers that send and take them."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from attrs import define, field

from actors.server_stream import ServerStream

BLOCK = 1 << 20
BLOCKS = 100
BIG = BLOCKS * BLOCK
"""The length of the big body, in bytes."""

TWICE_BIG = 2 * BIG
"""The length of the big body sent twice in one response."""

ROOM = 48 << 20
"""What a process may grow by while a big body passes through it: less than half of the body."""

# The same noise in every run, so that a failure can be repeated.
_NOISE = random.Random(7540).randbytes(BLOCK)


def big_blocks() -> Iterator[bytes]:
    """The big body; each block begins with its number, so that swapped blocks change the digest."""
    for number in range(BLOCKS):
        yield number.to_bytes(8, "big") + _NOISE[8:]


async def big_blocks_slowly() -> AsyncIterator[bytes]:
    """The big body from a source that gives other tasks a turn between blocks."""
    for block in big_blocks():
        await asyncio.sleep(0)
        yield block


@functools.cache
def big_digest() -> str:
    """The SHA-256 of the big body."""
    digest = hashlib.sha256()
    for block in big_blocks():
        digest.update(block)
    return digest.hexdigest()


@functools.cache
def twice_big_digest() -> str:
    """The SHA-256 of the big body sent twice in one response."""
    digest = hashlib.sha256()
    for _ in range(2):
        for block in big_blocks():
            digest.update(block)
    return digest.hexdigest()


@define
class Tally:
    """What has gone by: how many bytes, their digest, and by how much this process grew meanwhile."""

    length: int = 0
    growth: int = 0
    _digest: hashlib._Hash = field(factory=hashlib.sha256)
    _before: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._before = resident_bytes()

    def add(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        before = self.length
        self.length += len(chunk)
        if self.length // BLOCK > before // BLOCK:
            self.growth = max(self.growth, resident_bytes() - self._before)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def resident_bytes() -> int:
    """The memory that this process holds; 0 on systems that do not tell (then no growth is seen)."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def send_big(stream: ServerStream) -> None:
    """A handler that streams the big body, and tells its digest in the trailers."""
    tally = Tally()
    await stream.start_response(200, [("content-length", str(BIG))])
    for block in big_blocks():
        await stream.send(block)
        tally.add(block)
    assert tally.growth < ROOM, f"grew by {tally.growth} bytes while sending"
    await stream.end(trailers=[("x-digest", tally.digest)])


async def send_twice_big(stream: ServerStream) -> None:
    """A handler that streams 200 MB."""
    before = resident_bytes()
    await stream.start_response(200, [("content-length", str(TWICE_BIG))])
    for _ in range(2):
        for block in big_blocks():
            await stream.send(block)
        assert resident_bytes() - before < 2 * ROOM, "grew while sending"
    await stream.end()


async def take_big(stream: ServerStream) -> None:
    """A handler that reads whatever is uploaded, and answers with its length and digest."""
    tally = Tally()
    async for chunk in stream:
        tally.add(chunk)
    assert tally.growth < ROOM, f"grew by {tally.growth} bytes while receiving"
    trailers = await stream.trailers()
    reply = f"{tally.length} {tally.digest}"
    if "x-digest" in trailers:
        reply += f" {trailers['x-digest']}"
    await stream.respond(200, body=reply.encode())


async def big(stream: ServerStream) -> None:
    """A handler for both ways: GET sends the big body, everything else takes one."""
    if stream.method == "GET":
        await send_big(stream)
    else:
        await take_big(stream)


async def greet(stream: ServerStream) -> None:
    """A small handler: it greets by body, answers with a trailer, and passes a request's trailer on."""
    name = await stream.read()
    came = await stream.trailers()
    trailers = [("x-length", str(len(name)))]
    if "x-up" in came:
        trailers.append(("x-up-again", came["x-up"]))
    await stream.respond(
        200,
        headers=[
            ("x-method", stream.method),
            ("x-path", stream.path),
            ("x-agent", stream.headers.get("user-agent") or ""),
        ],
        body=b"hello, " + (name or b"world"),
        trailers=trailers,
    )
