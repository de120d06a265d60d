"""What may go wrong over HTTP/1.1, beside :mod:`supervisor.adapters.blocking.errors`, in http.client's terms, too."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from actors.errors import ConnectFailed, LinkError, Outcome, ProtocolViolation, TlsFailed
from actors.tls import tls_failed
from supervisor.adapters.blocking.errors import (
    BadCall,
    CannotConnect,
    CannotSend,
    CertificateRefused,
    ConnectTimedOut,
    Disconnected,
    HTTP20Error,
    NameUnknown,
    ReadTimedOut,
    Refused,
    TimedOut,
    TlsUnusable,
)

_SETTINGS: Final = re.compile(r"\x00[\x00-\x40][^\n]?\x04")
"""What HTTP/2 begins with: a frame's length, and that it is one of SETTINGS."""


class CannotSendHeader(CannotSend, http.client.CannotSendHeader):
    """A header, or a part of a body, is given where no request takes it."""


class ConnectedAlready(BadCall, RuntimeError):
    """A tunnel is asked for when there is a connection already."""


class InvalidResponseError(ProtocolViolation, HTTP20Error, http.client.BadStatusLine):
    """The server's answer is no HTTP/1.1."""

    def __init__(self, message: str, *, outcome: Outcome = Outcome.MAYBE_PROCESSED) -> None:
        super().__init__(message, outcome=outcome)
        self.line = message


class IncompleteRead(Disconnected, http.client.IncompleteRead):
    """The connection ended within a body: ``partial`` is what the call that failed had of it."""

    def __init__(self, message: str, partial: bytes = b"", *, outcome: Outcome = Outcome.MAYBE_PROCESSED) -> None:
        super().__init__(message, outcome=outcome)
        self.args = (message,)
        self.partial = partial
        self.expected = None

    __str__ = HTTP20Error.__str__  # http.client's is its repr


class ChunkedDecodeError(IncompleteRead):
    """A body in chunks broke off, or is none."""


class ProxyFailed(CannotConnect):
    """A proxy gave no tunnel."""


class HandshakeTimedOut(TlsUnusable, TimedOut):
    """The TLS handshake took too long."""


class TLSUpgrade(TlsUnusable):
    """The server chose another protocol than HTTP/1.1 by ALPN; ``negotiated`` says which."""

    @property
    def negotiated(self) -> str:
        return self.protocol or ""


def connect_failed(error: OSError, where: str) -> ConnectFailed:
    """Why a socket could not be connected, in a line."""
    kind: type[ConnectFailed]
    match error:
        case TimeoutError():
            kind, why = ConnectTimedOut, "it took too long"
        case ConnectionRefusedError():
            kind, why = Refused, "nothing listens there"
        case socket.gaierror():
            kind, why = NameUnknown, f"its name has no address ({error.strerror})"
        case _:
            kind, why = CannotConnect, error.strerror or str(error) or type(error).__name__
    return kind.because(f"no connection to {where}: {why}", error)


def handshake_failed(error: OSError, where: str, name: str) -> TlsFailed:
    """Why TLS failed, as :mod:`actors.tls` says it."""
    said = tls_failed(error, where, name=name)
    kind: type[TlsFailed] = CertificateRefused if isinstance(error, ssl.SSLCertVerificationError) else TlsUnusable
    if isinstance(error, TimeoutError):
        kind = HandshakeTimedOut
    return kind.because(str(said), error, protocol=said.protocol)


@contextmanager
def translated(where: str, *, waits: str) -> Iterator[None]:
    """Raise what goes wrong in an exchange with ``where`` as an error of the tree; ``waits`` says what took place."""
    try:
        yield
    except LinkError:
        raise
    except http.client.RemoteDisconnected as error:
        raise _lost(Disconnected, f"{where} closed the connection without an answer", error) from error
    except http.client.IncompleteRead as error:
        raise IncompleteRead(f"{where} closed the connection in the middle of a body", error.partial) from error
    except (http.client.NotConnected, http.client.ImproperConnectionState) as error:
        raise _lost(Disconnected, f"the connection to {where} was closed while we {waits}", error) from error
    except http.client.HTTPException as error:
        said = ascii(str(error))[:120]  # an answer may hold anything
        if isinstance(error, http.client.BadStatusLine) and _SETTINGS.match(str(error)):
            said = 'it is HTTP/2, which is spoken in plaintext by HTTP20Connection, and with force_proto="h2"'
        raise InvalidResponseError.because(f"what {where} answers is no HTTP/1.1: {said}", error) from error
    except TimeoutError as error:
        raise _lost(ReadTimedOut, f"{where} was silent for too long while we {waits}", error) from error
    except (OSError, ValueError, AttributeError) as error:
        # Under a read that another thread's close() interrupts, http.client stumbles over what is gone.
        raise _lost(Disconnected, f"the connection to {where} broke while we {waits}: {error}", error) from error


def _lost(kind: type[LinkError], message: str, error: Exception) -> LinkError:
    return kind.because(message, error, outcome=Outcome.MAYBE_PROCESSED)
