"""The fault table: ``python -m tests.faults [NAME ...]`` acts out every fault, and exits 1 where one costs too much."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.network import Unavailable
from tests.faults.report import HEAD, row
from tests.faults.scenes import FAULTS


async def _find(chosen: Sequence[str]) -> int:
    print(HEAD)
    bad = 0
    for fault in FAULTS:
        if chosen and fault.name not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                finding, complaints = await fault.find(Path(folder))
            except Unavailable as error:
                print(f"{fault.name:<18}not here: {error}")
                continue
        bad += bool(complaints)
        print(row(finding, complaints), flush=True)
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Act faults out, and print what they cost."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    options = parser.parse_args(arguments)
    logging.getLogger("muxlink").setLevel(logging.ERROR)  # each refused attempt is a warning
    return asyncio.run(_find(options.names))


if __name__ == "__main__":
    sys.exit(main())
