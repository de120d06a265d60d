"""The page that shows a trace: what is written into it (T5)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest
from attrs import define, evolve, field

import supervisor.tracing
from supervisor.tracing.page import write_page
from supervisor.tracing.records import Conversation, Event, Frame, Head, Trace
from tests.supervisor.tracing.page_samples import HOSTILE, troubled
from tests.supervisor.tracing.samples import conversation, many

HEAD = Head(process="p", pid=1, monotonic=100.0, wall=1_763_735_000.0, version="0.2.0")
EVENT = Event(process="p", id=1, time=100.5, sender="caller", receiver="link-1", type="OpenStream")
VIEWER = Path(supervisor.tracing.__path__[0]) / "viewer"


@define
class Parsed(HTMLParser):
    """A page as a browser's parser cuts it up."""

    tags: list[str] = field(factory=list)
    attributes: dict[str, str] = field(factory=dict)
    texts: dict[str, str] = field(factory=dict)
    """What stands in each script and style, by its id or else its tag."""
    _inside: str = ""

    def __attrs_post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = {name: value or "" for name, value in attrs}
        self.attributes |= {f"{tag} {name}": value for name, value in named.items()}
        self._inside = named.get("id", tag) if tag in ("script", "style") else ""
        if "http-equiv" in named:
            self.attributes[named["http-equiv"]] = named["content"]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def written(trace: Trace) -> str:
    file = io.StringIO()
    write_page(trace, file)
    return file.getvalue()


def parsed(trace: Trace) -> Parsed:
    parser = Parsed()
    parser.feed(written(trace))
    parser.close()
    return parser


def rows(trace: Trace) -> list[list[object]]:
    """The events of the page, with names in the place of their numbers."""
    page = parsed(trace)
    names = json.loads(page.texts["names"])
    found = json.loads(page.texts["events"])
    return [[names[row[0]], row[1], row[2], *(names[number] for number in row[3:6]), *row[6:]] for row in found]


def test_a_page_holds_each_event_with_its_times_in_microseconds_from_the_first() -> None:
    """T5."""
    frames = (Frame(kind=0, flags=1, stream=5, length=1024), Frame(kind=8, flags=0, stream=0, length=4))
    later = Event(
        process="p", id=2, time=100.5000015, taken=100.75, sender="link-1", receiver="socket", type="FramesSent",
        text="two", cause=1, dead=True, connection="link-1/connection-2", stream=5, first=7, frames=frames,
        data={"bytes": "AAE="},
    )  # fmt: skip
    assert rows(Trace.of([HEAD, EVENT, later])) == [
        ["p", 1, 0.0, "caller", "link-1", "OpenStream", ""],
        ["p", 2, 1.5, "link-1", "socket", "FramesSent", "two", 250_000.0, 1, 1, 6, 5, 7, [0, 1, 5, 1024, 8, 0, 0, 4],
         '{"bytes": "AAE="}'],
    ]  # fmt: skip


def test_a_page_knows_what_sent_the_frames_that_arrived() -> None:
    """T5, T8: process and id of each event that did."""
    arrived = evolve(EVENT, type="FramesArrived", remote=(("q", 7), ("p", 3)))
    page = parsed(Trace.of([HEAD, arrived]))
    names = json.loads(page.texts["names"])
    [[*_, flat]] = json.loads(page.texts["events"])
    assert [names[flat[0]], flat[1], names[flat[2]], flat[3]] == ["q", 7, "p", 3]


def test_the_clocks_of_two_processes_meet_to_the_microsecond() -> None:
    """T5, T8: seconds since the epoch have no room for parts of a microsecond, so they are never added up."""
    other = Head(process="q", pid=2, monotonic=5_000_000.0, wall=HEAD.wall + 0.25)
    told = Event(process="q", id=1, time=5_000_000.2500021, sender="timer", receiver="a", type="TimePassed")
    assert [row[2] for row in rows(Trace.of([HEAD, other, EVENT, told]))] == [0.0, 2.1]


