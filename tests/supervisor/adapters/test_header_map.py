"""hyper's map of headers."""

from __future__ import annotations

from collections.abc import MutableMapping

import pytest

from actors.errors import InvalidHeaders
from actors.headers import Headers
from supervisor.adapters.blocking.header_map import HTTPHeaderMap


def test_a_name_has_all_its_values_whatever_its_case() -> None:
    headers = HTTPHeaderMap([("Accept", "a, b"), (b"ACCEPT", b"c")], host="here")
    assert headers["accept"] == headers[b"Accept"] == [b"a", b"b", b"c"]
    assert headers.get("accept") == [b"a", b"b", b"c"]
    assert headers.get("missing") is None
    assert headers.get("missing", [b"x"]) == [b"x"]
    assert "HOST" in headers
    assert b"missing" not in headers
    with pytest.raises(KeyError, match="missing"):
        headers["missing"]


def test_cookies_are_not_taken_apart_at_their_commas() -> None:
    assert HTTPHeaderMap([("Set-Cookie", "a=1, or 2"), ("set-cookie", "b")])["set-cookie"] == [b"a=1, or 2", b"b"]


def test_iterating_gives_pairs_in_order_and_raw_ones_as_they_came() -> None:
    headers = HTTPHeaderMap([("B", "1,2"), ("A", "3")])
    assert list(headers) == list(headers.items()) == [(b"b", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert list(headers.keys()) == [b"b", b"b", b"a"]
    assert list(headers.values()) == [b"1", b"2", b"3"]
    assert len(headers) == 3
    assert list(headers.iter_raw()) == [(b"B", b"1,2"), (b"A", b"3")]


def test_assigning_adds_and_replacing_replaces_in_place() -> None:
    headers = HTTPHeaderMap([("a", "1"), ("b", "2"), ("A", "3")])
    headers["a"] = "4"
    assert headers["a"] == [b"1", b"3", b"4"]
    headers.replace("A", "5")
    headers.replace("new", "6")
    assert list(headers.iter_raw()) == [(b"A", b"5"), (b"b", b"2"), (b"new", b"6")]
    del headers["B"]
    assert "b" not in headers
    with pytest.raises(KeyError):
        del headers["b"]
    assert headers.pop("new") == [b"6"]
    assert headers.pop("new", None) is None
    assert headers.setdefault("a", "7") == [b"5"]
    assert headers.setdefault("c", "7") == [b"7"]
    headers.update({"c": "8"})
    assert headers["c"] == [b"7", b"8"]
    headers.clear()
    assert len(headers) == 0
    assert issubclass(HTTPHeaderMap, MutableMapping)


def test_maps_are_merged_and_compared_as_they_came() -> None:
    headers = HTTPHeaderMap([("a", "1")])
    headers.merge(HTTPHeaderMap([("A", "2")]))
    headers.merge({"b": "3"})
    headers.merge(headers)
    assert headers == HTTPHeaderMap([("a", "1"), ("A", "2"), ("b", "3")]) == HTTPHeaderMap(headers)
    assert headers != HTTPHeaderMap({"a": "1"})
    assert headers != [(b"a", b"1")]


def test_what_came_in_is_taken_as_it_is() -> None:
    assert list(HTTPHeaderMap.of(Headers([("A", b"\xff")])).iter_raw()) == [(b"a", b"\xff")]


def test_it_answers_in_str_where_that_is_asked_for() -> None:
    headers = HTTPHeaderMap([("a", "1, 2"), ("A", "3"), ("b", b"\xe9")])
    assert headers.get_all("a") == ["1, 2", "3"]
    assert headers.get_all("c") is None
    assert headers.get_all("c", []) == []
    assert headers.text("a") == "1, 2, 3"
    assert headers.text("b") == "\xe9"
    assert headers.text("c", "none") == "none"


def test_what_is_neither_str_nor_bytes_is_refused() -> None:
    with pytest.raises(InvalidHeaders, match="not int"):
        HTTPHeaderMap([("a", 1)])  # type: ignore[list-item]


def test_secrets_are_not_shown() -> None:
    shown = repr(HTTPHeaderMap([("Authorization", "s3cret"), ("a", "1")]))
    assert "s3cret" not in shown
    assert "b'1'" in shown
