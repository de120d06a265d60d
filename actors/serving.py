"""A server's connection: an actor that runs the handler for each stream, and a drain in two steps.

A drain begins with a GOAWAY that names no stream, and a PING. What the client sent before it read that GOAWAY arrives
before the PING's answer, and is served; then the second GOAWAY says which stream was the last (RFC 9113, 6.8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Final

from actors.actor import Stop
from actors.connection import ConnectionActor
from actors.errors import Closed, ErrorCode, GoAway, LimitReached, LinkError, Misuse
from actors.mailbox import Ref
from actors.memory import Quota
from actors.messages import (
    ConnectionNews,
    Drain,
    DrainBegan,
    Exited,
    HeadersArrived,
    OpenStream,
    Peer,
    PromiseArrived,
    PushStream,
    Socket,
    StreamFailed,
    StreamsCut,
    Watch,
)
from actors.patience import Wait
from actors.pulse import Doorkeeper, Monitor
from actors.settings import Limits
from actors.stream import Body, StreamActor
from actors.trace import Tracer
from actors.wire import MAX_STREAM_ID, StreamFact, Wire

GOODBYE_SECONDS: Final = 1.0
"""What a client has for answering the PING of a drain."""


class ServerConnection(ConnectionActor):
    """The server's end of a connection; runs ``handler`` for each stream."""

    __slots__ = ("_drained", "_handler", "_max_pushes", "_quota", "share")

    def __init__(
        self,
        name: str,
        socket: Socket,
        handler: Body,
        *,
        peer: Peer,
        limits: Limits,
        owner: Ref[ConnectionNews],
        quota: Quota | None = None,
        host: str = "",
        monitor: Monitor | None = None,
        doorkeeper: Doorkeeper | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``quota`` is what it shares with the server's others; ``host`` is the peer's address, empty without one."""
        wire = Wire(client=False, limits=limits)
        super().__init__(name, socket, wire, peer=peer, owner=owner, monitor=monitor, tracer=tracer)
        if doorkeeper is not None:
            wire.guard.welcome = partial(_welcomes, doorkeeper)
        self._handler = handler
        self._quota = quota if quota is not None else Quota(limits)
        self.share = self._quota.join(host, self.wire.terms.memory)
        """Its host's part of the quota."""
        self._max_pushes = 0
        self._drained: Drain | None = None

    def begin(self) -> None:
        super().begin()
        self.keep(Wait.IDLE, self.limits.idle_timeout)

    def _admit(self, message: OpenStream) -> None:
        message.stream.tell(StreamFailed(Misuse("only clients open streams for requests (RFC 9113, 5.1.1)")))

    def _began(self, stream_id: int, fact: StreamFact | PromiseArrived) -> None:
        """Start an actor for a client's new stream, or refuse it, which says that nothing was done (RFC 9113, 8.7)."""
        if not isinstance(fact, HeadersArrived):
            self.wire.release(stream_id)  # malformed from its first header on: nobody serves it
        elif (self._farewell.going is not None and stream_id > self._farewell.last_served) or self._is_busy():
            self._quota.refused_streams += 1
            self.wire.reset(stream_id, ErrorCode.REFUSED_STREAM)
            self.wire.release(stream_id)
        else:
            self._serve(stream_id, fact)

    def _is_busy(self) -> bool:
        """Whether there are handlers enough, also those whose streams ended, or no memory for more (CVE-2023-44487)."""
        if len(self._streams) >= 2 * self.limits.max_streams:
            limit = "max_streams"
        else:
            limit = self._quota.reached(self.share) or self.wire.terms.memory.short_of
        if limit:
            self._quota.refusals[limit] += 1
        return bool(limit)

    def _serve(self, stream_id: int, head: HeadersArrived) -> None:
        stream = StreamActor(
            f"{self.name}/stream-{stream_id}", self.ref, self._handler, peer=self.peer, terms=self.wire.terms,
            stream_id=stream_id, cancel_on_reset=True, tracer=self.tracer,
        )  # fmt: skip
        self._streams[stream_id] = stream.ref
        self._ids[stream.name] = stream_id
        stream.tell(head)
        if self._drained is not None:
            stream.tell(DrainBegan())
        self.start_child(stream)
        self._quota.begin(self.share)
        if self._pulse.asleep:
            self._look(self._loop.time())

    def _push(self, message: PushStream) -> None:
        reply, most = message.reply, self._max_pushes
        if self._farewell.going is not None:
            reply.fail(self._farewell.going)
        elif not self.wire.terms.push:
            reply.fail(Misuse(f"{self.peer.address} takes no pushes (SETTINGS_ENABLE_PUSH): let it ask"))
        elif self.wire.promised >= most:
            reply.fail(LimitReached(f"{self.peer.address} takes {most} pushes at a time: push when one has ended"))
        elif limit := self._quota.reached(self.share):
            self._quota.refusals[limit] += 1
            reply.fail(LimitReached(f"nothing can be pushed while so many handlers run (Limits.{limit})"))
        else:
            ended = Closed("nothing can be pushed along with a response that has ended")
            try:
                if stream_id := self.wire.push(message.parent_id, message.head):
                    self._serve(stream_id, HeadersArrived(message.head, True))
                    reply.tell(stream_id)
            finally:
                reply.fail(ended)  # unless it was told

    def _peer_allows(self, max_streams: int) -> None:
        self._max_pushes = max_streams

    def _peer_went(self, error: GoAway, last_stream_id: int) -> None:
        """Its own streams finish; pushes above its last are nothing that it will look at."""
        for stream_id, stream in list(self._streams.items()):
            if stream_id % 2 == 0 and stream_id > last_stream_id:
                stream.tell(StreamFailed(error))

    def _bury(self, name: str, reason: BaseException | None, *, crashed: bool) -> bool:
        self._quota.end(self.share)
        self._stirred = self._loop.time()
        return super()._bury(name, reason, crashed=crashed)

    def ending(self, reason: BaseException | None) -> None:
        # From here on nobody is buried, and a handler may run on after its connection.
        quota, share = self._quota, self.share
        ended: Ref[Exited] = Ref(self.name, lambda exited: quota.end(share))
        for child in list(self.children.values()):
            child.signal(Watch(ended))
        super().ending(reason)

    # --- draining -----------------------------------------------------------------------------------------------------

    def _retire(self, error: LinkError) -> None:
        self._drain(Drain(math.inf, error, b"max_age"))

    def _drain(self, drain: Drain) -> None:
        self._leaves()
        self._farewell.finish(drain.error)
        self.keep(Wait.DRAIN, drain.seconds)
        if self._drained is not None:
            return
        self._drained = drain
        for stream in self._streams.values():
            stream.tell(DrainBegan())
        if self._farewell.said:
            self._farewell.refuse(drain.error)
            return
        self.wire.go_away(MAX_STREAM_ID, ErrorCode.NO_ERROR, drain.debug)
        self._pulse.ask(None, self._loop.time())
        self.keep(Wait.GOODBYE, GOODBYE_SECONDS)

    def _ping_acked(self, data: bytes) -> bool:
        ours = super()._ping_acked(data)
        if ours and Wait.GOODBYE in self.deadlines:
            self.deadlines.stop(Wait.GOODBYE)
            self._last_goodbye()
        return ours

    def _last_goodbye(self) -> None:
        if self._drained is not None and not self._farewell.said:
            self._farewell.refuse(self._drained.error)
            self._farewell.say(self._drained.code, self._drained.debug)

    def _overdue(self, wait: Wait, now: float) -> None:
        if wait is Wait.GOODBYE:
            self._last_goodbye()
        elif wait is Wait.IDLE:
            self._idle(now)
        elif wait is Wait.DRAIN:
            cut = tuple(stream.name for stream in self._streams.values())
            if cut:
                self._owner.tell(StreamsCut(self.name, cut))
            self._last_goodbye()
            raise Stop(self._farewell.closing)
        else:
            super()._overdue(wait, now)

    def _idle(self, now: float) -> None:
        most = self.limits.idle_timeout
        quiet = 0.0 if self.wire.streams else now - max(self.heard, self._stirred)
        if quiet < most:
            self.keep(Wait.IDLE, most - quiet)
            return
        idle = f"no stream and no byte for {most:g} s (Limits.idle_timeout)"
        self._farewell.say(ErrorCode.NO_ERROR, idle.encode())
        raise Stop(Closed(f"{self.peer.address}: {idle}"))

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {**super().detail(), "draining": self._drained is not None}


def _welcomes(doorkeeper: Doorkeeper, spoke: bool, now: float) -> bool:
    if spoke:
        doorkeeper.sent()
    return doorkeeper.allows(now)
