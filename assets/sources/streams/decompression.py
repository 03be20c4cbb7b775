"""Compressed streams, member after member, with the failures that the standard readers hide.

`gzip`, `bz2` and `zstandard` readers either accept a file that ends in the middle of a member or cannot say
how much they are about to unpack. Here every member must end, and a bomb stops the reading.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

from assets.errors import HeadwaterError
from assets.machine_faults import raise_machine_fault

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
"""How files begin, and the compression that writes them."""

SUFFIXES = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst"}
READ_BYTES = 1 << 16
MAX_RATIO = 500  # unpacked / packed; logs and dumps stay under 100, a bomb of zeros makes 1,000 (gzip) to 10^6 (bz2)
BOMB_BYTES = 64 << 20  # unpacked; the ratio says nothing before
XZ_MEMORY_BYTES = 256 << 20  # of one decoder; `xz -9` needs 65 MiB


class InputError(HeadwaterError):
    """An input file cannot be read on. `reason` is the drop reason it is recorded with; it begins with `input_`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Gzip:
    """zlib's decoder with the interface of the others."""

    def __init__(self) -> None:
        import zlib

        self._decoder = zlib.decompressobj(31)
        self._waiting = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._decoder.decompress(self._waiting + data, max_length)
        self._waiting = self._decoder.unconsumed_tail
        return out

    @property
    def needs_input(self) -> bool:
        return not self._waiting and not self.eof

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


def _decoder(kind: str) -> Callable[[], Any]:
    if kind == "gz":
        return _Gzip
    if kind == "bz2":
        import bz2

        return bz2.BZ2Decompressor
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
    from backports.zstd import ZstdDecompressor

    return ZstdDecompressor


def _errors() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    from backports.zstd import ZstdError

    return (zlib.error, lzma.LZMAError, ZstdError, OSError, EOFError, ValueError)


def compression_of(head: bytes) -> str | None:
    """gz, bz2, xz, zst, or None, by the first bytes: names lie."""
    return next((kind for magic, kind in MAGIC if head.startswith(magic)), None)


class Unpacked(io.RawIOBase):
    """What a compressed stream holds. Raises InputError: input_truncated, input_damaged or input_bomb."""

    def __init__(self, packed: BinaryIO, kind: str) -> None:
        self._packed = packed
        self._kind = kind
        self._new = _decoder(kind)
        self._errors = _errors()
        self._decoder: Any = self._new()
        self._started = False  # the present member has had input
        self._input = b""
        self.packed_bytes = 0
        self.unpacked_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next; 0 after the last member has ended."""
        wanted = len(buffer)
        while True:
            if self._decoder.eof and not self._next_member():
                return 0
            if not self._input and self._decoder.needs_input:
                self._input = self._packed.read(READ_BYTES)
                self.packed_bytes += len(self._input)
                if not self._input:
                    if not self._started:
                        return 0
                    raise InputError(
                        "input_truncated",
                        f"the {self._kind} stream ends in the middle, after {self.unpacked_bytes} bytes",
                    )
            data, self._input = self._input, b""
            self._started = True
            try:
                out = self._decoder.decompress(data, wanted)
            except self._errors as error:
                raise_machine_fault(error)
                raise InputError(
                    "input_damaged", f"{self._kind} data after {self.unpacked_bytes} unpacked bytes: {error}"
                ) from None
            if out:
                self._count(len(out))
                buffer[: len(out)] = out
                return len(out)

    def _next_member(self) -> bool:
        """Start the member after this one, if there is one; zeros that fill up a block are none."""
        self._input = self._decoder.unused_data
        while True:
            rest = self._input.lstrip(b"\0")
            if len(rest) >= len(MAGIC[2][0]):
                break
            more = self._packed.read(READ_BYTES)
            self.packed_bytes += len(more)
            if not more:
                break
            self._input = rest + more
        self._input = rest
        if not rest:
            return False
        if compression_of(rest) != self._kind:
            raise InputError(
                "input_damaged", f"after {self.unpacked_bytes} unpacked bytes: what follows is no {self._kind} member"
            )
        self._decoder, self._started = self._new(), False
        return True

    def _count(self, unpacked: int) -> None:
        self.unpacked_bytes += unpacked
        if self.unpacked_bytes > BOMB_BYTES and self.unpacked_bytes > MAX_RATIO * self.packed_bytes:
            raise InputError(
                "input_bomb",
                f"{self.packed_bytes} bytes have unpacked to {self.unpacked_bytes}: more than {MAX_RATIO} times is no text",
            )


def unpacked(stream: BinaryIO) -> BinaryIO:
    """The stream without its compression, whatever its name says; a stream that has none comes back as it is."""
    reader = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, READ_BYTES)  # type: ignore[type-var]
    kind = compression_of(reader.peek(8)[:8])
    if kind is None:
        return reader
    return io.BufferedReader(Unpacked(reader, kind), 1 << 20)


def plain_name(name: str) -> str:
    """`a.jsonl.zst` -> `a.jsonl`."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
