"""What happens when a child ends: restart types, strategies, intensity and backoff, after Erlang/OTP's supervisor.

Pure: time is passed in, a decision comes out. Four questions, asked in this order:

1. Does this end ask for a restart, and who is to blame (:func:`judge`)? Our own bugs spend intensity; a peer that is
   away only backs off.
2. Are there restarts left (:class:`Meter`)? If not, the supervisor gives up and ends.
3. Who else must stop, and who starts again (a :class:`Strategy`)?
4. How long does the child wait before that (:class:`Delays`)?
"""

from __future__ import annotations

import enum
import inspect
import random as randomness
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import Attribute, field, frozen

from actors.errors import Misuse, RemoteError, TransportError
from actors.messages import Exited
from actors.settings import Backoff

if TYPE_CHECKING:
    from actors.actor import Actor

FOREVER: Final = float("inf")


class Restart(enum.Enum):
    """Which ends of a child are followed by a restart."""

    PERMANENT = "permanent"
    """Every one: the child is a service. A normal end spends intensity as well, or a child that has nothing to do
    would start and end for ever."""
    TRANSIENT = "transient"
    """A crash, or a peer or transport that failed: the child is a job that must come to its end."""
    TEMPORARY = "temporary"
    """None, not even along with others: the child is forgotten when it ends."""


class Verdict(enum.Enum):
    """What one end of one child asks for."""

    FORGET = "forget"
    REST = "rest"
    """It has done what it was for: it stays as it is, and can be started again by hand."""
    RESTART = "restart"
    """The fault is ours: intensity is spent."""
    BACK_OFF = "back off"
    """The fault is the peer's or the world's: it starts again after a wait, however often."""


def judge(restart: Restart, exited: Exited) -> Verdict:
    """What a child's end asks for, which the supervisor did not bring about."""
    if restart is Restart.TEMPORARY:
        return Verdict.FORGET
    if exited.crashed:
        return Verdict.RESTART
    if isinstance(exited.reason, (TransportError, RemoteError)):
        return Verdict.BACK_OFF
    return Verdict.RESTART if restart is Restart.PERMANENT else Verdict.REST


# --- a child ----------------------------------------------------------------------------------------------------------


def _name(owner: object, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str) or not value:
        raise Misuse(f"a child's name is a str that is not empty, not {value!r}")


def _start(owner: ChildSpec, attribute: Attribute[Any], value: object) -> None:
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise Misuse(f"child {owner.name}: start is a plain callable that returns a new actor, not {value!r}")


def _restart(owner: ChildSpec, attribute: Attribute[Restart], value: object) -> None:
    if not isinstance(value, Restart):
        raise Misuse(f"child {owner.name}: restart is a Restart, such as Restart.PERMANENT, not {value!r}")


def _shutdown(owner: ChildSpec, attribute: Attribute[float | None], value: object) -> None:
    # bool is an int, and nan compares false with everything.
    if value is not None and not (type(value) in (int, float) and value >= 0):  # type: ignore[operator]
        raise Misuse(f"child {owner.name}: shutdown is a number of seconds, or None, not {value!r}")


def _backoff(owner: ChildSpec, attribute: Attribute[Backoff | None], value: object) -> None:
    if value is not None and not isinstance(value, Backoff):
        raise Misuse(f"child {owner.name}: backoff is a Backoff, or None, not {value!r}")


@frozen
class ChildSpec:
    """How a supervisor makes a child, and what it does with it; raises Misuse for what cannot work."""

    name: str = field(validator=_name)
    """By which the supervisor and its users know the child; its actors may bear others."""
    start: Callable[[], Actor[Any]] = field(validator=_start, repr=False)
    """Makes a new actor each time and does not start it; must not wait."""
    restart: Restart = field(default=Restart.PERMANENT, validator=_restart)
    shutdown: float | None = field(default=None, kw_only=True, validator=_shutdown)
    """Seconds that it has for ending when told to, before it is cancelled; ``math.inf``: all it takes.

    None: 5, and for a supervisor all it takes, since its children have their own times.
    """
    backoff: Backoff | None = field(default=None, kw_only=True, validator=_backoff)
    """How long each restart waits. None: not at all after a fault of ours, and as ``Backoff()`` says after others."""


