"""Goodput of a run that loses a process every two minutes: useful step time over wall time.

    make campaign-goodput     about nine minutes; writes docs/results/goodput.json

The demo's model, started once; a rank or torchrun's agent is killed with SIGKILL every 120 seconds and the launcher
restarts the run from its last rolling checkpoint. A step counts once, by the attempt whose weights the run kept.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from assets.build import SilentProgress
from benchmarks import bench_loader
from benchmarks.results import Goal, Result, finish, why
from orchestration.launch.trainer import NO_RESTARTS, launch
from orchestration.training_place import TrainingPlace
from tests.campaigns.killing import kill_one, victims
from tests.training.running import read_metrics
from tests.training.tiny import write_request

CODE = ("training", "orchestration/launch", "tests/campaigns/goodput.py")
GOAL = 0.8
SHAPE = {"dim": 128, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2, "vocab_size": bench_loader.VOCABULARY}
CALIBRATION_STEPS = 20
ROLLING_EVERY_S = 5.0


def request_of(data: Path, output: Path, steps: int, rolling: int | None) -> dict[str, Any]:
    """The demo's model and batch."""
    return {
        "run": "goodput",
        "model": SHAPE | {"sequence_length": bench_loader.SEQUENCE_LENGTH},
        "schedule": {"total_steps": steps, "warmup_steps": 2, "decay_steps": 0, "peak_lr": 1e-3},
        "global_batch_size": bench_loader.LOCAL_BATCH,
        "local_batch_size": bench_loader.LOCAL_BATCH,
        "seed": 1,
        "checkpoint_steps": [steps],
        "rolling_every_steps": rolling,
        "data": bench_loader.data_of(data),
        "tokenizer_version": "goodput",
        "output": str(output),
        "threads": 2,
    }


def calibrate(folder: Path, data: Path) -> tuple[float, float]:
    """(seconds of a step, seconds from the launch to the first one recorded) on this machine, now."""
    request = write_request(folder, request_of(data, folder / "out", CALIBRATION_STEPS, None))
    started, first = time.monotonic(), []

    def look() -> None:
        if not first and read_metrics(folder / "out"):
            first.append(time.monotonic() - started)

    launch(request, folder, SilentProgress(), NO_RESTARTS, on_poll=look)
    return statistics.median(line["step_s"] for line in read_metrics(folder / "out")), first[0]


def disturbed(
    folder: Path, data: Path, steps: int, rolling: int, every_s: float, draw: random.Random
) -> dict[str, Any]:
    """One launch to the last step, a kill every `every_s` seconds."""
    output = folder / "out"
    request = write_request(folder, request_of(data, output, steps, rolling))
    started, kills = time.monotonic(), []

    def look() -> None:
        now = time.monotonic() - started
        if now > every_s * (len(kills) + 1):
            lines = read_metrics(output)
            kills.append(
                {"at_s": round(now, 1), "step": lines[-1]["step"] if lines else 0, "killed": kill_one(request, draw)}
            )

    launch(request, folder, SilentProgress(), TrainingPlace.model_validate({"restarts": 3}), on_poll=look)
    wall = time.monotonic() - started
    lines = read_metrics(output)
    attempts = [json.loads(line) for line in (output / "attempts.jsonl").read_text().splitlines()]
    landed = [kill for kill in kills if kill["killed"]]  # there may be nothing to kill between two attempts
    return {
        "wall_s": wall,
        "useful_s": sum(line["step_s"] for line in lines),
        "goodput": sum(line["step_s"] for line in lines) / wall,
        "steps": len(lines),
        "each_step_once": [line["step"] for line in lines] == list(range(1, steps + 1)),
        "steps_trained_again": sum(k["step"] - a["step"] for k, a in zip(landed, attempts[1:], strict=False)),
        "attempts": attempts,
        "kills": kills,
        "orphans": len(victims(request)),
    }


def main() -> int:
    """Run, write the result; exit 1 where the goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=480.0, help="of useful work")
    parser.add_argument("--kill-every-s", type=float, default=120.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        step_s, start_s = calibrate(root / "calibration", bench_data(root, CALIBRATION_STEPS))
        steps = round(arguments.seconds / step_s)
        rolling = max(1, round(ROLLING_EVERY_S / step_s))
        print(f"a step takes {step_s:.3f} s, a start {start_s:.1f} s: {steps} steps, saved every {rolling}", flush=True)
        data = bench_data(root, steps)
        result = disturbed(root / "run", data, steps, rolling, arguments.kill_every_s, random.Random(1))
    asked = {"kill_every_s": arguments.kill_every_s, "rolling_every_steps": rolling}
    rows = result.pop("kills")
    return finish(result_of(rows, asked | {"step_s": step_s, "start_s": start_s} | result))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    name = f"goodput with a kill every {figures['kill_every_s']:g} s"
    goals = [
        Goal(name, figures["goodput"], ">=", GOAL, ("goodput", "useful_s", "wall_s")),
        Goal("every step recorded once", figures["each_step_once"], ">=", 1, ("steps",)),
        Goal("processes orphaned", figures["orphans"], "<=", 0, ("orphans",)),
        Goal("kills that landed", sum(bool(row["killed"]) for row in rows), ">=", 1, ()),
    ]
    not_judged = (
        why("what was asked for", "kill_every_s", "rolling_every_steps")
        | why("of this machine, measured before to size the run", "step_s", "start_s")
        | why("what the kills cost; goodput judges it", "steps_trained_again", "attempts")
        | why("when the kill came", "at_s", "step")
    )
    return Result("goodput", CODE, goals, rows, figures, not_judged)


def bench_data(root: Path, steps: int) -> Path:
    """Enough made-up documents for so many steps: about 1.5 sequences each."""
    folder = root / f"data-{steps}"
    bench_loader.make(folder, max(200, steps * bench_loader.LOCAL_BATCH))
    return folder


if __name__ == "__main__":
    sys.exit(main())
