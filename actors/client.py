"""A client's connection: requests wait for the peer's limit, first come first served, and pushes may come along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from actors.bodies import until_read
from actors.connection import ConnectionActor
from actors.errors import Closed, ErrorCode, GoAway, LinkError, Misuse, Outcome
from actors.mailbox import Ref
from actors.messages import (
    ConnectionDraining,
    ConnectionNews,
    Drain,
    Opened,
    OpenStream,
    Peer,
    PromiseArrived,
    PushStream,
    RoomMade,
    Socket,
    StreamFailed,
    WriteOn,
)
from actors.patience import Wait
from actors.pulse import Monitor
from actors.settings import Limits
from actors.slots import Slots
from actors.stream import StreamActor
from actors.trace import Tracer
from actors.wire import ASSUMED_MAX_STREAMS, MAX_STREAM_ID, StreamFact, Wire


class ClientConnection(ConnectionActor):
    """The client's end of a connection."""

    __slots__ = ("_lingering", "_promised", "_slots", "_waiting")

    def __init__(
        self,
        name: str,
        socket: Socket,
        *,
        peer: Peer,
        limits: Limits,
        owner: Ref[ConnectionNews],
        push: bool = False,
        upgraded: bool = False,
        monitor: Monitor | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``push`` lets the server promise streams (SETTINGS_ENABLE_PUSH).

        ``upgraded``: the first request went out before, over HTTP/1.1 (RFC 7540, 3.2); only its response is to come.
        """
        wire = Wire(client=True, limits=limits, push=push, upgraded=upgraded)
        super().__init__(name, socket, wire, peer=peer, owner=owner, monitor=monitor, tracer=tracer)
        self._slots: Slots[str] = Slots(ASSUMED_MAX_STREAMS)
        self._waiting: dict[str, OpenStream] = {}
        self._lingering: dict[int, str] = {}
        """Streams without an actor whose bodies are still to go out, and who held their slots."""
        self._promised: dict[int, Callable[[StreamActor], None]] = {}

    def _admit(self, message: OpenStream) -> None:
        name = message.stream.name
        self.children[name] = message.stream
        if self._farewell.going is not None:
            self._refuse(message, self._farewell.going)
            return
        self._waiting[name] = message
        if self._slots.enter(name):
            self._open(name)
        else:
            self._slots.date(name, self._loop.time())

    def _open(self, name: str, now: float = 0.0) -> None:
        """Open the stream of a request; ``now`` is for one that had to wait for it."""
        message = self._waiting.pop(name)
        if not message.is_wanted():
            self.wire.terms.memory.give(len(message.body))
            return  # its end is on the way, and frees its slot
        whole = message.end and not message.body and not message.trailers
        stream_id = self.wire.open(message.head, end=whole, weight=message.weight, opened=now)
        if stream_id is None:
            self._refuse(message, self._spent())
            return
        self.wire.terms.memory.give(len(message.body))
        self._streams[stream_id] = message.stream
        self._ids[name] = stream_id
        if message.promised is not None:
            self._promised[stream_id] = message.promised
        message.stream.tell(Opened(stream_id))
        if message.end and not whole:
            self._send_whole(stream_id, message)
        if stream_id + 2 > MAX_STREAM_ID:
            self._spent()
        if self._pulse.asleep:
            self._look(self._loop.time())

    def _send_whole(self, stream_id: int, message: OpenStream) -> None:
        wire, body = self.wire, message.body
        held = wire.terms.memory.held
        wire.send_data(stream_id, body, end=True, trailers=message.trailers or None)
        if body and wire.terms.memory.held == held:
            # It did not even have to queue, and then the wire tells of no room: its stream wants to know what has gone.
            message.stream.tell(RoomMade(len(body)))

    def _spent(self) -> LinkError:
        """No more streams: the owner makes another connection, and what is open here finishes (RFC 9113, 5.1.1)."""
        error = self.wire.broken or Closed(f"{self.name} has used up its stream ids (RFC 9113, 5.1.1)")
        self._retire(error)
        return self._farewell.going or error

    def _retire(self, error: LinkError) -> None:
        if self._farewell.going is None:
            self._leaves()
            self._farewell.going = self._farewell.closing = error
            self._farewell.say(ErrorCode.NO_ERROR)
            self._send_home(error)
            self._owner.tell(ConnectionDraining(self.name, error))

    def _send_home(self, error: LinkError) -> None:
        """Fail those that wait for a slot."""
        for name in self._slots.close():
            self._refuse(self._waiting.pop(name), error)

    def _refuse(self, message: OpenStream, error: LinkError) -> None:
        """Nothing of it was sent, and nothing will be."""
        self.wire.terms.memory.give(len(message.body))
        message.stream.tell(StreamFailed(error, Outcome.NOT_SENT))

    def _push(self, message: PushStream) -> None:
        message.reply.fail(Misuse("only servers push (RFC 9113, 8.4)"))

    def _began(self, stream_id: int, fact: StreamFact | PromiseArrived) -> None:
        if not isinstance(fact, PromiseArrived):
            return  # of a stream that we dropped
        take = self._promised.get(stream_id)
        living = sum(1 for each in self._streams if each % 2 == 0)
        if take is None or self._farewell.going is not None or living >= 2 * self.limits.max_streams:
            self.wire.reset(fact.stream_id, ErrorCode.CANCEL)
            self.wire.release(fact.stream_id)
            return
        parent = self._streams[stream_id].name
        child = StreamActor(
            f"{parent}/push-{fact.stream_id}", self.ref, until_read, peer=self.peer, terms=self.wire.terms,
            tracer=self.tracer,
        )  # fmt: skip
        child.tell(fact)
        self._streams[fact.stream_id] = child.ref
        self._ids[child.name] = fact.stream_id
        self.start_child(child)
        take(child)

    def _peer_allows(self, max_streams: int) -> None:
        for name in self._slots.change_limit(max_streams):
            self._open(name, self._loop.time())

    def _peer_went(self, error: GoAway, last_stream_id: int) -> None:
        self._send_home(error)
        for stream_id, stream in list(self._streams.items()):
            if stream_id % 2 and stream_id > last_stream_id:
                stream.tell(StreamFailed(error, Outcome.UNPROCESSED))

    def _drain(self, drain: Drain) -> None:
        self._leaves()
        self._farewell.finish(drain.error)
        if self._farewell.going is None:
            self._farewell.refuse(drain.error)
            self._farewell.say(drain.code, drain.debug)
        self.keep(Wait.DRAIN, drain.seconds)
        self._send_home(drain.error)

    def settle(self) -> None:
        super().settle()
        flushed, self.wire.flushed = self.wire.flushed, []
        for stream_id in flushed:
            self._free(self._lingering.pop(stream_id, ""))

    def _free(self, name: str) -> None:
        """The peer does not count the stream any more: the next may begin."""
        for admitted in self._slots.leave(name):
            self._open(admitted, self._loop.time())
            self.tell(WriteOn())  # wherever this came from, what it says is to be written

    def _bury(self, name: str, reason: BaseException | None, *, crashed: bool) -> bool:
        """Besides what all do, its slot is free, unless the rest of its body is still to go out."""
        if message := self._waiting.pop(name, None):
            self.wire.terms.memory.give(len(message.body))
        self._promised.pop(self._ids.get(name, 0), None)
        stream_id = self._ids.get(name, 0)
        gone = super()._bury(name, reason, crashed=crashed)
        if gone:
            self._free(name)
        else:
            self._lingering[stream_id] = name
        return gone

    def ending(self, reason: BaseException | None) -> None:
        error = reason if isinstance(reason, LinkError) else Closed.because(f"{self.name} has ended", reason)
        for message in self._waiting.values():
            message.stream.tell(StreamFailed(error))
        super().ending(reason)

    def _admission(self) -> tuple[int, int]:
        return self._slots.waiting, self._slots.limit

    def _line(self) -> tuple[int, Iterable[tuple[str, float]]]:
        return self._slots.held, self._slots.line

    def _names(self) -> dict[int, str]:
        return self._lingering | super()._names()

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {
            **super().detail(),
            "max_streams": self._slots.limit,
            "waiting_for_a_slot": self._slots.waiting,
        }
