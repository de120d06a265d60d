"""One connection's HTTP/2: bytes in, facts out; commands in, bytes out (no I/O).

Theory of operation
    Input goes through the :class:`~actors.inbox.Inbox`, which feeds h2 one frame at a time and says what each means.

    Output is queued per stream in the :class:`~actors.outbox.Outbox` and pumped into h2 in rounds, each stream
    ``weight`` KiB a round, until the windows or the socket say stop. Trailers and END_STREAM wait behind the data; a
    reset drops the queue.

    The :class:`~actors.ledger.Ledger` knows what the peer is owed: ``return_credit`` pays as it is read, ``release``
    pays the rest.

    One SETTINGS frame is outstanding at a time, because h2 takes an acknowledgement for all that it has announced; what
    is announced holds from its own acknowledgement on.

    A stream's record lives from its first HEADERS until its actor has ended *and* its queue is out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from h2.config import H2Configuration
from h2.exceptions import NoSuchStreamError
from h2.settings import SettingCodes, Settings

from actors.errors import ErrorCode, ProtocolViolation
from actors.frames import PREFACE, FrameType, encode_frame
from actors.headers import Pair
from actors.inbox import MAX_STREAM_ID, Fact, Inbox, StreamFact
from actors.ledger import DEFAULT_WINDOW, Ledger
from actors.outbox import BYTES_PER_PUMP, Outbox
from actors.pictures import StreamOnWire, WirePicture
from actors.protocol import Protocol
from actors.records import Record, Records
from actors.settings import Limits
from actors.terms import Terms

__all__ = ["ASSUMED_MAX_STREAMS", "MAX_DEBUG_DATA", "MAX_STREAM_ID", "Fact", "StreamFact", "Wire"]

ASSUMED_MAX_STREAMS: Final = 100
"""What we take the peer's limit of streams to be until its SETTINGS come (RFC 9113, 6.5.2)."""
MAX_DEBUG_DATA: Final = 512
"""Bytes of a GOAWAY's debug data, either way."""
LARGEST_FRAME: Final = 2**24 - 1
MOST_SHOWN: Final = 1000
"""Streams in a picture: what it takes is a few milliseconds at most."""
HEADER_LIST_SLACK: Final = 4
"""How many times our limit of a header list h2 decodes: what is between costs its stream, what is above all of them."""
_H2_UNLIMITED: Final = 2**31 - 1
_NO_ERROR: Final = int(ErrorCode.NO_ERROR)
DEFAULT_TABLE: Final = 4096
"""Bytes of HEADER_TABLE_SIZE to begin with (RFC 9113, 6.5.2)."""
_EXCLUSIVE: Final = 0x8000_0000


