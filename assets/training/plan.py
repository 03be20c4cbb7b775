"""What a run will cost, before it costs anything: parameters, tokens, FLOPs, memory, time.

Everything is a function of the recipe and the vocabulary, except the time: that is an estimate from
`tokens_per_s_estimate`, or from a throughput we measured on CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assets.training.request import ModelRecipe, TrainingRecipe

CPU_FLOPS_PER_THREAD = 65e9
"""Model FLOPs per second and thread, measured: float32, 3.2 million parameters, sequence length 256,
2 threads of one process on a shared 2-core x86-64 machine, 9,000 tokens per second."""
BYTES_PER_PARAMETER = 16
"""float32 weight, its gradient, and AdamW's two averages."""
BYTES_PER_PARAMETER_ON_DISK = 16
"""Weight and AdamW's two averages in the distributed checkpoint, and the weight again in the export."""
LOGIT_COPIES = 3
"""Logits, their log-softmax, and the gradient of the logits are alive together."""
START_UP_S = 6.0
"""Imports, process group and model until the first step, measured (warm disk)."""


@dataclass(frozen=True)
class Parameters:
    """Parameter counts by place. Embedding and output are not tied."""

    embedding: int
    blocks: int
    output: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.blocks + self.output

    @property
    def multiplied(self) -> int:
        """Parameters that take part in a matrix product for every token: all but the embedding look-up."""
        return self.blocks + self.output


def count_parameters(model: ModelRecipe, vocabulary: int) -> Parameters:
    """Parameters of the model; `vocabulary` is the padded size."""
    head = model.dim // model.n_heads
    attention = 2 * model.dim * model.dim + 2 * model.dim * head * model.n_kv_heads
    block = attention + 3 * model.dim * model.ffn_dim + 2 * model.dim
    rows = vocabulary * model.dim
    return Parameters(embedding=rows, blocks=model.n_layers * block, output=rows + model.dim)


def flops_per_token(model: ModelRecipe, parameters: Parameters) -> int:
    """Forward and backward: 6 per multiplied parameter, and attention's 12 * layers * width * length (PaLM, app. B)."""
    return 6 * parameters.multiplied + 12 * model.n_layers * model.dim * model.sequence_length


def memory_bytes_per_rank(model: ModelRecipe, training: TrainingRecipe, vocabulary: int) -> int:
    """State, logits and activations of one rank without activation checkpointing: an estimate, for planning."""
    parameters = count_parameters(model, vocabulary)
    shards = training.dp_shard * training.tp * training.pp
    state = BYTES_PER_PARAMETER * parameters.total // shards
    tokens = training.local_batch_size * model.sequence_length
    width = 4 if training.precision == "float32" else 2
    logits = LOGIT_COPIES * 4 * tokens * vocabulary // training.tp
    # Saved for the backward pass in each block: norms, q/k/v, attention output, residuals; and four SwiGLU tensors.
    per_token = 10 * model.dim + 4 * model.ffn_dim
    activations = width * tokens * per_token * model.n_layers // (training.tp * training.pp)
    return state + logits + activations


def compute_plan_of(
    model: ModelRecipe, training: TrainingRecipe, vocabulary: int, used_vocabulary: int
) -> dict[str, Any]:
    """The plan as JSON. `vocabulary` is padded, `used_vocabulary` is the tokenizer's."""
    parameters = count_parameters(model, vocabulary)
    tokens = training.sequences * model.sequence_length
    flops = flops_per_token(model, parameters) * tokens
    rate = training.tokens_per_s_estimate
    if rate is None:
        rate = CPU_FLOPS_PER_THREAD * training.threads * training.ranks / flops_per_token(model, parameters)
    return {
        "parameters": parameters.total,
        "parameters_embedding": parameters.embedding,
        "parameters_blocks": parameters.blocks,
        "parameters_output": parameters.output,
        "vocabulary": used_vocabulary,
        "vocabulary_padded": vocabulary,
        "ffn_dim": model.ffn_dim,
        "steps": training.total_steps,
        "sequences": training.sequences,
        "tokens": tokens,
        "tokens_per_step": training.global_batch_size * model.sequence_length,
        "tokens_per_parameter": round(tokens / parameters.total, 3),
        "flops_6nd": 6 * parameters.total * tokens,
        "flops": flops,
        "ranks": training.ranks,
        "memory_bytes_per_rank": memory_bytes_per_rank(model, training, vocabulary),
        "tokens_per_s_estimate": round(rate, 1),
        "tokens_per_s_source": "recipe" if training.tokens_per_s_estimate else "measured CPU constant",
        "seconds_estimate": round(START_UP_S + tokens / rate, 1),
        "checkpoint_steps": training.checkpoint_steps,
        "checkpoint_bytes": len(training.checkpoint_steps) * parameters.total * BYTES_PER_PARAMETER_ON_DISK,
    }


def learning_rates(training: TrainingRecipe) -> list[float]:
    """The planned learning rate of each step, for the plot; the training program computes its own."""
    stable_until = training.total_steps + 1 - training.decay_steps
    rates = []
    for step in range(1, training.total_steps + 1):
        if step <= training.warmup_steps:
            share = step / training.warmup_steps
        elif step <= stable_until:
            share = 1.0
        else:
            left = 1 - (step - stable_until) / training.decay_steps
            share = training.min_lr_ratio + (1 - training.min_lr_ratio) * left
        rates.append(training.peak_lr * share)
    return rates
