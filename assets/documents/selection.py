"""What each stage reads, cut into tasks: one row group of a Parquet file per task."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.build import BuildError, Segment
from assets.key_set import KeySet

_COLUMNS = [
    "doc_id",
    "url",
    "source",
    "crawl",
    "fetched_at",
    "licence",
    "content_sha256",
    "content_type",
    "domain",
    "title",
    "warc_file",
    "warc_offset",
    "warc_length",
]


def select_captures(crawl: Segment, delta: Segment, scratch: Path, captures_per_task: int) -> tuple[Path, int]:
    """The captures that the delta calls added or changed, in a scratch file; and its number of row groups.

    Raises BuildError when delta and captures speak of different contents.
    """
    changes = delta.table("delta", ["url", "change", "doc_id"])
    wanted = changes.filter(pc.is_in(changes["change"], pa.array(["added", "changed"])))
    wanted_urls = KeySet(wanted["url"])
    expected = dict(zip(wanted["url"].to_pylist(), wanted["doc_id"].to_pylist(), strict=True))
    path = scratch / "selected.parquet"
    tasks = 0
    writer: pq.ParquetWriter | None = None
    pending: list[pa.Table] = []
    try:
        for batch in crawl.batches("captures", [*_COLUMNS, "drop_reason"]):
            table = pa.Table.from_batches([batch])
            alive = pc.and_(pc.is_null(table["drop_reason"]), wanted_urls.holds(table["url"]))
            table = table.filter(alive).select(_COLUMNS)
            for url, doc_id in zip(table["url"].to_pylist(), table["doc_id"].to_pylist(), strict=True):
                if expected.pop(url) != doc_id:
                    raise BuildError(
                        f"{delta.asset}/{delta.partition} and captures.parquet differ on the doc_id of {url}:"
                        " the delta was made from another version of this crawl; build crawl_delta again"
                    )
            writer = writer or pq.ParquetWriter(path, table.schema)
            pending.append(table)
            if sum(map(len, pending)) >= captures_per_task:
                tasks += _write_groups(writer, pending, captures_per_task, last=False)
        if writer is not None:
            tasks += _write_groups(writer, pending, captures_per_task, last=True)
    finally:
        if writer is not None:
            writer.close()
    if expected:
        raise BuildError(
            f"{delta.asset}/{delta.partition} lists {len(expected)} added or changed pages that captures.parquet does not"
            f" hold as kept, first {min(expected)}: build crawl_delta again"
        )
    return path, tasks


def _write_groups(writer: pq.ParquetWriter, pending: list[pa.Table], rows: int, *, last: bool) -> int:
    """Write full row groups of what is pending, and the rest too when it is the last; how many were written."""
    table = pa.concat_tables(pending)
    whole = len(table) if last else len(table) // rows * rows
    for start in range(0, whole, rows):
        writer.write_table(table.slice(start, min(rows, whole - start)), row_group_size=rows)
    pending[:] = [table.slice(whole)]
    return -(-whole // rows)


def row_groups(documents: Segment) -> list[tuple[Path, int]]:
    """Every row group of documents.parquet."""
    return [
        (path, group)
        for path in documents.parts("documents")
        for group in range(pq.ParquetFile(path).metadata.num_row_groups)
    ]
