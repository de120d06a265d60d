"""A worker as its parent sees it: a process, what it says, and the connections that it was given and has not taken.

The actor's life is the process's. It says to the crew what becomes of the worker, and at its end gives back what the
worker never took, so that another can have it: until a worker says ``Taken``, the parent holds a socket of its own to
each connection.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket as sockets
import sys
from collections.abc import Mapping
from typing import ClassVar, Final, assert_never

from actors.actor import Stop
from actors.errors import Closed, LinkError, ProcessFailed, ProtocolViolation
from actors.mailbox import Ref, Reply, Understood
from actors.messages import Exited
from actors.transport import reason_of
from actors.turns import TurnActor
from supervisor.workers.beats import Beats, Vigour
from supervisor.workers.channel import Channel, pair
from supervisor.workers.options import ServeOptions
from supervisor.workers.posts import (
    AskReport,
    AskWhy,
    Execute,
    FellSilent,
    Give,
    LastWords,
    Look,
    ProcessEnded,
    Returned,
    Said,
    WorkerDraining,
    WorkerFreshness,
    WorkerMessage,
    WorkerNews,
    WorkerReady,
    WorkerReleased,
    WorkerTired,
)
from supervisor.workers.process import Process, describe
from supervisor.workers.spoken import (
    Beat,
    Begin,
    Draining,
    Ended,
    Explain,
    Explained,
    FromWorker,
    Hasten,
    Ready,
    Released,
    Report,
    Reported,
    Retire,
    SendTrace,
    Spoken,
    Take,
    Taken,
    Tired,
    WriteStacks,
)

logger: Final = logging.getLogger("muxlink.workers")

ENDING: Final = 5.0
"""Seconds beyond its time for draining that a worker has for ending, before it is killed."""
STACK_TIME: Final = 1.0
"""Seconds that a hung worker has for writing its stack down, before it is killed."""
LAST_WORDS: Final = 0.5
"""Seconds that what a process said is read on after its end, where something that it left behind holds its socket."""
LATE: Final = 0.5
"""Seconds by which our own loop is late before what the worker may have said meanwhile is taken into account."""
ASKED_WRONGLY: Final = 2
"""The exit code of a worker that would fail again however often it was started."""


class WorkerActor(TurnActor[WorkerMessage]):
    """One worker process."""

    __slots__ = (
        "_beats", "_channel", "_doomed", "_draining", "_explanations", "_fresh", "_held", "_last_beat", "_look",
        "_look_at", "_loop", "_lost", "_next", "_options", "_owner", "_pid", "_process", "_reports", "_retired",
        "_returncode", "_said", "_untaken", "_why",
    )  # fmt: skip

    understands: ClassVar[Understood] = WorkerMessage

    def __init__(self, name: str, options: ServeOptions, owner: Ref[WorkerNews]) -> None:
        super().__init__(name, shutdown_timeout=ENDING)
        self._options = options
        self._owner = owner
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._fresh = True
        self._draining = False
        """Whether it says that it takes no more."""
        self._doomed = False
        """Whether it will be killed, should it not end before: it is given nothing."""
        self._lost = False
        """Whether nothing more will be heard of it."""
        self._look: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._held = 0
        """Connections that it has taken and not released."""
        self._next = 0
        self._pid: int | None = None
        self._untaken: dict[int, sockets.socket] = {}
        self._reports: dict[int, Reply[Reported]] = {}
        self._explanations: dict[int, Reply[Explained]] = {}
        self._retired = False
        self._returncode: int | None = None
        self._said: Ended | None = None
        self._last_beat: Beat | None = None
        self._why = ""

    def begin(self) -> None:
        """Start the process; an interpreter of its own, because a fork of a running loop shares what it must not."""
        loop = self._loop = asyncio.get_running_loop()
        self._beats = Beats(
            loop.time(), timeout=self._options.worker_timeout, start_timeout=self._options.start_timeout
        )
        try:
            ours, theirs = pair()
        except OSError as error:
            failure = f"{self.name}: a process cannot be talked to: {reason_of(error)}"
            raise Stop(ProcessFailed.because(failure, error)) from error
        try:
            argv = (sys.executable, "-P", "-m", "supervisor.workers.child", str(theirs.fileno()))
            self._process = Process(argv, self._process_ended, pass_fds=(theirs.fileno(),))
        except LinkError as error:
            ours.close()
            raise Stop(error) from None
        finally:
            theirs.close()
        self._pid = self._process.pid
        self._channel = Channel(ours, self._heard, lambda error: self.tell(FellSilent(error)))
        self._channel.tell(Begin(self.name, self._options.as_dict()))
        self._look_in(self._beats.next_look(loop.time()))

    def _process_ended(self, returncode: int) -> None:
        self.tell(ProcessEnded(returncode))

    def _heard(self, message: Spoken, connection: sockets.socket | None) -> None:
        if connection is not None:
            connection.close()  # a worker has none to give
        if isinstance(message, FromWorker):
            self.tell(Said(message))

    # --- its turns ----------------------------------------------------------------------------------------------------

    def receive(self, message: WorkerMessage) -> None:
        match message:
            case Give(connection):
                self._give(connection)
            case Said(said):
                self._hear(said)
            case Retire(drain):
                self._say(message)
                self._retired = True
                self.after(drain + ENDING, Execute(f"had not drained after {drain:g} s and {ENDING:g} s more"))
            case Hasten():
                self._say(message)
                self._retired = True
                self.after(ENDING, Execute(f"did not end within {ENDING:g} s of being told to"))
            case WriteStacks() | SendTrace():
                self._say(message)
            case AskWhy(stream, reply):
                self._next += 1
                self._explanations[self._next] = reply
                self._say(Explain(self._next, stream))
            case AskReport(reply):
                self._next += 1
                self._reports[self._next] = reply
                self._say(Report(self._next))
            case FellSilent(error):
                self._fall_silent(error)
            case ProcessEnded(returncode):
                self._returncode = returncode
                if self._lost:
                    raise Stop(self._verdict(returncode))
                # What it took must be known: no other may be given a connection of which something was read.
                self._doom()
                self.after(LAST_WORDS, FellSilent(None))
            case Look():
                self._look_after_it()
            case Execute(why):
                self._execute(why)
            case _:
                assert_never(message)

    def _say(self, message: Spoken, connection: sockets.socket | None = None) -> None:
        if self._channel is not None:
            self._channel.tell(message, connection)

    def _give(self, connection: sockets.socket) -> None:
        if self._draining or self._doomed:
            self._return((connection,))
            return
        self._next += 1
        self._untaken[self._next] = connection
        now = self._loop.time()
        self._beats.given(now)
        self._say(Take(self._next), connection)
        if self._look_at > (soon := self._beats.next_look(now)) + now:
            self._look_in(soon)

    def _return(self, connections: tuple[sockets.socket, ...]) -> None:
        """Give back what it will never take."""
        if connections and not self._owner.tell(Returned(self.name, connections)):
            for connection in connections:
                connection.close()

    def _fall_silent(self, error: Exception | None) -> None:
        if self._returncode is not None:
            raise Stop(self._verdict(self._returncode))
        # Mostly it has ended, and the kernel says so soon; else it can be told nothing any more.
        self._lost = True
        self._doom()
        if isinstance(error, ProtocolViolation):
            self._why = f"spoke wrongly: {error}"
        # By itself it drains then, and has its time for that, unless somebody waits for what it has not taken.
        time = ENDING if self._untaken else self._options.drain_timeout + ENDING
        self.after(time, Execute("closed its socket pair" if error is None else str(error)))

    def _doom(self) -> None:
        self._tell_freshness(False)
        self._doomed = True

    def _distrust(self, why: str) -> None:
        """It says what cannot be: hear no more of it, as if the channel had failed."""
        if self._channel is not None:
            self._channel.close()
        self._fall_silent(ProtocolViolation(why))

    def _hear(self, message: FromWorker) -> None:
        now = self._loop.time()
        match message:
            case Taken(number):
                if connection := self._untaken.pop(number, None):
                    connection.close()
                    self._held += 1
                    self._beats.took(now, more=bool(self._untaken))
            case Released(count):
                if count > self._held:
                    self._distrust(f"it released {count} connections and held {self._held}")
                    return
                self._held -= count
                self._owner.tell(WorkerReleased(self.name, count))
            case Beat():
                self._last_beat = message
            case Ready():
                if not self._draining and not self._beats.is_ready:
                    self._beats.ready(now)
                    self._look_in(self._beats.next_look(now))
                    self._owner.tell(WorkerReady(self.name))
            case Tired(why):
                self._owner.tell(WorkerTired(self.name, why))
            case Reported(number):
                if reply := self._reports.pop(number, None):
                    reply.tell(message)
            case Explained(number):
                if asked := self._explanations.pop(number, None):
                    asked.tell(message)
            case Draining():
                self._hear_draining()
            case Ended():
                self._said = message
                self._owner.tell(LastWords(self.name, message))
            case _:
                assert_never(message)
        self._beats.heard(now)
        if not self._fresh and self._beats.look(now) is Vigour.FRESH:
            self._tell_freshness(True)

    def _hear_draining(self) -> None:
        if not self._retired:  # of its own accord
            drain = self._options.drain_timeout
            self.after(drain + ENDING, Execute(f"had not drained after {drain:g} s and {ENDING:g} s more"))
        self._retired = self._draining = True
        self._owner.tell(WorkerDraining(self.name))
        # It has said which it took, and refuses the others: those need not wait for its end.
        untaken, self._untaken = tuple(self._untaken.values()), {}
        self._return(untaken)

    # --- whether it lives ---------------------------------------------------------------------------------------------

    def _look_in(self, seconds: float) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look_at = self._loop.time() + seconds
        self._look = self.after(seconds, Look())

    def _look_after_it(self) -> None:
        if self._doomed:
            return
        now = self._loop.time()
        if (late := now - self._look_at) > LATE:
            self._beats.miss(now, late)
        vigour = self._beats.look(now)
        if vigour is Vigour.HUNG:
            self._put_down()
            return
        self._tell_freshness(vigour is not Vigour.STALE)
        self._look_in(max(self._beats.next_look(now), 0.05))

    def _tell_freshness(self, fresh: bool) -> None:
        if fresh is not self._fresh and not self._doomed:
            self._fresh = fresh
            self._owner.tell(WorkerFreshness(self.name, fresh))

    def _put_down(self) -> None:
        """It hangs: have it write its stack down, and kill it."""
        self._doom()
        if self._pid is None or self._process is None:
            return
        if self._beats.is_ready:
            why = f"said nothing for {self._options.worker_timeout:g} s (worker_timeout)"
        else:
            why = f"was not ready within {self._options.start_timeout:g} s (start_timeout)"
        logger.error("%s (process %d) %s: its stack follows, and it is killed", self.name, self._pid, why)
        self._process.signal(signal.SIGUSR1)
        self._why = why
        self.after(STACK_TIME, Execute(why))

    def _execute(self, why: str) -> None:
        if self._process is not None:
            self._why = self._why or why
            self._process.kill()

    # --- its end ------------------------------------------------------------------------------------------------------

    def _verdict(self, returncode: int) -> LinkError | None:
        """What the end of the process was; None where it was in good order."""
        said, lines = self._said, self._process.last_lines if self._process is not None else ()
        if returncode == 0 and not self._why and (self._retired or (said is not None and not said.reason)):
            return None
        if said is not None and said.reason:
            why = said.reason
        elif self._why:
            why = f"{self._why}, and {describe(returncode)}"
        else:
            why = describe(returncode) + (f": {lines[-1][:200]}" if lines else "")
        return ProcessFailed(f"{self.name}: {why}", returncode=returncode, last_lines=lines)

    def ending(self, reason: BaseException | None) -> None:
        if self.ended():
            self._let_go()
        else:
            self._say(Hasten())

    def ended(self) -> bool:
        return self._process is None or not self._process.alive

    def overdue(self) -> None:
        if self._process is not None:
            self._process.close()
        self._let_go()

    def _late(self, message: object) -> None:
        match message:
            case ProcessEnded():
                self._let_go()
            case Said(Taken(number)):
                if connection := self._untaken.pop(number, None):
                    connection.close()
            case Said() | FellSilent() | Look() | Execute():
                pass  # it ends, whatever else there is to say
            case _:
                super()._late(message)

    def _let_go(self) -> None:
        """Give back what it did not take, and leave nobody waiting."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.close()
        untaken, self._untaken = tuple(self._untaken.values()), {}
        self._return(untaken)
        reports, self._reports = self._reports, {}
        for report in reports.values():
            report.fail(Closed(f"{self.name} has ended"))
        explanations, self._explanations = self._explanations, {}
        for explanation in explanations.values():
            explanation.fail(Closed(f"{self.name} has ended"))

    def _finish(self, exited: Exited) -> None:
        super()._finish(exited)
        self._let_go()  # it may have ended between its process's end and the word of that

    def unheard(self, message: WorkerMessage) -> None:
        if isinstance(message, Give):
            self._return((message.connection,))
        elif isinstance(message, (AskReport, AskWhy)):
            message.reply.fail(Closed(f"{self.name} has ended"))

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        beat = self._last_beat
        return {
            "pid": self._pid,
            "untaken": len(self._untaken),
            "streams": beat.streams if beat is not None else 0,
            "requests": beat.requests if beat is not None else 0,
            "late": beat.late if beat is not None else 0.0,
        }
