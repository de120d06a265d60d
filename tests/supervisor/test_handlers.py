"""Handlers by name, and the names that a fresh interpreter understands."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Misuse
from supervisor.handlers import load_handler, name_of

ROOT = Path(__file__).parents[2]
SOURCE = """
import functools, sys

async def plain(stream): ...
async def named(name, stream): ...
def sync(stream): ...

def decorated(function):
    async def inner(stream): ...
    return inner

def kept(function):
    @functools.wraps(function)
    async def inner(stream): ...
    return inner

@decorated
async def bare(stream): ...

@kept
async def wrapped(stream): ...

class Greeter:
    async def greet(self, stream): ...
    async def __call__(self, stream): ...
    @classmethod
    async def made(cls, stream): ...
    class Inner:
        @staticmethod
        async def deep(stream): ...

greeter = Greeter()
partial = functools.partial(named, "ann")
def nested():
    async def within(stream): ...
    return within
nameless = lambda stream: plain(stream)
overwritten = plain
async def lost(stream): ...
LOST = [lost]
async def lost(stream): "another"
"""
CHECK = """
import sys
from supervisor.handlers import load_handler, name_of
found = load_handler(sys.argv[1])
again = load_handler(name_of(found))
print(found is again or found == again, name_of(found))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in the working directory; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "app_here.py").write_text(SOURCE, encoding="utf-8")
    load_handler("app_here:plain")
    return sys.modules["app_here"]


def fresh(program: str, *argv: str, cwd: Path) -> str:
    """What another interpreter prints, in this directory, as workers are started."""
    return run([sys.executable, "-P", "-c", program, *argv], cwd)


def run(argv: list[str], cwd: Path, **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(argv, cwd=cwd, env=environment, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "attribute",
    "plain bare wrapped greeter greeter.greet Greeter.made Greeter.Inner.deep partial".split(),
)
def test_a_fresh_interpreter_finds_the_handler_by_its_name(module: types.ModuleType, attribute: str) -> None:
    handler: Any = module
    for part in attribute.split("."):
        handler = getattr(handler, part)
    name = name_of(handler)
    assert name == f"app_here:{attribute}"
    assert load_handler(name) == handler
    if not isinstance(handler, types.MethodType):
        assert load_handler(name) is handler
    assert fresh(CHECK, name, cwd=Path.cwd()) == f"True {name}"


def test_a_second_name_of_a_function_changes_nothing(module: Any) -> None:
    assert name_of(module.overwritten) == "app_here:plain"


@pytest.mark.parametrize(
    ("take", "told"),
    [
        (lambda app: app.nested(), "nested.<locals>.within cannot be found by a worker process: define it at the top"),
        (lambda app: app.LOST[0], "lost cannot be found by a worker process: define it at the top level"),
        (
            lambda app: app.functools.partial(app.named, "bob"),
            "cannot be found .*: give the partial a name in a module",
        ),
        (lambda app: app.Greeter(), "of type Greeter cannot be found .*: give the object a name in a module"),
        (lambda app: app.Greeter().greet, "Greeter.greet cannot be found .*: give the object a name in a module"),
        (lambda app: app.nameless, "<lambda> is no coroutine function: write 'async def'"),
        (lambda app: app.sync, "sync is no coroutine function: write 'async def'"),
    ],
    ids="nested overwritten partial object method lambda sync".split(),
)
def test_what_no_module_names_is_refused_with_the_remedy(module: Any, take: Callable[[Any], Any], told: str) -> None:
    with pytest.raises(Misuse, match=told):
        name_of(take(module))


def test_a_module_that_a_program_made_up_names_nothing(module: Any) -> None:
    made = types.ModuleType("made_up")
    exec("async def handler(stream): ...", made.__dict__)  # noqa: S102
    sys.modules["made_up"] = made
    with pytest.raises(Misuse, match="handler cannot be found"):
        name_of(made.handler)


# --- __main__ ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import {imported}sys
from actors.errors import Misuse
from supervisor.handlers import name_of

async def handler(stream): ...

if __name__ == "__main__":
    try:
        print(name_of({named}))
    except Misuse as error:
        print("refused:", error)
"""


def program(imported: str = "", named: str = "handler") -> str:
    return PROGRAM.format(imported=imported, named=named)


def test_a_program_in_the_working_directory_goes_by_its_files_name(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program())
    for argv in (["program.py"], [str(tmp_path / "program.py")], ["-m", "program"]):
        assert run([sys.executable, *argv], tmp_path) == "program:handler"
    assert fresh(CHECK, "program:handler", cwd=tmp_path) == "True program:handler"


def test_a_module_of_a_package_that_is_run_goes_by_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    for name in ("program", "__main__"):
        (tmp_path / "package" / f"{name}.py").write_text(program())
    assert run([sys.executable, "-m", "package.program"], tmp_path) == "package.program:handler"
    assert run([sys.executable, "-m", "package"], tmp_path) == "package.__main__:handler"
    assert fresh(CHECK, "package.program:handler", cwd=tmp_path) == "True package.program:handler"


@pytest.mark.parametrize("name", ["program.py", "my-program.py", "json.py"], ids=["elsewhere", "no name", "shadowed"])
def test_a_program_that_workers_cannot_import_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / name).write_text(program())
    said = run([sys.executable, str(tmp_path / "there" / name)], tmp_path)
    assert said.startswith("refused: the handler handler is in __main__, which workers cannot import: define it in a")


def test_a_program_without_a_file_is_refused(tmp_path: Path) -> None:
    assert run([sys.executable, "-c", program()], tmp_path).startswith("refused: the handler handler is in __main__")


def test_a_module_beside_a_program_elsewhere_is_refused_unless_workers_find_it(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "beside.py").write_text("async def handler(stream): ...")
    (there / "program.py").write_text(program("beside, ", "beside.handler"))
    argv = [sys.executable, str(there / "program.py")]
    told = f"refused: the handler handler is in beside, which workers cannot import: run from {there}, or name that in "
    assert run(argv, tmp_path).startswith(told)
    assert run(argv, there) == "beside:handler"
    assert run(argv, tmp_path, PYTHONPATH=f"{ROOT}:{there}") == "beside:handler"
