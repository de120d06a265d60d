"""Content codings: incremental, bounded, and broken ones said clearly."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ProtocolViolation
from supervisor.adapters.blocking.decoding import MOST_CODINGS, Decoder, decoder_for
from supervisor.adapters.blocking.errors import UndecodableBody
from tests.supervisor.adapters.served import BOMB

TEXT = b"the quick brown fox jumps over the lazy dog " * 500


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def decoder(*codings: bytes) -> Decoder:
    made = decoder_for(codings)
    assert made is not None
    return made


def decoded(made: Decoder, encoded: bytes, *, size: int = 7, most: int = 100) -> bytes:
    """What comes of it in pieces of ``size``, taken ``most`` bytes at a time."""
    taken = []
    for start in range(0, len(encoded), size):
        made.feed(encoded[start : start + size])
        while data := made.take(most):
            assert len(data) <= most
            taken.append(data)
    made.end()
    return b"".join(taken)


@pytest.mark.parametrize(
    ("codings", "encoded"),
    [
        ([b"gzip"], gzip.compress(TEXT)),
        ([b"X-GZip"], gzip.compress(TEXT)),
        ([b"deflate"], zlib.compress(TEXT)),
        ([b"deflate"], raw_deflate(TEXT)),
        ([b"identity, gzip"], gzip.compress(TEXT)),
        ([b"gzip"], gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ([b"gzip"], gzip.compress(TEXT) + bytes(64)),
        ([b"deflate, gzip"], gzip.compress(zlib.compress(TEXT))),
        ([b"deflate", b"gzip"], gzip.compress(raw_deflate(TEXT))),
    ],
)
@pytest.mark.parametrize(("size", "most"), [(1, 1), (7, 100), (1 << 20, 3), (1 << 20, 1 << 20)])
def test_what_was_encoded_comes_back_however_it_comes_and_is_asked_for(
    codings: list[bytes], encoded: bytes, size: int, most: int
) -> None:
    """C6: gzip, deflate with zlib's wrapping and without, members behind each other, padding, one in the other."""
    assert decoded(decoder(*codings), encoded, size=size, most=most) == TEXT


@given(data=st.binary(max_size=3000), size=st.integers(1, 400), most=st.integers(1, 5000))
def test_any_body_comes_back(data: bytes, size: int, most: int) -> None:
    for coding, encoded in ((b"gzip", gzip.compress(data)), (b"deflate", zlib.compress(data))):
        assert decoded(decoder(coding), encoded, size=size, most=most) == data
    assert decoded(decoder(b"deflate"), raw_deflate(data), size=size, most=most) == data


@pytest.mark.parametrize("codings", [[], [b""], [b"identity"], [b"br"], [b"gzip, br"], [b"no such thing"]])
def test_a_body_without_a_known_coding_stays_as_it_is(codings: list[bytes]) -> None:
    assert decoder_for(codings) is None


def test_more_codings_than_anyone_uses_are_refused() -> None:
    with pytest.raises(UndecodableBody, match="encoded 4 times over"):
        decoder_for([b"gzip"] * (MOST_CODINGS + 1))


def test_an_empty_body_is_no_broken_one() -> None:
    """The answer to HEAD, and 204 and 304, have content-encoding and no body."""
    made = decoder(b"gzip")
    assert made.take(10) == b""
    made.end()


@pytest.mark.parametrize(
    ("coding", "encoded", "why"),
    [
        (b"gzip", b"plain text", "the body is not gzip, as its headers say"),
        (b"deflate", b"plain text", "the body is not deflate, as its headers say"),
        (b"gzip", gzip.compress(TEXT)[:-20], "the body ended in the middle of its gzip"),
        (b"gzip", gzip.compress(TEXT)[:5], "the body ended in the middle of its gzip"),
        (b"deflate", zlib.compress(TEXT)[:40], "the body ended in the middle of its deflate"),
        (b"deflate", raw_deflate(TEXT)[:40], "the body ended in the middle of its deflate"),
        (b"gzip", gzip.compress(TEXT)[:-8] + bytes(8), "the body is not gzip"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_broken_body_is_a_clear_error(coding: bytes, encoded: bytes, why: str, size: int) -> None:
    with pytest.raises(UndecodableBody, match=why) as caught:
        decoded(decoder(coding), encoded, size=size)
    assert isinstance(caught.value, (ProtocolViolation, zlib.error))


def test_a_bomb_is_decoded_no_further_than_is_asked_for() -> None:
    """A quarter of a mebibyte that means 256 of them, and one inside another."""
    for made, encoded in ((decoder(b"gzip"), BOMB), (decoder(b"gzip, gzip"), gzip.compress(BOMB))):
        tracemalloc.start()
        try:
            made.feed(encoded)
            assert made.take(1000) == bytes(1000)
            assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
        finally:
            tracemalloc.stop()
