"""The flight recorder within a turn: it takes events in together, and whoever reads it sees them all the same."""

import gc
import weakref

import pytest

from actors.actor import Stop
from actors.messages import HeadersArrived
from actors.trace import Recorder, Tracer
from actors.turns import TurnActor


class Note:
    def summary(self) -> str:
        return "note"


class Reader(TurnActor[Note]):
    """Counts what the ring holds while it handles a message."""

    __slots__ = ("recorder", "seen")

    def __init__(self, tracer: Tracer, recorder: Recorder) -> None:
        super().__init__("reader", tracer)
        self.recorder = recorder
        self.seen: list[list[tuple[str, float | None]]] = []

    def receive(self, message: Note) -> None:
        self.tracer.noted("stream", Note())
        self.seen.append([(event.receiver, event.taken) for event in self.recorder])
        raise Stop


def recorded(max_bytes: int = 1_000_000) -> tuple[Tracer, Recorder]:
    ticks = iter(range(10**9))
    recorder = Recorder(max_bytes)
    return Tracer(lambda: float(next(ticks)), recorder), recorder


async def test_what_was_told_in_a_turn_is_in_the_ring_for_who_reads_it_in_that_turn() -> None:
    tracer, recorder = recorded()
    reader = Reader(tracer, recorder)
    reader.tell(Note())
    reader.start()
    await reader.wait()
    (seen,) = reader.seen
    assert seen[0] == ("reader", 1.0)
    assert ("stream", 2.0) in seen


@pytest.mark.parametrize("dead", [False, True])
def test_no_message_outlives_the_turn_that_took_it(dead: bool) -> None:
    """T1 (the memory): the ring keeps what a message says of itself, and not the message."""
    tracer, recorder = recorded()
    waits, noted = Note(), Note()
    left = [weakref.ref(waits), weakref.ref(noted)]
    entry = tracer.told("a", waits)
    tracer.begin_turn("a")
    tracer.take(entry, dead=dead)
    tracer.noted("b", noted, dead=dead)
    tracer.end_turn()
    del waits, noted, entry
    gc.collect()
    assert [each() for each in left] == [None, None]
    assert [(event.summary, event.sender, event.message) for event in recorder] == [
        ("note", "caller", None),
        ("note", "a", None),
    ]


def test_a_long_turn_keeps_no_more_messages_than_a_bound() -> None:
    """T1 (the memory): however much one turn says."""
    tracer, recorder = recorded(100_000)
    living: weakref.WeakSet[Note] = weakref.WeakSet()
    most = 0
    tracer.begin_turn("a")
    for _ in range(5_000):
        note = Note()
        living.add(note)
        tracer.noted("b", note)
        del note
        most = max(most, len(living))
    tracer.end_turn()
    assert most <= 256
    assert not living
    assert recorder.bytes <= 100_000
    assert recorder.dropped + len(recorder) == 5_000


def test_after_a_turn_nobody_speaks_for_its_actor() -> None:
    tracer, recorder = recorded()
    tracer.begin_turn("a")
    tracer.event = tracer.noted("a", Note())
    tracer.end_turn()
    tracer.noted("b", Note())
    assert [(event.sender, event.cause) for event in recorder] == [("a", 0), ("caller", 0)]


HEAD = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"host")]


@pytest.mark.parametrize(
    ("path", "shown"), [(b"/a", "/a"), (b"/b?token=secret", "/b"), (b"/c?", "/c"), (b"/" + b"x" * 300, "/" + "x" * 300)]
)
def test_a_head_that_comes_again_says_the_same_again_and_never_its_query(path: bytes, shown: str) -> None:
    pairs = [*HEAD, (b":path", path)]
    cookie = (b"cookie", b"secret")
    for _ in range(3):
        assert HeadersArrived(pairs, False).summary() == f"GET http host {shown} +0"
        assert HeadersArrived([*pairs, cookie, cookie], True).summary() == f"GET http host {shown} +2, ended"


def test_a_head_of_many_that_came_before_says_what_is_its_own() -> None:
    for number in range(200):
        arrived = HeadersArrived([*HEAD, (b":path", b"/%d" % number), (b"accept", b"*/*")], False)
        assert arrived.summary() == f"GET http host /{number} +1"
    assert HeadersArrived([(b":status", b"200"), (b"server", b"x")], False).summary() == "200 +1"


class Gatherer(TurnActor[list[int]]):
    """Its messages are lists, as those that stand for messages in a traced mailbox are."""

    __slots__ = ("got",)

    def __init__(self, tracer: Tracer) -> None:
        super().__init__("gatherer", tracer)
        self.got: list[list[int]] = []

    def receive(self, message: list[int]) -> None:
        self.got.append(message)
        if not message:
            raise Stop


@pytest.mark.parametrize("told", ["while traced", "before", "after", "untraced"])
async def test_a_message_that_is_a_list_comes_as_it_was_told(told: str) -> None:
    """Whether anybody traces when it is told, and when it is taken, or not."""
    tracer, recorder = recorded()
    if told in ("before", "untraced"):
        tracer.record(None)
    gatherer = Gatherer(tracer)
    for message in ([1, 2, 3], [], [4]):
        gatherer.tell(message)
    if told == "before":
        tracer.record(recorder)
    elif told == "after":
        tracer.record(None)
    gatherer.start()
    await gatherer.wait()
    assert gatherer.got == [[1, 2, 3], []]
    assert gatherer.mailbox.dead_letters == 1