class Wire:
    """The state of one HTTP/2 connection. Only its ConnectionActor's turn may touch it."""

    def __init__(self, *, client: bool, limits: Limits, push: bool = False, upgraded: bool = False) -> None:
        """``push`` says that a client takes pushes.

        ``upgraded``: the connection began as HTTP/1.1, where a client's first request went out, and the values of its
        first SETTINGS with it (RFC 7540, 3.2).
        """
        self.client = client
        self.push_allowed = push
        self._upgraded = upgraded
        self.terms = Terms(limits)
        """What holds between the two ends now; its streams read it."""
        self._records = Records()
        self._out: list[bytes] = []
        # Headers are checked in headers.py: outbound before they come here, because h2 would check them inside its
        # HPACK encoder, where a refusal spoils the compression state of the connection; inbound in the inbox, because
        # h2 would end the connection for what is a fault of one stream. Once instead of twice is also 15 % faster.
        self._h2 = Protocol(
            H2Configuration(
                client_side=client,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self.flushed: list[int] = []
        """Released streams whose queues have gone out since somebody emptied the list."""
        self._outbox = Outbox(self._h2, self._records, self.terms.memory, limits=limits, flushed=self._has_flushed)
        self._ledger = Ledger(self._h2, self.terms.memory, limits)
        self._inbox = Inbox(
            self._h2, self._records, self._outbox, self._ledger, self.terms, client=client, limits=limits,
            out=self._out, acked=self._settings_acked,
        )  # fmt: skip
        self.guard = self._inbox.guard
        """Counts what the peer costs; its ``now`` is set by whoever reads."""
        self._offered: deque[Limits] = deque()
        """What the peer is still to acknowledge: the first is on its way, the others wait."""
        self.take_in = self._inbox.gate.take_in
        """Add bytes that came from the peer; :meth:`read` then tells what they say."""
        self.read = self._inbox.read
        """What at most so many frames say: pairs of a stream's id (0: the connection) and a fact; raises the
        ProtocolViolation of a bad frame only at the call after the one that gave the good ones before it."""

    @property
    def limits(self) -> Limits:
        """What the peer has acknowledged."""
        return self._inbox.limits

    @property
    def has_input(self) -> bool:
        """Whether :meth:`read` has more to tell without more bytes."""
        return self._inbox.has_input

    @property
    def broken(self) -> ProtocolViolation | None:
        """What ended the input; h2 is closed then, and every command does nothing."""
        return self._inbox.broken

    @property
    def last_stream_id(self) -> int:
        """The highest stream that the peer opened: what our GOAWAY answers for."""
        return self._inbox.last_stream_id

    @property
    def last_own_id(self) -> int:
        """The highest stream that we opened."""
        return self._inbox.last_own_id

    @property
    def heads(self) -> list[bytes] | None:
        """Where the nine bytes before the payload of each frame that is read are noted; None: nowhere."""
        return self._inbox.heads

    @heads.setter
    def heads(self, heads: list[bytes] | None) -> None:
        self._inbox.heads = heads

    @property
    def frames_arrived(self) -> int:
        """Frames that were read."""
        return self._inbox.frames

    @property
    def progress(self) -> int | None:
        """How many frames came, while one that is no DATA, or a header block, has begun and is not all there."""
        return self._inbox.frames if self._inbox.gate.unfinished else None

    @property
    def header_block(self) -> int:
        """The number of the header block that has begun and not ended; 0 where there is none."""
        gate = self._inbox.gate
        return gate.blocks if gate.in_header_block else 0

    # --- settings -----------------------------------------------------------------------------------------------------

    def start(self, clock: Callable[[], float] = float) -> None:
        """Put out the preface and SETTINGS (RFC 9113, 3.4), and open the connection's window.

        ``clock`` is looked at when a stream has to wait, and dates that for :meth:`look`.
        """
        self._records.clock = clock
        limits = self.limits
        promised = self._first_settings()
        # h2 makes one stream too many an error of the connection, so it gets no limit and we refuse the surplus
        # ourselves: hence SETTINGS of our own. It also takes the first settings without setting what follows from them.
        self._h2.local_settings = Settings(
            client=self.client,
            initial_values={SettingCodes(code): value for code, value in promised.items()}
            | {SettingCodes.MAX_CONCURRENT_STREAMS: _H2_UNLIMITED},
        )
        # The window is the one setting that the peer may overstep until it has acknowledged ours (RFC 9113, 6.9.2); to
        # who has upgraded to HTTP/2, it has (RFC 7540, 3.2.1).
        known = max(DEFAULT_WINDOW, limits.stream_window) if self._upgraded else DEFAULT_WINDOW
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = known
        self._h2.local_settings.acknowledge()
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = limits.stream_window
        self._h2.max_inbound_frame_size = LARGEST_FRAME  # the gate knows better
        self._h2.decoder.max_header_list_size = HEADER_LIST_SLACK * limits.max_header_list
        self._h2.encoder.header_table_size = min(self._h2.encoder.header_table_size, limits.encoder_table)
        if self._upgraded:
            self._h2.decoder.max_allowed_table_size = max(DEFAULT_TABLE, limits.decoder_table)  # which it knows, too
            self._h2.initiate_upgrade_connection()  # which opens stream 1, and ends our side of it
        else:
            self._h2.initiate_connection()
        self._h2.clear_outbound_data_buffer()
        if self.client:
            self._out.append(PREFACE)
        else:
            del promised[SettingCodes.ENABLE_PUSH]  # a server must not send it as anything but 0, and need not at all
            promised[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self._offered.append(limits)
        self._say_settings(promised)
        self._ledger.open()

    def change(self, limits: Limits) -> int:
        """Let other limits hold once the peer has acknowledged what concerns it; returns how many SETTINGS that takes.

        Windows that were opened stay open; the process's memory is not for one connection to change.
        """
        if not self._offered and self._settings(limits) == self._settings(self.limits):
            self._apply(limits)
            return 0
        self._offered.append(limits)
        if len(self._offered) == 1:
            self._offer(limits)
        return len(self._offered)

    def _first_settings(self) -> dict[int, int]:
        return self._settings(self.limits) | {int(SettingCodes.ENABLE_PUSH): int(self.push_allowed)}

    def first_settings(self) -> bytes:
        """What a client's :meth:`start` says in SETTINGS, as a request for an upgrade has it (RFC 7540, 3.2.1)."""
        return _encoded(self._first_settings())

    def _settings(self, limits: Limits) -> dict[int, int]:
        promised = {
            int(SettingCodes.INITIAL_WINDOW_SIZE): limits.stream_window,
            int(SettingCodes.MAX_FRAME_SIZE): limits.max_frame_size,
            int(SettingCodes.MAX_HEADER_LIST_SIZE): limits.max_header_list,
        }
        if not self.client or self.push_allowed:
            promised[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.max_streams
        if not limits.decoder_table == self.limits.decoder_table == DEFAULT_TABLE:
            promised[SettingCodes.HEADER_TABLE_SIZE] = limits.decoder_table
        return promised

    def _offer(self, limits: Limits) -> None:
        if self.broken is not None:
            return
        gate = self._inbox.gate
        gate.max_frame_size = max(gate.max_frame_size, limits.max_frame_size)
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = limits.stream_window
        self._flush()
        self._say_settings(self._settings(limits))

    def _say_settings(self, values: dict[int, int]) -> None:
        self._out.append(encode_frame(FrameType.SETTINGS, 0, 0, _encoded(values)))

    def _settings_acked(self) -> None:
        if not self._offered:
            return  # it acknowledges what was never said; counted like any control frame
        self._apply(self._offered.popleft())
        if self._offered:
            self._offer(self._offered[0])

    def _apply(self, limits: Limits) -> None:
        self._inbox.limits = self._ledger.limits = self.terms.limits = limits
        self.terms.memory.change(limits)
        self._outbox.change(limits)
        self._inbox.gate.max_frame_size = limits.max_frame_size
        self._inbox.guard.change(limits)
        self._h2.decoder.max_allowed_table_size = limits.decoder_table
        self._h2.decoder.max_header_list_size = HEADER_LIST_SLACK * limits.max_header_list

    # --- commands -----------------------------------------------------------------------------------------------------

    def open(self, head: list[Pair], *, end: bool, weight: int = 16, opened: float = 0.0) -> int | None:
        """Send a request's HEADERS on a new stream and return its id; None when the ids have run out.

        ``opened`` is now, where the request had to wait for this. After an upgrade, the first request is the one that
        went out before.
        """
        last = self._inbox.last_own_id
        stream_id = last + 2 if last else 1
        if stream_id > MAX_STREAM_ID or self.broken is not None:
            return None
        if self._upgraded and not last:
            end = True
        else:
            self._h2.send_headers(stream_id, head, end_stream=end)
        self._inbox.last_own_id = stream_id
        method = head[0][1]
        record = Record(stream_id, weight, ending=end, local_ended=end, opened=opened)
        record.bodyless, record.tunnel = method == b"HEAD", method == b"CONNECT"
        if self.push_allowed:
            record.authority = head[1][1]
        self._records.add(record)
        return stream_id

    def push(self, parent_id: int, head: list[Pair]) -> int | None:
        """Send PUSH_PROMISE and return the promised stream's id; None where its parent or the ids have ended."""
        parent, stream_id = self._records.get(parent_id), self._inbox.last_own_id + 2
        if parent is None or parent.over or parent.ending or stream_id > MAX_STREAM_ID or self.broken is not None:
            return None
        try:
            self._h2.push_stream(parent_id, stream_id, head)
        except NoSuchStreamError:
            self._outbox.abandon(parent)
            return None
        self._inbox.last_own_id = stream_id
        self._records.add(Record(stream_id, parent.weight, remote_ended=True))
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
        record.answered = self._outbox.spoke = True
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
        if record is None:
            return
        if self.broken is not None:
            self._outbox.abandon(record)
        else:
            self._outbox.reset(record, code)

    def return_credit(self, stream_id: int, size: int) -> None:
        """Pay ``size`` bytes back that were read; never more than is owed."""
        record = self._records.get(stream_id)
        if record is not None and self.broken is None:
            self._ledger.pay(record, size)
            if record.owed:
                record.kept = self._records.clock()

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

    def weigh(self, stream_id: int, weight: int, *, depends_on: int = 0, exclusive: bool = False) -> None:
        """Share our bandwidth by another weight, and as a client tell the server with PRIORITY (RFC 7540, 6.3)."""
        record = self._records.get(stream_id)
        if record is None or self.broken is not None:
            return
        record.weight = weight
        if self.client:
            self._flush()
            payload = (depends_on | (_EXCLUSIVE if exclusive else 0)).to_bytes(4) + bytes((weight - 1,))
            self._out.append(encode_frame(FrameType.PRIORITY, 0, stream_id, payload))

    def offer_alternative(self, stream_id: int, origin: bytes, value: bytes) -> None:
        """Send ALTSVC, for an ``origin`` or, where that is empty, for the stream's (RFC 7838, 4)."""
        if self.broken is None:
            self._flush()
            payload = len(origin).to_bytes(2) + origin + value
            self._out.append(encode_frame(FrameType.ALTSVC, 0, 0 if origin else stream_id, payload))

    def ping(self, data: bytes) -> None:
        """Send PING with eight bytes of data."""
        if self.broken is None:
            self._h2.ping(data)

    def go_away(self, last_stream_id: int, code: int, debug: bytes = b"") -> None:
        """Send GOAWAY (RFC 9113, 6.8); h2 is not told, so that open streams can finish."""
        self._flush()
        payload = last_stream_id.to_bytes(4) + int(code).to_bytes(4) + debug[:MAX_DEBUG_DATA]
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
        self.terms.spare = self._outbox.spare
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
        """Streams that both sides count as open (RFC 9113, 5.1.2), and those that are promised."""
        return self._records.open + self._records.promised

    @property
    def promised(self) -> int:
        """Streams of the server's that are promised or open."""
        return self._records.promised

    @property
    def send_window(self) -> int:
        """Bytes of bodies that the peer takes now, over all streams."""
        return self._h2.outbound_flow_control_window

    @property
    def receive_window(self) -> int:
        """Bytes of bodies that we take now, over all streams."""
        return self._h2.inbound_flow_control_window

    @property
    def peer_settings(self) -> dict[str, int]:
        """What the peer's SETTINGS say, by RFC 9113's names in lower case; defaults included, what has none is not."""
        return {SettingCodes(code).name.lower(): value for code, value in self._h2.remote_settings.items()}

    @property
    def streams(self) -> int:
        """Streams with an actor or with bytes that are still to go out."""
        return len(self._records)

    def look(self, now: float) -> WirePicture:
        """What the two ends owe each other; of very many streams those that hold the most."""
        initial = self._h2.remote_settings.initial_window_size
        windows, records = self._outbox.windows, list(self._records)
        if (left_out := len(records) - MOST_SHOWN) > 0:
            records = heapq.nlargest(MOST_SHOWN, records, lambda it: it.queued + it.owed + windows(it, initial)[1])
        return WirePicture(
            client=self.client,
            streams=tuple(_shown(each, *windows(each, initial), now) for each in records),
            left_out=max(left_out, 0),
            send_window=self.send_window,
            send_used=self._outbox.outstanding,
            receive_window=self.receive_window,
            receive_used=self._ledger.outstanding,
        )

    def _flush(self) -> None:
        self._inbox.keep()

    def is_ending(self, stream_id: int) -> bool:
        """Whether our side of a stream has ended, or will with its queue."""
        record = self._records.get(stream_id)
        return record is not None and record.ending

    def _has_flushed(self, record: Record) -> None:
        self.flushed.append(record.id)
        self._forget(record, ErrorCode.NO_ERROR)

    def _forget(self, record: Record, code: int) -> None:
        if not record.closed:
            self.reset(record.id, code)
        if self.broken is None:
            self._ledger.settle(record)
        self._inbox.forget(record)


def _encoded(settings: dict[int, int]) -> bytes:
    return b"".join(code.to_bytes(2) + value.to_bytes(4) for code, value in settings.items())


def _shown(record: Record, window: int, outstanding: int, now: float) -> StreamOnWire:
    def since(at: float) -> float | None:
        return now - at if at else None

    return StreamOnWire(
        stream_id=record.id,
        queued=record.queued,
        still=since(record.moved) if record.queued else None,
        window=window,
        outstanding=outstanding,
        owed=record.owed,
        kept=since(record.kept) if record.owed else None,
        came=since(record.came),
        opened=since(record.opened),
        ending=record.ending,
        local_ended=record.local_ended,
        remote_ended=record.remote_ended,
    )
