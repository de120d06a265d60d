"""muxlink's errors as requests' own."""

from __future__ import annotations

from requests import PreparedRequest
from requests import exceptions as theirs

from actors.errors import ConnectFailed, DeadlineExceeded, InvalidHeaders, LinkError, Misuse, TlsFailed
from supervisor.adapters.blocking.errors import BadAddress, BadPath, ConnectTimedOut, UndecodableBody


class BodyTimeout(theirs.ReadTimeout, theirs.ConnectionError):
    """The body stopped coming; requests itself has a ConnectionError for that."""


def translated(
    error: LinkError, request: PreparedRequest, *, in_body: bool = False, proxied: bool = False
) -> theirs.RequestException:
    """The exception of requests that says the same."""
    return _kind_of(error, in_body=in_body, proxied=proxied)(str(error), request=request)


def _kind_of(error: LinkError, *, in_body: bool, proxied: bool) -> type[theirs.RequestException]:
    match error:
        case UndecodableBody():
            return theirs.ContentDecodingError
        case DeadlineExceeded() if not isinstance(error, (ConnectFailed, TlsFailed)):
            return BodyTimeout if in_body else theirs.ReadTimeout
        case TlsFailed(__cause__=TimeoutError() | ConnectionAbortedError()):
            return theirs.ConnectTimeout
        case TlsFailed():
            return theirs.SSLError
        case ConnectFailed() if error.status is not None or (proxied and "proxy" in str(error)):
            return theirs.ProxyError
        case ConnectTimedOut():
            return theirs.ConnectTimeout
        case BadPath() | BadAddress():
            return theirs.InvalidURL
        case InvalidHeaders():
            return theirs.InvalidHeader
        case Misuse():
            return theirs.RequestException
        case _:
            return theirs.ChunkedEncodingError if in_body else theirs.ConnectionError
