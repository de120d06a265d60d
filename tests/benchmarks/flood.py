"""The benchmark ``flood``: what a bystander notices while another client attacks the same server.

The server is ours with its default limits. The bystander (see ``bystander``) makes requests at fixed times on one
connection, and its latencies count from those times. The server's growth is the peak of its resident memory over what
it was before the attack. There is no bare loop beside it, for that has no limits to compare.
"""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from typing import Any, Final

from attrs import asdict, frozen

from actors.settings import Limits
from tests.benchmarks import attacks, report
from tests.benchmarks.harness import OURS, READY_SECONDS, Failed, module, output, running, serving

SECONDS: Final = 10.0
_RATE: Final = 200
_NOTHING: Final = "nothing"
_BAR_SECONDS: Final = 0.05
_BAR_BYTES: Final = Limits().process_bytes
_MIB: Final = 1024 * 1024


_LONGER: Final = 1.5
"""Seconds of the attack beside those of the bystander, whose process takes time to start."""


@frozen
class _Did:
    """What an attacker says that it did."""

    frames: int
    connects: int
    ends: dict[str, int]


@frozen(kw_only=True)
class Outcome:
    """What came of one attack."""

    attack: str
    p50: float
    """Seconds, of the bystander's requests."""
    p99: float
    worst: float
    failed: int
    """Of the bystander's requests."""
    grown: int
    """Bytes."""
    frames_per_second: float
    connects: int
    ends: dict[str, int]
    """How often the server ended a connection, by the code that it said."""

    @property
    def met(self) -> bool:
        return self.p99 <= _BAR_SECONDS and self.grown <= _BAR_BYTES and not self.failed


@frozen
class Flood:
    """All attacks, one after the other."""

    name: str = "flood"

    def attacks(self, asked: str) -> tuple[str, ...]:
        """The attacks that ``flood`` or ``flood:ATTACK`` asks for."""
        names = (_NOTHING, *(attack.name for attack in attacks.ALL))
        only = asked.partition(":")[2]
        return tuple(name for name in names if only in ("", name))

    def outcomes(self, asked: str, seconds: float) -> Iterator[Outcome]:
        for name in self.attacks(asked):
            yield _outcome(name, seconds)

    def heading(self, seconds: float) -> str:
        return (
            f"flood: a bystander's {_RATE} requests/s while another client attacks for {seconds:g} s\n"
            f"bars: p99 <= {_BAR_SECONDS * 1e3:g} ms, growth <= {_BAR_BYTES / _MIB:g} MiB, no failed request; "
            f"frames and ends are the attacker's count\n"
            f"{'attack':<22}{'p50 ms':>8}{'p99 ms':>8}{'worst':>8}{'failed':>8}{'MiB':>7}{'frames/s':>10}{'bars':>8}"
            "  ended"
        )

    def row(self, outcome: Outcome) -> str:
        times = "".join(f"{second * 1e3:>8.1f}" for second in (outcome.p50, outcome.p99, outcome.worst))
        ends = ", ".join(f"{count} x {code}" for code, count in outcome.ends.items())
        return (
            f"{outcome.attack:<22}{times}{outcome.failed:>8}{outcome.grown / _MIB:>7.1f}"
            f"{outcome.frames_per_second:>10,.0f}{'met' if outcome.met else 'missed':>8}  {ends or 'never'}"
        )

    def as_json(self, outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds": seconds,
            "bars": {"p99": _BAR_SECONDS, "grown": _BAR_BYTES},
            "attacks": [{**asdict(outcome), "met": outcome.met} for outcome in outcomes],
            **report.machine(),
        }


def _outcome(name: str, seconds: float) -> Outcome:
    with serving(OURS, "flood-server") as (process, port):
        _bystander(port, 1)
        before = _memory(process.pid, "VmRSS")
        if name == _NOTHING:
            latencies, did = _bystander(port, seconds), _Did(0, 0, {})
        else:
            latencies, did = _attacked(name, port, seconds)
        grown = _memory(process.pid, "VmHWM") - before
        if process.poll() is not None:
            raise Failed(f"the server ended under {name}")
    return Outcome(
        attack=name,
        p50=latencies["p50"],
        p99=latencies["p99"],
        worst=latencies["worst"],
        failed=int(latencies["failed"]),
        grown=grown,
        frames_per_second=did.frames / (seconds + _LONGER),
        connects=did.connects,
        ends=did.ends,
    )


def _attacked(name: str, port: int, seconds: float) -> tuple[dict[str, float], _Did]:
    with running(module("attacker", name, str(port), str(seconds + _LONGER))) as attacker:
        assert attacker.stdout is not None
        readable, _, _ = select.select([attacker.stdout], [], [], READY_SECONDS)
        if not readable or attacker.stdout.readline() != "attacking\n":
            raise Failed(f"the attacker did not begin {name}")
        latencies = _bystander(port, seconds)
        # It ends by its own clock, soon after the bystander unless that was held up for long.
        return latencies, _Did(**json.loads(attacker.stdout.readline()))


def _bystander(port: int, seconds: float) -> dict[str, float]:
    command = module("bystander", str(port), str(max(10, int(_RATE * seconds))), str(_RATE))
    found: dict[str, float] = json.loads(output(command))
    return found


def _memory(pid: int, what: str) -> int:
    """Bytes, by the kernel's count: resident now (VmRSS) or at its peak (VmHWM)."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{what}:"))
