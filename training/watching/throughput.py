"""How fast a run is against what its devices could do, and when it will end."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

import torch

from training.contract.request import ModelShape

SIDE = 1024
"""Of the square matrices that a CPU multiplies to show its peak: 2.1 GFLOP, beyond the caches' reach of small ones."""
TRIES = 5


def flops_per_token(shape: ModelShape, parameters: int) -> int:
    """Forward and backward: 6 per multiplied parameter, and attention's 12 * layers * width * length (PaLM, app. B)."""
    multiplied = parameters - shape.vocab_size * shape.dim  # the embedding is looked up
    return 6 * multiplied + 12 * shape.n_layers * shape.dim * shape.sequence_length


def peak_flops() -> float:
    """FLOP/s of one rank's device: the vendor's dense bfloat16 figure of a known GPU, else the best matrix product measured."""
    if torch.cuda.is_available():
        from torchtitan.tools.utils import get_peak_flops

        return float(get_peak_flops(torch.cuda.get_device_name()))
    left, right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    best = float("inf")
    for _ in range(TRIES):
        begin = time.perf_counter()
        torch.matmul(left, right)
        best = min(best, time.perf_counter() - begin)
    return 2 * SIDE**3 / best


class Throughput:
    """Model FLOPs utilisation and time left, step by step."""

    def __init__(self, flops_per_token: int, peak: float, total_steps: int) -> None:
        """`peak` is that of all devices together."""
        self._flops_per_token, self._peak, self._total = flops_per_token, peak, total_steps
        self._seconds: deque[float] = deque(maxlen=64)

    def of_step(self, step: int, seconds: float, tokens_per_s: float) -> dict[str, float]:
        """mfu and eta_s after a step. The median forgives the steps that compile or wait for a disk."""
        self._seconds.append(seconds)
        return {
            "mfu": tokens_per_s * self._flops_per_token / self._peak,
            "eta_s": (self._total - step) * median(self._seconds),
        }
