"""Certificates that are renewed while we run: their files are read again once they have changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from actors.errors import Misuse
from actors.settings import Tls
from actors.tls import TlsSide

logger: Final = logging.getLogger("muxlink.tls")

_Stamp = tuple[int, int, int, int] | None


class TlsFiles:
    """What a side needs for its handshakes, made anew when a file that its :class:`Tls` names is another.

    A file is another when its inode, size or time of change is; a symbolic link, when what it leads to is.
    """

    def __init__(self, tls: Tls, make: Callable[[], TlsSide]) -> None:
        """``make`` reads the files, as :func:`~actors.tls.client_side` does; it is called at once. Raises Misuse."""
        self._paths: Final = [path for path in (tls.certfile, tls.keyfile, tls.client_ca, tls.cacert) if path]
        self._make: Final = make
        self._stamps = self._look()
        self._side = make()
        self._failing = False

    def side(self) -> TlsSide:
        """What the next handshake needs; the files are looked at, and read where one has changed.

        While they cannot be used, as when a renewal is half written, it is what it was, and one warning is logged.
        """
        stamps = self._look()
        if stamps == self._stamps:
            self._failing = False
        else:
            try:
                self._side = self._make()
            except Misuse as error:
                if not self._failing:
                    logger.warning("the TLS files have changed and cannot be used, so the old ones stay: %s", error)
                self._failing = True
            else:
                self._stamps, self._failing = stamps, False
                logger.info("the TLS files have changed and were read again")
        return self._side

    def _look(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: str | os.PathLike[str]) -> _Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None  # reading it says why
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
