"""Sums over the ranks of a run, of what each has counted of its own tokens."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torchtitan.distributed import ParallelDims


def batch_rank(parallel_dims: ParallelDims) -> int:
    """Which of the data-parallel ranks this one is: they read different sequences."""
    return parallel_dims.get_mesh("batch").get_local_rank() if parallel_dims.dp_enabled else 0


def summed_over_tokens(sums: torch.Tensor, parallel_dims: ParallelDims) -> torch.Tensor:
    """Sums over tokens, of all ranks; equal on each, in main memory. Tensor-parallel ranks saw the same tokens."""
    counted = not (parallel_dims.tp_enabled and parallel_dims.get_mesh("tp").get_local_rank() > 0)
    return summed(sums if counted else torch.zeros_like(sums))


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """The sum of all ranks' numbers; equal on each, in main memory."""
    if dist.get_world_size() == 1:
        return numbers
    on_device = numbers.to("cuda" if torch.cuda.is_available() else "cpu", copy=True)
    dist.all_reduce(on_device)
    return on_device.cpu()
