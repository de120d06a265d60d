"""Processes of the operating system as actors: started, heard, stopped, and never left behind.

:class:`Process` is one process and belongs to the loop; :class:`ProcessActor` is the actor whose life is a process;
:class:`ProcessSpec` makes it a supervisor's child, next to actors of any other kind.

A process ends twice: once for the kernel, and once for those who wait for its last words. What it started itself may
hold its stderr long after it has gone, so these are waited for half a second and no longer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, ClassVar, Final

from attrs import Attribute, field, frozen

from actors.actor import Stop
from actors.errors import Misuse, ProcessFailed
from actors.mailbox import Understood
from actors.messages import Exited
from actors.settings import Backoff
from actors.trace import Tracer
from actors.turns import TurnActor
from supervisor.restart import ChildSpec, Restart
from supervisor.workers.stderr import Relay, StderrReader, relay_to_stderr

logger: Final = logging.getLogger("muxlink.process")

MAX_QUOTE: Final = 200
"""Characters of its last line that an error's message quotes."""
LAST_WORDS: Final = 0.5
"""Seconds that a stderr which somebody else holds open is read on after the end."""
REAP_TIME: Final = 1.0
"""Seconds that a killed process has for ending; only what hangs in the kernel needs more."""
CANCEL_TIME: Final = 0.3
"""The same after the actor was cancelled; below what a supervisor waits for those it cancels."""


def describe(returncode: int) -> str:
    """How a process ended, in words: ``exited with 3``, ``was killed by SIGKILL``."""
    if returncode >= 0:
        return f"exited with {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


# --- a process --------------------------------------------------------------------------------------------------------


def _spawn(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None, pass_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    program = argv[0] if argv else ""
    try:
        return subprocess.Popen(  # noqa: S603  (what to run is what its user says)
            argv,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            close_fds=True,
            pass_fds=tuple(pass_fds),
            process_group=0,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
        )
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        where = f" in {os.fspath(cwd)!r}" if cwd is not None else ""
        raise ProcessFailed.because(f"cannot run {program!r}{where}: {why}", error) from error
    except (ValueError, TypeError, IndexError) as error:
        raise Misuse.because(f"cannot run {program!r}: no process can be given such arguments", error) from error


class Process:
    """One process: runs from the beginning, and calls ``ended`` once, on the loop.

    Its stdin is empty and its stdout is ours; its stderr is read, line by line, and handed to ``relay``. It leads a
    process group of its own, so that a Ctrl-C at the terminal is ours to pass on.
    """

    __slots__ = ("_closed", "_ended", "_loop", "_pidfd", "_popen", "_stderr", "_timer", "gone")

    def __init__(
        self,
        argv: Sequence[str],
        ended: Callable[[int], object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
        relay: Relay = relay_to_stderr,
    ) -> None:
        """``env`` is added to our environment. Raises ProcessFailed where it cannot be started.

        ``ended`` is called with the return code, as subprocess has it, when the process has ended and what it wrote to
        its stderr was read; or never, after :meth:`close`.
        """
        self._loop = asyncio.get_running_loop()
        self._popen = _spawn(argv, env, cwd, pass_fds)
        self._ended = ended
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._pidfd: int | None = None
        self.gone: asyncio.Future[int] = self._loop.create_future()
        """Done with the return code as soon as the process has ended; perhaps before ``ended`` is called."""
        assert self._popen.stderr is not None  # noqa: S101  (for the type checker: it is a pipe)
        self._stderr = StderrReader(self._loop, self._popen.stderr, relay, self._heard_all)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            # Not Linux, or forbidden, or no file descriptor left.
            Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._exited)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it was not seen to end yet."""
        return not self.gone.done()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last 20 lines of its stderr, 8 KiB at most."""
        return self._stderr.tail.text()

    def signal(self, number: int) -> None:
        """Send it a signal; none where it has ended, and never to another process that got its number."""
        if not self.alive:
            return
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                self._popen.send_signal(number)
        except ProcessLookupError:
            return
        except OSError as error:
            logger.warning("process %d cannot be sent signal %d: %s", self.pid, number, error.strerror)

    def kill(self) -> None:
        """Send SIGKILL to it and to all of its process group: it has no time to end what it started."""
        self.signal(signal.SIGKILL)
        # Until we take its return code, nobody else can have its number.
        if self.alive and self._popen.returncode is None:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it lives, wait for that, which takes a moment, and let go of all; ``ended`` is not called."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.alive:
            self.kill()
            try:
                self._reap(self._popen.wait(REAP_TIME))
            except subprocess.TimeoutExpired:
                logger.error("process %d was killed and does not end: it hangs in the kernel", self.pid)
                self._reap(-signal.SIGKILL)
                Thread(target=self._popen.wait, name=f"wait-{self.pid}", daemon=True).start()
        self._stderr.close()

    def _wait(self) -> None:
        """Runs in a thread."""
        self._popen.wait()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._exited)

    def _exited(self) -> None:
        self._reap(self._popen.wait())
        if self._stderr.is_open:
            self._timer = self._loop.call_later(LAST_WORDS, self._end)
        else:
            self._end()

    def _reap(self, returncode: int) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self.alive:
            self.gone.set_result(returncode)

    def _heard_all(self) -> None:
        if not self.alive:
            self._end()

    def _end(self) -> None:
        if self._closed:
            return
        self.close()
        self._ended(self.gone.result())


