"""Speed of the embedded store: one commit of many files, a one-file delta, and reading it all back.

    python -m benchmarks.bench_store [--files 5000] [--folder DIR]

Exits non-zero where a goal is missed, and writes docs/results/bench_store.json. The goals are for a laptop disk with real fsync.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, Goal, Result, finish, why
from orchestration.store.git.store import GitStore

CODE = ("orchestration/store", "benchmarks/bench_store.py")

GOAL_COMMIT_S = 5.0  # for 5,000 files
GOAL_DELTA_S = 0.05


def main() -> int:
    """Run, print the table, say whether the goals were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where to build the store (default: the system's temporary folder)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        row = measure(Path(folder), options.files)
    for name, value in row.items():
        print(f"{name:<24} {value:9.4f}")
    return finish(result_of([row]), options.results)


def result_of(rows: list[dict[str, float]], figures: dict[str, Any] | None = None) -> Result:
    """What was asked for and what was measured."""
    row = rows[0]
    files = int(row["files"])
    goals = [
        Goal(
            f"seconds of a commit of {files} files", row["commit_s"], "<=", GOAL_COMMIT_S * files / 5000, ("commit_s",)
        ),
        Goal("seconds of a one-file delta on top, median", row["delta_s"], "<=", GOAL_DELTA_S, ("delta_s",)),
        Goal("seconds of a three-way merge of one file", row["merge_s"], "<=", GOAL_DELTA_S, ("merge_s",)),
    ]
    not_judged = (
        why("size of the input", "files", "files_listed", "files_read", "objects_verified")
        | why("what the disk did once; the median is judged", "slowest_delta_s")
        | why("no limit was asked for", "list_s", "read_s", "verify_s")
    )
    return Result("bench_store", CODE, goals, rows, figures or {}, not_judged)


def measure(folder: Path, files: int) -> dict[str, float]:
    """Timings in seconds."""
    store = GitStore.at(folder / "store.git")
    sources = folder / "sources"
    sources.mkdir()
    put: dict[str, Path | bytes] = {}
    for i in range(files):
        source = sources / f"{i}.parquet"
        source.write_bytes(b"segment %d " % i * 100)
        put[f"documents/extracted_documents/web@{i // 50:05d}/part-{i % 50:05d}.parquet"] = source

    row: dict[str, float] = {"files": files}
    start = time.perf_counter()
    store.commit("main", put, message=f"{files} files")
    row["commit_s"] = time.perf_counter() - start

    deltas = []
    for i in range(20):
        start = time.perf_counter()
        store.commit(
            "main", {f"documents/extracted_documents/web@{i:05d}/part-00000.parquet": b"%d" % i}, message="delta"
        )
        deltas.append(time.perf_counter() - start)
    row |= {"delta_s": statistics.median(deltas), "slowest_delta_s": max(deltas)}

    store.create_branch("build")
    store.commit("build", {"corpus/part-00000.parquet": b"staged"}, message="staged")
    store.commit("main", {"other/part.parquet": b"meanwhile"}, message="meanwhile")
    start = time.perf_counter()
    store.merge("build", message="three-way")
    row["merge_s"] = time.perf_counter() - start

    fresh = GitStore.at(folder / "store.git")
    start = time.perf_counter()
    paths = [info.path for info in fresh.list("main")]
    row |= {"list_s": time.perf_counter() - start, "files_listed": len(paths)}
    sample = paths[:: max(1, len(paths) // 1500)]
    start = time.perf_counter()
    for path in sample:
        fresh.read_bytes("main", path)
    row |= {"read_s": time.perf_counter() - start, "files_read": len(sample)}
    start = time.perf_counter()
    report = fresh.verify()
    row |= {"verify_s": time.perf_counter() - start, "objects_verified": report.objects_checked}
    return {name: round(value, 4) for name, value in row.items()}


if __name__ == "__main__":
    sys.exit(main())
