"""How many parameters a shape has, and what a token costs."""

from __future__ import annotations

from dataclasses import dataclass

from assets.training.run_request import ModelRecipe


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


def layer_parameters(model: ModelRecipe) -> int:
    """Of one transformer block."""
    head = model.dim // model.n_heads
    attention = 2 * model.dim * model.dim + 2 * model.dim * head * model.n_kv_heads
    return attention + 3 * model.dim * model.ffn_dim + 2 * model.dim


def count_parameters(model: ModelRecipe, vocabulary: int) -> Parameters:
    """Parameters of the model; `vocabulary` is the padded size."""
    rows = vocabulary * model.dim
    return Parameters(embedding=rows, blocks=model.n_layers * layer_parameters(model), output=rows + model.dim)


def flops_per_token(model: ModelRecipe, parameters: Parameters) -> int:
    """Forward and backward: 6 per multiplied parameter, and attention's 12 * layers * width * length (PaLM, app. B)."""
    return 6 * parameters.multiplied + 12 * model.n_layers * model.dim * model.sequence_length
