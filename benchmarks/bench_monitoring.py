"""What watching a run costs: time spent on measuring, over the time of the steps, of the demo's model.

    python -m benchmarks.bench_monitoring            writes docs/results/bench_monitoring.json

The program takes the time itself (`monitoring_s` of metrics.jsonl): losses per sequence and channel, reductions, bands,
files, and every tenth step the norms of each layer. So numerator and denominator are of the same steps, and a busy machine
slows both. The first steps warm up and are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from assets.build import SilentProgress
from benchmarks.results import Goal, Result, finish, why
from orchestration.launch.trainer import LocalTrainer
from tests.training import planted
from tests.training.tiny import write_request

STEPS, WARM_UP, EVERY = 60, 9, 10
LARGEST_SHARE = 0.02
CODE = (
    *(
        "training/watching/monitor.py",
        "training/contract/bands.py",
        "training/watching/layers.py",
        "training/watching/sequence_losses.py",
    ),
    *("training/watching/throughput.py", "training/trainer.py", "benchmarks/bench_monitoring.py"),
)
MODEL = {"dim": 128, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 8192, "sequence_length": 256}


def measure(folder: Path) -> dict[str, float]:
    """One run of the demo's model, layers watched every 10 steps."""
    planted.write_world(folder, folder, STEPS, sequence_length=MODEL["sequence_length"])
    request = planted.planted_request(
        folder,
        folder / "out",
        STEPS,
        model=MODEL,
        checkpoint_steps=[STEPS],
        watch={"layers_every_steps": EVERY},
        threads=2,
    )
    LocalTrainer().run(write_request(folder, request), folder, SilentProgress())
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()][WARM_UP:]
    plain = [line["monitoring_s"] for line in lines if line["step"] % EVERY]
    layers = [line["monitoring_s"] for line in lines if line["step"] % EVERY == 0]
    return {
        "step_s": statistics.median(line["step_s"] for line in lines),
        "monitoring_s": statistics.median(plain),
        "monitoring_s_of_layer_steps": statistics.median(layers),
        "monitoring_share": sum(plain + layers) / sum(line["step_s"] for line in lines),
    }


def main() -> int:
    """Exit status 0 if watching costs less than its limit."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="monitoring-") as folder:
        found = measure(Path(folder))
    return finish(result_of([found]))


def result_of(rows: list[dict[str, float]], figures: dict[str, Any] | None = None) -> Result:
    """What was asked for and what was measured."""
    share = rows[0]["monitoring_share"]
    of = ("monitoring_share", "monitoring_s", "monitoring_s_of_layer_steps")
    goals = [Goal("monitoring, share of the step time", share, "<=", LARGEST_SHARE, of)]
    not_judged = why("the model's own time, of which the share is taken", "step_s")
    return Result("bench_monitoring", CODE, goals, rows, figures or {}, not_judged)


if __name__ == "__main__":
    raise SystemExit(main())
