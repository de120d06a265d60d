"""JSON Lines: what is written is what the schema says and is read again; what cannot be read is one clear error."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import IO, cast

import pytest
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped, unused-ignore]

from actors.errors import LinkError, LocalError, Misuse
from supervisor.tracing import jsonl
from supervisor.tracing.records import Conversation, End, Event, Head, Record, Trace
from tests.supervisor.tracing.samples import WALL, conversation, many
from tests.supervisor.tracing.strategies import records, traces

SCHEMA = json.loads(jsonl.SCHEMA.read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
HEAD = Head(process="p", pid=1, monotonic=0.0, wall=WALL)
EVENT = Event(process="p", id=1, time=0.0, sender="a", receiver="b", type="M")


def lines(*found: Record) -> str:
    return "".join(f"{jsonl.encode(record)}\n" for record in found)


def reading(text: str | bytes) -> list[Record]:
    return list(jsonl.read(io.BytesIO(text if isinstance(text, bytes) else text.encode())))


def test_the_schema_is_one() -> None:
    """T5."""
    Draft202012Validator.check_schema(SCHEMA)


@settings(deadline=None)
@given(records)
@example(evolve(EVENT, taken=0.0, connection="", stream=0, first=0, frames=(), data={}))
def test_every_record_is_valid_and_comes_back_equal(record: Record) -> None:
    """T5."""
    line = jsonl.encode(record)
    assert line.isascii()
    assert "\n" not in line
    VALIDATOR.validate(json.loads(line))
    head = evolve(HEAD, process=record.process)
    assert reading(lines(head, record)) == [head, record]


@settings(deadline=None)
@given(traces)
def test_every_trace_comes_back_equal(trace: Trace) -> None:
    """T5."""
    if trace.heads:
        assert jsonl.load(io.StringIO(lines(*trace.records()))) == trace


def test_what_holds_its_default_is_left_out() -> None:
    """T5: most of a trace is what most messages do not have."""
    assert json.loads(jsonl.encode(HEAD)) == {
        "muxlink": "head",
        "format": 1,
        "process": "p",
        "pid": 1,
        "monotonic": 0.0,
        "wall": WALL,
    }
    assert json.loads(jsonl.encode(EVENT)) == {
        "muxlink": "event",
        "process": "p",
        "id": 1,
        "time": 0.0,
        "from": "a",
        "to": "b",
        "type": "M",
    }


def test_a_line_reads_as_documented() -> None:
    """T5."""
    sent = next(event for event in conversation().events if event.frames)
    fields = json.loads(jsonl.encode(sent))
    assert fields["from"] == "link-1/connection-2"
    assert fields["to"] == "socket"
    assert fields["first"] == 1
    assert fields["frames"] == [[4, 0, 0, 24], [8, 0, 0, 4]]
    told = Conversation(process="p", name="n", side="client", local="l", peer="r")
    assert json.loads(jsonl.encode(told)) == {
        "muxlink": "connection",
        "process": "p",
        "name": "n",
        "side": "client",
        "local": "l",
        "peer": "r",
    }
    assert json.loads(jsonl.encode(End(process="p", reason="size", events=3, lost=2))) == {
        "muxlink": "end",
        "process": "p",
        "reason": "size",
        "events": 3,
        "lost": 2,
    }


BAD_FIELDS: dict[str, dict[str, object]] = {
    "head without a clock": {"muxlink": "head", "format": 1, "process": "p", "pid": 1, "monotonic": 0.0},
    "head of no format": {"muxlink": "head", "process": "p", "pid": 1, "monotonic": 0.0, "wall": 0.0},
    "event without sender": {"muxlink": "event", "process": "p", "id": 1, "time": 0, "to": "b", "type": "M"},
    "event of a text id": {"muxlink": "event", "process": "p", "id": "1", "time": 0, "from": "", "to": "", "type": ""},
    "connection without peer": {"muxlink": "connection", "process": "p", "name": "n", "side": "client", "local": "l"},
    "end without count": {"muxlink": "end", "process": "p", "reason": "asked"},
    "no muxlink": {"process": "p"},
    **{
        f"event with {key}": {**json.loads(jsonl.encode(EVENT)), key: value}
        for key, value in cast(
            dict[str, object],
            {
                "time": "now",
                "taken": True,
                "dead": 1,
                "cause": -1,
                "stream": 1.5,
                "text": 5,
                "frames": [[0, 0, 1]],
                "first": [],
                "data": [],
                "id": 2**60,
                "connection": {},
            },
        ).items()
    },
    "event with a frame of too much": {**json.loads(jsonl.encode(EVENT)), "frames": [[0, 0, 1, 2**24]]},
    "event with frames that are one": {**json.loads(jsonl.encode(EVENT)), "frames": 5},
    "event with a time that no clock says": {**json.loads(jsonl.encode(EVENT)), "time": 1e13},
}


@pytest.mark.parametrize("bad", BAD_FIELDS)
def test_schema_and_reader_refuse_the_same(bad: str) -> None:
    """T5."""
    assert not VALIDATOR.is_valid(BAD_FIELDS[bad])
    with pytest.raises(Misuse, match=r"^the trace is damaged in line 2: .*head -n 1$"):
        reading(f"{lines(HEAD)}{json.dumps(BAD_FIELDS[bad])}\n{lines(EVENT)}")


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_keys_that_are_not_known_are_passed_over(more: dict[str, object]) -> None:
    """T5: a later muxlink may say more."""
    known = SCHEMA["$defs"]["event"]["properties"].keys()
    fields = {**{key: value for key, value in more.items() if key not in known}, **json.loads(jsonl.encode(EVENT))}
    VALIDATOR.validate(fields)
    assert reading(f"{lines(HEAD)}{json.dumps(fields)}\n") == [HEAD, EVENT]


def test_kinds_that_are_not_known_and_empty_lines_are_passed_over() -> None:
    """T5."""
    assert reading(f'{lines(HEAD)}\n{{"muxlink":"weather"}}\n  \n{lines(EVENT)}') == [HEAD, EVENT]


def test_several_processes_may_be_mixed_each_with_its_head_first() -> None:
    """T5."""
    other = evolve(HEAD, process="q", pid=2)
    mixed: list[Record] = [HEAD, EVENT, other, evolve(EVENT, process="q"), evolve(EVENT, id=2)]
    assert reading(lines(*mixed)) == mixed
    with pytest.raises(Misuse, match="line 2: process 'q' has no head before its first record"):
        reading(lines(HEAD, evolve(EVENT, process="q"), other))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("hello\n", "line 1: it is not JSON"),
        ("[1]\n", "line 1: it is not JSON .*not an object"),
        (b"\x89PNG\r\n\x1a\n", "line 1: it is not JSON"),
        (b'{"muxlink":"he', "line 1: it is not JSON"),
        ('{"traceEvents":[]}\n', "line 1: it is not a head"),
        (lines(EVENT), "line 1: it is not a head"),
        ("[" * 100_000 + "\n", "line 1: it is not JSON"),
    ],
    ids=["empty", "blank", "text", "list", "picture", "cut head", "other JSON", "no head", "deep"],
)
def test_what_is_no_trace_is_said_to_be_none(text: str | bytes, reason: str) -> None:
    """T5."""
    with pytest.raises(Misuse, match=rf"^the trace is no message trace: {reason}"):
        reading(text)


@pytest.mark.parametrize("line", ["not JSON", '{"muxlink":"event"', '{"muxlink":"event","time":NaN}', "5", "\x00"])
def test_a_damaged_line_in_the_middle_is_named_with_the_remedy(tmp_path: Path, line: str) -> None:
    """T5."""
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{lines(HEAD, EVENT)}{line}\n{lines(EVENT)}")
    with pytest.raises(Misuse, match=r"bad\.jsonl is damaged in line 3: it is not JSON .*can be kept: head -n 2$"):
        jsonl.load(path)


def test_a_line_in_another_encoding_is_damaged() -> None:
    """T5."""
    with pytest.raises(Misuse, match="damaged in line 2: it is not JSON"):
        reading(lines(HEAD).encode() + b'{"muxlink":"\xff"}\n' + lines(EVENT).encode())


@given(st.integers(1, 150))
@example(1)
def test_a_last_line_that_was_cut_is_left_out_with_a_warning(cut: int) -> None:
    """T5: a process may die while it writes."""
    whole = lines(HEAD, EVENT, evolve(EVENT, id=2, text="é" * 20))
    size = len(whole) - min(cut, len(lines(evolve(EVENT, id=2, text="é" * 20))))
    trace = jsonl.load(io.BytesIO(whole[:size].encode()))
    assert trace.events[0] == EVENT
    if cut == 1 or whole[:size].endswith("\n"):  # only the line's end is gone, or all of it
        assert trace.warnings == ()
    else:
        assert trace.events == (EVENT,)
        assert trace.warnings == ("the trace: the last line (3) was cut; its record is left out",)


@pytest.mark.parametrize(("version", "wrote"), [("9.1.0", "muxlink 9.1.0"), (None, "a newer muxlink")])
def test_a_newer_format_is_refused_with_who_wrote_it(version: str | None, wrote: str) -> None:
    """T5."""
    head = {"muxlink": "head", "format": 2, **({"version": version} if version else {})}
    with pytest.raises(LinkError, match=f"was written by {wrote} in format 2, .* up to 1: update muxlink here$"):
        reading(json.dumps(head) + "\n")
    with pytest.raises(LinkError, match=f"was written by {wrote}"):
        reading(lines(HEAD, EVENT) + json.dumps(head) + "\n")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5."""
    monkeypatch.setattr(jsonl, "MAX_LINE", 2**20)
    asked: list[int] = []

    class Endless:
        def readline(self, size: int = -1) -> bytes:
            asked.append(size)
            return bytes(size if size >= 0 else 2**22)

    with pytest.raises(Misuse, match="line 1: it is longer than 1 MiB"):
        list(jsonl.read(cast(IO[bytes], Endless())))
    assert asked == [2**20 + 1]


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    """T5."""
    with pytest.raises(Misuse, match=r"^cannot read .*none\.jsonl: No such file or directory$"):
        jsonl.load(tmp_path / "none.jsonl")
    with pytest.raises(Misuse, match=r"^cannot read .*: Is a directory$"):
        jsonl.load(tmp_path)


