"""A connection: the one task that touches its wire.

It turns bytes into facts for streams and commands of streams into bytes, writes once per batch, keeps the times that a
peer has, and when it ends leaves nobody waiting. What a client's does besides is in ``client.py``, what a server's does
in ``serving.py``.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import random
import struct
import termios
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import ClassVar, Final, assert_never

from actors.actor import Stop
from actors.commands import ConnectionMessage, WireCommand
from actors.errors import (
    Closed,
    ErrorCode,
    GoAway,
    LinkError,
    Outcome,
    PingTimeout,
    ProtocolViolation,
    TransportLost,
    code_name,
)
from actors.guard import TOO_MANY_PINGS
from actors.mailbox import Ref, Reply, Understood
from actors.messages import (
    AlternativeOffered,
    AlternativeService,
    BytesArrived,
    ChangeLimits,
    ConnectionAlive,
    ConnectionDraining,
    ConnectionLost,
    ConnectionNews,
    ConnectionReady,
    ConnectionSuspect,
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
    TimePassed,
    WriteOn,
    WritePaused,
    WriteResumed,
)
from actors.outbox import BYTES_PER_PUMP
from actors.patience import Patience, Wait
from actors.pulse import Act, Monitor, Pulse
from actors.settings import Limits
from actors.stats import ConnectionStats, Quantiles, Recent
from actors.trace import Tracer
from actors.turns import SECONDS_PER_TURN, TurnActor
from actors.wire import MAX_DEBUG_DATA, Fact, StreamFact, Wire

logger: Final = logging.getLogger("muxlink.connection")

FRAMES_PER_LOOK: Final = 8
"""Frames that are read between two looks at the clock."""
LEAST_SECONDS: Final = 0.00025
"""What a burst gets in each turn at least, however many connections have one."""
TLS_RECORD: Final = 16 * 1024
AGE_JITTER: Final = 0.1
"""By which share of its age a connection ends earlier or later, so that many of an age do not end together."""
MAILBOX: Final = 1024 * 1024
"""Messages that may wait: each stream has a few at most, so it is our own callers who fill it."""
CHOKED: Final = 1024 * 1024
"""Bytes in the socket above which nothing more is read from a peer that does not read.

