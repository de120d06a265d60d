"""The soak: short runs of it, and what it says of runs that are not clean."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from actors.errors import Outcome
from tests.faults.ledger import CANCELLED, Ledger
from tests.faults.witness import ANSWERED, Asked
from tests.interop.peers import ROOT, environment


async def _soak(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.soak", "--minutes", "0.25", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT, env=environment(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            said, _ = await process.communicate()
        return process.returncode, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_half_a_minute_among_faults_leaves_every_outcome_true_and_nothing_behind() -> None:
    """X1, X2, S13, R5: two runs of a quarter of a minute each, at the same time."""
    for code, said in await asyncio.gather(_soak("--seed", "1"), _soak("--seed", "2", "--tls")):
        assert code == 0, said
        assert said.endswith("\nclean\n"), said
        assert ANSWERED in said
        assert "changes of state" in said


def end(ledger: Ledger, outcome: str, *, ended: float = 1.0) -> int:
    number = ledger.begin()
    ledger.end(number, Asked(str(number), number % 2 == 0, 0.0, ended, 2.0, outcome, "Kind: said"))
    return number


def judged(ledger: Ledger, folder: Path, *served: int) -> list[str]:
    log = folder / "log"
    log.write_text("".join(f"{number}\n" for number in served), encoding="ascii")
    return ledger.judge([log])


def test_a_ledger_that_the_logs_agree_with_has_no_complaint(tmp_path: Path) -> None:
    """X1."""
    ledger = Ledger()
    answered, maybe, not_sent = (
        end(ledger, outcome) for outcome in (ANSWERED, Outcome.MAYBE_PROCESSED.value, Outcome.NOT_SENT.value)
    )
    ledger.end(cancelled := ledger.begin(), None)
    assert judged(ledger, tmp_path, answered, answered, maybe, cancelled) == []  # the even ones are idempotent
    assert ledger.outcomes() == {
        (ANSWERED, True): 1,
        (Outcome.MAYBE_PROCESSED.value, False): 1,
        (Outcome.NOT_SENT.value, True): 1,
        (CANCELLED, False): 1,
    }
    assert (not_sent, len(ledger)) == (2, 4)
    assert ledger.errors == {"MaybeProcessed Kind": 1, "NotSent Kind": 1}
    assert ledger.examples["NotSent Kind"] == "Kind: said"


def test_a_ledger_finds_what_the_logs_contradict(tmp_path: Path) -> None:
    """X1."""
    ledger = Ledger()
    end(ledger, ANSWERED)
    end(ledger, ANSWERED)
    end(ledger, Outcome.NOT_SENT.value)
    ledger.begin()
    end(ledger, ANSWERED, ended=3.5)
    ledger.end(ledger.begin(), None)
    assert judged(ledger, tmp_path, 1, 1, 2, 4, 5, 5) == [
        "4 ended after 3.50 of 2.00 s Kind: said",
        "0 is Answered and was not served",
        "1 is not idempotent and was served 2 times",
        "2 is NotSent and was served 1 times",
        "3 never ended",
        "5 is not idempotent and was served 2 times",
    ]


def test_a_request_that_ends_twice_is_found(tmp_path: Path) -> None:
    ledger = Ledger()
    number = end(ledger, ANSWERED)
    ledger.end(number, None)
    assert judged(ledger, tmp_path, number) == ["0 ended twice"]


@pytest.mark.parametrize("count", [20, 25])
def test_very_many_complaints_are_counted_and_not_all_told(count: int, tmp_path: Path) -> None:
    ledger = Ledger()
    for _ in range(count):
        end(ledger, ANSWERED)
    found = judged(ledger, tmp_path)
    assert len(found) == min(count, 21)
    assert ("and 5 more" in found) == (count == 25)
