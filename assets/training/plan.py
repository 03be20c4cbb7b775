"""What a run will cost, before it costs anything: parameters, tokens, FLOPs, memory, time.

Everything is a function of the recipe and the vocabulary, except the time: that is an estimate from
`tokens_per_s_estimate`, or from a throughput we measured on CPU.
"""

from __future__ import annotations

from typing import Any

from assets.training.memory import memory_per_rank, memory_shares
from assets.training.parameters import count_parameters, flops_per_token
from assets.training.run_request import ModelRecipe, TrainingRecipe

CPU_FLOPS_PER_THREAD = 65e9
"""Model FLOPs per second and thread, measured: float32, 3.2 million parameters, sequence length 256,
2 threads of one process on a shared 2-core x86-64 machine, 9,000 tokens per second."""
BYTES_PER_PARAMETER_ON_DISK = 16
"""Weight and AdamW's two averages in the distributed checkpoint, and the weight again in the export."""
START_UP_S = 6.0
"""Imports, process group and model until the first step, measured (warm disk)."""


def compute_plan_of(
    model: ModelRecipe, training: TrainingRecipe, vocabulary: int, used_vocabulary: int
) -> dict[str, Any]:
    """The plan as JSON. `vocabulary` is padded, `used_vocabulary` is the tokenizer's."""
    parameters = count_parameters(model, vocabulary)
    memory = {
        device: max(memory_per_rank(model, training, vocabulary, device), key=lambda rank: rank.total)
        for device in ("cuda", "cpu")
    }
    tokens = training.sequences * model.sequence_length
    flops = flops_per_token(model, parameters) * tokens
    rate = training.tokens_per_s_estimate
    if rate is None:
        rate = CPU_FLOPS_PER_THREAD * training.threads * training.layout.ranks / flops_per_token(model, parameters)
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
        "ranks": training.layout.ranks,
        "memory_bytes_per_rank": memory["cuda"].total,
        "memory_bytes_per_rank_cpu": memory["cpu"].total,
        "memory_worst_moment": memory["cuda"].moment,
        **{f"memory_{name}_bytes": size for name, size in memory_shares(memory["cuda"]).items()},
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
