"""Runs a datatrove pipeline and merges what its tasks wrote into one sorted table.

Where the tasks run is the business of an executor (executors.py), chosen by the profile: it is not part
of what a data set is, and is left out of the code version by name.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.build import BuildError, PipelineExecutor, Progress

_MERGE_ROWS = 64  # rows of each part in memory while merging
_WRITE_ROWS = 128  # rows of one row group: the reading stage takes one group per task


def run_pipeline(
    pipeline: list[Any],
    tasks: int,
    workers: int,
    scratch: Path,
    parts: Path,
    progress: Progress,
    executor: PipelineExecutor | None = None,
) -> list[Path]:
    """Run a pipeline whose last block writes `part-<rank>.parquet` into `parts`; those files, in order.

    Without an executor, on `workers` processes of this machine. `scratch` belongs to one fingerprint, so
    completion markers found there are of this very pipeline.
    """
    from assets.executors.local import LocalProcesses

    parts.mkdir(parents=True, exist_ok=True)
    if tasks:
        chosen = executor or LocalProcesses(max(1, workers))
        chosen.run(pipeline, tasks, scratch / "datatrove", progress)
    return [part_path(parts, rank) for rank in range(tasks)]


def part_path(parts: Path, rank: int) -> Path:
    """The file that task `rank` writes."""
    return parts / f"part-{rank:05d}.parquet"


def write_part(parts: Path, rank: int, rows: list[dict[str, Any]], part_schema: pa.Schema) -> None:
    """Write the rows of one task, sorted by doc_id; the file appears whole or not at all."""
    path = part_path(parts, rank)
    unfinished = path.with_suffix(".unfinished")
    ordered = sorted(rows, key=lambda row: row["doc_id"])
    pq.write_table(pa.Table.from_pylist(ordered, schema=part_schema), unfinished, compression="zstd")
    unfinished.replace(path)


def merge_parts(parts: list[Path], path: Path, table_schema: pa.Schema, see: Callable[[dict[str, Any]], None]) -> None:
    """Merge sorted parts into one table sorted by doc_id; `see` gets every row, with its part-only columns.

    Which task handled a document leaves no trace: any number of tasks and workers gives the same table.
    """
    with pq.ParquetWriter(path, table_schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in merged_rows(parts):
            see(row)
            batch.append(row)
            if len(batch) == _WRITE_ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema=table_schema))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=table_schema))


def merged_rows(parts: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows of sorted parts in order of doc_id, a few rows of each part in memory. Refuses a repeated doc_id."""
    last = ""
    for row in heapq.merge(*map(_rows, parts), key=lambda row: row["doc_id"]):
        if row["doc_id"] == last:
            raise BuildError(f"doc_id {last} occurs twice ({row['url']}): identities of a crawl must be unique")
        last = row["doc_id"]
        yield row


def _rows(part: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(part).iter_batches(batch_size=_MERGE_ROWS):
        yield from batch.to_pylist()
