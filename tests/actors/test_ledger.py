"""The credit ledger: what the peer may send grows for a reader that keeps up, as far as the process has room."""

import pytest

from actors.memory import Account, pool_of
from actors.settings import KiB, Limits, MiB
from actors.wire import Wire
from tests.support import frames
from tests.support.frames import PREFACE, Frame, Parser, Type, settings

POST = frames.encode(frames.request("POST"))
LIMITS = Limits(
    process_bytes=2 * MiB, stream_window=64 * KiB, max_stream_window=256 * KiB,
    connection_window=128 * KiB, max_connection_window=512 * KiB,
)  # fmt: skip


class Upload:
    """A server's wire whose client uploads on stream 1 whatever it may."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.parser = Parser()
        self.wire = Wire(client=False, limits=limits)
        self.wire.start()
        self.credit = {0: 65_535, 1: limits.stream_window}
        self.heard: list[Frame] = []
        self.hear()
        self.say(PREFACE + settings() + settings(ack=True) + frames.headers(1, POST))

    def say(self, data: bytes) -> None:
        self.wire.take_in(data)
        while self.wire.has_input:
            self.wire.read(16)

    def hear(self) -> None:
        for heard in self.parser.parse(self.wire.output()):
            self.heard.append(heard)
            if heard.type == Type.WINDOW_UPDATE:
                self.credit[heard.stream_id] += heard.increment

    def send(self, size: int, *, read: bool = True) -> None:
        """Upload ``size`` bytes in frames; each is read at once, or not at all."""
        while size:
            part = min(size, 16 * KiB, *self.credit.values())
            assert part > 0, f"{size} bytes are left and there is no credit"
            size -= part
            for stream_id in self.credit:
                self.credit[stream_id] -= part
            self.say(frames.data(1, bytes(part)))
            if read:
                self.wire.return_credit(1, part)
                self.hear()


@pytest.fixture(autouse=True)
def _alone() -> None:
    pool_of.cache_clear()  # each test has the process to itself


def test_the_connections_window_opens_to_what_the_limits_say() -> None:
    """L11: where the process has room for it."""
    assert Upload().credit[0] == LIMITS.connection_window


def test_the_connections_window_stays_small_where_the_process_has_no_room() -> None:
    """L11: 65,535 bytes are the peer's by right, and nothing more."""
    assert Account(LIMITS).grant(1 * MiB)
    upload = Upload()
    assert upload.credit[0] == 65_535
    upload.send(1 * MiB)
    assert upload.credit[0] <= 65_535


def test_windows_grow_to_their_bound_for_a_reader_that_keeps_up() -> None:
    """F5"""
    upload = Upload()
    upload.send(8 * MiB)
    assert upload.credit[1] == LIMITS.max_stream_window
    # h2 gives credit back in portions: some of it may be on its way.
    assert 256 * KiB < upload.credit[0] <= LIMITS.max_connection_window


def test_windows_do_not_grow_for_a_reader_that_does_not_read() -> None:
    """F3: what comes is bounded by what they began with."""
    upload = Upload()
    upload.send(LIMITS.stream_window, read=False)
    upload.hear()
    assert upload.credit == {0: LIMITS.connection_window - LIMITS.stream_window, 1: 0}


def test_windows_grow_only_while_the_process_has_room() -> None:
    """L11: and go on growing once it has room again."""
    other = Account(LIMITS)
    assert other.grant(1 * MiB - 256 * KiB)
    upload = Upload()
    upload.send(8 * MiB)
    assert upload.credit[0] <= 65_535 + 256 * KiB
    other.close()
    upload.send(8 * MiB)
    assert upload.credit[0] > 65_535 + 256 * KiB


def test_what_a_connection_was_granted_is_free_again_when_it_ends() -> None:
    """L11"""
    upload, other = Upload(), Account(LIMITS)
    upload.send(8 * MiB)
    assert not other.grant(1 * MiB)
    upload.wire.terms.memory.close()
    assert other.grant(1 * MiB)


def test_what_nobody_will_read_is_paid_with_the_end_of_its_stream() -> None:
    """F4: the connection's window is whole again."""
    upload = Upload()
    upload.send(64 * KiB, read=False)
    upload.wire.release(1)
    upload.hear()
    assert upload.credit[0] == LIMITS.connection_window


def test_more_than_is_owed_is_never_paid() -> None:
    """F4: a peer that gets too much credit could not be held to it."""
    upload = Upload()
    upload.send(10 * KiB, read=False)
    for _ in range(3):
        upload.wire.return_credit(1, 64 * KiB)
    upload.hear()
    assert upload.credit[0] <= LIMITS.connection_window
