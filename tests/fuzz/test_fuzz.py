"""The fuzzer itself: a short run, and what it does with a finding."""

import random
from pathlib import Path

import pytest

from actors.wire import Wire
from tests.fuzz import __main__ as fuzzer
from tests.fuzz.cases import TARGETS, Case, generate
from tests.fuzz.targets import Finding, Hang, no_longer_than, run
from tests.support.frames import PREFACE, ping, settings


def test_a_short_run_finds_nothing_and_says_how_fast_it_was(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """W6."""
    assert fuzzer.main(["--seconds", "3", "--seed", "1", "--into", str(tmp_path)]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert said.startswith("seed 1\n")
    assert "cases/s" in said
    assert said.endswith("no findings\n")
    assert all(target in said for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_seed_makes_the_same_case_and_a_file_keeps_it(target: str) -> None:
    for seed in range(20):
        case = generate(random.Random(seed), target)
        assert case == generate(random.Random(seed), target)
        assert Case.decoded(case.encoded()) == case
        assert b"".join(case.pieces()) == case.data


def test_cases_are_neither_all_violations_nor_all_good() -> None:
    ends = [run(generate(random.Random(seed), "server")) for seed in range(60)]
    assert 5 < sum(ends) < 55


@pytest.mark.parametrize(
    "target", ["server", pytest.param("actor", marks=pytest.mark.logs_errors("crashed", "failed at its end"))]
)
def test_what_raises_anything_else_is_a_finding_that_can_be_replayed(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "one.case"
    file.write_bytes(Case(target, PREFACE + settings() + ping(b"12345678")).encoded())
    assert fuzzer.main(["--replay", str(file)]) == 0
    assert "no finding" in capsys.readouterr().out

    def fail(wire: Wire) -> bytes:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(Wire, "output", fail)
    assert fuzzer.main(["--replay", str(file)]) == 1
    assert "FINDING" in capsys.readouterr().out
    assert fuzzer.main(["--seconds", "9", "--seed", "5", "--into", str(tmp_path)]) == 1
    written = tmp_path / "fuzz-5.case"
    assert f"--replay {written}" in capsys.readouterr().out
    assert fuzzer.main(["--replay", str(written)]) == 1


def test_what_never_ends_is_cut_off() -> None:
    def forever() -> None:
        with no_longer_than(0.05):
            while True:
                pass

    with pytest.raises(Hang, match=r"0\.05 s"):
        forever()


def test_what_says_too_much_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wire, "output", lambda wire: settings() * 20_000)
    with pytest.raises(Finding, match="made it say"):
        run(Case("server", PREFACE + settings()))


def test_a_file_that_is_no_case_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other"
    file.write_bytes(b"something else")
    assert fuzzer.main(["--replay", str(file)]) == 2
    assert "is no case" in capsys.readouterr().err
