"""Headers: an ordered, case-insensitive multimap of bytes, and the checks that outbound headers pass before h2.

h2 would check inside its HPACK encoder, where a refusal spoils the compression state of the whole connection; so
everything that goes out is checked here first, once, and h2's own check is switched off. These rules never allow what
h2 would refuse (RFC 9113, 8.2 and 8.3; RFC 9110, 5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from hpack import NeverIndexedHeaderTuple

from actors.errors import InvalidHeaders

Text = str | bytes
Pair = tuple[bytes, bytes]
HeaderInput = Mapping[str, Text] | Mapping[bytes, Text] | Iterable[tuple[Text, Text]]
"""What a user may give as headers: a mapping or any iterable of pairs, each part str (latin-1) or bytes."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE: Final = re.compile(rb"[\x00\r\n]")
_PATH: Final = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_AUTHORITY: Final = re.compile(rb"[\x21-\x7e]+")
_NOT_IN_AUTHORITY: Final = re.compile(rb"[/?#@\\]")
_STATUSES: Final = frozenset(range(100, 1000)) - {101}
MAX_LENGTH_DIGITS: Final = 20
MAX_CACHED_PATH: Final = 256
CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
SECRETS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
"""Headers whose values are never indexed by HPACK (RFC 7541, 7.1.3) and never shown."""


class Headers:
    """An ordered, case-insensitive multimap of header fields, as bytes.

    ``headers[name]`` is a str (latin-1), with several values joined as RFC 9110, 5.2 says; ``all(name)`` gives them
    apart, as bytes. Iteration gives the ``(name, value)`` pairs, so that headers that came in can go out again.
    """

    __slots__ = ("_pairs",)

    def __init__(self, headers: HeaderInput = ()) -> None:
        self._pairs: list[Pair] = [_lowered(field) for field in _items(headers)]

    @classmethod
    def of(cls, pairs: list[Pair]) -> Headers:
        """Headers over pairs whose names are lower-case already; the list is kept, not copied."""
        made = cls.__new__(cls)
        made._pairs = pairs
        return made

    def all(self, name: Text) -> list[bytes]:
        """Every value of a name, in order."""
        wanted = to_bytes(name).lower()
        return [value for given, value in self._pairs if given == wanted]

    def get(self, name: Text, default: str | None = None) -> str | None:
        """The value as ``headers[name]`` gives it, or ``default``."""
        values = self.all(name)
        if not values:
            return default
        separator = b"; " if to_bytes(name).lower() == b"cookie" else b", "
        return separator.join(values).decode("latin-1")

    def __getitem__(self, name: Text) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, (str, bytes)) and bool(self.all(name))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, Headers) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable list is inside, as with list itself

    def __repr__(self) -> str:
        shown = (f"{each[0].decode('latin-1')}: {_shown(each)}" for each in self._pairs)
        return f"Headers({', '.join(map(repr, shown))})"


def to_bytes(text: Text) -> bytes:
    """A header's name or value as bytes; raises InvalidHeaders for what is neither str in latin-1 nor bytes."""
    if isinstance(text, str):
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            # The text itself is not shown: it may be a secret.
            stranger = text[error.start]
            raise InvalidHeaders(
                f"{stranger!r} in a header is not latin-1: give bytes in the wanted encoding"
            ) from None
    if isinstance(text, bytes):
        return text
    raise InvalidHeaders(f"a header's name and value must be str or bytes, not {type(text).__name__}")


def _lowered(field: tuple[Text, Text]) -> Pair:
    name, value = field
    lower, raw = to_bytes(name).lower(), to_bytes(value)
    return (lower, raw) if type(field) is not NeverIndexedHeaderTuple else NeverIndexedHeaderTuple(lower, raw)


def _shown(pair: Pair) -> str:
    return "(hidden)" if pair[0] in SECRETS or type(pair) is NeverIndexedHeaderTuple else pair[1].decode("latin-1")


