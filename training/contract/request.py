"""What a training run is asked to do: one JSON file, read before anything heavy is imported.

Everything that decides the weights is in `TrainRequest.identity()`; the rest (folders, layout,
threads, which steps to save) may differ between an attempt and the attempt that resumes it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from training.contract.bands import IncidentPolicy
from training.contract.errors import RequestError
from training.contract.rules import (
    Layout,
    Shape,
    fit_problems,
    head_problems,
    layout_problems,
    refuse,
    schedule_problems,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelShape(_Strict):
    """A Llama: RMSNorm, rotary positions without scaling, SwiGLU, grouped-query attention, untied embeddings."""

    dim: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    vocab_size: PositiveInt
    """Rows of the embedding: the tokenizer's size padded up, so that kernels and shards divide evenly."""
    sequence_length: PositiveInt
    ffn_dim_multiplier: PositiveFloat = 1.0
    multiple_of: PositiveInt = 64
    """The SwiGLU width is 8/3 * dim * ffn_dim_multiplier, rounded up to a multiple of this."""
    rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        refuse(head_problems(self.dim, self.n_heads, self.n_kv_heads))
        return self

    @property
    def cut(self) -> Shape:
        """What a layout cuts."""
        return Shape(self.n_layers, self.n_heads, self.n_kv_heads, self.sequence_length, self.vocab_size)


class Parallelism(_Strict):
    """Degrees of each axis; their product is the number of ranks."""

    dp_shard: PositiveInt = 1  # FSDP2
    dp_replicate: PositiveInt = 1  # replicas of the whole (DDP), or of the FSDP group (HSDP)
    cp: PositiveInt = 1  # each rank holds a part of every sequence
    tp: PositiveInt = 1  # with sequence parallel, always: torchtitan's Llama has no other tensor parallel
    pp: PositiveInt = 1


class Pipeline(_Strict):
    """How micro-batches go through the pipeline's stages."""

    schedule: Literal["1F1B", "Interleaved1F1B"] = "1F1B"
    microbatch_size: PositiveInt = 1
    """Sequences of one micro-batch."""


class Execution(_Strict):
    """How a step is computed, not what: memory and speed."""

    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Layers whose activations are computed again in the backward pass: none, every second one, all."""
    compile: bool = False
    """Each transformer block through torch.compile."""


class Schedule(_Strict):
    """Warmup, stable, decay. Steps count from 1."""

    total_steps: PositiveInt
    warmup_steps: int = Field(ge=0)
    decay_steps: int = Field(ge=0)
    peak_lr: PositiveFloat
    min_lr_ratio: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        refuse(schedule_problems(self.warmup_steps, self.decay_steps, self.total_steps))
        return self

    @property
    def stable_until(self) -> int:
        """Last step before the decay phase."""
        return self.total_steps - self.decay_steps

    def learning_rate(self, step: int) -> float:
        """Learning rate of one step, from the definition: the oracle of what the optimiser is given.

        The last step would be at the floor; torchtitan adds one virtual stable step so that it stays
        one notch above, and so does this.
        """
        position = step - 1
        if position < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        stable_until = self.total_steps + 1 - self.decay_steps
        if position < stable_until:
            return self.peak_lr
        remaining = 1 - (step - stable_until) / self.decay_steps
        return self.peak_lr * (self.min_lr_ratio + (1 - self.min_lr_ratio) * remaining)


class Optimiser(_Strict):
    """AdamW."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(default=0.1, ge=0)
    max_gradient_norm: PositiveFloat = 1.0


class DecayData(_Strict):
    """The manifest of the decay phase. Its sequences are numbered on from the stable phase's."""

    order: tuple[Path, ...] = Field(min_length=1)
    order_fingerprint: str = Field(min_length=1)


class Data(_Strict):
    """Where the planned order and the tokens are. Paths are what the caller resolved; shards keep their logical names."""

    order: tuple[Path, ...] = Field(min_length=1)
    """Parts of the order, in order; it may go on beyond the first sequence of `decay`."""
    order_fingerprint: str = Field(min_length=1)
    """Identity of the order manifest: goes into each checkpoint, and a checkpoint of another order is refused."""
    decay: DecayData | None = None
    """What the decay phase reads in place of `order`; None: `order` covers the whole run."""
    index: tuple[Path, ...] = Field(min_length=1)
    """Parts of index.parquet, in order."""
    shards: dict[str, Path] = Field(min_length=1)
    dtype: Literal["uint16", "uint32"]
    channels: tuple[str, ...] = Field(min_length=1)


class HfStart(_Strict):
    """A Hugging Face Llama whose weights a run begins with."""

    folder: Path
    """config.json and *.safetensors."""
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """As training/checkpoints/hf_import.py `weights_digest` computes it: part of the run's identity, as the folder is not."""


class Watch(_Strict):
    """What is measured besides each step's losses; decides no weights."""

    layers_every_steps: int = Field(default=0, ge=0)  # 0: never
    heldout_every_steps: int = Field(default=0, ge=0)  # 0: never
    heldout: tuple[Path, ...] = ()
    """Parts of an order over held-out documents."""

    @model_validator(mode="after")
    def _has_sample(self) -> Self:
        if self.heldout_every_steps and not self.heldout:
            raise ValueError("heldout_every_steps needs `heldout`, the order of a held-out sample")
        return self


