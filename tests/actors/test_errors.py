"""The error tree: what it looks like, and what an error keeps when it is copied for one stream."""

import copy
import pickle
import re

import pytest

from actors import errors
from actors.errors import (
    ConnectFailed,
    ErrorCode,
    GoAway,
    LinkError,
    Outcome,
    ProcessFailed,
    ProtocolViolation,
    StreamReset,
    TlsFailed,
    code_name,
)

FACTS: dict[type[LinkError], dict[str, object]] = {
    StreamReset: {"code": 8, "received": 17},
    GoAway: {"code": 11, "debug": b"too_many_pings"},
    ProtocolViolation: {"code": 3},
    ConnectFailed: {"status": 407},
    TlsFailed: {"protocol": "http/1.1"},
    ProcessFailed: {"returncode": -9, "last_lines": ("boom",)},
}
"""What a class takes besides its message."""


def tree(root: type[LinkError]) -> list[type[LinkError]]:
    return [
        root,
        *(below for child in root.__subclasses__() for below in tree(child) if below.__module__ == "actors.errors"),
    ]


EVERY = tree(LinkError)
every_class = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)


def make(kind: type[LinkError]) -> LinkError:
    return kind("the link to a:1 is gone: dial again", **FACTS.get(kind, {}))  # type: ignore[arg-type]


def drawn() -> dict[str, str | None]:
    """Each class that the docstring draws, with the one above it."""
    found: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.fullmatch(r" {4}((?:│  |   )?(?:[├└]─ )?)([A-Z]\w+)  .*", line):
            depth = len(match[1]) // 3
            path[depth:] = [match[2]]
            found[match[2]] = path[depth - 1] if depth else None
    return found


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ if kind is not LinkError else None for kind in EVERY}


def test_every_exception_of_the_module_is_in_the_tree() -> None:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
    assert set(found) == set(EVERY)


@every_class
def test_an_error_seen_by_another_stream_keeps_all_but_the_outcome(kind: type[LinkError]) -> None:
    first = make(kind)
    first.__cause__ = cause = OSError("broken pipe")
    before = first.outcome
    for outcome in Outcome:
        seen = first.with_outcome(outcome)
        assert type(seen) is kind
        assert seen is not first
        assert seen.outcome is outcome
        assert str(seen) == str(first)
        assert seen.args == first.args
        assert seen.__cause__ is cause
        assert {name: getattr(seen, name) for name in FACTS.get(kind, {})} == FACTS.get(kind, {})
        assert seen.__traceback__ is None
    assert first.outcome is before


@every_class
def test_a_first_cause_is_chained_to_an_error_with_its_facts(kind: type[LinkError]) -> None:
    cause = OSError("broken pipe")
    error = kind.because("gone", cause, outcome=Outcome.COMPLETED, **FACTS.get(kind, {}))
    assert type(error) is kind
    assert str(error) == "gone"
    assert error.__cause__ is cause
    assert error.outcome is Outcome.COMPLETED
    assert {name: getattr(error, name) for name in FACTS.get(kind, {})} == FACTS.get(kind, {})


@every_class
def test_a_chained_error_has_the_outcome_of_its_class(kind: type[LinkError]) -> None:
    assert kind.because("gone", None, **FACTS.get(kind, {})).outcome is make(kind).outcome


@every_class
def test_an_error_survives_a_copy_and_the_way_to_another_process(kind: type[LinkError]) -> None:
    first = make(kind).with_outcome(Outcome.MAYBE_PROCESSED)
    for seen in (copy.copy(first), pickle.loads(pickle.dumps(first))):  # noqa: S301  (our own bytes)
        assert type(seen) is kind
        assert (str(seen), vars(seen)) == (str(first), vars(first))


def test_an_error_that_ends_no_request_says_not_sent_and_a_goaway_unprocessed() -> None:
    assert {kind: make(kind).outcome for kind in EVERY} == {
        kind: Outcome.UNPROCESSED if kind is GoAway else Outcome.NOT_SENT for kind in EVERY
    }


def test_a_violation_without_a_code_is_a_protocol_error() -> None:
    assert ProtocolViolation("nonsense").code is ErrorCode.PROTOCOL_ERROR


def test_a_code_without_a_name_is_shown_as_its_number() -> None:
    assert code_name(0x8) == "CANCEL"
    assert code_name(ErrorCode.HTTP_1_1_REQUIRED) == "HTTP_1_1_REQUIRED"
    assert code_name(0xFFFFFFFF) == "0xffffffff"


def test_the_outcomes_are_spelled_as_documents_spell_them() -> None:
    assert [outcome.value for outcome in Outcome] == ["NotSent", "Unprocessed", "MaybeProcessed", "Completed"]
