"""What a hostile client says: each attack as the bytes of its frames, valid or not, independent of the packages."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Final

from attrs import frozen

from tests.benchmarks import jobs
from tests.support.frames import PREFACE, Code, Flag, Setting, Type

Burst = tuple[bytes, int]
"""Bytes, and how many frames they are."""

_EACH: Final = 50
"""How many of the same a burst has: it is what the attacker writes between two looks at its clock."""
_END_HEADERS: Final = Flag.END_HEADERS
_WHOLE: Final = Flag.END_HEADERS | Flag.END_STREAM
_LARGEST: Final = 2**31 - 1
_FRAME: Final = 16_384


@frozen
class Attack:
    """One way to make a server work or store for nothing."""

    name: str
    bursts: Callable[[], Iterator[Burst]]
    """What one connection says after its preface; where that ends, it keeps still."""
    settings: bytes = b""
    connections: int = 1
    """At a time."""
    reads: bool = True
    """Whether it takes what the server sends."""


def _frame(kind: int, payload: bytes = b"", flags: int = 0, stream_id: int = 0) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def _setting(name: int, value: int) -> bytes:
    return struct.pack(">HL", name, value)


def _request(stream_id: int, path: str = "/held", method: int = 0x82, flags: int = _WHOLE, more: bytes = b"") -> bytes:
    """HEADERS with a block that touches no dynamic table: indexed fields, and literals without indexing."""
    block = bytes([method, 0x86, 0x04, len(path)]) + path.encode() + b"\x01\x09127.0.0.1" + more
    return _frame(Type.HEADERS, block, flags, stream_id)


_POST: Final = 0x83


def begins(settings: bytes) -> bytes:
    """The preface, our SETTINGS, and the acknowledgement of the server's before it has come."""
    return PREFACE + _frame(Type.SETTINGS, settings) + _frame(Type.SETTINGS, flags=Flag.ACK)


def _ids() -> Iterator[int]:
    return itertools.count(1, 2)


def _over_and_over(frame: bytes, each: int = _EACH) -> Callable[[], Iterator[Burst]]:
    return lambda: itertools.repeat((frame * each, each))


def _on_each_stream(say: Callable[[int], bytes], frames: int) -> Callable[[], Iterator[Burst]]:
    """The same on one new stream after the other."""

    def bursts() -> Iterator[Burst]:
        ids = _ids()
        while True:
            yield b"".join(say(stream_id) for stream_id in itertools.islice(ids, _EACH)), _EACH * frames

    return bursts


def _after(opening: bytes, then: bytes, each: int = _EACH) -> Callable[[], Iterator[Burst]]:
    """One opening, and then the same without end."""

    def bursts() -> Iterator[Burst]:
        yield opening, 1
        yield from itertools.repeat((then * each, each))

    return bursts


def _rapid_reset(stream_id: int) -> bytes:
    return _request(stream_id) + _frame(Type.RST_STREAM, struct.pack(">L", Code.CANCEL), stream_id=stream_id)


def _credit(increment: int) -> Callable[[int], bytes]:
    return lambda stream_id: (
        _request(stream_id) + _frame(Type.WINDOW_UPDATE, struct.pack(">L", increment), stream_id=stream_id)
    )


def _data_after_end(stream_id: int) -> bytes:
    return _request(stream_id) + _frame(Type.DATA, b"x", stream_id=stream_id)


def _header_bomb() -> Iterator[Burst]:
    """An entry of 3,900 bytes for the dynamic table, and 12,000 references to it, one byte each."""
    value = b"\x7f" + bytes([0x80 | (3900 - 127) & 0x7F, (3900 - 127) >> 7]) + b"a" * 3900
    for stream_id in _ids():
        yield _request(stream_id, more=b"\x40\x01x" + value + b"\xbe" * 12_000), 1


