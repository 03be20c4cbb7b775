"""Rows of many small partitions in one file, so that a thousand of them read as fast as one.

A pack is a copy of what is published (orchestration/upkeep/compaction.py makes and checks it): one Parquet file
with the same table of many partitions, one after the other. A segment that has rows in a pack reads
them there; neighbours share the row group that was read last, or are read at once (`assets.build.neighbours`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class PackedRows(NamedTuple):
    """Where the rows of one partition, or of neighbours, lie in a pack."""

    pack: Path
    first: int
    count: int


def read_rows(rows: PackedRows, columns: Sequence[str] | None) -> pa.Table:
    """Some columns of the rows."""
    chosen = tuple(columns) if columns is not None else None
    starts, groups = _starts(rows.pack), _groups_of(rows)
    if len(groups) > _KEPT_GROUPS:
        table = _open(rows.pack).read_row_groups(list(groups), list(chosen) if chosen is not None else None)
    elif groups:
        table = pa.concat_tables([_group(rows.pack, number, chosen) for number in groups])
    else:
        schema = _open(rows.pack).schema_arrow
        return (pa.schema([schema.field(name) for name in chosen]) if chosen is not None else schema).empty_table()
    return table.slice(rows.first - starts[groups[0]], rows.count)


def read_batches(rows: PackedRows, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    """The same in batches of at most `size` rows: memory holds two row groups."""
    chosen = tuple(columns) if columns is not None else None
    starts, end = _starts(rows.pack), rows.first + rows.count
    for number in _groups_of(rows):
        first, last = max(rows.first, starts[number]), min(end, starts[number + 1])
        part = _group(rows.pack, number, chosen).slice(first - starts[number], last - first)
        yield from part.to_batches(max_chunksize=size)


def _groups_of(rows: PackedRows) -> range:
    """Row groups that hold some of the rows."""
    starts = _starts(rows.pack)
    if not rows.count:
        return range(0)
    return range(bisect_right(starts, rows.first) - 1, bisect_left(starts, rows.first + rows.count))


@lru_cache(maxsize=64)
def _starts(pack: Path) -> tuple[int, ...]:
    """First row of each row group, and the end."""
    metadata = _metadata(pack)
    starts = [0]
    for number in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(number).num_rows)
    return tuple(starts)


@lru_cache(maxsize=64)
def _metadata(pack: Path) -> pq.FileMetaData:
    return pq.read_metadata(pack)


def _open(pack: Path) -> pq.ParquetFile:
    return pq.ParquetFile(pack, metadata=_metadata(pack))


_KEPT_GROUPS = 2
"""Readers go through partitions in order; one may be cut in two."""


@lru_cache(maxsize=_KEPT_GROUPS)
def _group(pack: Path, number: int, columns: tuple[str, ...] | None) -> pa.Table:
    """One row group, decoded."""
    return _open(pack).read_row_group(number, columns=list(columns) if columns is not None else None)
