"""Locks that a forked child finds free: it does not have the threads that had taken them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

_generation = 0
"""How many forks lie between the first process and this one."""
_renewing = threading.Lock()


class Turns:
    """A lock for ``with``; in a forked child it is a new one, and ``forked`` is called before it is taken first.

    ``forked`` is a method of whoever has the lock, and does not keep that alive.
    """

    __slots__ = ("_forked", "_generation", "_lock", "_make")

    def __init__(self, make: Callable[[], Any] = threading.Lock, forked: Callable[[], object] | None = None) -> None:
        self._make: Final = make
        self._forked: Final = None if forked is None else weakref.WeakMethod(forked)
        self._lock = make()
        self._generation = _generation

    def __enter__(self) -> None:
        if self._generation != _generation:
            self._renew()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _renew(self) -> None:
        with _renewing:
            if self._generation != _generation:
                self._lock = self._make()
                if self._forked is not None and (forked := self._forked()) is not None:
                    forked()
                self._generation = _generation


def _forked() -> None:
    global _generation, _renewing
    _generation, _renewing = _generation + 1, threading.Lock()


os.register_at_fork(after_in_child=_forked)
