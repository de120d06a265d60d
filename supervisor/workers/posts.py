"""What is said between the actors of a parent: its workers' and its crew."""

from __future__ import annotations

import socket as sockets

from attrs import field, frozen

from actors.mailbox import Ref, Reply
from actors.messages import Exited
from supervisor.workers.spoken import Ended, Explained, FromWorker, Hasten, Reported, Retire, SendTrace, WriteStacks

# --- what a worker's actor is told ------------------------------------------------------------------------------------


@frozen
class Give:
    """Have the worker serve this connection; our copy of its socket is the actor's from now on."""

    connection: sockets.socket = field(repr=False)


@frozen
class AskReport:
    reply: Reply[Reported] = field(repr=False)


@frozen
class AskWhy:
    """Have the worker say what its streams wait for; ``stream`` names one, or is empty."""

    stream: str
    reply: Reply[Explained] = field(repr=False)


@frozen
class Said:
    """Something came from the worker."""

    message: FromWorker


@frozen
class FellSilent:
    """Nothing more will come from the worker."""

    error: Exception | None


@frozen
class ProcessEnded:
    returncode: int


@frozen
class Look:
    """See whether it lives."""


@frozen
class Execute:
    """Kill it: its time is up."""

    why: str


WorkerMessage = (
    Give | Retire | Hasten | WriteStacks | SendTrace | AskReport | AskWhy | Said | FellSilent | ProcessEnded | Look
    | Execute
)  # fmt: skip

# --- what it tells the crew -------------------------------------------------------------------------------------------


@frozen
class WorkerReady:
    name: str


@frozen
class WorkerFreshness:
    """Whether it may be given connections."""

    name: str
    fresh: bool


@frozen
class WorkerReleased:
    name: str
    count: int


@frozen
class WorkerTired:
    name: str
    why: str


@frozen
class WorkerDraining:
    name: str


@frozen
class Returned:
    """Connections that the worker did not take."""

    name: str
    connections: tuple[sockets.socket, ...] = field(repr=False)


@frozen
class LastWords:
    """What it said at its end."""

    name: str
    ended: Ended


WorkerNews = (
    WorkerReady | WorkerFreshness | WorkerReleased | WorkerTired | WorkerDraining | Returned | LastWords | Exited
)  # fmt: skip


# --- what the crew is told --------------------------------------------------------------------------------------------


@frozen
class ConnectionAccepted:
    """A client has come."""

    connection: sockets.socket = field(repr=False)


@frozen
class Reload:
    """Replace each worker, one after the other."""


@frozen
class ChangeWorkers:
    """Let there be so many more, or fewer; never fewer than one."""

    by: int


@frozen
class DrainWorker:
    """Replace one worker."""

    name: str
    reply: Reply[None] = field(repr=False)


@frozen
class Terminate:
    """Take no more after ``delay`` seconds, drain, and end; said again, it hastens."""

    delay: float


@frozen
class ShutDoor:
    """The delay is over."""


@frozen
class PlanAgain:
    """Something that was put off may be due."""


@frozen
class CrewMember:
    """How one worker is."""

    name: str
    state: str
    generation: int
    load: int
    age: float
    ref: Ref[WorkerMessage] = field(repr=False)


@frozen
class AskCrew:
    reply: Reply[tuple[CrewMember, ...]] = field(repr=False)


CrewMessage = (
    WorkerNews | ConnectionAccepted | Reload | ChangeWorkers | DrainWorker | Terminate | ShutDoor | PlanAgain | AskCrew
    | WriteStacks
)  # fmt: skip

# --- what the crew tells its owner ------------------------------------------------------------------------------------


@frozen
class CrewChanged:
    """How many serve now, of how many that should."""

    ready: int
    wanted: int
    stopping: bool
    reloading: bool