# --- a process as an actor --------------------------------------------------------------------------------------------


def _argv(value: object) -> object:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _check_argv(owner: ProcessSpec, attribute: Attribute[tuple[str, ...]], value: object) -> None:
    if not isinstance(value, tuple) or not value or not value[0] or not all(map(_is_text, value)):
        raise Misuse(f'process {owner.name}: argv is a program and its arguments, such as ["sleep", "9"]')


def _check_env(owner: ProcessSpec, attribute: Attribute[Any], value: object) -> None:
    # Not shown: it may hold secrets.
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(map(_is_text, (*value, *value.values()))):
        raise Misuse(f"process {owner.name}: env is a mapping of str to str, or None")
    if any(not name or "=" in name for name in value):
        raise Misuse(f"process {owner.name}: a variable's name in env is not empty and holds no '='")


def _check_cwd(owner: ProcessSpec, attribute: Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, (str, os.PathLike)) or not _is_text(os.fspath(value))):
        raise Misuse(f"process {owner.name}: cwd is the path of a folder, or None, not {value!r}")


def _check_shutdown(owner: ProcessSpec, attribute: Attribute[float], value: object) -> None:
    if not (type(value) in (int, float) and value >= 0):  # type: ignore[operator]
        raise Misuse(f"process {owner.name}: shutdown is a number of seconds, not {value!r}")


