"""Messages and sockets over a socket pair: their order, full buffers, ends of all kinds; over real sockets."""

import array
import asyncio
import errno
import itertools
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import LimitReached, Misuse, ProtocolViolation, TransportLost
from supervisor.workers.channel import MESSAGES_PER_TURN, MOST_UNSENT, SEND_PAUSE, Channel, pair
from supervisor.workers.spoken import (
    MAX_MESSAGE,
    Beat,
    Begin,
    Draining,
    Ended,
    Released,
    Report,
    Reported,
    Spoken,
    Take,
    Tired,
    encode,
)
from tests.supervisor.workers.test_spoken import messages
from tests.support.sides import settle, until
from tests.support.strategies import examples


class Side:
    """A channel that keeps what it is told."""

    def __init__(self, end: socket.socket) -> None:
        self.messages: list[Spoken] = []
        self.sockets: dict[int, socket.socket] = {}
        self.losses: list[Exception | None] = []
        self.channel = Channel(end, self._told, self._lost)

    def _told(self, message: Spoken, connection: socket.socket | None) -> None:
        assert not self.losses, "told after it was lost"
        assert (connection is not None) is isinstance(message, Take)
        self.messages.append(message)
        if isinstance(message, Take) and connection is not None:
            self.sockets[message.number] = connection

    def _lost(self, cause: Exception | None) -> None:
        self.losses.append(cause)

    def close(self) -> None:
        self.channel.close()
        for each in self.sockets.values():
            each.close()


@contextmanager
def sides() -> Iterator[tuple[Side, Side]]:
    """Both sides, and no file more or less at the end."""
    before = files()
    one, two = (Side(end) for end in pair())
    try:
        yield one, two
    finally:
        one.close()
        two.close()
    assert files() == before


@contextmanager
def raw() -> Iterator[tuple[Side, socket.socket]]:
    """One side, and the other end of it, on which a test writes what it likes."""
    before = files()
    end, other = pair()
    side = Side(end)
    with other:
        yield side, other
        side.close()
    assert files() == before


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_file_left() -> Iterator[None]:
    """This process can open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(first_free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_files(data: bytes, numbers: Sequence[int]) -> tuple[list[bytes], list[tuple[int, int, Any]]]:
    """What sendmsg takes."""
    return [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))]


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_both_sides_are_told_what_the_other_says_in_order() -> None:
    with sides() as (one, two):
        downward: list[Spoken] = [Begin("worker-1", {"handler": "app:handler"}), Report(1), Report(2)]
        upward: list[Spoken] = [*map(Released, range(500)), Ended("well", cut=("a", "b"), finished=7)]
        for message in downward:
            one.channel.tell(message)
        for message in upward:
            two.channel.tell(message)
        await until(lambda: len(two.messages) == len(downward) and len(one.messages) == len(upward))
        assert (two.messages, one.messages) == (downward, upward)
        assert one.losses == two.losses == []


@given(st.lists(messages.filter(lambda message: not isinstance(message, Take)), max_size=6), st.data())
@examples(40)
async def test_bytes_may_come_split_anywhere(said: list[Spoken], data: st.DataObject) -> None:
    written = b"".join(map(encode, said))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)), max_size=8)))
    with raw() as (side, other):
        for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True):
            if end > start:
                other.sendall(written[start:end])
                await settle(3)
        await until(lambda: len(side.messages) == len(said))
        assert side.messages == said
        assert side.losses == []


async def test_a_message_as_long_as_they_may_be_arrives_and_holds_back_what_follows_at_most() -> None:
    room = MAX_MESSAGE - len(encode(Tired(""))) + 4
    with sides() as (one, two):
        one.channel.tell(Tired("x" * room))
        one.channel.tell(Draining())
        assert one.channel.unsent > MOST_UNSENT
        await until(lambda: len(two.messages) == 2, timeout=20)
        assert two.messages == [Tired("x" * room), Draining()]
        assert one.channel.unsent == 0


async def test_a_burst_leaves_the_loop_to_others_in_between() -> None:
    by_turn = [0]

    def turn() -> None:
        by_turn.append(len(side.messages))
        if len(side.messages) < 2000:
            asyncio.get_running_loop().call_soon(turn)

    with raw() as (side, other):
        other.sendall(b"".join(encode(Report(number)) for number in range(2000)))
        turn()
        await until(lambda: len(side.messages) == 2000)
        assert max(later - earlier for earlier, later in itertools.pairwise(by_turn)) == MESSAGES_PER_TURN
        assert side.messages == [Report(number) for number in range(2000)]


# --- sockets ----------------------------------------------------------------------------------------------------------


def served(number: int) -> tuple[socket.socket, socket.socket]:
    """A client's socket, which has sent its number, and the one that was accepted for it."""
    client, accepted = socket.socketpair()
    client.sendall(number.to_bytes(4))
    return client, accepted


