"""The command line: python -m tests.benchmarks NAME [--json] [--pairs N] [--recorder]."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from tests.benchmarks import report, suite
from tests.benchmarks.harness import NOISE, RECORDED, Benchmark, Failed, started


def _arguments() -> argparse.Namespace:
    names = dict.fromkeys(benchmark.name.partition(":")[0] for benchmark in suite.ALL)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="ours against a bare h2 loop")
    parser.add_argument("name", choices=[*names, "all"], metavar="NAME", help=", ".join([*names, "all"]))
    parser.add_argument("--json", action="store_true", help="print one JSON object a benchmark, one on each line")
    parser.add_argument("--pairs", type=int, default=7, metavar="N", help="how often to run all variants (default 7)")
    parser.add_argument("--seconds", type=float, default=3, metavar="S", help="how long a run takes, about (default 3)")
    parser.add_argument("--recorder", action="store_true", help="measure ours with its flight recorder on as well")
    parser.add_argument("--noise", action="store_true", help="measure the bare loop against itself as well")
    asked = parser.parse_args()
    if asked.pairs < 1 or not 0 < asked.seconds <= 60:
        parser.error("at least 1 pair, and at most 60 seconds a run")
    return asked


def _terminated(number: int, frame: FrameType | None) -> None:
    # As an exception, so that every process that was started is ended.
    sys.exit(128 + number)


def _run(benchmark: Benchmark, asked: argparse.Namespace) -> None:
    extra = [RECORDED] * asked.recorder + [NOISE] * asked.noise
    with started(benchmark, seconds=asked.seconds, extra=extra) as running:
        if asked.json:
            print(json.dumps(report.as_json(running, list(running.pairs(asked.pairs)))), flush=True)
            return
        table = report.Table(running)
        print(table.heading(), flush=True)
        pairs = []
        for number, pair in enumerate(running.pairs(asked.pairs), 1):
            pairs.append(pair)
            print(table.row(number, pair), flush=True)
        print(table.summary(pairs), flush=True)


def main() -> int:
    """Run what was asked for; 1 where a run failed."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        for benchmark in suite.ALL:
            if asked.name in (benchmark.name.partition(":")[0], "all"):
                _run(benchmark, asked)
    except Failed as failure:
        print(f"benchmark failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
