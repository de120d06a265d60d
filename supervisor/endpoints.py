"""Where a service lives."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

from actors.errors import Misuse

UNIX_PREFIX: Final = "unix:"


@frozen
class Endpoint:
    """One address: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None
    """The Unix socket's path, where it is one."""
    secure: bool = False
    """Whether a URL asked for TLS."""

    def __str__(self) -> str:
        if self.path is not None:
            return f"{UNIX_PREFIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """What ``:authority`` says where the caller gives nothing else."""
        if self.path is not None:
            return "localhost"
        default = SECURE_PORT if self.secure else DEFAULT_PORT
        return str(self) if self.port != default else str(self).removesuffix(f":{default}")


DEFAULT_PORT: Final = 80
SECURE_PORT: Final = 443


def parse_url(url: str) -> tuple[Endpoint, str]:
    """The endpoint of ``http(s)://HOST[:PORT][/PATH]`` or ``unix:PATH``, and the path and query to ask for.

    Raises Misuse for what is neither.
    """
    if not isinstance(url, str):
        raise Misuse(f"a URL is a str, not {type(url).__name__}")
    if url.startswith(UNIX_PREFIX):
        return parse_bind(url), "/"
    if "@" in url.partition("://")[2].partition("/")[0].partition("?")[0]:
        # The URL is not shown: it holds a secret.
        raise Misuse("credentials do not belong in a URL: use an authorization header")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Misuse(f"bad URL {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Misuse(f"bad URL {url!r}: write http://HOST[:PORT][/PATH], https:// for TLS, or unix:PATH")
    if port == 0 or any(character.isspace() or ord(character) < 0x21 for character in url):
        raise Misuse(f"bad URL {url!r}: port 0 or white space in it")
    path = parts.path or "/"
    secure = parts.scheme == "https"
    endpoint = Endpoint(host, port or (SECURE_PORT if secure else DEFAULT_PORT), secure=secure)
    return endpoint, f"{path}?{parts.query}" if parts.query else path


def parse_bind(bind: str) -> Endpoint:
    """The endpoint of ``HOST:PORT`` (port 0: any free one) or ``unix:PATH``. Raises Misuse."""
    if bind.startswith(UNIX_PREFIX):
        path = bind.removeprefix(UNIX_PREFIX)
        if not path:
            raise Misuse(f"bad address {bind!r}: write unix:PATH")
        return Endpoint(path=path)
    host, colon, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise Misuse(f"bad address {bind!r}: write HOST:PORT with a port from 0 to 65535, or unix:PATH")
    return Endpoint(host, int(port))
