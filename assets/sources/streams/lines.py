"""Lines of a byte stream with bounded memory, in the encoding that the file really has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from assets.documents.formats.charset import GUESS_BYTES, guess_encoding
from assets.sources.streams.decompression import InputError

_DRAIN_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """One line, its number from 1, and its bytes; None when it was longer than allowed."""

    number: int
    content: bytes | None
    length: int


def read_lines(stream: BinaryIO, max_bytes: int) -> Iterator[Line]:
    """Lines without their ends; a longer one is skipped without being held."""
    number = 0
    while True:
        content = stream.readline(max_bytes + 2)  # room for CR LF
        if not content:
            return
        number += 1
        length = len(content)
        if not content.endswith(b"\n") and length == max_bytes + 2:
            while True:
                more = stream.readline(_DRAIN_BYTES)
                length += len(more)
                if not more or more.endswith(b"\n"):
                    break
            yield Line(number, None, length)
            continue
        content = content.rstrip(b"\r\n")
        if len(content) > max_bytes:
            yield Line(number, None, length)
            continue
        yield Line(number, content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content, len(content))


def encoding_of(stream: BinaryIO, declared: str) -> str:
    """The encoding of a text stream: as declared, else UTF-8 if its head agrees, else a guess. Reads ahead, consumes nothing.

    Raises InputError for an encoding whose line ends are not single bytes (UTF-16): such files must be converted.
    """
    head = _peek(stream)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            "input_undecodable", "UTF-16 has no single-byte line ends: convert the file to UTF-8, or read it whole"
        )
    if declared:
        return declared
    cut = head[: head.rfind(b"\n") + 1] or head
    try:
        cut.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        return guess_encoding(cut) or "utf-8"


def _peek(stream: BinaryIO) -> bytes:
    peek = getattr(stream, "peek", None)
    return peek(GUESS_BYTES)[:GUESS_BYTES] if peek else b""
