"""How very many requests ended, in two bytes each, and whether the servers' logs agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from attrs import define, field

from actors.errors import Outcome
from tests.faults.witness import ANSWERED, RAW, WRONG, Asked, contradiction, late

CANCELLED: Final = "Cancelled"
"""Its caller gave it up: nothing is claimed of it."""
OUTCOMES: Final = (ANSWERED, CANCELLED, *(outcome.value for outcome in Outcome), WRONG, RAW)
OPEN: Final = 0
MOST_TOLD: Final = 20
"""Complaints that are kept in full."""


def idempotent(number: int) -> bool:
    """Every other request is."""
    return number % 2 == 0


@define(eq=False)
class Ledger:
    """Each request has a number, by which the servers' logs call it."""

    slack: float = 1.0
    """Seconds that a request may take beyond its deadline; grows with the lag of our own loop."""
    errors: Counter[str] = field(factory=Counter)
    """How many requests failed, by outcome and class of their error."""
    examples: dict[str, str] = field(factory=dict)
    """A message of each kind."""
    _ends: bytearray = field(factory=bytearray)
    _complaints: list[str] = field(factory=list)
    _untold: int = 0

    def begin(self) -> int:
        """The next request's number."""
        self._ends.append(OPEN)
        return len(self._ends) - 1

    def end(self, number: int, asked: Asked | None) -> None:
        """Enter how it ended; None: it was cancelled."""
        if self._ends[number] != OPEN:
            self._complain(f"{number} ended twice")
        self._ends[number] = 1 + OUTCOMES.index(CANCELLED if asked is None else asked.outcome)
        if asked is None:
            return
        if asked.outcome != ANSWERED:
            kind = f"{asked.outcome} {asked.error.partition(':')[0]}"
            self.errors[kind] += 1
            self.examples.setdefault(kind, asked.error)
        if (why := late(asked, self.slack)) is not None:
            self._complain(f"{number} {why} {asked.error}")

    def __len__(self) -> int:
        return len(self._ends)

    def outcomes(self) -> Mapping[tuple[str, bool], int]:
        """How many requests ended how, and whether they were idempotent."""
        found: Counter[tuple[str, bool]] = Counter()
        for number, end in enumerate(self._ends):
            found["" if end == OPEN else OUTCOMES[end - 1], idempotent(number)] += 1
        return found

    def judge(self, logs: Iterable[Path]) -> list[str]:
        """What is not so."""
        served = bytearray(len(self._ends))
        for log in logs:
            with log.open(encoding="ascii") as lines:
                for line in lines:
                    number = int(line)
                    served[number] = min(255, served[number] + 1)
        for number, end in enumerate(self._ends):
            outcome = CANCELLED if end == OPEN else OUTCOMES[end - 1]
            if end == OPEN:
                self._complain(f"{number} never ended")
            elif (why := contradiction(outcome, idempotent(number), served[number])) is not None:
                self._complain(f"{number} {why}")
        return self._complaints + [f"and {self._untold} more"] * bool(self._untold)

    def _complain(self, complaint: str) -> None:
        if len(self._complaints) < MOST_TOLD:
            self._complaints.append(complaint)
        else:
            self._untold += 1
