"""What is measured at each step: the loss per channel, the true gradient norm, and where time went.

`metrics.jsonl` in the output folder is the truth, one line per step; the launcher and every
dashboard mirror it. A step that is trained again after an interruption replaces its line.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from torchtitan.components.metrics import MetricsProcessor

from training.errors import NonFiniteLossError
from training.request import TrainRequest


class ChannelLoss:
    """Cross-entropy summed over tokens, remembering the sums of each channel.

    Called once per micro-batch, also by the pipeline schedule, with views of the labels that `expect`
    was given: their offset says which rows they are. The schedule's dry run comes first and is
    overwritten. `divisor` is what the schedule cannot do itself: torchtitan 0.2.2 does not divide the
    pipeline's loss before its backward pass, so its gradients (their norm, their clipping) would be
    too large by the number of tokens.
    """

    def __init__(self, channels: int) -> None:
        self.divisor: torch.Tensor | float = 1.0
        self._total = torch.zeros(2, channels, dtype=torch.float64)
        self._rows: dict[int, torch.Tensor] = {}
        self._expected: tuple[torch.Tensor, torch.Tensor] | None = None

    def expect(self, channels: torch.Tensor, labels: torch.Tensor) -> None:
        """Channel numbers of the labels that come next, whole or in micro-batches."""
        self._settle()
        self._expected = channels, labels

    def __call__(self, prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(prediction.flatten(0, 1).float(), labels.flatten(0, 1), reduction="none")
        self._remember(losses.detach(), labels)
        return losses.sum() / self.divisor

    def _remember(self, losses: torch.Tensor, labels: torch.Tensor) -> None:
        assert self._expected is not None, "expect() comes before the forward pass"
        all_channels, all_labels = self._expected
        if isinstance(losses, DTensor):
            losses = losses.full_tensor()
        row = int(labels.storage_offset() - all_labels.storage_offset()) // all_labels.stride(0)
        channels = all_channels[row : row + labels.shape[0]].flatten().to(losses.device)
        sums = torch.zeros_like(self._total)
        for channel in range(sums.shape[1]):
            mine = losses[channels == channel]
            sums[0, channel] = mine.sum(dtype=torch.float64).cpu()
            sums[1, channel] = mine.numel()
        self._rows[row] = sums

    def _settle(self) -> None:
        for row in sorted(self._rows):
            self._total += self._rows[row]
        self._rows.clear()

    def take(self) -> torch.Tensor:
        """Sums since the last call: row 0 the losses, row 1 the tokens, one column per channel."""
        self._settle()
        taken = self._total.clone()
        self._total.zero_()
        return taken


class StepMonitor(MetricsProcessor):
    """torchtitan's metrics seam: reduces, checks and records each step, prints nothing."""

    def __init__(
        self,
        job_config: Any,
        parallel_dims: Any,
        request: TrainRequest,
        loss: ChannelLoss,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__(job_config, parallel_dims)
        self._request = request
        self._loss = loss
        self._report = report
        self._path = request.output / "metrics.jsonl"
        self.last: dict[str, Any] = {}
        """Metrics of the last step."""

    def should_log(self, step: int) -> bool:
        """Every step."""
        return True

    def start_step(self) -> None:
        """Start the clock: time spent saving the previous step is not this step's."""
        self.time_last_log = time.perf_counter()
        self.data_loading_times.clear()

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Record one step. Raises NonFiniteLossError, so that nothing of a broken step is saved.

        torchtitan's own averages are not used: pipeline stages without the loss report -1.
        """
        sums = self._reduced()
        tokens = float(sums[1].sum())
        seconds = time.perf_counter() - self.time_last_log
        self.last = {
            "step": step,
            "loss": float(sums[0].sum()) / tokens,
            "gradient_norm": float(grad_norm),
            "learning_rate": (extra_metrics or {})["lr"],
            "tokens_seen": self._request.tokens_seen(step),
            "tokens_per_s": tokens / seconds,
            "data_wait_s": sum(self.data_loading_times),
            "step_s": seconds,
            "channel_loss": {
                name: float(sums[0, number] / sums[1, number])
                for number, name in enumerate(self._request.data.channels)
                if sums[1, number]
            },
        }
        self._refuse_non_finite()
        if dist.get_rank() == 0:
            self._write()

    def _reduced(self) -> torch.Tensor:
        sums = self._loss.take()
        if self.parallel_dims.tp_enabled and self.parallel_dims.get_mesh("tp").get_local_rank() > 0:
            sums.zero_()  # tensor-parallel ranks saw the same tokens
        if dist.get_world_size() > 1:
            on_device = sums.to(torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu"))
            dist.all_reduce(on_device)
            sums = on_device.cpu()
        return sums

    def _refuse_non_finite(self) -> None:
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(self.last[name]):
                raise NonFiniteLossError(
                    f"{name} became {self.last[name]} at step {self.last['step']} (learning rate "
                    f"{self.last['learning_rate']:.3g}, loss per channel {self.last['channel_loss']}); nothing of this step was "
                    "saved. Lower peak_lr or look at the sequences of this step in the order manifest, then run again: "
                    "it resumes from the last complete checkpoint"
                )

    def _write(self) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.last) + "\n")
        step, request = self.last["step"], self._request
        if step == 1 or step % request.report_every_steps == 0 or step == request.schedule.total_steps:
            self._report({**self.last, "total_steps": request.schedule.total_steps})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def truncate_metrics(path: Path, step: int) -> None:
    """Drop what was recorded after `step`: those steps are about to be trained again."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
