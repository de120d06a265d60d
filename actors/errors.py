"""The one error tree, by who caused the error.

::

    LinkError                 the root: catch it to catch all
    ├─ LocalError             you
    │  ├─ Misuse                a call that can never work as written
    │  ├─ InvalidHeaders        a header that HTTP/2 forbids; nothing was sent
    │  ├─ Closed                the stream, connection, link or actor has ended by our own doing
    │  ├─ LimitReached          one of our own limits said no
    │  └─ DeadlineExceeded      your time limit passed
    ├─ RemoteError            the peer
    │  ├─ StreamReset           it reset the stream
    │  ├─ GoAway                it is going away and did not process the stream
    │  └─ ProtocolViolation     it broke the protocol, or does not speak it
    └─ TransportError         the world
       ├─ ConnectFailed         no connection could be made
       ├─ ListenFailed          an address could not be listened on
       ├─ TlsFailed             the TLS handshake or a certificate failed
       ├─ TransportLost         the connection broke
       ├─ PingTimeout           the peer stopped answering
       └─ ProcessFailed         a process that we run could not be started, or failed

Each message is one line that names the thing and, where there is one, the remedy. The first cause is kept and
chained (``__cause__``). No exception of h2, ssl or the socket layer is raised to a user.
"""

from __future__ import annotations

import copyreg
import enum
from typing import Any, Final, Self

_MOST_CAUSES: Final = 20
"""Of one error that are looked at; they may be a circle."""


class Outcome(enum.Enum):
    """What is known of a request that failed: may it be sent again without running twice?"""

    NOT_SENT = "NotSent"
    """No byte of it went out."""
    UNPROCESSED = "Unprocessed"
    """The peer says that it did not act on it (RFC 9113, 8.7)."""
    MAYBE_PROCESSED = "MaybeProcessed"
    """The peer may have acted on it, wholly or in part."""
    COMPLETED = "Completed"
    """The response came in full; what failed came after it."""


class ErrorCode(enum.IntEnum):
    """The error codes of RST_STREAM and GOAWAY (RFC 9113, 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """The name of an error code, or its number in hexadecimal where RFC 9113 has no name for it."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"{code:#x}"


class LinkError(Exception):
    """The root of every error that muxlink raises.

    ``outcome`` tells what became of the request that the error ends; errors that end no request say ``NOT_SENT``.
    """

    def __init__(self, message: str, *, outcome: Outcome = Outcome.NOT_SENT) -> None:
        super().__init__(message)
        self.outcome = outcome

    @classmethod
    def because(cls, message: str, cause: BaseException | None, **facts: Any) -> Self:
        """The same error with its first cause chained to it; ``facts`` are what the class takes besides its message."""
        error = cls(message, **facts)
        error.__cause__ = cause
        return error

    def with_outcome(self, outcome: Outcome) -> LinkError:
        """This error as one stream sees it: the same class, message and facts, chained to the same first cause."""
        error = type(self).__new__(type(self), *self.args)
        error.args = self.args
        error.__dict__.update(self.__dict__)
        error.outcome = outcome
        error.__cause__ = self.__cause__
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with the message alone, which those that need a code refuse.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class LocalError(LinkError):
    """The cause is on our side."""


class Misuse(LocalError):
    """A call that can never work as written."""


class InvalidHeaders(LocalError):
    """A header that HTTP/2 forbids (RFC 9113, 8.2 and 8.3); nothing was sent."""


class Closed(LocalError):
    """The stream, connection, link or actor has ended by our own doing."""


class LimitReached(LocalError):
    """One of our own limits said no."""


class DeadlineExceeded(LocalError):
    """The caller's time limit passed."""


class RemoteError(LinkError):
    """The cause is the peer."""


class StreamReset(RemoteError):
    """The peer reset the stream with ``code`` (RFC 9113, 6.4) after ``received`` bytes of body."""

    def __init__(self, message: str, *, code: int, received: int = 0, outcome: Outcome = Outcome.NOT_SENT) -> None:
        super().__init__(message, outcome=outcome)
        self.code = code
        self.received = received


class GoAway(RemoteError):
    """The peer is going away with ``code`` and ``debug`` data, and did not process the stream (RFC 9113, 6.8)."""

    def __init__(self, message: str, *, code: int, debug: bytes = b"", outcome: Outcome = Outcome.UNPROCESSED) -> None:
        super().__init__(message, outcome=outcome)
        self.code = code
        self.debug = debug


class ProtocolViolation(RemoteError):
    """The peer broke HTTP/2, or does not speak it; ``code`` is what our GOAWAY or RST_STREAM says."""

    def __init__(
        self, message: str, *, code: int = ErrorCode.PROTOCOL_ERROR, outcome: Outcome = Outcome.NOT_SENT
    ) -> None:
        super().__init__(message, outcome=outcome)
        self.code = code


class TransportError(LinkError):
    """The cause is the world between us and the peer."""


class ConnectFailed(TransportError):
    """No connection could be made; ``status`` is what a proxy answered that refused to make it, else None."""

    def __init__(self, message: str, *, status: int | None = None, outcome: Outcome = Outcome.NOT_SENT) -> None:
        super().__init__(message, outcome=outcome)
        self.status = status


class ListenFailed(TransportError):
    """An address could not be listened on."""


class TlsFailed(TransportError):
    """The TLS handshake or a certificate failed, or the peer speaks no HTTP/2 over TLS.

    In the latter case ``protocol`` is what it chose by ALPN instead, empty where it chose none or has none in common
    with us; whoever speaks HTTP/1.1, too, may try that. In every other case it is None.
    """

    def __init__(self, message: str, *, protocol: str | None = None, outcome: Outcome = Outcome.NOT_SENT) -> None:
        super().__init__(message, outcome=outcome)
        self.protocol = protocol


class TransportLost(TransportError):
    """The connection broke."""


class PingTimeout(TransportError):
    """The peer stopped answering PING."""


class ProcessFailed(TransportError):
    """A process that we run could not be started, or ended by itself and not with 0.

    ``returncode`` is as :mod:`subprocess` has it, negative for a signal, None where it was not started;
    ``last_lines`` are the last that it wrote to its stderr.
    """

    def __init__(
        self,
        message: str,
        *,
        returncode: int | None = None,
        last_lines: tuple[str, ...] = (),
        outcome: Outcome = Outcome.NOT_SENT,
    ) -> None:
        super().__init__(message, outcome=outcome)
        self.returncode = returncode
        self.last_lines = last_lines


def words_of(error: LinkError) -> str:
    """What an error says, for a trace: without the words of others that it repeats, which may be secret."""
    text, cause = str(error), error.__cause__
    for _ in range(_MOST_CAUSES):
        if cause is None:
            break
        if not isinstance(cause, LinkError) and (words := str(cause)):
            text = text.replace(words, type(cause).__name__)
        cause = cause.__cause__
    return text
