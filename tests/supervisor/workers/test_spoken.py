"""What parent and worker say to each other: each message round trips, and nothing else is understood."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import LimitReached, Misuse, ProtocolViolation
from supervisor.workers import spoken
from supervisor.workers.options import ServeOptions
from supervisor.workers.spoken import (
    LENGTH_SIZE,
    Beat,
    Begin,
    Draining,
    Ended,
    Explain,
    Explained,
    Hasten,
    Ready,
    Released,
    Report,
    Reported,
    Retire,
    SendTrace,
    Spoken,
    Take,
    Taken,
    Tired,
    WriteStacks,
    decode,
    encode,
)
from tests.support.strategies import examples

numbers = st.integers(0, 2**53)
seconds = st.floats(0, allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
# Not even a name of a message's own inside of it must confuse anybody.
words = texts | st.sampled_from(["Take", "number", "[", "\0", "\n"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | seconds | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
plains = st.dictionaries(words, values, max_size=4)
messages: st.SearchStrategy[Spoken] = st.one_of(
    st.builds(Begin, texts, plains),
    st.builds(Take, numbers),
    st.builds(Retire, seconds),
    st.builds(Hasten),
    st.builds(Report, numbers),
    st.builds(Explain, numbers, texts),
    st.builds(SendTrace, texts, texts, plains),
    st.builds(WriteStacks),
    st.builds(Ready, numbers),
    st.builds(Beat, seconds, numbers, numbers),
    st.builds(Taken, numbers),
    st.builds(Released, numbers),
    st.builds(Tired, texts),
    st.builds(Reported, numbers, plains, st.lists(plains, max_size=3).map(tuple)),
    st.builds(Explained, numbers, st.lists(plains, max_size=3).map(tuple)),
    st.builds(Draining),
    st.builds(Ended, texts, st.booleans(), st.lists(texts, max_size=3).map(tuple), numbers),
)
"""Any message; tests/supervisor/workers/test_channel.py sends them."""


@given(messages)
@examples(200)
def test_every_message_is_understood_as_it_was_said(message: Spoken) -> None:
    written = encode(message)
    assert int.from_bytes(written[:LENGTH_SIZE]) == len(written) - LENGTH_SIZE
    assert decode(written[LENGTH_SIZE:]) == message


def test_options_arrive_as_options() -> None:
    options = ServeOptions(handler="app:handler", workers=3, max_worker_age=60.5)
    begin = decode(encode(Begin("worker-1", options.as_dict()))[LENGTH_SIZE:])
    assert isinstance(begin, Begin)
    assert ServeOptions.of(begin.options) == options


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"{}",
        b"null",
        b"7",
        b'"Take"',
        b'["Take"]',
        b'["Take",{"number":1}',
        b'["Take",{"number":1}]]',
        b'["Take",{"number":1},0]',
        b'["Take",{}]',
        b'["Take",[1]]',
        b'["Take",{"number":"1"}]',
        b'["Beat",{"late":NaN,"streams":1,"requests":1}]',
        b"[" * 100_000,
        b'["Take",{"number":1,"other":2}]',
        b'["Spoken",{}]',
        b'["__import__",{"name":"os"}]',
        b'[["Take"],{"number":1}]',
    ],
)
def test_what_is_no_message_is_the_other_sides_fault(text: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="no message"):
        decode(text)


@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
@examples(200)
def test_whatever_comes_is_a_message_or_a_violation(text: bytes) -> None:
    try:
        message = decode(text)
    except ProtocolViolation:
        return
    assert decode(encode(message)[LENGTH_SIZE:]) == message


def test_of_a_beginning_in_another_version_the_version_can_be_told() -> None:
    assert decode(b'["Begin",{"who":"worker-1","version":2}]') == Begin("", {}, 2)


def test_what_json_cannot_hold_is_misuse() -> None:
    with pytest.raises(Misuse, match="a Begin holds what JSON cannot"):
        encode(Begin("worker-1", {"handler": print}))


def test_a_message_that_is_too_long_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "MAX_MESSAGE", 1000)
    assert len(encode(Tired("x" * 900))) > 900
    with pytest.raises(LimitReached, match=r"a Tired of \d+ bytes is too long"):
        encode(Tired("x" * 1000))
