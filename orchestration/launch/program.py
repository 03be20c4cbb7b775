"""The training program as every launcher starts it: its module, its ranks, their environment."""

from __future__ import annotations

import os

from orchestration.config import REPOSITORY
from training.contract.request import TrainRequest

PROGRAM = "training.main"
_NEVER_BYTES = 2**44
"""More free memory than any rank has: nothing is given back before it ends."""


def module_path() -> str:
    """PYTHONPATH by which a rank finds the same modules as this process."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


def rank_environment(request: TrainRequest) -> dict[str, str]:
    """Environment of a rank: what libraries must not choose for themselves.

    The number of threads decides in which order sums are taken. glibc gives the buffers of every step back to the
    system, which has to clear them for the next: kept instead, a step on CPUs costs 14-20% less.
    """
    threads = {"OMP_NUM_THREADS": str(request.threads), "OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"}
    return threads | {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(_NEVER_BYTES)}
