"""Looks for values that must not be written, in every file below a folder, through what hides them: compression."""

from __future__ import annotations

import gzip
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pygit2
from warcio.archiveiterator import ArchiveIterator


def forms_of(values: Iterable[str]) -> list[bytes]:
    """The ways in which a value would be written into a URL."""
    return sorted({form.encode() for value in values for form in (value, quote(value, safe=""), quote(value))})


def found_below(folder: Path, values: Iterable[str]) -> list[str]:
    """`file: value` of each value that stands somewhere."""
    forms = forms_of(values)
    return [f"{where}: {form!r}" for where, content in contents_of(folder) for form in forms if form in content]


def contents_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(place, bytes) of every file, of what is packed in it, of every Git object and of every cell of a database."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content, where = path.read_bytes(), path.relative_to(folder).as_posix()
        yield where, where.encode()
        yield where, content
        if content.startswith(b"PAR1"):
            yield where, repr(pq.ParquetFile(path).read().to_pylist()).encode()
            yield where, repr(pq.read_metadata(path).metadata).encode()
        elif content.startswith(b"\x1f\x8b"):
            yield where, gzip.decompress(content)
            with path.open("rb") as stream:
                yield from ((where, _payload(record)) for record in ArchiveIterator(stream))
        elif content.startswith(b"SQLite format 3"):
            yield from ((where, cell) for cell in _cells(path))
    for store in [path.parent for path in folder.rglob("HEAD") if (path.parent / "objects").is_dir()]:
        repository = pygit2.Repository(str(store))
        yield from ((f"{store.name}:{oid}", repository[oid].read_raw()) for oid in repository)


def _payload(record: object) -> bytes:
    content = record.raw_stream.read()  # type: ignore[attr-defined]
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else bytes(content)


def _cells(path: Path) -> Iterator[bytes]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for cell in (str(cell).encode() if not isinstance(cell, bytes) else cell for cell in row):
                    yield cell
                    try:
                        yield zlib.decompress(cell)
                    except zlib.error:
                        continue
