"""A trace of an evening on which much goes wrong, for the page that has to show it."""

from __future__ import annotations

from typing import Final

from supervisor.tracing.records import Conversation, End, Event, Head, Record, Trace
from tests.supervisor.tracing.samples import (
    ACCEPTED,
    DATA,
    DIALLED,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    WALL,
    WINDOW_UPDATE,
    Process,
    frame,
)

HOSTILE: Final = (
    "</script><img src=x onerror=\"document.title='owned'\"><!--<script>"
    "\u2028 \U0001f4a5 \u202e\u05e9\u05dc\u05d5\u05dd"
)
"""What a peer may send who would like to be more than text."""
WHY: Final = ("Exited", "DataArrived", "BytesArrived", "FramesSent", "SendData", "Opened", "OpenStream")
"""The types of the crash and of the messages that led to it, the newest first and across both processes."""


def troubled() -> Trace:
    """A crash, a reset, a connection that breaks, dead letters, and streams that wait: a link and its server."""
    client = Process("shop", 4711, DIALLED, 1_000.0, WALL - 0.5)
    server = Process("store", 4712, ACCEPTED, 77.25, WALL - 30.0)
    _requests(client, server)
    _crash(client, server)
    _stalls(client, server)
    _late(client, server)
    _break(client)
    records: list[Record] = [
        Head(process="shop", pid=4711, monotonic=1_000.0, wall=WALL - 0.5, dropped=1_234, version="0.2.0"),
        server.head(),
        Conversation(process="shop", name=DIALLED, side="client", local="127.0.0.1:50112", peer="127.0.0.1:8000"),
        Conversation(process="store", name=ACCEPTED, side="server", local="127.0.0.1:8000", peer="127.0.0.1:50112"),
        *client.events,
        *server.events,
        End(process="shop", reason="asked", events=len(client.events)),
        End(process="store", reason="events", events=len(server.events), lost=3),
    ]
    return Trace.of(records, ["the last line of shop.jsonl was cut and is left out"])


def _open(client: Process, server: Process, at: float, stream: int, path: str) -> tuple[Event, Event]:
    """A request goes out; gives what the caller's actor and what the handler go on from."""
    request = f"link-1/request-{stream}"
    asked = client.tell(at, "caller", DIALLED, "OpenStream", f"{request}: POST {path}")
    opened = client.tell(at + 1e-4, DIALLED, request, "Opened", f"stream {stream}", cause=asked, stream=stream)
    frames = [frame(HEADERS, stream, 31, END_HEADERS)]
    client.tell(at + 1.2e-4, DIALLED, "socket", "FramesSent", cause=asked, frames=frames)
    came = server.tell(at + 4e-4, "socket", ACCEPTED, "BytesArrived", "40 bytes")
    server.tell(at + 4.1e-4, "socket", ACCEPTED, "FramesArrived", cause=came, frames=frames, delay=0.0)
    handler = f"{ACCEPTED}/stream-{stream}"
    head = server.tell(at + 4.4e-4, ACCEPTED, handler, "HeadersArrived", f"POST {path}", cause=came, stream=stream)
    return opened, head


def _send(client: Process, server: Process, at: float, stream: int, opened: Event, *, size: int) -> Event:
    """A piece of a request's body; gives the event that tells the handler."""
    request = f"link-1/request-{stream}"
    frames = [frame(DATA, stream, size)]
    said = client.tell(at, request, DIALLED, "SendData", f"stream {stream}: {size} bytes", cause=opened, stream=stream)
    client.tell(at + 1e-4, DIALLED, "socket", "FramesSent", cause=said, frames=frames)
    came = server.tell(at + 4e-4, "socket", ACCEPTED, "BytesArrived", f"{size + 9} bytes")
    server.tell(at + 4.1e-4, "socket", ACCEPTED, "FramesArrived", cause=came, frames=frames, delay=0.0)
    handler = f"{ACCEPTED}/stream-{stream}"
    return server.tell(at + 4.3e-4, ACCEPTED, handler, "DataArrived", f"{size} bytes", cause=came, stream=stream)