def test_a_process_whose_clock_says_nothing_begins_with_the_others() -> None:
    alone = Event(process="headless", id=1, time=9.0, sender="timer", receiver="a", type="TimePassed")
    broken = Head(process="broken", pid=3, monotonic=math.nan, wall=math.inf)
    odd = Event(process="broken", id=1, time=math.nan, taken=math.inf, sender="timer", receiver="a", type="TimePassed")
    found = {row[0]: row[2] for row in rows(Trace.of([HEAD, broken, EVENT, alone, odd]))}
    assert found == {"p": 0.0, "headless": 0.0, "broken": 0.0}


def test_the_page_says_what_a_reader_must_know_of_the_trace() -> None:
    trace = troubled()
    about = json.loads(parsed(trace).texts["trace"])
    assert about["warnings"] == list(trace.warnings)
    assert [head["dropped"] for head in about["heads"]] == [1_234, 0]
    assert [end["lost"] for end in about["ends"]] == [0, 3]
    assert about["conversations"][0]["peer"] == "127.0.0.1:8000"
    assert about["start"] == pytest.approx(trace.wall(trace.events[0]))


@pytest.mark.parametrize(
    "hostile", [HOSTILE, "</SCRIPT >", "<!--<script>", "]]>-->", "\u2028\u2029", "\ud800", "{{style}}", "\0"]
)
def test_no_text_of_a_trace_can_end_the_element_that_it_stands_in(hostile: str) -> None:
    """T5: hostile names and texts change neither the page's elements nor what may run in it."""
    event = Event(
        process=hostile, id=1, time=1.0, sender=hostile, receiver=hostile, type=hostile, text=hostile,
        connection=hostile, data={hostile: hostile},
    )  # fmt: skip
    head = evolve(HEAD, process=hostile, version=hostile)
    talk = Conversation(process=hostile, name=hostile, side=hostile, local=hostile, peer=hostile)
    trace = Trace.of([head, talk, event], [hostile])
    page, harmless = parsed(trace), parsed(conversation())
    assert page.tags == harmless.tags
    assert page.attributes == harmless.attributes
    assert rows(trace)[0][:7] == [hostile, 1, 0.0, hostile, hostile, hostile, hostile]
    assert json.loads(page.texts["trace"])["warnings"] == [hostile]
    assert written(trace).isascii() == written(conversation()).isascii()


def test_only_the_pages_own_script_and_style_may_run_and_nothing_is_loaded() -> None:
    """T5: the policy names both by their hashes, and nothing else is allowed."""
    page = parsed(troubled())
    policy = dict(part.split(maxsplit=1) for part in page.attributes["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": f"'{sha256(page.texts['script'])}'",
        "style-src": f"'{sha256(page.texts['style'])}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [name for name in page.attributes if name.endswith((" src", " href", " style"))]
    assert not re.search(r"https?:|\binnerHTML\b|\beval\b|\bimport\b *\(|\bfetch\b", page.texts["script"])


def sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_every_file_of_the_viewer_is_part_of_the_page() -> None:
    page = written(conversation())
    assert all(path.read_text("utf-8") in page for path in VIEWER.iterdir() if path.suffix != ".html")


def test_a_payload_that_is_no_json_is_shown_as_text() -> None:
    told = evolve(EVENT, data={"number": math.nan, "bytes": b"\x00"})
    assert rows(Trace.of([HEAD, told]))[0][-1] == '{"number": NaN, "bytes": "b\'\\\\x00\'"}'


def test_a_trace_without_events_makes_a_page_too() -> None:
    assert rows(Trace.of([HEAD])) == []
    assert rows(Trace.of([])) == []


def test_a_page_is_small_and_written_without_a_copy_of_the_trace() -> None:
    """T5: fifty thousand messages take 5 MB of page, and less than 2 MB of memory on their way."""
    trace = many(50_000)
    sink = Sink()
    tracemalloc.start()
    try:
        write_page(trace, sink)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1 << 20 < sink.size < 5_000_000
    assert peak < 2 << 20


class Sink(io.StringIO):
    """Counts what is written, and forgets it."""

    size = 0

    def write(self, text: str) -> int:
        self.size += len(text)
        return len(text)
