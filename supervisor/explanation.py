"""What is known of streams that wait, and why they do, in words and figures: what ``why`` is given and gives (pure)."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from actors.pictures import ConnectionPicture, StreamPicture

Figure = int | float | str | bool | None | tuple[Mapping[str, int | str], ...]


class WaitsFor(enum.Enum):
    """What a stream waits for."""

    LOOP = "event loop"
    """Our own event loop, which is late."""
    ANSWER = "actor's answer"
    """A connection's actor, which does not answer."""
    RESUME = "resume"
    """A connection that was suspended."""
    DRAINING = "draining"
    """A connection that takes leave waits for its open streams."""
    DIALLING = "dialling"
    """A link's connection, which is being made."""
    CONNECTION = "connection"
    """A link's connection, which cannot be made."""
    PLACE = "place in the link"
    """A place on one of a link's connections."""
    ATTEMPT = "next attempt"
    """The moment at which it goes again, after it has failed."""
    STREAM_LIMIT = "stream limit"
    """The peer's limit of streams (SETTINGS_MAX_CONCURRENT_STREAMS)."""
    STREAM_WINDOW = "stream window"
    """The peer's reader of this stream."""
    CONNECTION_WINDOW = "connection window"
    """The readers of other streams of the connection."""
    SOCKET = "socket"
    """The socket, which takes nothing."""
    READER = "reader"
    """Our own handler or caller, who does not read."""
    PEER = "peer"
    """A peer that is silent since the last PING."""
    RESPONSE = "response"
    """The peer's handler."""
    BODY = "body"
    """More of what the peer sends."""
    NOTHING = "nothing"
    """It runs."""


@frozen(kw_only=True)
class Explanation:
    """Why one stream does not go on."""

    stream: str
    """The name of its actor; of the connection, link or server where it holds for all of its streams."""
    connection: str
    """The name of its connection's actor; empty while it has none."""
    stream_id: int | None
    """None while it is not opened."""
    waits_for: WaitsFor
    since: float | None
    """Seconds; None where nobody knows."""
    who: str
    """Who could end it."""
    text: str
    """All of it in one line."""
    evidence: Mapping[str, Figure] = field(factory=dict)
    """The figures behind it."""

    def to_plain(self) -> dict[str, object]:
        """The same as JSON can hold it."""
        evidence = {
            name: [dict(each) for each in figure] if isinstance(figure, tuple) else figure
            for name, figure in self.evidence.items()
        }
        return {
            "stream": self.stream,
            "connection": self.connection,
            "stream_id": self.stream_id,
            "waits_for": self.waits_for.value,
            "since": self.since if self.since is None else round(self.since, 3),
            "who": self.who,
            "text": self.text,
            "evidence": evidence,
        }


@frozen(kw_only=True)
class LinePicture:
    """The requests of a link that have no connection yet, and why."""

    state: str
    """The name of the link's state."""
    cause: str
    """What went wrong last; empty where nothing did."""
    where: str
    """Where its service is."""
    dialling: int
    starting: int
    """Connections whose peers have not said SETTINGS yet."""
    ready: int
    """Connections that take requests."""
    allowed: int
    """Streams that their peers allow, all together."""
    load: int
    """Requests that have a place on one."""
    waiting: tuple[tuple[str, float], ...]
    """The name of each that waits, in order, and since how many seconds."""
    max_pending: int
    resting: tuple[tuple[str, float, float, str], ...] = ()
    """The name of each request between two attempts, since and for how many seconds, and how the last one failed."""


@frozen(kw_only=True)
class Findings:
    """What was seen of a link or a server."""

    owner: str
    """Its name."""
    connections: tuple[ConnectionPicture, ...] = ()
    streams: Mapping[str, StreamPicture] = field(factory=dict)
    """Those of their streams that have an actor, by its name."""
    silent: tuple[str, ...] = ()
    """Connections that did not answer in time."""
    patience: float = 1.0
    """Seconds that they had."""
    lag: float = 0.0
    """Seconds between asking the event loop for a callback, or an actor for its picture, and having it."""
    line: LinePicture | None = None


def render(explanations: Sequence[Explanation], width: int = 100) -> str:
    """A paragraph for each, of lines that are no longer than ``width``."""
    if not explanations:
        return "nothing waits"
    return "\n".join(textwrap.fill(each.text, width, subsequent_indent="    ") for each in explanations)


@frozen
class Subject:
    """Who waits."""

    stream: str
    connection: str = ""
    stream_id: int | None = None


def say(
    subject: Subject, kind: WaitsFor, since: float | None, what: str, because: str, *, who: str, **evidence: Figure
) -> Explanation:
    """The explanation that ``subject`` waits for ``what``, ``because`` of something, and that ``who`` could end it."""
    when = f", since {in_seconds(since)}" if since is not None else ""
    name = label(subject.stream, subject.stream_id or 0)
    return Explanation(
        stream=subject.stream,
        connection=subject.connection,
        stream_id=subject.stream_id,
        waits_for=kind,
        since=since,
        who=who,
        text=f"{name} waits for {what}{when}: {because}; who can end it: {who}",
        evidence=evidence,
    )


def label(name: str, stream_id: int) -> str:
    """The name with the stream's id, unless it says that already."""
    return f"{name} (stream {stream_id})" if stream_id and not name.endswith(f"/stream-{stream_id}") else name


def in_seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 0.95 else f"{seconds * 1000:.0f} ms"


def in_bytes(size: int) -> str:
    return many(size, "byte")


def many(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)
