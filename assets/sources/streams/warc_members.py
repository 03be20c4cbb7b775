"""Records of WARC files as others write them, also where they are broken.

A .warc.gz has one gzip member per record, so a damaged member costs itself only: reading goes on at the next
one. Plain files, and those that were compressed as a whole, are cut by their Content-Lengths. fastwarc parses
each record; cutting is not left to it, because it stops at a damaged member, gives a record that the file's end
cuts short as if it were whole, and panics on streams that cannot seek (2.0.1).
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any, BinaryIO

from assets.sources.streams.decompression import BOMB_BYTES, MAX_RATIO, InputError, Unpacked, compression_of, unpacked

GZIP = b"\x1f\x8b\x08"
HEADER_BYTES = 1 << 16  # room for the WARC and HTTP headers of a record beside its payload
_READ_BYTES = 1 << 16
_CHUNK_LINE_BYTES = 4096
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r?")  # what follows `;` is an extension
_RESCAN_BYTES = 64 << 20  # of a damaged member, kept to look for the next one inside


@dataclass(frozen=True)
class Member:
    """One unpacked record and where it began; or why it could not be unpacked."""

    offset: int
    content: bytes
    length: int  # unpacked; more than len(content) when only the head was kept
    problem: str = ""
    reason: str = "damaged_record"


def gzip_members(stream: BinaryIO, max_bytes: int) -> Iterator[Member]:
    """Members of a .warc.gz in order. A damaged one is reported and the next one is looked for; memory is bounded."""
    data, offset, ended = b"", 0, False
    while True:
        while len(data) < len(GZIP) and not ended:
            more = stream.read(_READ_BYTES)
            ended = not more
            data += more
        if not data.strip(b"\0"):
            if ended:
                return
            offset, data = offset + len(data), b""
            continue
        if data.startswith(GZIP):
            member, raw, rest, ended = _member(stream, data, offset, max_bytes, ended)
            yield member
            if not member.problem:
                offset, data = offset + len(raw) - len(rest), rest
                continue
            if member.reason == "input_truncated" and GZIP not in raw[1:]:
                return
            data = raw
        else:
            yield Member(offset, b"", 0, "no gzip member begins here")
        data, skipped, ended = _next_magic(stream, data, ended)
        offset += skipped


def _member(
    stream: BinaryIO, data: bytes, offset: int, max_bytes: int, ended: bool
) -> tuple[Member, bytes, bytes, bool]:
    """(member, raw bytes read for it, raw bytes behind it, whether the stream has ended)."""
    decoder = zlib.decompressobj(31)
    raw, packed = bytearray(data), len(data)
    parts: list[bytes] = []
    kept = length = 0
    chunk = data
    try:
        while True:
            while chunk and not decoder.eof:
                out = decoder.decompress(chunk, 1 << 20)
                chunk = decoder.unconsumed_tail
                length += len(out)
                if kept < max_bytes:
                    parts.append(out[: max_bytes - kept])
                    kept += len(parts[-1])
                if length > BOMB_BYTES and length > MAX_RATIO * packed:
                    problem = f"{packed} bytes unpack to more than {length}"
                    return Member(offset, b"", 0, problem, "archive_bomb"), bytes(raw), b"", ended
            if decoder.eof:
                content = b"".join(parts)
                return Member(offset, content, length), bytes(raw), decoder.unused_data, ended
            chunk = stream.read(_READ_BYTES)
            if not chunk:
                problem = "the file ends inside a record"
                return Member(offset, b"", 0, problem, "input_truncated"), bytes(raw), b"", True
            packed += len(chunk)
            if len(raw) < _RESCAN_BYTES or decoder.eof:
                raw += chunk
            else:
                raw[:] = raw[len(chunk) :] + chunk
    except zlib.error as error:
        return Member(offset, b"", 0, str(error)), bytes(raw), b"", ended


def _next_magic(stream: BinaryIO, data: bytes, ended: bool) -> tuple[bytes, int, bool]:
    """(bytes from the next gzip magic after the first byte on, bytes skipped, whether the stream has ended)."""
    skipped = 0
    start = 1
    while True:
        found = data.find(GZIP, start)
        if found >= 0:
            return data[found:], skipped + found, ended
        keep = min(len(data), len(GZIP) - 1)
        skipped += len(data) - keep
        data = data[len(data) - keep :]
        start = 0
        more = b"" if ended else stream.read(_READ_BYTES)
        if not more:
            return b"", skipped + keep, True
        data += more


def is_member_per_record(stream: BinaryIO) -> bool:
    """Whether a gzip file begins as WARC files should: its first member holds one record and nothing more."""
    head = next(gzip_members(stream, 1 << 20), None)
    if head is None or head.problem:
        return True  # broken at the start: member by member finds what is left
    end = block_end(head.content)
    return end is None or b"WARC/" not in head.content[end : end + 16]


def block_span(content: bytes) -> tuple[int, int] | None:
    """(start, end) of a record's block by its Content-Length; None without a readable header."""
    head, gap, _ = content.partition(b"\r\n\r\n")
    if not gap or not head.startswith(b"WARC/"):
        return None
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-length" and value.strip().isdigit():
            start = len(head) + 4
            return start, start + int(value)
    return None


def block_end(content: bytes) -> int | None:
    """Where a record's block ends."""
    span = block_span(content)
    return span[1] if span else None


def digest_matches(block: bytes, declared: str) -> bool | None:
    """Whether a block has the digest that WARC-Block-Digest declares (`sha1:BASE32`); None when it cannot be told."""
    algorithm, _, value = declared.partition(":")
    try:
        digest = hashlib.new(algorithm.strip().lower().replace("-", ""), block).digest()
    except (ValueError, TypeError):  # TypeError: SHAKE, whose length the header does not say
        return None
    value = value.strip()
    return value.lower() == digest.hex() or value.rstrip("=").upper() == base64.b32encode(digest).decode().rstrip("=")


