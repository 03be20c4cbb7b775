"""What a request asks of the machine, checked before a model is built: the libraries' own errors come later and say less."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch

from training.contract.errors import HardwareError
from training.contract.request import TrainRequest

FLOAT8_CAPABILITY = (8, 9)
"""CUDA compute capability of the first GPUs that multiply float8 (Ada; Hopper is 9.0)."""


def check_hardware(request: TrainRequest) -> None:
    """Raises HardwareError naming what the request asks for, what this machine has, and what to set instead."""
    if request.float8 is not None:
        _check_float8(request.float8)
    if request.parallelism.cp > 1 and not torch.cuda.is_available():
        raise HardwareError(
            f"parallelism.cp is {request.parallelism.cp}, but this machine has no CUDA device: torch's ring attention "
            "knows the CUDA attention kernels only. Set cp = 1 here"
        )
    compiler = os.environ.get("CXX", "g++")  # as torch's inductor looks for it
    if request.execution.compile and not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise HardwareError(
            f"execution.compile is on, but this machine has neither a CUDA device nor the C++ compiler {compiler!r} that "
            "torch.compile needs on a CPU. Install g++, set CXX, or set compile = false"
        )


def _check_float8(recipe: str) -> None:
    if find_spec("torchao") is None:
        raise HardwareError(
            f"float8 is {recipe!r}, but torchao, which converts the layers, is not installed. Install torchao on the training "
            "machine, or leave float8 out and train in bfloat16"
        )
    found = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    if found is None or found < FLOAT8_CAPABILITY:
        has = f"a GPU of compute capability {found[0]}.{found[1]}" if found else "no CUDA device"
        raise HardwareError(
            f"float8 is {recipe!r}, which needs a GPU of compute capability 8.9 or later; this machine has {has}. Leave "
            "float8 out and train in bfloat16"
        )
