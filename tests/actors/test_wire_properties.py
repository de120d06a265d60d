"""The wire under whatever can be said to it: in any pieces, valid or not, by h2, and by another wire of ours."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from attrs import define, evolve, field
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hypothesis import event, given, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from actors.arrived import check_arrived_request, check_arrived_response, check_arrived_trailers
from actors.errors import InvalidHeaders
from actors.headers import (
    Pair,
)
from actors.messages import DataArrived, HeadersArrived, PeerReset, StreamFailed, TrailersArrived
from actors.settings import Limits
from actors.wire import Fact
from tests.support import frames
from tests.support.frames import PREFACE, Code, Frame, Type
from tests.support.strategies import (
    ASKED,
    GET,
    LENIENT,
    OK,
    PATIENT,
    POST,
    Auditor,
    End,
    Speaker,
    Step,
    Told,
    comparable,
    examples,
    pieces,
    spoken,
    steps,
    wild_frames,
)

pytestmark = PATIENT

both_sides = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
conversations = st.lists(steps, max_size=30)
cuts = st.lists(st.integers(0, 2**16), max_size=12)


def end_of(*, client: bool, limits: Limits | None = None) -> End:
    """One end; a client's has asked on four streams, so that there is something to answer."""
    end = End(client=client, limits=limits)
    for _ in ASKED if client else ():
        end.open(POST)
    return end


def speaker_to(end: End) -> Speaker:
    return Speaker(client=not end.client, asked=ASKED if end.client else ())


# --- W5: in any pieces ------------------------------------------------------------------------------------------------


def passively(end: End, parts: list[bytes]) -> tuple[object, ...]:
    """All that comes of a conversation with an end that only listens."""
    told = [pair for part in parts for pair in end.hears(part)]
    code = end.broken and (end.broken.code, str(end.broken))
    return comparable(told), code, end.says(), end.counts


def actively(end: End, parts: list[bytes]) -> tuple[object, ...]:
    """All that comes of a conversation with an end that answers each frame before it reads the next."""
    said: list[bytes] = []

    def answer(stream_id: int, fact: Fact) -> None:
        end.answers(stream_id, fact)
        said.append(end.says())

    told = [pair for part in parts for pair in end.hears(part, most=1, at_once=answer)]
    code = end.broken and end.broken.code
    return comparable(told), code, b"".join((*said, end.says())), end.counts


def every_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@both_sides
@pytest.mark.parametrize("listen", [passively, actively])
@examples(60)
@given(said=conversations, places=cuts)
def test_a_conversation_in_pieces_is_the_same_conversation(
    client: bool, listen: Callable[[End, list[bytes]], tuple[object, ...]], said: list[Step], places: list[int]
) -> None:
    """W5: the same facts, in the same order, and the same output."""
    data = spoken(speaker_to(end_of(client=client)), said)
    whole = listen(end_of(client=client), [data])
    assert whole[1] is None, "what keeps the rules was called a violation"
    target(float(len(whole[0]) if isinstance(whole[0], list) else 0), label="facts")
    assert listen(end_of(client=client), every_byte(data)) == whole
    assert listen(end_of(client=client), pieces(data, places)) == whole


@both_sides
@examples(15)
@given(said=st.lists(steps, max_size=10))
def test_a_conversation_cut_once_at_any_byte_is_the_same_conversation(client: bool, said: list[Step]) -> None:
    """W5: each cut by itself."""
    data = spoken(speaker_to(end_of(client=client)), said)[:400]
    whole = passively(end_of(client=client), [data])
    for at in range(len(data)):
        assert passively(end_of(client=client), [data[:at], data[at:]]) == whole, at


