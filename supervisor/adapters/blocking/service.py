"""What blocking faces over HTTP/2 share: a server as a connection object sees it, and requests as threads hold them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from actors.client_stream import PushedStream
from actors.errors import Closed, ErrorCode, LinkError
from actors.exchange import ResponseHead
from actors.headers import Headers
from supervisor.adapters.blocking.errors import (
    CannotSend,
    ConnectTimedOut,
    NotOpen,
    ReadTimedOut,
    TooMuch,
    translated,
)
from supervisor.adapters.blocking.flow import AHEAD, BLOCK, Flow, Request
from supervisor.adapters.blocking.line import Line, Target
from supervisor.adapters.blocking.turns import Turns
from supervisor.link import Link
from supervisor.link_state import LinkState

__all__ = ("AHEAD", "BLOCK", "Exchange", "Request", "Service", "Target")


class Service:
    """One server, as a connection object sees it: connected when it is needed, again after it was closed, or a fork."""

    def __init__(self, target: Target) -> None:
        """Raises Misuse where no link can be made of it."""
        self.target = target
        self._first: Link | None = _made(target)  # at once, so that what can never work is said at once
        self._line: Line | None = None
        self._lock: Final = Turns()

    @property
    def connected(self) -> bool:
        """Whether a request could go out at once."""
        line = self._line
        return line is not None and line.usable and line.link.state is LinkState.READY

    def connect(self) -> Line:
        """The line, connected. Raises ConnectTimedOut and what else keeps it from that."""
        line = self._line
        if line is not None and line.usable and line.link.state is LinkState.READY:
            return line
        line = self._living()
        try:
            line.background.call(line.ready(), self.target.connect_timeout)
        except TimeoutError as error:
            if isinstance(error, LinkError):
                raise translated(error) from error.__cause__
            if not line.entered:
                self._drop(line)
            seconds = self.target.connect_timeout
            raise ConnectTimedOut(f"no connection to {line.where} within {seconds:g} s") from None
        except LinkError as error:
            raise translated(error) from error.__cause__
        return line

    def _living(self) -> Line:
        with self._lock:
            line = self._line
            if line is None or not line.usable:
                link, self._first = self._first or _made(self.target), None
                line = self._line = Line(link, self.target.url)
            return line

    def _drop(self, line: Line) -> None:
        """Have nothing more to do with a line that was not connected in time."""
        with self._lock:
            if self._line is line:
                self._line = None
        line.drop()

    def ping(self, timeout: float | None) -> float:
        """Send PING and return the round trip in seconds. Raises ReadTimedOut, and as :meth:`connect` does."""
        line = self.connect()
        try:
            return line.background.call(line.link.ping(), timeout)
        except LinkError as error:
            raise translated(error) from error.__cause__
        except TimeoutError:
            raise ReadTimedOut(f"{line.where} did not answer PING within {timeout:g} s") from None

    def open(self, request: Request, *, more: bool) -> Exchange:
        """Begin a request; ``more``: its body is still to be offered. Raises as :meth:`connect` does."""
        line = self.connect()
        line.background.check_thread()
        # Without the query, which may hold secrets.
        name = f"{request.method} {line.where}{request.path.partition('?')[0]}"
        flow = Flow(line.background, name, more=more)
        exchange = Exchange(flow, line, self.target.limits.max_response_body)
        flow.begin(line.link, line.flows, request, push=self.target.push)
        return exchange

    def close(self, code: int | None = None) -> None:
        """Close the connection, if there is one; the next request makes another."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.background.check_thread()
            line.close(code)


def _made(target: Target) -> Link:
    try:
        return target.link()
    except LinkError as error:
        raise translated(error) from error.__cause__


