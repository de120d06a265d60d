"""A connection: the one task that touches its wire.

It turns bytes into facts for streams and commands of streams into bytes, writes once per batch, opens a client's
streams as the peer's limit allows, starts an actor for each of a server's, and when it ends leaves nobody waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import ClassVar, Final, assert_never

from actors.actor import Stop
from actors.commands import ConnectionMessage, WireCommand
from actors.errors import Closed, ErrorCode, GoAway, LinkError, Outcome, ProtocolViolation, TransportLost, code_name
from actors.mailbox import Ref, Understood
from actors.messages import (
    BytesArrived,
    ConnectionDraining,
    ConnectionLost,
    ConnectionNews,
    ConnectionReady,
    Drain,
    DrainBegan,
    DrainOverdue,
    Exited,
    HeadersArrived,
    Opened,
    OpenStream,
    Peer,
    PeerGoAway,
    PeerSettings,
    PingAcked,
    ReadOn,
    RoomMade,
    SettingsOverdue,
    Socket,
    StreamFailed,
    StreamMessage,
    WriteOn,
    WritePaused,
    WriteResumed,
)
from actors.settings import Limits
from actors.slots import Slots
from actors.stream import Body, StreamActor
from actors.trace import Tracer
from actors.turns import SECONDS_PER_TURN, TurnActor
from actors.wire import ASSUMED_MAX_STREAMS, Fact, StreamFact, Wire

logger: Final = logging.getLogger("muxlink.connection")

FRAMES_PER_LOOK: Final = 16
"""Frames that are read between two looks at the clock."""
MAX_DEBUG_DATA: Final = 512


class ConnectionActor(TurnActor[ConnectionMessage]):
    """One HTTP/2 connection over one socket; a server's runs ``handler`` for each stream, a client's has none."""

    __slots__ = (
        "_closing", "_going", "_handler", "_ids", "_lost", "_owner", "_reading_on", "_ready", "_said_goodbye", "_slots",
        "_socket", "_streams", "_waiting", "_writing_on", "limits", "peer", "wire",
    )  # fmt: skip

    understands: ClassVar[Understood] = ConnectionMessage

    def __init__(
        self,
        name: str,
        socket: Socket,
        *,
        peer: Peer,
        limits: Limits,
        owner: Ref[ConnectionNews],
        handler: Body | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        super().__init__(name, tracer, shutdown_timeout=limits.shutdown_timeout)
        self.peer = peer
        self.limits = limits
        self.wire = Wire(client=handler is None, limits=limits)
        self._socket = socket
        self._owner = owner
        self._handler = handler
        self._streams: dict[int, Ref[StreamMessage]] = {}
        self._ids: dict[str, int] = {}
        self._slots: Slots[str] = Slots(ASSUMED_MAX_STREAMS)
        self._waiting: dict[str, OpenStream] = {}
        self._ready = False
        self._going: LinkError | None = None
        """Why no new stream is opened, once that is so."""
        self._closing: LinkError | None = None
        """What the connection ends with when its last stream has finished, once it drains."""
        self._said_goodbye = False
        self._lost = False
        self._reading_on = False
        self._writing_on = False

    def begin(self) -> None:
        self.after(self.limits.settings_timeout, SettingsOverdue())
        self.wire.start()
        self.settle()

    def receive(self, message: ConnectionMessage) -> None:
        match message:
            case WireCommand():  # the most frequent first
                message.apply(self.wire)
            case BytesArrived(data):
                self.wire.take_in(data)
                if not self._reading_on:
                    self._read()
            case Exited(name, reason, crashed):
                self._bury(name, reason, crashed=crashed)
            case OpenStream():
                self._admit(message)
            case ReadOn():
                self._reading_on = False
                self._read()
            case WriteOn():
                self._writing_on = False
            case WritePaused():
                self.wire.writable = False
            case WriteResumed():
                self.wire.writable = True
            case ConnectionLost(cause):
                self._lost = True
                if self._reading_on:
                    self.tell(message)  # first what came before it
                else:
                    raise Stop(self._loss(cause))
            case SettingsOverdue():
                if not self._ready:
                    raise Stop(self._overdue_settings())
            case Drain():
                self._drain(message)
            case DrainOverdue():
                raise Stop(self._closing)
            case _:
                assert_never(message)

    def settle(self) -> None:
        """One write for all that the batch said."""
        wire = self.wire
        if wire.has_output:
            wire.pump()
        for stream_id, size in wire.take_room():
            if stream := self._streams.get(stream_id):
                stream.tell(RoomMade(size))
        if data := wire.output():
            self._socket.write(data)
        if not self._writing_on and wire.has_output:
            self._writing_on = True
            self.tell(WriteOn())
        if self._closing is not None and not wire.streams and not self.children:
            raise Stop(self._closing)

    # --- input --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Tell what the bytes say; a long burst goes on in a later turn, and the socket waits meanwhile."""
        late = perf_counter() + SECONDS_PER_TURN
        try:
            while self.wire.has_input:
                if perf_counter() > late:
                    self._reading_on = True
                    self.tell(ReadOn())
                    self._pause_reading(True)
                    return
                for stream_id, fact in self.wire.read(FRAMES_PER_LOOK):
                    self._dispatch(stream_id, fact)
        except ProtocolViolation as violation:
            named = ProtocolViolation.because(
                f"{self.peer.address}: {violation}", violation.__cause__, code=violation.code
            )
            raise Stop(named) from violation.__cause__
        if not self._suspended:
            self._pause_reading(False)

    def _pause_reading(self, pause: bool) -> None:
        if not self._socket.is_closing():  # both calls may be repeated
            if pause:
                self._socket.pause_reading()
            else:
                self._socket.resume_reading()

    def _dispatch(self, stream_id: int, fact: Fact) -> None:
        match fact:
            case PeerSettings(max_streams):
                self._peer_settings(max_streams)
            case PeerGoAway():
                self._peer_goes(fact)
            case PingAcked():
                pass
            case _:
                # Frames for a stream that we already dropped are legal (RFC 9113, 5.1).
                if stream := self._streams.get(stream_id):
                    stream.tell(fact)
                elif self._handler is not None:
                    if isinstance(fact, HeadersArrived):
                        self._serve(stream_id, fact, self._handler)
                    else:
                        self.wire.release(stream_id)  # malformed from its first header on: nobody serves it

    def _peer_settings(self, max_streams: int) -> None:
        if not self._ready:
            self._ready = True
            self._owner.tell(ConnectionReady(self.name))
        for name in self._slots.change_limit(max_streams):
            self._open(name)

    def _serve(self, stream_id: int, head: StreamFact, handler: Body) -> None:
        """Start an actor for a client's new stream, or refuse it, which says that nothing was done (RFC 9113, 8.7)."""
        limit = self.limits.max_streams
        if self._going is not None or len(self._streams) >= 2 * limit:
            self.wire.reset(stream_id, ErrorCode.REFUSED_STREAM)
            self.wire.release(stream_id)
            return
        stream = StreamActor(
            f"{self.name}/stream-{stream_id}", self.ref, handler, peer=self.peer, limits=self.limits,
            stream_id=stream_id, cancel_on_reset=True, tracer=self.tracer,
        )  # fmt: skip
        self._streams[stream_id] = stream.ref
        self._ids[stream.name] = stream_id
        stream.tell(head)
        self.start_child(stream)

    def _peer_goes(self, goaway: PeerGoAway) -> None:
        """No new streams; those above the peer's last are unprocessed, the others finish (RFC 9113, 6.8)."""
        # Escaped: what a peer says must not forge lines in a log.
        text = ascii(goaway.debug[:MAX_DEBUG_DATA].decode("utf-8", "backslashreplace"))
        debug = f": {text}" if goaway.debug else ""
        error = GoAway(
            f"{self.peer.address} is going away ({code_name(goaway.code)}{debug})", code=goaway.code, debug=goaway.debug
        )
        self._going = self._going or error
        self._closing = self._closing or error
        self._send_home(error)
        if self._handler is None:
            for stream_id, stream in list(self._streams.items()):
                if stream_id > goaway.last_stream_id:
                    stream.tell(StreamFailed(error, Outcome.UNPROCESSED))
        self._owner.tell(ConnectionDraining(self.name))

    # --- a client's streams -------------------------------------------------------------------------------------------

    def _admit(self, message: OpenStream) -> None:
        name = message.stream.name
        self.children[name] = message.stream
        if self._going is not None:
            message.stream.tell(StreamFailed(self._going, Outcome.NOT_SENT))
            return
        self._waiting[name] = message
        if self._slots.enter(name):
            self._open(name)

    def _open(self, name: str) -> None:
        message = self._waiting.pop(name)
        if not message.is_wanted():
            return  # its end is on the way, and frees its slot
        whole = message.end and not message.body and not message.trailers
        stream_id = self.wire.open(message.head, end=whole, weight=message.weight)
        if stream_id is None:
            spent = Closed(f"{self.name} has used up its stream ids (RFC 9113, 5.1.1)")
            self._going = self._closing = self.wire.broken or spent
            message.stream.tell(StreamFailed(self._going, Outcome.NOT_SENT))
            self._send_home(self._going)
            self._owner.tell(ConnectionDraining(self.name))
            return
        self._streams[stream_id] = message.stream
        self._ids[name] = stream_id
        message.stream.tell(Opened(stream_id))
        if message.end and not whole:
            self.wire.send_data(stream_id, message.body, end=True, trailers=message.trailers or None)

    def _send_home(self, error: LinkError) -> None:
        """Fail those that wait for a slot."""
        for name in self._slots.close():
            self._waiting.pop(name).stream.tell(StreamFailed(error, Outcome.NOT_SENT))

    # --- the end of a stream ------------------------------------------------------------------------------------------

    def _bury(self, name: str, reason: BaseException | None, *, crashed: bool) -> None:
        """A stream's actor has ended: a crash is one RST_STREAM, stranded credit is paid back, its slot is free."""
        stream_id = self._ids.pop(name, None)
        self._waiting.pop(name, None)
        if stream_id is not None:
            del self._streams[stream_id]
            if crashed:
                code = ErrorCode.INTERNAL_ERROR
            elif self._handler is None or reason is not None:
                code = ErrorCode.CANCEL
            else:
                code = ErrorCode.NO_ERROR
            self.wire.release(stream_id, code)
        for admitted in self._slots.leave(name):
            self._open(admitted)

    # --- the end of the connection ------------------------------------------------------------------------------------

    def _drain(self, drain: Drain) -> None:
        if self._closing is None:
            self._closing = drain.error
        if self._going is None:
            self._going = drain.error
            self._say_goodbye(ErrorCode.NO_ERROR)
            self._send_home(drain.error)
        for stream in self._streams.values():
            stream.tell(DrainBegan())
        self.after(drain.seconds, DrainOverdue())

    def _say_goodbye(self, code: int, debug: bytes = b"") -> None:
        self._said_goodbye = True
        last_seen = self.wire.last_stream_id if self._handler is not None else 0
        self.wire.go_away(last_seen, code, debug[:MAX_DEBUG_DATA])

    def ending(self, reason: BaseException | None) -> None:
        """Leave nobody waiting: fail every stream, say GOAWAY, and close the socket behind what is still to go out."""
        error = reason if isinstance(reason, LinkError) else Closed.because(f"{self.name} has ended", reason)
        self._going = self._closing = error
        for stream in (*self._streams.values(), *(message.stream for message in self._waiting.values())):
            stream.tell(StreamFailed(error))
        if self._lost:
            return
        if isinstance(reason, ProtocolViolation):
            self._say_goodbye(reason.code, str(reason).encode("utf-8", "replace"))
        elif reason is not None and not isinstance(reason, LinkError):
            self._say_goodbye(ErrorCode.INTERNAL_ERROR)
        elif not self._said_goodbye:
            self._say_goodbye(ErrorCode.NO_ERROR)
        self._socket.write(self.wire.output())
        self._socket.close()

    def ended(self) -> bool:
        return self._lost

    def overdue(self) -> None:
        """The socket takes no more of the last words: give it up."""
        if not self._lost:
            self._socket.abort()

    def _late(self, message: object) -> None:
        if isinstance(message, ConnectionLost):
            self._lost = True
        super()._late(message)

    def unheard(self, message: ConnectionMessage) -> None:
        """A request that came too late is told so."""
        if isinstance(message, OpenStream):
            error = self._going or self.mailbox.closed or Closed(f"{self.name} has ended")
            message.stream.tell(StreamFailed(error, Outcome.NOT_SENT))

    def suspended(self, yes: bool) -> None:
        self._pause_reading(yes)

    def _loss(self, cause: BaseException | None) -> LinkError:
        if isinstance(self._closing, GoAway):
            return TransportLost.because(
                f"the connection to {self.peer.address} was closed after GOAWAY", self._closing
            )
        if self._closing is not None and cause is None:
            return self._closing
        how = f"broke: {str(cause) or type(cause).__name__}" if cause is not None else "was closed by the peer"
        early = "" if self._ready else " before it said SETTINGS: does it speak HTTP/2 on this port?"
        return TransportLost.because(f"the connection to {self.peer.address} {how}{early}", cause)

    def _overdue_settings(self) -> ProtocolViolation:
        return ProtocolViolation(
            f"{self.peer.address} said nothing in HTTP/2 within {self.limits.settings_timeout:g} s",
            code=ErrorCode.SETTINGS_TIMEOUT,
        )

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {
            "peer": self.peer.address,
            "open_streams": self.wire.open_streams,
            "max_streams": self._slots.limit,
            "waiting_for_a_slot": self._slots.waiting,
            "writable": self.wire.writable,
            "ready": self._ready,
            "going": str(self._going) if self._going is not None else None,
        }
