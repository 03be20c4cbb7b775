"""The order loader: memory over a manifest 100 times larger, time per batch, and the share of a run spent waiting.

    python -m benchmarks.bench_loader [--documents 12000] [--times 100] [--steps 60]

Made-up documents of 100 to 700 tokens are planned and ordered by the code of order_manifest, once and `--times` as
many; the token index grows with them, the shard files do not (documents overlap). Each manifest is read to its end
by one loader in a process of its own, which counts its CPU time and its peak of anonymous memory. The share of
waiting is that of the training program itself, on the demo's model. Exits non-zero where a goal is missed, and writes docs/results/bench_loader.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import PeakMemory, anonymous_mb, apart, cpu_s
from benchmarks.results import RESULTS, Goal, Result, finish, why

CODE = (
    "assets/mixture/order.py",
    "training/data/order_dataset.py",
    "training/data/token_store.py",
    "benchmarks/bench_loader.py",
)
CHANNELS = ("code", "en", "zh")
SHARDS = 4
SHARD_TOKENS = 4_000_000
SEQUENCE_LENGTH = 256
VOCABULARY = 8192
LOCAL_BATCH = 8


def make(folder: Path, documents: int) -> dict[str, Any]:
    """Shards, token index and order of so many documents, each read about once."""
    from assets.mixture.order import PlannedDocuments, cut_sequences, pieces_table, plan_uses
    from assets.mixture.shape import RunShape
    from assets.schemas import ORDER, TOKEN_INDEX
    from assets.tables import write_table

    folder.mkdir()
    draw = np.random.default_rng(0)
    for shard in range(SHARDS):
        draw.integers(0, VOCABULARY, SHARD_TOKENS, dtype="<u2").tofile(folder / f"shard-{shard:05d}.bin")
    tokens = draw.integers(100, 700, documents)
    doc_ids = np.sort(np.array([f"{high:016x}{low:016x}" for high, low in draw.integers(0, 2**63, (documents, 2))]))
    channels = np.array(CHANNELS)[draw.integers(0, len(CHANNELS), documents)]
    index = {name: pa.nulls(documents, TOKEN_INDEX.field(name).type) for name in TOKEN_INDEX.names} | {
        "doc_id": doc_ids,
        "shard": np.array([f"shard-{shard:05d}.bin" for shard in range(SHARDS)])[draw.integers(0, SHARDS, documents)],
        "offset": draw.integers(0, SHARD_TOKENS - tokens),
        "tokens": tokens,
    }
    write_table(folder, "index", pa.table(index), TOKEN_INDEX)
    window = SEQUENCE_LENGTH + 1
    targets = {("stable", name): int(tokens[channels == name].sum()) // window * window for name in CHANNELS}
    sequences = sum(targets.values()) // window // LOCAL_BATCH * LOCAL_BATCH
    targets["stable", "zh"] -= sum(targets.values()) - sequences * window
    shape = RunShape(
        total_steps=sequences // LOCAL_BATCH,
        decay_steps=0,
        global_batch_size=LOCAL_BATCH,
        sequence_length=SEQUENCE_LENGTH,
    )
    ones = np.ones(documents, bool)
    planned = PlannedDocuments(
        pa.array(doc_ids, pa.string()), channels.astype(object), tokens, ~ones, {"stable": ones, "decay": ~ones}
    )
    with pq.ParquetWriter(folder / "order.parquet", ORDER, compression="zstd") as writer:
        for pieces in cut_sequences(plan_uses(planned, targets, shape, 1), shape, 1):
            table = pieces_table(pieces, planned).cast(ORDER)
            writer.write_table(table, row_group_size=table.num_rows)
    return {"documents": documents, "sequences": sequences}


def data_of(folder: Path) -> dict[str, Any]:
    """The request's table of such a folder."""
    return {
        "order": [str(folder / "order.parquet")],
        "order_fingerprint": folder.name,
        "index": [str(folder / "index.parquet")],
        "shards": {path.name: str(path) for path in sorted(folder.glob("*.bin"))},
        "dtype": "uint16",
        "channels": list(CHANNELS),
    }