class Exchange:
    """A request and its response as threads hold them; dropped unread, it is given up.

    Every method may be called from any thread. A ``timeout`` is for the server's next sign, in seconds.
    """

    __slots__ = ("__weakref__", "_flow", "_line", "_most")

    def __init__(self, flow: Flow, line: Line, most: int) -> None:
        """``most`` is how many bytes of the response are kept while its request is still being sent."""
        self._flow: Final = flow
        self._line: Final = line
        """Held so that it is not closed as long as somebody reads."""
        self._most: Final = most

    def __del__(self) -> None:
        flow = self._flow
        if not (flow.over or (flow.ended and flow.upload_over and not flow.pushes)) or flow.promises:
            flow.background.post(flow.abandon)

    @property
    def over(self) -> bool:
        """Whether all of the response has come, or none of it will any more."""
        return self._flow.ended or self._flow.error is not None

    @property
    def upload_over(self) -> bool:
        """Whether nothing more of the request is sent."""
        return self._flow.upload_over

    # --- the request --------------------------------------------------------------------------------------------------

    def send(self, data: bytes, timeout: float | None) -> None:
        """Send a piece of the body, waiting for room.

        A server may answer while it reads, and read no more until its answer is: so that is kept meanwhile. Raises
        ReadTimedOut, TooMuch for more than can be kept, and the stream's error where it is over.
        """
        flow = self._flow
        if not flow.has_room():
            self._wait_for_room(timeout)
        if flow.upload_over:
            error = flow.upload_error or flow.error
            if error is None:
                raise CannotSend(f"{flow.name}: its body is complete, nothing can be sent behind it")
            raise translated(error) from error.__cause__
        flow.offer(data)

    def _wait_for_room(self, timeout: float | None) -> None:
        flow = self._flow
        flow.widen(self._most)
        try:
            if not self._until(lambda: flow.has_room() or flow.put - flow.taken >= self._most, timeout):
                raise ReadTimedOut(f"{flow.name}: the server took nothing of the body within {timeout:g} s")
            if not flow.has_room():
                raise TooMuch(
                    f"{flow.name}: the server has sent {self._most} bytes and takes no more of the body before they "
                    "are read: send with putrequest() and send(), and read in another thread"
                )
        finally:
            flow.limit = AHEAD

    def send_all(self, pieces: Iterator[bytes], timeout: float | None) -> None:
        """Send a body of pieces, and end it, unless the server wants no more; raises as :meth:`send` and as they do."""
        flow = self._flow
        for data in pieces:
            if not flow.has_room():
                self._wait_for_room(timeout)
            if flow.upload_over:
                return  # whoever waits for the response gets it, or is told why there is none
            flow.offer(data)
        flow.end()

    def end(self) -> None:
        """End the body; again is no error."""
        self._flow.end()

    # --- the response -------------------------------------------------------------------------------------------------

    def head(self, timeout: float | None) -> ResponseHead:
        """The response's head. Raises ReadTimedOut and the stream's error."""
        flow = self._flow
        if not self._until(lambda: flow.head is not None or flow.error is not None, timeout):
            raise ReadTimedOut(f"{flow.name}: no response within {timeout:g} s")
        if flow.head is None:
            raise self._failure()
        return flow.head

    def whole(self) -> bytes | None:
        """All of the body that was not read yet, where all of it has come; else None."""
        flow = self._flow
        return _all_of(flow.pieces) if flow.ended else None

    def read(self, least: int, timeout: float | None) -> bytes:
        """More of the body, all that is there once there are ``least`` bytes; ``b""`` at the end.

        Raises ReadTimedOut where nothing comes in time, and the stream's error behind what came before it. Nothing is
        lost by a time-out or an interruption. For one thread at a time.
        """
        flow = self._flow
        if not flow.pieces and not (flow.ended or flow.error is not None):
            self._wait_for_body(min(least, AHEAD // 2), timeout)
        data = _all_of(flow.pieces)
        if data:
            flow.took(len(data))
        elif flow.error is not None:
            raise self._failure()
        return data

    def _wait_for_body(self, least: int, timeout: float | None) -> None:
        """Wait until enough has come, or the end; time is up where nothing came in the time."""
        flow = self._flow
        flow.wanted = least
        try:
            while not self._until(
                lambda: flow.put - flow.taken >= flow.wanted or flow.ended or flow.error is not None, timeout
            ):
                if flow.put > flow.taken:
                    return
                raise ReadTimedOut(f"{flow.name}: nothing of the body came within {timeout:g} s")
        finally:
            flow.wanted = 1

    def trailers(self, timeout: float | None) -> Headers:
        """The trailers; the body must be read. Raises as :meth:`read` does."""
        flow = self._flow
        if not self._until(lambda: flow.ended or flow.error is not None, timeout):
            raise ReadTimedOut(f"{flow.name}: its trailers did not come within {timeout:g} s")
        if flow.trailers is None:
            raise self._failure()
        return flow.trailers

    def next_promise(self, *, wait: bool, timeout: float | None) -> tuple[PushedStream, Exchange] | None:
        """The next that was promised along; None where there is none, or with ``wait``, where none will be."""
        flow = self._flow
        if wait and not self._until(lambda: bool(flow.promises) or flow.promises_over, timeout):
            raise ReadTimedOut(f"{flow.name}: it neither ended nor promised anything within {timeout:g} s")
        try:
            pushed, child = flow.promises.popleft()
        except IndexError:
            return None
        return pushed, Exchange(child, self._line, self._most)

    def close(self, code: int = ErrorCode.CANCEL) -> None:
        """Want no more of the response; whoever waits for it gets NotOpen. What was pushed along stays."""
        flow = self._flow
        if not (flow.over or (flow.ended and flow.upload_over)):
            flow.background.post(lambda: flow.give_up(code))

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _failure(self) -> LinkError:
        error = self._flow.error or Closed(f"{self._flow.name} was closed before its end")
        return translated(error)

    def _until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        if ready():
            return True
        flow = self._flow
        if not flow.background.alive:
            raise NotOpen(f"{flow.name} belongs to the process that was forked, or the interpreter ends")
        flow.background.check_thread()
        return flow.bell.until(ready, timeout)


def _all_of(pieces: deque[bytes]) -> bytes:
    """All that is there; the loop may add meanwhile."""
    if len(pieces) == 1:
        return pieces.popleft()
    return b"".join([pieces.popleft() for _ in range(len(pieces))])
