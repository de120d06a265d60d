"""What a server's stream runs: the handler, and what becomes of the stream when that ends."""

from __future__ import annotations

import functools
import inspect
import logging
from typing import Final

from actors.errors import ErrorCode, InvalidHeaders, LimitReached, LinkError, Misuse
from actors.server_stream import Handler, ServerStream
from actors.stream import Body, StreamActor

logger: Final = logging.getLogger("muxlink.stream")


def is_coroutine_function(handler: object) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, a partial of one, or an object with one as call."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if isinstance(handler, type):
        return False  # calling a class makes an object, whatever calling the object does
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004  (its kind matters, not whether it is there)


def serve(handler: Handler) -> Body:
    """What a server's stream actor runs for each request. Raises Misuse where ``handler`` is no coroutine function."""
    if not is_coroutine_function(handler):
        name = getattr(handler, "__qualname__", repr(handler))
        if inspect.isasyncgenfunction(handler):
            raise Misuse(f"the handler {name} is no coroutine function: write 'async def' without 'yield'")
        raise Misuse(f"the handler {name} is no coroutine function: write 'async def' before its name")

    async def run(actor: StreamActor) -> None:
        stream = ServerStream(actor)
        try:
            await handler(stream)
        except LinkError as stopped:
            ours = stopped is actor.given_up
            actor.given_up = None  # its traceback holds the actor
            if not ours or actor.error is not None:
                raise
            if stream._status and not isinstance(stopped, InvalidHeaders):
                raise
            if isinstance(stopped, InvalidHeaders):
                # No fault of the handler's, and nothing that a peer should be able to fill a log with.
                logger.info("%s was given up: %s", actor.name, stopped)
                actor.reset(ErrorCode.INTERNAL_ERROR)
                return
            await stream.respond(413 if isinstance(stopped, LimitReached) else 408)
        except SystemExit as error:
            raise RuntimeError("the handler called sys.exit(), which would end the whole server") from error
        if actor.error is not None or actor.local_ended:
            return
        if stream._status:
            actor.end([])
        else:
            # The query may hold a secret, and whatever a peer says is shown escaped.
            asked = ascii(f"{stream.method} {stream.path.partition('?')[0]}")[1:-1]
            logger.error("%s: the handler returned without a response to %s", actor.name, asked)
            actor.reset(ErrorCode.INTERNAL_ERROR)

    return run
