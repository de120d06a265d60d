"""A server of one process, by itself: with nobody to start it again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import TextIO

from supervisor.control import ControlServer
from supervisor.endpoints import parse_bind
from supervisor.handlers import load_handler
from supervisor.private_sockets import default_path
from supervisor.server import Server
from supervisor.workers.answers import OwnAnswers
from supervisor.workers.logs import NAMELESS, AccessLog
from supervisor.workers.notify import Notifier, inherited_sockets
from supervisor.workers.options import OFF, ServeOptions
from supervisor.workers.state import dossiers_of
from supervisor.workers.traces import Traces


async def run_alone(options: ServeOptions, *, out: TextIO, environ: MutableMapping[str, str] = os.environ) -> None:
    """Serve until SIGINT or SIGTERM, then drain; a second one hastens. Raises LinkError where it cannot."""
    notifier = Notifier.of(environ)
    handler = load_handler(options.handler)
    where, limits, tls = parse_bind(options.bind), options.limits(), options.tls()
    stopping = [asyncio.Event(), asyncio.Event()]

    def stop() -> None:
        """The first signal drains, the second one hastens."""
        stopping[int(stopping[0].is_set())].set()

    with AccessLog(options.access_log, options.log_format) as log:
        loop = asyncio.get_running_loop()
        server = Server(
            log.wrap(handler), where.host or "127.0.0.1", where.port, path=where.path, tls=tls, limits=limits,
            sockets=inherited_sockets(environ, os.getpid()) or None,
            dossiers=dossiers_of(options.dossiers, environ, NAMELESS),
        )  # fmt: skip
        traces = Traces(NAMELESS)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        async with server, AsyncExitStack() as leaving:
            leaving.push_async_callback(traces.close)
            if options.control != OFF:
                answers = OwnAnswers(server, traces, process=NAMELESS, drain=stopping[0].set)
                path = options.control or default_path(environ, os.getpid())
                await leaving.enter_async_context(ControlServer(path, answers))
            print(f"serving {server.url}", file=out, flush=True)
            notifier.ready("serving")
            ended = asyncio.create_task(server.wait())
            stopped = asyncio.create_task(stopping[0].wait())
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if ended.done():
                ended.result()
            notifier.stopping()
            draining = asyncio.create_task(server.close())
            hastened = asyncio.create_task(stopping[1].wait())
            await asyncio.wait((draining, hastened), return_when=asyncio.FIRST_COMPLETED)
            for task in (hastened, draining, ended):
                task.cancel()
            await asyncio.wait((draining, hastened, ended, stopped))