@both_sides
@examples(60)
@given(said=conversations, wild=st.lists(st.tuples(st.integers(0, 30), wild_frames), max_size=4), places=cuts)
def test_where_a_bad_conversation_is_cut_changes_neither_what_was_good_nor_the_code(
    client: bool, said: list[Step], wild: list[tuple[int, bytes]], places: list[int]
) -> None:
    """W5 and W1: the good frames before the bad one say the same, and the violation has the same code."""
    speaker = speaker_to(end_of(client=client))
    parts = [speaker.hello(), *map(speaker.say, said)]
    for at, bad in wild:
        parts.insert(1 + at % len(parts), bad)
    data = b"".join(parts)
    whole = actively(end_of(client=client), [data])
    event(f"ended with {whole[1]}")
    assert actively(end_of(client=client), every_byte(data)) == whole
    assert actively(end_of(client=client), pieces(data, places)) == whole


# --- W6: anything at all ----------------------------------------------------------------------------------------------

COMMANDS: Final = ("open", "head", "data", "end", "reset", "credit", "release", "ping", "go away", "answer")
_ids = st.sampled_from((0, 1, 2, 3, 5, 7, 9, 99, 2**31 - 1))
commands = st.tuples(st.sampled_from(COMMANDS), _ids, st.integers(0, 20_000))


def command(end: End, kind: str, stream_id: int, size: int) -> None:
    """A command of ours, whether or not it fits: streams end behind the back of whoever gives one."""
    match kind:
        case "open" if end.client:
            end.open(POST if size % 2 else GET, end=size % 2 == 0)
        case "head" if not end.client:
            end.send_head(stream_id, OK, end=size % 3 == 0)
        case "data":
            end.send_data(stream_id, bytes(size))
        case "end":
            end.send_data(stream_id, bytes(size % 10), end=True, trailers=[(b"x", b"y")] if size % 2 else None)
        case "reset":
            end.reset(stream_id, size % 14)
        case "credit":
            end.return_credit(stream_id, size)
        case "release":
            end.release(stream_id, size % 14)
        case "ping":
            end.ping(size.to_bytes(8))
        case "go away":
            end.go_away(size, size % 14)


def started(end: End) -> set[int]:
    """The streams on which commands make sense: a server's response has no body before its head."""
    return set(ASKED) if end.client else set()


@both_sides
@examples(250)
@given(
    said=st.lists(steps | wild_frames | commands, max_size=40),
    flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=3),
    good_start=st.sampled_from((True, True, True, False)),
    places=cuts,
)
def test_nothing_that_a_peer_says_raises_anything_but_a_violation(
    client: bool,
    said: list[Step | bytes | tuple[str, int, int]],
    flips: list[tuple[int, int]],
    good_start: bool,
    places: list[int],
) -> None:
    """W6: valid, invalid, mutated and interleaved frames, and commands of ours between them; nothing hangs."""
    end, auditor = end_of(client=client), Auditor(client=client)
    speaker, heads = speaker_to(end), started(end)
    pending = speaker.hello() if good_start else b""

    def hear(data: bytes) -> None:
        for part in pieces(data, places):
            for stream_id, fact in end.hears(part):
                if isinstance(fact, HeadersArrived):
                    end.answers(stream_id, fact)
                    heads.add(stream_id)

    for each in said:
        if isinstance(each, Step):
            pending += speaker.say(each)
        elif isinstance(each, bytes):
            pending += each
        elif each[0] not in ("data", "end") or each[1] in heads:
            hear(_flipped(pending, flips))
            pending = b""
            command(end, *each)
        auditor.hears(end.says())
    hear(_flipped(pending, flips))
    auditor.hears(end.says())
    event("broken" if end.broken else "alive")
    if end.broken:
        expect_dead(end)


def _flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, bits in flips:
        if at < len(changed):
            changed[at] ^= bits
    return bytes(changed)


def expect_dead(end: End) -> None:
    """After a violation every command does nothing, and nothing more is said."""
    for stream_id in (1, 2, 3, 5, 99):
        for kind in COMMANDS:
            if kind != "go away":
                command(end, kind, stream_id, 7)
    end.wire.take_in(frames.ping())
    assert end.wire.has_input  # so that whoever reads is told of the violation, again
    assert end.says() == b""


# --- two ends, and what is under way between them ---------------------------------------------------------------------

PATTERN: Final = bytes(range(251)) * 300


