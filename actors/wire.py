"""One connection's HTTP/2: bytes in, facts out; commands in, bytes out (no I/O).

Theory of operation
    Input goes through the :class:`~actors.frames.Gate` and reaches h2 one frame at a time, so that the good frames
    before a bad one are delivered. Two frame types never reach h2: GOAWAY, which would close its state machine while
    streams may still finish, and PRIORITY, which RFC 9113 deprecates and which can kill the connection.

    Output is queued here per stream and pumped into h2 in rounds, each stream ``weight`` KiB a round, until the
    windows or the socket say stop. Trailers and END_STREAM wait behind the data; a reset drops the queue.

    The credit ledger: what came on a stream (padding included) is owed to the peer until somebody read it.
    ``return_credit`` pays as it is read; ``release`` pays the rest, so that no cancelled stream shrinks the
    connection's window.

    A stream's record lives from its first HEADERS until its actor has ended *and* its queue is out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from h2.config import H2Configuration
from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import NoSuchStreamError
from h2.exceptions import ProtocolError as H2ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import HPACKError

from actors.errors import ErrorCode, InvalidHeaders, ProtocolViolation, code_name
from actors.frames import (
    ACK,
    FRAME_NAMES,
    HEADER_SIZE,
    PREFACE,
    Frame,
    FrameType,
    Gate,
    encode_frame,
    split_frames,
    without_priority,
)
from actors.headers import Pair, check_arrived_request, check_arrived_response, check_arrived_trailers
from actors.messages import (
    DataArrived,
    HeadersArrived,
    InformationalArrived,
    PeerGoAway,
    PeerReset,
    PeerSettings,
    PingAcked,
    StreamFailed,
    TrailersArrived,
    WireFact,
)
from actors.outbox import BYTES_PER_PUMP, Outbox
from actors.protocol import Protocol
from actors.records import Record, Records, Window
from actors.settings import Limits

StreamFact = HeadersArrived | InformationalArrived | DataArrived | TrailersArrived | PeerReset | StreamFailed
Fact = StreamFact | WireFact

MAX_STREAM_ID: Final = 2**31 - 1
ASSUMED_MAX_STREAMS: Final = 100
"""What we take the peer's limit of streams to be until its SETTINGS come (RFC 9113, 6.5.2)."""
_H2_UNLIMITED: Final = 2**31 - 1
_CONNECTION: Final = 0
_NO_ERROR: Final = int(ErrorCode.NO_ERROR)
_MISSED_BY_H2: Final = frozenset((FrameType.SETTINGS, FrameType.RST_STREAM, FrameType.HEADERS))
_NOT_FOR_H2: Final = frozenset((FrameType.GOAWAY, FrameType.PRIORITY))


