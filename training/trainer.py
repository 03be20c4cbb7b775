"""torchtitan's Trainer on our order, loss and checkpoints. The loop is `train()`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config import JobConfig
from torchtitan.distributed.context_parallel import cp_shard
from torchtitan.distributed.utils import set_pg_timeouts
from torchtitan.train import Trainer

from training.checkpoints.hf_import import load_start
from training.checkpoints.saving import ListedCheckpoints
from training.contract import outputs
from training.contract.bands import BandLimits
from training.contract.errors import OrderError
from training.contract.request import TrainRequest
from training.data.amended_order import Amending
from training.data.opening import open_heldout
from training.data.order_dataset import OrderLoader
from training.job import job_config, register
from training.model.llama import seed_of
from training.recovery.reactions import Recovery
from training.watching.boards import catch_up
from training.watching.heldout import heldout_rows
from training.watching.layers import LayerWatch
from training.watching.monitor import ChannelLoss, StepMonitor, truncate_metrics
from training.watching.scoring import PieceScorer

PLANNED = object()
"""Stands where torchtitan would have a tokenizer: the documents of a sequence are those of the order."""


class OrderedTrainer(Trainer):
    """Trains one request; `report` receives the metrics of a step now and then, on rank 0."""

    metrics_processor: StepMonitor
    checkpointer: ListedCheckpoints

    def __init__(self, request: TrainRequest, report: Callable[[dict[str, Any]], None]) -> None:
        self.request = request
        self.channel_loss = ChannelLoss(len(request.data.channels))
        config = job_config(request)
        self.amending = Amending()
        register(request, self.channel_loss, report, self.amending)
        super().__init__(config)
        if request.mask_documents:
            # torchtitan asks the model for masks only where there is a tokenizer to find document ends with.
            self.tokenizer = cast(BaseTokenizer, PLANNED)
        assert isinstance(self.dataloader, OrderLoader)
        planned = self.dataloader.planned_sequences
        if planned < request.sequences:
            raise OrderError(
                f"the order plans {planned} sequences, but {request.schedule.total_steps} steps of "
                f"{request.global_batch_size} need {request.sequences}"
            )
        self.checkpointer = self._listed_checkpoints(config)
        self.scorer = PieceScorer(request, self.forward_only, self.channel_loss, self.model_parts, self.parallel_dims)
        self.recovery = Recovery(self)
        limits = request.incidents or BandLimits.model_validate({})
        self.layers = LayerWatch(request, self.model_parts, self.optimizers, limits)
        self.metrics_processor.layers = self.layers

    def _listed_checkpoints(self, config: JobConfig) -> ListedCheckpoints:
        """Replaces torchtitan's manager, which saves at intervals and which Trainer builds disabled."""
        config.checkpoint.enable = True
        config.checkpoint.async_mode = "async"  # gives the writers a process group of their own
        config.checkpoint.keep_latest_k = 0
        saved_config = config.to_dict()
        saved_config["job"]["dump_folder"] = ""  # a path of this machine
        return ListedCheckpoints(
            request=self.request,
            job_config=saved_config,
            describe=self._describe,
            dataloader=self.dataloader,
            model_parts=self.model_parts,
            optimizers=self.optimizers,
            lr_schedulers=self.lr_schedulers,
            states={"train_state": self},
            checkpoint_config=config.checkpoint,
            sd_adapter=None,
        )

    def _describe(self) -> dict[str, Any]:
        last = self.metrics_processor.last
        return {
            "run": self.request.run,
            "train_loss": last["loss"],
            "learning_rate": last["learning_rate"],
            "amendments": self.amending.now.until(last["step"]),
        }

    def train(self) -> None:
        """From the last complete checkpoint, or from the start, to the last step."""
        if self.recovery.resume().kind == "hugging face" and self.request.start_from_hf is not None:
            load_start(self.request.start_from_hf, self.request.model, self.model_parts)
        if dist.get_rank() == 0:
            for name in (outputs.METRICS, outputs.LAYERS, outputs.HELDOUT):
                truncate_metrics(self.request.output / name, self.step)
            catch_up(self.metrics_processor.boards, self.request.output)
        dist.barrier()
        self.recovery.begin()
        assert isinstance(self.dataloader, OrderLoader)
        batches = self.batch_generator(self.dataloader)
        first = self.step + 1
        while self.should_continue_training():
            self.step += 1
            self.gc_handler.run(self.step)
            self.recovery.set_clipping()
            self.layers.begin(self.step)
            self.metrics_processor.start_step()
            seed_step(self.request.seed, self.step)
            self.train_step(batches)
            self.recovery.watch()
            self._score_heldout()
            self.checkpointer.save(self.step)
            if self.step == first:
                timeout = timedelta(seconds=self.job_config.comm.train_timeout_seconds)
                set_pg_timeouts(timeout, self.parallel_dims)
        self.checkpointer.wait()
        self.recovery.end()

    def _score_heldout(self) -> None:
        every = self.request.watch.heldout_every_steps
        if every and (self.step % every == 0 or self.step == self.request.schedule.total_steps):
            rows = heldout_rows(self.scorer, open_heldout(self.request), self.step)
            if dist.get_rank() == 0:
                self.metrics_processor.write_heldout(rows)

    def post_dataloading_process(
        self, input_dict: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], dict[str, Any]]:
        """The channels go to the loss, not to the model; context parallel cuts them as it cuts the labels."""
        channels = input_dict.pop("channels")
        inputs, labels, extra_inputs, extra_kwargs = super().post_dataloading_process(input_dict, labels)
        if self.parallel_dims.cp_enabled:
            balancer = self.job_config.parallelism.context_parallel_load_balancer
            (channels,), _ = cp_shard(self.parallel_dims.get_mesh("cp"), (channels,), None, balancer)
        self.channel_loss.expect(channels, labels)
        return inputs, labels, extra_inputs, extra_kwargs

    @torch.no_grad()
    def forward_only(self, tokens: torch.Tensor, pieces: torch.Tensor) -> None:
        """One local batch through model, schedule and loss; its sums per piece are left in the loss."""
        batch = {"input": tokens[:, :-1], "channels": pieces[:, 1:]}
        if self.request.mask_documents:
            batch["documents"] = pieces[:, :-1]
        batch = {name: values.to(self.device) for name, values in batch.items()}
        inputs, labels, extra, masks = self.post_dataloading_process(batch, tokens[:, 1:].to(self.device))
        with self.train_context():
            if self.parallel_dims.pp_enabled:
                targets, losses = (labels, []) if self.pp_has_last_stage else (None, None)
                arguments = (inputs,) if self.pp_has_first_stage else ()
                extra = extra if self.pp_has_first_stage else {}
                self.pp_schedule.eval(*arguments, **extra, **masks, target=targets, losses=losses)
            else:
                with self.maybe_enable_amp:
                    self.channel_loss(self.model_parts[0](inputs, **extra, **masks), labels)

    def forward_backward_step(
        self, *, input_dict: dict[str, torch.Tensor], labels: torch.Tensor, global_valid_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Divides the loss so that gradients are means over the tokens of the step, where torchtitan 0.2.2 fails to.

        With pipeline stages the loss itself must divide: torchtitan would do it after the backward pass. Replicas without
        shards (DDP) average gradients over themselves again. They cannot sum instead: after the first of several
        micro-batches a gradient is a sum already, and would be summed once more with each of the others.
        """
        if self.parallel_dims.dp_replicate_enabled and not self.parallel_dims.fsdp_enabled:
            global_valid_tokens = global_valid_tokens / self.parallel_dims.dp_replicate
        if self.parallel_dims.pp_enabled:
            self.channel_loss.divisor = global_valid_tokens
            global_valid_tokens = torch.ones(())
        return super().forward_backward_step(
            input_dict=input_dict, labels=labels, global_valid_tokens=global_valid_tokens
        )

    def state_dict(self) -> dict[str, Any]:
        """Only the step: torchtitan's token counter is per rank and would tie a checkpoint to its layout."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the saved step."""
        self.step = state_dict["step"]


def seed_step(seed: int, step: int) -> None:
    """Random numbers are a function of the step: there is no generator state to save, and none that a new layout lacks.

    The same on every rank, as tensor-parallel ranks need it; torchtitan's Llama draws none.
    """
    torch.manual_seed(seed_of(seed, step))
