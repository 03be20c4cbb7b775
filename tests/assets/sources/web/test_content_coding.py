"""Codings: round trip, every cut is noticed, bombs stop at the limit, also inside each other."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from backports import zstd

from assets.sources.web.content_coding import (
    BodyTooLargeError,
    BodyUndecodableError,
    UnsupportedCodingError,
    decode_body,
)

PAGE = ("<p>源流 Headwater</p>" * 200).encode()
LIMIT = 1_000_000


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACK: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", _raw_deflate),
    ("br", brotli.compress),
    ("zstd", zstd.compress),
]


@pytest.mark.parametrize(("name", "pack"), PACK)
def test_round_trip_and_every_truncation_is_an_error(name: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(PAGE)
    assert decode_body(packed, name, LIMIT) == PAGE
    assert decode_body(packed, f" {name.upper()} , identity", LIMIT) == PAGE
    for end in (0, 1, 3, 11, len(packed) // 2, len(packed) - 1):
        with pytest.raises(BodyUndecodableError):
            decode_body(packed[:end], name, LIMIT)


@pytest.mark.parametrize(("name", "pack"), PACK)
def test_a_bomb_stops_at_the_limit_in_bounded_memory(name: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        decode_body(bomb, name, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * LIMIT


def test_nested_codings() -> None:
    assert decode_body(brotli.compress(gzip.compress(PAGE)), "gzip, br", LIMIT) == PAGE
    inner = gzip.compress(bytes(100_000_000))
    with pytest.raises(BodyTooLargeError):
        decode_body(gzip.compress(inner), "gzip, gzip", LIMIT)
    with pytest.raises(UnsupportedCodingError, match="3 codings"):
        decode_body(inner, "gzip, gzip, gzip", LIMIT)


def test_what_is_not_a_coding() -> None:
    with pytest.raises(UnsupportedCodingError, match="compress"):
        decode_body(PAGE, "compress", LIMIT)
    for name in ("gzip", "br", "zstd", "deflate"):
        with pytest.raises(BodyUndecodableError):
            decode_body(PAGE, name, LIMIT)


def test_gzip_members_follow_each_other_and_padding_is_ignored() -> None:
    both = gzip.compress(PAGE) + gzip.compress(PAGE)
    assert decode_body(both + b"\0\0\0", "gzip", LIMIT) == PAGE + PAGE
    with pytest.raises(BodyTooLargeError):
        decode_body(both, "gzip", len(PAGE) + 10)
    with pytest.raises(UnsupportedCodingError, match="members"):
        decode_body(gzip.compress(b"") * 100_000, "gzip", LIMIT)