def _answer(client: Process, server: Process, at: float, stream: int, head: Event) -> None:
    """The whole response, and the end of the request."""
    handler, request = f"{ACCEPTED}/stream-{stream}", f"link-1/request-{stream}"
    frames = [frame(HEADERS, stream, 9, END_HEADERS), frame(DATA, stream, 512, END_STREAM)]
    text = f"stream {stream}: 200, 512 bytes, 0 trailers"
    said = server.tell(at, handler, ACCEPTED, "Respond", text, cause=head, stream=stream)
    server.tell(at + 1e-4, ACCEPTED, "socket", "FramesSent", cause=said, frames=frames)
    came = client.tell(at + 4e-4, "socket", DIALLED, "BytesArrived", "539 bytes")
    client.tell(at + 4.1e-4, "socket", DIALLED, "FramesArrived", cause=came, frames=frames, delay=0.0)
    client.tell(at + 4.3e-4, DIALLED, request, "HeadersArrived", "200", cause=came, stream=stream)
    client.tell(at + 4.4e-4, DIALLED, request, "DataArrived", "512 bytes, ended", cause=came, stream=stream)
    client.tell(at + 5e-4, request, DIALLED, "EndStream", f"stream {stream}: 0 trailers", cause=came, stream=stream)
    ended = [frame(DATA, stream, 0, END_STREAM)]
    client.tell(at + 5.5e-4, DIALLED, "socket", "FramesSent", cause=came, frames=ended)
    came = server.tell(at + 8e-4, "socket", ACCEPTED, "BytesArrived", "9 bytes")
    server.tell(at + 8.1e-4, "socket", ACCEPTED, "FramesArrived", cause=came, frames=ended, delay=0.0)
    text = f"{handler} ended"
    server.tell(at + 9e-4, handler, ACCEPTED, "Exited", text, cause=came, stream=stream)


def _requests(client: Process, server: Process) -> None:
    for number in range(12):
        at = 0.05 + number * 0.21
        opened, head = _open(client, server, at, 2 * number + 1, f"/orders/{number}")
        _send(client, server, at + 0.002, 2 * number + 1, opened, size=700)
        _answer(client, server, at + 0.004 + number * 0.004, 2 * number + 1, head)


def _crash(client: Process, server: Process) -> None:
    handler = f"{ACCEPTED}/stream-25"
    opened, _ = _open(client, server, 2.9, 25, "/checkout")
    data = _send(client, server, 2.902, 25, opened, size=4_096)
    text = f"{handler} crashed: KeyError"
    crashed = server.tell(2.9035, handler, ACCEPTED, "Exited", text, cause=data, stream=25)
    reset = [frame(RST_STREAM, 25, 4)]
    server.tell(2.9036, ACCEPTED, "socket", "FramesSent", cause=crashed, frames=reset)
    server.tell(2.9037, ACCEPTED, handler, "RoomMade", "64 bytes", cause=crashed, dead=True, stream=25)
    came = client.tell(2.9040, "socket", DIALLED, "BytesArrived", "13 bytes")
    client.tell(2.9041, "socket", DIALLED, "FramesArrived", cause=came, frames=reset, delay=0.0)
    client.tell(2.9042, DIALLED, "link-1/request-25", "PeerReset", "INTERNAL_ERROR", cause=came, stream=25)


def _stalls(client: Process, server: Process) -> None:
    """One body that nobody reads, which stops its sender, too."""
    opened, _ = _open(client, server, 3.1, 27, "/upload")
    for number in range(4):
        _send(client, server, 3.102 + number * 0.02, 27, opened, size=16_384)
    text = "stream 27: 16384 bytes"
    client.tell(3.19, "link-1/request-27", DIALLED, "SendData", text, cause=opened, stream=27)


def _late(client: Process, server: Process) -> None:
    _, head = _open(client, server, 3.4, 29, "/report")
    handler = f"{ACCEPTED}/stream-29"
    came = server.tell(3.5, "socket", ACCEPTED, "BytesArrived", "13 bytes")
    update = [frame(WINDOW_UPDATE, 29, 4)]
    server.tell(3.5001, "socket", ACCEPTED, "FramesArrived", cause=came, frames=update, delay=0.0)
    server.tell(3.6, handler, ACCEPTED, "SendHead", "stream 29: 200", cause=head, delay=1.45, stream=29)
    server.tell(4.0, "caller", "server-1", "Comment", HOSTILE)


def _break(client: Process) -> None:
    for number in range(4):
        client.tell(4.0 + number, "timer", DIALLED, "TimePassed")
    text = "PingTimeout('127.0.0.1:8000 has not answered a PING for 3 s')"
    lost = client.tell(7.5, "socket", DIALLED, "ConnectionLost", text)
    for stream in (27, 29):
        client.tell(
            7.5001, DIALLED, f"link-1/request-{stream}", "StreamFailed",
            "127.0.0.1:8000 has not answered a PING for 3 s", cause=lost, stream=stream,
        )  # fmt: skip
    client.tell(7.5003, DIALLED, "link-1", "Exited", f"{DIALLED} ended: PingTimeout", cause=lost)
