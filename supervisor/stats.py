"""What links and servers have counted: frozen figures that anyone may ask for at any time (no I/O)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from attrs import field, frozen

from actors.addresses import Address
from actors.memory import Quota
from actors.stats import ConnectionStats, Quantiles, Totals
from supervisor.link_state import States
from supervisor.pool import Member, Pool


@frozen(kw_only=True)
class ServerStats:
    """A server's figures; totals are since its beginning, and have what ended connections did in them."""

    state: str
    """``new``, ``serving``, ``draining`` or ``closed``."""
    uptime: float
    """Seconds since it began to listen; once it is closed, until then."""
    connections_open: int
    """Connections now."""
    connections_by_state: Mapping[str, int]
    """The same, by the ``state`` that each of ``connection_stats`` has."""
    connections_accepted: int
    """Connections that were served, in total."""
    connections_refused: int
    """Connections that were closed at once for a limit, in total."""
    connections_ended: Mapping[str, int]
    """Connections that have ended, by the name of the error's class; ``""`` for those closed in good order."""
    streams_open: int
    """Streams that count against a limit, either side's."""
    streams_total: int
    """Streams that clients opened, refused ones included, and those that were pushed."""
    streams_refused: int
    """Streams that got REFUSED_STREAM from us, in total, without those of clients that could not know the limit yet."""
    handlers: int
    """Handlers that run, also those whose stream or connection has ended."""
    bytes_received: int
    """From sockets, frames and all, in total."""
    bytes_sent: int
    """Given to sockets, in total."""
    bytes_held: int
    """Queued for the clients' windows or their sockets."""
    send_window: int
    """Bytes of bodies that the clients take now, over all streams."""
    receive_window: int
    """Bytes of bodies that we take now, over all streams."""
    round_trips: Quantiles
    """Of the first SETTINGS and the last PINGs of the connections that are open."""
    refusals: Mapping[str, int]
    """How often a limit refused or ended something, by the name of the field of :class:`~actors.settings.Limits`.

    ``too_many_pings`` stands for those of :class:`~actors.settings.Health`.
    """
    connection_stats: tuple[ConnectionStats, ...] = field(repr=False)
    """One for each open connection."""

    @classmethod
    def of(
        cls,
        connections: tuple[ConnectionStats, ...],
        round_trips: Iterable[float],
        *,
        state: str,
        uptime: float,
        totals: Totals,
        quota: Quota,
        surplus: int,
    ) -> ServerStats:
        """Add up the open ``connections`` and the ``totals`` of the others.

        ``surplus`` is how many streams above ``max_streams`` the open ones refused.
        """
        refusals = totals.refusals + quota.refusals
        if surplus:
            refusals["max_streams"] += surplus
        return cls(
            state=state,
            uptime=uptime,
            connections_open=len(connections),
            connections_by_state=dict(Counter(each.state for each in connections)),
            connections_accepted=totals.accepted,
            connections_refused=totals.refused,
            connections_ended=dict(totals.ended),
            streams_open=sum(each.streams_open for each in connections),
            streams_total=totals.streams + sum(each.streams_total for each in connections),
            streams_refused=totals.streams_refused + quota.refused_streams + surplus,
            handlers=quota.handlers,
            bytes_received=totals.bytes_received + sum(each.bytes_received for each in connections),
            bytes_sent=totals.bytes_sent + sum(each.bytes_sent for each in connections),
            bytes_held=sum(each.bytes_held for each in connections),
            send_window=sum(each.send_window for each in connections),
            receive_window=sum(each.receive_window for each in connections),
            round_trips=Quantiles.of(round_trips),
            refusals=dict(refusals),
            connection_stats=connections,
        )


@frozen(kw_only=True)
class LinkStats:
    """A link's figures; totals are since its beginning, and have what ended connections did in them."""

    state: str
    """The name of its :class:`~supervisor.link_state.LinkState`."""
    cause: str
    """What went wrong last, while it is not READY; else empty."""
    addresses: tuple[str, ...]
    """Where the service is, as far as is known."""
    addresses_aside: tuple[str, ...]
    """Those of them that fail too often, or asked to be left alone, and get nothing for now."""
    connections_open: int
    """Connections now."""
    connections_by_state: Mapping[str, int]
    """The same, by ``starting``, ``ready``, ``suspect`` and ``draining``, and ``dialling``, without a socket yet."""
    restarts: Mapping[str, int]
    """Connections that ended, or went away, without being asked to, by the name of the reason's class."""
    requests_open: int
    """Requests and streams that have a place on a connection."""
    requests_queued: int
    """Requests that wait for one."""
    requests_total: int
    """Places that were given; a request that goes again has another."""
    refusals: Mapping[str, int]
    """Requests that were refused, by the name of the field of :class:`~actors.settings.Limits`."""
    retries: Mapping[str, int]
    """Requests that went again, by the value of their :class:`~actors.errors.Outcome`."""
    retries_refused: Mapping[str, int]
    """Failed requests that did not, by the name of the :class:`~supervisor.retry.Refusal`."""
    streams_total: int
    """Streams that were opened."""
    bytes_received: int
    """From sockets, frames and all, in total."""
    bytes_sent: int
    """Given to sockets, in total."""
    bytes_held: int
    """Queued for the service's windows or the sockets."""
    send_window: int
    """Bytes of bodies that the service takes now, over all streams."""
    receive_window: int
    """Bytes of bodies that we take now, over all streams."""
    round_trips: Quantiles
    """Of the last PINGs over all connections, and of the first SETTINGS of those that are open."""
    connection_stats: tuple[ConnectionStats, ...] = field(repr=False)
    """One for each open connection."""

    @classmethod
    def of(
        cls,
        states: States,
        addresses: Iterable[Address],
        pool: Pool[Address],
        members: Iterable[Member[Address]],
        totals: Totals,
        *,
        now: float,
        dialling: int,
        round_trips: Iterable[float],
        restarts: Mapping[str, int],
        retries: Mapping[str, int],
        retries_refused: Mapping[str, int],
    ) -> LinkStats:
        """Add up the connections that are there and the ``totals`` of the others."""
        members, places = tuple(members), tuple(addresses)
        connections = tuple(each.connection.measure(now) for each in members)
        phases = Counter(each.phase.value for each in members)
        if dialling:
            phases["dialling"] = dialling
        first = [seconds for each in members for seconds in tuple(each.connection.round_trips.seconds)[:1]]
        return cls(
            state=states.state.name,
            cause=str(states.cause or ""),
            addresses=tuple(str(each) for each in places),
            addresses_aside=tuple(str(each) for each in places if pool.outliers.is_aside(each, now)),
            connections_open=len(connections),
            connections_by_state=dict(phases),
            restarts=dict(restarts),
            requests_open=pool.load,
            requests_queued=pool.waiting,
            requests_total=pool.requests,
            refusals=dict(pool.refusals),
            retries=dict(retries),
            retries_refused=dict(retries_refused),
            streams_total=totals.streams + sum(each.streams_total for each in connections),
            bytes_received=totals.bytes_received + sum(each.bytes_received for each in connections),
            bytes_sent=totals.bytes_sent + sum(each.bytes_sent for each in connections),
            bytes_held=sum(each.bytes_held for each in connections),
            send_window=sum(each.send_window for each in connections),
            receive_window=sum(each.receive_window for each in connections),
            round_trips=Quantiles.of([*round_trips, *first]),
            connection_stats=connections,
        )
