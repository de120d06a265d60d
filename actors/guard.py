"""What a peer may cost: counts and rates of its frames; whatever exceeds them ends the connection (no I/O).

Rates are token buckets of ten seconds. None of them is near what healthy peers do under load; HTTP/2 gives each a
cheap frame, and these are the frames that attacks are made of (CVE-2019-9511 to -9518, CVE-2023-44487, CVE-2024-27316,
CVE-2025-8671). With ``Limits.dry_run`` each limit is reported once instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.errors import ErrorCode, ProtocolViolation
from actors.frames import ACK, BLOCK_TYPES, END_HEADERS, END_STREAM, FrameType
from actors.records import Record
from actors.settings import Limits

PERIOD: Final = 10.0
"""Seconds in which a bucket fills."""
QUICK: Final = 1.0
"""Seconds after its opening in which a stream's reset counts as quick."""
BYTES_PER_UPDATE: Final = 4 * 1024
"""Bytes that we sent for each WINDOW_UPDATE that costs nothing."""
UPDATES_PER_FRAME: Final = 2
"""The same for each DATA frame that is not tiny, or is the last of its stream: peers give credit for each."""
MOST_FREE: Final = 64 * 1024 * 1024
"""Bytes for which updates may be outstanding."""
SETTING_SIZE: Final = 6
TOO_MANY_PINGS: Final = "too_many_pings"
"""Both what the limit of PINGs is called, and all that the GOAWAY for it says."""


