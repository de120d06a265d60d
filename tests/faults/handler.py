"""What the server processes of these tests serve: each request is written down before it is answered.

``muxlink serve tests.faults.handler:serve`` has ``FAULTS_LOG``, a file, in its environment, and ``FAULTS_NAME``, what
the answers call the server. A line is one ``write`` to a file that was opened with ``O_APPEND``, so it is there even
when the process is killed right after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

from actors.server_stream import ServerStream

LOG = "FAULTS_LOG"
NAME = "FAULTS_NAME"
ID = "x-id"
WAIT = "x-wait"
SIZE = "x-size"
SERVER = "x-server"

_log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if LOG in os.environ else None


async def serve(stream: ServerStream) -> None:
    """Write the request's id down, wait as long as it asks for, and answer with what only this request is answered."""
    name, body = stream.headers[ID], await stream.read()
    if _log is not None:
        os.write(_log, name.encode() + b"\n")
    await asyncio.sleep(float(stream.headers.get(WAIT) or 0))
    size = int(stream.headers.get(SIZE) or 0)
    await stream.respond(200, [(SERVER, os.environ.get(NAME, ""))], body=answer(name, body, size))


def answer(name: str, body: bytes, size: int) -> bytes:
    """The one right answer to a request."""
    digest = hashlib.sha256(name.encode() + b"\n" + body).digest()
    return digest + (digest * (size // len(digest) + 1))[:size]
