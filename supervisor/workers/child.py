"""A worker's own process: ``python -P -m supervisor.workers.child FD``, FD being its end of the socket pair."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

DONE, FAILED, ASKED_WRONGLY = 0, 1, 2
FOR_THE_PARENT: Final = (
    *(signal.SIGINT, signal.SIGHUP, signal.SIGUSR2),
    *(signal.SIGTTIN, signal.SIGTTOU),
)
"""Whoever signals a group of processes means the parent, which tells its workers what to do about it."""
LEAVING: Final = 1.0
"""Seconds that threads and exit hooks of the handler's have once the worker has ended."""

logger: Final = logging.getLogger("muxlink.worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Live a worker's life and return its exit code; a second later the process ends, whatever it does."""
    for each in FOR_THE_PARENT:
        signal.signal(each, signal.SIG_IGN)
    faulthandler.enable()
    # The parent has the stacks of a worker that hangs written down, wherever that is: also in an import.
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        [number] = arguments
        end = socket.socket(fileno=int(number))
        end.set_inheritable(False)  # a process of the handler's would keep the parent from hearing of our end
    except (ValueError, OSError):
        print("a worker is started by 'muxlink serve', with its end of a socket pair", file=sys.stderr)
        return ASKED_WRONGLY
    from supervisor.workers.duties import Duties  # noqa: PLC0415  (it takes a while, and signals may come meanwhile)

    async def live() -> int:
        return await Duties(end).live()

    code = FAILED
    with asyncio.Runner() as runner:
        try:
            code = runner.run(live())
        finally:
            end_soon(code)  # from here on others' code is waited for: tasks, threads, hooks
    flush()
    return code


def end_soon(code: int) -> None:
    """End this process in a second, unless it has ended by then."""
    threading.Thread(target=_insist, args=(code,), name="insist", daemon=True).start()
    # Where no thread gets to run any more, not even that one.
    faulthandler.dump_traceback_later(2 * LEAVING, exit=True)


def _insist(code: int) -> None:
    time.sleep(LEAVING)
    here = (threading.current_thread(), threading.main_thread())
    left = [each.name for each in threading.enumerate() if each not in here and not each.daemon]
    logger.warning("ended without waiting for %s", f"the threads {', '.join(left)}" if left else "exit hooks or tasks")
    logging.shutdown()
    flush()
    os._exit(code)


def flush() -> None:
    """Write what was printed; what nobody reads any more must not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