def _items(headers: HeaderInput) -> Iterable[tuple[Text, Text]]:
    if isinstance(headers, Mapping):
        return headers.items()
    return headers


@lru_cache(maxsize=1024, typed=True)
def _field_name(name: Text) -> bytes:
    raw = to_bytes(name)
    if raw.startswith(b":"):
        raise InvalidHeaders(f"{raw!r} is a pseudo-header: give it as an argument of the call, not in headers")
    if not _TOKEN.fullmatch(raw):
        raise InvalidHeaders(f"the header name {raw!r} is not a token (RFC 9110, 5.6.2)")
    lower = raw.lower()
    if lower in CONNECTION_SPECIFIC:
        raise InvalidHeaders(
            f"the header {lower.decode()!r} is about an HTTP/1.1 connection: HTTP/2 forbids it, leave it out"
        )
    return lower


def secret(name: Text, value: Text) -> tuple[Text, Text]:
    """A header field whose value no HPACK table may keep (RFC 7541, 7.1.3), here or on the way, and that is not shown.

    :data:`SECRETS` are treated so without it, and so is what came in so and goes out again.
    """
    return NeverIndexedHeaderTuple(to_bytes(name), to_bytes(value))


def _field(field: tuple[Text, Text]) -> Pair:
    name, value = field
    checked = _field_name(name)
    raw = to_bytes(value).strip(b" \t")
    if _FORBIDDEN_IN_VALUE.search(raw):
        raise InvalidHeaders(f"the value of header {checked.decode()!r} holds NUL, CR or LF")
    if checked in SECRETS:
        if checked == b"cookie" and not raw:
            # h2 joins cookies before it checks them, and takes the blank before an empty last one for white space.
            raise InvalidHeaders("the value of header 'cookie' is empty: leave it out")
        return NeverIndexedHeaderTuple(checked, raw)
    if checked == b"te" and raw.lower() != b"trailers":
        raise InvalidHeaders("the header 'te' may only say 'trailers' in HTTP/2 (RFC 9113, 8.2.2)")
    if checked == b"content-length" and not (raw.isdigit() and len(raw) < MAX_LENGTH_DIGITS):
        raise InvalidHeaders(f"content-length must be a number of bytes, not {raw[:MAX_LENGTH_DIGITS]!r}")
    return (checked, raw) if type(field) is not NeverIndexedHeaderTuple else NeverIndexedHeaderTuple(checked, raw)


def check_fields(headers: HeaderInput) -> list[Pair]:
    """The fields as they go out: names in lower case, values stripped, secrets marked never-indexed.

    Raises InvalidHeaders (RFC 9113, 8.2).
    """
    if not headers:
        return []
    try:
        return [_field(field) for field in _items(headers)]
    except (TypeError, ValueError) as error:
        raise InvalidHeaders("headers must be a mapping or an iterable of (name, value) pairs") from error


@lru_cache(maxsize=1024, typed=True)
def _status(status: int) -> Pair:
    if not isinstance(status, int) or status not in _STATUSES:
        raise InvalidHeaders(
            f"{status!r} is no HTTP/2 status: give 200 to 599, or inform() for 1xx; 101 does not exist"
        )
    return b":status", b"%d" % status


def response_head(status: int, headers: HeaderInput) -> list[Pair]:
    """A response's header list; raises InvalidHeaders (RFC 9113, 8.3.2)."""
    try:
        return [_status(status), *check_fields(headers)]
    except TypeError:  # the cache takes hashable values only
        raise InvalidHeaders(f"{status!r} is no HTTP/2 status: give a number") from None


@lru_cache(maxsize=1024, typed=True)
def _method(method: Text) -> bytes:
    raw = to_bytes(method)
    if not _TOKEN.fullmatch(raw):
        raise InvalidHeaders(f"the method {raw!r} is not a token (RFC 9110, 9.1)")
    return raw


