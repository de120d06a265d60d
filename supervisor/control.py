"""The control socket: how the commands that look into a running server, or tell it something, reach it.

A client connects, asks once, and is answered: JSON behind its length in four bytes, either way. Only the user who runs
the server gets in, root aside: the socket lies in a directory that nobody else may enter, and who connects is looked
at. What a client does, or does not do, costs only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from actors.errors import (
    ConnectFailed,
    DeadlineExceeded,
    LinkError,
    ProtocolViolation,
    RemoteError,
    TransportLost,
)
from supervisor.private_sockets import default_path, find, listen_privately, peer_of

__all__ = ["ControlServer", "ask", "default_path", "find"]

logger: Final = logging.getLogger("muxlink.control")

VERSION: Final = 1
MAX_QUESTION: Final = 64 * 1024
"""Bytes."""
MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes."""
LENGTH_SIZE: Final = 4
PATIENCE: Final = 5.0
"""Seconds that a client has for its question, and again for taking the answer."""
GRACE: Final = 1.0
"""Seconds that answers have which are on their way when the server ends."""
REST: Final = 1.0
"""Seconds in which nobody is taken, after somebody could not be."""
AT_ONCE: Final = 200
"""Clients that are listened to at a time; the next are closed."""

Question = Mapping[str, Any]
Answering = Callable[[dict[str, Any]], Awaitable[object]]


class ControlServer:
    """Answers questions on a Unix socket while it is entered; leaving it removes the socket."""

    def __init__(self, path: str | os.PathLike[str], answer: Answering) -> None:
        """``answer`` gets each question; what it returns must be what JSON can hold.

        A LinkError of its own is what the client is told, in one line; anything else that it raises is logged.
        """
        self.path = Path(path)
        self._answer = answer
        self._socket: socket.socket | None = None
        self._identity = (0, 0)
        self._resting: asyncio.TimerHandle | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen. Raises ListenFailed: a server lives there already, or the directory is not private."""
        self._socket = listen_privately(self.path)
        found = self.path.lstat()
        self._identity = found.st_dev, found.st_ino
        asyncio.get_running_loop().add_reader(self._socket, self._accept, self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        listening, self._socket = self._socket, None
        if listening is None:
            return
        self._remove()
        if self._resting is not None:
            self._resting.cancel()
        asyncio.get_running_loop().remove_reader(listening)
        listening.close()
        try:
            if self._clients:
                await asyncio.wait(self._clients, timeout=GRACE)
        finally:
            for each in self._clients:
                each.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    def _remove(self) -> None:
        """Take the file away, unless it is another's by now."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()

    def _accept(self, listening: socket.socket) -> None:
        """Somebody is there; not a task that waits for it, which may lose a socket when it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            client, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone again
        except OSError as error:
            logger.warning("the control socket takes nobody for %g s: %s", REST, error.strerror)
            loop.remove_reader(listening)  # no file may be left for one more
            self._resting = loop.call_later(REST, loop.add_reader, listening, self._accept, listening)
            return
        if len(self._clients) >= AT_ONCE:
            client.close()
            return
        client.setblocking(False)
        task = loop.create_task(self._serve(client), name="control-client")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client:
            try:
                async with asyncio.timeout(PATIENCE):
                    question = await _receive(client, MAX_QUESTION, "a question")
                answer = self._refusal(client) or await self._answered(question)
                async with asyncio.timeout(PATIENCE):
                    await loop.sock_sendall(client, answer)
            except ProtocolViolation as error:
                with contextlib.suppress(TimeoutError, OSError):  # it need not listen
                    async with asyncio.timeout(PATIENCE):
                        await loop.sock_sendall(client, _encode(_error(str(error))))
                        client.shutdown(socket.SHUT_WR)
                        # It may read only when it has sent all, and would break off where nobody takes that.
                        while await loop.sock_recv(client, MAX_QUESTION):
                            pass
            except (TimeoutError, OSError, LinkError) as error:
                logger.debug("a control client went without its answer: %r", error)

    def _refusal(self, client: socket.socket) -> bytes | None:
        """What somebody is told who may not ask."""
        uid = peer_of(client).uid
        if uid in (os.geteuid(), 0):
            return None
        logger.warning("the control socket refused a client of the user %d", uid)
        return _encode(_error(f"the server is run by the user {os.geteuid()}, not {uid}: only that one may ask"))

    async def _answered(self, text: bytes) -> bytes:
        question = _decode(text, "a question")
        spoken = question.get("version")
        if type(spoken) is not int or spoken != VERSION:
            return _encode(_error(_other_version("the server", VERSION, "this muxlink", spoken)))
        try:
            answer = _encode({"version": VERSION, "ok": True, "answer": await self._answer(question)})
        except LinkError as error:
            return _encode(_error(str(error)))
        except Exception as error:
            logger.error("the control question %.40r was not answered", question.get("ask"), exc_info=error)
            return _encode(_error(f"the server failed to answer ({type(error).__name__}): its log says why"))
        if len(answer) - LENGTH_SIZE > MAX_ANSWER:
            return _encode(_error(f"the answer is of {len(answer)} bytes, and {MAX_ANSWER} are the most that is sent"))
        return answer


async def ask(path: str | os.PathLike[str], question: Question, *, timeout: float | None = 30.0) -> object:
    """What the server at ``path`` answers within ``timeout`` seconds; None waits as long as it lives.

    Raises ConnectFailed where no server lives there, RemoteError with what the server says against the question, and
    DeadlineExceeded, TransportLost or ProtocolViolation.
    """
    text = _encode({**question, "version": VERSION})
    if len(text) - LENGTH_SIZE > MAX_QUESTION:
        raise ProtocolViolation(f"a question is of {MAX_QUESTION} bytes at most, not {len(text)}")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await _connect(loop, server, path)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have said why
                    await loop.sock_sendall(server, text)
                reply = _decode(await _receive(server, MAX_ANSWER, "the server's answer"), "the server's answer")
        except TimeoutError:
            raise DeadlineExceeded(f"the server at {path} did not answer within {timeout:g} s") from None
        except OSError as error:
            raise TransportLost.because(f"the server at {path} ended before it had answered", error) from error
    if reply.get("version") != VERSION:
        raise ProtocolViolation(_other_version("this muxlink", VERSION, f"the server at {path}", reply.get("version")))
    if reply.get("ok") is not True:
        raise RemoteError(" ".join(str(reply.get("error", "the server refused the question")).split()))
    return reply.get("answer")


async def _connect(loop: asyncio.AbstractEventLoop, server: socket.socket, path: str | os.PathLike[str]) -> None:
    """Connect to a server of ours, or root's. Raises ConnectFailed."""
    try:
        await loop.sock_connect(server, os.fspath(path))
    except FileNotFoundError as error:
        message = f"no server has its control socket at {path}: 'muxlink serve' starts one"
        raise ConnectFailed.because(message, error) from error
    except ConnectionRefusedError as error:
        message = f"the control socket {path} is stale, its server has ended: 'muxlink serve' starts one"
        raise ConnectFailed.because(message, error) from error
    except OSError as error:
        raise ConnectFailed.because(f"cannot connect to {path}: {error.strerror or error}", error) from error
    if (uid := peer_of(server).uid) not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise ConnectFailed(f"the control socket {path} is one of the user {uid}, not yours")


