"""The training program as every launcher starts it: its module, its ranks, their environment."""

from __future__ import annotations

import os

from orchestration.config import REPOSITORY
from training.contract.request import TrainRequest

PROGRAM = "training.main"


def module_path() -> str:
    """PYTHONPATH by which a rank finds the same modules as this process."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


def thread_settings(request: TrainRequest) -> dict[str, str]:
    """Environment of a rank.

    Libraries must not choose their number of threads: it decides in which order sums are taken.
    """
    return {"OMP_NUM_THREADS": str(request.threads), "OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"}
