"""Kill -9 of a process of a run that is under way."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.training.running import ranks_of, read_metrics


def victims(request_path: Path) -> list[psutil.Process]:
    """torchrun's agent and its ranks, by process id."""
    mine = os.getpid()
    return sorted((p for p in ranks_of(str(request_path)) if p.pid != mine), key=lambda process: process.pid)


def kill_one(request_path: Path, draw: random.Random) -> str | None:
    """SIGKILL one of them, as the kernel would for want of memory; says which, or None if there was none."""
    found = victims(request_path)
    if not found:
        return None
    process = draw.choice(found)
    kind = "agent" if "torch.distributed.run" in process.cmdline() else "rank"
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
        return kind
    return None


def killer_at_step(request_path: Path, output: Path, step: int, draw: random.Random) -> Callable[[], None]:
    """For `on_poll`: kills once, some milliseconds after the step was recorded."""
    done: list[str] = []

    def look() -> None:
        lines = read_metrics(output)
        if not done and lines and lines[-1]["step"] >= step:
            time.sleep(draw.random() * 0.2)
            if killed := kill_one(request_path, draw):
                done.append(killed)

    return look
