"""The crew: the parent's actor, which keeps workers up, gives them connections, and replaces them.

What there should be is decided in ``staffing``; here it is done. After each batch of messages the crew compares, starts
and drains, and opens the door only while somebody can take a connection: all others wait in the kernel's backlog, where
no end of a worker can reach them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket as sockets
from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Protocol, assert_never

from actors.actor import Stop
from actors.errors import Closed, LinkError, Misuse, ProcessFailed
from actors.mailbox import Ref, Reply, Understood
from actors.messages import Exited, Kill
from actors.turns import TurnActor
from supervisor.workers.options import ServeOptions
from supervisor.workers.posts import (
    AskCrew,
    ChangeWorkers,
    ConnectionAccepted,
    CrewChanged,
    CrewMember,
    CrewMessage,
    DrainWorker,
    Give,
    LastWords,
    PlanAgain,
    Reload,
    Returned,
    ShutDoor,
    Terminate,
    WorkerDraining,
    WorkerFreshness,
    WorkerReady,
    WorkerReleased,
    WorkerTired,
)
from supervisor.workers.spoken import Hasten, Retire, WriteStacks
from supervisor.workers.staffing import Member, Phase, Plan, Staff
from supervisor.workers.worker import (
    ASKED_WRONGLY,
    ENDING,
    WorkerActor,
)

logger: Final = logging.getLogger("muxlink.workers")

MAX_WORKERS: Final = 512


class Entrance(Protocol):
    """A door, as the crew needs it."""

    def let_in(self, yes: bool) -> None: ...
    def close(self) -> None: ...


class Crew(TurnActor[CrewMessage]):
    """The workers of one parent."""

    __slots__ = (
        "_alarm", "_changed", "_cut", "_finished", "_hastened", "_homeless", "_loop", "_numbers", "_options",
        "_owner", "_staff", "_stopping", "door", "restarts",
    )  # fmt: skip

    understands: ClassVar[Understood] = CrewMessage

    def __init__(
        self, options: ServeOptions, door: Callable[[Callable[[sockets.socket, str], object]], Entrance],
        owner: Ref[CrewChanged],
    ) -> None:  # fmt: skip
        """``door`` makes the door, with what it has to call for each client."""
        super().__init__("crew", shutdown_timeout=ENDING + 1.0)
        self._options = options
        self._owner = owner
        self.door = door(self._arrived)
        self._staff = Staff(options.workers, options.max_connections)
        self._numbers = itertools.count(1)
        self._stopping = False
        self._hastened = False
        self._alarm: asyncio.TimerHandle | None = None
        self._changed: CrewChanged | None = None
        self._homeless: deque[sockets.socket] = deque()
        """Connections that came as the last who could have taken them went away; whoever comes next gets them."""
        self._cut: list[str] = []
        self._finished = 0
        self.restarts = 0
        """How many workers were started in the place of one that failed."""

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.settle()

    def _arrived(self, connection: sockets.socket, where: str) -> None:
        if not self.tell(ConnectionAccepted(connection)):
            connection.close()

    # --- its turns ----------------------------------------------------------------------------------------------------

    def receive(self, message: CrewMessage) -> None:
        match message:
            case ConnectionAccepted(connection):
                self._give(connection)
            case WorkerReleased(name, count):
                if member := self._staff.members.get(name):
                    member.load -= count
            case Returned(name, connections):
                if member := self._staff.members.get(name):
                    member.load -= len(connections)
                for connection in connections:
                    self._give(connection)
            case WorkerReady(name):
                self._welcome(name)
            case WorkerFreshness(name, fresh):
                if member := self._staff.members.get(name):
                    member.fresh = fresh
            case WorkerTired(name, why):
                logger.info("%s is to be replaced: %s", name, why)
                if member := self._staff.members.get(name):
                    member.tired = True
            case WorkerDraining(name):
                if name in self._staff.members:
                    self._staff.drained(name, self._loop.time(), by_itself=True)
            case LastWords(name, ended):
                self._cut += [f"{name}/{stream}" for stream in ended.cut]
                self._finished += ended.finished
            case Exited(name, reason):
                self._bury(name, reason)
            case Reload():
                if not self._stopping:
                    self._staff.reload()
                    self._changed = None  # its owner hears in any case how that stands, and when it is done
            case ChangeWorkers(by):
                if not self._stopping:
                    self._staff.change(min(self._staff.wanted + by, MAX_WORKERS))
            case DrainWorker(name, reply):
                self._replace(name, reply)
            case Terminate(delay):
                self._terminate(delay)
            case ShutDoor():
                self._shut()
            case PlanAgain():
                self._alarm = None
            case AskCrew(reply):
                reply.tell(self._members())
            case WriteStacks():
                for ref in self.children.values():
                    ref.tell(message)
            case _:
                assert_never(message)

    def settle(self) -> None:
        """Do what there is to do, and let in as many as can be taken."""
        if self._stopping and not self.children:
            raise Stop(None)
        if not self._stopping:
            self._carry_out(self._staff.plan(self._loop.time()))
        for _ in range(len(self._homeless)):
            self._give(self._homeless.popleft())
        if self._stopping and self._staff.choose() is None:
            self._turn_away()
        self.door.let_in(not self._homeless and not self._hastened and self._staff.choose() is not None)
        staff = self._staff
        changed = CrewChanged(
            staff.count(Phase.READY), staff.wanted, self._stopping,
            any(each.generation < staff.generation for each in staff.members.values()),
        )  # fmt: skip
        if changed != self._changed:
            self._changed = changed
            self._owner.tell(changed)

    def _carry_out(self, plan: Plan) -> None:
        if plan.give_up is not None:
            raise Stop(self._hopeless(plan.give_up))
        for _ in range(plan.start):
            self._start(replaces=plan.replace)
        for name in plan.drain:
            self._drain(name)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if plan.look_again is not None:
            self._alarm = self.after(max(plan.look_again - self._loop.time(), 0.0), PlanAgain())

    def _hopeless(self, why: str) -> LinkError:
        if self._staff.hopeless is not None:
            return Misuse(why.partition(": ")[2])  # without the worker's name: it is no worker's fault
        return ProcessFailed(why)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _start(self, *, replaces: bool) -> None:
        name = f"worker-{next(self._numbers)}"
        self._staff.started(name, self._loop.time(), replaces=replaces)
        self.start_child(WorkerActor(name, self._options, self.ref))

    def _drain(self, name: str) -> None:
        """Have a worker take no more and end; one that has not begun to serve just ends."""
        member = self._staff.members[name]
        starting = member.phase is Phase.STARTING
        self._staff.drained(name, self._loop.time())
        if ref := self.children.get(name):
            ref.tell(Hasten() if starting or self._hastened else Retire(self._options.drain_timeout))

    def _replace(self, name: str, reply: Reply[None]) -> None:
        member = self._staff.members.get(name)
        if member is None or member.phase is not Phase.READY:
            serving = [each.name for each in self._staff.members.values() if each.phase is Phase.READY]
            reply.fail(Misuse(f"no {name} serves; there is {', '.join(serving) or 'none'}"))
            return
        member.tired = True
        reply.tell(None)

    def _bury(self, name: str, reason: BaseException | None) -> None:
        if name not in self._staff.members:
            return
        asked_wrongly = isinstance(reason, ProcessFailed) and reason.returncode == ASKED_WRONGLY
        why = "" if reason is None else str(reason) or type(reason).__name__
        if self._stopping:
            self._staff.drained(name, self._loop.time())
        if why and (self._staff.ever_ready or not asked_wrongly):
            logger.error("%s", why)  # else whoever started us is told, once for all workers
        phase = self._staff.members[name].phase
        gave_up = self._staff.ended(name, self._loop.time(), reason=why, hopeless=asked_wrongly)
        self.restarts += phase is not Phase.DRAINING and bool(why)
        if gave_up:
            logger.error("the old workers go on, for another cannot take their place: %s", why)

    def _welcome(self, name: str) -> None:
        """It serves."""
        if (why := self._staff.hopeless) is not None:
            logger.error("%s", why)  # not all fail as that one did, so nobody else will tell
        self._staff.ready(name, self._loop.time())
        logger.info("%s is ready", name)

    # --- connections --------------------------------------------------------------------------------------------------

    def _give(self, connection: sockets.socket) -> None:
        member: Member | None = self._staff.choose()
        ref = self.children.get(member.name) if member is not None else None
        if member is None or ref is None:
            self._homeless.append(connection)
            return
        member.load += 1
        ref.tell(Give(connection))
        if member.load >= self._staff.most:
            self.door.let_in(self._staff.choose() is not None)

    def _turn_away(self) -> None:
        """Nobody will come who could take them."""
        while self._homeless:
            self._homeless.popleft().close()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _terminate(self, delay: float) -> None:
        if self._stopping:
            self._hastened = True
            self._shut()
            return
        self._stopping = True
        self._staff.wanted = 0
        for each in list(self._staff.members.values()):
            if each.phase is Phase.STARTING:
                self._drain(each.name)
        if delay > 0:
            self.after(delay, ShutDoor())
        else:
            self._shut()

    def _shut(self) -> None:
        self.door.close()
        for each in list(self._staff.members.values()):
            if each.phase is not Phase.DRAINING:
                self._drain(each.name)
            elif self._hastened and (ref := self.children.get(each.name)):
                ref.tell(Hasten())

    def ending(self, reason: BaseException | None) -> None:
        self.door.close()
        self._turn_away()

    def overdue(self) -> None:
        """No time is left, or the task was cancelled: whoever still lives is killed."""
        for ref in self.children.values():
            ref.signal(Kill())

    def _late(self, message: object) -> None:
        match message:
            case Returned(_, connections):
                for connection in connections:
                    connection.close()
            case ConnectionAccepted(connection):
                connection.close()
            case _:
                super()._late(message)

    def unheard(self, message: CrewMessage) -> None:
        match message:
            case ConnectionAccepted(connection):
                connection.close()
            case Returned(_, connections):
                for connection in connections:
                    connection.close()
            case AskCrew(reply):
                reply.fail(Closed("the crew has ended"))
            case DrainWorker(_, reply):
                reply.fail(Closed("the crew has ended"))
            case _:
                pass

    # --- figures ------------------------------------------------------------------------------------------------------

    @property
    def cut(self) -> tuple[str, ...]:
        """The streams that had not finished when their worker's time for draining was up."""
        return tuple(self._cut)

    @property
    def finished(self) -> int:
        """Streams that ended while their worker drained."""
        return self._finished

    def _members(self) -> tuple[CrewMember, ...]:
        now = self._loop.time()
        return tuple(
            CrewMember(
                each.name, each.phase.value if each.fresh else "silent", each.generation, each.load, now - each.born,
                self.children[each.name],
            )
            for each in self._staff.members.values()
            if each.name in self.children
        )  # fmt: skip

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        staff = self._staff
        return {
            "wanted": staff.wanted,
            "ready": staff.count(Phase.READY),
            "generation": staff.generation,
            "connections": sum(each.load for each in staff.members.values()),
        }
