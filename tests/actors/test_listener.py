"""A listener: sockets that are none in, connections out."""

import asyncio

import pytest

from actors.actor import get_state
from actors.errors import Closed
from actors.handling import serve
from actors.listener import ListenerActor
from actors.mailbox import Ref
from actors.messages import BytesArrived, ConnectionFact, Drain, SocketAccepted
from actors.server_stream import ServerStream
from actors.settings import Limits
from tests.support import frames
from tests.support.frames import PREFACE, Code, Parser, Type, encode, headers, settings
from tests.support.sides import ANYWHERE, FakeSocket, settle


async def hold(stream: ServerStream) -> None:
    await stream.draining()
    await stream.respond(200)


def listener(limits: Limits | None = None) -> ListenerActor:
    return ListenerActor("listener", serve(hold), limits=limits or Limits())


def accepted(sockets: list[FakeSocket], connections: list[Ref[ConnectionFact]]) -> SocketAccepted:
    fake = FakeSocket()
    sockets.append(fake)

    def attach(connection: Ref[ConnectionFact]) -> None:
        connections.append(connection)
        fake.lost = connection.tell

    return SocketAccepted(attach, fake, ANYWHERE)


async def test_each_socket_gets_a_connection_of_its_own_which_ends_alone() -> None:
    actor = listener()
    actor.start()
    sockets: list[FakeSocket] = []
    connections: list[Ref[ConnectionFact]] = []
    for _ in range(3):
        actor.tell(accepted(sockets, connections))
    await settle()
    state = await get_state(actor.ref)
    assert state.children == ("listener/connection-1", "listener/connection-2", "listener/connection-3")
    assert state.detail["accepted"] == 3
    assert all(fake.written for fake in sockets)
    connections[1].tell(BytesArrived(b"GET / HTTP/1.1\r\n\r\n" + bytes(20)))
    await settle()
    assert [fake.closing for fake in sockets] == [False, True, False]
    assert (await get_state(actor.ref)).children == ("listener/connection-1", "listener/connection-3")
    await actor.stop()
    assert all(fake.closing for fake in sockets)


async def test_a_drain_reaches_every_connection_and_takes_nothing_new() -> None:
    actor = listener()
    actor.start()
    sockets: list[FakeSocket] = []
    connections: list[Ref[ConnectionFact]] = []
    for _ in range(2):
        actor.tell(accepted(sockets, connections))
    await settle()
    connections[0].tell(BytesArrived(PREFACE + settings() + headers(1, encode(frames.request()), end_stream=True)))
    await settle()
    actor.tell(Drain(5, Closed("closing")))
    actor.tell(accepted(sockets, connections))
    exited = await actor.wait()
    assert str(exited.reason) == "closing"
    assert [fake.closing for fake in sockets] == [True, True, True]
    assert sockets[2].aborted
    said = Parser().parse(bytes(sockets[0].written))
    heads = [heard.type for heard in said if heard.type in (Type.HEADERS, Type.GOAWAY)]
    assert sorted(heads) == [Type.HEADERS, Type.GOAWAY, Type.GOAWAY], "the open stream was not finished"
    assert [heard.code for heard in said if heard.type == Type.GOAWAY] == [Code.NO_ERROR, Code.NO_ERROR]


@pytest.mark.virtual_time
@pytest.mark.parametrize("turns", range(6))
async def test_a_socket_that_comes_as_the_listener_ends_is_closed(turns: int) -> None:
    """G4: in the same turn as the end, while connections are still winding down, and after it."""
    actor = listener()
    actor.start()
    sockets: list[FakeSocket] = []
    connections: list[Ref[ConnectionFact]] = []
    actor.tell(accepted(sockets, connections))
    await settle()
    sockets[0].stuck = True
    stopping = asyncio.create_task(actor.stop(Closed("enough")))
    await settle(turns)
    late = accepted(sockets, connections)
    if not actor.tell(late):
        late.socket.abort()  # as ListenerActor.connected does
    await stopping
    await settle()
    assert [fake.closing for fake in sockets] == [True, True]
