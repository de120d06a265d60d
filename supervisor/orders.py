"""What a link's keeper is told, besides the news of its connections."""

from __future__ import annotations

from attrs import field, frozen

from actors.addresses import Address, Endpoint
from actors.errors import LinkError
from actors.mailbox import Reply
from actors.messages import ConnectionNews, Exited
from actors.settings import Limits
from actors.transport import SocketProtocol


@frozen
class Resolved:
    """Where the service is, as far as could be found out."""

    addresses: tuple[Address, ...]
    unknown: tuple[Endpoint, ...] = ()
    """Those whose addresses could not be found out."""
    error: LinkError | None = None


@frozen
class Dialled:
    """A socket is connected."""

    dial: str
    address: Address
    protocol: SocketProtocol = field(repr=False)


@frozen
class AskReady:
    """Answer when a connection is known to be alive, with its last round trip; fail when that cannot be soon."""

    reply: Reply[float] = field(repr=False)
    patient: bool
    """Whether it waits on while no connection can be made."""
    fresh: bool = True
    """Whether a silent connection is to be asked first."""


@frozen
class ConnectNow:
    """Wait no longer for the next attempt."""


@frozen
class Grow:
    """The connections are crowded, or one is of no use for now: perhaps there should be another."""


@frozen
class Probe:
    """Ask a silent connection for a sign of life."""

    member: str


@frozen
class Tick:
    """Time has passed: look at the addresses, at what is too much, and at how the load is spread."""


@frozen
class Wake:
    """The wait before the next attempt is over."""


@frozen
class ShutDown:
    """Say goodbye on every connection, and end."""

    error: LinkError
    debug: bytes


@frozen
class LetHold:
    """Other limits hold from now on; the answer is what to wait for: each connection's own answer."""

    limits: Limits = field(repr=False)
    replies: Reply[tuple[Reply[None], ...]] = field(repr=False)


KeeperMessage = (
    Resolved
    | Dialled
    | AskReady
    | ConnectNow
    | Grow
    | Probe
    | Tick
    | Wake
    | ShutDown
    | LetHold
    | ConnectionNews
    | Exited
)
