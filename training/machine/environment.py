"""Where a run computes: the machine and the libraries that its numbers may depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on besides its request."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "ranks": dist.get_world_size() if dist.is_initialized() else 1,
        "threads": torch.get_num_threads(),
        "libraries": {name: version(name) for name in ("torch", "torchtitan", "numpy", "pyarrow", "safetensors")},
    }
