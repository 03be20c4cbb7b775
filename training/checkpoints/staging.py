"""Copies a run's state into buffers that are allocated once: the only part of a save that the step waits for.

torch's own stager visits each of the optimiser's thousands of numbers with a deep copy; they cannot change and are
taken as they are, and all tensors are copied in one call. On the demo's model that is three times as fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor


class MemoryStager:
    """Holds one copy; the next `stage` overwrites it, so the save before must have ended."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The same tree with copies of the tensors, in main memory."""
        sources: list[torch.Tensor] = []
        targets: list[torch.Tensor] = []
        staged = self._copied(state_dict, "", sources, targets)
        with torch.no_grad():
            torch._foreach_copy_(targets, sources, non_blocking=torch.cuda.is_available())  # type: ignore[attr-defined]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return staged

    def _copied(self, value: Any, path: str, sources: list[torch.Tensor], targets: list[torch.Tensor]) -> Any:
        if isinstance(value, dict):
            return {key: self._copied(item, f"{path}/{key}", sources, targets) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copied(item, f"{path}/{at}", sources, targets) for at, item in enumerate(value)]
        if not isinstance(value, torch.Tensor):
            return value
        local = value.to_local() if isinstance(value, DTensor) else value
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
            buffer = torch.empty(local.shape, dtype=local.dtype, pin_memory=torch.cuda.is_available())
            self._buffers[path] = buffer
        sources.append(local.detach())
        targets.append(buffer)
        if not isinstance(value, DTensor):
            return buffer
        mesh, placements = value.device_mesh, value.placements
        return DTensor.from_local(buffer, mesh, placements, run_check=False, shape=value.shape, stride=value.stride())

    def close(self) -> None:
        """Give the buffers back."""
        self._buffers.clear()
