"""The fuzzer's command line: a loop of random cases, and the repetition of one."""

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.cases import TARGETS, Case, generate
from tests.fuzz.targets import Finding, run

MOST_GROWTH: Final = 64 << 20
"""Bytes by which the process may grow, once it has run the first cases."""
WARM_UP: Final = 300
"""Cases after which the process is as large as it should be."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Say random things to wires and connections, and see what they do."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on (default: 60)")
    parser.add_argument("--seed", type=int, help="begin with this seed (default: another one each time)")
    parser.add_argument("--into", type=Path, default=Path(), help="where to write findings (default: here)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one case again that was written to FILE")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return replay(options.replay)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    return fuzz(options.seconds, seed, options.into)


def fuzz(seconds: float, seed: int, into: Path) -> int:
    """Run cases until the time is up or one is a finding; each has a seed of its own, from ``seed`` on."""
    print(f"seed {seed}")
    began = time.monotonic()
    ran: Counter[str] = Counter()
    broken = number = largest = 0
    while time.monotonic() - began < seconds:
        case = generate(random.Random(seed + number), TARGETS[number % len(TARGETS)])
        try:
            broken += run(case)
            if number == WARM_UP:
                largest = _peak()
            elif number > WARM_UP and (grown := _peak() - largest) > MOST_GROWTH:
                raise Finding(f"memory has grown by {grown >> 20} MiB since case {WARM_UP}")
        except Finding as finding:
            return report(case, f"case {number} (seed {seed + number})", finding, into / f"fuzz-{seed + number}.case")
        ran[case.target] += 1
        number += 1
    took = time.monotonic() - began
    counts = ", ".join(f"{target} {count}" for target, count in ran.items())
    print(f"{number} cases in {took:.1f} s, {number / took:.0f} cases/s ({counts}); {broken} violations, no findings")
    return 0


def replay(file: Path) -> int:
    try:
        case = Case.decoded(file.read_bytes())
    except (OSError, ValueError) as error:
        print(f"{file} is no case: {error}", file=sys.stderr)
        return 2
    try:
        broken = run(case)
    except Finding as finding:
        return report(case, str(file), finding, None)
    print(f"{file}: no finding; {'a violation' if broken else 'no violation'}")
    return 0


def report(case: Case, name: str, finding: Finding, file: Path | None) -> int:
    print(f"FINDING in {name} against {case.target}: {finding}")
    if file is not None:
        file.write_bytes(case.encoded())
        print(f"again: python -m tests.fuzz --replay {file}")
    return 1


def _peak() -> int:
    """The most bytes of memory that the process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())
