"""What a training job in somebody else's queue has in common, whether that is Slurm's or a Kubernetes cluster's."""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from assets.build import BuildError
from training.contract.request import TrainRequest


class QueuedJob(ABC):
    """A job that was sent. The queue is asked for it every `poll_s` seconds at most."""

    def __init__(self, log_path: Path, poll_s: float) -> None:
        self.log_path = log_path
        self.returncode = 0
        self.waiting = True
        self._poll_s = poll_s
        self._looked_at = 0.0

    def poll(self) -> int | None:
        """None while it waits or runs, and between two looks. Raises what `look` raises."""
        if time.monotonic() - self._looked_at < self._poll_s:
            return None
        self._looked_at = time.monotonic()
        succeeded = self.look()
        if succeeded is None:
            return None
        self.returncode = 0 if succeeded else 1
        return self.returncode

    @abstractmethod
    def look(self) -> bool | None:
        """Ask the queue and set `waiting`; whether the job succeeded, None while it has not ended."""


def ranks_per_node(request: TrainRequest, nodes: int, launcher: str) -> int:
    """Processes on each node. Raises BuildError when they do not spread evenly."""
    ranks = request.layout.ranks
    if ranks % nodes:
        raise BuildError(
            f"the layout's {ranks} ranks cannot be spread evenly over {nodes} nodes: change the layout, or "
            f"[training.{launcher}] nodes in the profile"
        )
    return ranks // nodes


def run_tool(launcher: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of the queue, whatever its exit status. Raises BuildError when this machine does not have it."""
    try:
        return subprocess.run(arguments, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"the profile says launcher = {launcher!r}, but this machine has no {arguments[0]}") from None
