"""What one fault did to a link, whether that is within its bounds, and the table of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import frozen

from actors.errors import Outcome
from tests.faults.witness import Left, Record, lies

MAYBE: Final = Outcome.MAYBE_PROCESSED.value
ROOM: Final = 24 << 20
"""Bytes by which a process may have grown after a few thousand requests: caches, and what the allocator keeps."""


@frozen(kw_only=True)
class Bounds:
    """What a fault may cost; times in seconds, for a machine that has other things to do."""

    knew: float | None = None
    """From its beginning until the link knew of it. None: it need not notice."""
    ready: float = 2.0
    """From its end until READY."""
    outage: float = 2.0
    """Without an answer, from its end at most."""
    failed: int | None = 0
    """Requests that fail. None: any number."""
    outcomes: frozenset[str] = frozenset((MAYBE,))
    """What those that fail may say."""
    idempotent: bool = False
    """Whether idempotent requests may fail, too."""


@frozen(kw_only=True)
class Finding:
    """What one fault did."""

    fault: str
    lasted: float
    """Seconds from its beginning to its end; 0.0 for one that only strikes."""
    knew: float | None
    """Seconds from its beginning until the link's state changed or a request failed."""
    ready: float | None
    """Seconds from its end until the link was READY for good; 0.0 where it was so already. None: it never was."""
    outage: float
    """The longest time without an answer since its beginning, in seconds."""
    asked: int
    failed: Mapping[str, int]
    """How many requests failed, by outcome."""
    unsafe: int
    """How many of those were idempotent, and could have gone again."""
    errors: Mapping[str, int]
    left: Left | None
    lies: tuple[str, ...]
    """Outcomes that the servers' logs contradict."""

    @classmethod
    def of(cls, fault: str, record: Record, began: float, healed: float, served: Mapping[str, int]) -> Finding:
        ready = record.ready(began)
        return cls(
            fault=fault,
            lasted=healed - began,
            knew=record.knew(began),
            ready=None if ready is None else max(0.0, ready - (healed - began)),
            outage=record.outage(began),
            asked=len(record.asked),
            failed=Counter(each.outcome for each in record.failed),
            unsafe=sum(each.idempotent for each in record.failed),
            errors=Counter(each.error for each in record.failed),
            left=record.left,
            lies=tuple(lies(record.asked, served)),
        )

    def complaints(self, bounds: Bounds) -> list[str]:
        """What is not within the bounds."""
        found = [f"untrue: {lie}" for lie in self.lies]
        if bounds.knew is not None and (self.knew is None or self.knew > bounds.knew):
            found.append(f"knew of it after {_seconds(self.knew)}, not {bounds.knew:g} s")
        if self.ready is None or self.ready > bounds.ready:
            found.append(f"was READY {_seconds(self.ready)} after its end, not {bounds.ready:g} s")
        if self.outage > self.lasted + bounds.outage:
            found.append(f"no answer for {self.outage:.2f} s: more than {bounds.outage:g} s beyond the fault")
        failed = sum(self.failed.values())
        if bounds.failed is not None and failed > bounds.failed:
            found.append(f"{failed} requests failed, not {bounds.failed}: {dict(self.errors)}")
        if strange := set(self.failed) - bounds.outcomes:
            found.append(f"requests failed with {', '.join(sorted(strange))}: {dict(self.errors)}")
        if self.unsafe and not bounds.idempotent:
            found.append(f"{self.unsafe} requests failed that could have gone again: {dict(self.errors)}")
        return found + self._leaks()

    def _leaks(self) -> list[str]:
        if self.left is None:
            return ["the link was never closed"]
        found = [f"{self.left.tasks} tasks are left"] if self.left.tasks else []
        if self.left.descriptors:
            found.append(f"{self.left.descriptors} descriptors are left")
        if self.left.bytes > ROOM:
            found.append(f"{self.left.bytes >> 20} MiB are left")
        return found


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


HEAD: Final = (
    f"{'fault':<18}{'lasted':>8}{'knew':>8}{'READY':>8}{'outage':>8}{'asked':>7}{'failed':>7}  left (tasks, files, MiB)"
)


def row(finding: Finding, complaints: Iterable[str]) -> str:
    """One line of the fault table, and one more for each complaint."""
    left = finding.left
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(finding.failed.items()))
    line = (
        f"{finding.fault:<18}{_seconds(finding.lasted):>8}{_seconds(finding.knew):>8}{_seconds(finding.ready):>8}"
        f"{_seconds(finding.outage):>8}{finding.asked:>7}{sum(finding.failed.values()):>7}  "
        + ("-" if left is None else f"{left.tasks}, {left.descriptors}, {max(0, left.bytes) / (1 << 20):.1f}")
        + (f"  ({outcomes})" if outcomes else "")
    )
    return "\n".join([line, *(f"    ! {complaint}" for complaint in complaints)])