class Delays:
    """The waits of a :class:`~actors.settings.Backoff`: each longer than the one before, up to its maximum."""

    __slots__ = ("_backoff", "_random", "_wait")

    def __init__(self, backoff: Backoff, random: Callable[[], float] = randomness.random) -> None:
        """``random`` gives numbers from 0 to 1, for the jitter."""
        if not isinstance(backoff, Backoff):
            raise Misuse(f"delays are those of a Backoff, not of {backoff!r}")
        self._backoff = backoff
        self._random = random
        self._wait = backoff.initial

    def next(self) -> float:
        """Seconds to wait before the next attempt; the longest is ``maximum`` with jitter on top."""
        backoff, wait = self._backoff, self._wait
        self._wait = min(wait * backoff.factor, backoff.maximum)
        return wait * (1.0 + backoff.jitter * (2.0 * self._random() - 1.0))

    def reset(self) -> None:
        """Begin again with the shortest wait: an attempt was good."""
        self._wait = self._backoff.initial


# --- intensity --------------------------------------------------------------------------------------------------------


def _restarts(owner: object, attribute: Attribute[int], value: object) -> None:
    if type(value) is not int or value < 0:
        raise Misuse(f"Intensity.restarts is a whole number from 0, not {value!r}")


def _seconds(owner: object, attribute: Attribute[float], value: object) -> None:
    if type(value) not in (int, float) or not 0 < value < FOREVER:  # type: ignore[operator]
        raise Misuse(f"Intensity.seconds is a number of seconds above 0, not {value!r}")


@frozen
class Intensity:
    """How many restarts a supervisor makes within which time; one more, and it gives up."""

    restarts: int = field(default=5, validator=_restarts)
    seconds: float = field(default=30.0, validator=_seconds)


class Meter:
    """Counts restarts against an :class:`Intensity`."""

    __slots__ = ("_intensity", "_spent")

    def __init__(self, intensity: Intensity) -> None:
        if not isinstance(intensity, Intensity):
            raise Misuse(f"intensity is an Intensity, not {intensity!r}")
        self._intensity = intensity
        self._spent: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Spend one restart at the time ``now``; False where that is one too many. Times must not go backwards."""
        spent, intensity = self._spent, self._intensity
        while spent and now - spent[0] > intensity.seconds:
            spent.popleft()
        if len(spent) >= intensity.restarts:
            return False
        spent.append(now)
        return True


# --- strategies -------------------------------------------------------------------------------------------------------


@frozen
class Plan:
    """Who stops and who starts again, by name."""

    stop: tuple[str, ...]
    """In this order, one after the other; those that have ended already are passed over."""
    start: tuple[str, ...]
    """In this order, once all of ``stop`` have ended."""


class Strategy(Protocol):
    """What the end of one child means for the others."""

    def decide(self, failed: str, children: Sequence[ChildSpec]) -> Plan:
        """The plan after ``failed`` has ended and shall run again.

        ``children`` are in the order of their start: ``failed``, and all others that run or are about to.
        """
        ...


@frozen
class OneForOne:
    """Children that do not depend on each other: only the failed one starts again."""

    def decide(self, failed: str, children: Sequence[ChildSpec]) -> Plan:
        position = _position(failed, children)
        return _again(failed, children[position : position + 1])


@frozen
class OneForAll:
    """Children that depend on each other: all stop and start again."""

    def decide(self, failed: str, children: Sequence[ChildSpec]) -> Plan:
        _position(failed, children)
        return _again(failed, children)


@frozen
class RestForOne:
    """Children that depend on those before them: the failed one and those after it start again."""

    def decide(self, failed: str, children: Sequence[ChildSpec]) -> Plan:
        return _again(failed, children[_position(failed, children) :])


def check_strategy(strategy: object) -> None:
    """Raise Misuse for what is no strategy."""
    if isinstance(strategy, type) or not callable(getattr(strategy, "decide", None)):
        raise Misuse(f"a strategy has a decide(failed, children), such as OneForOne(); {strategy!r} has none")


def _position(failed: str, children: Sequence[ChildSpec]) -> int:
    for position, child in enumerate(children):
        if child.name == failed:
            return position
    raise Misuse(
        f"{failed!r} is none of the children: {', '.join(child.name for child in children) or 'there are none'}"
    )


def _again(failed: str, affected: Sequence[ChildSpec]) -> Plan:
    """Stop all of ``affected`` but the failed one, which has ended; start all but those that never start again."""
    return Plan(
        tuple(child.name for child in reversed(affected) if child.name != failed),
        tuple(child.name for child in affected if child.restart is not Restart.TEMPORARY),
    )