@lru_cache(maxsize=1024, typed=True)
def _authority(authority: Text) -> bytes:
    raw = to_bytes(authority)
    if not _AUTHORITY.fullmatch(raw) or _NOT_IN_AUTHORITY.search(raw):
        raise InvalidHeaders(f"the authority {raw!r} is not HOST or HOST:PORT")
    return raw


def _path(path: Text, method: bytes) -> bytes:
    if not isinstance(path, (str, bytes)):
        raise InvalidHeaders(f"a path must be str or bytes, not {type(path).__name__}")
    if method == b"OPTIONS" and path in ("*", b"*"):
        return b"*"  # the whole server (RFC 9113, 8.3.1)
    # Services ask for the same paths again and again; long ones are not kept.
    return _checked_path(path) if len(path) > MAX_CACHED_PATH else _cached_path(path)


def _checked_path(path: Text) -> bytes:
    raw = to_bytes(path)
    if not _PATH.fullmatch(raw):
        asked, query, _ = raw.partition(b"?")  # which may be a secret
        shown = f"{asked!r} and its query" if query else f"{asked!r}"
        raise InvalidHeaders(
            f"the path {shown} must begin with '/' and hold printable ASCII but '#': percent-encode the rest"
        )
    return raw


_cached_path = lru_cache(maxsize=1024, typed=True)(_checked_path)


@lru_cache(maxsize=64, typed=True)
def _protocol(protocol: Text) -> Pair:
    raw = to_bytes(protocol)
    if not _TOKEN.fullmatch(raw):
        raise InvalidHeaders(f"the protocol {raw!r} is not a token (RFC 8441, 4)")
    return b":protocol", raw


def request_head(
    method: Text, scheme: str, authority: Text, path: Text, headers: HeaderInput, *, protocol: Text | None = None
) -> list[Pair]:
    """A request's header list; a ``host`` header takes the place of ``authority`` (RFC 9113, 8.3.1).

    CONNECT has no path, unless it is for a ``protocol`` (RFC 8441, 4). Raises InvalidHeaders.
    """
    fields = check_fields(headers)
    hosts = [value for name, value in fields if name == b"host"]
    if hosts:
        if len(hosts) > 1:
            raise InvalidHeaders("a request has one host: leave out the second 'host' header")
        fields = [pair for pair in fields if pair[0] != b"host"]
        authority = hosts[0]
    try:
        verb = _method(method)
        head: list[Pair] = [(b":method", verb), (b":authority", _authority(authority))]
        if protocol is not None:
            if verb != b"CONNECT":
                raise InvalidHeaders(f"a protocol is for CONNECT, not for {verb.decode('latin-1')} (RFC 8441, 4)")
            head.append(_protocol(protocol))
    except TypeError:  # the cache takes hashable values only
        raise InvalidHeaders("the method, authority and protocol of a request must be str or bytes") from None
    if verb != b"CONNECT" or protocol is not None:
        head += [(b":scheme", scheme.encode("ascii")), (b":path", _path(path, verb))]
    return head + fields


def declared_length(fields: Iterable[Pair]) -> int | None:
    """What the content-length among checked fields says, or None; raises InvalidHeaders where two of them differ."""
    lengths = {int(value) for name, value in fields if name == b"content-length"}
    if len(lengths) > 1:
        raise InvalidHeaders("two content-length headers say different things: keep one")
    return lengths.pop() if lengths else None


def list_size(pairs: list[Pair]) -> int:
    """The size of a header list as SETTINGS_MAX_HEADER_LIST_SIZE counts it (RFC 9113, 6.5.2)."""
    size = 32 * len(pairs)
    for name, value in pairs:
        size += len(name) + len(value)
    return size


def split_head(pairs: list[Pair]) -> tuple[dict[bytes, bytes], Headers]:
    """The pseudo-headers of a list that came in, and the fields after them."""
    pseudo: dict[bytes, bytes] = {}
    for index, (name, value) in enumerate(pairs):
        if not name.startswith(b":"):
            return pseudo, Headers.of(pairs[index:])
        pseudo[name] = value
    return pseudo, Headers()
