"""What aioh2's names raise, within the one error tree."""

from __future__ import annotations

from actors.errors import LinkError, Misuse, Outcome


class AIOH2Exception(LinkError):
    """The root of aioh2's own errors."""


class SendException(AIOH2Exception):
    """A body could not be sent to its end: ``data`` is the rest that did not go out, ``__cause__`` says why."""

    def __init__(
        self, data: bytes, message: str = "the rest was not sent", *, outcome: Outcome = Outcome.NOT_SENT
    ) -> None:
        super().__init__(message, outcome=outcome)
        self.data = data


class NoSuchStream(AIOH2Exception, Misuse):
    """There is no stream of that id: it was never opened, or it ended, and was forgotten for others since."""
