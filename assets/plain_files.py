"""JSONL in and out, for stages that run alone on files of one's own (`headwater stage`).

A row is named by file and line in every error; ids are unique over all files of one input.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import orjson
import pyarrow as pa

from assets.build import BuildError
from assets.json_text import exact_json
from assets.machine_faults import raise_machine_fault

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Line:
    """One JSON object and where it stands."""

    path: Path
    number: int
    row: dict[str, Any]

    @property
    def place(self) -> str:
        """`file line n`, for messages."""
        return f"{self.path} line {self.number}"

    def text(self, key: str, default: str | None = None) -> str:
        """A string of the row. Raises BuildError when it is missing (without a default) or no string."""
        value = self.row.get(key, default)
        if isinstance(value, str):
            return value
        found = "is missing" if key not in self.row else f"is {str(value)[:_SHOWN_CHARACTERS]!r}"
        raise BuildError(f"{self.place}: {key!r} must be a string, it {found}; the line has {sorted(self.row)[:10]}")


class Ids:
    """Refuses an id that was seen before: outputs are keyed by it."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def new(self, value: Any, place: str) -> str:
        """The id as text. Raises BuildError for a repeated one, and for what is neither text nor a whole number."""
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise BuildError(f"{place}: 'id' must be a text or a whole number, it is {value!r:.60}")
        doc_id = str(value)
        if doc_id in self._seen:
            raise BuildError(f"{place}: id {doc_id!r} was used before, at {self._seen[doc_id]}; ids must be unique")
        self._seen[doc_id] = place
        return doc_id


def shown_name(name: str) -> str:
    """A file's name as an id: one that is not UTF-8, which no table can hold, is percent-encoded."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return quote(os.fsencode(name))
    return name


def input_files(source: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file, or the files of a folder (with subfolders) that end in one of `suffixes`, by path.

    Raises BuildError when there is none.
    """
    if source.is_file():
        if source.name.lower().endswith(tuple(suffixes)):
            return [source]
        raise BuildError(f"{source}: cannot read this kind of file; it must end in {', '.join(suffixes)}")
    if not source.is_dir():
        raise BuildError(f"{source}: no such file or folder")
    found = sorted(p for p in source.rglob("*") if p.is_file() and p.name.lower().endswith(tuple(suffixes)))
    if not found:
        raise BuildError(f"{source}: no file in this folder ends in {', '.join(suffixes)}")
    return found


def read_lines(path: Path) -> Iterator[Line]:
    """Every object of a JSONL file, plain or compressed (by suffix); blank lines are skipped.

    Raises BuildError that names the line which is not a JSON object, or the file that cannot be read.
    """
    number = 0
    try:
        with io.BufferedReader(pa.input_stream(str(path))) as stream:  # type: ignore[arg-type]  # it has readinto
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                row = exact_json(line)
                if not isinstance(row, dict):
                    raise BuildError(f"{path} line {number}: must be a JSON object, it is {line[:60]!r}")
                yield Line(path, number, row)
    except orjson.JSONDecodeError as error:
        raise BuildError(f"{path} line {number}: not valid JSON: {error}") from None
    except OSError as error:
        raise_machine_fault(error)
        raise BuildError(f"{path} after line {number}: cannot be read: {error}") from None


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears whole, when the block ends well, or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """One JSON object per line; how many."""
    count = 0
    with replaced(path) as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


class RowGroups:
    """A scratch Parquet file with one row group per task: at most `rows` rows, and about `max_bytes` of content."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int, weigh: Callable[[dict[str, Any]], int]) -> None:
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.count, self.rows = path, 0, 0
        self._schema, self._limit, self._weigh = schema, rows, weigh
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any], max_bytes: int = 64_000_000) -> None:
        """Append one row; a full group is written."""
        self._pending.append(row)
        self._bytes += self._weigh(row)
        self.rows += 1
        if len(self._pending) >= self._limit or self._bytes >= max_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, schema=self._schema))
            self.count += 1
            self._pending, self._bytes = [], 0

    def close(self) -> None:
        """Write the rest; the file is readable from now on."""
        self._flush()
        self._writer.close()
