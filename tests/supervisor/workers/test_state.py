"""Where a server writes dossiers: as it was told, or in its state directory."""

from pathlib import Path

import pytest

from actors.errors import Misuse
from supervisor.workers.state import dossiers_of, state_directory


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"STATE_DIRECTORY": "/var/lib/app:/var/lib/more", "XDG_STATE_HOME": "/s", "HOME": "/h"}, "/var/lib/app"),
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/muxlink"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/muxlink"),
    ],
)
def test_the_state_directory_is_systemds_or_the_users(environ: dict[str, str], directory: str) -> None:
    assert state_directory(environ) == Path(directory)


def test_without_any_there_are_no_dossiers() -> None:
    assert state_directory({}) is None
    assert dossiers_of(None, {}, "worker-1") is None


@pytest.mark.parametrize("told", ["", "off"])
def test_dossiers_can_be_switched_off(told: str, tmp_path: Path) -> None:
    assert dossiers_of(told, {"HOME": str(tmp_path)}, "worker-1") is None


def test_by_default_nothing_is_made_before_there_is_something_to_write(tmp_path: Path) -> None:
    dossiers = dossiers_of(None, {"XDG_STATE_HOME": str(tmp_path)}, "worker-1")
    assert dossiers is not None
    assert (dossiers.directory, dossiers.process) == (tmp_path / "muxlink" / "dossiers", "worker-1")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_was_named_is_made_at_once_or_refused(tmp_path: Path) -> None:
    dossiers = dossiers_of(str(tmp_path / "d"), {}, "worker-1")
    assert dossiers is not None
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(Misuse, match="no dossiers can be written to"):
        dossiers_of(str(tmp_path / "file"), {}, "worker-1")
