"""One seed checkpoint trained on by every layout that a CPU can run: do they follow the same curve?

    python -m tests.campaigns.layouts            some minutes; writes docs/results/layouts.json
    python -m tests.campaigns.layouts --only TP2 PP2

One process trains one step and saves. Every layout resumes from that checkpoint (so each resharding is tried too) and
trains ten more: its losses, gradient norms, clipping and final weights are compared with those of one process.
bfloat16 cannot resume a float32 checkpoint and starts from the same initial weights instead; it has a goal of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from tests.campaigns.forked_ranks import train_forked
from tests.training import tiny
from tests.training.running import read_metrics

CODE = ("training", "tests/campaigns/layouts.py")
STEPS = 10
SEED_STEP = 1
GOAL = 1e-4
"""Relative difference of losses and gradient norms: float32 sums in another order differ by some 1e-6."""
BFLOAT16_GOAL = 2e-2
"""bfloat16 keeps 8 bits of a product: 4e-3 each."""
MAX_GRADIENT_NORM = 0.84
"""Some of the eleven steps are clipped by it and some are not."""
SHAPE = {"dim": 64, "n_layers": 6, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 128, "sequence_length": 32}
NOT_RUN = {
    "context parallel": "needs CUDA: torch's ring attention has no CPU kernels; refused with that reason",
    "float8": "needs a GPU of compute capability 8.9; refused with that reason",
}
TWO_STAGES = {"local_batch_size": 4}

LAYOUTS: dict[str, dict[str, Any]] = {
    "1 process": {},
    "FSDP2x2": {"parallelism": {"dp_shard": 2}},
    "TP2": {"parallelism": {"tp": 2}},
    "PP2": {"parallelism": {"pp": 2}, **TWO_STAGES},
    "FSDP2xTP2": {"parallelism": {"dp_shard": 2, "tp": 2}},
    "FSDP2xPP2": {"parallelism": {"dp_shard": 2, "pp": 2}, **TWO_STAGES},
    "TP2xPP2": {"parallelism": {"tp": 2, "pp": 2}, **TWO_STAGES},
    "HSDP2x2": {"parallelism": {"dp_shard": 2, "dp_replicate": 2}},
    "DDP2": {"parallelism": {"dp_replicate": 2}},
    "PP2, interleaved": {"parallelism": {"pp": 2}, "pipeline": {"schedule": "Interleaved1F1B"}, **TWO_STAGES},
    "FSDP2x2, full checkpointing": {
        "parallelism": {"dp_shard": 2},
        "execution": {"activation_checkpointing": "full"},
    },
    "selective checkpointing": {"execution": {"activation_checkpointing": "selective"}},
    "compile": {"execution": {"compile": True}},
    "FSDP2x2, bfloat16": {"parallelism": {"dp_shard": 2}, "precision": "bfloat16"},
}


@dataclass(frozen=True)
class Row:
    """One layout against one process: the largest relative difference of any step."""

    layout: str
    ranks: int
    loss: float
    channel_loss: float
    gradient_norm: float
    weights: float
    """Largest difference of a final weight, as a share of the largest weight of its tensor."""
    clipped: list[int]
    """Steps whose gradients were clipped."""
    clipped_alike: bool
    goal: float
    seconds: float

    @property
    def met(self) -> bool:
        return max(self.loss, self.channel_loss, self.gradient_norm) <= self.goal and self.clipped_alike


def main() -> int:
    """Every layout; exits 1 where one leaves the curve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(LAYOUTS), help="these layouts, and no result is written")
    chosen = parser.parse_args().only
    with tempfile.TemporaryDirectory(prefix="layouts-") as name:
        folder = Path(name)
        tiny.write_order(folder, tiny.write_tokens(folder), sequences=8 * (SEED_STEP + STEPS))
        seed = write_seed(folder)
        reference = run(folder, "1 process", seed)
        rows = []
        for layout in chosen or LAYOUTS:
            rows.append(compare(folder, layout, seed, reference))
            show(rows[-1])
    print(f"{sum(row.met for row in rows)} of {len(rows)} layouts follow one process over {STEPS} steps")
    figures = {"not_run": NOT_RUN, "shape": SHAPE}
    return finish(result_of([asdict(row) | {"met": row.met} for row in rows], figures), write=chosen is None)


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was measured."""
    of = ("loss", "channel_loss", "gradient_norm")
    name = f"losses and gradient norms against one process over {STEPS} steps, relative, largest difference"
    goals = []
    for limit, precision in ((GOAL, "float32"), (BFLOAT16_GOAL, "bfloat16")):
        found = [row[each] for row in rows if row["goal"] == limit for each in of]
        goals += [Goal(f"{name}: {precision}", max(found), "<=", limit, of)] if found else []
    unlike = sum(not row["clipped_alike"] for row in rows)
    goals.append(Goal(f"layouts that clip other steps at {MAX_GRADIENT_NORM}", unlike, "<=", 0, ("clipped",)))
    not_judged = (
        why("the layout", "ranks", "shape")
        | why("the limit of the row", "goal")
        | why("no limit was asked for; the losses of eleven steps judge what weights do", "weights")
        | why("other work of the machine is in it", "seconds")
    )
    return Result("layouts", CODE, goals, rows, figures, not_judged)


def request(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Eleven steps of eight sequences; warm-up and decay lie inside them."""
    steps = SEED_STEP + STEPS
    schedule = {"total_steps": steps, "warmup_steps": 2, "decay_steps": 4, "peak_lr": 0.01, "min_lr_ratio": 0.1}
    given = {
        "schedule": schedule,
        "checkpoint_steps": [SEED_STEP, steps],
        "global_batch_size": 8,
        "local_batch_size": 2,
    }
    given["optimiser"] = {"max_gradient_norm": MAX_GRADIENT_NORM}
    return tiny.tiny_request(folder, output, model=SHAPE, **(given | changes))


