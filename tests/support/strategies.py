"""What the property tests and the fuzzer share: one end of a connection, a peer that speaks frames, and an auditor.

``MUXLINK_EXAMPLES=10000`` in the environment gives every property that many examples, and all the time that they take.
"""

import os
import struct
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import pytest
from attrs import frozen
from hpack import Decoder, Encoder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from actors.errors import ProtocolViolation
from actors.headers import Pair
from actors.messages import DataArrived, HeadersArrived, PeerReset, StreamFailed, TrailersArrived
from actors.settings import Limits
from actors.wire import Fact, Wire
from tests.support import frames
from tests.support.frames import PREFACE, Fields, Flag, Frame, Parser, Setting, Type

# --- how many examples ------------------------------------------------------------------------------------------------

LENIENT: Final = Limits(max_empty_frames=1_000, max_settings_frames=10_000)
"""Hypothesis likes to say nothing, many times over: that is no flood here."""
EXAMPLES: Final = int(os.environ.get("MUXLINK_EXAMPLES", "0"))
settings.register_profile(
    "muxlink", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
PATIENT: Final = pytest.mark.timeout(0 if EXAMPLES else 120)
"""The time that a property has: all that it wants where more examples were asked for."""


def examples(modest: int, *, steps: int = 50) -> settings:
    """The profile of the property tests, with ``modest`` examples unless the environment wants more."""
    profile = settings.get_profile("muxlink")
    return settings(profile, max_examples=EXAMPLES or modest, stateful_step_count=steps)


# --- one end of a connection ------------------------------------------------------------------------------------------

Told = list[tuple[int, Fact]]
GET: Final[list[Pair]] = list(frames.request())
POST: Final[list[Pair]] = list(frames.request("POST"))
OK: Final[list[Pair]] = list(frames.response(200))
ASKED: Final = (1, 3, 5, 7)
"""The streams on which a client has asked something."""
FRAMES_PER_READ: Final = 16


class End:
    """One end of a connection: our wire, used as a connection actor does, through its public methods only."""

    def __init__(self, *, client: bool, limits: Limits | None = None) -> None:
        self.client = client
        self.wire = Wire(client=client, limits=limits if limits is not None else LENIENT)
        self.broken: ProtocolViolation | None = None
        """What the peer broke the connection with."""
        self._heard = 0
        # What a connection may hold counts for the whole process, and is given back with the end.
        weakref.finalize(self, self.wire.terms.memory.close)
        self.wire.start()

    def hears(
        self, data: bytes, *, most: int = FRAMES_PER_READ, at_once: Callable[[int, Fact], object] | None = None
    ) -> Told:
        """What bytes of the peer's say; ``at_once`` acts on each ``most`` frames' facts before the next are read.

        A violation ends the connection with GOAWAY. Fails where the wire says forever that there is more to read.
        """
        self.wire.guard.now = 0.0
        told: Told = []
        if self.broken is not None:
            return told
        self.wire.take_in(data)
        self._heard += len(data)
        reads = 0
        try:
            while self.wire.has_input:
                reads += 1
                assert reads < self._heard + 4, "the wire has input without end"
                for stream_id, fact in self.wire.read(most):
                    told.append((stream_id, fact))
                    if at_once is not None:
                        at_once(stream_id, fact)
        except ProtocolViolation as violation:
            self.broken = violation
            self.wire.go_away(self.wire.last_stream_id if not self.client else 0, violation.code)
        return told

    def says(self) -> bytes:
        """All that the windows let out."""
        parts = [self.wire.output()]
        pumps = 0
        while self.wire.has_output:
            pumps += 1
            assert pumps < 1_000, "the wire has output without end"
            self.wire.pump()
            parts.append(self.wire.output())
        self.wire.take_room()
        return b"".join(parts)

    def open(self, head: list[Pair], *, end: bool = False, weight: int = 16) -> int | None:
        return self.wire.open(head, end=end, weight=weight)

    def send_head(self, stream_id: int, head: list[Pair], *, end: bool = False) -> None:
        self.wire.send_head(stream_id, head, end=end)

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False, trailers: list[Pair] | None = None) -> None:
        self.wire.send_data(stream_id, data, end=end, trailers=trailers)

    def reset(self, stream_id: int, code: int = frames.Code.CANCEL) -> None:
        self.wire.reset(stream_id, code)

    def return_credit(self, stream_id: int, size: int) -> None:
        self.wire.return_credit(stream_id, size)

    def release(self, stream_id: int, code: int = frames.Code.NO_ERROR) -> None:
        self.wire.release(stream_id, code)

    def ping(self, data: bytes) -> None:
        self.wire.ping(data)

    def go_away(self, last_stream_id: int, code: int = frames.Code.NO_ERROR) -> None:
        self.wire.go_away(last_stream_id, code)

    def answers(self, stream_id: int, fact: Fact) -> None:
        """What a simple program does with a fact: it returns credit, echoes bodies, and lets go of what has ended."""
        if isinstance(fact, HeadersArrived) and not self.client:
            self.send_head(stream_id, OK)
        if isinstance(fact, DataArrived):
            self.return_credit(stream_id, len(fact.data))
            self.send_data(stream_id, fact.data)
        if isinstance(fact, TrailersArrived) or (isinstance(fact, (HeadersArrived, DataArrived)) and fact.ended):
            self.send_data(stream_id, b"", end=True, trailers=[(b"x-end", b"1")])
            self.release(stream_id)
        if isinstance(fact, (PeerReset, StreamFailed)):
            self.release(stream_id)

    @property
    def counts(self) -> tuple[int, int]:
        """Open streams, and streams that are remembered."""
        return self.wire.open_streams, self.wire.streams


