"""The checks of header lists that came in: never looser than h2's, and a fault costs one stream (RFC 9113, 8.1.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from actors.errors import InvalidHeaders
from actors.headers import CONNECTION_SPECIFIC, MAX_LENGTH_DIGITS, Pair, split_head

_BLANKS: Final = b" \t"
_ARRIVED_NAME: Final = re.compile(rb"[\x21-\x39\x3b-\x40\x5b-\x7e]+")
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_RESPONSE_PSEUDO: Final = frozenset((b":status",))
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")


@lru_cache(maxsize=1024)
def _is_arrived_name(name: bytes) -> bool:
    return _ARRIVED_NAME.fullmatch(name) is not None and name not in CONNECTION_SPECIFIC


def _is_arrived_value(value: bytes) -> bool:
    # Five quick looks at bytes: a third of the time of one regular expression, several times for every request.
    return not value or (
        value[0] not in _BLANKS and value[-1] not in _BLANKS
        and b"\n" not in value and b"\r" not in value and b"\0" not in value
    )  # fmt: skip


def _split_checked(pairs: list[Pair], allowed: frozenset[bytes]) -> tuple[dict[bytes, bytes], int | None]:
    """The pseudo-headers and the content-length, after checking what holds for every kind of header list.

    The rules are those of RFC 9113, 8.2 and 8.3, and RFC 9110, 8.6.
    """
    pseudo: dict[bytes, bytes] = {}
    length: int | None = None
    regular = False
    crumbs: list[bytes] = []
    for name, value in pairs:
        if not _is_arrived_value(value):
            raise InvalidHeaders(f"the value of {name!r} holds NUL, CR or LF, or white space around it")
        if name in allowed:
            if regular or name in pseudo:
                raise InvalidHeaders(f"the pseudo-header {name!r} is out of place")
            pseudo[name] = value
        else:
            regular = True
            if not _is_arrived_name(name):
                raise InvalidHeaders(f"the header {name!r} is forbidden in HTTP/2, or here")
            if name == b"cookie":
                crumbs.append(value)
            if name == b"te" and value.lower() != b"trailers":
                raise InvalidHeaders(f"the header 'te' says {value!r}")
            if name == b"content-length":
                if not value.isdigit() or len(value) >= MAX_LENGTH_DIGITS or length not in (None, int(value)):
                    raise InvalidHeaders(
                        f"the header 'content-length' says {value[:MAX_LENGTH_DIGITS]!r}, or two things"
                    )
                length = int(value)
    if len(crumbs) > 1 and not crumbs[-1]:
        # Joined as RFC 9113, 8.2.3 says, they end with white space, and so h2 refuses them.
        raise InvalidHeaders("the last of several cookies is empty")
    return pseudo, length


def check_arrived_request(pairs: list[Pair]) -> int | None:
    """The content-length of a request; raises InvalidHeaders where its header list is malformed.

    The rules are those of RFC 9113, 8.3.1 and 8.5, and RFC 8441, 4.
    """
    pseudo, length = _split_checked(pairs, _REQUEST_PSEUDO)
    method = pseudo.get(b":method")
    tunnel = method == b"CONNECT" and b":protocol" not in pseudo
    if not method or tunnel is (b":scheme" in pseudo) or tunnel is (b":path" in pseudo):
        raise InvalidHeaders("a pseudo-header is missing, or forbidden for CONNECT")
    if b":protocol" in pseudo and method != b"CONNECT":
        raise InvalidHeaders("':protocol' is for CONNECT only")
    if pseudo.get(b":path") == b"":
        raise InvalidHeaders("':path' is empty")
    authority = pseudo.get(b":authority")
    hosts = [value for name, value in pairs if name == b"host"]
    if (
        len(hosts) > 1
        or (authority is None and not hosts)
        or (hosts and authority is not None and hosts[0] != authority)
    ):
        raise InvalidHeaders("there must be one host, and ':authority' and 'host' must agree")
    return length


def check_arrived_response(pairs: list[Pair]) -> int | None:
    """The length of the body that a response's head promises, None where it promises none.

    Raises InvalidHeaders where its header list is malformed (RFC 9113, 8.3.2).
    """
    pseudo, length = _split_checked(pairs, _RESPONSE_PSEUDO)
    status = pseudo.get(b":status", b"")
    if not _STATUS.fullmatch(status) or status == b"101":
        raise InvalidHeaders(f"':status' is {status!r}")
    # RFC 9110, 6.4.1: these have no body, whatever the content-length describes.
    return 0 if status in (b"204", b"304") else length


def check_arrived_trailers(pairs: list[Pair]) -> None:
    """Raise InvalidHeaders where trailers are malformed (RFC 9113, 8.1)."""
    _split_checked(pairs, frozenset())


def check_arrived_promise(pairs: list[Pair], authority: bytes) -> None:
    """Raise InvalidHeaders where a server may not promise this request (RFC 9113, 8.4).

    Only requests without a body and without effects can be promised, and only for the ``authority`` that was asked.
    """
    length = check_arrived_request(pairs)
    pseudo, fields = split_head(pairs)
    if pseudo[b":method"] not in (b"GET", b"HEAD") or length:
        raise InvalidHeaders("a promised request is GET or HEAD and has no body")
    if pseudo.get(b":authority", (fields.all("host") or [b""])[0]).lower() != authority.lower():
        raise InvalidHeaders("a promised request is for another authority than its parent's")


_URGENCY: Final = re.compile(rb"(?:^|,) *u=([0-7]) *(?:$|[,;])")
_WEIGHTS: Final = (128, 64, 32, 16, 8, 4, 2, 1)
DEFAULT_WEIGHT: Final = 16
"""What RFC 7540, 5.3.5 begins with; also the weight of RFC 9218's default urgency, 3."""


def arrived_weight(pairs: list[Pair]) -> int:
    """The weight of a response whose request says its urgency in a ``priority`` header (RFC 9218, 4.1)."""
    for name, value in pairs:
        if name == b"priority" and (found := _URGENCY.search(value)):
            return _WEIGHTS[int(found[1])]
    return DEFAULT_WEIGHT
