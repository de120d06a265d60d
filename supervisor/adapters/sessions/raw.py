"""What requests keeps as ``response.raw``: the response as a file, whose errors are requests' own."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from actors.errors import LinkError
from supervisor.adapters.blocking.header_map import HTTPHeaderMap
from supervisor.adapters.either.connection import AnyResponse
from supervisor.adapters.sessions.errors import translated

if TYPE_CHECKING:
    from requests import PreparedRequest


class RawResponse(io.BufferedIOBase):
    """A body as it comes; decoded if that is asked for, as urllib3 has it."""

    def __init__(self, answer: AnyResponse, request: PreparedRequest) -> None:
        self.status = answer.status
        self.reason = answer.reason
        self.version = answer.version
        self.headers: HTTPHeaderMap = answer.headers
        self._answer = answer
        self._request = request
        self._original_response = _Original(answer.msg)
        self.decode_content = False
        """Whether a read that does not say otherwise decodes gzip and deflate."""
        self._told = 0

    @contextmanager
    def _in_requests_words(self) -> Iterator[None]:
        try:
            yield
        except LinkError as error:
            raise translated(error, self._request, in_body=True) from error

    def read(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        with self._in_requests_words():
            data = self._answer.read(amt, self.decode_content if decode_content is None else decode_content)
        self._told += len(data)
        return data

    def read1(self, amt: int | None = -1, decode_content: bool | None = None) -> bytes:
        """Up to ``amt`` bytes, as few as there are; an encoded body that is not decoded is waited for."""
        decodes = self.decode_content if decode_content is None else decode_content
        if not decodes and "content-encoding" in self.headers:
            return self.read(None if amt is None or amt < 0 else amt, decode_content=False)
        with self._in_requests_words():
            data = self._answer.read1(-1 if amt is None else amt)
        self._told += len(data)
        return data

    @property
    def data(self) -> bytes:
        """What is left of the body."""
        return self.read()

    def tell(self) -> int:
        """How many bytes were read."""
        return self._told

    def stream(self, amt: int | None = 65_536, decode_content: bool = True) -> Iterator[bytes]:
        """Pieces of at most ``amt`` bytes, as they come."""
        most = 65_536 if amt is None else max(1, amt)
        while True:
            with self._in_requests_words():
                data = self._answer.read1(most) if decode_content else self._answer.read(most, False)
            if not data:
                return
            self._told += len(data)
            yield data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def isclosed(self) -> bool:
        return self._answer.isclosed()

    def getheader(self, name: str, default: str | None = None) -> str | None:
        return self.headers.text(name, default)

    def getheaders(self) -> list[tuple[str, str]]:
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers.iter_raw()]

    @property
    def trailers(self) -> HTTPHeaderMap:
        """The fields behind the body, which is read to its end for them."""
        with self._in_requests_words():
            return self._answer.trailers

    def release_conn(self) -> None:
        """Nothing: its connection serves others at the same time."""

    def close(self) -> None:
        self._answer.close()
        super().close()


class _Original:
    """Where requests looks for cookies."""

    def __init__(self, msg: http.client.HTTPMessage) -> None:
        self.msg = msg

    def isclosed(self) -> bool:
        return True