class Stranger:
    """A plain h2 connection in the place of an end; what its own rules forbid it leaves out."""

    def __init__(self, *, client: bool) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.h2.initiate_connection()
        self._queues: dict[int, list[tuple[bytes, bool, list[Pair] | None]]] = {}
        self._settings_out = 1

    def hears(self, data: bytes) -> Told:
        """The events as facts of ours, as far as the properties look at them. Raises what h2 does."""
        told: Told = []
        for heard in self.h2.receive_data(data) if data else []:
            match heard:
                case RequestReceived(stream_id=int(stream_id)) | ResponseReceived(stream_id=int(stream_id)):
                    told.append((stream_id, HeadersArrived([], False)))
                case DataReceived(stream_id=int(stream_id), data=bytes(body)):
                    told.append((stream_id, DataArrived(body, False)))
                case StreamEnded(stream_id=int(stream_id)):
                    told.append((stream_id, TrailersArrived([])))
                case StreamReset(stream_id=int(stream_id)):
                    self._queues.pop(stream_id, None)
                    told.append((stream_id, PeerReset(int(heard.error_code or 0))))
                case SettingsAcknowledged():
                    self._settings_out -= 1
        return told

    def says(self) -> bytes:
        for stream_id in list(self._queues):
            _tolerantly(self._pump, stream_id)
        return self.h2.data_to_send()

    def _pump(self, stream_id: int) -> None:
        queue = self._queues[stream_id]
        while queue:
            data, end, trailers = queue[0]
            if data:
                room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size, len(data))
                if room <= 0:
                    return
                self.h2.send_data(stream_id, data[:room])
                queue[0] = (data[room:], end, trailers)
                continue
            del queue[0]
            if trailers:
                self.h2.send_headers(stream_id, trailers, end_stream=True)
            elif end:
                self.h2.end_stream(stream_id)

    def open(self, head: list[Pair]) -> int | None:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, head)
        return stream_id

    def send_head(self, stream_id: int, head: list[Pair]) -> None:
        _tolerantly(self.h2.send_headers, stream_id, head)

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False, trailers: list[Pair] | None = None) -> None:
        self._queues.setdefault(stream_id, []).append((data, end, trailers))

    def reset(self, stream_id: int) -> None:
        self._queues.pop(stream_id, None)
        _tolerantly(self.h2.reset_stream, stream_id, Code.CANCEL)

    def return_credit(self, stream_id: int, size: int) -> None:
        _tolerantly(self.h2.acknowledge_received_data, size, stream_id)

    def ping(self, data: bytes) -> None:
        self.h2.ping(data)

    def change(self, values: dict[SettingCodes | int, int]) -> bool:
        """New settings, one at a time: h2 takes the first acknowledgement for all that are out."""
        if self._settings_out:
            return False
        self._settings_out += 1
        self.h2.update_settings(values)
        return True

    def widen(self, stream_id: int) -> None:
        _tolerantly(self.h2.increment_flow_control_window, 1_000, stream_id or None)


def _tolerantly(act: Callable[..., object], *args: object) -> None:
    """Do what a stream that the peer has closed meanwhile, or that h2 has forgotten, may forbid."""
    with suppress(StreamClosedError, KeyError):
        act(*args)


@define
class Way:
    """One direction of one stream."""

    sent: int = 0
    got: int = 0
    unread: int = 0
    ended: bool = False
    end_seen: bool = False
    lost: bool = False
    """Whether what is still under way may be dropped, because someone gave the stream up."""


@define
class Talk:
    """One stream: what each side said, by side (0: the client, 1: the server)."""

    ways: tuple[Way, Way] = field(factory=lambda: (Way(), Way()))
    asked: bool = False
    """Whether the server has seen the request."""
    answered: bool = False
    released: list[bool] = field(factory=lambda: [False, False])

    def lose(self) -> None:
        for way in self.ways:
            way.lost = True


CLIENT: Final = 0
SERVER: Final = 1


