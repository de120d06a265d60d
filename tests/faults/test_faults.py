"""Every fault of the fault table, within its bounds; and what the table says of findings that are not."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from attrs import evolve

from actors.errors import Outcome
from supervisor.link_state import LinkState
from tests.faults.network import Unavailable
from tests.faults.report import Bounds, Finding, row
from tests.faults.scenes import FAULTS, Fault
from tests.faults.witness import ANSWERED, RAW, WRONG, Asked, Changed, Left, Record, lies
from tests.interop.peers import missing


@pytest.mark.bulk
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_link_gets_over_it_within_bounds(fault: Fault, tmp_path: Path) -> None:
    """H2, H7, L6, L7, L8, L10, X1, X2."""
    try:
        finding, complaints = await fault.find(tmp_path)
    except Unavailable as error:
        if error.installable:
            missing(str(error))
        pytest.skip(str(error))
    assert complaints == [], row(finding, complaints)


def asked(name: str, outcome: str, *, idempotent: bool = False, began: float = 0.0, ended: float = 1.0) -> Asked:
    return Asked(name, idempotent, began, ended, 2.0, outcome)


@pytest.mark.parametrize(
    ("each", "served"),
    [
        (asked("a", ANSWERED), 1),
        (asked("a", ANSWERED, idempotent=True), 3),
        (asked("a", Outcome.MAYBE_PROCESSED.value), 0),
        (asked("a", Outcome.MAYBE_PROCESSED.value), 1),
        (asked("a", Outcome.NOT_SENT.value), 0),
        (asked("a", Outcome.UNPROCESSED.value, ended=2.5), 0),
    ],
)
def test_what_the_servers_have_written_down_does_not_contradict(each: Asked, served: int) -> None:
    """X1."""
    assert lies([each], {"a": served, "b": 1}) == []


@pytest.mark.parametrize(
    ("each", "served"),
    [
        (asked("a", ANSWERED), 0),
        (asked("a", ANSWERED), 2),
        (asked("a", Outcome.MAYBE_PROCESSED.value), 2),
        (asked("a", Outcome.NOT_SENT.value, idempotent=True), 1),
        (asked("a", Outcome.UNPROCESSED.value), 1),
        (asked("a", Outcome.COMPLETED.value), 0),
        (asked("a", WRONG), 1),
        (asked("a", RAW), 0),
        (asked("a", Outcome.NOT_SENT.value, ended=3.1), 0),
    ],
)
def test_each_kind_of_untruth_is_found(each: Asked, served: int) -> None:
    """X1."""
    assert len(lies([each], {"a": served})) == 1


def test_a_request_that_ends_twice_is_found() -> None:
    assert lies([asked("a", ANSWERED), asked("a", ANSWERED)], {"a": 1}) == ["a ended 2 times"]


def record() -> Record:
    found = Record()
    for seen in (
        asked("a", ANSWERED, ended=1.0),
        Changed(2.1, LinkState.CONNECTING.name, "broke"),
        asked("b", Outcome.MAYBE_PROCESSED.value, idempotent=True, ended=2.2),
        Changed(2.7, LinkState.READY.name, ""),
        asked("c", ANSWERED, began=2.5, ended=3.0),
        asked("d", ANSWERED, began=2.9, ended=3.5),
        Left(0, 0, 0),
    ):
        found.add(seen)
    return found


def test_a_finding_is_measured_from_the_beginning_and_the_end_of_the_fault() -> None:
    finding = Finding.of("cut", record(), 2.0, 2.5, Counter(a=1, c=1, d=1))
    assert finding.knew == pytest.approx(0.1)
    assert finding.ready == pytest.approx(0.2)
    assert finding.outage == pytest.approx(1.0)
    assert (finding.asked, dict(finding.failed), finding.unsafe) == (4, {"MaybeProcessed": 1}, 1)
    fine = Bounds(knew=0.5, ready=0.5, outage=1.0, failed=1, idempotent=True)
    assert finding.complaints(fine) == []


@pytest.mark.parametrize(
    ("bounds", "complaint"),
    [
        (Bounds(knew=0.05, failed=1, idempotent=True), "knew of it after 0.10 s"),
        (Bounds(ready=0.1, failed=1, idempotent=True), "was READY 0.20 s"),
        (Bounds(outage=0.4, failed=1, idempotent=True), "no answer for 1.00 s"),
        (Bounds(failed=0, idempotent=True), "1 requests failed, not 0"),
        (Bounds(failed=1, outcomes=frozenset(), idempotent=True), "failed with MaybeProcessed"),
        (Bounds(failed=1), "could have gone again"),
    ],
)
def test_each_bound_is_held_against_the_finding(bounds: Bounds, complaint: str) -> None:
    finding = Finding.of("cut", record(), 2.0, 2.5, Counter(a=1, c=1, d=1))
    (found,) = finding.complaints(bounds)
    assert complaint in found
    assert f"! {found}" in row(finding, [found])


@pytest.mark.parametrize("left", [None, Left(1, 0, 0), Left(0, 1, 0), Left(0, 0, 64 << 20)])
def test_what_is_left_behind_is_a_complaint(left: Left | None) -> None:
    finding = Finding.of("cut", record(), 2.0, 2.5, Counter(a=1, c=1, d=1))
    assert len(evolve(finding, left=left).complaints(Bounds(failed=1, idempotent=True))) == 1


def test_a_link_that_never_got_ready_again_or_never_answered_is_told() -> None:
    seen = Record()
    seen.add(Changed(2.1, LinkState.TRANSIENT_FAILURE.name, "gone"))
    seen.add(Left(0, 0, 0))
    complaints = Finding.of("cut", seen, 2.0, 2.0, {}).complaints(Bounds())
    assert [complaint.split(" ")[0] for complaint in complaints] == ["was", "no"]


async def test_a_record_tells_who_waits_for_what_it_shows() -> None:
    seen = Record()
    waiting = asyncio.create_task(seen.answers(2, since=1.0, within=5.0))
    await asyncio.sleep(0)
    for began in (0.5, 1.0, 1.5):
        assert not waiting.done()
        seen.add(asked(f"{began}", ANSWERED, began=began))
    await waiting
    with pytest.raises(TimeoutError):
        await seen.answers(4, within=0.01)
