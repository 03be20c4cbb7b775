"""Rows of many small partitions in one file, so that a thousand of them read as fast as one.

A pack is a copy of what is published (orchestration/compaction.py makes and checks it): one Parquet file
with the same table of many partitions, one after the other. A segment that has rows in a pack reads
them there; neighbours share the row group that was read last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of one partition lie in a pack."""

    pack: Path
    first: int
    count: int


def read_rows(rows: PackedRows, columns: Sequence[str] | None) -> pa.Table:
    """Some columns of the rows."""
    chosen = tuple(columns) if columns is not None else None
    tables = []
    for number, (start, length) in enumerate(_groups(rows.pack)):
        first, last = max(rows.first, start), min(rows.first + rows.count, start + length)
        if first < last:
            tables.append(_group(rows.pack, number, chosen).slice(first - start, last - first))
    if tables:
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    schema = pq.read_schema(rows.pack)
    return (pa.schema([schema.field(name) for name in chosen]) if chosen else schema).empty_table()


def joined(parts: Iterable[PackedRows]) -> Iterator[PackedRows]:
    """The same rows in the same order, with what lies side by side read at once."""
    held: PackedRows | None = None
    for rows in parts:
        if held and held.pack == rows.pack and held.first + held.count == rows.first:
            held = PackedRows(held.pack, held.first, held.count + rows.count)
            continue
        if held:
            yield held
        held = rows
    if held:
        yield held


@lru_cache(maxsize=64)
def _groups(pack: Path) -> tuple[tuple[int, int], ...]:
    """(first row, rows) of each row group."""
    metadata = pq.read_metadata(pack)
    found, first = [], 0
    for number in range(metadata.num_row_groups):
        length = metadata.row_group(number).num_rows
        found.append((first, length))
        first += length
    return tuple(found)


@lru_cache(maxsize=2)
def _group(pack: Path, number: int, columns: tuple[str, ...] | None) -> pa.Table:
    """One row group, decoded. Two are kept: readers go through partitions in order."""
    return pq.ParquetFile(pack).read_row_group(number, columns=list(columns) if columns is not None else None)
