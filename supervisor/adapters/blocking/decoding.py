"""Content codings (RFC 9110, 8.4.1): gzip and deflate, as the body comes and never more than is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from supervisor.adapters.blocking.errors import UndecodableBody

MOST_CODINGS: Final = 3
"""Codings of one body, one inside the other; no honest service uses more than two."""
BLOCK: Final = 64 * 1024
"""Bytes that an inner coding is given at a time."""
MOST_DOUBT: Final = 1024
"""Bytes of deflate without a result after which it is what it says."""
_MEMBER: Final = b"\x1f"
_GZIP: Final = 16 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS


def decodes(codings: Iterable[bytes]) -> bool:
    """Whether a body with these codings comes decoded."""
    return bool(_names(codings))


def _names(codings: Iterable[bytes]) -> list[bytes]:
    """The codings to be undone, in the order in which they were done; none where one is not known."""
    names = [name for each in codings for name in each.lower().replace(b" ", b"").split(b",") if name]
    names = [name for name in names if name != b"identity"]
    return names if all(name in _INFLATERS for name in names) else []


def decoder_for(codings: Iterable[bytes]) -> Decoder | None:
    """What decodes a body whose ``content-encoding`` names these codings; None where it stays as it is.

    It stays as it is without a coding, and with one that is not known here, such as br. Raises UndecodableBody for
    more codings than anyone has a use for.
    """
    names = _names(codings)
    if not names:
        return None
    if len(names) > MOST_CODINGS:
        raise UndecodableBody(f"the body is encoded {len(names)} times over: no more than {MOST_CODINGS} are decoded")
    return Decoder([_INFLATERS[name](name.decode()) for name in reversed(names)])


class Decoder:
    """What came of an encoded body, and what it means: ``feed`` what comes, and ``take`` as much as is wanted."""

    __slots__ = ("_stages",)

    def __init__(self, stages: list[Inflater]) -> None:
        self._stages = stages

    def feed(self, data: bytes) -> None:
        """Take in more of the body as it came."""
        self._stages[0].feed(data)

    def take(self, most: int) -> bytes:
        """Up to ``most`` bytes of the decoded body; ``b""`` where more must be fed first, or at its end.

        Raises UndecodableBody.
        """
        return self._take(len(self._stages) - 1, most)

    def _take(self, at: int, most: int) -> bytes:
        stage = self._stages[at]
        while not (data := stage.take(most)) and at:
            if not (more := self._take(at - 1, BLOCK)):
                break
            stage.feed(more)
        return data

    def end(self) -> None:
        """Say that nothing more comes; call it once ``take`` gives nothing. Raises UndecodableBody for a part."""
        for stage in self._stages:
            stage.end()


class Inflater:
    """One coding."""

    __slots__ = ("_again", "_began", "_first", "_input", "_name", "_object", "_over", "_wbits")

    def __init__(self, name: str, wbits: int) -> None:
        self._name = name
        self._wbits = wbits
        self._object = zlib.decompressobj(wbits)
        self._input = b""
        """What was fed and is not used yet."""
        self._first: bytes | None = b"" if wbits == zlib.MAX_WBITS else None
        """Of deflate, what was fed so far, until it is known whether it has zlib's wrapping."""
        self._again = False
        """Whether a member of gzip has ended, and another may come."""
        self._began = self._over = False

    def feed(self, data: bytes) -> None:
        if self._again and data:
            self._again, self._over = False, not data.startswith(_MEMBER)
        self._began = self._began or bool(data)
        if not self._over:
            self._input = self._input + data if self._input else data

    def take(self, most: int) -> bytes:
        while not self._over and most > 0:
            data = self._inflate(most)
            if self._object.eof:
                self._next_member()
            if data or not self._input:
                return data
        return b""

    def _inflate(self, most: int) -> bytes:
        given, self._input = self._input, b""
        if self._first is not None:
            self._first = self._first + given if len(self._first) < MOST_DOUBT else None
        try:
            data = self._object.decompress(given, most)
        except zlib.error as error:
            if self._first is None:
                message = f"the body is not {self._name}, as its headers say: {error}"
                raise UndecodableBody.because(message, error) from error
            # Some send deflate without the wrapping that RFC 9110, 8.4.1.2 asks for.
            whole, self._first = self._first, None
            self._object = zlib.decompressobj(_RAW)
            self._input = whole
            return self._inflate(most)
        if data:
            self._first = None
        self._input = self._object.unconsumed_tail
        return data

    def _next_member(self) -> None:
        rest = self._object.unused_data
        if self._wbits == _GZIP and rest.startswith(_MEMBER):
            self._object, self._input = zlib.decompressobj(_GZIP), rest  # RFC 1952, 2.2
        elif self._wbits == _GZIP and not rest:
            self._object, self._began, self._again = zlib.decompressobj(_GZIP), False, True
        else:
            self._over, self._input = True, b""  # padding behind the end

    def end(self) -> None:
        if self._began and not self._over and not self._object.eof:
            raise UndecodableBody(f"the body ended in the middle of its {self._name}: part of it is missing")


def _gzip(name: str) -> Inflater:
    return Inflater(name, _GZIP)


def _deflate(name: str) -> Inflater:
    return Inflater(name, zlib.MAX_WBITS)


OF_THE_CODING: Final = ("content-encoding", "content-length")
"""What http.client's names do not show of a body that comes decoded: programs that know them would decode it again."""
_INFLATERS: Final = {b"gzip": _gzip, b"x-gzip": _gzip, b"deflate": _deflate}
