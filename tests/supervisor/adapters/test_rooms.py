"""The rooms behind the faces: imports point one way, and nobody goes past the doors that users are shown."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import supervisor.adapters

FOLDER = Path(supervisor.adapters.__file__).parent
ORDER = ("aio", "aioh2", "blocking", "http11", "http20", "either", "hyper", "sessions", "requests")
"""Each folder and each door, from the top down: one imports only those above it. A new one must be placed here."""
APART = {"aio", "aioh2"}
"""What no blocking code needs, and what needs none of it."""


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("supervisor.adapters"):
            parts = (node.module or "").split(".")[2:]
            yield from parts[:1] or [alias.name for alias in node.names]


def test_each_room_has_its_place() -> None:
    found = {path.stem for path in FOLDER.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    paths = list((FOLDER / room).glob("*.py")) or [FOLDER / f"{room}.py"]
    above = set(ORDER[: ORDER.index(room) + 1])
    allowed = above & APART if room in APART else above - APART
    assert {each for path in paths for each in _imported(path)} <= allowed
