"""A link to one service: a supervised pool of connections that a service can hold for months."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Final, Self

from attrs import evolve

from actors.addresses import Endpoint
from actors.bodies import request
from actors.client_stream import ClientStream
from actors.errors import Closed, DeadlineExceeded, LinkError, Misuse, RemoteError
from actors.exchange import OutgoingBody, Response
from actors.headers import HeaderInput
from actors.mailbox import Ref, Reply, check_loop, closed_error
from actors.messages import Exited, SendPing
from actors.outgoing import Outgoing, prepare
from actors.renewal import TlsFiles
from actors.settings import Backoff, Health, Limits, Retry, Tls, check_debug, check_kind, check_limits
from actors.stats import ConnectionStats
from actors.tls import client_side
from actors.trace import Recorder, Tracer, flight_recorder
from supervisor.census import Plain, census
from supervisor.course import Course, Opening
from supervisor.endpoints import parse_proxy, parse_urls
from supervisor.explanation import Explanation
from supervisor.health import PingStrikes
from supervisor.inspection import look
from supervisor.keeper import Keeper
from supervisor.link_state import Changes, LinkState, States
from supervisor.orders import AskReady, ConnectNow, LetHold, ShutDown
from supervisor.pool import Phase
from supervisor.retry import Budget
from supervisor.roster import Service
from supervisor.stats import LinkStats
from supervisor.tracing.capture import BYTES, EVENTS, SECONDS, Capture, Chooser, Sink
from supervisor.tracing.dossiers import Dossiers
from supervisor.tracing.records import Trace
from supervisor.tracing.snapshot import take
from supervisor.why import LinePicture, explain

_numbers: Final = itertools.count(1)
MOST_CONNECTIONS: Final = 10_000


def _tls_of(endpoints: Sequence[Endpoint], tls: Tls | None, limits: Limits) -> TlsFiles | None:
    """What TLS needs; None for plaintext. Raises Misuse."""
    secure = any(each.secure for each in endpoints)
    if tls is None and not secure:
        return None
    plain = next((each for each in endpoints if not each.secure and each.path is None), None)
    if plain is not None:
        raise Misuse(f"tls is for https: write https://{plain}, or leave tls away")
    check_kind("tls", tls if tls is not None else Tls(), Tls)
    asked = tls if tls is not None else Tls()
    named = all(each.path is None for each in endpoints)
    return TlsFiles(asked, lambda: client_side(asked, limits, named=named))


class Link:
    """Requests to one service over HTTP/2, over TLS or with prior knowledge.

    ``async with`` connects on entering; on leaving, what is still open ends with Closed. Meanwhile connections that are
    lost, that go away, or that may be dead are replaced, and what was provably not done is sent again.
    """

    def __init__(  # noqa: PLR0913  (all but the URL have good defaults)
        self,
        url: str | Sequence[str],
        *,
        connections: int = 1,
        max_connections: int | None = None,
        wait_for_ready: bool = False,
        push: bool = False,
        tls: Tls | None = None,
        proxy: str | None = None,
        limits: Limits | None = None,
        health: Health | None = None,
        backoff: Backoff | None = None,
        retry: Retry | None = None,
        record: bool = True,
        dossiers: str | os.PathLike[str] | Dossiers | None = None,
    ) -> None:
        """``url`` is ``http://HOST[:PORT]``, ``https://`` for TLS, or ``unix:PATH``; several are places of one service.

        ``connections`` are kept open; up to ``max_connections`` (the same number) are, while those are full,
        beside some that may be suspect or on their way out.
        ``wait_for_ready``: requests wait, within their time, where none can be made, instead of failing at once.
        ``tls`` says how TLS is done; for a Unix socket, that it is. The files that it names are read at once, and again
        when they have changed. ``proxy`` is ``http://[USER:PASSWORD@]HOST:PORT``, an HTTP proxy through which every
        connection goes (CONNECT), and which looks up the service's name. ``record`` keeps the newest messages of all
        actors in the event loop's flight recorder (:func:`~actors.trace.flight_recorder`). ``dossiers`` is a directory
        of its own for a file about each actor that crashes. Raises Misuse for what can never work.
        """
        self.endpoints = parse_urls(url)
        most = connections if max_connections is None else max_connections
        if type(connections) is not int or not 1 <= connections <= MOST_CONNECTIONS:
            raise Misuse(f"connections is a number from 1 to {MOST_CONNECTIONS}, not {connections!r}")
        if type(most) is not int or not connections <= most <= MOST_CONNECTIONS:
            raise Misuse(
                f"max_connections is a number from connections ({connections}) to {MOST_CONNECTIONS}, not {most!r}"
            )
        for name, flag in (("push", push), ("wait_for_ready", wait_for_ready), ("record", record)):
            if type(flag) is not bool:
                raise Misuse(f"{name} is True or False, not {flag!r}")
        self.limits = limits if limits is not None else Limits()
        self.health = health if health is not None else Health()
        self.retry = retry if retry is not None else Retry()
        backoff = backoff if backoff is not None else Backoff()
        check_limits(self.limits)
        check_kind("health", self.health, Health)
        check_kind("retry", self.retry, Retry)
        check_kind("backoff", backoff, Backoff)
        self.tracer = Tracer()
        """The hook that sees every message of the link's actors."""
        self._dossiers = dossiers if isinstance(dossiers, Dossiers) or dossiers is None else Dossiers(dossiers)
        if self._dossiers is not None:
            self._dossiers.watch(self.tracer)
        self.name = f"link-{next(_numbers)}"
        self.alternatives: dict[str, str] = {}
        """Where else an origin is served, as the service said in ALTSVC (RFC 7838); nothing is done with it."""
        self._tls = _tls_of(self.endpoints, tls, self.limits)
        self._authority = self.endpoints[0].authority
        several = len({each.authority for each in self.endpoints}) > 1
        self._shared_authority = self._authority.encode() if several else None
        """What a request's head says before it is known which of several places it goes to."""
        self._patient = wait_for_ready
        self._record = record
        self._states = States()
        self._budget = Budget(self.retry)
        self._pings = PingStrikes(self.health)
        self._requests = itertools.count(1)
        self._closed: LinkError | None = None
        self._entered = False
        self._started = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper = Keeper(
            self.name,
            Service(
                self.endpoints, connections, most, push, self._tls.side if self._tls else None, backoff,
                parse_proxy(proxy, self.endpoints) if proxy is not None else None,
            ),
            self._states,
            limits=self.limits, health=self.health, alternatives=self.alternatives, tracer=self.tracer,
        )  # fmt: skip
        self._pool = self._keeper.pool

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect. Raises ConnectFailed, TlsFailed, and ProtocolViolation where the peer does not speak HTTP/2.

        With ``wait_for_ready`` it waits, for as long as that takes, where the service is merely not there.
        """
        if self._entered:
            raise Misuse("a Link is entered once: leaving it would close it for whoever entered it first")
        self._entered = True
        try:
            await self._ready(fresh=False)
        except BaseException:
            await self.close()  # whoever is not let in cannot leave
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, debug: bytes = b"") -> None:
        """Say GOAWAY, end what is open with Closed, and close; closing twice is closing once.

        ``debug`` is for the people who look after the service; of it the first 512 bytes are sent.
        """
        check_debug(debug)
        check_loop(self.name, self._loop)
        if self._closed is None:
            self._closed = Closed(f"the link to {self._keeper.where} was closed")
        if not self._started:
            self._states.change(LinkState.SHUTDOWN, self._closed, asyncio.get_running_loop().time())
            return
        try:
            if debug:
                self._keeper.tell(ShutDown(self._closed, debug))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.limits.shutdown_timeout):
                        await self._keeper.wait()
            await self._keeper.stop(self._closed)
        except asyncio.CancelledError:
            await self._keeper.stop(self._closed)  # it takes little time, and then nothing is left behind
            raise
        finally:
            if self._dossiers is not None:
                await self._dossiers.flush()

    def _run(self) -> None:
        """See that the keeper runs. Raises Closed where the link has ended, and Misuse on another loop."""
        check_loop(self.name, self._loop)
        if self._closed is not None:
            raise Closed.because(str(self._closed), self._closed.__cause__)
        if not self._started:
            self._started = True
            self._loop = asyncio.get_running_loop()
            if self._record:
                self.tracer.record(flight_recorder(self._loop))
            self._keeper.start(Ref("link", self._ended))

    def _ended(self, exited: Exited) -> None:
        if self._closed is None:
            reason = exited.reason
            self._closed = reason if isinstance(reason, Closed) else closed_error(exited.name, reason)

    # --- how it is ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        """What it is doing."""
        return self._states.state

    @property
    def cause(self) -> LinkError | None:
        """What went wrong last, while it is not READY."""
        return self._states.cause

    def changes(self) -> Changes:
        """The changes of its state from now on, each with its cause: ``async for change in link.changes()``."""
        return self._states.watch()

    def stats(self) -> LinkStats:
        """What it has counted; cheap enough to be asked every second."""
        return self._keeper.stats()

    async def census(self) -> list[Plain]:
        """Its actors, each behind its parent, as :func:`~supervisor.census.census` gives them; none where none live."""
        check_loop(self.name, self._loop)
        return await census(self._keeper.ref) if self._started else []

    async def why(self, stream: str | None = None) -> list[Explanation]:
        """For each request that waits: what for, since when, and who could end it; none where none does.

        With ``stream``, the name of one such as ``link-1/request-7``, about that alone, also where it merely runs.
        """
        check_loop(self.name, self._loop)
        if not self._started or self._keeper.exited is not None:
            return []
        members = self._keeper.members.values()
        found = await look(self.name, [each.route.connection for each in members])
        return explain(evolve(found, line=self._line()), stream)

    def _line(self) -> LinePicture:
        """Who waits for a connection, and why."""
        now, stats, pool = asyncio.get_running_loop().time(), self._keeper.stats(), self._pool
        cause = self._states.cause
        return LinePicture(
            state=self._states.state.name,
            # What a peer said may hold anything.
            cause=type(cause).__name__ if isinstance(cause, RemoteError) else str(cause or ""),
            where=self._keeper.where,
            dialling=stats.connections_by_state.get("dialling", 0),
            starting=stats.connections_by_state.get(Phase.STARTING.value, 0),
            ready=len(pool.members),
            allowed=sum(each.limit for each in pool.members),
            load=sum(each.load for each in pool.members),
            waiting=tuple((each.name, now - each.since) for each in pool.line),
            max_pending=self.limits.max_pending,
            resting=tuple((name, now - since, until - now, why) for name, (since, until, why) in pool.resting.items()),
        )

    def trace(self, *, process: str = "") -> Trace:
        """What the flight recorder holds of its actors' messages; ``process`` is what the trace calls this one.

        Raises Misuse where nothing is recorded.
        """
        return self.recorded(process=process)()

    def recorded(self, *, process: str = "") -> Callable[[], Trace]:
        """Take at once what :meth:`trace` is made of; what is returned makes that, in any thread."""
        if not self._record:
            raise Misuse("the link's messages are not recorded: make it with record=True")
        return take(
            self.tracer.recorder or Recorder(), process=process, prefix=self.name, clock=self.tracer.clock,
            living=self._living(),
        )  # fmt: skip

    def capture(
        self,
        target: str | os.PathLike[str] | Sink,
        *,
        events: int = EVENTS,
        seconds: float = SECONDS,
        bytes: int = BYTES,
        payloads: bool = False,
        for_replay: bool = False,
        filter: Chooser | None = None,
    ) -> Capture:
        """Write all messages of its actors to a new file, as JSON Lines, inside ``async with``.

        It ends by itself after so many events, seconds or bytes. ``payloads`` adds bodies and the values of headers,
        and ``for_replay`` what a replay needs, which has them, too.
        """
        return Capture(
            target, events=events, seconds=seconds, bytes=bytes, payloads=payloads, for_replay=for_replay,
            filter=filter, prefix=self.name,
        ).of(lambda: (self.tracer, self._living()))  # fmt: skip

    def _living(self) -> tuple[ConnectionStats, ...]:
        return self.stats().connection_stats

    def connect_now(self) -> None:
        """Try at once, instead of waiting for the next attempt's time. Raises Closed."""
        self._run()
        self._keeper.tell(ConnectNow())

    async def healthy(self, *, timeout: float | None = None) -> float:
        """Return the last round trip in seconds of a connection that is known to be alive.

        One that has been silent for ``health.before_request`` is asked by PING first; all who ask share it. But no more
        often than gRPC's servers allow where nothing else comes: every ``health.interval`` with streams open, and every
        two hours without, unless ``health.while_idle``.

        Raises what keeps the link from being connected, unless it waits for that, and DeadlineExceeded after
        ``timeout`` seconds.
        """
        return await self._ready(fresh=True, timeout=timeout)

    async def _ready(self, *, fresh: bool, timeout: float | None = None) -> float:
        if timeout is not None and (type(timeout) not in (int, float) or not timeout > 0):
            raise Misuse(f"a timeout is a number of seconds above 0, not {timeout!r}")
        self._run()
        reply: Reply[float] = Reply()
        self._keeper.tell(AskReady(reply, self._patient, fresh))
        try:
            async with asyncio.timeout(timeout):
                return await reply.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the link to {self._keeper.where} had no living connection within {timeout:g} s"
            ) from None

    async def ping(self) -> float:
        """Send PING (RFC 9113, 6.7), connecting first where need be, and return the round-trip time in seconds.

        All who ask at the same time share one. Servers end a connection for too many: above what ``health`` allows a
        server's clients, it returns the last round trip instead. Raises LinkError.
        """
        last = await self._ready(fresh=False)
        if not self._pings.allows(asyncio.get_running_loop().time()):
            return last
        reply: Reply[float] = Reply()
        members = self._pool.members
        if not members:
            raise Closed(f"the link to {self._keeper.where} has just lost its connection")
        members[0].route.connection.tell(SendPing(reply))
        return await reply.wait()

    async def change_limits(self, limits: Limits) -> None:
        """Let other limits hold; returns when the service has acknowledged what concerns it (RFC 9113, 6.5.3).

        Each holds from its acknowledgement on, and for later connections from their beginning; windows that are open
        stay as they are. Raises LinkError where a connection ends meanwhile.
        """
        check_limits(limits)
        check_loop(self.name, self._loop)
        self.limits = limits
        if not self._started or self._keeper.exited is not None:
            self._keeper.limits = self._pool.limits = limits
            return
        replies: Reply[tuple[Reply[None], ...]] = Reply()
        self._keeper.tell(LetHold(limits, replies))
        for reply in await replies.wait():
            await reply.wait()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody = b"",
        trailers: HeaderInput = (),
        timeout: float | None = None,
        idempotent: bool = False,
        weight: int = 16,
        max_body: int | None = None,
        wait_for_ready: bool | None = None,
    ) -> Response:
        """Send a request and return its whole response; any status is a response.

        ``timeout`` in seconds covers everything from waiting for a place to the last byte. What failed and was provably
        not done goes again (``retry``), with ``idempotent`` also what may have been done. ``weight`` (1 to 256) is the
        share of the body among others on the connection; ``max_body`` bytes (``limits.max_response_body``) bound the
        response. Raises LinkError: its ``outcome`` says whether the peer may have acted on the request.
        """
        outgoing = self._prepare(
            method, path, headers=headers, body=body, trailers=trailers, timeout=timeout, weight=weight,
            max_body=max_body, authority=None, protocol=None,
        )  # fmt: skip
        course = self._course(outgoing, idempotent, wait_for_ready)
        while True:
            member = course.enter() or await course.wait()
            try:
                reply = await request(member.route, course.over(member))
            except LinkError as error:
                pause = course.again(member, error)
            else:
                course.answered(member, reply.status, reply.headers, reply.trailers)
                return reply
            finally:
                course.leave(member)
            await course.rest(pause)

    def stream(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = (),
        body: OutgoingBody | None = None,
        trailers: HeaderInput = (),
        timeout: float | None = None,
        weight: int = 16,
        max_body: int | None = None,
        authority: str | None = None,
        protocol: str | None = None,
        wait_for_ready: bool | None = None,
    ) -> AbstractAsyncContextManager[ClientStream]:
        """Open a stream to send and receive over at the same time; leaving it unfinished resets it with CANCEL.

        Without ``body`` our side stays open until ``end()``, but for GET and HEAD, which have none. The rest is as in
        :meth:`request`; ``max_body`` bounds ``read()`` to the end; once it is open, it is the caller who may try again.
        ``protocol`` makes a CONNECT an extended one (RFC 8441), such as ``websocket``; where the service does not take
        that, it is Misuse and nothing is sent.
        """
        outgoing = self._prepare(
            method, path, headers=headers, body=body, trailers=trailers, timeout=timeout, weight=weight,
            max_body=max_body, authority=authority, protocol=protocol,
        )  # fmt: skip
        return Opening(self._course(outgoing, False, wait_for_ready, authority))

    def _course(
        self, outgoing: Outgoing, idempotent: bool, wait_for_ready: bool | None, authority: str | None = None
    ) -> Course:
        self._run()
        for name, flag in (("idempotent", idempotent), ("wait_for_ready", wait_for_ready)):
            if type(flag) is not bool and (name, flag) != ("wait_for_ready", None):
                raise Misuse(f"{name} is True or False, not {flag!r}")
        return Course(
            self._keeper, outgoing, self.retry, self._budget, idempotent=idempotent,
            patient=self._patient if wait_for_ready is None else wait_for_ready,
            authority=self._shared_authority if authority is None else None,
        )  # fmt: skip

    def _prepare(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput,
        body: OutgoingBody | None,
        trailers: HeaderInput,
        timeout: float | None,
        weight: int,
        max_body: int | None,
        authority: str | None,
        protocol: str | None,
    ) -> Outgoing:
        """Check everything, before a connection is made or anything sent."""
        return prepare(
            f"{self.name}/request-{next(self._requests)}",
            method,
            "http" if self._tls is None else "https",
            self._authority if authority is None else authority,
            path,
            headers=headers,
            body=body,
            trailers=trailers,
            weight=weight,
            timeout=timeout,
            max_body=self.limits.max_response_body if max_body is None else max_body,
            protocol=protocol,
        )
