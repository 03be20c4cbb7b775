"""HTTP content codings, undone strictly and inside a limit: a bomb or a cut-off body is an error, never a page.

Scrapy's own middleware was rejected: from a truncated gzip body it returns what it could read, as if that were the page.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli
from backports import zstd

ACCEPT_ENCODING = "gzip, deflate, br, zstd"
MAX_LAYERS = 2  # a server and a proxy may each compress; more is a bomb in a bomb
_MAX_MEMBERS = 64  # gzip members in one body; each costs a copy of the rest, so a million empty ones would cost hours
_CHUNK_BYTES = 1 << 16
_ZSTD_WINDOW_LOG = 23  # 8 MiB, the largest window that RFC 9659 lets an HTTP sender use: bounds a decoder's memory


class BodyTooLargeError(Exception):
    """The decoded body would be larger than the limit."""


class BodyUndecodableError(Exception):
    """The body is not what its Content-Encoding says, or ends too early."""


class UnsupportedCodingError(Exception):
    """A coding that we did not offer, or more layers than a page needs."""


def decode_body(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """The body without its codings, at most `max_bytes` long after each layer.

    Raises BodyTooLargeError, BodyUndecodableError or UnsupportedCodingError.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_LAYERS:
        raise UnsupportedCodingError(f"{len(names)} codings on one body: {content_encoding[:100]}")
    for name in reversed(names):
        decoder = _DECODERS.get(name)
        if decoder is None:
            raise UnsupportedCodingError(f"Content-Encoding {name[:40]!r}")
        try:
            body = decoder(body, max_bytes)
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError) as error:
            raise BodyUndecodableError(f"not {name}: {error}"[:200]) from None
    return body


def gunzip(body: bytes, max_bytes: int) -> bytes:
    """All members of a gzip stream. What follows the last one is ignored, as browsers do: servers pad with zeros."""
    whole = b""
    for _ in range(_MAX_MEMBERS):
        decoder = zlib.decompressobj(wbits=31)
        whole += _limited(decoder.decompress(body, max_bytes - len(whole) + 1), max_bytes - len(whole))
        if not decoder.eof:
            raise EOFError("the stream ends before its end mark")
        body = decoder.unused_data
        if not body.startswith(b"\x1f\x8b"):
            return whole
    raise UnsupportedCodingError(f"more than {_MAX_MEMBERS} gzip members")


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """`deflate` is zlib by the standard and a bare stream by custom."""
    wrapped = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    decoder = zlib.decompressobj(wbits=15 if wrapped else -15)
    decoded = _limited(decoder.decompress(body, max_bytes + 1), max_bytes)
    if not decoder.eof:
        raise EOFError("the stream ends before its end mark")
    return decoded


def _unbrotli(body: bytes, max_bytes: int) -> bytes:
    decoder = brotli.Decompressor()
    pieces, size, feed = [], 0, body
    while not decoder.is_finished():
        piece = decoder.process(feed, output_buffer_limit=_CHUNK_BYTES)
        feed = b""
        if not piece and decoder.can_accept_more_data():
            raise EOFError("the stream ends before its end mark")
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLargeError(f"more than {max_bytes} bytes when decoded")
        pieces.append(piece)
    return b"".join(pieces)


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    decoded = _limited(decoder.decompress(body, max_bytes + 1), max_bytes)
    if not decoder.eof:
        raise EOFError("the stream ends before its end mark")
    return decoded


def _limited(decoded: bytes, max_bytes: int) -> bytes:
    if len(decoded) > max_bytes:
        raise BodyTooLargeError(f"more than {max_bytes} bytes when decoded")
    return decoded


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": gunzip,
    "x-gzip": gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
