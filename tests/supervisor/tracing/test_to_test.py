"""A capture becomes a test that fails as long as what failed in it still does."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.errors import LinkError, Misuse
from actors.server_stream import ServerStream
from supervisor.link import Link
from supervisor.tracing.to_test import to_test, to_test_command
from tests.supervisor.tracing.recorded import capture

BROKEN = """\
async def handle(stream):
    assert stream.path != "/1", 'it says \\\\ and "so"'
    await stream.respond(200)
"""
MENDED = """\
async def handle(stream):
    await stream.respond(200)
"""


async def handle(stream: ServerStream) -> None:
    assert stream.path != "/1", 'it says \\ and "so"'
    await stream.respond(200)


async def ask(link: Link) -> None:
    for number in range(3):
        try:
            await link.request("GET", f"/{number}", timeout=5)
        except LinkError:
            assert number == 1


def cases_of(path: Path) -> dict[str, Callable[[], None]]:
    found = runpy.run_path(str(path))
    return {name: value for name, value in found.items() if name.startswith("test_")}


@pytest.fixture(name="failed", scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captures") / "failed.jsonl"
    capture(path, handle, ask)
    return path


@pytest.fixture(name="app")
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / "application.py"


@pytest.mark.logs_errors("crashed")
def test_the_test_fails_with_the_fault_and_passes_without(failed: Path, app: Path, tmp_path: Path) -> None:
    """T6."""
    app.write_text(BROKEN)
    written = to_test(failed, tmp_path / "test_failed.py", "application:handle")
    assert (written.tests, written.capture) == (1, tmp_path / "test_failed.jsonl")
    [(name, test)] = cases_of(written.test).items()
    assert name.startswith("test_server_")
    assert name.endswith("_connection_1_stream_3_goes_well")
    with pytest.raises(AssertionError):
        test()
    app.write_text(MENDED)
    sys.modules.pop("application")
    [(_, test)] = cases_of(written.test).items()
    test()


def test_without_a_handler_the_messages_are_pinned(failed: Path, tmp_path: Path) -> None:
    """T6."""
    written = to_test(failed, tmp_path / "test_pinned.py")
    [(name, test)] = cases_of(written.test).items()
    assert name.endswith("_connection_1_says_the_same")
    test()
    text = written.capture.read_text()
    written.capture.write_text(text.replace('"text":"GET ', '"text":"PUT '))
    [(_, test)] = cases_of(written.test).items()
    with pytest.raises(AssertionError, match="is another"):
        test()


@pytest.mark.parametrize("handler", [None, "application:handle"])
def test_what_is_written_is_private_and_clean(failed: Path, tmp_path: Path, handler: str | None) -> None:
    """T6: it may hold payloads."""
    written = to_test(failed, tmp_path / "test_failed.py", handler)
    assert [path.stat().st_mode & 0o777 for path in (written.test, written.capture)] == [0o600, 0o600]
    compile(written.test.read_text(), "test", "exec")
    assert "python -m pytest test_failed.py" in written.test.read_text()
    if importlib.util.find_spec("ruff") is not None:
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,W,UP,B", str(written.test)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout


def test_the_command_says_where_it_is_and_how_it_is_run(failed: Path, tmp_path: Path) -> None:
    code, said = to_test_command(failed, tmp_path / "test_failed.py", "application:handle")
    test = tmp_path / "test_failed.py"
    assert code == 0
    assert said == f"{test}: 1 test, which replays {test.with_suffix('.jsonl')}; run with: python -m pytest {test}"


def test_a_capture_that_is_beside_the_test_already_stays(failed: Path, tmp_path: Path) -> None:
    path = tmp_path / "test_failed.jsonl"
    path.write_bytes(failed.read_bytes())
    assert to_test(path, tmp_path / "test_failed.py").capture == path
    assert path.read_bytes() == failed.read_bytes()


@pytest.fixture
def twins(failed: Path, tmp_path: Path) -> Path:
    """A capture of two processes, each with a connection of one and the same name."""
    text, path = failed.read_text(), tmp_path / "twins.jsonl"
    path.write_text(text + text.replace('"process":"process-1"', '"process":"process-2"'))
    return path


def test_connections_of_one_name_in_two_processes_have_a_test_each(twins: Path, tmp_path: Path) -> None:
    """T6: as the workers of one server have them."""
    cases = cases_of(to_test(twins, tmp_path / "test_twins.py").test)
    assert sorted(name[:15] for name in cases) == ["test_process_1_", "test_process_2_"]
    for case in cases.values():
        case()


@pytest.mark.logs_errors("crashed")
def test_failures_of_one_name_in_two_processes_have_a_test_each(twins: Path, app: Path, tmp_path: Path) -> None:
    """T6."""
    app.write_text(BROKEN)
    sys.modules.pop("application", None)
    cases = cases_of(to_test(twins, tmp_path / "test_twins.py", "application:handle").test)
    assert sorted(name[:15] for name in cases) == ["test_process_1_", "test_process_2_"]
    for case in cases.values():
        with pytest.raises(AssertionError):
            case()


@pytest.mark.parametrize("name", ['test_"""x\\y.py', "test_\\N{x}.py", "test_\n.py"])
def test_no_name_of_a_file_breaks_the_test(failed: Path, tmp_path: Path, name: str) -> None:
    written = to_test(failed, tmp_path / name)
    for case in cases_of(written.test).values():
        case()


@pytest.mark.parametrize(
    ("target", "handler", "said"),
    [
        ("test_failed.txt", None, "is no name for a test: end it with .py"),
        ("test_failed.py", "application", "bad handler 'application': write MODULE:HANDLER"),
        ("test_failed.py", "a:b;import os", "bad handler"),
    ],
)
def test_what_cannot_be_a_test_is_refused(
    failed: Path, tmp_path: Path, target: str, handler: str | None, said: str
) -> None:
    with pytest.raises(Misuse, match=said):
        to_test(failed, tmp_path / target, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_capture_in_which_nothing_failed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async def one(link: Link) -> None:
        await link.request("GET", "/0", timeout=5)

    path = tmp_path / "well.jsonl"
    capture(path, handle, one)
    with pytest.raises(Misuse, match=r"nothing failed on a server in .*: leave the handler out"):
        to_test(path, tmp_path / "test_well.py", "application:handle")


def test_a_handler_within_a_class_is_imported_by_the_class(failed: Path, tmp_path: Path) -> None:
    written = to_test(failed, tmp_path / "test_failed.py", "package.application:Shop.handle")
    text = written.test.read_text()
    assert "\nfrom package.application import Shop\n" in text
    assert "handler=Shop.handle)" in text
