"""A TrainRequest in torchtitan's terms: its JobConfig, and the TrainSpec that plugs our parts into its seams."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch.nn as nn
from torch.optim.lr_scheduler import LambdaLR
from torchtitan.components.lr_scheduler import LRSchedulersContainer, build_lr_schedulers
from torchtitan.components.optimizer import build_optimizers
from torchtitan.config import JobConfig
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.llama3.infra.parallelize import parallelize_llama
from torchtitan.protocols import train_spec as train_specs

from training.contract.request import Schedule, TrainRequest
from training.data.amended_order import AmendedReader, Amending
from training.data.opening import open_order
from training.data.order_dataset import OrderIdentity, OrderLoader
from training.machine.cpu_support import sum_gradients
from training.model.llama import SeededTransformer, model_args
from training.watching.monitor import ChannelLoss, StepMonitor

FLAVOUR = "requested"
FIRST_STEP_TIMEOUT_S = 600


def job_config(request: TrainRequest) -> JobConfig:
    """torchtitan's configuration of this run. What it does not set here keeps torchtitan's default."""
    config = JobConfig()
    config.job.dump_folder = str(request.output)
    config.job.description = request.run
    config.model.name = f"headwater/{request.run}"
    config.model.flavor = FLAVOUR
    config.metrics.log_freq = 1
    config.metrics.disable_color_printing = True
    _optimisation(config, request)
    _layout(config, request)
    config.activation_checkpoint.mode = request.execution.activation_checkpointing
    config.compile.enable = request.execution.compile
    config.compile.components = ["model"]  # the loss is ours
    if request.float8 is not None:
        config.model.converters = ["quantize.linear.float8"]
        config.quantize.linear.float8.recipe_name = request.float8
        config.quantize.linear.float8.filter_fqns = ["output"]
    config.debug.seed = request.seed
    config.comm.trace_buf_size = 0  # no flight recorder files
    # The first step includes what the ranks do at different speeds: building, compiling, loading a checkpoint.
    config.comm.init_timeout_seconds = math.ceil(max(request.step_timeout_s, FIRST_STEP_TIMEOUT_S))
    config.comm.train_timeout_seconds = math.ceil(request.step_timeout_s)
    return config


def _optimisation(config: JobConfig, request: TrainRequest) -> None:
    schedule, optimiser = request.schedule, request.optimiser
    config.optimizer.name = "AdamW"
    # One kernel that does its own arithmetic; "foreach" goes through the math library, see settle_math_library.
    config.optimizer.implementation = "fused"
    config.optimizer.lr = schedule.peak_lr
    config.optimizer.beta1 = optimiser.beta1
    config.optimizer.beta2 = optimiser.beta2
    config.optimizer.eps = optimiser.eps
    config.optimizer.weight_decay = optimiser.weight_decay
    config.lr_scheduler.warmup_steps = schedule.warmup_steps
    config.lr_scheduler.decay_ratio = schedule.decay_steps / schedule.total_steps
    config.lr_scheduler.decay_type = "linear"
    config.lr_scheduler.min_lr_factor = schedule.min_lr_ratio
    config.training.steps = schedule.total_steps
    config.training.max_norm = optimiser.max_gradient_norm
    config.training.seq_len = request.model.sequence_length
    config.training.local_batch_size = request.local_batch_size
    config.training.global_batch_size = request.global_batch_size
    config.training.dtype = "float32"
    config.training.mixed_precision_param = request.precision
    config.training.mixed_precision_reduce = "float32"


def _layout(config: JobConfig, request: TrainRequest) -> None:
    layout = request.parallelism
    config.parallelism.data_parallel_shard_degree = layout.dp_shard
    config.parallelism.data_parallel_replicate_degree = layout.dp_replicate
    config.parallelism.tensor_parallel_degree = layout.tp
    config.parallelism.pipeline_parallel_degree = layout.pp
    config.parallelism.context_parallel_degree = layout.cp
    config.parallelism.pipeline_parallel_schedule = request.pipeline.schedule
    config.parallelism.pipeline_parallel_microbatch_size = request.pipeline.microbatch_size


def amended_schedule(amending: Amending, schedule: Schedule) -> Callable[..., LRSchedulersContainer]:
    """torchtitan's schedule, with what the amendments say of a step."""

    def amended(given: Callable[[int], float], done: int) -> float:
        share, step = given(done), done + 1
        if amending.now.holds_to_plan(step) and step <= schedule.total_steps:
            share = min(share, schedule.learning_rate(step) / schedule.peak_lr)
        return share * amending.now.learning_rate_factor(step)

    def build(*arguments: Any) -> LRSchedulersContainer:
        container = build_lr_schedulers(*arguments)
        for scheduler in container.schedulers:
            assert isinstance(scheduler, LambdaLR)
            # A partial, as torchtitan's own: checkpoints keep a plain function's state in another form.
            scheduler.lr_lambdas = [functools.partial(amended, given) for given in scheduler.lr_lambdas]
        return container

    return build


def register(
    request: TrainRequest, loss: ChannelLoss, report: Callable[[dict[str, Any]], None], amending: Amending
) -> None:
    """Make this run known to torchtitan under `headwater/<run>`."""

    class RequestedTransformer(SeededTransformer):
        seed = request.seed

    def build_loader(dp_world_size: int, dp_rank: int, **_: Any) -> OrderLoader:
        return OrderLoader(
            AmendedReader(lambda: open_order(request), amending),
            OrderIdentity(request.data.order_fingerprint, request.decay_order_fingerprint, request.decay_from),
            request.local_batch_size,
            dp_rank,
            dp_world_size,
            with_documents=request.mask_documents,
        )

    def parallelise(model: nn.Module, parallel_dims: Any, config: JobConfig) -> nn.Module:
        model = parallelize_llama(model, parallel_dims, config)
        sum_gradients(model)
        return model

    def build_monitor(config: JobConfig, parallel_dims: Any, _: Any) -> StepMonitor:
        return StepMonitor(config, parallel_dims, request, loss, report)

    train_specs.register_train_spec(
        f"headwater/{request.run}",
        train_specs.TrainSpec(
            model_cls=RequestedTransformer,
            model_args={FLAVOUR: model_args(request.model, request.mask_documents)},
            parallelize_fn=parallelise,
            pipelining_fn=pipeline_llm,
            build_optimizers_fn=build_optimizers,
            build_lr_schedulers_fn=amended_schedule(amending, request.schedule),
            build_dataloader_fn=build_loader,  # type: ignore[arg-type]  # ours needs no tokenizer or batch size
            build_tokenizer_fn=None,
            build_loss_fn=lambda *_, **__: loss,
            build_metrics_processor_fn=build_monitor,
            state_dict_adapter=None,  # the export has its own, see hf_export.py
        ),
    )