def comparable(told: Told) -> list[tuple[int, object]]:
    """Facts that can be compared: errors are, by what they say."""
    return [
        (stream_id, ("failed", str(fact.error), getattr(fact.error, "code", None)))
        if isinstance(fact, StreamFailed)
        else (stream_id, fact)
        for stream_id, fact in told
    ]


# --- a peer that speaks -----------------------------------------------------------------------------------------------

STEPS: Final = (
    "head", "head", "data", "data", "data", "end", "trailers", "reset", "inform", "window", "stream window", "settings",
    "ping", "priority", "unknown", "goaway",
)  # fmt: skip
SETTINGS: Final[tuple[dict[int, int], ...]] = (
    {Setting.INITIAL_WINDOW_SIZE: 100},
    {Setting.INITIAL_WINDOW_SIZE: 1 << 20},
    {Setting.MAX_FRAME_SIZE: 20_000},
    {Setting.HEADER_TABLE_SIZE: 0},
    {Setting.HEADER_TABLE_SIZE: 8192},
    {Setting.MAX_CONCURRENT_STREAMS: 5},
    {0x99: 7},
    {},
)


@frozen
class Step:
    """One thing that a peer says; what it cannot say now, it leaves out."""

    kind: str
    which: int = 0
    size: int = 0
    options: int = 0

    def chosen(self, bit: int) -> bool:
        return bool(self.options >> bit & 1)


steps = st.builds(Step, st.sampled_from(STEPS), st.integers(0, 5), st.integers(0, 400), st.integers(0, 31))


class Speaker:
    """A peer that keeps the rules of HTTP/2: it turns steps into frames, with every freedom that RFC 9113 gives it."""

    def __init__(self, *, client: bool, asked: Sequence[int] = ()) -> None:
        """A client, or a server that was ``asked`` on these streams."""
        self.client = client
        self._encoder = Encoder()
        self._next = 1
        self._unanswered = list(asked)
        self._open: list[int] = []
        self._gone = False
        self._acknowledged = False

    def hello(self) -> bytes:
        return (PREFACE if self.client else b"") + frames.settings({Setting.ENABLE_PUSH: 0} if self.client else {})

    def say(self, step: Step) -> bytes:
        """The frames of a step; nothing where it does not fit."""
        size, which = step.size, step.which
        match step.kind:
            case "window":
                return frames.window_update(0, size + 1)
            case "settings":
                if self._acknowledged:
                    return frames.settings(SETTINGS[size % len(SETTINGS)])
                self._acknowledged = True
                return frames.settings(ack=True)
            case "ping":
                return frames.ping(struct.pack(">Q", size), ack=step.chosen(0))
            case "priority":
                return frames.frame(Type.PRIORITY, 0, 2 * which + 1, struct.pack(">LB", 2 * which + 1, 7))
            case "unknown":
                return frames.frame(0x20 + which, step.options, 0 if step.chosen(1) else 9, bytes(size))
            case "goaway" if size % 8 == 0:
                self._gone = True
                return frames.goaway(2**31 - 1, debug=bytes(which))
            case "head":
                return self._head(step)
            case "inform" if not self.client and self._unanswered:
                stream_id = self._unanswered[which % len(self._unanswered)]
                return self._block(step, stream_id, frames.response(103, ("link", "x" * size)), end=False)
            case _:
                return self._on_open(step)

    def _head(self, step: Step) -> bytes:
        if self.client:
            if self._gone:
                return b""
            stream_id, self._next = self._next, self._next + 2
            fields = frames.request("POST", "/" + "p" * step.which, ("x-size", str(step.size)))
        elif self._unanswered:
            stream_id = self._unanswered.pop(step.which % len(self._unanswered))
            fields = frames.response(200, ("x-size", str(step.size)))
        else:
            return b""
        end = step.size % 5 == 0
        if not end:
            self._open.append(stream_id)
        return self._block(step, stream_id, fields, end=end)

    def _block(self, step: Step, stream_id: int, fields: Fields, *, end: bool) -> bytes:
        """A header block: perhaps padded, with a priority, in pieces."""
        block = bytes(self._encoder.encode(fields))
        pieces = [block]
        if step.chosen(0):
            at = step.size % (len(block) + 1)
            pieces = [block[:at], block[at:]]
        flags = Flag.END_STREAM if end else Flag(0)
        first = pieces[0]
        if step.chosen(1):
            first, flags = struct.pack(">LB", 0x8000_0000 | stream_id, step.which) + first, flags | Flag.PRIORITY
        if step.chosen(2) and pieces[0]:  # hyperframe refuses padding that nothing stands before
            first, flags = bytes((step.which,)) + first + bytes(step.which), flags | Flag.PADDED
        if len(pieces) == 1:
            flags |= Flag.END_HEADERS
        said = frames.frame(Type.HEADERS, flags, stream_id, first)
        return said + b"".join(frames.continuation(stream_id, piece) for piece in pieces[1:])

    def _on_open(self, step: Step) -> bytes:
        if not self._open:
            return b""
        index = step.which % len(self._open)
        stream_id = self._open[index]
        padding = step.which * 3 if step.chosen(3) else None
        match step.kind:
            case "data":
                return frames.data(stream_id, bytes([step.which]) * step.size, padding=padding)
            case "stream window":
                return frames.window_update(stream_id, step.size + 1)
            case "end":
                del self._open[index]
                return frames.data(stream_id, bytes(step.size), end_stream=True, padding=padding)
            case "trailers":
                del self._open[index]
                return self._block(step, stream_id, [(b"x-sum", b"%d" % step.size)], end=True)
            case "reset":
                del self._open[index]
                return frames.rst(stream_id, step.which)
        return b""


