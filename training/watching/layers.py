"""Per layer, every so many steps: gradient norm, weight norm, update over weight, size of the activations.

The update is measured, not derived: a copy of the weights from before the optimiser's step is subtracted from those
after it, so it is true for any optimiser; the copy lives for one step and takes 4 bytes per parameter of the rank.
One layer's gradient that leaves its own band is an anomaly: often it comes before the loss shows anything.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate

from training.contract.bands import Band, BandLimits
from training.model.llama import plain_name
from training.watching.reduction import summed

if TYPE_CHECKING:
    from torchtitan.components.optimizer import OptimizersContainer

    from training.contract.request import TrainRequest

MEASURED = 5
"""Sums per layer: squares of gradients, weights, updates and activations, and how many activations."""


def layer_names(n_layers: int) -> list[str]:
    """Layers in the order of the forward pass; the same list on every pipeline stage."""
    return ["tok_embeddings", *(f"layers.{number}" for number in range(n_layers)), "norm", "output"]


def layer_of(parameter: str) -> str:
    """Layer of a parameter, by its name."""
    parts = plain_name(parameter).split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


class LayerWatch:
    """Measures the layers of the steps that are due."""

    def __init__(
        self,
        request: TrainRequest,
        model_parts: list[torch.nn.Module],
        optimizers: OptimizersContainer,
        limits: BandLimits,
    ) -> None:
        self._every = request.watch.layers_every_steps
        self._names = layer_names(request.model.n_layers)
        self._bands = {name: Band(limits) for name in self._names}
        self._smallest = math.log(limits.smallest_gradient_ratio)
        self._pp = request.parallelism.pp
        self._parts = model_parts
        self._due = False
        self.seconds = 0.0
        """Spent measuring in the step."""
        self._before: list[torch.Tensor] = []
        self._sums = torch.zeros(len(self._names), MEASURED, dtype=torch.float64)
        if self._every:
            for part in model_parts:
                for name, block in getattr(part, "layers", torch.nn.ModuleDict()).named_children():
                    block.register_forward_hook(self._seen(self._names.index(f"layers.{name}")))
            optimizers.register_step_pre_hook(self._before_step)
            optimizers.register_step_post_hook(self._after_step)

    def begin(self, step: int) -> None:
        """Before the forward pass of a step."""
        self._due = bool(self._every) and step % self._every == 0
        self.seconds = 0.0
        if self._due:
            self._sums.zero_()

    def _seen(self, row: int) -> Any:
        def remember(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            if self._due:
                begin = time.perf_counter()
                mine = _local(output.detach())
                self._sums[row, 3] += float(mine.float().square().sum())
                self._sums[row, 4] += mine.numel()
                self.seconds += time.perf_counter() - begin

        return remember

    def _parameters(self) -> list[tuple[int, torch.nn.Parameter]]:
        return [
            (self._names.index(layer_of(name)), parameter)
            for part in self._parts
            for name, parameter in part.named_parameters()
        ]

    def _before_step(self, *_: Any) -> None:
        if not self._due:
            return
        begin = time.perf_counter()
        self._before = []
        for row, parameter in self._parameters():
            share = 1 / self._copies(parameter)
            if parameter.grad is not None:
                self._sums[row, 0] += share * _squares(_placed_as(parameter.grad, parameter))
            self._before.append(_local(parameter.detach()).clone())
        self.seconds += time.perf_counter() - begin

    def _after_step(self, *_: Any) -> None:
        if not self._due:
            return
        begin = time.perf_counter()
        for (row, parameter), before in zip(self._parameters(), self._before, strict=True):
            share, now = 1 / self._copies(parameter), _local(parameter.detach())
            self._sums[row, 1] += share * _squares(now)
            self._sums[row, 2] += share * _squares(now - before)
        self._before = []
        self.seconds += time.perf_counter() - begin

    def _copies(self, parameter: torch.Tensor) -> int:
        """Ranks that hold the same numbers of a parameter."""
        ranks = dist.get_world_size() // self._pp
        if not isinstance(parameter, DTensor):
            return ranks
        mesh = parameter.device_mesh
        kept = [mesh.size(dim) for dim, placed in enumerate(parameter.placements) if isinstance(placed, Replicate)]
        return ranks // mesh.size() * math.prod(kept)

    def end(self, step: int, gradient_norm: float, max_gradient_norm: float) -> list[dict[str, Any]]:
        """Rows of the step that was due, equal on all ranks; none otherwise. The gradient norms are those before clipping."""
        if not self._due:
            return []
        self._due = False
        sums = summed(self._sums)
        clipped = max(1.0, gradient_norm / max_gradient_norm)
        return [self._row(step, name, row, clipped) for name, row in zip(self._names, sums.tolist(), strict=True)]

    def _row(self, step: int, name: str, sums: list[float], clipped: float) -> dict[str, Any]:
        gradient, weight, update = (math.sqrt(value) for value in sums[:3])
        norm = clipped * gradient
        judged = None
        if math.isfinite(norm) and norm > 0:
            judged = self._bands[name].judge(step, math.log(norm), self._smallest)
        return {
            "step": step,
            "layer": name,
            "gradient_norm": norm,
            "weight_norm": weight,
            "update_ratio": update / weight if weight else 0.0,
            "activation_rms": math.sqrt(sums[3] / sums[4]) if sums[4] else None,
            "anomaly": judged is not None and judged[1] > 0,
        }


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _placed_as(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Tensor parallel leaves some gradients as sums still to be taken."""
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        return gradient.redistribute(placements=parameter.placements)
    return gradient


def _squares(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(_local(tensor).float()).double().square())
