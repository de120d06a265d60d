"""Headers: what users hold, and the checks that must never let through what h2 would refuse."""

import http
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived, ResponseReceived, TrailersReceived
from h2.exceptions import ProtocolError
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hypothesis import event, example, given
from hypothesis import strategies as st

from actors.arrived import check_arrived_request, check_arrived_response, check_arrived_trailers
from actors.errors import InvalidHeaders
from actors.headers import (
    SECRETS,
    HeaderInput,
    Headers,
    Pair,
    check_fields,
    declared_length,
    request_head,
    response_head,
    split_head,
    to_bytes,
)

SECRET = "Bearer-5f2a"  # noqa: S105  (it opens nothing)

# --- outbound, against h2 ---------------------------------------------------------------------------------------------

TRICKY = ' \t\r\n\0:;,"\\/?#@%=_-*Aa0éÿ\x01\x0b\x0c\x7f\x80\x85\xa0☃'
KNOWN = (
    "te", "TE", "host", "Host", "cookie", "Set-Cookie", "authorization", "content-length", "connection", "Upgrade",
    "keep-alive", "Transfer-Encoding", "proxy-connection", ":path", ":status", ":protocol", "x-a", "X-B", "",
)  # fmt: skip
words = st.text(st.sampled_from(TRICKY), max_size=6) | st.text(max_size=6)
texts: st.SearchStrategy[str | bytes] = words | words.map(lambda word: word.encode("utf-8")) | st.binary(max_size=6)
names = st.sampled_from(KNOWN) | texts
values = st.sampled_from(("trailers", "Trailers", "5", "0", "a:1", "gzip", " ", "")) | texts
fields = st.lists(st.tuples(names, values), max_size=6).map(lambda drawn: [each for each in drawn if passes([each])])
"""Headers of which each passes alone: most are refused, and one such would hide the others."""
methods = st.sampled_from(("GET", b"POST", "CONNECT", "HEAD", "OPTIONS", "get")) | texts
authorities = st.sampled_from(("a:1", b"a", "[::1]:80", "a", "u@a", "a/b")) | texts
paths = st.sampled_from(("/", "*", "/a?b=c", "//", "http://a/")) | words.map(lambda word: "/" + word) | texts

REQUEST = HeaderValidationFlags(is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False)
RESPONSE = HeaderValidationFlags(is_client=True, is_trailer=False, is_response_header=True, is_push_promise=False)
TRAILERS = HeaderValidationFlags(is_client=False, is_trailer=True, is_response_header=False, is_push_promise=False)


def refusal(call: Callable[[], object]) -> str | None:
    """Why a call is refused, if it is."""
    try:
        call()
    except InvalidHeaders as refused:
        return f"{refused} {refused.__cause__ or ''}".strip()
    return None


def passes(headers: list[tuple[str | bytes, str | bytes]]) -> bool:
    return refusal(lambda: check_fields(headers)) is None


def accepted(make: Callable[[], list[Pair]]) -> list[Pair] | None:
    why = refusal(make)
    event("accepted" if why is None else "refused")
    assert "\n" not in (why or "")
    return make() if why is None else None