class TrainRequest(_Strict):
    """One run of the training program."""

    run: str = Field(min_length=1)
    model: ModelShape
    parallelism: Parallelism = Parallelism()
    pipeline: Pipeline = Pipeline()
    execution: Execution = Execution()
    schedule: Schedule
    optimiser: Optimiser = Optimiser()
    global_batch_size: PositiveInt
    local_batch_size: PositiveInt
    """Sequences that one rank works on at once; gradients accumulate up to the global batch."""
    seed: int = Field(ge=0, lt=2**63)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products under FSDP2 or autocast; master weights and sums stay float32."""
    float8: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] | None = None
    """torchao's scaling recipe for the linear layers; None: none of them is in float8."""
    mask_documents: bool = False
    """Attention stays inside each document of a packed sequence."""
    checkpoint_steps: tuple[PositiveInt, ...] = Field(min_length=1)
    rolling_every_steps: PositiveInt | None = None
    """Saved besides, only to resume from: the newest two are kept, beside the output."""
    state_steps: tuple[PositiveInt, ...] | None = None
    """Checkpoints that stay resumable when the run has ended; the others keep their model alone. None: all of them."""
    data: Data
    tokenizer_version: str = Field(min_length=1)
    end_of_document_id: int | None = Field(default=None, ge=0)
    output: Path
    """Filled with checkpoints/ and metrics.jsonl. A run resumes from the last complete checkpoint found here."""
    resume_from: Path | None = None
    """A complete checkpoint folder elsewhere, of the same run or of the stable phase of one that differs in its decay
    alone; used when `output` holds none."""
    branch_from: Path | None = None
    """Output of another run. If it is this run until a decay begins, what it trained is taken over when `output` holds no
    checkpoint; the result is the same without (training/checkpoints/branching.py)."""
    start_from_hf: HfStart | None = None
    """Used at step 0, in place of random initial weights."""
    incidents: IncidentPolicy | None = None
    """When the loss is an incident and what is done about it; None: nothing is watched. May differ between attempts."""
    watch: Watch = Watch()
    threads: PositiveInt = 1  # CPU threads of each rank
    step_timeout_s: PositiveFloat = 600.0
    """A collective that waits longer for a rank ends the run; so does its launcher when no step was recorded for twice as long."""
    report_every_steps: PositiveInt = 10  # messages to the launcher; metrics.jsonl has every step

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        steps = self.checkpoint_steps
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"checkpoint_steps must be ascending and distinct, found {list(steps)}")
        if steps[-1] != self.schedule.total_steps:
            raise ValueError(
                f"the last checkpoint step ({steps[-1]}) must be total_steps ({self.schedule.total_steps}): else the end of training is lost"
            )
        if self.resume_from and self.start_from_hf:
            raise ValueError("resume_from continues a checkpoint and start_from_hf begins at step 0: give one of them")
        if self.data.decay and not self.schedule.decay_steps:
            raise ValueError("data.decay is the manifest of a decay phase, but schedule.decay_steps is 0")
        refuse(layout_problems(self.layout) + fit_problems(self.model.cut, self.layout))
        return self

    @property
    def layout(self) -> Layout:
        """How its ranks divide the work."""
        return Layout(
            **self.parallelism.model_dump(),
            pipeline_schedule=self.pipeline.schedule,
            microbatch_size=self.pipeline.microbatch_size,
            local_batch_size=self.local_batch_size,
            global_batch_size=self.global_batch_size,
            precision=self.precision,
            mask_documents=self.mask_documents,
        )

    @property
    def sequences(self) -> int:
        """Sequences that the whole run reads."""
        return self.global_batch_size * self.schedule.total_steps

    @property
    def decay_from(self) -> int:
        """First sequence of the decay phase."""
        return self.global_batch_size * self.schedule.stable_until

    @property
    def decay_order_fingerprint(self) -> str:
        """Of the manifest that the decay phase reads."""
        return (self.data.decay or self.data).order_fingerprint

    @property
    def lookup(self) -> Path:
        """Folder of what is made from the token index: beside the output, all of which is published."""
        return self.output.with_name(f"{self.output.name}-lookup")

    def tokens_seen(self, step: int) -> int:
        """Target tokens after `step` optimiser steps."""
        return step * self.global_batch_size * self.model.sequence_length

    def portable(self) -> dict[str, Any]:
        """The request without the paths of this machine: what a published checkpoint may say of it."""
        content = self.model_dump(
            mode="json",
            exclude={
                "output": True,
                "watch": {"heldout"},
                "resume_from": True,
                "branch_from": True,
                "start_from_hf": {"folder"},
            },
        )
        content["data"] = {
            "order_fingerprint": self.data.order_fingerprint,
            "decay_order_fingerprint": self.decay_order_fingerprint,
            "shards": sorted(self.data.shards),
            "dtype": self.data.dtype,
            "channels": list(self.data.channels),
        }
        return content

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued: all that decides the weights but the layout."""
        content = self.model_dump(mode="json", exclude={"start_from_hf": {"folder"}})
        free = (
            "parallelism",
            "pipeline",
            "execution",
            "local_batch_size",
            "checkpoint_steps",
            "rolling_every_steps",
            "state_steps",
            "output",
            "resume_from",
            "branch_from",
            "incidents",
            "watch",
            "threads",
            "step_timeout_s",
            "report_every_steps",
        )
        for name in free:
            del content[name]
        content["data"] = {
            "order_fingerprint": self.data.order_fingerprint,
            "decay_order_fingerprint": self.decay_order_fingerprint,
        }
        return content


def load_request(path: Path) -> TrainRequest:
    """Read and validate a request file. Raises RequestError naming the file, the key and the rule."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RequestError(f"request {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"request {path} is not JSON: {error}") from None
    try:
        request = TrainRequest.model_validate(content)
    except ValidationError as error:
        rules = [f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors()]
        raise RequestError(f"request {path} breaks {len(rules)} rule(s): " + "; ".join(rules)) from None
    if not math.isfinite(request.schedule.peak_lr):
        raise RequestError(f"request {path}: schedule.peak_lr must be finite, found {request.schedule.peak_lr}")
    return request
