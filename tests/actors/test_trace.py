"""The trace hook and the flight recorder: every message, its cause, and never more bytes than the cap."""

import asyncio
import tracemalloc
from collections.abc import Callable

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import StreamReset
from actors.mailbox import Mailbox
from actors.messages import FramesSent, StreamFailed
from actors.trace import MAX_SUMMARY, Recorder, TraceEvent, Tracer, summary_of


@frozen
class Note:
    text: str

    def summary(self) -> str:
        return self.text


@frozen
class Plain:
    secret: str


@frozen
class Speechless:
    def summary(self) -> str:
        raise ValueError("what should I say?")


def recorded(max_bytes: int = 1_000_000) -> tuple[Tracer, Recorder]:
    ticks = iter(range(10**9))
    tracer, recorder = Tracer(lambda: float(next(ticks))), Recorder(max_bytes)
    tracer.record(recorder)
    return tracer, recorder


def test_a_message_becomes_an_event_that_names_who_told_whom_what_when_and_why() -> None:
    tracer, recorder = recorded()
    tracer.speak_as("socket")
    first = tracer.noted("connection", Note("9 bytes"))
    tracer.speak_as("connection", first)
    tracer.noted("stream", Plain("hidden"), dead=True)
    one, other = recorder
    assert one == TraceEvent(first, 0.0, 0.0, "socket", "connection", "Note", "9 bytes", 0)
    assert other == TraceEvent(first + 1, 1.0, None, "connection", "stream", "Plain", "", first, dead=True)


async def test_an_event_says_when_it_was_taken_and_lets_go_of_what_may_be_large() -> None:
    tracer, recorder = recorded()
    mailbox: Mailbox[Note | FramesSent] = Mailbox("worker", tracer)
    note, frames = Note("large"), FramesSent(1, b"\0\0\0\4\0\0\0\0\0")
    mailbox.tell(note)
    mailbox.tell(frames)
    assert [(event.message, event.taken) for event in recorder] == [(note, None), (frames, None)]
    for each in await mailbox.take():
        assert isinstance(each, list)
        tracer.take(each)
    large, small = recorder
    assert (large.message, large.time, large.taken, large.summary) == (None, 0.0, 2.0, "large")
    assert (small.message, small.time, small.taken, small.summary) == (frames, 1.0, 3.0, "SETTINGS")


async def test_of_many_messages_that_wait_some_are_shown_and_all_that_were_taken() -> None:
    tracer, recorder = recorded(10_000_000)
    mailbox: Mailbox[Note] = Mailbox("worker", tracer)
    for number in range(6_000):
        mailbox.tell(Note(str(number)))
    assert len(recorder) == 4_096
    for each in await mailbox.take():
        assert isinstance(each, list)
        tracer.take(each)
    assert [event.id for event in recorder] == list(range(1, 6_001))


def test_the_chain_of_an_event_leads_back_to_where_it_began() -> None:
    """T2 (the recorder's part): from any event one can walk back to what began it."""
    tracer, recorder = recorded()
    tracer.speak_as("socket")
    event = tracer.noted("a", Note("0"))
    for number in range(1, 50):
        tracer.speak_as("a", event)
        event = tracer.noted("a", Note(str(number)))
        tracer.told("b", Note("aside"))
    chain = recorder.chain(event)
    assert [link.summary for link in chain] == [str(number) for number in range(49, -1, -1)]
    assert chain[-1].sender == "socket"
    assert recorder.chain(10**6) == []


def test_a_chain_ends_where_the_ring_forgot() -> None:
    tracer, recorder = recorded(5_000)
    event = 0
    for _ in range(1000):
        tracer.speak_as("a", event)
        event = tracer.noted("a", Plain(""))
    assert 0 < len(recorder.chain(event)) == len(recorder) < 1000


@pytest.mark.bulk
async def test_the_recorders_bytes_stay_under_the_cap_over_a_million_messages() -> None:
    """T1 (the memory): a million messages through a mailbox, and the ring never holds more than it may."""
    cap = 256 * 1024
    tracer, recorder = recorded(cap)
    mailbox: Mailbox[Note | Plain] = Mailbox("worker", tracer)
    kinds: list[Note | Plain] = [Plain("x" * 1000), Note(""), Plain(""), Note("x" * 1000)]
    highest = 0
    for _ in range(1000):
        for number in range(1000):
            mailbox.tell(kinds[number % 4])
        for entry in await mailbox.take():
            assert isinstance(entry, list)
            tracer.take(entry)
            highest = max(highest, recorder.bytes)
    assert cap * 0.9 < highest <= cap
    assert recorder.dropped + len(recorder) == 1_000_000
    newest = [event.id for event in recorder]
    assert newest == list(range(1_000_001 - len(newest), 1_000_001))


@pytest.mark.parametrize("text", ["", "plain", "x" * 500, "é" * 200, "☃" * 200, "🦆" * 200])
def test_what_the_recorder_says_it_holds_is_no_less_than_what_it_takes(text: str) -> None:
    """T1 (the memory): measured, whatever the summaries are made of."""
    cap = 512 * 1024
    tracer, recorder = recorded(cap)
    # What a summary is cut from is made anew, as in life, so that no two events share it.
    make: Callable[[], Note] = lambda: Note("".join(list(text)))  # noqa: E731
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(6_000):
            tracer.noted("connection", make())
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert recorder.dropped > 0
    assert held <= cap * 1.02


@given(st.integers(0, 5_000), st.lists(st.text(max_size=300), max_size=40))
def test_the_count_of_bytes_is_right_whatever_is_kept_and_dropped(cap: int, texts: list[str]) -> None:
    tracer, recorder = recorded(cap)
    for text in texts:
        tracer.noted("a", Note(text))
        assert 0 <= recorder.bytes <= cap
    assert len(recorder) + recorder.dropped == len(texts)
    alone = Recorder(10**9)
    for event in recorder:
        alone(event)
    assert alone.bytes == recorder.bytes


