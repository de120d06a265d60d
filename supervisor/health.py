"""When a peer is asked for a sign of life, when it is dead, and how often a client may ask (no I/O, time is passed in).

Theory of operation
    Any byte is life. Silence leads to a PING, and silence after a PING to an end; but only silence that could have been
    broken counts. While our own loop stands still nobody is heard, so the time after a PING is cut into pieces: of a
    piece whose end was noticed late only the part before the delay counts, and the pieces after it still have to pass.
    A stall of any length costs a healthy peer no more than one of :data:`LOOKS` pieces.
"""

from __future__ import annotations

from typing import Final

from actors.patience import EARLY
from actors.pulse import Act, Decision
from actors.settings import Health

LOOKS: Final = 10
"""Pieces into which the time for an answer is cut."""


class PingMonitor:
    """Watches one peer; a :class:`~actors.pulse.Monitor`."""

    __slots__ = ("_busy", "_health", "_heard", "_interval", "_looked", "_out", "_suspected", "_waited")

    def __init__(self, health: Health, *, factor: float = 1.0) -> None:
        """``factor`` lengthens the interval, for a peer that found PINGs too many."""
        self._health = health
        self._interval = health.interval * factor
        self._busy: float | None = None
        self._out = False
        self._suspected = False
        self._heard = 0.0
        self._looked = 0.0
        self._waited = 0.0

    @property
    def health(self) -> Health:
        """What it was made of."""
        return self._health

    @property
    def factor(self) -> float:
        """By how much its interval is longer than that says."""
        return self._interval / self._health.interval

    def pinged(self, now: float) -> float:
        """The silence that counts begins now."""
        self._out, self._suspected = True, False
        self._heard = self._looked = now
        self._waited = 0.0
        return now + self._piece()

    def answered(self) -> None:
        """Nothing is waited for until the next silence."""
        self._out = False

    def decide(self, now: float, heard: float, *, streams: int, late: float = 0.0) -> Decision:
        """Whether silence has lasted too long."""
        if self._out:
            return self._judge(now, heard, late)
        if not streams and not self._health.while_idle:
            self._busy = None
            return Decision(Act.NOTHING)
        if self._busy is None:
            self._busy = now  # what was not said while nobody waited for anything is no silence
        due = max(heard, self._busy) + self._interval
        return Decision(Act.PING) if now >= due - EARLY else Decision(Act.NOTHING, due)

    def _judge(self, now: float, heard: float, late: float) -> Decision:
        if heard > self._heard:  # life, though no answer: only what is said from then on can be missed
            self._heard = self._looked = heard
            self._waited = 0.0
        self._waited += max(0.0, now - self._looked - late)
        self._looked = now
        if self._waited >= self._health.timeout - EARLY:
            return Decision(Act.END)
        act = Act.NOTHING
        if not self._suspected and self._waited >= self._health.suspect - EARLY:
            self._suspected, act = True, Act.SUSPECT
        return Decision(act, now + self._piece())

    def _piece(self) -> float:
        """Seconds until the next look, so that a stall is noticed and both times are met exactly."""
        health, waited = self._health, self._waited
        piece = min(health.timeout / LOOKS, health.timeout - waited)
        if waited < health.suspect - EARLY:
            piece = min(piece, health.suspect / 2, health.suspect - waited)
        return max(piece, EARLY)


class PingStrikes:
    """Counts one client's PINGs; a :class:`~actors.pulse.Doorkeeper`.

    A PING each ``least_ping_interval`` is free, whenever it comes; those beyond are a debt that time pays back.
    """

    __slots__ = ("_interval", "_most", "_paid")

    def __init__(self, health: Health) -> None:
        self._interval = health.least_ping_interval
        self._most = self._interval * health.max_ping_strikes
        self._paid: float | None = None
        """Until when the PINGs that came would have taken, one each interval."""

    def sent(self) -> None:
        """All debts are forgiven."""
        self._paid = None

    def allows(self, now: float) -> bool:
        """Whether the debt is small enough; what is not allowed adds nothing to it."""
        paid = now if self._paid is None else max(now, self._paid)
        if paid - now > self._most + EARLY:
            return False
        self._paid = paid + self._interval
        return True
