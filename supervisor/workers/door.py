"""The listening sockets of a parent, which accepts for its workers: who comes is told, and served by none of this."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from actors.acceptor import Accepting, named


class Door:
    """Listening sockets, from which clients are let in while it is ``open``; while it is shut they wait in the backlog.

    It is shut at first.
    """

    def __init__(
        self,
        listening: list[socket.socket],
        arrived: Callable[[socket.socket, str], object],
        *,
        open_at: str | None = None,
    ) -> None:
        """``arrived`` gets the socket of each client, and its address for a log; it may shut the door at once.

        ``open_at`` is the path of a Unix socket among those, whose file is removed with the door.
        """
        for each in listening:
            each.setblocking(False)
        self.open = False
        self._arrived: Final = arrived
        self._path: Final = open_at
        self._accepting: Final = Accepting(listening, self._accepted, lambda: self.open)

    def let_in(self, yes: bool) -> None:
        """Open it, or shut it."""
        self.open = yes and bool(self._accepting.sockets)
        self._accepting.look()

    def close(self) -> None:
        """Let nobody in any more, and listen no longer: who waits in the backlog is reset."""
        if not self._accepting.sockets:
            return
        self.open = False
        self._accepting.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def _accepted(self, accepted: socket.socket, address: object) -> None:
        self._arrived(accepted, named(address))