def test_a_summary_is_cut_and_a_message_without_one_shows_nothing_of_itself() -> None:
    assert summary_of(Note("x" * 10_000)) == "x" * MAX_SUMMARY
    assert summary_of(Plain("hidden")) == ""
    assert summary_of("text") == ""


def test_a_message_that_cannot_say_what_it_is_harms_nobody_who_tells_it() -> None:
    tracer, recorder = recorded()
    mailbox: Mailbox[Speechless] = Mailbox("worker", tracer)
    assert mailbox.tell(Speechless())
    assert [event.summary for event in recorder] == ["(no summary: ValueError)"]


@pytest.mark.logs_errors("a trace exporter failed on event 2 and is switched off: .*broken")
def test_an_exporter_that_raises_is_logged_once_and_switched_off_and_messages_go_on() -> None:
    """T10: an exporter that raises is logged and switched off; the link lives."""
    tracer, recorder = recorded()
    seen: list[int] = []

    def broken(event: TraceEvent) -> None:
        seen.append(event.id)
        if event.id == 2:
            raise ValueError("disk full")

    tracer.attach(broken)
    after = Recorder()
    tracer.attach(after)
    mailbox: Mailbox[Note] = Mailbox("worker", tracer)
    assert all(mailbox.tell(Note(str(number))) for number in range(5))
    assert seen == [1, 2]
    assert len(mailbox) == len(recorder) == len(after) == 5


@pytest.mark.logs_errors("a trace exporter failed on event 1 and is switched off")
async def test_an_exporter_that_looks_at_a_cancelled_future_cancels_nobody() -> None:
    """T10: its error is no Exception, and would else end the actor that told the message."""
    tracer, recorder = recorded()
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    tracer.attach(lambda event: future.result())
    mailbox: Mailbox[Note] = Mailbox("worker", tracer)
    assert mailbox.tell(Note("one"))
    assert mailbox.tell(Note("two"))
    assert tracer.on
    assert len(recorder) == 2


@pytest.mark.logs_errors("disk full")
def test_when_the_only_exporter_fails_tracing_is_off() -> None:
    """T10."""
    tracer = Tracer()

    def broken(event: TraceEvent) -> None:
        raise ValueError("disk full")

    tracer.attach(broken)
    tracer.told("a", Note(""))
    assert not tracer.on


def test_what_an_exporter_tells_the_tree_that_it_watches_is_not_traced_in_its_turn() -> None:
    tracer, recorder = recorded()
    mailbox: Mailbox[object] = Mailbox("worker", tracer)
    tracer.attach(mailbox.tell)
    assert mailbox.tell(Note("begin"))
    assert len(recorder) == 1
    assert len(mailbox) == 2
    assert tracer.on


def test_an_exporter_is_detached_though_its_name_is_written_anew() -> None:
    seen: list[TraceEvent] = []
    tracer = Tracer()
    tracer.attach(seen.append)
    tracer.told("a", Note("1"))
    tracer.detach(seen.append)
    assert not tracer.on
    tracer.told("a", Note("2"))
    assert [event.summary for event in seen] == ["1"]
    tracer.detach(seen.append)


def test_an_exporter_attached_twice_hears_everything_once() -> None:
    seen: list[TraceEvent] = []
    tracer = Tracer()
    tracer.attach(seen.append)
    tracer.attach(seen.append)
    tracer.told("a", Note("1"))
    assert len(seen) == 1


def test_tracing_is_off_until_someone_listens_and_again_after_the_last_left() -> None:
    tracer = Tracer()
    mailbox: Mailbox[Note] = Mailbox("worker", tracer)
    first, second = Recorder(), Recorder()
    mailbox.tell(Note("unheard"))
    tracer.attach(first)
    tracer.attach(second)
    tracer.detach(first)
    mailbox.tell(Note("heard"))
    tracer.detach(second)
    mailbox.tell(Note("unheard again"))
    assert (len(first), len(second)) == (0, 1)
    assert mailbox.tracer.on is False


async def test_only_messages_told_while_tracing_travel_in_an_envelope() -> None:
    tracer = Tracer()
    mailbox: Mailbox[str] = Mailbox("worker", tracer)
    recorder = Recorder()
    mailbox.tell("before")
    tracer.attach(recorder)
    mailbox.tell("traced")
    tracer.detach(recorder)
    mailbox.tell("after")
    before, traced, after = await mailbox.take()
    assert (before, after) == ("before", "after")
    assert isinstance(traced, list)
    assert tracer.take(traced) == "traced"


def test_an_error_in_a_trace_is_told_in_one_bounded_line() -> None:
    error = StreamReset("x" * 500, code=8)
    assert len(summary_of(StreamFailed(error))) == MAX_SUMMARY


def test_a_recorder_can_be_read_while_it_records() -> None:
    tracer, recorder = recorded()
    tracer.told("a", Note("1"))
    for _ in recorder:
        tracer.told("a", Note("2"))
    assert len(recorder) == 2


def test_a_copy_of_the_ring_stays_as_it_was() -> None:
    tracer, recorder = recorded()
    tracer.noted("a", Note("before"))
    waits = tracer.told("b", Note("waits"))
    copy = recorder.copy()
    tracer.noted("a", Note("after"))
    tracer.take(waits)
    assert [(event.summary, event.taken) for event in copy] == [("before", 0.0), ("waits", None)]
    assert (len(copy), copy.bytes, copy.dropped) == (2, 501 + len("before") - 1, 0)
    assert [event.summary for event in recorder] == ["before", "waits", "after"]
