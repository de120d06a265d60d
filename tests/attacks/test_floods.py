"""Floods of cheap frames: each ends its own connection, names its limit, and costs nobody else anything."""

import asyncio
import logging
import struct
from collections.abc import Callable
from itertools import count
from typing import Final

import pytest
from attrs import evolve, frozen

from actors.settings import Limits
from tests.attacks.siege import DOWNLOAD, GET, HOLD, POST, besieged
from tests.support import frames
from tests.support.frames import Code, Fields, RawPeer, Setting, Type

FEW: Final = Limits(
    max_quick_resets=50, max_forced_resets=20, max_control_frames=500, max_window_updates=100, max_empty_frames=10,
    max_surplus_streams=50,
)  # fmt: skip
LARGEST: Final = 2**31 - 1


def on_each(say: Callable[[int], bytes], streams: int) -> bytes:
    return b"".join(say(stream_id) for stream_id in range(1, 2 * streams, 2))


def _opened(stream_id: int, block: bytes = HOLD, *, end: bool = True) -> bytes:
    return frames.headers(stream_id, block, end_stream=end)


def _wrong_length(stream_id: int) -> bytes:
    block = frames.encode(frames.request("POST", "/hold", ("content-length", "1")))
    return _opened(stream_id, block, end=False) + frames.data(stream_id, b"more")


def _bad(fields: Fields) -> Callable[[int], bytes]:
    return lambda stream_id: _opened(stream_id, frames.encode(fields))


def _bad_trailers(stream_id: int) -> bytes:
    block = frames.encode([(":path", "/")])
    return _opened(stream_id, POST, end=False) + frames.headers(stream_id, block, end_stream=True)


RAPID_RESET: Final = on_each(lambda i: _opened(i) + frames.rst(i), 70)
MADE_YOU_RESET: Final = {
    "zero-credit": lambda i: _opened(i) + frames.window_update(i, 0),
    "overflowing-credit": lambda i: _opened(i) + frames.window_update(i, LARGEST),
    "data-after-the-end": lambda i: _opened(i) + frames.data(i, b"x"),
    "headers-after-the-end": lambda i: _opened(i) + frames.headers(i, GET, end_stream=True),
    "body-of-another-length": _wrong_length,
    "malformed-request": _bad([(b":method", b"GET")]),
    "upper-case-name": _bad([*frames.request(), (b"Upper", b"case")]),
    "malformed-trailers": _bad_trailers,
}
PRIORITY: Final = frames.frame(Type.PRIORITY, 0, 1, struct.pack(">LB", 0, 15))
ALTSVC: Final = frames.frame(Type.ALTSVC, 0, 0, b"\0\1o" + b"h2=x")
OPEN_POST: Final = frames.headers(1, POST)
DEAD_POST: Final = OPEN_POST + frames.rst(1)
CREDIT: Final = frames.window_update(1, 1)
EMPTY: Final = frames.data(1) + frames.data(1, padding=0)


@frozen
class Flood:
    """What one client says, and the limit that it meets."""

    name: str
    limit: str
    said: bytes
    limits: Limits = FEW
    lives: bool = True
    """Whether the same does no harm to a connection in a dry run."""


