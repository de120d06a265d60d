"""Shares of a connection, and PRIORITY on the wire (RFC 7540, 5.3 and 6.3; RFC 9218)."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from actors.errors import Misuse
from actors.server_stream import ServerStream
from tests.support import frames
from tests.support.frames import Frame, Type, encode, headers, window_update
from tests.support.sides import Bench, linked, linked_to_raw, settle

BODY = b"x" * 1_000_000
WEIGHTS = (128, 64, 32, 16, 8, 4, 2, 1)


async def big(stream: ServerStream) -> None:
    if weight := stream.headers.get("x-weight"):
        stream.prioritize(int(weight))
    await stream.respond(200, body=BODY)


def shares(said: list[Frame]) -> Counter[int]:
    got: Counter[int] = Counter()
    for each in said:
        if each.type == Type.DATA:
            got[each.stream_id] += len(each.body)
    return got


async def contended(*extra: tuple[str, str]) -> list[int]:
    """What streams get of 520 KiB, each asked for with one more field, while all have more than enough to say."""
    async with Bench(big) as bench:
        await bench.hears(frames.settings({4: 2**30}))
        ids = range(1, 2 * len(extra), 2)
        await bench.hears(
            b"".join(headers(i, encode(frames.request("GET", "/", e))) for i, e in zip(ids, extra, strict=True))
        )
        before = shares(bench.says())
        await bench.hears(window_update(0, 520 * 1024))
        got = shares(bench.says())
        assert before.total() == 65_535
        return [got[i] for i in ids]


async def test_weights_of_32_and_20_share_in_that_ratio_and_always_alike() -> None:
    """F7: by prioritize() while the handler runs."""
    one, two = await contended(("x-weight", "32"), ("x-weight", "20"))
    assert one / two == pytest.approx(1.6, rel=0.1)
    assert await contended(("x-weight", "32"), ("x-weight", "20")) == [one, two]


@pytest.mark.parametrize("urgency", range(7))
async def test_an_urgency_is_worth_twice_the_next(urgency: int) -> None:
    """F7: RFC 9218's header in the request."""
    one, two = await contended(("priority", f"u={urgency}"), ("priority", f"i, u={urgency + 1}"))
    assert one / two == pytest.approx(2, rel=0.35)


@pytest.mark.parametrize("value", ["u=9", "u", "", "u=-1", "xu=1", "u=1.5", "u=11", "\xff", "u = 1", "U=1"])
async def test_an_urgency_that_is_none_counts_as_the_default(value: str) -> None:
    """F7, W3: 3, and no harm."""
    one, two = await contended(("priority", value), ("x-weight", "16"))
    assert one == pytest.approx(two, rel=0.1)


async def test_a_clients_change_of_weight_goes_out_as_priority() -> None:
    """F7."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/", weight=3) as stream:
        await peer.expect_headers(1)
        stream.prioritize(256)
        stream.prioritize(1, depends_on=7, exclusive=True)
        said = [await peer.expect(Type.PRIORITY, 1) for _ in range(2)]
        assert [each.payload for each in said] == [b"\0\0\0\0\xff", b"\x80\0\0\7\0"]


@pytest.mark.parametrize(
    "more", [{"depends_on": 1}, {"depends_on": -1}, {"depends_on": 2**31}, {"depends_on": "3"}], ids=str
)
async def test_a_stream_depends_on_another_one(more: dict[str, Any]) -> None:
    """F7, Q16: Misuse, and nothing is said."""
    async with linked_to_raw() as (link, peer), link.stream("POST", "/") as stream:
        with pytest.raises(Misuse):
            stream.prioritize(16, **more)
        await peer.barrier()
        assert not [each for each in peer.seen if each.type == Type.PRIORITY]


@pytest.mark.parametrize("weight", [0, 257, -1, "16", 1.0, True, None])
async def test_a_weight_that_is_none_is_misuse_on_both_sides(weight: Any) -> None:
    """F7."""
    refused: list[BaseException] = []

    async def handler(stream: ServerStream) -> None:
        try:
            stream.prioritize(weight)
        except Misuse as error:
            refused.append(error)
        await stream.respond(204)

    async with linked(handler) as link:
        with pytest.raises(Misuse):
            await link.request("GET", "/", weight=weight)
        async with link.stream("GET", "/") as stream:
            with pytest.raises(Misuse):
                stream.prioritize(weight)
            assert (await stream.response()).status == 204
    assert len(refused) == 1


async def test_priority_for_a_stream_that_is_over_harms_nobody() -> None:
    """F7, Q17: twice, late, and at once from fifty tasks."""

    async def again(stream: Any) -> None:
        stream.prioritize(5)
        await asyncio.sleep(0)

    async with linked(big) as link:
        async with link.stream("GET", "/") as stream:
            await asyncio.gather(*(again(stream) for _ in range(50)))
            assert await stream.read() == BODY
            stream.prioritize(7)
        stream.prioritize(9)
        await settle()
        assert len((await link.request("GET", "/")).body) == len(BODY)
