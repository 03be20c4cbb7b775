"""From recipes and planned data to the JSON request that the training program reads.

What the two programs agree on is training/contract/. Rules that a person can break in a recipe are those of
training/contract/rules.py, checked here before anything is built.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from assets.build import BuildError, Segment
from assets.mixture.phases import phase_orders
from training.contract.bands import IncidentPolicy
from training.contract.request import (
    Data,
    DecayData,
    Execution,
    HfStart,
    ModelShape,
    Optimiser,
    Parallelism,
    Pipeline,
    Schedule,
    TrainRequest,
    Watch,
)
from training.contract.rules import Layout, head_problems, layout_problems, refuse, schedule_problems

VOCABULARY_MULTIPLE = 128
"""The embedding gets this multiple of rows, whatever the layout: kernels and the shards of any tp divide evenly, so that
one run's weights fit every layout."""


NOTHING_WATCHED = Watch()


class ModelRecipe(BaseModel):
    """A Llama's shape; the tokenizer decides the vocabulary. Defaults: the demo's 3.2 million parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(128, gt=0, description="width of the residual stream")
    n_layers: int = Field(6, gt=0, description="transformer blocks")
    n_heads: int = Field(4, gt=0, description="attention heads; must divide dim")
    n_kv_heads: int = Field(2, gt=0, description="key and value heads; must divide n_heads")
    ffn_dim_multiplier: float = Field(1.0, gt=0, description="SwiGLU width = 8/3 * dim * this, rounded up")
    multiple_of: int = Field(64, gt=0, description="what the SwiGLU width is rounded up to")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary frequencies; larger for long context")
    norm_eps: float = Field(1e-5, gt=0, description="RMSNorm epsilon")
    sequence_length: int = Field(256, gt=1, description="tokens that one training sequence predicts")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        refuse(head_problems(self.dim, self.n_heads, self.n_kv_heads))
        return self

    @property
    def ffn_dim(self) -> int:
        """Width of the SwiGLU, by torchtitan's rule."""
        width = int(self.ffn_dim_multiplier * int(2 * 4 * self.dim / 3))
        return self.multiple_of * -(-width // self.multiple_of)


class TrainingRecipe(BaseModel):
    """Schedule, batch and layout of a run. Defaults: the demo, about three minutes on two CPU cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    total_steps: int = Field(750, gt=0, description="optimiser steps")
    warmup_steps: int = Field(40, ge=0, description="steps of linear warm-up")
    decay_steps: int = Field(150, ge=0, description="steps of linear decay at the end: the decay phase of the mixture")
    peak_lr: float = Field(6e-3, gt=0, lt=1, description="learning rate of the stable phase")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="floor of the decay, as a share of peak_lr")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: memory of the gradient")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW: memory of its square; 0.95 as in Llama")
    weight_decay: float = Field(0.1, ge=0, description="AdamW: decoupled decay per unit of learning rate")
    max_gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    global_batch_size: int = Field(8, gt=0, description="sequences per optimiser step")
    local_batch_size: int = Field(8, gt=0, description="sequences a rank works on at once; more ranks or memory: tune")
    seed: int = Field(1, ge=0, description="initial weights; the order of the data has its own seed")
    start_from_hf: str | None = Field(
        None, description="folder of a Hugging Face Llama of this shape (config.json, *.safetensors) to begin with"
    )
    start_weights_sha256: str | None = Field(
        None, description="digest of its weights: what is trained from is pinned by content, not by a path"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of matrix products; bfloat16 on GPUs")
    mask_documents: bool = Field(
        False, description="attention stays inside each document of a packed sequence; false: it sees those before"
    )
    checkpoint_every_steps: int = Field(250, gt=0, description="besides these, the last step is always saved")
    early_checkpoint_steps: tuple[int, ...] = Field((1,), description="saved too, to see where the trend begins")
    rolling_every_steps: int | None = Field(
        None, gt=0, description="saved besides, only to resume from; the newest two are kept, none is published"
    )
    keep_states: Literal["all", "ends"] = Field(
        "all",
        description="checkpoints that stay resumable: all, or the ends of the stable phase (where decays branch off) and of the "
        "run; the others keep their model alone, a quarter of the bytes",
    )
    step_timeout_s: float = Field(600, gt=0, description="a rank that lets the others wait longer ends the run")
    dp_shard: int = Field(1, gt=0, description="FSDP2 ranks")
    dp_replicate: int = Field(1, gt=0, description="replicas of the FSDP group (HSDP), or of the model")
    cp: int = Field(1, gt=0, description="context-parallel ranks: each has a part of every sequence; needs CUDA")
    tp: int = Field(1, gt=0, description="tensor-parallel ranks, with sequence parallel; at most 8, inside a node")
    pp: int = Field(1, gt=0, description="pipeline-parallel ranks")
    pipeline_schedule: Literal["1F1B", "Interleaved1F1B"] = Field(
        "1F1B", description="Interleaved1F1B: two stages on each rank, a smaller bubble, more messages"
    )
    microbatch_size: int = Field(1, gt=0, description="sequences of one micro-batch of the pipeline")
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none", description="layers computed again in the backward pass: none, every second, all; if memory requires"
    )
    compile: bool = Field(False, description="torch.compile of each block; needs a C++ compiler, or a GPU")
    float8: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] | None = Field(
        None, description="torchao's scaling recipe of the linear layers; needs a GPU of compute capability 8.9"
    )
    threads: int = Field(2, gt=0, description="CPU threads of each rank; part of what makes losses bit-identical")
    tokens_per_s_estimate: float | None = Field(
        None, gt=0, description="of the whole run, for the time estimate; null = from the measured CPU constant"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse(schedule_problems(self.warmup_steps, self.decay_steps, self.total_steps) + layout_problems(self.layout))
        if any(not 0 < step <= self.total_steps for step in self.early_checkpoint_steps):
            raise ValueError(
                f"early_checkpoint_steps {list(self.early_checkpoint_steps)} must lie in 1..{self.total_steps}"
            )
        return self

    @property
    def layout(self) -> Layout:
        """How its ranks divide the work."""
        return Layout(**{field.name: getattr(self, field.name) for field in fields(Layout)})

    @model_validator(mode="after")
    def _start_is_pinned(self) -> Self:
        if (self.start_from_hf is None) != (self.start_weights_sha256 is None):
            raise ValueError("start_from_hf and start_weights_sha256 go together: the folder, and what must be in it")
        return self

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps whose model is kept, ascending."""
        regular = range(self.checkpoint_every_steps, self.total_steps + 1, self.checkpoint_every_steps)
        return sorted({*self.early_checkpoint_steps, *regular, self.total_steps})

    @property
    def state_steps(self) -> list[int] | None:
        """Steps whose checkpoint stays resumable; None: all."""
        if self.keep_states == "all":
            return None
        stable = [step for step in self.checkpoint_steps if step <= self.total_steps - self.decay_steps]
        return sorted({*stable[-1:], self.total_steps})

    @property
    def sequences(self) -> int:
        """Sequences that the whole run reads."""
        return self.total_steps * self.global_batch_size


def vocabulary_size(tokenizer: Segment) -> int:
    """Ids that the tokenizer can produce: the highest plus one."""
    content = json.loads(tokenizer.path("tokenizer.json").read_text("utf-8"))
    ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content.get("added_tokens", []))]
    if not ids:
        raise BuildError(
            f"tokenizer {tokenizer.version}: tokenizer.json has an empty vocabulary; rebuild the tokenizer"
        )
    return max(ids) + 1


