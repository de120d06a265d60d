"""Headers as aioh2 takes and gives them: dicts or pairs of str in, pairs of str out, pseudo-headers among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from actors.errors import InvalidHeaders
from actors.headers import HeaderInput, Headers, Pair, Text
from actors.server_stream import ServerStream

KNOWN: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol", b":status"))

Texts = list[tuple[str, str]]


def to_pairs(headers: HeaderInput) -> list[Pair]:
    """The pairs in bytes, str as UTF-8. Raises InvalidHeaders."""
    items: Iterable[tuple[Text, Text]] = headers.items() if isinstance(headers, Mapping) else headers
    try:
        return [(_raw(name).lower(), _raw(value)) for name, value in items]
    except (TypeError, ValueError) as error:
        raise InvalidHeaders("headers are a mapping or an iterable of (name, value) pairs") from error


def _raw(text: object) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    if isinstance(text, bytes):
        return text
    raise InvalidHeaders(f"a header's name and value are str or bytes, not {type(text).__name__}")


def split(pairs: list[Pair]) -> tuple[dict[bytes, bytes], list[Pair]]:
    """The pseudo-headers, each at most once, and the fields. Raises InvalidHeaders."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[Pair] = []
    for name, value in pairs:
        if not name.startswith(b":"):
            fields.append((name, value))
        elif name in pseudo or name not in KNOWN:
            what = "is given twice" if name in pseudo else "does not exist (RFC 9113, 8.3)"
            raise InvalidHeaders(f"the pseudo-header {name.decode('utf-8', 'replace')!r} {what}")
        else:
            pseudo[name] = value
    return pseudo, fields


def of_request(stream: ServerStream) -> Texts:
    """The headers of a request that came."""
    pseudo = (
        (":method", stream.method), (":scheme", stream.scheme), (":authority", stream.authority),
        (":path", stream.path), (":protocol", stream.protocol or ""),
    )  # fmt: skip
    return [(name, value) for name, value in pseudo if value] + of_fields(stream.headers)


def of_fields(headers: Headers) -> Texts:
    return [(_text(name), _text(value)) for name, value in headers]


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