FLOODS: Final = (
    Flood("rapid-reset", "max_quick_resets", RAPID_RESET),
    *(
        Flood(f"made-you-reset-{name}", "max_forced_resets", on_each(say, 30))
        for name, say in MADE_YOU_RESET.items()
    ),
    Flood("ping", "max_control_frames", frames.ping() * 700),
    Flood("ping-answers", "max_control_frames", frames.ping(ack=True) * 700),
    Flood("settings", "max_settings_frames", frames.settings() * 700),
    Flood("settings-that-say-something", "max_settings_frames", frames.settings({4: 1}) * 700),
    Flood("settings-answers", "max_control_frames", frames.settings(ack=True) * 700),
    Flood("priority", "max_control_frames", PRIORITY * 700),
    Flood("unknown-type", "max_control_frames", frames.frame(0xFA, 0xFF, 9, b"x") * 700),
    Flood("altsvc", "max_control_frames", ALTSVC * 700),
    Flood("resets-of-one-stream", "max_control_frames", _opened(1) + frames.rst(1) * 700),
    Flood("window-update", "max_window_updates", frames.window_update(0, 1) * 150),
    Flood("window-update-of-a-stream", "max_window_updates", OPEN_POST + CREDIT * 150),
    Flood("window-update-of-a-dead-stream", "max_window_updates", DEAD_POST + CREDIT * 150),
    Flood("large-settings", "max_settings", frames.settings(dict.fromkeys(range(4096, 4096 + 33), 1))),
    Flood("empty-data", "max_empty_frames", OPEN_POST + frames.data(1) * 11),
    Flood("padded-empty-data", "max_empty_frames", OPEN_POST + frames.data(1, padding=9) * 11),
    Flood("empty-data-padded-in-turn", "max_empty_frames", OPEN_POST + EMPTY * 6),
    Flood("empty-data-of-a-dead-stream", "max_empty_frames", DEAD_POST + frames.data(1) * 11),
    Flood("surplus-streams", "max_surplus_streams", on_each(_opened, 160)),
)  # fmt: skip
DEFAULTS: Final = (
    Flood("rapid-reset", "max_quick_resets", on_each(lambda i: _opened(i) + frames.rst(i), 700), Limits()),
    Flood("made-you-reset", "max_forced_resets", on_each(MADE_YOU_RESET["zero-credit"], 130), Limits()),
    Flood("priority", "max_control_frames", PRIORITY * 13_000, Limits()),
    Flood("window-update", "max_window_updates", frames.window_update(0, 1) * 1_300, Limits()),
)
EMPTY_BLOCKS: Final = (
    # Empty pieces of a header block: with as many as CONTINUATION may be, it is the row that is too long.
    Flood("empty-continuation", "max_empty_frames",
          frames.headers(1, b"", end_headers=False) + frames.continuation(1, b"", end_headers=False) * 10,
          Limits(max_continuations=60)),
    Flood("continuation", "max_continuations",
          frames.headers(1, HOLD[:1], end_headers=False) + frames.continuation(1, HOLD[1:2], end_headers=False) * 9,
          Limits()),
    Flood("header-block", "max_header_block",
          frames.headers(1, bytes(16_384), end_headers=False) + frames.continuation(1, bytes(16_384), end_headers=False)
          + frames.continuation(1, b"x", end_headers=False), Limits()),
)  # fmt: skip


def _named(flood: Flood) -> str:
    return flood.name


@pytest.mark.bulk
@pytest.mark.parametrize("flood", FLOODS + EMPTY_BLOCKS, ids=_named)
async def test_a_flood_ends_its_own_connection_and_nobody_elses(flood: Flood) -> None:
    """W7"""
    async with besieged(flood.limits) as siege, siege.watched():
        siege.attacker.send(flood.said)
        await siege.ends(f"Limits.{flood.limit}")


@pytest.mark.bulk
@pytest.mark.parametrize("flood", DEFAULTS, ids=_named)
async def test_the_limits_that_hold_by_default_end_a_flood_as_well(flood: Flood) -> None:
    """W7"""
    async with besieged(flood.limits) as siege, siege.watched():
        siege.attacker.send(flood.said)
        await siege.ends(f"Limits.{flood.limit}")


@pytest.mark.bulk
@pytest.mark.parametrize("flood", FLOODS, ids=_named)
async def test_a_dry_run_lets_a_flood_pass_and_warns_once(flood: Flood, caplog: pytest.LogCaptureFixture) -> None:
    """W7"""
    with caplog.at_level(logging.WARNING, "muxlink"):
        async with besieged(evolve(flood.limits, dry_run=True)) as siege:
            siege.attacker.send(flood.said)
            await siege.attacker.barrier()
            siege.attacker.send(frames.headers(2_001, GET, end_stream=True) + frames.settings({4: 65_535}))
            if flood.name != "surplus-streams":
                assert await siege.attacker.expect_body(2_001) == b"fine"
            await siege.ask()
    warned = [record.getMessage() for record in caplog.records if f"Limits.{flood.limit}" in record.getMessage()]
    assert len(warned) == 1, warned
    assert warned[0].startswith("dry run: ")


