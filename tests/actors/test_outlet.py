"""A connection's socket: what it is given, what was taken of it, and when it is not read."""

import socket

from actors.outlet import CHOKED, Outlet
from actors.settings import Limits
from actors.wire import Wire
from tests.support.sides import FakeSocket


class Plugged(FakeSocket):
    """Stands in for asyncio's transport of a real socket: nothing waits in it, all is in the kernel."""

    def __init__(self, inner: socket.socket) -> None:
        super().__init__()
        self.inner = inner

    def get_extra_info(self, name: str) -> object:
        return self.inner if name == "socket" else None


def outlet(fake: FakeSocket) -> tuple[Outlet, Wire]:
    wire = Wire(client=False, limits=Limits())
    return Outlet(fake, wire), wire


async def test_what_the_kernel_holds_is_not_taken_yet() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        out, _ = outlet(Plugged(ours))
        out.write(bytes(1000))
        ours.send(bytes(1000))
        held = 1000 - out.taken()
        assert held > 0, "the system says what it holds"
        theirs.recv(1000)
        assert out.taken() == 1000
    assert out.taken() == 1000, "a closed socket holds nothing"


async def test_a_peer_that_takes_a_part_moves_and_one_that_took_all_or_nothing_does_not() -> None:
    """H2: only while what is before a PING goes out, its answer cannot be there."""
    fake = FakeSocket()
    out, _ = outlet(fake)
    out.write(bytes(1000))
    for unsent, moves in ((1000, False), (400, True), (400, False), (1, True), (0, False)):
        fake.unsent = unsent
        assert out.mark() is moves


async def test_who_takes_nothing_is_not_read_until_the_socket_has_room() -> None:
    """Only when much waits in a socket that has said that it is full."""
    fake = FakeSocket()
    out, wire = outlet(fake)
    held = wire.terms.memory
    fake.unsent = CHOKED + 1
    seen = []
    for step in (lambda: out.write(b"x"), lambda: out.fill(True), lambda: out.write(b"x"), lambda: out.fill(False)):
        freed = step() is True
        seen.append((out.choked, freed, wire.writable, held.held > 0, fake.reading))
    assert seen == [
        (False, False, True, False, True),
        (False, False, False, True, True),
        (True, False, False, True, False),
        (False, True, True, False, False),
    ]
    out.read(True)
    assert fake.reading
    assert not out.fill(False), "it was not choked"


async def test_a_closing_socket_is_given_nothing_and_told_nothing() -> None:
    fake = FakeSocket()
    out, _ = outlet(fake)
    out.write(b"first")
    fake.closing = True
    out.write(b"second")
    out.read(False)
    out.close(b"last")
    assert bytes(fake.written) == b"first"
    assert out.written == 5
    assert fake.reading
