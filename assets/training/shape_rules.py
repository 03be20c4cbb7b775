"""What a shape and a layout must be, and what they had better be, each with its reason.

A broken rule of `shape_problems` cannot train: the training program would refuse it, later and on the rented machine.
The rules of `shape_advice` cost speed or close a way: the model trains, and the plan says what it gives up.
"""

from __future__ import annotations

from dataclasses import dataclass

from assets.training.pipeline import END_LAYERS
from assets.training.run_request import VOCABULARY_MULTIPLE, ModelRecipe, TrainingRecipe
from training.contract.rules import TP_DEGREES, Shape, fit_problems

TILE = 128
"""Widths that are multiples of it fill the tiles of matrix kernels."""
FAST_HEADS = (64, 128)
"""Head dimensions that flash attention has its best kernels for (FlashAttention-2 and 3 are tuned for them)."""
MAX_PIPELINE = 32


@dataclass(frozen=True)
class Advice:
    """One rule of good shape; `kept` says whether the model keeps it."""

    rule: str
    found: str
    kept: bool
    why: str


def shape_problems(model: ModelRecipe, training: TrainingRecipe, vocabulary: int) -> list[str]:
    """Why this layout cannot train this shape; empty if it can. `vocabulary` is the padded size."""
    shape = Shape(model.n_layers, model.n_heads, model.n_kv_heads, model.sequence_length, vocabulary)
    return fit_problems(shape, training.layout)


def shape_advice(model: ModelRecipe, vocabulary: int) -> list[Advice]:
    """The rules of good shape, kept or not. `vocabulary` is the tokenizer's size, before padding."""
    head = model.dim // model.n_heads
    stages = even_pipelines(model.n_layers)
    padded = VOCABULARY_MULTIPLE * -(-vocabulary // VOCABULARY_MULTIPLE)
    tp = max(degree for degree in TP_DEGREES if model.n_heads % degree == 0 and model.n_kv_heads % degree == 0)
    return [
        Advice(
            f"n_layers + {END_LAYERS} has many divisors",
            f"{model.n_layers} + {END_LAYERS} = {model.n_layers + END_LAYERS}: even pipelines of {_listed(stages)}",
            len(stages) >= 3,
            f"a pipeline is as slow as its fullest stage, and the embedding and the output weigh like a layer each (hence + "
            f"{END_LAYERS}): 126 layers make even pipelines of 2, 4, 8, 16 and 32 stages, 32 layers only of 2",
        ),
        Advice(
            "n_heads is a multiple of 8",
            str(model.n_heads),
            model.n_heads % 8 == 0,
            "tensor parallel gives each rank whole heads, and a node has 8 GPUs",
        ),
        Advice(
            "n_kv_heads is 8 or a multiple",
            f"{model.n_kv_heads}: tp up to {tp}",
            model.n_kv_heads % 8 == 0,
            "key and value heads are divided like the others: fewer than 8 limit tp to their number",
        ),
        Advice(
            f"the head dimension is {' or '.join(map(str, FAST_HEADS))}",
            f"dim / n_heads = {head}",
            head in FAST_HEADS,
            "flash attention pads other sizes up to the next of its kernels",
        ),
        Advice(
            f"dim and the SwiGLU width are multiples of {TILE}",
            f"{model.dim} and {model.ffn_dim}",
            model.dim % TILE == 0 and model.ffn_dim % TILE == 0,
            "matrix kernels work in tiles: the rest of a tile is computed and thrown away",
        ),
        Advice(
            f"the vocabulary is padded to a multiple of {VOCABULARY_MULTIPLE}",
            f"{vocabulary} -> {padded}",
            True,
            "done for every model, whatever its layout: tiles again, and any tp divides it, so that the weights of one run "
            "can be continued on every layout. Rows above the tokenizer's ids are never read",
        ),
    ]


def even_pipelines(n_layers: int) -> list[int]:
    """Numbers of stages, up to 32, that all get the same weight."""
    return [n for n in range(2, min(MAX_PIPELINE, n_layers) + 1) if (n_layers + END_LAYERS) % n == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "no number of stages"
