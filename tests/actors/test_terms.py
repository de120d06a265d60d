"""The terms of a connection: what its peer allows, to the byte."""

import pytest

from actors.errors import InvalidHeaders, Misuse
from actors.settings import Limits
from actors.terms import Terms

FIELDS = [(b":method", b"GET"), (b"x", b"y" * 10)]
SIZE = 32 * 2 + len(b":methodGET") + 11


def test_at_first_the_peer_allows_any_header_list_and_nothing_special() -> None:
    """Q13, S11, S12: until its SETTINGS say more."""
    terms = Terms(Limits())
    terms.check([(b"x", b"y" * 1_000_000)])
    assert terms.push is False
    with pytest.raises(Misuse, match="RFC 8441"):
        terms.check_protocol()
    terms.extended_connect = True
    terms.check_protocol()


def test_a_header_list_of_just_the_size_that_the_peer_takes_passes() -> None:
    """Q13: name, value and 32 bytes for each field (RFC 9113, 6.5.2)."""
    terms = Terms(Limits())
    terms.max_header_list = SIZE
    terms.check(FIELDS)
    terms.max_header_list = SIZE - 1
    with pytest.raises(InvalidHeaders, match=f"{SIZE} bytes and the peer takes {SIZE - 1}"):
        terms.check(FIELDS)


def test_a_peer_that_takes_no_header_at_all_gets_none() -> None:
    """Q13."""
    terms = Terms(Limits())
    terms.max_header_list = 0
    terms.check([])
    with pytest.raises(InvalidHeaders):
        terms.check([(b"", b"")])


def test_a_refusal_never_shows_what_was_refused() -> None:
    """T3: it may be a secret."""
    terms = Terms(Limits())
    terms.max_header_list = 1
    with pytest.raises(InvalidHeaders) as raised:
        terms.check([(b"authorization", b"hunter2")])
    assert "hunter2" not in str(raised.value)


def test_two_connections_have_terms_of_their_own() -> None:
    """Law 2."""
    one, two = Terms(Limits()), Terms(Limits())
    one.memory.take(5)
    assert (one.memory.held, two.memory.held) == (5, 0)
    one.memory.give(5)
