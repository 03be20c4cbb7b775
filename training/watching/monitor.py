"""What is measured at each step: the loss per channel, the true gradient norm, and where time went.

`metrics.jsonl` in the output folder is the truth, one line per step; the launcher and every
dashboard mirror it. A step that is trained again after an interruption replaces its line.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from torchtitan.components.metrics import MetricsProcessor

from training.contract import outputs
from training.contract.errors import NonFiniteLossError
from training.contract.request import TrainRequest
from training.machine.durable_files import write_durably
from training.model.llama import parameter_count
from training.watching.boards import (
    close_all,
    open_boards,
    scalars_of,
    scalars_of_heldout,
    scalars_of_rows,
    write_all,
)
from training.watching.layers import LayerWatch
from training.watching.reduction import batch_rank, summed_over_tokens
from training.watching.sequence_losses import SequenceLosses
from training.watching.throughput import Throughput, flops_per_token, peak_flops


class ChannelLoss:
    """Cross-entropy summed over tokens, remembering the sums of each sequence and channel.

    Called once per micro-batch, also by the pipeline schedule, with views of the labels that `expect`
    was given: their offset says which rows they are. The schedule's dry run comes first and is
    overwritten. `divisor` is what the schedule cannot do itself: torchtitan 0.2.2 does not divide the
    pipeline's loss before its backward pass, so its gradients (their norm, their clipping) would be
    too large by the number of tokens.
    """

    def __init__(self, channels: int) -> None:
        self.divisor: torch.Tensor | float = 1.0
        self.columns = channels
        """Groups that tokens are summed by; others than channels while documents are scored."""
        self.seconds = 0.0
        """Spent remembering, since someone last set it to 0."""
        self._settled: list[torch.Tensor] = []
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
        begin = time.perf_counter()
        assert self._expected is not None, "expect() comes before the forward pass"
        all_channels, all_labels = self._expected
        if isinstance(losses, DTensor):
            losses = losses.full_tensor()
        row = int(labels.storage_offset() - all_labels.storage_offset()) // all_labels.stride(0)
        channels = all_channels[row : row + labels.shape[0]].to(losses.device)
        losses = losses.view(channels.shape)
        sums = torch.empty(2, len(channels), self.columns, dtype=torch.float64, device=losses.device)
        for channel in range(self.columns):
            mine = channels == channel
            sums[0, :, channel] = torch.where(mine, losses, 0.0).sum(1, dtype=torch.float64)
            sums[1, :, channel] = mine.sum(1)
        self._rows[row] = sums
        self.seconds += time.perf_counter() - begin

    def _settle(self) -> None:
        """What was remembered of the expected labels; zeros where another pipeline stage computes the loss."""
        if self._expected is None:
            return
        settled = torch.zeros(2, len(self._expected[1]), self.columns, dtype=torch.float64)
        for row, sums in self._rows.items():
            settled[:, row : row + sums.shape[1]] = sums.cpu()
        self._settled.append(settled)
        self._rows.clear()
        self._expected = None

    def take(self) -> torch.Tensor:
        """Sums since the last call, [2, sequences, channels]: first the losses, then the tokens. Sequences as they came."""
        self._settle()
        taken = torch.cat(self._settled, dim=1)
        self._settled.clear()
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
        self._path = request.output / outputs.METRICS
        self._sequences = SequenceLosses(request.output, request.global_batch_size)
        self.layers: LayerWatch | None = None
        """Set by the trainer, once there is an optimiser."""
        self.boards = open_boards(request) if dist.get_rank() == 0 else []
        parameters = parameter_count(request.model)
        peak = peak_flops() * dist.get_world_size()
        self._throughput = Throughput(flops_per_token(request.model, parameters), peak, request.schedule.total_steps)
        self.carried_s = 0.0
        """Spent on writing and judging the last row: counted in the next one, which is not written yet."""
        self.last: dict[str, Any] = {}
        """Metrics of the last step."""
        self.sequence_losses = torch.empty(0)
        """Mean loss of each sequence of the last step, in order."""

    def should_log(self, step: int) -> bool:
        """Every step."""
        return True

    def start_step(self) -> None:
        """Start the clock: time spent saving the previous step is not this step's."""
        self.time_last_log = time.perf_counter()
        self.data_loading_times.clear()
        self._loss.seconds = 0.0

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
        trained = time.perf_counter()
        sums, sequence_sums, gradient_norm = self._reduced(float(grad_norm))
        tokens = float(sums[1].sum())
        seconds = time.perf_counter() - self.time_last_log
        self.sequence_losses = sequence_sums / self._request.model.sequence_length
        self.last = {
            "step": step,
            "loss": float(sums[0].sum()) / tokens,
            "gradient_norm": gradient_norm,
            "learning_rate": (extra_metrics or {})["lr"],
            "tokens_seen": self._request.tokens_seen(step),
            "tokens_per_s": tokens / seconds,
            "data_wait_s": sum(self.data_loading_times),
            "step_s": seconds,
            **self._throughput.of_step(step, seconds, tokens / seconds),
            "channel_loss": {
                name: float(sums[0, number] / sums[1, number])
                for number, name in enumerate(self._request.data.channels)
                if sums[1, number]
            },
        }
        if not all(math.isfinite(self.last[name]) for name in ("loss", "gradient_norm")):
            if self._request.incidents is None or not self._request.incidents.react:
                raise self._non_finite()
            return  # the incident is looked into, and the step trained again
        layers = self.layers.end(step, gradient_norm, self.job_config.training.max_norm) if self.layers else []
        self.last["monitoring_s"] = (
            time.perf_counter() - trained + self._loss.seconds + (self.layers.seconds if self.layers else 0.0)
        ) + self.carried_s
        begin = time.perf_counter()
        if dist.get_rank() == 0:
            self._write(layers)
        self.carried_s = time.perf_counter() - begin

    def _reduced(self, gradient_norm: float) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(sums of channels, loss sums of the step's sequences in order, gradient norm of rank 0): equal on all ranks.

        Decisions are made from these numbers on every rank, so they must not differ in a last bit.
        """
        taken = self._loss.take()
        request = self._request
        losses = torch.zeros(
            request.global_batch_size // (request.local_batch_size * request.layout.dp),
            request.layout.dp,
            request.local_batch_size,
            dtype=torch.float64,
        )
        losses[:, batch_rank(self.parallel_dims)] = taken[0].sum(1).view(len(losses), request.local_batch_size)
        sums = torch.cat([taken.sum(1).flatten(), losses.flatten(), torch.zeros(1, dtype=torch.float64)])
        if dist.get_rank() == 0:
            sums[-1] = gradient_norm
        sums = summed_over_tokens(sums, self.parallel_dims)
        of_channels = 2 * len(request.data.channels)
        return sums[:of_channels].view(2, -1), sums[of_channels:-1], float(sums[-1])

    def _non_finite(self) -> NonFiniteLossError:
        name = next(name for name in ("loss", "gradient_norm") if not math.isfinite(self.last[name]))
        return NonFiniteLossError(
            f"{name} became {self.last[name]} at step {self.last['step']} (learning rate "
            f"{self.last['learning_rate']:.3g}, loss per channel {self.last['channel_loss']}); nothing of this step was "
            "saved. Lower peak_lr or look at the sequences of this step in the order manifest, then run again: "
            "it resumes from the last complete checkpoint"
        )

    def _write(self, layers: list[dict[str, Any]]) -> None:
        append_rows(self._path, [self.last])
        append_rows(self._path.with_name(outputs.LAYERS), layers)
        if self.boards:
            write_all(self.boards, self.last["step"], scalars_of(self.last) | scalars_of_rows(layers, "layer"))
        self._sequences.write(self.last["step"], self.sequence_losses.numpy())
        step, request = self.last["step"], self._request
        if step == 1 or step % request.report_every_steps == 0 or step == request.schedule.total_steps:
            self._report({**self.last, "total_steps": request.schedule.total_steps})

    def write_heldout(self, rows: list[dict[str, Any]]) -> None:
        """Rows of heldout.jsonl; on rank 0."""
        append_rows(self._path.with_name(outputs.HELDOUT), rows)
        if self.boards:
            write_all(self.boards, rows[0]["step"], scalars_of_heldout(rows))

    def close(self) -> None:
        """Write out what the boards have buffered."""
        close_all(self.boards)
        super().close()


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add lines to a metrics file."""
    if rows:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def truncate_metrics(path: Path, step: int) -> None:
    """Drop what was recorded after `step`: those steps are about to be trained again."""
    if not path.is_file():
        return
    write_durably(path, "".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step))