def pair_of_h2() -> tuple[H2Connection, H2Connection]:
    """A client that checks nothing, as ours does, and a server that checks all."""
    client = H2Connection(
        H2Configuration(
            client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
    )
    server = H2Connection(
        H2Configuration(
            client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
    )
    client.initiate_connection()
    server.initiate_connection()
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    return client, server


def arrived(events: Iterable[Event], kind: type[Any]) -> list[Pair]:
    [found] = [each for each in events if isinstance(each, kind)]
    return [(bytes(name), bytes(value)) for name, value in found.headers]


def joined_cookies(pairs: list[Pair]) -> list[Pair]:
    """As h2 gives a header list that came: cookies together, at the end."""
    cookies = [value for name, value in pairs if name == b"cookie"]
    rest = [(bytes(name), bytes(value)) for name, value in pairs if name != b"cookie"]
    return rest + ([(b"cookie", b"; ".join(cookies))] if cookies else [])


@given(methods, authorities, paths, fields)
@example("GET", "a", "/", [("te", "trailers"), ("host", "b"), ("authorization", "x"), ("x-empty", "")])
@example("CONNECT", "a:443", "", [])
@example("GET", "a", "/", [("cookie", "a=b"), ("cookie", ""), ("cookie", "; "), ("cookie", "c;")])
def test_a_request_that_we_accept_h2_accepts(
    method: str | bytes, authority: str | bytes, path: str | bytes, headers: list[tuple[str | bytes, str | bytes]]
) -> None:
    if (head := accepted(lambda: request_head(method, "http", authority, path, headers))) is None:
        return
    assert list(validate_headers(head, REQUEST)) == head
    client, server = pair_of_h2()
    client.send_headers(1, head)
    assert arrived(server.receive_data(client.data_to_send()), RequestReceived) == joined_cookies(head)


@given(st.integers(200, 999), fields)
@example(200, [("set-cookie", "a=b"), ("set-cookie", "c=d"), ("Content-Length", " 5\t")])
def test_a_response_that_we_accept_h2_accepts(status: int, headers: list[tuple[str | bytes, str | bytes]]) -> None:
    if (head := accepted(lambda: response_head(status, headers))) is None:
        return
    assert list(validate_headers(head, RESPONSE)) == head
    client, server = pair_of_h2()
    client.send_headers(1, request_head("GET", "http", "a", "/", ()), end_stream=True)
    server.receive_data(client.data_to_send())
    server.send_headers(1, head)
    assert arrived(client.receive_data(server.data_to_send()), ResponseReceived) == joined_cookies(head)


@given(fields)
@example([("Trailer-One", "x"), ("len", "5")])
def test_trailers_that_we_accept_h2_accepts(headers: list[tuple[str | bytes, str | bytes]]) -> None:
    if not (checked := accepted(lambda: check_fields(headers))):
        return
    assert list(validate_headers(checked, TRAILERS)) == checked
    client, server = pair_of_h2()
    client.send_headers(1, request_head("POST", "http", "a", "/", ()))
    client.send_headers(1, checked, end_stream=True)
    assert arrived(server.receive_data(client.data_to_send()), TrailersReceived) == joined_cookies(checked)


# --- inbound, against h2 ----------------------------------------------------------------------------------------------

raw_names = st.sampled_from([name.encode() for name in KNOWN]) | st.sampled_from(
    (b":method", b":path", b":scheme", b":authority", b":status", b":protocol", b":", b"a:b", b"x" * 3)
)
raw_values = st.sampled_from((b"GET", b"CONNECT", b"/", b"http", b"a", b"200", b"20", b"trailers", b" a", b"a\t", b""))
raw_lists = st.lists(st.tuples(raw_names | st.binary(max_size=4), raw_values | st.binary(max_size=4)), max_size=7)
GOOD_REQUEST = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]


@st.composite
def nearly_good(draw: st.DrawFn, good: list[Pair]) -> list[Pair]:
    """A good list with a few things dropped, doubled, moved or put in."""
    pairs = [pair for pair in good if draw(st.integers(0, 9)) > 0]
    for extra in draw(raw_lists.map(lambda drawn: drawn[:2])):
        pairs.insert(draw(st.integers(0, len(pairs))), extra)
    return pairs


def judged_by_h2(pairs: list[Pair], flags: HeaderValidationFlags) -> bool:
    try:
        list(validate_headers(pairs, flags))
    except (ProtocolError, IndexError):  # h2 looks at the first byte of a name before it looks whether there is one
        return False
    return True


def judged_by_us(check: Callable[[list[Pair]], object], pairs: list[Pair]) -> bool:
    return refusal(lambda: check(pairs)) is None


@given(raw_lists | nearly_good(GOOD_REQUEST))
@example(GOOD_REQUEST)
@example([(b":method", b"CONNECT"), (b":authority", b"a")])
@example([(b":method", b"CONNECT"), (b":authority", b"a"), (b":protocol", b"websocket")])
@example([*GOOD_REQUEST, (b":protocol", b"websocket")])
@example([*GOOD_REQUEST, (b"host", b"b")])
@example([*GOOD_REQUEST, (b"host", b"a"), (b"host", b"a")])
@example([*GOOD_REQUEST[:2], GOOD_REQUEST[3]])
def test_a_request_that_came_passes_only_where_h2_lets_it_pass(pairs: list[Pair]) -> None:
    ours, theirs = judged_by_us(check_arrived_request, pairs), judged_by_h2(pairs, REQUEST)
    event(f"ours {ours}, theirs {theirs}")
    assert ours <= theirs


@given(raw_lists | nearly_good([(b":status", b"200"), (b"x-a", b"b")]))
@example([(b":status", b"200")])
@example([(b":status", b"200"), (b":path", b"/")])
def test_a_response_that_came_passes_only_where_h2_lets_it_pass(pairs: list[Pair]) -> None:
    assert judged_by_us(check_arrived_response, pairs) <= judged_by_h2(pairs, RESPONSE)


@given(raw_lists)
@example([(b"len", b"5")])
@example([(b":status", b"200")])
def test_trailers_that_came_pass_only_where_h2_lets_them_pass(pairs: list[Pair]) -> None:
    assert judged_by_us(check_arrived_trailers, pairs) <= judged_by_h2(pairs, TRAILERS)


@given(methods, authorities, paths, fields)
def test_what_we_send_we_would_take(
    method: str | bytes, authority: str | bytes, path: str | bytes, headers: list[tuple[str | bytes, str | bytes]]
) -> None:
    if (head := accepted(lambda: request_head(method, "http", authority, path, headers))) is not None:
        check_arrived_request(head)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"x y": "1"}, "token"),
        ({"": "1"}, "token"),
        ({"é": "1"}, "token"),
        ({":path": "/"}, "argument of the call"),
        ({"Connection": "close"}, "leave it out"),
        ({"transfer-encoding": "chunked"}, "leave it out"),
        ({"a": "b\r\nc: d"}, "'a' holds NUL, CR or LF"),
        ({"a": b"\0"}, "'a' holds NUL, CR or LF"),
        ({"te": "gzip"}, "'trailers'"),
        ({"content-length": "-1"}, "number of bytes"),
        ({"content-length": "5, 5"}, "number of bytes"),
        ({"content-length": "9" * 5000}, "number of bytes"),
        ({"cookie": " "}, "leave it out"),
        ({"a": "☃"}, "'☃' in a header is not latin-1"),
        ({"☃": "a"}, "latin-1"),
        ({"a": 5}, "int"),
        ({5: "a"}, "int"),
        ({"a": None}, "NoneType"),
        ({"a": bytearray(b"a")}, "bytearray"),
        ("content-type", "mapping or an iterable"),
        (["content-type"], "mapping or an iterable"),
        ([("a", "b", "c")], "mapping or an iterable"),
        ([5], "mapping or an iterable"),
        (5, "mapping or an iterable"),
        ([([], "a")], "mapping or an iterable"),
    ],
)
def test_a_forbidden_header_is_named_with_what_to_do(headers: Any, words: str) -> None:
    with pytest.raises(InvalidHeaders) as refused:
        check_fields(headers)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 6000


