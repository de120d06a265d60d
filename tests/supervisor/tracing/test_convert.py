"""Traces become what their target's suffix says (T5)."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from actors.errors import LinkError, LocalError, Misuse
from supervisor.tracing import convert as conversion
from supervisor.tracing import jsonl
from supervisor.tracing.convert import convert
from supervisor.tracing.filters import Filter
from tests.supervisor.tracing.samples import conversation
from tests.supervisor.tracing.trace_event_format import complaints

STANDARD = Path("-")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    jsonl.save(conversation(), path)
    return path


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.mmd", "out.md", "out.html", "OUT.JSON"])
def test_each_suffix_gives_a_file_for_its_owner_alone(source: Path, tmp_path: Path, name: str) -> None:
    """T5."""
    target = tmp_path / name
    convert(source, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["trace.jsonl", name])
    assert "ConnectionBegan" in target.read_text()


def test_the_formats_are_what_they_are_called(source: Path, tmp_path: Path) -> None:
    """T5."""
    for suffix in ("jsonl", "json", "mmd", "md", "html"):
        convert(source, tmp_path / f"out.{suffix}")
    assert jsonl.load(tmp_path / "out.jsonl") == conversation()
    assert complaints(json.loads((tmp_path / "out.json").read_text())) == []
    diagram = (tmp_path / "out.mmd").read_text()
    assert diagram.startswith("sequenceDiagram\n")
    assert (tmp_path / "out.md").read_text() == f"```mermaid\n{diagram}```\n"
    assert (tmp_path / "out.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_only_what_the_filter_chooses_is_written(source: Path, tmp_path: Path) -> None:
    """T5."""
    chosen = convert(source, tmp_path / "out.jsonl", Filter(dead=True))
    assert [event.type for event in chosen.events] == ["RoomMade"]
    assert jsonl.load(tmp_path / "out.jsonl") == chosen


def test_standard_output_needs_to_be_told_what(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T5."""
    convert(source, STANDARD, to="mmd")
    assert capsys.readouterr().out.startswith("sequenceDiagram\n")
    with pytest.raises(Misuse, match="--to and one of jsonl, json, mmd, md, html"):
        convert(source, STANDARD)


def test_standard_input_can_be_the_source(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(source.read_text()))
    assert convert(STANDARD, tmp_path / "out.jsonl") == conversation()


def test_to_outdoes_the_suffix(source: Path, tmp_path: Path) -> None:
    """T5."""
    convert(source, tmp_path / "out.txt", to="mmd")
    assert (tmp_path / "out.txt").read_text().startswith("sequenceDiagram\n")


@pytest.mark.parametrize("name", ["out.xml", "out"])
def test_an_unknown_suffix_is_refused_with_those_that_are_known(source: Path, tmp_path: Path, name: str) -> None:
    """T5."""
    with pytest.raises(Misuse, match=r"out.* has no suffix .*: known are \.jsonl .*\.json .*\.mmd .*\.md .*\.html "):
        convert(source, tmp_path / name)
    with pytest.raises(Misuse, match=r"no format is called 'xml': known are \.jsonl "):
        convert(source, tmp_path / "out.json", to="xml")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.jsonl"]


def test_what_cannot_be_made_leaves_the_old_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5: half a file is never seen."""

    def fails_halfway(_trace: object, file: io.StringIO) -> None:
        file.write("half")
        raise OSError(28, "No space left on device")

    target = tmp_path / "out.json"
    target.write_text("old")
    monkeypatch.setattr(conversion, "FORMATS", {"json": ("", fails_halfway)})
    with pytest.raises(LocalError, match=r"cannot write .*out\.json: No space left on device"):
        convert(source, target)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_target_that_cannot_be_written_is_one_clear_error(source: Path, tmp_path: Path) -> None:
    """T5."""
    with pytest.raises(LinkError, match=r"cannot write .*nowhere.*: No such file or directory"):
        convert(source, tmp_path / "nowhere" / "out.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(Misuse, match=r"folder\.json: it is a directory"):
        convert(source, tmp_path / "folder.json")


def test_a_full_or_closed_standard_output_is_one_clear_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5."""

    class Broken(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(LocalError, match="cannot write to standard output: Broken pipe"):
        convert(source, STANDARD, to="jsonl")


def test_a_pipe_is_written_to_as_it_is(source: Path, tmp_path: Path) -> None:
    """T5: it cannot be replaced by a file."""
    pipe = tmp_path / "pipe.mmd"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        convert(source, pipe)
        assert os.read(reader, 100).startswith(b"sequenceDiagram")
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_link_is_followed(source: Path, tmp_path: Path) -> None:
    """T5: what it leads to is replaced, not the link."""
    link = tmp_path / "link.mmd"
    link.symlink_to(tmp_path / "real.mmd")
    convert(source, link)
    assert link.is_symlink()
    assert (tmp_path / "real.mmd").read_text().startswith("sequenceDiagram\n")
