"""The training program, stopped hard after a given step: `... --request request.json`, step in STOP_AFTER_STEP.

STOP_HOW: kill = SIGKILL of this rank, as the kernel would; nan = the loss becomes NaN; hang = wait forever;
hang-last = only the last rank does. STOP_ONCE: a file; only the program that makes it stops.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from training import main as program
from training.machine import cpu_support

cpu_support.enable()

from training.watching.monitor import StepMonitor  # noqa: E402

log = StepMonitor.log


def _first(once: str | None) -> bool:
    try:
        return once is None or os.open(once, os.O_CREAT | os.O_EXCL) >= 0
    except FileExistsError:
        return False


def stopping_log(self: StepMonitor, step: int, *metrics: Any, **named: Any) -> None:
    stop = step == int(os.environ["STOP_AFTER_STEP"]) and _first(os.environ.get("STOP_ONCE"))
    if stop and os.environ["STOP_HOW"] == "nan":
        self._loss._settle()
        self._loss._settled[0] += float("nan")
    log(self, step, *metrics, **named)
    if stop and os.environ["STOP_HOW"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if stop and (os.environ["STOP_HOW"] == "hang" or (os.environ["STOP_HOW"] == "hang-last" and last)):
        time.sleep(600)


StepMonitor.log = stopping_log  # type: ignore[method-assign]

if __name__ == "__main__":
    raise SystemExit(program.main())
