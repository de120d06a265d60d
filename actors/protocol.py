"""h2's connection as the wire uses it: some of its internals overridden, each for a figure and with a test.

h2's public interface is enough to be right, and not to be quick or to keep one stream's fault to itself. What is
overridden here was checked with h2 4.4.1; ``tests/actors/test_protocol.py`` holds each override against plain h2. A
later h2 that names or orders these internals otherwise needs this module looked at first: those tests say so.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import FrameDataMissingError, ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream
from hyperframe.exceptions import InvalidDataError, InvalidFrameError, InvalidPaddingError
from hyperframe.frame import DataFrame, Frame

from actors.compression import RememberingDecoder, RememberingEncoder

SWEEP_INTERVAL: Final = 64
"""New streams between two looks for closed ones."""
_HEADER: Final = struct.Struct(">HBBBL")
_HEADER_SIZE: Final = 9
_TYPE_AT: Final = 3
_FLAGS_AT: Final = 4
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_BLOCKS: Final = frozenset((0x1, 0x5, 0x9))
"""HEADERS, PUSH_PROMISE and CONTINUATION."""


class _QuietFrameBuffer(FrameBuffer):
    """Frames whose ``repr`` leaves out the payload.

    h2 makes the ``repr`` of each frame that comes, for a log that nobody reads, and hyperframe writes the whole payload
    in hexadecimal for it: a third of the time of a download.
    """

    def __next__(self) -> Frame:
        frame = super().__next__()
        frame._body_repr = str  # type: ignore[method-assign]  # called without arguments: ""
        return frame


class Protocol(H2Connection):
    """An :class:`h2.connection.H2Connection` that leaves counting streams and content-length to its user."""

    MAX_CLOSED_STREAMS = 4096  # h2 keeps 65,536 closed ids, about 7.5 MB a connection

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.encoder = RememberingEncoder()
        decoder = RememberingDecoder()
        decoder.max_header_list_size = self.decoder.max_header_list_size
        decoder.max_allowed_table_size = self.decoder.max_allowed_table_size
        self.decoder = decoder
        self.incoming_buffer = _QuietFrameBuffer(server=not config.client_side)
        self._unsent: list[bytes] = []
        self._begun = 0

    def receive_frame(self, raw: bytes | bytearray) -> list[Event]:
        """What :meth:`receive_data` does, for one whole frame that the gate has cut already.

        h2's own buffer would copy it twice and look for a second frame behind it: a twentieth of a small request.
        Header blocks of several frames go the long way.
        """
        if raw[_TYPE_AT] in _BLOCKS and (not raw[_FLAGS_AT] & _END_HEADERS or self.incoming_buffer._headers_buffer):
            return self.receive_data(raw)
        if self.incoming_buffer._headers_buffer:
            return self.receive_data(raw)  # which says that this may not stand in a header block
        view = memoryview(raw)
        try:
            frame = self._parse(view)
            frame._body_repr = str  # type: ignore[method-assign]  # as in _QuietFrameBuffer
            return self._receive_frame(frame)
        except InvalidPaddingError as error:
            self._terminate_connection(ErrorCodes.PROTOCOL_ERROR)
            raise ProtocolError("Received frame with invalid padding.") from error
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise

    def _parse(self, view: memoryview) -> Frame:
        try:
            frame, _ = Frame.parse_frame_header(view[:_HEADER_SIZE])
        except (InvalidDataError, InvalidFrameError) as error:
            raise ProtocolError(f"Received frame with invalid header: {error}") from error
        try:
            frame.parse_body(view[_HEADER_SIZE:])
        except InvalidPaddingError:
            raise
        except InvalidDataError as error:
            raise ProtocolError("Received frame with non-compliant data") from error
        except InvalidFrameError as error:
            raise FrameDataMissingError("Frame data missing or invalid") from error
        return frame

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        """Leave content-length alone: h2 would end the connection for what is a fault of one stream."""
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream._initialize_content_length = _ignore  # type: ignore[method-assign]
        return stream

    def _open_streams(self, remainder: int) -> int:
        """Sweep away the closed streams now and then, and count none: the wire keeps both sides' limits.

        h2 looks at every stream whenever one opens: 10 to 16 microseconds at 100 open ones, 600 at 5,000.
        """
        self._begun += 1
        if self._begun % SWEEP_INTERVAL == 0:
            self.sweep()
        return -1  # so that one more is no more than 0, which a peer may say at any time

    def sweep(self) -> None:
        """Set the closed streams aside.

        While one is among the others, a late 1xx response for it is an error of the whole connection in h2.
        """
        super()._open_streams(0)

    def widen(self, more: int, stream_id: int | None = None) -> None:
        """Let the peer send ``more`` bytes than before, for good.

        h2 takes what is open at the moment for the whole window, and would never open more than that again.
        """
        if stream_id is None:
            manager = self._inbound_flow_control_window_manager
        else:
            manager = self._get_stream_by_id(stream_id)._inbound_window_manager
        most = manager.max_window_size + more
        self.increment_flow_control_window(more, stream_id)
        manager.max_window_size = max(manager.max_window_size, most)

    def _inbound_flow_control_change_from_settings(self, old_value: int | None, new_value: int) -> None:
        """Move the whole of each stream's window, not only what is open of it at the moment.

        h2 keeps the old size where a window shrinks, and pays what was read only in halves of it: a peer that had
        sent more than the new window before it heard of that would wait for ever.
        """
        delta = new_value - (old_value or 0)
        sizes = [(stream, stream._inbound_window_manager.max_window_size) for stream in self.streams.values()]
        super()._inbound_flow_control_change_from_settings(old_value, new_value)
        for stream, size in sizes:
            stream._inbound_window_manager.max_window_size = max(size + delta, 1)
            if stream.open:
                self._prepare_for_sending(stream.acknowledge_received_data(0))

    def _prepare_for_sending(self, frames: list[Any]) -> None:
        """Keep the pieces apart until they are asked for: h2 copies each byte of a body five times, this twice."""
        for frame in frames:
            if type(frame) is DataFrame and "PADDED" not in frame.flags:
                size = len(frame.data)
                flags = _END_STREAM if "END_STREAM" in frame.flags else 0
                self._unsent += (_HEADER.pack(size >> 8, size & 0xFF, 0, flags, frame.stream_id), frame.data)
            else:
                self._unsent.append(frame.serialize())

    def data_to_send(self, amount: int | None = None) -> bytes:
        """All bytes for the peer since the last call, or ``amount`` of them."""
        if self._data_to_send:
            self._unsent.insert(0, bytes(self._data_to_send))  # what h2 puts there itself comes first of all
            self._data_to_send.clear()
        data = b"".join(self._unsent)
        self._unsent.clear()
        if amount is not None and len(data) > amount:
            self._unsent.append(data[amount:])
            return data[:amount]
        return data

    def clear_outbound_data_buffer(self) -> None:
        """Forget the bytes that were not asked for."""
        super().clear_outbound_data_buffer()
        self._unsent.clear()


def _ignore(headers: object) -> None:
    pass
