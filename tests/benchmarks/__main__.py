"""The command line: python -m tests.benchmarks NAME [--json] [--pairs N] [--recorder]."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from tests.benchmarks import flood, report, suite
from tests.benchmarks.flood import Flood
from tests.benchmarks.harness import BARE, NOISE, RECORDED, Benchmark, Failed, Running, started
from tests.benchmarks.studies import Report as StudyReport
from tests.benchmarks.studies import Study

SECONDS = 3.0
PAIRS = 7


def _arguments() -> argparse.Namespace:
    names = list(dict.fromkeys(each.name.partition(":")[0] for each in suite.ALL))
    single = [each.name for each in suite.ALL] + [f"flood:{attack}" for attack in Flood().attacks("flood")]
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="ours against a bare h2 loop",
        epilog=f"a part alone: {', '.join(name for name in single if ':' in name)}",
    )
    parser.add_argument("name", choices=[*names, *single, "all"], metavar="NAME", help=", ".join([*names, "all"]))
    parser.add_argument("--json", action="store_true", help="print one JSON object a benchmark, one on each line")
    parser.add_argument(
        "--pairs", type=int, metavar="N", help="how often to run all variants (default 7, spread 5, idle 3, reload 1)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="how long a run takes, about (default 3; an attack of flood 10, reload 20, idle 60)",
    )
    parser.add_argument("--recorder", action="store_true", help="measure ours with its flight recorder on as well")
    parser.add_argument("--noise", action="store_true", help="measure the bare loop against itself as well")
    asked = parser.parse_args()
    if (asked.pairs is not None and asked.pairs < 1) or not 0 < (asked.seconds or SECONDS) <= 60:
        parser.error("at least 1 pair, and more than 0 and at most 60 seconds a run")
    return asked


def _terminated(number: int, frame: FrameType | None) -> None:
    # As an exception, so that every process that was started is ended.
    sys.exit(128 + number)


def _run(asked: argparse.Namespace, benchmark: Benchmark | Study | Flood) -> None:
    extra = (RECORDED,) * asked.recorder + (NOISE,) * asked.noise
    match benchmark:
        case Benchmark():
            with started(benchmark, seconds=asked.seconds or SECONDS, extra=extra) as running:
                _compare(asked, running)
        case Study():
            with benchmark.open(asked.seconds or benchmark.seconds) as begun:
                _study(
                    asked,
                    StudyReport(
                        benchmark, begun, (*benchmark.variants, *(extra if BARE in benchmark.variants else ()))
                    ),
                )
        case Flood():
            _flood(asked, benchmark, asked.seconds or flood.SECONDS)


def _compare(asked: argparse.Namespace, running: Running) -> None:
    if asked.json:
        print(json.dumps(report.as_json(running, list(running.pairs(asked.pairs or PAIRS)))), flush=True)
        return
    table = report.Table(running)
    print(table.heading(), flush=True)
    pairs = []
    for number, pair in enumerate(running.pairs(asked.pairs or PAIRS), 1):
        pairs.append(pair)
        print(table.row(number, pair), flush=True)
    print(table.summary(pairs), flush=True)


def _study(asked: argparse.Namespace, study: StudyReport) -> None:
    if not asked.json:
        print(study.heading(), flush=True)
    for number, pair in enumerate(study.rounds(asked.pairs or study.study.pairs), 1):
        if not asked.json:
            print(study.rows(str(number), pair), flush=True)
    print(json.dumps(study.as_json()) if asked.json else study.summary(), flush=True)


def _flood(asked: argparse.Namespace, attacked: Flood, seconds: float) -> None:
    if not asked.json:
        print(attacked.heading(seconds), flush=True)
    outcomes = []
    for outcome in attacked.outcomes(asked.name, seconds):
        outcomes.append(outcome)
        if not asked.json:
            print(attacked.row(outcome), flush=True)
    print(json.dumps(attacked.as_json(outcomes, seconds)) if asked.json else "", flush=True)


def main() -> int:
    """Run what was asked for; 1 where a run failed."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        for benchmark in suite.ALL:
            group = benchmark.name.partition(":")[0]
            if asked.name in (group, benchmark.name, "all") or (group == "flood" and asked.name.startswith("flood:")):
                _run(asked, benchmark)
    except Failed as failure:
        print(f"benchmark failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
