"""What a request over HTTP/1.1 is made of: addresses, times, header fields, and bodies in pieces."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from supervisor.adapters.blocking.errors import BadAddress, BadArgument, BadCall, BadHeader, BadPath, InvalidBody
from supervisor.adapters.blocking.header_map import HTTPHeaderMap

Text = str | bytes
Bytes = bytes | bytearray | memoryview
HeaderFields = Mapping[Any, Any] | Iterable[tuple[Text, Text | int]]
Timeout = float | tuple[float | None, float | None] | None

SAFE: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
"""Methods that change nothing, however often (RFC 9110, 9.2.1)."""
EXPECTS_BODY: Final = ("PATCH", "POST", "PUT")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BLANKS: Final = re.compile(r"[\x00-\x20\x7f]")
_FORBIDDEN: Final = re.compile(rb"[\x00\r\n]")
_LONGEST: Final = 10 * 86_400.0


def check_size(size: object) -> None:
    """Raise BadCall for what is no number of bytes to read."""
    if size is not None and type(size) is not int:
        raise BadCall(f"how much to read is a number of bytes, not {type(size).__name__}")


def check_transfer(blocksize: object, source_address: object = None) -> None:
    """Raise BadArgument for what files cannot be read by, and for what a socket cannot be bound to."""
    if type(blocksize) is not int or blocksize < 1:
        raise BadArgument(f"blocksize is a number of bytes from 1 on, not {blocksize!r}")
    match source_address:
        case None | (str(), int()):
            return
    raise BadArgument(f"a source_address is a pair of a host and a port, which may be 0, not {source_address!r}")


def shown(url: str) -> str:
    """An address for people: without its query, which may hold secrets."""
    path, mark, _ = url.partition("?")
    return f"{path}?..." if mark else path


class Readable(Protocol):
    """A file: its ``read(n)`` gives bytes, or text that is sent as UTF-8."""

    def read(self, size: int, /) -> Any: ...


RequestBody = str | Bytes | Readable | Iterable[Any]


def host_and_port(host: str, port: int | None, default: int) -> tuple[str, int]:
    """The two apart; a port behind the host's colon counts where none is given. Raises InvalidURL."""
    if not isinstance(host, str):
        raise BadAddress(f"a host is a str, not {type(host).__name__}")
    name, number = host, port
    if port is None:
        head, colon, tail = host.rpartition(":")
        if colon and not (host.count(":") > 1 and "]" not in head):  # an IPv6 address without brackets has no port
            if tail.endswith("]"):
                name, number = host, default
            elif tail == "":
                name, number = head, default
            elif tail.isascii() and tail.isdigit():
                name, number = head, int(tail)
            else:
                raise BadAddress(f"the port of {_shown(host)} is no number")
        else:
            number = default
    name = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if not name or not name.isprintable() or any(each in name.rpartition("@")[2] for each in " /?#"):
        raise BadAddress(f"{_shown(host)} is no host: give a name or an address, perhaps with a port")
    if type(number) is not int or not 0 < number < 65_536:
        raise BadAddress(f"a port is from 1 to 65535, not {number!r}")
    return name, number


def origin_of(host: str, port: int | None, default: int) -> tuple[str, int]:
    """The same of a host that is no proxy, and has no credentials before an @. Raises InvalidURL."""
    name, number = host_and_port(host, port, default)
    if "@" in name:
        raise BadAddress("credentials do not belong in a host: use an Authorization header")
    return name, number


def check_line(method: str, path: str) -> None:
    """Raise BadPath for what cannot be in the first line of a request over HTTP/1.1."""
    if not _TOKEN.fullmatch(method):
        raise BadPath(f"the method {method!r} is not a token, such as GET (RFC 9110, 9.1)")
    if not path.isascii() or _BLANKS.search(path):
        raise BadPath(f"the path {shown(path)!r} cannot be sent: quote all but printable ASCII")


def _shown(host: str) -> str:
    """A host for a message; before an @ there may be a password."""
    return repr(host.rpartition("@")[2])


def seconds(timeout: object) -> tuple[float | None, float | None]:
    """For connecting and for reading. Raises BadArgument, a ValueError, for what is no time."""
    if timeout is socket._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]  # what programs hand through
        timeout = socket.getdefaulttimeout()
    pair = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    for each in pair:
        if each is not None and (type(each) not in (int, float) or not 0 < each <= _LONGEST):
            raise BadArgument(f"a timeout is a number of seconds above 0 or None, or a pair of those, not {timeout!r}")
    if len(pair) != 2:
        raise BadArgument(f"a pair of timeouts is one for connecting and one for reading, not {timeout!r}")
    return pair


def text_of(text: object, what: str) -> str:
    """A method or path, which may be given as bytes. Raises BadPath."""
    if isinstance(text, bytes):
        return text.decode("latin-1")
    if not isinstance(text, str):
        raise BadPath(f"{what} is str or bytes, not {type(text).__name__}")
    return text


