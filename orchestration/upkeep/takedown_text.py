"""Text in files of any kind, made comparable: what a takedown searches with, and in.

Only letters and digits count, without case, tags and escapes: the same sentence is found in HTML, in JSON within a
database, and in a table.
"""

from __future__ import annotations

import html
import io
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from assets.sources.streams.decompression import InputError, unpacked

SENTENCE_CHARACTERS = 48
"""Normal characters that are compared of each sentence: samples show the first 160 of a text."""
LEAST_CHARACTERS, LEAST_IDEOGRAMS = 16, 8
"""Shorter sentences are in too many texts."""
CHUNK_CHARACTERS, OVERLAP_CHARACTERS = 4 << 20, 4096
UNREADABLE = (".safetensors", ".distcp", ".pt", ".pth", ".npy", ".npz", ".png")
"""Numbers: a model may know a text by heart, and no search finds it there."""

_ESCAPED_CHARACTER = re.compile(r"\\+u([0-9a-fA-F]{4})")
_ESCAPE = re.compile(r"\\+[nrtbf\"'/]?")
_TAG = re.compile(r"<[^<>]{1,2000}>")
_NO_LETTER = re.compile(r"[\W_]+")
_RECORD = re.compile(r"^WARC/1\.\d\r?\n", re.MULTILINE)
_HEAD = re.compile(r"\A(?:HTTP/[^\r\n]*\r?\n)?(?:[\w-]+:[^\r\n]*\r?\n)+\r?\n")
_SENTENCE_END = re.compile(r"[\n\r]+|(?<=[.!?。！？])\s*")


class UnreadableError(Exception):
    """A file whose text cannot be told."""


def normal(text: str) -> str:
    """Only what tells one text from another, however it is written down."""
    if "\\" in text:
        text = _ESCAPE.sub(" ", _ESCAPED_CHARACTER.sub(lambda found: chr(int(found[1], 16)), text))
    if "<" in text:
        text = _TAG.sub("", text)
    if "&" in text:
        text = html.unescape(text)
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", text).casefold())


def sentences(text: str, count: int = 2) -> list[str]:
    """How the text begins, and its longest sentences, made normal; empty where it has none of its own."""
    whole = normal(text)
    parts = sorted((normal(part) for part in _SENTENCE_END.split(text)), key=len, reverse=True)
    found = [part[:SENTENCE_CHARACTERS] for part in [whole, *parts[:count]]]
    return [each for each in dict.fromkeys(found) if len(each) >= _least(each)]


def _least(sentence: str) -> int:
    return LEAST_CHARACTERS if sentence.isascii() else LEAST_IDEOGRAMS


def texts(path: Path, name: str) -> Iterator[str]:
    """The text of a file, in pieces that overlap. Raises UnreadableError, or OSError.

    `name` is what it is called, for `path` may be an object of the store.
    """
    if name.endswith(UNREADABLE):
        raise UnreadableError(f"{name} holds numbers, not text")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PAR1"):
        yield from _of_table(path, name)
        return
    if head.startswith(b"SQLite format 3\0"):
        yield from _of_database(path)
    with path.open("rb") as file:  # of a database, too: what was deleted lies in its free pages
        try:
            yield from _pieces(io.BufferedReader(unpacked(file)))  # type: ignore[arg-type]
        except InputError as error:
            raise UnreadableError(f"{name}: {error}") from error


def documents(path: Path, name: str) -> Iterator[str]:
    """The text of each document: of each row of a table, record of a WARC file, line of JSON; else of each piece."""
    with path.open("rb") as file:
        table = file.read(4) == b"PAR1"
    if not table:
        for piece in texts(path, name):
            yield from _parts(piece)
        return
    opened = pq.ParquetFile(path)
    columns = ["text"] if "text" in opened.schema_arrow.names else None
    for batch in opened.iter_batches(256, columns=columns):
        for row in batch.to_pylist():
            yield "\n".join(_strings(row))


def _parts(piece: str) -> Iterator[str]:
    if _RECORD.match(piece):
        for record in _RECORD.split(piece):
            yield _TAG.sub("\n", _HEAD.sub("", record, count=2))
    elif piece.startswith("{"):
        yield from piece.splitlines()
    else:
        yield _TAG.sub("\n", piece)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _of_table(path: Path, name: str) -> Iterator[str]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(1024):
            for column in batch.columns:
                yield from _of_array(column)
    except pa.ArrowException as error:
        raise UnreadableError(f"{name}: {error}") from error


def _of_array(array: pa.Array) -> Iterator[str]:
    """Strings and bytes at any depth, joined: what lies between them does not count."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from _of_array(array.dictionary)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        yield "\n".join(value for value in array.to_pylist() if value)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        yield from _decoded(b"\n".join(value for value in array.to_pylist() if value))
    elif pa.types.is_struct(kind):
        for field in array.flatten():
            yield from _of_array(field)
    elif pa.types.is_map(kind):
        yield from _of_array(array.keys)
        yield from _of_array(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _of_array(array.flatten())


def _of_database(path: Path) -> Iterator[str]:
    """Row by row: in the file itself a long value is cut into pages."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in connection.execute(f'SELECT * FROM "{table.replace(chr(34), chr(34) * 2)}"'):
                    yield "\n".join(value for value in row if isinstance(value, str))
                    yield from (piece for value in row if isinstance(value, bytes) for piece in _decoded(value))
    except sqlite3.Error as error:
        raise UnreadableError(f"{path.name}: {error}") from error


def _pieces(file: io.BufferedReader) -> Iterator[str]:
    tail = b""
    while piece := file.read(CHUNK_CHARACTERS):
        yield from _decoded(tail + piece)
        tail = piece[-OVERLAP_CHARACTERS:]


def _decoded(data: bytes) -> Iterator[str]:
    """As UTF-8, and where that fails also as what pages are written in otherwise."""
    try:
        yield data.decode("utf-8")
    except UnicodeDecodeError:
        for encoding in ("utf-8", "gb18030", "big5", "shift_jis", "cp1252"):
            yield data.decode(encoding, "ignore")