def _check_signal(owner: ProcessSpec, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or value not in signal.valid_signals():
        raise Misuse(f"process {owner.name}: stop_signal is a signal, such as signal.SIGTERM, not {value!r}")


def _check_relay(owner: ProcessSpec, attribute: Attribute[Any], value: object) -> None:
    if not callable(value):
        raise Misuse(f"process {owner.name}: relay is a callable that takes bytes, not {value!r}")


@frozen
class ProcessSpec:
    """How a supervisor runs a process; raises Misuse for what cannot work.

    An end with 0 is a normal one: a transient process rests. Any other end is a crash: it spends the supervisor's
    intensity, so that a process which cannot live ends its supervisor, and the restart waits as ``backoff`` says.
    """

    name: str = field()
    argv: Sequence[str] = field(converter=_argv, validator=_check_argv, repr=lambda argv: repr(argv[0]))
    """The program, which is searched for in ``PATH``, and its arguments."""
    env: Mapping[str, str] | None = field(default=None, validator=_check_env, repr=False)
    """What is added to our environment."""
    cwd: str | os.PathLike[str] | None = field(default=None, validator=_check_cwd)
    restart: Restart = Restart.PERMANENT
    shutdown: float = field(default=5.0, kw_only=True, validator=_check_shutdown)
    """Seconds between ``stop_signal`` and SIGKILL."""
    backoff: Backoff | None = field(default=None, kw_only=True)
    """How long each restart waits; None: as ``Backoff()`` says."""
    stop_signal: int = field(default=signal.SIGTERM, kw_only=True, validator=_check_signal)
    relay: Relay = field(default=relay_to_stderr, kw_only=True, validator=_check_relay, repr=False)
    """Takes what it writes to its stderr, whole lines, one or more at a time."""

    def __attrs_post_init__(self) -> None:
        self.child()  # which checks what both have

    def child(self) -> ChildSpec:
        """The process as a supervisor's child."""
        return ChildSpec(
            self.name,
            lambda: ProcessActor(self),
            self.restart,
            shutdown=self.shutdown + 2 * REAP_TIME,  # it kills by itself, and must not be left behind before that
            backoff=self.backoff if self.backoff is not None else Backoff(),
        )


@frozen
class ProcessEnded:
    """The process has ended, and what it wrote was read."""

    returncode: int


@frozen
class TimeUp:
    """The process had its time for ending."""


ProcessMessage = ProcessEnded | TimeUp


class ProcessActor(TurnActor[ProcessMessage]):
    """Runs one process: they begin and end together.

    Told to end, it sends the stop signal, and SIGKILL once the shutdown time is up; cancelled, it kills at once.
    ``start`` raises ProcessFailed for a program that cannot be run.
    """

    __slots__ = ("_over", "_process", "_spec")

    understands: ClassVar[Understood] = ProcessMessage

    def __init__(self, spec: ProcessSpec, tracer: Tracer | None = None) -> None:
        super().__init__(spec.name, tracer, shutdown_timeout=spec.shutdown + REAP_TIME)
        self._spec = spec
        self._process: Process | None = None
        self._over = False

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._begin(loop)
        spec = self._spec
        try:
            self._process = Process(spec.argv, self._process_ended, env=spec.env, cwd=spec.cwd, relay=spec.relay)
        except ProcessFailed as error:
            raise ProcessFailed.because(f"process {self.name}: {error}", error.__cause__) from error.__cause__

    def _process_ended(self, returncode: int) -> None:
        self._over = True
        self.tell(ProcessEnded(returncode))

    def receive(self, message: ProcessMessage) -> None:
        if isinstance(message, ProcessEnded):
            raise Stop if message.returncode == 0 else self._failure(message.returncode)

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        process = self._process
        return {
            "program": self._spec.argv[0],
            "pid": process.pid if process is not None else None,
            "alive": process is not None and process.alive,
        }

    def _failure(self, returncode: int) -> ProcessFailed:
        assert self._process is not None  # noqa: S101  (for the type checker: something has ended)
        lines = self._process.last_lines
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        quote = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in said[:MAX_QUOTE])
        return ProcessFailed(
            f"process {self.name} (pid {self._process.pid}) {describe(returncode)}"
            + (f"; its last line was: {quote}" if quote else ""),
            returncode=returncode,
            last_lines=lines,
        )

    def _log_crash(self, error: BaseException) -> None:
        if isinstance(error, ProcessFailed):
            logger.error("%s crashed: %s", self.name, error)  # our own traceback would say nothing of it
        else:
            super()._log_crash(error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def ending(self, reason: BaseException | None) -> None:
        if self._process is not None and self._process.alive:
            self._process.signal(self._spec.stop_signal)
            self.after(self._spec.shutdown, TimeUp())

    def ended(self) -> bool:
        return self._over

    def _late(self, message: object) -> None:
        if isinstance(message, TimeUp):
            logger.warning("%s did not end within %g s: killed", self.name, self._spec.shutdown)
            self.overdue()
        elif not isinstance(message, ProcessEnded):
            super()._late(message)

    def overdue(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _run(self) -> None:
        try:
            await super()._run()
        except asyncio.CancelledError:
            if self._process is not None:  # it was killed; closing it would keep the loop until it has ended
                await asyncio.wait((self._process.gone,), timeout=CANCEL_TIME)
            raise

    def _finish(self, exited: Exited) -> None:
        super()._finish(exited)
        if self._process is not None:
            self._process.close()
