"""What our trainer costs beside a bare torch loop, what a checkpoint costs the step, and how long a start takes.

    python -m benchmarks.bench_training [--steps 60]

The demo's model and batch on this machine. Our training loop and a bare one (forward, cross-entropy, backward, clip,
fused AdamW; nothing else) take turns in one process, five steps each, so that whatever else the machine does falls on
both; of each the lower quartile counts. A checkpoint is saved every tenth step; the steps around it are not counted as
steps, but as what the save costs. A start is from the launch of torchrun to the first step in metrics.jsonl. Exits non-zero where a goal is missed, and
writes docs/results/bench_training.json.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench_loader import LOCAL_BATCH, SEQUENCE_LENGTH, VOCABULARY, data_of, make
from benchmarks.measuring import apart, cpu_s
from benchmarks.results import Goal, Result, finish, why

CODE = ("training", "orchestration/launch/trainer.py", "benchmarks/bench_training.py")
SHAPE = {"dim": 128, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2, "vocab_size": VOCABULARY}
TURN = 5
WARM_UP = 10
SAVE_EVERY = 10


def request_of(folder: Path, steps: int, threads: int, rolling: int | None) -> dict[str, Any]:
    """The demo's model and batch."""
    return {
        "run": "bench",
        "model": SHAPE | {"sequence_length": SEQUENCE_LENGTH},
        "schedule": {"total_steps": steps, "warmup_steps": 2, "decay_steps": 0, "peak_lr": 1e-3},
        "global_batch_size": LOCAL_BATCH,
        "local_batch_size": LOCAL_BATCH,
        "seed": 1,
        "checkpoint_steps": [steps],
        "rolling_every_steps": rolling,
        "data": data_of(folder / "data"),
        "tokenizer_version": "bench",
        "output": str(folder / f"out-{steps}"),
        "threads": threads,
    }


