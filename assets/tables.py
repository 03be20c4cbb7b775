"""Writing Parquet the one way Headwater writes it: fixed schema, sorted rows, bounded parts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VOLATILE_KEY = b"headwater.volatile"
"""Schema metadata: comma-separated columns that describe one execution, not the data (times, offsets).
They are published but are not part of the data version."""

KEY_METADATA = b"headwater.key"
"""Schema metadata: comma-separated columns that identify a row of a table that is updated (assets/delta_table.py)."""


def schema(fields: Mapping[str, pa.DataType], volatile: Iterable[str] = (), key: Iterable[str] = ()) -> pa.Schema:
    """A table schema; `volatile` columns are left out of the digest, `key` columns identify a row of an updated table."""
    unknown = {*volatile, *key} - set(fields)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not in the schema {list(fields)}")
    metadata = {VOLATILE_KEY: ",".join(sorted(volatile)).encode()} if volatile else {}
    if key:
        metadata[KEY_METADATA] = ",".join(key).encode()
    return pa.schema(list(fields.items()), metadata=metadata or None)


def write_table(
    folder: Path,
    name: str,
    rows: pa.Table | list[dict[str, Any]],
    table_schema: pa.Schema,
    rows_per_group: int = 65536,
) -> Path:
    """Write `folder/name.parquet` (zstd). Rows must already be in their contractual order."""
    table = pa.Table.from_pylist(rows, schema=table_schema) if isinstance(rows, list) else rows
    table = table.select(table_schema.names).cast(table_schema).replace_schema_metadata(table_schema.metadata)
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=rows_per_group)
    return path


def row_groups_holding(file: pq.ParquetFile, column: str, wanted: Sequence[str]) -> list[int]:
    """Row groups whose range of a sorted string column holds one of the wanted values (sorted): the others need no reading."""
    metadata = file.metadata
    at = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column)
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(at).statistics
        if statistics is None or not statistics.has_min_max:
            found.append(group)
            continue
        first = bisect_left(wanted, statistics.min)
        if first < len(wanted) and wanted[first] <= statistics.max:
            found.append(group)
    return found
