"""Processes as actors: a parent that accepts, and workers that serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.server_stream import Handler

__all__ = ["serve"]


async def serve(handler: Handler | str, **options: Any) -> None:
    """Serve ``handler`` by worker processes until SIGTERM or SIGINT, then drain: what ``muxlink serve`` does.

    The handler is a coroutine function of a module that a fresh interpreter can import, or its ``MODULE:HANDLER``;
    ``options`` are those of :class:`~supervisor.workers.options.ServeOptions`, such as ``bind`` and ``workers``.
    Must be called in the main thread, where signals arrive. Raises Misuse, ListenFailed, and ProcessFailed where no
    worker can serve. Cancelling it ends the workers at once.
    """
    # Here, because a worker imports this package, too, and needs nothing of what its parent does.
    from supervisor.handlers import name_of  # noqa: PLC0415
    from supervisor.workers.options import ServeOptions  # noqa: PLC0415
    from supervisor.workers.serving import run  # noqa: PLC0415

    named = handler if isinstance(handler, str) else name_of(handler)
    await run(ServeOptions.of({**options, "handler": named}))