def test_what_broke_in_the_users_own_iterable_is_chained() -> None:
    def broken() -> Iterable[tuple[str, str]]:
        yield "a", "b"
        raise ValueError("a bug of the user's")

    with pytest.raises(InvalidHeaders) as refused:
        check_fields(broken())
    assert str(refused.value.__cause__) == "a bug of the user's"


@pytest.mark.parametrize("status", [101, 99, 0, -200, 1000, True, "200", 200.0, None, b"200", [200]], ids=repr)
@pytest.mark.parametrize("before", [(), (200, 100)], ids=["first", "after a good one"])
def test_an_impossible_status_is_refused_whatever_was_sent_before(status: Any, before: tuple[int, ...]) -> None:
    for good in before:
        response_head(good, ())
    with pytest.raises(InvalidHeaders, match="no HTTP/2 status"):
        response_head(status, ())


def test_the_standard_librarys_names_of_statuses_are_good() -> None:
    assert response_head(http.HTTPStatus.NOT_FOUND, ()) == [(b":status", b"404")]
    assert response_head(404, ()) == [(b":status", b"404")]
    assert response_head(http.HTTPStatus.NOT_FOUND, ()) == [(b":status", b"404")]


@pytest.mark.parametrize("path", ["", "a", "/ a", "/é", "/\n", "/\x7f", "**", "http://a/", b"/\xff"])
def test_a_bad_path_is_refused_with_the_remedy(path: str | bytes) -> None:
    with pytest.raises(InvalidHeaders, match=r"path.*percent-encode"):
        request_head("GET", "http", "a", path, ())


