"""hyper's exceptions by their names: those of ``hyper.common.exceptions`` and of ``hyper.http20.exceptions``.

Each is, or holds, what is raised here instead, so that ``except`` clauses go on working; all are
:class:`~actors.errors.LinkError`. Where hyper had one name for two things, the name is a tuple of both.
"""

from __future__ import annotations

from typing import Final

from actors.errors import LinkError, TransportError
from supervisor.adapters.blocking.errors import (
    BadCall,
    BadHeader,
    ConnectionError,
    Disconnected,
    HTTP20Error,
    ProtocolError,
    UnknownStream,
)
from supervisor.adapters.blocking.errors import StreamResetError as _StreamReset
from supervisor.adapters.http11.errors import ChunkedDecodeError, InvalidResponseError, TLSUpgrade

__all__ = (
    "ChunkedDecodeError",
    "ConnectionError",
    "ConnectionResetError",
    "HPACKDecodingError",
    "HPACKEncodingError",
    "HTTP20Error",
    "HTTPUpgrade",
    "InvalidResponseError",
    "LineTooLongError",
    "MissingCertFile",
    "ProtocolError",
    "SocketError",
    "StreamResetError",
    "TLSUpgrade",
)


class HTTPUpgrade(LinkError):
    """hyper's sign to itself that a server switched to HTTP/2; it is never raised here."""


class MissingCertFile(BadCall, FileNotFoundError):
    """A file of certificates is not there."""


StreamResetError: Final = (_StreamReset, UnknownStream)
"""The server reset a stream; or there is none by the id."""
ConnectionResetError: Final = Disconnected
SocketError: Final = TransportError
LineTooLongError: Final = InvalidResponseError
HPACKDecodingError: Final = ProtocolError
HPACKEncodingError: Final = BadHeader
