"""A server of several processes, from its first line to its last: sockets, signals, health, control, and the crew."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket as sockets
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Final, TextIO

from actors.acceptor import allow_open_files
from actors.errors import LinkError, ListenFailed, Misuse
from actors.mailbox import Ref
from actors.outlet import shown
from actors.tls import server_side
from actors.transport import bind_tcp, bind_unix, reason_of
from supervisor.census import census
from supervisor.control import ControlServer
from supervisor.endpoints import UNIX_PREFIX, parse_bind
from supervisor.private_sockets import default_path
from supervisor.server import Server
from supervisor.workers.answers import Answers
from supervisor.workers.crew import Crew
from supervisor.workers.door import Door
from supervisor.workers.notify import Notifier, inherited_sockets
from supervisor.workers.options import OFF, ServeOptions
from supervisor.workers.posts import ChangeWorkers, CrewChanged, Reload, Terminate
from supervisor.workers.probes import Probes, limits
from supervisor.workers.spoken import WriteStacks
from supervisor.workers.stacks import task_stacks

logger: Final = logging.getLogger("muxlink.workers")

Environ = MutableMapping[str, str]


async def run(options: ServeOptions, *, out: TextIO | None = None, environ: Environ = os.environ) -> None:
    """Serve as ``options`` say, and say on ``out`` where; raises what :func:`~supervisor.workers.serve` does."""
    if options.workers < 1:
        raise Misuse("there is no worker to serve: let there be one or more (workers)")
    await Parent(options, sys.stdout if out is None else out, environ).run()


class Parent:
    """The process that accepts, and looks after those that serve."""

    def __init__(self, options: ServeOptions, out: TextIO, environ: Environ) -> None:
        self._options = options
        self._out = out
        self._environ = environ
        self._notifier = Notifier.of(environ)
        self._state = CrewChanged(0, options.workers, stopping=False, reloading=False)
        self._announced = False
        self._reloading = False
        self._url = ""
        self._probes = Probes(self._is_ready)
        self._crew: Crew | None = None
        self._writing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """All of it. Raises LinkError where it ends for another reason than having been told to."""
        options = self._options
        self._check_files()
        async with AsyncExitStack() as leaving:
            listening, path = await self._listen()
            door = partial(Door, listening, open_at=path)
            crew = self._crew = Crew(options, door, Ref("parent", self._changed))
            leaving.callback(crew.door.close)
            allow_open_files(options.max_connections)
            if options.health_bind is not None:
                await leaving.enter_async_context(self._health(options.health_bind))
                leaving.callback(self._probes.close)
            if options.control != OFF:
                where = options.control or default_path(self._environ, os.getpid())
                answers = Answers(
                    crew.ref,
                    url=self._url,
                    restarts=lambda: crew.restarts,
                    drain=lambda: self._terminate("a drain was asked for"),
                )
                await leaving.enter_async_context(ControlServer(where, answers))
            leaving.enter_context(self._heeding())
            leaving.enter_context(self._watched())
            crew.start()
            try:
                exited = await crew.wait()
            except asyncio.CancelledError:
                await crew.stop()
                raise
        self._report(crew)
        if exited.reason is not None:
            raise (
                exited.reason
                if isinstance(exited.reason, LinkError)
                else LinkError.because("the crew failed", exited.reason)
            )

    # --- what it begins with ------------------------------------------------------------------------------------------

    def _check_files(self) -> None:
        """Refuse here what each worker would refuse."""
        if (tls := self._options.tls()) is not None:
            server_side(tls, self._options.limits())

    async def _listen(self) -> tuple[list[sockets.socket], str | None]:
        """The listening sockets, and the path of the Unix socket that is ours to remove."""
        scheme = "http" if self._options.certfile is None else "https"
        if inherited := inherited_sockets(self._environ, os.getpid()):
            self._url = _where(inherited[0], scheme)
            return inherited, None
        where = parse_bind(self._options.bind)
        try:
            if where.path is not None:
                self._url = f"{UNIX_PREFIX}{where.path}"
                return [bind_unix(where.path)], where.path
            listening = await bind_tcp(where.host or "127.0.0.1", where.port)
        except (OSError, OverflowError, ValueError) as error:
            raise ListenFailed.because(f"cannot listen on {self._options.bind}: {reason_of(error)}", error) from error
        port = listening[0].getsockname()[1]
        host = f"[{where.host}]" if ":" in (where.host or "") else where.host
        self._url = f"{scheme}://{host}:{port}"
        return listening, None

    def _health(self, bind: str) -> Server:
        where = parse_bind(bind)
        return Server(self._probes.handler, where.host or "127.0.0.1", where.port, path=where.path, limits=limits())

    # --- what it is told ----------------------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        return self._state.ready > 0 and not self._state.stopping

    def _changed(self, state: CrewChanged) -> None:
        self._state = state
        self._probes.changed()
        status = f"{state.ready} of {state.wanted} workers serve"
        if state.stopping:
            return
        if not self._announced and state.ready:
            self._announced = True
            print(f"serving {self._url}", file=self._out, flush=True)
            self._notifier.ready(status)
        elif self._reloading and not state.reloading:
            self._reloading = False
            logger.info("the reload has ended: %s", status)
            self._notifier.ready(status)
        else:
            self._notifier.status(status)

    @contextmanager
    def _heeding(self) -> Iterator[None]:
        """Heed signals meanwhile."""
        loop = asyncio.get_running_loop()
        heeded: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGTERM: lambda: self._terminate("SIGTERM"),
            signal.SIGINT: lambda: self._terminate("SIGINT"),
            signal.SIGHUP: self._reload,
            signal.SIGTTIN: lambda: self._tell(ChangeWorkers(1)),
            signal.SIGTTOU: lambda: self._tell(ChangeWorkers(-1)),
            signal.SIGUSR2: self._write_stacks,
        }
        try:
            for number, call in heeded.items():
                loop.add_signal_handler(number, call)
        except (ValueError, RuntimeError) as error:
            raise Misuse.because("signals arrive in the main thread: serve there", error) from None
        try:
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)

    def _tell(self, message: Terminate | Reload | ChangeWorkers | WriteStacks) -> None:
        if self._crew is not None:
            self._crew.tell(message)

    def _terminate(self, why: str) -> None:
        logger.info("stopping: %s", why)
        self._notifier.stopping()
        # Without a health listener nobody can hear that we shall be gone.
        self._tell(Terminate(self._options.drain_delay if self._options.health_bind is not None else 0.0))

    def _reload(self) -> None:
        try:
            self._check_files()
        except Misuse as error:
            logger.error("the reload is refused, and all goes on as before: %s", error)
            return
        self._reloading = self._announced  # before that, READY comes anyway
        if self._reloading:
            self._notifier.reloading()
        self._tell(Reload())

    def _write_stacks(self) -> None:
        self._tell(WriteStacks())
        for text in task_stacks(asyncio.all_tasks()):
            logger.warning("%s", text)
        self._writing = asyncio.create_task(self._write_tree(), name="tree")

    async def _write_tree(self) -> None:
        if self._crew is not None:
            for row in await census(self._crew.ref):
                logger.warning("%(name)s: %(kind)s, %(state)s, mailbox %(mailbox)s, %(age).1f s old", row)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell systemd again and again, meanwhile, that the loop lives."""
        interval = self._notifier.watchdog_interval
        if interval is None:
            yield
            return
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def tick() -> None:
            nonlocal timer
            self._notifier.watchdog()
            timer = loop.call_later(interval, tick)

        tick()
        try:
            yield
        finally:
            timer.cancel()

    def _report(self, crew: Crew) -> None:
        if crew.cut:
            logger.warning("%d streams had not finished and were cut: %s", len(crew.cut), ", ".join(crew.cut[:10]))


def _where(listening: sockets.socket, scheme: str) -> str:
    name = listening.getsockname()
    return f"{scheme}://{shown(name)}" if isinstance(name, tuple) else f"{UNIX_PREFIX}{os.fsdecode(name)}"
