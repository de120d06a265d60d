"""The errors of blocking code: each is in muxlink's tree, and also what old programs catch.

hyper's and :mod:`http.client`'s programs catch ``http.client.HTTPException``, ``ConnectionError``, ``TimeoutError``
(which is ``socket.timeout``), ``ssl.SSLError``, ``ssl.CertificateError``, ``OSError`` or ``ValueError``. So every error
here is an :class:`~actors.errors.LinkError` of the right class *and* the builtin that stands for it.
"""

from __future__ import annotations

import builtins
import http.client
import socket
import ssl
import zlib
from typing import Any, TypeVar

from actors.errors import (
    Closed,
    ConnectFailed,
    DeadlineExceeded,
    GoAway,
    InvalidHeaders,
    LimitReached,
    LinkError,
    Misuse,
    PingTimeout,
    ProtocolViolation,
    StreamReset,
    TlsFailed,
    TransportLost,
)

E = TypeVar("E", bound=LinkError)


class HTTP20Error(LinkError, http.client.HTTPException):
    """Whatever goes wrong with a blocking request."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # OSError and SSLError would say it in their way

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self.args, self.__dict__)  # OSError is not made anew as others are


class BadCall(Misuse, HTTP20Error):
    """A call that can never work as written."""


class BadBody(BadCall, TypeError):
    """A body that is no bytes."""


class BadAddress(BadCall, http.client.InvalidURL, ValueError):
    """A host or port that cannot be one."""


class BadArgument(BadCall, ValueError):
    """An argument that cannot be what it is given for."""


class InvalidBody(BadBody, ValueError):
    """A body that is no bytes; hyper says ValueError and http.client TypeError."""


class ResponseNotReady(BadCall, http.client.ResponseNotReady):
    """A response is asked for where no request awaits one."""


class CannotSend(BadCall, http.client.CannotSendRequest):
    """Headers or a body are given where no request takes them."""


class BadHeader(InvalidHeaders, HTTP20Error, ValueError):
    """A header, method or path that HTTP/2 forbids; nothing was sent."""


class BadPath(BadHeader, http.client.InvalidURL):
    """A path that HTTP/2 forbids; nothing was sent."""


class NotOpen(Closed, HTTP20Error, ValueError):
    """The connection or response was closed by this program."""


class TooMuch(LimitReached, HTTP20Error):
    """One of our own limits said no."""


class TimedOut(DeadlineExceeded, HTTP20Error, TimeoutError):
    """The time limit passed; the base of the two below."""


class ReadTimedOut(TimedOut):
    """The server sent nothing, or took nothing, within the read time-out."""


class ConnectTimedOut(ConnectFailed, TimedOut):
    """No connection could be made within the connect time-out."""


class CannotConnect(ConnectFailed, HTTP20Error, builtins.ConnectionError):
    """No connection could be made."""


class Refused(CannotConnect, ConnectionRefusedError):
    """Nothing listens there."""


class NameUnknown(ConnectFailed, HTTP20Error, socket.gaierror):
    """The host's name is unknown."""


class TlsUnusable(TlsFailed, HTTP20Error, ssl.SSLError):
    """The TLS handshake failed."""


class CertificateRefused(TlsUnusable, ssl.SSLCertVerificationError):
    """The server's certificate was not accepted: expired, of an unknown authority, or for another host."""


class Disconnected(TransportLost, HTTP20Error, http.client.RemoteDisconnected):
    """The connection broke."""


class Silent(PingTimeout, HTTP20Error, TimeoutError):
    """The server stopped answering PING."""


class StreamResetError(StreamReset, HTTP20Error):
    """The server reset the stream."""


class UnknownStream(BadCall, KeyError):
    """A stream id that was never given out, or whose response was taken already."""


class ConnectionError(GoAway, HTTP20Error, builtins.ConnectionError):
    """The server ended the whole connection (GOAWAY)."""


class ProtocolError(ProtocolViolation, HTTP20Error, http.client.BadStatusLine):
    """The server broke HTTP/2, or does not speak it."""

    line = ""


class UndecodableBody(ProtocolError, zlib.error):
    """The body is not encoded as its headers say, or ends in the middle."""


def translated(error: LinkError) -> HTTP20Error:
    """The error as blocking code raises it: the same message, facts and first cause, in a class that is here."""
    made = _made(type(error) if isinstance(error, HTTP20Error) else _class_for(error), error.args, error.__dict__)
    made.__cause__ = error.__cause__
    made.__suppress_context__ = True
    return made


def _made(kind: type[E], args: tuple[object, ...], facts: dict[str, object]) -> E:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


def _class_for(error: LinkError) -> type[HTTP20Error]:
    match error:
        case TlsFailed(__cause__=ssl.SSLCertVerificationError()):
            return CertificateRefused
        case ConnectFailed():
            return _class_of_failure(error)
        case _:
            return next((ours for theirs, ours in _CLASSES.items() if isinstance(error, theirs)), HTTP20Error)


def _class_of_failure(error: ConnectFailed) -> type[HTTP20Error]:
    """What kept us from connecting, by the first cause."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, LinkError):
        cause = cause.__cause__
    match cause:
        case builtins.ConnectionRefusedError():
            return Refused
        case socket.gaierror():
            return NameUnknown
        case TimeoutError():
            return ConnectTimedOut
        case _:
            return CannotConnect


_CLASSES: dict[type[LinkError], type[HTTP20Error]] = {
    Misuse: BadCall,
    InvalidHeaders: BadHeader,
    Closed: NotOpen,
    LimitReached: TooMuch,
    DeadlineExceeded: TimedOut,
    StreamReset: StreamResetError,
    GoAway: ConnectionError,
    ProtocolViolation: ProtocolError,
    TlsFailed: TlsUnusable,
    TransportLost: Disconnected,
    PingTimeout: Silent,
}