def fields_of(headers: HeaderFields | None) -> list[tuple[bytes, Text | int]]:
    """The header fields of a request, of a mapping, a header map, or pairs. Raises BadHeader."""
    if headers is None:
        return []
    if isinstance(headers, HTTPHeaderMap):
        pairs: Iterable[Any] = headers.iter_raw()
    else:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: list[tuple[bytes, Text | int]] = []
    try:
        for name, value in pairs:
            raw = name if isinstance(name, bytes) else name.encode("latin-1")
            if raw.startswith(b":"):  # HTTP/2's; of those, only the authority may differ from what is sent anyway
                if raw == b":authority":
                    found.append((b"Host", value))
                continue
            found.append((raw, value))
    except (TypeError, ValueError, AttributeError):
        raise BadHeader("headers are a mapping or pairs of names and values, each str or bytes") from None
    return found


def for_proxy(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """What a proxy is told beside where to. Raises BadHeader."""
    if headers is not None and not isinstance(headers, Mapping):
        raise BadHeader(f"the headers for a proxy are a mapping of names to values, not {type(headers).__name__}")
    return headers or {}


def framing(
    method: str, body: RequestBody | None, names: set[bytes], encode_chunked: bool
) -> tuple[list[tuple[bytes, Text]], bool]:
    """The fields that say how long a body is, and whether it goes in chunks, as http.client decides it."""
    if b"content-length" in names:
        return [], False
    if b"transfer-encoding" in names:
        return [], encode_chunked
    if body is None:
        return ([(b"Content-Length", b"0")] if method.upper() in EXPECTS_BODY else []), False
    if isinstance(body, str):
        return [(b"Content-Length", str(len(body.encode("utf-8", "surrogateescape"))))], False
    if not hasattr(body, "read"):
        try:
            return [(b"Content-Length", str(memoryview(body).nbytes))], False  # type: ignore[arg-type]
        except TypeError:
            pass
    return [(b"Transfer-Encoding", b"chunked")], True


def pieces(body: RequestBody, size: int) -> Iterator[Bytes]:
    """A body in pieces that are not empty. Raises InvalidBody, a TypeError and ValueError, for what is none."""
    if hasattr(body, "read"):
        while data := body.read(size):
            yield _piece(data)
        return
    if isinstance(body, (str, bytes, bytearray, memoryview)):
        parts: Iterator[Any] = iter((body,))
    elif isinstance(body, Mapping):
        raise InvalidBody("a body is bytes, str, a file, or an iterable of bytes, not a mapping: encode it first")
    else:
        try:
            parts = iter((memoryview(body),))  # type: ignore[arg-type]
        except TypeError:
            try:
                parts = iter(body)
            except TypeError:
                raise InvalidBody(
                    f"a body is bytes, str, a file, or an iterable of bytes, not {type(body).__name__}"
                ) from None
    for part in parts:
        if data := _piece(part):
            yield data


def _piece(part: object) -> Bytes:
    if isinstance(part, str):
        return part.encode("utf-8", "surrogateescape")
    if isinstance(part, (bytes, bytearray)):
        return part
    try:
        return memoryview(part).cast("B")  # type: ignore[arg-type]
    except TypeError:
        raise InvalidBody(f"the parts of a body are bytes, not {type(part).__name__}") from None


def header_of(name: object, values: tuple[object, ...]) -> tuple[str, bytes]:
    """A header field as it is sent, several values joined by commas. Raises BadHeader."""
    known = name.decode("latin-1") if isinstance(name, bytes) else name
    if not isinstance(known, str) or not _TOKEN.fullmatch(known) or not values:
        raise BadHeader(f"the header {known!r} has a name that cannot be sent, or no value")
    parts = []
    for value in values:
        text = str(value) if isinstance(value, int) else value
        try:
            part = text.encode("latin-1") if isinstance(text, str) else text
        except UnicodeEncodeError:
            part = None
        if not isinstance(part, bytes) or _FORBIDDEN.search(part):
            # The value is not known: it may be a secret.
            raise BadHeader(f"the header {known!r} has a value that cannot be sent: give str in latin-1, bytes or int")
        parts.append(part.strip(b" \t"))
    return known, b", ".join(parts)


def chunk(piece: Bytes) -> bytes:
    """A piece as one chunk (RFC 9112, 7.1)."""
    return b"".join((b"%X\r\n" % len(piece), piece, b"\r\n"))


class Dechunker:
    """Takes apart what a caller made into chunks itself, for a protocol that has none."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        """Bytes of the chunk that is being read, with the line end behind it."""
        self.over = False
        """Whether the last chunk has come."""

    def feed(self, data: Bytes) -> bytes:
        """The payload of what came. Raises InvalidBody."""
        self._buffer += data
        parts = []
        while not self.over:
            if self._left:
                part, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                parts.append(part[: max(0, self._left - 2)])
                self._left -= len(part)
            if self._left or b"\r\n" not in self._buffer:
                break
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            self._left = self._size(line)
            self.over = not self._left
            self._left += 2
        return b"".join(parts)

    @staticmethod
    def _size(line: bytes) -> int:
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 16 or digits.strip(b"0123456789abcdefABCDEF"):
            raise InvalidBody("the body is not in chunks, as its Transfer-Encoding says: give encode_chunked=True")
        return int(digits, 16)


def dechunked(parts: Iterable[Bytes]) -> Iterator[bytes]:
    """The payload of a body that its caller made into chunks."""
    dechunker = Dechunker()
    for part in parts:
        if data := dechunker.feed(part):
            yield data
