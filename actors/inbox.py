"""What comes in: frames through the gate and the guard into h2, and out of it as facts (no I/O).

Theory of operation
    Frames reach h2 one at a time, so that the good ones before a bad one are delivered. What h2 would get wrong is
    kept from it or mended on the way: GOAWAY, which would close its state machine while streams may still finish;
    PRIORITY, which RFC 9113 deprecates and which can kill the connection; settings that nobody knows, which it would
    keep for ever; and its answers to late frames of streams that we reset, which peers count as abuse.

    A fault of one stream costs that stream alone: :meth:`_fault` resets it, and the guard counts how many there were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from h2.events import (
    AlternativeServiceAvailable,
    DataReceived,
    InformationalResponseReceived,
    PushedStreamReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError as H2ProtocolError
from hpack import HPACKError, OversizedHeaderListError

from actors.arrived import (
    arrived_weight,
    check_arrived_promise,
    check_arrived_request,
    check_arrived_response,
    check_arrived_trailers,
)
from actors.errors import ErrorCode, InvalidHeaders, LimitReached, LinkError, ProtocolViolation, code_name
from actors.frames import (
    ACK,
    END_STREAM,
    FRAME_NAMES,
    HEADER_SIZE,
    PADDED,
    Frame,
    FrameType,
    Gate,
    check_priority,
    encode_frame,
    known_settings,
    parse_goaway,
    parse_ping,
    promised_id,
    split_frames,
    without_priority,
)
from actors.guard import Guard
from actors.headers import Pair, list_size
from actors.ledger import Ledger
from actors.messages import (
    AlternativeService,
    DataArrived,
    HeadersArrived,
    InformationalArrived,
    PeerReset,
    PeerSettings,
    PingAcked,
    PromiseArrived,
    SettingsAcked,
    StreamFailed,
    TrailersArrived,
    WireFact,
)
from actors.outbox import Outbox
from actors.protocol import Protocol
from actors.records import Record, Records
from actors.settings import Limits
from actors.terms import Terms

StreamFact = HeadersArrived | InformationalArrived | DataArrived | TrailersArrived | PeerReset | StreamFailed
Fact = StreamFact | WireFact
Said = tuple[int, Fact]
"""A stream's id (0: the connection) and what was said of it."""

MAX_STREAM_ID: Final = 2**31 - 1
CONNECTION: Final = 0
TOO_LARGE: Final[list[Pair]] = [(b":status", b"431"), (b"content-length", b"0")]
"""RFC 6585, 5."""
STREAM_COST: Final = 8 * 1024
"""Bytes that a stream takes of the process besides what is said on it, as measured by the benchmark ``streams``."""
LONGEST_PADDING: Final = 256
"""Bytes of padding and of the byte that says its length (RFC 9113, 6.1)."""
_MISSED_BY_H2: Final = frozenset(
    (FrameType.SETTINGS, FrameType.RST_STREAM, FrameType.HEADERS, FrameType.PUSH_PROMISE, FrameType.WINDOW_UPDATE)
)
_NOT_FOR_H2: Final = frozenset((FrameType.GOAWAY, FrameType.PRIORITY, FrameType.PING))
LAST_TYPE: Final = FrameType.ALTSVC
"""Frame types above it are nothing that we know, and cost no more than being passed over (RFC 9113, 5.5)."""


