"""Where a server leaves what is to be found after its end: its state directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.tracing.dossiers import Dossiers
from supervisor.workers.options import OFF

logger: Final = logging.getLogger("muxlink.dossiers")

DOSSIERS: Final = "dossiers"


def dossiers_of(told: str | None, environ: Mapping[str, str], process: str) -> Dossiers | None:
    """Where ``process`` writes dossiers of its crashes: as it was told, or in the state directory; None: nowhere.

    Raises Misuse for a directory that was named and cannot be had. Nobody has named the state directory: where that
    cannot be had, the log says so, once there is something to write.
    """
    if told in ("", OFF):
        return None
    if told is not None:
        return Dossiers(told, process=process)
    directory = state_directory(environ)
    return Dossiers(directory / DOSSIERS, process=process, at_once=False) if directory is not None else None


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """The one that systemd made (``STATE_DIRECTORY``), or ``muxlink`` in the user's; None where there is neither."""
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    if (home := environ.get("XDG_STATE_HOME", "")) and Path(home).is_absolute():
        return Path(home, "muxlink")
    if (home := environ.get("HOME", "")) and Path(home).is_absolute():
        return Path(home, ".local", "state", "muxlink")
    return None