def padded_vocabulary(size: int) -> int:
    """Rows of the embedding."""
    return VOCABULARY_MULTIPLE * -(-size // VOCABULARY_MULTIPLE)


def channels_of(order: Segment) -> list[str]:
    """Channels that the order uses, sorted."""
    found: set[str] = set()
    for batch in order.batches("order", ["channel"], rows=65536):
        found.update(pc.unique(batch.column("channel")).to_pylist())
    return sorted(found)


def train_request(
    run: str,
    model: ModelRecipe,
    training: TrainingRecipe,
    *,
    order: Segment,
    shards: Segment,
    tokenizer: Segment,
    output: Path,
    scratch: Path,
    incidents: IncidentPolicy | None = None,
    watch: Watch = NOTHING_WATCHED,
) -> TrainRequest:
    """The request of one run."""
    encoding = json.loads(shards.path("encoding.json").read_text("utf-8"))
    vocabulary = vocabulary_size(tokenizer)
    if encoding["vocabulary_size"] != vocabulary:
        raise BuildError(
            f"token_shards were encoded with a vocabulary of {encoding['vocabulary_size']}, the tokenizer has {vocabulary}: "
            "they are not of one build; the run must read the versions that its mixture_manifest pinned"
        )
    stable, *decay = phase_orders(order)
    return TrainRequest(
        run=run,
        model=ModelShape(**model.model_dump(), vocab_size=padded_vocabulary(vocabulary)),
        parallelism=Parallelism(**_pick(training, Parallelism)),
        pipeline=Pipeline(schedule=training.pipeline_schedule, microbatch_size=training.microbatch_size),
        execution=Execution(**_pick(training, Execution)),
        schedule=Schedule(**_pick(training, Schedule)),
        optimiser=Optimiser(**_pick(training, Optimiser)),
        global_batch_size=training.global_batch_size,
        local_batch_size=training.local_batch_size,
        seed=training.seed,
        precision=training.precision,
        float8=training.float8,
        mask_documents=training.mask_documents,
        threads=training.threads,
        checkpoint_steps=tuple(training.checkpoint_steps),
        rolling_every_steps=training.rolling_every_steps,
        state_steps=None if training.state_steps is None else tuple(training.state_steps),
        step_timeout_s=training.step_timeout_s,
        start_from_hf=_start(training),
        data=Data(
            order=stable.files,
            order_fingerprint=stable.fingerprint,
            decay=DecayData(order=decay[0].files, order_fingerprint=decay[0].fingerprint) if decay else None,
            index=tuple(shards.plain("index", scratch)),
            shards={name: path for name, path in sorted(shards.files.items()) if name.endswith(".bin")},
            dtype=encoding["dtype"],
            channels=tuple(channels_of(order)),
        ),
        tokenizer_version=tokenizer.version,
        end_of_document_id=encoding["end_of_text_id"],
        output=output,
        incidents=incidents,
        watch=watch,
    )


def _start(training: TrainingRecipe) -> HfStart | None:
    if training.start_from_hf is None or training.start_weights_sha256 is None:
        return None
    return HfStart(folder=Path(training.start_from_hf), weights_sha256=training.start_weights_sha256)


def _pick(recipe: BaseModel, table: type[BaseModel]) -> dict[str, Any]:
    """The fields of a table of the request that the recipe has under the same name."""
    return {name: getattr(recipe, name) for name in table.model_fields if name in type(recipe).model_fields}


def write_request(folder: Path, request: TrainRequest) -> Path:
    """request.json in `folder`; the program leaves its logs and its error beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "request.json"
    path.write_text(request.model_dump_json(indent=1) + "\n", "utf-8")
    return path


def check_order_covers(order: Segment, training: TrainingRecipe) -> None:
    """Raises BuildError unless the order plans exactly the sequences 0, 1, ... that the schedule reads, in order."""
    planned = 0
    for batch in order.batches("order", ["sequence"], rows=65536):
        found = batch.column("sequence").to_numpy()
        steps = np.diff(found, prepend=planned - 1)
        if (gap := int(np.argmax((steps < 0) | (steps > 1)))) or not 0 <= steps[0] <= 1:
            raise BuildError(
                f"order_manifest {order.partition}: sequence {found[gap]} comes after {found[gap] - steps[gap]}, but "
                "sequences follow each other without a gap; build order_manifest again"
            )
        planned = int(found[-1]) + 1
    if planned != training.sequences:
        raise BuildError(
            f"order_manifest {order.partition} plans {planned} sequences, but total_steps ({training.total_steps}) * "
            f"global_batch_size ({training.global_batch_size}) = {training.sequences} are read: order and schedule must "
            "come from the same recipe; build order_manifest again"
        )