def _continuations() -> Iterator[Burst]:
    yield _request(1, flags=0), 1
    field = b"\x00\x01x\x7f\x09" + b"a" * 136
    yield from itertools.repeat((_frame(Type.CONTINUATION, field * 7, stream_id=1) * _EACH, _EACH))


def _downloads() -> Iterator[Burst]:
    """As many large responses as the server allows by default."""
    yield b"".join(_request(stream_id, jobs.BULK_PATH) for stream_id in itertools.islice(_ids(), 100)), 100


def _wide_downloads() -> Iterator[Burst]:
    """The same, with room for all of them."""
    yield _frame(Type.WINDOW_UPDATE, struct.pack(">L", _LARGEST - 65_535)), 1
    yield from _downloads()


def _dribble() -> Iterator[Burst]:
    """Single bytes to handlers that do not read, as many as fit into the windows that a server opens by default."""
    ids = list(itertools.islice(_ids(), 4))
    yield b"".join(_request(stream_id, method=_POST, flags=_END_HEADERS) for stream_id in ids), len(ids)
    one_each = b"".join(_frame(Type.DATA, b"x", stream_id=stream_id) for stream_id in ids)
    # A window is 256 KiB a stream and 1 MiB in all: what the attacker says stays within its rights.
    yield from itertools.repeat((one_each * _EACH, _EACH * len(ids)), 1_000_000 // (_EACH * len(ids)))


def _unknown_settings() -> bytes:
    entries = range(0x1000, 0x1000 + _FRAME // 6)
    return _frame(Type.SETTINGS, b"".join(_setting(name, 1) for name in entries))


_PING: Final = _frame(Type.PING, bytes(8))
_EMPTY_SETTINGS: Final = _frame(Type.SETTINGS)
_PRIORITIES: Final = b"".join(
    _frame(Type.PRIORITY, struct.pack(">LB", 0, 15), stream_id=stream_id)
    for stream_id in itertools.islice(_ids(), _EACH)
)

ALL: Final = (
    Attack("rapid-reset", _on_each_stream(_rapid_reset, 2)),
    Attack("reset-by-zero-credit", _on_each_stream(_credit(0), 2)),
    Attack("reset-by-overflow", _on_each_stream(_credit(_LARGEST), 2)),
    Attack("reset-by-late-data", _on_each_stream(_data_after_end, 2)),
    Attack("streams-beyond-limit", _on_each_stream(_request, 1)),
    Attack("ping", _over_and_over(_PING)),
    Attack("ping-unread", _over_and_over(_PING), reads=False),
    Attack("settings", _over_and_over(_EMPTY_SETTINGS)),
    Attack("settings-unread", _over_and_over(_EMPTY_SETTINGS), reads=False),
    Attack("large-settings", _over_and_over(_unknown_settings(), 4)),
    Attack(
        # Increments of 1 on the connection never reach the end of its window in the time of a run.
        "window-update",
        _over_and_over(_frame(Type.WINDOW_UPDATE, struct.pack(">L", 1))),
    ),
    Attack("priority", lambda: itertools.repeat((_PRIORITIES, _EACH))),
    Attack("unknown-frames", _over_and_over(_frame(0xFA, b"x"))),
    Attack("continuation", _continuations),
    Attack("header-bomb", _header_bomb),
    Attack("empty-data", _after(_request(1, method=_POST, flags=_END_HEADERS), _frame(Type.DATA, stream_id=1))),
    Attack(
        # The longest length that a frame header can say, and some of it.
        "overlong-frames",
        _after(
            _request(1, method=_POST, flags=_END_HEADERS), b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(_FRAME), 1
        ),
    ),
    Attack("zero-window", _downloads, settings=_setting(Setting.INITIAL_WINDOW_SIZE, 0), connections=20),
    Attack(
        "slow-read",
        _wide_downloads,
        settings=_setting(Setting.INITIAL_WINDOW_SIZE, _LARGEST),
        connections=20,
        reads=False,
    ),
    Attack("data-dribble", _dribble, connections=8),
)