def read_all(folder: Path) -> dict[str, Any]:
    """Every batch of an order, as one rank would read it."""
    from training.contract.request import Data
    from training.data.order_dataset import OrderIdentity, OrderLoader, OrderReader

    imported = anonymous_mb()
    with PeakMemory() as peak:
        before, started = cpu_s(), time.perf_counter()
        data = Data.model_validate(data_of(folder))
        reader = OrderReader(data, SEQUENCE_LENGTH, VOCABULARY, folder / "lookup")
        opening, opening_cpu = time.perf_counter() - started, cpu_s() - before
        before, started, batches = cpu_s(), time.perf_counter(), 0
        for _ in OrderLoader(reader, OrderIdentity("bench", "bench", reader.sequences), LOCAL_BATCH, 0, 1):
            batches += 1
        seconds, cpu = time.perf_counter() - started, cpu_s() - before
    return {
        "batches": batches,
        "peak_mb": peak.mb,
        "peak_above_imports_mb": peak.mb - imported,
        "opening_s": opening,
        "opening_cpu_s": opening_cpu,
        "ms_per_batch": 1000 * seconds / batches,
        "cpu_ms_per_batch": 1000 * cpu / batches,
    }


def train(folder: Path, steps: int) -> dict[str, Any]:
    """A run of the demo's model; torchtitan measures the wait for each batch."""
    from assets.build import SilentProgress
    from orchestration.launch.trainer import LocalTrainer

    output = folder / "run"
    shape = {"dim": 128, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2}
    request = {
        "run": "bench",
        "model": shape | {"vocab_size": VOCABULARY, "sequence_length": SEQUENCE_LENGTH},
        "schedule": {"total_steps": steps, "warmup_steps": 2, "decay_steps": 0, "peak_lr": 1e-3},
        "global_batch_size": LOCAL_BATCH,
        "local_batch_size": LOCAL_BATCH,
        "seed": 1,
        "checkpoint_steps": [steps],
        "data": data_of(folder),
        "tokenizer_version": "bench",
        "output": str(output),
        "threads": 1,  # two on a busy machine wait for each other, and the share of the wait for data looks small
    }
    (folder / "request.json").write_text(json.dumps(request), "utf-8")
    LocalTrainer().run(folder / "request.json", folder / "work", SilentProgress())
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    waited, total = sum(line["data_wait_s"] for line in lines), sum(line["step_s"] for line in lines)
    return {
        "steps": len(lines),
        "step_ms": 1000 * total / len(lines),
        "data_wait_ms": 1000 * waited / len(lines),
        "data_wait_share": waited / total,
    }


def main() -> int:
    """Run, print the table, write the result, say whether the goals were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--times", type=int, default=100, help="how much larger the large manifest is")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def show(row: dict[str, Any]) -> None:
        rows.append({name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()})
        print("  ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for times in (1, options.times):
            folder = Path(name) / str(times)
            made = apart(make, folder, times * options.documents)
            show({"what": "loader"} | made | apart(read_all, folder))
        show({"what": "run"} | train(Path(name) / "1", options.steps))
    return finish(result_of(rows), options.results)


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any] | None = None) -> Result:
    """What was asked for and what was measured."""
    small, large, run = rows
    times = round(large["documents"] / small["documents"])
    memory, cpu = (large[name] / small[name] for name in ("peak_mb", "cpu_ms_per_batch"))
    goals = [
        Goal(f"peak memory at {times} times the manifest", memory, "<=", 1.1, ("peak_mb",)),
        Goal(f"CPU per batch at {times} times the manifest", cpu, "<=", 2.0, ("cpu_ms_per_batch",)),
        Goal(
            "data wait as a share of step time", run["data_wait_share"], "<=", 0.01,
            ("data_wait_share", "data_wait_ms", "step_ms"),
        ),
    ]  # fmt: skip
    not_judged = (
        why("size of the input", "documents", "sequences", "batches", "steps")
        | why("other work of the machine is in it; CPU seconds are judged", "ms_per_batch", "opening_s")
        | why("once per run, a second per million documents; no limit was asked for", "opening_cpu_s")
        | why("part of peak_mb, which is judged", "peak_above_imports_mb")
    )
    return Result("bench_loader", CODE, goals, rows, figures or {}, not_judged)


if __name__ == "__main__":
    sys.exit(main())
