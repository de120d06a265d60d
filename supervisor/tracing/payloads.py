"""What messages hold besides what they say of themselves: bodies, and the values of headers. It may be secret."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

_HEADERS: Final = (("pairs", "headers"),)
_PARTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "HeadersArrived": _HEADERS,
    "InformationalArrived": _HEADERS,
    "PromiseArrived": _HEADERS,
    "TrailersArrived": (("pairs", "trailers"),),
    "DataArrived": (("data", "body"),),
    "OpenStream": (("head", "headers"), ("body", "body"), ("trailers", "trailers")),
    "PushStream": (("head", "headers"),),
    "SendHead": (("head", "headers"),),
    "SendData": (("data", "body"),),
    "EndStream": (("trailers", "trailers"),),
    "Respond": (("head", "headers"), ("body", "body"), ("trailers", "trailers")),
}
"""What of which messages is a payload, and what it is called in a trace."""


def payload_of(message: object) -> tuple[Mapping[str, object] | None, int]:
    """The headers, the body and the trailers that a message holds, and the bytes of it all; None for one without."""
    found: dict[str, object] = {}
    size = 0
    for name, key in _PARTS.get(type(message).__name__, ()):
        part = getattr(message, name)
        if not part:
            continue
        if isinstance(part, list):
            found[key] = list(part)
            size += sum(len(each) + len(value) for each, value in part)
        else:
            found[key] = bytes(part)  # its owner may use the buffer again
            size += len(part)
    return found or None, size


def plain(data: Mapping[str, object]) -> dict[str, object]:
    """The same as JSON can hold it: headers as pairs of texts, a body as base64."""
    plain: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, bytes):
            plain[key] = base64.b64encode(value).decode("ascii")
        elif key in ("headers", "trailers") and isinstance(value, list):
            plain[key] = [[_text(each) for each in pair] for pair in value]
        else:
            plain[key] = value
    return plain


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