class Wire:
    """The state of one HTTP/2 connection. Only its ConnectionActor's turn may touch it."""

    def __init__(self, *, client: bool, limits: Limits) -> None:
        self.client = client
        self.limits = limits
        self.last_stream_id = 0
        """The highest stream that either side opened."""
        self._gate = Gate(expect_preface=not client, max_frame_size=limits.max_frame_size)
        self._records = Records()
        self._window = Window()
        self._out: list[bytes] = []
        self.broken: ProtocolViolation | None = None
        """What ended the input; h2 is closed then, and every command does nothing."""
        self._translate: dict[type, Callable[[Any], tuple[int, Fact] | None]] = {
            RequestReceived: self._request_received,
            ResponseReceived: self._response_received,
            InformationalResponseReceived: self._informational_received,
            DataReceived: self._data_received,
            TrailersReceived: self._trailers_received,
            StreamReset: self._stream_reset,
            WindowUpdated: self._window_updated,
            RemoteSettingsChanged: self._remote_settings_changed,
            SettingsAcknowledged: lambda event: None,
            PingAckReceived: lambda event: (_CONNECTION, PingAcked(event.ping_data)),
        }
        # Headers are checked in headers.py: outbound before they come here, because h2 would check them inside its
        # HPACK encoder, where a refusal spoils the compression state of the connection; inbound below, because h2 would
        # end the connection for what is a fault of one stream. Once instead of twice is also 15 % faster.
        self._h2 = Protocol(
            H2Configuration(
                client_side=client,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self._outbox = Outbox(
            self._h2, self._records, send_buffer=limits.send_buffer,
            flushed=lambda record: self._forget(record, ErrorCode.NO_ERROR),
        )  # fmt: skip

    # --- the beginning ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Put out the preface and SETTINGS (RFC 9113, 3.4), and open the connection's window."""
        limits = self.limits
        promised = {
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window,
            SettingCodes.MAX_FRAME_SIZE: limits.max_frame_size,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        if not self.client:
            promised[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.max_streams
        # h2 makes one stream too many an error of the connection, so it gets no limit and we refuse the surplus
        # ourselves: hence SETTINGS of our own. It also takes the first settings without setting what follows from them.
        self._h2.local_settings = Settings(
            client=self.client, initial_values={**promised, SettingCodes.MAX_CONCURRENT_STREAMS: _H2_UNLIMITED}
        )
        # The window is the one setting that the peer may overstep until it has acknowledged ours (RFC 9113, 6.9.2).
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = 65_535
        self._h2.local_settings.acknowledge()
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = limits.stream_window
        self._h2.max_inbound_frame_size = limits.max_frame_size
        self._h2.decoder.max_header_list_size = limits.max_header_list
        self._h2.initiate_connection()
        self._h2.clear_outbound_data_buffer()
        if not self.client:
            del promised[SettingCodes.ENABLE_PUSH]  # a server must not send it as anything but 0, and need not at all
        payload = b"".join(code.to_bytes(2) + value.to_bytes(4) for code, value in promised.items())
        self._out.append((PREFACE if self.client else b"") + encode_frame(FrameType.SETTINGS, 0, 0, payload))
        if (more := limits.connection_window - 65_535) > 0:
            self._h2.increment_flow_control_window(more)

    # --- input --------------------------------------------------------------------------------------------------------

    def take_in(self, data: bytes) -> None:
        """Add bytes that came from the peer; :meth:`read` then tells what they say."""
        self._gate.take_in(data)

    @property
    def has_input(self) -> bool:
        """Whether :meth:`read` has more to tell without more bytes."""
        return self.broken is not None or self._gate.has_frame

    def read(self, most: int) -> list[tuple[int, Fact]]:
        """What at most ``most`` frames say: pairs of a stream's id (0: the connection) and a fact.

        Raises the ProtocolViolation of a bad frame only at the call after the one that gave the good ones before it.
        """
        if self.broken is not None:
            raise self.broken
        facts: list[tuple[int, Fact]] = []
        try:
            if preface := self._gate.preface():
                self._h2.receive_data(preface)
            for _ in range(most):
                frame = self._gate.next_frame()
                if frame is None:
                    break
                self._feed(frame, facts)
        except ProtocolViolation as violation:
            self.broken = violation
            if not facts:
                raise
        return facts

    def _feed(self, frame: Frame, facts: list[tuple[int, Fact]]) -> None:
        kind, flags, stream_id, raw = frame
        if kind in _NOT_FOR_H2 and not self._gate.in_header_block:  # inside one, h2 refuses them as it should
            if kind == FrameType.GOAWAY:
                facts.append((_CONNECTION, _parse_goaway(frame)))
            return
        record = self._records.get(stream_id)
        late = (record is None or record.over) and 0 < stream_id <= self.last_stream_id
        if kind in _MISSED_BY_H2 and not self._gate.in_header_block:
            self._check_missed(kind, flags, stream_id, len(raw))
            if kind == FrameType.HEADERS:
                raw = without_priority(frame)  # deprecated, and one that depends on itself ends h2's connection
        if late:
            self._flush()
            if stream_id in self._h2.streams:
                self._h2.sweep()
        try:
            events = self._h2.receive_frame(raw)
        except Exception as error:  # whatever a peer's bytes make h2 raise is the peer's violation
            raise self._violation(frame, error) from error
        if late:
            # h2 answers each late frame of a stream that was reset with another RST_STREAM; peers count those.
            kept = (f.raw for f in split_frames(self._h2.data_to_send()) if f.type != FrameType.RST_STREAM)
            self._out.extend(map(bytes, kept))
            return
        for event in events:
            translate = self._translate.get(type(event))
            if translate is not None and (fact := translate(event)) is not None:
                facts.append(fact)

    def _check_missed(self, kind: int, flags: int, stream_id: int, size: int) -> None:
        """What h2 lets pass, or calls by the wrong code; raises ProtocolViolation."""
        if kind == FrameType.SETTINGS:
            if flags & ACK and size > HEADER_SIZE:
                message = "the peer acknowledged SETTINGS with a payload (RFC 9113, 6.5)"
                raise ProtocolViolation(message, code=ErrorCode.FRAME_SIZE_ERROR)
        elif (stream_id > self.last_stream_id or stream_id % 2 == 0) and (self.client or kind == FrameType.RST_STREAM):
            # A server opens streams by PUSH_PROMISE only (RFC 9113, 8.4), which we switch off, and nobody resets an
            # idle one (5.1).
            raise ProtocolViolation(f"the peer sent {FRAME_NAMES[kind]} on stream {stream_id}, which was never opened")

    def _violation(self, frame: Frame, error: Exception) -> ProtocolViolation:
        # h2 has put a GOAWAY of its own behind the output; ours will say more.
        kept = (f.raw for f in split_frames(self._h2.data_to_send()) if f.type != FrameType.GOAWAY)
        self._out.extend(map(bytes, kept))
        code = int(error.error_code) if isinstance(error, H2ProtocolError) else int(ErrorCode.PROTOCOL_ERROR)
        if isinstance(error.__cause__, HPACKError):
            code = ErrorCode.COMPRESSION_ERROR  # h2 has PROTOCOL_ERROR for it (RFC 9113, 4.3)
        kind = FRAME_NAMES.get(frame.type, f"frame type {frame.type:#x}")
        where = f"{kind} on stream {frame.stream_id}" if frame.stream_id else f"{kind} on the connection"
        what = str(error) or type(error).__name__
        return ProtocolViolation(f"the peer broke HTTP/2 with {where}: {what} ({code_name(code)})", code=code)

    def _request_received(self, event: RequestReceived) -> tuple[int, Fact] | None:
        stream_id = event.stream_id
        self.last_stream_id = stream_id
        ended = event.stream_ended is not None
        record = self._records.add(Record(stream_id, remote_ended=ended))
        if self._records.open > self.limits.max_streams:
            # Here and not where streams are started: later frames of the same read may have freed a place since.
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            self.release(stream_id)
            return None
        return self._checked(record, event.headers, check_arrived_request, HeadersArrived(event.headers, ended))

    def _response_received(self, event: ResponseReceived) -> tuple[int, Fact]:
        record, headers = self._records[event.stream_id], event.headers
        ended = event.stream_ended is not None
        if ended:
            self._records.end_remote(record)
        return self._checked(record, headers, check_arrived_response, HeadersArrived(headers, ended))

    def _informational_received(self, event: InformationalResponseReceived) -> tuple[int, Fact]:
        record, headers = self._records[event.stream_id], event.headers
        return self._checked(record, headers, check_arrived_response, InformationalArrived(headers))

    def _data_received(self, event: DataReceived) -> tuple[int, Fact]:
        stream_id, data = event.stream_id, event.data
        record = self._records[stream_id]
        ended = event.stream_ended is not None
        if ended:
            self._records.end_remote(record)
        record.owed += event.flow_controlled_length
        if padding := event.flow_controlled_length - len(data):
            self.return_credit(stream_id, padding)  # nobody will ever read it
        record.received += len(data)
        if record.promised is not None and (record.received > record.promised or ended):
            return self._measured(record, DataArrived(data, ended))
        return stream_id, DataArrived(data, ended)

    def _measured(self, record: Record, fact: StreamFact) -> tuple[int, StreamFact]:
        """The fact, or the failure of its stream alone where the body is not as long as promised (RFC 9113, 8.1.1)."""
        if record.received == record.promised or (record.received < (record.promised or 0) and not record.remote_ended):
            return record.id, fact
        message = f"content-length says {record.promised} and the body has {record.received} bytes"
        return self._fault(record, message)

    def _fault(self, record: Record, message: str) -> tuple[int, StreamFact]:
        """A fault of the peer's that costs it one stream, even one that has ended already."""
        if record.closed:
            record.over = True
        self.reset(record.id, ErrorCode.PROTOCOL_ERROR)
        return record.id, StreamFailed(ProtocolViolation(f"the peer broke HTTP/2 on stream {record.id}: {message}"))

    def _trailers_received(self, event: TrailersReceived) -> tuple[int, Fact]:
        record, headers = self._records[event.stream_id], event.headers
        self._records.end_remote(record)
        return self._checked(record, headers, check_arrived_trailers, TrailersArrived(headers))

    def _checked(
        self, record: Record, headers: list[Pair], check: Callable[[list[Pair]], int | None], fact: StreamFact
    ) -> tuple[int, StreamFact]:
        """The fact, or the failure of its stream alone where its headers are malformed (RFC 9113, 8.1.1)."""
        try:
            promised = check(headers)
        except InvalidHeaders as error:
            return self._fault(record, f"malformed headers: {error}")
        if isinstance(fact, HeadersArrived):
            record.promised = 0 if record.bodyless else promised
            if not record.remote_ended or record.bodyless or not promised:
                return record.id, fact
        return self._measured(record, fact) if record.promised is not None else (record.id, fact)

    def _stream_reset(self, event: StreamReset) -> tuple[int, Fact]:
        record = self._records[event.stream_id]
        self._outbox.abandon(record)
        if event.remote_reset:
            return event.stream_id, PeerReset(int(event.error_code))
        message = f"the peer broke HTTP/2 on stream {event.stream_id} ({code_name(int(event.error_code))})"
        return event.stream_id, StreamFailed(ProtocolViolation(message, code=int(event.error_code)))

    def _window_updated(self, event: WindowUpdated) -> None:
        self._outbox.unblock(event.stream_id)

    def _remote_settings_changed(self, event: RemoteSettingsChanged) -> tuple[int, Fact]:
        self._outbox.unblock_all()  # the new initial window may have opened any of them
        # h2 says 2**32 + 1 where the peer never set a limit.
        return _CONNECTION, PeerSettings(min(self._h2.remote_settings.max_concurrent_streams, MAX_STREAM_ID))

    # --- commands -----------------------------------------------------------------------------------------------------

    def open(self, head: list[Pair], *, end: bool, weight: int = 16) -> int | None:
        """Send a request's HEADERS on a new stream and return its id; None when the ids have run out."""
        stream_id = self.last_stream_id + 2 if self.last_stream_id else 1
        if stream_id > MAX_STREAM_ID or self.broken is not None:
            return None
        self._h2.send_headers(stream_id, head, end_stream=end)
        self.last_stream_id = stream_id
        bodyless = head[0][1] == b"HEAD"
        self._records.add(Record(stream_id, weight, ending=end, local_ended=end, bodyless=bodyless))
        return stream_id

    def send_head(self, stream_id: int, head: list[Pair], *, end: bool) -> None:
        """Send a response's HEADERS, final or informational."""
        record = self._records.get(stream_id)
        if record is None or record.over or record.ending or self.broken is not None:
            return
        try:
            self._h2.send_headers(stream_id, head, end_stream=end)
        except NoSuchStreamError:
            self._outbox.abandon(record)
            return
        if end:
            record.ending = True
            self._records.end_local(record)

    def send_data(
        self, stream_id: int, data: bytes | memoryview, *, end: bool = False, trailers: list[Pair] | None = None
    ) -> None:
        """Queue data, and with ``end`` the end of our side behind it; trailers need ``end``."""
        record = self._records.get(stream_id)
        if record is None or record.over or record.ending or self.broken is not None:
            return
        self._outbox.put(record, data, end=end, trailers=trailers)

    def reset(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM, once, and drop what was queued; nothing happens to a stream that is over."""
        record = self._records.get(stream_id)
        if record is None or record.over or (record.local_ended and record.remote_ended):
            return
        self._outbox.abandon(record)
        if self.broken is not None:
            return
        try:
            self._h2.reset_stream(stream_id, code)
        except NoSuchStreamError:
            return

    def return_credit(self, stream_id: int, size: int) -> None:
        """Pay ``size`` bytes back that were read; never more than is owed."""
        record = self._records.get(stream_id)
        if record is None:
            return
        size = min(size, record.owed)
        if not size or self.broken is not None:
            return
        record.owed -= size
        self._h2.acknowledge_received_data(size, stream_id)
        if not record.owed and not record.remote_ended and not record.over:
            self._widen(record, size)

    def _widen(self, record: Record, read: int) -> None:
        """The reader keeps up with the peer: let more be on its way."""
        limits = self.limits
        if more := record.window.grow(limits.stream_window, limits.max_stream_window, read):
            self._h2.increment_flow_control_window(more, record.id)
        if more := self._window.grow(limits.connection_window, limits.max_connection_window, read):
            self._h2.increment_flow_control_window(more)

    def release(self, stream_id: int, code: int = ErrorCode.NO_ERROR) -> bool:
        """The stream's actor has ended: let its queue go out if ``code`` is NO_ERROR, then forget the stream.

        What the peer has not ended by then is reset with ``code``. Returns whether the stream is gone already.
        """
        record = self._records.get(stream_id)
        if record is None:
            return True
        if code == _NO_ERROR and record.ending and not record.local_ended and not record.over:
            record.released = True
            return False
        self._forget(record, code)
        return True

    def ping(self, data: bytes) -> None:
        """Send PING with eight bytes of data."""
        if self.broken is None:
            self._h2.ping(data)

    def go_away(self, last_stream_id: int, code: int, debug: bytes = b"") -> None:
        """Send GOAWAY (RFC 9113, 6.8); h2 is not told, so that open streams can finish."""
        self._flush()
        payload = last_stream_id.to_bytes(4) + int(code).to_bytes(4) + debug
        self._out.append(encode_frame(FrameType.GOAWAY, 0, 0, payload))

    # --- output -------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Move queued data into frames, as far as the windows, the socket and the turn's budget allow."""
        if self.broken is None:
            self._outbox.pump()

    def take_room(self) -> list[tuple[int, int]]:
        """How much room was made since the last call, by stream."""
        return self._outbox.take_room()

    def output(self) -> bytes:
        """All bytes for the socket since the last call."""
        self._outbox.budget = BYTES_PER_PUMP
        if not self._out:
            return self._h2.data_to_send()
        self._flush()
        data = b"".join(self._out)
        self._out.clear()
        return data

    @property
    def has_output(self) -> bool:
        """Whether another :meth:`pump` could move data now: the windows and the socket allow it."""
        return self.broken is None and self._outbox.has_output

    @property
    def writable(self) -> bool:
        """Whether the socket takes more; while it does not, bodies wait and only frames without bodies are made."""
        return self._outbox.writable

    @writable.setter
    def writable(self, yes: bool) -> None:
        self._outbox.writable = yes

    @property
    def open_streams(self) -> int:
        """Streams that both sides count as open (RFC 9113, 5.1.2)."""
        return self._records.open

    @property
    def streams(self) -> int:
        """Streams with an actor or with bytes that are still to go out."""
        return len(self._records)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._out.append(data)

    def _forget(self, record: Record, code: int) -> None:
        stream_id = record.id
        if not record.closed:
            self.reset(stream_id, code)
        if record.owed:
            self._h2.acknowledge_received_data(record.owed, stream_id)
        self._records.forget(record)


def _parse_goaway(frame: Frame) -> PeerGoAway:
    payload = frame.payload
    if frame.stream_id or len(payload) < 8:
        wrong = "on a stream" if frame.stream_id else "shorter than 8 bytes"
        code = ErrorCode.PROTOCOL_ERROR if frame.stream_id else ErrorCode.FRAME_SIZE_ERROR
        raise ProtocolViolation(f"the peer sent a GOAWAY {wrong}", code=code)
    last_stream_id = int.from_bytes(payload[:4]) & 0x7FFF_FFFF
    return PeerGoAway(last_stream_id, int.from_bytes(payload[4:8]), payload[8:])