Bodies stop long before; only heads and control frames reach it. Sooner, two ends could wait for each other.
"""


class _Bursts:
    """How many connections of the process have a burst that was too long for one turn.

    They share half of what one turn has, because a small request of another's passes through several rounds of the loop
    that all of them are in; one alone gets it whole, because short turns make small writes: a fifth of a server's rate.
    """

    count = 0


class ConnectionActor(TurnActor[ConnectionMessage]):
    """One HTTP/2 connection over one socket."""

    __slots__ = (
        "_allowed", "_blind", "_changes", "_choked", "_closing", "_going", "_held_back", "_ids", "_last_served",
        "_loop", "_lost", "_owner", "_patience", "_pings", "_pulse", "_reading_on", "_ready", "_received", "_rings",
        "_said_goodbye", "_since", "_socket", "_stirred", "_streams", "_timer", "_took", "_writing_on", "_written",
        "deadlines", "heard", "peer", "round_trips", "wire",
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
        self._socket = socket
        self._owner = owner
        self._streams: dict[int, Ref[StreamMessage]] = {}
        self._ids: dict[str, int] = {}
        self._ready = False
        self._going: LinkError | None = None
        """Why no new stream is opened, once that is so."""
        self._closing: LinkError | None = None
        """What the connection ends with when its last stream has finished, once it drains."""
        self._said_goodbye = False
        self._last_served = 0
        self._lost = False
        self._reading_on = False
        self._choked = False
        """Whether the peer sends what needs answers, and does not read them."""
        self._writing_on = False
        self._patience = Patience(wire)
        self.deadlines = self._patience.deadlines
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0
        self.heard = 0.0
        """When the last bytes of the peer were read, in seconds of the loop's clock."""
        self._stirred = 0.0
        """When it was last busy with anything else, so that it was not idle."""
        self._blind: float | None = None
        """Since when it is suspended."""
        self._since: float | None = None
        self._received = 0
        self._written = 0
        self._took = 0
        """Bytes that the other side had taken at the last look at its health."""
        self._allowed = 0
        self.round_trips = Recent()
        """Of PINGs, and before them of the first SETTINGS."""
        self._held_back = 0
        self._pulse = Pulse(monitor)
        self._pings: list[Reply[float]] = []
        self._changes: deque[Reply[None] | None] = deque()

    @property
    def limits(self) -> Limits:
        return self.wire.limits

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self.heard = now = self._loop.time()
        self.keep(Wait.SETTINGS, self.limits.settings_timeout)
        self._plan_end(self.limits.max_connection_age, now)
        self._look(now)
        self.wire.start()
        self._changes.append(None)
        self.keep(Wait.ACK, self.limits.settings_timeout)
        self.settle()

    def receive(self, message: ConnectionMessage) -> None:
        match message:
            case WireCommand():  # the most frequent first
                message.apply(self.wire)
            case BytesArrived(data):
                self._received += len(data)
                self.wire.take_in(data)
                if not self._reading_on:
                    self._read(self._share(1))
            case Exited(name, reason, crashed):
                self._bury(name, reason, crashed=crashed)
            case OpenStream():
                self._admit(message)
            case ReadOn():
                share = self._share()
                self._read_on(False)
                self._read(share)
            case WriteOn():
                self._writing_on = False
            case WritePaused() | WriteResumed():
                self._backpressure(isinstance(message, WritePaused))
            case ConnectionLost(cause):
                self._lost = True
                if self._reading_on:
                    self.tell(message)  # first what came before it
                else:
                    raise Stop(self._loss(cause))
            case TimePassed():
                self._time_passed()
            case Drain():
                self._drain(message)
            case SendPing(reply):
                self._send_ping(reply)
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
        if (data := wire.output()) and not self._socket.is_closing():
            self._written += len(data)
            # Of bytes asyncio copies what is left after each record of TLS, 16 KiB: a third of an upload's time.
            self._socket.write(memoryview(data) if len(data) > TLS_RECORD else data)
            if not wire.writable and self._socket.get_write_buffer_size() > CHOKED:
                self._choked = True
                self._pause_reading(True)
        if not self._writing_on and wire.has_output:
            self._writing_on = True
            self.tell(WriteOn())
        if self._closing is not None and not wire.streams and not self.children and self._said_goodbye:
            raise Stop(self._closing)

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

    def _drain(self, drain: Drain) -> None:
        """Take no new streams, and end when those that are open have finished."""
        self._closing = self._closing or drain.error
        if self._going is None:
            self._going = drain.error
            self._say_goodbye(ErrorCode.NO_ERROR, drain.debug)
        self.keep(Wait.DRAIN, drain.seconds)

    # --- input --------------------------------------------------------------------------------------------------------

    def _read(self, seconds: float = SECONDS_PER_TURN) -> None:
        """Tell what the bytes say; a long burst goes on in later turns, and the socket waits meanwhile."""
        wire = self.wire
        wire.guard.now = self.heard = self._loop.time()
        late = perf_counter() + seconds
        try:
            while wire.has_input and not self._choked:
                if perf_counter() > late:
                    self._read_on(True)
                    self.tell(ReadOn())
                    self._pause_reading(True)
                    return
                for stream_id, fact in wire.read(FRAMES_PER_LOOK):
                    self._dispatch(stream_id, fact)
        except ProtocolViolation as violation:
            raise Stop(self._named(violation)) from violation.__cause__
        if wire.progress is not None or Wait.BLOCK in self.deadlines:
            self._patience.watch_pieces(self.heard)
            self._arm(self.heard)
        if self._pulse.suspect:
            self._pulse.suspect = False
            self._owner.tell(ConnectionAlive(self.name, None))
        if not self._suspended and not self._choked:
            self._pause_reading(False)

    def _read_on(self, yes: bool) -> None:
        if yes is not self._reading_on:
            self._reading_on = yes
            _Bursts.count += 1 if yes else -1

    def _share(self, more: int = 0) -> float:
        """Seconds for a burst, which ``more`` says to be one beside those that are counted."""
        many = _Bursts.count + more
        return SECONDS_PER_TURN if many <= 1 else max(SECONDS_PER_TURN / 2 / many, LEAST_SECONDS)

    def _named(self, violation: ProtocolViolation) -> ProtocolViolation:
        return ProtocolViolation.because(f"{self.peer.address}: {violation}", violation.__cause__, code=violation.code)

    def _pause_reading(self, pause: bool) -> None:
        if not self._socket.is_closing():  # both calls may be repeated
            if pause:
                self._socket.pause_reading()
            else:
                self._socket.resume_reading()

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
                # Frames for a stream that we already dropped are legal (RFC 9113, 5.1).
                if stream := self._streams.get(stream_id):
                    stream.tell(fact)
                else:
                    self._began(stream_id, fact)

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
        self._peer_went(error, goaway.last_stream_id)
        if not self._said_goodbye:
            self._say_goodbye(ErrorCode.NO_ERROR)
        self._owner.tell(ConnectionDraining(self.name, error))

    # --- settings and pings -------------------------------------------------------------------------------------------

    def _change(self, limits: Limits, done: Reply[None] | None) -> None:
        self._plan_end(limits.max_connection_age, self._loop.time())
        if self.wire.change(limits):
            self._changes.append(done)
            self.keep(Wait.ACK, limits.settings_timeout)
        elif done is not None:
            done.tell(None)

    def _settings_acked(self) -> None:
        if not self._changes:
            return
        if done := self._changes.popleft():
            done.tell(None)
        if self.round_trips.last is None and self._since is not None:
            self.round_trips.add(self._loop.time() - self._since)
        self.deadlines.stop(Wait.ACK)
        if self._changes:
            self.keep(Wait.ACK, self.limits.settings_timeout)

    def _send_ping(self, reply: Reply[float] | None) -> None:
        """All who ask while one is on its way share its answer."""
        if reply is not None:
            self._pings.append(reply)
        if self._pulse.asked is None:
            self._ask_for_life(self._loop.time())

    def _ask_for_life(self, now: float) -> None:
        """Send a PING, which the monitor hears of."""
        data, again = self._pulse.ask(now)
        self.wire.ping(data)
        self._took = self._taken()
        if again is not None:
            self.deadlines.start(Wait.HEALTH, again)
            self._arm(now)

    def _ping_acked(self, data: bytes) -> bool:
        """Whether it is the answer to our last PING."""
        seconds = self._pulse.answered(data, self._loop.time())
        if seconds is None:
            return False
        self.round_trips.add(seconds)
        self._owner.tell(ConnectionAlive(self.name, seconds))
        pings, self._pings = self._pings, []
        for reply in pings:
            reply.tell(seconds)
        return True

    # --- health and age -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Do what the peer's silence calls for, and see when to look again."""
        if self._pulse.asked is not None and (self._choked or self._is_moving()):
            self._pulse.miss(math.inf)  # either we do not read its answer, or it has not come to the question yet
        decision = self._pulse.decide(now, self.heard, streams=self.wire.streams)
        if decision.again is not None:
            self.deadlines.start(Wait.HEALTH, decision.again)
            self._arm(now)
        match decision.act:
            case Act.NOTHING:
                pass
            case Act.PING:
                self._ask_for_life(now)
            case Act.SUSPECT:
                self._owner.tell(ConnectionSuspect(self.name))
            case Act.END:
                raise Stop(self._death(now))
            case _:
                assert_never(decision.act)

    def _is_moving(self) -> bool:
        """Whether the peer takes what waits in the socket, though slowly: a PING stands behind it."""
        before, self._took = self._took, self._taken()
        return before < self._took < self._written

    def _death(self, now: float) -> PingTimeout:
        asked = self._pulse.asked
        after = f", {now - asked:.3g} s of them after a PING" if asked is not None else ""
        return PingTimeout(
            f"{self.peer.address} is dead: it said nothing for {now - self.heard:.3g} s{after} (Health.timeout)"
        )

    def _plan_end(self, age: float | None, now: float) -> None:
        self.deadlines.stop(Wait.AGE)
        if age is not None and self._since is not None:
            ends = self._since + age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
            self.keep(Wait.AGE, max(ends - now, 0.0))

    # --- times --------------------------------------------------------------------------------------------------------

    def keep(self, wait: Wait, seconds: float) -> None:
        """Have :meth:`_overdue` called for ``wait`` in ``seconds``, unless it is stopped before."""
        if seconds == math.inf:
            return
        now = self._loop.time()
        self.deadlines.start(wait, now + seconds)
        self._arm(now)

    def _arm(self, now: float) -> None:
        """One timer for the earliest time; those that were stopped let it ring for nothing."""
        at = self.deadlines.next
        if at is None or (self._timer is not None and self._rings <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings = at
        self._timer = self.after(max(at - now, 0.0), TimePassed())

    def _time_passed(self) -> None:
        now = self._loop.time()
        self._timer = None
        self._pulse.miss(max(now - self._rings, 0.0))
        self.wire.guard.now = now
        try:
            for wait in self.deadlines.due(now):
                self._overdue(wait, now)
        except ProtocolViolation as violation:
            raise Stop(self._named(violation)) from None
        except TransportLost as lost:
            raise Stop(TransportLost(f"{self.peer.address}: {lost}")) from None
        self._arm(now)

    def _overdue(self, wait: Wait, now: float) -> None:
        if wait is Wait.HEALTH:
            self._look(now)
        elif wait is Wait.AGE:
            old = f"{now - (self._since or 0.0):.3g} s old"
            self._retire(Closed(f"{self.name} takes no new streams: it is {old} (Limits.max_connection_age)"))
        elif wait is Wait.DRAIN:
            raise Stop(self._closing)
        else:
            self._patience.overdue(wait, self._taken(), now)

    def _backpressure(self, paused: bool) -> None:
        """While the socket takes nothing, what waits in it counts as ours; if it never does again, it is dead."""
        self.wire.writable = not paused
        memory = self.wire.terms.memory
        memory.give(self._held_back)
        self._held_back = BYTES_PER_PUMP if paused else 0
        memory.take(self._held_back)
        self.deadlines.stop(Wait.WRITE)
        if self._choked and not paused:
            self._choked = False
            if not self._reading_on:
                self._read()
        if paused:
            now = self._loop.time()
            self._patience.watch_socket(self._taken(), now)
            self._arm(now)

    def _taken(self) -> int:
        """Bytes that the other side has taken since the beginning, as far as can be known here."""
        return self._written - self._socket.get_write_buffer_size() - _in_kernel(self._socket)

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

    def _say_goodbye(self, code: int, debug: bytes = b"") -> None:
        if not self._said_goodbye:
            self._last_served = self.wire.last_stream_id
        self._said_goodbye = True
        self.wire.go_away(self._last_served, code, debug)  # which may not rise (RFC 9113, 6.8)

    def ending(self, reason: BaseException | None) -> None:
        """Leave nobody waiting: fail every stream, say GOAWAY, and close the socket behind what is still to go out."""
        error = reason if isinstance(reason, LinkError) else Closed.because(f"{self.name} has ended", reason)
        self._going = self._closing = error
        for stream in self._streams.values():
            stream.tell(StreamFailed(error))
        for reply in (*self._pings, *self._changes):
            if reply is not None:
                reply.fail(error)
        self.wire.terms.memory.close()
        self._read_on(False)
        if self._lost:
            return
        if isinstance(reason, PingTimeout):
            self._socket.abort()  # nobody is there to take leave of
            return
        if isinstance(reason, ProtocolViolation):
            # What a gRPC client looks for says no more (gRPC's proposal A8).
            few = TOO_MANY_PINGS if self.wire.guard.tripped == TOO_MANY_PINGS else None
            self._say_goodbye(reason.code, (few or str(reason)).encode("utf-8", "replace"))
        elif reason is not None and not isinstance(reason, LinkError):
            self._say_goodbye(ErrorCode.INTERNAL_ERROR)
        elif not self._said_goodbye:
            self._say_goodbye(ErrorCode.NO_ERROR)
        if not self._socket.is_closing():  # asyncio would complain of writing to what has failed
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
        error = self._going or self.mailbox.closed or Closed(f"{self.name} has ended")
        match message:
            case OpenStream(stream):
                stream.tell(StreamFailed(error, Outcome.NOT_SENT))
            case SendPing(reply) if reply is not None:
                reply.fail(error)
            case PushStream(_, _, reply):
                reply.fail(error)
            case ChangeLimits(_, done) if done is not None:
                done.fail(error)

    def suspended(self, yes: bool) -> None:
        self._pause_reading(yes)
        now = self._loop.time()
        if yes:
            self._blind = now
        elif self._blind is not None:  # what the peer did meanwhile could not be seen
            self.deadlines.postpone(now - self._blind)
            self._pulse.miss(now - self._blind)
            self._blind = None
            self._stirred = now
            self._rings = max(self._rings, now)  # one that rang meanwhile was not late
            self._arm(now)

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
            bytes_sent=self._written,
            bytes_held=wire.terms.memory.held,
            send_window=wire.send_window,
            receive_window=wire.receive_window,
            round_trips=Quantiles.of(self.round_trips.seconds),
        )

    def _phase(self) -> str:
        if self._going is not None or self._closing is not None:
            return "draining"
        if self._pulse.suspect:
            return "suspect"
        return "ready" if self._ready else "starting"

    def _admission(self) -> tuple[int, int]:
        """Requests that wait for a stream, and how many streams there may be."""
        return 0, self.limits.max_streams

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {
            "peer": self.peer.address,
            "open_streams": self.wire.open_streams,
            "queued": self.wire.terms.memory.held,
            "writable": self.wire.writable,
            "ready": self._ready,
            "going": str(self._going) if self._going is not None else None,
        }


def _in_kernel(socket: Socket) -> int:
    """Bytes that the kernel holds for the other side; asyncio hears of it only when a third of its buffer is free."""
    inner = socket.get_extra_info("socket")
    if inner is None:
        return 0
    try:
        held: int = struct.unpack("i", fcntl.ioctl(inner.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    except (OSError, ValueError):  # the system does not say, or it was closed
        return 0
    return held
