"""The credit ledger: what came on each stream is owed to the peer until somebody has read it (no I/O).

Padding and late bytes included; so no cancelled stream shrinks the connection's window. Windows grow for a reader that
keeps up, as far as the process has room for what the peer may then send.
"""

from __future__ import annotations

from typing import Final

from actors.memory import Account
from actors.protocol import Protocol
from actors.records import Record, Window
from actors.settings import Limits

DEFAULT_WINDOW: Final = 65_535
"""What each connection and stream begins with (RFC 9113, 6.9.2)."""


class Ledger:
    """The receive windows of one connection."""

    __slots__ = ("_h2", "_memory", "_window", "limits")

    def __init__(self, h2: Protocol, memory: Account, limits: Limits) -> None:
        self.limits = limits
        self._h2 = h2
        self._memory = memory
        self._window = Window()

    def open(self) -> None:
        """Open the connection's window, which begins smaller than ours where the process has little room left."""
        self._window.size = DEFAULT_WINDOW
        more = self.limits.connection_window - DEFAULT_WINDOW
        if more > 0 and self._memory.grant(more):
            self._h2.widen(self._window.grow(more))

    @property
    def outstanding(self) -> int:
        """Bytes that the peer has sent and has not got back, over all streams."""
        return max(self._window.size - self._h2.inbound_flow_control_window, 0)

    def pay(self, record: Record, size: int) -> None:
        """Pay ``size`` bytes back that were read; never more than is owed."""
        size = min(size, record.owed)
        if not size:
            return
        record.owed -= size
        self._h2.acknowledge_received_data(size, record.id)
        if not record.owed and not record.remote_ended and not record.over:
            self._widen(record, size)

    def settle(self, record: Record) -> None:
        """Pay back what nobody will read."""
        if record.owed:
            self._h2.acknowledge_received_data(record.owed, record.id)
            record.owed = 0

    def _widen(self, record: Record, read: int) -> None:
        """The reader keeps up with the peer: let more be on its way."""
        limits, window = self.limits, record.window
        if more := window.due(limits.stream_window, limits.max_stream_window, read):
            self._h2.widen(window.grow(more), record.id)
        window = self._window
        if (more := window.due(DEFAULT_WINDOW, limits.max_connection_window, read)) and self._memory.grant(more):
            self._h2.widen(window.grow(more))