def test_records_are_read_one_by_one() -> None:
    """T5: in constant memory, so no line is read before the one before it was handed over."""
    asked: list[int] = []
    file = io.StringIO(lines(*many(100).records()))

    class Watched:
        def readline(self, size: int) -> str:
            asked.append(size)
            return file.readline(size)

    found = jsonl.read(cast(IO[str], Watched()))
    assert asked == []
    for number in range(1, 50):
        next(found)
        assert len(asked) == number


def test_a_reader_that_is_left_closes_its_file(tmp_path: Path) -> None:
    """T5: a file left open would be a warning, which is an error here."""
    jsonl.save(many(10), tmp_path / "trace.jsonl")
    found = jsonl.read(tmp_path / "trace.jsonl")
    assert isinstance(next(found), Head)
    del found


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused(time: float) -> None:
    """T5."""
    with pytest.raises(Misuse, match=r"^event 1 of process 'p' cannot be written as JSON"):
        jsonl.encode(evolve(EVENT, time=time))
    with pytest.raises(Misuse, match=r"^event 1 of process 'p' cannot be written as JSON"):
        jsonl.encode(evolve(EVENT, data={"body": b"bytes"}))
    with pytest.raises(Misuse, match=r"^the head of process 'p' cannot be written as JSON"):
        jsonl.encode(evolve(HEAD, wall=time))


def test_a_saved_trace_is_its_owners_alone_and_comes_back(tmp_path: Path) -> None:
    """T5."""
    path = tmp_path / "trace.jsonl"
    path.write_text("old")
    path.chmod(0o644)
    jsonl.save(conversation(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert jsonl.load(path) == conversation()
    assert [found.name for found in tmp_path.iterdir()] == ["trace.jsonl"]


def test_a_trace_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    """T5."""
    path = tmp_path / "trace.jsonl"
    jsonl.save(conversation(), path)
    with pytest.raises(Misuse):
        jsonl.save(Trace.of([HEAD, EVENT, evolve(EVENT, id=2, data={"body": b""})]), path)
    assert jsonl.load(path) == conversation()
    assert [found.name for found in tmp_path.iterdir()] == ["trace.jsonl"]
    with pytest.raises(LocalError, match=r"^cannot write .*trace\.jsonl/x: "):
        jsonl.save(conversation(), path / "x")