def bare_loop(threads: int) -> Callable[[], None]:
    """One step of the same model in plain torch."""
    import torch
    import torch.nn.functional as F

    from training.contract.request import ModelShape
    from training.model.llama import SeededTransformer, model_args

    torch.set_num_threads(threads)
    model = SeededTransformer(model_args(ModelShape(**SHAPE, sequence_length=SEQUENCE_LENGTH)))
    model.init_weights()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, VOCABULARY, (LOCAL_BATCH, SEQUENCE_LENGTH + 1))

    def step() -> None:
        optimiser.zero_grad()
        logits = model(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def in_turn(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Seconds and CPU seconds of our steps and of bare ones, and what each save cost."""
    from training.contract.request import TrainRequest
    from training.machine import cpu_support
    from training.main import prepare

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    request = TrainRequest.model_validate(request_of(folder, steps, threads, SAVE_EVERY))
    prepare(request, folder / "logs")
    cpu_support.enable()
    from training.trainer import OrderedTrainer

    ours: list[tuple[float, float, bool]] = []
    bare: list[tuple[float, float]] = []
    stalls: list[float] = []
    bare_step = bare_loop(threads)
    was_saving = False

    class InTurn(OrderedTrainer):
        started: tuple[float, float] | None = None

        def should_continue_training(self) -> bool:
            """Called between two steps, so whatever the loop does in one is between two calls."""
            nonlocal was_saving
            now = time.perf_counter(), cpu_s()
            if self.started is not None:
                saving = was_saving or self.step % SAVE_EVERY == 0  # the save, and the writing behind steps
                ours.append((now[0] - self.started[0], now[1] - self.started[1], saving))
                if self.step % SAVE_EVERY == 0:
                    stalls.append(self.checkpointer.save_stall_s)
            if self.step % TURN == 0 and self.step % SAVE_EVERY:
                self.checkpointer.wait()  # what is still being written is not the bare loop's to bear
                for _ in range(TURN):
                    before = time.perf_counter(), cpu_s()
                    bare_step()
                    bare.append((time.perf_counter() - before[0], cpu_s() - before[1]))
            was_saving = self.checkpointer.saving
            self.started = time.perf_counter(), cpu_s()
            return super().should_continue_training()

    trainer = InTurn(request, lambda metrics: None)
    trainer.train()
    trainer.close()
    plain = [(wall, cpu) for wall, cpu, saving in ours[WARM_UP:] if not saving]
    behind = [wall for wall, _, saving in ours[WARM_UP:] if saving]
    bare = bare[TURN:]
    step_s = lower_quartile(wall for wall, _ in plain)
    return {
        "what": "steps in turn",
        "threads": threads,
        "our_step_s": step_s,
        "bare_step_s": lower_quartile(wall for wall, _ in bare),
        "our_step_cpu_s": lower_quartile(cpu for _, cpu in plain),
        "bare_step_cpu_s": lower_quartile(cpu for _, cpu in bare),
        "saves": len(stalls),
        "save_stall_s": statistics.median(stalls),
        "save_stall_share_of_step": statistics.median(stalls) / step_s,
        "step_while_saving_s": statistics.median(behind),
    }


def lower_quartile(seconds: Iterable[float]) -> float:
    """What a step takes when nothing disturbs it: other work on the machine only ever adds."""
    return statistics.quantiles(seconds, n=4)[0]


def start(folder: Path) -> dict[str, Any]:
    """Launch to first step, and to the end of a run of two steps."""
    from assets.build import SilentProgress
    from orchestration.launch.trainer import NO_RESTARTS, launch

    path = folder / "start" / "request.json"
    path.parent.mkdir(exist_ok=True)
    request = request_of(folder, 2, 2, None) | {"output": str(folder / "start" / f"out-{time.monotonic_ns()}")}
    path.write_text(json.dumps(request), "utf-8")
    metrics, first = Path(request["output"]) / "metrics.jsonl", []
    before, began = cpu_s(), time.perf_counter()

    def look() -> None:
        if not first and metrics.is_file():
            first.append(time.perf_counter() - began)

    launch(path, folder / "start", SilentProgress(), NO_RESTARTS, on_poll=look)
    return {
        "what": "start",
        "to_first_step_s": first[0],
        "whole_run_s": time.perf_counter() - began,
        "cpu_s": cpu_s() - before,
    }


def main() -> int:
    """Run, print the table, write the result, say whether the goals were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "data", arguments.steps * LOCAL_BATCH)
        steps = apart(in_turn, folder, arguments.steps, arguments.threads)
        starts = [apart(start, folder) for _ in range(arguments.starts)]
    for row in (steps, *starts):
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return finish(result_of([steps, *starts]))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any] | None = None) -> Result:
    """What was asked for and what was measured."""
    steps, *starts = rows
    cpu, wall = (steps[f"bare_step{unit}"] / steps[f"our_step{unit}"] for unit in ("_cpu_s", "_s"))
    stall, start = steps["save_stall_share_of_step"], min(row["cpu_s"] for row in starts)
    goals = [
        Goal("bare step / our step (CPU seconds)", cpu, ">=", 0.97, ("bare_step_cpu_s", "our_step_cpu_s")),
        Goal("bare step / our step (wall)", wall, ">=", 0.97, ("bare_step_s", "our_step_s")),
        Goal(
            "a save holds the step for (share of a step)", stall, "<=", 0.05,
            ("save_stall_s", "save_stall_share_of_step"),
        ),
        Goal("a start, launch to exit of two steps (CPU seconds)", start, "<=", 15.0, ("cpu_s",)),
    ]  # fmt: skip
    not_judged = (
        why("what was asked for", "threads", "saves")
        | why("other work of the machine is in it; CPU seconds are judged", "to_first_step_s", "whole_run_s")
        | why("writing behind steps shares their cores; no limit was asked for", "step_while_saving_s")
    )
    return Result("bench_training", CODE, goals, rows, figures or {}, not_judged)


if __name__ == "__main__":
    sys.exit(main())