class Bucket:
    """Tokens that come back at an even rate, ``capacity`` of them in ten seconds."""

    __slots__ = ("_capacity", "_left", "_seen")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._left = float(capacity)
        self._seen = 0.0

    def take(self, now: float) -> bool:
        """Whether there was a token to take."""
        if now > self._seen:
            self._left = min(self._capacity, self._left + (now - self._seen) * self._capacity / PERIOD)
            self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Guard:
    """Counts one connection's cheap frames."""

    __slots__ = (
        "_block", "_control", "_forced", "_free_updates", "_limits", "_opened", "_pieces", "_quick",
        "_quick_resets", "_reported", "_server", "_settings", "_since", "_surplus", "_unsent", "_updates", "blocked",
        "empty", "now", "refused", "report", "streams", "tripped", "welcome",
    )  # fmt: skip

    def __init__(self, limits: Limits, *, server: bool) -> None:
        self.now = 0.0
        """Seconds, as the connection's owner counts them; set before frames are counted."""
        self.blocked = False
        """Whether the socket takes nothing: answers to control frames pile up."""
        self.report: Callable[[str], None] = _nobody
        """Gets what a dry run would have ended the connection for."""
        self.welcome: Callable[[bool, float], bool] = _always
        """Whether we put up with a PING that comes now; it is told whether HEADERS or DATA went out since the last."""
        self.tripped = ""
        """The name of the limit that ended the connection."""
        self.streams = 0
        """Streams that the peer has opened since the beginning."""
        self.refused = 0
        """Those of them that were above ``max_streams``, as the peer could know."""
        self._limits = limits
        self._server = server
        self._reported: set[str] = set()
        self._control = Bucket(limits.max_control_frames)
        self._settings = Bucket(limits.max_settings_frames)
        self._updates = Bucket(limits.max_window_updates)
        self._forced = Bucket(limits.max_forced_resets)
        self._quick = Bucket(limits.max_quick_resets)
        self._surplus = Bucket(limits.max_surplus_streams)
        self._since = 0.0
        self._opened = 0
        self._quick_resets = 0
        self._free_updates = 0
        self.empty = 0
        """Empty frames in a row."""
        self._unsent = 0
        self._block = 0
        self._pieces = 0

    def change(self, limits: Limits) -> None:
        """From now on other limits hold; rates that run go on with what they had."""
        self._limits = limits

    def check(self, kind: int, flags: int, size: int) -> None:
        """Count a frame with ``size`` bytes of payload. Raises ProtocolViolation with ENHANCE_YOUR_CALM."""
        if kind == FrameType.DATA:
            self._check_empty(size == 0 and not flags & END_STREAM)
        elif kind == FrameType.WINDOW_UPDATE:
            self._check_update()
        elif kind in BLOCK_TYPES:
            if kind == FrameType.PUSH_PROMISE:
                self.count_control()
            self._check_block(kind, flags, size)
        else:
            self._check_control(kind, flags, size)

    def _check_empty(self, empty: bool) -> None:
        if not empty:
            self.empty = 0
            return
        self.empty += 1
        if self.empty > self._limits.max_empty_frames:
            self._flood("max_empty_frames", f"{self.empty} empty frames in a row")

    def _check_block(self, kind: int, flags: int, size: int) -> None:
        self._check_empty(size == 0 and not flags & END_STREAM)
        if kind == FrameType.CONTINUATION:
            self._pieces += 1
            self._block += size
        else:
            self._pieces, self._block = 0, size
        if self._block > self._limits.max_header_block:
            self._flood("max_header_block", f"a header block of more than {self._limits.max_header_block} bytes")
        if self._pieces > self._limits.max_continuations:
            self._flood("max_continuations", f"{self._pieces} CONTINUATION frames in one header block")
        if flags & END_HEADERS:
            self._block = self._pieces = 0

    def _check_update(self) -> None:
        if self._free_updates >= BYTES_PER_UPDATE:
            self._free_updates -= BYTES_PER_UPDATE
        elif not self._updates.take(self.now):
            self._flood("max_window_updates", f"more than {self._limits.max_window_updates} needless WINDOW_UPDATE")

    def count_control(self) -> None:
        """Count a frame that carries nothing for anybody, such as one for a stream that is over."""
        if not self._control.take(self.now):
            most = self._limits.max_control_frames
            self._flood("max_control_frames", f"more than {most} control frames, or frames of dead streams, in 10 s")

    def _check_control(self, kind: int, flags: int, size: int) -> None:
        limits = self._limits
        self.count_control()
        if flags & ACK or kind not in (FrameType.PING, FrameType.SETTINGS):
            return
        if kind == FrameType.SETTINGS and not self._settings.take(self.now):
            self._flood("max_settings_frames", f"more than {limits.max_settings_frames} SETTINGS frames in 10 s")
        if kind == FrameType.SETTINGS and size > limits.max_settings * SETTING_SIZE:
            self._flood("max_settings", f"a SETTINGS frame with {size // SETTING_SIZE} entries")
        self.answered()

    def pinged(self, spoke: bool) -> None:
        """The peer sent a PING; ``spoke`` says whether HEADERS or DATA went out since the last."""
        if not self.welcome(spoke, self.now):
            often = "its PINGs come too often (Health.least_ping_interval, Health.max_ping_strikes)"
            self.trip(TOO_MANY_PINGS, often)

    def answered(self) -> None:
        """A control frame of ours answers one of the peer's; it waits where the socket takes nothing."""
        if not self.blocked:
            self._unsent = 0
            return
        self._unsent += 1
        if self._unsent > self._limits.max_unsent_control_frames:
            self._flood("max_unsent_control_frames", f"{self._unsent} answers that it does not read")

    def sent(self, size: int, frames: int) -> None:
        """``size`` bytes of bodies went out: the peer will give credit for them."""
        free = self._free_updates + max(size, frames * UPDATES_PER_FRAME * BYTES_PER_UPDATE)
        self._free_updates = min(free, MOST_FREE)

    def opened(self) -> None:
        """The peer opened a stream."""
        if self.now - self._since >= PERIOD:
            self._since, self._opened, self._quick_resets = self.now, 0, 0
        self._opened += 1
        self.streams += 1

    def surplus(self) -> None:
        """The peer opened a stream above the limit that it has acknowledged; before that, it could not know."""
        self.refused += 1
        if not self._surplus.take(self.now):
            self._flood(
                "max_surplus_streams", f"more than {self._limits.max_surplus_streams} streams above max_streams"
            )

    def reset_by_peer(self, record: Record) -> None:
        """The peer reset a stream of its own (CVE-2023-44487)."""
        if not self._server or record.answered or self.now - record.opened >= QUICK:
            return
        self._quick_resets += 1
        if not self._quick.take(self.now) and 2 * self._quick_resets > self._opened:
            self._flood("max_quick_resets", f"more than {self._limits.max_quick_resets} streams reset once opened")

    def reset_by_us(self) -> None:
        """A fault of the peer's made us reset a stream (CVE-2025-8671); servers' faults are not counted."""
        if self._server and not self._forced.take(self.now):
            self._flood("max_forced_resets", f"more than {self._limits.max_forced_resets} streams that we had to reset")

    def _flood(self, limit: str, what: str) -> None:
        self.trip(limit, f"the peer floods the connection: {what} (Limits.{limit})")

    def trip(self, limit: str, message: str, code: int = ErrorCode.ENHANCE_YOUR_CALM) -> None:
        """End the connection for a limit that is exceeded, or in a dry run report it, once."""
        if not self.tolerates(limit, message):
            raise ProtocolViolation(message, code=code)

    def tolerates(self, limit: str, message: str) -> bool:
        """Whether this is a dry run, in which what exceeds a limit is reported, once."""
        if self._limits.dry_run and limit not in self._reported:
            self._reported.add(limit)
            self.report(message)
        if not self._limits.dry_run:
            self.tripped = limit
        return self._limits.dry_run


def _nobody(message: str) -> None:
    """No one listens until the connection says who does."""


def _always(spoke: bool, now: float) -> bool:
    return True
