"""Asynchronous peers for tests of blocking code: each lives in a thread of its own, with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def entered(peer: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What a peer gives on entering, for as long as this is entered."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            found = asyncio.run_coroutine_threadsafe(peer.__aenter__(), loop).result(30)
            try:
                yield found
            finally:
                asyncio.run_coroutine_threadsafe(peer.__aexit__(None, None, None), loop).result(30)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
