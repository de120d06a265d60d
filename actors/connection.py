"""A connection: the one task that touches its wire.

It turns bytes into facts for streams and commands of streams into bytes, writes once per batch, keeps the times that a
peer has, and when it ends leaves nobody waiting. What has a state of its own has a room of its own: the times and the
timer (``patience``), the socket (``outlet``), long input (``bursts``), the peer's life (``pulse``), our SETTINGS
(``changes``), and the leave (``farewell``). What is left is who is told what, and when. What a client's does besides is
in ``client.py``, what a server's does in ``serving.py``.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import ClassVar, Final, assert_never

from actors.actor import Stop
from actors.bursts import Burst
from actors.changes import Changes
from actors.commands import ConnectionMessage, WireCommand
from actors.errors import (
    Closed,
    ErrorCode,
    GoAway,
    LinkError,
    PingTimeout,
    ProtocolViolation,
    TransportLost,
    code_name,
)
from actors.farewell import Farewell, turn_away
from actors.frame_log import FrameLog
from actors.mailbox import Ref, Reply, SystemMessage, Understood
from actors.messages import (
    AlternativeOffered,
    AlternativeService,
    BytesArrived,
    ChangeLimits,
    ConnectionDraining,
    ConnectionLost,
    ConnectionNews,
    ConnectionReady,
    Drain,
    Exited,
    OpenStream,
    Peer,
    PeerAllows,
    PeerGoAway,
    PeerSettings,
    PingAcked,
    PromiseArrived,
    PushStream,
    ReadOn,
    RoomMade,
    SendPing,
    SettingsAcked,
    Socket,
    StreamFailed,
    StreamMessage,
    TakePicture,
    TimePassed,
    WriteOn,
    WritePaused,
    WriteResumed,
)
from actors.outlet import Outlet
from actors.patience import Alarm, Patience, Wait
from actors.pictures import ConnectionPicture, Leave
from actors.pulse import Monitor, Pulse
from actors.settings import Limits
from actors.stats import ConnectionStats, Quantiles
from actors.trace import Tracer
from actors.turns import SECONDS_PER_TURN, TurnActor
from actors.wire import Fact, StreamFact, Wire

logger: Final = logging.getLogger("muxlink.connection")

FRAMES_PER_LOOK: Final = 8
"""Frames that are read between two looks at the clock."""
MAILBOX: Final = 1024 * 1024
"""Messages that may wait: each stream has a few at most, so it is our own callers who fill it."""


class ConnectionActor(TurnActor[ConnectionMessage]):
    """One HTTP/2 connection over one socket."""

    __slots__ = (
        "_allowed", "_burst", "_changes", "_farewell", "_frames", "_ids", "_loop", "_lost", "_outlet", "_owner",
        "_patience", "_pulse", "_ready", "_received", "_since", "_stirred", "_streams", "_writing_on", "deadlines",
        "heard", "left", "peer", "round_trips", "tardy", "wire",
    )  # fmt: skip

    understands: ClassVar[Understood] = ConnectionMessage

    def __init__(
        self,
        name: str,
        socket: Socket,
        wire: Wire,
        *,
        peer: Peer,
        owner: Ref[ConnectionNews],
        monitor: Monitor | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """Without a ``monitor`` no silence of the peer's is too long."""
        super().__init__(name, tracer, bound=MAILBOX, shutdown_timeout=wire.limits.shutdown_timeout)
        self.peer = peer
        self.wire = wire
        wire.guard.report = partial(logger.warning, "dry run: %s: %s", f"{name} ({peer.address})")
        self._owner = owner
        self._streams: dict[int, Ref[StreamMessage]] = {}
        self._ids: dict[str, int] = {}
        self._ready = False
        self._allowed = 0
        self._lost = False
        self._writing_on = False
        self._received = 0
        self._since: float | None = None
        self.heard = 0.0
        """When the last bytes of the peer were read, in seconds of the loop's clock."""
        self._stirred = 0.0
        """When it was last busy with anything else, so that it was not idle."""
        self.left = 0.0
        """When it first heard that it is to take leave; 0.0 while it has not."""
        self.tardy = (0.0, 0.0)
        """By how much its last timer was late, and when that was."""
        self._burst = Burst()
        self._outlet = Outlet(socket, wire)
        self._frames = FrameLog(name, self.tracer, wire)
        self.deadlines = Alarm(self._ring_at)
        self._patience = Patience(wire, self.deadlines)
        self._changes = Changes(wire, self.deadlines)
        self._farewell = Farewell(wire, self.deadlines)
        self._pulse = Pulse(name, owner, monitor, wire=wire, outlet=self._outlet, deadlines=self.deadlines)
        self.round_trips = self._pulse.round_trips

    @property
    def limits(self) -> Limits:
        return self.wire.limits

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._burst.begin()
        self._since = self.heard = now = self._loop.time()
        self.keep(Wait.SETTINGS, self.limits.settings_timeout)
        self._farewell.plan(self.limits.max_connection_age, now, now)
        self._look(now)
        if self.tracer.on:
            self._frames.began(self._outlet.local, self.peer, self._pulse.monitor)
        self.wire.start(self._loop.time)
        self._changes.sent(None, now + self.limits.settings_timeout)
        self.settle()

    def receive(self, message: ConnectionMessage) -> None:
        match message:
            case WireCommand():  # the most frequent first
                message.apply(self.wire)
            case BytesArrived(data):
                self._received += len(data)
                self.wire.take_in(data)
                if not self._burst.on:
                    self._read(self._burst.share())
            case Exited(name, reason, crashed):
                self._bury(name, reason, crashed=crashed)
            case OpenStream():
                self._admit(message)
            case ReadOn():
                share = self._burst.share()
                self._burst.turn(False)
                self._read(share)
            case WriteOn():
                self._writing_on = False
            case WritePaused() | WriteResumed():
                self._backpressure(isinstance(message, WritePaused))
            case ConnectionLost(cause):
                self._lost = True
                if self._burst.on:
                    self.tell(message)  # first what came before it
                else:
                    raise Stop(self._farewell.loss(cause, self.peer.address, ready=self._ready))
            case TimePassed():
                self._time_passed()
            case Drain():
                self._drain(message)
            case SendPing(reply):
                self._pulse.ask(reply, self._loop.time())
            case ChangeLimits(limits, done):
                self._change(limits, done)
            case PushStream():
                self._push(message)
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
            self._trace_sent(data)
            self._outlet.write(data)
        if not self._writing_on and wire.has_output:
            self._writing_on = True
            self.tell(WriteOn())
        farewell = self._farewell
        if farewell.closing is not None and not wire.streams and not self.children and farewell.said:
            raise Stop(farewell.closing)

    # --- what the two sides do differently ----------------------------------------------------------------------------

    @abstractmethod
    def _admit(self, message: OpenStream) -> None:
        """Open a stream for a request, or let it wait."""

    @abstractmethod
    def _push(self, message: PushStream) -> None:
        """Promise a stream."""

    @abstractmethod
    def _began(self, stream_id: int, fact: StreamFact | PromiseArrived) -> None:
        """Something came on a stream that has no actor."""

    @abstractmethod
    def _peer_allows(self, max_streams: int) -> None:
        """The peer's limit of streams may have changed."""

    @abstractmethod
    def _peer_went(self, error: GoAway, last_stream_id: int) -> None:
        """The peer takes no new streams, and has not acted on ours above its last."""

    @abstractmethod
    def _retire(self, error: LinkError) -> None:
        """Take no new streams, and end with ``error`` when those that are open have finished, however long it takes."""

    @abstractmethod
    def _drain(self, drain: Drain) -> None:
        """Take no new streams, and end when those that are open have finished."""

    # --- input --------------------------------------------------------------------------------------------------------

    def _read(self, seconds: float = SECONDS_PER_TURN) -> None:
        """Tell what the bytes say; a long burst goes on in later turns, and the socket waits meanwhile."""
        wire, outlet = self.wire, self._outlet
        wire.guard.now = self.heard = self._loop.time()
        late = perf_counter() + seconds
        tracing = self.tracer.on
        self._frames.watch(tracing)
        try:
            while wire.has_input and not outlet.choked:
                if perf_counter() > late:
                    self._burst.turn(True)
                    self.tell(ReadOn())
                    outlet.read(False)
                    return
                said = wire.read(FRAMES_PER_LOOK)
                if tracing:
                    self._frames.arrived()
                for stream_id, fact in said:
                    self._dispatch(stream_id, fact)
        except ProtocolViolation as violation:
            if tracing:
                self._frames.arrived()
            raise Stop(self._named(violation)) from violation.__cause__
        if wire.progress is not None or Wait.BLOCK in self.deadlines:
            self._patience.watch_pieces(self.heard)
        if self._pulse.suspect:
            self._pulse.heard()
        if not self._suspended and not outlet.choked:
            outlet.read(True)

    def _named(self, violation: ProtocolViolation) -> ProtocolViolation:
        return ProtocolViolation.because(f"{self.peer.address}: {violation}", violation.__cause__, code=violation.code)

    def _dispatch(self, stream_id: int, fact: Fact) -> None:
        match fact:
            case PeerSettings(max_streams):
                if not self._ready:
                    self._ready = True
                    self.deadlines.stop(Wait.SETTINGS)
                    self._owner.tell(ConnectionReady(self.name, max_streams))
                elif max_streams != self._allowed:
                    self._owner.tell(PeerAllows(self.name, max_streams))
                self._allowed = max_streams
                self._peer_allows(max_streams)
            case SettingsAcked():
                self._settings_acked()
            case PeerGoAway():
                self._peer_goes(fact)
            case PingAcked(data):
                self._ping_acked(data)
            case AlternativeService(origin, value):
                self._owner.tell(AlternativeOffered(self.name, origin, value))
            case PromiseArrived():
                self._began(stream_id, fact)
            case _:
                self._pulse.forgiven = True
                # Frames for a stream that we already dropped are legal (RFC 9113, 5.1).
                if stream := self._streams.get(stream_id):
                    stream.tell(fact)
                else:
                    self._began(stream_id, fact)

    def _peer_goes(self, goaway: PeerGoAway) -> None:
        """No new streams; those above the peer's last are unprocessed, the others finish (RFC 9113, 6.8)."""
        self._leaves()
        error = self._farewell.hear(goaway, self.peer.address)
        self._peer_went(error, goaway.last_stream_id)
        self._owner.tell(ConnectionDraining(self.name, error))

    def _leaves(self) -> None:
        """It is to take no new streams, or to end."""
        self.left = self.left or self._loop.time()

    # --- settings and life --------------------------------------------------------------------------------------------

    def _change(self, limits: Limits, done: Reply[None] | None) -> None:
        now = self._loop.time()
        if self._since is not None:
            self._farewell.plan(limits.max_connection_age, self._since, now)
        if self.wire.change(limits):
            self._changes.sent(done, now + limits.settings_timeout)
        elif done is not None:
            done.tell(None)

    def _settings_acked(self) -> None:
        now = self._loop.time()
        if self._changes.acknowledged(now) and self.round_trips.last is None and self._since is not None:
            self.round_trips.add(now - self._since)

    @property
    def unforgiven_ping(self) -> float | None:
        """When the last PING went out, unless something of a stream has come since."""
        return None if self._pulse.forgiven else self._pulse.last

    def _ping_acked(self, data: bytes) -> bool:
        """Whether it is the answer to our last PING."""
        return self._pulse.answered(data, self._loop.time())

    def _look(self, now: float) -> None:
        """Do what the peer's silence calls for, and see when to look again."""
        if silence := self._pulse.look(now, self.heard):
            raise Stop(PingTimeout(f"{self.peer.address} is dead: {silence} (Health.timeout)"))

    # --- times --------------------------------------------------------------------------------------------------------

    def keep(self, wait: Wait, seconds: float) -> None:
        """Have :meth:`_overdue` called for ``wait`` in ``seconds``, unless it is stopped before."""
        self.deadlines.start(wait, self._loop.time() + seconds)

    def _ring_at(self, at: float) -> asyncio.TimerHandle:
        return self.after(max(at - self._loop.time(), 0.0), TimePassed())

    def _time_passed(self) -> None:
        now = self._loop.time()
        late = self.deadlines.late(now)
        self.tardy = (late, now)
        self._pulse.miss(late)
        self.wire.guard.now = now
        try:
            for wait in self.deadlines.due(now):
                self._overdue(wait, now)
        except ProtocolViolation as violation:
            raise Stop(self._named(violation)) from None
        except TransportLost as lost:
            raise Stop(TransportLost(f"{self.peer.address}: {lost}")) from None

    def _overdue(self, wait: Wait, now: float) -> None:
        if wait is Wait.HEALTH:
            self._look(now)
        elif wait is Wait.AGE:
            old = f"{now - (self._since or 0.0):.3g} s old"
            self._retire(Closed(f"{self.name} takes no new streams: it is {old} (Limits.max_connection_age)"))
        elif wait is Wait.DRAIN:
            raise Stop(self._farewell.closing)
        else:
            self._patience.overdue(wait, self._outlet.taken(), now)

    def _backpressure(self, paused: bool) -> None:
        """While the socket takes nothing, what waits in it counts as ours; if it never does again, it is dead."""
        freed = self._outlet.fill(paused)
        self.deadlines.stop(Wait.WRITE)
        if freed and not self._burst.on:
            self._read()
        if paused:
            self._outlet.full_since = now = self._loop.time()
            self._patience.watch_socket(self._outlet.taken(), now)

    # --- the end of a stream ------------------------------------------------------------------------------------------

    def _bury(self, name: str, reason: BaseException | None, *, crashed: bool) -> bool:
        """A stream's actor has ended: a crash is one RST_STREAM, stranded credit is paid back.

        Returns whether nothing of it is left to go out.
        """
        stream_id = self._ids.pop(name, None)
        if stream_id is None:
            return True
        del self._streams[stream_id]
        if crashed:
            code = ErrorCode.INTERNAL_ERROR
        elif reason is not None or (self.wire.client and not self.wire.is_ending(stream_id)):
            code = ErrorCode.CANCEL
        else:
            code = ErrorCode.NO_ERROR
        return self.wire.release(stream_id, code)

    # --- the end of the connection ------------------------------------------------------------------------------------

    def ending(self, reason: BaseException | None) -> None:
        """Leave nobody waiting: fail every stream, say GOAWAY, and close the socket behind what is still to go out."""
        error = reason if isinstance(reason, LinkError) else Closed.because(f"{self.name} has ended", reason)
        for signal in self.mailbox.signals:
            if isinstance(signal, TakePicture):
                self._signalled(signal)  # there will be no other turn for it
        self._farewell.going = self._farewell.closing = error
        for stream in self._streams.values():
            stream.tell(StreamFailed(error))
        self._pulse.fail(error)
        self._changes.fail(error)
        self.wire.terms.memory.close()
        self._burst.end()
        if self._lost:
            return
        if isinstance(reason, PingTimeout):
            self._outlet.abort()  # nobody is there to take leave of
        else:
            self._farewell.say_last(reason)
            last = self.wire.output()
            self._trace_sent(last)
            self._outlet.close(last)

    def _trace_sent(self, data: bytes) -> None:
        if self.tracer.on:
            self._frames.sent(data)
        else:
            self._frames.missed()

    def ended(self) -> bool:
        return self._lost

    def overdue(self) -> None:
        """The socket takes no more of the last words: give it up."""
        if not self._lost:
            self._outlet.abort()

    def _late(self, message: object) -> None:
        if isinstance(message, ConnectionLost):
            self._lost = True
        super()._late(message)

    def unheard(self, message: ConnectionMessage) -> None:
        """A request that came too late is told so."""
        turn_away(message, self._farewell.going or self.mailbox.closed or Closed(f"{self.name} has ended"))

    def suspended(self, yes: bool) -> None:
        self._outlet.read(not yes)
        now = self._loop.time()
        if yes:
            self.deadlines.sleep(now)
        else:
            self._pulse.miss(self.deadlines.wake(now))  # what the peer did meanwhile could not be seen
            self._stirred = now

    # --- figures ------------------------------------------------------------------------------------------------------

    def measure(self, now: float) -> ConnectionStats:
        """Its figures, also before it has begun and after it has ended."""
        wire = self.wire
        waiting, most = self._admission()
        return ConnectionStats(
            name=self.name,
            peer=self.peer.address,
            state=self._phase(),
            age=now - self._since if self._since is not None else 0.0,
            streams_open=wire.open_streams,
            streams_queued=waiting,
            streams_total=wire.guard.streams + (wire.last_own_id + 1) // 2,
            max_streams=most,
            bytes_received=self._received,
            bytes_sent=self._outlet.written,
            bytes_held=wire.terms.memory.held,
            send_window=wire.send_window,
            receive_window=wire.receive_window,
            round_trips=Quantiles.of(self.round_trips.seconds),
            side="client" if wire.client else "server",
            local=self._outlet.local,
            peer_settings=wire.peer_settings,
        )

    def _phase(self) -> str:
        if self._farewell.going is not None or self._farewell.closing is not None:
            return "draining"
        if self._pulse.suspect:
            return "suspect"
        return "ready" if self._ready else "starting"

    def _admission(self) -> tuple[int, int]:
        """Requests that wait for a stream, and how many streams there may be."""
        return 0, self.limits.max_streams

    def signal(self, message: SystemMessage) -> bool:
        if isinstance(message, TakePicture) and self._halted and self.exited is None:
            self._signalled(message)
            return True
        return super().signal(message)

    def _signalled(self, message: SystemMessage) -> None:
        if isinstance(message, TakePicture):
            message.reply.tell(self._picture(asyncio.get_running_loop().time()))
        else:
            super()._signalled(message)

    def _picture(self, now: float) -> ConnectionPicture:
        outlet, pulse, wire = self._outlet, self._pulse, self.wire
        places, line = self._line()
        late, rang = self.tardy
        return ConnectionPicture(
            name=self.name,
            peer=self.peer.address,
            taken=now,
            wire=wire.look(now),
            names=self._names(),
            refs=dict(self._streams),
            limit=self._admission()[1],
            places=places,
            waiting=tuple((name, now - since if since else None) for name, since in line),
            socket_full=None if wire.writable else now - outlet.full_since,
            socket_bytes=outlet.waiting(),
            backlog=len(self.mailbox) + len(self._batch),
            late=(late, now - rang),
            suspended=self._suspended,
            suspect=pulse.suspect,
            pinged=now - pulse.asked if pulse.asked is not None else None,
            heard=now - self.heard,
            leave=self._leave(now),
        )

    def _leave(self, now: float) -> Leave | None:
        going, closing = self._farewell.going, self._farewell.closing
        if going is None and closing is None:
            return None
        until = self.deadlines.at(Wait.DRAIN)
        return Leave(
            since=now - self.left if self.left else None,
            by_peer=isinstance(going, GoAway),
            # What the peer said besides its code may hold anything.
            why=code_name(going.code) if isinstance(going, GoAway) else str(closing or going),
            left=until - now if until is not None else None,
        )

    def _line(self) -> tuple[int, Iterable[tuple[str, float]]]:
        """How many streams have a place, and the requests that wait for one, in order, each with its time."""
        return self.wire.open_streams, ()

    def _names(self) -> dict[int, str]:
        """The names of those who speak on its streams, or did."""
        return {stream_id: stream.name for stream_id, stream in self._streams.items()}

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {
            "peer": self.peer.address,
            "open_streams": self.wire.open_streams,
            "queued": self.wire.terms.memory.held,
            "writable": self.wire.writable,
            "ready": self._ready,
            "going": str(self._farewell.going) if self._farewell.going is not None else None,
        }
