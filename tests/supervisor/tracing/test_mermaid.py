"""Sequence diagrams, read by Mermaid's own parser (T5).

The parser is in the folder ``mermaid`` of the virtual environment, where ``npm install --prefix`` puts it.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.tracing import mermaid
from supervisor.tracing.records import Event, Head, Trace
from tests.interop.peers import environment, executable, missing
from tests.supervisor.tracing.samples import WALL, conversation, many
from tests.supervisor.tracing.strategies import texts

FOLDER = Path(sys.prefix) / "mermaid"
ARROW, DEAD, NOTE = 0, 4, 2
"""Mermaid's numbers for ``->>``, ``--x`` and a note."""


@frozen
class Message:
    sender: str
    receiver: str
    type: int
    text: str


@frozen
class Diagram:
    """What Mermaid understood."""

    participants: list[str]
    messages: list[Message]


class Mermaid:
    """Mermaid in a process of its own."""

    def __init__(self, node: str) -> None:
        self._process = subprocess.Popen(
            [node, str(Path(__file__).with_name("mermaid.mjs")), str(FOLDER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert self._answer() == {"ready": True}

    def parse(self, text: str) -> Diagram:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, f"{answer['error']}\n{text}"
        assert answer["diagramType"] == "sequence"
        names = {alias: _meant(label) for alias, label in answer["actors"].items()}
        return Diagram(
            list(names.values()),
            [
                Message(names[said["from"]], names[said["to"]], said["type"], _meant(said["message"]))
                for said in answer["messages"]
            ],
        )

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "Mermaid's process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=20)


def _meant(text: str) -> str:
    """A text as Mermaid draws it: it keeps entity codes in a disguise until it makes HTML of them."""
    return html.unescape(re.sub("ﬂ°°([0-9]+)¶ß", "&#\\1;", text))


def _drawable(text: str) -> str:
    """What HTML makes of a text at best: some characters have no number there."""
    return html.unescape("".join(f"&#{ord(character)};" for character in text)).strip()


@pytest.fixture(scope="module")
def parser() -> Iterator[Mermaid]:
    node = executable("node")
    if not (FOLDER / "node_modules" / "mermaid").is_dir():
        if os.environ.get("MUXLINK_WITHOUT_MERMAID") == "1":
            pytest.skip("Mermaid could not be installed")
        missing(f"Mermaid is not installed in {FOLDER}: make .venv/.mermaid installs it")
    process = Mermaid(node)
    yield process
    process.close()


def text_of(trace: Trace, **limits: int) -> str:
    file = io.StringIO()
    mermaid.write(trace, file, **limits)
    return file.getvalue()


def one(**fields: Any) -> Trace:
    event = Event(process="p", id=1, time=0.0, sender="a", receiver="b", type="Hello")
    return Trace.of([Head(process="p", pid=1, monotonic=0.0, wall=WALL), evolve(event, **fields)])


def test_a_conversation_is_drawn_as_it_was(parser: Mermaid) -> None:
    """T5."""
    trace = conversation()
    diagram = parser.parse(text_of(trace))
    assert [(said.sender, said.receiver) for said in diagram.messages] == [
        (f"{event.sender} ({event.process})", f"{event.receiver} ({event.process})") for event in trace.events
    ]
    assert [said.text for said in diagram.messages] == [
        f"{event.type}: {event.text}" if event.text else event.type for event in trace.events
    ]


def test_participants_come_in_the_order_of_appearance(parser: Mermaid) -> None:
    """T5."""
    participants = parser.parse(text_of(conversation())).participants
    assert participants[:4] == [
        "socket (client)",
        "link-1/connection-2 (client)",
        "socket (server)",
        "server-1 (server)",
    ]
    assert len(participants) == len(set(participants))


def test_a_single_process_is_not_named(parser: Mermaid) -> None:
    """T5."""
    assert parser.parse(text_of(one())).participants == ["a", "b"]


def test_a_dead_letter_ends_in_a_cross(parser: Mermaid) -> None:
    """T5."""
    diagram = parser.parse(text_of(conversation()))
    assert [said.text for said in diagram.messages if said.type == DEAD] == ["RoomMade: 64 bytes"]
    assert {said.type for said in diagram.messages} == {ARROW, DEAD}


@settings(deadline=None)  # what answers is another process
@given(sender=texts, receiver=texts, kind=texts, text=texts, process=texts)
@example(sender="end", receiver="as", kind="end", text="end", process="")
@example(sender="", receiver=" ", kind="", text="", process="")
@example(sender="a;b", receiver="a#59;b", kind="x\ny", text='";#\n%%{init: {}}%%', process="")
@example(sender="note", receiver="participant x", kind="wrap", text="nowrap: x", process="")
@example(sender="<br/>", receiver="😀", kind="`", text="```\n--x->>:", process="")
@example(sender="title: x", receiver="---", kind="activate p1", text="+1 -1 \\ //", process="")
def test_any_text_parses_and_comes_out_as_it_was(
    *, parser: Mermaid, sender: str, receiver: str, kind: str, text: str, process: str
) -> None:
    """T5."""
    trace = one(sender=sender, receiver=receiver, type=kind, text=text, process=process)
    diagram = parser.parse(text_of(trace))
    (said,) = diagram.messages
    assert said.sender.strip() == _drawable(sender)
    assert said.receiver.strip() == _drawable(receiver)
    assert said.text.strip() == _drawable(f"{kind}: {text}" if text else kind)


@settings(deadline=None)
@given(processes=st.lists(texts, min_size=2, max_size=3, unique=True))
def test_any_name_of_a_process_parses(parser: Mermaid, processes: list[str]) -> None:
    """T5."""
    events = [event for process in processes for event in one(process=process).events]
    diagram = parser.parse(text_of(Trace.of(events)))
    assert {said.sender.strip() for said in diagram.messages} == {_drawable(f"a ({process})") for process in processes}


def test_a_long_text_is_cut(parser: Mermaid) -> None:
    """T5."""
    (said,) = parser.parse(text_of(one(text="x" * 200))).messages
    assert said.text == f"Hello: {'x' * 57}..."


def test_messages_above_the_limit_are_left_out_with_a_note(parser: Mermaid) -> None:
    """T5."""
    diagram = parser.parse(text_of(many(700)))
    *messages, note = diagram.messages
    assert len(messages) == 500
    assert note.type == NOTE
    assert note.text == "200 more messages are left out: filter the trace to see them"
    assert len(parser.parse(text_of(many(700), limit=3)).messages) == 4


def test_a_diagram_stays_within_what_mermaid_reads(parser: Mermaid) -> None:
    """T5: more than 50,000 characters are refused by default."""
    trace = Trace.of(event for number in range(500) for event in one(id=number, text=";" * 60).events)
    text = text_of(trace)
    assert 45_000 < len(text) <= 50_000
    *messages, note = parser.parse(text).messages
    assert note.text.startswith(f"{500 - len(messages)} more messages are left out")


def test_what_was_forgotten_before_is_noted(parser: Mermaid) -> None:
    """T5."""
    trace = Trace.of([Head(process="p", pid=1, monotonic=0.0, wall=WALL, dropped=12), *one().events])
    first, _ = parser.parse(text_of(trace)).messages
    assert first.text == "12 earlier messages were forgotten before the trace was taken"


def test_a_trace_without_messages_is_a_diagram_too(parser: Mermaid) -> None:
    """T5."""
    assert parser.parse(text_of(Trace())).messages == []
    empty = Trace.of([Head(process="p", pid=1, monotonic=0.0, wall=WALL, dropped=12)])
    assert len(parser.parse(text_of(empty)).messages) == 1


def test_the_parser_refuses_what_is_no_diagram(parser: Mermaid) -> None:
    """T5: a parser that took everything would prove nothing."""
    with pytest.raises(AssertionError, match="Parse error"):
        parser.parse("sequenceDiagram\n    a->>b: one; two\n")