# --- what is not an attack --------------------------------------------------------------------------------------------


@pytest.mark.bulk
async def test_as_many_quick_resets_as_there_are_other_requests_are_fine() -> None:
    """W8: half of the streams, for four times as many as the limit."""
    async with besieged(FEW) as siege:
        ids = count(1, 2)
        for _ in range(10):
            for _ in range(20):
                asked, given_up = next(ids), next(ids)
                both = _opened(given_up) + frames.rst(given_up)
                siege.attacker.send(frames.headers(asked, GET, end_stream=True) + both)
            assert await siege.attacker.expect_body(asked) == b"fine"


@pytest.mark.virtual_time
async def test_a_proxy_that_cancels_old_streams_is_no_attacker() -> None:
    """W8: 300 a second, each a second old."""
    async with besieged(Limits(max_streams=1_000)) as siege:
        ids = count(1, 2)
        waiting: list[list[int]] = []
        for _ in range(40):  # four seconds
            batch = [next(ids) for _ in range(30)]
            siege.attacker.send(b"".join(map(_opened, batch)))
            waiting.append(batch)
            if len(waiting) > 11:
                siege.attacker.send(b"".join(map(frames.rst, waiting.pop(0))))
            await siege.attacker.barrier()
            await asyncio.sleep(0.1)
        await siege.attacker.barrier()


@pytest.mark.bulk
async def test_window_updates_for_what_was_sent_are_free() -> None:
    """W8: two for each 8 KiB of a long download, far more than the rate allows."""
    async with besieged(FEW) as siege:
        peer = siege.attacker
        updates = await _download(peer, streams=3)
        assert updates > 5 * FEW.max_window_updates // 2
        await peer.barrier()


@pytest.mark.bulk
async def test_credit_for_each_of_many_tiny_responses_is_free() -> None:
    """W8: three bytes each, for which a client says WINDOW_UPDATE twice, as httpx does."""
    async with besieged(FEW) as siege:
        peer = siege.attacker
        for stream_id in range(1, 4 * FEW.max_window_updates, 2):
            peer.send(frames.headers(stream_id, GET, end_stream=True))
            size = len((await peer.expect(Type.DATA, stream_id)).body)
            peer.send(frames.window_update(0, size) + frames.window_update(stream_id, size))
        await peer.barrier()


async def _download(peer: RawPeer, *, streams: int) -> int:
    """Read whole responses, returning credit for each 8 KiB on the stream and on the connection; how many updates."""
    updates = 0
    for stream_id in range(1, 2 * streams, 2):
        peer.send(frames.headers(stream_id, DOWNLOAD, end_stream=True))
        got = 0
        while True:
            part = await peer.expect(Type.DATA, stream_id)
            got += len(part.body)
            while got >= 8_192:
                got -= 8_192
                peer.send(frames.window_update(0, 8_192) + frames.window_update(stream_id, 8_192))
                updates += 2
            if part.has(frames.Flag.END_STREAM):
                break
    return updates


async def test_settings_that_nobody_knows_are_forgotten() -> None:
    """W3: any number of them, in frames of 32, leaves the connection as it was."""
    async with besieged(Limits()) as siege:
        for first in range(0x1000, 0x2000, 32):
            siege.attacker.send(frames.settings(dict.fromkeys(range(first, first + 32), 1)))
        siege.attacker.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 3}))
        siege.attacker.send(frames.headers(1, GET, end_stream=True))
        assert (await siege.attacker.expect(Type.DATA, 1)).body == b"fin"


async def test_surplus_streams_that_could_not_know_are_refused_and_not_counted() -> None:
    """S9 and W8: what is opened before our SETTINGS is acknowledged."""
    async with (
        besieged(Limits(max_streams=1, max_surplus_streams=1)) as siege,
        await RawPeer.connect("127.0.0.1", siege.server.port) as early,
    ):
        early.send(frames.PREFACE + frames.settings() + on_each(_opened, 50))
        for stream_id in range(3, 100, 2):
            assert (await early.expect(Type.RST_STREAM, stream_id)).code == Code.REFUSED_STREAM
        await early.barrier()
        early.abort()
