"""A client that only connects: python -m tests.benchmarks.knocking PORT SECONDS.

One connection is the TCP handshake, preface and SETTINGS in one write, the server's SETTINGS and its acknowledgement of
ours, and a close. As soon as one has ended, the next begins. Prints how many there were, in which time, and what
that took of the processor; the first that is refused or ended by the server ends it.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Final

from tests.benchmarks import attacks
from tests.support.frames import Flag, Parser, Type

AT_A_TIME: Final = 32
_PATIENCE: Final = 10
_BEGINS: Final = attacks.begins(b"")


class _Visit:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self.socket.sendall(_BEGINS)
        self.parser = Parser()
        self.wanted = {True, False}
        """The SETTINGS that have not come: with an acknowledgement, and without."""

    def read(self) -> bool:
        """Whether that was all."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError("the server ended a connection that had only begun")
        for frame in self.parser.parse(data):
            if frame.type == Type.GOAWAY:
                raise ConnectionResetError("the server said GOAWAY to a connection that had only begun")
            if frame.type == Type.SETTINGS:
                self.wanted.discard(bool(frame.flags & Flag.ACK))
        return not self.wanted


def knock(port: int, seconds: float) -> dict[str, float]:
    """Connect again and again."""
    visits: dict[int, _Visit] = {}
    done = 0
    with select.epoll() as epoll:

        def begin() -> None:
            visit = _Visit(port)
            visits[visit.socket.fileno()] = visit
            epoll.register(visit.socket, select.EPOLLIN)

        began, used = time.perf_counter(), time.process_time()
        for _ in range(AT_A_TIME):
            begin()
        while (now := time.perf_counter()) < began + seconds:
            ready = epoll.poll(_PATIENCE)
            if not ready:
                raise TimeoutError(f"the server said nothing for {_PATIENCE} s")
            for number, _ in ready:
                if visits[number].read():
                    visits.pop(number).socket.close()
                    done += 1
                    begin()
    for visit in visits.values():
        visit.socket.close()
    return {"connections": done, "seconds": now - began, "cpu": time.process_time() - used}


if __name__ == "__main__":
    print(json.dumps(knock(int(sys.argv[1]), float(sys.argv[2]))))