class Duel:
    """Two ends of one connection, with the bytes under way between them; fails as soon as one is told a wrong thing."""

    def __init__(self, client: End | Stranger, server: End | Stranger) -> None:
        self.ends = (client, server)
        self.pipes = (bytearray(), bytearray())
        """What is under way to each side."""
        self.talks: dict[int, Talk] = {}
        self._auditors = tuple(
            Auditor(client=side == CLIENT, judging=isinstance(end, End)) for side, end in enumerate(self.ends)
        )
        self._windows = [65_535, 65_535]
        """What each side may send on the connection."""
        self._fullest = [0, 0]
        self.flush()
        self.windows = tuple(self._windows)

    # --- what a side does

    def open(self) -> int:
        stream_id = self.ends[CLIENT].open(POST)
        assert stream_id is not None
        self.talks[stream_id] = Talk()
        return stream_id

    def send(self, side: int, stream_id: int, size: int, *, end: bool = False, trailers: bool = False) -> None:
        talk = self.talks[stream_id]
        way = talk.ways[side]
        if way.ended or way.lost or talk.released[side] or (side == SERVER and not talk.asked):
            return
        if side == SERVER and not talk.answered:
            talk.answered = True
            self.ends[side].send_head(stream_id, OK)
        at = way.sent % 251
        way.sent += size
        way.ended = end
        fields = [(b"x-sum", b"%d" % way.sent)] if end and trailers else None
        self.ends[side].send_data(stream_id, PATTERN[at : at + size], end=end, trailers=fields)

    def reset(self, side: int, stream_id: int) -> None:
        talk = self.talks[stream_id]
        if not talk.released[side] and (side == CLIENT or talk.asked):
            self.ends[side].reset(stream_id)
            talk.lose()

    def read(self, side: int, stream_id: int, size: int) -> None:
        way = self.talks[stream_id].ways[1 - side]
        size = min(size, way.unread)
        if size and not self.talks[stream_id].released[side]:
            way.unread -= size
            self.ends[side].return_credit(stream_id, size)

    def release(self, side: int, stream_id: int) -> None:
        """The side's program is done with the stream: a server's answer still goes out, whatever else is lost."""
        talk, end = self.talks[stream_id], self.ends[side]
        if isinstance(end, Stranger):
            self.read(side, stream_id, talk.ways[1 - side].unread)
            return
        if talk.released[side] or (side == SERVER and not talk.asked):
            return
        talk.released[side] = True
        in_full = talk.ways[side].ended and not talk.ways[side].lost
        if not (in_full and talk.ways[1 - side].end_seen):
            talk.ways[1 - side].lost = True
            talk.ways[side].lost = talk.ways[side].lost or not in_full
        end.release(stream_id, Code.NO_ERROR if in_full else Code.CANCEL)

    # --- what comes of it

    def deliver(self, side: int, size: int) -> None:
        """Let ``size`` bytes reach a side, after all that both have to say."""
        self._listen()
        end, pipe = self.ends[side], self.pipes[side]
        data = bytes(pipe[:size])
        del pipe[:size]
        for stream_id, fact in end.hears(data):
            self._take(side, stream_id, fact)
        assert not isinstance(end, End) or end.broken is None, end.broken

    def _listen(self) -> None:
        for speaker, end in enumerate(self.ends):
            said = end.says()
            self.pipes[1 - speaker].extend(said)
            self._account(speaker, self._auditors[speaker].hears(said))

    def _account(self, speaker: int, said: list[Frame]) -> None:
        for heard in said:
            if heard.type == Type.DATA:
                self._windows[speaker] -= len(heard.payload)
            elif heard.type == Type.WINDOW_UPDATE and not heard.stream_id:
                self._windows[1 - speaker] += heard.increment
                self._fullest[1 - speaker] = max(self._fullest[1 - speaker], self._windows[1 - speaker])

    def _take(self, side: int, stream_id: int, fact: Fact) -> None:
        if not stream_id:
            return
        talk = self.talks[stream_id]
        way = talk.ways[1 - side]
        match fact:
            case HeadersArrived() if side == SERVER:
                talk.asked = True
            case DataArrived(data):
                assert not way.end_seen
                assert data == PATTERN[way.got % 251 :][: len(data)], "bytes came in another order"
                way.got += len(data)
                way.unread += len(data)
                assert way.got <= way.sent
            case PeerReset() | StreamFailed():
                assert not isinstance(fact, StreamFailed), fact
                assert talk.ways[0].lost or talk.ways[1].lost, "a reset out of nowhere"
        if isinstance(fact, TrailersArrived) or (isinstance(fact, (HeadersArrived, DataArrived)) and fact.ended):
            assert not way.end_seen
            assert way.ended, "an end out of nowhere"
            assert way.got == way.sent
            way.end_seen = True

    def flush(self) -> None:
        """Let all that was said arrive; credit that nobody returns holds the rest back."""
        for _ in range(1_000):
            self._listen()
            if not any(self.pipes):
                return
            for side in (CLIENT, SERVER):
                self.deliver(side, 1 << 20)
        raise AssertionError("the two ends never stop talking")

    def read_all(self) -> None:
        """Read until nothing comes any more."""
        self.flush()
        while any(way.unread for talk in self.talks.values() for way in talk.ways):
            for stream_id, talk in self.talks.items():
                for side in (CLIENT, SERVER):
                    if talk.released[side]:
                        talk.ways[1 - side].unread = 0
                    self.read(side, stream_id, 1 << 20)
            self.flush()

    def finish(self) -> None:
        """End, read and release everything: what nobody gave up has come whole, nothing is left and no credit lost."""
        self.read_all()
        for end in self.ends:
            if isinstance(end, Stranger):
                assert end.change({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        self.read_all()
        for stream_id in self.talks:
            for side in (CLIENT, SERVER):
                self.send(side, stream_id, 10, end=True, trailers=stream_id % 4 == 1)
        self.read_all()
        for stream_id, talk in self.talks.items():
            for way in talk.ways:
                assert way.lost or (way.end_seen and way.got == way.sent), (stream_id, talk)
            for side in (CLIENT, SERVER):
                self.release(side, stream_id)
        self.read_all()
        ours = [side for side, end in enumerate(self.ends) if isinstance(end, End)]
        for end in self.ends:
            assert isinstance(end, Stranger) or end.counts == (0, 0)
        for side in ours:
            self._expect_credit(side)
        self.read_all()

    def _expect_credit(self, side: int) -> None:
        """Whoever reads all at once gets, at the next WINDOW_UPDATE, the whole window that there was at the start."""
        stream_id = self.open()
        self.flush()
        way = self.talks[stream_id].ways[1 - side]
        self._fullest[1 - side] = 0
        for _ in range(60):
            if way.got == way.sent:
                self.send(1 - side, stream_id, 4096)
            self.read_all()
            if self._fullest[1 - side] >= self.windows[1 - side]:
                return
        raise AssertionError(f"of the window of {self.windows[1 - side]} bytes {self._fullest[1 - side]} are left")


# --- h2 as the peer ---------------------------------------------------------------------------------------------------

ACTS: Final = ("open", "open", "send", "send", "send", "end", "trailers", "reset", "read", "read", "release", "ping",
               "settings", "widen", "deliver", "deliver", "deliver")  # fmt: skip
STRANGERS_SETTINGS: Final[tuple[dict[SettingCodes | int, int], ...]] = (
    {SettingCodes.INITIAL_WINDOW_SIZE: 0},
    {SettingCodes.INITIAL_WINDOW_SIZE: 3},
    {SettingCodes.INITIAL_WINDOW_SIZE: 5_000},
    {SettingCodes.INITIAL_WINDOW_SIZE: 100_000},
    {SettingCodes.MAX_FRAME_SIZE: 20_000},
    {SettingCodes.HEADER_TABLE_SIZE: 0},
    {SettingCodes.HEADER_TABLE_SIZE: 100},
)
acts = st.tuples(st.sampled_from(ACTS), st.integers(0, 1), st.integers(0, 4), st.sampled_from((0, 1, 9, 700, 20_000)))
limits_of_ends = st.builds(
    lambda stream, frame: evolve(
        LENIENT,
        stream_window=stream, max_stream_window=stream, connection_window=65_535, max_connection_window=65_535,
        max_frame_size=frame, max_streams=1_000,
    ),
    st.sampled_from((2_000, 20_000, 65_535)), st.sampled_from((16_384, 20_000)),
)  # fmt: skip


def act(duel: Duel, kind: str, side: int, which: int, size: int) -> None:
    """Do one thing on one side, if it can be done there now."""
    end = duel.ends[side]
    match kind:
        case "open":
            duel.open()
        case "ping":
            end.ping(size.to_bytes(8))
        case "deliver":
            duel.deliver(side, size)
        case "settings" if isinstance(end, Stranger):
            end.change(STRANGERS_SETTINGS[which + size % 3])
        case _ if duel.talks:
            stream_id = list(duel.talks)[which % len(duel.talks)]
            match kind:
                case "send" | "end" | "trailers":
                    duel.send(side, stream_id, size, end=kind != "send", trailers=kind == "trailers")
                case "reset":
                    duel.reset(side, stream_id)
                case "read":
                    duel.read(side, stream_id, size)
                case "release":
                    duel.release(side, stream_id)
                case "widen" if isinstance(end, Stranger) and (side == CLIENT or duel.talks[stream_id].asked):
                    end.widen(0 if size == 1 else stream_id)


@both_sides
@examples(120)
@given(limits=limits_of_ends, done=st.lists(acts, max_size=50))
def test_whatever_h2_and_we_do_all_bytes_arrive_once_and_in_order_and_no_credit_is_lost(
    client: bool, limits: Limits, done: list[tuple[str, int, int, int]]
) -> None:
    """W6, F4: heads, bodies, trailers, resets, settings, pings and window updates, however long under way."""
    ours, theirs = End(client=client, limits=limits), Stranger(client=not client)
    duel = Duel(ours, theirs) if client else Duel(theirs, ours)
    for each in done:
        act(duel, *each)
    event(f"streams: {len(duel.talks)}")
    duel.finish()


# --- a connection of ours with itself ---------------------------------------------------------------------------------

sides = st.sampled_from((CLIENT, SERVER))
sizes = st.sampled_from((0, 1, 9, 700, 20_000)) | st.integers(0, 20_000)


class Conversation(RuleBasedStateMachine):
    """Two wires of ours, joined by pipes that hand over as much as they like."""

    @initialize(limits=limits_of_ends)
    def begin(self, limits: Limits) -> None:
        self.duel = Duel(End(client=True, limits=limits), End(client=False, limits=limits))

    @rule()
    def open(self) -> None:
        self.duel.open()

    @rule(side=sides, which=st.integers(0, 5), size=sizes, end=st.sampled_from(("send", "send", "end", "trailers")))
    def send(self, side: int, which: int, size: int, end: str) -> None:
        act(self.duel, end, side, which, size)

    @rule(side=sides, which=st.integers(0, 5), size=sizes)
    def read(self, side: int, which: int, size: int) -> None:
        act(self.duel, "read", side, which, size)

    @rule(side=sides, which=st.integers(0, 5))
    def reset(self, side: int, which: int) -> None:
        act(self.duel, "reset", side, which, 0)

    @rule(side=sides, which=st.integers(0, 5))
    def release(self, side: int, which: int) -> None:
        act(self.duel, "release", side, which, 0)

    @rule(side=sides, size=sizes)
    def deliver(self, side: int, size: int) -> None:
        self.duel.deliver(side, size)

    @rule(side=sides)
    def drain(self, side: int) -> None:
        """Say GOAWAY, for the streams that are open to go on."""
        end = self.duel.ends[side]
        assert isinstance(end, End)
        end.go_away(2**31 - 1)
        end.ping(b"draining")

    @invariant()
    def counts_are_sane(self) -> None:
        for end in self.duel.ends if hasattr(self, "duel") else ():
            assert isinstance(end, End)
            still_open, remembered = end.counts
            assert 0 <= still_open <= remembered <= len(self.duel.talks)

    def teardown(self) -> None:
        if hasattr(self, "duel"):
            self.duel.finish()


def test_two_wires_of_ours_lose_no_byte_no_stream_and_no_credit() -> None:
    """F4, S10, G1: however what they say is cut and delayed, and whoever gives up."""
    run_state_machine_as_test(Conversation, settings=examples(40, steps=30))


# --- headers, against h2 ----------------------------------------------------------------------------------------------

_pseudo = st.sampled_from(
    [(b":method", b"GET"), (b":method", b"CONNECT"), (b":method", b""), (b":scheme", b"http"), (b":path", b"/"),
     (b":path", b""), (b":authority", b"a"), (b":authority", b""), (b":status", b"200"), (b":status", b"101"),
     (b":protocol", b"websocket"), (b":unknown", b"a"), (b":", b"")]
)  # fmt: skip
_fields = st.sampled_from(
    [(b"host", b"a"), (b"host", b"b"), (b"Host", b"a"), (b"te", b"trailers"), (b"te", b"gzip"), (b"cookie", b""),
     (b"cookie", b"a=b"), (b"cookie", b"; "), (b"connection", b"close"), (b"upgrade", b"h2"), (b"x", b" a"),
     (b"transfer-encoding", b"chunked"), (b"proxy-connection", b"a"), (b"keep-alive", b"5"), (b"x", b"a\tb"),
     (b"content-length", b"0"), (b"content-length", b"5"), (b"content-length", b"+5"), (b"content-length", b"5, 5"),
     (b"content-length", b"\xd9\xa5"), (b"content-length", b"1_0"), (b"x\x7f", b"a"), (b"", b"a")]
)  # fmt: skip
_any_fields = st.tuples(
    st.binary(max_size=4) | st.binary(max_size=3).map(lambda name: b"x" + name),
    st.binary(max_size=4) | st.sampled_from((b"a\0", b"a\r\nb", b"\x0ba", b"\x85", b"a\xa0")),
)
_good_heads = st.sampled_from(
    [frames.request(), frames.response(), frames.request()[:1] + frames.request()[2:3], [(b"x-sum", b"1")], []]
)


@st.composite
def header_lists(draw: st.DrawFn) -> list[Pair]:
    """A list near a good one: a few things left out, put in, doubled or moved."""
    pairs = [pair for pair in draw(_good_heads) if draw(st.integers(0, 7))]
    for extra in draw(st.lists(_pseudo | _fields | _any_fields, max_size=3)):
        pairs.insert(draw(st.sampled_from((len(pairs), len(pairs), 0, len(pairs) // 2))), extra)
    return pairs


def taken_by_us(check: Callable[[list[Pair]], object], pairs: list[Pair]) -> bool:
    try:
        check(pairs)
    except InvalidHeaders:
        return False
    return True


def taken_by_h2(pairs: list[Pair], kind: str) -> bool:
    """Whether an h2 that checks everything takes the list off the wire, as the head or trailers that it is."""
    server = kind != "response"
    stranger = H2Connection(H2Configuration(client_side=not server, header_encoding=None))
    stranger.initiate_connection()
    said = (PREFACE if server else b"") + frames.settings()
    if kind == "response":
        stranger.send_headers(1, POST)
    elif kind == "trailers":
        said += frames.headers(1, frames.encode(POST))
    stranger.receive_data(said)
    try:
        stranger.receive_data(frames.headers(1, frames.encode(pairs), end_stream=kind == "trailers"))
    except (ProtocolError, IndexError, ValueError):  # it looks at names without a byte, and at lengths with int()
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "check"),
    [("request", check_arrived_request), ("response", check_arrived_response), ("trailers", check_arrived_trailers)],
)
@examples(300)
@given(pairs=header_lists())
def test_whatever_h2_refuses_to_take_we_refuse(
    kind: str, check: Callable[[list[Pair]], object], pairs: list[Pair]
) -> None:
    """W2's other half: a header list that came passes here only where it passes all of h2's own checks."""
    ours = taken_by_us(check, pairs)
    event(f"ours: {ours}")
    if ours:
        assert taken_by_h2(pairs, kind)
