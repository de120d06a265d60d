"""What a request over HTTP/2 is made of: its line, its fields less those of HTTP/1.1, and bodies of every kind."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from attrs import define

from actors.errors import LinkError
from actors.headers import CONNECTION_SPECIFIC, Pair, Text, check_fields, declared_length, request_head
from supervisor.adapters.blocking.errors import BadBody, BadCall, BadPath, TooMuch, translated
from supervisor.adapters.blocking.parts import RequestBody, for_proxy, pieces, shown, text_of
from supervisor.adapters.blocking.service import Exchange

BODYLESS: Final = ("GET", "HEAD")
"""Methods whose streams end with their first frames."""
MOST_BODY_OF_GET: Final = 1024 * 1024
"""Bytes of an iterable as the body of one of those."""


@define(eq=False)
class Begun:
    """A request whose response was not asked for yet, or that is still being put together."""

    method: str
    path: str
    headers: list[tuple[bytes, Any]]
    exchange: Exchange | None = None
    """None: its headers were not sent."""
    open: bool = False
    """Whether more of its body is awaited."""
    declared: int | None = None
    """Bytes of body that its headers promise."""
    given: int = 0
    """Bytes of body that were given."""

    @property
    def given_up(self) -> bool:
        """Whether nothing more of it can be sent."""
        return self.exchange is not None and self.exchange.upload_over

    def checked(self) -> list[Pair]:
        """The header fields as they go out. Raises BadPath and BadHeader for what HTTP/2 forbids."""
        check_line(self.method, self.path)
        if not self.headers:
            return []
        try:
            fields = check_fields(without_connection(self.headers))
            self.declared = declared_length(fields)
        except LinkError as error:
            raise translated(error) from None
        return fields


def parted(body: RequestBody | None, size: int, *, whole: bool) -> tuple[bytes | None, Iterator[bytes] | None]:
    """A body as a whole, if it is one or must be, or in pieces of ``size``; two None for none. Raises BadBody."""
    if body is None or isinstance(body, bytes):
        return body, None
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape"), None
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body), None
    if isinstance(body, Mapping) or not (hasattr(body, "read") or hasattr(body, "__iter__")):
        raise BadBody(f"a body is bytes, str, a file, or an iterable of bytes, not {type(body).__name__}")
    parts = map(bytes, pieces(body, size))
    if not whole:
        return None, parts
    gathered = bytearray()
    for part in parts:
        gathered += part
        if len(gathered) > MOST_BODY_OF_GET:
            raise TooMuch(f"the body of a GET or HEAD in pieces is at most {MOST_BODY_OF_GET} bytes: give it whole")
    return bytes(gathered), None


@lru_cache(maxsize=1024)
def check_line(method: str, path: str) -> None:
    """Raise BadPath for a method or path that HTTP/2 forbids; programs ask for the same again and again."""
    try:
        request_head(method, "https", "authority", path, ())
    except LinkError as error:
        if "?" not in path:
            raise BadPath(str(error)) from None
    else:
        return
    check_line(method, "/")  # it may be the method's fault
    raise BadPath(
        f"the path {shown(path)!r} must begin with '/' and hold printable ASCII but '#': percent-encode the rest"
    )


def path_of(url: Text) -> str:
    """The path that a request asks for; http.client takes nothing for the root."""
    path = text_of(url, "a path")
    return path if path.startswith(("/", "*")) or (path and not path.startswith("?")) else f"/{path}"


def without_connection(fields: list[tuple[bytes, Any]]) -> list[tuple[bytes, Text]]:
    """The fields less those about an HTTP/1.1 connection, and those that Connection names."""
    dropped = set(CONNECTION_SPECIFIC)
    for name, value in fields:
        if name.lower() == b"connection":
            named = value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")
            dropped |= {each.strip().lower() for each in named.split(b",")}
    kept = [(name, value) for name, value in fields if name.lower() not in dropped]
    return [(name, str(value) if isinstance(value, int) else value) for name, value in kept]


def credentials_of(headers: Mapping[str, str] | None) -> str:
    """What a proxy's URL says of the user. Raises BadCall for headers that no tunnel is asked for with."""
    found = ""
    for name, value in for_proxy(headers).items():
        kind, _, encoded = str(value).partition(" ")
        if str(name).lower() != "proxy-authorization" or kind.lower() != "basic":
            raise BadCall(f"the proxy is told nothing but Basic Proxy-Authorization: leave {str(name)!r} out")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise BadCall("the Proxy-Authorization is no Basic credentials (RFC 7617, 2)") from None
        found = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    return found
