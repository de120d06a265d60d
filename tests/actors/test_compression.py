"""HPACK with a memory says and hears exactly what hpack without one does."""

import hpack
import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from actors.compression import MOST, RememberingDecoder, RememberingEncoder, is_reference

NAMES = st.sampled_from([b":method", b":path", b":status", b"x-a", b"x-b", b"content-length"])
VALUES = st.sampled_from([b"GET", b"/", b"200", b"1", b"2", b"a" * 40, b""])
PAIRS = st.tuples(NAMES, VALUES)
SECRETS = st.builds(NeverIndexedHeaderTuple, st.just(b"cookie"), VALUES)
LISTS = st.lists(st.one_of(PAIRS, PAIRS, PAIRS, SECRETS), max_size=6)
STEPS = st.lists(st.one_of(LISTS, LISTS, LISTS, st.sampled_from([0, 64, 200, 4096])), max_size=40)
AGAIN = [(b":method", b"GET"), (b":path", b"/")]


def raw(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | type[HPACKError]:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except HPACKError as error:
        return type(error)


@given(STEPS)
def test_what_it_says_is_heard_by_plain_hpack_whatever_sizes_its_table_is_given(
    steps: list[list[tuple[bytes, bytes]] | int],
) -> None:
    ours, hears, plain = RememberingEncoder(), RememberingDecoder(), Decoder()
    for step in steps:
        if isinstance(step, int):
            ours.header_table_size = hears.max_allowed_table_size = plain.max_allowed_table_size = step
            continue
        block = ours.encode(list(step))
        assert raw(hears, block) == raw(plain, block) == [tuple(pair) for pair in step]
        assert list(hears.header_table.dynamic_entries) == list(plain.header_table.dynamic_entries)
        assert len(block) < 10 + sum(len(name) + len(value) + 4 for name, value in step)


@given(st.lists(LISTS, max_size=40))
def test_with_one_size_of_its_table_its_blocks_are_those_of_plain_hpack(lists: list[list[tuple[bytes, bytes]]]) -> None:
    ours, plain = RememberingEncoder(), Encoder()
    for each in lists:
        assert ours.encode(list(each)) == bytes(plain.encode(list(each)))


@given(st.lists(st.binary(max_size=8), max_size=30))
def test_what_a_peer_makes_up_is_refused_as_by_plain_hpack(blocks: list[bytes]) -> None:
    ours, plain = RememberingDecoder(), Decoder()
    for block in blocks:
        heard = raw(plain, block)
        assert raw(ours, block) == heard
        if isinstance(heard, type):
            return  # the table is lost, and with it the connection


def test_a_list_that_comes_again_is_not_decoded_again_and_belongs_to_who_got_it() -> None:
    decoder, block = RememberingDecoder(), Encoder().encode(AGAIN)
    assert is_reference(block)
    first = list(decoder.decode(block, raw=True))
    second = decoder.decode(block, raw=True)
    assert isinstance(second, list)
    second.clear()
    assert list(decoder.decode(block, raw=True)) == first


def test_a_lower_limit_holds_for_what_is_remembered() -> None:
    decoder, block = RememberingDecoder(), Encoder().encode(AGAIN)
    decoder.decode(block, raw=True)
    decoder.decode(block, raw=True)
    decoder.max_header_list_size = 10
    with pytest.raises(hpack.OversizedHeaderListError):
        decoder.decode(block, raw=True)


def test_no_peer_makes_it_remember_much() -> None:
    decoder = RememberingDecoder()
    for first in range(0x82, 0x90):
        for second in range(0x82, 0x90):
            decoder.decode(bytes([first, second]), raw=True)
            assert len(decoder._lists) <= MOST


def test_secrets_are_not_remembered() -> None:
    encoder = RememberingEncoder()
    for _ in range(3):
        encoder.encode([(b":method", b"GET"), NeverIndexedHeaderTuple(b"authorization", b"secret")])
    assert not encoder._blocks
