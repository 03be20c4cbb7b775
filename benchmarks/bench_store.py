"""Speed of the embedded store: one commit of many files, a one-file delta, and reading it all back.

    python benchmarks/bench_store.py [--files 5000] [--folder DIR]

Exits non-zero where a goal is missed. The goals are for a laptop disk with real fsync.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from orchestration.store.git_store import GitStore

GOAL_COMMIT_S = 5.0  # for 5,000 files
GOAL_DELTA_S = 0.05


def main() -> int:
    """Run, print the table, say whether the goals were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where to build the store (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(Path(folder), options.files)
    missed = 0
    for name, seconds, goal in rows:
        verdict = "" if goal is None else "ok" if seconds <= goal else "MISSED"
        missed += verdict == "MISSED"
        print(f"{name:<52} {seconds:9.4f} s   goal {goal if goal is not None else '-':>6}   {verdict}")
    return 1 if missed else 0


def measure(folder: Path, files: int) -> list[tuple[str, float, float | None]]:
    """Timings: name, seconds, goal."""
    store = GitStore.at(folder / "store.git")
    sources = folder / "sources"
    sources.mkdir()
    put: dict[str, Path | bytes] = {}
    for i in range(files):
        source = sources / f"{i}.parquet"
        source.write_bytes(b"segment %d " % i * 100)
        put[f"documents/extracted_documents/web@{i // 50:05d}/part-{i % 50:05d}.parquet"] = source

    rows: list[tuple[str, float, float | None]] = []
    start = time.perf_counter()
    store.commit("main", put, message=f"{files} files")
    rows.append((f"commit of {files} files by hard link", time.perf_counter() - start, GOAL_COMMIT_S * files / 5000))

    deltas = []
    for i in range(20):
        start = time.perf_counter()
        store.commit(
            "main", {f"documents/extracted_documents/web@{i:05d}/part-00000.parquet": b"%d" % i}, message="delta"
        )
        deltas.append(time.perf_counter() - start)
    rows.append(("one-file delta on top (median of 20)", statistics.median(deltas), GOAL_DELTA_S))
    rows.append(("one-file delta on top (worst of 20)", max(deltas), None))

    store.create_branch("build")
    store.commit("build", {"corpus/part-00000.parquet": b"staged"}, message="staged")
    store.commit("main", {"other/part.parquet": b"meanwhile"}, message="meanwhile")
    start = time.perf_counter()
    store.merge("build", message="three-way")
    rows.append(("three-way merge of one file", time.perf_counter() - start, GOAL_DELTA_S))

    fresh = GitStore.at(folder / "store.git")
    start = time.perf_counter()
    paths = [info.path for info in fresh.list("main")]
    rows.append((f"list {len(paths)} files, cold caches", time.perf_counter() - start, None))
    sample = paths[:: max(1, len(paths) // 1500)]
    start = time.perf_counter()
    for path in sample:
        fresh.read_bytes("main", path)
    rows.append((f"read {len(sample)} files with hash check", time.perf_counter() - start, None))
    start = time.perf_counter()
    report = fresh.verify()
    rows.append((f"verify {report.objects_checked} objects over the history", time.perf_counter() - start, None))
    return rows


if __name__ == "__main__":
    sys.exit(main())
