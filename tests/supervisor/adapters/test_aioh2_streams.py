"""C2: which streams are remembered, and what their ids are."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from actors.errors import Misuse
from supervisor.adapters.aio import streams as aioh2_streams
from supervisor.adapters.aio.errors import NoSuchStream
from supervisor.adapters.aio.streams import MOST_KNOWN, MOST_UNREAD, Entry, Numbers, Streams


class FakeStream:
    """A stream that is over when the test says so."""

    def __init__(self, id: int = 1, connection: str = "a", unread: int = 0) -> None:
        self.id = id
        self.connection = connection
        self.unread = unread
        self.over: Callable[[], object] = lambda: None

    def when_over(self, call: Callable[[], object]) -> None:
        self.over = call


def end(streams: Streams, id: int, *, seen: bool = True, unread: int = 0) -> Entry:
    stream = FakeStream(id, unread=unread)
    entry = Entry(id, cast("Any", stream))
    entry.seen = seen
    streams.add(entry, lambda entry: None)
    stream.over()
    return entry


def test_of_those_that_were_read_the_last_ones_are_remembered() -> None:
    streams = Streams()
    for id in range(1, 20_001, 2):
        end(streams, id)
        assert len(streams) <= 2 * MOST_KNOWN + 1
    assert streams.find(19_999 - 2 * (MOST_KNOWN - 1)).id
    with pytest.raises(NoSuchStream, match="stream 1: it has ended, and was forgotten"):
        streams.find(1)


def test_those_that_were_not_read_are_remembered_for_much_longer_but_not_for_ever() -> None:
    streams = Streams()
    for id in range(1, 20_001, 2):
        end(streams, id, seen=False)
        assert len(streams) <= MOST_UNREAD + MOST_KNOWN
    assert streams.find(20_001 - 2 * (MOST_UNREAD // 2)).id


def test_the_bytes_that_nobody_reads_are_bounded() -> None:
    streams, held = Streams(), 1 << 20
    entries = [end(streams, id, unread=held) for id in range(1, 2001, 2)]
    kept = [entry for entry in entries if entry.id in streams._entries]
    assert aioh2_streams.MOST_UNREAD_BYTES // 2 <= len(kept) * held <= aioh2_streams.MOST_UNREAD_BYTES
    assert kept == entries[-len(kept) :]


def test_one_that_is_open_is_never_forgotten() -> None:
    streams = Streams()
    open_one = Entry(1, cast("Any", FakeStream(1, unread=1 << 30)))
    streams.add(open_one, lambda entry: None)
    for id in range(3, 20_001, 2):
        end(streams, id, seen=False)
    assert streams.find(1) is open_one


def test_what_was_read_late_makes_room_for_what_was_not() -> None:
    streams = Streams()
    first = end(streams, 1, seen=False)
    late = [end(streams, id, seen=False) for id in range(3, 3001, 2)]
    for entry in late:
        entry.seen = True
    for id in range(3001, 9001, 2):
        end(streams, id)
    assert streams.find(1) is first
    assert len(streams) <= 2 * MOST_KNOWN + 2


@pytest.mark.parametrize("id", [0, -1, 7, 2**40])
def test_an_id_that_was_never_opened_is_named(id: int) -> None:
    streams = Streams()
    end(streams, 5)
    with pytest.raises(NoSuchStream, match=f"there is no stream {id}: it was never opened"):
        streams.find(id)


@pytest.mark.parametrize("id", [None, "1", 1.0, True])
def test_what_is_no_id_is_refused(id: Any) -> None:
    with pytest.raises(Misuse, match="a stream's id is a number"):
        Streams().find(id)


def test_ids_are_the_wires_and_go_on_after_a_reconnect() -> None:
    """C2: never ambiguous."""
    numbers = Numbers()

    def number(id: int, connection: str) -> int:
        return numbers.number(cast("Any", FakeStream(id, connection)))

    assert [number(id, "a") for id in (1, 5, 3)] == [1, 5, 3]
    assert [number(id, "b") for id in (1, 3)] == [7, 9]
    assert [number(id, "a") for id in (7, 9)] == [17, 19]  # the first lived after all
    assert number(5, "b") > 19