def test_a_path_that_cannot_be_sent_is_named_without_its_query() -> None:
    with pytest.raises(InvalidHeaders, match=r"the path b'/login' and its query must begin") as refused:
        request_head("GET", "http", "a", "/login?token=se cret", ())
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("authority", ["", "a b", "a/b", "user@a", "a?b", "a#b", "a\\b", "é", "a\n"])
def test_a_bad_authority_is_refused_in_either_place(authority: str) -> None:
    with pytest.raises(InvalidHeaders, match="HOST:PORT"):
        request_head("GET", "http", authority, "/", ())
    with pytest.raises(InvalidHeaders):
        request_head("GET", "http", "good", "/", {"host": authority})


@pytest.mark.parametrize("method", ["", "GET ", "GE T", "G:T", b"\xff", None, 5, ["GET"]], ids=repr)
def test_a_bad_method_is_refused(method: Any) -> None:
    with pytest.raises(InvalidHeaders):
        request_head(method, "http", "a", "/", ())


def test_a_second_host_is_refused() -> None:
    with pytest.raises(InvalidHeaders, match="second 'host'"):
        request_head("GET", "http", "a", "/", [("host", "b"), ("Host", "b")])


def test_two_lengths_that_differ_are_refused_and_two_that_agree_are_one() -> None:
    assert declared_length(check_fields([("content-length", "5"), ("content-length", "05")])) == 5
    assert declared_length(check_fields([("a", "b")])) is None
    with pytest.raises(InvalidHeaders, match="keep one"):
        declared_length(check_fields([("content-length", "5"), ("content-length", "6")]))


# --- what goes out ----------------------------------------------------------------------------------------------------


def test_names_go_out_in_lower_case_and_values_without_white_space_around() -> None:
    checked = check_fields([("Content-Type", " text/plain\t"), (b"X-B", b"a b")])
    assert checked == [(b"content-type", b"text/plain"), (b"x-b", b"a b")]


def test_a_mapping_pairs_and_headers_are_all_good_to_give() -> None:
    wanted = [(b"a", b"1"), (b"b", b"\xe9")]
    given_as: list[HeaderInput] = [
        {"a": "1", "b": "é"},
        MappingProxyType({b"a": b"1", b"b": b"\xe9"}),
        [("a", b"1"), (b"B", "é")],
        iter([("a", "1"), ("b", "é")]),
        Headers({"a": "1", "b": "é"}),
    ]
    assert [check_fields(each) for each in given_as] == [wanted] * len(given_as)
    assert check_fields(()) == check_fields({}) == check_fields(Headers()) == []


def test_a_host_header_takes_the_place_of_the_authority() -> None:
    """RFC 9113, 8.3.1."""
    head = request_head("GET", "http", "a:1", "/", [("x", "y"), ("Host", "b:2")])
    assert (b":authority", b"b:2") in head
    assert not [pair for pair in head if pair[0] == b"host"]


def test_connect_has_neither_scheme_nor_path() -> None:
    """RFC 9113, 8.5."""
    assert request_head("CONNECT", "http", "a:443", "/", ()) == [(b":method", b"CONNECT"), (b":authority", b"a:443")]


