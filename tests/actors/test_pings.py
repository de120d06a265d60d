"""PING for users: link.ping() (RFC 9113, 6.7)."""

import asyncio

import pytest

from actors.errors import Closed, TransportLost
from actors.mailbox import Reply
from actors.messages import SendPing
from actors.server_stream import ServerStream
from tests.support.frames import Code, Flag, Type, ping
from tests.support.sides import Bench, linked, linked_to_raw, settle


async def answer(stream: ServerStream) -> None:
    await stream.respond(204)


def asked(bench: Bench) -> list[bytes]:
    return [each.payload for each in bench.says() if each.type == Type.PING and not each.has(Flag.ACK)]


def ask(bench: Bench) -> Reply[float]:
    reply: Reply[float] = Reply()
    bench.actor.tell(SendPing(reply))
    return reply


@pytest.mark.virtual_time
async def test_the_answer_is_the_round_trip_time() -> None:
    """H1: from the sending to the answer."""
    async with Bench() as bench:
        await asyncio.sleep(1000)
        reply = ask(bench)
        await asyncio.sleep(0.25)
        (question,) = asked(bench)
        await bench.hears(ping(question, ack=True))
        assert await reply.wait() == pytest.approx(0.25)


@pytest.mark.virtual_time
async def test_all_who_ask_share_one_and_the_next_is_another() -> None:
    """H1."""
    async with Bench() as bench:
        await asyncio.sleep(1)
        replies = [ask(bench) for _ in range(50)]
        await asyncio.sleep(1)
        replies += [ask(bench) for _ in range(50)]
        await settle()
        (question,) = asked(bench)
        await bench.hears(ping(question, ack=True))
        assert {await reply.wait() for reply in replies} == {1.0}
        ask(bench)
        await settle()
        (other,) = asked(bench)
        assert other != question


@pytest.mark.virtual_time
async def test_an_answer_to_something_else_is_none() -> None:
    """H1: other data, the question itself, and the right answer twice."""
    async with Bench() as bench:
        await asyncio.sleep(1)
        reply = ask(bench)
        await settle()
        (question,) = asked(bench)
        await asyncio.sleep(1)
        await bench.hears(ping(b"whatever", ack=True) + ping(question))
        await asyncio.sleep(1)
        await bench.hears(ping(question, ack=True))
        assert await reply.wait() == 2
        late = ask(bench)
        await bench.hears(ping(question, ack=True))
        await asyncio.sleep(1)
        await bench.hears(ping(asked(bench)[-1], ack=True))
        assert await late.wait() == 1


@pytest.mark.virtual_time
async def test_a_ping_at_the_first_moment_of_the_clock_is_one() -> None:
    """H1: on a virtual clock, where a replay begins."""
    async with Bench() as bench:
        replies = [ask(bench) for _ in range(2)]
        await settle()
        for question in asked(bench):
            await bench.hears(ping(question, ack=True))
        async with asyncio.timeout(10):
            assert [await reply.wait() for reply in replies] == [0.0, 0.0]


async def test_the_end_of_the_connection_ends_the_wait() -> None:
    """L7: for all who share it."""
    async with linked_to_raw() as (link, peer):
        asking = [asyncio.create_task(link.ping()) for _ in range(3)]
        await peer.expect(Type.PING)
        await peer.close()
        for each in asking:
            with pytest.raises(TransportLost):
                await each


async def test_a_cancelled_wait_harms_no_other() -> None:
    """S3."""
    async with linked_to_raw() as (link, peer):
        asking = [asyncio.create_task(link.ping()) for _ in range(4)]
        question = await peer.expect(Type.PING)
        for each in asking[::2]:
            each.cancel()
        peer.send(ping(question.payload, ack=True))
        got = await asyncio.gather(*asking, return_exceptions=True)
        assert [isinstance(each, float) for each in got] == [False, True] * 2


async def test_a_closed_link_has_nobody_to_ping() -> None:
    """L7: closed before, and while it waits."""
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.ping())
        await peer.expect(Type.PING)
        await link.close()
        for each in (asking, asyncio.create_task(link.ping())):
            with pytest.raises(Closed):
                await each


async def test_fifty_pings_among_requests() -> None:
    """H1: over real sockets."""
    async with linked(answer) as link:
        got = await asyncio.gather(*(link.ping() for _ in range(50)), *(link.request("GET", "/") for _ in range(50)))
        times = [each for each in got if isinstance(each, float)]
        assert len(times) == 50
        assert len(set(times)) <= 3
        assert 0 < min(times) <= max(times) < 5


@pytest.mark.parametrize("payload", [b"", b"seven b", b"nine byte"])
async def test_a_ping_of_another_size_ends_the_connection(payload: bytes) -> None:
    """Q14: RFC 9113, 6.7."""
    async with linked_to_raw() as (_, peer):
        peer.send(ping(payload))
        assert (await peer.expect(Type.GOAWAY)).code == Code.FRAME_SIZE_ERROR
