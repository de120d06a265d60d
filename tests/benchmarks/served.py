"""The handler of the servers that ``parents`` starts; it imports nothing that they have not done anyway."""

from __future__ import annotations

import os
import sys
from typing import Final

from actors.server_stream import ServerStream

PID_PATH: Final = "/pid"
MODULES_PATH: Final = "/modules"
_HELLO: Final = b"hello, world"


async def handle(stream: ServerStream) -> None:
    """12 bytes; or which process this is, or what it has imported."""
    if stream.path == PID_PATH:
        body = b"%d" % os.getpid()
    elif stream.path == MODULES_PATH:
        body = " ".join(sys.modules).encode()
    else:
        body = _HELLO
    await stream.respond(200, body=body)
