"""The training program with an optimiser that goes wrong: `... --request request.json`.

FAULT_FACTOR times the learning rate in steps FAULT_FIRST to FAULT_LAST. FAULT_HIDDEN=1: the optimiser applies it and says
nothing, so that the recorded learning rate is the planned one. Deterministic: it comes back at every attempt.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from training import main as program
from training.machine import cpu_support

cpu_support.enable()

from torch.optim.lr_scheduler import LambdaLR  # noqa: E402
from torchtitan.components.lr_scheduler import LRSchedulersContainer, build_lr_schedulers  # noqa: E402
from torchtitan.components.optimizer import OptimizersContainer  # noqa: E402

from training import job  # noqa: E402

FIRST, LAST = int(os.environ["FAULT_FIRST"]), int(os.environ["FAULT_LAST"])
FACTOR = float(os.environ["FAULT_FACTOR"])


def faulty(planned: Any, done: int) -> float:
    return planned(done) * (FACTOR if FIRST <= done + 1 <= LAST else 1.0)


def faulty_schedule(*arguments: Any) -> LRSchedulersContainer:
    container = build_lr_schedulers(*arguments)
    for scheduler in container.schedulers:
        assert isinstance(scheduler, LambdaLR)
        scheduler.lr_lambdas = [functools.partial(faulty, planned) for planned in scheduler.lr_lambdas]
    return container


step = OptimizersContainer.step


def faulty_step(self: OptimizersContainer, *arguments: Any, **named: Any) -> None:
    groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
    taken = next(iter(self.optimizers[0].state.values()), {}).get("step", 0)
    planned = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] *= FACTOR if FIRST <= int(taken) + 1 <= LAST else 1.0
    step(self, *arguments, **named)
    for group, rate in zip(groups, planned, strict=True):
        group["lr"] = rate


if os.environ.get("FAULT_HIDDEN") == "1":
    OptimizersContainer.step = faulty_step  # type: ignore[method-assign]
else:
    job.build_lr_schedulers = faulty_schedule  # type: ignore[assignment]

if __name__ == "__main__":
    raise SystemExit(program.main())
