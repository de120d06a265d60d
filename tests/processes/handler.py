"""What the workers of these tests serve: each request is written down, with its worker, before it is answered.

``TREE_LOG``, in the environment, names the log: a line is one ``write`` to a file that was opened with ``O_APPEND``, so
it is there even when the process is killed right after it. ``TREE_DEED`` names a file that need not be there; what is
written in it is done by a worker that imports this module: ``raise``, ``raise once``, or ``exit``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from actors.server_stream import ServerStream
from tests.faults.handler import ID, SERVER, SIZE, WAIT, answer

LOG = "TREE_LOG"
DEED = "TREE_DEED"
WHY = "the database is not there"
ENDLESS = 60.0
"""Seconds; longer than any test waits."""
SLOWLY = 0.7


def hang(seconds: float) -> None:
    """Keep the loop from all else."""
    time.sleep(seconds)


def _do_the_deed() -> None:
    path = Path(os.environ.get(DEED, ""))
    deed = path.read_text(encoding="ascii") if path.is_file() else ""
    if deed == "raise once":
        try:
            path.with_suffix(".done").touch(exist_ok=False)
        except FileExistsError:
            hang(SLOWLY)  # so that the one has failed before any other serves
            deed = ""
    if deed.startswith("raise"):
        raise RuntimeError(WHY)
    if deed == "exit":
        print(WHY, file=sys.stderr, flush=True)
        os._exit(3)


_do_the_deed()
_log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if LOG in os.environ else None


async def serve(stream: ServerStream) -> None:
    """Do what the path says: ``/echo``, ``/drain``, ``/block``, ``/exit``, or answer as the faults' handler does."""
    if _log is not None:
        os.write(_log, f"{stream.headers.get(ID) or stream.path} {os.getpid()}\n".encode())
    match stream.path:
        case "/echo":
            await stream.start_response(200, [(SERVER, str(os.getpid()))])
            async for chunk in stream:
                await stream.send(chunk)
            await stream.end()
        case "/block":
            hang(ENDLESS)
        case "/exit":
            os._exit(7)
        case _:
            await _answer(stream)


async def _answer(stream: ServerStream) -> None:
    name, body = stream.headers[ID], await stream.read()
    await asyncio.sleep(float(stream.headers.get(WAIT) or 0))
    size = int(stream.headers.get(SIZE) or 0)
    await stream.respond(200, [(SERVER, str(os.getpid()))], body=answer(name, body, size))
