"""The first message that is another, with what is around it."""

from __future__ import annotations

from supervisor.tracing.difference import first_difference
from supervisor.tracing.records import Event, Frame

NAME = "server-1/connection-1"
STREAM = f"{NAME}/stream-1"


def event(id: int, type: str, text: str = "", *, to: str = STREAM, sender: str = NAME, cause: int = 1) -> Event:
    return Event(process="p", id=id, time=id / 1000, sender=sender, receiver=to, type=type, text=text, cause=cause)


def frames(id: int, *sizes: int) -> Event:
    made = tuple(Frame(kind=0, flags=0, stream=1, length=size) for size in sizes)
    return Event(
        process="p", id=id, time=id / 1000, sender=NAME, receiver="socket", type="FramesSent", cause=1, frames=made
    )


INPUT = event(1, "BytesArrived", "100 bytes", to=NAME, sender="socket", cause=0)
TOLD = [INPUT, *(event(number, "DataArrived", f"{number} bytes") for number in range(2, 12))]


def test_the_same_messages_have_no_difference() -> None:
    """T6."""
    assert first_difference(NAME, TOLD, TOLD) == ""


def test_the_first_difference_is_shown_with_three_lines_on_either_side_and_the_input() -> None:
    """T6."""
    other = [*TOLD[:5], event(6, "DataArrived", "60 bytes"), *TOLD[6:]]
    assert first_difference(NAME, TOLD, other).splitlines() == [
        f"{NAME} -> {STREAM}: message 5 is another",
        "recorded:",
        "    DataArrived 3 bytes",
        "    DataArrived 4 bytes",
        "    DataArrived 5 bytes",
        "  > DataArrived 6 bytes",
        "    DataArrived 7 bytes",
        "    DataArrived 8 bytes",
        "    DataArrived 9 bytes",
        f"    led there: socket -> {NAME}: BytesArrived 100 bytes at 0.001000 s",
        "replayed:",
        "    DataArrived 3 bytes",
        "    DataArrived 4 bytes",
        "    DataArrived 5 bytes",
        "  > DataArrived 60 bytes",
        "    DataArrived 7 bytes",
        "    DataArrived 8 bytes",
        "    DataArrived 9 bytes",
        f"    led there: socket -> {NAME}: BytesArrived 100 bytes at 0.001000 s",
    ]


def test_what_is_missing_and_what_is_more_is_a_difference() -> None:
    """T6."""
    assert "replayed:\n    DataArrived 9 bytes" not in first_difference(NAME, TOLD, TOLD[:-1])
    assert first_difference(NAME, TOLD, TOLD[:-1]).endswith("  > (nothing more)")
    assert "recorded:" in first_difference(NAME, TOLD[:-1], TOLD)
    assert first_difference(NAME, TOLD, [INPUT]).splitlines()[-2:] == ["replayed:", "  > (nothing more)"]


def test_of_several_differences_the_earliest_is_shown() -> None:
    """T6."""
    late, early = event(20, "ConnectionReady", to="server-1"), event(12, "RoomMade", "1 bytes", to=f"{NAME}/stream-3")
    assert f"{NAME}/stream-3" in first_difference(NAME, [*TOLD, early, late], TOLD)


def test_between_pairs_the_order_does_not_matter() -> None:
    """T6."""
    other = event(3, "ConnectionReady", to="server-1")
    assert first_difference(NAME, [*TOLD, other], [INPUT, other, *TOLD[1:]]) == ""


def test_frames_are_compared_one_by_one_however_they_were_written() -> None:
    """T6."""
    assert first_difference(NAME, [frames(2, 10, 20), frames(3, 30)], [frames(2, 10), frames(3, 20, 30)]) == ""
    shown = first_difference(NAME, [frames(2, 10, 20)], [frames(2, 10, 21)])
    assert "  > frame DATA 1 20" in shown
    assert "  > frame DATA 1 21" in shown


def test_where_a_handler_ran_anew_a_body_may_be_cut_otherwise_but_not_be_another() -> None:
    """T6."""
    assert first_difference(NAME, [frames(2, 10, 20)], [frames(2, 30)], live=True) == ""
    assert "DATA, 31 bytes in all" in first_difference(NAME, [frames(2, 10, 20)], [frames(2, 31)], live=True)
    sent = [event(number, "SendData", f"stream 1: {number} bytes", to=NAME, sender=STREAM) for number in (2, 3)]
    whole = [event(2, "SendData", "stream 1: 5 bytes", to=NAME, sender=STREAM)]
    assert first_difference(NAME, sent, whole, live=True) == ""
    assert "SendData, 2 bytes in all" in first_difference(NAME, sent[:1], whole, live=True)


def test_where_a_handler_ran_anew_a_stream_that_the_peer_gave_up_may_be_further_or_not() -> None:
    """T6: that was a matter of wall time."""
    reset = event(9, "PeerReset", "CANCEL")
    assert first_difference(NAME, [frames(2, 10, 20), reset], [frames(2, 25), reset], live=True) == ""
    assert first_difference(NAME, [frames(2, 10, 20), reset], [frames(2, 25), reset]) != ""
    assert first_difference(NAME, [frames(2, 10, 20)], [frames(2, 25)], live=True) != ""


def test_what_a_handler_says_after_the_end_of_the_recording_is_no_difference() -> None:
    """T6."""
    more = event(50, "StreamFailed", "late")
    assert first_difference(NAME, TOLD, [*TOLD, more], until=0.02) == ""
    assert first_difference(NAME, TOLD, [*TOLD, more], until=0.06) != ""


def test_exits_are_the_same_only_for_the_same_reason() -> None:
    """T6."""
    ended = Event(
        process="p", id=9, time=0.009, sender=NAME, receiver="server-1", type="Exited", text=f"{NAME} ended: gone",
        data={"reason": {"type": "Closed", "text": "gone"}},
    )  # fmt: skip
    other = Event(
        process="p", id=9, time=0.009, sender=NAME, receiver="server-1", type="Exited", text=f"{NAME} ended: gone",
        data={"reason": {"type": "TransportLost", "text": "gone"}},
    )  # fmt: skip
    assert f"> Exited {NAME} ended: gone (TransportLost)" in first_difference(NAME, [ended], [other])
