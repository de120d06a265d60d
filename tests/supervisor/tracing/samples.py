"""Traces made by hand: what a client and a server say to each other, and as many events as a test wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field

from supervisor.tracing.records import Conversation, End, Event, Frame, Head, Record, Trace

WALL = 1_763_735_000.0
LINK = "link-1"
DIALLED = "link-1/connection-2"
REQUEST = "link-1/request-3"
CHAT = "link-1/request-4"
LISTENER = "server-1"
ACCEPTED = "server-1/connection-1"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4


def frame(kind: int, stream: int = 0, length: int = 0, flags: int = 0) -> Frame:
    return Frame(kind=kind, flags=flags, stream=stream, length=length)


@define
class Process:
    """One process whose actors talk: keeps its ids, and counts its frames in each direction."""

    name: str
    pid: int
    connection: str
    """The name of its only one."""
    monotonic: float
    wall: float
    events: list[Event] = field(factory=list)
    sent: int = 0
    arrived: int = 0

    def head(self) -> Head:
        return Head(process=self.name, pid=self.pid, monotonic=self.monotonic, wall=self.wall, version="0.2.0")

    def tell(
        self,
        at: float,
        sender: str,
        receiver: str,
        kind: str,
        text: str = "",
        *,
        cause: Event | None = None,
        delay: float | None = 0.00004,
        dead: bool = False,
        stream: int | None = None,
        frames: Sequence[Frame] | None = None,
    ) -> Event:
        """A message ``at`` so many seconds after the sample began, taken ``delay`` later; nobody takes from an edge."""
        first = None
        if frames is not None and receiver == "socket":
            first, self.sent = self.sent + 1, self.sent + len(frames)
        elif frames is not None:
            first, self.arrived = self.arrived + 1, self.arrived + len(frames)
        time = round(self.monotonic + WALL - self.wall + at, 7)
        event = Event(
            process=self.name,
            id=len(self.events) + 1,
            time=time,
            taken=None if dead or delay is None or receiver in ("socket", "caller") else round(time + delay, 7),
            sender=sender,
            receiver=receiver,
            type=kind,
            text=text,
            cause=cause.id if cause else 0,
            dead=dead,
            connection=self.connection if stream or self.connection in (sender, receiver) else None,
            stream=stream,
            first=first,
            frames=None if frames is None else tuple(frames),
        )
        self.events.append(event)
        return event


def conversation() -> Trace:
    """A request, a chat that its caller resets, a dead letter, a PING, and the drain: two processes, 59 events."""
    client = Process("client", 4711, DIALLED, 1_000.0, WALL - 0.5)
    server = Process("server", 4712, ACCEPTED, 77.25, WALL - 30.0)
    _greet(client, server)
    _request(client, server)
    _chat(client, server)
    _part(client, server)
    records: list[Record] = [
        client.head(),
        Conversation(process="client", name=DIALLED, side="client", local="127.0.0.1:50112", peer="127.0.0.1:8000"),
        *client.events,
        End(process="client", reason="asked", events=len(client.events)),
        server.head(),
        Conversation(process="server", name=ACCEPTED, side="server", local="127.0.0.1:8000", peer="127.0.0.1:50112"),
        *server.events,
        End(process="server", reason="asked", events=len(server.events)),
    ]
    return Trace.of(records)


def _wire(at: float, near: Process, far: Process, cause: Event, *frames: Frame) -> Event:
    """Frames from one end to the other; gives the event that brought them, the cause of what follows."""
    stream = frames[0].stream or None
    text = ", ".join(sent.text for sent in frames)
    near.tell(at, near.connection, "socket", "FramesSent", text, cause=cause, stream=stream, frames=frames)
    size = sum(9 + sent.length for sent in frames)
    came = far.tell(at + 0.00018, "socket", far.connection, "BytesArrived", f"{size} bytes")
    at += 0.00023
    return far.tell(
        at, "socket", far.connection, "FramesArrived", text, cause=came, delay=0.0, stream=stream, frames=frames
    )


def _greet(client: Process, server: Process) -> None:
    ends = "127.0.0.1:8000 to 127.0.0.1:50112"
    began = client.tell(0.0, "socket", DIALLED, "ConnectionBegan", "client: 127.0.0.1:50112 to 127.0.0.1:8000", delay=0)
    accepted = server.tell(0.00005, "socket", LISTENER, "Accepted", "127.0.0.1:50112")
    begun = server.tell(0.00012, "socket", ACCEPTED, "ConnectionBegan", f"server: {ends}", cause=accepted, delay=0)
    _wire(0.0003, client, server, began, frame(SETTINGS, length=24), frame(WINDOW_UPDATE, length=4))
    came = _wire(0.0006, server, client, begun, frame(SETTINGS, length=30))
    _wire(0.0009, client, server, came, frame(SETTINGS, flags=ACK))


def _request(client: Process, server: Process) -> None:
    handler = f"{ACCEPTED}/stream-1"
    asked = client.tell(0.01, "caller", DIALLED, "OpenStream", "GET /hello")
    client.tell(0.0101, DIALLED, REQUEST, "Opened", "stream 1", cause=asked, stream=1)
    opening = frame(HEADERS, 1, 22, END_STREAM | END_HEADERS)
    came = _wire(0.0102, client, server, asked, opening)
    head = server.tell(0.0105, ACCEPTED, handler, "HeadersArrived", "GET /hello", cause=came, stream=1)
    answer = server.tell(0.0112, handler, ACCEPTED, "SendHead", "stream 1: 200", cause=head, stream=1)
    body = server.tell(0.01122, handler, ACCEPTED, "SendData", "stream 1: 12 bytes", cause=head, stream=1)
    server.tell(0.0114, ACCEPTED, handler, "RoomMade", "12 bytes", cause=body, stream=1)
    frames = frame(HEADERS, 1, 9, END_HEADERS), frame(DATA, 1, 12, END_STREAM)
    back = _wire(0.0115, server, client, answer, *frames)
    client.tell(0.0118, DIALLED, REQUEST, "HeadersArrived", "200", cause=back, stream=1)
    data = client.tell(0.01181, DIALLED, REQUEST, "DataArrived", "12 bytes, the last", cause=back, stream=1)
    client.tell(0.0119, REQUEST, "caller", "Response", "200; 12 bytes", cause=data, stream=1)


def _chat(client: Process, server: Process) -> None:
    handler = f"{ACCEPTED}/stream-3"
    asked = client.tell(0.02, "caller", DIALLED, "OpenStream", "POST /chat")
    opened = client.tell(0.0201, DIALLED, CHAT, "Opened", "stream 3", cause=asked, stream=3)
    came = _wire(0.0202, client, server, asked, frame(HEADERS, 3, 31, END_HEADERS))
    server.tell(0.0205, ACCEPTED, handler, "HeadersArrived", "POST /chat", cause=came, stream=3)
    said = client.tell(0.021, CHAT, DIALLED, "SendData", "stream 3: 5 bytes", cause=opened, stream=3)
    came = _wire(0.0211, client, server, said, frame(DATA, 3, 5))
    heard = server.tell(0.0214, ACCEPTED, handler, "DataArrived", "5 bytes", cause=came, stream=3)
    server.tell(0.0216, handler, ACCEPTED, "ReturnCredit", "stream 3: 5 bytes", cause=heard, stream=3)
    left = client.tell(0.03, CHAT, DIALLED, "ResetStream", "stream 3: CANCEL", cause=opened, stream=3)
    came = _wire(0.0301, client, server, left, frame(RST_STREAM, 3, 4))
    server.tell(0.0304, ACCEPTED, handler, "PeerReset", "CANCEL after 5 bytes", cause=came, stream=3)
    server.tell(0.0308, ACCEPTED, handler, "RoomMade", "64 bytes", cause=came, dead=True, stream=3)
    server.tell(0.0309, handler, ACCEPTED, "Exited", f"{handler}: StreamReset: CANCEL", cause=heard, stream=3)


def _part(client: Process, server: Process) -> None:
    rang = client.tell(5.0, "timer", DIALLED, "TimePassed", "a PING is due")
    came = _wire(5.0001, client, server, rang, frame(PING, length=8))
    _wire(5.0004, server, client, came, frame(PING, length=8, flags=ACK))
    halt = server.tell(6.0, "caller", ACCEPTED, "Drain", "5 s")
    came = _wire(6.0001, server, client, halt, frame(GOAWAY, length=8))
    going = client.tell(6.0004, DIALLED, LINK, "ConnectionGoing", "NO_ERROR", cause=came)
    client.tell(6.0005, LINK, DIALLED, "Halt", "", cause=going, delay=None)


def many(n: int) -> Trace:
    """``n`` events of one process: bytes that come in, and what they lead to, on a hundred streams."""
    return Trace.of(_flood(n))


def _flood(n: int) -> Iterator[Record]:
    yield Head(process="server", pid=4712, monotonic=77.25, wall=WALL, version="0.2.0")
    yield Conversation(process="server", name=ACCEPTED, side="server", local="127.0.0.1:8000", peer="127.0.0.1:50112")
    for number in range(1, n + 1):
        time = 77.25 + number * 0.00002
        stream = 2 * (number // 3 % 100) + 1
        actor = f"{ACCEPTED}/stream-{stream}"
        step = number % 3
        sender, receiver, kind = (
            ("socket", ACCEPTED, "BytesArrived"),
            (ACCEPTED, actor, "DataArrived"),
            (actor, ACCEPTED, "ReturnCredit"),
        )[step]
        yield Event(
            process="server",
            id=number,
            time=time,
            taken=time + 0.000005,
            sender=sender,
            receiver=receiver,
            type=kind,
            text=f"{number} bytes",
            cause=number - 1 if step else 0,
            connection=ACCEPTED,
            stream=stream if step else None,
        )
    yield End(process="server", reason="asked", events=n)
