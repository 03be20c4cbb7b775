"""A table that is updated: a first part, then for each update the rows that came and the rows that went.

    decisions-00000.parquet                                     the table as it was first built
    decisions-00001.parquet, decisions.removed-00001.parquet    what the next version added and removed
    decisions-00002.parquet, ...

A row is live when no *later* `removed` part holds its key; a changed row is in both files of its
update. `removed` parts hold whole rows, so that an update says what it changed by itself, and the
digest of the table (orchestration/identity/digest.py) follows from the files of the update alone. Parts never
change: a new version names the old files and adds its own, so an update costs what it changes.

So that a thousand updates read as fast as one build, neighbouring parts are merged while the later
one is at least half as large: at most log2(rows) parts stay. The newest update is always a part of
its own: readers that saw the version before it (`Segment.changes`) need nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.key_set import KeySet
from assets.tables import KEY_METADATA, write_table

_PART = re.compile(r"(?P<table>.+?)(?P<removed>\.removed)?-(?P<number>\d{5,})\.parquet")

MERGE_WHEN = 2
"""A part is merged into its predecessor when that is at most this many times as large."""


@dataclass(frozen=True)
class Changes:
    """What an update did to a table: whole rows before and after; a changed row is in both."""

    removed: pa.Table
    added: pa.Table

    @classmethod
    def all_new(cls, rows: pa.Table) -> Changes:
        """A table that was not there before."""
        return cls(rows.schema.empty_table(), rows)

    def __len__(self) -> int:
        return len(self.removed) + len(self.added)


@dataclass(frozen=True)
class Part:
    """The files of one update (`removed` is None for a first part), and their rows."""

    number: int
    added: Path
    removed: Path | None

    def rows(self) -> int:
        """Rows in both files: what merging it costs."""
        files = [self.added, *([self.removed] if self.removed else [])]
        return sum(pq.read_metadata(path).num_rows for path in files)


def table_parts(files: Mapping[str, Path], table: str) -> list[Part]:
    """Parts of a table in order; empty when the table is not one that is updated."""
    added: dict[int, str] = {}
    removed: dict[int, str] = {}
    for name in files:
        match = _PART.fullmatch(name)
        if match and match["table"] == table:
            (removed if match["removed"] else added)[int(match["number"])] = name
    return [
        Part(number, files[added[number]], files[removed[number]] if number in removed else None)
        for number in sorted(added)
    ]


def key_columns(schema: pa.Schema) -> tuple[str, ...]:
    """The columns that identify a row; empty for a table that is never updated."""
    value = (schema.metadata or {}).get(KEY_METADATA, b"").decode()
    return tuple(value.split(",")) if value else ()


def keys(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """One comparable string per row: the key column, or the joined key columns."""
    if len(columns) == 1:
        return _whole(table.column(columns[0]))
    return _whole(pc.binary_join_element_wise(*(table.column(name) for name in columns), "\t"))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def read_parts(parts: Sequence[Part], columns: Sequence[str] | None = None) -> pa.Table:
    """The live rows, sorted by key."""
    schema = pq.read_schema(parts[0].added)
    names = list(columns) if columns is not None else schema.names
    key = key_columns(schema)
    if len(parts) == 1:
        return pq.ParquetFile(parts[0].added).read(columns=names)
    wanted = [*names, *(name for name in key if name not in names)]
    live = pa.concat_tables(read_batches(parts, wanted, rows=1 << 20))
    return live.sort_by([(name, "ascending") for name in key]).select(names)


def read_batches(parts: Sequence[Part], columns: Sequence[str] | None = None, rows: int = 4096) -> Iterator[pa.Table]:
    """The live rows part by part, each sorted by key: memory holds one batch and the keys removed later."""
    schema = pq.read_schema(parts[0].added)
    key = key_columns(schema)
    names = list(columns) if columns is not None else schema.names
    read = [*names, *(name for name in key if name not in names)]
    dead = _keys_removed_after(parts, key)
    for part in parts:
        gone = KeySet(dead.pop(part.number))
        for batch in pq.ParquetFile(part.added).iter_batches(batch_size=rows, columns=read):
            table = pa.table(batch)
            if len(gone):
                table = table.filter(pc.invert(gone.holds(keys(table, key))))
            yield table.select(names)


def _keys_removed_after(parts: Sequence[Part], key: Sequence[str]) -> dict[int, pa.Array]:
    """Per part: the keys that a later update removed."""
    found: list[pa.Array] = []
    after: dict[int, pa.Array] = {}
    for part in reversed(parts):
        after[part.number] = pa.concat_arrays(found) if found else pa.array([], type=pa.string())
        if part.removed is not None:
            found.append(keys(pq.ParquetFile(part.removed).read(columns=list(key)), key))
    return after


def without(table: pa.Table, dead: pa.Array, key: Sequence[str]) -> pa.Table:
    """The rows of a table whose key is not in `dead`."""
    return table.filter(pc.invert(pc.is_in(keys(table, key), value_set=dead)))


def difference(before: pa.Table, after: pa.Table) -> Changes:
    """What turns `before` into `after`: rows that are in only one of the two, compared in all columns."""
    key = key_columns(after.schema)
    order = [(name, "ascending") for name in key]
    before, after = before.sort_by(order), after.sort_by(order)
    at = pc.index_in(keys(before, key), value_set=keys(after, key))
    old, new = before.filter(pc.is_valid(at)), after.take(pc.drop_null(at))
    kept = keys(old, key)
    for name in after.schema.names if len(old) else ():
        equal = _equal(_whole(old.column(name)), _whole(new.column(name)))
        kept, old, new = kept.filter(equal), old.filter(equal), new.filter(equal)
    return Changes(without(before, kept, key), without(after, kept, key))


def _equal(a: pa.Array, b: pa.Array) -> pa.Array:
    both_null = pc.and_(pc.is_null(a), pc.is_null(b))
    return pc.or_(both_null, pc.fill_null(pc.equal(a, b), False))


@dataclass(frozen=True)
class TableUpdate:
    """How a table was written on top of an earlier version of it."""

    kept: tuple[str, ...]
    """Files of the earlier version that still belong to the table."""
    number: int | None
    """Part that holds what changed; None when nothing did."""


def write_changes(
    output: Path, table: str, changes: Changes, schema: pa.Schema, base: Mapping[str, Path]
) -> TableUpdate:
    """Write the next version of a table beside the files of the earlier one (`base`, empty for a first build)."""
    parts = table_parts(base, table)
    if not parts:
        if len(changes.removed):
            raise ValueError(f"{table}: {len(changes.removed)} rows removed from a table that does not exist")
        write_table(output, f"{table}-00000", _sorted(changes.added), schema)
        return TableUpdate((), 0)
    if not len(changes):
        return TableUpdate(_names(table, parts), None)
    tail = _parts_to_merge(parts)
    number = parts[-1].number + 1
    if len(tail) > 1:
        merged = _merge(tail, schema)
        _write_part(output, table, number, merged, schema, first=len(tail) == len(parts))
        parts = parts[: -len(tail)]
        number += 1
    _write_part(output, table, number, changes, schema, first=False)
    return TableUpdate(_names(table, parts), number)


def _parts_to_merge(parts: Sequence[Part]) -> list[Part]:
    """The newest parts, back to the first that is more than MERGE_WHEN times as large as all after it."""
    sizes = [part.rows() for part in parts]
    first = len(parts) - 1
    while first > 0 and sizes[first - 1] <= MERGE_WHEN * sum(sizes[first:]):
        first -= 1
    return list(parts[first:])


def _merge(parts: Sequence[Part], schema: pa.Schema) -> Changes:
    """Several updates as one: rows that a later of them removed never were."""
    key = key_columns(schema)
    added = pq.ParquetFile(parts[0].added).read()
    removed = [_read_removed(parts[0], schema)]
    for part in parts[1:]:
        gone = _read_removed(part, schema)
        dead, present = keys(gone, key), keys(added, key)
        removed.append(gone.filter(pc.invert(pc.is_in(dead, value_set=present))))
        added = pa.concat_tables([without(added, dead, key), pq.ParquetFile(part.added).read()])
    return Changes(pa.concat_tables(removed), added)


def _read_removed(part: Part, schema: pa.Schema) -> pa.Table:
    return pq.ParquetFile(part.removed).read() if part.removed else schema.empty_table()


def _write_part(output: Path, table: str, number: int, changes: Changes, schema: pa.Schema, *, first: bool) -> None:
    write_table(output, f"{table}-{number:05d}", _sorted(changes.added), schema)
    if len(changes.removed) and not first:
        write_table(output, f"{table}.removed-{number:05d}", _sorted(changes.removed), schema)


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in key_columns(table.schema)])


def _names(table: str, parts: Sequence[Part]) -> tuple[str, ...]:
    names = []
    for part in parts:
        names.append(f"{table}-{part.number:05d}.parquet")
        if part.removed is not None:
            names.append(f"{table}.removed-{part.number:05d}.parquet")
    return tuple(names)
