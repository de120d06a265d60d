"""Where a service lives, as users write it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from actors.addresses import DEFAULT_PORT, SECURE_PORT, UNIX_PREFIX, Endpoint
from actors.errors import Misuse
from actors.tunnel import Proxy

__all__ = ("UNIX_PREFIX", "Endpoint", "Proxy", "parse_bind", "parse_proxy", "parse_url", "parse_urls")


def parse_urls(url: str | Sequence[str]) -> tuple[Endpoint, ...]:
    """The endpoints of one service: of one URL, or of several that each lead to it. Raises Misuse."""
    if not isinstance(url, Sequence) or isinstance(url, (bytes, bytearray, memoryview)):
        raise Misuse(f"a URL is a str, and several are a list of them, not {type(url).__name__}")
    endpoints: list[Endpoint] = []
    for each in (url,) if isinstance(url, str) else url:
        endpoint, path = parse_url(each)
        if path != "/":
            raise Misuse(f"a link is to a service, not to {path!r}: give the path to request() or stream()")
        if endpoint in endpoints:
            raise Misuse(f"{endpoint} is given twice: give each URL once")
        endpoints.append(endpoint)
    if not endpoints:
        raise Misuse("a list without a URL leads nowhere: give at least one")
    if len({endpoint.secure for endpoint in endpoints if endpoint.path is None}) > 1:
        raise Misuse("http and https in one list: give URLs of one kind, for a link is encrypted or it is not")
    return tuple(endpoints)


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


def parse_proxy(url: str, endpoints: Sequence[Endpoint]) -> Proxy:
    """The proxy of ``http://[USER:PASSWORD@]HOST:PORT``, through which the endpoints are reached. Raises Misuse."""
    if not isinstance(url, str):
        raise Misuse(f"a proxy's URL is a str, not {type(url).__name__}")
    wanted = "write http://[USER:PASSWORD@]HOST:PORT"  # and what was written is not shown: it may hold a secret
    if any(character.isspace() or ord(character) < 0x21 for character in url):
        raise Misuse(f"bad URL of a proxy: white space in it; {wanted}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "http":
        raise Misuse(f"bad URL of a proxy: {wanted}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Misuse(f"bad URL of a proxy: more than a host and port; {wanted}")
    proxy = Proxy(Endpoint(host, port), _credentials(parts.username, parts.password))
    for each in endpoints:
        if each.path is not None:
            raise Misuse(f"{each} is a Unix socket, which no proxy reaches: leave proxy away")
        proxy.asks_for(each)
    return proxy


def _credentials(user: str | None, password: str | None) -> bytes | None:
    """What Basic authentication carries (RFC 7617, 2): with the percent-encoding undone, in UTF-8. Raises Misuse."""
    if user is None:
        return None
    name, secret = (unquote_to_bytes(each.encode("utf-8", "surrogateescape")) for each in (user, password or ""))
    if b":" in name:
        raise Misuse("a proxy's user has no colon in its name (RFC 7617, 2)")
    if any(byte < 0x20 or byte == 0x7F for byte in name + secret):
        raise Misuse("a proxy's user and password have no control characters in them (RFC 7617, 2)")
    return name + b":" + secret


def parse_bind(bind: str) -> Endpoint:
    """The endpoint of ``HOST:PORT`` (port 0: any free one) or ``unix:PATH``. Raises Misuse."""
    if bind.startswith(UNIX_PREFIX):
        path = bind.removeprefix(UNIX_PREFIX)
        if not path:
            raise Misuse(f"bad address {bind!r}: write unix:PATH")
        return Endpoint(path=path)
    host, colon, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
        raise Misuse(f"bad address {bind!r}: write HOST:PORT with a port from 0 to 65535, or unix:PATH")
    return Endpoint(host, int(port))
