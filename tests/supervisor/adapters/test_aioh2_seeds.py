"""C1: the three versions of aioh2's own example run, with only the import changed; and the example of the house."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LABELLED = [
    "Response headers: [(':status', '200')]",
    "Response body: b'hello, world'",
    "Response trailers: [('len', '5')]",
]


def lines_of(module: str) -> list[str]:
    # They close no server, so that the interpreter finds a socket that is open.
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-m", module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_oldest_version_runs() -> None:
    """C1."""
    assert lines_of("tests.supervisor.adapters.seeds.version_0") == [
        "[(':status', '200')]", "b'hello, world'", "[('len', '5')]",
    ]  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_the_versions_that_wait_for_a_functional_connection_run(version: int) -> None:
    """C1."""
    first, *others = lines_of(f"tests.supervisor.adapters.seeds.version_{version}")
    assert re.fullmatch(r"Round-trip time: \d+\.\dms", first)
    assert others == LABELLED


@pytest.mark.parametrize("version", [0, 1, 2])
def test_only_the_import_is_another(version: int) -> None:
    """C1."""
    source = (Path(__file__).parent / "seeds" / f"version_{version}.py").read_text()
    assert re.findall(r"^(?:import|from) .*", source, re.MULTILINE) == [
        "import asyncio", "from supervisor.adapters import aioh2",
    ]  # fmt: skip


def test_the_example_of_the_house_runs() -> None:
    assert lines_of("examples.aioh2") == ["The peer lives: True", *LABELLED]