async def test_each_socket_comes_with_its_own_message_among_others() -> None:
    with sides() as (one, two):
        clients = []
        for number in range(300):
            client, accepted = served(number)
            clients.append(client)
            with accepted:
                one.channel.tell(Report(number))
                one.channel.tell(Take(number), accepted)
            if number % 50 == 0:
                await settle(2)
        await until(lambda: len(two.sockets) == 300)
        assert [message.number for message in two.messages if isinstance(message, Take)] == list(range(300))
        for number, taken in two.sockets.items():
            assert int.from_bytes(taken.recv(4)) == number
            assert not taken.get_inheritable()
        for client in clients:
            client.close()


async def test_what_the_other_side_does_not_read_waits_and_goes_out_in_order_once_it_does() -> None:
    """The caller's copies are closed meanwhile: those that wait have copies of their own."""
    before = files()
    end, other = pair()
    one = Side(end)
    client, accepted = served(7)
    sent = 0
    while one.channel.unsent < 200_000:
        one.channel.tell(Tired("x" * 1000))
        sent += 1
    one.channel.tell(Take(7), accepted)
    one.channel.tell(Beat(0.5, 1, 2))
    accepted.close()
    await settle()
    assert one.channel.unsent > 200_000
    two = Side(other)
    await until(lambda: len(two.messages) == sent + 2)
    assert two.messages == [Tired("x" * 1000)] * sent + [Take(7), Beat(0.5, 1, 2)]
    assert two.sockets[7].recv(4) == (7).to_bytes(4)
    assert one.channel.unsent == 0
    one.channel.tell(Draining())
    await until(lambda: two.messages[-1] == Draining())
    for each in (one, two, client):
        each.close()
    assert files() == before


async def test_a_socket_that_goes_out_at_once_is_not_copied() -> None:
    with raw() as (side, _):
        client, accepted = served(1)
        with client, accepted:
            before = files()
            side.channel.tell(Take(1), accepted)
            assert (files(), side.channel.unsent) == (before, 0)


def fill(side: Side) -> int:
    """Tell it what waits from now on; how many messages that is."""
    count = 0
    while side.channel.unsent == 0:
        side.channel.tell(Report(count))
        count += 1
    return count


async def test_without_a_file_for_a_copy_the_callers_own_socket_is_sent_if_it_is_still_open() -> None:
    end, other = pair()
    one = Side(end)
    filled = fill(one)
    kept, withdrawn = served(1), served(2)
    with no_file_left():
        one.channel.tell(Take(1), kept[1])
        one.channel.tell(Take(2), withdrawn[1])
    one.channel.tell(Draining())
    withdrawn[1].close()
    two = Side(other)
    await until(lambda: two.messages[-1:] == [Draining()])
    assert two.messages[filled:] == [Take(1), Draining()]
    assert two.sockets[1].recv(4) == (1).to_bytes(4)
    assert kept[1].fileno() >= 0
    assert one.channel.unsent == 0
    for each in (one, two, *kept, withdrawn[0]):
        each.close()


@pytest.mark.parametrize("unread", [False, True])
async def test_closing_drops_what_waits_and_the_sockets_of_it(unread: bool) -> None:
    """On their way, waiting to be sent, or received and not told: the client sees that nobody has its connection."""
    with raw() as (side, other):
        client, accepted = served(1)
        with client:
            if unread:
                other.sendmsg(*with_files(encode(Take(1))[:-1], [accepted.fileno()]))
                await settle()
            else:
                fill(side)
                side.channel.tell(Take(1), accepted)
            accepted.close()
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            side.channel.close()
            # Closed with unread bytes in it, a stream of a Unix socket is reset.
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert side.losses == []


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_the_end_of_the_other_side_is_told_once_and_behind_its_last_words() -> None:
    with sides() as (one, two):
        for number in range(3 * MESSAGES_PER_TURN):
            two.channel.tell(Report(number))
        two.channel.tell(Ended("done"))
        two.channel.close()
        await until(lambda: bool(one.losses))
        assert one.messages[-1] == Ended("done")
        assert len(one.messages) == 3 * MESSAGES_PER_TURN + 1
        client, accepted = served(1)
        with client, accepted:
            one.channel.tell(Take(1), accepted)
        one.channel.tell(Draining())
        await settle()
        assert one.losses == [None]
        assert two.losses == [], "it closed by itself"


