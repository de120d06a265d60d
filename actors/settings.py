"""What a user may set: frozen values with their units and sources, checked where they are given."""

from __future__ import annotations

import os
import ssl
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


def _count_or_none() -> int | None:
    checked: int | None = field(default=None, validator=attrs.validators.optional(_within(1, LARGEST_WINDOW, int)))
    return checked


def _seconds_or_none(low: float) -> float | None:
    checked: float | None = field(default=None, validator=attrs.validators.optional(_within(low, 10 * 86_400.0, float)))
    return checked


def _number(default: float, low: float, high: float) -> float:
    checked: float = field(default=default, validator=_within(low, high, float))
    return checked


def _flag(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if type(value) is not bool:
        raise Misuse(f"{type(owner).__name__}.{attribute.name} must be True or False, not {value!r}")


def check_debug(debug: object) -> None:
    """Raise Misuse for what cannot be a GOAWAY's debug data."""
    if not isinstance(debug, bytes):
        raise Misuse(f"debug data is bytes, not {type(debug).__name__}")


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise Misuse for what is given as ``name`` and is none of that kind."""
    if not isinstance(value, kind):
        raise Misuse(f"{name} is a {kind.__name__}, not {type(value).__name__}")


def check_limits(limits: object) -> None:
    """Raise Misuse for what is no Limits."""
    check_kind("limits", limits, Limits)


def check_health(health: object) -> None:
    """Raise Misuse for what is no Health."""
    check_kind("health", health, Health)


def _seconds(default: float, low: float = 0.001) -> float:
    return _number(default, low, 86_400.0)


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
    connection_send_buffer: int = _count(16 * MiB, 64 * KiB)
    """The same for all streams of a connection together."""
    process_bytes: int = _count(256 * MiB, 1 * MiB)
    """Bytes that all connections of the process may hold: half for what they let their peers send, half for the rest.

    The rest are queues, bodies that are collected, and 8 KiB and its head for each stream that is served.
    """
    max_frame_size: int = _count(16 * KiB, 16 * KiB, 2**24 - 1)
    """Bytes of payload that a peer may put into one frame (SETTINGS_MAX_FRAME_SIZE)."""
    max_header_list: int = _count(64 * KiB, 1 * KiB)
    """Bytes of one decoded header list (SETTINGS_MAX_HEADER_LIST_SIZE); a longer request gets 431."""
    max_headers: int = _count(100, 8)
    """Fields of one header list; a request with more gets 431."""
    encoder_table: int = _count(4096, 0)
    """Bytes that our HPACK encoder keeps at most, whatever the peer's SETTINGS_HEADER_TABLE_SIZE allows."""
    decoder_table: int = _count(4096, 0)
    """Bytes that a peer may have us keep for decoding its headers (SETTINGS_HEADER_TABLE_SIZE)."""
    padding: int = _count(0, 0, 255)
    """Bytes of padding in each DATA frame that we send, to hide lengths (RFC 9113, 10.7)."""
    max_request_body: int = _count(16 * MiB, 0)
    """Bytes that a server's ``read()`` to the end takes; a longer body gets 413."""
    max_response_body: int = _count(64 * MiB, 0)
    """Bytes that a client's ``read()`` to the end, and a request without ``max_body``, takes."""

    max_connections: int = _count(1024, 1)
    """Connections that a server serves at a time; the next wait in the backlog."""
    max_connections_per_peer: int | None = _count_or_none()
    """The same for one peer's address; the next are closed at once. None: no limit."""
    refuse_connections: bool = field(default=False, validator=_flag)
    """Whether those above ``max_connections`` are closed at once, instead of waiting in the backlog."""
    max_handlers: int = _count(10_000, 1)
    """Handlers that a server runs at a time over all its connections; one more stream is refused."""
    max_handlers_per_peer: int | None = _count_or_none()
    """The same for one peer's address. None: no limit."""
    peer_bytes: int | None = _count_or_none()
    """Bytes that a server's connections of one peer's address may hold in queues, of ``process_bytes``. None: all."""
    max_pending: int = _count(10_000, 0)
    """Requests that may wait in a link for a connection or a place on one; one more is refused."""
    max_connection_age: float | None = _seconds_or_none(0.001)
    """Seconds, 10 % more or less, after which a connection takes no new streams and ends with its last. None: none."""

    # What ends a connection with GOAWAY(ENHANCE_YOUR_CALM); healthy peers stay far below each of these.
    max_quick_resets: int = _count(500, 1)
    """Streams per 10 s that a client resets within 1 s and before our response, if they are most of its streams."""
    max_forced_resets: int = _count(100, 1)
    """Streams per 10 s that a client's faults make us reset."""
    max_surplus_streams: int = _count(1_000, 1)
    """Streams per 10 s above ``max_streams``, by a client that has acknowledged that limit; each is refused."""
    max_control_frames: int = _count(10_000, 1)
    """Frames per 10 s that are neither HEADERS, DATA nor WINDOW_UPDATE."""
    max_unsent_control_frames: int = _count(1_000, 1)
    """Answers to control frames that wait while the peer reads nothing."""
    max_window_updates: int = _count(1_000, 1)
    """WINDOW_UPDATE frames per 10 s, beyond two for each 8 KiB that we sent."""
    max_settings_frames: int = _count(200, 1)
    """SETTINGS frames per 10 s."""
    max_settings: int = _count(32, 8)
    """Entries of one SETTINGS frame."""
    max_continuations: int = _count(8, 0)
    """CONTINUATION frames of one header block."""
    max_header_block: int = _count(32 * KiB, 1 * KiB)
    """Encoded bytes of one header block."""
    max_empty_frames: int = _count(10, 0)
    """DATA, HEADERS and CONTINUATION frames in a row with nothing in them, not even an end."""

    resolve_interval: float = _seconds(30.0)
    """Seconds between two looks at the addresses of a link's host names."""
    connect_timeout: float = _seconds(10.0)
    """Seconds for making a connection, names looked up included."""
    handshake_timeout: float = _seconds(10.0)
    """Seconds for a TLS handshake."""
    settings_timeout: float = _seconds(10.0)
    """Seconds for the peer's preface and first SETTINGS, and for acknowledging ours (RFC 9113, 3.4, 6.5.3)."""
    header_block_timeout: float = _seconds(10.0)
    """Seconds between the beginning of a header block and its end."""
    frame_timeout: float = _seconds(30.0)
    """Seconds between the first and the last byte of any other frame but DATA."""
    body_timeout: float = _seconds(60.0)
    """Seconds without a byte after which a server's ``read()`` to the end gives up, with 408."""
    write_timeout: float = _seconds(30.0)
    """Seconds that a socket may take nothing of what waits; a closed window is the peer's right and has no limit."""
    idle_timeout: float = _seconds(650.0)
    """Seconds that a server keeps a connection without streams; above the 600 s of common load balancers."""
    drain_timeout: float = _seconds(5.0, 0.0)
    """Seconds that a closing server gives its open streams."""
    shutdown_timeout: float = _seconds(1.0)
    """Seconds that a handler which was cancelled has for cleaning up; then it is named in the log and left behind."""
    dry_run: bool = field(default=False, validator=_flag)
    """Log, once for each, what would end a connection, and go on; what only waits or refuses a stream stays."""


@frozen(kw_only=True)
class Health:
    """How life is asked for by PING (RFC 9113, 6.7); any byte that came is life.

    The defaults keep within what gRPC's servers allow by default: a PING every five minutes without DATA or HEADERS.
    """

    interval: float = _seconds(300.0)
    """Seconds of silence, while streams are open, after which a PING goes out."""
    timeout: float = _seconds(10.0)
    """Seconds without any byte after a PING after which the connection is dead (PingTimeout)."""
    before_request: float = _seconds(60.0)
    """Seconds of silence after which a link asks for a sign of life before it sends the next request."""
    suspect: float = _seconds(0.5)
    """Seconds without any byte after a PING after which a link dials a replacement."""
    while_idle: bool = field(default=False, validator=_flag)
    """Whether PINGs go out without streams, too; many servers close a connection that does so."""
    user_timeout: float = _seconds(20.0, 0.0)
    """Seconds that sent bytes may stay unacknowledged by the peer's kernel (TCP_USER_TIMEOUT); 0: the system's."""
    least_ping_interval: float = _seconds(10.0, 0.0)
    """For servers: seconds between two PINGs of a client on average, unless HEADERS or DATA go out; 0: no limit."""
    max_ping_strikes: int = _count(2, 0)
    """For servers: PINGs that may come sooner; the next ends the connection with ENHANCE_YOUR_CALM, too_many_pings."""

    def __attrs_post_init__(self) -> None:
        if self.suspect > self.timeout:
            raise Misuse(f"Health.suspect ({self.suspect:g} s) comes before Health.timeout ({self.timeout:g} s)")

    @classmethod
    def fast(cls) -> Health:
        """For links whose servers allow it, as ours do: death is noticed within 15 s of silence, idle or not."""
        return cls(interval=10.0, timeout=5.0, before_request=10.0, while_idle=True)


@frozen(kw_only=True)
class Backoff:
    """How long to wait between attempts (gRPC's connection backoff, with a lower end)."""

    initial: float = _seconds(1.0)
    """Seconds from the first attempt to the second."""
    factor: float = _number(1.6, 1.0, 100.0)
    """By how much each wait is longer than the one before."""
    maximum: float = _seconds(15.0)
    """Seconds of the longest wait."""
    jitter: float = _number(0.2, 0.0, 1.0)
    """By which share of itself each wait is made longer or shorter, at random."""

    def __attrs_post_init__(self) -> None:
        if self.maximum < self.initial:
            raise Misuse(f"Backoff.maximum ({self.maximum:g} s) is below Backoff.initial ({self.initial:g} s)")


@frozen(kw_only=True)
class Retry:
    """Which failed requests a link sends again by itself."""

    attempts: int = _count(5, 0)
    """Times that a request goes again, at most; 0: never."""
    ratio: float = _number(0.2, 0.0, 10.0)
    """Of the requests of the last 10 s, how many may go again although the peer may have acted on them."""
    per_second: float = _number(10.0, 0.0, 1_000_000.0)
    """Requests a second that may do so in any case."""
    pause: float = _seconds(0.05)
    """Seconds before the second repetition, twice as many before each later one; half of it at random."""


def _path(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (not isinstance(value, (str, os.PathLike)) or not str(value)):
        # Not shown: it may be a key itself.
        raise Misuse(f"{type(owner).__name__}.{attribute.name} must be the path of a file, not {type(value).__name__}")


def _host_name(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    try:
        fits = isinstance(value, str) and bool(value.encode("idna")) and value[0] != "." and value.isprintable()
    except UnicodeError:
        fits = False
    if not fits or " " in value:
        raise Misuse(f"{type(owner).__name__}.{attribute.name} must be a host name or an IP address, not {value!r}")


def _context(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise Misuse(f"{type(owner).__name__}.{attribute.name} must be an ssl.SSLContext, not {type(value).__name__}")


@frozen(kw_only=True)
class Tls:
    """How a side does TLS; files are in PEM. Raises :class:`~actors.errors.Misuse` for what contradicts itself."""

    certfile: str | os.PathLike[str] | None = field(default=None, validator=_path)
    """The certificate that we show, with those between it and its authority; a server must have one."""
    keyfile: str | os.PathLike[str] | None = field(default=None, validator=_path)
    """The certificate's key, not encrypted; None: it is in ``certfile``."""
    client_ca: str | os.PathLike[str] | None = field(default=None, validator=_path)
    """For servers: the authorities of client certificates, which each client must then show."""
    cacert: str | os.PathLike[str] | None = field(default=None, validator=_path)
    """For clients: the authorities that are trusted; None: those of the system."""
    verify: bool = field(default=True, validator=_flag)
    """For clients: False takes any certificate for any host, and so protects from no one who can reroute packets."""
    server_hostname: str | None = field(default=None, validator=_host_name)
    """For clients: the name that the server's certificate must be for; None: the URL's host."""
    context: ssl.SSLContext | None = field(default=None, validator=_context, repr=False)
    """Instead of all others but ``server_hostname``: a context that is used as it is, and must have h2 by ALPN."""

    def __attrs_post_init__(self) -> None:
        if self.keyfile is not None and self.certfile is None:
            raise Misuse("Tls.keyfile is the key of a certfile: give both")
        if self.cacert is not None and not self.verify:
            raise Misuse("Tls.cacert says whom to trust and verify=False to trust anyone: give one of them")
        if self.context is not None:
            others = (self.certfile, self.client_ca, self.cacert)
            if not self.verify or any(other is not None for other in others):
                raise Misuse("Tls.context is used as it is: set the certificates and the verification in it")
