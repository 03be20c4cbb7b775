"""The training program as every launcher starts it: its module, its ranks, their environment."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from orchestration.config import REPOSITORY

PROGRAM = "training.main"


def ranks_of(request: Mapping[str, Any]) -> int:
    """Processes that the request's layout needs."""
    return math.prod(degree for degree in request.get("parallelism", {}).values() if isinstance(degree, int))


def module_path() -> str:
    """PYTHONPATH by which a rank finds the same modules as this process."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


def thread_settings(request: Mapping[str, Any]) -> dict[str, str]:
    """Environment of a rank.

    Libraries must not choose their number of threads: it decides in which order sums are taken.
    """
    return {"OMP_NUM_THREADS": str(request.get("threads", 1)), "OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"}