async def test_saying_something_to_a_side_that_has_gone_raises_nothing_and_its_last_words_are_heard() -> None:
    with raw() as (side, other):
        side.channel.tell(Report(1))  # unread, so that the end comes as a reset
        other.sendall(encode(Ended("done")))
        other.close()
        for number in range(5):
            side.channel.tell(Report(number))
        assert side.losses == [], "not in the caller's own turn"
        await until(lambda: bool(side.losses))
        assert (side.messages, side.losses) == ([Ended("done")], [None])


def inheriting(end: socket.socket) -> subprocess.Popen[bytes]:
    """A process that has the end, and does nothing."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[end.fileno()])


async def test_a_process_that_is_killed_is_an_end() -> None:
    with raw() as (side, other):
        child = inheriting(other)
        other.close()
        with child:
            side.channel.tell(Report(1))
            await settle()
            assert side.losses == []
            child.kill()
            await until(lambda: bool(side.losses))
        assert side.losses == [None]


async def test_an_end_in_the_middle_of_a_message_is_an_error() -> None:
    with raw() as (side, other):
        other.sendall(encode(Report(1)) + encode(Report(2))[:-1])
        other.close()
        await until(lambda: bool(side.losses))
        assert side.messages == [Report(1)]
        assert [type(cause) for cause in side.losses] == [TransportLost]
        assert "in the middle of a message" in str(side.losses[0])


async def test_a_side_that_never_reads_is_lost_with_what_it_said_before() -> None:
    with raw() as (side, other):
        other.sendall(b"".join(encode(Report(number)) for number in range(100)))
        most = 0
        for _ in range(MOST_UNSENT // 100_000 + 10):
            side.channel.tell(Tired("x" * 100_000))
            most = max(most, side.channel.unsent)
        assert MOST_UNSENT < most < MOST_UNSENT + 300_000
        assert (side.channel.unsent, side.losses) == (0, [])
        await until(lambda: bool(side.losses))
        assert len(side.messages) == 100
        assert [type(cause) for cause in side.losses] == [LimitReached]
        assert "does not read" in str(side.losses[0])


async def test_nothing_is_told_after_closing() -> None:
    end, other = pair()
    told: list[Spoken] = []

    def hear(message: Spoken, _: socket.socket | None) -> None:
        told.append(message)

    channel = Channel(end, hear, lambda cause: pytest.fail(f"lost: {cause}"))
    with other:
        other.sendall(encode(Report(1)) * 200)
        channel.close()
        await settle()
        channel.close()
        channel.tell(Draining())
    await settle()
    assert told == []
    assert end.fileno() == -1


async def test_closing_while_it_is_told_is_the_end_of_it() -> None:
    end, other = pair()
    told: list[Spoken] = []

    def hear(message: Spoken, _: socket.socket | None) -> None:
        told.append(message)
        if len(told) == at:
            channel.close()

    at = MESSAGES_PER_TURN + 5
    channel = Channel(end, hear, lambda cause: pytest.fail(f"lost: {cause}"))
    with other:
        other.sendall(encode(Report(1)) * 200)
        await until(lambda: end.fileno() == -1)
        await settle()
    await settle()
    assert len(told) == at


async def test_closing_between_two_turns_of_a_burst_is_the_end_of_it() -> None:
    with raw() as (side, other):
        other.sendall(encode(Report(1)) * 200)
        await until(lambda: len(side.messages) == MESSAGES_PER_TURN)
        side.channel.close()
        await settle()
        assert len(side.messages) == MESSAGES_PER_TURN


# --- what breaks the rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ((MAX_MESSAGE + 1).to_bytes(4), "16777217 bytes"),
        (b"\xff\xff\xff\xff", "4294967295 bytes"),
        (b"\0\0\0\0", "no message"),
        (b"\0\0\0\x02[]", "no message"),
        (b"GET / HTTP/1.1\r\n\r\n", "bytes on a channel"),
        (encode(Take(1)), "without its socket"),
    ],
)
async def test_what_is_no_message_is_an_error_behind_those_that_were(said: bytes, complaint: str) -> None:
    with raw() as (side, other):
        other.sendall(encode(Report(1)) + said + encode(Report(2)))
        await until(lambda: bool(side.losses))
        assert side.messages == [Report(1)]
        assert [type(cause) for cause in side.losses] == [ProtocolViolation]
        assert complaint in str(side.losses[0])


async def expect_violation(side: Side, *before: Spoken) -> str:
    await until(lambda: bool(side.losses))
    assert side.messages == list(before)
    assert [type(cause) for cause in side.losses] == [ProtocolViolation]
    return str(side.losses[0])


async def test_a_socket_without_a_take_is_an_error() -> None:
    client, accepted = served(1)
    with client, accepted, raw() as (side, other):
        other.sendmsg(*with_files(encode(Report(1)), [accepted.fileno()]))
        assert "without a Take" in await expect_violation(side, Report(1))


async def test_two_sockets_for_one_take_are_an_error() -> None:
    client, accepted = served(1)
    with client, accepted, raw() as (side, other):
        other.sendmsg(*with_files(encode(Take(1)), [accepted.fileno(), client.fileno()]))
        assert "without a Take" in await expect_violation(side, Take(1))


async def test_a_file_that_is_no_socket_is_an_error() -> None:
    with raw() as (side, other):
        file = os.dup(0)
        other.sendmsg(*with_files(encode(Report(1)) + encode(Take(1)), [file]))
        os.close(file)
        assert "without its socket" in await expect_violation(side, Report(1))


async def test_a_process_that_may_open_no_more_files_is_told_so() -> None:
    client, accepted = served(1)
    with client, accepted, raw() as (side, other):
        other.sendmsg(*with_files(encode(Report(1)) + encode(Take(1)), [accepted.fileno()]))
        with no_file_left():
            await until(lambda: bool(side.losses))
        assert "ulimit -n" in await expect_violation(side, Report(1))


async def test_a_message_that_cannot_be_said_is_an_error_and_costs_nothing_else() -> None:
    with sides() as (one, two):
        client, accepted = served(1)
        with client:
            with pytest.raises(Misuse, match="a socket goes with each Take"):
                one.channel.tell(Take(1))
            with pytest.raises(Misuse, match="a socket goes with each Take"):
                one.channel.tell(Draining(), accepted)
            accepted.close()
            with pytest.raises(Misuse, match="is closed"):
                one.channel.tell(Take(1), accepted)
            with pytest.raises(LimitReached, match="too long"):
                one.channel.tell(Reported(1, {"text": "x" * MAX_MESSAGE}, ()))
        one.channel.tell(Draining())
        await until(lambda: bool(two.messages))
        assert two.messages == [Draining()]


# --- what the system refuses ------------------------------------------------------------------------------------------


class Poor(socket.socket):
    """A socket for which the system has nothing left for a while."""

    errors: ClassVar[list[int]] = []

    def sendmsg(self, *arguments: Any) -> int:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return super().sendmsg(*arguments)


@contextmanager
def poor(monkeypatch: pytest.MonkeyPatch, *errors: int) -> Iterator[tuple[Side, Side]]:
    monkeypatch.setattr(Poor, "errors", list(errors))
    end, other = pair()
    one, two = Side(Poor(fileno=end.detach())), Side(other)
    yield one, two
    one.close()
    two.close()


@pytest.mark.virtual_time
async def test_a_system_without_memory_for_a_message_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with poor(monkeypatch, errno.ENOBUFS, errno.ETOOMANYREFS) as (one, two):
        one.channel.tell(Report(1))
        one.channel.tell(Report(2))
        await asyncio.sleep(1.5 * SEND_PAUSE)
        assert two.messages == []
        await asyncio.sleep(SEND_PAUSE)
        await until(lambda: len(two.messages) == 2)
        assert two.messages == [Report(1), Report(2)]
        assert one.losses == []


@pytest.mark.virtual_time
async def test_closing_while_the_system_has_no_memory_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    with poor(monkeypatch, errno.ENOBUFS) as (one, two):
        one.channel.tell(Report(1))
        one.channel.close()
        await asyncio.sleep(2 * SEND_PAUSE)
        assert (two.messages, two.losses) == ([], [None])


async def test_a_socket_that_fails_otherwise_is_lost_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with poor(monkeypatch, errno.EPERM) as (one, two):
        two.channel.tell(Report(1))
        one.channel.tell(Report(2))
        await until(lambda: bool(one.losses))
        assert one.messages == [Report(1)]
        assert [str(cause) for cause in one.losses] == ["a channel cannot be written: Operation not permitted"]
        assert isinstance(one.losses[0], TransportLost)