@given(st.sampled_from(sorted(SECRETS)), st.sampled_from([str.upper, str.title, str.lower]), st.booleans())
def test_secrets_go_out_as_never_indexed(name: bytes, written: Callable[[str], str], as_bytes: bool) -> None:
    """RFC 7541, 7.1.3: and so they do not enter the compression table."""
    given_name = written(name.decode())
    headers = [(given_name.encode(), SECRET.encode())] if as_bytes else [(given_name, SECRET)]
    for pairs in (
        check_fields(headers),
        response_head(200, headers),
        request_head("GET", "http", "a", "/", headers),
    ):
        [secret] = [pair for pair in pairs if pair[0] == name]
        assert isinstance(secret, NeverIndexedHeaderTuple)
        encoder = Encoder()
        block = encoder.encode(pairs)
        assert name not in {bytes(entry[0]) for entry in encoder.header_table.dynamic_entries}
        [decoded] = [pair for pair in Decoder().decode(block, raw=True) if bytes(pair[0]) == name]
        assert isinstance(decoded, NeverIndexedHeaderTuple)


def test_the_secrets_are_those_that_a_default_trace_must_not_hold() -> None:
    assert {b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"} == SECRETS


# --- what users hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_no_secret_is_shown(name: bytes) -> None:
    headers = Headers([(name.decode().title(), SECRET), ("x-open", "shown")])
    for text in (repr(headers), str(headers), f"{headers}"):
        assert SECRET not in text
        assert name.decode() in text
        assert "shown" in text
    assert headers[name.decode()] == SECRET


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_an_error_about_a_secret_does_not_tell_it(name: bytes) -> None:
    values: list[Any] = [SECRET + "☃", SECRET + "\n", [SECRET]]
    for value in values:
        for use in (check_fields, Headers):
            assert SECRET not in (refusal(lambda use=use, value=value: use({name.decode(): value})) or "")  # type: ignore[misc]


def test_a_name_is_found_however_it_is_written() -> None:
    headers = Headers([("Content-Type", "text/plain")])
    for name in ("content-type", "CONTENT-TYPE", b"Content-Type"):
        assert headers.all(name) == [b"text/plain"]
        assert name in headers
    assert headers["content-TYPE"] == "text/plain"
    assert headers.get("content-type") == "text/plain"


def test_several_values_are_joined_and_can_be_had_apart() -> None:
    """RFC 9110, 5.2; cookies as RFC 9113, 8.2.3 says."""
    headers = Headers([("a", "1"), ("b", "x"), ("A", "2"), ("cookie", "c=1"), ("cookie", "d=2")])
    assert headers["a"] == "1, 2"
    assert headers.all("a") == [b"1", b"2"]
    assert headers["Cookie"] == "c=1; d=2"
    assert list(headers) == [(b"a", b"1"), (b"b", b"x"), (b"a", b"2"), (b"cookie", b"c=1"), (b"cookie", b"d=2")]


def test_what_is_absent_is_a_key_error_or_the_default() -> None:
    headers = Headers({"a": "1"})
    with pytest.raises(KeyError, match="b"):
        headers["b"]
    assert headers.get("b") is None
    assert headers.get("b", "-") == "-"
    assert headers.all("b") == []
    assert "b" not in headers
    assert 5 not in headers


def test_every_byte_survives_the_way_through_text() -> None:
    value = bytes(range(256))
    assert Headers({b"a": value})["a"].encode("latin-1") == value
    assert to_bytes(value.decode("latin-1")) == value


def test_headers_compare_by_what_they_hold() -> None:
    assert Headers({"A": "1"}) == Headers([(b"a", b"1")])
    assert Headers({"a": "1"}) != Headers({"a": "2"})
    assert Headers() != []
    assert not Headers()
    assert len(Headers({"a": "1"})) == 1
    with pytest.raises(TypeError):
        hash(Headers())


def test_a_head_that_came_is_split_into_pseudo_headers_and_the_rest() -> None:
    assert split_head([(b":status", b"200"), (b"a", b"1"), (b"b", b"2")]) == (
        {b":status": b"200"},
        Headers([("a", "1"), ("b", "2")]),
    )
    assert split_head([(b":status", b"200")]) == ({b":status": b"200"}, Headers())
    assert split_head([]) == ({}, Headers())