def spoken(speaker: Speaker, said: Iterable[Step]) -> bytes:
    return speaker.hello() + b"".join(map(speaker.say, said))


# --- frames that may be wrong -----------------------------------------------------------------------------------------

_numbers = st.sampled_from((0, 1, 2, 3, 5, 7, 8, 9, 255, 2**31 - 1, 2**31, 2**32 - 1))
_names = st.sampled_from((":path", ":status", "te", "A", "", "content-length"))
_payloads = st.one_of(
    st.binary(max_size=20),
    _numbers.map(lambda number: struct.pack(">L", number)),
    st.tuples(_numbers, _numbers).map(lambda pair: struct.pack(">LL", *pair)),
    st.tuples(st.integers(0, 9), _numbers).map(lambda pair: struct.pack(">HL", *pair)),
    st.sampled_from((frames.encode(frames.request()), frames.encode(frames.response()), frames.encode([("a", "b")]))),
    st.lists(st.tuples(_names, st.text("a5", max_size=3))).map(frames.encode),
)  # fmt: skip
_flags = st.sampled_from((0, 1, 4, 5, 8, 0x0D, 0x20, 0x25, 0x2D, 0xFF))
_ids = st.sampled_from((0, 1, 2, 3, 4, 5, 7, 99, 2**31 - 1, 2**31 + 1))
_lengths = st.none() | st.sampled_from((0, 1, 5, 16_384, 16_385, 2**24 - 1))
wild_frames = st.builds(
    lambda type, flags, stream_id, payload, length: frames.frame(type, flags, stream_id, payload, length=length),
    st.integers(0, 11), _flags, _ids, _payloads, st.none() | st.none() | st.none() | _lengths,
)  # fmt: skip


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data, cut at these places (each taken modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


# --- who listens ------------------------------------------------------------------------------------------------------


class Auditor:
    """Reads what our end says, and fails where no peer would have to bear it, whatever that peer has said."""

    def __init__(self, *, client: bool, judging: bool = True) -> None:
        """An auditor of a ``client``, or of a server; one that is not ``judging`` just cuts frames."""
        self._judging = judging
        self._skip = len(PREFACE) if client else 0
        self._parser = Parser()
        self._decoder = Decoder()
        self._block: bytes | None = None
        self._ended: set[int] = set()
        self._reset: set[int] = set()

    def hears(self, data: bytes) -> list[Frame]:
        skip, self._skip = self._skip, max(0, self._skip - len(data))
        heard = self._parser.parse(data[skip:])
        for each in heard if self._judging else ():
            self._judge(each)
        return heard

    def _judge(self, heard: Frame) -> None:
        stream_id = heard.stream_id
        assert len(heard.payload) <= 2**24 - 1
        assert (self._block is not None) == (heard.type == Type.CONTINUATION), f"{heard} and a header block"
        if heard.type in (Type.DATA, Type.HEADERS):
            assert stream_id
            assert stream_id not in self._ended | self._reset, f"{heard} on a stream that we had ended"
            if heard.has(Flag.END_STREAM):
                self._ended.add(stream_id)
        if heard.type in (Type.HEADERS, Type.CONTINUATION):
            self._block = (self._block or b"") + heard.payload
            if heard.has(Flag.END_HEADERS):
                self._decoder.decode(self._block, raw=True)
                self._block = None
        if heard.type == Type.RST_STREAM:
            assert stream_id not in self._reset, f"{heard} a second time"
            self._reset.add(stream_id)
        if heard.type == Type.WINDOW_UPDATE:
            assert 0 < heard.increment < 2**31
            assert stream_id not in self._reset, f"{heard} on a stream that we had reset"
