"""What a user may set: frozen values with their units and sources, checked where they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs import field, frozen

from actors.errors import Misuse

KiB = 1024
MiB = 1024 * KiB
LARGEST_WINDOW = 2**31 - 1


Check = Callable[[object, "attrs.Attribute[Any]", Any], None]


def _within(low: float, high: float, kind: type) -> Check:
    def check(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        # bool is an int and nan compares false with everything: neither is a limit.
        allowed = (int,) if kind is int else (int, float)
        if type(value) not in allowed or not low <= value <= high:
            unit = "a whole number" if kind is int else "seconds"
            raise Misuse(f"{type(owner).__name__}.{attribute.name} must be {unit} from {low} to {high}, not {value!r}")

    return check


def _count(default: int, low: int, high: int = LARGEST_WINDOW) -> int:
    checked: int = field(default=default, validator=_within(low, high, int))
    return checked


def _seconds(default: float, low: float = 0.001) -> float:
    checked: float = field(default=default, validator=_within(low, 86_400.0, float))
    return checked


@frozen(kw_only=True)
class Limits:
    """Every bound of one connection and its streams; raises :class:`~actors.errors.Misuse` for an impossible one."""

    max_streams: int = _count(100, 1)
    """Streams that the peer may have open at a time (SETTINGS_MAX_CONCURRENT_STREAMS); one more is refused."""
    stream_window: int = _count(256 * KiB, 1)
    """Bytes that a peer may send on one stream before we read them (SETTINGS_INITIAL_WINDOW_SIZE), to begin with."""
    max_stream_window: int = _count(4 * MiB, 1)
    """What a stream's window grows to while its reader keeps up; never below ``stream_window``."""
    connection_window: int = _count(1 * MiB, 65_535)
    """The same for all streams together, to begin with; at least 65,535 (RFC 9113, 6.9.2)."""
    max_connection_window: int = _count(16 * MiB, 65_535)
    """What the connection's window grows to while its readers keep up; never below ``connection_window``."""
    send_buffer: int = _count(256 * KiB, 1)
    """Bytes of one stream that may wait for the peer's windows or the socket; ``send`` waits for room beyond it."""
    max_frame_size: int = _count(16 * KiB, 16 * KiB, 2**24 - 1)
    """Bytes of payload that a peer may put into one frame (SETTINGS_MAX_FRAME_SIZE)."""
    max_header_list: int = _count(64 * KiB, 1 * KiB)
    """Bytes of one decoded header list (SETTINGS_MAX_HEADER_LIST_SIZE)."""
    max_request_body: int = _count(16 * MiB, 0)
    """Bytes that a server's ``read()`` to the end takes."""
    max_response_body: int = _count(64 * MiB, 0)
    """Bytes that a client's ``read()`` to the end, and a request without ``max_body``, takes."""
    connect_timeout: float = _seconds(10.0)
    """Seconds for making a connection, names looked up included."""
    settings_timeout: float = _seconds(10.0)
    """Seconds for the peer's preface and first SETTINGS (RFC 9113, 3.4)."""
    drain_timeout: float = _seconds(5.0, 0.0)
    """Seconds that a closing server gives its open streams."""
    shutdown_timeout: float = _seconds(1.0)
    """Seconds that a handler which was cancelled has for cleaning up; then it is named in the log and left behind."""