def write_seed(folder: Path) -> Path:
    """The checkpoint that all layouts start from: one process trains to the end, and its first step is kept."""
    train_forked(folder / "seed", request(folder, folder / "seed/out"))
    return folder / "seed/out/checkpoints" / f"step-{SEED_STEP:08d}"


def run(folder: Path, layout: str, seed: Path) -> Path:
    """Train one layout from the seed; returns its output folder."""
    changes = LAYOUTS[layout]
    here = folder / layout.replace(", ", "-").replace(" ", "-")
    start = {} if "precision" in changes else {"resume_from": str(seed)}
    if not (here / "out").exists():
        train_forked(here, request(folder, here / "out", **start, **changes))
    return here / "out"


def compare(folder: Path, layout: str, seed: Path, reference: Path) -> Row:
    """Run one layout and measure how far from the reference it goes."""
    started = time.monotonic()
    output = run(folder, layout, seed)
    theirs, mine = ([line for line in read_metrics(out) if line["step"] > SEED_STEP] for out in (reference, output))
    assert [line["step"] for line in mine] == [line["step"] for line in theirs] == list(range(2, SEED_STEP + STEPS + 1))
    pairs = list(zip(mine, theirs, strict=True))
    channels = [(m["channel_loss"][name], t["channel_loss"][name]) for m, t in pairs for name in t["channel_loss"]]
    clipped, clipped_there = (
        [line["step"] for line in lines if line["gradient_norm"] > MAX_GRADIENT_NORM] for lines in (mine, theirs)
    )
    ranks = 1
    for degree in LAYOUTS[layout].get("parallelism", {}).values():
        ranks *= degree
    return Row(
        layout,
        ranks,
        max(_relative(m["loss"], t["loss"]) for m, t in pairs),
        max(_relative(*pair) for pair in channels),
        max(_relative(m["gradient_norm"], t["gradient_norm"]) for m, t in pairs),
        weight_difference(output, reference),
        clipped,
        clipped == clipped_there and 0 < len(clipped) < STEPS,
        BFLOAT16_GOAL if "precision" in LAYOUTS[layout] else GOAL,
        round(time.monotonic() - started, 1),
    )


def _relative(mine: float, theirs: float) -> float:
    return abs(mine - theirs) / abs(theirs)


def weight_difference(output: Path, reference: Path) -> float:
    """Of the last checkpoints' exports, tensor by tensor."""
    from safetensors.torch import load_file

    last = f"checkpoints/step-{SEED_STEP + STEPS:08d}/hf/model.safetensors"
    mine, theirs = load_file(output / last), load_file(reference / last)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)


def show(row: Row) -> None:
    """One line."""
    print(
        f"{row.layout:<28} {row.ranks} ranks {row.seconds:6.1f} s   loss {row.loss:.1e}   channels {row.channel_loss:.1e}   "
        f"norm {row.gradient_norm:.1e}   weights {row.weights:.1e}   clipped {row.clipped}   {'ok' if row.met else 'OFF'}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
