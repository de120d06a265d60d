"""How many workers there should be, who is replaced next, when to try again, and when to give up.

Pure: time is passed in, a :class:`Plan` comes out. After everything that happens the crew asks for it, and does what it
says; what is on its way already is not asked for again.

- There are ``wanted`` workers. Those that end are started again: at once if they had lived well, else after waits that
  grow; a crash loop beside workers that serve goes on slowly for ever.
- A reload replaces one at a time, by overlap: first another is READY, then the old one drains and ends, then the next.
  So there is never more than one above ``wanted``. The same is done with workers that are tired.
- A replacement that fails ends the reload: the old ones go on as if nobody had asked.
- With nobody READY, too many failures in a row are the end; at once where the first of all cannot start because they
  were asked wrongly, as with a handler that is not there.
"""

from __future__ import annotations

import enum
import random as randomness
from collections.abc import Callable
from typing import Final

from attrs import define, field, frozen

from actors.settings import Backoff
from supervisor.restart import Delays

BACKOFF: Final = Backoff(initial=0.5, factor=2.0, maximum=15.0)
LIVED_WELL: Final = 10.0
"""Seconds of being READY after which the end of a worker is not the next of a crash loop."""
MAX_FAILURES: Final = 5
"""Failures in a row that are borne while nobody is READY; with more workers, two of each."""


class Phase(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """It takes no more, and will end."""


@define(eq=False)
class Member:
    """One worker as it counts here."""

    name: str
    generation: int
    born: float
    since: float
    """When it began its phase."""
    phase: Phase = Phase.STARTING
    fresh: bool = True
    """Whether its heartbeat is; one that is not gets nothing."""
    load: int = 0
    """Connections that it was given and that have not ended."""
    tired: bool = False
    replaces: bool = False
    """Whether it starts beside one that it will replace."""


@frozen
class Plan:
    """What to do now."""

    start: int = 0
    """Workers to start."""
    replace: bool = False
    """Whether that is one beside those that are wanted, to replace one."""
    drain: tuple[str, ...] = ()
    """Workers to drain."""
    look_again: float | None = None
    """When to ask again, should nothing else happen."""
    give_up: str | None = None
    """Why there is no point in going on."""


@define(eq=False)
class Staff:
    """The workers of one parent."""

    wanted: int
    most: int
    """Connections that one worker takes."""
    random: Callable[[], float] = randomness.random
    generation: int = 1
    members: dict[str, Member] = field(factory=dict)
    hopeless: str | None = None
    """Why even the first of all cannot start, however often it is tried."""
    ever_ready: bool = False
    _delays: Delays = field(init=False)
    _failures: int = 0
    _not_before: float = 0.0
    _last_reason: str = ""

    def __attrs_post_init__(self) -> None:
        self._delays = Delays(BACKOFF, self.random)

    # --- what happens -------------------------------------------------------------------------------------------------

    def started(self, name: str, now: float, *, replaces: bool = False) -> None:
        self.members[name] = Member(name, self.generation, now, now, replaces=replaces)

    def ready(self, name: str, now: float) -> None:
        member = self.members[name]
        if member.phase is Phase.STARTING:
            member.phase, member.since = Phase.READY, now
            self.ever_ready, self.hopeless = True, None

    def drained(self, name: str, now: float, *, by_itself: bool = False) -> None:
        """It takes no more, whoever said so."""
        member = self.members[name]
        if member.phase is Phase.DRAINING or (by_itself and member.phase is Phase.STARTING):
            return  # one that never took any has failed, however it ends
        if by_itself and now - member.since < LIVED_WELL:
            self._wait(now)  # one that goes as soon as it has come is no reason for the next to come as fast
        member.phase, member.since = Phase.DRAINING, now

    def ended(self, name: str, now: float, *, reason: str, hopeless: bool = False) -> bool:
        """It is gone; an empty ``reason`` says in good order. Returns whether a reload ends with that."""
        if not reason and self.members[name].phase is Phase.STARTING:
            reason = f"{name}: ended before it was ready"
        elif not reason:
            self.drained(name, now, by_itself=True)
        member = self.members.pop(name)
        if member.phase is Phase.DRAINING:
            return False
        if member.phase is Phase.READY and now - member.since >= LIVED_WELL:
            self._calm_down()
        self._failures += 1
        self._last_reason = reason
        if hopeless and not self.ever_ready:
            self.hopeless = reason
        if self._failures > 1:
            self._wait(now)
        if member.replaces and member.phase is Phase.STARTING:
            for other in self.members.values():
                other.generation = self.generation
            return True
        return False

    def _wait(self, now: float) -> None:
        self._not_before = now + self._delays.next()

    def _calm_down(self) -> None:
        """What fails from now on is not the next of a loop."""
        self._delays.reset()
        self._failures, self._not_before = 0, 0.0

    def reload(self) -> None:
        """All that run now are to be replaced."""
        self.generation += 1

    def change(self, wanted: int) -> None:
        self.wanted = max(wanted, 1)

    # --- what follows -------------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        active = [each for each in self.members.values() if each.phase is not Phase.DRAINING]
        ready = [each for each in active if each.phase is Phase.READY]
        if not ready and (why := self._hopeless(active)):
            return Plan(give_up=why)
        missing = self.wanted - len(active)
        if self.hopeless is not None and missing >= 0:
            return Plan()  # the others have begun as well, and may fare better
        old = [each for each in ready if each.generation < self.generation or each.tired]
        # Beside those that have served for long, one that is missing, starting, or to be replaced may be in a loop.
        if not missing and not old and all(now - each.since >= LIVED_WELL for each in ready) and ready == active:
            self._calm_down()
        if missing > 0:
            if now < self._not_before:
                return Plan(look_again=self._not_before)
            return Plan(start=missing)
        if missing < 0:
            return Plan(drain=self._surplus(active, old, -missing))
        if not old or len(active) < len(self.members) or any(each.phase is Phase.STARTING for each in active):
            return Plan()  # nobody is to be replaced, or one is on its way out or in
        if now < self._not_before:
            return Plan(look_again=self._not_before)
        return Plan(start=1, replace=True)

    def _hopeless(self, active: list[Member]) -> str:
        """Why nobody will ever serve; empty while somebody may."""
        if self.hopeless is not None and not active:
            return self.hopeless
        if self._failures > max(MAX_FAILURES, 2 * self.wanted):
            return (
                f"no worker serves, and {self._failures} have failed one after the other; the last: {self._last_reason}"
            )
        return ""

    def _surplus(self, active: list[Member], old: list[Member], many: int) -> tuple[str, ...]:
        """Who has to go: who does not serve yet, then who is to be replaced, and else who has the least to lose."""
        starting = [each for each in active if each.phase is Phase.STARTING]
        coming = [each for each in starting if each.replaces]
        many -= len(coming)  # its place is made once it is READY
        old.sort(key=lambda each: (each.generation, each.since))
        by_load = sorted(active, key=lambda each: (each.load, -each.since))
        order = [*(each for each in starting if not each.replaces), *old]
        order += [each for each in by_load if each not in order and each not in coming]
        return tuple(each.name for each in order[: max(many, 0)])

    # --- who gets a connection ----------------------------------------------------------------------------------------

    def choose(self) -> Member | None:
        """Who gets the next connection: the least loaded; None where nobody can take one."""
        best: Member | None = None
        for each in self.members.values():
            if (
                each.phase is Phase.READY
                and each.fresh
                and each.load < self.most
                and (best is None or each.load < best.load)
            ):
                best = each
        return best

    def count(self, phase: Phase) -> int:
        return sum(each.phase is phase for each in self.members.values())
