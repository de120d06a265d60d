"""Settings: what is possible is kept, what is not is refused where it is given."""

import math
from typing import Any

import attrs
import pytest

from actors.errors import Misuse
from actors.settings import Limits

FIELDS = {field.name: type(field.default) for field in attrs.fields(Limits)}
COUNTS = [name for name, kind in FIELDS.items() if kind is int]
SECONDS = [name for name, kind in FIELDS.items() if kind is float]
SWITCHES = [name for name, kind in FIELDS.items() if kind is bool]
MAYBE_COUNTS = [name for name, kind in FIELDS.items() if kind is type(None)]

NEVER: list[Any] = [
    *(True, False, None, "10", b"10", [10], object(), 1j),
    *(math.nan, math.inf, -math.inf, -1, -0.5, 10**12, 1e12),
]
"""No field takes any of these."""


def test_every_setting_is_a_count_or_seconds_or_a_switch() -> None:
    assert sorted(COUNTS + SECONDS + SWITCHES + MAYBE_COUNTS) == sorted(FIELDS)
    assert COUNTS
    assert SECONDS


def _one(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_on_or_off(name: str) -> None:
    assert getattr(Limits(**_one(name, True)), name) is True
    assert getattr(Limits(**_one(name, False)), name) is False


@pytest.mark.parametrize("name", MAYBE_COUNTS)
def test_a_limit_that_may_be_absent_takes_none_and_a_count(name: str) -> None:
    assert getattr(Limits(**_one(name, None)), name) is None
    assert getattr(Limits(**_one(name, 3)), name) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{value!r}")
        for name in FIELDS
        for value in NEVER
        if not (name in SWITCHES and isinstance(value, bool)) and not (name in MAYBE_COUNTS and value is None)
    ],
)
def test_an_impossible_value_is_misuse_that_names_the_setting_and_the_value(name: str, value: Any) -> None:
    with pytest.raises(Misuse) as refused:
        Limits(**_one(name, value))
    assert f"Limits.{name} must be" in str(refused.value)
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_whole_number(name: str) -> None:
    fraction: Any = float(getattr(Limits(), name))
    with pytest.raises(Misuse, match="a whole number"):
        Limits(**_one(name, fraction))


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_may_be_given_as_a_whole_number(name: str) -> None:
    assert getattr(Limits(**_one(name, 3)), name) == 3


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("max_streams", 1, 2**31 - 1),
        ("stream_window", 1, 2**31 - 1),
        ("connection_window", 65_535, 2**31 - 1),
        ("max_frame_size", 2**14, 2**24 - 1),
        ("max_request_body", 0, 2**31 - 1),
        ("max_response_body", 0, 2**31 - 1),
    ],
)
def test_the_bounds_are_those_of_the_protocol(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(Limits(**_one(name, value)), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(Misuse, match=f"from {least} to {most}"):
            Limits(**_one(name, value))


def test_only_draining_may_take_no_time_at_all() -> None:
    assert Limits(drain_timeout=0).drain_timeout == 0
    for name in set(SECONDS) - {"drain_timeout"}:
        with pytest.raises(Misuse):
            Limits(**_one(name, 0))


def test_an_unfit_change_of_good_settings_is_refused_as_well() -> None:
    with pytest.raises(Misuse, match=r"Limits\.max_streams"):
        attrs.evolve(Limits(), max_streams=0)


def test_settings_never_change() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().max_streams = 5  # type: ignore[misc]