def plain_members(stream: BinaryIO, max_bytes: int) -> Iterator[Member]:
    """Records of an unpacked stream, cut by their Content-Lengths; after a broken one the next `WARC/` line is looked for."""
    offset = 0
    lost = False
    while line := stream.readline(HEADER_BYTES):
        start, offset = offset, offset + len(line)
        if not line.strip():
            continue
        if not line.startswith(b"WARC/"):
            if not lost:
                yield Member(start, b"", 0, f"expected a WARC header, found {line[:60]!r}")
            lost = True
            continue
        lost = False
        header = [line]
        while (line := stream.readline(HEADER_BYTES)) and line.strip():
            header.append(line)
            if sum(map(len, header)) > HEADER_BYTES:
                break
        head = b"".join(header).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"
        offset += sum(map(len, header[1:])) + len(line)
        span = block_span(head)
        if span is None:
            yield Member(start, b"", 0, "a header without a readable Content-Length")
            lost = True
            continue
        length = span[1] - span[0]
        block = stream.read(min(length, max_bytes))
        rest = length - len(block)
        while rest and len(block) == min(length, max_bytes) and (more := stream.read(min(rest, _READ_BYTES))):
            rest -= len(more)
        offset += length - rest
        if rest:
            problem = f"the file ends inside a record: {length - rest} of {length} bytes"
            yield Member(start, head, 0, problem, "input_truncated")
            return
        yield Member(start, head + block, len(head) + length)


class UnreadableRecord(Exception):
    """fastwarc gave up on a record whose bytes are all there; the message is its own."""


@contextmanager
def reading_record() -> Iterator[None]:
    """What fastwarc raises over a record in memory is the record's fault, whatever its type: UnreadableRecord."""
    try:
        yield
    except (OSError, ValueError, OverflowError) as error:
        raise UnreadableRecord(str(error)) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust gives up on; derived from BaseException
            raise
        raise UnreadableRecord(str(error)) from None


def parse_record(content: bytes) -> Any:
    """fastwarc's record of one unpacked member, its HTTP head parsed, its body as it was sent; None when it is none."""
    from fastwarc.warc import ArchiveIterator

    try:
        with reading_record():
            records = ArchiveIterator(BytesIO(content), parse_http=True, auto_decode="none", quirks_mode=True)
            return next(iter(records), None)
    except UnreadableRecord:
        return None


def http_body(found: Any, max_bytes: int) -> bytes:
    """The body of a response without its Transfer-Encoding, which some recorders remove without saying so: a body that
    does not begin as chunks do is taken as it is. Raises InputError where chunks break off."""
    with reading_record():
        body = found.reader.read()
        pairs = found.http_headers.to_tuples()
    codings = [part.strip() for key, value in pairs if key.lower() == "transfer-encoding" for part in value.split(",")]
    if any(coding.lower() == "chunked" for coding in codings):
        body = joined_chunks(body)
    return decoded_payload(body, ",".join(coding for coding in codings if coding.lower() != "chunked"), max_bytes)


def joined_chunks(body: bytes) -> bytes:
    """The data of an HTTP chunked body; the body itself when no chunk size stands at its start. Raises InputError."""
    parts: list[bytes] = []
    position = 0
    while position < len(body):
        line, newline, _ = body[position : position + _CHUNK_LINE_BYTES].partition(b"\n")
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None or not (newline or parts):
            if not parts:
                return body
            raise InputError("input_damaged", f"no chunk size at byte {position}: {line[:40]!r}")
        length = int(size[1], 16)
        if not length:
            break
        start = position + len(line) + 1
        end = start + length
        if end > len(body):
            raise InputError("input_truncated", f"{len(body) - start} of {length} bytes of a chunk")
        parts.append(body[start:end])
        position = end + (2 if body.startswith(b"\r\n", end) else 1 if body.startswith(b"\n", end) else 0)
    return b"".join(parts)


def decoded_payload(payload: bytes, encoding: str, max_bytes: int) -> bytes:
    """A payload without its Content-Encoding, at most `max_bytes` + 1 of it; servers that lie about it are believed less
    than the bytes. Raises InputError."""
    for name in reversed([part.strip().lower() for part in encoding.split(",") if part.strip()]):
        kind = {"gzip": "gz", "x-gzip": "gz", "zstd": "zst"}.get(name)
        if kind and compression_of(payload) == kind:
            payload = BufferedReader(Unpacked(BytesIO(payload), kind)).read(max_bytes + 1)
        elif name == "deflate":
            payload = _inflated(payload, max_bytes)
        elif name == "br":
            import brotli

            try:
                payload = brotli.Decompressor().process(payload, output_buffer_limit=max_bytes + 1)
            except brotli.error as error:
                raise InputError("input_damaged", f"brotli: {error}") from None
    return payload


def _inflated(payload: bytes, max_bytes: int) -> bytes:
    for window in (15, -15):  # with and without the zlib header: servers send both
        try:
            return zlib.decompressobj(window).decompress(payload, max_bytes + 1)
        except zlib.error:
            continue
    return payload


def open_members(open_file: Callable[[], BinaryIO], max_bytes: int) -> Iterator[Member]:
    """Records of a WARC file, whichever way it is compressed. Raises InputError where it cannot be read on."""
    limit = max_bytes + HEADER_BYTES
    with open_file() as stream:
        gzipped = stream.read(len(GZIP)) == GZIP
    if gzipped:
        with open_file() as stream:
            gzipped = is_member_per_record(stream)
    with open_file() as stream:
        yield from gzip_members(stream, limit) if gzipped else plain_members(unpacked(stream), limit)
