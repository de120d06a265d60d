"""What ``muxlink serve`` can be told, in one place: the same on the command line, in the environment and in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import attrs
from attrs import field, frozen

from actors.errors import Misuse
from actors.settings import LARGEST_WINDOW, Limits, Tls
from supervisor.endpoints import UNIX_PREFIX, parse_bind

OFF: Final = "off"
STDOUT: Final = "-"
LOG_FORMATS: Final = ("text", "json")
LOG_LEVELS: Final = ("critical", "error", "warning", "info", "debug")
MAX_WORKERS: Final = 512
MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket's path (unix(7): 108 with the zero behind it)."""
MAX_TEXT: Final = 4096
"""Bytes of any other text; no path on Linux is longer."""
LEAST_WORKER_TIMEOUT: Final = 1.5
"""Seconds; a heartbeat comes each second."""
DAY: Final = 86_400.0

_KEY: Final = "muxlink option"


@frozen
class Described:
    """What a field's value is, for whoever has to read or to explain it."""

    kind: type[int] | type[float] | type[str]
    metavar: str
    help: str
    """Half a sentence, with the unit, for ``--help``."""


_Check = Callable[[str, Any], None]
"""Raises Misuse for a value that the option of this name must not have."""


def _option(described: Described, check: _Check, *, default: Any = attrs.NOTHING, optional: bool = False) -> Any:
    def validate(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None or not optional:
            check(attribute.name, value)

    return field(default=default, validator=validate, metadata={_KEY: described})


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(kind: type[int] | type[float], low: float, high: float) -> _Check:
    allowed, unit = ((int,), "a whole number") if kind is int else ((int, float), "a number of seconds")

    def check(name: str, value: Any) -> None:
        # bool is an int and nan compares false with everything: neither is a number here.
        if type(value) not in allowed or not low <= value <= high:
            raise Misuse(f"option {name} must be {unit} from {low:g} to {high:.10g}, not {_shown(value)}")

    return check


def _count(default: int, low: int, high: int, said: str) -> int:
    given: int = _option(Described(int, "N", said), _number(int, low, high), default=default)
    return given


def _seconds(default: float, low: float, high: float, said: str) -> float:
    given: float = _option(Described(float, "SECONDS", said), _number(float, low, high), default=default)
    return given


def _count_or_none(said: str) -> int | None:
    check = _number(int, 1, LARGEST_WINDOW)
    given: int | None = _option(Described(int, "N", said), check, default=None, optional=True)
    return given


def _seconds_or_none(low: float, high: float, said: str) -> float | None:
    check = _number(float, low, high)
    given: float | None = _option(Described(float, "SECONDS", said), check, default=None, optional=True)
    return given


def _text(default: str, metavar: str, said: str, check: _Check) -> str:
    given: str = _option(Described(str, metavar, said), check, default=default)
    return given


def _text_or_none(metavar: str, said: str, check: _Check) -> str | None:
    given: str | None = _option(Described(str, metavar, said), check, default=None, optional=True)
    return given


# --- what a text must be ----------------------------------------------------------------------------------------------


def _is_text(name: str, value: object) -> None:
    what = f"option {name} must be a text"
    if not isinstance(value, str):
        raise Misuse(f"{what}, not {_shown(value)}")
    if not value or "\0" in value or len(os.fsencode(value)) > MAX_TEXT:
        raise Misuse(f"{what} of 1 to {MAX_TEXT} bytes without zeros, not {_shown(value)}")


def _is_text_or_empty(name: str, value: object) -> None:
    if value != "":
        _is_text(name, value)


def _one_of(words: tuple[str, ...]) -> _Check:
    def check(name: str, value: object) -> None:
        if value not in words:
            raise Misuse(f"option {name} must be one of {', '.join(words)}, not {_shown(value)}")

    return check


def _is_handler(name: str, value: str) -> None:
    _is_text(name, value)
    module, colon, attribute = value.partition(":")
    if not (module and colon and attribute):
        raise Misuse(f"option {name} must be MODULE:HANDLER, such as examples.hello:hello, not {_shown(value)}")


def _is_socket_path(name: str, path: str) -> None:
    _is_text(name, path)
    if (size := len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise Misuse(
            f"option {name} is too long for a Unix socket: its path has {size} bytes, and {MAX_SOCKET_PATH} fit: "
            "take a shorter directory, or a relative path"
        )


def _is_bind(name: str, value: str) -> None:
    _is_text(name, value)
    if len(value) > MAX_TEXT // 4 and not value.startswith(UNIX_PREFIX):
        raise Misuse(f"option {name} must be HOST:PORT or unix:PATH, not {_shown(value)}")
    try:
        endpoint = parse_bind(value)
    except Misuse as error:
        raise Misuse(f"option {name}: {error}") from None
    if endpoint.path is not None:
        _is_socket_path(name, endpoint.path)


def _is_health_bind(name: str, value: str) -> None:
    _is_bind(name, value)
    if value.startswith(UNIX_PREFIX):
        raise Misuse(f"option {name} must be HOST:PORT, which a probe can reach, not {_shown(value)}")


# --- the options ------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class ServeOptions:
    """How a handler is served; raises Misuse for what cannot work.

    Each field is an option: ``drain_timeout`` is ``--drain-timeout``, ``MUXLINK_DRAIN_TIMEOUT``, and ``drain_timeout``
    in a file. What it says of itself here is what ``--help`` says.
    """

    handler: str = field(
        validator=lambda _, attribute, value: _is_handler(attribute.name, value),
        metadata={_KEY: Described(str, "MODULE:HANDLER", "a coroutine function that takes a stream")},
    )
    bind: str = _text(
        "127.0.0.1:8080", "HOST:PORT|unix:PATH",
        "where to listen; port 0 is any free one; sockets that systemd passes come first", _is_bind,
    )  # fmt: skip
    workers: int = _count(
        1, 0, MAX_WORKERS, "processes that serve; 0: this one by itself, with nobody to start it again"
    )
    certfile: str | None = _text_or_none("FILE", "serve over TLS with this certificate (PEM)", _is_text)
    keyfile: str | None = _text_or_none("FILE", "its key, where that is not in the same file", _is_text)
    client_ca: str | None = _text_or_none("FILE", "demand client certificates of these authorities", _is_text)
    health_bind: str | None = _text_or_none(
        "HOST:PORT", "where gRPC's health checking protocol is answered, in plaintext", _is_health_bind
    )
    control: str | None = _text_or_none(
        f"PATH|{OFF}", f"the control socket; {OFF}: none (default: in the user's runtime directory)", _is_socket_path
    )
    # Without health_bind nobody could hear of it, and then there is no delay.
    drain_delay: float = _seconds(
        5.0, 0.0, DAY, "seconds after SIGTERM in which connections are still taken, with --health-bind"
    )
    drain_timeout: float = _seconds(20.0, 0.0, DAY, "seconds that open streams have, then")
    start_timeout: float = _seconds(60.0, 0.001, DAY, "seconds that a worker has until it is ready")
    worker_timeout: float = _seconds(
        10.0, LEAST_WORKER_TIMEOUT, DAY, "seconds without a heartbeat after which a worker is hung, and replaced"
    )
    max_requests: int | None = _count_or_none(
        "requests after which a worker is replaced, 10 % more or less (default: never)"
    )
    max_worker_age: float | None = _seconds_or_none(
        0.001, 365 * DAY, "seconds after which a worker is replaced, 10 % more or less (default: never)"
    )
    max_connections: int = _count(
        1024, 1, LARGEST_WINDOW, "connections of one worker; where all are full, the next wait"
    )
    max_connection_age: float = _seconds(
        1800.0, 0.001, 10 * DAY,
        "seconds after which a connection ends with its last stream, so that clients spread over all workers",
    )  # fmt: skip
    log_format: str = _text("text", "|".join(LOG_FORMATS), "how log lines are written", _one_of(LOG_FORMATS))
    log_level: str = _text(
        "warning", "LEVEL", f"the least that is logged: {', '.join(LOG_LEVELS)}", _one_of(LOG_LEVELS)
    )
    dossiers: str | None = _text_or_none(
        f"DIR|{OFF}",
        f"where a file is written about each actor that crashes, for you alone; {OFF} or empty: nowhere "
        "(default: dossiers in STATE_DIRECTORY, or in muxlink in the user's state directory)",
        _is_text_or_empty,
    )
    access_log: str = _text(
        OFF, f"FILE|{STDOUT}|{OFF}", f"a file for a line for each request; {STDOUT}: stdout; {OFF}: none", _is_text
    )

    def __attrs_post_init__(self) -> None:
        if self.certfile is None and (self.keyfile is not None or self.client_ca is not None):
            raise Misuse("option keyfile and option client_ca go with option certfile, the certificate to serve with")
        if self.workers == 0:
            for name in ("health_bind", "max_requests", "max_worker_age"):
                if getattr(self, name) not in (None, OFF):
                    raise Misuse(f"option {name} needs a parent, and option workers is 0: --workers 1 has one")
        if self.health_bind is not None and self.health_bind == self.bind and parse_bind(self.bind).port:
            raise Misuse(f"option health_bind is what option bind is, {self.bind}: give it a port of its own")

    def limits(self) -> Limits:
        """What each worker's server keeps to."""
        return Limits(
            max_connections=self.max_connections,
            max_connection_age=self.max_connection_age,
            drain_timeout=self.drain_timeout,
        )

    def tls(self) -> Tls | None:
        """The files that are named, if any."""
        if self.certfile is None:
            return None
        return Tls(certfile=self.certfile, keyfile=self.keyfile, client_ca=self.client_ca)

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return attrs.asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options with these values. Raises Misuse, also for a name that is none."""
        if unknown := sorted(set(values) - {each.name for each in attrs.fields(cls)}):
            raise Misuse(f"there is no option {unknown[0]}: 'muxlink serve --help' lists them")
        if "handler" not in values:
            raise Misuse("option handler is missing: say what to serve, such as examples.hello:hello")
        return cls(**values)


def describe() -> dict[str, tuple[Described, object]]:
    """Each option in its order: what it is, and its default, which is :data:`attrs.NOTHING` where it must be given."""
    return {each.name: (each.metadata[_KEY], each.default) for each in attrs.fields(ServeOptions)}
