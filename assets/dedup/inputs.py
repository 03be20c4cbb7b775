"""Reading the stages before dedup: columns of all partitions, and the kept texts of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import pyarrow as pa

from assets.build import Build, BuildError, Segment, read_tables


def read_all(segments: Sequence[Segment], table: str, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Some columns of all partitions of a table; empty when there are none."""
    tables = read_tables(segments, table, columns)
    return pa.concat_tables(tables) if tables else schema.empty_table().select(columns)


def same_partition(build: Build, asset: str, segment: Segment) -> Segment:
    """The partition of `asset` that belongs to a segment of another asset."""
    for found in build.all(asset):
        if found.partition == segment.partition:
            return found
    raise BuildError(f"{segment.asset} has partition {segment.partition}, {asset} has not: materialise it first")


def kept_ids(filtered: Segment) -> set[str]:
    """Documents of one partition that the filters kept."""
    table = filtered.table("decisions", ("doc_id", "drop_reason"))
    return set(table.filter(table["drop_reason"].is_null())["doc_id"].to_pylist())


def kept_texts(extracted: Segment, kept: AbstractSet[str]) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of the kept documents of one partition, in order of doc_id, a batch in memory at a time."""
    for batch in extracted.batches("documents", ("doc_id", "text"), rows=1024):
        for doc_id, text in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            if doc_id in kept:
                yield doc_id, text
