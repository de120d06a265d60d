"""A picture of the page that shows a trace: ``python -m tests.supervisor.tracing.screenshot IN.jsonl OUT.png``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from supervisor.tracing import jsonl
from tests.supervisor.tracing.browser import Scheme, chromium, shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.supervisor.tracing.screenshot", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN.jsonl")
    parser.add_argument("target", type=Path, metavar="OUT.png")
    parser.add_argument("--dark", action="store_true", help="in dark colors")
    parser.add_argument("--keys", default="", help="keys to press first, with spaces between, such as 'n z'")
    parser.add_argument("--filter", default="", help="what to write into the filter box first")
    options = parser.parse_args()
    scheme: Scheme = "dark" if options.dark else "light"
    trace = jsonl.load(options.source)
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        shown(browser, trace, Path(folder), scheme) as view,
    ):
        if options.filter:
            view.page.fill("#filter", options.filter)
        view.press(*options.keys.split())
        view.page.screenshot(path=options.target)


if __name__ == "__main__":
    main()