class Inbox:
    """The inbound half of one connection."""

    def __init__(
        self, h2: Protocol, records: Records, outbox: Outbox, ledger: Ledger, terms: Terms, *, client: bool,
        limits: Limits, out: list[bytes], acked: Callable[[], None],
    ) -> None:  # fmt: skip
        """``out`` gets what h2 has to say, where that is looked through before it goes out.

        ``acked`` is called when the peer has acknowledged our SETTINGS.
        """
        self.limits = limits
        """What the peer has acknowledged; what it may still do is in ``max_frame_size`` of the gate."""
        self.broken: ProtocolViolation | None = None
        """What ended the input; h2 is closed then."""
        self.last_stream_id = 0
        """The highest stream that the peer opened."""
        self.last_own_id = 0
        """The highest stream that we opened."""
        self.gate = Gate(expect_preface=not client, max_frame_size=limits.max_frame_size)
        self.guard = Guard(limits, server=not client)
        self.acknowledged = False
        """Whether the peer knows our limits."""
        self.frames = 0
        """Frames that came."""
        self.heads: list[bytes] | None = None
        """The nine bytes before the payload of each frame that is read, while somebody wants them."""
        self._client = client
        self._h2 = h2
        self._records = records
        self._outbox = outbox
        self._ledger = ledger
        self._terms = terms
        self._out = out
        self._acked = acked
        self._translate: dict[type, Callable[[Any], Said | None]] = {
            RequestReceived: self._request_received,
            ResponseReceived: self._response_received,
            InformationalResponseReceived: self._informational_received,
            DataReceived: self._data_received,
            TrailersReceived: self._trailers_received,
            StreamReset: self._stream_reset,
            WindowUpdated: self._window_updated,
            RemoteSettingsChanged: self._remote_settings_changed,
            SettingsAcknowledged: self._settings_acknowledged,
            PushedStreamReceived: self._promise_received,
            AlternativeServiceAvailable: self._alternative_received,
        }

    @property
    def has_input(self) -> bool:
        """Whether :meth:`read` has more to tell without more bytes."""
        return self.broken is not None or self.gate.has_frame

    def read(self, most: int) -> list[Said]:
        """What at most ``most`` frames say.

        Raises the ProtocolViolation of a bad frame only at the call after the one that gave the good ones before it.
        """
        if self.broken is not None:
            raise self.broken
        said: list[Said] = []
        guard, outbox = self.guard, self._outbox
        guard.blocked = not outbox.writable
        if outbox.sent:
            guard.sent(outbox.sent, outbox.frames)
            outbox.sent = outbox.frames = 0
            outbox.spoke = True
        try:
            if preface := self.gate.preface():
                self._h2.receive_data(preface)
            gate = self.gate
            for _ in range(most):
                in_block = gate.in_header_block
                frame = gate.next_frame()
                if frame is None:
                    break
                self.frames += 1
                if self.heads is not None:
                    self.heads.append(bytes(frame.raw[:HEADER_SIZE]))
                self._feed(frame, in_block, said)
        except ProtocolViolation as violation:
            self.broken = violation
            if not said:
                raise
        return said

    def _feed(self, frame: Frame, in_block: bool, said: list[Said]) -> None:
        """Say what a frame means; ``in_block`` says that it stands in a header block, where h2 takes only the rest."""
        kind, flags, stream_id, raw = frame
        size = len(raw) - HEADER_SIZE
        if kind != FrameType.DATA:
            self.guard.check(kind, flags, size)
        elif size <= LONGEST_PADDING or self.guard.empty:
            self.guard.check(kind, flags, size - raw[HEADER_SIZE] - 1 if size and flags & PADDED else size)
        if not in_block and (kind in _NOT_FOR_H2 or kind > LAST_TYPE):
            self._take(frame, said)
            return
        record = self._records.get(stream_id)
        late = (record is None or record.over) and self._was_opened(stream_id)
        if kind in _MISSED_BY_H2 and not in_block:
            self._check_missed(kind, flags, stream_id, size)
            if kind == FrameType.HEADERS:
                raw = without_priority(frame)  # deprecated, and one that depends on itself ends h2's connection
            elif kind == FrameType.SETTINGS and not flags & ACK:
                raw = self._check_settings(frame)
            elif kind == FrameType.WINDOW_UPDATE and not any(raw[HEADER_SIZE:]) and size == 4 and stream_id:
                if record is not None and not record.over:
                    said.append(self._fault(record, "WINDOW_UPDATE of 0 bytes (RFC 9113, 6.9)"))
                return  # h2 would end the connection
            elif kind == FrameType.PUSH_PROMISE and self._client:
                # Even where h2 refuses it, because we gave its parent up: frames of it may be on their way.
                self.last_stream_id = max(self.last_stream_id, promised_id(frame))
        if not late and record is not None and not in_block and (fault := self._misplaced(record, kind, flags)):
            # Of one stream, but of the whole connection in h2's eyes, unless it is told first that the stream is over.
            said.append(self._fault(record, fault))
            late = True
        if late:
            self.guard.count_control()
            self.keep()
            if stream_id in self._h2.streams:
                self._h2.sweep()
        try:
            events = self._h2.receive_frame(raw)
        except Exception as error:  # whatever a peer's bytes make h2 raise is the peer's violation
            raise self._violation(frame, error) from error
        if late:
            # h2 answers each late frame of a stream that was reset with another RST_STREAM; peers count those.
            self.keep(lambda f: f.type != FrameType.RST_STREAM or f.stream_id != stream_id)
            return
        for event in events:
            translate = self._translate.get(type(event))
            if translate is not None and (fact := translate(event)) is not None:
                said.append(fact)

    def _take(self, frame: Frame, said: list[Said]) -> None:
        """What h2 never sees: GOAWAY and PRIORITY for its mistakes, PING and the unknown for their price in a flood."""
        kind = frame.type
        if kind == FrameType.GOAWAY:
            said.append((CONNECTION, parse_goaway(frame)))
        elif kind == FrameType.PRIORITY:
            check_priority(frame)
        elif kind == FrameType.PING:
            data = parse_ping(frame)
            if frame.flags & ACK:
                said.append((CONNECTION, PingAcked(data)))
            else:
                spoke, self._outbox.spoke = self._outbox.spoke, False
                self.guard.pinged(spoke)
                self.keep()
                self._out.append(encode_frame(FrameType.PING, ACK, CONNECTION, data))

    def _was_opened(self, stream_id: int) -> bool:
        ours = (stream_id % 2 == 1) is self._client
        return 0 < stream_id <= (self.last_own_id if ours else self.last_stream_id)

    def _check_missed(self, kind: int, flags: int, stream_id: int, size: int) -> None:
        """What h2 lets pass, or calls by the wrong code; raises ProtocolViolation."""
        if kind == FrameType.SETTINGS:
            if flags & ACK and size:
                message = "the peer acknowledged SETTINGS with a payload (RFC 9113, 6.5)"
                raise ProtocolViolation(message, code=ErrorCode.FRAME_SIZE_ERROR)
        elif kind == FrameType.WINDOW_UPDATE and stream_id == CONNECTION:
            return
        elif (self._client or kind != FrameType.HEADERS or stream_id % 2 == 0) and not self._was_opened(stream_id):
            # A server opens streams by PUSH_PROMISE only (RFC 9113, 8.4), and nobody resets an idle one (5.1).
            raise ProtocolViolation(f"the peer sent {FRAME_NAMES[kind]} on stream {stream_id}, which was never opened")

    def _check_settings(self, frame: Frame) -> bytes | bytearray:
        """The frame without settings that nobody knows, and with our bound on what our encoder keeps."""
        raw, values = known_settings(frame, max_table=self.limits.encoder_table)
        if self._client and values.get(2):
            raise ProtocolViolation("the server switches push on, which only a client may (RFC 9113, 6.5.2)")
        if self._terms.extended_connect and values.get(8) == 0:
            raise ProtocolViolation("the peer takes ENABLE_CONNECT_PROTOCOL back (RFC 8441, 3)")
        return raw

    def _violation(self, frame: Frame, error: Exception) -> ProtocolViolation:
        # h2 has put a GOAWAY of its own behind the output; ours will say more.
        self.keep(lambda f: f.type != FrameType.GOAWAY)
        code = int(error.error_code) if isinstance(error, H2ProtocolError) else int(ErrorCode.PROTOCOL_ERROR)
        if isinstance(error.__cause__, OversizedHeaderListError):
            message = f"the peer sent more headers than can be decoded safely (Limits.max_header_list, {_WIDELY})"
            return ProtocolViolation(message, code=ErrorCode.ENHANCE_YOUR_CALM)
        if isinstance(error.__cause__, HPACKError):
            code = ErrorCode.COMPRESSION_ERROR  # h2 has PROTOCOL_ERROR for it (RFC 9113, 4.3)
        kind = FRAME_NAMES.get(frame.type, f"frame type {frame.type:#x}")
        where = f"{kind} on stream {frame.stream_id}" if frame.stream_id else f"{kind} on the connection"
        what = str(error) or type(error).__name__
        return ProtocolViolation(f"the peer broke HTTP/2 with {where}: {what} ({code_name(code)})", code=code)

    def keep(self, wanted: Callable[[Frame], bool] | None = None) -> None:
        """Put out what h2 has to say so far, or what is wanted of it."""
        if data := self._h2.data_to_send():
            self._out += (data,) if wanted is None else (bytes(f.raw) for f in split_frames(data) if wanted(f))

    def _misplaced(self, record: Record, kind: int, flags: int) -> str:
        """What is wrong with the order of a stream's frames (RFC 9113, 8.1); empty where nothing is."""
        if kind == FrameType.HEADERS:
            if (record.headed or not self._client) and not flags & END_STREAM and not record.remote_ended:
                return "a second head, or trailers that end nothing"
        elif kind == FrameType.DATA and self._client and not record.headed and not record.remote_ended:
            return "a body before its head"
        return ""

    # --- streams ------------------------------------------------------------------------------------------------------

    def _request_received(self, event: RequestReceived) -> Said | None:
        stream_id, headers = event.stream_id, event.headers
        self.last_stream_id = stream_id
        self.guard.opened()
        ended = event.stream_ended is not None
        weight = arrived_weight(headers)
        record = self._records.add(Record(stream_id, weight, remote_ended=ended, opened=self.guard.now))
        if self._records.open > self.limits.max_streams:
            # Here and not where streams are started: later frames of the same read may have freed a place since.
            if self.acknowledged:
                self.guard.surplus()
            self.refuse(record, ErrorCode.REFUSED_STREAM)
            return None
        size = record.head = list_size(headers)
        record.head += STREAM_COST
        self._terms.memory.keep(record.head)
        if len(headers) > self.limits.max_headers or size > self.limits.max_header_list:
            self._h2.send_headers(stream_id, TOO_LARGE, end_stream=True)
            self._outbox.spoke = True
            self._records.end_local(record)
            self.refuse(record, ErrorCode.NO_ERROR)
            return None
        return self._judged(record, headers, check_arrived_request, HeadersArrived(headers, ended))

    def refuse(self, record: Record, code: int) -> None:
        """Have nothing to do with a stream that the peer opened."""
        self._outbox.reset(record, code)
        self._ledger.settle(record)
        self.forget(record)

    def forget(self, record: Record) -> None:
        """Nothing will be said of the stream any more, and nobody holds its head."""
        if record.head:
            self._terms.memory.let_go(record.head)
        self._records.forget(record)

    def _response_received(self, event: ResponseReceived) -> Said:
        record, headers = self._records[event.stream_id], event.headers
        record.headed, record.came = True, self.guard.now
        ended = event.stream_ended is not None
        if ended:
            self._records.end_remote(record)
        return self._checked(record, headers, check_arrived_response, HeadersArrived(headers, ended))

    def _informational_received(self, event: InformationalResponseReceived) -> Said:
        record, headers = self._records[event.stream_id], event.headers
        return self._checked(record, headers, check_arrived_response, InformationalArrived(headers))

    def _trailers_received(self, event: TrailersReceived) -> Said:
        record, headers = self._records[event.stream_id], event.headers
        self._records.end_remote(record)
        return self._checked(record, headers, check_arrived_trailers, TrailersArrived(headers))

    def _promise_received(self, event: PushedStreamReceived) -> Said | None:
        """A promise is of a request that the server will answer by itself (RFC 9113, 8.4)."""
        stream_id, parent_id = cast("int", event.pushed_stream_id), cast("int", event.parent_stream_id)
        headers = cast("list[Pair]", event.headers)
        record = self._records.add(Record(stream_id, local_ended=True, ending=True))
        parent = self._records.get(parent_id)
        if parent is None or self._too_large(headers) or self._records.promised > self.limits.max_streams:
            self.refuse(record, ErrorCode.REFUSED_STREAM)
            return None
        try:
            check_arrived_promise(headers, parent.authority)
        except InvalidHeaders:
            self.guard.reset_by_us()
            self.refuse(record, ErrorCode.PROTOCOL_ERROR)
            return None
        record.bodyless = (b":method", b"HEAD") in headers
        return parent_id, PromiseArrived(stream_id, headers)

    def _data_received(self, event: DataReceived) -> Said:
        stream_id, data = event.stream_id, event.data
        record = self._records[stream_id]
        ended = event.stream_ended is not None
        if ended:
            self._records.end_remote(record)
        record.came = self.guard.now
        if not record.owed:
            record.kept = record.came
        record.owed += event.flow_controlled_length
        if padding := event.flow_controlled_length - len(data):
            self._ledger.pay(record, padding)  # nobody will ever read it
        record.received += len(data)
        if record.promised is not None and (record.received > record.promised or ended):
            return self._measured(record, DataArrived(data, ended))
        return stream_id, DataArrived(data, ended)

    def _too_large(self, headers: list[Pair]) -> bool:
        limits = self.limits
        return len(headers) > limits.max_headers or list_size(headers) > limits.max_header_list

    def _checked(
        self, record: Record, headers: list[Pair], check: Callable[[list[Pair]], int | None], fact: StreamFact
    ) -> Said:
        """The fact, or the failure of its stream alone where its headers are too many or malformed."""
        if self._too_large(headers):
            return self._fault(record, LimitReached(f"{len(headers)} headers, {list_size(headers)} bytes: {_WIDEN}"))
        return self._judged(record, headers, check, fact)

    def _judged(
        self, record: Record, headers: list[Pair], check: Callable[[list[Pair]], int | None], fact: StreamFact
    ) -> Said:
        try:
            promised = check(headers)
        except InvalidHeaders as error:
            return self._fault(record, f"malformed headers: {error}")
        if isinstance(fact, HeadersArrived):
            record.promised = 0 if record.bodyless else None if record.tunnel else promised
            if not record.remote_ended or record.bodyless or not promised:
                return record.id, fact
        return self._measured(record, fact) if record.promised is not None else (record.id, fact)

    def _measured(self, record: Record, fact: StreamFact) -> Said:
        """The fact, or the failure of its stream alone where the body is not as long as promised (RFC 9113, 8.1.1)."""
        if record.received == record.promised or (record.received < (record.promised or 0) and not record.remote_ended):
            return record.id, fact
        return self._fault(record, f"content-length says {record.promised} and the body has {record.received} bytes")

    def _fault(self, record: Record, fault: str | LimitReached) -> Said:
        """A fault of the peer's that costs it one stream, even one that has ended already."""
        self.guard.reset_by_us()
        if record.closed:
            record.over = True
        error: LinkError
        if isinstance(fault, str):
            code = ErrorCode.PROTOCOL_ERROR
            error = ProtocolViolation(f"the peer broke HTTP/2 on stream {record.id}: {fault}")
        else:
            code, error = ErrorCode.ENHANCE_YOUR_CALM, fault
        self._outbox.reset(record, code)
        return record.id, StreamFailed(error)

    def _stream_reset(self, event: StreamReset) -> Said:
        record = self._records[event.stream_id]
        self._outbox.abandon(record)
        if event.remote_reset:
            self.guard.reset_by_peer(record)
            return event.stream_id, PeerReset(int(event.error_code))
        self.guard.reset_by_us()
        message = f"the peer broke HTTP/2 on stream {event.stream_id} ({code_name(int(event.error_code))})"
        return event.stream_id, StreamFailed(ProtocolViolation(message, code=int(event.error_code)))

    # --- the connection -----------------------------------------------------------------------------------------------

    def _window_updated(self, event: WindowUpdated) -> None:
        self._outbox.unblock(event.stream_id)

    def _remote_settings_changed(self, event: RemoteSettingsChanged) -> Said:
        self._outbox.unblock_all()  # the new initial window may have opened any of them
        theirs = self._h2.remote_settings
        self._terms.push = bool(theirs.enable_push) and not self._client
        self._terms.extended_connect = bool(theirs.enable_connect_protocol)
        self._terms.max_header_list = theirs.max_header_list_size
        self._terms.initial_window = theirs.initial_window_size
        # h2 says 2**32 + 1 where the peer never set a limit.
        return CONNECTION, PeerSettings(min(theirs.max_concurrent_streams, MAX_STREAM_ID))

    def _settings_acknowledged(self, event: SettingsAcknowledged) -> Said:
        self.acknowledged = True
        self._acked()
        return CONNECTION, SettingsAcked()

    def _alternative_received(self, event: AlternativeServiceAvailable) -> Said | None:
        if event.origin is None or event.field_value is None:
            return None
        return CONNECTION, AlternativeService(event.origin, event.field_value)


_WIDEN: Final = "more than Limits.max_headers or Limits.max_header_list takes"
_WIDELY: Final = "several times over"
