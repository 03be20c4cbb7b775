"""The memory that the plan estimates for a rank, against what the rank allocates.

    python -m tests.campaigns.memory             some minutes; writes docs/results/memory.json
    python -m tests.campaigns.memory --only "tensor parallel"

Real ranks over gloo train a few steps; the most bytes alive in a step after the first are compared with
`memory_per_rank`. Ranks that differ in data alone hold the same, and so do steps: of them the least is taken, because a
release by a thread of gloo's is not seen by torch's profiler and would look like memory that stays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assets.training.memory import memory_per_rank
from assets.training.run_request import ModelRecipe, TrainingRecipe
from benchmarks.results import Goal, Result, finish, why
from tests.campaigns.forked_ranks import train_forked
from tests.training import tiny

CODE = ("assets/training/memory.py", "training", "tests/campaigns/memory.py")
STEPS = 4
GOAL = 0.10
SHAPE = {"dim": 128, "n_layers": 6, "n_heads": 8, "n_kv_heads": 4, "sequence_length": 128}
VOCABULARY = 1024
WIDE = {"dim": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "sequence_length": 64}
LONG = {"dim": 64, "n_layers": 8, "n_heads": 8, "n_kv_heads": 2, "sequence_length": 512, "ffn_dim_multiplier": 1.5}

CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "one process": (SHAPE, VOCABULARY, {}),
    "accumulation": (SHAPE, VOCABULARY, {"local_batch_size": 1}),
    "wide, few tokens": (WIDE, 256, {"local_batch_size": 1}),
    "long sequences": (LONG, 256, {}),
    "large vocabulary": (SHAPE, 8192, {}),
    "FSDP2x2": (SHAPE, VOCABULARY, {"dp_shard": 2, "local_batch_size": 2}),
    "FSDP2x2, wide": (WIDE, 256, {"dp_shard": 2, "local_batch_size": 1}),
    "FSDP2x2, full checkpointing": (
        SHAPE,
        VOCABULARY,
        {"dp_shard": 2, "local_batch_size": 2, "activation_checkpointing": "full"},
    ),
    "selective checkpointing": (SHAPE, VOCABULARY, {"activation_checkpointing": "selective"}),
    "DDP2": (SHAPE, VOCABULARY, {"dp_replicate": 2, "local_batch_size": 2}),
    "HSDP2x2": (SHAPE, VOCABULARY, {"dp_shard": 2, "dp_replicate": 2, "local_batch_size": 1}),
    "tensor parallel": (SHAPE, VOCABULARY, {"tp": 2}),
    "FSDP2xTP2": (SHAPE, VOCABULARY, {"dp_shard": 2, "tp": 2, "local_batch_size": 2}),
    "PP2": (SHAPE, VOCABULARY, {"pp": 2}),
    "PP2, interleaved": (SHAPE, VOCABULARY, {"pp": 2, "pipeline_schedule": "Interleaved1F1B"}),
    "FSDP2xPP2": (SHAPE, VOCABULARY, {"dp_shard": 2, "pp": 2, "local_batch_size": 2}),
    "TP2xPP2": (SHAPE, VOCABULARY, {"tp": 2, "pp": 2}),
    "FSDP2x2, bfloat16": (
        LONG | {"n_layers": 3, "sequence_length": 64},
        256,
        {"dp_shard": 2, "local_batch_size": 2, "precision": "bfloat16"},
    ),
    "FSDP2x2, few tokens": (SHAPE | {"sequence_length": 16}, 8192, {"dp_shard": 2, "local_batch_size": 2}),
    "layers measured": (SHAPE | {"sequence_length": 16}, VOCABULARY, {"local_batch_size": 1}),
    "layers measured, FSDP2x2": (SHAPE | {"sequence_length": 16}, VOCABULARY, {"dp_shard": 2, "local_batch_size": 1}),
}


@dataclass(frozen=True)
class Row:
    """One pipeline rank of one case."""

    case: str
    pipeline_rank: int
    measured_bytes: int
    estimated_bytes: int
    error: float
    """Of the estimate, as a share of what was measured."""
    worst_moment: str


def main() -> int:
    """Every case; exits 1 where an estimate is off by more than the goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these cases, and no result is written")
    chosen = parser.parse_args().only
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        for number, case in enumerate(chosen or CASES):
            found = measure(Path(name) / str(number), case)
            rows += found
            for row in found:
                print(
                    f"{row.case:<28} stage {row.pipeline_rank}   measured {row.measured_bytes / 1e6:7.2f} MB   estimated "
                    f"{row.estimated_bytes / 1e6:7.2f} MB   {row.error:+.1%}   ({row.worst_moment})",
                    flush=True,
                )
    worst = max(rows, key=lambda row: abs(row.error))
    print(f"largest error: {worst.error:+.1%}, {worst.case} (goal: within {GOAL:.0%})")
    figures = {"not_measured": "GPUs (their RMSNorm saves less: from its code, not measured) and context parallel"}
    return finish(result_of([asdict(row) for row in rows], figures), write=chosen is None)


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was measured."""
    name = "estimate / tensors that a rank allocates, float32 and bfloat16, on a CPU: largest error"
    of = ("error", "measured_bytes", "estimated_bytes")
    goals = [Goal(name, max(abs(row["error"]) for row in rows), "<=", GOAL, of)]
    return Result("memory", CODE, goals, rows, figures, why("which rank", "pipeline_rank"))


def measure(folder: Path, case: str) -> list[Row]:
    """Train a case and compare each stage of its pipeline."""
    shape, vocabulary, changes = CASES[case]
    recipe = {"global_batch_size": 4, "local_batch_size": 4, "total_steps": STEPS, "warmup_steps": 1, "decay_steps": 0}
    training = TrainingRecipe.model_validate(recipe | {"early_checkpoint_steps": []} | changes)
    folder.mkdir(parents=True)
    length, sequences = shape["sequence_length"], STEPS * training.global_batch_size
    tiny.write_order(folder, tiny.write_tokens(folder), sequences, sequence_length=length)
    watched = case.startswith("layers measured")
    content = request(folder, training, shape, vocabulary) | {"watch": {"layers_every_steps": int(watched)}}
    peaks = train_forked(folder, content, measure=True)
    estimates = memory_per_rank(ModelRecipe(**shape), training, vocabulary, "cpu", watched=watched)
    ranks_of_stage = training.layout.ranks // training.pp  # the pipeline is the outermost axis of torchtitan's mesh
    rows = []
    for stage, estimate in enumerate(estimates):
        measured = min(peaks[stage * ranks_of_stage : (stage + 1) * ranks_of_stage])
        error = round(estimate.total / measured - 1, 4)
        rows.append(Row(case, stage, measured, estimate.total, error, estimate.moment))
    return rows


def request(folder: Path, training: TrainingRecipe, shape: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """The recipe as a request on synthetic data."""
    degrees = ("dp_shard", "dp_replicate", "cp", "tp", "pp")
    return tiny.tiny_request(
        folder,
        folder / "out",
        model=shape | {"vocab_size": vocabulary},
        parallelism={name: getattr(training, name) for name in degrees},
        pipeline={"schedule": training.pipeline_schedule, "microbatch_size": training.microbatch_size},
        execution={"activation_checkpointing": training.activation_checkpointing},
        schedule={"total_steps": STEPS, "warmup_steps": 1, "decay_steps": 0, "peak_lr": 0.01},
        checkpoint_steps=[STEPS],
        global_batch_size=training.global_batch_size,
        local_batch_size=training.local_batch_size,
        precision=training.precision,
    )


if __name__ == "__main__":
    sys.exit(main())
