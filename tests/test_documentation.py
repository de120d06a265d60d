"""What the documentation shows runs, and prints what it says."""

from __future__ import annotations

import importlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in BLOCK.finditer(README)]


def programs() -> list[tuple[str, str]]:
    """Each Python block with the plain block after it: the program and what it prints."""
    found = blocks()
    return [(code, output) for (kind, code), (_, output) in itertools.pairwise(found) if kind == "python"]


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-X", "dev", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_the_readme_shows_programs_with_their_output() -> None:
    assert len(programs()) == 2


@pytest.mark.parametrize(("program", "output"), programs())
def test_each_program_of_the_readme_prints_what_the_readme_says(program: str, output: str) -> None:
    done = run("-", text=program)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_the_example_of_the_seeds_prints_the_greeting_and_its_trailers() -> None:
    done = run("-m", "examples.core")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Response status: 200",
        "Response body: b'hello, world'",
        "Response trailers: Headers('len: 5')",
    ]


def test_each_example_is_run_by_a_test() -> None:
    run_by_tests = {"hello", "core"}  # hello is served by the tests of the command line
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"} == run_by_tests


def test_the_demo_prints_the_lines_that_the_readme_shows() -> None:
    shown = next(code for kind, code in blocks() if kind == "console" and "make demo" in code).splitlines()[1:]
    done = run("-m", "supervisor.cli", "demo")
    assert (done.returncode, done.stderr) == (0, "")

    def numberless(lines: list[str]) -> list[str]:
        return [re.sub(r"[\d,.]+", "N", line) for line in lines]

    assert numberless(done.stdout.splitlines()) == numberless(shown)


def test_each_map_names_every_module_of_its_package() -> None:
    for package in ("actors", "supervisor"):
        listed = set(re.findall(r"^\| `(\w+)` ", (ROOT / package / "README.md").read_text(), re.MULTILINE))
        modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert listed == modules


def test_every_public_module_says_what_it_is_for() -> None:
    for package in ("actors", "supervisor"):
        for path in (ROOT / package).glob("*.py"):
            name = package if path.stem == "__init__" else f"{package}.{path.stem}"
            assert importlib.import_module(name).__doc__, name