def _other_version(ours: str, our: int, theirs: str, their: object) -> str:
    told = their if isinstance(their, int) else "none"
    return (
        f"{ours} speaks version {our} of the control protocol, and {theirs} version {told}: "
        "use the muxlink that the server was started with"
    )


def _error(line: str) -> dict[str, Any]:
    return {"version": VERSION, "ok": False, "error": " ".join(line.split())}


def _encode(message: object) -> bytes:
    text = json.dumps(message, separators=(",", ":")).encode()
    return len(text).to_bytes(LENGTH_SIZE) + text


def _decode(text: bytes, what: str) -> dict[str, Any]:
    try:
        message: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation.because(f"{what} is a JSON object, and this is no JSON", error) from error
    if not isinstance(message, dict):
        raise ProtocolViolation(f"{what} is a JSON object, not a {type(message).__name__}")
    return cast("dict[str, Any]", message)


async def _receive(peer: socket.socket, most: int, what: str) -> bytes:
    """One message. Raises ProtocolViolation for one that is too long, and TransportLost for one that is cut off."""
    length = int.from_bytes(await _exactly(peer, LENGTH_SIZE))
    if length > most:
        raise ProtocolViolation(f"{what} is of {most} bytes at most, not {length}")
    return await _exactly(peer, length)


async def _exactly(peer: socket.socket, size: int) -> bytes:
    loop, received = asyncio.get_running_loop(), bytearray()
    while len(received) < size:
        # Memory is taken as bytes come, whatever the length says.
        chunk = await loop.sock_recv(peer, min(size - len(received), 256 * 1024))
        if not chunk:
            raise TransportLost("the control socket was closed in the middle of a message")
        received += chunk
    return bytes(received)
